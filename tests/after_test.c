// Callbacks inline, on the library's thread and on executors: semantics section 8; [AFTER-1] .. [AFTER-5]. Loops: loop_test.c.
#include "support/check.h"
#include "support/fake_time.h"
#include "support/threads.h"

#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

TestSuite(after, .init = fake_open, .fini = fake_close, .timeout = 120);

RCTX_KEY(tag, int)

struct call {
  atomic_int calls;
  int err;
  const struct rctx_cause *cause;
  const rctx *ctx;
  pthread_t thread;
  sem_t ran;
};

static struct call *new_call(struct call *call) {
  memset(call, 0, sizeof *call);
  sem_init(&call->ran, 0, 0);
  return call;
}

static void record(const rctx *ctx, void *arg) {
  struct call *call = arg;
  call->err = rctx_err(ctx);
  call->cause = rctx_cause(ctx);
  call->ctx = ctx;
  call->thread = pthread_self();
  atomic_fetch_add(&call->calls, 1);
  sem_post(&call->ran);
}

static int calls(struct call *call) { return atomic_load(&call->calls); }

static bool by_me(const struct call *call) { return pthread_equal(call->thread, pthread_self()); }

static void wait_for(sem_t *semaphore) {
  while (sem_wait(semaphore) != 0)
    ;
}

static void quiet(void) { cr_assert_eq(rctx_quiesce(fake.manager, INT64_MAX), 0); }

static size_t registrations(const rctx *ctx) {
  struct rctx_info info;
  rctx_inspect(ctx, &info);
  return info.registrations;
}

static void do_nothing(const rctx *ctx, void *arg) {
  (void)ctx;
  (void)arg;
}

/* ---- the library's thread: Go's AfterFunc ------------------------------------------------------------------------ */

Test(after, called_after_cancel_and_not_before__TestAfterFuncCalledAfterCancel) {
  struct call call;
  struct rctx_after node = {0};
  RCTX_SCOPED rctx *c = rctx_with_cancel(fake_root());
  cr_assert_eq(rctx_after(c, &node, record, new_call(&call)), RCTX_REGISTERED);
  quiet();
  cr_assert_eq(calls(&call), 0, "not called while live");
  rctx_cancel(c);
  wait_for(&call.ran);
  cr_assert_not(rctx_after_stop(&node), "it has been started");
  cr_assert_not(rctx_after_stop_sync(&node));
  cr_assert_eq(calls(&call), 1);
  cr_assert_not(by_me(&call));
  cr_assert_eq(call.ctx, c);
}

Test(after, called_after_expiry_too__TestAfterFuncCalledAfterTimeout) {
  struct call call;
  struct rctx_after node = {0};
  RCTX_SCOPED rctx *c = rctx_with_timeout(fake_root(), MS);
  cr_assert_eq(rctx_after(c, &node, record, new_call(&call)), RCTX_REGISTERED);
  fake_go(3 * MS);
  wait_for(&call.ran);
  cr_assert_eq(call.err, -ETIMEDOUT);
  cr_assert_not(by_me(&call));
  rctx_after_stop_sync(&node);
}

Test(after, called_when_it_has_ended_already_but_never_inline__TestAfterFuncCalledImmediately) {
  struct call call;
  struct rctx_after node = {0};
  RCTX_SCOPED rctx *c = rctx_with_cancel(fake_root());
  rctx_cancel(c);
  cr_assert_eq(rctx_after(c, &node, record, new_call(&call)), RCTX_ENDED);
  wait_for(&call.ran);
  cr_assert_not(by_me(&call));
  cr_assert_not(rctx_after_stop(&node));
  rctx_after_stop_sync(&node);
  cr_assert_eq(calls(&call), 1);
}

Test(after, not_called_after_stop__AFTER_1__TestAfterFuncNotCalledAfterStop) {
  struct call call;
  struct rctx_after node = {0};
  RCTX_SCOPED rctx *c = rctx_with_cancel(fake_root());
  cr_assert_eq(rctx_after(c, &node, record, new_call(&call)), RCTX_REGISTERED);
  cr_assert(rctx_after_stop(&node), "the first stop is true");
  cr_assert_not(rctx_after_stop(&node), "the second is false");
  rctx_cancel(c);
  quiet();
  cr_assert_eq(calls(&call), 0);
}

static sem_t gate, entered;

static void block(const rctx *ctx, void *arg) {
  (void)ctx;
  sem_post(&entered);
  wait_for(&gate);
  if (arg) atomic_fetch_add((atomic_int *)arg, 1);
}

static void open_gate(void) {
  sem_init(&gate, 0, 0);
  sem_init(&entered, 0, 0);
}

Test(after, cancel_does_not_wait_for_it__TestAfterFuncCalledAsynchronously) {
  atomic_int done = 0;
  struct rctx_after node = {0};
  RCTX_SCOPED rctx *c = rctx_with_cancel(fake_root());
  open_gate();
  cr_assert_eq(rctx_after(c, &node, block, &done), RCTX_REGISTERED);
  rctx_cancel(c);
  wait_for(&entered); // it runs, and can not end
  cr_assert_eq(atomic_load(&done), 0);
  cr_assert_not(rctx_after_stop(&node), "stop does not wait for a running one");
  cr_assert_eq(atomic_load(&done), 0);
  sem_post(&gate);
  cr_assert_not(rctx_after_stop_sync(&node));
  cr_assert_eq(atomic_load(&done), 1, "stop_sync does, and sees all it did");
}

