/* platform.c - see platform.h. */
#define _GNU_SOURCE
#include "platform.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#if defined(RCTX_TESTING) && RCTX_TESTING
_Atomic unsigned rctx__chaos_mask;
_Atomic uint64_t rctx__chaos_seed;

void rctx__chaos_yield(void) {
  static __thread uint64_t random_state;
  if (random_state == 0) {
    static _Atomic uint64_t stream;
    random_state = (atomic_load_explicit(&rctx__chaos_seed, memory_order_relaxed) +
                    atomic_fetch_add_explicit(&stream, 1, memory_order_relaxed) + 1) *
                   0x9e3779b97f4a7c15U;
  }
  random_state ^= random_state << 13;
  random_state ^= random_state >> 7;
  random_state ^= random_state << 17;
  unsigned one_in = atomic_load_explicit(&rctx__chaos_mask, memory_order_relaxed);
  if (one_in && random_state % one_in == 0) sched_yield();
}
#endif

enum { SPINS = 64, YIELDS = 16, NAP_NS = 50000 };

void rctx__back_off(_Atomic uint32_t *word, uint32_t seen, unsigned *tries) {
  unsigned n = (*tries)++;
  if (n < SPINS) {
    rctx__pause();
  } else if (n < SPINS + YIELDS) {
    sched_yield();
  } else {
    rctx__futex_wait(word, seen, rctx__monotonic_ns() + NAP_NS);
  }
}

COLD void rctx__lock_slow(rctx__lock *lock) {
  unsigned tries = 0;
  while (load_relaxed(lock) != 0 || !rctx__trylock(lock)) rctx__back_off(lock, 1, &tries);
}

void rctx__futex_wait(_Atomic uint32_t *word, uint32_t seen, int64_t until_ns) {
  struct timespec until = {until_ns / 1000000000, until_ns % 1000000000};
  if (until_ns < 0) return;
  int saved = errno;
  syscall(SYS_futex, word, FUTEX_WAIT_BITSET | FUTEX_PRIVATE_FLAG, seen, until_ns == RCTX__NEVER ? NULL : &until, NULL,
          FUTEX_BITSET_MATCH_ANY);
  errno = saved;
}

void rctx__futex_wake_all(_Atomic uint32_t *word) {
  int saved = errno;
  syscall(SYS_futex, word, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, INT32_MAX, NULL, NULL, 0);
  errno = saved;
}

int64_t rctx__monotonic_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

int rctx__eventfd(bool signalled) {
  int saved = errno;
  int fd = eventfd(signalled ? 1 : 0, EFD_NONBLOCK | EFD_CLOEXEC);
  if (fd < 0) fd = -errno;
  errno = saved;
  return fd;
}

void rctx__eventfd_signal(int fd) {
  int saved = errno;
  uint64_t one = 1;
  while (write(fd, &one, sizeof one) < 0 && errno == EINTR) {
  }
  errno = saved;
}

void rctx__eventfd_clear(int fd) {
  int saved = errno;
  uint64_t count;
  while (read(fd, &count, sizeof count) < 0 && errno == EINTR) {
  }
  errno = saved;
}

void rctx__close(int fd) {
  int saved = errno;
  close(fd);
  errno = saved;
}

_Atomic uint32_t rctx__process;

/* If no descriptor is to be had, the number is closed: better silent than heard in the parent. */
COLD void rctx__fd_replace(struct rctx__fd *fd) {
  static rctx__lock replacing;
  rctx__take(&replacing);
  if (load_relaxed(&fd->process) != load_relaxed(&rctx__process)) { /* both only change with one thread, or here */
    int fresh = rctx__eventfd(false);
    if (fresh < 0 || dup3(fresh, fd->fd, O_CLOEXEC) < 0) rctx__close(fd->fd);
    if (fresh >= 0) rctx__close(fresh);
    store_release(&fd->process, load_relaxed(&rctx__process)); /* partner: rctx__fd_own() */
  }
  rctx__unlock(&replacing);
}

static void *thread_main(void *arg) {
  const struct rctx__thread *self = arg;
  pthread_setname_np(pthread_self(), self->name);
  self->run(self->arg);
  return NULL;
}

int rctx__thread_start(struct rctx__thread *thread, const char *name, void (*run)(void *arg), void *arg) {
  thread->name = name;
  thread->run = run;
  thread->arg = arg;
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  pthread_t handle;
  int rc = pthread_create(&handle, NULL, thread_main, thread);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  if (rc != 0) return -rc;
  thread->handle = (unsigned long)handle;
  return 0;
}

void rctx__thread_join(struct rctx__thread *thread) { pthread_join((pthread_t)thread->handle, NULL); }

uintptr_t rctx__thread_self(void) {
  THREAD_LOCAL char mark;
  return (uintptr_t)&mark;
}

unsigned rctx__cpu_count(void) {
  long n = sysconf(_SC_NPROCESSORS_CONF);
  return n < 1 ? 1U : (unsigned)n;
}

COLD void rctx__misuse(const char *function, const char *what) {
  fprintf(stderr, "rctx: %s: %s\n", function, what);
  abort();
}
