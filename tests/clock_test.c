// The virtual clock of testing.h: it goes from event to event, and by itself when all threads are blocked. kit_test.c has the basics.
#include "support/check.h"
#include "support/leftovers.h"
#include "support/watchdog.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <rctx/testing.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#define MS INT64_C(1000000)
#define SECOND (1000 * MS)
#define HOUR (3600 * SECOND)
#define PATIENCE (60 * SECOND)

static rctx_test_clock *clk;

static void kit_open(void) {
  watchdog(60);
  if (rctx_test_clock_create(1000 * SECOND, &clk) != 0) abort();
}

static void kit_close(void) {
  nothing_left(rctx_test_clock_manager(clk));
  nothing_left(rctx_manager_default());
  if (rctx_test_clock_destroy(clk) != 0) abort();
}

TestSuite(clock, .init = kit_open, .fini = kit_close, .timeout = 120);

static const rctx *root(void) { return rctx_test_clock_background(clk); }
static int64_t now(void) { return rctx_test_clock_now(clk); }

// ---- the clock -------------------------------------------------------------------------------------------------------

Test(clock, it_begins_where_it_is_told_and_stands_still) {
  rctx_test_clock *other;
  cr_assert_eq(now(), 1000 * SECOND);
  cr_assert_eq(rctx_now_of(root()), now());
  cr_assert_eq(rctx_manager_now(rctx_test_clock_manager(clk)), now());
  cr_assert_eq(rctx_test_clock_create_with(&(struct rctx_manager_options){.tick_ns = 100000}, 77, &other), 0);
  cr_assert_eq(rctx_test_clock_now(other), 77);
  cr_assert_eq(rctx_test_clock_of(rctx_test_clock_manager(other)), other);
  cr_assert_eq(rctx_test_clock_destroy(other), 0);
  cr_assert_null(rctx_test_clock_of(rctx_manager_default()));
}

static int64_t some_clock(void *arg) {
  (void)arg;
  return 1;
}

Test(clock, options_with_a_clock_are_refused) {
  rctx_test_clock *other;
  cr_assert_eq(rctx_test_clock_create_with(&(struct rctx_manager_options){.now = some_clock}, 0, &other), -EINVAL);
  cr_assert_eq(rctx_test_clock_create_with(&(struct rctx_manager_options){.tick_ns = 1}, 0, &other), -EINVAL);
}

Test(clock, an_hour_passes_at_once__CLOCK_2) {
  RCTX_SCOPED rctx *request = rctx_with_timeout(root(), HOUR);
  RCTX_SCOPED rctx *below = rctx_with_cancel(request);
  cr_assert_eq(rctx_test_clock_advance(clk, HOUR - MS), 0);
  cr_assert_eq(rctx_err(request), 0);
  cr_assert_eq(rctx_remaining(request), MS);
  cr_assert_eq(rctx_test_clock_advance(clk, MS), 1, "one deadline, whatever is below it");
  cr_assert_eq(rctx_err(request), -ETIMEDOUT);
  cr_assert_eq(rctx_err(below), -ETIMEDOUT);
  cr_assert_eq(now(), 1000 * SECOND + HOUR);
}

Test(clock, a_negative_advance_is_nothing) {
  RCTX_SCOPED rctx *request = rctx_with_timeout(root(), MS);
  cr_assert_eq(rctx_test_clock_advance(clk, -MS), 0);
  cr_assert_eq(now(), 1000 * SECOND);
  cr_assert_eq(rctx_err(request), 0);
}

Test(clock, set_moves_it_and_nothing_ends) {
  RCTX_SCOPED rctx *request = rctx_with_timeout(root(), MS);
  rctx_test_clock_set(clk, now() + HOUR);
  cr_assert_eq(rctx_err(request), 0);
  cr_assert_eq(rctx_test_clock_advance(clk, 0), 1);
  cr_assert_eq(rctx_err(request), -ETIMEDOUT);
  rctx_test_clock_set(clk, 5);
  cr_assert_eq(now(), 5);
}

