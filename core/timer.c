/* timer.c - see timer.h. */
#include "timer.h"

#include "manager.h"
#include "probes.h"

#include <string.h>

enum { COLLECT = 64, WORK_PER_LOCK = 256, PREPARE_PER_TURN = 2048, SHARDS_MAX = 64 };

/* ---- ns and ticks ------------------------------------------------------------------------------------------------ */

/* ns / tick_ns by multiplication: the reciprocal is rounded down, so the estimate is at most one or two too small. */
static uint64_t ticks_floor(const struct rctx__timers *timers, uint64_t ns) {
  uint64_t tick = (uint64_t)timers->tick_ns;
  uint64_t q = (uint64_t)(((unsigned __int128)ns * timers->tick_reciprocal) >> 64);
  while (ns - q * tick >= tick) q++;
  return q;
}

/* A deadline rounds up, the clock rounds down: never early. A clock before 0 counts as 0. */
static uint64_t deadline_tick(const struct rctx__timers *timers, int64_t ns) {
  if (ns <= 0) return 0;
  return ticks_floor(timers, (uint64_t)ns - 1) + 1;
}
static uint64_t clock_tick(const struct rctx__timers *timers, int64_t ns) {
  return ns <= 0 ? 0 : ticks_floor(timers, (uint64_t)ns);
}
static int64_t tick_ns(const struct rctx__timers *timers, uint64_t tick) {
  int64_t ns;
  if (tick > INT64_MAX || __builtin_mul_overflow((int64_t)tick, timers->tick_ns, &ns)) return INT64_MAX;
  return ns;
}

static struct rctx *node_of(struct rctx__wheel_entry *entry) {
  return (struct rctx *)(void *)((char *)entry - offsetof(struct rctx, timer));
}

/* ---- the driver -------------------------------------------------------------------------------------------------- */

static COLD void kick(struct rctx__timers *timers) {
  if (timers->drive == RCTX_DRIVE_THREAD) {
    add_seq_cst(&timers->kick_sequence, 1U); /* partner: the sequence the driver read before its scan */
    rctx__futex_wake_all(&timers->kick_sequence);
  } else if (exchange_acq_rel(&timers->kick_wanted, 0U) && timers->kick) { /* partner: the store in rctx_next() */
    timers->kick(timers->kick_arg);
  }
}

/* Steps 2 to 4 of the handshake. */
static int64_t first_event(struct rctx__timers *timers, bool going_to_sleep) {
  if (going_to_sleep)
    store_relaxed(&timers->sleep_until_ns, RCTX__NEVER); /* ordered before the armers' reads by each shard's lock */
  struct rctx__shard *shards = load_acquire(&timers->shards); /* partner: shards_make() */
  uint64_t first = WHEEL_NEVER;
  for (unsigned i = 0; shards && i < timers->shard_count; i++) {
    rctx__take(&shards[i].lock);
    uint64_t next = rctx__wheel_next(&shards[i].wheel);
    rctx__unlock(&shards[i].lock);
    if (next < first) first = next;
  }
  int64_t until = first == WHEEL_NEVER ? RCTX__NEVER : tick_ns(timers, first);
  if (going_to_sleep)
    store_relaxed(&timers->sleep_until_ns, until); /* only lowers it: a reader of the old value kicks needlessly */
  return until;
}

static uint64_t tick_due(struct rctx__wheel_entry *entry, const void *timers) {
  int64_t deadline_ns = rctx__own_deadline(node_of(entry));
  return deadline_ns == INT64_MAX ? WHEEL_NEVER : deadline_tick(timers, deadline_ns);
}

int64_t rctx__timers_first(struct rctx_manager *manager) {
  struct rctx__timers *timers = &manager->timers;
  struct rctx__shard *shards = load_acquire(&timers->shards); /* partner: shards_make() */
  uint64_t first = WHEEL_NEVER;
  for (unsigned i = 0; shards && i < timers->shard_count; i++) {
    rctx__take(&shards[i].lock);
    uint64_t next = rctx__wheel_first(&shards[i].wheel, tick_due, timers);
    rctx__unlock(&shards[i].lock);
    if (next < first) first = next;
  }
  return first == WHEEL_NEVER ? RCTX__NEVER : tick_ns(timers, first);
}

