/*
 * wait.c - threads that block until the end, and descriptors that poll it; sleep, poll(2) and condition variables that end too.
 *
 * A waiter sets STATE_WAIT and sleeps on the state word itself; who ends the context finds the flag in the word it changes, so
 * no wakeup is lost. A descriptor is made under the state lock's protection: either the flag was set before the end (and the
 * notifier writes it) or the maker sees the end (and makes it readable).
 *
 * A condition variable is woken by a broadcast under its mutex: one without could fall between the waiter's last look and its wait. But
 * whoever ends a context may hold that mutex. So the registration is delivered to an executor of our own, in the ending thread,
 * which only tries the mutex; if it is taken, a second registration passes the broadcast on to the callback thread, which waits
 * for it. The waiter, that holds the mutex again when it leaves, lets go of it while it waits for that callback to be quiet.
 */
#define _GNU_SOURCE
#include "after.h"
#include "manager.h"
#include "tree.h"

#include <rctx/after.h>
#include <rctx/wait.h>
#include <string.h>

#define NEED_CTX "ctx is NULL (expected a context)"

/* On a clock of the embedder's nobody tells us that it moved: look once a millisecond. */
enum { LOOK_NS = 1000000 };

static int64_t sleep_until(const rctx_manager *manager, int64_t until_ns) {
  bool told = until_ns == RCTX__NEVER && manager->timers.test_clock == NULL; /* of all there is to be told */
  if (manager->timers.clock == NULL || told) return until_ns;
  return rctx__monotonic_ns() + LOOK_NS;
}

/* here: NULL but on a virtual clock. */
static int wait_as(struct rctx__blocked *here, const rctx_manager *manager, const rctx *ctx, int64_t until_ns) {
  rctx *node = rctx__mutable(ctx);
  unsigned tries = 0;
  for (;;) {
    uint32_t s = load_acquire(&node->state); /* partner: mark() */
    if (rctx__done(s)) return -(int)rctx__done(s);
    if (until_ns != RCTX__NEVER && rctx__now(manager) >= until_ns) return 0;
    if (s & STATE_LOCKED) {
      rctx__back_off(&node->state, s, &tries);
      continue;
    }
    if (!(s & (STATE_WAIT | STATE_ENDLESS))) {
      if (!cas_relaxed(&node->state, &s, s | STATE_WAIT)) continue; /* the futex compares the word again */
      s |= STATE_WAIT;
    }
    if (unlikely(here != NULL) && rctx__test_move(manager, here)) continue;
    rctx__futex_wait(&node->state, s, sleep_until(manager, until_ns));
  }
}

static int wait_on(const rctx_manager *manager, const rctx *ctx, int64_t until_ns) {
  if (likely(manager->timers.test_clock == NULL)) return wait_as(NULL, manager, ctx, until_ns);
  struct rctx__blocked here = {.ctx = ctx, .until_ns = until_ns};
  rctx__test_block(manager, &here);
  int rc = wait_as(&here, manager, ctx, until_ns);
  rctx__test_unblock(manager, &here);
  return rc;
}

int rctx_wait(const rctx *ctx, int64_t until_ns) {
  if (misused(ctx == NULL, NEED_CTX)) return -EINVAL;
  rctx__look_here(ctx);
  return wait_on(ctx->manager, ctx, until_ns);
}

int rctx__sleep_on(const rctx_manager *manager, const rctx *ctx, int64_t duration_ns) {
  rctx__look_here(ctx);
  return wait_on(manager, ctx, rctx__add_ns(rctx__now(manager), duration_ns));
}

int rctx_sleep(const rctx *ctx, int64_t duration_ns) {
  if (misused(ctx == NULL, NEED_CTX)) return -EINVAL;
  return rctx__sleep_on(ctx->manager, ctx, duration_ns);
}

int rctx_fd(const rctx *ctx) {
  if (misused(ctx == NULL, NEED_CTX)) return -EINVAL;
  rctx *node = rctx__mutable(ctx);
  if (rctx__is_static(ctx) || (load_relaxed(&node->state) & STATE_ENDLESS)) return -ENOTSUP; /* const */
  struct rctx__ext *ext = rctx__ext_get(node);
  if (ext == NULL) return -ENOMEM;
  int fd = -1;
  uint32_t s = load_acquire(&node->state); /* partner: the unlock below */
  if (!(s & STATE_FD)) {
    uint32_t process = load_relaxed(&rctx__process); /* changes with one thread only */
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
  } else {
    fd = rctx__fd_own(&ext->done);
  }
  /* Whoever ended it may not have seen the flag; whoever made it may be just about to write it; a child of a fork has another. */
  if (rctx__done(s)) rctx__eventfd_signal(fd);
  return fd;
}

