/* kernel.c - libc, the kernel and liburcu as a fibre sees them: see kernel.h. Each call is a point, or several. */
#define _GNU_SOURCE
#include "kernel.h"
#include "sim.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <stdarg.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define POINT(address) sim_point((address), __func__, __LINE__)

enum { FDS_MAX = 64, FD_BASE = 5000, CPUS = 2, CLOCK_READ_NS = 10 };

static struct {
  struct {
    bool open;
    uint64_t count;
    unsigned writes;
  } fds[FDS_MAX];
  unsigned fds_used;
  uint64_t read_sections;
  char readers; /* only its address counts */
} kernel;

/* Made once in a process, as the core's own once-only things. */
static void (*destructors[SIM_KEYS_MAX])(void *value);
static unsigned keys;

void sim_kernel_reset(void) {
  memset(kernel.fds, 0, sizeof kernel.fds[0] * kernel.fds_used);
  kernel.fds_used = 0;
  kernel.read_sections = 0;
}

void sim_kernel_check(void) {
  for (unsigned i = 0; i < kernel.fds_used; i++) {
    if (kernel.fds[i].open) sim_fail(__FILE__, __LINE__, "a descriptor is left open");
  }
}

/* ---- clock, futexes ---------------------------------------------------------------------------------------------- */

int sim_clock_gettime(clockid_t clock, struct timespec *now) {
  (void)clock;
  POINT(NULL);
  sim_set_now(sim_now() + CLOCK_READ_NS);
  *now = (struct timespec){sim_now() / 1000000000, sim_now() % 1000000000};
  return 0;
}

static int64_t ns_of(const struct timespec *time) {
  return time == NULL ? SIM_NEVER : (int64_t)time->tv_sec * 1000000000 + time->tv_nsec;
}

static long futex_wait(const volatile uint32_t *word, uint32_t seen, int64_t until_ns) {
  POINT(word);
  if (*word != seen) {
    errno = EAGAIN;
    return -1;
  }
  if (sim_spuriously(8)) return 0;
  if (sim_block(SIM_ON_FUTEX, word, until_ns)) return 0;
  errno = ETIMEDOUT;
  return -1;
}

long sim_syscall(long number, ...) {
  va_list arguments;
  va_start(arguments, number);
  const volatile uint32_t *word = va_arg(arguments, const volatile uint32_t *);
  int operation = va_arg(arguments, int) & ~FUTEX_PRIVATE_FLAG;
  uint32_t value = va_arg(arguments, uint32_t);
  const struct timespec *until = va_arg(arguments, const struct timespec *);
  va_end(arguments);
  if (number != SYS_futex) sim_fail(__FILE__, __LINE__, "system call %ld", number);
  if (operation == FUTEX_WAIT_BITSET) return futex_wait(word, value, ns_of(until));
  POINT(NULL); /* only the address counts: the memory may be gone */
  sim_wake(SIM_ON_FUTEX, word, UINT_MAX);
  return 0;
}

int sim_sched_yield(void) {
  sim_stuck(__func__, __LINE__);
  return 0;
}

long sim_sysconf(int name) {
  (void)name;
  return CPUS;
}

/* ---- descriptors ------------------------------------------------------------------------------------------------- */

static unsigned index_of(int fd) {
  unsigned i = (unsigned)(fd - FD_BASE);
  if (i >= kernel.fds_used || !kernel.fds[i].open) sim_fail(__FILE__, __LINE__, "descriptor %d is not open", fd);
  return i;
}

unsigned sim_fd_writes(int fd) { return kernel.fds[index_of(fd)].writes; }
bool sim_fd_readable(int fd) { return kernel.fds[index_of(fd)].count > 0; }

int sim_eventfd(unsigned count, int flags) {
  (void)flags;
  POINT(NULL);
  if (kernel.fds_used == FDS_MAX) {
    errno = EMFILE;
    return -1;
  }
  kernel.fds[kernel.fds_used].open = true;
  kernel.fds[kernel.fds_used].count = count;
  return FD_BASE + (int)kernel.fds_used++; /* a number is not given out again: what is used too late is seen */
}

ssize_t sim_read(int fd, void *buffer, size_t size) {
  POINT(NULL);
  uint64_t count = kernel.fds[index_of(fd)].count;
  if (size != sizeof count) sim_fail(__FILE__, __LINE__, "a read of %zu bytes", size);
  if (count == 0) {
    errno = EAGAIN;
    return -1;
  }
  kernel.fds[index_of(fd)].count = 0;
  memcpy(buffer, &count, sizeof count);
  return sizeof count;
}

ssize_t sim_write(int fd, const void *buffer, size_t size) {
  uint64_t count;
  POINT(NULL);
  if (size != sizeof count) sim_fail(__FILE__, __LINE__, "a write of %zu bytes", size);
  if (sim_spuriously(8)) {
    errno = EINTR;
    return -1;
  }
  memcpy(&count, buffer, sizeof count);
  kernel.fds[index_of(fd)].count += count;
  kernel.fds[index_of(fd)].writes++;
  sim_wake(SIM_ON_FD, kernel.fds, UINT_MAX);
  return sizeof count;
}

