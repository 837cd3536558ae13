// fork: the parent is unharmed; the child is usable after rctx_after_fork_child(), several times over, also when the
// library's threads were alive in the parent. What is checked in the child ends its process with a code other than 0.
#include "support/check.h"
#include "support/children.h"
#include "support/gate.h"
#include "support/hand_executor.h"
#include "support/leftovers.h"
#include "support/tasks.h"

#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#define MS INT64_C(1000000)
#define SECOND INT64_C(1000000000)

TestSuite(fork, .fini = nothing_left_by_default, .timeout = 120);

RCTX_KEY(user, const char *)

// ThreadSanitizer allows no new thread in the child of a process that had several.
#ifdef RCTX_TSAN
#define NEEDS_THREADS_IN_THE_CHILD() cr_skip_test("TSan can not start threads after fork")
#else
#define NEEDS_THREADS_IN_THE_CHILD() ((void)0)
#endif

// AddressSanitizer's malloc may be locked for ever in the child if another thread was in it.
#if CHECK_LEAKS
#define NEEDS_A_MALLOC_THAT_FORKS() cr_skip_test("ASan's malloc can not be used after fork")
#else
#define NEEDS_A_MALLOC_THAT_FORKS() ((void)0)
#endif

static struct rctx_stats stats(void) {
  struct rctx_stats now;
  rctx_stats(rctx_manager_default(), &now);
  return now;
}

static void count(const rctx *ctx, void *arg) {
  (void)ctx;
  ++*(int *)arg;
}

static void post(const rctx *ctx, void *arg) {
  (void)ctx;
  sem_post(arg);
}

static void everything_but_threads_works(void *unused) {
  rctx_loop *loop;
  int inline_calls = 0, loop_calls = 0;
  struct rctx_after here = {0}, there = {0};
  const char *who = NULL;
  (void)unused;
  REQUIRE(rctx_loop_create(&loop) == 0);
  rctx *top = rctx_with_cancel(rctx_background());
  rctx *value = user_with(top, "ann");
  rctx *leaf = rctx_with_cancel(value);
  REQUIRE(rctx_err(leaf) == 0);
  REQUIRE(user_get(leaf, &who) && who[0] == 'a');
  REQUIRE(rctx_after_inline(leaf, &here, RCTX_ON_ENDED_TELL, count, &inline_calls) == RCTX_REGISTERED);
  REQUIRE(rctx_watch(leaf, &there, loop, RCTX_ON_ENDED_TELL, count, &loop_calls) == RCTX_REGISTERED);
  int fd = rctx_fd(leaf);
  REQUIRE(fd >= 0);
  REQUIRE(rctx_cancel(top));
  REQUIRE(rctx_wait(leaf, INT64_MAX) == -ECANCELED);
  REQUIRE(poll(&(struct pollfd){fd, POLLIN, 0}, 1, 0) == 1);
  REQUIRE(rctx_loop_drain(loop, 10) == 1);
  REQUIRE(inline_calls == 1 && loop_calls == 1);
  rctx_end(leaf);
  rctx_end(value);
  rctx_end(top);
  rctx_loop_destroy(loop);
  REQUIRE(rctx_quiesce(rctx_manager_default(), INT64_MAX) == 0);
}

static void timers_and_callbacks_work(void *unused) {
  sem_t ran;
  struct rctx_after node = {0};
  (void)unused;
  REQUIRE(tasks_are(1 + stats().threads)); // as many as it says, and those only
  rctx *timed = rctx_with_timeout(rctx_background(), 2 * MS);
  sem_init(&ran, 0, 0);
  REQUIRE(rctx_after(timed, &node, post, &ran) >= 0); // it may have ended already
  REQUIRE(rctx_wait(timed, INT64_MAX) == -ETIMEDOUT);
  while (sem_wait(&ran))
    ;
  rctx_after_stop_sync(&node);
  rctx_end(timed);
  REQUIRE(rctx_quiesce(rctx_manager_default(), INT64_MAX) == 0);
}

static void everything_works(void *contexts_before) {
  timers_and_callbacks_work(NULL);
  everything_but_threads_works(NULL);
  REQUIRE(stats().contexts == *(size_t *)contexts_before);
}

