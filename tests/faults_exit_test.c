// Threads that exit at every point, and processes that fork at an unlucky one: nothing is lost, nothing leaks.
//
// A thread does the first n steps of a list and exits; another ends what it has left, for all n; also with a thread for each step.
#include "faults/rows.h"
#include "support/children.h"
#include "support/leftovers.h"
#include "support/tasks.h"
#include "support/watchdog.h"

#include <poll.h>
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

static void watch(void) { watchdog(60); }
static void close_all(void) {
  faults_disarm();
  nothing_left_by_default();
}
TestSuite(faults_exit, .init = watch, .fini = close_all, .timeout = 100);

/* ---- what a thread leaves ---------------------------------------------------------------------------------------- */

enum { VALUES = 20, LEAVES = 5 };

struct left {
  rctx_manager *manager;
  const rctx *root;
  rctx_loop *loop;
  rctx *top, *timed, *value, *merged, *request, *swept, *leaves[LEAVES], *recorded, *movable;
  const rctx *reference;
  rctx_drain *drain;
  struct rctx_group group;
  bool group_begun, sweep_begun;
  struct rctx_sweep sweep;
  struct rctx_after here, there, by_thread;
  int registered; // of the three
  atomic_int calls, destroyed, ran;
};

static const struct rctx_key key = {.name = "key"};

static void count_call(const rctx *ctx, void *arg) {
  (void)ctx;
  atomic_fetch_add(&((struct left *)arg)->calls, 1);
}
static void count_value(void *counter) { atomic_fetch_add((atomic_int *)counter, 1); }
static int count_task(const rctx *ctx, void *arg) {
  (void)ctx;
  atomic_fetch_add(&((struct left *)arg)->ran, 1);
  return 0;
}

static void s_derive(struct left *l) { l->top = rctx_with_cancel(l->root); }
static void s_timer(struct left *l) { l->timed = rctx_with_timeout(l->top, HOUR); }
static void s_values(struct left *l) {
  struct rctx_value values[VALUES];
  for (int i = 0; i < VALUES; i++) values[i] = (struct rctx_value){&key, &l->destroyed, count_value};
  l->value = rctx_with_values(l->timed, values, VALUES);
}
static void s_inline(struct left *l) {
  cr_assert_eq(rctx_after_inline(l->value, &l->here, RCTX_ON_ENDED_TELL, count_call, l), RCTX_REGISTERED);
  l->registered++;
}
static void s_watch(struct left *l) {
  cr_assert_eq(rctx_watch(l->value, &l->there, l->loop, RCTX_ON_ENDED_TELL, count_call, l), RCTX_REGISTERED);
  l->registered++;
}
static void s_after(struct left *l) {
  cr_assert_eq(rctx_after(l->value, &l->by_thread, count_call, l), RCTX_REGISTERED);
  l->registered++;
}
static void s_fd(struct left *l) { cr_assert_geq(rctx_fd(l->timed), 0); }
static void s_arena(struct left *l) {
  for (size_t size = 1; size < 6000; size *= 3) cr_assert_not_null(rctx_alloc(l->timed, size));
}
static void s_group(struct left *l) {
  rctx_group_init(&l->group, l->top);
  l->group_begun = true;
  for (int i = 0; i < 3; i++) cr_assert_eq(rctx_group_go(&l->group, count_task, l), 0);
}
static void s_reference(struct left *l) { l->reference = rctx_ref(l->value); }
static void s_merge(struct left *l) {
  const rctx *parents[] = {l->top, l->value, l->timed};
  l->merged = rctx_merge_any(parents, 3);
}
static void s_drain(struct left *l) { cr_assert_eq(rctx_drain_create(l->top, "work", &l->drain), 0); }
static void s_request(struct left *l) { l->request = rctx_drain_request(l->drain, NULL); }
static void s_wait(struct left *l) { cr_assert_eq(rctx_wait(l->timed, rctx_now() + MS / 4), 0); }
static void s_execute(struct left *l) { cr_assert_eq(rctx_execute(l->top, count_task, l, NULL, NULL), 0); }
static void s_record(struct left *l) {
  rctx_leaks_start(1);
  l->recorded = RCTX_LEAK_SITE(rctx_with_cancel(l->top));
  rctx_leaks_start(0);
}
static void s_move(struct left *l) {
  l->movable = rctx_derive(l->top, &(struct rctx_spec){.timeout_ns = HOUR, .movable = true});
  cr_assert_eq(rctx_move_deadline(l->movable, rctx_now() + HOUR / 2), 0);
}
static void s_subtree(struct left *l) {
  l->swept = rctx_with_cancel(l->top);
  for (int i = 0; i < LEAVES; i++) l->leaves[i] = rctx_with_cancel(l->swept);
}
static void s_sweep(struct left *l) {
  l->sweep_begun = rctx_cancel_begin(l->swept, NULL, &l->sweep);
  cr_assert(l->sweep_begun);
}
static void s_sweep_on(struct left *l) { l->sweep_begun = rctx_cancel_step(&l->sweep, 1); }
static void s_end_some(struct left *l) {
  rctx_end(l->leaves[0]);
  rctx_end(l->recorded);
  l->leaves[0] = l->recorded = NULL;
}
static void s_cancel(struct left *l) { cr_assert(rctx_cancel(l->top)); }

