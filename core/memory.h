/*
 * memory.h - nodes, value blocks and tasks: a cache per thread over a shared pool over an allocator.
 *
 * A thread that derives takes a node from its own cache and a thread that ends puts it into its own: no atomic operation
 * either way. A cache that runs empty takes a batch from the manager's pool, one that overflows gives a batch back (a
 * producer thread and a consumer thread meet there once in BATCH nodes). The pool cuts batches from 64 KiB chunks of
 * the allocator. A thread that exits gives all it has back.
 *
 * Who frees: an object is in exactly one of: in use, a thread's cache (that thread), the pool (its lock).
 */
#ifndef RCTX_CORE_MEMORY_H
#define RCTX_CORE_MEMORY_H

#include "platform.h"
#include "tree.h"

#include <rctx/manager.h>

enum { CHUNK_BYTES = 1 << 16, BLOCK_BYTES = 512, BATCH = 32, CACHE_MAX = 4 * BATCH };

enum rctx__size_class { CLASS_NODE, CLASS_BLOCK, CLASS_TASK, CLASSES };

/* A free object. It lies over node->link, so that the first line of a dead node still says NODE_DEAD. */
struct rctx__free {
  struct rctx__free *next;
  struct rctx__free *next_batch; /* in the pool, first of a batch: the next batch */
};

struct rctx__chunk {
  struct rctx__chunk *next; /* pool lock */
  uint32_t cut;             /* pool lock: objects cut from it */
  uint32_t idle;            /* pool lock: scratch of rctx__memory_trim() */
  struct rctx__free *free;  /* the same */
};

struct rctx__pool {
  rctx__lock lock;
  size_t object_bytes;        /* const */
  struct rctx__free *batches; /* lock */
  struct rctx__chunk *chunks; /* lock: the first is the one being cut */
};

struct rctx__cache {
  struct rctx__free *first; /* owner */
  struct rctx__free *last;  /* owner; only kept in checked builds, where a node rests as long as possible */
  unsigned count;           /* owner */
};

/* What one thread has of one manager. Lives until the thread exits, also when the manager is destroyed before. */
struct rctx__heap {
  _Atomic(struct rctx_manager *) manager; /* written under the registry mutex: NULL when the manager is gone */
  struct rctx__cache cache[CLASSES];      /* owner */
  unsigned cache_max;                     /* const: 0 when the manager is uncached */
  uint32_t trims;                         /* owner: of the manager's, which it has heard of */
  unsigned index;                         /* const: a small number per thread, for choosing shards and stripes */
  _Atomic int64_t contexts; /* stats: written by the owner; nodes taken minus nodes given back on this thread */
  _Atomic int64_t afters;   /* stats: written by the owner: registrations for the callback thread, made minus over */
  struct rctx__heap *next_here; /* owner: this thread's other heaps */
  struct rctx__heap *next;      /* registry mutex: the manager's heaps */
  struct rctx__heap **pprev;    /* registry mutex */
};

struct rctx__memory {
  struct rctx_allocator allocator; /* const; all NULL: the built-in one */
  bool uncached;                   /* const: every object straight from and to the allocator */
  size_t bytes_max;                /* const: 0: no limit */
  struct rctx__pool pools[CLASSES];
  struct rctx__heap *heaps;     /* registry mutex */
  _Atomic uint32_t trims;       /* stats: calls of rctx_trim(), for the threads to hear of */
  _Atomic int64_t strays;       /* stats: contexts counted outside any living heap */
  _Atomic int64_t stray_afters; /* stats: the same of registrations */
  _Atomic size_t bytes;         /* stats */
};

extern __thread struct rctx__heap *rctx__heap_here
    __attribute__((tls_model("initial-exec"), visibility("hidden"))); /* the heap this thread used last */

/* Static, so that the default manager needs no set-up. */
#define RCTX__MEMORY_INIT                                                                                              \
  {                                                                                                                    \
    .uncached = RCTX_UNCACHED, .pools = {                                                                              \
      [CLASS_NODE] = {.object_bytes = sizeof(struct rctx)},                                                            \
      [CLASS_BLOCK] = {.object_bytes = BLOCK_BYTES},                                                                   \
      [CLASS_TASK] = {.object_bytes = sizeof(struct rctx)}                                                             \
    }                                                                                                                  \
  }
