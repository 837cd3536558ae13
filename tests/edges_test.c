// As coverage_test.c: the edges of clocks, memory, stripes, signals and headers that no other subject's tests come by.
#include "support/check.h"
#include "support/hand_executor.h"
#include "support/leftovers.h"
#include "support/real_create.h"

#include "core/manager.h"
#include "core/memory.h"
#include "core/platform.h"
#include "core/tree.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <rctx/rctx.h>
#include <rctx/testing.h>
#include <setjmp.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define SECOND INT64_C(1000000000)

#ifdef RCTX_TSAN
#define NEEDS_SIGNALS_AT_ONCE() cr_skip_test("TSan delays signals and changes flags")
#define NEEDS_A_CHILD_OF_THREADS() cr_skip_test("TSan allows the child of several threads little")
#else
#define NEEDS_SIGNALS_AT_ONCE() ((void)0)
#if CHECK_LEAKS
#define NEEDS_A_CHILD_OF_THREADS() cr_skip_test("ASan's malloc may be locked in the child of several threads")
#else
#define NEEDS_A_CHILD_OF_THREADS() ((void)0)
#endif
#endif

TestSuite(edges, .timeout = 60, .fini = nothing_left_by_default);

// ---- a manager whose time and memory are the test's --------------------------------------------------------------------

static int64_t time_ns;
static int64_t read_time(void *arg) {
  (void)arg;
  return time_ns;
}

static atomic_int allowed; // requests that are still granted; negative: all are
static void *grant(void *self, size_t size, size_t align) {
  void *memory = NULL;
  (void)self;
  if (atomic_load(&allowed) == 0) return NULL;
  if (atomic_load(&allowed) > 0) atomic_fetch_sub(&allowed, 1);
  return posix_memalign(&memory, align < sizeof memory ? sizeof memory : align, size) == 0 ? memory : NULL;
}
static void take_back(void *self, void *memory, size_t size) {
  (void)self;
  (void)size;
  free(memory);
}

static rctx_manager *manager;
static const rctx *open_manager(void) {
  struct rctx_manager_options options = {
      .drive = RCTX_DRIVE_EMBEDDER, .now = read_time, .allocator = {grant, take_back, NULL}};
  time_ns = SECOND;
  atomic_store(&allowed, -1);
  cr_assert_eq(rctx_manager_create(&options, &manager), 0);
  return rctx_manager_background(manager);
}
static void close_manager(void) {
  nothing_left(manager);
  cr_assert_eq(rctx_manager_destroy(manager), 0);
}

// ---- memory ----------------------------------------------------------------------------------------------------------

static const struct rctx_key key = {.name = "key"};
static void end_context(void *ctx) { rctx_end(ctx); }

// What a context was given goes with it when its timer can not be had: a destructor ends the context whose values it borrowed.
Test(edges, a_timer_that_can_not_be_had_lets_go_of_borrowed_values_last) {
  const rctx *root = open_manager();
  rctx *lender = rctx_with_value(root, &key, &time_ns);
  rctx_end(rctx_with_value(root, &key, &time_ns)); // there is memory for another one, but not for the wheels
  struct rctx_value value = {&key, lender, end_context};
  struct rctx_spec spec = {.timeout_ns = SECOND, .values = &value, .nvalues = 1, .values_from = lender};
#if RCTX_UNCACHED
  atomic_store(&allowed, 2); // the node and its block
#else
  atomic_store(&allowed, 0);
#endif
  rctx *c = rctx_derive(root, &spec);
  atomic_store(&allowed, -1);
  cr_assert_eq(rctx_err(c), -ENOMEM);
  struct rctx_stats stats;
  rctx_stats(manager, &stats);
  cr_assert_eq(stats.contexts, 0, "the lender is gone, too");
  close_manager();
}

// Others' requests that are about to be refused count, too, for a moment.
Test(edges, requests_at_once_keep_the_limit) {
  struct rctx_manager_options options = {.bytes_max = 1 << 20};
  cr_assert_eq(rctx_manager_create(&options, &manager), 0);
  const rctx *root = rctx_manager_background(manager);
  add_relaxed(&manager->memory.bytes, (size_t)2 << 20);
  cr_assert_eq(rctx_err(rctx_with_cancel(root)), -ENOMEM);
  sub_acq_rel(&manager->memory.bytes, (size_t)2 << 20);
  rctx *c = rctx_with_cancel(root);
  cr_assert_eq(rctx_err(c), 0);
  rctx_end(c);
  close_manager();
}

// Two reclaim at once: the second saw the count, and finds nothing.
Test(edges, a_trim_of_what_another_has_taken) {
  struct rctx_stats stats;
  open_manager();
  store_relaxed(&manager->deferred_count, 1U);
  rctx_trim(manager);
  rctx_stats(manager, &stats);
  cr_assert_eq(stats.deferred, 0);
  close_manager();
}

