// hand_executor.h - an embedder's executor: a queue that is run when the test says so, and a prepare that says what it is told.
//
//   struct hand hand;
//   hand_init(&hand);
//   options.executor = &hand.table;
//   hand_run(&hand);                 // everything that is queued, on this thread; returns how much that was
//
//   hand_thread_start(&hand);        // a thread that runs the queue until hand_thread_stop()
#ifndef RCTX_TESTS_HAND_EXECUTOR_H
#define RCTX_TESTS_HAND_EXECUTOR_H

#include "support/check.h"

#include <pthread.h>
#include <rctx/executor.h>
#include <stdatomic.h>

struct hand {
  struct rctx_executor table; // first: the table is the executor
  pthread_mutex_t mutex;
  pthread_cond_t changed;
  struct rctx_task *first, *last; // mutex
  size_t queued;                  // mutex
  bool stop;                      // mutex
  pthread_t thread;
  atomic_size_t submitted, prepared;
  atomic_int refusal; // what prepare answers
};

static void hand_submit(struct rctx_executor *self, struct rctx_task *task) {
  struct hand *hand = (struct hand *)(void *)self;
  atomic_fetch_add(&hand->submitted, 1);
  pthread_mutex_lock(&hand->mutex);
  task->next = NULL;
  if (hand->last)
    hand->last->next = task;
  else
    hand->first = task;
  hand->last = task;
  hand->queued++;
  pthread_cond_broadcast(&hand->changed);
  pthread_mutex_unlock(&hand->mutex);
}

static int hand_prepare(struct rctx_executor *self) {
  struct hand *hand = (struct hand *)(void *)self;
  atomic_fetch_add(&hand->prepared, 1);
  return atomic_load(&hand->refusal);
}

static inline void hand_init(struct hand *hand) {
  memset(hand, 0, sizeof *hand);
  hand->table = (struct rctx_executor){.submit = hand_submit, .prepare = hand_prepare};
  pthread_mutex_init(&hand->mutex, NULL);
  pthread_cond_init(&hand->changed, NULL);
}

// The first of the queue, or NULL; wait: until there is one or hand->stop is set.
static inline struct rctx_task *hand_take(struct hand *hand, bool wait) {
  pthread_mutex_lock(&hand->mutex);
  while (wait && !hand->first && !hand->stop) pthread_cond_wait(&hand->changed, &hand->mutex);
  struct rctx_task *task = hand->first;
  if (task) {
    hand->first = task->next;
    if (!hand->first) hand->last = NULL;
    hand->queued--;
  }
  pthread_mutex_unlock(&hand->mutex);
  return task;
}

static inline bool hand_run_one(struct hand *hand) {
  struct rctx_task *task = hand_take(hand, false);
  if (task) rctx_task_run(task);
  return task != NULL;
}

static inline size_t hand_run(struct hand *hand) {
  size_t ran = 0;
  while (hand_run_one(hand)) ran++;
  return ran;
}

// Waits until that many are queued.
static inline void hand_wait_for(struct hand *hand, size_t queued) {
  pthread_mutex_lock(&hand->mutex);
  while (hand->queued < queued) pthread_cond_wait(&hand->changed, &hand->mutex);
  pthread_mutex_unlock(&hand->mutex);
}

static inline size_t hand_queued(struct hand *hand) {
  pthread_mutex_lock(&hand->mutex);
  size_t queued = hand->queued;
  pthread_mutex_unlock(&hand->mutex);
  return queued;
}

static void *hand_thread(void *arg) {
  for (struct rctx_task *task; (task = hand_take(arg, true));) rctx_task_run(task);
  return NULL;
}

static inline void hand_thread_start(struct hand *hand) {
  hand->stop = false;
  cr_assert_eq(pthread_create(&hand->thread, NULL, hand_thread, hand), 0);
}

// The queue is run to its end first.
static inline void hand_thread_stop(struct hand *hand) {
  pthread_mutex_lock(&hand->mutex);
  hand->stop = true;
  pthread_cond_broadcast(&hand->changed);
  pthread_mutex_unlock(&hand->mutex);
  cr_assert_eq(pthread_join(hand->thread, NULL), 0);
}

#endif
