// What no other subject's tests come by: clocks set beyond the years, tags that collide, walks of threads that liburcu does not
// know, the edges of what is printed. Found by ./dev coverage.
#include "support/check.h"
#include "support/leftovers.h"

#include "core/after.h"
#include "core/memory.h"
#include "core/platform.h"
#include "core/rcu.h"
#include "core/text.h"
#include "core/tree.h"
#include "core/value.h"

#include <poll.h>
#include <pthread.h>
#include <rctx/rctx.h>
#include <rctx/testing.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include <urcu/urcu-bp.h>

#define SECOND INT64_C(1000000000)

TestSuite(coverage, .timeout = 60, .fini = nothing_left_by_default);

// ---- the date of a log line ------------------------------------------------------------------------------------------

// The C library's, but that the time of day is what a test says.
static bool calendar_set;
static time_t calendar;
static int64_t stopped_ns; // of the clock that only goes on; 0: it does

int clock_gettime(clockid_t clock, struct timespec *now) {
  if (calendar_set && clock == CLOCK_REALTIME) {
    *now = (struct timespec){.tv_sec = calendar};
    return 0;
  }
  if (stopped_ns && clock == CLOCK_MONOTONIC) {
    *now = (struct timespec){.tv_sec = stopped_ns / SECOND, .tv_nsec = stopped_ns % SECOND};
    return 0;
  }
  *now = (struct timespec){0}; // MemorySanitizer does not know what the kernel writes
  return (int)syscall(SYS_clock_gettime, clock, now);
}

Test(coverage, dates_of_log_lines_and_of_clocks_beyond_their_years) {
  static const struct {
    time_t time;
    const char *text;
  } dates[] = {
      {0, "1970-01-01T00:00:00.000Z"},
      {951782399, "2000-02-28T23:59:59.000Z"},
      {951782400, "2000-02-29T00:00:00.000Z"},
      {951868800, "2000-03-01T00:00:00.000Z"},
      {1709164800, "2024-02-29T00:00:00.000Z"},
      {1735689599, "2024-12-31T23:59:59.000Z"},
      {4107542400, "2100-03-01T00:00:00.000Z"},
      {-1, "1970-01-01T00:00:00.000Z"},
      {INT64_MIN, "1970-01-01T00:00:00.000Z"},
      {253402300799, "9999-12-31T23:59:59.000Z"},
      {253402300800, "9999-12-31T23:59:59.000Z"},
      {INT64_MAX, "9999-12-31T23:59:59.000Z"},
  };
  char line[512], begin[64];
  for (size_t i = 0; i < sizeof dates / sizeof *dates; i++) {
    calendar = dates[i].time;
    calendar_set = true;
    rctx_log_format(line, sizeof line, rctx_background(), RCTX_LOG_INFO, "m");
    calendar_set = false;
    snprintf(begin, sizeof begin, "{\"time\":\"%s\"", dates[i].text);
    cr_assert_eq(strncmp(line, begin, strlen(begin)), 0, "%lld: %s", (long long)dates[i].time, line);
  }
}

// ---- values ------------------------------------------------------------------------------------------------------

RCTX_KEY_LOGGED(narrow, uint16_t, "a number of 16 bits")
RCTX_KEY_LOGGED(wide, uint32_t, "a number of 32 bits")
RCTX_KEY_LOGGED(widest, uint64_t, "a number of 64 bits")

static char dumped[8192];
static size_t dumped_bytes;
static int keep(const char *text, size_t length, void *arg) {
  (void)arg;
  if (length > sizeof dumped - 1 - dumped_bytes) return -ENOSPC;
  memcpy(dumped + dumped_bytes, text, length);
  dumped_bytes += length;
  dumped[dumped_bytes] = '\0';
  return 0;
}

Test(coverage, unsigned_numbers_of_each_width_are_shown_whole) {
  static char room[1 << 16];
  char text[512];
  RCTX_SCOPED rctx *a = narrow_with(rctx_background(), UINT16_MAX);
  RCTX_SCOPED rctx *b = wide_with(a, UINT32_MAX);
  RCTX_SCOPED rctx *c = widest_with(b, UINT64_MAX);
  RCTX_SCOPED rctx *zero = widest_with(c, 0);
  rctx_describe(c, text, sizeof text);
  cr_assert_not_null(strstr(text, "(narrow, 65535)"), "%s", text);
  cr_assert_not_null(strstr(text, "(wide, 4294967295)"), "%s", text);
  cr_assert_not_null(strstr(text, "(widest, 18446744073709551615)"), "%s", text);
  rctx_describe(zero, text, sizeof text);
  cr_assert_not_null(strstr(text, "(widest, 0)"), "a number, not nothing: %s", text);
  cr_assert_eq(rctx_dump(a, RCTX_DUMP_JSON, room, sizeof room, keep, NULL), 0);
  cr_assert_not_null(strstr(dumped, "\"narrow\":65535"), "%s", dumped);
  cr_assert_not_null(strstr(dumped, "\"wide\":4294967295"), "%s", dumped);
  cr_assert_not_null(strstr(dumped, "\"widest\":18446744073709551615"), "%s", dumped);
}

