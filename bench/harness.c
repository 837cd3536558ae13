/*
 * Opens, warms, times and closes cases; see harness.h.
 *
 * The second thread of a pair lives as long as the program, as a server's workers do, and sleeps between blocks. In a
 * block both threads meet first, spinning, so that they start together; the allocation counts are taken before the
 * meeting and after both are done.
 */
#include "harness.h"
#include "clock.h"
#include "count_alloc.h"

#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct bench_case *current;
static void *fixture;
static bool warming_up;

/* ---- small things ------------------------------------------------------------------------------------------------ */

_Noreturn static void give_up(const char *why) {
  fprintf(stderr, "%s: %s\n", bench_program.name, why);
  exit(1);
}

void *bench_memory(size_t count, size_t size) {
  void *memory = calloc(count, size);
  if (memory == NULL) {
    give_up("out of memory");
  }
  return memory;
}

uint32_t *bench_shuffled(size_t count) {
  uint32_t *order = bench_memory(count, sizeof *order);
  uint64_t random = 88172645463325252U;
  for (uint32_t i = 0; i < count; i++) {
    uint32_t j = (uint32_t)(bench_random(&random) % (i + 1));
    order[i] = order[j];
    order[j] = i;
  }
  return order;
}

static void start_thread(pthread_t *thread, void *(*body)(void *)) {
  if (pthread_create(thread, NULL, body, NULL) != 0) {
    give_up("can not start a thread");
  }
  pthread_detach(*thread);
}

static void *sleep_for_ever(void *unused) {
  for (;;) {
    pause();
  }
  return unused;
}

void bench_start_idle_thread(void) {
  pthread_t idle;
  start_thread(&idle, sleep_for_ever);
}

/* ---- the second thread ------------------------------------------------------------------------------------------- */

struct took {
  int64_t wall_ns;
  int64_t cpu_ns; /* of this thread: on a machine that others use, the one that can be trusted */
};

static struct {
  pthread_mutex_t lock;
  pthread_cond_t wake;
  bool started;
  bool job;
  size_t ops;
  unsigned met;     /* counts arrivals at the meeting point: two per meeting */
  struct took took; /* written by the second thread before the last meeting */
} second = {.lock = PTHREAD_MUTEX_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER};

static void meet(void) {
  unsigned arrived = __atomic_add_fetch(&second.met, 1, __ATOMIC_ACQ_REL);
  unsigned all = (arrived + 1) & ~1U;
  for (unsigned spins = 1; (int)(__atomic_load_n(&second.met, __ATOMIC_ACQUIRE) - all) < 0; spins++) {
    if (spins % 1024 == 0) {
      sched_yield();
    }
  }
}

__attribute__((noinline)) void bench_measured(const struct bench_case *c, void *fix, size_t ops) { c->run(fix, ops); }

/* Warming up stays outside bench_measured(), so that callgrind does not count it. */
static struct took timed_run(size_t ops) {
  if (warming_up) {
    current->run(fixture, ops);
    return (struct took){0};
  }
  int64_t cpu = bench_clock(CLOCK_THREAD_CPUTIME_ID);
  int64_t wall = bench_clock(CLOCK_MONOTONIC);
  bench_measured(current, fixture, ops);
  wall = bench_clock(CLOCK_MONOTONIC) - wall;
  return (struct took){wall, bench_clock(CLOCK_THREAD_CPUTIME_ID) - cpu};
}

static void *second_thread(void *unused) {
  (void)unused;
  for (;;) {
    pthread_mutex_lock(&second.lock);
    while (!second.job) {
      pthread_cond_wait(&second.wake, &second.lock);
    }
    second.job = false;
    size_t ops = second.ops;
    pthread_mutex_unlock(&second.lock);
    meet();
    second.took = timed_run(ops);
    meet();
  }
  return NULL;
}

static void run_pair(size_t ops, struct bench_sample *sample) {
  pthread_mutex_lock(&second.lock);
  if (!second.started) {
    pthread_t thread;
    start_thread(&thread, second_thread);
    second.started = true;
  }
  second.ops = ops;
  second.job = true;
  pthread_cond_signal(&second.wake);
  pthread_mutex_unlock(&second.lock);
  meet();
  struct took took = timed_run(ops);
  meet();
  sample->ns = (double)(took.wall_ns + second.took.wall_ns) / 2;
  sample->cpu_ns = (double)(took.cpu_ns + second.took.cpu_ns) / 2;
}

/* ---- blocks ------------------------------------------------------------------------------------------------------ */

static void timed_block(size_t ops, struct bench_sample *sample) {
  struct bench_allocs before, after;
  bench_count_allocs(&before);
  if (current->measure) {
    current->measure(fixture, ops, sample);
  } else if (current->pair) {
    run_pair(ops, sample);
  } else {
    struct took took = timed_run(ops);
    sample->ns = (double)took.wall_ns;
    sample->cpu_ns = (double)took.cpu_ns;
  }
  bench_count_allocs(&after);
  sample->allocs = after.calls - before.calls;
  sample->bytes = after.bytes - before.bytes;
}

void bench_block(size_t ops, struct bench_sample *sample) {
  *sample = (struct bench_sample){.ops = current->batch ? current->batch : ops};
  if (current->prepare) {
    current->prepare(fixture);
  }
  timed_block(sample->ops, sample);
  if (current->cleanup) {
    current->cleanup(fixture);
  }
}

void bench_use(const struct bench_case *c) {
  if (c == current) {
    return;
  }
  bench_close();
  current = c;
  fixture = c->open ? c->open(c) : NULL;
  struct bench_sample unused;
  warming_up = true;
  bench_block(c->warm ? c->warm : 4096, &unused);
  warming_up = false;
}

/* The next case does not inherit a million scattered nodes. */
void bench_close(void) {
  if (current == NULL) {
    return;
  }
  if (current->close) {
    current->close(fixture);
  }
  current = NULL;
  if (bench_program.settle) {
    bench_program.settle();
  }
}

/* ---- all cases --------------------------------------------------------------------------------------------------- */

const struct bench_case *bench_cases(size_t *count) {
  enum { ROOM = 128 };
  static struct bench_case all[ROOM];
  static size_t known;
  if (known == 0) {
    for (const struct bench_case *const *table = bench_program.tables; *table; table++) {
      for (const struct bench_case *c = *table; c->name && known < ROOM; c++) {
        all[known++] = *c;
      }
    }
  }
  *count = known;
  return all;
}

const struct bench_case *bench_find(const char *name) {
  size_t count;
  const struct bench_case *all = bench_cases(&count);
  for (size_t i = 0; i < count; i++) {
    if (strcmp(all[i].name, name) == 0) {
      return &all[i];
    }
  }
  return NULL;
}
