/*
 * drain.c - graceful shutdown.
 *
 * `work` holds a hidden value whose destructor runs when the context is gone: when its handle has been dropped and nothing below it
 * exists any more. While the drain is OPEN the drain holds that handle; the first raise drops it. So the tree's own bookkeeping
 * tells when the work is over, and requests pay nothing for it.
 *
 *   OPEN --raise--> `accepting` ended -> level stored -> requests under way waited for -> handle dropped .. gone -> `drained` ended
 *                                                    \-> from DEADLINE on, by every raise: `work` ended
 *
 * A request may be deriving while the first raise comes. It counts itself in one of a few words before it reads the level;
 * the raiser stores the level before it reads the words (both seq_cst): one of them sees the other. The raiser waits for the
 * words to be 0 before it drops the handle, so `work` exists as long as somebody may derive from it.
 *
 * After that, drain->work is valid until the destructor has cleared it under the lock; whoever wants the context takes a
 * reference there, if there is still one. Lifetime of the drain: its handle, and one for `work` until that is gone.
 * Lock: drain->lock, nothing else is taken under it. Model: tests/model/drain.pml.
 */
#include "manager.h"
#include "probes.h"
#include "tree.h"
#include "value.h"

#include <rctx/after.h>
#include <rctx/drain.h>
#include <rctx/wait.h>

enum { STRIPES = 16 };

struct entering {
  _Atomic uint32_t count; /* atomic: rctx_drain_request() calls under way */
  char pad[CACHE_LINE - sizeof(uint32_t)];
};

/* One rctx_drain_raise_at(): in the arena of its own context, which has that deadline. */
struct plan {
  struct rctx_after after;     /* inline, on ctx */
  rctx *ctx;                   /* const */
  struct rctx_drain *drain;    /* const */
  enum rctx_drain_level level; /* const */
  struct plan *next;           /* drain's lock */
};

struct rctx_drain {
  struct entering entering[STRIPES];
  rctx__lock lock;
  _Atomic uint32_t level; /* written under lock; seq_cst against entering */
  _Atomic uint32_t refs;  /* atomic */
  rctx *work;             /* lock; NULL once it is gone */
  rctx *accepting;        /* const */
  rctx *drained;          /* const */
  rctx_manager *manager;  /* const: the parent's */
  struct plan *plans;     /* lock */
};

static void drain_unref(struct rctx_drain *drain) {
  if (sub_acq_rel(&drain->refs, 1U) != 1) return; /* partner: itself */
  rctx *drained = drain->drained;                 /* keeps the manager while the rest goes */
  rctx__raw_free(drain->manager, drain, sizeof *drain);
  rctx_end(drained);
}

/* The destructor of the value in `work`: nothing below it exists any more. */
static void work_gone(void *arg) {
  struct rctx_drain *drain = arg;
  rctx__take(&drain->lock);
  drain->work = NULL;
  rctx__unlock(&drain->lock);
  rctx_cancel_with(drain->drained, -ECANCELED, RCTX_ORIGIN_SHUTDOWN, "drained");
  drain_unref(drain);
}

static rctx_drain *mutable_drain(const rctx_drain *drain) {
  union {
    const rctx_drain *in;
    rctx_drain *out;
  } cast = {drain};
  return cast.out;
}

/* `work` with a reference; NULL: it is gone. */
static rctx *work_ref(struct rctx_drain *drain) {
  rctx__take(&drain->lock);
  rctx *work = drain->work && rctx__pin(drain->work) ? drain->work : NULL;
  rctx__unlock(&drain->lock);
  return work;
}

/* ---- making and requesting --------------------------------------------------------------------------------------- */

int rctx_drain_create(const rctx *parent, const char *name, rctx_drain **drain) {
  if (misused(parent == NULL, "parent is NULL (expected a context; a root is rctx_background())") ||
      misused(drain == NULL, "drain is NULL (expected where to write it)")) {
    return -EINVAL;
  }
  struct rctx_drain *made = rctx__raw_alloc(parent->manager, sizeof *made, CACHE_LINE);
  if (made == NULL) return -ENOMEM;
  *made = (struct rctx_drain){.manager = parent->manager};
  atomic_init(&made->refs, 2); /* the handle and `work` */
  made->accepting = rctx_with_cancel(parent);
  made->drained = rctx_with_cancel(&parent->manager->root);
  struct rctx_value hidden = {&rctx__drain_key, made, work_gone}; /* called once, also when nothing could be derived */
  made->work = rctx_derive(parent, &(struct rctx_spec){.name = name, .values = &hidden, .nvalues = 1});
  if (rctx__is_static(made->accepting) || rctx__is_static(made->drained) || rctx__is_static(made->work)) {
    rctx_end(made->work);
    rctx_end(made->accepting);
    drain_unref(made);
    return -ENOMEM;
  }
  /* Others take references through the drain: its last reference is never given up the short way (rctx__give_up()). */
  uint32_t state = rctx__state_lock(made->work);
  rctx__state_unlock(made->work, state | STATE_WATCH);
  *drain = made;
  return 0;
}

