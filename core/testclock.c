/*
 * testclock.c - a manager on a virtual clock: time goes from one event to the next, and only when it is told to.
 *
 * An event is the first deadline of the manager's wheels, or the time for which a thread blocks on the clock (wait.c puts itself
 * into the list). One thread at a time moves the time, under `moving`: recursive, since the callbacks it runs may move it, too.
 * `lock` guards the list and is never held over a callback; order: moving, then lock.
 *
 * By itself time moves when enough threads are blocked. Whether one is, is computed and not noted: a thread whose context has
 * ended or whose time has come counts as running from that moment on, before it has noticed. So nobody moves the time
 * a second time before it has had its turn.
 */
#define _GNU_SOURCE
#include "manager.h"
#include "tree.h"

#include <pthread.h>
#include <rctx/testing.h>

#define NEED_CLOCK "clock is NULL (expected one of rctx_test_clock_create())"
enum { LOOK_NS = 1000000 };

struct rctx_test_clock {
  rctx_manager *manager;  /* const */
  _Atomic int64_t now_ns; /* atomic: raised under moving, set by anybody */
  pthread_mutex_t moving; /* recursive */
  pthread_mutex_t lock;   /* of what follows */
  pthread_cond_t more;    /* lock: one more is blocked */
  struct rctx__blocked *first;
  unsigned threads; /* time moves by itself when so many are blocked; 0: never */
};

static int64_t read_clock(void *arg) {
  return load_acquire(&((struct rctx_test_clock *)arg)->now_ns); /* partner: rise() */
}

static int64_t now_of(const struct rctx_test_clock *clock) {
  return load_acquire(&((struct rctx_test_clock *)(uintptr_t)clock)->now_ns); /* partner: rise() */
}

static void rise(rctx_test_clock *clock, int64_t to_ns) {
  if (now_of(clock) < to_ns) store_release(&clock->now_ns, to_ns); /* partner: the readers above */
}

/* ---- who is blocked ---------------------------------------------------------------------------------------------- */

/* Lock held, for all of these. */
static bool waits(const struct rctx_test_clock *clock, const struct rctx__blocked *b) {
  uint32_t state = load_acquire(&rctx__mutable(b->ctx)->state); /* partner: mark() */
  return !rctx__done(state) && now_of(clock) < b->until_ns;
}

static unsigned count_blocked(const struct rctx_test_clock *clock) {
  unsigned count = 0;
  for (const struct rctx__blocked *b = clock->first; b; b = b->next) count += !b->moving && waits(clock, b);
  return count;
}

static size_t tell_those_due(const struct rctx_test_clock *clock) {
  size_t told = 0;
  for (struct rctx__blocked *b = clock->first; b; b = b->next) {
    if (b->told || now_of(clock) < b->until_ns) continue;
    b->told = true;
    told++;
    rctx__futex_wake_all(&rctx__mutable(b->ctx)->state);
  }
  return told;
}

static int64_t first_wakeup(const struct rctx_test_clock *clock) {
  int64_t first_ns = INT64_MAX;
  for (const struct rctx__blocked *b = clock->first; b; b = b->next)
    if (b->until_ns < first_ns && waits(clock, b)) first_ns = b->until_ns;
  return first_ns;
}

/* ---- moving the time; moving held -------------------------------------------------------------------------------- */

static size_t arrive(rctx_test_clock *clock, int64_t at_ns) {
  rise(clock, at_ns);
  size_t events = rctx_advance(clock->manager, at_ns, 0);
  pthread_mutex_lock(&clock->lock);
  events += tell_those_due(clock);
  pthread_mutex_unlock(&clock->lock);
  return events;
}

/* To the next event, and adds what it was. False: there is none up to until_ns. */
static bool turn(rctx_test_clock *clock, int64_t until_ns, size_t *events) {
  int64_t next_ns = rctx__timers_first(clock->manager);
  pthread_mutex_lock(&clock->lock);
  int64_t wakeup_ns = first_wakeup(clock);
  pthread_mutex_unlock(&clock->lock);
  if (wakeup_ns < next_ns) next_ns = wakeup_ns;
  if (next_ns == INT64_MAX || next_ns > until_ns) return false;
  *events += arrive(clock, next_ns);
  return true;
}

