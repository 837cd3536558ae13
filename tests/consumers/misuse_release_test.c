// Misuse in a release build: NULL gives -EINVAL (a derivation: a context that has ended with it) and nothing else happens.
// Linked with a library that is compiled without RCTX_CHECK, whatever the rest of the build has.
#include "support/check.h"
#include "support/leftovers.h"

#include <pthread.h>
#include <rctx/testing.h>
#include <stdarg.h>
#include <string.h>

TestSuite(misuse_release, .fini = nothing_left_by_default, .timeout = 60);

static rctx *volatile none;
static const struct rctx_key *volatile no_key;
static struct rctx_after *volatile no_node;
static rctx_manager *volatile no_manager;
static struct rctx_executor *volatile no_executor;
static struct rctx_task *volatile no_task;
static struct rctx_group *volatile no_group;
static const struct rctx_cause *volatile no_cause;
static bool *volatile no_bool;
static void **volatile no_slot;
static struct pollfd *volatile no_fds;
static pthread_cond_t *volatile no_cond;
static pthread_mutex_t *volatile no_mutex;
static const struct rctx_manager_options *volatile no_options;
static rctx_manager **volatile no_made;
static struct rctx_stats *volatile no_stats;
static rctx_work_fn volatile no_function;
static const struct rctx_key key = {.name = "key"};

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

static int destroyed;
static void destroy_value(void *value) {
  (void)value;
  destroyed++;
}
static void destroy_cause(const struct rctx_cause *self) {
  (void)self;
  destroyed++;
}

// A derivation refused: ended with -EINVAL, says so, and is as harmless to hold and to end as any other.
static void refused(rctx *c) {
  struct rctx_why why;
  cr_assert_not_null(c);
  cr_assert_eq(rctx_err(c), -EINVAL);
  cr_assert_eq(rctx_why(c, &why), -EINVAL);
  cr_assert_eq(why.origin, RCTX_ORIGIN_MISUSE);
  cr_assert_eq(rctx_wait(c, INT64_MAX), -EINVAL);
  cr_assert_not(rctx_cancel(c));
  RCTX_SCOPED rctx *below = rctx_with_cancel(c);
  cr_assert_eq(rctx_err(below), -EINVAL);
  rctx_unref(rctx_ref(c));
  rctx_end(c);
}

Test(misuse_release, deriving_from_null_gives_an_ended_context__TestInvalidDerivedFail) {
  refused(rctx_with_cancel(none));
  refused(rctx_with_deadline(none, INT64_MAX));
  refused(rctx_with_timeout(none, 1000));
  refused(rctx_with_timeout_at(none, 1, 1000));
  refused(rctx_without_cancel(none));
  refused(rctx_derive(none, &(struct rctx_spec){0}));
  refused(rctx_with_value(none, &key, NULL));
  refused(rctx_with_values(none, NULL, 0));
}

Test(misuse_release, what_was_transferred_is_destroyed_once) {
  static const struct rctx_cause cause = {-ETIMEDOUT, RCTX_ORIGIN_USER, NULL, NULL, 0, NULL, destroy_cause};
  struct rctx_value values[] = {{&key, NULL, destroy_value}, {no_key, NULL, destroy_value}};
  refused(rctx_with_deadline_cause(none, 1, &cause));
  refused(rctx_with_timeout_cause(none, 1, &cause));
  refused(rctx_with_timeout_at_cause(none, 1, 1, &cause));
  cr_assert_eq(destroyed, 3);
  refused(rctx_with_values(none, values, 2));
  cr_assert_eq(destroyed, 5);
  refused(rctx_with_values(rctx_background(), values, 2));
  cr_assert_eq(destroyed, 7, "a NULL key: no value is lost");
  refused(
      rctx_derive(rctx_background(),
                  &(struct rctx_spec){.values = values, .nvalues = 2, .timeout_ns = 1000, .deadline_cause = &cause}));
  cr_assert_eq(destroyed, 10);
}

