/*
 * propagate.c - a request that crosses three processes: its deadline, its trace and a value go with it in headers.
 *
 * In Go:
 *   ctx, cancel := context.WithTimeout(r.Context(), timeoutOf(r.Header))   // by hand; gRPC does it for its own calls
 *   ctx = otel.GetTextMapPropagator().Extract(ctx, propagation.HeaderCarrier(r.Header))
 *   ...
 *   otel.GetTextMapPropagator().Inject(ctx, propagation.HeaderCarrier(out.Header))
 *
 * A server receives a request and derives a context from its headers, tries an upstream service twice, and prints what
 * it sends each time. Time is played: the clock belongs to the example, so each run prints the same.
 *
 * Look at: grpc-timeout of the second try, which is of what is left then, not of what there was at first; the session,
 * which is a value of the request like the others and does not leave the process; and the third try, which is not made:
 * its time would have been too short, so the second got it, too.
 */
#include "example.h"
#include <rctx/rctx.h>
#include <string.h>

#define HOP_RESERVE (5 * MS)   /* for the way back, and an answer of our own */
#define WORTH_TRYING (50 * MS) /* the upstream does nothing useful in less */

RCTX_KEY_FULL(user, const char *, NULL, RCTX_KEY_PROPAGATED, "who asks: for access checks in every service")
RCTX_KEY(session, const char *, "a secret between the client and this server")
RCTX_KEY(trace, const struct rctx_traceparent *, "whose trace this request belongs to")
RCTX_KEY(trace_state, const char *, "what tracing systems want to be told at the next hop")

static int64_t now = 1000 * MS;
static int64_t read_clock(void *arg) {
  (void)arg;
  return now;
}

/* Random bytes in real life: getrandom(2). */
static const uint8_t *span_bytes(void) {
  static uint8_t bytes[8] = {0xaa, 0, 0, 0, 0, 0, 0, 0};
  bytes[7]++;
  return bytes;
}

/* ---- receiving --------------------------------------------------------------------------------------------------- */

/* What this server makes of the time it is given: at most 10 s, half a second if nothing is said, and rubbish is
 * refused. */
static const struct rctx_budget_policy policy = {.max_ns = 10000 * MS,
                                                 .min_ns = WORTH_TRYING,
                                                 .default_ns = 500 * MS,
                                                 .absent = RCTX_OTHERWISE_DEFAULT,
                                                 .invalid = RCTX_OTHERWISE_REJECT};

/* The value of a member of the received baggage, in memory of the request. NULL: it is not there. */
static const char *from_baggage(rctx *request, const struct rctx_headers *headers, const char *key) {
  struct rctx_baggage_reader reader = rctx_baggage_read(headers);
  struct rctx_baggage_member member;
  while (rctx_baggage_next(&reader, &member)) {
    if (member.key.length != strlen(key) || memcmp(member.key.at, key, member.key.length) != 0) continue;
    char *text = rctx_alloc(request, member.value.length + 1);
    return text && rctx_baggage_decode(member.value, text, member.value.length + 1) >= 0 ? text : NULL;
  }
  return NULL;
}

/* The received trace, or a new one, in memory of the request. NULL: no memory. */
static const struct rctx_traceparent *trace_of(rctx *request, const struct rctx_headers *headers, char *state) {
  struct rctx_traceparent *found = rctx_alloc(request, sizeof *found);
  uint8_t random[24] = {1, [16] = 2};
  if (!found) return NULL;
  if (rctx_trace_from_headers(headers, found, state, RCTX_TRACESTATE_SIZE, NULL) >= 0) return found;
  return rctx_traceparent_start(random, true, found) == 0 ? found : NULL;
}

/* ---- sending ----------------------------------------------------------------------------------------------------- */

static void say(const char *name, const char *value) {
  if (*value) printf("      %s: %s\n", name, value);
}