Test(after, stop_unlinks_it__XTestCancelRemoves) {
  struct rctx_after a = {0}, b = {0};
  RCTX_SCOPED rctx *c = rctx_with_cancel(fake_root());
  rctx_after(c, &a, do_nothing, NULL);
  rctx_after_inline(c, &b, RCTX_ON_ENDED_TELL, do_nothing, NULL);
  cr_assert_eq(registrations(c), 2);
  rctx_after_stop(&a);
  cr_assert_eq(registrations(c), 1);
  rctx_after_stop(&b);
  cr_assert_eq(registrations(c), 0);
}

Test(after, several_on_one_context_are_independent__source) {
  struct call call[3];
  struct rctx_after node[3] = {0};
  RCTX_SCOPED rctx *c = rctx_with_cancel(fake_root());
  for (int i = 0; i < 3; i++) rctx_after(c, &node[i], record, new_call(&call[i]));
  cr_assert(rctx_after_stop(&node[1]));
  rctx_cancel(c);
  wait_for(&call[0].ran);
  wait_for(&call[2].ran);
  quiet();
  cr_assert(calls(&call[0]) == 1 && calls(&call[1]) == 0 && calls(&call[2]) == 1);
}

Test(after, error_and_cause_are_set_inside__AFTER_3__probe) {
  struct call by_thread, by_canceller;
  struct rctx_after a = {0}, b = {0};
  RCTX_SCOPED rctx *c = rctx_with_cancel(fake_root());
  rctx_after(c, &a, record, new_call(&by_thread));
  rctx_after_inline(c, &b, RCTX_ON_ENDED_TELL, record, new_call(&by_canceller));
  rctx_cancel_with(c, -EPIPE, RCTX_ORIGIN_PEER, "gone");
  wait_for(&by_thread.ran);
  cr_assert(by_thread.err == -EPIPE && by_canceller.err == -EPIPE);
  cr_assert(by_thread.cause == rctx_cause(c) && by_canceller.cause == rctx_cause(c));
  rctx_after_stop_sync(&a);
}

struct condition {
  pthread_mutex_t lock;
  pthread_cond_t changed;
};

struct conditional {
  struct condition condition;
  rctx *ctx;
  struct rctx_after node;
};

static void broadcast(const rctx *ctx, void *arg) {
  struct condition *condition = arg;
  (void)ctx;
  pthread_mutex_lock(&condition->lock);
  pthread_cond_broadcast(&condition->changed);
  pthread_mutex_unlock(&condition->lock);
}

static void cancel_when_locked(unsigned index, void *arg) {
  struct conditional *s = arg;
  if (index == 1) {
    rctx_cancel(s->ctx);
    return;
  }
  pthread_mutex_lock(&s->condition.lock);
  while (!rctx_err(s->ctx)) pthread_cond_wait(&s->condition.changed, &s->condition.lock);
  pthread_mutex_unlock(&s->condition.lock);
}

Test(after, it_wakes_a_condition_variable__ExampleAfterFunc_cond) {
  for (int round = 0; round < 100; round++) {
    struct conditional s = {.condition = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER},
                            .ctx = rctx_with_cancel(fake_root())};
    rctx_after(s.ctx, &s.node, broadcast, &s.condition);
    threads_run(2, cancel_when_locked, &s);
    rctx_after_stop_sync(&s.node);
    rctx_end(s.ctx);
  }
}

static void cancel_other(const rctx *ctx, void *other) { rctx_cancel_cause(other, rctx_cause(ctx)); }

Test(after, merging_two_contexts__ExampleAfterFunc_merge) {
  for (int first = 0; first < 2; first++) {
    RCTX_SCOPED rctx *a = tag_with(fake_root(), 7);
    RCTX_SCOPED rctx *parent = rctx_with_cancel(a);
    RCTX_SCOPED rctx *other = rctx_with_cancel(fake_root());
    RCTX_SCOPED rctx *merged = rctx_with_cancel(parent);
    struct rctx_after node = {0};
    int value = 0;
    rctx_after_inline(other, &node, RCTX_ON_ENDED_RUN, cancel_other, merged);
    rctx_cancel(first ? other : parent);
    cr_assert_eq(rctx_cause(merged), rctx_cause(first ? other : parent));
    cr_assert_eq(rctx_err(first ? parent : other), 0);
    cr_assert(tag_get(merged, &value) && value == 7);
    cr_assert_eq(rctx_after_stop(&node), !first);
  }
}

/* ---- the thread itself ------------------------------------------------------------------------------------------- */

static char thread_name[32];
static sigset_t thread_mask;

static void look_around(const rctx *ctx, void *arg) {
  pthread_getname_np(pthread_self(), thread_name, sizeof thread_name);
  pthread_sigmask(SIG_BLOCK, NULL, &thread_mask);
  record(ctx, arg);
}

