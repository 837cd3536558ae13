/*
 * timer_fire_stop: a deadline passes while its context is cancelled, ended or merely let go of.
 *
 *        driver   twice: under the shard's lock takes out what has expired, pinned if it still can be; then, outside,
 *                 marks each and gives the pin back
 *        owner    of 0: cancels, disarms, notifies, gives its reference up
 *        friend   of 0: has a reference of its own and cancels too
 *        holder   of 1: gives its reference up without cancelling (the last one: it disarms before the memory goes)
 *
 * The wheel keeps no reference. What makes the driver's look at an armed node safe is that whoever releases it takes it
 * out under the same lock first; what makes the driver's later, unlocked use safe is the pin taken under that lock. A
 * count that is 0 means: its owner is on the way to that lock; the node is taken out but not touched again.
 *
 * FIRED and NONE are read without the lock (a release then does not take it). So FIRED is the last thing the driver writes
 * to a node that it could not pin, after the pin. Who writes NONE has a reference (or releases). ARMED is looked at again
 * under the lock.
 *
 * node->link is shared with the wheel's entry: a walk that marked a node may chain it for its notify phase only after
 * the node is out of the wheel, and the driver may not chain what it has taken out: a walk may be using the link.
 *
 * Checked: exactly one of {expired, cancelled} per node that ended, heard by exactly one caller; nobody touches a node
 * whose memory is back; every node is released exactly once; the link has one user at a time.
 *
 * C: core/timer.h rctx__timer_disarm; core/timer.c rctx__timer_disarm_slow, collect; core/tree.c rctx__pin, rctx__finish, rctx__drop.
 *
 * PLANT BUG_PIN_OUTSIDE_LOCK: the driver pins after unlocking
 * PLANT BUG_PIN_FROM_ZERO: the driver increments without looking for 0
 * PLANT BUG_NO_PIN: the driver uses what it has taken out without a reference
 * PLANT BUG_RELEASE_WITHOUT_DISARM: the last reference gives the memory back while the node is armed
 * PLANT BUG_FIRED_BEFORE_PIN: the driver writes FIRED before it pins
 * PLANT BUG_DRIVER_CHAINS: the driver strings what it has taken out on node->link
 * PLANT BUG_CHAIN_BEFORE_DISARM: a walk uses node->link of a node that is still armed
 */
#define NODES 2

#define LIVE 0
#define CANCELLED 1
#define EXPIRED 2

#define NONE 0
#define ARMED 1
#define FIRED 2

#define WHEEL 1
#define DRIVER 2
#define NOTIFY 3

byte state[NODES];
byte timer[NODES];
byte refs[NODES];
byte link_user[NODES];           /* ghost: 0, WHEEL, DRIVER, NOTIFY */
bit  freed[NODES];
byte ends[NODES];                /* ghost: how many callers were told that they ended it */
bit  shard;

#define alive(n) assert(!freed[n])

inline DISARM(n)
{
	if
	:: atomic { timer[n] != ARMED -> alive(n) }
	:: atomic { timer[n] == ARMED && !shard -> alive(n); shard = 1 }
		if
		:: atomic { timer[n] == ARMED -> alive(n); assert(link_user[n] == WHEEL) }
			link_user[n] = 0;
			atomic { alive(n); timer[n] = NONE }
		:: else
		fi;
		shard = 0
	fi
}

inline UNREF(n)
{
	atomic { alive(n); assert(refs[n]); refs[n]--; last_ = (refs[n] == 0) }
	if
	:: last_ ->
		last_ = 0;
#ifndef BUG_RELEASE_WITHOUT_DISARM
		DISARM(n);
#endif
		atomic { alive(n); assert(!link_user[n] || timer[n] == ARMED); freed[n] = 1 }
	:: else
	fi
}

