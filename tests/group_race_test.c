// Races of a group's tasks, waits, ends and failures [GROUP-1..4]: many short rounds, lined up by barriers, with the core
// yielding at its atomics. The group's storage is on the heap and freed at the end of each round.
#include "support/check.h"
#include "support/one_manager.h"
#include "support/seed.h"
#include "support/threads.h"

#include <stdlib.h>

TestSuite(group_race, .init = watch, .fini = close_all, .timeout = 120);

#if defined(__SANITIZE_THREAD__) || CHECK_LEAKS
enum { SLOWER = 4 };
#else
enum { SLOWER = 1 };
#endif

static int count(const rctx *ctx, void *arg) {
  (void)ctx;
  atomic_fetch_add((atomic_int *)arg, 1);
  return 0;
}

enum { ROUNDS = 1500 / SLOWER, TASKS = 12 };

static struct {
  struct threads threads;
  uint64_t seed;
  struct rctx_group *group; // on the heap: freed at the end of each round
  rctx *parent;
  atomic_int ran[4][TASKS];
  int errs[4][TASKS];
  int waited[4];
  bool first[4], taken[4];
  struct rctx_cause causes[4];
  void (*set_up)(void);
  void (*act)(unsigned index, struct rng *rng);
  void (*check)(void);
} race;

static void race_body(unsigned index, void *arg) {
  struct rng rng;
  (void)arg;
  rng_init(&rng, race.seed + index);
  for (unsigned round = 0; round < ROUNDS; round++) {
    if (index == 0) {
      race.parent = rctx_with_cancel(root());
      race.group = malloc(sizeof *race.group);
      memset(race.ran, 0, sizeof race.ran);
      memset(race.errs, 0, sizeof race.errs);
      rctx_group_init(race.group, race.parent);
      if (race.set_up) race.set_up();
    }
    threads_meet(&race.threads);
    race.act(index, &rng);
    threads_meet(&race.threads);
    if (index > 0) continue;
    race.check();
    memset(race.group, 0x5a, sizeof *race.group);
    free(race.group);
    hand_run(&hand);
    rctx_end(race.parent);
  }
}

static void run_race(unsigned threads, void (*set_up)(void), void (*act)(unsigned, struct rng *), void (*check)(void)) {
  race.seed = seed_get();
  race.set_up = set_up;
  race.act = act;
  race.check = check;
  if (!hand.table.submit) hand_init(&hand);
  chaos_on(race.seed);
  threads_start(&race.threads, threads, race_body, NULL);
  threads_join(&race.threads);
  cr_assert_eq(rctx_quiesce(manager, INT64_MAX), 0);
  chaos_off();
}

static int race_task(const rctx *ctx, void *arg) {
  atomic_int *ran = arg;
  (void)ctx;
  atomic_fetch_add(ran, 1);
  size_t number = (size_t)(ran - &race.ran[0][0]);
  return race.errs[number / TASKS][number % TASKS];
}

static void go_or_try(unsigned index, struct rng *rng) {
  for (int i = 0; i < TASKS; i++) {
    if (rng_one_in(rng, 3)) {
      while (rctx_group_try(race.group, race_task, &race.ran[index][i]) == -EAGAIN) sched_yield();
    } else {
      cr_assert_eq(rctx_group_go(race.group, race_task, &race.ran[index][i]), 0);
    }
  }
}

// Two start tasks, one waits, one ends the context.
static void start_wait_and_cancel(unsigned index, struct rng *rng) {
  if (index < 2) go_or_try(index, rng);
  if (index == 2) cr_assert_eq(rctx_group_wait(race.group), 0);
  if (index == 3) rctx_cancel(race.parent);
}

static void each_ran_once(void) {
  cr_assert_eq(rctx_group_fini(race.group), 0);
  for (int t = 0; t < 2; t++)
    for (int i = 0; i < TASKS; i++) cr_assert_eq(atomic_load(&race.ran[t][i]), 1, "%d", atomic_load(&race.ran[t][i]));
}

static void limit_3(void) { cr_assert_eq(rctx_group_limit(race.group, 3), 0); }

Test(group_race, go_wait_and_cancel__GROUP_1__GROUP_3) {
  open_pool(2);
  run_race(4, NULL, start_wait_and_cancel, each_ran_once);
}

Test(group_race, go_wait_and_cancel_with_a_limit__GROUP_1__GROUP_4) {
  open_pool(2);
  run_race(4, limit_3, start_wait_and_cancel, each_ran_once);
}

