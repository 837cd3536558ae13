/* The clocks of the benchmarks, in nanoseconds. */
#ifndef RCTX_BENCH_CLOCK_H
#define RCTX_BENCH_CLOCK_H

#include <stdint.h>
#include <time.h>

static inline int64_t bench_clock(clockid_t clock) {
  struct timespec t;
  clock_gettime(clock, &t);
  return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

static inline void bench_sleep_until(int64_t monotonic_ns) {
  struct timespec t = {.tv_sec = monotonic_ns / INT64_C(1000000000), .tv_nsec = monotonic_ns % INT64_C(1000000000)};
  while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) != 0) {
  }
}

#endif
