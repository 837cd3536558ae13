/* The plan and the figures of expire_100k. */
#include "storm.h"
#include "clock.h"

#include <stdio.h>
#include <stdlib.h>

#define LEAD (BENCH_SECOND / 2) /* time to arm them all before the first is due */

void bench_storm_open(struct bench_storm *storm) { storm->order = bench_shuffled(BENCH_STORM); }

void bench_storm_close(struct bench_storm *storm) { free(storm->order); }

int64_t bench_storm_plan(struct bench_storm *storm) {
  int64_t first_ns = bench_clock(CLOCK_MONOTONIC) + LEAD;
  for (size_t i = 0; i < BENCH_STORM; i++) {
    storm->due_ns[i] = first_ns + BENCH_STORM_SPAN / BENCH_STORM * storm->order[i];
  }
  return first_ns;
}

void bench_storm_armed(int64_t first_ns) {
  if (bench_clock(CLOCK_MONOTONIC) >= first_ns) {
    fprintf(stderr, "expire_100k: arming took longer than 500 ms: figures are worth nothing\n");
  }
}

static int by_size(const void *a, const void *b) {
  int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
  return (x > y) - (x < y);
}

void bench_storm_report(struct bench_storm *storm, struct bench_sample *sample) {
  qsort(storm->late_ns, BENCH_STORM, sizeof *storm->late_ns, by_size);
  sample->extra[0] = (double)storm->late_ns[BENCH_STORM / 2] / 1e6;
  sample->extra[1] = (double)storm->late_ns[BENCH_STORM / 100 * 99] / 1e6;
  for (size_t i = 0; i < BENCH_STORM && storm->late_ns[i] < 0; i++) {
    sample->extra[2]++;
  }
}
