// Cancel: propagation, idempotence, linkage, ending, references. Semantics section 2; [CTX-1] [CTX-2] [CTX-3] [CTX-5].
#include "support/check.h"
#include "support/fake_time.h"
#include "support/seed.h"

#include <poll.h>
#include <pthread.h>
#include <stdlib.h>

TestSuite(cancel, .init = fake_open, .fini = fake_close, .timeout = 120);

RCTX_KEY(mark, intptr_t)

static struct rctx_info info_of(const rctx *ctx) {
  struct rctx_info info;
  rctx_inspect(ctx, &info);
  return info;
}

static int origin_of(const rctx *ctx) {
  struct rctx_why why;
  rctx_why(ctx, &why);
  return why.origin;
}

static void count_call(const rctx *ctx, void *arg) {
  cr_assert_neq(rctx_err(ctx), 0);
  ++*(int *)arg;
}

Test(cancel, a_fresh_context_is_live__TestWithCancel) {
  RCTX_SCOPED rctx *c = rctx_with_cancel(rctx_background());
  cr_assert_eq(rctx_err(c), 0);
  cr_assert_null(rctx_cause(c));
  cr_assert_eq(rctx_wait(c, 0), 0);
  int fd = rctx_fd(c);
  cr_assert_geq(fd, 0);
  cr_assert_eq(poll(&(struct pollfd){fd, POLLIN, 0}, 1, 0), 0, "polling done does not fire");
}

Test(cancel, every_descendant_is_done_on_return__CTX_1__TestWithCancel) {
  enum { KINDS = 5, DEPTH = 6 };
  for (int depth = 1; depth <= DEPTH; depth++) {
    rctx *top = rctx_with_cancel(fake_root());
    rctx *nodes[KINDS * DEPTH];
    size_t count = 0;
    for (int kind = 0; kind < KINDS; kind++) {
      const rctx *parent = top;
      for (int d = 0; d < depth; d++) {
        rctx *node = kind == 0   ? rctx_with_cancel(parent)
                     : kind == 1 ? rctx_with_timeout(parent, (100 - d) * SECOND)
                     : kind == 2 ? mark_with(parent, d)
                     : kind == 3
                         ? rctx_derive(parent, &(struct rctx_spec){.name = "n", .timeout_ns = (100 - d) * SECOND})
                     : d % 2 ? mark_with(parent, d)
                             : rctx_with_cancel(parent);
        parent = nodes[count++] = node;
      }
    }
    cr_assert(rctx_cancel(top));
    for (size_t i = 0; i < count; i++) cr_assert_eq(rctx_err(nodes[i]), -ECANCELED, "node %zu of depth %d", i, depth);
    for (size_t i = 0; i < count; i++) {
      cr_assert_eq(rctx_cause(nodes[i]), rctx_cause(top));
      rctx_end(nodes[i]);
    }
    rctx_end(top);
  }
}

Test(cancel, a_cancelled_timeout_is_canceled__TestCanceledTimeout) {
  RCTX_SCOPED rctx *c = rctx_with_timeout(fake_root(), 3600 * SECOND);
  cr_assert(rctx_cancel(c));
  cr_assert_eq(rctx_err(c), -ECANCELED);
  fake_go(7200 * SECOND);
  cr_assert_eq(rctx_err(c), -ECANCELED);
}

Test(cancel, parent_finishes_child__XTestParentFinishesChild) {
  RCTX_SCOPED rctx *parent = rctx_with_cancel(fake_root());
  RCTX_SCOPED rctx *cancel_child = rctx_with_cancel(parent);
  RCTX_SCOPED rctx *value_child = mark_with(parent, 1);
  RCTX_SCOPED rctx *timer_child = rctx_with_timeout(value_child, 1000 * SECOND);
  cr_assert(rctx_cancel(parent));
  rctx *all[] = {parent, cancel_child, value_child, timer_child};
  for (int i = 0; i < 4; i++) {
    cr_assert_eq(rctx_err(all[i]), -ECANCELED);
    cr_assert_eq(rctx_wait(all[i], 0), -ECANCELED);
    cr_assert_eq(origin_of(all[i]), RCTX_ORIGIN_CANCEL);
  }
}

