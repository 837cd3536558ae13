/*
 * pool: submit, idle, call, start, block, stop: no task is forgotten and no thread is waited for in vain.
 *
 *        first    prepares and submits task A, which submits B and waits: for B (as rctx_execute() in a task: it blocks,
 *                 prepares and submits), or for B and C, or C (as a task that waits for a group to which `second` adds C: it
 *                 blocks last)
 *        second   prepares and submits task C; may take it back from the queue
 *        workers  started one by one; joined by fini, when all tasks are done, though submits may not have returned
 *
 * All that is under the pool's lock is one step with the locking: nothing else is touched there. Outside it are the start of a
 * thread and the call, the store to wake[] of a worker that has been taken off the idle list.
 *
 *   running + idle + blocked + looking (called, being started, on its way back from a task) = threads
 *
 * Who is looking will look at the queue under the lock, and when it takes a task sees to a thread for those behind it: so
 * tasks that wait need another thread only if nobody is looking. A thread that is being started is one of them although the start may fail: whose start has failed therefore
 * looks whether somebody has counted on it. And whoever relies on a thread to be there (prepare, and who is about to block)
 * counts only those that are, threads - starting.
 *
 * threads_max is 1 or 2. Starting a thread may fail, as often as it likes; or else, with 2, C does not return before B has
 * begun: so a task that is left waiting although fewer than threads_max run is a deadlock, not only one that is forgotten.
 * Who may not block (the start has failed and no other thread is there) does not wait: for rctx_execute() that is an
 * error, a group's waiter runs what has not begun itself (group.pml).
 *
 * Checked: every task that a prepare has promised is run, exactly once, and whoever waits for it goes on; never more than
 * threads_max take a task; when all tasks are known to be done none is counted as running; fini ends all threads and leaves
 * nothing, and nobody touches the pool afterwards.
 *
 * C: core/executor.c work, call, start_thread, want_thread_locked, staffed_locked, rctx__pool_prepare, rctx__pool_submit,
 * rctx__pool_task_over, rctx__blocked_begin, rctx__blocked_end, rctx__job_take_back, rctx__workers_fini.
 *
 * PLANT BUG_IDLE_WITHOUT_LOOK: a worker that has seen nothing to do unlocks, and then falls idle without another look
 * PLANT BUG_FINISHED_WITHOUT_LOOK: a worker that has finished falls idle at once
 * PLANT BUG_WAKE_CLEARED_LATE: the worker clears wake after it is listed and has unlocked
 * PLANT BUG_CALLED_STAYS_LISTED: who calls leaves the worker in the idle list
 * PLANT BUG_TAKER_CALLS_NOBODY: who takes a task does not see to those behind it
 * PLANT BUG_BLOCKED_COUNTED: a blocked thread counts as running
 * PLANT BUG_BLOCKED_TAKES_A_PLACE: whether a thread is started does not subtract the blocked ones
 * PLANT BUG_BLOCKED_IS_LOOKING: a blocked thread counts as one that is looking
 * PLANT BUG_IDLE_IS_LOOKING: an idle thread counts as one that is looking
 * PLANT BUG_BLOCK_CALLS_NOBODY: who blocks does not look whether a task waits for its place
 * PLANT BUG_BLOCK_NEEDS_NOBODY: who blocks as the last one does not see to a thread that is not blocked
 * PLANT BUG_STARTING_IS_THERE: a thread that is being started counts as one that is there
 * PLANT BUG_FAILED_START_FORGOTTEN: whose start has failed does not look whether somebody has counted on it
 * PLANT BUG_START_FAILURE_IGNORED: who blocks does not look what is left when its start has failed
 * PLANT BUG_RUNS_OVER_MAX: a thread that finishes takes the next task whatever is running
 * PLANT BUG_OVER_AFTER_DONE: a task counts as running until after its result is known
 * PLANT BUG_STOP_UNLISTED: fini calls the idle ones and leaves no word for the others
 * PLANT BUG_FINI_IGNORES_SUBMITS: fini does not wait for a submit that is still starting a thread
 */
#define SLOTS 5
#define NOBODY SLOTS
#define A 0
#define B 1
#define C 2
#define NONE 3
#define GONE 4

byte max;
bit  can_fail, joins;          /* joins: A waits for B and C */

/* Under the lock. */
byte queue[3] = NONE, queued;  /* the first comes first */
byte idle[SLOTS], idles;       /* a stack */
byte threads, running, blocked, starting;
bit  stopping;

