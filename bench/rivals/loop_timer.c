/*
 * The timer cases for event loops: timers_1m_*, timer_churn_*, expire_100k. One timer stands for one context with a timeout;
 * that is less work than ours: nothing is derived, linked or cancelled, and no other thread may touch it.
 */
#include "loop_timer.h"
#include "clock.h"
#include "storm.h"

#include <stdlib.h>

struct many {
  size_t count;
  size_t size; /* of one timer with what is in front of it */
  char *timers;
  uint32_t *order;
  uint64_t random;
};

static struct loop_timer *timer_at(const struct many *m, size_t i) {
  return (struct loop_timer *)(void *)(m->timers + i * m->size);
}

static void update(void) {
  if (loop_library.update) {
    loop_library.update();
  }
}

static void never(struct loop_timer *timer) {
  (void)timer;
  abort(); /* nothing of 60 s or more comes due here */
}

static void make_many(struct many *m, size_t count, void (*fire)(struct loop_timer *)) {
  loop_library.open();
  m->count = count;
  m->size = (sizeof(struct loop_timer) + loop_library.timer_size + 15) & ~(size_t)15;
  m->timers = bench_memory(count, m->size);
  m->random = 2463534242U;
  for (size_t i = 0; i < count; i++) {
    struct loop_timer *timer = timer_at(m, i);
    timer->fire = fire;
    timer->index = i;
    loop_library.prepare(timer);
  }
}

static void *open_many(const struct bench_case *self) {
  struct many *m = bench_memory(1, sizeof *m);
  make_many(m, self->size, never);
  m->order = bench_shuffled(self->size);
  return m;
}

/* The process ends with the case: its loop need not be closed. */
static void close_many(void *fixture) {
  struct many *m = fixture;
  for (size_t i = 0; i < m->count; i++) {
    loop_library.stop(timer_at(m, i));
  }
}

/* ---- a million --------------------------------------------------------------------------------------------------- */

static void arm(struct many *m, int64_t from_s) {
  update();
  for (size_t i = 0; i < m->count; i++) {
    loop_library.start(timer_at(m, i), bench_random_timeout(&m->random, from_s));
  }
}

static void arm_all(void *fixture, size_t ops) {
  (void)ops;
  arm(fixture, 1);
}

static void prepare_all(void *fixture) { arm_all(fixture, 0); }

static void stop_all(void *fixture, size_t ops) {
  struct many *m = fixture;
  (void)ops;
  for (size_t i = 0; i < m->count; i++) {
    loop_library.stop(timer_at(m, m->order[i]));
  }
}

static void cleanup_all(void *fixture) { stop_all(fixture, 0); }

/* ---- churn ------------------------------------------------------------------------------------------------------- */

static void *open_churn(const struct bench_case *self) {
  struct many *m = open_many(self);
  arm(m, 60);
  return m;
}

/* The cached time is brought up to date as by the turns of a loop, here every 256 operations. */
static void churn(void *fixture, size_t ops) {
  struct many *m = fixture;
  for (size_t i = 0; i < ops; i++) {
    if (i % 256 == 0) {
      update();
    }
    struct loop_timer *any = timer_at(m, (bench_random(&m->random) >> 20) % m->count);
    loop_library.stop(any);
    loop_library.start(any, bench_random_timeout(&m->random, 60));
  }
}

/* ---- a storm: one more timer, shortly before the first, at which the processor clock is read ----------------------- */

static struct {
  struct bench_storm plan;
  struct many timers;
  int64_t start_cpu_ns;
} storm;

static void expired(struct loop_timer *timer) { bench_keep(timer); }

static void note_lateness(struct loop_timer *timer) {
  storm.plan.late_ns[timer->index] = bench_clock(CLOCK_MONOTONIC) - storm.plan.due_ns[timer->index];
}

static void note_start(struct loop_timer *timer) {
  (void)timer;
  storm.start_cpu_ns = bench_clock(CLOCK_PROCESS_CPUTIME_ID);
}

static void *open_storm(const struct bench_case *self) {
  (void)self;
  make_many(&storm.timers, BENCH_STORM + 1, expired);
  bench_storm_open(&storm.plan);
  return &storm;
}

static void close_storm(void *fixture) {
  (void)fixture;
  bench_storm_close(&storm.plan);
  free(storm.timers.timers);
}

/* Returns when all have fired. */
static void run_storm(void (*fire)(struct loop_timer *)) {
  int64_t first_ns = bench_storm_plan(&storm.plan);
  struct loop_timer *early = timer_at(&storm.timers, BENCH_STORM);
  early->fire = note_start;
  update();
  loop_library.start(early, first_ns - BENCH_STORM_LEAD_IN - bench_clock(CLOCK_MONOTONIC));
  for (size_t i = 0; i < BENCH_STORM; i++) {
    struct loop_timer *timer = timer_at(&storm.timers, i);
    timer->fire = fire;
    update(); /* not timed; what is still early is the library's rounding */
    loop_library.start(timer, storm.plan.due_ns[i] - bench_clock(CLOCK_MONOTONIC));
  }
  bench_storm_armed(first_ns);
  loop_library.run();
}

static void expire(void *fixture, size_t ops, struct bench_sample *sample) {
  (void)fixture;
  (void)ops;
  run_storm(expired);
  sample->ns = (double)(bench_clock(CLOCK_PROCESS_CPUTIME_ID) - storm.start_cpu_ns);
  run_storm(note_lateness);
  bench_storm_report(&storm.plan, sample);
}

#define CHURN(name_, size_)                                                                                            \
  { .name = name_, .open = open_churn, .run = churn, .close = close_many, .size = size_ }

static const struct bench_case cases[] = {
    {.name = "timers_1m_arm",
     .open = open_many,
     .run = arm_all,
     .cleanup = cleanup_all,
     .close = close_many,
     .size = 1000000,
     .batch = 1000000},
    {.name = "timers_1m_cancel",
     .open = open_many,
     .prepare = prepare_all,
     .run = stop_all,
     .close = close_many,
     .size = 1000000,
     .batch = 1000000},
    CHURN("timer_churn_1k", 1000),
    CHURN("timer_churn_100k", 100000),
    CHURN("timer_churn_1m", 1000000),
    {.name = "expire_100k",
     .open = open_storm,
     .measure = expire,
     .close = close_storm,
     .batch = BENCH_STORM,
     .extra = BENCH_STORM_FIGURES},
    {.name = NULL},
};

const struct bench_case *const loop_tables[] = {cases, NULL};
