/*
 * executor.c - the pool of threads, and rctx_execute(): one task raced against its context.
 *
 * The pool. One short lock guards the queue and the counts. A thread that is awake and runs nothing (called, being started, back
 * from a task) is looking: it takes a task under the lock, or falls idle under the lock under which tasks are added, so none is
 * forgotten. When tasks wait and nobody is looking, whoever submits calls an idle thread, or starts one if fewer than
 * threads_max are not blocked; else the task waits. A thread that takes a task does the same for those behind it before it runs it:
 * a burst wakes threads one after the other, while there is something for them (group_fanout_8: 8 wakeups were made, mostly
 * for tasks that the waiter had run itself). A thread in a wait for other tasks (rctx__blocked_begin) does not
 * count, and lends its place. A start may fail: then an idle thread is called for who counted on it.
 * Threads stay until the manager is destroyed: once prepare has found one that is there for certain and not blocked, submit
 * can not fail.
 *
 *   running + idle + blocked + looking = threads;  threads - starting > blocked once anything was prepared
 *
 * A call to an idle thread is a store to its own futex word by the one who took it off the idle list: exactly one.
 *
 * rctx_execute(). One word of the job decides:
 *
 *   QUEUED --the thread--> CLAIMED --> RUNNING --fn, cleanup--> DONE     LEFT set by a caller that returns first: an orphan
 *     |                        \--context ended--cleanup--> DONE
 *     \--the caller, context ended--> WITHDRAWN                     the caller runs the cleanup
 *
 * Who runs the cleanup and gives up the job's hold on the context, exactly once: who moved the word out of QUEUED. So the thread
 * looks at the context after its claim. ENDED is set by an inline callback on the context: it wakes the caller, and keeps a
 * task from being begun. A withdrawn task is taken out of the pool's queue if it is still there. The job's memory goes with
 * the later of its two holders; the context's reference goes before DONE is stored, so that a caller that got the result
 * finds nothing left of the task.
 * Models: tests/model/execute.pml, tests/model/pool.pml.
 */
#include "executor.h"

#include "after.h"
#include "manager.h"
#include "probes.h"
#include "tree.h"

#include <stdlib.h>

_Static_assert(sizeof(struct rctx__job) <= sizeof(struct rctx), "a job fits the size class of a task");
_Static_assert(sizeof(struct rctx__execution) <= BLOCK_BYTES, "with its registration it fits a block");

THREAD_LOCAL struct rctx__worker *worker_here; /* of the pool whose task runs on this thread, or NULL */
THREAD_LOCAL unsigned blocked_here;            /* depth of rctx__blocked_begin() */
THREAD_LOCAL bool over_here;                   /* rctx__pool_task_over() was called for the task on this thread */

/* ---- the pool ---------------------------------------------------------------------------------------------------- */

static struct rctx__workers *pool_of(struct rctx_executor *self) { return (struct rctx__workers *)(void *)self; }

static void remove_locked(struct rctx__workers *workers, struct rctx_task *task) {
  if (task->prev) {
    task->prev->next = task->next;
  } else {
    workers->first = task->next;
  }
  if (task->next) {
    task->next->prev = task->prev;
  } else {
    workers->last = task->prev;
  }
  task->prev = task; /* in no queue */
  workers->queued--;
}

static void call(struct rctx__worker *worker) {
  store_release(&worker->wake, 1U); /* partner: work() */
  rctx__futex_wake_all(&worker->wake);
}

/* What tasks that wait need: an idle thread to call, or (if may_start) one to start, for which the counts are raised already.
 * Those that are awake and not running will look at the queue themselves, and see to the next. */
static struct rctx__worker *want_thread_locked(struct rctx__workers *workers, bool may_start, bool *start) {
  unsigned looking = workers->threads - workers->blocked - workers->running - workers->idling;
  struct rctx__worker *worker = workers->idle;
  *start = false;
  if (workers->queued == 0 || looking > 0 || workers->running >= workers->threads_max) return NULL;
  if (worker) {
    workers->idle = worker->next_idle;
    workers->idling--;
  } else if (may_start && workers->threads - workers->blocked < workers->threads_max) {
    workers->threads++;
    workers->starting++;
    *start = true;
  }
  return worker;
}

static struct rctx_task *take_first_locked(struct rctx__workers *workers) {
  struct rctx_task *task = workers->first;
  if (task == NULL || workers->running >= workers->threads_max) return NULL;
  remove_locked(workers, task);
  return task;
}

void rctx__pool_task_over(void) {
  if (worker_here == NULL || over_here) return;
  struct rctx__workers *workers = worker_here->of;
  over_here = true;
  rctx__take(&workers->lock);
  workers->running--;
  rctx__unlock(&workers->lock);
}

