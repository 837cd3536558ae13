// rows_quiet.c - rows of rows.h: logs, dumps, counts, budgets, leak reports; virtual time and memory that fails.
#include "faults/rows.h"

#include <fcntl.h>
#include <stdarg.h>
#include <unistd.h>

/* ---- seen from outside ------------------------------------------------------------------------------------------- */

static char room[4096];

static size_t log_by_list(const rctx *ctx, const char *format, ...) {
  va_list values;
  va_start(values, format);
  size_t length = rctx_log_vformat(room, sizeof room, ctx, RCTX_LOG_INFO, format, values);
  va_end(values);
  return length;
}

static int drop_piece(const char *text, size_t size, void *arg) {
  (void)text;
  (void)size;
  (void)arg;
  return 0;
}

// A call that writes to a descriptor.
static int written(struct bench *b, bool dump) {
  int fd = open("/dev/null", O_WRONLY | O_CLOEXEC);
  cr_assert_geq(fd, 0);
  faulty(b);
  int rc = dump ? rctx_dump_fd(b->parent, RCTX_DUMP_TEXT, room, sizeof room, fd)
                : rctx_log(fd, b->parent, RCTX_LOG_INFO, "%d", 1);
  sound(b);
  close(fd);
  return rc;
}
static int rctx_log_row(struct bench *b) { return written(b, false); }
static int rctx_dump_fd_row(struct bench *b) { return written(b, true); }

QUIET(rctx_log_format, rctx_log_format(room, sizeof room, b->parent, RCTX_LOG_INFO, "%s", "hello") > 0)
QUIET(rctx_log_vformat, log_by_list(b->parent, "%s", "hello") > 0)
QUIET(rctx_dump, rctx_dump(b->parent, RCTX_DUMP_JSON, room, sizeof room, drop_piece, NULL) == 0)
QUIET(rctx_prometheus, rctx_prometheus(b->manager, room, sizeof room) > 0)
QUIET(rctx_probes, rctx_probes() == rctx_probes())
QUIET(rctx_inspect, (rctx_inspect(b->parent, &(struct rctx_info){0}), true))

QUIET(rctx_budget, rctx_budget(b->parent, 0) == INT64_MAX)
QUIET(rctx_budget_at, rctx_budget_at(b->parent, 1, 0) == INT64_MAX)
QUIET(rctx_budget_try, rctx_budget_try(b->parent, 2, 0, 0) > 0)
QUIET(rctx_budget_try_at, rctx_budget_try_at(b->parent, 1, 2, 0, 0) > 0)
QUIET(rctx_budget_share, rctx_budget_share(b->parent, 1, 2, 0, 0) > 0)
QUIET(rctx_budget_share_at, rctx_budget_share_at(b->parent, 1, 1, 2, 0, 0) > 0)
QUIET(rctx_budget_require, rctx_budget_require(b->parent, 1) == 0)
QUIET(rctx_budget_require_at, rctx_budget_require_at(b->parent, 1, 1) == 0)

/* ---- leak reports ------------------------------------------------------------------------------------------------ */

static bool any_leak(const struct rctx_leak *leak, void *arg) {
  (void)leak;
  (void)arg;
  return true;
}

// A derivation that could not be recorded is not watched, and works.
static int rctx_leaks_start_row(struct bench *b) {
  rctx *c = rctx_with_cancel(b->parent);
  rctx_leaks_start(1);
  faulty(b);
  c = RCTX_LEAK_SITE(c);
  sound(b);
  rctx_leaks_start(0);
  cr_assert_eq(rctx_err(c), 0);
  rctx_end(c);
  return 0;
}

