// One task raced against its context, and where it runs: executor.h and the pool's part of manager.h, sentence by sentence;
// [EXEC-1..4]. Their races: executor_race_test.c; fork: fork_test.c.
#include "support/check.h"
#include "support/counting.h"
#include "support/execution.h"
#include "support/few_threads.h"
#include "support/gate.h"
#include "support/one_manager.h"
#include "support/tasks.h"
#include "support/threads.h"

#include <rctx/rctx.h>
#include <signal.h>
#include <stdlib.h>

static void close_executor(void) {
  threads_allow_all();
  close_all();
}

TestSuite(executor, .init = watch, .fini = close_executor, .timeout = 120);

/* ---- finished ---------------------------------------------------------------------------------------------------- */

Test(executor, what_the_task_returns_is_returned) {
  const int results[] = {0, -EPIPE, -ECANCELED, -ETIMEDOUT, 1, 7, -4096, INT_MAX, INT_MIN};
  open_pool(2);
  RCTX_SCOPED rctx *c = rctx_with_cancel(root());
  for (size_t i = 0; i < sizeof results / sizeof *results; i++) {
    struct job job;
    struct call call;
    job_init(&job, results[i]);
    call_now(&call, c, run, &job);
    was_finished(&call, results[i]);
    cr_assert_eq(rctx_err(c), 0, "an error of the task is no end of the context");
  }
}

Test(executor, it_runs_on_a_thread_of_the_pool_and_is_cleaned_up_there_after_it__EXEC_1) {
  struct job job;
  struct call call;
  open_pool(2);
  RCTX_SCOPED rctx *c = rctx_with_cancel(root());
  job_init(&job, 0);
  call_now(&call, c, run, &job);
  was_finished(&call, 0);
  cr_assert_eq(job.ctx, c, "it gets the context it was started with");
  cr_assert_not(pthread_equal(job.ran_on, pthread_self()));
  cr_assert(pthread_equal(job.ran_on, job.cleaned_on));
  quiesce();
  cr_assert_eq(atomic_load(&job.cleaned), 1);
}

struct pages { // far more than a cache line; not atomic
  int numbers[5000];
  bool cleaned;
};

static int write_pages(const rctx *ctx, void *arg) {
  struct pages *pages = arg;
  (void)ctx;
  for (int i = 0; i < 5000; i++) pages->numbers[i] = pages->numbers[i] + i;
  return 0;
}

static void clean_pages(void *arg) { ((struct pages *)arg)->cleaned = true; }

Test(executor, what_it_did_is_visible_to_who_got_its_result__EXEC_4) {
  static struct pages pages;
  open_pool(2);
  for (int round = 1; round <= 200; round++) {
    pages.cleaned = false;
    cr_assert_eq(rctx_execute(root(), write_pages, &pages, clean_pages, NULL), 0);
    cr_assert(pages.cleaned);
    for (int i = 0; i < 5000; i++) cr_assert_eq(pages.numbers[i], i * round);
  }
}

Test(executor, neither_argument_nor_cleanup_nor_outcome_is_needed) {
  open_pool(2);
  RCTX_SCOPED rctx *c = rctx_with_cancel(root());
  struct job job;
  job_init(&job, -EPIPE);
  cr_assert_eq(rctx_execute(c, run, &job, NULL, NULL), -EPIPE);
  rctx_cancel(c);
  cr_assert_eq(rctx_execute(c, run, &job, NULL, NULL), -ECANCELED);
  cr_assert_eq(rctx_execute(c, run, NULL, NULL, NULL), -ECANCELED);
  cr_assert_eq(atomic_load(&job.ran), 1);
}

Test(executor, on_a_context_that_never_ends_it_waits_for_the_result) {
  struct job job;
  struct call call;
  open_pool(2);
  RCTX_SCOPED rctx *parent = rctx_with_cancel(root());
  RCTX_SCOPED rctx *detached = rctx_without_cancel(parent);
  const rctx *endless[] = {root(), detached};
  rctx_cancel(parent);
  for (int i = 0; i < 2; i++) {
    job_init(&job, 5);
    call_now(&call, endless[i], run, &job);
    was_finished(&call, 5);
  }
  job_init(&job, 6);
  call_now(&call, rctx_background(), run, &job); // the default manager's own pool
  was_finished(&call, 6);
  job_init(&job, 7);
  call_now(&call, rctx_todo(), run, &job);
  was_finished(&call, 7);
}

Test(executor, a_function_that_is_null_is_refused_and_cleaned_up__EXEC_1) {
  struct job job;
  struct call call;
  rctx_work_fn volatile none = NULL; // the compiler would warn
  open_pool(2);
  job_init(&job, 0);
  call_now(&call, root(), none, &job);
  was_not_started(&call, -EINVAL);
  cr_assert_eq(stats().threads, 0);
}

Test(executor, errno_is_left_alone) {
  struct job job;
  struct call call;
  open_pool(2);
  RCTX_SCOPED rctx *c = rctx_with_cancel(root());
  errno = 4242;
  for (int i = 0; i < 2; i++) {
    job_init(&job, 0);
    call_now(&call, c, run, &job);
    cr_assert_eq(errno, 4242);
    rctx_cancel(c);
  }
}

struct owner { // of a context that is ended by the cleanup
  rctx *ctx;
  struct job *job;
};

static int run_owned(const rctx *ctx, void *arg) { return run(ctx, ((struct owner *)arg)->job); }

