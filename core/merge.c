/*
 * merge.c - contexts with several parents.
 *
 * any: a child of its first parent, in the tree; to each other parent it is tied by a link, an inline registration that
 * cancels it. all: a child of the root, tied to every parent by a link that counts down; the last one cancels it.
 *
 * A merge that a link ends stores a cause of ours, which stands for "see the winner": whoever asks for the cause goes on to
 * that parent, as from a child to its parent. The winner is chosen once, by a compare-and-swap; every link that finds it chosen helps to
 * cancel, so that each parent's end returns with the merge ended.
 *
 * Lifetime. The merge holds its parents (a hidden value: value.c lets them go with it, without recursion). Each link that is
 * registered holds the merge. When the merge ends, a callback of its own takes all links back: one that was stopped gives its
 * hold up at once, one that is running does so by its notice, the very last act on it. The callback is registered after all
 * links, so it finds them as they are.
 *
 * Model: tests/model/merge.pml.
 */
#include "manager.h"
#include "tree.h"
#include "value.h"

#include <rctx/merge.h>

enum { DEPTH_MAX = 16 };

struct rctx__merge {
  struct rctx_after ended;       /* inline, on ctx; registered last */
  rctx *ctx;                     /* const once published */
  _Atomic(const rctx *) winner;  /* atomic: the parent that decides; chosen once */
  _Atomic uint32_t left;         /* atomic; all: parents that have not ended */
  rctx_manager *manager;         /* const: whose memory this is */
  bool all;                      /* const */
  bool in_block;                 /* const: this struct is a cached block */
  size_t bytes;                  /* const: of this struct, when it is not */
  size_t n;                      /* const */
  struct rctx_merge_link *links; /* const: the caller's, or own[] */
  struct rctx_merge_link own[];
};

const struct rctx_cause rctx__merged_cause = {
    -ECANCELED, RCTX_ORIGIN_NONE, "a parent of the merge ended", NULL, 0, NULL, NULL};

const rctx *rctx__merge_winner(const rctx *ctx) {
  struct rctx__merge *merge = rctx__value_own(ctx, &rctx__merge_key);
  return load_acquire(&merge->winner); /* partner: decide() */
}

/* ---- ending ------------------------------------------------------------------------------------------------------ */

static void decide(struct rctx__merge *merge, const rctx *parent) {
  const rctx *none = NULL;
  cas_acq_rel(&merge->winner, &none, parent);               /* partner: itself; if it fails, another parent was first */
  const rctx *winner = load_acquire(&merge->winner);        /* partner: the CAS of another parent */
  uint32_t s = load_acquire(&rctx__mutable(winner)->state); /* partner: mark(); it has ended */
  uint32_t how = (s & STATE_ERR) | ORIGIN_LOCAL;
  /* TIMED_OUT says to those below that what the merge shows has passed. all: another parent's may have been later. */
  if (!merge->all && (s & STATE_TIMED_OUT) && rctx__same_clock(winner->manager, merge->ctx->manager))
    how |= STATE_TIMED_OUT;
  rctx__cancel(merge->ctx, how, &rctx__merged_cause);
}

static void parent_ended(struct rctx__merge *merge, const rctx *parent) {
  if (!merge->all || sub_acq_rel(&merge->left, 1U) == 1) decide(merge, parent); /* partner: itself */
}

/* In the thread that ended the parent. A chain of merges would recurse here: beyond some depth it is made a list. */
static void link_fired(const rctx *parent, void *arg) {
  THREAD_LOCAL unsigned depth;
  THREAD_LOCAL struct rctx_merge_link *later;
  struct rctx_merge_link *link = arg;
  if (depth == DEPTH_MAX) {
    rctx__ref(link->rctx__merge->ctx); /* the link's own hold ends with this callback */
    link->rctx__next = later;
    later = link;
    return;
  }
  depth++;
  parent_ended(link->rctx__merge, parent);
  if (--depth > 0) return;
  while ((link = later) != NULL) {
    rctx *ctx = link->rctx__merge->ctx;
    later = link->rctx__next;
    depth++;
    parent_ended(link->rctx__merge, link->rctx__parent);
    depth--;
    rctx__drop(ctx);
  }
}

static void give_hold_up(void *ctx) { rctx__drop(ctx); }

/* The merge has ended: take its links back. */
static void unlink_all(const rctx *ctx, void *arg) {
  struct rctx__merge *merge = arg;
  (void)ctx;
  for (size_t i = 0; i < merge->n; i++) {
    struct rctx_merge_link *link = &merge->links[i];
    bool quiet;
    if (!link->rctx__linked) continue;
    rctx_after_stop_notify(&link->rctx__after, give_hold_up, merge->ctx, &quiet);
    if (quiet) rctx__drop(merge->ctx); /* not the last hold: our caller has one */
  }
}

static void merge_free(struct rctx__merge *merge, rctx_manager *manager) {
  if (merge->in_block) {
    rctx__object_free(manager, CLASS_BLOCK, merge);
  } else {
    rctx__raw_free(manager, merge, merge->bytes);
  }
}

void rctx__merge_bury(struct rctx__merge *merge, rctx **held) {
  for (size_t i = 0; i < merge->n; i++) {
    rctx *parent = rctx__mutable(merge->links[i].rctx__parent);
    if (rctx__is_static(parent) || !rctx__give_up(parent)) continue;
    parent->link = *held;
    *held = parent;
  }
  merge_free(merge, merge->manager);
}

/* ---- making ------------------------------------------------------------------------------------------------------ */

