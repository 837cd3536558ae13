// Graceful shutdown: what each level ends and with which cause, that nothing begins any more, and that `drained` ends when
// the last context of the work is gone: not earlier, whatever kept it, and always. Races: drain_race_test.c.
#include "support/check.h"
#include "support/counting.h"
#include "support/draining.h"
#include "support/fake_time.h"

#include <poll.h>
#include <sched.h>
#include <semaphore.h>

TestSuite(drain, .init = drain_open, .fini = drain_close, .timeout = 120);

// ---- open ------------------------------------------------------------------------------------------------------------

Test(drain, open_it_is_just_a_parent) {
  cr_assert_eq(rctx_drain_level(drain), RCTX_DRAIN_OPEN);
  RCTX_SCOPED rctx *r = rctx_drain_request(drain, counted());
  RCTX_SCOPED rctx *plain = rctx_drain_request(drain, NULL);
  cr_assert_eq(rctx_err(r), 0);
  cr_assert_eq(rctx_err(plain), 0);
  cr_assert_str_eq(rctx_name(r), "counted");
  cr_assert_eq(rctx_err(rctx_drain_accepting(drain)), 0);
  cr_assert_not(is_drained());
}

Test(drain, a_request_has_what_its_spec_says) {
  int64_t deadline;
  void *value;
  int mine;
  struct rctx_value values[] = {{&gone_key, &mine, NULL}};
  RCTX_SCOPED rctx *r =
      rctx_drain_request(drain, &(struct rctx_spec){.deadline_ns = INT64_MAX - 5, .values = values, .nvalues = 1});
  cr_assert(rctx_deadline(r, &deadline));
  cr_assert_eq(deadline, INT64_MAX - 5);
  cr_assert(rctx_get(r, &gone_key, &value));
  cr_assert_eq(value, &mine);
  RCTX_SCOPED rctx *late = rctx_drain_request(drain, &(struct rctx_spec){.timeout_ns = -1});
  cr_assert_eq(rctx_err(late), -ETIMEDOUT);
}

Test(drain, work_carries_the_parents_values_and_its_own_name) {
  struct rctx_info info;
  void *value;
  rctx_drain *below;
  RCTX_SCOPED rctx *parent = rctx_with_value(rctx_background(), &gone_key, &below);
  cr_assert_eq(rctx_drain_create(parent, "the work", &below), 0);
  rctx *r = rctx_drain_request(below, NULL);
  cr_assert(rctx_get(r, &gone_key, &value));
  rctx_inspect(r, &info);
  cr_assert_not_null(info.parent);
  cr_assert_str_eq(rctx_name(info.parent), "the work");
  rctx_end(r);
  rctx_drain_destroy(below);
}

Test(drain, without_a_name) {
  rctx_drain *nameless;
  struct rctx_drain_left left;
  cr_assert_eq(rctx_drain_create(rctx_background(), NULL, &nameless), 0);
  rctx *r = rctx_drain_request(nameless, NULL);
  rctx_drain_look(nameless, &left);
  cr_assert_null(left.example, "no context has a name");
  rctx_end(r);
  rctx_drain_destroy(nameless);
}

Test(drain, open_and_empty_is_not_drained__DRAIN_2) {
  for (int i = 0; i < 100; i++) {
    rctx_end(rctx_drain_request(drain, counted()));
    cr_assert_not(is_drained(), "never while open");
  }
  cr_assert_eq(rctx_wait(rctx_drain_drained(drain), rctx_now() + 20 * MS), 0);
  cr_assert_eq(atomic_load(&gone), 100);
}

// ---- levels ----------------------------------------------------------------------------------------------------------

Test(drain, stop_ends_accepting_and_no_work) {
  RCTX_SCOPED rctx *r = rctx_drain_request(drain, counted());
  cr_assert(rctx_drain_raise(drain, RCTX_DRAIN_STOP));
  cr_assert_eq(rctx_drain_level(drain), RCTX_DRAIN_STOP);
  cr_assert_neq(rctx_err(rctx_drain_accepting(drain)), 0);
  cr_assert_eq(rctx_err(r), 0, "what runs goes on");
  RCTX_SCOPED rctx *below = rctx_with_cancel(r);
  cr_assert_eq(rctx_err(below), 0, "and may derive");
  cr_assert_not(is_drained());
}

Test(drain, after_stop_no_request_begins__DRAIN_1) {
  for (enum rctx_drain_level level = RCTX_DRAIN_STOP; level <= RCTX_DRAIN_CANCEL; level++) {
    rctx_drain_raise(drain, level);
    rctx *r = rctx_drain_request(drain, counted());
    ended_by_shutdown(r, -ECANCELED, "shutting down");
    RCTX_SCOPED rctx *below = rctx_with_cancel(r);
    ended_by_shutdown(below, -ECANCELED, "shutting down");
    rctx_end(r);
    RCTX_SCOPED rctx *plain = rctx_drain_request(drain, NULL);
    ended_by_shutdown(plain, -ECANCELED, "shutting down");
  }
  gets_drained();
}

static int causes_destroyed;
static void count_cause(const struct rctx_cause *self) {
  (void)self;
  causes_destroyed++;
}

Test(drain, what_a_refused_spec_transfers_is_let_go_once) {
  static const struct rctx_cause cause = {.code = -ETIMEDOUT, .text = "late", .destroy = count_cause};
  struct rctx_value values[] = {{&gone_key, NULL, count_gone}, {&gone_key, NULL, count_gone}};
  rctx_drain_raise(drain, RCTX_DRAIN_STOP);
  rctx *r = rctx_drain_request(
      drain, &(struct rctx_spec){.timeout_ns = SECOND, .deadline_cause = &cause, .values = values, .nvalues = 2});
  ended_by_shutdown(r, -ECANCELED, "shutting down");
  rctx_end(r);
  gets_drained();
  cr_assert_eq(rctx_quiesce(rctx_manager_default(), INT64_MAX), 0);
  cr_assert_eq(atomic_load(&gone), 2);
  cr_assert_eq(causes_destroyed, 1);
}