rctx *rctx_drain_request(rctx_drain *drain, const struct rctx_spec *spec) {
  static const struct rctx_spec plain;
  if (spec == NULL) spec = &plain;
  if (misused(drain == NULL, "drain is NULL")) return rctx__refuse_spec(-EINVAL, spec);
  const struct rctx__heap *heap = rctx__heap_here;
  _Atomic uint32_t *entering = &drain->entering[(heap ? heap->index : 0) % STRIPES].count;
  add_seq_cst(entering, 1U);                                  /* partner: let_work_go() */
  bool open = load_seq_cst(&drain->level) == RCTX_DRAIN_OPEN; /* as above */
  rctx *request = open ? rctx_derive(drain->work, spec) : NULL;
  sub_acq_rel(entering, 1U); /* partner: let_work_go() */
  if (open) return request;
  rctx__refuse_spec(-ECANCELED, spec);
  return rctx_with_cancel(drain->accepting); /* has ended: before the level was raised */
}

const rctx *rctx_drain_accepting(const rctx_drain *drain) {
  if (misused(drain == NULL, "drain is NULL")) return rctx__error_context(-EINVAL);
  return drain->accepting;
}

const rctx *rctx_drain_drained(const rctx_drain *drain) {
  if (misused(drain == NULL, "drain is NULL")) return rctx__error_context(-EINVAL);
  return drain->drained;
}

enum rctx_drain_level rctx_drain_level(const rctx_drain *drain) {
  if (misused(drain == NULL, "drain is NULL")) return RCTX_DRAIN_CANCEL;
  return (enum rctx_drain_level)load_acquire(&drain->level); /* partner: raise_level() */
}

/* ---- raising ----------------------------------------------------------------------------------------------------- */

/* Returns the level before. */
static uint32_t raise_level(struct rctx_drain *drain, uint32_t level) {
  rctx__take(&drain->lock);
  uint32_t before = load_relaxed(&drain->level);                  /* written under this lock */
  if (before < level) add_seq_cst(&drain->level, level - before); /* partner: rctx_drain_request() */
  rctx__unlock(&drain->lock);
  return before;
}

/* The first raise: wait for requests that are being derived, then let go of `work`. */
static void let_work_go(struct rctx_drain *drain) {
  for (unsigned i = 0; i < STRIPES; i++) {
    uint32_t count;
    unsigned tries = 0;
    while ((count = load_seq_cst(&drain->entering[i].count)) != 0) /* partner: rctx_drain_request() */
      rctx__back_off(&drain->entering[i].count, count, &tries);
  }
  rctx__drop(drain->work); /* the handle: until now it was there for certain */
}

static void end_work(struct rctx_drain *drain, enum rctx_drain_level level) {
  rctx *work = work_ref(drain);
  if (work == NULL) return;
  if (level == RCTX_DRAIN_DEADLINE) {
    rctx_cancel_with(work, -ETIMEDOUT, RCTX_ORIGIN_SHUTDOWN, "shutdown deadline");
  } else {
    rctx_cancel_with(work, -ECANCELED, RCTX_ORIGIN_SHUTDOWN, "shutdown");
  }
  rctx__drop(work);
}

bool rctx_drain_raise(rctx_drain *drain, enum rctx_drain_level level) {
  if (misused(drain == NULL, "drain is NULL")) return false;
  if (level < RCTX_DRAIN_STOP || level > RCTX_DRAIN_CANCEL) return false;
  add_relaxed(&drain->refs, 1U); /* the caller has one: nothing to order. The work may end in here */
  rctx_cancel_with(drain->accepting, -ECANCELED, RCTX_ORIGIN_SHUTDOWN,
                   "shutting down"); /* who is refused finds it ended */
  uint32_t before = raise_level(drain, level);
  if (before < (uint32_t)level) PROBE_2(drain_level, drain, (int)level);
  uint32_t reached = before > (uint32_t)level ? before : (uint32_t)level;
  if (reached >= RCTX_DRAIN_DEADLINE) end_work(drain, (enum rctx_drain_level)reached); /* who was second helps */
  if (before == RCTX_DRAIN_OPEN) let_work_go(drain);
  drain_unref(drain);
  return before < (uint32_t)level;
}

static void plan_due(const rctx *ctx, void *arg) {
  struct plan *plan = arg;
  if (rctx_err(ctx) == -ETIMEDOUT) rctx_drain_raise(plan->drain, plan->level); /* else: the drain is being destroyed */
}

