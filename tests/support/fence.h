// fence.h - an allocator whose freed memory can not be touched: each block has pages of its own, which are closed when it is
// given back, and stay closed. What uses memory after its end dies at that instruction, in every build.
//
//   struct rctx_manager_options options = {.allocator = {fence_alloc, fence_free, NULL}, .uncached = true};
//
// Nothing is ever used again: for tests of a few thousand blocks.
#ifndef RCTX_TESTS_FENCE_H
#define RCTX_TESTS_FENCE_H

#include <rctx/manager.h>
#include <sys/mman.h>

enum { FENCE_PAGE = 4096 };

static inline size_t fence_pages(size_t size) { return (size + FENCE_PAGE - 1) / FENCE_PAGE * FENCE_PAGE; }

static inline void *fence_alloc(void *self, size_t size, size_t align) {
  (void)self;
  if (align > FENCE_PAGE) return NULL;
  void *block = mmap(NULL, fence_pages(size), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return block == MAP_FAILED ? NULL : block;
}

static inline void fence_free(void *self, void *block, size_t size) {
  (void)self;
  madvise(block, fence_pages(size), MADV_DONTNEED);
  mprotect(block, fence_pages(size), PROT_NONE);
}

#endif
