// What a hostile review of the executor, groups, waits, signals, drains and leaks found: each test states what ought to be true.
//
// Interleavings are forced, not hoped for: a second callback in the canceller, an embedder's executor that is driven by hand,
// pthread_create() and sigaction() of our own in front of the C library's.
#include "support/check.h"
#include "support/real_create.h"
#include "support/tasks.h"
#include "support/watchdog.h"

#include "core/manager.h"

#include <dlfcn.h>
#include <pthread.h>
#include <rctx/rctx.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <sys/wait.h>
#if CHECK_UNWRITTEN
#include <sanitizer/msan_interface.h>
#endif

#define SECOND INT64_C(1000000000)

enum { WATCHDOG_S = 20 };
TestSuite(regression_work, .timeout = 120);

// ---- the C library's calls, which a test may bend -----------------------------------------------------------------

static atomic_bool no_threads, raise_once;
static atomic_int pause_before_us, pause_after_us;

int pthread_create(pthread_t *id, const pthread_attr_t *attr, void *(*fn)(void *), void *arg) {
  if (no_threads) {
    usleep((useconds_t)pause_before_us);
    return EAGAIN;
  }
  int rc = real_create(id, attr, fn, arg);
  usleep((useconds_t)pause_after_us);
  return rc;
}

typedef int (*sigaction_fn)(int, const struct sigaction *, struct sigaction *);
int sigaction(int signal, const struct sigaction *new, struct sigaction *old) {
  union {
    void *in;
    sigaction_fn out;
  } found = {dlsym(RTLD_NEXT, "sigaction")};
  int rc = found.out(signal, new, old);
#if CHECK_UNWRITTEN
  if (old) __msan_unpoison(old, sizeof *old); // the C library's own is not watched
#endif
  if (new &&signal == SIGUSR1 && atomic_exchange(&raise_once, false)) raise(signal);
  return rc;
}

// TSan can not start threads in the child of a fork, and reports threads that a test leaves behind.
#ifdef RCTX_TSAN
#define NOT_UNDER_TSAN() cr_skip_test("forks, or leaves threads behind")
#else
#define NOT_UNDER_TSAN() ((void)0)
#endif

static pthread_t start(void *(*fn)(void *), void *arg) {
  pthread_t id;
  cr_assert_eq(real_create(&id, NULL, fn, arg), 0);
  return id;
}

static rctx_manager *manager_with(struct rctx_manager_options options) {
  rctx_manager *manager;
  watchdog(WATCHDOG_S);
  cr_assert_eq(rctx_manager_create(&options, &manager), 0);
  return manager;
}

static int nothing_to_do(const rctx *ctx, void *arg) {
  (void)ctx;
  (void)arg;
  return 0;
}
static void nothing(const rctx *ctx, void *arg) {
  (void)ctx;
  (void)arg;
}
static int child_status(pid_t child) {
  int status = -1;
  waitpid(child, &status, 0);
  return status;
}

// ---- rctx_execute ------------------------------------------------------------------------------------------------

struct by_hand {
  struct rctx_executor table;
  _Atomic(struct rctx_task *) task;
  rctx_manager *manager;
  rctx *ctx;
  atomic_int cleanups;
};
static void keep_task(struct rctx_executor *self, struct rctx_task *task) {
  struct by_hand *hand = (struct by_hand *)(void *)self;
  hand->task = task;
}
static void run_task_now(const rctx *ctx, void *arg) {
  struct by_hand *hand = arg;
  (void)ctx;
  rctx_task_run(hand->task);
}
static void count_cleanup(void *arg) { atomic_fetch_add(&((struct by_hand *)arg)->cleanups, 1); }
static void *execute_by_hand(void *arg) {
  struct by_hand *hand = arg;
  rctx_manager_execute(hand->manager, hand->ctx, nothing_to_do, hand, count_cleanup, NULL);
  return NULL;
}

