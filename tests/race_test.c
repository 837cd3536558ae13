// Races, each named for what races: many short rounds, lined up by barriers, with the core yielding at its atomics.
//
// Goal: in every interleaving exactly one of the outcomes that the headers allow. Method: a round sets up a small tree,
// two to four threads meet at a barrier and go; a second meeting later the first of them checks what came of it and clears
// up. RCTX_SEED repeats the yields as far as the scheduler lets it; RCTX_RACE_ROUNDS multiplies the rounds (in percent).
#include "support/check.h"
#include "support/leftovers.h"
#include "support/seed.h"
#include "support/threads.h"
#include "support/watchdog.h"

#include "core/platform.h"

#include <poll.h>
#include <sched.h>
#include <stdatomic.h>

#define MS INT64_C(1000000)
#define SECOND INT64_C(1000000000)

enum { CHAOS_ONE_IN = 3, ROUNDS = 3000, WATCHDOG_S = 60 };

#if defined(__SANITIZE_THREAD__)
enum { SLOWER = 3 };
#elif CHECK_LEAKS
enum { SLOWER = 3 };
#else
enum { SLOWER = 1 };
#endif

// A race: its threads, its manager on a clock of our own, and what each test needs.
struct race {
  struct threads threads;
  unsigned rounds;
  unsigned round;
  uint64_t seed;
  rctx_manager *manager;
  _Atomic int64_t now;
  rctx *root, *parent, *child, *other;
  rctx *made[4];
  bool won[4];
  const struct rctx_cause *causes[4];
  struct rctx_after *after;
  rctx_loop *loop;
  atomic_int calls;
  atomic_int stops;
  atomic_int destroyed;
  atomic_int submitted;
  atomic_bool flag;
  struct rctx_task *_Atomic task;
  int fd;
};

static struct race race;

static int64_t race_now(void *arg) { return atomic_load(&((struct race *)arg)->now); }

static void race_open_with(enum rctx_drive drive) {
  race.seed = seed_get();
  watchdog(WATCHDOG_S);
  struct rctx_manager_options options = {.drive = drive};
  if (drive == RCTX_DRIVE_EMBEDDER) {
    options.now = race_now;
    options.now_arg = &race;
    atomic_store(&race.now, 1000 * SECOND);
  }
  if (rctx_manager_create(&options, &race.manager) != 0) abort();
  atomic_store(&rctx__chaos_seed, race.seed);
  atomic_store(&rctx__chaos_mask, CHAOS_ONE_IN);
}

static void race_open(void) { race_open_with(RCTX_DRIVE_EMBEDDER); }

static void race_close(void) {
  atomic_store(&rctx__chaos_mask, 0);
  nothing_left(race.manager);
  nothing_left(rctx_manager_default());
  int destroyed = rctx_manager_destroy(race.manager);
  if (destroyed == 0) return;
  fprintf(stderr, "the manager can not be destroyed: %d\n", destroyed);
  abort();
}

TestSuite(race, .init = race_open, .fini = race_close, .timeout = 120);

static unsigned rounds_of(unsigned rounds) {
  const char *percent = getenv("RCTX_RACE_ROUNDS");
  if (percent && atoi(percent) > 0) rounds = rounds * (unsigned)atoi(percent) / 100;
  return rounds / SLOWER + 1;
}

static const rctx *race_root(void) { return rctx_manager_background(race.manager); }

// set_up and check run on the first thread, with the others waiting.
struct race_plan {
  unsigned threads;
  void (*set_up)(void);
  void (*act)(unsigned index);
  void (*check)(void);
};

static void race_body(unsigned index, void *arg) {
  const struct race_plan *plan = arg;
  for (unsigned round = 0; round < race.rounds; round++) {
    if (index == 0) {
      race.round = round;
      plan->set_up();
    }
    threads_meet(&race.threads);
    plan->act(index);
    threads_meet(&race.threads);
    if (index == 0) plan->check();
  }
}

static void run_race(struct race_plan plan, unsigned rounds) {
  race.rounds = rounds_of(rounds);
  threads_start(&race.threads, plan.threads, race_body, &plan);
  threads_join(&race.threads);
}

static const struct rctx_cause cause_a = {-ECANCELED, RCTX_ORIGIN_USER, "a", NULL, 0, NULL, NULL};
static const struct rctx_cause cause_b = {-EPIPE, RCTX_ORIGIN_PEER, "b", NULL, 0, NULL, NULL};
static const struct rctx_cause cause_c = {-ESHUTDOWN, RCTX_ORIGIN_SHUTDOWN, "c", NULL, 0, NULL, NULL};
static const struct rctx_cause cause_late = {-ETIMEDOUT, RCTX_ORIGIN_DEADLINE, "late", NULL, 0, NULL, NULL};

static void ended_with(const rctx *ctx, const struct rctx_cause *cause) {
  cr_assert_eq(rctx_err(ctx), cause->code, "err %d, expected %d in round %u", rctx_err(ctx), cause->code, race.round);
  cr_assert_eq(rctx_cause(ctx), cause, "another cause in round %u", race.round);
}

// ---- derive while the parent is being cancelled ----------------------------------------------------------------------

static void derive_set_up(void) {
  race.parent = rctx_with_cancel(race_root());
  race.child = rctx_with_cancel(race.parent);
}

static void derive_act(unsigned index) {
  if (index == 0) {
    cr_assert(rctx_cancel_cause(race.parent, &cause_a));
    return;
  }
  rctx *c = index == 1   ? rctx_with_cancel(race.parent)
            : index == 2 ? rctx_with_timeout(race.child, SECOND)
                         : rctx_with_cancel(race.child);
  int err = rctx_err(c);
  const struct rctx_cause *cause = rctx_cause(c);
  if (err) ended_with(c, &cause_a); // [CTX-6] never one without the other
  if (err) cr_assert_eq(rctx_err(race.parent), -ECANCELED, "child ended, parent not [CTX-3]");
  if (cause) cr_assert_eq(cause, &cause_a);
  race.made[index] = c;
}

