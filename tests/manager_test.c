// Managers: options, lifetime, driving the clock, two managers in one tree, counts. manager.h, sentence by sentence.
#include "support/check.h"
#include "support/counting.h"
#include "support/fake_time.h"
#include "support/gate.h"
#include "support/hand_executor.h"
#include "support/tasks.h"
#include "support/threads.h"

#include <dirent.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

TestSuite(manager, .init = fake_open, .fini = fake_close, .timeout = 120);

RCTX_KEY(user, const char *)

static int64_t some_clock(void *arg) {
  (void)arg;
  return 1;
}
static void *some_alloc(void *self, size_t size, size_t align) {
  (void)self;
  return aligned_alloc(align < 16 ? 16 : align, (size + align - 1) / align * align);
}
static void some_free(void *self, void *ptr, size_t size) {
  (void)self;
  (void)size;
  free(ptr);
}

static int create(struct rctx_manager_options options) {
  rctx_manager *made = (rctx_manager *)&options;
  int err = rctx_manager_create(&options, &made);
  cr_assert_eq(err != 0, made == (rctx_manager *)&options, "written on success only");
  if (err == 0) cr_assert_eq(rctx_manager_destroy(made), 0);
  return err;
}

Test(manager, options_that_make_no_sense_are_refused) {
  cr_assert_eq(create((struct rctx_manager_options){0}), 0, "all zero is the default manager's");
  cr_assert_eq(create((struct rctx_manager_options){.now = some_clock}), -EINVAL, "a clock nobody drives");
  cr_assert_eq(create((struct rctx_manager_options){.now = some_clock, .drive = RCTX_DRIVE_EMBEDDER}), 0);
  cr_assert_eq(create((struct rctx_manager_options){.allocator = {.alloc = some_alloc}}), -EINVAL);
  cr_assert_eq(create((struct rctx_manager_options){.allocator = {.free = some_free}}), -EINVAL);
  cr_assert_eq(create((struct rctx_manager_options){.allocator = {some_alloc, some_free, NULL}}), 0);
  int64_t wrong[] = {-1, 1, 99999, 1000000001, INT64_MAX, INT64_MIN}, right[] = {100000, 1000000, 1000000000};
  for (int i = 0; i < 6; i++)
    cr_assert_eq(create((struct rctx_manager_options){.tick_ns = wrong[i]}), -EINVAL, "%lld", (long long)wrong[i]);
  for (int i = 0; i < 3; i++)
    cr_assert_eq(create((struct rctx_manager_options){.tick_ns = right[i]}), 0, "%lld", (long long)right[i]);
}

static void never_called(const rctx *ctx, void *arg) {
  (void)ctx;
  (void)arg;
  cr_assert_fail("it was stopped");
}

Test(manager, no_thread_before_the_first_timer) {
  size_t before = tasks_before();
  rctx_manager *made, *standard = rctx_manager_default();
  struct rctx_stats stats;
  cr_assert_eq(rctx_manager_create(&(struct rctx_manager_options){0}, &made), 0);
  rctx_manager *both[] = {standard, made};
  for (int i = 0; i < 2; i++) {
    struct rctx_after node = {0};
    RCTX_SCOPED rctx *c = rctx_with_cancel(rctx_manager_background(both[i]));
    RCTX_SCOPED rctx *v = user_with(c, "ann");
    RCTX_SCOPED rctx *past = rctx_with_timeout(v, -1);
    cr_assert_geq(rctx_fd(c), 0);
    cr_assert_eq(rctx_wait(v, rctx_now() + 1000), 0);
    cr_assert_eq(rctx_err(past), -ETIMEDOUT);
    rctx_after_inline(c, &node, RCTX_ON_ENDED_TELL, never_called, NULL);
    cr_assert(rctx_after_stop(&node));
    rctx_stats(both[i], &stats);
    cr_assert_eq(stats.threads, 0);
    cr_assert(tasks_are(before));
  }
  rctx *timed = rctx_with_timeout(rctx_manager_background(made), 3600 * SECOND);
  rctx_stats(made, &stats);
  cr_assert_eq(stats.threads, 1);
  cr_assert(tasks_are(before + 1));
  rctx_end(timed);
  nothing_left(made);
  cr_assert_eq(rctx_manager_destroy(made), 0);
  cr_assert(tasks_are(before), "destroy joins its threads");
}

Test(manager, an_embedders_timers_start_no_thread) {
  size_t before = tasks_before();
  RCTX_SCOPED rctx *c = rctx_with_timeout(fake_root(), SECOND);
  fake_go(2 * SECOND);
  cr_assert_eq(rctx_err(c), -ETIMEDOUT);
  cr_assert_eq(fake_stats().threads, 0);
  cr_assert(tasks_are(before));
}

// "SigBlk:" of a thread of ours, whose name begins with rctx; 0: there is none.
static uint64_t blocked_signals_of_our_thread(void) {
  uint64_t blocked = 0;
  DIR *dir = opendir("/proc/self/task");
  for (struct dirent *entry; (entry = readdir(dir));) {
    char path[300], line[256];
    bool ours = false;
    snprintf(path, sizeof path, "/proc/self/task/%s/status", entry->d_name);
    FILE *status = entry->d_name[0] == '.' ? NULL : fopen(path, "r");
    while (status && fgets(line, sizeof line, status)) {
      if (strncmp(line, "Name:\trctx", 10) == 0) ours = true;
      if (ours && strncmp(line, "SigBlk:", 7) == 0) blocked = strtoull(line + 7, NULL, 16);
    }
    if (status) fclose(status);
  }
  closedir(dir);
  return blocked;
}

