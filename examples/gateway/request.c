/* request.c - see request.h. */
#include "request.h"

#include "clock.h"
#include "counters.h"
#include "log.h"
#include "parse.h"
#include "upstream_call.h"

#include <event2/http.h>
#include <event2/keyvalq_struct.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { GRACE_MS = 50, STATUS_CLIENT_GONE = 499, USER_MAX = 32 };

struct request {
  struct worker *worker;
  struct evhttp_request *http; /* until it is answered or given up */
  struct hangup_watch hangup;
  struct scope *scope;
  char trace_id[TRACE_ID_MAX + 1], client[64], user[USER_MAX + 1];
  int64_t timeout_ms;
  int64_t arrived_ns, deadline_ns, hung_up_ns, answered_ns; /* 0: not yet */
  int status;
  enum outcome outcome;
  size_t bytes;
  struct scope_why why; /* kind STOP_NONE: it was not stopped */
  int busy;             /* calls not over, and one while beginning */
  int ok;               /* calls that went well */
  struct upstream_call calls[UPSTREAMS_MAX];
};

/* ---- its end ----------------------------------------------------------------------------------------------------- */

static int64_t min_set(int64_t a, int64_t b) { return !b || (a && a < b) ? a : b; }

/* From when on nobody waits for it any more, as far as the gateway knows. */
static int64_t unwanted_from(const struct request *request) {
  return min_set(min_set(request->answered_ns, request->hung_up_ns), request->deadline_ns);
}

static void add_calls(struct log_line *line, const struct request *request) {
  char text[512] = "";
  size_t used = 0;
  for (int i = 0; i < request->worker->options->nupstreams && used < sizeof text; i++) {
    const struct upstream_call *call = &request->calls[i];
    if (!call->started_ns) /* refused before any call */
      return;
    used += (size_t)snprintf(text + used, sizeof text - used, "%s%s:%s:%.1f", i ? "," : "", call->to->name,
                             call_result_name(call->result), ns_to_ms(call->ended_ns - call->started_ns));
  }
  log_text(line, "calls", text);
}

static void log_access(const struct request *request, int64_t over_ns) {
  struct log_line line;
  log_begin(&line, request->scope);
  log_text(&line, "path", "/");
  log_number(&line, "status", request->status);
  log_text(&line, "outcome", outcome_name(request->outcome));
  log_ms(&line, "ms", ns_to_ms(over_ns - request->arrived_ns));
  log_number(&line, "bytes", (long long)request->bytes);
  log_number(&line, "budget_ms", request->timeout_ms);
  log_number(&line, "arrived_us", request->arrived_ns / NS_PER_US);
  log_number(&line, "answered_us", request->answered_ns / NS_PER_US);
  log_number(&line, "over_us", over_ns / NS_PER_US);
  if (request->hung_up_ns) log_number(&line, "hung_up_us", request->hung_up_ns / NS_PER_US);
  add_calls(&line, request);
  if (request->why.kind != STOP_NONE) {
    log_text(&line, "who", request->why.who);
    log_text(&line, "origin", request->why.origin);
    log_text(&line, "why", request->why.text);
    log_text(&line, "file", request->why.file ? request->why.file : "?");
    log_number(&line, "line", request->why.line);
    log_number(&line, "levels_up", request->why.levels_up);
  }
  log_end(&line);
}

static void count_request(const struct request *request, int64_t over_ns) {
  int64_t from = unwanted_from(request);
  count(&counters.outcomes[request->outcome], 1);
  for (int i = 0; i < request->worker->options->nupstreams; i++) {
    const struct upstream_call *call = &request->calls[i];
    int64_t late_from = call->started_ns > from ? call->started_ns : from;
    count(&counters.calls, call->started_ns && call->result != CALL_NOT_MADE);
    count(&counters.calls_stopped, call->result == CALL_STOPPED);
    if (call->ended_ns > late_from) count(&counters.late_work_us, (uint64_t)((call->ended_ns - late_from) / NS_PER_US));
  }
  if (over_ns > request->deadline_ns + GRACE_MS * NS_PER_MS) count(&counters.outlived, 1);
  if (request->hung_up_ns) {
    uint64_t stop_us = (uint64_t)((over_ns - request->hung_up_ns) / NS_PER_US);
    count_max(&counters.stop_us_max, stop_us);
    count(&counters.stops_over_10ms, stop_us > 10000);
  }
}

