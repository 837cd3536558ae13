// Deadlines and timeouts: semantics section 4; [CTX-7]; all that saturates. On a clock that the test moves; the last few run
// on the default manager and its thread, where only the order of events is looked at.
#include "support/check.h"
#include "support/fake_time.h"
#include "support/seed.h"

TestSuite(deadline, .init = fake_open, .fini = fake_close, .timeout = 120);

RCTX_KEY(tag, int)

static int64_t deadline_of(const rctx *ctx) {
  int64_t deadline = 0;
  cr_assert(rctx_deadline(ctx, &deadline));
  return deadline;
}

static bool has_deadline(const rctx *ctx) {
  int64_t deadline;
  return rctx_deadline(ctx, &deadline);
}

static struct rctx_info info_of(const rctx *ctx) {
  struct rctx_info info;
  rctx_inspect(ctx, &info);
  return info;
}

static int origin_of(const rctx *ctx) {
  struct rctx_why why;
  rctx_why(ctx, &why);
  return why.origin;
}

Test(deadline, it_expires_by_itself__TestDeadline_TestTimeout) {
  RCTX_SCOPED rctx *by_time = rctx_with_deadline(fake_root(), fake_now() + MS);
  RCTX_SCOPED rctx *by_length = rctx_with_timeout(fake_root(), MS);
  RCTX_SCOPED rctx *wrapped = tag_with(by_length, 1);
  cr_assert_eq(rctx_err(by_time), 0);
  fake_pass(fake_now() + MS);
  cr_assert_eq(rctx_err(by_time), -ETIMEDOUT);
  cr_assert_eq(rctx_err(by_length), -ETIMEDOUT);
  cr_assert_eq(rctx_err(wrapped), -ETIMEDOUT);
  cr_assert_eq(origin_of(by_time), RCTX_ORIGIN_DEADLINE);
  cr_assert_eq(origin_of(wrapped), RCTX_ORIGIN_PARENT_DEADLINE);
}

Test(deadline, the_earlier_of_two_wins__TestDeadline_otherContext) {
  RCTX_SCOPED rctx *parent = rctx_with_timeout(fake_root(), SECOND);
  RCTX_SCOPED rctx *other = tag_with(parent, 1);
  RCTX_SCOPED rctx *far = rctx_with_timeout(other, 1000 * SECOND);
  RCTX_SCOPED rctx *near = rctx_with_timeout(other, SECOND / 2);
  cr_assert_eq(deadline_of(far), deadline_of(parent));
  cr_assert_eq(deadline_of(near), fake_now() + SECOND / 2);
  fake_pass(deadline_of(near));
  cr_assert_eq(rctx_err(near), -ETIMEDOUT);
  cr_assert_eq(rctx_err(far), 0);
  cr_assert_eq(rctx_err(parent), 0);
  fake_pass(deadline_of(parent));
  cr_assert_eq(rctx_err(far), -ETIMEDOUT);
}

Test(deadline, past_and_now_are_done_on_return__TestDeadline_inthepast_now) {
  int64_t now = fake_now();
  int64_t ended[] = {now, now - 1, now - SECOND, 1, 0, -1, INT64_MIN};
  for (size_t i = 0; i < sizeof ended / sizeof *ended; i++) {
    RCTX_SCOPED rctx *c = rctx_with_deadline(fake_root(), ended[i]);
    cr_assert_eq(rctx_err(c), -ETIMEDOUT, "deadline %lld", (long long)ended[i]);
    cr_assert_eq(origin_of(c), RCTX_ORIGIN_DEADLINE);
    cr_assert_not_null(rctx_cause(c));
    cr_assert_eq(deadline_of(c), ended[i]);
    cr_assert_eq(rctx_remaining(c), 0);
    cr_assert_not(rctx_cancel(c));
    cr_assert_not(info_of(c).timer_armed);
  }
  cr_assert_eq(fake_stats().timers, 0);
}

Test(deadline, zero_and_negative_timeouts_are_done_on_return__probe) {
  int64_t ended[] = {0, -1, -SECOND, INT64_MIN, INT64_MIN + 1};
  for (size_t i = 0; i < sizeof ended / sizeof *ended; i++) {
    RCTX_SCOPED rctx *c = rctx_with_timeout(fake_root(), ended[i]);
    RCTX_SCOPED rctx *at = rctx_with_timeout_at(fake_root(), fake_now(), ended[i]);
    RCTX_SCOPED rctx *caused = rctx_with_timeout_cause(fake_root(), ended[i], NULL);
    cr_assert_eq(rctx_err(c), -ETIMEDOUT, "timeout %lld", (long long)ended[i]);
    cr_assert_eq(rctx_err(at), -ETIMEDOUT);
    cr_assert_eq(rctx_err(caused), -ETIMEDOUT);
  }
}

