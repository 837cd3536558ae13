// Draining while everything else goes on: requests, ends, other raises, times, looks. In every interleaving a request is
// counted or born ended, and `drained` ends when the last is gone. Many short rounds, lined up by barriers, with the core
// yielding at its atomics; RCTX_SEED repeats the yields as far as the scheduler lets it.
#include "support/check.h"
#include "support/draining.h"
#include "support/seed.h"
#include "support/threads.h"

#include "core/platform.h"

#include <sched.h>

#define MS INT64_C(1000000)

TestSuite(drain_race, .init = drain_open, .fini = drain_close, .timeout = 120);

// ---- races -----------------------------------------------------------------------------------------------------------

enum { RACERS = 4, ROUNDS = 2000 };

static struct drain_race {
  struct threads threads;
  rctx_drain *drain;
  rctx *shared;
  rctx *made[RACERS];
  bool won[RACERS];
  void (*set_up)(void);
  void (*act)(unsigned index);
  void (*check)(void);
  unsigned round, rounds;
} race;

static void race_body(unsigned index, void *arg) {
  (void)arg;
  for (unsigned round = 0; round < race.rounds; round++) {
    if (index == 0) {
      race.round = round;
      atomic_store(&gone, 0);
      cr_assert_eq(rctx_drain_create(rctx_background(), "work", &race.drain), 0);
      if (race.set_up) race.set_up();
    }
    threads_meet(&race.threads);
    race.act(index);
    threads_meet(&race.threads);
    if (index == 0) {
      race.check();
      rctx_drain_destroy(race.drain);
    }
  }
}

static void run_race(void (*set_up)(void), void (*act)(unsigned), void (*check)(void), unsigned rounds) {
  race.set_up = set_up;
  race.act = act;
  race.check = check;
  race.rounds = rounds / SLOWER + 1;
  atomic_store(&rctx__chaos_seed, seed_get());
  atomic_store(&rctx__chaos_mask, CHAOS_ONE_IN);
  threads_start(&race.threads, RACERS, race_body, NULL);
  threads_join(&race.threads);
  atomic_store(&rctx__chaos_mask, 0);
}

static bool race_drained(void) { return rctx_err(rctx_drain_drained(race.drain)) != 0; }

static void race_gets_drained(int expected_gone) {
  cr_assert_lt(rctx_wait(rctx_drain_drained(race.drain), INT64_MAX), 0);
  cr_assert_eq(atomic_load(&gone), expected_gone, "%d of %d are gone in round %u", atomic_load(&gone), expected_gone,
               race.round);
}

// Three begin a request while one stops.
static void request_act(unsigned index) {
  if (index == 0) {
    cr_assert(rctx_drain_raise(race.drain, RCTX_DRAIN_STOP));
    race.made[0] = rctx_drain_request(race.drain, counted());
  } else {
    race.made[index] = rctx_drain_request(race.drain, counted());
  }
}

static void request_check(void) {
  size_t live = 0;
  struct rctx_drain_left left;
  ended_by_shutdown(race.made[0], -ECANCELED, "shutting down"); // after raise has returned: none
  for (unsigned i = 1; i < RACERS; i++) {
    if (rctx_err(race.made[i]) == 0) {
      live++;
      cr_assert_not(race_drained(), "a live request, and drained, in round %u", race.round);
    } else {
      ended_by_shutdown(race.made[i], -ECANCELED, "shutting down");
    }
  }
  rctx_drain_look(race.drain, &left);
  cr_assert_eq(left.live, live, "%zu are counted, %zu are live in round %u", left.live, live, race.round);
  for (unsigned i = 0; i < RACERS; i++) {
    rctx *r = race.made[i];
    if (rctx_err(r) == 0) {
      cr_assert_not(race_drained());
      live--;
    }
    rctx_end(r);
  }
  cr_assert_eq(live, 0);
  race_gets_drained(RACERS);
}

Test(drain_race, a_request_and_a_stop_at_once_is_counted_or_born_ended__DRAIN_1) {
  run_race(NULL, request_act, request_check, ROUNDS);
}

// Requests come and go all the time while one stops: drained exactly when the last is gone.
static void churn_act(unsigned index) {
  for (int i = 0; i < 8; i++) {
    if (index == 0 && i == 4) rctx_drain_raise(race.drain, RCTX_DRAIN_STOP);
    rctx *r = rctx_drain_request(race.drain, counted());
    if (rctx_err(r) == 0) {
      rctx *below = rctx_with_cancel(r);
      cr_assert_not(race_drained(), "there is a live request in round %u", race.round);
      rctx_end(r);
      cr_assert_not(race_drained(), "there is something below in round %u", race.round);
      rctx_end(below);
    } else {
      rctx_end(r);
    }
  }
}

