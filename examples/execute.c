/*
 * execute.c - ExecuteWithContext: a task raced against its context, and who owns what when the caller leaves first.
 *
 * In Go:
 *   ch := make(chan error, 1)          // buffered, so that a late task can send and go
 *   go func() { ch <- task() }()
 *   select {
 *   case err := <-ch:        return err
 *   case <-ctx.Done():       return ctx.Err()
 *   }
 *
 * Go's garbage collector keeps what a task uses that nobody waits for any more. In C that needs an owner: here the
 * argument is counted (struct job), one reference for the caller and one for the task, which rctx_execute() gives back
 * by calling the cleanup exactly once, whatever happens.
 *
 * Look at: struct job, which is the whole pattern; and orphaned(), where the caller has gone home while the task runs.
 */
#include "example.h"
#include <rctx/rctx.h>
#include <semaphore.h>
#include <string.h>

RCTX_KEY(user, const char *, "who asks: for access checks")

struct job {
  unsigned references;
  sem_t started; /* the task is under way */
  sem_t answer;  /* a library that can not be interrupted has come back */
  int rows;      /* the result */
};

static int jobs_alive, cleanups;
static int late_error;      /* what an orphan saw of its context, */
static char late_user[8];   /* and read from it */
static struct rctx_stats s; /* the counts of the moment */

static struct job *job_create(void) {
  struct job *job = calloc(1, sizeof *job);
  require(job);
  job->references = 2; /* the caller's and the task's */
  sem_init(&job->started, 0, 0);
  sem_init(&job->answer, 0, 0);
  __atomic_fetch_add(&jobs_alive, 1, __ATOMIC_RELAXED);
  return job;
}

static void job_unref(struct job *job) {
  if (__atomic_sub_fetch(&job->references, 1, __ATOMIC_ACQ_REL) != 0) return;
  sem_destroy(&job->started);
  sem_destroy(&job->answer);
  free(job);
  __atomic_fetch_sub(&jobs_alive, 1, __ATOMIC_RELAXED);
}

static void cleanup(void *job) {
  __atomic_fetch_add(&cleanups, 1, __ATOMIC_RELAXED);
  job_unref(job);
}

static const struct rctx_stats *counts(void) {
  rctx_stats(rctx_manager_default(), &s);
  return &s;
}

static int quick_task(const rctx *ctx, void *arg) {
  struct job *job = arg;
  (void)ctx;
  job->rows = 3;
  return 0;
}

static void finished(void) {
  RCTX_SCOPED rctx *request = rctx_with_timeout(rctx_background(), 60 * SECOND);
  struct job *job = job_create();
  enum rctx_outcome outcome;

  int err = rctx_execute(request, quick_task, job, cleanup, &outcome);
  expect(err == 0 && outcome == RCTX_FINISHED && job->rows == 3);
  printf("quick:       result %d, %d rows, cleanups so far: %d\n", err, job->rows, cleanups);
  expect(cleanups == 1);
  job_unref(job);
}

/* Calls a library that knows nothing of contexts: it comes back when it comes back. */
static int stubborn_task(const rctx *ctx, void *arg) {
  struct job *job = arg;
  const char *name = "?";

  sem_post(&job->started);
  while (sem_wait(&job->answer) != 0) {
  }
  late_error = rctx_err(ctx); /* the caller has ended its handle: the context is still here, and its values */
  if (user_get(ctx, &name)) (void)snprintf(late_user, sizeof late_user, "%s", name);
  job->rows = 99; /* nobody reads it; the memory is there all the same */
  return late_error;
}

struct client {
  struct job *job;
  rctx *request;
};

/* The client hangs up as soon as its request is being worked on. */
static void *hang_up(void *arg) {
  struct client *client = arg;
  while (sem_wait(&client->job->started) != 0) {
  }
  rctx_cancel_with(client->request, -ECONNRESET, RCTX_ORIGIN_PEER, "the client hung up");
  return NULL;
}

static void orphaned(void) {
  RCTX_SCOPED rctx *request = rctx_with_cancel(rctx_background());
  rctx *call = user_with(request, "ann");
  struct job *job = job_create();
  struct client client = {job, request};
  enum rctx_outcome outcome;
  pthread_t thread;

  __atomic_fetch_add(&job->references, 1, __ATOMIC_RELAXED); /* a third one: to let the library answer, below */
  require(pthread_create(&thread, NULL, hang_up, &client) == 0);
  int err = rctx_execute(call, stubborn_task, job, cleanup, &outcome);
  expect(err == -ECONNRESET && outcome == RCTX_ORPHANED);
  printf("stubborn:    result %d (%s), the task goes on without us\n", err, rctx_cause(call)->text);
  expect(pthread_join(thread, NULL) == 0);

  job_unref(job); /* the caller goes home: its reference and its handle */
  rctx_end(call);
  expect(counts()->orphans == 1 && counts()->tasks == 1 && jobs_alive == 1 && cleanups == 1);
  printf("             caller gone; orphans: %zu, jobs alive: %d, cleanups: %d\n", s.orphans, jobs_alive, cleanups);

  sem_post(&job->answer);
  job_unref(job);
  expect(rctx_quiesce(rctx_manager_default(), INT64_MAX) == 0);
  expect(late_error == -ECONNRESET && strcmp(late_user, "ann") == 0);
  printf("             the library answered; the task still saw its context: %s, user %s\n", rctx_strerror(late_error),
         late_user);
  expect(counts()->orphans == 0 && jobs_alive == 0 && cleanups == 2);
  printf("             orphans: %zu, jobs alive: %d, cleanups: %d\n", s.orphans, jobs_alive, cleanups);
}

static void never_started(void) {
  RCTX_SCOPED rctx *request = rctx_with_cancel(rctx_background());
  struct job *job = job_create();
  enum rctx_outcome outcome;

  rctx_cancel(request);
  int err = rctx_execute(request, quick_task, job, cleanup, &outcome);
  expect(err == -ECANCELED && outcome == RCTX_NOT_STARTED && job->rows == 0 && cleanups == 3);
  printf("too late:    result %d, never started, cleaned up all the same: %d\n", err, cleanups);
  job_unref(job);
}

int main(void) {
  finished();
  orphaned();
  never_started();
  expect(jobs_alive == 0 && rctx_quiesce(rctx_manager_default(), INT64_MAX) == 0);
  expect(counts()->contexts == 0 && counts()->tasks == 0);
  printf("at the end:  contexts %zu, tasks %zu, jobs %d\n", s.contexts, s.tasks, jobs_alive);
  return expectations_failed();
}