Test(coverage, a_key_without_a_name_is_shown_as_a_question_mark) {
  static const struct rctx_key nameless = {.flags = RCTX_KEY_LOGGABLE, .print = rctx__print_string};
  static char room[1 << 16];
  char text[256];
  RCTX_SCOPED rctx *c = rctx_with_value(rctx_background(), &nameless, (char[]){"shown"});
  rctx_describe(c, text, sizeof text);
  cr_assert_not_null(strstr(text, "(?, shown)"), "%s", text);
  cr_assert_eq(rctx_dump(c, RCTX_DUMP_JSON, room, sizeof room, keep, NULL), 0);
  cr_assert_not_null(strstr(dumped, "\"?\":\"shown\""), "%s", dumped);
}

RCTX_KEY_LOGGED(yes_or_no, bool, "a truth")
RCTX_KEY_LOGGED(low, int16_t, "a signed number of 16 bits")
RCTX_KEY_LOGGED(lower, int32_t, "a signed number of 32 bits")
RCTX_KEY_LOGGED(lowest, int64_t, "a signed number of 64 bits")

Test(coverage, truths_and_signed_numbers_are_json_numbers_in_a_dump) {
  static char room[1 << 16];
  RCTX_SCOPED rctx *a = yes_or_no_with(rctx_background(), true);
  RCTX_SCOPED rctx *b = low_with(a, INT16_MIN);
  RCTX_SCOPED rctx *c = lower_with(b, INT32_MIN);
  RCTX_SCOPED rctx *d = lowest_with(c, INT64_MIN);
  cr_assert_eq(rctx_dump(a, RCTX_DUMP_JSON, room, sizeof room, keep, NULL), 0);
  cr_assert_not_null(strstr(dumped, "\"yes_or_no\":true"), "%s", dumped);
  cr_assert_not_null(strstr(dumped, "\"low\":-32768"), "%s", dumped);
  cr_assert_not_null(strstr(dumped, "\"lower\":-2147483648"), "%s", dumped);
  cr_assert_not_null(strstr(dumped, "\"lowest\":-9223372036854775808"), "%s", dumped);
  cr_assert_eq(rctx_err(d), 0);
}

static void no_destroy(void *value) { (void)value; }
static void no_destroy_cause(const struct rctx_cause *self) { (void)self; }

// Only what stays while it is read: a string that is destroyed with its context, and a cause that is, are not.
Test(coverage, a_dump_shows_no_text_that_may_be_freed_meanwhile) {
  static const struct rctx_key owned = {.name = "owned", .flags = RCTX_KEY_LOGGABLE, .print = rctx__print_string};
  static const struct rctx_cause lasting = {-ETIMEDOUT, RCTX_ORIGIN_USER, "lasting cause", NULL, 0, NULL, NULL};
  static const struct rctx_cause freed = {-ETIMEDOUT, RCTX_ORIGIN_USER, "freed cause", NULL, 0, NULL, no_destroy_cause};
  static char room[1 << 16], text[] = "owned text";
  struct rctx_value value = {&owned, text, no_destroy};
  RCTX_SCOPED rctx *top = rctx_with_values(rctx_background(), &value, 1);
  RCTX_SCOPED rctx *a = rctx_with_deadline_cause(top, 1, &lasting);
  RCTX_SCOPED rctx *b = rctx_with_deadline_cause(top, 1, &freed);
  RCTX_SCOPED rctx *c = rctx_with_deadline(top, 1);
  cr_assert(rctx_err(a) == -ETIMEDOUT && rctx_err(b) == -ETIMEDOUT && rctx_err(c) == -ETIMEDOUT);
  cr_assert_eq(rctx_dump(top, RCTX_DUMP_JSON, room, sizeof room, keep, NULL), 0);
  cr_assert_not_null(strstr(dumped, "\"owned\":\"?\""), "%s", dumped);
  cr_assert_not_null(strstr(dumped, "lasting cause"), "%s", dumped);
  cr_assert_null(strstr(dumped, "freed cause"), "%s", dumped);
}

Test(coverage, a_string_that_is_null_is_printed_as_such) {
  char text[16];
  cr_assert_eq(rctx__print_string(NULL, text, sizeof text), strlen("(null)"));
  cr_assert_str_eq(text, "(null)");
}

// A tag is 8 bits of a key's hash: of a thousand keys, dozens look like one of those that are bound.
Test(coverage, keys_whose_tags_collide_are_told_apart) {
  enum { KEYS = 2048, BOUND = 200 };
  static struct rctx_key keys[KEYS];
  static rctx *chain[BOUND + 1];
  chain[0] = rctx_with_cancel(rctx_background());
  for (int i = 0; i < BOUND; i++) chain[i + 1] = rctx_with_value(chain[i], &keys[i], &keys[i]);
  for (int i = 0; i < KEYS; i++) {
    void *found = NULL;
    bool is_found = rctx_get(chain[BOUND], &keys[i], &found);
    cr_assert_eq(is_found, i < BOUND, "key %d", i);
    cr_assert_eq(found, i < BOUND ? (void *)&keys[i] : NULL, "key %d", i);
  }
  for (int i = BOUND; i >= 0; i--) rctx_end(chain[i]);
}