// Somebody has trimmed: at its next visit to the pools the thread gives all it has cached.
Test(edges, a_trim_is_heard_of_by_what_is_given_back) {
  open_manager();
  rctx_manager *first = manager;
  rctx *c = rctx_with_cancel(rctx_manager_background(first));
  rctx_manager *second;
  rctx_trim(first);
  cr_assert_eq(rctx_manager_create(&(struct rctx_manager_options){.drive = RCTX_DRIVE_EMBEDDER}, &second), 0);
  rctx_end(rctx_with_cancel(rctx_manager_background(second)));
  rctx_end(c); // this thread was at the other manager's pools last
  rctx_trim(first);
  cr_assert_eq(load_relaxed(&first->memory.bytes), 0);
  cr_assert_eq(rctx_manager_destroy(second), 0);
  close_manager();
}

// ---- locks held by hand ----------------------------------------------------------------------------------------------

static void *let_go(void *arg) {
  rctx *ctx = arg;
  usleep(20000);
  rctx__state_unlock(ctx, load_relaxed(&ctx->state) & ~STATE_LOCKED);
  return NULL;
}

// A child of c, made while another thread holds c's lock: the last time it takes to give c stripes.
static rctx *child_of_contended(rctx *c) {
  pthread_t other;
  atomic_store(&c->contended, 7);
  atomic_fetch_or(&c->state, STATE_LOCKED);
  cr_assert_eq(pthread_create(&other, NULL, let_go, c), 0);
  rctx *child = rctx_with_cancel(c);
  cr_assert_eq(pthread_join(other, NULL), 0);
  return child;
}

Test(edges, without_memory_there_are_no_stripes) {
  const rctx *root = open_manager();
  for (int ext = 0; ext < 2; ext++) {
    rctx *c = rctx_with_cancel(root);
    rctx_end(rctx_with_cancel(c));
    if (ext) cr_assert_geq(rctx_fd(c), 0);
#if RCTX_UNCACHED
    atomic_store(&allowed, 1);
#else
    atomic_store(&allowed, 0);
#endif
    rctx *child = child_of_contended(c);
    atomic_store(&allowed, -1);
    cr_assert_eq(rctx_err(child), 0);
    struct rctx__ext *made = atomic_load(&c->ext);
    cr_assert(ext ? made && atomic_load(&made->stripes) == NULL : made == NULL);
    rctx_cancel(c);
    cr_assert_eq(rctx_err(child), -ECANCELED);
    rctx_end(child);
    rctx_end(c);
  }
  close_manager();
}

static char dumped[1 << 16];
static size_t dumped_bytes;
static int keep(const char *text, size_t length, void *arg) {
  (void)arg;
  cr_assert_lt(dumped_bytes + length, sizeof dumped);
  memcpy(dumped + dumped_bytes, text, length);
  dumped_bytes += length;
  dumped[dumped_bytes] = '\0';
  return 0;
}

// A dump that ends in the middle of a stripe lets its lock go.
Test(edges, a_dump_without_room_in_the_middle_of_a_stripe) {
  enum { CHILDREN = 64 };
  static char room[4096];
  const rctx *root = open_manager();
  rctx *c = rctx_with_cancel(root), *children[CHILDREN];
  rctx *first = child_of_contended(c);
  for (int i = 0; i < CHILDREN; i++) children[i] = rctx_with_cancel(c);
  cr_assert_neq(children[0]->stripe, 0);
  cr_assert_leq(rctx_dump(c, RCTX_DUMP_TEXT, room, sizeof room, keep, NULL), 0);
  cr_assert_gt(dumped_bytes, 0);
  for (int i = 0; i < CHILDREN; i++) rctx_end(children[i]);
  rctx_end(first);
  rctx_end(c);
  close_manager();
}

static void nothing(const rctx *ctx, void *arg) {
  (void)ctx;
  (void)arg;
}

static void *register_on(void *ctx) {
  struct rctx_after *after = calloc(1, sizeof *after);
  cr_assert_eq(rctx_after(ctx, after, nothing, NULL), 0);
  cr_assert(rctx_after_stop(after));
  free(after);
  return NULL;
}

// Both have seen that there is none, and wait to be the one that starts it.
Test(edges, two_first_registrations_at_once_start_one_thread) {
  pthread_t threads[2];
  struct rctx_stats stats;
  const rctx *root = open_manager();
  rctx *c = rctx_with_cancel(root);
  rctx__registry_lock();
  for (int i = 0; i < 2; i++) cr_assert_eq(pthread_create(&threads[i], NULL, register_on, c), 0);
  usleep(50000);
  rctx__registry_unlock();
  for (int i = 0; i < 2; i++) cr_assert_eq(pthread_join(threads[i], NULL), 0);
  rctx_stats(manager, &stats);
  cr_assert_eq(stats.threads, 1);
  rctx_end(c);
  close_manager();
}

static void *submit_over(void *submitting) {
  usleep(20000);
  atomic_store((_Atomic uint32_t *)submitting, 0);
  return NULL;
}

