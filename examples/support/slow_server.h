/*
 * slow_server.h - a little HTTP server in a thread of its own, slow on purpose: the other side for examples and for the tests of
 * adapters, so that they need no network. It listens on 127.0.0.1, on a port that the kernel chooses.
 *
 *   GET /quick                     answers at once
 *   GET /slow?ms=N[&status=S]      answers after N milliseconds, with that status (200 unless said)
 *   GET /never                     reads the request and stays silent
 *   GET /drip?ms=N&bytes=B         answers at once, then one byte every N milliseconds, B bytes in all
 *   GET /big?bytes=B               answers B bytes at once
 *
 * It keeps connections open for further requests, and it notices when a client hangs up before it has its whole answer.
 */
#ifndef EXAMPLES_SLOW_SERVER_H
#define EXAMPLES_SLOW_SERVER_H

#include <stdbool.h>

struct slow_server;

/** What it counts. */
enum slow_server_count {
  SLOW_SERVER_CONNECTIONS, /* accepted */
  SLOW_SERVER_REQUESTS,    /* read */
  SLOW_SERVER_ANSWERS,     /* begun */
  SLOW_SERVER_HANG_UPS,    /* clients that left before they had their whole answer */
  SLOW_SERVER_CLOSED,      /* connections that have ended, for whatever reason */
  SLOW_SERVER_COUNTS
};

/** slow_server_start - NULL: no memory, socket or thread. slow_server_stop() joins the thread; open connections are closed. */
struct slow_server *slow_server_start(void);
void slow_server_stop(struct slow_server *server);

/** slow_server_url - "http://127.0.0.1:PORT" and the path, in buf. Returns buf. */
const char *slow_server_url(const struct slow_server *server, const char *path, char *buf, unsigned long size);

/** slow_server_counted - a count of this moment. slow_server_wait() waits until it is at least so many, for 30 seconds at
 *  most; false: it never was. Any thread. */
unsigned slow_server_counted(struct slow_server *server, enum slow_server_count which);
bool slow_server_wait(struct slow_server *server, enum slow_server_count which, unsigned at_least);

/** slow_server_told_ms - the x-request-timeout-ms of the latest request; -1: it had none. */
long slow_server_told_ms(struct slow_server *server);

#endif
