/*
 * bytes_per_live_ctx_*: resident memory per live child, one million alive under one parent; the time is what making one
 * costs, first touch of its memory included.
 *
 * Measured in a fresh process (this program again, with --resident): in a used one the contexts would move into memory
 * that other cases have left behind, and cost nothing.
 */
#include "cases.h"
#include "clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { ALIVE = 1000000 };

static size_t resident_bytes(void) {
  size_t total = 0, pages = 0;
  FILE *file = fopen("/proc/self/statm", "r");
  if (file == NULL || fscanf(file, "%zu %zu", &total, &pages) != 2) {
    abort();
  }
  fclose(file);
  return pages * (size_t)sysconf(_SC_PAGESIZE);
}

/* The array of handles is the caller's, not the contexts': it is touched before the first look. */
int bench_resident_main(const char *kind, const char *count_text) {
  const struct bench_resident *resident = bench_program.resident;
  bool timeout = strcmp(kind, "timeout") == 0;
  size_t count = strtoul(count_text, NULL, 10);
  if (resident == NULL) {
    return 2;
  }
  void **ctx = bench_memory(count, sizeof(void *));
  memset(ctx, 1, count * sizeof(void *));
  resident->open(timeout);
  size_t before = resident_bytes();
  int64_t start = bench_clock(CLOCK_MONOTONIC);
  for (size_t i = 0; i < count; i++) {
    ctx[i] = resident->make(timeout, i);
  }
  int64_t took_ns = bench_clock(CLOCK_MONOTONIC) - start;
  printf("%zu %lld\n", resident_bytes() - before, (long long)took_ns);
  for (size_t i = 0; i < count; i++) {
    resident->end(ctx[i]);
  }
  free(ctx);
  return 0;
}

static void run_fresh(const char *kind, struct bench_sample *sample) {
  char self[4096], command[4224];
  ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
  if (length < 0) {
    abort();
  }
  self[length] = '\0';
  snprintf(command, sizeof command, "exec '%s' --resident %s %d", self, kind, ALIVE);
  FILE *child = popen(command, "r");
  size_t bytes = 0;
  long long took_ns = 0;
  if (child == NULL || fscanf(child, "%zu %lld", &bytes, &took_ns) != 2 || pclose(child) != 0) {
    fprintf(stderr, "bytes_per_live_ctx: can not run %s\n", self);
    exit(1);
  }
  sample->ns = (double)took_ns;
  sample->extra[0] = (double)bytes / ALIVE;
}

static void live_cancel(void *fixture, size_t ops, struct bench_sample *sample) {
  (void)fixture;
  (void)ops;
  run_fresh("cancel", sample);
}

static void live_timeout(void *fixture, size_t ops, struct bench_sample *sample) {
  (void)fixture;
  (void)ops;
  run_fresh("timeout", sample);
}

#define CASE(name_, measure_)                                                                                          \
  {                                                                                                                    \
    .name = name_, .measure = measure_, .batch = ALIVE, .uncounted = true, .extra = { "resident_bytes" }               \
  }

const struct bench_case bench_resident_cancel_cases[] = {
    CASE("bytes_per_live_ctx_cancel", live_cancel),
    {.name = NULL},
};
const struct bench_case bench_resident_timeout_cases[] = {
    CASE("bytes_per_live_ctx_timeout", live_timeout),
    {.name = NULL},
};
