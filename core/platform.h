/*
 * platform.h - compiler, atomics, locks, futex, clock, threads: the only files that know the kernel (with platform.c).
 *
 * Atomics: the order is in the name and there is no default. In a testing build every one of them is a place where
 * rctx__chaos() may yield, which makes races thousands of times likelier.
 *
 * rctx__lock is for sections of a few instructions (a list splice): one compare-and-swap to take, a plain release store to
 * drop. A waiter spins, yields, then sleeps 50 us at a time on the futex; the holder never wakes anybody, so dropping
 * needs no read-modify-write. Nothing under it allocates, calls back or enters the kernel.
 */
#ifndef RCTX_CORE_PLATFORM_H
#define RCTX_CORE_PLATFORM_H

#define RCTX_BUILDING 1 /* the core checks its arguments itself: no nonnull promise to the compiler */
#include <rctx/base.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)
#define COLD __attribute__((cold, noinline))
#define CACHE_LINE 64
#define THREAD_LOCAL static __thread __attribute__((tls_model("initial-exec")))

/* Under ASan and MSan every node is an allocation of its own, which they watch. */
#if defined(__SANITIZE_ADDRESS__)
#define RCTX_UNCACHED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(memory_sanitizer)
#define RCTX_UNCACHED 1
#endif
#endif
#ifndef RCTX_UNCACHED
#define RCTX_UNCACHED 0
#endif

/* ---- yield injection (testing builds) ---------------------------------------------------------------------------- */

#if defined(RCTX_TESTING) && RCTX_TESTING
extern _Atomic unsigned rctx__chaos_mask; /* 0: off; N: yield at one in N atomics */
extern _Atomic uint64_t rctx__chaos_seed;
void rctx__chaos_yield(void);
static inline void rctx__chaos(void) {
  if (unlikely(atomic_load_explicit(&rctx__chaos_mask, memory_order_relaxed))) rctx__chaos_yield();
}
#else
static inline void rctx__chaos(void) {}
#endif

/* ---- atomics ----------------------------------------------------------------------------------------------------- */

#define load_relaxed(p) (rctx__chaos(), atomic_load_explicit((p), memory_order_relaxed))
#define load_acquire(p) (rctx__chaos(), atomic_load_explicit((p), memory_order_acquire))
#define store_relaxed(p, v) (rctx__chaos(), atomic_store_explicit((p), (v), memory_order_relaxed))
#define store_release(p, v) (rctx__chaos(), atomic_store_explicit((p), (v), memory_order_release))
#define add_relaxed(p, v) (rctx__chaos(), atomic_fetch_add_explicit((p), (v), memory_order_relaxed))
#define sub_acq_rel(p, v) (rctx__chaos(), atomic_fetch_sub_explicit((p), (v), memory_order_acq_rel))
#define add_seq_cst(p, v) (rctx__chaos(), atomic_fetch_add_explicit((p), (v), memory_order_seq_cst))
#define load_seq_cst(p) (rctx__chaos(), atomic_load_explicit((p), memory_order_seq_cst))
#define exchange_acq_rel(p, v) (rctx__chaos(), atomic_exchange_explicit((p), (v), memory_order_acq_rel))
/* cas_*: on failure *expected is what was found (relaxed). */
#define cas_acquire(p, expected, v)                                                                                    \
  (rctx__chaos(),                                                                                                      \
   atomic_compare_exchange_strong_explicit((p), (expected), (v), memory_order_acquire, memory_order_relaxed))
#define cas_acq_rel(p, expected, v)                                                                                    \
  (rctx__chaos(),                                                                                                      \
   atomic_compare_exchange_strong_explicit((p), (expected), (v), memory_order_acq_rel, memory_order_relaxed))
#define cas_relaxed(p, expected, v)                                                                                    \
  (rctx__chaos(),                                                                                                      \
   atomic_compare_exchange_strong_explicit((p), (expected), (v), memory_order_relaxed, memory_order_relaxed))

/* ---- waiting a little -------------------------------------------------------------------------------------------- */

