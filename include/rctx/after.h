/*
 * rctx/after.h - callbacks at the end of a context: inline, on an event loop, on an executor, or on the library's thread.
 *
 * The node (struct rctx_after) is the caller's: registering allocates nothing. It is busy from the registration until it
 * is quiet: stopped, or its callback has returned and the library has let go. Only then may it be freed or used again.
 * Zero-initialise it before its first use.
 *
 *   registered --end--> queued (loop, library's thread) or submitted (executor) --> running --> ran (quiet)
 *        \-- stop --> stopped (quiet)   queued --stop--> stopped; an executor can not give it back
 *
 * Promises cited below:
 *   [AFTER-1] The callback runs exactly once, or never and then some stop returned true: exactly one of the two. (A loop
 *             that is destroyed drops what it has not run; those never run and later stops return true.)
 *   [AFTER-2] No library lock is held while it runs. Inside it everything is legal: ref, unref, cancelling this or
 *             another context, registering, stopping itself or others, ending its own context.
 *   [AFTER-3] It runs after the whole subtree has been marked; error and cause are set.
 *   [AFTER-4] Callbacks of one context that were registered before its end are started (inline) or queued in that order.
 *   [AFTER-5] A registration keeps its context's memory (a reference), not its handle: it does not keep it from ending.
 */
#ifndef RCTX_AFTER_H
#define RCTX_AFTER_H

#include <rctx/executor.h>

RCTX_BEGIN_DECLS

/** A callback. @ctx has ended and is borrowed for the duration of the call. */
typedef void (*rctx_after_fn)(const rctx *ctx, void *arg);

/** The registration: storage only; all fields are the library's. */
struct rctx_after {
  struct rctx_task rctx__task;
  struct rctx_after *rctx__next;
  struct rctx_after *rctx__prev;
  const rctx *rctx__ctx;
  rctx_after_fn rctx__fn;
  void *rctx__arg;
  void *rctx__target;
  void (*rctx__quiet)(void *arg);
  void *rctx__quiet_arg;
  uint32_t rctx__state;
  uint32_t rctx__mode;
  uintptr_t rctx__runner;
};

/** What registering found. Negative: an errno, and nothing was registered. */
enum rctx_registered {
  RCTX_REGISTERED = 0, /* the callback will run at the end */
  RCTX_ENDED = 1,      /* it had ended already: what then happened was chosen by rctx_on_ended */
  RCTX_NEVER = 2       /* it can never end: nothing will run. The first stop still returns true */
};

/** What to do when the context has already ended at registration. */
enum rctx_on_ended {
  RCTX_ON_ENDED_QUEUE = 0, /* deliver where it would have been delivered (an inline callback: at once, here) */
  RCTX_ON_ENDED_RUN,       /* run it at once on the registering thread, before the call returns */
  RCTX_ON_ENDED_TELL       /* do not call it: RCTX_ENDED is the answer, the node is quiet */
};

/**
 * rctx_after - run fn(ctx, arg) on the library's callback thread when the context ends (Go's AfterFunc).
 *
 * Never inline in the canceller or here, also when the context has ended already. The thread is the manager's, started at
 * the first such registration with all signals blocked, and runs one callback at a time.
 *
 * Returns: RCTX_REGISTERED, RCTX_ENDED (fn was queued), RCTX_NEVER; -EAGAIN if the thread can not be started;
 *          -EBUSY if the node is busy (registered, queued or running); -EINVAL if fn is NULL.
 */
RCTX_API int rctx_after(const rctx *ctx, struct rctx_after *node, rctx_after_fn fn, void *arg) RCTX_NONNULL(1, 2, 3);

/** rctx_after_inline - run it in the thread that ends the context (canceller or timer), after the whole subtree is marked,
 *  before that cancel returns. Keep it short: it delays the canceller. Returns as rctx_after(), never -EAGAIN. */
RCTX_API int rctx_after_inline(const rctx *ctx, struct rctx_after *node, enum rctx_on_ended on_ended, rctx_after_fn fn,
                               void *arg) RCTX_NONNULL(1, 2, 4);

