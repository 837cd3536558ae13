// Deadlines that move: rctx_move_deadline(), rctx_with_idle(), rctx_touch().
//
// On a clock that only the test moves: earlier, later, past, never; above and below others. Then against the driver, the
// library's thread and the embedder's, with the core yielding at its atomics: a deadline put off never hits.
#include "support/check.h"
#include "support/counting.h"
#include "support/fake_time.h"
#include "support/seed.h"
#include "support/threads.h"
#include "support/watchdog.h"

#include "core/platform.h"

#include <rctx/inspect.h>

static void open_fake(void) {
  watchdog(60);
  fake_open();
}

TestSuite(move, .init = open_fake, .fini = fake_close, .timeout = 120);

static const struct rctx_cause mine = {-ETIME, RCTX_ORIGIN_USER, "mine", NULL, 0, NULL, NULL};
static const struct rctx_cause hand = {-EPIPE, RCTX_ORIGIN_USER, "by hand", NULL, 0, NULL, NULL};

static rctx *movable(const rctx *parent, int64_t deadline_ns) {
  return rctx_derive(parent, &(struct rctx_spec){.movable = true, .deadline_ns = deadline_ns});
}

static int64_t shown(const rctx *ctx) {
  int64_t deadline_ns;
  return rctx_deadline(ctx, &deadline_ns) ? deadline_ns : -1;
}

static size_t timers(void) { return fake_stats().timers; }

// Live until just before, ended a tick after.
static void ends_at(const rctx *ctx, int64_t deadline_ns) {
  cr_assert_eq(shown(ctx), deadline_ns);
  fake_reach(deadline_ns - 1);
  cr_assert_eq(rctx_err(ctx), 0, "early");
  cr_assert_leq(rctx_next(fake.manager, fake_now()), deadline_ns + FAKE_TICK, "the next wakeup is too late");
  fake_pass(deadline_ns);
  cr_assert_eq(rctx_err(ctx), -ETIMEDOUT, "late");
}

// ---- moving ----------------------------------------------------------------------------------------------------------

Test(move, earlier) {
  rctx *ctx = movable(fake_root(), fake_now() + SECOND);
  int64_t to_ns = fake_now() + 10 * MS;
  cr_assert_eq(rctx_move_deadline(ctx, to_ns), 0);
  ends_at(ctx, to_ns);
  rctx_end(ctx);
}

Test(move, later) {
  rctx *ctx = movable(fake_root(), fake_now() + 10 * MS);
  int64_t to_ns = fake_now() + SECOND;
  cr_assert_eq(rctx_move_deadline(ctx, to_ns), 0);
  ends_at(ctx, to_ns);
  rctx_end(ctx);
}

Test(move, again_and_again_by_chance) {
  struct rng rng;
  rng_init(&rng, seed_get());
  for (int round = 0; round < 300; round++) {
    rctx *ctx = movable(fake_root(), rng_one_in(&rng, 2) ? 0 : fake_now() + rng_between(&rng, MS, 90 * MS));
    int64_t to_ns = 0;
    for (int i = 0; i < 20; i++) {
      to_ns = fake_now() + (rng_one_in(&rng, 8) ? 3600 * SECOND : rng_between(&rng, MS, 200 * MS));
      cr_assert_eq(rctx_move_deadline(ctx, to_ns), 0);
      fake_reach(rng_between(&rng, fake_now(), to_ns < fake_now() + 50 * MS ? to_ns - 1 : fake_now() + 50 * MS));
      cr_assert_eq(rctx_err(ctx), 0, "early");
    }
    ends_at(ctx, to_ns);
    rctx_end(ctx);
  }
  cr_assert_eq(timers(), 0);
}

