// Groups of tasks: group.h, sentence by sentence; [GROUP-1..4]; semantics section 13 (Go's errgroup).
// Races: group_race_test.c.
#include "support/check.h"
#include "support/counting.h"
#include "support/few_threads.h"
#include "support/gate.h"
#include "support/one_manager.h"
#include "support/threads.h"

#include <rctx/rctx.h>
#include <stdlib.h>

static void close_group(void) {
  threads_allow_all();
  close_all();
}

TestSuite(group, .init = watch, .fini = close_group, .timeout = 120);

static int give(const rctx *ctx, void *arg) {
  (void)ctx;
  return *(int *)arg;
}

static int count(const rctx *ctx, void *arg) {
  (void)ctx;
  atomic_fetch_add((atomic_int *)arg, 1);
  return 0;
}

// A task that stays under way until it may end.
struct stay {
  struct gate started, may_end;
  const rctx *ctx;
  pthread_t ran_on;
  atomic_int ran;
  int result;
};

static void stay_init(struct stay *stay, int result) {
  memset(stay, 0, sizeof *stay);
  gate_init(&stay->started);
  gate_init(&stay->may_end);
  stay->result = result;
}

static int stay_until_told(const rctx *ctx, void *arg) {
  struct stay *stay = arg;
  stay->ctx = ctx;
  stay->ran_on = pthread_self();
  atomic_fetch_add(&stay->ran, 1);
  gate_open(&stay->started);
  gate_pass(&stay->may_end);
  return stay->result;
}

static int stay_until_the_end(const rctx *ctx, void *arg) {
  atomic_fetch_add((atomic_int *)arg, 1);
  return rctx_wait(ctx, INT64_MAX);
}

/* ---- Go's facts -------------------------------------------------------------------------------------------------- */

static int errors[][4] = {{0}, {-EPIPE}, {0, -EPIPE}, {-EPIPE, 0}, {-EPIPE, -EIO}, {0, -EIO, -EPIPE}, {0, 0, 0, -1}};
static const int errors_count[] = {1, 1, 2, 2, 2, 3, 4};
enum { ERRORS = 7 };

Test(group, a_zeroed_group_keeps_the_first_error_and_may_be_waited_for_again__TestZeroGroup) {
  for (int i = 0; i < ERRORS; i++) {
    struct rctx_group group = {0};
    int first = 0;
    for (int n = 0; n < errors_count[i]; n++) {
      cr_assert_eq(rctx_group_go(&group, give, &errors[i][n]), 0);
      if (first == 0) first = errors[i][n];
      cr_assert_eq(rctx_group_wait(&group), first, "case %d after %d tasks", i, n + 1);
    }
    cr_assert_eq(rctx_group_wait(&group), first);
    cr_assert_eq(rctx_group_fini(&group), first);
  }
}

Test(group, the_tasks_of_a_zeroed_group_get_background_and_an_error_ends_nothing__TestZeroGroup) {
  struct rctx_group group = {0};
  struct stay stay;
  int err = -EPIPE;
  cr_assert_eq(rctx_group_ctx(&group), rctx_background());
  stay_init(&stay, 0);
  gate_open(&stay.may_end);
  cr_assert_eq(rctx_group_go(&group, give, &err), 0);
  cr_assert_eq(rctx_group_go(&group, stay_until_told, &stay), 0);
  cr_assert_eq(rctx_group_wait(&group), -EPIPE);
  cr_assert_eq(stay.ctx, rctx_background());
  cr_assert_eq(rctx_err(rctx_background()), 0);
  cr_assert_eq(rctx_group_fini(&group), -EPIPE);
}

Test(group, its_context_is_done_after_wait_also_after_success__TestWithContext) {
  open_pool(4);
  RCTX_SCOPED rctx *parent = rctx_with_cancel(root());
  for (int i = 0; i < ERRORS; i++) {
    struct rctx_group group;
    int first = 0;
    rctx_group_init(&group, parent);
    cr_assert_eq(rctx_group_limit(&group, 1), 0); // in order
    cr_assert_eq(rctx_err(rctx_group_ctx(&group)), 0);
    for (int n = 0; n < errors_count[i]; n++) {
      if (first == 0) first = errors[i][n];
      cr_assert_eq(rctx_group_go(&group, give, &errors[i][n]), 0);
    }
    cr_assert_eq(rctx_group_wait(&group), first);
    cr_assert_neq(rctx_err(rctx_group_ctx(&group)), 0);
    cr_assert_eq(rctx_err(parent), 0);
    cr_assert_eq(rctx_group_fini(&group), first);
  }
  struct rctx_group empty;
  rctx_group_init(&empty, parent);
  cr_assert_eq(rctx_group_wait(&empty), 0);
  cr_assert_eq(rctx_err(rctx_group_ctx(&empty)), -ECANCELED);
  cr_assert_eq(rctx_group_fini(&empty), 0);
}

static int start(struct rctx_group *group, bool by_try, int *err) {
  return by_try ? rctx_group_try(group, give, err) : rctx_group_go(group, give, err);
}

Test(group, the_cause_is_the_first_error_or_canceled__GROUP_2__TestCancelCause) {
  open_pool(4);
  for (int i = 0; i < 2 * ERRORS; i++) {
    struct rctx_group group;
    int first = 0;
    rctx_group_init(&group, root());
    for (int n = 0; n < errors_count[i / 2]; n++) {
      int *err = &errors[i / 2][n], rc;
      cr_assert_eq(rctx_group_limit(&group, 1), 0);
      cr_assert_eq(start(&group, i % 2, err), 0);
      if (first == 0) first = *err;
      while ((rc = rctx_group_limit(&group, -1)) == -EBUSY) sched_yield(); // until it has returned: in order
      cr_assert_eq(rc, 0);
      cr_assert_eq(rctx_err(rctx_group_ctx(&group)), first);
    }
    cr_assert_eq(rctx_group_wait(&group), first);
    cr_assert_eq(rctx_err(rctx_group_ctx(&group)), first ? first : -ECANCELED);
    cr_assert_eq(rctx_cause(rctx_group_ctx(&group))->code, first ? first : -ECANCELED);
    rctx_group_fini(&group);
  }
}

