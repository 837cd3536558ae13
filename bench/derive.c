/*
 * derive_*: make a context, cancel it, end it: what a server does for every call. Under one live parent (a server's or a
 * connection's), alone, beside 100,000 siblings, and with both threads under that one parent.
 */
#include "cases.h"

#include <rctx/rctx.h>
#include <stdlib.h>

#define HOUR (3600 * BENCH_SECOND)

struct server {
  rctx *ctx;
  size_t siblings;
  rctx **sibling;
};

static void *open_server(const struct bench_case *self) {
  struct server *server = bench_memory(1, sizeof *server);
  server->ctx = rctx_with_cancel(rctx_background());
  server->siblings = self->size;
  server->sibling = bench_memory(self->size + 1, sizeof(rctx *));
  for (size_t i = 0; i < server->siblings; i++) {
    server->sibling[i] = rctx_with_cancel(server->ctx);
  }
  return server;
}

static void close_server(void *fixture) {
  struct server *server = fixture;
  for (size_t i = 0; i < server->siblings; i++) {
    rctx_end(server->sibling[i]);
  }
  rctx_end(server->ctx);
  free(server->sibling);
  free(server);
}

static void derive_cancel(void *fixture, size_t ops) {
  const struct server *server = fixture;
  for (size_t i = 0; i < ops; i++) {
    rctx *ctx = rctx_with_cancel(server->ctx);
    rctx_cancel(ctx);
    rctx_end(ctx);
  }
}

static void derive_background(void *fixture, size_t ops) {
  (void)fixture;
  for (size_t i = 0; i < ops; i++) {
    rctx *ctx = rctx_with_cancel(rctx_background());
    rctx_cancel(ctx);
    rctx_end(ctx);
  }
}

static void derive_timeout(void *fixture, size_t ops) {
  const struct server *server = fixture;
  for (size_t i = 0; i < ops; i++) {
    rctx *ctx = rctx_with_timeout(server->ctx, HOUR);
    rctx_cancel(ctx);
    rctx_end(ctx);
  }
}

/* As an event loop does: the time is read once per turn, here every 256 operations, and handed in. */
static void derive_timeout_at(void *fixture, size_t ops) {
  const struct server *server = fixture;
  int64_t now_ns = 0;
  for (size_t i = 0; i < ops; i++) {
    if (i % 256 == 0) {
      now_ns = rctx_now();
    }
    rctx *ctx = rctx_with_timeout_at(server->ctx, now_ns, HOUR);
    rctx_cancel(ctx);
    rctx_end(ctx);
  }
}

RCTX_KEY(trace_id, const char *)

static void derive_value(void *fixture, size_t ops) {
  const struct server *server = fixture;
  for (size_t i = 0; i < ops; i++) {
    RCTX_SCOPED rctx *ctx = trace_id_with(server->ctx, "4bf92f3577b34da6");
    bench_keep(ctx);
  }
}

RCTX_KEY(key0, const void *)
RCTX_KEY(key1, const void *)
RCTX_KEY(key2, const void *)
RCTX_KEY(key3, const void *)
RCTX_KEY(key4, const void *)
RCTX_KEY(key5, const void *)
RCTX_KEY(key6, const void *)
RCTX_KEY(key7, const void *)

/* Eight layers of middleware, each adding its value; one operation is the whole chain. */
static void derive_value_8(void *fixture, size_t ops) {
  const struct server *server = fixture;
  for (size_t i = 0; i < ops; i++) {
    RCTX_SCOPED rctx *c0 = key0_with(server->ctx, server);
    RCTX_SCOPED rctx *c1 = key1_with(c0, server);
    RCTX_SCOPED rctx *c2 = key2_with(c1, server);
    RCTX_SCOPED rctx *c3 = key3_with(c2, server);
    RCTX_SCOPED rctx *c4 = key4_with(c3, server);
    RCTX_SCOPED rctx *c5 = key5_with(c4, server);
    RCTX_SCOPED rctx *c6 = key6_with(c5, server);
    RCTX_SCOPED rctx *c7 = key7_with(c6, server);
    bench_keep(c7);
  }
}

#define CASE(name_, run_, ...)                                                                                         \
  { .name = name_, .run = run_, .open = open_server, .close = close_server, .no_allocs = true, __VA_ARGS__ }

const struct bench_case bench_derive_cases[] = {
    CASE("derive_cancel", derive_cancel, .size = 0),
    CASE("derive_cancel_100k_siblings", derive_cancel, .size = 100000),
    CASE("derive_cancel_2threads", derive_cancel, .pair = true),
    CASE("derive_background", derive_background, .size = 0),
    CASE("derive_timeout", derive_timeout, .size = 0),
    CASE("derive_timeout_2threads", derive_timeout, .pair = true),
    CASE("derive_timeout_at", derive_timeout_at, .size = 0),
    CASE("derive_value", derive_value, .size = 0),
    CASE("derive_value_8", derive_value_8, .size = 0),
    {.name = NULL},
};