Test(move, into_the_past_or_to_now_it_has_ended_on_return) {
  static const int64_t by[] = {0, -1, -SECOND};
  for (size_t i = 0; i < sizeof by / sizeof *by; i++) {
    rctx *ctx = movable(fake_root(), fake_now() + SECOND), *below = rctx_with_cancel(ctx);
    cr_assert_eq(rctx_move_deadline(ctx, fake_now() + by[i]), -ETIMEDOUT);
    cr_assert_eq(rctx_err(below), -ETIMEDOUT);
    cr_assert_eq(timers(), 0);
    cr_assert_eq(rctx_move_deadline(ctx, fake_now() + SECOND), -ETIMEDOUT, "what has fired is not taken back");
    rctx_end(below);
    rctx_end(ctx);
  }
  rctx *ctx = movable(fake_root(), 0);
  cr_assert_eq(rctx_move_deadline(ctx, INT64_MIN), -ETIMEDOUT);
  rctx_end(ctx);
}

// The time that ended it is the one it was moved to: deadlines below that were to come before the old one have not come.
Test(move, into_the_past_does_not_pass_the_deadlines_below) {
  struct rctx_why why;
  rctx *ctx = movable(fake_root(), fake_now() + SECOND);
  rctx *below = rctx_with_deadline_cause(ctx, fake_now() + 500 * MS, &mine);
  int64_t to_ns = fake_now() - MS;
  cr_assert_eq(rctx_move_deadline(ctx, to_ns), -ETIMEDOUT);
  cr_assert_eq(shown(ctx), to_ns);
  cr_assert_eq(rctx_why(below, &why), -ETIMEDOUT);
  cr_assert_eq(why.origin, RCTX_ORIGIN_PARENT_DEADLINE, "its own deadline was half a second away");
  cr_assert_eq(why.levels_up, 1);
  cr_assert_neq(rctx_cause(below), &mine);
  rctx_end(below);
  rctx_end(ctx);
}

static void end_it(const rctx *ctx, void *arg) {
  (void)ctx;
  rctx_end(arg);
}

Test(move, into_the_past_where_a_callback_ends_the_handle) {
  struct rctx_after after = {0};
  rctx *ctx = movable(fake_root(), fake_now() + SECOND);
  cr_assert_eq(rctx_after_inline(ctx, &after, RCTX_ON_ENDED_TELL, end_it, ctx), RCTX_REGISTERED);
  cr_assert_eq(rctx_move_deadline(ctx, fake_now()), -ETIMEDOUT);
  cr_assert_eq(fake_stats().contexts, 0);
}

Test(move, to_never_and_back) {
  rctx *ctx = movable(fake_root(), fake_now() + 10 * MS);
  cr_assert_eq(rctx_move_deadline(ctx, INT64_MAX), 0);
  cr_assert_eq(shown(ctx), -1);
  cr_assert_eq(rctx_remaining(ctx), INT64_MAX);
  fake_go(3600 * SECOND);
  cr_assert_eq(rctx_err(ctx), 0);
  int64_t to_ns = fake_now() + 10 * MS;
  cr_assert_eq(rctx_move_deadline(ctx, to_ns), 0);
  ends_at(ctx, to_ns);
  rctx_end(ctx);
}

Test(move, begins_with_none_unless_given_one) {
  rctx *ctx = movable(fake_root(), 0);
  cr_assert_eq(shown(ctx), -1);
  cr_assert_eq(rctx_remaining(ctx), INT64_MAX);
  fake_go(3600 * SECOND);
  cr_assert_eq(rctx_err(ctx), 0);
  rctx_end(ctx);
}

Test(move, with_a_cause_of_its_own) {
  rctx *ctx = rctx_derive(fake_root(), &(struct rctx_spec){.movable = true, .timeout_ns = MS, .deadline_cause = &mine});
  cr_assert_eq(rctx_move_deadline(ctx, fake_now() + 10 * MS), 0);
  fake_pass(fake_now() + 10 * MS);
  cr_assert_eq(rctx_err(ctx), -ETIME);
  cr_assert_eq(rctx_cause(ctx), &mine);
  cr_assert_eq(rctx_move_deadline(ctx, fake_now() + SECOND), -ETIME);
  rctx_end(ctx);
}

