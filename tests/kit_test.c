// The virtual clock and the memory that fails of rctx/testing.h, used as their users do.
#include "support/check.h"
#include "support/leftovers.h"
#include "support/watchdog.h"

#include <pthread.h>
#include <rctx/rctx.h>
#include <rctx/testing.h>
#include <stdatomic.h>
#include <string.h>

#define MS INT64_C(1000000)
#define SECOND INT64_C(1000000000)
#define HOUR (3600 * SECOND)

static rctx_test_clock *virtual_clock;

static void open_clock(void) {
  if (rctx_test_clock_create(17 * SECOND + 1, &virtual_clock) != 0) abort();
}
static void close_clock(void) {
  nothing_left(rctx_test_clock_manager(virtual_clock));
  if (rctx_test_clock_destroy(virtual_clock) != 0) abort();
}
TestSuite(kit, .init = open_clock, .fini = close_clock, .timeout = 120);

static const rctx *root(void) { return rctx_test_clock_background(virtual_clock); }
static int64_t now(void) { return rctx_test_clock_now(virtual_clock); }

// ---- virtual time ----------------------------------------------------------------------------------------------------

Test(kit, an_hour_passes_at_once) {
  RCTX_SCOPED rctx *c = rctx_with_timeout(root(), HOUR);
  cr_assert_eq(rctx_test_clock_advance(virtual_clock, HOUR - 2 * MS), 0);
  cr_assert_eq(rctx_err(c), 0, "never early");
  cr_assert_eq(rctx_test_clock_advance(virtual_clock, 3 * MS), 1);
  cr_assert_eq(rctx_err(c), -ETIMEDOUT);
  cr_assert_eq(now(), 17 * SECOND + 1 + HOUR + MS);
}

Test(kit, no_time_and_negative_time_change_nothing) {
  RCTX_SCOPED rctx *c = rctx_with_timeout(root(), MS);
  cr_assert_eq(rctx_test_clock_advance(virtual_clock, 0), 0);
  cr_assert_eq(rctx_test_clock_advance(virtual_clock, -5), 0);
  cr_assert_eq(now(), 17 * SECOND + 1);
  cr_assert_eq(rctx_err(c), 0);
}

struct note {
  int64_t at_ns[8];
  int count;
  rctx *later;
  struct rctx_after after;
};

static void note_time(const rctx *ctx, void *arg) {
  struct note *note = arg;
  (void)ctx;
  note->at_ns[note->count++] = now();
}

Test(kit, callbacks_run_in_the_order_of_time_and_see_their_own) {
  struct note note = {.count = 0};
  struct rctx_after after[3];
  rctx *c[3];
  int64_t start = now();
  memset(after, 0, sizeof after);
  for (int i = 0; i < 3; i++) {
    c[i] = rctx_with_timeout(root(), (3 - i) * 10 * SECOND);
    rctx_after_inline(c[i], &after[i], RCTX_ON_ENDED_TELL, note_time, &note);
  }
  cr_assert_eq(rctx_test_clock_advance(virtual_clock, HOUR), 3);
  cr_assert_eq(note.count, 3);
  for (int i = 0; i < 3; i++) {
    cr_assert_geq(note.at_ns[i], start + (i + 1) * 10 * SECOND);
    cr_assert_leq(note.at_ns[i], start + (i + 1) * 10 * SECOND + MS);
    rctx_end(c[i]);
  }
  cr_assert_eq(now(), start + HOUR);
}

static void arm_another(const rctx *ctx, void *arg) {
  struct note *note = arg;
  (void)ctx;
  note->later = rctx_with_timeout(root(), 5 * SECOND);
  rctx_after_inline(note->later, &note->after, RCTX_ON_ENDED_TELL, note_time, note);
}

Test(kit, what_a_callback_arms_within_the_interval_comes_due_within_it) {
  struct note note = {.count = 0};
  struct rctx_after after = {0};
  int64_t start = now();
  rctx *c = rctx_with_timeout(root(), 10 * SECOND);
  rctx_after_inline(c, &after, RCTX_ON_ENDED_TELL, arm_another, &note);
  cr_assert_eq(rctx_test_clock_advance(virtual_clock, 20 * SECOND), 2);
  cr_assert_eq(note.count, 1);
  cr_assert_geq(note.at_ns[0], start + 15 * SECOND);
  cr_assert_leq(note.at_ns[0], start + 15 * SECOND + 2 * MS);
  rctx_end(c);
  rctx_end(note.later);
}

