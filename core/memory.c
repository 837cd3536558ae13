/* memory.c - see memory.h. */
#define _GNU_SOURCE
#include "memory.h"

#include "manager.h"

#include <pthread.h>
#include <string.h>

__thread struct rctx__heap *rctx__heap_here __attribute__((tls_model("initial-exec"), visibility("hidden")));
THREAD_LOCAL struct rctx__heap *heaps_here; /* all heaps of this thread */

static pthread_mutex_t registry_mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_key_t exit_key;        /* const once made */
static bool exit_key_made;            /* registry mutex */
static _Atomic unsigned thread_index; /* stats: only spreads threads over shards and stripes */

void rctx__registry_lock(void) { pthread_mutex_lock(&registry_mutex); }
void rctx__registry_unlock(void) { pthread_mutex_unlock(&registry_mutex); }
void rctx__registry_reset(void) { registry_mutex = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER; }

/* ---- the built-in allocator: jemalloc if the process has it, in an arena of our own; else the C library's -------- */

extern void *mallocx(size_t size, int flags) __attribute__((weak));
extern void sdallocx(void *ptr, size_t size, int flags) __attribute__((weak));
extern int mallctl(const char *name, void *old, size_t *old_size, void *fresh, size_t fresh_size) __attribute__((weak));

/* jemalloc's flag encoding, which is part of its ABI: MALLOCX_LG_ALIGN, MALLOCX_TCACHE_NONE, MALLOCX_ARENA. */
static int jemalloc_flags(size_t align) {
  static _Atomic unsigned arena_plus_one; /* 0: not asked yet; UINT32_MAX: none to be had */
  unsigned arena = load_relaxed(&arena_plus_one);
  if (arena == 0) {
    unsigned made;
    size_t size = sizeof made;
    unsigned fresh = mallctl && mallctl("arenas.create", &made, &size, NULL, 0) == 0 ? made + 1 : UINT32_MAX;
    if (cas_relaxed(&arena_plus_one, &arena, fresh)) arena = fresh; /* two at once: one arena stays empty */
  }
  int flags = __builtin_ctzl(align) | (1 << 8);
  return arena == UINT32_MAX ? flags : flags | (int)(arena << 20);
}

static void *builtin_alloc(size_t size, size_t align) {
  if (align < sizeof(void *)) align = sizeof(void *);
  if (mallocx && sdallocx) return mallocx(size, jemalloc_flags(align));
  void *ptr = NULL;
  return posix_memalign(&ptr, align, size) == 0 ? ptr : NULL;
}

static void builtin_free(void *ptr, size_t size) {
  if (mallocx && sdallocx) {
    sdallocx(ptr, size, 1 << 8); /* MALLOCX_TCACHE_NONE */
  } else {
    free(ptr);
  }
}

void *rctx__raw_alloc(struct rctx_manager *manager, size_t size, size_t align) {
  struct rctx__memory *memory = &manager->memory;
  size_t before = add_seq_cst(&memory->bytes, size); /* first, so that several at once keep the limit; partner: free */
  bool within = memory->bytes_max == 0 || (before <= memory->bytes_max && size <= memory->bytes_max - before);
  void *ptr = NULL;
  if (within)
    ptr = memory->allocator.alloc ? memory->allocator.alloc(memory->allocator.self, size, align)
                                  : builtin_alloc(size, align);
  if (ptr == NULL) add_relaxed(&memory->bytes, 0 - size);
  return ptr;
}

void rctx__raw_free(struct rctx_manager *manager, void *ptr, size_t size) {
  struct rctx__memory *memory = &manager->memory;
  if (memory->allocator.free) {
    memory->allocator.free(memory->allocator.self, ptr, size);
  } else {
    builtin_free(ptr, size);
  }
  sub_acq_rel(&memory->bytes, size); /* last: what is not counted is free; partner: rctx__raw_alloc() */
}

/* ---- heaps: one per thread and manager --------------------------------------------------------------------------- */

static void pool_give(struct rctx__pool *pool, struct rctx__free *batch) {
  rctx__take(&pool->lock);
  batch->next_batch = pool->batches;
  pool->batches = batch;
  rctx__unlock(&pool->lock);
}

static void cache_give_all(struct rctx__heap *heap, enum rctx__size_class c) {
  struct rctx_manager *manager = load_relaxed(&heap->manager); /* its owner, or the registry mutex is held */
  if (heap->cache[c].first) pool_give(&manager->memory.pools[c], heap->cache[c].first);
  heap->cache[c] = (struct rctx__cache){0};
}

