/*
 * rctx/context.h - the context itself: derive, cancel, end, look.
 *
 * A context is one node of a tree. It is live until the first of these ends it, for ever: its owner cancels it, its
 * deadline passes, or its parent ends. One word of the node tells which, and rctx_err() reads it with one load.
 *
 * Ownership, in one rule: what you derive, you end, once (rctx_end, or RCTX_SCOPED); what you are handed is borrowed
 * unless you take a reference (rctx_ref). A borrowed pointer is good for as long as somebody holds the handle.
 *
 * Promises cited by the functions below:
 *   [CTX-1] Cancel is synchronous: when a cancel or end returns, every descendant reports the end, whether or not this
 *           call was the first. No recursion is used: depth costs no stack.
 *   [CTX-2] The first end wins, per context, error and cause together, and never changes.
 *   [CTX-3] Whoever sees a context ended because of its parent sees the parent ended.
 *   [CTX-4] Everything before the winning cancel is visible to a thread once rctx_err() is non-zero there,
 *           rctx_wait() returned the error, or the context's fd polls readable.
 *   [CTX-5] Deriving races cleanly with the parent's end: the child is either reached by that cancel or born ended,
 *           always with the parent's error and cause.
 *   [CTX-6] Nobody ever sees the error without the cause, or the cause without the error.
 *   [CTX-7] A deadline never ends a context early, and at most one tick late plus the wakeup of whoever drives the
 *           clock (manager.h). rctx_err() itself reads no clock.
 */
#ifndef RCTX_CONTEXT_H
#define RCTX_CONTEXT_H

#include <rctx/base.h>

RCTX_BEGIN_DECLS

/* ---- causes ------------------------------------------------------------------------------------------------------ */

/** Where an end came from. Values from RCTX_ORIGIN_USER on are free for the embedder. */
enum rctx_origin {
  RCTX_ORIGIN_NONE = 0,        /* live */
  RCTX_ORIGIN_CANCEL,          /* rctx_cancel and friends */
  RCTX_ORIGIN_END,             /* its owner ended it (rctx_end) */
  RCTX_ORIGIN_DEADLINE,        /* its own deadline */
  RCTX_ORIGIN_PARENT_DEADLINE, /* an ancestor's deadline: never stored in a cause, reported by rctx_why() */
  RCTX_ORIGIN_PEER,            /* the other side reset, hung up, or ran out of its time */
  RCTX_ORIGIN_SIGNAL,
  RCTX_ORIGIN_SHUTDOWN,
  RCTX_ORIGIN_MEMORY, /* born ended: no memory */
  RCTX_ORIGIN_MISUSE, /* born ended: bad argument */
  RCTX_ORIGIN_TASK,   /* a task of its group failed (group.h) */
  RCTX_ORIGIN_USER = 64
};

/**
 * struct rctx_cause - why a context ended. Identity is the address: the pointer that went in is the one that comes back.
 *
 * A static const record costs nothing and has no destroy. A record made at run time is transferred to the context whose
 * end it causes, and only then: a cancel that lost has not taken it, it is still the caller's. The context that took it
 * calls destroy(self), once, on the thread that releases the last reference, when neither it nor any context below it
 * exists any more; no library lock is held.
 */
struct rctx_cause {
  int code;         /* what rctx_err() reports: -1 .. -4095. Anything else: -ECANCELED, for a deadline -ETIMEDOUT */
  int origin;       /* enum rctx_origin */
  const char *text; /* for people; NULL allowed */
  const char *file; /* who: NULL and 0 when unknown */
  int line;
  void *user; /* the embedder's own; never looked at */
  void (*destroy)(const struct rctx_cause *self);
};

/** RCTX_CAUSE - a static cause that names this source line. All arguments are constants. An expression of type
 *  `const struct rctx_cause *`, the same address each time this line is passed. */
