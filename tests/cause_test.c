// Causes: semantics section 5, one test per line of Go's TestCause; identity, ownership, origins; [CTX-2] [CTX-6].
#include "support/check.h"
#include "support/fake_time.h"
#include "support/threads.h"

TestSuite(cause, .init = fake_open, .fini = fake_close, .timeout = 120);

RCTX_KEY(tag, int)

#define CAUSE(name, code) static const struct rctx_cause name = {(code), RCTX_ORIGIN_USER, #name, NULL, 0, NULL, NULL}
CAUSE(parent_cause, -ECANCELED);
CAUSE(child_cause, -ECANCELED);
CAUSE(too_slow, -ETIMEDOUT);
CAUSE(finished_early, -ECANCELED);

// The cause of a plain cancel: the library's, which says CANCELED.
static bool is_plain(const rctx *ctx) {
  const struct rctx_cause *cause = rctx_cause(ctx);
  return rctx_err(ctx) == -ECANCELED && cause && cause->code == -ECANCELED && cause->origin == RCTX_ORIGIN_CANCEL;
}

static bool is_plain_timeout(const rctx *ctx) {
  const struct rctx_cause *cause = rctx_cause(ctx);
  return rctx_err(ctx) == -ETIMEDOUT && cause && cause->code == -ETIMEDOUT && cause->origin == RCTX_ORIGIN_DEADLINE;
}

static bool is(const rctx *ctx, int err, const struct rctx_cause *cause) {
  return rctx_err(ctx) == err && rctx_cause(ctx) == cause;
}

static struct rctx_why why_of(const rctx *ctx) {
  struct rctx_why why;
  cr_assert_eq(rctx_why(ctx, &why), why.err);
  cr_assert_eq(why.err, rctx_err(ctx));
  cr_assert_eq(why.cause, rctx_cause(ctx));
  return why;
}

/* ---- TestCause, line by line ------------------------------------------------------------------------------------- */

Test(cause, of_background_and_todo__TestCause) {
  cr_assert_null(rctx_cause(rctx_background()));
  cr_assert_null(rctx_cause(rctx_todo()));
}

Test(cause, with_cancel__TestCause) {
  RCTX_SCOPED rctx *c = rctx_with_cancel(fake_root());
  cr_assert_null(rctx_cause(c));
  cr_assert(rctx_cancel(c));
  cr_assert(is_plain(c));
}

Test(cause, with_cancel_cause__TestCause) {
  RCTX_SCOPED rctx *c = rctx_with_cancel(fake_root());
  cr_assert(rctx_cancel_cause(c, &parent_cause));
  cr_assert(is(c, -ECANCELED, &parent_cause), "the pointer that comes back is the one that went in");
}

Test(cause, with_cancel_cause_nil__TestCause) {
  RCTX_SCOPED rctx *c = rctx_with_cancel(fake_root());
  cr_assert(rctx_cancel_cause(c, NULL));
  cr_assert(is_plain(c));
  cr_assert_null(rctx_cause(c)->file, "no source line");
}

Test(cause, parent_cause_before_child__TestCause) {
  RCTX_SCOPED rctx *parent = rctx_with_cancel(fake_root());
  RCTX_SCOPED rctx *child = rctx_with_cancel(parent);
  cr_assert(rctx_cancel_cause(parent, &parent_cause));
  cr_assert_not(rctx_cancel_cause(child, &child_cause));
  cr_assert(is(parent, -ECANCELED, &parent_cause));
  cr_assert(is(child, -ECANCELED, &parent_cause));
}

Test(cause, parent_cause_after_child__TestCause) {
  RCTX_SCOPED rctx *parent = rctx_with_cancel(fake_root());
  RCTX_SCOPED rctx *child = rctx_with_cancel(parent);
  cr_assert(rctx_cancel_cause(child, &child_cause));
  cr_assert(rctx_cancel_cause(parent, &parent_cause));
  cr_assert(is(parent, -ECANCELED, &parent_cause));
  cr_assert(is(child, -ECANCELED, &child_cause));
}