Test(move, only_what_is_movable) {
  rctx *plain = rctx_with_cancel(fake_root()), *timed = rctx_with_timeout(fake_root(), SECOND);
  rctx *above = movable(fake_root(), 0), *below = rctx_with_timeout(above, SECOND);
  cr_assert_eq(rctx_move_deadline(plain, fake_now()), -EINVAL);
  cr_assert_eq(rctx_move_deadline(timed, fake_now()), -EINVAL);
  cr_assert_eq(rctx_move_deadline(below, fake_now()), -EINVAL, "that is not inherited");
  cr_assert_eq(rctx_err(plain), 0);
  cr_assert_eq(rctx_err(timed), 0);
  cr_assert_eq(rctx_err(below), 0);
  rctx_end(below);
  rctx_end(above);
  rctx_end(timed);
  rctx_end(plain);
}

Test(move, an_ended_one_tells_its_error) {
  rctx *ctx = movable(fake_root(), fake_now() + SECOND);
  rctx_cancel_cause(ctx, &hand);
  cr_assert_eq(rctx_move_deadline(ctx, fake_now() + 2 * SECOND), -EPIPE);
  cr_assert_eq(timers(), 0);
  rctx_end(ctx);
}

// ---- above and below -------------------------------------------------------------------------------------------------

// A fixed deadline above is earlier: at first there seems to be nothing for a timer to do.
Test(move, earlier_below_an_earlier_fixed_deadline) {
  rctx *total = rctx_with_timeout(fake_root(), SECOND);
  static const int64_t first[] = {0, 2 * SECOND, SECOND};
  for (size_t i = 0; i < sizeof first / sizeof *first; i++) {
    rctx *ctx = movable(total, first[i] ? fake_now() + first[i] : 0);
    int64_t to_ns = fake_now() + 10 * MS;
    cr_assert_eq(rctx_move_deadline(ctx, to_ns), 0);
    ends_at(ctx, to_ns);
    rctx_end(ctx);
  }
  cr_assert_eq(rctx_err(total), 0);
  rctx_end(total);
}

Test(move, never_past_an_ancestors) {
  int64_t total_ns = fake_now() + 50 * MS;
  rctx *total = rctx_with_deadline_cause(fake_root(), total_ns, &mine), *between = rctx_with_cancel(total);
  rctx *ctx = movable(between, fake_now() + 10 * MS), *below = rctx_with_cancel(ctx);
  cr_assert_eq(rctx_move_deadline(ctx, fake_now() + SECOND), 0);
  cr_assert_eq(shown(ctx), total_ns);
  cr_assert_eq(shown(below), total_ns);
  fake_reach(total_ns - 1);
  cr_assert_eq(rctx_err(ctx), 0);
  fake_pass(total_ns);
  cr_assert_eq(rctx_err(ctx), -ETIME);
  cr_assert_eq(rctx_cause(below), &mine, "the ancestor's");
  rctx_end(below);
  rctx_end(ctx);
  rctx_end(between);
  rctx_end(total);
}

Test(move, what_is_below_shows_it_and_keeps_its_own) {
  int64_t now_ns = fake_now();
  rctx *ctx = movable(fake_root(), now_ns + 10 * MS), *mid = rctx_with_cancel(ctx);
  rctx *later = rctx_with_deadline_cause(mid, now_ns + 100 * MS, &mine), *leaf = rctx_with_cancel(later);
  rctx *sooner = rctx_with_deadline(mid, now_ns + 5 * MS);
  cr_assert_eq(shown(leaf), now_ns + 10 * MS);
  cr_assert_eq(shown(sooner), now_ns + 5 * MS);
  cr_assert_eq(rctx_remaining(leaf), 10 * MS);
  cr_assert_eq(rctx_move_deadline(ctx, now_ns + SECOND), 0);
  cr_assert_eq(shown(mid), now_ns + SECOND);
  cr_assert_eq(shown(leaf), now_ns + 100 * MS, "its own was later and counts now");
  fake_pass(now_ns + 5 * MS);
  cr_assert_eq(rctx_err(sooner), -ETIMEDOUT);
  fake_pass(now_ns + 100 * MS);
  cr_assert_eq(rctx_err(leaf), -ETIME);
  cr_assert_eq(rctx_cause(leaf), &mine);
  cr_assert_eq(rctx_err(mid), 0);
  rctx_end(sooner);
  rctx_end(leaf);
  rctx_end(later);
  rctx_end(mid);
  rctx_end(ctx);
}

