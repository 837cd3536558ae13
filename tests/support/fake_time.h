// fake_time.h - a manager whose clock stands still until the test moves it: deadlines without sleeping.
//
// Each test runs in a process of its own, so one static clock per file is enough: fake_open() and fake_close() are a suite's
// .init and .fini. The clock starts at an odd moment, so that no rounding to ticks is right by luck.
#ifndef RCTX_TESTS_FAKE_TIME_H
#define RCTX_TESTS_FAKE_TIME_H

#include "support/leftovers.h"

#include <stdatomic.h>

#define MS INT64_C(1000000)
#define SECOND INT64_C(1000000000)
#define FAKE_START (1000 * SECOND + 123457)
#define FAKE_TICK MS // the default resolution: a deadline may be this much late

struct fake_time {
  _Atomic int64_t now;
  atomic_uint kicks;
  rctx_manager *manager;
};

static struct fake_time fake;

static int64_t fake_read(void *arg) { return atomic_load(&((struct fake_time *)arg)->now); }

static void fake_kicked(void *arg) { atomic_fetch_add(&((struct fake_time *)arg)->kicks, 1); }

static inline struct rctx_manager_options fake_options(void) {
  return (struct rctx_manager_options){
      .drive = RCTX_DRIVE_EMBEDDER, .now = fake_read, .now_arg = &fake, .kick = fake_kicked, .kick_arg = &fake};
}

__attribute__((unused)) static void fake_open_with(struct rctx_manager_options options) {
  atomic_store(&fake.now, FAKE_START);
  if (rctx_manager_create(&options, &fake.manager) == 0) return;
  fprintf(stderr, "no manager\n");
  abort();
}

__attribute__((unused)) static void fake_open(void) { fake_open_with(fake_options()); }

__attribute__((unused)) static void fake_close(void) {
  nothing_left(fake.manager);
  nothing_left(rctx_manager_default());
  int destroyed = rctx_manager_destroy(fake.manager);
  if (destroyed == 0) return;
  fprintf(stderr, "the manager can not be destroyed: %d\n", destroyed);
  abort();
}

static inline const rctx *fake_root(void) { return rctx_manager_background(fake.manager); }

static inline int64_t fake_now(void) { return atomic_load(&fake.now); }

// Sets the clock without telling the manager: nothing ends by it.
static inline void fake_set(int64_t now_ns) { atomic_store(&fake.now, now_ns); }

// Sets the clock and ends what is due. Returns how many deadlines were handled.
static inline size_t fake_reach(int64_t now_ns) {
  fake_set(now_ns);
  return rctx_advance(fake.manager, now_ns, 0);
}

static inline size_t fake_go(int64_t ns) { return fake_reach(fake_now() + ns); }

// The moment by which a deadline must have ended its context.
static inline size_t fake_pass(int64_t deadline_ns) { return fake_reach(deadline_ns + FAKE_TICK); }

static inline struct rctx_stats fake_stats(void) {
  struct rctx_stats stats;
  rctx_stats(fake.manager, &stats);
  return stats;
}

#endif
