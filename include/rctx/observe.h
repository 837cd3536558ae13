/*
 * rctx/observe.h - a running program seen from outside: its live tree, its counts, its probes. Costs nothing when not used.
 *
 * The tree is shown downwards from a context that the caller has, as a rule the server's: roots link nothing, so there is
 * no list of all contexts of a manager, and a dump of a root shows the root alone.
 *
 * Probes (USDT, provider rctx): in a library that was built with RCTX_PROBES there are nop instructions that bpftrace, perf and
 * systemtap can turn into traps:
 *
 *   cancel(ctx, state, cause)    an explicit cancel has ended a context that has children or somebody to tell; state & 0xfff
 *                                is the positive errno, cause a struct rctx_cause *
 *   deadline(ctx, err)           a timer has ended a context
 *   task_begin(ctx, fn, arg)     a task of rctx_execute() or of a group begins, task_end(ctx, fn, result) has returned
 *   orphan(ctx, fn)              the caller has left a task that goes on
 *   signal(ctx, number)          a signal is about to end a context
 *   drain_level(drain, level)    a drain has got to a level
 *
 * err and result are negative numbers as rctx_err() gives them. A lone leaf that ends has no probe, and no instruction for it.
 *
 * Promises cited below:
 *   [OBSERVE-1] What a dump writes is complete and valid in its format, whatever names, values and causes contain and
 *               however small the room is.
 *   [OBSERVE-2] What exists during the whole visit is shown exactly once, below its parent, unless the dump says that it
 *               was cut.
 *   [OBSERVE-3] Nothing is written, allocated or called while a lock is held.
 */
#ifndef RCTX_OBSERVE_H
#define RCTX_OBSERVE_H

#include <rctx/manager.h>

RCTX_BEGIN_DECLS

enum rctx_dump_format {
  RCTX_DUMP_TEXT, /* a line per context, indented; a last line with the number of contexts */
  RCTX_DUMP_JSON, /* {"contexts":[{"id":1,"parent":null,...},...],"truncated":false} and a newline */
  RCTX_DUMP_DOT   /* for Graphviz: dot -Tsvg */
};

/** Takes the next piece of a dump: not closed by a NUL. Returns 0; a negative errno ends the dump. */
typedef int (*rctx_dump_write)(const char *text, size_t size, void *arg);

/**
 * rctx_dump - write what hangs below @top, and @top itself.
 *
 * Shown of each: id (1 is top; parents before children), parent, kind (cancel, deadline, value, detached; root; error: one
 * that was refused), name, whether it is live or with which error and cause it ended, its deadline and the nanoseconds
 * left, whether its own timer is armed, the numbers of children (of any kind, ended ones too), of registrations and of
 * references, and its own values whose keys are loggable (value.h). Of these: integers, bool and NULL, and strings
 * without a destructor, up to 128 bytes. Others are there as "?": their print() or destructor could run only under the lock.
 * Such a string has to be readable as long as its context exists, as for log lines. Names and causes are cut at 128 bytes.
 * The time left is missing where a context has another clock than top's.
 *
 * @room, @room_size: memory for the snapshot, the caller's: about 100 bytes per context, 30 per name or cause, 90 per value. First
 *   the tree is copied there, then it is written. What does not fit is left out, contexts visited last first, and the
 *   dump says so ("truncated":true): a context has "more":true where children of it may be missing.
 * @write, @arg: called in this thread with pieces of at most 512 bytes, no lock held. It may use the library.
 * Returns 0; -ENOSPC: something was left out; -EINVAL: no such format; otherwise what @write returned.
 *
 * Threads: any that holds top; contexts may be derived and may end meanwhile. Consistency: while the children of a context
 * are visited none is added and none goes (where threads contend for it: one of its lists at a time). States, counts
 * and deadlines are each of the moment at which the context was visited. [OBSERVE-2]
 * Blocks: during the visit whoever derives from, ends or cancels a context between top and the one being visited waits. That
 * is some 100 ns per context shown: the room bounds it.
 * Allocates nothing; stack: about 1 KiB, however deep the tree.
 */
RCTX_API int rctx_dump(const rctx *top, enum rctx_dump_format format, void *room, size_t room_size,
                       rctx_dump_write write, void *arg) RCTX_NONNULL(1, 5);

/** rctx_dump_fd - the same to a descriptor, by write(2). Returns also -errno of that. */
RCTX_API int rctx_dump_fd(const rctx *top, enum rctx_dump_format format, void *room, size_t room_size, int fd)
    RCTX_NONNULL(1);

/**
 * rctx_prometheus - rctx_stats() as Prometheus text (format 0.0.4): gauges rctx_contexts, rctx_timers, rctx_deferred,
 * rctx_callbacks, rctx_tasks, rctx_orphans, rctx_threads, rctx_bytes.
 *
 * Returns the length of the whole text without its NUL. If that is not less than @size, @buf has as many whole metrics
 * as fit, and a NUL if size is not 0. 2048 bytes are enough.
 * Cost: that of rctx_stats(): the counts are summed when they are asked for.
 */
RCTX_API size_t rctx_prometheus(const rctx_manager *manager, char *buf, size_t size) RCTX_NONNULL(1);

/** rctx_probes - true: this library has probes. */
RCTX_API bool rctx_probes(void) __attribute__((const));

RCTX_END_DECLS
#endif