Test(drain, deadline_ends_work_as_a_timeout) {
  RCTX_SCOPED rctx *r = rctx_drain_request(drain, counted());
  RCTX_SCOPED rctx *below = rctx_with_cancel(r);
  cr_assert(rctx_drain_raise(drain, RCTX_DRAIN_DEADLINE));
  cr_assert_eq(rctx_drain_level(drain), RCTX_DRAIN_DEADLINE);
  cr_assert_neq(rctx_err(rctx_drain_accepting(drain)), 0, "each step also does the ones before it");
  ended_by_shutdown(r, -ETIMEDOUT, "shutdown deadline");
  ended_by_shutdown(below, -ETIMEDOUT, "shutdown deadline");
  cr_assert_not(is_drained(), "ended is not gone");
  cr_assert(rctx_drain_raise(drain, RCTX_DRAIN_CANCEL));
  ended_by_shutdown(r, -ETIMEDOUT, "shutdown deadline");
}

Test(drain, cancel_ends_work) {
  RCTX_SCOPED rctx *r = rctx_drain_request(drain, counted());
  cr_assert(rctx_drain_raise(drain, RCTX_DRAIN_CANCEL));
  cr_assert_eq(rctx_drain_level(drain), RCTX_DRAIN_CANCEL);
  cr_assert_neq(rctx_err(rctx_drain_accepting(drain)), 0);
  ended_by_shutdown(r, -ECANCELED, "shutdown");
}

Test(drain, what_had_ended_keeps_its_cause) {
  static const struct rctx_cause own = {.code = -EPIPE, .origin = RCTX_ORIGIN_PEER, .text = "left"};
  RCTX_SCOPED rctx *r = rctx_drain_request(drain, counted());
  cr_assert(rctx_cancel_cause(r, &own));
  rctx_drain_raise(drain, RCTX_DRAIN_CANCEL);
  cr_assert_eq(rctx_cause(r), &own);
}

// raise in every order: true exactly when it gets higher.
Test(drain, raise_says_whether_it_got_there) {
  for (unsigned order = 0; order < 4 * 4 * 4 * 4; order++) {
    rctx_drain *d;
    enum rctx_drain_level highest = RCTX_DRAIN_OPEN;
    cr_assert_eq(rctx_drain_create(rctx_background(), "work", &d), 0);
    for (unsigned step = 0; step < 4; step++) {
      enum rctx_drain_level level = (enum rctx_drain_level)(order >> 2 * step & 3);
      cr_assert_eq(rctx_drain_raise(d, level), level > highest, "%d after %d", (int)level, (int)highest);
      if (level > highest) highest = level;
      cr_assert_eq(rctx_drain_level(d), highest, "upwards only");
      cr_assert_eq(rctx_err(rctx_drain_drained(d)) != 0, highest > RCTX_DRAIN_OPEN, "nothing is there");
    }
    rctx_drain_destroy(d);
  }
}

static void count(const rctx *ctx, void *arg) {
  cr_assert_neq(rctx_err(ctx), 0);
  atomic_fetch_add((atomic_int *)arg, 1);
}

Test(drain, callbacks_of_what_ends_run_before_raise_returns) {
  struct rctx_after node = {0}, accept_node = {0};
  RCTX_SCOPED rctx *r = rctx_drain_request(drain, NULL);
  atomic_int calls = 0;
  cr_assert_eq(rctx_after_inline(r, &node, RCTX_ON_ENDED_TELL, count, &calls), RCTX_REGISTERED);
  cr_assert_eq(rctx_after_inline(rctx_drain_accepting(drain), &accept_node, RCTX_ON_ENDED_TELL, count, &calls),
               RCTX_REGISTERED);
  rctx_drain_raise(drain, RCTX_DRAIN_STOP);
  cr_assert_eq(atomic_load(&calls), 1);
  rctx_drain_raise(drain, RCTX_DRAIN_CANCEL);
  cr_assert_eq(atomic_load(&calls), 2);
}

// ---- drained: what keeps it waiting ----------------------------------------------------------------------------------

Test(drain, drained_when_the_last_request_is_gone__DRAIN_2) {
  rctx *r[3];
  for (int i = 0; i < 3; i++) r[i] = rctx_drain_request(drain, counted());
  rctx_drain_raise(drain, RCTX_DRAIN_STOP);
  for (int i = 0; i < 3; i++) {
    cr_assert_not(is_drained(), "%d are left", 3 - i);
    rctx_end(r[i]);
  }
  gets_drained();
  cr_assert_eq(atomic_load(&gone), 3);
  nothing_is_left();
}

Test(drain, ended_requests_are_waited_for_until_their_owners_end_them__DRAIN_2) {
  rctx *r = rctx_drain_request(drain, counted());
  rctx_drain_raise(drain, RCTX_DRAIN_CANCEL);
  cr_assert_neq(rctx_err(r), 0);
  cr_assert_eq(rctx_wait(rctx_drain_drained(drain), rctx_now() + 20 * MS), 0);
  rctx_end(r);
  gets_drained();
}

Test(drain, what_hangs_below_is_waited_for__DRAIN_2) {
  rctx *r = rctx_drain_request(drain, counted());
  rctx *below = rctx_derive(r, counted());
  rctx *deep = rctx_with_timeout(below, 3600 * SECOND);
  rctx_drain_raise(drain, RCTX_DRAIN_STOP);
  rctx_end(r);
  rctx_end(below);
  cr_assert_not(is_drained());
  cr_assert_eq(left_now().contexts, 3, "kept by what hangs below");
  rctx_end(deep);
  gets_drained();
  cr_assert_eq(atomic_load(&gone), 2);
}

Test(drain, a_reference_is_waited_for__DRAIN_2) {
  rctx *r = rctx_drain_request(drain, counted());
  const rctx *kept = rctx_ref(r);
  rctx_end(r);
  rctx_drain_raise(drain, RCTX_DRAIN_CANCEL);
  cr_assert_not(is_drained());
  cr_assert_eq(atomic_load(&gone), 0);
  rctx_unref(kept);
  gets_drained();
  cr_assert_eq(atomic_load(&gone), 1);
}

