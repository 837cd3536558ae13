/*
 * tree_help: two cancels at once, one from the root and one from the middle; whoever comes second helps. Children leave.
 *
 *        0                 top       rctx_cancel(0)
 *        └─ 1              middle    rctx_cancel(1), then (its children gone) ends 1
 *           ├─ 2           leaver    ends 2, then 4 and 3
 *           └─ 3 ── 4
 *
 * ALSO WITH_THIRD: without 2, but with another rctx_cancel(0), so that three walks can be inside 1
 *
 * Checked: G1 for both calls, winner or not; G3 one live -> done step per node; the count of
 * walkers opens the window for early reuse only when nobody is inside: no walker touches memory given back; at
 * the end every walk has left a WALKED behind.
 *
 * C: core/tree.c rctx__cancel, mark, walk_below, leave_walk, leave.
 *
 * PLANT BUG_FIRST_FINISHER_WALKED: WALKED is set although another walker is still inside
 * PLANT BUG_HELPER_NOT_COUNTED: a helper walks without having added itself to walkers
 * PLANT BUG_UNLINK_CLEARS_NEXT: a walker standing on the node that leaves loses the rest of the list
 * PLANT BUG_FREE_AT_ONCE: a leaver gives memory back at once although the parent's walk is running
 * PLANT BUG_LOSER_DOES_NOT_HELP: a cancel that lost the race on its root returns at once
 */
#define NN 5
#include "tree.inc"

bit left_all;
byte wins;

proctype top()
{
	WALK_LOCALS
	byte k_; bit won;
	CANCEL(0, 0, won);
	wins = wins + won
}

#ifdef WITH_THIRD
proctype third()
{
	WALK_LOCALS
	byte k_; bit won;
	CANCEL(0, 2, won);
	wins = wins + won
}
#endif

/* Holds the handle of 1 until its own cancel has returned; the last child's leaving hands 1 over. */
proctype middle()
{
	WALK_LOCALS
	LIST_LOCALS
	byte k_; bit won;
	CANCEL(1, 1, won);
	left_all -> LEAVE(1)
}

proctype leaver()
{
	LIST_LOCALS
#ifndef WITH_THIRD
	LEAVE(2);
#endif
	LEAVE(4);
	LEAVE(3);
	left_all = 1
}

init
{
	atomic {
#ifdef WITH_THIRD
		head[1] = 3; freed[2] = 1;
		run third();
#else
		head[1] = 2; linked[2] = 1;
#endif
		parent[0] = NIL; parent[1] = 0; parent[2] = 1; parent[3] = 1; parent[4] = 3;
		head[0] = 1; head[2] = NIL; head[3] = 4; head[4] = NIL;
		next[0] = NIL; next[1] = NIL; next[2] = 3; next[3] = NIL; next[4] = NIL;
		linked[1] = 1; linked[3] = 1; linked[4] = 1;
		st[0] = CHILDREN; st[1] = CHILDREN; st[3] = CHILDREN;
		run top(); run middle(); run leaver()
	}
	(_nr_pr == 1) ->
	assert(wins == 1);
	assert((st[0] & WALKED) && st[0] < W1);
	assert(freed[1] && freed[2] && freed[3] && freed[4])
}
