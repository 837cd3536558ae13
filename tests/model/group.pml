/*
 * group: tasks that belong together: go, run, help, fail, wait, and the storage given back at once.
 *
 *        owner    goes 0 and 1, waits; when goer is through: fini, and the group's storage is gone
 *        goer     goes 2; for want of memory perhaps runs it itself
 *        workers  two threads of an executor that get jobs at any time after their submit, also when the group is gone
 *
 *   go: active + 1 -> listed, submitted --claim--> taken off the list -> run -> error noted -> active - 1, wake
 *
 * Under the group's lock are its list, its counts, its error and the sequence. A critical section that touches nothing else, or
 * a job's word by one compare-and-swap at a time that can only fail for good, is one step with the locking. (The list is a
 * set; it is searched in the order of the numbers.)
 *
 * The limit is none, 1 or 2. There may be no thread: the workers do nothing until the group is gone. The wait has to end all
 * the same [GROUP-3], and so has a go at the limit. Both run what has not begun. And who lists a job wakes sleepers, too:
 * they may have gone to sleep after it was counted and before it was listed, with nothing to run.
 *
 * Tasks 0 and 2 fail.
 *
 * The futex compares the sequence in the step in which it falls asleep, and does not return for nothing: a lost wakeup is
 * a deadlock.
 *
 * Checked: each task runs exactly once; no more at a time than the limit; wait returns only when all that were gone
 * before are done, and with the first error; the context is cancelled once; nobody touches the group after fini; each job is
 * given back once and not touched afterwards; nobody waits for ever.
 *
 * C: core/group.c rctx_group_go_at, start, run, rctx__group_run, help_locked, sleep_locked, join, wake_and_unlock;
 * core/executor.c rctx__job_claim, rctx__job_take_back, rctx__job_drop.
 *
 * PLANT BUG_ERROR_AFTER_ACTIVE: active is lowered before the error is noted
 * PLANT BUG_SEQUENCE_AFTER_UNLOCK: the sequence is raised after the unlock
 * PLANT BUG_WAITING_AFTER_UNLOCK: whether somebody has to be woken is read after the unlock
 * PLANT BUG_UNLINK_BEFORE_CLAIM: a worker takes the job off the list and then tries to claim it
 * PLANT BUG_HELP_WITHOUT_CLAIM: who waits takes a listed job without claiming it
 * PLANT BUG_SLEEPS_AFTER_HELP: who waits sleeps after it has run one, without looking for another
 * PLANT BUG_TAKE_BACK_BLINDLY: who helps drops the executor's hold whether the job was still in the queue or not
 * PLANT BUG_ONE_REFERENCE: a job has one holder
 * PLANT BUG_SEEN_AFTER_UNLOCK: who falls asleep reads the sequence after the unlock
 * PLANT BUG_JOIN_SPINS: who waits keeps the lock while jobs are listed that others have claimed
 * PLANT BUG_GO_DOES_NOT_HELP: a go at the limit only sleeps
 * PLANT BUG_LISTED_SILENTLY: who lists a job wakes nobody
 * PLANT BUG_LIMIT_LOOK: whether there is room is looked at in one critical section, active raised in another
 * PLANT BUG_ACTIVE_WITH_RUN: active counts from the beginning of the task
 * PLANT BUG_LISTED_AFTER_SUBMIT: the job is submitted first and then listed
 */
#define JOBS 3
#define NONE 3
#define NO_LIMIT 9
#define OWNER 0
#define GOER 1

/* The group. */
bit  lock;
bit  listed[JOBS];
byte under_way, waiting, sequence, limit = NO_LIMIT, err;
bit  gone;

/* Jobs. */
bit  claimed[JOBS], submitted[JOBS], taken[JOBS], freed[JOBS];
byte refs[JOBS];

bit  asleep[2];
bit  no_thread;
byte runs[JOBS], inside, cancels;  /* ghosts; inside: between begin and end of fn */
bit  returned[JOBS];               /* ghost */
bit  by_goer, goer_through;        /* ghost: goer has run 2 itself */

#define group_alive assert(!gone)
#define job_alive(j) assert(!freed[j])

/* ---- beginning and end of a task --------------------------------------------------------------------------------- */

inline DROP(j)
{
	atomic { job_alive(j); assert(refs[j]); refs[j]--; freed[j] = (refs[j] == 0) }
}

