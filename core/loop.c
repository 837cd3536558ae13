/*
 * loop.c - queues of callbacks: an event loop's, and the one that a manager's callback thread drains.
 *
 * One wakeup per burst: `signalled` is set by the push that finds it clear, which then writes the eventfd. A drain clears the
 * eventfd first and `signalled` last, and writes again if it leaves something behind. Destroying a loop closes the queue: what is
 * queued is dropped, and what is still registered is dropped when its context ends. The memory goes with the last registration.
 */
#include "after.h"
#include "manager.h"
#include "queue.h"
#include "tree.h"

#include <string.h>

void rctx__queue_ref(struct rctx__queue *queue) {
  add_relaxed(&queue->refs, 1U); /* the caller holds one: nothing to order */
}

static void unref(struct rctx__queue *queue, uint32_t n) {
  if (sub_acq_rel(&queue->refs, n) == n) free(queue); /* partner: itself. Only a loop's: a manager keeps a reference */
}

void rctx__queue_unref(struct rctx__queue *queue) { unref(queue, 1); }

static void unlink_locked(struct rctx__queue *queue, struct rctx_after *after) {
  if (after->rctx__prev) {
    after->rctx__prev->rctx__next = after->rctx__next;
  } else {
    queue->first = after->rctx__next;
  }
  if (after->rctx__next) {
    after->rctx__next->rctx__prev = after->rctx__prev;
  } else {
    queue->last = after->rctx__prev;
  }
  store_release(&queue->length, load_relaxed(&queue->length) - 1); /* under the lock; partner: quiet() */
}

/* True if the caller has to signal. */
static bool want_signal_locked(struct rctx__queue *queue) {
  if (queue->signalled) return false;
  queue->signalled = true;
  add_relaxed(&queue->signalling, 1U); /* closing takes the lock after us and then waits for it */
  return true;
}

bool rctx__queue_push(struct rctx__queue *queue, struct rctx_after *after, bool *signal) {
  rctx__take(&queue->lock);
  if (unlikely(queue->closed)) {
    rctx__unlock(&queue->lock);
    return false;
  }
  after->rctx__next = NULL;
  after->rctx__prev = queue->last;
  if (queue->last) {
    queue->last->rctx__next = after;
  } else {
    queue->first = after;
  }
  queue->last = after;
  store_relaxed(&queue->length, load_relaxed(&queue->length) + 1); /* under the lock */
  *signal = want_signal_locked(queue);
  store_release(rctx__after_state(after), (uint32_t)AFTER_QUEUED); /* partner: the claims of drain and stop */
  rctx__unlock(&queue->lock);
  return true;
}

void rctx__queue_signal(struct rctx__queue *queue) {
  if (queue->wake.fd >= 0) {
    rctx__eventfd_signal(rctx__fd_own(&queue->wake));
  } else {
    add_seq_cst(&queue->sequence, 1U); /* partner: the sequence the callback thread read before it drained */
    rctx__futex_wake_all(&queue->sequence);
  }
  sub_acq_rel(&queue->signalling, 1U); /* last touch; partner: rctx_loop_destroy() */
}

void rctx__queue_remove(struct rctx__queue *queue, struct rctx_after *after) {
  rctx__take(&queue->lock);
  unlink_locked(queue, after);
  rctx__unlock(&queue->lock);
}

/* The first entry that no stop has claimed, claimed as MOVING and unlinked. begin: it is going to run here. */
static struct rctx_after *claim_first_locked(struct rctx__queue *queue, bool begin) {
  for (struct rctx_after *at = queue->first; at; at = at->rctx__next) {
    uint32_t queued = AFTER_QUEUED;
    if (!cas_acq_rel(rctx__after_state(at), &queued, AFTER_MOVING)) continue; /* partner: the claim of a stop */
    if (begin) {
      rctx__after_begin(at);
      store_release(rctx__after_state(at), (uint32_t)AFTER_RUNNING); /* partner: a stop */
    }
    unlink_locked(queue, at);
    return at;
  }
  return NULL;
}

