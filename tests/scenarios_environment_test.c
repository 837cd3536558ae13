// The scenarios S27 to S32: descriptors, forks, read sections of the host, threads and memory that can not be had, spurious wakeups,
// threads that exit. As scenarios_test.c otherwise.
#include "core/after.h"
#include "core/manager.h"

#include "support/children.h"
#include "support/fence.h"
#include "support/few_threads.h"
#include "support/gate.h"
#include "support/one_manager.h"
#include "support/rounds.h"

#include <fcntl.h>
#include <poll.h>
#include <rctx/testing.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <urcu/urcu-bp.h>

static void open_fenced(void) {
  watch();
  fence_watch();
  open_with(
      (struct rctx_manager_options){.allocator = {fence_alloc, fence_free, NULL}, .uncached = true, .tick_ns = 100000});
}

TestSuite(scenarios, .init = open_fenced, .fini = close_all, .timeout = 240);

static bool readable(int fd) { return poll(&(struct pollfd){fd, POLLIN, 0}, 1, 0) == 1; }
static bool is_open(int fd) { return fcntl(fd, F_GETFD) != -1; }

static void count(const rctx *ctx, void *arg) {
  (void)ctx;
  atomic_fetch_add((atomic_int *)arg, 1);
}

// ---- S27: descriptors ----------------------------------------------------------------------------------------------

// write(2) to this descriptor is interrupted so many times.
static atomic_int interrupted_fd = -1;
static atomic_int interruptions;

ssize_t write(int fd, const void *data, size_t size) {
  typedef ssize_t (*write_fn)(int, const void *, size_t);
  static write_fn next;
  write_fn now = __atomic_load_n(&next, __ATOMIC_ACQUIRE);
  if (!now) {
    now = (write_fn)(uintptr_t)dlsym(RTLD_NEXT, "write"); // the C library's, or a sanitizer's around it
    __atomic_store_n(&next, now, __ATOMIC_RELEASE);
  }
  if (fd == atomic_load(&interrupted_fd) && atomic_load(&interruptions) > 0) {
    atomic_fetch_sub(&interruptions, 1);
    errno = EINTR;
    return -1;
  }
  return now(fd, data, size);
}

struct polled {
  const rctx *ctx;
  int fd;
  struct gate ended;
};

static void *poll_it(void *arg) {
  struct polled *polled = arg;
  struct pollfd one = {polled->fd, POLLIN, 0};
  cr_assert_eq(poll(&one, 1, -1), 1);
  cr_assert_eq(one.revents, POLLIN, "closed under the poll: %x", one.revents);
  gate_pass(&polled->ended);
  cr_assert(is_open(polled->fd), "closed though somebody holds the context");
  cr_assert(readable(polled->fd));
  rctx_unref(polled->ctx);
  return NULL;
}

Test(scenarios, S27_a_descriptor_that_is_polled_stays_open_while_the_context_is_held) {
  for (int i = 0; i < 20; i++) {
    rctx *ctx = rctx_with_cancel(root());
    struct polled polled = {.ctx = rctx_ref(ctx), .fd = rctx_fd(ctx)};
    pthread_t thread;
    gate_init(&polled.ended);
    cr_assert_eq(pthread_create(&thread, NULL, poll_it, &polled), 0);
    rctx_end(ctx);
    gate_open(&polled.ended);
    pthread_join(thread, NULL);
    cr_assert_not(is_open(polled.fd), "left open");
  }
}