/** rctx_after_on - hand it to an executor when the context ends. Once submitted it can not be stopped. Returns as
 *  rctx_after(), and what executor->prepare reports. */
RCTX_API int rctx_after_on(const rctx *ctx, struct rctx_after *node, struct rctx_executor *executor,
                           enum rctx_on_ended on_ended, rctx_after_fn fn, void *arg) RCTX_NONNULL(1, 2, 3, 5);

/** rctx_watch - run it on an event loop's thread, inside rctx_loop_drain(), when the context ends. As long as it has not
 *  begun, rctx_after_stop() takes it back, also out of the loop's queue. Returns as rctx_after(), never
 *  -EAGAIN. The loop must not have been destroyed. */
RCTX_API int rctx_watch(const rctx *ctx, struct rctx_after *node, rctx_loop *loop, enum rctx_on_ended on_ended,
                        rctx_after_fn fn, void *arg) RCTX_NONNULL(1, 2, 3, 5);

/**
 * rctx_after_stop - take the registration back. Never waits for a callback.
 *
 * Returns: true exactly once, and only if the callback has not run and never will: the node is quiet. false: it is
 *          running, has run, was stopped before, was never registered; when running, the node is NOT yet quiet.
 * Threads: any; also inside the callback (false there). The node must not be freed concurrently.
 */
RCTX_API bool rctx_after_stop(struct rctx_after *node) RCTX_NONNULL(1);

/** rctx_after_stop_sync - the same, and when it returns the node is quiet: it waits for a running callback to return, and
 *  sees all it did. Legal inside the callback itself, where it does not wait: the node is quiet only after the callback has
 *  returned, so a callback does not free its own node (rctx_after_stop_notify() tells when that may be done).
 *  Do not hold a lock that the callback wants, and do not call it where a queued executor task would need this thread. */
RCTX_API bool rctx_after_stop_sync(struct rctx_after *node) RCTX_NONNULL(1);

/**
 * rctx_after_stop_notify - the same, telling when the node is quiet instead of waiting.
 *
 * Returns: as rctx_after_stop(), in *quiet whether the node is quiet now. If it is not, quiet_fn(quiet_arg) is called
 * once, by the thread that ran the callback, as the library's very last act on the node: it may free it. One notice per
 * registration: a second call while one is pending returns false, *quiet false, and changes nothing.
 */
RCTX_API bool rctx_after_stop_notify(struct rctx_after *node, void (*quiet_fn)(void *arg), void *quiet_arg, bool *quiet)
    RCTX_NONNULL(1, 2, 4);

/* ---- event loops ------------------------------------------------------------------------------------------------- */

/** rctx_loop_create - a queue of callbacks and one eventfd for one event loop. Poll rctx_loop_fd() for reading and call
 *  rctx_loop_drain() when it is. Returns 0, -ENOMEM, or what eventfd(2) reports. */
RCTX_API int rctx_loop_create(rctx_loop **loop) RCTX_NONNULL(1) RCTX_MUST_CHECK;

/** rctx_loop_fd - readable while callbacks are queued. Owned by the loop. A burst of any number of ends writes it once. */
RCTX_API int rctx_loop_fd(const rctx_loop *loop) RCTX_NONNULL(1);

/**
 * rctx_loop_drain - run up to max queued callbacks on the calling thread; the loop's thread, one at a time.
 *
 * Returns how many ran. With more left, the fd stays readable: a loop takes the slice it can afford. Callbacks queued
 * while draining are run in the same call while max allows. Legal from inside a callback it runs (nested).
 */
RCTX_API size_t rctx_loop_drain(rctx_loop *loop, size_t max) RCTX_NONNULL(1);

/**
 * rctx_loop_destroy - close the loop. Callbacks not begun never run; their nodes, and those still registered, count as
 * stopped by the first stop on them, which returns true and is still required before a node is freed (a stop needs the
 * context or the loop no longer). Call on the loop's thread, not inside rctx_loop_drain(). @loop: transferred. NULL: nothing.
 * Races: with any cancel: each callback has either been begun by an earlier drain or never runs.
 */
RCTX_API void rctx_loop_destroy(rctx_loop *loop);

RCTX_END_DECLS
#endif