size_t rctx__queue_drain(struct rctx__queue *queue, size_t max) {
  size_t ran = 0;
  bool all = false; /* what is still listed then is a stop's, which is about to take it off: no reason to come again */
  rctx__take(&queue->lock);
  bool was = queue->signalled;
  bool keep = was && load_relaxed(&queue->length) > max; /* more than we may take: the fd stays as it is, readable */
  /* Also when nothing is queued: a signaller may have been overtaken by the drain that took its entry. */
  bool clear = !keep && (was || queue->first == NULL);
  queue->signalled = true; /* while we are here nobody needs to wake us: we look again before we leave */
  rctx__unlock(&queue->lock);
  if (clear && queue->wake.fd >= 0) rctx__eventfd_clear(rctx__fd_own(&queue->wake));
  rctx__take(&queue->lock);
  while (ran < max) {
    struct rctx_after *after = claim_first_locked(queue, true);
    all = after == NULL;
    if (all) break;
    rctx__unlock(&queue->lock);
    rctx__after_run(after);
    ran++;
    rctx__take(&queue->lock);
  }
  if (!keep) queue->signalled = false;
  bool signal = !all && queue->first != NULL && want_signal_locked(queue);
  rctx__unlock(&queue->lock);
  if (signal) rctx__queue_signal(queue);
  return ran;
}

/* ---- event loops ------------------------------------------------------------------------------------------------- */

int rctx_loop_create(rctx_loop **loop) {
  if (misused(loop == NULL, "loop is NULL (expected where to write it)")) return -EINVAL;
  rctx_loop *made = calloc(1, sizeof *made);
  if (made == NULL) return -ENOMEM;
  int fd = rctx__eventfd(false);
  if (fd < 0) {
    free(made);
    return fd;
  }
  made->queue.wake.fd = fd;
  atomic_init(&made->queue.wake.process, load_relaxed(&rctx__process)); /* changes with one thread only */
  atomic_init(&made->queue.refs, 1);
  *loop = made;
  return 0;
}

static rctx_loop *mutable_loop(const rctx_loop *loop) {
  union {
    const rctx_loop *in;
    rctx_loop *out;
  } cast = {loop};
  return cast.out;
}

int rctx_loop_fd(const rctx_loop *loop) {
  if (misused(loop == NULL, "loop is NULL (expected an rctx_loop)")) return -EINVAL;
  struct rctx__queue *queue = &mutable_loop(loop)->queue;
  bool inherited = load_acquire(&queue->wake.process) != load_relaxed(&rctx__process); /* partner: rctx__fd_replace() */
  int fd = rctx__fd_own(&queue->wake);
  if (inherited && load_relaxed(&queue->length) > 0)
    rctx__eventfd_signal(fd); /* the parent's was written, this one was not */
  return fd;
}

size_t rctx_loop_drain(rctx_loop *loop, size_t max) {
  if (misused(loop == NULL, "loop is NULL (expected an rctx_loop)")) return 0;
  return rctx__queue_drain(&loop->queue, max);
}

void rctx_loop_destroy(rctx_loop *loop) {
  if (loop == NULL) return;
  struct rctx__queue *queue = &loop->queue;
  uint32_t held = 1; /* ours, and those of the entries we drop */
  rctx__take(&queue->lock);
  queue->closed = true;
  for (;; held++) {
    struct rctx_after *after = claim_first_locked(queue, false);
    if (after == NULL) break;
    rctx *ctx = rctx__mutable(after->rctx__ctx);
    rctx__unlock(&queue->lock);
    store_release(rctx__after_state(after), (uint32_t)AFTER_DROPPED); /* its last touch; partner: a stop */
    if (!rctx__is_static(ctx)) rctx__drop(ctx);
    rctx__take(&queue->lock);
  }
  rctx__unlock(&queue->lock);
  uint32_t writers;
  unsigned tries = 0;
  while ((writers = load_acquire(&queue->signalling)) != 0) { /* partner: rctx__queue_signal() */
    rctx__back_off(&queue->signalling, writers, &tries);
  }
  rctx__close(queue->wake.fd);
  unref(queue, held);
}
