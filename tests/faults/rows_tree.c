// rows_tree.c - rows of rows.h: deriving, ending, looking; values; merges; signals; managers.
#include "faults/rows.h"

#include <signal.h>

static const struct rctx_key key = {.name = "key"}, other_key = {.name = "other"};

/* ---- deriving ---------------------------------------------------------------------------------------------------- */

// What a derivation gave, to be ended here: live, or refused, said so and is harmless.
static int derived(rctx *c) {
  int err = rctx_err(c);
  struct rctx_why why;
  void *value;
  cr_assert_not_null(c);
  cr_assert_eq(rctx_why(c, &why), err);
  if (err != 0) {
    cr_assert_eq(why.origin, RCTX_ORIGIN_MEMORY);
    cr_assert_eq(why.cause->code, err);
    cr_assert_eq(rctx_wait(c, INT64_MAX), err);
    cr_assert_not(rctx_cancel(c));
    cr_assert_not(rctx_get(c, &key, &value), "without values");
    rctx_unref(rctx_ref(c));
  }
  rctx_end(c);
  return err;
}

#define DERIVATION(name, ...)                                                                                          \
  static int name##_row(struct bench *b) {                                                                             \
    faulty(b);                                                                                                         \
    rctx *c = (__VA_ARGS__);                                                                                           \
    sound(b);                                                                                                          \
    return derived(c);                                                                                                 \
  }

DERIVATION(rctx_with_cancel, rctx_with_cancel(b->parent))
DERIVATION(rctx_with_deadline, rctx_with_deadline(b->parent, rctx_now() + HOUR))
DERIVATION(rctx_with_timeout, rctx_with_timeout(b->parent, HOUR))
DERIVATION(rctx_with_timeout_at, rctx_with_timeout_at(b->parent, rctx_now(), HOUR))
DERIVATION(rctx_without_cancel, rctx_without_cancel(b->parent))
DERIVATION(rctx_with_idle, rctx_with_idle(b->parent, HOUR))
DERIVATION(rctx_with_value, rctx_with_value(b->parent, &key, b))
DERIVATION(rctx_manager_create_cancellable, rctx_manager_create_cancellable(b->manager, b->parent))
DERIVATION(rctx_manager_create_timeout, rctx_manager_create_timeout(b->manager, b->parent, HOUR))
DERIVATION(rctx_manager_add_value, rctx_manager_add_value(b->manager, b->parent, &key, b))

static void count_cause(const struct rctx_cause *self) { atomic_fetch_add((atomic_int *)self->user, 1); }
static void count_value(void *counter) { atomic_fetch_add((atomic_int *)counter, 1); }

