/*
 * scope_rctx.c - the gateway's use of rctx, all of it.
 *
 *   server --+-- request (deadline, trace id, client) --+-- call (upstream: profile)
 *            +-- request                                +-- call (upstream: orders)
 *            +-- ...                                    +-- call (upstream: stock)
 *
 * Whoever ends a context, a deadline on rctx's timer thread, SIGTERM on the main thread, a hang-up or a failed sibling on a
 * worker, has ended everything below it when the call returns. Nobody touches a transfer from a foreign thread: each request
 * and each call is watched, and the watch is run by the event loop that owns it, in rctx_loop_drain().
 */
#include "scope.h"

#include "clock.h"

#include <errno.h>
#include <rctx/rctx.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
  ORIGIN_UPSTREAM_FAILED = RCTX_ORIGIN_USER, /* an origin of our own */
  CALLBACKS_PER_TURN = 64,                   /* then the loop serves its sockets again */
  SNAPSHOT_BYTES = 1 << 18,                  /* of the live tree: some 1000 contexts */
  QUIESCE_S = 5
};

RCTX_KEY_OWNED(trace_id, char *, free)
RCTX_KEY_OWNED(client, char *, free)
RCTX_KEY_LOGGED(upstream, const char *, "the service that a call goes to; shown by /debug/contexts")

struct scope_loop {
  rctx_loop *queue;
  struct event *readable;
};

struct scope {
  rctx *ctx;
  struct scope_loop *loop;
  struct rctx_after watch;
  bool watched;
  scope_stop_fn on_stop;
  void *arg;
};

const bool scope_enabled = true;
static rctx *server;
static int64_t reserve_ms;

/* ---- the server -------------------------------------------------------------------------------------------------- */

bool scopes_open(const struct options *options) {
  reserve_ms = options->reserve_ms;
  server = rctx_derive(rctx_background(), &(struct rctx_spec){.name = "server"});
  return rctx_err(server) == 0;
}

bool scopes_shutdown(void) {
  rctx_cancel_with(server, -ECANCELED, RCTX_ORIGIN_SHUTDOWN, "shutdown");
  return true;
}

void scopes_count(struct scope_left *left) {
  struct rctx_stats stats;
  rctx_stats(rctx_manager_default(), &stats);
  *left =
      (struct scope_left){stats.contexts, stats.timers, stats.deferred, stats.callbacks, stats.threads, stats.bytes};
}

static int append(const char *text, size_t size, void *arg) { return fwrite(text, 1, size, arg) == size ? 0 : -ENOMEM; }

enum { FORMATS = 3 };
static const char *const formats[FORMATS] = {
    [RCTX_DUMP_TEXT] = "text", [RCTX_DUMP_JSON] = "json", [RCTX_DUMP_DOT] = "dot"};

char *scopes_show(const char *format) {
  unsigned kind = 0;
  while (kind < FORMATS && strcmp(format, formats[kind]) != 0) kind++;
  if (kind == FORMATS) return NULL;
  char *text = NULL, *room = malloc(SNAPSHOT_BYTES);
  size_t size;
  FILE *out = room ? open_memstream(&text, &size) : NULL;
  if (out) {
    int rc =
        rctx_dump(server, (enum rctx_dump_format)kind, room, SNAPSHOT_BYTES, append, out); /* -ENOSPC: it says so */
    if (fclose(out) != 0 || rc == -ENOMEM) {
      free(text);
      text = NULL;
    }
  }
  free(room);
  return text;
}

char *scopes_metrics(void) {
  size_t size = rctx_prometheus(rctx_manager_default(), NULL, 0) + 256; /* the numbers may grow meanwhile */
  char *text = malloc(size);
  if (text) rctx_prometheus(rctx_manager_default(), text, size);
  return text;
}

void scopes_close(struct scope_left *left) {
  rctx_end(server);
  if (rctx_quiesce(rctx_manager_default(), clock_ns() + QUIESCE_S * NS_PER_S))
    fprintf(stderr, "gateway: contexts are still busy after %d s\n", QUIESCE_S);
  rctx_trim(rctx_manager_default());
  scopes_count(left);
}

/* ---- the event loop ---------------------------------------------------------------------------------------------- */