Test(clock, destroying_it_while_a_context_is_left_says_so) {
  rctx_test_clock *other;
  cr_assert_eq(rctx_test_clock_create(0, &other), 0);
  rctx *left = rctx_with_cancel(rctx_test_clock_background(other));
  cr_assert_eq(rctx_test_clock_destroy(other), -EBUSY);
  rctx_end(left);
  cr_assert_eq(rctx_test_clock_destroy(other), 0);
}

// ---- order -----------------------------------------------------------------------------------------------------------

struct seen {
  struct rctx_after node;
  int64_t at_ns;
  rctx *armed; // by the callback
};

static void note_time(const rctx *ctx, void *arg) {
  (void)ctx;
  ((struct seen *)arg)->at_ns = now();
}

static int64_t order[64];
static unsigned ordered;

static void note_order(const rctx *ctx, void *arg) {
  (void)ctx;
  ((struct seen *)arg)->at_ns = now();
  order[ordered++] = now();
}

Test(clock, each_sees_its_own_time_and_they_come_in_order__CLOCK_1) {
  enum { N = 40 };
  rctx *ctx[N];
  struct seen seen[N] = {0};
  int64_t start = now(), deadline[N];
  for (int i = 0; i < N; i++) {
    int64_t in = ((i * 37) % N + 1) * ((i * 37) % N + 1) * 10 * SECOND; // over several levels of the wheel
    ctx[i] = rctx_with_timeout(root(), in);
    deadline[i] = start + in;
    rctx_after_inline(ctx[i], &seen[i].node, RCTX_ON_ENDED_RUN, note_order, &seen[i]);
  }
  cr_assert_eq(rctx_test_clock_advance(clk, 10 * HOUR), N);
  cr_assert_eq(now(), start + 10 * HOUR);
  for (int i = 0; i < N; i++) {
    cr_assert_eq(seen[i].at_ns, deadline[i]);
    if (i > 0) cr_assert_gt(order[i], order[i - 1]);
    rctx_end(ctx[i]);
  }
}

static void arm_another(const rctx *ctx, void *arg) {
  struct seen *seen = arg;
  note_time(ctx, arg);
  seen[1].armed = rctx_with_timeout(root(), 10 * MS);
  rctx_after_inline(seen[1].armed, &seen[1].node, RCTX_ON_ENDED_RUN, note_order, &seen[1]);
}

Test(clock, what_a_callback_arms_comes_in_its_turn__CLOCK_1) {
  struct seen seen[2] = {0}, later = {0};
  int64_t start = now();
  RCTX_SCOPED rctx *first = rctx_with_timeout(root(), 100 * MS);
  RCTX_SCOPED rctx *last = rctx_with_timeout(root(), 200 * MS);
  rctx_after_inline(first, &seen[0].node, RCTX_ON_ENDED_RUN, arm_another, seen);
  rctx_after_inline(last, &later.node, RCTX_ON_ENDED_RUN, note_order, &later);
  cr_assert_eq(rctx_test_clock_advance(clk, SECOND), 3);
  cr_assert_eq(seen[0].at_ns, start + 100 * MS);
  cr_assert_eq(seen[1].at_ns, start + 110 * MS);
  cr_assert_eq(later.at_ns, start + 200 * MS);
  cr_assert_eq(order[0], start + 110 * MS);
  rctx_end(seen[1].armed);
}

struct job {
  struct rctx_after node[61];
  rctx *ctx[61];
  int64_t at_ns[61];
  int runs;
};

static void arm_job(struct job *job);
static void run_job(const rctx *ctx, void *arg) {
  (void)ctx;
  struct job *job = arg;
  job->at_ns[job->runs++] = now();
  arm_job(job);
}

static void arm_job(struct job *job) {
  job->ctx[job->runs] = rctx_with_timeout(root(), 60 * SECOND);
  rctx_after_inline(job->ctx[job->runs], &job->node[job->runs], RCTX_ON_ENDED_RUN, run_job, job);
}

