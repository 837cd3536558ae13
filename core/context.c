/*
 * context.c - the public calls that make, end and look at contexts. They check their arguments, then call down.
 */
#define _GNU_SOURCE
#include "manager.h"
#include "value.h"

#include <string.h>

#define NEED_PARENT "parent is NULL (expected a context; a root is rctx_background())"
#define NEED_CTX "ctx is NULL (expected a context)"
#define ENDED_TWICE "ctx has been ended before (what you derive, you end once)"
#define IS_DEAD "ctx has been ended and is gone (what you derive, you end once)"

/* In checked builds, a handle that was given back is recognised while its memory rests. */
static inline bool gone(const rctx *ctx) { return RCTX__CHECKED && ctx->kind == NODE_DEAD; }

/* ---- contexts that are born ended -------------------------------------------------------------------------------- */

static const struct rctx_cause no_memory = {-ENOMEM, RCTX_ORIGIN_MEMORY, "no memory for a context", NULL, 0, NULL,
                                            NULL};
static const struct rctx_cause no_thread = {-EAGAIN, RCTX_ORIGIN_MEMORY, "a thread could not be started", NULL, 0, NULL,
                                            NULL};
static const struct rctx_cause bad_argument = {
    -EINVAL, RCTX_ORIGIN_MISUSE, "derived with an invalid argument", NULL, 0, NULL, NULL};
static const struct rctx_cause deadline_cause = {
    -ETIMEDOUT, RCTX_ORIGIN_DEADLINE, "context deadline exceeded", NULL, 0, NULL, NULL};
static const struct rctx_cause plain_cause = {-ECANCELED, RCTX_ORIGIN_CANCEL, "context canceled", NULL, 0, NULL, NULL};
static const struct rctx_cause scope_cause = {-ECANCELED, RCTX_ORIGIN_END, "scope of the context left", NULL, 0, NULL,
                                              NULL};

#define ERROR_CONTEXT(err, why)                                                                                        \
  {                                                                                                                    \
    .state = (err) | ORIGIN_LOCAL | STATE_WALKED, .refs = 1, .manager = &rctx__default_manager,                        \
    .deadline_ns = INT64_MAX, .kind = NODE_STATIC_ERROR, .cause = &(why)                                               \
  }
static rctx error_contexts[] = {ERROR_CONTEXT(ENOMEM, no_memory), ERROR_CONTEXT(EAGAIN, no_thread),
                                ERROR_CONTEXT(EINVAL, bad_argument)};

/* The static context that has ended with this error: -ENOMEM, -EAGAIN or -EINVAL. Ending it is harmless. */
rctx *rctx__error_context(int err) { return &error_contexts[err == -ENOMEM ? 0 : err == -EINVAL ? 2 : 1]; }

/* The same, after letting go of values that were transferred. */
static rctx *refuse_values(int err, const struct rctx_value *values, size_t nvalues) {
  for (size_t i = 0; values && i < nvalues; i++) {
    if (values[i].destroy) values[i].destroy(values[i].value);
  }
  return rctx__error_context(err);
}

static void refuse_cause(const struct rctx_cause *cause) {
  if (cause && cause->destroy) cause->destroy(cause);
}

/* ---- making a node ----------------------------------------------------------------------------------------------- */

/* A node with all it inherits, not linked. NULL: no memory. */
static inline __attribute__((always_inline)) rctx *node_new(rctx *parent, const rctx *values_from,
                                                            rctx_manager *manager, uint8_t kind) {
  rctx *node = rctx__object_alloc(manager, CLASS_NODE);
  if (unlikely(node == NULL)) return NULL;
  uint8_t deadline = parent->own & (HAS_DEADLINE | CLIMB);
  int64_t deadline_ns = load_relaxed(&parent->deadline_ns); /* const as a rule */
  if (unlikely(deadline && !rctx__same_clock(parent->manager, manager))) {
    deadline = 0;
    deadline_ns = INT64_MAX;
  }
  /* Plain stores: nobody else has the node yet. */
  atomic_init(&node->state, 0);
  atomic_init(&node->refs, 1);
  node->parent = parent;
  atomic_init(&node->next, NULL);
  node->pprev = NULL;
  atomic_init(&node->children, NULL);
  node->manager = manager;
  atomic_init(&node->deadline_ns, deadline_ns);
  node->kind = kind;
  node->own = deadline;
  node->stripe = 0;
  node->timer_shard = 0;
  atomic_init(&node->timer_state, TIMER_NONE);
  atomic_init(&node->contended, 0);
  node->deadline_code = ETIMEDOUT;
  atomic_init(&node->cause, NULL);
  node->values = values_from->values;
  node->summary = values_from->summary;
  node->watch = NULL;
  node->link = NULL;
  atomic_init(&node->ext, NULL);
  return node;
}