Test(scenarios, S27_a_descriptor_that_can_not_be_had_is_said_and_may_be_tried_again) {
  RCTX_SCOPED rctx *ctx = rctx_with_cancel(root());
  struct rlimit before, none;
  getrlimit(RLIMIT_NOFILE, &before);
  none = before;
  none.rlim_cur = 0;
  cr_assert_eq(setrlimit(RLIMIT_NOFILE, &none), 0);
  int fds[] = {rctx_fd(ctx), rctx_fd(ctx)};
  bool cancelled = rctx_cancel(ctx);
  int waited = rctx_wait(ctx, INT64_MAX);
  setrlimit(RLIMIT_NOFILE, &before);
  cr_assert_eq(fds[0], -EMFILE);
  cr_assert_eq(fds[1], -EMFILE);
  cr_assert(cancelled, "a cancel needs no descriptor");
  cr_assert_eq(waited, -ECANCELED);
  cr_assert_geq(rctx_fd(ctx), 0);
  cr_assert(readable(rctx_fd(ctx)), "made after the end");
}

static void fill(int fd) {
  uint64_t nearly = UINT64_MAX - 1;
  cr_assert_eq(write(fd, &nearly, sizeof nearly), sizeof nearly);
}

Test(scenarios, S27_a_counter_that_is_full_blocks_nobody) {
  struct rctx_after node = {0};
  atomic_int calls = 0;
  rctx_loop *loop;
  cr_assert_eq(rctx_loop_create(&loop), 0);
  RCTX_SCOPED rctx *ctx = rctx_with_cancel(root());
  cr_assert_eq(rctx_watch(ctx, &node, loop, RCTX_ON_ENDED_TELL, count, &calls), RCTX_REGISTERED);
  fill(rctx_fd(ctx));
  fill(rctx_loop_fd(loop));
  watchdog(10);
  cr_assert(rctx_cancel(ctx));
  cr_assert(readable(rctx_fd(ctx)));
  cr_assert(readable(rctx_loop_fd(loop)));
  cr_assert_eq(rctx_loop_drain(loop, 9), 1);
  cr_assert_eq(calls, 1);
  cr_assert_not(readable(rctx_loop_fd(loop)));
  rctx_loop_destroy(loop);
}

Test(scenarios, S27_a_write_that_is_interrupted_is_made_again) {
  RCTX_SCOPED rctx *ctx = rctx_with_cancel(root());
  atomic_store(&interrupted_fd, rctx_fd(ctx));
  atomic_store(&interruptions, 3);
  rctx_cancel(ctx);
  cr_assert_eq(interruptions, 0);
  cr_assert(readable(rctx_fd(ctx)), "the end was not told");
}

// ---- S28: fork -----------------------------------------------------------------------------------------------------

static struct {
  rctx *ctx;
  rctx_loop *loop;
  struct rctx_after node, other_node;
  atomic_int calls, other_calls;
} shared;

static int64_t patience(void) { return rctx_now() + 20 * SECOND; }

static void cancel_and_look(void *unused) {
  (void)unused;
  REQUIRE(rctx_cancel(shared.ctx));
  REQUIRE(readable(rctx_fd(shared.ctx)));
  REQUIRE(readable(rctx_loop_fd(shared.loop)));
  REQUIRE(rctx_loop_drain(shared.loop, 9) == 1);
  REQUIRE(shared.calls == 1);
}

Test(scenarios, S28_what_a_child_cancels_is_not_heard_in_the_parent) {
  cr_assert_eq(rctx_loop_create(&shared.loop), 0);
  shared.ctx = rctx_with_cancel(root());
  rctx_watch(shared.ctx, &shared.node, shared.loop, RCTX_ON_ENDED_TELL, count, &shared.calls);
  int fd = rctx_fd(shared.ctx), loop_fd = rctx_loop_fd(shared.loop);
  in_a_child(cancel_and_look, NULL);
  cr_assert_eq(rctx_err(shared.ctx), 0);
  cr_assert_not(readable(fd), "the parent's descriptor heard of the child's cancel");
  cr_assert_not(readable(loop_fd), "the parent's loop heard of the child's cancel");
  rctx_cancel(shared.ctx);
  cr_assert(readable(fd));
  cr_assert_eq(rctx_loop_drain(shared.loop, 9), 1);
  rctx_end(shared.ctx);
  rctx_loop_destroy(shared.loop);
}

