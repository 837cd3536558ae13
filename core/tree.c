/*
 * tree.c - link, mark, walk, leave, drop: all the concurrency of the tree is in this file.
 *
 * One word per node, node->state, is what rctx_err() reads, what ends the node (a compare-and-swap from live), and the lock
 * of the node's inline child list: who splices sets STATE_LOCKED; until it stores the new value nobody else changes the word.
 * So a mark can not overlap a splice, and whoever splices knows the node's state for as long as it splices.
 *
 *   live --mark--> ended, walkers = 1 --walk done--> ended, WALKED        (a node without CHILDREN goes straight to WALKED)
 *                     |      ^
 *                     \help--/  another cancel that finds it ended but not WALKED walks it too: walkers + 1
 *   handle dropped with children left: DROPPED; the last child to leave releases it
 *
 * Who does what, exactly once:
 *   ends a node       whoever moves its word from live: a walk from above or an expiry by a CAS (mark()), an explicit cancel
 *                     under the word's lock, together with its cause (rctx__cancel()). First wins.
 *   notifies it       the same thread, after its whole walk; it has pinned the node when it marked it.
 *   frees it          whoever gives the last reference up (rctx__give_up() returned true) or, for a DROPPED node, the child
 *                     that leaves last. A live or ended child's link is its reference on its parent.
 *
 * When memory may be reused (leave()): a walk that is inside the lists of a parent may stand on a child that leaves.
 *   parent live            no walk is inside (a walk marks first, and marking needs the lock we hold): at once
 *   parent ended, WALKED   the last walk has left and none will come: at once
 *   otherwise              after a grace period (rcu): a walk runs inside one read section
 * A walk needs a child's next and parent after it has been deeper below it; leave() keeps both, and by the rule above the memory
 * stays, since the parent is not WALKED while a walk is anywhere below it.
 *
 * Stripes: a parent whose lock is found taken often gets one list per few threads, each with a lock of its own. Those who
 * splice there read the parent's state under the stripe's lock; a walk, having marked, takes and drops every stripe's
 * lock before it reads the lists: a splice is either before that (the walk sees it) or after (it sees the mark).
 *
 * Locks: a node's state lock; then its stripes in order, then a queue's lock. Only rctx__visit_below() holds several nodes' locks:
 * parent, then child. Nothing under them allocates, calls out or enters the kernel.
 * A walk in slices (rctx__sweep_step) is the same walk with pauses. Between two slices it is in no read section: what it stands on
 * is a watched child that it has pinned, which therefore stays linked, and keeps everything above it; the counts of the lists it
 * is inside stay raised. It notifies what it has marked at the end of each slice.
 *
 * Models: tests/model/tree_*.pml. Walks are iterative: child, next, parent; no stack, no queue.
 */
#include "tree.h"

#include "manager.h"
#include "probes.h"
#include "rcu.h"
#include "value.h"

#include <string.h>

enum { CONTENDED_ENOUGH = 8, SWEPT = UINT8_MAX, STRIPES_MIN = 8, STRIPES_MAX = 64 };

/* ---- the word ---------------------------------------------------------------------------------------------------- */

COLD uint32_t rctx__state_lock_slow(rctx *node) {
  unsigned tries = 0;
  for (;;) {
    uint32_t s = load_relaxed(&node->state); /* a guess: the CAS decides */
    if (s & STATE_LOCKED) {
      rctx__back_off(&node->state, s, &tries);
    } else if (cas_acquire(&node->state, &s, s | STATE_LOCKED)) { /* partner: rctx__state_unlock() */
      return s;
    }
  }
}

/* As rctx__state_lock(), and tells whether somebody was in the way. */
static inline uint32_t lock_noting(rctx *node, bool *contended) {
  uint32_t s = load_relaxed(&node->state); /* a guess: the CAS decides */
  *contended = false;
  if (likely(!(s & STATE_LOCKED)) && likely(cas_acquire(&node->state, &s, s | STATE_LOCKED))) return s;
  *contended = true;
  return rctx__state_lock_slow(node);
}

bool rctx__pin(rctx *node) {
  uint32_t refs = load_relaxed(&node->refs); /* a guess: the CAS decides */
  while (refs != 0) {
    if (cas_relaxed(&node->refs, &refs, refs + 1)) return true; /* as rctx__ref(): nothing to order */
  }
  return false;
}

struct rctx__ext *rctx__ext_get(rctx *node) {
  struct rctx__ext *ext = load_acquire(&node->ext); /* partner: the store below */
  if (ext) return ext;
  struct rctx__ext *fresh = rctx__object_alloc(node->manager, CLASS_BLOCK);
  if (fresh == NULL) return NULL;
  *fresh = (struct rctx__ext){.done = {.fd = -1}};
  uint32_t s = rctx__state_lock(node);
  ext = load_relaxed(&node->ext); /* written under this lock only */
  if (ext == NULL) {
    store_release(&node->ext, fresh); /* partners: the acquire loads of node->ext */
    ext = fresh;
    fresh = NULL;
  }
  rctx__state_unlock(node, s);
  if (fresh) rctx__object_free(node->manager, CLASS_BLOCK, fresh);
  return ext;
}