static size_t step(struct rctx_test_clock *clock) {
  size_t events = 0;
  while (events == 0 && turn(clock, INT64_MAX, &events)) {
  }
  return events;
}

static size_t run(rctx_test_clock *clock, int64_t until_ns) {
  size_t events = 0;
  while (turn(clock, until_ns, &events)) {
  }
  return events;
}

/* ---- for wait.c -------------------------------------------------------------------------------------------------- */

void rctx__test_block(const rctx_manager *manager, struct rctx__blocked *here) {
  struct rctx_test_clock *clock = manager->timers.test_clock;
  pthread_mutex_lock(&clock->lock);
  here->next = clock->first;
  here->prev = &clock->first;
  if (here->next) here->next->prev = &here->next;
  clock->first = here;
  here->told = now_of(clock) >= here->until_ns; /* it does not wait at all: no event */
  pthread_cond_broadcast(&clock->more);
  pthread_mutex_unlock(&clock->lock);
}

void rctx__test_unblock(const rctx_manager *manager, struct rctx__blocked *here) {
  struct rctx_test_clock *clock = manager->timers.test_clock;
  pthread_mutex_lock(&clock->lock);
  *here->prev = here->next;
  if (here->next) here->next->prev = here->prev;
  pthread_mutex_unlock(&clock->lock);
}

/* Returns whether it was its turn: enough are blocked, and this thread still is. */
static bool begin_moving(struct rctx_test_clock *clock, struct rctx__blocked *here) {
  pthread_mutex_lock(&clock->lock);
  bool all = clock->threads > 0 && waits(clock, here) && count_blocked(clock) >= clock->threads;
  here->moving = all;
  pthread_mutex_unlock(&clock->lock);
  return all;
}

bool rctx__test_move(const rctx_manager *manager, struct rctx__blocked *here) {
  struct rctx_test_clock *clock = manager->timers.test_clock;
  if (pthread_mutex_trylock(&clock->moving) != 0) return false; /* another moves it: its callbacks may wait for us */
  bool moved = false;
  if (begin_moving(clock, here)) {
    moved = step(clock) > 0;
    pthread_mutex_lock(&clock->lock);
    here->moving = false;
    pthread_cond_broadcast(&clock->more);
    pthread_mutex_unlock(&clock->lock);
  }
  pthread_mutex_unlock(&clock->moving);
  return moved;
}

/* ---- public ------------------------------------------------------------------------------------------------------ */

static struct rctx_test_clock *clock_new(int64_t start_ns) {
  struct rctx_test_clock *clock = calloc(1, sizeof *clock);
  if (clock == NULL) return NULL;
  pthread_mutexattr_t recursive;
  pthread_mutexattr_init(&recursive);
  pthread_mutexattr_settype(&recursive, PTHREAD_MUTEX_RECURSIVE);
  pthread_mutex_init(&clock->moving, &recursive);
  pthread_mutexattr_destroy(&recursive);
  pthread_mutex_init(&clock->lock, NULL);
  pthread_cond_init(&clock->more, NULL);
  store_relaxed(&clock->now_ns, start_ns); /* nobody else has it yet */
  return clock;
}

static void clock_free(struct rctx_test_clock *clock) {
  pthread_cond_destroy(&clock->more);
  pthread_mutex_destroy(&clock->lock);
  pthread_mutex_destroy(&clock->moving);
  free(clock);
}

int rctx_test_clock_create_with(const struct rctx_manager_options *options, int64_t start_ns, rctx_test_clock **clock) {
  if (misused(options == NULL, "options is NULL") ||
      misused(clock == NULL, "clock is NULL (expected where to write it)"))
    return -EINVAL;
  if (options->now || start_ns < 0) return -EINVAL;
  struct rctx_test_clock *made = clock_new(start_ns);
  if (made == NULL) return -ENOMEM;
  struct rctx_manager_options own = *options;
  own.drive = RCTX_DRIVE_EMBEDDER;
  own.now = read_clock;
  own.now_arg = made;
  int rc = rctx_manager_create(&own, &made->manager);
  if (rc != 0) {
    clock_free(made);
    return rc;
  }
  made->manager->timers.test_clock = made;
  *clock = made;
  return 0;
}

