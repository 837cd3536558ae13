/*
 * dump.c - the live tree of a server, as text, JSON and a picture: which requests are there, since when, what holds them.
 *
 * Go has nothing of the kind: a context knows its parent (String() prints the way up), not its children.
 *
 *   dump          all three formats
 *   dump --dot    the third alone: examples/dump --dot | dot -Tsvg
 *
 * Look at: the detached audit, still there below a request that has ended; the session, which is not shown, as its key is
 * not loggable; and the last dump, which has too little room and says so.
 */
#include "example.h"
#include <rctx/rctx.h>
#include <string.h>
#include <unistd.h>

RCTX_KEY_LOGGED(trace_id, const char *, "follows one request through all services")
RCTX_KEY_LOGGED(user, int, "who asks: for access checks and for support")
RCTX_KEY(session, const char *, "a secret: for calls to other services")

static char room[16384]; /* for the snapshot: some 100 contexts */

static rctx *request(const rctx *server, const char *name, const char *trace, int who, int64_t timeout_ns) {
  struct rctx_value values[] = {trace_id_value(trace), user_value(who), session_value("hunter2")};
  return rctx_derive(server,
                     &(struct rctx_spec){.name = name, .timeout_ns = timeout_ns, .values = values, .nvalues = 3});
}

static rctx *call(const rctx *request, const char *name) {
  return rctx_derive(request, &(struct rctx_spec){.name = name});
}

static void show(const rctx *server, enum rctx_dump_format format) {
  expect(rctx_dump_fd(server, format, room, sizeof room, STDOUT_FILENO) == 0);
}

static void show_counts(void) {
  char text[2048];
  expect(rctx_prometheus(rctx_manager_default(), text, sizeof text) < sizeof text);
  expect(strstr(text, "\nrctx_contexts 8\n"));
  fputs(text, stdout);
}

int main(int argc, char **argv) {
  bool only_dot = argc > 1 && strcmp(argv[1], "--dot") == 0;
  RCTX_SCOPED rctx *server = rctx_derive(rctx_background(), &(struct rctx_spec){.name = "server"});
  RCTX_SCOPED rctx *orders = request(server, "GET /orders", "4bf92f35", 42, 2 * SECOND);
  RCTX_SCOPED rctx *profile = call(orders, "call: profile");
  RCTX_SCOPED rctx *stock = call(orders, "call: stock");
  RCTX_SCOPED rctx *upload = request(server, "PUT /photo", "9a01c77e", 7, 30 * SECOND);
  RCTX_SCOPED rctx *pay = request(server, "POST /pay", "00f1ab02", 42, 5 * SECOND);
  RCTX_SCOPED rctx *audit = rctx_without_cancel(pay);
  RCTX_SCOPED rctx *record = call(audit, "audit record");

  rctx_cancel_with(pay, -ECONNRESET, RCTX_ORIGIN_PEER, "the client hung up");
  rctx_cancel_with(stock, -EIO, RCTX_ORIGIN_PEER, "upstream: 500");

  if (only_dot) {
    show(server, RCTX_DUMP_DOT);
    return expectations_failed();
  }
  show(server, RCTX_DUMP_TEXT);
  show(server, RCTX_DUMP_JSON);
  show(server, RCTX_DUMP_DOT);
  show_counts();
  expect(rctx_dump_fd(server, RCTX_DUMP_TEXT, room, 600, STDOUT_FILENO) == -ENOSPC);
  expect(rctx_err(record) == 0 && rctx_err(pay) != 0 && rctx_err(upload) == 0 && rctx_err(profile) == 0);
  return expectations_failed();
}