Test(cancel, values_are_looked_through_and_registrations_count__XTestParentFinishesChild) {
  RCTX_SCOPED rctx *parent = rctx_with_cancel(fake_root());
  RCTX_SCOPED rctx *cancel_child = rctx_with_cancel(parent);
  RCTX_SCOPED rctx *value_child = mark_with(parent, 1);
  RCTX_SCOPED rctx *timer_child = rctx_with_timeout(value_child, 1000 * SECOND);
  struct rctx_after node = {0};
  int calls = 0;
  cr_assert_eq(rctx_after_inline(parent, &node, RCTX_ON_ENDED_TELL, count_call, &calls), RCTX_REGISTERED);
  cr_assert_eq(rctx_err(cancel_child) | rctx_err(timer_child), 0);
  cr_assert_eq(info_of(parent).children, 3, "the cancel child, the timer below the value, the registration");
  cr_assert_eq(info_of(parent).registrations, 1);
  cr_assert_eq(info_of(value_child).parent, parent);
  cr_assert(rctx_after_stop(&node));
}

Test(cancel, a_cancelled_parent_has_dropped_its_links__XTestParentFinishesChild) {
  RCTX_SCOPED rctx *parent = rctx_with_cancel(fake_root());
  RCTX_SCOPED rctx *a = rctx_with_cancel(parent);
  RCTX_SCOPED rctx *b = rctx_with_timeout(parent, SECOND);
  struct rctx_after node = {0};
  int calls = 0;
  cr_assert_eq(rctx_after_inline(parent, &node, RCTX_ON_ENDED_TELL, count_call, &calls), RCTX_REGISTERED);
  cr_assert(rctx_cancel(parent));
  cr_assert_eq(info_of(parent).children, 0);
  cr_assert_eq(info_of(parent).registrations, 0);
  cr_assert_eq(calls, 1);
  cr_assert_eq(rctx_err(a), rctx_err(b));
  cr_assert_eq(fake_stats().timers, 0);
}

Test(cancel, a_value_below_a_cancelled_parent_is_done_at_once__XTestParentFinishesChild) {
  RCTX_SCOPED rctx *parent = rctx_with_cancel(fake_root());
  rctx_cancel(parent);
  RCTX_SCOPED rctx *value = mark_with(parent, 7);
  cr_assert_eq(rctx_err(value), -ECANCELED);
  cr_assert_eq(rctx_cause(value), rctx_cause(parent));
  intptr_t seven = 0;
  cr_assert(mark_get(value, &seven));
  cr_assert_eq(seven, 7);
}

Test(cancel, child_finishes_first__XTestChildFinishesFirst) {
  RCTX_SCOPED rctx *cancelable = rctx_with_cancel(fake_root());
  const rctx *parents[] = {fake_root(), rctx_background(), cancelable};
  for (int i = 0; i < 3; i++) {
    RCTX_SCOPED rctx *child = rctx_with_cancel(parents[i]);
    cr_assert_eq(info_of(parents[i]).children, i == 2 ? 1 : 0, "a root links nothing");
    cr_assert(rctx_cancel(child));
    cr_assert_eq(rctx_err(child), -ECANCELED);
    cr_assert_eq(rctx_err(parents[i]), 0);
    cr_assert_eq(info_of(parents[i]).children, 0);
  }
}

Test(cancel, siblings_and_the_parent_stay_live) {
  RCTX_SCOPED rctx *parent = rctx_with_cancel(fake_root());
  RCTX_SCOPED rctx *left = rctx_with_cancel(parent);
  RCTX_SCOPED rctx *below_left = rctx_with_cancel(left);
  RCTX_SCOPED rctx *right = rctx_with_timeout(parent, SECOND);
  rctx_cancel(left);
  cr_assert_eq(rctx_err(below_left), -ECANCELED);
  cr_assert_eq(rctx_err(right), 0);
  cr_assert_eq(rctx_err(parent), 0);
  cr_assert(info_of(right).timer_armed);
}