inline WAKE() { atomic { asleep[OWNER] = 0; asleep[GOER] = 0 } }      /* the address only */

inline NOTE_ERROR(j)
{
	if
	:: j != 1 ->
		atomic { !lock -> group_alive; first_ = (err == 0); err = (first_ -> j + 1 : err) }
		if
		:: first_ -> atomic { group_alive; cancels++; first_ = 0 }
		:: else
		fi
	:: else
	fi
}

/* One step of the critical section is in the caller's atomic: what else changes under the lock. */
inline WAKE_AND_UNLOCK()
{
#ifndef BUG_SEQUENCE_AFTER_UNLOCK
	sequence++;
#endif
	wake_ = (waiting > 0)
}

inline AFTER_UNLOCK()
{
#ifdef BUG_SEQUENCE_AFTER_UNLOCK
	atomic { group_alive; sequence++ }
#endif
#ifdef BUG_WAITING_AFTER_UNLOCK
	atomic { group_alive; wake_ = (waiting > 0) }
#endif
	if
	:: wake_ -> WAKE(); wake_ = 0
	:: else
	fi
}

inline RUN(j)
{
#ifdef BUG_ACTIVE_WITH_RUN
	atomic { !lock -> group_alive; under_way++ }
#endif
	atomic { group_alive; runs[j]++; assert(runs[j] == 1); inside++; assert(inside <= limit) }
	atomic { inside--; returned[j] = 1 }
#ifndef BUG_ERROR_AFTER_ACTIVE
	NOTE_ERROR(j);
#endif
	atomic { !lock -> group_alive; assert(under_way); under_way--; WAKE_AND_UNLOCK() }
	AFTER_UNLOCK()
#ifdef BUG_ERROR_AFTER_ACTIVE
	NOTE_ERROR(j)
#endif
}

/* ---- the executor ------------------------------------------------------------------------------------------------ */

inline TAKE_OFF(j) { atomic { !lock -> group_alive; assert(listed[j]); listed[j] = 0 } }

proctype worker()
{
	byte j_; bit ok_, wake_, first_;
end:	do
	:: atomic {
			(!no_thread || gone) && ((submitted[0] && !taken[0]) || (submitted[1] && !taken[1]) || (submitted[2] && !taken[2])) ->
			j_ = 0;
			do
			:: submitted[j_] && !taken[j_] -> break
			:: else -> j_++
			od;
			taken[j_] = 1
		}
#ifdef BUG_UNLINK_BEFORE_CLAIM
		atomic { !lock -> group_alive; ok_ = listed[j_]; listed[j_] = 0 }
		if
		:: ok_ -> atomic { job_alive(j_); ok_ = !claimed[j_]; claimed[j_] = 1 }
		:: else
		fi;
#else
		atomic { job_alive(j_); ok_ = !claimed[j_]; claimed[j_] = 1 }
#endif
		if
		:: ok_ ->
#ifndef BUG_UNLINK_BEFORE_CLAIM
			TAKE_OFF(j_);
#endif
			RUN(j_);
			DROP(j_)
		:: else
		fi;
		DROP(j_);
		atomic { j_ = 0; ok_ = 0 }
	od
}

/* ---- help and sleep ---------------------------------------------------------------------------------------------- */

/* In a critical section: claim one that has not begun and take it off. j_: which, or NONE. */
inline HELP()
{
	j_ = 0;
	do
#ifdef BUG_HELP_WITHOUT_CLAIM
	:: j_ < JOBS && listed[j_] -> job_alive(j_); listed[j_] = 0; break
#else
	:: j_ < JOBS && listed[j_] && !claimed[j_] -> job_alive(j_); claimed[j_] = 1; listed[j_] = 0; break
#endif
	:: j_ == JOBS -> break
	:: else -> j_++
	od
}

/* From the queue of our pool, and with it the executor's hold; not from an embedder's, nor before it is there. */
inline TAKE_BACK(j)
{
	if
	:: true
#ifdef BUG_TAKE_BACK_BLINDLY
	:: submitted[j] -> DROP(j); taken[j] = 1
#else
	:: atomic { submitted[j] && !taken[j] -> taken[j] = 1; DROP(j) }
#endif
	fi
}

/* In a critical section: what is read before falling asleep. */
inline LIE_DOWN()
{
	waiting++;
#ifndef BUG_SEEN_AFTER_UNLOCK
	seen_ = sequence
#endif
}

