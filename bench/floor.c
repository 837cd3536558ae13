/*
 * rctx-floor: what this machine takes for the steps that no context library gets around. Prints name<TAB>ns<TAB>what it is.
 *
 * The same loops that the cases contain, without the library: docs/performance.md holds the cases against them. Each figure is the
 * median of ROUNDS blocks. An idle second thread exists, as in the benchmarks.
 */
#include "clock.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { ROUNDS = 9, OPERATIONS = 1 << 20, NODE_BYTES = 128, THREADS = 2 };

struct node {
  _Atomic uint32_t state;
  struct node *next;
  char pad[NODE_BYTES - 16];
};
_Static_assert(sizeof(struct node) == NODE_BYTES, "two cache lines, as a context");

/* A line of its own per thread: nothing here is shared. */
struct lane {
  _Alignas(64) _Atomic uint32_t word;
  uint64_t random;
  void (*body)(struct lane *self);
  double ns;
};

static void locked(struct lane *lane) {
  for (int i = 0; i < OPERATIONS; i++) atomic_fetch_add_explicit(&lane->word, 1, memory_order_relaxed);
}

/* What derive, cancel and end do to a list's lock each. */
static void lock_unlock(struct lane *lane) {
  for (int i = 0; i < OPERATIONS; i++) {
    uint32_t seen = atomic_load_explicit(&lane->word, memory_order_relaxed);
    if (atomic_compare_exchange_strong_explicit(&lane->word, &seen, seen | 1, memory_order_acquire,
                                                memory_order_relaxed))
      atomic_store_explicit(&lane->word, seen & ~UINT32_C(1), memory_order_release);
  }
}

static void clock_read(struct lane *lane) {
  struct timespec now;
  for (int i = 0; i < OPERATIONS; i++) clock_gettime(CLOCK_MONOTONIC, &now);
  lane->random += (uint64_t)now.tv_nsec;
}

/* Four independent streams: as many instructions at once as the processor has room for. */
static void arithmetic(struct lane *lane) {
  uint64_t a = lane->random, b = a + 1, c = a + 2, d = a + 3;
  for (int i = 0; i < OPERATIONS; i++) {
    a = a * 3 + 1;
    b = (b ^ (b >> 7)) + 5;
    c = (c << 1) ^ c;
    d = d + (d >> 3);
    __asm__ volatile("" : "+r"(a), "+r"(b), "+r"(c), "+r"(d));
  }
  lane->random = a + b + c + d;
}

static void *run_lane(void *arg) {
  struct lane *lane = arg;
  int64_t began = bench_clock(CLOCK_MONOTONIC);
  lane->body(lane);
  lane->ns = (double)(bench_clock(CLOCK_MONOTONIC) - began) / OPERATIONS;
  return NULL;
}

