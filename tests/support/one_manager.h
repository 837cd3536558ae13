// one_manager.h - the one manager of a test of tasks and groups: with a pool of its own, or on an executor by hand.
//
// A test opens it; close_all() is the suite's .fini and finds nothing left; watch() is the .init. chaos_on() makes the core
// yield at its atomics.
#ifndef RCTX_TESTS_ONE_MANAGER_H
#define RCTX_TESTS_ONE_MANAGER_H

#include "support/hand_executor.h"
#include "support/leftovers.h"
#include "support/watchdog.h"

#include "core/platform.h"

#include <rctx/rctx.h>

#define MS INT64_C(1000000)
#define SECOND INT64_C(1000000000)

enum { ONE_MANAGER_WATCHDOG_S = 60, CHAOS_ONE_IN = 3 };

static rctx_manager *manager;
static struct hand hand;

static inline void open_with(struct rctx_manager_options options) {
  if (rctx_manager_create(&options, &manager) != 0) abort();
}

static inline void open_pool(unsigned threads_max) {
  open_with((struct rctx_manager_options){.threads_max = threads_max});
}

static inline void open_by_hand(void) {
  hand_init(&hand);
  open_with((struct rctx_manager_options){.executor = &hand.table});
}

static inline const rctx *root(void) { return rctx_manager_background(manager); }

static inline struct rctx_stats stats(void) {
  struct rctx_stats now;
  rctx_stats(manager, &now);
  return now;
}

static inline void quiesce(void) { cr_assert_eq(rctx_quiesce(manager, INT64_MAX), 0); }

static inline void chaos_on(uint64_t seed) {
  atomic_store(&rctx__chaos_seed, seed);
  atomic_store(&rctx__chaos_mask, CHAOS_ONE_IN);
}
static inline void chaos_off(void) { atomic_store(&rctx__chaos_mask, 0); }

static inline void close_manager(void) {
  nothing_left(manager);
  int destroyed = rctx_manager_destroy(manager);
  manager = NULL;
  if (destroyed == 0) return;
  fprintf(stderr, "the manager can not be destroyed: %d\n", destroyed);
  abort();
}

__attribute__((unused)) static void watch(void) { watchdog(ONE_MANAGER_WATCHDOG_S); }

__attribute__((unused)) static void close_all(void) {
  chaos_off();
  nothing_left(rctx_manager_default());
  if (manager) close_manager();
}

#endif