/* ---- stripes ----------------------------------------------------------------------------------------------------- */

static inline struct rctx__stripe *stripes_of(const rctx *node, unsigned *count) {
  struct rctx__ext *ext = load_acquire(&node->ext); /* partner: rctx__ext_get() */
  if (likely(ext == NULL)) return NULL;
  struct rctx__stripe *stripes = load_acquire(&ext->stripes); /* partner: stripes_make() */
  if (stripes) *count = ext->stripe_count;
  return stripes;
}

static COLD void stripes_make(rctx *node) {
  struct rctx__ext *ext = rctx__ext_get(node);
  if (ext == NULL) return;
  unsigned count = STRIPES_MIN;
  while (count < 4 * rctx__cpu_count() && count < STRIPES_MAX) count *= 2;
  struct rctx__stripe *fresh = rctx__raw_alloc(node->manager, count * sizeof *fresh, CACHE_LINE);
  if (fresh == NULL) return;
  memset(fresh, 0, count * sizeof *fresh);
  uint32_t s = rctx__state_lock(node);
  if (!rctx__done(s) && load_relaxed(&ext->stripes) == NULL) { /* written under this lock only */
    ext->stripe_count = count;
    store_release(&ext->stripes, fresh); /* partner: stripes_of() */
    fresh = NULL;
    s |= STATE_CHILDREN; /* for good: children come and go without touching this word */
  }
  rctx__state_unlock(node, s);
  if (fresh) rctx__raw_free(node->manager, fresh, count * sizeof *fresh);
}

static void stripes_lock_all(struct rctx__stripe *stripes, unsigned count) {
  for (unsigned i = 0; i < count; i++) rctx__take(&stripes[i].lock);
}
static void stripes_unlock_all(struct rctx__stripe *stripes, unsigned count) {
  for (unsigned i = count; i-- > 0;) rctx__unlock(&stripes[i].lock);
}

/* ---- link -------------------------------------------------------------------------------------------------------- */

/* How a child ends that is ended by a parent in this state. */
static inline uint32_t inherited(uint32_t parent_state, const rctx *parent, const rctx *child) {
  uint32_t how = (parent_state & STATE_ERR) | ORIGIN_PARENT;
  if (unlikely(parent_state & STATE_TIMED_OUT) && likely(rctx__same_clock(child->manager, parent->manager)))
    how |= STATE_TIMED_OUT;
  return how;
}

/* The list's lock is held; walks read `children` and `next` without it. Release: a walk may be inside already when a child is
 * linked that is born ended. Partners: first_from(), sibling_after(). */
static inline void splice_in(_Atomic(rctx *) *head, rctx *node) {
  rctx *first = load_relaxed(head);
  store_relaxed(&node->next, first);
  node->pprev = head;
  if (first) first->pprev = &node->next;
  store_release(head, node); /* publishes the node; partner: first_from() */
}

static inline void splice_out(rctx *node) {
  rctx *next = load_relaxed(&node->next); /* kept in place for a walk that stands here */
  store_release(node->pprev, next);       /* passes on what published it; partners: first_from(), sibling_after() */
  if (next) next->pprev = node->pprev;
}

static inline void born(rctx *node, rctx *parent, uint32_t parent_state) {
  if (unlikely(rctx__done(parent_state)) && !(load_relaxed(&node->state) & STATE_ENDLESS)) { /* not published yet */
    uint32_t how = inherited(parent_state, parent, node) | STATE_WALKED;
    uint32_t live = 0;
    /* Partner: mark() by its own timer, which then came first. */
    while (!cas_acq_rel(&node->state, &live, live | how)) {
      if (rctx__done(live)) return;
    }
  }
}

static COLD void note_contention(rctx *parent) {
  uint8_t before = load_relaxed(&parent->contended); /* stats: a lost update only delays the stripes */
  if (before >= CONTENDED_ENOUGH) return;
  store_relaxed(&parent->contended, (uint8_t)(before + 1));
  if (before + 1 == CONTENDED_ENOUGH) stripes_make(parent);
}

static inline unsigned own_stripe(unsigned count) {
  const struct rctx__heap *heap = rctx__heap_here;
  return (heap ? heap->index : 0) & (count - 1);
}

static void link_striped(rctx *node, rctx *parent, struct rctx__stripe *stripes, unsigned count) {
  unsigned index = own_stripe(count);
  node->stripe = (uint8_t)(index + 1);
  rctx__take(&stripes[index].lock);
  born(node, parent, load_acquire(&parent->state)); /* partner: mark(); the acquire also covers the parent's cause */
  splice_in(&stripes[index].children, node);
  rctx__unlock(&stripes[index].lock);
}