static void churn_check(void) { race_gets_drained(8 * RACERS); }

Test(drain_race, requests_that_come_and_go_while_it_stops__DRAIN_2) {
  run_race(NULL, churn_act, churn_check, ROUNDS / 2);
}

// The last end and the stop at once: drained is never missed.
static void last_set_up(void) { race.shared = rctx_drain_request(race.drain, counted()); }

static void last_act(unsigned index) {
  if (index == 0) rctx_end(race.shared);
  if (index == 1) race.won[1] = rctx_drain_raise(race.drain, RCTX_DRAIN_STOP);
  if (index == 2 && race.round % 2) race.won[2] = rctx_drain_raise(race.drain, RCTX_DRAIN_DEADLINE);
}

static void last_check(void) { race_gets_drained(1); }

Test(drain_race, the_last_end_and_the_stop_at_once__DRAIN_2) {
  run_race(last_set_up, last_act, last_check, 2 * ROUNDS);
}

// All that keeps the work lets go at once: handle, reference, child, values taken from it.
static const rctx *race_ref;
static rctx *race_child, *race_taker;

static void keepers_set_up(void) {
  race.shared = rctx_drain_request(race.drain, counted());
  race_child = rctx_derive(race.shared, counted());
  race_taker = rctx_derive(rctx_background(), &(struct rctx_spec){.values_from = race_child});
  race_ref = rctx_ref(race.shared);
  rctx_drain_raise(race.drain, race.round % 2 ? RCTX_DRAIN_STOP : RCTX_DRAIN_CANCEL);
}

static void keepers_act(unsigned index) {
  if (index == 0) rctx_end(race.shared);
  if (index == 1) rctx_end(race_child);
  if (index == 2) rctx_end(race_taker);
  if (index == 3) rctx_unref(race_ref);
}

static void keepers_check(void) { race_gets_drained(2); }

Test(drain_race, all_that_keeps_it_lets_go_at_once__DRAIN_2) {
  run_race(keepers_set_up, keepers_act, keepers_check, ROUNDS);
}

// Each thread raises through all levels: per level one is told that it got there, at most.
static atomic_int told[4];

static void levels_act(unsigned index) {
  for (unsigned i = 0; i < 4; i++) {
    unsigned level = index % 2 ? i : (index + i * 3) % 4;
    if (rctx_drain_raise(race.drain, (enum rctx_drain_level)level)) atomic_fetch_add(&told[level], 1);
    cr_assert_geq((unsigned)rctx_drain_level(race.drain), level, "when it returns, it is there");
  }
}

static void levels_check(void) {
  cr_assert_eq(rctx_drain_level(race.drain), RCTX_DRAIN_CANCEL);
  cr_assert_eq(atomic_load(&told[0]), 0);
  cr_assert(atomic_load(&told[1]) <= 1 && atomic_load(&told[2]) <= 1);
  cr_assert_eq(atomic_load(&told[3]), 1, "%d got to the top in round %u", atomic_load(&told[3]), race.round);
  for (int i = 0; i < 4; i++) atomic_store(&told[i], 0);
  race_gets_drained(0);
}

Test(drain_race, of_several_raises_one_gets_there) { run_race(NULL, levels_act, levels_check, ROUNDS); }

// Only one level, from all threads: exactly one.
static void same_level_act(unsigned index) {
  race.won[index] = rctx_drain_raise(race.drain, (enum rctx_drain_level)(1 + race.round % 3));
  if (race.round % 3 > 0)
    cr_assert_neq(rctx_err(race.shared), 0, "when it returns, work has ended in round %u", race.round);
  cr_assert_neq(rctx_err(rctx_drain_accepting(race.drain)), 0);
}

static void same_level_check(void) {
  int winners = 0;
  for (unsigned i = 0; i < RACERS; i++) winners += race.won[i];
  cr_assert_eq(winners, 1, "%d got there in round %u", winners, race.round);
  rctx_end(race.shared);
  race_gets_drained(1);
}

Test(drain_race, of_raises_to_one_level_exactly_one_gets_there) {
  run_race(last_set_up, same_level_act, same_level_check, ROUNDS);
}

// Deadline and cancel at once: all of the work has one cause, one of the two.
static void cause_set_up(void) {
  last_set_up();
  race_child = rctx_with_cancel(race.shared);
}

static void cause_act(unsigned index) {
  if (index == 0) rctx_drain_raise(race.drain, RCTX_DRAIN_DEADLINE);
  if (index == 1) rctx_drain_raise(race.drain, RCTX_DRAIN_CANCEL);
  if (index == 2) rctx_end(rctx_drain_request(race.drain, counted()));
  if (index == 3) rctx_end(rctx_with_cancel(race.shared));
}

