/*
 * err_poll_*: rctx_err(), the call that loops make: live, at the end of a chain, cancelled; alone and by two threads on
 * one context. Bound by one load and the loop around it.
 */
#include "cases.h"

#include <rctx/rctx.h>
#include <stdlib.h>

struct chain {
  size_t depth;
  rctx *node[16];
};

static void *open_chain(const struct bench_case *self) {
  struct chain *chain = bench_memory(1, sizeof *chain);
  chain->depth = self->size;
  const rctx *parent = rctx_background();
  for (size_t i = 0; i < chain->depth; i++) {
    chain->node[i] = rctx_with_cancel(parent);
    parent = chain->node[i];
  }
  return chain;
}

static void *open_canceled(const struct bench_case *self) {
  struct chain *chain = open_chain(self);
  rctx_cancel(chain->node[0]);
  return chain;
}

static void close_chain(void *fixture) {
  struct chain *chain = fixture;
  for (size_t i = chain->depth; i-- > 0;) {
    rctx_end(chain->node[i]);
  }
  free(chain);
}

static void poll_last(void *fixture, size_t ops) {
  const struct chain *chain = fixture;
  const rctx *ctx = chain->node[chain->depth - 1];
  for (size_t i = 0; i < ops; i++) {
    bench_keep_int(rctx_err(ctx));
  }
}

#define CASE(name_, ...)                                                                                               \
  { .name = name_, .run = poll_last, .close = close_chain, .no_allocs = true, __VA_ARGS__ }

const struct bench_case bench_err_cases[] = {
    CASE("err_poll_live", .open = open_chain, .size = 1),
    CASE("err_poll_depth16", .open = open_chain, .size = 16),
    CASE("err_poll_canceled", .open = open_canceled, .size = 1),
    CASE("err_poll_live_2threads", .open = open_chain, .size = 1, .pair = true),
    CASE("err_poll_depth16_2threads", .open = open_chain, .size = 16, .pair = true),
    CASE("err_poll_canceled_2threads", .open = open_canceled, .size = 1, .pair = true),
    {.name = NULL},
};
