/*
 * waiting.c - blocking so that the end is noticed: a sleep, a descriptor, a queue behind a condition variable.
 *
 * In Go, WaitForCompletion and every other blocking step is a select with <-ctx.Done() beside what is waited for:
 *   select {
 *   case <-time.After(d):     // rctx_sleep
 *   case b := <-bytes:        // rctx_poll, for descriptors
 *   case item := <-queue:     // rctx_cond_wait, for what threads hand each other
 *   case <-ctx.Done():
 *   }
 *
 * Look at: each has one call here, and each says in its result which of the two it was.
 */
#include "example.h"
#include <rctx/rctx.h>
#include <unistd.h>

static void sleeping(void) {
  RCTX_SCOPED rctx *ctx = rctx_with_timeout(rctx_background(), 60 * SECOND);
  RCTX_SCOPED rctx *hurried = rctx_with_timeout(ctx, 20 * MS);
  int64_t began_ns = rctx_now();

  expect(rctx_sleep(ctx, 10 * MS) == 0);
  expect(rctx_now() - began_ns >= 10 * MS);
  printf("rctx_sleep      10 ms within 60 s: slept\n");
  int err = rctx_sleep(hurried, 3600 * SECOND);
  expect(err == -ETIMEDOUT);
  printf("                an hour within 20 ms: %s\n", rctx_strerror(err));
}

static void polling(void) {
  int ends[2];
  char byte = 0;

  require(pipe(ends) == 0);
  RCTX_SCOPED rctx *patient = rctx_with_timeout(rctx_background(), 60 * SECOND);
  RCTX_SCOPED rctx *ctx = rctx_with_timeout(patient, 20 * MS);
  struct pollfd fd = {.fd = ends[0], .events = POLLIN};

  expect(write(ends[1], "x", 1) == 1);
  expect(rctx_poll(patient, &fd, 1, INT64_MAX) == 1 && (fd.revents & POLLIN) && read(ends[0], &byte, 1) == 1);
  printf("rctx_poll       a pipe with a byte in it: 1 ready, read '%c'\n", byte);
  int err = rctx_poll(ctx, &fd, 1, INT64_MAX);
  expect(err == -ETIMEDOUT && fd.revents == 0);
  printf("                a pipe that stays silent: %s\n", rctx_strerror(err));
  close(ends[0]);
  close(ends[1]);
}

/* A queue between two threads, as small as can be: numbers that go up. */
struct queue {
  pthread_mutex_t mutex;
  pthread_cond_t changed;
  int put, taken;
};

static void queue_put(struct queue *queue) {
  pthread_mutex_lock(&queue->mutex);
  queue->put++;
  pthread_cond_signal(&queue->changed);
  pthread_mutex_unlock(&queue->mutex);
}

/* The next item's number, or the context's error. What is there goes first: an end throws nothing away. */
static int queue_take(struct queue *queue, const rctx *ctx) {
  int err = 0;

  pthread_mutex_lock(&queue->mutex);
  while (queue->taken == queue->put && err == 0) err = rctx_cond_wait(ctx, &queue->changed, &queue->mutex);
  if (queue->taken < queue->put) err = ++queue->taken;
  pthread_mutex_unlock(&queue->mutex);
  return err;
}

struct consumer {
  struct queue *queue;
  const rctx *ctx;
  int items, err;
};

static void *consume(void *arg) {
  struct consumer *me = arg;
  while ((me->err = queue_take(me->queue, me->ctx)) > 0) me->items++;
  return NULL;
}

static void queueing(void) {
  struct queue queue = {.mutex = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};
  RCTX_SCOPED rctx *ctx = rctx_with_cancel(rctx_background());
  struct consumer consumer = {.queue = &queue, .ctx = ctx};
  pthread_t thread;

  require(pthread_create(&thread, NULL, consume, &consumer) == 0);
  for (int i = 0; i < 3; i++) queue_put(&queue);
  rctx_cancel_with(ctx, -ECANCELED, RCTX_ORIGIN_SHUTDOWN, "no more work");
  expect(pthread_join(thread, NULL) == 0);
  expect(consumer.items == 3 && consumer.err == -ECANCELED);
  printf("rctx_cond_wait  a queue: %d items taken, then: %s (%s)\n", consumer.items, rctx_strerror(consumer.err),
         rctx_cause(ctx)->text);
  pthread_cond_destroy(&queue.changed);
  pthread_mutex_destroy(&queue.mutex);
}

int main(void) {
  sleeping();
  polling();
  queueing();
  return expectations_failed();
}