// The task of a submit has run, and its submitter has not left the pool yet.
Test(edges, a_manager_is_destroyed_when_the_last_submit_has_left) {
  pthread_t submitter;
  cr_assert_eq(rctx_manager_create(&(struct rctx_manager_options){.threads_max = 1}, &manager), 0);
  atomic_store(&manager->workers.submitting, 1);
  cr_assert_eq(pthread_create(&submitter, NULL, submit_over, &manager->workers.submitting), 0);
  int64_t begun_ns = rctx_now();
  cr_assert_eq(rctx_manager_destroy(manager), 0);
  cr_assert_geq(rctx_now() - begun_ns, 0);
  cr_assert_eq(pthread_join(submitter, NULL), 0);
}

// ---- clocks and deadlines --------------------------------------------------------------------------------------------

static int64_t read_other_time(void *arg) { return *(const int64_t *)arg; }

Test(edges, deadlines_on_different_clocks_are_not_compared) {
  static int64_t other_ns = 500 * SECOND;
  static char room[1 << 14];
  rctx_manager *other;
  struct rctx_manager_options options = {.drive = RCTX_DRIVE_EMBEDDER, .now = read_other_time, .now_arg = &other_ns};
  const rctx *root = open_manager();
  cr_assert_eq(rctx_manager_create(&options, &other), 0);
  rctx *timed = rctx_with_deadline(root, 2 * SECOND);
  rctx *below = rctx_derive(timed, &(struct rctx_spec){.manager = other, .deadline_ns = 600 * SECOND});
  cr_assert_eq(rctx_err(below), 0);
  cr_assert_eq(rctx_next(other, other_ns) < INT64_MAX, true, "it has a timer of its own");
  dumped_bytes = 0;
  cr_assert_eq(rctx_dump(timed, RCTX_DUMP_TEXT, room, sizeof room, keep, NULL), 0);
  const char *left = strstr(dumped, " left=");
  cr_assert_not_null(left, "%s", dumped);
  cr_assert_null(strstr(left + 1, " left="), "of a clock that is not the dump's nothing is left: %s", dumped);
  other_ns = 601 * SECOND;
  rctx_advance(other, other_ns, 0);
  cr_assert(rctx_err(below) == -ETIMEDOUT && rctx_err(timed) == 0);
  rctx_end(below);
  rctx_end(timed);
  nothing_left(other);
  cr_assert_eq(rctx_manager_destroy(other), 0);
  close_manager();
}

// More than are looked at under one lock.
Test(edges, many_deadlines_that_were_moved_are_put_off) {
  enum { MANY = 600 };
  static rctx *c[MANY];
  const rctx *root = open_manager();
  for (int i = 0; i < MANY; i++) {
    c[i] = rctx_derive(root, &(struct rctx_spec){.deadline_ns = 2 * SECOND, .movable = true});
    cr_assert_eq(rctx_move_deadline(c[i], 100 * SECOND), 0);
  }
  time_ns = 3 * SECOND;
  cr_assert_eq(rctx_advance(manager, time_ns, 0), 0);
  for (int i = 0; i < MANY; i++) cr_assert_eq(rctx_err(c[i]), 0);
  time_ns = 101 * SECOND;
  cr_assert_eq(rctx_advance(manager, time_ns, 0), MANY);
  for (int i = 0; i < MANY; i++) {
    cr_assert_eq(rctx_err(c[i]), -ETIMEDOUT);
    rctx_end(c[i]);
  }
  close_manager();
}

// The merge ends by its parent's deadline, which is not its own: what is below ends with it, not by a deadline.
Test(edges, below_a_merge_that_timed_out_a_later_deadline_is_not_the_cause) {
  struct rctx_why why;
  const rctx *root = open_manager();
  rctx *first = rctx_with_cancel(root);
  rctx *timed = rctx_derive(root, &(struct rctx_spec){.deadline_ns = 2 * SECOND, .movable = true});
  rctx *merge = rctx_merge_any((const rctx *const[]){first, timed}, 2);
  rctx *below = rctx_with_deadline(merge, 2 * SECOND);
  time_ns = 3 * SECOND;
  rctx_advance(manager, time_ns, 0);
  cr_assert(rctx_err(merge) == -ETIMEDOUT && rctx_err(below) == -ETIMEDOUT);
  cr_assert_eq(rctx_why(below, &why), -ETIMEDOUT);
  rctx_end(below);
  rctx_end(merge);
  rctx_end(timed);
  rctx_end(first);
  close_manager();
}

// Between the last reference's giving up and the timer's disarming: the expiry leaves it to who is about to free it.
Test(edges, an_expiry_passes_over_what_nobody_holds_any_more) {
  const rctx *root = open_manager();
  rctx *c = rctx_with_deadline(root, 2 * SECOND);
  store_relaxed(&c->refs, 0U);
  time_ns = 3 * SECOND;
  cr_assert_eq(rctx_advance(manager, time_ns, 0), 0);
  cr_assert_eq(rctx_err(c), 0);
  cr_assert_eq(load_relaxed(&c->refs), 0);
  store_relaxed(&c->refs, 1U);
  rctx_end(c);
  close_manager();
}

Test(edges, a_test_clock_without_timers_is_set_back) {
  rctx_test_clock *clock;
  cr_assert_eq(rctx_test_clock_create(100 * SECOND, &clock), 0);
  rctx_test_clock_set(clock, 50 * SECOND);
  cr_assert_eq(rctx_test_clock_now(clock), 50 * SECOND);
  cr_assert_eq(rctx_test_clock_destroy(clock), 0);
}

