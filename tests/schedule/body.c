/* body.c - see body.h. */
#include "body.h"

rctx_manager *manager;
const struct rctx_cause cause_a = {-EPIPE, RCTX_ORIGIN_USER, "a", NULL, 0, NULL, NULL};
const struct rctx_cause cause_b = {-ECONNRESET, RCTX_ORIGIN_USER, "b", NULL, 0, NULL, NULL};

void open_manager(struct rctx_manager_options options) {
  options.uncached = sim_uncached();
  CHECK_EQUAL(rctx_manager_create(&options, &manager), 0);
}

void close_manager(void) {
  struct rctx_stats left;
  CHECK_EQUAL(rctx_quiesce(manager, SIM_NEVER), 0);
  rctx_stats(manager, &left);
  CHECK_EQUAL(left.contexts, 0);
  CHECK_EQUAL(left.timers, 0);
  CHECK_EQUAL(left.deferred, 0);
  CHECK_EQUAL(left.callbacks, 0);
  CHECK_EQUAL(left.tasks, 0);
  CHECK_EQUAL(left.orphans, 0);
  CHECK_EQUAL(rctx_manager_destroy(manager), 0);
  manager = NULL;
}

int look_whole(const rctx *ctx) {
  struct rctx_why why;
  int err = look(ctx);
  const struct rctx_cause *cause = rctx_cause(ctx);
  if (err) CHECK(cause != NULL && cause->code == err);
  rctx_why(ctx, &why);
  CHECK((why.err != 0) == (why.cause != NULL));
  if (why.err) CHECK_EQUAL(why.err, why.cause->code);
  if (err) CHECK(why.err == err && why.cause == cause); /* the first end wins, for ever */
  return err;
}

void on_end(const rctx *ctx, void *arg) {
  struct watch *watch = arg;
  CHECK(look(ctx) != 0);
  CHECK(!watch->gone);
  watch->ran++;
}

void end_it(void *ctx) { rctx_end(ctx); }
void drop_it(void *ctx) { rctx_drop(ctx); }
void cancel_with_a(void *ctx) { rctx_cancel_cause(ctx, &cause_a); }
