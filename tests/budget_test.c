// Budgets: budget.h. Each promise [BUDGET-n], the arithmetic at its edges, and against a plain calculation on random
// numbers.
#include "support/check.h"
#include "support/fake_time.h"
#include "support/seed.h"

TestSuite(budget, .init = fake_open, .fini = fake_close, .timeout = 60);

static rctx *with_left(int64_t left_ns) { return rctx_with_deadline(fake_root(), fake_now() + left_ns); }

/* ---- what is left ------------------------------------------------------------------------------------------------ */

Test(budget, is_what_remains_without_the_reserve) {
  RCTX_SCOPED rctx *c = with_left(100 * MS);
  cr_assert_eq(rctx_budget(c, 0), 100 * MS);
  cr_assert_eq(rctx_budget(c, 30 * MS), 70 * MS);
  cr_assert_eq(rctx_budget(c, 100 * MS - 1), 1);
  fake_set(fake_now() + 40 * MS);
  cr_assert_eq(rctx_budget(c, 30 * MS), 30 * MS, "measured anew by each call");
  cr_assert_eq(rctx_budget_at(c, fake_now() + 5 * MS, 30 * MS), 25 * MS, "the caller's time");
  cr_assert_eq(rctx_budget_at(c, fake_now() - 5 * MS, 30 * MS), 35 * MS);
}

Test(budget, is_nothing_where_nothing_is_left__BUDGET_1) {
  RCTX_SCOPED rctx *c = with_left(10 * MS);
  cr_assert_eq(rctx_budget(c, 10 * MS), 0, "the reserve takes all");
  cr_assert_eq(rctx_budget(c, 11 * MS), 0);
  cr_assert_eq(rctx_budget(c, INT64_MAX), 0);
  fake_set(fake_now() + 10 * MS);
  cr_assert_eq(rctx_err(c), 0, "nobody has ended it yet");
  cr_assert_eq(rctx_budget(c, 0), 0);
  cr_assert_eq(rctx_budget_at(c, INT64_MAX, 0), 0);
  RCTX_SCOPED rctx *cancelled = rctx_with_cancel(fake_root());
  rctx_cancel(cancelled);
  cr_assert_eq(rctx_budget(cancelled, 0), 0, "ended, though without a deadline");
  cr_assert_eq(rctx_budget_try(cancelled, 3, 0, 0), 0);
  cr_assert_eq(rctx_budget_share(cancelled, 1, 3, 0, 0), 0);
}

Test(budget, has_no_limit_without_a_deadline__BUDGET_2) {
  RCTX_SCOPED rctx *plain = rctx_with_cancel(fake_root());
  RCTX_SCOPED rctx *never = rctx_with_deadline(fake_root(), INT64_MAX);
  const rctx *unlimited[] = {fake_root(), plain, never};
  for (int i = 0; i < 3; i++) {
    cr_assert_eq(rctx_budget(unlimited[i], 0), INT64_MAX);
    cr_assert_eq(rctx_budget(unlimited[i], 5 * MS), INT64_MAX, "a reserve of what has no end");
    cr_assert_eq(rctx_budget_at(unlimited[i], INT64_MIN, INT64_MAX), INT64_MAX);
    cr_assert_eq(rctx_budget_try(unlimited[i], 4, MS, MS), INT64_MAX);
    cr_assert_eq(rctx_budget_share(unlimited[i], 1, 4, MS, MS), INT64_MAX);
    cr_assert_eq(rctx_budget_require(unlimited[i], INT64_MAX), 0);
  }
}

Test(budget, with_a_deadline_is_never_without_limit__BUDGET_2) {
  RCTX_SCOPED rctx *c = rctx_with_deadline(fake_root(), INT64_MAX - 1);
  cr_assert_eq(rctx_budget_at(c, 0, 0), INT64_MAX - 1);
  cr_assert_eq(rctx_budget_at(c, -1, 0), INT64_MAX - 1, "not INT64_MAX, which would mean none");
  cr_assert_eq(rctx_budget_at(c, INT64_MIN, 0), INT64_MAX - 1);
}

