// The scenarios S19 to S26: what went wrong in other libraries' timers, and must not here.
//
// On a clock that the test moves, so that "never early" and "on its tick" are exact; the races on memory that is fenced. As
// scenarios_test.c otherwise.
#include "support/fake_time.h"
#include "support/fence.h"
#include "support/gate.h"
#include "support/rounds.h"
#include "support/watchdog.h"

#include "core/manager.h"

enum { ROUNDS = 2000, WATCHDOG_S = 60 };

// fake_open() on fenced memory, under a watchdog.
static void open_fenced(void) {
  struct rctx_manager_options options = fake_options();
  options.allocator = (struct rctx_allocator){fence_alloc, fence_free, NULL};
  options.uncached = true;
  watchdog(WATCHDOG_S);
  fence_watch();
  fake_open_with(options);
}

static void close_fenced(void) {
  atomic_store(&rctx__chaos_mask, 0);
  fake_close();
}

TestSuite(scenarios, .init = open_fenced, .fini = close_fenced, .timeout = 240);

// The first tick at which a deadline may end its context: it rounds up, and the clock rounds down.
static int64_t tick_after(int64_t ns) { return (ns + FAKE_TICK - 1) / FAKE_TICK * FAKE_TICK; }

static void count(const rctx *ctx, void *arg) {
  (void)ctx;
  atomic_fetch_add((atomic_int *)arg, 1);
}

static void are(const char *what, int found, int expected) {
  cr_assert_eq(found, expected, "%s: %d, expected %d, in round %u", what, found, expected, rounds.now);
}

// Moves the clock to just before the deadline's tick, where it must be live, and to that tick, where it must have ended.
static void ends_on_its_tick(const rctx *ctx, int64_t deadline_ns, const char *what) {
  int64_t on_ns = tick_after(deadline_ns);
  fake_reach(on_ns - 1);
  cr_assert_eq(rctx_err(ctx), 0, "%s: early, deadline %" PRId64, what, deadline_ns);
  fake_reach(on_ns);
  cr_assert_eq(rctx_err(ctx), -ETIMEDOUT, "%s: late, deadline %" PRId64, what, deadline_ns);
}

// ---- S19: wheel size - 1, and exact multiples ----------------------------------------------------------------------

static const int64_t edges[] = {1, 2, 62, 63, 64, 65, 127, 128, 255, 256, 257, 4095, 4096, 4097, 8192, 262143, 262144};
enum { EDGES = sizeof edges / sizeof *edges };

Test(scenarios, S19_a_delta_at_the_edge_of_a_wheel_is_neither_early_nor_late) {
  static const int64_t starts[] = {0, 1, 63, 64, 4095, 4096};
  RCTX_SCOPED rctx *pending = rctx_with_timeout(fake_root(), 3600 * SECOND);
  for (size_t s = 0; s < sizeof starts / sizeof *starts; s++) {
    for (int e = 0; e < EDGES; e++) {
      int64_t wheel = 4096 * 64 * FAKE_TICK; // begin at this distance from where a wheel turns over
      fake_reach((fake_now() / wheel + 1) * wheel + starts[s] * FAKE_TICK);
      RCTX_SCOPED rctx *other = rctx_with_timeout(fake_root(), (edges[e] + 7) * FAKE_TICK);
      int64_t deadline_ns = fake_now() + edges[e] * FAKE_TICK;
      RCTX_SCOPED rctx *ctx = rctx_with_deadline(fake_root(), deadline_ns);
      RCTX_SCOPED rctx *next = rctx_with_deadline(fake_root(), deadline_ns + 1); // the next tick's
      ends_on_its_tick(ctx, deadline_ns, "a multiple of a tick");
      cr_assert_eq(rctx_err(next), 0);
      ends_on_its_tick(next, deadline_ns + 1, "one ns more");
      cr_assert_eq(rctx_err(other), 0);
    }
  }
}

Test(scenarios, S19_a_clock_that_leaps_over_several_wheels_ends_what_is_due_and_nothing_else) {
  rctx *due[EDGES], *later[EDGES];
  int64_t start_ns = fake_now();
  for (int e = 0; e < EDGES; e++) {
    due[e] = rctx_with_deadline(fake_root(), start_ns + edges[e] * FAKE_TICK);
    later[e] = rctx_with_deadline(fake_root(), start_ns + (262144 + edges[e]) * FAKE_TICK + 1);
  }
  cr_assert_eq(fake_reach(tick_after(start_ns + 262144 * FAKE_TICK)), EDGES);
  for (int e = 0; e < EDGES; e++) {
    cr_assert_eq(rctx_err(due[e]), -ETIMEDOUT);
    cr_assert_eq(rctx_err(later[e]), 0);
    ends_on_its_tick(later[e], start_ns + (262144 + edges[e]) * FAKE_TICK + 1, "beyond the leap");
    rctx_end(due[e]);
    rctx_end(later[e]);
  }
}

