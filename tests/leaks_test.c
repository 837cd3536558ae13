// Contexts that were never ended: which line made them, how many there are, in which state, and how old they are.
//
// This file is compiled as code that wants it is: with RCTX_LEAK_SITES. Ages are compared with times taken around the
// creation; nothing sleeps.
#define RCTX_LEAK_SITES 1
#include "support/check.h"
#include "support/counting.h"
#include "support/leftovers.h"
#include "support/threads.h"
#include "support/watchdog.h"

#include "core/platform.h"

#include <sys/wait.h>

#define MS INT64_C(1000000)
#define SECOND INT64_C(1000000000)

static void leaks_open(void) {
  watchdog(60);
  rctx_leaks_start(1);
}

TestSuite(leaks, .init = leaks_open, .fini = nothing_left_by_default, .timeout = 120);
TestSuite(leaks_off, .fini = nothing_left_by_default, .timeout = 120);

// ---- helpers ---------------------------------------------------------------------------------------------------------

enum { FOUND_MAX = 600 };

static struct rctx_leak found[FOUND_MAX];
static size_t found_count;

static bool collect(const struct rctx_leak *leak, void *arg) {
  (void)arg;
  cr_assert_lt(found_count, FOUND_MAX);
  found[found_count++] = *leak;
  return true;
}

static size_t total(const struct rctx_leak *leak) { return leak->live + leak->ended + leak->kept; }

// All lines as they are now; each with something in it, most contexts first, ages in order.
static size_t look_older(int64_t older_than_ns) {
  found_count = 0;
  size_t lines = rctx_leaks_each(older_than_ns, collect, NULL);
  cr_assert_eq(lines, found_count);
  for (size_t i = 0; i < found_count; i++) {
    cr_assert_gt(total(&found[i]), 0);
    cr_assert(0 <= found[i].youngest_ns && found[i].youngest_ns <= found[i].oldest_ns, "%lld to %lld",
              (long long)found[i].youngest_ns, (long long)found[i].oldest_ns);
    cr_assert(i == 0 || total(&found[i - 1]) >= total(&found[i]), "most contexts first");
  }
  return lines;
}

static size_t look(void) { return look_older(0); }

static const struct rctx_leak *line_of(int line) {
  for (size_t i = 0; i < found_count; i++) {
    if (found[i].line == line && strcmp(found[i].file, __FILE__) == 0) return &found[i];
  }
  return NULL;
}

static void is(int line, size_t live, size_t ended, size_t kept) {
  look();
  const struct rctx_leak *leak = line_of(line);
  if (live + ended + kept == 0) {
    cr_assert(leak == NULL, "line %d is reported", line);
    return;
  }
  cr_assert(leak != NULL, "line %d is not reported", line);
  cr_assert(leak->live == live && leak->ended == ended && leak->kept == kept, "line %d: %zu live, %zu ended, %zu kept",
            line, leak->live, leak->ended, leak->kept);
}

static void nothing_is_reported(void) { cr_assert_eq(look(), 0, "%s:%d", found[0].file, found[0].line); }

// ---- off -------------------------------------------------------------------------------------------------------------

Test(leaks_off, nothing_is_kept_before_the_start) {
  rctx *c = rctx_with_cancel(rctx_background());
  nothing_is_reported();
  cr_assert_eq(rctx_leaks_print(STDERR_FILENO, 0), 0);
  rctx_leaks_start(1);
  nothing_is_reported();
  rctx_end(c);
  nothing_is_reported();
}

Test(leaks_off, zero_is_off) {
  rctx_leaks_start(0);
  RCTX_SCOPED rctx *c = rctx_with_cancel(rctx_background());
  nothing_is_reported();
  cr_assert_eq(rctx_err(c), 0);
}

Test(leaks, those_kept_already_stay) {
  rctx *c = rctx_with_cancel(rctx_background());
  int line = __LINE__ - 1;
  rctx_leaks_start(0);
  rctx *d = rctx_with_cancel(c);
  is(line, 1, 0, 0);
  cr_assert_eq(found_count, 1);
  rctx_end(d);
  rctx_end(c);
  nothing_is_reported();
}

