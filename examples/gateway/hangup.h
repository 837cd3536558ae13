/*
 * hangup.h - notice that a client has hung up while its request is being worked on.
 *
 * libevent 2.1's evhttp does not: between the request and the answer it looks at the socket only when it writes. And its
 * event loop can not be asked for it safely: a reset connection reports EPOLLERR, which libevent 2.1 turns into "readable
 * and writable" and never into EV_CLOSED, so an event for EV_CLOSED alone would spin and stay silent.
 *
 * So each loop has a small epoll set of its own, edge-triggered, that asks for EPOLLRDHUP only (errors and resets come
 * unasked). Bytes that arrive meanwhile, a pipelined request for instance, are not in the set and are no hang-up. The
 * epoll descriptor itself is readable when something is in it, and that libevent can watch.
 *
 * A client that closes only its sending side counts as gone, as it does for NGINX and for Go's net/http.
 */
#ifndef GATEWAY_HANGUP_H
#define GATEWAY_HANGUP_H

#include <event2/event.h>
#include <stdbool.h>

struct hangup_loop;
struct evhttp_request;

/** One watched socket; embedded in whatever is interested. on_hangup is called on the loop's thread, at most once. */
struct hangup_watch {
  int fd; /* -1: not watching. Set it before first use */
  void (*on_hangup)(void *arg);
  void *arg;
};

struct hangup_loop *hangup_loop_open(struct event_base *base);
void hangup_loop_close(struct hangup_loop *loop);

/** hangup_watch_start - watch the socket of a request that has been read. Also stops evhttp from reading it until the
 *  answer is out: what the client sends meanwhile waits in the kernel, and an error there can not surprise us. */
bool hangup_watch_start(struct hangup_loop *loop, struct hangup_watch *watch, struct evhttp_request *http);

/** hangup_watch_stop - before the socket is handed back to evhttp or closed. No harm when not watching. */
void hangup_watch_stop(struct hangup_loop *loop, struct hangup_watch *watch);

/** http_pause_reading - the second half of hangup_watch_start(), for those who do not care about hang-ups. */
void http_pause_reading(struct evhttp_request *http);

#endif
