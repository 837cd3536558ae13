// How much memory one context can take, kind by kind: what SECURITY.md promises to those who let strangers make contexts.
//
// Counted is what the manager has from its allocator, 10,000 contexts less none. Cached managers cut objects from chunks of 64 KiB,
// whose header and last, unfilled chunk are the spare.
#include "support/check.h"
#include "support/leftovers.h"
#include "support/watchdog.h"

#include <unistd.h>

enum { MANY = 10000, CHUNK = 1 << 16, NODE = 128, BLOCK = 512, CHAIN = 16, FIXED = 1 << 18, FDS = 500 };

static rctx_manager *manager;
static rctx *made[MANY];

static void open_manager(void) {
  watchdog(60);
  if (rctx_manager_create(&(struct rctx_manager_options){.drive = RCTX_DRIVE_EMBEDDER}, &manager) != 0) abort();
}

static void close_manager(void) {
  nothing_left(manager);
  if (rctx_manager_destroy(manager) != 0) abort();
}

TestSuite(bounds, .init = open_manager, .fini = close_manager, .timeout = 100);

static size_t bytes(void) {
  struct rctx_stats stats;
  rctx_stats(manager, &stats);
  return stats.bytes;
}

// At most so many bytes for each of n, and at least half of that: a bound that is far off is none.
static void takes(size_t before, size_t n, size_t each, size_t fixed) {
  size_t all = bytes() - before, most = n * each + n * each / 64 + 2 * CHUNK + fixed;
  cr_assert_leq(all, most, "%zu bytes, at most %zu", all, most);
  cr_assert_geq(all, n * each / 2, "%zu bytes, where %zu are expected", all, n * each);
}

static void end_all(size_t n) {
  for (size_t i = n; i-- > 0;) rctx_end(made[i]);
}

static const rctx *root(void) { return rctx_manager_background(manager); }

Test(bounds, a_plain_context_is_128_bytes) {
  size_t before = bytes();
  rctx *parent = rctx_with_cancel(root());
  for (int i = 0; i < MANY; i++) made[i] = rctx_with_cancel(parent);
  takes(before, MANY, NODE, 0);
  end_all(MANY);
  rctx_end(parent);
}

Test(bounds, a_deadline_takes_nothing_more) {
  size_t before = bytes();
  for (int i = 0; i < MANY; i++) made[i] = rctx_with_timeout(root(), (i + 1) * INT64_C(1000000000));
  takes(before, MANY, NODE, FIXED); // the wheels, once
  end_all(MANY);
}

static const struct rctx_key key = {.name = "key"};

Test(bounds, a_value_of_its_own_is_a_block_of_512) {
  size_t before = bytes();
  for (int i = 0; i < MANY; i++) made[i] = rctx_with_value(root(), &key, made);
  takes(before, MANY, NODE + BLOCK, 0);
  end_all(MANY);
}

Test(bounds, a_chain_shares_a_block_for_16_values) {
  size_t before = bytes();
  for (int i = 0; i < MANY; i++) made[i] = rctx_with_value(i % CHAIN ? made[i - 1] : root(), &key, made);
  takes(before, MANY, NODE + BLOCK / CHAIN, 0);
  end_all(MANY);
}

// One for the times, and one for the cause of its deadline, which is kept like a value.
Test(bounds, an_idle_deadline_is_two_blocks_more) {
  size_t before = bytes();
  for (int i = 0; i < MANY; i++) made[i] = rctx_with_idle(root(), INT64_C(1000000000000));
  takes(before, MANY, NODE + 2 * BLOCK, FIXED);
  end_all(MANY);
}

Test(bounds, a_descriptor_is_a_block_more) {
  size_t before = bytes();
  for (int i = 0; i < FDS; i++) {
    made[i] = rctx_with_cancel(root());
    cr_assert_geq(rctx_fd(made[i]), 0);
  }
  takes(before, FDS, NODE + BLOCK, 0);
  end_all(FDS);
}

// Registrations lie in memory of the caller's.
Test(bounds, registrations_take_nothing) {
  static struct rctx_after after[MANY];
  rctx *watched = rctx_with_cancel(root());
  rctx_loop *loop;
  cr_assert_eq(rctx_loop_create(&loop), 0);
  size_t before = bytes();
  for (int i = 0; i < MANY; i++) {
    int rc = rctx_watch(watched, &after[i], loop, RCTX_ON_ENDED_QUEUE, (rctx_after_fn)(void (*)(void))abort, NULL);
    cr_assert_eq(rc, RCTX_REGISTERED);
  }
  cr_assert_eq(bytes(), before);
  for (int i = 0; i < MANY; i++) cr_assert(rctx_after_stop(&after[i]));
  rctx_loop_destroy(loop);
  rctx_end(watched);
}

// A client that comes and goes takes what one at a time takes.
Test(bounds, what_has_ended_is_used_again) {
  rctx *parent = rctx_with_cancel(root());
  rctx_end(rctx_with_value(parent, &key, made));
  size_t before = bytes();
  for (int i = 0; i < 20 * MANY; i++) rctx_end(rctx_with_value(parent, &key, made));
  cr_assert_leq(bytes(), before + CHUNK);
  rctx_end(parent);
}