#define RCTX_CAUSE(code_, origin_, text_)                                                                              \
  (__extension__({                                                                                                     \
    static const struct rctx_cause rctx__site = {(code_), (origin_), (text_), __FILE__, __LINE__, NULL, NULL};         \
    &rctx__site;                                                                                                       \
  }))

/* ---- roots ------------------------------------------------------------------------------------------------------- */

/** rctx_background - the root of the default manager's tree: never ends, has no deadline and no values. Cost: none;
 *  nothing is allocated or started. Ref, unref and end of a root do nothing. */
RCTX_API const rctx *rctx_background(void) __attribute__((const));

/** rctx_todo - a second root, for code whose context is not clear yet; differs from background only in its name. */
RCTX_API const rctx *rctx_todo(void) __attribute__((const));

/* ---- deriving ---------------------------------------------------------------------------------------------------- */

/* What is derived is to be ended: said in the words of gcc's and clang's static analyzers. leaks.h. */
RCTX_API void rctx_end_cause(rctx *ctx, const struct rctx_cause *cause) RCTX__ENDS RCTX_NONNULL(1);
RCTX_API void rctx_drop(rctx *ctx) RCTX__ENDS RCTX_NONNULL(1);
RCTX_API void rctx__end_scope(rctx *ctx) RCTX__ENDS;

/**
 * rctx_with_cancel - a child that its owner can cancel.
 *
 * @parent: retained: the child keeps it (not its handle, and not it alive in the sense of rctx_err) until it is gone.
 *
 * Returns: the owner's handle, to be ended once. Never NULL. When memory has run out: a context already ended with
 *          -ENOMEM, without values or deadline, of the default manager; ending it is harmless. (A deadline whose timer
 *          thread can not be started: the same with -EAGAIN.)
 * Threads: any, also inside callbacks. Blocks: never on callbacks; a short lock on the parent's child list.
 * Races:   [CTX-5] with the parent's end.
 * Order:   below an ended parent the child is born ended, with its error and cause, and still has values and deadline.
 * Cost:    one cached node of 128 bytes, two atomic read-modify-writes; no shared counter. No malloc once warm.
 */
RCTX_API rctx *rctx_with_cancel(const rctx *parent) RCTX_NONNULL(1) RCTX_DERIVES;

/**
 * rctx_with_deadline - a child that also ends by itself at deadline_ns, with -ETIMEDOUT.
 *
 * The earlier of its own and the parent's deadline counts. Later than the parent's: a plain cancel child. Equal: its own
 * deadline (and cause) is what ends it. Now or earlier: it has ended on return. INT64_MAX is legal and never comes.
 * Cancelling it, or the parent's end, disarms the timer at once. Otherwise as rctx_with_cancel().
 */
RCTX_API rctx *rctx_with_deadline(const rctx *parent, int64_t deadline_ns) RCTX_NONNULL(1) RCTX_DERIVES;

/** rctx_with_timeout - rctx_with_deadline(parent, now + timeout_ns). Zero or negative: ended on return. The sum
 *  saturates: INT64_MAX means "never". Reads the clock of the parent's manager once. */
RCTX_API rctx *rctx_with_timeout(const rctx *parent, int64_t timeout_ns) RCTX_NONNULL(1) RCTX_DERIVES;

/** rctx_with_timeout_at - the same for a caller who has the time already (a loop's cached now). A stale now_ns makes the
 *  deadline earlier by as much, never later. */
RCTX_API rctx *rctx_with_timeout_at(const rctx *parent, int64_t now_ns, int64_t timeout_ns)
    RCTX_NONNULL(1) RCTX_DERIVES;

/** rctx_with_*_cause - the same with a cause of your own for the deadline (its code, too: -ETIMEDOUT as a rule).
 *
 *  @cause: transferred. Used if this deadline is what ends the context. Not used when the context is cancelled by hand
 *          or its parent ends first (the context then has that cause), nor when the parent's deadline is earlier.
 *          Used or not, its destroy is called exactly once: when the context is gone, or before return when the context
 *          could not keep it (later than the parent's deadline, or no memory). NULL: the library's own. */