Test(cancel, cancel_expiry_and_stop_unlink_from_a_live_parent__XTestCancelRemoves) {
  RCTX_SCOPED rctx *parent = rctx_with_cancel(fake_root());
  RCTX_SCOPED rctx *plain = rctx_with_cancel(parent);
  cr_assert_eq(info_of(parent).children, 1);
  rctx_cancel(plain);
  cr_assert_eq(info_of(parent).children, 0);

  RCTX_SCOPED rctx *timed = rctx_with_timeout(parent, SECOND);
  cr_assert_eq(info_of(parent).children, 1);
  rctx_cancel(timed);
  cr_assert_eq(info_of(parent).children, 0);
  cr_assert_eq(fake_stats().timers, 0);

  RCTX_SCOPED rctx *expired = rctx_with_timeout(parent, SECOND);
  fake_go(2 * SECOND);
  cr_assert_eq(rctx_err(expired), -ETIMEDOUT);
  cr_assert_eq(info_of(parent).children, 0);

  struct rctx_after node = {0};
  int calls = 0;
  rctx_after_inline(parent, &node, RCTX_ON_ENDED_TELL, count_call, &calls);
  cr_assert_eq(info_of(parent).children, 1);
  cr_assert(rctx_after_stop(&node));
  cr_assert_eq(info_of(parent).children, 0);

  rctx_end(rctx_with_cancel(parent));
  cr_assert_eq(info_of(parent).children, 0);
}

Test(cancel, a_child_of_a_cancelled_parent_has_its_cause__TestWithCancelCanceledParent) {
  static const struct rctx_cause because = {-ECANCELED, RCTX_ORIGIN_PEER, "because", NULL, 0, NULL, NULL};
  RCTX_SCOPED rctx *parent = rctx_with_cancel(fake_root());
  cr_assert(rctx_cancel_cause(parent, &because));
  RCTX_SCOPED rctx *plain = rctx_with_cancel(parent);
  RCTX_SCOPED rctx *timed = rctx_with_timeout(parent, SECOND);
  RCTX_SCOPED rctx *whole = rctx_derive(parent, &(struct rctx_spec){.timeout_ns = -1, .name = "late"});
  rctx *children[] = {plain, timed, whole};
  for (int i = 0; i < 3; i++) {
    cr_assert_eq(rctx_err(children[i]), -ECANCELED);
    cr_assert_eq(rctx_cause(children[i]), &because);
    cr_assert_not(rctx_cancel(children[i]));
    cr_assert_not(info_of(children[i]).timer_armed);
  }
}

/* ---- threads ----------------------------------------------------------------------------------------------------- */

static void *cancel_shutdown(void *ctx) {
  bool first = rctx_cancel_with(ctx, -ECANCELED, RCTX_ORIGIN_SHUTDOWN, "raced");
  return (void *)(uintptr_t)first;
}

static pthread_t started(void *(*fn)(void *), void *arg) {
  pthread_t thread;
  cr_assert_eq(pthread_create(&thread, NULL, fn, arg), 0);
  return thread;
}

static uintptr_t joined(pthread_t thread) {
  void *result = NULL;
  cr_assert_eq(pthread_join(thread, &result), 0);
  return (uintptr_t)result;
}