static void end_and_free(void *arg) {
  struct owner *owner = arg;
  clean(owner->job);
  rctx_end(owner->ctx);
  free(owner);
}

Test(executor, the_cleanup_may_end_contexts_and_free_the_argument) {
  open_pool(2);
  for (int i = 0; i < 100; i++) {
    struct job job;
    struct owner *owner = malloc(sizeof *owner);
    job_init(&job, -EPIPE);
    rctx *c = rctx_with_cancel(root());
    *owner = (struct owner){rctx_with_cancel(c), &job};
    if (i % 2) rctx_cancel(c);
    cr_assert_eq(rctx_execute(c, run_owned, owner, end_and_free, NULL), i % 2 ? -ECANCELED : -EPIPE);
    cr_assert_eq(atomic_load(&job.cleaned), 1);
    rctx_end(c);
  }
}

/* ---- orphans ----------------------------------------------------------------------------------------------------- */

RCTX_KEY(user, const char *)

struct readings { // of a context whose caller has left and ended it
  struct job job;
  const char *user_in_task, *user_in_cleanup;
  int err_in_task, err_in_cleanup;
  const struct rctx_cause *cause_in_task;
};

static int read_when_told(const rctx *ctx, void *arg) {
  struct readings *readings = arg;
  run_until_it_may_end(ctx, &readings->job);
  readings->err_in_task = rctx_err(ctx);
  readings->cause_in_task = rctx_cause(ctx);
  user_get(ctx, &readings->user_in_task);
  return 0;
}

static void read_in_cleanup(void *arg) {
  struct readings *readings = arg;
  readings->err_in_cleanup = rctx_err(readings->job.ctx);
  user_get(readings->job.ctx, &readings->user_in_cleanup);
  clean(&readings->job);
}

struct leaver {
  const rctx *ctx;
  struct readings *readings;
  enum rctx_outcome outcome;
  int rc;
};

static void *leave_early(void *arg) {
  struct leaver *leaver = arg;
  leaver->rc = rctx_execute(leaver->ctx, read_when_told, leaver->readings, read_in_cleanup, &leaver->outcome);
  return NULL;
}

Test(executor, when_the_context_ends_it_returns_and_the_task_keeps_its_context__EXEC_2__EXEC_3) {
  static const struct rctx_cause gone = {-EPIPE, RCTX_ORIGIN_PEER, "gone", NULL, 0, NULL, NULL};
  struct readings readings = {0};
  pthread_t thread;
  open_pool(2);
  rctx *c = user_with(root(), "ann");
  struct leaver leaver = {.ctx = c, .readings = &readings};
  job_init(&readings.job, 0);
  cr_assert_eq(pthread_create(&thread, NULL, leave_early, &leaver), 0);
  gate_pass(&readings.job.started);
  cr_assert_eq(stats().orphans, 0);
  cr_assert_eq(stats().tasks, 1);
  rctx_cancel_cause(c, &gone);
  cr_assert_eq(pthread_join(thread, NULL), 0); // [EXEC-3]: or the watchdog
  cr_assert_eq(leaver.rc, -EPIPE);
  cr_assert_eq(leaver.outcome, RCTX_ORPHANED);
  cr_assert_eq(atomic_load(&readings.job.cleaned), 0);
  rctx_end(c);
  cr_assert_eq(stats().orphans, 1);
  cr_assert_eq(stats().tasks, 1);
  cr_assert_eq(stats().contexts, 1, "the task's reference");
  gate_open(&readings.job.may_end);
  quiesce();
  cr_assert_eq(atomic_load(&readings.job.cleaned), 1);
  cr_assert(readings.err_in_task == -EPIPE && readings.err_in_cleanup == -EPIPE);
  cr_assert_eq(readings.cause_in_task, &gone);
  cr_assert(readings.user_in_task && strcmp(readings.user_in_task, "ann") == 0);
  cr_assert(readings.user_in_cleanup && strcmp(readings.user_in_cleanup, "ann") == 0);
  struct rctx_stats now = stats();
  cr_assert(now.orphans == 0 && now.tasks == 0 && now.contexts == 0);
}

Test(executor, a_deadline_leaves_an_orphan_that_sees_it) {
  struct job job;
  struct call call;
  open_pool(2);
  RCTX_SCOPED rctx *c = rctx_with_timeout(root(), 5 * MS);
  job_init(&job, 0);
  call_now(&call, c, run_until_it_may_end, &job);
  cr_assert_eq(call.rc, -ETIMEDOUT);
  if (call.outcome == RCTX_ORPHANED) { // else the machine had no time for it: never started
    cr_assert_eq(call.cleaned_at_return, 0);
    cr_assert_eq(stats().orphans, 1);
    gate_open(&job.may_end);
  }
  quiesce();
  cr_assert_eq(atomic_load(&job.cleaned), 1);
}

Test(executor, an_end_from_above_counts_too) {
  struct job job;
  struct call call;
  open_pool(2);
  RCTX_SCOPED rctx *top = rctx_with_cancel(root());
  RCTX_SCOPED rctx *middle = rctx_with_cancel(top);
  RCTX_SCOPED rctx *value = user_with(middle, "ann");
  job_init(&job, 0);
  call_start(&call, value, run_until_it_may_end, &job);
  gate_pass(&job.started);
  rctx_cancel_with(top, -ESHUTDOWN, RCTX_ORIGIN_SHUTDOWN, "shutdown");
  call_join(&call);
  cr_assert_eq(call.rc, -ESHUTDOWN);
  cr_assert_eq(call.outcome, RCTX_ORPHANED);
  gate_open(&job.may_end);
  quiesce();
  cr_assert_eq(atomic_load(&job.cleaned), 1);
}

