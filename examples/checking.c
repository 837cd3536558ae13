/*
 * checking.c - the pitfall "not checking the context": three loops, and a test that tells the good one from the others.
 *
 * In Go the same loop without `select { case <-ctx.Done(): ... }` runs on after everybody has left, and nothing says
 * so: the compiler can not know, and a test that cancels once may cancel where the loop happens to look.
 *
 * rctx_test_looks() (testing.h) runs a function again and again, each time with its context ended at another of the
 * places where the function looks at it. This file is compiled with -DRCTX_COUNT_LOOKS, so that rctx_err() counts, too.
 *
 * Look at: sum_half_hearted(), which looks, and would pass a test that cancels it beforehand.
 */
#include "example.h"
#include <rctx/rctx.h>
#include <rctx/testing.h>

enum { ROWS = 20 };

struct sum {
  long total;
};

static void reset(void *arg) { ((struct sum *)arg)->total = 0; }

/* Wrong: never looks. */
static int sum_deaf(const rctx *ctx, void *arg) {
  struct sum *sum = arg;
  (void)ctx;
  for (int row = 0; row < ROWS; row++) sum->total += row;
  return 0;
}

static int add_row(const rctx *ctx, struct sum *sum, int row) {
  int err = rctx_err(ctx);
  if (err != 0) return err;
  sum->total += row;
  return 0;
}

/* Wrong: looks before it begins, and then throws away what add_row() says. */
static int sum_half_hearted(const rctx *ctx, void *arg) {
  if (rctx_err(ctx) != 0) return rctx_err(ctx);
  for (int row = 0; row < ROWS; row++) (void)add_row(ctx, arg, row);
  return 0; /* a sum of some rows, reported as the sum of all */
}

/* Right: the first error is the result. */
static int sum_attentive(const rctx *ctx, void *arg) {
  for (int row = 0; row < ROWS; row++) {
    int err = add_row(ctx, arg, row);
    if (err != 0) return err;
  }
  return 0;
}

static struct rctx_looks examine(const char *name, rctx_work_fn fn) {
  struct sum sum = {0};
  struct rctx_looks looks = {0};

  expect(rctx_test_looks(fn, &sum, &(struct rctx_looks_options){.reset = reset}, &looks) == 0);
  printf("%-18s looks %2u times", name, looks.looks);
  if (looks.looks == 0) {
    printf(": deaf\n");
  } else if (looks.ignored) {
    printf("; ended at each of them in turn: %u of %u runs went on, the first at look %u\n", looks.ignored, looks.runs,
           looks.first_ignored);
  } else {
    printf("; ended at each of them in turn: all %u runs stopped\n", looks.runs);
  }
  return looks;
}

int main(void) {
  struct rctx_looks deaf = examine("sum_deaf", sum_deaf);
  struct rctx_looks half_hearted = examine("sum_half_hearted", sum_half_hearted);
  struct rctx_looks attentive = examine("sum_attentive", sum_attentive);

  expect(deaf.looks == 0);
  expect(half_hearted.looks == ROWS + 1 && half_hearted.first_ignored == 2 && half_hearted.ignored > 0);
  expect(attentive.looks == ROWS && attentive.runs == ROWS && attentive.stopped == ROWS && attentive.ignored == 0);
  return expectations_failed();
}