static void parent_is_unharmed(void) {
  RCTX_SCOPED rctx *timed = rctx_with_timeout(rctx_background(), 2 * MS);
  RCTX_SCOPED rctx *below = user_with(timed, "parent");
  cr_assert_eq(rctx_wait(below, INT64_MAX), -ETIMEDOUT);
}

Test(fork, the_child_of_a_process_that_never_used_the_library) {
  NEEDS_THREADS_IN_THE_CHILD();
  size_t contexts = 0;
  in_a_child(everything_works, &contexts);
  parent_is_unharmed();
}

Test(fork, several_rounds_with_living_threads) {
  NEEDS_THREADS_IN_THE_CHILD();
  NEEDS_A_MALLOC_THAT_FORKS();
  struct rctx_after node = {0};
  sem_t ran;
  sem_init(&ran, 0, 0);
  rctx *held = rctx_with_timeout(rctx_background(), 3600 * SECOND); // the timer thread lives
  rctx *other = rctx_with_cancel(held);
  cr_assert_eq(rctx_after(other, &node, post, &ran), RCTX_REGISTERED); // and the callback thread
  for (int round = 0; round < 10; round++) {
    size_t contexts = stats().contexts;
    in_a_child(everything_works, &contexts);
    parent_is_unharmed();
    cr_assert_geq(stats().threads, 1, "the parent's threads live on");
    cr_assert_eq(rctx_err(held), 0);
  }
  rctx_cancel(other);
  while (sem_wait(&ran))
    ;
  rctx_after_stop_sync(&node);
  rctx_end(other);
  rctx_end(held);
}

Test(fork, without_threads_also_under_tsan) {
  for (int round = 0; round < 10; round++) in_a_child(everything_but_threads_works, NULL);
  everything_but_threads_works(NULL);
}

struct inherited {
  rctx *plain, *timed, *value;
  int calls;
};

static void use_the_parents_contexts(void *arg) {
  struct inherited *in = arg;
  const char *who = NULL;
  REQUIRE(rctx_err(in->plain) == 0);
  REQUIRE(user_get(in->value, &who) && who[0] == 'a');
  rctx *below = rctx_with_cancel(in->value);
  REQUIRE(rctx_wait(in->timed, INT64_MAX) == -ETIMEDOUT); // its timer fires here, too
  REQUIRE(rctx_err(in->plain) == 0);
  REQUIRE(rctx_cancel(in->plain));
  REQUIRE(rctx_err(below) == -ECANCELED);
  REQUIRE(in->calls == 1); // registered before the fork
  rctx_end(below);
  rctx_end(in->value);
  rctx_end(in->timed);
  rctx_end(in->plain);
  REQUIRE(rctx_quiesce(rctx_manager_default(), INT64_MAX) == 0);
  REQUIRE(stats().contexts == 0);
}

Test(fork, contexts_made_before_can_be_read_cancelled_and_ended_and_their_timers_fire) {
  NEEDS_THREADS_IN_THE_CHILD();
  NEEDS_A_MALLOC_THAT_FORKS();
  struct rctx_after node = {0};
  struct inherited in = {.plain = rctx_with_cancel(rctx_background())};
  in.timed = rctx_with_timeout(rctx_background(), SECOND / 2);
  in.value = user_with(in.plain, "ann");
  cr_assert_eq(rctx_after_inline(in.plain, &node, RCTX_ON_ENDED_TELL, count, &in.calls), RCTX_REGISTERED);
  in_a_child(use_the_parents_contexts, &in);
  cr_assert_eq(in.calls, 0, "another process");
  cr_assert_eq(rctx_err(in.plain), 0);
  cr_assert_eq(rctx_wait(in.timed, INT64_MAX), -ETIMEDOUT);
  cr_assert(rctx_after_stop(&node));
  rctx_end(in.value);
  rctx_end(in.timed);
  rctx_end(in.plain);
}

static void fork_again(void *depth) {
  int left = *(int *)depth - 1, status = -1;
  timers_and_callbacks_work(NULL);
  if (left == 0) return;
  pid_t child = fork();
  if (child == 0) {
    rctx_after_fork_child();
    fork_again(&left);
    _exit(0);
  }
  REQUIRE(waitpid(child, &status, 0) == child && status == 0);
  everything_but_threads_works(NULL);
}