static void derive_check(void) {
  for (unsigned i = 1; i < 4; i++) {
    ended_with(race.made[i], &cause_a);
    rctx_end(race.made[i]);
  }
  rctx_end(race.child);
  rctx_end(race.parent);
}

Test(race, derive_while_the_parent_is_being_cancelled__CTX_5__TestWithCancelSimultaneouslyCanceledParent) {
  run_race((struct race_plan){4, derive_set_up, derive_act, derive_check}, ROUNDS);
}

// ---- end while the parent walks --------------------------------------------------------------------------------------

enum { SIBLINGS = 12 };
static rctx *siblings[SIBLINGS];
static rctx *nephews[SIBLINGS];

static void leave_set_up(void) {
  race.parent = rctx_with_cancel(race_root());
  for (int i = 0; i < SIBLINGS; i++) {
    siblings[i] = rctx_with_cancel(race.parent);
    nephews[i] = rctx_with_timeout(siblings[i], SECOND);
  }
}

// The walk, two threads that end children and grandchildren under its feet, in different orders.
static void leave_act(unsigned index) {
  if (index == 0) {
    rctx_cancel_cause(race.parent, &cause_a);
  } else if (index == 1) {
    for (int i = 0; i < SIBLINGS; i++) rctx_end(siblings[i]);
  } else {
    for (int i = SIBLINGS - 1; i >= 0; i--) rctx_end(nephews[i]);
  }
}

static void leave_check(void) {
  struct rctx_info info;
  rctx_inspect(race.parent, &info);
  cr_assert_eq(info.children, 0);
  rctx_end(race.parent);
}

Test(race, end_while_the_parent_walks) {
  run_race((struct race_plan){3, leave_set_up, leave_act, leave_check}, ROUNDS);
}

// ---- two cancels -----------------------------------------------------------------------------------------------------

static void cancels_set_up(void) {
  race.parent = rctx_with_cancel(race_root());
  rctx *at = race.parent;
  for (int i = 0; i < SIBLINGS; i++) siblings[i] = at = rctx_with_cancel(at);
}

static void cancels_act(unsigned index) {
  static const struct rctx_cause *const own[] = {&cause_a, &cause_b, &cause_c};
  race.won[index] = rctx_cancel_cause(race.parent, own[index]);
  // [CTX-1] marked to the last, for the winner and for the losers
  for (int i = SIBLINGS - 1; i >= 0; i--) cr_assert_neq(rctx_err(siblings[i]), 0, "returned before all was marked");
  race.causes[index] = rctx_cause(siblings[SIBLINGS - 1]);
}

static void cancels_check(void) {
  static const struct rctx_cause *const own[] = {&cause_a, &cause_b, &cause_c};
  int winners = 0;
  const struct rctx_cause *winner = rctx_cause(race.parent);
  for (unsigned i = 0; i < 3; i++) {
    winners += race.won[i];
    if (race.won[i]) cr_assert_eq(winner, own[i], "the first wins, with its own cause");
    cr_assert_eq(race.causes[i], winner, "all saw the same cause");
  }
  cr_assert_eq(winners, 1, "%d calls were the first", winners);
  for (int i = 0; i < SIBLINGS; i++) {
    ended_with(siblings[i], winner);
    rctx_end(siblings[i]);
  }
  rctx_end(race.parent);
}

Test(race, two_cancels_exactly_one_is_first_and_all_return_after_the_marking__CTX_1) {
  run_race((struct race_plan){3, cancels_set_up, cancels_act, cancels_check}, ROUNDS);
}

// ---- overlapping cancels of root, middle and leaf --------------------------------------------------------------------

static void overlap_act(unsigned index) {
  static const int level[] = {-1, SIBLINGS / 2, SIBLINGS - 1};
  static const struct rctx_cause *const own[] = {&cause_a, &cause_b, &cause_c};
  rctx *target = level[index] < 0 ? race.parent : siblings[level[index]];
  race.won[index] = rctx_cancel_cause(target, own[index]);
  for (int i = level[index] < 0 ? 0 : level[index]; i < SIBLINGS; i++) cr_assert_neq(rctx_err(siblings[i]), 0);
}

static void overlap_check(void) {
  cr_assert(race.won[0], "nothing else can end the topmost");
  // Down the chain the causes can only change from the root's to the middle's to the leaf's.
  int stage = 0;
  static const struct rctx_cause *const stages[] = {&cause_a, &cause_b, &cause_c};
  for (int i = 0; i < SIBLINGS; i++) {
    const struct rctx_cause *cause = rctx_cause(siblings[i]);
    while (stage < 3 && stages[stage] != cause) stage++;
    cr_assert_lt(stage, 3, "level %d has a cause out of order", i);
    ended_with(siblings[i], cause);
    if (stage >= 1) cr_assert(stage == 2 ? race.won[2] : race.won[1], "a cause of a cancel that lost");
    rctx_end(siblings[i]);
  }
  rctx_end(race.parent);
}

Test(race, overlapping_cancels_of_root_middle_and_leaf) {
  run_race((struct race_plan){3, cancels_set_up, overlap_act, overlap_check}, ROUNDS);
}

// ---- cancel against expiry -------------------------------------------------------------------------------------------

static void expiry_set_up(void) {
  race.parent = rctx_with_timeout_cause(race_root(), 5 * MS, &cause_late);
  race.child = rctx_with_cancel(race.parent);
}

static void expiry_act(unsigned index) {
  if (index == 0) {
    int64_t now = atomic_fetch_add(&race.now, 10 * MS) + 10 * MS;
    rctx_advance(race.manager, now, 0);
  } else if (index == 1) {
    race.won[1] = rctx_cancel_cause(race.parent, &cause_a);
  } else {
    race.made[2] = rctx_with_timeout(race.parent, 2 * MS);
  }
}