Test(cause, parent_cause_before_nil__TestCause) {
  RCTX_SCOPED rctx *parent = rctx_with_cancel(fake_root());
  RCTX_SCOPED rctx *child = rctx_with_cancel(parent);
  cr_assert(rctx_cancel_cause(parent, &parent_cause));
  cr_assert_not(rctx_cancel(child));
  cr_assert(is(child, -ECANCELED, &parent_cause));
}

Test(cause, parent_cause_after_nil__TestCause) {
  RCTX_SCOPED rctx *parent = rctx_with_cancel(fake_root());
  RCTX_SCOPED rctx *child = rctx_with_cancel(parent);
  cr_assert(rctx_cancel(child));
  cr_assert(rctx_cancel_cause(parent, &parent_cause));
  cr_assert(is_plain(child));
}

Test(cause, child_cause_after_nil__TestCause) {
  RCTX_SCOPED rctx *parent = rctx_with_cancel(fake_root());
  RCTX_SCOPED rctx *child = rctx_with_cancel(parent);
  cr_assert(rctx_cancel(parent));
  cr_assert_not(rctx_cancel_cause(child, &child_cause));
  cr_assert(is_plain(child));
  cr_assert(is_plain(parent));
}

Test(cause, child_cause_before_nil__TestCause) {
  RCTX_SCOPED rctx *parent = rctx_with_cancel(fake_root());
  RCTX_SCOPED rctx *child = rctx_with_cancel(parent);
  cr_assert(rctx_cancel_cause(child, &child_cause));
  cr_assert(rctx_cancel(parent));
  cr_assert(is(child, -ECANCELED, &child_cause));
  cr_assert(is_plain(parent));
}

Test(cause, with_timeout__TestCause) {
  RCTX_SCOPED rctx *c = rctx_with_timeout(fake_root(), MS);
  fake_go(3 * MS);
  rctx_cancel(c);
  cr_assert(is_plain_timeout(c));
}

Test(cause, with_timeout_canceled__TestCause) {
  RCTX_SCOPED rctx *c = rctx_with_timeout(fake_root(), 60 * SECOND);
  rctx_cancel(c);
  cr_assert(is_plain(c));
}

Test(cause, with_timeout_cause__TestCause) {
  RCTX_SCOPED rctx *by_length = rctx_with_timeout_cause(fake_root(), MS, &too_slow);
  RCTX_SCOPED rctx *by_time = rctx_with_deadline_cause(fake_root(), fake_now() + MS, &too_slow);
  RCTX_SCOPED rctx *at = rctx_with_timeout_at_cause(fake_root(), fake_now(), MS, &too_slow);
  RCTX_SCOPED rctx *spec = rctx_derive(fake_root(), &(struct rctx_spec){.timeout_ns = MS, .deadline_cause = &too_slow});
  rctx *all[] = {by_length, by_time, at, spec};
  fake_go(3 * MS);
  for (int i = 0; i < 4; i++) cr_assert(is(all[i], -ETIMEDOUT, &too_slow), "number %d", i);
}

Test(cause, with_timeout_cause_already_past) {
  RCTX_SCOPED rctx *c = rctx_with_timeout_cause(fake_root(), -1, &too_slow);
  RCTX_SCOPED rctx *below = rctx_with_cancel(c);
  cr_assert(is(c, -ETIMEDOUT, &too_slow));
  cr_assert(is(below, -ETIMEDOUT, &too_slow));
}

Test(cause, with_timeout_cause_canceled__TestCause) {
  RCTX_SCOPED rctx *c = rctx_with_timeout_cause(fake_root(), 60 * SECOND, &too_slow);
  rctx_cancel(c);
  fake_go(120 * SECOND);
  cr_assert(is_plain(c), "the timeout's cause is not used");
}

