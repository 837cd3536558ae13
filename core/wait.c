/*
 * wait.c - threads that block until the end, and descriptors that poll it.
 *
 * A waiter sets STATE_WAIT and sleeps on the state word itself; who ends the context finds the flag in the word it changes, so
 * no wakeup is lost. A descriptor is made under the state lock's protection: either the flag was set before the end (and the
 * notifier writes it) or the maker sees the end (and makes it readable).
 */
#include "manager.h"
#include "tree.h"

#include <rctx/wait.h>

/* On a clock of the embedder's nobody tells us that it moved: look once a millisecond. */
enum { LOOK_NS = 1000000 };

static int64_t sleep_until(const rctx_manager *manager, int64_t until_ns) {
  if (manager->timers.clock == NULL || until_ns == RCTX__NEVER) return until_ns;
  return rctx__monotonic_ns() + LOOK_NS;
}

int rctx_wait(const rctx *ctx, int64_t until_ns) {
  if (misused(ctx == NULL, "ctx is NULL (expected a context)")) return -EINVAL;
  rctx *node = rctx__mutable(ctx);
  unsigned tries = 0;
  for (;;) {
    uint32_t s = load_acquire(&node->state); /* partner: mark() */
    if (rctx__done(s)) return -(int)rctx__done(s);
    if (until_ns != RCTX__NEVER && rctx__now(ctx->manager) >= until_ns) return 0;
    if (s & STATE_LOCKED) {
      rctx__back_off(&node->state, s, &tries);
      continue;
    }
    if (!(s & (STATE_WAIT | STATE_ENDLESS))) {
      if (!cas_relaxed(&node->state, &s, s | STATE_WAIT)) continue; /* the futex compares the word again */
      s |= STATE_WAIT;
    }
    rctx__futex_wait(&node->state, s, sleep_until(ctx->manager, until_ns));
  }
}

int rctx_fd(const rctx *ctx) {
  if (misused(ctx == NULL, "ctx is NULL (expected a context)")) return -EINVAL;
  rctx *node = rctx__mutable(ctx);
  if (rctx__is_static(ctx) || (load_relaxed(&node->state) & STATE_ENDLESS)) return -ENOTSUP; /* const */
  struct rctx__ext *ext = rctx__ext_get(node);
  if (ext == NULL) return -ENOMEM;
  uint32_t process = load_relaxed(&rctx__process); /* changes with one thread only */
  int fd = -1;
  uint32_t s = load_acquire(&node->state); /* partner: the unlock below */
  if (!(s & STATE_FD)) {
    int fresh = rctx__eventfd(false);
    if (fresh < 0) return fresh;
    s = rctx__state_lock(node);
    bool first = ext->done.fd < 0;
    if (first) {
      ext->done.fd = fresh;
      store_relaxed(&ext->done.process, process); /* published by the unlock */
    }
    rctx__state_unlock(node, s | STATE_FD);
    if (!first) rctx__close(fresh);
    fd = ext->done.fd;
    if (first && rctx__done(s)) rctx__eventfd_signal(fd); /* the end came first and has written nothing */
    return fd;
  }
  bool inherited = load_acquire(&ext->done.process) != process; /* partner: rctx__fd_replace() */
  fd = rctx__fd_own(&ext->done);
  if (inherited && rctx__done(s)) rctx__eventfd_signal(fd); /* the parent's was written, this one was not */
  return fd;
}