static void fork_three_deep(void *unused) {
  (void)unused;
  RCTX_SCOPED rctx *timed = rctx_with_timeout(rctx_background(), MS);
  REQUIRE(rctx_wait(timed, INT64_MAX) == -ETIMEDOUT);
  int left = 2, status = -1;
  pid_t child = fork(); // its parent's timer thread lives
  if (child == 0) {
    rctx_after_fork_child();
    REQUIRE(stats().threads == 0);
    fork_again(&left);
    _exit(0);
  }
  REQUIRE(waitpid(child, &status, 0) == child && status == 0);
}

Test(fork, a_child_may_fork_again) {
  NEEDS_THREADS_IN_THE_CHILD();
  in_a_child(fork_three_deep, NULL);
  parent_is_unharmed();
}

static atomic_bool stop_working;
static void *work(void *unused) {
  while (!atomic_load(&stop_working)) {
    RCTX_SCOPED rctx *top = rctx_with_timeout(rctx_background(), SECOND);
    RCTX_SCOPED rctx *below = rctx_with_cancel(top);
    rctx_cancel(top);
    rctx_cancel(below);
  }
  return unused;
}

// Other threads derive and end their own contexts at the very moment of the fork; the child uses none of those.
Test(fork, while_other_threads_are_at_work) {
  NEEDS_THREADS_IN_THE_CHILD();
  NEEDS_A_MALLOC_THAT_FORKS();
  pthread_t workers[2];
  everything_but_threads_works(NULL); // the library's first use is over; see the next test
  for (int i = 0; i < 2; i++) cr_assert_eq(pthread_create(&workers[i], NULL, work, NULL), 0);
  for (int round = 0; round < 30; round++) {
    int status = -1;
    pid_t child = fork();
    if (child == 0) {
      alarm(60);
      rctx_after_fork_child();
      everything_but_threads_works(NULL);
      RCTX_SCOPED rctx *timed = rctx_with_timeout(rctx_background(), MS);
      REQUIRE(rctx_wait(timed, INT64_MAX) == -ETIMEDOUT);
      _exit(0);
    }
    cr_assert_eq(waitpid(child, &status, 0), child);
    cr_assert_eq(status, 0, "round %d: the child ended with status %x", round, status);
  }
  atomic_store(&stop_working, true);
  for (int i = 0; i < 2; i++) pthread_join(workers[i], NULL);
}

static pthread_barrier_t together;
static void *use_for_the_first_time(void *unused) {
  pthread_barrier_wait(&together);
  for (int i = 0; i < 50; i++) {
    RCTX_SCOPED rctx *c = rctx_with_timeout(rctx_background(), SECOND);
    rctx_cancel(c);
  }
  return unused;
}

// A process that forks while two of its threads use the library for the first time ever. Spins some, to hit any moment of it.
static void fork_at_the_first_use(unsigned spins) {
  pthread_t users[2];
  int status = -1;
  alarm(60);
  pthread_barrier_init(&together, NULL, 3);
  for (int i = 0; i < 2; i++) REQUIRE(pthread_create(&users[i], NULL, use_for_the_first_time, NULL) == 0);
  pthread_barrier_wait(&together);
  for (volatile unsigned i = 0; i < spins; i++) {
  }
  pid_t child = fork();
  if (child == 0) {
    alarm(60);
    rctx_after_fork_child();
    everything_but_threads_works(NULL);
    _exit(0);
  }
  REQUIRE(waitpid(child, &status, 0) == child && status == 0);
  for (int i = 0; i < 2; i++) pthread_join(users[i], NULL);
  everything_but_threads_works(NULL);
}

Test(fork, while_other_threads_use_it_for_the_first_time) {
  NEEDS_THREADS_IN_THE_CHILD();
  NEEDS_A_MALLOC_THAT_FORKS();
  for (unsigned round = 0; round < 300; round++) {
    int status = -1;
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
      fork_at_the_first_use(round % 100 * 50);
      _exit(0);
    }
    cr_assert_eq(waitpid(child, &status, 0), child);
    cr_assert_eq(status, 0, "round %u: the child ended with status %x", round, status);
  }
}