static void (*const steps[])(struct left *) = {
    s_derive, s_timer, s_values,  s_inline,  s_watch,  s_after, s_fd,      s_arena, s_group,    s_wait,     s_reference,
    s_merge,  s_drain, s_request, s_execute, s_record, s_move,  s_subtree, s_sweep, s_sweep_on, s_end_some, s_cancel};
enum { STEPS = sizeof steps / sizeof *steps };

/* ---- the other thread ends it ------------------------------------------------------------------------------------ */

static void end_if(rctx *c) {
  if (c) rctx_end(c);
}

static void end_what_is_left(struct left *l) {
  while (l->sweep_begun) l->sweep_begun = rctx_cancel_step(&l->sweep, 2);
  if (l->group_begun) cr_assert_eq(rctx_group_fini(&l->group), 0);
  end_if(l->request);
  rctx_drain_destroy(l->drain);
  end_if(l->merged);
  for (int i = 0; i < LEAVES; i++) end_if(l->leaves[i]);
  end_if(l->swept);
  end_if(l->recorded);
  end_if(l->movable);
  end_if(l->value);
  end_if(l->timed);
  end_if(l->top);
  if (l->reference) {
    cr_assert_eq(rctx_err(l->reference), -ECANCELED);
    rctx_unref(l->reference);
  }
  rctx_loop_drain(l->loop, 10);
  rctx_quiesce(l->manager, INT64_MAX);
  cr_assert_eq(atomic_load(&l->calls), l->registered, "each callback once");
  rctx_after_stop_sync(&l->here);
  rctx_after_stop_sync(&l->there);
  rctx_after_stop_sync(&l->by_thread);
  rctx_loop_destroy(l->loop);
}

struct part {
  struct left *left;
  int first, behind;
};

static void *do_steps(void *arg) {
  struct part *part = arg;
  for (int i = part->first; i < part->behind; i++) steps[i](part->left);
  return NULL;
}

static void in_a_thread(struct left *l, int first, int behind) {
  struct part part = {l, first, behind};
  pthread_t thread;
  cr_assert_eq(pthread_create(&thread, NULL, do_steps, &part), 0);
  pthread_join(thread, NULL);
}