Test(cancel, deriving_while_the_parent_is_cancelled__CTX_5__TestWithCancelSimultaneouslyCanceledParent) {
  for (int round = 0; round < 100; round++) {
    RCTX_SCOPED rctx *parent = rctx_with_cancel(fake_root());
    pthread_t canceller = started(cancel_shutdown, parent);
    RCTX_SCOPED rctx *child = rctx_with_cancel(parent);
    int err = rctx_wait(child, INT64_MAX);
    cr_assert_eq(err, -ECANCELED);
    cr_assert_not_null(rctx_cause(child));
    cr_assert_str_eq(rctx_cause(child)->text, "raced");
    cr_assert_eq(joined(canceller), 1);
    cr_assert_eq(rctx_cause(child), rctx_cause(parent));
  }
}

static void shuffle(rctx **nodes, size_t count, struct rng *random) {
  for (size_t i = count; i-- > 1;) {
    size_t j = (size_t)rng_below(random, i + 1);
    rctx *held = nodes[i];
    nodes[i] = nodes[j];
    nodes[j] = held;
  }
}

Test(cancel, simultaneous_cancels_of_a_tree__TestSimultaneousCancels) {
  enum { NODES = 101, FAN_OUT = 4 };
  struct rng random;
  rng_init(&random, seed_get());
  rctx *nodes[NODES], *order[NODES];
  pthread_t threads[NODES];
  nodes[0] = rctx_with_cancel(fake_root());
  for (int i = 1; i < NODES; i++) nodes[i] = rctx_with_cancel(nodes[(i - 1) / FAN_OUT]);
  for (int i = 0; i < NODES; i++) order[i] = nodes[i];
  shuffle(order, NODES, &random);
  for (int i = 0; i < NODES; i++) threads[i] = started(cancel_shutdown, order[i]);
  for (int i = 0; i < NODES; i++) cr_assert_eq(rctx_wait(nodes[i], INT64_MAX), -ECANCELED);
  size_t firsts = 0;
  for (int i = 0; i < NODES; i++) firsts += joined(threads[i]);
  cr_assert_geq(firsts, 1);
  for (int i = 0; i < NODES; i++) {
    cr_assert_eq(info_of(nodes[i]).children, 0);
    rctx_end(nodes[i]);
  }
}

struct interlocked {
  rctx *parent, *child;
};

static void *cancel_child_on_parents_end(void *arg) {
  struct interlocked *pair = arg;
  int err = rctx_wait(pair->parent, INT64_MAX);
  rctx_cancel(pair->child);
  return (void *)(uintptr_t)(err == -ECANCELED && rctx_err(pair->child) == -ECANCELED);
}

Test(cancel, a_waiter_cancels_a_child_while_the_parent_propagates__TestInterlockedCancels) {
  for (int round = 0; round < 200; round++) {
    RCTX_SCOPED rctx *parent = rctx_with_cancel(fake_root());
    RCTX_SCOPED rctx *child = rctx_with_cancel(parent);
    struct interlocked pair = {parent, child};
    pthread_t waiter = started(cancel_child_on_parents_end, &pair);
    cr_assert(rctx_cancel(parent));
    cr_assert_eq(rctx_wait(child, INT64_MAX), -ECANCELED);
    cr_assert(joined(waiter));
  }
}

static void *cancel_and_look_below(void *arg) {
  rctx **nodes = arg; // the root of a tree, its last leaf
  bool first = rctx_cancel(nodes[0]);
  cr_assert_eq(rctx_err(nodes[1]), -ECANCELED, "also a cancel that lost returns with the whole subtree marked");
  return (void *)(uintptr_t)first;
}

Test(cancel, exactly_one_is_first_and_all_return_with_all_marked__CTX_1__source) {
  enum { THREADS = 4, DEPTH = 2000 };
  for (int round = 0; round < 20; round++) {
    rctx **chain = malloc(DEPTH * sizeof *chain);
    chain[0] = rctx_with_cancel(fake_root());
    for (int i = 1; i < DEPTH; i++) chain[i] = rctx_with_cancel(chain[i - 1]);
    rctx *ends[] = {chain[0], chain[DEPTH - 1]};
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) threads[i] = started(cancel_and_look_below, ends);
    size_t firsts = 0;
    for (int i = 0; i < THREADS; i++) firsts += joined(threads[i]);
    cr_assert_eq(firsts, 1);
    for (int i = 0; i < DEPTH; i++) rctx_end(chain[i]);
    free(chain);
  }
}