Test(manager, the_timer_thread_is_named_and_blocks_all_signals) {
  cr_assert_eq(blocked_signals_of_our_thread(), 0, "no thread yet");
  RCTX_SCOPED rctx *first = rctx_with_timeout(rctx_background(), 1);
  rctx_wait(first, INT64_MAX); // it has come up
  RCTX_SCOPED rctx *c = rctx_with_timeout(rctx_background(), 2 * MS);
  rctx_wait(c, INT64_MAX);
  const uint64_t can_not_be_blocked = UINT64_C(1) << (SIGKILL - 1) | UINT64_C(1) << (SIGSTOP - 1);
  const uint64_t wanted = 0x7fffffff & ~can_not_be_blocked;
  uint64_t blocked = blocked_signals_of_our_thread();
  for (int i = 0; i < 10000 && (blocked & wanted) != wanted;
       i++) { // valgrind has a mask of its own while a thread runs
    sched_yield();
    blocked = blocked_signals_of_our_thread();
  }
  for (int signal = 1; signal <= 31; signal++)
    if (wanted & UINT64_C(1) << (signal - 1)) cr_assert(blocked & UINT64_C(1) << (signal - 1), "signal %d", signal);
}

/* ---- lifetime ---------------------------------------------------------------------------------------------------- */

Test(manager, destroy_is_refused_while_contexts_exist) {
  rctx *c = rctx_with_cancel(fake_root());
  cr_assert_eq(rctx_manager_destroy(fake.manager), -EBUSY);
  cr_assert_eq(rctx_err(c), 0, "and does nothing");
  const rctx *kept = rctx_ref(c);
  rctx_end(c);
  cr_assert_eq(rctx_manager_destroy(fake.manager), -EBUSY, "a reference counts");
  rctx_unref(kept);
}

Test(manager, the_default_manager_can_not_be_destroyed) {
  cr_assert_eq(rctx_manager_destroy(rctx_manager_default()), -EINVAL);
  RCTX_SCOPED rctx *c = rctx_with_cancel(rctx_background());
  cr_assert_eq(rctx_err(c), 0);
}

struct inside {
  int destroy, quiesce;
};

static void destroy_inside(const rctx *ctx, void *arg) {
  struct inside *in = arg;
  in->destroy = rctx_manager_destroy(rctx_manager_of(ctx));
  in->quiesce = rctx_quiesce(rctx_manager_of(ctx), INT64_MAX);
}

Test(manager, destroy_and_quiesce_inside_a_callback_would_deadlock_and_say_so) {
  for (int how = 0; how < 2; how++) {
    struct inside in = {0};
    struct rctx_after node = {0};
    RCTX_SCOPED rctx *c = rctx_with_cancel(fake_root());
    if (how)
      rctx_after(c, &node, destroy_inside, &in);
    else
      rctx_after_inline(c, &node, RCTX_ON_ENDED_TELL, destroy_inside, &in);
    rctx_cancel(c);
    cr_assert_eq(rctx_quiesce(fake.manager, INT64_MAX), 0); // it has run
    cr_assert_not(rctx_after_stop_sync(&node));
    cr_assert_eq(in.destroy, -EDEADLK);
    cr_assert_eq(in.quiesce, -EDEADLK);
  }
}

Test(manager, contexts_belong_to_their_manager) {
  RCTX_SCOPED rctx *ours = rctx_with_cancel(fake_root());
  RCTX_SCOPED rctx *below = user_with(ours, "ann");
  RCTX_SCOPED rctx *standard = rctx_with_cancel(rctx_todo());
  cr_assert_eq(rctx_manager_of(ours), fake.manager);
  cr_assert_eq(rctx_manager_of(below), fake.manager);
  cr_assert_eq(rctx_manager_of(standard), rctx_manager_default());
}

/* ---- driving: rctx_next, kick, rctx_advance ---------------------------------------------------------------------- */

Test(manager, next_is_never_later_than_the_first_deadline) {
  cr_assert_eq(rctx_next(fake.manager, fake_now()), INT64_MAX, "nothing to wait for");
  RCTX_SCOPED rctx *far = rctx_with_timeout(fake_root(), 100 * SECOND);
  RCTX_SCOPED rctx *near = rctx_with_timeout(fake_root(), SECOND);
  int64_t deadline = fake_now() + SECOND, rounds = 0;
  while (!rctx_err(near)) {
    int64_t next = rctx_next(fake.manager, fake_now());
    cr_assert_gt(next, fake_now(), "a driver that obeys does not spin");
    cr_assert_leq(next, deadline + FAKE_TICK);
    fake_reach(next);
    cr_assert_lt(++rounds, 20);
  }
  cr_assert_geq(fake_now(), deadline);
  cr_assert_eq(rctx_err(far), 0);
  rctx_cancel(far);
  cr_assert_eq(rctx_next(fake.manager, fake_now()), INT64_MAX);
}