Test(after, the_thread_is_started_late_named_and_blocks_signals) {
  struct call call;
  struct rctx_after node = {0};
  RCTX_SCOPED rctx *c = rctx_with_cancel(fake_root());
  cr_assert_eq(fake_stats().threads, 0);
  rctx_after(c, &node, look_around, new_call(&call));
  cr_assert_eq(fake_stats().threads, 1);
  rctx_cancel(c);
  wait_for(&call.ran);
  cr_assert_eq(strncmp(thread_name, "rctx", 4), 0, "%s", thread_name);
  int blockable[] = {SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2, SIGALRM, SIGCHLD, SIGPIPE, SIGQUIT};
  for (size_t i = 0; i < sizeof blockable / sizeof *blockable; i++)
    cr_assert(sigismember(&thread_mask, blockable[i]), "signal %d", blockable[i]);
  rctx_after_stop_sync(&node);
}

Test(after, registering_what_never_ends_starts_no_thread) {
  struct rctx_after node = {0};
  cr_assert_eq(rctx_after(fake_root(), &node, do_nothing, NULL), RCTX_NEVER);
  cr_assert_eq(fake_stats().threads, 0);
  cr_assert(rctx_after_stop(&node));
}

static atomic_int inside;
static atomic_int most_inside;

static void overlap(const rctx *ctx, void *arg) {
  int now = atomic_fetch_add(&inside, 1) + 1;
  if (now > atomic_load(&most_inside)) atomic_store(&most_inside, now);
  sched_yield();
  atomic_fetch_sub(&inside, 1);
  record(ctx, arg);
}

Test(after, the_thread_runs_one_at_a_time_in_order_of_queueing__AFTER_4) {
  enum { NODES = 200 };
  static struct call call[NODES];
  static struct rctx_after node[NODES];
  RCTX_SCOPED rctx *c = rctx_with_cancel(fake_root());
  for (int i = 0; i < NODES; i++) rctx_after(c, &node[i], overlap, new_call(&call[i]));
  rctx_cancel(c);
  for (int i = NODES; i-- > 0;) // after the last all have run, if they came in order
    if (i == NODES - 1)
      wait_for(&call[i].ran);
    else
      cr_assert_eq(calls(&call[i]), 1, "callback %d came after the last", i);
  for (int i = 0; i < NODES; i++) rctx_after_stop_sync(&node[i]);
  cr_assert_eq(atomic_load(&most_inside), 1);
}

Test(after, a_queued_one_is_taken_back_by_stop) {
  struct call call;
  struct rctx_after blocker = {0}, node = {0};
  RCTX_SCOPED rctx *c = rctx_with_cancel(fake_root());
  open_gate();
  rctx_after(c, &blocker, block, NULL);
  rctx_after(c, &node, record, new_call(&call));
  rctx_cancel(c);
  wait_for(&entered);
  cr_assert_eq(fake_stats().callbacks, 2, "one running, one queued");
  cr_assert(rctx_after_stop(&node), "queued, not begun");
  cr_assert_not(rctx_after_stop(&node));
  sem_post(&gate);
  cr_assert_not(rctx_after_stop_sync(&blocker));
  quiet();
  cr_assert_eq(calls(&call), 0);
}

/* ---- inline ------------------------------------------------------------------------------------------------------ */

Test(after, inline_runs_in_the_canceller_before_the_cancel_returns) {
  struct call call;
  struct rctx_after node = {0};
  RCTX_SCOPED rctx *c = rctx_with_cancel(fake_root());
  cr_assert_eq(rctx_after_inline(c, &node, RCTX_ON_ENDED_TELL, record, new_call(&call)), RCTX_REGISTERED);
  rctx_cancel(c);
  cr_assert_eq(calls(&call), 1);
  cr_assert(by_me(&call));
  cr_assert_not(rctx_after_stop(&node));
  cr_assert_eq(fake_stats().threads, 0, "needs no thread");
}

Test(after, inline_runs_in_whoever_advances_the_clock) {
  struct call call;
  struct rctx_after node = {0};
  RCTX_SCOPED rctx *c = rctx_with_timeout(fake_root(), MS);
  rctx_after_inline(c, &node, RCTX_ON_ENDED_TELL, record, new_call(&call));
  fake_go(3 * MS);
  cr_assert(calls(&call) == 1 && by_me(&call) && call.err == -ETIMEDOUT);
}

Test(after, inline_runs_in_the_timer_thread_of_the_default_manager) {
  struct call call;
  struct rctx_after node = {0};
  new_call(&call);
  int64_t timeout = 2 * MS;
  rctx *c = rctx_with_timeout(rctx_background(), timeout);
  while (rctx_after_inline(c, &node, RCTX_ON_ENDED_TELL, record, &call) != RCTX_REGISTERED) { // ended before we came
    rctx_end(c);
    c = rctx_with_timeout(rctx_background(), timeout *= 2);
  }
  wait_for(&call.ran);
  cr_assert(calls(&call) == 1 && !by_me(&call) && call.err == -ETIMEDOUT);
  rctx_after_stop_sync(&node);
  rctx_end(c);
}

struct family {
  rctx *members[6];
  int live; // how many were still live when a callback looked
};

static void look_at_the_family(const rctx *ctx, void *arg) {
  struct family *family = arg;
  (void)ctx;
  for (int i = 0; i < 6; i++)
    if (!rctx_err(family->members[i]) || !rctx_cause(family->members[i])) family->live++;
}