/* Below a root, a striped parent, one that has ended, or one whose lock is taken. */
static __attribute__((noinline)) rctx *link_general(rctx *node, bool contended) {
  rctx *parent = node->parent;
  if (rctx__is_static(parent)) {
    born(node, parent, load_relaxed(&parent->state)); /* const */
    return node;
  }
  unsigned count;
  struct rctx__stripe *stripes = stripes_of(parent, &count);
  if (unlikely(stripes != NULL)) {
    link_striped(node, parent, stripes, count);
    return node;
  }
  bool waited;
  uint32_t s = lock_noting(parent, &waited);
  born(node, parent, s);
  splice_in(&parent->children, node);
  rctx__state_unlock(parent, s | STATE_CHILDREN);
  if (unlikely(contended || waited)) note_contention(parent);
  return node;
}

/* No calls but the last, here and in what follows: a path that all take saves no registers. */
static __attribute__((noinline)) rctx *link_beside_ext(rctx *node, struct rctx__ext *ext) {
  rctx *parent = node->parent;
  struct rctx__stripe *stripes = load_acquire(&ext->stripes); /* partner: stripes_make() */
  if (stripes == NULL) return link_general(node, false);
  unsigned index = own_stripe(ext->stripe_count);
  if (unlikely(!rctx__trylock(&stripes[index].lock))) return link_general(node, false);
  uint32_t s = load_acquire(&parent->state); /* partner: mark() */
  if (unlikely(rctx__done(s))) {
    rctx__unlock(&stripes[index].lock);
    return link_general(node, false);
  }
  node->stripe = (uint8_t)(index + 1);
  splice_in(&stripes[index].children, node);
  rctx__unlock(&stripes[index].lock);
  return node;
}

rctx *rctx__link(rctx *node) {
  rctx *parent = node->parent;
  uint32_t s = load_relaxed(&parent->state); /* a guess: the CAS decides */
  if (unlikely(s & (STATE_LOCKED | STATE_ERR | STATE_ENDLESS)))
    return parent->kind == NODE_ROOT ? node : link_general(node, s & STATE_LOCKED);
  struct rctx__ext *ext = load_acquire(&parent->ext); /* partner: rctx__ext_get() */
  if (unlikely(ext != NULL)) return link_beside_ext(node, ext);
  if (unlikely(!cas_acquire(&parent->state, &s, s | STATE_LOCKED))) /* partner: rctx__state_unlock() */
    return link_general(node, true);
  splice_in(&parent->children, node);
  rctx__state_unlock(parent, s | STATE_CHILDREN);
  return node;
}

/* ---- mark and walk ----------------------------------------------------------------------------------------------- */

struct walk {
  rctx *first, *last; /* pinned nodes to notify, through link, parents before children */
};

/* Chain a node that this walk has marked; its timer is disarmed, whose place the link takes. */
static void pin_for_notice(rctx *node, struct walk *walk) {
  if (!rctx__pin(node)) return; /* it is being freed: nobody holds it any more */
  node->link = NULL;
  if (walk->last) {
    walk->last->link = node;
  } else {
    walk->first = node;
  }
  walk->last = node;
}

enum { MARKED = 1, DESCEND = 2 };

/* End a node if it is live. MARKED: this call did. DESCEND: there are lists below that this call has entered (walkers + 1). */
static inline unsigned mark(rctx *node, uint32_t how, struct walk *walk) {
  unsigned tries = 0;
  for (;;) {
    uint32_t s =
        load_acquire(&node->state); /* partner: the CAS below; what another walk marked is visible with WALKED */
    if (unlikely(s & STATE_LOCKED)) {
      rctx__back_off(&node->state, s, &tries);
      continue;
    }
    if (unlikely(s & STATE_ENDLESS)) return 0;
    uint32_t next = s | how | (s & STATE_CHILDREN ? STATE_WALKER : STATE_WALKED);
    if (unlikely(rctx__done(s))) {
      if (s & STATE_WALKED) return 0;
      next = s + STATE_WALKER;
      if (unlikely((s & STATE_WALKERS) == STATE_WALKERS)) { /* 255 walks at once: wait for one to leave */
        rctx__back_off(&node->state, s, &tries);
        continue;
      }
    }
    if (!cas_acq_rel(&node->state, &s, next)) continue; /* partner: rctx_err() and every reader of the state */
    if (unlikely(rctx__done(s))) return DESCEND;
    rctx__timer_disarm(node);
    if (unlikely(s & STATE_NOTIFY)) pin_for_notice(node, walk);
    return MARKED | (s & STATE_CHILDREN ? DESCEND : 0U);
  }
}

/* This walk has left the node's lists. Last touch: the node may be freed by others now, unless held. */
static inline __attribute__((always_inline)) void leave_walk(rctx *node) {
  unsigned tries = 0;
  for (;;) {
    uint32_t s = load_relaxed(&node->state); /* a guess: the CAS decides */
    if (unlikely(s & STATE_LOCKED)) {
      rctx__back_off(&node->state, s, &tries);
      continue;
    }
    uint32_t next = s - STATE_WALKER;
    if (!(next & STATE_WALKERS)) next |= STATE_WALKED;
    if (cas_acq_rel(&node->state, &s, next)) return; /* partner: leave(), which may free children at once from now on */
  }
}