/* Registry mutex held. */
static void heap_detach_locked(struct rctx__heap *heap) {
  struct rctx_manager *manager = load_relaxed(&heap->manager); /* written under this mutex */
  if (manager == NULL) return;
  for (int c = 0; c < CLASSES; c++) cache_give_all(heap, (enum rctx__size_class)c);
  add_relaxed(&manager->memory.strays, load_relaxed(&heap->contexts));
  add_relaxed(&manager->memory.stray_afters, load_relaxed(&heap->afters)); /* both: read under this mutex, or late */
  *heap->pprev = heap->next;
  if (heap->next) heap->next->pprev = heap->pprev;
  store_relaxed(&heap->manager, NULL); /* as above */
}

/* A later destructor of the host may use the library again: that makes a new heap and arms the key again. */
static void thread_exit(void *first) {
  rctx__heap_here = NULL;
  heaps_here = NULL;
  rctx__registry_lock();
  for (struct rctx__heap *heap = first; heap; heap = heap->next_here) heap_detach_locked(heap);
  rctx__registry_unlock();
  for (struct rctx__heap *heap = first, *next; heap; heap = next) {
    next = heap->next_here;
    free(heap);
  }
}

/* A process may have no key left now, and one later. */
static bool exit_key_there(void) {
  rctx__registry_lock();
  if (!exit_key_made) exit_key_made = pthread_key_create(&exit_key, thread_exit) == 0;
  bool there = exit_key_made;
  rctx__registry_unlock();
  return there;
}

/* One more heap for this thread. NULL: no memory, or no way to learn of the thread's exit. */
static struct rctx__heap *heap_new(void) {
  if (!exit_key_there()) return NULL;
  struct rctx__heap *heap = calloc(1, sizeof *heap);
  if (heap == NULL) return NULL;
  heap->next_here = heaps_here;
  if (pthread_setspecific(exit_key, heap) != 0) {
    free(heap);
    return NULL;
  }
  heaps_here = heap;
  heap->index = heap->next_here ? heap->next_here->index : add_relaxed(&thread_index, 1U);
  return heap;
}

static COLD struct rctx__heap *heap_make(struct rctx_manager *manager) {
  struct rctx__heap *heap = heaps_here;
  while (heap && load_relaxed(&heap->manager) != NULL) heap = heap->next_here; /* one whose manager was destroyed */
  if (heap == NULL) heap = heap_new();
  if (heap == NULL) return NULL;
  rctx__registry_lock();
  rctx__manager_list_locked(manager);
  heap->cache_max = manager->memory.uncached ? 0 : CACHE_MAX;
  heap->trims = load_relaxed(&manager->memory.trims); /* a hint */
  store_relaxed(&heap->contexts, 0);                  /* as below */
  store_relaxed(&heap->afters, 0);                    /* as below */
  store_relaxed(&heap->manager, manager);             /* written under this mutex */
  heap->next = manager->memory.heaps;
  heap->pprev = &manager->memory.heaps;
  if (heap->next) heap->next->pprev = &heap->next;
  manager->memory.heaps = heap;
  rctx__registry_unlock();
  return heap;
}

struct rctx__heap *rctx__heap_get(struct rctx_manager *manager) {
  struct rctx__heap *heap = rctx__heap_here;
  if (likely(heap != NULL) && likely(load_relaxed(&heap->manager) == manager)) return heap; /* NULL: it was destroyed */
  for (heap = heaps_here; heap && load_relaxed(&heap->manager) != manager; /* as above */ heap = heap->next_here) {
  }
  if (heap == NULL) heap = heap_make(manager);
  if (heap) rctx__heap_here = heap;
  return heap;
}

int64_t rctx__memory_contexts(const struct rctx_manager *manager) {
  rctx__registry_lock();
  int64_t sum = load_relaxed(&manager->memory.strays);
  for (const struct rctx__heap *heap = manager->memory.heaps; heap; heap = heap->next) {
    sum += load_relaxed(&heap->contexts);
  }
  rctx__registry_unlock();
  return sum;
}

bool rctx__any_after(const struct rctx_manager *manager) {
  int64_t sum = load_relaxed(&manager->memory.stray_afters); /* one thread here */
  for (const struct rctx__heap *heap = manager->memory.heaps; heap; heap = heap->next) {
    sum += load_relaxed(&heap->afters); /* as above */
  }
  return sum > 0;
}

