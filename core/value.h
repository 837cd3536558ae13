/*
 * value.h - bindings: append blocks shared along a chain.
 *
 * A block holds up to 16 bindings in the order they were added. A context sees the first n of its block (n is in the low
 * bits of node->values) and then, through block->prev, the first m of an older one. A context that adds a binding where its
 * parent's n equals the block's fill claims the next slots with one compare-and-swap; a sibling that comes second finds
 * the fill moved and begins a block of its own. Entries never change once claimed.
 *
 * Lookup: the context's 64-bit summary answers most misses; else 16 one-byte tags are compared at a time, newest first.
 * Lifetime: a block is freed with the context that made it; whoever else uses it is below that one, or holds it. A context's own
 * blocks are the newest ones, back to the one that `begins` them: what lies behind is not looked at when it goes.
 */
#ifndef RCTX_CORE_VALUE_H
#define RCTX_CORE_VALUE_H

#include "platform.h"
#include "tree.h"

#include <rctx/value.h>

enum { BLOCK_ENTRIES = 16, BLOCK_COUNT_MASK = 63 };

struct rctx__block {
  uintptr_t prev;        /* const: the older block with the count visible in it; 0: none */
  _Atomic uint32_t fill; /* atomic: slots claimed */
  bool begins;           /* const: the first block of its context; those before it are another's */
  union {
    _Atomic uint8_t bytes[BLOCK_ENTRIES];
    _Atomic uint64_t words[2];
  } tags; /* a byte per slot, written by its claimer; readers take them whole and mask what they may not see */
  char pad[CACHE_LINE - 32];
  struct rctx_value entries[BLOCK_ENTRIES]; /* each const once its claimer is published */
};

/** Keys of the library's own, never shown: what a context carries beside its values. */
extern const struct rctx_key rctx__name_key, rctx__deadline_cause_key, rctx__held_key, rctx__drain_key, rctx__merge_key;

/** Add bindings to a node that is not linked yet. Returns 0 or -ENOMEM, and then none of these was added (nothing is destroyed).
 *  share: may use free slots of the block that node->values came from (its parent's). */
int rctx__values_add(rctx *node, const struct rctx_value *values, size_t n, bool share);

/** Call the destructors of the node's own bindings, newest first. Contexts that were held and lost their last reference are
 *  pushed onto *held (through link). */
void rctx__values_bury_slow(rctx *node, rctx **held);
static inline void rctx__values_bury(rctx *node, rctx **held) {
  if (unlikely(node->own & OWN_DESTROYERS)) rctx__values_bury_slow(node, held);
}

/** merge.c: let go of what a merge holds; as above. */
struct rctx__merge;
void rctx__merge_bury(struct rctx__merge *merge, rctx **held);

/** Call fn for the node's own bindings, newest first, hidden ones left out. */
void rctx__each_own_value(const rctx *node, void (*fn)(const struct rctx_value *value, void *arg), void *arg);

/** Free the blocks that the node began. */
void rctx__values_free_slow(rctx *node);
static inline void rctx__values_free(rctx *node) {
  if (unlikely(node->own & OWN_BLOCK)) rctx__values_free_slow(node);
}

/** The node's own binding of a hidden key, or NULL. */
void *rctx__value_own(const rctx *node, const struct rctx_key *key);

#endif