Test(move, a_later_own_deadline_below_is_not_blamed_early__CTX_7) {
  rctx *ctx = movable(fake_root(), fake_now() + 10 * MS);
  rctx *later = rctx_with_deadline_cause(ctx, fake_now() + 100 * MS, &mine);
  fake_pass(fake_now() + 10 * MS);
  cr_assert_eq(rctx_err(later), -ETIMEDOUT);
  cr_assert_neq(rctx_cause(later), &mine);
  rctx_end(later);
  rctx_end(ctx);
}

Test(move, movable_below_movable) {
  int64_t now_ns = fake_now();
  rctx *outer = movable(fake_root(), now_ns + 10 * MS), *inner = movable(outer, now_ns + 20 * MS);
  rctx *leaf = rctx_with_cancel(inner);
  cr_assert_eq(shown(leaf), now_ns + 10 * MS);
  cr_assert_eq(rctx_move_deadline(outer, now_ns + 40 * MS), 0);
  cr_assert_eq(shown(leaf), now_ns + 20 * MS);
  cr_assert_eq(rctx_move_deadline(inner, now_ns + SECOND), 0);
  cr_assert_eq(shown(leaf), now_ns + 40 * MS);
  fake_reach(now_ns + 40 * MS - 1);
  cr_assert_eq(rctx_err(leaf), 0);
  fake_pass(now_ns + 40 * MS);
  cr_assert_eq(rctx_err(leaf), -ETIMEDOUT);
  rctx_end(leaf);
  rctx_end(inner);
  rctx_end(outer);
}

Test(move, deadlines_of_another_clock_are_not_mixed_in) {
  rctx *here = rctx_with_deadline(fake_root(), fake_now() + 10 * MS);
  rctx *there = rctx_derive(here, &(struct rctx_spec){.manager = rctx_manager_default(), .movable = true});
  rctx *back = rctx_derive(there, &(struct rctx_spec){.manager = fake.manager, .movable = true});
  cr_assert_eq(shown(there), -1);
  cr_assert_eq(shown(back), -1);
  int64_t far_ns = rctx_now() + 3600 * SECOND;
  cr_assert_eq(rctx_move_deadline(there, far_ns), 0);
  cr_assert_eq(shown(there), far_ns);
  cr_assert_eq(shown(back), -1);
  fake_pass(fake_now() + 10 * MS);
  cr_assert_eq(rctx_err(back), -ETIMEDOUT);
  rctx_end(back);
  rctx_end(there);
  rctx_end(here);
}

Test(move, an_earlier_one_kicks_the_embedder) {
  rctx *ctx = movable(fake_root(), fake_now() + SECOND);
  rctx_next(fake.manager, fake_now());
  unsigned kicks = atomic_load(&fake.kicks);
  cr_assert_eq(rctx_move_deadline(ctx, fake_now() + 2 * SECOND), 0);
  cr_assert_eq(atomic_load(&fake.kicks), kicks, "later: nobody has to wake up");
  cr_assert_eq(rctx_move_deadline(ctx, fake_now() + 10 * MS), 0);
  cr_assert_eq(atomic_load(&fake.kicks), kicks + 1U);
  rctx_end(ctx);
}

// ---- idle ------------------------------------------------------------------------------------------------------------

Test(move, idle_ends_after_the_last_touch_and_never_earlier) {
  struct rng rng;
  rng_init(&rng, seed_get());
  for (int round = 0; round < 100; round++) {
    rctx *ctx = rctx_with_idle(fake_root(), 10 * MS);
    int64_t last_ns = fake_now();
    for (int i = 0; i < 20; i++) {
      fake_go(rng_between(&rng, 0, 10 * MS - 1));
      cr_assert_eq(rctx_err(ctx), 0, "early");
      if (fake_now() >= last_ns + 10 * MS) break;
      if (i & 1) {
        rctx_touch(ctx);
      } else {
        rctx_touch_at(ctx, fake_now());
      }
      last_ns = fake_now();
    }
    ends_at(ctx, last_ns + 10 * MS);
    cr_assert_str_eq(rctx_cause(ctx)->text, "idle: no progress");
    cr_assert_eq(rctx_cause(ctx)->origin, RCTX_ORIGIN_DEADLINE);
    rctx_touch(ctx);
    cr_assert_eq(rctx_err(ctx), -ETIMEDOUT);
    rctx_end(ctx);
  }
}