// What was handed over is destroyed once, whether the call could keep it or not.
#define DERIVATION_WITH_CAUSE(name, ...)                                                                               \
  static int name##_row(struct bench *b) {                                                                             \
    struct rctx_cause cause = {-ETIMEDOUT, RCTX_ORIGIN_USER, "slow", NULL, 0, &b->calls, count_cause};                 \
    atomic_store(&b->calls, 0);                                                                                        \
    faulty(b);                                                                                                         \
    rctx *c = (__VA_ARGS__);                                                                                           \
    sound(b);                                                                                                          \
    cr_assert_eq(atomic_load(&b->calls), rctx_err(c) != 0, "%s: destroyed before return if refused", #name);           \
    int err = derived(c);                                                                                              \
    rctx_quiesce(b->manager, INT64_MAX);                                                                               \
    cr_assert_eq(atomic_load(&b->calls), 1, "%s: destroyed once", #name);                                              \
    return err;                                                                                                        \
  }

DERIVATION_WITH_CAUSE(rctx_with_deadline_cause, rctx_with_deadline_cause(b->parent, rctx_now() + HOUR, &cause))
DERIVATION_WITH_CAUSE(rctx_with_timeout_cause, rctx_with_timeout_cause(b->parent, HOUR, &cause))
DERIVATION_WITH_CAUSE(rctx_with_timeout_at_cause, rctx_with_timeout_at_cause(b->parent, rctx_now(), HOUR, &cause))

enum { VALUES = 40 }; // some blocks of them

static int values_row(struct bench *b, bool whole) {
  struct rctx_value values[VALUES];
  struct rctx_cause cause = {-ETIMEDOUT, RCTX_ORIGIN_USER, "slow", NULL, 0, &b->calls, count_cause};
  struct rctx_spec spec = {.timeout_ns = HOUR,
                           .deadline_cause = &cause,
                           .values = values,
                           .nvalues = VALUES,
                           .name = "whole",
                           .values_from = b->spare,
                           .movable = true};
  for (int i = 0; i < VALUES; i++) values[i] = (struct rctx_value){i ? &key : &other_key, &b->calls, count_value};
  atomic_store(&b->calls, 0);
  faulty(b);
  rctx *c = whole ? rctx_derive(b->parent, &spec) : rctx_with_values(b->parent, values, VALUES);
  sound(b);
  int all = VALUES + (whole ? 1 : 0);
  cr_assert_eq(atomic_load(&b->calls), rctx_err(c) ? all : 0);
  int err = derived(c);
  rctx_quiesce(b->manager, INT64_MAX);
  cr_assert_eq(atomic_load(&b->calls), all, "each destroyed once");
  return err;
}
static int rctx_with_values_row(struct bench *b) { return values_row(b, false); }
static int rctx_derive_row(struct bench *b) { return values_row(b, true); }

static int merge_row(struct bench *b, rctx *(*merge)(const rctx *const *parents, size_t n)) {
  enum { MANY = 12 };
  const rctx *parents[MANY];
  for (int i = 0; i < MANY; i++) parents[i] = i % 2 ? b->spare : b->parent;
  faulty(b);
  rctx *few = merge(parents, 2), *many = merge(parents, MANY);
  sound(b);
  int err = derived(few), other = derived(many);
  return err ? err : other;
}
static int rctx_merge_any_row(struct bench *b) { return merge_row(b, rctx_merge_any); }
static int rctx_merge_all_row(struct bench *b) { return merge_row(b, rctx_merge_all); }

static int merge_in_row(struct bench *b,
                        rctx *(*merge)(struct rctx_merge_link *links, const rctx *const *parents, size_t n)) {
  const rctx *parents[] = {b->parent, b->spare};
  struct rctx_merge_link links[2];
  faulty(b);
  rctx *c = merge(links, parents, 2);
  sound(b);
  int err = derived(c);
  rctx_quiesce(b->manager, INT64_MAX);
  return err;
}
static int rctx_merge_any_in_row(struct bench *b) { return merge_in_row(b, rctx_merge_any_in); }
static int rctx_merge_all_in_row(struct bench *b) { return merge_in_row(b, rctx_merge_all_in); }

// The signal thread is the process's: the first run has started it. Without it: faults_kernel_test.c.
DERIVATION(rctx_with_signal, rctx_with_signal(b->parent, SIGUSR1, SIGUSR2, 0))
DERIVATION(rctx_with_signals, rctx_with_signals(b->parent, (const int[]){SIGUSR1, SIGUSR2}, 2))

/* ---- deadlines that move, ending --------------------------------------------------------------------------------- */

static int rctx_move_deadline_row(struct bench *b) {
  rctx *c = rctx_derive(b->parent, &(struct rctx_spec){.timeout_ns = HOUR, .movable = true});
  faulty(b);
  int later = rctx_move_deadline(c, rctx_now() + 2 * HOUR), sooner = rctx_move_deadline(c, rctx_now() + HOUR / 2);
  int now = rctx_move_deadline(c, rctx_now());
  sound(b);
  cr_assert(later == 0 && sooner == 0 && now == -ETIMEDOUT);
  rctx_end(c);
  return 0;
}

static int touch_row(struct bench *b, bool at) {
  rctx *c = rctx_with_idle(b->parent, HOUR);
  int64_t before, after;
  cr_assert(rctx_deadline(c, &before));
  int64_t later = rctx_now() + HOUR;
  faulty(b);
  if (at) rctx_touch_at(c, later);
  if (!at) rctx_touch(c);
  sound(b);
  cr_assert(rctx_deadline(c, &after));
  cr_assert(at ? after == later + HOUR : after >= before);
  rctx_end(c);
  return 0;
}
static int rctx_touch_at_row(struct bench *b) { return touch_row(b, true); }
static int rctx_touch_row(struct bench *b) { return touch_row(b, false); }

static int rctx_cancel_cause_row(struct bench *b) {
  faulty(b);
  bool ended = rctx_cancel(b->spare), again = rctx_cancel(b->spare);
  sound(b);
  cr_assert(ended && !again && rctx_err(b->spare) == -ECANCELED && rctx_err(b->below) == -ECANCELED);
  return 0;
}

static int sweep_row(struct bench *b, bool step) {
  struct rctx_sweep sweep;
  if (!step) faulty(b);
  bool begun = rctx_cancel_begin(b->spare, NULL, &sweep);
  if (!step) sound(b);
  if (step) faulty(b);
  while (begun && rctx_cancel_step(&sweep, 1)) {
  }
  if (step) sound(b);
  cr_assert(begun && rctx_err(b->below) == -ECANCELED);
  return 0;
}
static int rctx_cancel_begin_row(struct bench *b) { return sweep_row(b, false); }
static int rctx_cancel_step_row(struct bench *b) { return sweep_row(b, true); }

static int rctx_end_cause_row(struct bench *b) {
  rctx *c = spare_taken(b);
  faulty(b);
  rctx_end(c);
  sound(b);
  cr_assert_eq(rctx_err(b->below), -ECANCELED);
  return 0;
}

static int rctx_drop_row(struct bench *b) {
  rctx *c = spare_taken(b);
  faulty(b);
  rctx_drop(c);
  sound(b);
  cr_assert_eq(rctx_err(b->below), 0);
  return 0;
}

static int rctx_unref_row(struct bench *b) {
  rctx *c = b->below;
  const rctx *held = rctx_ref(c);
  b->below = NULL;
  rctx_end(c);
  faulty(b);
  rctx_unref(held); // the last
  sound(b);
  return 0;
}

QUIET(rctx_ref, rctx_ref(b->below) == b->below && (rctx_unref(b->below), true))

/* ---- looking ----------------------------------------------------------------------------------------------------- */

QUIET(rctx_background, rctx_background() != NULL)
QUIET(rctx_todo, rctx_todo() != rctx_background())
QUIET(rctx_cause, rctx_cause(b->parent) == NULL)
QUIET(rctx_why, rctx_why(b->parent, &(struct rctx_why){0}) == 0)
QUIET(rctx_deadline, !rctx_deadline(b->parent, &(int64_t){0}))
QUIET(rctx_remaining, rctx_remaining(b->parent) == INT64_MAX)
QUIET(rctx_remaining_at, rctx_remaining_at(b->parent, 1) == INT64_MAX)
QUIET(rctx_now, rctx_now() > 0)
QUIET(rctx_now_of, rctx_now_of(b->parent) > 0)
QUIET(rctx_name, rctx_name(b->parent) == NULL)
QUIET(rctx_describe, rctx_describe(b->parent, (char[64]){0}, 64) > 0)
QUIET(rctx_strerror, rctx_strerror(-ECANCELED) != NULL)
QUIET(rctx_version_string, rctx_version_string()[0] != 0)
QUIET(rctx_get, !rctx_get(b->parent, &key, &(void *){NULL}))

static bool no_value(const struct rctx_key *a_key, void *value, void *arg) {
  (void)a_key;
  (void)value;
  (void)arg;
  return true;
}
QUIET(rctx_each_value, rctx_each_value(b->parent, no_value, NULL) == 0)

static int rctx_alloc_row(struct bench *b) {
  bool any_null = false;
  faulty(b);
  for (size_t size = 0; size < 6000; size += 300) {
    char *piece = rctx_alloc(b->parent, size);
    if (piece) memset(piece, 1, size);
    any_null |= piece == NULL;
  }
  sound(b);
  return any_null ? -ENOMEM : 0;
}

/* ---- managers ---------------------------------------------------------------------------------------------------- */

static int rctx_manager_create_row(struct bench *b) {
  rctx_manager *made = NULL;
  faulty(b);
  int rc = rctx_manager_create(&(struct rctx_manager_options){0}, &made);
  sound(b);
  cr_assert_eq(made == NULL, rc != 0, "written only on success");
  if (made) cr_assert_eq(rctx_manager_destroy(made), 0);
  return rc;
}

static int rctx_manager_destroy_row(struct bench *b) {
  rctx_manager *made = NULL;
  cr_assert_eq(rctx_manager_create(&(struct rctx_manager_options){0}, &made), 0);
  rctx_end(rctx_with_timeout(rctx_manager_background(made), HOUR)); // it has a thread
  faulty(b);
  int rc = rctx_manager_destroy(made);
  sound(b);
  cr_assert_eq(rc, 0);
  return 0;
}

QUIET(rctx_manager_default, rctx_manager_default() != NULL)
QUIET(rctx_manager_background, rctx_manager_background(b->manager) == b->root)
QUIET(rctx_manager_of, rctx_manager_of(b->parent) == b->manager)
QUIET(rctx_manager_now, rctx_manager_now(b->manager) > 0)
QUIET(rctx_manager_get_value, !rctx_manager_get_value(b->manager, b->parent, &key, &(void *){NULL}))
QUIET(rctx_manager_executor, rctx_manager_executor(b->manager) != NULL)
static bool completed(const struct bench *b) {
  int64_t until_ns = rctx_now() + MS / 10;
  return rctx_manager_wait_for_completion(b->manager, b->parent, MS / 10) == 0 && rctx_now() >= until_ns;
}
QUIET(rctx_manager_wait_for_completion, completed(b))
QUIET(rctx_next, rctx_next(b->manager, rctx_now()) == INT64_MAX)
QUIET(rctx_advance, rctx_advance(b->manager, rctx_now(), 0) == 0)
QUIET(rctx_quiesce, rctx_quiesce(b->manager, INT64_MAX) == 0)
QUIET(rctx_trim, (rctx_trim(b->manager), true))
QUIET(rctx_stats, (rctx_stats(b->manager, &(struct rctx_stats){0}), true))
QUIET(rctx_signal_of, rctx_signal_of(b->parent) == 0)

const struct row rows_tree[] = {
    ROW(rctx_with_cancel, DERIVES),
    ROW(rctx_with_deadline, TIMED),
    ROW(rctx_with_timeout, TIMED),
    ROW(rctx_with_timeout_at, TIMED),
    ROW(rctx_without_cancel, DERIVES),
    ROW(rctx_with_idle, TIMED),
    ROW(rctx_with_value, DERIVES),
    ROW(rctx_with_values, DERIVES),
    ROW(rctx_derive, TIMED),
    ROW(rctx_with_deadline_cause, TIMED),
    ROW(rctx_with_timeout_cause, TIMED),
    ROW(rctx_with_timeout_at_cause, TIMED),
    ROW(rctx_manager_create_cancellable, DERIVES),
    ROW(rctx_manager_create_timeout, TIMED),
    ROW(rctx_manager_add_value, DERIVES),
    ROW(rctx_merge_any, DERIVES),
    ROW(rctx_merge_all, DERIVES),
    ROW(rctx_merge_any_in, DERIVES),
    ROW(rctx_merge_all_in, DERIVES),
    ROW(rctx_with_signal, DERIVES),
    ROW(rctx_with_signals, DERIVES),
    ROW(rctx_move_deadline, NOTHING),
    ROW(rctx_touch_at, NOTHING),
    ROW(rctx_touch, NOTHING),
    ROW(rctx_cancel_cause, ENDS),
    ROW(rctx_cancel_begin, ENDS),
    ROW(rctx_cancel_step, ENDS),
    ROW(rctx_end_cause, ENDS),
    ROW(rctx_drop, ENDS),
    ROW(rctx_ref, NOTHING),
    ROW(rctx_unref, ENDS),
    ROW(rctx_background, NOTHING),
    ROW(rctx_todo, NOTHING),
    ROW(rctx_cause, NOTHING),
    ROW(rctx_why, NOTHING),
    ROW(rctx_deadline, NOTHING),
    ROW(rctx_remaining, NOTHING),
    ROW(rctx_remaining_at, NOTHING),
    ROW(rctx_now, NOTHING),
    ROW(rctx_now_of, NOTHING),
    ROW(rctx_name, NOTHING),
    ROW(rctx_describe, NOTHING),
    ROW(rctx_strerror, NOTHING),
    ROW(rctx_version_string, NOTHING),
    ROW(rctx_get, NOTHING),
    ROW(rctx_each_value, NOTHING),
    ROW(rctx_alloc, MEMORY_FAILS),
    ROW(rctx_manager_create, MEMORY_FAILS),
    ROW(rctx_manager_destroy, NOTHING),
    ROW(rctx_manager_default, NOTHING),
    ROW(rctx_manager_background, NOTHING),
    ROW(rctx_manager_of, NOTHING),
    ROW(rctx_manager_now, NOTHING),
    ROW(rctx_manager_get_value, NOTHING),
    ROW(rctx_manager_executor, NOTHING),
    ROW(rctx_manager_wait_for_completion, NOTHING),
    ROW(rctx_next, NOTHING),
    ROW(rctx_advance, NOTHING),
    ROW(rctx_quiesce, NOTHING),
    ROW(rctx_trim, NOTHING),
    ROW(rctx_stats, NOTHING),
    ROW(rctx_signal_of, NOTHING),
    {NULL, 0, NULL},
};
