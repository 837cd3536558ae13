/*
 * after.c - registrations: who may run the callback, who may take it back, when it is quiet.
 *
 * The word after->rctx__state decides; lists only store. Whoever moves it out of ARMED or QUEUED by a compare-and-swap owns
 * the registration: the thread that fires it (to MOVING, then QUEUED, SUBMITTED or RUNNING), the one that drains its queue
 * (to RUNNING), or a stop (to STOPPING, then STOPPED). Then it is unlinked under the lock of the list it is in. An entry found
 * in a list but claimed by somebody else is passed over: its claimer unlinks it.
 *
 *   IDLE --register--> ARMED --fire--> MOVING --> QUEUED --drain--> RUNNING --> RAN
 *                        |                |         |                  ^
 *                        \--stop--> STOPPING <------/stop   SUBMITTED -/ (executor)
 *                                      \--> STOPPED
 *
 * Until it is quiet a registration holds a reference on its context and, for a loop, on the queue: so a stop that has claimed
 * it may take their locks. Both are let go before the final state is stored, which is the library's last touch of the
 * node, but for the notice of rctx_after_stop_notify(), whose caller keeps the node until then.
 * Model: tests/model/after_stop.pml.
 */
#include "after.h"

#include "manager.h"
#include "queue.h"
#include "tree.h"

enum mode { MODE_INLINE, MODE_QUEUE, MODE_EXECUTOR };

THREAD_LOCAL struct rctx__frame *frames_here;

void rctx__callback_enter(struct rctx__frame *frame, const struct rctx_manager *manager) {
  *frame = (struct rctx__frame){manager, frames_here};
  frames_here = frame;
}

void rctx__callback_leave(struct rctx__frame *frame) { frames_here = frame->outer; }

void rctx__callbacks_after_fork(void) { frames_here = NULL; }

bool rctx__in_callback_of(const struct rctx_manager *manager) {
  for (const struct rctx__frame *frame = frames_here; frame; frame = frame->outer) {
    if (frame->manager == manager) return true;
  }
  return false;
}

static inline uint32_t state_now(struct rctx_after *after) {
  return load_acquire(rctx__after_state(after)); /* partners: the stores and exchanges of its states */
}

/* ---- the list of a context (its state lock is held) -------------------------------------------------------------- */

static void list_append_locked(rctx *node, struct rctx_after *after) {
  struct rctx_after *last = node->watch;
  if (last) {
    after->rctx__next = last->rctx__next;
    after->rctx__prev = last;
    last->rctx__next->rctx__prev = after;
    last->rctx__next = after;
  } else {
    after->rctx__next = after->rctx__prev = after;
  }
  node->watch = after;
}

static void list_remove_locked(rctx *node, struct rctx_after *after) {
  if (after->rctx__next == after) {
    node->watch = NULL;
    return;
  }
  after->rctx__prev->rctx__next = after->rctx__next;
  after->rctx__next->rctx__prev = after->rctx__prev;
  if (node->watch == after) node->watch = after->rctx__prev;
}

/* The oldest that no stop has claimed; claimed for us. */
static struct rctx_after *list_claim_locked(rctx *node) {
  struct rctx_after *last = node->watch;
  for (struct rctx_after *at = last ? last->rctx__next : NULL; at; at = at == last ? NULL : at->rctx__next) {
    uint32_t armed = AFTER_ARMED;
    if (cas_acq_rel(rctx__after_state(at), &armed, AFTER_MOVING)) return at; /* partner: the claim of a stop */
  }
  return NULL;
}

/* ---- running ----------------------------------------------------------------------------------------------------- */

/* A queue lives as long as a registration for it. A manager's own does anyway: there they are only counted, for fork. */
static void hold_queue(rctx_manager *manager, struct rctx__queue *queue) {
  if (queue == &manager->callbacks) {
    rctx__count_after(manager, &manager->memory, 1);
  } else {
    rctx__queue_ref(queue);
  }
}
static void release_queue(rctx_manager *manager, struct rctx__queue *queue) {
  if (queue == &manager->callbacks) {
    rctx__count_after(manager, &manager->memory, -1);
  } else {
    rctx__queue_unref(queue);
  }
}

/* Let go of what a registration holds. */
static void release_holds(rctx *ctx, uint32_t mode, void *target) {
  if (mode == MODE_QUEUE) release_queue(ctx->manager, target);
  if (!rctx__is_static(ctx)) rctx__drop(ctx);
}

