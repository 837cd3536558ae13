/*
 * execute: one task of rctx_execute() raced against its context.
 *
 *        caller     registers note_end on the context, submits the job, awaits, stops the registration, drops the job, returns;
 *                   then ends the context
 *        worker     the executor's thread: gets the job at any time after the submit, also when the caller has long returned,
 *                   unless the caller has taken it back from the queue
 *        canceller  ends the context or does not; runs note_end if the registration is there by then
 *
 *   QUEUED --worker--> CLAIMED --no ENDED--> RUNNING --fn, cleanup--> DONE       | LEFT by a caller that returns first
 *     |                   \--ENDED, cleanup--> DONE
 *     \--caller, ENDED--> WITHDRAWN           the caller takes the job back from the queue, if it can, and runs the cleanup
 *
 * ENDED beside any of them: note_end has run. Whoever moves the word out of QUEUED owns the cleanup and the job's reference on
 * the context. So the worker touches the context only after its claim; and CLAIMED becomes RUNNING by a compare-and-swap
 * that expects no ENDED. Nobody has to be woken for it: a caller that sleeps has found no ENDED either, and note_end wakes it.
 *
 * fn returns by itself, or not before its caller has left (only if the context is going to end): so a caller that does not
 * return at the end of the context is a deadlock here. The futex compares the word in the step in which it falls asleep; it
 * never returns for nothing, so a lost wakeup is a deadlock, too. The registration's own protocol (after_stop.pml) is
 * reduced to ARMED, RUNNING, RAN or STOPPED.
 *
 * Checked: cleanup exactly once and before the caller hears that it has been; fn at most once, and not at all if the
 * caller hears so; context and job are touched by holders only and given back exactly once; the result is read after
 * DONE only; a caller that hears of DONE finds the task's hold on the context gone; orphans is never below 0 and comes
 * back to 0; nobody waits for ever.
 *
 * C: core/executor.c rctx__execute, await, finish, run_execution, note_end, rctx__job_claim, rctx__job_take_back,
 * rctx__job_drop.
 *
 * PLANT BUG_LOOK_BEFORE_CLAIM: the worker asks the context before it has claimed the job
 * PLANT BUG_WITHDRAWN_BY_ANY_WORD: the caller takes every word in which nothing was started for its own withdrawal
 * PLANT BUG_RUNS_ALTHOUGH_ENDED: CLAIMED becomes RUNNING whether ENDED is there or not
 * PLANT BUG_CLEANUP_IN_BOTH: a worker that finds the job withdrawn runs the cleanup, too
 * PLANT BUG_LEFT_PLAIN_STORE: LEFT is stored without comparing
 * PLANT BUG_ORPHANS_AFTER_LEFT: orphans is raised when LEFT can be seen already
 * PLANT BUG_ORPHAN_WITHOUT_LEFT: the caller leaves and does not say so
 * PLANT BUG_WAKE_BEFORE_DONE: the worker wakes and then stores DONE
 * PLANT BUG_NO_WAKE_AT_END: note_end sets ENDED and wakes nobody
 * PLANT BUG_FUTEX_WITHOUT_COMPARE: the caller falls asleep whatever the word has become
 * PLANT BUG_RESULT_AFTER_DONE: the result is written after DONE
 * PLANT BUG_UNREF_AFTER_DONE: the job's reference on the context goes after DONE
 * PLANT BUG_ENDED_PLAIN_STORE: note_end looks at the word and then stores it with ENDED
 * PLANT BUG_DROP_BEFORE_STOP: the caller drops the job before its registration is quiet
 * PLANT BUG_TAKE_BACK_BLINDLY: the caller drops the executor's hold whether the job was still in the queue or not
 * PLANT BUG_ONE_HOLDER: the job has one reference, which the caller drops
 */
#define QUEUED    0
#define CLAIMED  1
#define RUNNING   2
#define WITHDRAWN 3
#define DONE      4
#define PHASE     15
#define ENDED     16
#define LEFT      32

#define NOTHING 0
#define ARMED   1
#define FIRING  2
#define RAN     3
#define STOPPED 4

#define FINISHED    1
#define ORPHANED    2
#define REFUSED     3
#define TAKEN_BACK  4
#define not_started(what) (what == REFUSED || what == TAKEN_BACK)

/* The job. */
byte word = QUEUED;
bit  started, result;
#ifdef BUG_ONE_HOLDER
byte job_refs = 1;
#else
byte job_refs = 2;
#endif
bit  job_freed;
bit  asleep;                   /* the caller, on the word */

byte reg = NOTHING;            /* the registration on the context, which lies in the job */

