// Races of a task with the end of its context, of its thread and of its manager: exactly one outcome, exactly one cleanup
// [EXEC-1..3]. Thousands of short rounds, lined up by barriers, with the core yielding at its atomics.
#include "support/check.h"
#include "support/execution.h"
#include "support/one_manager.h"
#include "support/seed.h"
#include "support/threads.h"

#include <stdlib.h>

TestSuite(executor_race, .init = watch, .fini = close_all, .timeout = 120);

#if defined(__SANITIZE_THREAD__) || CHECK_LEAKS
enum { SLOWER = 4 };
#else
enum { SLOWER = 1 };
#endif

enum { ROUNDS = 2500 / SLOWER, CALLERS_MAX = 3 };

// One round: callers execute on the same context, one thread ends it, and some disturb. The jobs of all rounds are kept: at
// the end each has been cleaned up once, and has run once or never, as its outcome said.
struct race {
  struct threads threads;
  unsigned callers, disturbers;
  rctx_work_fn fn;
  rctx *(*derive)(struct rng *rng);
  void (*end)(rctx *ctx, struct rng *rng);
  void (*disturb)(void);
  uint64_t seed;
  rctx *ctx;
  struct call calls[CALLERS_MAX];
  unsigned outcomes[3];
  struct job jobs[ROUNDS][CALLERS_MAX];
};

static struct race race;

static void as_its_outcome_says(const struct call *call, int err) {
  int ran = atomic_load(&call->job->ran);
  cr_assert_leq(ran, 1);
  switch (call->outcome) {
  case RCTX_FINISHED:
    cr_assert(ran == 1 && call->cleaned_at_return == 1, "finished: ran %d, cleaned %d", ran, call->cleaned_at_return);
    cr_assert_eq(call->rc, call->fn == run_until_the_end ? err : call->job->result, "finished: %d", call->rc);
    break;
  case RCTX_NOT_STARTED:
    cr_assert(ran == 0 && call->cleaned_at_return == 1, "not started: ran %d, cleaned %d", ran,
              call->cleaned_at_return);
    cr_assert_eq(call->rc, err, "not started: %d", call->rc);
    break;
  case RCTX_ORPHANED:
    cr_assert_eq(call->rc, err, "orphaned: %d", call->rc);
    break;
  default:
    cr_assert_fail("no outcome");
  }
  race.outcomes[call->outcome]++;
}

static void race_call(unsigned index, unsigned round) {
  struct call *call = &race.calls[index];
  *call = (struct call){.ctx = race.ctx, .fn = race.fn, .job = &race.jobs[round][index]};
  call_main(call);
}

static void race_body(unsigned index, void *arg) {
  struct rng rng;
  (void)arg;
  rng_init(&rng, race.seed + index);
  for (unsigned round = 0; round < ROUNDS; round++) {
    if (index == 0) {
      race.ctx = race.derive(&rng);
      for (unsigned i = 0; i < race.callers; i++) job_init(&race.jobs[round][i], (int)round);
    }
    threads_meet(&race.threads);
    if (index < race.callers) {
      race_call(index, round);
    } else if (index == race.callers) {
      for (uint64_t n = rng_below(&rng, 12); n > 0; n--) sched_yield();
      race.end(race.ctx, &rng);
    } else {
      race.disturb();
    }
    threads_meet(&race.threads);
    if (index > 0) continue;
    int err = rctx_err(race.ctx);
    for (unsigned i = 0; i < race.callers; i++) as_its_outcome_says(&race.calls[i], err);
    rctx_end(race.ctx);
    hand_run(&hand);
  }
}

static rctx *derive_plain(struct rng *rng) {
  (void)rng;
  return rctx_with_cancel(root());
}

static void cancel(rctx *ctx, struct rng *rng) {
  (void)rng;
  rctx_cancel(ctx);
}

static void run_race(struct race plan) {
  race = plan;
  if (!race.derive) race.derive = derive_plain;
  if (!race.end) race.end = cancel;
  race.seed = seed_get();
  if (!hand.table.submit) hand_init(&hand);
  chaos_on(race.seed);
  threads_start(&race.threads, race.callers + 1 + race.disturbers, race_body, NULL);
  threads_join(&race.threads);
  quiesce();
  chaos_off();
  for (unsigned round = 0; round < ROUNDS; round++)
    for (unsigned i = 0; i < race.callers; i++)
      cr_assert_eq(atomic_load(&race.jobs[round][i].cleaned), 1, "cleaned %d times",
                   atomic_load(&race.jobs[round][i].cleaned));
  cr_log_info("finished %u, orphaned %u, not started %u", race.outcomes[0], race.outcomes[1], race.outcomes[2]);
  cr_assert_eq(race.outcomes[0] + race.outcomes[1] + race.outcomes[2], ROUNDS * race.callers);
}

