/*
 * log.c - log lines that carry what travels with the request: nobody passes a trace id along for the log's sake.
 *
 * In Go:
 *   ctx = context.WithValue(ctx, traceIDKey, "4bf92f35")
 *   ...
 *   slog.InfoContext(ctx, "fetched", "rows", 3)     // with a handler of one's own that takes the id out of ctx
 *
 * Look at: the session token, which is a value like the others but not in the lines: only keys declared with
 * RCTX_KEY_LOGGED are. And at the last line, written after the end: it says why, and where in the source.
 */
#include "example.h"
#include <rctx/rctx.h>
#include <string.h>
#include <unistd.h>

RCTX_KEY_LOGGED(trace_id, const char *, "follows one request through all services")
RCTX_KEY_LOGGED(user, long, "who asks: for access checks and for support")
RCTX_KEY(session, const char *, "a secret: for calls to other services")

/* Deep down in the program: it has a context and nothing else. */
static void fetch_rows(const rctx *ctx) {
  expect(rctx_log(STDOUT_FILENO, ctx, RCTX_LOG_INFO, "fetched %d rows", 3) == 0);
}

static void handle(const rctx *server) {
  struct rctx_value values[] = {trace_id_value("4bf92f35"), user_value(42), session_value("hunter2")};
  RCTX_SCOPED rctx *request =
      rctx_derive(server, &(struct rctx_spec){.name = "GET /orders", .values = values, .nvalues = 3});
  RCTX_SCOPED rctx *admin = user_with(request, 7);
  char line[512];

  fetch_rows(request);
  fetch_rows(admin); /* the nearest value counts */

  rctx_cancel_with(request, -ECONNRESET, RCTX_ORIGIN_PEER, "the client hung up");
  size_t length = rctx_log_format(line, sizeof line, request, RCTX_LOG_WARN, "gave up: \"%s\"", "orders\n");
  expect(length == strlen(line) && length > 0 && line[length - 1] == '\n');
  expect(strchr(line, '\n') == line + length - 1); /* a line stays a line, whatever is in the text */
  fputs(line, stdout);
  expect(strstr(line, "\"trace_id\":\"4bf92f35\"") && strstr(line, "\"user\":42"));
  expect(strstr(line, "the client hung up") && strstr(line, "log.c:"));
  expect(!strstr(line, "hunter2"));
}

int main(void) {
  RCTX_SCOPED rctx *server = rctx_with_cancel(rctx_background());
  handle(server);
  return expectations_failed();
}