// ---- which line ------------------------------------------------------------------------------------------------------

static void made_by(rctx *c, int line, const char *what) {
  is(line, 1, 0, 0);
  cr_assert_eq(found_count, 1, "%zu lines", found_count);
  cr_assert_str_eq(line_of(line)->what, what);
  cr_assert_eq(line_of(line)->sample_every, 1U);
  rctx_end(c);
  nothing_is_reported();
}

static const struct rctx_key key = {.name = "key"};

Test(leaks, every_way_to_derive_tells_its_line) {
  const rctx *root = rctx_background();
  rctx_manager *manager = rctx_manager_default();
  static const struct rctx_cause cause = {.code = -ETIMEDOUT, .text = "late"};
  struct rctx_value value = {&key, NULL, NULL};
  int64_t far = INT64_MAX - 1;
  made_by(rctx_with_cancel(root), __LINE__, "rctx_with_cancel");
  made_by(rctx_with_deadline(root, far), __LINE__, "rctx_with_deadline");
  made_by(rctx_with_timeout(root, far), __LINE__, "rctx_with_timeout");
  made_by(rctx_with_timeout_at(root, 1, far), __LINE__, "rctx_with_timeout_at");
  made_by(rctx_with_deadline_cause(root, far, &cause), __LINE__, "rctx_with_deadline_cause");
  made_by(rctx_with_timeout_cause(root, far, &cause), __LINE__, "rctx_with_timeout_cause");
  made_by(rctx_with_timeout_at_cause(root, 1, far, &cause), __LINE__, "rctx_with_timeout_at_cause");
  made_by(rctx_without_cancel(root), __LINE__, "rctx_without_cancel");
  made_by(rctx_derive(root, &(struct rctx_spec){.name = "n"}), __LINE__, "rctx_derive");
  made_by(rctx_with_idle(root, far), __LINE__, "rctx_with_idle");
  static struct rctx_merge_link links[1];
  made_by(rctx_merge_any(&root, 1), __LINE__, "rctx_merge_any");
  made_by(rctx_merge_all(&root, 1), __LINE__, "rctx_merge_all");
  made_by(rctx_merge_any_in(links, &root, 1), __LINE__, "rctx_merge_any_in");
  made_by(rctx_merge_all_in(links, &root, 1), __LINE__, "rctx_merge_all_in");
  made_by(rctx_with_value(root, &key, NULL), __LINE__, "rctx_with_value");
  made_by(rctx_with_values(root, &value, 1), __LINE__, "rctx_with_values");
  made_by(rctx_with_signal(root, SIGUSR1, SIGUSR2, 0), __LINE__, "rctx_with_signal");
  made_by(rctx_with_signals(root, (int[]){SIGUSR1, SIGUSR2}, 2), __LINE__, "rctx_with_signals");
  made_by(rctx_manager_create_cancellable(manager, root), __LINE__, "rctx_manager_create_cancellable");
  made_by(rctx_manager_create_timeout(manager, root, far), __LINE__, "rctx_manager_create_timeout");
  made_by(rctx_manager_add_value(manager, root, &key, NULL), __LINE__, "rctx_manager_add_value");
}

Test(leaks, a_drains_request_tells_its_line) {
  rctx_drain *drain;
  cr_assert_eq(rctx_drain_create(rctx_background(), "work", &drain), 0);
  nothing_is_reported(); // what the library derives for itself is not the user's
  rctx *request = rctx_drain_request(drain, NULL);
  made_by(request, __LINE__ - 1, "rctx_drain_request");
  rctx_drain_destroy(drain);
}

RCTX_KEY(typed, int)
enum { TYPED_LINE = __LINE__ - 1 };