Test(after, it_runs_after_the_whole_subtree_is_marked__AFTER_3) {
  struct family family = {0};
  struct rctx_after node[6] = {0};
  rctx **m = family.members;
  m[0] = rctx_with_cancel(fake_root());
  m[1] = rctx_with_cancel(m[0]);
  m[2] = tag_with(m[0], 1);
  m[3] = rctx_with_timeout(m[2], SECOND);
  m[4] = rctx_with_cancel(m[3]);
  m[5] = rctx_with_cancel(m[1]);
  for (int i = 0; i < 6; i++) rctx_after_inline(m[i], &node[i], RCTX_ON_ENDED_TELL, look_at_the_family, &family);
  rctx_cancel(m[0]);
  cr_assert_eq(family.live, 0);
  for (int i = 0; i < 6; i++) {
    cr_assert_not(rctx_after_stop(&node[i]));
    rctx_end(m[i]);
  }
}

static int order[16], ordered;
static void note_order(const rctx *ctx, void *arg) {
  (void)ctx;
  order[ordered++] = (int)(intptr_t)arg;
}

Test(after, inline_in_the_order_of_registration__AFTER_4) {
  struct rctx_after node[16] = {0};
  RCTX_SCOPED rctx *c = rctx_with_cancel(fake_root());
  for (intptr_t i = 0; i < 16; i++) rctx_after_inline(c, &node[i], RCTX_ON_ENDED_TELL, note_order, (void *)i);
  rctx_after_stop(&node[3]);
  rctx_after_stop(&node[0]);
  rctx_after_stop(&node[15]);
  rctx_cancel(c);
  int expected[] = {1, 2, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14};
  cr_assert_eq(ordered, 13);
  cr_assert_arr_eq(order, expected, sizeof expected);
}

Test(after, on_a_value_it_follows_what_the_value_hangs_from) {
  struct call call;
  struct rctx_after node = {0};
  RCTX_SCOPED rctx *parent = rctx_with_cancel(fake_root());
  RCTX_SCOPED rctx *value = tag_with(parent, 1);
  cr_assert_eq(rctx_after_inline(value, &node, RCTX_ON_ENDED_TELL, record, new_call(&call)), RCTX_REGISTERED);
  cr_assert_eq(registrations(parent), 1, "values are looked through");
  cr_assert_eq(registrations(value), 1);
  rctx_cancel(parent);
  cr_assert_eq(calls(&call), 1);
  cr_assert_eq(call.err, -ECANCELED);
}

Test(after, ending_a_handle_runs_it_too) {
  struct call call;
  struct rctx_after node = {0};
  rctx *c = rctx_with_cancel(fake_root());
  rctx_after_inline(c, &node, RCTX_ON_ENDED_TELL, record, new_call(&call));
  rctx_end(c);
  cr_assert(calls(&call) == 1 && call.err == -ECANCELED);
}

/* ---- on a context that has ended already ------------------------------------------------------------------------- */

Test(after, on_ended_queue_of_an_inline_one_is_at_once_and_here) {
  struct call call;
  struct rctx_after node = {0};
  RCTX_SCOPED rctx *c = rctx_with_cancel(fake_root());
  rctx_cancel(c);
  cr_assert_eq(rctx_after_inline(c, &node, RCTX_ON_ENDED_QUEUE, record, new_call(&call)), RCTX_ENDED);
  cr_assert(calls(&call) == 1 && by_me(&call));
  cr_assert_not(rctx_after_stop(&node));
}

Test(after, on_ended_run_is_at_once_and_here) {
  struct call call;
  struct rctx_after node = {0};
  RCTX_SCOPED rctx *c = rctx_with_cancel(fake_root());
  rctx_cancel(c);
  cr_assert_eq(rctx_after_inline(c, &node, RCTX_ON_ENDED_RUN, record, new_call(&call)), RCTX_ENDED);
  cr_assert(calls(&call) == 1 && by_me(&call) && call.err == -ECANCELED && call.cause == rctx_cause(c));
}

Test(after, on_ended_tell_calls_nothing_and_leaves_the_node_quiet) {
  struct call call;
  struct rctx_after node = {0};
  RCTX_SCOPED rctx *c = rctx_with_cancel(fake_root());
  RCTX_SCOPED rctx *live = rctx_with_cancel(fake_root());
  rctx_cancel(c);
  cr_assert_eq(rctx_after_inline(c, &node, RCTX_ON_ENDED_TELL, record, new_call(&call)), RCTX_ENDED);
  cr_assert_eq(calls(&call), 0);
  cr_assert_not(rctx_after_stop(&node), "there is nothing to take back");
  cr_assert_eq(rctx_after_inline(live, &node, RCTX_ON_ENDED_TELL, record, &call), RCTX_REGISTERED, "quiet: used again");
  cr_assert(rctx_after_stop(&node));
}

/* ---- what is legal inside: [AFTER-2] ----------------------------------------------------------------------------- */

struct inside {
  rctx *own, *other, *child;
  struct rctx_after node, second, sibling;
  struct call call;
  bool stopped[4];
  bool quiet;
};

