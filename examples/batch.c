/*
 * batch.c - a batch job with a progress bar that Ctrl-C ends cleanly: what is done is kept and summed up.
 *
 *   batch [--interrupt-after N]     N: send ourselves a SIGINT after N items, as if somebody had pressed Ctrl-C
 *
 * In Go:
 *   ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
 *   defer stop()
 *   for _, file := range files {
 *     if ctx.Err() != nil { break }
 *     ...
 *   }
 *
 * Look at: the loop, which knows nothing of signals. And press Ctrl-C twice: the first ends the context, and at that
 * moment the library gives SIGINT back to whoever had it; so the second one kills, as it does without this library.
 */
#include "example.h"
#include <rctx/rctx.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#define ITEMS 30
#define PER_ITEM (50 * MS)

struct batch {
  int done;
  long bytes; /* the result so far */
  int interrupt_after;
};

static void show_progress(const struct batch *batch) {
  char bar[ITEMS + 1];

  if (!isatty(STDOUT_FILENO)) {
    if (batch->done % 5 == 0) printf("%d of %d\n", batch->done, ITEMS);
    return;
  }
  memset(bar, '.', ITEMS);
  memset(bar, '#', (size_t)batch->done);
  bar[ITEMS] = '\0';
  printf("\r[%s] %2d of %d ", bar, batch->done, ITEMS);
  (void)fflush(stdout);
}

static int convert(const rctx *ctx, struct batch *batch) {
  for (batch->done = 0; batch->done < ITEMS;) {
    int err = rctx_sleep(ctx, PER_ITEM); /* the work on one item: given up in the middle when the end comes */
    if (err != 0) return err;
    batch->bytes += 4096 + batch->done;
    batch->done++;
    show_progress(batch);
    if (batch->done == batch->interrupt_after) (void)kill(getpid(), SIGINT);
  }
  return 0;
}

/* The handler that stands for SIGINT once the context has ended: again the one from before. */
static void expect_sigint_given_back(void) {
  struct sigaction now = {0};
  for (int i = 0; i < 1000; i++) { /* the signal thread may be on its way to it */
    expect(sigaction(SIGINT, NULL, &now) == 0);
    if (now.sa_handler == SIG_DFL) break;
    (void)rctx_sleep(rctx_background(), 5 * MS);
  }
  expect(now.sa_handler == SIG_DFL);
}

int main(int argc, char **argv) {
  struct batch batch = {.interrupt_after = -1};
  struct rctx_why why;

  if (argc == 3 && strcmp(argv[1], "--interrupt-after") == 0) {
    batch.interrupt_after = atoi(argv[2]);
  } else if (argc != 1) {
    (void)fprintf(stderr, "usage: %s [--interrupt-after N]\n", argv[0]);
    return 2;
  }
  RCTX_SCOPED rctx *ctx = rctx_with_signal(rctx_background(), SIGINT, SIGTERM, 0);
  printf("%d items; Ctrl-C ends it cleanly, a second one at once\n", ITEMS);

  int err = convert(ctx, &batch);
  if (isatty(STDOUT_FILENO)) printf("\n");
  if (err == 0) {
    printf("all %d items done, %ld bytes\n", batch.done, batch.bytes);
    expect(batch.interrupt_after < 0 && batch.done == ITEMS);
    return expectations_failed();
  }
  rctx_why(ctx, &why);
  printf("stopped by %s: %d of %d items done, %ld bytes kept\n", why.cause->text, batch.done, ITEMS, batch.bytes);
  expect(why.cause->origin == RCTX_ORIGIN_SIGNAL && rctx_signal_of(ctx) == (int)(intptr_t)why.cause->user);
  if (batch.interrupt_after > 0) {
    expect(rctx_signal_of(ctx) == SIGINT && strcmp(why.cause->text, "SIGINT") == 0);
    expect(batch.done >= batch.interrupt_after && batch.done < ITEMS);
    expect_sigint_given_back();
    printf("SIGINT is again what it was: a second one would kill\n");
  }
  return expectations_failed();
}
