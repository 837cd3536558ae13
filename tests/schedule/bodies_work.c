/* bodies_work.c - tasks, groups and draining. */
#include "bodies.h"
#include "body.h"

#include <string.h>

static rctx *top;

static unsigned ran[3], cleaned[3];

static int task(const rctx *ctx, void *arg) {
  unsigned *count = arg;
  look(ctx);
  ++*count;
  sim_point(NULL, __func__, __LINE__);
  return 0;
}
static int failing_task(const rctx *ctx, void *arg) {
  task(ctx, arg);
  return -EIO;
}

static void open_work(unsigned threads_max) {
  memset(ran, 0, sizeof ran);
  memset(cleaned, 0, sizeof cleaned);
  open_manager((struct rctx_manager_options){.threads_max = threads_max});
  top = rctx_with_cancel(root());
}
static void close_work(void) {
  rctx_end(top);
  close_manager();
}

/* ---- groups -------------------------------------------------------------------------------------------------------- */

static struct rctx_group group;

static void go_and_wait(void *arg) {
  (void)arg;
  rctx_group_go(&group, task, &ran[2]);
  rctx_group_wait(&group);
}

/* Three tasks, one of which fails, in a pool of one or two; two threads wait; the parent may end. */
void group_tasks(void) {
  open_work(1 + sim_random(2));
  rctx_group_init(&group, top);
  rctx_group_go(&group, task, &ran[0]);
  sim_spawn(go_and_wait, NULL);
  if (sim_random(2)) sim_spawn(cancel_with_a, top);
  rctx_group_go(&group, failing_task, &ran[1]);
  CHECK_EQUAL(rctx_group_wait(&group), -EIO);
  sim_join_all();
  CHECK_EQUAL(rctx_group_fini(&group), -EIO);
  for (int i = 0; i < 3; i++) CHECK_EQUAL(ran[i], 1);
  close_work();
}

/* A limit of one: who starts a task waits for room or runs what is there. */
void group_limit(void) {
  open_work(1);
  rctx_group_init(&group, top);
  CHECK_EQUAL(rctx_group_limit(&group, 1), 0);
  sim_spawn(go_and_wait, NULL);
  rctx_group_go(&group, task, &ran[0]);
  rctx_group_go(&group, task, &ran[1]);
  sim_join_all();
  CHECK_EQUAL(rctx_group_fini(&group), 0);
  for (int i = 0; i < 3; i++) CHECK_EQUAL(ran[i], 1);
  close_work();
}

/* ---- execute ------------------------------------------------------------------------------------------------------- */

struct execution {
  unsigned ran, cleaned;
};
static struct execution executions[2];

static int body_of_execution(const rctx *ctx, void *arg) {
  struct execution *mine = arg;
  look(ctx);
  mine->ran++;
  sim_point(NULL, __func__, __LINE__);
  return 7;
}
static void clean(void *arg) { ((struct execution *)arg)->cleaned++; }

static void execute(void *arg) {
  struct execution *mine = arg;
  enum rctx_outcome outcome;
  int rc = rctx_execute(top, body_of_execution, mine, clean, &outcome);
  switch (outcome) {
  case RCTX_FINISHED:
    CHECK(rc == 7 && mine->ran == 1 && mine->cleaned == 1);
    break;
  case RCTX_NOT_STARTED:
    CHECK(rc == -EPIPE && mine->ran == 0 && mine->cleaned == 1);
    break;
  case RCTX_ORPHANED:
    CHECK_EQUAL(rc, -EPIPE);
    break;
  }
}

/* Two tasks race with their context in a pool of one thread: run once or never, cleaned up once. */
void execute_cancel(void) {
  memset(executions, 0, sizeof executions);
  open_work(1);
  sim_spawn(execute, &executions[0]);
  sim_spawn(execute, &executions[1]);
  sim_spawn(cancel_with_a, top);
  sim_join_all();
  rctx_end(top);
  close_manager(); /* waits for orphans */
  for (int i = 0; i < 2; i++) CHECK(executions[i].ran <= 1 && executions[i].cleaned == 1);
}