// Starts until one is refused, and lets them end. Returns how many were started.
static int try_until_refused(struct rctx_group *group, int most) {
  struct stay *stays = calloc((size_t)most, sizeof *stays);
  int started = 0, rc = 0;
  for (int i = 0; i < most && rc == 0; i++) {
    stay_init(&stays[i], 0);
    rc = rctx_group_try(group, stay_until_told, &stays[i]);
    started += rc == 0;
  }
  for (int i = 0; i < 5 && rc; i++) cr_assert_eq(rctx_group_try(group, stay_until_told, &stays[started]), -EAGAIN);
  for (int i = 0; i < started; i++) gate_open(&stays[i].may_end);
  cr_assert_eq(rctx_group_wait(group), 0);
  for (int i = 0; i < most; i++) cr_assert_eq(atomic_load(&stays[i].ran), i < started);
  free(stays);
  return started;
}

Test(group, try_is_refused_at_the_limit_without_blocking__TestTryGo) {
  struct rctx_group group;
  open_pool(2); // fewer threads than tasks: those that only wait are under way, too
  rctx_group_init(&group, root());
  cr_assert_eq(rctx_group_limit(&group, 42), 0);
  cr_assert_eq(try_until_refused(&group, 60), 42);
  cr_assert_eq(try_until_refused(&group, 60), 42, "after wait it starts again");
  cr_assert_eq(rctx_group_limit(&group, 1), 0);
  cr_assert_eq(try_until_refused(&group, 60), 1);
  cr_assert_eq(rctx_group_limit(&group, 0), 0);
  cr_assert_eq(try_until_refused(&group, 60), 0);
  cr_assert_eq(rctx_group_limit(&group, -1), 0);
  cr_assert_eq(try_until_refused(&group, 60), 60);
  rctx_group_fini(&group);
}

struct busy {
  atomic_int now, most, ran;
};

static int note_how_many(const rctx *ctx, void *arg) {
  struct busy *busy = arg;
  (void)ctx;
  int now = atomic_fetch_add(&busy->now, 1) + 1, most = atomic_load(&busy->most);
  while (most < now && !atomic_compare_exchange_weak(&busy->most, &most, now)) {
  }
  sched_yield();
  atomic_fetch_sub(&busy->now, 1);
  atomic_fetch_add(&busy->ran, 1);
  return 0;
}

Test(group, go_waits_for_room_and_never_more_than_the_limit_run__GROUP_4__TestGoLimit) {
  const int limits[] = {1, 2, 10};
  open_pool(0);
  for (int i = 0; i < 3; i++) {
    struct rctx_group group;
    struct busy busy = {0};
    rctx_group_init(&group, root());
    cr_assert_eq(rctx_group_limit(&group, limits[i]), 0);
    for (int n = 0; n < 1025; n++) cr_assert_eq(rctx_group_go(&group, note_how_many, &busy), 0);
    cr_assert_eq(rctx_group_wait(&group), 0);
    cr_assert_leq(atomic_load(&busy.most), limits[i]);
    cr_assert_eq(atomic_load(&busy.ran), 1025);
    rctx_group_fini(&group);
  }
}

Test(group, a_negative_limit_is_none__source) {
  struct rctx_group group;
  open_pool(2);
  rctx_group_init(&group, root());
  cr_assert_eq(try_until_refused(&group, 100), 100, "none from the beginning");
  for (int limit = -1; limit > -10; limit -= 4) {
    cr_assert_eq(rctx_group_limit(&group, 3), 0);
    cr_assert_eq(rctx_group_limit(&group, limit), 0);
    cr_assert_eq(try_until_refused(&group, 100), 100);
  }
  cr_assert_eq(rctx_group_limit(&group, INT_MIN), 0);
  cr_assert_eq(try_until_refused(&group, 100), 100);
  cr_assert_eq(rctx_group_limit(&group, INT_MAX), 0);
  cr_assert_eq(try_until_refused(&group, 100), 100);
  rctx_group_fini(&group);
}

Test(group, the_limit_is_not_changed_while_tasks_are_under_way__source) {
  struct rctx_group group;
  struct stay stay;
  open_pool(2);
  rctx_group_init(&group, root());
  cr_assert_eq(rctx_group_limit(&group, 1), 0);
  stay_init(&stay, 0);
  cr_assert_eq(rctx_group_go(&group, stay_until_told, &stay), 0);
  cr_assert_eq(rctx_group_limit(&group, 5), -EBUSY);
  gate_pass(&stay.started);
  cr_assert_eq(rctx_group_limit(&group, -1), -EBUSY);
  cr_assert_eq(rctx_group_try(&group, stay_until_told, &stay), -EAGAIN, "nothing was changed");
  gate_open(&stay.may_end);
  cr_assert_eq(rctx_group_wait(&group), 0);
  cr_assert_eq(rctx_group_limit(&group, 5), 0);
  rctx_group_fini(&group);
}