Test(misuse_release, a_null_key_gives_an_ended_context__TestWithValueChecksKey) {
  void *value = &destroyed;
  refused(rctx_with_value(rctx_background(), no_key, NULL));
  cr_assert_not(rctx_get(rctx_background(), no_key, &value));
  cr_assert_eq(value, (void *)&destroyed);
}

Test(misuse_release, looking_at_null_says_einval_or_nothing) {
  struct rctx_why why;
  struct rctx_info info;
  int64_t number = 17;
  void *value = &destroyed;
  char text[8] = "#######";
  cr_assert_eq(rctx_err(none), -EINVAL);
  cr_assert_eq(rctx_why(none, &why), -EINVAL);
  cr_assert_eq(rctx_wait(none, INT64_MAX), -EINVAL);
  cr_assert_eq(rctx_fd(none), -EINVAL);
  rctx_cause(none);
  cr_assert_not(rctx_deadline(none, &number));
  cr_assert_eq(number, 17);
  cr_assert_eq(rctx_remaining(none), 0);
  cr_assert_eq(rctx_remaining_at(none, 1), 0);
  rctx_now_of(none);
  cr_assert_null(rctx_name(none));
  rctx_describe(none, text, sizeof text);
  cr_assert_not(rctx_get(none, &key, &value));
  cr_assert_eq(rctx_each_value(none, each, NULL), 0);
  cr_assert_null(rctx_alloc(none, 8));
  rctx_inspect(none, &info);
  rctx_manager_of(none);
}

Test(misuse_release, ending_null_does_nothing) {
  cr_assert_not(rctx_cancel(none));
  cr_assert_not(rctx_cancel_cause(none, NULL));
  rctx_end(none);
  rctx_end_cause(none, NULL);
  rctx_unref(none);
  rctx_ref(none);
}

Test(misuse_release, registering_with_null_is_refused) {
  struct rctx_executor executor = {.submit = submit};
  struct rctx_after node = {0};
  rctx_loop *loop;
  bool quiet = false;
  cr_assert_eq(rctx_loop_create(&loop), 0);
  RCTX_SCOPED rctx *c = rctx_with_cancel(rctx_background());
  cr_assert_eq(rctx_after(none, &node, nop, NULL), -EINVAL);
  cr_assert_eq(rctx_after_inline(none, &node, RCTX_ON_ENDED_RUN, nop, NULL), -EINVAL);
  cr_assert_eq(rctx_after_on(none, &node, &executor, RCTX_ON_ENDED_RUN, nop, NULL), -EINVAL);
  cr_assert_eq(rctx_watch(none, &node, loop, RCTX_ON_ENDED_RUN, nop, NULL), -EINVAL);
  cr_assert_eq(rctx_after(c, no_node, nop, NULL), -EINVAL);
  cr_assert_eq(rctx_after_inline(c, no_node, RCTX_ON_ENDED_RUN, nop, NULL), -EINVAL);
  cr_assert_eq(rctx_after_on(c, no_node, &executor, RCTX_ON_ENDED_RUN, nop, NULL), -EINVAL);
  cr_assert_eq(rctx_watch(c, no_node, loop, RCTX_ON_ENDED_RUN, nop, NULL), -EINVAL);
  cr_assert_not(rctx_after_stop(no_node));
  cr_assert_not(rctx_after_stop_sync(no_node));
  rctx_after_stop_notify(no_node, destroy_value, NULL, &quiet);
  cr_assert_eq(destroyed, 0);
  cr_assert_not(rctx_after_stop(&node), "nothing was registered");
  rctx_loop_destroy(loop);
}

/* ---- drains, signals, logs, leaks, tests ------------------------------------------------------------------------- */

static rctx_drain *volatile no_drain;
static const char *volatile no_format;
static char *volatile no_text;
static void *volatile nothing;

