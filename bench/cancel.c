/*
 * cancel_*: one cancel and everything below it: wide, deep, and bushy. The tree is made before and ended after, both
 * untimed; the figure is per context below the cancelled one.
 *
 * A tree is a list of nodes in the order they were made. cancel_fanout_10 cancels 100 small families in one block: a
 * single one of 300 ns could not be timed.
 */
#include "cases.h"

#include <rctx/rctx.h>
#include <stdlib.h>

struct tree {
  size_t roots; /* nodes [0, roots) are cancelled */
  size_t nodes; /* all of them */
  size_t width; /* children of each inner node; nodes are numbered breadth first */
  rctx *node[];
};

/* roots trees with width children per node, nodes in all. */
static void *open_tree(size_t roots, size_t width, size_t nodes) {
  struct tree *tree = bench_memory(1, sizeof *tree + nodes * sizeof(rctx *));
  tree->roots = roots;
  tree->width = width;
  tree->nodes = nodes;
  return tree;
}

static void *open_fanout(const struct bench_case *self) {
  size_t roots = self->batch / self->size;
  return open_tree(roots, self->size, roots + self->batch);
}

static void *open_chain(const struct bench_case *self) { return open_tree(1, 1, 1 + self->batch); }

static void *open_bushy(const struct bench_case *self) { return open_tree(1, self->size, 1 + self->batch); }

static void grow(void *fixture) {
  struct tree *tree = fixture;
  for (size_t i = 0; i < tree->roots; i++) {
    tree->node[i] = rctx_with_cancel(rctx_background());
  }
  for (size_t i = tree->roots; i < tree->nodes; i++) {
    tree->node[i] = rctx_with_cancel(tree->node[(i - tree->roots) / tree->width]);
  }
}

static void cancel(void *fixture, size_t ops) {
  struct tree *tree = fixture;
  (void)ops;
  for (size_t i = 0; i < tree->roots; i++) {
    rctx_cancel(tree->node[i]);
  }
}

static void fell(void *fixture) {
  struct tree *tree = fixture;
  for (size_t i = tree->nodes; i-- > 0;) {
    rctx_end(tree->node[i]);
  }
}

#define CASE(name_, open_, size_, batch_)                                                                              \
  {                                                                                                                    \
    .name = name_, .open = open_, .prepare = grow, .run = cancel, .cleanup = fell, .close = free, .size = size_,       \
    .batch = batch_, .no_allocs = true                                                                                 \
  }

const struct bench_case bench_cancel_cases[] = {
    CASE("cancel_fanout_10", open_fanout, 10, 1000),
    CASE("cancel_fanout_1000", open_fanout, 1000, 1000),
    CASE("cancel_fanout_100000", open_fanout, 100000, 100000),
    CASE("cancel_chain_1000", open_chain, 1, 1000),
    CASE("cancel_chain_1000000", open_chain, 1, 1000000),
    CASE("cancel_tree_10x10x10x10", open_bushy, 10, 11110),
    {.name = NULL},
};