static int report_row(struct bench *b, bool print) {
  rctx_leaks_start(1);
  rctx *c = RCTX_LEAK_SITE(rctx_with_cancel(b->parent));
  rctx_leaks_start(0);
  int fd = open("/dev/null", O_WRONLY | O_CLOEXEC);
  faulty(b);
  size_t lines = print ? rctx_leaks_print(fd, 0) : rctx_leaks_each(0, any_leak, NULL);
  sound(b);
  close(fd);
  cr_assert_eq(lines, 1);
  rctx_end(c);
  return 0;
}
static int rctx_leaks_print_row(struct bench *b) { return report_row(b, true); }
static int rctx_leaks_each_row(struct bench *b) { return report_row(b, false); }
QUIET(rctx_leaks_at_exit, (rctx_leaks_at_exit(), true))

/* ---- virtual time ------------------------------------------------------------------------------------------------ */

static int clock_create_row(struct bench *b, bool with) {
  rctx_test_clock *clock = NULL;
  faulty(b);
  int rc = with ? rctx_test_clock_create_with(&(struct rctx_manager_options){.uncached = true}, SECOND, &clock)
                : rctx_test_clock_create(SECOND, &clock);
  sound(b);
  cr_assert_eq(clock == NULL, rc != 0);
  if (clock) cr_assert_eq(rctx_test_clock_destroy(clock), 0);
  return rc;
}
static int rctx_test_clock_create_row(struct bench *b) { return clock_create_row(b, false); }
static int rctx_test_clock_create_with_row(struct bench *b) { return clock_create_row(b, true); }

typedef bool (*clock_act)(rctx_test_clock *clock);

// With a context that has a deadline, and a sleeper's automatic.
static int clock_row(struct bench *b, clock_act act) {
  rctx_test_clock *clock;
  cr_assert_eq(rctx_test_clock_create(SECOND, &clock), 0);
  rctx *c = rctx_with_timeout(rctx_test_clock_background(clock), SECOND);
  faulty(b);
  bool right = act(clock);
  sound(b);
  cr_assert(right);
  rctx_end(c);
  cr_assert_eq(rctx_test_clock_destroy(clock), 0);
  return 0;
}

#define CLOCK(name, ...)                                                                                               \
  static bool name##_act(rctx_test_clock *clock) { return (__VA_ARGS__); }                                             \
  static int name##_row(struct bench *b) { return clock_row(b, name##_act); }
CLOCK(rctx_test_clock_manager, rctx_test_clock_manager(clock) != NULL)
CLOCK(rctx_test_clock_background, rctx_test_clock_background(clock) != NULL)
CLOCK(rctx_test_clock_now, rctx_test_clock_now(clock) == SECOND)
CLOCK(rctx_test_clock_of, rctx_test_clock_of(rctx_test_clock_manager(clock)) == clock)
CLOCK(rctx_test_clock_set, (rctx_test_clock_set(clock, 0), rctx_test_clock_now(clock) == 0))
CLOCK(rctx_test_clock_advance, rctx_test_clock_advance(clock, 2 * SECOND) == 1)
CLOCK(rctx_test_clock_step, rctx_test_clock_step(clock) == 1)
CLOCK(rctx_test_clock_run, rctx_test_clock_run(clock, INT64_MAX) == 1)
CLOCK(rctx_test_clock_auto,
      (rctx_test_clock_auto(clock, 1), rctx_sleep(rctx_test_clock_background(clock), 5 * SECOND) == 0))
CLOCK(rctx_test_clock_waiters, rctx_test_clock_waiters(clock, 0, SECOND) == 0)

static int rctx_test_clock_destroy_row(struct bench *b) {
  rctx_test_clock *clock;
  cr_assert_eq(rctx_test_clock_create(SECOND, &clock), 0);
  faulty(b);
  int rc = rctx_test_clock_destroy(clock);
  sound(b);
  cr_assert_eq(rc, 0);
  return 0;
}

/* ---- memory that fails, looks ------------------------------------------------------------------------------------ */

QUIET(rctx_test_allocator, rctx_test_allocator(&(struct rctx_test_memory){0}).alloc != NULL)
QUIET(rctx_test_memory_of, rctx_test_memory_of(b->manager) == NULL)