static void expiry_check(void) {
  const struct rctx_cause *cause = race.won[1] ? &cause_a : &cause_late;
  ended_with(race.parent, cause);
  ended_with(race.child, cause);
  int err = rctx_err(race.made[2]);
  cr_assert(err == -ECANCELED || err == -ETIMEDOUT, "err %d", err);
  cr_assert_not_null(rctx_cause(race.made[2]));
  rctx_end(race.made[2]);
  rctx_end(race.child);
  rctx_end(race.parent);
  struct rctx_stats stats;
  rctx_stats(race.manager, &stats);
  cr_assert_eq(stats.timers, 0);
}

Test(race, cancel_against_expiry_on_a_virtual_clock) {
  run_race((struct race_plan){3, expiry_set_up, expiry_act, expiry_check}, ROUNDS);
}

// Runs after the suite's .init.
static void open_driven_by_thread(void) {
  cr_assert_eq(rctx_manager_destroy(race.manager), 0);
  race_open_with(RCTX_DRIVE_THREAD);
}

static void thread_expiry_set_up(void) {
  race.parent = rctx_with_timeout_cause(race_root(), 1 + race.round % 3 * MS, &cause_late);
  race.child = rctx_with_cancel(race.parent);
}

// One waits for the expiry, one cancels about when it is due.
static void thread_expiry_act(unsigned index) {
  if (index == 0) {
    cr_assert_neq(rctx_wait(race.child, INT64_MAX), 0);
  } else {
    int64_t deadline;
    cr_assert(rctx_deadline(race.parent, &deadline));
    rctx_wait(race.parent, deadline);
    race.won[1] = rctx_cancel_cause(race.parent, &cause_a);
  }
}

static void thread_expiry_check(void) {
  const struct rctx_cause *cause = race.won[1] ? &cause_a : &cause_late;
  ended_with(race.parent, cause);
  ended_with(race.child, cause);
  rctx_end(race.child);
  rctx_end(race.parent);
}

Test(race, cancel_against_expiry_by_the_timer_thread, .init = open_driven_by_thread) {
  run_race((struct race_plan){2, thread_expiry_set_up, thread_expiry_act, thread_expiry_check}, ROUNDS / 6);
}

// The last reference goes at the very moment the timer fires: no resurrection, no use of freed memory.
static void expiry_end_set_up(void) {
  race.parent = rctx_with_cancel(race_root());
  for (int i = 0; i < SIBLINGS; i++) siblings[i] = rctx_with_timeout(race.parent, 5 * MS);
}

static void expiry_end_act(unsigned index) {
  if (index == 0) {
    int64_t now = atomic_fetch_add(&race.now, 10 * MS) + 10 * MS;
    rctx_advance(race.manager, now, 0);
  } else {
    for (int i = 0; i < SIBLINGS; i++) i % 2 ? rctx_end(siblings[i]) : rctx_unref(siblings[i]);
  }
}

static void expiry_end_check(void) {
  struct rctx_stats stats;
  rctx_stats(race.manager, &stats);
  cr_assert_eq(stats.timers, 0);
  rctx_end(race.parent);
}

Test(race, end_and_unref_against_expiry) {
  run_race((struct race_plan){2, expiry_end_set_up, expiry_end_act, expiry_end_check}, ROUNDS);
}

// ---- stop against firing ---------------------------------------------------------------------------------------------

static void count_call(const rctx *ctx, void *arg) {
  cr_assert_neq(rctx_err(ctx), 0);
  cr_assert_not_null(rctx_cause(ctx));
  atomic_fetch_add((atomic_int *)arg, 1);
}

static void hand_over(struct rctx_executor *self, struct rctx_task *task) {
  (void)self;
  atomic_fetch_add(&race.submitted, 1);
  atomic_store(&race.task, task);
}

static struct rctx_executor executor = {.submit = hand_over};

enum way { INLINE, LOOP, EXECUTOR, THREAD };
static enum way way;

static void enrol(const rctx *ctx, struct rctx_after *after, rctx_after_fn fn, void *arg) {
  int got = way == INLINE     ? rctx_after_inline(ctx, after, RCTX_ON_ENDED_QUEUE, fn, arg)
            : way == LOOP     ? rctx_watch(ctx, after, race.loop, RCTX_ON_ENDED_QUEUE, fn, arg)
            : way == EXECUTOR ? rctx_after_on(ctx, after, &executor, RCTX_ON_ENDED_QUEUE, fn, arg)
                              : rctx_after(ctx, after, fn, arg);
  cr_assert(got == RCTX_REGISTERED || got == RCTX_ENDED, "registering: %d", got);
}

// Run what was queued or handed over: nothing else will.
static void run_pending(void) {
  if (way == LOOP) rctx_loop_drain(race.loop, SIZE_MAX);
  struct rctx_task *task = atomic_exchange(&race.task, NULL);
  if (task) rctx_task_run(task);
}

static void stop_set_up(void) {
  race.parent = rctx_with_cancel(race_root());
  race.child = rctx_with_cancel(race.parent);
  race.after = calloc(1, sizeof *race.after);
  if (way == LOOP) cr_assert_eq(rctx_loop_create(&race.loop), 0);
  atomic_store(&race.calls, 0);
  atomic_store(&race.stops, 0);
  enrol(race.child, race.after, count_call, &race.calls);
}

static void stop_act(unsigned index) {
  if (index == 0) {
    rctx_cancel(race.parent);
    run_pending();
  } else {
    atomic_fetch_add(&race.stops, rctx_after_stop(race.after));
  }
}

