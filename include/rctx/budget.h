/*
 * rctx/budget.h - how much of the time that is left may be spent on what comes next.
 *
 * A request has one deadline; everything done for it shares what is left of it. These functions say how much that is
 * after keeping a reserve (for the way back, for an answer, for cleaning up), how much one of several tries may take,
 * and whether beginning is worth it at all. Nothing is stored: each call looks at the context anew, so a retry gets
 * what is left then.
 *
 * A budget is in nanoseconds, as everywhere: 0 is "do not begin", INT64_MAX "no limit". It may be passed to
 * rctx_with_timeout() as it is; in rctx_spec.timeout_ns, where 0 means none, it goes through RCTX_BUDGET().
 *
 *   for (unsigned left = 3; left > 0; left--) {                         // three tries
 *     int64_t ns = rctx_budget_try(request, left, 5000000, 20000000);   // 5 ms in reserve, 20 ms at least
 *     if (ns == 0) break;
 *     RCTX_SCOPED rctx *attempt = rctx_with_timeout(request, ns);
 *     if (call(attempt) == 0) return 0;
 *   }
 *
 * What holds for all of them:
 *   [BUDGET-1] Never more than what is left, and 0 once nothing is: of an ended context, of one whose deadline has
 *              passed though nobody has ended it yet, and where the reserve takes all.
 *   [BUDGET-2] INT64_MAX only without a deadline (or with one of INT64_MAX, which never comes).
 *   [BUDGET-3] Nothing overflows, whatever the arguments. A negative reserve counts as 0, a minimum or need of less
 *              than 1 ns as 1: nothing left is never enough.
 * Threads: any. Blocks: never. Cost: as rctx_remaining(); the clock is the one of the context's manager, read once if
 * there is a deadline and not at all otherwise. The _at forms take the time from the caller.
 */
#ifndef RCTX_BUDGET_H
#define RCTX_BUDGET_H

#include <rctx/context.h>

RCTX_BEGIN_DECLS

/** rctx_budget - what is left of the context's time without @reserve_ns. */
RCTX_API int64_t rctx_budget(const rctx *ctx, int64_t reserve_ns) RCTX_NONNULL(1);
RCTX_API int64_t rctx_budget_at(const rctx *ctx, int64_t now_ns, int64_t reserve_ns) RCTX_NONNULL(1);

/**
 * rctx_budget_try - the share of the next of several tries: rctx_budget() divided by @tries_left, rounded down.
 *
 * @tries_left: how many tries there are still to be, this one counted. 1 or 0: the last, it gets all that is left.
 * @min_ns:     less than this is not worth a try. If all that is left is less, the result is 0. If the share would be
 *              less, it is @min_ns: fewer tries, each long enough. If what this try leaves would be less, this one gets
 *              that, too.
 *
 * Returns: the timeout of this try; 0: do not try; INT64_MAX: no limit ([BUDGET-2]: without a deadline there is nothing
 *          to share, a try then needs a timeout of its own).
 */
RCTX_API int64_t rctx_budget_try(const rctx *ctx, unsigned tries_left, int64_t reserve_ns, int64_t min_ns)
    RCTX_NONNULL(1);
RCTX_API int64_t rctx_budget_try_at(const rctx *ctx, int64_t now_ns, unsigned tries_left, int64_t reserve_ns,
                                    int64_t min_ns) RCTX_NONNULL(1);

/**
 * rctx_budget_share - the same for tries, or steps, that are not equal: rctx_budget() * @weight / @weights_left.
 *
 * @weight:       of this one; 0 gets @min_ns.
 * @weights_left: sum of the weights of all there are still to be, this one's included. With @weight or less (the last
 *                one) it gets all that is left. Weights 4, 2, 1: share(4, 7), then share(2, 3), then share(1, 1).
 */
RCTX_API int64_t rctx_budget_share(const rctx *ctx, unsigned weight, unsigned weights_left, int64_t reserve_ns,
                                   int64_t min_ns) RCTX_NONNULL(1);
RCTX_API int64_t rctx_budget_share_at(const rctx *ctx, int64_t now_ns, unsigned weight, unsigned weights_left,
                                      int64_t reserve_ns, int64_t min_ns) RCTX_NONNULL(1);

/** rctx_budget_require - do not begin with less than @need_ns left. Returns 0: there is as much, or no deadline;
 *  rctx_err() of a context that has ended; -ETIMEDOUT: there is less. */
RCTX_API int rctx_budget_require(const rctx *ctx, int64_t need_ns) RCTX_NONNULL(1) RCTX_MUST_CHECK;
RCTX_API int rctx_budget_require_at(const rctx *ctx, int64_t now_ns, int64_t need_ns) RCTX_NONNULL(1) RCTX_MUST_CHECK;

RCTX_END_DECLS
#endif