// ---- forks and executors ---------------------------------------------------------------------------------------------

static int count_run(const rctx *ctx, void *arg) {
  (void)ctx;
  ++*(int *)arg;
  return 0;
}

Test(edges, an_executor_that_promises_nothing_runs_tasks_that_a_child_has_too) {
  static struct hand hand;
  struct rctx_group those;
  int runs = 0, status = -1;
  hand_init(&hand);
  hand.table.prepare = NULL;
  cr_assert_eq(rctx_manager_create(&(struct rctx_manager_options){.executor = &hand.table}, &manager), 0);
  rctx_group_init(&those, rctx_manager_background(manager));
  cr_assert_eq(rctx_group_go(&those, count_run, &runs), 0);
  fflush(NULL);
  pid_t child = fork();
  if (child == 0) {
    rctx_after_fork_child();
    bool ran = hand_run(&hand) == 1 && runs == 1;
    struct rctx_stats stats;
    rctx_stats(manager, &stats);
    _exit(ran && stats.tasks == 0 ? 0 : 1); // it was not counted here, and is not counted off
  }
  cr_assert_eq(waitpid(child, &status, 0), child);
  cr_assert_eq(status, 0);
  cr_assert_eq(hand_run(&hand), 1);
  cr_assert_eq(rctx_group_fini(&those), 0);
  cr_assert_eq(runs, 1);
  close_manager();
}

static int fork_status = -1;
static bool in_child;
static void fork_here(const rctx *ctx, void *arg) {
  (void)ctx;
  (void)arg;
  fflush(NULL);
  pid_t child = fork();
  in_child = child == 0;
  if (in_child) {
    rctx_after_fork_child();
  } else {
    waitpid(child, &fork_status, 0);
  }
}

Test(edges, a_callback_of_an_expiry_may_fork_and_return_in_the_child) {
  struct rctx_after after = {0};
  const rctx *root = open_manager();
  rctx *c = rctx_with_deadline(root, 2 * SECOND);
  cr_assert_eq(rctx_after_inline(c, &after, RCTX_ON_ENDED_TELL, fork_here, NULL), 0);
  time_ns = 3 * SECOND;
  cr_assert_eq(rctx_advance(manager, time_ns, 0), 1);
  if (in_child) {
    rctx_end(c);
    _exit(rctx_quiesce(manager, rctx_now() + SECOND) == 0 ? 0 : 1); // what ran was the parent's
  }
  cr_assert_eq(fork_status, 0);
  rctx_end(c);
  close_manager();
}

struct orphan {
  struct hand hand;
  atomic_int phase; // 1: it runs, 2: its caller has left
  pid_t self;
  int status;
};

static int fork_as_an_orphan(const rctx *ctx, void *arg) {
  struct orphan *orphan = arg;
  (void)ctx;
  atomic_store(&orphan->phase, 1);
  while (atomic_load(&orphan->phase) != 2) usleep(100);
  pid_t child = fork();
  if (child == 0) {
    rctx_after_fork_child();
  } else {
    waitpid(child, &orphan->status, 0);
  }
  return 0;
}

static void *run_orphan(void *arg) {
  struct orphan *orphan = arg;
  struct rctx_stats stats;
  struct rctx_task *task = hand_take(&orphan->hand, true);
  rctx_task_run(task);
  if (getpid() == orphan->self) return NULL;
  rctx_stats(manager, &stats);
  _exit(stats.orphans == 0 && stats.tasks == 0 ? 0 : 1); // they are the parent's
}

static void *cancel_when_it_runs(void *arg) {
  struct orphan *orphan = ((void **)arg)[0];
  while (atomic_load(&orphan->phase) != 1) usleep(100);
  rctx_cancel(((void **)arg)[1]);
  return NULL;
}

Test(edges, an_orphan_may_fork_and_return_in_the_child) {
  NEEDS_A_CHILD_OF_THREADS();
  static struct orphan orphan = {.status = -1};
  enum rctx_outcome outcome;
  pthread_t runner, canceller;
  hand_init(&orphan.hand);
  orphan.self = getpid();
  cr_assert_eq(rctx_manager_create(&(struct rctx_manager_options){.executor = &orphan.hand.table}, &manager), 0);
  rctx *c = rctx_with_cancel(rctx_manager_background(manager));
  fflush(NULL);
  cr_assert_eq(pthread_create(&runner, NULL, run_orphan, &orphan), 0);
  cr_assert_eq(pthread_create(&canceller, NULL, cancel_when_it_runs, ((void *[]){&orphan, c})), 0);
  cr_assert_eq(rctx_execute(c, fork_as_an_orphan, &orphan, NULL, &outcome), -ECANCELED);
  cr_assert_eq(outcome, RCTX_ORPHANED);
  atomic_store(&orphan.phase, 2);
  cr_assert_eq(pthread_join(runner, NULL), 0);
  cr_assert_eq(pthread_join(canceller, NULL), 0);
  cr_assert_eq(orphan.status, 0);
  rctx_end(c);
  close_manager();
}

