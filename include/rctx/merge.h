/*
 * rctx/merge.h - a context with several parents: it ends with the first of them, or with the last.
 *
 *   any-of   work for one caller under several conditions: the request's own context and the connection's, a shutdown
 *   all-of   work shared by many callers, one upstream fetch for all that wait for it: it ends when the last of them is gone
 *
 * Promises cited below:
 *   [MERGE-1] any: ended when the cancel or expiry that ended the first of its parents returns. all: when those that ended its
 *             parents have all returned; of several at once, the one that is through last decides.
 *             No recursion: of merges below merges below merges, those more than 16 deep have ended when the outermost cancel
 *             returns.
 *   [MERGE-2] Error and cause are those of the parent that decided, by the same pointer; rctx_why() names the ancestor where
 *             the end began, and counts the step to that parent as a level.
 *   [MERGE-3] When it ends, for whatever reason, it is unlinked from all parents before that call returns: a long-lived parent
 *             keeps nothing of it but what a reference holds.
 *   [MERGE-4] Its parents stay readable as long as it exists. Values come from the first parent.
 */
#ifndef RCTX_MERGE_H
#define RCTX_MERGE_H

#include <rctx/after.h>

RCTX_BEGIN_DECLS

/** Storage for one parent of a merge; all fields are the library's. */
struct rctx_merge_link {
  struct rctx_after rctx__after;
  struct rctx__merge *rctx__merge;
  const rctx *rctx__parent;
  struct rctx_merge_link *rctx__next;
  bool rctx__linked;
};

/**
 * rctx_merge_any - a child of several parents that ends with the first that ends.
 *
 * @parents: borrowed array; the contexts are retained until the merge is gone. May be of several managers; the merge belongs to
 *           the first one's. @n: at least 1.
 *
 * Its deadline is the earliest of the parents' (those on another clock do not count, but their expiry arrives), also after one
 * was moved; of merges of merges, deadlines that can move are looked up at 64 of them at most. When a parent
 * has ended already it is born ended, with that parent's error and cause: the first one in the array.
 * Returns: the owner's handle, to be ended once with rctx_end() (rctx_drop() would leave it linked until a parent ends). Ended
 *          already: with -ENOMEM, or -EINVAL for no parents or a NULL among them.
 * Threads: any. Races: with the parents' ends: reached by them or born ended. [MERGE-1]
 * Cost:    a node and two blocks of 512 bytes for up to 2 parents, one of them an allocation for more; a registration for each parent.
 */
RCTX_API rctx *rctx_merge_any(const rctx *const *parents, size_t n) RCTX_NONNULL(1) RCTX_DERIVES;

/**
 * rctx_merge_all - a context that ends when the last of its parents has ended.
 *
 * Its deadline is the latest of the parents', if all have one on its clock. A parent that can never end (a root,
 * rctx_without_cancel()) keeps it live. Born ended, with the last one's error and cause, when all have ended already. Otherwise as
 * rctx_merge_any().
 */
RCTX_API rctx *rctx_merge_all(const rctx *const *parents, size_t n) RCTX_NONNULL(1) RCTX_DERIVES;

/** rctx_merge_*_in - the same in the caller's storage: n links, valid until the merge is gone (a value's destructor tells
 *  when: rctx_derive() below it, or rctx_quiesce()). Nothing is allocated but the node and two cached blocks. */
RCTX_API rctx *rctx_merge_any_in(struct rctx_merge_link *links, const rctx *const *parents, size_t n)
    RCTX_NONNULL(1, 2) RCTX_DERIVES;
RCTX_API rctx *rctx_merge_all_in(struct rctx_merge_link *links, const rctx *const *parents, size_t n)
    RCTX_NONNULL(1, 2) RCTX_DERIVES;

#ifdef RCTX_LEAK_SITES
#define rctx_merge_any(...) RCTX__MADE("rctx_merge_any", rctx_merge_any(__VA_ARGS__))
#define rctx_merge_all(...) RCTX__MADE("rctx_merge_all", rctx_merge_all(__VA_ARGS__))
#define rctx_merge_any_in(...) RCTX__MADE("rctx_merge_any_in", rctx_merge_any_in(__VA_ARGS__))
#define rctx_merge_all_in(...) RCTX__MADE("rctx_merge_all_in", rctx_merge_all_in(__VA_ARGS__))
#endif

RCTX_END_DECLS
#endif