Test(drain, dropping_the_handle_counts_as_its_end__DRAIN_2) {
  rctx *r = rctx_drain_request(drain, counted());
  rctx_drain_raise(drain, RCTX_DRAIN_STOP);
  rctx_drop(r);
  gets_drained();
  cr_assert_eq(atomic_load(&gone), 1);
}

Test(drain, who_takes_values_from_a_request_is_waited_for__DRAIN_2) {
  rctx *r = rctx_drain_request(drain, counted());
  rctx *elsewhere = rctx_derive(rctx_background(), &(struct rctx_spec){.values_from = r});
  rctx_end(r);
  rctx_drain_raise(drain, RCTX_DRAIN_CANCEL);
  cr_assert_eq(rctx_err(elsewhere), 0);
  cr_assert_not(is_drained(), "the request's values are still in use");
  rctx_end(elsewhere);
  gets_drained();
  cr_assert_eq(atomic_load(&gone), 1);
}

static void nop(const rctx *ctx, void *arg) {
  (void)ctx;
  (void)arg;
}

Test(drain, a_registration_is_waited_for__DRAIN_2) {
  struct rctx_after node = {0};
  rctx_loop *loop;
  cr_assert_eq(rctx_loop_create(&loop), 0);
  rctx *r = rctx_drain_request(drain, counted());
  cr_assert_eq(rctx_watch(r, &node, loop, RCTX_ON_ENDED_QUEUE, nop, NULL), RCTX_REGISTERED);
  rctx_drain_raise(drain, RCTX_DRAIN_STOP);
  rctx_end(r);
  cr_assert_not(is_drained(), "the loop has not called it yet");
  cr_assert_eq(rctx_loop_drain(loop, 10), 1);
  gets_drained();
  rctx_loop_destroy(loop);
}

Test(drain, detached_work_is_not_ended_and_is_waited_for__DRAIN_3) {
  rctx *r = rctx_drain_request(drain, counted());
  rctx *detached = rctx_without_cancel(r);
  rctx *below = rctx_derive(detached, counted());
  rctx_end(r);
  for (enum rctx_drain_level level = RCTX_DRAIN_STOP; level <= RCTX_DRAIN_CANCEL; level++) {
    rctx_drain_raise(drain, level);
    cr_assert_eq(rctx_err(detached), 0);
    cr_assert_eq(rctx_err(below), 0);
    cr_assert_not(is_drained());
  }
  struct rctx_drain_left left = left_now();
  cr_assert_eq(left.detached, 2, "%zu", left.detached);
  cr_assert_eq(left.live, 2, "%zu", left.live);
  rctx_end(below);
  cr_assert_not(is_drained());
  rctx_end(detached);
  gets_drained();
  cr_assert_eq(atomic_load(&gone), 2);
}

Test(drain, work_of_another_manager_is_waited_for__DRAIN_2) {
  counting_open(false);
  rctx *r = rctx_drain_request(drain, &(struct rctx_spec){.manager = counting.manager});
  rctx *below = rctx_derive(r, &(struct rctx_spec){.manager = rctx_manager_default()});
  rctx_drain_raise(drain, RCTX_DRAIN_DEADLINE);
  rctx_end(r);
  ended_by_shutdown(below, -ETIMEDOUT, "shutdown deadline");
  cr_assert_eq(left_now().contexts, 2);
  cr_assert_not(is_drained());
  rctx_end(below);
  gets_drained();
  counting_close();
}

Test(drain, drained_and_accepting_can_be_polled_and_watched) {
  struct rctx_after node = {0};
  rctx_loop *loop;
  atomic_int calls = 0;
  cr_assert_eq(rctx_loop_create(&loop), 0);
  struct pollfd fds[2] = {{.fd = rctx_fd(rctx_drain_accepting(drain)), .events = POLLIN},
                          {.fd = rctx_fd(rctx_drain_drained(drain)), .events = POLLIN}};
  cr_assert(fds[0].fd >= 0 && fds[1].fd >= 0);
  cr_assert_eq(rctx_watch(rctx_drain_drained(drain), &node, loop, RCTX_ON_ENDED_QUEUE, count, &calls), RCTX_REGISTERED);
  rctx *r = rctx_drain_request(drain, counted());
  cr_assert_eq(poll(fds, 2, 0), 0);
  rctx_drain_raise(drain, RCTX_DRAIN_STOP);
  cr_assert_eq(poll(fds, 2, 0), 1);
  cr_assert_eq(fds[0].revents, POLLIN);
  rctx_end(r);
  gets_drained();
  cr_assert_eq(poll(fds, 2, -1), 2);
  while (rctx_loop_drain(loop, 10) == 0) sched_yield();
  cr_assert_eq(atomic_load(&calls), 1);
  rctx_loop_destroy(loop);
}

static atomic_int gone_when_drained = -1;

static void note_gone(const rctx *ctx, void *arg) {
  (void)ctx;
  (void)arg;
  atomic_store(&gone_when_drained, atomic_load(&gone));
}

Test(drain, every_destructor_has_run_when_drained_tells__DRAIN_2) {
  enum { MANY = 200 };
  static rctx *r[MANY], *below[MANY];
  struct rctx_after node = {0};
  cr_assert_eq(rctx_after_inline(rctx_drain_drained(drain), &node, RCTX_ON_ENDED_TELL, note_gone, NULL),
               RCTX_REGISTERED);
  for (int i = 0; i < MANY; i++) {
    r[i] = rctx_drain_request(drain, counted());
    below[i] =
        i % 2 ? rctx_derive(r[i], counted()) : rctx_derive(below[i ? i - 1 : 0] && i ? below[i - 1] : r[i], counted());
  }
  rctx_drain_raise(drain, RCTX_DRAIN_STOP);
  for (int i = 0; i < MANY; i++) rctx_end(r[i]);
  cr_assert_not(is_drained());
  for (int i = MANY; i-- > 0;) rctx_end(below[i]);
  gets_drained();
  while (atomic_load(&gone_when_drained) < 0) sched_yield();
  cr_assert_eq(atomic_load(&gone_when_drained), 2 * MANY);
}