// [AFTER-1] ran once and no stop was true, or did not run and exactly one was.
static void stop_check(void) {
  run_pending();
  atomic_fetch_add(&race.stops, rctx_after_stop_sync(race.after)); // also waits for the library's thread
  int calls = atomic_load(&race.calls), stops = atomic_load(&race.stops);
  cr_assert_eq(calls + stops, 1, "%d calls and %d stops in round %u", calls, stops, race.round);
  free(race.after);
  rctx_end(race.child);
  rctx_end(race.parent);
  if (way == LOOP) rctx_loop_destroy(race.loop);
}

static void stop_race(enum way chosen, unsigned threads, unsigned rounds) {
  way = chosen;
  run_race((struct race_plan){threads, stop_set_up, stop_act, stop_check}, rounds);
}

Test(race, stop_against_firing_inline__AFTER_1) { stop_race(INLINE, 2, ROUNDS); }
Test(race, stop_against_firing_on_a_loop__AFTER_1) { stop_race(LOOP, 2, ROUNDS / 2); }
Test(race, stop_against_firing_on_an_executor__AFTER_1) { stop_race(EXECUTOR, 2, ROUNDS); }
Test(race, stop_against_firing_on_the_library_thread__AFTER_1) { stop_race(THREAD, 2, ROUNDS / 2); }
Test(race, two_stops_exactly_one_is_true_inline) { stop_race(INLINE, 3, ROUNDS); }
Test(race, two_stops_exactly_one_is_true_on_a_loop) { stop_race(LOOP, 3, ROUNDS / 2); }
Test(race, two_stops_exactly_one_is_true_on_the_library_thread) { stop_race(THREAD, 3, ROUNDS / 2); }

static void stop_live_act(unsigned index) {
  if (index == 0) rctx_end(rctx_with_cancel(race.child)); // something else goes on at the context
  atomic_fetch_add(&race.stops, rctx_after_stop(race.after));
}

Test(race, two_stops_of_what_never_fires_exactly_one_is_true) {
  way = INLINE;
  run_race((struct race_plan){3, stop_set_up, stop_live_act, stop_check}, ROUNDS);
}

// ---- stop_sync: when it returns the node may be freed, and what the callback did is seen ------------------------------

struct job {
  struct rctx_after after;
  int work; // plain: ordered by the promise alone
  bool ran;
};

static struct job *job;

static void work(const rctx *ctx, void *arg) {
  struct job *mine = arg;
  cr_assert_neq(rctx_err(ctx), 0);
  for (int i = 0; i < 3; i++) {
    mine->work++;
    rctx__chaos();
  }
  mine->ran = true;
}

static void sync_set_up(void) {
  race.parent = rctx_with_cancel(race_root());
  if (way == LOOP) cr_assert_eq(rctx_loop_create(&race.loop), 0);
  job = calloc(1, sizeof *job);
  enrol(race.parent, &job->after, work, job);
}

static void sync_act(unsigned index) {
  if (index == 0) {
    rctx_cancel(race.parent);
    run_pending();
  } else {
    bool stopped = rctx_after_stop_sync(&job->after);
    cr_assert_neq(stopped, job->ran);
    cr_assert_eq(job->work, job->ran ? 3 : 0, "returned before the callback had");
    memset(job, 0xEE, sizeof *job);
    free(job);
  }
}

static void sync_check(void) {
  rctx_end(race.parent);
  if (way == LOOP) rctx_loop_destroy(race.loop);
}

static void sync_race(enum way chosen, unsigned rounds) {
  way = chosen;
  run_race((struct race_plan){2, sync_set_up, sync_act, sync_check}, rounds);
}

Test(race, stop_sync_against_firing_inline_then_the_node_is_freed) { sync_race(INLINE, ROUNDS); }
Test(race, stop_sync_against_firing_on_a_loop_then_the_node_is_freed) { sync_race(LOOP, ROUNDS / 2); }
Test(race, stop_sync_against_firing_on_the_library_thread_then_the_node_is_freed) { sync_race(THREAD, ROUNDS / 2); }
Test(race, stop_sync_against_firing_on_an_executor_then_the_node_is_freed) { sync_race(EXECUTOR, ROUNDS); }

// stop_notify: whoever learns that it is quiet frees it, exactly one does.
static void freed_by_notice(void *arg) {
  struct job *mine = arg;
  cr_assert(mine->ran);
  atomic_fetch_add(&race.destroyed, 1);
  free(mine);
}

static void notify_act(unsigned index) {
  if (index == 0) {
    rctx_cancel(race.parent);
    run_pending();
    return;
  }
  bool quiet = false;
  bool stopped = rctx_after_stop_notify(&job->after, freed_by_notice, job, &quiet);
  if (stopped) cr_assert(quiet && !job->ran);
  if (!quiet) return; // the notice frees it
  atomic_fetch_add(&race.destroyed, 1);
  free(job);
}

static void notify_set_up(void) {
  atomic_store(&race.destroyed, 0);
  sync_set_up();
}

static void notify_check(void) {
  run_pending();
  if (way == THREAD) cr_assert_eq(rctx_quiesce(race.manager, INT64_MAX), 0);
  cr_assert_eq(atomic_load(&race.destroyed), 1, "freed %d times", atomic_load(&race.destroyed));
  sync_check();
}

static void notify_race(enum way chosen, unsigned rounds) {
  way = chosen;
  run_race((struct race_plan){2, notify_set_up, notify_act, notify_check}, rounds);
}

Test(race, stop_notify_against_firing_inline_one_frees_it) { notify_race(INLINE, ROUNDS); }
Test(race, stop_notify_against_firing_on_the_library_thread_one_frees_it) { notify_race(THREAD, ROUNDS / 2); }
Test(race, stop_notify_against_firing_on_an_executor_one_frees_it) { notify_race(EXECUTOR, ROUNDS); }

// ---- watcher registered against cancel -------------------------------------------------------------------------------

