/*
 * fetch_with_timeout.c - FetchWithTimeout: an HTTP request that ends with its context.
 *
 * In Go:
 *   ctx, cancel := context.WithTimeout(ctx, timeout)
 *   defer cancel()
 *   req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
 *   resp, err := http.DefaultClient.Do(req)
 *
 * Look at: who ended it. libcurl says "timeout" or "aborted"; the context says whose timeout it was, or who aborted it and
 * where. And at the other side: it is told how long it has, and notices when nobody waits any more.
 *
 *   fetch_with_timeout                      plays against a slow server of its own
 *   fetch_with_timeout URL MILLISECONDS     fetches that
 */
#include "example.h"
#include "support/slow_server.h"
#include <pthread.h>
#include <rctx/adapt/curl.h>
#include <rctx/rctx.h>
#include <string.h>

struct answer {
  CURLcode code;
  long status;
  size_t bytes;
  int err; /* of the context; 0: it was not the context */
  int origin;
};

static size_t count_bytes(const char *data, size_t size, size_t count, void *arg) {
  (void)data;
  *(size_t *)arg += size * count;
  return size * count;
}

static void show(const char *what, const struct answer *answer, const struct rctx_why *why) {
  const struct rctx_cause *cause = why->cause;

  printf("%s: ", what);
  if (answer->code == CURLE_OK) {
    printf("%ld, %zu bytes\n", answer->status, answer->bytes);
  } else if (answer->err == 0) {
    printf("%s\n", curl_easy_strerror(answer->code));
  } else {
    printf("%s\n  ended by: \"%s\"", rctx_strerror(answer->err), cause->text);
    if (cause->file) printf(" (%s:%d)", cause->file, cause->line);
    printf("%s\n", why->levels_up ? ", above this call" : "");
  }
}

/* One request below ctx, in at most timeout_ns. */
static struct answer fetch_with_timeout(const rctx *ctx, const char *what, const char *url, int64_t timeout_ns) {
  RCTX_SCOPED rctx *call = rctx_with_timeout_cause(
      ctx, timeout_ns, RCTX_CAUSE(-ETIMEDOUT, RCTX_ORIGIN_DEADLINE, "the server took too long"));
  struct answer answer = {.code = CURLE_OPERATION_TIMEDOUT};
  char header[RCTX_CURL_TIMEOUT_HEADER_MAX];
  struct rctx_why why;

  if (rctx_curl_timeout_header(call, 2 * MS, header, sizeof header) >= 0) { /* else: no time for it at all */
    CURL *easy = curl_easy_init();
    require(easy != NULL);
    struct curl_slist *headers = curl_slist_append(NULL, header);
    curl_easy_setopt(easy, CURLOPT_URL, url);
    curl_easy_setopt(easy, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(easy, CURLOPT_NOPROXY, "127.0.0.1"); /* whatever the environment says */
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, count_bytes);
    curl_easy_setopt(easy, CURLOPT_WRITEDATA, &answer.bytes);
    answer.code = rctx_curl_perform(call, easy, NULL);
    curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &answer.status);
    curl_easy_cleanup(easy);
    curl_slist_free_all(headers);
  }
  answer.err = rctx_why(call, &why);
  answer.origin = why.origin;
  show(what, &answer, &why);
  return answer;
}

/* ---- the story --------------------------------------------------------------------------------------------------- */

static void in_time(const rctx *ctx, struct slow_server *server) {
  char url[64];
  struct answer answer =
      fetch_with_timeout(ctx, "in time", slow_server_url(server, "/slow?ms=20", url, sizeof url), 20 * SECOND);

  expect(answer.code == CURLE_OK && answer.status == 200 && answer.err == 0);
  printf("  the server was told that it has %ld ms\n", slow_server_told_ms(server));
  expect(slow_server_told_ms(server) > 0 && slow_server_told_ms(server) < 20000);
}

static void too_slow(const rctx *ctx, struct slow_server *server) {
  char url[64];
  int64_t began = rctx_now();
  struct answer answer =
      fetch_with_timeout(ctx, "too slow", slow_server_url(server, "/slow?ms=3600000", url, sizeof url), 500 * MS);

  expect(answer.code == CURLE_OPERATION_TIMEDOUT);
  expect(rctx_now() - began >= 500 * MS);
  expect(answer.err == -ETIMEDOUT && answer.origin == RCTX_ORIGIN_DEADLINE);
  expect(slow_server_wait(server, SLOW_SERVER_HANG_UPS, 1));
  printf("  the server has noticed that nobody waits any more\n");
}

struct user {
  rctx *page;
  struct slow_server *server;
  unsigned requests;
};

static void *close_the_page(void *arg) {
  struct user *user = arg;
  expect(slow_server_wait(user->server, SLOW_SERVER_REQUESTS, user->requests));
  rctx_cancel_with(user->page, -ECANCELED, RCTX_ORIGIN_USER, "the user closed the page");
  return NULL;
}

static void not_wanted_any_more(const rctx *ctx, struct slow_server *server) {
  RCTX_SCOPED rctx *page = rctx_with_cancel(ctx);
  struct user user = {page, server, slow_server_counted(server, SLOW_SERVER_REQUESTS) + 1};
  pthread_t thread;
  char url[64];

  require(pthread_create(&thread, NULL, close_the_page, &user) == 0);
  struct answer answer = fetch_with_timeout(page, "not wanted any more",
                                            slow_server_url(server, "/never", url, sizeof url), 3600 * SECOND);
  pthread_join(thread, NULL);
  expect(answer.code == CURLE_ABORTED_BY_CALLBACK);
  expect(answer.err == -ECANCELED && answer.origin == RCTX_ORIGIN_USER);
}

static void nothing_left(const rctx *ctx, struct slow_server *server) {
  RCTX_SCOPED rctx *request = rctx_with_timeout(ctx, 0); /* its other calls have used it up */
  unsigned before = slow_server_counted(server, SLOW_SERVER_CONNECTIONS);
  char url[64];
  struct answer answer =
      fetch_with_timeout(request, "nothing left", slow_server_url(server, "/quick", url, sizeof url), 20 * SECOND);

  expect(answer.code == CURLE_OPERATION_TIMEDOUT && answer.err == -ETIMEDOUT);
  expect(answer.origin == RCTX_ORIGIN_PARENT_DEADLINE);
  expect(slow_server_counted(server, SLOW_SERVER_CONNECTIONS) == before);
  printf("  no connection was made\n");
}

int main(int argc, char **argv) {
  RCTX_SCOPED rctx *program = rctx_with_cancel(rctx_background());

  require(argc == 1 || argc == 3);
  require(curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK);
  if (argc == 3) {
    int64_t timeout_ns = strtoll(argv[2], NULL, 10) * MS;
    return fetch_with_timeout(program, argv[1], argv[1], timeout_ns).code != CURLE_OK;
  }
  struct slow_server *server = slow_server_start();
  require(server != NULL);
  in_time(program, server);
  too_slow(program, server);
  not_wanted_any_more(program, server);
  nothing_left(program, server);
  slow_server_stop(server);
  curl_global_cleanup();
  return expectations_failed();
}