Test(deadline, cancel_after_expiry_changes_nothing__TestCause_WithTimeout) {
  RCTX_SCOPED rctx *c = rctx_with_timeout(fake_root(), MS);
  fake_go(3 * MS);
  const struct rctx_cause *cause = rctx_cause(c);
  cr_assert_not(rctx_cancel(c));
  cr_assert_eq(rctx_err(c), -ETIMEDOUT);
  cr_assert_eq(rctx_cause(c), cause);
}

Test(deadline, it_is_that_of_the_nearest_deadline_ancestor__probe) {
  RCTX_SCOPED rctx *timed = rctx_with_timeout(fake_root(), SECOND);
  RCTX_SCOPED rctx *plain = rctx_with_cancel(timed);
  RCTX_SCOPED rctx *value = tag_with(plain, 1);
  RCTX_SCOPED rctx *untimed = rctx_with_cancel(fake_root());
  cr_assert_eq(deadline_of(plain), deadline_of(timed));
  cr_assert_eq(deadline_of(value), deadline_of(timed));
  cr_assert_not(has_deadline(untimed));
  cr_assert_not(has_deadline(fake_root()));
}

/* ---- nothing wraps ----------------------------------------------------------------------------------------------- */

static void never_expires(rctx *c, const char *what) {
  cr_assert_eq(rctx_err(c), 0, "%s", what);
  cr_assert_gt(rctx_remaining(c), INT64_MAX / 4, "%s", what);
  fake_reach(FAKE_START + INT64_MAX / 8);
  cr_assert_eq(rctx_err(c), 0, "%s", what);
  fake_set(FAKE_START);
  cr_assert(rctx_cancel(c));
}

Test(deadline, the_largest_timeout_never_comes__probe) {
  RCTX_SCOPED rctx *c = rctx_with_timeout(fake_root(), INT64_MAX);
  never_expires(c, "2^63-1 ns");
}

Test(deadline, the_largest_deadline_is_legal_and_never_comes) {
  RCTX_SCOPED rctx *c = rctx_with_deadline(fake_root(), INT64_MAX);
  never_expires(c, "INT64_MAX");
}

Test(deadline, sums_saturate_upwards) {
  RCTX_SCOPED rctx *just = rctx_with_timeout(fake_root(), INT64_MAX - FAKE_START + 1);
  RCTX_SCOPED rctx *at = rctx_with_timeout_at(fake_root(), INT64_MAX - 5, 100);
  RCTX_SCOPED rctx *both = rctx_with_timeout_at(fake_root(), INT64_MAX, INT64_MAX);
  RCTX_SCOPED rctx *spec = rctx_derive(fake_root(), &(struct rctx_spec){.timeout_ns = INT64_MAX, .now_ns = INT64_MAX});
  RCTX_SCOPED rctx *caused = rctx_with_timeout_at_cause(fake_root(), INT64_MAX - 1, 2, NULL);
  rctx *all[] = {just, at, both, spec, caused};
  for (int i = 0; i < 5; i++) cr_assert_eq(rctx_err(all[i]), 0, "number %d", i);
  fake_reach(INT64_MAX / 2);
  for (int i = 0; i < 5; i++) cr_assert_eq(rctx_err(all[i]), 0, "number %d", i);
}

Test(deadline, sums_saturate_downwards) {
  RCTX_SCOPED rctx *low = rctx_with_timeout_at(fake_root(), INT64_MIN + 5, -100);
  RCTX_SCOPED rctx *both = rctx_with_timeout_at(fake_root(), INT64_MIN, INT64_MIN);
  RCTX_SCOPED rctx *spec = rctx_derive(fake_root(), &(struct rctx_spec){.timeout_ns = INT64_MIN, .now_ns = -7});
  cr_assert_eq(rctx_err(low), -ETIMEDOUT);
  cr_assert_eq(rctx_err(both), -ETIMEDOUT);
  cr_assert_eq(rctx_err(spec), -ETIMEDOUT);
  RCTX_SCOPED rctx *across = rctx_with_timeout_at(fake_root(), INT64_MIN, INT64_MAX); // -1: past
  cr_assert_eq(rctx_err(across), -ETIMEDOUT);
}