/* ---- never started ----------------------------------------------------------------------------------------------- */

Test(executor, below_an_end_nothing_is_started__EXEC_1) {
  open_pool(2);
  RCTX_SCOPED rctx *parent = rctx_with_cancel(root());
  RCTX_SCOPED rctx *below = rctx_with_cancel(parent);
  RCTX_SCOPED rctx *past = rctx_with_timeout(root(), -1);
  rctx_cancel_with(parent, -EPIPE, RCTX_ORIGIN_PEER, "gone");
  const rctx *ended[] = {parent, below, past};
  const int errs[] = {-EPIPE, -EPIPE, -ETIMEDOUT};
  for (int i = 0; i < 3; i++) {
    struct job job;
    struct call call;
    job_init(&job, 0);
    call_now(&call, ended[i], run, &job);
    was_not_started(&call, errs[i]);
    cr_assert(pthread_equal(job.cleaned_on, pthread_self()));
  }
  cr_assert_eq(stats().threads, 0);
}

Test(executor, a_task_that_waits_for_a_thread_is_taken_back__EXEC_1__EXEC_3) {
  struct job blocker, job;
  struct call blocking, call;
  open_pool(1);
  RCTX_SCOPED rctx *c = rctx_with_cancel(root());
  job_init(&blocker, 1);
  job_init(&job, 0);
  call_start(&blocking, root(), run_until_it_may_end, &blocker);
  gate_pass(&blocker.started);
  call_start(&call, c, run, &job);
  WAIT_UNTIL(stats().tasks == 2);
  rctx_cancel(c);
  call_join(&call);
  was_not_started(&call, -ECANCELED);
  cr_assert(pthread_equal(job.cleaned_on, call.thread));
  gate_open(&blocker.may_end);
  call_join(&blocking);
  was_finished(&blocking, 1);
  quiesce();
  cr_assert(atomic_load(&job.ran) == 0 && atomic_load(&job.cleaned) == 1, "also when its turn came");
}

static void run_the_queue(const rctx *ctx, void *arg) {
  (void)ctx;
  (void)arg;
  hand_run(&hand);
}

// The executor's thread comes between the end and the caller's notice of it: an inline callback that was registered first.
Test(executor, the_thread_that_would_have_run_it_cleans_up_if_it_sees_the_end_first__EXEC_1) {
  struct job job;
  struct call call;
  struct rctx_after node = {0};
  open_by_hand();
  RCTX_SCOPED rctx *c = rctx_with_cancel(root());
  cr_assert_eq(rctx_after_inline(c, &node, RCTX_ON_ENDED_TELL, run_the_queue, NULL), RCTX_REGISTERED);
  job_init(&job, 0);
  call_start(&call, c, run, &job);
  hand_wait_for(&hand, 1);
  rctx_cancel(c);
  call_join(&call);
  was_not_started(&call, -ECANCELED);
  cr_assert(pthread_equal(job.cleaned_on, pthread_self()), "the canceller ran the queue");
}

static void let_it_finish(const rctx *ctx, void *arg) {
  struct job *job = arg;
  (void)ctx;
  gate_open(&job->may_end);
  WAIT_UNTIL(stats().tasks == 0);
}

Test(executor, a_result_that_is_there_when_the_end_is_noticed_wins) {
  for (int round = 0; round < 20; round++) {
    struct job job;
    struct call call;
    struct rctx_after node = {0};
    if (!manager) open_pool(2);
    RCTX_SCOPED rctx *c = rctx_with_cancel(root());
    cr_assert_eq(rctx_after_inline(c, &node, RCTX_ON_ENDED_TELL, let_it_finish, &job), RCTX_REGISTERED);
    job_init(&job, 11);
    call_start(&call, c, run_until_it_may_end, &job);
    gate_pass(&job.started);
    rctx_cancel(c);
    call_join(&call);
    was_finished(&call, 11);
  }
}

Test(executor, without_memory_it_never_runs_and_nothing_is_lost__ENOMEM) {
  for (int64_t n = 1, refused = 1; refused; n++) {
    struct rctx_manager_options options = {.allocator = counting_table(), .uncached = true};
    struct job job;
    struct call call;
    cr_assert_eq(rctx_manager_create(&options, &counting.manager), 0);
    rctx *c = rctx_with_cancel(counting_root());
    job_init(&job, 3);
    counting_fail_at(n);
    call_now(&call, c, run, &job);
    refused = counting_fail_at(0);
    if (call.outcome == RCTX_NOT_STARTED) {
      was_not_started(&call, -ENOMEM);
      cr_assert(refused);
      cr_assert(pthread_equal(job.cleaned_on, pthread_self()));
    } else {
      was_finished(&call, 3);
      cr_assert_not(refused, "request %lld was refused, and yet it ran", (long long)n);
    }
    rctx_end(c);
    counting_close();
    cr_assert_eq(atomic_load(&job.cleaned), 1);
  }
}

/* ---- the embedder's executor ------------------------------------------------------------------------------------- */

