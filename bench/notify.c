/*
 * The ways to learn of an end: callbacks (after_register_stop, watch_register_stop), event loops (loop_cancel_10000),
 * blocked threads (cancel_to_wake) and descriptors (done_fd_create).
 *
 * The last two are bound by the kernel. They run the bare system calls in turn with the library, in the same block, and
 * report those as kernel_ns: the ratio of the two is the figure, and survives a noisy machine.
 */
#include "cases.h"
#include "clock.h"
#include "count_alloc.h"
#include "wake.h"

#include <rctx/rctx.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

static void count_call(const rctx *ctx, void *arg) {
  (void)ctx;
  ++*(size_t *)arg;
}

/* ---- registering ------------------------------------------------------------------------------------------------- */

struct registrar {
  rctx *ctx;
  rctx_loop *loop;
  size_t calls;
};

static void *open_registrar(const struct bench_case *self) {
  (void)self;
  struct registrar *r = bench_memory(1, sizeof *r);
  r->ctx = rctx_with_cancel(rctx_background());
  if (rctx_loop_create(&r->loop) != 0) {
    abort();
  }
  return r;
}

static void close_registrar(void *fixture) {
  struct registrar *r = fixture;
  rctx_loop_destroy(r->loop);
  rctx_end(r->ctx);
  free(r);
}

static void after_register_stop(void *fixture, size_t ops) {
  struct registrar *r = fixture;
  struct rctx_after node = {.rctx__ctx = NULL};
  for (size_t i = 0; i < ops; i++) {
    rctx_after(r->ctx, &node, count_call, &r->calls);
    rctx_after_stop(&node);
  }
}

static void watch_register_stop(void *fixture, size_t ops) {
  struct registrar *r = fixture;
  struct rctx_after node = {.rctx__ctx = NULL};
  for (size_t i = 0; i < ops; i++) {
    rctx_watch(r->ctx, &node, r->loop, RCTX_ON_ENDED_QUEUE, count_call, &r->calls);
    rctx_after_stop(&node);
  }
}

/* ---- a burst into an event loop ---------------------------------------------------------------------------------- */

struct burst {
  rctx_loop *loop;
  rctx *server;
  size_t count;
  size_t calls;
  rctx **stream;
  struct rctx_after *watch;
};

static void *open_burst(const struct bench_case *self) {
  struct burst *b = bench_memory(1, sizeof *b);
  b->count = self->batch;
  b->stream = bench_memory(b->count, sizeof(rctx *));
  b->watch = bench_memory(b->count, sizeof *b->watch);
  if (rctx_loop_create(&b->loop) != 0) {
    abort();
  }
  return b;
}

static void watch_streams(void *fixture) {
  struct burst *b = fixture;
  b->server = rctx_with_cancel(rctx_background());
  b->calls = 0;
  for (size_t i = 0; i < b->count; i++) {
    b->stream[i] = rctx_with_cancel(b->server);
    rctx_watch(b->stream[i], &b->watch[i], b->loop, RCTX_ON_ENDED_QUEUE, count_call, &b->calls);
  }
}

/* A connection with 10,000 streams is lost; its loop runs the callbacks in slices of 1,000. */
static void cancel_and_drain(void *fixture, size_t ops, struct bench_sample *sample) {
  struct burst *b = fixture;
  (void)ops;
  struct bench_allocs before, after;
  bench_count_allocs(&before);
  int64_t start = bench_clock(CLOCK_MONOTONIC);
  rctx_cancel(b->server);
  while (rctx_loop_drain(b->loop, 1000) > 0) {
  }
  sample->ns = (double)(bench_clock(CLOCK_MONOTONIC) - start);
  bench_count_allocs(&after);
  sample->extra[0] = (double)(after.descriptors - before.descriptors);
  sample->extra[1] = (double)b->calls;
}

static void end_streams(void *fixture) {
  struct burst *b = fixture;
  for (size_t i = 0; i < b->count; i++) {
    rctx_after_stop(&b->watch[i]);
    rctx_end(b->stream[i]);
  }
  rctx_end(b->server);
}

static void close_burst(void *fixture) {
  struct burst *b = fixture;
  rctx_loop_destroy(b->loop);
  free(b->watch);
  free(b->stream);
  free(b);
}

/* ---- a descriptor ------------------------------------------------------------------------------------------------ */

static void contexts_with_fd(const rctx *parent, size_t count) {
  for (size_t i = 0; i < count; i++) {
    RCTX_SCOPED rctx *ctx = rctx_with_cancel(parent);
    bench_keep_int(rctx_fd(ctx));
  }
}

static void eventfds(size_t count) {
  for (size_t i = 0; i < count; i++) {
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    bench_keep_int(fd);
    close(fd);
  }
}

static void done_fd_create(void *fixture, size_t ops, struct bench_sample *sample) {
  const struct registrar *r = fixture;
  enum { SLICE = 128 };
  int64_t ours = 0, kernel = 0;
  for (size_t done = 0; done < ops; done += SLICE) {
    size_t slice = ops - done < SLICE ? ops - done : SLICE;
    int64_t start = bench_clock(CLOCK_MONOTONIC);
    contexts_with_fd(r->ctx, slice);
    int64_t middle = bench_clock(CLOCK_MONOTONIC);
    eventfds(slice);
    ours += middle - start;
    kernel += bench_clock(CLOCK_MONOTONIC) - middle;
  }
  sample->ns = (double)ours;
  sample->extra[0] = (double)kernel / (double)ops;
}

/* ---- a blocked thread -------------------------------------------------------------------------------------------- */

static void *make_wake(void) { return rctx_with_cancel(rctx_background()); }
static void wait_wake(void *ctx) { rctx_wait(ctx, INT64_MAX); }
static void cancel_wake(void *ctx) { rctx_cancel(ctx); }
static void end_wake(void *ctx) { rctx_end(ctx); }

static void *open_sleeper(const struct bench_case *self) {
  (void)self;
  static const struct bench_wake wake = {make_wake, wait_wake, cancel_wake, end_wake};
  return bench_wake_open(&wake);
}

const struct bench_case bench_notify_cases[] = {
    {.name = "after_register_stop",
     .open = open_registrar,
     .run = after_register_stop,
     .close = close_registrar,
     .no_allocs = true},
    {.name = "watch_register_stop",
     .open = open_registrar,
     .run = watch_register_stop,
     .close = close_registrar,
     .no_allocs = true},
    {.name = "loop_cancel_10000",
     .open = open_burst,
     .prepare = watch_streams,
     .measure = cancel_and_drain,
     .cleanup = end_streams,
     .close = close_burst,
     .batch = 10000,
     .no_allocs = true,
     .extra = {"eventfd_writes", "callbacks"}},
    {.name = "done_fd_create",
     .open = open_registrar,
     .measure = done_fd_create,
     .close = close_registrar,
     .uncounted = true,
     .extra = {"kernel_ns"}},
    {.name = "cancel_to_wake",
     .open = open_sleeper,
     .measure = bench_wake_measure,
     .close = bench_wake_close,
     .batch = BENCH_WAKES,
     .uncounted = true,
     .extra = {"kernel_ns"}},
    {.name = NULL},
};
