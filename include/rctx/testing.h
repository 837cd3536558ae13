/*
 * rctx/testing.h - for tests of code that uses contexts: does it look, and does it stop?
 *
 * A look is a call that tells the caller of the end: rctx_err, rctx_why, rctx_cause, rctx_remaining, rctx_wait, rctx_sleep,
 * rctx_poll, rctx_cond_wait. rctx_err() is inline: compile the code under test with -DRCTX_COUNT_LOOKS, so that it counts.
 *
 *   static int body(const rctx *ctx, void *arg) { return process_items(ctx, arg); }
 *   struct rctx_looks looks;
 *   rctx_test_looks(body, &items, &(struct rctx_looks_options){0}, &looks);
 *   assert(looks.looks > 0 && looks.ignored == 0);
 *
 * Not for production: one sweep at a time in a process.
 */
#ifndef RCTX_TESTING_H
#define RCTX_TESTING_H

#include <rctx/executor.h>

RCTX_BEGIN_DECLS

struct rctx_looks_options {
  const rctx *parent;       /* of the contexts handed to the body; NULL: rctx_background() */
  void (*reset)(void *arg); /* NULL, or called before each run */
  unsigned runs_max;        /* 0: 1,000: stop after so many runs */
  unsigned patience;        /* looks that a body may do after the cancel before it counts as ignoring it. 0: 1 */
  unsigned first;           /* begin with the cancel at this look. 0: 1 */
};

struct rctx_looks {
  unsigned looks;         /* of an undisturbed run. 0: it never looks */
  unsigned runs;          /* with a cancel */
  unsigned stopped;       /* of these, ended with an error other than 0 within the patience */
  unsigned ignored;       /* went on looking beyond the patience, or did not report the end */
  unsigned first_ignored; /* the first look whose answer was ignored; 0: none */
  int result;             /* of the undisturbed run */
};

/**
 * rctx_test_looks - run the body once undisturbed and count its looks, then again and again with its context cancelled at
 * the nth look, n = 1, 2, .. until a run ends without reaching it.
 *
 * The nth look itself already sees the cancel. Looks at contexts derived from the body's count, on any thread.
 * Returns: 0; -EINVAL: fn is NULL; -EBUSY: another sweep is under way; -E2BIG: runs_max was reached (what is there is in
 * *looks).
 */
RCTX_API int rctx_test_looks(rctx_work_fn fn, void *arg, const struct rctx_looks_options *options,
                             struct rctx_looks *looks) RCTX_NONNULL(1, 4);

RCTX_END_DECLS
#endif