// The task is refused after the mark and before the caller's own callback: DONE, and then ENDED beside it.
Test(regression_work, a_refused_task_is_cleaned_up_once_though_the_end_is_told_after_it__EXEC_1) {
  struct by_hand hand = {.table = {keep_task, NULL}};
  hand.manager = manager_with((struct rctx_manager_options){.executor = &hand.table});
  for (int round = 0; round < 200; round++) {
    struct rctx_after first = {.rctx__state = 0};
    struct rctx_info info;
    hand.task = NULL;
    hand.cleanups = 0;
    hand.ctx = rctx_with_cancel(rctx_background());
    const rctx *spare = rctx_ref(rctx_ref(hand.ctx)); // a reference too few is then seen, not suffered
    cr_assert_eq(rctx_after_inline(hand.ctx, &first, RCTX_ON_ENDED_RUN, run_task_now, &hand), 0);
    pthread_t caller = start(execute_by_hand, &hand);
    while (hand.task == NULL) sched_yield();
    rctx_cancel(hand.ctx);
    pthread_join(caller, NULL);
    rctx_inspect(spare, &info);
    cr_assert_eq(hand.cleanups, 1, "round %d: %d cleanups", round, hand.cleanups);
    cr_assert_eq(info.references, 3, "round %d: %u references", round, info.references);
    rctx_unref(spare);
    rctx_unref(spare);
    rctx_end(hand.ctx);
  }
}

// ---- the pool ----------------------------------------------------------------------------------------------------

static void *execute_on(void *arg) {
  (void)rctx_manager_execute(arg, rctx_background(), nothing_to_do, NULL, NULL, NULL);
  return NULL;
}

Test(regression_work, a_thread_that_may_yet_fail_to_start_is_no_promise_to_another_caller) {
  rctx_manager *manager = manager_with((struct rctx_manager_options){.drive = RCTX_DRIVE_THREAD});
  no_threads = true;
  pause_before_us = 200000;
  pthread_t one = start(execute_on, manager), other = start(execute_on, manager);
  pthread_join(one, NULL); // the second finds the first's thread counted, which never comes
  pthread_join(other, NULL);
}

static int wait_for_flag(const rctx *ctx, void *arg) {
  (void)ctx;
  while (!*(atomic_bool *)arg) usleep(1000);
  return 0;
}
struct busy {
  rctx_manager *manager;
  atomic_bool go;
};
static void *keep_busy(void *arg) {
  struct busy *busy = arg;
  rctx_manager_execute(busy->manager, rctx_background(), wait_for_flag, &busy->go, NULL, NULL);
  return NULL;
}
static void *cancel_it(void *arg) {
  rctx_cancel((rctx *)arg);
  return NULL;
}

// The callback is quiet, so its executor is not borrowed any more; but the canceller is still starting a thread of it.
Test(regression_work, a_pool_outlives_the_submit_that_is_still_starting_a_thread) {
  struct busy busy = {.manager = manager_with((struct rctx_manager_options){.drive = RCTX_DRIVE_THREAD})};
  struct rctx_after node = {.rctx__state = 0};
  rctx *ctx = rctx_with_cancel(rctx_background());
  cr_assert_eq(rctx_after_on(ctx, &node, rctx_manager_executor(busy.manager), RCTX_ON_ENDED_RUN, nothing, NULL), 0);
  pthread_t one = start(keep_busy, &busy);
  usleep(100000); // the one thread is busy
  pause_after_us = 500000;
  pthread_t canceller = start(cancel_it, ctx);
  usleep(100000); // the second thread has run the callback, the canceller is not back
  rctx_after_stop_sync(&node);
  busy.go = true;
  pthread_join(one, NULL);
  cr_assert_eq(rctx_manager_destroy(busy.manager), 0);
  pthread_join(canceller, NULL); // fatal under ASan
  rctx_end(ctx);
}

static int destroy_that(const rctx *ctx, void *arg) {
  (void)ctx;
  return rctx_manager_destroy(arg);
}
Test(regression_work, a_task_may_destroy_another_manager) {
  rctx_manager *other = manager_with((struct rctx_manager_options){.drive = RCTX_DRIVE_THREAD});
  cr_assert_eq(rctx_execute(rctx_background(), destroy_that, other, NULL, NULL), 0);
}

Test(regression_work, one_task_needs_one_thread) {
  for (int round = 0; round < 20; round++) {
    rctx_manager *manager = manager_with((struct rctx_manager_options){.drive = RCTX_DRIVE_THREAD});
    struct rctx_stats stats;
    rctx_manager_execute(manager, rctx_background(), nothing_to_do, NULL, NULL, NULL);
    rctx_stats(manager, &stats);
    cr_assert_eq(stats.threads, 1);
    cr_assert_eq(rctx_manager_destroy(manager), 0);
  }
}

// ---- groups ------------------------------------------------------------------------------------------------------

Test(regression_work, who_waits_for_a_group_lets_others_take_their_tasks_off_its_list__GROUP_3) {
  watchdog(WATCHDOG_S);
  for (int round = 0; round < 20000; round++) {
    RCTX_SCOPED_GROUP struct rctx_group group;
    rctx_group_init(&group, rctx_background());
    for (int i = 0; i < 4; i++) rctx_group_go(&group, nothing_to_do, NULL);
    cr_assert_eq(rctx_group_wait(&group), 0);
  }
}

