/* hangup.c - see hangup.h. */
#include "hangup.h"

#include <event2/bufferevent.h>
#include <event2/http.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

enum { HANGUPS_PER_TURN = 256 }; /* then other events of the loop get their turn */

struct hangup_loop {
  int epoll_fd;
  struct event *readable;
};

/* One event per epoll_wait(): a callback may stop or free other watches, whose events must then not be in our hands. */
static void hangups_arrived(evutil_socket_t fd, short what, void *arg) {
  struct epoll_event event;
  (void)what;
  (void)arg;
  for (int n = 0; n < HANGUPS_PER_TURN && epoll_wait(fd, &event, 1, 0) == 1; n++) {
    struct hangup_watch *watch = event.data.ptr;
    epoll_ctl(fd, EPOLL_CTL_DEL, watch->fd, NULL);
    watch->fd = -1;
    watch->on_hangup(watch->arg);
  }
}

struct hangup_loop *hangup_loop_open(struct event_base *base) {
  struct hangup_loop *loop = calloc(1, sizeof *loop);
  if (!loop) return NULL;
  loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
  if (loop->epoll_fd >= 0)
    loop->readable = event_new(base, loop->epoll_fd, EV_READ | EV_PERSIST, hangups_arrived, loop);
  if (!loop->readable || event_add(loop->readable, NULL)) {
    hangup_loop_close(loop);
    return NULL;
  }
  return loop;
}

void hangup_loop_close(struct hangup_loop *loop) {
  if (!loop) return;
  if (loop->readable) event_free(loop->readable);
  if (loop->epoll_fd >= 0) close(loop->epoll_fd);
  free(loop);
}

static struct bufferevent *connection_of(struct evhttp_request *http) {
  struct evhttp_connection *connection = evhttp_request_get_connection(http);
  return connection ? evhttp_connection_get_bufferevent(connection) : NULL;
}

void http_pause_reading(struct evhttp_request *http) {
  struct bufferevent *stream = connection_of(http);
  if (stream) bufferevent_disable(stream, EV_READ);
}

bool hangup_watch_start(struct hangup_loop *loop, struct hangup_watch *watch, struct evhttp_request *http) {
  struct bufferevent *stream = connection_of(http);
  struct epoll_event event = {.events = EPOLLRDHUP | EPOLLET, .data.ptr = watch};
  watch->fd = -1;
  if (!stream) return false;
  http_pause_reading(http);
  int fd = bufferevent_getfd(stream);
  if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, fd, &event)) return false;
  watch->fd = fd;
  return true;
}

void hangup_watch_stop(struct hangup_loop *loop, struct hangup_watch *watch) {
  if (watch->fd < 0) return;
  epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, watch->fd, NULL);
  watch->fd = -1;
}
