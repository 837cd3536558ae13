/* bodies_look.c - whoever looks at a tree from outside while it goes; threads that end; the test's own clock. */
#include "bodies.h"
#include "body.h"

#include <rctx/testing.h>
#include <stdlib.h>

static rctx *top, *left, *right;
static unsigned destroyed;

static void destroy_cause(const struct rctx_cause *cause) {
  destroyed++;
  free(cause->user); /* itself: what looks at it from now on sees what freed memory is filled with */
}

static struct rctx_cause *make_cause(void) {
  struct rctx_cause *cause = malloc(sizeof *cause);
  *cause = (struct rctx_cause){-EPIPE, RCTX_ORIGIN_USER, "made for one end", NULL, 0, cause, destroy_cause};
  return cause;
}

/* ---- looks --------------------------------------------------------------------------------------------------------- */

static int take_text(const char *text, size_t size, void *arg) {
  *(size_t *)arg += text ? size : 0;
  return 0;
}

static void inspect_all(void *arg) {
  struct rctx_info info;
  char text[256], room[1024];
  size_t bytes = 0;
  (void)arg;
  rctx_inspect(top, &info);
  CHECK(info.children <= 4 && info.references >= 1);
  int rc = rctx_dump(top, RCTX_DUMP_JSON, room, sizeof room, take_text, &bytes);
  CHECK((rc == 0 || rc == -ENOSPC) && bytes > 0);
  CHECK(rctx_describe(top, text, sizeof text) > 0);
}

static void cancel_and_end(void *ctx) {
  struct rctx_cause *cause = make_cause();
  if (!rctx_cancel_cause(ctx, cause)) destroy_cause(cause); /* still ours */
  rctx_end(ctx);
}

/* A dump with the locks of the path held, while contexts go whose cause and merge are let go of outside. */
void look_release(void) {
  open_manager((struct rctx_manager_options){0});
  destroyed = 0;
  top = rctx_with_cancel(root());
  left = rctx_with_cancel(top);
  right = rctx_with_cancel(top);
  const rctx *two[] = {left, right};
  rctx *merged = rctx_merge_any(two, 2);
  sim_spawn(inspect_all, NULL);
  sim_spawn(cancel_and_end, left);
  sim_spawn(end_it, merged);
  sim_join_all();
  rctx_end(right);
  rctx_end(top);
  CHECK_EQUAL(destroyed, 1);
  close_manager();
}

static bool count_leaks(const struct rctx_leak *leak, void *arg) {
  *(size_t *)arg += leak->live + leak->ended + leak->kept;
  return true;
}
static void report_leaks(void *arg) {
  size_t contexts = 0;
  (void)arg;
  rctx_leaks_each(0, count_leaks, &contexts);
  CHECK(contexts <= 3);
}
static void make_and_end(void *arg) {
  (void)arg;
  rctx_end(RCTX_LEAK_SITE(rctx_with_cancel(top)));
}

/* The report of contexts that exist, while they come and go. */
void leaks_release(void) {
  open_manager((struct rctx_manager_options){0});
  rctx_leaks_start(1);
  top = rctx_with_cancel(root());
  left = RCTX_LEAK_SITE(rctx_with_cancel(top));
  right = RCTX_LEAK_SITE(rctx_with_cancel(left));
  sim_spawn(report_leaks, NULL);
  sim_spawn(sim_random(2) ? end_it : drop_it, left);
  sim_spawn(make_and_end, NULL);
  sim_join_all();
  rctx_end(right);
  size_t contexts = 0;
  rctx_leaks_each(0, count_leaks, &contexts);
  CHECK_EQUAL(contexts, 0);
  rctx_leaks_start(0);
  rctx_end(top);
  close_manager();
}

/* ---- threads that end ------------------------------------------------------------------------------------------------ */

static bool all_given_back;
static rctx_manager *other;

static void use_and_end_thread(void *arg) {
  (void)arg;
  rctx_end(rctx_with_cancel(rctx_manager_background(other)));
  rctx_end(rctx_with_cancel(root()));
  all_given_back = true; /* what is left of this thread is its way out */
}
static void use_both(void *arg) {
  (void)arg;
  rctx_end(rctx_with_cancel(root()));
  rctx_trim(manager);
}

