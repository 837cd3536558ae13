/*
 * rctx/wait.h - learning of the end by blocking or polling: sleep, poll(2), condition variables. Callbacks and event loops: after.h.
 */
#ifndef RCTX_WAIT_H
#define RCTX_WAIT_H

#include <poll.h>
#include <pthread.h>
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

/**
 * rctx_sleep - sleep for duration_ns, or until the context ends (the article's WaitForCompletion).
 *
 * Returns: 0 after the whole duration; the context's error as soon as it ends, at once if it has. If both are true, the
 *          error. Zero or negative: just look. On the clock of the context's manager.
 */
RCTX_API int rctx_sleep(const rctx *ctx, int64_t duration_ns) RCTX_NONNULL(1);

/**
 * rctx_poll - poll(2) that also ends with the context.
 *
 * @fds, @nfds: as for poll(2); revents are written before any return >= 0 or with the context's error. 0 descriptors: a wait.
 * @until_ns:   absolute, on the context's clock; now or earlier: just look. INT64_MAX: as long as it takes.
 *
 * Returns: how many descriptors are ready; 0: until_ns came first; the context's error, also if descriptors are ready at
 *          the same time (poll is level-triggered: nothing is lost); -EINTR, -EINVAL, -ENOMEM as poll(2) (one descriptor more than nfds counts against the limits); what rctx_fd()
 *          reports if the context's descriptor can not be made (-EMFILE).
 * Threads: any number at once on one context. Blocks: as said.
 * Cost:    one ppoll(2); up to 63 descriptors without allocation, more with one malloc. The context's eventfd is made at the
 *          first call.
 */
RCTX_API int rctx_poll(const rctx *ctx, struct pollfd *fds, nfds_t nfds, int64_t until_ns)
    RCTX_NONNULL(1) RCTX_MUST_CHECK;

/**
 * rctx_cond_wait - pthread_cond_wait(3) that also ends with the context.
 *
 * Called with @mutex locked by the caller, and returns with it locked. For a limit in time, derive a context with a timeout.
 *
 *   while (!ready && err == 0) err = rctx_cond_wait(ctx, &cond, &mutex);
 *
 * Returns: 0: woken, perhaps for nothing: look at your condition again; the context's error once it has ended, at once if it
 *          has already; -EAGAIN if the library's callback thread can not be started, and then it has not waited.
 * Races:   a signal and the end at once: the error is returned and the signal is not lost to others: the end wakes all
 *          waiters of @cond, whose own contexts may be live: they see a spurious wakeup.
 * Threads: the end may come from any thread, also one that holds @mutex: whoever ends the context never waits for @mutex.
 *          (If it is taken at that moment, the callback thread of the context's manager wakes the waiters; so do not hold
 *          @mutex while waiting for that thread, as rctx_quiesce() does.)
 *          Inside a callback or task of that manager it waits for a millisecond at most, and returns 0.
 * Not for robust mutexes. Cost: a registration and its stop around the wait; no allocation.
 */
RCTX_API int rctx_cond_wait(const rctx *ctx, pthread_cond_t *cond, pthread_mutex_t *mutex)
    RCTX_NONNULL(1, 2, 3) RCTX_MUST_CHECK;

RCTX_END_DECLS
#endif
