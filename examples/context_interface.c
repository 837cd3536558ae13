/*
 * context_interface.c - the four methods of Go's Context: Deadline, Done, Err, Value.
 *
 * In Go:
 *   ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
 *   defer cancel()
 *   ctx = context.WithValue(ctx, userKey, "ann")
 *   deadline, ok := ctx.Deadline()
 *   <-ctx.Done()
 *   err := ctx.Err()
 *   user, ok := ctx.Value(userKey).(string)
 *
 * Look at: Done, which is one channel in Go and three things here: a wait, a descriptor, a callback. And at Value,
 * which needs no type assertion: the key has the type.
 */
#include "example.h"
#include <rctx/rctx.h>
#include <string.h>

RCTX_KEY(user, const char *, "who asks: for access checks")

static void deadline(const rctx *ctx) {
  int64_t at_ns;

  printf("Deadline\n");
  expect(!rctx_deadline(rctx_background(), &at_ns));
  printf("  background: none\n");
  expect(rctx_deadline(ctx, &at_ns));
  printf("  ctx:        in at most 50 ms\n");
  expect(at_ns - rctx_now() <= 50 * MS);

  RCTX_SCOPED rctx *later = rctx_with_timeout(ctx, 3600 * SECOND);
  int64_t later_at_ns;
  expect(rctx_deadline(later, &later_at_ns) && later_at_ns == at_ns);
  printf("  a child that asks for an hour has its parent's: the earlier one counts\n");
}

static void note_the_end(const rctx *ctx, void *arg) {
  (void)ctx;
  *(bool *)arg = true;
}

static void done(const rctx *ctx) {
  struct pollfd fd = {.fd = rctx_fd(ctx), .events = POLLIN};
  struct rctx_after node = {0};
  bool called = false;

  printf("Done\n");
  expect(rctx_after(ctx, &node, note_the_end, &called) >= 0);
  printf("  rctx_wait   blocks until then, or until a time of the caller's own:\n");
  expect(rctx_wait(ctx, rctx_now()) == 0 || rctx_err(ctx) != 0);
  expect(rctx_wait(ctx, INT64_MAX) == -ETIMEDOUT);
  printf("              \"%s\"\n", rctx_strerror(rctx_err(ctx)));
  printf("  rctx_fd     is a descriptor for poll(2) and event loops, readable from then on\n");
  expect(poll(&fd, 1, -1) == 1);
  printf("  rctx_after  calls a function then, on a thread of the library\n");
  expect(rctx_quiesce(rctx_manager_of(ctx), INT64_MAX) == 0);
  expect(!rctx_after_stop_sync(&node)); /* false: it has run; and now the node may go out of scope */
  expect(called);
}

static void err(void) {
  RCTX_SCOPED rctx *parent = rctx_with_cancel(rctx_background());
  RCTX_SCOPED rctx *child = rctx_with_cancel(parent);
  struct rctx_why why;

  printf("Err\n");
  expect(rctx_err(child) == 0);
  printf("  live:                %d, one load\n", rctx_err(child));
  rctx_cancel(parent);
  expect(rctx_err(child) == -ECANCELED);
  printf("  its parent canceled: -ECANCELED, \"%s\"\n", rctx_strerror(rctx_err(child)));
  expect(rctx_why(child, &why) == -ECANCELED);
  expect(why.levels_up == 1 && why.cause->file && strstr(why.cause->file, "context_interface.c"));
  printf("  and why:             canceled %u level up, in %s:%d\n", why.levels_up, why.cause->file, why.cause->line);
}

static void value(const rctx *ctx) {
  RCTX_SCOPED rctx *call = user_with(ctx, "ann");
  const char *name = NULL;

  printf("Value\n");
  expect(!user_get(ctx, &name));
  printf("  ctx:   none\n");
  expect(user_get(call, &name) && strcmp(name, "ann") == 0);
  printf("  child: \"%s\", readable although ctx has ended (%s)\n", name, rctx_strerror(rctx_err(call)));
}

int main(void) {
  RCTX_SCOPED rctx *ctx = rctx_with_timeout(rctx_background(), 50 * MS);

  deadline(ctx);
  done(ctx);
  err();
  value(ctx);
  return expectations_failed();
}
