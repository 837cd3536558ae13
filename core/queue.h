/*
 * queue.h - callbacks on their way: the queue of an event loop, and of a manager's callback thread.
 *
 * Many threads push, one drains, anybody takes an entry back that has not begun. A short lock instead of a lock-free queue,
 * because taking back from the middle is what makes stop exact; a push under it costs 3 ns.
 * Lock order: a node's state lock, then a queue's lock. Lifetime: counted; each registration for a loop holds one.
 */
#ifndef RCTX_CORE_QUEUE_H
#define RCTX_CORE_QUEUE_H

#include "platform.h"

#include <rctx/after.h>

struct rctx__queue {
  rctx__lock lock;
  bool signalled;              /* lock: the fd has been written, or the thread woken, and not drained since */
  bool closed;                 /* lock */
  struct rctx_after *first;    /* lock: linked through rctx__next/prev */
  struct rctx_after *last;     /* lock */
  _Atomic uint32_t length;     /* written under lock; read as a hint */
  _Atomic uint32_t refs;       /* atomic: its owner, and each registration that names it */
  _Atomic uint32_t signalling; /* raised under lock: threads about to write fd, which closing waits for */
  _Atomic uint32_t sequence;   /* futex of the draining thread when there is no eventfd */
  struct rctx__fd wake;        /* const: an eventfd; fd -1: the sequence is used */
};

struct rctx_loop {
  struct rctx__queue queue;
};

/** Append an entry whose state is MOVING and make it QUEUED. False: the queue is closed, nothing was done. *signal: the
 *  caller has to call rctx__queue_signal(), once, after it has let its other locks go. */
bool rctx__queue_push(struct rctx__queue *queue, struct rctx_after *after, bool *signal);
void rctx__queue_signal(struct rctx__queue *queue);
/** Take out an entry that the caller has claimed (state STOPPING). */
void rctx__queue_remove(struct rctx__queue *queue, struct rctx_after *after);
/** Run up to max callbacks. */
size_t rctx__queue_drain(struct rctx__queue *queue, size_t max);
void rctx__queue_ref(struct rctx__queue *queue);
void rctx__queue_unref(struct rctx__queue *queue);

#endif
