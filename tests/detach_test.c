// rctx_without_cancel: semantics section 7.
#include "support/check.h"
#include "support/fake_time.h"

TestSuite(detach, .init = fake_open, .fini = fake_close, .timeout = 60);

RCTX_KEY(user, const char *)

static void never_called(const rctx *ctx, void *arg) {
  (void)ctx;
  (void)arg;
  cr_assert_fail("a callback on what can never end has run");
}

static void cannot_end(const rctx *ctx) {
  int64_t deadline;
  struct rctx_after node = {0};
  cr_assert_eq(rctx_err(ctx), 0);
  cr_assert_null(rctx_cause(ctx));
  cr_assert_not(rctx_deadline(ctx, &deadline));
  cr_assert_eq(rctx_remaining(ctx), INT64_MAX);
  cr_assert_eq(rctx_fd(ctx), -ENOTSUP);
  cr_assert_eq(rctx_wait(ctx, rctx_now_of(ctx)), 0);
  cr_assert_eq(rctx_after_inline(ctx, &node, RCTX_ON_ENDED_RUN, never_called, NULL), RCTX_NEVER);
  cr_assert(rctx_after_stop(&node));
  cr_assert_not(rctx_after_stop(&node));
  cr_assert_eq(rctx_after(ctx, &node, never_called, NULL), RCTX_NEVER);
  cr_assert(rctx_after_stop_sync(&node));
}

Test(detach, no_deadline_no_handle_no_error_but_the_values__TestWithoutCancel) {
  const char *who;
  RCTX_SCOPED rctx *value = user_with(fake_root(), "ann");
  RCTX_SCOPED rctx *timed = rctx_with_timeout(value, SECOND);
  RCTX_SCOPED rctx *detached = rctx_without_cancel(timed);
  cannot_end(detached);
  cr_assert(user_get(detached, &who));
  cr_assert_str_eq(who, "ann");
}

Test(detach, no_cause_whatever_happens_above__TestCause_WithoutCancel) {
  RCTX_SCOPED rctx *parent = rctx_with_timeout(fake_root(), SECOND);
  RCTX_SCOPED rctx *before = rctx_without_cancel(parent);
  cannot_end(before);
  fake_go(2 * SECOND);
  RCTX_SCOPED rctx *after = rctx_without_cancel(parent);
  cr_assert_eq(rctx_err(parent), -ETIMEDOUT);
  cannot_end(before);
  cannot_end(after);
  RCTX_SCOPED rctx *cancelled = rctx_with_cancel(fake_root());
  RCTX_SCOPED rctx *below = rctx_without_cancel(cancelled);
  rctx_cancel(cancelled);
  cannot_end(below);
}

Test(detach, a_timeout_below_has_its_own_deadline_only__probe) {
  RCTX_SCOPED rctx *parent = rctx_with_timeout(fake_root(), SECOND);
  RCTX_SCOPED rctx *detached = rctx_without_cancel(parent);
  RCTX_SCOPED rctx *timed = rctx_with_timeout(detached, 100 * SECOND);
  RCTX_SCOPED rctx *plain = rctx_with_cancel(detached);
  int64_t deadline;
  cr_assert(rctx_deadline(timed, &deadline));
  cr_assert_eq(deadline, fake_now() + 100 * SECOND);
  cr_assert_not(rctx_deadline(plain, &deadline));
  fake_go(2 * SECOND);
  cr_assert_eq(rctx_err(parent), -ETIMEDOUT);
  cr_assert_eq(rctx_err(timed), 0);
  rctx_cancel(parent);
  cr_assert_eq(rctx_err(plain), 0);
  fake_go(100 * SECOND);
  cr_assert_eq(rctx_err(timed), -ETIMEDOUT);
  cr_assert_eq(rctx_err(detached), 0, "its child's end is not its own");
  cr_assert(rctx_cancel(plain), "a cancel below works");
}

Test(detach, it_can_not_be_cancelled) {
  RCTX_SCOPED rctx *detached = rctx_without_cancel(fake_root());
  RCTX_SCOPED rctx *child = rctx_with_cancel(detached);
  cr_assert_not(rctx_cancel(detached));
  cr_assert_not(rctx_cancel_with(detached, -EIO, RCTX_ORIGIN_PEER, "no"));
  cannot_end(detached);
  cr_assert_eq(rctx_err(child), 0);
}

Test(detach, ending_it_only_drops_the_handle) {
  rctx *parent = user_with(fake_root(), "ann");
  rctx *detached = rctx_without_cancel(parent);
  RCTX_SCOPED rctx *child = rctx_with_cancel(detached);
  const char *who;
  rctx_end(detached);
  cr_assert_eq(rctx_err(child), 0);
  rctx_end(parent);
  cr_assert_eq(rctx_err(child), 0);
  cr_assert(user_get(child, &who), "values are kept by what hangs below");
  cr_assert_str_eq(who, "ann");
}

Test(detach, a_value_below_can_not_end_either) {
  RCTX_SCOPED rctx *parent = rctx_with_cancel(fake_root());
  RCTX_SCOPED rctx *detached = rctx_without_cancel(parent);
  RCTX_SCOPED rctx *value = user_with(detached, "bob");
  rctx_cancel(parent);
  cr_assert_eq(rctx_err(value), 0);
  const char *who;
  cr_assert(user_get(value, &who));
  cr_assert_str_eq(who, "bob");
}

Test(detach, it_is_no_child_of_its_parent) {
  RCTX_SCOPED rctx *parent = rctx_with_cancel(fake_root());
  RCTX_SCOPED rctx *detached = rctx_without_cancel(parent);
  struct rctx_info info;
  rctx_inspect(parent, &info);
  cr_assert_eq(info.children, 0);
  rctx_inspect(detached, &info);
  cr_assert_eq(info.kind, RCTX_KIND_DETACHED);
  cr_assert_eq(info.parent, parent);
}