static void *look_from_below(void *arg) {
  struct interlocked *pair = arg;
  while (!rctx_err(pair->child))
    ;
  return (void *)(uintptr_t)(rctx_err(pair->parent) != 0);
}

Test(cancel, who_sees_the_child_done_sees_the_parent_done__CTX_3__source) {
  for (int round = 0; round < 200; round++) {
    RCTX_SCOPED rctx *parent = rctx_with_cancel(fake_root());
    RCTX_SCOPED rctx *sibling = rctx_with_cancel(parent);
    RCTX_SCOPED rctx *child = rctx_with_cancel(parent);
    struct interlocked pair = {parent, child};
    pthread_t looker = started(look_from_below, &pair);
    rctx_cancel(parent);
    cr_assert(joined(looker));
    cr_assert_eq(rctx_err(sibling), -ECANCELED);
  }
}

static void *cancel_a_deep_chain(void *arg) {
  rctx_cancel((rctx *)arg);
  return NULL;
}

Test(cancel, depth_costs_no_stack__CTX_1) {
  enum { DEPTH = 100000 };
  rctx **chain = malloc(DEPTH * sizeof *chain);
  chain[0] = rctx_with_cancel(fake_root());
  for (int i = 1; i < DEPTH; i++) chain[i] = i % 3 ? rctx_with_cancel(chain[i - 1]) : mark_with(chain[i - 1], i);
  pthread_attr_t small;
  pthread_t canceller;
  pthread_attr_init(&small);
  long least = sysconf(_SC_THREAD_STACK_MIN); // 128 KiB on arm64
  cr_assert_eq(pthread_attr_setstacksize(&small, least > 64 * 1024 ? (size_t)least : 64 * 1024), 0);
  cr_assert_eq(pthread_create(&canceller, &small, cancel_a_deep_chain, chain[0]), 0);
  joined(canceller);
  pthread_attr_destroy(&small);
  for (int i = 0; i < DEPTH; i++) cr_assert_eq(rctx_err(chain[i]), -ECANCELED);
  for (int i = 0; i < DEPTH; i++) rctx_end(chain[i]);
  free(chain);
}

/* ---- layers ------------------------------------------------------------------------------------------------------ */

enum { LAYERS = 36 };

struct layers {
  rctx *all[LAYERS];
  rctx *ends_by_hand[LAYERS];
  int count; // of those that can be ended by hand
};

static void random_layers(struct rng *random, struct layers *l, int64_t timeout_ns) {
  const rctx *top = fake_root();
  l->count = 0;
  for (int i = 0; i < LAYERS; i++) {
    uint64_t kind = rng_below(random, 3);
    l->all[i] = kind == 0 ? rctx_with_cancel(top) : kind == 1 ? rctx_with_timeout(top, timeout_ns) : mark_with(top, i);
    if (kind != 2) l->ends_by_hand[l->count++] = l->all[i];
    top = l->all[i];
  }
}

static void values_are_readable(const struct layers *l) {
  for (int i = 0, last = -1; i < LAYERS; i++) {
    intptr_t value = -1;
    if (info_of(l->all[i]).kind == RCTX_KIND_VALUE) last = i;
    cr_assert_eq(mark_get(l->all[i], &value), last >= 0);
    cr_assert_eq(value, last);
  }
}

static void end_layers(struct layers *l) {
  for (int i = 0; i < LAYERS; i++) rctx_end(l->all[i]);
}

