// Detached work that can be seen: below a drain rctx_without_cancel() is counted, shows in rctx_drain_look(), may have a deadline of
// its own, and is waited for. On a virtual clock: hours of grace take no time.
#include "support/check.h"
#include "support/leftovers.h"
#include "support/watchdog.h"

#include <errno.h>
#include <rctx/testing.h>
#include <string.h>

#define SECOND INT64_C(1000000000)
#define HOUR (3600 * SECOND)

RCTX_KEY(user, const char *)

static rctx_test_clock *clk;
static rctx_drain *drain;

static void detached_open(void) {
  watchdog(60);
  if (rctx_test_clock_create(1000 * SECOND, &clk) != 0) abort();
  if (rctx_drain_create(rctx_test_clock_background(clk), "work", &drain) != 0) abort();
}

static void detached_close(void) {
  rctx_drain_destroy(drain);
  nothing_left(rctx_test_clock_manager(clk));
  if (rctx_test_clock_destroy(clk) != 0) abort();
}

TestSuite(detached, .init = detached_open, .fini = detached_close, .timeout = 120);

static struct rctx_drain_left left_now(void) {
  struct rctx_drain_left left;
  rctx_drain_look(drain, &left);
  return left;
}

static void are_left(size_t contexts, size_t live, size_t detached) {
  struct rctx_drain_left left = left_now();
  cr_assert(left.contexts == contexts && left.live == live && left.detached == detached,
            "contexts %zu, live %zu, detached %zu", left.contexts, left.live, left.detached);
}

static bool is_drained(void) { return rctx_err(rctx_drain_drained(drain)) != 0; }

// An audit record's context: detached from the request, with a name and a time of its own. The handle in between is not kept.
static rctx *audit_below(const rctx *request, int64_t timeout_ns) {
  RCTX_SCOPED rctx *detached = rctx_without_cancel(request);
  return rctx_derive(detached, &(struct rctx_spec){.timeout_ns = timeout_ns, .name = "audit"});
}

Test(detached, it_is_counted_although_request_and_handle_are_gone__DRAIN_3) {
  rctx *request = rctx_drain_request(drain, &(struct rctx_spec){.timeout_ns = SECOND});
  rctx *audit = audit_below(request, HOUR);
  are_left(3, 3, 2);
  rctx_end(request);
  are_left(3, 2, 2);
  cr_assert_str_eq(left_now().example, "audit");
  cr_assert_eq(left_now().requests, 1);
  rctx_drain_raise(drain, RCTX_DRAIN_CANCEL);
  cr_assert_eq(rctx_err(audit), 0);
  cr_assert_not(is_drained());
  rctx_end(audit);
  cr_assert(is_drained());
  are_left(0, 0, 0);
}

Test(detached, its_own_deadline_ends_it_and_the_requests_does_not) {
  rctx *request = rctx_drain_request(drain, &(struct rctx_spec){.timeout_ns = SECOND});
  rctx *audit = audit_below(request, HOUR);
  int64_t deadline, start = rctx_test_clock_now(clk);
  cr_assert(rctx_deadline(audit, &deadline));
  cr_assert_eq(deadline, start + HOUR, "not the request's");
  rctx_test_clock_advance(clk, SECOND);
  cr_assert_eq(rctx_err(request), -ETIMEDOUT);
  cr_assert_eq(rctx_err(audit), 0);
  are_left(3, 2, 2);
  rctx_test_clock_advance(clk, HOUR);
  cr_assert_eq(rctx_err(audit), -ETIMEDOUT);
  struct rctx_why why;
  rctx_why(audit, &why);
  cr_assert_eq(why.origin, RCTX_ORIGIN_DEADLINE);
  are_left(3, 1, 2); // what it hangs from never ends, and is gone with it
  rctx_end(request);
  rctx_end(audit);
  are_left(0, 0, 0);
}

Test(detached, its_deadline_comes_at_every_level_of_the_drain__DRAIN_3) {
  rctx *audit[3];
  for (int i = 0; i < 3; i++) {
    RCTX_SCOPED rctx *request = rctx_drain_request(drain, NULL);
    audit[i] = audit_below(request, (i + 1) * HOUR);
  }
  for (int i = 0; i < 3; i++) {
    rctx_drain_raise(drain, (enum rctx_drain_level)(RCTX_DRAIN_STOP + i));
    cr_assert_eq(rctx_err(audit[i]), 0);
    cr_assert_eq(rctx_test_clock_advance(clk, HOUR), 1);
    cr_assert_eq(rctx_err(audit[i]), -ETIMEDOUT);
    cr_assert_not(is_drained(), "ended is not gone");
  }
  for (int i = 0; i < 3; i++) {
    cr_assert_not(is_drained());
    rctx_end(audit[i]);
  }
  cr_assert(is_drained());
}

