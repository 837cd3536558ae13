/*
 * drain: requests that are being derived, raises, the end of the last one, and the end of the drain.
 *
 *        one, two  rctx_drain_request(); later end the request they got, or the refused one
 *        stop      raises to STOP, or does not
 *        cancel    raises to CANCEL, or does not
 *        owner     destroys the drain when the calls of the others on it are through, or in a callback of the last such
 *                  call, a raise; requests may live on
 *
 *   OPEN --raise--> `accepting` ended -> level stored (-> work ended) -> requests under way waited for -> handle dropped .. gone
 *
 * A request counts itself in a word (each has its own here, as by stripes) before it reads the level; the first raise stores
 * the level before it reads the words. All is sequentially consistent in the model, as it is in C for these two pairs.
 *
 * `work` is a tree node with a count, children and DROPPED: its one reference belongs to the children when the handle is
 * gone. Linking, unlinking, the locked half of a give-up and a pin are one step each (tree_drop.pml, tree_give_up.pml). Who
 * gives a reference up: one less by a compare-and-swap if it is not the last; else under the node's lock. There is no
 * shortcut here for "mine is the only one and nothing hangs below": others pin `work` whenever they hold the drain's lock.
 * (STATE_WATCH, set when it is made, keeps rctx__give_up() from it.)
 *
 * Under the drain's lock are `level`, when it is written, and the pointer to work. The destructor of the value in work
 * (RELEASE) clears the pointer there before the memory goes; who finds the pointer pins under the same lock.
 *
 * Checked: nothing is derived from a work that is gone, nor pinned, cancelled or given up; work is released once; `drained`
 * ends once, with no child left and not while OPEN; who is refused finds `accepting` ended; after the first raise has
 * returned no request begins; the drain is freed once and not touched afterwards; nobody waits for ever.
 *
 * C: core/drain.c rctx_drain_request, rctx_drain_raise, raise_level, end_work, let_work_go, work_ref, work_gone, drain_unref,
 * rctx_drain_destroy; core/tree.c rctx__pin, rctx__give_up, leave.
 *
 * PLANT BUG_LEVEL_BEFORE_COUNT: a request reads the level before it counts itself
 * PLANT BUG_WORDS_BEFORE_LEVEL: the words are read before the level is stored
 * PLANT BUG_DROP_BEFORE_WAIT: the handle of work is dropped before the requests under way are waited for
 * PLANT BUG_WORK_NOT_CLEARED: the destructor leaves the pointer
 * PLANT BUG_CLEARED_UNLOCKED: the destructor clears the pointer without the lock
 * PLANT BUG_PIN_UNLOCKED: who wants work reads the pointer under the lock and pins after it
 * PLANT BUG_PIN_FROM_ZERO: who wants work takes its reference without looking whether the count is 0
 * PLANT BUG_ACCEPTING_AFTER_LEVEL: `accepting` is ended after the level is stored
 * PLANT BUG_DROP_BY_SHORTCUT: a reference on work that seems to be the only one is given up without the lock
 * PLANT BUG_EVERY_RAISE_DROPS: whoever raises drops the handle, not only the first
 * PLANT BUG_RAISE_HOLDS_NOTHING: a raise takes no hold of the drain: the work's may be the last meanwhile
 * PLANT BUG_WORK_HOLDS_NOTHING: the drain is freed with its handle
 */
#define OPEN 0
#define STOP 1
#define CANCEL 3

/* The drain. */
byte level = OPEN, drain_refs = 2;
bit  lock, pointer = 1;        /* pointer: drain->work is not NULL */
byte entering[2];
bit  accepting_ended, drained;
bit  drain_freed;

/* The node `work`. */
byte refs = 1, children;
bit  dropped, work_freed;

byte through;                  /* ghost: calls on the drain that have returned */
bit  first_has_returned;       /* ghost */
bit  in_callback, destroyed;   /* ghosts: a raiser waits for the owner to destroy the drain; it has */

#define drain_alive assert(!drain_freed)
#define work_alive assert(!work_freed)

/* ---- the drain's lifetime ---------------------------------------------------------------------------------------- */

inline DRAIN_UNREF()
{
	atomic {
		drain_alive; assert(drain_refs); drain_refs--;
		drain_freed = (drain_refs == 0)
	}
}

inline LOCK() { atomic { !lock -> drain_alive; lock = 1 } }
inline UNLOCK() { atomic { drain_alive; lock = 0 } }

/* ---- the node ---------------------------------------------------------------------------------------------------- */

/* The last reference is gone: the destructor, then the memory. */
inline RELEASE()
{
	atomic { work_alive; assert(refs == 0 && children == 0) }
#ifdef BUG_CLEARED_UNLOCKED
	atomic { drain_alive; pointer = 0 }
#elif !defined(BUG_WORK_NOT_CLEARED)
	atomic { !lock -> drain_alive; pointer = 0 }
#endif
	atomic { drain_alive; assert(!drained && level != OPEN && children == 0); drained = 1 }
#ifndef BUG_WORK_HOLDS_NOTHING
	DRAIN_UNREF();
#endif
	atomic { work_alive; work_freed = 1 }
}

inline GIVE_UP_LOCKED()
{
	atomic {
		work_alive; assert(refs);
		if
		:: refs == 1 && !dropped && children -> dropped = 1; dead_ = 0
		:: else -> refs--; dead_ = (refs == 0)
		fi
	}
}

