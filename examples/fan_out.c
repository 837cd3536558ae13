/*
 * fan_out.c - FanOut: several tasks at once; the first error stops the rest, and waiting joins them all.
 *
 * In Go:
 *   g, ctx := errgroup.WithContext(ctx)
 *   g.SetLimit(2)
 *   for _, part := range parts { g.Go(func() error { return fetch(ctx, part) }) }
 *   if err := g.Wait(); err != nil { ... }
 *
 * Look at: the cause after the failure, which names the task and the line that started it; and the results, which the
 * tasks write into plain memory: all of it is visible after the wait, also what was done before the failure.
 */
#include "example.h"
#include <rctx/rctx.h>
#include <semaphore.h>
#include <string.h>

struct part {
  const char *name;
  int64_t work_ns; /* how long its server takes */
  int fails_with;
  int rows; /* the result; -1: none */
};

static int fetch(const rctx *ctx, void *arg) {
  struct part *part = arg;
  int err = part->work_ns ? rctx_sleep(ctx, part->work_ns) : 0;

  if (err == 0) err = part->fails_with;
  if (err == 0) part->rows = 7;
  return err;
}

static void show(const struct part *parts, size_t count) {
  for (size_t i = 0; i < count; i++) {
    if (parts[i].rows >= 0) printf("    %-8s %d rows\n", parts[i].name, parts[i].rows);
    if (parts[i].rows < 0) printf("    %-8s -\n", parts[i].name);
  }
}

static void all_well(const rctx *request) {
  struct part parts[] = {{"profile", 5 * MS, 0, -1}, {"orders", 10 * MS, 0, -1}, {"stock", 5 * MS, 0, -1}};
  struct rctx_group group;

  rctx_group_init(&group, request);
  for (size_t i = 0; i < 3; i++) rctx_group_go(&group, fetch, &parts[i]);
  expect(rctx_group_wait(&group) == 0);
  printf("all well: 0\n");
  show(parts, 3);
  for (size_t i = 0; i < 3; i++) expect(parts[i].rows == 7);
  expect(rctx_err(request) == 0); /* the group has a context of its own: only that one ends */
  expect(rctx_group_fini(&group) == 0);
}

static void one_fails(const rctx *request) {
  struct part parts[] = {{"profile", 0, 0, -1},
                         {"orders", 20 * MS, -EIO, -1},
                         {"stock", 3600 * SECOND, 0, -1},
                         {"reviews", 3600 * SECOND, 0, -1}};
  struct rctx_group group;
  struct rctx_why why;

  rctx_group_init(&group, request);
  for (size_t i = 0; i < 4; i++) rctx_group_go(&group, fetch, &parts[i]);
  int err = rctx_group_wait(&group); /* no hour has to pass: the failure ends the two slow ones */
  expect(err == -EIO);
  rctx_why(rctx_group_ctx(&group), &why);
  printf("one fails: %s: \"%s\", started in %s:%d\n", rctx_strerror(err), why.cause->text, why.cause->file,
         why.cause->line);
  show(parts, 4);
  expect(why.cause->code == -EIO && why.cause->origin == RCTX_ORIGIN_TASK && strstr(why.cause->text, "fetch"));
  expect(strstr(why.cause->file, "fan_out.c") && why.cause->line > 0);
  expect(parts[0].rows == 7 && parts[1].rows == -1 && parts[2].rows == -1 && parts[3].rows == -1);
  expect(rctx_err(request) == 0);
  expect(rctx_group_fini(&group) == -EIO);
}

struct gauge {
  int now, most;
};

static int measure(const rctx *ctx, void *arg) {
  struct gauge *gauge = arg;
  int now = __atomic_add_fetch(&gauge->now, 1, __ATOMIC_RELAXED),
      most = __atomic_load_n(&gauge->most, __ATOMIC_RELAXED);

  while (now > most &&
         !__atomic_compare_exchange_n(&gauge->most, &most, now, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
  int err = rctx_sleep(ctx, 2 * MS);
  __atomic_fetch_sub(&gauge->now, 1, __ATOMIC_RELAXED);
  return err;
}

static int hold(const rctx *ctx, void *arg) {
  (void)ctx;
  while (sem_wait(arg) != 0) {
  }
  return 0;
}

static void limited(const rctx *request) {
  RCTX_SCOPED_GROUP struct rctx_group group; /* joined when this scope is left, whatever happens */
  struct gauge gauge = {0, 0};
  sem_t enough;

  sem_init(&enough, 0, 0);
  rctx_group_init(&group, request);
  expect(rctx_group_limit(&group, 2) == 0);
  for (int i = 0; i < 10; i++) rctx_group_go(&group, measure, &gauge); /* waits for room */
  expect(rctx_group_wait(&group) == 0);
  expect(gauge.most >= 1 && gauge.most <= 2);
  printf("a limit of 2: 10 tasks, at most %d at a time\n", gauge.most);

  struct rctx_group one;
  rctx_group_init(&one, request);
  expect(rctx_group_limit(&one, 1) == 0);
  expect(rctx_group_try(&one, hold, &enough) == 0);
  int err = rctx_group_try(&one, hold, &enough); /* does not wait for room */
  expect(err == -EAGAIN && rctx_group_limit(&one, 2) == -EBUSY);
  printf("try with a limit of 1, one under way: %s\n", rctx_strerror(err));
  sem_post(&enough);
  expect(rctx_group_fini(&one) == 0);
  sem_destroy(&enough);
}

int main(void) {
  RCTX_SCOPED rctx *request = rctx_with_timeout(rctx_background(), 60 * SECOND);

  all_well(request);
  one_fails(request);
  limited(request);
  return expectations_failed();
}