Test(deadline, remaining_saturates) {
  RCTX_SCOPED rctx *far = rctx_with_deadline(fake_root(), INT64_MAX - 1);
  cr_assert_eq(rctx_remaining_at(far, INT64_MIN), INT64_MAX);
  cr_assert_eq(rctx_remaining_at(far, -2), INT64_MAX);
  RCTX_SCOPED rctx *past = rctx_with_deadline(fake_root(), INT64_MIN + 1);
  cr_assert_eq(rctx_remaining_at(past, INT64_MAX), 0);
}

Test(deadline, advancing_to_the_end_of_time_ends_all_but_never) {
  RCTX_SCOPED rctx *far = rctx_with_deadline(fake_root(), INT64_MAX - 10 * FAKE_TICK);
  RCTX_SCOPED rctx *never = rctx_with_deadline(fake_root(), INT64_MAX);
  fake_reach(INT64_MAX - 1);
  cr_assert_eq(rctx_err(far), -ETIMEDOUT);
  cr_assert_eq(rctx_err(never), 0);
  fake_reach(INT64_MAX);
  cr_assert_eq(rctx_err(never), 0, "INT64_MAX never comes");
  rctx_cancel(never);
}

/* ---- timers ------------------------------------------------------------------------------------------------------ */

Test(deadline, cancel_and_the_parents_end_disarm_at_once__source) {
  RCTX_SCOPED rctx *parent = rctx_with_cancel(fake_root());
  RCTX_SCOPED rctx *a = rctx_with_timeout(parent, SECOND);
  RCTX_SCOPED rctx *b = rctx_with_timeout(parent, 100 * SECOND);
  cr_assert(info_of(a).timer_armed && info_of(b).timer_armed);
  cr_assert_eq(fake_stats().timers, 2);
  rctx_cancel(a);
  cr_assert_not(info_of(a).timer_armed);
  cr_assert_eq(fake_stats().timers, 1);
  rctx_cancel(parent);
  cr_assert_not(info_of(b).timer_armed);
  cr_assert_eq(fake_stats().timers, 0);
  cr_assert_eq(rctx_next(fake.manager, fake_now()), INT64_MAX, "and the driver has nothing to wait for");
  cr_assert_eq(fake_go(1000 * SECOND), 0);
}

Test(deadline, expiry_unlinks_from_the_parent__source) {
  RCTX_SCOPED rctx *parent = rctx_with_cancel(fake_root());
  RCTX_SCOPED rctx *c = rctx_with_timeout(parent, MS);
  cr_assert_eq(info_of(parent).children, 1);
  cr_assert_eq(fake_go(3 * MS), 1);
  cr_assert_eq(info_of(parent).children, 0);
  cr_assert_not(info_of(c).timer_armed);
  cr_assert_eq(rctx_err(parent), 0);
}

Test(deadline, the_error_reads_no_clock__CTX_7__source) {
  RCTX_SCOPED rctx *c = rctx_with_timeout(fake_root(), MS);
  fake_set(fake_now() + SECOND);
  cr_assert_eq(rctx_err(c), 0, "past its deadline, but nobody has driven the clock yet");
  cr_assert_eq(rctx_remaining(c), 0);
  cr_assert_eq(rctx_advance(fake.manager, fake_now(), 0), 1);
  cr_assert_eq(rctx_err(c), -ETIMEDOUT);
}

Test(deadline, no_timer_when_the_parent_ends_earlier) {
  RCTX_SCOPED rctx *parent = rctx_with_timeout(fake_root(), SECOND);
  RCTX_SCOPED rctx *later = rctx_with_timeout(parent, SECOND + 1);
  cr_assert_eq(info_of(later).kind, RCTX_KIND_CANCEL);
  cr_assert_not(info_of(later).timer_armed);
  cr_assert_eq(fake_stats().timers, 1);
  RCTX_SCOPED rctx *earlier = rctx_with_timeout(parent, SECOND - 1);
  cr_assert_eq(info_of(earlier).kind, RCTX_KIND_DEADLINE);
  cr_assert(info_of(earlier).timer_armed);
}