RCTX_API rctx *rctx_with_deadline_cause(const rctx *parent, int64_t deadline_ns, const struct rctx_cause *cause)
    RCTX_NONNULL(1) RCTX_DERIVES;
RCTX_API rctx *rctx_with_timeout_cause(const rctx *parent, int64_t timeout_ns, const struct rctx_cause *cause)
    RCTX_NONNULL(1) RCTX_DERIVES;
RCTX_API rctx *rctx_with_timeout_at_cause(const rctx *parent, int64_t now_ns, int64_t timeout_ns,
                                          const struct rctx_cause *cause) RCTX_NONNULL(1) RCTX_DERIVES;

/** rctx_without_cancel - a child that keeps the parent's values and nothing else: no deadline, no error, no cause,
 *  whatever happens or has happened above. It can never end by itself: rctx_cancel() on it returns false,
 *  registrations answer RCTX_NEVER, rctx_fd() -ENOTSUP. Derive below it to get a cancel or a deadline again. Still to be
 *  ended (that only drops the handle). */
RCTX_API rctx *rctx_without_cancel(const rctx *parent) RCTX_NONNULL(1) RCTX_DERIVES;

struct rctx_value; /* value.h */

/** struct rctx_spec - all that a request context can have, for rctx_derive(). All zero: rctx_with_cancel(). */
struct rctx_spec {
  int64_t timeout_ns;  /* 0: none. Negative: ended on return. A computed budget goes through RCTX_BUDGET() */
  int64_t deadline_ns; /* absolute; 0: none. With a timeout as well, the earlier counts */
  int64_t now_ns;      /* for the timeout; 0: read the clock */
  const struct rctx_cause *deadline_cause; /* transferred; as in rctx_with_deadline_cause() */
  const struct rctx_value *values;         /* borrowed array; what its elements own is transferred */
  size_t nvalues;
  const char *name;        /* retained pointer: a static string */
  const rctx *values_from; /* take inherited values from here instead of the parent: for foreign parents and merges.
                              Retained until this context is gone */
  rctx_manager *manager;   /* clock, timers and memory; NULL: the parent's */
  bool movable;            /* rctx_move_deadline() may move its own deadline; without one it begins with none */
};

/** RCTX_BUDGET - a timeout that was computed and may have come out as 0: then it means "ended", not "none". */
#define RCTX_BUDGET(ns)                                                                                                \
  (__extension__({                                                                                                     \
    int64_t rctx__ns = (ns);                                                                                           \
    rctx__ns ? rctx__ns : (int64_t)-1;                                                                                 \
  }))

/**
 * rctx_derive - a whole request context in one node and one call: cancel, deadline, several values, name.
 *
 * @spec: borrowed.
 * With spec->manager other than the parent's: cancellation crosses as always; the parent's deadline is inherited only
 * when both managers have the same clock, else its expiry arrives as the parent's end does.
 * A NULL key in spec->values: as any NULL argument (base.h); no value is lost, each destroy still runs once.
 * Otherwise as rctx_with_deadline().
 */
RCTX_API rctx *rctx_derive(const rctx *parent, const struct rctx_spec *spec) RCTX_NONNULL(1, 2) RCTX_DERIVES;

/* ---- deadlines that move ----------------------------------------------------------------------------------------- */

/**
 * rctx_move_deadline - give a context another deadline of its own, earlier or later. Never past its ancestors': theirs count, too.
 *
 * @ctx: derived with spec.movable. @deadline_ns: absolute; now or earlier: it has ended on return; INT64_MAX: none of its own.
 *
 * Returns: 0: it will not end by its own deadline before the new one; the context's error: it has ended, by whatever; also
 *          when the old deadline was just coming due (then -ETIMEDOUT): a deadline that has fired is not taken back. -EINVAL:
 *          it is not movable.
 *          rctx_deadline() says false while neither it nor an ancestor has one.
 * Order:   rctx_deadline() of it and of everything below tells the new time from then on: below a movable deadline that call, and
 *          rctx_remaining(), cost a step per level. Contexts below keep deadlines of their own also where they are later.
 * Threads: any that holds the handle. Races: with expiry: one of the two answers above.
 * Cost:    a short lock; no allocation.
 */