/* A manager goes while a thread that has used it, and another manager, is on its way out. */
void thread_exit(void) {
  open_manager((struct rctx_manager_options){0});
  other = manager;
  open_manager((struct rctx_manager_options){0});
  all_given_back = false;
  sim_spawn(use_and_end_thread, NULL);
  sim_spawn(use_both, NULL);
  while (!all_given_back) sim_stuck(__func__, __LINE__);
  CHECK_EQUAL(rctx_manager_destroy(other), 0);
  sim_join_all();
  close_manager();
}

/* ---- the test's own clock -------------------------------------------------------------------------------------------- */

static rctx_test_clock *virtual_clock;
static rctx *timed;

static void sleep_on_clock(void *arg) {
  int64_t until_ns = rctx_manager_now(manager) + *(const int64_t *)arg;
  int rc = rctx_sleep(top, *(const int64_t *)arg);
  CHECK(rc == 0 || rc == -EPIPE);
  if (rc == 0) CHECK(rctx_test_clock_now(virtual_clock) >= until_ns);
}
static void advance_clock(void *arg) {
  (void)arg;
  rctx_test_clock_advance(virtual_clock, SIM_MS);
  rctx_test_clock_run(virtual_clock, SIM_NEVER);
  if (sim_random(2)) rctx_cancel_cause(top, &cause_a);
}

/* Two sleep on it, one of them moves it by blocking last, or a third does; a deadline comes on the way. */
void test_clock(void) {
  static const int64_t times_ns[] = {SIM_MS, 3 * SIM_MS};
  CHECK_EQUAL(
      rctx_test_clock_create_with(&(struct rctx_manager_options){.uncached = sim_uncached()}, 0, &virtual_clock), 0);
  manager = rctx_test_clock_manager(virtual_clock);
  top = rctx_with_cancel(root());
  timed = rctx_with_timeout(top, 2 * SIM_MS);
  rctx_test_clock_auto(virtual_clock, 1);
  for (int i = 0; i < 2; i++) sim_spawn(sleep_on_clock, (void *)(uintptr_t)&times_ns[i]);
  sim_spawn(advance_clock, NULL);
  sim_join_all();
  rctx_test_clock_run(virtual_clock, SIM_NEVER);
  CHECK(rctx_err(timed) == -ETIMEDOUT || rctx_err(timed) == -EPIPE);
  rctx_end(timed);
  rctx_end(top);
  CHECK_EQUAL(rctx_quiesce(manager, SIM_NEVER), 0);
  CHECK_EQUAL(rctx_test_clock_destroy(virtual_clock), 0);
}

/* ---- idle ------------------------------------------------------------------------------------------------------------ */

static void touch(void *arg) {
  (void)arg;
  int64_t now_ns = rctx_manager_now(manager), until_ns;
  rctx_touch_at(timed, now_ns);
  int err = look(timed);
  CHECK(err == 0 || err == -ETIMEDOUT);
  if (err == 0 && rctx_deadline(timed, &until_ns)) rctx_touch(timed);
}
static void move_idle(void *arg) {
  (void)arg;
  int64_t to_ns = rctx_manager_now(manager) + 2 * SIM_MS;
  int rc = rctx_move_deadline(timed, to_ns);
  CHECK(rc == 0 || rc == -ETIMEDOUT);
  if (rc == 0 && look(timed) != 0) CHECK(sim_now() >= to_ns);
}
static void wait_for_idle(void *arg) {
  (void)arg;
  CHECK_EQUAL(rctx_wait(timed, SIM_NEVER), -ETIMEDOUT);
}

/* Progress is told, and the deadline moved, while it comes due. */
void idle_touch(void) {
  open_manager((struct rctx_manager_options){0});
  timed = rctx_with_idle(root(), SIM_MS);
  sim_spawn(touch, NULL);
  sim_spawn(move_idle, NULL);
  sim_spawn(wait_for_idle, NULL);
  sim_join_all();
  rctx_end(timed);
  close_manager();
}
