// Contexts with several parents: include/rctx/merge.h, [MERGE-1] to [MERGE-4].
//
// The first half says on one thread what comes of each order of ends; then come depth, memory running out, and races, each
// of many rounds lined up by barriers with the core yielding at its atomics.
#include "support/check.h"
#include "support/counting.h"
#include "support/fake_time.h"
#include "support/seed.h"
#include "support/threads.h"
#include "support/watchdog.h"

#include "core/platform.h"

#include <limits.h>
#include <pthread.h>
#include <rctx/inspect.h>
#include <rctx/merge.h>

static void open_fake(void) {
  watchdog(60);
  fake_open();
}

TestSuite(merge, .init = open_fake, .fini = fake_close, .timeout = 120);

RCTX_KEY(tag, const char *)

static const struct rctx_cause cause_a = {-ECANCELED, RCTX_ORIGIN_USER, "a", NULL, 0, NULL, NULL};
static const struct rctx_cause cause_b = {-EPIPE, RCTX_ORIGIN_PEER, "b", NULL, 0, NULL, NULL};
static const struct rctx_cause cause_c = {-ESHUTDOWN, RCTX_ORIGIN_SHUTDOWN, "c", NULL, 0, NULL, NULL};

enum { TWO = 2, MANY = 9 };

static rctx *any_of(const rctx *a, const rctx *b) { return rctx_merge_any((const rctx *const[]){a, b}, TWO); }
static rctx *all_of(const rctx *a, const rctx *b) { return rctx_merge_all((const rctx *const[]){a, b}, TWO); }
static rctx *fresh(void) { return rctx_with_cancel(fake_root()); }

static const char *tagged(const rctx *ctx) {
  const char *tag = NULL;
  return tag_get(ctx, &tag) ? tag : "none";
}

static bool is(const rctx *ctx, const struct rctx_cause *cause) {
  return rctx_err(ctx) == cause->code && rctx_cause(ctx) == cause;
}

static struct rctx_info info_of(const rctx *ctx) {
  struct rctx_info info;
  rctx_inspect(ctx, &info);
  return info;
}

// Nothing of a merge is left on this parent: no child, no registration, only its own handle.
static bool alone(const rctx *ctx) {
  struct rctx_info info = info_of(ctx);
  return info.children == 0 && info.registrations == 0 && info.references == 1;
}

// ---- any: who ends it ------------------------------------------------------------------------------------------------

Test(merge, any_ends_with_whichever_parent_is_first__MERGE_1) {
  for (int first = 0; first < MANY; first++) {
    rctx *parents[MANY];
    for (int i = 0; i < MANY; i++) parents[i] = fresh();
    rctx *merge = rctx_merge_any((const rctx *const *)parents, MANY);
    rctx *below = rctx_with_cancel(merge);
    cr_assert_eq(rctx_err(merge), 0);
    cr_assert(rctx_cancel_cause(parents[first], &cause_a));
    cr_assert(is(merge, &cause_a), "parent %d", first);
    cr_assert(is(below, &cause_a), "below parent %d", first);
    for (int i = 0; i < MANY; i++) cr_assert_eq(rctx_cancel_cause(parents[i], &cause_b), i != first);
    cr_assert(is(merge, &cause_a), "the first one stays the cause");
    rctx_end(below);
    rctx_end(merge);
    for (int i = 0; i < MANY; i++) {
      cr_assert(alone(parents[i]), "parent %d of %d", i, first);
      rctx_end(parents[i]);
    }
  }
}

Test(merge, all_ends_with_the_last_parent_and_its_cause__MERGE_1) {
  for (int last = 0; last < MANY; last++) {
    rctx *parents[MANY];
    for (int i = 0; i < MANY; i++) parents[i] = fresh();
    rctx *merge = rctx_merge_all((const rctx *const *)parents, MANY);
    rctx *below = rctx_with_cancel(merge);
    for (int i = 0; i < MANY; i++) {
      if (i != last) cr_assert(rctx_cancel_cause(parents[i], &cause_b));
      cr_assert_eq(rctx_err(merge), 0, "after parent %d", i);
    }
    cr_assert(rctx_cancel_cause(parents[last], &cause_c));
    cr_assert(is(merge, &cause_c));
    cr_assert(is(below, &cause_c));
    rctx_end(below);
    rctx_end(merge);
    for (int i = 0; i < MANY; i++) {
      cr_assert(alone(parents[i]));
      rctx_end(parents[i]);
    }
  }
}

