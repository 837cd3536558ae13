/*
 * rctx/group.h - tasks that belong together: the first error ends the rest, waiting always joins (Go's errgroup, and more).
 *
 *   RCTX_SCOPED_GROUP struct rctx_group group;       // joined when the scope is left, whatever happens
 *   rctx_group_init(&group, request);                // tasks get a context of their own below request
 *   for (i = 0; i < n; i++) rctx_group_go(&group, fetch, &parts[i]);
 *   int err = rctx_group_wait(&group);               // the first error, or 0; all that the tasks wrote is visible
 *
 * A group is the caller's storage. A zeroed one works, too: its tasks get rctx_background() and an error ends nothing.
 *
 * Promises cited below:
 *   [GROUP-1] Each task that go or try accepted runs exactly once, also when the group's context has ended.
 *   [GROUP-2] The first task that returns other than 0 gives the group's error and ends its context; later ones change
 *             nothing. The cause's code is that error (-ECANCELED if it is no errno), its origin RCTX_ORIGIN_TASK, its
 *             text, file and line name the task and where it was started.
 *   [GROUP-3] rctx_group_wait() returns when every task has returned, and sees all they did. It runs tasks that have not
 *             begun itself: so it ends also where no thread is to be had, and groups nest in a bounded pool.
 *   [GROUP-4] No more tasks than the limit are under way at any moment.
 */
#ifndef RCTX_GROUP_H
#define RCTX_GROUP_H

#include <rctx/executor.h>

RCTX_BEGIN_DECLS

struct rctx__job;

/** Storage only; all fields are the library's. */
struct rctx_group {
  rctx *rctx__ctx;
  struct rctx_executor *rctx__executor;
  struct rctx__job *rctx__first; /* not begun */
  struct rctx__job *rctx__last;
  struct rctx_cause *rctx__cause;
  uint32_t rctx__lock;
  uint32_t rctx__sequence;
  uint32_t rctx__active;
  uint32_t rctx__waiting;
  uint32_t rctx__limit_plus_one;
  int rctx__err;
  bool rctx__failed;
};

/** rctx_group_init - an empty group with a context below @parent, run by the executor of the parent's manager. No limit.
 *  When memory has run out its context has ended with -ENOMEM, and tasks run all the same. */
RCTX_API void rctx_group_init(struct rctx_group *group, const rctx *parent) RCTX_NONNULL(1, 2);

/** rctx_group_init_on - the same on another executor: the embedder's, or another manager's. @executor: borrowed until the
 *  group is finished. */
RCTX_API void rctx_group_init_on(struct rctx_group *group, const rctx *parent, struct rctx_executor *executor)
    RCTX_NONNULL(1, 2, 3);

/** rctx_group_ctx - what the tasks get; for deriving and waiting. Valid until rctx_group_fini(). */
RCTX_API const rctx *rctx_group_ctx(const struct rctx_group *group) RCTX_NONNULL(1);

/** rctx_group_limit - at most @limit tasks under way at a time; negative: no limit; 0: none may start.
 *  Returns 0, or -EBUSY and nothing is changed while tasks are under way. */
RCTX_API int rctx_group_limit(struct rctx_group *group, int limit) RCTX_NONNULL(1) RCTX_MUST_CHECK;

/**
 * rctx_group_go - start fn(ctx, arg), waiting for room if the limit is reached.
 *
 * Never loses a task: when neither memory nor a thread is to be had, it runs on the calling thread before the call returns.
 * @arg: the task's until it has returned. Also legal inside tasks of this group (with a limit: not from all of them at
 * once, each would wait for the others).
 * Returns: 0; -EINVAL if fn is NULL.
 * Cost: one cached block, one wakeup; no malloc once warm.
 */
#define rctx_group_go(group, fn, arg) rctx_group_go_at((group), (fn), (arg), RCTX__SITE("task " #fn " failed"))
RCTX_API int rctx_group_go_at(struct rctx_group *group, rctx_work_fn fn, void *arg, const struct rctx_site *site)
    RCTX_NONNULL(1, 2);

/** rctx_group_try - the same without waiting: -EAGAIN, and fn is not started, if the limit is reached. */
#define rctx_group_try(group, fn, arg) rctx_group_try_at((group), (fn), (arg), RCTX__SITE("task " #fn " failed"))
RCTX_API int rctx_group_try_at(struct rctx_group *group, rctx_work_fn fn, void *arg, const struct rctx_site *site)
    RCTX_NONNULL(1, 2) RCTX_MUST_CHECK;

/** rctx_group_fail - give the group an error with a cause of the caller's own, from inside a task or outside.
 *  Returns true if it is the first. @cause: transferred if true is returned and the group has a context that was live (then
 *  it is that context's); in every other case still the caller's: *taken tells. A code out of range counts as -ECANCELED. */
RCTX_API bool rctx_group_fail(struct rctx_group *group, const struct rctx_cause *cause, bool *taken)
    RCTX_NONNULL(1, 2, 3);

/**
 * rctx_group_wait - join: returns when no task is under way, then ends the group's context (also after success).
 *
 * Returns: the first error of all tasks so far, or 0. The group may be given more tasks and be waited for again: the
 * error stays. Any number of threads may wait. [GROUP-3]
 * Blocks: as long as the tasks do. Do not call it inside a task of the same group, nor with a lock held that a task wants.
 */
RCTX_API int rctx_group_wait(struct rctx_group *group) RCTX_NONNULL(1);

/** rctx_group_fini - end the group's context, join, and let go of it; the storage may be used or freed then.
 *  Returns as rctx_group_wait(). */
RCTX_API int rctx_group_fini(struct rctx_group *group) RCTX_NONNULL(1);

static inline void rctx__group_scope_end(struct rctx_group *group) { (void)rctx_group_fini(group); }
/** RCTX_SCOPED_GROUP - rctx_group_fini() when the variable leaves scope. Initialise it before. */
#define RCTX_SCOPED_GROUP __attribute__((cleanup(rctx__group_scope_end)))

RCTX_END_DECLS
#endif
