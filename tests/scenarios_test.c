// The scenarios S01 to S18: what went wrong in other libraries' cancellation, and must not here: registrations, cancels, lifetimes.
//
// Each is a test, or several, whose name says what has to hold. tests/mutants/ plants the bug of each into the core; ./dev mutants
// shows that its test finds it. Memory is fenced (fence.h), the library's and the registrations': a touch after its end is fatal.
#include "support/fence.h"
#include "support/gate.h"
#include "support/one_manager.h"
#include "support/rounds.h"

#include "core/tree.h"

#include <dlfcn.h>
#include <limits.h>
#include <poll.h>
#include <sys/wait.h>

enum { ROUNDS = 2000 };

static void open_fenced(void) {
  watch();
  fence_watch();
  open_with((struct rctx_manager_options){.allocator = {fence_alloc, fence_free, NULL}, .uncached = true});
}

TestSuite(scenarios, .init = open_fenced, .fini = close_all, .timeout = 240);

// What a round needs.
static struct {
  rctx *top, *middle, *child, *leaf[8];
  struct rctx_after *node, *other_node;
  rctx_loop *loop, *other_loop;
  atomic_int calls, other_calls, stops, destroyed, wins;
  const struct rctx_cause *winner;
  int plain[4]; // written by a callback without any order of its own
} r;

static struct rctx_after *fenced_node(void) { return fence_alloc(NULL, sizeof(struct rctx_after), CACHE_LINE); }
static void free_node(struct rctx_after *node) { fence_free(NULL, node, sizeof *node); }

static void count(const rctx *ctx, void *arg) {
  (void)ctx;
  atomic_fetch_add((atomic_int *)arg, 1);
}

static void count_destroyed(void *unused) {
  (void)unused;
  atomic_fetch_add(&r.destroyed, 1);
}

static const struct rctx_key key = {.name = "scenario"};

static rctx *with_destructor(const rctx *parent) {
  struct rctx_value value = {&key, &r, count_destroyed};
  return rctx_with_values(parent, &value, 1);
}

static void contexts_are(size_t expected) {
  quiesce();
  cr_assert_eq(stats().contexts, expected, "%zu contexts, expected %zu, in round %u", stats().contexts, expected,
               rounds.now);
}

static void are(const char *what, int found, int expected) {
  cr_assert_eq(found, expected, "%s: %d, expected %d, in round %u", what, found, expected, rounds.now);
}

static bool readable(int fd) { return poll(&(struct pollfd){fd, POLLIN, 0}, 1, 0) == 1; }

// ---- S01: no resurrection ------------------------------------------------------------------------------------------

static void destroy_last(void *unused) {
  are("written under a reference", r.plain[2], 1);
  count_destroyed(unused);
}
static void last_reference_set_up(void) {
  memset(&r, 0, sizeof r);
  r.top = rctx_with_cancel(root());
  r.child = rctx_with_values(r.top, &(struct rctx_value){&key, &r, destroy_last}, 1);
  r.node = fenced_node();
  cr_assert_eq(rctx_after_inline(r.child, r.node, RCTX_ON_ENDED_TELL, count, &r.calls), RCTX_REGISTERED);
}
static void last_reference_act(unsigned index) {
  r.plain[index] = 1;
  if (index == 0) rctx_cancel(r.top);
  if (index == 1 && rctx_after_stop(r.node)) atomic_fetch_add(&r.stops, 1);
  if (index == 2) rctx_drop(r.child);
}
static void last_reference_check(void) {
  are("called or stopped", r.calls + r.stops, 1);
  contexts_are(1);
  are("destroyed", r.destroyed, 1);
  free_node(r.node);
  rctx_end(r.top);
}

Test(scenarios, S01_a_listener_whose_last_reference_goes_during_the_cancel_is_not_revived) {
  rounds_run((struct rounds_plan){3, last_reference_set_up, last_reference_act, last_reference_check}, ROUNDS);
}

// ---- S02: register during a cancel ---------------------------------------------------------------------------------

static atomic_int told;

static void register_set_up(void) {
  memset(&r, 0, sizeof r);
  atomic_store(&told, 0);
  r.top = rctx_with_cancel(root());
  r.child = rctx_with_cancel(r.top);
  r.node = fenced_node();
  r.other_node = fenced_node();
}
static void register_act(unsigned index) {
  if (index == 0) rctx_cancel(r.top);
  if (index == 1) rctx_after_inline(r.child, r.node, RCTX_ON_ENDED_RUN, count, &r.calls);
  if (index == 2 && rctx_after_inline(r.top, r.other_node, RCTX_ON_ENDED_TELL, count, &r.other_calls) == RCTX_ENDED)
    atomic_fetch_add(&told, 1);
}
static void register_check(void) {
  are("calls", r.calls, 1);
  are("called or told", r.other_calls + told, 1);
  cr_assert_not(rctx_after_stop_sync(r.node));
  cr_assert_not(rctx_after_stop_sync(r.other_node));
  free_node(r.node);
  free_node(r.other_node);
  rctx_end(r.child);
  rctx_end(r.top);
  contexts_are(0);
}

Test(scenarios, S02_a_callback_registered_during_the_cancel_runs_exactly_once) {
  rounds_run((struct rounds_plan){3, register_set_up, register_act, register_check}, ROUNDS);
}

// ---- S03: the callback drops the last reference of a context that had ended ----------------------------------------