static int limited_group(const rctx *ctx, void *arg) {
  struct rctx_group group;
  (void)arg;
  no_threads = true;
  rctx_group_init(&group, ctx);
  if (rctx_group_limit(&group, 1) != 0) return -1;
  rctx_group_go(&group, nothing_to_do, NULL);
  rctx_group_go(&group, nothing_to_do, NULL);
  return rctx_group_fini(&group);
}
Test(regression_work, going_beyond_a_limit_needs_no_second_thread__GROUP_3) {
  rctx_manager *manager = manager_with((struct rctx_manager_options){.drive = RCTX_DRIVE_THREAD});
  cr_assert_eq(rctx_execute(rctx_manager_background(manager), limited_group, NULL, NULL, NULL), 0);
}

static int seven(const rctx *ctx, void *arg) {
  (void)ctx;
  (void)arg;
  return 7;
}
Test(regression_work, the_cause_of_a_result_that_is_no_errno_has_a_code_that_is_one__GROUP_2) {
  struct rctx_group group;
  watchdog(WATCHDOG_S);
  rctx_group_init(&group, rctx_background());
  rctx_group_go(&group, seven, NULL);
  cr_expect_eq(rctx_group_wait(&group), 7);
  cr_expect_eq(rctx_cause(rctx_group_ctx(&group))->code, -ECANCELED);
  rctx_group_fini(&group);
}

// ---- condition variables and poll ---------------------------------------------------------------------------------

static struct {
  pthread_mutex_t mutex;
  pthread_cond_t cond;
  rctx *ctx;
  int items;
  atomic_bool waiting[2], back[2], in_callback;
} room = {.mutex = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER};

static void take_item(unsigned who, const rctx *ctx) {
  int err = 0;
  pthread_mutex_lock(&room.mutex);
  room.waiting[who] = true;
  while (room.items == 0 && err == 0) err = rctx_cond_wait(ctx, &room.cond, &room.mutex);
  if (err == 0) room.items--; // who got the error leaves it to others
  pthread_mutex_unlock(&room.mutex);
  room.back[who] = true;
}
static void *take_first(void *arg) {
  take_item(0, arg);
  return NULL;
}
static void *take_second(void *arg) {
  (void)arg;
  take_item(1, rctx_background());
  return NULL;
}
static void signal_one(const rctx *ctx, void *arg) {
  (void)ctx;
  (void)arg;
  pthread_mutex_lock(&room.mutex);
  room.items = 1;
  pthread_cond_signal(&room.cond);
  pthread_mutex_unlock(&room.mutex);
  while (!room.back[0] && !room.back[1]) usleep(1000); // the waiter's registration has not been told yet
}

Test(regression_work, a_signal_that_a_waiter_took_who_leaves_with_the_error_is_not_lost) {
  NOT_UNDER_TSAN();
  struct rctx_after node = {.rctx__state = 0};
  watchdog(WATCHDOG_S);
  room.ctx = rctx_with_cancel(rctx_background());
  cr_assert_eq(rctx_after_inline(room.ctx, &node, RCTX_ON_ENDED_RUN, signal_one, NULL), 0);
  pthread_t first = start(take_first, room.ctx);
  while (!room.waiting[0]) usleep(1000);
  usleep(50000);
  pthread_t second = start(take_second, NULL);
  while (!room.waiting[1]) usleep(1000);
  usleep(50000);
  rctx_cancel(room.ctx);
  for (int i = 0; i < 3000 && !room.back[1]; i++) usleep(1000);
  cr_assert(room.back[1], "an item is there, and the waiter whose context is live sleeps");
  pthread_join(first, NULL);
  pthread_join(second, NULL);
  rctx_end(room.ctx);
}

static void wait_in_callback(const rctx *ctx, void *arg) {
  (void)ctx;
  (void)arg;
  take_item(0, room.ctx);
}
Test(regression_work, a_wait_on_the_callback_thread_ends_with_its_context) {
  struct rctx_after node = {.rctx__state = 0};
  watchdog(WATCHDOG_S);
  rctx *trigger = rctx_with_cancel(rctx_background());
  room.ctx = rctx_with_cancel(rctx_background());
  cr_assert_eq(rctx_after(trigger, &node, wait_in_callback, NULL), 0);
  rctx_cancel(trigger);
  while (!room.waiting[0]) usleep(1000);
  pthread_mutex_lock(&room.mutex);
  rctx_cancel(room.ctx);
  pthread_mutex_unlock(&room.mutex);
  for (int i = 0; i < 3000 && !room.back[0]; i++) usleep(1000);
  cr_assert(room.back[0]);
  rctx_end(trigger);
  rctx_end(room.ctx);
}

