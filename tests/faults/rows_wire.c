// rows_wire.c - rows of rows.h: what is read from headers and written there. Nothing of it asks for memory.
#include "faults/rows.h"

#define T(text) rctx_text_of(text)
#define TRACE "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

static char out[RCTX_BAGGAGE_SIZE];
static struct rctx_traceparent trace;
static const uint8_t some[24] = {1, [16] = 1};

static const struct rctx_headers *received(void) {
  static struct rctx_header list[4];
  static struct rctx_headers headers;
  list[0] = (struct rctx_header){T("grpc-timeout"), T("100m")};
  list[1] = (struct rctx_header){T("traceparent"), T(TRACE)};
  list[2] = (struct rctx_header){T("tracestate"), T("a=b,c=d")};
  list[3] = (struct rctx_header){T("baggage"), T("k=v%20w;p=1,l=m")};
  headers = rctx_headers_of(list, 4);
  return &headers;
}

static bool reads_baggage(struct rctx_baggage_reader reader) {
  struct rctx_baggage_member member;
  struct rctx_text property, value;
  unsigned members = 0;
  while (rctx_baggage_next(&reader, &member)) {
    members++;
    while (rctx_baggage_property(&member.properties, &property, &value)) {
    }
  }
  return members == 2;
}

static bool writes_baggage(const rctx *ctx) {
  struct rctx_baggage_reader reader = rctx_baggage_read(received());
  struct rctx_baggage_member member;
  struct rctx_baggage baggage = rctx_baggage_begin(out, sizeof out);
  return rctx_baggage_add(&baggage, T("own"), T("1"), T("")) == 0 && rctx_baggage_next(&reader, &member) &&
         rctx_baggage_copy(&baggage, &member) == 0 && rctx_baggage_add_values(&baggage, ctx) == 0 &&
         rctx_baggage_forward(&baggage, received()) == 0 && baggage.members == 3;
}

QUIET(rctx_headers_of, received()->count == 4)
QUIET(rctx_header_name, rctx_header_name(RCTX_HEADER_BAGGAGE) != NULL)
QUIET(rctx_fault_text, rctx_fault_text(RCTX_FAULT_NONE) != NULL)
QUIET(rctx_fault_count, rctx_fault_count(RCTX_HEADER_BAGGAGE, RCTX_FAULT_NONE) == 0)
QUIET(rctx_grpc_timeout_encode, rctx_grpc_timeout_encode(SECOND, out, sizeof out) > 0)
QUIET(rctx_grpc_timeout_decode, rctx_grpc_timeout_decode(T("1S"), &(int64_t){0}, NULL) == 0)
QUIET(rctx_grpc_timeout_from, rctx_grpc_timeout_from(b->parent, 0, out, sizeof out) == 0)
QUIET(rctx_grpc_timeout_from_at, rctx_grpc_timeout_from_at(b->parent, 1, 0, out, sizeof out) == 0)
QUIET(rctx_timeout_ms_encode, rctx_timeout_ms_encode(SECOND, out, sizeof out) > 0)
QUIET(rctx_timeout_ms_decode, rctx_timeout_ms_decode(T("100"), &(int64_t){0}, NULL) == 0)
QUIET(rctx_timeout_ms_from, rctx_timeout_ms_from(b->parent, 0, out, sizeof out) == 0)
QUIET(rctx_timeout_ms_from_at, rctx_timeout_ms_from_at(b->parent, 1, 0, out, sizeof out) == 0)
QUIET(rctx_budget_from_headers,
      rctx_budget_from_headers(b->parent, rctx_now(), received(), NULL, &(struct rctx_received){0}) == 0)
QUIET(rctx_traceparent_parse, rctx_traceparent_parse(T(TRACE), &trace, NULL) == 0)
QUIET(rctx_traceparent_start, rctx_traceparent_start(some, true, &trace) == 0)
QUIET(rctx_traceparent_next,
      rctx_traceparent_start(some, true, &trace) == 0 && rctx_traceparent_next(&trace, some, &trace) == 0)
