/*
 * shutdown.c - graceful shutdown: SIGTERM comes, nothing new begins, what runs gets some time, then it is ended.
 *
 * In Go:
 *   ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
 *   <-ctx.Done()
 *   shutdown, cancel := context.WithTimeout(context.Background(), grace)
 *   err := server.Shutdown(shutdown)     // waits for handlers; work they detached is not known to it
 *
 * The server here has three requests in flight. One is done within the grace. One would take an hour and is ended. Each
 * writes its audit record at its end, detached from the request (rctx_without_cancel), so that no cancel tears it.
 *
 * Look at: the audit records: all three are written before the drain says it is done, although nothing but the contexts
 * themselves tells it of them.
 */
#include "example.h"
#include <rctx/rctx.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

RCTX_KEY(request_id, long, "which request: for the audit record")

struct server {
  rctx_drain *drain;
  int served, ended, audits;
};

struct request {
  struct server *server;
  int64_t work_ns;
  rctx *ctx;
};

/* Takes longer than anybody waits at the end, and must be written all the same. */
static void write_audit(struct server *server, const rctx *ctx) {
  RCTX_SCOPED rctx *audit = rctx_without_cancel(ctx); /* its values, not its end */
  long id = 0;

  expect(rctx_sleep(audit, 60 * MS) == 0);
  expect(request_id_get(audit, &id) && id > 0);
  __atomic_fetch_add(&server->audits, 1, __ATOMIC_RELAXED);
}

static int serve(const rctx *group_ctx, void *arg) {
  struct request *request = arg;
  struct server *server = request->server;
  long id = 0;

  (void)group_ctx; /* the request has its own context, below the drain's */
  int err = rctx_sleep(request->ctx, request->work_ns);
  request_id_get(request->ctx, &id);
  printf("  request %ld: %s\n", id, err == 0 ? "served" : rctx_cause(request->ctx)->text);
  __atomic_fetch_add(err == 0 ? &server->served : &server->ended, 1, __ATOMIC_RELAXED);
  write_audit(server, request->ctx);
  rctx_end(request->ctx);
  return 0;
}

static void start(struct rctx_group *group, struct request *request, long id) {
  struct rctx_value id_value = request_id_value(id);
  request->ctx = rctx_drain_request(request->server->drain,
                                    &(struct rctx_spec){.name = "request", .values = &id_value, .nvalues = 1});
  expect(rctx_err(request->ctx) == 0);
  rctx_group_go(group, serve, request);
}

static void shut_down(struct server *server) {
  const struct rctx_drain_plan plan = {.grace_ns = 100 * MS, .give_up_ns = 60 * SECOND};
  struct rctx_drain_left left;

  rctx_drain_look(server->drain, &left);
  printf("before: level %d, %zu requests, %zu contexts, e.g. \"%s\"\n", left.level, left.requests, left.contexts,
         left.example);
  expect(left.level == RCTX_DRAIN_OPEN && left.requests >= 1); /* on a slow machine the quick ones may be done */

  rctx_drain_raise(server->drain, RCTX_DRAIN_STOP); /* rctx_drain_run() does it, too: here only to show what follows */
  RCTX_SCOPED rctx *late = rctx_drain_request(server->drain, NULL);
  expect(rctx_err(late) == -ECANCELED && rctx_err(rctx_drain_accepting(server->drain)) != 0);
  printf("a fourth request is refused: %s\n", rctx_cause(late)->text);

  int err = rctx_drain_run(server->drain, &plan, &left);
  expect(err == 0 && left.requests == 0 && left.contexts == 0 && left.detached == 0);
  printf("after:  drained, %zu requests, %zu contexts left\n", left.requests, left.contexts);
}

int main(void) {
  RCTX_SCOPED rctx *stop = rctx_with_signal(rctx_background(), SIGTERM, 0);
  struct server server = {0};
  struct request requests[] = {{&server, 30 * MS, NULL}, {&server, 40 * MS, NULL}, {&server, 3600 * SECOND, NULL}};
  struct rctx_group group;

  require(rctx_drain_create(rctx_background(), "server", &server.drain) == 0);
  rctx_group_init(&group, rctx_background());
  for (int i = 0; i < 3; i++) start(&group, &requests[i], i + 1);
  (void)kill(getpid(), SIGTERM);

  expect(rctx_wait(stop, INT64_MAX) == -ECANCELED && rctx_signal_of(stop) == SIGTERM);
  printf("%s came\n", rctx_cause(stop)->text);
  shut_down(&server);

  expect(rctx_err(rctx_drain_drained(server.drain)) != 0);
  expect(rctx_group_fini(&group) == 0);
  expect(server.served + server.ended == 3 && server.ended >= 1 && server.audits == 3);
  printf("%d served, %d ended at the deadline of the shutdown, %d audit records written\n", server.served, server.ended,
         server.audits);
  rctx_drain_destroy(server.drain);
  return expectations_failed();
}
