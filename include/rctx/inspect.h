/*
 * rctx/inspect.h - looking into a live tree, for tests and debugging. Costs nothing when not called.
 */
#ifndef RCTX_INSPECT_H
#define RCTX_INSPECT_H

#include <rctx/context.h>

RCTX_BEGIN_DECLS

enum rctx_kind { RCTX_KIND_ROOT, RCTX_KIND_CANCEL, RCTX_KIND_DEADLINE, RCTX_KIND_VALUE, RCTX_KIND_DETACHED };

/**
 * struct rctx_info - what a context looks like at this moment.
 *
 * What counts as a child: contexts linked below that a cancel of this one would end, and registrations. A value context
 * is looked through: what hangs below it counts as this one's. Detached contexts do not count. An ended context has no
 * children any more: 0. Roots link nothing: 0.
 */
struct rctx_info {
  enum rctx_kind kind;
  const rctx *parent;   /* borrowed: valid while the context is held; NULL for a root */
  size_t children;      /* with registrations */
  size_t registrations; /* callbacks registered on it and not begun, looking through value contexts too */
  bool timer_armed;     /* its own */
  bool has_fd;
  unsigned references; /* handle, references, registrations and contexts that take values from it */
  unsigned stripes;    /* child lists in use; 1 unless contended */
};

/** rctx_inspect - fill @info. Any thread that holds the context. Takes the short lock of each list it counts: not for hot
 *  paths. */
RCTX_API void rctx_inspect(const rctx *ctx, struct rctx_info *info) RCTX_NONNULL(1, 2);

RCTX_END_DECLS
#endif