Test(leaks, a_typed_key_counts_as_the_line_that_declares_it) {
  rctx *c = typed_with(rctx_background(), 7);
  is(TYPED_LINE, 1, 0, 0);
  cr_assert_eq(found_count, 1);
  rctx_end(c);
  nothing_is_reported();
}

static rctx *wrapped(const rctx *parent) { return rctx_with_cancel(parent); }
enum { WRAPPED_LINE = __LINE__ - 1 };

Test(leaks, another_line_can_be_named) {
  rctx *plain = wrapped(rctx_background());
  rctx *named = RCTX_LEAK_SITE(wrapped(rctx_background()));
  int line = __LINE__ - 1;
  RCTX_SCOPED rctx *typed_here = RCTX_LEAK_SITE(typed_with(rctx_background(), 7));
  is(WRAPPED_LINE, 1, 0, 0);
  is(line, 1, 0, 0);
  is(line + 2, 1, 0, 0);
  cr_assert_eq(found_count, 3, "each context counts once");
  cr_assert_not_null(strstr(line_of(line)->what, "wrapped"));
  rctx_end(named);
  rctx_end(plain);
}

Test(leaks, one_line_many_contexts) {
  enum { MANY = 500 };
  rctx *c[MANY];
  for (int i = 0; i < MANY; i++) c[i] = rctx_with_cancel(i ? c[i / 2] : rctx_background());
  int line = __LINE__ - 1;
  is(line, MANY, 0, 0);
  cr_assert_eq(found_count, 1);
  rctx_cancel(c[0]);
  is(line, 0, MANY, 0);
  for (int i = MANY; i-- > 1;) rctx_end(c[i]);
  is(line, 0, 1, 0);
  rctx_end(c[0]);
  nothing_is_reported();
}

Test(leaks, most_contexts_first) {
  rctx *c[10];
  c[0] = rctx_with_cancel(rctx_background());
  for (int i = 1; i < 7; i++) c[i] = rctx_with_cancel(rctx_background());
  int line = __LINE__ - 1;
  for (int i = 7; i < 10; i++) c[i] = rctx_with_cancel(rctx_background());
  cr_assert_eq(look(), 3);
  cr_assert_eq(found[0].line, line);
  cr_assert_eq(found[1].line, line + 2);
  cr_assert_eq(found[2].line, line - 1);
  for (int i = 0; i < 10; i++) rctx_end(c[i]);
}

// ---- in which state --------------------------------------------------------------------------------------------------

Test(leaks, live_then_ended_then_gone) {
  rctx *c = rctx_with_cancel(rctx_background());
  int line = __LINE__ - 1;
  is(line, 1, 0, 0);
  rctx_cancel(c);
  is(line, 0, 1, 0);
  rctx_end(c);
  is(line, 0, 0, 0);
}

Test(leaks, ended_by_its_deadline_or_parent) {
  rctx *parent = rctx_with_cancel(rctx_background());
  int parent_line = __LINE__ - 1;
  rctx *late = rctx_with_timeout(parent, -1);
  int late_line = __LINE__ - 1;
  rctx *below = rctx_with_cancel(parent);
  int below_line = __LINE__ - 1;
  is(late_line, 0, 1, 0);
  is(below_line, 1, 0, 0);
  rctx_end(parent);
  is(below_line, 0, 1, 0);
  is(parent_line, 0, 0, 1); // kept by what hangs below
  rctx_end(below);
  is(parent_line, 0, 0, 1);
  rctx_end(late);
  nothing_is_reported();
}

Test(leaks, kept_by_a_reference) {
  rctx *c = rctx_with_cancel(rctx_background());
  int line = __LINE__ - 1;
  const rctx *reference = rctx_ref(c);
  is(line, 1, 0, 0);
  rctx_end(c);
  is(line, 0, 0, 1);
  rctx_unref(reference);
  nothing_is_reported();
}

Test(leaks, kept_by_values_that_are_taken_from_it) {
  rctx *c = rctx_with_cancel(rctx_background());
  int line = __LINE__ - 1;
  rctx *taker = rctx_derive(rctx_background(), &(struct rctx_spec){.values_from = c});
  rctx_end(c);
  is(line, 0, 0, 1);
  rctx_end(taker);
  nothing_is_reported();
}

