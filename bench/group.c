/*
 * group_fanout_8: a request that asks eight parts of a program at once: a group of eight tasks that do nothing, on the
 * executor of the default manager, and the wait for them. What it costs to hand out work and to get it back.
 */
#include "cases.h"

#include <rctx/rctx.h>

enum { TASKS = 8 };

static void *open_server(const struct bench_case *self) {
  (void)self;
  return rctx_with_cancel(rctx_background());
}

static void close_server(void *server) { rctx_end((rctx *)server); }

static int nothing(const rctx *ctx, void *arg) {
  (void)ctx;
  (void)arg;
  return 0;
}

static void fanout(void *server, size_t ops) {
  for (size_t i = 0; i < ops; i++) {
    RCTX_SCOPED_GROUP struct rctx_group group;
    rctx_group_init(&group, (rctx *)server);
    for (int task = 0; task < TASKS; task++) {
      rctx_group_go(&group, nothing, NULL);
    }
    bench_keep_int(rctx_group_wait(&group));
  }
}

/* Two threads or more, so their caches may need a block now and then: allocations are counted, not forbidden. */
const struct bench_case bench_group_cases[] = {
    {.name = "group_fanout_8",
     .open = open_server,
     .run = fanout,
     .close = close_server,
     .warm = 512,
     .uncounted = true},
    {.name = NULL},
};