static int by_value(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static void report(const char *name, double *ns, const char *what) {
  qsort(ns, ROUNDS, sizeof *ns, by_value);
  printf("%s\t%.2f\t%s\n", name, ns[ROUNDS / 2], what);
  fflush(stdout);
}

/* The mean of what `threads` threads see that do the same at once, each on memory of its own. */
static double on_threads(void (*body)(struct lane *self), int threads) {
  struct lane lanes[THREADS] = {{.random = 88172645463325252U}, {.random = 362436069U}};
  pthread_t ids[THREADS];
  double sum = 0;
  for (int i = 0; i < threads; i++) {
    lanes[i].body = body;
    if (pthread_create(&ids[i], NULL, run_lane, &lanes[i]) != 0) exit(1);
  }
  for (int i = 0; i < threads; i++) {
    pthread_join(ids[i], NULL);
    sum += lanes[i].ns;
  }
  return sum / threads;
}

static void loop(const char *name, void (*body)(struct lane *self), int threads, const char *what) {
  double ns[ROUNDS];
  for (int round = 0; round < ROUNDS; round++) ns[round] = on_threads(body, threads);
  report(name, ns, what);
}

/* A compare-and-swap on each node of a list, which lies in memory as a slab hands it out. */
static void walk(const char *name, size_t count, const char *what) {
  struct node *nodes = aligned_alloc(NODE_BYTES, count * sizeof *nodes);
  double ns[ROUNDS];
  size_t passes = OPERATIONS / count + 1;
  if (nodes == NULL) exit(1);
  for (size_t i = 0; i < count; i++) {
    atomic_init(&nodes[i].state, 0);
    nodes[i].next = i + 1 < count ? &nodes[i + 1] : NULL;
  }
  for (int round = 0; round < ROUNDS; round++) {
    int64_t began = bench_clock(CLOCK_MONOTONIC);
    for (size_t pass = 0; pass < passes; pass++) {
      for (struct node *at = nodes; at; at = at->next) {
        uint32_t seen = atomic_load_explicit(&at->state, memory_order_relaxed);
        atomic_compare_exchange_strong(&at->state, &seen, seen + 1);
      }
    }
    ns[round] = (double)(bench_clock(CLOCK_MONOTONIC) - began) / (double)(passes * count);
  }
  report(name, ns, what);
  free(nodes);
}

/* Memory that the kernel has not given yet, both lines of each node: what is paid once, when the number of contexts grows. */
static void first_touch(const char *name, size_t count, const char *what) {
  size_t bytes = count * NODE_BYTES;
  double ns[ROUNDS];
  for (int round = 0; round < ROUNDS; round++) {
    char *fresh = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (fresh == MAP_FAILED) exit(1);
    int64_t began = bench_clock(CLOCK_MONOTONIC);
    for (size_t at = 0; at < bytes; at += NODE_BYTES / 2) *(volatile char *)&fresh[at] = 1;
    ns[round] = (double)(bench_clock(CLOCK_MONOTONIC) - began) / (double)count;
    munmap(fresh, bytes);
  }
  report(name, ns, what);
}

/* A random node of many: both its lines and the first one of a neighbour in a list, as when one of a million timers is ended. */
static void touch(const char *name, size_t count, const char *what) {
  struct node *nodes = aligned_alloc(NODE_BYTES, count * sizeof *nodes);
  double ns[ROUNDS];
  uint64_t random = 88172645463325252U;
  if (nodes == NULL) exit(1);
  for (size_t i = 0; i < count; i++) nodes[i] = (struct node){.state = 0};
  for (int round = 0; round < ROUNDS; round++) {
    int64_t began = bench_clock(CLOCK_MONOTONIC);
    for (int i = 0; i < OPERATIONS; i++) {
      random ^= random << 13;
      random ^= random >> 7;
      random ^= random << 17;
      struct node *node = &nodes[random % count], *neighbour = &nodes[(random >> 32) % count];
      atomic_store_explicit(&node->state, (uint32_t)i, memory_order_relaxed);
      node->pad[NODE_BYTES - 24]++;
      neighbour->next = node;
    }
    ns[round] = (double)(bench_clock(CLOCK_MONOTONIC) - began) / OPERATIONS;
  }
  report(name, ns, what);
  free(nodes);
}

static void *idle(void *arg) {
  for (;;) pause();
  return arg;
}

int main(void) {
  pthread_t other;
  if (pthread_create(&other, NULL, idle, NULL) != 0) return 1;
  loop("locked_rmw", locked, 1, "a locked read-modify-write, uncontended");
  loop("locked_rmw_2threads", locked, 2, "the same on two threads, each on a line of its own");
  loop("lock_unlock", lock_unlock, 1, "compare-and-swap, store-release: one visit to a child list");
  loop("clock", clock_read, 1, "clock_gettime(CLOCK_MONOTONIC)");
  loop("arithmetic", arithmetic, 1, "eight independent instructions and a loop");
  loop("arithmetic_2threads", arithmetic, 2, "the same on two threads: what the second CPU leaves to the first");
  walk("walk_1000", 1000, "compare-and-swap on each node of a list of 1,000 (128 bytes each), per node");
  walk("walk_100000", 100000, "the same, of 100,000");
  walk("walk_1000000", 1000000, "the same, of 1,000,000");
  first_touch("first_touch_1m", 1000000,
              "both lines of each of 1,000,000 nodes for the first time: the kernel's page faults");
  touch("touch_1m", 1000000, "both lines of a random one of 1,000,000 nodes, and a line of another");
  return 0;
}
