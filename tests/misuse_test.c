// Misuse in a checked build: NULL contexts, keys and nodes, and ending twice, print which argument of which function and
// abort. Semantics section 10, `Bad input`. The same calls in a release build: build/misuse_release_test.c.
#include "support/check.h"
#include "support/leftovers.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

TestSuite(misuse, .timeout = 60);

// The compiler must not see these: it would warn, which is tested elsewhere (build/headers.py).
static rctx *volatile none;
static const struct rctx_key *volatile no_key;
static struct rctx_after *volatile no_node;
static void *volatile nothing;

static const struct rctx_key key = {"key", NULL, NULL};

// Runs it in a process of its own, which must die of SIGABRT after naming the function on stderr.
static void dies_saying(void (*misuse)(void), const char *function) {
  char said[4096] = "";
  size_t length = 0;
  int out[2], status = 0;
  cr_assert_eq(pipe(out), 0);
  pid_t child = fork();
  cr_assert_geq(child, 0);
  if (child == 0) {
    signal(SIGABRT, SIG_DFL);
    setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
    dup2(out[1], STDERR_FILENO);
    misuse();
    _exit(0);
  }
  close(out[1]);
  for (ssize_t got; (got = read(out[0], said + length, sizeof said - 1 - length)) > 0;) length += (size_t)got;
  close(out[0]);
  cr_assert_eq(waitpid(child, &status, 0), child);
  // Under AddressSanitizer nothing is cached: it sees the second end before we do.
  if (CHECK_LEAKS && strstr(said, "AddressSanitizer: heap-use-after-free")) return;
  cr_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT, "%s: status %x, said: %s", function, status, said);
  cr_assert_not_null(strstr(said, function), "which function? said: %s", said);
  cr_assert_not_null(strstr(said, "rctx"), "who speaks? said: %s", said);
}