/* ---- poll(2) ----------------------------------------------------------------------------------------------------- */

enum { FEW = 64 };

/* How long the next ppoll(2) may take; NULL: as long as it takes. deaf: no descriptor tells of the end. */
static struct timespec *time_left(const rctx *ctx, int64_t until_ns, bool deaf, struct timespec *left) {
  const struct rctx__timers *timers = &ctx->manager->timers;
  bool in_slices = deaf || timers->test_clock || (timers->clock && until_ns != RCTX__NEVER);
  if (until_ns == RCTX__NEVER && !in_slices) return NULL;
  int64_t left_ns = until_ns == RCTX__NEVER ? RCTX__NEVER : rctx__add_ns(until_ns, -rctx__now(ctx->manager));
  if (left_ns < 0) left_ns = 0;
  if (in_slices && left_ns > LOOK_NS) left_ns = LOOK_NS;
  *left = (struct timespec){left_ns / 1000000000, left_ns % 1000000000};
  return left;
}

static bool time_is_up(const rctx *ctx, int64_t until_ns) {
  return until_ns != RCTX__NEVER && rctx__now(ctx->manager) >= until_ns;
}

/* all: the caller's nfds descriptors and the context's behind them. here: NULL but on a virtual clock. */
static int poll_as(struct rctx__blocked *here, const rctx *ctx, struct pollfd *all, nfds_t nfds, int64_t until_ns) {
  const bool endless = all[nfds].fd < 0;
  for (;;) {
    struct timespec left;
    bool deaf = !endless && all[nfds].fd < 0;
    int ready = ppoll(all, nfds + 1, time_left(ctx, until_ns, deaf, &left), NULL);
    if (ready < 0) return -errno;
    int err = rctx_err(ctx);
    if (err) return err;
    if (all[nfds].revents) { /* live all the same: in the child of a fork that could not have a descriptor of its own */
      all[nfds].fd = -1;
      ready--;
    }
    if (ready > 0 || time_is_up(ctx, until_ns)) return ready;
    if (here) rctx__test_move(ctx->manager, here);
  }
}

static int poll_all(const rctx *ctx, struct pollfd *all, nfds_t nfds, int64_t until_ns) {
  if (likely(ctx->manager->timers.test_clock == NULL)) return poll_as(NULL, ctx, all, nfds, until_ns);
  struct rctx__blocked here = {.ctx = ctx, .until_ns = until_ns};
  rctx__test_block(ctx->manager, &here);
  int ready = poll_as(&here, ctx, all, nfds, until_ns);
  rctx__test_unblock(ctx->manager, &here);
  return ready;
}

/* It has ended: a look at the caller's descriptors, for their revents. */
static int poll_ended(const rctx *ctx, struct pollfd *fds, nfds_t nfds) {
  int ready = nfds ? poll(fds, nfds, 0) : 0;
  return ready < 0 ? -errno : rctx_err(ctx);
}

static int poll_live(const rctx *ctx, struct pollfd *fds, nfds_t nfds, int64_t until_ns) {
  struct pollfd few[FEW], *all = few;
  int fd = rctx_fd(ctx);
  if (fd < 0 && fd != -ENOTSUP) return fd;
  if (nfds >= FEW) {
    if (nfds > INT32_MAX / sizeof *all) return -EINVAL;
    all = malloc((nfds + 1) * sizeof *all);
    if (all == NULL) return -ENOMEM;
  }
  if (nfds) memcpy(all, fds, nfds * sizeof *all);
  all[nfds] = (struct pollfd){.fd = fd, .events = POLLIN}; /* a negative one is passed over */
  int ready = poll_all(ctx, all, nfds, until_ns);
  for (nfds_t i = 0; i < nfds; i++) fds[i].revents = all[i].revents;
  if (all != few) free(all);
  return ready;
}

