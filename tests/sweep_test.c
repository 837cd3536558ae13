// A cancel in slices: rctx_cancel_begin(), rctx_cancel_step().
//
// How much one step does is counted from outside: the contexts that have an error after it and had none before. Then races
// with all that may happen to what the sweep stands on: ends, drops, other cancels, expiry, new children.
#include "support/check.h"
#include "support/fake_time.h"
#include "support/seed.h"
#include "support/threads.h"
#include "support/watchdog.h"

#include "core/platform.h"

#include <rctx/inspect.h>

static void open_fake(void) {
  watchdog(90);
  fake_open();
}

TestSuite(sweep, .init = open_fake, .fini = fake_close, .timeout = 120);

static void nothing(const rctx *ctx, void *arg) {
  (void)ctx;
  (void)arg;
}

// A step can only stop at a context that is or was watched.
static rctx *watched(rctx *ctx) {
  struct rctx_after node = {0};
  if (rctx_after_inline(ctx, &node, RCTX_ON_ENDED_TELL, nothing, NULL) >= 0) rctx_after_stop(&node);
  return ctx;
}

static const struct rctx_cause cause = {-EPIPE, RCTX_ORIGIN_PEER, "swept", NULL, 0, NULL, NULL};
static const struct rctx_cause other = {-EIO, RCTX_ORIGIN_USER, "other", NULL, 0, NULL, NULL};

#if defined(__SANITIZE_THREAD__) || CHECK_LEAKS
enum { HUNDRED_THOUSAND = 20000, SLOWER = 4 };
#else
enum { HUNDRED_THOUSAND = 100000, SLOWER = 1 };
#endif

static bool is(const rctx *ctx, const struct rctx_cause *why) {
  return rctx_err(ctx) == why->code && rctx_cause(ctx) == why;
}

// A tree by number: node 0 is the top, the parent of i is up[i] < i.
struct tree {
  int n;
  rctx **nodes;
  int *up;
};

enum shape { WIDE, DEEP, BUSHY };

static struct tree tree_make(enum shape shape, int n) {
  struct tree tree = {n, malloc((size_t)n * sizeof(rctx *)), malloc((size_t)n * sizeof(int))};
  tree.nodes[0] = rctx_with_cancel(fake_root());
  tree.up[0] = -1;
  for (int i = 1; i < n; i++) {
    tree.up[i] = shape == WIDE ? 0 : shape == DEEP ? i - 1 : (i - 1) / 3;
    tree.nodes[i] = watched(rctx_with_cancel(tree.nodes[tree.up[i]]));
  }
  return tree;
}

static void tree_end(struct tree *tree) {
  for (int i = 0; i < tree->n; i++) rctx_end(tree->nodes[i]);
  free(tree->nodes);
  free(tree->up);
}

static int marked(const struct tree *tree) {
  int n = 0;
  for (int i = 0; i < tree->n; i++) n += rctx_err(tree->nodes[i]) != 0;
  return n;
}

static void parents_come_first(const struct tree *tree) {
  for (int i = 1; i < tree->n; i++) {
    if (rctx_err(tree->nodes[i])) cr_assert_neq(rctx_err(tree->nodes[tree->up[i]]), 0, "%d before %d", i, tree->up[i]);
  }
}

// ---- how much ----------------------------------------------------------------------------------------------------------

static void keeps_to_its_budget(enum shape shape, size_t budget) {
  struct tree tree = tree_make(shape, 200);
  struct rctx_sweep sweep;
  cr_assert(rctx_cancel_begin(tree.nodes[0], &cause, &sweep));
  int before = marked(&tree);
  cr_assert_eq(before, 1, "begin ends the context itself and nothing below");
  for (bool more = true; more;) {
    more = rctx_cancel_step(&sweep, budget);
    int now = marked(&tree);
    cr_assert_leq((size_t)(now - before), budget);
    if (more) cr_assert_eq((size_t)(now - before), budget, "a slice was not used");
    parents_come_first(&tree);
    before = now;
  }
  cr_assert_eq(before, tree.n);
  for (int i = 0; i < tree.n; i++) cr_assert(is(tree.nodes[i], &cause), "node %d", i);
  cr_assert(!rctx_cancel_step(&sweep, budget), "again: nothing to do");
  tree_end(&tree);
}