static void do_everything(const rctx *ctx, void *arg) {
  struct inside *in = arg;
  const rctx *kept = rctx_ref(ctx);
  cr_assert_not(rctx_cancel(in->own), "ending what has ended");
  cr_assert(rctx_cancel(in->other));
  in->stopped[0] = rctx_after_stop(&in->node);
  in->stopped[1] = rctx_after_stop_sync(&in->node);
  in->stopped[2] = rctx_after_stop(&in->sibling);
  RCTX_SCOPED rctx *derived = rctx_with_timeout(ctx, SECOND);
  RCTX_SCOPED rctx *elsewhere = rctx_with_timeout(fake_root(), SECOND);
  cr_assert_eq(rctx_err(derived), -ECANCELED);
  cr_assert_eq(rctx_err(elsewhere), 0);
  cr_assert_eq(rctx_after_inline(ctx, &in->second, RCTX_ON_ENDED_RUN, record, &in->call), RCTX_ENDED);
  cr_assert_eq(rctx_quiesce(fake.manager, INT64_MAX), -EDEADLK);
  rctx_end(in->own);
  rctx_unref(kept);
}

Test(after, everything_is_legal_inside__AFTER_2) {
  struct inside in = {.own = rctx_with_cancel(fake_root()), .other = rctx_with_cancel(fake_root())};
  new_call(&in.call);
  const rctx *kept = rctx_ref(in.own);
  rctx_after_inline(in.own, &in.node, RCTX_ON_ENDED_TELL, do_everything, &in);
  rctx_after_inline(in.own, &in.sibling, RCTX_ON_ENDED_TELL, record, &in.call);
  rctx_cancel(in.own);
  cr_assert_not(in.stopped[0], "itself: it runs");
  cr_assert_not(in.stopped[1], "itself, without waiting for itself");
  cr_assert(in.stopped[2], "another one that has not begun");
  cr_assert_eq(calls(&in.call), 1, "the one registered inside, not the one stopped");
  cr_assert_eq(rctx_err(in.other), -ECANCELED);
  rctx_unref(kept);
  rctx_end(in.other);
}

static void end_own(const rctx *ctx, void *own) {
  cr_assert_eq(ctx, own);
  rctx_end(own);
  cr_assert_eq(rctx_err(ctx), -ETIMEDOUT, "borrowed for the duration of the call");
  cr_assert_not_null(rctx_cause(ctx));
}

Test(after, it_may_end_its_own_context__bad_input) {
  struct rctx_after node = {0};
  rctx *c = rctx_with_timeout(fake_root(), MS);
  rctx *child = rctx_with_cancel(c);
  rctx_after_inline(c, &node, RCTX_ON_ENDED_TELL, end_own, c);
  fake_go(3 * MS); // nobody but the callback holds it
  cr_assert_eq(rctx_err(child), -ETIMEDOUT);
  rctx_end(child);
  quiet();
  cr_assert_eq(fake_stats().contexts, 0);
}

static void end_own_whatever(const rctx *ctx, void *own) {
  (void)ctx;
  rctx_end(own);
}

Test(after, it_may_drop_the_last_reference_to_its_context) {
  for (int how = 0; how < 3; how++) {
    struct rctx_after node = {0};
    rctx *c = rctx_with_timeout(fake_root(), MS);
    if (how == 0) {
      rctx_after(c, &node, end_own_whatever, c);
      fake_go(3 * MS);
      quiet(); // it has run
      cr_assert_not(rctx_after_stop_sync(&node));
    } else if (how == 1) {
      rctx_after_inline(c, &node, RCTX_ON_ENDED_TELL, end_own_whatever, c);
      fake_go(3 * MS);
    } else { // registering on an ended one, run at once
      rctx_cancel(c);
      rctx_after_inline(c, &node, RCTX_ON_ENDED_RUN, end_own_whatever, c);
    }
    quiet();
    cr_assert_eq(fake_stats().contexts, 0, "way %d", how);
  }
}

static void stop_itself(const rctx *ctx, void *node) {
  (void)ctx;
  cr_assert_not(rctx_after_stop_sync(node));
}

Test(after, stop_sync_inside_does_not_wait_for_itself) {
  struct rctx_after *node = calloc(1, sizeof *node);
  RCTX_SCOPED rctx *c = rctx_with_cancel(fake_root());
  rctx_after(c, node, stop_itself, node);
  rctx_cancel(c);
  quiet(); // it has run, and did not wait for ever
  cr_assert_not(rctx_after_stop_sync(node));
  free(node);
}

static void cancel_the_next(const rctx *ctx, void *next) {
  (void)ctx;
  rctx_cancel(next);
}

Test(after, a_callback_that_cancels_runs_that_ones_callbacks_before_it_returns) {
  struct call call;
  struct rctx_after first = {0}, second = {0};
  RCTX_SCOPED rctx *a = rctx_with_cancel(fake_root());
  RCTX_SCOPED rctx *b = rctx_with_cancel(fake_root());
  rctx_after_inline(a, &first, RCTX_ON_ENDED_TELL, cancel_the_next, b);
  rctx_after_inline(b, &second, RCTX_ON_ENDED_TELL, record, new_call(&call));
  rctx_cancel(a);
  cr_assert_eq(calls(&call), 1);
}