Test(regression_work, polling_an_ended_context_needs_no_descriptor) {
  struct rlimit limit = {3, 3};
  rctx *ctx = rctx_with_cancel(rctx_background());
  rctx_cancel(ctx);
  struct rlimit before;
  getrlimit(RLIMIT_NOFILE, &before);
  limit.rlim_max = before.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
  int rc = rctx_poll(ctx, NULL, 0, 0);
  setrlimit(RLIMIT_NOFILE, &before);
  cr_assert_eq(rc, -ECANCELED, "%d", rc);
  rctx_end(ctx);
}

// ---- signals -----------------------------------------------------------------------------------------------------

Test(regression_work, a_signal_that_comes_while_the_context_is_being_made_ends_it) {
  watchdog(WATCHDOG_S);
  raise_once = true; // once our handler is in place
  RCTX_SCOPED rctx *ctx = rctx_with_signal(rctx_background(), SIGUSR1, 0);
  cr_assert_eq(rctx_wait(ctx, rctx_now() + 3 * SECOND), -ECANCELED);
}

static struct sigaction chained;
static atomic_int host_calls;
static void host(int signal, siginfo_t *info, void *context) {
  if (++host_calls < 100) chained.sa_sigaction(signal, info, context);
}
Test(regression_work, a_host_that_chains_to_our_handler_is_called_once_for_a_signal__SIG_2) {
  watchdog(WATCHDOG_S);
  rctx *first = rctx_with_signal(rctx_background(), SIGUSR1, 0);
  struct sigaction action = {.sa_sigaction = host, .sa_flags = SA_SIGINFO};
  sigaction(SIGUSR1, &action, &chained);
  rctx_end(first); // the host's own stays
  RCTX_SCOPED rctx *second = rctx_with_signal(rctx_background(), SIGUSR1, 0);
  raise(SIGUSR1);
  cr_expect_eq(rctx_wait(second, rctx_now() + 3 * SECOND), -ECANCELED);
  cr_assert_eq(host_calls, 1, "%d", host_calls);
}

// ---- leaks -------------------------------------------------------------------------------------------------------

static struct rctx_leak seen_leak;
static size_t seen_others;
static bool note_line_0(const struct rctx_leak *leak, void *arg) {
  (void)arg;
  if (leak->line == 0) seen_leak = *leak;
  if (leak->file[0] == '(') seen_others += leak->live;
  return true;
}
Test(regression_work, a_context_that_only_a_reference_keeps_is_counted_as_kept) {
  static const struct rctx_site site = {"made", "x.c", 0};
  rctx_leaks_start(1);
  rctx *ctx = rctx_with_cancel(rctx_background());
  rctx__leak_made(ctx, &site);
  const rctx *reference = rctx_ref(ctx);
  rctx_end(ctx);
  rctx_leaks_each(0, note_line_0, NULL);
  rctx_unref(reference);
  cr_assert_eq(seen_leak.live, 0);
  cr_assert_eq(seen_leak.ended, 0);
  cr_assert_eq(seen_leak.kept, 1);
}

// The list is newest first: a line that is in the table already is met again behind 255 others.
Test(regression_work, a_line_that_is_in_the_report_is_not_summed_among_the_others) {
  static struct rctx_site sites[255];
  static rctx *made[2][255];
  rctx_leaks_start(1);
  for (int round = 0; round < 2; round++) {
    for (int i = 0; i < 255; i++) {
      sites[i] = (struct rctx_site){"made", "y.c", i};
      made[round][i] = rctx_with_cancel(rctx_background());
      rctx__leak_made(made[round][i], &sites[i]);
    }
  }
  rctx_leaks_each(0, note_line_0, NULL);
  cr_expect_eq(seen_others, 0, "%zu", seen_others);
  cr_assert_eq(seen_leak.live, 2, "%zu", seen_leak.live);
  for (int i = 0; i < 2 * 255; i++) rctx_end(made[i / 255][i % 255]);
}

// ---- fork --------------------------------------------------------------------------------------------------------

