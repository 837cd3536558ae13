// rows_work.c - rows of rows.h: waiting, callbacks, loops, tasks, groups, drains, and what tests of other code are given.
#include "faults/rows.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <unistd.h>

/* ---- waiting ----------------------------------------------------------------------------------------------------- */

// A sleep that ends for no reason is no end of the wait.
static bool waited(const rctx *ctx) {
  int64_t until_ns = rctx_now() + MS / 10;
  return rctx_wait(ctx, until_ns) == 0 && rctx_now() >= until_ns;
}
static bool slept(const rctx *ctx) {
  int64_t until_ns = rctx_now() + MS / 10;
  return rctx_sleep(ctx, MS / 10) == 0 && rctx_now() >= until_ns;
}
QUIET(rctx_wait, waited(b->parent))
QUIET(rctx_sleep, slept(b->parent))

static int rctx_fd_row(struct bench *b) {
  rctx *c = rctx_with_cancel(b->parent);
  faulty(b);
  int fd = rctx_fd(c);
  sound(b);
  if (fd >= 0) {
    rctx_cancel(c);
    cr_assert_eq(poll(&(struct pollfd){fd, POLLIN, 0}, 1, 0), 1);
  }
  rctx_end(c);
  return fd < 0 ? fd : 0;
}

static int rctx_poll_row(struct bench *b) {
  enum { MANY = 70 }; // too many for the stack
  struct pollfd fds[MANY];
  rctx *c = rctx_with_cancel(b->parent);
  for (int i = 0; i < MANY; i++) fds[i] = (struct pollfd){.fd = -1, .revents = 1};
  faulty(b);
  int ready = rctx_poll(c, fds, MANY, rctx_now() + MS / 10);
  sound(b);
  cr_assert_leq(ready, 0);
  cr_assert_eq(fds[0].revents, ready == 0 ? 0 : 1, "written if it polled");
  rctx_cancel(c);
  if (ready == 0) cr_assert_eq(rctx_poll(c, fds, MANY, INT64_MAX), -ECANCELED);
  rctx_end(c);
  return ready;
}

struct bell { // a condition variable that somebody rings until told to stop
  pthread_mutex_t mutex;
  pthread_cond_t cond;
  atomic_bool over;
};

static void *ring(void *arg) {
  struct bell *bell = arg;
  while (!atomic_load(&bell->over)) {
    pthread_mutex_lock(&bell->mutex);
    pthread_cond_broadcast(&bell->cond);
    pthread_mutex_unlock(&bell->mutex);
    usleep(100);
  }
  return NULL;
}

static int rctx_cond_wait_row(struct bench *b) {
  struct bell bell = {.mutex = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER};
  pthread_t ringer;
  rctx *c = rctx_with_cancel(b->parent);
  cr_assert_eq(pthread_create(&ringer, NULL, ring, &bell), 0);
  pthread_mutex_lock(&bell.mutex);
  faulty(b);
  int rc = rctx_cond_wait(c, &bell.cond, &bell.mutex);
  sound(b);
  cr_assert_neq(pthread_mutex_trylock(&bell.mutex), 0, "it is held, whatever happened");
  pthread_mutex_unlock(&bell.mutex);
  atomic_store(&bell.over, true);
  pthread_join(ringer, NULL);
  rctx_end(c);
  return rc;
}

/* ---- callbacks and loops ----------------------------------------------------------------------------------------- */

static void count_call(const rctx *ctx, void *arg) {
  (void)ctx;
  atomic_fetch_add(&((struct bench *)arg)->calls, 1);
}

// The context has ended: the callback has run once, or nothing was registered and it never does.
static int registered(struct bench *b, int rc, struct rctx_after *node, rctx *c) {
  rctx_end(c);
  if (rc >= 0) rctx_quiesce(b->manager, INT64_MAX);
  rctx_after_stop_sync(node);
  cr_assert_eq(atomic_load(&b->calls), rc >= 0);
  return rc < 0 ? rc : 0;
}

