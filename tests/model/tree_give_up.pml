/*
 * tree_give_up: who gives the last reference up, when most of the time nobody else is there.
 *
 *        owner   has a reference on the node and gives it up
 *        friend  the same; may derive a child before
 *        leaver  ends that child
 *        driver  the node's deadline: pins it if it still can, gives the pin up
 *
 * Three ways. A count of 1, and then a word without children and without anything to notify: nobody else can reach the node, it is
 * released without its lock. A count above 1: one less, by a compare-and-swap alone; the last of them will look at the
 * rest. A count of 1 with something below: under the lock, where the count is looked at again, since a pin may have raised it.
 *
 * The count is read first and the word afterwards. What the others did to the word they did before they let go, so a word
 * read after a count of 1 has it all; one read before may lack the child that a friend has derived just before it left.
 *
 * Everything that touches the node is a step of its own here (the other models merge the unlock with what stands before).
 *
 * Checked: nobody touches the node after its memory is back; it is released exactly once and not while its child is
 * linked; nothing is left over.
 *
 * C: core/tree.c rctx__give_up, give_up_locked, leave; core/timer.h rctx__timer_disarm.
 *
 * PLANT BUG_STATE_BEFORE_COUNT: the word is read before the count
 * PLANT BUG_STALE_COUNT: one less without comparing, because the count was above 1 when it was read
 * PLANT BUG_LAST_WITHOUT_LOCK: the last reference goes by the compare-and-swap, too, whatever hangs below
 * PLANT BUG_CHILDREN_IGNORED: the shortcut is taken whatever hangs below
 * PLANT BUG_TIMER_IGNORED: the shortcut is taken although the driver has taken the node out
 * PLANT BUG_LOOK_THEN_LOWER: the locked way looks at the count and lowers it in two steps
 * PLANT BUG_DECREMENT_AFTER_UNLOCK: the locked way decides under the lock and lets go after it
 */
#define CHILDREN 1
#define DROPPED 2
#define LOCKED 4

#define NONE 0
#define ARMED 1
#define FIRED 2

byte st;
byte refs = 2;
bit  child, childless;           /* the inline list; ghost: friend has derived nothing */
byte timer = ARMED;
bit  shard;
bit  freed;

#define alive assert(!freed)

inline LOCK()    { atomic { !(st & LOCKED) -> alive; s_ = st; st = s_ | LOCKED } }
inline UNLOCK()  { atomic { alive; st = s_ } }
inline RELEASE() { atomic { alive; assert(refs == 0 && !child && timer != ARMED); freed = 1 } }

/* ok_: nothing of the timer is under way or will be. */
inline DISARM()
{
	atomic { alive; t_ = timer }
	if
	:: t_ == ARMED ->
		atomic { !shard -> shard = 1 }
		atomic { alive; t_ = timer; timer = (t_ == ARMED -> NONE : t_) }
		shard = 0
	:: else
	fi;
	ok_ = (t_ != FIRED)
}

inline GIVE_UP_LOCKED()
{
	LOCK();
	atomic {
		alive; assert(refs);
#ifdef BUG_LOOK_THEN_LOWER
		r_ = refs
	}
	atomic {
		alive;
#else
		r_ = refs;                       /* the compare-and-swap that succeeds: looked at and lowered in one step */
#endif
		if
		:: r_ == 1 && !(s_ & DROPPED) && child -> s_ = s_ | DROPPED; ok_ = 0
#ifdef BUG_DECREMENT_AFTER_UNLOCK
		:: else -> ok_ = 1
#else
		:: else -> refs--; ok_ = (refs == 0)
#endif
		fi
	}
	UNLOCK();
#ifdef BUG_DECREMENT_AFTER_UNLOCK
	if
	:: ok_ -> atomic { alive; refs--; ok_ = (refs == 0) }
	:: else
	fi;
#endif
	if
	:: ok_ -> DISARM(); RELEASE()
	:: else
	fi
}

#ifdef BUG_CHILDREN_IGNORED
#define sole (r_ == 1 && !(s_ & LOCKED))
#elif defined(TRY_LOCKED_IGNORED)
#define sole (r_ == 1 && !(s_ & CHILDREN))
#else
#define sole (r_ == 1 && !(s_ & (CHILDREN | LOCKED)))
#endif

inline GIVE_UP()
{
#ifdef BUG_STATE_BEFORE_COUNT
	atomic { alive; s_ = st }
	atomic { alive; r_ = refs }
#else
	atomic { alive; r_ = refs }
	atomic { alive; s_ = st }
#endif
	ok_ = 0;
	if
	:: sole -> DISARM()
#ifdef BUG_TIMER_IGNORED
		ok_ = 1
#endif
	:: else
	fi;
	if
	:: ok_ -> atomic { alive; refs = 0 } RELEASE()
	:: else ->
#ifdef BUG_STALE_COUNT
		atomic { alive; r_ = refs }
		if
		:: r_ > 1 -> atomic { alive; refs-- }
#elif defined(BUG_LAST_WITHOUT_LOCK)
		atomic { alive; assert(refs); refs--; r_ = refs + 1 }
		if
		:: r_ == 1 -> DISARM(); RELEASE()
		:: r_ > 1
#else
		atomic { alive; r_ = refs; refs = (r_ > 1 -> r_ - 1 : r_) }       /* the compare-and-swap that succeeds */
		if
		:: r_ > 1
#endif
		:: else -> GIVE_UP_LOCKED()
		fi
	fi
}

proctype owner() { byte s_, r_, t_; bit ok_; GIVE_UP() }

proctype friend()
{
	byte s_, r_, t_; bit ok_;
	if
	:: LOCK();
		atomic { alive; child = 1 }
		s_ = s_ | CHILDREN;
		UNLOCK()
	:: childless = 1
	fi;
	GIVE_UP()
}

/* The child's link keeps the node until it is unlinked; DROPPED: its reference is then ours. */
proctype leaver()
{
	byte s_, t_; bit ok_;
	if
	:: child ->
		LOCK();
		atomic { alive; child = 0 }
		if
		:: s_ & DROPPED -> atomic { alive; assert(refs); refs--; ok_ = (refs == 0) }
		:: else
		fi;
		s_ = s_ & ~(CHILDREN | DROPPED);
		UNLOCK();
		if
		:: ok_ -> DISARM(); RELEASE()
		:: else
		fi
	:: childless
	fi
}

proctype driver()
{
	byte s_, r_, t_; bit ok_, pinned;
	atomic { !shard -> shard = 1 }
	if
	:: timer == ARMED ->
		atomic { alive; pinned = (refs > 0); refs = (refs -> refs + 1 : 0) }
		atomic { alive; timer = FIRED }
	:: true                       /* not due, or not armed any more */
	fi;
	shard = 0;
	if
	:: pinned -> GIVE_UP()
	:: else
	fi
}

init
{
	atomic { run owner(); run friend(); run leaver(); run driver() }
	(_nr_pr == 1) -> assert(freed && !child && timer != ARMED)
}