Test(clock, a_job_that_arms_itself_runs_each_minute_of_an_hour__CLOCK_1) {
  static struct job job;
  int64_t start = now();
  arm_job(&job);
  cr_assert_eq(rctx_test_clock_advance(clk, HOUR), 60);
  cr_assert_eq(job.runs, 60);
  for (int i = 0; i < 60; i++) cr_assert_eq(job.at_ns[i], start + (i + 1) * 60 * SECOND);
  rctx_after_stop(&job.node[60]);
  for (int i = 0; i <= 60; i++) rctx_end(job.ctx[i]);
}

static void move_on(const rctx *ctx, void *arg) {
  note_time(ctx, arg);
  rctx_test_clock_advance(clk, 50 * MS);
}

Test(clock, a_callback_may_move_it) {
  struct seen seen = {0}, inner = {0};
  int64_t start = now();
  RCTX_SCOPED rctx *first = rctx_with_timeout(root(), 10 * MS);
  RCTX_SCOPED rctx *second = rctx_with_timeout(root(), 20 * MS);
  rctx_after_inline(first, &seen.node, RCTX_ON_ENDED_RUN, move_on, &seen);
  rctx_after_inline(second, &inner.node, RCTX_ON_ENDED_RUN, note_time, &inner);
  rctx_test_clock_advance(clk, 30 * MS);
  cr_assert_eq(inner.at_ns, start + 20 * MS);
  cr_assert_eq(now(), start + 60 * MS, "as far as the one in the callback went");
}

Test(clock, a_step_goes_to_the_next_deadline) {
  int64_t start = now();
  RCTX_SCOPED rctx *a = rctx_with_timeout(root(), HOUR);
  RCTX_SCOPED rctx *b = rctx_with_timeout(root(), 2 * HOUR);
  RCTX_SCOPED rctx *c = rctx_with_timeout(root(), 2 * HOUR);
  RCTX_SCOPED rctx *cancelled = rctx_with_timeout(root(), SECOND);
  rctx_cancel(cancelled);
  cr_assert_eq(rctx_test_clock_step(clk), 1);
  cr_assert_eq(now(), start + HOUR);
  cr_assert(rctx_err(a) == -ETIMEDOUT && rctx_err(b) == 0);
  cr_assert_eq(rctx_test_clock_step(clk), 2);
  cr_assert_eq(now(), start + 2 * HOUR);
  cr_assert(rctx_err(b) == -ETIMEDOUT && rctx_err(c) == -ETIMEDOUT);
  cr_assert_eq(rctx_test_clock_step(clk), 0);
  cr_assert_eq(now(), start + 2 * HOUR, "nothing to come: it has not moved");
}

Test(clock, run_goes_to_the_last_event_within_its_limit) {
  int64_t start = now();
  RCTX_SCOPED rctx *a = rctx_with_timeout(root(), HOUR);
  RCTX_SCOPED rctx *b = rctx_with_timeout(root(), 2 * HOUR);
  RCTX_SCOPED rctx *c = rctx_with_timeout(root(), 9 * HOUR);
  cr_assert_eq(rctx_test_clock_run(clk, start + 3 * HOUR), 2);
  cr_assert_eq(now(), start + 2 * HOUR);
  cr_assert(rctx_err(a) != 0 && rctx_err(b) != 0 && rctx_err(c) == 0);
  cr_assert_eq(rctx_test_clock_run(clk, INT64_MAX), 1);
  cr_assert_eq(now(), start + 9 * HOUR);
  cr_assert_eq(rctx_test_clock_run(clk, INT64_MAX), 0);
}

Test(clock, a_deadline_that_was_moved_comes_at_its_new_time) {
  int64_t start = now();
  RCTX_SCOPED rctx *ctx = rctx_derive(root(), &(struct rctx_spec){.timeout_ns = SECOND, .movable = true});
  cr_assert_eq(rctx_move_deadline(ctx, start + HOUR), 0);
  cr_assert_eq(rctx_test_clock_step(clk), 1);
  cr_assert_eq(now(), start + HOUR);
  cr_assert_eq(rctx_err(ctx), -ETIMEDOUT);
}

// ---- code that sleeps ------------------------------------------------------------------------------------------------