void rctx__timers_rewind(struct rctx_manager *manager, int64_t now_ns) {
  struct rctx__timers *timers = &manager->timers;
  struct rctx__shard *shards = load_acquire(&timers->shards); /* partner: shards_make() */
  for (unsigned i = 0; shards && i < timers->shard_count; i++) {
    rctx__take(&shards[i].lock);
    rctx__wheel_rewind(&shards[i].wheel, clock_tick(timers, now_ns));
    rctx__unlock(&shards[i].lock);
  }
}

/* A deadline that was moved later while its timer stood where it was: put the timer there. */
static bool put_off_locked(const struct rctx__timers *timers, struct rctx__shard *shard, struct rctx *node,
                           uint64_t to) {
  uint64_t tick = deadline_tick(timers, rctx__own_deadline(node)); /* a touch that comes later is too late */
  if (tick <= to) return false;
  node->timer.tick = tick;
  rctx__wheel_add(&shard->wheel, &node->timer);
  return true;
}

/* Take up to `max` due nodes out of a shard, each pinned. *more: stopped before the shard was done. *crowded: it is, and there is
 * more to prepare than the rest of this visit was enough for. */
static size_t collect(const struct rctx__timers *timers, struct rctx__shard *shard, uint64_t to, struct rctx **due,
                      size_t max, bool *more, bool *crowded) {
  size_t n = 0;
  size_t work = WORK_PER_LOCK;
  rctx__take(&shard->lock);
  while (n < max && work > 0) {
    struct rctx__wheel_entry *entry = rctx__wheel_advance(&shard->wheel, to, &work);
    if (entry == NULL) break;
    struct rctx *node = node_of(entry);
    if (unlikely(node->own & OWN_MOVABLE) && put_off_locked(timers, shard, node, to)) continue;
    shard->armed--;
    bool pinned = rctx__pin(node);
    store_release(&node->timer_state,
                  (uint8_t)TIMER_FIRED); /* partner: disarm, which may free the unpinned node then */
    if (pinned) due[n++] = node;
  }
  *more = n == max || work == 0;
  *crowded = !*more && rctx__wheel_prepare(&shard->wheel, work) == 0;
  rctx__unlock(&shard->lock);
  return n;
}

static size_t advance_shard(const struct rctx__timers *timers, struct rctx__shard *shard, uint64_t to, size_t budget,
                            bool *crowded) {
  struct rctx *due[COLLECT];
  size_t done = 0;
  bool more = true;
  while (more && done < budget) {
    size_t room = budget - done < COLLECT ? budget - done : COLLECT;
    size_t n = collect(timers, shard, to, due, room, &more, crowded);
    for (size_t i = 0; i < n; i++) {
      if (rctx__finish(due[i], due[i]->deadline_code | ORIGIN_OWN | STATE_TIMED_OUT))
        PROBE_2(deadline, due[i], -(int)due[i]->deadline_code);
      rctx__drop(due[i]);
    }
    done += n;
  }
  return done;
}

/* Prepare a crowded shard further for the ticks to come: each time a little, so that it delays nothing that is due by much. */
static void prepare_shard(struct rctx__shard *shard) {
  size_t left = 0;
  for (size_t work = WORK_PER_LOCK; work < PREPARE_PER_TURN && left == 0; work += WORK_PER_LOCK) {
    rctx__take(&shard->lock);
    left = rctx__wheel_prepare(&shard->wheel, WORK_PER_LOCK);
    rctx__unlock(&shard->lock);
  }
}

static size_t advance(struct rctx_manager *manager, int64_t now_ns, size_t budget) {
  struct rctx__timers *timers = &manager->timers;
  struct rctx__shard *shards = load_acquire(&timers->shards); /* partner: shards_make() */
  uint64_t to = clock_tick(timers, now_ns);
  size_t done = 0;
  uint64_t crowded = 0; /* a bit per shard */
  if (shards == NULL) return 0;
  uint32_t process = load_relaxed(&rctx__process); /* changes with one thread only */
  rctx__begin(manager,
              &manager->busy); /* before the first mark: who sees an end and then quiesces waits for our pins */
  for (unsigned i = 0; i < timers->shard_count && done < budget; i++) {
    bool is_crowded = false;
    done += advance_shard(timers, &shards[i], to, budget - done, &is_crowded);
    crowded |= (uint64_t)is_crowded << i;
  }
  for (; crowded; crowded &= crowded - 1) prepare_shard(&shards[__builtin_ctzll(crowded)]);
  if (process == load_relaxed(&rctx__process))
    rctx__finished(&manager->busy); /* else: the child of a fork in a callback */
  return done;
}