static void count_destroyed(void *value) { ++*(unsigned *)value; }

static void execute_and_end(void *arg) {
  static const struct rctx_key key = {.name = "count"};
  unsigned *count = arg;
  enum rctx_outcome outcome;
  struct rctx_value value = {&key, count, count_destroyed};
  rctx *mine = rctx_derive(top, &(struct rctx_spec){.values = &value, .nvalues = 1});
  rctx_execute(mine, task, &ran[count - cleaned], NULL, &outcome);
  rctx_end(mine);
  CHECK_EQUAL(outcome, RCTX_FINISHED);
  CHECK_EQUAL(*count, 1); /* nothing is left of the task, nor of its context */
}

/* Whoever has a task's result finds nothing left of it. */
void execute_result(void) {
  open_work(1 + sim_random(2));
  sim_spawn(execute_and_end, &cleaned[0]);
  sim_spawn(execute_and_end, &cleaned[1]);
  sim_join_all();
  close_work();
  CHECK(cleaned[0] == 1 && cleaned[1] == 1);
}

/* ---- draining ------------------------------------------------------------------------------------------------------ */

static rctx_drain *drain;

static void request(void *arg) {
  (void)arg;
  rctx *mine = rctx_drain_request(drain, NULL);
  int err = look_whole(mine);
  if (err == 0) CHECK_EQUAL(look(rctx_drain_drained(drain)), 0); /* not while a request is there */
  if (err == 0 && sim_random(2)) {
    rctx *detached = rctx_without_cancel(mine);
    rctx_end(mine);
    CHECK_EQUAL(look(rctx_drain_drained(drain)), 0);
    rctx_end(detached);
    return;
  }
  rctx_end(mine);
}
static void raise_and_wait(void *arg) {
  (void)arg;
  rctx_drain_raise(drain, sim_random(2) ? RCTX_DRAIN_STOP : RCTX_DRAIN_CANCEL);
  rctx *late = rctx_drain_request(drain, NULL);
  CHECK(rctx_err(late) != 0);
  rctx_end(late);
  CHECK(rctx_wait(rctx_drain_drained(drain), SIM_NEVER) != 0);
}

/* A request is counted or born ended; it is drained when all is gone, and not before. */
void drain_requests(void) {
  open_work(1);
  CHECK_EQUAL(rctx_drain_create(top, "work", &drain), 0);
  sim_spawn(request, NULL);
  sim_spawn(request, NULL);
  sim_spawn(raise_and_wait, NULL);
  sim_join_all();
  CHECK(rctx_err(rctx_drain_drained(drain)) != 0);
  rctx_drain_destroy(drain);
  close_work();
}

static void raise_stop(void *arg) {
  (void)arg;
  rctx_drain_raise(drain, RCTX_DRAIN_STOP);
}
static void raise_cancel(void *arg) {
  (void)arg;
  rctx_drain_raise(drain, RCTX_DRAIN_CANCEL);
}
static void look_at_drain(void *arg) {
  struct rctx_drain_left what;
  (void)arg;
  rctx_drain_look(drain, &what);
  CHECK(what.live <= what.contexts);
}

/* Two raises and a look, which takes hold of the work for a moment. */
void drain_raises(void) {
  open_work(1);
  CHECK_EQUAL(rctx_drain_create(top, NULL, &drain), 0);
  sim_spawn(raise_stop, NULL);
  sim_spawn(raise_cancel, NULL);
  sim_spawn(look_at_drain, NULL);
  sim_join_all();
  CHECK_EQUAL(rctx_drain_level(drain), RCTX_DRAIN_CANCEL);
  CHECK(rctx_wait(rctx_drain_drained(drain), SIM_NEVER) != 0);
  rctx_drain_destroy(drain);
  close_work();
}