Test(executor, it_is_the_embedders_table_or_the_managers_own_and_starts_nothing) {
  open_by_hand();
  cr_assert_eq(rctx_manager_executor(manager), &hand.table);
  rctx_manager *with_pool;
  struct rctx_stats now;
  cr_assert_eq(rctx_manager_create(&(struct rctx_manager_options){0}, &with_pool), 0);
  cr_assert_not_null(rctx_manager_executor(with_pool));
  cr_assert_not_null(rctx_manager_executor(with_pool)->submit);
  cr_assert_neq(rctx_manager_executor(with_pool), rctx_manager_executor(rctx_manager_default()));
  rctx_stats(with_pool, &now);
  cr_assert_eq(now.threads, 0);
  cr_assert_eq(rctx_manager_destroy(with_pool), 0);
}

Test(executor, an_embedders_thread_runs_it_once_and_no_thread_is_started) {
  open_by_hand();
  hand_thread_start(&hand);
  RCTX_SCOPED rctx *c = rctx_with_cancel(root());
  for (int i = 0; i < 100; i++) {
    struct job job;
    struct call call;
    job_init(&job, i);
    call_now(&call, c, run, &job);
    was_finished(&call, i);
    cr_assert(pthread_equal(job.ran_on, hand.thread) && pthread_equal(job.cleaned_on, hand.thread));
  }
  cr_assert_eq(atomic_load(&hand.submitted), 100);
  cr_assert_eq(atomic_load(&hand.prepared), 100);
  cr_assert_eq(stats().threads, 0);
  quiesce();
  cr_assert_eq(stats().tasks, 0);
  hand_thread_stop(&hand);
}

Test(executor, when_prepare_fails_nothing_is_submitted__EXEC_1) {
  const int refusals[] = {-EAGAIN, -ENOMEM, -ESHUTDOWN, -EPERM};
  open_by_hand();
  for (int i = 0; i < 4; i++) {
    struct job job;
    struct call call;
    RCTX_SCOPED rctx *c = rctx_with_cancel(root());
    job_init(&job, 0);
    atomic_store(&hand.refusal, refusals[i]);
    call_now(&call, c, run, &job);
    was_not_started(&call, refusals[i]);
    cr_assert(pthread_equal(job.cleaned_on, pthread_self()));
    cr_assert_eq(rctx_err(c), 0);
    cr_assert_eq(stats().tasks, 0);
  }
  cr_assert_eq(atomic_load(&hand.submitted), 0);
}

Test(executor, a_table_without_prepare_is_enough) {
  struct job job;
  struct call call;
  open_by_hand();
  hand.table.prepare = NULL;
  hand_thread_start(&hand);
  job_init(&job, 9);
  call_now(&call, root(), run, &job);
  was_finished(&call, 9);
  hand_thread_stop(&hand);
}

static void submit_inline(struct rctx_executor *self, struct rctx_task *task) {
  (void)self;
  rctx_task_run(task);
}

Test(executor, one_that_runs_inline_if_the_embedder_accepts_that) {
  static struct rctx_executor inline_table = {.submit = submit_inline};
  struct job job;
  struct call call;
  open_with((struct rctx_manager_options){.executor = &inline_table});
  RCTX_SCOPED rctx *c = rctx_with_cancel(root());
  job_init(&job, 4);
  call_now(&call, c, run, &job);
  was_finished(&call, 4);
  cr_assert(pthread_equal(job.ran_on, pthread_self()));
}

Test(executor, one_that_comes_much_later_finds_nothing_to_do__EXEC_1) {
  struct job job;
  struct call call;
  open_by_hand();
  rctx *c = rctx_with_cancel(root());
  job_init(&job, 0);
  call_start(&call, c, run, &job);
  hand_wait_for(&hand, 1);
  rctx_cancel(c);
  call_join(&call);
  was_not_started(&call, -ECANCELED);
  rctx_end(c);
  cr_assert_eq(stats().tasks, 1, "it is still queued");
  cr_assert_eq(stats().orphans, 0);
  cr_assert_eq(rctx_quiesce(manager, rctx_now()), -ETIMEDOUT);
  cr_assert_eq(rctx_manager_destroy(manager), -EBUSY);
  cr_assert_eq(hand_run(&hand), 1);
  cr_assert_eq(atomic_load(&job.ran), 0);
  cr_assert_eq(atomic_load(&job.cleaned), 1);
  cr_assert_eq(stats().tasks, 0);
}

static void *run_one_by_hand(void *arg) { return (void *)(uintptr_t)hand_run_one(arg); }

Test(executor, an_orphan_on_an_embedders_thread_is_counted_too) {
  struct job job;
  struct call call;
  pthread_t runner;
  open_by_hand();
  rctx *c = rctx_with_cancel(root());
  job_init(&job, 0);
  call_start(&call, c, run_until_it_may_end, &job);
  hand_wait_for(&hand, 1);
  cr_assert_eq(pthread_create(&runner, NULL, run_one_by_hand, &hand), 0);
  gate_pass(&job.started);
  rctx_end(c);
  call_join(&call);
  cr_assert_eq(call.outcome, RCTX_ORPHANED);
  cr_assert_eq(stats().orphans, 1);
  cr_assert_eq(stats().tasks, 1);
  gate_open(&job.may_end);
  pthread_join(runner, NULL);
  cr_assert_eq(atomic_load(&job.cleaned), 1);
  cr_assert(stats().orphans == 0 && stats().tasks == 0);
}

/* ---- the pool: its threads --------------------------------------------------------------------------------------- */

// A task submitted by hand.
struct own_task {
  struct rctx_task task; // first
  struct job *job;
};