// Parent and child end at the same instant: the child still reports its own deadline and cause, in either order of making.
Test(deadline, an_equal_deadline_is_its_own_end) {
  static const struct rctx_cause own = {-ETIMEDOUT, RCTX_ORIGIN_DEADLINE, "child", NULL, 0, NULL, NULL};
  static const struct rctx_cause parents = {-ETIMEDOUT, RCTX_ORIGIN_DEADLINE, "parent", NULL, 0, NULL, NULL};
  for (int64_t offset = 0; offset < 3; offset++) {
    int64_t deadline = fake_now() + SECOND + offset * 333333;
    RCTX_SCOPED rctx *parent = rctx_with_deadline_cause(fake_root(), deadline, &parents);
    RCTX_SCOPED rctx *child = rctx_with_deadline_cause(parent, deadline, &own);
    RCTX_SCOPED rctx *plain = rctx_with_deadline(parent, deadline);
    RCTX_SCOPED rctx *below = rctx_with_cancel(child);
    cr_assert_eq(info_of(child).kind, RCTX_KIND_DEADLINE);
    fake_pass(deadline);
    cr_assert_eq(rctx_cause(parent), &parents);
    cr_assert_eq(rctx_cause(child), &own);
    cr_assert_eq(rctx_cause(below), &own);
    cr_assert_eq(origin_of(child), RCTX_ORIGIN_DEADLINE);
    cr_assert_eq(origin_of(plain), RCTX_ORIGIN_DEADLINE);
    cr_assert_neq(rctx_cause(plain), &parents);
  }
}

Test(deadline, an_equal_deadline_is_its_own_end_also_when_both_are_overdue) {
  static const struct rctx_cause own = {-ETIMEDOUT, RCTX_ORIGIN_DEADLINE, "child", NULL, 0, NULL, NULL};
  int64_t deadline = fake_now() + SECOND;
  RCTX_SCOPED rctx *parent = rctx_with_deadline(fake_root(), deadline);
  fake_set(deadline + SECOND);
  RCTX_SCOPED rctx *child = rctx_with_deadline_cause(parent, deadline, &own);
  cr_assert_eq(rctx_err(child), -ETIMEDOUT, "now or earlier: ended on return");
  cr_assert_eq(rctx_cause(child), &own);
  cr_assert_eq(rctx_err(parent), 0);
}

Test(deadline, never_early_and_at_most_one_tick_late__CTX_7) {
  enum { CONTEXTS = 2000 };
  static rctx *all[CONTEXTS];
  struct rng random;
  rng_init(&random, seed_get());
  for (int i = 0; i < CONTEXTS; i++) // from 1 ns to 3 hours, evenly over the orders of magnitude
    all[i] = rctx_with_timeout(fake_root(), rng_between(&random, 1, INT64_C(1) << (5 + rng_below(&random, 39))));
  cr_assert_eq(fake_stats().timers, CONTEXTS);
  while (fake_stats().timers) {
    int64_t next = rctx_next(fake.manager, fake_now());
    cr_assert_gt(next, fake_now());
    int64_t far = rng_one_in(&random, 4) ? rng_between(&random, 0, 30 * SECOND) : 0;
    fake_reach(rng_one_in(&random, 3) ? next + far : next);
    for (int i = 0; i < CONTEXTS; i++) {
      int64_t deadline = deadline_of(all[i]);
      if (fake_now() < deadline)
        cr_assert_eq(rctx_err(all[i]), 0, "early by %lld ns", (long long)(deadline - fake_now()));
      if (fake_now() >= deadline + FAKE_TICK)
        cr_assert_eq(rctx_err(all[i]), -ETIMEDOUT, "late by %lld ns", (long long)(fake_now() - deadline));
    }
  }
  for (int i = 0; i < CONTEXTS; i++) {
    cr_assert_eq(rctx_err(all[i]), -ETIMEDOUT);
    rctx_end(all[i]);
  }
}

Test(deadline, a_finer_tick_is_finer__CTX_7) {
  struct rctx_manager_options options = fake_options();
  rctx_manager *fine;
  options.tick_ns = 100000;
  cr_assert_eq(rctx_manager_create(&options, &fine), 0);
  for (int64_t step = 1; step < MS; step += 77777) {
    rctx *c = rctx_with_timeout(rctx_manager_background(fine), step);
    int64_t deadline = deadline_of(c);
    fake_set(deadline - 1);
    rctx_advance(fine, deadline - 1, 0);
    cr_assert_eq(rctx_err(c), 0);
    fake_set(deadline + 100000);
    rctx_advance(fine, deadline + 100000, 0);
    cr_assert_eq(rctx_err(c), -ETIMEDOUT);
    rctx_end(c);
  }
  nothing_left(fine);
  cr_assert_eq(rctx_manager_destroy(fine), 0);
}

