// What a hostile review of merges, movable deadlines, sweeps, codecs, dumps and the testing kit found.
#include "support/check.h"
#include "support/leftovers.h"
#include "support/seed.h"
#include "support/threads.h"
#include "support/watchdog.h"

#include "core/platform.h"

#include <errno.h>
#include <rctx/merge.h>
#include <rctx/observe.h>
#include <rctx/propagate.h>
#include <rctx/testing.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>

#define MS INT64_C(1000000)
#define SECOND (1000 * MS)
#define HOUR (3600 * SECOND)

static rctx_test_clock *clk;

static void beyond_open(void) {
  watchdog(60);
  if (rctx_test_clock_create(1000 * SECOND, &clk) != 0) abort();
}

static void beyond_close(void) {
  nothing_left(rctx_test_clock_manager(clk));
  nothing_left(rctx_manager_default());
  if (rctx_test_clock_destroy(clk) != 0) abort();
}

TestSuite(beyond_regression, .init = beyond_open, .fini = beyond_close, .timeout = 120);

static const rctx *root(void) { return rctx_test_clock_background(clk); }
static int64_t now(void) { return rctx_test_clock_now(clk); }

// ---- deadlines that move ---------------------------------------------------------------------------------------------

// context.h, rctx_touch_at: "on an ended context ... nothing"; rctx_deadline: "stays readable after the end".
Test(beyond_regression, a_touch_of_an_idle_context_that_has_ended_changes_nothing) {
  RCTX_SCOPED rctx *idle = rctx_with_idle(root(), SECOND);
  int64_t before = 0, after = 0;
  rctx_test_clock_advance(clk, SECOND);
  cr_assert_eq(rctx_err(idle), -ETIMEDOUT);
  cr_assert(rctx_deadline(idle, &before));
  rctx_test_clock_advance(clk, SECOND);
  rctx_touch(idle);
  cr_assert(rctx_deadline(idle, &after));
  cr_expect_eq(after, before, "moved by %lld ms", (long long)((after - before) / MS));
}

static const struct rctx_cause mine = {-ETIMEDOUT, RCTX_ORIGIN_USER, "mine", NULL, 0, NULL, NULL};

// context.h, rctx_with_deadline: "Equal: its own deadline (and cause) is what ends it."
Test(beyond_regression, of_equal_deadlines_below_a_movable_one_the_own_counts) {
  RCTX_SCOPED rctx *parent = rctx_derive(root(), &(struct rctx_spec){.timeout_ns = SECOND, .movable = true});
  RCTX_SCOPED rctx *child = rctx_with_timeout_cause(parent, SECOND, &mine);
  RCTX_SCOPED rctx *other = rctx_with_timeout_cause(parent, SECOND, &mine);
  rctx_test_clock_advance(clk, SECOND);
  cr_expect_eq(rctx_cause(child), &mine, "%s", rctx_cause(child)->text);
  cr_expect_eq(rctx_cause(other), &mine, "%s", rctx_cause(other)->text);
}

enum { ROUNDS = 4000 };

struct touching {
  struct threads threads;
  rctx *idle;
  int64_t moved_to;
  int undone;
};

static void touch_or_move(unsigned index, void *arg) {
  struct touching *touching = arg;
  for (int round = 0; round < ROUNDS; round++) {
    if (index == 0) touching->idle = rctx_with_idle(root(), SECOND);
    threads_meet(&touching->threads);
    if (index == 0) rctx_touch_at(touching->idle, now() + MS);
    if (index == 1 && rctx_move_deadline(touching->idle, touching->moved_to) != 0) abort();
    threads_meet(&touching->threads);
    if (index != 0) continue;
    int64_t deadline_ns;
    if (!rctx_deadline(touching->idle, &deadline_ns)) abort();
    touching->undone += deadline_ns != touching->moved_to;
    rctx_end(touching->idle);
  }
}

