/*
 * after_stop: a registration is called, or stopped, exactly once; and then left alone.
 *
 *        marker    notify phase of the cancel: nodes 1 (its fn runs in this thread) and 0 (in this thread, or on a loop)
 *        drainer   the loop: runs what is in its queue when its eventfd says so
 *        stopper   rctx_after_stop_sync(0), or nothing
 *        other     rctx_after_stop(0), or nothing
 *        fn 1      calls rctx_after_stop_sync(0) from inside, or does nothing; fn 0 may do that to itself
 *
 * When all of stopper, other and fn 1 are through and one of them was a stop_sync (or a stop that said true), the caller
 * frees node 0. The context's memory goes with its last reference: one per registration, one for the marker.
 *
 *   ARMED ──fire, inline──────────────────────────> RUNNING ──> RAN
 *     │  └──fire, loop──> MOVING ──> QUEUED ──drain──┘
 *     │                                │
 *     └───────────stop────> STOPPING <─┘ stop     STOPPING ──> STOPPED
 *
 * Who wins the compare-and-swap out of ARMED or QUEUED owns the node: it alone unlinks it, under the lock of the list it
 * is in, lets go of the context, and writes the last state, which is the last touch. MOVING is left by the marker within a
 * few instructions: stop spins.
 *
 * The marker claims one node, lets go of the lock, runs it, and looks again: it must not claim a batch. A callback that
 * stops a later node of its own thread's batch could neither wait for it (itself) nor let the caller free it.
 *
 * Checked: fn 0 ran once and no stop said true, or fn 0 never ran and one stop said true; after that nobody touches the
 * node, nor a list's lock of a context whose memory is back; each list operation is done by the one owner; nothing is
 * left lying in the loop's queue.
 *
 * C: core/after.c rctx_after_stop, rctx_after_stop_sync, rctx__fire; core/loop.c rctx__queue_drain.
 *
 * PLANT BUG_CLAIM_PLAIN_STORE: the marker looks at the state and then stores the new one
 * PLANT BUG_UNLINK_BEFORE_CLAIM: stop unlinks the node and then tries to claim it
 * PLANT BUG_UNREF_BEFORE_UNLINK: stop gives the context's reference up before it unlinks
 * PLANT BUG_CTX_AFTER_RAN: the runner reads node->ctx after it has written RAN
 * PLANT BUG_BATCH_CLAIM: the marker claims all inline nodes first and then runs them
 * PLANT BUG_QUEUED_AFTER_SIGNAL: QUEUED is written after the queue's lock is released and the eventfd written
 * PLANT BUG_STOP_IGNORES_MOVING: stop says false for a node on its way to the queue
 * PLANT BUG_SYNC_DOES_NOT_WAIT: stop_sync returns while the callback runs in another thread
 */
#define ARMED 0
#define MOVING 1
#define QUEUED 2
#define RUNNING 3
#define RAN 4
#define STOPPING 5
#define STOPPED 6

#define MARKER 1
#define DRAINER 2
#define OTHERS 3

byte state[2];
bit  in_ctx[2] = 1, in_queue;      /* the two lists; only node 0 can go to the queue */
byte runner[2];                    /* who runs it: written with the claim, so that stop_sync knows itself */
bit  freed;                        /* node 0: given back to the caller */
bit  on_loop;                      /* node 0 is registered with a loop */
bit  ctx_lock, ctx_freed, queue_lock, signalled;
byte refs = 3;
byte runs, trues;                  /* ghosts, of node 0 */
byte stops;                        /* ghost: stop calls on 0 that are through or will never be made */
bit  drainer_rests = 1;
bit  quiet;                        /* ghost: one of them was a promise that 0 is left alone from now on */

#define alive(n)  assert(n == 1 || !freed)
#define ctx_alive assert(!ctx_freed)

