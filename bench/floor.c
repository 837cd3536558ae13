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
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { ROUNDS = 9, OPERATIONS = 1 << 20, NODE_BYTES = 128, THREADS = 2 };

struct link {
  struct node *next, *prev;
};

struct node {
  _Atomic uint32_t state;
  struct node *next;
  struct link sibling, slot; /* in two lists, as a context with a deadline: its parent's, and a slot's of the wheel */
  char pad[NODE_BYTES - 16 - 2 * sizeof(struct link)];
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
      node->pad[sizeof node->pad - 1]++;
      neighbour->next = node;
    }
    ns[round] = (double)(bench_clock(CLOCK_MONOTONIC) - began) / OPERATIONS;
  }
  report(name, ns, what);
  free(nodes);
}

/* ---- nodes that go into lists and out again, as contexts do: with a lock for each list, and nothing else --------- */

enum { SLOTS = 64 };

struct many {
  struct node *nodes;
  struct node siblings, slots[SLOTS]; /* heads of rings */
  struct node *free;                  /* through next */
  _Alignas(64) _Atomic uint32_t list_lock;
  _Alignas(64) _Atomic uint32_t wheel_lock;
  uint64_t random;
};

static uint64_t next_random(struct many *m) {
  m->random ^= m->random << 13;
  m->random ^= m->random >> 7;
  return m->random ^= m->random << 17;
}

static void take_lock(_Atomic uint32_t *lock) {
  uint32_t clear = 0;
  while (!atomic_compare_exchange_weak_explicit(lock, &clear, 1, memory_order_acquire, memory_order_relaxed)) clear = 0;
}
static void let_go(_Atomic uint32_t *lock) { atomic_store_explicit(lock, 0, memory_order_release); }

static struct node *put_in(struct many *m, size_t slot_index) {
  struct node *node = m->free, *slot = &m->slots[slot_index];
  m->free = node->next;
  memset(node, 0, sizeof *node);
  take_lock(&m->wheel_lock);
  node->slot = (struct link){slot->slot.next, slot};
  slot->slot.next->slot.prev = node;
  slot->slot.next = node;
  let_go(&m->wheel_lock);
  take_lock(&m->list_lock);
  node->sibling = (struct link){m->siblings.sibling.next, &m->siblings};
  m->siblings.sibling.next->sibling.prev = node;
  m->siblings.sibling.next = node;
  let_go(&m->list_lock);
  return node;
}

static void take_out(struct many *m, struct node *node) {
  take_lock(&m->wheel_lock);
  node->slot.prev->slot.next = node->slot.next;
  node->slot.next->slot.prev = node->slot.prev;
  let_go(&m->wheel_lock);
  take_lock(&m->list_lock);
  node->sibling.prev->sibling.next = node->sibling.next;
  node->sibling.next->sibling.prev = node->sibling.prev;
  let_go(&m->list_lock);
  node->next = m->free;
  m->free = node;
}

static struct many *many_new(size_t count) {
  struct many *m = aligned_alloc(NODE_BYTES, (sizeof *m + NODE_BYTES - 1) / NODE_BYTES * NODE_BYTES);
  if (m == NULL) exit(1);
  memset(m, 0, sizeof *m);
  m->random = 88172645463325252U;
  m->nodes = aligned_alloc(NODE_BYTES, count * sizeof *m->nodes);
  if (m->nodes == NULL) exit(1);
  m->siblings.sibling = (struct link){&m->siblings, &m->siblings};
  for (int i = 0; i < SLOTS; i++) m->slots[i].slot = (struct link){&m->slots[i], &m->slots[i]};
  for (size_t i = count; i-- > 0; m->free = &m->nodes[i]) m->nodes[i].next = m->free;
  for (size_t i = 0; i < count; i++) put_in(m, next_random(m) % SLOTS);
  return m;
}

static void many_free(struct many *m) {
  free(m->nodes);
  free(m);
}

/* One node, again and again: everything in the first-level cache. */
static void in_out(const char *name, const char *what) {
  struct many *m = many_new(8);
  double ns[ROUNDS];
  for (int round = 0; round < ROUNDS; round++) {
    int64_t began = bench_clock(CLOCK_MONOTONIC);
    for (int i = 0; i < OPERATIONS; i++) {
      take_out(m, &m->nodes[3]);
      put_in(m, (size_t)i % SLOTS);
    }
    ns[round] = (double)(bench_clock(CLOCK_MONOTONIC) - began) / OPERATIONS;
  }
  report(name, ns, what);
  many_free(m);
}

