/*
 * arena.c - rctx_alloc(): memory that goes with its context.
 *
 * The first page is the rest of the block that the ext lies in: a request that needs some hundred bytes costs one cached
 * block. Further pages come straight from the allocator, newest first; a large request gets one of its own behind it.
 */
#include "manager.h"
#include "tree.h"

#include <stddef.h>

struct rctx__page {
  struct rctx__page *next; /* older */
  size_t size;             /* of the whole page */
  size_t used;
  max_align_t data[];
};

enum { ARENA_ALIGN = _Alignof(max_align_t), PAGE_BYTES = 4096, LARGE = PAGE_BYTES / 4 };
enum { FIRST_AT = (sizeof(struct rctx__ext) + ARENA_ALIGN - 1) / ARENA_ALIGN * ARENA_ALIGN };

static void *cut(struct rctx__page *page, size_t size) {
  void *at = (char *)page + page->used;
  page->used += size;
  return at;
}

static void *cut_new_page(rctx *ctx, struct rctx__ext *ext, size_t size) {
  bool large = size > LARGE;
  size_t page_size = large ? sizeof(struct rctx__page) + size : PAGE_BYTES;
  struct rctx__page *page = rctx__raw_alloc(ctx->manager, page_size, ARENA_ALIGN);
  if (page == NULL) return NULL;
  page->size = page_size;
  page->used = sizeof *page;
  if (large && ext->newest) { /* keep cutting small ones from the newest */
    page->next = ext->newest->next;
    ext->newest->next = page;
  } else {
    page->next = ext->newest;
    ext->newest = page;
  }
  return cut(page, size);
}

void *rctx_alloc(rctx *ctx, size_t size) {
  if (misused(ctx == NULL, "ctx is NULL (expected a context)") || rctx__is_static(ctx)) return NULL;
  if (size > PTRDIFF_MAX - PAGE_BYTES) return NULL;
  size = (size + (size == 0) + ARENA_ALIGN - 1) / ARENA_ALIGN * ARENA_ALIGN;
  struct rctx__ext *ext = rctx__ext_get(ctx);
  if (ext == NULL) return NULL;
  if (size <= BLOCK_BYTES - FIRST_AT - ext->first_used) {
    void *at = (char *)ext + FIRST_AT + ext->first_used;
    ext->first_used += size;
    return at;
  }
  struct rctx__page *newest = ext->newest;
  if (newest && newest->size - newest->used >= size) return cut(newest, size);
  return cut_new_page(ctx, ext, size);
}

void rctx__arena_free(rctx *node, struct rctx__ext *ext) {
  for (struct rctx__page *page = ext->newest, *next; page; page = next) {
    next = page->next;
    rctx__raw_free(node->manager, page, page->size);
  }
}
