/*
 * handoff_derive_end and thread_churn: contexts that do not end where they began, as in an RPC stack whose reader derives and
 * whose workers end, and threads that come and go. A node is freed into the cache of the thread that ends it: these show that
 * it finds its way back, without new memory.
 */
#include "cases.h"

#include <pthread.h>
#include <rctx/rctx.h>
#include <sched.h>
#include <stdlib.h>

#define HOUR (3600 * BENCH_SECOND)

/* ---- one thread derives, the other ends -------------------------------------------------------------------------- */

enum { RING = 256 };

struct ring {
  rctx *server;
  unsigned entered; /* counts calls of run(): the first of each two produces */
  rctx *slot[RING];
  size_t made __attribute__((aligned(64)));  /* written by the producer */
  size_t taken __attribute__((aligned(64))); /* written by the consumer */
};

/* Until *count has come to at least `wanted`. Yields now and then: the other thread may be waiting for this processor. */
static void wait_for(const size_t *count, size_t wanted) {
  for (unsigned spins = 1; __atomic_load_n(count, __ATOMIC_ACQUIRE) < wanted; spins++) {
    if (spins % 64 == 0) {
      sched_yield();
    }
  }
}

static void produce(struct ring *ring, size_t ops) {
  for (size_t n = 0; n < ops; n++) {
    size_t at = ring->made;
    rctx *request = rctx_with_timeout(ring->server, HOUR);
    wait_for(&ring->taken, at < RING ? 0 : at - RING + 1);
    ring->slot[at % RING] = request;
    __atomic_store_n(&ring->made, at + 1, __ATOMIC_RELEASE);
  }
}

static void consume(struct ring *ring, size_t ops) {
  for (size_t n = 0; n < ops; n++) {
    size_t at = ring->taken;
    wait_for(&ring->made, at + 1);
    rctx *request = ring->slot[at % RING];
    __atomic_store_n(&ring->taken, at + 1, __ATOMIC_RELEASE);
    rctx_end(request);
  }
}

static void *open_ring(const struct bench_case *self) {
  (void)self;
  struct ring *ring = NULL;
  if (posix_memalign((void **)&ring, 64, sizeof *ring) != 0) {
    abort();
  }
  *ring = (struct ring){.server = rctx_with_cancel(rctx_background())};
  return ring;
}

static void close_ring(void *fixture) {
  struct ring *ring = fixture;
  rctx_end(ring->server);
  free(ring);
}

static void hand_off(void *fixture, size_t ops) {
  struct ring *ring = fixture;
  if (__atomic_fetch_add(&ring->entered, 1, __ATOMIC_RELAXED) % 2 == 0) {
    produce(ring, ops);
  } else {
    consume(ring, ops);
  }
}

/* ---- threads that come and go ------------------------------------------------------------------------------------ */

/* Enough at once to fill a thread's cache; some are still there when it has gone. */
enum { AT_ONCE = 160, OUTLIVE = 8, THREADS = 64 };

struct visit {
  const rctx *server;
  rctx *left[OUTLIVE];
};

static void *visit(void *self) {
  struct visit *visit = self;
  rctx *request[AT_ONCE];
  for (size_t i = 0; i < AT_ONCE; i++) {
    request[i] = i % 2 ? rctx_with_cancel(visit->server) : rctx_with_timeout(visit->server, HOUR);
  }
  for (size_t i = OUTLIVE; i < AT_ONCE; i++) {
    rctx_end(request[i]);
  }
  for (size_t i = 0; i < OUTLIVE; i++) {
    visit->left[i] = request[i];
  }
  return NULL;
}

static void *open_server(const struct bench_case *self) {
  (void)self;
  return rctx_with_cancel(rctx_background());
}

static void close_server(void *server) { rctx_end((rctx *)server); }

static size_t rctx_bytes(void) {
  struct rctx_stats stats;
  rctx_stats(rctx_manager_default(), &stats);
  return stats.bytes;
}

static void visit_all(void *server, size_t ops) {
  struct visit visited = {.server = server};
  pthread_t thread;
  for (size_t n = 0; n < ops; n++) {
    if (pthread_create(&thread, NULL, visit, &visited) != 0) {
      abort();
    }
    pthread_join(thread, NULL);
    for (size_t i = 0; i < OUTLIVE; i++) {
      rctx_end(visited.left[i]);
    }
  }
}

static void thread_churn(void *server, size_t ops, struct bench_sample *sample) {
  visit_all(server, 1); /* the first of all takes the memory that the others use again */
  size_t before = rctx_bytes();
  int64_t start = rctx_now();
  visit_all(server, ops);
  sample->ns = (double)(rctx_now() - start);
  sample->extra[0] = (double)rctx_bytes() - (double)before;
}

const struct bench_case bench_handoff_cases[] = {
    {.name = "handoff_derive_end",
     .run = hand_off,
     .pair = true,
     .open = open_ring,
     .close = close_ring,
     .no_allocs = true},
    {.name = "thread_churn",
     .measure = thread_churn,
     .batch = THREADS,
     .uncounted = true,
     .open = open_server,
     .close = close_server,
     .extra = {"rctx_bytes_grown"}},
    {.name = NULL},
};