Test(move, an_older_touch_does_not_take_a_newer_one_back) {
  rctx *ctx = rctx_with_idle(fake_root(), 10 * MS);
  int64_t began_ns = fake_now();
  rctx_touch_at(ctx, began_ns + 8 * MS);
  rctx_touch_at(ctx, began_ns + 3 * MS);
  rctx_touch_at(ctx, INT64_MIN);
  ends_at(ctx, began_ns + 18 * MS);
  rctx_end(ctx);
}

Test(move, idle_beside_a_total_deadline) {
  int64_t total_ns = fake_now() + 50 * MS;
  rctx *total = rctx_with_deadline_cause(fake_root(), total_ns, &mine);
  rctx *ctx = rctx_with_idle(total, 10 * MS), *idle = rctx_with_idle(total, 10 * MS);
  int64_t touched_ns = fake_now();
  while (fake_now() + 5 * MS < total_ns) {
    rctx_touch(ctx);
    touched_ns = fake_now();
    cr_assert_eq(shown(ctx), touched_ns + 10 * MS < total_ns ? touched_ns + 10 * MS : total_ns);
    fake_go(5 * MS);
    cr_assert_eq(rctx_err(ctx), 0);
  }
  cr_assert_eq(rctx_err(idle), -ETIMEDOUT);
  cr_assert_eq(rctx_err(total), 0);
  rctx_touch(ctx);
  fake_pass(total_ns);
  cr_assert_eq(rctx_err(ctx), -ETIME, "touched, but the total is up");
  cr_assert_eq(rctx_cause(ctx), &mine);
  rctx_end(idle);
  rctx_end(ctx);
  rctx_end(total);
}

Test(move, idle_longer_than_the_total) {
  rctx *total = rctx_with_timeout(fake_root(), 10 * MS), *ctx = rctx_with_idle(total, SECOND);
  rctx_touch(ctx);
  fake_pass(fake_now() + 10 * MS);
  cr_assert_eq(rctx_err(ctx), -ETIMEDOUT);
  rctx_end(ctx);
  rctx_end(total);
}

Test(move, idle_of_nothing_and_of_for_ever) {
  static const int64_t none[] = {0, -1, INT64_MIN};
  for (size_t i = 0; i < sizeof none / sizeof *none; i++) {
    rctx *ctx = rctx_with_idle(fake_root(), none[i]);
    cr_assert_eq(rctx_err(ctx), -ETIMEDOUT);
    rctx_touch(ctx);
    rctx_end(ctx);
  }
  rctx *ever = rctx_with_idle(fake_root(), INT64_MAX);
  rctx_touch(ever);
  rctx_touch_at(ever, INT64_MAX);
  fake_go(3600 * SECOND);
  cr_assert_eq(rctx_err(ever), 0);
  rctx_end(ever);
}

Test(move, touching_what_is_not_idles_does_nothing) {
  rctx *ctx = movable(fake_root(), fake_now() + 10 * MS), *plain = rctx_with_cancel(fake_root());
  int64_t deadline_ns = shown(ctx);
  rctx_touch(ctx);
  rctx_touch(plain);
  rctx_touch_at(ctx, fake_now() + SECOND);
  cr_assert_eq(shown(ctx), deadline_ns);
  cr_assert_eq(shown(plain), -1);
  rctx_end(plain);
  rctx_end(ctx);
}

// One timer serves any number of touches, and it fires once for each idle_ns at most.
Test(move, touches_cost_no_timer) {
  rctx *ctx = rctx_with_idle(fake_root(), 10 * MS);
  for (int i = 0; i < 10000; i++) {
    rctx_touch(ctx);
    cr_assert_eq(fake_go(MS), 0);
  }
  cr_assert_eq(rctx_err(ctx), 0);
  cr_assert_eq(timers(), 1);
  rctx_end(ctx);
  cr_assert_eq(timers(), 0);
}

// ---- memory ----------------------------------------------------------------------------------------------------------

