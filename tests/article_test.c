// The tests of the article that introduced contexts to many, and of its exercise's six operations, under the names they
// have there. They use the public headers only, and the real clock: an item takes 40 ms, as there.
#include "support/check.h"
#include "support/leftovers.h"

#include <pthread.h>
#include <rctx/rctx.h>
#include <stdatomic.h>
#include <string.h>

#define MS INT64_C(1000000)
#define SECOND INT64_C(1000000000)

TestSuite(article, .fini = nothing_left_by_default, .timeout = 120);

RCTX_KEY(user_id, const char *, "who asks: for access checks")
RCTX_KEY(trace_id, const char *, "names the request in logs")

static rctx_manager *contexts(void) { return rctx_manager_default(); } // the article's ContextManager

/* ---- the code under test: what the article's readers write ------------------------------------------------------- */

enum { ITEM_MS = 40 };

// Works in small steps until all is done or the context ends.
static int simulate_work(const rctx *ctx, int64_t duration_ns) {
  const int64_t step_ns = 5 * MS;
  for (int64_t done = 0; done < duration_ns; done += step_ns) {
    int64_t left = duration_ns - done;
    int err = rctx_sleep(ctx, left < step_ns ? left : step_ns);
    if (err != 0) return err;
  }
  return rctx_err(ctx);
}

// Returns the error of the context if it ends before all are done; *done is right in any case.
static int process_items(const rctx *ctx, const char *const *items, int count, char results[][32], int *done) {
  for (*done = 0; *done < count; ++*done) {
    int err = rctx_sleep(ctx, ITEM_MS * MS);
    if (err != 0) return err;
    snprintf(results[*done], 32, "processed_%s", items[*done]);
  }
  return 0;
}

/* ---- the article's own three ------------------------------------------------------------------------------------- */

struct worker {
  const rctx *ctx;
  atomic_int rounds;
  int err;
};

static void *worker_main(void *arg) {
  struct worker *worker = arg;
  while ((worker->err = rctx_sleep(worker->ctx, MS)) == 0) atomic_fetch_add(&worker->rounds, 1);
  return NULL;
}

Test(article, TestContextCancellation) {
  pthread_t thread;
  RCTX_SCOPED rctx *ctx = rctx_with_cancel(rctx_background());
  struct worker worker = {.ctx = ctx};
  cr_assert_eq(pthread_create(&thread, NULL, worker_main, &worker), 0);
  while (atomic_load(&worker.rounds) < 3) rctx_sleep(ctx, MS);
  cr_assert(rctx_cancel(ctx));
  cr_assert_eq(pthread_join(thread, NULL), 0); // it stops: or the test's time is up
  cr_assert_eq(worker.err, -ECANCELED);
  cr_assert_eq(rctx_err(ctx), -ECANCELED);
}

Test(article, TestContextTimeout) {
  int64_t begun = rctx_now();
  RCTX_SCOPED rctx *ctx = rctx_with_timeout(rctx_background(), 50 * MS);
  cr_assert_eq(rctx_sleep(ctx, 3600 * SECOND), -ETIMEDOUT);
  cr_assert_geq(rctx_now() - begun, 50 * MS);
  cr_assert_eq(rctx_err(ctx), -ETIMEDOUT);
  cr_assert_str_eq(rctx_strerror(rctx_err(ctx)), "context deadline exceeded");
}

Test(article, TestContextValues) {
  const char *value = NULL;
  RCTX_SCOPED rctx *ctx = user_id_with(rctx_background(), "user-1");
  RCTX_SCOPED rctx *traced = trace_id_with(ctx, "trace-9");
  RCTX_SCOPED rctx *below = rctx_with_timeout(traced, 3600 * SECOND);
  cr_assert(user_id_get(below, &value));
  cr_assert_str_eq(value, "user-1", "values travel down");
  cr_assert(trace_id_get(below, &value));
  cr_assert_str_eq(value, "trace-9");
  cr_assert_not(trace_id_get(ctx, &value), "and not up");
  RCTX_SCOPED rctx *other = user_id_with(below, "user-2");
  cr_assert(user_id_get(other, &value));
  cr_assert_str_eq(value, "user-2", "the nearest counts");
  cr_assert(user_id_get(below, &value));
  cr_assert_str_eq(value, "user-1");
}

/* ---- the six operations ------------------------------------------------------------------------------------------ */

