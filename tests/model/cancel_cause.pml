/*
 * cancel_cause: who was first, and with which cause, when two explicit cancels, the parent, a timer and a new child meet.
 *
 *        a, b    rctx_cancel_cause(ctx, &a), rctx_cancel_cause(ctx, &b)
 *        other   the parent's walk (origin PARENT) or the node's own deadline (origin OWN): one of them, or nobody
 *        adder   derives a child, or does not
 *        reader  rctx_err() and rctx_cause() at any moment, twice
 *
 * An explicit cancel locks the word. If the node has ended it unlocks and has lost. If not, it stores the cause and unlocks
 * with the marked word: err and origin LOCAL. So the unlock is the mark. Nobody can end the node between the look and
 * the store, since all others wait for LOCKED; and the cause stands before anybody sees LOCAL, so a reader looks at it only then.
 *
 * Checked: err and cause are never seen one without the other and never change; exactly one caller of all three hears
 * "first", and the state bears its name; when a cancel returns, won or lost, the node is done and so is the child.
 *
 * C: core/tree.c rctx__cancel, mark, rctx__link; core/context.c cancel, cause_at.
 *
 * PLANT BUG_CAUSE_AFTER_UNLOCK: the cause is stored after the unlock, which is the mark
 * PLANT BUG_CAUSE_BEFORE_CHECK: the cause is stored under the lock, but before the look whether the node has ended
 * PLANT BUG_CAUSE_BEFORE_LOCK: the cause is stored before the lock is taken
 * PLANT BUG_ENDED_NOT_CHECKED: only the look before the lock asks whether the node has ended
 * PLANT BUG_WALK_BY_STALE_WORD: whether there are children to mark is taken from the look before the lock
 * PLANT BUG_MARK_IGNORES_LOCK: the parent's or the timer's mark does not wait for LOCKED, the unlock overwrites it
 * PLANT BUG_CAUSE_SAYS_ENDED: the reader takes a stored cause for an end without asking the word
 */
#define LIVE 0
#define LOCAL 1
#define PARENT 2
#define OWN 3
#define HOW 3                  /* err and origin: one field of the word */
#define CHILDREN 4
#define LOCKED 8

#define NONE 0

byte word;
byte cause;                    /* NONE, 1 (a), 2 (b) */
bit  child, child_done;
byte first;                    /* ghost: who heard "first": 1 a, 2 b, 3 other */
byte firsts, through;

#define done(s)  ((s) & HOW)
#define unlocked (!(word & LOCKED))

inline LOCK(s)      { atomic { unlocked -> s = word; word = s | LOCKED } }
inline UNLOCK(v)    { word = v }

inline I_WAS_FIRST(who) { atomic { firsts++; first = who; assert(firsts == 1) } }

/* Walking and helping, of which the tree models have the rest. */
inline MARK_CHILD() { child_done = child }

proctype explicit(byte mine)
{
	byte s, seen;
	seen = word;
	if
	:: done(seen) -> MARK_CHILD()
	:: else ->
#ifdef BUG_CAUSE_BEFORE_LOCK
		cause = mine;
#endif
		LOCK(s);
#ifdef BUG_CAUSE_BEFORE_CHECK
		cause = mine;
#endif
		if
#ifdef BUG_ENDED_NOT_CHECKED
		:: false ->
#else
		:: done(s) ->
#endif
			UNLOCK(s);
			MARK_CHILD()
		:: else ->
#if !defined(BUG_CAUSE_AFTER_UNLOCK) && !defined(BUG_CAUSE_BEFORE_LOCK) && !defined(BUG_CAUSE_BEFORE_CHECK)
			cause = mine;
#endif
			UNLOCK((s & CHILDREN) | LOCAL);
#ifdef BUG_CAUSE_AFTER_UNLOCK
			cause = mine;
#endif
			I_WAS_FIRST(mine);
#ifdef BUG_WALK_BY_STALE_WORD
			if
			:: seen & CHILDREN -> MARK_CHILD()
#else
			if
			:: s & CHILDREN -> MARK_CHILD()
#endif
			:: else
			fi
		fi
	fi;
	atomic { assert(done(word)); assert(!child || child_done); through++ }
}

proctype other()
{
	bit marked; byte origin;
	if
	:: origin = PARENT
	:: origin = OWN
	:: goto out
	fi;
	atomic {
#ifndef BUG_MARK_IGNORES_LOCK
		unlocked ->
#endif
		marked = !done(word);
		word = (marked -> word | origin : word)
	}
	MARK_CHILD();
	if
	:: marked -> I_WAS_FIRST(3)
	:: else
	fi;
out:	through++
}

proctype adder()
{
	byte s;
	if
	:: LOCK(s);
		atomic { child = 1; child_done = (done(s) != 0) }
		UNLOCK(s | CHILDREN)
	:: true
	fi;
	through++
}

/* The public read: the word first, then the cause if the word says that it counts. 9: the parent's or the default one. */
inline READ(s, c)
{
#ifdef BUG_CAUSE_SAYS_ENDED
	s = word & HOW;
	c = cause;
	c = (c == NONE && s != LIVE -> 9 : c)
#else
	s = word & HOW;
	if
	:: s == LIVE -> c = NONE
	:: s == LOCAL -> c = cause; assert(c != NONE)
	:: else -> c = 9
	fi
#endif
}

proctype reader()
{
	byte s1, c1, s2, c2;
	READ(s1, c1);
	READ(s2, c2);
	assert((s1 == LIVE) == (c1 == NONE));
	assert(s1 == LIVE || (s2 == s1 && c2 == c1));
	assert(s1 == LIVE || s1 == LOCAL || c1 == 9);
	through == 4 ->               /* everybody else has returned */
	assert(firsts == 1 && unlocked);
	assert(((word & HOW) == LOCAL) == (first < 3));
	assert((word & HOW) != LOCAL || cause == first);
	assert(s2 != LOCAL || c2 == first);
	assert(child == ((word & CHILDREN) != 0) && child_done == child)
}

init
{
	atomic { run explicit(1); run explicit(2); run other(); run adder(); run reader() }
}