static void free_if_over(struct request *request) {
  struct worker *worker = request->worker;
  if (request->http || request->busy) return;
  int64_t over_ns = clock_ns();
  log_access(request, over_ns);
  count_request(request, over_ns);
  for (int i = 0; i < worker->options->nupstreams; i++) call_clear(&request->calls[i]);
  scope_end(request->scope);
  free(request);
  worker_request_over(worker);
}

/* ---- answering --------------------------------------------------------------------------------------------------- */

static void answer(struct request *request, int status, enum outcome outcome, const char *json) {
  hangup_watch_stop(request->worker->hangups, &request->hangup);
  request->status = status;
  request->outcome = outcome;
  request->bytes = worker_send(request->worker, request->http, status, request->trace_id, json);
  request->answered_ns = clock_ns();
  request->http = NULL;
}

static void answer_object(struct request *request, int status, enum outcome outcome, json_t *object) {
  char *text = object ? json_dumps(object, JSON_COMPACT | JSON_REAL_PRECISION(6)) : NULL;
  answer(request, status, outcome, text ? text : "{}");
  free(text);
  json_decref(object);
}

static void answer_merged(struct request *request) {
  json_t *merged = json_pack("{s:s}", "trace_id", request->trace_id);
  for (int i = 0; i < request->worker->options->nupstreams; i++)
    json_object_set(merged, request->calls[i].to->name, request->calls[i].answer);
  answer_object(request, 200, OUTCOME_OK, merged);
}

static void answer_stopped(struct request *request) {
  static const struct {
    int status;
    enum outcome outcome;
    const char *error;
  } answers[] = {[STOP_DEADLINE] = {504, OUTCOME_DEADLINE, "deadline exceeded"},
                 [STOP_UPSTREAM_FAILED] = {502, OUTCOME_UPSTREAM_FAILED, "upstream failed"},
                 [STOP_UPSTREAM_LATE] = {504, OUTCOME_UPSTREAM_LATE, "upstream too slow"},
                 [STOP_SHUTDOWN] = {503, OUTCOME_SHUTDOWN, "shutting down"},
                 [STOP_NO_MEMORY] = {503, OUTCOME_NO_MEMORY, "out of memory"}};
  enum stop_kind kind = request->why.kind;
  answer_object(request, answers[kind].status, answers[kind].outcome,
                json_pack("{s:s, s:s, s:s}", "error", answers[kind].error, "why", request->why.text, "trace_id",
                          request->trace_id));
}

/* Nobody is there to be answered. */
static void give_up(struct request *request) {
  struct evhttp_connection *connection = evhttp_request_get_connection(request->http);
  hangup_watch_stop(request->worker->hangups, &request->hangup);
  request->status = STATUS_CLIENT_GONE;
  request->outcome = OUTCOME_HUNG_UP;
  if (connection)
    evhttp_connection_free(connection); /* and the request with it */
  else
    evhttp_request_free(request->http);
  request->http = NULL;
}

/* ---- what happens to it ------------------------------------------------------------------------------------------ */

/* Its scope has been told to stop; its calls are, too. */
static void request_stopped(void *arg) {
  struct request *request = arg;
  if (!request->http) /* answered already */
    return;
  scope_why(request->scope, &request->why);
  if (request->why.kind == STOP_HUNG_UP)
    give_up(request);
  else
    answer_stopped(request);
  free_if_over(request);
}

static void request_hung_up(void *arg) {
  struct request *request = arg;
  request->hung_up_ns = clock_ns();
  STOP(request->scope, STOP_HUNG_UP, "the client hung up");
}

static void call_over(struct upstream_call *call) {
  struct request *request = call->owner;
  struct scope_why why;
  request->ok += call->result == CALL_OK;
  if (call->result == CALL_FAILED || call->result == CALL_LATE) {
    if (!scope_why(request->scope, &why)) log_message(request->scope, LOG_WARN, "%s", call->why);
    STOP(request->scope, call->result == CALL_LATE ? STOP_UPSTREAM_LATE : STOP_UPSTREAM_FAILED, "%s", call->why);
  } else if (call->result == CALL_NOT_MADE) {
    STOP(request->scope, STOP_DEADLINE, "%s", call->why);
  } else if (request->ok == request->worker->options->nupstreams && request->http && !scope_why(request->scope, &why)) {
    answer_merged(request);
  }
  request->busy--;
  free_if_over(request);
}

/* ---- its beginning ----------------------------------------------------------------------------------------------- */

static void read_trace_id(struct request *request, const struct evkeyvalq *headers) {
  const char *parent = evhttp_find_header(headers, "traceparent"), *id = evhttp_find_header(headers, "x-trace-id");
  if (parent && parse_traceparent(parent, request->trace_id)) return;
  if (id && parse_token(id, TRACE_ID_MAX, request->trace_id)) return;
  make_trace_id(request->trace_id);
}