// In a task of one pool, a task of an embedder that runs it at once, which waits for a third: one place is lent, not two.
static void submit_at_once(struct rctx_executor *self, struct rctx_task *task) {
  (void)self;
  rctx_task_run(task);
}
static int wait_for_a_task(const rctx *ctx, void *arg) {
  (void)ctx;
  return rctx_execute(rctx_background(), count_run, arg, NULL, NULL);
}
static int wait_for_two(const rctx *ctx, void *arg) {
  (void)ctx;
  return rctx_execute(rctx_manager_background(manager), wait_for_a_task, arg, NULL, NULL);
}

Test(edges, a_wait_inside_a_wait_lends_one_place) {
  struct rctx_executor at_once = {.submit = submit_at_once};
  int runs = 0;
  cr_assert_eq(rctx_manager_create(&(struct rctx_manager_options){.executor = &at_once}, &manager), 0);
  cr_assert_eq(rctx_execute(rctx_background(), wait_for_two, &runs, NULL, NULL), 0);
  cr_assert_eq(runs, 1);
  cr_assert_eq(rctx_quiesce(rctx_manager_default(), INT64_MAX), 0);
  cr_assert_eq(rctx__default_manager.workers.blocked, 0);
  close_manager();
}

// ---- threads that can not be had -------------------------------------------------------------------------------------

static void *(*refuse_start)(void); // runs where a thread would have been started, which is refused then

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*start)(void *), void *arg) {
  if (refuse_start == NULL) return real_create(thread, attributes, start, arg);
  refuse_start();
  return EAGAIN;
}

static atomic_int begun, may_end;
static int wait_to_end(const rctx *ctx, void *arg) {
  int which = *(int *)arg;
  (void)ctx;
  atomic_fetch_or(&begun, which);
  while (!(atomic_load(&may_end) & which)) usleep(100);
  return 0;
}

static unsigned idling(void) {
  rctx__take(&manager->workers.lock);
  unsigned idle = manager->workers.idling;
  rctx__unlock(&manager->workers.lock);
  return idle;
}
static unsigned blocked(void) {
  rctx__take(&manager->workers.lock);
  unsigned waiting = manager->workers.blocked;
  rctx__unlock(&manager->workers.lock);
  return waiting;
}

static struct rctx_group group;
static int ones[3] = {1, 2, 4};
static atomic_int late_runs;
static int run_late(const rctx *ctx, void *arg) {
  (void)ctx;
  (void)arg;
  atomic_fetch_add(&late_runs, 1);
  return 0;
}

// The one thread that there is falls idle, and a task comes that counts on the one that is being started.
static void *fall_idle_and_go(void) {
  refuse_start = NULL;
  atomic_store(&may_end, 7);
  while (idling() != 1) usleep(100);
  rctx_group_go(&group, run_late, NULL);
  return NULL;
}

Test(edges, who_counted_on_a_thread_that_could_not_be_started_gets_an_idle_one) {
  cr_assert_eq(rctx_manager_create(&(struct rctx_manager_options){.threads_max = 2}, &manager), 0);
  rctx_group_init(&group, rctx_manager_background(manager));
  cr_assert_eq(rctx_group_go(&group, wait_to_end, &ones[0]), 0);
  while (!(atomic_load(&begun) & 1)) usleep(100);
  refuse_start = fall_idle_and_go;
  cr_assert_eq(rctx_group_go(&group, wait_to_end, &ones[1]), 0);
  while (atomic_load(&late_runs) == 0) usleep(100); // nobody waits for the group, or would help
  cr_assert_eq(rctx_group_fini(&group), 0);
  close_manager();
}

// Two tasks that wait for others, elsewhere: when the second does, the first is done with it.
static struct hand elsewhere;
static rctx_manager *embedder;
static int wait_elsewhere(const rctx *ctx, void *arg) {
  (void)ctx;
  return rctx_execute(rctx_manager_background(embedder), wait_to_end, arg, NULL, NULL);
}
static void *first_goes_on(void) {
  refuse_start = NULL;
  atomic_store(&may_end, 1);
  hand_run_one(&elsewhere);
  while (blocked() != 1) usleep(100);
  return NULL;
}
static int second_waits(const rctx *ctx, void *arg) {
  (void)ctx;
  refuse_start = first_goes_on;
  return rctx_execute(rctx_manager_background(embedder), run_late, arg, NULL, NULL);
}
static int stay(const rctx *ctx, void *arg) {
  int rc = wait_elsewhere(ctx, arg);
  while (!(atomic_load(&may_end) & 4)) usleep(100); // its thread is there, and not blocked
  return rc;
}