Test(budget, of_a_child_is_the_earlier_of_both) {
  RCTX_SCOPED rctx *c = with_left(50 * MS);
  RCTX_SCOPED rctx *later = rctx_with_timeout(c, SECOND);
  RCTX_SCOPED rctx *earlier = rctx_with_timeout(c, 20 * MS);
  cr_assert_eq(rctx_budget(later, 10 * MS), 40 * MS);
  cr_assert_eq(rctx_budget(earlier, 10 * MS), 10 * MS);
  RCTX_SCOPED rctx *detached = rctx_without_cancel(c);
  cr_assert_eq(rctx_budget(detached, 10 * MS), INT64_MAX);
}

Test(budget, odd_reserves_and_minima_do_no_harm__BUDGET_3) {
  int64_t odd[] = {INT64_MIN, -MS, -1, 0, 1, MS, INT64_MAX - 1, INT64_MAX};
  RCTX_SCOPED rctx *c = with_left(10 * MS);
  for (int i = 0; i < 8; i++) {
    for (int k = 0; k < 8; k++) {
      int64_t all = rctx_budget(c, odd[i]), share = rctx_budget_try(c, 3, odd[i], odd[k]);
      cr_assert(all >= 0 && all <= 10 * MS, "never more than there is");
      cr_assert(share >= 0 && share <= all);
      if (odd[i] <= 0) cr_assert_eq(all, 10 * MS, "a negative reserve is none");
      if (odd[i] <= 0 && odd[k] <= 1) cr_assert_eq(share, 10 * MS / 3);
    }
    cr_assert_leq(rctx_budget_at(c, odd[i], 0), INT64_MAX - 1);
  }
}

/* ---- tries ------------------------------------------------------------------------------------------------------- */

Test(budget, tries_share_alike_and_the_last_gets_the_rest) {
  RCTX_SCOPED rctx *c = with_left(100 * MS);
  cr_assert_eq(rctx_budget_try(c, 3, 10 * MS, 0), 30 * MS);
  cr_assert_eq(rctx_budget_try(c, 2, 10 * MS, 0), 45 * MS);
  cr_assert_eq(rctx_budget_try(c, 1, 10 * MS, 0), 90 * MS);
  cr_assert_eq(rctx_budget_try(c, 0, 10 * MS, 0), 90 * MS, "none left counts as the last");
  cr_assert_eq(rctx_budget_try_at(c, fake_now() + 10 * MS, 2, 10 * MS, 0), 40 * MS);
  cr_assert_eq(rctx_budget_try(c, UINT32_MAX, 0, 0), 1, "a share of less than 1 ns would be none");
}

// Three tries that each use up what they are given leave exactly the reserve.
Test(budget, what_all_tries_take_is_the_budget) {
  RCTX_SCOPED rctx *c = with_left(100 * MS + 1);
  int64_t end = fake_now() + 100 * MS + 1;
  for (unsigned left = 3; left > 0; left--) fake_set(fake_now() + rctx_budget_try(c, left, 7 * MS, 0));
  cr_assert_eq(end - fake_now(), 7 * MS);
  cr_assert_eq(rctx_budget_try(c, 1, 7 * MS, 0), 0);
}

Test(budget, a_try_that_fails_early_leaves_more_to_the_others) {
  RCTX_SCOPED rctx *c = with_left(90 * MS);
  cr_assert_eq(rctx_budget_try(c, 3, 0, 0), 30 * MS);
  fake_set(fake_now() + 2 * MS);
  cr_assert_eq(rctx_budget_try(c, 2, 0, 0), 44 * MS);
}

Test(budget, fewer_tries_that_are_long_enough) {
  RCTX_SCOPED rctx *c = with_left(100 * MS);
  cr_assert_eq(rctx_budget_try(c, 4, 0, 25 * MS), 25 * MS, "exactly enough for four");
  cr_assert_eq(rctx_budget_try(c, 5, 0, 25 * MS), 25 * MS, "four of five");
  cr_assert_eq(rctx_budget_try(c, 5, 0, 40 * MS), 40 * MS, "two of five, the second gets the rest:");
  cr_assert_eq(rctx_budget_try_at(c, fake_now() + 40 * MS, 4, 0, 40 * MS), 60 * MS,
               "20 would be too little for a third");
  cr_assert_eq(rctx_budget_try(c, 5, 0, 100 * MS), 100 * MS);
  cr_assert_eq(rctx_budget_try(c, 5, 0, 100 * MS + 1), 0, "not even one");
  cr_assert_eq(rctx_budget_try(c, 1, 0, 100 * MS + 1), 0, "also the last");
  cr_assert_eq(rctx_budget_try(c, 2, 1, 100 * MS), 0, "the reserve is no part of it");
}