Test(misuse_release, drains_of_null) {
  struct rctx_drain_left left;
  rctx_drain *drain = (rctx_drain *)&destroyed;
  cr_assert_eq(rctx_drain_create(none, NULL, &drain), -EINVAL);
  cr_assert_eq(drain, (rctx_drain *)&destroyed, "written only on success");
  cr_assert_eq(rctx_drain_create(rctx_background(), NULL, (rctx_drain **)nothing), -EINVAL);
  refused(rctx_drain_request(no_drain, NULL));
  cr_assert_eq(rctx_err(rctx_drain_accepting(no_drain)), -EINVAL);
  cr_assert_eq(rctx_err(rctx_drain_drained(no_drain)), -EINVAL);
  rctx_drain_level(no_drain);
  cr_assert_not(rctx_drain_raise(no_drain, RCTX_DRAIN_CANCEL));
  cr_assert_eq(rctx_drain_raise_at(no_drain, RCTX_DRAIN_CANCEL, 1), -EINVAL);
  rctx_drain_look(no_drain, &left);
  cr_assert_eq(rctx_drain_run(no_drain, &(struct rctx_drain_plan){0}, &left), -EINVAL);
  rctx_drain_destroy(no_drain);
  cr_assert_eq(rctx_drain_create(rctx_background(), NULL, &drain), 0);
  rctx_drain_look(drain, nothing);
  cr_assert_eq(rctx_drain_run(drain, nothing, &left), -EINVAL);
  cr_assert_eq(rctx_drain_level(drain), RCTX_DRAIN_OPEN, "and nothing else");
  rctx_drain_destroy(drain);
}

Test(misuse_release, what_is_transferred_to_a_drain_of_null_is_destroyed_once) {
  static const struct rctx_cause cause = {-ETIMEDOUT, RCTX_ORIGIN_USER, NULL, NULL, 0, NULL, destroy_cause};
  struct rctx_value value = {&key, NULL, destroy_value};
  refused(rctx_drain_request(
      no_drain, &(struct rctx_spec){.values = &value, .nvalues = 1, .timeout_ns = 1000, .deadline_cause = &cause}));
  cr_assert_eq(destroyed, 2, "%d", destroyed);
}

Test(misuse_release, signals_of_null) {
  refused(rctx_with_signal(none, SIGUSR1, 0));
  refused(rctx_with_signals(none, (int[]){SIGUSR1}, 1));
  refused(rctx_with_signals(rctx_background(), nothing, 1));
  cr_assert_eq(rctx_signal_of(none), 0);
}

__attribute__((format(printf, 4, 5))) static size_t vformat(char *buf, size_t size, const rctx *ctx, const char *format,
                                                            ...) {
  va_list values;
  va_start(values, format);
  size_t length = rctx_log_vformat(buf, size, ctx, RCTX_LOG_INFO, format, values);
  va_end(values);
  return length;
}

Test(misuse_release, logs_of_null) {
  char line[512];
  cr_assert_eq(rctx_log_format(no_text, sizeof line, rctx_background(), RCTX_LOG_INFO, "m"), 0);
  memset(line, '#', sizeof line);
  cr_assert_eq(rctx_log_format(line, sizeof line, none, RCTX_LOG_INFO, "m"), 0);
  cr_assert_str_eq(line, "", "an empty text, so that it can be printed");
  memset(line, '#', sizeof line);
  cr_assert_eq(rctx_log_format(line, sizeof line, rctx_background(), RCTX_LOG_INFO, no_format, 1), 0);
  cr_assert_str_eq(line, "");
  cr_assert_eq(vformat(no_text, sizeof line, rctx_background(), "m"), 0);
  cr_assert_eq(vformat(line, sizeof line, none, "m"), 0);
  cr_assert_eq(vformat(line, sizeof line, rctx_background(), no_format, 1), 0);
  cr_assert_eq(rctx_log(-1, none, RCTX_LOG_INFO, "m"), -EINVAL);
  cr_assert_eq(rctx_log(-1, rctx_background(), RCTX_LOG_INFO, no_format, 1), -EINVAL);
}

static int work(const rctx *ctx, void *arg) {
  (void)ctx;
  (void)arg;
  return 0;
}

Test(misuse_release, leaks_and_looks_of_null) {
  rctx_leaks_start(1);
  cr_assert_eq(rctx_leaks_each(0, (bool (*)(const struct rctx_leak *, void *))(uintptr_t)nothing, NULL), 0);
  cr_assert_eq(rctx_test_looks(work, NULL, NULL, nothing), -EINVAL);
  rctx_drop(none);
}