Test(merge, of_one_parent_is_a_child_of_it__MERGE_1) {
  rctx *parent = fresh();
  rctx *any = rctx_merge_any((const rctx *const[]){parent}, 1), *all = rctx_merge_all((const rctx *const[]){parent}, 1);
  cr_assert(rctx_cancel_cause(parent, &cause_a));
  cr_assert(is(any, &cause_a));
  cr_assert(is(all, &cause_a));
  rctx_end(any);
  rctx_end(all);
  rctx_end(parent);
}

Test(merge, the_same_parent_twice_counts_twice_and_lets_go_twice__MERGE_3) {
  for (int all = 0; all < 2; all++) {
    rctx *parent = fresh();
    const rctx *twice[] = {parent, parent, parent};
    rctx *merge = all ? rctx_merge_all(twice, 3) : rctx_merge_any(twice, 3);
    rctx *other = all ? rctx_merge_all(twice, 3) : rctx_merge_any(twice, 3);
    cr_assert(rctx_cancel_cause(other, &cause_b));
    rctx_end(other);
    cr_assert_eq(rctx_err(parent), 0);
    cr_assert(rctx_cancel_cause(parent, &cause_a));
    cr_assert(is(merge, &cause_a));
    rctx_end(merge);
    cr_assert(alone(parent));
    rctx_end(parent);
  }
}

Test(merge, ended_by_its_owner_it_lets_go_of_live_parents__MERGE_3) {
  for (int all = 0; all < 2; all++) {
    rctx *parents[MANY];
    for (int i = 0; i < MANY; i++) parents[i] = fresh();
    rctx *merge =
        all ? rctx_merge_all((const rctx *const *)parents, MANY) : rctx_merge_any((const rctx *const *)parents, MANY);
    const rctx *kept = rctx_ref(merge);
    rctx_end_cause(merge, &cause_c);
    cr_assert(is(kept, &cause_c));
    for (int i = 0; i < MANY; i++) {
      struct rctx_info info = info_of(parents[i]);
      cr_assert_eq(info.children, 0, "parent %d, all %d", i, all);
      cr_assert_eq(info.registrations, 0);
      cr_assert_eq(info.references, 2, "what the reference holds");
      cr_assert_eq(rctx_err(parents[i]), 0);
    }
    rctx_unref(kept);
    for (int i = 0; i < MANY; i++) {
      cr_assert(alone(parents[i]));
      rctx_end(parents[i]);
    }
  }
}

// A server's context sees requests by the thousand come and go.
Test(merge, a_long_lived_parent_keeps_nothing_of_them__MERGE_3) {
  rctx *server = fresh();
  for (int i = 0; i < 5000; i++) {
    rctx *connection = fresh();
    rctx *merge = i % 2 ? any_of(connection, server) : any_of(server, connection);
    if (i % 3 == 0) rctx_cancel(connection);
    rctx_end(merge);
    rctx_end(connection);
    cr_assert(alone(server), "round %d", i);
  }
  rctx_end(server);
}

Test(merge, roots_and_detached_parents_never_end_it) {
  rctx *parent = fresh(), *detached = rctx_without_cancel(parent);
  rctx *any = rctx_merge_any((const rctx *const[]){rctx_background(), detached, parent}, 3);
  rctx *all = rctx_merge_all((const rctx *const[]){parent, fake_root()}, TWO);
  rctx *only_roots = any_of(rctx_background(), rctx_todo());
  cr_assert(rctx_cancel_cause(parent, &cause_a));
  cr_assert(is(any, &cause_a));
  cr_assert_eq(rctx_err(all), 0, "a root keeps it live");
  cr_assert_eq(rctx_err(only_roots), 0);
  cr_assert(rctx_cancel_cause(all, &cause_b));
  cr_assert(rctx_cancel_cause(only_roots, &cause_c));
  cr_assert(is(all, &cause_b));
  rctx_end(any);
  rctx_end(all);
  rctx_end(only_roots);
  rctx_end(detached);
  rctx_end(parent);
}

// ---- born ended ------------------------------------------------------------------------------------------------------

Test(merge, any_is_born_ended_with_the_first_ended_one_of_the_array__MERGE_2) {
  rctx *live = fresh(), *a = fresh(), *b = fresh();
  cr_assert(rctx_cancel_cause(b, &cause_b)); // first in time, not in the array
  cr_assert(rctx_cancel_cause(a, &cause_a));
  const rctx *orders[][3] = {{live, a, b}, {a, live, b}, {a, b, live}, {fake_root(), a, b}};
  for (size_t i = 0; i < sizeof orders / sizeof *orders; i++) {
    rctx *merge = rctx_merge_any(orders[i], 3), *below = rctx_with_cancel(merge);
    cr_assert(is(merge, &cause_a), "order %zu", i);
    cr_assert(is(below, &cause_a), "order %zu", i);
    rctx_end(below);
    rctx_end(merge);
    cr_assert(alone(live), "order %zu", i);
  }
  rctx_end(live);
  rctx_end(a);
  rctx_end(b);
}