Test(sweep, a_step_marks_what_it_may_and_no_more) {
  static const size_t budgets[] = {1, 2, 3, 7, 64, 198, 199, 200, 100000, SIZE_MAX};
  for (size_t i = 0; i < sizeof budgets / sizeof *budgets; i++) {
    keeps_to_its_budget(WIDE, budgets[i]);
    keeps_to_its_budget(DEEP, budgets[i]);
    keeps_to_its_budget(BUSHY, budgets[i]);
  }
}

Test(sweep, a_step_of_nothing_marks_nothing) {
  struct tree tree = tree_make(BUSHY, 20);
  struct rctx_sweep sweep;
  cr_assert(rctx_cancel_begin(tree.nodes[0], &cause, &sweep));
  for (int i = 0; i < 5; i++) cr_assert(rctx_cancel_step(&sweep, 0), "there is more");
  cr_assert_eq(marked(&tree), 1);
  while (rctx_cancel_step(&sweep, 1)) cr_assert(rctx_cancel_step(&sweep, 0));
  cr_assert_eq(marked(&tree), 20);
  tree_end(&tree);
}

Test(sweep, a_leaf_has_nothing_to_step) {
  rctx *leaf = rctx_with_cancel(fake_root());
  struct rctx_sweep sweep;
  memset(&sweep, 0xA5, sizeof sweep);
  cr_assert(rctx_cancel_begin(leaf, NULL, &sweep));
  cr_assert_eq(rctx_err(leaf), -ECANCELED);
  cr_assert(!rctx_cancel_step(&sweep, 10));
  rctx_end(leaf);
}

Test(sweep, what_can_not_be_ended_is_not_begun) {
  rctx *ended = rctx_with_cancel(fake_root()), *detached = rctx_without_cancel(fake_root());
  rctx *below = rctx_with_cancel(detached);
  struct rctx_cause *record = malloc(sizeof *record); // has no destroy: a sanitizer sees it touched after its free
  *record = other;
  struct rctx_sweep sweep;
  rctx_cancel_cause(ended, &cause);
  cr_assert(!rctx_cancel_begin(ended, record, &sweep));
  cr_assert(!rctx_cancel_step(&sweep, 10));
  cr_assert(!rctx_cancel_begin(detached, record, &sweep));
  cr_assert(!rctx_cancel_step(&sweep, 10));
  free(record);
  cr_assert(is(ended, &cause));
  cr_assert_eq(rctx_err(below), 0);
  rctx_end(below);
  rctx_end(detached);
  rctx_end(ended);
}

Test(sweep, detached_contexts_below_are_left_alone) {
  rctx *top = rctx_with_cancel(fake_root()), *detached = rctx_without_cancel(top), *below = rctx_with_cancel(detached);
  rctx *child = watched(rctx_with_cancel(top));
  struct rctx_sweep sweep;
  cr_assert(rctx_cancel_begin(top, &cause, &sweep));
  while (rctx_cancel_step(&sweep, 1)) {
  }
  cr_assert(is(child, &cause));
  cr_assert_eq(rctx_err(below), 0);
  rctx_end(child);
  rctx_end(below);
  rctx_end(detached);
  rctx_end(top);
}

static int destroyed;
static void count_destroyed(const struct rctx_cause *self) {
  (void)self;
  destroyed++;
}