size_t rctx_advance(rctx_manager *manager, int64_t now_ns, size_t budget) {
  if (misused(manager == NULL, "manager is NULL")) return 0;
  return advance(manager, now_ns, budget ? budget : SIZE_MAX);
}

int64_t rctx_next(rctx_manager *manager, int64_t now_ns) {
  if (misused(manager == NULL, "manager is NULL")) return RCTX__NEVER;
  (void)now_ns;                                                  /* the wheels know the first event without it */
  exchange_acq_rel(&manager->timers.kick_wanted, 1U);            /* partner: kick() */
  bool is_driver = manager->timers.drive == RCTX_DRIVE_EMBEDDER; /* else the thread's own word must stay as it is */
  return first_event(&manager->timers, is_driver);
}

static void driver(void *arg) {
  struct rctx_manager *manager = arg;
  struct rctx__timers *timers = &manager->timers;
  for (;;) {
    uint32_t sequence = load_seq_cst(&timers->kick_sequence); /* step 1; partner: kick() */
    if (load_acquire(&timers->stopping)) return;              /* partner: rctx__timers_fini() */
    if (advance(manager, rctx__now(manager), SIZE_MAX)) rctx__memory_give_back(manager);
    int64_t until = first_event(timers, true);
    if (until > rctx__now(manager)) rctx__futex_wait(&timers->kick_sequence, sequence, until);
    store_relaxed(&timers->sleep_until_ns, INT64_MIN); /* at work: saves kicks; a late reader kicks needlessly */
  }
}

static COLD int driver_start(struct rctx_manager *manager) {
  int rc = 0;
  rctx__registry_lock();
  if (!load_relaxed(&manager->timers.thread_on)) { /* only written under this mutex */
    rc = rctx__thread_start(&manager->timers.thread, "rctx-timer", driver, manager);
    if (rc == 0) store_release(&manager->timers.thread_on, 1U); /* partner: rctx__timer_arm() */
  }
  rctx__registry_unlock();
  return rc;
}

/* ---- arming ------------------------------------------------------------------------------------------------------ */

static COLD struct rctx__shard *shards_make(struct rctx_manager *manager) {
  struct rctx__timers *timers = &manager->timers;
  unsigned count = 1;
  while (count < 4 * rctx__cpu_count() && count < SHARDS_MAX) count *= 2;
  struct rctx__shard *fresh = rctx__raw_alloc(manager, count * sizeof *fresh, CACHE_LINE);
  if (fresh == NULL) return NULL;
  memset(fresh, 0, count * sizeof *fresh);
  uint64_t now = clock_tick(timers, rctx__now(manager));
  for (unsigned i = 0; i < count; i++) fresh[i].wheel.now = now;
  rctx__registry_lock();
  struct rctx__shard *shards = load_relaxed(&timers->shards); /* only written under this mutex */
  if (shards == NULL) {
    timers->shard_count = count;
    store_release(&timers->shards, fresh); /* partners: the acquire loads of timers->shards */
    shards = fresh;
    fresh = NULL;
  }
  rctx__registry_unlock();
  if (fresh) rctx__raw_free(manager, fresh, count * sizeof *fresh);
  return shards;
}

int rctx__timer_arm(struct rctx *node) {
  struct rctx_manager *manager = node->manager;
  struct rctx__timers *timers = &manager->timers;
  struct rctx__shard *shards = load_acquire(&timers->shards); /* partner: shards_make() */
  bool first = shards == NULL; /* a driver that looked before saw no shard to lock, hence was not ordered with us */
  if (unlikely(first) && (shards = shards_make(manager)) == NULL) return -ENOMEM;
  if (timers->drive == RCTX_DRIVE_THREAD && unlikely(!load_acquire(&timers->thread_on))) { /* partner: driver_start() */
    int rc = driver_start(manager);
    if (rc != 0) return rc;
  }
  struct rctx__heap *heap = rctx__heap_here;
  node->timer_shard = (uint8_t)((heap ? heap->index : 0) & (timers->shard_count - 1));
  struct rctx__shard *shard = &shards[node->timer_shard];
  uint64_t tick = deadline_tick(timers, load_relaxed(&node->deadline_ns)); /* nobody else has the node yet */
  rctx__take(&shard->lock);
  if (unlikely(tick <= shard->wheel.now)) { /* the driver has been there already */
    rctx__unlock(&shard->lock);
    return ARM_DUE;
  }
  node->timer.tick = tick;
  rctx__wheel_add(&shard->wheel, &node->timer);
  shard->armed++;
  store_relaxed(&node->timer_state, (uint8_t)TIMER_ARMED); /* re-read under this lock before it is relied on */
  bool earlier = tick_ns(timers, tick) < load_relaxed(&timers->sleep_until_ns); /* under the lock: see timer.h */
  rctx__unlock(&shard->lock);
  if (unlikely(earlier || first)) kick(timers);
  return ARM_DONE;
}