static struct rctx_after watchers[3];

static void watch_set_up(void) {
  race.parent = rctx_with_cancel(race_root());
  if (way == LOOP) cr_assert_eq(rctx_loop_create(&race.loop), 0);
  atomic_store(&race.calls, 0);
  memset(watchers, 0, sizeof watchers);
}

static void watch_act(unsigned index) {
  if (index == 0) {
    rctx_cancel_cause(race.parent, &cause_a);
  } else {
    enrol(race.parent, &watchers[index], count_call, &race.calls);
  }
}

static void watch_check(void) {
  if (way == LOOP) {
    cr_assert_eq(poll(&(struct pollfd){rctx_loop_fd(race.loop), POLLIN, 0}, 1, 0), 1,
                 "queued, and the fd not readable");
    cr_assert_eq(rctx_loop_drain(race.loop, SIZE_MAX), 2);
    rctx_loop_destroy(race.loop);
  }
  if (way == THREAD) cr_assert_eq(rctx_quiesce(race.manager, INT64_MAX), 0);
  for (unsigned i = 1; i < 3; i++) cr_assert_not(rctx_after_stop_sync(&watchers[i]));
  cr_assert_eq(atomic_load(&race.calls), 2, "a callback ran %d times", atomic_load(&race.calls));
  rctx_end(race.parent);
}

static void watch_race(enum way chosen, unsigned rounds) {
  way = chosen;
  run_race((struct race_plan){3, watch_set_up, watch_act, watch_check}, rounds);
}

Test(race, watcher_registered_against_cancel_inline_runs_exactly_once) { watch_race(INLINE, ROUNDS); }
Test(race, watcher_registered_against_cancel_on_a_loop_runs_exactly_once) { watch_race(LOOP, ROUNDS / 2); }
Test(race, watcher_registered_against_cancel_on_the_library_thread_runs_exactly_once) {
  watch_race(THREAD, ROUNDS / 2);
}

// ---- waiter against cancel -------------------------------------------------------------------------------------------

static void wait_set_up(void) {
  race.parent = rctx_with_cancel(race_root());
  race.child = rctx_with_cancel(race.parent);
  race.fd = 0; // plain: what the canceller wrote before is seen by who wakes [CTX-4]
}

static void wait_act(unsigned index) {
  if (index == 0) {
    race.fd = (int)race.round + 1;
    rctx_cancel_cause(race.parent, &cause_b);
  } else {
    cr_assert_eq(rctx_wait(index == 1 ? race.child : race.parent, INT64_MAX), -EPIPE); // for ever: the watchdog looks
    cr_assert_eq(race.fd, (int)race.round + 1);
    cr_assert_eq(rctx_err(race.parent), -EPIPE);
  }
}

static void wait_check(void) {
  rctx_end(race.child);
  rctx_end(race.parent);
}

Test(race, waiter_against_cancel_no_lost_wakeup__CTX_4) {
  run_race((struct race_plan){3, wait_set_up, wait_act, wait_check}, ROUNDS);
}

// ---- fd made against cancel ------------------------------------------------------------------------------------------

static void fd_act(unsigned index) {
  if (index == 0) {
    rctx_cancel(race.parent);
  } else {
    int fd = rctx_fd(race.child);
    cr_assert_geq(fd, 0);
    cr_assert_eq(poll(&(struct pollfd){fd, POLLIN, 0}, 1, -1), 1); // for ever: the watchdog looks
    cr_assert_eq(rctx_err(race.child), -ECANCELED);
    race.made[index] = race.child;
  }
}

static void fd_check(void) {
  int fd = rctx_fd(race.child);
  cr_assert_eq(poll(&(struct pollfd){fd, POLLIN, 0}, 1, 0), 1, "once readable, always readable");
  rctx_end(race.child);
  rctx_end(race.parent);
}

Test(race, fd_made_against_cancel_is_readable_whichever_came_first) {
  run_race((struct race_plan){3, wait_set_up, fd_act, fd_check}, ROUNDS / 2);
}

// ---- loop destroyed against cancel -----------------------------------------------------------------------------------

static void loop_set_up(void) {
  way = LOOP;
  watch_set_up();
  for (int i = 0; i < 3; i++) enrol(race.parent, &watchers[i], count_call, &race.calls);
}

static void loop_act(unsigned index) {
  if (index == 0) {
    rctx_loop_drain(race.loop, 1);
    rctx_loop_destroy(race.loop);
  } else {
    rctx_cancel(race.parent);
  }
}

static void loop_check(void) {
  int stops = 0, again = 0;
  for (int i = 0; i < 3; i++) {
    stops += rctx_after_stop(&watchers[i]);
    again += rctx_after_stop(&watchers[i]);
  }
  cr_assert_eq(atomic_load(&race.calls) + stops, 3, "each was begun by a drain or never runs");
  cr_assert_eq(again, 0);
  rctx_end(race.parent);
}

Test(race, loop_destroyed_against_cancel_each_ran_or_its_stop_is_true) {
  run_race((struct race_plan){2, loop_set_up, loop_act, loop_check}, ROUNDS / 2);
}

static void loop_stop_act(unsigned index) {
  if (index < 2) {
    loop_act(index);
    return;
  }
  for (int i = 0; i < 3; i++) atomic_fetch_add(&race.stops, rctx_after_stop(&watchers[i]));
}

static void loop_stop_set_up(void) {
  atomic_store(&race.stops, 0);
  loop_set_up();
}

static void loop_stop_check(void) {
  int stops = atomic_load(&race.stops);
  for (int i = 0; i < 3; i++) stops += rctx_after_stop(&watchers[i]);
  cr_assert_eq(atomic_load(&race.calls) + stops, 3, "%d ran, %d stopped", atomic_load(&race.calls), stops);
  rctx_end(race.parent);
}