/* False: this is the child of a fork in the task; the pool here has nothing to do with this thread. */
static bool run_task(struct rctx__workers *workers, struct rctx_task *task) {
  uint32_t process = load_relaxed(&rctx__process); /* changes with one thread only */
  over_here = false;
  {
    RCTX__IN_CALLBACK_OF(rctx__manager_of_workers(workers));
    task->run(task);
  }
  if (process != load_relaxed(&rctx__process)) return false; /* as above */
  rctx__pool_task_over();
  rctx__finished(&workers->busy);
  return true;
}

static void work(void *arg);

/* Start a thread for which the counts were raised. On failure they are lowered again, and who counted on it is looked after. */
static COLD int start_thread(struct rctx__workers *workers) {
  struct rctx__worker *worker = calloc(1, sizeof *worker);
  struct rctx__worker *instead = NULL;
  rctx__registry_lock();
  rctx__manager_list_locked(rctx__manager_of_workers(workers)); /* for fork */
  rctx__registry_unlock();
  int rc = -ENOMEM;
  if (worker) {
    worker->of = workers;
    rc = rctx__thread_start(&worker->thread, "rctx-worker", work, worker);
  }
  rctx__take(&workers->lock);
  workers->starting--;
  store_relaxed(&workers->starts, load_relaxed(&workers->starts) + 1); /* under the lock */
  if (rc == 0) {
    worker->next = workers->all;
    workers->all = worker;
  } else {
    bool start;
    workers->threads--;
    instead = want_thread_locked(workers, false, &start);
  }
  rctx__unlock(&workers->lock);
  if (instead) call(instead);
  if (rc != 0) free(worker);
  return rc == 0 ? 0 : -EAGAIN;
}

static void work(void *arg) {
  struct rctx__worker *me = arg;
  struct rctx__workers *workers = me->of;
  worker_here = me;
  rctx__take(&workers->lock);
  for (;;) {
    struct rctx_task *task = take_first_locked(workers);
    if (task) {
      bool start;
      workers->running++;
      struct rctx__worker *next = want_thread_locked(workers, true, &start);
      rctx__unlock(&workers->lock);
      if (next) call(next);
      if (start) (void)start_thread(workers); /* if not: this one looks again */
      if (!run_task(workers, task)) return;
      rctx__take(&workers->lock);
      continue;
    }
    if (workers->stopping) break;
    store_relaxed(&me->wake, 0U); /* before it is listed: nobody calls it yet */
    me->next_idle = workers->idle;
    workers->idle = me;
    workers->idling++;
    rctx__unlock(&workers->lock);
    while (load_acquire(&me->wake) == 0) rctx__futex_wait(&me->wake, 0, RCTX__NEVER); /* partner: call() */
    rctx__take(&workers->lock);
  }
  rctx__unlock(&workers->lock);
}

/* There is a thread for certain that will look at the queue again. */
static bool staffed_locked(const struct rctx__workers *workers) {
  return workers->threads - workers->starting > workers->blocked;
}

static bool full_locked(const struct rctx__workers *workers) {
  size_t room = workers->running < workers->threads_max ? workers->threads_max - workers->running : 0;
  return workers->tasks_max && workers->queued >= room && workers->queued - room >= workers->tasks_max;
}

int rctx__pool_prepare(struct rctx_executor *self) {
  struct rctx__workers *workers = pool_of(self);
  unsigned tries = 0;
  for (;;) {
    rctx__take(&workers->lock);
    uint32_t starts = load_relaxed(&workers->starts); /* under the lock */
    bool full = full_locked(workers);
    bool staffed = staffed_locked(workers);
    bool start = !full && !staffed && workers->threads - workers->blocked < workers->threads_max;
    if (start) {
      workers->threads++;
      workers->starting++;
    }
    rctx__unlock(&workers->lock);
    if (full) return -EAGAIN;
    if (staffed) return 0;
    if (start) return start_thread(workers);
    rctx__back_off(&workers->starts, starts, &tries); /* others are starting as many as there may be */
  }
}

void rctx__pool_submit(struct rctx_executor *self, struct rctx_task *task) {
  struct rctx__workers *workers = pool_of(self);
  bool start;
  rctx__begin(rctx__manager_of_workers(workers), &workers->busy);
  rctx__take(&workers->lock);
  task->next = NULL;
  task->prev = workers->last;
  if (task->prev) {
    task->prev->next = task;
  } else {
    workers->first = task;
  }
  workers->last = task;
  workers->queued++;
  struct rctx__worker *worker = want_thread_locked(workers, true, &start);
  add_relaxed(&workers->submitting, 1U); /* under the lock: the end takes it after us and then waits */
  rctx__unlock(&workers->lock);
  if (worker) call(worker);
  if (start) (void)start_thread(workers); /* if not: prepare has seen to it that there is one that is not blocked */
  sub_acq_rel(&workers->submitting, 1U);  /* last touch; partner: rctx__workers_fini() */
}