static void timers_go_on(void *unused) {
  (void)unused;
  REQUIRE(rctx_wait(shared.ctx, patience()) == -ETIMEDOUT);
  for (int64_t until_ns = patience(); shared.calls == 0 && rctx_now() < until_ns;) usleep(100);
  REQUIRE(shared.calls == 1);
  rctx *fresh = rctx_with_timeout(root(), 2 * MS);
  REQUIRE(rctx_wait(fresh, patience()) == -ETIMEDOUT);
  rctx_end(fresh);
}

// The threads that drive timers and callbacks exist when the process forks, and not in the child.
Test(scenarios, S28_in_a_child_timers_and_callbacks_made_before_the_fork_go_on) {
#ifdef RCTX_TSAN
  cr_skip_test("TSan can not start threads after fork");
#endif
  shared.ctx = rctx_with_timeout(root(), 400 * MS); // not at the very moment of the fork
  cr_assert_geq(rctx_after(shared.ctx, &shared.node, count, &shared.calls), 0);
  in_a_child(timers_go_on, NULL);
  cr_assert_eq(rctx_wait(shared.ctx, INT64_MAX), -ETIMEDOUT);
  quiesce();
  cr_assert_eq(shared.calls, 1, "and in the parent");
  rctx_end(shared.ctx);
}

// ---- S29: a grace period inside a read section ---------------------------------------------------------------------

// A cancel in slices is inside the parent's lists while it pauses: what leaves meanwhile waits for a grace period.
static void leave_deferred(size_t in_all) {
  struct rctx_sweep sweep;
  rctx *top = rctx_with_cancel(root()), *leaf = rctx_with_cancel(top);
  cr_assert(rctx_cancel_begin(top, NULL, &sweep));
  rctx_end(leaf);
  cr_assert_eq(stats().deferred, in_all);
  while (rctx_cancel_step(&sweep, 9)) {
  }
  rctx_end(top);
}

Test(scenarios, S29_inside_a_read_section_of_the_host_no_grace_period_is_waited_for) {
  leave_deferred(1);
  watchdog(10);
  urcu_bp_read_lock();
  rctx_trim(manager);
  cr_assert_eq(stats().deferred, 1);
  cr_assert_eq(rctx_quiesce(manager, rctx_now() + 5 * MS), -ETIMEDOUT);
  for (size_t i = 2; i <= 300; i++) leave_deferred(i); // past the number at which the library tries by itself
  cr_assert_eq(stats().deferred, 300);
  urcu_bp_read_unlock();
  quiesce();
  cr_assert_eq(stats().deferred, 0);
}

// ---- S30: threads and memory that can not be had -------------------------------------------------------------------

Test(scenarios, S30_a_thread_that_can_not_be_started_is_said_and_nothing_is_left) {
  struct rctx_after node = {0};
  atomic_int calls = 0;
  pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
  pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
  rctx *ctx = rctx_with_cancel(root());
  threads_allow(0);
  rctx *timed = rctx_with_timeout(root(), SECOND);
  cr_assert_eq(rctx_err(timed), -EAGAIN, "it would never end");
  rctx_end(timed);
  cr_assert_eq(stats().timers, 0);
  cr_assert_eq(rctx_after(ctx, &node, count, &calls), -EAGAIN);
  pthread_mutex_lock(&mutex);
  cr_assert_eq(rctx_cond_wait(ctx, &cond, &mutex), -EAGAIN);
  pthread_mutex_unlock(&mutex);
  cr_assert_eq(stats().contexts, 1);
  threads_allow_all();
  timed = rctx_with_timeout(root(), MS);
  cr_assert_eq(rctx_wait(timed, INT64_MAX), -ETIMEDOUT);
  rctx_end(timed);
  cr_assert_eq(rctx_after(ctx, &node, count, &calls), RCTX_REGISTERED, "the node is free");
  rctx_cancel(ctx);
  quiesce();
  cr_assert_eq(calls, 1);
  rctx_end(ctx);
}