Test(cancel, any_layer_ends_the_leaf__TestLayersCancel) {
  struct rng random;
  rng_init(&random, seed_get());
  for (int round = 0; round < 200; round++) {
    struct layers l;
    random_layers(&random, &l, 3600 * SECOND);
    const rctx *leaf = l.all[LAYERS - 1];
    cr_assert_eq(rctx_err(leaf), 0);
    values_are_readable(&l);
    if (l.count) {
      cr_assert(rctx_cancel(l.ends_by_hand[rng_below(&random, (uint64_t)l.count)]), "round %d", round);
      cr_assert_eq(rctx_err(leaf), -ECANCELED, "round %d", round);
      values_are_readable(&l);
    }
    end_layers(&l);
  }
}

Test(cancel, any_timer_ends_the_leaf__TestLayersTimeout) {
  struct rng random;
  rng_init(&random, seed_get());
  for (int round = 0; round < 200; round++) {
    struct layers l;
    random_layers(&random, &l, MS);
    const rctx *leaf = l.all[LAYERS - 1];
    int64_t deadline;
    bool timed = rctx_deadline(leaf, &deadline);
    cr_assert_eq(rctx_err(leaf), 0);
    fake_go(3 * MS);
    cr_assert_eq(rctx_err(leaf), timed ? -ETIMEDOUT : 0, "round %d", round);
    values_are_readable(&l);
    end_layers(&l);
  }
}

/* ---- idempotence, ends and references ---------------------------------------------------------------------------- */

Test(cancel, the_first_end_wins_and_never_changes__CTX_2__source) {
  RCTX_SCOPED rctx *c = rctx_with_timeout(fake_root(), SECOND);
  cr_assert(rctx_cancel_with(c, -ECONNRESET, RCTX_ORIGIN_PEER, "reset"));
  const struct rctx_cause *cause = rctx_cause(c);
  cr_assert_not(rctx_cancel(c), "only the first has effect");
  cr_assert_not(rctx_cancel_cause(c, NULL));
  fake_go(2 * SECOND);
  cr_assert_eq(rctx_err(c), -ECONNRESET);
  cr_assert_eq(rctx_cause(c), cause);
  cr_assert_str_eq(cause->text, "reset");
}

Test(cancel, a_child_that_ended_first_keeps_its_own_end__CTX_2) {
  RCTX_SCOPED rctx *parent = rctx_with_cancel(fake_root());
  RCTX_SCOPED rctx *child = rctx_with_cancel(parent);
  RCTX_SCOPED rctx *grandchild = rctx_with_cancel(child);
  rctx_cancel_with(child, -ENETDOWN, RCTX_ORIGIN_PEER, "first");
  rctx_cancel(parent);
  cr_assert_eq(rctx_err(child), -ENETDOWN);
  cr_assert_eq(rctx_err(grandchild), -ENETDOWN);
  cr_assert_str_eq(rctx_cause(grandchild)->text, "first");
  cr_assert_eq(rctx_err(parent), -ECANCELED);
}

Test(cancel, a_context_can_be_cancelled_below_one_that_has_ended) {
  RCTX_SCOPED rctx *parent = rctx_with_cancel(fake_root());
  RCTX_SCOPED rctx *middle = rctx_with_cancel(parent);
  rctx_cancel(middle);
  RCTX_SCOPED rctx *born_ended = rctx_with_cancel(middle);
  RCTX_SCOPED rctx *below = rctx_with_cancel(born_ended);
  cr_assert_eq(rctx_err(below), -ECANCELED);
  cr_assert_not(rctx_cancel(below));
  cr_assert_eq(rctx_err(parent), 0);
}

Test(cancel, end_ends_what_is_below_and_leaves_it_to_its_owner) {
  rctx *parent = rctx_with_cancel(fake_root());
  rctx *child = rctx_with_timeout(parent, SECOND);
  rctx *value = mark_with(child, 5);
  rctx_end(parent);
  cr_assert_eq(rctx_err(child), -ECANCELED);
  cr_assert_eq(rctx_err(value), -ECANCELED);
  cr_assert_eq(origin_of(value), RCTX_ORIGIN_END, "and it says that its ancestor was ended, not cancelled");
  intptr_t five = 0;
  cr_assert(mark_get(value, &five) && five == 5);
  cr_assert_eq(fake_stats().timers, 0);
  rctx_end(child);
  cr_assert(mark_get(value, &five) && five == 5, "a child's memory does not depend on its parent's handle");
  rctx_end(value);
}

