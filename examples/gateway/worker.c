/* worker.c - see worker.h. */
#include "worker.h"

#include "counters.h"
#include "log.h"
#include "request.h"

#include <errno.h>
#include <event2/buffer.h>
#include <event2/http.h>
#include <event2/keyvalq_struct.h>
#include <event2/listener.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum { HEADERS_MAX = 16 * 1024, BODY_MAX = 64 * 1024, IDLE_S = 75, HURRY_US = 500000, ACCEPT_AGAIN_US = 50000 };

static _Thread_local struct worker *worker_here; /* libevent hands its own pointer to accept_failed() */

/* ---- answering --------------------------------------------------------------------------------------------------- */

static void end_if_drained(struct worker *worker) {
  if (worker->draining && worker->running == 0 && (worker->unsent == 0 || worker->impatient))
    event_base_loopexit(worker->base, NULL);
}

static void connection_closed(struct evhttp_connection *connection, void *arg) {
  struct worker *worker = arg;
  (void)connection;
  worker->unsent--;
  end_if_drained(worker);
}

static void answer_sent(struct evhttp_request *http, void *arg) {
  struct evhttp_connection *connection = evhttp_request_get_connection(http);
  if (connection) evhttp_connection_set_closecb(connection, NULL, NULL);
  connection_closed(connection, arg);
}

static size_t send_as(struct worker *worker, struct evhttp_request *http, int status, const char *trace_id,
                      const char *type, const char *text) {
  struct evkeyvalq *headers = evhttp_request_get_output_headers(http);
  struct evhttp_connection *connection = evhttp_request_get_connection(http);
  struct evbuffer *body = evbuffer_new();
  if (body) evbuffer_add(body, text, strlen(text));
  evhttp_add_header(headers, "Content-Type", type);
  if (*trace_id) evhttp_add_header(headers, "X-Trace-Id", trace_id);
  if (worker->draining) evhttp_add_header(headers, "Connection", "close");
  if (connection) { /* written, or the connection is lost: either way one of these two says so */
    worker->unsent++;
    evhttp_request_set_on_complete_cb(http, answer_sent, worker);
    evhttp_connection_set_closecb(connection, connection_closed, worker);
  }
  evhttp_send_reply(http, status, NULL, body);
  if (body) evbuffer_free(body);
  return strlen(text);
}

size_t worker_send(struct worker *worker, struct evhttp_request *http, int status, const char *trace_id,
                   const char *json) {
  return send_as(worker, http, status, trace_id, "application/json", json);
}

void worker_request_over(struct worker *worker) {
  worker->running--;
  atomic_fetch_sub_explicit(&counters.in_flight, 1, memory_order_relaxed);
  end_if_drained(worker);
}

static void serve_aggregate(struct evhttp_request *http, void *arg) { request_begin(arg, http); }

static void serve_health(struct evhttp_request *http, void *arg) {
  struct worker *worker = arg;
  worker_send(worker, http, worker->draining ? 503 : 200, "",
              worker->draining ? "{\"status\":\"draining\"}" : "{\"status\":\"ok\"}");
}

static void serve_stats(struct evhttp_request *http, void *arg) {
  json_t *stats = stats_json();
  char *text = stats ? json_dumps(stats, JSON_INDENT(1)) : NULL;
  log_flush();
  worker_send(arg, http, text ? 200 : 503, "", text ? text : "{}");
  free(text);
  json_decref(stats);
}

/* /debug/contexts?format=json, text or dot. For those who run it: on a port that strangers reach it would have to be closed. */
static void serve_contexts(struct evhttp_request *http, void *arg) {
  const char *query = evhttp_uri_get_query(evhttp_request_get_evhttp_uri(http)), *format = NULL;
  struct evkeyvalq parameters = {NULL, &parameters.tqh_first};
  if (query && evhttp_parse_query_str(query, &parameters) == 0) format = evhttp_find_header(&parameters, "format");
  if (format == NULL) format = "json";
  char *text = scopes_show(format);
  const char *type = strcmp(format, "json") == 0 ? "application/json" : "text/plain; charset=utf-8";
  if (text) {
    send_as(arg, http, 200, "", type, text);
  } else {
    worker_send(arg, http, 404, "", "{\"error\":\"no contexts to show, or not in this format: json, text, dot\"}");
  }
  free(text);
  evhttp_clear_headers(&parameters);
}

static void serve_metrics(struct evhttp_request *http, void *arg) {
  char *text = scopes_metrics();
  if (text) {
    send_as(arg, http, 200, "", "text/plain; version=0.0.4", text);
  } else {
    worker_send(arg, http, 404, "", "{\"error\":\"no contexts to count\"}");
  }
  free(text);
}

static void serve_nothing(struct evhttp_request *http, void *arg) {
  worker_send(arg, http, 404, "", "{\"error\":\"there are /, /healthz, /stats, /metrics and /debug/contexts\"}");
}

/* ---- accepting --------------------------------------------------------------------------------------------------- */

