// rctx_test_looks(): it finds where code looks, cancels at each look, and tells who stops and who goes on.
//
// This file is compiled as code under test is: with RCTX_COUNT_LOOKS.
#define RCTX_COUNT_LOOKS 1
#include "support/check.h"
#include "support/fake_time.h"
#include "support/leftovers.h"
#include "support/watchdog.h"

#include <poll.h>
#include <rctx/testing.h>

static void looks_open(void) { watchdog(60); }

TestSuite(looks, .init = looks_open, .fini = nothing_left_by_default, .timeout = 120);

// ---- helpers ---------------------------------------------------------------------------------------------------------

struct body {
  unsigned looks;    // how often it looks when undisturbed
  unsigned more;     // looks after the first that told of the end
  int result;        // of an undisturbed run
  int result_at_end; // what it returns when it has seen the end
  bool ignores;      // does not even look at the answer
  unsigned runs, resets;
};

static int run_body(const rctx *ctx, void *arg) {
  struct body *body = arg;
  body->runs++;
  for (unsigned i = 0; i < body->looks; i++) {
    if (rctx_err(ctx) == 0 || body->ignores) continue;
    for (unsigned n = 0; n < body->more; n++) (void)rctx_err(ctx);
    return body->result_at_end;
  }
  return body->result;
}

static void reset(void *arg) { ((struct body *)arg)->resets++; }

static struct rctx_looks sweep(rctx_work_fn fn, void *arg, struct rctx_looks_options options) {
  struct rctx_looks looks;
  memset(&looks, 0xff, sizeof looks);
  cr_assert_eq(rctx_test_looks(fn, arg, &options, &looks), 0);
  return looks;
}

#define NO_OPTIONS                                                                                                     \
  (struct rctx_looks_options) { 0 }

static void are(struct rctx_looks looks, unsigned count, unsigned runs, unsigned stopped, unsigned ignored,
                unsigned first_ignored) {
  cr_assert(looks.looks == count && looks.runs == runs && looks.stopped == stopped && looks.ignored == ignored &&
                looks.first_ignored == first_ignored,
            "looks %u, runs %u, stopped %u, ignored %u, first ignored %u", looks.looks, looks.runs, looks.stopped,
            looks.ignored, looks.first_ignored);
}

// ---- bodies ----------------------------------------------------------------------------------------------------------

Test(looks, a_body_that_stops_at_each_of_its_looks) {
  struct body body = {.looks = 5, .result = 7, .result_at_end = -ECANCELED};
  struct rctx_looks looks = sweep(run_body, &body, (struct rctx_looks_options){.reset = reset});
  are(looks, 5, 5, 5, 0, 0);
  cr_assert_eq(looks.result, 7);
  cr_assert_eq(body.resets, body.runs, "before each run");
  cr_assert_geq(body.runs, 6U);
}

Test(looks, a_body_that_never_looks) {
  struct body body = {.looks = 0, .result = 3};
  struct rctx_looks looks = sweep(run_body, &body, NO_OPTIONS);
  are(looks, 0, 0, 0, 0, 0);
  cr_assert_eq(looks.result, 3);
}

Test(looks, a_body_that_looks_away) {
  struct body body = {.looks = 4, .ignores = true};
  are(sweep(run_body, &body, NO_OPTIONS), 4, 4, 0, 4, 1);
}

Test(looks, a_body_that_stops_and_does_not_say_so) {
  struct body body = {.looks = 3, .result_at_end = 0};
  are(sweep(run_body, &body, NO_OPTIONS), 3, 3, 0, 3, 1);
}

Test(looks, any_error_reports_the_end) {
  struct body body = {.looks = 3, .result_at_end = -EIO};
  are(sweep(run_body, &body, NO_OPTIONS), 3, 3, 3, 0, 0);
}

Test(looks, patience_is_the_looks_that_are_allowed_after_the_cancel) {
  struct body body = {.looks = 3, .more = 1, .result_at_end = -ECANCELED};
  are(sweep(run_body, &body, NO_OPTIONS), 3, 3, 3, 0, 0);
  body.more = 2;
  are(sweep(run_body, &body, NO_OPTIONS), 3, 3, 0, 3, 1);
  are(sweep(run_body, &body, (struct rctx_looks_options){.patience = 2}), 3, 3, 3, 0, 0);
  body.more = 3;
  are(sweep(run_body, &body, (struct rctx_looks_options){.patience = 2}), 3, 3, 0, 3, 1);
  are(sweep(run_body, &body, (struct rctx_looks_options){.patience = 1000}), 3, 3, 3, 0, 0);
}