Test(merge, all_is_born_ended_when_all_have_ended__MERGE_2) {
  rctx *a = fresh(), *b = fresh();
  cr_assert(rctx_cancel_cause(a, &cause_a));
  rctx *half = all_of(a, b);
  cr_assert_eq(rctx_err(half), 0);
  cr_assert(rctx_cancel_cause(b, &cause_b));
  cr_assert(is(half, &cause_b));
  rctx *whole = all_of(b, a);
  cr_assert_neq(rctx_err(whole), 0);
  cr_assert(is(whole, &cause_a), "the last of the array");
  rctx_end(half);
  rctx_end(whole);
  rctx_end(a);
  rctx_end(b);
}

Test(merge, a_parent_that_was_born_for_want_of_memory_ends_it) {
  struct rctx_manager_options options = {.allocator = counting_table(), .bytes_max = 1};
  rctx_manager *poor;
  cr_assert_eq(rctx_manager_create(&options, &poor), 0);
  rctx *failed = rctx_with_cancel(rctx_manager_background(poor)), *parent = fresh();
  cr_assert_eq(rctx_err(failed), -ENOMEM);
  rctx *any = any_of(parent, failed), *first = any_of(failed, parent), *all = all_of(failed, parent);
  cr_assert_eq(rctx_err(any), -ENOMEM);
  cr_assert_eq(rctx_err(first), -ENOMEM);
  cr_assert_eq(rctx_err(all), 0);
  cr_assert(rctx_cancel_cause(parent, &cause_a));
  cr_assert(is(all, &cause_a));
  rctx_end(any);
  rctx_end(first);
  rctx_end(all);
  rctx_end(parent);
  rctx_end(failed);
  cr_assert_eq(rctx_manager_destroy(poor), 0);
}

// ---- causes and levels -----------------------------------------------------------------------------------------------

static int destroyed;
static void count_destroyed(const struct rctx_cause *self) {
  (void)self;
  destroyed++;
}

Test(merge, a_cause_made_at_run_time_lives_as_long_as_the_merge__MERGE_4) {
  for (int all = 0; all < 2; all++) {
    struct rctx_cause *record = malloc(sizeof *record);
    *record = (struct rctx_cause){-EPIPE, RCTX_ORIGIN_PEER, "made", NULL, 0, NULL, count_destroyed};
    destroyed = 0;
    rctx *first = fresh(), *second = fresh();
    rctx *merge = all ? all_of(first, second) : any_of(first, second);
    rctx *below = rctx_with_cancel(merge);
    if (all) rctx_cancel(first);
    cr_assert(rctx_cancel_cause(second, record));
    rctx_end(first);
    rctx_end(second);
    rctx_end(merge);
    cr_assert_eq(destroyed, 0, "a context below still shows it");
    cr_assert_eq(rctx_cause(below), record);
    cr_assert_str_eq(rctx_cause(below)->text, "made");
    rctx_end(below);
    cr_assert_eq(destroyed, 1);
    free(record);
  }
}

Test(merge, why_counts_the_step_to_the_parent__MERGE_2) {
  struct rctx_spec named = {.name = "top"};
  rctx *top = rctx_derive(fake_root(), &named), *mid = rctx_with_cancel(top), *other = fresh();
  rctx *merge = any_of(other, mid), *outer = all_of(merge, merge), *below = rctx_with_cancel(outer);
  struct rctx_why why;
  cr_assert(rctx_cancel_cause(top, &cause_a));
  static const unsigned levels[] = {4, 3, 2, 1, 0};
  const rctx *contexts[] = {below, outer, merge, mid, top};
  for (size_t i = 0; i < 5; i++) {
    cr_assert_eq(rctx_why(contexts[i], &why), -ECANCELED);
    cr_assert_eq(why.levels_up, levels[i], "context %zu: %u levels", i, why.levels_up);
    cr_assert_eq(why.cause, &cause_a);
    cr_assert_str_eq(why.name, "top");
  }
  rctx_end(below);
  rctx_end(outer);
  rctx_end(merge);
  rctx_end(other);
  rctx_end(mid);
  rctx_end(top);
}

Test(merge, a_parents_deadline_is_a_parents_deadline_to_why__MERGE_2) {
  rctx *late = rctx_with_timeout(fake_root(), 10 * MS), *other = fresh();
  rctx *merge = any_of(other, late);
  struct rctx_why why;
  fake_pass(fake_now() + 10 * MS);
  cr_assert_eq(rctx_why(merge, &why), -ETIMEDOUT);
  cr_assert_eq(why.origin, RCTX_ORIGIN_PARENT_DEADLINE);
  cr_assert_eq(why.levels_up, 1);
  cr_assert_eq(why.cause, rctx_cause(late));
  rctx_end(merge);
  rctx_end(other);
  rctx_end(late);
}