inline LOCK_CTX()   { atomic { !ctx_lock -> ctx_alive; ctx_lock = 1 } }
inline UNLOCK_CTX() { atomic { ctx_alive; ctx_lock = 0 } }
inline UNREF_CTX()
{
	atomic {
		ctx_alive; assert(refs); refs--;
		if
		:: refs == 0 -> assert(!in_ctx[0] && !in_ctx[1] && !ctx_lock); ctx_freed = 1
		:: else
		fi
	}
}

/* Compare-and-swap; ok_ tells. */
inline CAS(n, from, to)
{
	atomic { alive(n); ok_ = (state[n] == from); state[n] = (ok_ -> to : state[n]) }
}

inline UNLINK_CTX(n) { atomic { alive(n); assert(in_ctx[n]); in_ctx[n] = 0 } }

/* rctx_after_stop(0); told_: what it returned. */
inline STOP()
{
#ifdef BUG_UNLINK_BEFORE_CLAIM
	LOCK_CTX();
	alive(0);
	in_ctx[0] = 0;
	UNLOCK_CTX();
#endif
	do
	:: atomic { state[0] == ARMED -> alive(0) }
		CAS(0, ARMED, STOPPING);
		if
		:: ok_ ->
#ifdef BUG_UNREF_BEFORE_UNLINK
			UNREF_CTX();
#endif
#ifndef BUG_UNLINK_BEFORE_CLAIM
			LOCK_CTX();
			UNLINK_CTX(0);
			UNLOCK_CTX();
#endif
#ifndef BUG_UNREF_BEFORE_UNLINK
			UNREF_CTX();
#endif
			atomic { alive(0); state[0] = STOPPED; trues++; told_ = 1 }
			break
		:: else
		fi
	:: atomic { state[0] == QUEUED -> alive(0) }
		CAS(0, QUEUED, STOPPING);
		if
		:: ok_ ->
			atomic { !queue_lock -> queue_lock = 1 }
			atomic { alive(0); assert(in_queue); in_queue = 0 }
			queue_lock = 0;
			UNREF_CTX();
			atomic { alive(0); state[0] = STOPPED; trues++; told_ = 1 }
			break
		:: else
		fi
#ifdef BUG_STOP_IGNORES_MOVING
	:: atomic { state[0] >= RUNNING || state[0] == MOVING -> alive(0); told_ = 0; break }
#else
	:: atomic { state[0] >= RUNNING -> alive(0); told_ = 0; break }
#endif
	od;                                /* MOVING: nothing is enabled until the marker has moved on */
	assert(told_ || state[0] >= RUNNING)  /* false: it runs, ran, or somebody else stopped it */
}

/* rctx_after_stop_sync(0) by thread `me`. */
inline STOP_SYNC(me)
{
	STOP();
#ifndef BUG_SYNC_DOES_NOT_WAIT
	if
	:: told_
	:: atomic { !told_ && (state[0] == RAN || state[0] == STOPPED) -> alive(0) }
	:: atomic { !told_ && state[0] == RUNNING && runner[0] == me -> alive(0) }     /* inside the callback */
	fi
#endif
}

/* One stop call is through. promise: nobody may touch node 0 from here on (but the other calls still under way). */
inline THROUGH(promise)
{
	atomic {
		stops++; quiet = quiet | promise; told_ = 0; ok_ = 0;
		if
		:: stops == 3 && quiet -> freed = 1
		:: else
		fi
	}
}

proctype stopper()
{
	bit ok_, told_;
	if
	:: STOP_SYNC(OTHERS); THROUGH(1)
	:: THROUGH(0)
	fi
}

proctype other()
{
	bit ok_, told_;
	if
	:: STOP(); THROUGH(told_)
	:: THROUGH(0)
	fi
}

