/*
 * traceparent.c - the header traceparent of W3C Trace Context, levels 1 and 2. See rctx/propagate.h.
 *
 *   0  3                                36               53  55
 *   00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01[-...]     the rest only in versions above 00
 */
#include "tracestate.h"

enum { AT_VERSION = 0, AT_TRACE = 3, AT_PARENT = 36, AT_FLAGS = 53, LENGTH = 55, VERSION_INVALID = 0xff };

static const uint8_t known_flags = RCTX_TRACE_SAMPLED | RCTX_TRACE_RANDOM;

/* ---- hex --------------------------------------------------------------------------------------------------------- */

static int hex_digit(char c) {
  if (is_digit(c)) return c - '0';
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Read n bytes of two lower case digits each. */
static bool read_hex(const char *at, uint8_t *bytes, size_t n) {
  for (size_t i = 0; i < n; i++) {
    int high = hex_digit(at[2 * i]), low = hex_digit(at[2 * i + 1]);
    if (high < 0 || low < 0) return false;
    bytes[i] = (uint8_t)(high * 16 + low);
  }
  return true;
}

static void write_hex(char *at, const uint8_t *bytes, size_t n) {
  static const char digits[] = "0123456789abcdef";
  for (size_t i = 0; i < n; i++) {
    at[2 * i] = digits[bytes[i] >> 4];
    at[2 * i + 1] = digits[bytes[i] & 15];
  }
}

static bool is_zero(const uint8_t *bytes, size_t n) {
  uint8_t all = 0;
  for (size_t i = 0; i < n; i++) all |= bytes[i];
  return all == 0;
}

/* ---- reading ----------------------------------------------------------------------------------------------------- */

static enum rctx_fault parse(struct rctx_text value, struct rctx_traceparent *trace) {
  const char *at = value.at;
  if (value.length == 0) return RCTX_FAULT_EMPTY;
  if (value.length < LENGTH) return RCTX_FAULT_SYNTAX;
  if (!read_hex(at + AT_VERSION, &trace->version, 1)) return RCTX_FAULT_SYNTAX;
  if (trace->version == VERSION_INVALID) return RCTX_FAULT_VERSION;
  if (at[AT_TRACE - 1] != '-' || at[AT_PARENT - 1] != '-' || at[AT_FLAGS - 1] != '-') return RCTX_FAULT_SYNTAX;
  if (value.length > LENGTH && trace->version == 0) return RCTX_FAULT_TOO_LONG;
  if (value.length > LENGTH && at[LENGTH] != '-') return RCTX_FAULT_SYNTAX;
  if (!read_hex(at + AT_TRACE, trace->trace_id, sizeof trace->trace_id) ||
      !read_hex(at + AT_PARENT, trace->parent_id, sizeof trace->parent_id) ||
      !read_hex(at + AT_FLAGS, &trace->flags, 1)) {
    return RCTX_FAULT_SYNTAX;
  }
  if (is_zero(trace->trace_id, sizeof trace->trace_id) || is_zero(trace->parent_id, sizeof trace->parent_id))
    return RCTX_FAULT_ZERO;
  trace->flags &= known_flags;
  return RCTX_FAULT_NONE;
}

int rctx_traceparent_parse(struct rctx_text value, struct rctx_traceparent *trace, enum rctx_fault *fault) {
  struct rctx_traceparent parsed;
  if (misused(trace == NULL, "trace is NULL (expected where to write it)") || misused(is_broken(value), NEED_TEXT))
    return refuse(fault, RCTX_FAULT_EMPTY);
  enum rctx_fault why = parse(value, &parsed);
  if (why == RCTX_FAULT_NONE) *trace = parsed;
  return refuse(fault, why);
}

/* ---- writing ----------------------------------------------------------------------------------------------------- */

int rctx_traceparent_format(const struct rctx_traceparent *trace, char *buf, size_t size) {
  if (misused(trace == NULL, "trace is NULL (expected a traceparent)")) return -EINVAL;
  if (is_zero(trace->trace_id, sizeof trace->trace_id) || is_zero(trace->parent_id, sizeof trace->parent_id))
    return -EINVAL;
  if (size <= LENGTH) return -ENOSPC;
  if (misused(buf == NULL, "buf is NULL")) return -EINVAL;
  uint8_t flags = trace->flags & known_flags;
  memcpy(buf + AT_VERSION, "00-", 3);
  write_hex(buf + AT_TRACE, trace->trace_id, sizeof trace->trace_id);
  buf[AT_PARENT - 1] = '-';
  write_hex(buf + AT_PARENT, trace->parent_id, sizeof trace->parent_id);
  buf[AT_FLAGS - 1] = '-';
  write_hex(buf + AT_FLAGS, &flags, 1);
  buf[LENGTH] = 0;
  return LENGTH;
}

int rctx_traceparent_next(const struct rctx_traceparent *received, const uint8_t random[8],
                          struct rctx_traceparent *next) {
  if (misused(received == NULL, "received is NULL (expected a traceparent)") ||
      misused(random == NULL, "random is NULL (expected 8 bytes)") ||
      misused(next == NULL, "next is NULL (expected where to write it)")) {
    return -EINVAL;
  }
  if (is_zero(random, sizeof next->parent_id)) return -EINVAL;
  *next = *received;
  next->version = 0;
  memcpy(next->parent_id, random, sizeof next->parent_id);
  return 0;
}

int rctx_traceparent_start(const uint8_t random[24], bool sampled, struct rctx_traceparent *trace) {
  if (misused(random == NULL, "random is NULL (expected 24 bytes)") ||
      misused(trace == NULL, "trace is NULL (expected where to write it)")) {
    return -EINVAL;
  }
  const uint8_t *span = random + sizeof trace->trace_id;
  if (is_zero(random, sizeof trace->trace_id) || is_zero(span, sizeof trace->parent_id)) return -EINVAL;
  trace->version = 0;
  trace->flags = RCTX_TRACE_RANDOM | (sampled ? RCTX_TRACE_SAMPLED : 0);
  memcpy(trace->trace_id, random, sizeof trace->trace_id);
  memcpy(trace->parent_id, span, sizeof trace->parent_id);
  return 0;
}

/* ---- from headers ------------------------------------------------------------------------------------------------ */

static int parse_only_one(const struct rctx_headers *headers, struct rctx_traceparent *trace, enum rctx_fault *fault) {
  struct rctx_cursor cursor = {NULL, 0};
  struct rctx_text value, second;
  if (!rctx__next_named(headers, &cursor, RCTX_HEADER_TRACEPARENT, &value)) {
    refuse(fault, RCTX_FAULT_NONE);
    return -ENOENT;
  }
  enum rctx_fault why =
      rctx__next_named(headers, &cursor, RCTX_HEADER_TRACEPARENT, &second) ? RCTX_FAULT_DUPLICATE : parse(value, trace);
  rctx__count_fault(RCTX_HEADER_TRACEPARENT, why);
  return refuse(fault, why);
}

int rctx_trace_from_headers(const struct rctx_headers *headers, struct rctx_traceparent *trace, char *state,
                            size_t size, enum rctx_fault *fault) {
  struct rctx_traceparent parsed;
  if (misused(headers == NULL || headers->next == NULL, "headers is NULL (expected a list of headers)") ||
      misused(trace == NULL, "trace is NULL (expected where to write it)") ||
      misused(state == NULL && size > 0, "state is NULL but has a size")) {
    return refuse(fault, RCTX_FAULT_EMPTY);
  }
  if (size > 0) *state = 0;
  int err = parse_only_one(headers, &parsed, fault);
  if (err) return err;
  *trace = parsed;
  return size > 0 ? rctx__tracestate_join(headers, state, size, fault) : 0;
}
