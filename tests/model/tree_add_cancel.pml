/*
 * tree_add_cancel: deriving and ending below a parent that is being cancelled.
 *
 *        0  parent, never ends              canceller  rctx_cancel(0)
 *        ├─ 5  detached: stays live
 *        └─ 1  child                        adder      derives from 0 (node 4, or memory that has come back), ends it
 *           └─ 2  grandchild                owner      ends 2, derives 3 from 1, ends 3 and then 1
 *                                           second     rctx_cancel(0) as well, as winner or helper
 *
 * Checked: no walker and no leaver touches memory given back, or memory that has become another node (gen);
 * G1 everything below is done when cancel returns; G2 a child done by inheritance has a parent that is done;
 * a child derived from a parent seen done is born done.
 *
 * C: core/tree.c rctx__link, leave, rctx__cancel, mark, walk_below.
 *
 * PLANT BUG_FREE_AT_ONCE: a leaver gives memory back at once although the parent's walk is running
 * PLANT BUG_LEAF_NO_LOCK_CHECK: the leaf's mark does not wait for LOCKED, the adder's unlock overwrites it
 * PLANT BUG_UNLINK_CLEARS_NEXT: a walker standing on the node that leaves loses the rest of the list
 */
#define NN 6
#define DETACHED_NODE 5
#define REUSE
#include "tree.inc"

byte wins;

proctype canceller()
{
	WALK_LOCALS
	byte k_; bit won;
	CANCEL(0, 0, won);
	wins = wins + won
}

/* Memory for a new node: any that is free. Nobody else may hold a pointer to it now, except a walker in error. */
inline ALLOC(c)
{
	atomic {
		if
		:: freed[4] -> c = 4
		:: freed[1] -> c = 1
		:: freed[2] -> c = 2
		fi;
		freed[c] = 0; gen[c] = 1 - gen[c]
	}
}

proctype adder()
{
	LIST_LOCALS
	byte c; bit parent_done;
	ALLOC(c);
	parent_done = is_done(0);
	LINK(c, 0);
	assert(!parent_done || (is_done(c) && (st[c] & INH)));
	LEAVE(c)
}

proctype owner()
{
	LIST_LOCALS
	atomic { freed[3] -> freed[3] = 0 }
	LEAVE(2);            /* 1 is a leaf for a moment */
	LINK(3, 1);
	LEAVE(3);
	LEAVE(1)
}

proctype second()
{
	WALK_LOCALS
	byte k_; bit won;
	CANCEL(0, 1, won);
	wins = wins + won
}

init
{
	atomic {
		parent[1] = 0; parent[2] = 1; parent[5] = 0; parent[0] = NIL;
		next[0] = NIL; next[1] = 5; next[5] = NIL; next[2] = NIL; next[3] = NIL; next[4] = NIL;
		head[0] = 1; head[1] = 2; head[2] = NIL; head[3] = NIL; head[4] = NIL; head[5] = NIL;
		linked[1] = 1; linked[2] = 1; linked[5] = 1;
		st[0] = CHILDREN; st[1] = CHILDREN;
		freed[3] = 1; freed[4] = 1;
		run canceller(); run adder(); run owner(); run second()
	}
	(_nr_pr == 1) ->
	assert(wins == 1);
	assert((st[0] & WALKED) && st[0] < W1);
	assert(linked[5] && !is_done(5))
}