/* The first child in list `from` (0: the inline one) or a later one. */
static rctx *first_from(const rctx *parent, unsigned from) {
  rctx *child = from == 0 ? load_acquire(&parent->children) : NULL; /* partner: splice_in() */
  if (child) return child;
  unsigned count = 0;
  struct rctx__stripe *stripes = stripes_of(parent, &count);
  for (unsigned i = from ? from - 1 : 0; stripes && i < count; i++) {
    child = load_acquire(&stripes[i].children); /* as above */
    if (child) return child;
  }
  return NULL;
}

static rctx *enter(rctx *parent) {
  unsigned count = 0;
  struct rctx__stripe *stripes = stripes_of(parent, &count);
  for (unsigned i = 0; stripes && i < count; i++) { /* pass through: see the top of this file */
    rctx__take(&stripes[i].lock);
    rctx__unlock(&stripes[i].lock);
  }
  return first_from(parent, 0);
}

static inline rctx *sibling_after(const rctx *parent, const rctx *child) {
  rctx *next = load_acquire(&child->next); /* partner: splice_out() */
  return likely(next != NULL) ? next : first_from(parent, child->stripe + 1U);
}

/* Below deadlines that move: whether its own is no later than the one that has passed, and has passed itself: that one may have been
 * touched when it was too late, and read later now. Relaxed: the states on the way up were marked before this walk came here, and do
 * not change again. */
static COLD bool its_own_has_passed(const rctx *child) {
  const rctx *from = child->parent;
  while ((load_relaxed(&rctx__mutable(from)->state) & STATE_ORIGIN) == ORIGIN_PARENT) from = from->parent;
  int64_t own_ns = rctx__own_deadline(child);
  return (load_relaxed(&rctx__mutable(from)->state) & STATE_ORIGIN) == ORIGIN_OWN &&
         own_ns <= rctx__own_deadline(from) && own_ns <= rctx__now(from->manager);
}

/* How a walk ends a child. */
static inline uint32_t how_below(uint32_t parent_state, const rctx *parent, const rctx *child) {
  uint32_t how = inherited(parent_state, parent, child);
  /* Its own deadline is no later than the parent's, which has passed: that is what ends it, with its own cause. */
  if (unlikely(how & STATE_TIMED_OUT) && (child->own & OWN_DEADLINE) &&
      (!(child->own & CLIMB) || its_own_has_passed(child)))
    how = child->deadline_code | ORIGIN_OWN | STATE_TIMED_OUT;
  return how;
}

/* Mark everything below top, whose lists this walk has entered. Inside a read section. */
static void walk_below(rctx *top, struct walk *walk) {
  rctx *parent = top;
  uint32_t state = load_relaxed(&parent->state); /* ended: err and how never change again */
  rctx *child = enter(parent);
  for (;;) {
    if (child) {
      __builtin_prefetch((const void *)load_relaxed(&child->next), 1);
      if (mark(child, how_below(state, parent, child), walk) & DESCEND) {
        parent = child;
        state = load_relaxed(&parent->state);
        child = enter(parent);
      } else {
        child = sibling_after(parent, child);
      }
      continue;
    }
    rctx *up = parent->parent;
    leave_walk(parent);
    if (parent == top) return;
    child = sibling_after(up, parent);
    parent = up;
    state = load_relaxed(&parent->state);
  }
}

/* Wake and signal first, then call back: a slow callback delays no thread and no fd. */
static void notify(const struct walk *walk) {
  for (rctx *node = walk->first; node; node = node->link) {
    uint32_t s = load_acquire(&node->state); /* partner: rctx_fd(), which may still set STATE_FD; the others stay */
    if (s & STATE_FD)
      rctx__eventfd_signal(rctx__fd_own(&load_acquire(&node->ext)->done)); /* partner: rctx__ext_get() */
    if (s & STATE_WAIT) rctx__futex_wake_all(&node->state);
  }
  for (rctx *node = walk->first, *next; node; node = next) {
    next = node->link;
    if (load_relaxed(&node->state) & STATE_WATCH) rctx__fire(node); /* as above */
    rctx__drop(node);
  }
}

static void walk_and_notify(rctx *node, bool descend, struct walk *walk) {
  if (descend) {
    bool registered = rctx__rcu_enter();
    walk_below(node, walk);
    rctx__rcu_leave(registered);
  }
  if (walk->first) notify(walk);
}

bool rctx__finish(rctx *node, uint32_t how) {
  struct walk walk = {NULL, NULL};
  unsigned marked = mark(node, how, &walk);
  walk_and_notify(node, marked & DESCEND, &walk);
  return marked & MARKED;
}

/* Read anew, not kept: the path that everybody takes holds nothing in registers for its sake. */
#define PROBE_CANCEL(node) PROBE_3(cancel, node, load_relaxed(&(node)->state), load_relaxed(&(node)->cause))

