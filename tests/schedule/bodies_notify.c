/* bodies_notify.c - callbacks, waits, descriptors, loops and condition variables against the end. */
#include "bodies.h"
#include "body.h"

#include <poll.h>
#include <pthread.h>
#include <string.h>

static rctx *top, *left, *right;
static struct watch watch[3];
static bool stopped[3];

static void open_top(void) {
  open_manager((struct rctx_manager_options){0});
  top = rctx_with_cancel(root());
  memset(watch, 0, sizeof watch);
  memset(stopped, 0, sizeof stopped);
}

static void close_top(void) {
  rctx_end(top);
  close_manager();
}

/* ---- deregister and callback ------------------------------------------------------------------------------------- */

static void stop_sync_first(void *arg) {
  (void)arg;
  stopped[0] = rctx_after_stop_sync(&watch[0].node);
  watch[0].gone = true;
}
static void stop_second(void *arg) {
  (void)arg;
  stopped[1] = rctx_after_stop(&watch[0].node);
}

/* It runs or one of two stops gets it; after the one that waits it does not run any more. */
void stop_callback(void) {
  open_top();
  CHECK_EQUAL(rctx_after_inline(top, &watch[0].node, RCTX_ON_ENDED_TELL, on_end, &watch[0]), RCTX_REGISTERED);
  sim_spawn(cancel_with_a, top);
  sim_spawn(stop_sync_first, NULL);
  sim_spawn(stop_second, NULL);
  sim_join_all();
  CHECK_EQUAL(watch[0].ran + stopped[0] + stopped[1], 1);
  close_top();
}

static bool noticed;
static void on_quiet(void *arg) {
  (void)arg;
  CHECK_EQUAL(watch[0].ran, 1);
  watch[0].gone = noticed = true;
}
static void stop_with_notice(void *arg) {
  bool quiet;
  (void)arg;
  stopped[0] = rctx_after_stop_notify(&watch[0].node, on_quiet, NULL, &quiet);
  if (stopped[0]) CHECK(quiet);
  while (!quiet && !noticed) sim_stuck(__func__, __LINE__);
}

/* The notice comes once, and only when the callback has returned; the callback thread runs it. */
void stop_notify(void) {
  open_top();
  noticed = false;
  CHECK_EQUAL(rctx_after(top, &watch[0].node, on_end, &watch[0]), RCTX_REGISTERED);
  sim_spawn(cancel_with_a, top);
  sim_spawn(stop_with_notice, NULL);
  sim_spawn(stop_second, NULL);
  sim_join_all();
  rctx_after_stop_sync(&watch[0].node);
  CHECK_EQUAL(watch[0].ran + stopped[0] + stopped[1], 1);
  close_top();
}

static void register_one(void *arg) {
  struct watch *mine = arg;
  enum rctx_on_ended how = sim_random(2) ? RCTX_ON_ENDED_RUN : RCTX_ON_ENDED_TELL;
  int found = rctx_after_inline(top, &mine->node, how, on_end, mine);
  if (found == RCTX_ENDED) CHECK_EQUAL(mine->ran, how == RCTX_ON_ENDED_RUN ? 1 : 0);
  if (found == RCTX_ENDED && how == RCTX_ON_ENDED_TELL) mine->ran = 1; /* told */
}

/* Registered while the cancel runs: each runs once, or is told. */
void register_cancel(void) {
  open_top();
  sim_spawn(cancel_with_a, top);
  sim_spawn(register_one, &watch[0]);
  sim_spawn(register_one, &watch[1]);
  sim_join_all();
  CHECK(watch[0].ran == 1 && watch[1].ran == 1);
  close_top();
}

static void on_end_drop(const rctx *ctx, void *arg) {
  on_end(ctx, arg);
  rctx_end(left); /* the last hold on what it is called for */
}

/* The context goes with its own callback, while its parent is ended and another registers above. */
void callback_ends_its_context(void) {
  open_top();
  left = rctx_with_cancel(top);
  CHECK_EQUAL(rctx_after_inline(left, &watch[0].node, RCTX_ON_ENDED_TELL, on_end_drop, &watch[0]), RCTX_REGISTERED);
  sim_spawn(cancel_with_a, top);
  sim_spawn(register_one, &watch[1]);
  sim_join_all();
  CHECK(watch[0].ran == 1 && watch[1].ran == 1);
  close_top();
}

/* ---- waits --------------------------------------------------------------------------------------------------------- */

static void wait_for(void *ctx) {
  CHECK(rctx_wait(ctx, SIM_NEVER) != 0);
  CHECK(look_whole(ctx) != 0);
}

/* No wakeup is lost: by two that wait and one that ends, directly or from above. */
void wait_cancel(void) {
  open_top();
  left = rctx_with_cancel(top);
  rctx *waited = sim_random(2) ? top : left;
  sim_spawn(wait_for, waited);
  sim_spawn(wait_for, waited);
  sim_spawn(cancel_with_a, top);
  sim_join_all();
  rctx_end(left);
  close_top();
}

