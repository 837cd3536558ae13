// execution.h - tasks for rctx_execute() that note what becomes of them, and calls of it on threads of their own.
//
//   struct job job;
//   struct call call;
//   job_init(&job, -EPIPE);                            // what the task is to return
//   call_start(&call, ctx, run_until_it_may_end, &job);
//   gate_pass(&job.started);
//   gate_open(&job.may_end);
//   call_join(&call);
//   was_finished(&call, -EPIPE);
#ifndef RCTX_TESTS_EXECUTION_H
#define RCTX_TESTS_EXECUTION_H

#include "support/check.h"
#include "support/gate.h"

#include <pthread.h>
#include <rctx/rctx.h>
#include <stdatomic.h>

enum { NO_OUTCOME = 77 };

// What one task did.
struct job {
  atomic_int ran, cleaned;
  int result;
  const rctx *ctx;              // as the task got it
  pthread_t ran_on, cleaned_on; // read after the call, or after quiesce
  int written;                  // by the task, not atomic: [EXEC-4]
  struct gate started, may_end;
};

static inline void job_init(struct job *job, int result) {
  memset(job, 0, sizeof *job);
  job->result = result;
  gate_init(&job->started);
  gate_init(&job->may_end);
}

__attribute__((unused)) static int run(const rctx *ctx, void *arg) {
  struct job *job = arg;
  job->ctx = ctx;
  job->ran_on = pthread_self();
  job->written = 42;
  atomic_fetch_add(&job->ran, 1);
  gate_open(&job->started);
  return job->result;
}

__attribute__((unused)) static int run_until_it_may_end(const rctx *ctx, void *arg) {
  struct job *job = arg;
  int result = run(ctx, arg);
  gate_pass(&job->may_end);
  return result;
}

__attribute__((unused)) static int run_until_the_end(const rctx *ctx, void *arg) {
  run(ctx, arg);
  return rctx_wait(ctx, INT64_MAX);
}

__attribute__((unused)) static void clean(void *arg) {
  struct job *job = arg;
  job->cleaned_on = pthread_self();
  atomic_fetch_add(&job->cleaned, 1);
}

// An rctx_execute() on a thread of its own.
struct call {
  pthread_t thread;
  const rctx *ctx;
  rctx_work_fn fn;
  struct job *job;
  struct gate *go; // NULL: at once
  int rc, cleaned_at_return;
  enum rctx_outcome outcome;
};

static void *call_main(void *arg) {
  struct call *call = arg;
  if (call->go) gate_pass(call->go);
  call->outcome = (enum rctx_outcome)NO_OUTCOME;
  call->rc = rctx_execute(call->ctx, call->fn, call->job, clean, &call->outcome);
  call->cleaned_at_return = atomic_load(&call->job->cleaned);
  return NULL;
}

static inline void call_start_at(struct call *call, struct gate *go, const rctx *ctx, rctx_work_fn fn,
                                 struct job *job) {
  *call = (struct call){.ctx = ctx, .fn = fn, .job = job, .go = go};
  cr_assert_eq(pthread_create(&call->thread, NULL, call_main, call), 0);
}

static inline void call_start(struct call *call, const rctx *ctx, rctx_work_fn fn, struct job *job) {
  call_start_at(call, NULL, ctx, fn, job);
}

static inline void call_join(struct call *call) { cr_assert_eq(pthread_join(call->thread, NULL), 0); }

static inline void call_now(struct call *call, const rctx *ctx, rctx_work_fn fn, struct job *job) {
  *call = (struct call){.ctx = ctx, .fn = fn, .job = job};
  call_main(call);
}

static inline void was_finished(const struct call *call, int rc) {
  cr_assert_eq(call->rc, rc);
  cr_assert_eq(call->outcome, RCTX_FINISHED);
  cr_assert_eq(atomic_load(&call->job->ran), 1);
  cr_assert_eq(call->cleaned_at_return, 1, "cleaned %d times when it returned", call->cleaned_at_return);
}

static inline void was_not_started(const struct call *call, int rc) {
  cr_assert_eq(call->rc, rc, "%d, not %d", call->rc, rc);
  cr_assert_eq(call->outcome, RCTX_NOT_STARTED);
  cr_assert_eq(atomic_load(&call->job->ran), 0);
  cr_assert_eq(call->cleaned_at_return, 1, "cleaned %d times when it returned", call->cleaned_at_return);
}

#endif
