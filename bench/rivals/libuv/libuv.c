/*
 * libuv's timers: uv_timer_t, kept in its heap, in whole milliseconds, counted from the loop's cached time, which is brought
 * up to date by uv_update_time() before a burst of timers, as its documentation says. All on one thread, that of the loop.
 */
#include "../loop_timer.h"

#include <uv.h>

static uv_loop_t loop;

static void call(uv_timer_t *handle) {
  struct loop_timer *timer = handle->data;
  timer->fire(timer);
}

static void open_loop(void) { uv_loop_init(&loop); }

static void prepare(struct loop_timer *timer) {
  uv_timer_t *handle = loop_timer_impl(timer);
  uv_timer_init(&loop, handle);
  handle->data = timer;
}

/* Rounded up: never early. */
static void start(struct loop_timer *timer, int64_t timeout_ns) {
  uv_timer_start(loop_timer_impl(timer), call, (uint64_t)(timeout_ns + 999999) / 1000000, 0);
}

static void stop(struct loop_timer *timer) { uv_timer_stop(loop_timer_impl(timer)); }

static void update(void) { uv_update_time(&loop); }

static void run(void) { uv_run(&loop, UV_RUN_DEFAULT); }

const struct loop_library loop_library = {
    .timer_size = sizeof(uv_timer_t),
    .open = open_loop,
    .update = update,
    .prepare = prepare,
    .start = start,
    .stop = stop,
    .run = run,
};

const struct bench_program bench_program = {
    .name = "libuv",
    .version = uv_version_string,
    .blind = "timers alone, of whole milliseconds by a cached clock: no contexts, no tree, no values, one thread",
    .tables = loop_tables,
};