static inline void rctx__pause(void) {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

/** Called in a loop while another thread is inside a few instructions: spins, then yields, then sleeps up to 50 us on
 *  *word as long as it reads `seen`. `tries` starts at 0 and belongs to the loop. */
void rctx__back_off(_Atomic uint32_t *word, uint32_t seen, unsigned *tries);

typedef _Atomic uint32_t rctx__lock;

void rctx__lock_slow(rctx__lock *lock);

static inline bool rctx__trylock(rctx__lock *lock) {
  uint32_t expected = 0;
  return cas_acquire(lock, &expected, 1U); /* partner: rctx__unlock */
}

static inline void rctx__take(rctx__lock *lock) {
  if (unlikely(!rctx__trylock(lock))) rctx__lock_slow(lock);
}

static inline void rctx__unlock(rctx__lock *lock) { store_release(lock, 0U); /* partner: rctx__trylock */ }

/* ---- kernel ------------------------------------------------------------------------------------------------------ */

#define RCTX__NEVER INT64_MAX

/** Sleep while *word == seen, until woken or until until_ns of CLOCK_MONOTONIC (RCTX__NEVER: no limit). May return early. */
void rctx__futex_wait(_Atomic uint32_t *word, uint32_t seen, int64_t until_ns);
/** Wake every sleeper on *word. The memory may be gone by now: then nobody sleeps there and nothing happens. */
void rctx__futex_wake_all(_Atomic uint32_t *word);

int64_t rctx__monotonic_ns(void);

/** a + b, saturating. */
static inline int64_t rctx__add_ns(int64_t a, int64_t b) {
  int64_t sum;
  if (!__builtin_add_overflow(a, b, &sum)) return sum;
  return b > 0 ? INT64_MAX : INT64_MIN;
}

/** An eventfd (non-blocking, close-on-exec), or -errno. */
int rctx__eventfd(bool signalled);
/** Make it readable: it is then or was already. Never fails in a way that matters (a full counter is readable). */
void rctx__eventfd_signal(int fd);
void rctx__eventfd_clear(int fd);
void rctx__close(int fd);

/* An eventfd is shared with the child of a fork. The child puts a fresh one in its place (same number) before it touches it, so
 * that the parent never sees what happens in the child. */
struct rctx__fd {
  int fd;                   /* const once made; -1: none */
  _Atomic uint32_t process; /* rctx__process when it was made or replaced */
};
extern _Atomic uint32_t rctx__process; /* counts the forks behind us: raised by rctx_after_fork_child() */
void rctx__fd_replace(struct rctx__fd *fd);
/** The descriptor, this process's own. */
static inline int rctx__fd_own(struct rctx__fd *fd) {
  if (unlikely(load_acquire(&fd->process) != load_relaxed(&rctx__process))) rctx__fd_replace(fd); /* partner: itself */
  return fd->fd;
}

struct rctx__thread {
  unsigned long handle;   /* who starts it: pthread_t */
  const char *name;       /* const once started, as what follows: it reads them when it begins to run */
  void (*run)(void *arg); /* const */
  void *arg;              /* const */
};
/** Start a named thread with all signals blocked. *thread stays until it has ended. Returns 0 or -errno. */
int rctx__thread_start(struct rctx__thread *thread, const char *name, void (*run)(void *arg), void *arg);
void rctx__thread_join(struct rctx__thread *thread);

/** A number that is this thread's own while it lives; never 0. */
uintptr_t rctx__thread_self(void);
unsigned rctx__cpu_count(void);

/* ---- checks ------------------------------------------------------------------------------------------------------ */

/** Print "rctx: <function>: <what>" and abort. Only checked builds get here. */
COLD _Noreturn void rctx__misuse(const char *function, const char *what);

#if defined(RCTX_CHECK) && RCTX_CHECK
#define RCTX__CHECKED 1
#else
#define RCTX__CHECKED 0
#endif

/** True if the condition of correct use is broken and the caller has to give its error; a checked build aborts instead. */
#define misused(bad, what) (unlikely(bad) && (RCTX__CHECKED ? (rctx__misuse(__func__, (what)), true) : true))

#endif
