/*
 * manager.c - making, driving and destroying managers; the deferred list; fork.
 *
 * Lifetime: a manager outlives its contexts (destroy refuses otherwise) and everything deferred or running (destroy
 * quiesces first). The default manager is static and never destroyed.
 * Fork: an atfork handler, installed with the first heap, takes the registry mutex, liburcu's door (rcu.c) and every
 * manager's short locks, so that in the child these are free and the wheels and pools whole.
 */
#define _GNU_SOURCE
#include "manager.h"

#include "after.h"
#include "rcu.h"

#include <pthread.h>
#include <string.h>

enum { DEFERRED_MAX = 256, POLL_NS = 100000, DESTROY_WAIT_NS = 2000000000 };

#define ROOT(manager_)                                                                                                 \
  {                                                                                                                    \
    .state = STATE_ENDLESS | STATE_WALKED, .refs = 1, .manager = (manager_), .deadline_ns = INT64_MAX,                 \
    .kind = NODE_ROOT                                                                                                  \
  }

struct rctx_manager rctx__default_manager = {
    .root = ROOT(&rctx__default_manager),
    .memory = RCTX__MEMORY_INIT,
    .timers = RCTX__TIMERS_INIT(TICK_DEFAULT_NS),
    .callbacks = {.wake = {.fd = -1}, .refs = 1},
    .workers = RCTX__WORKERS_INIT(THREADS_MAX_DEFAULT, 0),
};
static struct rctx todo = ROOT(&rctx__default_manager);

const rctx *rctx_background(void) { return &rctx__default_manager.root; }
const rctx *rctx_todo(void) { return &todo; }
rctx_manager *rctx_manager_default(void) { return &rctx__default_manager; }

/* ---- the list of managers, and fork ------------------------------------------------------------------------------ */

static struct rctx_manager *all_managers; /* registry mutex */

static void each_short_lock(void (*act)(rctx__lock *lock)) {
  for (struct rctx_manager *m = all_managers; m; m = m->next) {
    for (int c = 0; c < CLASSES; c++) act(&m->memory.pools[c].lock);
    struct rctx__shard *shards = load_relaxed(&m->timers.shards); /* written under the registry mutex */
    for (unsigned i = 0; shards && i < m->timers.shard_count; i++) act(&shards[i].lock);
    act(&m->callbacks.lock);
    act(&m->workers.lock);
    act(&m->deferred_lock);
  }
}

static void before_fork(void) {
  rctx__registry_lock();
  rctx__rcu_before_fork();
  each_short_lock(rctx__take);
  rctx__leaks_take_lock();
}

static void after_fork(void) {
  rctx__leaks_drop_lock();
  each_short_lock(rctx__unlock);
  rctx__rcu_after_fork();
  rctx__registry_unlock();
}

void rctx__manager_list_locked(struct rctx_manager *manager) {
  static bool handlers_installed; /* registry mutex. No memory for them: the next manager, or thread, tries again */
  if (!handlers_installed) handlers_installed = pthread_atfork(before_fork, after_fork, after_fork) == 0;
  if (load_relaxed(&manager->listed)) return; /* under the registry mutex */
  manager->next = all_managers;
  all_managers = manager;
  store_relaxed(&manager->listed, 1U); /* as above; last, for a fork in the middle */
}

static void unlist(struct rctx_manager *manager) {
  rctx__registry_lock();
  for (struct rctx_manager **at = &all_managers; *at; at = &(*at)->next) {
    if (*at == manager) {
      *at = manager->next;
      break;
    }
  }
  rctx__registry_unlock();
}

/* A fork that had begun when the first thread of all installed the handlers has not run them: then the locks are as that
 * thread held them. It is gone; what it did under them is ordered so that half of it does no harm. */
static void forget_holder(rctx__lock *lock) { store_relaxed(lock, 0U); /* one thread here */ }

void rctx_after_fork_child(void) {
  add_relaxed(&rctx__process, 1U); /* one thread here: nothing to order */
  rctx__registry_reset();
  rctx__rcu_forget_readers();
  rctx__callbacks_after_fork();
  each_short_lock(forget_holder);
  rctx__leaks_forget_lock();
  for (struct rctx_manager *m = all_managers; m; m = m->next) { /* one thread: nothing to order */
    store_relaxed(&m->running, 0U);                             /* before threads start that raise them */
    store_relaxed(&m->busy, 0U);
    store_relaxed(&m->tasks, 0U); /* those of embedders' threads, too */
    store_relaxed(&m->orphans, 0U);
    rctx__workers_after_fork(&m->workers);
    rctx__timers_after_fork(m);
    if (!load_relaxed(&m->callback_thread_on)) continue;
    store_relaxed(&m->callback_thread_on, 0U);
    if (rctx__any_after(m))
      rctx__callback_thread_start(m); /* if it can not be had now, the next registration tries again */
  }
  rctx__signals_after_fork();
}

