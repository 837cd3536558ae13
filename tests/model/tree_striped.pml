/*
 * tree_striped: a contended parent gets stripes while children come and go and two cancels run.
 *
 *        0  parent, striped by pub        pub        publishes the stripes, then derives 2 on stripe 0 and ends it
 *        └─ 1  linked inline before       adder      derives 3 on stripe 1 or, not having seen the stripes, inline
 *                                         old        ends 1, which leaves the inline list
 *                                         canceller  rctx_cancel(0)
 *                                         second     rctx_cancel(0): winner or helper
 *
 * Checked: G1, G2, G3 as in tree_add_cancel; a stripe is written by whoever saw the parent live under the stripe's lock,
 * without a change of the state word, so a walk may only read the lists after passing through every stripe's lock. That
 * goes for a helper too: the winner may have been overtaken between its mark and its pass.
 *
 * C: core/tree.c rctx__link, stripes_make, leave, rctx__cancel, mark, enter, walk_below.
 *
 * PLANT BUG_NO_PASS_THROUGH: walks read the stripes without having passed through their locks
 * PLANT BUG_HELPER_NO_PASS_THROUGH: only the winner passes through
 * PLANT BUG_PUBLISH_BEFORE_CHILDREN: stripes are visible before the word says "has children"
 * PLANT BUG_STRIPED_CLEARS_CHILDREN: the last inline child clears CHILDREN although stripes exist
 * PLANT BUG_FREE_AT_ONCE: a leaver gives memory back at once although the parent's walk is running
 */
#define NN 4
#define STRIPED
#define SP 0
#include "tree.inc"

byte wins;

proctype canceller(byte me)
{
	WALK_LOCALS
	byte k_; bit won;
	CANCEL(0, me, won);
	wins = wins + won
}

proctype pub()
{
	LIST_LOCALS
	PUBLISH_STRIPES();
	LINK(2, 0, 0);
	LEAVE(2)
}

proctype adder()
{
	LIST_LOCALS
	LINK(3, 0, 1)
}

proctype old()
{
	LIST_LOCALS
	LEAVE(1)
}

init
{
	atomic {
		parent[0] = NIL; parent[1] = 0;
		head[0] = 1; head[1] = NIL; head[2] = NIL; head[3] = NIL;
		shead[0] = NIL; shead[1] = NIL;
		next[0] = NIL; next[1] = NIL; next[2] = NIL; next[3] = NIL;
		linked[1] = 1;
		st[0] = CHILDREN;
		run canceller(0); run canceller(1); run pub(); run adder(); run old()
	}
	(_nr_pr == 1) ->
	assert(wins == 1);
	assert((st[0] & WALKED) && st[0] < W1);
	assert(freed[1] && freed[2] && !freed[0] && linked[3] && is_done(3))
}
