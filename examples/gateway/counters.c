/* counters.c - see counters.h. */
#include "counters.h"

#include <dirent.h>
#include <malloc.h>
#include <stdio.h>
#include <unistd.h>

struct counters counters;

const char *outcome_name(enum outcome outcome) {
  static const char *const names[] = {"ok",       "upstream-failed", "upstream-late", "deadline", "hung-up",
                                      "shutdown", "no-memory",       "bad-request",   "refused"};
  return names[outcome];
}

void count_max(_Atomic uint64_t *counter, uint64_t value) {
  uint64_t seen = atomic_load_explicit(counter, memory_order_relaxed);
  while (value > seen &&
         !atomic_compare_exchange_weak_explicit(counter, &seen, value, memory_order_relaxed, memory_order_relaxed)) {
  }
}

int fds_open(void) {
  DIR *directory = opendir("/proc/self/fd");
  int n = -3; /* ".", "..", and the directory itself */
  if (!directory) return -1;
  while (readdir(directory)) n++;
  closedir(directory);
  return n;
}

static long long resident_kb(void) {
  long long total = 0, resident = 0;
  FILE *file = fopen("/proc/self/statm", "re");
  if (file) {
    if (fscanf(file, "%lld %lld", &total, &resident) != 2) resident = 0;
    fclose(file);
  }
  return resident * (sysconf(_SC_PAGESIZE) / 1024);
}

/* Bytes handed out by malloc and not given back: jemalloc's count if the program was linked with it, else the C library's. */
int mallctl(const char *name, void *old, size_t *old_size, void *new, size_t new_size) __attribute__((weak));
static long long heap_bytes(void) {
  uint64_t epoch = 1;
  size_t allocated = 0, epoch_size = sizeof epoch, size = sizeof allocated;
  if (mallctl && mallctl("epoch", &epoch, &epoch_size, &epoch, epoch_size) == 0 &&
      mallctl("stats.allocated", &allocated, &size, NULL, 0) == 0)
    return (long long)allocated;
  struct mallinfo2 info = mallinfo2();
  return (long long)info.uordblks + (long long)info.hblkhd;
}

static json_int_t load(_Atomic uint64_t *counter) {
  return (json_int_t)atomic_load_explicit(counter, memory_order_relaxed);
}

json_t *stats_json(void) {
  struct scope_left now;
  scopes_count(&now);
  json_t *outcomes = json_object();
  for (int i = 0; i < OUTCOMES; i++)
    json_object_set_new(outcomes, outcome_name((enum outcome)i), json_integer(load(&counters.outcomes[i])));
  return json_pack(
      "{s:b, s:o, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:i, s:{s:I, s:I, s:I, s:I, s:I, s:I}}", "with_contexts",
      (int)scope_enabled, "outcomes", outcomes, "in_flight", (json_int_t)atomic_load(&counters.in_flight),
      "upstream_calls", load(&counters.calls), "upstream_calls_stopped", load(&counters.calls_stopped), "late_work_us",
      load(&counters.late_work_us), "outlived", load(&counters.outlived), "hangup_stop_us_max",
      load(&counters.stop_us_max), "hangup_stops_over_10ms", load(&counters.stops_over_10ms), "rss_kb",
      (json_int_t)resident_kb(), "heap_bytes", (json_int_t)heap_bytes(), "fds", fds_open(), "rctx", "contexts",
      (json_int_t)now.contexts, "timers", (json_int_t)now.timers, "deferred", (json_int_t)now.deferred, "callbacks",
      (json_int_t)now.callbacks, "threads", (json_int_t)now.threads, "bytes", (json_int_t)now.bytes);
}