static int ran;
static int task(const rctx *ctx, void *arg) {
  (void)ctx;
  (void)arg;
  ran++;
  return 0;
}

static void clean(void *arg) { ++*(int *)arg; }

Test(misuse_release, executing_with_null_is_refused_and_cleaned_up) {
  rctx_manager *standard = rctx_manager_default();
  const rctx *top = rctx_background();
  int cleaned = 0;
  enum rctx_outcome outcome = RCTX_FINISHED;
  cr_assert_eq(rctx_execute(none, task, &cleaned, clean, &outcome), -EINVAL);
  cr_assert_eq(outcome, RCTX_NOT_STARTED);
  cr_assert_eq(rctx_execute(top, no_function, &cleaned, clean, NULL), -EINVAL);
  cr_assert_eq(rctx_manager_execute(no_manager, top, task, &cleaned, clean, NULL), -EINVAL);
  cr_assert_eq(rctx_manager_execute(standard, none, task, &cleaned, clean, NULL), -EINVAL);
  cr_assert_eq(rctx_manager_execute(standard, top, no_function, &cleaned, clean, &outcome), -EINVAL);
  cr_assert_eq(outcome, RCTX_NOT_STARTED);
  cr_assert_eq(cleaned, 5, "%d", cleaned);
  cr_assert_eq(ran, 0);
  rctx_task_run(no_task);
  rctx_task_run(&(struct rctx_task){0});
  rctx_manager_executor(no_manager);
}

Test(misuse_release, groups_of_null_say_einval) {
  static const struct rctx_cause cause = {-EPIPE, RCTX_ORIGIN_USER, NULL, NULL, 0, NULL, destroy_cause};
  struct rctx_executor executor = {.submit = submit};
  struct rctx_group group = {0};
  bool taken = true;
  rctx_group_init(no_group, rctx_background());
  rctx_group_init_on(no_group, rctx_background(), &executor);
  rctx_group_ctx(no_group);
  cr_assert_eq(rctx_group_limit(no_group, 1), -EINVAL);
  cr_assert_eq(rctx_group_go(no_group, task, NULL), -EINVAL);
  cr_assert_eq(rctx_group_try(no_group, task, NULL), -EINVAL);
  cr_assert_eq(rctx_group_wait(no_group), -EINVAL);
  cr_assert_eq(rctx_group_fini(no_group), -EINVAL);
  cr_assert_not(rctx_group_fail(no_group, &cause, &taken));
  cr_assert_not(rctx_group_fail(&group, no_cause, &taken));
  cr_assert_not(rctx_group_fail(&group, &cause, no_bool));
  cr_assert_eq(rctx_group_wait(&group), 0, "it has not failed");
  cr_assert_eq(rctx_group_fini(&group), 0);
  cr_assert(ran == 0 && destroyed == 0);
}

Test(misuse_release, a_group_below_null_is_harmless) {
  struct rctx_executor executor = {.submit = submit};
  for (int i = 0; i < 3; i++) {
    struct rctx_group group;
    memset(&group, 0x5a, sizeof group);
    if (i == 0) rctx_group_init(&group, none);
    if (i == 1) rctx_group_init_on(&group, none, &executor);
    if (i == 2) rctx_group_init_on(&group, rctx_background(), no_executor);
    cr_assert_not_null(rctx_group_ctx(&group));
    cr_assert_eq(rctx_group_go(&group, task, NULL), 0);
    rctx_group_wait(&group);
    rctx_group_fini(&group);
    cr_assert_eq(ran, i + 1);
  }
}

