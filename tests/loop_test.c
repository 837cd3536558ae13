// Event loops: the second half of after.h. One queue and one eventfd per loop, slices, stop out of the queue, destroy.
#include "support/check.h"
#include "support/fake_time.h"
#include "support/threads.h"

#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

static rctx_loop *loop;

static void open_loop(void) {
  fake_open();
  if (rctx_loop_create(&loop) == 0) return;
  fprintf(stderr, "no loop\n");
  abort();
}

static void close_loop(void) {
  rctx_loop_destroy(loop);
  fake_close();
}

TestSuite(loop, .init = open_loop, .fini = close_loop, .timeout = 120);

static bool readable(const rctx_loop *of) {
  struct pollfd one = {rctx_loop_fd(of), POLLIN, 0};
  return poll(&one, 1, 0) == 1 && (one.revents & POLLIN);
}

static int order[16], ordered;
static void note_order(const rctx *ctx, void *arg) {
  cr_assert_neq(rctx_err(ctx), 0);
  order[ordered++] = (int)(intptr_t)arg;
}

static void count(const rctx *ctx, void *arg) {
  cr_assert_neq(rctx_err(ctx), 0);
  ++*(int *)arg;
}

static size_t drain(size_t max) { return rctx_loop_drain(loop, max); }

Test(loop, callbacks_run_inside_drain_after_the_end) {
  int calls = 0;
  struct rctx_after node = {0};
  RCTX_SCOPED rctx *c = rctx_with_cancel(fake_root());
  cr_assert_eq(rctx_watch(c, &node, loop, RCTX_ON_ENDED_TELL, count, &calls), RCTX_REGISTERED);
  cr_assert_not(readable(loop));
  cr_assert_eq(drain(SIZE_MAX), 0);
  rctx_cancel(c);
  cr_assert(readable(loop), "queued when the cancel returns");
  cr_assert_eq(calls, 0, "not in the canceller");
  cr_assert_eq(drain(SIZE_MAX), 1);
  cr_assert_eq(calls, 1);
  cr_assert_not(readable(loop));
  cr_assert_eq(drain(SIZE_MAX), 0);
  cr_assert_not(rctx_after_stop(&node));
}

Test(loop, they_run_in_the_order_of_registration__AFTER_4) {
  struct rctx_after node[16] = {0};
  RCTX_SCOPED rctx *c = rctx_with_cancel(fake_root());
  for (intptr_t i = 0; i < 16; i++) rctx_watch(c, &node[i], loop, RCTX_ON_ENDED_TELL, note_order, (void *)i);
  rctx_cancel(c);
  cr_assert_eq(drain(SIZE_MAX), 16);
  for (int i = 0; i < 16; i++) cr_assert_eq(order[i], i);
}

Test(loop, slices_leave_the_rest_and_the_fd_readable) {
  int calls = 0;
  struct rctx_after node[10] = {0};
  RCTX_SCOPED rctx *c = rctx_with_cancel(fake_root());
  for (int i = 0; i < 10; i++) rctx_watch(c, &node[i], loop, RCTX_ON_ENDED_TELL, count, &calls);
  rctx_cancel(c);
  cr_assert_eq(drain(0), 0);
  cr_assert_eq(calls, 0);
  cr_assert(readable(loop));
  cr_assert_eq(drain(4), 4);
  cr_assert(calls == 4 && readable(loop));
  cr_assert_eq(drain(4), 4);
  cr_assert(calls == 8 && readable(loop));
  cr_assert_eq(drain(4), 2);
  cr_assert(calls == 10 && !readable(loop));
}

Test(loop, an_exact_slice_leaves_nothing_behind) {
  int calls = 0;
  struct rctx_after node[4] = {0};
  RCTX_SCOPED rctx *c = rctx_with_cancel(fake_root());
  for (int i = 0; i < 4; i++) rctx_watch(c, &node[i], loop, RCTX_ON_ENDED_TELL, count, &calls);
  rctx_cancel(c);
  cr_assert_eq(drain(4), 4);
  cr_assert_eq(drain(4), 0);
  cr_assert_not(readable(loop));
}