Test(coverage, a_text_of_nothing_but_continuations_is_left_as_it_is) {
  cr_assert_eq(rctx__whole_characters("\x80\x80", 2), 2);
  cr_assert_eq(rctx__whole_characters("a\xe2\x82", 3), 1);
  cr_assert_eq(rctx__whole_characters("", 0), 0);
}

// ---- walks and grace periods -----------------------------------------------------------------------------------------

static atomic_int walk; // 1: it is inside, 2: it may leave

static void *walk_unregistered(void *arg) {
  *(bool *)arg = rctx__rcu_enter();
  atomic_store(&walk, 1);
  while (atomic_load(&walk) != 2) usleep(100);
  rctx__rcu_leave(*(bool *)arg);
  return NULL;
}

// A fork in another thread holds liburcu's locks for as long as this: the walk is counted instead.
Test(coverage, a_walk_of_a_thread_that_could_not_register_holds_the_grace_period_up) {
  pthread_t walker;
  bool registered = true;
  rctx__rcu_before_fork();
  cr_assert_eq(pthread_create(&walker, NULL, walk_unregistered, &registered), 0);
  while (atomic_load(&walk) != 1) usleep(100);
  rctx__rcu_after_fork();
  cr_assert_not(registered);
  cr_assert_not(rctx__rcu_wait(true), "it is still inside");
  atomic_store(&walk, 2);
  cr_assert_eq(pthread_join(walker, NULL), 0);
  cr_assert(rctx__rcu_wait(true));
}

static void *ask_for_a_grace_period(void *arg) {
  *(bool *)arg = rctx__rcu_wait(false);
  return NULL;
}

Test(coverage, a_thread_that_can_not_register_has_no_grace_period) {
  pthread_t asker;
  bool over = true;
  rctx__rcu_before_fork();
  cr_assert_eq(pthread_create(&asker, NULL, ask_for_a_grace_period, &over), 0);
  cr_assert_eq(pthread_join(asker, NULL), 0);
  rctx__rcu_after_fork();
  cr_assert_not(over);
}

static atomic_int asking; // 1: it has registered, 2: it may ask

static void *ask_when_registered(void *arg) {
  bool *over = arg;
  rctx__rcu_leave(rctx__rcu_enter());
  atomic_store(&asking, 1);
  while (atomic_load(&asking) != 2) usleep(100);
  *over = rctx__rcu_wait(false);
  return NULL;
}

Test(coverage, who_does_not_want_to_wait_has_no_grace_period_while_another_has_one) {
  pthread_t asker;
  bool over = true;
  cr_assert_eq(pthread_create(&asker, NULL, ask_when_registered, &over), 0);
  while (atomic_load(&asking) != 1) usleep(100);
  rctx__rcu_before_fork();
  atomic_store(&asking, 2);
  cr_assert_eq(pthread_join(asker, NULL), 0);
  rctx__rcu_after_fork();
  cr_assert_not(over);
}

// What left while a walk was inside is freed after a grace period; one that is held up leaves it where it was.
Test(coverage, what_waits_for_a_grace_period_that_does_not_end_is_kept) {
  enum { CHILDREN = 3 };
  pthread_t walker;
  bool registered = true;
  rctx *children[CHILDREN];
  struct rctx_stats stats;
  rctx_manager *manager = rctx_manager_default();
  rctx *c = rctx_with_cancel(rctx_background());
  for (int i = 0; i < CHILDREN; i++) children[i] = rctx_with_cancel(c);
  rctx_cancel(c);
  uint32_t walked = atomic_load(&c->state);
  atomic_store(&c->state, (walked & ~STATE_WALKED) + STATE_WALKER); // another thread's walk is still inside
  rctx__rcu_before_fork();
  cr_assert_eq(pthread_create(&walker, NULL, walk_unregistered, &registered), 0);
  while (atomic_load(&walk) != 1) usleep(100);
  rctx__rcu_after_fork();
  for (int i = 0; i < CHILDREN; i++) rctx_end(children[i]);
  rctx_trim(manager);
  rctx_stats(manager, &stats);
  cr_assert_eq(stats.deferred, CHILDREN);
  cr_assert_eq(rctx_quiesce(manager, 0), -ETIMEDOUT);
  rctx_stats(manager, &stats);
  cr_assert_eq(stats.deferred, CHILDREN, "still");
  atomic_store(&walk, 2);
  cr_assert_eq(pthread_join(walker, NULL), 0);
  atomic_store(&c->state, walked | (atomic_load(&c->state) & STATE_CHILDREN));
  rctx_end(c);
  cr_assert_eq(rctx_quiesce(manager, INT64_MAX), 0);
  rctx_stats(manager, &stats);
  cr_assert_eq(stats.deferred, 0);
}

