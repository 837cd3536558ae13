// Contexts that end on another thread than they began on, and threads that exit with full caches: nothing leaks, and memory
// finds its way back to who needs it. Bytes and counts only; bench/handoff.c has the cost.
#include "support/check.h"
#include "support/one_manager.h"
#include "support/threads.h"

#include <stdatomic.h>

#define HOUR (3600 * SECOND)

TestSuite(handoff, .init = watch, .fini = close_all, .timeout = 100);

// What the library takes from its allocator at a time. As threads overlap or not, a chunk or two more may be in use, and the parent
// may be striped meanwhile; what leaked in these tests would be dozens of chunks.
enum { CHUNK = 1 << 16, SLACK = 4 * CHUNK };

/* ---- one thread derives, the other ends -------------------------------------------------------------------------- */

#ifdef RCTX_TEST_SHIM
enum { PER_ROUND = 3000, VISITS = 30 }; // valgrind and ThreadSanitizer take their time
#else
enum { PER_ROUND = 20000, VISITS = 150 };
#endif
enum { RING = 256, ROUNDS = 8 };

struct ring {
  rctx *server;
  rctx *slot[RING];
  atomic_size_t made, taken;
  struct threads threads;
  size_t bytes[ROUNDS];
};

static void hand_over(struct ring *ring, size_t at) {
  rctx *request = at % 2 ? rctx_with_timeout(ring->server, HOUR) : rctx_with_cancel(ring->server);
  while (at - atomic_load(&ring->taken) >= RING) sched_yield();
  ring->slot[at % RING] = request;
  atomic_store(&ring->made, at + 1);
}

static void take_over(struct ring *ring, size_t at) {
  while (atomic_load(&ring->made) <= at) sched_yield();
  rctx *request = ring->slot[at % RING];
  atomic_store(&ring->taken, at + 1);
  if (at % 3 == 0) rctx_cancel(request);
  rctx_end(request);
}

static void produce_or_consume(unsigned index, void *arg) {
  struct ring *ring = arg;
  for (size_t round = 0; round < ROUNDS; round++) {
    for (size_t n = 0; n < PER_ROUND; n++) {
      if (index == 0) {
        hand_over(ring, round * PER_ROUND + n);
      } else {
        take_over(ring, round * PER_ROUND + n);
      }
    }
    threads_meet(&ring->threads);
    if (index == 0) ring->bytes[round] = stats().bytes;
    threads_meet(&ring->threads);
  }
}

// What the consumer frees reaches the producer: rounds later no more memory has been taken than a ring of requests needs.
Test(handoff, producer_takes_what_consumer_frees) {
  open_pool(0);
  struct ring ring = {.server = rctx_with_cancel(root())};
  threads_start(&ring.threads, 2, produce_or_consume, &ring);
  threads_join(&ring.threads);
  for (size_t round = 0; round < ROUNDS; round++)
    cr_assert_leq(ring.bytes[round], ring.bytes[0] + SLACK, "round %zu holds %zu bytes, the first %zu", round,
                  ring.bytes[round], ring.bytes[0]);
  cr_assert_leq(ring.bytes[ROUNDS - 1], 8 * CHUNK);
  cr_assert_eq(stats().contexts, 1);
  rctx_end(ring.server);
}

/* ---- threads that come and go ------------------------------------------------------------------------------------ */

enum { AT_ONCE = 160, OUTLIVE = 8, VISITORS = 2 };

struct visits {
  rctx *server;
  rctx *left[VISITORS][OUTLIVE];
};

static void visit(unsigned index, void *arg) {
  struct visits *visits = arg;
  rctx *request[AT_ONCE];
  for (size_t i = 0; i < AT_ONCE; i++)
    request[i] = i % 2 ? rctx_with_timeout(visits->server, HOUR) : rctx_with_cancel(visits->server);
  for (size_t i = OUTLIVE; i < AT_ONCE; i++) rctx_end(request[i]);
  for (size_t i = 0; i < OUTLIVE; i++) visits->left[index][i] = request[i];
}

// A thread exits with a full cache, and contexts of its outlive it: the next has the memory of both.
Test(handoff, threads_leave_their_caches_behind) {
  open_pool(0);
  struct visits visits = {.server = rctx_with_cancel(root())};
  size_t first = 0, most = 0;
  for (unsigned n = 0; n < VISITS; n++) {
    threads_run(VISITORS, visit, &visits);
    cr_assert_eq(stats().contexts, 1 + VISITORS * OUTLIVE);
    for (unsigned v = 0; v < VISITORS; v++) {
      for (size_t i = 0; i < OUTLIVE; i++) {
        cr_assert_eq(rctx_err(visits.left[v][i]), 0);
        rctx_end(visits.left[v][i]);
      }
    }
    size_t bytes = stats().bytes;
    if (n == 0) first = bytes;
    if (bytes > most) most = bytes;
  }
  cr_assert_leq(most, first + SLACK, "%u threads later %zu bytes, %zu after the first", VISITS * VISITORS, most, first);
  cr_assert_eq(stats().contexts, 1);
  cr_assert_eq(stats().timers, 0);
  rctx_end(visits.server);
}

// All of it goes back to the allocator, though the threads that had it are gone.
Test(handoff, what_exited_threads_held_can_be_trimmed) {
  open_pool(0);
  rctx_end(rctx_with_timeout(root(), INT64_MAX / 4));
  rctx_trim(manager);
  size_t wheels = stats().bytes;
  struct visits visits = {.server = rctx_with_cancel(root())};
  threads_run(VISITORS, visit, &visits);
  for (unsigned v = 0; v < VISITORS; v++) {
    for (size_t i = 0; i < OUTLIVE; i++) rctx_end(visits.left[v][i]);
  }
  size_t before = stats().bytes;
  rctx_end(visits.server);
  rctx_trim(manager);
  size_t after = stats().bytes;
  cr_assert(RCTX_UNCACHED || before - after >= CHUNK, "%zu bytes before, %zu after", before, after);
  cr_assert_eq(after, wheels, "what is left is the timers' wheels");
}
