/* upstream_call.c - see upstream_call.h. */
#include "upstream_call.h"

#include "clock.h"
#include "log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BODY_MAX = 1 << 20 };

const char *call_result_name(enum call_result result) {
  static const char *const names[] = {"running", "ok", "failed", "late", "stopped", "not-made"};
  return names[result];
}

/* ---- the end of a call ------------------------------------------------------------------------------------------- */

static void finish(struct upstream_call *call, enum call_result result) {
  call->result = result;
  call->ended_ns = clock_ns();
  if (call->transfer.easy) transfers_remove(call->transfers, &call->transfer);
  curl_slist_free_all(call->headers);
  call->headers = NULL;
  if (call->scope)
    log_message(call->scope, LOG_DEBUG, "call over: %s after %.1f ms %s", call_result_name(result),
                ns_to_ms(call->ended_ns - call->started_ns), call->why);
  scope_end(call->scope);
  call->scope = NULL;
  call->over(call);
}

/* The scope was told to stop, wherever that began: this runs on the loop that owns the transfer. */
static void told_to_stop(void *arg) { finish(arg, CALL_STOPPED); }

static enum call_result judge_status(struct upstream_call *call, long status) {
  json_error_t error;
  if (status == 504) {
    snprintf(call->why, sizeof call->why, "upstream %s ran out of the time it was given", call->to->name);
    return CALL_LATE;
  }
  if (status != 200) {
    snprintf(call->why, sizeof call->why, "upstream %s answered %ld", call->to->name, status);
    return CALL_FAILED;
  }
  call->answer = json_loadb(call->body ? call->body : "", call->length, 0, &error);
  if (!call->answer) {
    snprintf(call->why, sizeof call->why, "upstream %s answered with what is not JSON", call->to->name);
    return CALL_FAILED;
  }
  return CALL_OK;
}

static void transfer_done(void *arg, CURLcode code) {
  struct upstream_call *call = arg;
  enum call_result result = code == CURLE_OPERATION_TIMEDOUT ? CALL_LATE : CALL_FAILED;
  long status = 0;
  if (code == CURLE_OK) {
    curl_easy_getinfo(call->transfer.easy, CURLINFO_RESPONSE_CODE, &status);
    result = judge_status(call, status);
  } else {
    snprintf(call->why, sizeof call->why, "upstream %s: %s", call->to->name, curl_easy_strerror(code));
  }
  finish(call, result);
}

/* ---- its beginning ----------------------------------------------------------------------------------------------- */

static size_t receive(char *data, size_t one, size_t count, void *arg) {
  struct upstream_call *call = arg;
  size_t size = one * count, needed = call->length + size;
  if (needed > BODY_MAX) return CURL_WRITEFUNC_ERROR;
  if (needed > call->capacity) {
    size_t capacity = needed < 512 ? 512 : needed * 2;
    char *body = realloc(call->body, capacity);
    if (!body) return CURL_WRITEFUNC_ERROR;
    call->body = body;
    call->capacity = capacity;
  }
  memcpy(call->body + call->length, data, size);
  call->length += size;
  return size;
}

static bool add_header(struct upstream_call *call, const char *text) {
  struct curl_slist *longer = curl_slist_append(call->headers, text);
  if (longer) call->headers = longer;
  return longer != NULL;
}

static bool prepare(struct upstream_call *call, const struct call_limits *limits, const char *trace_id,
                    const char *user) {
  char url[256], header[128];
  CURL *easy = call->transfer.easy = transfers_handle(call->transfers);
  if (!easy) return false;
  snprintf(header, sizeof header, "x-trace-id: %s", trace_id);
  bool ready = add_header(call, header);
  if (limits->tell_ms >= 0) {
    snprintf(header, sizeof header, "x-request-timeout-ms: %lld", (long long)limits->tell_ms);
    ready = ready && add_header(call, header);
  }
  snprintf(url, sizeof url, "http://%s/%s%s%s", call->to->address, call->to->name, *user ? "?user=" : "", user);
  ready = ready && curl_easy_setopt(easy, CURLOPT_URL, url) == CURLE_OK;
  curl_easy_setopt(easy, CURLOPT_HTTPHEADER, call->headers);
  curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, receive);
  curl_easy_setopt(easy, CURLOPT_WRITEDATA, call);
  curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, (long)limits->limit_ms);
  curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http");
  curl_easy_setopt(easy, CURLOPT_PROXY, ""); /* not what the environment says */
  return ready;
}

void call_start(struct upstream_call *call, struct scope *request, const char *trace_id, const char *user) {
  call->started_ns = clock_ns();
  call->transfer = (struct transfer){.done = transfer_done, .arg = call};
  call->scope = scope_call(request, call->to, told_to_stop, call);
  if (!call->scope) {
    snprintf(call->why, sizeof call->why, "no memory for the call to upstream %s", call->to->name);
    finish(call, CALL_FAILED);
    return;
  }
  struct call_limits limits = scope_call_limits(call->scope);
  if (limits.tell_ms == 0) {
    snprintf(call->why, sizeof call->why, "no time was left to call upstream %s", call->to->name);
    finish(call, CALL_NOT_MADE);
    return;
  }
  if (prepare(call, &limits, trace_id, user) && transfers_start(call->transfers, &call->transfer)) return;
  snprintf(call->why, sizeof call->why, "the call to upstream %s could not be started", call->to->name);
  finish(call, CALL_FAILED);
}

void call_clear(struct upstream_call *call) {
  json_decref(call->answer);
  call->answer = NULL;
  free(call->body);
  call->body = NULL;
}