// context.h, rctx_move_deadline: "0: it will not end by its own deadline before the new one", whatever a touch had read before.
Test(beyond_regression, a_touch_does_not_undo_a_move_to_later) {
  struct touching touching = {.moved_to = now() + HOUR};
  atomic_store(&rctx__chaos_seed, seed_get());
  atomic_store(&rctx__chaos_mask, 2);
  threads_start(&touching.threads, 2, touch_or_move, &touching);
  threads_join(&touching.threads);
  atomic_store(&rctx__chaos_mask, 0);
  cr_expect_eq(touching.undone, 0, "%d of %d moves were undone", touching.undone, (int)ROUNDS);
}

// ---- merges ----------------------------------------------------------------------------------------------------------

// merge.h: of those more than four deep only "deadlines that can move are not shown".
Test(beyond_regression, a_deadline_that_can_not_move_is_shown_however_deep) {
  enum { DEEP = 6 };
  RCTX_SCOPED rctx *fixed = rctx_with_timeout(root(), SECOND);
  RCTX_SCOPED rctx *movable = rctx_derive(root(), &(struct rctx_spec){.movable = true});
  RCTX_SCOPED rctx *live = rctx_with_cancel(root());
  rctx *merges[DEEP];
  const rctx *below = fixed;
  for (int i = 0; i < DEEP; i++) {
    const rctx *parents[2] = {i ? live : movable, below};
    below = merges[i] = rctx_merge_any(parents, 2);
    int64_t deadline_ns = 0;
    cr_expect(rctx_deadline(below, &deadline_ns), "%d deep: no deadline", i + 1);
    cr_expect_eq(rctx_budget(below, 0), SECOND, "%d deep: more than is left", i + 1);
  }
  for (int i = DEEP; i-- > 0;) rctx_end(merges[i]);
}

// merge.h, rctx_merge_*_in: "Nothing is allocated but the node and two cached blocks."
Test(beyond_regression, a_merge_in_the_callers_storage_takes_a_node_and_two_blocks) {
  struct rctx_test_memory memory = {0};
  struct rctx_manager_options options = {.allocator = rctx_test_allocator(&memory), .uncached = true};
  rctx_test_clock *own;
  cr_assert_eq(rctx_test_clock_create_with(&options, SECOND, &own), 0);
  rctx *a = rctx_with_cancel(rctx_test_clock_background(own)), *b = rctx_with_cancel(rctx_test_clock_background(own));
  const rctx *parents[2] = {a, b};
  struct rctx_merge_link links[2];
  size_t before = memory.requests;
  rctx *merge = rctx_merge_any_in(links, parents, 2);
  cr_expect_leq(memory.requests - before, 3, "%zu requests", memory.requests - before);
  rctx_end(merge);
  rctx_end(a);
  rctx_end(b);
  cr_assert_eq(rctx_test_clock_destroy(own), 0);
}

// ---- sweeps ----------------------------------------------------------------------------------------------------------

enum { LEAVES = 1000 };

static void end_it(const rctx *ctx, void *arg) {
  (void)ctx;
  rctx_end(arg); // what a loop does with a connection that has ended
}

static void nothing(const rctx *ctx, void *arg) {
  (void)ctx;
  (void)arg;
}

// context.h, rctx_cancel_begin: ending handles "leaves what is below to the steps": no callback takes longer than a slice.
Test(beyond_regression, a_handle_ended_in_its_loop_callback_leaves_the_rest_to_the_steps) {
  static struct rctx_after nodes[LEAVES + 1];
  rctx *leaves[LEAVES];
  rctx_loop *loop;
  cr_assert_eq(rctx_loop_create(&loop), 0);
  rctx *top = rctx_with_cancel(root()), *middle = rctx_with_cancel(top);
  rctx_watch(middle, &nodes[LEAVES], loop, RCTX_ON_ENDED_QUEUE, end_it, middle);
  for (int i = 0; i < LEAVES; i++) {
    leaves[i] = rctx_with_cancel(middle);
    rctx_watch(leaves[i], &nodes[i], loop, RCTX_ON_ENDED_QUEUE, nothing, NULL);
  }
  struct rctx_sweep sweep;
  int marked = 0;
  cr_assert(rctx_cancel_begin(top, NULL, &sweep));
  cr_assert(rctx_cancel_step(&sweep, 1));
  cr_assert_eq(rctx_loop_drain(loop, 1), 1);
  for (int i = 0; i < LEAVES; i++) marked += rctx_err(leaves[i]) != 0;
  cr_expect_leq(marked, 1, "%d contexts marked by a step of 1 and one callback", marked);
  while (rctx_cancel_step(&sweep, 1)) {
  }
  while (rctx_loop_drain(loop, LEAVES) > 0) {
  }
  for (int i = 0; i < LEAVES; i++) rctx_end(leaves[i]);
  rctx_end(top);
  rctx_loop_destroy(loop);
}

