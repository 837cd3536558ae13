/*
 * value_*: looking a value up at the end of a chain: the oldest key (a hit as deep as it goes) and keys that nobody has
 * bound (misses). Misses take turns among eight keys: a single one may be lucky or unlucky with its address. rctx-instructions
 * has them at fixed addresses (CMakeLists.txt), which is why no key here is of a type that refers to another file, as strings do.
 */
#include "cases.h"

#include <rctx/rctx.h>
#include <stdlib.h>

enum { DEEPEST = 64, MIXED_EXTRA = 2 };

RCTX_KEY(oldest, const void *)
RCTX_KEY(absent0, const void *)
RCTX_KEY(absent1, const void *)
RCTX_KEY(absent2, const void *)
RCTX_KEY(absent3, const void *)
RCTX_KEY(absent4, const void *)
RCTX_KEY(absent5, const void *)
RCTX_KEY(absent6, const void *)
RCTX_KEY(absent7, const void *)

/* The keys in between: values of a program's other parts. */
static const struct rctx_key others[DEEPEST];

struct chain {
  size_t nodes;
  rctx *node[(1 + MIXED_EXTRA) * DEEPEST];
};

static const rctx *push(struct chain *chain, rctx *node) {
  chain->node[chain->nodes++] = node;
  return node;
}

static struct chain *make_chain(size_t values, bool mixed) {
  struct chain *chain = bench_memory(1, sizeof *chain);
  const rctx *end = push(chain, oldest_with(rctx_background(), "the first"));
  for (size_t i = 1; i < values; i++) {
    if (mixed) {
      end = push(chain, rctx_with_cancel(end));
      end = push(chain, rctx_with_timeout(end, (3600 - (int64_t)i) * BENCH_SECOND));
    }
    end = push(chain, rctx_with_value(end, &others[i], chain));
  }
  return chain;
}

static void *open_values(const struct bench_case *self) { return make_chain(self->size, false); }

static void *open_mixed(const struct bench_case *self) { return make_chain(self->size, true); }

static void close_chain(void *fixture) {
  struct chain *chain = fixture;
  while (chain->nodes > 0) {
    rctx_end(chain->node[--chain->nodes]);
  }
  free(chain);
}

static void hit(void *fixture, size_t ops) {
  const struct chain *chain = fixture;
  const rctx *ctx = chain->node[chain->nodes - 1];
  for (size_t i = 0; i < ops; i++) {
    const void *value = NULL;
    if (oldest_get(ctx, &value)) {
      bench_keep(value);
    }
  }
}

#define MISS(key)                                                                                                      \
  do {                                                                                                                 \
    const void *value = NULL;                                                                                          \
    if (key##_get(ctx, &value)) {                                                                                      \
      bench_keep(value);                                                                                               \
    }                                                                                                                  \
  } while (0)

static void miss(void *fixture, size_t ops) {
  const struct chain *chain = fixture;
  const rctx *ctx = chain->node[chain->nodes - 1];
  for (size_t i = 0; i < ops; i += 8) {
    MISS(absent0);
    MISS(absent1);
    MISS(absent2);
    MISS(absent3);
    MISS(absent4);
    MISS(absent5);
    MISS(absent6);
    MISS(absent7);
  }
}

#define CASE(name_, run_, open_, size_)                                                                                \
  { .name = name_, .run = run_, .open = open_, .size = size_, .close = close_chain, .no_allocs = true }

const struct bench_case bench_value_cases[] = {
    CASE("value_hit_depth1", hit, open_values, 1),
    CASE("value_hit_depth8", hit, open_values, 8),
    CASE("value_hit_depth64", hit, open_values, 64),
    CASE("value_miss_depth8", miss, open_values, 8),
    CASE("value_miss_depth64", miss, open_values, 64),
    CASE("value_hit_depth8_mixed", hit, open_mixed, 8),
    {.name = NULL},
};
