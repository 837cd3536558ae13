/*
 * fetch_all.c - several URLs at once: the first failure stops the others, and so does Ctrl-C.
 *
 * In Go:
 *   ctx, stop := signal.NotifyContext(ctx, os.Interrupt)
 *   g, ctx := errgroup.WithContext(ctx)
 *   for _, url := range urls { g.Go(func() error { return fetch(ctx, url) }) }
 *   err := g.Wait()
 *
 * Look at: one thread drives all transfers with one multi handle. Whoever ends the context, here a failed transfer or
 * the library's signal thread, does not touch them: each end is delivered in rctx_loop_drain(), by the loop in drive().
 *
 *   fetch_all              plays against a slow server of its own; interrupts itself
 *   fetch_all URL...       fetches those; Ctrl-C stops them
 */
#include "example.h"
#include "support/slow_server.h"
#include <pthread.h>
#include <rctx/adapt/curl.h>
#include <rctx/rctx.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

enum { URLS_MAX = 64 };

struct batch {
  rctx *ctx;
  CURLM *multi;
  rctx_loop *loop;
  size_t running, finished, failed, stopped;
};

struct fetch {
  struct rctx_curl_transfer transfer; /* first, so that a transfer is its fetch */
  struct batch *batch;
  const char *url;
  size_t bytes;
};

static size_t count_bytes(const char *data, size_t size, size_t count, void *arg) {
  struct fetch *fetch = arg;
  (void)data;
  fetch->bytes += size * count;
  return size * count;
}

static void show_stopped(const struct fetch *fetch) {
  struct rctx_why why;

  rctx_why(fetch->transfer.ctx, &why);
  printf("  stopped   %s: \"%s\"", fetch->url, why.cause ? why.cause->text : "no time left");
  if (why.cause && why.cause->file) printf(" (%s:%d)", why.cause->file, why.cause->line);
  printf("\n");
}

/* Called once for each transfer, on the thread that drives them, when it is out of libcurl's hands. */
static void fetch_ended(struct rctx_curl_transfer *transfer, CURLcode result) {
  struct fetch *fetch = (struct fetch *)transfer;
  struct batch *batch = fetch->batch;
  long status = 0;

  curl_easy_getinfo(transfer->easy, CURLINFO_RESPONSE_CODE, &status);
  batch->running--;
  if (transfer->by_context) {
    batch->stopped++;
    show_stopped(fetch);
  } else if (result == CURLE_OK && status < 400) {
    batch->finished++;
    printf("  finished  %s: %ld, %zu bytes\n", fetch->url, status, fetch->bytes);
  } else {
    batch->failed++;
    if (result == CURLE_OK) printf("  failed    %s: %ld\n", fetch->url, status);
    if (result != CURLE_OK) printf("  failed    %s: %s\n", fetch->url, curl_easy_strerror(result));
    rctx_cancel_with(batch->ctx, -ECANCELED, RCTX_ORIGIN_TASK, "another one has failed");
  }
  curl_easy_cleanup(transfer->easy);
}

static void start(struct batch *batch, struct fetch *fetch, const char *url) {
  CURL *easy = curl_easy_init();

  require(easy != NULL);
  *fetch = (struct fetch){.batch = batch, .url = url};
  curl_easy_setopt(easy, CURLOPT_URL, url);
  curl_easy_setopt(easy, CURLOPT_NOPROXY, "127.0.0.1"); /* whatever the environment says */
  curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, count_bytes);
  curl_easy_setopt(easy, CURLOPT_WRITEDATA, fetch);
  if (rctx_curl_start(&fetch->transfer, batch->ctx, batch->multi, easy, batch->loop, fetch_ended) == 0) {
    batch->running++;
  } else { /* it has ended already */
    batch->stopped++;
    curl_easy_cleanup(easy);
  }
}