Test(leaks, a_dropped_handle_is_given_back) {
  rctx *c = rctx_with_cancel(rctx_background());
  int line = __LINE__ - 1;
  rctx *below = rctx_with_cancel(c);
  rctx_drop(c);
  is(line, 0, 0, 1);
  rctx_end(below);
  nothing_is_reported();
}

Test(leaks, a_scope_gives_back) {
  for (int i = 0; i < 3; i++) {
    RCTX_SCOPED rctx *c = rctx_with_cancel(rctx_background());
    is(__LINE__ - 1, 1, 0, 0);
    cr_assert_eq(rctx_err(c), 0);
  }
  nothing_is_reported();
}

Test(leaks, detached_ones_are_live) {
  rctx *c = rctx_without_cancel(rctx_background());
  is(__LINE__ - 1, 1, 0, 0);
  rctx_end(c);
  nothing_is_reported();
}

Test(leaks, what_could_not_be_derived_is_not_kept) {
  counting_open(true);
  atomic_store(&counting.fail_on, true);
  atomic_store(&counting.fail_at, 1);
  rctx *none = rctx_with_cancel(counting_root());
  cr_assert_eq(rctx_err(none), -ENOMEM);
  rctx *refused = rctx_with_signal(rctx_background(), SIGKILL, 0);
  cr_assert_eq(rctx_err(refused), -EINVAL);
  nothing_is_reported();
  rctx_end(none);
  rctx_end(refused);
  counting_close();
}

Test(leaks, without_memory_for_a_record_nothing_else_changes) {
  for (int variant = 0; variant < 2; variant++) {
    for (int64_t n = 1;; n++) {
      counting_open(variant);
      rctx *parent = rctx_with_cancel(counting_root());
      counting_fail_at(n);
      rctx *c = rctx_with_cancel(parent);
      bool refused = counting_fail_at(0);
      int err = rctx_err(c);
      cr_assert(err == 0 || err == -ENOMEM);
      look();
      rctx_end(c);
      rctx_end(parent);
      nothing_is_reported();
      counting_close();
      if (!refused) break;
    }
  }
}

Test(leaks, records_are_given_back) {
  counting_open(true);
  for (int i = 0; i < 50; i++) {
    rctx *c = rctx_with_cancel(counting_root());
    rctx *below = rctx_with_value(c, &key, NULL);
    rctx_end(i % 2 ? c : below);
    rctx_end(i % 2 ? below : c);
  }
  counting_close();
  nothing_is_reported();
}

// ---- ages ------------------------------------------------------------------------------------------------------------

Test(leaks, ages_are_those_of_the_oldest_and_the_youngest) {
  rctx *c[3];
  int64_t before = rctx_now(), after[3] = {0};
  int line = 0;
  for (int i = 0; i < 3; i++) {
    c[i] = rctx_with_cancel(rctx_background());
    line = __LINE__ - 1;
    after[i] = rctx_now();
    while (rctx_now() < after[i] + MS) {
    }
  }
  int64_t asked = rctx_now();
  look();
  int64_t answered = rctx_now();
  const struct rctx_leak *leak = line_of(line);
  cr_assert_geq(leak->oldest_ns, asked - after[0]);
  cr_assert_leq(leak->oldest_ns, answered - before);
  cr_assert_geq(leak->youngest_ns, asked - after[2]);
  cr_assert_leq(leak->youngest_ns, answered - after[1]);
  for (int i = 0; i < 3; i++) rctx_end(c[i]);
}

