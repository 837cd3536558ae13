/*
 * testkit.c - a virtual clock and an allocator that fails on request, from the public interface alone: what they do, a user's
 * own could do.
 */
#include "platform.h"

#include <pthread.h>
#include <rctx/manager.h>
#include <rctx/testing.h>
#include <string.h>

/* ---- virtual time ------------------------------------------------------------------------------------------------ */

struct rctx_test_clock {
  _Atomic int64_t now_ns; /* atomic: written by the one who advances */
  rctx_manager *manager;  /* const */
};

static int64_t read_clock(void *arg) {
  struct rctx_test_clock *clock = arg;
  return load_acquire(&clock->now_ns); /* partner: go_to() */
}

int rctx_test_clock_create(int64_t start_ns, rctx_test_clock **clock) {
  if (misused(clock == NULL, "clock is NULL (expected where to write it)") || start_ns < 0) return -EINVAL;
  struct rctx_test_clock *made = calloc(1, sizeof *made);
  if (made == NULL) return -ENOMEM;
  atomic_init(&made->now_ns, start_ns);
  struct rctx_manager_options options = {.drive = RCTX_DRIVE_EMBEDDER, .now = read_clock, .now_arg = made};
  int rc = rctx_manager_create(&options, &made->manager);
  if (rc != 0) {
    free(made);
    return rc;
  }
  *clock = made;
  return 0;
}

int rctx_test_clock_destroy(rctx_test_clock *clock) {
  if (misused(clock == NULL, "clock is NULL")) return -EINVAL;
  int rc = rctx_manager_destroy(clock->manager);
  if (rc == 0) free(clock);
  return rc;
}

rctx_manager *rctx_test_clock_manager(const rctx_test_clock *clock) {
  if (misused(clock == NULL, "clock is NULL")) return rctx_manager_default();
  return clock->manager;
}

const rctx *rctx_test_clock_background(const rctx_test_clock *clock) {
  if (misused(clock == NULL, "clock is NULL")) return rctx_background();
  return rctx_manager_background(clock->manager);
}

int64_t rctx_test_clock_now(const rctx_test_clock *clock) {
  if (misused(clock == NULL, "clock is NULL")) return -EINVAL;
  return rctx_manager_now(clock->manager);
}

static size_t go_to(rctx_test_clock *clock, int64_t now_ns) {
  if (now_ns > load_relaxed(&clock->now_ns)) store_release(&clock->now_ns, now_ns); /* partner: read_clock() */
  return rctx_advance(clock->manager, now_ns, 0);
}

size_t rctx_test_clock_advance(rctx_test_clock *clock, int64_t ns) {
  if (misused(clock == NULL, "clock is NULL") || ns < 0) return 0;
  int64_t to_ns = rctx__add_ns(rctx_test_clock_now(clock), ns);
  size_t ended = 0;
  for (int64_t next_ns; (next_ns = rctx_next(clock->manager, rctx_test_clock_now(clock))) <= to_ns;) {
    if (next_ns == RCTX__NEVER) break;
    ended += go_to(clock, next_ns); /* perhaps none: the wheel has turned over */
  }
  return ended + go_to(clock, to_ns);
}

size_t rctx_test_clock_step(rctx_test_clock *clock) {
  if (misused(clock == NULL, "clock is NULL")) return 0;
  for (int64_t next_ns; (next_ns = rctx_next(clock->manager, rctx_test_clock_now(clock))) != RCTX__NEVER;) {
    size_t ended = go_to(clock, next_ns);
    if (ended > 0) return ended;
  }
  return 0;
}

/* ---- memory that fails ------------------------------------------------------------------------------------------- */

static pthread_mutex_t memory_mutex = PTHREAD_MUTEX_INITIALIZER; /* of all of them: tests are in no hurry */

static void *test_alloc(void *self, size_t size, size_t align) {
  struct rctx_test_memory *memory = self;
  void *ptr = NULL;
  pthread_mutex_lock(&memory_mutex);
  size_t number = ++memory->requests;
  bool refuse = memory->fail_at != 0 && (number == memory->fail_at || (memory->fail_on && number > memory->fail_at));
  if (!refuse && posix_memalign(&ptr, align < sizeof(void *) ? sizeof(void *) : align, size) != 0) ptr = NULL;
  if (refuse) memory->refused++;
  if (ptr) {
    memory->live++;
    memory->bytes += size;
  }
  pthread_mutex_unlock(&memory_mutex);
  if (ptr) memset(ptr, 0xa5, size); /* fresh memory is not zero */
  return ptr;
}

static void test_free(void *self, void *ptr, size_t size) {
  struct rctx_test_memory *memory = self;
  memset(ptr, 0x5a, size); /* what is read after its free is garbage */
  pthread_mutex_lock(&memory_mutex);
  memory->live--;
  memory->bytes -= size;
  pthread_mutex_unlock(&memory_mutex);
  free(ptr);
}

struct rctx_allocator rctx_test_allocator(struct rctx_test_memory *memory) {
  if (misused(memory == NULL, "memory is NULL")) return (struct rctx_allocator){NULL, NULL, NULL};
  return (struct rctx_allocator){test_alloc, test_free, memory};
}

/* One run. Returns 0, or -errno of the test's own; *clean: nothing was left. The memory of a run that left something stays. */
static int run_once(rctx_test_body fn, void *arg, struct rctx_test_memory *memory, int *result, bool *clean) {
  struct rctx_manager_options options = {
      .drive = RCTX_DRIVE_EMBEDDER, .allocator = rctx_test_allocator(memory), .uncached = true};
  rctx_manager *manager;
  int rc = rctx_manager_create(&options, &manager);
  if (rc != 0) return rc;
  *result = fn(manager, arg);
  *clean = rctx_manager_destroy(manager) == 0 && memory->live == 0;
  return 0;
}

int rctx_test_fail_each(rctx_test_body fn, void *arg, bool fail_on, struct rctx_test_faults *faults) {
  if (misused(faults == NULL, "faults is NULL (expected where to write it)") || fn == NULL) return -EINVAL;
  *faults = (struct rctx_test_faults){0};
  for (size_t at = 1;; at++) {
    struct rctx_test_memory *memory = calloc(1, sizeof *memory); /* a run that leaks goes on using it */
    bool clean = false;
    if (memory == NULL) return -ENOMEM;
    memory->fail_at = at;
    memory->fail_on = fail_on;
    int rc = run_once(fn, arg, memory, &faults->result, &clean);
    bool failed = memory->refused > 0;
    if (clean || rc != 0) free(memory);
    if (rc != 0) return rc;
    if (!failed) return clean ? 0 : -EBUSY;
    faults->runs++;
    faults->failed += faults->result != 0;
    if (clean) continue;
    faults->leaked++;
    if (faults->first_leak == 0) faults->first_leak = at;
  }
}