inline SLEEP(me)
{
#ifdef BUG_SEEN_AFTER_UNLOCK
	atomic { group_alive; seen_ = sequence }
#endif
	if
	:: atomic { sequence == seen_ -> group_alive; asleep[me] = 1 }
		!asleep[me]
	:: atomic { sequence != seen_ -> group_alive }
	fi;
	seen_ = 0;
	atomic { !lock -> group_alive; waiting-- }        /* split from what follows under the same lock: no harm */
}

#ifdef BUG_JOIN_SPINS
#define others_have_claimed (listed[0] || listed[1] || listed[2])
#else
#define others_have_claimed false
#endif

inline JOIN()
{
	do
	:: over_ -> break
	:: else ->
		atomic {
			!lock -> group_alive;
#ifdef BUG_SLEEPS_AFTER_HELP
			if
			:: helped_ && under_way -> j_ = NONE; helped_ = 0
			:: else -> HELP(); helped_ = (j_ < NONE)
			fi;
#else
			HELP();
#endif
			if
			:: j_ < NONE
			:: j_ == NONE && under_way == 0 -> over_ = 1; result_ = err
			:: j_ == NONE && under_way > 0 && others_have_claimed -> lock = 1
			:: else -> LIE_DOWN()
			fi
		}
		if
		:: j_ < NONE -> TAKE_BACK(j_); RUN(j_); DROP(j_)
		:: j_ == NONE && lock -> false                /* as long as nobody can take one off */
		:: j_ == NONE && over_
		:: else -> SLEEP(OWNER)
		fi
	od;
	over_ = 0
}

/* ---- starting ---------------------------------------------------------------------------------------------------- */

inline GO(j, me)
{
	room_ = 0;
	do
	:: room_ -> break
	:: else ->
		atomic {
			!lock -> group_alive; j_ = NONE;
			if
			:: under_way < limit -> room_ = 1;
#if !defined(BUG_LIMIT_LOOK) && !defined(BUG_ACTIVE_WITH_RUN)
				under_way++
#endif
			:: else ->
#ifndef BUG_GO_DOES_NOT_HELP
				HELP();
#endif
				if
				:: j_ == NONE -> LIE_DOWN()
				:: else
				fi
			fi
		}
		if
		:: room_
		:: !room_ && j_ < NONE -> TAKE_BACK(j_); RUN(j_); DROP(j_)
		:: else -> SLEEP(me)
		fi
	od;
#ifdef BUG_LIMIT_LOOK
	atomic { !lock -> group_alive; under_way++ }
#endif
	atomic { room_ = 0; j_ = 0 }
	if
	:: me == GOER && !no_thread -> by_goer = 1; RUN(j)
	:: true ->
#ifdef BUG_ONE_REFERENCE
		refs[j] = 1;
#else
		refs[j] = 2;
#endif
#ifdef BUG_LISTED_AFTER_SUBMIT
		submitted[j] = 1;
#endif
#ifdef BUG_LISTED_SILENTLY
		atomic { !lock -> group_alive; listed[j] = 1 }
#else
		atomic { !lock -> group_alive; listed[j] = 1; WAKE_AND_UNLOCK() }
		AFTER_UNLOCK();
#endif
#ifndef BUG_LISTED_AFTER_SUBMIT
		atomic { job_alive(j); submitted[j] = 1 }
#endif
	fi
}

proctype goer()
{
	byte j_, seen_; bit wake_, first_, room_;
	GO(2, GOER);
	goer_through = 1
}

proctype owner()
{
	byte j_, seen_, result_; bit wake_, first_, room_, over_, helped_;
	GO(0, OWNER);
	GO(1, OWNER);
	JOIN();                          /* rctx_group_wait() */
	atomic { assert(returned[0] && returned[1] && result_); j_ = 0; result_ = 0 }
	goer_through;
	JOIN();                          /* rctx_group_fini() */
	atomic { gone = 1; assert(returned[0] && returned[1] && returned[2] && result_ && cancels == 1); j_ = 0; result_ = 0 }
	((taken[2] || by_goer) && freed[0] && freed[1] && (freed[2] || by_goer)) ->
	assert(under_way == 0 && waiting == 0)
}

init
{
	atomic {
		if
		:: no_thread = 1
		:: no_thread = 1; limit = 1
		:: limit = 1
		:: limit = 2
		:: true
		fi;
		run owner(); run goer(); run worker(); run worker()
	}
}