static unsigned kicks(void) { return atomic_load(&fake.kicks); }

Test(manager, an_earlier_deadline_kicks_once_until_the_next_next) {
  RCTX_SCOPED rctx *far = rctx_with_timeout(fake_root(), 100 * SECOND);
  rctx_next(fake.manager, fake_now());
  unsigned before = kicks();
  RCTX_SCOPED rctx *farther = rctx_with_timeout(fake_root(), 200 * SECOND);
  RCTX_SCOPED rctx *untimed = rctx_with_cancel(fake_root());
  cr_assert_eq(kicks(), before, "nothing earlier was armed");
  RCTX_SCOPED rctx *earlier = rctx_with_timeout(fake_root(), SECOND);
  cr_assert_eq(kicks(), before + 1);
  RCTX_SCOPED rctx *earlier_still = rctx_with_timeout(fake_root(), SECOND / 2);
  cr_assert_eq(kicks(), before + 1, "once: the driver has been told");
  int64_t next = rctx_next(fake.manager, fake_now());
  cr_assert_leq(next, fake_now() + SECOND / 2 + FAKE_TICK);
  RCTX_SCOPED rctx *earliest = rctx_with_timeout(fake_root(), 2 * MS);
  cr_assert_eq(kicks(), before + 2, "armed again by rctx_next()");
  rctx *all[] = {far, farther, untimed, earlier, earlier_still, earliest};
  for (int i = 0; i < 6; i++) cr_assert_eq(rctx_err(all[i]), 0);
}

Test(manager, the_first_deadline_after_never_kicks) {
  unsigned before = kicks();
  cr_assert_eq(rctx_next(fake.manager, fake_now()), INT64_MAX);
  RCTX_SCOPED rctx *c = rctx_with_timeout(fake_root(), SECOND);
  cr_assert_eq(kicks(), before + 1);
  cr_assert_eq(rctx_err(c), 0);
}

Test(manager, advance_handles_at_most_its_budget) {
  rctx *all[10];
  for (int i = 0; i < 10; i++) all[i] = rctx_with_timeout(fake_root(), (1 + i / 4) * MS);
  int64_t late = fake_now() + SECOND;
  fake_set(late);
  cr_assert_eq(rctx_advance(fake.manager, late, 4), 4);
  int ended = 0;
  for (int i = 0; i < 10; i++) ended += rctx_err(all[i]) != 0;
  cr_assert_eq(ended, 4);
  cr_assert_leq(rctx_next(fake.manager, late), late + FAKE_TICK, "there is more");
  cr_assert_eq(rctx_advance(fake.manager, late, 4), 4);
  cr_assert_eq(rctx_advance(fake.manager, late, 4), 2);
  cr_assert_eq(rctx_advance(fake.manager, late, 4), 0);
  for (int i = 0; i < 10; i++) {
    cr_assert_eq(rctx_err(all[i]), -ETIMEDOUT);
    rctx_end(all[i]);
  }
}

Test(manager, budget_zero_is_no_limit_and_subtrees_end_with_their_top) {
  enum { MANY = 5000 };
  static rctx *all[MANY];
  for (int i = 0; i < MANY; i++) all[i] = i % 2 ? rctx_with_cancel(all[i - 1]) : rctx_with_timeout(fake_root(), MS + i);
  cr_assert_eq(fake_go(SECOND), MANY / 2, "deadlines are counted, not descendants");
  for (int i = 0; i < MANY; i++) {
    cr_assert_eq(rctx_err(all[i]), -ETIMEDOUT);
    rctx_end(all[i]);
  }
}

Test(manager, a_clock_that_runs_backwards_does_no_harm) {
  RCTX_SCOPED rctx *a = rctx_with_timeout(fake_root(), SECOND);
  fake_go(SECOND / 2);
  cr_assert_eq(rctx_advance(fake.manager, fake_now() - SECOND / 4, 0), 0, "an earlier now does nothing");
  fake_set(FAKE_START - 10 * SECOND);
  RCTX_SCOPED rctx *b = rctx_with_timeout(fake_root(), SECOND); // due at START - 9 s, which the wheel has passed
  RCTX_SCOPED rctx *c = rctx_with_timeout(fake_root(), 100 * SECOND);
  cr_assert_eq(rctx_err(c), 0);
  fake_reach(FAKE_START - 9 * SECOND + FAKE_TICK);
  cr_assert_eq(rctx_err(a), 0);
  fake_pass(FAKE_START + SECOND);
  cr_assert_eq(rctx_err(a), -ETIMEDOUT);
  cr_assert_eq(rctx_err(b), -ETIMEDOUT);
  cr_assert_eq(rctx_err(c), 0);
  fake_pass(FAKE_START + 90 * SECOND);
  cr_assert_eq(rctx_err(c), -ETIMEDOUT);
}

Test(manager, the_callers_time_is_the_truth) {
  RCTX_SCOPED rctx *c = rctx_with_timeout(fake_root(), 10 * SECOND);
  cr_assert_eq(rctx_advance(fake.manager, fake_now() + 5 * SECOND, 0), 0);
  cr_assert_eq(rctx_err(c), 0);
  cr_assert_eq(rctx_advance(fake.manager, fake_now() + 11 * SECOND, 0), 1, "ahead of the manager's clock");
  cr_assert_eq(rctx_err(c), -ETIMEDOUT);
}