static int fds[2];
static void make_fd(void *arg) {
  int *fd = arg;
  *fd = rctx_fd(left);
  CHECK(*fd >= 0);
  struct pollfd one = {.fd = *fd, .events = POLLIN};
  CHECK_EQUAL(poll(&one, 1, -1), 1);
  CHECK(rctx_err(left) != 0);
}
static void cancel_above(void *arg) {
  (void)arg;
  rctx_cancel(top);
  if (fds[0] > 0) CHECK(sim_fd_readable(fds[0]));
}

/* A descriptor made while the context ends is readable, whoever came first, and is the same for all. */
void fd_cancel(void) {
  open_top();
  fds[0] = fds[1] = 0;
  left = rctx_with_cancel(top);
  sim_spawn(make_fd, &fds[0]);
  sim_spawn(make_fd, &fds[1]);
  sim_spawn(cancel_above, NULL);
  sim_join_all();
  CHECK_EQUAL(fds[0], fds[1]);
  rctx_end(left);
  close_top();
}

static void poll_it(void *ctx) { CHECK_EQUAL(rctx_poll(ctx, NULL, 0, SIM_NEVER), -EPIPE); }

void poll_cancel(void) {
  open_top();
  sim_spawn(poll_it, top);
  sim_spawn(wait_for, top);
  sim_spawn(cancel_with_a, top);
  sim_join_all();
  close_top();
}

/* ---- condition variables ----------------------------------------------------------------------------------------- */

static pthread_mutex_t mutex;
static pthread_cond_t cond;
static unsigned tokens, taken, ended;

static void take_token(void *ctx) {
  int err = 0;
  pthread_mutex_lock(&mutex);
  while (tokens == 0 && err == 0) err = rctx_cond_wait(ctx, &cond, &mutex);
  if (tokens > 0) {
    tokens--;
    taken++;
  } else {
    CHECK_EQUAL(err, rctx_err(ctx));
    ended++;
  }
  pthread_mutex_unlock(&mutex);
}
static void give_and_cancel(void *ctx) {
  bool under_lock = sim_random(2);
  pthread_mutex_lock(&mutex);
  tokens++;
  pthread_cond_signal(&cond);
  if (under_lock) rctx_cancel(ctx);
  pthread_mutex_unlock(&mutex);
  if (!under_lock) rctx_cancel(ctx);
}

/* One of two waiters gets the token, also if the end and the signal met; the other learns of the end. */
void cond_wait(void) {
  open_top();
  pthread_mutex_init(&mutex, NULL);
  pthread_cond_init(&cond, NULL);
  tokens = taken = ended = 0;
  left = rctx_with_cancel(top);
  bool both = sim_random(2);
  sim_spawn(take_token, left);
  sim_spawn(take_token, both ? top : left);
  sim_spawn(give_and_cancel, both ? top : left);
  sim_join_all();
  CHECK_EQUAL(taken, 1);
  CHECK_EQUAL(ended, 1);
  pthread_mutex_destroy(&mutex);
  rctx_end(left);
  close_top();
}

/* ---- event loops ------------------------------------------------------------------------------------------------- */

static rctx_loop *loop;
static unsigned drains;

static void run_loop(void *arg) {
  unsigned wanted = *(unsigned *)arg, got = 0;
  struct pollfd one = {.fd = rctx_loop_fd(loop), .events = POLLIN};
  for (drains = 0; got < wanted; drains++) { /* one that waits for ever has lost a wakeup */
    CHECK_EQUAL(poll(&one, 1, -1), 1);
    got += (unsigned)rctx_loop_drain(loop, sim_random(3) + 1);
  }
  CHECK_EQUAL(rctx_loop_drain(loop, 1), 0);
}

/* Nothing that is queued is lost, whatever is drained meanwhile, and no end writes more than once. */
void loop_queue(void) {
  static unsigned wanted = 3;
  open_top();
  left = rctx_with_cancel(top);
  right = rctx_with_cancel(root());
  CHECK_EQUAL(rctx_loop_create(&loop), 0);
  rctx_watch(top, &watch[0].node, loop, RCTX_ON_ENDED_TELL, on_end, &watch[0]);
  rctx_watch(left, &watch[1].node, loop, RCTX_ON_ENDED_TELL, on_end, &watch[1]);
  rctx_watch(right, &watch[2].node, loop, RCTX_ON_ENDED_TELL, on_end, &watch[2]);
  sim_spawn(run_loop, &wanted);
  sim_spawn(cancel_with_a, top);
  sim_spawn(cancel_with_a, right);
  sim_join_all();
  for (int i = 0; i < 3; i++) CHECK_EQUAL(watch[i].ran, 1);
  CHECK(sim_fd_writes(rctx_loop_fd(loop)) <= wanted + drains);
  rctx_loop_destroy(loop);
  rctx_end(left);
  rctx_end(right);
  close_top();
}