int sim_close(int fd) {
  POINT(NULL);
  kernel.fds[index_of(fd)].open = false;
  return 0;
}

int sim_dup3(int from, int to, int flags) {
  (void)from, (void)to, (void)flags;
  sim_fail(__FILE__, __LINE__, "dup3, though no schedule forks");
}

static int poll_until(struct pollfd *fds, nfds_t count, int64_t until_ns) {
  for (bool more = true;; more = sim_block(SIM_ON_FD, kernel.fds, until_ns)) {
    int ready = 0;
    POINT(NULL);
    for (nfds_t i = 0; i < count; i++) {
      fds[i].revents = 0;
      if (fds[i].fd < 0 || !(fds[i].events & POLLIN) || !sim_fd_readable(fds[i].fd)) continue;
      fds[i].revents = POLLIN;
      ready++;
    }
    if (ready > 0 || !more) return ready;
  }
}

int sim_poll(struct pollfd *fds, nfds_t count, int timeout_ms) {
  return poll_until(fds, count, timeout_ms < 0 ? SIM_NEVER : sim_now() + timeout_ms * SIM_MS);
}

int sim_ppoll(struct pollfd *fds, nfds_t count, const struct timespec *timeout, const sigset_t *mask) {
  (void)mask;
  return poll_until(fds, count, timeout == NULL ? SIM_NEVER : sim_now() + ns_of(timeout));
}

/* ---- threads ----------------------------------------------------------------------------------------------------- */

int sim_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *arg), void *arg) {
  (void)attributes;
  POINT(NULL);
  *thread = sim_start(run, arg) + 1U;
  POINT(NULL);
  return 0;
}

int sim_pthread_join(pthread_t thread, void **result) {
  unsigned fibre = (unsigned)thread - 1U;
  POINT(NULL);
  if (!sim_exists(fibre)) sim_fail(__FILE__, __LINE__, "join of thread %u, which there is not", fibre);
  while (!sim_ended(fibre)) sim_block(SIM_ON_THREAD, sim_thread_of(fibre), SIM_NEVER);
  if (result) *result = NULL;
  return 0;
}

pthread_t sim_pthread_self(void) { return sim_self() + 1U; }

int sim_pthread_setname_np(pthread_t thread, const char *name) {
  (void)thread, (void)name;
  return 0;
}

int sim_pthread_sigmask(int how, const sigset_t *set, sigset_t *before) {
  (void)how, (void)set;
  if (before) sigemptyset(before);
  return 0;
}

int sim_pthread_atfork(void (*prepare)(void), void (*parent)(void), void (*child)(void)) {
  (void)prepare, (void)parent, (void)child;
  return 0;
}

/* No point inside: what is done once in a process must not make its first schedule another. */
int sim_pthread_once(pthread_once_t *once, void (*run)(void)) {
  POINT(NULL);
  if (*once != PTHREAD_ONCE_INIT) return 0;
  *once = PTHREAD_ONCE_INIT + 1;
  run();
  return 0;
}

int sim_pthread_key_create(pthread_key_t *key, void (*destroy)(void *value)) {
  if (keys == SIM_KEYS_MAX) return EAGAIN;
  destructors[keys] = destroy;
  *key = keys++;
  return 0;
}

int sim_pthread_setspecific(pthread_key_t key, const void *value) {
  union {
    const void *in;
    void *out;
  } cast = {value};
  sim_thread_of(sim_self())->keys[key] = cast.out;
  return 0;
}

void sim_kernel_thread_ends(void) {
  struct sim_thread *me = sim_thread_of(sim_self());
  if (me->read_depth > 0) sim_fail(__FILE__, __LINE__, "a thread ends inside a read section");
  for (bool again = true; again;) {
    again = false;
    for (unsigned i = 0; i < keys; i++) {
      void *value = me->keys[i];
      me->keys[i] = NULL;
      if (value == NULL) continue;
      destructors[i](value);
      again = true;
    }
  }
}

static struct {
  pthread_t threads[SIM_FIBRES_MAX];
  unsigned count;
} spawned;

struct spawn {
  void (*run)(void *arg);
  void *arg;
};
static struct spawn spawns[SIM_FIBRES_MAX];

static void *spawned_main(void *arg) {
  struct spawn *spawn = arg;
  spawn->run(spawn->arg);
  return NULL;
}

void sim_spawn(void (*run)(void *arg), void *arg) {
  struct spawn *spawn = &spawns[spawned.count];
  *spawn = (struct spawn){run, arg};
  spawned.threads[spawned.count++] = sim_start(spawned_main, spawn) + 1U; /* none goes before all are there */
}

void sim_join_all(void) {
  for (unsigned i = 0; i < spawned.count; i++) sim_pthread_join(spawned.threads[i], NULL);
  spawned.count = 0;
}

/* ---- mutexes and condition variables ----------------------------------------------------------------------------- */