// ---- S20: from inside a callback -----------------------------------------------------------------------------------

static struct {
  rctx *ctx;
  struct rctx_after node;
  int fired;
  int64_t due_ns;
} periodic;

static void arm_next(void) {
  periodic.due_ns = fake_now() + FAKE_TICK;
  periodic.ctx = rctx_with_deadline(fake_root(), periodic.due_ns);
}
static void arm_again(const rctx *ctx, void *arg) {
  (void)arg;
  cr_assert_geq(fake_now(), periodic.due_ns, "early");
  cr_assert_eq(rctx_err(ctx), -ETIMEDOUT);
  periodic.fired++;
  rctx_end(periodic.ctx);
  arm_next();
}

Test(scenarios, S20_a_timer_armed_in_a_callback_waits_for_its_own_tick) {
  arm_next();
  for (int i = 1; i <= 200; i++) {
    cr_assert_eq(rctx_after_inline(periodic.ctx, &periodic.node, RCTX_ON_ENDED_TELL, arm_again, NULL), RCTX_REGISTERED);
    fake_reach(tick_after(periodic.due_ns));
    are("fired", periodic.fired, i);
    cr_assert_eq(rctx_err(periodic.ctx), 0, "the new one fired with the old");
  }
  rctx_end(periodic.ctx);
}

enum { SAME = 300 }; // more than are collected at a time

static struct {
  rctx *ctx[SAME];
  struct rctx_after node[SAME];
  int calls, stopped;
} same;

static void end_all_others(const rctx *ctx, void *unused) {
  (void)unused;
  same.calls++;
  for (int i = 0; i < SAME; i++) {
    if (same.ctx[i] == ctx) continue;
    same.stopped += rctx_after_stop(&same.node[i]);
    rctx_end(same.ctx[i]);
    same.ctx[i] = NULL;
  }
}

Test(scenarios, S20_a_callback_may_end_all_others_that_are_due_with_it) {
  for (int i = 0; i < SAME; i++) {
    same.ctx[i] = rctx_with_timeout(fake_root(), 5 * FAKE_TICK);
    rctx_after_inline(same.ctx[i], &same.node[i], RCTX_ON_ENDED_TELL, end_all_others, NULL);
  }
  fake_go(6 * FAKE_TICK);
  are("calls", same.calls, 1);
  are("stopped", same.stopped, SAME - 1);
  for (int i = 0; i < SAME; i++)
    if (same.ctx[i]) rctx_end(same.ctx[i]);
  cr_assert_eq(fake_stats().contexts, 0);
  cr_assert_eq(fake_stats().timers, 0);
}

static void take_ten_seconds(const rctx *ctx, void *arg) {
  (void)ctx;
  fake_set(fake_now() + 10 * SECOND);
  *(rctx **)arg = rctx_with_timeout(fake_root(), 5 * FAKE_TICK);
}

Test(scenarios, S20_a_slow_callback_makes_no_later_timer_early) {
  rctx *next = NULL;
  struct rctx_after node = {0};
  RCTX_SCOPED rctx *first = rctx_with_timeout(fake_root(), FAKE_TICK);
  rctx_after_inline(first, &node, RCTX_ON_ENDED_TELL, take_ten_seconds, &next);
  fake_go(2 * FAKE_TICK);
  cr_assert_not_null(next);
  ends_on_its_tick(next, fake_now() + 5 * FAKE_TICK, "armed after a slow callback's work");
  rctx_end(next);
}

// ---- S21: deadlines that have passed -------------------------------------------------------------------------------