/* A random one of many out and in again, with a look at the clock. */
static void churn(const char *name, size_t count, const char *what) {
  struct many *m = many_new(count);
  double ns[ROUNDS];
  for (int round = 0; round < ROUNDS; round++) {
    int64_t began = bench_clock(CLOCK_MONOTONIC);
    for (int i = 0; i < OPERATIONS; i++) {
      uint64_t random = next_random(m);
      take_out(m, &m->nodes[(random >> 20) % count]);
      put_in(m, (random + (uint64_t)bench_clock(CLOCK_MONOTONIC)) % SLOTS);
    }
    ns[round] = (double)(bench_clock(CLOCK_MONOTONIC) - began) / OPERATIONS;
  }
  report(name, ns, what);
  many_free(m);
}

static uint32_t *shuffled(struct many *m, size_t count) {
  uint32_t *order = malloc(count * sizeof *order);
  if (order == NULL) exit(1);
  for (size_t i = 0; i < count; i++) {
    size_t j = next_random(m) % (i + 1);
    order[i] = order[j];
    order[j] = (uint32_t)i;
  }
  return order;
}

/* All out, in an order that has nothing to do with that in which they came in, and all in again. */
static void out_and_in(const char *out_name, const char *in_name, size_t count, const char *out_what,
                       const char *in_what) {
  struct many *m = many_new(count);
  uint32_t *order = shuffled(m, count);
  struct node **in = malloc(count * sizeof *in);
  double out_ns[ROUNDS], in_ns[ROUNDS];
  if (in == NULL) exit(1);
  for (size_t i = 0; i < count; i++) in[i] = &m->nodes[i];
  for (int round = 0; round < ROUNDS; round++) {
    int64_t began = bench_clock(CLOCK_MONOTONIC);
    for (size_t i = 0; i < count; i++) take_out(m, in[order[i]]);
    int64_t between = bench_clock(CLOCK_MONOTONIC);
    for (size_t i = 0; i < count; i++) in[i] = put_in(m, (size_t)bench_clock(CLOCK_MONOTONIC) % SLOTS);
    out_ns[round] = (double)(between - began) / (double)count;
    in_ns[round] = (double)(bench_clock(CLOCK_MONOTONIC) - between) / (double)count;
  }
  report(out_name, out_ns, out_what);
  report(in_name, in_ns, in_what);
  free(in);
  free(order);
  many_free(m);
}

/* ---- a callback on its way through a queue: every word that has to be changed for it to run once, or be taken back -- */

struct entry {
  _Atomic uint32_t state;
  struct node *node;
  struct entry *next, *prev;
  void (*run)(struct entry *self);
  char pad[88];
};
_Static_assert(sizeof(struct entry) == NODE_BYTES, "about the size of a registration");

static void run_nothing(struct entry *self) { self->pad[0]++; }

static void change(_Atomic uint32_t *word, uint32_t to) {
  uint32_t seen = atomic_load_explicit(word, memory_order_relaxed);
  while (!atomic_compare_exchange_weak(word, &seen, to)) {
  }
}

/* Mark and hold the node; under its lock claim the entry, and under the queue's put it in; let the node go. */
static void enqueue(struct entry *entry, struct entry *queue, _Atomic uint32_t *node_lock, _Atomic uint32_t *lock) {
  change(&entry->node->state, 1);
  change(&entry->node->state, 2);
  take_lock(node_lock);
  change(&entry->state, 1);
  take_lock(lock);
  entry->next = queue;
  entry->prev = queue->prev;
  queue->prev->next = entry;
  queue->prev = entry;
  atomic_store_explicit(&entry->state, 2, memory_order_release);
  let_go(lock);
  let_go(node_lock);
  change(&entry->node->state, 3);
}

/* Claim the first under the lock and say that it runs; run it; let node and queue go, say that it has run. */
static void dequeue(struct entry *queue, _Atomic uint32_t *lock, _Atomic uint32_t *counts) {
  take_lock(lock);
  struct entry *entry = queue->next;
  change(&entry->state, 3);
  atomic_fetch_add(&counts[0], 1);
  queue->next = entry->next;
  entry->next->prev = queue;
  let_go(lock);
  entry->run(entry);
  atomic_fetch_sub(&counts[1], 1);
  change(&entry->node->state, 4);
  atomic_exchange(&entry->state, 4);
  atomic_fetch_sub(&counts[0], 1);
}