inline DROP_WORK()
{
#ifdef BUG_DROP_BY_SHORTCUT
	atomic { work_alive; r_ = refs }
	atomic { work_alive; sole_ = (r_ == 1 && !children) }
	if
	:: sole_ -> atomic { work_alive; refs = 0; sole_ = 0; dead_ = 1 }
	:: else ->
#else
	if
	:: true ->
#endif
		atomic { work_alive; assert(refs); r_ = refs; refs = (r_ > 1 -> r_ - 1 : r_) }
		if
		:: r_ > 1
		:: else -> GIVE_UP_LOCKED()
		fi
	fi;
	if
	:: dead_ -> dead_ = 0; RELEASE()
	:: else
	fi;
	r_ = 0
}

/* rctx__link(): the state word of work is read and written. */
inline DERIVE() { atomic { work_alive; assert(refs || dropped); assert(!first_has_returned); children++ } }

inline LEAVE()
{
	atomic {
		work_alive; assert(children); children--;
		if
		:: !children && dropped -> dropped = 0; assert(refs); refs--; dead_ = (refs == 0)
		:: else
		fi
	}
	if
	:: dead_ -> dead_ = 0; RELEASE()
	:: else
	fi
}

/* ---- calls ------------------------------------------------------------------------------------------------------- */

proctype request(byte w)
{
	byte r_; bit open_, dead_, sole_;
#ifdef BUG_LEVEL_BEFORE_COUNT
	atomic { drain_alive; open_ = (level == OPEN) }
	atomic { drain_alive; entering[w]++ }
#else
	atomic { drain_alive; entering[w]++ }
	atomic { drain_alive; open_ = (level == OPEN) }
#endif
	if
	:: open_ -> DERIVE()
	:: else
	fi;
	atomic { drain_alive; entering[w]-- }
	if
	:: !open_ -> atomic { drain_alive; assert(accepting_ended) }
	:: else
	fi;
	through++;
	if
	:: open_ -> LEAVE()
	:: else
	fi
}

inline WAIT_FOR_REQUESTS()
{
	atomic { entering[0] == 0 -> drain_alive }
	atomic { entering[1] == 0 -> drain_alive }
}

inline END_WORK()
{
#ifdef BUG_PIN_UNLOCKED
	atomic { !lock -> drain_alive; pinned_ = pointer }
	if
	:: pinned_ -> atomic { work_alive; pinned_ = (refs > 0); refs = refs + pinned_ }
	:: else
	fi;
#else
	LOCK();
	if
#ifdef BUG_PIN_FROM_ZERO
	:: pointer -> atomic { work_alive; pinned_ = 1; refs++ }
#else
	:: pointer -> atomic { work_alive; pinned_ = (refs > 0); refs = refs + pinned_ }
#endif
	:: else
	fi;
	UNLOCK();
#endif
	if
	:: pinned_ -> atomic { work_alive; pinned_ = 0 } CALLBACK(); DROP_WORK()
	:: else
	fi
}

/* What is ended here has a callback of the user's, in this thread, that destroys the drain; or not. */
inline CALLBACK()
{
	if
	:: asks_ && through == 3 && !in_callback -> in_callback = 1; destroyed
	:: true
	fi
}

/* rctx_drain_raise(to) */
inline RAISE(to)
{
#ifndef BUG_RAISE_HOLDS_NOTHING
	atomic { drain_alive; drain_refs++ }
#endif
#ifdef BUG_WORDS_BEFORE_LEVEL
	WAIT_FOR_REQUESTS();
#endif
#ifndef BUG_ACCEPTING_AFTER_LEVEL
	atomic { drain_alive; accepting_ended = 1 }
	CALLBACK();
#endif
	atomic { !lock -> drain_alive; before_ = level; level = (before_ < to -> to : before_) }
#ifdef BUG_ACCEPTING_AFTER_LEVEL
	atomic { drain_alive; accepting_ended = 1 }
#endif
	if
	:: before_ == CANCEL || to == CANCEL -> END_WORK()      /* who is second helps */
	:: else
	fi;
	if
#ifdef BUG_EVERY_RAISE_DROPS
	:: before_ < to ->
#else
	:: before_ == OPEN ->
#endif
#ifdef BUG_DROP_BEFORE_WAIT
		DROP_WORK();
		WAIT_FOR_REQUESTS()
#elif defined(BUG_WORDS_BEFORE_LEVEL)
		DROP_WORK()
#else
		WAIT_FOR_REQUESTS();
		DROP_WORK()
#endif
	:: else
	fi;
#ifndef BUG_RAISE_HOLDS_NOTHING
	DRAIN_UNREF();
#endif
	first_has_returned = first_has_returned | (before_ == OPEN);
	before_ = 0
}

proctype raiser(byte to)
{
	byte r_, before_; bit dead_, sole_, pinned_, asks_ = 1;
	if
	:: RAISE(to)
	:: true
	fi;
	through++
}

proctype owner()
{
	byte r_, before_; bit dead_, sole_, pinned_, asks_;
	through == 4 || in_callback ->
	RAISE(CANCEL);
	DRAIN_UNREF();
	destroyed = 1
}

init
{
	atomic { run request(0); run request(1); run raiser(STOP); run raiser(CANCEL); run owner() }
	(_nr_pr == 1) ->
	assert(work_freed && drained && drain_freed && children == 0 && refs == 0 && drain_refs == 0)
}