static void run_own(struct rctx_task *self) {
  struct own_task *own = (struct own_task *)(void *)self;
  struct job *job = own->job;
  free(own); // the task may be gone when run returns
  run_until_it_may_end(NULL, job);
  atomic_fetch_add(&job->cleaned, 1);
}

static void submit_own(struct job *job) {
  struct own_task *own = calloc(1, sizeof *own);
  own->task.run = run_own;
  own->job = job;
  struct rctx_executor *pool = rctx_manager_executor(manager);
  pool->submit(pool, &own->task);
}

Test(executor, tasks_submitted_by_hand_are_counted_and_waited_for) {
  struct job jobs[5];
  open_pool(2);
  for (int i = 0; i < 5; i++) {
    job_init(&jobs[i], 0);
    submit_own(&jobs[i]);
  }
  gate_pass(&jobs[0].started);
  gate_pass(&jobs[1].started);
  cr_assert_eq(stats().tasks, 5);
  cr_assert_eq(rctx_quiesce(manager, rctx_now() + MS), -ETIMEDOUT);
  cr_assert_eq(stats().threads, 2);
  for (int i = 0; i < 5; i++) gate_open(&jobs[i].may_end);
  quiesce();
  for (int i = 0; i < 5; i++) cr_assert_eq(atomic_load(&jobs[i].cleaned), 1);
  cr_assert_eq(stats().tasks, 0);
}

Test(executor, task_run_runs_it) {
  struct job job;
  struct own_task *own = calloc(1, sizeof *own);
  job_init(&job, 0);
  gate_open(&job.may_end);
  own->task.run = run_own;
  own->job = &job;
  rctx_task_run(&own->task);
  cr_assert_eq(atomic_load(&job.cleaned), 1);
}

// Threads named rctx-worker and, of these, those with all signals blocked.
static void look_at_workers(int *named, int *all_blocked) {
  const uint64_t can_not_be_blocked = UINT64_C(1) << (SIGKILL - 1) | UINT64_C(1) << (SIGSTOP - 1);
  const uint64_t wanted = 0x7fffffff & ~can_not_be_blocked;
  DIR *dir = opendir("/proc/self/task");
  *named = *all_blocked = 0;
  for (struct dirent *entry; (entry = readdir(dir));) {
    char path[300], line[256];
    bool ours = false;
    uint64_t blocked = 0;
    snprintf(path, sizeof path, "/proc/self/task/%s/status", entry->d_name);
    FILE *status = entry->d_name[0] == '.' ? NULL : fopen(path, "r");
    while (status && fgets(line, sizeof line, status)) {
      if (strcmp(line, "Name:\trctx-worker\n") == 0) ours = true;
      if (strncmp(line, "SigBlk:", 7) == 0) blocked = strtoull(line + 7, NULL, 16);
    }
    if (status) fclose(status);
    *named += ours;
    *all_blocked += ours && (blocked & wanted) == wanted;
  }
  closedir(dir);
}

Test(executor, threads_are_started_late_one_by_one_named_block_signals_and_are_joined) {
  struct job jobs[3];
  struct call calls[3];
  size_t before = tasks_before();
  int named, blocked;
  open_pool(5);
  rctx_manager_executor(manager);
  cr_assert_eq(stats().threads, 0);
  cr_assert(tasks_are(before));
  for (unsigned i = 0; i < 3; i++) {
    job_init(&jobs[i], 0);
    call_start(&calls[i], root(), run_until_it_may_end, &jobs[i]);
    gate_pass(&jobs[i].started);
    cr_assert_eq(stats().threads, i + 1);
  }
  for (int tries = 0; tries < 10000; tries++) { // valgrind has a mask of its own while a thread runs
    look_at_workers(&named, &blocked);
    if (named == 3 && blocked == 3) break;
    usleep(1000);
  }
  cr_assert(named == 3 && blocked == 3, "%d are named so, of which %d block all signals", named, blocked);
  for (int i = 0; i < 3; i++) gate_open(&jobs[i].may_end);
  for (int i = 0; i < 3; i++) call_join(&calls[i]);
  quiesce();
  cr_assert_eq(stats().threads, 3, "they stay");
  cr_assert_eq(rctx_manager_destroy(manager), 0);
  manager = NULL;
  cr_assert(tasks_are(before), "and are joined");
}

// The first thread takes its time to come up, as on a busy machine.
Test(executor, a_task_that_started_a_thread_starts_no_second_one) {
  struct job job;
  struct call call;
  struct gate go;
  gate_init(&go);
  job_init(&job, 2);
  open_pool(5);
  call_start_at(&call, &go, root(), run, &job);
  threads_hold();
  gate_open(&go);
  WAIT_UNTIL(stats().tasks == 1);
  for (int i = 0; i < 100; i++) usleep(100); // whatever it does next
  size_t threads = stats().threads;
  threads_release();
  call_join(&call);
  was_finished(&call, 2);
  cr_assert_eq(threads, 1, "%zu threads for the first task", threads);
}

Test(executor, an_idle_thread_is_used_again) {
  struct job job;
  struct call call;
  open_pool(64);
  for (int i = 0; i < 2000; i++) {
    job_init(&job, 0);
    call_now(&call, root(), run, &job);
    was_finished(&call, 0);
  }
  cr_assert_leq(stats().threads, 8, "%zu threads for one task at a time", stats().threads);
}

static atomic_int running_now, running_most;