Test(kit, step_goes_to_the_next_deadline_whatever_its_distance) {
  static const int64_t distances[] = {MS, 70 * MS, 5 * SECOND, 300 * SECOND, 24 * HOUR, 1000 * 24 * HOUR};
  enum { MANY = sizeof distances / sizeof *distances };
  rctx *c[MANY];
  int64_t start = now();
  for (int i = 0; i < MANY; i++) c[i] = rctx_with_timeout(root(), distances[i]);
  for (int i = 0; i < MANY; i++) {
    cr_assert_eq(rctx_test_clock_step(virtual_clock), 1);
    cr_assert_eq(rctx_err(c[i]), -ETIMEDOUT);
    cr_assert_geq(now(), start + distances[i]);
    cr_assert_leq(now(), start + distances[i] + MS);
  }
  cr_assert_eq(rctx_test_clock_step(virtual_clock), 0, "none is armed");
  for (int i = 0; i < MANY; i++) rctx_end(c[i]);
}

static void *wait_for_it(void *arg) { return (void *)(intptr_t)rctx_wait(arg, INT64_MAX); }
static void *sleep_an_hour(void *arg) { return (void *)(intptr_t)rctx_sleep(arg, HOUR); }

Test(kit, threads_that_are_blocked_notice) {
  pthread_t waiter, sleeper;
  void *result;
  watchdog(60);
  RCTX_SCOPED rctx *timed = rctx_with_timeout(root(), HOUR / 2);
  RCTX_SCOPED rctx *plain = rctx_with_cancel(root());
  cr_assert_eq(pthread_create(&waiter, NULL, wait_for_it, timed), 0);
  cr_assert_eq(pthread_create(&sleeper, NULL, sleep_an_hour, plain), 0);
  cr_assert_eq(rctx_test_clock_waiters(virtual_clock, 2, 60 * SECOND), 0, "else the sleeper's hour may begin too late");
  rctx_test_clock_advance(virtual_clock, HOUR / 2 + MS);
  pthread_join(waiter, &result);
  cr_assert_eq((intptr_t)result, -ETIMEDOUT);
  rctx_test_clock_advance(virtual_clock, HOUR / 2);
  pthread_join(sleeper, &result);
  cr_assert_eq((intptr_t)result, 0);
}

Test(kit, a_clock_with_contexts_is_not_destroyed) {
  rctx *c = rctx_with_cancel(root());
  cr_assert_eq(rctx_test_clock_destroy(virtual_clock), -EBUSY);
  cr_assert_eq(rctx_manager_of(c), rctx_test_clock_manager(virtual_clock));
  rctx_end(c);
}

Test(kit, time_does_not_begin_before_0) {
  rctx_test_clock *none = NULL;
  cr_assert_eq(rctx_test_clock_create(-1, &none), -EINVAL);
  cr_assert_null(none);
}

// What it is for: a retry with backoff, over more than an hour of virtual time.
static int tries;
static int attempt_until(const rctx *ctx, int64_t backoff_ns) {
  for (tries = 1; rctx_err(ctx) == 0; tries++) {
    RCTX_SCOPED rctx *pause = rctx_with_timeout(ctx, backoff_ns);
    while (rctx_err(pause) == 0) rctx_test_clock_step(virtual_clock);
    backoff_ns *= 2;
  }
  return rctx_err(ctx);
}

Test(kit, a_retry_with_backoff_gives_up_when_its_time_is_over) {
  RCTX_SCOPED rctx *request = rctx_with_timeout(root(), HOUR);
  cr_assert_eq(attempt_until(request, SECOND), -ETIMEDOUT);
  cr_assert_eq(tries, 13, "1 + 2 + 4 + .. + 2048 s are more than an hour, or %d", tries);
}

// ---- memory that fails -----------------------------------------------------------------------------------------------

static int derive_some(rctx_manager *manager, void *arg) {
  (void)arg;
  int err = 0;
  rctx *c[4];
  c[0] = rctx_with_cancel(rctx_manager_background(manager));
  c[1] = rctx_with_timeout(c[0], HOUR);
  c[2] = rctx_with_cancel(c[1]);
  c[3] = rctx_with_cancel(c[2]);
  for (int i = 3; i >= 0; i--) {
    if (rctx_err(c[i])) err = rctx_err(c[i]);
    rctx_end(c[i]);
  }
  return err;
}

Test(kit, each_failure_is_met_once_and_nothing_is_left) {
  for (int fail_on = 0; fail_on < 2; fail_on++) {
    struct rctx_test_faults faults;
    cr_assert_eq(rctx_test_fail_each(derive_some, NULL, fail_on, &faults), 0);
    cr_assert_geq(faults.runs, 4, "one for each context at least: %zu", faults.runs);
    cr_assert_eq(faults.failed, faults.runs, "each is reported");
    cr_assert_eq(faults.leaked, 0);
    cr_assert_eq(faults.first_leak, 0);
    cr_assert_eq(faults.result, 0);
  }
}

static rctx *forgotten[8];
static int nforgotten;

