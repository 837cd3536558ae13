// Deadlines through the public interface on a clock that only the test moves: what has broken other timers.
//
// Numbers in [brackets] are scenarios of other projects' bugs: delta of a wheel's size, exact multiples [19]; armed again,
// cancelled, slow inside a callback [20]; past deadlines, at now [21]; far ones [22]; uptime near the top of a level [23];
// cancelled on the very tick [24]; the next wakeup [25]; clock back, overflow [26].
#include "support/check.h"
#include "support/fake_time.h"
#include "support/seed.h"
#include "support/threads.h"
#include "support/watchdog.h"

TestSuite(timer, .init = fake_open, .fini = fake_close, .timeout = 120);

static int64_t tick_up(int64_t ns) { return (ns + FAKE_TICK - 1) / FAKE_TICK * FAKE_TICK; }

static bool live(const rctx *ctx) { return rctx_err(ctx) == 0; }

// Ends at the first tick at or after its deadline: not a nanosecond before its deadline, not a tick late.
static void fires_on_its_tick(rctx *ctx, int64_t deadline_ns) {
  fake_reach(deadline_ns - 1);
  cr_assert(live(ctx), "early: deadline %" PRId64, deadline_ns);
  cr_assert_leq(rctx_next(fake.manager, fake_now()), tick_up(deadline_ns), "the next wakeup is too late");
  fake_reach(tick_up(deadline_ns));
  cr_assert_eq(rctx_err(ctx), -ETIMEDOUT, "late: deadline %" PRId64, deadline_ns);
}

// ---- boundaries ------------------------------------------------------------------------------------------------------

// Deltas of 64^k ticks, give or take one tick and one nanosecond, with other work pending.  [19]
Test(timer, deltas_around_every_power_of_the_wheels_size) {
  rctx *pending = rctx_with_deadline(fake_root(), INT64_MAX - 1);
  for (int level = 0; level < 5; level++) {
    for (int64_t ticks = -1; ticks <= 1; ticks++) {
      for (int64_t ns = -1; ns <= 1; ns++) {
        int64_t delta = ((INT64_C(1) << (6 * level)) + ticks) * FAKE_TICK + ns;
        if (delta <= 0) continue;
        int64_t deadline = fake_now() + delta;
        rctx *c = rctx_with_timeout(fake_root(), delta);
        cr_assert(live(c));
        fires_on_its_tick(c, deadline);
        rctx_end(c);
      }
    }
  }
  cr_assert(live(pending));
  rctx_end(pending);
}

// The same at absolute multiples of 64^k ticks: where digits of the clock carry.  [19] [22]
Test(timer, deadlines_on_exact_multiples) {
  static const int64_t multiples[] = {64, 256, 4096, 262144, 16777216};
  for (size_t m = 0; m < sizeof multiples / sizeof *multiples; m++) {
    for (int64_t ns = -1; ns <= 1; ns++) {
      int64_t unit = multiples[m] * FAKE_TICK, deadline = (fake_now() / unit + 1) * unit + ns;
      if (deadline <= fake_now()) continue;
      rctx *c = rctx_with_deadline(fake_root(), deadline);
      fires_on_its_tick(c, deadline);
      rctx_end(c);
    }
  }
}

// Uptimes of 12 days, two years, and 146 years, with one very far deadline present.  [23]
static void near_an_epoch(int64_t epoch_ns) {
  rctx_manager *manager;
  struct rctx_manager_options options = fake_options();
  for (int64_t before = 0; before < 130; before += 3) {
    fake_set(epoch_ns - before * FAKE_TICK + 17);
    cr_assert_eq(rctx_manager_create(&options, &manager), 0);
    rctx *far = rctx_with_deadline(rctx_manager_background(manager), INT64_MAX - 1);
    for (int i = 1; i < 80; i++) {
      int64_t deadline = fake_now() + i * FAKE_TICK / 2;
      rctx *c = rctx_with_deadline(rctx_manager_background(manager), deadline);
      cr_assert(live(c));
      fake_set(tick_up(deadline));
      cr_assert_eq(rctx_advance(manager, fake_now() - FAKE_TICK, 0), 0);
      cr_assert_eq(rctx_advance(manager, fake_now(), 0), 1);
      cr_assert_eq(rctx_err(c), -ETIMEDOUT);
      rctx_end(c);
    }
    cr_assert(live(far));
    rctx_end(far);
    cr_assert_eq(rctx_manager_destroy(manager), 0);
  }
}