Test(article, TestCreateCancellableContext) {
  RCTX_SCOPED rctx *ctx = rctx_manager_create_cancellable(contexts(), rctx_background());
  cr_assert_not_null(ctx);
  cr_assert_eq(rctx_err(ctx), 0);
  rctx_cancel(ctx);
  cr_assert_eq(rctx_err(ctx), -ECANCELED);
  cr_assert_eq(rctx_wait(ctx, INT64_MAX), -ECANCELED);
}

Test(article, TestCreateTimeoutContext) {
  int64_t begun = rctx_now(), deadline = 0;
  RCTX_SCOPED rctx *ctx = rctx_manager_create_timeout(contexts(), rctx_background(), 50 * MS);
  cr_assert(rctx_deadline(ctx, &deadline));
  cr_assert_geq(deadline, begun + 50 * MS);
  cr_assert_eq(rctx_wait(ctx, INT64_MAX), -ETIMEDOUT);
  cr_assert_geq(rctx_now(), deadline);
  RCTX_SCOPED rctx *cancelled = rctx_manager_create_timeout(contexts(), rctx_background(), 3600 * SECOND);
  rctx_cancel(cancelled);
  cr_assert_eq(rctx_err(cancelled), -ECANCELED);
}

Test(article, TestAddAndGetValue) {
  static const struct rctx_key user = {.name = "user"}, request = {.name = "requestID"}, missing = {.name = "missing"};
  void *value = NULL;
  int number = 12345;
  RCTX_SCOPED rctx *with_user = rctx_manager_add_value(contexts(), rctx_background(), &user, "alice");
  RCTX_SCOPED rctx *ctx = rctx_manager_add_value(contexts(), with_user, &request, &number);
  cr_assert(rctx_manager_get_value(contexts(), ctx, &user, &value));
  cr_assert_str_eq((const char *)value, "alice");
  cr_assert(rctx_manager_get_value(contexts(), ctx, &request, &value));
  cr_assert_eq(*(int *)value, 12345);
  cr_assert_not(rctx_manager_get_value(contexts(), ctx, &missing, &value));
  cr_assert_not(rctx_manager_get_value(contexts(), with_user, &request, &value));
}

static int succeed(const rctx *ctx, void *arg) {
  ++*(int *)arg;
  return rctx_err(ctx);
}

static int fail(const rctx *ctx, void *arg) {
  (void)ctx;
  (void)arg;
  return -EBADMSG;
}

static int work_long(const rctx *ctx, void *arg) {
  atomic_store((atomic_bool *)arg, true);
  return simulate_work(ctx, 3600 * SECOND);
}

Test(article, TestExecuteWithContext_Success) {
  int ran = 0;
  RCTX_SCOPED rctx *ctx = rctx_manager_create_cancellable(contexts(), rctx_background());
  cr_assert_eq(rctx_manager_execute(contexts(), ctx, succeed, &ran, NULL, NULL), 0);
  cr_assert_eq(ran, 1);
}

Test(article, TestExecuteWithContext_Error) {
  enum rctx_outcome outcome;
  RCTX_SCOPED rctx *ctx = rctx_manager_create_cancellable(contexts(), rctx_background());
  cr_assert_eq(rctx_manager_execute(contexts(), ctx, fail, NULL, NULL, &outcome), -EBADMSG);
  cr_assert_eq(outcome, RCTX_FINISHED);
  cr_assert_eq(rctx_err(ctx), 0, "the task's error, not the context's");
}

struct canceller {
  rctx *ctx;
  atomic_bool *working;
};

static void *cancel_while_it_works(void *arg) {
  struct canceller *canceller = arg;
  while (!atomic_load(canceller->working)) rctx_sleep(rctx_background(), MS);
  rctx_cancel(canceller->ctx);
  return NULL;
}

Test(article, TestExecuteWithContext_Cancelled) {
  static atomic_bool working; // the task's, also after its caller has left
  pthread_t thread;
  RCTX_SCOPED rctx *ctx = rctx_manager_create_cancellable(contexts(), rctx_background());
  struct canceller canceller = {ctx, &working};
  cr_assert_eq(pthread_create(&thread, NULL, cancel_while_it_works, &canceller), 0);
  cr_assert_eq(rctx_manager_execute(contexts(), ctx, work_long, &working, NULL, NULL), -ECANCELED);
  cr_assert_eq(pthread_join(thread, NULL), 0);
  int ran = 0;
  cr_assert_eq(rctx_manager_execute(contexts(), ctx, succeed, &ran, NULL, NULL), -ECANCELED);
  cr_assert_eq(ran, 0, "below an end nothing is started");
}