// Stops at its odd looks only.
static int every_other(const rctx *ctx, void *arg) {
  (void)arg;
  for (int i = 0; i < 3; i++) {
    if (rctx_err(ctx)) return -ECANCELED;
    (void)rctx_err(ctx);
    (void)rctx_err(ctx);
    (void)rctx_err(ctx);
  }
  return 0;
}

Test(looks, the_first_look_whose_answer_is_ignored_is_named) {
  // looks 1, 5, 9 are looked at. After a cancel at 2 there are two more looks before 5 is reached
  struct rctx_looks looks = sweep(every_other, NULL, NO_OPTIONS);
  cr_assert_eq(looks.looks, 12U);
  cr_assert_eq(looks.runs, 12U);
  cr_assert_eq(looks.first_ignored, 2U);
  cr_assert_eq(looks.stopped + looks.ignored, looks.runs);
  cr_assert_eq(looks.stopped, 5U, "1, 5, 9, and 4, 8 within the patience: %u", looks.stopped);
}

Test(looks, it_can_begin_later) {
  struct body body = {.looks = 5, .result_at_end = -ECANCELED};
  are(sweep(run_body, &body, (struct rctx_looks_options){.first = 3}), 5, 3, 3, 0, 0);
  are(sweep(run_body, &body, (struct rctx_looks_options){.first = 5}), 5, 1, 1, 0, 0);
  are(sweep(run_body, &body, (struct rctx_looks_options){.first = 6}), 5, 0, 0, 0, 0);
  body.ignores = true;
  are(sweep(run_body, &body, (struct rctx_looks_options){.first = 3}), 5, 3, 0, 3, 3);
}

Test(looks, runs_are_limited) {
  struct rctx_looks looks;
  struct body body = {.looks = 5, .result = 1, .result_at_end = -ECANCELED};
  cr_assert_eq(rctx_test_looks(run_body, &body, &(struct rctx_looks_options){.runs_max = 2}, &looks), -E2BIG);
  are(looks, 5, 2, 2, 0, 0);
  cr_assert_eq(looks.result, 1);
  body.looks = 1500;
  cr_assert_eq(rctx_test_looks(run_body, &body, &NO_OPTIONS, &looks), -E2BIG);
  are(looks, 1500, 1000, 1000, 0, 0);
  cr_assert_eq(rctx_test_looks(run_body, &body, &(struct rctx_looks_options){.runs_max = 1500}, &looks), 0);
  are(looks, 1500, 1500, 1500, 0, 0);
}

Test(looks, without_options) {
  struct rctx_looks looks;
  struct body body = {.looks = 2, .result_at_end = -ECANCELED};
  cr_assert_eq(rctx_test_looks(run_body, &body, NULL, &looks), 0);
  are(looks, 2, 2, 2, 0, 0);
}

// ---- what the body sees ----------------------------------------------------------------------------------------------

struct seen {
  int answers[8]; // of each look of the last run
  unsigned nth;   // of the run that was cancelled
  unsigned bad;
};

static int note_answers(const rctx *ctx, void *arg) {
  struct seen *seen = arg;
  int before = 0;
  for (unsigned i = 0; i < 8; i++) {
    int now = rctx_err(ctx);
    if (before != 0 && now != before) seen->bad++;
    if (before == 0 && now != 0) {
      if (i != seen->nth || now != -ECANCELED) seen->bad++;
      seen->nth++;
    }
    before = now;
  }
  return before;
}

Test(looks, the_nth_look_already_sees_the_cancel) {
  struct seen seen = {.nth = 0};
  struct rctx_looks looks = sweep(note_answers, &seen, (struct rctx_looks_options){.patience = 100});
  are(looks, 8, 8, 8, 0, 0);
  cr_assert_eq(seen.bad, 0U);
  cr_assert_eq(seen.nth, 8U, "each look once");
}

RCTX_KEY(user, const char *)

static int needs_the_parent(const rctx *ctx, void *arg) {
  const char *who = NULL;
  cr_assert(user_get(ctx, &who));
  cr_assert_str_eq(who, arg);
  cr_assert(rctx_manager_of(ctx) == rctx_manager_of(ctx));
  return rctx_err(ctx);
}

Test(looks, the_bodys_context_is_below_the_given_parent) {
  char name[] = "ann";
  RCTX_SCOPED rctx *parent = user_with(rctx_background(), name);
  are(sweep(needs_the_parent, name, (struct rctx_looks_options){.parent = parent}), 1, 1, 1, 0, 0);
  cr_assert_eq(rctx_err(parent), 0, "it is not what is cancelled");
}

// ---- what counts as a look -------------------------------------------------------------------------------------------