static void queued(const char *name, size_t count, const char *what) {
  struct node *nodes = aligned_alloc(NODE_BYTES, count * sizeof *nodes);
  struct entry *entries = aligned_alloc(NODE_BYTES, count * sizeof *entries), queue = {.next = &queue, .prev = &queue};
  _Alignas(64) _Atomic uint32_t words[4] = {0};
  double ns[ROUNDS];
  if (nodes == NULL || entries == NULL) exit(1);
  for (size_t i = 0; i < count; i++) {
    nodes[i] = (struct node){.state = 0};
    entries[i] = (struct entry){.node = &nodes[i], .run = run_nothing};
  }
  for (int round = 0; round < ROUNDS; round++) {
    int64_t began = bench_clock(CLOCK_MONOTONIC);
    for (size_t i = 0; i < count; i++) enqueue(&entries[i], &queue, &words[0], &words[1]);
    for (size_t i = 0; i < count; i++) dequeue(&queue, &words[1], &words[2]);
    ns[round] = (double)(bench_clock(CLOCK_MONOTONIC) - began) / (double)count;
  }
  report(name, ns, what);
  free(entries);
  free(nodes);
}

/* Down a chain in which each node holds the address of the next, and up again; a compare-and-swap on each, each way. */
static void chain(const char *name, size_t count, const char *what) {
  struct node *nodes = aligned_alloc(NODE_BYTES, count * sizeof *nodes);
  double ns[ROUNDS];
  if (nodes == NULL) exit(1);
  for (size_t i = 0; i < count; i++) {
    nodes[i] = (struct node){.next = i + 1 < count ? &nodes[i + 1] : NULL};
    nodes[i].sibling.prev = i > 0 ? &nodes[i - 1] : NULL;
  }
  for (int round = 0; round < ROUNDS; round++) {
    int64_t began = bench_clock(CLOCK_MONOTONIC);
    struct node *last = NULL;
    for (struct node *at = nodes; at; at = at->next) {
      uint32_t seen = atomic_load_explicit(&at->state, memory_order_acquire);
      atomic_compare_exchange_strong(&at->state, &seen, seen + 1);
      last = at;
    }
    for (struct node *at = last; at; at = at->sibling.prev) {
      uint32_t seen = atomic_load_explicit(&at->state, memory_order_acquire);
      atomic_compare_exchange_strong(&at->state, &seen, seen + 1);
    }
    ns[round] = (double)(bench_clock(CLOCK_MONOTONIC) - began) / (double)count;
  }
  report(name, ns, what);
  free(nodes);
}

/* What the kernel takes for a descriptor, with and without a byte written to it before it is closed. */
static void descriptor(const char *name, bool write_to_it, const char *what) {
  double ns[ROUNDS];
  const uint64_t one = 1;
  for (int round = 0; round < ROUNDS; round++) {
    int64_t began = bench_clock(CLOCK_MONOTONIC);
    for (int i = 0; i < OPERATIONS / 64; i++) {
      int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
      if (fd < 0 || (write_to_it && write(fd, &one, sizeof one) != sizeof one)) exit(1);
      close(fd);
    }
    ns[round] = (double)(bench_clock(CLOCK_MONOTONIC) - began) / (OPERATIONS / 64);
  }
  report(name, ns, what);
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
  chain("chain_1m", 1000000,
        "compare-and-swap on each node of a chain of 1,000,000 on the way down, and on the way up");
  in_out("in_out", "a node made and put into two lists under their locks, and taken out again");
  churn("churn_1k", 1000, "a random one of 1,000 such nodes out and in again, and the clock read");
  churn("churn_100k", 100000, "the same, of 100,000");
  churn("churn_1m", 1000000, "the same, of 1,000,000");
  out_and_in("out_1m", "in_1m", 1000000, "1,000,000 such nodes taken out in random order",
             "the same memory put in again in that order, and the clock read");
  queued("queued_10000", 10000, "10,000 callbacks put into a queue and run: the words changed, nothing else");
  descriptor("eventfd", false, "eventfd and close");
  descriptor("eventfd_written", true, "eventfd, a write to it, and close");
  touch("touch_1m", 1000000, "both lines of a random one of 1,000,000 nodes, and a line of another");
  return 0;
}