static void destroy_drain(const rctx *ctx, void *arg) {
  (void)ctx;
  (void)arg;
  rctx_drain_destroy(drain);
  drain = NULL;
}

Test(drain, the_drain_can_be_destroyed_in_the_callback_of_drained) {
  struct rctx_after node = {0};
  rctx_loop *loop;
  cr_assert_eq(rctx_loop_create(&loop), 0);
  cr_assert_eq(rctx_watch(rctx_drain_drained(drain), &node, loop, RCTX_ON_ENDED_QUEUE, destroy_drain, NULL),
               RCTX_REGISTERED);
  rctx *r = rctx_drain_request(drain, counted());
  rctx_drain_raise(drain, RCTX_DRAIN_STOP);
  rctx_end(r);
  while (rctx_loop_drain(loop, 1) == 0) sched_yield();
  cr_assert_null(drain);
  rctx_loop_destroy(loop);
}

Test(drain, the_drain_can_be_destroyed_in_an_inline_callback_of_drained) {
  struct rctx_after node = {0};
  cr_assert_eq(rctx_after_inline(rctx_drain_drained(drain), &node, RCTX_ON_ENDED_TELL, destroy_drain, NULL),
               RCTX_REGISTERED);
  rctx *r = rctx_drain_request(drain, counted());
  rctx_drain_raise(drain, RCTX_DRAIN_STOP);
  rctx_end(r);
  cr_assert_eq(rctx_quiesce(rctx_manager_default(), INT64_MAX), 0);
  while (drain) sched_yield();
}

// ---- tasks -----------------------------------------------------------------------------------------------------------

static sem_t task_runs, task_may_end;

static int orphaned_task(const rctx *ctx, void *arg) {
  (void)arg;
  sem_post(&task_runs);
  while (sem_wait(&task_may_end) != 0) {
  }
  cr_assert_neq(rctx_err(ctx), 0, "its context can be read to the last");
  return 0;
}

static void *end_when_it_runs(void *arg) {
  while (sem_wait(&task_runs) != 0) {
  }
  (void)arg;
  rctx_drain_raise(drain, RCTX_DRAIN_CANCEL);
  return NULL;
}

Test(drain, a_task_that_its_caller_left_is_waited_for__DRAIN_2) {
  enum rctx_outcome outcome;
  pthread_t ender;
  sem_init(&task_runs, 0, 0);
  sem_init(&task_may_end, 0, 0);
  rctx *r = rctx_drain_request(drain, counted());
  cr_assert_eq(pthread_create(&ender, NULL, end_when_it_runs, NULL), 0);
  cr_assert_eq(rctx_execute(r, orphaned_task, NULL, NULL, &outcome), -ECANCELED);
  cr_assert_eq(outcome, RCTX_ORPHANED);
  pthread_join(ender, NULL);
  rctx_end(r);
  cr_assert_not(is_drained());
  struct rctx_drain_left left = left_now();
  cr_assert(left.tasks == 1 && left.orphans == 1 && left.contexts >= 1, "tasks %zu, orphans %zu, contexts %zu",
            left.tasks, left.orphans, left.contexts);
  sem_post(&task_may_end);
  gets_drained();
  cr_assert_eq(atomic_load(&gone), 1);
}

// ---- looking ---------------------------------------------------------------------------------------------------------

Test(drain, look_counts_what_exists) {
  nothing_is_left();
  cr_assert_eq(left_now().level, RCTX_DRAIN_OPEN);
  rctx *a = rctx_drain_request(drain, &(struct rctx_spec){.name = "a"});
  rctx *b = rctx_drain_request(drain, NULL);
  rctx *a_value = rctx_with_value(a, &gone_key, NULL);
  rctx *a_timeout = rctx_with_timeout(a_value, 3600 * SECOND);
  rctx *b_detached = rctx_without_cancel(b);
  rctx *b_below = rctx_with_cancel(b_detached);
  struct rctx_drain_left left = left_now();
  cr_assert(left.requests == 2 && left.contexts == 6 && left.live == 6 && left.detached == 2,
            "requests %zu, contexts %zu, live %zu, detached %zu", left.requests, left.contexts, left.live,
            left.detached);
  cr_assert_str_eq(left.example, "a", "the only one with a name");
  cr_assert(left.tasks == 0 && left.orphans == 0);
  rctx_cancel(a);
  left = left_now();
  cr_assert(left.requests == 2 && left.contexts == 6 && left.live == 3, "requests %zu, contexts %zu, live %zu",
            left.requests, left.contexts, left.live);
  rctx_end(a);
  left = left_now();
  cr_assert(left.requests == 2 && left.contexts == 6, "a is kept by what hangs below: %zu, %zu", left.requests,
            left.contexts);
  rctx_drain_raise(drain, RCTX_DRAIN_CANCEL);
  left = left_now();
  cr_assert_eq(left.level, RCTX_DRAIN_CANCEL);
  cr_assert(left.contexts == 6 && left.live == 2, "contexts %zu, live %zu", left.contexts, left.live);
  rctx_end(a_timeout);
  rctx_end(a_value);
  rctx_end(b_below);
  rctx_end(b_detached);
  rctx_end(b);
  gets_drained();
  nothing_is_left();
}

Test(drain, look_counts_thousands_deep_and_wide) {
  enum { MANY = 3000 };
  static rctx *wide[MANY], *deep[MANY];
  for (int i = 0; i < MANY; i++) {
    wide[i] = rctx_drain_request(drain, NULL);
    deep[i] = rctx_with_cancel(i ? deep[i - 1] : wide[0]);
  }
  struct rctx_drain_left left = left_now();
  cr_assert(left.requests == MANY && left.contexts == 2 * MANY && left.live == 2 * MANY, "%zu %zu %zu", left.requests,
            left.contexts, left.live);
  for (int i = MANY; i-- > 0;) {
    rctx_end(deep[i]);
    rctx_end(wide[i]);
  }
  nothing_is_left();
}