int rctx_poll(const rctx *ctx, struct pollfd *fds, nfds_t nfds, int64_t until_ns) {
  if (misused(ctx == NULL, NEED_CTX) || misused(fds == NULL && nfds > 0, "fds is NULL")) return -EINVAL;
  rctx__look_here(ctx);
  int saved = errno;
  int ready = rctx_err(ctx) ? poll_ended(ctx, fds, nfds) : poll_live(ctx, fds, nfds, until_ns);
  errno = saved;
  return ready;
}

/* ---- condition variables ----------------------------------------------------------------------------------------- */

struct cond_waiter {
  struct rctx_executor executor; /* first: the table is the waiter */
  struct rctx_after told;        /* delivered in the thread that ends the context */
  struct rctx_after passed_on;   /* registered by that thread if it could not have the mutex */
  const rctx *ctx;
  pthread_cond_t *cond;
  pthread_mutex_t *mutex;
  bool was_passed_on; /* written before `told` is quiet */
};

static void nothing(const rctx *ctx, void *arg) {
  (void)ctx;
  (void)arg;
}

static void broadcast(const rctx *ctx, void *arg) {
  struct cond_waiter *waiter = arg;
  (void)ctx;
  pthread_mutex_lock(waiter->mutex);
  pthread_cond_broadcast(waiter->cond);
  pthread_mutex_unlock(waiter->mutex);
}

static void try_broadcast(struct rctx_executor *self, struct rctx_task *task) {
  struct cond_waiter *waiter = (struct cond_waiter *)(void *)self;
  if (pthread_mutex_trylock(waiter->mutex) == 0) {
    pthread_cond_broadcast(waiter->cond);
    pthread_mutex_unlock(waiter->mutex);
  } else {
    waiter->was_passed_on = true;
    rctx_after(waiter->ctx, &waiter->passed_on, broadcast, waiter); /* the thread is there: nothing can fail */
  }
  rctx_task_run(task);
}

/* The mutex is held before and after. */
static void stop_telling(void *arg) {
  struct cond_waiter *waiter = arg;
  rctx_after_stop_sync(&waiter->told); /* it never waits for the mutex */
  if (!waiter->was_passed_on || rctx_after_stop(&waiter->passed_on)) return;
  pthread_mutex_unlock(waiter->mutex);
  rctx_after_stop_sync(&waiter->passed_on);
  pthread_mutex_lock(waiter->mutex);
}

/* On a thread of the library's that may be the one to wake us: only for a moment. The caller looks at its condition again. */
static void wait_a_moment(pthread_cond_t *cond, pthread_mutex_t *mutex) {
  int64_t until_ns = rctx__monotonic_ns() + LOOK_NS;
  struct timespec until = {until_ns / 1000000000, until_ns % 1000000000};
  pthread_cond_clockwait(cond, mutex, CLOCK_MONOTONIC, &until);
}

static int wait_and_stop(struct cond_waiter *waiter) {
  pthread_cleanup_push(stop_telling, waiter); /* a cancelled thread holds the mutex, too */
  pthread_cond_wait(waiter->cond, waiter->mutex);
  pthread_cleanup_pop(1);
  int err = rctx_err(waiter->ctx);
  if (err) pthread_cond_broadcast(waiter->cond); /* a signal may have woken us, which others wait for */
  return err;
}

int rctx_cond_wait(const rctx *ctx, pthread_cond_t *cond, pthread_mutex_t *mutex) {
  if (misused(ctx == NULL, NEED_CTX) || misused(cond == NULL, "cond is NULL") ||
      misused(mutex == NULL, "mutex is NULL"))
    return -EINVAL;
  rctx__look_here(ctx);
  int err = rctx_err(ctx);
  if (err) return err;
  if (load_relaxed(&rctx__mutable(ctx)->state) & STATE_ENDLESS) { /* const */
    pthread_cond_wait(cond, mutex);
    return 0;
  }
  if (rctx__in_callback_of(ctx->manager)) {
    wait_a_moment(cond, mutex);
    return rctx_err(ctx);
  }
  struct cond_waiter waiter = {.executor = {try_broadcast, NULL}, .ctx = ctx, .cond = cond, .mutex = mutex};
  int rc = rctx__callback_thread_start(ctx->manager);
  if (rc != 0) return rc;
  if (rctx_after_on(ctx, &waiter.told, &waiter.executor, RCTX_ON_ENDED_TELL, nothing, NULL) == RCTX_ENDED)
    return rctx_err(ctx);
  return wait_and_stop(&waiter);
}