Test(leaks, younger_ones_are_left_out) {
  rctx *old = rctx_with_cancel(rctx_background());
  int64_t between = rctx_now();
  while (rctx_now() < between + MS) {
  }
  rctx *young[2];
  for (int i = 0; i < 2; i++) young[i] = rctx_with_cancel(old);
  int line = __LINE__ - 1;
  cr_assert_eq(look_older(3600 * SECOND), 0);
  cr_assert_eq(rctx_leaks_print(STDERR_FILENO, 3600 * SECOND), 0);
  look_older(rctx_now() - between);
  cr_assert_leq(found_count, 1);
  cr_assert(line_of(line) == NULL);
  cr_assert_eq(look_older(0), 2);
  cr_assert_eq(look_older(INT64_MIN), 2);
  cr_assert_eq(look_older(INT64_MAX), 0);
  for (int i = 0; i < 2; i++) rctx_end(young[i]);
  rctx_end(old);
}

// ---- sampling --------------------------------------------------------------------------------------------------------

Test(leaks, one_in_so_many_is_kept) {
  enum { MANY = 2000 };
  rctx *c[MANY];
  rctx_leaks_start(10);
  for (int i = 0; i < MANY; i++) c[i] = rctx_with_cancel(rctx_background());
  int line = __LINE__ - 1;
  look();
  const struct rctx_leak *leak = line_of(line);
  cr_assert_not_null(leak);
  cr_assert(leak->live >= MANY / 20 && leak->live <= MANY / 5, "%zu of %d", leak->live, (int)MANY);
  cr_assert_eq(leak->sample_every, 10U);
  for (int i = 0; i < MANY; i++) rctx_end(c[i]);
  nothing_is_reported();
}

// Two lines that take turns: neither may escape because the sample always falls on the other.
Test(leaks, lines_that_take_turns_are_both_sampled) {
  enum { MANY = 2000 };
  rctx *a[MANY], *b[MANY];
  rctx_leaks_start(2);
  for (int i = 0; i < MANY; i++) {
    a[i] = rctx_with_cancel(rctx_background());
    b[i] = rctx_with_cancel(rctx_background());
  }
  int line = __LINE__ - 3;
  look();
  cr_expect(line_of(line) != NULL, "the first of them was never kept");
  cr_expect(line_of(line + 1) != NULL, "the second of them was never kept");
  for (int i = 0; i < MANY; i++) {
    rctx_end(a[i]);
    rctx_end(b[i]);
  }
}

Test(leaks, a_very_rare_sample) {
  rctx_leaks_start(UINT32_MAX);
  for (int i = 0; i < 1000; i++) rctx_end(rctx_with_cancel(rctx_background()));
  look();
}

// ---- many lines ------------------------------------------------------------------------------------------------------

Test(leaks, many_lines_and_the_others) {
  enum { LINES = 400 };
  static struct rctx_site sites[LINES];
  static rctx *c[LINES];
  size_t sum = 0, others = 0;
  rctx_leaks_start(0);
  for (int i = 0; i < LINES; i++) {
    sites[i] = (struct rctx_site){"made", "many.c", i + 1};
    c[i] = rctx_with_cancel(rctx_background());
  }
  rctx_leaks_start(1);
  for (int i = 0; i < LINES; i++) rctx__made(c[i], &sites[i]);
  size_t lines = look();
  cr_assert(lines >= 256 && lines <= 257, "%zu", lines);
  for (size_t i = 0; i < found_count; i++) {
    bool other = strcmp(found[i].file, "(others)") == 0;
    others += other;
    sum += total(&found[i]);
    cr_assert(other || found[i].live == 1);
  }
  cr_assert_eq(sum, LINES, "%zu", sum);
  cr_assert_eq(others, 1);
  for (int i = 0; i < LINES; i++) rctx_end(c[i]);
  nothing_is_reported();
}

// One line is one line, also if the compiler made two records of it (an inline function in two files).
Test(leaks, a_line_is_told_by_file_and_number_not_by_address) {
  static const struct rctx_site a = {"made", "one.c", 7}, b = {"made", "one.c", 7};
  rctx_leaks_start(0);
  rctx *c = rctx_with_cancel(rctx_background()), *d = rctx_with_cancel(rctx_background());
  rctx_leaks_start(1);
  rctx__made(c, &a);
  rctx__made(d, &b);
  cr_assert_eq(look(), 1);
  cr_assert_eq(found[0].live, 2);
  rctx_end(c);
  rctx_end(d);
}