// context.h, rctx_cancel_begin: "at most 200 that have begun in one another". Each stands below the one begun after it.
Test(beyond_regression, two_hundred_sweeps_that_pause_in_one_another) {
  enum { DEEP = 200 };
  static rctx *chain[DEEP];
  static struct rctx_sweep sweeps[DEEP];
  struct rctx_after nodes[2] = {{.rctx__arg = NULL}};
  for (int i = 0; i < DEEP; i++) chain[i] = rctx_with_cancel(i ? chain[i - 1] : root());
  rctx *leaves[2] = {rctx_with_cancel(chain[DEEP - 1]), rctx_with_cancel(chain[DEEP - 1])};
  for (int i = 0; i < 2; i++) rctx_after_inline(leaves[i], &nodes[i], RCTX_ON_ENDED_TELL, nothing, NULL);
  bool more[DEEP];
  for (int i = DEEP; i-- > 0;) {
    cr_assert(rctx_cancel_begin(chain[i], NULL, &sweeps[i]));
    more[i] = rctx_cancel_step(&sweeps[i], 1);
  }
  for (int i = 0; i < DEEP; i++) {
    while (more[i]) more[i] = rctx_cancel_step(&sweeps[i], 100);
  }
  for (int i = 0; i < 2; i++) rctx_end(leaves[i]);
  for (int i = DEEP; i-- > 0;) rctx_end(chain[i]);
}

// ---- the virtual clock -----------------------------------------------------------------------------------------------

// testing.h, rctx_test_clock_step: "0: nothing is armed and no thread waits for a time: time has not moved". What was armed
// for never is not an event.
Test(beyond_regression, a_step_does_not_move_time_for_a_movable_context_without_a_deadline) {
  RCTX_SCOPED rctx *ctx = rctx_derive(root(), &(struct rctx_spec){.movable = true});
  cr_expect_eq(rctx_test_clock_step(clk), 0);
  cr_expect_eq(now(), 1000 * SECOND, "time has moved by %lld s", (long long)(now() / SECOND - 1000));
  cr_expect_eq(rctx_err(ctx), 0);
}

Test(beyond_regression, run_does_not_move_time_for_a_movable_context_without_a_deadline) {
  RCTX_SCOPED rctx *ctx = rctx_derive(root(), &(struct rctx_spec){.movable = true});
  RCTX_SCOPED rctx *timed = rctx_with_timeout(root(), SECOND);
  cr_expect_eq(rctx_test_clock_run(clk, INT64_MAX), 1);
  cr_expect_eq(now(), 1001 * SECOND, "time is %lld s", (long long)(now() / SECOND));
  cr_expect_eq(rctx_err(ctx), 0);
}

// testing.h, rctx_test_clock_run: "Time stays at the last event."
Test(beyond_regression, run_leaves_time_where_the_last_event_was) {
  RCTX_SCOPED rctx *far = rctx_with_timeout(root(), HOUR);
  cr_expect_eq(rctx_test_clock_run(clk, now() + HOUR - MS), 0);
  cr_expect_eq(now(), 1000 * SECOND, "no event, and time has moved by %lld s", (long long)(now() / SECOND - 1000));
  cr_expect_eq(rctx_err(far), 0);
}

Test(beyond_regression, run_leaves_time_alone_where_a_deadline_was_moved_away_from) {
  RCTX_SCOPED rctx *ctx = rctx_derive(root(), &(struct rctx_spec){.timeout_ns = SECOND, .movable = true});
  cr_assert_eq(rctx_move_deadline(ctx, now() + 10 * SECOND), 0);
  cr_expect_eq(rctx_test_clock_run(clk, now() + 5 * SECOND), 0);
  cr_expect_eq(now(), 1000 * SECOND, "no event, and time has moved by %lld ms", (long long)(now() / MS - 1000000));
}

