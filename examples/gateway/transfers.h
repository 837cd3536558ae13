/*
 * transfers.h - libcurl's multi interface on a libevent loop: calls upstream share the loop with the clients, and finished
 * connections are kept for the next call.
 */
#ifndef GATEWAY_TRANSFERS_H
#define GATEWAY_TRANSFERS_H

#include <curl/curl.h>
#include <event2/event.h>
#include <stdbool.h>

struct transfers;

/** One transfer under way. done is called on the loop's thread, at most once, and not after transfers_remove(). */
struct transfer {
  CURL *easy;
  void (*done)(void *arg, CURLcode code);
  void *arg;
};

struct transfers *transfers_open(struct event_base *base);
void transfers_close(struct transfers *transfers);

/** transfers_handle - a blank easy handle, new or used. NULL: no memory. Either start it or give it back. */
CURL *transfers_handle(struct transfers *transfers);
void transfers_give_back(struct transfers *transfers, CURL *easy);

/** transfers_start - run transfer->easy. False: it did not start, and done will not be called. */
bool transfers_start(struct transfers *transfers, struct transfer *transfer);

/** transfers_remove - take a transfer out, finished or not: an unfinished one loses its connection, and that is how the
 *  other side learns of it. Not inside a libcurl callback. Gives the handle back. */
void transfers_remove(struct transfers *transfers, struct transfer *transfer);

#endif