static int rctx_after_row(struct bench *b) {
  struct rctx_after node = {0};
  rctx *c = rctx_with_cancel(b->parent);
  atomic_store(&b->calls, 0);
  faulty(b);
  int rc = rctx_after(c, &node, count_call, b);
  sound(b);
  return registered(b, rc, &node, c);
}

static int rctx_after_inline_row(struct bench *b) {
  struct rctx_after node = {0};
  rctx *c = rctx_with_cancel(b->parent);
  atomic_store(&b->calls, 0);
  faulty(b);
  int rc = rctx_after_inline(c, &node, RCTX_ON_ENDED_TELL, count_call, b);
  rctx_cancel(c);
  sound(b);
  cr_assert_eq(rc, RCTX_REGISTERED);
  return registered(b, rc, &node, c);
}

static int rctx_after_on_row(struct bench *b) {
  struct rctx_after node = {0};
  rctx *c = rctx_with_cancel(b->parent);
  atomic_store(&b->calls, 0);
  faulty(b);
  int rc = rctx_after_on(c, &node, rctx_manager_executor(b->manager), RCTX_ON_ENDED_TELL, count_call, b);
  rctx_cancel(c); // once promised, it runs
  rctx_quiesce(b->manager, INT64_MAX);
  sound(b);
  return registered(b, rc, &node, c);
}

static void never_called(void *arg) {
  (void)arg;
  abort();
}

static int stop_row(struct bench *b, int how) {
  struct rctx_after node = {0};
  bool stopped = false, quiet = true;
  rctx *c = rctx_with_cancel(b->parent);
  cr_assert_eq(rctx_after_inline(c, &node, RCTX_ON_ENDED_TELL, count_call, b), RCTX_REGISTERED);
  faulty(b);
  if (how == 0) stopped = rctx_after_stop(&node);
  if (how == 1) stopped = rctx_after_stop_sync(&node);
  if (how == 2) stopped = rctx_after_stop_notify(&node, never_called, NULL, &quiet);
  sound(b);
  cr_assert(stopped && quiet);
  rctx_end(c);
  return 0;
}
static int rctx_after_stop_row(struct bench *b) { return stop_row(b, 0); }
static int rctx_after_stop_sync_row(struct bench *b) { return stop_row(b, 1); }
static int rctx_after_stop_notify_row(struct bench *b) { return stop_row(b, 2); }

static int rctx_loop_create_row(struct bench *b) {
  rctx_loop *loop = NULL;
  faulty(b);
  int rc = rctx_loop_create(&loop);
  sound(b);
  cr_assert_eq(loop == NULL, rc != 0);
  rctx_loop_destroy(loop);
  return rc;
}

// What a loop is asked while a callback is queued there.
static int loop_row(struct bench *b, void (*act)(struct bench *b, rctx_loop *loop, rctx *c)) {
  struct rctx_after node = {0};
  rctx_loop *loop;
  rctx *c = rctx_with_cancel(b->parent);
  cr_assert_eq(rctx_loop_create(&loop), 0);
  atomic_store(&b->calls, 0);
  cr_assert_eq(rctx_watch(c, &node, loop, RCTX_ON_ENDED_TELL, count_call, b), RCTX_REGISTERED);
  act(b, loop, c);
  rctx_after_stop_sync(&node);
  rctx_end(c);
  return 0;
}

