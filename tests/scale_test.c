// Scale: a million deep, a million wide, a million timers, a hundred thousand values; on a stack of 64 KiB.
//
// What is tested is that depth and width cost no stack and no time out of proportion: each operation runs on a thread
// with 64 KiB of stack, where a recursion of a million levels would be a crash. Sanitizers get less of it.
#include "support/check.h"
#include "support/leftovers.h"
#include "support/seed.h"
#include "support/watchdog.h"

#include <limits.h>
#include <pthread.h>

#define MS INT64_C(1000000)
#define SECOND INT64_C(1000000000)

#if defined(__SANITIZE_THREAD__) || CHECK_LEAKS
enum { MILLION = 50000, VALUES = 20000 };
#else
enum { MILLION = 1000000, VALUES = 100000 };
#endif
#if defined(__SANITIZE_THREAD__) || CHECK_LEAKS
enum { STACK_BYTES = 512 << 10 }; // their frames are wider, and so are the interceptors'; still far below a level each
#else
enum { STACK_BYTES = 64 << 10 };
#endif
enum { WATCHDOG_S = 120 };

struct small_stack {
  void (*body)(void);
};

static void *on_small_stack_main(void *arg) {
  ((struct small_stack *)arg)->body();
  return NULL;
}

static void on_small_stack(void (*body)(void)) {
  pthread_attr_t attributes;
  pthread_t thread;
  struct small_stack call = {body};
  size_t bytes = STACK_BYTES > PTHREAD_STACK_MIN ? STACK_BYTES : (size_t)PTHREAD_STACK_MIN;
  watchdog(WATCHDOG_S);
  cr_assert_eq(pthread_attr_init(&attributes), 0);
  cr_assert_eq(pthread_attr_setstacksize(&attributes, bytes), 0);
  cr_assert_eq(pthread_create(&thread, &attributes, on_small_stack_main, &call), 0);
  cr_assert_eq(pthread_join(thread, NULL), 0);
  pthread_attr_destroy(&attributes);
}

TestSuite(scale, .fini = nothing_left_by_default, .timeout = 240);

static rctx **nodes;

static const struct rctx_cause cause = {-ESHUTDOWN, RCTX_ORIGIN_SHUTDOWN, "scale", NULL, 0, NULL, NULL};

static void make_chain(void) {
  nodes = malloc(MILLION * sizeof *nodes);
  nodes[0] = rctx_with_cancel(rctx_background());
  for (int i = 1; i < MILLION; i++) nodes[i] = rctx_with_cancel(nodes[i - 1]);
}

static void make_children(void) {
  nodes = malloc(MILLION * sizeof *nodes);
  nodes[0] = rctx_with_cancel(rctx_background());
  for (int i = 1; i < MILLION; i++) nodes[i] = rctx_with_cancel(nodes[0]);
}

static void all_ended(void) {
  for (int i = 0; i < MILLION; i++) cr_assert_eq(rctx_err(nodes[i]), -ESHUTDOWN, "number %d", i);
}

static void end_from_the_root(void) {
  for (int i = 0; i < MILLION; i++) rctx_end(nodes[i]);
  free(nodes);
}

static void end_from_the_leaf(void) {
  for (int i = MILLION - 1; i >= 0; i--) rctx_end(nodes[i]);
  free(nodes);
}

// ---- chains ----------------------------------------------------------------------------------------------------------

static void deep_cancel(void) {
  make_chain();
  cr_assert(rctx_cancel_cause(nodes[0], &cause));
  all_ended();
  struct rctx_why why;
  cr_assert_eq(rctx_why(nodes[MILLION - 1], &why), -ESHUTDOWN);
  cr_assert_eq(why.levels_up, MILLION - 1);
  cr_assert_eq(why.cause, &cause);
  cr_assert_not(rctx_cancel(nodes[MILLION / 2]));
  end_from_the_root();
}

Test(scale, a_chain_a_million_deep_is_cancelled_on_a_small_stack__CTX_1) { on_small_stack(deep_cancel); }

static void deep_end(void) {
  make_chain();
  rctx_end_cause(nodes[0], &cause);
  for (int i = 1; i < MILLION; i++) cr_assert_eq(rctx_err(nodes[i]), -ESHUTDOWN);
  for (int i = 1; i < MILLION; i++) rctx_end(nodes[i]);
  free(nodes);
}

Test(scale, a_chain_a_million_deep_is_ended_on_a_small_stack) { on_small_stack(deep_end); }

static void deep_end_from_leaf(void) {
  make_chain();
  end_from_the_leaf();
}

Test(scale, a_chain_a_million_deep_is_ended_from_its_leaf) { on_small_stack(deep_end_from_leaf); }