Test(timer, near_ones_are_not_starved_by_a_far_one_whatever_the_uptime) {
  near_an_epoch((INT64_C(1) << 30) * MS);
  near_an_epoch((INT64_C(1) << 36) * MS);
  near_an_epoch(INT64_C(1) << 62);
}

// ---- far and absurd --------------------------------------------------------------------------------------------------

Test(timer, huge_timeouts_saturate_and_never_wrap_into_expired) {
  static const int64_t timeouts[] = {INT64_MAX, INT64_MAX - 1, INT64_MAX / 2, INT64_MAX - FAKE_START, INT64_C(1) << 62};
  rctx *made[5];
  for (int i = 0; i < 5; i++) {
    int64_t deadline;
    made[i] = rctx_with_timeout(fake_root(), timeouts[i]);
    cr_assert(live(made[i]), "timeout %" PRId64, timeouts[i]);
    cr_assert(rctx_deadline(made[i], &deadline));
    cr_assert_gt(deadline, fake_now());
  }
  fake_go(INT64_C(1) << 60);
  for (int i = 0; i < 5; i++) cr_assert(live(made[i]), "early: timeout %" PRId64, timeouts[i]);
  fake_reach(INT64_MAX);
  cr_assert(live(made[0]), "INT64_MAX never comes");
  cr_assert_eq(rctx_err(made[2]), -ETIMEDOUT);
  cr_assert_eq(rctx_err(made[4]), -ETIMEDOUT);
  for (int i = 0; i < 5; i++) rctx_end(made[i]);
}

// Past and present deadlines end their context on return, and nobody else's.  [21]
Test(timer, past_deadlines_do_not_move_anything) {
  static const int64_t timeouts[] = {0, -1, -MS, -3600 * SECOND, INT64_MIN, INT64_MIN + 1};
  rctx *other = rctx_with_timeout(fake_root(), 10 * MS);
  int64_t next = rctx_next(fake.manager, fake_now());
  for (size_t i = 0; i < sizeof timeouts / sizeof *timeouts; i++) {
    rctx *c = rctx_with_timeout(fake_root(), timeouts[i]);
    cr_assert_eq(rctx_err(c), -ETIMEDOUT);
    rctx_end(c);
    rctx *d = rctx_with_deadline(fake_root(), fake_now() + (timeouts[i] < -SECOND ? -SECOND : timeouts[i]));
    cr_assert_eq(rctx_err(d), -ETIMEDOUT);
    rctx_end(d);
  }
  cr_assert_eq(fake_stats().timers, 1);
  cr_assert_eq(rctx_next(fake.manager, fake_now()), next);
  fires_on_its_tick(other, FAKE_START + 10 * MS);
  rctx_end(other);
}

// ---- inside callbacks ------------------------------------------------------------------------------------------------

struct again {
  struct rctx_after after;
  rctx *ctx;
  int64_t deadline;
  unsigned fired;
};

static void arm_again(const rctx *ctx, void *arg);

static void arm_next(struct again *a, int64_t deadline) {
  a->deadline = deadline;
  a->ctx = rctx_with_deadline(fake_root(), deadline);
  memset(&a->after, 0, sizeof a->after);
  cr_assert_eq(rctx_after_inline(a->ctx, &a->after, RCTX_ON_ENDED_TELL, arm_again, a), RCTX_REGISTERED);
}

// The node that is running can not be registered again: each firing hops to the other of two.
static struct again hops[2];