/** Give everything back. No context is left and no thread uses the manager. */
void rctx__memory_fini(struct rctx_manager *manager);
/** Give all back that this thread has cached: a thread of ours that only frees, before it sleeps. */
void rctx__memory_give_back(struct rctx_manager *manager);
size_t rctx__memory_trim(struct rctx_manager *manager);
/** Nodes in use, with those deferred. */
int64_t rctx__memory_contexts(const struct rctx_manager *manager);

/** Straight from the allocator, for what is rare or large. NULL: no memory. */
void *rctx__raw_alloc(struct rctx_manager *manager, size_t size, size_t align);
void rctx__raw_free(struct rctx_manager *manager, void *ptr, size_t size);

/** This thread's heap of a manager, made if need be. NULL: no memory. */
struct rctx__heap *rctx__heap_get(struct rctx_manager *manager);

void *rctx__object_alloc_slow(struct rctx_manager *manager, enum rctx__size_class size_class);
void rctx__object_free_slow(struct rctx_manager *manager, enum rctx__size_class size_class, void *object);

static inline struct rctx__free *rctx__as_free(void *object) {
  return (struct rctx__free *)(void *)((char *)object + offsetof(struct rctx, link));
}
static inline void *rctx__from_free(struct rctx__free *free) { return (char *)free - offsetof(struct rctx, link); }

/** A node is in use (+1) or given back (-1): counted by its thread, since it is there anyway. Only the owner writes. */
static inline void rctx__count(struct rctx__heap *heap, enum rctx__size_class size_class, int change) {
  if (size_class == CLASS_NODE)
    store_relaxed(&heap->contexts, load_relaxed(&heap->contexts) + change); /* readers: late */
}

/** A registration for the manager's callback thread is about to be made (+1), or is over (-1): as rctx__count(). */
static inline void rctx__count_after(struct rctx_manager *manager, struct rctx__memory *memory, int change) {
  struct rctx__heap *heap = rctx__heap_here;
  if (likely(heap != NULL) && likely(load_relaxed(&heap->manager) == manager)) {
    store_relaxed(&heap->afters, load_relaxed(&heap->afters) + change); /* read in a child, by its only thread */
  } else {
    add_relaxed(&memory->stray_afters, change); /* as above */
  }
}
/** In the child of a fork: whether there is any. */
bool rctx__any_after(const struct rctx_manager *manager);

/** One object, uninitialised; NULL: no memory. */
static inline void *rctx__object_alloc(struct rctx_manager *manager, enum rctx__size_class size_class) {
  struct rctx__heap *heap = rctx__heap_here;
  if (likely(heap != NULL) && likely(load_relaxed(&heap->manager) == manager)) {
    struct rctx__cache *cache = &heap->cache[size_class];
    struct rctx__free *first = cache->first;
    if (likely(first != NULL)) {
      cache->first = first->next;
      cache->count--;
      rctx__count(heap, size_class, 1);
      return rctx__from_free(first);
    }
  }
  return rctx__object_alloc_slow(manager, size_class);
}

static inline void rctx__cache_put(struct rctx__cache *cache, struct rctx__free *free) {
#if RCTX__CHECKED
  free->next = NULL;
  if (cache->first) {
    cache->last->next = free;
  } else {
    cache->first = free;
  }
  cache->last = free;
#else
  free->next = cache->first;
  cache->first = free;
#endif
  cache->count++;
}

static inline void rctx__object_free(struct rctx_manager *manager, enum rctx__size_class size_class, void *object) {
  struct rctx__heap *heap = rctx__heap_here;
  if (likely(heap != NULL) && likely(load_relaxed(&heap->manager) == manager) &&
      likely(heap->cache[size_class].count < heap->cache_max)) {
    rctx__cache_put(&heap->cache[size_class], rctx__as_free(object));
    rctx__count(heap, size_class, -1);
    return;
  }
  rctx__object_free_slow(manager, size_class, object);
}

/** Held to look at or change the list of managers and of their heaps. Cold. */
void rctx__registry_lock(void);
void rctx__registry_unlock(void);
/** In the child of a fork: nobody holds it. */
void rctx__registry_reset(void);

#endif