/* All headers of one request to the upstream. Returns 0, or why it is not to be sent. */
static int send_headers(const rctx *call, const struct rctx_headers *received) {
  char timeout[RCTX_GRPC_TIMEOUT_SIZE] = "", parent[RCTX_TRACEPARENT_SIZE] = "", state[RCTX_TRACESTATE_SIZE] = "";
  char baggage[RCTX_BAGGAGE_SIZE], span[17];
  const struct rctx_traceparent *ours = NULL;
  const char *received_state = NULL;
  struct rctx_traceparent next;

  int length = rctx_grpc_timeout_from(call, HOP_RESERVE, timeout, sizeof timeout);
  if (length < 0) return length; /* -ETIMEDOUT: nothing left */
  if (trace_get(call, &ours) && ours && rctx_traceparent_next(ours, span_bytes(), &next) == 0) {
    require(rctx_traceparent_format(&next, parent, sizeof parent) > 0);
    memcpy(span, parent + 36, 16);
    span[16] = 0;
    (void)trace_state_get(call, &received_state);
    require(rctx_tracestate_update(rctx_text_of(received_state), rctx_text_of("example"), rctx_text_of(span), state,
                                   sizeof state, NULL) > 0);
  }
  struct rctx_baggage out = rctx_baggage_begin(baggage, sizeof baggage);
  rctx_baggage_add_values(&out, call);
  rctx_baggage_forward(&out, received);

  say("grpc-timeout", timeout);
  say("traceparent", parent);
  say("tracestate", state);
  say("baggage", baggage);
  expect(strstr(baggage, "user=ann") && !strstr(baggage, "hunter2"));
  return 0;
}

/* An upstream that does not answer in time: each try takes all it is given. The first gets most, since as a rule it is
 * the only one. Returns how many were made. */
static int ask_upstream(const rctx *request, const struct rctx_headers *received) {
  static const unsigned weights[] = {4, 2, 1};
  unsigned weights_left = 7;
  int made = 0;
  for (int i = 0; i < 3; i++) {
    int64_t ns = rctx_budget_share(request, weights[i], weights_left, HOP_RESERVE, WORTH_TRYING);
    printf("    %lld ms are left, try %d gets %lld\n", (long long)(rctx_remaining(request) / MS), i + 1,
           (long long)(ns / MS));
    if (ns == 0) break;
    RCTX_SCOPED rctx *attempt = rctx_with_timeout(request, ns);
    if (send_headers(attempt, received) == 0) made++;
    now += ns;
    weights_left -= weights[i];
  }
  return made;
}

static void serve(const rctx *server, const struct rctx_headers *headers, int64_t arrival) {
  char state[RCTX_TRACESTATE_SIZE] = "";
  struct rctx_received received;
  int answer = rctx_budget_from_headers(server, arrival, headers, &policy, &received);
  if (answer) {
    printf("    refused: %s (%s: %s)\n", rctx_strerror(answer), rctx_header_name(received.refused_id),
           rctx_fault_text(received.refused));
    expect(answer == -EINVAL);
    return;
  }
  RCTX_SCOPED rctx *request =
      rctx_derive(server, &(struct rctx_spec){.deadline_ns = received.deadline_ns, .name = "GET /orders"});
  struct rctx_value values[] = {user_value(from_baggage(request, headers, "user")), session_value("hunter2"),
                                trace_value(trace_of(request, headers, state)), trace_state_value(state)};
  RCTX_SCOPED rctx *known = rctx_with_values(request, values, 4);
  printf("    %lld ms are granted by %s, %lld are left\n", (long long)(received.timeout_ns / MS),
         rctx_header_name(received.source), (long long)(rctx_remaining(known) / MS));
  expect(ask_upstream(known, headers) == 2);
}

int main(void) {
  static const struct rctx_header good[] = {
      {{"Host", 4}, {"orders", 6}},
      {{"grpc-timeout", 12}, {"250m", 4}},
      {{"traceparent", 11}, {"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", 55}},
      {{"tracestate", 10}, {"congo=t61rcWkgMzE", 17}},
      {{"baggage", 7}, {"user=ann%20lee,color=blue;ttl=1", 31}}};
  static const struct rctx_header bad[] = {{{"X-Request-Timeout-Ms", 20}, {"-1", 2}}};
  struct rctx_headers list = rctx_headers_of(good, sizeof good / sizeof good[0]);
  struct rctx_manager_options options = {.drive = RCTX_DRIVE_EMBEDDER, .now = read_clock};
  rctx_manager *manager;
  require(rctx_manager_create(&options, &manager) == 0);

  printf("A request that waited 10 ms in our queue\n");
  serve(rctx_manager_background(manager), &list, now - 10 * MS);
  printf("A request whose time is no number\n");
  list = rctx_headers_of(bad, 1);
  serve(rctx_manager_background(manager), &list, now);
  expect(rctx_fault_count(RCTX_HEADER_REQUEST_TIMEOUT_MS, RCTX_FAULT_SYNTAX) == 1);

  require(rctx_quiesce(manager, INT64_MAX) == 0 && rctx_manager_destroy(manager) == 0);
  return expectations_failed();
}