static __attribute__((noinline)) bool cancel_general(rctx *node, uint32_t how, const struct rctx_cause *cause) {
  uint32_t s = rctx__state_lock(node);
  if (unlikely(rctx__done(s))) {
    rctx__state_unlock(node, s);
    rctx__finish(node, 0); /* help to mark what is below */
    return false;
  }
  store_relaxed(&node->cause, cause); /* published by the mark */
  bool children = s & STATE_CHILDREN;
  rctx__state_unlock(node, s | how | (children ? STATE_WALKER : STATE_WALKED)); /* the mark */
  rctx__timer_disarm(node);
  if (unlikely(s & (STATE_CHILDREN | STATE_NOTIFY))) {
    struct walk walk = {NULL, NULL};
    PROBE_CANCEL(node);
    if (s & STATE_NOTIFY) pin_for_notice(node, &walk);
    walk_and_notify(node, children, &walk);
  }
  return true;
}

/* Cause and mark under the word's lock: one read-modify-write, and no moment at which there is one without the other. */
bool rctx__cancel(rctx *node, uint32_t how, const struct rctx_cause *cause) {
  uint32_t s = load_relaxed(&node->state); /* a guess: the CAS decides */
  bool leaf = !(s & (STATE_LOCKED | STATE_ERR | STATE_CHILDREN | STATE_NOTIFY)) &&
              load_relaxed(&node->timer_state) == TIMER_NONE;                        /* never armed: it stays so */
  if (unlikely(!leaf) || unlikely(!cas_acquire(&node->state, &s, s | STATE_LOCKED))) /* partner: rctx__state_unlock() */
    return cancel_general(node, how, cause);
  store_relaxed(&node->cause, cause);               /* published by the mark */
  rctx__state_unlock(node, s | how | STATE_WALKED); /* the mark */
  return true;
}

/* ---- in slices --------------------------------------------------------------------------------------------------- */

bool rctx__sweep_begin(rctx *node, uint32_t how, const struct rctx_cause *cause, struct rctx_sweep *sweep) {
  *sweep = (struct rctx_sweep){.rctx__top = NULL};
  uint32_t s = rctx__state_lock(node);
  if (unlikely(rctx__done(s) || (s & STATE_ENDLESS))) {
    rctx__state_unlock(node, s);
    return false;
  }
  store_relaxed(&node->cause, cause); /* published by the mark */
  bool children = s & STATE_CHILDREN;
  store_relaxed(&node->contended, (uint8_t)SWEPT);                              /* published by the mark */
  rctx__state_unlock(node, s | how | (children ? STATE_WALKER : STATE_WALKED)); /* the mark */
  rctx__timer_disarm(node);
  if (children) {
    rctx__ref(node);
    *sweep = (struct rctx_sweep){.rctx__top = node, .rctx__parent = node};
  }
  struct walk walk = {NULL, NULL};
  PROBE_CANCEL(node);
  if (s & STATE_NOTIFY) pin_for_notice(node, &walk);
  if (walk.first) notify(&walk);
  return true;
}

bool rctx__is_swept(const rctx *ctx) {
  while ((load_acquire(&rctx__mutable(ctx)->state) & STATE_ORIGIN) == ORIGIN_PARENT) ctx = ctx->parent; /* as below */
  return load_relaxed(&rctx__mutable(ctx)->contended) == SWEPT; /* partner of the acquire: the mark */
}

/* A reference taken from a list holds only where nobody gives the last one up the short way (rctx__give_up()): on what is or was
 * watched, waited for or polled; these flags stay. */
static bool may_stand_on(const rctx *node) { return load_relaxed(&node->state) & STATE_NOTIFY; }

/* Mark up to budget nodes from where the sweep stands, and on to the next that it may stand on. True: there is more, and
 * sweep->rctx__child is pinned. Inside a read section. */
static bool sweep_some(struct rctx_sweep *sweep, size_t budget, struct walk *walk) {
  rctx *parent = sweep->rctx__parent;
  uint32_t state = load_relaxed(&parent->state); /* ended: err and how never change again */
  rctx *child = sweep->rctx__child ? sweep->rctx__child : enter(parent);
  for (;;) {
    if (child && budget == 0 && may_stand_on(child) && rctx__pin(child)) {
      sweep->rctx__parent = parent;
      sweep->rctx__child = child;
      return true;
    }
    if (child) {
      if (budget > 0) budget--;
      if (mark(child, how_below(state, parent, child), walk) & DESCEND) {
        parent = child;
        state = load_relaxed(&parent->state);
        child = enter(parent);
      } else {
        child = sibling_after(parent, child);
      }
    } else {
      rctx *up = parent->parent;
      leave_walk(parent);
      if (parent == sweep->rctx__top) return false;
      child = sibling_after(up, parent);
      parent = up;
      state = load_relaxed(&parent->state);
    }
  }
}

bool rctx__sweep_step(struct rctx_sweep *sweep, size_t budget) {
  struct walk walk = {NULL, NULL};
  rctx *stood_on = sweep->rctx__child, *top = sweep->rctx__top;
  if (top == NULL) return false;
  if (budget == 0) return true;
  bool registered = rctx__rcu_enter();
  bool more = sweep_some(sweep, budget, &walk);
  rctx__rcu_leave(registered);
  if (!more) *sweep = (struct rctx_sweep){.rctx__top = NULL};
  if (walk.first) notify(&walk);
  if (stood_on) rctx__drop(stood_on);
  if (!more) rctx__drop(top);
  return more;
}