/* Out of descriptors, say. The socket stays readable: without a pause the loop would do nothing but fail. */
static void accept_failed(struct evconnlistener *listener, void *arg) {
  (void)arg;
  log_message(NULL, LOG_WARN, "a connection can not be accepted: %s",
              evutil_socket_error_to_string(EVUTIL_SOCKET_ERROR()));
  evconnlistener_disable(listener);
  event_add(worker_here->accept_again, &(struct timeval){.tv_usec = ACCEPT_AGAIN_US});
}

static void accept_again(evutil_socket_t fd, short what, void *arg) {
  struct worker *worker = arg;
  (void)fd;
  (void)what;
  evconnlistener_enable(evhttp_bound_socket_get_listener(worker->listening));
}

/* ---- orders from the main thread --------------------------------------------------------------------------------- */

static void out_of_patience(evutil_socket_t fd, short what, void *arg) {
  struct worker *worker = arg;
  (void)fd;
  (void)what;
  if (worker->unsent)
    log_message(NULL, LOG_WARN, "closing with %zu answers not taken by their clients", worker->unsent);
  worker->impatient = true;
  end_if_drained(worker);
}

static void told(evutil_socket_t fd, short what, void *arg) {
  struct worker *worker = arg;
  eventfd_t ignored;
  (void)what;
  eventfd_read(fd, &ignored);
  int orders = atomic_load(&worker->orders);
  if ((orders & WORKER_DRAIN) && !worker->draining) {
    worker->draining = true;
    event_del(worker->accept_again);
    evhttp_del_accept_socket(worker->http, worker->listening);
  }
  if (orders & WORKER_HURRY) event_add(worker->patience, &(struct timeval){.tv_usec = HURRY_US});
  end_if_drained(worker);
}

void worker_tell(struct worker *worker, int order) {
  atomic_fetch_or(&worker->orders, order);
  eventfd_write(worker->told_fd, 1);
}

/* ---- beginning and end ------------------------------------------------------------------------------------------- */

static void close_all(struct worker *worker) {
  if (worker->http) evhttp_free(worker->http);
  transfers_close(worker->transfers);
  hangup_loop_close(worker->hangups);
  scope_loop_close(worker->scopes);
  if (worker->told) event_free(worker->told);
  if (worker->patience) event_free(worker->patience);
  if (worker->accept_again) event_free(worker->accept_again);
  if (worker->told_fd >= 0) close(worker->told_fd);
  if (worker->base) event_base_free(worker->base);
}

static bool listen_on(struct worker *worker, int listen_fd) {
  int fd = dup(listen_fd);
  if (fd < 0) return false;
  worker->listening = evhttp_accept_socket_with_handle(worker->http, fd);
  if (!worker->listening) {
    close(fd);
    return false;
  }
  evconnlistener_set_error_cb(evhttp_bound_socket_get_listener(worker->listening), accept_failed);
  return true;
}

static bool open_all(struct worker *worker, int listen_fd) {
  if (!(worker->base = event_base_new()) || !(worker->http = evhttp_new(worker->base))) return false;
  worker->told_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  worker->told = event_new(worker->base, worker->told_fd, EV_READ | EV_PERSIST, told, worker);
  worker->patience = event_new(worker->base, -1, 0, out_of_patience, worker);
  worker->accept_again = event_new(worker->base, -1, 0, accept_again, worker);
  worker->transfers = transfers_open(worker->base);
  worker->hangups = hangup_loop_open(worker->base);
  worker->scopes = scope_loop_open(worker->base);
  if (worker->told_fd < 0 || !worker->told || !worker->patience || !worker->accept_again || !worker->transfers ||
      !worker->hangups || !worker->scopes || event_add(worker->told, NULL))
    return false;
  evhttp_set_allowed_methods(worker->http, EVHTTP_REQ_GET | EVHTTP_REQ_HEAD);
  evhttp_set_max_headers_size(worker->http, HEADERS_MAX);
  evhttp_set_max_body_size(worker->http, BODY_MAX);
  evhttp_set_timeout(worker->http, IDLE_S);
  evhttp_set_cb(worker->http, "/", serve_aggregate, worker);
  evhttp_set_cb(worker->http, "/healthz", serve_health, worker);
  evhttp_set_cb(worker->http, "/stats", serve_stats, worker);
  evhttp_set_cb(worker->http, "/debug/contexts", serve_contexts, worker);
  evhttp_set_cb(worker->http, "/metrics", serve_metrics, worker);
  evhttp_set_gencb(worker->http, serve_nothing, worker);
  return listen_on(worker, listen_fd);
}

static void *work(void *arg) {
  struct worker *worker = worker_here = arg;
  event_base_dispatch(worker->base);
  close_all(worker);
  eventfd_write(worker->done_fd, 1);
  return NULL;
}

bool worker_start(struct worker *worker, const struct options *options, int listen_fd, int done_fd) {
  *worker = (struct worker){.options = options, .told_fd = -1, .done_fd = done_fd};
  if (open_all(worker, listen_fd) && pthread_create(&worker->thread, NULL, work, worker) == 0) return true;
  log_message(NULL, LOG_ERROR, "a worker can not be started: %s", strerror(errno));
  close_all(worker);
  return false;
}

void worker_join(struct worker *worker) { pthread_join(worker->thread, NULL); }