// The number of writes is what an eventfd counts. The library's own drain would read it, so it is read here, before.
static uint64_t writes_so_far(void) {
  uint64_t value = 0;
  cr_assert_eq(read(rctx_loop_fd(loop), &value, sizeof value), (ssize_t)sizeof value);
  return value;
}

Test(loop, a_burst_of_ten_thousand_is_one_write) {
  enum { BURST = 10000 };
  static rctx *all[BURST];
  static struct rctx_after node[BURST];
  int calls = 0;
  RCTX_SCOPED rctx *parent = rctx_with_cancel(fake_root());
  for (int i = 0; i < BURST; i++) {
    all[i] = i % 2 ? rctx_with_cancel(parent) : rctx_with_cancel(fake_root());
    rctx_watch(all[i], &node[i], loop, RCTX_ON_ENDED_TELL, count, &calls);
  }
  for (int i = 0; i < BURST; i += 2) // half of them one by one
    rctx_cancel(all[i]);
  rctx_cancel(parent); // the others together
  cr_assert_eq(writes_so_far(), 1);
  cr_assert_eq(drain(SIZE_MAX), BURST);
  cr_assert_eq(calls, BURST);
  for (int i = 0; i < BURST; i++) rctx_end(all[i]);
}

Test(loop, each_burst_wakes_it_again) {
  int calls = 0;
  for (int burst = 1; burst <= 5; burst++) {
    struct rctx_after node[3] = {0};
    RCTX_SCOPED rctx *c = rctx_with_cancel(fake_root());
    for (int i = 0; i < 3; i++) rctx_watch(c, &node[i], loop, RCTX_ON_ENDED_TELL, count, &calls);
    cr_assert_not(readable(loop));
    rctx_cancel(c);
    cr_assert(readable(loop));
    cr_assert_eq(drain(2), 2);
    cr_assert(readable(loop));
    cr_assert_eq(drain(2), 1);
    cr_assert_eq(calls, 3 * burst);
  }
}

Test(loop, stop_takes_it_back_registered_or_queued) {
  int calls = 0;
  struct rctx_after registered = {0}, queued = {0}, other = {0};
  RCTX_SCOPED rctx *c = rctx_with_cancel(fake_root());
  rctx_watch(c, &registered, loop, RCTX_ON_ENDED_TELL, count, &calls);
  rctx_watch(c, &queued, loop, RCTX_ON_ENDED_TELL, count, &calls);
  rctx_watch(c, &other, loop, RCTX_ON_ENDED_TELL, count, &calls);
  cr_assert(rctx_after_stop(&registered));
  rctx_cancel(c);
  cr_assert(rctx_after_stop(&queued), "out of the loop's queue");
  cr_assert_not(rctx_after_stop(&queued));
  cr_assert_eq(drain(SIZE_MAX), 1);
  cr_assert_eq(calls, 1);
  cr_assert_not(rctx_after_stop(&other), "it has run");
}

Test(loop, any_of_the_queued_can_be_stopped) {
  for (int which = 0; which < 8; which++) {
    int calls = 0;
    struct rctx_after *node[8];
    RCTX_SCOPED rctx *c = rctx_with_cancel(fake_root());
    for (int i = 0; i < 8; i++) {
      node[i] = calloc(1, sizeof *node[i]);
      rctx_watch(c, node[i], loop, RCTX_ON_ENDED_TELL, count, &calls);
    }
    rctx_cancel(c);
    cr_assert(rctx_after_stop(node[which]));
    free(node[which]); // quiet
    cr_assert(rctx_after_stop(node[(which + 1) % 8]));
    free(node[(which + 1) % 8]);
    cr_assert_eq(drain(SIZE_MAX), 6);
    cr_assert_eq(calls, 6);
    for (int i = 0; i < 8; i++)
      if (i != which && i != (which + 1) % 8) free(node[i]);
  }
}

