/*
 * clock.h - the one clock of the gateway: CLOCK_MONOTONIC in nanoseconds, the clock of rctx's deadlines, of the upstream
 * services, and of the tour's time.monotonic(). So moments written down by different processes can be compared.
 */
#ifndef GATEWAY_CLOCK_H
#define GATEWAY_CLOCK_H

#include <stdint.h>
#include <time.h>

#define NS_PER_US INT64_C(1000)
#define NS_PER_MS INT64_C(1000000)
#define NS_PER_S INT64_C(1000000000)

static inline int64_t clock_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * NS_PER_S + now.tv_nsec;
}

static inline double ns_to_ms(int64_t ns) { return (double)ns / (double)NS_PER_MS; }

#endif