// ---- from above ------------------------------------------------------------------------------------------------------

Test(drain, the_parents_end_ends_work_and_accepting) {
  static const struct rctx_cause own = {.code = -ESHUTDOWN, .origin = RCTX_ORIGIN_USER, .text = "above"};
  rctx_drain *below;
  RCTX_SCOPED rctx *parent = rctx_with_cancel(rctx_background());
  cr_assert_eq(rctx_drain_create(parent, "work", &below), 0);
  rctx *r = rctx_drain_request(below, counted());
  cr_assert(rctx_cancel_cause(parent, &own));
  cr_assert_eq(rctx_cause(r), &own);
  cr_assert_eq(rctx_err(rctx_drain_accepting(below)), -ESHUTDOWN);
  rctx *born = rctx_drain_request(below, counted());
  cr_assert_neq(rctx_err(born), 0);
  rctx_end(born);
  rctx_end(r);
  rctx_drain_destroy(below);
}

// [DRAIN-2] makes no exception for a parent that ends.
Test(drain, the_parents_end_alone_is_not_drained__DRAIN_2) {
  rctx_drain *below;
  RCTX_SCOPED rctx *parent = rctx_with_cancel(rctx_background());
  cr_assert_eq(rctx_drain_create(parent, "work", &below), 0);
  rctx *r = rctx_drain_request(below, counted());
  rctx_cancel(parent);
  cr_assert_eq(rctx_err(rctx_drain_drained(below)), 0, "there is work, and nobody is draining");
  rctx_drain_raise(below, RCTX_DRAIN_STOP);
  cr_assert_eq(rctx_err(rctx_drain_drained(below)), 0, "there is work");
  rctx_end(r);
  cr_assert_lt(rctx_wait(rctx_drain_drained(below), INT64_MAX), 0);
  cr_assert_eq(atomic_load(&gone), 1);
  rctx_drain_destroy(below);
}

Test(drain, below_a_parent_that_has_ended) {
  rctx_drain *below;
  RCTX_SCOPED rctx *parent = rctx_with_timeout(rctx_background(), -1);
  cr_assert_eq(rctx_drain_create(parent, "work", &below), 0);
  RCTX_SCOPED rctx *r = rctx_drain_request(below, counted());
  cr_assert_eq(rctx_err(r), -ETIMEDOUT);
  cr_assert(rctx_drain_raise(below, RCTX_DRAIN_STOP));
  rctx_drain_destroy(below);
}

Test(drain, the_parents_deadline_is_inherited) {
  rctx_drain *below;
  int64_t deadline;
  RCTX_SCOPED rctx *parent = rctx_with_deadline(rctx_background(), INT64_MAX - 1);
  cr_assert_eq(rctx_drain_create(parent, "work", &below), 0);
  RCTX_SCOPED rctx *r = rctx_drain_request(below, NULL);
  cr_assert(rctx_deadline(r, &deadline));
  cr_assert_eq(deadline, INT64_MAX - 1);
  rctx_drain_destroy(below);
}

// ---- with a time -----------------------------------------------------------------------------------------------------

static void timed_open(void) {
  fake_open();
  drain_open_on(fake_root());
}

static void timed_close(void) {
  rctx_drain_destroy(drain);
  fake_close();
}

TestSuite(drain_time, .init = timed_open, .fini = timed_close, .timeout = 120);

static void level_is(enum rctx_drain_level level) {
  cr_assert_eq(rctx_drain_level(drain), level, "level %d instead of %d", (int)rctx_drain_level(drain), (int)level);
}

Test(drain_time, raise_at_comes_at_its_time_and_not_before) {
  rctx *r = rctx_drain_request(drain, counted());
  int64_t at = fake_now() + SECOND;
  plan(drain, RCTX_DRAIN_DEADLINE, at);
  level_is(RCTX_DRAIN_OPEN);
  fake_reach(at - 1);
  level_is(RCTX_DRAIN_OPEN);
  cr_assert_eq(rctx_err(r), 0);
  fake_pass(at);
  level_is(RCTX_DRAIN_DEADLINE);
  ended_by_shutdown(r, -ETIMEDOUT, "shutdown deadline");
  cr_assert_neq(rctx_err(rctx_drain_accepting(drain)), 0);
  cr_assert_not(is_drained());
  rctx_end(r);
  gets_drained();
}

Test(drain_time, now_or_earlier_is_at_once) {
  plan(drain, RCTX_DRAIN_STOP, fake_now());
  level_is(RCTX_DRAIN_STOP);
  plan(drain, RCTX_DRAIN_DEADLINE, INT64_MIN);
  level_is(RCTX_DRAIN_DEADLINE);
  plan(drain, RCTX_DRAIN_CANCEL, 0);
  level_is(RCTX_DRAIN_CANCEL);
}

Test(drain_time, a_plan_of_three_times_in_any_order) {
  static const unsigned char orders[6][3] = {{1, 2, 3}, {1, 3, 2}, {2, 1, 3}, {2, 3, 1}, {3, 1, 2}, {3, 2, 1}};
  for (int o = 0; o < 6; o++) {
    rctx_drain *d;
    int64_t start = fake_now();
    cr_assert_eq(rctx_drain_create(fake_root(), "work", &d), 0);
    for (int i = 0; i < 3; i++) plan(d, (enum rctx_drain_level)orders[o][i], start + orders[o][i] * SECOND);
    for (int level = 1; level <= 3; level++) {
      fake_reach(start + level * SECOND - 1);
      cr_assert_eq((int)rctx_drain_level(d), level - 1);
      fake_pass(start + level * SECOND);
      cr_assert_eq((int)rctx_drain_level(d), level);
    }
    rctx_drain_destroy(d);
  }
}

