/*
 * rctx/drain.h - graceful shutdown: stop accepting, give what runs some time, cancel it, and know when all is gone.
 *
 * A drain has three contexts, two of them below the one it was made for:
 *
 *   accepting   ends at RCTX_DRAIN_STOP: the accept loop watches it
 *   work        parent of every request; made by rctx_drain_request(); ends at RCTX_DRAIN_DEADLINE or RCTX_DRAIN_CANCEL
 *   drained     below the manager's root; ends, once draining, when no context below work exists any more
 *
 *   OPEN --> STOP --> DEADLINE --> CANCEL          upwards only; each step also does the ones before it
 *
 * What counts as work is what exists: a request and everything derived from it, whether live or ended, also below
 * rctx_without_cancel(), and what a reference or a task of rctx_execute() still holds. Counting costs nothing while it runs:
 * a context is kept by what hangs below it, so `work` itself is gone exactly when all else is.
 *
 * Promises cited below:
 *   [DRAIN-1] After the first raise has returned no request begins: rctx_drain_request() gives a context that has ended.
 *   [DRAIN-2] `drained` ends when the last context of the work is gone, not before, and never while the drain is OPEN.
 *   [DRAIN-3] Detached work (rctx_without_cancel) is not ended by any level, and is waited for.
 */
#ifndef RCTX_DRAIN_H
#define RCTX_DRAIN_H

#include <rctx/context.h>

RCTX_BEGIN_DECLS

typedef struct rctx_drain rctx_drain;

enum rctx_drain_level {
  RCTX_DRAIN_OPEN = 0,
  RCTX_DRAIN_STOP,     /* nothing new begins; what runs goes on */
  RCTX_DRAIN_DEADLINE, /* its time is over: work ends with -ETIMEDOUT, cause "shutdown deadline", RCTX_ORIGIN_SHUTDOWN */
  RCTX_DRAIN_CANCEL    /* work ends with -ECANCELED, cause "shutdown", RCTX_ORIGIN_SHUTDOWN */
};

/** rctx_drain_create - @parent: retained. @name: of the work context, for logs; a static string or NULL.
 *  Returns 0 or -ENOMEM. */
RCTX_API int rctx_drain_create(const rctx *parent, const char *name, rctx_drain **drain)
    RCTX_NONNULL(1, 3) RCTX_MUST_CHECK;

/** rctx_drain_request - derive a request below work: as rctx_derive(). @spec may be NULL.
 *  Draining: returns a context that has ended with -ECANCELED, cause "shutting down", RCTX_ORIGIN_SHUTDOWN; what the spec
 *  transfers is let go.
 *  Races: with rctx_drain_raise(): either the request is counted, or it is born ended. Cost: rctx_derive() and two atomic
 *  read-modify-writes on a line of few threads. */
RCTX_API rctx *rctx_drain_request(rctx_drain *drain, const struct rctx_spec *spec) RCTX_NONNULL(1) RCTX_DERIVES;

#ifdef RCTX_LEAK_SITES
#define rctx_drain_request(...) RCTX__MADE("rctx_drain_request", rctx_drain_request(__VA_ARGS__))
#endif

/** The two that are watched, waited for and polled like any other. Borrowed: valid until rctx_drain_destroy(). */
RCTX_API const rctx *rctx_drain_accepting(const rctx_drain *drain) RCTX_NONNULL(1);
RCTX_API const rctx *rctx_drain_drained(const rctx_drain *drain) RCTX_NONNULL(1);

/** rctx_drain_level - where it stands. */
RCTX_API enum rctx_drain_level rctx_drain_level(const rctx_drain *drain) RCTX_NONNULL(1);

/** rctx_drain_raise - go to @level at once. Returns true if this call got there; false: it was there or beyond. Either
 *  way what @level ends has ended on return.
 *  Callbacks of what ends run as with rctx_cancel(). Any thread; also inside callbacks, but not inside an allocator, a
 *  manager's kick or a destructor. The first raise waits for the rctx_drain_request() calls that are under way in
 *  other threads. */
RCTX_API bool rctx_drain_raise(rctx_drain *drain, enum rctx_drain_level level) RCTX_NONNULL(1);

/** rctx_drain_raise_at - go to @level when @at_ns (absolute, the parent's clock) has come; at once if it has. The drain's own
 *  deadline: of several calls for one level the earliest time counts. Returns 0; -ENOMEM, or -EAGAIN without a timer
 *  thread: nothing is planned then; -EINVAL: no such level. */
RCTX_API int rctx_drain_raise_at(rctx_drain *drain, enum rctx_drain_level level, int64_t at_ns)
    RCTX_NONNULL(1) RCTX_MUST_CHECK;

/** struct rctx_drain_left - what exists below work at this moment. */
struct rctx_drain_left {
  enum rctx_drain_level level;
  size_t requests;     /* direct children of work */
  size_t contexts;     /* all of them, with those below */
  size_t live;         /* of these, how many have not ended; a detached one itself never does */
  size_t detached;     /* rctx_without_cancel() and what hangs below */
  size_t tasks;        /* all that are queued or running on the manager's executor */
  size_t orphans;      /* of these, left by their callers */
  const char *example; /* name of one of the contexts left that has a name, or NULL */
};
RCTX_API void rctx_drain_look(const rctx_drain *drain, struct rctx_drain_left *left) RCTX_NONNULL(1, 2);

/** struct rctx_drain_plan - how long it may take; relative to the start, on the parent's clock. */
struct rctx_drain_plan {
  int64_t grace_ns;   /* work may go on for so long after STOP; then DEADLINE. 0: none */
  int64_t give_up_ns; /* return so long after the start whatever is left; at least grace_ns */
};

/**
 * rctx_drain_run - the whole shutdown, blocking: STOP now, DEADLINE after the grace, wait until drained.
 *
 * Another thread (a second Ctrl-C) may raise it to RCTX_DRAIN_CANCEL meanwhile.
 * @left: NULL, or what was left (all zero but the level after success).
 * Returns: 0 when drained, as early as that is; -ETIMEDOUT when time was up; -EINVAL: a negative time.
 * For event loops: raise, raise_at, and watch rctx_drain_drained().
 */
RCTX_API int rctx_drain_run(rctx_drain *drain, const struct rctx_drain_plan *plan, struct rctx_drain_left *left)
    RCTX_NONNULL(1, 2);

/** rctx_drain_destroy - cancel what is live and let go of the drain. Contexts that still exist stay valid for their owners.
 *  Not concurrently with other calls on it. NULL: nothing. */
RCTX_API void rctx_drain_destroy(rctx_drain *drain);

RCTX_END_DECLS
#endif