static void end_it_and_look(const rctx *ctx, void *arg) {
  void *value;
  rctx *owned = arg;
  rctx_end(owned); // the last handle; what we are handed is good until we return
  cr_assert_eq(rctx_err(ctx), -ECANCELED);
  cr_assert(rctx_get(ctx, &key, &value) && value == &r);
  cr_assert_eq(r.destroyed, 0);
  atomic_fetch_add(&r.calls, 1);
}

static rctx *ended_with_value(void) {
  rctx *ctx = with_destructor(root());
  rctx_cancel(ctx);
  return ctx;
}

Test(scenarios, S03_a_callback_at_registration_may_drop_the_last_reference) {
  static const enum rctx_on_ended ways[] = {RCTX_ON_ENDED_RUN, RCTX_ON_ENDED_QUEUE};
  for (int i = 0; i < 2; i++) {
    memset(&r, 0, sizeof r);
    r.node = fenced_node();
    r.child = ended_with_value();
    cr_assert_eq(rctx_after_inline(r.child, r.node, ways[i], end_it_and_look, r.child), RCTX_ENDED);
    are("calls", r.calls, 1);
    are("destroyed", r.destroyed, 1);
    free_node(r.node);
    contexts_are(0);
  }
}

Test(scenarios, S03_a_callback_on_a_loop_may_drop_the_last_reference) {
  rctx_loop *loop;
  cr_assert_eq(rctx_loop_create(&loop), 0);
  r.node = fenced_node();
  r.child = ended_with_value();
  cr_assert_eq(rctx_watch(r.child, r.node, loop, RCTX_ON_ENDED_QUEUE, end_it_and_look, r.child), RCTX_ENDED);
  cr_assert_eq(rctx_loop_drain(loop, 1), 1);
  are("calls", r.calls, 1);
  are("destroyed", r.destroyed, 1);
  free_node(r.node);
  rctx_loop_destroy(loop);
}

// ---- S04: no lock is held ------------------------------------------------------------------------------------------

static void nothing_locked(const char *where) {
  cr_assert_not(atomic_load(&r.top->state) & STATE_LOCKED, "in %s the parent is locked", where);
  rctx *child = rctx_with_cancel(r.top); // and it can be used
  rctx_end(child);
  atomic_fetch_add(&r.calls, 1);
}
static void lock_free_callback(const rctx *ctx, void *arg) {
  cr_assert_not(atomic_load(&rctx__mutable(ctx)->state) & STATE_LOCKED, "in a callback its context is locked");
  nothing_locked(arg);
}
static void lock_free_destructor(void *arg) { nothing_locked(arg); }
static void lock_free_cause(const struct rctx_cause *self) {
  (void)self;
  nothing_locked("a cause's destructor");
}
static void lock_free_submit(struct rctx_executor *self, struct rctx_task *task) {
  (void)self;
  cr_assert_not(atomic_load(&r.child->state) & STATE_LOCKED, "in submit the context is locked");
  nothing_locked("submit");
  rctx_task_run(task);
}

Test(scenarios, S04_callbacks_destructors_and_executors_are_called_without_a_lock) {
  static char callback[] = "a callback", destructor[] = "a value's destructor", task[] = "a task";
  static const struct rctx_cause cause = {-EPIPE, RCTX_ORIGIN_USER, "S04", NULL, 0, NULL, lock_free_cause};
  struct rctx_executor executor = {.submit = lock_free_submit};
  static struct rctx_after nodes[2];
  r.top = rctx_with_cancel(root());
  r.child = rctx_with_values(r.top, &(struct rctx_value){&key, destructor, lock_free_destructor}, 1);
  rctx_after_inline(r.child, &nodes[0], RCTX_ON_ENDED_TELL, lock_free_callback, callback);
  rctx_after_on(r.child, &nodes[1], &executor, RCTX_ON_ENDED_TELL, lock_free_callback, task);
  cr_assert(rctx_cancel_cause(r.child, &cause));
  are("a callback, a submit, a task", r.calls, 3);
  rctx_end(r.child);
  are("and two destructors", r.calls, 5);
  rctx_end(r.top);
}

static void cancel_the_other(const rctx *ctx, void *arg) {
  (void)ctx;
  rctx_cancel((rctx *)arg);
  atomic_fetch_add(&r.calls, 1);
}
static void mutual_set_up(void) {
  memset(&r, 0, sizeof r);
  r.top = rctx_with_cancel(root());
  r.leaf[0] = rctx_with_cancel(r.top);
  r.leaf[1] = rctx_with_cancel(r.top);
  r.node = fenced_node();
  r.other_node = fenced_node();
  rctx_after_inline(r.leaf[0], r.node, RCTX_ON_ENDED_TELL, cancel_the_other, r.leaf[1]);
  rctx_after_inline(r.leaf[1], r.other_node, RCTX_ON_ENDED_TELL, cancel_the_other, r.leaf[0]);
}
static void mutual_act(unsigned index) {
  if (index < 2 && rctx_cancel(r.leaf[index])) atomic_fetch_add(&r.wins, 1);
  if (index == 2) rctx_end(rctx_with_cancel(r.top));
}
static void mutual_check(void) {
  are("calls", r.calls, 2);
  cr_assert(r.wins >= 1);
  rctx_end(r.leaf[0]);
  rctx_end(r.leaf[1]);
  rctx_end(r.top);
  free_node(r.node);
  free_node(r.other_node);
}

