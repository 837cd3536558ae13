/*
 * rctx/wait.h - learning of the end by blocking or polling. Callbacks and event loops: after.h.
 */
#ifndef RCTX_WAIT_H
#define RCTX_WAIT_H

#include <rctx/context.h>

RCTX_BEGIN_DECLS

/**
 * rctx_wait - block until the context ends, or until the caller's own time is up.
 *
 * @until_ns: absolute, on the context's clock; now or earlier: just look. INT64_MAX: as long as it takes.
 * Returns: the context's error if it has ended; 0 if until_ns came first and it is still live.
 * Threads: any number at once. Holds no lock and needs no fd; signals do not end the wait.
 * Order:   [CTX-4]. From the moment rctx_err() is non-zero, this returns at once.
 * Cost:    a futex wait. On a manager with a clock of its own, the time is looked at once a millisecond.
 */
RCTX_API int rctx_wait(const rctx *ctx, int64_t until_ns) RCTX_NONNULL(1);

/**
 * rctx_fd - a descriptor that polls readable (POLLIN) once the context has ended, and stays so.
 *
 * Made at the first call (an eventfd), the same at every later one; each context has its own, value contexts too, since
 * their owner can end them. Owned by the context, closed when it is gone: do not read, write or close it.
 *
 * Returns: the descriptor, or -ENOTSUP if the context can never end (poll(2) skips negative descriptors), -ENOMEM,
 *          -EMFILE and what else eventfd(2) reports. A failed call changes nothing and may be tried again.
 * Races:   with the end: readable when the winning cancel returns, whichever came first.
 */
RCTX_API int rctx_fd(const rctx *ctx) RCTX_NONNULL(1);

RCTX_END_DECLS
#endif