static void exit_after(int n, bool uncached, bool each) {
  struct left l = {.manager = NULL};
  cr_assert_eq(rctx_manager_create(&(struct rctx_manager_options){.uncached = uncached}, &l.manager), 0);
  l.root = rctx_manager_background(l.manager);
  cr_assert_eq(rctx_loop_create(&l.loop), 0);
  for (int i = 0; each && i < n; i++) in_a_thread(&l, i, i + 1);
  if (!each) in_a_thread(&l, 0, n);
  end_what_is_left(&l);
  cr_assert_eq(atomic_load(&l.destroyed), n > 2 ? VALUES : 0, "each value once");
  cr_assert_eq(atomic_load(&l.ran), (n > 8 ? 3 : 0) + (n > 14 ? 1 : 0), "each task once");
  nothing_left(l.manager);
  cr_assert_eq(rctx_manager_destroy(l.manager), 0);
}

static void exit_at_every_point(bool uncached, bool each) {
  exit_after(STEPS, uncached, each); // what this thread keeps is there then
  for (int n = 0; n <= STEPS; n++) {
    struct faults_open before = faults_open();
    exit_after(n, uncached, each);
    cr_assert(faults_open_is(before), "a thread that exits after step %d leaves something", n);
  }
}

Test(faults_exit, a_thread_exits_at_every_point) { exit_at_every_point(false, false); }
Test(faults_exit, a_thread_exits_at_every_point_and_caches_nothing) { exit_at_every_point(true, false); }
Test(faults_exit, a_thread_for_every_step) { exit_at_every_point(false, true); }
Test(faults_exit, a_thread_for_every_step_that_caches_nothing) { exit_at_every_point(true, true); }

static void *wait_for_the_end(void *arg) {
  rctx_wait(arg, INT64_MAX);
  return NULL;
}

// Waiters leave as the context ends and goes.
Test(faults_exit, threads_that_wait_exit_with_the_end) {
  for (int round = 0; round < 50; round++) {
    pthread_t threads[3];
    rctx *c = rctx_with_cancel(rctx_background());
    const rctx *held = rctx_ref(c);
    for (int i = 0; i < 3; i++) cr_assert_eq(pthread_create(&threads[i], NULL, wait_for_the_end, c), 0);
    if (round % 2) usleep(100);
    rctx_end(c);
    for (int i = 0; i < 3; i++) pthread_join(threads[i], NULL);
    rctx_unref(held);
  }
}

/* ---- destructors of the host's ----------------------------------------------------------------------------------- */

struct last_words {
  pthread_key_t key;
  struct left *left;
  int rounds; // how often it comes again
  int spoken;
};

// A host's thread-specific destructor uses the library, before or after the library's own destructor has run.
static void use_once_more(void *arg) {
  struct last_words *words = arg;
  rctx *c = rctx_with_value(words->left->top, &key, words), *below = rctx_with_timeout(c, HOUR);
  cr_assert_eq(rctx_err(below), 0);
  rctx_cancel(c);
  rctx_end(below);
  rctx_end(c);
  if (++words->spoken < words->rounds) pthread_setspecific(words->key, words);
}

static void *speak(void *arg) {
  struct last_words *words = arg;
  rctx_end(rctx_with_value(words->left->top, &key, words));
  pthread_setspecific(words->key, words);
  return NULL;
}

static void speak_in_rounds(struct left *l, pthread_key_t host_key, int rounds) {
  struct last_words words = {host_key, l, rounds, 0};
  pthread_t thread;
  cr_assert_eq(pthread_create(&thread, NULL, speak, &words), 0);
  pthread_join(thread, NULL);
  cr_assert_eq(words.spoken, rounds);
}

#ifdef RCTX_TSAN
enum { ROUNDS_OF_DESTRUCTORS = 2 }; // TSan itself leaves the thread in the fourth, when ours would run
#else
enum { ROUNDS_OF_DESTRUCTORS = 3 };
#endif

