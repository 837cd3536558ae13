// err() and done: semantics section 3; [CTX-2] [CTX-4].
//
// Go's done channel is three things here: rctx_wait(), rctx_fd(), and callbacks (after_test.c, loop_test.c).
#include "support/check.h"
#include "support/fake_time.h"
#include "support/threads.h"

#include <poll.h>

TestSuite(err_done, .init = fake_open, .fini = fake_close, .timeout = 120);

static bool readable(int fd) {
  struct pollfd one = {fd, POLLIN, 0};
  return poll(&one, 1, 0) == 1 && (one.revents & POLLIN);
}

struct round {
  rctx *ctx;
  int before;    // written by the canceller before it cancels, a plain int: [CTX-4]
  int fd;        // or -1
  int seen[3];   // what the watchers saw of it
  int errors[3]; // and which error
  int waited[3];
};

static void cancel_or_watch(unsigned index, void *arg) {
  struct round *r = arg;
  if (index == 0) {
    r->before = 4711;
    rctx_cancel_with(r->ctx, -EPIPE, RCTX_ORIGIN_PEER, "gone");
    return;
  }
  if (index == 1)
    while (!rctx_err(r->ctx))
      ;
  if (index == 2) rctx_wait(r->ctx, INT64_MAX);
  if (index == 3) {
    struct pollfd one = {r->fd, POLLIN, 0};
    while (poll(&one, 1, -1) != 1) {
    }
#ifdef RCTX_TSAN // which does not know that poll() orders; the error's load it knows
    if (!rctx_err(r->ctx)) return;
#endif
  }
  r->seen[index - 1] = r->before;
  r->errors[index - 1] = rctx_err(r->ctx);
  r->waited[index - 1] = rctx_wait(r->ctx, 0);
}

// Error set: a wait returns at once. Wait returned, or fd readable: the error is set. All see what was before the cancel.
Test(err_done, error_and_done_are_seen_together__CTX_4__TestContextErrDoneRace) {
  for (int i = 0; i < 300; i++) {
    RCTX_SCOPED rctx *c = rctx_with_cancel(fake_root());
    struct round r = {.ctx = c, .fd = rctx_fd(c)};
    cr_assert_geq(r.fd, 0);
    threads_run(4, cancel_or_watch, &r);
    for (int w = 0; w < 3; w++) {
      cr_assert_eq(r.seen[w], 4711, "watcher %d", w);
      cr_assert_eq(r.errors[w], -EPIPE, "watcher %d", w);
      cr_assert_eq(r.waited[w], -EPIPE, "watcher %d", w);
    }
    cr_assert(readable(r.fd), "readable when the cancel has returned");
  }
}

static void cancel_parent_or_watch_leaf(unsigned index, void *arg) {
  rctx **family = arg;
  if (index == 0)
    rctx_cancel(family[0]);
  else
    while (!rctx_err(family[1]))
      ;
  if (index == 1) cr_assert_eq(rctx_wait(family[1], rctx_now_of(family[1])), -ECANCELED, "an inherited end, too");
}

Test(err_done, an_inherited_error_and_done_are_seen_together__TestContextErrDoneRace) {
  for (int i = 0; i < 300; i++) {
    RCTX_SCOPED rctx *parent = rctx_with_cancel(fake_root());
    RCTX_SCOPED rctx *leaf = rctx_with_cancel(parent);
    threads_run(2, cancel_parent_or_watch_leaf, (rctx *[]){parent, leaf});
  }
}

Test(err_done, error_never_changes__CTX_2__source) {
  RCTX_SCOPED rctx *parent = rctx_with_cancel(fake_root());
  RCTX_SCOPED rctx *expired = rctx_with_timeout(parent, SECOND);
  RCTX_SCOPED rctx *cancelled = rctx_with_timeout(parent, SECOND);
  rctx_cancel(cancelled);
  fake_go(2 * SECOND);
  for (int i = 0; i < 3; i++) {
    cr_assert_eq(rctx_err(expired), -ETIMEDOUT);
    cr_assert_eq(rctx_err(cancelled), -ECANCELED);
    cr_assert_eq(rctx_wait(expired, INT64_MAX), -ETIMEDOUT);
    rctx_cancel(expired);
    rctx_cancel_with(parent, -EIO, RCTX_ORIGIN_PEER, "later");
  }
}