Test(coverage, no_grace_period_is_waited_for_inside_the_hosts_read_section) {
  cr_assert(rctx__rcu_wait(true));
  urcu_bp_read_lock();
  cr_assert_not(rctx__rcu_wait(true), "it would wait for this thread");
  urcu_bp_read_unlock();
  cr_assert(rctx__rcu_wait(true));
}

// ---- moments of a few instructions, held by hand ---------------------------------------------------------------------

enum { MOMENT_US = 20000 };

struct moment {
  _Atomic uint32_t *word;
  uint32_t after;
};

static void *end_of_moment(void *arg) {
  struct moment *moment = arg;
  usleep(MOMENT_US);
  atomic_store(moment->word, moment->after);
  return NULL;
}

static void count_call(const rctx *ctx, void *arg) {
  (void)ctx;
  ++*(int *)arg;
}
static void count_quiet(void *arg) { ++*(int *)arg; }

// Another thread's rctx_after_stop() has claimed the registration and is about to take it out of its list.
Test(coverage, stops_wait_for_a_stop_that_is_under_way) {
  for (int notify = 0; notify < 2; notify++) {
    struct rctx_after node = {0};
    pthread_t other;
    int calls = 0, quiets = 0;
    bool quiet = false;
    RCTX_SCOPED rctx *c = rctx_with_cancel(rctx_background());
    cr_assert_eq(rctx_after_inline(c, &node, RCTX_ON_ENDED_TELL, count_call, &calls), 0);
    struct moment moment = {rctx__after_state(&node), AFTER_STOPPED};
    uint32_t armed = atomic_exchange(moment.word, AFTER_STOPPING);
    cr_assert_eq(pthread_create(&other, NULL, end_of_moment, &moment), 0);
    if (notify) {
      cr_assert_not(rctx_after_stop_notify(&node, count_quiet, &quiets, &quiet));
      cr_assert(quiet);
    } else {
      cr_assert_not(rctx_after_stop_sync(&node));
    }
    cr_assert_eq(atomic_load(moment.word), AFTER_STOPPED, "it has waited");
    cr_assert_eq(pthread_join(other, NULL), 0);
    atomic_store(moment.word, armed); // it is still in the list
    cr_assert(rctx_after_stop(&node));
    rctx_cancel(c);
    cr_assert(calls == 0 && quiets == 0);
  }
}

// As many walks are inside as the state can count.
Test(coverage, a_walk_waits_until_one_of_255_has_left) {
  pthread_t other;
  rctx *c = rctx_with_cancel(rctx_background());
  rctx *below = rctx_with_cancel(c);
  rctx_cancel(c);
  struct moment moment = {&c->state, atomic_load(&c->state)};
  cr_assert(moment.after & STATE_WALKED);
  atomic_store(&c->state, (moment.after & ~STATE_WALKED) | STATE_WALKERS);
  cr_assert_eq(pthread_create(&other, NULL, end_of_moment, &moment), 0);
  cr_assert_not(rctx_cancel(c));
  cr_assert_eq(atomic_load(&c->state), moment.after, "it has waited, and found nothing to do");
  cr_assert_eq(pthread_join(other, NULL), 0);
  rctx_end(below);
  rctx_end(c);
}

// ---- the kernel's edges ----------------------------------------------------------------------------------------------

Test(coverage, an_eventfd_that_is_full_or_empty_stays_what_it_is) {
  int fd = rctx__eventfd(false);
  struct pollfd readable = {.fd = fd, .events = POLLIN};
  cr_assert_geq(fd, 0);
  rctx__eventfd_clear(fd);
  cr_assert_eq(poll(&readable, 1, 0), 0);
  cr_assert_eq(eventfd_write(fd, UINT64_MAX - 1), 0);
  errno = ENOENT;
  rctx__eventfd_signal(fd);
  cr_assert_eq(errno, ENOENT);
  cr_assert_eq(poll(&readable, 1, 0), 1);
  rctx__eventfd_clear(fd);
  cr_assert_eq(poll(&readable, 1, 0), 0);
  rctx__close(fd);
}

Test(coverage, memory_is_aligned_for_a_pointer_at_least) {
  rctx_manager *manager = rctx_manager_default();
  void *memory = rctx__raw_alloc(manager, 24, 1);
  cr_assert_not_null(memory);
  cr_assert_eq((uintptr_t)memory % sizeof(void *), 0);
  rctx__raw_free(manager, memory, 24);
}

Test(coverage, a_futex_is_not_waited_for_until_a_time_before_all_times) {
  _Atomic uint32_t word = 7;
  rctx__futex_wait(&word, 7, -1); // EINVAL from the kernel would do, too; a wait for ever would not
  rctx__futex_wait(&word, 8, RCTX__NEVER);
  cr_assert_eq(atomic_load(&word), 7);
}

