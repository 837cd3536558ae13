/*
 * rcu.h - the one place that knows liburcu.
 *
 * A walk over child lists runs inside rctx__rcu_enter/leave. Memory that a walk may still be standing on is handed to
 * rctx__rcu_wait() before reuse: it returns when every walk that was under way has ended.
 *
 * liburcu-bp needs no registration by the host, but the first read lock of a thread maps memory and aborts the process
 * when it can not. So a thread's first walk tries a mapping of that size before; when that fails, the walk is counted in
 * a global counter instead, and rctx__rcu_wait() reports "not yet" while it is non-zero. No call_rcu is used: no thread,
 * no allocation, no abort.
 */
#ifndef RCTX_CORE_RCU_H
#define RCTX_CORE_RCU_H

#include "platform.h"

/** Returns a token for rctx__rcu_leave(). Does not nest (walks run no callbacks). */
bool rctx__rcu_enter(void);
void rctx__rcu_leave(bool registered);

/** Wait for the walks under way. False: could not be waited for now (a counted walk is under way, another thread is
 *  waiting already and `block` is false, or the caller is itself inside a read section of liburcu-bp): try later. */
bool rctx__rcu_wait(bool block);

/** Around fork: no thread of ours is inside liburcu's locks between before and after. */
void rctx__rcu_before_fork(void);
void rctx__rcu_after_fork(void);
/** In the child: forget the readers that no longer exist. */
void rctx__rcu_forget_readers(void);

#endif