Test(manager, advance_may_help_the_librarys_thread) {
  RCTX_SCOPED rctx *c = rctx_with_timeout(rctx_background(), 3600 * SECOND);
  rctx_advance(rctx_manager_default(), rctx_now() + 7200 * SECOND, 0);
  cr_assert_eq(rctx_err(c), -ETIMEDOUT);
}

/* ---- two managers in one tree ------------------------------------------------------------------------------------ */

static rctx *across(const rctx *parent, rctx_manager *manager, int64_t timeout_ns) {
  return rctx_derive(parent, &(struct rctx_spec){.manager = manager, .timeout_ns = timeout_ns});
}

Test(manager, cancellation_crosses_managers) {
  static const struct rctx_cause because = {-ECANCELED, RCTX_ORIGIN_PEER, "because", NULL, 0, NULL, NULL};
  RCTX_SCOPED rctx *top = user_with(rctx_background(), "ann");
  RCTX_SCOPED rctx *crossed = across(top, fake.manager, 0);
  RCTX_SCOPED rctx *below = rctx_with_timeout(crossed, SECOND);
  const char *who;
  cr_assert_eq(rctx_manager_of(crossed), fake.manager);
  cr_assert_eq(rctx_manager_of(below), fake.manager);
  cr_assert_eq(rctx_now_of(below), fake_now());
  cr_assert(user_get(below, &who), "values, too");
  cr_assert_eq(fake_stats().timers, 1);
  rctx_cancel_cause(top, &because);
  cr_assert_eq(rctx_err(below), -ECANCELED);
  cr_assert_eq(rctx_cause(below), &because);
  cr_assert_eq(fake_stats().timers, 0);
}

Test(manager, a_deadline_on_another_clock_is_not_inherited_but_its_expiry_is) {
  RCTX_SCOPED rctx *parent = rctx_with_timeout(fake_root(), SECOND);
  RCTX_SCOPED rctx *crossed = across(parent, rctx_manager_default(), 0);
  int64_t deadline;
  struct rctx_why why;
  cr_assert_not(rctx_deadline(crossed, &deadline), "a number that means nothing on its clock");
  cr_assert_eq(rctx_remaining(crossed), INT64_MAX);
  fake_go(2 * SECOND);
  cr_assert_eq(rctx_why(crossed, &why), -ETIMEDOUT);
  cr_assert_eq(why.origin, RCTX_ORIGIN_PARENT_DEADLINE);
}

Test(manager, a_deadline_of_its_own_counts_on_its_own_clock) {
  RCTX_SCOPED rctx *parent = rctx_with_timeout(rctx_background(), 3600 * SECOND);
  RCTX_SCOPED rctx *crossed = across(parent, fake.manager, SECOND);
  int64_t deadline;
  cr_assert(rctx_deadline(crossed, &deadline));
  cr_assert_eq(deadline, fake_now() + SECOND);
  fake_go(2 * SECOND);
  cr_assert_eq(rctx_err(crossed), -ETIMEDOUT);
  cr_assert_eq(rctx_err(parent), 0);
}

Test(manager, a_deadline_on_the_same_clock_is_inherited) {
  rctx_manager *second;
  cr_assert_eq(rctx_manager_create(&(struct rctx_manager_options){.drive = RCTX_DRIVE_EMBEDDER}, &second), 0);
  {
    RCTX_SCOPED rctx *parent = rctx_with_timeout(rctx_background(), 3600 * SECOND);
    RCTX_SCOPED rctx *crossed = across(parent, second, 0);
    int64_t of_parent, of_child = 0;
    cr_assert(rctx_deadline(parent, &of_parent));
    cr_assert(rctx_deadline(crossed, &of_child));
    cr_assert_eq(of_child, of_parent);
  }
  nothing_left(second);
  cr_assert_eq(rctx_manager_destroy(second), 0);
}

Test(manager, values_from_another_than_the_parent) {
  const char *who = NULL;
  rctx *source = user_with(fake_root(), "of the source");
  RCTX_SCOPED rctx *parent = user_with(rctx_background(), "of the parent");
  struct rctx_spec spec = {.values_from = source};
  RCTX_SCOPED rctx *c = rctx_derive(parent, &spec);
  RCTX_SCOPED rctx *below = rctx_with_cancel(c);
  cr_assert(user_get(below, &who));
  cr_assert_str_eq(who, "of the source");
  rctx_end(source);
  cr_assert_eq(rctx_err(c), 0, "cancellation is the parent's alone");
  cr_assert_eq(fake_stats().contexts, 1, "the source is kept");
  cr_assert(user_get(below, &who), "and it is retained");
  cr_assert_str_eq(who, "of the source");
  rctx_cancel(parent);
  cr_assert_eq(rctx_err(below), -ECANCELED);
}

