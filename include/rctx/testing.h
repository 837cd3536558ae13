/*
 * rctx/testing.h - for tests of code that uses contexts: does it look, and does it stop? A virtual clock, and memory that fails.
 *
 * A look is a call that tells the caller of the end: rctx_err, rctx_why, rctx_cause, rctx_remaining, rctx_wait, rctx_sleep,
 * rctx_poll, rctx_cond_wait. rctx_err() is inline: compile the code under test with -DRCTX_COUNT_LOOKS, so that it counts.
 *
 *   static int body(const rctx *ctx, void *arg) { return process_items(ctx, arg); }
 *   struct rctx_looks looks;
 *   rctx_test_looks(body, &items, &(struct rctx_looks_options){0}, &looks);
 *   assert(looks.looks > 0 && looks.ignored == 0);
 *
 * Not for production: one sweep at a time in a process.
 */
#ifndef RCTX_TESTING_H
#define RCTX_TESTING_H

#include <rctx/manager.h>

RCTX_BEGIN_DECLS

struct rctx_looks_options {
  const rctx *parent;       /* of the contexts handed to the body; NULL: rctx_background() */
  void (*reset)(void *arg); /* NULL, or called before each run */
  unsigned runs_max;        /* 0: 1,000: stop after so many runs */
  unsigned patience;        /* looks that a body may do after the cancel before it counts as ignoring it. 0: 1 */
  unsigned first;           /* begin with the cancel at this look. 0: 1 */
};

struct rctx_looks {
  unsigned looks;         /* of an undisturbed run. 0: it never looks */
  unsigned runs;          /* with a cancel */
  unsigned stopped;       /* of these, ended with an error other than 0 within the patience */
  unsigned ignored;       /* went on looking beyond the patience, or did not report the end */
  unsigned first_ignored; /* the first look whose answer was ignored; 0: none */
  int result;             /* of the undisturbed run */
};

/**
 * rctx_test_looks - run the body once undisturbed and count its looks, then again and again with its context cancelled at
 * the nth look, n = 1, 2, .. until a run ends without reaching it.
 *
 * The nth look itself already sees the cancel. Looks at contexts derived from the body's count, on any thread.
 * Returns: 0; -EINVAL: fn is NULL; -EBUSY: another sweep is under way; -E2BIG: runs_max was reached (what is there is in
 * *looks).
 */
RCTX_API int rctx_test_looks(rctx_work_fn fn, void *arg, const struct rctx_looks_options *options,
                             struct rctx_looks *looks) RCTX_NONNULL(1, 4);

/* ---- virtual time ------------------------------------------------------------------------------------------------ */

/**
 * A manager whose clock stands still until the test moves it: an hour's timeout is tested in a microsecond.
 *
 * Promises:
 *   [CLOCK-1] When time is moved over several events it goes from one to the next: what ends at one, and its inline callbacks,
 *             see that time, not the last; what they arm on the way comes in its turn.
 *   [CLOCK-2] What is due when a call that moves time returns has ended, with its inline callbacks.
 *   [CLOCK-3] After rctx_test_clock_auto(n) time moves when n threads are blocked on the clock, to the next event, and not else.
 *
 * An event is a deadline, rounded up to the tick of 1 ms as on any manager (exact, if start and durations are multiples of it;
 * those within one tick come together, in no order), or the moment until which a thread is blocked.
 * A thread is blocked while it is inside rctx_wait(), rctx_sleep(), rctx_poll(), or what waits by them, on this clock, its time has
 * not come and its context is live. Waiting in rctx_cond_wait(), for a task, a group or rctx_quiesce() does not count: time stands
 * still meanwhile. Do not end a blocked thread by pthread_cancel().
 *
 * Threads: all calls but create and destroy: any. Inline callbacks run in the thread that moves time; others that want to move
 *          it wait. A callback may move it, too, and may not wait for another thread that wants to.
 * Cost:    nothing elsewhere. Who is blocked is woken when its time has come, and also looks once a millisecond of real time.
 */
typedef struct rctx_test_clock rctx_test_clock;

/** rctx_test_clock_create - @start_ns: the first moment, 0 or later. Starts no thread. Returns 0; -EINVAL; -ENOMEM.
 *  rctx_test_clock_create_with - with options for the manager (borrowed, as in rctx_manager_create()): allocator, executor, limits,
 *  kick, tick. drive is the clock's; -EINVAL if options->now is set.
 *  rctx_test_clock_destroy - as rctx_manager_destroy(): -EBUSY and nothing is freed while contexts of it exist. */
RCTX_API int rctx_test_clock_create(int64_t start_ns, rctx_test_clock **clock) RCTX_NONNULL(2) RCTX_MUST_CHECK;
RCTX_API int rctx_test_clock_create_with(const struct rctx_manager_options *options, int64_t start_ns,
                                         rctx_test_clock **clock) RCTX_NONNULL(1, 3) RCTX_MUST_CHECK;
RCTX_API int rctx_test_clock_destroy(rctx_test_clock *clock) RCTX_NONNULL(1);

/** Its manager, the root of its tree, and its time. Valid until it is destroyed. */
RCTX_API rctx_manager *rctx_test_clock_manager(const rctx_test_clock *clock) RCTX_NONNULL(1);
RCTX_API const rctx *rctx_test_clock_background(const rctx_test_clock *clock) RCTX_NONNULL(1);
RCTX_API int64_t rctx_test_clock_now(const rctx_test_clock *clock) RCTX_NONNULL(1);

