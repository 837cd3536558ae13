/*
 * rctx/manager.h - who drives time, whose memory it is, and who runs the work.
 *
 * A manager owns a clock, timer wheels, memory, an executor (executor.h) and their limits. Several can live in one process; contexts derived from a manager's
 * root belong to it. The default manager behind rctx_background() is made on first use: CLOCK_MONOTONIC, malloc or
 * jemalloc if the process has it, and one timer thread that is started by the first timer and not before.
 *
 * What the library does not do: no thread unless one of these is used: a timer on a manager in RCTX_DRIVE_THREAD,
 * rctx_after(), rctx_cond_wait(), rctx_with_signal(), or work for the manager's own pool (rctx_execute(), groups); no signal
 * handler but rctx_with_signal()'s; no output; no constructor. Threads it starts are named, block all signals, and are
 * joined by rctx_manager_destroy(). The shared library stays mapped after dlclose (it is linked nodelete), so a thread
 * that exits later never runs unmapped code.
 */
#ifndef RCTX_MANAGER_H
#define RCTX_MANAGER_H

#include <rctx/executor.h>
#include <rctx/value.h>

RCTX_BEGIN_DECLS

/** struct rctx_allocator - where memory comes from, in large pieces. alloc: at least size bytes aligned to align (a power
 *  of two), or NULL. free: gets the same size. Called from any thread, with no context's lock held, possibly at the
 *  same time from several. */
struct rctx_allocator {
  void *(*alloc)(void *self, size_t size, size_t align);
  void (*free)(void *self, void *ptr, size_t size);
  void *self;
};

enum rctx_drive {
  RCTX_DRIVE_THREAD = 0, /* the library's thread, started at the first timer */
  RCTX_DRIVE_EMBEDDER    /* the embedder calls rctx_next() and rctx_advance() */
};

/** struct rctx_manager_options - all zero is the default manager's. Borrowed; what it points to is retained until the
 *  manager is destroyed. */
struct rctx_manager_options {
  enum rctx_drive drive;
  int64_t (*now)(void *arg); /* clock in ns; must not run backwards to be useful, and does no harm if it does: what is
                                due before a time that the manager has got to already ends at once. A time before 0
                                counts as 0. NULL: CLOCK_MONOTONIC. A clock of one's own needs RCTX_DRIVE_EMBEDDER */
  void *now_arg;
  int64_t tick_ns;         /* resolution of deadlines, 100,000 .. 1,000,000,000; 0: 1,000,000 (1 ms) */
  void (*kick)(void *arg); /* RCTX_DRIVE_EMBEDDER: a deadline earlier than the last rctx_next() was armed; called by the
                              arming thread, no lock held, at most once until the next rctx_next(). NULL: none */
  void *kick_arg;
  struct rctx_allocator allocator; /* all NULL: jemalloc if present in the process, else malloc */
  struct rctx_executor *executor;  /* runs tasks; NULL: a pool of the manager's own */
  unsigned threads_max;            /* limit of the pool: threads that run tasks at a time; 0: 64 */
  size_t tasks_max; /* limit of the pool: tasks that wait for a thread before rctx_execute() says -EAGAIN and groups
                           run them where they are started; 0: none */
  size_t bytes_max; /* limit of what is taken from the allocator: beyond it as if memory had run out; 0: none */
  bool uncached;    /* give every node back to the allocator at once: for memory checkers and fault injection */
};

/** rctx_manager_default - the default manager. Never fails: all it has is static. */
RCTX_API rctx_manager *rctx_manager_default(void) __attribute__((const));

/** rctx_manager_create - make one. Returns 0; -EINVAL (a clock without RCTX_DRIVE_EMBEDDER, half an allocator, tick_ns out
 *  of range); -ENOMEM. Starts nothing. */
RCTX_API int rctx_manager_create(const struct rctx_manager_options *options, rctx_manager **manager)
    RCTX_NONNULL(1, 2) RCTX_MUST_CHECK;

/** rctx_manager_destroy - free it. Joins its threads. Returns 0; -EBUSY and does nothing while contexts or tasks of it exist;
 *  -EINVAL for the default manager; -EDEADLK inside one of its callbacks. An expiry or callback that is just ending may
 *  still hold a context: it is waited for, at most 2 s, before -EBUSY is said. */
RCTX_API int rctx_manager_destroy(rctx_manager *manager) RCTX_NONNULL(1);

/** rctx_manager_background - the root of this manager's tree; as rctx_background(). Valid until it is destroyed. */
RCTX_API const rctx *rctx_manager_background(const rctx_manager *manager) RCTX_NONNULL(1);

/** rctx_manager_of - the manager a context belongs to. */
RCTX_API rctx_manager *rctx_manager_of(const rctx *ctx) RCTX_NONNULL(1);

/** rctx_manager_now - its clock. */
RCTX_API int64_t rctx_manager_now(const rctx_manager *manager) RCTX_NONNULL(1);

/**
 * rctx_next - when rctx_advance() has to be called next: absolute ns, INT64_MAX for never. May be earlier than the first
 * deadline (the wheel turns over), never later. @now_ns: the caller's time. Arms the kick: a deadline that is armed earlier
 * than the returned time calls options.kick. Any thread, one at a time.
 */
RCTX_API int64_t rctx_next(rctx_manager *manager, int64_t now_ns) RCTX_NONNULL(1);

/**
 * rctx_advance - end what is due at now_ns, at most @budget contexts (0: no limit); their subtrees end with them.
 *
 * Inline callbacks run here. Returns how many deadlines were handled; equal to budget: there may be more, call again. A now_ns
 * earlier than a former one does nothing. Any thread, one at a time; on a manager in RCTX_DRIVE_THREAD it may help the
 * thread. Nothing ends early even if now_ns is ahead of the manager's clock by mistake: then the caller's time is the truth.
 */
