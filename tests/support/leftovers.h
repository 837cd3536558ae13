// leftovers.h - a test ends with everything ended: nothing_left() says so of a manager, and means it.
//
// It is called from .fini, where Criterion counts no failed assertion any more; a process that dies there it does count
// (exit code 1). So this prints what is left and aborts.
#ifndef RCTX_TESTS_LEFTOVERS_H
#define RCTX_TESTS_LEFTOVERS_H

#include <rctx/rctx.h>
#include <stdio.h>
#include <stdlib.h>

enum { LEFTOVERS_PATIENCE_S = 30 };

static inline void nothing_left(rctx_manager *manager) {
  struct rctx_stats left;
  int quiet = rctx_quiesce(manager, rctx_now() + LEFTOVERS_PATIENCE_S * INT64_C(1000000000));
  rctx_stats(manager, &left);
  if (quiet == 0 && left.contexts == 0 && left.timers == 0 && left.deferred == 0 && left.callbacks == 0 &&
      left.tasks == 0 && left.orphans == 0)
    return;
  fprintf(stderr,
          "left over: quiesce %d, contexts %zu, timers %zu, deferred %zu, callbacks %zu, tasks %zu, orphans %zu\n",
          quiet, left.contexts, left.timers, left.deferred, left.callbacks, left.tasks, left.orphans);
  abort();
}

// The .fini of suites that use the default manager only.
__attribute__((unused)) static void nothing_left_by_default(void) { nothing_left(rctx_manager_default()); }

#endif