/* live -> how: one compare-and-swap */
inline MARK(n, how)
{
	atomic {
		alive(n);
		won_ = (state[n] == LIVE);
		state[n] = (won_ -> how : state[n]);
		ends[n] = ends[n] + won_;
		assert(ends[n] == 1)
	}
}

/* The caller holds a reference. */
inline CANCEL(n)
{
	MARK(n, CANCELLED);
	if
	:: won_ ->
		won_ = 0;
#ifdef BUG_CHAIN_BEFORE_DISARM
		atomic { alive(n); assert(link_user[n] == 0); link_user[n] = NOTIFY }
		DISARM(n);
#else
		DISARM(n);
		atomic { alive(n); assert(link_user[n] == 0); link_user[n] = NOTIFY }
#endif
		atomic { alive(n); assert(link_user[n] == NOTIFY); link_user[n] = 0 }     /* notified */
	:: else
	fi
}

proctype owner()  { bit last_, won_; CANCEL(0); UNREF(0) }
proctype friend() { bit last_, won_; CANCEL(0); UNREF(0) }
proctype holder() { bit last_, won_; UNREF(1) }

inline PIN(n)
{
	atomic {
		alive(n);
#ifdef BUG_PIN_FROM_ZERO
		refs[n]++; got[n] = 1
#elif defined(BUG_NO_PIN)
		got[n] = 1
#else
		if
		:: refs[n] -> refs[n]++; got[n] = 1
		:: else
		fi
#endif
	}
}

inline TAKE_OUT(n)
{
	atomic {
		alive(n);
		assert(link_user[n] == WHEEL);
#ifdef BUG_DRIVER_CHAINS
		link_user[n] = DRIVER
#else
		link_user[n] = 0
#endif
	}
}

inline COLLECT(n)
{
	if
	:: timer[n] == ARMED ->           /* due */
#ifdef BUG_PIN_OUTSIDE_LOCK
		TAKE_OUT(n);
		atomic { alive(n); timer[n] = FIRED; late_[n] = 1 }
#elif defined(BUG_FIRED_BEFORE_PIN)
		TAKE_OUT(n);
		atomic { alive(n); timer[n] = FIRED }
		PIN(n)
#else
		TAKE_OUT(n);
		PIN(n);
		atomic { alive(n); timer[n] = FIRED }
#endif
	:: true                           /* not armed, or not due yet */
	fi
}

inline EXPIRE(n)
{
	if
	:: got[n] ->
#ifdef BUG_DRIVER_CHAINS
		atomic { alive(n); assert(link_user[n] == DRIVER); link_user[n] = 0 }
#endif
		MARK(n, EXPIRED);
		won_ = 0;
		got[n] = 0;
#ifdef BUG_NO_PIN
		skip
#else
		UNREF(n)
#endif
	:: else
	fi
}

proctype driver()
{
	bit last_, won_, got[NODES], late_[NODES], round;
	do
	::
		atomic { !shard -> shard = 1 }
		COLLECT(0);
		COLLECT(1);
		shard = 0;
#ifdef BUG_PIN_OUTSIDE_LOCK
		if
		:: late_[0] -> late_[0] = 0; PIN(0)
		:: else
		fi;
		if
		:: late_[1] -> late_[1] = 0; PIN(1)
		:: else
		fi;
#endif
		EXPIRE(0);
		EXPIRE(1);
		if
		:: round -> break
		:: else -> round = 1
		fi
	od
}

init
{
	atomic {
		timer[0] = ARMED; timer[1] = ARMED; link_user[0] = WHEEL; link_user[1] = WHEEL;
		refs[0] = 2; refs[1] = 1;
		run driver(); run owner(); run friend(); run holder()
	}
	(_nr_pr == 1) ->
	assert(freed[0] && freed[1]);
	assert(ends[0] == 1 && (ends[1] == 1) == (state[1] == EXPIRED));
	assert(timer[0] != ARMED && timer[1] != ARMED && !link_user[0] && !link_user[1])
}