Test(group, after_the_end_of_its_context_tasks_still_run__GROUP_1__source) {
  struct rctx_group group;
  atomic_int ran = 0;
  int err = -EIO;
  open_pool(2);
  RCTX_SCOPED rctx *parent = rctx_with_cancel(root());
  rctx_group_init(&group, parent);
  rctx_cancel_with(parent, -EPIPE, RCTX_ORIGIN_PEER, "gone");
  cr_assert_eq(rctx_err(rctx_group_ctx(&group)), -EPIPE);
  for (int i = 0; i < 50; i++) cr_assert_eq(rctx_group_go(&group, count, &ran), 0);
  cr_assert_eq(rctx_group_try(&group, count, &ran), 0);
  cr_assert_eq(rctx_group_wait(&group), 0, "the end of its context is no error of a task");
  cr_assert_eq(atomic_load(&ran), 51);
  cr_assert_eq(rctx_group_go(&group, give, &err), 0);
  cr_assert_eq(rctx_group_wait(&group), -EIO);
  cr_assert_eq(rctx_err(rctx_group_ctx(&group)), -EPIPE, "the first end stays");
  rctx_group_fini(&group);
}

struct search {
  const char *query;
  char answer[64]; // plain memory
};

static int search(const rctx *ctx, void *arg) {
  struct search *one = arg;
  if (rctx_err(ctx)) return rctx_err(ctx);
  snprintf(one->answer, sizeof one->answer, "%s result for 'golang'", one->query);
  return 0;
}

Test(group, results_of_parallel_tasks_are_visible_after_wait__GROUP_3__ExampleGroup_parallel) {
  open_pool(4);
  for (int round = 0; round < 100; round++) {
    struct search searches[] = {{"web", ""}, {"image", ""}, {"video", ""}};
    struct rctx_group group;
    rctx_group_init(&group, root());
    for (int i = 0; i < 3; i++) cr_assert_eq(rctx_group_go(&group, search, &searches[i]), 0);
    cr_assert_eq(rctx_group_wait(&group), 0);
    cr_assert_str_eq(searches[0].answer, "web result for 'golang'");
    cr_assert_str_eq(searches[1].answer, "image result for 'golang'");
    cr_assert_str_eq(searches[2].answer, "video result for 'golang'");
    rctx_group_fini(&group);
  }
}

Test(group, the_first_error_ends_the_rest__GROUP_2__ExampleGroup_justErrors) {
  struct rctx_group group;
  atomic_int waiting = 0;
  int err = -ECONNREFUSED;
  open_pool(4);
  rctx_group_init(&group, root());
  for (int i = 0; i < 3; i++) cr_assert_eq(rctx_group_go(&group, stay_until_the_end, &waiting), 0);
  cr_assert_eq(rctx_group_go(&group, give, &err), 0);
  cr_assert_eq(rctx_group_wait(&group), -ECONNREFUSED);
  cr_assert_eq(atomic_load(&waiting), 3);
  rctx_group_fini(&group);
}

/* ---- making, asking, ending -------------------------------------------------------------------------------------- */

Test(group, its_context_is_below_the_parent_and_handed_to_the_tasks) {
  struct rctx_group group;
  struct stay stay;
  struct rctx_info info;
  open_pool(2);
  RCTX_SCOPED rctx *parent = rctx_with_cancel(root());
  rctx_group_init(&group, parent);
  rctx_inspect(rctx_group_ctx(&group), &info);
  cr_assert_eq(info.parent, parent);
  stay_init(&stay, 0);
  cr_assert_eq(rctx_group_go(&group, stay_until_told, &stay), 0);
  gate_pass(&stay.started);
  cr_assert_eq(stay.ctx, rctx_group_ctx(&group));
  cr_assert_not(pthread_equal(stay.ran_on, pthread_self()));
  cr_assert_eq(stats().tasks, 1);
  rctx *below = rctx_with_cancel(rctx_group_ctx(&group));
  gate_open(&stay.may_end);
  cr_assert_eq(rctx_group_fini(&group), 0);
  cr_assert_eq(rctx_err(below), -ECANCELED);
  rctx_end(below);
  cr_assert_eq(rctx_quiesce(manager, INT64_MAX), 0);
  cr_assert_eq(stats().contexts, 1, "the parent's");
}

Test(group, a_function_that_is_null_is_refused) {
  struct rctx_group group;
  open_pool(2);
  rctx_work_fn volatile none = NULL; // the compiler would warn
  rctx_group_init(&group, root());
  cr_assert_eq(rctx_group_go(&group, none, NULL), -EINVAL);
  cr_assert_eq(rctx_group_try(&group, none, NULL), -EINVAL);
  cr_assert_eq(rctx_group_limit(&group, 1), 0, "nothing is under way");
  cr_assert_eq(rctx_group_wait(&group), 0);
  rctx_group_fini(&group);
}

Test(group, the_cause_names_the_task_and_where_it_was_started__GROUP_2) {
  struct rctx_group group;
  struct rctx_why why;
  int err = -ECONNRESET, later = -EIO;
  open_pool(2);
  rctx_group_init(&group, root());
  RCTX_SCOPED rctx *below = rctx_with_cancel(rctx_group_ctx(&group));
  const int line = __LINE__ + 1;
  cr_assert_eq(rctx_group_go(&group, give, &err), 0);
  cr_assert_eq(rctx_wait(below, INT64_MAX), -ECONNRESET);
  cr_assert_eq(rctx_group_go(&group, give, &later), 0);
  cr_assert_eq(rctx_group_wait(&group), -ECONNRESET);
  const rctx *kept = rctx_ref(rctx_group_ctx(&group));
  rctx_group_fini(&group);
  cr_assert_eq(rctx_why(below, &why), -ECONNRESET);
  cr_assert_eq(why.origin, RCTX_ORIGIN_TASK);
  cr_assert_eq(why.levels_up, 1);
  cr_assert_eq(why.cause->code, -ECONNRESET);
  cr_assert_eq(why.cause->origin, RCTX_ORIGIN_TASK);
  cr_assert_str_eq(why.cause->text, "task give failed");
  cr_assert_not_null(strstr(why.cause->file, "group_test.c"));
  cr_assert_eq(why.cause->line, line);
  cr_assert_eq(rctx_cause(kept), why.cause);
  rctx_unref(kept);
  cr_assert_eq(rctx_cause(below)->code, -ECONNRESET, "as long as anything below");
}