int rctx__blocked_begin(void) {
  if (worker_here == NULL || blocked_here++ > 0) return 0;
  struct rctx__workers *workers = worker_here->of;
  bool start;
  rctx__take(&workers->lock);
  workers->running--;
  workers->blocked++;
  struct rctx__worker *worker = want_thread_locked(workers, true, &start);
  if (!start && !staffed_locked(workers)) {
    workers->threads++;
    workers->starting++;
    start = true;
  }
  rctx__unlock(&workers->lock);
  if (worker) call(worker);
  int rc = start ? start_thread(workers) : 0;
  if (rc == 0) return 0;
  rctx__take(&workers->lock);
  bool staffed = staffed_locked(workers);
  rctx__unlock(&workers->lock);
  if (staffed) return 0;
  rctx__blocked_end();
  return rc;
}

void rctx__blocked_end(void) {
  if (worker_here == NULL || --blocked_here > 0) return;
  struct rctx__workers *workers = worker_here->of;
  rctx__take(&workers->lock);
  workers->blocked--;
  workers->running++; /* for a moment more than threads_max may be: who finishes then takes no new task */
  rctx__unlock(&workers->lock);
}

void rctx__workers_fini(struct rctx__workers *workers) {
  rctx__take(&workers->lock);
  workers->stopping = true;
  struct rctx__worker *idle = workers->idle;
  workers->idle = NULL;
  workers->idling = 0;
  rctx__unlock(&workers->lock);
  uint32_t submits;
  unsigned tries = 0;
  while ((submits = load_acquire(&workers->submitting)) != 0) /* partner: rctx__pool_submit() */
    rctx__back_off(&workers->submitting, submits, &tries);
  for (struct rctx__worker *worker = idle, *next; worker; worker = next) {
    next = worker->next_idle; /* once called it is its own again */
    call(worker);
  }
  for (struct rctx__worker *worker = workers->all, *next; worker;
       worker = next) { /* no thread starts others any more */
    next = worker->next;
    rctx__thread_join(&worker->thread);
    free(worker);
  }
  workers->all = NULL;
}

void rctx__workers_after_fork(struct rctx__workers *workers) {
  for (struct rctx__worker *worker = workers->all, *next; worker; worker = next) {
    next = worker->next;
    if (worker != worker_here) free(worker);
  }
  if (worker_here && worker_here->of == workers)
    worker_here = NULL; /* a task that forks: run_task() sees to the rest */
  blocked_here = 0;
  workers->all = workers->idle = NULL;
  for (struct rctx_task *task = workers->first, *next; task; task = next) { /* run by the parent, once */
    next = task->next;
    task->prev = task; /* in no queue: nobody takes it back from here */
  }
  workers->first = workers->last = NULL;
  workers->queued = 0;
  workers->threads = workers->starting = workers->idling = workers->running = workers->blocked = 0;
  store_relaxed(&workers->submitting, 0U); /* one thread here */
  store_relaxed(&workers->busy, 0U);       /* as above */
}

unsigned rctx__workers_threads(const struct rctx__workers *workers) {
  rctx__lock *lock = (rctx__lock *)&((struct rctx__workers *)(uintptr_t)workers)->lock;
  rctx__take(lock);
  unsigned threads = workers->threads;
  rctx__unlock(lock);
  return threads;
}

void rctx_task_run(struct rctx_task *task) {
  if (misused(task == NULL, "task is NULL")) return;
  if (misused(task->run == NULL, "task->run is NULL (expected what it is to do)")) return;
  task->run(task);
}

struct rctx_executor *rctx__executor_of(struct rctx_manager *manager) {
  return manager->executor ? manager->executor : &manager->workers.table;
}

struct rctx_executor *rctx_manager_executor(rctx_manager *manager) {
  if (misused(manager == NULL, "manager is NULL")) return &rctx__default_manager.workers.table;
  return rctx__executor_of(manager);
}

/* ---- jobs -------------------------------------------------------------------------------------------------------- */

static void run_execution(struct rctx__job *job);

