/*
 * step_clock.c - a library to preload: CLOCK_REALTIME of the process is off by what stands in a file, which another process changes.
 *
 * RCTX_CLOCK_FILE names a file of one int64_t, nanoseconds, that soak.py writes while the gateway runs. Without it, and for every
 * other clock, nothing changes. libfaketime would do it, too, but it also takes hold of waits, which have to stay as they are here.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const _Atomic int64_t no_step;
static const _Atomic int64_t *_Atomic step_ns = &no_step;

__attribute__((constructor)) static void open_file(void) {
  const char *path = getenv("RCTX_CLOCK_FILE");
  int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
  if (fd < 0) return;
  void *mapped = mmap(NULL, sizeof *step_ns, PROT_READ, MAP_SHARED, fd, 0);
  close(fd);
  if (mapped != MAP_FAILED) atomic_store(&step_ns, (const _Atomic int64_t *)mapped);
}

typedef int (*clock_gettime_fn)(clockid_t clock, struct timespec *now);

static clock_gettime_fn real_one(void) {
  static _Atomic(clock_gettime_fn) found;
  clock_gettime_fn real = atomic_load_explicit(&found, memory_order_relaxed);
  if (real == NULL) {
    void *symbol = dlsym(RTLD_NEXT, "clock_gettime");
    real = *(clock_gettime_fn *)(void *)&symbol; /* the way POSIX names for it */
    atomic_store_explicit(&found, real, memory_order_relaxed);
  }
  return real;
}

/* What takes the place of libc's: the names that the linker sees. */
int stepped_clock_gettime(clockid_t clock, struct timespec *now) __asm__("clock_gettime");
int stepped_gettimeofday(struct timeval *now, void *zone) __asm__("gettimeofday");
time_t stepped_time(time_t *seconds) __asm__("time");

int stepped_clock_gettime(clockid_t clock, struct timespec *now) {
  int rc = real_one()(clock, now);
  if (rc != 0 || (clock != CLOCK_REALTIME && clock != CLOCK_REALTIME_COARSE)) return rc;
  int64_t ns = now->tv_sec * INT64_C(1000000000) + now->tv_nsec + atomic_load(atomic_load(&step_ns));
  if (ns < 0) ns = 0;
  *now = (struct timespec){ns / 1000000000, ns % 1000000000};
  return 0;
}

int stepped_gettimeofday(struct timeval *now, void *zone) {
  struct timespec ts;
  (void)zone;
  stepped_clock_gettime(CLOCK_REALTIME, &ts);
  *now = (struct timeval){ts.tv_sec, ts.tv_nsec / 1000};
  return 0;
}

time_t stepped_time(time_t *seconds) {
  struct timespec ts;
  stepped_clock_gettime(CLOCK_REALTIME, &ts);
  if (seconds) *seconds = ts.tv_sec;
  return ts.tv_sec;
}