static void arm_again(const rctx *ctx, void *arg) {
  struct again *a = arg, *other = &hops[a == hops];
  cr_assert_eq(ctx, a->ctx);
  cr_assert_leq(a->deadline, fake_now(), "early");
  cr_assert_gt(a->deadline, fake_now() - 2 * FAKE_TICK, "late");
  a->fired++;
  rctx_end(a->ctx);
  arm_next(other, fake_now() + 1);
}

// Armed for the next tick from inside the slot that is being drained: once per tick, not at once again.  [20]
Test(timer, armed_again_inside_its_callback_it_fires_once_per_tick) {
  arm_next(&hops[0], fake_now() + 1);
  int64_t start = tick_up(fake_now());
  for (int64_t tick = 0; tick < 300; tick++) {
    cr_assert_eq(fake_reach(start + tick * FAKE_TICK), 1, "tick %" PRId64, tick);
    cr_assert_eq(hops[0].fired + hops[1].fired, tick + 1);
  }
  for (int i = 0; i < 2; i++) {
    if (rctx_after_stop(&hops[i].after)) rctx_end(hops[i].ctx);
  }
}

enum { TOGETHER = 200 };
static rctx *together[TOGETHER];
static int by_cancel;

static void cancel_all(const rctx *ctx, void *arg) {
  (void)ctx;
  (void)arg;
  for (int i = 0; i < TOGETHER; i++) by_cancel += rctx_cancel(together[i]);
}

// Due on the same tick, one callback cancels all: those already taken out of the wheel, too. Each ends exactly once.  [20]
Test(timer, a_callback_cancels_all_that_are_due_on_the_same_tick) {
  struct rctx_after after = {0};
  for (int i = 0; i < TOGETHER; i++) together[i] = rctx_with_timeout(fake_root(), 5 * MS);
  cr_assert_eq(rctx_after_inline(together[TOGETHER / 2], &after, RCTX_ON_ENDED_TELL, cancel_all, NULL),
               RCTX_REGISTERED);
  fake_go(6 * MS);
  int cancelled = 0;
  for (int i = 0; i < TOGETHER; i++) {
    cr_assert(!live(together[i]));
    cancelled += rctx_err(together[i]) == -ECANCELED;
    rctx_end(together[i]);
  }
  cr_assert_eq(cancelled, by_cancel);
  cr_assert_eq(fake_stats().timers, 0);
}

static rctx *armed_late;

static void be_slow(const rctx *ctx, void *arg) {
  (void)ctx;
  (void)arg;
  fake_set(fake_now() + 500 * MS);
  armed_late = rctx_with_timeout(fake_root(), 20 * MS);
}

// The clock goes on while a callback runs: what it arms counts from there.  [20]
Test(timer, a_slow_callback_does_not_make_the_next_timer_early) {
  struct rctx_after after = {0};
  rctx *c = rctx_with_timeout(fake_root(), 5 * MS);
  cr_assert_eq(rctx_after_inline(c, &after, RCTX_ON_ENDED_TELL, be_slow, NULL), RCTX_REGISTERED);
  fake_go(5 * MS + FAKE_TICK);
  cr_assert(live(armed_late));
  int64_t deadline = fake_now() + 20 * MS;
  fake_reach(fake_now());
  cr_assert(live(armed_late));
  fires_on_its_tick(armed_late, deadline);
  rctx_end(armed_late);
  rctx_end(c);
}

// ---- cancelling ------------------------------------------------------------------------------------------------------

// On its very tick, and when its time has passed but nobody has advanced.  [24]
Test(timer, cancelled_when_it_is_due_and_not_yet_handled) {
  rctx *c = rctx_with_timeout(fake_root(), 5 * MS), *d = rctx_with_timeout(fake_root(), 5 * MS);
  fake_set(fake_now() + 3600 * SECOND);
  cr_assert(live(c), "reading reads no clock");
  cr_assert_eq(rctx_remaining(c), 0);
  cr_assert(rctx_cancel(c));
  cr_assert_eq(fake_stats().timers, 1, "disarmed at once");
  rctx_end(d);
  cr_assert_eq(fake_stats().timers, 0);
  cr_assert_eq(fake_go(0), 0);
  cr_assert_eq(rctx_err(c), -ECANCELED);
  rctx_end(c);
}