Test(group, an_error_that_is_no_errno_is_the_groups_and_canceled_the_contexts__GROUP_2) {
  int odd[] = {1, 7, INT_MAX, INT_MIN, -4096};
  open_pool(2);
  for (int i = 0; i < 5; i++) {
    struct rctx_group group;
    struct rctx_why why;
    rctx_group_init(&group, root());
    cr_assert_eq(rctx_group_go(&group, give, &odd[i]), 0);
    cr_assert_eq(rctx_group_wait(&group), odd[i]);
    cr_assert_eq(rctx_why(rctx_group_ctx(&group), &why), -ECANCELED);
    cr_assert_eq(why.origin, RCTX_ORIGIN_TASK);
    cr_assert_eq(why.cause->code, -ECANCELED, "%d", why.cause->code);
    rctx_group_fini(&group);
  }
}

Test(group, fini_ends_its_context_and_joins) {
  struct rctx_group group;
  atomic_int ran = 0;
  open_pool(3);
  rctx_group_init(&group, root());
  for (int i = 0; i < 5; i++) cr_assert_eq(rctx_group_go(&group, stay_until_the_end, &ran), 0);
  cr_assert_eq(rctx_group_fini(&group), -ECANCELED, "what the tasks returned");
  cr_assert_eq(atomic_load(&ran), 5);
  memset(&group, 0x5a, sizeof group); // the storage may be used
  cr_assert_eq(rctx_quiesce(manager, INT64_MAX), 0);
  cr_assert_eq(stats().contexts, 0);
}

static int leave_in_the_middle(atomic_int *ran) {
  RCTX_SCOPED_GROUP struct rctx_group group;
  rctx_group_init(&group, root());
  for (int i = 0; i < 4; i++)
    if (rctx_group_go(&group, stay_until_the_end, ran)) return -1;
  return 17;
}

Test(group, leaving_the_scope_joins) {
  open_pool(2);
  for (int round = 1; round <= 50; round++) {
    atomic_int ran = 0;
    cr_assert_eq(leave_in_the_middle(&ran), 17);
    cr_assert_eq(atomic_load(&ran), 4);
  }
  RCTX_SCOPED_GROUP struct rctx_group zeroed = {0};
  static atomic_int ran;
  cr_assert_eq(rctx_group_go(&zeroed, count, &ran), 0);
}

Test(group, after_wait_it_takes_more_and_the_error_stays) {
  struct rctx_group group;
  atomic_int ran = 0;
  int err = -EIO, later = -EPIPE;
  open_pool(2);
  rctx_group_init(&group, root());
  for (int round = 0; round < 3; round++) {
    cr_assert_eq(rctx_group_go(&group, count, &ran), 0);
    cr_assert_eq(rctx_group_wait(&group), 0);
  }
  cr_assert_eq(rctx_err(rctx_group_ctx(&group)), -ECANCELED);
  cr_assert_eq(rctx_group_go(&group, give, &err), 0);
  cr_assert_eq(rctx_group_wait(&group), -EIO);
  cr_assert_eq(rctx_err(rctx_group_ctx(&group)), -ECANCELED, "it had ended before");
  cr_assert_eq(rctx_group_go(&group, give, &later), 0);
  cr_assert_eq(rctx_group_go(&group, count, &ran), 0);
  cr_assert_eq(rctx_group_wait(&group), -EIO);
  cr_assert_eq(rctx_group_fini(&group), -EIO);
  cr_assert_eq(atomic_load(&ran), 4);
  rctx_group_init(&group, root());
  cr_assert_eq(rctx_group_wait(&group), 0, "the storage may be used again");
  cr_assert_eq(rctx_group_fini(&group), 0);
}

Test(group, errno_is_left_alone) {
  struct rctx_group group;
  atomic_int ran = 0;
  open_pool(2);
  errno = 4242;
  rctx_group_init(&group, root());
  for (int i = 0; i < 20; i++) rctx_group_go(&group, count, &ran);
  rctx_group_wait(&group);
  rctx_group_fini(&group);
  cr_assert_eq(errno, 4242);
}

/* ---- waiting ----------------------------------------------------------------------------------------------------- */

struct waiting {
  struct rctx_group group;
  int numbers[100]; // plain memory, one per task
  atomic_int next;
  int results[4];
};

static struct waiting waiting;

static int write_a_number(const rctx *ctx, void *arg) {
  int *number = arg;
  (void)ctx;
  sched_yield();
  *number += 1;
  return number == &waiting.numbers[50] ? -EDOM : 0;
}

static void wait_and_look(unsigned index, void *arg) {
  (void)arg;
  waiting.results[index] = rctx_group_wait(&waiting.group);
  for (int i = 0; i < 100; i++) cr_assert_eq(waiting.numbers[i], 1, "number %d: %d", i, waiting.numbers[i]);
}

Test(group, any_number_of_threads_may_wait_and_see_all_that_was_done__GROUP_3) {
  open_pool(3);
  for (int round = 0; round < 50; round++) {
    memset(&waiting, 0, sizeof waiting);
    rctx_group_init(&waiting.group, root());
    for (int i = 0; i < 100; i++) cr_assert_eq(rctx_group_go(&waiting.group, write_a_number, &waiting.numbers[i]), 0);
    threads_run(4, wait_and_look, NULL);
    for (int i = 0; i < 4; i++) cr_assert_eq(waiting.results[i], -EDOM);
    cr_assert_eq(rctx_group_fini(&waiting.group), -EDOM);
  }
}

