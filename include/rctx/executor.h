/*
 * rctx/executor.h - where work runs: the embedder's table or the manager's own pool, and one task raced against a context.
 *
 * Every manager has an executor (rctx_manager_executor()): the table given in its options, or a pool of its own. The pool's
 * threads are started one by one when a task finds no idle one, are named "rctx-worker", have all signals blocked, and are
 * joined by rctx_manager_destroy(). A new task is begun while fewer than options.threads_max (64 unless stated) run: one that is
 * blocked in rctx_execute(), rctx_group_wait() or a group's limit does not count, so work that waits for work does not
 * deadlock; when such a wait is over the task goes on at once, and for that time more may run.
 *
 * Promises cited below:
 *   [EXEC-1] A task that is given to rctx_execute() runs once or never; its cleanup runs exactly once in either case.
 *   [EXEC-2] Until its cleanup has returned a task's context is held and readable: also when its caller has left.
 *   [EXEC-3] When the context ends, rctx_execute() returns; it does not wait for the task.
 *   [EXEC-4] What a task did is visible to whoever got its result.
 */
#ifndef RCTX_EXECUTOR_H
#define RCTX_EXECUTOR_H

#include <rctx/context.h>

RCTX_BEGIN_DECLS

/** A unit of work for an executor: intrusive, so handing it over allocates nothing. */
struct rctx_task {
  struct rctx_task *next, *prev;       /* the executor's to use between submit and run */
  void (*run)(struct rctx_task *self); /* set by who makes the task; the task may be gone when it returns */
};

/**
 * struct rctx_executor - the embedder's table.
 *
 * submit: takes the task and arranges for rctx_task_run(task) to be called exactly once, on whatever thread, not before
 *         submit() was called. It must not fail, and must not call it inline unless the embedder accepts callbacks in the
 *         canceller and tasks in the thread that starts them. Called with no library lock held, from any thread.
 * prepare: NULL, or called before the library promises that a task will run (rctx_execute, rctx_group_go): returns 0, or a
 *         negative errno when submit() could not keep its word now (no thread to be had); nothing is submitted then.
 *         After a yes, submit() is called soon, later (rctx_after_on) or never.
 * Borrowed by each registration, group and task until it is quiet.
 */
struct rctx_executor {
  void (*submit)(struct rctx_executor *self, struct rctx_task *task);
  int (*prepare)(struct rctx_executor *self);
};

/** rctx_task_run - run what was submitted: task->run(task). The task may be gone when it returns. */
RCTX_API void rctx_task_run(struct rctx_task *task) RCTX_NONNULL(1);

/** rctx_manager_executor - the manager's executor, for rctx_after_on(), groups and tasks of one's own. Valid as long as the
 *  manager. Starts nothing. Tasks submitted to the pool by hand are waited for by rctx_quiesce() and counted in
 *  rctx_stats.tasks. */
RCTX_API struct rctx_executor *rctx_manager_executor(rctx_manager *manager) RCTX_NONNULL(1);

/** A task: gets the context it was started with. 0 or a negative errno, as everywhere; any other number is passed on. */
typedef int (*rctx_work_fn)(const rctx *ctx, void *arg);

/** What became of a task. */
enum rctx_outcome {
  RCTX_FINISHED = 0, /* it ran, and rctx_execute() returned its result; cleanup has returned */
  RCTX_ORPHANED,     /* it was running when the context ended, and still may be: arg is the task's alone */
  RCTX_NOT_STARTED   /* it never ran and never will; cleanup has returned */
};

/**
 * rctx_execute - run a task on the executor and race it against its context (the article's ExecuteWithContext).
 *
 * fn(ctx, arg) runs on another thread. Returns as soon as it has finished, with its result, or the context has ended, with its
 * error, whichever is first; a result that is there when the end is noticed wins. A task left running is an orphan: it
 * keeps its context [EXEC-2] and its argument, sees the end by rctx_err(), and is counted in rctx_stats.orphans.
 *
 * @ctx:     borrowed; the task holds a reference of its own.
 * @arg:     the task's from now on, until cleanup has returned: a caller that may leave early shares nothing on its stack.
 * @cleanup: NULL, or called exactly once with arg [EXEC-1]: by the task's thread after fn has returned, or, when the task
 *           never ran, by the calling thread before return or by the thread that would have run it.
 * @outcome: NULL, or where to write which it was. Written also when an error is returned.
 *
 * Returns: fn's result; the context's error; -ENOMEM, or what the executor's prepare returned (the pool: -EAGAIN when no
 *          thread is to be had or options.tasks_max are waiting), and then the task never ran; -EINVAL: fn is NULL.
 * Threads: any, also inside tasks: a pool's thread that blocks here is replaced. Not inside an inline callback.
 * Blocks:  until the result or the end.
 * Order:   [EXEC-4]. If the context has ended already, fn is not started.
 * Cost:    one cached block and two wakeups; no malloc once warm.
 */
RCTX_API int rctx_execute(const rctx *ctx, rctx_work_fn fn, void *arg, void (*cleanup)(void *arg),
                          enum rctx_outcome *outcome) RCTX_NONNULL(1, 2);

RCTX_END_DECLS
#endif