Test(timer, the_parents_end_disarms_at_once) {
  rctx *parent = rctx_with_timeout(fake_root(), 50 * MS);
  rctx *child = rctx_with_timeout(parent, 40 * MS), *equal = rctx_with_timeout(parent, 50 * MS);
  cr_assert_eq(fake_stats().timers, 2, "none where the parent ends no later");
  rctx_cancel(parent);
  cr_assert_eq(fake_stats().timers, 0);
  cr_assert_eq(rctx_next(fake.manager, fake_now()), INT64_MAX);
  rctx_end(child);
  rctx_end(equal);
  rctx_end(parent);
}

// A hundred thousand that are armed far away and cancelled leave nothing behind.  [25]
Test(timer, cancelled_far_timers_leave_no_dead_entries) {
  for (int i = 0; i < 100000; i++) rctx_end(rctx_with_timeout(fake_root(), 3600 * SECOND + i * MS));
  cr_assert_eq(fake_stats().timers, 0);
  cr_assert_eq(rctx_next(fake.manager, fake_now()), INT64_MAX);
  cr_assert_eq(fake_go(7200 * SECOND), 0);
}

// ---- next and kick ---------------------------------------------------------------------------------------------------

static unsigned kicks(void) { return atomic_exchange(&fake.kicks, 0); }

// An earlier timer kicks whoever sleeps, once; a later one does not; without anybody asleep nobody is kicked.  [25]
Test(timer, an_earlier_timer_kicks_once_until_the_next_rctx_next) {
  rctx *first = rctx_with_timeout(fake_root(), 100 * MS);
  cr_assert_eq(kicks(), 0, "nobody has asked rctx_next() yet");
  int64_t next = rctx_next(fake.manager, fake_now());
  cr_assert_leq(next, FAKE_START + 100 * MS + FAKE_TICK);
  rctx *later = rctx_with_timeout(fake_root(), 3600 * SECOND);
  cr_assert_eq(kicks(), 0);
  rctx *earlier = rctx_with_timeout(fake_root(), 2 * MS);
  cr_assert_eq(kicks(), 1);
  rctx *earliest = rctx_with_timeout(fake_root(), 1 * MS);
  cr_assert_eq(kicks(), 0, "kicked already");
  cr_assert_leq(rctx_next(fake.manager, fake_now()), tick_up(FAKE_START + 1 * MS));
  rctx_end(earliest);
  rctx_end(earlier);
  rctx_end(first);
  next = rctx_next(fake.manager, fake_now());
  cr_assert_gt(next, FAKE_START + 3000 * MS, "the earliest is gone: sleep longer");
  rctx_end(later);
  cr_assert_eq(rctx_next(fake.manager, fake_now()), INT64_MAX);
  rctx_end(rctx_with_timeout(fake_root(), 1 * SECOND));
  cr_assert_eq(kicks(), 1, "asleep for ever: any timer is earlier");
}

// Whoever follows rctx_next() alone meets every deadline on its tick.
Test(timer, following_next_alone_is_never_late) {
  struct rng rng;
  rng_init(&rng, seed_get());
  rctx *made[100];
  int64_t deadlines[100];
  for (int i = 0; i < 100; i++) {
    deadlines[i] = fake_now() + 1 + (int64_t)(rng_next(&rng) >> (24 + rng_below(&rng, 36)));
    made[i] = rctx_with_deadline(fake_root(), deadlines[i]);
  }
  for (int64_t next; (next = rctx_next(fake.manager, fake_now())) != INT64_MAX;) {
    cr_assert_gt(next, fake_now(), "no progress");
    fake_reach(next);
    for (int i = 0; i < 100; i++) cr_assert_eq(live(made[i]), tick_up(deadlines[i]) > next, "number %d", i);
  }
  for (int i = 0; i < 100; i++) {
    cr_assert(!live(made[i]));
    rctx_end(made[i]);
  }
}

// ---- the clock -------------------------------------------------------------------------------------------------------