/* The context. */
bit  ended;
byte refs = 3;                 /* the caller's handle, the canceller's, the job's */
bit  ctx_freed;
bit  job_holds = 1;            /* ghost: the job's is still there */
bit  returned;                 /* ghost: the caller has */

byte orphans;
bit  submitted, taken;         /* in the executor's queue; out of it again */
bit  will_end, stuck;          /* the canceller is going to end it; fn waits for its caller to leave */
byte fns, cleanups;            /* ghosts */

#define job_alive assert(!job_freed)
#define ctx_alive assert(!ctx_freed)

inline WAKE() { asleep = 0 }   /* uses the address only */

inline UNREF()
{
	atomic {
		ctx_alive; assert(refs); refs--;
		ctx_freed = (refs == 0)
	}
}

inline UNREF_OF_JOB() { atomic { assert(job_holds); job_holds = 0; UNREF() } }

inline DROP_JOB()
{
	atomic {
		job_alive; assert(job_refs); job_refs--;
		job_freed = (job_refs == 0)
	}
}

/* From the queue of our pool, and with it the executor's hold; not from an embedder's. */
inline TAKE_BACK()
{
	if
	:: true
#ifdef BUG_TAKE_BACK_BLINDLY
	:: DROP_JOB(); taken = 1
#else
	:: atomic { job_alive; ok_ = !taken; taken = 1 }
		if
		:: ok_ -> DROP_JOB()
		:: else
		fi
#endif
	fi
}

inline CLEANUP() { atomic { ctx_alive; job_alive; cleanups++; assert(cleanups == 1) } }

inline NOTE_END()
{
#ifdef BUG_ENDED_PLAIN_STORE
	atomic { job_alive; n_ = word }
	atomic { job_alive; word = n_ | ENDED; n_ = 0 }
#else
	atomic { job_alive; word = word | ENDED }
#endif
#ifndef BUG_NO_WAKE_AT_END
	WAKE()
#endif
}

/* The rest of a registration that fires, in the thread that fires it: its reference, then the state as the last touch. */
inline FIRE()
{
	NOTE_END();
	UNREF();
	atomic { job_alive; assert(reg == FIRING); reg = RAN }
}

inline STOP_SYNC()
{
	atomic {
		reg != FIRING ->
		job_alive;
		if
		:: reg == ARMED -> reg = STOPPED; UNREF()
		:: else
		fi
	}
}

/* The compare-and-swap s_ -> to; ok_ tells. */
inline CAS(to) { atomic { job_alive; ok_ = (word == s_); word = (ok_ -> to : word) } }

inline RAISE_ORPHANS() { orphans++ }
inline LOWER_ORPHANS() { atomic { assert(orphans); orphans-- } }

inline LEAVE()
{
#if defined(BUG_LEFT_PLAIN_STORE)
	RAISE_ORPHANS();
	atomic { job_alive; word = s_ | LEFT }
	what_ = ORPHANED
#elif defined(BUG_ORPHANS_AFTER_LEFT)
	CAS(s_ | LEFT);
	if
	:: ok_ -> RAISE_ORPHANS(); what_ = ORPHANED
	:: else
	fi
#elif defined(BUG_ORPHAN_WITHOUT_LEFT)
	RAISE_ORPHANS();
	what_ = ORPHANED
#else
	RAISE_ORPHANS();
	CAS(s_ | LEFT);
	if
	:: ok_ -> what_ = ORPHANED
	:: else -> LOWER_ORPHANS()
	fi
#endif
}

inline SLEEP()
{
	if
#ifdef BUG_FUTEX_WITHOUT_COMPARE
	:: asleep = 1;
#else
	:: atomic { word == s_ -> job_alive; asleep = 1 }
#endif
		!asleep
#ifndef BUG_FUTEX_WITHOUT_COMPARE
	:: atomic { word != s_ -> job_alive }
#endif
	fi
}

inline AWAIT()
{
	do
	:: what_ -> break
	:: !what_ ->
		atomic { job_alive; s_ = word }
		if
		:: (s_ & PHASE) == DONE ->
			atomic { job_alive; what_ = (started -> FINISHED : REFUSED); result_ = result; assert(result_) }
		:: (s_ & PHASE) == QUEUED && (s_ & ENDED) ->
			CAS((s_ & ~PHASE) | WITHDRAWN);
			what_ = (ok_ -> TAKEN_BACK : 0)
		:: (s_ & PHASE) == RUNNING && (s_ & ENDED) -> LEAVE()
		:: else -> SLEEP()
		fi
	od
}

