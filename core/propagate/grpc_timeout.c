/*
 * grpc_timeout.c - the header grpc-timeout: 1*8DIGIT ( "H" / "M" / "S" / "m" / "u" / "n" ), a positive number. See
 * rctx/propagate.h; the text of the protocol is grpc's doc/PROTOCOL-HTTP2.md.
 */
#include "codec.h"

enum { DIGITS_MAX = 8 };
#define NUMBER_MAX INT64_C(99999999)

/* Finest first. */
static const struct unit {
  int64_t ns;
  char name;
} units[] = {{1, 'n'},
             {1000, 'u'},
             {1000000, 'm'},
             {1000000000, 'S'},
             {60 * INT64_C(1000000000), 'M'},
             {3600 * INT64_C(1000000000), 'H'}};
enum { UNITS = sizeof units / sizeof units[0] };

_Static_assert(INT64_MAX / (3600 * INT64_C(1000000000)) <= 99999999, "8 digits of hours hold any time");

int rctx_grpc_timeout_encode(int64_t timeout_ns, char *buf, size_t size) {
  int unit = 0;
  if (timeout_ns == INT64_MAX) return 0;
  if (timeout_ns <= 0) return -ETIMEDOUT;
  if (misused(buf == NULL && size > 0, "buf is NULL")) return -EINVAL;
  while (unit < UNITS - 1 && timeout_ns / units[unit].ns > NUMBER_MAX) unit++;
  return rctx__write_number(timeout_ns / units[unit].ns, units[unit].name, buf, size);
}

static enum rctx_fault decode(struct rctx_text value, int64_t *timeout_ns) {
  int64_t number;
  if (value.length == 0) return RCTX_FAULT_EMPTY;
  if (value.length > DIGITS_MAX + 1) return RCTX_FAULT_TOO_LONG;
  char name = value.at[--value.length];
  for (int unit = 0; unit < UNITS; unit++) {
    if (units[unit].name != name) continue;
    enum rctx_fault fault = rctx__read_number(value, DIGITS_MAX, &number);
    if (fault != RCTX_FAULT_NONE) return fault;
    if (__builtin_mul_overflow(number, units[unit].ns, timeout_ns)) *timeout_ns = INT64_MAX;
    return RCTX_FAULT_NONE;
  }
  return RCTX_FAULT_UNIT;
}

int rctx_grpc_timeout_decode(struct rctx_text value, int64_t *timeout_ns, enum rctx_fault *fault) {
  int64_t decoded;
  if (misused(timeout_ns == NULL, "timeout_ns is NULL (expected where to write it)") ||
      misused(is_broken(value), NEED_TEXT)) {
    return refuse(fault, RCTX_FAULT_EMPTY);
  }
  enum rctx_fault why = decode(value, &decoded);
  if (why == RCTX_FAULT_NONE) *timeout_ns = decoded;
  return refuse(fault, why);
}

int rctx_grpc_timeout_from_at(const rctx *ctx, int64_t now_ns, int64_t reserve_ns, char *buf, size_t size) {
  if (misused(ctx == NULL, NEED_CTX)) return -EINVAL;
  int64_t budget_ns = rctx_budget_at(ctx, now_ns, reserve_ns);
  return budget_ns > 0 ? rctx_grpc_timeout_encode(budget_ns, buf, size) : rctx__why_nothing_is_left(ctx);
}

int rctx_grpc_timeout_from(const rctx *ctx, int64_t reserve_ns, char *buf, size_t size) {
  if (misused(ctx == NULL, NEED_CTX)) return -EINVAL;
  int64_t budget_ns = rctx_budget(ctx, reserve_ns);
  return budget_ns > 0 ? rctx_grpc_timeout_encode(budget_ns, buf, size) : rctx__why_nothing_is_left(ctx);
}