static int rctx_test_malloc_row(struct bench *b) {
  struct rctx_test_memory memory = {0};
  faulty(b);
  void *piece = rctx_test_malloc(&memory, 100);
  sound(b);
  rctx_test_free(&memory, piece);
  cr_assert(memory.live == 0 && memory.bytes == 0);
  return piece ? 0 : -ENOMEM;
}

static int rctx_test_free_row(struct bench *b) {
  struct rctx_test_memory memory = {0};
  void *piece = rctx_test_malloc(&memory, 100);
  cr_assert_not_null(piece);
  faulty(b);
  rctx_test_free(&memory, piece);
  sound(b);
  cr_assert_eq(memory.live, 0);
  return 0;
}

static int body_under_test(rctx_manager *manager, void *arg) {
  (void)arg;
  rctx *c = rctx_with_timeout(rctx_manager_background(manager), SECOND);
  int err = rctx_err(c);
  rctx_end(c);
  return err;
}

static int rctx_test_fail_each_row(struct bench *b) {
  struct rctx_test_faults faults;
  faulty(b);
  int rc = rctx_test_fail_each(body_under_test, NULL, false, &faults);
  sound(b);
  cr_assert(rc == 0 || rc == -ENOMEM);
  cr_assert_eq(faults.leaked, 0);
  return rc ? rc : faults.result;
}

static int look_once(const rctx *ctx, void *arg) {
  (void)arg;
  return rctx_wait(ctx, 0);
}

static int rctx_test_looks_row(struct bench *b) {
  struct rctx_looks looks;
  faulty(b);
  int rc = rctx_test_looks(look_once, NULL, &(struct rctx_looks_options){.parent = b->parent}, &looks);
  sound(b);
  cr_assert_eq(rc, 0);
  return looks.result;
}

const struct row rows_quiet[] = {
    ROW(rctx_log, NOTHING),
    ROW(rctx_dump_fd, NOTHING),
    ROW(rctx_log_format, NOTHING),
    ROW(rctx_log_vformat, NOTHING),
    ROW(rctx_dump, NOTHING),
    ROW(rctx_prometheus, NOTHING),
    ROW(rctx_probes, NOTHING),
    ROW(rctx_inspect, NOTHING),
    ROW(rctx_budget, NOTHING),
    ROW(rctx_budget_at, NOTHING),
    ROW(rctx_budget_try, NOTHING),
    ROW(rctx_budget_try_at, NOTHING),
    ROW(rctx_budget_share, NOTHING),
    ROW(rctx_budget_share_at, NOTHING),
    ROW(rctx_budget_require, NOTHING),
    ROW(rctx_budget_require_at, NOTHING),
    ROW(rctx_leaks_start, MEMORY_WITHOUT),
    ROW(rctx_leaks_print, NOTHING),
    ROW(rctx_leaks_each, NOTHING),
    ROW(rctx_leaks_at_exit, NOTHING),
    ROW(rctx_test_clock_create, MEMORY_FAILS),
    ROW(rctx_test_clock_create_with, MEMORY_FAILS),
    ROW(rctx_test_clock_destroy, NOTHING),
    ROW(rctx_test_clock_manager, NOTHING),
    ROW(rctx_test_clock_background, NOTHING),
    ROW(rctx_test_clock_now, NOTHING),
    ROW(rctx_test_clock_of, NOTHING),
    ROW(rctx_test_clock_set, NOTHING),
    ROW(rctx_test_clock_advance, NOTHING),
    ROW(rctx_test_clock_step, NOTHING),
    ROW(rctx_test_clock_run, NOTHING),
    ROW(rctx_test_clock_auto, NOTHING),
    ROW(rctx_test_clock_waiters, NOTHING),
    ROW(rctx_test_allocator, NOTHING),
    ROW(rctx_test_memory_of, NOTHING),
    ROW(rctx_test_malloc, MEMORY_FAILS),
    ROW(rctx_test_free, NOTHING),
    ROW(rctx_test_fail_each, MEMORY_FAILS),
    ROW(rctx_test_looks, MEMORY_FAILS | MEMORY_WITHOUT),
    {NULL, 0, NULL},
};
