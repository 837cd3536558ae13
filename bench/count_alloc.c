/*
 * Counts allocations without getting in their way.
 *
 * The malloc family is defined here, in the program, so it is interposed for every shared object too (liburcu, libc).
 * Each call counts and goes on to the allocator: with jemalloc through its mallocx(), which nobody interposes, otherwise to
 * glibc's own entry points. So no dlsym() is needed, and no call can come too early.
 * The library may also call mallocx() by itself (it looks for it weakly): the linker's --wrap leads those calls, and its
 * mmap() and write(), through here.
 *
 * Each thread counts on cache lines of its own, without locked instructions (threads after the 63rd share a slot, with them):
 * a rival that allocates is charged a nanosecond for being counted, and not the price of three locked adds.
 */
#include "count_alloc.h"

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <unistd.h>

enum { SLOTS = 64 };

struct slot {
  _Alignas(128) uint64_t calls;
  uint64_t bytes;
  uint64_t frees;
  uint64_t descriptors;
};

static struct slot slots[SLOTS];

static struct slot *const shared_slot = &slots[SLOTS - 1];

static struct slot *my_slot(void) {
  static unsigned handed_out;
  static __thread struct slot *mine;
  if (__builtin_expect(mine == NULL, 0)) {
    unsigned n = __atomic_fetch_add(&handed_out, 1, __ATOMIC_RELAXED);
    mine = n < SLOTS - 1 ? &slots[n] : shared_slot;
  }
  return mine;
}

static void add(const struct slot *slot, uint64_t *counter, uint64_t n) {
  if (__builtin_expect(slot == shared_slot, 0)) {
    __atomic_fetch_add(counter, n, __ATOMIC_RELAXED);
  } else { /* nobody else writes it; bench_count_allocs() reads it */
    __atomic_store_n(counter, __atomic_load_n(counter, __ATOMIC_RELAXED) + n, __ATOMIC_RELAXED);
  }
}

static void count(size_t bytes) {
  struct slot *slot = my_slot();
  add(slot, &slot->calls, 1);
  add(slot, &slot->bytes, bytes);
}

static void count_free(void) {
  struct slot *slot = my_slot();
  add(slot, &slot->frees, 1);
}

static void count_write(void) {
  struct slot *slot = my_slot();
  add(slot, &slot->descriptors, 1);
}

void bench_count_allocs(struct bench_allocs *sum) {
  memset(sum, 0, sizeof *sum);
  for (size_t i = 0; i < SLOTS; i++) {
    sum->calls += __atomic_load_n(&slots[i].calls, __ATOMIC_RELAXED);
    sum->bytes += __atomic_load_n(&slots[i].bytes, __ATOMIC_RELAXED);
    sum->frees += __atomic_load_n(&slots[i].frees, __ATOMIC_RELAXED);
    sum->descriptors += __atomic_load_n(&slots[i].descriptors, __ATOMIC_RELAXED);
  }
}

/* ---- the allocator behind ---------------------------------------------------------------------------------------- */

#ifdef RCTX_BENCH_JEMALLOC
#include <jemalloc/jemalloc.h>

void *__real_mallocx(size_t size, int flags);
void *__real_rallocx(void *ptr, size_t size, int flags);
void __real_dallocx(void *ptr, int flags);
void __real_sdallocx(void *ptr, size_t size, int flags);
void *__wrap_mallocx(size_t size, int flags);
void *__wrap_rallocx(void *ptr, size_t size, int flags);
void __wrap_dallocx(void *ptr, int flags);
void __wrap_sdallocx(void *ptr, size_t size, int flags);

static void *get(size_t size, size_t align, bool zero) {
  int flags = (align > 16 ? MALLOCX_ALIGN(align) : 0) | (zero ? MALLOCX_ZERO : 0);
  return __real_mallocx(size > 0 ? size : 1, flags);
}
static void *get_more(void *ptr, size_t size) { return __real_rallocx(ptr, size > 0 ? size : 1, 0); }
static void put(void *ptr) { __real_dallocx(ptr, 0); }

void *__wrap_mallocx(size_t size, int flags) {
  count(size);
  return __real_mallocx(size, flags);
}
void *__wrap_rallocx(void *ptr, size_t size, int flags) {
  count(size);
  return __real_rallocx(ptr, size, flags);
}
void __wrap_dallocx(void *ptr, int flags) {
  count_free();
  __real_dallocx(ptr, flags);
}
void __wrap_sdallocx(void *ptr, size_t size, int flags) {
  count_free();
  __real_sdallocx(ptr, size, flags);
}
#else
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *ptr, size_t size);
void *__libc_memalign(size_t align, size_t size);
void __libc_free(void *ptr);

static void *get(size_t size, size_t align, bool zero) {
  if (zero) {
    return __libc_calloc(1, size);
  }
  return align > 16 ? __libc_memalign(align, size) : __libc_malloc(size);
}
static void *get_more(void *ptr, size_t size) { return __libc_realloc(ptr, size > 0 ? size : 1); }
static void put(void *ptr) { __libc_free(ptr); }
#endif

/* ---- the family -------------------------------------------------------------------------------------------------- */

static void *counted(size_t size, size_t align, bool zero) {
  count(size);
  void *ptr = get(size, align, zero);
  if (ptr == NULL) {
    errno = ENOMEM;
  }
  return ptr;
}

void *malloc(size_t size) { return counted(size, 0, false); }

void *calloc(size_t n, size_t size) {
  size_t total;
  if (__builtin_mul_overflow(n, size, &total)) {
    errno = ENOMEM;
    return NULL;
  }
  return counted(total, 0, true);
}

void *realloc(void *ptr, size_t size) {
  if (ptr == NULL) {
    return counted(size, 0, false);
  }
  count(size);
  void *moved = get_more(ptr, size);
  if (moved == NULL) {
    errno = ENOMEM;
  }
  return moved;
}

void free(void *ptr) {
  if (ptr != NULL) {
    count_free();
    put(ptr);
  }
}

void *aligned_alloc(size_t align, size_t size) { return counted(size, align, false); }

void *memalign(size_t align, size_t size);
void *memalign(size_t align, size_t size) { return counted(size, align, false); }

void *valloc(size_t size) { return counted(size, (size_t)sysconf(_SC_PAGESIZE), false); }

int posix_memalign(void **out, size_t align, size_t size) {
  if (align < sizeof(void *) || (align & (align - 1)) != 0) {
    return EINVAL;
  }
  count(size);
  void *ptr = get(size, align, false);
  if (ptr == NULL) {
    return ENOMEM;
  }
  *out = ptr;
  return 0;
}

/* ---- system calls of the library and the cases ------------------------------------------------------------------- */

void *__real_mmap(void *addr, size_t size, int prot, int flags, int fd, off_t offset);
ssize_t __real_write(int fd, const void *buf, size_t size);
int __real_eventfd_write(int fd, eventfd_t value);
void *__wrap_mmap(void *addr, size_t size, int prot, int flags, int fd, off_t offset);
ssize_t __wrap_write(int fd, const void *buf, size_t size);
int __wrap_eventfd_write(int fd, eventfd_t value);

void *__wrap_mmap(void *addr, size_t size, int prot, int flags, int fd, off_t offset) {
  count(size);
  return __real_mmap(addr, size, prot, flags, fd, offset);
}

ssize_t __wrap_write(int fd, const void *buf, size_t size) {
  count_write();
  return __real_write(fd, buf, size);
}

int __wrap_eventfd_write(int fd, eventfd_t value) {
  count_write();
  return __real_eventfd_write(fd, value);
}
