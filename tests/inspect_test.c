// inspect.h: kinds, parents, what counts as a child, timers, descriptors, references.
#include "support/check.h"
#include "support/fake_time.h"

TestSuite(inspect, .init = fake_open, .fini = fake_close, .timeout = 60);

RCTX_KEY(user, const char *)

static struct rctx_info look(const rctx *ctx) {
  struct rctx_info info;
  rctx_inspect(ctx, &info);
  return info;
}

static void nothing(const rctx *ctx, void *arg) {
  (void)ctx;
  (void)arg;
}

Test(inspect, each_kind_and_its_parent) {
  RCTX_SCOPED rctx *cancel = rctx_with_cancel(fake_root());
  RCTX_SCOPED rctx *timed = rctx_with_timeout(cancel, SECOND);
  RCTX_SCOPED rctx *value = user_with(timed, "ann");
  RCTX_SCOPED rctx *detached = rctx_without_cancel(value);
  RCTX_SCOPED rctx *below = rctx_with_cancel(detached);
  const rctx *chain[] = {fake_root(), cancel, timed, value, detached, below};
  enum rctx_kind kinds[] = {RCTX_KIND_ROOT,  RCTX_KIND_CANCEL,   RCTX_KIND_DEADLINE,
                            RCTX_KIND_VALUE, RCTX_KIND_DETACHED, RCTX_KIND_CANCEL};
  for (int i = 0; i < 6; i++) {
    cr_assert_eq(look(chain[i]).kind, kinds[i], "number %d is a %d", i, look(chain[i]).kind);
    cr_assert_eq(look(chain[i]).parent, i ? chain[i - 1] : NULL);
  }
}

Test(inspect, what_counts_as_a_child) {
  struct rctx_after node = {0}, on_value = {0};
  RCTX_SCOPED rctx *parent = rctx_with_cancel(fake_root());
  cr_assert_eq(look(parent).children, 0);
  RCTX_SCOPED rctx *child = rctx_with_cancel(parent);
  cr_assert_eq(look(parent).children, 1);
  RCTX_SCOPED rctx *grandchild = rctx_with_cancel(child);
  cr_assert_eq(look(parent).children, 1, "grandchildren do not");
  RCTX_SCOPED rctx *value = user_with(parent, "ann");
  RCTX_SCOPED rctx *second_value = user_with(value, "bob");
  RCTX_SCOPED rctx *below_values = rctx_with_timeout(second_value, SECOND);
  RCTX_SCOPED rctx *detached = rctx_without_cancel(parent);
  RCTX_SCOPED rctx *below_detached = rctx_with_cancel(detached);
  cr_assert_eq(look(parent).children, 2, "what hangs below values does, values and detached ones do not");
  rctx_after_inline(parent, &node, RCTX_ON_ENDED_TELL, nothing, NULL);
  rctx_after_inline(second_value, &on_value, RCTX_ON_ENDED_TELL, nothing, NULL);
  cr_assert_eq(look(parent).children, 4, "registrations do");
  cr_assert_eq(look(parent).registrations, 2);
  cr_assert(rctx_after_stop(&node));
  cr_assert(rctx_after_stop(&on_value));
  cr_assert_eq(look(parent).children, 2);
  rctx_cancel(grandchild);
  rctx_cancel(below_values);
  rctx_cancel(below_detached);
  cr_assert_eq(look(parent).children, 1);
  rctx_cancel(parent);
  cr_assert_eq(look(parent).children, 0, "an ended context has none");
}

Test(inspect, an_ended_context_has_no_registrations) {
  struct rctx_after node = {0};
  RCTX_SCOPED rctx *c = rctx_with_cancel(fake_root());
  rctx_after_inline(c, &node, RCTX_ON_ENDED_TELL, nothing, NULL);
  cr_assert_eq(look(c).registrations, 1);
  rctx_cancel(c);
  cr_assert_eq(look(c).registrations, 0);
}

Test(inspect, roots_link_nothing) {
  RCTX_SCOPED rctx *a = rctx_with_cancel(fake_root());
  RCTX_SCOPED rctx *b = user_with(rctx_background(), "ann");
  RCTX_SCOPED rctx *c = rctx_with_cancel(b);
  cr_assert_eq(look(fake_root()).children, 0);
  cr_assert_eq(look(rctx_background()).children, 0);
  cr_assert_eq(rctx_err(a) | rctx_err(c), 0);
}

Test(inspect, timers_are_each_ones_own) {
  RCTX_SCOPED rctx *timed = rctx_with_timeout(fake_root(), SECOND);
  RCTX_SCOPED rctx *child = rctx_with_cancel(timed);
  cr_assert(look(timed).timer_armed);
  cr_assert_not(look(child).timer_armed);
  fake_go(2 * SECOND);
  cr_assert_not(look(timed).timer_armed);
  RCTX_SCOPED rctx *spec = rctx_derive(fake_root(), &(struct rctx_spec){.timeout_ns = SECOND});
  cr_assert(look(spec).timer_armed);
  cr_assert_eq(look(spec).kind, RCTX_KIND_DEADLINE);
}

Test(inspect, descriptors_and_references) {
  RCTX_SCOPED rctx *c = rctx_with_cancel(fake_root());
  cr_assert_not(look(c).has_fd);
  cr_assert_geq(rctx_fd(c), 0);
  cr_assert(look(c).has_fd);
  cr_assert_eq(look(c).references, 1, "the handle");
  for (unsigned i = 0; i < 300; i++) {
    rctx_ref(c);
    cr_assert_eq(look(c).references, i + 2);
  }
  for (unsigned i = 0; i < 300; i++) rctx_unref(c);
  cr_assert_eq(look(c).references, 1);
  cr_assert_eq(look(c).stripes, 1, "not contended");
}