Test(cause, with_timeout_cause_stacked__TestCause) {
  RCTX_SCOPED rctx *parent = rctx_with_cancel(fake_root());
  RCTX_SCOPED rctx *child = rctx_with_timeout_cause(parent, MS, &too_slow);
  fake_go(3 * MS);
  cr_assert(rctx_cancel_cause(parent, &parent_cause));
  cr_assert(is(child, -ETIMEDOUT, &too_slow));
  cr_assert(is(parent, -ECANCELED, &parent_cause));
}

Test(cause, with_timeout_cause_stacked_canceled__TestCause) {
  RCTX_SCOPED rctx *parent = rctx_with_cancel(fake_root());
  RCTX_SCOPED rctx *child = rctx_with_timeout_cause(parent, 60 * SECOND, &too_slow);
  cr_assert(rctx_cancel_cause(parent, &finished_early));
  cr_assert(is(child, -ECANCELED, &finished_early));
}

static void detached_has_none(const rctx *parent) {
  RCTX_SCOPED rctx *detached = rctx_without_cancel(parent);
  cr_assert_eq(rctx_err(detached), 0);
  cr_assert_null(rctx_cause(detached));
  cr_assert_eq(why_of(detached).origin, RCTX_ORIGIN_NONE);
}

Test(cause, without_cancel__TestCause) {
  RCTX_SCOPED rctx *parent = rctx_with_cancel(fake_root());
  detached_has_none(fake_root());
  detached_has_none(parent);
}

Test(cause, without_cancel_canceled__TestCause) {
  RCTX_SCOPED rctx *parent = rctx_with_cancel(fake_root());
  RCTX_SCOPED rctx *before = rctx_without_cancel(parent);
  rctx_cancel_cause(parent, &parent_cause);
  detached_has_none(parent);
  cr_assert(is(before, 0, NULL));
}

Test(cause, without_cancel_timeout__TestCause) {
  RCTX_SCOPED rctx *parent = rctx_with_timeout(fake_root(), MS);
  RCTX_SCOPED rctx *before = rctx_without_cancel(parent);
  fake_go(3 * MS);
  cr_assert_eq(rctx_err(parent), -ETIMEDOUT);
  detached_has_none(parent);
  cr_assert(is(before, 0, NULL));
}

static void cancel_or_poll(unsigned index, void *arg) {
  rctx **family = arg;
  if (index == 0) {
    rctx_cancel_cause(family[0], &parent_cause);
    return;
  }
  const rctx *polled = family[index == 1 ? 0 : 1]; // the context itself; its child
  struct rctx_why why;
  do {
    const struct rctx_cause *cause = rctx_cause(polled);
    cr_assert(cause == NULL || cause == &parent_cause, "never a torn or default value");
    cr_assert(!cause || rctx_err(polled), "the cause without the error");
    cr_assert(!rctx_err(polled) || rctx_cause(polled) == &parent_cause, "the error without the cause");
    cr_assert((rctx_why(polled, &why) != 0) == (why.cause != NULL), "the two are read as one");
  } while (!why.err);
  cr_assert_eq(why.cause, &parent_cause);
}

Test(cause, polled_while_another_thread_cancels__CTX_6__TestCauseRace) {
  for (int round = 0; round < 300; round++) {
    RCTX_SCOPED rctx *parent = rctx_with_cancel(fake_root());
    RCTX_SCOPED rctx *child = rctx_with_cancel(parent);
    threads_run(3, cancel_or_poll, (rctx *[]){parent, child});
  }
}

Test(cause, a_later_deadline_loses_its_cause__probe) {
  RCTX_SCOPED rctx *parent = rctx_with_timeout(fake_root(), MS);
  RCTX_SCOPED rctx *child = rctx_with_timeout_cause(parent, SECOND, &too_slow);
  fake_go(2 * SECOND);
  cr_assert(is_plain_timeout(parent));
  cr_assert(is(child, -ETIMEDOUT, rctx_cause(parent)));
}