Test(coverage, a_descriptor_is_replaced_once_per_process) {
  struct rctx__fd fd = {.fd = rctx__eventfd(true), .process = load_relaxed(&rctx__process)};
  struct pollfd readable = {.fd = fd.fd, .events = POLLIN};
  rctx__fd_replace(&fd); // another thread was faster
  cr_assert_eq(poll(&readable, 1, 0), 1, "it is still the one that was signalled");
  store_relaxed(&fd.process, load_relaxed(&rctx__process) + 1);
  cr_assert_eq(rctx__fd_own(&fd), readable.fd);
  cr_assert_eq(poll(&readable, 1, 0), 0, "it is a fresh one under the same number");
  cr_assert_eq(load_relaxed(&fd.process), load_relaxed(&rctx__process));
  rctx__close(fd.fd);
}

Test(coverage, polling_more_descriptors_than_there_can_be_says_einval) {
  enum { LIMIT = 16 };
  static struct pollfd fds[LIMIT + 1];
  RCTX_SCOPED rctx *c = rctx_with_cancel(rctx_background());
  for (int i = 0; i <= LIMIT; i++) fds[i].fd = -1;
  cr_assert_eq(rctx_poll(c, fds, INT32_MAX, 0), -EINVAL, "live");
  rctx_cancel(c);
#ifndef RCTX_TEST_SHIM // valgrind keeps limits of its own
  cr_assert_eq(setrlimit(RLIMIT_NOFILE, &(struct rlimit){LIMIT, LIMIT}), 0);
  cr_assert_eq(rctx_poll(c, fds, LIMIT + 1, 0), -EINVAL, "ended");
#endif
  cr_assert_eq(rctx_poll(c, fds, LIMIT, 0), -ECANCELED);
}

// ---- arguments at their edges ----------------------------------------------------------------------------------------

Test(coverage, levels_of_a_drain_that_there_are_not) {
  rctx_drain *drain;
  cr_assert_eq(rctx_drain_create(rctx_background(), NULL, &drain), 0);
  cr_assert_not(rctx_drain_raise(drain, RCTX_DRAIN_OPEN));
  cr_assert_not(rctx_drain_raise(drain, (enum rctx_drain_level)(RCTX_DRAIN_CANCEL + 1)));
  cr_assert_eq(rctx_drain_raise_at(drain, (enum rctx_drain_level)(RCTX_DRAIN_CANCEL + 1), INT64_MAX), -EINVAL);
  cr_assert_eq(rctx_drain_level(drain), RCTX_DRAIN_OPEN);
  rctx_drain_destroy(drain);
}

Test(coverage, a_drain_gives_up_no_earlier_than_its_grace_ends) {
  rctx_drain *drain;
  struct rctx_drain_left left;
  cr_assert_eq(rctx_drain_create(rctx_background(), NULL, &drain), 0);
  cr_assert_eq(rctx_drain_run(drain, &(struct rctx_drain_plan){.grace_ns = SECOND, .give_up_ns = 0}, &left), 0);
  rctx_drain_destroy(drain);
}

Test(coverage, a_manager_with_a_drive_that_there_is_not_is_refused) {
  rctx_manager *made = NULL;
  struct rctx_manager_options options = {.drive = (enum rctx_drive)7};
  cr_assert_eq(rctx_manager_create(&options, &made), -EINVAL);
  cr_assert_null(made);
}

Test(coverage, an_embedder_without_a_kick_looks_by_itself) {
  rctx_manager *manager;
  cr_assert_eq(rctx_manager_create(&(struct rctx_manager_options){.drive = RCTX_DRIVE_EMBEDDER}, &manager), 0);
  int64_t now_ns = rctx_manager_now(manager);
  cr_assert_eq(rctx_next(manager, now_ns), INT64_MAX);
  rctx *c = rctx_with_deadline(rctx_manager_background(manager), now_ns + 3600 * SECOND);
  cr_assert_eq(rctx_err(c), 0);
  cr_assert_lt(rctx_next(manager, now_ns), now_ns + 3601 * SECOND);
  rctx_advance(manager, now_ns + 3601 * SECOND, 0);
  cr_assert_eq(rctx_err(c), -ETIMEDOUT);
  rctx_end(c);
  cr_assert_eq(rctx_quiesce(manager, INT64_MAX), 0);
  cr_assert_eq(rctx_manager_destroy(manager), 0);
}

Test(coverage, anybody_may_ask_when_the_timer_thread_has_work) {
  int64_t now_ns = rctx_now();
  RCTX_SCOPED rctx *c = rctx_with_deadline(rctx_background(), now_ns + 3600 * SECOND);
  cr_assert_eq(rctx_err(c), 0);
  int64_t next_ns = rctx_next(rctx_manager_default(), now_ns);
  cr_assert_gt(next_ns, now_ns);
  cr_assert_lt(next_ns, now_ns + 3601 * SECOND);
}

static int fail_here(const rctx *ctx, void *arg) {
  (void)ctx;
  (void)arg;
  return -EPIPE;
}

