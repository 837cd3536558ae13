// Bugs that the core once had, each kept out by a test named for what used to go wrong.
//
// Those that need an interleaving are played in many short rounds, lined up by barriers, with the core yielding at its atomics;
// memory is unmapped as soon as it is free where a stale read was the bug, so that it is fatal in every build. RCTX_SEED repeats
// the yields as far as the scheduler lets it; RCTX_RACE_ROUNDS multiplies the rounds (in percent).
#include "support/check.h"
#include "support/children.h"
#include "support/leftovers.h"
#include "support/seed.h"
#include "support/threads.h"
#include "support/watchdog.h"

#include "core/platform.h"

#include <poll.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/wait.h>

#define MS INT64_C(1000000)
#define SECOND INT64_C(1000000000)

enum { CHAOS_ONE_IN = 2, SPINS = 300, WATCHDOG_S = 60 };

#if defined(__SANITIZE_THREAD__) || CHECK_LEAKS
enum { SLOWER = 3 };
#else
enum { SLOWER = 1 };
#endif

// The threads of a test, its manager, and what most tests share.
struct regression {
  struct threads threads;
  unsigned rounds;
  unsigned round;
  rctx_manager *manager;
  rctx *parent, *child;
  struct rctx_after node;
  rctx_loop *loop;
  atomic_bool running, hold, done;
  atomic_int calls, wrong;
};

static struct regression test;

static void regression_open(void) {
  struct rctx_manager_options options = {.drive = RCTX_DRIVE_EMBEDDER};
  watchdog(WATCHDOG_S);
  atomic_store(&rctx__chaos_seed, seed_get());
  if (rctx_manager_create(&options, &test.manager) != 0) abort();
  atomic_store(&rctx__chaos_mask, CHAOS_ONE_IN);
}

static void regression_close(void) {
  atomic_store(&rctx__chaos_mask, 0);
  nothing_left(test.manager);
  int destroyed = rctx_manager_destroy(test.manager);
  if (destroyed == 0) return;
  fprintf(stderr, "the manager can not be destroyed: %d\n", destroyed);
  abort();
}

TestSuite(regression, .init = regression_open, .fini = regression_close, .timeout = 120);

static unsigned rounds_of(unsigned rounds) {
  const char *percent = getenv("RCTX_RACE_ROUNDS");
  if (percent && atoi(percent) > 0) rounds = rounds * (unsigned)atoi(percent) / 100;
  return rounds / SLOWER + 1;
}

// set_up and check run on the first of two threads, with the other waiting.
struct plan {
  void (*set_up)(void);
  void (*act)(unsigned index);
  void (*check)(void);
};

static void plan_body(unsigned index, void *arg) {
  const struct plan *plan = arg;
  for (unsigned round = 0; round < test.rounds; round++) {
    if (index == 0) {
      test.round = round;
      plan->set_up();
    }
    threads_meet(&test.threads);
    plan->act(index);
    threads_meet(&test.threads);
    if (index == 0) plan->check();
  }
}

static void run(struct plan plan, unsigned rounds) {
  test.rounds = rounds_of(rounds);
  threads_start(&test.threads, 2, plan_body, &plan);
  threads_join(&test.threads);
}

static const rctx *root(void) { return rctx_manager_background(test.manager); }

// A different moment of the other thread's work in each round.
static void spin(void) {
  for (volatile unsigned i = 0; i < test.round % SPINS; i++) {
  }
}

static bool readable(int fd) { return poll(&(struct pollfd){fd, POLLIN, 0}, 1, 0) == 1; }

static void count(const rctx *ctx, void *arg) {
  (void)ctx;
  (void)arg;
  atomic_fetch_add(&test.calls, 1);
}

// Announces that it runs, and does until it is let go.
static void linger(const rctx *ctx, void *arg) {
  (void)ctx;
  (void)arg;
  atomic_store(&test.running, true);
  while (atomic_load(&test.hold)) sched_yield();
}