/* ---- pools ------------------------------------------------------------------------------------------------------- */

enum { CHUNK_HEADER = 512 };
_Static_assert(sizeof(struct rctx__chunk) <= CHUNK_HEADER, "objects begin after the header");

static uint32_t objects_per_chunk(const struct rctx__pool *pool) {
  return (uint32_t)((CHUNK_BYTES - CHUNK_HEADER) / pool->object_bytes);
}

/* Lock held. Cut up to BATCH objects from the first chunk. */
static struct rctx__free *cut_batch_locked(struct rctx__pool *pool) {
  struct rctx__chunk *chunk = pool->chunks;
  struct rctx__free *batch = NULL;
  if (chunk == NULL) return NULL;
  for (unsigned n = 0; n < BATCH && chunk->cut < objects_per_chunk(pool); n++, chunk->cut++) {
    struct rctx__free *free = rctx__as_free((char *)chunk + CHUNK_HEADER + (size_t)chunk->cut * pool->object_bytes);
    free->next = batch;
    batch = free;
  }
  return batch;
}

/* NULL: no memory. */
static struct rctx__free *pool_take(struct rctx_manager *manager, struct rctx__pool *pool) {
  for (;;) {
    rctx__take(&pool->lock);
    struct rctx__free *batch = pool->batches;
    if (batch) {
      pool->batches = batch->next_batch;
    } else {
      batch = cut_batch_locked(pool);
    }
    rctx__unlock(&pool->lock);
    if (batch) return batch;
    struct rctx__chunk *chunk = rctx__raw_alloc(manager, CHUNK_BYTES, CHUNK_BYTES);
    if (chunk == NULL) return NULL;
    *chunk = (struct rctx__chunk){0};
    rctx__take(&pool->lock);
    bool needed =
        pool->chunks == NULL || pool->chunks->cut == objects_per_chunk(pool); /* another thread may have been faster */
    if (needed) {
      chunk->next = pool->chunks;
      pool->chunks = chunk;
    }
    rctx__unlock(&pool->lock);
    if (!needed) rctx__raw_free(manager, chunk, CHUNK_BYTES);
  }
}

/* Somebody trims, and wants what this thread has cached: at its next visit to the pools. True: its caches are empty now. */
static bool gave_all(struct rctx__heap *heap, const struct rctx_manager *manager) {
  uint32_t trims = load_relaxed(&manager->memory.trims); /* a hint */
  if (likely(heap->trims == trims)) return false;
  heap->trims = trims;
  for (int c = 0; c < CLASSES; c++) cache_give_all(heap, (enum rctx__size_class)c);
  return true;
}

void rctx__memory_give_back(struct rctx_manager *manager) {
  struct rctx__heap *heap = heaps_here ? rctx__heap_get(manager) : NULL;
  for (int c = 0; heap && c < CLASSES; c++) cache_give_all(heap, (enum rctx__size_class)c);
}

COLD void *rctx__object_alloc_slow(struct rctx_manager *manager, enum rctx__size_class size_class) {
  struct rctx__pool *pool = &manager->memory.pools[size_class];
  struct rctx__heap *heap = rctx__heap_get(manager); /* also lists the manager, for fork */
  if (heap == NULL) return NULL;
  if (manager->memory.uncached) {
    void *object = rctx__raw_alloc(manager, pool->object_bytes, CACHE_LINE);
    if (object) rctx__count(heap, size_class, 1);
    return object;
  }
  struct rctx__cache *cache = &heap->cache[size_class];
  gave_all(heap, manager);
  if (cache->first == NULL) {
    struct rctx__free *batch = pool_take(manager, pool);
    if (batch == NULL) return NULL;
    cache->first = batch;
    cache->count = 0;
    for (struct rctx__free *free = batch; free; free = free->next) {
      cache->last = free;
      cache->count++;
    }
  }
  struct rctx__free *first = cache->first;
  cache->first = first->next;
  cache->count--;
  rctx__count(heap, size_class, 1);
  return rctx__from_free(first);
}

/* Take BATCH objects out of a full cache. */
static struct rctx__free *cache_split(struct rctx__cache *cache) {
  struct rctx__free *batch = cache->first;
  struct rctx__free *end = batch;
  for (unsigned n = 1; n < BATCH; n++) end = end->next;
  cache->first = end->next;
  cache->count -= BATCH;
  end->next = NULL;
  return batch;
}