Test(cause, a_child_of_an_expired_parent_with_cause__probe) {
  RCTX_SCOPED rctx *parent = rctx_with_timeout_cause(fake_root(), MS, &too_slow);
  fake_go(3 * MS);
  RCTX_SCOPED rctx *child = rctx_with_cancel(parent);
  RCTX_SCOPED rctx *value = tag_with(parent, 1);
  cr_assert(is(child, -ETIMEDOUT, &too_slow));
  cr_assert(is(value, -ETIMEDOUT, &too_slow));
}

// Go's foreign context with a done of its own is, here, another context that ends this one from a callback.
static void pass_on(const rctx *foreign, void *native) { rctx_cancel_cause(native, rctx_cause(foreign)); }

Test(cause, a_foreign_parent_ends_what_is_linked_by_a_callback__TestCustomContextCause) {
  RCTX_SCOPED rctx *foreign = rctx_with_cancel(fake_root());
  RCTX_SCOPED rctx *native = rctx_with_cancel(fake_root());
  RCTX_SCOPED rctx *below = rctx_with_cancel(native);
  struct rctx_after link = {0};
  cr_assert_eq(rctx_after_inline(foreign, &link, RCTX_ON_ENDED_RUN, pass_on, native), RCTX_REGISTERED);
  cr_assert(rctx_cancel_cause(foreign, &parent_cause));
  cr_assert(is(native, -ECANCELED, &parent_cause));
  cr_assert(is(below, -ECANCELED, &parent_cause));
  cr_assert_not(rctx_after_stop(&link));
}

Test(cause, a_foreign_parent_is_untouched_by_its_child__TestCustomContextCause) {
  RCTX_SCOPED rctx *foreign = rctx_with_cancel(fake_root());
  RCTX_SCOPED rctx *native = rctx_with_cancel(fake_root());
  struct rctx_after link = {0};
  cr_assert_eq(rctx_after_inline(foreign, &link, RCTX_ON_ENDED_RUN, pass_on, native), RCTX_REGISTERED);
  cr_assert(rctx_cancel_cause(native, &child_cause));
  cr_assert(is(foreign, 0, NULL));
  cr_assert(rctx_cancel_cause(foreign, &parent_cause));
  cr_assert(is(native, -ECANCELED, &child_cause), "and its later cancel changes nothing");
}

/* ---- codes, origins, source lines -------------------------------------------------------------------------------- */

Test(cause, any_code_can_be_chosen) {
  int codes[] = {-1, -ETIMEDOUT, -ECONNRESET, -ENOMEM, -4095};
  for (int i = 0; i < 5; i++) {
    const struct rctx_cause cause = {codes[i], RCTX_ORIGIN_PEER, NULL, NULL, 0, NULL, NULL};
    RCTX_SCOPED rctx *c = rctx_with_cancel(fake_root());
    RCTX_SCOPED rctx *child = rctx_with_cancel(c);
    cr_assert(rctx_cancel_cause(c, &cause));
    cr_assert(is(c, codes[i], &cause));
    cr_assert(is(child, codes[i], &cause));
    cr_assert_null(rctx_cause(child)->text, "no text is allowed");
  }
}

Test(cause, a_code_out_of_range_counts_as_the_usual_one) {
  int codes[] = {0, 1, ETIMEDOUT, -4096, -4097, INT32_MIN, INT32_MAX};
  for (int i = 0; i < 7; i++) {
    const struct rctx_cause cause = {codes[i], RCTX_ORIGIN_USER + 3, "odd", NULL, 0, NULL, NULL};
    RCTX_SCOPED rctx *c = rctx_with_cancel(fake_root());
    cr_assert(rctx_cancel_cause(c, &cause));
    cr_assert(is(c, -ECANCELED, &cause), "code %d", codes[i]);
    RCTX_SCOPED rctx *timed = rctx_with_timeout_cause(fake_root(), MS, &cause);
    fake_go(3 * MS);
    cr_assert(is(timed, -ETIMEDOUT, &cause), "code %d of a deadline", codes[i]);
  }
}

