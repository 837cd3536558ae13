/*
 * Deadlines in numbers: arming and disarming a million (timers_1m_*), one more among many (timer_churn_*), and a storm of
 * them coming due (expire_100k).
 */
#include "cases.h"
#include "clock.h"
#include "storm.h"

#include <rctx/rctx.h>
#include <stdlib.h>

struct many {
  rctx *server;
  size_t count;
  rctx **ctx;
  uint32_t *order; /* random */
  uint64_t random;
};

static void *open_many(const struct bench_case *self) {
  struct many *m = bench_memory(1, sizeof *m);
  m->count = self->size;
  m->ctx = bench_memory(m->count, sizeof(rctx *));
  m->order = bench_shuffled(m->count);
  m->random = 2463534242U;
  m->server = rctx_with_cancel(rctx_background());
  return m;
}

static void close_many(void *fixture) {
  struct many *m = fixture;
  rctx_end(m->server);
  free(m->order);
  free(m->ctx);
  free(m);
}

static int64_t random_timeout(struct many *m, int64_t from_s) { return bench_random_timeout(&m->random, from_s); }

/* ---- a million --------------------------------------------------------------------------------------------------- */

static void arm_all(void *fixture, size_t ops) {
  struct many *m = fixture;
  (void)ops;
  for (size_t i = 0; i < m->count; i++) {
    m->ctx[i] = rctx_with_timeout(m->server, random_timeout(m, 1));
  }
}

static void prepare_all(void *fixture) { arm_all(fixture, 0); }

static void end_all(void *fixture, size_t ops) {
  struct many *m = fixture;
  (void)ops;
  for (size_t i = 0; i < m->count; i++) {
    rctx_end(m->ctx[m->order[i]]);
  }
}

static void cleanup_all(void *fixture) { end_all(fixture, 0); }

/* ---- churn: connections that push their idle timeout ahead ------------------------------------------------------- */

static void *open_churn(const struct bench_case *self) {
  struct many *m = open_many(self);
  for (size_t i = 0; i < m->count; i++) {
    m->ctx[i] = rctx_with_timeout(m->server, random_timeout(m, 60));
  }
  return m;
}

/* A timeout of 60 to 120 s: none comes due while it is measured. */
static void churn(void *fixture, size_t ops) {
  struct many *m = fixture;
  for (size_t i = 0; i < ops; i++) {
    rctx **any = &m->ctx[(bench_random(&m->random) >> 20) % m->count];
    rctx_end(*any);
    *any = rctx_with_timeout(m->server, random_timeout(m, 60));
  }
}

static void close_churn(void *fixture) {
  struct many *m = fixture;
  cleanup_all(m);
  close_many(m);
}

/* ---- a storm ----------------------------------------------------------------------------------------------------- */

struct storm {
  struct bench_storm plan;
  rctx *server;
  rctx *ctx[BENCH_STORM];
  struct rctx_after after[BENCH_STORM];
};

static void *open_storm(const struct bench_case *self) {
  (void)self;
  struct storm *s = bench_memory(1, sizeof *s);
  s->server = rctx_with_cancel(rctx_background());
  bench_storm_open(&s->plan);
  return s;
}

static void close_storm(void *fixture) {
  struct storm *s = fixture;
  rctx_end(s->server);
  bench_storm_close(&s->plan);
  free(s);
}

static void note_lateness(const rctx *ctx, void *late_ns) {
  int64_t due_ns = 0;
  if (rctx_deadline(ctx, &due_ns)) {
    *(int64_t *)late_ns = rctx_now() - due_ns;
  }
}

/* Returns when the first is due. */
static int64_t arm_storm(struct storm *s, bool note) {
  int64_t first_ns = bench_storm_plan(&s->plan);
  for (size_t i = 0; i < BENCH_STORM; i++) {
    s->ctx[i] = rctx_with_deadline(s->server, s->plan.due_ns[i]);
    if (note) {
      rctx_after_inline(s->ctx[i], &s->after[i], RCTX_ON_ENDED_RUN, note_lateness, &s->plan.late_ns[i]);
    }
  }
  bench_storm_armed(first_ns);
  return first_ns;
}

static void wait_for_the_last(const struct storm *s, int64_t first_ns) {
  bench_sleep_until(first_ns + BENCH_STORM_SPAN + BENCH_STORM_REST);
  for (size_t i = 0; i < BENCH_STORM; i++) {
    rctx_wait(s->ctx[i], INT64_MAX);
  }
}

static void end_storm(struct storm *s) {
  for (size_t i = 0; i < BENCH_STORM; i++) {
    rctx_end(s->ctx[i]);
  }
}

static void storm_lateness(struct storm *s, struct bench_sample *sample) {
  wait_for_the_last(s, arm_storm(s, true));
  for (size_t i = 0; i < BENCH_STORM; i++) {
    rctx_after_stop_sync(&s->after[i]);
  }
  end_storm(s);
  bench_storm_report(&s->plan, sample);
}

/* The time of the process's own clock while they expire: the thread that drives the wheel, as nothing else runs. The
 * lateness is taken in a second storm, for its callbacks and clock reads would be part of the cost. */
static void expire(void *fixture, size_t ops, struct bench_sample *sample) {
  struct storm *s = fixture;
  (void)ops;
  int64_t first_ns = arm_storm(s, false);
  bench_sleep_until(first_ns - BENCH_STORM_LEAD_IN);
  int64_t start = bench_clock(CLOCK_PROCESS_CPUTIME_ID);
  bench_sleep_until(first_ns + BENCH_STORM_SPAN + BENCH_STORM_REST);
  sample->ns = (double)(bench_clock(CLOCK_PROCESS_CPUTIME_ID) - start);
  wait_for_the_last(s, first_ns);
  end_storm(s);
  storm_lateness(s, sample);
}

#define CHURN(name_, size_)                                                                                            \
  { .name = name_, .open = open_churn, .run = churn, .close = close_churn, .size = size_, .no_allocs = true }

const struct bench_case bench_timer_cases[] = {
    {.name = "timers_1m_arm",
     .open = open_many,
     .run = arm_all,
     .cleanup = cleanup_all,
     .close = close_many,
     .size = 1000000,
     .batch = 1000000,
     .uncounted = true},
    {.name = "timers_1m_cancel",
     .open = open_many,
     .prepare = prepare_all,
     .run = end_all,
     .close = close_many,
     .size = 1000000,
     .batch = 1000000,
     .uncounted = true},
    CHURN("timer_churn_1k", 1000),
    CHURN("timer_churn_100k", 100000),
    CHURN("timer_churn_1m", 1000000),
    {.name = "expire_100k",
     .open = open_storm,
     .measure = expire,
     .close = close_storm,
     .batch = BENCH_STORM,
     .uncounted = true,
     .extra = BENCH_STORM_FIGURES},
    {.name = NULL},
};
