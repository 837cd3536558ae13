/* expire_100k: 100,000 deadlines within 100 ms; when each is due, and how late it came. See storm.c. */
#ifndef RCTX_BENCH_STORM_H
#define RCTX_BENCH_STORM_H

#include "cases.h"

enum { BENCH_STORM = 100000 };
#define BENCH_STORM_SPAN (BENCH_SECOND / 10)
#define BENCH_STORM_REST (BENCH_SECOND / 50)     /* the last may be so late */
#define BENCH_STORM_LEAD_IN (BENCH_SECOND / 200) /* so long before the first the processor clock is read */
#define BENCH_STORM_FIGURES                                                                                            \
  { "late_p50_ms", "late_p99_ms", "early" }

struct bench_storm {
  int64_t due_ns[BENCH_STORM];  /* CLOCK_MONOTONIC, in random order */
  int64_t late_ns[BENCH_STORM]; /* for the case to fill; early: negative */
  uint32_t *order;
};

void bench_storm_open(struct bench_storm *storm);
void bench_storm_close(struct bench_storm *storm);

/* Fills due_ns and returns the least of them. */
int64_t bench_storm_plan(struct bench_storm *storm);

/* Called when all are armed. A machine too slow for the lead would measure nothing: it is told. */
void bench_storm_armed(int64_t first_ns);

/* Sorts late_ns, fills BENCH_STORM_FIGURES. */
void bench_storm_report(struct bench_storm *storm, struct bench_sample *sample);

#endif