byte submitting;
bit  gone;
bit  wake[SLOTS] = 1;          /* looked at by a listed worker only: what it is before makes no difference */
byte slots, left;              /* ghosts: workers started and gone */
bit  begun[3], done[3], off[3];    /* ghosts; off: nothing was promised and it is not submitted, or it was taken back */
bit  borrowed;                 /* ghost: the pool is, until C has been taken back or it is too late */

#ifdef BUG_STARTING_IS_THERE
#define there threads
#else
#define there (threads - starting)
#endif
#ifdef BUG_BLOCKED_TAKES_A_PLACE
#define places threads
#else
#define places (threads - blocked)
#endif

#define staffed (there > blocked)
#ifdef BUG_IDLE_IS_LOOKING
#define looking (threads - running - blocked)
#elif defined(BUG_BLOCKED_IS_LOOKING)
#define looking (threads - running - idles)
#else
#define looking (threads - running - blocked - idles)
#endif

#define alive assert(!gone)

/* ---- under the lock ---------------------------------------------------------------------------------------------- */

inline BEGIN_START() { threads++; starting++; start_ = 1 }

/* w_: whom to call; start_: a thread is to be started. */
inline WANT(may_start)
{
	alive;
	assert(running + blocked + idles <= threads);
	if
	:: !queued || looking || running >= max
	:: else ->
		if
		:: idles ->
			w_ = idle[idles - 1];
#ifndef BUG_CALLED_STAYS_LISTED
			idles--;
			idle[idles] = 0
#endif
		:: !idles && may_start && places < max -> BEGIN_START()
		:: else
		fi
	fi
}

/* t_: the task, or NONE. */
inline TAKE()
{
	alive;
	if
#ifdef BUG_RUNS_OVER_MAX
	:: queued -> assert(running < max);
#else
	:: queued && running < max ->
#endif
		t_ = queue[0]; queue[0] = queue[1]; queue[1] = queue[2]; queue[2] = NONE;
		queued--;
		running++;
		assert(!begun[t_]);
		begun[t_] = 1
#ifndef BUG_TAKER_CALLS_NOBODY
		WANT(true)
#endif
	:: else -> t_ = NONE
	fi
}

inline STOP_OR_LIST()
{
	if
	:: stopping -> t_ = GONE
	:: else ->
#ifndef BUG_WAKE_CLEARED_LATE
		wake[me] = 0;
#endif
		idle[idles] = me; idles++
	fi
}

/* Take a task, or leave if it is time to, or fall idle. */
inline LOOK()
{
	TAKE();
	if
	:: t_ == NONE -> STOP_OR_LIST()
	:: else
	fi
}

/* ---- outside the lock -------------------------------------------------------------------------------------------- */

inline CALL()
{
	if
	:: w_ < NOBODY -> atomic { alive; wake[w_] = 1; w_ = NOBODY }
	:: else
	fi
}

/* Start a thread if start_ says so. fail_ tells. */
inline START()
{
	if
	:: atomic { start_ -> assert(slots < SLOTS); run worker(slots); slots++ }
		atomic { alive; starting--; start_ = 0 }
	:: atomic { start_ && can_fail -> alive; starting--; threads--; start_ = 0; fail_ = 1;
#ifndef BUG_FAILED_START_FORGOTTEN
			WANT(false)
#endif
		}
		CALL()
	:: !start_
	fi
}

inline PREPARE()
{
	atomic {
		staffed || threads - blocked < max ->       /* else: until one of those that are being started is there, or not */
		alive;
		if
		:: !staffed -> BEGIN_START()
		:: else
		fi;
		fail_ = 0
	}
	START()
}

inline SUBMIT(t)
{
	atomic { queue[queued] = t; queued++; WANT(true); submitting++ }
	CALL();
	START();                   /* whether it fails or not */
	atomic { alive; submitting--; fail_ = 0 }
}

/* fail_: not blocked, and nobody to wait for. */
inline BLOCKED_BEGIN()
{
	atomic {
#ifndef BUG_BLOCKED_COUNTED
		running--;
#endif
		blocked++;
#ifndef BUG_BLOCK_CALLS_NOBODY
		WANT(true);
#endif
#ifndef BUG_BLOCK_NEEDS_NOBODY
		if
		:: !start_ && !staffed -> BEGIN_START()
		:: else
		fi;
#endif
		fail_ = 0
	}
	CALL();
	START();
	if
	:: fail_ ->
#ifndef BUG_START_FAILURE_IGNORED
		fail_ = !staffed;
		if
		:: fail_ -> BLOCKED_END()
		:: else
		fi
#else
		fail_ = 0
#endif
	:: else
	fi
}