Test(cancel, end_cause_is_what_lives_below_sees) {
  static const struct rctx_cause drained = {-ESHUTDOWN, RCTX_ORIGIN_SHUTDOWN, "drained", NULL, 0, NULL, NULL};
  rctx *parent = rctx_with_cancel(fake_root());
  RCTX_SCOPED rctx *child = rctx_with_cancel(parent);
  rctx_end_cause(parent, &drained);
  cr_assert_eq(rctx_err(child), -ESHUTDOWN);
  cr_assert_eq(rctx_cause(child), &drained);

  rctx *plain = rctx_with_cancel(fake_root());
  RCTX_SCOPED rctx *below = rctx_with_cancel(plain);
  rctx_end_cause(plain, NULL);
  cr_assert_eq(rctx_err(below), -ECANCELED);
  cr_assert_not_null(rctx_cause(below));
}

Test(cancel, end_after_cancel_keeps_the_cancels_cause) {
  rctx *parent = rctx_with_cancel(fake_root());
  RCTX_SCOPED rctx *child = rctx_with_cancel(parent);
  rctx_cancel_with(parent, -ECANCELED, RCTX_ORIGIN_PEER, "hung up");
  rctx_end(parent);
  cr_assert_str_eq(rctx_cause(child)->text, "hung up");
}

Test(cancel, a_reference_keeps_an_ended_context_readable) {
  rctx *c = mark_with(fake_root(), 9);
  const rctx *kept = rctx_ref(c);
  cr_assert_eq(kept, c);
  cr_assert_eq(info_of(c).references, 2);
  rctx_end(c);
  cr_assert_eq(rctx_err(kept), -ECANCELED);
  cr_assert_not_null(rctx_cause(kept));
  intptr_t nine = 0;
  cr_assert(mark_get(kept, &nine) && nine == 9);
  cr_assert_eq(info_of(kept).references, 1);
  cr_assert_eq(fake_stats().contexts, 1);
  rctx_unref(kept);
  cr_assert_eq(rctx_quiesce(fake.manager, INT64_MAX), 0);
  cr_assert_eq(fake_stats().contexts, 0);
}

Test(cancel, unref_of_a_reference_never_cancels) {
  RCTX_SCOPED rctx *c = rctx_with_cancel(fake_root());
  RCTX_SCOPED rctx *child = rctx_with_cancel(c);
  for (int i = 0; i < 10; i++) rctx_ref(c);
  for (int i = 0; i < 10; i++) rctx_unref(c);
  cr_assert_eq(rctx_err(c), 0);
  cr_assert_eq(rctx_err(child), 0);
}

Test(cancel, unref_of_the_handle_lets_what_is_below_live_on) {
  RCTX_SCOPED rctx *grandparent = rctx_with_cancel(fake_root());
  rctx *parent = mark_with(grandparent, 3);
  RCTX_SCOPED rctx *child = rctx_with_cancel(parent);
  rctx_unref(parent);
  cr_assert_eq(rctx_err(child), 0);
  intptr_t three = 0;
  cr_assert(mark_get(child, &three) && three == 3);
  rctx_cancel(grandparent);
  cr_assert_eq(rctx_err(child), -ECANCELED, "it still ends with its ancestors");
}

Test(cancel, what_is_below_a_dropped_timeout_still_ends_at_its_deadline) {
  rctx *parent = rctx_with_timeout(fake_root(), SECOND);
  RCTX_SCOPED rctx *child = rctx_with_cancel(parent);
  rctx_unref(parent);
  int64_t deadline;
  cr_assert(rctx_deadline(child, &deadline));
  fake_reach(deadline - 1);
  cr_assert_eq(rctx_err(child), 0);
  fake_pass(deadline);
  cr_assert_eq(rctx_err(child), -ETIMEDOUT);
  cr_assert_eq(origin_of(child), RCTX_ORIGIN_PARENT_DEADLINE);
}