static pid_t forked;
static void fork_here(const rctx *ctx, void *arg) {
  (void)ctx;
  (void)arg;
  forked = fork();
  if (forked == 0) rctx_after_fork_child();
}
Test(regression_work, a_callback_that_forks_leaves_the_counts_right_in_the_child) {
  NOT_UNDER_TSAN();
  struct rctx_after node = {.rctx__state = 0};
  watchdog(WATCHDOG_S);
  rctx *ctx = rctx_with_cancel(rctx_background());
  cr_assert_eq(rctx_after_inline(ctx, &node, RCTX_ON_ENDED_RUN, fork_here, NULL), 0);
  rctx_cancel(ctx);
  if (forked == 0) _exit(rctx_quiesce(rctx_manager_default(), rctx_now() + SECOND) == 0 ? 0 : 1);
  cr_assert_eq(child_status(forked), 0);
  rctx_end(ctx);
}

Test(regression_work, a_pool_of_a_manager_without_contexts_works_in_the_child) {
  NOT_UNDER_TSAN();
  rctx_manager *manager = manager_with((struct rctx_manager_options){.drive = RCTX_DRIVE_THREAD});
  struct rctx_executor *pool = rctx_manager_executor(manager);
  rctx *ctx = rctx_with_cancel(rctx_background());
  struct rctx_after node = {.rctx__state = 0};
  cr_assert_eq(rctx_after_on(ctx, &node, pool, RCTX_ON_ENDED_RUN, nothing, NULL), 0); // starts a thread
  tasks_rest();
  pid_t child = fork();
  if (child == 0) {
    rctx_after_fork_child();
    alarm(3);
    signal(SIGALRM, SIG_DFL);
    rctx_cancel(ctx);
    rctx_after_stop_sync(&node);
    _exit(0);
  }
  cr_assert_eq(child_status(child), 0);
  rctx_after_stop(&node);
  rctx_end(ctx);
}

static int sleep_on(const rctx *ctx, void *arg) {
  (void)arg;
  return rctx_sleep(ctx, 10 * SECOND);
}
static void *execute_sleep(void *arg) {
  rctx_execute(arg, sleep_on, NULL, NULL, NULL);
  return NULL;
}
static void *scribble(void *arg) {
  volatile char stack[65536];
  for (size_t i = 0; i < sizeof stack; i++) stack[i] = (char)0xee;
  usleep(300000);
  return arg;
}
// The C library gives the stacks of the threads that are gone to new ones; rctx_execute() has its registration there.
Test(regression_work, a_context_that_another_thread_was_waiting_on_can_be_cancelled_in_the_child) {
  NOT_UNDER_TSAN();
  watchdog(WATCHDOG_S);
  rctx *ctx = rctx_with_cancel(rctx_background());
  pthread_t sleepers[4];
  for (int i = 0; i < 4; i++) sleepers[i] = start(execute_sleep, ctx);
  usleep(100000);
  tasks_rest();
  pid_t child = fork();
  if (child == 0) {
    rctx_after_fork_child();
    for (int i = 0; i < 12; i++) start(scribble, NULL);
    usleep(100000);
    rctx_cancel(ctx);
    _exit(0);
  }
  int status = child_status(child);
  rctx_cancel(ctx);
  for (int i = 0; i < 4; i++) pthread_join(sleepers[i], NULL);
  rctx_end(ctx);
  cr_assert_eq(status, 0);
}

static int pipe_ends[2];
static int write_a_byte(const rctx *ctx, void *arg) {
  (void)ctx;
  (void)arg;
  return write(pipe_ends[1], "x", 1) == 1 ? 0 : -1;
}
static void *execute_write(void *arg) {
  rctx_manager_execute(arg, rctx_background(), write_a_byte, NULL, NULL, NULL);
  return NULL;
}
Test(regression_work, a_task_that_is_queued_when_another_thread_forks_runs_once__EXEC_1) {
  NOT_UNDER_TSAN();
  struct busy busy = {.manager = manager_with((struct rctx_manager_options){.threads_max = 1})};
  char bytes[4];
  cr_assert_eq(pipe(pipe_ends), 0);
  pthread_t one = start(keep_busy, &busy);
  usleep(100000);
  pthread_t other = start(execute_write, busy.manager);
  usleep(100000);
  tasks_rest();
  pid_t child = fork();
  if (child == 0) {
    rctx_after_fork_child();
    usleep(300000);
    _exit(0);
  }
  child_status(child);
  busy.go = true;
  pthread_join(one, NULL);
  pthread_join(other, NULL);
  cr_assert_eq(read(pipe_ends[0], bytes, sizeof bytes), 1);
}