inline BLOCKED_END()
{
	atomic {
		blocked--;
#ifndef BUG_BLOCKED_COUNTED
		running++
#endif
	}
}

inline SUBMIT_B()
{
	PREPARE();
	if
	:: fail_ -> off[B] = 1
	:: else -> SUBMIT(B)
	fi
}

/* rctx__job_take_back(): it has been claimed by somebody else than a thread of the pool. Its place in the queue closes up. */
inline TAKE_BACK(t)
{
	alive;
	if
	:: queue[0] == t -> queue[0] = queue[1]; queue[1] = queue[2]; queue[2] = NONE; queued--; off[t] = 1
	:: queue[1] == t -> queue[1] = queue[2]; queue[2] = NONE; queued--; off[t] = 1
	:: queue[2] == t -> queue[2] = NONE; queued--; off[t] = 1
	:: else
	fi
}

#define over(t) (done[t] || off[t])

inline RUN_A()
{
	if
	:: joins -> SUBMIT_B()
	:: joins -> off[B] = 1         /* the group has C only */
	:: else
	fi;
	BLOCKED_BEGIN();
	if
	:: fail_ -> off[B] = off[B] || !joins
	:: else ->
		if
		:: joins -> over(B) && over(C)
		:: else -> SUBMIT_B(); over(B)
		fi;
		BLOCKED_END()
	fi
}

proctype worker(byte me)
{
	byte t_, w_ = NOBODY; bit start_, fail_;
#ifdef BUG_IDLE_WITHOUT_LOOK
	atomic { TAKE() }
	if
	:: t_ == NONE -> atomic { STOP_OR_LIST() }
	:: else
	fi;
#else
	atomic { LOOK() }
#endif
	do
	:: t_ < NONE ->
		CALL();
		START();
		fail_ = 0;
		if
		:: t_ == A -> RUN_A()
		:: t_ == C && max == 2 && !can_fail -> begun[B] || off[B]
		:: else
		fi;
#ifdef BUG_OVER_AFTER_DONE
		atomic { done[t_] = 1; t_ = NONE; fail_ = 0 }
		running--;
#else
		atomic { alive; running--; fail_ = 0 }                    /* rctx__pool_task_over() */
		atomic { done[t_] = 1; t_ = NONE }
#endif
#if defined(BUG_FINISHED_WITHOUT_LOOK)
		atomic { STOP_OR_LIST() }
#elif defined(BUG_IDLE_WITHOUT_LOOK)
		atomic { TAKE() }
		if
		:: t_ == NONE -> atomic { STOP_OR_LIST() }
		:: else
		fi
#else
		atomic { LOOK() }
#endif
	:: t_ == NONE ->
#ifdef BUG_WAKE_CLEARED_LATE
		wake[me] = 0;
#endif
		atomic { wake[me] -> LOOK() }
	:: atomic { t_ == GONE -> left++; break }
	od
}

proctype submitter(byte t)
{
	byte w_ = NOBODY; bit start_, fail_;
	PREPARE();
	if
	:: fail_ -> off[t] = 1
	:: else -> SUBMIT(t)
	fi;
	if
	:: t == C && borrowed ->
		atomic { TAKE_BACK(C); borrowed = 0 }
	:: else
	fi
}

init
{
	atomic {
		if
		:: max = 1; can_fail = 1
		:: max = 2; can_fail = 1
		:: max = 2
		:: max = 1; borrowed = 1
		:: max = 2; borrowed = 1
		fi;
		if
		:: joins = 0
		:: joins = 1
		fi;
		run submitter(A); run submitter(C)
	}
	atomic { over(A) && over(C) && (off[A] || over(B)) && !borrowed -> assert(running == 0) }
	atomic {                       /* fini; the calls outside the lock, but of one worker each */
#ifndef BUG_STOP_UNLISTED
		stopping = 1;
#endif
		do
		:: idles -> idles--; wake[idle[idles]] = 1; idle[idles] = 0
		:: else -> break
		od
	}
#ifndef BUG_FINI_IGNORES_SUBMITS
	submitting == 0 ->
#endif
	atomic {
		left == slots ->
		gone = 1;
		assert(queued == 0 && running == 0 && blocked == 0 && idles == 0);
#ifndef BUG_FINI_IGNORES_SUBMITS
		assert(starting == 0 && threads == slots)
#endif
	}
}