int rctx_test_clock_create(int64_t start_ns, rctx_test_clock **clock) {
  if (misused(clock == NULL, "clock is NULL (expected where to write it)")) return -EINVAL;
  return rctx_test_clock_create_with(&(struct rctx_manager_options){0}, start_ns, clock);
}

int rctx_test_clock_destroy(rctx_test_clock *clock) {
  if (misused(clock == NULL, NEED_CLOCK)) return -EINVAL;
  int rc = rctx_manager_destroy(clock->manager);
  if (rc == 0) clock_free(clock);
  return rc;
}

rctx_manager *rctx_test_clock_manager(const struct rctx_test_clock *clock) {
  return misused(clock == NULL, NEED_CLOCK) ? rctx_manager_default() : clock->manager;
}

const rctx *rctx_test_clock_background(const struct rctx_test_clock *clock) {
  return misused(clock == NULL, NEED_CLOCK) ? rctx_background() : rctx_manager_background(clock->manager);
}

rctx_test_clock *rctx_test_clock_of(const rctx_manager *manager) {
  return misused(manager == NULL, "manager is NULL") ? NULL : manager->timers.test_clock;
}

int64_t rctx_test_clock_now(const struct rctx_test_clock *clock) {
  return misused(clock == NULL, NEED_CLOCK) ? -EINVAL : now_of(clock);
}

void rctx_test_clock_set(rctx_test_clock *clock, int64_t now_ns) {
  if (misused(clock == NULL, NEED_CLOCK)) return;
  pthread_mutex_lock(&clock->moving);
  rctx__timers_rewind(clock->manager, now_ns);
  store_release(&clock->now_ns, now_ns); /* partner: now_of() */
  pthread_mutex_unlock(&clock->moving);
}

size_t rctx_test_clock_advance(rctx_test_clock *clock, int64_t ns) {
  if (misused(clock == NULL, NEED_CLOCK) || ns < 0) return 0;
  pthread_mutex_lock(&clock->moving);
  int64_t until_ns = rctx__add_ns(now_of(clock), ns);
  size_t events = run(clock, until_ns);
  events += arrive(clock, until_ns);
  pthread_mutex_unlock(&clock->moving);
  return events;
}

size_t rctx_test_clock_step(struct rctx_test_clock *clock) {
  if (misused(clock == NULL, NEED_CLOCK)) return 0;
  pthread_mutex_lock(&clock->moving);
  size_t events = step(clock);
  pthread_mutex_unlock(&clock->moving);
  return events;
}

size_t rctx_test_clock_run(rctx_test_clock *clock, int64_t until_ns) {
  if (misused(clock == NULL, NEED_CLOCK)) return 0;
  pthread_mutex_lock(&clock->moving);
  size_t events = run(clock, until_ns);
  pthread_mutex_unlock(&clock->moving);
  return events;
}

void rctx_test_clock_auto(struct rctx_test_clock *clock, unsigned threads) {
  if (misused(clock == NULL, NEED_CLOCK)) return;
  pthread_mutex_lock(&clock->lock);
  clock->threads = threads;
  pthread_mutex_unlock(&clock->lock);
}

int rctx_test_clock_waiters(struct rctx_test_clock *clock, unsigned threads, int64_t patience_ns) {
  if (misused(clock == NULL, NEED_CLOCK)) return -EINVAL;
  int64_t give_up_ns = rctx__add_ns(rctx__monotonic_ns(), patience_ns);
  pthread_mutex_lock(&clock->lock);
  bool enough;
  while (!(enough = count_blocked(clock) >= threads) && rctx__monotonic_ns() < give_up_ns) {
    int64_t look_ns = rctx__monotonic_ns() + LOOK_NS; /* the time may have been set back: nobody tells of that */
    struct timespec until = {look_ns / 1000000000, look_ns % 1000000000};
    pthread_cond_clockwait(&clock->more, &clock->lock, CLOCK_MONOTONIC, &until);
  }
  pthread_mutex_unlock(&clock->lock);
  return enough ? 0 : -ETIMEDOUT;
}
