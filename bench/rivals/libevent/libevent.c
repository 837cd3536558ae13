/*
 * libevent's timers, as its book recommends them for timeouts of many different lengths: one event per timer, embedded
 * (event_assign), kept in its heap. All on one thread, that of the loop: no lock. Its clock is the coarse one, as it comes
 * (EVENT_BASE_FLAG_PRECISE_TIMER costs more): timers may be some milliseconds early.
 */
#include "../loop_timer.h"
#include "clock.h"

#include <event2/event.h>
#include <event2/event_struct.h>
#include <stdlib.h>

static struct event_base *base;

static struct timeval timeval_of(int64_t ns) {
  return (struct timeval){.tv_sec = ns / BENCH_SECOND, .tv_usec = ns % BENCH_SECOND / 1000};
}

static void call(evutil_socket_t fd, short what, void *arg) {
  struct loop_timer *timer = arg;
  (void)fd;
  (void)what;
  timer->fire(timer);
}

static void open_loop(void) { base = event_base_new(); }

static void prepare(struct loop_timer *timer) { event_assign(loop_timer_impl(timer), base, -1, 0, call, timer); }

static void start(struct loop_timer *timer, int64_t timeout_ns) {
  struct timeval timeout = timeval_of(timeout_ns);
  event_add(loop_timer_impl(timer), &timeout);
}

static void stop(struct loop_timer *timer) { event_del(loop_timer_impl(timer)); }

static void run(void) { event_base_dispatch(base); }

const struct loop_library loop_library = {
    .timer_size = sizeof(struct event),
    .open = open_loop,
    .prepare = prepare,
    .start = start,
    .stop = stop,
    .run = run,
};

const struct bench_program bench_program = {
    .name = "libevent",
    .version = event_get_version,
    .blind = "timers alone, by a coarse clock: no contexts, no tree, no values, one thread",
    .tables = loop_tables,
};