Test(race, loop_destroyed_against_cancel_against_stop) {
  run_race((struct race_plan){3, loop_stop_set_up, loop_stop_act, loop_stop_check}, ROUNDS / 2);
}

// ---- references: zombies and storms ----------------------------------------------------------------------------------

static void count_destroy(void *value) { atomic_fetch_add((atomic_int *)value, 1); }

static const struct rctx_key token_key = {.name = "token"};

static void zombie_set_up(void) {
  atomic_store(&race.destroyed, 0);
  struct rctx_value value = {&token_key, &race.destroyed, count_destroy};
  race.root = rctx_with_cancel(race_root());
  race.parent = rctx_with_values(race.root, &value, 1);
  for (int i = 0; i < SIBLINGS; i++) siblings[i] = rctx_with_cancel(race.parent);
}

// The parent's handle goes without a cancel while its children leave, and its own parent is cancelled.
static void zombie_act(unsigned index) {
  if (index == 0) {
    rctx_unref(race.parent);
  } else if (index == 1) {
    for (int i = 0; i < SIBLINGS / 2; i++) rctx_end(siblings[i]);
  } else if (index == 2) {
    for (int i = SIBLINGS - 1; i >= SIBLINGS / 2; i--) rctx_unref(siblings[i]);
  } else {
    rctx_cancel_cause(race.root, &cause_a);
  }
}

static void zombie_check(void) {
  cr_assert_eq(atomic_load(&race.destroyed), 1, "the parent is gone with its last child: %d", race.destroyed);
  rctx_end(race.root);
}

Test(race, unref_of_the_parent_while_children_leave_and_the_grandparent_is_cancelled) {
  run_race((struct race_plan){4, zombie_set_up, zombie_act, zombie_check}, ROUNDS);
}

static void storm_set_up(void) {
  zombie_set_up();
  for (int i = 0; i < SIBLINGS; i++) rctx_end(siblings[i]);
  for (int i = 0; i < 3; i++) rctx_ref(race.parent);
}

static void storm_act(unsigned index) {
  for (int i = 0; i < 20; i++) rctx_unref(rctx_ref(race.parent));
  if (index == 0) rctx_cancel(race.parent);
  if (index == 1) rctx_end(rctx_with_cancel(race.parent));
  cr_assert(rctx_err(race.parent) == 0 || rctx_cause(race.parent));
  if (index == 0) {
    rctx_end(race.parent);
  } else {
    rctx_unref(race.parent);
  }
}

static void storm_check(void) {
  cr_assert_eq(atomic_load(&race.destroyed), 0, "a reference is left");
  void *value;
  cr_assert(rctx_get(race.parent, &token_key, &value));
  rctx_unref(race.parent);
  cr_assert_eq(atomic_load(&race.destroyed), 1);
  rctx_end(race.root);
}

Test(race, a_storm_of_refs_and_unrefs) {
  run_race((struct race_plan){3, storm_set_up, storm_act, storm_check}, ROUNDS / 3);
}

// The last reference of a context that another one took its values from, given up by two sides.
static void values_from_set_up(void) {
  zombie_set_up();
  for (int i = 0; i < SIBLINGS; i++) rctx_end(siblings[i]);
  struct rctx_spec spec = {.values_from = race.parent};
  race.other = rctx_derive(race_root(), &spec);
}

static void values_from_act(unsigned index) {
  void *value = NULL;
  if (index == 0) {
    rctx_end(race.parent);
  } else {
    cr_assert(rctx_get(race.other, &token_key, &value) && value == &race.destroyed);
    rctx_end(race.other);
  }
}

Test(race, both_holders_of_values_let_go_at_once) {
  run_race((struct race_plan){2, values_from_set_up, values_from_act, zombie_check}, ROUNDS);
}

// ---- many threads under one parent -----------------------------------------------------------------------------------

enum { SHARED_THREADS = 4, SHARED_DERIVES = 400 };

static void shared_set_up(void) { race.parent = rctx_with_cancel(race_root()); }

// Derive and end below one parent, hard enough that its list is striped; one cancels it in the middle.
static void shared_act(unsigned index) {
  rctx *kept[8] = {0};
  int derives = SHARED_DERIVES / (SLOWER > 1 ? 2 : 1);
  for (int i = 0; i < derives; i++) {
    if (index == 0 && i == derives / 2) cr_assert(rctx_cancel_cause(race.parent, &cause_a));
    rctx **slot = &kept[i % 8];
    if (*slot) rctx_end(*slot);
    int before = rctx_err(race.parent);
    *slot = i % 3 == 0 ? rctx_with_timeout(race.parent, SECOND) : rctx_with_cancel(race.parent);
    int err = rctx_err(*slot);
    if (err) ended_with(*slot, &cause_a);
    if (before) cr_assert_eq(err, -ECANCELED, "derived below an ended parent, and live");
  }
  for (int i = 0; i < 8; i++) {
    if (kept[i]) rctx_end(kept[i]);
  }
}

static void shared_check(void) {
  struct rctx_info info;
  rctx_inspect(race.parent, &info);
  cr_assert_eq(info.children, 0);
  cr_assert_eq(info.references, 1);
  rctx_end(race.parent);
}

Test(race, many_derive_and_end_under_one_parent_while_it_is_cancelled) {
  run_race((struct race_plan){SHARED_THREADS, shared_set_up, shared_act, shared_check}, ROUNDS / 50);
}

// The same parent, live throughout: made striped, and in the end nothing is left below it.
static void striped_act(unsigned index) {
  (void)index;
  for (int i = 0; i < SHARED_DERIVES; i++) rctx_end(rctx_with_cancel(race.parent));
}