/* Undo node_new() before the node was linked: nothing it was given is destroyed. */
static void node_abandon(rctx *node) {
  rctx__values_free(node);
  rctx__object_free(node->manager, CLASS_NODE, node);
}

static inline rctx *publish(rctx *node) { return rctx__link(node); }

rctx *rctx_with_cancel(const rctx *parent) {
  if (misused(parent == NULL, NEED_PARENT)) return rctx__error_context(-EINVAL);
  if (misused(gone(parent), IS_DEAD)) return rctx__error_context(-EINVAL);
  rctx *node = node_new(rctx__mutable(parent), parent, parent->manager, NODE_CANCEL);
  if (unlikely(node == NULL)) return rctx__error_context(-ENOMEM);
  return publish(node);
}

rctx *rctx_without_cancel(const rctx *parent) {
  if (misused(parent == NULL, NEED_PARENT)) return rctx__error_context(-EINVAL);
  rctx *node = node_new(rctx__mutable(parent), parent, parent->manager, NODE_DETACHED);
  if (unlikely(node == NULL)) return rctx__error_context(-ENOMEM);
  atomic_init(&node->state, STATE_ENDLESS);
  node->own = 0;
  atomic_init(&node->deadline_ns, INT64_MAX);
  return publish(node);
}

/* ---- deadlines --------------------------------------------------------------------------------------------------- */

static uint16_t code_of(const struct rctx_cause *cause, uint16_t otherwise) {
  return cause->code >= -4095 && cause->code <= -1 ? (uint16_t)-cause->code : otherwise;
}

static void destroy_cause(void *cause) {
  const struct rctx_cause *self = cause;
  self->destroy(self);
}

/* It has a deadline that will not move: one comparison tells which of two is earlier. */
static inline bool inherits_for_good(const rctx *node) { return (node->own & (HAS_DEADLINE | CLIMB)) == HAS_DEADLINE; }

/* Give the node its own deadline unless the parent's is earlier. Returns true if the node keeps `cause`. */
static inline bool set_deadline(rctx *node, int64_t deadline_ns) {
  if (inherits_for_good(node) && load_relaxed(&node->deadline_ns) < deadline_ns) return false; /* nobody else has it */
  node->own |= OWN_DEADLINE | HAS_DEADLINE;
  atomic_init(&node->deadline_ns, deadline_ns);
  return true;
}

static int keep_cause(rctx *node, const struct rctx_cause *cause) {
  union {
    const struct rctx_cause *in;
    void *out;
  } cast = {cause};
  struct rctx_value entry = {&rctx__deadline_cause_key, cast.out, cause->destroy ? destroy_cause : NULL};
  int rc = rctx__values_add(node, &entry, 1, true);
  if (rc == 0) node->deadline_code = code_of(cause, ETIMEDOUT);
  return rc;
}

/* The parent's deadline is the same and its timer (or an ancestor's) ends this node, too. One that may be moved needs its own. */
static inline bool parent_ends_it(const rctx *node) {
  const rctx *parent = node->parent;
  return inherits_for_good(parent) && !(node->own & OWN_MOVABLE) &&
         load_relaxed(&parent->deadline_ns) <= load_relaxed(&node->deadline_ns) && /* const */
         rctx__same_clock(parent->manager, node->manager);
}

static void expire(rctx *node) { rctx__finish(node, node->deadline_code | ORIGIN_OWN | STATE_TIMED_OUT); }

/* Link a node that has a deadline of its own. now_ns: what time it is. Consumes the node: on an error what it was given is
 * destroyed and an ended context returned. */