RCTX_API int rctx_move_deadline(rctx *ctx, int64_t deadline_ns) RCTX_NONNULL(1);

/**
 * rctx_with_idle - a child that ends with -ETIMEDOUT, cause "idle: no progress", when it was not touched for idle_ns.
 *
 * Stands beside a total deadline: derive it below a context that has one; whichever comes first counts.
 * Returns: as rctx_with_timeout(); also -ENOMEM when there is no memory for its side block.
 */
RCTX_API rctx *rctx_with_idle(const rctx *parent, int64_t idle_ns) RCTX_NONNULL(1) RCTX_DERIVES;

/** rctx_touch_at - progress was made at now_ns: it ends no earlier than idle_ns after that. One load and one store; an earlier time
 *  than one that is there already is not stored. The timer stays where it is and looks again when it fires. rctx_touch() reads
 *  the clock. On an ended context, or one that is not rctx_with_idle()'s, nothing.
 *  Threads: any. Races: of touches that overlap one counts, whichever; with rctx_move_deadline(): what that promises holds; with
 *  expiry: either counts, rctx_err() tells. */
RCTX_API void rctx_touch_at(rctx *ctx, int64_t now_ns) RCTX_NONNULL(1);
RCTX_API void rctx_touch(rctx *ctx) RCTX_NONNULL(1);

/* ---- ending ------------------------------------------------------------------------------------------------------ */

/**
 * rctx_cancel - end a context and everything below it with -ECANCELED, naming this source line as the cause.
 *
 * The whole subtree is marked first and notified second (after.h, wait.h): inline callbacks run on this thread before the
 * call returns, with no library lock held; fds are readable and loop entries queued when it returns. It tells work to
 * stop; it does not wait for it.
 *
 * @ctx: borrowed; the caller holds the handle or a reference throughout.
 *
 * Returns: true if this call ended @ctx; exactly one of several concurrent calls gets that. false: it had ended
 *          already, or can not be cancelled (a root, rctx_without_cancel()).
 * Threads: any, also inside callbacks, of this context or another.
 * Blocks:  never on callbacks of others. May spin for the few instructions of another thread's list operation.
 * Order:   [CTX-1] [CTX-2] [CTX-4]. A call that returns false has helped to finish the marking; the notification
 *          (callbacks, fds, wakeups) of what another thread marked may still be under way in that thread.
 * Races:   with expiry or another cancel: one of them ends it, with its own error and cause.
 *          with rctx_after_stop(): see there.
 * Cost:    a leaf: two atomic read-modify-writes. Otherwise about 3 ns per descendant, and one wakeup per recorded
 *          waiter or loop. Ends in O(1) when there is nothing below.
 */
#define rctx_cancel(ctx) rctx_cancel_cause((ctx), RCTX_CAUSE(-ECANCELED, RCTX_ORIGIN_CANCEL, "context canceled"))

/** rctx_cancel_with - rctx_cancel() with another error, origin and text, all constants: a peer's deadline, a reset
 *  stream, a shutdown. For run-time data use rctx_cancel_cause(). */
#define rctx_cancel_with(ctx, code, origin, text) rctx_cancel_cause((ctx), RCTX_CAUSE((code), (origin), (text)))

/** rctx_cancel_cause - rctx_cancel() with a cause of your own. @cause: transferred if the call returns true, else
 *  untouched; NULL: a static one without source line. rctx_err() becomes cause->code. */
RCTX_API bool rctx_cancel_cause(rctx *ctx, const struct rctx_cause *cause) RCTX_NONNULL(1);

/** A cancel in slices: the caller's storage; all fields are the library's. */
struct rctx_sweep {
  rctx *rctx__top;
  rctx *rctx__parent;
  rctx *rctx__child;
};