/* A number that is out of range is moved into it; what is no number at all is refused. Both are said in the log. */
static bool read_timeout(struct request *request, const struct evkeyvalq *headers) {
  const char *text = evhttp_find_header(headers, "x-request-timeout-ms");
  int64_t value, clamped;
  request->timeout_ms = request->worker->options->timeout_ms;
  if (!text) return true;
  if (!parse_whole(text, &value)) {
    log_message(NULL, LOG_WARN,
                "refused: x-request-timeout-ms: '%.64s' is not a whole number of milliseconds trace_id=%s", text,
                request->trace_id);
    return false;
  }
  clamped = value < TIMEOUT_MS_MIN ? TIMEOUT_MS_MIN : value > TIMEOUT_MS_MAX ? TIMEOUT_MS_MAX : value;
  if (clamped != value)
    log_message(NULL, LOG_WARN, "x-request-timeout-ms: '%.64s' is out of range, taken as %lld trace_id=%s", text,
                (long long)clamped, request->trace_id);
  request->timeout_ms = clamped;
  return true;
}

static bool read_user(struct request *request) {
  const char *query = evhttp_uri_get_query(evhttp_request_get_evhttp_uri(request->http));
  struct evkeyvalq parameters;
  bool fine = true;
  if (!query || evhttp_parse_query_str(query, &parameters)) return true;
  const char *user = evhttp_find_header(&parameters, "user");
  if (user && !parse_token(user, USER_MAX, request->user)) fine = false;
  evhttp_clear_headers(&parameters);
  return fine;
}

static void read_client(struct request *request) {
  char *address = NULL;
  ev_uint16_t port = 0;
  evhttp_connection_get_peer(evhttp_request_get_connection(request->http), &address, &port);
  snprintf(request->client, sizeof request->client, "%s:%u", address ? address : "?", port);
}

/* Answer at once, without any call upstream. Refused ones leave a line in the access log like all others. */
static void refuse(struct request *request, int status, enum outcome outcome, const char *error) {
  answer_object(request, status, outcome, json_pack("{s:s, s:s}", "error", error, "trace_id", request->trace_id));
}

static bool begin(struct request *request, const struct evkeyvalq *headers) {
  bool understood = read_timeout(request, headers);
  request->deadline_ns = request->arrived_ns + request->timeout_ms * NS_PER_MS;
  request->scope = scope_request(request->worker->scopes, request->arrived_ns, request->timeout_ms, request->trace_id,
                                 request->client, request_stopped, request);
  if (!request->scope)
    refuse(request, 503, OUTCOME_NO_MEMORY, "out of memory");
  else if (request->worker->draining)
    refuse(request, 503, OUTCOME_REFUSED, "shutting down");
  else if (!understood)
    refuse(request, 400, OUTCOME_BAD_REQUEST, "x-request-timeout-ms: expected a whole number of milliseconds");
  else if (!read_user(request))
    refuse(request, 400, OUTCOME_BAD_REQUEST, "user: expected 1 to 32 letters, digits, '-', '_' or '.'");
  else
    return true;
  return false;
}

void request_begin(struct worker *worker, struct evhttp_request *http) {
  const struct evkeyvalq *headers = evhttp_request_get_input_headers(http);
  struct request *request = calloc(1, sizeof *request);
  if (!request) {
    worker_send(worker, http, 503, "", "{\"error\":\"out of memory\"}");
    return;
  }
  *request = (struct request){.worker = worker, .http = http, .hangup.fd = -1, .arrived_ns = clock_ns(), .busy = 1};
  worker->running++;
  atomic_fetch_add_explicit(&counters.in_flight, 1, memory_order_relaxed);
  for (int i = 0; i < worker->options->nupstreams; i++)
    request->calls[i] = (struct upstream_call){
        .to = &worker->options->upstreams[i], .transfers = worker->transfers, .over = call_over, .owner = request};
  read_trace_id(request, headers);
  read_client(request);
  if (begin(request, headers)) {
    request->hangup.on_hangup = request_hung_up;
    request->hangup.arg = request;
    if (!scope_enabled || !hangup_watch_start(worker->hangups, &request->hangup, http)) http_pause_reading(http);
    request->busy += worker->options->nupstreams;
    for (int i = 0; i < worker->options->nupstreams; i++)
      call_start(&request->calls[i], request->scope, request->trace_id, request->user);
  }
  request->busy--;
  free_if_over(request);
}
