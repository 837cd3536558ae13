/* rcu.c - see rcu.h. */
#define _GNU_SOURCE
#include "rcu.h"

#include <pthread.h>
#include <sys/mman.h>
#include <urcu/urcu-bp.h>

/* Serialises grace periods and first registrations, so that fork finds liburcu's own locks free of us. */
static pthread_mutex_t rcu_mutex = PTHREAD_MUTEX_INITIALIZER;
/* Walks that run unregistered. seq_cst on both sides: a walk counts itself before it reads a list, a reclaimer reads the
 * count after the unlink; one of them sees the other. */
static _Atomic uint32_t counted_walks;
THREAD_LOCAL bool registered_here;

#if defined(RCTX_TSAN)
/* liburcu's asymmetric barriers are invisible to TSan: every read section happens before the grace period after it. */
extern void __tsan_acquire(void *addr);
extern void __tsan_release(void *addr);
static char rcu_domain;
#define tsan_release() __tsan_release(&rcu_domain)
#define tsan_acquire() __tsan_acquire(&rcu_domain)
#else
#define tsan_release() ((void)0)
#define tsan_acquire() ((void)0)
#endif

/* Trylock only: a thread inside a read section of the host's own must not wait for one that waits for that section. */
static COLD bool register_here(void) {
  enum { ARENA_BYTES = 1 << 16 }; /* more than one step of liburcu's reader arena */
  if (pthread_mutex_trylock(&rcu_mutex) != 0) return false;
  void *probe = mmap(NULL, ARENA_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (probe != MAP_FAILED) {
    munmap(probe, ARENA_BYTES);
    urcu_bp_read_lock();
    urcu_bp_read_unlock();
    registered_here = true;
  }
  pthread_mutex_unlock(&rcu_mutex);
  return registered_here;
}

bool rctx__rcu_enter(void) {
  if (likely(registered_here) || register_here()) {
    urcu_bp_read_lock();
    return true;
  }
  add_seq_cst(&counted_walks, 1U); /* partner: rctx__rcu_wait(), which unlinked before it looks here */
  return false;
}

void rctx__rcu_leave(bool registered) {
  tsan_release();
  if (likely(registered)) {
    urcu_bp_read_unlock();
  } else {
    sub_acq_rel(&counted_walks, 1U); /* partner: the load in rctx__rcu_wait() */
  }
}

bool rctx__rcu_wait(bool block) {
  if (!registered_here && !register_here()) return false;
  if (urcu_bp_read_ongoing()) return false; /* the host's own read section: would wait for itself */
  if (block) {
    pthread_mutex_lock(&rcu_mutex);
  } else if (pthread_mutex_trylock(&rcu_mutex) != 0) {
    return false;
  }
  urcu_bp_synchronize_rcu();
  /* Partner: rctx__rcu_enter(), which looks for nodes after it counted. */
  bool over = load_seq_cst(&counted_walks) == 0;
  tsan_acquire();
  pthread_mutex_unlock(&rcu_mutex);
  return over;
}

void rctx__rcu_before_fork(void) { pthread_mutex_lock(&rcu_mutex); }
void rctx__rcu_after_fork(void) { pthread_mutex_unlock(&rcu_mutex); }

void rctx__rcu_forget_readers(void) {
  rcu_mutex = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER; /* see rctx_after_fork_child() */
  registered_here = false;                                /* asks again whether a read lock can be had */
  /* Our own before/after pair, run in the child: rcu_mutex was held over the fork, so liburcu's locks are free of us. */
  urcu_bp_before_fork();
  urcu_bp_after_fork_child();
  atomic_store_explicit(&counted_walks, 0, memory_order_relaxed); /* one thread: no partner */
}