static void drain(evutil_socket_t fd, short what, void *arg) {
  struct scope_loop *loop = arg;
  (void)fd;
  (void)what;
  rctx_loop_drain(loop->queue, CALLBACKS_PER_TURN);
}

struct scope_loop *scope_loop_open(struct event_base *base) {
  struct scope_loop *loop = calloc(1, sizeof *loop);
  if (!loop) return NULL;
  if (rctx_loop_create(&loop->queue) == 0)
    loop->readable = event_new(base, rctx_loop_fd(loop->queue), EV_READ | EV_PERSIST, drain, loop);
  if (loop->readable && event_add(loop->readable, NULL) == 0) return loop;
  scope_loop_close(loop);
  return NULL;
}

void scope_loop_close(struct scope_loop *loop) {
  if (!loop) return;
  if (loop->readable) event_free(loop->readable);
  rctx_loop_destroy(loop->queue);
  free(loop);
}

/* ---- requests and calls ------------------------------------------------------------------------------------------ */

static void told_to_stop(const rctx *ctx, void *arg) {
  struct scope *scope = arg;
  (void)ctx;
  scope->on_stop(scope->arg);
}

/* Takes over ctx. A context that has ended already, at birth for want of memory for instance, is reported the same way. */
static struct scope *watch(rctx *ctx, struct scope_loop *loop, scope_stop_fn on_stop, void *arg) {
  struct scope *scope = calloc(1, sizeof *scope);
  if (!scope) {
    rctx_end(ctx);
    return NULL;
  }
  *scope = (struct scope){.ctx = ctx, .loop = loop, .on_stop = on_stop, .arg = arg};
  scope->watched = rctx_watch(ctx, &scope->watch, loop->queue, RCTX_ON_ENDED_QUEUE, told_to_stop, scope) >= 0;
  return scope;
}

struct scope *scope_request(struct scope_loop *loop, int64_t now_ns, int64_t timeout_ms, const char *trace_id,
                            const char *client, scope_stop_fn on_stop, void *arg) {
  char *own_id = strdup(trace_id), *own_client = strdup(client);
  if (!own_id || !own_client) {
    free(own_id);
    free(own_client);
    return NULL;
  }
  struct rctx_value values[] = {trace_id_value(own_id), client_value(own_client)};
  rctx *ctx = rctx_derive(server, &(struct rctx_spec){
                                      .name = "request",
                                      .now_ns = now_ns,
                                      .timeout_ns = timeout_ms * NS_PER_MS,
                                      .deadline_cause = RCTX_CAUSE(-ETIMEDOUT, RCTX_ORIGIN_DEADLINE,
                                                                   "the time that the client gave is over"),
                                      .values = values,
                                      .nvalues = 2,
                                  });
  return watch(ctx, loop, on_stop, arg);
}

struct scope *scope_call(struct scope *request, const struct upstream *upstream, scope_stop_fn on_stop, void *arg) {
  struct rctx_value value = upstream_value(upstream->name);
  rctx *ctx = rctx_derive(request->ctx, &(struct rctx_spec){.name = "call", .values = &value, .nvalues = 1});
  return watch(ctx, request->loop, on_stop, arg);
}

/* The time that is left now, on a fresh look at the clock, in whole milliseconds rounded down, less what the way back needs. */
struct call_limits scope_call_limits(const struct scope *call) {
  int64_t left_ms = rctx_remaining(call->ctx) / NS_PER_MS;
  int64_t tell_ms = left_ms - reserve_ms;
  return (struct call_limits){.tell_ms = tell_ms > 0 ? tell_ms : 0, .limit_ms = left_ms + 100};
}

void scope_end(struct scope *scope) {
  bool quiet = true;
  if (!scope) return;
  if (scope->watched) /* inside its own on_stop the node is still in use: then it is freed when that has returned */
    rctx_after_stop_notify(&scope->watch, free, scope, &quiet);
  rctx_end(scope->ctx);
  if (quiet) free(scope);
}

/* ---- why --------------------------------------------------------------------------------------------------------- */

/* A cause made at run time: it names the upstream. The context that ends with it owns it, and frees it at its own end. */
struct stop_cause {
  struct rctx_cause cause;
  char text[192];
};

static void stop_cause_free(const struct rctx_cause *cause) { free(cause->user); }

