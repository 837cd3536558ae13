/* What rctx-bench and rctx-instructions measure: rctx. */
#include "cases.h"

#include <rctx/rctx.h>

static const char *version(void) { return rctx_version_string(); }

static void settle(void) {
  rctx_quiesce(rctx_manager_default(), rctx_now() + 5 * BENCH_SECOND);
  rctx_trim(rctx_manager_default());
}

/* ---- bytes_per_live_ctx_* ---------------------------------------------------------------------------------------- */

static rctx *server;

/* The first timeout starts a thread and makes the wheel: not the contexts' either. */
static void open_resident(bool timeout) {
  (void)timeout;
  server = rctx_with_cancel(rctx_background());
  rctx_end(rctx_with_timeout(server, 3600 * BENCH_SECOND));
}

static void *make_resident(bool timeout, size_t i) {
  return timeout ? rctx_with_timeout(server, (60 + (int64_t)i % 3600) * BENCH_SECOND) : rctx_with_cancel(server);
}

static void end_resident(void *ctx) { rctx_end((rctx *)ctx); }

static const struct bench_resident resident = {open_resident, make_resident, end_resident};

static const struct bench_case *const tables[] = {
    bench_err_cases,
    bench_derive_cases,
    bench_value_cases,
    bench_cancel_cases,
    bench_notify_cases,
    bench_timer_cases,
    bench_request_cases,
    bench_handoff_cases,
    bench_resident_cancel_cases,
    bench_resident_timeout_cases,
    bench_group_cases,
    NULL,
};

const struct bench_program bench_program = {
    .name = "rctx", .version = version, .tables = tables, .resident = &resident, .settle = settle};