Test(group, wait_runs_what_has_not_begun_and_the_executor_comes_too_late__GROUP_1__GROUP_3) {
  atomic_int ran = 0;
  int err = -EDOM;
  open_by_hand();
  struct rctx_group *group = malloc(sizeof *group);
  rctx_group_init(group, root());
  for (int i = 0; i < 10; i++) cr_assert_eq(rctx_group_go(group, count, &ran), 0);
  cr_assert_eq(rctx_group_go(group, give, &err), 0);
  cr_assert_eq(atomic_load(&ran), 0, "nothing runs by itself");
  cr_assert_eq(hand_queued(&hand), 11);
  cr_assert_eq(stats().tasks, 11);
  cr_assert_eq(rctx_group_wait(group), -EDOM);
  cr_assert_eq(atomic_load(&ran), 10);
  cr_assert_eq(rctx_group_fini(group), -EDOM);
  memset(group, 0x5a, sizeof *group);
  free(group);
  cr_assert_eq(rctx_manager_destroy(manager), -EBUSY, "what was submitted has not come back");
  cr_assert_eq(hand_run(&hand), 11);
  cr_assert_eq(atomic_load(&ran), 10);
  cr_assert_eq(stats().tasks, 0);
}

Test(group, an_executor_that_comes_in_time_runs_each_once__GROUP_1) {
  struct rctx_group group;
  atomic_int ran = 0;
  open_by_hand();
  rctx_group_init(&group, root());
  for (int i = 0; i < 10; i++) cr_assert_eq(rctx_group_go(&group, count, &ran), 0);
  for (int i = 1; i <= 4; i++) {
    cr_assert(hand_run_one(&hand));
    cr_assert_eq(atomic_load(&ran), i);
  }
  cr_assert_eq(rctx_group_wait(&group), 0);
  cr_assert_eq(atomic_load(&ran), 10);
  rctx_group_fini(&group);
  cr_assert_eq(hand_run(&hand), 6);
  cr_assert_eq(atomic_load(&ran), 10);
  cr_assert_eq(stats().threads, 0);
}

struct tree { // of tasks that start tasks of the same group
  struct rctx_group *group;
  int depth;
};

static atomic_int tree_ran;

static int grow(const rctx *ctx, void *arg) {
  struct tree *me = arg;
  (void)ctx;
  int rc = 0;
  atomic_fetch_add(&tree_ran, 1);
  for (int i = 0; i < 2 && me->depth > 0; i++) {
    struct tree *child = malloc(sizeof *child);
    *child = (struct tree){me->group, me->depth - 1};
    rc |= rctx_group_go(me->group, grow, child);
  }
  free(me);
  return rc;
}

static int grow_a_tree(const rctx *parent) {
  struct rctx_group group;
  struct tree *top = malloc(sizeof *top);
  atomic_store(&tree_ran, 0);
  rctx_group_init(&group, parent);
  *top = (struct tree){&group, 8};
  cr_assert_eq(rctx_group_go(&group, grow, top), 0);
  cr_assert_eq(rctx_group_wait(&group), 0);
  cr_assert_eq(rctx_group_fini(&group), 0);
  return atomic_load(&tree_ran);
}

Test(group, tasks_may_start_tasks_of_their_group) {
  for (unsigned most = 1; most <= 4; most += 3) {
    open_pool(most);
    cr_assert_eq(grow_a_tree(root()), 511);
    close_manager();
  }
  open_by_hand();
  cr_assert_eq(grow_a_tree(root()), 511);
  cr_assert_eq(hand_run(&hand), 511);
}

static atomic_int leaves;

static int nest(const rctx *ctx, void *arg) {
  static int depths[] = {0, 1, 2, 3, 4, 5};
  int depth = *(int *)arg, err = 0;
  if (depth == 0) {
    atomic_fetch_add(&leaves, 1);
    return 0;
  }
  RCTX_SCOPED_GROUP struct rctx_group group;
  rctx_group_init(&group, ctx);
  for (int i = 0; i < 3; i++) err |= rctx_group_go(&group, nest, &depths[depth - 1]);
  return err ? err : rctx_group_wait(&group);
}

static int nest_by_execute(const rctx *ctx, void *arg) { return rctx_execute(ctx, nest, arg, NULL, NULL); }

Test(group, groups_nest_in_a_pool_of_one_thread__GROUP_3) {
  int depth = 5;
  open_pool(1);
  cr_assert_eq(nest(root(), &depth), 0);
  cr_assert_eq(atomic_load(&leaves), 243);
  cr_assert_eq(rctx_execute(root(), nest, &depth, NULL, NULL), 0);
  cr_assert_eq(atomic_load(&leaves), 2 * 243);
  cr_assert_eq(rctx_execute(root(), nest_by_execute, &depth, NULL, NULL), 0);
  cr_assert_eq(atomic_load(&leaves), 3 * 243);
}

Test(group, groups_nest_where_only_one_thread_is_to_be_had__GROUP_3) {
  int depth = 4;
  open_pool(4);
  threads_allow(1);
  cr_assert_eq(rctx_execute(root(), nest, &depth, NULL, NULL), 0);
  cr_assert_eq(atomic_load(&leaves), 81);
  threads_allow_all();
}

struct chain { // a task that waits for one that it has started in its own group
  struct rctx_group group;
  struct gate started, second_ran;
};

static int open_second(const rctx *ctx, void *arg) {
  (void)ctx;
  gate_open(&((struct chain *)arg)->second_ran);
  return 0;
}

static int start_second_and_wait(const rctx *ctx, void *arg) {
  struct chain *chain = arg;
  (void)ctx;
  gate_open(&chain->started);
  for (int i = 0; i < 50; i++) usleep(100); // the waiter sleeps meanwhile, or comes later: both are legal
  int rc = rctx_group_go(&chain->group, open_second, chain);
  gate_pass(&chain->second_ran);
  return rc;
}

