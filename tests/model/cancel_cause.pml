/*
 * cancel_cause: who was first, and with which cause, when two explicit cancels, the parent and a timer meet.
 *
 *        a, b    rctx_cancel_cause(ctx, &a), rctx_cancel_cause(ctx, &b)
 *        other   the parent's walk (origin INHERITED) or the node's own deadline (origin OWN): one of them, or nobody
 *        reader  rctx_err() and rctx_cause() at any moment, twice
 *
 * An explicit cancel takes two steps: claim (cause NULL -> mine), then mark (live -> done with origin LOCAL). Only the
 * claimer marks LOCAL, so a mark that fails was lost to the parent or the deadline, and the claimed cause stays unread
 * for ever: cause counts only in a word that says done and LOCAL. Who finds the claim taken waits until the word is
 * done (the claimer is between two instructions; it cannot fail), so that G1 holds for it too.
 *
 * Checked: err and cause are never seen one without the other and never change; exactly one caller of all three hears
 * "first", and the state bears its name; nobody returns before the node is done.
 *
 * C: core/context.c rctx_cancel_cause, core/tree.c rctx__finish.
 *
 * PLANT BUG_CAUSE_AFTER_MARK: the cause is stored after the mark
 * PLANT BUG_CLAIMER_IS_FIRST: who claimed says "first" without looking who marked
 * PLANT BUG_LOSER_DOES_NOT_WAIT: a second cancel returns as soon as it finds the claim taken
 * PLANT BUG_CAUSE_WITHOUT_ORIGIN: the reader takes a claimed cause for the cause of a node done by its parent
 * PLANT BUG_NO_CLAIM: the cause is overwritten instead of claimed
 */
#define LIVE 0
#define LOCAL 1
#define INHERITED 2
#define OWN 3

#define NONE 0

byte state;                 /* LIVE, or the origin: err and origin change in one compare-and-swap */
byte cause;                 /* NONE, 1 (a), 2 (b) */
byte first;                 /* ghost: who heard "first": 1 a, 2 b, 3 other */
byte firsts, through;

inline I_WAS_FIRST(who) { atomic { firsts++; first = who; assert(firsts == 1) } }

proctype explicit(byte mine)
{
	bit claimed, marked;
#ifdef BUG_CAUSE_AFTER_MARK
	atomic { marked = (state == LIVE); state = (state == LIVE -> LOCAL : state) }
	if
	:: marked -> cause = mine; I_WAS_FIRST(mine)
	:: else
	fi;
#else
#ifdef BUG_NO_CLAIM
	cause = mine; claimed = 1;
#else
	atomic { claimed = (cause == NONE); cause = (cause == NONE -> mine : cause) }
#endif
	if
	:: claimed ->
		atomic { marked = (state == LIVE); state = (state == LIVE -> LOCAL : state) }
#ifdef BUG_CLAIMER_IS_FIRST
		I_WAS_FIRST(mine)
#else
		if
		:: marked -> I_WAS_FIRST(mine)
		:: else -> assert(state != LIVE)
#ifndef BUG_NO_CLAIM
			assert(state != LOCAL)       /* only the claimer marks LOCAL: no second look is needed */
#endif
		fi
#endif
	:: else ->
#ifdef BUG_LOSER_DOES_NOT_WAIT
		skip
#else
		state != LIVE
#endif
	fi;
#endif
	atomic { assert(state != LIVE); through++ }
}

proctype other()
{
	bit marked; byte origin;
	if
	:: origin = INHERITED
	:: origin = OWN
	:: goto out
	fi;
	atomic { marked = (state == LIVE); state = (state == LIVE -> origin : state) }
	if
	:: marked -> I_WAS_FIRST(3)
	:: else
	fi;
out:	through++
}

/* The public read: the word first, then the cause if the word says that it counts. 9: the parent's or the default one. */
inline READ(s, c)
{
	s = state;
	if
	:: s == LIVE -> c = NONE
#ifdef BUG_CAUSE_WITHOUT_ORIGIN
	:: s != LIVE -> c = cause; c = (c == NONE && s != LOCAL -> 9 : c)
#else
	:: s == LOCAL -> c = cause; assert(c != NONE)
	:: else -> c = 9
#endif
	fi
}

proctype reader()
{
	byte s1, c1, s2, c2;
	READ(s1, c1);
	READ(s2, c2);
	assert((s1 == LIVE) == (c1 == NONE));
	assert(s1 == LIVE || (s2 == s1 && c2 == c1));
	assert(s1 == LIVE || s1 == LOCAL || c1 == 9);
	through == 3 ->               /* everybody else has returned */
	assert(firsts == 1);
	assert((state == LOCAL) == (first < 3));
	assert(state != LOCAL || cause == first);
	assert(s2 != LOCAL || c2 == first)
}

init
{
	atomic { run explicit(1); run explicit(2); run other(); run reader() }
}
