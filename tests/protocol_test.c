// What the spin models of executors, groups and drains found in the core.
//
// Interleavings are forced by an executor that is driven by hand; where that is not possible, many rounds with the core
// yielding at its atomics. Memory is fenced: a touch after its end is fatal in every build.
#include "support/check.h"
#include "support/fence.h"
#include "support/gate.h"
#include "support/hand_executor.h"
#include "support/seed.h"
#include "support/threads.h"
#include "support/watchdog.h"

#include "core/platform.h"

#include <rctx/rctx.h>

enum { CHAOS_ONE_IN = 3, ROUNDS = 1000, WATCHDOG_S = 20 };
TestSuite(protocol, .timeout = 120);

static rctx_manager *fenced_manager(struct rctx_executor *executor) {
  struct rctx_manager_options options = {
      .allocator = {fence_alloc, fence_free, NULL}, .uncached = true, .executor = executor};
  rctx_manager *manager;
  watchdog(WATCHDOG_S);
  cr_assert_eq(rctx_manager_create(&options, &manager), 0);
  return manager;
}

static int count_call(const rctx *ctx, void *arg) {
  (void)ctx;
  atomic_fetch_add((atomic_int *)arg, 1);
  return 0;
}

// ---- execute.pml: BUG_LOOK_BEFORE_CLAIM ----------------------------------------------------------------------------

struct withdrawn {
  rctx *ctx;
  atomic_int calls;
  enum rctx_outcome outcome;
};
static void *execute_and_end(void *arg) {
  struct withdrawn *task = arg;
  cr_assert_eq(rctx_execute(task->ctx, count_call, &task->calls, NULL, &task->outcome), -ECANCELED);
  rctx_end(task->ctx);
  return NULL;
}

// The executor comes to the task when its caller has withdrawn it, and nobody holds the context any more.
Test(protocol, a_task_that_was_withdrawn_is_passed_over_without_its_context__EXEC_2) {
  struct hand hand;
  hand_init(&hand);
  rctx_manager *manager = fenced_manager(&hand.table);
  struct withdrawn task = {.ctx = rctx_with_cancel(rctx_manager_background(manager))};
  const rctx *held = rctx_ref(task.ctx);
  pthread_t caller;
  cr_assert_eq(pthread_create(&caller, NULL, execute_and_end, &task), 0);
  WAIT_UNTIL(atomic_load(&hand.submitted) == 1);
  rctx_cancel(task.ctx);
  pthread_join(caller, NULL);
  rctx_unref(held); // the last
  cr_assert_eq(task.outcome, RCTX_NOT_STARTED);
  cr_assert_eq(hand_run(&hand), 1);
  cr_assert_eq(task.calls, 0);
  cr_assert_eq(rctx_manager_destroy(manager), 0);
}

// ---- group.pml: BUG_LISTED_SILENTLY --------------------------------------------------------------------------------

struct limbo {
  struct rctx_executor table; // first; keeps what it is given, and lets prepare wait
  struct rctx_group group;
  struct gate preparing, prepared;
  struct rctx_task *task;
  atomic_int calls;
};
static void limbo_submit(struct rctx_executor *self, struct rctx_task *task) {
  ((struct limbo *)(void *)self)->task = task;
}
static int limbo_prepare(struct rctx_executor *self) {
  struct limbo *limbo = (struct limbo *)(void *)self;
  gate_open(&limbo->preparing);
  gate_pass(&limbo->prepared);
  return 0;
}
static void *go_one(void *arg) {
  struct limbo *limbo = arg;
  rctx_group_go(&limbo->group, count_call, &limbo->calls);
  return NULL;
}
static void *open_when_asleep(void *arg) {
  struct limbo *limbo = arg;
  usleep(200000); // in the wait, most probably; if not, there is nothing to see
  gate_open(&limbo->prepared);
  return NULL;
}

// The waiter has found a task counted and none listed. Nobody but the waiter will ever run it.
Test(protocol, a_wait_that_sleeps_runs_what_is_started_meanwhile__GROUP_3) {
  struct limbo limbo = {.table = {limbo_submit, limbo_prepare}};
  pthread_t goer, opener;
  watchdog(WATCHDOG_S);
  gate_init(&limbo.preparing);
  gate_init(&limbo.prepared);
  rctx_group_init_on(&limbo.group, rctx_background(), &limbo.table);
  cr_assert_eq(pthread_create(&goer, NULL, go_one, &limbo), 0);
  gate_pass(&limbo.preparing); // counted
  cr_assert_eq(pthread_create(&opener, NULL, open_when_asleep, &limbo), 0);
  cr_assert_eq(rctx_group_wait(&limbo.group), 0);
  cr_assert_eq(limbo.calls, 1);
  pthread_join(opener, NULL);
  pthread_join(goer, NULL);
  rctx_task_run(limbo.task);
  cr_assert_eq(limbo.calls, 1);
  cr_assert_eq(rctx_group_fini(&limbo.group), 0);
}

// ---- drain.pml: BUG_DROP_BY_SHORTCUT -------------------------------------------------------------------------------

static struct {
  struct threads threads;
  rctx_manager *manager;
  rctx_drain *drain;
} meeting;

static void raise_and_look(unsigned index, void *arg) {
  (void)arg;
  for (int round = 0; round < ROUNDS; round++) {
    struct rctx_drain_left left;
    if (index == 0) cr_assert_eq(rctx_drain_create(rctx_manager_background(meeting.manager), NULL, &meeting.drain), 0);
    threads_meet(&meeting.threads);
    if (index == 0) rctx_drain_raise(meeting.drain, RCTX_DRAIN_STOP);
    if (index == 1) rctx_drain_raise(meeting.drain, RCTX_DRAIN_CANCEL);
    if (index == 2) rctx_drain_look(meeting.drain, &left);
    threads_meet(&meeting.threads);
    if (index > 0) continue;
    cr_assert_eq(rctx_err(rctx_drain_drained(meeting.drain)), -ECANCELED);
    rctx_drain_destroy(meeting.drain);
  }
}

// One drops what seems to be the only hold on the work while another takes one, under the drain's lock, as it may.
Test(protocol, raises_and_looks_that_meet_find_the_work_or_nothing__DRAIN_2) {
  meeting.manager = fenced_manager(NULL);
  atomic_store(&rctx__chaos_seed, seed_get());
  atomic_store(&rctx__chaos_mask, CHAOS_ONE_IN);
  threads_start(&meeting.threads, 3, raise_and_look, NULL);
  threads_join(&meeting.threads);
  atomic_store(&rctx__chaos_mask, 0);
  cr_assert_eq(rctx_manager_destroy(meeting.manager), 0);
}