static int given, destroyed; // what a body has transferred, and what of it was let go

static void destroy_value(void *unused) {
  (void)unused;
  destroyed++;
}
static void destroy_cause(const struct rctx_cause *unused) {
  (void)unused;
  destroyed++;
}

static const struct rctx_key key = {.name = "scenario"};

static int first_error(int before, const rctx *ctx) { return before ? before : rctx_err(ctx); }

static int derive_all(rctx_manager *its, void *unused) {
  static const struct rctx_cause late = {-ETIMEDOUT, RCTX_ORIGIN_USER, "late", NULL, 0, NULL, destroy_cause};
  const struct rctx_value values[2] = {{&key, &given, destroy_value}, {&key, &destroyed, destroy_value}};
  const rctx *top = rctx_manager_background(its);
  (void)unused;
  given = 5; // one, and two, and two
  destroyed = 0;
  rctx *timed = rctx_with_timeout_cause(top, SECOND, &late);
  rctx *valued = rctx_with_values(top, values, 2);
  rctx *both =
      rctx_derive(valued, &(struct rctx_spec){.values = values, .nvalues = 2, .timeout_ns = SECOND, .name = "both"});
  rctx *idle = rctx_with_idle(top, SECOND);
  const rctx *parents[] = {valued, timed};
  rctx *merged = rctx_merge_any(parents, 2);
  int err = first_error(first_error(first_error(first_error(first_error(0, timed), valued), both), idle), merged);
  if (err == 0) {
    int fd = rctx_fd(both);
    err = fd < 0 ? fd : rctx_alloc(both, 10000) ? 0 : -ENOMEM;
  }
  rctx_end(merged);
  rctx_end(idle);
  rctx_end(both);
  rctx_end(valued);
  rctx_end(timed);
  rctx_quiesce(its, INT64_MAX);
  cr_assert_eq(destroyed, given, "%d of %d transferred things were let go", destroyed, given);
  return err;
}

Test(scenarios, S30_whichever_allocation_fails_it_is_said_and_nothing_is_lost) {
  for (int and_all_later = 0; and_all_later < 2; and_all_later++) {
    struct rctx_test_faults faults;
    cr_assert_eq(rctx_test_fail_each(derive_all, NULL, and_all_later, &faults), 0);
    cr_assert_eq(faults.leaked, 0, "%zu runs leaked, the first with request %zu failing", faults.leaked,
                 faults.first_leak);
    cr_assert_gt(faults.runs, 5);
    cr_assert_eq(faults.failed, faults.runs, "of %zu failures %zu were told", faults.runs, faults.failed);
    cr_assert_eq(faults.result, 0);
  }
}

Test(scenarios, S30_memory_that_was_refused_is_not_counted) {
  struct rctx_test_memory memory = {.fail_at = 1, .fail_on = true};
  rctx_manager *poor;
  struct rctx_stats now;
  struct rctx_manager_options options = {.allocator = rctx_test_allocator(&memory), .uncached = true};
  cr_assert_eq(rctx_manager_create(&options, &poor), 0);
  for (int i = 0; i < 3; i++) {
    rctx *ctx = rctx_with_cancel(rctx_manager_background(poor));
    cr_assert_eq(rctx_err(ctx), -ENOMEM);
    rctx_end(ctx);
  }
  rctx_stats(poor, &now);
  cr_assert_eq(now.bytes, 0);
  cr_assert_eq(now.contexts, 0);
  cr_assert_eq(rctx_manager_destroy(poor), 0);
}

// ---- S31: spurious wakeups -----------------------------------------------------------------------------------------

struct sleeper {
  rctx *ctx;
  struct rctx_after node;
  struct gate in_callback, go_on;
  atomic_bool back;
};