Test(coverage, a_task_of_a_group_need_not_say_where_it_was_begun) {
  struct rctx_group group;
  struct rctx_why why;
  rctx_group_init(&group, rctx_background());
  cr_assert_eq(rctx_group_go_at(&group, fail_here, NULL, NULL), 0);
  cr_assert_eq(rctx_group_wait(&group), -EPIPE);
  cr_assert_eq(rctx_why(rctx_group_ctx(&group), &why), -EPIPE);
  cr_assert_not_null(why.cause);
  cr_assert_str_eq(why.cause->text, "task failed");
  cr_assert(why.cause->file == NULL && why.cause->line == 0);
  cr_assert_eq(rctx_group_fini(&group), -EPIPE);
}

static void submit_nothing(struct rctx_executor *self, struct rctx_task *task) {
  (void)self;
  (void)task;
  cr_assert_fail("nothing was prepared");
}
static int prepare_nothing(struct rctx_executor *self) {
  (void)self;
  return -EAGAIN;
}

Test(coverage, a_task_of_a_group_runs_here_when_the_executor_can_not_promise_to) {
  struct rctx_executor executor = {.submit = submit_nothing, .prepare = prepare_nothing};
  struct rctx_group group;
  rctx_group_init_on(&group, rctx_background(), &executor);
  cr_assert_eq(rctx_group_go(&group, fail_here, NULL), 0);
  cr_assert_eq(rctx_group_wait(&group), -EPIPE);
  cr_assert_eq(rctx_group_fini(&group), -EPIPE);
}

static void handler_of_the_host(int signal) { (void)signal; }

// Five times the host puts its own over ours: more than are remembered. Its last one stays.
Test(coverage, a_host_that_puts_handlers_over_ours_for_ever_keeps_its_last) {
  enum { TIMES = 6 };
  rctx *c[TIMES];
  struct sigaction now, host = {.sa_handler = handler_of_the_host};
  for (int i = 0; i < TIMES; i++) {
    c[i] = rctx_with_signal(rctx_background(), SIGUSR2, 0);
    cr_assert_eq(rctx_err(c[i]), 0, "%d", i);
    cr_assert_eq(sigaction(SIGUSR2, &host, NULL), 0);
  }
  raise(SIGUSR2); // the host's alone
  for (int i = 0; i < TIMES; i++) cr_assert_eq(rctx_err(c[i]), 0);
  for (int i = 0; i < TIMES; i++) rctx_end(c[i]);
  cr_assert_eq(sigaction(SIGUSR2, NULL, &now), 0);
  cr_assert_eq((void *)(uintptr_t)now.sa_handler, (void *)(uintptr_t)handler_of_the_host);
}

Test(coverage, what_baggage_left_out_need_not_be_asked_for) {
  char text[64] = "#";
  RCTX_SCOPED rctx *c = rctx_with_cancel(rctx_background());
  cr_assert_eq(rctx_baggage_from(c, text, sizeof text, NULL), 0);
}

Test(coverage, a_cause_of_the_users_own_is_no_signal) {
  struct rctx_cause *cause = calloc(1, sizeof *cause); // above what is static, where the signals' causes are
  *cause = (struct rctx_cause){.code = -EPIPE, .origin = RCTX_ORIGIN_USER, .text = "mine"};
  rctx *c = rctx_with_cancel(rctx_background());
  rctx_cancel_cause(c, cause);
  cr_assert_eq(rctx_err(c), -EPIPE);
  cr_assert_eq(rctx_signal_of(c), 0);
  rctx_end(c);
  free(cause);
}

static int look_at_nothing(const rctx *ctx, void *arg) {
  struct rctx_why why;
  (void)arg;
  rctx__look(NULL);
  return rctx_why(ctx, &why);
}

Test(coverage, a_look_at_nothing_is_no_look) {
  struct rctx_looks looks;
  cr_assert_eq(rctx_test_looks(look_at_nothing, NULL, NULL, &looks), 0);
  cr_assert_eq(looks.looks, 1);
}

#define EIGHT_TIMES(signal) signal, signal, signal, signal, signal, signal, signal, signal

Test(coverage, a_list_of_signals_ends_after_64) {
  rctx *c = rctx_with_signal(rctx_background(), EIGHT_TIMES(SIGUSR1), EIGHT_TIMES(SIGUSR1), EIGHT_TIMES(SIGUSR1),
                             EIGHT_TIMES(SIGUSR1), EIGHT_TIMES(SIGUSR1), EIGHT_TIMES(SIGUSR1), EIGHT_TIMES(SIGUSR1),
                             EIGHT_TIMES(SIGUSR1), SIGKILL, 0); // which can not be caught, and would be refused
  cr_assert_eq(rctx_err(c), 0);
  raise(SIGUSR1);
  rctx_wait(c, INT64_MAX);
  cr_assert_eq(rctx_signal_of(c), SIGUSR1);
  rctx_end(c);
}

Test(coverage, the_background_has_no_deadline_to_move_and_no_handle_to_drop) {
  cr_assert_eq(rctx_move_deadline((rctx *)(uintptr_t)rctx_background(), 1), -EINVAL);
  rctx_drop((rctx *)(uintptr_t)rctx_background());
  cr_assert_eq(rctx_err(rctx_background()), 0);
}