// ---- values and deadlines --------------------------------------------------------------------------------------------

Test(merge, values_are_the_first_parents_and_outlive_its_handle__MERGE_4) {
  rctx *first = tag_with(fake_root(), "first"), *second = tag_with(fake_root(), "second");
  rctx *any = any_of(first, second), *all = all_of(second, first);
  rctx *below = tag_with(any, "below");
  cr_assert_str_eq(tagged(any), "first");
  cr_assert_str_eq(tagged(all), "second");
  rctx_end(first);
  rctx_end(second);
  cr_assert_str_eq(tagged(any), "first");
  cr_assert_str_eq(tagged(all), "second");
  cr_assert_str_eq(tagged(below), "below");
  rctx_end(below);
  rctx_end(any);
  rctx_end(all);
}

static void shows(const rctx *ctx, int64_t expected_ns) {
  int64_t deadline_ns = 0;
  bool has = rctx_deadline(ctx, &deadline_ns);
  cr_assert_eq(has, expected_ns != 0);
  if (expected_ns) cr_assert_eq(deadline_ns, expected_ns, "%" PRId64 " ns off", deadline_ns - expected_ns);
}

Test(merge, deadline_is_the_earliest_of_any_and_the_latest_of_all) {
  int64_t now_ns = fake_now();
  rctx *soon = rctx_with_deadline(fake_root(), now_ns + 10 * MS),
       *late = rctx_with_deadline(fake_root(), now_ns + 30 * MS);
  rctx *none = fresh();
  rctx *any = rctx_merge_any((const rctx *const[]){none, late, soon}, 3), *all = all_of(soon, late);
  rctx *open_end = rctx_merge_all((const rctx *const[]){soon, none, late}, 3);
  shows(any, now_ns + 10 * MS);
  shows(all, now_ns + 30 * MS);
  shows(open_end, 0);
  fake_reach(now_ns + 10 * MS - 1);
  cr_assert_eq(rctx_err(any), 0);
  fake_pass(now_ns + 10 * MS);
  cr_assert_eq(rctx_err(any), -ETIMEDOUT);
  cr_assert_eq(rctx_err(all), 0);
  fake_pass(now_ns + 30 * MS);
  cr_assert_eq(rctx_err(all), -ETIMEDOUT);
  cr_assert_eq(rctx_err(open_end), 0);
  rctx_end(any);
  rctx_end(all);
  rctx_end(open_end);
  rctx_end(none);
  rctx_end(soon);
  rctx_end(late);
}

// The latest parent is cancelled early: the merge ends with the other one, at a time when what is below was not due yet.
Test(merge, a_deadline_below_all_is_never_blamed_early__CTX_7) {
  int64_t now_ns = fake_now();
  for (int shown = 0; shown < 2; shown++) {
    rctx *latest = shown ? rctx_with_deadline(fake_root(), now_ns + SECOND) : fresh();
    rctx *soon = rctx_with_deadline(fake_root(), now_ns + 10 * MS);
    rctx *all = all_of(latest, soon);
    rctx *below = rctx_with_deadline_cause(all, now_ns + 500 * MS, &cause_c);
    struct rctx_why why;
    rctx_cancel(latest);
    fake_pass(now_ns + 10 * MS);
    now_ns = fake_now();
    cr_assert_eq(rctx_why(below, &why), -ETIMEDOUT);
    cr_assert_neq(why.cause, &cause_c, "its own deadline was 490 ms away");
    cr_assert_eq(why.levels_up, 2);
    rctx_end(below);
    rctx_end(all);
    rctx_end(latest);
    rctx_end(soon);
  }
}

Test(merge, a_deadline_below_ends_it_with_its_own_cause) {
  int64_t now_ns = fake_now();
  rctx *a = rctx_with_deadline(fake_root(), now_ns + SECOND), *b = rctx_with_deadline(fake_root(), now_ns + SECOND);
  rctx *any = any_of(a, b), *all = all_of(a, b);
  rctx *below_any = rctx_with_deadline_cause(any, now_ns + 10 * MS, &cause_b);
  rctx *below_all = rctx_with_deadline_cause(all, now_ns + 10 * MS, &cause_b);
  fake_pass(now_ns + 10 * MS);
  cr_assert_eq(rctx_cause(below_any), &cause_b);
  cr_assert_eq(rctx_cause(below_all), &cause_b);
  cr_assert_eq(rctx_err(any), 0);
  rctx_end(below_any);
  rctx_end(below_all);
  rctx_end(any);
  rctx_end(all);
  rctx_end(a);
  rctx_end(b);
}