/* ---- the callback thread ----------------------------------------------------------------------------------------- */

static void run_callbacks(void *arg) {
  struct rctx_manager *manager = arg;
  for (;;) {
    uint32_t sequence = load_seq_cst(&manager->callbacks.sequence); /* partner: rctx__queue_signal() */
    if (load_acquire(&manager->stopping)) return;                   /* partner: rctx_manager_destroy() */
    if (rctx__queue_drain(&manager->callbacks, SIZE_MAX) == 0) {
      rctx__futex_wait(&manager->callbacks.sequence, sequence, RCTX__NEVER);
    }
  }
}

int rctx__callback_thread_start(struct rctx_manager *manager) {
  if (likely(load_acquire(&manager->callback_thread_on))) return 0; /* partner: the store below */
  int rc = 0;
  rctx__registry_lock();
  if (!load_relaxed(&manager->callback_thread_on)) { /* written under this mutex */
    rc = rctx__thread_start(&manager->callback_thread, "rctx-callbacks", run_callbacks, manager);
    if (rc == 0) store_release(&manager->callback_thread_on, 1U); /* partner: the load above */
  }
  rctx__registry_unlock();
  return rc;
}

/* ---- deferred memory --------------------------------------------------------------------------------------------- */

static void reclaim(struct rctx_manager *manager, bool block) {
  rctx__begin(manager, &manager->busy); /* quiesce waits for what we are about to hold */
  rctx__take(&manager->deferred_lock);
  rctx *list = manager->deferred;
  manager->deferred = NULL;
  store_release(&manager->deferred_count, 0U); /* under the lock; partner: quiet() */
  rctx__unlock(&manager->deferred_lock);
  if (list && !rctx__rcu_wait(block)) { /* later */
    uint32_t n = 1;
    rctx *last = list;
    for (; last->link; last = last->link) n++;
    rctx__take(&manager->deferred_lock);
    last->link = manager->deferred;
    manager->deferred = list;
    store_relaxed(&manager->deferred_count, load_relaxed(&manager->deferred_count) + n); /* under the lock */
    rctx__unlock(&manager->deferred_lock);
    list = NULL;
  }
  for (rctx *next; list; list = next) {
    next = list->link;
    rctx__node_free(list);
  }
  rctx__finished(&manager->busy);
}

void rctx__defer(struct rctx *node) {
  struct rctx_manager *manager = node->manager;
  rctx__take(&manager->deferred_lock);
  node->link = manager->deferred;
  manager->deferred = node;
  uint32_t count = load_relaxed(&manager->deferred_count) + 1; /* under the lock */
  store_relaxed(&manager->deferred_count, count);
  rctx__unlock(&manager->deferred_lock);
  if (count >= DEFERRED_MAX && count % DEFERRED_MAX == 0) reclaim(manager, false);
}

/* ---- quiesce, trim, statistics ----------------------------------------------------------------------------------- */

/* What leaves a count has raised `begun` before, and what it left behind is there when its own count falls: so nothing can pass
 * from one count to another unseen while we read them. Partners: rctx__finished(), unlink_locked(), reclaim(). */
static bool quiet(const struct rctx_manager *manager) {
  uint32_t begun = load_acquire(&manager->begun); /* partners: rctx__begin() and what releases after it */
  if (load_acquire(&manager->callbacks.length) != 0) return false; /* partner: claim_first_locked() */
  if (load_acquire(&manager->deferred_count) != 0) return false;   /* partner: reclaim() */
  if (load_acquire(&manager->running) != 0 || load_acquire(&manager->busy) != 0) return false; /* rctx__finished() */
  if (load_acquire(&manager->tasks) != 0 || load_acquire(&manager->workers.busy) != 0) return false; /* as above */
  return load_acquire(&manager->callbacks.length) == 0 && load_acquire(&manager->deferred_count) == 0 &&
         load_relaxed(&manager->begun) == begun; /* after the acquires above */
}