Test(edges, who_waits_needs_no_thread_when_another_has_become_free) {
  hand_init(&elsewhere);
  cr_assert_eq(rctx_manager_create(&(struct rctx_manager_options){.threads_max = 2}, &manager), 0);
  cr_assert_eq(rctx_manager_create(&(struct rctx_manager_options){.executor = &elsewhere.table}, &embedder), 0);
  rctx_group_init(&group, rctx_manager_background(manager));
  cr_assert_eq(rctx_group_go(&group, stay, &ones[0]), 0);
  hand_wait_for(&elsewhere, 1);
  while (idling() + blocked() != manager->workers.threads) usleep(100);
  cr_assert_eq(rctx_group_go(&group, second_waits, NULL), 0);
  while (hand_run_one(&elsewhere) == false || atomic_load(&late_runs) == 0) usleep(100);
  atomic_store(&may_end, 7);
  cr_assert_eq(rctx_group_fini(&group), 0, "the second has waited, without a thread of its own");
  cr_assert_eq(atomic_load(&late_runs), 1);
  close_manager();
  nothing_left(embedder);
  cr_assert_eq(rctx_manager_destroy(embedder), 0);
}

// One thread may run. While its task waits elsewhere, another thread is started for what is queued; when the first goes on,
// one more than may be runs, and who is done first takes nothing from the queue.
static int wait_elsewhere_when_told(const rctx *ctx, void *arg) {
  while (!(atomic_load(&begun) & 4)) usleep(100);
  return wait_elsewhere(ctx, arg);
}

Test(edges, who_comes_back_from_a_wait_is_one_too_many) {
  hand_init(&elsewhere);
  cr_assert_eq(rctx_manager_create(&(struct rctx_manager_options){.threads_max = 1}, &manager), 0);
  cr_assert_eq(rctx_manager_create(&(struct rctx_manager_options){.executor = &elsewhere.table}, &embedder), 0);
  rctx_group_init(&group, rctx_manager_background(manager));
  cr_assert_eq(rctx_group_go(&group, wait_elsewhere_when_told, &ones[0]), 0);
  cr_assert_eq(rctx_group_go(&group, wait_to_end, &ones[1]), 0);
  cr_assert_eq(rctx_group_go(&group, run_late, NULL), 0);
  atomic_fetch_or(&begun, 4);
  hand_wait_for(&elsewhere, 1);
  while (!(atomic_load(&begun) & 2)) usleep(100);
  atomic_store(&may_end, 1);
  hand_run_one(&elsewhere);
  while (idling() != 1) usleep(100);
  cr_assert_eq(atomic_load(&late_runs), 0, "the second runs still: that is all that may");
  atomic_store(&may_end, 3);
  cr_assert_eq(rctx_group_fini(&group), 0);
  cr_assert_eq(atomic_load(&late_runs), 1);
  close_manager();
  nothing_left(embedder);
  cr_assert_eq(rctx_manager_destroy(embedder), 0);
}

// The only thread that may be is being started: who comes now waits for that, and starts it when it could not be had.
static pthread_t second_caller;
static void *execute_one(void *arg) {
  (void)arg;
  return (void *)(intptr_t)rctx_execute(rctx_manager_background(manager), run_late, NULL, NULL, NULL);
}
static void *let_another_come(void) {
  refuse_start = NULL;
  if (pthread_create(&second_caller, NULL, execute_one, NULL) != 0) abort();
  usleep(50000);
  return NULL;
}

Test(edges, a_start_that_another_waits_for_and_that_fails) {
  void *rc;
  cr_assert_eq(rctx_manager_create(&(struct rctx_manager_options){.threads_max = 1}, &manager), 0);
  refuse_start = let_another_come;
  cr_assert_eq(rctx_execute(rctx_manager_background(manager), run_late, NULL, NULL, NULL), -EAGAIN);
  cr_assert_eq(pthread_join(second_caller, &rc), 0);
  cr_assert_eq((intptr_t)rc, 0);
  cr_assert_eq(atomic_load(&late_runs), 1);
  close_manager();
}

static void *only_refuse(void) {
  atomic_fetch_or(&begun, 4);
  return NULL;
}
static int wait_for_the_group(const rctx *ctx, void *arg) {
  (void)ctx;
  (void)arg;
  refuse_start = only_refuse;
  return rctx_group_wait(&group);
}
static void *end_when_refused(void *task) {
  rctx_task_run(task);
  return NULL;
}
static int end_when_somebody_waits(const rctx *ctx, void *arg) {
  (void)arg;
  atomic_fetch_or(&begun, 1);
  while (!(atomic_load(&begun) & 4)) usleep(100);
  usleep(1000);
  (void)ctx;
  return 0;
}

Test(edges, a_task_waits_for_a_group_also_when_it_can_not_lend_its_place) {
  pthread_t runner;
  hand_init(&elsewhere);
  cr_assert_eq(rctx_manager_create(&(struct rctx_manager_options){.threads_max = 1}, &manager), 0);
  rctx_group_init_on(&group, rctx_background(), &elsewhere.table);
  cr_assert_eq(rctx_group_go(&group, end_when_somebody_waits, NULL), 0);
  cr_assert_eq(pthread_create(&runner, NULL, end_when_refused, hand_take(&elsewhere, false)), 0);
  while (!(atomic_load(&begun) & 1)) usleep(100);
  cr_assert_eq(rctx_execute(rctx_manager_background(manager), wait_for_the_group, NULL, NULL, NULL), 0);
  refuse_start = NULL;
  cr_assert(atomic_load(&begun) & 4, "a thread was wanted");
  cr_assert_eq(pthread_join(runner, NULL), 0);
  cr_assert_eq(rctx_group_fini(&group), 0);
  close_manager();
}