static int by_why(const rctx *ctx, void *arg) {
  struct rctx_why why;
  (void)arg;
  return rctx_why(ctx, &why);
}
static int by_cause(const rctx *ctx, void *arg) {
  (void)arg;
  return rctx_cause(ctx) ? -EIO : 0;
}
static int by_remaining(const rctx *ctx, void *arg) {
  (void)arg;
  return rctx_remaining(ctx) == 0 ? -EIO : 0;
}
static int by_wait(const rctx *ctx, void *arg) {
  (void)arg;
  return rctx_wait(ctx, 0);
}
static int by_sleep(const rctx *ctx, void *arg) {
  (void)arg;
  return rctx_sleep(ctx, 0);
}
static int by_poll(const rctx *ctx, void *arg) {
  (void)arg;
  return rctx_poll(ctx, NULL, 0, 0);
}

Test(looks, each_way_to_be_told_is_a_look) {
  static const struct {
    rctx_work_fn fn;
    const char *name;
  } all[] = {{by_why, "why"},   {by_cause, "cause"}, {by_remaining, "remaining"},
             {by_wait, "wait"}, {by_sleep, "sleep"}, {by_poll, "poll"}};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
    struct rctx_looks looks = sweep(all[i].fn, NULL, NO_OPTIONS);
    cr_assert(looks.looks == 1 && looks.runs == 1 && looks.stopped == 1 && looks.ignored == 0,
              "%s: looks %u, runs %u, stopped %u, ignored %u", all[i].name, looks.looks, looks.runs, looks.stopped,
              looks.ignored);
  }
}

// A wait for a condition: the undisturbed run waits until another thread signals.
struct signalled {
  pthread_mutex_t mutex;
  pthread_cond_t cond;
  bool ready;
};

static void *signal_it(void *arg) {
  struct signalled *s = arg;
  pthread_mutex_lock(&s->mutex);
  s->ready = true;
  pthread_cond_broadcast(&s->cond);
  pthread_mutex_unlock(&s->mutex);
  return NULL;
}

static int wait_for_signal(const rctx *ctx, void *arg) {
  struct signalled *s = arg;
  pthread_t thread;
  int err = 0;
  s->ready = false;
  pthread_mutex_lock(&s->mutex);
  cr_assert_eq(pthread_create(&thread, NULL, signal_it, s), 0);
  while (!s->ready && err == 0) err = rctx_cond_wait(ctx, &s->cond, &s->mutex);
  pthread_mutex_unlock(&s->mutex);
  pthread_join(thread, NULL);
  return err;
}

Test(looks, a_wait_for_a_condition_is_a_look) {
  struct signalled s = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, false};
  struct rctx_looks looks = sweep(wait_for_signal, &s, NO_OPTIONS);
  cr_assert(looks.looks >= 1 && looks.runs >= 1 && looks.stopped == looks.runs, "looks %u, runs %u, stopped %u",
            looks.looks, looks.runs, looks.stopped);
}

// Blocks for ever unless the look itself sees the cancel.
static int block_unless_told(const rctx *ctx, void *arg) {
  unsigned *runs = arg;
  if ((*runs)++ == 0) return rctx_err(ctx); // undisturbed: one look of another kind
  return rctx_wait(ctx, INT64_MAX);
}

Test(looks, a_blocking_look_returns_at_once) {
  unsigned runs = 0;
  struct rctx_looks looks = sweep(block_unless_told, &runs, (struct rctx_looks_options){.runs_max = 1});
  cr_assert_eq(looks.stopped, 1U);
}

static int by_nothing_that_tells(const rctx *ctx, void *arg) {
  int64_t deadline;
  char text[64];
  const char *who;
  (void)arg;
  rctx_deadline(ctx, &deadline);
  rctx_describe(ctx, text, sizeof text);
  (void)rctx_name(ctx);
  (void)rctx_now_of(ctx);
  user_get(ctx, &who);
  rctx_unref(rctx_ref(ctx));
  return 0;
}

Test(looks, what_does_not_tell_is_no_look) { are(sweep(by_nothing_that_tells, NULL, NO_OPTIONS), 0, 0, 0, 0, 0); }

static int logs_only(const rctx *ctx, void *arg) {
  char line[512];
  (void)arg;
  rctx_log_format(line, sizeof line, ctx, RCTX_LOG_INFO, "working");
  return 0;
}

Test(looks, a_log_line_is_no_look) { are(sweep(logs_only, NULL, NO_OPTIONS), 0, 0, 0, 0, 0); }

// ---- where a look is done --------------------------------------------------------------------------------------------