proctype caller()
{
	byte s_, what_, n_; bit ok_, result_, mine_;
	atomic {
		ctx_alive; job_alive; refs++;
		mine_ = ended;             /* it has ended: note_end is run here, at once */
		reg = (mine_ -> FIRING : ARMED)
	}
	if
	:: mine_ -> FIRE()
	:: else
	fi;
	submitted = 1;
	AWAIT();
	atomic { s_ = 0; ok_ = 0 }
	if
#ifdef BUG_WITHDRAWN_BY_ANY_WORD
	:: not_started(what_) -> TAKE_BACK(); CLEANUP(); UNREF_OF_JOB()
#else
	:: what_ == TAKEN_BACK -> TAKE_BACK(); CLEANUP(); UNREF_OF_JOB()
#endif
	:: what_ == ORPHANED -> ctx_alive      /* the error; the caller's own handle keeps it */
	:: else
	fi;
#ifdef BUG_DROP_BEFORE_STOP
	DROP_JOB();
	STOP_SYNC();
#else
	STOP_SYNC();
	DROP_JOB();
#endif
	atomic {
		returned = 1;
		assert(what_ == ORPHANED || (cleanups == 1 && !job_holds));
		assert(what_ != FINISHED || fns == 1);
		assert(what_ != ORPHANED || ended);
		assert(ended || what_ == FINISHED);
		mine_ = 0; result_ = 0
	}
	UNREF();
	(_nr_pr == 2) -> assert(!not_started(what_) || fns == 0)
}

inline FN()
{
	atomic { ctx_alive; job_alive; fns++; assert(fns == 1) }
	if
	:: stuck -> returned
	:: else
	fi
}

inline WRITE_RESULT() { atomic { job_alive; started = !err_; result = 1 } }

proctype worker()
{
	byte s_; bit ok_, err_;
	atomic { submitted -> ok_ = !taken; taken = 1 }
	if
	:: ok_
	:: else -> goto out
	fi;
#ifdef BUG_LOOK_BEFORE_CLAIM
	atomic { job_alive; ctx_alive; err_ = ended }
	atomic {
		job_alive;
		ok_ = ((word & PHASE) == QUEUED);
		word = (ok_ -> (word & ~PHASE) | (err_ -> CLAIMED : RUNNING) : word)
	}
#else
	atomic { job_alive; ok_ = ((word & PHASE) == QUEUED); word = (ok_ -> (word & ~PHASE) | CLAIMED : word) }
#endif
	if
	:: ok_ ->
#ifdef BUG_RUNS_ALTHOUGH_ENDED
		atomic { job_alive; word = (word & ~PHASE) | RUNNING }
#elif !defined(BUG_LOOK_BEFORE_CLAIM)
		atomic { job_alive; err_ = (word & ENDED) > 0; word = (err_ -> word : RUNNING) }
#endif
		if
		:: !err_ -> FN()
		:: else -> atomic { ctx_alive; assert(ended) }     /* its error is the result */
		fi;
#ifndef BUG_RESULT_AFTER_DONE
		WRITE_RESULT();
#endif
		CLEANUP();
#ifndef BUG_UNREF_AFTER_DONE
		UNREF_OF_JOB();
#endif
#ifdef BUG_WAKE_BEFORE_DONE
		WAKE();
#endif
		atomic { job_alive; s_ = word; word = DONE }
#ifdef BUG_UNREF_AFTER_DONE
		UNREF_OF_JOB();
#endif
#ifdef BUG_RESULT_AFTER_DONE
		WRITE_RESULT();
#endif
		if
		:: s_ & LEFT -> LOWER_ORPHANS()
#ifdef BUG_WAKE_BEFORE_DONE
		:: else
#else
		:: else -> WAKE()
#endif
		fi
	:: else
#ifdef BUG_CLEANUP_IN_BOTH
		-> CLEANUP()
#endif
	fi;
	DROP_JOB();
out:	skip
}

proctype canceller()
{
	byte n_; bit mine_;
	if
	:: will_end ->
		atomic { ctx_alive; ended = 1 }
		atomic { ctx_alive; mine_ = (reg == ARMED); assert(!mine_ || !job_freed); reg = (mine_ -> FIRING : reg) }
		if
		:: mine_ -> FIRE()
		:: else
		fi
	:: else
	fi;
	UNREF()
}

init
{
	atomic {
		if
		:: true
		:: will_end = 1
		:: will_end = 1; stuck = 1
		fi;
		run caller(); run worker(); run canceller()
	}
	(_nr_pr == 1) ->
	assert(cleanups == 1 && fns <= 1 && orphans == 0);
	assert(job_freed && job_refs == 0 && ctx_freed && refs == 0 && !job_holds)
}
