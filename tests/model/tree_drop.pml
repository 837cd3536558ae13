/*
 * tree_drop: a handle given up while children live; the last leaver ends the zombie. A deadline expires meanwhile.
 *
 *        0  never ends             dropper   gives up its handle on 1 without cancelling: rctx_unref()
 *        └─ 1  striped, deadline   left      ends 2, on stripe 0
 *           ├─ 2                   right     ends 3, on stripe 1
 *           └─ 3                   driver    the timer driver: pins 1 if it still can, marks its subtree, unpins
 *                                  canceller rctx_cancel(0); if its walk marked 1, pins it to notify, unpins afterwards
 *
 * A reference that is not the last is given up by a compare-and-swap alone; the last one with all locks held (1 is striped,
 * so there is no shortcut for it: tree_give_up has that).
 *
 * The one remaining reference of a zombie (DROPPED) belongs to its child lists: whoever unlinks the last child drops it.
 * So "is this the last child" must be decided by one leaver only: on a striped parent with the state lock and every
 * stripe lock held, all taken BEFORE unlinking, while the child's own link still keeps the parent's memory.
 *
 * Checked: 1 is released exactly once (FREE asserts), not before its children and not while pinned; nobody touches it
 * afterwards; nothing is left over at the end; G1 for the driver and the canceller.
 *
 * The shard's lock stands for core/timer.c: an armed node is in the shard; release() disarms it there before it leaves
 * its parent, so under the shard's lock an armed node's memory is good, but its count may be 0 already.
 *
 * C: core/tree.c rctx__give_up, give_up_locked, rctx__pin, leave, leave_dropped_striped, rctx__finish.
 *
 * PLANT BUG_LAST_LEAVER_ONE_STRIPE: the leaver unlinks under its own stripe lock and then looks at the other lists
 * PLANT BUG_DROP_ONE_LOCK: the drop sets DROPPED under the state lock only
 * PLANT BUG_STRIPES_UNLOCKED_FIRST: the drop and the last leaver unlock the stripes and then store the word
 * PLANT BUG_DEFER_BEFORE_RELOCK: whether memory must wait is decided by the word read before the locks were taken again
 * PLANT BUG_PIN_FROM_ZERO: the driver takes its reference without looking whether the count is 0
 * PLANT BUG_NOTIFY_PIN_FROM_ZERO: the same, for the walk that is going to notify
 * PLANT BUG_PIN_OUTSIDE_LOCK: the driver pins after it has let go of the shard's lock
 * PLANT BUG_FREE_AT_ONCE: a leaver gives memory back at once although the parent's walk is running
 */
#define NN 4
#define STRIPED
#define SP 1
#define NOTIFY_PIN PIN_MARKED
#define LAST_CHILD DROP_FOR_CHILDREN
#include "tree.inc"

byte refs = 1;                    /* of node 1 */
bit  armed = 1, shard;            /* node 1 in the wheel; the shard's lock */
byte releases;

/* The count of 1 has reached 0: disarm, then leave. The other nodes have no timer and one reference. */
inline RELEASE()
{
	atomic { !shard -> alive(1); armed = 0; releases++; assert(releases == 1 && refs == 0) }
	LEAVE(1)
}

/* The last child has left, under all of 1's locks: the reference was the lists'. */
inline DROP_FOR_CHILDREN() { assert(refs); refs--; last_ = (refs == 0) }

/* Give a reference on 1 up. Once ours is the only one, only a pin can add one. */
inline DROP()
{
	atomic {
		alive(1); assert(refs);
		if
		:: refs > 1 -> refs--; h_ = 0
		:: else -> h_ = 1
		fi
	}
	if
	:: h_ ->
		LOCK(1);
#ifndef BUG_DROP_ONE_LOCK
		LOCK_ALL_STRIPES();
#endif
		d_step {
			if
			:: refs == 1 && !(s_ & DROPPED) && !no_children(1) -> s_ = s_ | DROPPED; h_ = 0
			:: else -> assert(refs); refs--; h_ = (refs == 0)
			fi;
#if defined(BUG_DROP_ONE_LOCK)
			UNLOCK(1, s_)
		}
#elif defined(BUG_STRIPES_UNLOCKED_FIRST)
			UNLOCK_STRIPE(0); UNLOCK_STRIPE(1)
		}
		d_step { all_ = 0; UNLOCK(1, s_) }
#else
			all_ = 0; UNLOCK(1, s_)
		}
		d_step { UNLOCK_STRIPE(0); UNLOCK_STRIPE(1) }
#endif
		if
		:: h_ -> h_ = 0; RELEASE()
		:: else
		fi
	:: else
	fi
}

proctype dropper()
{
	LIST_LOCALS
	bit h_;
	DROP()
}

/* Ends child c of 1. */
proctype leaver(byte c)
{
	LIST_LOCALS
	LEAVE(c);
	if
	:: last_ -> last_ = 0; RELEASE()
	:: else
	fi
}

/* The walk marked node 1: whoever waits there is to be notified later, so keep it. The read section keeps its memory. */
inline PIN_MARKED()
{
	if
	:: atomic { c_ == 1 && w_ -> alive(1);
#ifdef BUG_NOTIFY_PIN_FROM_ZERO
			refs++; pinned = 1
#else
			if
			:: refs -> refs++; pinned = 1
			:: else
			fi
#endif
		}
	:: else
	fi
}

proctype driver()
{
	WALK_LOCALS
	LIST_LOCALS
	byte k_; bit h_, won, pinned, seen;
	if
	:: atomic { !shard -> shard = 1 }
		seen = armed;
#ifdef BUG_PIN_OUTSIDE_LOCK
		shard = 0;
#endif
		if
		:: seen ->
			atomic {
				alive(1);
#ifdef BUG_PIN_FROM_ZERO
				refs++; pinned = 1;
#else
				if
				:: refs -> refs++; pinned = 1
				:: else
				fi;
#endif
				armed = 0
			}
		:: else
		fi;
#ifndef BUG_PIN_OUTSIDE_LOCK
		shard = 0;
#endif
		if
		:: pinned -> FINISH(1, 0, won); DROP()
		:: else
		fi
	:: skip                       /* or its time never comes */
	fi
}

proctype canceller()
{
	WALK_LOCALS
	LIST_LOCALS
	byte k_; bit won, pinned, h_;
	CANCEL(0, 1, won);
	assert(won);
	if
	:: pinned -> pinned = 0; DROP()        /* ... notified; outside the read section */
	:: else
	fi
}

init
{
	atomic {
		parent[0] = NIL; parent[1] = 0; parent[2] = 1; parent[3] = 1;
		head[0] = 1; head[1] = NIL; head[2] = NIL; head[3] = NIL;
		shead[0] = 2; shead[1] = 3; striped = 1; where[2] = 1; where[3] = 2;
		next[0] = NIL; next[1] = NIL; next[2] = NIL; next[3] = NIL;
		linked[1] = 1; linked[2] = 1; linked[3] = 1;
		st[0] = CHILDREN; st[1] = CHILDREN;
		run dropper(); run leaver(2); run leaver(3); run driver(); run canceller()
	}
	(_nr_pr == 1) ->
	assert(freed[1] && freed[2] && freed[3]);
	assert(releases == 1 && !armed && head[0] == NIL)
}