Test(cause, a_peers_deadline_by_hand) {
  RCTX_SCOPED rctx *c = rctx_with_cancel(fake_root());
  RCTX_SCOPED rctx *child = rctx_with_cancel(c);
  cr_assert(rctx_cancel_with(c, -ETIMEDOUT, RCTX_ORIGIN_PEER, "upstream's deadline"));
  struct rctx_why why = why_of(child);
  cr_assert_eq(why.err, -ETIMEDOUT);
  cr_assert_eq(why.origin, RCTX_ORIGIN_PEER, "not a deadline of ours");
  cr_assert_str_eq(why.cause->text, "upstream's deadline");
}

Test(cause, a_deadlines_cause_brings_its_own_code) {
  CAUSE(odd, -ESTALE);
  RCTX_SCOPED rctx *c = rctx_with_timeout_cause(fake_root(), MS, &odd);
  fake_go(3 * MS);
  cr_assert(is(c, -ESTALE, &odd));
}

Test(cause, the_canceller_is_named_by_source_line) {
  RCTX_SCOPED rctx *c = rctx_with_cancel(fake_root());
  int line = __LINE__ + 1;
  cr_assert(rctx_cancel(c));
  const struct rctx_cause *cause = rctx_cause(c);
  cr_assert_eq(cause->line, line);
  cr_assert_str_eq(cause->file, __FILE__);
  cr_assert_str_eq(cause->text, "context canceled");

  rctx *parent = rctx_with_cancel(fake_root());
  RCTX_SCOPED rctx *below = rctx_with_cancel(parent);
  line = __LINE__ + 1;
  rctx_end(parent);
  cr_assert_eq(rctx_cause(below)->line, line);
  cr_assert_eq(rctx_cause(below)->origin, RCTX_ORIGIN_END);

  RCTX_SCOPED rctx *with = rctx_with_cancel(fake_root());
  line = __LINE__ + 1;
  rctx_cancel_with(with, -EIO, RCTX_ORIGIN_SHUTDOWN, "drain");
  cr_assert_eq(rctx_cause(with)->line, line);
}

Test(cause, one_source_line_is_one_record) {
  const struct rctx_cause *seen[2];
  for (int i = 0; i < 2; i++) {
    RCTX_SCOPED rctx *c = rctx_with_cancel(fake_root());
    rctx_cancel(c);
    seen[i] = rctx_cause(c);
  }
  cr_assert_eq(seen[0], seen[1]);
}

// One chain of every kind of node, ended at its top: how it looks from each level.
static void check_levels(const rctx *top, int origin_at_top, int origin_below, const char *name) {
  RCTX_SCOPED rctx *value = tag_with(top, 1);
  RCTX_SCOPED rctx *named = rctx_derive(value, &(struct rctx_spec){.name = "not this one"});
  RCTX_SCOPED rctx *leaf = rctx_with_cancel(named);
  const rctx *levels[] = {top, value, named, leaf};
  for (unsigned i = 0; i < 4; i++) {
    struct rctx_why why = why_of(levels[i]);
    cr_assert_eq(why.levels_up, i, "level %u says %u", i, why.levels_up);
    cr_assert_eq(why.origin, i == 0 ? origin_at_top : origin_below, "level %u says %d", i, why.origin);
    cr_assert_eq(why.name, name);
    cr_assert_eq(why.cause, rctx_cause(top));
  }
}