int rctx_quiesce(rctx_manager *manager, int64_t until_ns) {
  if (misused(manager == NULL, "manager is NULL")) return -EINVAL;
  if (rctx__in_callback_of(manager)) return -EDEADLK;
  for (;;) {
    if (load_relaxed(&manager->deferred_count) > 0) reclaim(manager, true); /* a hint; quiet() decides */
    if (quiet(manager)) return 0;
    int64_t now_ns = rctx__monotonic_ns();
    if (now_ns >= until_ns) return -ETIMEDOUT;
    uint32_t begun = load_relaxed(&manager->begun); /* nobody wakes us: only the nap counts */
    rctx__futex_wait(&manager->begun, begun, now_ns + POLL_NS);
  }
}

size_t rctx_trim(rctx_manager *manager) {
  if (misused(manager == NULL, "manager is NULL")) return 0;
  if (load_relaxed(&manager->deferred_count) > 0) reclaim(manager, false); /* a hint */
  return rctx__memory_trim(manager);
}

void rctx_stats(const rctx_manager *manager, struct rctx_stats *stats) {
  if (misused(manager == NULL, "manager is NULL") || misused(stats == NULL, "stats is NULL")) return;
  int64_t contexts = rctx__memory_contexts(manager) - load_relaxed(&manager->deferred_count); /* a moment's count */
  /* Counts of a moment: nothing is ordered by them. */
  uint32_t threads = load_relaxed(&manager->timers.thread_on) + load_relaxed(&manager->callback_thread_on) +
                     rctx__workers_threads(&manager->workers);
  *stats = (struct rctx_stats){.contexts = contexts > 0 ? (size_t)contexts : 0,
                               .timers = rctx__timers_armed(manager),
                               .deferred = load_relaxed(&manager->deferred_count),
                               .callbacks = load_relaxed(&manager->running) + load_relaxed(&manager->callbacks.length),
                               .tasks = load_relaxed(&manager->tasks) + load_relaxed(&manager->workers.busy),
                               .orphans = load_relaxed(&manager->orphans),
                               .threads = threads,
                               .bytes = load_relaxed(&manager->memory.bytes)};
}

/* ---- create and destroy ------------------------------------------------------------------------------------------ */

static bool options_valid(const struct rctx_manager_options *options) {
  if (options->now && options->drive != RCTX_DRIVE_EMBEDDER) return false;
  if (options->executor && options->executor->submit == NULL) return false;
  if (options->drive != RCTX_DRIVE_THREAD && options->drive != RCTX_DRIVE_EMBEDDER) return false;
  if ((options->allocator.alloc == NULL) != (options->allocator.free == NULL)) return false;
  return options->tick_ns == 0 || (options->tick_ns >= TICK_MIN_NS && options->tick_ns <= TICK_MAX_NS);
}

int rctx_manager_create(const struct rctx_manager_options *options, rctx_manager **manager) {
  if (misused(options == NULL, "options is NULL") ||
      misused(manager == NULL, "manager is NULL (expected where to write it)")) {
    return -EINVAL;
  }
  if (!options_valid(options)) return -EINVAL;
  struct rctx_manager *made = NULL;
  if (posix_memalign((void **)&made, 128, sizeof *made) != 0) return -ENOMEM;
  int64_t tick_ns = options->tick_ns ? options->tick_ns : TICK_DEFAULT_NS;
  memset(made, 0, sizeof *made);
  made->root = (struct rctx)ROOT(made);
  made->memory = (struct rctx__memory)RCTX__MEMORY_INIT;
  made->memory.allocator = options->allocator;
  made->memory.uncached |= options->uncached;
  made->timers = (struct rctx__timers)RCTX__TIMERS_INIT(tick_ns);
  made->timers.drive = options->drive;
  made->timers.clock = options->now;
  made->timers.clock_arg = options->now_arg;
  made->timers.kick = options->kick;
  made->timers.kick_arg = options->kick_arg;
  made->memory.bytes_max = options->bytes_max;
  made->callbacks = (struct rctx__queue){.wake = {.fd = -1}, .refs = 1};
  made->executor = options->executor;
  made->workers = (struct rctx__workers)RCTX__WORKERS_INIT(
      options->threads_max ? options->threads_max : THREADS_MAX_DEFAULT, options->tasks_max);
  *manager = made;
  return 0;
}

static bool in_use(const struct rctx_manager *manager) {
  return rctx__memory_contexts(manager) > 0 || load_acquire(&manager->tasks) > 0 || /* partners: rctx__finished() */
         load_acquire(&manager->workers.busy) > 0;
}