bool rctx__timer_move(struct rctx *node, int64_t deadline_ns) {
  struct rctx__timers *timers = &node->manager->timers;
  struct rctx__shard *shards = load_acquire(&timers->shards); /* partner: shards_make() */
  if (shards == NULL) return false;
  struct rctx__shard *shard = &shards[node->timer_shard];
  uint64_t tick = deadline_tick(timers, deadline_ns);
  bool earlier = false;
  rctx__take(&shard->lock);
  bool armed = load_relaxed(&node->timer_state) == TIMER_ARMED; /* under its lock */
  bool due = tick <= shard->wheel.now;
  if (armed) { /* due, too: the walk below compares with the time that has passed */
    store_relaxed(&node->deadline_ns, deadline_ns);            /* read under this lock when the timer fires */
    struct rctx__ext *ext = load_acquire(&node->ext);          /* partner: rctx__ext_get() */
    if (ext) store_release(&ext->touched_until_ns, INT64_MIN); /* after the deadline; partner: rctx__own_deadline() */
    if (!due && tick < node->timer.tick) {                     /* later ones are put off when it fires */
      rctx__wheel_remove(&shard->wheel, &node->timer);
      node->timer.tick = tick;
      rctx__wheel_add(&shard->wheel, &node->timer);
      earlier = tick_ns(timers, tick) < load_relaxed(&timers->sleep_until_ns); /* under the lock: see timer.h */
    }
  }
  rctx__unlock(&shard->lock);
  if (unlikely(earlier)) kick(timers);
  return armed && !due;
}

bool rctx__timer_disarm_slow(struct rctx *node) {
  if (load_acquire(&node->timer_state) == TIMER_FIRED) return false; /* final; partner: collect() */
  struct rctx__shard *shard =
      &load_acquire(&node->manager->timers.shards)[node->timer_shard]; /* partner: shards_make() */
  rctx__take(&shard->lock);
  uint8_t state = load_relaxed(&node->timer_state); /* under its lock */
  if (state == TIMER_ARMED) {
    rctx__wheel_remove(&shard->wheel, &node->timer);
    shard->armed--;
    store_release(&node->timer_state, (uint8_t)TIMER_NONE); /* the last touch of the node here; partner: disarm */
  }
  rctx__unlock(&shard->lock);
  return state != TIMER_FIRED;
}

size_t rctx__timers_armed(const struct rctx_manager *manager) {
  struct rctx__shard *shards = load_acquire(&manager->timers.shards); /* partner: shards_make() */
  size_t armed = 0;
  for (unsigned i = 0; shards && i < manager->timers.shard_count; i++) {
    rctx__take(&shards[i].lock);
    armed += shards[i].armed;
    rctx__unlock(&shards[i].lock);
  }
  return armed;
}

void rctx__timers_fini(struct rctx_manager *manager) {
  struct rctx__timers *timers = &manager->timers;
  if (load_relaxed(&timers->thread_on)) { /* nobody else uses the manager any more */
    store_release(&timers->stopping, 1U); /* partner: driver() */
    kick(timers);
    rctx__thread_join(&timers->thread);
  }
  struct rctx__shard *shards = load_relaxed(&timers->shards); /* as above */
  if (shards) rctx__raw_free(manager, shards, timers->shard_count * sizeof *shards);
}

void rctx__timers_after_fork(struct rctx_manager *manager) {
  if (!load_relaxed(&manager->timers.thread_on)) return; /* one thread here */
  store_relaxed(&manager->timers.thread_on, 0U);         /* as above */
  store_relaxed(&manager->timers.sleep_until_ns, INT64_MIN);
  if (rctx__timers_armed(manager) > 0) driver_start(manager); /* if it can not be had now, the next timer tries again */
}
