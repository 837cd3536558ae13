// rounds.h - a race, many times over: a round is set up, its threads meet and act, meet again, and the first of them checks.
//
//   rounds_run((struct rounds_plan){.threads = 3, .set_up = set_up, .act = act, .check = check}, 2000);
//
// The core yields at one in three of its atomics meanwhile (RCTX_SEED). Sanitizers and valgrind get fewer rounds;
// RCTX_RACE_ROUNDS multiplies them (in percent).
#ifndef RCTX_TESTS_ROUNDS_H
#define RCTX_TESTS_ROUNDS_H

#include "support/seed.h"
#include "support/threads.h"

#include "core/platform.h"

struct rounds_plan {
  unsigned threads;
  void (*set_up)(void);
  void (*act)(unsigned index); // index: 0 .. threads - 1
  void (*check)(void);
};

static struct {
  struct threads threads;
  struct rounds_plan plan;
  unsigned count;
  unsigned now; // the round under way
} rounds;

// How much of n is affordable where everything is slower.
static inline unsigned scaled(unsigned n) {
  const char *scale = getenv("RCTX_TIME_SCALE");
  unsigned slower = scale && atoi(scale) > 0 ? (unsigned)atoi(scale) : 1;
  if (slower >= 20) slower *= 5; // valgrind runs one thread at a time
  return n / slower + 1;
}

static inline void rounds_body(unsigned index, void *unused) {
  (void)unused;
  for (unsigned round = 0; round < rounds.count; round++) {
    if (index == 0) {
      rounds.now = round;
      rounds.plan.set_up();
    }
    threads_meet(&rounds.threads);
    rounds.plan.act(index);
    threads_meet(&rounds.threads);
    if (index == 0) rounds.plan.check();
  }
}

static inline void rounds_run(struct rounds_plan plan, unsigned count) {
  enum { YIELD_ONE_IN = 3 };
  const char *percent = getenv("RCTX_RACE_ROUNDS");
  if (percent && atoi(percent) > 0) count = count * (unsigned)atoi(percent) / 100;
  rounds.plan = plan;
  rounds.count = scaled(count);
  atomic_store(&rctx__chaos_seed, seed_get());
  atomic_store(&rctx__chaos_mask, YIELD_ONE_IN);
  threads_start(&rounds.threads, plan.threads, rounds_body, NULL);
  threads_join(&rounds.threads);
  atomic_store(&rctx__chaos_mask, 0);
}

#endif