// Back: nothing ends early, nothing is lost.  [26]
Test(timer, a_clock_that_steps_back_does_no_harm) {
  rctx *c = rctx_with_timeout(fake_root(), 100 * MS);
  fake_go(50 * MS);
  cr_assert_eq(rctx_advance(fake.manager, FAKE_START - 3600 * SECOND, 0), 0);
  cr_assert_eq(rctx_advance(fake.manager, INT64_MIN, 0), 0);
  cr_assert(live(c));
  fake_set(FAKE_START - 10 * SECOND);
  cr_assert_eq(rctx_remaining(c), 10 * SECOND + 100 * MS);
  rctx *d = rctx_with_timeout(fake_root(), 20 * SECOND);
  cr_assert(live(d));
  fires_on_its_tick(c, FAKE_START + 100 * MS);
  fires_on_its_tick(d, FAKE_START + 10 * SECOND);
  rctx_end(c);
  rctx_end(d);
}

Test(timer, a_far_jump_fires_all_in_one_advance) {
  rctx *made[64];
  for (int i = 0; i < 64; i++) made[i] = rctx_with_timeout(fake_root(), INT64_C(1) << (i < 62 ? i : 61));
  fake_reach(INT64_MAX);
  for (int i = 0; i < 64; i++) {
    cr_assert_eq(rctx_err(made[i]), -ETIMEDOUT);
    rctx_end(made[i]);
  }
}

// ---- budget ----------------------------------------------------------------------------------------------------------

Test(timer, a_budget_is_kept_and_the_rest_comes_in_order_of_ticks) {
  enum { COUNT = 1000 };
  static rctx *made[COUNT];
  for (int i = 0; i < COUNT; i++) made[i] = rctx_with_timeout(fake_root(), 1 + (i * 7 % COUNT) * MS / 4);
  fake_set(fake_now() + SECOND);
  size_t handled = 0;
  for (size_t got = 7; got == 7; handled += got) {
    got = rctx_advance(fake.manager, fake_now(), 7);
    cr_assert_leq(got, 7);
    int64_t latest_ended = 0, earliest_live = INT64_MAX;
    for (int i = 0; i < COUNT; i++) {
      int64_t tick = tick_up(FAKE_START + 1 + (i * 7 % COUNT) * MS / 4);
      if (!live(made[i]) && tick > latest_ended) latest_ended = tick;
      if (live(made[i]) && tick < earliest_live) earliest_live = tick;
    }
    cr_assert_leq(latest_ended, earliest_live, "a later one was handled before an earlier one");
  }
  cr_assert_eq(handled, COUNT);
  for (int i = 0; i < COUNT; i++) rctx_end(made[i]);
}

// ---- at random -------------------------------------------------------------------------------------------------------

enum { SLOTS = 300 };
#if defined(__SANITIZE_THREAD__) || CHECK_LEAKS
enum { OPERATIONS = 40000 };
#else
enum { OPERATIONS = 200000 };
#endif

struct slot {
  rctx *ctx;
  int64_t deadline;
};
static struct slot slots[SLOTS]; // in no order: the walk over all is the oracle

static void check_slots(int64_t complete_until) {
  for (int i = 0; i < SLOTS; i++) {
    if (!slots[i].ctx) continue;
    bool due = tick_up(slots[i].deadline) <= complete_until;
    int err = rctx_err(slots[i].ctx);
    cr_assert(err == 0 || slots[i].deadline <= fake_now(), "early: deadline %" PRId64, slots[i].deadline);
    cr_assert(!due || err == -ETIMEDOUT, "late: deadline %" PRId64, slots[i].deadline);
  }
}

static void advance_at_random(struct rng *rng) {
  int64_t step = (int64_t)(rng_next(rng) >> (30 + rng_below(rng, 30)));
  size_t budget = rng_one_in(rng, 3) ? 1 + rng_below(rng, 20) : 0;
  fake_set(fake_now() + step);
  size_t got = rctx_advance(fake.manager, fake_now(), budget);
  cr_assert(budget == 0 || got <= budget);
  if (budget == 0 || got < budget) check_slots(fake_now());
}

