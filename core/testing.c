/*
 * testing.c - rctx_test_looks(): which looks at a context a body of code takes, and what it does about each answer.
 *
 * One sweep at a time in a process: claimed by a word, so that looks of other threads are counted by the same counter. A look counts
 * if the context looked at is the sweep's or below it; the nth cancels it before the look is answered.
 */
#include "manager.h"
#include "tree.h"

#include <rctx/testing.h>

_Atomic uint32_t rctx__looks_counted;

static struct {
  _Atomic uint32_t taken; /* atomic: a sweep is under way */
  _Atomic(rctx *) ctx;    /* atomic: of the run under way */
  _Atomic uint32_t count; /* atomic: looks so far */
  uint32_t cancel_at;     /* written before counting is switched on; 0: never */
} sweep;

static bool is_below(const rctx *ctx, const rctx *top) {
  while (ctx && ctx != top)
    ctx = ctx->kind == NODE_DETACHED ? NULL : ctx->parent; /* nothing to tell it from up there */
  return ctx != NULL;
}

COLD void rctx__look(const rctx *ctx) {
  if (!load_relaxed(&rctx__looks_counted) || ctx == NULL) return; /* partner: the caller's own order with the sweep */
  rctx *top = load_acquire(&sweep.ctx);                           /* partner: run() */
  if (top == NULL || !is_below(ctx, top)) return;
  if (add_relaxed(&sweep.count, 1U) + 1 == sweep.cancel_at)
    rctx_cancel_with(top, -ECANCELED, RCTX_ORIGIN_CANCEL, "cancelled by rctx_test_looks()");
}

/* Returns how many looks there were. */
static uint32_t run(rctx_work_fn fn, void *arg, const struct rctx_looks_options *options, uint32_t cancel_at,
                    int *result) {
  if (options->reset) options->reset(arg);
  rctx *ctx = rctx_with_cancel(options->parent ? options->parent : rctx_background());
  store_relaxed(&sweep.count, 0U);
  sweep.cancel_at = cancel_at;
  store_release(&sweep.ctx, ctx); /* partner: rctx__look() */
  store_relaxed(&rctx__looks_counted, 1U);
  *result = fn(ctx, arg);
  store_relaxed(&rctx__looks_counted, 0U);
  store_release(&sweep.ctx, NULL); /* as above */
  uint32_t looks = load_relaxed(&sweep.count);
  rctx_end(ctx);
  return looks;
}

int rctx_test_looks(rctx_work_fn fn, void *arg, const struct rctx_looks_options *options, struct rctx_looks *looks) {
  static const struct rctx_looks_options none;
  if (misused(looks == NULL, "looks is NULL (expected where to write it)") || fn == NULL) return -EINVAL;
  if (options == NULL) options = &none;
  uint32_t free = 0;
  if (!cas_acq_rel(&sweep.taken, &free, 1U)) return -EBUSY; /* partner: the release below */
  unsigned runs_max = options->runs_max ? options->runs_max : 1000;
  unsigned patience = options->patience ? options->patience : 1;
  *looks = (struct rctx_looks){0};
  looks->looks = run(fn, arg, options, 0, &looks->result);
  int rc = 0;
  for (uint32_t at = options->first ? options->first : 1; at <= looks->looks; at++) {
    int result;
    if (looks->runs == runs_max) {
      rc = -E2BIG;
      break;
    }
    uint32_t seen = run(fn, arg, options, at, &result);
    if (seen < at) break; /* it took another way and never got there */
    looks->runs++;
    bool stopped = result != 0 && seen - at <= patience;
    if (stopped) {
      looks->stopped++;
    } else if (looks->ignored++ == 0) {
      looks->first_ignored = at;
    }
  }
  store_release(&sweep.taken, 0U); /* partner: the claim */
  return rc;
}
