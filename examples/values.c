/*
 * values.c - request-scoped values: keys with a type and a purpose, what belongs in a value, shadowing, owned values.
 *
 * In Go:
 *   type userKey struct{}
 *   ctx = context.WithValue(ctx, userKey{}, "ann")
 *   user, ok := ctx.Value(userKey{}).(string)
 *
 * A value travels with the request through code that need not know it: who asks, which trace, which tenant. What a
 * function needs in order to work is a parameter: `retries` below is one, although a value would save typing.
 *
 * Look at: the key declarations, which say why each travels; and close_connection(), called when the last context that
 * can see the connection is gone, and not when the first is ended.
 */
#include "example.h"
#include <rctx/rctx.h>
#include <string.h>

static int connections_open;

static void close_connection(void *connection) {
  free(connection);
  connections_open--;
  printf("    (the connection is closed)\n");
}

RCTX_KEY(user, const char *, "who asks: for access checks")
RCTX_KEY(attempt, int, "how often this request was tried before: for logs and for giving up")
RCTX_KEY_OWNED(connection, struct connection *, close_connection, "the database connection of this request")

struct connection {
  int number;
};

/* Good: what it needs is in its parameters; what it takes from the context is about the request. */
static int charge(const rctx *ctx, long cents, int retries) {
  const char *name = NULL;
  if (!user_get(ctx, &name) || !name) return -EACCES; /* a stored NULL: nobody, on purpose */
  printf("    charge %ld cents to %s, %d retries\n", cents, name, retries);
  return 0;
}

static void nearest_counts(const rctx *request) {
  const char *name = NULL;
  int count = 0;

  RCTX_SCOPED rctx *ann = user_with(request, "ann");
  RCTX_SCOPED rctx *bob = user_with(ann, "bob");
  RCTX_SCOPED rctx *nobody = user_with(bob, NULL);
  expect(user_get(ann, &name) && strcmp(name, "ann") == 0);
  expect(user_get(bob, &name) && strcmp(name, "bob") == 0);
  expect(user_get(nobody, &name) && name == NULL);
  expect(!attempt_get(nobody, &count));
  printf("  ann, below it bob, below it NULL: each sees the nearest; a NULL is a value, too\n");
  expect(charge(ann, 999, 3) == 0);
  expect(charge(nobody, 999, 3) == -EACCES);
  printf("    charge to nobody: %s\n", rctx_strerror(-EACCES));

  /* Another key of the same name is another key: identity is the address. */
  static const struct rctx_key other_user = {.name = "user"};
  void *value;
  expect(!rctx_get(bob, &other_user, &value));
  printf("  another library's key called \"user\": not found\n");
}

static void several_at_once(const rctx *request) {
  struct rctx_value values[] = {user_value("ann"), attempt_value(2)};
  RCTX_SCOPED rctx *call = rctx_with_values(request, values, 2);
  char text[128];

  rctx_describe(call, text, sizeof text);
  printf("  %s\n", text);
  expect(strstr(text, "user") && strstr(text, "ann"));
}

static void owned(const rctx *request) {
  struct connection *connection = calloc(1, sizeof *connection);
  require(connection);
  connection->number = 5;
  connections_open++;

  rctx *call = connection_with(request, connection); /* the context's from here on */
  rctx *query = rctx_with_cancel(call);
  rctx_end(call);
  expect(connections_open == 1 && connection_get(query, &connection) && connection->number == 5);
  printf("    its context is ended, the query below still sees connection %d\n", connection->number);
  rctx_end(query);
  expect(connections_open == 0);
}

int main(void) {
  RCTX_SCOPED rctx *request = rctx_with_cancel(rctx_background());

  printf("Nearest binding\n");
  nearest_counts(request);
  printf("Several in one derive\n");
  several_at_once(request);
  printf("Owned values\n");
  owned(request);
  return expectations_failed();
}
