/*
 * executor.c - an embedder's own executor: one thread with a queue runs tasks, groups and callbacks.
 *
 * In Go there is nothing to write: the scheduler runs every goroutine. In C a host has threads of its own, with their
 * stacks, priorities and thread-local state, and wants work to run on them and nowhere else. So the library asks: an
 * executor (the queue of an event loop, a worker of the host) is a table with one function that takes a task, and one
 * that may say "not now".
 *
 * Look at: struct worker and its three functions, which are all there is to write. Tasks link themselves (task->next),
 * so a queue needs no memory. And at the group, whose waiter lends a hand: with one worker it would else only sit
 * there.
 */
#include "example.h"
#include <rctx/rctx.h>

struct worker {
  struct rctx_executor executor; /* first: so that a pointer to it is one to the worker */
  pthread_mutex_t mutex;
  pthread_cond_t changed;
  struct rctx_task *first, *last;
  bool closed;
  pthread_t thread;
};

static void submit(struct rctx_executor *self, struct rctx_task *task) {
  struct worker *worker = (struct worker *)self;

  task->next = NULL;
  pthread_mutex_lock(&worker->mutex);
  if (worker->last)
    worker->last->next = task;
  else
    worker->first = task;
  worker->last = task;
  pthread_cond_signal(&worker->changed);
  pthread_mutex_unlock(&worker->mutex);
}

/* Asked before a task is promised to run. */
static int prepare(struct rctx_executor *self) {
  struct worker *worker = (struct worker *)self;
  pthread_mutex_lock(&worker->mutex);
  int err = worker->closed ? -EAGAIN : 0;
  pthread_mutex_unlock(&worker->mutex);
  return err;
}

static void *work(void *arg) {
  struct worker *worker = arg;

  pthread_mutex_lock(&worker->mutex);
  for (;;) {
    while (!worker->first && !worker->closed) pthread_cond_wait(&worker->changed, &worker->mutex);
    struct rctx_task *task = worker->first;
    if (!task) break; /* closed, and all that was taken has been run */
    worker->first = task->next;
    if (!worker->first) worker->last = NULL;
    pthread_mutex_unlock(&worker->mutex);
    rctx_task_run(task); /* the task may be gone afterwards */
    pthread_mutex_lock(&worker->mutex);
  }
  pthread_mutex_unlock(&worker->mutex);
  return NULL;
}

static void worker_start(struct worker *worker) {
  *worker = (struct worker){
      .executor = {submit, prepare}, .mutex = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};
  require(pthread_create(&worker->thread, NULL, work, worker) == 0);
}

/* Refuses new tasks and lets those in the queue run. */
static void worker_close(struct worker *worker) {
  pthread_mutex_lock(&worker->mutex);
  worker->closed = true;
  pthread_cond_signal(&worker->changed);
  pthread_mutex_unlock(&worker->mutex);
  pthread_join(worker->thread, NULL);
}

static int note_thread(const rctx *ctx, void *where) {
  (void)ctx;
  *(pthread_t *)where = pthread_self();
  return 0;
}

static void note_thread_at_end(const rctx *ctx, void *where) { (void)note_thread(ctx, where); }

static void one_task(const rctx *request, struct worker *worker) {
  pthread_t where = pthread_self();
  expect(rctx_execute(request, note_thread, &where, NULL, NULL) == 0);
  expect(pthread_equal(where, worker->thread));
  printf("rctx_execute:   ran on the worker\n");
}

static void a_group(const rctx *request, struct worker *worker) {
  pthread_t where[4];
  struct rctx_group group;
  int by_worker = 0, by_waiter = 0;

  rctx_group_init(&group, request); /* its manager's executor; rctx_group_init_on() takes another */
  for (int i = 0; i < 4; i++) rctx_group_go(&group, note_thread, &where[i]);
  expect(rctx_group_fini(&group) == 0);
  for (int i = 0; i < 4; i++) {
    if (pthread_equal(where[i], worker->thread)) by_worker++;
    if (pthread_equal(where[i], pthread_self())) by_waiter++;
  }
  expect(by_worker + by_waiter == 4);
  printf("rctx_group:     4 tasks, each on the worker or on the thread that waits for them\n");
}

static void a_callback(const rctx *request, struct worker *worker) {
  rctx *call = rctx_with_cancel(request);
  struct rctx_after node = {0};
  pthread_t where = pthread_self();

  expect(rctx_after_on(call, &node, &worker->executor, RCTX_ON_ENDED_QUEUE, note_thread_at_end, &where) == 0);
  rctx_cancel(call);
  expect(!rctx_after_stop_sync(&node)); /* false: not stopped but run; and it has returned */
  expect(pthread_equal(where, worker->thread));
  printf("rctx_after_on:  the callback, too\n");
  rctx_end(call);
}

static void not_now(const rctx *request, struct worker *worker) {
  pthread_t where;
  enum rctx_outcome outcome;

  worker_close(worker);
  int err = rctx_execute(request, note_thread, &where, NULL, &outcome);
  expect(err == -EAGAIN && outcome == RCTX_NOT_STARTED);
  printf("worker closed:  rctx_execute says %s, and the task never runs\n", rctx_strerror(err));
}

int main(void) {
  struct worker worker;
  rctx_manager *manager;
  struct rctx_stats stats;

  worker_start(&worker);
  require(rctx_manager_create(&(struct rctx_manager_options){.executor = &worker.executor}, &manager) == 0);
  rctx *request = rctx_manager_create_cancellable(manager, rctx_manager_background(manager));

  one_task(request, &worker);
  a_group(request, &worker);
  a_callback(request, &worker);
  rctx_stats(manager, &stats);
  expect(stats.threads == 0);
  printf("                the library has started %zu threads\n", stats.threads);
  not_now(request, &worker);

  rctx_end(request);
  expect(rctx_manager_destroy(manager) == 0);
  return expectations_failed();
}
