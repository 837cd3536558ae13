// counting.h - an allocator for managers that counts what it gives, knows what is still out, and fails on request.
//
// counting_open() makes a manager that is not cached, so that each free is seen at once; with fail_at = n its n-th request
// from now is refused (and with fail_on all later ones, too). Thread-safe, as the library asks of it.
#ifndef RCTX_TESTS_COUNTING_H
#define RCTX_TESTS_COUNTING_H

#include "support/leftovers.h"

#include <stdatomic.h>
#include <string.h>

struct counting {
  atomic_size_t calls;     // requests, with those refused
  atomic_size_t live;      // pieces out
  atomic_size_t bytes;     // of these
  atomic_size_t wrong;     // freed with another size than asked for
  _Atomic int64_t fail_at; // refuse the request that finds 1 here; 0: none
  atomic_bool fail_on;     // refuse all that follow, too
  atomic_size_t refused;
  rctx_manager *manager;
};

static struct counting counting;

// A header in front of each piece remembers its size; as wide as the alignment asked for.
static void *counting_alloc(void *self, size_t size, size_t align) {
  struct counting *c = self;
  atomic_fetch_add(&c->calls, 1);
  int64_t left = atomic_load(&c->fail_at);
  if (left > 0) {
    left = atomic_fetch_sub(&c->fail_at, 1);
    if (left == 1 && atomic_load(&c->fail_on)) atomic_store(&c->fail_at, 1);
    if (left == 1) {
      atomic_fetch_add(&c->refused, 1);
      return NULL;
    }
  }
  size_t header = align < 16 ? 16 : align;
  size_t total = (header + size + header - 1) / header * header;
  char *piece = aligned_alloc(header, total);
  if (!piece) return NULL;
  memset(piece + header, 0xA5, size); // fresh memory is not zero
  memcpy(piece + header - sizeof size, &size, sizeof size);
  memcpy(piece + header - 2 * sizeof size, &header, sizeof header);
  atomic_fetch_add(&c->live, 1);
  atomic_fetch_add(&c->bytes, size);
  return piece + header;
}

static void counting_free(void *self, void *ptr, size_t size) {
  struct counting *c = self;
  size_t asked, header;
  memcpy(&asked, (char *)ptr - sizeof asked, sizeof asked);
  memcpy(&header, (char *)ptr - 2 * sizeof asked, sizeof header);
  if (asked != size) atomic_fetch_add(&c->wrong, 1);
  atomic_fetch_sub(&c->live, 1);
  atomic_fetch_sub(&c->bytes, asked);
  memset(ptr, 0x5A, asked); // what is read after its free is garbage
  free((char *)ptr - header);
}

static inline struct rctx_allocator counting_table(void) {
  return (struct rctx_allocator){counting_alloc, counting_free, &counting};
}

// A manager on this allocator, driven by the embedder on the real clock.
static inline void counting_open(bool uncached) {
  struct rctx_manager_options options = {
      .drive = RCTX_DRIVE_EMBEDDER, .allocator = counting_table(), .uncached = uncached};
  if (rctx_manager_create(&options, &counting.manager) == 0) return;
  fprintf(stderr, "no manager\n");
  abort();
}

// Everything ended, and everything taken from the allocator given back with the right sizes.
static inline void counting_close(void) {
  atomic_store(&counting.fail_at, 0);
  nothing_left(counting.manager);
  int destroyed = rctx_manager_destroy(counting.manager);
  size_t live = atomic_load(&counting.live), wrong = atomic_load(&counting.wrong);
  if (destroyed == 0 && live == 0 && wrong == 0) return;
  fprintf(stderr, "destroy %d, pieces never freed %zu, freed with a wrong size %zu\n", destroyed, live, wrong);
  abort();
}

// The n-th request from now fails, once; n = 0: none. Returns whether one has been refused since the last call.
static inline bool counting_fail_at(int64_t n) {
  bool refused = atomic_exchange(&counting.refused, 0) != 0;
  atomic_store(&counting.fail_on, false);
  atomic_store(&counting.fail_at, n);
  return refused;
}

static inline const rctx *counting_root(void) { return rctx_manager_background(counting.manager); }

#endif