// The mistake: the second one failed, so leave, and forget the first.
static int forget_on_failure(rctx_manager *manager, void *arg) {
  (void)arg;
  rctx *first = rctx_with_cancel(rctx_manager_background(manager));
  rctx *second = rctx_with_cancel(rctx_manager_background(manager));
  int err = rctx_err(second);
  if (err && !rctx_err(first)) {
    forgotten[nforgotten++] = first;
    return err;
  }
  rctx_end(second);
  rctx_end(first);
  return err;
}

Test(kit, a_leak_after_a_failure_is_found) {
#if CHECK_LEAKS
  cr_skip_test("it leaks on purpose");
#endif
  struct rctx_test_faults faults;
  cr_assert_eq(rctx_test_fail_each(forget_on_failure, NULL, false, &faults), 0);
  cr_assert_eq(faults.leaked, 1);
  cr_assert_eq((int)faults.leaked, nforgotten);
  cr_assert_eq(faults.first_leak, 2, "the second request is the second context's");
}

// The same of three: leaks when the second fails, and more when the third does.
static int forget_two_on_failure(rctx_manager *manager, void *arg) {
  rctx *made[3];
  (void)arg;
  int err = 0;
  for (int i = 0; i < 3 && !err; i++) {
    made[i] = rctx_with_cancel(rctx_manager_background(manager));
    err = rctx_err(made[i]);
    for (int n = 0; err && n < i; n++) forgotten[nforgotten++] = made[n];
  }
  for (int i = 0; i < 3 && !err; i++) rctx_end(made[i]);
  return err;
}

Test(kit, of_several_leaks_the_first_is_named) {
#if CHECK_LEAKS
  cr_skip_test("it leaks on purpose");
#endif
  struct rctx_test_faults faults;
  cr_assert_eq(rctx_test_fail_each(forget_two_on_failure, NULL, false, &faults), 0);
  cr_assert_geq(faults.leaked, 2);
  cr_assert_eq(faults.first_leak, 2);
}

static int ask_for_too_much(rctx_manager *manager, void *arg) {
  struct rctx_test_memory *memory = rctx_test_memory_of(manager);
  size_t *got = arg;
  *got += rctx_test_malloc(memory, SIZE_MAX) != NULL;
#if !CHECK_UNCACHED && !defined(RCTX_TEST_SHIM) // a sanitizer's malloc aborts, valgrind calls it an error
  *got += rctx_test_malloc(memory, SIZE_MAX / 2) != NULL;
#endif
  return 0;
}

Test(kit, what_is_larger_than_the_machine_is_refused) {
  struct rctx_test_faults faults;
  size_t got = 0;
  rctx_test_fail_each(ask_for_too_much, &got, false, &faults);
  cr_assert_eq(got, 0);
}

static int leave_one(rctx_manager *manager, void *arg) {
  *(rctx **)arg = rctx_with_cancel(rctx_manager_background(manager));
  return 0;
}

Test(kit, what_the_run_without_a_failure_leaves_is_said) {
#if CHECK_LEAKS
  cr_skip_test("it leaks on purpose");
#endif
  struct rctx_test_faults faults;
  rctx *left = NULL;
  cr_assert_eq(rctx_test_fail_each(leave_one, &left, false, &faults), -EBUSY);
  cr_assert_eq(rctx_err(left), 0);
}

Test(kit, the_allocator_counts_and_fails_as_told) {
  struct rctx_test_memory memory = {.fail_at = 2};
  struct rctx_manager_options options = {.allocator = rctx_test_allocator(&memory), .uncached = true};
  rctx_manager *manager;
  cr_assert_eq(rctx_manager_create(&options, &manager), 0);
  rctx *a = rctx_with_cancel(rctx_manager_background(manager));
  rctx *b = rctx_with_cancel(rctx_manager_background(manager));
  rctx *c = rctx_with_cancel(rctx_manager_background(manager));
  cr_assert_eq(rctx_err(a), 0);
  cr_assert_eq(rctx_err(b), -ENOMEM);
  cr_assert_eq(rctx_err(c), 0);
  cr_assert_eq(memory.requests, 3);
  cr_assert_eq(memory.refused, 1);
  cr_assert_eq(memory.live, 2);
  memory.fail_at = 4;
  memory.fail_on = true;
  for (int i = 0; i < 3; i++) cr_assert_eq(rctx_err(rctx_with_cancel(a)), -ENOMEM);
  rctx_end(a);
  rctx_end(c);
  cr_assert_eq(rctx_manager_destroy(manager), 0);
  cr_assert_eq(memory.live, 0);
  cr_assert_eq(memory.bytes, 0);
}

Test(kit, a_body_is_needed) {
  struct rctx_test_faults faults;
  rctx_test_body volatile none = NULL;
  cr_assert_eq(rctx_test_fail_each(none, NULL, false, &faults), -EINVAL);
}