COLD void rctx__object_free_slow(struct rctx_manager *manager, enum rctx__size_class size_class, void *object) {
  struct rctx__pool *pool = &manager->memory.pools[size_class];
  struct rctx__heap *heap = rctx__heap_get(manager);
  if (manager->memory.uncached) {
    rctx__raw_free(manager, object, pool->object_bytes);
  } else if (heap == NULL) { /* no memory for a heap: this one object is a batch of its own */
    rctx__as_free(object)->next = NULL;
    pool_give(pool, rctx__as_free(object));
  } else {
    struct rctx__cache *cache = &heap->cache[size_class];
    if (!gave_all(heap, manager) && cache->count >= CACHE_MAX) pool_give(pool, cache_split(cache));
    rctx__cache_put(cache, rctx__as_free(object));
  }
  /* Counted last: a manager is destroyed only when all are counted off. */
  if (heap) {
    rctx__count(heap, size_class, -1);
  } else if (size_class == CLASS_NODE) {
    sub_acq_rel(&manager->memory.strays, 1); /* partner: none needed; a sum of counts */
  }
}

/* ---- giving back ------------------------------------------------------------------------------------------------- */

static struct rctx__chunk *chunk_of(struct rctx__free *free) {
  return (struct rctx__chunk *)((uintptr_t)free & ~(uintptr_t)(CHUNK_BYTES - 1));
}

static bool chunk_idle(const struct rctx__chunk *chunk) { return chunk->cut > 0 && chunk->idle == chunk->cut; }

/* Sort what is free by chunk. Lock held. */
static void sort_by_chunk_locked(struct rctx__pool *pool) {
  for (struct rctx__chunk *chunk = pool->chunks; chunk; chunk = chunk->next) {
    chunk->idle = 0;
    chunk->free = NULL;
  }
  for (struct rctx__free *batch = pool->batches, *next_batch; batch; batch = next_batch) {
    next_batch = batch->next_batch;
    for (struct rctx__free *free = batch, *next; free; free = next) {
      next = free->next;
      struct rctx__chunk *chunk = chunk_of(free);
      free->next = chunk->free;
      chunk->free = free;
      chunk->idle++;
    }
  }
  pool->batches = NULL;
}

/* Batches of what one chunk has free, at most BATCH each, before all others. Lock held. */
static void give_chunk_locked(struct rctx__pool *pool, struct rctx__chunk *chunk) {
  while (chunk->free) {
    struct rctx__free *batch = chunk->free, *end = batch;
    for (unsigned n = 1; n < BATCH && end->next; n++) end = end->next;
    chunk->free = end->next;
    end->next = NULL;
    batch->next_batch = pool->batches;
    pool->batches = batch;
  }
}

/* The chunks' order in the list is that of their use, from the last to the first, at every trim the same: so what is alive gathers
 * in the last ones, and the others become idle. */
static size_t pool_trim(struct rctx_manager *manager, struct rctx__pool *pool) {
  struct rctx__chunk *idle = NULL;
  rctx__take(&pool->lock);
  sort_by_chunk_locked(pool);
  for (struct rctx__chunk **at = &pool->chunks; *at;) {
    struct rctx__chunk *chunk = *at;
    if (chunk_idle(chunk)) {
      *at = chunk->next;
      chunk->next = idle;
      idle = chunk;
    } else {
      give_chunk_locked(pool, chunk);
      at = &chunk->next;
    }
  }
  rctx__unlock(&pool->lock);
  size_t bytes = 0;
  for (struct rctx__chunk *next; idle; idle = next, bytes += CHUNK_BYTES) {
    next = idle->next;
    rctx__raw_free(manager, idle, CHUNK_BYTES);
  }
  return bytes;
}

size_t rctx__memory_trim(struct rctx_manager *manager) {
  size_t bytes = 0;
  add_relaxed(&manager->memory.trims, 1U); /* a hint: the others see it some time */
  rctx__memory_give_back(manager);
  for (int c = 0; c < CLASSES; c++) bytes += pool_trim(manager, &manager->memory.pools[c]);
  return bytes;
}

void rctx__memory_fini(struct rctx_manager *manager) {
  rctx__registry_lock();
  while (manager->memory.heaps) heap_detach_locked(manager->memory.heaps);
  rctx__registry_unlock();
  for (int c = 0; c < CLASSES; c++) {
    struct rctx__chunk *chunk = manager->memory.pools[c].chunks;
    for (struct rctx__chunk *next; chunk; chunk = next) {
      next = chunk->next;
      rctx__raw_free(manager, chunk, CHUNK_BYTES);
    }
  }
}
