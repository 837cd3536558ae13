/*
 * group.c - tasks that belong together.
 *
 * A short lock in the group guards its list of jobs that have not begun, its count of tasks under way (from go until the task
 * has returned), and its first error. A job is begun by whoever claims its word: the executor's thread, or a thread that
 * waits for the group or for room in it. A thread of the executor that comes second touches the job only, never the group, which
 * may be gone.
 *
 *   go: active + 1 -> listed, submitted --claim--> taken off the list -> run -> first error? cancel -> active - 1, wake
 *
 * Who waits and finds nothing to begin reads the sequence under the lock and sleeps on it; each task that is listed or returns
 * raises it under the lock: no wakeup is lost. The last touch of the group by a task is the unlock; a wakeup after it uses the
 * address only.
 * The cause of a failure lies in the arena of the group's context, made with it: failing needs no memory, and the record lives
 * as long as anything that can name it.
 * Lock order: none is taken under it. Model: tests/model/group.pml.
 */
#include "executor.h"

#include "after.h"
#include "manager.h"
#include "tree.h"

static const struct rctx_cause group_over = {-ECANCELED, RCTX_ORIGIN_END, "group finished", NULL, 0, NULL, NULL};

static rctx__lock *lock_of(struct rctx_group *group) { return (rctx__lock *)(void *)&group->rctx__lock; }
static _Atomic uint32_t *sequence_of(struct rctx_group *group) {
  return (_Atomic uint32_t *)(void *)&group->rctx__sequence;
}

const rctx *rctx_group_ctx(const struct rctx_group *group) {
  if (misused(group == NULL, "group is NULL")) return rctx_background();
  return group->rctx__ctx ? group->rctx__ctx : rctx_background();
}

static struct rctx_executor *executor_of(struct rctx_group *group) {
  return group->rctx__executor ? group->rctx__executor : rctx__executor_of(&rctx__default_manager);
}

/* ---- beginning and end of a task --------------------------------------------------------------------------------- */

static int err_code(int err) { return err >= -4095 && err <= -1 ? err : -ECANCELED; }

/* Returns true if it is the first error. */
static bool note_error(struct rctx_group *group, int err) {
  rctx__take(lock_of(group));
  bool first = !group->rctx__failed;
  if (first) {
    group->rctx__failed = true;
    group->rctx__err = err;
  }
  rctx__unlock(lock_of(group));
  return first;
}

static void fail(struct rctx_group *group, int err, const struct rctx_site *site) {
  struct rctx_cause *cause = group->rctx__cause;
  if (!note_error(group, err) || group->rctx__ctx == NULL) return;
  if (cause) { /* nobody else writes it: this was the first error */
    *cause = (struct rctx_cause){.code = err_code(err),
                                 .origin = RCTX_ORIGIN_TASK,
                                 .text = site ? site->text : "task failed",
                                 .file = site ? site->file : NULL,
                                 .line = site ? site->line : 0};
  }
  rctx_cancel_cause(group->rctx__ctx, cause);
}

/* Lock held; released on return. The group may be gone then. */
static void wake_and_unlock(struct rctx_group *group) {
  _Atomic uint32_t *sequence = sequence_of(group);
  bool wake = group->rctx__waiting > 0;
  store_relaxed(sequence, load_relaxed(sequence) + 1); /* under the lock, under which a waiter read it */
  rctx__unlock(lock_of(group));
  if (wake) rctx__futex_wake_all(sequence); /* only the address is used */
}

static void run(struct rctx_group *group, const rctx *ctx, rctx_work_fn fn, void *arg, const struct rctx_site *site,
                bool by_pool) {
  int result = rctx__run_traced(ctx, fn, arg);
  if (result != 0) fail(group, result, site);
  if (by_pool) rctx__pool_task_over(); /* before anybody can learn of it */
  rctx__take(lock_of(group));
  group->rctx__active--;
  wake_and_unlock(group);
}

/* On a thread that is not the executor's. */
static void run_here(struct rctx_group *group, const rctx *ctx, rctx_work_fn fn, void *arg,
                     const struct rctx_site *site) {
  RCTX__IN_CALLBACK_OF(ctx->manager);
  run(group, ctx, fn, arg, site, false);
}

static void list_remove_locked(struct rctx_group *group, struct rctx__job *job) {
  if (job->prev) {
    job->prev->next = job->next;
  } else {
    group->rctx__first = job->next;
  }
  if (job->next) {
    job->next->prev = job->prev;
  } else {
    group->rctx__last = job->prev;
  }
}

void rctx__group_run(struct rctx__job *job) {
  struct rctx_group *group = job->group;
  if (rctx__job_claim(job, JOB_RUNNING)) {
    rctx__take(lock_of(group));
    list_remove_locked(group, job);
    rctx__unlock(lock_of(group));
    run(group, job->ctx, job->fn, job->arg, job->site, job->count == NULL);
    rctx__job_drop(job); /* the group's hold: it went with the claim */
  }
  rctx__job_drop(job);
}

/* Run one that has not begun on this thread. The lock is held before and after. False: there is none. */
static bool help_locked(struct rctx_group *group) {
  struct rctx__job *job = group->rctx__first;
  while (job && !rctx__job_claim(job, JOB_RUNNING)) job = job->next; /* its claimer is about to take it off the list */
  if (job == NULL) return false;
  list_remove_locked(group, job);
  rctx__unlock(lock_of(group));
  rctx__job_take_back(job, executor_of(group));
  run_here(group, job->ctx, job->fn, job->arg, job->site);
  rctx__job_drop(job);
  rctx__take(lock_of(group));
  return true;
}

