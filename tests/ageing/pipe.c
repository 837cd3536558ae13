/* pipe.c - see pipe.h. */
#include "ageing/pipe.h"

#include "core/platform.h"

#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <urcu/urcu-bp.h>

enum { LINE = 128, LINES = 1 << 17, LENGTHS = 65, NONE = 0, THREADS_MAX = 64 };
enum { YIELD_ONE_IN = 48, NAP_ONE_IN = 6000, LONG_NAP_ONE_IN = 90000, NAP_US = 40, LONG_NAP_US = 2000 };

/* Objects are runs of lines; a list links the first line of each. Line 0 is never handed out: NONE. */
struct list {
  uint32_t first;
};

static char *region;
static _Atomic uint8_t stages[LINES]; /* of each line */
static uint32_t next[LINES];          /* mutex: list of the object that begins here */
static uint8_t length[LINES];         /* mutex: its lines */

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t more = PTHREAD_COND_INITIALIZER;
static struct list given_back[STAGES]; /* mutex: those of each stage */
static struct list ready[LENGTHS];     /* mutex: through the pipe, by length */
static uint32_t cut = 1;               /* mutex: lines that were ever handed out */
static struct pipe_counts totals;      /* mutex; without seen[] */

struct watcher {
  _Atomic uint64_t seen[STAGES]; /* written by its thread */
  struct rng rng;
  bool walks;
};
static struct watcher watchers[THREADS_MAX];
static _Atomic unsigned watcher_count;
static _Atomic uint64_t faults;
static __thread struct watcher *here;

