/*
 * tree.h - the node and its place in the tree: link, mark, leave, drop. The concurrency is in tree.c; its states,
 * transitions and arguments open that file.
 */
#ifndef RCTX_CORE_TREE_H
#define RCTX_CORE_TREE_H

#include "platform.h"
#include "wheel.h"

#include <rctx/after.h>
#include <rctx/context.h>
#include <rctx/inspect.h>
#include <rctx/value.h>

/* The state word. Its low 12 bits are rctx_err()'s ABI. */
#define STATE_ERR UINT32_C(0x00000fff)      /* positive errno; 0: live */
#define STATE_ORIGIN UINT32_C(0x00003000)   /* how it ended: one of the four below */
#define ORIGIN_LOCAL UINT32_C(0x00001000)   /* cancelled itself: node->cause */
#define ORIGIN_OWN UINT32_C(0x00002000)     /* its own deadline */
#define ORIGIN_PARENT UINT32_C(0x00003000)  /* with its parent */
#define STATE_CHILDREN UINT32_C(0x00004000) /* a child is or was linked below */
#define STATE_WATCH UINT32_C(0x00008000)    /* a callback was registered */
#define STATE_WAIT UINT32_C(0x00010000)     /* a thread sleeps or slept on this word */
#define STATE_FD UINT32_C(0x00020000)       /* ext->fd is open */
#define STATE_NOTIFY (STATE_WATCH | STATE_WAIT | STATE_FD)
#define STATE_DROPPED UINT32_C(0x00040000)      /* handle gone: the last reference belongs to the child lists */
#define STATE_WALKED UINT32_C(0x00080000)       /* ended, and no walk is or will be inside its child lists */
#define STATE_ENDLESS UINT32_C(0x00100000)      /* never ends: roots and rctx_without_cancel() */
#define STATE_TIMED_OUT UINT32_C(0x00200000)    /* ended by a deadline: its own, or an ancestor's of the same manager */
#define STATE_LOCKED UINT32_C(0x00400000)       /* somebody is splicing the inline list: nobody else changes the word */
#define STATE_HANDLE_ENDED UINT32_C(0x00800000) /* checked builds: rctx_end() has been called */
#define STATE_WALKER UINT32_C(0x01000000)       /* count of walks inside its child lists: the top 8 bits */
#define STATE_WALKERS UINT32_C(0xff000000)

enum rctx__node_kind {
  NODE_ROOT = 1,
  NODE_CANCEL,
  NODE_VALUE,
  NODE_DETACHED,
  NODE_STATIC_ERROR,
  NODE_DYING,
  NODE_DEAD
};

/* node->own: what is this node's own rather than inherited. Const once the node is linked. */
enum {
  OWN_DEADLINE = 1,   /* asked for, and no later than the parent's */
  OWN_BLOCK = 2,      /* it began the value block that node->values points to */
  OWN_VALUES = 4,     /* it has bindings of its own */
  OWN_DESTROYERS = 8, /* ... some of which hold something that has to be let go */
  HAS_DEADLINE = 16,  /* deadline_ns counts */
  OWN_MOVABLE = 32,   /* its own deadline may be moved */
  CLIMB = 64,         /* that, or an ancestor's may: what counts is the earliest of the way up */
  OWN_MERGE = 128     /* merge.c: with CLIMB, its deadline is looked up at its parents */
};

enum { TIMER_NONE = 0, TIMER_ARMED, TIMER_FIRED };

struct rctx__ext;

/*
 * The node: two cache lines. The first is what a walk and a neighbour touch, the second what only lookups, registrations
 * and timers do. Regimes: const = set before the node is linked; parent's list lock = state lock or stripe lock of
 * the list it is linked in; state lock = STATE_LOCKED of this node.
 */
struct rctx {
  _Atomic uint32_t state;          /* atomic, and lock; offset 0 is ABI */
  _Atomic uint32_t refs;           /* atomic: handle + references + registrations + pins */
  struct rctx *parent;             /* const; kept alive by the link */
  _Atomic(struct rctx *) next;     /* parent's list lock; rcu for walks; kept when unlinked */
  _Atomic(struct rctx *) *pprev;   /* parent's list lock; NULL: not linked (child of a root) */
  _Atomic(struct rctx *) children; /* state lock; rcu for walks */
  struct rctx_manager *manager;    /* const */
  _Atomic int64_t deadline_ns;     /* const, but with OWN_MOVABLE: atomic; INT64_MAX without HAS_DEADLINE */
  uint8_t kind;                    /* const; NODE_DEAD when given back */
  uint8_t own;                     /* const */
  uint8_t stripe;                  /* parent's list lock, written once: 0 inline list, n: stripe n - 1 */
  uint8_t timer_shard;             /* const while armed */
  _Atomic uint8_t timer_state;     /* written under the shard's lock; a stale ARMED or NONE is re-read there */
  _Atomic uint8_t contended;       /* stats: how often its inline list was found locked; once ended: swept (tree.c) */
  uint16_t deadline_code;          /* const: positive errno its own deadline ends it with */