/* Sleep until a task has returned or the limit was changed. The lock is held before and after. */
static void sleep_locked(struct rctx_group *group) {
  uint32_t seen = load_relaxed(sequence_of(group)); /* under the lock */
  group->rctx__waiting++;
  rctx__unlock(lock_of(group));
  bool lent = rctx__blocked_begin() == 0; /* if not: those that have begun have threads; who waits begins the others */
  rctx__futex_wait(sequence_of(group), seen, RCTX__NEVER);
  if (lent) rctx__blocked_end();
  rctx__take(lock_of(group));
  group->rctx__waiting--;
}

/* ---- starting ---------------------------------------------------------------------------------------------------- */

static bool full_locked(const struct rctx_group *group) {
  return group->rctx__limit_plus_one > 0 && group->rctx__active >= group->rctx__limit_plus_one - 1;
}

static void start(struct rctx_group *group, rctx_work_fn fn, void *arg, const struct rctx_site *site) {
  struct rctx_executor *executor = executor_of(group);
  const rctx *ctx = rctx_group_ctx(group);
  struct rctx__job *job = NULL;
  if (executor->prepare == NULL || executor->prepare(executor) == 0)
    job = rctx__job_new(ctx->manager, executor, ctx, fn, arg, false);
  if (job == NULL) {
    run_here(group, ctx, fn, arg, site);
    return;
  }
  job->group = group;
  job->site = site;
  rctx__take(lock_of(group));
  job->prev = group->rctx__last;
  if (job->prev) {
    job->prev->next = job;
  } else {
    group->rctx__first = job;
  }
  group->rctx__last = job;
  wake_and_unlock(group); /* who waits may begin it */
  rctx__job_submit(job, executor);
}

int rctx_group_go_at(struct rctx_group *group, rctx_work_fn fn, void *arg, const struct rctx_site *site) {
  if (misused(group == NULL, "group is NULL") || fn == NULL) return -EINVAL;
  rctx__take(lock_of(group));
  while (full_locked(group)) {
    if (!help_locked(group)) sleep_locked(group);
  }
  group->rctx__active++;
  rctx__unlock(lock_of(group));
  start(group, fn, arg, site);
  return 0;
}

int rctx_group_try_at(struct rctx_group *group, rctx_work_fn fn, void *arg, const struct rctx_site *site) {
  if (misused(group == NULL, "group is NULL") || fn == NULL) return -EINVAL;
  rctx__take(lock_of(group));
  bool room = !full_locked(group);
  if (room) group->rctx__active++;
  rctx__unlock(lock_of(group));
  if (!room) return -EAGAIN;
  start(group, fn, arg, site);
  return 0;
}

int rctx_group_limit(struct rctx_group *group, int limit) {
  if (misused(group == NULL, "group is NULL")) return -EINVAL;
  rctx__take(lock_of(group));
  if (group->rctx__active > 0) {
    rctx__unlock(lock_of(group));
    return -EBUSY;
  }
  group->rctx__limit_plus_one = limit < 0 ? 0 : (uint32_t)limit + 1;
  wake_and_unlock(group);
  return 0;
}

/* ---- making, failing, waiting ------------------------------------------------------------------------------------ */

void rctx_group_init_on(struct rctx_group *group, const rctx *parent, struct rctx_executor *executor) {
  if (misused(group == NULL, "group is NULL")) return;
  *group = (struct rctx_group){0};
  if (misused(parent == NULL, "parent is NULL (expected a context; a root is rctx_background())")) return;
  if (misused(executor == NULL || executor->submit == NULL, "executor is NULL (expected a table with submit)")) return;
  group->rctx__executor = executor;
  group->rctx__ctx = rctx_with_cancel(parent);
  if (rctx__is_static(group->rctx__ctx)) return; /* no memory */
  group->rctx__cause = rctx_alloc(group->rctx__ctx, sizeof *group->rctx__cause);
  if (group->rctx__cause == NULL) {
    rctx_end(group->rctx__ctx);
    group->rctx__ctx = rctx__error_context(-ENOMEM);
  }
}

void rctx_group_init(struct rctx_group *group, const rctx *parent) {
  if (misused(group == NULL, "group is NULL")) return;
  *group = (struct rctx_group){0};
  if (misused(parent == NULL, "parent is NULL (expected a context; a root is rctx_background())")) return;
  rctx_group_init_on(group, parent, rctx__executor_of(parent->manager));
}

bool rctx_group_fail(struct rctx_group *group, const struct rctx_cause *cause, bool *taken) {
  if (misused(group == NULL, "group is NULL") || misused(cause == NULL, "cause is NULL") ||
      misused(taken == NULL, "taken is NULL (expected where to write it)")) {
    return false;
  }
  *taken = false;
  if (!note_error(group, err_code(cause->code))) return false;
  if (group->rctx__ctx) *taken = rctx_cancel_cause(group->rctx__ctx, cause);
  return true;
}

static int join(struct rctx_group *group) {
  rctx__take(lock_of(group));
  for (;;) {
    if (help_locked(group)) continue;
    if (group->rctx__active == 0) break;
    sleep_locked(group); /* what is listed still has been claimed: it will return, and raise */
  }
  int err = group->rctx__err;
  rctx__unlock(lock_of(group));
  return err;
}

int rctx_group_wait(struct rctx_group *group) {
  if (misused(group == NULL, "group is NULL")) return -EINVAL;
  int err = join(group);
  if (group->rctx__ctx) rctx_cancel_cause(group->rctx__ctx, &group_over);
  return err;
}

int rctx_group_fini(struct rctx_group *group) {
  if (misused(group == NULL, "group is NULL")) return -EINVAL;
  if (group->rctx__ctx) rctx_cancel_cause(group->rctx__ctx, &group_over);
  int err = join(group);
  if (group->rctx__ctx) rctx_end(group->rctx__ctx);
  *group = (struct rctx_group){0};
  return err;
}