Test(drain_time, the_earlier_of_two_times_wins) {
  int64_t start = fake_now();
  plan(drain, RCTX_DRAIN_STOP, start + 10 * SECOND);
  plan(drain, RCTX_DRAIN_STOP, start + 20 * SECOND); // later: nothing
  plan(drain, RCTX_DRAIN_STOP, INT64_MAX);
  fake_reach(start + 10 * SECOND - 1);
  level_is(RCTX_DRAIN_OPEN);
  fake_pass(start + 10 * SECOND);
  level_is(RCTX_DRAIN_STOP);
  plan(drain, RCTX_DRAIN_CANCEL, start + 100 * SECOND);
  plan(drain, RCTX_DRAIN_CANCEL, start + 30 * SECOND);
  plan(drain, RCTX_DRAIN_CANCEL, start + 50 * SECOND);
  fake_pass(start + 30 * SECOND);
  level_is(RCTX_DRAIN_CANCEL);
}

Test(drain_time, a_higher_level_that_comes_first_overtakes) {
  int64_t start = fake_now();
  plan(drain, RCTX_DRAIN_STOP, start + 50 * SECOND);
  plan(drain, RCTX_DRAIN_CANCEL, start + 10 * SECOND);
  fake_pass(start + 10 * SECOND);
  level_is(RCTX_DRAIN_CANCEL);
  fake_pass(start + 60 * SECOND);
  level_is(RCTX_DRAIN_CANCEL);
}

Test(drain_time, by_hand_before_its_time) {
  int64_t start = fake_now();
  rctx *r = rctx_drain_request(drain, counted());
  plan(drain, RCTX_DRAIN_DEADLINE, start + 10 * SECOND);
  cr_assert(rctx_drain_raise(drain, RCTX_DRAIN_CANCEL));
  ended_by_shutdown(r, -ECANCELED, "shutdown");
  fake_pass(start + 10 * SECOND);
  level_is(RCTX_DRAIN_CANCEL);
  ended_by_shutdown(r, -ECANCELED, "shutdown");
  rctx_end(r);
  gets_drained();
}

Test(drain_time, for_open_or_a_level_that_is_none_there_is_nothing_to_raise) {
  int rc = rctx_drain_raise_at(drain, RCTX_DRAIN_OPEN, fake_now());
  cr_assert(rc == 0 || rc == -EINVAL, "%d", rc);
  cr_assert_eq(rctx_drain_raise_at(drain, (enum rctx_drain_level)4, fake_now()), -EINVAL);
  cr_assert_eq(rctx_drain_raise_at(drain, (enum rctx_drain_level) - 1, fake_now()), -EINVAL);
  fake_go(SECOND);
  level_is(RCTX_DRAIN_OPEN);
  cr_assert_eq(rctx_err(rctx_drain_accepting(drain)), 0);
}

Test(drain_time, destroyed_before_its_time_nothing_comes) {
  rctx_drain *d;
  cr_assert_eq(rctx_drain_create(fake_root(), "work", &d), 0);
  for (int level = 1; level <= 3; level++) plan(d, (enum rctx_drain_level)level, fake_now() + level * SECOND);
  rctx_drain_destroy(d);
  cr_assert_eq(fake_stats().timers, 0, "%zu timers", fake_stats().timers);
  fake_go(10 * SECOND);
}

// ---- the whole shutdown ----------------------------------------------------------------------------------------------

Test(drain, run_returns_at_once_when_there_is_nothing) {
  struct rctx_drain_left left;
  memset(&left, 0xff, sizeof left);
  struct rctx_drain_plan times = {.grace_ns = 3600 * SECOND, .give_up_ns = 3600 * SECOND};
  cr_assert_eq(rctx_drain_run(drain, &times, &left), 0);
  cr_assert_eq(left.level, RCTX_DRAIN_STOP, "no higher than needed: %d", (int)left.level);
  cr_assert(left.requests == 0 && left.contexts == 0 && left.live == 0 && left.tasks == 0);
  cr_assert(is_drained());
}

static void *end_soon(void *arg) {
  usleep(20000);
  rctx_end(arg);
  return NULL;
}

Test(drain, run_returns_as_soon_as_the_last_is_gone) {
  pthread_t thread;
  rctx *r = rctx_drain_request(drain, counted());
  struct rctx_drain_plan times = {.grace_ns = 3600 * SECOND, .give_up_ns = 3600 * SECOND};
  cr_assert_eq(pthread_create(&thread, NULL, end_soon, r), 0);
  cr_assert_eq(rctx_drain_run(drain, &times, NULL), 0);
  cr_assert_eq(atomic_load(&gone), 1);
  cr_assert_eq(rctx_drain_level(drain), RCTX_DRAIN_STOP);
  pthread_join(thread, NULL);
}

struct obeys {
  rctx *ctx;
  int err;
  int64_t ended_ns;
};

static void *end_when_told(void *arg) {
  struct obeys *o = arg;
  o->err = rctx_wait(o->ctx, INT64_MAX);
  o->ended_ns = rctx_now();
  rctx_end(o->ctx);
  return NULL;
}

Test(drain, run_raises_to_deadline_after_the_grace_and_not_before) {
  pthread_t thread;
  struct obeys o = {.ctx = rctx_drain_request(drain, counted())};
  struct rctx_drain_plan times = {.grace_ns = 50 * MS, .give_up_ns = 3600 * SECOND};
  cr_assert_eq(pthread_create(&thread, NULL, end_when_told, &o), 0);
  int64_t start = rctx_now();
  cr_assert_eq(rctx_drain_run(drain, &times, NULL), 0);
  pthread_join(thread, NULL);
  cr_assert_eq(o.err, -ETIMEDOUT);
  cr_assert_geq(o.ended_ns - start, 50 * MS);
  cr_assert_eq(rctx_drain_level(drain), RCTX_DRAIN_DEADLINE, "no higher than needed");
}

