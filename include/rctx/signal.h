/*
 * rctx/signal.h - a context that ends when the process gets a signal (Go's signal.NotifyContext).
 *
 * The thread is the process's, not a manager's, and stays until the process ends.
 *
 * Promises cited below:
 *   [SIG-1] The handler does only what is safe in one: it counts the signal, wakes the library's signal thread (named
 *           "rctx-signal", started by the first rctx_with_signal(), all signals blocked), keeps errno, and calls the handler
 *           that the host had. The thread then ends the contexts; so a signal may come at any moment, also inside this library.
 *   [SIG-2] Coexistence: a handler of the host that was there before is called for each signal, with the same arguments and
 *           under its own flags and mask; SIG_DFL and SIG_IGN are replaced for the time being. A host that puts a handler
 *           over ours later is heard, too: the next context goes on top of it, and one that chains is called once.
 *   [SIG-3] Restoration: when the last context for a signal has ended, for whatever reason, what was there before is put
 *           back, unless the host has put its own in its place meanwhile. So after a first Ctrl-C a second one does what it
 *           would have done without this library.
 */
#ifndef RCTX_SIGNAL_H
#define RCTX_SIGNAL_H

#include <rctx/context.h>

RCTX_BEGIN_DECLS

/**
 * rctx_with_signal - rctx_with_cancel() that also ends when one of the listed signals comes.
 *
 * The list ends with 0: rctx_with_signal(parent, SIGTERM, SIGINT, 0). The context ends with -ECANCELED; its cause has origin
 * RCTX_ORIGIN_SIGNAL, text "SIGTERM" and so on, and the number as an integer in cause->user (rctx_signal_of()).
 *
 * Returns: as rctx_with_cancel(). Ended already: with -EINVAL for an empty list or a number that can not be caught (SIGKILL,
 *          SIGSTOP, not a signal), cause RCTX_ORIGIN_MISUSE; -ENOMEM; -EAGAIN when the thread can not be started. Nothing is
 *          installed then.
 * Threads: any. Several contexts may list the same signal: all of them end.
 * Fork:    in the child the handlers stay; after rctx_after_fork_child() signals end contexts there, too.
 */
RCTX_API rctx *rctx_with_signal(const rctx *parent, int signal, ...) RCTX_NONNULL(1) RCTX_DERIVES;

/* A context of this kind is to be ended with rctx_end(): one that is only dropped stays, with its handler, until its signal or its
 * parent's end comes. */

/** rctx_with_signals - the same for a counted array. */
RCTX_API rctx *rctx_with_signals(const rctx *parent, const int *signals, size_t nsignals) RCTX_NONNULL(1) RCTX_DERIVES;

#ifdef RCTX_LEAK_SITES
#define rctx_with_signal(...) RCTX__MADE("rctx_with_signal", rctx_with_signal(__VA_ARGS__))
#define rctx_with_signals(...) RCTX__MADE("rctx_with_signals", rctx_with_signals(__VA_ARGS__))
#endif

/** rctx_signal_of - the signal that ended the context or the ancestor it ended with; 0: live, or ended otherwise. */
RCTX_API int rctx_signal_of(const rctx *ctx) RCTX_NONNULL(1);

RCTX_END_DECLS
#endif