Test(fork, a_child_that_only_leaves_needs_nothing) {
  RCTX_SCOPED rctx *held = rctx_with_timeout(rctx_background(), 3600 * SECOND);
  int status = -1;
  pid_t child = fork();
  if (child == 0) _exit(7);
  cr_assert_eq(waitpid(child, &status, 0), child);
  cr_assert_eq(WEXITSTATUS(status), 7);
  cr_assert_eq(rctx_err(held), 0);
}

/* ---- tasks ------------------------------------------------------------------------------------------------------- */

static rctx_manager *workers; // of the tests below

static struct rctx_stats workers_now(void) {
  struct rctx_stats now;
  rctx_stats(workers, &now);
  return now;
}

static void workers_open(struct rctx_manager_options options) {
  cr_assert_eq(rctx_manager_create(&options, &workers), 0);
}

static void workers_close(void) {
  nothing_left(workers);
  cr_assert_eq(rctx_manager_destroy(workers), 0);
}

static int add_one(const rctx *ctx, void *arg) {
  (void)ctx;
  return ++*(int *)arg;
}

static void the_pool_works(void *unused) {
  int number = 40;
  (void)unused;
  REQUIRE(workers_now().threads == 0 && workers_now().tasks == 0);
  REQUIRE(rctx_execute(rctx_manager_background(workers), add_one, &number, NULL, NULL) == 41);
  REQUIRE(rctx_execute(rctx_manager_background(workers), add_one, &number, NULL, NULL) == 42);
  REQUIRE(workers_now().threads >= 1);
  REQUIRE(rctx_quiesce(workers, INT64_MAX) == 0);
  REQUIRE(rctx_manager_destroy(workers) == 0);
  everything_but_threads_works(NULL);
}

Test(fork, the_pool_of_a_child_is_its_own) {
  NEEDS_THREADS_IN_THE_CHILD();
  NEEDS_A_MALLOC_THAT_FORKS();
  int number = 0;
  workers_open((struct rctx_manager_options){.threads_max = 3});
  in_a_child(the_pool_works, NULL);
  for (int round = 0; round < 5; round++) {
    cr_assert_eq(rctx_execute(rctx_manager_background(workers), add_one, &number, NULL, NULL), round + 1);
    in_a_child(the_pool_works, NULL);
    cr_assert_geq(workers_now().threads, 1, "the parent's threads live on");
  }
  workers_close();
}

// A task that runs until it is told, and one that waits behind it.
struct hard_work {
  struct gate started, may_end;
  atomic_int running_ran, running_cleaned, queued_ran, queued_cleaned;
  const rctx *ctx;
};

static int run_long(const rctx *ctx, void *arg) {
  struct hard_work *hard = arg;
  (void)ctx;
  atomic_fetch_add(&hard->running_ran, 1);
  gate_open(&hard->started);
  gate_pass(&hard->may_end);
  return 1;
}
static void clean_long(void *arg) { atomic_fetch_add(&((struct hard_work *)arg)->running_cleaned, 1); }
static int run_queued(const rctx *ctx, void *arg) {
  (void)ctx;
  atomic_fetch_add(&((struct hard_work *)arg)->queued_ran, 1);
  return 2;
}
static void clean_queued(void *arg) { atomic_fetch_add(&((struct hard_work *)arg)->queued_cleaned, 1); }

static void *execute_long(void *arg) {
  struct hard_work *hard = arg;
  return (void *)(intptr_t)rctx_execute(hard->ctx, run_long, hard, clean_long, NULL);
}
static void *execute_queued(void *arg) {
  struct hard_work *hard = arg;
  return (void *)(intptr_t)rctx_execute(hard->ctx, run_queued, hard, clean_queued, NULL);
}

static void both_are_forgotten(void *arg) {
  struct hard_work *hard = arg;
  REQUIRE(rctx_quiesce(workers, rctx_now() + 30 * SECOND) == 0);
  REQUIRE(workers_now().tasks == 0 && workers_now().orphans == 0);
  REQUIRE(atomic_load(&hard->queued_ran) == 0 && atomic_load(&hard->queued_cleaned) == 0);
  REQUIRE(atomic_load(&hard->running_ran) == 1 && atomic_load(&hard->running_cleaned) == 0);
  int number = 1;
  REQUIRE(rctx_execute(rctx_manager_background(workers), add_one, &number, NULL, NULL) == 2);
}

