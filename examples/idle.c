/*
 * idle.c - two limits for one transfer: a total, and a time without progress; and a deadline that is moved.
 *
 * In Go an idle limit is a timer that is reset at each read, with the race that Timer.Reset documents. Here it is a context: each
 * read touches it, the timer stays where it is, and whatever is below ends with the first of the two limits.
 *
 * Look at: the clock is the program's own, so that nothing waits (docs/guide/testing.md).
 */
#include "example.h"
#include <rctx/rctx.h>

static int64_t clock_ns = 1000 * SECOND;
static int64_t read_clock(void *arg) {
  (void)arg;
  return clock_ns;
}

static void pass(rctx_manager *manager, int64_t ns) {
  clock_ns += ns;
  rctx_advance(manager, clock_ns, 0);
}

/* A peer that sends a piece every pause_ns. Returns how many pieces came. */
static int receive(rctx_manager *manager, rctx *idle, int64_t pause_ns, int pieces) {
  int got = 0;
  while (got < pieces) {
    pass(manager, pause_ns);
    if (rctx_err(idle)) break;
    got++;
    rctx_touch(idle);
  }
  return got;
}

static int transfer(rctx_manager *manager, const char *peer, int64_t pause_ns, int pieces) {
  RCTX_SCOPED rctx *total = rctx_with_timeout(rctx_manager_background(manager), 30 * SECOND);
  RCTX_SCOPED rctx *idle = rctx_with_idle(total, 5 * SECOND);
  int got = receive(manager, idle, pause_ns, pieces);
  const struct rctx_cause *cause = rctx_cause(idle);
  printf("%-7s %2d of %2d pieces: %s\n", peer, got, pieces, cause ? cause->text : "complete");
  return got;
}

static void move(rctx_manager *manager) {
  RCTX_SCOPED rctx *lease =
      rctx_derive(rctx_manager_background(manager), &(struct rctx_spec){.timeout_ns = 10 * SECOND, .movable = true});
  RCTX_SCOPED rctx *work = rctx_with_cancel(lease);

  pass(manager, 8 * SECOND);
  expect(rctx_remaining(work) == 2 * SECOND);
  expect(rctx_move_deadline(lease, clock_ns + 10 * SECOND) == 0);
  printf("lease   renewed with 2 s left: the work below has %d s\n", (int)(rctx_remaining(work) / SECOND));
  expect(rctx_remaining(work) == 10 * SECOND);
  pass(manager, 11 * SECOND);
  int err = rctx_move_deadline(lease, clock_ns + 10 * SECOND);
  printf("        renewed a second late: %s\n", rctx_strerror(err));
  expect(err == -ETIMEDOUT && rctx_err(work) == -ETIMEDOUT);
}

int main(void) {
  rctx_manager *manager;
  struct rctx_manager_options options = {.drive = RCTX_DRIVE_EMBEDDER, .now = read_clock};

  require(rctx_manager_create(&options, &manager) == 0);
  expect(transfer(manager, "brisk", 1 * SECOND, 20) == 20);
  expect(transfer(manager, "stalled", 6 * SECOND, 20) == 0);
  expect(transfer(manager, "slow", 4 * SECOND, 20) == 7); /* never idle, but the total is up */
  move(manager);
  expect(rctx_manager_destroy(manager) == 0);
  return expectations_failed();
}