// The C library calls destructors by the number of their keys: one made before the library's first use comes before ours, one made
// after it comes after. In its fourth and last round nobody tells us any more: what the thread cached then is the manager's.
Test(faults_exit, a_hosts_destructor_uses_the_library_after_ours_has_run) {
  pthread_key_t before, after;
  struct left l = {.manager = NULL};
  cr_assert_eq(pthread_key_create(&before, use_once_more), 0);
  cr_assert_eq(rctx_manager_create(&(struct rctx_manager_options){0}, &l.manager), 0);
  l.top = rctx_with_cancel(rctx_manager_background(l.manager)); // makes ours
  cr_assert_eq(pthread_key_create(&after, use_once_more), 0);
  speak_in_rounds(&l, before, 1);
  tasks_rest(); // the timer thread has begun, and given back what it was started with
  for (int rounds = 1; rounds <= ROUNDS_OF_DESTRUCTORS; rounds++) {
    struct faults_open open = faults_open();
    speak_in_rounds(&l, before, rounds);
    speak_in_rounds(&l, after, rounds);
    cr_assert(faults_open_is(open), "%d rounds", rounds);
  }
  rctx_end(l.top);
  nothing_left(l.manager);
  cr_assert_eq(rctx_manager_destroy(l.manager), 0);
  pthread_key_delete(before);
  pthread_key_delete(after);
}

/* ---- forks that meet faults -------------------------------------------------------------------------------------- */

static int answer(const rctx *ctx, void *arg) {
  (void)ctx;
  (void)arg;
  return 7;
}

// Then all works in the child: what came with it and what is new.
static void child_works(struct left *l) {
  rctx *timed = rctx_with_timeout(l->root, MS);
  REQUIRE(rctx_wait(timed, INT64_MAX) == -ETIMEDOUT);
  rctx_end(timed);
  REQUIRE(rctx_execute(l->root, answer, NULL, NULL, NULL) == 7);
  struct pollfd none = {.fd = -1};
  REQUIRE(rctx_poll(l->timed, &none, 1, rctx_now() + MS) == 0);
  REQUIRE(rctx_cancel(l->top));
  REQUIRE(rctx_poll(l->timed, &none, 1, INT64_MAX) == -ECANCELED);
  struct rctx_after more = {0};
  REQUIRE(rctx_after(l->value, &more, count_call, l) == RCTX_ENDED); // starts the thread if it could not be had before
  REQUIRE(rctx_loop_drain(l->loop, 10) == 1);
  while (atomic_load(&l->calls) < 4) usleep(100);
  REQUIRE(rctx_quiesce(l->manager, INT64_MAX) == 0);
}

static bool child_meets(struct left *l, enum faults_kind kind, uint64_t nth, int error) {
  int status = -1;
  fflush(NULL);
  tasks_rest();
  pid_t child = fork();
  cr_assert_geq(child, 0);
  if (child == 0) {
    alarm(60);
    faults_arm(kind, nth, true, error);
    rctx_after_fork_child();
    int loop_fd = rctx_loop_fd(l->loop), fd = rctx_fd(l->timed); // its own, or the number is closed
    struct faults_seen seen = faults_disarm();
    REQUIRE(loop_fd >= 0 && fd >= 0);
    child_works(l);
    _exit(seen.refused > 0 ? 2 : 0);
  }
  cr_assert_eq(waitpid(child, &status, 0), child);
  cr_assert(WIFEXITED(status) && (WEXITSTATUS(status) & 1) == 0, "the child ended with status %x", status);
  return WEXITSTATUS(status) == 2;
}