static void striped_check(void) {
  struct rctx_info info;
  rctx_inspect(race.parent, &info);
  cr_assert_eq(info.children, 0);
  if (info.stripes > 1) atomic_fetch_add(&race.calls, 1);
  rctx *last = rctx_with_cancel(race.parent);
  rctx_unref(race.parent); // a striped zombie
  rctx_end(last);
}

Test(race, a_contended_parent_gets_stripes_and_leaves_nothing) {
  atomic_store(&race.calls, 0);
  run_race((struct race_plan){SHARED_THREADS, shared_set_up, striped_act, striped_check}, ROUNDS / 50);
  cr_assert_gt(atomic_load(&race.calls), 0, "no round was contended enough: the test tests nothing");
}

// A striped parent's handle is dropped while its children leave from several stripes: the last one frees it, once.
static void striped_zombie_set_up(void) {
  atomic_store(&race.destroyed, 0);
  struct rctx_value value = {&token_key, &race.destroyed, count_destroy};
  race.parent = rctx_with_values(race_root(), &value, 1);
}

static void striped_zombie_act(unsigned index) {
  rctx *kept[16];
  for (int i = 0; i < SHARED_DERIVES; i++) rctx_end(rctx_with_cancel(race.parent));
  for (int i = 0; i < 16; i++) kept[i] = rctx_with_cancel(race.parent);
  threads_meet(&race.threads);
  if (index == 0) rctx_unref(race.parent);
  for (int i = 0; i < 16; i++) rctx_end(kept[i]);
}

static void striped_zombie_check(void) {
  cr_assert_eq(atomic_load(&race.destroyed), 1, "gone %d times", race.destroyed);
}

Test(race, a_striped_parent_is_dropped_while_children_leave) {
  run_race((struct race_plan){SHARED_THREADS, striped_zombie_set_up, striped_zombie_act, striped_zombie_check},
           ROUNDS / 50);
}

// ---- Go's two --------------------------------------------------------------------------------------------------------

enum { TREE_NODES = 101, TREE_FAN = 4, TREE_THREADS = 4 };
static rctx *tree[TREE_NODES];
static int tree_order[TREE_NODES];

static void tree_set_up(void) {
  struct rng rng;
  rng_init(&rng, race.seed + race.round);
  tree[0] = rctx_with_cancel(race_root());
  for (int i = 1; i < TREE_NODES; i++) tree[i] = rctx_with_cancel(tree[(i - 1) / TREE_FAN]);
  for (int i = 0; i < TREE_NODES; i++) {
    int j = (int)rng_below(&rng, (uint64_t)i + 1);
    tree_order[i] = tree_order[j];
    tree_order[j] = i;
  }
  atomic_store(&race.calls, 0);
}

static void tree_act(unsigned index) {
  for (int i = (int)index; i < TREE_NODES; i += TREE_THREADS) {
    rctx *node = tree[tree_order[i]];
    if (rctx_cancel(node)) atomic_fetch_add(&race.calls, 1);
    cr_assert_eq(rctx_err(node), -ECANCELED);
  }
}

static void tree_check(void) {
  cr_assert_geq(atomic_load(&race.calls), 1);
  for (int i = 0; i < TREE_NODES; i++) cr_assert_eq(rctx_err(tree[i]), -ECANCELED);
  for (int i = 0; i < TREE_NODES; i++) rctx_end(tree[tree_order[i]]);
}

Test(race, each_node_of_a_tree_is_cancelled_from_some_thread_in_random_order__TestSimultaneousCancels) {
  run_race((struct race_plan){TREE_THREADS, tree_set_up, tree_act, tree_check}, ROUNDS / 10);
}

static void interlocked_set_up(void) {
  race.parent = rctx_with_cancel(race_root());
  race.child = rctx_with_cancel(race.parent);
  race.other = rctx_with_cancel(race.child);
}

// Woken by the parent's end, cancel the child while the parent's cancel may still be propagating.
static void interlocked_act(unsigned index) {
  if (index == 0) {
    rctx_cancel_cause(race.parent, &cause_a);
  } else {
    cr_assert_eq(rctx_wait(race.parent, INT64_MAX), -ECANCELED);
    rctx_cancel_cause(race.child, &cause_b);
    cr_assert_neq(rctx_err(race.other), 0);
  }
}

static void interlocked_check(void) {
  const struct rctx_cause *cause = rctx_cause(race.child);
  cr_assert(cause == &cause_a || cause == &cause_b, "neither cause");
  ended_with(race.other, cause);
  rctx_end(race.other);
  rctx_end(race.child);
  rctx_end(race.parent);
}

Test(race, a_waiter_cancels_the_child_while_the_parent_propagates__TestInterlockedCancels) {
  run_race((struct race_plan){2, interlocked_set_up, interlocked_act, interlocked_check}, ROUNDS);
}

// An inline callback on one tree cancels the other, both ways at once: no lock of one is held for the other.
static void cancel_other(const rctx *ctx, void *arg) {
  (void)ctx;
  rctx_cancel(arg);
  atomic_fetch_add(&race.calls, 1);
}

static void crossed_set_up(void) {
  race.parent = rctx_with_cancel(race_root());
  race.other = rctx_with_cancel(race_root());
  memset(watchers, 0, sizeof watchers);
  atomic_store(&race.calls, 0);
  cr_assert_eq(rctx_after_inline(race.parent, &watchers[0], RCTX_ON_ENDED_RUN, cancel_other, race.other), 0);
  cr_assert_eq(rctx_after_inline(race.other, &watchers[1], RCTX_ON_ENDED_RUN, cancel_other, race.parent), 0);
}

static void crossed_act(unsigned index) { rctx_cancel(index ? race.other : race.parent); }

static void crossed_check(void) {
  for (int i = 0; i < 2; i++) cr_assert_not(rctx_after_stop_sync(&watchers[i]));
  cr_assert_eq(atomic_load(&race.calls), 2);
  rctx_end(race.parent);
  rctx_end(race.other);
}