Test(scenarios, S04_callbacks_that_cancel_each_others_contexts_do_not_deadlock) {
  rounds_run((struct rounds_plan){3, mutual_set_up, mutual_act, mutual_check}, ROUNDS / 2);
}

// ---- S05: a callback stops itself, and others ----------------------------------------------------------------------

static void stop_itself(const rctx *ctx, void *arg) {
  (void)ctx;
  cr_assert_not(rctx_after_stop(arg));
  cr_assert_not(rctx_after_stop_sync(arg)); // does not wait for itself
  atomic_fetch_add(&r.calls, 1);
}

Test(scenarios, S05_a_callback_may_stop_itself) {
  static struct rctx_after nodes[4];
  rctx_loop *loop;
  hand_init(&hand);
  cr_assert_eq(rctx_loop_create(&loop), 0);
  rctx *ctx = rctx_with_cancel(root());
  rctx_after_inline(ctx, &nodes[0], RCTX_ON_ENDED_TELL, stop_itself, &nodes[0]);
  rctx_watch(ctx, &nodes[1], loop, RCTX_ON_ENDED_TELL, stop_itself, &nodes[1]);
  rctx_after_on(ctx, &nodes[2], &hand.table, RCTX_ON_ENDED_TELL, stop_itself, &nodes[2]);
  rctx_after(ctx, &nodes[3], stop_itself, &nodes[3]);
  rctx_cancel(ctx);
  rctx_loop_drain(loop, 9);
  hand_run(&hand);
  quiesce();
  are("calls", r.calls, 4);
  rctx_end(ctx);
  rctx_loop_destroy(loop);
}

static struct rctx_after victims[2];

static void stop_others(const rctx *ctx, void *arg) {
  (void)ctx;
  (void)arg;
  for (int i = 0; i < 2; i++) atomic_fetch_add(&r.stops, rctx_after_stop_sync(&victims[i]));
}

Test(scenarios, S05_a_callback_may_stop_others_of_its_own_and_of_another_context) {
  struct rctx_after first = {0};
  rctx *ctx = rctx_with_cancel(root()), *other = rctx_with_cancel(ctx);
  rctx_after_inline(ctx, &first, RCTX_ON_ENDED_TELL, stop_others, NULL);
  rctx_after_inline(ctx, &victims[0], RCTX_ON_ENDED_TELL, count, &r.calls);
  rctx_after_inline(other, &victims[1], RCTX_ON_ENDED_TELL, count, &r.calls);
  rctx_cancel(ctx);
  are("stopped", r.stops, 2);
  are("calls", r.calls, 0);
  rctx_end(other);
  rctx_end(ctx);
}

// ---- S06: a stop from another thread waits, and sees ---------------------------------------------------------------

static void write_plainly(const rctx *ctx, void *arg) {
  (void)ctx;
  (void)arg;
  for (int i = 0; i < 4; i++) {
    r.plain[i] = 1;
    sched_yield();
  }
}
static void wait_set_up(void) {
  memset(&r, 0, sizeof r);
  r.child = rctx_with_cancel(root());
  r.node = fenced_node();
  rctx_after_inline(r.child, r.node, RCTX_ON_ENDED_TELL, write_plainly, NULL);
}
static void wait_act(unsigned index) {
  if (index == 0) {
    rctx_cancel(r.child);
  } else {
    bool stopped = rctx_after_stop_sync(r.node);
    int written = r.plain[0] + r.plain[1] + r.plain[2] + r.plain[3];
    free_node(r.node); // the library is done with it
    are("written by a callback", written, stopped ? 0 : 4);
  }
}
static void wait_check(void) { rctx_end(r.child); }

Test(scenarios, S06_a_stop_returns_after_the_callback_and_sees_all_it_did) {
  rounds_run((struct rounds_plan){2, wait_set_up, wait_act, wait_check}, 12 * ROUNDS);
}

static struct {
  pthread_mutex_t mutex;
  struct gate in_callback;
  struct rctx_after node;
  rctx *ctx;
  atomic_bool stopping, stopped;
} held = {.mutex = PTHREAD_MUTEX_INITIALIZER};

static void want_the_mutex(const rctx *ctx, void *arg) {
  (void)ctx;
  (void)arg;
  gate_open(&held.in_callback);
  pthread_mutex_lock(&held.mutex);
  pthread_mutex_unlock(&held.mutex);
}
static void *cancel_held(void *arg) {
  rctx_cancel((rctx *)arg);
  return NULL;
}
static void *stop_held(void *unused) {
  atomic_store(&held.stopping, true);
  cr_assert_not(rctx_after_stop_sync(&held.node));
  atomic_store(&held.stopped, true);
  return unused;
}
static void tell_stopped(void *arg) { atomic_fetch_add((atomic_int *)arg, 1); }