Test(sweep, its_cause_lives_as_long_as_what_it_ended) {
  struct rctx_cause record = {-EPIPE, RCTX_ORIGIN_PEER, "made", NULL, 0, NULL, count_destroyed};
  rctx *top = rctx_with_cancel(fake_root()), *child = watched(rctx_with_cancel(top)),
       *second = watched(rctx_with_cancel(top));
  struct rctx_sweep sweep;
  cr_assert(rctx_cancel_begin(top, &record, &sweep));
  cr_assert(rctx_cancel_step(&sweep, 1));
  rctx_end(top);
  while (rctx_cancel_step(&sweep, 1)) {
  }
  rctx_end(second);
  cr_assert_eq(destroyed, 0);
  cr_assert(is(child, &record));
  rctx_end(child);
  cr_assert_eq(destroyed, 1);
}

// ---- between two steps -------------------------------------------------------------------------------------------------

Test(sweep, what_is_derived_from_the_marked_is_born_ended_from_the_unmarked_reached) {
  struct tree tree = tree_make(DEEP, 50);
  struct rctx_sweep sweep;
  rctx *made[50];
  cr_assert(rctx_cancel_begin(tree.nodes[0], &cause, &sweep));
  cr_assert(rctx_cancel_step(&sweep, 20));
  for (int i = 0; i < 50; i++) {
    made[i] = rctx_with_cancel(tree.nodes[i]);
    cr_assert_eq(rctx_err(made[i]), rctx_err(tree.nodes[i]), "below %d", i);
  }
  while (rctx_cancel_step(&sweep, 20)) {
  }
  for (int i = 0; i < 50; i++) {
    cr_assert(is(made[i], &cause), "below %d", i);
    rctx_end(made[i]);
  }
  tree_end(&tree);
}

Test(sweep, another_cancel_marks_all_at_once__CTX_1) {
  for (int who = 0; who < 3; who++) {
    struct tree tree = tree_make(BUSHY, 200);
    rctx *above = tree.nodes[0];
    struct rctx_sweep sweep;
    cr_assert(rctx_cancel_begin(tree.nodes[0], &cause, &sweep));
    cr_assert(rctx_cancel_step(&sweep, 5));
    const rctx *kept = rctx_ref(above);
    if (who == 0) cr_assert(!rctx_cancel_cause(above, &other));
    if (who == 1) rctx_end(above);
    if (who == 2) {
      struct rctx_sweep second;
      cr_assert(!rctx_cancel_begin(above, &other, &second));
      cr_assert(!rctx_cancel_step(&second, 1));
      cr_assert(!rctx_cancel_cause(above, &other));
    }
    cr_assert(is(kept, &cause));
    bool by_steps = who == 1 && rctx_err(tree.nodes[tree.n - 1]) == 0; // the handle's end leaves them to the steps
    cr_assert_eq(by_steps, who == 1);
    for (int i = 1; i < tree.n && !by_steps; i++) cr_assert(is(tree.nodes[i], &cause), "node %d", i);
    while (rctx_cancel_step(&sweep, 5)) {
    }
    for (int i = 1; i < tree.n; i++) cr_assert(is(tree.nodes[i], &cause), "node %d", i);
    rctx_unref(kept);
    if (who == 1) tree.nodes[0] = tree.nodes[--tree.n];
    tree_end(&tree);
  }
}

// context.h, rctx_cancel_begin: "so does registering a callback".
Test(sweep, registering_on_what_is_swept_leaves_the_rest_to_the_steps) {
  struct tree tree = tree_make(BUSHY, 200);
  struct rctx_sweep sweep;
  struct rctx_after late = {.rctx__state = 0};
  const rctx *last = tree.nodes[tree.n - 1];
  cr_assert(rctx_cancel_begin(tree.nodes[0], &cause, &sweep));
  cr_assert(rctx_cancel_step(&sweep, 5));
  cr_assert_eq(rctx_err(last), 0);
  cr_assert_eq(rctx_after_inline(tree.nodes[0], &late, RCTX_ON_ENDED_TELL, nothing, NULL), RCTX_ENDED);
  cr_assert_eq(rctx_err(last), 0, "marked by a registration");
  while (rctx_cancel_step(&sweep, 5)) {
  }
  cr_assert(is(last, &cause));
  tree_end(&tree);
}