Test(coverage, a_look_while_nobody_counts_is_only_a_look) {
  struct rctx_why why;
  RCTX_SCOPED rctx *c = rctx_with_cancel(rctx_background());
  store_relaxed(&rctx__looks_counted, 1U); // as a thread sees it that the sweep has left behind
  cr_assert_eq(rctx_why(c, &why), 0);
  store_relaxed(&rctx__looks_counted, 0U);
}

static int64_t given_time(void *arg) { return *(const int64_t *)arg; }

// Its deadline has passed, and nobody has turned the wheel.
Test(coverage, a_dump_shows_no_time_less_than_none) {
  static int64_t time_ns = SECOND;
  static char room[1 << 16];
  rctx_manager *manager;
  struct rctx_manager_options options = {.drive = RCTX_DRIVE_EMBEDDER, .now = given_time, .now_arg = &time_ns};
  cr_assert_eq(rctx_manager_create(&options, &manager), 0);
  rctx *c = rctx_with_deadline(rctx_manager_background(manager), 2 * SECOND);
  time_ns = 5 * SECOND;
  cr_assert_eq(rctx_dump(c, RCTX_DUMP_TEXT, room, sizeof room, keep, NULL), 0);
  cr_assert_not_null(strstr(dumped, " left=0.000s"), "%s", dumped);
  struct pollfd ready = {.fd = rctx__eventfd(true), .events = POLLIN};
  cr_assert_eq(rctx_poll(c, &ready, 1, INT64_MAX), 1, "on a clock of one's own, without a limit");
  rctx__close(ready.fd);
  rctx_end(c);
  cr_assert_eq(rctx_manager_destroy(manager), 0);
}

Test(coverage, two_clocks_of_one_function_are_two_clocks) {
  static int64_t times[2] = {SECOND, 500 * SECOND};
  rctx_manager *managers[2];
  int64_t deadline_ns;
  for (int i = 0; i < 2; i++) {
    struct rctx_manager_options options = {
        .drive = RCTX_DRIVE_EMBEDDER, .now = given_time, .now_arg = &times[i], .tick_ns = 0};
    cr_assert_eq(rctx_manager_create(&options, &managers[i]), 0);
  }
  rctx *timed = rctx_with_deadline(rctx_manager_background(managers[0]), 2 * SECOND);
  rctx *below = rctx_manager_create_cancellable(managers[1], timed);
  cr_assert(rctx_deadline(timed, &deadline_ns) && deadline_ns == 2 * SECOND);
  cr_assert_not(rctx_deadline(below, &deadline_ns), "it is none on this clock");
  cr_assert_eq(rctx_err(below), 0);
  rctx_end(below);
  rctx_end(timed);
  for (int i = 0; i < 2; i++) cr_assert_eq(rctx_manager_destroy(managers[i]), 0);
}

Test(coverage, of_two_values_of_one_key_in_one_context_the_nearest_is_found_by_both_ways) {
  static const struct rctx_key key = {.name = "key"};
  int one, two;
  struct rctx_value values[] = {{&key, &one, NULL}, {&key, &two, NULL}};
  void *found = NULL;
  RCTX_SCOPED rctx *c = rctx_with_values(rctx_background(), values, 2);
  cr_assert(rctx_get(c, &key, &found));
  cr_assert_eq(rctx__value_own(c, &key), found);
}

Test(coverage, a_log_line_that_does_not_fit_the_file_is_an_error) {
  FILE *file = tmpfile();
  struct rlimit before, little;
  cr_assert_not_null(file);
  cr_assert_eq(getrlimit(RLIMIT_FSIZE, &before), 0);
  little = (struct rlimit){20, before.rlim_max};
  signal(SIGXFSZ, SIG_IGN);
  cr_assert_eq(setrlimit(RLIMIT_FSIZE, &little), 0);
  int cut = rctx_log(fileno(file), rctx_background(), RCTX_LOG_INFO, "a line of more than twenty bytes");
  int full = rctx_log(fileno(file), rctx_background(), RCTX_LOG_INFO, "another");
  cr_assert_eq(setrlimit(RLIMIT_FSIZE, &before), 0); // first: who measures coverage writes files
  cr_assert_eq(cut, -EIO);
  cr_assert_eq(full, -EFBIG);
  fclose(file);
}

// ---- headers ---------------------------------------------------------------------------------------------------------

Test(coverage, a_timeout_beyond_all_time_is_not_held_against_a_minimum) {
  struct rctx_header header = {rctx_text_of("grpc-timeout"), rctx_text_of("99999999H")};
  struct rctx_headers list = rctx_headers_of(&header, 1);
  struct rctx_budget_policy policy = {.min_ns = SECOND};
  struct rctx_received received;
  cr_assert_eq(rctx_budget_from_headers(rctx_background(), rctx_now(), &list, &policy, &received), 0);
  cr_assert_eq(received.source, RCTX_HEADER_GRPC_TIMEOUT);
  cr_assert_eq(received.deadline_ns, INT64_MAX);
}