Test(merge, deadlines_that_move_are_shown_through_it) {
  int64_t now_ns = fake_now();
  struct rctx_spec movable = {.movable = true};
  rctx *first = fresh(), *moves = rctx_derive(fake_root(), &movable);
  rctx *fixed = rctx_with_deadline(fake_root(), now_ns + SECOND);
  rctx *any = rctx_merge_any((const rctx *const[]){first, fixed, moves}, 3), *all = all_of(fixed, moves);
  rctx *outer = any_of(first, any), *below = rctx_with_cancel(outer);
  shows(below, now_ns + SECOND);
  shows(all, 0);
  cr_assert_eq(rctx_move_deadline(moves, now_ns + 20 * MS), 0);
  shows(any, now_ns + 20 * MS);
  shows(outer, now_ns + 20 * MS);
  shows(below, now_ns + 20 * MS);
  shows(all, now_ns + SECOND);
  cr_assert_eq(rctx_move_deadline(moves, now_ns + 2 * SECOND), 0);
  shows(below, now_ns + SECOND);
  shows(all, now_ns + 2 * SECOND);
  fake_pass(now_ns + SECOND);
  cr_assert_eq(rctx_err(below), -ETIMEDOUT);
  cr_assert_eq(rctx_err(all), 0);
  fake_pass(now_ns + 2 * SECOND);
  cr_assert_eq(rctx_err(all), -ETIMEDOUT);
  rctx_end(below);
  rctx_end(outer);
  rctx_end(any);
  rctx_end(all);
  rctx_end(first);
  rctx_end(moves);
  rctx_end(fixed);
}

Test(merge, parents_of_several_managers_and_clocks) {
  rctx *here = rctx_with_deadline(fake_root(), fake_now() + 10 * MS);
  rctx *there = rctx_with_timeout(rctx_background(), 3600 * SECOND);
  rctx *any = any_of(there, here), *mine = any_of(here, there), *all = all_of(here, there);
  cr_assert_eq(rctx_manager_of(any), rctx_manager_default());
  cr_assert_eq(rctx_manager_of(mine), fake.manager);
  int64_t deadline_ns;
  cr_assert(rctx_deadline(mine, &deadline_ns) && deadline_ns == fake_now() + 10 * MS);
  cr_assert(rctx_deadline(any, &deadline_ns) && deadline_ns > rctx_now() + 1800 * SECOND,
            "another clock does not count");
  shows(all, 0);
  rctx *below = rctx_with_timeout_cause(any, 1800 * SECOND, &cause_b);
  fake_pass(fake_now() + 10 * MS);
  cr_assert_eq(rctx_err(any), -ETIMEDOUT, "the expiry arrives");
  cr_assert_eq(rctx_cause(below), rctx_cause(here), "and is not mistaken for its own");
  cr_assert_eq(rctx_err(mine), -ETIMEDOUT);
  cr_assert_eq(rctx_err(all), 0);
  rctx_cancel_cause(there, &cause_b);
  cr_assert(is(all, &cause_b));
  rctx_end(below);
  rctx_end(any);
  rctx_end(mine);
  rctx_end(all);
  rctx_end(here);
  rctx_end(there);
}

// ---- the caller's storage --------------------------------------------------------------------------------------------

static void set_flag(void *flag) { *(bool *)flag = true; }

Test(merge, links_in_the_callers_storage_are_free_when_the_merge_is_gone) {
  for (int round = 0; round < 8; round++) {
    struct rctx_merge_link *links = malloc(MANY * sizeof *links);
    memset(links, 0xA5, MANY * sizeof *links); // need not be cleared
    rctx *parents[MANY];
    for (int i = 0; i < MANY; i++) parents[i] = fresh();
    rctx *merge = round & 1 ? rctx_merge_any_in(links, (const rctx *const *)parents, MANY)
                            : rctx_merge_all_in(links, (const rctx *const *)parents, MANY);
    bool gone = false;
    rctx *below = rctx_derive(
        merge, &(struct rctx_spec){.values = &(struct rctx_value){&tag_key, &gone, set_flag}, .nvalues = 1});
    if (round & 2) rctx_cancel_cause(parents[round], &cause_a);
    if (round & 4)
      for (int i = 0; i < MANY; i++) rctx_cancel_cause(parents[i], &cause_b);
    rctx_end(merge);
    cr_assert(!gone);
    rctx_end(below);
    cr_assert(gone);
    free(links);
    for (int i = 0; i < MANY; i++) {
      cr_assert(alone(parents[i]));
      rctx_end(parents[i]);
    }
  }
}

