/*
 * request_lifecycle*: everything a server does with contexts for one request.
 *
 * request_lifecycle makes each thing by itself, as layers of middleware that do not know each other do: a cancel under
 * the server, a timeout, three values, two calls upstream alive at the same time, each with one lookup and one look at
 * the error, and all of it ended in reverse order by leaving scope. request_lifecycle_spec says the same in one
 * rctx_derive().
 */
#include "cases.h"

#include <rctx/rctx.h>

RCTX_KEY(trace_id, const char *)
RCTX_KEY(user_id, const char *)
RCTX_KEY(tenant, uint32_t)

static const char trace[] = "4bf92f3577b34da6a3ce929d0e0e4736";
static const char user[] = "ann";

static void *open_server(const struct bench_case *self) {
  (void)self;
  return rctx_with_cancel(rctx_background());
}

static void close_server(void *server) { rctx_end((rctx *)server); }

static void call_upstream(const rctx *call) {
  const char *id = NULL;
  if (trace_id_get(call, &id)) {
    bench_keep(id);
  }
  bench_keep_int(rctx_err(call));
}

static void serve(const rctx *server) {
  RCTX_SCOPED rctx *request = rctx_with_cancel(server);
  RCTX_SCOPED rctx *limited = rctx_with_timeout(request, 30 * BENCH_SECOND);
  RCTX_SCOPED rctx *traced = trace_id_with(limited, trace);
  RCTX_SCOPED rctx *known = user_id_with(traced, user);
  RCTX_SCOPED rctx *placed = tenant_with(known, 7);
  RCTX_SCOPED rctx *first = rctx_with_cancel(placed);
  RCTX_SCOPED rctx *second = rctx_with_cancel(placed);
  call_upstream(first);
  call_upstream(second);
}

static void serve_spec(const rctx *server) {
  const struct rctx_value values[] = {trace_id_value(trace), user_id_value(user), tenant_value(7)};
  RCTX_SCOPED rctx *request = rctx_derive(server, &(struct rctx_spec){
                                                      .timeout_ns = 30 * BENCH_SECOND,
                                                      .values = values,
                                                      .nvalues = sizeof values / sizeof *values,
                                                      .name = "request",
                                                  });
  RCTX_SCOPED rctx *first = rctx_with_cancel(request);
  RCTX_SCOPED rctx *second = rctx_with_cancel(request);
  call_upstream(first);
  call_upstream(second);
}

static void lifecycle(void *server, size_t ops) {
  for (size_t i = 0; i < ops; i++) {
    serve(server);
  }
}

static void lifecycle_spec(void *server, size_t ops) {
  for (size_t i = 0; i < ops; i++) {
    serve_spec(server);
  }
}

#define CASE(name_, run_, pair_)                                                                                       \
  { .name = name_, .run = run_, .pair = pair_, .open = open_server, .close = close_server, .no_allocs = true }

const struct bench_case bench_request_cases[] = {
    CASE("request_lifecycle", lifecycle, false),
    CASE("request_lifecycle_spec", lifecycle_spec, false),
    CASE("request_lifecycle_2threads", lifecycle, true),
    {.name = NULL},
};