QUIET(rctx_traceparent_format,
      rctx_traceparent_start(some, true, &trace) == 0 && rctx_traceparent_format(&trace, out, sizeof out) == 55)
QUIET(rctx_tracestate_check, rctx_tracestate_check(T("a=b"), NULL) == 0)
QUIET(rctx_tracestate_find, rctx_tracestate_find(T("a=b"), T("a"), &(struct rctx_text){NULL, 0}) == 0)
QUIET(rctx_tracestate_update, rctx_tracestate_update(T("a=b"), T("c"), T("d"), out, sizeof out, NULL) > 0)
QUIET(rctx_trace_from_headers, rctx_trace_from_headers(received(), &trace, out, sizeof out, NULL) > 0)
QUIET(rctx_baggage_read, reads_baggage(rctx_baggage_read(received())))
QUIET(rctx_baggage_read_text, reads_baggage(rctx_baggage_read_text(T("a=b,c=d;e"))))
QUIET(rctx_baggage_next, reads_baggage(rctx_baggage_read(received())))
QUIET(rctx_baggage_property, reads_baggage(rctx_baggage_read_text(T("a=b;c;d=e,f=g"))))
QUIET(rctx_baggage_decode, rctx_baggage_decode(T("a%20b"), out, sizeof out) == 3)
QUIET(rctx_baggage_begin, rctx_baggage_begin(out, sizeof out).members == 0)
QUIET(rctx_baggage_add, writes_baggage(b->parent))
QUIET(rctx_baggage_copy, writes_baggage(b->parent))
QUIET(rctx_baggage_forward, writes_baggage(b->parent))
QUIET(rctx_baggage_add_values, writes_baggage(b->parent))
QUIET(rctx_baggage_from, rctx_baggage_from(b->parent, out, sizeof out, NULL) == 0)

const struct row rows_wire[] = {
    ROW(rctx_headers_of, NOTHING),
    ROW(rctx_header_name, NOTHING),
    ROW(rctx_fault_text, NOTHING),
    ROW(rctx_fault_count, NOTHING),
    ROW(rctx_grpc_timeout_encode, NOTHING),
    ROW(rctx_grpc_timeout_decode, NOTHING),
    ROW(rctx_grpc_timeout_from, NOTHING),
    ROW(rctx_grpc_timeout_from_at, NOTHING),
    ROW(rctx_timeout_ms_encode, NOTHING),
    ROW(rctx_timeout_ms_decode, NOTHING),
    ROW(rctx_timeout_ms_from, NOTHING),
    ROW(rctx_timeout_ms_from_at, NOTHING),
    ROW(rctx_budget_from_headers, NOTHING),
    ROW(rctx_traceparent_parse, NOTHING),
    ROW(rctx_traceparent_start, NOTHING),
    ROW(rctx_traceparent_next, NOTHING),
    ROW(rctx_traceparent_format, NOTHING),
    ROW(rctx_tracestate_check, NOTHING),
    ROW(rctx_tracestate_find, NOTHING),
    ROW(rctx_tracestate_update, NOTHING),
    ROW(rctx_trace_from_headers, NOTHING),
    ROW(rctx_baggage_read, NOTHING),
    ROW(rctx_baggage_read_text, NOTHING),
    ROW(rctx_baggage_next, NOTHING),
    ROW(rctx_baggage_property, NOTHING),
    ROW(rctx_baggage_decode, NOTHING),
    ROW(rctx_baggage_begin, NOTHING),
    ROW(rctx_baggage_add, NOTHING),
    ROW(rctx_baggage_copy, NOTHING),
    ROW(rctx_baggage_forward, NOTHING),
    ROW(rctx_baggage_add_values, NOTHING),
    ROW(rctx_baggage_from, NOTHING),
    {NULL, 0, NULL},
};