/**
 * rctx_cancel_begin, rctx_cancel_step - rctx_cancel_cause() in slices, for a loop that can not afford to stand still while
 * 100,000 contexts are marked.
 *
 * begin ends @ctx itself: rctx_err() of it is set, its waiters, fds and callbacks are told, and whatever is derived from it is
 * born ended. What is below follows in steps, parents before children: each marks @max contexts, and on to the next that is or was
 * watched, waited for or polled (a step can only stop there; marking one that is not costs a few ns), and tells those
 * it has marked; callbacks of one context are queued in the order of registration, and run in the slices that the loop takes of
 * rctx_loop_drain(). Between two steps what is below is partly live: [CTX-1] holds when the last step has returned.
 *
 *   struct rctx_sweep sweep;
 *   if (rctx_cancel_begin(ctx, cause, &sweep))
 *     while (rctx_cancel_step(&sweep, 256)) serve_others();
 *
 * @cause: as in rctx_cancel_cause(). @sweep: in use until a step has returned false; it is to be driven there, one thread at a
 *         time, else what it stands on is never freed; at most 200 that have begun in one another at a time. Ending handles of it
 *         and below meanwhile is legal, also in its callbacks, and leaves what is below to the steps; so does registering a
 *         callback. Another cancel or an ancestor's end marks all at once; the steps then find nothing to do.
 * Returns: begin: true if this call ended @ctx; else there is nothing to step, and what is below may not be marked yet: whoever
 *          ended @ctx is at it. step: true while there is more.
 * Cost:    as rctx_cancel(), and a few instructions for each slice; no allocation.
 */
RCTX_API bool rctx_cancel_begin(rctx *ctx, const struct rctx_cause *cause, struct rctx_sweep *sweep) RCTX_NONNULL(1, 3);
RCTX_API bool rctx_cancel_step(struct rctx_sweep *sweep, size_t max) RCTX_NONNULL(1);

/**
 * rctx_end - cancel and drop the handle. Once for each derived context.
 *
 * @ctx: transferred. Contexts below it that are still live are ended with it; ended or not, they stay valid until
 *       their own handles are dropped. References taken with rctx_ref() keep it readable.
 * In a checked build a second end of the same handle prints a message and aborts.
 * Blocks:  as rctx_cancel(). One end in some hundred that race with a cancel above them waits for a grace period of liburcu-bp
 *          (about 1 us, or as long as the longest read section of a host that uses liburcu-bp itself).
 * Otherwise as rctx_cancel(), but for what a cancel in slices is at: see there. Cost of a leaf nobody watches: one atomic read-modify-write; nothing is marked.
 */
#define rctx_end(ctx) rctx_end_cause((ctx), RCTX_CAUSE(-ECANCELED, RCTX_ORIGIN_END, "context ended"))

/** rctx_end_cause - rctx_end() with the cause that what lives below will see. @cause: a static record, or NULL. Declared
 *  above: void rctx_end_cause(rctx *ctx, const struct rctx_cause *cause). */

/** rctx_ref - take a reference: the context stays readable (err, cause, values) until the matching rctx_unref().
 *  Returns @ctx: the name to use from then on, since the handle's own is dead after rctx_end(), and compilers say so. Any
 *  thread, also inside callbacks. */
RCTX_API const rctx *rctx_ref(const rctx *ctx) RCTX_NONNULL(1);

/** rctx_unref - drop a reference. Never cancels. Any thread, also inside callbacks. */
RCTX_API void rctx_unref(const rctx *ctx) RCTX_NONNULL(1);

/** rctx_drop - drop a derived handle without cancelling: what was derived from the context lives on, and still ends with its
 *  ancestors and at its deadline. Declared above: void rctx_drop(rctx *ctx). (rctx_unref() does the same, but static
 *  analyzers take only this for the end of a handle.) Any thread, also inside callbacks. */