Test(misuse_release, waiting_for_null_says_einval) {
  pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
  pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
  RCTX_SCOPED rctx *c = rctx_with_cancel(rctx_background());
  pthread_mutex_lock(&mutex);
  cr_assert_eq(rctx_sleep(none, INT64_MAX), -EINVAL);
  cr_assert_eq(rctx_poll(none, NULL, 0, INT64_MAX), -EINVAL);
  cr_assert_eq(rctx_poll(c, no_fds, 1, INT64_MAX), -EINVAL);
  cr_assert_eq(rctx_cond_wait(none, &cond, &mutex), -EINVAL);
  cr_assert_eq(rctx_cond_wait(c, no_cond, &mutex), -EINVAL);
  cr_assert_eq(rctx_cond_wait(c, &cond, no_mutex), -EINVAL);
  cr_assert_eq(rctx_manager_wait_for_completion(no_manager, c, INT64_MAX), -EINVAL);
  cr_assert_eq(rctx_manager_wait_for_completion(rctx_manager_default(), none, INT64_MAX), -EINVAL);
  pthread_mutex_unlock(&mutex);
}

Test(misuse_release, managers_of_null_say_einval_or_nothing) {
  rctx_manager *made = NULL, *standard = rctx_manager_default();
  struct rctx_executor empty = {0};
  struct rctx_stats stats;
  void *value = &destroyed;
  cr_assert_eq(rctx_manager_create(no_options, &made), -EINVAL);
  cr_assert_eq(rctx_manager_create(&(struct rctx_manager_options){0}, no_made), -EINVAL);
  cr_assert_eq(rctx_manager_create(&(struct rctx_manager_options){.executor = &empty}, &made), -EINVAL);
  cr_assert_null(made);
  cr_assert_eq(rctx_manager_destroy(no_manager), -EINVAL);
  cr_assert_eq(rctx_quiesce(no_manager, INT64_MAX), -EINVAL);
  cr_assert_eq(rctx_trim(no_manager), 0);
  cr_assert_eq(rctx_advance(no_manager, 0, 0), 0);
  rctx_next(no_manager, 0);
  rctx_manager_now(no_manager);
  rctx_manager_background(no_manager);
  rctx_stats(no_manager, &stats);
  rctx_stats(standard, no_stats);
  refused(rctx_manager_create_cancellable(no_manager, rctx_background()));
  refused(rctx_manager_create_cancellable(standard, none));
  refused(rctx_manager_create_timeout(no_manager, rctx_background(), 1000));
  refused(rctx_manager_create_timeout(standard, none, 1000));
  refused(rctx_manager_add_value(no_manager, rctx_background(), &key, NULL));
  refused(rctx_manager_add_value(standard, none, &key, NULL));
  refused(rctx_manager_add_value(standard, rctx_background(), no_key, NULL));
  cr_assert_not(rctx_manager_get_value(no_manager, rctx_background(), &key, &value));
  cr_assert_not(rctx_manager_get_value(standard, none, &key, &value));
  cr_assert_not(rctx_manager_get_value(standard, rctx_background(), no_key, &value));
  cr_assert_not(rctx_manager_get_value(standard, rctx_background(), &key, no_slot));
  cr_assert_eq(value, (void *)&destroyed);
}

Test(misuse_release, budgets_of_null_are_nothing) {
  cr_assert_eq(rctx_budget(none, 0), 0);
  cr_assert_eq(rctx_budget_at(none, 0, 0), 0);
  cr_assert_eq(rctx_budget_try(none, 1, 0, 0), 0);
  cr_assert_eq(rctx_budget_try_at(none, 0, 1, 0, 0), 0);
  cr_assert_eq(rctx_budget_share(none, 1, 1, 0, 0), 0);
  cr_assert_eq(rctx_budget_share_at(none, 0, 1, 1, 0, 0), 0);
  cr_assert_eq(rctx_budget_require(none, 0), -EINVAL);
  cr_assert_eq(rctx_budget_require_at(none, 0, 0), -EINVAL);
}

static struct rctx_headers *volatile no_headers;
static const struct rctx_text empty_text;