/* The deadline it shows: the earliest, or the latest if all have one. */
static bool shown_deadline(const struct rctx__merge *merge, const rctx_manager *manager, unsigned *looks,
                           int64_t *deadline_ns) {
  bool found = false;
  for (size_t i = 0; i < merge->n; i++) {
    const rctx *parent = merge->links[i].rctx__parent;
    int64_t its_ns;
    bool has = rctx__deadline_of(parent, looks, &its_ns) && rctx__same_clock(parent->manager, manager);
    if (!has && merge->all) return false;
    if (!has || (found && merge->all == (its_ns <= *deadline_ns))) continue;
    *deadline_ns = its_ns;
    found = true;
  }
  return found;
}

int64_t rctx__merge_deadline(const rctx *ctx, unsigned *looks) {
  int64_t deadline_ns;
  return shown_deadline(rctx__value_own(ctx, &rctx__merge_key), ctx->manager, looks, &deadline_ns) ? deadline_ns
                                                                                                   : INT64_MAX;
}

static struct rctx__merge *merge_new(rctx_manager *manager, size_t n, size_t own_links) {
  size_t bytes;
  if (__builtin_mul_overflow(own_links, sizeof(struct rctx_merge_link), &bytes) ||
      __builtin_add_overflow(bytes, sizeof(struct rctx__merge), &bytes)) {
    return NULL;
  }
  bool in_block = bytes <= BLOCK_BYTES;
  struct rctx__merge *merge =
      in_block ? rctx__object_alloc(manager, CLASS_BLOCK) : rctx__raw_alloc(manager, bytes, CACHE_LINE);
  if (merge == NULL) return NULL;
  *merge = (struct rctx__merge){.in_block = in_block, .bytes = bytes, .n = n, .manager = manager};
  return merge;
}

/* Register one link, or deal with a parent that has ended. */
static void link_parent(struct rctx__merge *merge, struct rctx_merge_link *link) {
  rctx__ref(merge->ctx);
  int found = rctx_after_inline(link->rctx__parent, &link->rctx__after, RCTX_ON_ENDED_TELL, link_fired, link);
  link->rctx__linked = found == RCTX_REGISTERED;
  if (link->rctx__linked) return;
  rctx__drop(merge->ctx); /* not the last hold: the handle */
  if (found == RCTX_ENDED) parent_ended(merge, link->rctx__parent);
}

static bool any_null(const rctx *const *parents, size_t n) {
  for (size_t i = 0; i < n; i++) {
    if (parents[i] == NULL) return true;
  }
  return false;
}

static rctx *make(struct rctx_merge_link *links, const rctx *const *parents, size_t n, bool all) {
  rctx_manager *manager = parents[0]->manager;
  struct rctx__merge *merge = merge_new(manager, n, links ? 0 : n);
  if (merge == NULL) return rctx__error_context(-ENOMEM);
  merge->all = all;
  merge->links = links ? links : merge->own;
  atomic_init(&merge->left, (uint32_t)n);
  for (size_t i = 0; i < n; i++) {
    merge->links[i] = (struct rctx_merge_link){.rctx__merge = merge, .rctx__parent = parents[i]};
    if (!rctx__is_static(parents[i])) rctx__ref(rctx__mutable(parents[i]));
  }
  struct rctx__merged_spec spec = {.merge = merge, .values_from = parents[0]};
  unsigned looks = 0;
  spec.has_deadline = shown_deadline(merge, manager, &looks, &spec.deadline_ns);
  spec.climb = all; /* it may end before the latest has passed */
  for (size_t i = 0; i < n; i++) spec.climb |= (parents[i]->own & CLIMB) != 0;
  merge->ctx = rctx__derive_merged(all ? &manager->root : parents[0], &spec);
  if (merge->ctx == NULL) {
    rctx *held = NULL;
    rctx__merge_bury(merge, &held);
    for (rctx *next; held; held = next) {
      next = held->link;
      rctx__release(held);
    }
    return rctx__error_context(-ENOMEM);
  }
  rctx *ctx = merge->ctx;
  for (size_t i = all ? 0 : 1; i < n; i++) link_parent(merge, &merge->links[i]);
  rctx_after_inline(ctx, &merge->ended, RCTX_ON_ENDED_RUN, unlink_all, merge);
  return ctx;
}

#define BAD_PARENTS "parents is NULL, empty, or has a NULL among its contexts"

rctx *rctx_merge_any(const rctx *const *parents, size_t n) {
  if (misused(parents == NULL || n == 0 || n > UINT32_MAX || any_null(parents, n), BAD_PARENTS))
    return rctx__error_context(-EINVAL);
  return make(NULL, parents, n, false);
}

rctx *rctx_merge_all(const rctx *const *parents, size_t n) {
  if (misused(parents == NULL || n == 0 || n > UINT32_MAX || any_null(parents, n), BAD_PARENTS))
    return rctx__error_context(-EINVAL);
  return make(NULL, parents, n, true);
}

rctx *rctx_merge_any_in(struct rctx_merge_link *links, const rctx *const *parents, size_t n) {
  if (misused(links == NULL, "links is NULL (expected storage for n of them)")) return rctx__error_context(-EINVAL);
  if (misused(parents == NULL || n == 0 || n > UINT32_MAX || any_null(parents, n), BAD_PARENTS))
    return rctx__error_context(-EINVAL);
  return make(links, parents, n, false);
}

rctx *rctx_merge_all_in(struct rctx_merge_link *links, const rctx *const *parents, size_t n) {
  if (misused(links == NULL, "links is NULL (expected storage for n of them)")) return rctx__error_context(-EINVAL);
  if (misused(parents == NULL || n == 0 || n > UINT32_MAX || any_null(parents, n), BAD_PARENTS))
    return rctx__error_context(-EINVAL);
  return make(links, parents, n, true);
}