int rctx_manager_destroy(rctx_manager *manager) {
  if (misused(manager == NULL, "manager is NULL") || manager == &rctx__default_manager) return -EINVAL;
  if (rctx__in_callback_of(manager)) return -EDEADLK;
  if (in_use(manager)) { /* perhaps only pins of an expiry or a cancel that is just ending, or a task that is */
    rctx_quiesce(manager, rctx__add_ns(rctx__monotonic_ns(), DESTROY_WAIT_NS));
    if (in_use(manager)) return -EBUSY;
  }
  rctx_quiesce(manager, INT64_MAX);
  unlist(manager);                                  /* before anything is freed that the fork handlers touch */
  if (load_relaxed(&manager->callback_thread_on)) { /* nobody else uses the manager any more */
    store_release(&manager->stopping, 1U);          /* partner: run_callbacks() */
    add_seq_cst(&manager->callbacks.sequence, 1U);  /* as rctx__queue_signal() */
    rctx__futex_wake_all(&manager->callbacks.sequence);
    rctx__thread_join(&manager->callback_thread);
  }
  rctx__workers_fini(&manager->workers);
  rctx__timers_fini(manager);
  rctx__memory_fini(manager);
  free(manager);
  return 0;
}

const rctx *rctx_manager_background(const rctx_manager *manager) {
  if (misused(manager == NULL, "manager is NULL")) return rctx_background();
  return &manager->root;
}

rctx_manager *rctx_manager_of(const rctx *ctx) {
  if (misused(ctx == NULL, "ctx is NULL (expected a context)")) return NULL;
  return ctx->manager;
}

int64_t rctx_manager_now(const rctx_manager *manager) {
  if (misused(manager == NULL, "manager is NULL")) return -EINVAL;
  return rctx__now(manager);
}

/* ---- the article's six operations -------------------------------------------------------------------------------- */

#define NEED_MANAGER "manager is NULL (expected one; the usual is rctx_manager_default())"
#define NEED_PARENT "parent is NULL (expected a context; a root is rctx_background())"
#define NEED_CTX "ctx is NULL (expected a context)"
#define NEED_KEY "key is NULL (expected the address of an rctx_key)"

rctx *rctx_manager_create_cancellable(rctx_manager *manager, const rctx *parent) {
  if (misused(manager == NULL, NEED_MANAGER) || misused(parent == NULL, NEED_PARENT)) return rctx_with_cancel(NULL);
  return rctx_derive(parent, &(struct rctx_spec){.manager = manager});
}

rctx *rctx_manager_create_timeout(rctx_manager *manager, const rctx *parent, int64_t timeout_ns) {
  if (misused(manager == NULL, NEED_MANAGER) || misused(parent == NULL, NEED_PARENT)) return rctx_with_cancel(NULL);
  return rctx_derive(parent, &(struct rctx_spec){.manager = manager, .timeout_ns = RCTX_BUDGET(timeout_ns)});
}

rctx *rctx_manager_add_value(rctx_manager *manager, const rctx *parent, const struct rctx_key *key, void *value) {
  if (misused(manager == NULL, NEED_MANAGER) || misused(parent == NULL, NEED_PARENT) || misused(key == NULL, NEED_KEY))
    return rctx_with_cancel(NULL);
  return rctx__with_values(manager, parent, &(struct rctx_value){key, value, NULL}, 1);
}

bool rctx_manager_get_value(rctx_manager *manager, const rctx *ctx, const struct rctx_key *key, void **value) {
  if (misused(manager == NULL, NEED_MANAGER) || misused(ctx == NULL, NEED_CTX) || misused(key == NULL, NEED_KEY) ||
      misused(value == NULL, "value is NULL (expected where to write it)")) {
    return false;
  }
  return rctx_get(ctx, key, value);
}

int rctx_manager_execute(rctx_manager *manager, const rctx *ctx, rctx_work_fn fn, void *arg, void (*cleanup)(void *arg),
                         enum rctx_outcome *outcome) {
  if (misused(manager == NULL, NEED_MANAGER) || misused(ctx == NULL, NEED_CTX))
    return rctx__not_started(-EINVAL, arg, cleanup, outcome);
  if (fn == NULL) return rctx__not_started(-EINVAL, arg, cleanup, outcome);
  return rctx__execute(manager, ctx, fn, arg, cleanup, outcome);
}

int rctx_manager_wait_for_completion(rctx_manager *manager, const rctx *ctx, int64_t duration_ns) {
  if (misused(manager == NULL, NEED_MANAGER) || misused(ctx == NULL, NEED_CTX)) return -EINVAL;
  return rctx__sleep_on(manager, ctx, duration_ns);
}