#define ABORTS(name, function, call)                                                                                   \
  static void misuse_##name(void) { call; }                                                                            \
  Test(misuse, name##_aborts) { dies_saying(misuse_##name, function); }

static void nop(const rctx *ctx, void *arg) {
  (void)ctx;
  (void)arg;
}
static bool each(const struct rctx_key *k, void *value, void *arg) {
  (void)k;
  (void)value;
  (void)arg;
  return true;
}
static void submit(struct rctx_executor *self, struct rctx_task *task) {
  (void)self;
  rctx_task_run(task);
}
static struct rctx_executor executor = {submit};
static struct rctx_after node;
static struct rctx_why why;
static struct rctx_info info;
static int64_t number;
static void *slot;
static char text[8];
static bool quiet;
static rctx *kept;

/* ---- deriving from null (TestInvalidDerivedFail) ----------------------------------------------------------------- */

ABORTS(with_cancel_of_null__TestInvalidDerivedFail, "rctx_with_cancel", kept = rctx_with_cancel(none))
ABORTS(with_deadline_of_null__TestInvalidDerivedFail, "rctx_with_deadline", kept = rctx_with_deadline(none, 1))
ABORTS(with_timeout_of_null__probe, "rctx_with_timeout", kept = rctx_with_timeout(none, 1))
ABORTS(with_timeout_at_of_null, "rctx_with_timeout_at", kept = rctx_with_timeout_at(none, 1, 1))
ABORTS(with_deadline_cause_of_null, "rctx_with_deadline", kept = rctx_with_deadline_cause(none, 1, NULL))
ABORTS(with_timeout_cause_of_null, "rctx_with_timeout", kept = rctx_with_timeout_cause(none, 1, NULL))
ABORTS(with_timeout_at_cause_of_null, "rctx_with_timeout_at", kept = rctx_with_timeout_at_cause(none, 1, 1, NULL))
ABORTS(without_cancel_of_null__probe, "rctx_without_cancel", kept = rctx_without_cancel(none))
ABORTS(derive_of_null, "rctx_derive", kept = rctx_derive(none, &(struct rctx_spec){0}))
ABORTS(with_value_of_null__TestInvalidDerivedFail, "rctx_with_value", kept = rctx_with_value(none, &key, NULL))
ABORTS(with_values_of_null, "rctx_with_values", kept = rctx_with_values(none, NULL, 0))
ABORTS(after_of_null__probe, "rctx_after", rctx_after(none, &node, nop, NULL))

/* ---- null keys (TestWithValueChecksKey) -------------------------------------------------------------------------- */

ABORTS(with_value_of_null_key__TestWithValueChecksKey, "rctx_with_value",
       kept = rctx_with_value(rctx_background(), no_key, NULL))
ABORTS(with_values_of_null_key, "rctx_with_values",
       kept = rctx_with_values(rctx_background(), &(struct rctx_value){no_key, NULL, NULL}, 1))
ABORTS(derive_with_null_key, "rctx_derive",
       kept = rctx_derive(rctx_background(),
                          &(struct rctx_spec){.values = &(struct rctx_value){no_key, NULL, NULL}, .nvalues = 1}))
ABORTS(get_of_null_key, "rctx_get", rctx_get(rctx_background(), no_key, &slot))

/* ---- null elsewhere ---------------------------------------------------------------------------------------------- */

ABORTS(cancel_of_null, "rctx_cancel", rctx_cancel(none))
ABORTS(cancel_cause_of_null, "rctx_cancel_cause", rctx_cancel_cause(none, NULL))
ABORTS(end_of_null, "rctx_end", rctx_end(none))
ABORTS(end_cause_of_null, "rctx_end_cause", rctx_end_cause(none, NULL))
ABORTS(ref_of_null, "rctx_ref", rctx_ref(none))
ABORTS(unref_of_null, "rctx_unref", rctx_unref(none))
ABORTS(err_of_null, "rctx_err", rctx_err(none))
ABORTS(cause_of_null, "rctx_cause", rctx_cause(none))
ABORTS(why_of_null, "rctx_why", rctx_why(none, &why))
ABORTS(deadline_of_null, "rctx_deadline", rctx_deadline(none, &number))
ABORTS(remaining_of_null, "rctx_remaining", rctx_remaining(none))
ABORTS(remaining_at_of_null, "rctx_remaining_at", rctx_remaining_at(none, 1))
ABORTS(now_of_null, "rctx_now_of", rctx_now_of(none))
ABORTS(name_of_null, "rctx_name", rctx_name(none))
ABORTS(describe_of_null, "rctx_describe", rctx_describe(none, text, sizeof text))
ABORTS(get_of_null, "rctx_get", rctx_get(none, &key, &slot))
ABORTS(each_value_of_null, "rctx_each_value", rctx_each_value(none, each, NULL))
ABORTS(alloc_of_null, "rctx_alloc", rctx_alloc(none, 1))
ABORTS(wait_of_null, "rctx_wait", rctx_wait(none, 0))
ABORTS(fd_of_null, "rctx_fd", rctx_fd(none))
ABORTS(inspect_of_null, "rctx_inspect", rctx_inspect(none, &info))
ABORTS(manager_of_null, "rctx_manager_of", rctx_manager_of(none))
ABORTS(after_inline_of_null, "rctx_after_inline", rctx_after_inline(none, &node, RCTX_ON_ENDED_TELL, nop, NULL))
ABORTS(after_on_of_null, "rctx_after_on", rctx_after_on(none, &node, &executor, RCTX_ON_ENDED_TELL, nop, NULL))
ABORTS(watch_of_null, "rctx_watch", rctx_watch(none, &node, (rctx_loop *)text, RCTX_ON_ENDED_TELL, nop, NULL))

ABORTS(after_of_null_node, "rctx_after", rctx_after(rctx_background(), no_node, nop, NULL))
ABORTS(after_inline_of_null_node, "rctx_after_inline",
       rctx_after_inline(rctx_background(), no_node, RCTX_ON_ENDED_TELL, nop, NULL))
ABORTS(after_on_of_null_node, "rctx_after_on",
       rctx_after_on(rctx_background(), no_node, &executor, RCTX_ON_ENDED_TELL, nop, NULL))
ABORTS(watch_of_null_node, "rctx_watch",
       rctx_watch(rctx_background(), no_node, (rctx_loop *)text, RCTX_ON_ENDED_TELL, nop, NULL))
ABORTS(stop_of_null, "rctx_after_stop", rctx_after_stop(no_node))
ABORTS(stop_sync_of_null, "rctx_after_stop_sync", rctx_after_stop_sync(no_node))
ABORTS(stop_notify_of_null, "rctx_after_stop_notify", rctx_after_stop_notify(no_node, free, NULL, &quiet))

/* ---- ending twice ------------------------------------------------------------------------------------------------ */

static void end_twice(void) {
  rctx *c = rctx_with_cancel(rctx_background());
  rctx_end(c);
  rctx_end(c);
}

static void end_twice_while_referenced(void) {
  rctx *c = rctx_with_cancel(rctx_background());
  rctx_ref(c);
  rctx_end(c);
  rctx_end(c);
}

static void end_twice_below_a_parent(void) {
  rctx *parent = rctx_with_cancel(rctx_background());
  rctx *c = rctx_with_timeout(parent, INT64_MAX);
  rctx_end(c);
  rctx_end(c);
}

static void end_twice_with_children(void) {
  rctx *c = rctx_with_cancel(rctx_background());
  rctx *child = rctx_with_cancel(c);
  rctx_end(c);
  rctx_end(c);
  rctx_end(child);
}

static void end_and_scope(void) {
  RCTX_SCOPED rctx *c = rctx_with_cancel(rctx_background());
  rctx_end(c);
}

ABORTS(ending_twice__bad_input, "rctx_end", end_twice())
ABORTS(ending_twice_while_referenced__bad_input, "rctx_end", end_twice_while_referenced())
ABORTS(ending_twice_below_a_parent__bad_input, "rctx_end", end_twice_below_a_parent())
ABORTS(ending_twice_with_children__bad_input, "rctx_end", end_twice_with_children())
ABORTS(ending_by_hand_and_by_scope__bad_input, "rctx_end", end_and_scope())

Test(misuse, ending_twice_dies_of_sigabrt, .signal = SIGABRT) { end_twice_while_referenced(); }
Test(misuse, a_null_context_dies_of_sigabrt, .signal = SIGABRT) { kept = rctx_with_cancel(none); }

/* ---- what is no misuse ------------------------------------------------------------------------------------------- */

Test(misuse, a_function_that_is_null_is_refused, .fini = nothing_left_by_default) {
  struct rctx_after registration = {0};
  rctx_after_fn no_function = (rctx_after_fn)(uintptr_t)nothing;
  RCTX_SCOPED rctx *c = rctx_with_cancel(rctx_background());
  cr_assert_eq(rctx_after(c, &registration, no_function, NULL), -EINVAL);
  cr_assert_eq(rctx_after_inline(c, &registration, RCTX_ON_ENDED_TELL, no_function, NULL), -EINVAL);
  cr_assert_eq(rctx_after_on(c, &registration, &executor, RCTX_ON_ENDED_TELL, no_function, NULL), -EINVAL);
  cr_assert_not(rctx_after_stop(&registration), "nothing was registered");
}

/* ---- errors and their texts -------------------------------------------------------------------------------------- */

Test(misuse, texts_of_the_two_errors__probe) {
  cr_assert_str_eq(rctx_strerror(-ECANCELED), "context canceled");
  cr_assert_str_eq(rctx_strerror(-ETIMEDOUT), "context deadline exceeded");
  cr_assert_str_eq(rctx_strerror(0), "context is live");
  cr_assert_neq(-ECANCELED, -ETIMEDOUT);
}

Test(misuse, texts_of_other_errors_are_the_c_librarys) {
  cr_assert_str_eq(rctx_strerror(-ENOMEM), strerror(ENOMEM));
  cr_assert_str_eq(rctx_strerror(-ECONNRESET), strerror(ECONNRESET));
  int odd[] = {1, -4095, -100000, INT32_MAX, INT32_MIN};
  for (int i = 0; i < 5; i++) cr_assert_not_null(rctx_strerror(odd[i]), "never NULL");
}

// Go asks an error whether it is a timeout; here it is the number: no other end is -ETIMEDOUT unless somebody says so.
Test(misuse, a_deadline_is_a_timeout__TestDeadlineExceededSupportsTimeout_IsNetError, .fini = nothing_left_by_default) {
  RCTX_SCOPED rctx *c = rctx_with_timeout(rctx_background(), 0);
  RCTX_SCOPED rctx *cancelled = rctx_with_timeout(rctx_background(), INT64_MAX);
  rctx_cancel(cancelled);
  cr_assert_eq(rctx_err(c), -ETIMEDOUT);
  cr_assert_eq(rctx_err(cancelled), -ECANCELED);
}