// What a user would write: tries until it succeeds or the context ends, 1 s, 2 s, 4 s, .. apart.
struct service {
  int fails; // so many times
  int tries;
};

static int try_service(struct service *service) { return ++service->tries > service->fails ? 0 : -EAGAIN; }

static int retry(const rctx *ctx, struct service *service) {
  int64_t pause = SECOND;
  for (;;) {
    int rc = try_service(service);
    if (rc != -EAGAIN) return rc;
    rc = rctx_sleep(ctx, pause);
    if (rc != 0) return rc;
    pause *= 2;
  }
}

Test(clock, retries_back_off_without_sleeping__CLOCK_3) {
  struct service service = {.fails = 11};
  int64_t start = now();
  RCTX_SCOPED rctx *request = rctx_with_timeout(root(), HOUR);
  rctx_test_clock_auto(clk, 1);
  cr_assert_eq(retry(request, &service), 0);
  cr_assert_eq(service.tries, 12);
  cr_assert_eq(now() - start, 2047 * SECOND);
  cr_assert_eq(rctx_err(request), 0);
}

Test(clock, retries_end_with_the_deadline__CLOCK_3) {
  struct service service = {.fails = 1000};
  int64_t start = now();
  RCTX_SCOPED rctx *request = rctx_with_timeout(root(), HOUR);
  rctx_test_clock_auto(clk, 1);
  cr_assert_eq(retry(request, &service), -ETIMEDOUT);
  cr_assert_eq(service.tries, 12, "the 13th would be after 4095 s");
  cr_assert_eq(now() - start, HOUR, "the sleep ended with the context");
}

static void end_other(const rctx *ctx, void *arg) {
  (void)ctx;
  rctx_cancel(arg);
}

Test(clock, a_sleep_is_ended_by_a_callback_on_the_way) {
  struct rctx_after node = {0};
  int64_t start = now();
  RCTX_SCOPED rctx *sleeper = rctx_with_cancel(root());
  RCTX_SCOPED rctx *timer = rctx_with_timeout(root(), 10 * SECOND);
  rctx_after_inline(timer, &node, RCTX_ON_ENDED_RUN, end_other, sleeper);
  rctx_test_clock_auto(clk, 1);
  cr_assert_eq(rctx_sleep(sleeper, HOUR), -ECANCELED);
  cr_assert_eq(now(), start + 10 * SECOND);
}

static void sleep_in_callback(const rctx *ctx, void *arg) {
  (void)ctx;
  *(int *)arg = rctx_sleep(root(), 5 * SECOND);
}

Test(clock, a_callback_may_sleep_when_time_moves_by_itself) {
  struct rctx_after node = {0};
  int slept = -1;
  int64_t start = now();
  RCTX_SCOPED rctx *timer = rctx_with_timeout(root(), 10 * SECOND);
  rctx_after_inline(timer, &node, RCTX_ON_ENDED_RUN, sleep_in_callback, &slept);
  rctx_test_clock_auto(clk, 1);
  cr_assert_eq(rctx_sleep(root(), 12 * SECOND), 0);
  cr_assert_eq(slept, 0);
  cr_assert_eq(now(), start + 15 * SECOND);
}

Test(clock, a_poll_times_out_and_a_ready_descriptor_does_not_wait) {
  int ends[2];
  int64_t start = now();
  RCTX_SCOPED rctx *request = rctx_with_timeout(root(), HOUR);
  cr_assert_eq(pipe(ends), 0);
  struct pollfd in = {.fd = ends[0], .events = POLLIN};
  rctx_test_clock_auto(clk, 1);
  cr_assert_eq(rctx_poll(request, &in, 1, start + 60 * SECOND), 0);
  cr_assert_eq(now(), start + 60 * SECOND);
  cr_assert_eq(write(ends[1], "x", 1), 1);
  cr_assert_eq(rctx_poll(request, &in, 1, INT64_MAX), 1);
  cr_assert_eq(now(), start + 60 * SECOND, "it was ready: no time passes");
  in.fd = -1;
  cr_assert_eq(rctx_poll(request, &in, 1, INT64_MAX), -ETIMEDOUT);
  cr_assert_eq(now(), start + HOUR);
  close(ends[0]);
  close(ends[1]);
}