/* ---- leave and drop ---------------------------------------------------------------------------------------------- */

static bool any_child(const rctx *node, struct rctx__stripe *stripes, unsigned count) {
  if (load_relaxed(&node->children)) return true; /* all list locks are held */
  for (unsigned i = 0; stripes && i < count; i++) {
    if (load_relaxed(&stripes[i].children)) return true;
  }
  return false;
}

static inline bool must_defer(uint32_t parent_state) {
  return unlikely(rctx__done(parent_state)) && !(parent_state & STATE_WALKED);
}

/* A striped parent whose handle is gone: who is last can only be told with all its lists locked, and unlinking must wait for
 * that, since the link is what keeps the parent. */
static COLD bool leave_dropped_striped(rctx *node, rctx *parent, bool *defer) {
  unsigned count = 0;
  uint32_t s = rctx__state_lock(parent);
  *defer = must_defer(s); /* what was seen before this lock is stale: a walk may have begun */
  struct rctx__stripe *stripes = stripes_of(parent, &count);
  stripes_lock_all(stripes, count);
  splice_out(node);
  bool last = false;
  if (!any_child(parent, stripes, count)) {
    s &= ~STATE_DROPPED;
    last = sub_acq_rel(&parent->refs, 1U) == 1; /* partner: every other give-up */
  }
  rctx__state_unlock(parent, s); /* first: who takes a stripe's lock next must see DROPPED as it is now */
  stripes_unlock_all(stripes, count);
  return last;
}

/* Unlink a dead node from its parent. *defer: a walk may be standing on it. Returns true if that gave the parent's last
 * reference up: the caller has to release the parent. */
static inline __attribute__((always_inline)) bool leave(rctx *node, bool *defer) {
  rctx *parent = node->parent;
  *defer = false;
  if (rctx__is_static(parent)) return false;
  unsigned count = 0;
  if (unlikely(node->stripe != 0)) {
    struct rctx__stripe *stripe = &stripes_of(parent, &count)[node->stripe - 1];
    rctx__take(&stripe->lock);
    uint32_t s = load_acquire(&parent->state); /* partner: leave_walk() */
    *defer = must_defer(s);
    if (likely(!(s & STATE_DROPPED))) {
      splice_out(node);
      rctx__unlock(&stripe->lock);
      return false;
    }
    rctx__unlock(&stripe->lock);
    return leave_dropped_striped(node, parent, defer);
  }
  bool contended;
  uint32_t s = lock_noting(parent, &contended);
  *defer = must_defer(s);
  bool striped = stripes_of(parent, &count) != NULL;
  if (unlikely(s & STATE_DROPPED) && striped) {
    rctx__state_unlock(parent, s);
    return leave_dropped_striped(node, parent, defer);
  }
  splice_out(node);
  bool last = false;
  if (load_relaxed(&parent->children) == NULL && !striped) {                     /* under its lock */
    if (unlikely(s & STATE_DROPPED)) last = sub_acq_rel(&parent->refs, 1U) == 1; /* partner: every other give-up */
    s &= ~(STATE_CHILDREN | STATE_DROPPED);
  }
  rctx__state_unlock(parent, s);
  return last;
}

/* With others who may hold references or add children: decide under the locks. */
static COLD bool give_up_locked(rctx *node) {
  unsigned count = 0;
  uint32_t s = rctx__state_lock(node);
  struct rctx__stripe *stripes = stripes_of(node, &count);
  stripes_lock_all(stripes, count);
  bool dead = false;
  /* One step decides and lowers: others raise the count (pins, rctx_ref) and lower it from above 1 without this lock. Acquire: what
   * other holders did before they let go. */
  uint32_t refs = load_acquire(&node->refs); /* partner: itself, in other threads */
  for (;;) {
    if (refs == 1 && !(s & STATE_DROPPED) && any_child(node, stripes, count)) {
      s |= STATE_DROPPED; /* the last reference is the children's now */
      break;
    }
    dead = refs == 1;
    if (cas_acq_rel(&node->refs, &refs, refs - 1)) break; /* partner: as above */
  }
  rctx__state_unlock(node, s); /* first: who takes a stripe's lock next must see DROPPED */
  stripes_unlock_all(stripes, count);
  return dead;
}

/* Nobody but the caller can reach it: no reference, no child, nothing registered that a walk would pin. The count is read
 * first: who lowered it to 1 did so with the word locked, and may still be about to unlock it (tree_give_up.pml). */
static inline bool sole(rctx *node) {
  return load_acquire(&node->refs) == 1 &&                                               /* partner: give_up_locked() */
         !(load_acquire(&node->state) & (STATE_CHILDREN | STATE_NOTIFY | STATE_LOCKED)); /* partners: all unlocks */
}

