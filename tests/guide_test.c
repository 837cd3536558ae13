// The three tests that every introduction to contexts shows, for code that handles a list: a cancel, a timeout, values.
// docs/guide/testing.md quotes them. None sleeps: the clock is moved by hand (support/fake_time.h).
#include "support/check.h"
#include "support/fake_time.h"

#include <rctx/rctx.h>
#include <string.h>

TestSuite(guide, .init = fake_open, .fini = fake_close, .timeout = 120);

RCTX_KEY(user, const char *, "who asks: for access checks")

// ---- the code under test ----

enum { ITEMS = 10 };

struct list {
  int done;
  void (*work)(void); // on one item
};

static int process(const rctx *ctx, struct list *list) {
  const char *name;
  if (!user_get(ctx, &name) || strcmp(name, "ann") != 0) return -EACCES;
  for (list->done = 0; list->done < ITEMS; list->done++) {
    int err = rctx_err(ctx);
    if (err != 0) return err;
    list->work();
  }
  return 0;
}

// ---- the tests ----

static rctx *to_cancel;
static int cancel_at;
static void work_and_cancel(void) {
  if (--cancel_at == 0) rctx_cancel(to_cancel);
}

Test(guide, a_cancel_stops_the_work_at_the_next_item) {
  RCTX_SCOPED rctx *request = user_with(fake_root(), "ann");
  struct list list = {.work = work_and_cancel};
  to_cancel = request;
  cancel_at = 3;
  cr_assert_eq(process(request, &list), -ECANCELED);
  cr_assert_eq(list.done, 3, "%d", list.done);
}

static void work_for_40_ms(void) { fake_go(40 * MS); }

Test(guide, a_timeout_stops_the_work_and_keeps_what_was_done) {
  RCTX_SCOPED rctx *request = user_with(fake_root(), "ann");
  RCTX_SCOPED rctx *hurried = rctx_with_timeout(request, 100 * MS);
  RCTX_SCOPED rctx *patient = rctx_with_timeout(request, 3600 * SECOND);
  struct list list = {.work = work_for_40_ms};
  cr_assert_eq(process(hurried, &list), -ETIMEDOUT);
  cr_assert_eq(list.done, 3, "%d", list.done); // the third was begun in time
  cr_assert_eq(process(patient, &list), 0);
  cr_assert_eq(list.done, ITEMS);
}

static void work_at_once(void) {}

Test(guide, values_reach_the_work_and_can_be_hidden_from_it) {
  RCTX_SCOPED rctx *ann = user_with(fake_root(), "ann");
  RCTX_SCOPED rctx *below = rctx_with_cancel(ann);
  RCTX_SCOPED rctx *bob = user_with(below, "bob");
  struct list list = {.work = work_at_once};
  cr_assert_eq(process(below, &list), 0);
  cr_assert_eq(process(bob, &list), -EACCES, "the nearest counts");
  cr_assert_eq(process(fake_root(), &list), -EACCES, "nobody");
}