// The only thread of the pool is taken by the first, which waits for the second: whoever waits for the group runs it.
Test(group, wait_runs_also_what_is_started_while_it_waits__GROUP_3) {
  struct chain chain;
  open_pool(1);
  gate_init(&chain.started);
  gate_init(&chain.second_ran);
  rctx_group_init(&chain.group, root());
  cr_assert_eq(rctx_group_go(&chain.group, start_second_and_wait, &chain), 0);
  gate_pass(&chain.started);
  cr_assert_eq(rctx_group_wait(&chain.group), 0);
  rctx_group_fini(&chain.group);
}

/* ---- where a task runs that nobody can take ---------------------------------------------------------------------- */

Test(group, when_prepare_fails_it_runs_on_the_calling_thread__GROUP_1) {
  struct rctx_group group;
  struct stay stay;
  open_by_hand();
  atomic_store(&hand.refusal, -EAGAIN);
  rctx_group_init(&group, root());
  cr_assert_eq(rctx_group_limit(&group, 1), 0);
  for (int i = 0; i < 10; i++) {
    stay_init(&stay, 0);
    gate_open(&stay.may_end);
    cr_assert_eq(i % 2 ? rctx_group_try(&group, stay_until_told, &stay) : rctx_group_go(&group, stay_until_told, &stay),
                 0);
    cr_assert_eq(atomic_load(&stay.ran), 1, "before the call returns");
    cr_assert(pthread_equal(stay.ran_on, pthread_self()));
    cr_assert_eq(stay.ctx, rctx_group_ctx(&group));
  }
  int err = -EIO;
  cr_assert_eq(rctx_group_go(&group, give, &err), 0);
  cr_assert_eq(rctx_err(rctx_group_ctx(&group)), -EIO);
  cr_assert_eq(rctx_group_wait(&group), -EIO);
  rctx_group_fini(&group);
  cr_assert_eq(atomic_load(&hand.submitted), 0);
}

Test(group, without_threads_it_runs_on_the_calling_thread__GROUP_1) {
  struct rctx_group group;
  struct stay stay;
  open_pool(4);
  rctx_group_init(&group, root());
  stay_init(&stay, 3);
  gate_open(&stay.may_end);
  threads_allow(0);
  cr_assert_eq(rctx_group_go(&group, stay_until_told, &stay), 0);
  threads_allow_all();
  cr_assert_eq(atomic_load(&stay.ran), 1);
  cr_assert(pthread_equal(stay.ran_on, pthread_self()));
  cr_assert_eq(rctx_group_wait(&group), 3);
  rctx_group_fini(&group);
}

Test(group, when_tasks_max_are_waiting_it_runs_on_the_calling_thread__GROUP_1) {
  struct rctx_group group;
  struct stay busy, here;
  atomic_int ran = 0;
  open_with((struct rctx_manager_options){.threads_max = 1, .tasks_max = 3});
  rctx_group_init(&group, root());
  stay_init(&busy, 0);
  stay_init(&here, 0);
  gate_open(&here.may_end);
  cr_assert_eq(rctx_group_go(&group, stay_until_told, &busy), 0);
  gate_pass(&busy.started);
  for (int i = 0; i < 3; i++) cr_assert_eq(rctx_group_go(&group, count, &ran), 0);
  cr_assert_eq(atomic_load(&ran), 0);
  cr_assert_eq(rctx_group_go(&group, stay_until_told, &here), 0);
  cr_assert_eq(atomic_load(&here.ran), 1);
  cr_assert(pthread_equal(here.ran_on, pthread_self()));
  gate_open(&busy.may_end);
  cr_assert_eq(rctx_group_wait(&group), 0);
  cr_assert_eq(atomic_load(&ran), 3);
  rctx_group_fini(&group);
}

struct tight { // a task with a group of its own that may have one task under way
  atomic_int ran;
  int err;
};

static int start_three_one_at_a_time(const rctx *ctx, void *arg) {
  struct tight *tight = arg;
  struct rctx_group group;
  rctx_group_init(&group, ctx);
  tight->err = rctx_group_limit(&group, 1);
  for (int i = 0; i < 3; i++) tight->err |= rctx_group_go(&group, count, &tight->ran);
  return rctx_group_fini(&group);
}

Test(group, waiting_for_room_in_a_task_lends_its_thread) {
  struct tight tight = {0};
  open_pool(1);
  cr_assert_eq(rctx_execute(root(), start_three_one_at_a_time, &tight, NULL, NULL), 0);
  cr_assert_eq(tight.err, 0);
  cr_assert_eq(atomic_load(&tight.ran), 3);
}

// "When neither memory nor a thread is to be had, it runs on the calling thread": the one before it must give way, too.
Test(group, waiting_for_room_in_the_only_thread_to_be_had__GROUP_1) {
  struct tight tight = {0};
  open_pool(4);
  threads_allow(1);
  cr_assert_eq(rctx_execute(root(), start_three_one_at_a_time, &tight, NULL, NULL), 0);
  threads_allow_all();
  cr_assert_eq(tight.err, 0);
  cr_assert_eq(atomic_load(&tight.ran), 3);
}

Test(group, without_memory_for_it_a_task_runs_on_the_calling_thread__GROUP_1__ENOMEM) {
  for (int64_t n = 1, refused = 1; refused; n++) {
    struct rctx_manager_options options = {.allocator = counting_table(), .uncached = true};
    struct rctx_group group;
    struct stay stay;
    cr_assert_eq(rctx_manager_create(&options, &counting.manager), 0);
    rctx_group_init(&group, counting_root());
    cr_assert_eq(rctx_err(rctx_group_ctx(&group)), 0);
    stay_init(&stay, -EDOM);
    gate_open(&stay.may_end);
    counting_fail_at(n);
    cr_assert_eq(rctx_group_go(&group, stay_until_told, &stay), 0);
    refused = counting_fail_at(0);
    if (refused) {
      cr_assert_eq(atomic_load(&stay.ran), 1, "before the call returns");
      cr_assert(pthread_equal(stay.ran_on, pthread_self()));
    }
    cr_assert_eq(rctx_group_wait(&group), -EDOM);
    cr_assert_eq(atomic_load(&stay.ran), 1);
    cr_assert_eq(rctx_err(rctx_group_ctx(&group)), -EDOM);
    rctx_group_fini(&group);
    counting_close();
  }
}