// ---- the walk --------------------------------------------------------------------------------------------------------

static bool first_only(const struct rctx_leak *leak, void *arg) {
  (void)leak;
  ++*(int *)arg;
  return false;
}

Test(leaks, the_walk_can_be_stopped_and_still_counts) {
  int calls = 0;
  RCTX_SCOPED rctx *a = rctx_with_cancel(rctx_background());
  RCTX_SCOPED rctx *b = rctx_with_cancel(a);
  RCTX_SCOPED rctx *c = rctx_with_cancel(b);
  cr_assert_eq(rctx_leaks_each(0, first_only, &calls), 3);
  cr_assert_eq(calls, 1);
  cr_assert_eq(rctx_err(c), 0);
}

static bool derive_inside(const struct rctx_leak *leak, void *arg) {
  (void)leak;
  rctx_end(rctx_with_cancel(rctx_background()));
  rctx_leaks_each(0, first_only, arg);
  return true;
}

Test(leaks, everything_is_legal_inside_the_walk) {
  int calls = 0;
  RCTX_SCOPED rctx *a = rctx_with_cancel(rctx_background());
  cr_assert_eq(rctx_leaks_each(0, derive_inside, &calls), 1);
  cr_assert_eq(calls, 1);
  cr_assert_eq(rctx_err(a), 0);
}

// ---- printing --------------------------------------------------------------------------------------------------------

static char said[1 << 16];

static void read_all(int fd) {
  size_t length = 0;
  for (ssize_t n; (n = read(fd, said + length, sizeof said - 1 - length)) > 0;) length += (size_t)n;
  said[length] = '\0';
  close(fd);
}

static size_t print(int64_t older_than_ns) {
  int ends[2];
  cr_assert_eq(pipe(ends), 0);
  size_t lines = rctx_leaks_print(ends[1], older_than_ns);
  close(ends[1]);
  read_all(ends[0]);
  return lines;
}

// One line of the report as the header shows it.
static void check_printed(const char *text, int line, const char *what, int live, int ended, int kept) {
  char file[256], name[64];
  int number, counts[3], used = 0;
  double youngest, oldest;
  int n = sscanf(text, "rctx: leak: %255[^:]:%d: %63[^:]: %d live, %d ended, %d kept; ages %lf s to %lf s%n", file,
                 &number, name, &counts[0], &counts[1], &counts[2], &youngest, &oldest, &used);
  cr_assert(n == 8 && used > 0 && text[used] == '\n', "%d of 8 in: %s", n, text);
  cr_assert_str_eq(file, __FILE__);
  cr_assert_str_eq(name, what);
  cr_assert(number == line && counts[0] == live && counts[1] == ended && counts[2] == kept, "%s", text);
  cr_assert(0 <= youngest && youngest <= oldest && oldest < 3600, "%s", text);
}

Test(leaks, the_report_as_text) {
  rctx *c[4];
  for (int i = 0; i < 3; i++) c[i] = rctx_with_timeout(rctx_background(), INT64_MAX);
  int line = __LINE__ - 1;
  c[3] = rctx_with_cancel(rctx_background());
  rctx_cancel(c[0]);
  cr_assert_eq(print(0), 2);
  check_printed(said, line, "rctx_with_timeout", 2, 1, 0);
  char *second = strchr(said, '\n') + 1;
  check_printed(second, line + 2, "rctx_with_cancel", 1, 0, 0);
  cr_assert_str_eq(strchr(second, '\n'), "\n", "and nothing more");
  for (int i = 0; i < 4; i++) rctx_end(c[i]);
  cr_assert_eq(print(0), 0);
  cr_assert_str_eq(said, "", "nothing when there is none");
}