/* Lies over a pthread_mutex_t, whose initialiser is all zero. */
struct mutex {
  unsigned owner; /* fibre plus one */
  unsigned depth;
  bool recursive;
};
_Static_assert(sizeof(struct mutex) <= sizeof(pthread_mutex_t), "it fits");

static struct mutex *mutex_of(pthread_mutex_t *mutex) { return (struct mutex *)(void *)mutex; }

int sim_mutex_init(pthread_mutex_t *mutex, const pthread_mutexattr_t *attributes) {
  int kind = PTHREAD_MUTEX_NORMAL;
  if (attributes) pthread_mutexattr_gettype(attributes, &kind);
  *mutex_of(mutex) = (struct mutex){.recursive = kind == PTHREAD_MUTEX_RECURSIVE};
  return 0;
}

int sim_mutex_destroy(pthread_mutex_t *mutex) {
  if (mutex_of(mutex)->owner) sim_fail(__FILE__, __LINE__, "destroys a mutex that is locked");
  return 0;
}

int sim_mutex_trylock(pthread_mutex_t *mutex) {
  struct mutex *m = mutex_of(mutex);
  unsigned me = sim_self() + 1;
  POINT(mutex);
  if (m->owner != 0 && !(m->recursive && m->owner == me)) return EBUSY;
  m->owner = me;
  m->depth++;
  return 0;
}

int sim_mutex_lock(pthread_mutex_t *mutex) {
  while (sim_mutex_trylock(mutex) != 0) {
    if (mutex_of(mutex)->owner == sim_self() + 1) sim_fail(__FILE__, __LINE__, "locks a mutex that it has locked");
    sim_block(SIM_ON_MUTEX, mutex, SIM_NEVER);
  }
  return 0;
}

int sim_mutex_unlock(pthread_mutex_t *mutex) {
  struct mutex *m = mutex_of(mutex);
  POINT(mutex);
  if (m->owner != sim_self() + 1) sim_fail(__FILE__, __LINE__, "unlocks a mutex that it has not locked");
  if (--m->depth > 0) return 0;
  m->owner = 0;
  sim_wake(SIM_ON_MUTEX, mutex, UINT_MAX); /* whoever comes first has it */
  return 0;
}

int sim_cond_init(pthread_cond_t *cond, const pthread_condattr_t *attributes) {
  (void)attributes;
  memset(cond, 0, sizeof *cond);
  return 0;
}

int sim_cond_destroy(pthread_cond_t *cond) {
  (void)cond;
  return 0;
}

static int cond_wait_until(pthread_cond_t *cond, pthread_mutex_t *mutex, int64_t until_ns) {
  struct mutex *m = mutex_of(mutex);
  POINT(cond);
  if (m->owner != sim_self() + 1) sim_fail(__FILE__, __LINE__, "waits for a condition without its mutex");
  m->owner = m->depth = 0; /* no point between letting go and sleeping */
  sim_wake(SIM_ON_MUTEX, mutex, UINT_MAX);
  bool woken = sim_block(SIM_ON_COND, cond, until_ns);
  sim_mutex_lock(mutex);
  return woken ? 0 : ETIMEDOUT;
}

int sim_cond_wait(pthread_cond_t *cond, pthread_mutex_t *mutex) { return cond_wait_until(cond, mutex, SIM_NEVER); }

int sim_cond_clockwait(pthread_cond_t *cond, pthread_mutex_t *mutex, clockid_t clock, const struct timespec *until) {
  (void)clock;
  return cond_wait_until(cond, mutex, ns_of(until));
}

int sim_cond_broadcast(pthread_cond_t *cond) {
  POINT(cond);
  sim_wake(SIM_ON_COND, cond, UINT_MAX);
  return 0;
}

int sim_cond_signal(pthread_cond_t *cond) {
  POINT(cond);
  sim_wake(SIM_ON_COND, cond, 1);
  return 0;
}

/* ---- liburcu ----------------------------------------------------------------------------------------------------- */

void sim_read_lock(void) {
  struct sim_thread *me = sim_thread_of(sim_self());
  POINT(NULL);
  if (me->read_depth++ == 0) me->read_section = ++kernel.read_sections;
}

void sim_read_unlock(void) {
  struct sim_thread *me = sim_thread_of(sim_self());
  POINT(NULL);
  if (--me->read_depth == 0) sim_wake(SIM_ON_READERS, &kernel.readers, UINT_MAX);
}

int sim_read_ongoing(void) { return sim_thread_of(sim_self())->read_depth > 0; }

/* Waits for the sections that have begun before it, not for later ones. */
void sim_grace_period(void) {
  POINT(NULL);
  uint64_t newest = kernel.read_sections;
  if (sim_read_ongoing()) sim_fail(__FILE__, __LINE__, "waits for a grace period inside a read section");
  for (unsigned i = 0; sim_exists(i); i++) {
    const struct sim_thread *reader = sim_thread_of(i);
    while (reader->read_depth > 0 && reader->read_section <= newest)
      sim_block(SIM_ON_READERS, &kernel.readers, SIM_NEVER);
  }
  POINT(NULL);
}
