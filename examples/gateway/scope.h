/*
 * scope.h - all that the gateway asks of request contexts, in one place, so that it can be built with and without them.
 *
 *   scope_rctx.c  with: the server, each request and each call upstream is an rctx context; that file is the whole use of
 *                 rctx in this program
 *   scope_none.c  without: the same calls, and what is left of them when nothing ties the parts of a request together:
 *                 a fixed timeout for each call upstream
 *
 * A scope is something that can be told to stop. Stopping a request stops its calls, stopping the server stops its requests.
 * All functions belong to the loop's thread, except scopes_*(), which any thread may call.
 */
#ifndef GATEWAY_SCOPE_H
#define GATEWAY_SCOPE_H

#include "options.h"

#include <event2/event.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Why a request stopped before it was answered well. */
enum stop_kind {
  STOP_NONE,
  STOP_DEADLINE,
  STOP_HUNG_UP,
  STOP_UPSTREAM_FAILED,
  STOP_UPSTREAM_LATE, /* an upstream used up the time it was given, and said so */
  STOP_SHUTDOWN,
  STOP_NO_MEMORY
};

/* Who and why, for the access log. */
struct scope_why {
  enum stop_kind kind;
  const char *origin; /* a static word: deadline, peer, shutdown, ... */
  const char *who;    /* name of the scope where it started */
  unsigned levels_up; /* how far above this one that is */
  char text[192];
  const char *file; /* static; NULL unknown */
  int line;
};

struct scope;
struct scope_loop;
typedef void (*scope_stop_fn)(void *arg);

/** Whether hang-ups, deadlines and failures stop work at all in this build. */
extern const bool scope_enabled;

bool scopes_open(const struct options *options);
/** scopes_shutdown - stop everything below the server, on whatever thread it runs. False: this build can not. */
bool scopes_shutdown(void);

struct scope_left {
  size_t contexts, timers, deferred, callbacks, threads, bytes;
};
void scopes_count(struct scope_left *left);
/** scopes_show - the live tree as "json", "text" or "dot", to be freed. NULL: no memory, no such format, or this build has none.
 *  scopes_metrics - the library's counts for Prometheus. The same. */
char *scopes_show(const char *format);
char *scopes_metrics(void);
/** scopes_close - end the server, wait until all is gone, count what is not. */
void scopes_close(struct scope_left *left);

/** One per event loop: what is told to stop hears of it there. */
struct scope_loop *scope_loop_open(struct event_base *base);
void scope_loop_close(struct scope_loop *loop);

/** scope_request - below the server; ends by itself at the deadline. on_stop: called once, on the loop, never from inside a
 *  call of this header (without contexts: scope_stop() calls it), when it stops; not after scope_end(). NULL: no memory. */
struct scope *scope_request(struct scope_loop *loop, int64_t now_ns, int64_t timeout_ms, const char *trace_id,
                            const char *client, scope_stop_fn on_stop, void *arg);

/** scope_call - one call upstream, below its request. */
struct scope *scope_call(struct scope *request, const struct upstream *upstream, scope_stop_fn on_stop, void *arg);

/** What a call may take. */
struct call_limits {
  int64_t tell_ms;  /* to be sent upstream: 0: nothing is left, do not call; -1: tell nothing */
  int64_t limit_ms; /* for the transport, should all else fail */
};
struct call_limits scope_call_limits(const struct scope *call);

/** scope_stop - stop it and all below it; the first one wins. file and line: the caller's, see STOP(). */
void scope_stop(struct scope *scope, enum stop_kind kind, const char *file, int line, const char *format, ...)
    __attribute__((format(printf, 5, 6)));
#define STOP(scope, kind, ...) scope_stop((scope), (kind), __FILE__, __LINE__, __VA_ARGS__)

/** scope_why - false while it is live. */
bool scope_why(const struct scope *scope, struct scope_why *why);

/** scope_each_value - what travels with it: trace id, client, upstream. For logs. */
void scope_each_value(const struct scope *scope, void (*fn)(const char *name, const char *text, void *arg), void *arg);

/** scope_end - done with it; what is still running below is stopped. Also inside its own on_stop. NULL: nothing. */
void scope_end(struct scope *scope);

#endif