static int note_how_many_run(const rctx *ctx, void *arg) {
  (void)ctx;
  (void)arg;
  int now = atomic_fetch_add(&running_now, 1) + 1, most = atomic_load(&running_most);
  while (most < now && !atomic_compare_exchange_weak(&running_most, &most, now)) {
  }
  for (int i = 0; i < 3; i++) sched_yield();
  atomic_fetch_sub(&running_now, 1);
  return 0;
}

static void execute_many(unsigned index, void *arg) {
  (void)index;
  (void)arg;
  for (int i = 0; i < 300; i++) cr_assert_eq(rctx_execute(root(), note_how_many_run, NULL, NULL, NULL), 0);
}

Test(executor, no_more_than_threads_max_run_at_a_time) {
  for (unsigned most = 1; most <= 3; most++) {
    open_pool(most);
    atomic_store(&running_most, 0);
    threads_run(8, execute_many, NULL);
    cr_assert_leq(atomic_load(&running_most), (int)most);
    cr_assert_leq(stats().threads, most);
    close_manager();
  }
}

static int count_started(struct job *jobs, int count) {
  int started = 0;
  for (int i = 0; i < count; i++) started += atomic_load(&jobs[i].ran);
  return started;
}

Test(executor, there_are_64_threads_unless_stated) {
  enum { MANY = 80 };
  static struct job jobs[MANY];
  open_pool(0);
  for (int i = 0; i < MANY; i++) {
    job_init(&jobs[i], 0);
    submit_own(&jobs[i]);
  }
  WAIT_UNTIL(count_started(jobs, MANY) >= 64);
  for (int i = 0; i < 200; i++) sched_yield();
  cr_assert_eq(count_started(jobs, MANY), 64);
  cr_assert_eq(stats().threads, 64);
  cr_assert_eq(stats().tasks, MANY);
  for (int i = 0; i < MANY; i++) gate_open(&jobs[i].may_end);
  quiesce();
  for (int i = 0; i < MANY; i++) cr_assert_eq(atomic_load(&jobs[i].cleaned), 1);
}

/* ---- work that waits for work ------------------------------------------------------------------------------------ */

static int nest(const rctx *ctx, void *arg) {
  int depth = *(int *)arg, below = depth - 1;
  enum rctx_outcome outcome;
  if (depth == 0) return 100;
  int rc = rctx_execute(ctx, nest, &below, NULL, &outcome);
  return outcome == RCTX_FINISHED ? rc + 1 : -EPROTO;
}

static void nest_often(unsigned index, void *arg) {
  (void)index;
  (void)arg;
  for (int i = 0; i < 50; i++) {
    int depth = i % 6;
    cr_assert_eq(rctx_execute(root(), nest, &depth, NULL, NULL), 100 + depth);
  }
}

Test(executor, tasks_that_execute_tasks_do_not_deadlock_with_one_thread) {
  int depth = 20;
  open_pool(1);
  cr_assert_eq(rctx_execute(root(), nest, &depth, NULL, NULL), 120);
  threads_run(6, nest_often, NULL);
  struct job jobs[2];
  for (int i = 0; i < 2; i++) {
    job_init(&jobs[i], 0);
    submit_own(&jobs[i]);
  }
  gate_pass(&jobs[0].started);
  for (int i = 0; i < 200; i++) sched_yield();
  cr_assert_eq(atomic_load(&jobs[1].ran), 0, "the threads that were lent are not used beside it");
  for (int i = 0; i < 2; i++) gate_open(&jobs[i].may_end);
  quiesce();
}

struct family {
  struct job inner;
  rctx *inner_ctx;
  enum rctx_outcome outcome;
  int rc;
};

static int leave_an_orphan(const rctx *ctx, void *arg) {
  struct family *family = arg;
  (void)ctx;
  family->rc = rctx_execute(family->inner_ctx, run_until_it_may_end, &family->inner, clean, &family->outcome);
  return 8;
}

Test(executor, a_task_may_leave_an_orphan_with_one_thread) {
  struct family family = {0};
  open_pool(1);
  job_init(&family.inner, 0);
  family.inner_ctx = rctx_with_timeout(root(), 20 * MS);
  cr_assert_eq(rctx_execute(root(), leave_an_orphan, &family, NULL, NULL), 8);
  cr_assert_eq(family.rc, -ETIMEDOUT);
  if (family.outcome == RCTX_ORPHANED) {
    cr_assert_eq(stats().orphans, 1);
    gate_open(&family.inner.may_end);
  }
  rctx_end(family.inner_ctx);
  quiesce();
  cr_assert_eq(atomic_load(&family.inner.cleaned), 1);
}

static void execute_here(const rctx *ctx, void *arg) {
  (void)ctx;
  call_now(arg, root(), run, ((struct call *)arg)->job);
}

Test(executor, it_may_be_called_on_the_librarys_callback_thread) {
  struct job job;
  struct rctx_after node = {0};
  open_pool(1);
  job_init(&job, 21);
  struct call call = {.job = &job};
  RCTX_SCOPED rctx *c = rctx_with_timeout(root(), 1);
  cr_assert_geq(rctx_after(c, &node, execute_here, &call), 0);
  gate_pass(&job.started);
  cr_assert_not(rctx_after_stop_sync(&node));
  was_finished(&call, 21);
}

static void note_thread(const rctx *ctx, void *arg) {
  (void)ctx;
  run(ctx, arg);
}