/* ---- specs, remaining, clocks ------------------------------------------------------------------------------------ */

Test(deadline, of_a_specs_two_the_earlier_counts) {
  int64_t now = fake_now();
  RCTX_SCOPED rctx *timeout =
      rctx_derive(fake_root(), &(struct rctx_spec){.timeout_ns = SECOND, .deadline_ns = now + 2 * SECOND});
  RCTX_SCOPED rctx *deadline =
      rctx_derive(fake_root(), &(struct rctx_spec){.timeout_ns = 3 * SECOND, .deadline_ns = now + 2 * SECOND});
  RCTX_SCOPED rctx *only = rctx_derive(fake_root(), &(struct rctx_spec){.deadline_ns = now + 5});
  RCTX_SCOPED rctx *cached = rctx_derive(fake_root(), &(struct rctx_spec){.timeout_ns = SECOND, .now_ns = now - 10});
  cr_assert_eq(deadline_of(timeout), now + SECOND);
  cr_assert_eq(deadline_of(deadline), now + 2 * SECOND);
  cr_assert_eq(deadline_of(only), now + 5);
  cr_assert_eq(deadline_of(cached), now - 10 + SECOND);
  RCTX_SCOPED rctx *past = rctx_derive(fake_root(), &(struct rctx_spec){.timeout_ns = SECOND, .deadline_ns = now});
  RCTX_SCOPED rctx *negative = rctx_derive(fake_root(), &(struct rctx_spec){.timeout_ns = -1});
  RCTX_SCOPED rctx *neither = rctx_derive(fake_root(), &(struct rctx_spec){.now_ns = now});
  cr_assert_eq(rctx_err(past), -ETIMEDOUT);
  cr_assert_eq(rctx_err(negative), -ETIMEDOUT);
  cr_assert_not(has_deadline(neither));
}

Test(deadline, a_computed_budget_of_zero_is_ended_not_unlimited) {
  int64_t budgets[] = {0, -5, 5, INT64_MAX};
  for (int i = 0; i < 4; i++) {
    RCTX_SCOPED rctx *c = rctx_derive(fake_root(), &(struct rctx_spec){.timeout_ns = RCTX_BUDGET(budgets[i])});
    cr_assert_eq(rctx_err(c), budgets[i] <= 0 ? -ETIMEDOUT : 0);
  }
  int evaluated = 0;
  cr_assert_eq(RCTX_BUDGET(evaluated++), -1);
  cr_assert_eq(evaluated, 1, "once");
}

Test(deadline, a_stale_now_is_earlier_never_later) {
  RCTX_SCOPED rctx *stale = rctx_with_timeout_at(fake_root(), fake_now() - SECOND / 2, SECOND);
  cr_assert_eq(deadline_of(stale), fake_now() + SECOND / 2);
  RCTX_SCOPED rctx *ancient = rctx_with_timeout_at(fake_root(), fake_now() - 2 * SECOND, SECOND);
  cr_assert_eq(rctx_err(ancient), -ETIMEDOUT);
}

Test(deadline, remaining_counts_down_to_zero) {
  RCTX_SCOPED rctx *c = rctx_with_timeout(fake_root(), SECOND);
  RCTX_SCOPED rctx *child = rctx_with_cancel(c);
  RCTX_SCOPED rctx *without = rctx_with_cancel(fake_root());
  cr_assert_eq(rctx_remaining(child), SECOND);
  cr_assert_eq(rctx_remaining_at(child, fake_now() + 1), SECOND - 1);
  cr_assert_eq(rctx_remaining_at(child, fake_now() + SECOND), 0);
  cr_assert_eq(rctx_remaining_at(child, INT64_MAX), 0);
  fake_set(fake_now() + SECOND / 4);
  cr_assert_eq(rctx_remaining(child), 3 * SECOND / 4);
  cr_assert_eq(rctx_remaining(without), INT64_MAX);
  rctx_cancel(without);
  cr_assert_eq(rctx_remaining(without), 0, "0 if ended, also without a deadline");
  rctx_cancel(child);
  cr_assert_eq(rctx_remaining(child), 0);
  cr_assert_eq(rctx_remaining_at(child, 0), 0);
  cr_assert_eq(deadline_of(child), deadline_of(c), "the deadline stays readable after the end");
}