Test(group, without_memory_for_its_context_it_has_ended_and_tasks_run_all_the_same__GROUP_2__ENOMEM) {
  for (int64_t n = 1, refused = 1; refused; n++) {
    struct rctx_manager_options options = {.allocator = counting_table(), .uncached = true};
    struct rctx_group group;
    atomic_int ran = 0;
    int err = -EDOM;
    cr_assert_eq(rctx_manager_create(&options, &counting.manager), 0);
    counting_fail_at(n);
    rctx_group_init(&group, counting_root());
    refused = counting_fail_at(0);
    int ended = rctx_err(rctx_group_ctx(&group));
    cr_assert(ended == 0 || (refused && ended == -ENOMEM), "request %lld: %d", (long long)n, ended);
    cr_assert_eq(rctx_group_go(&group, count, &ran), 0);
    cr_assert_eq(rctx_group_go(&group, give, &err), 0);
    cr_assert_eq(rctx_group_wait(&group), -EDOM);
    cr_assert_eq(atomic_load(&ran), 1);
    cr_assert_eq(rctx_err(rctx_group_ctx(&group)), ended ? -ENOMEM : -EDOM, "request %lld: %d", (long long)n,
                 rctx_err(rctx_group_ctx(&group)));
    rctx_group_fini(&group);
    counting_close();
  }
}

Test(group, on_another_executor_than_the_parents) {
  struct rctx_group group;
  struct stay stay;
  static struct hand other;
  open_pool(2);
  hand_init(&other);
  rctx_group_init_on(&group, root(), &other.table);
  stay_init(&stay, 0);
  gate_open(&stay.may_end);
  cr_assert_eq(rctx_group_go(&group, stay_until_told, &stay), 0);
  cr_assert_eq(hand_run(&other), 1);
  cr_assert(pthread_equal(stay.ran_on, pthread_self()));
  rctx_group_fini(&group);
  stay_init(&stay, 0);
  gate_open(&stay.may_end);
  rctx_group_init_on(&group, root(), rctx_manager_executor(rctx_manager_default()));
  cr_assert_eq(rctx_group_go(&group, stay_until_told, &stay), 0);
  gate_pass(&stay.started);
  cr_assert_eq(rctx_group_fini(&group), 0);
  cr_assert_eq(stats().threads, 0);
}

/* ---- room -------------------------------------------------------------------------------------------------------- */

struct room {
  struct rctx_group group;
  struct stay stay;
  atomic_int ran;
  atomic_bool gone;
};

static void *go_and_tell(void *arg) {
  struct room *room = arg;
  cr_assert_eq(rctx_group_go(&room->group, count, &room->ran), 0);
  atomic_store(&room->gone, true);
  return NULL;
}

Test(group, go_blocks_until_there_is_room) {
  struct room room = {0};
  pthread_t goer;
  open_pool(4);
  rctx_group_init(&room.group, root());
  cr_assert_eq(rctx_group_limit(&room.group, 1), 0);
  stay_init(&room.stay, 0);
  cr_assert_eq(rctx_group_go(&room.group, stay_until_told, &room.stay), 0);
  gate_pass(&room.stay.started);
  cr_assert_eq(pthread_create(&goer, NULL, go_and_tell, &room), 0);
  for (int i = 0; i < 100; i++) usleep(100); // it can not come through, however long
  cr_assert_not(atomic_load(&room.gone));
  gate_open(&room.stay.may_end);
  pthread_join(goer, NULL);
  cr_assert_eq(rctx_group_wait(&room.group), 0);
  cr_assert_eq(atomic_load(&room.ran), 1);
  rctx_group_fini(&room.group);
}

Test(group, with_limit_0_go_waits_for_another_limit) {
  for (int round = 0; round < 100; round++) {
    struct room room = {0};
    pthread_t goer;
    if (!manager) open_pool(4);
    rctx_group_init(&room.group, root());
    cr_assert_eq(rctx_group_limit(&room.group, 0), 0);
    cr_assert_eq(pthread_create(&goer, NULL, go_and_tell, &room), 0);
    for (int i = round; i > 0; i--) sched_yield();
    cr_assert_not(atomic_load(&room.gone));
    cr_assert_eq(atomic_load(&room.ran), 0);
    cr_assert_eq(rctx_group_limit(&room.group, round % 2 ? 1 : -1), 0, "who waits for room is not under way");
    pthread_join(goer, NULL);
    cr_assert_eq(rctx_group_fini(&room.group), 0);
    cr_assert_eq(atomic_load(&room.ran), 1);
  }
}

/* ---- failing ----------------------------------------------------------------------------------------------------- */

static int destroyed;
static void count_destroyed(const struct rctx_cause *self) {
  (void)self;
  destroyed++;
}

static const struct rctx_cause own_cause = {-EPROTO, RCTX_ORIGIN_USER, "own", "here.c", 7, NULL, count_destroyed};
static const struct rctx_cause late_cause = {-EBADMSG, RCTX_ORIGIN_USER, "late", NULL, 0, NULL, count_destroyed};