// Whoever holds a lock that the callback wants may stop without waiting, or be told; who waits, waits for the lock.
Test(scenarios, S06_a_caller_with_a_lock_that_the_callback_wants_can_stop_without_waiting) {
  pthread_t canceller, stopper;
  bool quiet;
  gate_init(&held.in_callback);
  held.ctx = rctx_with_cancel(root());
  rctx_after_inline(held.ctx, &held.node, RCTX_ON_ENDED_TELL, want_the_mutex, NULL);
  pthread_mutex_lock(&held.mutex);
  cr_assert_eq(pthread_create(&canceller, NULL, cancel_held, held.ctx), 0);
  gate_pass(&held.in_callback);
  cr_assert_not(rctx_after_stop(&held.node));
  cr_assert_not(rctx_after_stop_notify(&held.node, tell_stopped, &r.stops, &quiet));
  cr_assert_not(quiet);
  cr_assert_eq(pthread_create(&stopper, NULL, stop_held, NULL), 0);
  WAIT_UNTIL(atomic_load(&held.stopping));
  usleep(20000);
  cr_assert_not(atomic_load(&held.stopped), "the callback still runs");
  are("told", r.stops, 0);
  pthread_mutex_unlock(&held.mutex);
  pthread_join(stopper, NULL);
  pthread_join(canceller, NULL);
  are("told", r.stops, 1);
  rctx_end(held.ctx);
}

// ---- S07: run at registration --------------------------------------------------------------------------------------

Test(scenarios, S07_a_callback_that_ran_at_registration_counts_as_run) {
  struct rctx_after node = {0};
  RCTX_SCOPED rctx *ctx = rctx_with_cancel(root());
  rctx_cancel(ctx);
  for (int i = 1; i <= 3; i++) {
    cr_assert_eq(rctx_after_inline(ctx, &node, RCTX_ON_ENDED_RUN, count, &r.calls), RCTX_ENDED, "it is busy");
    are("calls", r.calls, i);
  }
  cr_assert_eq(stats().callbacks, 0);
  cr_assert_not(rctx_after_stop(&node));
  cr_assert_not(rctx_after_stop_sync(&node)); // nothing to wait for
}

// ---- S08: a context ended by its own callback ----------------------------------------------------------------------

static void end_handle(const rctx *ctx, void *arg) {
  (void)ctx;
  rctx_end((rctx *)arg);
  atomic_fetch_add(&r.calls, 1);
}

Test(scenarios, S08_a_cancel_touches_nothing_of_a_context_that_its_callback_ended) {
  struct rctx_after *node = fenced_node();
  rctx *ctx = rctx_with_cancel(root());
  rctx_after_inline(ctx, node, RCTX_ON_ENDED_TELL, end_handle, ctx);
  cr_assert(rctx_cancel(ctx)); // it is gone now
  are("calls", r.calls, 1);
  free_node(node);
  contexts_are(0);
}

Test(scenarios, S08_callbacks_may_end_a_whole_tree_while_it_is_cancelled) {
  static struct rctx_after nodes[3];
  r.top = rctx_with_cancel(root());
  r.middle = rctx_with_cancel(r.top);
  r.child = rctx_with_cancel(r.middle);
  rctx_after_inline(r.top, &nodes[0], RCTX_ON_ENDED_TELL, end_handle, r.top);
  rctx_after_inline(r.middle, &nodes[1], RCTX_ON_ENDED_TELL, end_handle, r.middle);
  rctx_after_inline(r.child, &nodes[2], RCTX_ON_ENDED_TELL, end_handle, r.child);
  cr_assert(rctx_cancel(r.top));
  are("calls", r.calls, 3);
  contexts_are(0);
}

// ---- S09: two stops ------------------------------------------------------------------------------------------------

static void two_stops_set_up(void) {
  memset(&r, 0, sizeof r);
  r.child = rctx_with_cancel(root());
  r.node = fenced_node();
  rctx_after_inline(r.child, r.node, RCTX_ON_ENDED_TELL, count, &r.calls);
}
static void two_stops_act(unsigned index) {
  if (index == 0 && rounds.now % 2) rctx_cancel(r.child);
  if (index == 1 && rctx_after_stop(r.node)) atomic_fetch_add(&r.stops, 1);
  if (index == 2 && rctx_after_stop_sync(r.node)) atomic_fetch_add(&r.stops, 1);
}
static void two_stops_check(void) {
  are("called or stopped", r.calls + r.stops, 1);
  cr_assert_not(rctx_after_stop(r.node));
  cr_assert_not(rctx_after_stop_sync(r.node));
  free_node(r.node);
  rctx_end(r.child);
  contexts_are(0);
}

Test(scenarios, S09_of_two_stops_at_once_one_succeeds) {
  rounds_run((struct rounds_plan){3, two_stops_set_up, two_stops_act, two_stops_check}, 2 * ROUNDS);
}

// ---- S10: removed from above and by its owner ----------------------------------------------------------------------

enum { SIBLINGS = 6 };

static void removal_set_up(void) {
  memset(&r, 0, sizeof r);
  r.top = rctx_with_cancel(root());
  for (int i = 0; i < SIBLINGS; i++) r.leaf[i] = i % 2 ? with_destructor(r.top) : rctx_with_cancel(r.top);
}
static void removal_act(unsigned index) {
  if (index == 0 && rounds.now % 2) rctx_cancel(r.top);
  if (index == 0 && rounds.now % 2 == 0) rctx_end(r.top);
  for (unsigned i = index; index && i <= SIBLINGS; i += 2) rctx_end(r.leaf[i - 1]);
}
static void removal_check(void) {
  if (rounds.now % 2) rctx_end(r.top);
  contexts_are(0);
  are("destroyed", r.destroyed, SIBLINGS / 2);
}