static void *wait_for_the_end(void *arg) {
  struct sleeper *sleeper = arg;
  int err = rctx_wait(sleeper->ctx, INT64_MAX);
  atomic_store(&sleeper->back, true);
  cr_assert_eq(err, -ECANCELED, "woken for nothing, and believed it: %d", err);
  return NULL;
}

// Wakes whoever sleeps on the word, again and again, for nothing.
static void wake_for_nothing(_Atomic uint32_t *word, const atomic_bool *back) {
  for (int i = 0; i < 50; i++) {
    rctx__futex_wake_all(word);
    usleep(200);
    cr_assert_not(atomic_load(back), "after wakeup %d", i);
  }
}

Test(scenarios, S31_a_spurious_wakeup_ends_no_wait) {
  struct sleeper sleeper = {.ctx = rctx_with_cancel(root())};
  pthread_t thread;
  cr_assert_eq(pthread_create(&thread, NULL, wait_for_the_end, &sleeper), 0);
  WAIT_UNTIL(atomic_load(&sleeper.ctx->state) & STATE_WAIT);
  wake_for_nothing(&sleeper.ctx->state, &sleeper.back);
  rctx_cancel(sleeper.ctx);
  pthread_join(thread, NULL);
  rctx_end(sleeper.ctx);
}

static void stay(const rctx *ctx, void *arg) {
  struct sleeper *sleeper = arg;
  (void)ctx;
  gate_open(&sleeper->in_callback);
  gate_pass(&sleeper->go_on);
}
static void *cancel_it(void *arg) {
  rctx_cancel(((struct sleeper *)arg)->ctx);
  return NULL;
}
static void *stop_it(void *arg) {
  struct sleeper *sleeper = arg;
  rctx_after_stop_sync(&sleeper->node);
  atomic_store(&sleeper->back, true);
  return NULL;
}

Test(scenarios, S31_a_spurious_wakeup_ends_no_stop) {
  struct sleeper sleeper = {.ctx = rctx_with_cancel(root())};
  pthread_t canceller, stopper;
  gate_init(&sleeper.in_callback);
  gate_init(&sleeper.go_on);
  rctx_after_inline(sleeper.ctx, &sleeper.node, RCTX_ON_ENDED_TELL, stay, &sleeper);
  cr_assert_eq(pthread_create(&canceller, NULL, cancel_it, &sleeper), 0);
  gate_pass(&sleeper.in_callback);
  cr_assert_eq(pthread_create(&stopper, NULL, stop_it, &sleeper), 0);
  WAIT_UNTIL(atomic_load(rctx__after_state(&sleeper.node)) & AFTER_WAITED);
  wake_for_nothing(rctx__after_state(&sleeper.node), &sleeper.back);
  gate_open(&sleeper.go_on);
  pthread_join(stopper, NULL);
  pthread_join(canceller, NULL);
  cr_assert(sleeper.back);
  rctx_end(sleeper.ctx);
}

Test(scenarios, S31_the_librarys_threads_that_wake_for_nothing_go_back_to_sleep) {
  struct rctx_after node = {0};
  atomic_int calls = 0;
  atomic_bool never = false;
  rctx *timed = rctx_with_timeout(root(), 3600 * SECOND);
  rctx_after(timed, &node, count, &calls);
  wake_for_nothing(&manager->timers.kick_sequence, &never);
  wake_for_nothing(&manager->callbacks.sequence, &never);
  cr_assert_eq(rctx_err(timed), 0);
  cr_assert_eq(calls, 0);
  rctx_cancel(timed);
  quiesce();
  cr_assert_eq(calls, 1);
  rctx_end(timed);
}

// ---- S32: threads that exit ----------------------------------------------------------------------------------------

#ifdef RCTX_TSAN
enum { LATE_CALLS = 2 }; // whose own destructor comes with the third, and nothing instrumented may run after it
#else
enum { LATE_CALLS = 3 };
#endif
enum { EXITING = 8, EACH = 5 };

