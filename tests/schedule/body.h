/*
 * body.h - what bodies share: each opens a manager, does its race below it, and closes it, which finds nothing left over.
 *
 * A body runs once for each schedule. Its threads share static variables, which it sets anew each time.
 */
#ifndef RCTX_TESTS_SCHEDULE_BODY_H
#define RCTX_TESTS_SCHEDULE_BODY_H

#include "sim.h"

#include <errno.h>
#include <rctx/rctx.h>

extern rctx_manager *manager;

void open_manager(struct rctx_manager_options options);
void close_manager(void);
static inline const rctx *root(void) { return rctx_manager_background(manager); }

/** rctx_err(), and a place where another thread may go on. */
static inline int look(const rctx *ctx) {
  sim_point(ctx, __func__, __LINE__);
  return rctx_err(ctx);
}

/** Error and cause are seen together, and belong together. Returns the error. */
int look_whole(const rctx *ctx);

extern const struct rctx_cause cause_a, cause_b; /* codes -EPIPE, -ECONNRESET */

/** A registration that counts. */
struct watch {
  struct rctx_after node;
  unsigned ran;
  bool gone; /* quiet by a stop: it must not run any more */
};
void on_end(const rctx *ctx, void *watch);

/* What the threads of most bodies are. */
void end_it(void *ctx);
void drop_it(void *ctx);
void cancel_with_a(void *ctx);

#endif