int rctx_drain_raise_at(rctx_drain *drain, enum rctx_drain_level level, int64_t at_ns) {
  if (misused(drain == NULL, "drain is NULL")) return -EINVAL;
  if (level < RCTX_DRAIN_STOP || level > RCTX_DRAIN_CANCEL) return -EINVAL;
  if (at_ns <= rctx__now(drain->manager)) {
    rctx_drain_raise(drain, level);
    return 0;
  }
  rctx *ctx = rctx_with_deadline(&drain->manager->root, at_ns);
  struct plan *plan = rctx__is_static(ctx) ? NULL : rctx_alloc(ctx, sizeof *plan);
  if (plan == NULL) {
    int err = rctx__is_static(ctx) ? rctx_err(ctx) : -ENOMEM;
    rctx_end(ctx);
    return err;
  }
  *plan = (struct plan){.ctx = ctx, .drain = drain, .level = level};
  rctx__take(&drain->lock);
  plan->next = drain->plans;
  drain->plans = plan;
  rctx__unlock(&drain->lock);
  rctx_after_inline(ctx, &plan->after, RCTX_ON_ENDED_RUN, plan_due, plan);
  return 0;
}

/* ---- looking ----------------------------------------------------------------------------------------------------- */

struct look {
  struct rctx__visitor visitor; /* first */
  struct rctx_drain_left *left;
  const rctx *work;
  size_t detached_above; /* contexts on the way down to here that are detached */
};

static struct look *look_of(struct rctx__visitor *self) { return (struct look *)(void *)self; }

static bool enter_any(rctx *node, uint32_t state, struct rctx__visitor *self) {
  (void)state;
  if (node->kind == NODE_DETACHED) look_of(self)->detached_above++;
  return true;
}

static void leave_any(rctx *node, struct rctx__visitor *self) {
  if (node->kind == NODE_DETACHED) look_of(self)->detached_above--;
}

static bool count_one(rctx *child, struct rctx__visitor *self) {
  struct look *look = look_of(self);
  const char *name = rctx__value_own(child, &rctx__name_key);
  look->left->contexts++;
  if (child->parent == look->work) look->left->requests++;
  if (!rctx__done(load_relaxed(&child->state))) look->left->live++; /* a count of a moment */
  if (look->detached_above > 0 || child->kind == NODE_DETACHED) look->left->detached++;
  if (name && look->left->example == NULL) look->left->example = name;
  return true;
}

void rctx_drain_look(const rctx_drain *drain, struct rctx_drain_left *left) {
  if (misused(left == NULL, "left is NULL (expected where to write it)")) return;
  *left = (struct rctx_drain_left){.level = RCTX_DRAIN_CANCEL};
  if (misused(drain == NULL, "drain is NULL")) return;
  struct rctx_stats stats = {0};
  rctx_stats(drain->manager, &stats);
  *left = (struct rctx_drain_left){.level = rctx_drain_level(drain), .tasks = stats.tasks, .orphans = stats.orphans};
  rctx *work = work_ref(mutable_drain(drain));
  if (work == NULL) return;
  struct look look = {{enter_any, count_one, leave_any, false}, left, work, 0};
  rctx__visit_below(work, &look.visitor);
  rctx__drop(work);
}

/* ---- the whole --------------------------------------------------------------------------------------------------- */

int rctx_drain_run(rctx_drain *drain, const struct rctx_drain_plan *plan, struct rctx_drain_left *left) {
  if (misused(drain == NULL, "drain is NULL") || misused(plan == NULL, "plan is NULL")) return -EINVAL;
  if (plan->grace_ns < 0 || plan->give_up_ns < 0) return -EINVAL;
  int64_t start_ns = rctx__now(drain->manager);
  int64_t grace_end_ns = rctx__add_ns(start_ns, plan->grace_ns);
  int64_t give_up_ns = rctx__add_ns(start_ns, plan->give_up_ns);
  if (give_up_ns < grace_end_ns) give_up_ns = grace_end_ns;
  rctx_drain_raise(drain, RCTX_DRAIN_STOP);
  if (plan->grace_ns == 0 || rctx_wait(drain->drained, grace_end_ns) == 0) {
    rctx_drain_raise(drain, RCTX_DRAIN_DEADLINE);
    rctx_wait(drain->drained, give_up_ns);
  }
  if (left) rctx_drain_look(drain, left);
  return rctx_err(drain->drained) ? 0 : -ETIMEDOUT;
}

void rctx_drain_destroy(rctx_drain *drain) {
  if (drain == NULL) return;
  rctx_drain_raise(drain, RCTX_DRAIN_CANCEL);
  for (struct plan *plan = drain->plans, *next; plan; plan = next) { /* nobody else uses the drain any more */
    next = plan->next;
    rctx_after_stop_sync(&plan->after);
    rctx_end(plan->ctx);
  }
  drain->plans = NULL;
  rctx_end(drain->accepting);
  drain_unref(drain);
}