Test(misuse_release, codecs_without_a_place_or_a_text_say_einval) {
  struct rctx_text broken = {nothing, 3}, piece;
  struct rctx_traceparent trace = {{1}, {1}, 0, 0};
  static const uint8_t bytes[24] = {1};
  int64_t ns = 17;
  char buf[64] = "#";
  cr_assert_eq(rctx_grpc_timeout_encode(1, nothing, 8), -EINVAL);
  cr_assert_eq(rctx_timeout_ms_encode(1000000, nothing, 8), -EINVAL);
  cr_assert_eq(rctx_grpc_timeout_decode(broken, &ns, NULL), -EINVAL);
  cr_assert_eq(rctx_timeout_ms_decode(broken, &ns, NULL), -EINVAL);
  cr_assert_eq(rctx_grpc_timeout_decode(empty_text, nothing, NULL), -EINVAL);
  cr_assert_eq(rctx_timeout_ms_decode(empty_text, nothing, NULL), -EINVAL);
  cr_assert_eq(rctx_grpc_timeout_from(none, 0, buf, sizeof buf), -EINVAL);
  cr_assert_eq(rctx_grpc_timeout_from_at(none, 0, 0, buf, sizeof buf), -EINVAL);
  cr_assert_eq(rctx_timeout_ms_from(none, 0, buf, sizeof buf), -EINVAL);
  cr_assert_eq(rctx_timeout_ms_from_at(none, 0, 0, buf, sizeof buf), -EINVAL);
  cr_assert_eq(rctx_traceparent_parse(broken, &trace, NULL), -EINVAL);
  cr_assert_eq(rctx_traceparent_parse(empty_text, nothing, NULL), -EINVAL);
  cr_assert_eq(rctx_traceparent_format(nothing, buf, sizeof buf), -EINVAL);
  cr_assert_eq(rctx_traceparent_format(&trace, nothing, 56), -EINVAL);
  cr_assert_eq(rctx_traceparent_next(nothing, bytes, &trace), -EINVAL);
  cr_assert_eq(rctx_traceparent_next(&trace, nothing, &trace), -EINVAL);
  cr_assert_eq(rctx_traceparent_next(&trace, bytes, nothing), -EINVAL);
  cr_assert_eq(rctx_traceparent_start(nothing, true, &trace), -EINVAL);
  cr_assert_eq(rctx_traceparent_start(bytes, true, nothing), -EINVAL);
  cr_assert_eq(rctx_tracestate_check(broken, NULL), -EINVAL);
  cr_assert_eq(rctx_tracestate_find(broken, empty_text, &piece), -EINVAL);
  cr_assert_eq(rctx_tracestate_find(empty_text, empty_text, nothing), -EINVAL);
  cr_assert_eq(rctx_tracestate_update(empty_text, empty_text, broken, buf, sizeof buf, NULL), -EINVAL);
  cr_assert_eq(rctx_tracestate_update(empty_text, empty_text, empty_text, nothing, 8, NULL), -EINVAL);
  cr_assert_eq(ns, 17);
  cr_assert_eq(buf[0], '#');
}

Test(misuse_release, headers_that_are_null_have_nothing_in_them) {
  struct rctx_headers list = rctx_headers_of(nothing, 3), no_next = {0};
  struct rctx_header unnamed = {{nothing, 3}, {nothing, 3}}, valueless = {rctx_text_of("grpc-timeout"), {nothing, 3}};
  struct rctx_received received;
  struct rctx_traceparent trace;
  cr_assert_eq(rctx_budget_from_headers(rctx_background(), 0, &list, NULL, &received), 0);
  cr_assert_eq(received.source, RCTX_HEADER_NONE);
  cr_assert_eq(rctx_budget_from_headers(none, 0, &list, NULL, &received), -EINVAL);
  cr_assert_eq(rctx_budget_from_headers(rctx_background(), 0, no_headers, NULL, &received), -EINVAL);
  cr_assert_eq(rctx_budget_from_headers(rctx_background(), 0, &no_next, NULL, &received), -EINVAL);
  cr_assert_eq(rctx_budget_from_headers(rctx_background(), 0, &list, NULL, nothing), -EINVAL);
  list = rctx_headers_of(&unnamed, 1);
  cr_assert_eq(rctx_trace_from_headers(&list, &trace, NULL, 0, NULL), -ENOENT);
  cr_assert_eq(rctx_trace_from_headers(no_headers, &trace, NULL, 0, NULL), -EINVAL);
  cr_assert_eq(rctx_trace_from_headers(&list, nothing, NULL, 0, NULL), -EINVAL);
  cr_assert_eq(rctx_trace_from_headers(&list, &trace, nothing, 8, NULL), -EINVAL);
  list = rctx_headers_of(&valueless, 1);
  cr_assert_eq(rctx_budget_from_headers(rctx_background(), 0, &list, NULL, &received), 0);
  cr_assert_eq(received.refused, RCTX_FAULT_EMPTY);
}