Test(manager, values_from_a_root_hides_the_parents) {
  const char *who;
  RCTX_SCOPED rctx *parent = user_with(fake_root(), "ann");
  struct rctx_value values[] = {user_value("own")};
  RCTX_SCOPED rctx *bare = rctx_derive(parent, &(struct rctx_spec){.values_from = fake_root()});
  RCTX_SCOPED rctx *own =
      rctx_derive(parent, &(struct rctx_spec){.values_from = fake_root(), .values = values, .nvalues = 1});
  cr_assert_not(user_get(bare, &who));
  cr_assert(user_get(own, &who));
  cr_assert_str_eq(who, "own");
}

/* ---- counts ------------------------------------------------------------------------------------------------------ */

Test(manager, stats_count_what_is_there) {
  rctx *a = rctx_with_cancel(fake_root());
  rctx *b = rctx_with_timeout(a, SECOND);
  rctx *c = user_with(b, "ann");
  cr_assert_eq(fake_stats().contexts, 3);
  cr_assert_eq(fake_stats().timers, 1);
  cr_assert_eq(fake_stats().callbacks, 0);
  cr_assert_gt(fake_stats().bytes, 0);
  rctx_end(b);
  cr_assert_eq(fake_stats().timers, 0);
  cr_assert_eq(fake_stats().contexts, 3, "with those kept only by children");
  rctx_end(c);
  rctx_end(a);
  cr_assert_eq(rctx_quiesce(fake.manager, INT64_MAX), 0);
  struct rctx_stats stats = fake_stats();
  cr_assert(stats.contexts == 0 && stats.deferred == 0 && stats.callbacks == 0);
}

Test(manager, quiesce_of_a_quiet_manager_returns_at_once) {
  cr_assert_eq(rctx_quiesce(fake.manager, INT64_MAX), 0);
  cr_assert_eq(rctx_quiesce(rctx_manager_default(), INT64_MAX), 0);
  RCTX_SCOPED rctx *live = rctx_with_timeout(fake_root(), SECOND);
  cr_assert_eq(rctx_quiesce(fake.manager, INT64_MAX), 0, "live contexts are nothing to wait for");
  cr_assert_eq(rctx_err(live), 0);
}

static void derive_and_end(unsigned index, void *arg) {
  for (int i = 0; i < 2000; i++) {
    RCTX_SCOPED rctx *parent = rctx_with_cancel(fake_root());
    RCTX_SCOPED rctx *child = index % 2 ? rctx_with_timeout(parent, SECOND) : rctx_with_cancel(arg);
    rctx_cancel(parent);
    rctx_cancel(child);
  }
}

Test(manager, any_thread_may_use_it_and_all_counts_return_to_zero) {
  rctx *shared = rctx_with_cancel(fake_root());
  threads_run(4, derive_and_end, shared);
  rctx_end(shared);
  cr_assert_eq(rctx_quiesce(fake.manager, INT64_MAX), 0);
  struct rctx_stats stats = fake_stats();
  cr_assert(stats.contexts == 0 && stats.timers == 0 && stats.deferred == 0);
}

/* ---- the six operations: on this manager, whatever the parent's -------------------------------------------------- */

Test(manager, create_cancellable_is_of_this_manager_below_any_parent) {
  RCTX_SCOPED rctx *of_default = user_with(rctx_background(), "ann");
  const rctx *parents[] = {rctx_background(), of_default, fake_root(), rctx_todo()};
  for (int i = 0; i < 4; i++) {
    struct rctx_info info;
    RCTX_SCOPED rctx *c = rctx_manager_create_cancellable(fake.manager, parents[i]);
    cr_assert_eq(rctx_manager_of(c), fake.manager);
    cr_assert_eq(rctx_now_of(c), fake_now());
    cr_assert_eq(rctx_err(c), 0);
    rctx_inspect(c, &info);
    cr_assert_eq(info.kind, RCTX_KIND_CANCEL);
    cr_assert_eq(info.parent, parents[i]);
    cr_assert(rctx_cancel(c));
    cr_assert_eq(rctx_err(parents[i]), 0);
  }
  RCTX_SCOPED rctx *below = rctx_manager_create_cancellable(fake.manager, of_default);
  const char *who;
  cr_assert(user_get(below, &who));
  rctx_cancel_with(of_default, -EPIPE, RCTX_ORIGIN_PEER, "gone");
  cr_assert_eq(rctx_err(below), -EPIPE);
  RCTX_SCOPED rctx *born_ended = rctx_manager_create_cancellable(fake.manager, of_default);
  cr_assert_eq(rctx_err(born_ended), -EPIPE);
}

Test(manager, create_timeout_is_by_this_managers_clock) {
  int64_t deadline;
  RCTX_SCOPED rctx *c = rctx_manager_create_timeout(fake.manager, rctx_background(), 5 * SECOND);
  RCTX_SCOPED rctx *zero = rctx_manager_create_timeout(fake.manager, rctx_background(), 0);
  RCTX_SCOPED rctx *negative = rctx_manager_create_timeout(fake.manager, rctx_background(), INT64_MIN);
  RCTX_SCOPED rctx *never = rctx_manager_create_timeout(fake.manager, rctx_background(), INT64_MAX);
  cr_assert_eq(rctx_manager_of(c), fake.manager);
  cr_assert(rctx_deadline(c, &deadline));
  cr_assert_eq(deadline, FAKE_START + 5 * SECOND);
  cr_assert_eq(rctx_err(zero), -ETIMEDOUT, "as rctx_with_timeout()");
  cr_assert_eq(rctx_err(negative), -ETIMEDOUT);
  fake_reach(FAKE_START + 5 * SECOND - 1);
  cr_assert_eq(rctx_err(c), 0);
  fake_pass(FAKE_START + 5 * SECOND);
  cr_assert_eq(rctx_err(c), -ETIMEDOUT);
  cr_assert_eq(rctx_err(never), 0);
  cr_assert_eq(fake_stats().threads, 0);
}