Test(scenarios, S21_a_deadline_that_has_come_ends_at_once_and_no_other_early) {
  int64_t now_ns = fake_now(), bystander_ns = now_ns + 3 * FAKE_TICK;
  const int64_t passed[] = {INT64_MIN, -1, 0, 1, now_ns - SECOND, now_ns - 1, now_ns};
  const int64_t timeouts[] = {INT64_MIN, -SECOND, -1, 0};
  RCTX_SCOPED rctx *bystander = rctx_with_deadline(fake_root(), bystander_ns);
  for (size_t i = 0; i < sizeof passed / sizeof *passed; i++) {
    RCTX_SCOPED rctx *ctx = rctx_with_deadline(fake_root(), passed[i]);
    cr_assert_eq(rctx_err(ctx), -ETIMEDOUT, "deadline %" PRId64 ", now %" PRId64, passed[i], now_ns);
  }
  for (size_t i = 0; i < sizeof timeouts / sizeof *timeouts; i++) {
    RCTX_SCOPED rctx *ctx = rctx_with_timeout(fake_root(), timeouts[i]);
    cr_assert_eq(rctx_err(ctx), -ETIMEDOUT, "timeout %" PRId64, timeouts[i]);
  }
  cr_assert_eq(fake_stats().timers, 1);
  cr_assert_eq(rctx_advance(fake.manager, now_ns, 0), 0);
  ends_on_its_tick(bystander, bystander_ns, "the bystander");
}

// Whoever drives was ahead of the clock that arms: what it has passed is due, and what it has not passed waits.
Test(scenarios, S21_a_deadline_that_the_wheel_has_passed_ends_at_once) {
  int64_t bystander_ns = fake_now() + 20 * FAKE_TICK;
  RCTX_SCOPED rctx *bystander = rctx_with_deadline(fake_root(), bystander_ns);
  rctx_advance(fake.manager, fake_now() + 10 * FAKE_TICK, 0);
  RCTX_SCOPED rctx *passed = rctx_with_timeout(fake_root(), 5 * FAKE_TICK);
  RCTX_SCOPED rctx *ahead = rctx_with_timeout(fake_root(), 15 * FAKE_TICK);
  cr_assert_eq(rctx_err(passed), -ETIMEDOUT);
  cr_assert_eq(rctx_err(ahead), 0);
  ends_on_its_tick(ahead, fake_now() + 15 * FAKE_TICK, "ahead of the wheel");
  ends_on_its_tick(bystander, bystander_ns, "the bystander");
}

// ---- S22: beyond any wheel -----------------------------------------------------------------------------------------

// By the distance, not by the absolute time: from two starts, and on the way there nothing wraps round.
static void far_deadlines_hold(void) {
  for (int bits = 12; bits <= 42; bits += 3) {
    int64_t start_ns = fake_now(), deadline_ns = rctx__add_ns(start_ns, ((INT64_C(1) << bits) + 3) * FAKE_TICK);
    if (deadline_ns > INT64_MAX / 4 * 3) return;
    RCTX_SCOPED rctx *ctx = rctx_with_deadline(fake_root(), deadline_ns);
    for (int step = 0; step < bits; step++) {
      fake_reach(start_ns + ((INT64_C(1) << step) + 1) * FAKE_TICK);
      cr_assert_eq(rctx_err(ctx), 0, "2^%d ticks are over after 2^%d", bits, step);
    }
    ends_on_its_tick(ctx, deadline_ns, "a far deadline");
  }
}

Test(scenarios, S22_a_far_deadline_does_not_wrap_round) {
  far_deadlines_hold();
  fake_close();
  open_fenced();
  fake_set((INT64_C(1) << 40) * FAKE_TICK + 12345);
  far_deadlines_hold();
}

// ---- S23: long uptimes ---------------------------------------------------------------------------------------------

static void short_timers_run(int bits) {
  int64_t border_ns = (INT64_C(1) << bits) * FAKE_TICK;
  fake_set(border_ns - 6 * FAKE_TICK);
  RCTX_SCOPED rctx *far = rctx_with_deadline(fake_root(), INT64_MAX - 2 * FAKE_TICK);
  for (int delta = 1; delta < 70; delta += delta / 3 + 1) { // across the border, with a far timer about
    int64_t deadline_ns = fake_now() + delta * FAKE_TICK;
    RCTX_SCOPED rctx *ctx = rctx_with_deadline(fake_root(), deadline_ns);
    ends_on_its_tick(ctx, deadline_ns, "a short timer");
    cr_assert_eq(rctx_err(far), 0, "uptime 2^%d ticks", bits);
  }
  cr_assert_eq(fake_stats().timers, 1);
}

Test(scenarios, S23_after_a_long_uptime_short_timers_run_beside_a_far_one) {
  for (int bits = 6; bits <= 42; bits += 6) {
    short_timers_run(bits);
    fake_close();
    open_fenced();
  }
  short_timers_run(30); // 12 days of milliseconds
}

