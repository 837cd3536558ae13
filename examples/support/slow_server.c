/*
 * slow_server.c - see slow_server.h.
 *
 * One thread, one libevent loop; a connection is a bufferevent and the request it is busy with. libevent's own evhttp does not look
 * at the socket while an answer is pending, and noticing that a client has left is the point here; so the few lines of
 * HTTP that are needed are read by hand. Only the counts are shared with other threads, under a mutex.
 */
#include "slow_server.h"

#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>
#include <event2/listener.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

enum { HEAD_MAX = 8192, PATIENCE_S = 30 };

struct slow_server {
  struct event_base *base;
  struct evconnlistener *listener;
  struct event *stop;
  struct connection *connections;
  int stop_fd;
  unsigned port;
  pthread_t thread;
  pthread_mutex_t mutex; /* for what follows */
  pthread_cond_t changed;
  unsigned counts[SLOW_SERVER_COUNTS];
  long told_ms;
};

struct connection {
  struct slow_server *server;
  struct bufferevent *stream;
  struct event *timer;
  struct connection *next, *previous; /* in the server's list */
  bool busy;                          /* with a request whose answer is not complete */
  int status;
  long interval_ms, drips;
};

/* ---- counting ---------------------------------------------------------------------------------------------------- */

static void count(struct slow_server *server, enum slow_server_count which) {
  pthread_mutex_lock(&server->mutex);
  server->counts[which]++;
  pthread_cond_broadcast(&server->changed);
  pthread_mutex_unlock(&server->mutex);
}

unsigned slow_server_counted(struct slow_server *server, enum slow_server_count which) {
  pthread_mutex_lock(&server->mutex);
  unsigned n = server->counts[which];
  pthread_mutex_unlock(&server->mutex);
  return n;
}

bool slow_server_wait(struct slow_server *server, enum slow_server_count which, unsigned at_least) {
  struct timespec until;
  int rc = 0;
  clock_gettime(CLOCK_REALTIME, &until);
  until.tv_sec += PATIENCE_S;
  pthread_mutex_lock(&server->mutex);
  while (rc == 0 && server->counts[which] < at_least)
    rc = pthread_cond_timedwait(&server->changed, &server->mutex, &until);
  pthread_mutex_unlock(&server->mutex);
  return rc == 0;
}

long slow_server_told_ms(struct slow_server *server) {
  pthread_mutex_lock(&server->mutex);
  long told_ms = server->told_ms;
  pthread_mutex_unlock(&server->mutex);
  return told_ms;
}

/* ---- one connection ---------------------------------------------------------------------------------------------- */

static void drop(struct connection *connection) {
  struct slow_server *server = connection->server;
  bool unfinished = connection->busy || evbuffer_get_length(bufferevent_get_output(connection->stream)) > 0;
  if (connection->next) connection->next->previous = connection->previous;
  if (connection->previous)
    connection->previous->next = connection->next;
  else
    server->connections = connection->next;
  event_free(connection->timer);
  bufferevent_free(connection->stream);
  if (unfinished) count(server, SLOW_SERVER_HANG_UPS);
  count(server, SLOW_SERVER_CLOSED);
  free(connection);
}

static void after_ms(struct connection *connection, long ms) {
  struct timeval delay = {.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000};
  event_add(connection->timer, &delay);
}

static void answer(struct connection *connection, int status, long length) {
  struct evbuffer *out = bufferevent_get_output(connection->stream);
  count(connection->server, SLOW_SERVER_ANSWERS);
  evbuffer_add_printf(out, "HTTP/1.1 %d Whatever\r\nContent-Type: text/plain\r\nContent-Length: %ld\r\n\r\n", status,
                      length);
}

static void answer_at_once(struct connection *connection, int status, long length) {
  static const char line[] = "All work and no play makes Jack a dull boy, said the server.\n";
  struct evbuffer *out = bufferevent_get_output(connection->stream);
  answer(connection, status, length);
  for (long left = length; left > 0; left -= (long)sizeof line - 1)
    evbuffer_add(out, line, left < (long)sizeof line - 1 ? (size_t)left : sizeof line - 1);
  connection->busy = false;
}

static void serve(struct connection *connection);

static void timer_expired(evutil_socket_t fd, short what, void *arg) {
  struct connection *connection = arg;
  (void)fd;
  (void)what;
  if (connection->drips == 0) {
    answer_at_once(connection, connection->status, 61);
  } else {
    bufferevent_write(connection->stream, ".", 1);
    if (--connection->drips > 0) after_ms(connection, connection->interval_ms);
    connection->busy = connection->drips > 0;
  }
  if (!connection->busy) serve(connection); /* what came meanwhile */
}

/* The number after name= in the query, or else. */
static long parameter(const char *path, const char *name, long otherwise) {
  const char *at = strchr(path, '?');
  size_t length = strlen(name);
  while (at) {
    at++;
    if (strncmp(at, name, length) == 0 && at[length] == '=') return strtol(at + length + 1, NULL, 10);
    at = strchr(at, '&');
  }
  return otherwise;
}

static void begin(struct connection *connection, const char *path) {
  connection->busy = true;
  connection->drips = 0;
  connection->status = (int)parameter(path, "status", 200);
  connection->interval_ms = parameter(path, "ms", 0);
  if (strncmp(path, "/never", 6) == 0) return;
  if (strncmp(path, "/slow", 5) == 0) {
    after_ms(connection, connection->interval_ms);
  } else if (strncmp(path, "/drip", 5) == 0) {
    connection->drips = parameter(path, "bytes", 1000);
    answer(connection, connection->status, connection->drips);
    after_ms(connection, connection->interval_ms);
  } else if (strncmp(path, "/big", 4) == 0) {
    answer_at_once(connection, connection->status, parameter(path, "bytes", 1000000));
  } else {
    answer_at_once(connection, strncmp(path, "/quick", 6) == 0 ? connection->status : 404, 61);
  }
}