// ---- threads ---------------------------------------------------------------------------------------------------------

struct sleeper {
  pthread_t thread;
  const rctx *ctx;
  int64_t each_ns;
  int times;
  int rc;
  _Atomic int64_t woke_ns;
};

static void *sleep_times(void *arg) {
  struct sleeper *s = arg;
  for (int i = 0; i < s->times && s->rc == 0; i++) {
    s->rc = rctx_sleep(s->ctx, s->each_ns);
    atomic_store(&s->woke_ns, now());
  }
  return NULL;
}

static void start_sleeper(struct sleeper *s) { cr_assert_eq(pthread_create(&s->thread, NULL, sleep_times, s), 0); }

Test(clock, a_thread_is_blocked_until_its_time_is_moved_to) {
  struct sleeper s = {.ctx = root(), .each_ns = HOUR, .times = 2};
  int64_t start = now();
  cr_assert_eq(rctx_test_clock_waiters(clk, 1, 0), -ETIMEDOUT);
  start_sleeper(&s);
  cr_assert_eq(rctx_test_clock_waiters(clk, 1, PATIENCE), 0);
  cr_assert_eq(rctx_test_clock_advance(clk, HOUR - MS), 0);
  cr_assert_eq(rctx_test_clock_waiters(clk, 1, 0), 0, "still blocked");
  cr_assert_eq(rctx_test_clock_step(clk), 1);
  cr_assert_eq(now(), start + HOUR);
  cr_assert_eq(rctx_test_clock_waiters(clk, 1, PATIENCE), 0, "it sleeps again: its first sleep does not count");
  cr_assert_eq(atomic_load(&s.woke_ns), start + HOUR);
  cr_assert_eq(rctx_test_clock_advance(clk, HOUR), 1);
  pthread_join(s.thread, NULL);
  cr_assert_eq(s.rc, 0);
  cr_assert_eq(rctx_test_clock_waiters(clk, 1, 0), -ETIMEDOUT);
}

Test(clock, a_blocked_thread_whose_context_ends_does_not_count) {
  RCTX_SCOPED rctx *ctx = rctx_with_cancel(root());
  struct sleeper s = {.ctx = ctx, .each_ns = HOUR, .times = 1};
  start_sleeper(&s);
  cr_assert_eq(rctx_test_clock_waiters(clk, 1, PATIENCE), 0);
  rctx_cancel(ctx);
  cr_assert_eq(rctx_test_clock_waiters(clk, 1, 0), -ETIMEDOUT);
  pthread_join(s.thread, NULL);
  cr_assert_eq(s.rc, -ECANCELED);
}

// Two threads, steps of 3 s and 5 s: each wakes at its own times exactly, since time moves only when both are blocked.
Test(clock, time_moves_by_itself_when_all_threads_are_blocked__CLOCK_3) {
  enum { ROUNDS = 60 };
  int64_t start = now();
  for (int round = 0; round < 3; round++) {
    struct sleeper a = {.ctx = root(), .each_ns = 3 * SECOND, .times = ROUNDS};
    struct sleeper b = {.ctx = root(), .each_ns = 5 * SECOND, .times = ROUNDS};
    start = now();
    rctx_test_clock_auto(clk, 2);
    start_sleeper(&a);
    cr_assert_eq(rctx_test_clock_waiters(clk, 1, PATIENCE), 0);
    cr_assert_eq(now(), start, "one alone does not move it");
    start_sleeper(&b);
    pthread_join(a.thread, NULL);
    cr_assert_eq(atomic_load(&a.woke_ns), start + ROUNDS * 3 * SECOND);
    rctx_test_clock_auto(clk, 1);
    pthread_join(b.thread, NULL);
    cr_assert_eq(atomic_load(&b.woke_ns), start + ROUNDS * 5 * SECOND);
    rctx_test_clock_auto(clk, 0);
  }
}