Test(detached, it_may_begin_while_draining_from_a_request_that_has_ended__DRAIN_3) {
  struct rctx_value ann = user_value("ann");
  rctx *request = rctx_drain_request(drain, &(struct rctx_spec){.values = &ann, .nvalues = 1});
  rctx_drain_raise(drain, RCTX_DRAIN_CANCEL);
  cr_assert_eq(rctx_err(request), -ECANCELED);
  rctx *audit = audit_below(request, HOUR);
  rctx_end(request);
  cr_assert_eq(rctx_err(audit), 0, "a new deadline, and no end from above");
  const char *who = NULL;
  cr_assert(user_get(audit, &who));
  cr_assert_str_eq(who, "ann");
  are_left(3, 2, 2);
  cr_assert_not(is_drained());
  rctx_end(audit);
  cr_assert(is_drained());
}

Test(detached, a_cancel_by_hand_ends_it) {
  RCTX_SCOPED rctx *request = rctx_drain_request(drain, NULL);
  RCTX_SCOPED rctx *audit = audit_below(request, HOUR);
  cr_assert(rctx_cancel(audit));
  cr_assert_eq(rctx_err(audit), -ECANCELED);
  cr_assert_eq(rctx_err(request), 0);
  are_left(3, 2, 2);
}

Test(detached, its_deadline_can_move) {
  RCTX_SCOPED rctx *request = rctx_drain_request(drain, &(struct rctx_spec){.timeout_ns = SECOND});
  RCTX_SCOPED rctx *detached = rctx_without_cancel(request);
  RCTX_SCOPED rctx *audit = rctx_derive(detached, &(struct rctx_spec){.timeout_ns = SECOND, .movable = true});
  cr_assert_eq(rctx_move_deadline(audit, rctx_test_clock_now(clk) + HOUR), 0, "past the request's: not its ancestor's");
  rctx_test_clock_advance(clk, HOUR - SECOND);
  cr_assert_eq(rctx_err(audit), 0);
  rctx_test_clock_advance(clk, SECOND);
  cr_assert_eq(rctx_err(audit), -ETIMEDOUT);
}

static void end_it(const rctx *ctx, void *arg) {
  (void)ctx;
  rctx_end(arg);
}

// The time of a shutdown with a detached write that hangs until its own deadline: grace 10 s, the write's hour, and no more.
Test(detached, a_shutdown_waits_for_its_deadline_and_no_longer__DRAIN_3) {
  int64_t start = rctx_test_clock_now(clk);
  struct rctx_after node = {0};
  struct rctx_drain_left left;
  rctx *request = rctx_drain_request(drain, NULL);
  rctx *audit = audit_below(request, HOUR);
  rctx_end(request);
  rctx_after_inline(audit, &node, RCTX_ON_ENDED_RUN, end_it, audit);
  rctx_test_clock_auto(clk, 1);
  const struct rctx_drain_plan plan = {.grace_ns = 10 * SECOND, .give_up_ns = 24 * HOUR};
  cr_assert_eq(rctx_drain_run(drain, &plan, &left), 0);
  cr_assert_eq(rctx_test_clock_now(clk), start + HOUR);
  cr_assert(left.contexts == 0 && left.detached == 0);
}

Test(detached, a_shutdown_that_gives_up_says_what_it_left) {
  int64_t start = rctx_test_clock_now(clk);
  struct rctx_drain_left left;
  rctx *request = rctx_drain_request(drain, &(struct rctx_spec){.name = NULL});
  rctx *audit = audit_below(request, HOUR);
  rctx_end(request);
  rctx_test_clock_auto(clk, 1);
  const struct rctx_drain_plan plan = {.grace_ns = 10 * SECOND, .give_up_ns = 60 * SECOND};
  cr_assert_eq(rctx_drain_run(drain, &plan, &left), -ETIMEDOUT);
  cr_assert_eq(rctx_test_clock_now(clk), start + 60 * SECOND);
  cr_assert(left.requests == 1 && left.live == 2 && left.detached == 2);
  cr_assert_str_eq(left.example, "audit");
  cr_assert_eq(rctx_err(audit), 0);
  rctx_end(audit);
}