Test(scenarios, S10_children_that_leave_while_the_parent_is_cancelled_go_exactly_once) {
  rounds_run((struct rounds_plan){3, removal_set_up, removal_act, removal_check}, ROUNDS);
}

Test(scenarios, S10_siblings_may_leave_in_any_order) {
  static const int orders[][3] = {{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}};
  for (size_t i = 0; i < sizeof orders / sizeof *orders; i++) {
    rctx *top = rctx_with_cancel(root());
    for (int n = 0; n < 3; n++) r.leaf[n] = with_destructor(top);
    r.destroyed = 0;
    for (int n = 0; n < 3; n++) rctx_end(r.leaf[orders[i][n]]);
    are("destroyed", r.destroyed, 3);
    cr_assert_eq(stats().contexts, 1);
    cr_assert_eq(rctx_err(top), 0);
    rctx_end(top);
  }
}

// ---- S11: a middle that was dropped --------------------------------------------------------------------------------

Test(scenarios, S11_a_cancel_reaches_through_a_dropped_middle_and_leaks_nothing) {
  rctx *top = rctx_with_cancel(root());
  rctx *upper = rctx_with_cancel(top), *lower = with_destructor(upper), *leaf = rctx_with_cancel(lower);
  rctx_drop(upper);
  rctx_drop(lower);
  cr_assert_eq(stats().contexts, 4, "what is below keeps them");
  cr_assert(rctx_cancel(top));
  cr_assert_eq(rctx_err(leaf), -ECANCELED);
  cr_assert_eq(rctx_cause(leaf), rctx_cause(top));
  are("destroyed", r.destroyed, 0);
  rctx_end(leaf);
  are("destroyed", r.destroyed, 1);
  contexts_are(1);
  rctx_end(top);
}

static void middle_set_up(void) {
  memset(&r, 0, sizeof r);
  r.top = rctx_with_cancel(root());
  r.middle = with_destructor(r.top);
  r.child = rctx_with_cancel(r.middle);
}
static void middle_act(unsigned index) {
  if (index == 0) rctx_cancel(r.top);
  if (index == 1) rctx_drop(r.middle);
  if (index == 2 && rounds.now % 2) rctx_end(r.child);
}
static void middle_check(void) {
  if (rounds.now % 2 == 0) {
    are("the leaf's error", rctx_err(r.child), -ECANCELED);
    rctx_end(r.child);
  }
  contexts_are(1);
  are("destroyed", r.destroyed, 1);
  rctx_end(r.top);
}

Test(scenarios, S11_a_middle_that_is_dropped_during_the_cancel_goes_with_its_last_child) {
  rounds_run((struct rounds_plan){3, middle_set_up, middle_act, middle_check}, ROUNDS);
}

// ---- S12: lock order -----------------------------------------------------------------------------------------------

static void order_set_up(void) {
  memset(&r, 0, sizeof r);
  r.top = rctx_with_cancel(root());
  r.middle = rctx_with_cancel(r.top);
  r.child = rctx_with_cancel(r.top);
  for (int i = 0; i < 4; i++) {
    r.leaf[i] = rctx_with_cancel(i < 2 ? r.middle : r.child);
    cr_assert_geq(rctx_fd(r.leaf[i]), 0); // is given up with its word locked
  }
}
static int pass_over(const char *text, size_t size, void *unused) {
  (void)text, (void)size, (void)unused;
  return 0;
}
static void order_act(unsigned index) {
  if (index == 0) { // upwards: from a leaf that leaves to a middle that goes with it
    rctx_drop(r.middle);
    rctx_drop(r.leaf[0]);
    rctx_drop(r.leaf[1]);
  } else if (index == 1) { // and both ways
    rctx_end(r.child);
    rctx_end(r.leaf[2]);
    rctx_end(r.leaf[3]);
  } else if (index == 2) { // downwards, with the locks of the whole way
    char room[4096];
    for (int i = 0; i < 4; i++) cr_assert_eq(rctx_dump(r.top, RCTX_DUMP_TEXT, room, sizeof room, pass_over, NULL), 0);
  } else if (rounds.now % 2) {
    rctx_cancel(r.top);
  }
}
static void order_check(void) {
  contexts_are(1);
  rctx_end(r.top);
}

Test(scenarios, S12_leaving_upwards_and_cancelling_downwards_do_not_deadlock) {
  rounds_run((struct rounds_plan){4, order_set_up, order_act, order_check}, ROUNDS / 2);
}

// ---- S13: one canceller, one cause ---------------------------------------------------------------------------------

static const struct rctx_cause causes[3] = {{-EPIPE, RCTX_ORIGIN_PEER, "a", NULL, 0, NULL, NULL},
                                            {-ESHUTDOWN, RCTX_ORIGIN_SHUTDOWN, "b", NULL, 0, NULL, NULL},
                                            {-ECANCELED, RCTX_ORIGIN_USER, "c", NULL, 0, NULL, NULL}};

static void one_set_up(void) {
  memset(&r, 0, sizeof r);
  r.top = rctx_with_cancel(root());
  r.middle = rctx_with_cancel(r.top);
  r.child = rctx_with_cancel(r.middle);
}
static void one_act(unsigned index) {
  if (!rctx_cancel_cause(r.top, &causes[index])) return;
  r.winner = &causes[index];
  atomic_fetch_add(&r.wins, 1);
}
static void one_check(void) {
  const rctx *all[] = {r.top, r.middle, r.child};
  are("cancellers that did it", r.wins, 1);
  for (int i = 0; i < 3; i++) {
    cr_assert_eq(rctx_cause(all[i]), r.winner, "another cause, %d below, in round %u", i, rounds.now);
    are("error", rctx_err(all[i]), r.winner->code);
  }
  rctx_end(r.child);
  rctx_end(r.middle);
  rctx_end(r.top);
}

