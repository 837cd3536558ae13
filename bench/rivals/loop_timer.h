/* The timer cases of an event loop; see loop_timer.c. A rival fills in a loop_library. */
#ifndef RCTX_BENCH_RIVALS_LOOP_TIMER_H
#define RCTX_BENCH_RIVALS_LOOP_TIMER_H

#include "cases.h"

/* The library's own timer stands right behind it. */
struct loop_timer {
  void (*fire)(struct loop_timer *self);
  size_t index;
};

static inline void *loop_timer_impl(struct loop_timer *timer) { return timer + 1; }

struct loop_library {
  size_t timer_size; /* of the library's own */
  void (*open)(void);
  void (*update)(void); /* NULL, or: bring a cached time up to date */
  void (*prepare)(struct loop_timer *timer);
  void (*start)(struct loop_timer *timer, int64_t timeout_ns);
  void (*stop)(struct loop_timer *timer);
  void (*run)(void); /* until no timer is left */
};
extern const struct loop_library loop_library;

extern const struct bench_case *const loop_tables[];

#endif