static rctx *publish_with_timer(rctx *node, int64_t now_ns) {
  int armed = ARM_DONE;
  int64_t deadline_ns = load_relaxed(&node->deadline_ns); /* nobody else has it yet */
  bool endless = deadline_ns == INT64_MAX && !(node->own & OWN_MOVABLE);
  bool due = !endless && deadline_ns <= now_ns;
  if (!due && !endless && !parent_ends_it(node) &&
      !rctx__done(load_relaxed(&node->parent->state))) { /* a hint: linking decides */
    armed = rctx__timer_arm(node);
  }
  if (unlikely(armed < 0)) {
    struct rctx *held = NULL;
    rctx__values_bury(node, &held);
    if (held) rctx__release(held);
    node_abandon(node);
    return rctx__error_context(armed);
  }
  publish(node);
  if (unlikely(due || armed == ARM_DUE)) expire(node);
  if (unlikely(rctx__done(load_relaxed(&node->state)))) rctx__timer_disarm(node); /* born ended, or ended meanwhile */
  return node;
}

static inline rctx *with_deadline(const rctx *parent, int64_t now_ns, int64_t deadline_ns,
                                  const struct rctx_cause *cause) {
  rctx *node = node_new(rctx__mutable(parent), parent, parent->manager, NODE_CANCEL);
  if (unlikely(node == NULL)) goto no_memory;
  if (!set_deadline(node, deadline_ns)) {
    refuse_cause(cause);
    return publish(node);
  }
  if (unlikely(cause != NULL) && keep_cause(node, cause) != 0) {
    node_abandon(node);
    goto no_memory;
  }
  return publish_with_timer(node, now_ns);

no_memory:
  refuse_cause(cause);
  return rctx__error_context(-ENOMEM);
}

static rctx *refuse_deadline(const struct rctx_cause *cause) {
  refuse_cause(cause);
  return rctx__error_context(-EINVAL);
}

rctx *rctx_with_deadline(const rctx *parent, int64_t deadline_ns) {
  if (misused(parent == NULL, NEED_PARENT)) return rctx__error_context(-EINVAL);
  return with_deadline(parent, rctx__now(parent->manager), deadline_ns, NULL);
}

rctx *rctx_with_deadline_cause(const rctx *parent, int64_t deadline_ns, const struct rctx_cause *cause) {
  if (misused(parent == NULL, NEED_PARENT)) return refuse_deadline(cause);
  return with_deadline(parent, rctx__now(parent->manager), deadline_ns, cause);
}

rctx *rctx_with_timeout(const rctx *parent, int64_t timeout_ns) {
  if (misused(parent == NULL, NEED_PARENT)) return rctx__error_context(-EINVAL);
  int64_t now_ns = rctx__now(parent->manager);
  return with_deadline(parent, now_ns, rctx__add_ns(now_ns, timeout_ns), NULL);
}

rctx *rctx_with_timeout_cause(const rctx *parent, int64_t timeout_ns, const struct rctx_cause *cause) {
  if (misused(parent == NULL, NEED_PARENT)) return refuse_deadline(cause);
  int64_t now_ns = rctx__now(parent->manager);
  return with_deadline(parent, now_ns, rctx__add_ns(now_ns, timeout_ns), cause);
}

rctx *rctx_with_timeout_at(const rctx *parent, int64_t now_ns, int64_t timeout_ns) {
  if (misused(parent == NULL, NEED_PARENT)) return rctx__error_context(-EINVAL);
  return with_deadline(parent, now_ns, rctx__add_ns(now_ns, timeout_ns), NULL);
}

rctx *rctx_with_timeout_at_cause(const rctx *parent, int64_t now_ns, int64_t timeout_ns,
                                 const struct rctx_cause *cause) {
  if (misused(parent == NULL, NEED_PARENT)) return refuse_deadline(cause);
  return with_deadline(parent, now_ns, rctx__add_ns(now_ns, timeout_ns), cause);
}

/* ---- deadlines that move ----------------------------------------------------------------------------------------- */

int rctx_move_deadline(rctx *ctx, int64_t deadline_ns) {
  if (misused(ctx == NULL, NEED_CTX) || misused(gone(ctx), IS_DEAD)) return -EINVAL;
  if (!(ctx->own & OWN_MOVABLE)) return rctx__is_static(ctx) && rctx_err(ctx) ? rctx_err(ctx) : -EINVAL;
  uint32_t s = load_acquire(&ctx->state); /* partner: mark() */
  if (rctx__done(s)) {
    if (!(s & STATE_WALKED)) rctx__finish(ctx, 0); /* help to mark what is below */
    return rctx_err(ctx);
  }
  bool moved = rctx__timer_move(ctx, deadline_ns); /* also into the past: what it then ends by is the new time */
  if (moved && deadline_ns > rctx__now(ctx->manager)) return rctx_err(ctx);
  rctx__ref(ctx); /* a callback may end the handle */
  expire(ctx);
  int err = rctx_err(ctx);
  rctx__drop(ctx);
  return err;
}