Test(manager, add_value_and_get_value_know_a_stored_null_from_none) {
  static const struct rctx_key one = {.name = "one"}, two = {.name = "two"};
  int number = 5;
  RCTX_SCOPED rctx *parent = rctx_with_value(rctx_background(), &two, &number);
  const rctx *parents[] = {parent, fake_root()};
  for (int i = 0; i < 2; i++) {
    struct rctx_info info;
    void *value = &value;
    RCTX_SCOPED rctx *c = rctx_manager_add_value(fake.manager, parents[i], &one, &number);
    RCTX_SCOPED rctx *null = rctx_manager_add_value(fake.manager, c, &one, NULL);
    cr_assert_eq(rctx_manager_of(c), fake.manager);
    rctx_inspect(c, &info);
    cr_assert_eq(info.kind, RCTX_KIND_VALUE, "as rctx_with_value()");
    cr_assert_eq(rctx_manager_get_value(fake.manager, c, &two, &value), i == 0);
    cr_assert_eq(value, i == 0 ? (void *)&number : (void *)&value, "written on success only");
    cr_assert(rctx_manager_get_value(fake.manager, c, &one, &value));
    cr_assert_eq(value, &number);
    cr_assert(rctx_manager_get_value(fake.manager, null, &one, &value), "a stored NULL is found");
    cr_assert_null(value);
    value = &value;
    cr_assert_not(rctx_manager_get_value(fake.manager, fake_root(), &one, &value));
    cr_assert_eq(value, (void *)&value);
    cr_assert(rctx_manager_get_value(rctx_manager_default(), c, &one, &value), "whatever the manager");
  }
}

static struct hand hand;

static int tell_thread(const rctx *ctx, void *arg) {
  *(pthread_t *)arg = pthread_self();
  return rctx_err(ctx);
}

Test(manager, execute_is_on_this_managers_executor_whatever_the_contexts) {
  rctx_manager *by_hand;
  pthread_t ran_on;
  enum rctx_outcome outcome;
  hand_init(&hand);
  cr_assert_eq(rctx_manager_create(&(struct rctx_manager_options){.executor = &hand.table}, &by_hand), 0);
  hand_thread_start(&hand);
  RCTX_SCOPED rctx *c = rctx_with_cancel(fake_root());
  cr_assert_eq(rctx_manager_execute(by_hand, c, tell_thread, &ran_on, NULL, &outcome), 0);
  cr_assert_eq(outcome, RCTX_FINISHED);
  cr_assert(pthread_equal(ran_on, hand.thread));
  cr_assert_eq(rctx_manager_execute(fake.manager, c, tell_thread, &ran_on, NULL, NULL), 0);
  cr_assert_not(pthread_equal(ran_on, hand.thread));
  cr_assert_eq(fake_stats().threads, 1, "its own pool's");
  rctx_cancel(c);
  cr_assert_eq(rctx_manager_execute(by_hand, c, tell_thread, &ran_on, NULL, &outcome), -ECANCELED);
  cr_assert_eq(outcome, RCTX_NOT_STARTED);
  hand_thread_stop(&hand);
  nothing_left(by_hand);
  cr_assert_eq(rctx_manager_destroy(by_hand), 0);
}

// The task is the executing manager's to count, its context the other's.
struct abroad {
  rctx_manager *manager;
  const rctx *ctx;
  struct gate started, may_end;
  enum rctx_outcome outcome;
};

static int stay_abroad(const rctx *ctx, void *arg) {
  struct abroad *abroad = arg;
  (void)ctx;
  gate_open(&abroad->started);
  gate_pass(&abroad->may_end);
  return 0;
}

static void *execute_abroad(void *arg) {
  struct abroad *abroad = arg;
  rctx_manager_execute(abroad->manager, abroad->ctx, stay_abroad, abroad, NULL, &abroad->outcome);
  return NULL;
}

Test(manager, an_orphan_on_another_managers_executor_keeps_both) {
  struct abroad abroad = {0};
  pthread_t caller;
  struct rctx_stats there;
  gate_init(&abroad.started);
  gate_init(&abroad.may_end);
  cr_assert_eq(rctx_manager_create(&(struct rctx_manager_options){0}, &abroad.manager), 0);
  rctx *c = rctx_with_cancel(fake_root());
  abroad.ctx = c;
  cr_assert_eq(pthread_create(&caller, NULL, execute_abroad, &abroad), 0);
  gate_pass(&abroad.started);
  rctx_end(c);
  pthread_join(caller, NULL);
  cr_assert_eq(abroad.outcome, RCTX_ORPHANED);
  rctx_stats(abroad.manager, &there);
  cr_assert(there.tasks == 1 && there.orphans == 1);
  cr_assert(fake_stats().tasks == 0 && fake_stats().contexts == 1);
  cr_assert_eq(rctx_manager_destroy(fake.manager), -EBUSY, "its context");
  cr_assert_eq(rctx_manager_destroy(abroad.manager), -EBUSY, "its task");
  gate_open(&abroad.may_end);
  nothing_left(abroad.manager);
  cr_assert_eq(rctx_manager_destroy(abroad.manager), 0);
  cr_assert_eq(rctx_quiesce(fake.manager, INT64_MAX), 0);
}

