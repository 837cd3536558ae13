/* codec.c - see codec.h; headers by name, and the counters of what was refused. */
#include "codec.h"

/* ---- decimal numbers --------------------------------------------------------------------------------------------- */

enum rctx_fault rctx__read_number(struct rctx_text text, unsigned digits_max, int64_t *number) {
  int64_t sum = 0;
  if (text.length == 0) return RCTX_FAULT_EMPTY;
  if (text.length > digits_max) return RCTX_FAULT_TOO_LONG;
  for (size_t i = 0; i < text.length; i++) {
    if (!is_digit(text.at[i])) return RCTX_FAULT_SYNTAX;
    sum = sum * 10 + (text.at[i] - '0');
  }
  if (sum == 0) return RCTX_FAULT_ZERO;
  *number = sum;
  return RCTX_FAULT_NONE;
}

int rctx__write_number(int64_t number, char unit, char *buf, size_t size) {
  char reversed[24];
  size_t digits = 0, length;
  for (; number > 0; number /= 10) reversed[digits++] = (char)('0' + number % 10);
  length = digits + (unit ? 1 : 0);
  if (length >= size) return -ENOSPC;
  for (size_t i = 0; i < digits; i++) buf[i] = reversed[digits - 1 - i];
  if (unit) buf[digits] = unit;
  buf[length] = 0;
  return (int)length;
}

/* ---- headers ----------------------------------------------------------------------------------------------------- */

#define NAME(text)                                                                                                     \
  { (text), sizeof(text) - 1 }
static const struct rctx_text names[RCTX_HEADERS] = {
    [RCTX_HEADER_GRPC_TIMEOUT] = NAME("grpc-timeout"),
    [RCTX_HEADER_REQUEST_TIMEOUT_MS] = NAME("x-request-timeout-ms"),
    [RCTX_HEADER_ENVOY_TIMEOUT_MS] = NAME("x-envoy-expected-rq-timeout-ms"),
    [RCTX_HEADER_TRACEPARENT] = NAME("traceparent"),
    [RCTX_HEADER_TRACESTATE] = NAME("tracestate"),
    [RCTX_HEADER_BAGGAGE] = NAME("baggage"),
};

static bool is_header(int id) { return id > RCTX_HEADER_NONE && id < RCTX_HEADERS; }

const char *rctx_header_name(enum rctx_header_id id) { return is_header((int)id) ? names[id].at : NULL; }

static bool is_named(struct rctx_text name, enum rctx_header_id id) {
  if (name.at == NULL || name.length != names[id].length) return false;
  for (size_t i = 0; i < name.length; i++) {
    if (to_lower(name.at[i]) != names[id].at[i]) return false;
  }
  return true;
}

enum rctx_header_id rctx__header_id(struct rctx_text name) {
  for (int id = RCTX_HEADER_NONE + 1; id < RCTX_HEADERS; id++) {
    if (is_named(name, (enum rctx_header_id)id)) return (enum rctx_header_id)id;
  }
  return RCTX_HEADER_NONE;
}

bool rctx__next_named(const struct rctx_headers *headers, struct rctx_cursor *cursor, enum rctx_header_id id,
                      struct rctx_text *value) {
  struct rctx_header header;
  while (headers->next(headers, cursor, &header)) {
    if (!is_named(header.name, id)) continue;
    *value = is_broken(header.value) ? (struct rctx_text){NULL, 0} : trimmed(header.value);
    return true;
  }
  return false;
}

static bool next_of_array(const struct rctx_headers *self, struct rctx_cursor *cursor, struct rctx_header *header) {
  if (cursor->index >= self->count) return false;
  *header = ((const struct rctx_header *)self->list)[cursor->index++];
  return true;
}

struct rctx_headers rctx_headers_of(const struct rctx_header *array, size_t count) {
  if (misused(array == NULL && count > 0, "array is NULL but not empty")) count = 0;
  return (struct rctx_headers){next_of_array, array, count};
}

/* ---- what was refused -------------------------------------------------------------------------------------------- */

static _Atomic uint64_t counts[RCTX_HEADERS][RCTX_FAULTS];

void rctx__count_fault(enum rctx_header_id header, enum rctx_fault fault) {
  if (fault != RCTX_FAULT_NONE) add_relaxed(&counts[header][fault], 1U); /* statistics: orders nothing */
}

uint64_t rctx_fault_count(enum rctx_header_id header, enum rctx_fault fault) {
  int at = (int)fault;
  uint64_t sum = 0;
  if (!is_header((int)header) || at < RCTX_FAULT_NONE || at >= RCTX_FAULTS) return 0;
  if (at != RCTX_FAULT_NONE) return load_relaxed(&counts[header][at]); /* as above */
  for (at = RCTX_FAULT_NONE + 1; at < RCTX_FAULTS; at++) sum += load_relaxed(&counts[header][at]);
  return sum;
}

const char *rctx_fault_text(enum rctx_fault fault) {
  static const char *const texts[RCTX_FAULTS] = {
      [RCTX_FAULT_NONE] = "valid",
      [RCTX_FAULT_EMPTY] = "empty",
      [RCTX_FAULT_TOO_LONG] = "too long",
      [RCTX_FAULT_SYNTAX] = "not of the grammar",
      [RCTX_FAULT_UNIT] = "no such unit",
      [RCTX_FAULT_ZERO] = "zero",
      [RCTX_FAULT_VERSION] = "no such version",
      [RCTX_FAULT_DUPLICATE] = "there twice",
      [RCTX_FAULT_LIMIT] = "over the limit",
  };
  int at = (int)fault;
  return at >= 0 && at < RCTX_FAULTS ? texts[at] : "unknown";
}