void pipe_open(void) {
  region = mmap(NULL, (size_t)LINES * LINE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (region != MAP_FAILED) return;
  perror("mmap");
  abort();
}

/* ---- handing out and taking back --------------------------------------------------------------------------------- */

static uint32_t line_of(const volatile void *address) {
  uintptr_t offset = (uintptr_t)address - (uintptr_t)region;
  return offset < (uintptr_t)LINES * LINE ? (uint32_t)(offset / LINE) : NONE;
}

static void put(struct list *list, uint32_t line) {
  next[line] = list->first;
  list->first = line;
}

static uint32_t take(struct list *list) {
  uint32_t line = list->first;
  if (line != NONE) list->first = next[line];
  return line;
}

static void set_stage(uint32_t line, unsigned stage) {
  for (unsigned i = 0; i < length[line]; i++)
    atomic_store_explicit(&stages[line + i], (uint8_t)stage, memory_order_relaxed);
}

/* Something of so many lines that is through the pipe, or was never used; NONE: there is nothing now. */
static uint32_t find_locked(uint8_t lines) {
  uint32_t line = take(&ready[lines]);
  totals.reused += line != NONE;
  if (line == NONE && cut + lines <= LINES) {
    line = cut;
    cut += lines;
  }
  return line;
}

void *pipe_alloc(void *self, size_t size, size_t align) {
  size_t lines = (size + LINE - 1) / LINE;
  (void)self;
  if (lines >= LENGTHS || align > LINE)
    return aligned_alloc(align, (size + align - 1) / align * align); /* few, not of trees */
  pthread_mutex_lock(&mutex);
  uint32_t line;
  while ((line = find_locked((uint8_t)lines)) == NONE) pthread_cond_wait(&more, &mutex);
  length[line] = (uint8_t)lines;
  set_stage(line, STAGE_IN_USE);
  totals.handed_out++;
  pthread_mutex_unlock(&mutex);
  return region + (size_t)line * LINE;
}

void pipe_free(void *self, void *ptr, size_t size) {
  (void)self;
  (void)size;
  uint32_t line = line_of(ptr);
  if (line == NONE) {
    free(ptr);
    return;
  }
  pthread_mutex_lock(&mutex);
  set_stage(line, STAGE_GIVEN_BACK);
  put(&given_back[STAGE_GIVEN_BACK], line);
  totals.given_back++;
  pthread_mutex_unlock(&mutex);
}

void pipe_unlinked(const void *object) {
  pthread_mutex_lock(&mutex);
  set_stage(line_of(object), STAGE_UNLINKED);
  totals.unlinked++;
  pthread_mutex_unlock(&mutex);
}

static void move_on_locked(struct list *from, unsigned to) {
  for (uint32_t line; (line = take(from)) != NONE; totals.aged++) {
    if (to < STAGES) set_stage(line, to);
    put(to < STAGES ? &given_back[to] : &ready[length[line]], line);
  }
}

/* liburcu is asked itself: the library's way to wait is what is looked at here. Every thread that walks is known to liburcu. */
void pipe_turn(void) {
  pthread_mutex_lock(&mutex);
  struct list before = given_back[STAGE_GIVEN_BACK];
  given_back[STAGE_GIVEN_BACK].first = NONE;
  pthread_mutex_unlock(&mutex);
  urcu_bp_synchronize_rcu();
  pthread_mutex_lock(&mutex);
  for (unsigned stage = STAGES_LAST; stage > STAGE_GIVEN_BACK; stage--) move_on_locked(&given_back[stage], stage + 1);
  move_on_locked(&before, STAGE_GIVEN_BACK + 1);
  totals.turns++;
  pthread_cond_broadcast(&more);
  pthread_mutex_unlock(&mutex);
}

/* ---- looking ----------------------------------------------------------------------------------------------------- */

void pipe_join(uint64_t seed) {
  unsigned index = atomic_fetch_add(&watcher_count, 1U);
  if (index >= THREADS_MAX) abort();
  rng_init(&watchers[index].rng, seed);
  here = &watchers[index];
}

void pipe_walk_begins(void) {
  if (here) here->walks = true;
}
void pipe_walk_ends(void) {
  if (here) here->walks = false;
}

/* In the middle of a walk: what others give up meanwhile ages under its feet. */
static void linger(struct watcher *watcher) {
  if (rng_one_in(&watcher->rng, YIELD_ONE_IN)) sched_yield();
  unsigned us = rng_one_in(&watcher->rng, NAP_ONE_IN)        ? NAP_US
                : rng_one_in(&watcher->rng, LONG_NAP_ONE_IN) ? LONG_NAP_US
                                                             : 0;
  struct timespec nap = {0, us * 1000L};
  if (us) nanosleep(&nap, NULL);
}

void pipe_see(const volatile void *address) {
  uint32_t line = line_of(address);
  struct watcher *watcher = here;
  if (watcher == NULL) return;
  if (watcher->walks) linger(watcher);
  if (line == NONE) return;
  unsigned stage = atomic_load_explicit(&stages[line], memory_order_relaxed);
  _Atomic uint64_t *count = &watcher->seen[stage];
  atomic_store_explicit(count, atomic_load_explicit(count, memory_order_relaxed) + 1, memory_order_relaxed);
  if (stage > STAGE_UNLINKED) atomic_fetch_add_explicit(&faults, 1, memory_order_relaxed);
}

uint64_t pipe_faults(void) { return atomic_load_explicit(&faults, memory_order_relaxed); }

void pipe_count(struct pipe_counts *counts) {
  pthread_mutex_lock(&mutex);
  *counts = totals;
  pthread_mutex_unlock(&mutex);
  for (unsigned i = 0; i < atomic_load(&watcher_count) && i < THREADS_MAX; i++)
    for (unsigned stage = 0; stage < STAGES; stage++)
      counts->seen[stage] += atomic_load_explicit(&watchers[i].seen[stage], memory_order_relaxed);
}

void pipe_print(const struct pipe_counts *counts, FILE *out) {
  fprintf(out, "Reader Pipe:");
  for (unsigned stage = 0; stage < STAGES; stage++) fprintf(out, " %" PRIu64, counts->seen[stage]);
  fprintf(out,
          "\nobjects: %" PRIu64 " handed out, %" PRIu64 " of them for the second time, %" PRIu64
          " unlinked under a walk, %" PRIu64 " given back; %" PRIu64 " grace periods, %" PRIu64 " moves\n",
          counts->handed_out, counts->reused, counts->unlinked, counts->given_back, counts->turns, counts->aged);
}
