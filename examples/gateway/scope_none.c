/*
 * scope_none.c - the gateway without contexts: an honest, working one, of the kind that is everywhere.
 *
 * A request answers as soon as it knows what to answer: at the first upstream failure it does not wait for the others. Each
 * call upstream has a fixed timeout. But nothing ties the parts together: nobody can stop the calls of a request that is over,
 * nobody knows how long a client will wait, and nothing but those timeouts ends a shutdown.
 */
#include "scope.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct scope_loop {
  int unused;
};

struct scope {
  struct scope *request; /* of a call */
  const char *upstream;
  char *trace_id, *client;
  bool stopped;
  struct scope_why why;
  scope_stop_fn on_stop;
  void *arg;
};

const bool scope_enabled = false;
static int64_t call_timeout_ms;
static bool tell_call_timeout;

bool scopes_open(const struct options *options) {
  call_timeout_ms = options->call_timeout_ms;
  tell_call_timeout = options->tell_call_timeout;
  return true;
}

bool scopes_shutdown(void) { return false; }
void scopes_count(struct scope_left *left) { *left = (struct scope_left){0}; }
char *scopes_show(const char *format) {
  (void)format;
  return NULL;
}
char *scopes_metrics(void) { return NULL; }
void scopes_close(struct scope_left *left) { scopes_count(left); }

struct scope_loop *scope_loop_open(struct event_base *base) {
  (void)base;
  return calloc(1, sizeof(struct scope_loop));
}

void scope_loop_close(struct scope_loop *loop) { free(loop); }

struct scope *scope_request(struct scope_loop *loop, int64_t now_ns, int64_t timeout_ms, const char *trace_id,
                            const char *client, scope_stop_fn on_stop, void *arg) {
  struct scope *scope = calloc(1, sizeof *scope);
  (void)loop;
  (void)now_ns;
  (void)timeout_ms;
  if (!scope) return NULL;
  scope->trace_id = strdup(trace_id);
  scope->client = strdup(client);
  scope->on_stop = on_stop;
  scope->arg = arg;
  if (scope->trace_id && scope->client) return scope;
  scope_end(scope);
  return NULL;
}

struct scope *scope_call(struct scope *request, const struct upstream *upstream, scope_stop_fn on_stop, void *arg) {
  struct scope *scope = calloc(1, sizeof *scope);
  (void)on_stop; /* nobody will call it */
  (void)arg;
  if (scope) {
    scope->request = request;
    scope->upstream = upstream->name;
  }
  return scope;
}

struct call_limits scope_call_limits(const struct scope *call) {
  (void)call;
  return (struct call_limits){.tell_ms = tell_call_timeout ? call_timeout_ms : -1, .limit_ms = call_timeout_ms};
}

void scope_stop(struct scope *scope, enum stop_kind kind, const char *file, int line, const char *format, ...) {
  va_list values;
  if (scope->stopped) return;
  scope->stopped = true;
  scope->why = (struct scope_why){.kind = kind,
                                  .origin = kind == STOP_UPSTREAM_LATE ? "timeout" : "upstream",
                                  .who = "request",
                                  .file = file,
                                  .line = line};
  va_start(values, format);
  vsnprintf(scope->why.text, sizeof scope->why.text, format, values);
  va_end(values);
  scope->on_stop(scope->arg);
}

bool scope_why(const struct scope *scope, struct scope_why *why) {
  if (scope->stopped) *why = scope->why;
  return scope->stopped;
}

void scope_each_value(const struct scope *scope, void (*fn)(const char *name, const char *text, void *arg), void *arg) {
  const struct scope *request = scope->request ? scope->request : scope;
  fn("trace_id", request->trace_id, arg);
  fn("client", request->client, arg);
  if (scope->upstream) fn("upstream", scope->upstream, arg);
}

void scope_end(struct scope *scope) {
  if (!scope) return;
  free(scope->trace_id);
  free(scope->client);
  free(scope);
}