Test(faults_exit, the_child_of_a_fork_meets_faults_at_once) {
  struct left l = {.manager = NULL};
  unsigned met = 0;
#ifdef RCTX_TSAN
  cr_skip_test("TSan can not start threads after fork");
#endif
  cr_assert_eq(rctx_manager_create(&(struct rctx_manager_options){0}, &l.manager), 0);
  l.root = rctx_manager_background(l.manager);
  cr_assert_eq(rctx_loop_create(&l.loop), 0);
  for (int i = 0; i < 8; i++) steps[i](&l); // timers, callbacks of all kinds, a descriptor
  s_execute(&l);                            // and a pool with a thread
  static const struct {
    enum faults_kind kind;
    int error;
  } kinds[] = {{FAULT_THREAD, EAGAIN}, {FAULT_MEMORY, ENOMEM}, {FAULT_EVENTFD, EMFILE}, {FAULT_MAP, ENOMEM}};
  for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
    uint64_t nth = 1;
    while (nth < 20 && child_meets(&l, kinds[k].kind, nth, kinds[k].error)) nth++;
    cr_assert_lt(nth, 20);
    met += (unsigned)nth - 1;
  }
  cr_assert_geq(met, 4, "two threads, two descriptors");
  cr_assert_eq(rctx_err(l.value), 0, "the parent goes on");
  end_what_is_left(&l);
  nothing_left(l.manager);
  cr_assert_eq(rctx_manager_destroy(l.manager), 0);
}

struct load {
  struct left *left;
  atomic_bool over;
  atomic_uint rounds;
};

static void *keep_busy(void *arg) {
  struct load *load = arg;
  while (!atomic_load(&load->over)) {
    rctx *c = rctx_with_timeout(load->left->root, MS), *below = rctx_with_value(c, &key, load);
    int rc = rctx_execute(below, answer, NULL, NULL, NULL);
    cr_assert(rc == 7 || rc == -ETIMEDOUT, "%d", rc);
    rctx_end(below);
    rctx_end(c);
    atomic_fetch_add(&load->rounds, 1);
  }
  return NULL;
}

static void fork_once_under_load(struct left *l) {
  int status = -1;
  fflush(NULL);
  pid_t child = fork();
  cr_assert_geq(child, 0);
  if (child == 0) {
    alarm(60);
    rctx_after_fork_child();
    REQUIRE(rctx_loop_fd(l->loop) >= 0 && rctx_fd(l->timed) >= 0);
    rctx *timed = rctx_with_timeout(l->root, MS);
    REQUIRE(rctx_wait(timed, INT64_MAX) == -ETIMEDOUT);
    REQUIRE(rctx_execute(l->root, answer, NULL, NULL, NULL) == 7);
    REQUIRE(rctx_cancel(l->top) && rctx_loop_drain(l->loop, 10) == 1);
    while (atomic_load(&l->calls) < 3) usleep(100);
    _exit(0);
  }
  cr_assert_eq(waitpid(child, &status, 0), child);
  cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the child ended with status %x", status);
}

// With timers, watches and the pool all at work in other threads at that moment.
Test(faults_exit, forks_again_and_again_under_load) {
  enum { FORKS = 40, BUSY = 3 };
  struct left l = {.manager = NULL};
  struct load load = {.left = &l};
  pthread_t busy[BUSY];
#if defined(RCTX_TEST_SHIM) || CHECK_LEAKS
  cr_skip_test(
      "a sanitizer's malloc or threads can not be used after fork; valgrind finds lost what other threads had in hand");
#endif
  cr_assert_eq(rctx_manager_create(&(struct rctx_manager_options){.threads_max = 4}, &l.manager), 0);
  l.root = rctx_manager_background(l.manager);
  cr_assert_eq(rctx_loop_create(&l.loop), 0);
  for (int i = 0; i < 8; i++) steps[i](&l);
  for (int i = 0; i < BUSY; i++) cr_assert_eq(pthread_create(&busy[i], NULL, keep_busy, &load), 0);
  for (int i = 0; i < FORKS; i++) fork_once_under_load(&l);
  unsigned rounds = atomic_load(&load.rounds);
  while (atomic_load(&load.rounds) < rounds + 100) usleep(100); // the parent goes on
  atomic_store(&load.over, true);
  for (int i = 0; i < BUSY; i++) pthread_join(busy[i], NULL);
  end_what_is_left(&l);
  nothing_left(l.manager);
  cr_assert_eq(rctx_manager_destroy(l.manager), 0);
}