Test(misuse_release, baggage_of_null_is_empty) {
  struct rctx_text broken = {nothing, 3}, piece;
  struct rctx_baggage_member member = {{0}, {0}, {0}};
  struct rctx_headers list = rctx_headers_of(NULL, 0);
  struct rctx_baggage_reader reader = rctx_baggage_read(no_headers);
  struct rctx_baggage out = rctx_baggage_begin(nothing, 8);
  char buf[8];
  cr_assert_not(rctx_baggage_next(&reader, &member));
  reader = rctx_baggage_read_text(broken);
  cr_assert_not(rctx_baggage_next(&reader, &member));
  cr_assert_not(rctx_baggage_next(nothing, &member));
  cr_assert_not(rctx_baggage_next(&reader, nothing));
  cr_assert_not(rctx_baggage_property(nothing, &piece, &piece));
  cr_assert_eq(rctx_baggage_decode(broken, buf, sizeof buf), -EINVAL);
  cr_assert_eq(rctx_baggage_decode(empty_text, nothing, 8), -EINVAL);
  cr_assert_eq(rctx_baggage_add(nothing, empty_text, empty_text, empty_text), -EINVAL);
  cr_assert_eq(rctx_baggage_add(&out, broken, empty_text, empty_text), -EINVAL);
  cr_assert_eq(rctx_baggage_add(&out, rctx_text_of("k"), empty_text, empty_text), -ENOSPC,
               "a buffer that is NULL has no room");
  cr_assert_eq(rctx_baggage_copy(nothing, &member), -EINVAL);
  cr_assert_eq(rctx_baggage_copy(&out, nothing), -EINVAL);
  cr_assert_eq(rctx_baggage_forward(nothing, &list), 0);
  cr_assert_eq(rctx_baggage_forward(&out, no_headers), 0);
  cr_assert_eq(rctx_baggage_add_values(nothing, rctx_background()), 0);
  cr_assert_eq(rctx_baggage_add_values(&out, none), 0);
  cr_assert_eq(rctx_baggage_from(none, buf, sizeof buf, NULL), -EINVAL);
  cr_assert_eq(rctx_baggage_from(rctx_background(), nothing, 8, NULL), -EINVAL);
}

/* ---- what is left ------------------------------------------------------------------------------------------------ */

Test(misuse_release, places_to_write_to_that_are_null) {
  struct rctx_info *volatile no_info = nothing;
  rctx_inspect(rctx_background(), no_info);
  cr_assert_eq(rctx_why(rctx_background(), nothing), -EINVAL);
  cr_assert_not(rctx_deadline(rctx_background(), nothing));
  cr_assert_not(rctx_get(rctx_background(), &key, nothing));
  cr_assert_eq(rctx_describe(none, nothing, 0), 0);
  cr_assert_eq(rctx_loop_create(nothing), -EINVAL);
  cr_assert_eq(rctx_loop_fd(nothing), -EINVAL);
  cr_assert_eq(rctx_loop_drain(nothing, 1), 0);
  cr_assert_eq(rctx_test_clock_create(0, nothing), -EINVAL);
  cr_assert_eq(
      rctx_each_value(rctx_background(), (bool (*)(const struct rctx_key *, void *, void *))(uintptr_t)nothing, NULL),
      0);
}

Test(misuse_release, lists_and_specs_that_are_null) {
  refused(rctx_with_values(rctx_background(), nothing, 1));
  refused(rctx_derive(rctx_background(), nothing));
  refused(rctx_derive(rctx_background(), &(struct rctx_spec){.nvalues = 1}));
}