Test(executor, callbacks_can_be_delivered_to_the_pool) {
  struct job job;
  struct rctx_after node = {0};
  open_pool(1);
  job_init(&job, 0);
  RCTX_SCOPED rctx *c = rctx_with_cancel(root());
  cr_assert_eq(rctx_after_on(c, &node, rctx_manager_executor(manager), RCTX_ON_ENDED_TELL, note_thread, &job),
               RCTX_REGISTERED);
  rctx_cancel(c);
  gate_pass(&job.started);
  rctx_after_stop_sync(&node);
  cr_assert_not(pthread_equal(job.ran_on, pthread_self()));
  quiesce();
}

/* ---- limits ------------------------------------------------------------------------------------------------------ */

Test(executor, when_tasks_max_are_waiting_it_says_so__EXEC_1) {
  struct job blocker, waiting[2], refused;
  struct call blocking, calls[2], call;
  open_with((struct rctx_manager_options){.threads_max = 1, .tasks_max = 2});
  job_init(&blocker, 0);
  call_start(&blocking, root(), run_until_it_may_end, &blocker);
  gate_pass(&blocker.started);
  for (unsigned i = 0; i < 2; i++) {
    job_init(&waiting[i], (int)i);
    call_start(&calls[i], root(), run, &waiting[i]);
    WAIT_UNTIL(stats().tasks == 2 + i);
  }
  for (int i = 0; i < 3; i++) {
    job_init(&refused, 0);
    call_now(&call, root(), run, &refused);
    was_not_started(&call, -EAGAIN);
    cr_assert(pthread_equal(refused.cleaned_on, pthread_self()));
  }
  gate_open(&blocker.may_end);
  call_join(&blocking);
  for (int i = 0; i < 2; i++) {
    call_join(&calls[i]);
    was_finished(&calls[i], i);
  }
  job_init(&refused, 5);
  call_now(&call, root(), run, &refused);
  was_finished(&call, 5);
}

static void execute_some(unsigned index, void *arg) {
  (void)index;
  for (int i = 0; i < 500; i++) {
    struct job job;
    job_init(&job, 1);
    int rc = rctx_execute(root(), run, &job, clean, NULL);
    if (rc == -EAGAIN) atomic_fetch_add((atomic_int *)arg, 1);
    cr_assert_eq(atomic_load(&job.cleaned), 1);
  }
}

// Four callers and eight threads: no task ever waits for another's thread.
Test(executor, a_task_whose_thread_is_on_its_way_is_not_waiting_for_one) {
  atomic_int refused = 0;
  open_with((struct rctx_manager_options){.threads_max = 8, .tasks_max = 1});
  threads_run(4, execute_some, &refused);
  cr_assert_eq(atomic_load(&refused), 0, "%d of 2000 were refused", atomic_load(&refused));
}

Test(executor, when_no_thread_is_to_be_had_it_says_so_and_may_be_tried_again__EXEC_1) {
  struct job job;
  struct call call;
  open_pool(4);
  RCTX_SCOPED rctx *c = rctx_with_cancel(root());
  for (int i = 0; i < 3; i++) {
    job_init(&job, 0);
    threads_allow(0);
    call_now(&call, c, run, &job);
    threads_allow_all();
    was_not_started(&call, -EAGAIN);
    cr_assert(pthread_equal(job.cleaned_on, pthread_self()));
    cr_assert(stats().threads == 0 && stats().tasks == 0);
    cr_assert_eq(rctx_err(c), 0);
  }
  job_init(&job, 6);
  call_now(&call, c, run, &job);
  was_finished(&call, 6);
}

Test(executor, one_thread_that_could_be_had_runs_them_all) {
  enum { CALLS = 8 };
  struct job first, jobs[CALLS];
  struct call calls[CALLS], call;
  struct gate go;
  open_pool(4);
  gate_init(&go);
  job_init(&first, 0);
  call_now(&call, root(), run, &first);
  was_finished(&call, 0);
  for (int i = 0; i < CALLS; i++) { // their own threads first
    job_init(&jobs[i], i);
    call_start_at(&calls[i], &go, root(), run, &jobs[i]);
  }
  threads_allow(0);
  gate_open(&go);
  for (int i = 0; i < CALLS; i++) {
    call_join(&calls[i]);
    was_finished(&calls[i], i);
  }
}

struct unlucky {
  struct job inner;
  struct call call;
};

static int execute_without_a_second_thread(const rctx *ctx, void *arg) {
  struct unlucky *unlucky = arg;
  call_now(&unlucky->call, ctx, run, &unlucky->inner);
  return unlucky->call.rc;
}

Test(executor, a_task_of_a_task_that_no_second_thread_can_run_is_refused__EXEC_1) {
  struct unlucky unlucky = {0};
  open_pool(4);
  threads_allow(1);
  for (int i = 0; i < 3; i++) {
    job_init(&unlucky.inner, 0);
    cr_assert_eq(rctx_execute(root(), execute_without_a_second_thread, &unlucky, NULL, NULL), -EAGAIN);
    was_not_started(&unlucky.call, -EAGAIN);
  }
  threads_allow_all();
  int depth = 3;
  cr_assert_eq(rctx_execute(root(), nest, &depth, NULL, NULL), 103, "with threads it works");
}