/* A burst: nobody drains, so whatever comes from two sides is one write. */
void loop_burst(void) {
  open_top();
  left = rctx_with_cancel(top);
  right = rctx_with_cancel(root());
  CHECK_EQUAL(rctx_loop_create(&loop), 0);
  rctx_watch(top, &watch[0].node, loop, RCTX_ON_ENDED_TELL, on_end, &watch[0]);
  rctx_watch(left, &watch[1].node, loop, RCTX_ON_ENDED_TELL, on_end, &watch[1]);
  rctx_watch(right, &watch[2].node, loop, RCTX_ON_ENDED_TELL, on_end, &watch[2]);
  sim_spawn(cancel_with_a, top);
  sim_spawn(cancel_with_a, right);
  sim_join_all();
  CHECK_EQUAL(sim_fd_writes(rctx_loop_fd(loop)), 1);
  CHECK_EQUAL(rctx_loop_drain(loop, 2), 2);
  CHECK(sim_fd_readable(rctx_loop_fd(loop)));
  CHECK_EQUAL(rctx_loop_drain(loop, 2), 1);
  CHECK(!sim_fd_readable(rctx_loop_fd(loop)));
  rctx_loop_destroy(loop);
  rctx_end(left);
  rctx_end(right);
  close_top();
}

static void drain_and_destroy(void *arg) {
  (void)arg;
  rctx_loop_drain(loop, 1);
  rctx_loop_destroy(loop);
}
static void stop_one(void *arg) {
  (void)arg;
  stopped[0] = rctx_after_stop(&watch[0].node);
}

/* A loop goes while contexts end and a registration is taken back: each has run, or the first stop on it says so. */
void loop_destroy(void) {
  open_top();
  CHECK_EQUAL(rctx_loop_create(&loop), 0);
  rctx_watch(top, &watch[0].node, loop, RCTX_ON_ENDED_TELL, on_end, &watch[0]);
  rctx_watch(top, &watch[1].node, loop, RCTX_ON_ENDED_TELL, on_end, &watch[1]);
  sim_spawn(drain_and_destroy, NULL);
  sim_spawn(cancel_with_a, top);
  sim_spawn(stop_one, NULL);
  sim_join_all();
  if (!stopped[0]) stopped[0] = rctx_after_stop(&watch[0].node);
  stopped[1] = rctx_after_stop(&watch[1].node);
  CHECK(watch[0].ran + stopped[0] == 1 && watch[1].ran + stopped[1] == 1);
  close_top();
}

/* ---- merges -------------------------------------------------------------------------------------------------------- */

static rctx *merged;

static void open_merge(bool all) {
  open_top();
  left = rctx_with_cancel(top);
  right = rctx_with_cancel(root());
  const rctx *parents[] = {left, right};
  merged = all ? rctx_merge_all(parents, 2) : rctx_merge_any(parents, 2);
  rctx_after_inline(merged, &watch[0].node, RCTX_ON_ENDED_TELL, on_end, &watch[0]);
}
static void close_merge(void) {
  const struct rctx_cause *cause = rctx_cause(merged);
  CHECK_EQUAL(watch[0].ran, 1);
  CHECK(cause == &cause_a || cause == &cause_b);
  look_whole(merged);
  rctx_end(merged);
  rctx_end(left);
  rctx_end(right);
  close_top();
}

static void cancel_with_b(void *ctx) { rctx_cancel_cause(ctx, &cause_b); }
static void cancel_b_and_look(void *ctx) {
  rctx_cancel_cause(ctx, &cause_b);
  CHECK(look(merged) != 0);
}

/* Both parents end at once: it ends once, by one of them. */
void merge_any(void) {
  open_merge(false);
  sim_spawn(cancel_with_a, top);
  sim_spawn(cancel_b_and_look, right);
  sim_spawn(wait_for, merged);
  sim_join_all();
  close_merge();
}
void merge_all(void) {
  open_merge(true);
  sim_spawn(cancel_with_a, top);
  sim_spawn(cancel_with_b, right);
  sim_spawn(wait_for, merged);
  sim_join_all();
  close_merge();
}

/* It is given back while its parents end, and one of them goes, too. */
void merge_end(void) {
  open_top();
  left = rctx_with_cancel(top);
  right = rctx_with_cancel(root());
  const rctx *parents[] = {left, right};
  merged = sim_random(2) ? rctx_merge_all(parents, 2) : rctx_merge_any(parents, 2);
  sim_spawn(cancel_with_a, top);
  sim_spawn(end_it, right);
  sim_spawn(end_it, merged);
  sim_join_all();
  rctx_end(left);
  close_top();
}