Test(coverage, an_empty_header_is_empty_baggage) {
  struct rctx_header header = {rctx_text_of("baggage"), {NULL, 0}};
  struct rctx_headers list = rctx_headers_of(&header, 1);
  struct rctx_baggage_reader reader = rctx_baggage_read(&list);
  struct rctx_baggage_member member;
  cr_assert_not(rctx_baggage_next(&reader, &member));
  cr_assert(reader.members == 0 && !reader.cut);
}

Test(coverage, nothing_is_found_in_a_tracestate_that_is_none) {
  struct rctx_text value;
  cr_assert_eq(rctx_tracestate_find(rctx_text_of("=no key"), rctx_text_of("k"), &value), -EINVAL);
}

// ---- leaks -----------------------------------------------------------------------------------------------------------

static unsigned told, told_apart;
static bool count_leaks(const struct rctx_leak *leak, void *arg) {
  told++;
  told_apart += leak->live == 1 && leak->line == *(const int *)arg;
  return true;
}

// Reads what rctx_leaks_print() says.
static const char *leaks_printed(char *text, size_t size) {
  int out[2];
  cr_assert_eq(pipe(out), 0);
  cr_assert_geq(rctx_leaks_print(out[1], 0), 1);
  close(out[1]);
  ssize_t length = read(out[0], text, size - 1);
  close(out[0]);
  cr_assert_gt(length, 0);
  text[length] = '\0';
  return text;
}

Test(coverage, leaks_of_one_line_number_in_several_files_and_of_several_functions) {
  int line = 17;
  static const struct rctx_site sites[] = {{"made", "a.c", 17}, {"made", "b.c", 17}, {"made otherwise", "a.c", 17}};
  rctx *made[3];
  rctx_leaks_start(1);
  for (int i = 0; i < 3; i++) {
    made[i] = (rctx_with_cancel)(rctx_background());
    rctx__leak_made(made[i], &sites[i]);
  }
  rctx__leak_made(NULL, &sites[0]);
  rctx__leak_made(made[0], NULL);
  cr_assert_eq(rctx_leaks_each(0, count_leaks, &line), 3);
  cr_assert(told == 3 && told_apart == 3, "%u, %u of one context each", told, told_apart);
  for (int i = 0; i < 3; i++) rctx_end(made[i]);
}

static int64_t oldest_ns = -1, youngest_ns = -1;
static bool keep_ages(const struct rctx_leak *leak, void *arg) {
  (void)arg;
  oldest_ns = leak->oldest_ns;
  youngest_ns = leak->youngest_ns;
  return true;
}

Test(coverage, leaks_of_one_moment_are_equally_old) {
  static const struct rctx_site here = {"made", "here.c", 1};
  rctx *made[2];
  rctx_leaks_start(1);
  stopped_ns = rctx_now();
  for (int i = 0; i < 2; i++) {
    made[i] = (rctx_with_cancel)(rctx_background());
    rctx__leak_made(made[i], &here);
  }
  cr_assert_eq(rctx_leaks_each(0, keep_ages, NULL), 1);
  cr_assert(oldest_ns == 0 && youngest_ns == 0);
  stopped_ns += 7;
  cr_assert_eq(rctx_leaks_each(0, keep_ages, NULL), 1);
  cr_assert(oldest_ns == 7 && youngest_ns == 7);
  stopped_ns = 0;
  for (int i = 0; i < 2; i++) rctx_end(made[i]);
}

// The macro asks whether anything is kept; this is a thread that asked just before rctx_leaks_start(0).
Test(coverage, nothing_is_kept_once_nothing_is_to_be) {
  static const struct rctx_site here = {"made", "here.c", 1};
  int line = 1;
  RCTX_SCOPED rctx *c = (rctx_with_cancel)(rctx_background());
  rctx_leaks_start(0);
  rctx__leak_made(c, &here);
  cr_assert_eq(rctx_leaks_each(0, count_leaks, &line), 0);
}

Test(coverage, a_report_of_leaks_says_how_many_it_keeps_and_cuts_long_lines) {
  static char text[4096], file[1024];
  memset(file, 'f', sizeof file - 1);
  const struct rctx_site here = {"made", "here.c", 1}, far = {"made", file, 2};
  rctx *made[64];
  rctx_leaks_start(2);
  for (int i = 0; i < 64; i++) {
    made[i] = (rctx_with_cancel)(rctx_background());
    rctx__leak_made(made[i], &here);
  }
  cr_assert_not_null(strstr(leaks_printed(text, sizeof text), "; one in 2 is kept\n"), "%s", text);
  for (int i = 0; i < 64; i++) rctx_end(made[i]);
  rctx_leaks_start(1);
  made[0] = (rctx_with_cancel)(rctx_background());
  rctx__leak_made(made[0], &far);
  leaks_printed(text, sizeof text);
  cr_assert_eq(strlen(text), 511, "%zu", strlen(text));
  cr_assert_eq(text[510], '\n');
  rctx_end(made[0]);
}