static void run_job(struct rctx_task *task) {
  struct rctx__job *job = (struct rctx__job *)(void *)((char *)task - offsetof(struct rctx__job, task));
  _Atomic uint32_t *count = job->count;
  uint32_t process = job->process;
  {
    RCTX__IN_CALLBACK_OF(job->manager);
    if (job->group) {
      rctx__group_run(job);
    } else {
      run_execution(job);
    }
  }
  if (count &&
      process == load_relaxed(&rctx__process)) /* changes with one thread only; else: the child of a fork in it */
    rctx__finished(count);
}

struct rctx__job *rctx__job_new(struct rctx_manager *manager, struct rctx_executor *executor, const rctx *ctx,
                                rctx_work_fn fn, void *arg, bool watched) {
  struct rctx__job *job = rctx__object_alloc(manager, watched ? CLASS_BLOCK : CLASS_TASK);
  if (job == NULL) return NULL;
  *job = (struct rctx__job){
      .task = {.run = run_job}, .manager = manager, .ctx = ctx, .fn = fn, .arg = arg, .watched = watched};
  job->task.prev = &job->task; /* in no queue yet: it may be claimed before it is submitted */
  atomic_init(&job->state, JOB_QUEUED);
  atomic_init(&job->refs, 2);
  job->count = executor == &manager->workers.table ? NULL : &manager->tasks;
  job->process = load_relaxed(&rctx__process); /* changes with one thread only */
  return job;
}

void rctx__job_submit(struct rctx__job *job, struct rctx_executor *executor) {
  if (job->count) rctx__begin(job->manager, job->count);
  executor->submit(executor, &job->task);
}

bool rctx__job_claim(struct rctx__job *job, uint32_t phase) {
  uint32_t s = load_relaxed(&job->state); /* a guess: the CAS decides */
  while ((s & JOB_PHASE) == JOB_QUEUED) {
    if (cas_acq_rel(&job->state, &s, (s & ~(uint32_t)JOB_PHASE) | phase)) return true; /* partner: itself */
  }
  return false;
}

void rctx__job_drop(struct rctx__job *job) {
  if (sub_acq_rel(&job->refs, 1U) != 1) return; /* partner: itself */
  rctx__object_free(job->manager, job->watched ? CLASS_BLOCK : CLASS_TASK, job);
}

void rctx__job_take_back(struct rctx__job *job, struct rctx_executor *executor) {
  if (executor->submit != rctx__pool_submit) return;
  struct rctx__workers *workers = pool_of(executor);
  _Atomic uint32_t *count = job->count;
  rctx__take(&workers->lock);
  bool queued = job->task.prev != &job->task; /* else a thread has it, and will find that it is too late */
  if (queued) remove_locked(workers, &job->task);
  rctx__unlock(&workers->lock);
  if (!queued) return;
  rctx__job_drop(job); /* the executor's hold */
  if (count) rctx__finished(count);
  rctx__finished(&workers->busy);
}

/* ---- rctx_execute ------------------------------------------------------------------------------------------------ */

int rctx__run_traced(const rctx *ctx, rctx_work_fn fn, void *arg) {
  PROBE_3(task_begin, ctx, fn, arg);
  int result = fn(ctx, arg);
  PROBE_3(task_end, ctx, fn, result);
  return result;
}

/* From CLAIMED to RUNNING, unless the context has ended: then fn is not begun. */
static bool begin(struct rctx__job *job) {
  uint32_t s = load_relaxed(&job->state);           /* a guess: the CAS decides */
  while (!(s & JOB_ENDED) && !rctx_err(job->ctx)) { /* ENDED comes a little later: the caller is told by a callback */
    if (cas_acq_rel(&job->state, &s, (s & ~(uint32_t)JOB_PHASE) | JOB_RUNNING)) return true; /* partners: note_end() */
  }
  return false;
}

/* On the executor's thread. */
static void run_execution(struct rctx__job *job) {
  if (!rctx__job_claim(job, JOB_CLAIMED)) { /* the context may be gone, too */
    rctx__job_drop(job);
    return;
  }
  job->started = begin(job);
  job->result = job->started ? rctx__run_traced(job->ctx, job->fn, job->arg) : rctx_err(job->ctx);
  if (job->cleanup) job->cleanup(job->arg);
  rctx_unref(job->ctx);
  if (job->count == NULL) rctx__pool_task_over();                      /* before the caller can learn of it */
  uint32_t before = exchange_acq_rel(&job->state, (uint32_t)JOB_DONE); /* partner: await() */
  if (before & JOB_LEFT) {
    if (job->process == load_relaxed(&rctx__process)) /* as in run_job() */
      sub_acq_rel(&job->manager->orphans, 1U);        /* stats: partner in rctx_stats() */
  } else {
    rctx__futex_wake_all(&job->state);
  }
  rctx__job_drop(job);
}