Test(executor, what_was_submitted_by_hand_without_threads_runs_when_there_are_some) {
  struct job jobs[2];
  open_pool(2);
  for (int i = 0; i < 2; i++) job_init(&jobs[i], 0);
  threads_allow(0);
  submit_own(&jobs[0]);
  threads_allow_all();
  cr_assert_eq(stats().tasks, 1);
  submit_own(&jobs[1]);
  for (int i = 0; i < 2; i++) gate_open(&jobs[i].may_end);
  quiesce();
  for (int i = 0; i < 2; i++) cr_assert_eq(atomic_load(&jobs[i].cleaned), 1);
}

/* ---- the manager's end ------------------------------------------------------------------------------------------- */

Test(executor, a_manager_with_tasks_is_not_destroyed) {
  struct job job;
  open_pool(1);
  job_init(&job, 0);
  submit_own(&job);
  gate_pass(&job.started);
  cr_assert_eq(rctx_manager_destroy(manager), -EBUSY, "running");
  cr_assert_eq(stats().tasks, 1, "and nothing was done");
  gate_open(&job.may_end);
  cr_assert_eq(rctx_manager_destroy(manager), 0, "it is just ending: waited for");
  manager = NULL;
  cr_assert_eq(atomic_load(&job.cleaned), 1);
}

Test(executor, a_manager_with_an_orphan_is_not_destroyed) {
  struct job job;
  struct call call;
  open_pool(1);
  rctx *c = rctx_with_cancel(root());
  job_init(&job, 0);
  call_start(&call, c, run_until_it_may_end, &job);
  gate_pass(&job.started);
  rctx_end(c);
  call_join(&call);
  cr_assert_eq(rctx_manager_destroy(manager), -EBUSY);
  gate_open(&job.may_end);
  cr_assert_eq(rctx_manager_destroy(manager), 0);
  manager = NULL;
  cr_assert_eq(atomic_load(&job.cleaned), 1);
}

struct inside {
  int destroy, quiesce, other;
};

static int end_managers(const rctx *ctx, void *arg) {
  struct inside *inside = arg;
  rctx_manager *other;
  (void)ctx;
  inside->destroy = rctx_manager_destroy(manager);
  inside->quiesce = rctx_quiesce(manager, INT64_MAX);
  inside->other = rctx_manager_create(&(struct rctx_manager_options){0}, &other);
  if (inside->other) return 0;
  inside->other = rctx_manager_destroy(other);
  if (inside->other) manager = other; // to be seen by the leak check
  return 0;
}

Test(executor, destroy_and_quiesce_inside_a_task_would_deadlock_and_say_so) {
  struct inside inside;
  open_pool(1);
  cr_assert_eq(rctx_execute(root(), end_managers, &inside, NULL, NULL), 0);
  cr_assert_eq(inside.destroy, -EDEADLK);
  cr_assert_eq(inside.quiesce, -EDEADLK);
}

// "-EDEADLK inside one of its callbacks": of another manager's it is no deadlock.
Test(executor, another_manager_may_be_destroyed_inside_a_task) {
  struct inside inside;
  rctx_manager *mine;
  open_pool(1);
  mine = manager;
  cr_assert_eq(rctx_execute(root(), end_managers, &inside, NULL, NULL), 0);
  rctx_manager *left = manager;
  manager = mine;
  if (left != mine) rctx_manager_destroy(left);
  cr_assert_eq(inside.other, 0, "destroying it said %d", inside.other);
}

/* ---- the steady state -------------------------------------------------------------------------------------------- */

int mallctl(const char *name, void *old, size_t *old_length, void *value, size_t length) __attribute__((weak));

// All that this thread has ever asked of malloc, exact where jemalloc is malloc.
static uint64_t bytes_asked_of_malloc(void) {
  uint64_t bytes = 0;
  size_t length = sizeof bytes;
  if (mallctl) mallctl("thread.allocated", &bytes, &length, NULL, 0);
  return bytes;
}

static int ask_malloc(const rctx *ctx, void *arg) {
  (void)ctx;
  *(uint64_t *)arg = bytes_asked_of_malloc();
  return 1;
}

// No assertion inside: Criterion's own take memory, also when they hold.
static bool execute_and_compare(const rctx *ctx, int rounds) {
  uint64_t first = 0, asked = 0;
  bool right = rctx_execute(ctx, ask_malloc, &first, NULL, NULL) == 1;
  for (int i = 0; i < rounds; i++) right &= rctx_execute(ctx, ask_malloc, &asked, NULL, NULL) == 1;
  return right && asked == first; // of the one worker
}

Test(executor, it_allocates_nothing_once_warm) {
#if CHECK_UNCACHED
  cr_skip_test("this build caches nothing");
#endif
  struct rctx_manager_options options = {.allocator = counting_table(), .threads_max = 1};
  cr_assert_eq(rctx_manager_create(&options, &counting.manager), 0);
  rctx *c = rctx_with_cancel(counting_root());
  bool right = true;
  size_t requests = 1;
  uint64_t asked = 1;
  for (int i = 0; i < 20 && (requests || asked);
       i++) { // blocks gather where they are freed: that takes a while to fill
    size_t calls = atomic_load(&counting.calls);
    uint64_t before = bytes_asked_of_malloc();
    right = execute_and_compare(c, 1000);
    asked = bytes_asked_of_malloc() - before;
    requests = atomic_load(&counting.calls) - calls;
  }
  cr_assert(right, "wrong result, or the worker allocated");
  cr_assert_eq(requests, 0, "requests of the allocator");
  cr_assert_eq(asked, 0, "past the allocator's table");
  rctx_end(c);
  counting_close();
}