// testing.h, rctx_test_clock_set: "also an earlier one"; context.h [CTX-7]: "A deadline never ends a context early".
Test(beyond_regression, after_time_was_set_back_a_deadline_is_not_early__CTX_7) {
  RCTX_SCOPED rctx *first = rctx_with_timeout(root(), SECOND);
  rctx_test_clock_advance(clk, 100 * SECOND);
  rctx_test_clock_set(clk, 1000 * SECOND);
  RCTX_SCOPED rctx *second = rctx_with_timeout(root(), 10 * SECOND);
  cr_expect_eq(rctx_err(second), 0, "ended at once, 10 s early");
  rctx_test_clock_advance(clk, 9 * SECOND);
  cr_expect_eq(rctx_err(second), 0);
  rctx_test_clock_advance(clk, SECOND);
  cr_expect_eq(rctx_err(second), -ETIMEDOUT);
  (void)first;
}

Test(beyond_regression, after_time_was_set_back_a_deadline_moves_as_told) {
  RCTX_SCOPED rctx *first = rctx_with_timeout(root(), SECOND);
  RCTX_SCOPED rctx *ctx = rctx_derive(root(), &(struct rctx_spec){.timeout_ns = HOUR, .movable = true});
  rctx_test_clock_advance(clk, 100 * SECOND);
  rctx_test_clock_set(clk, 1000 * SECOND);
  cr_expect_eq(rctx_move_deadline(ctx, now() + 10 * SECOND), 0);
  cr_expect_eq(rctx_err(ctx), 0);
  (void)first;
}

// ---- dumps -----------------------------------------------------------------------------------------------------------

static char room[1 << 16];

static int swallow(const char *text, size_t size, void *arg) {
  (void)text;
  *(size_t *)arg += size;
  return 0;
}

enum { PAGE = 4096 };

struct made_cause {
  struct rctx_cause cause;
  const rctx *parent;
  int *dumped;
};

// A cause is freed by its destroy, which may use the library: "no library lock is held". Unmapped, so that a stale read is fatal
// in every build.
static void free_and_dump(const struct rctx_cause *self) {
  union {
    const struct rctx_cause *in;
    struct made_cause *out;
  } cast = {self};
  const rctx *parent = cast.out->parent;
  int *dumped = cast.out->dumped;
  size_t bytes = 0;
  munmap(cast.out, PAGE);
  rctx_dump(parent, RCTX_DUMP_JSON, room, sizeof room, swallow, &bytes);
  ++*dumped;
}

static const struct rctx_cause *make_cause(const rctx *parent, int *dumped) {
  struct made_cause *made = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (made == MAP_FAILED) abort();
  *made = (struct made_cause){{-ECANCELED, RCTX_ORIGIN_USER, "made", NULL, 0, NULL, free_and_dump}, parent, dumped};
  return &made->cause;
}

// observe.h: "contexts ... may end meanwhile". The context is still linked while its cause is let go of.
Test(beyond_regression, a_dump_does_not_read_a_cause_that_was_freed) {
  int dumped = 0;
  RCTX_SCOPED rctx *parent = rctx_with_cancel(root());
  rctx *child = rctx_with_cancel(parent);
  cr_assert(rctx_cancel_cause(child, make_cause(parent, &dumped)));
  rctx_end(child);
  cr_assert_eq(dumped, 1);
}

Test(beyond_regression, a_dump_does_not_read_a_deadlines_cause_that_was_freed) {
  int dumped = 0;
  RCTX_SCOPED rctx *parent = rctx_with_cancel(root());
  rctx *child = rctx_with_timeout_cause(parent, SECOND, make_cause(parent, &dumped));
  rctx_test_clock_advance(clk, SECOND);
  cr_assert_eq(rctx_err(child), -ECANCELED);
  rctx_end(child);
  cr_assert_eq(dumped, 1);
}