static const struct rctx_cause idle_cause = {-ETIMEDOUT, RCTX_ORIGIN_DEADLINE, "idle: no progress", NULL, 0, NULL,
                                             NULL};

rctx *rctx_with_idle(const rctx *parent, int64_t idle_ns) {
  if (misused(parent == NULL, NEED_PARENT)) return rctx__error_context(-EINVAL);
  rctx *ctx = rctx_derive(
      parent, &(struct rctx_spec){.timeout_ns = RCTX_BUDGET(idle_ns), .movable = true, .deadline_cause = &idle_cause});
  struct rctx__ext *ext = rctx__is_static(ctx) ? NULL : rctx__ext_get(ctx);
  if (ext == NULL) {
    int err = rctx__is_static(ctx) ? rctx_err(ctx) : -ENOMEM;
    rctx_end(ctx);
    return rctx__error_context(err);
  }
  store_relaxed(&ext->touched_until_ns, INT64_MIN);
  store_release(&ext->idle_ns, idle_ns); /* partner: rctx__own_deadline() */
  return ctx;
}

void rctx_touch_at(rctx *ctx, int64_t now_ns) {
  if (misused(ctx == NULL, NEED_CTX) || misused(gone(ctx), IS_DEAD)) return;
  struct rctx__ext *ext = load_relaxed(&ctx->ext); /* there since rctx_with_idle() */
  int64_t idle_ns = (ctx->own & OWN_MOVABLE) && ext ? load_relaxed(&ext->idle_ns) : 0; /* as above */
  if (idle_ns == 0) return;
  if (rctx__done(load_relaxed(&ctx->state)))
    return; /* what it shows stays. A late look races with expiry: either counts */
  int64_t until_ns = rctx__add_ns(now_ns, idle_ns);
  /* relaxed: a time and nothing else; the timer looks when it fires */
  if (load_relaxed(&ext->touched_until_ns) < until_ns) store_relaxed(&ext->touched_until_ns, until_ns);
}

void rctx_touch(rctx *ctx) {
  if (misused(ctx == NULL, NEED_CTX)) return;
  rctx_touch_at(ctx, rctx__now(ctx->manager));
}

/* ---- values and specs -------------------------------------------------------------------------------------------- */

static bool any_null_key(const struct rctx_value *values, size_t nvalues) {
  for (size_t i = 0; i < nvalues; i++) {
    if (values[i].key == NULL) return true;
  }
  return false;
}

rctx *rctx__with_values(rctx_manager *manager, const rctx *parent, const struct rctx_value *values, size_t nvalues) {
  rctx *node = node_new(rctx__mutable(parent), parent, manager, NODE_VALUE);
  if (unlikely(node == NULL)) return refuse_values(-ENOMEM, values, nvalues);
  if (unlikely(rctx__values_add(node, values, nvalues, true) != 0)) {
    node_abandon(node);
    return refuse_values(-ENOMEM, values, nvalues);
  }
  return publish(node);
}

rctx *rctx_with_values(const rctx *parent, const struct rctx_value *values, size_t nvalues) {
  if (misused(parent == NULL, NEED_PARENT) || misused(gone(parent), IS_DEAD) ||
      misused(values == NULL && nvalues > 0, "values is NULL") ||
      misused(any_null_key(values, nvalues), "a value's key is NULL (expected the address of an rctx_key)")) {
    return refuse_values(-EINVAL, values, nvalues);
  }
  return rctx__with_values(parent->manager, parent, values, nvalues);
}

rctx *rctx_with_value(const rctx *parent, const struct rctx_key *key, void *value) {
  if (misused(parent == NULL, NEED_PARENT) ||
      misused(key == NULL, "key is NULL (expected the address of an rctx_key)")) {
    return rctx__error_context(-EINVAL);
  }
  return rctx_with_values(parent, &(struct rctx_value){key, value, NULL}, 1);
}

/* What a spec transfers, let go when the derivation can not keep it. */
rctx *rctx__refuse_spec(int err, const struct rctx_spec *spec) {
  refuse_cause(spec->deadline_cause);
  return refuse_values(err, spec->values, spec->nvalues);
}

