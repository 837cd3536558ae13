/*
 * ending.c - the pitfall "not calling cancel": how not to forget it, and how to find who did.
 *
 * In Go:
 *   ctx, cancel := context.WithTimeout(parent, time.Minute)
 *   defer cancel()                     // forgotten: the context and its timer stay until the minute is over
 *
 * Here the word for both is end: what you derive, you end, once.
 *
 * Look at: scoped(), the way to write it; and the report, which names the line that derived and how long ago. This file
 * is compiled with -DRCTX_LEAK_SITES: without it nothing of this is in the program. (At compile time:
 * docs/guide/ending.md.)
 */
#include "example.h"
#include <rctx/rctx.h>
#include <string.h>
#include <unistd.h>

static size_t contexts(void) {
  struct rctx_stats stats;
  rctx_stats(rctx_manager_default(), &stats);
  return stats.contexts;
}

/* Right: ended on every way out of the scope, early returns included. */
static int scoped(const rctx *server, bool early) {
  RCTX_SCOPED rctx *request = rctx_with_timeout(server, 60 * SECOND);
  if (early) return -EINVAL;
  return rctx_err(request);
}

/* Right: handed on to somebody who ends it later. */
static rctx *by_hand(const rctx *server) { return rctx_with_cancel(server); }

/* Wrong: each call leaves a context and its timer behind. (They are kept here, so that this program can clean up.) */
static rctx *forgotten[3];
static void forgetful(const rctx *server, int which) { forgotten[which] = rctx_with_timeout(server, 60 * SECOND); }

struct found {
  size_t lines;
  struct rctx_leak leak;
};

static bool look_at(const struct rctx_leak *leak, void *arg) {
  struct found *found = arg;
  found->lines++;
  found->leak = *leak;
  return true;
}

static struct found leaks(void) {
  struct found found = {0};
  rctx_leaks_each(0, look_at, &found);
  return found;
}

static void report(void) {
  (void)fflush(stdout);
  rctx_leaks_print(STDOUT_FILENO, 0);
}

int main(void) {
  RCTX_SCOPED rctx *server = rctx_with_cancel(rctx_background());
  size_t before = contexts();

  rctx_leaks_start(1); /* keep every creation; in production one in 1,000, say */
  for (int i = 0; i < 100; i++) (void)scoped(server, i % 2 == 0);
  rctx *later = by_hand(server);
  rctx_end(later);
  expect(contexts() == before && leaks().lines == 0);
  printf("101 requests, half of them left early: %zu contexts left, no report\n", contexts() - before);

  for (int i = 0; i < 3; i++) forgetful(server, i);
  expect(contexts() == before + 3);
  printf("3 forgotten: %zu contexts left; the report:\n", contexts() - before);
  report();
  struct found found = leaks();
  expect(found.lines == 1 && found.leak.live == 3 && found.leak.ended == 0);
  expect(strstr(found.leak.file, "ending.c") && strcmp(found.leak.what, "rctx_with_timeout") == 0);

  rctx_cancel(server);
  printf("their server has ended, and so have they; their memory still is nobody's:\n");
  report();
  found = leaks();
  expect(found.lines == 1 && found.leak.live == 0 && found.leak.ended == 3);

  for (int i = 0; i < 3; i++) rctx_end(forgotten[i]);
  expect(contexts() == before && leaks().lines == 0);
  printf("ended: nothing to report\n");
  return expectations_failed();
}