Test(loop, stopping_all_that_is_queued_leaves_an_empty_drain) {
  int calls = 0;
  struct rctx_after node[3] = {0};
  RCTX_SCOPED rctx *c = rctx_with_cancel(fake_root());
  for (int i = 0; i < 3; i++) rctx_watch(c, &node[i], loop, RCTX_ON_ENDED_TELL, count, &calls);
  rctx_cancel(c);
  for (int i = 0; i < 3; i++) cr_assert(rctx_after_stop_sync(&node[i]));
  cr_assert_eq(drain(SIZE_MAX), 0);
  cr_assert_eq(calls, 0);
  cr_assert_not(readable(loop), "a drain that found nothing has read the eventfd");
}

Test(loop, what_has_ended_already_as_chosen) {
  int calls = 0;
  struct rctx_after tell = {0}, run = {0}, queue = {0};
  RCTX_SCOPED rctx *c = rctx_with_cancel(fake_root());
  rctx_cancel(c);
  cr_assert_eq(rctx_watch(c, &tell, loop, RCTX_ON_ENDED_TELL, count, &calls), RCTX_ENDED);
  cr_assert(calls == 0 && !readable(loop));
  cr_assert_eq(rctx_watch(c, &run, loop, RCTX_ON_ENDED_RUN, count, &calls), RCTX_ENDED);
  cr_assert(calls == 1 && !readable(loop));
  cr_assert_eq(rctx_watch(c, &queue, loop, RCTX_ON_ENDED_QUEUE, count, &calls), RCTX_ENDED);
  cr_assert(calls == 1 && readable(loop));
  cr_assert_eq(drain(SIZE_MAX), 1);
  cr_assert_eq(calls, 2);
  cr_assert_eq(rctx_watch(fake_root(), &queue, loop, RCTX_ON_ENDED_QUEUE, count, &calls), RCTX_NEVER);
  cr_assert(rctx_after_stop(&queue));
}

/* ---- inside a callback ------------------------------------------------------------------------------------------- */

struct chain {
  rctx *next;
  struct rctx_after node;
  int calls;
  size_t nested;
};

static void cancel_next(const rctx *ctx, void *arg) {
  struct chain *chain = arg;
  (void)ctx;
  chain->calls++;
  if (chain->next) rctx_cancel(chain->next);
}

Test(loop, what_is_queued_while_draining_runs_in_the_same_call_while_max_allows) {
  for (size_t max = 1; max <= 3; max++) {
    RCTX_SCOPED rctx *a = rctx_with_cancel(fake_root());
    RCTX_SCOPED rctx *b = rctx_with_cancel(fake_root());
    struct chain first = {.next = b}, second = {0};
    rctx_watch(a, &first.node, loop, RCTX_ON_ENDED_TELL, cancel_next, &first);
    rctx_watch(b, &second.node, loop, RCTX_ON_ENDED_TELL, cancel_next, &second);
    rctx_cancel(a);
    cr_assert_eq(drain(max), max < 2 ? 1 : 2);
    cr_assert_eq(readable(loop), max < 2);
    if (max < 2) cr_assert_eq(drain(max), 1);
    cr_assert(first.calls == 1 && second.calls == 1);
  }
}

static void drain_nested(const rctx *ctx, void *arg) {
  struct chain *chain = arg;
  (void)ctx;
  chain->calls++;
  chain->nested = drain(SIZE_MAX);
}

Test(loop, drain_may_be_nested) {
  int calls = 0;
  struct chain outer = {0};
  struct rctx_after node[3] = {0};
  RCTX_SCOPED rctx *c = rctx_with_cancel(fake_root());
  rctx_watch(c, &outer.node, loop, RCTX_ON_ENDED_TELL, drain_nested, &outer);
  for (int i = 0; i < 3; i++) rctx_watch(c, &node[i], loop, RCTX_ON_ENDED_TELL, count, &calls);
  rctx_cancel(c);
  cr_assert_eq(drain(SIZE_MAX), 1);
  cr_assert(outer.calls == 1 && outer.nested == 3 && calls == 3);
  cr_assert_not(readable(loop));
}