Test(budget, a_share_goes_by_weight) {
  RCTX_SCOPED rctx *c = with_left(70 * MS);
  cr_assert_eq(rctx_budget_share(c, 4, 7, 0, 0), 40 * MS);
  cr_assert_eq(rctx_budget_share_at(c, fake_now() + 40 * MS, 2, 3, 0, 0), 20 * MS);
  cr_assert_eq(rctx_budget_share_at(c, fake_now() + 60 * MS, 1, 1, 0, 0), 10 * MS);
  cr_assert_eq(rctx_budget_share(c, 8, 7, 0, 0), 70 * MS, "more than there are: all");
  cr_assert_eq(rctx_budget_share(c, 0, 0, 0, 0), 70 * MS);
  cr_assert_eq(rctx_budget_share(c, 0, 7, 0, 3 * MS), 3 * MS, "no weight: the minimum");
  cr_assert_eq(rctx_budget_share(c, UINT32_MAX - 1, UINT32_MAX, 0, 0), 70 * MS - 1, "rounded down");
}

Test(budget, shares_are_exact_at_the_edge_of_64_bits__BUDGET_3) {
  RCTX_SCOPED rctx *c = rctx_with_deadline(fake_root(), INT64_MAX - 1);
  cr_assert_eq(rctx_budget_share_at(c, 0, UINT32_MAX - 1, UINT32_MAX, 0, 0),
               (int64_t)(((unsigned __int128)(INT64_MAX - 1) * (UINT32_MAX - 1)) / UINT32_MAX));
}

Test(budget, shares_are_those_of_a_plain_calculation) {
  struct rng rng;
  rng_init(&rng, seed_get());
  RCTX_SCOPED rctx *c = rctx_with_deadline(fake_root(), INT64_MAX - 1);
  for (int round = 0; round < 20000; round++) {
    int64_t left = (int64_t)(rng_next(&rng) >> (1 + rng_below(&rng, 63)));
    int64_t reserve = (int64_t)(rng_next(&rng) >> (1 + rng_below(&rng, 63)));
    int64_t min = (int64_t)(rng_next(&rng) >> (1 + rng_below(&rng, 63)));
    unsigned of = (unsigned)(rng_next(&rng) >> (32 + rng_below(&rng, 31))),
             weight = (unsigned)rng_below(&rng, of + 1ULL);
    __extension__ typedef __int128 wide;
    wide budget = left > reserve ? (wide)left - reserve : 0, share = of ? budget * weight / of : budget;
    wide least = min > 1 ? min : 1;
    if (weight >= of) share = budget;
    if (share < least) share = least;
    if (budget - share < least) share = budget;
    if (budget < least) share = 0;
    int64_t now = INT64_MAX - 1 - left;
    cr_assert_eq(rctx_budget_share_at(c, now, weight, of, reserve, min), (int64_t)share,
                 "left %" PRId64 " reserve %" PRId64 " min %" PRId64 " weight %u of %u", left, reserve, min, weight,
                 of);
    cr_assert_eq(rctx_budget_at(c, now, reserve), (int64_t)budget);
  }
}

/* ---- is it worth beginning --------------------------------------------------------------------------------------- */