void rctx__after_begin(struct rctx_after *after) {
  rctx_manager *manager = after->rctx__ctx->manager;
  after->rctx__runner = rctx__thread_self();
  rctx__begin(manager, &manager->running);
}

static inline void set_running(struct rctx_after *after) {
  rctx__after_begin(after);
  store_release(rctx__after_state(after), (uint32_t)AFTER_RUNNING); /* partner: state_now() in a stop */
}

void rctx__after_run(struct rctx_after *after) {
  rctx *ctx = rctx__mutable(after->rctx__ctx);
  rctx_manager *manager = ctx->manager;
  uint32_t process = load_relaxed(&rctx__process); /* changes with one thread only */
  {
    RCTX__IN_CALLBACK_OF(manager);
    after->rctx__fn(ctx, after->rctx__arg);
  }
  release_holds(ctx, after->rctx__mode, after->rctx__target);
  uint32_t flags =
      exchange_acq_rel(rctx__after_state(after), (uint32_t)AFTER_RAN); /* partner: stop_sync, stop_notify */
  if (unlikely(flags & AFTER_WAITED)) rctx__futex_wake_all(rctx__after_state(after)); /* only the address is used */
  if (unlikely(flags & AFTER_NOTICE)) { /* who left the notice keeps the node until it is called */
    RCTX__IN_CALLBACK_OF(manager);
    after->rctx__quiet(after->rctx__quiet_arg);
  }
  if (likely(process == load_relaxed(&rctx__process)))
    rctx__finished(&manager->running); /* else: a child counts anew */
}

static void run_task(struct rctx_task *task) {
  struct rctx_after *after = (struct rctx_after *)(void *)((char *)task - offsetof(struct rctx_after, rctx__task));
  rctx__after_begin(after);
  uint32_t s = load_relaxed(rctx__after_state(after)); /* SUBMITTED, perhaps with flags: keep them */
  while (!cas_acq_rel(rctx__after_state(after), &s, /* partner: state_now() in a stop, which may set a flag meanwhile */
                      (s & ~(uint32_t)AFTER_STATE) | AFTER_RUNNING)) {
  }
  rctx__after_run(after);
}

/* Deliver a registration that is MOVING and in no list. node: whose lock is held and has to be dropped, or NULL. */
static void deliver(struct rctx_after *after, rctx *node, uint32_t unlocked) {
  rctx *ctx = rctx__mutable(after->rctx__ctx);
  void *target = after->rctx__target;
  switch ((enum mode)after->rctx__mode) {
  case MODE_INLINE:
    set_running(after);
    if (node) rctx__state_unlock(node, unlocked);
    rctx__after_run(after);
    return;
  case MODE_QUEUE: {
    bool signal = false;
    bool pushed = rctx__queue_push(target, after, &signal);
    if (!pushed) store_release(rctx__after_state(after), (uint32_t)AFTER_DROPPED); /* partner: state_now() */
    if (node) rctx__state_unlock(node, unlocked);
    if (signal) rctx__queue_signal(target);
    if (!pushed) release_holds(ctx, MODE_QUEUE, target);
    return;
  }
  case MODE_EXECUTOR: {
    struct rctx_executor *executor = target;
    store_release(rctx__after_state(after), (uint32_t)AFTER_SUBMITTED); /* partner: state_now() */
    if (node) rctx__state_unlock(node, unlocked);
    executor->submit(executor, &after->rctx__task);
    return;
  }
  }
}

void rctx__fire(rctx *node) {
  for (;;) {
    uint32_t s = rctx__state_lock(node);
    struct rctx_after *after = list_claim_locked(node);
    if (after == NULL) {
      rctx__state_unlock(node, s);
      return;
    }
    list_remove_locked(node, after);
    bool last = node->watch == NULL; /* it has ended: none is added any more */
    deliver(after, node, s);
    if (last) return;
  }
}

/* ---- registering ------------------------------------------------------------------------------------------------- */

static bool busy(struct rctx_after *after) {
  switch (state_now(after) & AFTER_STATE) {
  case AFTER_ARMED:
  case AFTER_MOVING:
  case AFTER_QUEUED:
  case AFTER_SUBMITTED:
  case AFTER_RUNNING:
  case AFTER_STOPPING:
    return true;
  default:
    return false;
  }
}

static int already_ended(struct rctx_after *after, enum rctx_on_ended on_ended) {
  if (on_ended == RCTX_ON_ENDED_TELL) {
    release_holds(rctx__mutable(after->rctx__ctx), after->rctx__mode, after->rctx__target);
    store_release(rctx__after_state(after), (uint32_t)AFTER_IDLE); /* partner: state_now() */
  } else if (on_ended == RCTX_ON_ENDED_RUN) {
    set_running(after);
    rctx__after_run(after);
  } else {
    deliver(after, NULL, 0);
  }
  return RCTX_ENDED;
}