// Returns when node's callback is running, held by test.hold.
static void start_lingering(void) {
  atomic_store(&test.running, false);
  atomic_store(&test.hold, true);
  test.node = (struct rctx_after){0};
  test.parent = rctx_with_cancel(root());
  cr_assert_eq(rctx_after(test.parent, &test.node, linger, NULL), RCTX_REGISTERED);
  rctx_cancel(test.parent);
  while (!atomic_load(&test.running)) sched_yield();
}

// ---- memory that is gone as soon as it is free -----------------------------------------------------------------------

static size_t whole_pages(size_t size) { return (size + 4095) / 4096 * 4096; }

static void *mapping_alloc(void *self, size_t size, size_t align) {
  (void)self;
  if (align > 4096) return NULL;
  void *piece = mmap(NULL, whole_pages(size), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return piece == MAP_FAILED ? NULL : piece;
}

// Gives way when the memory is gone: whoever still looks at it may do so now.
static void mapping_free(void *self, void *piece, size_t size) {
  (void)self;
  munmap(piece, whole_pages(size));
  sched_yield();
}

static rctx_manager *mapping_manager(void) {
  struct rctx_manager_options options = {
      .drive = RCTX_DRIVE_EMBEDDER, .allocator = {mapping_alloc, mapping_free, NULL}, .uncached = true};
  rctx_manager *made;
  cr_assert_eq(rctx_manager_create(&options, &made), 0);
  return made;
}

// ---- memory ----------------------------------------------------------------------------------------------------------

// A child took its values from V; ending it gave V's last reference up while V's timer was armed. The free list's link was
// written over the timer's, and whatever stood behind V in its slot of the wheel was lost. No race.
Test(regression, a_source_of_values_was_freed_with_its_timer_armed) {
  for (int with_fd = 0; with_fd < 2; with_fd++) {
    int64_t deadline = rctx_now() + (1 + with_fd) * 3600 * SECOND; // time moves on with rctx_advance()
    rctx *behind = rctx_with_deadline(root(), deadline);
    rctx *source = rctx_with_deadline(root(), deadline);
    if (with_fd) cr_assert_geq(rctx_fd(source), 0); // the last reference is given up under the lock
    rctx *child = rctx_derive(root(), &(struct rctx_spec){.values_from = source});
    rctx_unref(source);
    rctx_end(child);
    cr_assert_eq(rctx_advance(test.manager, deadline + SECOND, 0), 1);
    cr_assert_eq(rctx_err(behind), -ETIMEDOUT);
    rctx_end(behind);
  }
}

static const struct rctx_key key = {.name = "key"};
static rctx_manager *mapped;

// The sibling takes the slot behind the parent's value, so that the child begins a block of its own after the parent's.
static void values_set_up(void) {
  const struct rctx_value one = {&key, NULL, NULL};
  test.parent = rctx_with_values(rctx_manager_background(mapped), &one, 1);
  rctx *sibling = rctx_with_values(test.parent, &one, 1);
  test.child = rctx_with_values(test.parent, &one, 1);
  rctx_end(sibling);
}

static void values_act(unsigned index) {
  if (index == 0) spin();
  rctx_end(index == 0 ? test.parent : test.child);
}

static void values_check(void) { cr_assert_eq(rctx_quiesce(mapped, INT64_MAX), 0); }

// The child unlinks itself; the parent, now without children, is freed with its block; the child, which frees its own blocks
// now, looked into its parent's to see where its own end.
Test(regression, a_leaving_child_looked_into_the_freed_values_of_its_parent) {
  mapped = mapping_manager();
  run((struct plan){values_set_up, values_act, values_check}, 10000);
  cr_assert_eq(rctx_manager_destroy(mapped), 0);
}

// ---- ending ----------------------------------------------------------------------------------------------------------

static void last_set_up(void) {
  test.parent = rctx_with_cancel(root());
  rctx_ref(test.parent);
}

static void last_act(unsigned index) {
  if (index == 0) {
    spin();
    rctx_end(test.parent);
  } else {
    test.child = rctx_with_cancel(test.parent);
    rctx_unref(test.parent);
  }
}

static void last_check(void) {
  cr_assert_eq(rctx_err(test.child), -ECANCELED, "the child of an ended context is live, round %u", test.round);
  rctx_end(test.child);
}

// End reads the state (no children); the other thread links a child and drops its reference; end finds itself to be the last
// by the count, and took the state of before for the truth: nothing below was marked.
Test(regression, end_missed_a_child_derived_just_before_the_reference_was_dropped) {
  run((struct plan){last_set_up, last_act, last_check}, 40000);
}

// The parent's manager expires first and ends the child on its way down; that took the child for one of another clock, and
// gave it the parent's cause. No race.
Test(regression, an_equal_deadline_on_another_manager_lost_its_own_cause) {
  static const struct rctx_cause own = {-ETIME, RCTX_ORIGIN_DEADLINE, "its own", NULL, 0, NULL, NULL};
  struct rctx_manager_options options = {.drive = RCTX_DRIVE_EMBEDDER};
  rctx_manager *other;
  cr_assert_eq(rctx_manager_create(&options, &other), 0);
  int64_t deadline = rctx_now() + 3600 * SECOND;
  struct rctx_spec spec = {.deadline_ns = deadline, .deadline_cause = &own, .manager = other};
  rctx *parent = rctx_with_deadline(root(), deadline);
  rctx *child = rctx_derive(parent, &spec);
  rctx *below = rctx_with_cancel(child);
  cr_assert_eq(rctx_advance(test.manager, deadline + SECOND, 0), 1);
  cr_assert_eq(rctx_err(parent), -ETIMEDOUT);
  cr_assert_eq(rctx_err(child), -ETIME);
  cr_assert_eq(rctx_cause(child), &own);
  cr_assert_eq(rctx_cause(below), &own);
  cr_assert_eq(rctx_advance(other, deadline + SECOND, 0), 0, "it has ended already");
  rctx_end(below);
  rctx_end(child);
  rctx_end(parent);
  cr_assert_eq(rctx_manager_destroy(other), 0);
}

// ---- callbacks -------------------------------------------------------------------------------------------------------

enum { CHILDREN = 1000 };
static rctx *children[CHILDREN];

static void count_live_children(const rctx *ctx, void *arg) {
  (void)arg;
  cr_assert_neq(rctx_err(ctx), 0);
  for (int i = 0; i < CHILDREN; i++)
    if (rctx_err(children[i]) == 0) atomic_fetch_add(&test.wrong, 1);
}

static void late_set_up(void) {
  test.parent = rctx_with_cancel(root());
  for (int i = 0; i < CHILDREN; i++) children[i] = rctx_with_cancel(test.parent);
}

static void late_act(unsigned index) {
  struct rctx_after node = {0};
  if (index == 0) {
    rctx_cancel(test.parent);
  } else {
    while (rctx_err(test.parent) == 0) sched_yield();
    cr_assert_eq(rctx_after_inline(test.parent, &node, RCTX_ON_ENDED_QUEUE, count_live_children, NULL), RCTX_ENDED);
  }
}

static void late_check(void) {
  int live = atomic_load(&test.wrong);
  cr_assert_eq(live, 0, "the callback found %d of %d descendants live in round %u", live, CHILDREN, test.round);
  for (int i = 0; i < CHILDREN; i++) rctx_end(children[i]);
  rctx_end(test.parent);
}

// The canceller has marked the top and walks what is below; another thread registers, finds the top ended, and ran its callback
// at once, with most of the subtree still live.
Test(regression, registering_during_the_walk_ran_the_callback_before_the_subtree_was_marked) {
  run((struct plan){late_set_up, late_act, late_check}, 150);
}

static atomic_int notices[2];
static bool told_quiet[2];

static void notice(int index, void *arg) {
  if (arg != &notices[index]) atomic_fetch_add(&test.wrong, 1);
  atomic_fetch_add(&notices[index], 1);
}

static void first_notice(void *arg) { notice(0, arg); }
static void second_notice(void *arg) { notice(1, arg); }

static void notify_set_up(void) {
  atomic_store(&notices[0], 0);
  atomic_store(&notices[1], 0);
  start_lingering();
}

static void notify_act(unsigned index) {
  if (index == 0) {
    spin();
    atomic_store(&test.hold, false);
  }
  cr_assert_not(
      rctx_after_stop_notify(&test.node, index ? second_notice : first_notice, &notices[index], &told_quiet[index]));
}

// A notice for one of those who were told to wait; none for who was told not to.
static void notify_check(void) {
  int given = 0;
  cr_assert_eq(rctx_quiesce(test.manager, INT64_MAX), 0);
  for (int i = 0; i < 2; i++) {
    int n = atomic_load(&notices[i]);
    cr_assert(n == 0 || !told_quiet[i], "told that it is quiet, and then a notice, in round %u", test.round);
    given += n;
  }
  cr_assert_leq(given, 1, "%d notices in round %u", given, test.round);
  cr_assert(given == 1 || told_quiet[0] || told_quiet[1], "no notice in round %u", test.round);
  cr_assert_eq(atomic_load(&test.wrong), 0, "a notice with the other's argument in round %u", test.round);
  rctx_end(test.parent);
}

// Both find the callback running and no notice left, and both write theirs. The first publishes; the second overwrites it, finds
// that the callback has returned meanwhile, and says "quiet": then its own notice came, and the first's never.
Test(regression, two_stop_notify_at_once_overwrote_each_others_notice) {
  run((struct plan){notify_set_up, notify_act, notify_check}, 5000);
}

static void quiesce_in_notice(void *arg) {
  int *found = arg;
  found[0] = rctx_quiesce(test.manager, rctx_now() + SECOND / 2);
  found[1] = found[0] == -EDEADLK ? rctx_manager_destroy(test.manager) : 0; // else it would wait for us
  atomic_store(&test.done, true);
}

// The runner has left the callback and calls the quiet function, which did not count as being inside: quiesce waited for its own
// thread. No race: the callback is held until the notice is left.
Test(regression, quiesce_inside_a_quiet_function_waited_for_itself) {
  int found[2] = {0, 0};
  bool quiet = true;
  start_lingering();
  cr_assert_not(rctx_after_stop_notify(&test.node, quiesce_in_notice, found, &quiet));
  cr_assert_not(quiet);
  atomic_store(&test.hold, false);
  while (!atomic_load(&test.done)) sched_yield();
  cr_assert_eq(found[0], -EDEADLK, "quiesce: %d", found[0]);
  cr_assert_eq(found[1], -EDEADLK, "destroy: %d", found[1]);
  rctx_end(test.parent);
}

// ---- quiet managers --------------------------------------------------------------------------------------------------

// The callback thread has taken the entry off the queue's count and not yet put it on the count of those running: quiesce, which
// looked in between, found neither.
Test(regression, quiesce_missed_a_callback_between_queue_and_running) {
  for (unsigned round = rounds_of(6000); round > 0; round--) {
    struct rctx_after node = {0};
    rctx *ctx = rctx_with_cancel(root());
    atomic_store(&test.calls, 0);
    cr_assert_eq(rctx_after(ctx, &node, count, NULL), RCTX_REGISTERED);
    rctx_end(ctx);
    cr_assert_eq(rctx_quiesce(test.manager, INT64_MAX), 0);
    cr_assert_eq(atomic_load(&test.calls), 1, "quiesce came back first with %u rounds to go", round);
    rctx_after_stop_sync(&node);
  }
}

// The timer thread has marked the context and still holds its pin; the owner sees the end, drops the last handle, and destroys:
// the pin was counted as a context that somebody had forgotten, one round in a few.
Test(regression, destroy_was_busy_though_the_owner_had_ended_everything) {
  unsigned rounds = rounds_of(600), busy = 0;
  for (unsigned round = 0; round < rounds; round++) {
    struct rctx_manager_options options = {.tick_ns = MS / 10};
    rctx_manager *manager;
    cr_assert_eq(rctx_manager_create(&options, &manager), 0);
    for (int i = 0; i < 3; i++) { // the first starts the thread
      rctx *ctx = rctx_with_timeout(rctx_manager_background(manager), MS / 10);
      while (rctx_err(ctx) == 0) sched_yield();
      rctx_end(ctx);
    }
    int destroyed = rctx_manager_destroy(manager);
    if (destroyed == 0) continue;
    cr_assert_eq(destroyed, -EBUSY);
    busy++; // destroy waits for pins, but not for ever: on a loaded machine the thread that has one may not run for that long
    cr_assert_eq(rctx_quiesce(manager, INT64_MAX), 0);
    cr_assert_eq(rctx_manager_destroy(manager), 0);
  }
  cr_assert_leq(busy, rounds / 50, "busy in %u of %u rounds", busy, rounds);
}

// ---- event loops -----------------------------------------------------------------------------------------------------

static void loop_set_up(void) {
  test.node = (struct rctx_after){0};
  test.parent = rctx_with_cancel(root());
  cr_assert_eq(rctx_watch(test.parent, &test.node, test.loop, RCTX_ON_ENDED_QUEUE, count, NULL), RCTX_REGISTERED);
}

static void loop_act(unsigned index) {
  if (index == 1) rctx_cancel(test.parent);
  for (int turn = 0; index == 0 && turn < 20; turn++) rctx_loop_drain(test.loop, 100);
}

static void loop_check(void) {
  int turns = 0;
  rctx_loop_drain(test.loop, 100);
  while (turns < 100 && readable(rctx_loop_fd(test.loop))) {
    rctx_loop_drain(test.loop, 100);
    turns++;
  }
  cr_assert_lt(turns, 100, "readable for ever with nothing queued, in round %u", test.round);
  rctx_after_stop_sync(&test.node);
  rctx_end(test.parent);
}

// The canceller has queued its entry and is about to write the eventfd; a drain takes the entry, and only then comes the write.
// No later drain cleared it, since nothing said that it was written: the loop span.
Test(regression, a_signal_overtaken_by_the_drain_left_the_loops_fd_readable_for_ever) {
  cr_assert_eq(rctx_loop_create(&test.loop), 0);
  run((struct plan){loop_set_up, loop_act, loop_check}, 8000);
  rctx_loop_destroy(test.loop);
}

// The kernel's counter of an eventfd, without reading it: how often it was written since it was last cleared.
static long eventfd_count(int fd) {
  char path[64], line[128];
  long value = -1;
  snprintf(path, sizeof path, "/proc/self/fdinfo/%d", fd);
  FILE *info = fopen(path, "re");
  if (!info) return -1;
  while (fgets(line, sizeof line, info))
    if (strncmp(line, "eventfd-count:", 14) == 0) value = strtol(line + 14, NULL, 16);
  fclose(info);
  return value;
}

enum { BURST = 10000, SLICE = 100 };
static struct rctx_after burst[BURST];

// Each slice cleared the eventfd and, with more left, wrote it again: two system calls a slice. No race. An edge-triggered epoll
// set sees each write, also one that leaves the counter as it was.
Test(regression, each_slice_of_a_long_drain_wrote_the_eventfd_again) {
  struct epoll_event event = {.events = EPOLLIN | EPOLLET};
  int edges = epoll_create1(EPOLL_CLOEXEC);
  cr_assert_geq(edges, 0);
  cr_assert_eq(rctx_loop_create(&test.loop), 0);
  cr_assert_eq(epoll_ctl(edges, EPOLL_CTL_ADD, rctx_loop_fd(test.loop), &event), 0);
  rctx *parent = rctx_with_cancel(root());
  for (int i = 0; i < BURST; i++)
    cr_assert_eq(rctx_watch(parent, &burst[i], test.loop, RCTX_ON_ENDED_QUEUE, count, NULL), RCTX_REGISTERED);
  rctx_cancel(parent);
  cr_assert_eq(epoll_wait(edges, &event, 1, 0), 1);
  for (int left = BURST; left > 0; left -= SLICE) {
    cr_assert_eq(eventfd_count(rctx_loop_fd(test.loop)), 1, "with %d left", left);
    cr_assert_eq(rctx_loop_drain(test.loop, SLICE), SLICE);
    cr_assert_eq(epoll_wait(edges, &event, 1, 0), 0, "written again with %d left", left - SLICE);
  }
  cr_assert_eq(atomic_load(&test.calls), BURST);
  cr_assert_not(readable(rctx_loop_fd(test.loop)));
  rctx_end(parent);
  rctx_loop_destroy(test.loop);
  close(edges);
}

// ---- fork ------------------------------------------------------------------------------------------------------------

// A context and a loop that are told of its end by descriptors; no thread is needed for them.
static void make_watched(void) {
  test.node = (struct rctx_after){0};
  test.parent = rctx_with_cancel(root());
  cr_assert_geq(rctx_fd(test.parent), 0);
  cr_assert_eq(rctx_loop_create(&test.loop), 0);
  cr_assert_eq(rctx_watch(test.parent, &test.node, test.loop, RCTX_ON_ENDED_QUEUE, count, NULL), RCTX_REGISTERED);
}

static void drop_watched(void) {
  rctx_end(test.parent);
  rctx_loop_destroy(test.loop);
}

static void end_is_seen_in_the_child(void *unused) {
  (void)unused;
  REQUIRE(readable(rctx_fd(test.parent)));
  REQUIRE(readable(rctx_loop_fd(test.loop)));
  REQUIRE(rctx_loop_drain(test.loop, 10) == 1);
  REQUIRE(atomic_load(&test.calls) == 1);
  REQUIRE(!readable(rctx_loop_fd(test.loop)));
}

static void cancel_first(void *unused) {
  REQUIRE(rctx_cancel(test.parent));
  end_is_seen_in_the_child(unused);
}

static void look_first(void *unused) {
  REQUIRE(!readable(rctx_fd(test.parent)));
  REQUIRE(!readable(rctx_loop_fd(test.loop)));
  cancel_first(unused);
}

// An eventfd is one object in both processes: the child's cancel wrote the parent's, whose context was live and whose loop, with
// nothing to drain, span. No race.
Test(regression, a_forked_child_woke_the_parent_through_their_common_eventfds) {
  make_watched();
  void (*const bodies[])(void *) = {cancel_first, look_first};
  for (unsigned i = 0; i < 2; i++) {
    in_a_child(bodies[i], NULL);
    cr_assert_eq(rctx_err(test.parent), 0);
    cr_assert_not(readable(rctx_fd(test.parent)), "child %u", i);
    cr_assert_not(readable(rctx_loop_fd(test.loop)), "child %u", i);
  }
  cr_assert(rctx_cancel(test.parent));
  cr_assert(readable(rctx_fd(test.parent)));
  cr_assert(readable(rctx_loop_fd(test.loop)));
  cr_assert_eq(rctx_loop_drain(test.loop, 10), 1);
  drop_watched();
}

// What was queued before the fork is queued in both: the child's drain cleared the parent's eventfd, which then slept on its own
// entry. No race.
Test(regression, a_forked_child_took_the_wakeup_of_the_parents_loop) {
  make_watched();
  cr_assert(rctx_cancel(test.parent));
  in_a_child(end_is_seen_in_the_child, NULL);
  cr_assert_eq(atomic_load(&test.calls), 0, "another process");
  cr_assert(readable(rctx_fd(test.parent)));
  cr_assert(readable(rctx_loop_fd(test.loop)));
  cr_assert_eq(rctx_loop_drain(test.loop, 10), 1);
  drop_watched();
}

static void destroy_or_fork(unsigned index, void *unused) {
  (void)unused;
  while (index == 1 && !atomic_load(&test.done)) {
    int status = -1;
    pid_t child = fork();
    if (child == 0) _exit(0);
    cr_assert_eq(waitpid(child, &status, 0), child);
    cr_assert_eq(status, 0, "the child ended with status %x", status);
  }
  for (unsigned round = rounds_of(3000); index == 0 && round > 0; round--) {
    rctx_manager *manager = mapping_manager();
    rctx_end(rctx_with_timeout(rctx_manager_background(manager), SECOND)); // it has timers, and is listed
    cr_assert_eq(rctx_manager_destroy(manager), 0);
  }
  if (index == 0) atomic_store(&test.done, true);
}

// Destroy has freed the shards of the timers and not yet taken the manager off the list; the other thread forks, and the handler
// that runs before took the locks of those shards.
Test(regression, fork_locked_the_freed_shards_of_a_manager_being_destroyed) { threads_run(2, destroy_or_fork, NULL); }

// ---- the last child of a striped parent leaves while the handle is dropped -------------------------------------------
// Who dropped the handle left the rest to the children, but said so only after it had let go of the stripes' locks: a child
// that left in between had not seen it, and nobody freed the parent.

static const struct rctx_key striped_key = {.name = "striped"};

static void count_striped(void *value) {
  (void)value;
  atomic_fetch_add(&test.calls, 1);
}

static void striped_set_up(void) {
  struct rctx_value value = {&striped_key, NULL, count_striped};
  atomic_store(&test.calls, 0);
  atomic_store(&test.running, false);
  test.parent = rctx_with_values(root(), &value, 1);
}

static void striped_act(unsigned index) {
  for (int i = 0; i < 24; i++) rctx_end(rctx_with_cancel(test.parent)); // until its lists are in stripes
  if (index == 0) {
    rctx *child = rctx_with_cancel(test.parent);
    atomic_store(&test.running, true);
    spin();
    rctx_end(child);
  } else {
    while (!atomic_load(&test.running)) sched_yield();
    rctx_drop(test.parent);
  }
}

static void striped_check(void) {
  cr_assert_eq(atomic_load(&test.calls), 1, "the parent is still there in round %u", test.round);
}

Test(regression, a_striped_parent_goes_with_its_last_child_also_when_its_handle_is_dropped_meanwhile) {
  run((struct plan){striped_set_up, striped_act, striped_check}, 6000);
}

// ---- the handle is dropped while somebody refs and unrefs ------------------------------------------------------------
// Who drops the last reference of a parent leaves it to the children. It looked at the count and lowered it in two steps: a
// reference that was there at the first and gone at the second made it free a parent that has a child.

static void passing_set_up(void) {
  striped_set_up();
  test.child = rctx_with_cancel(test.parent);
}

static void passing_act(unsigned index) {
  struct rctx_info info;
  if (index == 0) {
    spin();
    rctx_drop(test.parent);
    return;
  }
  for (int i = 0; i < 8; i++) {
    rctx_inspect(test.child, &info); // its parent is there as long as the child is
    rctx_unref(rctx_ref(info.parent));
  }
}

static void passing_check(void) {
  cr_assert_eq(atomic_load(&test.calls), 0, "the parent of a live child is gone in round %u", test.round);
  rctx_end(test.child);
  cr_assert_eq(atomic_load(&test.calls), 1, "the parent is still there in round %u", test.round);
}

Test(regression, a_parent_stays_when_a_reference_comes_and_goes_while_its_handle_is_dropped) {
  run((struct plan){passing_set_up, passing_act, passing_check}, 20000);
}
