/*
 * timer.h - armed deadlines: sharded wheels, and the handshake between who arms and who sleeps.
 *
 * A thread arms in its own shard; any thread disarms at once under the shard's lock. A node is freed only after it has been
 * disarmed, so an entry found in a wheel is always memory that is alive; the driver takes a pin under the shard's lock
 * before it lets go of the lock, and ends the node outside.
 *
 * Sleep and kick (docs/protocols/timer.md, tests/model/timer_kick.pml):
 *   the driver  1. reads the kick sequence, 2. sets sleep_until = NEVER ("kick me for anything"), 3. computes the first
 *               event over all shards, each under its lock, 4. sets sleep_until to it, 5. sleeps until then unless the
 *               sequence has moved.
 *   who arms    inserts under the shard's lock and reads sleep_until there: either the driver's step 3 comes later and
 *               sees the timer, or it came before, and then step 2 is visible: an earlier timer moves the sequence.
 *   the first   timer makes the shards: there was no lock to order it with a scan before, so it always kicks.
 */
#ifndef RCTX_CORE_TIMER_H
#define RCTX_CORE_TIMER_H

#include "platform.h"
#include "tree.h"
#include "wheel.h"

#include <rctx/manager.h>

struct rctx__shard {
  rctx__lock lock;
  uint32_t armed;           /* lock */
  struct rctx__wheel wheel; /* lock */
} __attribute__((aligned(CACHE_LINE)));

struct rctx__timers {
  enum rctx_drive drive;                /* const */
  int64_t (*clock)(void *arg);          /* const; NULL: CLOCK_MONOTONIC */
  void *clock_arg;                      /* const */
  struct rctx_test_clock *test_clock;   /* const; NULL but for testclock.c's managers */
  int64_t tick_ns;                      /* const */
  uint64_t tick_reciprocal;             /* const: (2^64 - 1) / tick_ns, rounded down */
  void (*kick)(void *arg);              /* const */
  void *kick_arg;                       /* const */
  _Atomic(struct rctx__shard *) shards; /* published once, by the first timer */
  unsigned shard_count;                 /* const once published: a power of two */
  _Atomic int64_t sleep_until_ns;       /* see above. INT64_MIN: the driver is at work and will look again */
  _Atomic uint32_t kick_sequence;       /* futex of the thread */
  _Atomic uint32_t kick_wanted;         /* RCTX_DRIVE_EMBEDDER: a kick may be given */
  _Atomic uint32_t thread_on;           /* written under the registry mutex */
  struct rctx__thread thread;           /* registry mutex */
  _Atomic uint32_t stopping;            /* the thread is asked to leave */
};

enum { TICK_DEFAULT_NS = 1000000, TICK_MIN_NS = 100000, TICK_MAX_NS = 1000000000 };
#define RCTX__TIMERS_INIT(tick)                                                                                        \
  { .tick_ns = (tick), .tick_reciprocal = UINT64_MAX / (uint64_t)(tick), .sleep_until_ns = INT64_MIN }

/** Stop the thread, free the shards. Nothing is armed. */
void rctx__timers_fini(struct rctx_manager *manager);

enum rctx__armed { ARM_DONE = 0, ARM_DUE = 1 }; /* or -errno */
/** Arm a node's own deadline. ARM_DUE: its time has come already, nothing was armed. */
int rctx__timer_arm(struct rctx *node);
/** Move an armed timer. False: it is not armed any more, and nothing was changed; or the new time, which is its deadline now, has
 *  come: the caller ends the node. */
bool rctx__timer_move(struct rctx *node, int64_t deadline_ns);
/** Disarm. True if nothing of the timer is or will be under way: it was never armed, or it has just been taken out. */
bool rctx__timer_disarm_slow(struct rctx *node);
static inline bool rctx__timer_disarm(struct rctx *node) {
  /* Partners: the stores of NONE in rctx__timer_disarm_slow() and of FIRED in collect(). */
  return likely(load_acquire(&node->timer_state) == TIMER_NONE) || rctx__timer_disarm_slow(node);
}

/** For the virtual clock: when the first armed deadline comes, exactly; RCTX__NEVER: none will. And: time was set back. */
int64_t rctx__timers_first(struct rctx_manager *manager);
void rctx__timers_rewind(struct rctx_manager *manager, int64_t now_ns);

size_t rctx__timers_armed(const struct rctx_manager *manager);
/** In the child of a fork: the thread is gone; start it again if something is armed. */
void rctx__timers_after_fork(struct rctx_manager *manager);

#endif