Test(fork, queued_and_running_tasks_are_forgotten_in_the_child) {
  NEEDS_THREADS_IN_THE_CHILD();
  NEEDS_A_MALLOC_THAT_FORKS();
  struct hard_work hard = {0};
  pthread_t callers[2];
  void *results[2];
  gate_init(&hard.started);
  gate_init(&hard.may_end);
  workers_open((struct rctx_manager_options){.threads_max = 1});
  RCTX_SCOPED rctx *c = rctx_with_cancel(rctx_manager_background(workers));
  hard.ctx = c;
  cr_assert_eq(pthread_create(&callers[0], NULL, execute_long, &hard), 0);
  gate_pass(&hard.started);
  cr_assert_eq(pthread_create(&callers[1], NULL, execute_queued, &hard), 0);
  WAIT_UNTIL(workers_now().tasks == 2);
  for (int round = 0; round < 3; round++) in_a_child(both_are_forgotten, &hard);
  cr_assert_eq(atomic_load(&hard.queued_ran), 0, "another process");
  gate_open(&hard.may_end);
  for (int i = 0; i < 2; i++) {
    pthread_join(callers[i], &results[i]);
    cr_assert_eq((intptr_t)results[i], i + 1);
  }
  cr_assert(atomic_load(&hard.running_cleaned) == 1 && atomic_load(&hard.queued_cleaned) == 1);
  rctx_end(c);
  c = NULL;
  workers_close();
}

static void an_orphan_is_forgotten(void *arg) {
  (void)arg;
  REQUIRE(workers_now().orphans == 0);
  REQUIRE(rctx_quiesce(workers, rctx_now() + 30 * SECOND) == 0);
  REQUIRE(workers_now().tasks == 0);
}

Test(fork, an_orphan_is_the_parents) {
  struct hard_work hard = {0};
  pthread_t caller;
  void *result;
  gate_init(&hard.started);
  gate_init(&hard.may_end);
  workers_open((struct rctx_manager_options){.threads_max = 1});
  rctx *c = rctx_with_cancel(rctx_manager_background(workers));
  hard.ctx = c;
  cr_assert_eq(pthread_create(&caller, NULL, execute_long, &hard), 0);
  gate_pass(&hard.started);
  rctx_end(c);
  pthread_join(caller, &result);
  cr_assert_eq((intptr_t)result, -ECANCELED);
  in_a_child(an_orphan_is_forgotten, NULL);
  cr_assert_eq(workers_now().orphans, 1);
  gate_open(&hard.may_end);
  workers_close();
  cr_assert_eq(atomic_load(&hard.running_cleaned), 1);
}

static void nothing_is_waited_for(void *arg) {
  (void)arg;
  REQUIRE(rctx_quiesce(workers, rctx_now() + 5 * SECOND) == 0);
  REQUIRE(workers_now().tasks == 0);
}

// The embedder's thread is in the middle of it; in the child that thread is gone.
Test(fork, a_task_that_runs_on_an_embedders_thread_is_forgotten_too) {
  static struct hand hand;
  struct hard_work hard = {0};
  pthread_t caller;
  gate_init(&hard.started);
  gate_init(&hard.may_end);
  hand_init(&hand);
  workers_open((struct rctx_manager_options){.executor = &hand.table});
  hand_thread_start(&hand);
  RCTX_SCOPED rctx *c = rctx_with_cancel(rctx_manager_background(workers));
  hard.ctx = c;
  cr_assert_eq(pthread_create(&caller, NULL, execute_long, &hard), 0);
  gate_pass(&hard.started);
  in_a_child(nothing_is_waited_for, NULL);
  gate_open(&hard.may_end);
  pthread_join(caller, NULL);
  hand_thread_stop(&hand);
  rctx_end(c);
  c = NULL;
  workers_close();
}