// One starts, one waits, one runs the queue: an executor that is sometimes too late.
static void start_wait_and_run_by_hand(unsigned index, struct rng *rng) {
  if (index < 2) go_or_try(index, rng);
  if (index == 2) cr_assert_eq(rctx_group_wait(race.group), 0);
  for (int i = 0; index == 3 && i < TASKS; i++)
    if (!hand_run_one(&hand)) sched_yield();
}

Test(group_race, go_wait_and_an_executor_by_hand__GROUP_1__GROUP_3) {
  open_by_hand();
  run_race(4, NULL, start_wait_and_run_by_hand, each_ran_once);
}

static void all_fail(void) {
  for (int t = 0; t < 4; t++)
    for (int i = 0; i < TASKS; i++) race.errs[t][i] = -(1 + t * TASKS + i);
}

static void start_two_and_wait(unsigned index, struct rng *rng) {
  (void)rng;
  for (int i = 0; i < 2; i++) cr_assert_eq(rctx_group_go(race.group, race_task, &race.ran[index][i]), 0);
  race.waited[index] = rctx_group_wait(race.group);
  cr_assert_neq(race.waited[index], 0);
}

static void one_error_is_the_first(void) {
  const rctx *ctx = rctx_group_ctx(race.group);
  int err = rctx_err(ctx);
  for (int i = 0; i < 4; i++) cr_assert_eq(race.waited[i], err, "waited %d, ended %d", race.waited[i], err);
  cr_assert_eq(rctx_cause(ctx)->code, err);
  cr_assert_eq(rctx_cause(ctx)->origin, RCTX_ORIGIN_TASK);
  cr_assert_eq(rctx_group_fini(race.group), err);
}

Test(group_race, errors__GROUP_2) {
  open_pool(3);
  run_race(4, all_fail, start_two_and_wait, one_error_is_the_first);
}

static atomic_int race_destroyed;
static void count_race_destroyed(const struct rctx_cause *self) {
  (void)self;
  atomic_fetch_add(&race_destroyed, 1);
}

static void fail_or_start(unsigned index, struct rng *rng) {
  (void)rng;
  if (index == 3) {
    rctx_cancel(race.parent);
  } else if (index == 2) {
    race.errs[0][0] = -EDOM;
    cr_assert_eq(rctx_group_go(race.group, race_task, &race.ran[0][0]), 0);
  } else {
    race.causes[index] =
        (struct rctx_cause){-(int)(100 + index), RCTX_ORIGIN_USER, NULL, NULL, 0, NULL, count_race_destroyed};
    race.first[index] = rctx_group_fail(race.group, &race.causes[index], &race.taken[index]);
  }
}

static void one_is_the_first(void) {
  int err = rctx_group_wait(race.group), before = atomic_load(&race_destroyed);
  const struct rctx_cause *cause = rctx_cause(rctx_group_ctx(race.group));
  int firsts = race.first[0] + race.first[1] + (err == -EDOM), taken = race.taken[0] + race.taken[1];
  cr_assert_eq(firsts, 1);
  for (int i = 0; i < 2; i++) {
    if (race.first[i]) cr_assert_eq(err, race.causes[i].code);
    cr_assert_eq(race.taken[i], cause == &race.causes[i]);
    if (race.taken[i]) cr_assert(race.first[i]);
  }
  rctx_group_fini(race.group);
  cr_assert_eq(rctx_quiesce(manager, INT64_MAX), 0);
  cr_assert_eq(atomic_load(&race_destroyed), before + taken);
}

Test(group_race, fail_with_an_error_and_a_cancel__GROUP_2) {
  open_pool(2);
  run_race(4, NULL, fail_or_start, one_is_the_first);
}

// Leaving at once: the threads of the pool are just behind.
static void start_and_finish(unsigned index, struct rng *rng) {
  struct rctx_group *group = malloc(sizeof *group);
  atomic_int *ran = race.ran[index];
  rctx_group_init(group, race.parent);
  int most = rng_one_in(rng, 2) ? 1 : TASKS;
  for (int i = 0; i < most; i++) cr_assert_eq(rctx_group_go(group, count, &ran[i]), 0);
  cr_assert_eq(rctx_group_fini(group), 0);
  memset(group, 0x5a, sizeof *group);
  free(group);
  for (int i = 0; i < most; i++) cr_assert_eq(atomic_load(&ran[i]), 1);
}

static void nothing_more(void) { cr_assert_eq(rctx_group_fini(race.group), 0); }

Test(group_race, fini_with_the_last_task__GROUP_3) {
  open_pool(2);
  run_race(3, NULL, start_and_finish, nothing_more);
}