struct timed_wait {
  rctx *ctx;
  atomic_bool over;
};

static void wait_by_this_clock(unsigned index, void *arg) {
  struct timed_wait *shared = arg;
  if (index == 0) {
    cr_assert_eq(rctx_manager_wait_for_completion(fake.manager, shared->ctx, SECOND), 0);
    cr_assert_geq(fake_now(), FAKE_START + SECOND);
    atomic_store(&shared->over, true);
  }
  while (index == 1 && !atomic_load(&shared->over)) { // however late it began
    usleep(300);
    fake_go(SECOND);
  }
}

Test(manager, wait_for_completion_is_by_this_managers_clock) {
  RCTX_SCOPED rctx *c = rctx_with_cancel(rctx_background());
  struct timed_wait shared = {.ctx = c};
  threads_run(2, wait_by_this_clock, &shared); // of the default manager, and yet by the other's clock
  int64_t until = rctx_now() + 2 * MS;
  RCTX_SCOPED rctx *of_fake = rctx_with_cancel(fake_root());
  cr_assert_eq(rctx_manager_wait_for_completion(rctx_manager_default(), of_fake, 2 * MS), 0, "and the other way round");
  cr_assert_geq(rctx_now(), until);
  cr_assert_eq(rctx_manager_wait_for_completion(fake.manager, c, 0), 0);
  cr_assert_eq(rctx_manager_wait_for_completion(fake.manager, c, -1), 0);
  rctx_cancel_with(c, -EPIPE, RCTX_ORIGIN_PEER, "gone");
  cr_assert_eq(rctx_manager_wait_for_completion(fake.manager, c, INT64_MAX), -EPIPE);
  cr_assert_eq(rctx_manager_wait_for_completion(fake.manager, c, -1), -EPIPE);
}

/* ---- limits of memory -------------------------------------------------------------------------------------------- */

static struct rctx_stats counted(void) {
  struct rctx_stats now;
  rctx_stats(counting.manager, &now);
  return now;
}

static void open_with_bytes(size_t bytes_max, bool uncached) {
  struct rctx_manager_options options = {
      .drive = RCTX_DRIVE_EMBEDDER, .allocator = counting_table(), .bytes_max = bytes_max, .uncached = uncached};
  cr_assert_eq(rctx_manager_create(&options, &counting.manager), 0);
}

Test(manager, beyond_bytes_max_memory_has_run_out) {
  enum { MANY = 20000 };
  static rctx *all[MANY];
  for (int uncached = 0; uncached < 2; uncached++) {
    const size_t most = 1 << 18;
    open_with_bytes(most, uncached);
    int made = 0;
    for (int round = 0; round < 3; round++) {
      int now = 0;
      while (now < MANY && rctx_err(all[now] = rctx_with_cancel(counting_root())) == 0) {
        cr_assert_leq(atomic_load(&counting.bytes), most);
        cr_assert_eq(counted().bytes, atomic_load(&counting.bytes));
        now++;
      }
      cr_assert(now > 500 && now < MANY, "%d contexts", now);
      cr_assert_eq(rctx_err(all[now]), -ENOMEM);
      cr_assert_eq(rctx_err(all[0]), 0, "what is there is unharmed");
      if (made) cr_assert_leq(abs(now - made), 200, "%d, then %d: it comes back", made, now);
      made = now;
      for (int i = 0; i <= now; i++) rctx_end(all[i]);
      cr_assert_eq(rctx_quiesce(counting.manager, INT64_MAX), 0);
    }
    counting_close();
  }
}

static int never_run(const rctx *ctx, void *arg) {
  (void)ctx;
  ++*(int *)arg;
  return 0;
}

Test(manager, with_no_memory_at_all_everything_says_so) {
  int ran = 0;
  enum rctx_outcome outcome;
  struct rctx_group group;
  open_with_bytes(1, false);
  RCTX_SCOPED rctx *c = rctx_with_cancel(counting_root());
  RCTX_SCOPED rctx *timed = rctx_manager_create_timeout(counting.manager, rctx_background(), SECOND);
  cr_assert(rctx_err(c) == -ENOMEM && rctx_err(timed) == -ENOMEM);
  cr_assert_eq(rctx_manager_execute(counting.manager, rctx_background(), never_run, &ran, NULL, &outcome), -ENOMEM);
  cr_assert(outcome == RCTX_NOT_STARTED && ran == 0);
  rctx_group_init(&group, counting_root());
  cr_assert_eq(rctx_err(rctx_group_ctx(&group)), -ENOMEM);
  cr_assert_eq(rctx_group_go(&group, never_run, &ran), 0);
  cr_assert_eq(rctx_group_fini(&group), 0);
  cr_assert_eq(ran, 1);
  cr_assert_eq(atomic_load(&counting.bytes), 0);
  counting_close();
}