static int64_t spec_deadline(const struct rctx_spec *spec, int64_t now_ns) {
  int64_t deadline_ns = spec->deadline_ns ? spec->deadline_ns : INT64_MAX;
  if (spec->timeout_ns == 0) return deadline_ns;
  int64_t from_timeout = rctx__add_ns(now_ns, spec->timeout_ns);
  return from_timeout < deadline_ns ? from_timeout : deadline_ns;
}

/* Hidden bindings first, so that the user's come last in the node's own block. Returns 0 or -ENOMEM. */
static int spec_values(rctx *node, const struct rctx_spec *spec, bool keeps_cause) {
  bool share = spec->values_from == NULL;
  int rc = 0;
  if (spec->values_from && !rctx__is_static(spec->values_from)) {
    struct rctx_value held = {&rctx__held_key, rctx__mutable(spec->values_from), NULL};
    if ((rc = rctx__values_add(node, &held, 1, false)) != 0) return rc;
    node->own |= OWN_DESTROYERS; /* see bury_one() */
    rctx__ref(rctx__mutable(spec->values_from));
  }
  struct rctx_value hidden[2];
  size_t n = 0;
  if (spec->name) {
    union {
      const char *in;
      void *out;
    } name = {spec->name};
    hidden[n++] = (struct rctx_value){&rctx__name_key, name.out, NULL};
  }
  if (keeps_cause) {
    union {
      const struct rctx_cause *in;
      void *out;
    } cause = {spec->deadline_cause};
    hidden[n++] =
        (struct rctx_value){&rctx__deadline_cause_key, cause.out, spec->deadline_cause->destroy ? destroy_cause : NULL};
    node->deadline_code = code_of(spec->deadline_cause, ETIMEDOUT);
  }
  if (n == 0) return rctx__values_add(node, spec->values, spec->nvalues, share);
  struct rctx_value together[BLOCK_ENTRIES];
  if (n + spec->nvalues <= BLOCK_ENTRIES) { /* one claim, and no second block */
    memcpy(together, hidden, n * sizeof *hidden);
    if (spec->nvalues) memcpy(together + n, spec->values, spec->nvalues * sizeof *spec->values);
    return rctx__values_add(node, together, n + spec->nvalues, share);
  }
  if ((rc = rctx__values_add(node, hidden, n, false)) != 0) return rc;
  return rctx__values_add(node, spec->values, spec->nvalues, false);
}

static void spec_release_held(rctx *node, const struct rctx_spec *spec) {
  if (spec->values_from && rctx__value_own(node, &rctx__held_key)) rctx__drop(rctx__mutable(spec->values_from));
}

rctx *rctx_derive(const rctx *parent, const struct rctx_spec *spec) {
  if (misused(spec == NULL, "spec is NULL")) return rctx__error_context(-EINVAL);
  if (misused(parent == NULL, NEED_PARENT) ||
      misused(spec->values == NULL && spec->nvalues > 0, "spec->values is NULL") ||
      misused(any_null_key(spec->values, spec->nvalues), "a key in spec->values is NULL")) {
    return rctx__refuse_spec(-EINVAL, spec);
  }
  rctx_manager *manager = spec->manager ? spec->manager : parent->manager;
  const rctx *values_from = spec->values_from ? spec->values_from : parent;
  rctx *node = node_new(rctx__mutable(parent), values_from, manager, NODE_CANCEL);
  if (unlikely(node == NULL)) return rctx__refuse_spec(-ENOMEM, spec);

  bool wants_deadline = spec->timeout_ns != 0 || spec->deadline_ns != 0;
  int64_t now_ns = spec->now_ns;
  if (wants_deadline && now_ns == 0) now_ns = rctx__now(manager);
  if (unlikely(spec->movable)) node->own |= OWN_MOVABLE | CLIMB;
  bool own_deadline = (wants_deadline || spec->movable) && set_deadline(node, spec_deadline(spec, now_ns));
  bool keeps_cause = own_deadline && spec->deadline_cause;
  if (unlikely(spec_values(node, spec, keeps_cause) != 0)) {
    spec_release_held(node, spec);
    node_abandon(node);
    return rctx__refuse_spec(-ENOMEM, spec);
  }
  if (!keeps_cause) refuse_cause(spec->deadline_cause);
  return own_deadline ? publish_with_timer(node, now_ns) : publish(node);
}

