/*
 * testkit.c - an allocator that counts and fails on request, and the sweep that lets each request of a body fail in its turn.
 *
 * A header in front of each piece remembers its size, and links it to the others of the same rctx_test_memory, so that what a
 * body has left can be freed. One mutex for all of them: tests are in no hurry.
 */
#include "manager.h"

#include <pthread.h>
#include <rctx/testing.h>
#include <stddef.h>
#include <string.h>

#define NEED_MEMORY "memory is NULL (expected one, all zero to begin with)"
#define START_NS (1000 * INT64_C(1000000000))
enum { FRESH = 0xA5, FREED = 0x5A };

struct piece {
  struct piece *next;
  struct piece *prev;
  void *base; /* what malloc gave */
  size_t size;
};

static pthread_mutex_t memory_mutex = PTHREAD_MUTEX_INITIALIZER; /* of every rctx_test_memory and its pieces; a leaf */

static bool refused_locked(struct rctx_test_memory *memory) {
  size_t number = ++memory->requests;
  bool refused = memory->fail_at != 0 && (number == memory->fail_at || (memory->fail_on && number > memory->fail_at));
  memory->refused += refused;
  return refused;
}

static void enlist_locked(struct rctx_test_memory *memory, struct piece *piece) {
  piece->prev = NULL;
  piece->next = memory->rctx__pieces;
  if (piece->next) piece->next->prev = piece;
  memory->rctx__pieces = piece;
  memory->live++;
  memory->bytes += piece->size;
}

static void delist_locked(struct rctx_test_memory *memory, struct piece *piece) {
  if (piece->next) piece->next->prev = piece->prev;
  if (piece->prev) {
    piece->prev->next = piece->next;
  } else {
    memory->rctx__pieces = piece->next;
  }
  memory->live--;
  memory->bytes -= piece->size;
}

static void *take(void *self, size_t size, size_t align) {
  struct rctx_test_memory *memory = self;
  if (align < _Alignof(max_align_t)) align = _Alignof(max_align_t);
  size_t header = (sizeof(struct piece) + align - 1) / align * align;
  void *ptr = NULL;
  pthread_mutex_lock(&memory_mutex);
  void *base = NULL;
  if (!refused_locked(memory) && size <= SIZE_MAX - header && posix_memalign(&base, align, header + size) == 0) {
    ptr = (char *)base + header;
    struct piece *piece = (struct piece *)ptr - 1;
    piece->base = base;
    piece->size = size;
    enlist_locked(memory, piece);
    memset(ptr, FRESH, size);
  }
  pthread_mutex_unlock(&memory_mutex);
  return ptr;
}

static void release_locked(struct rctx_test_memory *memory, struct piece *piece) {
  delist_locked(memory, piece);
  memset(piece + 1, FREED, piece->size);
  free(piece->base);
}

static void give_back(void *self, void *ptr, size_t size) {
  struct rctx_test_memory *memory = self;
  struct piece *piece = (struct piece *)ptr - 1;
  pthread_mutex_lock(&memory_mutex);
  if (piece->size != size) memory->wrong++;
  release_locked(memory, piece);
  pthread_mutex_unlock(&memory_mutex);
}

struct rctx_allocator rctx_test_allocator(struct rctx_test_memory *memory) {
  if (misused(memory == NULL, NEED_MEMORY)) return (struct rctx_allocator){0};
  return (struct rctx_allocator){take, give_back, memory};
}

void *rctx_test_malloc(struct rctx_test_memory *memory, size_t size) {
  if (misused(memory == NULL, NEED_MEMORY)) return NULL;
  return take(memory, size, _Alignof(max_align_t));
}

void rctx_test_free(struct rctx_test_memory *memory, void *ptr) {
  if (misused(memory == NULL, NEED_MEMORY) || ptr == NULL) return;
  pthread_mutex_lock(&memory_mutex);
  release_locked(memory, (struct piece *)ptr - 1);
  pthread_mutex_unlock(&memory_mutex);
}

struct rctx_test_memory *rctx_test_memory_of(const rctx_manager *manager) {
  if (misused(manager == NULL, "manager is NULL")) return NULL;
  const struct rctx_allocator *table = &manager->memory.allocator;
  return table->alloc == take ? table->self : NULL;
}

/* ---- the sweep --------------------------------------------------------------------------------------------------- */

static void free_all(struct rctx_test_memory *memory) {
  pthread_mutex_lock(&memory_mutex);
  while (memory->rctx__pieces) release_locked(memory, memory->rctx__pieces);
  pthread_mutex_unlock(&memory_mutex);
}

/* One run. Returns 0, or -errno of the test's own; *clean: nothing was left. *gone: nothing uses the memory any more. */
static int run_once(rctx_test_body fn, void *arg, struct rctx_test_memory *memory, int *result, bool *clean,
                    bool *gone) {
  struct rctx_manager_options options = {.allocator = rctx_test_allocator(memory), .uncached = true};
  rctx_test_clock *clock;
  int rc = rctx_test_clock_create_with(&options, START_NS, &clock);
  *gone = rc != 0;
  if (rc != 0) return rc;
  rctx_test_clock_auto(clock, 1);
  *result = fn(rctx_test_clock_manager(clock), arg);
  *gone = rctx_test_clock_destroy(clock) == 0;
  *clean = *gone && memory->live == 0;
  if (*gone) free_all(memory);
  return 0;
}

int rctx_test_fail_each(rctx_test_body fn, void *arg, bool fail_on, struct rctx_test_faults *faults) {
  if (misused(faults == NULL, "faults is NULL (expected where to write it)") || fn == NULL) return -EINVAL;
  *faults = (struct rctx_test_faults){0};
  for (size_t at = 1;; at++) {
    struct rctx_test_memory *memory = calloc(1, sizeof *memory); /* a run that leaks goes on using it */
    bool clean = false, gone;
    if (memory == NULL) return -ENOMEM;
    memory->fail_at = at;
    memory->fail_on = fail_on;
    int rc = run_once(fn, arg, memory, &faults->result, &clean, &gone);
    bool failed = memory->refused > 0;
    if (gone) free(memory);
    if (rc != 0) return rc;
    if (!failed) return clean ? 0 : -EBUSY;
    faults->runs++;
    faults->failed += faults->result != 0;
    if (clean) continue;
    faults->leaked++;
    if (faults->first_leak == 0) faults->first_leak = at;
  }
}