/** rctx_test_clock_of - the clock of such a manager; NULL: it has another. */
RCTX_API rctx_test_clock *rctx_test_clock_of(const rctx_manager *manager) RCTX_NONNULL(1);

/** rctx_test_clock_set - the time is @now_ns, also an earlier one. Nothing ends by it until time is moved (by 0, too): as on a
 *  machine whose timer thread comes late. */
RCTX_API void rctx_test_clock_set(rctx_test_clock *clock, int64_t now_ns) RCTX_NONNULL(1);

/** rctx_test_clock_advance - let @ns pass, and end what becomes due on the way. [CLOCK-1] [CLOCK-2] Negative: nothing.
 *  Returns: how many events there were: contexts that came to their own deadline, and blocked threads whose time came. */
RCTX_API size_t rctx_test_clock_advance(rctx_test_clock *clock, int64_t ns) RCTX_NONNULL(1);

/** rctx_test_clock_step - advance to the next event and do all that comes at that moment. [CLOCK-2] Returns how many; 0: nothing is
 *  armed and no thread waits for a time: time has not moved. */
RCTX_API size_t rctx_test_clock_step(rctx_test_clock *clock) RCTX_NONNULL(1);

/** rctx_test_clock_run - step until nothing is left to come at @until_ns (absolute; INT64_MAX: ever) or before. Time stays at the
 *  last event. [CLOCK-1] [CLOCK-2] What arms itself again and again needs a limit. Returns how many events there were. */
RCTX_API size_t rctx_test_clock_run(rctx_test_clock *clock, int64_t until_ns) RCTX_NONNULL(1);

/** rctx_test_clock_auto - time moves by itself when @threads threads are blocked on the clock: the last to block steps. [CLOCK-3]
 *  1: for code that sleeps in the test's own thread. N: the test has N threads that use the clock, and says when one
 *  fewer does. 0: off, as at first. */
RCTX_API void rctx_test_clock_auto(rctx_test_clock *clock, unsigned threads) RCTX_NONNULL(1);

/** rctx_test_clock_waiters - wait until @threads threads are blocked on the clock, so that a test that then moves it is
 *  deterministic. A thread whose time has come does not count any more, whether it woke or not. @patience_ns: of real time.
 *  Returns 0 or -ETIMEDOUT. */
RCTX_API int rctx_test_clock_waiters(rctx_test_clock *clock, unsigned threads, int64_t patience_ns) RCTX_NONNULL(1);

/* ---- memory that fails ------------------------------------------------------------------------------------------- */

/** An allocator that counts and fails on request. Zero-initialised; all fields may be read between calls. */
struct rctx_test_memory {
  size_t requests; /* with those refused */
  size_t refused;
  size_t live;    /* pieces out */
  size_t bytes;   /* in them */
  size_t fail_at; /* refuse the request with this number, counted from 1; 0: none */
  bool fail_on;   /* and all after it */
  size_t wrong;   /* freed with another size than asked for */
  void *rctx__pieces;
};

/** rctx_test_allocator - the table for rctx_manager_options.allocator. @memory: borrowed until the manager is destroyed. Thread-safe. */
RCTX_API struct rctx_allocator rctx_test_allocator(struct rctx_test_memory *memory) RCTX_NONNULL(1);

/** rctx_test_malloc, rctx_test_free - the same memory for the code under test itself. Free of NULL: nothing.
 *  rctx_test_memory_of - the memory of a manager on that table; NULL: it is on another. */
RCTX_API void *rctx_test_malloc(struct rctx_test_memory *memory, size_t size) RCTX_NONNULL(1);
RCTX_API void rctx_test_free(struct rctx_test_memory *memory, void *ptr) RCTX_NONNULL(1);
RCTX_API struct rctx_test_memory *rctx_test_memory_of(const rctx_manager *manager) RCTX_NONNULL(1);

/** A body under test: gets a manager that has nothing yet, with the test's allocator and nothing cached, on a virtual clock of its own
 *  that begins at 1,000 s and moves when the calling thread sleeps (rctx_test_clock_auto(clock, 1)); ends all that it
 *  derives, and frees what it took by rctx_test_malloc(). 0 or an error. */
typedef int (*rctx_test_body)(rctx_manager *manager, void *arg);

struct rctx_test_faults {
  size_t runs;       /* with a failure */
  size_t failed;     /* of these, how many reported an error */
  size_t leaked;     /* of these, how many left contexts, tasks or memory behind */
  size_t first_leak; /* the request whose failure made the first of them; 0: none */
  int result;        /* of the last run, which met no failure */
};

/**
 * rctx_test_fail_each - run the body with the nth request for memory failing, n = 1, 2, .. until a run has met no failure.
 *
 * @fail_on: let all requests after the nth fail, too.
 * Returns: 0; -EINVAL: fn is NULL; -EBUSY: the last run, without a failure, left something behind (then its manager is
 * left, too); -ENOMEM: the test itself has no memory. What is left by rctx_test_malloc() only is freed. Crashes are the body's own. *faults is written in any case but -EINVAL.
 */
RCTX_API int rctx_test_fail_each(rctx_test_body fn, void *arg, bool fail_on, struct rctx_test_faults *faults)
    RCTX_NONNULL(1, 4);

RCTX_END_DECLS
#endif