Test(scenarios, S13_one_canceller_did_it_and_its_cause_is_that_of_all_below) {
  rounds_run((struct rounds_plan){3, one_set_up, one_act, one_check}, ROUNDS);
}

Test(scenarios, S13_a_cancel_that_comes_second_says_so_and_changes_nothing) {
  RCTX_SCOPED rctx *ctx = rctx_with_cancel(root());
  RCTX_SCOPED rctx *child = rctx_with_cancel(ctx);
  cr_assert(rctx_cancel_cause(ctx, &causes[0]));
  cr_assert_not(rctx_cancel_cause(ctx, &causes[1]));
  cr_assert_not(rctx_cancel_cause(child, &causes[2]));
  cr_assert_eq(rctx_cause(child), &causes[0]);
  cr_assert_eq(rctx_err(child), -EPIPE);
}

// ---- S14: error and cause together, and the whole subtree ----------------------------------------------------------

enum { BELOW = 8 };

static void together_set_up(void) {
  memset(&r, 0, sizeof r);
  r.top = rctx_with_cancel(root());
  for (int i = 0; i < BELOW; i++) r.leaf[i] = rctx_with_cancel(i % 3 ? r.leaf[i - 1] : r.top);
}
static void look_until_ended(const rctx *ctx) {
  for (int err = 0; err == 0; sched_yield()) {
    const struct rctx_cause *before = rctx_cause(ctx);
    err = rctx_err(ctx);
    cr_assert(!before || err, "a cause without an error in round %u", rounds.now);
    const struct rctx_cause *after = rctx_cause(ctx);
    cr_assert(!err || after, "an error without a cause in round %u", rounds.now);
    if (err) are("the cause's code", after->code, err);
    if (err) are("the parent's error", rctx_err(r.top), err);
  }
}
static void together_act(unsigned index) {
  if (index == 2) {
    look_until_ended(r.leaf[BELOW - 1]);
    return;
  }
  rctx_cancel_cause(r.top, &causes[index]);
  for (int i = 0; i < BELOW; i++)
    cr_assert(rctx_err(r.leaf[i]), "%d is live after a cancel returned in round %u", i, rounds.now);
}
static void together_check(void) {
  for (int i = BELOW; i-- > 0;) rctx_end(r.leaf[i]);
  rctx_end(r.top);
}

Test(scenarios, S14_when_a_cancel_returns_all_below_has_ended_with_error_and_cause) {
  rounds_run((struct rounds_plan){3, together_set_up, together_act, together_check}, ROUNDS);
}

static void at_once_set_up(void) {
  memset(&r, 0, sizeof r);
  r.top = rctx_with_cancel(root());
}
static void at_once_act(unsigned index) {
  if (index == 1) {
    look_until_ended(r.top);
    are("written before the cancel", r.plain[0], 1);
  } else {
    r.plain[0] = 1;
    rctx_cancel_cause(r.top, &causes[0]);
  }
}
static void at_once_check(void) { rctx_end(r.top); }

Test(scenarios, S14_nobody_sees_an_error_without_its_cause) {
  rounds_run((struct rounds_plan){2, at_once_set_up, at_once_act, at_once_check}, 2 * ROUNDS);
}

// ---- S15: looking and waiting --------------------------------------------------------------------------------------

static void wakeup_set_up(void) {
  memset(&r, 0, sizeof r);
  r.child = rctx_with_cancel(root());
}
static void wakeup_act(unsigned index) {
  if (index == 0) {
    rctx_cancel(r.child);
  } else if (index == 1) {
    are("what the waiter is told", rctx_wait(r.child, INT64_MAX), -ECANCELED);
  } else if (rounds.now % 2) {
    cr_assert_eq(rctx_poll(r.child, NULL, 0, INT64_MAX), -ECANCELED);
  }
}
static void wakeup_check(void) {
  cr_assert(readable(rctx_fd(r.child)));
  rctx_end(r.child);
}

Test(scenarios, S15_no_wakeup_is_lost_between_the_look_and_the_sleep) {
  rounds_run((struct rounds_plan){3, wakeup_set_up, wakeup_act, wakeup_check}, 3 * ROUNDS);
}

static int look_at_all(const rctx *ctx) {
  struct rctx_why why;
  int64_t deadline_ns;
  void *value;
  cr_assert(rctx_get(ctx, &key, &value));
  cr_assert_null(rctx_name(ctx));
  cr_assert_not(rctx_deadline(ctx, &deadline_ns));
  cr_assert_eq(rctx_why(ctx, &why), rctx_err(ctx));
  cr_assert_eq(rctx_cause(ctx) != NULL, rctx_err(ctx) != 0);
  cr_assert_eq(rctx_remaining(ctx), rctx_err(ctx) ? 0 : INT64_MAX);
  return rctx_err(ctx);
}
static void protect(const rctx *ctx, int how) {
  uintptr_t page = (uintptr_t)ctx & ~(uintptr_t)(FENCE_PAGE - 1);
  cr_assert_eq(mprotect((void *)page, FENCE_PAGE, how), 0); // a node has a page of its own
}

