/*
 * manager.h - what a manager is made of. Each part is used by its own file; manager.c makes, drives and destroys the whole.
 */
#ifndef RCTX_CORE_MANAGER_H
#define RCTX_CORE_MANAGER_H

#include "executor.h"
#include "memory.h"
#include "platform.h"
#include "queue.h"
#include "timer.h"
#include "tree.h"

#include <rctx/manager.h>

struct rctx_manager {
  struct rctx root; /* background: never changes */
  struct rctx__memory memory;
  struct rctx__timers timers;
  struct rctx__queue callbacks;        /* of rctx_after(): drained by one thread */
  struct rctx__thread callback_thread; /* registry mutex */
  _Atomic uint32_t callback_thread_on; /* written under the registry mutex */
  _Atomic uint32_t stopping;           /* the callback thread is asked to leave */
  rctx__lock deferred_lock;
  struct rctx *deferred;           /* deferred_lock: dead nodes that wait for a grace period, through link */
  _Atomic uint32_t deferred_count; /* written under deferred_lock; read as a hint */
  struct rctx_executor *executor;  /* const: the embedder's; NULL: workers */
  struct rctx__workers workers;    /* the pool */
  _Atomic uint32_t tasks;          /* jobs of our contexts on their way, but for those that the pool counts */
  _Atomic uint32_t orphans;        /* stats: jobs running though their callers have returned */
  _Atomic uint32_t running;        /* callbacks under way */
  _Atomic uint32_t busy;           /* expiries and reclaims under way: they hold pins and memory */
  _Atomic uint32_t begun;    /* stats: counts what raised one of the two, so that quiesce notices what it missed */
  _Atomic uint32_t listed;   /* written under the registry mutex: it is in the list below */
  struct rctx_manager *next; /* registry mutex: all managers, for fork */
};

extern struct rctx_manager rctx__default_manager;

static inline struct rctx_manager *rctx__manager_of_workers(struct rctx__workers *workers) {
  return (struct rctx_manager *)(void *)((char *)workers - offsetof(struct rctx_manager, workers));
}

static inline int64_t rctx__now(const struct rctx_manager *manager) {
  return likely(manager->timers.clock == NULL) ? rctx__monotonic_ns()
                                               : manager->timers.clock(manager->timers.clock_arg);
}

/** Put it into the list of managers, once: from the first heap on. Registry mutex held. */
void rctx__manager_list_locked(struct rctx_manager *manager);
static inline bool rctx__same_clock(const struct rctx_manager *a, const struct rctx_manager *b) {
  return likely(a == b) || (a->timers.clock == b->timers.clock && a->timers.clock_arg == b->timers.clock_arg);
}

/** Around work that quiesce has to wait for: raised before what it takes is taken off the counts that quiesce looks at. */
static inline void rctx__begin(struct rctx_manager *manager, _Atomic uint32_t *count) {
  add_relaxed(&manager->begun, 1U); /* ordered before the release that takes the work off its count */
  add_relaxed(count, 1U);           /* as above */
}
static inline void rctx__finished(_Atomic uint32_t *count) { sub_acq_rel(count, 1U); /* partner: quiet() */ }

/** wait.c: rctx_sleep() on a given manager's clock. */
int rctx__sleep_on(const struct rctx_manager *manager, const rctx *ctx, int64_t duration_ns);
/** testclock.c: a thread blocked on a virtual clock, in the list of that clock. */
struct rctx__blocked {
  const rctx *ctx;             /* const */
  int64_t until_ns;            /* const */
  struct rctx__blocked *next;  /* the clock's lock */
  struct rctx__blocked **prev; /* the clock's lock */
  bool moving;                 /* the clock's lock: this thread moves the time, and runs callbacks */
  bool told;                   /* the clock's lock: its time has come, and was counted */
};
void rctx__test_block(const struct rctx_manager *manager, struct rctx__blocked *here);
void rctx__test_unblock(const struct rctx_manager *manager, struct rctx__blocked *here);
/** Move the time if all are blocked. True: look again before sleeping. */
bool rctx__test_move(const struct rctx_manager *manager, struct rctx__blocked *here);
/** signal.c: in the child of a fork: start its thread again if contexts wait for signals. */
void rctx__signals_after_fork(void);
/** leaks.c: its lock, around fork. */
void rctx__leaks_take_lock(void);
void rctx__leaks_drop_lock(void);
void rctx__leaks_forget_lock(void);
/** Hand a dead node to the next grace period. */
void rctx__defer(struct rctx *node);
/** Start the callback thread unless it runs. Returns 0 or -errno. */
int rctx__callback_thread_start(struct rctx_manager *manager);

#endif