static atomic_size_t most_taken;

static void note_what_is_taken(void) {
  size_t taken = atomic_load(&counting.bytes), most = atomic_load(&most_taken);
  while (most < taken && !atomic_compare_exchange_weak(&most_taken, &most, taken)) {
  }
}

static void derive_up_to_the_limit(unsigned index, void *arg) {
  static rctx *all[4][1000];
  (void)arg;
  for (int round = 0; round < 5; round++) {
    for (int i = 0; i < 1000; i++) {
      all[index][i] = rctx_with_cancel(counting_root());
      note_what_is_taken();
    }
    for (int i = 0; i < 1000; i++) rctx_end(all[index][i]);
  }
}

Test(manager, bytes_max_holds_with_many_threads) {
  const size_t most = 1 << 18;
  for (int uncached = 0; uncached < 2; uncached++) {
    open_with_bytes(most, uncached);
    threads_run(4, derive_up_to_the_limit, NULL);
    counting_close();
    cr_assert_leq(atomic_load(&most_taken), most, "%zu bytes", atomic_load(&most_taken));
  }
}

static size_t uncounted; // what was not counted any more when it was given back

static void free_and_compare(void *self, void *ptr, size_t size) {
  struct rctx_stats now;
  rctx_stats(counting.manager, &now);
  size_t taken = atomic_load(&counting.bytes);
  if (now.bytes < taken) uncounted = taken - now.bytes;
  counting_free(self, ptr, size);
}

Test(manager, memory_counts_until_it_has_been_given_back) {
  struct rctx_manager_options options = {.drive = RCTX_DRIVE_EMBEDDER, .allocator = counting_table(), .uncached = true};
  options.allocator.free = free_and_compare;
  cr_assert_eq(rctx_manager_create(&options, &counting.manager), 0);
  rctx_end(rctx_with_cancel(counting_root()));
  cr_assert_eq(rctx_quiesce(counting.manager, INT64_MAX), 0);
  cr_assert_eq(uncounted, 0, "%zu bytes are with the allocator's customer and count for nobody", uncounted);
  counting_close();
}

/* ---- several in one process -------------------------------------------------------------------------------------- */

static int add(const rctx *ctx, void *arg) {
  (void)ctx;
  return *(int *)arg + 1;
}

Test(manager, several_live_side_by_side_and_go_in_any_order) {
  enum { MANAGERS = 8 };
  rctx_manager *all[MANAGERS];
  size_t before = tasks_before();
  for (int i = 0; i < MANAGERS; i++) {
    struct rctx_manager_options options = {.threads_max = 1, .tick_ns = i % 2 ? 100000 : 0, .uncached = i % 3 == 0};
    cr_assert_eq(rctx_manager_create(&options, &all[i]), 0);
  }
  for (int i = 0; i < MANAGERS; i++) {
    RCTX_SCOPED rctx *timed = rctx_with_timeout(rctx_manager_background(all[i]), MS);
    RCTX_SCOPED rctx *below = rctx_manager_create_cancellable(all[(i + 1) % MANAGERS], timed);
    RCTX_SCOPED rctx *far = rctx_manager_create_timeout(all[(i + 2) % MANAGERS], below, 3600 * SECOND);
    cr_assert_eq(rctx_execute(rctx_manager_background(all[i]), add, &i, NULL, NULL), i + 1);
    cr_assert_eq(rctx_wait(far, INT64_MAX), -ETIMEDOUT);
    if (i == 3) cr_assert_eq(rctx_manager_destroy(all[i + 1]), -EBUSY);
  }
  const int order[MANAGERS] = {3, 0, 7, 1, 6, 2, 5, 4};
  for (int i = 0; i < MANAGERS; i++) {
    nothing_left(all[order[i]]);
    cr_assert_eq(rctx_manager_destroy(all[order[i]]), 0);
    for (int k = i + 1; k < MANAGERS; k++) {
      RCTX_SCOPED rctx *c = rctx_with_timeout(rctx_manager_background(all[order[k]]), 1);
      cr_assert_eq(rctx_wait(c, INT64_MAX), -ETIMEDOUT, "the others go on");
    }
  }
  cr_assert(tasks_are(before), "no thread is left");
}

static void make_use_and_destroy(unsigned index, void *arg) {
  (void)arg;
  for (int i = 0; i < 30; i++) {
    rctx_manager *mine;
    int number = (int)index;
    cr_assert_eq(rctx_manager_create(&(struct rctx_manager_options){.threads_max = 2}, &mine), 0);
    rctx *c = rctx_with_timeout(rctx_manager_background(mine), i % 2 ? 1 : SECOND);
    int rc = rctx_execute(c, add, &number, NULL, NULL);
    cr_assert(rc == number + 1 || rc == -ETIMEDOUT);
    rctx_end(c);
    if (rc != number + 1) cr_assert_eq(rctx_quiesce(mine, INT64_MAX), 0); // an orphan has &number
    cr_assert_eq(rctx_manager_destroy(mine), 0);
  }
}

Test(manager, made_and_destroyed_by_many_threads_at_once) { threads_run(4, make_use_and_destroy, NULL); }