Test(scenarios, S15_a_look_writes_nothing) {
  r.top = with_destructor(root());
  r.child = rctx_with_cancel(r.top);
  for (int i = 0; i < 2; i++) {
    protect(r.top, PROT_READ);
    protect(r.child, PROT_READ);
    cr_assert_eq(look_at_all(r.top), i ? -ECANCELED : 0);
    cr_assert_eq(look_at_all(r.child), i ? -ECANCELED : 0);
    protect(r.top, PROT_READ | PROT_WRITE);
    protect(r.child, PROT_READ | PROT_WRITE);
    rctx_cancel(r.top);
  }
  rctx_end(r.child);
  rctx_end(r.top);
}

// ---- S16: a waiter replaced; ready and cancelled -------------------------------------------------------------------

static void replace_set_up(void) {
  memset(&r, 0, sizeof r);
  cr_assert_eq(rctx_loop_create(&r.loop), 0);
  cr_assert_eq(rctx_loop_create(&r.other_loop), 0);
  r.child = rctx_with_cancel(root());
  r.node = fenced_node();
  rctx_watch(r.child, r.node, r.loop, RCTX_ON_ENDED_QUEUE, count, &r.calls);
}
static void replace_act(unsigned index) {
  if (index == 0) rctx_cancel(r.child);
  if (index == 1 && rctx_after_stop(r.node)) {
    atomic_fetch_add(&r.stops, 1);
    cr_assert_geq(rctx_watch(r.child, r.node, r.other_loop, RCTX_ON_ENDED_QUEUE, count, &r.calls), 0);
  }
}
static void replace_check(void) {
  rctx_loop *now = r.stops ? r.other_loop : r.loop, *before = r.stops ? r.loop : r.other_loop;
  cr_assert(readable(rctx_loop_fd(now)), "nobody was woken in round %u", rounds.now);
  are("run by the one it left", (int)rctx_loop_drain(before, 9), 0);
  are("run by the one it went to", (int)rctx_loop_drain(now, 9), 1);
  are("calls", r.calls, 1);
  rctx_end(r.child);
  free_node(r.node);
  rctx_loop_destroy(r.loop);
  rctx_loop_destroy(r.other_loop);
}

Test(scenarios, S16_a_waiter_that_moves_to_another_loop_is_woken_there) {
  rounds_run((struct rounds_plan){2, replace_set_up, replace_act, replace_check}, ROUNDS / 2);
}

Test(scenarios, S16_when_ready_and_cancelled_both_hold_the_cancel_wins) {
  int ends[2];
  cr_assert_eq(pipe(ends), 0);
  cr_assert_eq(write(ends[1], "x", 1), 1);
  RCTX_SCOPED rctx *ctx = rctx_with_cancel(root());
  struct pollfd ready = {ends[0], POLLIN, 0};
  cr_assert_eq(rctx_poll(ctx, &ready, 1, INT64_MAX), 1);
  rctx_cancel(ctx);
  ready.revents = 0;
  cr_assert_eq(rctx_poll(ctx, &ready, 1, INT64_MAX), -ECANCELED);
  cr_assert_eq(ready.revents, POLLIN, "and nothing is lost");
  cr_assert_eq(rctx_wait(ctx, 0), -ECANCELED, "nor does a time that is up hide it");
  cr_assert_eq(rctx_sleep(ctx, 0), -ECANCELED);
  close(ends[0]);
  close(ends[1]);
}

// What happens at the moment at which a poll goes to sleep.
static void (*_Atomic before_ppoll)(void);
static int ready_ends[2];

int ppoll(struct pollfd *fds, nfds_t nfds, const struct timespec *timeout, const sigset_t *mask) {
  typedef int (*ppoll_fn)(struct pollfd *, nfds_t, const struct timespec *, const sigset_t *);
  ppoll_fn next = (ppoll_fn)(uintptr_t)dlsym(RTLD_NEXT, "ppoll");
  void (*first)(void) = atomic_exchange(&before_ppoll, NULL);
  if (first) first();
  return next(fds, nfds, timeout, mask);
}

static void make_ready_and_cancel(void) {
  cr_assert_eq(write(ready_ends[1], "x", 1), 1);
  rctx_cancel(r.child);
}

Test(scenarios, S16_a_poll_during_which_both_come_true_tells_the_cancel) {
  cr_assert_eq(pipe(ready_ends), 0);
  r.child = rctx_with_cancel(root());
  struct pollfd ready = {ready_ends[0], POLLIN, 0};
  atomic_store(&before_ppoll, make_ready_and_cancel);
  cr_assert_eq(rctx_poll(r.child, &ready, 1, INT64_MAX), -ECANCELED);
  cr_assert_eq(ready.revents, POLLIN, "and nothing is lost");
  rctx_end(r.child);
  close(ready_ends[0]);
  close(ready_ends[1]);
}

// ---- S17: a million deep, a million wide ---------------------------------------------------------------------------

#if CHECK_LEAKS || defined(RCTX_TSAN)
enum { STACK_BYTES = 512 << 10 }; // wider frames; still far below one per level
#else
enum { STACK_BYTES = 64 << 10 };
#endif

static rctx **many;

