/*
 * slices.c - a loop that goes on serving while 100,000 contexts are cancelled.
 *
 * A cancel marks everything below before it returns, and the callbacks it queued run in the loop afterwards: some milliseconds in
 * which nobody is served. In slices, each turn marks a few, runs a few callbacks, and serves.
 *
 * Look at: the longest turn, in contexts marked and callbacks run, and what was served meanwhile.
 */
#include "example.h"
#include <rctx/rctx.h>

enum { CONTEXTS = 100000, SLICE = 500 };

static rctx *contexts[CONTEXTS];
static struct rctx_after callbacks[CONTEXTS];
static size_t called;

static void close_connection(const rctx *ctx, void *arg) {
  (void)ctx;
  (void)arg;
  called++;
}

static rctx *connect_all(rctx_loop *loop) {
  rctx *server = rctx_with_cancel(rctx_background());
  for (int i = 0; i < CONTEXTS; i++) {
    callbacks[i] = (struct rctx_after){0};
    contexts[i] = rctx_with_cancel(server);
    require(rctx_watch(contexts[i], &callbacks[i], loop, RCTX_ON_ENDED_QUEUE, close_connection, NULL) ==
            RCTX_REGISTERED);
  }
  called = 0;
  return server;
}

static void disconnect_all(rctx *server) {
  for (int i = 0; i < CONTEXTS; i++) rctx_end(contexts[i]);
  rctx_end(server);
}

static size_t marked_now(void) {
  size_t n = 0;
  for (size_t i = CONTEXTS; i-- > 0;) n += rctx_err(contexts[i]) != 0;
  return n;
}

static void all_at_once(rctx_loop *loop) {
  rctx *server = connect_all(loop);
  rctx_cancel(server);
  size_t marked = marked_now(), ran = rctx_loop_drain(loop, SIZE_MAX);
  printf("at once:   1 turn, the longest stall is %zu contexts and %zu callbacks\n", marked, ran);
  expect(marked == CONTEXTS && ran == CONTEXTS);
  disconnect_all(server);
}

static void in_slices(rctx_loop *loop) {
  rctx *server = connect_all(loop);
  struct rctx_sweep sweep;
  size_t turns = 0, served = 0, longest = 0, marked = 0;

  bool more = rctx_cancel_begin(server, RCTX_CAUSE(-ESHUTDOWN, RCTX_ORIGIN_SHUTDOWN, "the server closes"), &sweep);
  expect(more);
  while (more || called < CONTEXTS) {
    size_t called_before = called, marked_before = marked;
    if (more) more = rctx_cancel_step(&sweep, SLICE);
    marked = marked_now();
    rctx_loop_drain(loop, SLICE);
    served++; /* here the loop would look after its other descriptors */
    turns++;
    if (marked - marked_before > longest) longest = marked - marked_before;
    if (called - called_before > longest) longest = called - called_before;
  }
  printf("in slices: %zu turns, %zu others served, the longest stall is %zu contexts per turn\n", turns, served,
         longest);
  expect(longest == SLICE && marked == CONTEXTS && called == CONTEXTS);
  disconnect_all(server);
}

int main(void) {
  rctx_loop *loop;
  require(rctx_loop_create(&loop) == 0);
  all_at_once(loop);
  in_slices(loop);
  rctx_loop_destroy(loop);
  return expectations_failed();
}