Test(race, callbacks_of_two_contexts_cancel_each_other) {
  run_race((struct race_plan){2, crossed_set_up, crossed_act, crossed_check}, ROUNDS);
}

// ---- threads that come and go, and hand over -------------------------------------------------------------------------

enum { GOING_THREADS = 8, GOING_ROUNDS = 40, GOING_NODES = 300 };

static void derive_and_go(unsigned index, void *arg) {
  rctx **hand_over_to = arg;
  rctx *mine[GOING_NODES];
  for (int i = 0; i < GOING_NODES; i++) mine[i] = rctx_with_timeout(race.parent, SECOND + index);
  for (int i = 1; i < GOING_NODES; i++) rctx_end(mine[i]);
  hand_over_to[index] = mine[0]; // outlives its thread
}

Test(race, threads_exit_while_they_hold_cached_nodes) {
  race.parent = rctx_with_cancel(race_root());
  struct rctx_stats stats;
  size_t bytes_early = 0;
  unsigned rounds = GOING_ROUNDS / SLOWER + 4;
  for (unsigned round = 0; round < rounds; round++) {
    rctx *left[GOING_THREADS];
    threads_run(GOING_THREADS, derive_and_go, left);
    for (int i = 0; i < GOING_THREADS; i++) rctx_end(left[i]);
    rctx_stats(race.manager, &stats);
    cr_assert_eq(stats.contexts, 1);
    if (round == 2) bytes_early = stats.bytes;
  }
  cr_assert_leq(stats.bytes, 2 * bytes_early, "memory of threads that are gone is used again: %zu, early %zu",
                stats.bytes, bytes_early);
  rctx_end(race.parent);
}

enum { RING = 64, HANDED_OVER = 20000 };
static rctx *_Atomic ring[RING];

// One derives, the other ends: the nodes wander back, memory does not grow with what passed through.
static void produce_and_consume(unsigned index, void *arg) {
  unsigned count = *(unsigned *)arg;
  for (unsigned i = 0; i < count; i++) {
    rctx *_Atomic *slot = &ring[i % RING];
    if (index == 0) {
      while (atomic_load(slot)) sched_yield();
      atomic_store(slot, rctx_with_timeout(race.parent, SECOND));
    } else {
      rctx *got;
      while (!(got = atomic_exchange(slot, NULL))) sched_yield();
      rctx_end(got);
    }
  }
}

Test(race, a_producer_derives_and_a_consumer_ends) {
  atomic_store(&rctx__chaos_mask, 16);
  race.parent = rctx_with_cancel(race_root());
  unsigned count = rounds_of(HANDED_OVER);
  threads_run(2, produce_and_consume, &count);
  struct rctx_stats stats;
  rctx_stats(race.manager, &stats);
  cr_assert_eq(stats.contexts, 1);
  cr_assert_lt(stats.bytes, (size_t)4 << 20, "%zu bytes for at most %d contexts at a time", stats.bytes, (int)RING);
  rctx_end(race.parent);
}

// One thread makes and destroys managers; others, which have used them, go on in their own.
static rctx_manager *shared_manager; // published by offered
static atomic_uint offered, taken;   // rounds

static void offer_manager(unsigned round) {
  cr_assert_eq(rctx_manager_create(&(struct rctx_manager_options){.drive = RCTX_DRIVE_EMBEDDER}, &shared_manager), 0);
  atomic_store(&offered, round);
  while (atomic_load(&taken) < 2 * round) sched_yield();
  cr_assert_eq(rctx_manager_destroy(shared_manager), 0);
}

static void use_managers(unsigned index, void *arg) {
  unsigned rounds = *(unsigned *)arg;
  for (unsigned round = 1; round <= rounds; round++) {
    if (index == 0) {
      offer_manager(round);
      continue;
    }
    while (atomic_load(&offered) < round) sched_yield();
    rctx_end(rctx_with_timeout(rctx_manager_background(shared_manager), SECOND));
    atomic_fetch_add(&taken, 1);
    for (int i = 0; i < 10; i++) rctx_end(rctx_with_cancel(race_root())); // looks through its heaps meanwhile
  }
}

Test(race, a_manager_is_destroyed_while_threads_that_used_it_go_on_in_another) {
  unsigned rounds = rounds_of(ROUNDS / 10);
  threads_run(3, use_managers, &rounds);
}

// ---- reading while it happens ----------------------------------------------------------------------------------------

// err, cause, why, deadline, description and counts are polled while a tree is cancelled: never torn, never back.
static void poll_act(unsigned index) {
  if (index == 0) {
    rctx_cancel_cause(race.parent, &cause_b);
    return;
  }
  char text[256];
  struct rctx_why why;
  struct rctx_info info;
  bool ended = false;
  for (int i = 0; i < 1000; i++) {
    int err = rctx_why(race.other, &why);
    cr_assert(err == 0 || (err == -EPIPE && why.cause == &cause_b && why.levels_up == 2));
    const struct rctx_cause *cause = rctx_cause(race.other);
    cr_assert(err == 0 || cause == &cause_b);
    if (cause) cr_assert_eq(rctx_err(race.other), -EPIPE);
    if (rctx_err(race.other)) cr_assert(rctx_err(race.child) && rctx_err(race.parent)); // [CTX-3]
    if (err) cr_assert_eq(rctx_wait(race.other, INT64_MAX), -EPIPE);
    rctx_inspect(race.parent, &info);
    cr_assert_leq(info.children, 1);
    rctx_describe(race.other, text, sizeof text);
    if (ended) break;
    ended = err != 0;
  }
}

Test(race, readers_see_error_and_cause_together_while_it_is_cancelled__CTX_6__TestCauseRace) {
  run_race((struct race_plan){3, interlocked_set_up, poll_act, interlocked_check}, ROUNDS / 3);
}