// ---- inside callbacks ------------------------------------------------------------------------------------------------

struct inside {
  rctx *merge, *other, *inner;
  struct rctx_after after;
  int seen;
};

static void cancels_the_other_parent(const rctx *ctx, void *arg) {
  struct inside *in = arg;
  cr_expect_eq(rctx_err(in->merge), -ECANCELED, "[MERGE-1]: links come first, in order");
  cr_expect(rctx_cancel_cause(in->other, &cause_b));
  in->inner = any_of(in->other, ctx);
  in->seen = rctx_err(in->inner);
  rctx_end(in->merge);
}

Test(merge, ended_and_made_inside_a_callback_of_a_parent) {
  struct inside in = {.other = fresh()};
  rctx *parent = fresh();
  in.merge = any_of(in.other, parent);
  cr_assert_eq(rctx_after_inline(parent, &in.after, RCTX_ON_ENDED_RUN, cancels_the_other_parent, &in), RCTX_REGISTERED);
  rctx_cancel_cause(parent, &cause_a);
  cr_assert_eq(in.seen, -EPIPE, "the first of the array");
  rctx_end(in.inner);
  cr_assert(alone(parent));
  cr_assert(alone(in.other));
  rctx_end(parent);
  rctx_end(in.other);
}

// ---- depth -----------------------------------------------------------------------------------------------------------

#if defined(__SANITIZE_THREAD__) || CHECK_LEAKS
enum { DEPTH = 10000, STACK_BYTES = 512 << 10 };
#else
enum { DEPTH = 100000, STACK_BYTES = 256 << 10 };
#endif

struct tower {
  bool all, top_down;
  int first; // where in the array the merge below stands
};

static void *build_a_tower(void *arg) {
  const struct tower *plan = arg;
  rctx **made = malloc(DEPTH * sizeof *made);
  rctx *bottom = fresh(), *side = fresh();
  const rctx *under = bottom;
  if (plan->all) rctx_cancel_cause(side, &cause_b);
  for (int i = 0; i < DEPTH; i++) {
    const rctx *pair[] = {plan->first ? side : under, plan->first ? under : side};
    made[i] = plan->all ? rctx_merge_all(pair, TWO) : rctx_merge_any(pair, TWO);
    under = made[i];
  }
  struct rctx_why why;
  cr_assert_eq(rctx_err(under), 0);
  cr_assert(rctx_cancel_cause(bottom, &cause_a));
  for (int i = 0; i < DEPTH; i++) cr_assert_eq(rctx_err(made[i]), -ECANCELED, "merge %d", i);
  cr_assert_eq(rctx_why(under, &why), -ECANCELED);
  cr_assert_eq(why.cause, &cause_a);
  cr_assert_eq(why.levels_up, (unsigned)DEPTH);
  for (int i = 0; i < DEPTH; i++) rctx_end(made[plan->top_down ? DEPTH - 1 - i : i]);
  cr_assert(alone(bottom));
  cr_assert(alone(side));
  rctx_end(bottom);
  rctx_end(side);
  free(made);
  return NULL;
}

static void tower(struct tower plan) {
  pthread_attr_t attributes;
  pthread_t thread;
  watchdog(100);
  cr_assert_eq(pthread_attr_init(&attributes), 0);
  cr_assert_eq(pthread_attr_setstacksize(&attributes, STACK_BYTES), 0);
  cr_assert_eq(pthread_create(&thread, &attributes, build_a_tower, &plan), 0);
  cr_assert_eq(pthread_join(thread, NULL), 0);
  pthread_attr_destroy(&attributes);
}

Test(merge, any_of_any_of_any_costs_no_stack__MERGE_1) { tower((struct tower){.first = 1}); }
Test(merge, any_of_any_of_any_costs_no_stack_from_the_top__MERGE_1) {
  tower((struct tower){.first = 1, .top_down = true});
}
Test(merge, a_chain_of_first_parents_costs_no_stack__MERGE_1) { tower((struct tower){.first = 0}); }
Test(merge, all_of_all_of_all_costs_no_stack__MERGE_1) { tower((struct tower){.all = true, .first = 1}); }
Test(merge, all_of_all_of_all_costs_no_stack_from_the_top__MERGE_1) {
  tower((struct tower){.all = true, .first = 0, .top_down = true});
}

// ---- out of memory ---------------------------------------------------------------------------------------------------

static void counting_start(void) {
  watchdog(60);
  counting_open(true);
}

TestSuite(merge_memory, .init = counting_start, .fini = counting_close, .timeout = 120);