static void drain_loop(struct bench *b, rctx_loop *loop, rctx *c) {
  rctx_cancel(c);
  faulty(b);
  size_t ran = rctx_loop_drain(loop, 10);
  sound(b);
  cr_assert_eq(ran, 1);
  cr_assert_eq(atomic_load(&b->calls), 1);
  cr_assert_eq(poll(&(struct pollfd){rctx_loop_fd(loop), POLLIN, 0}, 1, 0), 0);
  rctx_loop_destroy(loop);
}
static void look_at_loop(struct bench *b, rctx_loop *loop, rctx *c) {
  faulty(b);
  int fd = rctx_loop_fd(loop);
  rctx_cancel(c); // and its write
  sound(b);
  cr_assert_eq(poll(&(struct pollfd){fd, POLLIN, 0}, 1, 0), 1);
  cr_assert_eq(rctx_loop_drain(loop, 10), 1);
  rctx_loop_destroy(loop);
}
static void destroy_loop(struct bench *b, rctx_loop *loop, rctx *c) {
  faulty(b);
  rctx_loop_destroy(loop);
  sound(b);
  rctx_cancel(c);
  cr_assert_eq(atomic_load(&b->calls), 0);
}
static void watch_once_more(struct bench *b, rctx_loop *loop, rctx *c) {
  struct rctx_after more = {0};
  faulty(b);
  int rc = rctx_watch(c, &more, loop, RCTX_ON_ENDED_TELL, count_call, b);
  sound(b);
  cr_assert_eq(rc, RCTX_REGISTERED);
  cr_assert(rctx_after_stop(&more));
  rctx_loop_destroy(loop);
}
static int rctx_loop_drain_row(struct bench *b) { return loop_row(b, drain_loop); }
static int rctx_loop_fd_row(struct bench *b) { return loop_row(b, look_at_loop); }
static int rctx_loop_destroy_row(struct bench *b) { return loop_row(b, destroy_loop); }
static int rctx_watch_row(struct bench *b) { return loop_row(b, watch_once_more); }

/* ---- tasks and groups -------------------------------------------------------------------------------------------- */

static int task(const rctx *ctx, void *arg) {
  atomic_fetch_add(&((struct bench *)arg)->calls, 1);
  return rctx_err(ctx);
}

static int answer(const rctx *ctx, void *arg) {
  (void)ctx;
  (void)arg;
  return 7;
}
static void clean_up(void *arg) { atomic_fetch_add(&((struct bench *)arg)->calls, 1); }

static int execute_row(struct bench *b, bool by_manager) {
  enum rctx_outcome outcome = RCTX_ORPHANED;
  atomic_store(&b->calls, 0);
  faulty(b);
  int rc = by_manager ? rctx_manager_execute(b->manager, b->parent, answer, b, clean_up, &outcome)
                      : rctx_execute(b->parent, answer, b, clean_up, &outcome);
  rctx_quiesce(b->manager, INT64_MAX);
  sound(b);
  cr_assert_eq(atomic_load(&b->calls), 1, "its cleanup runs once, whatever happens");
  cr_assert_eq(outcome, rc == 7 ? RCTX_FINISHED : RCTX_NOT_STARTED);
  return rc == 7 ? 0 : rc;
}
static int rctx_execute_row(struct bench *b) { return execute_row(b, false); }
static int rctx_manager_execute_row(struct bench *b) { return execute_row(b, true); }

static void run_task(struct rctx_task *self) { self->run = NULL; }
static int rctx_task_run_row(struct bench *b) {
  struct rctx_task one = {.run = run_task};
  faulty(b);
  rctx_task_run(&one);
  sound(b);
  cr_assert_null(one.run);
  return 0;
}

static int group_init_row(struct bench *b, bool on) {
  struct rctx_group group;
  faulty(b);
  if (on) rctx_group_init_on(&group, b->parent, rctx_manager_executor(b->manager));
  if (!on) rctx_group_init(&group, b->parent);
  sound(b);
  int err = rctx_err(rctx_group_ctx(&group));
  atomic_store(&b->calls, 0);
  cr_assert_eq(rctx_group_go(&group, task, b), 0, "tasks run all the same");
  cr_assert_eq(rctx_group_wait(&group), err, "and see that their context has ended");
  cr_assert_eq(atomic_load(&b->calls), 1);
  rctx_group_fini(&group);
  return err;
}
static int rctx_group_init_row(struct bench *b) { return group_init_row(b, false); }
static int rctx_group_init_on_row(struct bench *b) { return group_init_row(b, true); }

static int succeed(const rctx *ctx, void *arg) {
  (void)ctx;
  atomic_fetch_add(&((struct bench *)arg)->calls, 1);
  return 0;
}

// A group of five tasks, from this call on under the fault. Each task runs once.
enum group_call { GO, TRY, WAIT, FINI };