// ---- S24: on the very tick -----------------------------------------------------------------------------------------

static struct {
  rctx *ctx, *top;
  struct rctx_after *node;
  atomic_int calls, destroyed, moved;
  int64_t deadline_ns;
} r;

static void count_destroyed(void *unused) {
  (void)unused;
  atomic_fetch_add(&r.destroyed, 1);
}

static const struct rctx_key key = {.name = "scenario"};

static void tick_set_up(void) {
  memset(&r, 0, sizeof r);
  r.deadline_ns = tick_after(fake_now() + 3 * FAKE_TICK);
  struct rctx_value value = {&key, &r, count_destroyed};
  r.ctx = rctx_derive(
      fake_root(), &(struct rctx_spec){
                       .deadline_ns = r.deadline_ns, .values = &value, .nvalues = 1, .movable = rounds.now % 3 == 2});
  r.node = fence_alloc(NULL, sizeof *r.node, CACHE_LINE);
  rctx_after_inline(r.ctx, r.node, RCTX_ON_ENDED_TELL, count, &r.calls);
}
static void tick_act(unsigned index) {
  if (index == 0) fake_reach(r.deadline_ns);
  if (index == 0) return;
  if (rounds.now % 3 == 1) rctx_cancel(r.ctx);
  if (rounds.now % 3 == 2) atomic_store(&r.moved, rctx_move_deadline(r.ctx, r.deadline_ns + SECOND) == 0);
  if (rounds.now % 3 == 0) rctx_end(r.ctx);
}
static void tick_check(void) {
  if (rounds.now % 3 == 2) {
    are("its error, moved or not", rctx_err(r.ctx), r.moved ? 0 : -ETIMEDOUT);
    are("calls", r.calls, !r.moved);
    if (r.moved) ends_on_its_tick(r.ctx, r.deadline_ns + SECOND, "moved");
  }
  if (rounds.now % 3 == 1) {
    int err = rctx_err(r.ctx);
    cr_assert(err == -ETIMEDOUT || err == -ECANCELED);
    are("the cause's code", rctx_cause(r.ctx)->code, err);
  }
  if (rounds.now % 3 > 0) rctx_end(r.ctx);
  are("calls", r.calls, 1);
  fence_free(NULL, r.node, sizeof *r.node);
  rctx_quiesce(fake.manager, INT64_MAX);
  are("destroyed", r.destroyed, 1);
  are("timers left", (int)fake_stats().timers, 0);
}

Test(scenarios, S24_a_timer_ended_on_its_very_tick_fires_or_does_not) {
  rounds_run((struct rounds_plan){2, tick_set_up, tick_act, tick_check}, 2 * ROUNDS);
}

enum { UNWATCHED = 3 };

static rctx *unwatched[UNWATCHED];

static void unwatched_set_up(void) {
  memset(&r, 0, sizeof r);
  r.deadline_ns = tick_after(fake_now() + 3 * FAKE_TICK);
  struct rctx_value value = {&key, &r, count_destroyed};
  for (int i = 0; i < UNWATCHED; i++)
    unwatched[i] =
        rctx_derive(fake_root(), &(struct rctx_spec){.deadline_ns = r.deadline_ns, .values = &value, .nvalues = 1});
}
static void unwatched_act(unsigned index) {
  if (index == 0) {
    fake_reach(r.deadline_ns);
  } else {
    rctx_end(unwatched[index - 1]);
  }
}
static void unwatched_check(void) {
  rctx_quiesce(fake.manager, INT64_MAX);
  are("destroyed", r.destroyed, UNWATCHED);
  are("contexts left", (int)fake_stats().contexts, 0);
  are("timers left", (int)fake_stats().timers, 0);
}

// Nobody watches them: the short ways of giving up, which look at the timer only.
Test(scenarios, S24_timers_of_contexts_that_nobody_watches_may_be_ended_on_their_very_tick) {
  rounds_run((struct rounds_plan){1 + UNWATCHED, unwatched_set_up, unwatched_act, unwatched_check}, 2 * ROUNDS);
}