Test(merge_memory, runs_out_anywhere_and_leaves_nothing_behind) {
  bool refused = true;
  for (int64_t at = 1; refused; at++) {
    rctx *parents[MANY];
    counting_fail_at(0);
    for (int i = 0; i < MANY; i++) parents[i] = rctx_with_cancel(counting_root());
    struct rctx_merge_link links[MANY];
    refused = false;
    for (int what = 0; what < 6; what++) {
      counting_fail_at(at);
      size_t n = what & 1 ? MANY : TWO;
      rctx *merge = what < 2   ? rctx_merge_any((const rctx *const *)parents, n)
                    : what < 4 ? rctx_merge_all((const rctx *const *)parents, n)
                               : rctx_merge_any_in(links, (const rctx *const *)parents, n);
      bool failed = counting_fail_at(0);
      refused |= failed;
      cr_assert_eq(rctx_err(merge), failed ? -ENOMEM : 0, "request %d of kind %d", (int)at, what);
      rctx_end(merge);
      for (int i = 0; i < MANY; i++) cr_assert(alone(parents[i]), "request %d of kind %d", (int)at, what);
    }
    for (int i = 0; i < MANY; i++) rctx_end(parents[i]);
  }
}

// ---- races -----------------------------------------------------------------------------------------------------------

enum { ROUNDS = 2500, CHAOS_ONE_IN = 3, RACERS = 4 };

#if defined(__SANITIZE_THREAD__) || CHECK_LEAKS
enum { SLOWER = 4 };
#else
enum { SLOWER = 1 };
#endif

static struct {
  struct threads threads;
  rctx *parents[RACERS];
  rctx *merge;
  const rctx *kept;
  rctx *made[RACERS];
  bool won[RACERS];
  bool all;
  struct rctx_merge_link *links;
} race;

static const struct rctx_cause race_causes[RACERS] = {{-ECANCELED, RCTX_ORIGIN_USER, "0", NULL, 0, NULL, NULL},
                                                      {-EPIPE, RCTX_ORIGIN_USER, "1", NULL, 0, NULL, NULL},
                                                      {-ESHUTDOWN, RCTX_ORIGIN_USER, "2", NULL, 0, NULL, NULL},
                                                      {-EIO, RCTX_ORIGIN_USER, "3", NULL, 0, NULL, NULL}};

static bool is_one_of_ours(const rctx *ctx) {
  for (int i = 0; i < RACERS; i++) {
    if (is(ctx, &race_causes[i])) return true;
  }
  return false;
}

struct plan {
  unsigned threads;
  void (*set_up)(unsigned round);
  void (*act)(unsigned index);
  void (*check)(void);
};

static void race_body(unsigned index, void *arg) {
  const struct plan *plan = arg;
  for (unsigned round = 0; round < ROUNDS / SLOWER; round++) {
    if (index == 0) plan->set_up(round);
    threads_meet(&race.threads);
    plan->act(index);
    threads_meet(&race.threads);
    if (index == 0) plan->check();
  }
}

static void run(struct plan plan) {
  atomic_store(&rctx__chaos_seed, seed_get());
  atomic_store(&rctx__chaos_mask, CHAOS_ONE_IN);
  threads_start(&race.threads, plan.threads, race_body, &plan);
  threads_join(&race.threads);
  atomic_store(&rctx__chaos_mask, 0);
}

static void parents_up(unsigned round) {
  race.all = round & 1;
  for (int i = 0; i < RACERS; i++) race.parents[i] = fresh();
}

static rctx *merge_now(void) {
  const rctx *const *parents = (const rctx *const *)race.parents;
  return race.all ? rctx_merge_all(parents, RACERS) : rctx_merge_any(parents, RACERS);
}

static void merge_up(unsigned round) {
  parents_up(round);
  race.merge = merge_now();
}

static void parents_down(void) {
  for (int i = 0; i < RACERS; i++) {
    cr_assert(alone(race.parents[i]), "parent %d, all %d", i, race.all);
    rctx_end(race.parents[i]);
  }
}

static void end_my_parent(unsigned index) {
  cr_assert(rctx_cancel_cause(race.parents[index], &race_causes[index]));
  if (!race.all) cr_assert_neq(rctx_err(race.merge), 0, "[MERGE-1] parent %u has ended", index);
}

static void one_of_them_ended_it(void) {
  cr_assert(is_one_of_ours(race.merge), "err %d", rctx_err(race.merge));
  struct rctx_why why;
  rctx_why(race.merge, &why);
  cr_assert_eq(why.levels_up, 1);
  rctx_end(race.merge);
  parents_down();
}

Test(merge, parents_that_end_at_once__MERGE_1) {
  run((struct plan){RACERS, merge_up, end_my_parent, one_of_them_ended_it});
}