static struct {
  rctx *ctx[EXITING][EACH];
  rctx *top;
  pthread_key_t early_key, late_key;
  atomic_int in_destructors;
} leaving;

static void use_the_library(void) {
  rctx *ctx = rctx_with_value(leaving.top, &key, &leaving);
  RCTX_SCOPED rctx *child = rctx_with_timeout(ctx, 3600 * SECOND);
  cr_assert_eq(rctx_err(child), 0);
  rctx_end(ctx);
  cr_assert_eq(rctx_err(child), -ECANCELED);
}

// The host's thread-local destructor, which may come after the library's own: it is called again as long as it asks for it.
static void use_it_on_the_way_out(void *left) {
  use_the_library();
  atomic_fetch_add(&leaving.in_destructors, 1);
  if ((intptr_t)left > 1) pthread_setspecific(leaving.late_key, (void *)((intptr_t)left - 1));
}

static void derive_and_exit(unsigned index, void *unused) {
  (void)unused;
  pthread_setspecific(leaving.early_key, (void *)1);
  for (int i = 0; i < EACH; i++) leaving.ctx[index][i] = rctx_with_cancel(leaving.top);
  pthread_setspecific(leaving.late_key, (void *)(intptr_t)LATE_CALLS);
}

static void exit_all(void) {
  leaving.top = rctx_with_cancel(root());
  threads_run(EXITING, derive_and_exit, NULL);
  cr_assert_eq(stats().contexts, 1 + EXITING * EACH, "%zu contexts are known of", stats().contexts);
  cr_assert_eq(stats().timers, 0);
  for (int t = 0; t < EXITING; t++)
    for (int i = 0; i < EACH; i++) rctx_end(leaving.ctx[t][i]);
  cr_assert_eq(stats().contexts, 1);
  rctx_end(leaving.top);
}

Test(scenarios, S32_a_thread_may_use_the_library_in_its_last_destructors_and_leave_contexts_behind) {
  cr_assert_eq(pthread_key_create(&leaving.early_key, use_it_on_the_way_out), 0);
  rctx_end(rctx_with_cancel(root())); // makes the library's key
  cr_assert_eq(pthread_key_create(&leaving.late_key, use_it_on_the_way_out), 0);
  for (int round = 0; round < 10; round++) exit_all();
  cr_assert_eq(leaving.in_destructors, 10 * EXITING * (1 + LATE_CALLS));
  quiesce();
}

static struct {
  struct gate locked;
  rctx *ctx;
  pthread_mutex_t mutex;
} dying = {.mutex = PTHREAD_MUTEX_INITIALIZER};

static void unlock_and_drop(void *unused) {
  (void)unused;
  rctx_unref(dying.ctx); // the thread's own reference
  pthread_mutex_unlock(&dying.mutex);
}

static void *lock_and_exit(void *key_of_thread) {
  pthread_mutex_lock(&dying.mutex);
  pthread_setspecific(*(pthread_key_t *)key_of_thread, &dying);
  rctx_ref(dying.ctx);
  gate_open(&dying.locked);
  pthread_exit(NULL);
}

// Between the host's lock and its destructor: whoever ends the context then waits for the host's lock only.
Test(scenarios, S32_a_context_is_ended_while_a_thread_that_holds_it_exits) {
  pthread_key_t own;
  cr_assert_eq(pthread_key_create(&own, unlock_and_drop), 0);
  for (int round = 0; round < 50; round++) {
    pthread_t thread;
    gate_init(&dying.locked);
    dying.ctx = rctx_with_cancel(root());
    cr_assert_eq(pthread_create(&thread, NULL, lock_and_exit, &own), 0);
    gate_pass(&dying.locked);
    rctx_end(dying.ctx);
    pthread_mutex_lock(&dying.mutex);
    pthread_mutex_unlock(&dying.mutex);
    pthread_join(thread, NULL);
    cr_assert_eq(stats().contexts, 0);
  }
}