// The clock has passed the deadline, and nobody has collected it.
Test(scenarios, S24_what_has_expired_uncollected_can_be_ended_and_moved) {
  atomic_int calls = 0;
  struct rctx_after node = {0};
  rctx *ended = rctx_with_timeout(fake_root(), FAKE_TICK);
  rctx *moved = rctx_derive(fake_root(), &(struct rctx_spec){.timeout_ns = FAKE_TICK, .movable = true});
  rctx_after_inline(moved, &node, RCTX_ON_ENDED_TELL, count, &calls);
  fake_set(fake_now() + 5 * FAKE_TICK);
  rctx_end(ended);
  cr_assert_eq(fake_stats().timers, 1);
  int64_t deadline_ns = fake_now() + SECOND;
  cr_assert_eq(rctx_move_deadline(moved, deadline_ns), 0);
  cr_assert_eq(fake_reach(fake_now()), 0);
  ends_on_its_tick(moved, deadline_ns, "moved after it had expired");
  are("calls", calls, 1);
  rctx_end(moved);
}

// ---- S25: arming, the sleeper, the index ---------------------------------------------------------------------------

static void dead_entry_set_up(void) {
  memset(&r, 0, sizeof r);
  r.top = rctx_with_cancel(fake_root());
}
static void dead_entry_act(unsigned index) {
  if (index == 0) rctx_cancel(r.top);
  if (index == 1) r.ctx = rctx_with_timeout(r.top, 365 * 24 * 3600 * SECOND);
}
static void dead_entry_check(void) {
  are("the child's error", rctx_err(r.ctx), -ECANCELED);
  are("timers left", (int)fake_stats().timers, 0);
  rctx_end(r.ctx);
  rctx_end(r.top);
}

Test(scenarios, S25_a_timer_armed_below_a_context_that_is_being_cancelled_is_not_left_behind) {
  rounds_run((struct rounds_plan){2, dead_entry_set_up, dead_entry_act, dead_entry_check}, 2 * ROUNDS);
}

static unsigned kicks(void) { return atomic_exchange(&fake.kicks, 0); }

Test(scenarios, S25_whoever_sleeps_is_told_of_an_earlier_timer_once_and_of_no_later_one) {
  RCTX_SCOPED rctx *movable =
      rctx_derive(fake_root(), &(struct rctx_spec){.timeout_ns = 100 * SECOND, .movable = true});
  rctx_next(fake.manager, fake_now());
  kicks();
  RCTX_SCOPED rctx *later = rctx_with_timeout(fake_root(), 200 * SECOND);
  cr_assert_eq(kicks(), 0);
  RCTX_SCOPED rctx *earlier = rctx_with_timeout(fake_root(), SECOND);
  cr_assert_eq(kicks(), 1);
  cr_assert_leq(rctx_next(fake.manager, fake_now()), tick_after(fake_now() + SECOND));
  cr_assert_eq(rctx_move_deadline(movable, fake_now() + 10 * MS), 0);
  cr_assert_eq(kicks(), 1, "moved before all others");
  cr_assert_leq(rctx_next(fake.manager, fake_now()), tick_after(fake_now() + 10 * MS));
  ends_on_its_tick(movable, fake_now() + 10 * MS, "moved earlier");
}

Test(scenarios, S25_the_earliest_timer_moved_later_hides_no_other) {
  rctx *ctx[3];
  int64_t start_ns = fake_now();
  for (int i = 0; i < 3; i++) // 10 ms, 1 s, 100 s
    ctx[i] = rctx_derive(fake_root(), &(struct rctx_spec){.timeout_ns = i == 0   ? 10 * MS
                                                                        : i == 1 ? SECOND
                                                                                 : 100 * SECOND,
                                                          .movable = true});
  cr_assert_eq(rctx_move_deadline(ctx[0], start_ns + 50 * SECOND), 0);
  fake_reach(start_ns + 20 * MS); // the timer that stood where it was looks again
  cr_assert_eq(rctx_err(ctx[0]), 0);
  cr_assert_leq(rctx_next(fake.manager, fake_now()), tick_after(start_ns + SECOND));
  ends_on_its_tick(ctx[1], start_ns + SECOND, "the second");
  cr_assert_leq(rctx_next(fake.manager, fake_now()), tick_after(start_ns + 50 * SECOND));
  ends_on_its_tick(ctx[0], start_ns + 50 * SECOND, "the one moved");
  ends_on_its_tick(ctx[2], start_ns + 100 * SECOND, "the third");
  for (int i = 0; i < 3; i++) rctx_end(ctx[i]);
}

static rctx_manager *threaded;

