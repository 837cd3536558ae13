/* Counts the allocations of the whole process; see count_alloc.c. */
#ifndef RCTX_BENCH_COUNT_ALLOC_H
#define RCTX_BENCH_COUNT_ALLOC_H

#include <stdint.h>

struct bench_allocs {
  uint64_t calls;       /* malloc, calloc, realloc, aligned_alloc, ..., mallocx, and anonymous mmap by the library */
  uint64_t bytes;       /* asked for */
  uint64_t frees;       /* free, dallocx, sdallocx */
  uint64_t descriptors; /* writes to file descriptors by the library and the cases: eventfds are all there is */
};

/* The sum over all threads; exact as long as none allocates meanwhile. */
void bench_count_allocs(struct bench_allocs *sum);

#endif