Test(budget, requires_as_much_as_is_said) {
  RCTX_SCOPED rctx *c = with_left(10 * MS);
  cr_assert_eq(rctx_budget_require(c, 10 * MS), 0);
  cr_assert_eq(rctx_budget_require(c, 10 * MS + 1), -ETIMEDOUT);
  cr_assert_eq(rctx_budget_require(c, 0), 0);
  cr_assert_eq(rctx_budget_require(c, INT64_MIN), 0);
  cr_assert_eq(rctx_budget_require(c, INT64_MAX), -ETIMEDOUT);
  cr_assert_eq(rctx_budget_require_at(c, fake_now() + 9 * MS, MS), 0);
  cr_assert_eq(rctx_budget_require_at(c, fake_now() + 9 * MS + 1, MS), -ETIMEDOUT);
  cr_assert_eq(rctx_budget_require_at(c, fake_now() + 10 * MS, 0), -ETIMEDOUT, "nothing left is never enough");
  cr_assert_eq(rctx_budget_require_at(c, fake_now() + 10 * MS, INT64_MIN), -ETIMEDOUT);
}

Test(budget, of_an_ended_context_says_why_it_ended) {
  RCTX_SCOPED rctx *cancelled = with_left(10 * MS);
  RCTX_SCOPED rctx *reset = with_left(10 * MS);
  RCTX_SCOPED rctx *timed = with_left(10 * MS);
  rctx_cancel(cancelled);
  rctx_cancel_with(reset, -ECONNRESET, RCTX_ORIGIN_PEER, "reset");
  cr_assert_eq(rctx_budget_require(cancelled, 0), -ECANCELED);
  cr_assert_eq(rctx_budget_require_at(reset, 0, 0), -ECONNRESET);
  fake_go(12 * MS);
  cr_assert_eq(rctx_budget_require(timed, 0), -ETIMEDOUT);
}

// The result is a timeout as it is, with 0 and INT64_MAX meaning what they mean there.
Test(budget, may_be_passed_on_as_a_timeout) {
  RCTX_SCOPED rctx *c = with_left(90 * MS);
  RCTX_SCOPED rctx *third = rctx_with_timeout(c, rctx_budget_try(c, 3, 0, 0));
  RCTX_SCOPED rctx *none = rctx_with_timeout(c, rctx_budget_try(c, 3, 0, SECOND));
  RCTX_SCOPED rctx *spec =
      rctx_derive(c, &(struct rctx_spec){.timeout_ns = RCTX_BUDGET(rctx_budget_try(c, 3, 0, SECOND))});
  RCTX_SCOPED rctx *unlimited = rctx_with_timeout(fake_root(), rctx_budget(fake_root(), MS));
  cr_assert_eq(rctx_remaining(third), 30 * MS);
  cr_assert_eq(rctx_err(none), -ETIMEDOUT);
  cr_assert_eq(rctx_err(spec), -ETIMEDOUT);
  cr_assert_eq(rctx_err(unlimited), 0);
  cr_assert_eq(rctx_budget(unlimited, MS), INT64_MAX);
}

// Who has no deadline does not pay for the clock; who has one pays once.
static _Atomic int clock_reads;
static int64_t counted_clock(void *arg) {
  (void)arg;
  clock_reads++;
  return FAKE_START;
}
Test(budget, reads_the_clock_once_and_only_for_a_deadline) {
  struct rctx_manager_options options = {.drive = RCTX_DRIVE_EMBEDDER, .now = counted_clock};
  rctx_manager *manager;
  cr_assert_eq(rctx_manager_create(&options, &manager), 0);
  rctx *c = rctx_with_cancel(rctx_manager_background(manager)), *timed = rctx_with_deadline(c, FAKE_START + MS);
  int before = clock_reads;
  cr_assert_eq(rctx_budget(c, 0), INT64_MAX);
  cr_assert_eq(rctx_budget_try(c, 2, 0, 0), INT64_MAX);
  cr_assert_eq(rctx_budget_require(c, 1), 0);
  cr_assert_eq(clock_reads, before);
  cr_assert_eq(rctx_budget(timed, 0), MS);
  cr_assert_eq(clock_reads, before + 1);
  cr_assert_eq(rctx_budget_at(timed, FAKE_START, 0), MS);
  cr_assert_eq(clock_reads, before + 1, "the caller's");
  rctx_end(timed);
  rctx_end(c);
  cr_assert_eq(rctx_quiesce(manager, INT64_MAX), 0);
  cr_assert_eq(rctx_manager_destroy(manager), 0);
}