Test(leaks, a_report_to_nowhere) {
  RCTX_SCOPED rctx *c = rctx_with_cancel(rctx_background());
  errno = EDOM;
  cr_assert_eq(rctx_leaks_print(-1, 0), 1);
  cr_assert_eq(errno, EDOM);
  cr_assert_eq(rctx_err(c), 0);
}

static void exit_with_a_leak(int how) {
  int ends[2], status;
  cr_assert_eq(pipe(ends), 0);
  fflush(NULL);
  pid_t child = fork();
  cr_assert_geq(child, 0);
  if (child == 0) {
    dup2(ends[1], STDERR_FILENO);
    close(ends[0]);
    rctx_leaks_start(1);
    rctx_leaks_at_exit();
    rctx_leaks_at_exit(); // twice is once
    rctx *c = rctx_with_cancel(rctx_background());
    if (how == 0) rctx_end(c);
    if (how == 2) _exit(0);
    exit(0);
  }
  close(ends[1]);
  read_all(ends[0]);
  cr_assert_eq(waitpid(child, &status, 0), child);
}

// The child of a fork ends by exit(): sanitizers would report its leak, too, and Criterion has handlers of its own.
Test(leaks_off, at_exit_what_is_left_is_printed) {
#if CHECK_LEAKS
  cr_skip_test("LeakSanitizer speaks at exit, too");
#endif
  exit_with_a_leak(1);
  const char *begin = strstr(said, "rctx: leak: ");
  cr_assert(begin != NULL, "%s", said);
  cr_assert_not_null(strstr(begin, "leaks_test.c:"));
  cr_assert_not_null(strstr(begin, "rctx_with_cancel: 1 live, 0 ended, 0 kept"));
  cr_assert(strstr(begin + 1, "rctx: leak: ") == NULL, "once: %s", said);
  exit_with_a_leak(0);
  cr_assert(strstr(said, "rctx: leak: ") == NULL, "%s", said);
  exit_with_a_leak(2);
  cr_assert(strstr(said, "rctx: leak: ") == NULL, "by exit() only: %s", said);
}

// ---- threads ---------------------------------------------------------------------------------------------------------

static atomic_bool stop_looking;

static void churn(unsigned index, void *arg) {
  (void)arg;
  for (int i = 0; index > 0 && i < 3000; i++) {
    rctx *c = rctx_with_cancel(rctx_background());
    rctx *d = i % 2 ? rctx_with_value(c, &key, NULL) : rctx_with_timeout(c, 3600 * SECOND);
    if (i % 3 == 0) rctx_cancel(c);
    rctx_end(i % 4 ? d : c);
    rctx_end(i % 4 ? c : d);
  }
  if (index > 0) return;
  for (int i = 0; i < 300; i++) {
    found_count = 0;
    rctx_leaks_each(0, collect, NULL);
    for (size_t n = 0; n < found_count; n++) {
      cr_assert_leq(total(&found[n]), 3, "%zu at once on line %d", total(&found[n]), found[n].line);
      cr_assert(0 <= found[n].youngest_ns && found[n].youngest_ns <= found[n].oldest_ns);
    }
  }
}

Test(leaks, many_threads_while_one_looks) {
  atomic_store(&rctx__chaos_mask, 5);
  threads_run(4, churn, NULL);
  atomic_store(&rctx__chaos_mask, 0);
  nothing_is_reported();
}

static void switch_setting(unsigned index, void *arg) {
  (void)arg;
  for (unsigned i = 0; index == 0 && !atomic_load(&stop_looking); i++) rctx_leaks_start(i % 4);
  for (int i = 0; index > 0 && i < 3000; i++) {
    RCTX_SCOPED rctx *c = rctx_with_cancel(rctx_background());
    cr_assert_eq(rctx_err(c), 0);
  }
  if (index == 1) atomic_store(&stop_looking, true);
}

Test(leaks, the_setting_may_change_at_any_time) {
  threads_run(3, switch_setting, NULL);
  nothing_is_reported();
}