// All handles go without a cancel, the root's first: a million zombies, kept by the leaf alone. Then the leaf goes.
static void deep_zombies(void) {
  struct rctx_stats stats;
  make_chain();
  for (int i = 0; i < MILLION - 1; i++) rctx_unref(nodes[i]);
  rctx_stats(rctx_manager_default(), &stats);
  cr_assert_eq(stats.contexts, MILLION);
  cr_assert_eq(rctx_err(nodes[MILLION - 1]), 0);
  rctx_unref(nodes[MILLION - 1]);
  rctx_stats(rctx_manager_default(), &stats);
  cr_assert_eq(stats.contexts, 0);
  free(nodes);
}

Test(scale, a_million_zombies_are_released_on_a_small_stack) { on_small_stack(deep_zombies); }

static void deep_zombies_cancelled(void) {
  make_chain();
  for (int i = 1; i < MILLION - 1; i++) rctx_unref(nodes[i]);
  cr_assert(rctx_cancel_cause(nodes[0], &cause));
  cr_assert_eq(rctx_err(nodes[MILLION - 1]), -ESHUTDOWN, "reached through a million zombies");
  cr_assert_eq(rctx_cause(nodes[MILLION - 1]), &cause);
  rctx_end(nodes[MILLION - 1]);
  rctx_end(nodes[0]);
  free(nodes);
}

Test(scale, a_cancel_passes_through_a_million_zombies) { on_small_stack(deep_zombies_cancelled); }

static void deep_look(void) {
  char text[64];
  struct rctx_info info;
  make_chain();
  size_t length = rctx_describe(nodes[MILLION - 1], text, sizeof text);
  cr_assert_eq(length, strlen("context.Background") + (size_t)MILLION * strlen(".WithCancel"));
  cr_assert_eq(strncmp(text, "context.Background.WithCancel.", 30), 0);
  rctx_inspect(nodes[0], &info);
  cr_assert_eq(info.children, 1);
  end_from_the_leaf();
}

Test(scale, a_chain_a_million_deep_is_described_and_inspected) { on_small_stack(deep_look); }

// Value contexts are looked through: a million of them, one below the other, with a child at the bottom.
RCTX_KEY(level, intptr_t)
static const struct rctx_key absent = {.name = "absent"};

static bool count_value(const struct rctx_key *key, void *value, void *arg) {
  (void)key;
  (void)value;
  ++*(size_t *)arg;
  return true;
}

static void deep_values(void) {
  struct rctx_info info;
  rctx *top = rctx_with_cancel(rctx_background());
  rctx **values = malloc(VALUES * sizeof *values);
  static struct rctx_key many[64];
  for (int i = 0; i < VALUES; i++) {
    const rctx *parent = i ? values[i - 1] : top;
    values[i] = i % 2 ? level_with(parent, i) : rctx_with_value(parent, &many[i / 2 % 64], &many[0]);
  }
  rctx *bottom = rctx_with_cancel(values[VALUES - 1]);
  rctx_inspect(top, &info);
  cr_assert_eq(info.children, 1, "looked through: %zu", info.children);
  intptr_t found = 0;
  void *value;
  cr_assert(level_get(bottom, &found));
  cr_assert_eq(found, VALUES - 1, "the nearest");
  cr_assert_not(rctx_get(bottom, &absent, &value));
  cr_assert(rctx_get(bottom, &many[0], &value));
  size_t seen = 0;
  cr_assert_eq(rctx_each_value(values[255], count_value, &seen), 65);
  cr_assert_eq(seen, 65);
  cr_assert(rctx_cancel_cause(top, &cause));
  cr_assert_eq(rctx_err(bottom), -ESHUTDOWN);
  cr_assert(level_get(bottom, &found), "values stay readable");
  rctx_end(bottom);
  for (int i = 0; i < VALUES; i++) rctx_end(values[i]);
  free(values);
  rctx_end(top);
}

Test(scale, a_hundred_thousand_values_in_a_chain_are_looked_up) { on_small_stack(deep_values); }

// ---- width -----------------------------------------------------------------------------------------------------------

static void wide_cancel(void) {
  struct rctx_info info;
  make_children();
  rctx_inspect(nodes[0], &info);
  cr_assert_eq(info.children, MILLION - 1);
  cr_assert(rctx_cancel_cause(nodes[0], &cause));
  all_ended();
  rctx_inspect(nodes[0], &info);
  cr_assert_eq(info.children, 0);
  end_from_the_root();
}

Test(scale, a_million_children_are_cancelled_on_a_small_stack) { on_small_stack(wide_cancel); }

