// fence.h - an allocator whose freed memory can not be touched: each block has pages of its own, which are closed when it is
// given back, and stay closed. What uses memory after its end dies at that instruction, in every build.
//
//   struct rctx_manager_options options = {.allocator = {fence_alloc, fence_free, NULL}, .uncached = true};
//
// Nothing is ever used again: for tests of a few thousand blocks.
#ifndef RCTX_TESTS_FENCE_H
#define RCTX_TESTS_FENCE_H

#include "support/check.h"

#include <rctx/manager.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { FENCE_PAGE = 4096 };

static _Atomic uintptr_t fence_low = UINTPTR_MAX,
                         fence_high; // where the blocks are, and perhaps others' memory between

static inline size_t fence_pages(size_t size) { return (size + FENCE_PAGE - 1) / FENCE_PAGE * FENCE_PAGE; }

static inline void *fence_alloc(void *self, size_t size, size_t align) {
  (void)self;
  if (align > FENCE_PAGE) return NULL;
  void *block = mmap(NULL, fence_pages(size), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (block == MAP_FAILED) return NULL;
  uintptr_t low = atomic_load(&fence_low), high = atomic_load(&fence_high), begin = (uintptr_t)block;
  while (begin < low && !atomic_compare_exchange_weak(&fence_low, &low, begin)) {
  }
  while (begin + size > high && !atomic_compare_exchange_weak(&fence_high, &high, begin + size)) {
  }
  return block;
}

static inline void fence_free(void *self, void *block, size_t size) {
  (void)self;
  madvise(block, fence_pages(size), MADV_DONTNEED);
  mprotect(block, fence_pages(size), PROT_NONE);
}

static inline void fence_touched(int number, siginfo_t *info, void *unused) {
  static const char said[] = "fence: closed memory was touched\n";
  uintptr_t at = (uintptr_t)info->si_addr;
  (void)unused;
  if (info->si_code == SEGV_ACCERR && at >= atomic_load(&fence_low) && at < atomic_load(&fence_high))
    if (write(STDERR_FILENO, said, strlen(said)) < 0) _exit(1);
  signal(number, SIG_DFL); // and again, for good
}

// Says so when a test dies of the fence. AddressSanitizer says it better.
__attribute__((unused)) static void fence_watch(void) {
  struct sigaction action = {.sa_sigaction = fence_touched, .sa_flags = SA_SIGINFO};
  if (!CHECK_LEAKS) sigaction(SIGSEGV, &action, NULL);
}

#endif