static void counting_start(void) {
  watchdog(60);
  counting_open(true);
}

TestSuite(move_memory, .init = counting_start, .fini = counting_close, .timeout = 120);

Test(move_memory, runs_out_anywhere_and_leaves_nothing_behind) {
  bool refused = true;
  for (int64_t at = 1; refused; at++) {
    counting_fail_at(at);
    rctx *ctx = rctx_with_idle(counting_root(), 3600 * SECOND);
    refused = counting_fail_at(0);
    cr_assert_eq(rctx_err(ctx), refused ? -ENOMEM : 0, "request %d", (int)at);
    rctx_touch(ctx);
    cr_assert_eq(rctx_move_deadline(ctx, rctx_now_of(ctx) + 3600 * SECOND), refused ? -ENOMEM : 0);
    rctx_end(ctx);
  }
}

// ---- races -----------------------------------------------------------------------------------------------------------

enum { CHAOS_ONE_IN = 3 };

#if defined(__SANITIZE_THREAD__) || CHECK_LEAKS
enum { SLOWER = 4 };
#else
enum { SLOWER = 1 };
#endif

static void chaos_on(void) {
  atomic_store(&rctx__chaos_seed, seed_get());
  atomic_store(&rctx__chaos_mask, CHAOS_ONE_IN);
}
static void chaos_off(void) { atomic_store(&rctx__chaos_mask, 0); }

static struct {
  struct threads threads;
  rctx *ctx, *below;
  int64_t due_ns, to_ns;
  int answer;
  int put_off, fired;
} race;

// At the very tick of the old deadline one thread expires, another moves it later: either answer, and never both.
static void move_at_the_tick(unsigned index, void *arg) {
  (void)arg;
  for (int round = 0; round < 4000 / SLOWER; round++) {
    if (index == 0) {
      race.ctx = movable(fake_root(), fake_now() + 2 * FAKE_TICK);
      race.below = rctx_with_cancel(race.ctx);
      race.due_ns = fake_now() + 2 * FAKE_TICK;
      race.to_ns = race.due_ns + SECOND;
    }
    threads_meet(&race.threads);
    if (index == 0) {
      rctx_advance(fake.manager, race.due_ns + FAKE_TICK, 0);
    } else {
      race.answer = rctx_move_deadline(race.ctx, race.to_ns);
      if (race.answer) cr_assert_eq(rctx_err(race.below), race.answer, "ended with all below on return");
    }
    threads_meet(&race.threads);
    if (index == 0) {
      cr_assert_eq(rctx_err(race.ctx), race.answer, "round %d: it said %d", round, race.answer);
      race.answer ? race.fired++ : race.put_off++;
      if (race.answer) cr_assert_eq(race.answer, -ETIMEDOUT);
      fake_set(race.due_ns + FAKE_TICK);
      if (race.answer == 0) ends_at(race.ctx, race.to_ns);
      rctx_end(race.below);
      rctx_end(race.ctx);
    }
    threads_meet(&race.threads);
  }
}

Test(move, while_it_expires_either_answer_and_never_both) {
  chaos_on();
  threads_start(&race.threads, 2, move_at_the_tick, NULL);
  threads_join(&race.threads);
  chaos_off();
  cr_log_info("%d put off, %d fired", race.put_off, race.fired);
  cr_assert_gt(race.put_off, 0);
}

// The library's thread drives; the deadline is always a little ahead and put off in time, thousands of times: what said 0
// never ends before the time it was given.
Test(move, a_late_timer_never_hits, .fini = nothing_left_by_default) {
  chaos_on();
  int64_t stop_ns = rctx_now() + 3 * SECOND;
  unsigned moves = 0, ended = 0;
  while (rctx_now() < stop_ns && moves < 200000) {
    rctx *ctx = rctx_derive(rctx_background(), &(struct rctx_spec){.timeout_ns = 2 * MS, .movable = true});
    int64_t given_ns = shown(ctx);
    for (;;) {
      int64_t to_ns = rctx_now() + MS + (int64_t)(moves % 7) * (MS / 4);
      int err = rctx_move_deadline(ctx, to_ns);
      moves++;
      if (err) {
        cr_assert_eq(err, -ETIMEDOUT);
        cr_assert_geq(rctx_now(), given_ns < to_ns ? given_ns : to_ns, "before its time");
        break;
      }
      given_ns = to_ns;
      while (rctx_now() < given_ns - MS / 2) {
        bool was_live = rctx_err(ctx) == 0;
        if (!was_live) cr_assert_geq(rctx_now(), given_ns, "ended %" PRId64 " ns early", given_ns - rctx_now());
      }
      if (moves % 500 == 0) break;
    }
    ended++;
    rctx_end(ctx);
  }
  chaos_off();
  cr_log_info("%u moves, %u contexts", moves, ended);
  cr_assert_gt(moves, 100);
}