// ---- signals ---------------------------------------------------------------------------------------------------------

static atomic_int host_calls;
static sigjmp_buf back;

static void jump_back(int number) {
  (void)number;
  atomic_fetch_add(&host_calls, 1);
  siglongjmp(back, 1);
}

// What lies where a frame was that was left by a jump is no frame any more.
static __attribute__((noinline)) void raise_deeper(int number) {
  volatile char below[1 << 16];
  for (size_t i = 0; i < sizeof below; i++) below[i] = (char)0xff; // volatile: it is there for certain
  if (sigsetjmp(back, 1) == 0) raise(number);
  below[0] = 1;
}

Test(edges, a_host_that_jumped_out_of_its_handler_is_called_again_from_deeper) {
  NEEDS_SIGNALS_AT_ONCE();
  struct sigaction host = {.sa_handler = jump_back};
  cr_assert_eq(sigaction(SIGUSR1, &host, NULL), 0);
  rctx *c = rctx_with_signal(rctx_background(), SIGUSR1, 0);
  if (sigsetjmp(back, 1) == 0) raise(SIGUSR1);
  cr_assert_eq(atomic_load(&host_calls), 1);
  raise_deeper(SIGUSR1);
  cr_assert_eq(atomic_load(&host_calls), 2);
  rctx_wait(c, INT64_MAX);
  rctx_end(c);
}

// Whatever is there now, which is ours: round in a circle, but for the depth.
static void call_whoever_is_there(int number, siginfo_t *info, void *context) {
  struct sigaction now;
  if (atomic_fetch_add(&host_calls, 1) > 3) return;
  sigaction(number, NULL, &now);
  now.sa_sigaction(number, info, context);
}

Test(edges, a_host_that_calls_what_is_over_it_is_called_once) {
  NEEDS_SIGNALS_AT_ONCE();
  struct sigaction host = {.sa_sigaction = call_whoever_is_there, .sa_flags = SA_SIGINFO};
  cr_assert_eq(sigaction(SIGUSR1, &host, NULL), 0);
  rctx *c = rctx_with_signal(rctx_background(), SIGUSR1, 0);
  rctx__registry_lock(); // so that the host is not put back meanwhile
  raise(SIGUSR1);
  rctx__registry_unlock();
  cr_assert_eq(atomic_load(&host_calls), 1);
  rctx_wait(c, INT64_MAX);
  rctx_end(c);
}

Test(edges, a_handler_for_one_time_is_not_called_twice) {
  NEEDS_SIGNALS_AT_ONCE();
  struct sigaction host = {.sa_sigaction = call_whoever_is_there, .sa_flags = SA_SIGINFO | (int)SA_RESETHAND};
  atomic_store(&host_calls, 3);
  cr_assert_eq(sigaction(SIGUSR2, &host, NULL), 0);
  rctx *kept = rctx_with_signal(rctx_background(), SIGUSR2, 0);
  rctx__registry_lock(); // as above
  raise(SIGUSR2);
  raise(SIGUSR2);
  rctx__registry_unlock();
  cr_assert_eq(atomic_load(&host_calls), 4);
  rctx_wait(kept, INT64_MAX);
  rctx_end(kept);
}

// ---- headers, values, logs -------------------------------------------------------------------------------------------

Test(edges, a_header_whose_value_is_at_null_is_an_empty_one) {
  struct rctx_header list[] = {{rctx_text_of("grpc-timeout"), {NULL, 3}}, {rctx_text_of("baggage"), {NULL, 3}}};
  struct rctx_headers headers = rctx_headers_of(list, 2);
  struct rctx_received received;
  struct rctx_baggage_member member;
  cr_assert_eq(rctx_budget_from_headers(rctx_background(), rctx_now(), &headers, NULL, &received), 0);
  cr_assert_eq(received.refused, RCTX_FAULT_EMPTY);
  struct rctx_baggage_reader reader = rctx_baggage_read(&headers);
  cr_assert_not(rctx_baggage_next(&reader, &member));
}

// Level 2 lets a tenant begin with any character of a key; who writes for all does not.
Test(edges, a_tenant_of_a_tracestate_begins_with_a_letter_or_a_digit) {
  char text[64];
  struct rctx_text none = {NULL, 0}, one = rctx_text_of("1");
  cr_assert_eq(rctx_tracestate_update(none, rctx_text_of("_t@sys"), one, text, sizeof text, NULL), -EINVAL);
  cr_assert_eq(rctx_tracestate_update(none, rctx_text_of("t@sys"), one, text, sizeof text, NULL), 7);
  cr_assert_str_eq(text, "t@sys=1");
}

// The clock is the test's: what is left then may be more than a number can say, in either direction.
Test(edges, time_left_beyond_what_a_number_holds) {
  struct rctx_header header = {rctx_text_of("grpc-timeout"), rctx_text_of("5S")};
  struct rctx_headers headers = rctx_headers_of(&header, 1);
  struct rctx_budget_policy policy = {.min_ns = SECOND};
  struct rctx_received received;
  const rctx *root = open_manager();
  cr_assert_eq(rctx_budget_from_headers(root, INT64_MIN + 1, &headers, &policy, &received), -ETIMEDOUT);
  time_ns = INT64_MIN + 1;
  cr_assert_eq(rctx_budget_from_headers(root, SECOND, &headers, &policy, &received), 0);
  close_manager();
}