static void stop_and_free(const rctx *ctx, void *arg) {
  struct chain *chain = arg;
  (void)ctx;
  chain->calls++;
  cr_assert_not(rctx_after_stop_sync(&chain->node), "itself, without waiting");
  rctx_end(chain->next); // its own context
}

Test(loop, it_may_stop_itself_and_end_its_own_context) {
  struct chain own = {.next = rctx_with_cancel(fake_root())};
  rctx_watch(own.next, &own.node, loop, RCTX_ON_ENDED_TELL, stop_and_free, &own);
  rctx_cancel(own.next);
  cr_assert_eq(drain(SIZE_MAX), 1);
  cr_assert_eq(own.calls, 1);
  cr_assert_eq(rctx_quiesce(fake.manager, INT64_MAX), 0);
  cr_assert_eq(fake_stats().contexts, 0);
}

Test(loop, a_queued_callback_keeps_its_context_readable__AFTER_5) {
  int calls = 0;
  struct rctx_after node = {0};
  rctx *c = rctx_with_cancel(fake_root());
  rctx_watch(c, &node, loop, RCTX_ON_ENDED_TELL, count, &calls);
  rctx_end(c);
  cr_assert_eq(rctx_quiesce(fake.manager, INT64_MAX), 0);
  cr_assert_eq(fake_stats().contexts, 1, "kept until the callback has run");
  cr_assert_eq(drain(SIZE_MAX), 1);
  cr_assert_eq(calls, 1);
}

/* ---- any thread cancels, the loop's thread runs ------------------------------------------------------------------ */

enum { CANCELLERS = 3, EACH = 2000 };
static rctx *watched[CANCELLERS][EACH];
static struct rctx_after watching[CANCELLERS][EACH];
static pthread_t loop_thread;
static int drained;

static void on_the_loops_thread(const rctx *ctx, void *arg) {
  cr_assert(pthread_equal(pthread_self(), loop_thread));
  cr_assert_eq(rctx_err(ctx), -ECANCELED);
  ++*(int *)arg;
  drained++;
}

static void drain_or_cancel(unsigned index, void *arg) {
  (void)arg;
  if (index > 0) {
    for (int i = 0; i < EACH; i++) rctx_cancel(watched[index - 1][i]);
    return;
  }
  loop_thread = pthread_self();
  while (drained < CANCELLERS * EACH) {
    struct pollfd one = {rctx_loop_fd(loop), POLLIN, 0};
    if (poll(&one, 1, -1) == 1) drain(64);
  }
}

Test(loop, no_wakeup_is_lost_between_threads) {
  static int calls[CANCELLERS][EACH];
  for (int t = 0; t < CANCELLERS; t++)
    for (int i = 0; i < EACH; i++) {
      watched[t][i] = rctx_with_cancel(fake_root());
      rctx_watch(watched[t][i], &watching[t][i], loop, RCTX_ON_ENDED_TELL, on_the_loops_thread, &calls[t][i]);
    }
  threads_run(1 + CANCELLERS, drain_or_cancel, NULL);
  for (int t = 0; t < CANCELLERS; t++)
    for (int i = 0; i < EACH; i++) {
      cr_assert_eq(calls[t][i], 1);
      rctx_end(watched[t][i]);
    }
}

/* ---- closing ----------------------------------------------------------------------------------------------------- */