  _Atomic(const struct rctx_cause *) cause; /* state lock, written once; published by a mark with ORIGIN_LOCAL */
  uintptr_t values;         /* const: block, with the number of its entries visible here in the low bits */
  uint64_t summary;         /* const: a bit per visible key */
  struct rctx_after *watch; /* state lock: last of a circular list of registrations */
  union {
    struct rctx__wheel_entry timer; /* lock of shard timer_shard, while ARMED */
    struct rctx *link; /* while not armed: one owner at a time: the notify chain of the walk that marked and pinned it;
                          then the list of those to release; then the deferred list; then a free list */
  };
  _Atomic(struct rctx__ext *) ext; /* published once under the state lock */
};
_Static_assert(sizeof(struct rctx) == 128, "a node is two cache lines");
_Static_assert(offsetof(struct rctx, state) == 0, "rctx_err() reads the first word");
_Static_assert(offsetof(struct rctx, cause) == CACHE_LINE, "what a walk touches is the first line");

/* One child list of a contended parent: a cache line of its own. */
struct rctx__stripe {
  rctx__lock lock;
  _Atomic(struct rctx *) children; /* lock; rcu for walks */
  char pad[CACHE_LINE - sizeof(rctx__lock) - sizeof(void *) - 4];
};

/* What few contexts have: made on demand, freed with the node. The rest of its block is the arena's first page. */
struct rctx__ext {
  _Atomic(struct rctx__stripe *) stripes; /* published once under the state lock */
  unsigned stripe_count;                  /* const once published */
  struct rctx__fd done;                   /* published by STATE_FD */
  struct rctx__page *newest;              /* owner: one thread at a time (rctx_alloc) */
  size_t first_used;                      /* owner: bytes cut from the first page */
  _Atomic int64_t idle_ns;                /* const once not 0: of rctx_with_idle() */
  _Atomic int64_t touched_until_ns;       /* atomic: with idle_ns: its deadline is no earlier than this */
  struct rctx__record *record;            /* owner, before the handle is given away: leaks.c; NULL as a rule */
};

static inline uint32_t rctx__done(uint32_t state) { return state & STATE_ERR; }
static inline bool rctx__is_root(const rctx *ctx) { return ctx->kind == NODE_ROOT; }
static inline bool rctx__is_static(const rctx *ctx) { return ctx->kind == NODE_ROOT || ctx->kind == NODE_STATIC_ERROR; }
static inline rctx *rctx__mutable(const rctx *ctx) {
  union {
    const rctx *in;
    rctx *out;
  } cast = {ctx};
  return cast.out;
}

/* A node's own deadline at this moment. One that is idle's is the later of two words: who moves it writes the deadline and then takes the
 * touch back; who touches it writes the touch only. So a touch and a move at once can not undo one another. */
static inline int64_t rctx__own_deadline(const rctx *ctx) {
  struct rctx__ext *ext =
      (ctx->own & OWN_MOVABLE) ? load_acquire(&rctx__mutable(ctx)->ext) : NULL; /* partner: rctx__ext_get() */
  bool idle = ext && load_acquire(&ext->idle_ns) != 0;                          /* partner: rctx_with_idle() */
  int64_t until_ns = idle ? load_acquire(&ext->touched_until_ns) : INT64_MIN;   /* partner: rctx__timer_move() */
  int64_t deadline_ns = load_relaxed(&rctx__mutable(ctx)->deadline_ns);         /* a time of this moment */
  return until_ns > deadline_ns ? until_ns : deadline_ns;
}

/* ---- looks: see rctx/testing.h ------------------------------------------------------------------------------------ */

extern _Atomic uint32_t rctx__looks_counted; /* written by testing.c: 1 while looks are counted */
static inline void rctx__look_here(const rctx *ctx) {
  if (unlikely(load_relaxed(&rctx__looks_counted))) rctx__look(ctx); /* a late look is not counted */
}

/* ---- the state word as a lock ------------------------------------------------------------------------------------ */

uint32_t rctx__state_lock_slow(rctx *node);

/** Lock the node's word; returns it as it was (without STATE_LOCKED). Partner: rctx__state_unlock(). */
static inline uint32_t rctx__state_lock(rctx *node) {
  uint32_t s = load_relaxed(&node->state); /* a guess: the CAS decides */
  if (likely(!(s & STATE_LOCKED)) &&
      likely(cas_acquire(&node->state, &s, s | STATE_LOCKED))) /* partner: rctx__state_unlock() */
    return s;
  return rctx__state_lock_slow(node);
}

/** Unlock it, leaving `state`. Partner: every CAS on the word. */
static inline void rctx__state_unlock(rctx *node, uint32_t state) { store_release(&node->state, state); }

