/*
 * worker.h - a thread with an event loop: evhttp for the clients, libcurl for the upstreams, one queue for contexts that end.
 *
 * The main thread tells a worker two things: drain (take no new requests, end when the running ones are over) and hurry
 * (do not wait for clients that are slow to read their answers).
 */
#ifndef GATEWAY_WORKER_H
#define GATEWAY_WORKER_H

#include "hangup.h"
#include "options.h"
#include "scope.h"
#include "transfers.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

struct evhttp;
struct evhttp_bound_socket;
struct evhttp_request;

enum { WORKER_DRAIN = 1, WORKER_HURRY = 2 };

struct worker {
  const struct options *options;
  struct event_base *base;
  struct evhttp *http;
  struct evhttp_bound_socket *listening;
  struct transfers *transfers;
  struct hangup_loop *hangups;
  struct scope_loop *scopes;
  size_t running; /* requests not over */
  size_t unsent;  /* answers not yet written out */
  bool draining;
  bool impatient; /* no longer waits for unsent answers */
  struct event *told, *patience, *accept_again;
  int told_fd;
  _Atomic int orders; /* WORKER_*, set by the main thread */
  int done_fd;        /* eventfd of the main thread: written when this worker is done */
  pthread_t thread;
};

/** worker_start - listen_fd: shared by all workers; the worker uses a duplicate. False after a message. */
bool worker_start(struct worker *worker, const struct options *options, int listen_fd, int done_fd);
void worker_tell(struct worker *worker, int order); /* any thread */
void worker_join(struct worker *worker);

/** worker_send - answer with JSON text; while draining also close the connection. Returns the bytes of the body. */
size_t worker_send(struct worker *worker, struct evhttp_request *http, int status, const char *trace_id,
                   const char *json);

/** worker_request_over - one request less is running. */
void worker_request_over(struct worker *worker);

#endif