Test(article, TestExecuteWithContext_Timeout) {
  static atomic_bool working;
  RCTX_SCOPED rctx *ctx = rctx_manager_create_timeout(contexts(), rctx_background(), 50 * MS);
  cr_assert_eq(rctx_manager_execute(contexts(), ctx, work_long, &working, NULL, NULL), -ETIMEDOUT);
}

Test(article, TestWaitForCompletion_Completed) {
  int64_t begun = rctx_now();
  RCTX_SCOPED rctx *ctx = rctx_manager_create_cancellable(contexts(), rctx_background());
  cr_assert_eq(rctx_manager_wait_for_completion(contexts(), ctx, 50 * MS), 0);
  cr_assert_geq(rctx_now() - begun, 50 * MS);
}

static void *cancel_soon(void *arg) {
  rctx_sleep(rctx_background(), 20 * MS);
  rctx_cancel(arg);
  return NULL;
}

Test(article, TestWaitForCompletion_Cancelled) {
  pthread_t thread;
  RCTX_SCOPED rctx *ctx = rctx_manager_create_cancellable(contexts(), rctx_background());
  cr_assert_eq(pthread_create(&thread, NULL, cancel_soon, ctx), 0);
  cr_assert_eq(rctx_manager_wait_for_completion(contexts(), ctx, 3600 * SECOND), -ECANCELED);
  cr_assert_eq(pthread_join(thread, NULL), 0);
  RCTX_SCOPED rctx *late = rctx_manager_create_timeout(contexts(), rctx_background(), 20 * MS);
  cr_assert_eq(rctx_manager_wait_for_completion(contexts(), late, 3600 * SECOND), -ETIMEDOUT);
}

/* ---- the helpers of the exercise --------------------------------------------------------------------------------- */

Test(article, TestSimulateWork) {
  int64_t begun = rctx_now();
  RCTX_SCOPED rctx *ctx = rctx_with_cancel(rctx_background());
  cr_assert_eq(simulate_work(ctx, 30 * MS), 0);
  cr_assert_geq(rctx_now() - begun, 30 * MS);
  RCTX_SCOPED rctx *hurried = rctx_with_timeout(ctx, 20 * MS);
  cr_assert_eq(simulate_work(hurried, 3600 * SECOND), -ETIMEDOUT);
  rctx_cancel(ctx);
  cr_assert_eq(simulate_work(ctx, 3600 * SECOND), -ECANCELED);
  cr_assert_eq(simulate_work(ctx, 0), -ECANCELED);
}

static const char *const items[] = {"item1", "item2", "item3", "item4", "item5", "item6", "item7", "item8"};
enum { ITEMS = 8 };

Test(article, TestProcessItems_All) {
  char results[ITEMS][32] = {""};
  int done = -1;
  RCTX_SCOPED rctx *ctx = rctx_with_cancel(rctx_background());
  cr_assert_eq(process_items(ctx, items, 3, results, &done), 0);
  cr_assert_eq(done, 3);
  cr_assert_str_eq(results[0], "processed_item1");
  cr_assert_str_eq(results[2], "processed_item3");
  cr_assert_eq(process_items(ctx, items, 0, results, &done), 0);
  cr_assert_eq(done, 0);
}

Test(article, TestProcessItems_Cancelled) {
  char results[ITEMS][32] = {""};
  int done = -1;
  RCTX_SCOPED rctx *ctx = rctx_with_timeout(rctx_background(), (2 * ITEM_MS + ITEM_MS / 2) * MS);
  cr_assert_eq(process_items(ctx, items, ITEMS, results, &done), -ETIMEDOUT);
  cr_assert(done >= 0 && done <= 2, "%d of %d in the time of two and a half", done, (int)ITEMS);
  for (int i = 0; i < ITEMS; i++) cr_assert_eq(results[i][0] != 0, i < done, "what was done is kept, and no more");
  rctx_cancel(ctx);
  cr_assert_eq(process_items(ctx, items, ITEMS, results, &done), -ETIMEDOUT, "the first end stays");
  cr_assert_eq(done, 0);
}
