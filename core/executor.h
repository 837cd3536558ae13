/*
 * executor.h - a manager's pool of threads, and the job: a task of rctx_execute() or of a group on its way.
 *
 * The pool's states and handshake open executor.c; groups are in group.c.
 */
#ifndef RCTX_CORE_EXECUTOR_H
#define RCTX_CORE_EXECUTOR_H

#include "platform.h"

#include <rctx/after.h>
#include <rctx/executor.h>
#include <rctx/group.h>

struct rctx__workers;

/* A thread of the pool. Made by whoever starts it, freed when the pool ends. */
struct rctx__worker {
  _Atomic uint32_t wake;          /* futex: 0 while it is idle and nobody has called it */
  struct rctx__worker *next_idle; /* lock */
  struct rctx__worker *next;      /* lock: all of them */
  struct rctx__workers *of;       /* const */
  struct rctx__thread thread;     /* written by the starter before it is listed */
};

struct rctx__workers {
  struct rctx_executor table; /* const; first, so that the table is the pool */
  rctx__lock lock;
  struct rctx_task *first, *last; /* lock: waiting for a thread; one that is in no queue has itself as prev */
  size_t queued;                  /* lock */
  struct rctx__worker *idle;      /* lock: the last to fall idle is the first to be called */
  struct rctx__worker *all;       /* lock */
  unsigned threads;               /* lock: running, idle, blocked, looking for work, or being started */
  unsigned starting;              /* lock: of these, those that may still fail to start */
  unsigned idling;                /* lock: length of idle */
  unsigned running;               /* lock: inside a task and not blocked */
  unsigned blocked;               /* lock: inside a task that waits for other tasks */
  bool stopping;                  /* lock */
  unsigned threads_max;           /* const: of running */
  size_t tasks_max;               /* const: of queued; 0: no limit */
  _Atomic uint32_t starts;        /* written under lock: attempts to start a thread that are over */
  _Atomic uint32_t submitting; /* raised under lock: submits that may still start a thread, which the end waits for */
  _Atomic uint32_t busy;       /* atomic: tasks submitted and not finished */
};

enum { THREADS_MAX_DEFAULT = 64 };
void rctx__pool_submit(struct rctx_executor *self, struct rctx_task *task);
int rctx__pool_prepare(struct rctx_executor *self);
#define RCTX__WORKERS_INIT(threads_max_, tasks_max_)                                                                   \
  { .table = {rctx__pool_submit, rctx__pool_prepare}, .threads_max = (threads_max_), .tasks_max = (tasks_max_) }

/** Join the threads. Nothing is queued or running. */
void rctx__workers_fini(struct rctx__workers *workers);
/** In the child of a fork: no thread is left, and what was queued is the parent's. */
void rctx__workers_after_fork(struct rctx__workers *workers);

/** Around a wait of a task for other tasks: a pool's thread gives its place to another meanwhile. Returns 0, or -errno when a
 *  thread was needed, so that any task can run at all, and could not be had; then nothing has begun. */
int rctx__blocked_begin(void);
void rctx__blocked_end(void);

/** The pool's task on this thread is as good as over: said before its result is published, so that whoever learns of it finds
 *  the thread free. */
void rctx__pool_task_over(void);

/* A task on its way. Two hold it: the executor until the task has been run, and whoever waits for it. */
struct rctx__job {
  struct rctx_task task;         /* the executor's until it is run */
  _Atomic uint32_t state;        /* atomic: see executor.c */
  _Atomic uint32_t refs;         /* atomic */
  struct rctx_manager *manager;  /* const: whose memory it is */
  _Atomic uint32_t *count;       /* const: what quiesce looks at, unless the manager's own pool counts it; or NULL */
  const rctx *ctx;               /* const */
  rctx_work_fn fn;               /* const */
  void *arg;                     /* const */
  void (*cleanup)(void *arg);    /* const; rctx_execute() only */
  struct rctx_group *group;      /* const; NULL: rctx_execute() */
  const struct rctx_site *site;  /* const; group */
  struct rctx__job *next, *prev; /* the group's lock: not begun */
  int result;                    /* written before DONE; rctx_execute() only */
  bool started;                  /* as result */
  bool watched;                  /* const: it is the first part of a struct rctx__execution */
  uint32_t process;              /* const: rctx__process when it was made: the child of a fork does not count it */
};

/* rctx_execute()'s: the registration is not on the caller's stack, which would be gone in the child of a fork. */
struct rctx__execution {
  struct rctx__job job; /* first */
  struct rctx_after told;
};

enum rctx__job_state {
  JOB_QUEUED = 0,
  JOB_CLAIMED, /* by the thread that is to run it; stays so while only the cleanup is run, the context having ended */
  JOB_RUNNING,
  JOB_WITHDRAWN, /* claimed by the caller of rctx_execute(), who runs the cleanup */
  JOB_DONE,
  JOB_PHASE = 0xf,
  JOB_ENDED = 0x10, /* beside them: the context has ended */
  JOB_LEFT = 0x20   /* beside RUNNING: the caller has returned, the task is an orphan */
};

/** The executor of a manager: the embedder's or its pool. */
struct rctx_executor *rctx__executor_of(struct rctx_manager *manager);
/** A job that nobody else has yet, with two holders; NULL: no memory. watched: with room for a registration behind it. */
struct rctx__job *rctx__job_new(struct rctx_manager *manager, struct rctx_executor *executor, const rctx *ctx,
                                rctx_work_fn fn, void *arg, bool watched);
void rctx__job_submit(struct rctx__job *job, struct rctx_executor *executor);
/** Claim it for running. Partner: itself in other threads, and the withdrawal in rctx_execute(). */
bool rctx__job_claim(struct rctx__job *job, uint32_t phase);
void rctx__job_drop(struct rctx__job *job);
/** After a claim by somebody else than the executor: if it is our pool, take the task back, so that dead ones do not pile up. */
void rctx__job_take_back(struct rctx__job *job, struct rctx_executor *executor);
/** group.c: run a job that an executor has been given for its group. */
void rctx__group_run(struct rctx__job *job);

/** How many threads it has. */
unsigned rctx__workers_threads(const struct rctx__workers *workers);

/** The answer of rctx_execute() when fn never ran. Returns rc. */
int rctx__run_traced(const rctx *ctx, rctx_work_fn fn, void *arg); /* fn, between its two probes */
int rctx__not_started(int rc, void *arg, void (*cleanup)(void *arg), enum rctx_outcome *outcome);
/** rctx_execute() on a manager's executor. */
int rctx__execute(struct rctx_manager *manager, const rctx *ctx, rctx_work_fn fn, void *arg, void (*cleanup)(void *arg),
                  enum rctx_outcome *outcome);

#endif
