// traceparent_fuzz.c - traceparent against the rules of the specification, and written again.
//
// The bytes are the value; the same bytes are the random ones of a new span and a new trace.
#include "headers.h"

#include "replay.h"

// n HEXDIGLC, kept as they are. False if there are fewer.
static bool hexdiglc(struct scanner *s, int n, char *kept) {
  for (int i = 0; i < n; i++) {
    if (!in(next(s), "0123456789abcdef")) return false;
    kept[i] = (char)next(s);
    take(s, next(s));
  }
  kept[n] = 0;
  return true;
}

struct fields {
  char version[3], trace_id[33], parent_id[17], flags[3];
};

// value = version "-" trace-id "-" parent-id "-" trace-flags, and in higher versions nothing or "-" and anything.
static bool value_rule(struct scanner *s, struct fields *f) {
  if (!hexdiglc(s, 2, f->version) || strcmp(f->version, "ff") == 0 || !take(s, '-')) return false;
  if (!hexdiglc(s, 32, f->trace_id) || strspn(f->trace_id, "0") == 32 || !take(s, '-')) return false;
  if (!hexdiglc(s, 16, f->parent_id) || strspn(f->parent_id, "0") == 16 || !take(s, '-')) return false;
  if (!hexdiglc(s, 2, f->flags)) return false;
  return next(s) == END || (strcmp(f->version, "00") != 0 && next(s) == '-');
}

static void write_again(const struct rctx_traceparent *trace, const struct fields *f) {
  char buf[RCTX_TRACEPARENT_SIZE], expected[128];
  snprintf(expected, sizeof expected, "00-%s-%s-%02lx", f->trace_id, f->parent_id, strtoul(f->flags, NULL, 16) & 3);
  OUGHT(rctx_traceparent_format(trace, buf, sizeof buf) == 55);
  OUGHT(strcmp(buf, expected) == 0);
  OUGHT(rctx_traceparent_format(trace, buf, sizeof buf - 1) == -ENOSPC);
  OUGHT(trace->version == strtoul(f->version, NULL, 16));
}

static bool all_zero(const uint8_t *bytes, size_t n) {
  while (n > 0 && bytes[n - 1] == 0) n--;
  return n == 0;
}

static void make_new(const uint8_t *data, const struct rctx_traceparent *received) {
  struct rctx_traceparent trace;
  bool zero = all_zero(data, 16) || all_zero(data + 16, 8);
  OUGHT(rctx_traceparent_start(data, data[0] & 1, &trace) == (zero ? -EINVAL : 0));
  OUGHT(zero || (memcmp(trace.trace_id, data, 16) == 0 && memcmp(trace.parent_id, data + 16, 8) == 0));
  OUGHT(rctx_traceparent_next(received, data, &trace) == (all_zero(data, 8) ? -EINVAL : 0));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  struct rctx_text text = box(data, size);
  struct rctx_traceparent trace = {{0}, {0}, 0, 0};
  struct fields fields;
  struct scanner s = scan(text);
  enum rctx_fault fault = RCTX_FAULTS;
  bool valid = value_rule(&s, &fields);
  OUGHT(rctx_traceparent_parse(text, &trace, &fault) == (valid ? 0 : -EINVAL));
  OUGHT((fault == RCTX_FAULT_NONE) == valid && fault < RCTX_FAULTS);
  if (valid) write_again(&trace, &fields);
  if (size >= 24) make_new(data, &trace);
  unbox(text);
  return 0;
}
