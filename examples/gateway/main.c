/*
 * main.c - an aggregating HTTP gateway: one request in, one call to each upstream service, one merged JSON answer out.
 *
 * The main thread listens for signals, the workers (worker.h) serve. SIGTERM and SIGINT: no new requests; those running get
 * --drain-ms; then their contexts are cancelled with the cause "shutdown"; when all is gone the last line says what is left.
 */
#include "clock.h"
#include "counters.h"
#include "log.h"
#include "options.h"
#include "scope.h"
#include "worker.h"

#include <curl/curl.h>
#include <errno.h>
#include <event2/event.h>
#include <netdb.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

enum { EXIT_PORT = 3, EXIT_LEFTOVER = 4, BACKLOG = 1024 };

struct server {
  struct options options;
  struct worker workers[WORKERS_MAX];
  int64_t nworkers, ndone;
  int listen_fd, signal_fd, done_fd;
};

/* ---- listening --------------------------------------------------------------------------------------------------- */

static int open_listener(const struct options *options, int *port) {
  struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV}, *found = NULL;
  struct sockaddr_storage name;
  socklen_t length = sizeof name;
  char service[16];
  int one = 1, fd = -1;
  snprintf(service, sizeof service, "%d", (int)options->port);
  int bad = getaddrinfo(options->host, service, &hints, &found);
  if (!bad) fd = socket(found->ai_family, found->ai_socktype | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd >= 0) setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  if (fd < 0 || bind(fd, found->ai_addr, found->ai_addrlen) || listen(fd, BACKLOG) ||
      getsockname(fd, (struct sockaddr *)&name, &length)) {
    fprintf(stderr, "gateway: can not listen on %s port %s: %s%s\n", options->host, service,
            bad ? gai_strerror(bad) : strerror(errno),
            !bad && errno == EADDRINUSE ? " (another program has this port; choose one with --port)" : "");
    if (fd >= 0) close(fd);
    fd = -1;
  } else {
    getnameinfo((struct sockaddr *)&name, length, NULL, 0, service, sizeof service, NI_NUMERICSERV);
    *port = atoi(service);
  }
  if (found) freeaddrinfo(found);
  return fd;
}

static int open_signals(void) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  pthread_sigmask(SIG_BLOCK, &set, NULL); /* before any thread is started */
  signal(SIGPIPE, SIG_IGN);
  return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

/* ---- waiting ----------------------------------------------------------------------------------------------------- */

static void tell_all(struct server *server, int order) {
  for (int64_t i = 0; i < server->nworkers; i++) worker_tell(&server->workers[i], order);
}

/* Until a signal comes (true), or all workers are done, or until_ns has come. */
static bool wait_for_signal(struct server *server, int64_t until_ns) {
  struct signalfd_siginfo info;
  eventfd_t done;
  for (;;) {
    struct pollfd fds[] = {{.fd = server->signal_fd, .events = POLLIN}, {.fd = server->done_fd, .events = POLLIN}};
    int64_t left_ns = until_ns - clock_ns();
    if (server->ndone == server->nworkers || left_ns <= 0) return false;
    poll(fds, 2, until_ns == INT64_MAX ? -1 : (int)((left_ns + NS_PER_MS - 1) / NS_PER_MS));
    if (fds[1].revents && eventfd_read(server->done_fd, &done) == 0) server->ndone += (int64_t)done;
    if (fds[0].revents && read(server->signal_fd, &info, sizeof info) == (ssize_t)sizeof info) return true;
  }
}

static void drain(struct server *server) {
  const int64_t drain_ms = server->options.drain_ms;
  log_message(NULL, LOG_INFO, "shutting down: no new requests, %lld running", (long long)counters.in_flight);
  close(server->listen_fd);
  server->listen_fd = -1;
  tell_all(server, WORKER_DRAIN);
  bool again = wait_for_signal(server, scope_enabled ? clock_ns() + drain_ms * NS_PER_MS : INT64_MAX);
  if (server->ndone < server->nworkers) {
    log_message(NULL, LOG_INFO, "shutting down: %s, cancelling %lld requests", again ? "told twice" : "time is up",
                (long long)counters.in_flight);
    if (!scopes_shutdown())
      log_message(NULL, LOG_WARN, "built without contexts: running requests can not be cancelled, waiting");
    tell_all(server, WORKER_HURRY);
    while (server->ndone < server->nworkers) wait_for_signal(server, INT64_MAX);
  }
  for (int64_t i = 0; i < server->nworkers; i++) worker_join(&server->workers[i]);
}

static void raise_descriptor_limit(void) {
  struct rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
  }
}

/* ---- beginning and end ------------------------------------------------------------------------------------------- */

static bool start_workers(struct server *server) {
  server->done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (server->done_fd < 0) return false;
  while (server->nworkers < server->options.workers) {
    if (!worker_start(&server->workers[server->nworkers], &server->options, server->listen_fd, server->done_fd))
      return false;
    server->nworkers++;
  }
  return true;
}

/* The last line: what is left of all that was made. Everything in it ought to be 0. */
static bool report(struct server *server, int fds_at_start) {
  struct scope_left left;
  scopes_close(&left);
  log_close();
  close(server->signal_fd);
  close(server->done_fd);
  libevent_global_shutdown();
  curl_global_cleanup();
  int fds = fds_open() - fds_at_start;
  printf(
      "{\"left\":{\"contexts\":%zu,\"timers\":%zu,\"deferred\":%zu,\"callbacks\":%zu,\"fds\":%d,\"requests\":%lld}}\n",
      left.contexts, left.timers, left.deferred, left.callbacks, fds, (long long)counters.in_flight);
  fflush(stdout);
  return !left.contexts && !left.timers && !left.callbacks && !fds && !counters.in_flight;
}

int main(int argc, char **argv) {
  static struct server server; /* the workers keep pointers into it, until the very end */
  int fds_at_start = fds_open(), port = 0;
  bool done;
  int wrong = options_parse(argc, argv, &server.options, &done);
  if (wrong || done) return wrong;
  raise_descriptor_limit();
  server.signal_fd = open_signals();
  curl_global_init(CURL_GLOBAL_DEFAULT);
  if (!log_open(server.options.access_log, server.options.verbose)) return 1;
  server.listen_fd = open_listener(&server.options, &port);
  if (server.listen_fd < 0) return EXIT_PORT;
  if (!scopes_open(&server.options) || !start_workers(&server)) return 1;
  printf("gateway: listening on http://%s:%d contexts=%s\n", server.options.host, port, scope_enabled ? "on" : "off");
  fflush(stdout);
  while (!wait_for_signal(&server, INT64_MAX)) {
  }
  drain(&server);
  return report(&server, fds_at_start) ? 0 : EXIT_LEFTOVER;
}