static bool count_value(const struct rctx_key *shown, void *value, void *arg) {
  (void)shown;
  (void)value;
  ++*(int *)arg;
  return true;
}

Test(edges, that_values_are_borrowed_is_not_shown) {
  int shown = 0;
  rctx *lender = rctx_with_value(rctx_background(), &key, &shown);
  rctx *c = rctx_derive(rctx_background(), &(struct rctx_spec){.values_from = lender});
  rctx_each_value(c, count_value, &shown);
  cr_assert_eq(shown, 1);
  rctx_end(c);
  rctx_end(lender);
}

Test(edges, what_a_drain_keeps_in_a_context_is_not_shown) {
  int shown = 0;
  rctx_drain *drain;
  cr_assert_eq(rctx_drain_create(rctx_background(), "work", &drain), 0);
  rctx *request = rctx_drain_request(drain, &(struct rctx_spec){.name = "request"});
  cr_assert_eq(rctx_each_value(request, count_value, &shown), 0);
  cr_assert_eq(shown, 0);
  rctx_end(request);
  rctx_drain_destroy(drain);
}

static size_t print_x(const void *value, char *buf, size_t size) {
  (void)value;
  return (size_t)snprintf(buf, size, "x");
}

Test(edges, a_log_line_is_cut_at_each_place_of_a_short_value) {
  static const struct rctx_key shorts[] = {{.name = "a1", .flags = RCTX_KEY_LOGGABLE, .print = print_x},
                                           {.name = "b2", .flags = RCTX_KEY_LOGGABLE, .print = print_x}};
  static char line[1024], room[1 << 14];
  struct rctx_value values[] = {{&shorts[0], &time_ns, NULL}, {&shorts[1], &time_ns, NULL}};
  rctx *c = rctx_with_values(rctx_background(), values, 2);
  size_t whole = rctx_log_format(line, sizeof line, c, RCTX_LOG_INFO, "%0100d", 0);
  cr_assert_not_null(strstr(line, "\"a1\":\"x\""), "%s", line);
  cr_assert_gt(whole, (size_t)RCTX_LOG_LINE_MIN + 20);
  for (size_t size = RCTX_LOG_LINE_MIN; size <= whole + 1; size++) {
    size_t length = rctx_log_format(line, size, c, RCTX_LOG_INFO, "%0100d", 0);
    cr_assert(length > 0 && length < size && line[length] == '\0');
    cr_assert_str_eq(line + length - 2, "}\n", "%zu: %s", size, line);
    cr_assert_eq(strstr(line, "\"truncated\":true") == NULL, size == whole + 1, "%zu: %s", size, line);
  }
  dumped_bytes = 0;
  cr_assert_eq(rctx_dump(c, RCTX_DUMP_JSON, room, sizeof room, keep, NULL), 0);
  cr_assert_not_null(strstr(dumped, "\"a1\":\"?\""), "%s", dumped);
  cr_assert_not_null(strstr(dumped, "\"b2\":\"?\""), "%s", dumped);
  rctx_end(c);
}

Test(edges, fewer_leaks_left_out_are_kept_from_the_next_on) {
  static const struct rctx_site here = {"made", "here.c", 1};
  rctx *c[2];
  rctx_leaks_start(UINT32_MAX);
  c[0] = (rctx_with_cancel)(rctx_background());
  rctx__leak_made(c[0], &here);
  rctx_leaks_start(1);
  c[1] = (rctx_with_cancel)(rctx_background());
  rctx__leak_made(c[1], &here);
  struct rctx__ext *ext = atomic_load(&c[1]->ext);
  cr_assert(ext && ext->record, "it is not left out as it would have been");
  for (int i = 0; i < 2; i++) rctx_end(c[i]);
  rctx_leaks_start(0);
}

Test(edges, a_descriptor_that_can_not_be_replaced_is_closed) {
  enum { HIGH = 200, LIMIT = 100 };
  int low = rctx__eventfd(true);
  struct rlimit before;
  cr_assert_eq(dup2(low, HIGH), HIGH);
  struct rctx__fd fd = {.fd = HIGH, .process = load_relaxed(&rctx__process) + 1};
#ifndef RCTX_TEST_SHIM // valgrind keeps limits of its own
  cr_assert_eq(getrlimit(RLIMIT_NOFILE, &before), 0);
  cr_assert_eq(setrlimit(RLIMIT_NOFILE, &(struct rlimit){LIMIT, before.rlim_max}), 0);
  rctx__fd_replace(&fd);
  cr_assert_eq(setrlimit(RLIMIT_NOFILE, &before), 0);
  cr_assert_eq(fcntl(HIGH, F_GETFD), -1);
#else
  (void)before;
  rctx__close(fd.fd);
#endif
  rctx__close(low);
}