bool rctx__give_up(rctx *node) {
  if (likely(sole(node)) && likely(rctx__timer_disarm(node))) {
    store_relaxed(&node->refs, 0U); /* for a pin that a walk might try: there is none, but dead nodes have 0 */
    return true;
  }
  uint32_t refs = load_relaxed(&node->refs);                     /* a guess: the CAS decides */
  while (refs > 1) {                                             /* not the last: whoever that is looks at the rest */
    if (cas_acq_rel(&node->refs, &refs, refs - 1)) return false; /* partner: the acquire loads of refs == 1 */
  }
  if (!give_up_locked(node)) return false;
  rctx__timer_disarm(node); /* dead means disarmed: node->link lies over the timer */
  return true;
}

static void let_cause_go(rctx *node) {
  uint32_t s = load_acquire(&node->state); /* partner: mark() */
  if ((s & STATE_ORIGIN) != ORIGIN_LOCAL) return;
  const struct rctx_cause *cause = load_relaxed(&node->cause); /* written before the mark */
  if (cause->destroy) cause->destroy(cause);
}

void rctx__node_free(rctx *node) {
  rctx_manager *manager = node->manager;
  struct rctx__ext *ext = load_relaxed(&node->ext); /* nobody else has it */
  if (unlikely(ext != NULL)) {
    rctx__arena_free(node, ext);
    struct rctx__stripe *stripes = load_relaxed(&ext->stripes); /* as above */
    if (stripes) rctx__raw_free(manager, stripes, ext->stripe_count * sizeof *stripes);
    rctx__object_free(manager, CLASS_BLOCK, ext);
  }
  rctx__values_free(node);
  rctx__object_free(manager, CLASS_NODE, node);
}

/* Unlink a dead node and give its memory back. True: its parent has to be released, too. */
static inline bool remove_node(rctx *node, bool plain) {
  bool defer;
  rctx_manager *manager = node->manager;
  bool parent_too = leave(node, &defer);
  node->kind = NODE_DEAD;
  if (unlikely(defer)) {
    rctx__defer(node);
  } else if (plain) {
    rctx__object_free(manager, CLASS_NODE, node);
  } else {
    rctx__node_free(node);
  }
  return parent_too;
}

/* Nothing of its own to let go but memory: the usual case. Nobody else has the node. */
static inline bool plain(rctx *node) {
  return !(node->own & OWN_DESTROYERS) && load_relaxed(&node->ext) == NULL &&
         ((load_relaxed(&node->state) & STATE_ORIGIN) != ORIGIN_LOCAL || load_relaxed(&node->cause)->destroy == NULL);
}

/* A visit may look into what its release frees: a merge, a cause. Values say themselves that they have a destructor. */
static bool is_looked_into(rctx *node) {
  bool own_cause = (load_relaxed(&node->state) & STATE_ORIGIN) == ORIGIN_LOCAL; /* nobody else has it */
  return (node->own & OWN_MERGE) || (own_cause && load_relaxed(&node->cause)->destroy) ||
         (node->own & (OWN_DEADLINE | OWN_DESTROYERS)) == (OWN_DEADLINE | OWN_DESTROYERS);
}

/* What its destructors free is not to be looked at any more: who visits the list of its parent passes it over from here on. */
static void hide(rctx *node) {
  rctx *parent = node->parent;
  unsigned count = 0;
  if (rctx__is_static(parent)) return; /* is in no list */
  if (node->stripe != 0) {
    struct rctx__stripe *stripe = &stripes_of(parent, &count)[node->stripe - 1];
    rctx__take(&stripe->lock);
    node->kind = NODE_DYING;
    rctx__unlock(&stripe->lock);
  } else {
    uint32_t s = rctx__state_lock(parent);
    node->kind = NODE_DYING;
    rctx__state_unlock(parent, s);
  }
}

static COLD void release_slow(rctx *node) {
  rctx *todo = NULL; /* contexts held through values_from whose last reference we gave up, through link */
  for (;;) {
    rctx__timer_disarm(node); /* a parent whose last child has left */
    if (is_looked_into(node)) hide(node);
    rctx__values_bury(node, &todo);
    let_cause_go(node);
    struct rctx__ext *ext = load_relaxed(&node->ext); /* as rctx__node_free() */
    if (ext && ext->record) rctx__leak_gone(ext);
    if (load_relaxed(&node->state) & STATE_FD)
      rctx__close(load_acquire(&node->ext)->done.fd); /* as rctx__node_free() */
    rctx *parent = node->parent;
    if (remove_node(node, false)) {
      node = parent;
    } else if (todo) {
      node = todo;
      todo = node->link;
    } else {
      return;
    }
  }
}

/* What the usual paths below leave to it. */
static __attribute__((noinline)) void release_general(rctx *node) {
  if (likely(plain(node))) {
    rctx *parent = node->parent;
    if (unlikely(remove_node(node, !(node->own & OWN_BLOCK)))) release_slow(parent);
  } else {
    release_slow(node);
  }
}

