/*
 * transfers.c - see transfers.h.
 *
 * libcurl 7.88 closes a socket that is still connecting first and says CURL_POLL_REMOVE afterwards, in the same call. With
 * several workers another thread may have been given the same descriptor number by then. That does no harm: the removal
 * goes to this worker's own epoll set, where the number is not known any more.
 */
#include "transfers.h"

#include <stdlib.h>

enum { HANDLES_KEPT = 256, CONNECTIONS_KEPT = 256 };

struct transfers {
  struct event_base *base;
  CURLM *multi;
  struct event *timer;
  CURL *spare[HANDLES_KEPT];
  int nspare;
};

/* ---- what libcurl wants to be told ------------------------------------------------------------------------------- */

static void take_finished(struct transfers *transfers) {
  CURLMsg *message;
  int left;
  while ((message = curl_multi_info_read(transfers->multi, &left))) {
    struct transfer *transfer = NULL;
    CURLcode code = message->data.result; /* the message does not survive what done() may do */
    if (message->msg != CURLMSG_DONE) continue;
    curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, (char **)&transfer);
    transfer->done(transfer->arg, code);
  }
}

static void socket_ready(evutil_socket_t fd, short what, void *arg) {
  struct transfers *transfers = arg;
  int running, flags = (what & EV_READ ? CURL_CSELECT_IN : 0) | (what & EV_WRITE ? CURL_CSELECT_OUT : 0);
  curl_multi_socket_action(transfers->multi, fd, flags, &running);
  take_finished(transfers);
}

static void timer_expired(evutil_socket_t fd, short what, void *arg) {
  struct transfers *transfers = arg;
  int running;
  (void)fd;
  (void)what;
  curl_multi_socket_action(transfers->multi, CURL_SOCKET_TIMEOUT, 0, &running);
  take_finished(transfers);
}

/* ---- what libcurl asks for --------------------------------------------------------------------------------------- */

static int watch_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *socket_arg) {
  struct transfers *transfers = arg;
  struct event *event = socket_arg;
  (void)easy;
  if (event) event_free(event);
  event = NULL;
  if (what != CURL_POLL_REMOVE) {
    short flags = (short)((what & CURL_POLL_IN ? EV_READ : 0) | (what & CURL_POLL_OUT ? EV_WRITE : 0) | EV_PERSIST);
    event = event_new(transfers->base, fd, flags, socket_ready, transfers);
    if (!event || event_add(event, NULL)) return -1;
  }
  curl_multi_assign(transfers->multi, fd, event);
  return 0;
}

static int set_timer(CURLM *multi, long timeout_ms, void *arg) {
  struct transfers *transfers = arg;
  struct timeval after = {.tv_sec = timeout_ms / 1000, .tv_usec = timeout_ms % 1000 * 1000};
  (void)multi;
  if (timeout_ms < 0)
    event_del(transfers->timer);
  else
    event_add(transfers->timer, &after);
  return 0;
}

/* ---- for the gateway --------------------------------------------------------------------------------------------- */

struct transfers *transfers_open(struct event_base *base) {
  struct transfers *transfers = calloc(1, sizeof *transfers);
  if (!transfers) return NULL;
  transfers->base = base;
  transfers->timer = event_new(base, -1, 0, timer_expired, transfers);
  transfers->multi = curl_multi_init();
  if (!transfers->timer || !transfers->multi) {
    transfers_close(transfers);
    return NULL;
  }
  curl_multi_setopt(transfers->multi, CURLMOPT_SOCKETFUNCTION, watch_socket);
  curl_multi_setopt(transfers->multi, CURLMOPT_SOCKETDATA, transfers);
  curl_multi_setopt(transfers->multi, CURLMOPT_TIMERFUNCTION, set_timer);
  curl_multi_setopt(transfers->multi, CURLMOPT_TIMERDATA, transfers);
  curl_multi_setopt(transfers->multi, CURLMOPT_MAXCONNECTS, (long)CONNECTIONS_KEPT);
  return transfers;
}

void transfers_close(struct transfers *transfers) {
  if (!transfers) return;
  while (transfers->nspare > 0) curl_easy_cleanup(transfers->spare[--transfers->nspare]);
  if (transfers->multi) curl_multi_cleanup(transfers->multi);
  if (transfers->timer) event_free(transfers->timer);
  free(transfers);
}

CURL *transfers_handle(struct transfers *transfers) {
  return transfers->nspare > 0 ? transfers->spare[--transfers->nspare] : curl_easy_init();
}

void transfers_give_back(struct transfers *transfers, CURL *easy) {
  if (transfers->nspare == HANDLES_KEPT) {
    curl_easy_cleanup(easy);
    return;
  }
  curl_easy_reset(easy);
  transfers->spare[transfers->nspare++] = easy;
}

bool transfers_start(struct transfers *transfers, struct transfer *transfer) {
  curl_easy_setopt(transfer->easy, CURLOPT_PRIVATE, transfer);
  return curl_multi_add_handle(transfers->multi, transfer->easy) == CURLM_OK;
}

void transfers_remove(struct transfers *transfers, struct transfer *transfer) {
  curl_multi_remove_handle(transfers->multi, transfer->easy);
  transfers_give_back(transfers, transfer->easy);
  transfer->easy = NULL;
}