Test(sweep, an_ancestors_end_marks_all_at_once__CTX_1) {
  rctx *above = rctx_with_cancel(fake_root()), *top = watched(rctx_with_cancel(above)), *children[40];
  for (int i = 0; i < 40; i++) children[i] = watched(rctx_with_cancel(top));
  struct rctx_sweep sweep;
  cr_assert(rctx_cancel_begin(top, &cause, &sweep));
  cr_assert(rctx_cancel_step(&sweep, 5));
  cr_assert(rctx_cancel_cause(above, &other));
  for (int i = 0; i < 40; i++) cr_assert(is(children[i], &cause));
  while (rctx_cancel_step(&sweep, 5)) {
  }
  rctx_end(above);
  rctx_end(top);
  for (int i = 0; i < 40; i++) rctx_end(children[i]);
}

// Everything goes away under it between two steps: each time in another order, all handles ended or dropped.
Test(sweep, handles_that_end_between_steps) {
  struct rng rng;
  rng_init(&rng, seed_get());
  for (int round = 0; round < 400; round++) {
    struct tree tree = tree_make((enum shape)(round % 3), 60);
    struct rctx_sweep sweep;
    size_t budget = 1 + rng_below(&rng, 5);
    cr_assert(rctx_cancel_begin(tree.nodes[0], &cause, &sweep));
    while (rctx_cancel_step(&sweep, budget)) {
      for (int i = 0; i < 4 && tree.n > 0; i++) {
        int victim = (int)rng_below(&rng, (uint64_t)tree.n);
        if (rng_one_in(&rng, 3)) {
          rctx_drop(tree.nodes[victim]);
        } else {
          rctx_end(tree.nodes[victim]);
        }
        tree.nodes[victim] = tree.nodes[--tree.n];
      }
    }
    for (int i = 0; i < tree.n; i++) cr_assert_neq(rctx_err(tree.nodes[i]), 0); // some by the end of one above
    tree_end(&tree);
  }
  cr_assert_eq(rctx_quiesce(fake.manager, INT64_MAX), 0);
  cr_assert_eq(fake_stats().contexts, 0);
}

Test(sweep, a_child_that_expires_before_its_turn_keeps_its_own_end__CTX_2) {
  rctx *top = rctx_with_cancel(fake_root()), *first = watched(rctx_with_cancel(top));
  rctx *timed = watched(rctx_with_timeout(first, 10 * MS)), *below = watched(rctx_with_cancel(timed));
  struct rctx_sweep sweep;
  cr_assert(rctx_cancel_begin(top, &cause, &sweep));
  cr_assert(rctx_cancel_step(&sweep, 1));
  fake_pass(fake_now() + 10 * MS);
  while (rctx_cancel_step(&sweep, 1)) {
  }
  cr_assert_eq(rctx_err(timed), -ETIMEDOUT);
  cr_assert_eq(rctx_err(below), -ETIMEDOUT);
  cr_assert(is(first, &cause));
  rctx_end(below);
  rctx_end(timed);
  rctx_end(first);
  rctx_end(top);
}

Test(sweep, timers_below_are_disarmed_as_they_are_marked) {
  rctx *top = rctx_with_cancel(fake_root()), *children[30];
  for (int i = 0; i < 30; i++) children[i] = watched(rctx_with_timeout(top, SECOND));
  struct rctx_sweep sweep;
  size_t left = 30;
  cr_assert(rctx_cancel_begin(top, &cause, &sweep));
  do {
    cr_assert_eq(fake_stats().timers, left);
    left = left > 7 ? left - 7 : 0;
  } while (rctx_cancel_step(&sweep, 7));
  cr_assert_eq(fake_stats().timers, 0);
  for (int i = 0; i < 30; i++) rctx_end(children[i]);
  rctx_end(top);
}

// ---- callbacks -----------------------------------------------------------------------------------------------------------

