// faults.c - see faults.h.
#include "support/faults.h"

#include <errno.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static struct {
  atomic_int kind; // -1: none
  atomic_bool on;
  atomic_int error;
  _Atomic uint64_t nth, requests, refused;
} armed = {.kind = -1};

static struct { _Atomic int64_t pieces, maps, eventfds, threads; } open_now;

enum { FDS_MAX = 65536 };
static atomic_bool is_eventfd[FDS_MAX];
static _Atomic int64_t clock_offset;

void faults_arm(enum faults_kind kind, uint64_t nth, bool on, int error) {
  atomic_store(&armed.kind, -1);
  atomic_store(&armed.requests, 0);
  atomic_store(&armed.refused, 0);
  atomic_store(&armed.nth, nth);
  atomic_store(&armed.on, on);
  atomic_store(&armed.error, error);
  atomic_store(&armed.kind, kind);
}

struct faults_seen faults_disarm(void) {
  atomic_store(&armed.kind, -1);
  return (struct faults_seen){atomic_load(&armed.requests), atomic_load(&armed.refused)};
}

// The error that this request gets; 0: none.
static int refusal(enum faults_kind kind) {
  if (atomic_load(&armed.kind) != (int)kind) return 0;
  uint64_t nth = atomic_load(&armed.nth), number = atomic_fetch_add(&armed.requests, 1) + 1;
  bool refused = nth != 0 && (number == nth || (number > nth && atomic_load(&armed.on)));
  if (!refused) return 0;
  atomic_fetch_add(&armed.refused, 1);
  return atomic_load(&armed.error);
}

struct faults_open faults_open(void) {
  return (struct faults_open){atomic_load(&open_now.pieces), atomic_load(&open_now.maps),
                              atomic_load(&open_now.eventfds), atomic_load(&open_now.threads)};
}

bool faults_open_is(struct faults_open expected) {
  for (int i = 0; i < 10000; i++) {
    struct faults_open now = faults_open();
    if (memcmp(&now, &expected, sizeof now) == 0) return true;
    usleep(1000);
  }
  return false;
}

void faults_clock(int64_t offset_ns) { atomic_store(&clock_offset, offset_ns); }

/* ---- memory ------------------------------------------------------------------------------------------------------ */

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *ptr, size_t size);
void __real_free(void *ptr);
int __real_posix_memalign(void **ptr, size_t align, size_t size);
void *__real_aligned_alloc(size_t align, size_t size);
void *__real_mmap(void *at, size_t size, int protection, int flags, int fd, off_t offset);
int __real_munmap(void *at, size_t size);

static void *given(void *ptr) {
  if (ptr) atomic_fetch_add(&open_now.pieces, 1);
  return ptr;
}

static bool memory_refused(void) {
  int error = refusal(FAULT_MEMORY);
  if (error) errno = error;
  return error != 0;
}

void *__wrap_malloc(size_t size) { return memory_refused() ? NULL : given(__real_malloc(size)); }
void *__wrap_calloc(size_t count, size_t size) { return memory_refused() ? NULL : given(__real_calloc(count, size)); }
void *__wrap_aligned_alloc(size_t align, size_t size) {
  return memory_refused() ? NULL : given(__real_aligned_alloc(align, size));
}

void *__wrap_realloc(void *ptr, size_t size) {
  if (memory_refused()) return NULL;
  void *fresh = __real_realloc(ptr, size);
  return ptr ? fresh : given(fresh);
}

int __wrap_posix_memalign(void **ptr, size_t align, size_t size) {
  int error = refusal(FAULT_MEMORY); // errno is left alone, as posix_memalign does
  if (error) return error;
  error = __real_posix_memalign(ptr, align, size);
  if (error == 0) given(*ptr);
  return error;
}

void __wrap_free(void *ptr) {
  if (ptr) atomic_fetch_sub(&open_now.pieces, 1);
  __real_free(ptr);
}

#ifdef FAULTS_JEMALLOC
void *__real_mallocx(size_t size, int flags);
void __real_sdallocx(void *ptr, size_t size, int flags);
void *__wrap_mallocx(size_t size, int flags) { return memory_refused() ? NULL : given(__real_mallocx(size, flags)); }
void __wrap_sdallocx(void *ptr, size_t size, int flags) {
  atomic_fetch_sub(&open_now.pieces, 1);
  __real_sdallocx(ptr, size, flags);
}
#endif

void *__wrap_mmap(void *at, size_t size, int protection, int flags, int fd, off_t offset) {
  int error = refusal(FAULT_MAP);
  if (error) {
    errno = error;
    return MAP_FAILED;
  }
  void *map = __real_mmap(at, size, protection, flags, fd, offset);
  if (map != MAP_FAILED) atomic_fetch_add(&open_now.maps, 1);
  return map;
}

int __wrap_munmap(void *at, size_t size) {
  atomic_fetch_sub(&open_now.maps, 1);
  return __real_munmap(at, size);
}