static void operate_at_random(struct rng *rng) {
  struct slot *s = &slots[rng_below(rng, SLOTS)];
  if (rng_one_in(rng, 24)) {
    advance_at_random(rng);
  } else if (!s->ctx) {
    s->deadline = fake_now() + 1 + (int64_t)(rng_next(rng) >> (18 + rng_below(rng, 44)));
    s->ctx = rctx_with_deadline(fake_root(), s->deadline);
    if (rng_one_in(rng, 8)) s->deadline = INT64_MAX; // cancelled by hand: never times out
    if (s->deadline == INT64_MAX) cr_assert(rctx_cancel(s->ctx));
    if (s->deadline == INT64_MAX) rctx_end(s->ctx), s->ctx = NULL;
  } else {
    if (rng_one_in(rng, 2)) rctx_cancel(s->ctx);
    rctx_end(s->ctx);
    s->ctx = NULL;
  }
}

Test(timer, random_operations_against_a_plain_list) {
  struct rng rng;
  rng_init(&rng, seed_get());
  watchdog(100);
  for (int i = 0; i < OPERATIONS; i++) {
    operate_at_random(&rng);
    if (i % 64) continue;
    size_t armed = 0;
    int64_t first = INT64_MAX;
    for (int k = 0; k < SLOTS; k++) {
      if (!slots[k].ctx || !live(slots[k].ctx)) continue;
      armed++;
      if (slots[k].deadline < first) first = slots[k].deadline;
    }
    cr_assert_eq(fake_stats().timers, armed);
    int64_t next = rctx_next(fake.manager, fake_now());
    cr_assert(armed ? next <= tick_up(first) : next == INT64_MAX);
  }
  for (int k = 0; k < SLOTS; k++) {
    if (slots[k].ctx) rctx_end(slots[k].ctx);
  }
}

// ---- other ticks, and the library's thread ---------------------------------------------------------------------------

Test(timer, other_resolutions_are_kept) {
  static const int64_t ticks[] = {100000, 333333, 1000000000};
  for (int t = 0; t < 3; t++) {
    rctx_manager *manager;
    struct rctx_manager_options options = fake_options();
    options.tick_ns = ticks[t];
    cr_assert_eq(rctx_manager_create(&options, &manager), 0);
    for (int i = 1; i < 500; i++) {
      int64_t deadline = fake_now() + i * ticks[t] / 3 + 1;
      rctx *c = rctx_with_deadline(rctx_manager_background(manager), deadline);
      fake_set(deadline - 1);
      rctx_advance(manager, fake_now(), 0);
      cr_assert(live(c), "early with a tick of %" PRId64, ticks[t]);
      fake_set((deadline + ticks[t] - 1) / ticks[t] * ticks[t]);
      rctx_advance(manager, fake_now(), 0);
      cr_assert_eq(rctx_err(c), -ETIMEDOUT, "late with a tick of %" PRId64, ticks[t]);
      rctx_end(c);
    }
    cr_assert_eq(rctx_manager_destroy(manager), 0);
  }
}

// Each thread arms short timers while the library's thread sleeps for a far one: no kick is lost, none is early.  [25]
static void arm_and_wait(unsigned index, void *arg) {
  (void)arg;
  for (int i = 0; i < 60; i++) {
    rctx *c = rctx_with_timeout(rctx_background(), (1 + (i + (int)index) % 4) * MS / 2);
    int64_t deadline;
    cr_assert(rctx_deadline(c, &deadline));
    cr_assert_eq(rctx_wait(c, INT64_MAX), -ETIMEDOUT); // for ever: the watchdog looks
    cr_assert_geq(rctx_now(), deadline, "early");
    rctx_end(c);
  }
}

Test(timer, the_librarys_thread_is_woken_for_an_earlier_timer) {
  watchdog(60);
  rctx *far = rctx_with_timeout(rctx_background(), 3600 * SECOND);
  threads_run(4, arm_and_wait, NULL);
  cr_assert(live(far));
  rctx_end(far);
}