static int fork_in_a_task(const rctx *ctx, void *arg) {
  int status = -1, number = 6;
  (void)arg;
  pid_t child = fork();
  if (child == 0) {
    alarm(60);
    rctx_after_fork_child();
    REQUIRE(rctx_err(ctx) == 0);
    REQUIRE(rctx_execute(ctx, add_one, &number, NULL, NULL) == 7);
    REQUIRE(rctx_execute(rctx_background(), add_one, &number, NULL, NULL) == 8);
    _exit(0);
  }
  return waitpid(child, &status, 0) == child ? status : -1;
}

Test(fork, a_task_may_fork_and_its_child_may_execute) {
  NEEDS_THREADS_IN_THE_CHILD();
  NEEDS_A_MALLOC_THAT_FORKS();
  workers_open((struct rctx_manager_options){.threads_max = 1});
  for (int round = 0; round < 3; round++)
    cr_assert_eq(rctx_execute(rctx_manager_background(workers), fork_in_a_task, NULL, NULL, NULL), 0);
  workers_close();
}

static int fork_and_return(const rctx *ctx, void *arg) {
  int status = -1;
  fflush(NULL);
  pid_t child = fork();
  (void)ctx;
  if (child == 0) {
    alarm(60);
    rctx_after_fork_child();
    ++*(int *)arg; // the child's own
    return 0;
  }
  return waitpid(child, &status, 0) == child ? status : -1;
}

// The thread is the child's only one; it belongs to no pool, and when it ends the process has no thread left: exit code 0.
Test(fork, a_task_may_fork_and_return_in_the_child) {
  NEEDS_THREADS_IN_THE_CHILD();
  NEEDS_A_MALLOC_THAT_FORKS();
  int returned = 0;
  workers_open((struct rctx_manager_options){.threads_max = 1});
  for (int round = 0; round < 3; round++)
    cr_assert_eq(rctx_execute(rctx_manager_background(workers), fork_and_return, &returned, NULL, NULL), 0);
  cr_assert_eq(returned, 0);
  workers_close();
}

// The thread is of the pool that was used first; the other's is looked at before it in the child.
Test(fork, a_task_of_one_pool_may_fork_while_there_is_another) {
  NEEDS_THREADS_IN_THE_CHILD();
  NEEDS_A_MALLOC_THAT_FORKS();
  int returned = 0;
  workers_open((struct rctx_manager_options){.threads_max = 1});
  cr_assert_eq(rctx_execute(rctx_manager_background(workers), add_one, &returned, NULL, NULL), 1);
  cr_assert_eq(rctx_execute(rctx_background(), add_one, &returned, NULL, NULL), 2);
  cr_assert_eq(rctx_execute(rctx_manager_background(workers), fork_and_return, &returned, NULL, NULL), 0);
  workers_close();
}

static int succeed(const rctx *ctx, void *arg) {
  (void)ctx;
  (void)arg;
  return 0;
}

static void *execute_for_ever(void *unused) {
  while (!atomic_load(&stop_working)) {
    RCTX_SCOPED rctx *c = rctx_with_timeout(rctx_manager_background(workers), MS);
    rctx_execute(c, succeed, NULL, NULL, NULL);
  }
  return unused;
}

static void the_pool_works_at_once(void *unused) {
  int number = 1;
  (void)unused;
  REQUIRE(rctx_execute(rctx_manager_background(workers), add_one, &number, NULL, NULL) == 2);
  REQUIRE(rctx_quiesce(workers, rctx_now() + 30 * SECOND) == 0);
}

Test(fork, while_tasks_come_and_go) {
  NEEDS_THREADS_IN_THE_CHILD();
  NEEDS_A_MALLOC_THAT_FORKS();
  pthread_t callers[2];
  everything_but_threads_works(NULL);
  workers_open((struct rctx_manager_options){.threads_max = 2});
  atomic_store(&stop_working, false);
  for (int i = 0; i < 2; i++) cr_assert_eq(pthread_create(&callers[i], NULL, execute_for_ever, NULL), 0);
  for (int round = 0; round < 30; round++) in_a_child(the_pool_works_at_once, NULL);
  atomic_store(&stop_working, true);
  for (int i = 0; i < 2; i++) pthread_join(callers[i], NULL);
  workers_close();
}