/* Run a claimed node outside all locks. RAN is the last touch. */
inline RUN(n, me)
{
	if
	:: n == 0 ->
		atomic { alive(0); runs++; assert(runs == 1 && trues == 0) }
		if
		:: STOP_SYNC(me); assert(!told_)       /* inside its own callback: false, at once */
		:: true
		fi
	:: else ->
		if
		:: STOP_SYNC(me); THROUGH(1)
		:: THROUGH(0)
		fi
	fi;
#ifdef BUG_CTX_AFTER_RAN
	atomic { alive(n); assert(state[n] == RUNNING); state[n] = RAN }
	alive(n);
	UNREF_CTX()
#else
	UNREF_CTX();
	atomic { alive(n); assert(state[n] == RUNNING); state[n] = RAN }
#endif
}

/* Under the context's lock: claim node n if it is there and still ARMED. ok_ tells. */
inline CLAIM(n, to)
{
	ok_ = 0;
	if
	:: in_ctx[n] ->
#ifdef BUG_CLAIM_PLAIN_STORE
		atomic { alive(n); ok_ = (state[n] == ARMED) }
		if
		:: ok_ -> atomic { alive(n); state[n] = to }
		:: else
		fi
#else
		CAS(n, ARMED, to)
#endif
	:: else
	fi
}

inline MOVE()
{
	UNLINK_CTX(0);
	atomic { !queue_lock -> queue_lock = 1 }
	atomic { alive(0); in_queue = 1 }
#ifdef BUG_QUEUED_AFTER_SIGNAL
	queue_lock = 0;
	signalled = 1;
	atomic { alive(0); state[0] = QUEUED }
#else
	atomic { alive(0); state[0] = QUEUED }
	queue_lock = 0;
	signal_ = 1
#endif
}

proctype marker()
{
	bit ok_, told_, signal_, mine0, mine1;
	do
	::
		LOCK_CTX();
		CLAIM(1, RUNNING);
		mine1 = ok_;
#ifndef BUG_BATCH_CLAIM
		if
		:: mine1 ->
#else
		if
		:: mine1 -> UNLINK_CTX(1)
		:: else
		fi;
		if
		:: false ->
#endif
			runner[1] = MARKER;
			UNLINK_CTX(1);
			UNLOCK_CTX();
			RUN(1, MARKER);
			mine1 = 0
		:: else ->
			if
			:: on_loop ->
				CLAIM(0, MOVING);
				if
				:: ok_ -> MOVE()
				:: else
				fi;
				mine0 = 0
			:: else ->
				atomic { CLAIM(0, RUNNING); runner[0] = (ok_ -> MARKER : runner[0]) }
				mine0 = ok_;
				if
				:: mine0 -> UNLINK_CTX(0)
				:: else
				fi
			fi;
			UNLOCK_CTX();
			if
			:: mine1 -> RUN(1, MARKER)         /* BUG_BATCH_CLAIM only */
			:: else
			fi;
			if
			:: mine0 -> RUN(0, MARKER)
			:: else
			fi;
			break
		fi
	od;
	if
	:: signal_ -> signalled = 1                /* the eventfd, outside the locks */
	:: else
	fi;
	UNREF_CTX()
}

proctype drainer()
{
	bit ok_, told_;
end:	do
	:: atomic { signalled -> signalled = 0; drainer_rests = 0 }
		atomic { !queue_lock -> queue_lock = 1 }
		if
		:: in_queue ->
			atomic { CAS(0, QUEUED, RUNNING); runner[0] = (ok_ -> DRAINER : runner[0]) }
			if
			:: ok_ -> atomic { alive(0); in_queue = 0 }
			:: else
			fi
		:: else -> ok_ = 0
		fi;
		queue_lock = 0;
		if
		:: ok_ -> RUN(0, DRAINER)
		:: else
		fi;
		drainer_rests = 1
	od
}

init
{
	atomic {
		if
		:: on_loop = 0
		:: on_loop = 1
		fi;
		run drainer(); run marker(); run stopper(); run other()
	}
	/* Everybody is through and the loop has nothing to do. */
	(_nr_pr == 2 && drainer_rests && !signalled) ->
	assert(runs + trues == 1);
	assert((state[0] == RAN) == runs && (state[0] == STOPPED) == trues && state[1] == RAN);
	assert(!in_queue && ctx_freed && refs == 0)
}
