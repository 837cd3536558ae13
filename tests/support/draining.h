// draining.h - a drain for each test, and what the drain tests ask of it.
//
// A context is known to be gone by the destructor of a value that it owns: counted().
#ifndef RCTX_TESTS_DRAINING_H
#define RCTX_TESTS_DRAINING_H

#include "support/check.h"
#include "support/leftovers.h"
#include "support/watchdog.h"

#include <stdatomic.h>

enum { CHAOS_ONE_IN = 3, WATCHDOG_S = 60 };

#if defined(__SANITIZE_THREAD__)
enum { SLOWER = 4 };
#elif CHECK_LEAKS
enum { SLOWER = 3 };
#else
enum { SLOWER = 1 };
#endif

static rctx_drain *drain;

static inline void drain_open_on(const rctx *parent) {
  watchdog(WATCHDOG_S);
  if (rctx_drain_create(parent, "work", &drain) != 0) abort();
}

static inline void drain_open(void) { drain_open_on(rctx_background()); }

static inline void drain_close(void) {
  rctx_drain_destroy(drain);
  nothing_left(rctx_manager_default());
}

static atomic_int gone; // contexts with counted() that are gone

static inline void count_gone(void *value) {
  (void)value;
  atomic_fetch_add(&gone, 1);
}

static const struct rctx_key gone_key = {.name = "gone"};

// A spec whose context raises `gone` when it is gone.
static inline const struct rctx_spec *counted(void) {
  static const struct rctx_value values[] = {{&gone_key, NULL, count_gone}};
  static const struct rctx_spec spec = {.values = values, .nvalues = 1, .name = "counted"};
  return &spec;
}

static inline bool is_drained(void) { return rctx_err(rctx_drain_drained(drain)) != 0; }

// Waits as long as it takes; the watchdog ends a wait for ever. Nobody calls into the library meanwhile.
static inline void gets_drained(void) { cr_assert_lt(rctx_wait(rctx_drain_drained(drain), INT64_MAX), 0); }

static inline void ended_by_shutdown(const rctx *ctx, int err, const char *text) {
  struct rctx_why why;
  cr_assert_eq(rctx_why(ctx, &why), err, "%d instead of %d", why.err, err);
  cr_assert_eq(why.origin, RCTX_ORIGIN_SHUTDOWN, "origin %d", why.origin);
  cr_assert_eq(why.cause, rctx_cause(ctx));
  cr_assert_eq(why.cause->code, err);
  cr_assert_str_eq(why.cause->text, text);
}

static inline struct rctx_drain_left left_now(void) {
  struct rctx_drain_left left;
  memset(&left, 0xff, sizeof left);
  rctx_drain_look(drain, &left);
  return left;
}

static inline void nothing_is_left(void) {
  struct rctx_drain_left left = left_now();
  cr_assert(left.requests == 0 && left.contexts == 0 && left.live == 0 && left.detached == 0 && left.tasks == 0 &&
                left.orphans == 0,
            "requests %zu, contexts %zu, live %zu, detached %zu, tasks %zu, orphans %zu", left.requests, left.contexts,
            left.live, left.detached, left.tasks, left.orphans);
  cr_assert_null(left.example);
}

// Plans a level that can be planned.
static inline void plan(rctx_drain *of, enum rctx_drain_level level, int64_t at_ns) {
  cr_assert_eq(rctx_drain_raise_at(of, level, at_ns), 0);
}

#endif