static const struct rctx_cause *stop_cause_make(enum stop_kind kind, const char *file, int line, const char *format,
                                                va_list values) {
  static const int origins[] = {
      [STOP_NONE] = RCTX_ORIGIN_CANCEL,        [STOP_DEADLINE] = RCTX_ORIGIN_DEADLINE,
      [STOP_HUNG_UP] = RCTX_ORIGIN_PEER,       [STOP_UPSTREAM_FAILED] = ORIGIN_UPSTREAM_FAILED,
      [STOP_UPSTREAM_LATE] = RCTX_ORIGIN_PEER, [STOP_SHUTDOWN] = RCTX_ORIGIN_SHUTDOWN,
      [STOP_NO_MEMORY] = RCTX_ORIGIN_MEMORY};
  struct stop_cause *stop = calloc(1, sizeof *stop);
  bool late = kind == STOP_DEADLINE || kind == STOP_UPSTREAM_LATE;
  if (!stop) return NULL;
  vsnprintf(stop->text, sizeof stop->text, format, values);
  stop->cause = (struct rctx_cause){.code = late                     ? -ETIMEDOUT
                                            : kind == STOP_NO_MEMORY ? -ENOMEM
                                                                     : -ECANCELED,
                                    .origin = origins[kind],
                                    .text = stop->text,
                                    .file = file,
                                    .line = line,
                                    .user = stop,
                                    .destroy = stop_cause_free};
  return &stop->cause;
}

void scope_stop(struct scope *scope, enum stop_kind kind, const char *file, int line, const char *format, ...) {
  va_list values;
  va_start(values, format);
  const struct rctx_cause *cause = stop_cause_make(kind, file, line, format, values);
  va_end(values);
  if (!rctx_cancel_cause(scope->ctx, cause) && cause)
    cause->destroy(cause); /* somebody else was first: it is still ours */
}

static enum stop_kind kind_of(const struct rctx_why *why) {
  switch (why->origin) {
  case RCTX_ORIGIN_DEADLINE:
  case RCTX_ORIGIN_PARENT_DEADLINE:
    return STOP_DEADLINE;
  case RCTX_ORIGIN_PEER:
    return why->err == -ETIMEDOUT ? STOP_UPSTREAM_LATE : STOP_HUNG_UP;
  case ORIGIN_UPSTREAM_FAILED:
    return STOP_UPSTREAM_FAILED;
  case RCTX_ORIGIN_SHUTDOWN:
    return STOP_SHUTDOWN;
  default:
    return why->err == -ENOMEM ? STOP_NO_MEMORY : STOP_UPSTREAM_FAILED;
  }
}

static const char *origin_name(int origin) {
  switch (origin) {
  case RCTX_ORIGIN_DEADLINE:
    return "deadline";
  case RCTX_ORIGIN_PARENT_DEADLINE:
    return "parent-deadline";
  case RCTX_ORIGIN_PEER:
    return "peer";
  case RCTX_ORIGIN_SHUTDOWN:
    return "shutdown";
  case RCTX_ORIGIN_MEMORY:
    return "memory";
  case RCTX_ORIGIN_END:
    return "end";
  case ORIGIN_UPSTREAM_FAILED:
    return "upstream";
  default:
    return "cancel";
  }
}

bool scope_why(const struct scope *scope, struct scope_why *out) {
  struct rctx_why why;
  if (rctx_why(scope->ctx, &why) == 0) return false;
  *out = (struct scope_why){.kind = kind_of(&why),
                            .origin = origin_name(why.origin),
                            .who = why.name ? why.name : "?",
                            .levels_up = why.levels_up,
                            .file = why.cause->file,
                            .line = why.cause->line};
  snprintf(out->text, sizeof out->text, "%s", why.cause->text ? why.cause->text : rctx_strerror(why.err));
  return true;
}

struct visit {
  void (*fn)(const char *name, const char *text, void *arg);
  void *arg;
};

static bool visit_value(const struct rctx_key *key, void *value, void *arg) {
  struct visit *visit = arg;
  char text[128] = "";
  if (key->print) key->print(value, text, sizeof text);
  visit->fn(key->name, text, visit->arg);
  return true;
}

void scope_each_value(const struct scope *scope, void (*fn)(const char *name, const char *text, void *arg), void *arg) {
  struct visit visit = {fn, arg};
  rctx_each_value(scope->ctx, visit_value, &visit);
}