static void register_below(const rctx *ctx, void *arg) {
  struct inside *in = arg;
  RCTX_SCOPED rctx *child = rctx_with_cancel(ctx);
  cr_assert_eq(rctx_after_inline(child, &in->second, RCTX_ON_ENDED_TELL, record, &in->call), RCTX_ENDED);
  cr_assert_eq(rctx_after_inline(in->other, &in->sibling, RCTX_ON_ENDED_TELL, record, &in->call), RCTX_REGISTERED);
}

Test(after, it_may_register_another) {
  struct inside in = {.other = rctx_with_cancel(fake_root())};
  RCTX_SCOPED rctx *c = rctx_with_cancel(fake_root());
  new_call(&in.call);
  rctx_after_inline(c, &in.node, RCTX_ON_ENDED_TELL, register_below, &in);
  rctx_cancel(c);
  cr_assert_eq(calls(&in.call), 0);
  rctx_end(in.other);
  cr_assert_eq(calls(&in.call), 1);
}

/* ---- stop, stop_sync, stop_notify -------------------------------------------------------------------------------- */

static atomic_int notices;
static sem_t noticed;
static void notice(void *arg) {
  atomic_fetch_add(&notices, 1);
  free(arg);
  sem_post(&noticed);
}

Test(after, stop_notify_of_one_not_begun_is_quiet_now) {
  bool is_quiet = false;
  struct rctx_after node = {0};
  RCTX_SCOPED rctx *c = rctx_with_cancel(fake_root());
  rctx_after(c, &node, do_nothing, NULL);
  cr_assert(rctx_after_stop_notify(&node, notice, NULL, &is_quiet));
  cr_assert(is_quiet);
  is_quiet = false;
  cr_assert_not(rctx_after_stop_notify(&node, notice, NULL, &is_quiet), "stopped already");
  cr_assert(is_quiet);
  cr_assert_eq(atomic_load(&notices), 0);
}

Test(after, stop_notify_of_a_running_one_tells_once_as_the_last_act) {
  struct rctx_after *node = calloc(1, sizeof *node);
  bool is_quiet = true;
  RCTX_SCOPED rctx *c = rctx_with_cancel(fake_root());
  open_gate();
  sem_init(&noticed, 0, 0);
  rctx_after(c, node, block, NULL);
  rctx_cancel(c);
  wait_for(&entered);
  cr_assert_not(rctx_after_stop_notify(node, notice, node, &is_quiet));
  cr_assert_not(is_quiet);
  is_quiet = true;
  cr_assert_not(rctx_after_stop_notify(node, notice, node, &is_quiet), "one notice per registration");
  cr_assert_not(is_quiet);
  cr_assert_eq(atomic_load(&notices), 0);
  sem_post(&gate);
  wait_for(&noticed); // which has freed the node
  quiet();
  cr_assert_eq(atomic_load(&notices), 1);
}

static void ask_for_notice(const rctx *ctx, void *node) {
  bool is_quiet = true;
  (void)ctx;
  cr_assert_not(rctx_after_stop_notify(node, notice, node, &is_quiet));
  cr_assert_not(is_quiet, "it runs");
}

Test(after, stop_notify_inside_the_callback_tells_after_it) {
  for (int how = 0; how < 3; how++) {
    struct rctx_after *node = calloc(1, sizeof *node);
    RCTX_SCOPED rctx *c = rctx_with_cancel(fake_root());
    sem_init(&noticed, 0, 0);
    if (how == 0) rctx_after(c, node, ask_for_notice, node);
    if (how == 1) rctx_after_inline(c, node, RCTX_ON_ENDED_TELL, ask_for_notice, node);
    rctx_cancel(c);
    if (how == 2) rctx_after_inline(c, node, RCTX_ON_ENDED_RUN, ask_for_notice, node);
    wait_for(&noticed);
    cr_assert_eq(atomic_load(&notices), how + 1);
  }
}

Test(after, stop_of_one_that_has_run_is_false_and_quiet) {
  bool is_quiet = false;
  struct rctx_after node = {0};
  RCTX_SCOPED rctx *c = rctx_with_cancel(fake_root());
  rctx_after_inline(c, &node, RCTX_ON_ENDED_TELL, do_nothing, NULL);
  rctx_cancel(c);
  cr_assert_not(rctx_after_stop(&node));
  cr_assert_not(rctx_after_stop_sync(&node));
  cr_assert_not(rctx_after_stop_notify(&node, notice, NULL, &is_quiet));
  cr_assert(is_quiet);
}

Test(after, stop_of_one_never_registered_is_false) {
  struct rctx_after node = {0};
  bool is_quiet = false;
  cr_assert_not(rctx_after_stop(&node));
  cr_assert_not(rctx_after_stop_sync(&node));
  cr_assert_not(rctx_after_stop_notify(&node, notice, NULL, &is_quiet));
  cr_assert(is_quiet);
}