Test(drain, run_without_grace_ends_work_at_once) {
  pthread_t thread;
  struct obeys o = {.ctx = rctx_drain_request(drain, counted())};
  struct rctx_drain_plan times = {.grace_ns = 0, .give_up_ns = 3600 * SECOND};
  cr_assert_eq(pthread_create(&thread, NULL, end_when_told, &o), 0);
  cr_assert_eq(rctx_drain_run(drain, &times, NULL), 0);
  pthread_join(thread, NULL);
  cr_assert_eq(o.err, -ETIMEDOUT);
}

Test(drain, run_refuses_negative_times_and_changes_nothing) {
  cr_assert_eq(rctx_drain_run(drain, &(struct rctx_drain_plan){.grace_ns = -1, .give_up_ns = SECOND}, NULL), -EINVAL);
  cr_assert_eq(rctx_drain_run(drain, &(struct rctx_drain_plan){.give_up_ns = INT64_MIN}, NULL), -EINVAL);
  cr_assert_eq(rctx_drain_level(drain), RCTX_DRAIN_OPEN);
}

static void *run_patiently(void *arg) {
  struct rctx_drain_plan times = {.grace_ns = 3600 * SECOND, .give_up_ns = 3600 * SECOND};
  return rctx_drain_run(drain, &times, NULL) == 0 ? arg : drain;
}

static void *cancel_soon(void *arg) {
  usleep(20000);
  cr_assert(rctx_drain_raise(arg, RCTX_DRAIN_CANCEL));
  return NULL;
}

Test(drain, another_thread_raises_while_run_waits) {
  pthread_t thread, obeyer;
  struct obeys o = {.ctx = rctx_drain_request(drain, counted())};
  struct rctx_drain_plan times = {.grace_ns = 3600 * SECOND, .give_up_ns = 3600 * SECOND};
  struct rctx_drain_left left;
  cr_assert_eq(pthread_create(&obeyer, NULL, end_when_told, &o), 0);
  cr_assert_eq(pthread_create(&thread, NULL, cancel_soon, drain), 0);
  cr_assert_eq(rctx_drain_run(drain, &times, &left), 0);
  pthread_join(thread, NULL);
  pthread_join(obeyer, NULL);
  cr_assert_eq(o.err, -ECANCELED, "%d", o.err);
  cr_assert_eq(left.level, RCTX_DRAIN_CANCEL);
}

Test(drain, run_from_several_threads_at_once) {
  pthread_t threads[3];
  void *rc[3];
  rctx *r = rctx_drain_request(drain, counted());
  for (int i = 0; i < 3; i++) cr_assert_eq(pthread_create(&threads[i], NULL, run_patiently, NULL), 0);
  while (rctx_drain_level(drain) == RCTX_DRAIN_OPEN) sched_yield();
  rctx_end(r);
  for (int i = 0; i < 3; i++) {
    pthread_join(threads[i], &rc[i]);
    cr_assert_null(rc[i]);
  }
}

Test(drain, run_gives_up_and_says_what_is_left) {
  struct rctx_drain_left left;
  rctx *stubborn = rctx_drain_request(drain, counted());
  rctx *detached = rctx_without_cancel(stubborn);
  struct rctx_drain_plan times = {.grace_ns = 5 * MS, .give_up_ns = 30 * MS};
  int64_t start = rctx_now();
  cr_assert_eq(rctx_drain_run(drain, &times, &left), -ETIMEDOUT);
  cr_assert_geq(rctx_now() - start, 30 * MS);
  cr_assert_eq(left.level, RCTX_DRAIN_DEADLINE, "%d", (int)left.level);
  cr_assert(left.requests == 1 && left.contexts == 2 && left.live == 1 && left.detached == 1, "%zu %zu %zu %zu",
            left.requests, left.contexts, left.live, left.detached);
  cr_assert_str_eq(left.example, "counted");
  cr_assert_not(is_drained());
  rctx_end(detached);
  rctx_end(stubborn);
  gets_drained();
  memset(&left, 0xff, sizeof left);
  cr_assert_eq(rctx_drain_run(drain, &times, &left), 0, "again: it is drained now");
  cr_assert(left.contexts == 0 && left.requests == 0);
}

Test(drain, run_with_no_time_at_all) {
  rctx *r = rctx_drain_request(drain, counted());
  struct rctx_drain_plan times = {0};
  cr_assert_eq(rctx_drain_run(drain, &times, NULL), -ETIMEDOUT);
  cr_assert_neq(rctx_err(r), 0);
  rctx_end(r);
  gets_drained();
  cr_assert_eq(rctx_drain_run(drain, &times, NULL), 0);
}

Test(drain, run_with_times_beyond_all_measure) {
  struct rctx_drain_plan times = {.grace_ns = INT64_MAX, .give_up_ns = INT64_MAX};
  pthread_t thread;
  cr_assert_eq(pthread_create(&thread, NULL, end_soon, rctx_drain_request(drain, counted())), 0);
  cr_assert_eq(rctx_drain_run(drain, &times, NULL), 0);
  pthread_join(thread, NULL);
  cr_assert_eq(rctx_drain_level(drain), RCTX_DRAIN_STOP, "sums saturate");
}

// ---- destroying ------------------------------------------------------------------------------------------------------

Test(drain, destroyed_with_work_left) {
  rctx_drain *d;
  cr_assert_eq(rctx_drain_create(rctx_background(), "work", &d), 0);
  rctx *live = rctx_drain_request(d, counted());
  rctx *below = rctx_with_cancel(live);
  rctx *detached = rctx_without_cancel(live);
  rctx_drain_destroy(d);
  cr_assert_neq(rctx_err(live), 0, "cancelled");
  cr_assert_neq(rctx_err(below), 0);
  cr_assert_eq(rctx_err(detached), 0);
  cr_assert_not_null(rctx_cause(live));
  cr_assert_str_eq(rctx_name(live), "counted");
  RCTX_SCOPED rctx *late = rctx_with_cancel(detached);
  cr_assert_eq(rctx_err(late), 0);
  rctx_end(detached);
  rctx_end(live);
  rctx_end(below);
}