static int look_below(const rctx *ctx, void *arg) {
  RCTX_SCOPED rctx *timed = rctx_with_timeout(ctx, 3600 * SECOND);
  RCTX_SCOPED rctx *deep = user_with(timed, "ann");
  (void)arg;
  int err = rctx_err(deep);
  if (err == 0) err = rctx_err(timed);
  return err ? err : rctx_err(ctx);
}

Test(looks, looks_at_what_was_derived_count) { are(sweep(look_below, NULL, NO_OPTIONS), 3, 3, 3, 0, 0); }

static int look_elsewhere(const rctx *ctx, void *arg) {
  RCTX_SCOPED rctx *other = rctx_with_cancel(rctx_background());
  for (int i = 0; i < 10; i++) {
    if (rctx_err(other) || rctx_err(rctx_background()) || rctx_err(arg)) return 99;
  }
  return rctx_err(ctx);
}

Test(looks, looks_at_other_contexts_do_not_count) {
  RCTX_SCOPED rctx *parent = rctx_with_cancel(rctx_background());
  are(sweep(look_elsewhere, parent, (struct rctx_looks_options){.parent = parent}), 1, 1, 1, 0, 0);
}

static int look_at_detached(const rctx *ctx, void *arg) {
  RCTX_SCOPED rctx *detached = rctx_without_cancel(ctx);
  RCTX_SCOPED rctx *below = rctx_with_cancel(detached);
  (void)arg;
  for (int i = 0; i < 10; i++) {
    if (rctx_err(detached) || rctx_err(below)) return 99;
  }
  return rctx_err(ctx);
}

// They do not end with the body's context: a look at them has nothing to tell, and is none that is ignored.
Test(looks, looks_at_detached_contexts_do_not_count) { are(sweep(look_at_detached, NULL, NO_OPTIONS), 1, 1, 1, 0, 0); }

static void *look_in_thread(void *arg) { return (void *)(intptr_t)rctx_err((const rctx *)arg); }

static int look_on_another_thread(const rctx *ctx, void *arg) {
  union {
    const rctx *in;
    void *out;
  } cast = {ctx};
  (void)arg;
  for (int i = 0; i < 3; i++) {
    pthread_t thread;
    void *result;
    cr_assert_eq(pthread_create(&thread, NULL, look_in_thread, cast.out), 0);
    pthread_join(thread, &result);
    if (result) return (int)(intptr_t)result;
  }
  return 0;
}

Test(looks, looks_on_other_threads_count) { are(sweep(look_on_another_thread, NULL, NO_OPTIONS), 3, 3, 3, 0, 0); }

// ---- refusals --------------------------------------------------------------------------------------------------------

static int nested(const rctx *ctx, void *arg) {
  struct rctx_looks looks;
  struct body body = {.looks = 1};
  *(int *)arg = rctx_test_looks(run_body, &body, NULL, &looks);
  return rctx_err(ctx);
}

Test(looks, one_sweep_at_a_time) {
  int rc = 0;
  are(sweep(nested, &rc, NO_OPTIONS), 1, 1, 1, 0, 0);
  cr_assert_eq(rc, -EBUSY);
  are(sweep(nested, &rc, NO_OPTIONS), 1, 1, 1, 0, 0);
}

static rctx_work_fn volatile no_function;

Test(looks, nothing_to_run) {
  struct rctx_looks looks;
  cr_assert_eq(rctx_test_looks(no_function, NULL, NULL, &looks), -EINVAL);
}

Test(looks, looks_outside_a_sweep_are_only_looks) {
  RCTX_SCOPED rctx *c = rctx_with_cancel(rctx_background());
  for (int i = 0; i < 10; i++) cr_assert_eq(rctx_err(c), 0);
  struct body body = {.looks = 2, .result_at_end = -ECANCELED};
  are(sweep(run_body, &body, NO_OPTIONS), 2, 2, 2, 0, 0);
  for (int i = 0; i < 10; i++) cr_assert_eq(rctx_err(c), 0);
  rctx_cancel(c);
  cr_assert_eq(rctx_err(c), -ECANCELED);
}

// A body whose number of looks differs from run to run ends the sweep all the same.
static int fickle(const rctx *ctx, void *arg) {
  unsigned *runs = arg;
  unsigned looks = (*runs)++ == 0 ? 10 : 4;
  for (unsigned i = 0; i < looks; i++) {
    if (rctx_err(ctx)) return -ECANCELED;
  }
  return 0;
}

Test(looks, a_run_that_does_not_reach_the_look_is_the_last) {
  unsigned runs = 0;
  are(sweep(fickle, &runs, NO_OPTIONS), 10, 4, 4, 0, 0);
}
