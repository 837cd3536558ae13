/*
 * budget.c - arithmetic on what is left of a context's time. See rctx/budget.h. It looks at contexts only through their
 * public interface.
 */
#include "platform.h"

#include <rctx/budget.h>

#define NEED_CTX "ctx is NULL (expected a context)"
#define NO_LIMIT INT64_MAX

/* True if its time ends at all. A deadline of INT64_MAX never comes. */
static bool is_limited(const rctx *ctx, int64_t *deadline_ns) {
  return rctx_deadline(ctx, deadline_ns) && *deadline_ns != INT64_MAX;
}

/* The time is only asked for where it matters. */
static int64_t now_if_limited(const rctx *ctx) {
  int64_t deadline_ns;
  return is_limited(ctx, &deadline_ns) ? rctx_now_of(ctx) : 0;
}

/* What is left to a deadline: 0 and more, never NO_LIMIT. */
static int64_t until(int64_t deadline_ns, int64_t now_ns) {
  int64_t left;
  if (deadline_ns <= now_ns) return 0;
  if (__builtin_sub_overflow(deadline_ns, now_ns, &left) || left == NO_LIMIT) return NO_LIMIT - 1;
  return left;
}

static int64_t budget_at(const rctx *ctx, int64_t now_ns, int64_t reserve_ns) {
  int64_t deadline_ns;
  if (rctx_err(ctx)) return 0;
  if (!is_limited(ctx, &deadline_ns)) return NO_LIMIT;
  int64_t left = until(deadline_ns, now_ns);
  if (reserve_ns <= 0) return left;
  return left > reserve_ns ? left - reserve_ns : 0;
}

/* floor(budget * weight / of) for weight < of: the whole parts, then what is left over, whose product fits 64 bits. */
static int64_t portion(int64_t budget_ns, unsigned weight, unsigned of) {
  uint64_t budget = (uint64_t)budget_ns;
  return (int64_t)(budget / of * weight + budget % of * weight / of);
}

static int64_t share_of(int64_t budget_ns, unsigned weight, unsigned weights_left, int64_t min_ns) {
  if (min_ns < 1) min_ns = 1;
  if (budget_ns == NO_LIMIT) return NO_LIMIT;
  if (budget_ns < min_ns) return 0;
  if (weight >= weights_left) return budget_ns;
  int64_t share = portion(budget_ns, weight, weights_left);
  if (share < min_ns) share = min_ns;
  return budget_ns - share < min_ns ? budget_ns : share;
}

int64_t rctx_budget_at(const rctx *ctx, int64_t now_ns, int64_t reserve_ns) {
  if (misused(ctx == NULL, NEED_CTX)) return 0;
  return budget_at(ctx, now_ns, reserve_ns);
}

int64_t rctx_budget(const rctx *ctx, int64_t reserve_ns) {
  if (misused(ctx == NULL, NEED_CTX)) return 0;
  return budget_at(ctx, now_if_limited(ctx), reserve_ns);
}

int64_t rctx_budget_share_at(const rctx *ctx, int64_t now_ns, unsigned weight, unsigned weights_left,
                             int64_t reserve_ns, int64_t min_ns) {
  if (misused(ctx == NULL, NEED_CTX)) return 0;
  return share_of(budget_at(ctx, now_ns, reserve_ns), weight, weights_left, min_ns);
}

int64_t rctx_budget_share(const rctx *ctx, unsigned weight, unsigned weights_left, int64_t reserve_ns, int64_t min_ns) {
  if (misused(ctx == NULL, NEED_CTX)) return 0;
  return share_of(budget_at(ctx, now_if_limited(ctx), reserve_ns), weight, weights_left, min_ns);
}

int64_t rctx_budget_try_at(const rctx *ctx, int64_t now_ns, unsigned tries_left, int64_t reserve_ns, int64_t min_ns) {
  if (misused(ctx == NULL, NEED_CTX)) return 0;
  return share_of(budget_at(ctx, now_ns, reserve_ns), 1, tries_left, min_ns);
}

int64_t rctx_budget_try(const rctx *ctx, unsigned tries_left, int64_t reserve_ns, int64_t min_ns) {
  if (misused(ctx == NULL, NEED_CTX)) return 0;
  return share_of(budget_at(ctx, now_if_limited(ctx), reserve_ns), 1, tries_left, min_ns);
}

static int require_at(const rctx *ctx, int64_t now_ns, int64_t need_ns) {
  if (budget_at(ctx, now_ns, 0) >= (need_ns > 1 ? need_ns : 1)) return 0;
  int err = rctx_err(ctx);
  return err ? err : -ETIMEDOUT;
}

int rctx_budget_require_at(const rctx *ctx, int64_t now_ns, int64_t need_ns) {
  if (misused(ctx == NULL, NEED_CTX)) return -EINVAL;
  return require_at(ctx, now_ns, need_ns);
}

int rctx_budget_require(const rctx *ctx, int64_t need_ns) {
  if (misused(ctx == NULL, NEED_CTX)) return -EINVAL;
  return require_at(ctx, now_if_limited(ctx), need_ns);
}
