/*
 * simulate_work.c - the article's SimulateWork: work that is completed, or says that it was stopped and how far it got.
 *
 * In Go:
 *   select {
 *   case <-time.After(workDuration):  fmt.Println("completed:", description); return nil
 *   case <-ctx.Done():                fmt.Println("canceled:", description);  return ctx.Err()
 *   }
 *
 * Real work is no timer: it is done in slices, and looks at its context between two of them. How long a slice is, is
 * how late the end is noticed.
 *
 * Look at: the loop of simulate_work(), and the result, which is the context's error and nothing of its own.
 */
#include "example.h"
#include <rctx/rctx.h>

#define SLICE (5 * MS)

/* Works for @duration_ns; *done_ns says how much was done, also when it was stopped. */
static int simulate_work(const rctx *ctx, int64_t duration_ns, const char *what, int64_t *done_ns) {
  int err = 0;

  for (*done_ns = 0; *done_ns < duration_ns; *done_ns += SLICE) {
    if ((err = rctx_sleep(ctx, SLICE)) != 0) break; /* a slice of work that looks: rctx_err() if yours does not sleep */
  }
  if (err == 0) {
    printf("completed: %s\n", what);
    return 0;
  }
  struct rctx_why why;
  rctx_why(ctx, &why);
  printf("stopped:   %s, after %d ms of %d: %s (%s)\n", what, (int)(*done_ns / MS), (int)(duration_ns / MS),
         rctx_strerror(err), why.cause->text);
  return err;
}

static void *lose_interest(void *request) {
  (void)rctx_sleep(rctx_background(), 30 * MS);
  rctx_cancel_with((rctx *)request, -ECANCELED, RCTX_ORIGIN_PEER, "the user has left the page");
  return NULL;
}

int main(void) {
  RCTX_SCOPED rctx *patient = rctx_with_timeout(rctx_background(), 60 * SECOND);
  int64_t done_ns;
  pthread_t user;

  expect(simulate_work(patient, 50 * MS, "resize the picture", &done_ns) == 0);
  expect(done_ns == 50 * MS);

  RCTX_SCOPED rctx *hurried = rctx_with_timeout_cause(
      patient, 40 * MS, RCTX_CAUSE(-ETIMEDOUT, RCTX_ORIGIN_DEADLINE, "a page has to be there in 40 ms"));
  expect(simulate_work(hurried, 2000 * MS, "render the film", &done_ns) == -ETIMEDOUT);
  expect(done_ns < 2000 * MS);

  RCTX_SCOPED rctx *left = rctx_with_cancel(patient);
  require(pthread_create(&user, NULL, lose_interest, left) == 0);
  expect(simulate_work(left, 2000 * MS, "search everything", &done_ns) == -ECANCELED);
  expect(done_ns < 2000 * MS);
  expect(pthread_join(user, NULL) == 0);

  expect(simulate_work(left, 10 * MS, "begin too late", &done_ns) == -ECANCELED);
  expect(done_ns == 0);
  return expectations_failed();
}