/* One request head, NUL-terminated: count it, note its budget, begin. */
static void take_request(struct connection *connection, char *head) {
  struct slow_server *server = connection->server;
  char path[256] = "/";
  const char *budget = strcasestr(head, "\r\nx-request-timeout-ms:");
  pthread_mutex_lock(&server->mutex);
  server->told_ms = budget ? strtol(strchr(budget, ':') + 1, NULL, 10) : -1;
  pthread_mutex_unlock(&server->mutex);
  char *start = strchr(head, ' '), *end = start ? strchr(start + 1, ' ') : NULL;
  if (end && (size_t)(end - start) < sizeof path) {
    *end = '\0';
    snprintf(path, sizeof path, "%s", start + 1);
  }
  count(server, SLOW_SERVER_REQUESTS);
  begin(connection, path);
}

/* Requests that are here; one at a time, the next when this one has its answer. GET only: a request ends with its head. */
static void serve(struct connection *connection) {
  struct evbuffer *in = bufferevent_get_input(connection->stream);
  while (!connection->busy) {
    struct evbuffer_ptr end = evbuffer_search(in, "\r\n\r\n", 4, NULL);
    if (end.pos < 0 || end.pos > HEAD_MAX) return;
    char head[HEAD_MAX + 5];
    evbuffer_remove(in, head, (size_t)end.pos + 4);
    head[end.pos + 4] = '\0';
    take_request(connection, head);
  }
}

static void can_read(struct bufferevent *stream, void *arg) {
  (void)stream;
  serve(arg);
}

static void gone(struct bufferevent *stream, short what, void *arg) {
  (void)stream;
  (void)what;
  drop(arg);
}

static void accepted(struct evconnlistener *listener, evutil_socket_t fd, struct sockaddr *address, int length,
                     void *arg) {
  struct slow_server *server = arg;
  struct connection *connection = calloc(1, sizeof *connection);
  (void)listener;
  (void)address;
  (void)length;
  if (!connection) abort();
  connection->server = server;
  connection->stream = bufferevent_socket_new(server->base, fd, BEV_OPT_CLOSE_ON_FREE);
  connection->timer = event_new(server->base, -1, 0, timer_expired, connection);
  if (!connection->stream || !connection->timer) abort(); /* a test, or an example, without memory */
  connection->next = server->connections;
  if (connection->next) connection->next->previous = connection;
  server->connections = connection;
  count(server, SLOW_SERVER_CONNECTIONS);
  bufferevent_setcb(connection->stream, can_read, NULL, gone, connection);
  bufferevent_enable(connection->stream, EV_READ | EV_WRITE);
}

/* ---- the server -------------------------------------------------------------------------------------------------- */

static void told_to_stop(evutil_socket_t fd, short what, void *arg) {
  struct slow_server *server = arg;
  (void)fd;
  (void)what;
  event_base_loopbreak(server->base);
}

/* With all signals blocked: Ctrl-C is not for us, and a client that has left shows as EPIPE. */
static void *run(void *arg) {
  struct slow_server *server = arg;
  event_base_dispatch(server->base);
  for (struct connection *next, *connection = server->connections; connection; connection = next) {
    next = connection->next;
    drop(connection);
  }
  return NULL;
}

static void discard(struct slow_server *server) {
  if (server->listener) evconnlistener_free(server->listener);
  if (server->stop) event_free(server->stop);
  if (server->base) event_base_free(server->base);
  if (server->stop_fd >= 0) close(server->stop_fd);
  pthread_cond_destroy(&server->changed);
  pthread_mutex_destroy(&server->mutex);
  free(server);
}

static bool listens(struct slow_server *server) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t length = sizeof address;
  server->listener = evconnlistener_new_bind(server->base, accepted, server, LEV_OPT_CLOSE_ON_FREE, 1024,
                                             (struct sockaddr *)&address, sizeof address);
  if (!server->listener) return false;
  if (getsockname(evconnlistener_get_fd(server->listener), (struct sockaddr *)&address, &length)) return false;
  server->port = ntohs(address.sin_port);
  return true;
}

static bool has_thread(struct slow_server *server) {
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  int rc = pthread_create(&server->thread, NULL, run, server);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  return rc == 0;
}

struct slow_server *slow_server_start(void) {
  struct slow_server *server = calloc(1, sizeof *server);
  if (!server) return NULL;
  pthread_mutex_init(&server->mutex, NULL);
  pthread_cond_init(&server->changed, NULL);
  server->told_ms = -1;
  server->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  server->base = event_base_new();
  if (server->stop_fd >= 0 && server->base)
    server->stop = event_new(server->base, server->stop_fd, EV_READ, told_to_stop, server);
  if (server->stop && event_add(server->stop, NULL) == 0 && listens(server) && has_thread(server)) return server;
  discard(server);
  return NULL;
}

void slow_server_stop(struct slow_server *server) {
  eventfd_write(server->stop_fd, 1);
  pthread_join(server->thread, NULL);
  discard(server);
}

const char *slow_server_url(const struct slow_server *server, const char *path, char *buf, unsigned long size) {
  snprintf(buf, size, "http://127.0.0.1:%u%s", server->port, path);
  return buf;
}