static int group_row(struct bench *b, enum group_call from) {
  enum { TASKS = 5 };
  struct rctx_group group;
  int err = 0;
  rctx_group_init(&group, b->parent);
  atomic_store(&b->calls, 0);
  if (from <= TRY) faulty(b);
  for (int i = 0; i < TASKS; i++)
    err |= from == TRY ? rctx_group_try(&group, succeed, b) : rctx_group_go(&group, succeed, b);
  if (from == WAIT) faulty(b);
  if (from <= WAIT) err |= rctx_group_wait(&group);
  if (from == FINI) faulty(b);
  err |= rctx_group_fini(&group);
  rctx_quiesce(b->manager, INT64_MAX);
  sound(b);
  cr_assert_eq(err, 0);
  cr_assert_eq(atomic_load(&b->calls), TASKS);
  return 0;
}
static int rctx_group_go_at_row(struct bench *b) { return group_row(b, GO); }
static int rctx_group_try_at_row(struct bench *b) { return group_row(b, TRY); }
static int rctx_group_wait_row(struct bench *b) { return group_row(b, WAIT); }
static int rctx_group_fini_row(struct bench *b) { return group_row(b, FINI); }

static int idle_group_row(struct bench *b, bool fail) {
  static const struct rctx_cause cause = {-EIO, RCTX_ORIGIN_USER, "no", NULL, 0, NULL, NULL};
  struct rctx_group group;
  bool taken = false, first = true;
  int rc = 0;
  rctx_group_init(&group, b->parent);
  faulty(b);
  const rctx *ctx = rctx_group_ctx(&group);
  if (fail) first = rctx_group_fail(&group, &cause, &taken);
  if (!fail) rc = rctx_group_limit(&group, 3);
  sound(b);
  cr_assert(rc == 0 && first && taken == fail && rctx_err(ctx) == (fail ? -EIO : 0));
  rctx_group_fini(&group);
  return 0;
}
static int rctx_group_limit_row(struct bench *b) { return idle_group_row(b, false); }
static int rctx_group_ctx_row(struct bench *b) { return idle_group_row(b, false); }
static int rctx_group_fail_row(struct bench *b) { return idle_group_row(b, true); }

/* ---- drains ------------------------------------------------------------------------------------------------------ */

static int rctx_drain_create_row(struct bench *b) {
  rctx_drain *drain = NULL;
  faulty(b);
  int rc = rctx_drain_create(b->parent, "work", &drain);
  sound(b);
  cr_assert_eq(drain == NULL, rc != 0);
  rctx_drain_destroy(drain);
  return rc;
}

typedef int (*drain_act)(rctx_drain *drain);

static int drain_row(struct bench *b, drain_act act) {
  rctx_drain *drain;
  cr_assert_eq(rctx_drain_create(b->parent, "work", &drain), 0);
  faulty(b);
  int rc = act(drain);
  sound(b);
  cr_assert_eq(rctx_drain_run(drain, &(struct rctx_drain_plan){0, SECOND}, NULL), 0, "and it can be drained");
  rctx_drain_destroy(drain);
  return rc;
}

static int request(rctx_drain *drain) {
  rctx *c = rctx_drain_request(drain, &(struct rctx_spec){.timeout_ns = HOUR, .name = "request"});
  int err = rctx_err(c);
  rctx_end(c);
  return err;
}
static int raise_now(rctx_drain *drain) { return !rctx_drain_raise(drain, RCTX_DRAIN_STOP); }
static int raise_later(rctx_drain *drain) { return rctx_drain_raise_at(drain, RCTX_DRAIN_STOP, rctx_now() + HOUR); }
static int run_drain(rctx_drain *drain) { return rctx_drain_run(drain, &(struct rctx_drain_plan){MS, SECOND}, NULL); }
static int look_at_drain(rctx_drain *drain) {
  struct rctx_drain_left left;
  rctx_drain_look(drain, &left);
  return rctx_drain_level(drain) != RCTX_DRAIN_OPEN || rctx_err(rctx_drain_accepting(drain)) ||
         rctx_err(rctx_drain_drained(drain)) || left.contexts != 0;
}