// ---- memory of the code under test -----------------------------------------------------------------------------------

Test(kit, the_code_under_test_takes_from_the_same_memory) {
  struct rctx_test_memory memory = {.fail_at = 3};
  void *a = rctx_test_malloc(&memory, 10), *b = rctx_test_malloc(&memory, 0);
  cr_assert(a && b && memory.live == 2 && memory.bytes == 10);
  cr_assert_null(rctx_test_malloc(&memory, 1));
  void *c = rctx_test_malloc(&memory, 1);
  cr_assert_not_null(c, "only that one");
  cr_assert(memory.requests == 4 && memory.refused == 1 && memory.live == 3);
  rctx_test_free(&memory, b);
  rctx_test_free(&memory, a);
  rctx_test_free(&memory, c);
  rctx_test_free(&memory, NULL);
  cr_assert(memory.live == 0 && memory.bytes == 0 && memory.wrong == 0);
}

Test(kit, the_table_aligns_and_notices_wrong_sizes) {
  struct rctx_test_memory memory = {0};
  struct rctx_allocator table = rctx_test_allocator(&memory);
  for (size_t align = 1; align <= 65536; align *= 4) {
    void *ptr = table.alloc(table.self, 100, align);
    cr_assert_not_null(ptr);
    cr_assert_eq((uintptr_t)ptr % align, 0);
    table.free(table.self, ptr, 100);
  }
  cr_assert_eq(memory.wrong, 0);
  void *ptr = table.alloc(table.self, 100, 8);
  table.free(table.self, ptr, 101);
  cr_assert(memory.wrong == 1 && memory.bytes == 0);
  cr_assert_null(rctx_test_memory_of(rctx_manager_default()));
}

// Right: whatever fails, all is given back. An answer of 200 bytes, fetched below a request with a deadline; and it sleeps.
static int fetch_right(rctx_manager *manager, void *arg) {
  struct rctx_test_memory *memory = rctx_test_memory_of(manager);
  int64_t start = rctx_manager_now(manager);
  RCTX_SCOPED rctx *request = rctx_with_timeout(rctx_manager_background(manager), HOUR);
  char *answer = rctx_test_malloc(memory, 200);
  int rc = answer ? rctx_err(request) : -ENOMEM;
  if (rc == 0) rc = rctx_sleep(request, 60 * SECOND);
  if (rc == 0 && rctx_alloc(request, 100) == NULL) rc = -ENOMEM;
  if (rc == 0) *(int64_t *)arg = rctx_manager_now(manager) - start;
  rctx_test_free(memory, answer);
  return rc;
}

Test(kit, a_body_may_sleep_and_right_code_passes) {
  for (int fail_on = 0; fail_on < 2; fail_on++) {
    struct rctx_test_faults faults;
    int64_t slept = 0;
    watchdog(60);
    cr_assert_eq(rctx_test_fail_each(fetch_right, &slept, fail_on, &faults), 0);
    cr_assert_geq(faults.runs, 3, "the context, the answer, the arena: %zu", faults.runs);
    cr_assert(faults.failed > 0 && faults.leaked == 0 && faults.first_leak == 0 && faults.result == 0);
    cr_assert_eq(slept, 60 * SECOND);
  }
}

// Wrong: forgets the answer when what follows fails.
static int fetch_leaking(rctx_manager *manager, void *arg) {
  (void)arg;
  struct rctx_test_memory *memory = rctx_test_memory_of(manager);
  char *answer = rctx_test_malloc(memory, 200), *copy = answer ? rctx_test_malloc(memory, 200) : NULL;
  if (copy == NULL) return -ENOMEM; // here
  rctx_test_free(memory, copy);
  rctx_test_free(memory, answer);
  return 0;
}

Test(kit, a_forgotten_piece_is_found_and_freed) {
  struct rctx_test_faults faults;
  cr_assert_eq(rctx_test_fail_each(fetch_leaking, NULL, false, &faults), 0);
  cr_assert(faults.runs == 2 && faults.failed == 2 && faults.leaked == 1 && faults.first_leak == 2 &&
            faults.result == 0);
}

// Leaks when nothing fails, and only then.
static int leak_at_peace(rctx_manager *manager, void *arg) {
  (void)arg;
  return rctx_test_malloc(rctx_test_memory_of(manager), 8) ? 0 : -ENOMEM;
}

Test(kit, a_piece_that_the_last_run_forgets_is_said) {
  struct rctx_test_faults faults;
  cr_assert_eq(rctx_test_fail_each(leak_at_peace, NULL, false, &faults), -EBUSY);
  cr_assert(faults.runs == 1 && faults.failed == 1 && faults.leaked == 0);
}