// A million uncancelled children of one parent, ended one by one: the count returns to 0, the memory is used again.
static void wide_shrink(void) {
  struct rctx_info info;
  struct rctx_stats once, twice;
  for (int round = 0; round < 2; round++) {
    make_children();
    for (int i = MILLION - 1; i > 0; i--) rctx_end(nodes[i]);
    rctx_inspect(nodes[0], &info);
    cr_assert_eq(info.children, 0);
    rctx_end(nodes[0]);
    free(nodes);
    rctx_stats(rctx_manager_default(), round ? &twice : &once);
  }
  cr_assert_leq(twice.bytes, once.bytes + (1 << 20), "%zu bytes, then %zu", once.bytes, twice.bytes);
  rctx_trim(rctx_manager_default());
  rctx_stats(rctx_manager_default(), &twice);
  if (once.bytes == 0) return; // nothing is cached where a sanitizer is to see each free
  cr_assert_lt(twice.bytes, once.bytes / 2, "trimming gives back what is cached: %zu of %zu", twice.bytes, once.bytes);
}

Test(scale, a_million_children_leave_one_by_one) { on_small_stack(wide_shrink); }

static void wide_zombie(void) {
  make_children();
  rctx_unref(nodes[0]);
  for (int i = 1; i < MILLION; i++) rctx_unref(nodes[i]);
  struct rctx_stats stats;
  rctx_stats(rctx_manager_default(), &stats);
  cr_assert_eq(stats.contexts, 0);
  free(nodes);
}

Test(scale, a_zombie_with_a_million_children_goes_with_the_last) { on_small_stack(wide_zombie); }

// ---- timers ----------------------------------------------------------------------------------------------------------

static int64_t virtual_now;
static int64_t read_virtual(void *arg) {
  (void)arg;
  return virtual_now;
}

struct timed {
  struct rctx_after after;
  rctx *ctx;
  int64_t deadline_ns;
  unsigned fired;
};

static struct timed *timers;
static size_t fired_total;
static uint64_t last_tick;
static uint64_t complete_tick; // all until here has been handled

static uint64_t tick_of(int64_t deadline_ns) { return (uint64_t)((deadline_ns + MS - 1) / MS); }

static void timer_fired(const rctx *ctx, void *arg) {
  struct timed *t = arg;
  cr_assert_eq(rctx_err(ctx), -ETIMEDOUT);
  cr_assert_leq(t->deadline_ns, virtual_now, "early");
  cr_assert_gt(tick_of(t->deadline_ns), complete_tick, "late");
  cr_assert_geq(tick_of(t->deadline_ns), last_tick, "out of order");
  last_tick = tick_of(t->deadline_ns);
  t->fired++;
  fired_total++;
}

// From hours to microseconds, so that each level of the wheel is in use.
static int64_t random_delay(struct rng *rng) { return 1 + (int64_t)(rng_next(rng) >> (64 - 8 - rng_below(rng, 35))); }

static void advance_to_next(rctx_manager *manager, struct rng *rng) {
  int64_t next_ns = rctx_next(manager, virtual_now);
  int64_t step = rng_one_in(rng, 2) ? (int64_t)rng_below(rng, 50 * MS) : 0;
  int64_t to = (next_ns > virtual_now ? next_ns : virtual_now) + step;
  virtual_now = to;
  rctx_advance(manager, to, rng_one_in(rng, 4) ? 1000 : 0);
}

static void million_timers(void) {
  struct rng rng;
  rctx_manager *manager;
  struct rctx_manager_options options = {.drive = RCTX_DRIVE_EMBEDDER, .now = read_virtual};
  virtual_now = 77 * SECOND + 12345;
  rng_init(&rng, seed_get());
  cr_assert_eq(rctx_manager_create(&options, &manager), 0);
  timers = calloc(MILLION, sizeof *timers);
  rctx *parent = rctx_with_cancel(rctx_manager_background(manager));
  for (int i = 0; i < MILLION; i++) {
    struct timed *t = &timers[i];
    t->deadline_ns = virtual_now + random_delay(&rng);
    t->ctx = rctx_with_deadline(parent, t->deadline_ns);
    cr_assert_eq(rctx_after_inline(t->ctx, &t->after, RCTX_ON_ENDED_TELL, timer_fired, t), RCTX_REGISTERED);
  }
  while (rctx_next(manager, virtual_now) != INT64_MAX) {
    advance_to_next(manager, &rng);
    while (rctx_advance(manager, virtual_now, 0) > 0) {
    }
    complete_tick = (uint64_t)(virtual_now / MS);
  }
  cr_assert_eq(fired_total, MILLION);
  for (int i = 0; i < MILLION; i++) {
    cr_assert_eq(timers[i].fired, 1);
    rctx_end(timers[i].ctx);
  }
  rctx_end(parent);
  nothing_left(manager);
  cr_assert_eq(rctx_manager_destroy(manager), 0);
  free(timers);
}

Test(scale, a_million_timers_fire_once_in_order_and_never_early__CTX_7) { on_small_stack(million_timers); }