static int rctx_drain_request_row(struct bench *b) { return drain_row(b, request); }
static int rctx_drain_raise_row(struct bench *b) { return drain_row(b, raise_now); }
static int rctx_drain_raise_at_row(struct bench *b) { return drain_row(b, raise_later); }
static int rctx_drain_run_row(struct bench *b) { return drain_row(b, run_drain); }
static int rctx_drain_look_row(struct bench *b) { return drain_row(b, look_at_drain); }
static int rctx_drain_level_row(struct bench *b) { return drain_row(b, look_at_drain); }
static int rctx_drain_accepting_row(struct bench *b) { return drain_row(b, look_at_drain); }
static int rctx_drain_drained_row(struct bench *b) { return drain_row(b, look_at_drain); }

static int rctx_drain_destroy_row(struct bench *b) {
  rctx_drain *drain;
  cr_assert_eq(rctx_drain_create(b->parent, "work", &drain), 0);
  rctx *c = rctx_drain_request(drain, NULL);
  faulty(b);
  rctx_drain_destroy(drain);
  sound(b);
  cr_assert_eq(rctx_err(c), -ECANCELED);
  rctx_end(c);
  return 0;
}

const struct row rows_work[] = {
    ROW(rctx_wait, NOTHING),
    ROW(rctx_sleep, NOTHING),
    ROW(rctx_fd, MEMORY_FAILS | EVENTFD_FAILS),
    ROW(rctx_poll, MEMORY_FAILS | EVENTFD_FAILS | POLL_FAILS),
    ROW(rctx_cond_wait, THREAD_FAILS),
    ROW(rctx_after, THREAD_FAILS),
    ROW(rctx_after_inline, NOTHING),
    ROW(rctx_after_on, MEMORY_FAILS | MEMORY_IS_EAGAIN | MEMORY_MAYBE | THREAD_FAILS),
    ROW(rctx_after_stop, NOTHING),
    ROW(rctx_after_stop_sync, NOTHING),
    ROW(rctx_after_stop_notify, NOTHING),
    ROW(rctx_loop_create, MEMORY_FAILS | EVENTFD_FAILS),
    ROW(rctx_loop_drain, NOTHING),
    ROW(rctx_loop_fd, NOTHING),
    ROW(rctx_loop_destroy, NOTHING),
    ROW(rctx_watch, NOTHING),
    ROW(rctx_execute, MEMORY_FAILS | MEMORY_IS_EAGAIN | MEMORY_MAYBE | THREAD_FAILS),
    ROW(rctx_manager_execute, MEMORY_FAILS | MEMORY_IS_EAGAIN | MEMORY_MAYBE | THREAD_FAILS),
    ROW(rctx_task_run, NOTHING),
    ROW(rctx_group_init, MEMORY_FAILS),
    ROW(rctx_group_init_on, MEMORY_FAILS),
    ROW(rctx_group_go_at, MEMORY_WITHOUT | THREAD_WITHOUT),
    ROW(rctx_group_try_at, MEMORY_WITHOUT | THREAD_WITHOUT),
    ROW(rctx_group_wait, MEMORY_MAYBE | THREAD_MAYBE),
    ROW(rctx_group_fini, MEMORY_MAYBE | THREAD_MAYBE),
    ROW(rctx_group_limit, NOTHING),
    ROW(rctx_group_ctx, NOTHING),
    ROW(rctx_group_fail, NOTHING),
    ROW(rctx_drain_create, MEMORY_FAILS),
    ROW(rctx_drain_request, TIMED),
    ROW(rctx_drain_raise, ENDS),
    ROW(rctx_drain_raise_at, TIMED),
    ROW(rctx_drain_run, ENDS),
    ROW(rctx_drain_look, NOTHING),
    ROW(rctx_drain_level, NOTHING),
    ROW(rctx_drain_accepting, NOTHING),
    ROW(rctx_drain_drained, NOTHING),
    ROW(rctx_drain_destroy, ENDS),
    {NULL, 0, NULL},
};
