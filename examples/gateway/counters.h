/*
 * counters.h - what the gateway counts, over all workers, and what it weighs: for /stats and for the report at the end.
 */
#ifndef GATEWAY_COUNTERS_H
#define GATEWAY_COUNTERS_H

#include "scope.h"

#include <jansson.h>
#include <stdatomic.h>
#include <stdint.h>

enum outcome {
  OUTCOME_OK,
  OUTCOME_UPSTREAM_FAILED,
  OUTCOME_UPSTREAM_LATE,
  OUTCOME_DEADLINE,
  OUTCOME_HUNG_UP,
  OUTCOME_SHUTDOWN,
  OUTCOME_NO_MEMORY,
  OUTCOME_BAD_REQUEST,
  OUTCOME_REFUSED,
  OUTCOMES
};
const char *outcome_name(enum outcome outcome);

struct counters {
  _Atomic uint64_t outcomes[OUTCOMES];
  _Atomic uint64_t calls, calls_stopped;
  _Atomic uint64_t late_work_us; /* calls upstream still under way when their request was over for its client */
  _Atomic uint64_t outlived;     /* requests with something still under way 50 ms after their deadline */
  _Atomic uint64_t stop_us_max;  /* from noticing a hang-up to the last transfer removed */
  _Atomic uint64_t stops_over_10ms;
  _Atomic int64_t in_flight;
};
extern struct counters counters;

static inline void count(_Atomic uint64_t *counter, uint64_t by) {
  atomic_fetch_add_explicit(counter, by, memory_order_relaxed);
}
void count_max(_Atomic uint64_t *counter, uint64_t value);

int fds_open(void);

/** stats_json - everything, new. NULL: no memory. */
json_t *stats_json(void);

#endif
