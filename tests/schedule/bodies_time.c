/* bodies_time.c - timers: fire and stop, arm and kick, move. Time is the scheduler's. */
#include "bodies.h"
#include "body.h"

#include <string.h>

enum { SOON = 1, LATER = 5, MUCH_LATER = 50 };
static const int64_t TICK_NS = SIM_MS, WORK_NS = SIM_MS / 2; /* a clock reading takes time, too */

static rctx *top, *timed;
static struct watch watch;

/* ---- fire and stop ----------------------------------------------------------------------------------------------- */

static void sleep_a_while(void *arg) {
  (void)arg;
  rctx_sleep(top, SIM_MS * (1 + sim_random(2)));
}
static void end_timed(void *arg) {
  (void)arg;
  if (sim_random(2)) rctx_sleep(top, SIM_MS); /* about when it fires */
  if (sim_random(2)) rctx_cancel_cause(timed, &cause_a);
  int err = look_whole(timed);
  CHECK(err == 0 || err == -EPIPE || err == -ETIMEDOUT);
  rctx_end(timed);
}

/* A deadline passes while its context is cancelled and given back: one of them ends it, and the callback runs once. */
void timer_fire_stop(void) {
  open_manager((struct rctx_manager_options){0});
  watch = (struct watch){.ran = 0};
  top = rctx_with_cancel(root());
  timed = rctx_with_timeout(top, SIM_MS);
  rctx *below = rctx_with_cancel(timed);
  rctx_after_inline(below, &watch.node, RCTX_ON_ENDED_RUN, on_end, &watch);
  sim_spawn(end_timed, NULL);
  sim_spawn(sleep_a_while, NULL);
  sim_spawn(end_it, below);
  sim_join_all();
  bool stopped = rctx_after_stop_sync(&watch.node); /* the driver may still be on its way to it */
  CHECK_EQUAL(watch.ran + stopped, 1);
  rctx_end(top);
  close_manager();
}

static void cancel_after_a_while(void *ctx) {
  if (sim_random(2)) rctx_sleep(top, SIM_MS);
  rctx_cancel_cause(ctx, &cause_a);
  CHECK(look_whole(timed) != 0);
}
static void wait_for_timed(void *arg) {
  (void)arg;
  int err = rctx_wait(timed, SIM_NEVER);
  CHECK(err == -EPIPE || err == -ETIMEDOUT);
  CHECK_EQUAL(look_whole(timed), err);
}

/* The parent is cancelled when the child's own time has come; a thread waits for it. */
void timer_parent(void) {
  open_manager((struct rctx_manager_options){0});
  top = rctx_with_cancel(root());
  rctx *parent = rctx_with_cancel(top);
  timed = rctx_with_timeout(parent, SIM_MS);
  sim_spawn(cancel_after_a_while, parent);
  sim_spawn(wait_for_timed, NULL);
  sim_spawn(sleep_a_while, NULL);
  sim_join_all();
  rctx_end(timed);
  rctx_end(parent);
  rctx_end(top);
  close_manager();
}

/* ---- arm and kick ------------------------------------------------------------------------------------------------ */

/* Time stands still while anybody can run: who comes later than this has been forgotten by the driver. */
static void expect_punctual(int64_t deadline_ns) {
  CHECK(sim_now() >= deadline_ns);
  CHECK(sim_now() <= deadline_ns + TICK_NS + WORK_NS);
}

static void arm_and_wait(void *arg) {
  int64_t deadline_ns = rctx_manager_now(manager) + *(const int64_t *)arg;
  rctx *mine = rctx_with_deadline(root(), deadline_ns);
  CHECK_EQUAL(rctx_wait(mine, SIM_NEVER), -ETIMEDOUT);
  expect_punctual(deadline_ns);
  rctx_end(mine);
}

static const int64_t times_ns[] = {SOON * SIM_MS, LATER *SIM_MS, MUCH_LATER *SIM_MS, 0};