/* ---- descriptors ------------------------------------------------------------------------------------------------- */

int __real_eventfd(unsigned count, int flags);
int __real_close(int fd);
ssize_t __real_write(int fd, const void *data, size_t size);
ssize_t __real_read(int fd, void *data, size_t size);
int __real_poll(struct pollfd *fds, nfds_t count, int timeout_ms);
int __real_ppoll(struct pollfd *fds, nfds_t count, const struct timespec *timeout, const sigset_t *mask);

static bool call_refused(enum faults_kind kind) {
  int error = refusal(kind);
  if (error) errno = error;
  return error != 0;
}

int __wrap_eventfd(unsigned count, int flags) {
  if (call_refused(FAULT_EVENTFD)) return -1;
  int fd = __real_eventfd(count, flags);
  if (fd >= 0 && fd < FDS_MAX) {
    atomic_store(&is_eventfd[fd], true);
    atomic_fetch_add(&open_now.eventfds, 1);
  }
  return fd;
}

int __wrap_close(int fd) {
  if (fd >= 0 && fd < FDS_MAX && atomic_exchange(&is_eventfd[fd], false)) atomic_fetch_sub(&open_now.eventfds, 1);
  return __real_close(fd);
}

ssize_t __wrap_write(int fd, const void *data, size_t size) {
  return call_refused(FAULT_WRITE) ? -1 : __real_write(fd, data, size);
}
ssize_t __wrap_read(int fd, void *data, size_t size) {
  return call_refused(FAULT_READ) ? -1 : __real_read(fd, data, size);
}
int __wrap_poll(struct pollfd *fds, nfds_t count, int timeout_ms) {
  return call_refused(FAULT_POLL) ? -1 : __real_poll(fds, count, timeout_ms);
}
int __wrap_ppoll(struct pollfd *fds, nfds_t count, const struct timespec *timeout, const sigset_t *mask) {
  return call_refused(FAULT_POLL) ? -1 : __real_ppoll(fds, count, timeout, mask);
}

/* ---- threads ----------------------------------------------------------------------------------------------------- */

int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*run)(void *), void *arg);
int __real_pthread_join(pthread_t thread, void **result);
int __real_pthread_key_create(pthread_key_t *key, void (*destroy)(void *));
int __real_pthread_setspecific(pthread_key_t key, const void *value);
int __real_pthread_atfork(void (*prepare)(void), void (*parent)(void), void (*child)(void));

int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*run)(void *), void *arg) {
  int error = refusal(FAULT_THREAD);
  if (error == 0) error = __real_pthread_create(thread, attr, run, arg);
  if (error == 0) atomic_fetch_add(&open_now.threads, 1);
  return error;
}

int __wrap_pthread_join(pthread_t thread, void **result) {
  int error = __real_pthread_join(thread, result);
  if (error == 0) atomic_fetch_sub(&open_now.threads, 1);
  return error;
}

int __wrap_pthread_key_create(pthread_key_t *key, void (*destroy)(void *)) {
  int error = refusal(FAULT_KEY);
  return error ? error : __real_pthread_key_create(key, destroy);
}
int __wrap_pthread_setspecific(pthread_key_t key, const void *value) {
  int error = refusal(FAULT_SPECIFIC);
  return error ? error : __real_pthread_setspecific(key, value);
}
int __wrap_pthread_atfork(void (*prepare)(void), void (*parent)(void), void (*child)(void)) {
  int error = refusal(FAULT_ATFORK);
  return error ? error : __real_pthread_atfork(prepare, parent, child);
}

/* ---- kernel ------------------------------------------------------------------------------------------------------ */

long __real_syscall(long number, ...);
int __real_clock_gettime(clockid_t clock, struct timespec *now);

// All six, whether they were given or not: as the C library's own syscall() does.
long __wrap_syscall(long number, ...) {
  va_list list;
  long a[6];
  va_start(list, number);
  for (int i = 0; i < 6; i++) a[i] = va_arg(list, long);
  va_end(list);
  if (number == SYS_futex && ((int)a[1] & FUTEX_CMD_MASK) == FUTEX_WAIT_BITSET) {
    int error = refusal(FAULT_FUTEX);
    if (error == FAULTS_SPURIOUS) return 0;
    if (error) {
      errno = error;
      return -1;
    }
  }
  return __real_syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

int __wrap_clock_gettime(clockid_t clock, struct timespec *now) {
  int rc = __real_clock_gettime(clock, now);
  int64_t offset = atomic_load(&clock_offset);
  if (rc != 0 || clock != CLOCK_MONOTONIC || offset == 0) return rc;
  int64_t ns = (int64_t)now->tv_sec * 1000000000 + now->tv_nsec, moved;
  if (__builtin_add_overflow(ns, offset, &moved)) moved = offset > 0 ? INT64_MAX : 0;
  if (moved < 0) moved = 0;
  *now = (struct timespec){moved / 1000000000, moved % 1000000000};
  return rc;
}
