/*
 * manager.c - the six operations of the article's ContextManager, and two managers in one process.
 *
 * In Go:
 *   type ContextManager interface {
 *     CreateCancellableContext(parent context.Context) (context.Context, context.CancelFunc)
 *     CreateTimeoutContext(parent context.Context, timeout time.Duration) (context.Context, context.CancelFunc)
 *     AddValue(parent context.Context, key, value interface{}) context.Context
 *     GetValue(ctx context.Context, key interface{}) (interface{}, bool)
 *     ExecuteWithContext(ctx context.Context, task func() error) error
 *     WaitForCompletion(ctx context.Context, duration time.Duration) error
 *   }
 *
 * There it groups functions; here it owns what they need: clock, timers, memory, threads. Programs that need one set of
 * these say rctx_with_cancel() and so on, and never see a manager.
 *
 * Look at: get_value, whose bool tells a stored NULL from nothing; and the second manager, whose clock is moved by
 * hand.
 */
#include "example.h"
#include <rctx/rctx.h>
#include <string.h>

static const struct rctx_key user = {.name = "user", .purpose = "who asks: for access checks"};
static const struct rctx_key tenant = {.name = "tenant", .purpose = "whose data: chooses the database"};

static int greet(const rctx *ctx, void *arg) {
  void *name;
  if (!rctx_get(ctx, &user, &name)) return -ENOENT;
  (void)snprintf(arg, 32, "hello, %s", (const char *)name);
  return 0;
}

static void six_operations(rctx_manager *manager) {
  char ann[] = "ann", greeting[32];
  void *value;

  RCTX_SCOPED rctx *request = rctx_manager_create_cancellable(manager, rctx_background());
  printf("1 create_cancellable   live: %s\n", rctx_err(request) == 0 ? "yes" : "no");

  RCTX_SCOPED rctx *call = rctx_manager_create_timeout(manager, request, 60 * SECOND);
  expect(rctx_remaining(call) > 0 && rctx_remaining(call) <= 60 * SECOND);
  printf("2 create_timeout       60 s at most\n");

  RCTX_SCOPED rctx *with_user = rctx_manager_add_value(manager, call, &user, ann);
  RCTX_SCOPED rctx *nobody = rctx_manager_add_value(manager, with_user, &user, NULL);
  printf("3 add_value            user = ann; below it user = NULL\n");

  expect(rctx_manager_get_value(manager, with_user, &user, &value) && value == ann);
  expect(rctx_manager_get_value(manager, nobody, &user, &value) && value == NULL);
  expect(!rctx_manager_get_value(manager, nobody, &tenant, &value));
  printf("4 get_value            user: found; the NULL: found, too; tenant: not found\n");

  /* Its argument may be on this stack only because this context is not ended by anybody meanwhile: execute.c. */
  expect(rctx_manager_execute(manager, with_user, greet, greeting, NULL, NULL) == 0);
  expect(strcmp(greeting, "hello, ann") == 0);
  printf("5 execute              on another thread: \"%s\"\n", greeting);

  expect(rctx_manager_wait_for_completion(manager, call, 5 * MS) == 0);
  printf("6 wait_for_completion  5 ms: %s\n", rctx_strerror(rctx_err(call)));
  rctx_cancel(request);
  expect(rctx_manager_wait_for_completion(manager, call, 3600 * SECOND) == -ECANCELED);
  printf("                       an hour, with the request canceled: %s, at once\n", rctx_strerror(rctx_err(call)));
}

static int64_t hand_clock(void *now_ns) { return *(int64_t *)now_ns; }

/* A deadline on a clock of one's own: how tests of timeouts need no sleep, and how an event loop lends its time. */
static void another_clock(rctx_manager *first) {
  int64_t now_ns = 0;
  struct rctx_manager_options options = {.drive = RCTX_DRIVE_EMBEDDER, .now = hand_clock, .now_arg = &now_ns};
  rctx_manager *second;

  require(rctx_manager_create(&options, &second) == 0);
  rctx *hour = rctx_manager_create_timeout(second, rctx_manager_background(second), 3600 * SECOND);
  expect(rctx_manager_of(hour) == second && second != first);
  now_ns = 3600 * SECOND - 1;
  rctx_advance(second, now_ns, 0);
  expect(rctx_err(hour) == 0);
  printf("after 59:59.999999999 by its clock: %s\n", rctx_strerror(rctx_err(hour)));
  now_ns = 3601 * SECOND;
  rctx_advance(second, now_ns, 0);
  expect(rctx_err(hour) == -ETIMEDOUT);
  printf("after 60:01 by its clock:           %s\n", rctx_strerror(rctx_err(hour)));
  rctx_end(hour);
  expect(rctx_manager_destroy(second) == 0);
}

int main(void) {
  struct rctx_manager_options options = {.threads_max = 4};
  struct rctx_stats stats;
  rctx_manager *manager;

  require(rctx_manager_create(&options, &manager) == 0);
  six_operations(manager);
  printf("\nA second manager, driven by hand:\n");
  another_clock(manager);
  expect(rctx_quiesce(manager, INT64_MAX) == 0);
  rctx_stats(manager, &stats);
  expect(stats.contexts == 0 && stats.timers == 0 && stats.tasks == 0);
  expect(rctx_manager_destroy(manager) == 0);
  printf("\nBoth are gone: nothing was left in them.\n");
  return expectations_failed();
}