// rctx_err() is one load of the first word, of which the low 12 bits are the errno: the same live or ended, root or deep.
static int low_bits(const rctx *ctx) {
  uint32_t word;
  memcpy(&word, ctx, sizeof word);
  return (int)(word & 0xfff);
}

Test(err_done, the_error_is_in_the_first_word__BenchmarkErrOK_BenchmarkErrCanceled) {
  enum { DEPTH = 16 };
  rctx *chain[DEPTH];
  const rctx *top = fake_root();
  for (int i = 0; i < DEPTH; i++)
    top = chain[i] = i % 2 ? rctx_with_timeout(top, (100 - i) * SECOND) : rctx_with_cancel(top);
  cr_assert_eq(low_bits(fake_root()), 0);
  cr_assert_eq(low_bits(top), 0);
  cr_assert_eq(rctx_err(top), 0);
  rctx_cancel_with(chain[0], -4095, RCTX_ORIGIN_USER, "the largest");
  for (int i = 0; i < DEPTH; i++) {
    cr_assert_eq(low_bits(chain[i]), 4095);
    cr_assert_eq(rctx_err(chain[i]), -4095);
    rctx_end(chain[i]);
  }
}

Test(err_done, the_handle_is_made_on_demand_and_stays__source) {
  RCTX_SCOPED rctx *c = rctx_with_cancel(fake_root());
  struct rctx_info info;
  rctx_inspect(c, &info);
  cr_assert_not(info.has_fd);
  int fd = rctx_fd(c);
  cr_assert_geq(fd, 0);
  cr_assert_eq(rctx_fd(c), fd);
  rctx_inspect(c, &info);
  cr_assert(info.has_fd);
  cr_assert_not(readable(fd));
  rctx_cancel(c);
  cr_assert_eq(rctx_fd(c), fd);
  cr_assert(readable(fd));
  cr_assert(readable(fd), "and stays so");
}

// Go: a value's done is its nearest cancelable ancestor's, and done handles are no identity after the cancel, when they may
// be one shared closed channel. Here a value context can be ended by itself, and no two contexts ever share a descriptor.
RCTX_KEY(tag, int)

Test(err_done, a_value_has_a_handle_of_its_own_that_follows_its_ancestors__probe) {
  RCTX_SCOPED rctx *parent = rctx_with_cancel(fake_root());
  RCTX_SCOPED rctx *value = tag_with(parent, 1);
  RCTX_SCOPED rctx *second = tag_with(value, 2);
  int of_parent = rctx_fd(parent), of_value = rctx_fd(value), of_second = rctx_fd(second);
  cr_assert(of_parent >= 0 && of_value >= 0 && of_second >= 0);
  cr_assert(of_value != of_parent && of_second != of_value);
  cr_assert(rctx_cancel(second), "a value context can be ended by itself");
  cr_assert(readable(of_second) && !readable(of_value) && !readable(of_parent));
  rctx_cancel(parent);
  cr_assert(readable(of_value) && readable(of_parent));
}

Test(err_done, handles_of_two_cancelled_contexts_differ__probe) {
  RCTX_SCOPED rctx *a = rctx_with_cancel(fake_root());
  RCTX_SCOPED rctx *b = rctx_with_cancel(fake_root());
  rctx_cancel(a);
  rctx_cancel(b);
  cr_assert(readable(rctx_fd(a)));
  cr_assert(readable(rctx_fd(b)));
  cr_assert_neq(rctx_fd(a), rctx_fd(b));
}