Test(cause, why_says_how_many_levels_up_and_what_origin) {
  static const char name[] = "request";
  RCTX_SCOPED rctx *cancelled = rctx_derive(fake_root(), &(struct rctx_spec){.name = name});
  rctx_cancel(cancelled);
  check_levels(cancelled, RCTX_ORIGIN_CANCEL, RCTX_ORIGIN_CANCEL, name);
  RCTX_SCOPED rctx *expired = rctx_derive(fake_root(), &(struct rctx_spec){.name = name, .timeout_ns = MS});
  fake_go(3 * MS);
  check_levels(expired, RCTX_ORIGIN_DEADLINE, RCTX_ORIGIN_PARENT_DEADLINE, name);
  RCTX_SCOPED rctx *signalled = rctx_with_cancel(fake_root());
  rctx_cancel_with(signalled, -ECANCELED, RCTX_ORIGIN_SIGNAL, "SIGTERM");
  check_levels(signalled, RCTX_ORIGIN_SIGNAL, RCTX_ORIGIN_SIGNAL, NULL);
}

Test(cause, why_of_contexts_that_were_live_when_the_end_came) {
  RCTX_SCOPED rctx *top = rctx_with_timeout(fake_root(), MS);
  RCTX_SCOPED rctx *middle = rctx_with_cancel(top);
  RCTX_SCOPED rctx *leaf = rctx_with_cancel(middle);
  struct rctx_why live = why_of(leaf);
  cr_assert_eq(live.origin, RCTX_ORIGIN_NONE);
  cr_assert_null(live.cause);
  fake_go(3 * MS);
  cr_assert_eq(why_of(leaf).levels_up, 2);
  cr_assert_eq(why_of(leaf).origin, RCTX_ORIGIN_PARENT_DEADLINE);
  cr_assert_eq(why_of(middle).levels_up, 1);
  cr_assert_eq(why_of(top).levels_up, 0);
}

/* ---- causes made at run time ------------------------------------------------------------------------------------- */

static void count_destroy(const struct rctx_cause *self) { ++*(int *)self->user; }

// On the heap, so that a use after destroy is seen by the sanitizers; the count lives on the caller's stack.
static const struct rctx_cause *made(int *destroyed) {
  struct rctx_cause *cause = malloc(sizeof *cause);
  *cause = (struct rctx_cause){-ECANCELED, RCTX_ORIGIN_USER, "made", NULL, 0, destroyed, NULL};
  return cause;
}

static void free_made(const struct rctx_cause *self) {
  count_destroy(self);
  free((void *)(uintptr_t)self);
}

static const struct rctx_cause *owned(int *destroyed) {
  struct rctx_cause *cause = (struct rctx_cause *)(uintptr_t)made(destroyed);
  cause->destroy = free_made;
  return cause;
}

static void settle(void) { cr_assert_eq(rctx_quiesce(fake.manager, INT64_MAX), 0); }

Test(cause, a_winning_cancel_takes_it_and_destroys_it_once) {
  int destroyed = 0;
  rctx *c = rctx_with_cancel(fake_root());
  const struct rctx_cause *cause = owned(&destroyed);
  cr_assert(rctx_cancel_cause(c, cause));
  cr_assert_eq(rctx_cause(c), cause);
  settle();
  cr_assert_eq(destroyed, 0);
  rctx_end(c);
  settle();
  cr_assert_eq(destroyed, 1);
}

Test(cause, a_cancel_that_lost_has_not_taken_it) {
  int destroyed = 0;
  const struct rctx_cause *cause = owned(&destroyed);
  {
    RCTX_SCOPED rctx *c = rctx_with_cancel(fake_root());
    rctx_cancel(c);
    cr_assert_not(rctx_cancel_cause(c, cause));
    RCTX_SCOPED rctx *detached = rctx_without_cancel(c);
    cr_assert_not(rctx_cancel_cause(detached, cause));
    cr_assert_not(rctx_cancel_cause((rctx *)(uintptr_t)fake_root(), cause));
  }
  settle();
  cr_assert_eq(destroyed, 0, "it is still the caller's");
  cause->destroy(cause);
}