Test(after, a_busy_node_is_refused_a_quiet_one_used_again) {
  struct call call;
  struct rctx_after node = {0};
  RCTX_SCOPED rctx *c = rctx_with_cancel(fake_root());
  RCTX_SCOPED rctx *d = rctx_with_cancel(fake_root());
  cr_assert_eq(rctx_after_inline(c, &node, RCTX_ON_ENDED_TELL, record, new_call(&call)), RCTX_REGISTERED);
  cr_assert_eq(rctx_after_inline(d, &node, RCTX_ON_ENDED_TELL, record, &call), -EBUSY);
  cr_assert_eq(rctx_after(d, &node, record, &call), -EBUSY);
  cr_assert_eq(registrations(d), 0, "nothing was registered");
  cr_assert(rctx_after_stop(&node));
  cr_assert_eq(rctx_after_inline(d, &node, RCTX_ON_ENDED_TELL, record, &call), RCTX_REGISTERED);
  rctx_cancel(c);
  cr_assert_eq(calls(&call), 0);
  rctx_cancel(d);
  cr_assert_eq(calls(&call), 1);
  RCTX_SCOPED rctx *e = rctx_with_cancel(fake_root());
  cr_assert_eq(rctx_after_inline(e, &node, RCTX_ON_ENDED_TELL, record, &call), RCTX_REGISTERED, "after it has run");
  rctx_cancel(e);
  cr_assert_eq(calls(&call), 2);
}

struct contended {
  struct rctx_after node;
  atomic_int trues;
};

static void stop_it(unsigned index, void *arg) {
  struct contended *s = arg;
  bool is_quiet;
  bool was = index % 3 == 0   ? rctx_after_stop(&s->node)
             : index % 3 == 1 ? rctx_after_stop_sync(&s->node)
                              : rctx_after_stop_notify(&s->node, notice, NULL, &is_quiet);
  if (was) atomic_fetch_add(&s->trues, 1);
}

Test(after, of_several_stops_one_is_true__AFTER_1) {
  for (int round = 0; round < 200; round++) {
    struct contended s = {0};
    RCTX_SCOPED rctx *c = rctx_with_cancel(fake_root());
    rctx_after_inline(c, &s.node, RCTX_ON_ENDED_TELL, do_nothing, NULL);
    threads_run(3, stop_it, &s);
    cr_assert_eq(atomic_load(&s.trues), 1);
  }
}

/* ---- lifetimes: [AFTER-5] ---------------------------------------------------------------------------------------- */

Test(after, a_registration_keeps_memory_not_life__AFTER_5) {
  struct call call;
  struct rctx_after node = {0};
  rctx *c = tag_with(fake_root(), 5);
  RCTX_SCOPED rctx *unrelated = rctx_with_cancel(fake_root());
  rctx_after(unrelated, &node, do_nothing, NULL);
  rctx_after_stop(&node);
  rctx_after_inline(c, &node, RCTX_ON_ENDED_TELL, record, new_call(&call));
  rctx_end(c);
  cr_assert_eq(calls(&call), 1, "it does not keep its context from ending");
}

Test(after, a_registration_keeps_the_memory_of_a_dropped_context__AFTER_5) {
  struct call call;
  struct rctx_after node = {0};
  RCTX_SCOPED rctx *parent = rctx_with_cancel(fake_root());
  rctx *c = rctx_with_timeout(parent, SECOND);
  rctx_after_inline(c, &node, RCTX_ON_ENDED_TELL, record, new_call(&call));
  rctx_unref(c);
  quiet();
  cr_assert_eq(fake_stats().contexts, 2, "kept by its registration");
  fake_go(2 * SECOND);
  cr_assert_eq(calls(&call), 1);
  cr_assert_eq(call.err, -ETIMEDOUT);
  quiet();
  cr_assert_eq(fake_stats().contexts, 1, "and let go after it has run");
}

Test(after, stop_lets_go_of_the_context__AFTER_5) {
  struct rctx_after node = {0};
  rctx *c = rctx_with_cancel(fake_root());
  rctx_after_inline(c, &node, RCTX_ON_ENDED_TELL, do_nothing, NULL);
  rctx_unref(c);
  cr_assert(rctx_after_stop(&node));
  quiet();
  cr_assert_eq(fake_stats().contexts, 0);
}

/* ---- executors --------------------------------------------------------------------------------------------------- */

struct queue {
  struct rctx_executor executor; // first
  struct rctx_task *first, **last;
  int submitted;
};

static void submit(struct rctx_executor *self, struct rctx_task *task) {
  struct queue *queue = (struct queue *)self;
  RCTX_SCOPED rctx *lock_free = rctx_with_timeout(fake_root(), SECOND); // no library lock is held
  cr_assert_eq(rctx_err(lock_free), 0);
  task->next = NULL;
  *queue->last = task;
  queue->last = &task->next;
  queue->submitted++;
}

static int run_all(struct queue *queue) {
  int ran = 0;
  while (queue->first) {
    struct rctx_task *task = queue->first;
    queue->first = task->next;
    if (!queue->first) queue->last = &queue->first;
    rctx_task_run(task);
    ran++;
  }
  return ran;
}

static struct queue *new_queue(struct queue *queue) {
  *queue = (struct queue){.executor = {.submit = submit}, .last = &queue->first};
  return queue;
}

