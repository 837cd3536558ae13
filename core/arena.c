/*
 * arena.c - rctx_alloc(): memory that goes with its context.
 *
 * Pages are chained from the newest; small requests are cut from the newest page, large ones get a page of their own behind it.
 */
#include "manager.h"
#include "tree.h"

#include <stddef.h>

struct rctx__arena {
  struct rctx__arena *next; /* older pages */
  size_t size;              /* of the whole page */
  size_t used;
  max_align_t data[];
};

enum { ARENA_ALIGN = _Alignof(max_align_t), LARGE = BLOCK_BYTES / 4 };

static struct rctx__arena *page_new(rctx_manager *manager, size_t room) {
  size_t size = sizeof(struct rctx__arena) + room;
  struct rctx__arena *page =
      size <= BLOCK_BYTES ? rctx__object_alloc(manager, CLASS_BLOCK) : rctx__raw_alloc(manager, size, ARENA_ALIGN);
  if (page == NULL) return NULL;
  page->size = size <= BLOCK_BYTES ? BLOCK_BYTES : size;
  page->used = sizeof *page;
  return page;
}

static void *cut(struct rctx__arena *page, size_t size) {
  void *at = (char *)page + page->used;
  page->used += size;
  return at;
}

void *rctx_alloc(rctx *ctx, size_t size) {
  if (misused(ctx == NULL, "ctx is NULL (expected a context)") || rctx__is_static(ctx)) return NULL;
  if (size > PTRDIFF_MAX - 2 * BLOCK_BYTES) return NULL;
  size = (size + (size == 0) + ARENA_ALIGN - 1) & ~(size_t)(ARENA_ALIGN - 1);
  struct rctx__ext *ext = rctx__ext_get(ctx);
  if (ext == NULL) return NULL;
  struct rctx__arena *newest = ext->arena;
  if (newest && newest->size - newest->used >= size) return cut(newest, size);
  struct rctx__arena *page = page_new(ctx->manager, size);
  if (page == NULL) return NULL;
  if (newest && size > LARGE) { /* keep cutting small ones from the newest */
    page->next = newest->next;
    newest->next = page;
  } else {
    page->next = newest;
    ext->arena = page;
  }
  return cut(page, size);
}

void rctx__arena_free(rctx *node, struct rctx__ext *ext) {
  for (struct rctx__arena *page = ext->arena, *next; page; page = next) {
    next = page->next;
    if (page->size == BLOCK_BYTES) {
      rctx__object_free(node->manager, CLASS_BLOCK, page);
    } else {
      rctx__raw_free(node->manager, page, page->size);
    }
  }
}
