/*
 * merge.c - contexts with several parents: work shared by all who wait for it, and a request with two reasons to end.
 *
 * all: three requests want the same thing from upstream. One fetch serves them; it goes on while any of them waits, and ends
 * when the last has gone.
 * any: a request ends with its connection or with its server, and what it derived says which.
 *
 * In Go this is a goroutine per parent, or context.AfterFunc and its stop function; here a merge is one context.
 */
#include "example.h"
#include <rctx/inspect.h>
#include <rctx/merge.h>
#include <rctx/rctx.h>

static void report(const char *who, const rctx *ctx) {
  struct rctx_why why;
  if (rctx_why(ctx, &why) == 0) {
    printf("%-10s goes on\n", who);
  } else {
    printf("%-10s ended: %s (%u up)\n", who, why.cause->text, why.levels_up);
  }
}

static void shared_fetch(void) {
  RCTX_SCOPED rctx *ann = rctx_with_cancel(rctx_background());
  RCTX_SCOPED rctx *bob = rctx_with_cancel(rctx_background());
  RCTX_SCOPED rctx *cid = rctx_with_cancel(rctx_background());
  const rctx *waiters[] = {ann, bob, cid};
  RCTX_SCOPED rctx *fetch = rctx_merge_all(waiters, 3);
  RCTX_SCOPED rctx *upstream = rctx_with_timeout(fetch, 60 * SECOND); /* a limit of its own, below */

  printf("a fetch that three wait for\n");
  rctx_cancel_with(ann, -ECANCELED, RCTX_ORIGIN_PEER, "ann hung up");
  rctx_cancel_with(cid, -ECANCELED, RCTX_ORIGIN_PEER, "cid hung up");
  report("upstream", upstream);
  expect(rctx_err(upstream) == 0);
  rctx_cancel_with(bob, -ECANCELED, RCTX_ORIGIN_PEER, "bob hung up");
  report("upstream", upstream);
  expect(rctx_err(upstream) == -ECANCELED && rctx_cause(upstream) == rctx_cause(bob));
}

/* One request: true if it was let finish. */
static bool serve(const rctx *connection, rctx *server, bool closes) {
  const rctx *parents[] = {connection, server};
  RCTX_SCOPED rctx *request = rctx_merge_any(parents, 2);
  if (closes) rctx_cancel_with(server, -ESHUTDOWN, RCTX_ORIGIN_SHUTDOWN, "the server closes");
  if (rctx_err(request)) report("request", request);
  return rctx_err(request) == 0;
}

static void request_of_two(void) {
  RCTX_SCOPED rctx *server = rctx_with_cancel(rctx_background());
  RCTX_SCOPED rctx *connection = rctx_with_cancel(rctx_background());
  struct rctx_info info;

  printf("requests of a connection and a server\n");
  for (int i = 0; i < 1000; i++) expect(serve(connection, server, false));
  rctx_inspect(server, &info);
  printf("server     after 1000 requests: %zu children\n", info.children);
  expect(info.children == 0);
  expect(!serve(connection, server, true));
  expect(rctx_err(connection) == 0);
}

int main(void) {
  shared_fetch();
  request_of_two();
  return expectations_failed();
}