/** The ext of a node, made if need be. NULL: no memory. */
struct rctx__ext *rctx__ext_get(rctx *node);

/* ---- tree -------------------------------------------------------------------------------------------------------- */

/** Link a new node below its parent. Returns it, with its state set: live, or ended as its parent. */
rctx *rctx__link(rctx *node);

/** context.c: rctx_with_values() in a given manager. */
rctx *rctx__with_values(rctx_manager *manager, const rctx *parent, const struct rctx_value *values, size_t nvalues);
/** context.c: the static context that has ended with this error: -ENOMEM, -EAGAIN or -EINVAL. Ending it is harmless. */
rctx *rctx__error_context(int err);
/** context.c: the same, after letting go of all that a spec transfers. */
rctx *rctx__refuse_spec(int err, const struct rctx_spec *spec);

/** context.c: rctx_why() for the library itself: not counted as a look. */
int rctx__why(const rctx *ctx, struct rctx_why *why);

/* For merge.c. */
struct rctx__merged_spec {
  struct rctx__merge *merge;
  const rctx *values_from;
  bool has_deadline; /* to be shown only: the parents' timers end it */
  int64_t deadline_ns;
  bool climb; /* a parent's may be moved, or it may end before what it shows: those below keep timers of their own */
};
/** context.c: false: it has no deadline, and never will. *deadline_ns may be INT64_MAX: none at the moment. looks: at how many
 *  merges with deadlines that move it may still look; those behind are not shown. */
bool rctx__deadline_of(const rctx *ctx, unsigned *looks, int64_t *deadline_ns);
/** merge.c: what its parents' deadlines make of a merge's now. */
int64_t rctx__merge_deadline(const rctx *ctx, unsigned *looks);
/** context.c: a context that carries a merge. NULL: no memory; then nothing has been taken. */
rctx *rctx__derive_merged(const rctx *parent, const struct rctx__merged_spec *spec);
/** merge.c: the cause that stands for "see the winner", and the winner. */
extern const struct rctx_cause rctx__merged_cause;
const rctx *rctx__merge_winner(const rctx *ctx);

/** Mark a node ended: err > 0, one of the ORIGIN_ bits, perhaps STATE_TIMED_OUT. Then its subtree; then notify. True if
 *  this call ended it. Either way the subtree is marked on return. The caller holds a reference. */
bool rctx__finish(rctx *node, uint32_t how);

/** The same for an explicit cancel: if this call ends the node, @cause is its cause. */
bool rctx__cancel(rctx *node, uint32_t how, const struct rctx_cause *cause);

/** The same in slices: this marks and notifies the node itself; rctx__sweep_step() up to budget nodes below it, true while there are
 *  more. */
bool rctx__sweep_begin(rctx *node, uint32_t how, const struct rctx_cause *cause, struct rctx_sweep *sweep);
bool rctx__sweep_step(struct rctx_sweep *sweep, size_t budget);
/** Whether an ended context is part of a cancel in slices: then what is below is left to the steps. */
bool rctx__is_swept(const rctx *ctx);

/** Take a reference only if there is still one. */
bool rctx__pin(rctx *node);

/** Give a reference up, and with the last one the node. */
void rctx__drop(rctx *node);

/** Take another reference. */
static inline void rctx__ref(rctx *node) {
  add_relaxed(&node->refs, 1U); /* the caller has one already: nothing to order */
}

/** Give up a reference without freeing: true if it was the last and the caller now has to release the node, by
 *  passing it to rctx__release(). */
bool rctx__give_up(rctx *node);
void rctx__release(rctx *node);

/** Free the memory of a dead node: when nobody can reach it any more, walks included. */
void rctx__node_free(rctx *node);

/** Free the pages behind the first that rctx_alloc() took. */
void rctx__arena_free(rctx *node, struct rctx__ext *ext);

/** leaks.c: the handle of a context that is watched is being given back; the context is gone. */
void rctx__leak_handle_gone(struct rctx__ext *ext);
void rctx__leak_gone(struct rctx__ext *ext);

/** after.c: run or queue the callbacks of an ended node. The caller holds a pin and no lock. */
void rctx__fire(rctx *node);

/* What rctx__visit_below() calls: `enter` for top and each context that is descended into, its lists locked (false: leave it
 * again at once); `child` for each child in them (true: descend into it). */
struct rctx__visitor {
  bool (*enter)(rctx *node, uint32_t state, struct rctx__visitor *self);
  bool (*child)(rctx *child, struct rctx__visitor *self);
  void (*leave)(rctx *node,
                struct rctx__visitor *self); /* after the last child of one that was entered; NULL: nothing */
  bool enough;                               /* set by one of these: visit no more */
};
/** Visit what hangs below, parents before children, with the locks of the path from top held: not for hot paths. */
void rctx__visit_below(rctx *top, struct rctx__visitor *visitor);
/** How many registrations a node has. Its lock is held. */
size_t rctx__registrations_locked(const rctx *node);

#endif