#define NEED_CTX "ctx is NULL (expected a context)"
#define NEED_NODE "node is NULL (expected the caller's struct rctx_after)"

static int enroll(const rctx *ctx, struct rctx_after *after, enum mode mode, void *target, enum rctx_on_ended on_ended,
                  rctx_after_fn fn, void *arg) {
  if (fn == NULL) return -EINVAL;
  if (busy(after)) return -EBUSY;
  rctx *node = rctx__mutable(ctx);
  after->rctx__ctx = ctx;
  after->rctx__fn = fn;
  after->rctx__arg = arg;
  after->rctx__target = target;
  after->rctx__mode = mode;
  after->rctx__task.run = run_task;
  store_relaxed(rctx__after_state(after), (uint32_t)AFTER_MOVING);  /* nobody else has it yet */
  if (load_relaxed(&node->state) & STATE_ENDLESS) {                 /* const */
    store_release(rctx__after_state(after), (uint32_t)AFTER_NEVER); /* partner: state_now() */
    return RCTX_NEVER;
  }
  if (mode == MODE_QUEUE) hold_queue(node->manager, target);
  if (rctx__is_static(ctx)) return already_ended(after, on_ended);
  rctx__ref(node);
  uint32_t s = rctx__state_lock(node);
  if (rctx__done(s)) {
    rctx__state_unlock(node, s);
    if (!(s & STATE_WALKED) && !rctx__is_swept(node)) rctx__finish(node, 0); /* [AFTER-3]: what is below comes first */
    return already_ended(after, on_ended);
  }
  list_append_locked(node, after);
  store_release(rctx__after_state(after), (uint32_t)AFTER_ARMED); /* partner: state_now() */
  rctx__state_unlock(node, s | STATE_WATCH);
  return RCTX_REGISTERED;
}

int rctx_after(const rctx *ctx, struct rctx_after *node, rctx_after_fn fn, void *arg) {
  if (misused(ctx == NULL, NEED_CTX) || misused(node == NULL, NEED_NODE)) return -EINVAL;
  if (fn == NULL) return -EINVAL;
  if (busy(node)) return -EBUSY;
  if (!(load_relaxed(&rctx__mutable(ctx)->state) & STATE_ENDLESS)) { /* const */
    int rc = rctx__callback_thread_start(ctx->manager);
    if (rc != 0) return rc;
  }
  return enroll(ctx, node, MODE_QUEUE, &ctx->manager->callbacks, RCTX_ON_ENDED_QUEUE, fn, arg);
}

int rctx_after_inline(const rctx *ctx, struct rctx_after *node, enum rctx_on_ended on_ended, rctx_after_fn fn,
                      void *arg) {
  if (misused(ctx == NULL, NEED_CTX) || misused(node == NULL, NEED_NODE)) return -EINVAL;
  return enroll(ctx, node, MODE_INLINE, NULL, on_ended, fn, arg);
}

int rctx_after_on(const rctx *ctx, struct rctx_after *node, struct rctx_executor *executor, enum rctx_on_ended on_ended,
                  rctx_after_fn fn, void *arg) {
  if (misused(ctx == NULL, NEED_CTX) || misused(node == NULL, NEED_NODE)) return -EINVAL;
  if (misused(executor == NULL || executor->submit == NULL, "executor is NULL (expected a table with submit)"))
    return -EINVAL;
  if (fn == NULL) return -EINVAL;
  if (busy(node)) return -EBUSY;
  int rc = executor->prepare ? executor->prepare(executor) : 0;
  if (rc < 0) return rc;
  return enroll(ctx, node, MODE_EXECUTOR, executor, on_ended, fn, arg);
}

int rctx_watch(const rctx *ctx, struct rctx_after *node, rctx_loop *loop, enum rctx_on_ended on_ended, rctx_after_fn fn,
               void *arg) {
  if (misused(ctx == NULL, NEED_CTX) || misused(node == NULL, NEED_NODE)) return -EINVAL;
  if (misused(loop == NULL, "loop is NULL (expected an rctx_loop)")) return -EINVAL;
  return enroll(ctx, node, MODE_QUEUE, &loop->queue, on_ended, fn, arg);
}

/* ---- stopping ---------------------------------------------------------------------------------------------------- */