// Its owner ends it while the parents do. A reference shows what came of it.
static void kept_up(unsigned round) {
  merge_up(round);
  race.kept = rctx_ref(race.merge);
}

static void end_parents_and_merge(unsigned index) {
  if (index == 3) {
    rctx_end_cause(race.merge, &race_causes[3]);
    cr_assert(is_one_of_ours(race.kept));
  } else {
    rctx_cancel_cause(race.parents[index], &race_causes[index]);
  }
}

static void the_reference_still_shows_it(void) {
  cr_assert(is_one_of_ours(race.kept));
  rctx_unref(race.kept);
  parents_down();
}

Test(merge, ended_by_its_owner_while_parents_end__MERGE_3) {
  run((struct plan){RACERS, kept_up, end_parents_and_merge, the_reference_still_shows_it});
}

// The same with nobody watching: the last one to touch it frees it, and the caller's links with it.
static void unwatched_up(unsigned round) {
  parents_up(round);
  race.links = malloc(RACERS * sizeof *race.links);
  const rctx *const *parents = (const rctx *const *)race.parents;
  race.merge =
      race.all ? rctx_merge_all_in(race.links, parents, RACERS) : rctx_merge_any_in(race.links, parents, RACERS);
}

static void end_parents_and_merge_unseen(unsigned index) {
  if (index == 3) {
    rctx_end(race.merge);
  } else {
    rctx_end_cause(race.parents[index], &race_causes[index]);
  }
}

static void free_links(void) {
  cr_assert(alone(race.parents[3]));
  rctx_end(race.parents[3]);
  cr_assert_eq(rctx_quiesce(fake.manager, INT64_MAX), 0);
  memset(race.links, 0x5A, RACERS * sizeof *race.links);
  free(race.links);
}

Test(merge, handles_of_parents_and_merge_end_at_once__MERGE_4) {
  run((struct plan){RACERS, unwatched_up, end_parents_and_merge_unseen, free_links});
}

// Made while the parents end: reached by them or born ended.
static void make_or_end(unsigned index) {
  if (index == 0) {
    race.merge = merge_now();
  } else {
    rctx_cancel_cause(race.parents[index], &race_causes[index]);
  }
}

static void reached_or_born_ended(void) {
  if (race.all) {
    cr_assert_eq(rctx_err(race.merge), 0, "one parent is live");
    cr_assert(rctx_cancel_cause(race.parents[0], &race_causes[0]));
    cr_assert(is(race.merge, &race_causes[0]));
  } else {
    cr_assert(is_one_of_ours(race.merge));
  }
  rctx_end(race.merge);
  parents_down();
}

Test(merge, made_while_parents_end__MERGE_1) {
  run((struct plan){RACERS, parents_up, make_or_end, reached_or_born_ended});
}

// Several threads make and end merges of the same parents, one of which ends meanwhile.
static void make_and_end(unsigned index) {
  if (index == 0) {
    rctx_cancel_cause(race.parents[2], &race_causes[2]);
    return;
  }
  for (int i = 0; i < 3; i++) {
    rctx *merge = merge_now(), *below = rctx_with_cancel(merge);
    if (rctx_err(below)) cr_assert(is(below, &race_causes[2]));
    if (rctx_err(below)) cr_assert_neq(rctx_err(merge), 0);
    if (i & 1) rctx_cancel_cause(merge, &race_causes[2]);
    rctx_end(merge);
    rctx_end(below);
  }
}

Test(merge, many_of_the_same_parents_come_and_go__MERGE_3) {
  run((struct plan){RACERS, parents_up, make_and_end, parents_down});
}

// A deadline's expiry is one of the parents' ends; another thread cancels the other parent.
static void timed_up(unsigned round) {
  parents_up(round);
  rctx_end(race.parents[0]);
  race.parents[0] = rctx_with_deadline_cause(fake_root(), fake_now() + MS, &race_causes[0]);
  race.merge = merge_now();
}

static void expire_or_cancel(unsigned index) {
  if (index == 0) {
    fake_go(2 * MS);
    if (!race.all) cr_assert_neq(rctx_err(race.merge), 0, "[MERGE-1]");
  } else {
    end_my_parent(index);
  }
}

static void one_way_or_the_other(void) {
  int err = rctx_err(race.merge);
  const struct rctx_cause *cause = rctx_cause(race.merge);
  cr_assert(err != 0 && cause && cause->code == err, "err %d, cause %s", err, cause ? cause->text : "none");
  rctx_end(race.merge);
  parents_down();
}

Test(merge, expiry_of_a_parent_races_with_cancels__MERGE_2) {
  run((struct plan){RACERS, timed_up, expire_or_cancel, one_way_or_the_other});
}