RCTX_API size_t rctx_advance(rctx_manager *manager, int64_t now_ns, size_t budget) RCTX_NONNULL(1);

/* ---- the article's six operations: on a given manager, whatever the parent's ------------------------------------- */

/** rctx_manager_create_cancellable - rctx_with_cancel() on this manager's clock and memory. To be ended with rctx_end(). */
RCTX_API rctx *rctx_manager_create_cancellable(rctx_manager *manager, const rctx *parent)
    RCTX_NONNULL(1, 2) RCTX_DERIVES;

/** rctx_manager_create_timeout - rctx_with_timeout() on this manager's clock and memory. To be ended with rctx_end(). */
RCTX_API rctx *rctx_manager_create_timeout(rctx_manager *manager, const rctx *parent, int64_t timeout_ns)
    RCTX_NONNULL(1, 2) RCTX_DERIVES;

/** rctx_manager_add_value - rctx_with_value() in this manager's memory. To be ended with rctx_end(). */
RCTX_API rctx *rctx_manager_add_value(rctx_manager *manager, const rctx *parent, const struct rctx_key *key,
                                      void *value) RCTX_NONNULL(1, 2, 3) RCTX_DERIVES;

#ifdef RCTX_LEAK_SITES
#define rctx_manager_create_cancellable(...)                                                                           \
  RCTX__MADE("rctx_manager_create_cancellable", rctx_manager_create_cancellable(__VA_ARGS__))
#define rctx_manager_create_timeout(...)                                                                               \
  RCTX__MADE("rctx_manager_create_timeout", rctx_manager_create_timeout(__VA_ARGS__))
#define rctx_manager_add_value(...) RCTX__MADE("rctx_manager_add_value", rctx_manager_add_value(__VA_ARGS__))
#endif

/** rctx_manager_get_value - rctx_get(): the result is whether it was found, since a stored NULL is a value, too. */
RCTX_API bool rctx_manager_get_value(rctx_manager *manager, const rctx *ctx, const struct rctx_key *key, void **value)
    RCTX_NONNULL(1, 2, 3, 4);

/** rctx_manager_execute - rctx_execute() on this manager's executor. */
RCTX_API int rctx_manager_execute(rctx_manager *manager, const rctx *ctx, rctx_work_fn fn, void *arg,
                                  void (*cleanup)(void *arg), enum rctx_outcome *outcome) RCTX_NONNULL(1, 2, 3);

/** rctx_manager_wait_for_completion - rctx_sleep(), the duration on this manager's clock. */
RCTX_API int rctx_manager_wait_for_completion(rctx_manager *manager, const rctx *ctx, int64_t duration_ns)
    RCTX_NONNULL(1, 2);

/**
 * rctx_quiesce - wait until nothing of this manager is deferred or under way: memory of contexts that are gone is back in
 * its caches, no callback is running or queued on its callback thread, no task is running or queued on its executor. For shutdown, and for tests that count.
 *
 * @until_ns: absolute, CLOCK_MONOTONIC; INT64_MAX: as long as it takes.
 * Returns: 0; -ETIMEDOUT; -EDEADLK when called inside a callback.
 * Work started meanwhile by other threads may outlast it.
 */
RCTX_API int rctx_quiesce(rctx_manager *manager, int64_t until_ns) RCTX_NONNULL(1);

/** rctx_trim - give cached memory that no context uses back to the allocator: that of the calling thread and what is
 *  shared. Returns the bytes given back. */
RCTX_API size_t rctx_trim(rctx_manager *manager) RCTX_NONNULL(1);

/** struct rctx_stats - a count of a moment; exact when nothing else runs. */
struct rctx_stats {
  size_t contexts;  /* derived and not gone yet (with those kept only by children or references) */
  size_t timers;    /* armed */
  size_t deferred;  /* waiting for a grace period */
  size_t callbacks; /* running, or queued on the callback thread */
  size_t tasks;     /* of rctx_execute(), groups and the pool: queued or running */
  size_t orphans;   /* of these, running though their rctx_execute() has returned */
  size_t threads;   /* started by this manager and alive */
  size_t bytes;     /* taken from the allocator */
};
RCTX_API void rctx_stats(const rctx_manager *manager, struct rctx_stats *stats) RCTX_NONNULL(1, 2);

/**
 * Fork. The parent is unharmed in any case. In the child only the forking thread exists: the library's threads are gone.
 *
 *   rctx_after_fork_child()   call it first thing in the child before using the library there.
 *
 * It starts the timer thread again if timers are armed, the callback thread if registrations wait for it, and the signal thread if
 * contexts wait for signals, and leaves them for later otherwise. Tasks that were queued or running are the parent's: in the child they are
 * forgotten, with what they hold. A task or callback that itself forks is not counted any more in the child, and a pool's thread
 * that returns from such a task there ends. A group, an rctx_execute(), an rctx_cond_wait() or an rctx_drain_request() that another
 * thread was in, or whose tasks were under way, is not to be used in the child, nor a drain being used by another thread.
 * Descriptors made before the fork (rctx_fd(), rctx_loop_fd()) stop speaking to the parent: the child has an eventfd of its own under
 * the same number from its first use on; a poll set made before the fork has to be made again with it. If none is to be had there,
 * the number is closed; rctx_poll() then looks once a millisecond.
 * Then every manager works: new contexts, timers, waits, loops. Contexts made before the fork can be read, cancelled and
 * ended, and their timers still fire in the child; one that another thread was deriving from, ending or cancelling at the
 * very moment of the fork must not be used, nor a loop that one was queueing to. A child that only calls exec or _exit needs nothing.
 */
RCTX_API void rctx_after_fork_child(void);

RCTX_END_DECLS
#endif