Test(drain, destroyed_while_draining) {
  for (int level = 1; level <= 3; level++) {
    rctx_drain *d;
    cr_assert_eq(rctx_drain_create(rctx_background(), "work", &d), 0);
    rctx *r = rctx_drain_request(d, counted());
    rctx_drain_raise(d, (enum rctx_drain_level)level);
    rctx_drain_destroy(d);
    cr_assert_neq(rctx_err(r), 0);
    rctx_end(r);
  }
  cr_assert_eq(rctx_quiesce(rctx_manager_default(), INT64_MAX), 0);
  cr_assert_eq(atomic_load(&gone), 3);
}

Test(drain, destroying_null_does_nothing) { rctx_drain_destroy(NULL); }

Test(drain, a_registration_on_drained_is_told_of_the_destruction) {
  struct rctx_after node = {0};
  rctx_drain *d;
  atomic_int calls = 0;
  cr_assert_eq(rctx_drain_create(rctx_background(), "work", &d), 0);
  cr_assert_eq(rctx_after_inline(rctx_drain_accepting(d), &node, RCTX_ON_ENDED_TELL, count, &calls), RCTX_REGISTERED);
  rctx_drain_destroy(d);
  cr_assert_eq(atomic_load(&calls), 1, "accepting was live and has been cancelled");
  cr_assert_not(rctx_after_stop(&node));
}

Test(drain, many_at_once_are_independent) {
  enum { DRAINS = 50 };
  rctx_drain *d[DRAINS];
  rctx *r[DRAINS];
  for (int i = 0; i < DRAINS; i++) {
    cr_assert_eq(rctx_drain_create(rctx_background(), "work", &d[i]), 0);
    r[i] = rctx_drain_request(d[i], counted());
  }
  for (int i = 0; i < DRAINS; i += 2) rctx_drain_raise(d[i], RCTX_DRAIN_CANCEL);
  for (int i = 0; i < DRAINS; i++) cr_assert_eq(rctx_err(r[i]) != 0, i % 2 == 0);
  for (int i = 0; i < DRAINS; i++) {
    rctx_end(r[i]);
    cr_assert_eq(rctx_err(rctx_drain_drained(d[i])) != 0, i % 2 == 0);
    rctx_drain_destroy(d[i]);
  }
}

Test(drain, one_inside_anothers_work) {
  rctx_drain *inner;
  rctx *session = rctx_drain_request(drain, counted());
  cr_assert_eq(rctx_drain_create(session, "inner", &inner), 0);
  rctx *r = rctx_drain_request(inner, counted());
  rctx_end(session);
  rctx_drain_raise(drain, RCTX_DRAIN_DEADLINE);
  cr_assert_neq(rctx_err(r), 0);
  rctx_end(r);
  cr_assert_not(is_drained(), "the inner drain is work of the outer one");
  rctx_drain_destroy(inner);
  gets_drained();
}

// ---- memory ----------------------------------------------------------------------------------------------------------

Test(drain, out_of_memory_when_it_is_made) {
  for (int variant = 0; variant < 2; variant++) {
    for (int64_t n = 1;; n++) {
      counting_open(variant);
      rctx_drain *d = (rctx_drain *)&counting;
      counting_fail_at(n);
      int rc = rctx_drain_create(counting_root(), "work", &d);
      bool refused = counting_fail_at(0);
      if (rc == 0) {
        rctx_drain_raise(d, RCTX_DRAIN_STOP);
        rctx_drain_destroy(d);
      } else {
        cr_assert_eq(rc, -ENOMEM);
        cr_assert_eq(d, (rctx_drain *)&counting, "written only on success");
      }
      counting_close();
      if (!refused) break;
      cr_assert_eq(rc, -ENOMEM, "request %d was refused", (int)n);
    }
  }
}

Test(drain, without_memory_it_still_drains) {
  rctx_drain *d;
  counting_open(true);
  cr_assert_eq(rctx_drain_create(counting_root(), "work", &d), 0);
  rctx *r = rctx_drain_request(d, counted());
  atomic_store(&counting.fail_on, true);
  atomic_store(&counting.fail_at, 1); // from now on nothing is to be had
  rctx *none = rctx_drain_request(d, counted());
  cr_assert_eq(rctx_err(none), -ENOMEM);
  rctx_end(none);
  cr_assert_eq(atomic_load(&gone), 1, "the value that could not be kept");
  int planned = rctx_drain_raise_at(d, RCTX_DRAIN_CANCEL, rctx_now() + 3600 * SECOND);
  cr_assert(planned == 0 || planned == -ENOMEM, "%d", planned);
  cr_assert(rctx_drain_raise(d, RCTX_DRAIN_STOP));
  rctx *refused = rctx_drain_request(d, counted());
  cr_assert_neq(rctx_err(refused), 0);
  rctx_end(refused);
  cr_assert_eq(atomic_load(&gone), 2);
  cr_assert(rctx_drain_raise(d, RCTX_DRAIN_DEADLINE));
  cr_assert(rctx_drain_raise(d, RCTX_DRAIN_CANCEL));
  cr_assert_eq(rctx_err(r), -ETIMEDOUT);
  rctx_end(r);
  cr_assert_lt(rctx_wait(rctx_drain_drained(d), INT64_MAX), 0);
  rctx_drain_destroy(d);
  counting_close();
  cr_assert_eq(atomic_load(&gone), 3);
}

Test(drain, everything_is_given_back) {
  counting_open(true);
  for (int i = 0; i < 10; i++) {
    rctx_drain *d;
    cr_assert_eq(rctx_drain_create(counting_root(), "work", &d), 0);
    rctx *r = rctx_drain_request(d, counted());
    if (i % 2) plan(d, RCTX_DRAIN_CANCEL, INT64_MAX - 1);
    if (i % 3) rctx_drain_raise(d, RCTX_DRAIN_STOP);
    if (i % 5) rctx_end(r);
    rctx_drain_destroy(d);
    if (i % 5 == 0) rctx_end(r);
  }
  counting_close();
}