static void arm_and_wait(unsigned index, void *unused) {
  struct rng random;
  (void)unused;
  rng_init(&random, atomic_load(&rctx__chaos_seed) + index);
  for (unsigned round = 0; round < scaled(700); round++) {
    rctx *ctx = rctx_with_timeout(rctx_manager_background(threaded), rng_between(&random, 1, 3 * MS / 2));
    cr_assert_eq(rctx_wait(ctx, INT64_MAX), -ETIMEDOUT);
    rctx_end(ctx);
  }
}

// A driver that was going to sleep for an hour when an earlier timer came: a kick that is lost is a hang.
Test(scenarios, S25_a_timer_armed_while_the_driver_falls_asleep_wakes_it) {
  watchdog(WATCHDOG_S);
  cr_assert_eq(rctx_manager_create(&(struct rctx_manager_options){.tick_ns = 100000}, &threaded), 0);
  rctx *far = rctx_with_timeout(rctx_manager_background(threaded), 3600 * SECOND);
  atomic_store(&rctx__chaos_seed, seed_get());
  atomic_store(&rctx__chaos_mask, 2);
  for (unsigned threads = 1; threads <= 2; threads++)
    threads_run(threads, arm_and_wait, NULL); // alone: nobody else kicks
  atomic_store(&rctx__chaos_mask, 0);
  rctx_end(far);
  nothing_left(threaded);
  cr_assert_eq(rctx_manager_destroy(threaded), 0);
}

// ---- S26: clocks that go astray, huge timeouts ---------------------------------------------------------------------

Test(scenarios, S26_a_clock_that_steps_back_ends_nothing_early_and_loses_nothing) {
  int64_t start_ns = fake_now();
  rctx *ctx[] = {rctx_with_deadline(fake_root(), start_ns + 10 * SECOND),
                 rctx_with_deadline(fake_root(), start_ns + 11 * SECOND),
                 rctx_with_deadline(fake_root(), start_ns + 5000 * SECOND)};
  static const int64_t steps[] = {5 * SECOND, -100 * SECOND, -1000000 * SECOND, INT64_MIN / 2, 9 * SECOND, -SECOND};
  for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
    cr_assert_eq(fake_reach(start_ns + steps[i]), 0, "step %zu", i);
    for (int n = 0; n < 3; n++) cr_assert_eq(rctx_err(ctx[n]), 0, "step %zu ended number %d", i, n);
  }
  ends_on_its_tick(ctx[0], start_ns + 10 * SECOND, "after the steps");
  ends_on_its_tick(ctx[1], start_ns + 11 * SECOND, "after the steps");
  ends_on_its_tick(ctx[2], start_ns + 5000 * SECOND, "after the steps");
  for (int n = 0; n < 3; n++) rctx_end(ctx[n]);
}

Test(scenarios, S26_a_clock_that_begins_below_zero_is_a_clock_that_has_not_begun) {
  fake_set(-1000 * SECOND);
  rctx *ctx = rctx_with_timeout(fake_root(), 2000 * SECOND);
  cr_assert_eq(rctx_err(ctx), 0);
  cr_assert_eq(fake_reach(-SECOND), 0);
  cr_assert_eq(rctx_err(ctx), 0);
  ends_on_its_tick(ctx, 1000 * SECOND, "armed below zero");
  rctx_end(ctx);
}

Test(scenarios, S26_a_huge_timeout_neither_overflows_nor_means_something_else) {
  int64_t now_ns = fake_now(), left_ns = INT64_MAX - now_ns;
  const int64_t huge[] = {INT64_MAX, INT64_MAX - 1, INT64_MAX / 2, left_ns - 1, left_ns, left_ns + 1};
  rctx *ctx[6], *short_one = rctx_with_timeout(fake_root(), SECOND);
  for (int i = 0; i < 6; i++) {
    ctx[i] = rctx_with_timeout(fake_root(), huge[i]);
    cr_assert_eq(rctx_err(ctx[i]), 0, "timeout %" PRId64, huge[i]);
    cr_assert_gt(rctx_remaining(ctx[i]), INT64_MAX / 4);
  }
  ends_on_its_tick(short_one, now_ns + SECOND, "beside huge ones");
  cr_assert_gt(rctx_next(fake.manager, fake_now()), fake_now());
  fake_reach(INT64_MAX / 4);
  for (int i = 0; i < 6; i++) {
    cr_assert_eq(rctx_err(ctx[i]), 0, "timeout %" PRId64, huge[i]);
    rctx_end(ctx[i]);
  }
  rctx_end(short_one);
}