Test(loop, destroyed_with_watches_registered_and_queued__bad_input) {
  int calls = 0;
  struct rctx_after registered = {0}, queued = {0}, late = {0};
  rctx_loop *doomed;
  cr_assert_eq(rctx_loop_create(&doomed), 0);
  RCTX_SCOPED rctx *live = rctx_with_cancel(fake_root());
  RCTX_SCOPED rctx *ended = rctx_with_cancel(fake_root());
  rctx_watch(live, &registered, doomed, RCTX_ON_ENDED_TELL, count, &calls);
  rctx_watch(ended, &queued, doomed, RCTX_ON_ENDED_TELL, count, &calls);
  rctx_watch(live, &late, doomed, RCTX_ON_ENDED_TELL, count, &calls);
  rctx_cancel(ended);
  rctx_loop_destroy(doomed);
  cr_assert(rctx_after_stop(&queued), "the first stop is true: it never runs");
  cr_assert_not(rctx_after_stop(&queued));
  cr_assert(rctx_after_stop(&registered));
  cr_assert_not(rctx_after_stop(&registered));
  rctx_cancel(live);
  cr_assert(rctx_after_stop(&late), "also when the context ends later");
  cr_assert_not(rctx_after_stop(&late));
  cr_assert_eq(calls, 0);
}

Test(loop, a_stop_after_destroy_needs_neither_loop_nor_context) {
  int calls = 0;
  struct rctx_after *registered = calloc(1, sizeof *registered), *queued = calloc(1, sizeof *queued);
  rctx_loop *doomed;
  cr_assert_eq(rctx_loop_create(&doomed), 0);
  rctx *live = rctx_with_cancel(fake_root()), *ended = rctx_with_cancel(fake_root());
  rctx_watch(live, registered, doomed, RCTX_ON_ENDED_TELL, count, &calls);
  rctx_watch(ended, queued, doomed, RCTX_ON_ENDED_TELL, count, &calls);
  rctx_end(ended);
  rctx_loop_destroy(doomed);
  rctx_end(live);
  cr_assert_eq(rctx_quiesce(fake.manager, INT64_MAX), 0);
  cr_assert(rctx_after_stop(registered));
  cr_assert(rctx_after_stop_sync(queued));
  free(registered);
  free(queued);
  cr_assert_eq(calls, 0);
}

Test(loop, destroy_closes_its_descriptor_and_takes_null) {
  rctx_loop *doomed;
  cr_assert_eq(rctx_loop_create(&doomed), 0);
  int fd = rctx_loop_fd(doomed);
  cr_assert(fcntl(fd, F_GETFD) & FD_CLOEXEC);
  cr_assert(fcntl(fd, F_GETFL) & O_NONBLOCK, "a drain never blocks");
  rctx_loop_destroy(doomed);
  cr_assert_eq(fcntl(fd, F_GETFD), -1);
  rctx_loop_destroy(NULL);
}

Test(loop, create_reports_what_the_kernel_says) {
  rctx_loop *none = (rctx_loop *)&ordered;
  struct rlimit before, no_descriptors;
  getrlimit(RLIMIT_NOFILE, &before);
  no_descriptors = before;
  no_descriptors.rlim_cur = 0;
  setrlimit(RLIMIT_NOFILE, &no_descriptors);
  int err = rctx_loop_create(&none);
  setrlimit(RLIMIT_NOFILE, &before);
  cr_assert_eq(err, -EMFILE);
  cr_assert_eq(none, (rctx_loop *)&ordered, "written on success only");
}

Test(loop, two_loops_get_their_own) {
  int here = 0, there = 0;
  rctx_loop *other;
  struct rctx_after a = {0}, b = {0};
  cr_assert_eq(rctx_loop_create(&other), 0);
  RCTX_SCOPED rctx *c = rctx_with_cancel(fake_root());
  rctx_watch(c, &a, loop, RCTX_ON_ENDED_TELL, count, &here);
  rctx_watch(c, &b, other, RCTX_ON_ENDED_TELL, count, &there);
  rctx_cancel(c);
  cr_assert(readable(loop) && readable(other));
  cr_assert_eq(drain(SIZE_MAX), 1);
  cr_assert(here == 1 && there == 0);
  cr_assert_eq(rctx_loop_drain(other, SIZE_MAX), 1);
  cr_assert(here == 1 && there == 1);
  rctx_loop_destroy(other);
}