// Four threads touch one context that the library's thread watches.
enum { TOUCHERS = 4 };
static struct {
  _Atomic int64_t began_ns, before_that_ns; // of its touch under way or last, and of the one before
} touchers[TOUCHERS];

static int64_t oldest_touch(void) {
  int64_t oldest_ns = INT64_MAX;
  for (int i = 0; i < TOUCHERS; i++) {
    if (touchers[i].began_ns < oldest_ns) oldest_ns = touchers[i].began_ns;
    if (touchers[i].before_that_ns < oldest_ns) oldest_ns = touchers[i].before_that_ns;
  }
  return oldest_ns;
}

// What is there after a touch is its time, or a later one, or that of another that overlapped it.
static void touch_for_a_while(unsigned index, void *arg) {
  int64_t until_ns = *(const int64_t *)arg;
  while (rctx_now() < until_ns) {
    touchers[index].before_that_ns = touchers[index].began_ns;
    touchers[index].began_ns = rctx_now();
    int64_t oldest_ns = oldest_touch();
    rctx_touch(race.ctx);
    cr_assert_geq(shown(race.ctx), oldest_ns + SECOND, "a touch was lost to one that was over");
  }
}

Test(move, touched_from_several_threads, .fini = nothing_left_by_default) {
  chaos_on();
  race.ctx = rctx_with_idle(rctx_background(), SECOND);
  int64_t until_ns = rctx_now() + SECOND + 500 * MS;
  for (int i = 0; i < TOUCHERS; i++) touchers[i].began_ns = touchers[i].before_that_ns = rctx_now();
  threads_run(TOUCHERS, touch_for_a_while, &until_ns);
  chaos_off();
  int64_t last_ns = shown(race.ctx) - SECOND;
  cr_assert_geq(last_ns, until_ns - SECOND);
  cr_assert_eq(rctx_wait(race.ctx, INT64_MAX), -ETIMEDOUT);
  cr_assert_geq(rctx_now(), last_ns + SECOND, "early");
  rctx_end(race.ctx);
}

// Moves and touches by the owner race with a cancel by another thread and the embedder's driving.
static void all_at_once(unsigned index, void *arg) {
  (void)arg;
  for (int round = 0; round < 2000 / SLOWER; round++) {
    if (index == 0) race.ctx = rctx_with_idle(fake_root(), 2 * FAKE_TICK);
    threads_meet(&race.threads);
    for (int i = 0; i < 4 && index == 0; i++) fake_go(FAKE_TICK / 2);
    if (index == 1) rctx_touch_at(race.ctx, fake_now());
    if (index == 1) rctx_move_deadline(race.ctx, fake_now() + (round % 4) * FAKE_TICK);
    if (index == 2 && round % 3 == 0) rctx_cancel_cause(race.ctx, &hand);
    if (index == 2) rctx_touch(race.ctx);
    threads_meet(&race.threads);
    if (index == 0) {
      fake_go(SECOND);
      int err = rctx_err(race.ctx);
      cr_assert(err == -ETIMEDOUT || err == -EPIPE, "err %d", err);
      cr_assert_eq(timers(), 0);
      rctx_end(race.ctx);
    }
    threads_meet(&race.threads);
  }
}

Test(move, moves_touches_cancels_and_expiry_at_once) {
  chaos_on();
  threads_start(&race.threads, 3, all_at_once, NULL);
  threads_join(&race.threads);
  chaos_off();
}