Test(deadline, below_an_ended_parent_it_is_still_recorded) {
  RCTX_SCOPED rctx *parent = rctx_with_cancel(fake_root());
  rctx_cancel(parent);
  RCTX_SCOPED rctx *by_time = rctx_with_deadline(parent, fake_now() + SECOND);
  RCTX_SCOPED rctx *past = rctx_with_deadline(parent, fake_now() - SECOND);
  RCTX_SCOPED rctx *spec = rctx_derive(parent, &(struct rctx_spec){.timeout_ns = 2 * SECOND});
  cr_assert_eq(deadline_of(by_time), fake_now() + SECOND);
  cr_assert_eq(deadline_of(past), fake_now() - SECOND);
  cr_assert_eq(deadline_of(spec), fake_now() + 2 * SECOND);
  cr_assert_eq(rctx_err(past), -ECANCELED, "the parent's end was first");
  cr_assert_eq(fake_stats().timers, 0);
}

Test(deadline, the_public_clock_is_that_of_the_deadlines) {
  struct timespec before, after;
  clock_gettime(CLOCK_MONOTONIC, &before);
  int64_t now = rctx_now();
  clock_gettime(CLOCK_MONOTONIC, &after);
  cr_assert_leq(before.tv_sec * SECOND + before.tv_nsec, now);
  cr_assert_geq(after.tv_sec * SECOND + after.tv_nsec, now);
  RCTX_SCOPED rctx *c = rctx_with_cancel(fake_root());
  cr_assert_eq(rctx_now_of(c), fake_now());
  cr_assert_eq(rctx_now_of(fake_root()), fake_now());
  cr_assert_eq(rctx_manager_now(fake.manager), fake_now());
  int64_t low = rctx_now(), of_default = rctx_now_of(rctx_background());
  cr_assert(low <= of_default && of_default <= rctx_now());
  RCTX_SCOPED rctx *timed = rctx_with_timeout(fake_root(), 17);
  cr_assert_eq(deadline_of(timed), fake_now() + 17, "exact: no rounding in what is read back");
}

/* ---- the default manager's thread -------------------------------------------------------------------------------- */

Test(deadline, the_librarys_thread_ends_them_in_order) {
  int64_t start = rctx_now();
  RCTX_SCOPED rctx *first = rctx_with_deadline(rctx_background(), start + 5 * MS);
  RCTX_SCOPED rctx *second = rctx_with_deadline(rctx_background(), start + 60 * MS);
  RCTX_SCOPED rctx *child = rctx_with_cancel(second);
  cr_assert_eq(rctx_wait(first, INT64_MAX), -ETIMEDOUT);
  cr_assert_geq(rctx_now(), start + 5 * MS, "never early");
  cr_assert_eq(rctx_wait(child, INT64_MAX), -ETIMEDOUT);
  cr_assert_geq(rctx_now(), start + 60 * MS, "never early");
  cr_assert_eq(rctx_err(second), -ETIMEDOUT);
}

Test(deadline, an_earlier_deadline_wakes_the_sleeping_thread) {
  RCTX_SCOPED rctx *far = rctx_with_timeout(rctx_background(), 3600 * SECOND);
  rctx_wait(far, rctx_now() + 20 * MS); // the thread goes to sleep for an hour
  RCTX_SCOPED rctx *near = rctx_with_timeout(rctx_background(), MS);
  cr_assert_eq(rctx_wait(near, rctx_now() + 60 * SECOND), -ETIMEDOUT);
  cr_assert_eq(rctx_err(far), 0);
}

Test(deadline, a_cancelled_timer_on_the_thread_does_not_fire) {
  int64_t timeout = 20 * MS;
  rctx *c = rctx_with_timeout(rctx_background(), timeout);
  while (!rctx_cancel(c)) { // it was faster than we
    rctx_end(c);
    c = rctx_with_timeout(rctx_background(), timeout *= 2);
  }
  RCTX_SCOPED rctx *later = rctx_with_timeout(rctx_background(), timeout + 20 * MS);
  cr_assert_eq(rctx_wait(later, INT64_MAX), -ETIMEDOUT);
  cr_assert_eq(rctx_err(c), -ECANCELED);
  rctx_end(c);
}