Test(misuse_release, registering_with_half_a_table_or_no_function_is_refused) {
  struct rctx_executor empty = {0};
  struct rctx_after node = {0};
  struct rctx_group group;
  bool quiet = false;
  RCTX_SCOPED rctx *c = rctx_with_cancel(rctx_background());
  cr_assert_eq(rctx_after_on(c, &node, no_executor, RCTX_ON_ENDED_RUN, nop, NULL), -EINVAL);
  cr_assert_eq(rctx_after_on(c, &node, &empty, RCTX_ON_ENDED_RUN, nop, NULL), -EINVAL);
  cr_assert_eq(rctx_watch(c, &node, nothing, RCTX_ON_ENDED_RUN, nop, NULL), -EINVAL);
  cr_assert_eq(rctx_after_inline(c, &node, RCTX_ON_ENDED_TELL, nop, NULL), 0);
  cr_assert_not(rctx_after_stop_notify(&node, (void (*)(void *))(uintptr_t)nothing, NULL, &quiet));
  cr_assert_not(rctx_after_stop_notify(&node, destroy_value, NULL, nothing));
  cr_assert(rctx_after_stop(&node), "it was left alone");
  memset(&group, 0x5a, sizeof group);
  rctx_group_init_on(&group, c, &empty);
  rctx_group_wait(&group);
  rctx_group_fini(&group);
  cr_assert_eq(destroyed, 0);
}

Test(misuse_release, merges_of_nothing_are_refused) {
  const rctx *parents[] = {rctx_background(), none};
  const rctx *const *volatile no_parents = NULL;
  struct rctx_merge_link links[2], *volatile no_links = NULL;
  rctx *(*const makers[])(const rctx *const *, size_t) = {rctx_merge_any, rctx_merge_all};
  rctx *(*const makers_in[])(struct rctx_merge_link *, const rctx *const *, size_t) = {rctx_merge_any_in,
                                                                                       rctx_merge_all_in};
  for (int i = 0; i < 2; i++) {
    refused(makers[i](no_parents, 1));
    refused(makers[i](parents, 0));
    refused(makers[i](parents, (size_t)UINT32_MAX + 1));
    refused(makers[i](parents, 2));
    refused(makers_in[i](links, no_parents, 1));
    refused(makers_in[i](links, parents, 0));
    refused(makers_in[i](links, parents, (size_t)UINT32_MAX + 1));
    refused(makers_in[i](links, parents, 2));
    refused(makers_in[i](no_links, parents, 1));
  }
}

Test(misuse_release, each_broken_text_of_several) {
  struct rctx_text broken = {nothing, 3}, fine = rctx_text_of("k"), piece, rest = fine;
  struct rctx_headers no_next = {0};
  struct rctx_baggage_member members[] = {{broken, fine, {0}}, {fine, broken, {0}}, {fine, fine, broken}};
  char buf[64] = "";
  struct rctx_baggage out = rctx_baggage_begin(buf, sizeof buf);
  for (int i = 0; i < 3; i++) cr_assert_eq(rctx_baggage_copy(&out, &members[i]), -EINVAL, "%d", i);
  cr_assert_eq(rctx_baggage_add(&out, fine, broken, empty_text), -EINVAL);
  cr_assert_eq(rctx_baggage_add(&out, fine, fine, broken), -EINVAL);
  cr_assert_eq(rctx_baggage_forward(&out, &no_next), 0);
  cr_assert_eq(out.length, 0);
  cr_assert_not(rctx_baggage_property(&rest, nothing, &piece));
  cr_assert_not(rctx_baggage_property(&rest, &piece, nothing));
  cr_assert_not(rctx_baggage_property(&broken, &piece, &piece));
  struct rctx_baggage_reader reader = rctx_baggage_read(&no_next);
  cr_assert_not(rctx_baggage_next(&reader, &members[0]));
  cr_assert_eq(rctx_tracestate_update(broken, fine, fine, buf, sizeof buf, NULL), -EINVAL);
  cr_assert_eq(rctx_tracestate_update(fine, broken, fine, buf, sizeof buf, NULL), -EINVAL);
}