/* The first timers of a manager, from three threads: shards, driver and kicks come into being. */
void timer_first_kick(void) {
  open_manager((struct rctx_manager_options){0});
  for (int i = 0; i < 3; i++) sim_spawn(arm_and_wait, (void *)(uintptr_t)&times_ns[i]);
  sim_join_all();
  close_manager();
}

/* The driver makes up its mind to sleep for long while others arm what is earlier. */
void timer_kick(void) {
  open_manager((struct rctx_manager_options){0});
  rctx *far = rctx_with_timeout(root(), MUCH_LATER * SIM_MS);
  rctx *near = rctx_with_timeout(root(), SIM_MS / 2);
  for (int i = 0; i < 2; i++) sim_spawn(arm_and_wait, (void *)(uintptr_t)&times_ns[sim_random(2)]);
  sim_spawn(end_it, near);
  sim_join_all();
  rctx_end(far);
  close_manager();
}

/* ---- an embedder drives ------------------------------------------------------------------------------------------ */

static uint32_t kicked;
static bool over;

static void on_kick(void *arg) {
  (void)arg;
  sim_point(&kicked, __func__, __LINE__);
  kicked++;
  sim_wake(SIM_ON_FUTEX, &kicked, UINT32_MAX);
}

static void drive(void *arg) {
  (void)arg;
  while (!over) {
    uint32_t seen = kicked;
    int64_t now_ns = rctx_manager_now(manager);
    rctx_advance(manager, now_ns, 0);
    int64_t next_ns = rctx_next(manager, now_ns);
    sim_point(&kicked, __func__, __LINE__);
    if (seen == kicked && !over) sim_block(SIM_ON_FUTEX, &kicked, next_ns);
  }
}

static unsigned armers;
static void arm_for_embedder(void *arg) {
  arm_and_wait(arg);
  if (--armers > 0) return;
  over = true;
  on_kick(NULL);
}

/* The same handshake by rctx_next() and the kick of the options. */
void timer_kick_embedder(void) {
  kicked = 0;
  over = false;
  armers = 2;
  open_manager((struct rctx_manager_options){.drive = RCTX_DRIVE_EMBEDDER, .kick = on_kick});
  sim_spawn(drive, NULL);
  sim_spawn(arm_for_embedder, (void *)(uintptr_t)&times_ns[0]);
  sim_spawn(arm_for_embedder, (void *)(uintptr_t)&times_ns[1]);
  sim_join_all();
  close_manager();
}

/* ---- deadlines that move ----------------------------------------------------------------------------------------- */

static void move_it(void *arg) {
  (void)arg;
  if (sim_random(2)) rctx_sleep(top, SIM_MS);
  int64_t to_ns = rctx_manager_now(manager) + times_ns[sim_random(2)];
  int rc = rctx_move_deadline(timed, to_ns);
  CHECK(rc == 0 || rc == -ETIMEDOUT);
  if (rc) CHECK_EQUAL(look_whole(timed), rc);
  if (rc == 0) CHECK(rctx_err(timed) == 0 || sim_now() >= to_ns || rctx_deadline(timed, &to_ns));
}

/* Moved by two while it comes due; it ends in the end, once, by its deadline. */
void timer_move(void) {
  open_manager((struct rctx_manager_options){0});
  watch = (struct watch){.ran = 0};
  top = rctx_with_cancel(root());
  timed = rctx_derive(top, &(struct rctx_spec){.timeout_ns = SIM_MS, .movable = true});
  rctx_after_inline(timed, &watch.node, RCTX_ON_ENDED_RUN, on_end, &watch);
  sim_spawn(move_it, NULL);
  sim_spawn(move_it, NULL);
  sim_spawn(wait_for_timed, NULL);
  sim_join_all();
  bool stopped = rctx_after_stop_sync(&watch.node); /* the driver may still be on its way to it */
  CHECK_EQUAL(watch.ran + stopped, 1);
  CHECK_EQUAL(rctx_err(timed), -ETIMEDOUT);
  rctx_end(timed);
  rctx_end(top);
  close_manager();
}
