/*
 * virtual_time.c - tests a function that retries until a deadline over an hour that takes no time, and with memory that fails.
 *
 * In Go (since 1.25) such a test runs inside synctest.Test, whose runtime moves a fake clock when all goroutines sleep. Here the clock
 * belongs to a manager: the function under test takes its context from the test, and what it sleeps passes on that clock.
 *
 * Look at: fetch_with_retries(), which is ordinary code, and knows nothing of the test; and the two versions of keep_log(), of
 * which only one survives the sweep.
 */
#include "example.h"
#include <rctx/rctx.h>
#include <rctx/testing.h>
#include <string.h>

/* ---- the code under test ----------------------------------------------------------------------------------------- */

struct server {
  int refuses; /* so many times */
  int asked;
};

static int ask(struct server *server) { return ++server->asked > server->refuses ? 0 : -EAGAIN; }

/* Again after 1, 2, 4, .. 300 s, as long as the context lives. */
static int fetch_with_retries(const rctx *ctx, struct server *server) {
  for (int64_t pause = SECOND;; pause = 2 * pause < 300 * SECOND ? 2 * pause : 300 * SECOND) {
    int err = ask(server);
    if (err != -EAGAIN) return err;
    err = rctx_sleep(ctx, pause);
    if (err != 0) return err;
  }
}

/* ---- over an hour ------------------------------------------------------------------------------------------------ */

static void over_an_hour(int refuses, int expected, int expected_asked, int64_t expected_s) {
  rctx_test_clock *clock;
  struct server server = {.refuses = refuses};

  require(rctx_test_clock_create(0, &clock) == 0);
  rctx_test_clock_auto(clock, 1); /* time moves when this thread sleeps */
  int64_t start = rctx_test_clock_now(clock);
  {
    RCTX_SCOPED rctx *request = rctx_with_timeout(rctx_test_clock_background(clock), 3600 * SECOND);
    int err = fetch_with_retries(request, &server);
    int64_t took_s = (rctx_test_clock_now(clock) - start) / SECOND;
    printf("refused %3d times: \"%s\" after %d tries and %lld s\n", refuses, err ? rctx_strerror(err) : "fetched",
           server.asked, (long long)took_s);
    expect(err == expected && server.asked == expected_asked && took_s == expected_s);
  }
  expect(rctx_test_clock_destroy(clock) == 0); /* -EBUSY if a context were left */
}

/* ---- by hand, in steps ------------------------------------------------------------------------------------------- */

static void by_hand(void) {
  rctx_test_clock *clock;
  require(rctx_test_clock_create(0, &clock) == 0);
  {
    RCTX_SCOPED rctx *slow = rctx_with_timeout(rctx_test_clock_background(clock), 1800 * SECOND);
    RCTX_SCOPED rctx *quick = rctx_with_timeout(slow, 5 * SECOND);
    expect(rctx_test_clock_advance(clock, 5 * SECOND - MS) == 0 && rctx_err(quick) == 0);
    expect(rctx_test_clock_advance(clock, MS) == 1 && rctx_err(quick) == -ETIMEDOUT && rctx_err(slow) == 0);
    expect(rctx_test_clock_step(clock) == 1 && rctx_err(slow) == -ETIMEDOUT);
    printf("by hand: 5 s to the millisecond, then one step of half an hour\n");
  }
  expect(rctx_test_clock_destroy(clock) == 0);
}

/* ---- memory that fails ------------------------------------------------------------------------------------------- */

enum { LINE_SIZE = 80 };

/* Two buffers below a request. Wrong: a failure of the second forgets the first. */
static int keep_log(rctx_manager *manager, bool right) {
  struct rctx_test_memory *memory = rctx_test_memory_of(manager);
  RCTX_SCOPED rctx *request = rctx_with_timeout(rctx_manager_background(manager), 3600 * SECOND);
  if (rctx_err(request) != 0) return rctx_err(request);
  char *line = rctx_test_malloc(memory, LINE_SIZE), *copy = NULL;
  if (line == NULL) return -ENOMEM;
  copy = rctx_test_malloc(memory, LINE_SIZE);
  if (copy == NULL) {
    if (right) rctx_test_free(memory, line);
    return -ENOMEM;
  }
  snprintf(line, LINE_SIZE, "kept");
  memcpy(copy, line, LINE_SIZE);
  int err = rctx_sleep(request, 60 * SECOND);
  rctx_test_free(memory, copy);
  rctx_test_free(memory, line);
  return err;
}

static int wrong(rctx_manager *manager, void *arg) {
  (void)arg;
  return keep_log(manager, false);
}

static int right(rctx_manager *manager, void *arg) {
  (void)arg;
  return keep_log(manager, true);
}

static struct rctx_test_faults sweep(const char *name, rctx_test_body body) {
  struct rctx_test_faults faults;
  expect(rctx_test_fail_each(body, NULL, false, &faults) == 0);
  printf("%s: memory failed in %zu ways, %zu of these runs left something", name, faults.runs, faults.leaked);
  if (faults.leaked) printf(": first when request %zu fails", faults.first_leak);
  printf("\n");
  return faults;
}

int main(void) {
  over_an_hour(3, 0, 4, 7);
  over_an_hour(1000, -ETIMEDOUT, 20, 3600);
  by_hand();
  struct rctx_test_faults found = sweep("wrong", wrong);
  expect(found.leaked == 1 && found.first_leak > 0);
  struct rctx_test_faults passed = sweep("right", right);
  expect(passed.leaked == 0 && passed.failed == passed.runs && passed.result == 0);
  return expectations_failed();
}