rctx *rctx__derive_merged(const rctx *parent, const struct rctx__merged_spec *spec) {
  struct rctx_value hidden = {&rctx__merge_key, spec->merge, NULL};
  rctx *node = node_new(rctx__mutable(parent), spec->values_from, parent->manager, NODE_CANCEL);
  if (unlikely(node == NULL)) return NULL;
  if (rctx__values_add(node, &hidden, 1, false) != 0) {
    node_abandon(node);
    return NULL;
  }
  node->own = (uint8_t)((node->own & ~HAS_DEADLINE) | (spec->has_deadline ? HAS_DEADLINE : 0));
  node->own |= OWN_MERGE | OWN_DESTROYERS; /* see bury_one() */
  if (spec->climb) node->own |= CLIMB;
  atomic_init(&node->deadline_ns, spec->has_deadline ? spec->deadline_ns : INT64_MAX);
  return publish(node);
}

/* ---- ending ------------------------------------------------------------------------------------------------------ */

static bool cancel(rctx *ctx, const struct rctx_cause *cause) {
  uint32_t s = load_acquire(&ctx->state); /* partner: mark() */
  if (unlikely(s & STATE_ENDLESS)) return false;
  if (unlikely(rctx__done(s))) {
    if (!(s & STATE_WALKED)) rctx__finish(ctx, 0); /* help to mark what is below */
    return false;
  }
  return rctx__cancel(ctx, code_of(cause, ECANCELED) | (uint32_t)ORIGIN_LOCAL, cause);
}

bool rctx_cancel_cause(rctx *ctx, const struct rctx_cause *cause) {
  if (misused(ctx == NULL, NEED_CTX) || misused(gone(ctx), IS_DEAD)) return false;
  return cancel(ctx, cause ? cause : &plain_cause);
}

bool rctx_cancel_begin(rctx *ctx, const struct rctx_cause *cause, struct rctx_sweep *sweep) {
  if (misused(sweep == NULL, "sweep is NULL (expected the caller's struct rctx_sweep)")) return false;
  *sweep = (struct rctx_sweep){.rctx__top = NULL};
  if (misused(ctx == NULL, NEED_CTX) || misused(gone(ctx), IS_DEAD)) return false;
  if (cause == NULL) cause = &plain_cause;
  return rctx__sweep_begin(ctx, code_of(cause, ECANCELED) | (uint32_t)ORIGIN_LOCAL, cause, sweep);
}

bool rctx_cancel_step(struct rctx_sweep *sweep, size_t max) {
  if (misused(sweep == NULL, "sweep is NULL (expected one that rctx_cancel_begin() has begun)")) return false;
  return rctx__sweep_step(sweep, max);
}

/* Checked builds: true if the handle was ended before. It may still be there for its children, or for references. */
static bool ended_before(rctx *ctx) {
  unsigned tries = 0;
  uint32_t s = load_relaxed(&ctx->state); /* a guess: the CAS decides */
  while (!(s & STATE_HANDLE_ENDED)) {
    if (s & STATE_LOCKED) {
      rctx__back_off(&ctx->state, s, &tries);
    } else if (cas_relaxed(&ctx->state, &s, s | STATE_HANDLE_ENDED)) { /* orders nothing */
      return false;
    }
    s = load_relaxed(&ctx->state);
  }
  return true;
}

/* It goes on existing: who reports leaks has to know that its owner is done with it. */
static inline void note_handle_gone(rctx *ctx) {
  struct rctx__ext *ext = load_acquire(&ctx->ext); /* partner: rctx__ext_get() */
  if (unlikely(ext != NULL) && ext->record) rctx__leak_handle_gone(ext);
}

/* Of a context that somebody may look at, now or later. */
static __attribute__((noinline)) void cancel_for_end(rctx *ctx, const struct rctx_cause *cause) {
  uint32_t s = load_acquire(&ctx->state);                                               /* partner: mark() */
  if (!rctx__done(s) || (s & STATE_WALKED) || !rctx__is_swept(ctx)) cancel(ctx, cause); /* else: the steps' work */
  note_handle_gone(ctx);
}

