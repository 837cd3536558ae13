/*
 * heap.c - the memory of a schedule: a region at the same address in every run, forgotten as a whole at the end.
 *
 * A map has a state for each granule of 64 bytes, so every atomic is checked for touching memory that is free. Under
 * AddressSanitizer every access is. Freed memory is filled; in half of the schedules it is not given out again, and the filling is
 * looked at in the end: it finds plain writes that came late. In the other half the piece freed last is given out first.
 */
#define _GNU_SOURCE
#include "kernel.h"
#include "sim.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#if defined(__SANITIZE_ADDRESS__)
#define SIM_POISONS 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SIM_POISONS 1
#endif
#endif
#ifdef SIM_POISONS
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(memory, size) ((void)(memory), (void)(size))
#define ASAN_UNPOISON_MEMORY_REGION(memory, size) ((void)(memory), (void)(size))
#endif

#define BASE UINT64_C(0x200000000000)
enum { GRANULE = 64, GRANULES = 1 << 17, FILLING = 0xdd, FILLED_MAX = 32, CLASSES_MAX = 64 };

enum granule { UNUSED = 0, LIVE, FREED };

static char *const base = (char *)BASE; /* NOLINT(performance-no-int-to-ptr) */
static uint8_t map[GRANULES];
static uint32_t granules_of[GRANULES]; /* at the first granule of a piece */
static uint32_t next_free[GRANULES];   /* in its class, plus one */
static uint32_t first_free[CLASSES_MAX + 1];
static uint32_t used, live;
static bool reused;

static void make_region(void) {
  static bool made;
  if (made) return;
  made = true;
  void *got = mmap(base, (size_t)GRANULES * GRANULE, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
  if (got != base) abort();
  ASAN_POISON_MEMORY_REGION(base, (size_t)GRANULES * GRANULE);
}

void sim_heap_reset(bool reuse) {
  make_region();
  ASAN_POISON_MEMORY_REGION(base, (size_t)used * GRANULE);
  memset(map, UNUSED, used);
  memset(first_free, 0, sizeof first_free);
  used = live = 0;
  reused = reuse;
}

uintptr_t sim_heap_offset(const volatile void *address) {
  uintptr_t offset = (uintptr_t)address - (uintptr_t)base;
  return offset < (uintptr_t)GRANULES * GRANULE ? offset : (uintptr_t)address;
}

void sim_heap_touch(const volatile void *address) {
  uintptr_t offset = (uintptr_t)address - (uintptr_t)base;
  if (offset >= (uintptr_t)GRANULES * GRANULE || map[offset / GRANULE] == LIVE) return;
  sim_fail(__FILE__, __LINE__, "an atomic touches memory at %#zx that %s", (size_t)offset,
           map[offset / GRANULE] == FREED ? "is free" : "was never allocated");
}

static bool filled(uint32_t at) {
  if (granules_of[at] > FILLED_MAX) return true;
  const unsigned char *bytes = (const unsigned char *)base + (size_t)at * GRANULE;
  for (size_t i = 0; i < (size_t)granules_of[at] * GRANULE; i++) {
    if (bytes[i] != FILLING) return false;
  }
  return true;
}

static void check_filling(uint32_t at) {
#ifndef SIM_POISONS /* which has seen it at once */
  if (!filled(at)) sim_fail(__FILE__, __LINE__, "memory at %#zx was written after it was freed", (size_t)at * GRANULE);
#else
  (void)filled;
  (void)at;
#endif
}

void sim_heap_check(void) {
  if (live > 0) {
    uint32_t at = 0;
    while (map[at] != LIVE) at++;
    sim_fail(__FILE__, __LINE__, "%u pieces of memory are left, the first at %#zx", live, (size_t)at * GRANULE);
  }
  for (uint32_t at = 0; at < used; at += map[at] == UNUSED ? 1 : granules_of[at]) {
    if (map[at] == FREED) check_filling(at);
  }
}

static uint32_t taken_again(uint32_t granules, size_t align) {
  if (!reused || granules > CLASSES_MAX || first_free[granules] == 0) return UINT32_MAX;
  uint32_t at = first_free[granules] - 1;
  if (at % (align / GRANULE) != 0) return UINT32_MAX;
  first_free[granules] = next_free[at];
  check_filling(at);
  return at;
}

static void *take(size_t size, size_t align) {
  if (align < GRANULE) align = GRANULE;
  uint32_t granules = (uint32_t)((size + GRANULE - 1) / GRANULE);
  if (granules == 0) granules = 1;
  uint32_t at = taken_again(granules, align);
  if (at == UINT32_MAX) {
    uint32_t step = (uint32_t)(align / GRANULE);
    at = (used + step) / step * step; /* at least one granule stays between two pieces */
    if (at + granules >= GRANULES) sim_fail(__FILE__, __LINE__, "the heap of a schedule is full");
    memset(map + used, UNUSED, at - used);
    used = at + granules;
  }
  granules_of[at] = granules;
  memset(map + at, LIVE, granules);
  live++;
  char *memory = base + (size_t)at * GRANULE;
  ASAN_UNPOISON_MEMORY_REGION(memory, size);
  return memory;
}

void *sim_malloc(size_t size) {
  sim_point(NULL, __func__, __LINE__);
  return take(size, GRANULE);
}

void *sim_calloc(size_t count, size_t size) {
  void *memory = sim_malloc(count * size);
  return memset(memory, 0, count * size);
}

int sim_posix_memalign(void **memory, size_t align, size_t size) {
  sim_point(NULL, __func__, __LINE__);
  *memory = take(size, align);
  return 0;
}

void sim_free(void *memory) {
  if (memory == NULL) return;
  sim_point(NULL, __func__, __LINE__);
  uintptr_t offset = (uintptr_t)memory - (uintptr_t)base;
  uint32_t at = (uint32_t)(offset / GRANULE);
  if (offset >= (uintptr_t)GRANULES * GRANULE || offset % GRANULE != 0 || map[at] != LIVE)
    sim_fail(__FILE__, __LINE__, "free of %#zx, which is no piece of memory or is free", (size_t)offset);
  uint32_t granules = granules_of[at];
  size_t bytes = (size_t)granules * GRANULE;
  ASAN_UNPOISON_MEMORY_REGION(memory, bytes);
  if (granules <= FILLED_MAX) memset(memory, FILLING, bytes);
  ASAN_POISON_MEMORY_REGION(memory, bytes);
  memset(map + at, FREED, granules);
  live--;
  if (reused && granules <= CLASSES_MAX) {
    next_free[at] = first_free[granules];
    first_free[granules] = at + 1;
  }
}

/* core/rcu.c asks by this whether liburcu could have memory now. */
void *sim_mmap(void *at, size_t size, int protection, int flags, int fd, off_t offset) {
  static char probe;
  (void)at, (void)size, (void)protection, (void)flags, (void)fd, (void)offset;
  sim_point(NULL, __func__, __LINE__);
  return sim_spuriously(2) ? MAP_FAILED : &probe;
}

int sim_munmap(void *memory, size_t size) {
  (void)memory, (void)size;
  return 0;
}