enum { EACH = 3 };

struct called {
  struct rctx_after after;
  rctx *ctx;
  const struct called *before; // of the same context, registered earlier
  const struct tree *tree;
  bool ran;
};

static int ran;

static void note_call(const rctx *ctx, void *arg) {
  struct called *me = arg;
  cr_expect(is(ctx, &cause));
  cr_expect(!me->ran);
  if (me->before) cr_expect(me->before->ran, "the order of registration");
  me->ran = true;
  ran++;
}

Test(sweep, inline_callbacks_of_a_slice_run_in_the_slice_and_in_order) {
  struct tree tree = tree_make(BUSHY, 120);
  struct called *called = calloc(120 * EACH, sizeof *called);
  for (int i = 0; i < 120 * EACH; i++) {
    called[i] = (struct called){.before = i % EACH ? &called[i - 1] : NULL};
    rctx_after_inline(tree.nodes[i / EACH], &called[i].after, RCTX_ON_ENDED_RUN, note_call, &called[i]);
  }
  struct rctx_sweep sweep;
  ran = 0;
  cr_assert(rctx_cancel_begin(tree.nodes[0], &cause, &sweep));
  cr_assert_eq(ran, EACH);
  for (bool more = true; more;) {
    int before = ran;
    more = rctx_cancel_step(&sweep, 8);
    cr_assert_leq(ran - before, 8 * EACH);
    cr_assert_eq(ran, marked(&tree) * EACH, "who is marked has been told when the step returns");
  }
  cr_assert_eq(ran, 120 * EACH);
  tree_end(&tree);
  free(called);
}

static struct rctx_sweep *inner_sweep;
static rctx *inner_top;
static void end_the_top_and_go_on(const rctx *ctx, void *arg) {
  (void)ctx;
  (void)arg;
  if (inner_top) rctx_end(inner_top);
  inner_top = NULL;
}

Test(sweep, the_handle_is_ended_inside_a_callback_of_begin) {
  rctx *children[10];
  struct rctx_after after = {0};
  struct rctx_sweep sweep;
  inner_top = rctx_with_cancel(fake_root());
  for (int i = 0; i < 10; i++) children[i] = watched(rctx_with_cancel(inner_top));
  rctx_after_inline(inner_top, &after, RCTX_ON_ENDED_RUN, end_the_top_and_go_on, NULL);
  cr_assert(rctx_cancel_begin(inner_top, &cause, &sweep));
  while (rctx_cancel_step(&sweep, 3)) {
  }
  for (int i = 0; i < 10; i++) {
    cr_assert(is(children[i], &cause));
    rctx_end(children[i]);
  }
}

static void step_once_more(const rctx *ctx, void *arg) {
  (void)ctx;
  (void)arg;
  rctx_cancel_step(inner_sweep, 3);
}

Test(sweep, a_callback_of_a_step_steps_on) {
  rctx *top = rctx_with_cancel(fake_root()), *children[40];
  struct rctx_after after[40] = {0};
  struct rctx_sweep sweep;
  inner_sweep = &sweep;
  for (int i = 0; i < 40; i++) {
    children[i] = rctx_with_cancel(top);
    rctx_after_inline(children[i], &after[i], RCTX_ON_ENDED_RUN, step_once_more, NULL);
  }
  cr_assert(rctx_cancel_begin(top, &cause, &sweep));
  while (rctx_cancel_step(&sweep, 2)) {
  }
  for (int i = 0; i < 40; i++) {
    cr_assert(is(children[i], &cause));
    rctx_end(children[i]);
  }
  rctx_end(top);
}