/** RCTX_SCOPED - end the handle when the variable leaves scope: `RCTX_SCOPED rctx *c = rctx_with_cancel(parent);`.
 *  RCTX_SCOPED_REF drops a reference instead. A variable that is NULL then is left alone. */
#define RCTX_SCOPED __attribute__((unused, cleanup(rctx__scope_end)))
#define RCTX_SCOPED_REF __attribute__((unused, cleanup(rctx__scope_unref)))

/* ---- looking ----------------------------------------------------------------------------------------------------- */

RCTX_API int rctx__null_context(const char *function); /* internal: what a NULL does */
RCTX_API void rctx__look(const rctx *ctx);             /* internal: testing.h */
#if defined(__clang__)
#pragma clang diagnostic push
#pragma clang diagnostic ignored "-Wgcc-compat"
#define RCTX__DIAGNOSE_NULL(arg)                                                                                       \
  __attribute__((diagnose_if(!(arg), "NULL passed where a context is required", "warning")))
static inline int rctx_err(const rctx *ctx) RCTX__DIAGNOSE_NULL(ctx);
#pragma clang diagnostic pop
#define RCTX__SEE_NULL(arg) ((void)0)
RCTX_API void rctx__null_seen(void);
#else
RCTX_API void rctx__null_seen(void) __attribute__((warning("NULL passed where a context is required")));
#define RCTX__SEE_NULL(arg) (__builtin_constant_p(!(arg)) && !(arg) ? rctx__null_seen() : (void)0)
#endif

/**
 * rctx_err - 0 while live, else why it ended: -ECANCELED, -ETIMEDOUT, -ENOMEM, or the code of the cause.
 *
 * One acquire load of the context's own first word, the same live or ended, root or 16 levels deep. [CTX-2] [CTX-4]
 * The low 12 bits of that word are the errno, positive: this is part of the ABI.
 */
static inline int rctx_err(const rctx *ctx) {
  RCTX__SEE_NULL(ctx);
  if (__builtin_expect(ctx == NULL, 0)) return rctx__null_context("rctx_err");
#ifdef RCTX_COUNT_LOOKS
  rctx__look(ctx);
#endif
  /* Partner: whoever ended it; what it wrote before is seen (docs/memory-model.md). */
  return -(int)(__atomic_load_n((const uint32_t *)(const void *)ctx, __ATOMIC_ACQUIRE) & 0xfffU);
}

/** rctx_cause - the cause, or NULL while live. Inherited ends give the ancestor's record, the same pointer.
 *  Valid while the context is held. Cost: one step per level up to where the end came from. [CTX-6] */
RCTX_API const struct rctx_cause *rctx_cause(const rctx *ctx) RCTX_NONNULL(1);

/** struct rctx_why - one consistent look at the end of a context, made for log lines: nothing is allocated. */
struct rctx_why {
  int err;                        /* as rctx_err() */
  int origin;                     /* enum rctx_origin, as seen from here: RCTX_ORIGIN_PARENT_DEADLINE for an inherited
                                     deadline, otherwise the cause's */
  unsigned levels_up;             /* 0: this context; n: the ancestor n levels up is where it started */
  const char *name;               /* name of that context, or NULL */
  const struct rctx_cause *cause; /* as rctx_cause(); never NULL when err is set */
};

/** rctx_why - fill @why. Returns why->err. Error and cause are read as one. */
RCTX_API int rctx_why(const rctx *ctx, struct rctx_why *why) RCTX_NONNULL(1, 2);

/** rctx_deadline - true and the time at which it ends at the latest: its own or the nearest ancestor's deadline,
 *  whichever is earlier; false if it has none. Stays readable after the end. */
RCTX_API bool rctx_deadline(const rctx *ctx, int64_t *deadline_ns) RCTX_NONNULL(1, 2);

/** rctx_remaining - nanoseconds left: 0 if ended or past, INT64_MAX without a deadline. Reads the clock only when there
 *  is a deadline; rctx_remaining_at() takes the time from the caller. */
