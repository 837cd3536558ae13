// Misuse in a release build: NULL gives -EINVAL (a derivation: a context that has ended with it) and nothing else happens.
// Linked with a library that is compiled without RCTX_CHECK, whatever the rest of the build has.
#include "support/check.h"
#include "support/leftovers.h"

#include <string.h>

TestSuite(misuse_release, .fini = nothing_left_by_default, .timeout = 60);

static rctx *volatile none;
static const struct rctx_key *volatile no_key;
static struct rctx_after *volatile no_node;
static const struct rctx_key key = {"key", NULL, NULL};

static void nop(const rctx *ctx, void *arg) {
  (void)ctx;
  (void)arg;
}
static bool each(const struct rctx_key *k, void *value, void *arg) {
  (void)k;
  (void)value;
  (void)arg;
  return true;
}
static void submit(struct rctx_executor *self, struct rctx_task *task) {
  (void)self;
  rctx_task_run(task);
}

static int destroyed;
static void destroy_value(void *value) {
  (void)value;
  destroyed++;
}
static void destroy_cause(const struct rctx_cause *self) {
  (void)self;
  destroyed++;
}

// A derivation refused: ended with -EINVAL, says so, and is as harmless to hold and to end as any other.
static void refused(rctx *c) {
  struct rctx_why why;
  cr_assert_not_null(c);
  cr_assert_eq(rctx_err(c), -EINVAL);
  cr_assert_eq(rctx_why(c, &why), -EINVAL);
  cr_assert_eq(why.origin, RCTX_ORIGIN_MISUSE);
  cr_assert_eq(rctx_wait(c, INT64_MAX), -EINVAL);
  cr_assert_not(rctx_cancel(c));
  RCTX_SCOPED rctx *below = rctx_with_cancel(c);
  cr_assert_eq(rctx_err(below), -EINVAL);
  rctx_unref(rctx_ref(c));
  rctx_end(c);
}

Test(misuse_release, deriving_from_null_gives_an_ended_context__TestInvalidDerivedFail) {
  refused(rctx_with_cancel(none));
  refused(rctx_with_deadline(none, INT64_MAX));
  refused(rctx_with_timeout(none, 1000));
  refused(rctx_with_timeout_at(none, 1, 1000));
  refused(rctx_without_cancel(none));
  refused(rctx_derive(none, &(struct rctx_spec){0}));
  refused(rctx_with_value(none, &key, NULL));
  refused(rctx_with_values(none, NULL, 0));
}

Test(misuse_release, what_was_transferred_is_destroyed_once) {
  static const struct rctx_cause cause = {-ETIMEDOUT, RCTX_ORIGIN_USER, NULL, NULL, 0, NULL, destroy_cause};
  struct rctx_value values[] = {{&key, NULL, destroy_value}, {no_key, NULL, destroy_value}};
  refused(rctx_with_deadline_cause(none, 1, &cause));
  refused(rctx_with_timeout_cause(none, 1, &cause));
  refused(rctx_with_timeout_at_cause(none, 1, 1, &cause));
  cr_assert_eq(destroyed, 3);
  refused(rctx_with_values(none, values, 2));
  cr_assert_eq(destroyed, 5);
  refused(rctx_with_values(rctx_background(), values, 2));
  cr_assert_eq(destroyed, 7, "a NULL key: no value is lost");
  refused(
      rctx_derive(rctx_background(),
                  &(struct rctx_spec){.values = values, .nvalues = 2, .timeout_ns = 1000, .deadline_cause = &cause}));
  cr_assert_eq(destroyed, 10);
}

Test(misuse_release, a_null_key_gives_an_ended_context__TestWithValueChecksKey) {
  void *value = &destroyed;
  refused(rctx_with_value(rctx_background(), no_key, NULL));
  cr_assert_not(rctx_get(rctx_background(), no_key, &value));
  cr_assert_eq(value, (void *)&destroyed);
}

Test(misuse_release, looking_at_null_says_einval_or_nothing) {
  struct rctx_why why;
  struct rctx_info info;
  int64_t number = 17;
  void *value = &destroyed;
  char text[8] = "#######";
  cr_assert_eq(rctx_err(none), -EINVAL);
  cr_assert_eq(rctx_why(none, &why), -EINVAL);
  cr_assert_eq(rctx_wait(none, INT64_MAX), -EINVAL);
  cr_assert_eq(rctx_fd(none), -EINVAL);
  rctx_cause(none);
  cr_assert_not(rctx_deadline(none, &number));
  cr_assert_eq(number, 17);
  cr_assert_eq(rctx_remaining(none), 0);
  cr_assert_eq(rctx_remaining_at(none, 1), 0);
  rctx_now_of(none);
  cr_assert_null(rctx_name(none));
  rctx_describe(none, text, sizeof text);
  cr_assert_not(rctx_get(none, &key, &value));
  cr_assert_eq(rctx_each_value(none, each, NULL), 0);
  cr_assert_null(rctx_alloc(none, 8));
  rctx_inspect(none, &info);
  rctx_manager_of(none);
}

Test(misuse_release, ending_null_does_nothing) {
  cr_assert_not(rctx_cancel(none));
  cr_assert_not(rctx_cancel_cause(none, NULL));
  rctx_end(none);
  rctx_end_cause(none, NULL);
  rctx_unref(none);
  rctx_ref(none);
}

Test(misuse_release, registering_with_null_is_refused) {
  struct rctx_executor executor = {submit};
  struct rctx_after node = {0};
  rctx_loop *loop;
  bool quiet = false;
  cr_assert_eq(rctx_loop_create(&loop), 0);
  RCTX_SCOPED rctx *c = rctx_with_cancel(rctx_background());
  cr_assert_eq(rctx_after(none, &node, nop, NULL), -EINVAL);
  cr_assert_eq(rctx_after_inline(none, &node, RCTX_ON_ENDED_RUN, nop, NULL), -EINVAL);
  cr_assert_eq(rctx_after_on(none, &node, &executor, RCTX_ON_ENDED_RUN, nop, NULL), -EINVAL);
  cr_assert_eq(rctx_watch(none, &node, loop, RCTX_ON_ENDED_RUN, nop, NULL), -EINVAL);
  cr_assert_eq(rctx_after(c, no_node, nop, NULL), -EINVAL);
  cr_assert_eq(rctx_after_inline(c, no_node, RCTX_ON_ENDED_RUN, nop, NULL), -EINVAL);
  cr_assert_eq(rctx_after_on(c, no_node, &executor, RCTX_ON_ENDED_RUN, nop, NULL), -EINVAL);
  cr_assert_eq(rctx_watch(c, no_node, loop, RCTX_ON_ENDED_RUN, nop, NULL), -EINVAL);
  cr_assert_not(rctx_after_stop(no_node));
  cr_assert_not(rctx_after_stop_sync(no_node));
  rctx_after_stop_notify(no_node, destroy_value, NULL, &quiet);
  cr_assert_eq(destroyed, 0);
  cr_assert_not(rctx_after_stop(&node), "nothing was registered");
  rctx_loop_destroy(loop);
}