// A loop of 100,000 contexts with a callback each: no turn does more than was chosen.
Test(sweep, the_longest_turn_of_a_loop_is_what_was_chosen) {
  enum { SLICE = 256 };
  struct tree tree = tree_make(BUSHY, HUNDRED_THOUSAND);
  struct called *called = calloc((size_t)tree.n, sizeof *called);
  rctx_loop *loop;
  cr_assert_eq(rctx_loop_create(&loop), 0);
  for (int i = 0; i < tree.n; i++)
    cr_assert_eq(rctx_watch(tree.nodes[i], &called[i].after, loop, RCTX_ON_ENDED_QUEUE, note_call, &called[i]), 0);
  struct rctx_sweep sweep;
  ran = 0;
  cr_assert(rctx_cancel_begin(tree.nodes[0], &cause, &sweep));
  int turns = 0, longest = 0, told = 0, first_live = 1;
  for (bool more = true; more || told < tree.n; turns++) {
    more = more && rctx_cancel_step(&sweep, SLICE);
    int before = ran;
    told += (int)rctx_loop_drain(loop, SLICE);
    cr_assert_eq(ran, told);
    if (ran - before > longest) longest = ran - before;
    cr_assert_leq(turns, 3 * tree.n / SLICE + 10, "does not come to an end");
  }
  while (first_live < tree.n && rctx_err(tree.nodes[first_live])) first_live++;
  cr_assert_eq(first_live, tree.n);
  cr_assert_leq(longest, (int)SLICE);
  cr_assert_eq(rctx_loop_drain(loop, SIZE_MAX), 0);
  tree_end(&tree);
  rctx_loop_destroy(loop);
  free(called);
  cr_assert_eq(rctx_quiesce(fake.manager, INT64_MAX), 0);
  cr_assert_eq(fake_stats().contexts, 0);
}

// ---- races -----------------------------------------------------------------------------------------------------------------

enum { RACERS = 4, ROUNDS = 600, CHILDREN = 24, CHAOS_ONE_IN = 3 };

static struct {
  struct threads threads;
  rctx *top;
  rctx *children[RACERS][CHILDREN];
  rctx *below[RACERS][CHILDREN];
  bool won[RACERS];
} race;

struct plan {
  void (*act)(unsigned index, int round);
  bool keeps_children; // checked and ended afterwards
};

static void sweep_it(size_t budget) {
  struct rctx_sweep sweep;
  race.won[0] = rctx_cancel_begin(race.top, &cause, &sweep);
  while (rctx_cancel_step(&sweep, budget)) {
  }
}

static void grow(unsigned index) {
  for (int i = 0; i < CHILDREN; i++) {
    race.children[index][i] = rctx_with_cancel(race.top);
    race.below[index][i] = rctx_with_cancel(race.children[index][i]);
  }
}

static void end_children(unsigned index) {
  for (int i = 0; i < CHILDREN; i++) {
    rctx_end(race.children[index][i]);
    rctx_end(race.below[index][i]);
  }
}

static void race_body(unsigned index, void *arg) {
  const struct plan *plan = arg;
  for (int round = 0; round < ROUNDS / SLOWER; round++) {
    if (index == 0) race.top = rctx_with_cancel(fake_root());
    threads_meet(&race.threads);
    grow(index); // all at once: the parent's list is contended and becomes several
    threads_meet(&race.threads);
    plan->act(index, round);
    threads_meet(&race.threads);
    if (plan->keeps_children) {
      for (int i = 0; i < CHILDREN; i++) {
        const rctx *child = race.children[index][i], *below = race.below[index][i];
        cr_assert(is(child, &cause) || is(child, &other), "child %d: %d", i, rctx_err(child));
        cr_assert(is(below, &cause) || is(below, &other), "below %d: %d", i, rctx_err(below));
      }
      end_children(index);
    }
    threads_meet(&race.threads);
    if (index == 0) rctx_end(race.top);
  }
}

static void run(struct plan plan) {
  atomic_store(&rctx__chaos_seed, seed_get());
  atomic_store(&rctx__chaos_mask, CHAOS_ONE_IN);
  threads_start(&race.threads, RACERS, race_body, &plan);
  threads_join(&race.threads);
  atomic_store(&rctx__chaos_mask, 0);
  cr_assert_eq(rctx_quiesce(fake.manager, INT64_MAX), 0);
  cr_assert_eq(fake_stats().contexts, 0);
}