/* leave() below a root, or where the parent stays, no walk is about, and there is one list. False: nothing was done. */
static inline bool leave_at_once(rctx *node) {
  rctx *parent = node->parent;
  if (unlikely(rctx__is_static(parent))) return true; /* in no list */
  uint32_t s = load_relaxed(&parent->state);          /* a guess: the CAS decides */
  if (unlikely(s & (STATE_LOCKED | STATE_DROPPED)) || must_defer(s)) return false;
  if (unlikely(load_relaxed(&parent->ext) != NULL)) return false; /* perhaps stripes; those come under the lock */
  if (unlikely(!cas_acquire(&parent->state, &s, s | STATE_LOCKED))) return false; /* partner: rctx__state_unlock() */
  bool stripes = load_relaxed(&parent->ext) != NULL;                              /* written under this lock */
  if (likely(!stripes)) {
    splice_out(node);
    if (load_relaxed(&parent->children) == NULL) s &= ~STATE_CHILDREN; /* under its lock */
  }
  rctx__state_unlock(parent, s);
  return !stripes;
}

/* The same where there are several lists. */
static inline bool leave_stripe_at_once(rctx *node) {
  rctx *parent = node->parent;
  struct rctx__ext *ext = load_acquire(&parent->ext); /* partners: rctx__ext_get(), stripes_make() */
  struct rctx__stripe *stripe = &load_acquire(&ext->stripes)[node->stripe - 1]; /* as above */
  if (unlikely(!rctx__trylock(&stripe->lock))) return false;
  uint32_t s = load_acquire(&parent->state); /* partner: leave_walk() */
  bool usual = !(s & STATE_DROPPED) && !must_defer(s);
  if (likely(usual)) splice_out(node);
  rctx__unlock(&stripe->lock);
  return usual;
}

void rctx__release(rctx *node) {
  if (unlikely(!plain(node)) || unlikely(node->own & OWN_BLOCK) ||
      unlikely(!(node->stripe ? leave_stripe_at_once(node) : leave_at_once(node)))) {
    release_general(node);
    return;
  }
  node->kind = NODE_DEAD;
  rctx__object_free(node->manager, CLASS_NODE, node);
}

static __attribute__((noinline)) void drop_general(rctx *node) {
  if (rctx__give_up(node)) rctx__release(node);
}

static __attribute__((noinline)) void drop_armed(rctx *node) {
  if (unlikely(!rctx__timer_disarm(node))) { /* it has fired: somebody may hold it */
    drop_general(node);
    return;
  }
  store_relaxed(&node->refs, 0U); /* as in rctx__give_up() */
  rctx__release(node);
}

void rctx__drop(rctx *node) {
  if (unlikely(!sole(node))) {
    drop_general(node);
  } else if (load_acquire(&node->timer_state) != TIMER_NONE) { /* partner: rctx__timer_disarm_slow() */
    drop_armed(node);
  } else {
    store_relaxed(&node->refs, 0U); /* as in rctx__give_up() */
    rctx__release(node);
  }
}

/* ---- visiting ---------------------------------------------------------------------------------------------------- */

size_t rctx__registrations_locked(const rctx *node) {
  size_t n = 0;
  const struct rctx_after *last = node->watch;
  for (const struct rctx_after *at = last; at; at = at->rctx__next == last ? NULL : at->rctx__next) n++;
  return n;
}

/* The next child of parent after `child` (NULL: the first), moving from list to list: the inline list is under the state lock,
 * which is held throughout; a stripe is locked while its children are looked at. */
static rctx *next_counted(const rctx *parent, const rctx *child) {
  unsigned count = 0;
  struct rctx__stripe *stripes = stripes_of(parent, &count);
  rctx *next = child ? load_relaxed(&child->next) : load_relaxed(&parent->children);
  unsigned list = child ? child->stripe : 0;
  while (next == NULL) {
    if (list > 0) rctx__unlock(&stripes[list - 1].lock);
    if (stripes == NULL || list == count) return NULL;
    rctx__take(&stripes[list].lock);
    next = load_relaxed(&stripes[list].children);
    list++;
  }
  return next;
}

/* No more children after this one. */
static rctx *stop_counting(const rctx *parent, const rctx *child) {
  unsigned count = 0;
  if (child->stripe > 0) rctx__unlock(&stripes_of(parent, &count)[child->stripe - 1].lock);
  return NULL;
}

/* Lock a node and ask the visitor. False: it is unlocked again. */
static bool enter_counted(rctx *node, struct rctx__visitor *visitor) {
  uint32_t s = rctx__state_lock(node);
  if (visitor->enter(node, s, visitor)) return true;
  rctx__state_unlock(node, s);
  return false;
}

void rctx__visit_below(rctx *top, struct rctx__visitor *visitor) {
  rctx *parent = top;
  if (!enter_counted(parent, visitor)) return;
  rctx *child = next_counted(parent, NULL);
  for (;;) {
    if (child == NULL) {
      if (visitor->leave) visitor->leave(parent, visitor);
      uint32_t s = load_relaxed(&parent->state); /* locked by us: it does not change */
      rctx__state_unlock(parent, s & ~STATE_LOCKED);
      if (parent == top) return;
      child = parent;
      parent = parent->parent;
    } else if (visitor->child(child, visitor) && enter_counted(child, visitor)) {
      parent = child;
      child = next_counted(parent, NULL);
      continue;
    }
    child = visitor->enough ? stop_counting(parent, child) : next_counted(parent, child);
  }
}