static inline void end(rctx *ctx, const struct rctx_cause *cause) {
  if (unlikely(rctx__is_static(ctx))) return;
  /* A leaf that nobody else holds or watches: nobody could see the mark. The count first, as in rctx__give_up(). */
  bool seen = load_acquire(&ctx->refs) != 1 ||                                    /* partner: give_up_locked() */
              (load_acquire(&ctx->state) & (STATE_CHILDREN | STATE_NOTIFY)) != 0; /* partners: all unlocks */
  if (unlikely(seen)) cancel_for_end(ctx, cause);
  rctx__drop(ctx);
}

void rctx_end_cause(rctx *ctx, const struct rctx_cause *cause) {
  if (misused(ctx == NULL, NEED_CTX) || misused(gone(ctx), IS_DEAD)) return;
  if (misused(RCTX__CHECKED && !rctx__is_static(ctx) && ended_before(ctx), ENDED_TWICE)) return;
  end(ctx, cause ? cause : &plain_cause);
}

void rctx__end_scope(rctx *ctx) {
  if (ctx) rctx_end_cause(ctx, &scope_cause);
}

const rctx *rctx_ref(const rctx *ctx) {
  if (misused(ctx == NULL, NEED_CTX) || misused(gone(ctx), IS_DEAD)) return rctx__error_context(-EINVAL);
  if (!rctx__is_static(ctx)) rctx__ref(rctx__mutable(ctx));
  return ctx;
}

void rctx_unref(const rctx *ctx) {
  if (misused(ctx == NULL, NEED_CTX) || misused(gone(ctx), IS_DEAD)) return;
  if (!rctx__is_static(ctx)) rctx__drop(rctx__mutable(ctx));
}

void rctx_drop(rctx *ctx) {
  if (misused(ctx == NULL, NEED_CTX) || misused(gone(ctx), IS_DEAD)) return;
  if (rctx__is_static(ctx)) return;
  note_handle_gone(ctx);
  rctx__drop(ctx);
}

/* ---- looking ----------------------------------------------------------------------------------------------------- */

COLD int rctx__null_context(const char *function) {
#if RCTX__CHECKED
  rctx__misuse(function, NEED_CTX);
#else
  (void)function;
  return -EINVAL;
#endif
}
void rctx__null_seen(void) {}

/* The node where its end started, and how many levels up that is. */
static const rctx *where_it_ended(const rctx *ctx, unsigned *levels_up) {
  for (*levels_up = 0;; ++*levels_up) {
    uint32_t origin = load_acquire(&ctx->state) & STATE_ORIGIN; /* partner: mark() */
    if (origin == ORIGIN_PARENT) {
      ctx = ctx->parent;
    } else if (origin == ORIGIN_LOCAL && load_relaxed(&ctx->cause) == &rctx__merged_cause) { /* before the mark */
      ctx = rctx__merge_winner(ctx);
    } else {
      return ctx;
    }
  }
}

static const struct rctx_cause *cause_at(const rctx *ctx) {
  if ((load_acquire(&ctx->state) & STATE_ORIGIN) == ORIGIN_LOCAL) /* partner: mark() */
    return load_relaxed(&ctx->cause);                             /* before the mark */
  const struct rctx_cause *own = rctx__value_own(ctx, &rctx__deadline_cause_key);
  return own ? own : &deadline_cause;
}

const struct rctx_cause *rctx_cause(const rctx *ctx) {
  if (misused(ctx == NULL, NEED_CTX)) return &bad_argument;
  rctx__look_here(ctx);
  unsigned levels_up;
  if (!rctx_err(ctx)) return NULL;
  return cause_at(where_it_ended(ctx, &levels_up));
}

int rctx__why(const rctx *ctx, struct rctx_why *why) {
  *why = (struct rctx_why){.err = -(int)rctx__done(load_acquire(&ctx->state))}; /* partner: mark() */
  if (why->err == 0) return 0;
  const rctx *where = where_it_ended(ctx, &why->levels_up);
  why->cause = cause_at(where);
  why->name = rctx_name(where);
  why->origin = why->cause->origin;
  bool by_deadline = (load_acquire(&where->state) & STATE_ORIGIN) == ORIGIN_OWN; /* partner: mark() */
  if (by_deadline && why->levels_up > 0) why->origin = RCTX_ORIGIN_PARENT_DEADLINE;
  return why->err;
}