Test(after, an_executor_gets_each_once_in_order__AFTER_1__AFTER_4) {
  struct queue queue;
  struct rctx_after node[16] = {0};
  RCTX_SCOPED rctx *c = rctx_with_cancel(fake_root());
  new_queue(&queue);
  for (intptr_t i = 0; i < 16; i++)
    cr_assert_eq(rctx_after_on(c, &node[i], &queue.executor, RCTX_ON_ENDED_TELL, note_order, (void *)i),
                 RCTX_REGISTERED);
  cr_assert(rctx_after_stop(&node[7]), "not submitted yet: taken back");
  cr_assert_eq(queue.submitted, 0);
  rctx_cancel(c);
  cr_assert_eq(queue.submitted, 15);
  cr_assert_eq(ordered, 0, "not run by us");
  cr_assert_not(rctx_after_stop(&node[3]), "submitted: an executor can not give it back");
  cr_assert_eq(run_all(&queue), 15);
  cr_assert_eq(ordered, 15);
  for (int i = 1; i < 15; i++) cr_assert_lt(order[i - 1], order[i]);
  for (int i = 0; i < 16; i++) cr_assert_not(rctx_after_stop_sync(&node[i]));
}

Test(after, an_executor_and_a_context_that_has_ended) {
  struct queue queue;
  struct call call;
  struct rctx_after a = {0}, b = {0}, d = {0};
  RCTX_SCOPED rctx *c = rctx_with_cancel(fake_root());
  new_queue(&queue);
  new_call(&call);
  rctx_cancel(c);
  cr_assert_eq(rctx_after_on(c, &a, &queue.executor, RCTX_ON_ENDED_TELL, record, &call), RCTX_ENDED);
  cr_assert(queue.submitted == 0 && calls(&call) == 0);
  cr_assert_eq(rctx_after_on(c, &b, &queue.executor, RCTX_ON_ENDED_RUN, record, &call), RCTX_ENDED);
  cr_assert(queue.submitted == 0 && calls(&call) == 1);
  cr_assert_eq(rctx_after_on(c, &d, &queue.executor, RCTX_ON_ENDED_QUEUE, record, &call), RCTX_ENDED);
  cr_assert(queue.submitted == 1 && calls(&call) == 1);
  run_all(&queue);
  cr_assert_eq(calls(&call), 2);
  cr_assert_eq(rctx_after_on(fake_root(), &d, &queue.executor, RCTX_ON_ENDED_QUEUE, record, &call), RCTX_NEVER);
  cr_assert(rctx_after_stop(&d));
}

static void run_inline(struct rctx_executor *self, struct rctx_task *task) {
  (void)self;
  rctx_task_run(task);
}

Test(after, an_executor_may_run_it_inline_if_it_accepts_that) {
  struct rctx_executor executor = {.submit = run_inline};
  struct call call;
  struct rctx_after *node = calloc(1, sizeof *node);
  RCTX_SCOPED rctx *c = rctx_with_cancel(fake_root());
  rctx_after_on(c, node, &executor, RCTX_ON_ENDED_TELL, record, new_call(&call));
  rctx_cancel(c);
  cr_assert(calls(&call) == 1 && by_me(&call));
  free(node);
}

struct submitted {
  struct queue queue;
  struct rctx_after node;
  struct call call;
};

static void run_or_stop_sync(unsigned index, void *arg) {
  struct submitted *s = arg;
  if (index == 0) {
    run_all(&s->queue);
  } else {
    cr_assert_not(rctx_after_stop_sync(&s->node));
    cr_assert_eq(calls(&s->call), 1, "quiet: it has run");
  }
}

Test(after, stop_sync_waits_for_a_submitted_task) {
  for (int round = 0; round < 100; round++) {
    struct submitted s = {0};
    RCTX_SCOPED rctx *c = rctx_with_cancel(fake_root());
    new_queue(&s.queue);
    rctx_after_on(c, &s.node, &s.queue.executor, RCTX_ON_ENDED_TELL, record, new_call(&s.call));
    rctx_cancel(c);
    threads_run(2, run_or_stop_sync, &s);
  }
}

/* ---- quiesce ----------------------------------------------------------------------------------------------------- */

static void quiesce_or_open(unsigned index, void *arg) {
  if (index == 0) {
    quiet();
    cr_assert_eq(atomic_load((atomic_int *)arg), 1, "quiesce has returned while a callback was running");
  } else {
    sem_post(&gate);
  }
}

Test(after, quiesce_waits_for_a_running_callback) {
  for (int round = 0; round < 50; round++) {
    atomic_int done = 0;
    struct rctx_after node = {0};
    RCTX_SCOPED rctx *c = rctx_with_cancel(fake_root());
    open_gate();
    rctx_after(c, &node, block, &done);
    rctx_cancel(c);
    wait_for(&entered);
    cr_assert_eq(rctx_quiesce(fake.manager, rctx_now() + MS), -ETIMEDOUT);
    threads_run(2, quiesce_or_open, &done);
    rctx_after_stop_sync(&node);
  }
}

static int quiesced_inside;
static void quiesce_inside(const rctx *ctx, void *arg) {
  quiesced_inside = rctx_quiesce(fake.manager, INT64_MAX);
  record(ctx, arg);
}

Test(after, quiesce_inside_a_callback_would_deadlock_and_says_so) {
  struct call call;
  struct rctx_after node = {0};
  RCTX_SCOPED rctx *c = rctx_with_cancel(fake_root());
  rctx_after(c, &node, quiesce_inside, new_call(&call));
  rctx_cancel(c);
  wait_for(&call.ran);
  cr_assert_eq(quiesced_inside, -EDEADLK);
  rctx_after_stop_sync(&node);
  cr_assert_eq(rctx_manager_destroy(fake.manager), -EBUSY, "and outside, contexts are in the way");
}