RCTX_API int64_t rctx_remaining(const rctx *ctx) RCTX_NONNULL(1);
RCTX_API int64_t rctx_remaining_at(const rctx *ctx, int64_t now_ns) RCTX_NONNULL(1);

/** rctx_now - the clock of deadlines: CLOCK_MONOTONIC for the default manager; rctx_now_of() asks the clock of the
 *  context's manager. */
RCTX_API int64_t rctx_now(void);
RCTX_API int64_t rctx_now_of(const rctx *ctx) RCTX_NONNULL(1);

/** rctx_name - the name given in its spec, or NULL. Names are not inherited. */
RCTX_API const char *rctx_name(const rctx *ctx) RCTX_NONNULL(1);

/**
 * rctx_describe - print the chain from the root: "context.Background.WithValue(user, ann).WithDeadline(12.5s [3.0s])".
 *
 * Writes at most @size bytes with the closing NUL and returns the length that the whole text has, as snprintf. Values are
 * printed by their key's own printer only; a NULL value prints <nil>. For debugging and tests; iterative.
 */
RCTX_API size_t rctx_describe(const rctx *ctx, char *buf, size_t size) RCTX_NONNULL(1);

static inline void rctx__scope_end(rctx **ctx) {
  rctx__end_scope(*ctx); /* NULL: nothing. No test here: analyzers would follow it */
}
static inline void rctx__scope_unref(const rctx **ctx) {
  if (*ctx) rctx_unref(*ctx);
}

/* ---- where contexts are made (leaks.h) --------------------------------------------------------------------------- */

extern RCTX_API unsigned rctx__leaks_every; /* internal: 0: nothing is kept */
RCTX_API void rctx__leak_made(rctx *ctx, const struct rctx_site *site);
static inline rctx *rctx__made(rctx *ctx, const struct rctx_site *site) {
  if (__builtin_expect(__atomic_load_n(&rctx__leaks_every, __ATOMIC_RELAXED) != 0, 0)) rctx__leak_made(ctx, site);
  return ctx;
}

/** RCTX_LEAK_SITE - name this line as the maker of a derived context. Evaluates to it. */
#define RCTX_LEAK_SITE(ctx) rctx__made((ctx), RCTX__SITE(#ctx))
/* Each header does this below its own declarations: a macro must not get at a declaration of its name. */
#ifdef RCTX_LEAK_SITES
#define RCTX__MADE(what, ctx) rctx__made((ctx), RCTX__SITE(what))
#define rctx_with_cancel(...) RCTX__MADE("rctx_with_cancel", rctx_with_cancel(__VA_ARGS__))
#define rctx_with_deadline(...) RCTX__MADE("rctx_with_deadline", rctx_with_deadline(__VA_ARGS__))
#define rctx_with_timeout(...) RCTX__MADE("rctx_with_timeout", rctx_with_timeout(__VA_ARGS__))
#define rctx_with_timeout_at(...) RCTX__MADE("rctx_with_timeout_at", rctx_with_timeout_at(__VA_ARGS__))
#define rctx_with_deadline_cause(...) RCTX__MADE("rctx_with_deadline_cause", rctx_with_deadline_cause(__VA_ARGS__))
#define rctx_with_timeout_cause(...) RCTX__MADE("rctx_with_timeout_cause", rctx_with_timeout_cause(__VA_ARGS__))
#define rctx_with_timeout_at_cause(...)                                                                                \
  RCTX__MADE("rctx_with_timeout_at_cause", rctx_with_timeout_at_cause(__VA_ARGS__))
#define rctx_without_cancel(...) RCTX__MADE("rctx_without_cancel", rctx_without_cancel(__VA_ARGS__))
#define rctx_with_idle(...) RCTX__MADE("rctx_with_idle", rctx_with_idle(__VA_ARGS__))
#define rctx_derive(...) RCTX__MADE("rctx_derive", rctx_derive(__VA_ARGS__))
#endif

RCTX_END_DECLS
#endif