int rctx_why(const rctx *ctx, struct rctx_why *why) {
  if (misused(why == NULL, "why is NULL (expected where to write it)")) return -EINVAL;
  *why = (struct rctx_why){0};
  if (misused(ctx == NULL, NEED_CTX)) {
    *why = (struct rctx_why){.err = -EINVAL, .origin = RCTX_ORIGIN_MISUSE, .cause = &bad_argument};
    return -EINVAL;
  }
  rctx__look_here(ctx);
  return rctx__why(ctx, why);
}

enum { LOOKS_MAX = 64 }; /* at merges with deadlines that move, in all: each asks several parents */

/* The earliest of the way up, as far as deadlines may move; above that, the inherited one is it. A deadline on another clock is
 * not inherited. */
static COLD int64_t climb(const rctx *ctx, unsigned *looks) {
  const rctx_manager *manager = ctx->manager;
  int64_t earliest_ns = INT64_MAX;
  for (; ctx && (ctx->own & HAS_DEADLINE) && rctx__same_clock(ctx->manager, manager); ctx = ctx->parent) {
    bool may_move = ctx->own & CLIMB, merge = may_move && (ctx->own & OWN_MERGE);
    bool counts = merge || (ctx->own & OWN_DEADLINE) || !may_move;
    int64_t its_ns = rctx__own_deadline(ctx);
    if (merge && *looks == 0) return earliest_ns;
    if (merge) {
      --*looks;
      its_ns = rctx__merge_deadline(ctx, looks);
    }
    if (counts && its_ns < earliest_ns) earliest_ns = its_ns;
    if (merge || !may_move) break;
  }
  return earliest_ns;
}

bool rctx__deadline_of(const rctx *ctx, unsigned *looks, int64_t *deadline_ns) {
  if (!(ctx->own & HAS_DEADLINE)) return false;
  *deadline_ns = unlikely(ctx->own & CLIMB) ? climb(ctx, looks) : load_relaxed(&ctx->deadline_ns); /* const */
  return true;
}

static inline int64_t deadline_of(const rctx *ctx) {
  unsigned looks = LOOKS_MAX;
  return unlikely(ctx->own & CLIMB) ? climb(ctx, &looks) : load_relaxed(&ctx->deadline_ns); /* const */
}

bool rctx_deadline(const rctx *ctx, int64_t *deadline_ns) {
  if (misused(ctx == NULL, NEED_CTX) || misused(deadline_ns == NULL, "deadline_ns is NULL")) return false;
  if (!(ctx->own & HAS_DEADLINE)) return false;
  int64_t its_ns = deadline_of(ctx);
  if (its_ns == INT64_MAX && (ctx->own & CLIMB)) return false; /* none at the moment */
  *deadline_ns = its_ns;
  return true;
}

int64_t rctx_remaining_at(const rctx *ctx, int64_t now_ns) {
  if (misused(ctx == NULL, NEED_CTX)) return 0;
  rctx__look_here(ctx);
  if (rctx_err(ctx)) return 0;
  if (!(ctx->own & HAS_DEADLINE)) return INT64_MAX;
  int64_t deadline_ns = deadline_of(ctx);
  if (deadline_ns == INT64_MAX && (ctx->own & CLIMB)) return INT64_MAX; /* none at the moment */
  if (deadline_ns <= now_ns) return 0;
  int64_t left;
  return __builtin_sub_overflow(deadline_ns, now_ns, &left) ? INT64_MAX : left;
}

int64_t rctx_remaining(const rctx *ctx) {
  if (misused(ctx == NULL, NEED_CTX)) return 0;
  return rctx_remaining_at(ctx, ctx->own & HAS_DEADLINE ? rctx__now(ctx->manager) : 0);
}

int64_t rctx_now(void) { return rctx__monotonic_ns(); }

int64_t rctx_now_of(const rctx *ctx) {
  if (misused(ctx == NULL, NEED_CTX)) return -EINVAL;
  return rctx__now(ctx->manager);
}

const char *rctx_name(const rctx *ctx) {
  if (misused(ctx == NULL, NEED_CTX)) return NULL;
  return rctx__value_own(ctx, &rctx__name_key);
}

const char *rctx_strerror(int err) {
  switch (err) {
  case 0:
    return "context is live";
  case -ECANCELED:
    return plain_cause.text;
  case -ETIMEDOUT:
    return deadline_cause.text;
  default: {
    const char *text = err < 0 && err > INT32_MIN ? strerrordesc_np(-err) : NULL;
    return text ? text : "unknown error";
  }
  }
}

const char *rctx_version_string(void) { return RCTX_VERSION_STRING; }