Test(cause, it_lives_as_long_as_any_context_below) {
  int destroyed = 0;
  rctx *parent = rctx_with_cancel(fake_root());
  rctx *child = rctx_with_cancel(parent);
  rctx *value = tag_with(child, 1);
  const struct rctx_cause *cause = owned(&destroyed);
  cr_assert(rctx_cancel_cause(parent, cause));
  rctx_end(parent);
  rctx_end(child);
  settle();
  cr_assert_eq(destroyed, 0);
  cr_assert_eq(rctx_cause(value), cause);
  cr_assert_str_eq(rctx_cause(value)->text, "made");
  const rctx *kept = rctx_ref(value);
  rctx_end(value);
  settle();
  cr_assert_eq(destroyed, 0);
  cr_assert_eq(rctx_cause(kept), cause);
  rctx_unref(kept);
  settle();
  cr_assert_eq(destroyed, 1);
}

Test(cause, a_deadlines_cause_is_destroyed_once_used_or_not) {
  int destroyed[5] = {0};
  rctx *parent = rctx_with_timeout(fake_root(), SECOND);
  rctx *used = rctx_with_timeout_cause(parent, MS, owned(&destroyed[0]));
  rctx *cancelled = rctx_with_timeout_cause(parent, MS, owned(&destroyed[1]));
  rctx *past = rctx_with_timeout_cause(parent, -1, owned(&destroyed[2]));
  rctx *later = rctx_with_timeout_cause(parent, 2 * SECOND, owned(&destroyed[3]));
  cr_assert_eq(destroyed[3], 1, "before return: later than the parent's deadline");
  rctx_cancel(cancelled);
  fake_go(3 * MS);
  cr_assert_eq(rctx_cause(used)->user, &destroyed[0]);
  cr_assert_eq(rctx_cause(past)->user, &destroyed[2]);
  rctx_cancel(parent);
  rctx *below_ended = rctx_with_timeout_cause(parent, SECOND, owned(&destroyed[4]));
  cr_assert_eq(rctx_cause(below_ended), rctx_cause(parent));
  rctx *all[] = {used, cancelled, past, later, below_ended};
  for (int i = 0; i < 5; i++) rctx_end(all[i]);
  rctx_end(parent);
  settle();
  for (int i = 0; i < 5; i++) cr_assert_eq(destroyed[i], 1, "cause %d: %d times", i, destroyed[i]);
}

Test(cause, a_deadlines_cause_and_a_cancels_are_each_destroyed_once) {
  int of_deadline = 0, of_cancel = 0;
  rctx *c = rctx_with_timeout_cause(fake_root(), SECOND, owned(&of_deadline));
  const struct rctx_cause *cancel = owned(&of_cancel);
  cr_assert(rctx_cancel_cause(c, cancel));
  cr_assert_eq(rctx_cause(c), cancel);
  rctx_end(c);
  settle();
  cr_assert_eq(of_deadline, 1);
  cr_assert_eq(of_cancel, 1);
}

Test(cause, a_spec_without_deadline_destroys_its_cause) {
  int destroyed = 0;
  RCTX_SCOPED rctx *c = rctx_derive(fake_root(), &(struct rctx_spec){.deadline_cause = owned(&destroyed)});
  rctx_cancel(c);
  cr_assert_eq(rctx_cause(c)->origin, RCTX_ORIGIN_CANCEL);
  rctx_end(c);
  c = NULL;
  settle();
  cr_assert_eq(destroyed, 1);
}

static void derive_in_destroy(const struct rctx_cause *self) {
  *(rctx **)self->user = rctx_with_timeout(fake_root(), SECOND);
}

Test(cause, destroy_holds_no_lock) {
  rctx *made_inside = NULL;
  struct rctx_cause cause = {-ECANCELED, RCTX_ORIGIN_USER, NULL, NULL, 0, &made_inside, derive_in_destroy};
  rctx *c = rctx_with_cancel(fake_root());
  rctx_cancel_cause(c, &cause);
  rctx_end(c);
  settle();
  cr_assert_not_null(made_inside);
  cr_assert_eq(rctx_err(made_inside), 0);
  rctx_end(made_inside);
}
