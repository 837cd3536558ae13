/*
 * detached.c - audit records that outlive their requests, with a deadline of their own, and a shutdown that knows of them.
 *
 * In Go:
 *   ctx, cancel := context.WithTimeout(context.WithoutCancel(request), time.Second)
 *   go func() { defer cancel(); audit.Write(ctx, record) }()   // the server's Shutdown does not wait for it
 *
 * Two requests are served and gone at once; each leaves a write on a thread of its own. One store is slow, one hangs. The drain
 * counts both though no request is left, waits, and ends neither: the hanging one ends by its own deadline.
 *
 * Look at: left.detached, and how long nothing more than those writes keeps the drain waiting.
 */
#include "example.h"
#include <pthread.h>
#include <rctx/rctx.h>

RCTX_KEY(request_id, long, "which request: for the audit record")

struct audit {
  rctx *ctx;        /* the writer's */
  int64_t store_ns; /* how long the store takes */
  int64_t patience_ns;
  int err;
  pthread_t thread;
};

static void *write_record(void *arg) {
  struct audit *audit = arg;
  long id = 0;
  expect(request_id_get(audit->ctx, &id) && id > 0); /* the request's values are there after its end */
  audit->err = rctx_sleep(audit->ctx, audit->store_ns);
  printf("  record of request %ld: %s\n", id, audit->err == 0 ? "written" : rctx_cause(audit->ctx)->text);
  rctx_end(audit->ctx);
  return NULL;
}

/* The request ends here; its record has just been begun. */
static void serve(rctx_drain *drain, long id, struct audit *audit) {
  struct rctx_value id_value = request_id_value(id);
  RCTX_SCOPED rctx *request = rctx_drain_request(
      drain, &(struct rctx_spec){.timeout_ns = 10 * MS, .name = "request", .values = &id_value, .nvalues = 1});
  RCTX_SCOPED rctx *detached = rctx_without_cancel(request); /* its values, and neither its end nor its deadline */
  audit->ctx = rctx_derive(detached, &(struct rctx_spec){.timeout_ns = audit->patience_ns, .name = "audit"});
  require(pthread_create(&audit->thread, NULL, write_record, audit) == 0);
}

int main(void) {
  struct audit slow = {.store_ns = 400 * MS, .patience_ns = 3600 * SECOND};
  struct audit hanging = {.store_ns = 3600 * SECOND, .patience_ns = 700 * MS};
  struct rctx_drain_left left;
  rctx_drain *drain;

  require(rctx_drain_create(rctx_background(), "server", &drain) == 0);
  int64_t start = rctx_now();
  serve(drain, 1, &slow);
  serve(drain, 2, &hanging);

  rctx_drain_look(drain, &left);
  printf("both requests are over; left: %zu contexts, %zu detached, e.g. \"%s\"\n", left.contexts, left.detached,
         left.example ? left.example : "");
  expect(left.detached == left.contexts - left.requests && left.detached <= 4);

  const struct rctx_drain_plan plan = {.grace_ns = 0, .give_up_ns = 60 * SECOND};
  expect(rctx_drain_run(drain, &plan, &left) == 0);
  expect(rctx_now() - start >= hanging.patience_ns);
  expect(left.contexts == 0 && left.detached == 0);
  printf("drained: %zu contexts left\n", left.contexts);

  pthread_join(slow.thread, NULL);
  pthread_join(hanging.thread, NULL);
  expect(slow.err == 0);             /* no level of the drain ended it */
  expect(hanging.err == -ETIMEDOUT); /* its own deadline did */
  rctx_drain_destroy(drain);
  return expectations_failed();
}