Test(executor_race, a_short_task_with_a_cancel__EXEC_1__EXEC_3) {
  open_pool(2);
  run_race((struct race){.callers = 1, .fn = run});
}

Test(executor_race, a_task_that_obeys_with_a_cancel__EXEC_1__EXEC_3) {
  open_pool(2);
  run_race((struct race){.callers = 1, .fn = run_until_the_end});
}

Test(executor_race, several_callers_for_one_thread_with_a_cancel__EXEC_1__EXEC_3) {
  open_pool(1);
  run_race((struct race){.callers = 3, .fn = run});
}

static int yield_once(const rctx *ctx, void *arg) {
  (void)ctx;
  (void)arg;
  return sched_yield();
}

static void execute_another(void) { cr_assert_eq(rctx_execute(root(), yield_once, NULL, NULL, NULL), 0); }

Test(executor_race, a_queued_task_with_a_cancel__EXEC_1__EXEC_3) {
  open_pool(1);
  run_race((struct race){.callers = 1, .disturbers = 2, .fn = run, .disturb = execute_another});
}

static void run_the_hand_for_a_while(void) {
  for (int i = 0; i < 10; i++)
    if (!hand_run_one(&hand)) sched_yield();
}

Test(executor_race, an_executor_by_hand_with_a_cancel__EXEC_1__EXEC_3) {
  open_by_hand();
  run_race((struct race){.callers = 2, .disturbers = 1, .fn = run, .disturb = run_the_hand_for_a_while});
}

static rctx *derive_short(struct rng *rng) { return rctx_with_timeout(root(), rng_between(rng, 0, 3 * MS)); }

static void wait_for_the_end(rctx *ctx, struct rng *rng) {
  (void)rng;
  rctx_wait(ctx, INT64_MAX);
}

static int run_a_while(const rctx *ctx, void *arg) {
  int result = run(ctx, arg);
  for (int i = 0; i < 20 && rctx_err(ctx) == 0; i++) usleep(50);
  return result;
}

Test(executor_race, with_a_deadline__EXEC_1__EXEC_3) {
  open_with((struct rctx_manager_options){.threads_max = 1, .tick_ns = 100000});
  run_race((struct race){.callers = 2, .fn = run_a_while, .derive = derive_short, .end = wait_for_the_end});
}

static rctx *end_in_the_task;

static int end_its_own_context(const rctx *ctx, void *arg) {
  int result = run(ctx, arg);
  rctx_cancel(end_in_the_task);
  return result;
}

static rctx *derive_for_the_task(struct rng *rng) {
  (void)rng;
  return end_in_the_task = rctx_with_cancel(root());
}

static void leave_it_to_the_task(rctx *ctx, struct rng *rng) {
  (void)ctx;
  (void)rng;
}

Test(executor_race, a_task_that_ends_its_own_context__EXEC_1__EXEC_3) {
  open_pool(2);
  run_race((struct race){
      .callers = 1, .fn = end_its_own_context, .derive = derive_for_the_task, .end = leave_it_to_the_task});
}

struct owner { // of a context that is ended by the cleanup
  rctx *ctx;
  struct job *job;
};

static int run_owned(const rctx *ctx, void *arg) { return run(ctx, ((struct owner *)arg)->job); }

static void end_and_free(void *arg) {
  struct owner *owner = arg;
  clean(owner->job);
  rctx_end(owner->ctx);
  free(owner);
}

// Its argument is freed by the cleanup, its context ended by its caller, and its manager destroyed, each at once.
Test(executor_race, the_end_of_a_task_with_that_of_its_manager__EXEC_1__EXEC_2) {
  chaos_on(seed_get());
  for (int round = 0; round < 400 / SLOWER; round++) {
    struct job job;
    struct owner *owner = malloc(sizeof *owner);
    job_init(&job, 5);
    open_pool(1 + (unsigned)round % 2);
    rctx *c = rctx_with_cancel(root());
    *owner = (struct owner){rctx_with_cancel(c), &job};
    cr_assert_eq(rctx_execute(c, run_owned, owner, end_and_free, NULL), 5);
    rctx_end(c);
    cr_assert_eq(rctx_manager_destroy(manager), 0);
    manager = NULL;
    cr_assert_eq(atomic_load(&job.cleaned), 1);
  }
}