Test(group, fail_gives_a_cause_of_ones_own_which_is_taken_if_it_is_the_contexts) {
  struct rctx_group group;
  bool taken = false;
  int err = -EIO;
  open_pool(2);
  rctx_group_init(&group, root());
  RCTX_SCOPED rctx *below = rctx_with_cancel(rctx_group_ctx(&group));
  cr_assert(rctx_group_fail(&group, &own_cause, &taken));
  cr_assert(taken);
  cr_assert_eq(rctx_err(below), -EPROTO);
  cr_assert_eq(rctx_cause(below), &own_cause);
  cr_assert_not(rctx_group_fail(&group, &late_cause, &taken), "not the first");
  cr_assert_not(taken, "still the caller's");
  cr_assert_eq(rctx_group_go(&group, give, &err), 0);
  cr_assert_eq(rctx_group_wait(&group), -EPROTO);
  cr_assert_eq(rctx_group_fini(&group), -EPROTO);
  cr_assert_eq(destroyed, 0, "something below still has it");
  rctx_end(below);
  below = NULL;
  cr_assert_eq(rctx_quiesce(manager, INT64_MAX), 0);
  cr_assert_eq(destroyed, 1);
}

Test(group, after_a_tasks_error_fail_is_not_the_first) {
  struct rctx_group group;
  bool taken = true;
  int err = -EIO;
  open_pool(2);
  rctx_group_init(&group, root());
  cr_assert_eq(rctx_group_go(&group, give, &err), 0);
  cr_assert_eq(rctx_group_wait(&group), -EIO);
  cr_assert_not(rctx_group_fail(&group, &own_cause, &taken));
  cr_assert_not(taken);
  cr_assert_eq(rctx_group_fini(&group), -EIO);
  cr_assert_eq(destroyed, 0);
}

Test(group, on_a_zeroed_group_or_an_ended_context_fail_does_not_take_the_cause) {
  struct rctx_group zeroed = {0}, ended, after_success;
  bool taken = true;
  open_pool(2);
  cr_assert(rctx_group_fail(&zeroed, &own_cause, &taken));
  cr_assert_not(taken);
  cr_assert_eq(rctx_group_wait(&zeroed), -EPROTO);
  cr_assert_eq(rctx_err(rctx_group_ctx(&zeroed)), 0);
  rctx_group_fini(&zeroed);
  RCTX_SCOPED rctx *parent = rctx_with_cancel(root());
  rctx_group_init(&ended, parent);
  rctx_cancel(parent);
  taken = true;
  cr_assert(rctx_group_fail(&ended, &own_cause, &taken));
  cr_assert_not(taken);
  cr_assert_eq(rctx_err(rctx_group_ctx(&ended)), -ECANCELED);
  cr_assert_eq(rctx_group_fini(&ended), -EPROTO);
  rctx_group_init(&after_success, root());
  cr_assert_eq(rctx_group_wait(&after_success), 0);
  taken = true;
  cr_assert(rctx_group_fail(&after_success, &own_cause, &taken));
  cr_assert_not(taken);
  cr_assert_eq(rctx_group_fini(&after_success), -EPROTO);
  cr_assert_eq(destroyed, 0);
}

Test(group, fail_with_a_code_out_of_range_counts_as_canceled) {
  const int codes[] = {0, 1, -4096, INT_MAX, INT_MIN};
  open_pool(2);
  for (int i = 0; i < 5; i++) {
    struct rctx_cause cause = {codes[i], RCTX_ORIGIN_USER, "odd", NULL, 0, NULL, NULL};
    struct rctx_group group;
    bool taken = false;
    rctx_group_init(&group, root());
    cr_assert(rctx_group_fail(&group, &cause, &taken));
    cr_assert(taken);
    cr_assert_eq(rctx_cause(rctx_group_ctx(&group)), &cause);
    cr_assert_eq(rctx_err(rctx_group_ctx(&group)), -ECANCELED);
    cr_assert_eq(rctx_group_wait(&group), -ECANCELED);
    rctx_group_fini(&group);
  }
}

struct failing {
  struct rctx_group group;
  bool first, taken;
};

static int fail_inside(const rctx *ctx, void *arg) {
  struct failing *failing = arg;
  failing->first = rctx_group_fail(&failing->group, &own_cause, &failing->taken);
  return rctx_err(ctx) == -EPROTO ? 0 : -1; // "from inside a task": its own end is there
}

Test(group, fail_inside_a_task_that_then_succeeds) {
  struct failing failing = {0};
  open_pool(2);
  rctx_group_init(&failing.group, root());
  cr_assert_eq(rctx_group_go(&failing.group, fail_inside, &failing), 0);
  cr_assert_eq(rctx_group_wait(&failing.group), -EPROTO);
  cr_assert(failing.first && failing.taken);
  cr_assert_eq(rctx_group_fini(&failing.group), -EPROTO);
}

/* ---- the steady state -------------------------------------------------------------------------------------------- */

static bool one_round(const rctx *parent, atomic_int *ran) {
  struct rctx_group group;
  bool right = true;
  rctx_group_init(&group, parent);
  for (int i = 0; i < 8; i++) right &= rctx_group_go(&group, count, ran) == 0;
  right &= rctx_group_wait(&group) == 0;
  return right & (rctx_group_fini(&group) == 0);
}

Test(group, it_allocates_nothing_once_warm) {
#if CHECK_UNCACHED
  cr_skip_test("this build caches nothing");
#endif
  struct rctx_manager_options options = {.allocator = counting_table(), .threads_max = 2};
  atomic_int ran = 0;
  bool right = true;
  cr_assert_eq(rctx_manager_create(&options, &counting.manager), 0);
  rctx *parent = rctx_with_cancel(counting_root());
  for (int i = 0; i < 1000; i++) right &= one_round(parent, &ran);
  size_t calls = atomic_load(&counting.calls);
  for (int i = 0; i < 2000; i++) right &= one_round(parent, &ran);
  cr_assert(right);
  cr_assert_eq(atomic_load(&counting.calls) - calls, 0, "%zu requests", atomic_load(&counting.calls) - calls);
  cr_assert_eq(atomic_load(&ran), 8 * 3000);
  rctx_end(parent);
  counting_close();
}