static void drive(struct batch *batch) {
  struct curl_waitfd ends = {.fd = rctx_loop_fd(batch->loop), .events = CURL_WAIT_POLLIN};
  int left;

  while (batch->running > 0) {
    require(curl_multi_perform(batch->multi, &left) == CURLM_OK);
    if (rctx_curl_finish_done(batch->multi) > 0) continue; /* perhaps those were the last */
    require(curl_multi_poll(batch->multi, &ends, 1, 60000, NULL) == CURLM_OK);
    rctx_loop_drain(batch->loop, 64);
  }
}

/* What became of them, as counts. */
static struct batch fetch_all(const rctx *parent, const char *const *urls, size_t count) {
  RCTX_SCOPED rctx *ctx = rctx_with_cancel(parent); /* so that a failure ends these, and not the parent's other work */
  struct batch batch = {.ctx = ctx, .multi = curl_multi_init()};
  static struct fetch fetches[URLS_MAX];

  require(batch.multi != NULL && rctx_loop_create(&batch.loop) == 0 && count <= URLS_MAX);
  for (size_t i = 0; i < count; i++) start(&batch, &fetches[i], urls[i]);
  drive(&batch);
  rctx_loop_destroy(batch.loop);
  curl_multi_cleanup(batch.multi);
  return batch;
}

/* ---- the story --------------------------------------------------------------------------------------------------- */

static const char *const with_failure[] = {"/quick",           "/slow?ms=20", "/slow?ms=400&status=500",
                                           "/slow?ms=3600000", "/never",      "/drip?ms=50&bytes=100000000"};
static const char *const with_interrupt[] = {"/never", "/drip?ms=50&bytes=100000000"};

static struct batch fetch_from(struct slow_server *server, const rctx *ctx, const char *const *paths, size_t count) {
  char texts[URLS_MAX][96];
  const char *urls[URLS_MAX];

  for (size_t i = 0; i < count; i++) urls[i] = slow_server_url(server, paths[i], texts[i], sizeof texts[i]);
  return fetch_all(ctx, urls, count);
}

struct keyboard {
  struct slow_server *server;
  unsigned requests;
};

static void *press_ctrl_c(void *arg) {
  struct keyboard *keyboard = arg;
  expect(slow_server_wait(keyboard->server, SLOW_SERVER_REQUESTS, keyboard->requests)); /* all are under way */
  kill(getpid(), SIGINT);
  return NULL;
}

static int play(const rctx *ctx) {
  struct slow_server *server = slow_server_start();
  struct keyboard keyboard = {server, 8};
  pthread_t thread;

  require(server != NULL);
  printf("one of six fails:\n");
  struct batch batch = fetch_from(server, ctx, with_failure, 6);
  expect(batch.finished == 2 && batch.failed == 1 && batch.stopped == 3);
  expect(rctx_err(ctx) == 0);

  printf("Ctrl-C:\n");
  require(pthread_create(&thread, NULL, press_ctrl_c, &keyboard) == 0);
  batch = fetch_from(server, ctx, with_interrupt, 2);
  pthread_join(thread, NULL);
  expect(batch.finished == 0 && batch.failed == 0 && batch.stopped == 2);
  expect(rctx_cause(ctx) && rctx_cause(ctx)->origin == RCTX_ORIGIN_SIGNAL);

  expect(slow_server_wait(server, SLOW_SERVER_HANG_UPS, 5));
  printf("the server has noticed %u hang-ups\n", slow_server_counted(server, SLOW_SERVER_HANG_UPS));
  slow_server_stop(server);
  return expectations_failed();
}

int main(int argc, char **argv) {
  RCTX_SCOPED rctx *program = rctx_with_signal(rctx_background(), SIGINT, SIGTERM, 0);
  int status;

  require(curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK);
  if (argc == 1) {
    status = play(program);
  } else {
    struct batch batch = fetch_all(program, (const char *const *)&argv[1], (size_t)(argc - 1));
    status = batch.failed + batch.stopped > 0;
  }
  curl_global_cleanup();
  return status;
}