// A million; sanitizers and valgrind get a few ten thousand.
static int many_count(void) {
#if CHECK_LEAKS || defined(RCTX_TSAN)
  return (int)scaled(200000);
#else
  return (int)scaled(1000000);
#endif
}

static void *deep_body(void *unused) {
  int n = many_count();
  void *value;
  many[0] = with_destructor(rctx_background());
  for (int i = 1; i < n; i++)
    many[i] = i % 1000 ? rctx_with_cancel(many[i - 1]) : rctx_with_value(many[i - 1], &key, &many[i]);
  cr_assert(rctx_get(many[n - 1], &key, &value));
  cr_assert_eq(value, n > 1000 ? (void *)&many[(n - 1) / 1000 * 1000] : (void *)&r);
  rctx_cancel_cause(many[0], &causes[0]);
  cr_assert_eq(rctx_err(many[n - 1]), -EPIPE);
  cr_assert_eq(rctx_cause(many[n - 1]), &causes[0]);
  for (int i = 0; i < n - 1; i++) rctx_drop(many[i]);
  rctx_end(many[n - 1]); // all of them go with the last
  return unused;
}

static void *wide_body(void *unused) {
  int n = many_count();
  many[0] = rctx_with_cancel(rctx_background());
  for (int i = 1; i < n; i++) many[i] = rctx_with_cancel(many[0]);
  for (int i = 1; i < n / 2; i++) rctx_end(many[i]); // half of them leave
  cr_assert_eq(rctx_err(many[n - 1]), 0);
  rctx_cancel_cause(many[0], &causes[1]);
  for (int i = n / 2; i < n; i++) { // no order among siblings is promised: only that all have ended
    cr_assert_eq(rctx_err(many[i]), -ESHUTDOWN);
    rctx_end(many[i]);
  }
  rctx_end(many[0]);
  return unused;
}

static void on_a_small_stack(void *(*body)(void *)) {
  pthread_attr_t attributes;
  pthread_t thread;
  struct rctx_stats now;
  many = calloc((size_t)many_count(), sizeof(rctx *));
  pthread_attr_init(&attributes);
  cr_assert_eq(pthread_attr_setstacksize(&attributes, STACK_BYTES), 0);
  cr_assert_eq(pthread_create(&thread, &attributes, body, NULL), 0);
  pthread_join(thread, NULL);
  pthread_attr_destroy(&attributes);
  free(many);
  rctx_stats(rctx_manager_default(), &now);
  cr_assert_eq(now.contexts, 0);
}

Test(scenarios, S17_a_million_levels_need_no_stack) {
  on_a_small_stack(deep_body);
  are("destroyed", r.destroyed, 1);
}

Test(scenarios, S17_a_million_children_shrink_and_end_without_recursion) { on_a_small_stack(wide_body); }

// ---- S18: no reset -------------------------------------------------------------------------------------------------

Test(scenarios, S18_a_context_that_has_ended_can_not_be_made_live_again) {
  struct rctx_after node = {0};
  rctx *ctx = rctx_derive(root(), &(struct rctx_spec){.movable = true, .timeout_ns = 3600 * SECOND});
  RCTX_SCOPED rctx *idle = rctx_with_idle(root(), 3600 * SECOND);
  rctx_cancel_cause(ctx, &causes[0]);
  rctx_cancel_cause(idle, &causes[0]);
  cr_assert_eq(rctx_move_deadline(ctx, INT64_MAX), -EPIPE);
  cr_assert_eq(rctx_move_deadline(ctx, rctx_now() + 7200 * SECOND), -EPIPE);
  rctx_touch(idle);
  cr_assert_not(rctx_cancel_cause(ctx, &causes[1]));
  RCTX_SCOPED rctx *child = rctx_with_cancel(ctx);
  const rctx *ended[] = {ctx, idle, child};
  for (int i = 0; i < 3; i++) {
    cr_assert_eq(rctx_err(ended[i]), -EPIPE);
    cr_assert_eq(rctx_cause(ended[i]), &causes[0]);
    cr_assert_eq(rctx_after_inline(ended[i], &node, RCTX_ON_ENDED_TELL, count, &r.calls), RCTX_ENDED);
  }
  are("calls", r.calls, 0);
  rctx_end(ctx);
}

static void end_twice(rctx *ctx) {
  rctx *volatile again = ctx; // not to be seen by the compiler
  rctx_end(ctx);
  rctx_end(again);
}

// A child keeps the node: it is the use that is seen, not the memory.
Test(scenarios, S18_a_handle_that_was_ended_can_not_be_used_again) {
  char said[512] = "";
  int out[2], status;
  rctx *ctx = rctx_with_cancel(root()), *child = rctx_with_cancel(ctx);
  cr_assert_eq(pipe(out), 0);
  fflush(NULL);
  pid_t process = fork();
  if (process == 0) {
    signal(SIGABRT, SIG_DFL);
    dup2(out[1], STDERR_FILENO);
    end_twice(ctx);
    _exit(0);
  }
  close(out[1]);
  cr_assert_eq(waitpid(process, &status, 0), process);
  cr_assert_gt(read(out[0], said, sizeof said - 1), 0);
  cr_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT, "a second end went unnoticed: status %x", status);
  cr_assert_not_null(strstr(said, "ctx has been ended before"), "%s", said);
  close(out[0]);
  rctx_end(child);
  rctx_end(ctx);
}
