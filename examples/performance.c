/*
 * performance.c - what the article warns of, measured: deep lookups, cancelling many children, adding values.
 *
 * In Go a lookup walks the chain (ctx.Value compares at each level), a parent keeps its children in a map, and each
 * WithValue allocates. Here a lookup compares 16 keys at a time in blocks that a chain shares; children are an
 * intrusive list; nodes and values come from caches.
 *
 * Look at: the shape of each column, not at the nanoseconds: they are this machine's, at this moment, beside whatever
 * else it does. docs/performance.md has measured figures, and docs/guide/costs.md compares them with Go's.
 */
#include "example.h"
#include <rctx/rctx.h>

#if defined(__SANITIZE_ADDRESS__)
enum { CACHED = 0 }; /* every node goes back to the allocator at once, so that the sanitizer sees a use after the end */
#else
enum { CACHED = 1 };
#endif
enum { DEEPEST = 64, REPEATS = 5, LOOKUPS = 20000, CHILDREN_MAX = 100000, WARM = 2000 };

static struct rctx_key keys[DEEPEST];
static size_t allocations; /* calls of the allocator table */

static void *count_alloc(void *self, size_t size, size_t align) {
  void *memory = NULL;
  (void)self;
  __atomic_fetch_add(&allocations, 1, __ATOMIC_RELAXED);
  return posix_memalign(&memory, align < sizeof(void *) ? sizeof(void *) : align, size) == 0 ? memory : NULL;
}

static void count_free(void *self, void *memory, size_t size) {
  (void)self;
  (void)size;
  free(memory);
}

/* ns per lookup of the oldest of @depth values. The least of several runs: the one that was disturbed least. */
static double lookup_ns(const rctx *root, int depth) {
  rctx *chain[DEEPEST];
  double least = 0;
  void *value;

  for (int i = 0; i < depth; i++) chain[i] = rctx_with_value(i ? chain[i - 1] : root, &keys[i], &keys[i]);
  for (int run = 0; run < REPEATS; run++) {
    int64_t began_ns = rctx_now();
    for (int i = 0; i < LOOKUPS; i++) (void)rctx_get(chain[depth - 1], &keys[0], &value);
    double ns = (double)(rctx_now() - began_ns) / (double)LOOKUPS;
    if (run == 0 || ns < least) least = ns;
  }
  expect(rctx_get(chain[depth - 1], &keys[0], &value) && value == &keys[0]);
  for (int i = depth; i-- > 0;) rctx_end(chain[i]);
  return least;
}

/* ns per child of one cancel of a parent with @count children; making and ending them is not counted. */
static double cancel_ns(const rctx *root, int count, rctx **children) {
  double least = 0;

  for (int run = 0; run < REPEATS; run++) {
    rctx *parent = rctx_with_cancel(root);
    for (int i = 0; i < count; i++) children[i] = rctx_with_cancel(parent);
    int64_t began_ns = rctx_now();
    rctx_cancel(parent);
    double ns = (double)(rctx_now() - began_ns) / count;
    expect(rctx_err(children[0]) == -ECANCELED && rctx_err(children[count - 1]) == -ECANCELED);
    for (int i = 0; i < count; i++) rctx_end(children[i]);
    rctx_end(parent);
    if (run == 0 || ns < least) least = ns;
  }
  return least;
}

static void chains(const rctx *root, int count) {
  rctx *chain[8];
  for (int n = 0; n < count; n++) {
    for (int i = 0; i < 8; i++) chain[i] = rctx_with_value(i ? chain[i - 1] : root, &keys[i], NULL);
    for (int i = 8; i-- > 0;) rctx_end(chain[i]);
  }
}

/* Calls of the allocator for each value added, once the caches are warm. */
static double calls_per_value(const rctx *root) {
  chains(root, WARM);
  size_t before = allocations;
  chains(root, WARM);
  return (double)(allocations - before) / (WARM * 8);
}

/* Bytes taken from the allocator for each value that is alive, in chains of 8. */
static double bytes_per_value(rctx_manager *manager, const rctx *root, rctx **children) {
  const int count = 8 * WARM;
  struct rctx_stats before, after;

  rctx_trim(manager);
  rctx_stats(manager, &before);
  for (int i = 0; i < count; i++) children[i] = rctx_with_value(i % 8 ? children[i - 1] : root, &keys[i % 8], NULL);
  rctx_stats(manager, &after);
  for (int i = count; i-- > 0;) rctx_end(children[i]);
  return (double)(after.bytes - before.bytes) / count;
}

int main(void) {
  struct rctx_manager_options options = {.allocator = {count_alloc, count_free, NULL}};
  rctx **children = calloc(CHILDREN_MAX, sizeof(rctx *));
  rctx_manager *manager;

  require(children && rctx_manager_create(&options, &manager) == 0);
  for (int i = 0; i < DEEPEST; i++) keys[i].name = "key";
  rctx *server = rctx_manager_create_cancellable(manager, rctx_manager_background(manager));

  double lookup[] = {lookup_ns(server, 1), lookup_ns(server, 8), lookup_ns(server, 64)};
  double cancel[] = {cancel_ns(server, 10, children), cancel_ns(server, 1000, children),
                     cancel_ns(server, CHILDREN_MAX, children)};
  double bytes = bytes_per_value(manager, server, children);
  double calls = calls_per_value(server);

  printf("%-44s %9s %9s %9s   in Go\n", "", "", "", "");
  printf("%-44s %9s %9s %9s\n", "lookup of the oldest value, depth", "1", "8", "64");
  printf("%-44s %9.1f %9.1f %9.1f   grows with the depth\n", "  ns", lookup[0], lookup[1], lookup[2]);
  printf("%-44s %9s %9s %9s\n", "one cancel, children", "10", "1,000", "100,000");
  printf("%-44s %9.1f %9.1f %9.1f   a map entry and a lock each\n", "  ns per child", cancel[0], cancel[1], cancel[2]);
  printf("a value added, in chains of 8\n");
  printf("%-44s %9.0f %9s %9s   48 and what key and value need\n", "  bytes", bytes, "", "");
  printf("%-44s %9.2f %9s %9s   1 or more\n", "  calls of the allocator, once warm", calls, "", "");

  expect(lookup[2] < 8 * lookup[0]);
  expect(calls == 0 || !CACHED);
  rctx_end(server);
  free(children);
  expect(rctx_manager_destroy(manager) == 0);
  return expectations_failed();
}