// Thread 0 sweeps while the others' children end, from both sides of the list.
static void sweep_and_end(unsigned index, int round) {
  if (index == 0) {
    sweep_it(1 + (size_t)round % 5);
    cr_assert(race.won[0]);
    end_children(0);
  } else if (index & 1) {
    end_children(index);
  } else {
    for (int i = CHILDREN - 1; i >= 0; i--) {
      rctx_drop(race.children[index][i]);
      rctx_end(race.below[index][i]);
    }
  }
}

Test(sweep, races_with_ends_of_children) { run((struct plan){sweep_and_end, false}); }

// The handle is not ended here but another cancel comes, of the top and of children.
static void sweep_and_cancel(unsigned index, int round) {
  if (index == 0) {
    sweep_it(1 + (size_t)round % 5);
    // One that lost has nothing to do with the marking.
    for (int i = 0; i < CHILDREN && race.won[0]; i++) cr_assert_neq(rctx_err(race.below[0][i]), 0, "[CTX-1]");
  } else if (index == 1) {
    race.won[1] = rctx_cancel_cause(race.top, &other);
    for (unsigned t = 0; t < RACERS; t++)
      for (int i = 0; i < CHILDREN; i++) cr_assert_neq(rctx_err(race.below[t][i]), 0, "[CTX-1]");
  } else {
    for (int i = 0; i < CHILDREN; i++) rctx_cancel_cause(race.children[index][i], &other);
  }
}

Test(sweep, races_with_other_cancels__CTX_1) { run((struct plan){sweep_and_cancel, true}); }

// Two begin at once: one is it.
static void sweep_twice(unsigned index, int round) {
  if (index > 1) return;
  struct rctx_sweep sweep;
  race.won[index] = rctx_cancel_begin(race.top, index ? &other : &cause, &sweep);
  while (rctx_cancel_step(&sweep, 1 + (size_t)round % 5)) {
  }
  if (!race.won[index]) cr_assert(!rctx_cancel_cause(race.top, &cause));
  cr_assert_neq(rctx_err(race.below[3][0]), 0);
}

Test(sweep, two_begin_at_once_and_one_is_it) { run((struct plan){sweep_twice, true}); }

// Children and grandchildren come while it goes: reached or born ended.
static void sweep_and_derive(unsigned index, int round) {
  if (index == 0) {
    sweep_it(1 + (size_t)round % 5);
    return;
  }
  rctx *made[CHILDREN];
  for (int i = 0; i < CHILDREN; i++) {
    const rctx *parent = i & 1 ? race.top : race.below[index][i];
    made[i] = rctx_with_cancel(parent);
    if (rctx_err(made[i])) cr_assert_neq(rctx_err(parent), 0, "[CTX-3]");
    if (rctx_err(made[i])) cr_assert(is(made[i], &cause), "[CTX-6]");
  }
  rctx_cancel_cause(race.top, &cause); // loses or helps: after it all have ended
  for (int i = 0; i < CHILDREN; i++) {
    cr_assert(is(made[i], &cause));
    rctx_end(made[i]);
  }
}

Test(sweep, races_with_derivation__CTX_5) { run((struct plan){sweep_and_derive, true}); }

// Nobody watches them: there is no place to stop, and no need to.
Test(sweep, what_nobody_watches_is_marked_in_one_step) {
  rctx *top = rctx_with_cancel(fake_root()), *children[100];
  struct rctx_sweep sweep;
  for (int i = 0; i < 100; i++) children[i] = rctx_with_cancel(top);
  cr_assert(rctx_cancel_begin(top, &cause, &sweep));
  cr_assert_not(rctx_cancel_step(&sweep, 1));
  for (int i = 0; i < 100; i++) {
    cr_assert_eq(rctx_err(children[i]), -EPIPE);
    rctx_end(children[i]);
  }
  rctx_end(top);
}
