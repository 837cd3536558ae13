/*
 * seen_tree.c - see seen_tree.h.
 *
 * The program links this instead of the library's own tree.o: it defines the same names, so that one stays in its archive.
 */
#include "ageing/seen_tree.h"

#include "ageing/pipe.h"
#include "core/platform.h"

#include "core/manager.h"
#include "core/rcu.h"

#undef load_relaxed
#undef load_acquire
#undef store_relaxed
#undef store_release
#undef add_relaxed
#undef sub_acq_rel
#undef exchange_acq_rel
#undef cas_acquire
#undef cas_acq_rel
#undef cas_relaxed
#define load_relaxed(p) (pipe_see(p), atomic_load_explicit((p), memory_order_relaxed))
#define load_acquire(p) (pipe_see(p), atomic_load_explicit((p), memory_order_acquire))
#define store_relaxed(p, v) (pipe_see(p), atomic_store_explicit((p), (v), memory_order_relaxed))
#define store_release(p, v) (pipe_see(p), atomic_store_explicit((p), (v), memory_order_release))
#define add_relaxed(p, v) (pipe_see(p), atomic_fetch_add_explicit((p), (v), memory_order_relaxed))
#define sub_acq_rel(p, v) (pipe_see(p), atomic_fetch_sub_explicit((p), (v), memory_order_acq_rel))
#define exchange_acq_rel(p, v) (pipe_see(p), atomic_exchange_explicit((p), (v), memory_order_acq_rel))
#define cas_acquire(p, expected, v)                                                                                    \
  (pipe_see(p),                                                                                                        \
   atomic_compare_exchange_strong_explicit((p), (expected), (v), memory_order_acquire, memory_order_relaxed))
#define cas_acq_rel(p, expected, v)                                                                                    \
  (pipe_see(p),                                                                                                        \
   atomic_compare_exchange_strong_explicit((p), (expected), (v), memory_order_acq_rel, memory_order_relaxed))
#define cas_relaxed(p, expected, v)                                                                                    \
  (pipe_see(p),                                                                                                        \
   atomic_compare_exchange_strong_explicit((p), (expected), (v), memory_order_relaxed, memory_order_relaxed))

enum plant planted;
const char *const plant_names[PLANTS] = {"none", "no-grace-period", "not-deferred", "no-read-section"};

static bool enter_seen(void) {
  bool registered = planted == PLANT_NO_READ_SECTION || rctx__rcu_enter();
  pipe_walk_begins();
  return registered;
}

static void leave_seen(bool registered) {
  pipe_walk_ends();
  if (planted != PLANT_NO_READ_SECTION) rctx__rcu_leave(registered);
}

static void defer_seen(struct rctx *node);

#define rctx__rcu_enter enter_seen
#define rctx__rcu_leave leave_seen
#define rctx__defer defer_seen
#include "core/tree.c"
#undef rctx__defer

static void defer_seen(struct rctx *node) {
  if (planted == PLANT_NOT_DEFERRED) {
    rctx__node_free(node);
    return;
  }
  pipe_unlinked(node);
  rctx__defer(node);
}

/* The library's callers of rctx__rcu_wait() come here, by the linker's --wrap. */
bool __real_rctx__rcu_wait(bool block);
bool __wrap_rctx__rcu_wait(bool block);
bool __wrap_rctx__rcu_wait(bool block) { return planted == PLANT_NO_GRACE_PERIOD || __real_rctx__rcu_wait(block); }

void seen_make_stripes(rctx *node) { stripes_make(node); }