Test(cancel, a_dropped_timeout_without_children_leaves_no_timer) {
  rctx *alone = rctx_with_timeout(fake_root(), SECOND);
  rctx_unref(alone);
  cr_assert_eq(rctx_quiesce(fake.manager, INT64_MAX), 0);
  cr_assert_eq(fake_stats().timers, 0);
  cr_assert_eq(fake_stats().contexts, 0);
}

Test(cancel, the_middle_of_a_chain_may_be_dropped_in_any_order) {
  RCTX_SCOPED rctx *top = rctx_with_cancel(fake_root());
  rctx *a = rctx_with_cancel(top), *b = rctx_with_cancel(a), *c = rctx_with_cancel(b), *d = rctx_with_cancel(c);
  rctx_unref(b);
  rctx_unref(a);
  rctx_unref(c);
  cr_assert_eq(info_of(top).children, 1, "links of contexts that only their children keep");
  rctx_cancel(top);
  cr_assert_eq(rctx_err(d), -ECANCELED);
  rctx_end(d);
  cr_assert_eq(rctx_quiesce(fake.manager, INT64_MAX), 0);
  cr_assert_eq(fake_stats().contexts, 1);
}

Test(cancel, scoped_handles_end_with_their_scope) {
  const rctx *kept;
  {
    RCTX_SCOPED rctx *c = rctx_with_cancel(fake_root());
    kept = rctx_ref(c);
    cr_assert_eq(rctx_err(kept), 0);
  }
  cr_assert_eq(rctx_err(kept), -ECANCELED);
  cr_assert_eq(origin_of(kept), RCTX_ORIGIN_END);
  {
    RCTX_SCOPED_REF const rctx *last = kept;
    RCTX_SCOPED rctx *none = NULL;
    RCTX_SCOPED_REF const rctx *no_reference = NULL;
    cr_assert(last && !none && !no_reference);
  }
  cr_assert_eq(rctx_quiesce(fake.manager, INT64_MAX), 0);
  cr_assert_eq(fake_stats().contexts, 0);
}

Test(cancel, an_empty_spec_is_a_plain_child) {
  RCTX_SCOPED rctx *parent = rctx_with_cancel(fake_root());
  RCTX_SCOPED rctx *c = rctx_derive(parent, &(struct rctx_spec){0});
  int64_t deadline;
  cr_assert_eq(info_of(c).kind, RCTX_KIND_CANCEL);
  cr_assert_not(rctx_deadline(c, &deadline));
  cr_assert_null(rctx_name(c));
  rctx_cancel(parent);
  cr_assert_eq(rctx_err(c), -ECANCELED);
}

Test(cancel, a_whole_request_context_is_one_derive) {
  static const struct rctx_cause slow = {-ETIMEDOUT, RCTX_ORIGIN_DEADLINE, "too slow", NULL, 0, NULL, NULL};
  struct rctx_value values[] = {mark_value(11)};
  struct rctx_spec spec = {
      .timeout_ns = SECOND, .deadline_cause = &slow, .values = values, .nvalues = 1, .name = "GET /"};
  RCTX_SCOPED rctx *c = rctx_derive(fake_root(), &spec);
  cr_assert_eq(fake_stats().contexts, 1, "one node");
  intptr_t eleven = 0;
  int64_t deadline = 0;
  cr_assert(mark_get(c, &eleven) && eleven == 11);
  cr_assert(rctx_deadline(c, &deadline) && deadline == fake_now() + SECOND);
  cr_assert_str_eq(rctx_name(c), "GET /");
  fake_pass(deadline);
  cr_assert_eq(rctx_err(c), -ETIMEDOUT);
  cr_assert_eq(rctx_cause(c), &slow);
}