// Memory that is unmapped as soon as it is given back.
static void *map_pages(void *self, size_t size, size_t align) {
  void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  (void)self;
  (void)align; // at most a page
  return at == MAP_FAILED ? NULL : at;
}
static void unmap_pages(void *self, void *ptr, size_t size) {
  (void)self;
  munmap(ptr, size);
}

struct merging {
  rctx_manager *manager;
  const rctx *parents[4];
  atomic_bool done;
};

enum { MERGES = 3000 };

static void merge_or_dump(unsigned index, void *arg) {
  struct merging *merging = arg;
  size_t bytes = 0;
  if (index == 0) {
    for (int i = 0; i < MERGES; i++) rctx_end(rctx_merge_any(merging->parents, 4));
    atomic_store(&merging->done, true);
  } else {
    while (!atomic_load(&merging->done))
      rctx_dump(merging->parents[0], RCTX_DUMP_TEXT, room, sizeof room, swallow, &bytes);
  }
}

// The merge lets go of its parents, and of what it keeps of them, while it is still linked below the first.
Test(beyond_regression, a_dump_does_not_read_a_merge_that_was_freed) {
  struct merging merging = {.done = false};
  struct rctx_manager_options options = {
      .allocator = {map_pages, unmap_pages, NULL}, .uncached = true, .drive = RCTX_DRIVE_EMBEDDER};
  cr_assert_eq(rctx_manager_create(&options, &merging.manager), 0);
  rctx *movable =
      rctx_derive(rctx_manager_background(merging.manager), &(struct rctx_spec){.timeout_ns = HOUR, .movable = true});
  for (int i = 0; i < 4; i++) merging.parents[i] = movable;
  atomic_store(&rctx__chaos_seed, seed_get());
  atomic_store(&rctx__chaos_mask, 2);
  threads_run(2, merge_or_dump, &merging);
  atomic_store(&rctx__chaos_mask, 0);
  rctx_end(movable);
  nothing_left(merging.manager);
  cr_assert_eq(rctx_manager_destroy(merging.manager), 0);
}

// ---- baggage ---------------------------------------------------------------------------------------------------------

// propagate.h, rctx_baggage_forward: "Returns how many were left out for want of space or over the limits."
Test(beyond_regression, members_over_the_limit_are_counted_by_forward) {
  char list[70 * 6] = "", buf[RCTX_BAGGAGE_SIZE];
  for (int i = 0; i < 70; i++) sprintf(list + strlen(list), "%sk%02d=1", i ? "," : "", i);
  struct rctx_header header = {rctx_text_of("baggage"), rctx_text_of(list)};
  struct rctx_headers headers = rctx_headers_of(&header, 1);
  struct rctx_baggage out = rctx_baggage_begin(buf, sizeof buf);
  unsigned left_out = rctx_baggage_forward(&out, &headers);
  cr_assert_eq(out.members, 64);
  cr_expect_gt(left_out, 0, "6 of 70 are gone and nothing says so");
}

// ---- received time ---------------------------------------------------------------------------------------------------

// propagate.h, rctx_budget_from_headers: "-ETIMEDOUT: less than min_ns is left, do not begin", and "time spent in queues of our own
// counts", and the parent's deadline does.
Test(beyond_regression, what_is_left_after_the_queue_is_not_worth_beginning) {
  struct rctx_header header = {rctx_text_of("grpc-timeout"), rctx_text_of("1S")};
  struct rctx_headers headers = rctx_headers_of(&header, 1);
  struct rctx_budget_policy policy = {.min_ns = SECOND / 2};
  struct rctx_received received;
  cr_expect_eq(rctx_budget_from_headers(root(), now() - 900 * MS, &headers, &policy, &received), -ETIMEDOUT,
               "%lld ms are left", (long long)((received.deadline_ns - now()) / MS));
  RCTX_SCOPED rctx *parent = rctx_with_timeout(root(), 10 * MS);
  cr_expect_eq(rctx_budget_from_headers(parent, now(), &headers, &policy, &received), -ETIMEDOUT, "%lld ms are left",
               (long long)((received.deadline_ns - now()) / MS));
}