/* The stop that claimed it takes it out of the list it was in. */
static void take_back(struct rctx_after *after, bool queued) {
  rctx *ctx = rctx__mutable(after->rctx__ctx);
  if (queued) {
    rctx__queue_remove(after->rctx__target, after);
  } else {
    uint32_t s = rctx__state_lock(ctx);
    list_remove_locked(ctx, after);
    rctx__state_unlock(ctx, s);
  }
  release_holds(ctx, after->rctx__mode, after->rctx__target);
  store_release(rctx__after_state(after), (uint32_t)AFTER_STOPPED); /* partner: state_now() */
}

static bool stop(struct rctx_after *after) {
  unsigned tries = 0;
  for (;;) {
    uint32_t s = state_now(after);
    switch (s & AFTER_STATE) {
    case AFTER_ARMED:
    case AFTER_QUEUED:
      if (!cas_acq_rel(rctx__after_state(after), &s, (uint32_t)AFTER_STOPPING)) continue; /* partner: other claims */
      take_back(after, (s & AFTER_STATE) == AFTER_QUEUED);
      return true;
    case AFTER_NEVER:
    case AFTER_DROPPED:
      if (!cas_acq_rel(rctx__after_state(after), &s, (uint32_t)AFTER_STOPPED)) continue; /* partner: another stop */
      return true;
    case AFTER_MOVING:
      rctx__back_off(rctx__after_state(after), s, &tries);
      continue;
    default:
      return false;
    }
  }
}

bool rctx_after_stop(struct rctx_after *node) {
  if (misused(node == NULL, "node is NULL (expected a registration)")) return false;
  return stop(node);
}

static bool runs_here(struct rctx_after *after, uint32_t s) {
  return (s & AFTER_STATE) == AFTER_RUNNING && after->rctx__runner == rctx__thread_self();
}

bool rctx_after_stop_sync(struct rctx_after *node) {
  if (misused(node == NULL, "node is NULL (expected a registration)")) return false;
  if (stop(node)) return true;
  unsigned tries = 0;
  for (;;) {
    uint32_t s = state_now(node);
    switch (s & AFTER_STATE) {
    case AFTER_STOPPING:
      rctx__back_off(rctx__after_state(node), s, &tries);
      continue;
    case AFTER_SUBMITTED:
    case AFTER_RUNNING:
      if (runs_here(node, s)) return false;
      if ((s & AFTER_WAITED) || cas_acq_rel(rctx__after_state(node), &s, s | AFTER_WAITED)) { /* partner: after_run */
        rctx__futex_wait(rctx__after_state(node), s | AFTER_WAITED, RCTX__NEVER);
      }
      continue;
    default:
      return false;
    }
  }
}

/* The first to set CLAIMED writes the notice and then publishes it; the runner looks at NOTICE only. True: published. */
static bool leave_notice(struct rctx_after *after, uint32_t s, void (*quiet_fn)(void *arg), void *quiet_arg) {
  after->rctx__quiet = quiet_fn;
  after->rctx__quiet_arg = quiet_arg;
  for (;;) {
    if (cas_acq_rel(rctx__after_state(after), &s, s | AFTER_NOTICE)) return true; /* partner: rctx__after_run() */
    s = state_now(after); /* a CAS that failed has acquired nothing: what the callback did is to be seen, too */
    if ((s & AFTER_STATE) != AFTER_RUNNING && (s & AFTER_STATE) != AFTER_SUBMITTED) return false;
  }
}

bool rctx_after_stop_notify(struct rctx_after *node, void (*quiet_fn)(void *arg), void *quiet_arg, bool *quiet) {
  if (misused(node == NULL, "node is NULL (expected a registration)") ||
      misused(quiet_fn == NULL, "quiet_fn is NULL") ||
      misused(quiet == NULL, "quiet is NULL (expected where to write it)")) {
    return false;
  }
  *quiet = true;
  if (stop(node)) return true;
  unsigned tries = 0;
  for (;;) {
    uint32_t s = state_now(node);
    switch (s & AFTER_STATE) {
    case AFTER_STOPPING:
      rctx__back_off(rctx__after_state(node), s, &tries);
      continue;
    case AFTER_SUBMITTED:
    case AFTER_RUNNING:
      *quiet = false;
      if (s & AFTER_CLAIMED) return false;
      if (!cas_acq_rel(rctx__after_state(node), &s, s | AFTER_CLAIMED)) continue; /* partner: another stop_notify */
      *quiet = !leave_notice(node, s | AFTER_CLAIMED, quiet_fn, quiet_arg);
      return false;
    default:
      *quiet = true;
      return false;
    }
  }
}