static struct rctx_after *told_of(struct rctx__job *job) { return &((struct rctx__execution *)(void *)job)->told; }

static void note_end(const rctx *ctx, void *arg) {
  struct rctx__job *job = arg;
  (void)ctx;
  uint32_t s = load_relaxed(&job->state);                /* a guess: the CAS decides */
  while (!cas_acq_rel(&job->state, &s, s | JOB_ENDED)) { /* partner: await() */
  }
  rctx__futex_wake_all(&job->state);
}

/* Until the task is done or the caller may leave. Returns the phase it was left in: DONE, RUNNING (an orphan now) or WITHDRAWN. */
static uint32_t await(struct rctx__job *job) {
  for (;;) {
    uint32_t s = load_acquire(&job->state); /* partners: run_execution(), note_end() */
    uint32_t phase = s & JOB_PHASE;
    if (phase == JOB_DONE) return JOB_DONE;
    if ((s & JOB_ENDED) && phase == JOB_QUEUED && rctx__job_claim(job, JOB_WITHDRAWN)) return JOB_WITHDRAWN;
    if ((s & JOB_ENDED) && phase == JOB_RUNNING) {
      add_relaxed(&job->manager->orphans, 1U);                            /* stats; before its thread can see LEFT */
      if (cas_acq_rel(&job->state, &s, s | JOB_LEFT)) return JOB_RUNNING; /* partner: run_execution() */
      sub_acq_rel(&job->manager->orphans, 1U);                            /* stats: partner in rctx_stats() */
      continue;
    }
    if (!(s & JOB_ENDED) || phase == JOB_CLAIMED) rctx__futex_wait(&job->state, s, RCTX__NEVER);
  }
}

int rctx__not_started(int rc, void *arg, void (*cleanup)(void *arg), enum rctx_outcome *outcome) {
  if (cleanup) cleanup(arg);
  if (outcome) *outcome = RCTX_NOT_STARTED;
  return rc;
}

/* The job has been submitted, and is told of the context's end. */
static int finish(struct rctx__job *job, struct rctx_executor *executor, enum rctx_outcome *outcome) {
  const rctx *ctx = job->ctx; /* the caller's, which holds it */
  enum rctx_outcome what = RCTX_ORPHANED;
  int rc;
  switch (await(job)) {
  case JOB_DONE:
    rc = job->result;
    what = job->started ? RCTX_FINISHED : RCTX_NOT_STARTED;
    break;
  case JOB_WITHDRAWN:
    rctx__job_take_back(job, executor);
    rc = rctx__not_started(rctx_err(ctx), job->arg, job->cleanup, &what);
    rctx_unref(ctx);
    break;
  default:
    rc = rctx_err(ctx);
    PROBE_2(orphan, ctx, job->fn); /* its caller's hold on the job is still there */
  }
  rctx_after_stop_sync(told_of(job));
  rctx__job_drop(job);
  if (outcome) *outcome = what;
  return rc;
}

int rctx__execute(struct rctx_manager *manager, const rctx *ctx, rctx_work_fn fn, void *arg, void (*cleanup)(void *arg),
                  enum rctx_outcome *outcome) {
  struct rctx_executor *executor = rctx__executor_of(manager);
  int rc = rctx_err(ctx);
  if (rc != 0) return rctx__not_started(rc, arg, cleanup, outcome);
  if ((rc = rctx__blocked_begin()) != 0) return rctx__not_started(rc, arg, cleanup, outcome);
  if (executor->prepare) rc = executor->prepare(executor);
  struct rctx__job *job = rc == 0 ? rctx__job_new(manager, executor, ctx, fn, arg, true) : NULL;
  if (job == NULL) {
    rctx__blocked_end();
    return rctx__not_started(rc ? rc : -ENOMEM, arg, cleanup, outcome);
  }
  job->cleanup = cleanup;
  rctx_ref(ctx);
  *told_of(job) = (struct rctx_after){.rctx__state = 0};
  rctx_after_inline(ctx, told_of(job), RCTX_ON_ENDED_RUN, note_end, job); /* it has no way to fail here */
  rctx__job_submit(job, executor);
  rc = finish(job, executor, outcome);
  rctx__blocked_end();
  return rc;
}

int rctx_execute(const rctx *ctx, rctx_work_fn fn, void *arg, void (*cleanup)(void *arg), enum rctx_outcome *outcome) {
  if (misused(ctx == NULL, "ctx is NULL (expected a context)") || fn == NULL)
    return rctx__not_started(-EINVAL, arg, cleanup, outcome);
  return rctx__execute(ctx->manager, ctx, fn, arg, cleanup, outcome);
}