static void cause_check(void) {
  const struct rctx_cause *cause = rctx_cause(race.shared);
  cr_assert_not_null(cause);
  cr_assert_eq(rctx_cause(race_child), cause);
  bool deadline = rctx_err(race.shared) == -ETIMEDOUT;
  ended_by_shutdown(race.shared, deadline ? -ETIMEDOUT : -ECANCELED, deadline ? "shutdown deadline" : "shutdown");
  rctx_end(race.shared);
  rctx_end(race_child);
  race_gets_drained(2);
}

Test(drain_race, deadline_and_cancel_at_once_give_one_cause) { run_race(cause_set_up, cause_act, cause_check, ROUNDS); }

// ---- a work context whose children are in stripes --------------------------------------------------------------------

enum { STRIPED_REQUESTS = 300 };

static void striped_body(unsigned index, void *arg) {
  rctx *mine[STRIPED_REQUESTS];
  (void)arg;
  for (unsigned round = 0; round < 60 / SLOWER; round++) {
    for (int i = 0; i < STRIPED_REQUESTS; i++) mine[i] = rctx_drain_request(drain, i % 2 ? counted() : NULL);
    if (index == 0 && round == 30 / SLOWER) rctx_drain_raise(drain, RCTX_DRAIN_STOP);
    for (int i = 0; i < STRIPED_REQUESTS; i++) {
      if (rctx_err(mine[i]) == 0) cr_assert_not(is_drained());
      rctx_end(mine[i]);
    }
  }
}

Test(drain_race, with_many_children_from_many_threads__DRAIN_2) {
  struct rctx_info info;
  rctx *first = rctx_drain_request(drain, counted());
  rctx_inspect(first, &info);
  const rctx *work = info.parent;
  atomic_store(&rctx__chaos_mask, CHAOS_ONE_IN);
  threads_run(RACERS, striped_body, NULL);
  atomic_store(&rctx__chaos_mask, 0);
  rctx_inspect(work, &info);
  cr_log_info("%u stripes", info.stripes);
  cr_assert_not(is_drained(), "one is left");
  rctx_end(first);
  gets_drained();
  cr_assert_eq(atomic_load(&gone), 1 + RACERS * (60 / SLOWER) * (STRIPED_REQUESTS / 2));
  nothing_is_left();
}

// ---- times and hands at once -----------------------------------------------------------------------------------------

static void timed_act(unsigned index) {
  int64_t now = rctx_now();
  if (index == 0) plan(race.drain, RCTX_DRAIN_STOP, now + (int64_t)(race.round % 7) * MS / 4);
  if (index == 1) plan(race.drain, RCTX_DRAIN_CANCEL, now + (int64_t)(race.round % 5) * MS / 4);
  if (index == 2) plan(race.drain, RCTX_DRAIN_STOP, now + (int64_t)(race.round % 3) * MS / 4);
  if (index == 3) race.won[3] = race.round % 2 && rctx_drain_raise(race.drain, RCTX_DRAIN_DEADLINE);
}

static void timed_check(void) {
  cr_assert_lt(rctx_wait(race.shared, INT64_MAX), 0);
  rctx_end(race.shared);
  race_gets_drained(1);
  if (race.round % 4 == 0) return; // some are destroyed with times still to come
  while (rctx_drain_level(race.drain) != RCTX_DRAIN_CANCEL) sched_yield();
}

Test(drain_race, times_from_several_threads) { run_race(last_set_up, timed_act, timed_check, ROUNDS / 4); }

// ---- looking while others work ---------------------------------------------------------------------------------------

struct looking {
  atomic_bool stop;
  unsigned rounds;
};

static void look_while_others_work(unsigned index, void *arg) {
  struct looking *looking = arg;
  for (unsigned i = 0; index > 0 && i < looking->rounds; i++) {
    rctx *r = rctx_drain_request(drain, counted());
    rctx *below = i % 3 ? rctx_derive(r, counted()) : rctx_without_cancel(r);
    if (i % 2) rctx_end(r);
    rctx_end(below);
    if (i % 2 == 0) rctx_end(r);
  }
  for (unsigned i = 0; index == 0 && i < looking->rounds / 4; i++) {
    struct rctx_drain_left left = left_now();
    cr_assert(left.requests <= 3 && left.contexts <= 6 && left.live <= left.contexts && left.detached <= 3,
              "requests %zu, contexts %zu, live %zu, detached %zu", left.requests, left.contexts, left.live,
              left.detached);
  }
}

Test(drain_race, look_while_others_derive_and_end) {
  struct looking looking = {.rounds = 4000 / SLOWER};
  atomic_store(&rctx__chaos_mask, CHAOS_ONE_IN);
  threads_run(4, look_while_others_work, &looking);
  atomic_store(&rctx__chaos_mask, 0);
  nothing_is_left();
}
