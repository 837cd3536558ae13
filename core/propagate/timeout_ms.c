/*
 * timeout_ms.c - headers that carry a time in whole milliseconds: 1*10DIGIT, a positive number. x-request-timeout-ms
 * and x-envoy-expected-rq-timeout-ms; connect-timeout-ms has the same form. See rctx/propagate.h.
 */
#include "codec.h"

enum { DIGITS_MAX = 10 };
#define MS_MAX INT64_C(9999999999)
#define NS_PER_MS INT64_C(1000000)

_Static_assert(MS_MAX <= INT64_MAX / NS_PER_MS, "10 digits of milliseconds do not overflow");

int rctx_timeout_ms_encode(int64_t timeout_ns, char *buf, size_t size) {
  if (timeout_ns == INT64_MAX) return 0;
  if (timeout_ns < NS_PER_MS) return -ETIMEDOUT;
  if (misused(buf == NULL && size > 0, "buf is NULL")) return -EINVAL;
  int64_t ms = timeout_ns / NS_PER_MS;
  return rctx__write_number(ms < MS_MAX ? ms : MS_MAX, 0, buf, size);
}

int rctx_timeout_ms_decode(struct rctx_text value, int64_t *timeout_ns, enum rctx_fault *fault) {
  int64_t ms;
  if (misused(timeout_ns == NULL, "timeout_ns is NULL (expected where to write it)") ||
      misused(is_broken(value), NEED_TEXT)) {
    return refuse(fault, RCTX_FAULT_EMPTY);
  }
  enum rctx_fault why = rctx__read_number(value, DIGITS_MAX, &ms);
  if (why == RCTX_FAULT_NONE) *timeout_ns = ms * NS_PER_MS;
  return refuse(fault, why);
}

int rctx_timeout_ms_from_at(const rctx *ctx, int64_t now_ns, int64_t reserve_ns, char *buf, size_t size) {
  if (misused(ctx == NULL, NEED_CTX)) return -EINVAL;
  int64_t budget_ns = rctx_budget_at(ctx, now_ns, reserve_ns);
  return budget_ns > 0 ? rctx_timeout_ms_encode(budget_ns, buf, size) : rctx__why_nothing_is_left(ctx);
}

int rctx_timeout_ms_from(const rctx *ctx, int64_t reserve_ns, char *buf, size_t size) {
  if (misused(ctx == NULL, NEED_CTX)) return -EINVAL;
  int64_t budget_ns = rctx_budget(ctx, reserve_ns);
  return budget_ns > 0 ? rctx_timeout_ms_encode(budget_ns, buf, size) : rctx__why_nothing_is_left(ctx);
}
