/*
 * tree_give_up: who gives the last reference up, when most of the time nobody else is there.
 *
 *        owner, friend   each has a reference on the node and gives it up
 *        leaver          ends the node's one child
 *        driver          the node's deadline: pins it if it still can, gives the pin up
 *
 * A node whose count is 1, without children and without anything to notify can be released without its lock: nobody else
 * can reach it. But a count of 1 may be what another thread has just left behind while it still holds the lock: its last
 * touch is the unlock, not the decrement. So the count is read first and the word afterwards, and LOCKED in it means
 * "somebody has yet to unlock": then the lock is taken, which waits for that.
 *
 * Everything that touches the node is a step of its own here (the other models merge the unlock with what stands before).
 *
 * Checked: nobody touches the node after its memory is back; it is released exactly once and not while its child is
 * linked; nothing is left over.
 *
 * C: core/tree.c rctx__give_up, give_up_locked, leave; core/timer.c rctx__timer_disarm.
 *
 * PLANT BUG_STATE_BEFORE_COUNT: the word is read before the count
 * PLANT BUG_LOCKED_BEFORE_COUNT: the same, though with a look at LOCKED
 * PLANT BUG_LOCKED_IGNORED: the word is read after the count, but a holder of the lock is not waited for
 * PLANT BUG_CHILDREN_IGNORED: the shortcut is taken whatever hangs below
 * PLANT BUG_TIMER_IGNORED: the shortcut is taken although the driver has taken the node out
 */
#define CHILDREN 1
#define DROPPED 2
#define LOCKED 4

#define NONE 0
#define ARMED 1
#define FIRED 2

byte st = CHILDREN;
byte refs = 2;
bit  child = 1;                  /* the inline list */
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
		alive;
		if
		:: refs == 1 && !(s_ & DROPPED) && child -> s_ = s_ | DROPPED; ok_ = 0
		:: else -> assert(refs); refs--; ok_ = (refs == 0)
		fi
	}
	UNLOCK();
	if
	:: ok_ -> DISARM(); RELEASE()
	:: else
	fi
}

#ifdef BUG_LOCKED_IGNORED
#define sole (r_ == 1 && !(s_ & CHILDREN))
#elif defined(BUG_STATE_BEFORE_COUNT)
#define sole (r_ == 1 && !(s_ & CHILDREN))
#elif defined(BUG_CHILDREN_IGNORED)
#define sole (r_ == 1 && !(s_ & LOCKED))
#else
#define sole (r_ == 1 && !(s_ & (CHILDREN | LOCKED)))
#endif

inline GIVE_UP()
{
#if defined(BUG_STATE_BEFORE_COUNT) || defined(BUG_LOCKED_BEFORE_COUNT)
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
	:: else -> GIVE_UP_LOCKED()
	fi
}

proctype holder() { byte s_, r_, t_; bit ok_; GIVE_UP() }

/* The child's link keeps the node until it is unlinked; DROPPED: its reference is then ours. */
proctype leaver()
{
	byte s_, t_; bit ok_;
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
	atomic { run holder(); run holder(); run leaver(); run driver() }
	(_nr_pr == 1) -> assert(freed && !child && timer != ARMED)
}
