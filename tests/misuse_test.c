// Misuse in a checked build: NULL contexts, keys and nodes, and ending twice, print which argument of which function and
// abort. Semantics section 10, `Bad input`. The same calls in a release build: build/misuse_release_test.c.
#include "support/check.h"
#include "support/leftovers.h"

#include <pthread.h>
#include <rctx/rctx.h>
#include <rctx/testing.h>
#include <signal.h>
#include <stdarg.h>
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

static const struct rctx_key key = {.name = "key"};

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
  // Under these two nothing is cached: they see the second end before we do.
  if (CHECK_LEAKS && strstr(said, "AddressSanitizer: heap-use-after-free")) return;
  if (CHECK_UNWRITTEN && strstr(said, "MemorySanitizer: use-of-uninitialized-value")) return;
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
static struct rctx_executor executor = {.submit = submit};
static struct rctx_after node;
static struct rctx_why why;
static struct rctx_info info;
static int64_t number;
static void *slot;
static char text[8];
static bool quiet;
static rctx *kept;
static int kept_number;
static struct rctx_group group;
static struct rctx_stats stats;
static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static const struct rctx_cause cause = {-EPIPE, RCTX_ORIGIN_USER, "cause", NULL, 0, NULL, NULL};
static rctx_manager *made;
static int task(const rctx *ctx, void *arg) {
  (void)ctx;
  (void)arg;
  return 0;
}

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

/* ---- null to drains, signals, logs, leaks, tests ----------------------------------------------------------------- */

static rctx_drain *volatile no_drain;
static rctx_drain *drain;
static const char *volatile no_format;
static char *volatile no_text;
static int *volatile no_numbers;

static rctx_drain *some_drain(void) {
  if (rctx_drain_create(rctx_background(), "work", &drain) != 0) _exit(1);
  return drain;
}

static int work(const rctx *ctx, void *arg) {
  (void)ctx;
  (void)arg;
  return 0;
}

__attribute__((format(printf, 4, 5))) static void vformat(char *buf, size_t size, const rctx *ctx, const char *format,
                                                          ...) {
  va_list values;
  va_start(values, format);
  rctx_log_vformat(buf, size, ctx, RCTX_LOG_INFO, format, values);
  va_end(values);
}

ABORTS(drop_of_null, "rctx_drop", rctx_drop(none))
ABORTS(drain_create_of_null, "rctx_drain_create", (void)!rctx_drain_create(none, NULL, &drain))
ABORTS(drain_create_into_null, "rctx_drain_create",
       (void)!rctx_drain_create(rctx_background(), NULL, (rctx_drain **)nothing))
ABORTS(drain_request_of_null, "rctx_drain_request", kept = rctx_drain_request(no_drain, NULL))
ABORTS(drain_accepting_of_null, "rctx_drain_accepting", rctx_drain_accepting(no_drain))
ABORTS(drain_drained_of_null, "rctx_drain_drained", rctx_drain_drained(no_drain))
ABORTS(drain_level_of_null, "rctx_drain_level", rctx_drain_level(no_drain))
ABORTS(drain_raise_of_null, "rctx_drain_raise", rctx_drain_raise(no_drain, RCTX_DRAIN_STOP))
ABORTS(drain_raise_at_of_null, "rctx_drain_raise_at", (void)!rctx_drain_raise_at(no_drain, RCTX_DRAIN_STOP, 1))
ABORTS(drain_look_of_null, "rctx_drain_look", rctx_drain_look(no_drain, &(struct rctx_drain_left){0}))
ABORTS(drain_look_into_null, "rctx_drain_look", rctx_drain_look(some_drain(), nothing))
ABORTS(drain_run_of_null, "rctx_drain_run", rctx_drain_run(no_drain, &(struct rctx_drain_plan){0}, NULL))
ABORTS(drain_run_without_plan, "rctx_drain_run", rctx_drain_run(some_drain(), nothing, NULL))
ABORTS(drain_request_with_null_key, "rctx_d",
       kept = rctx_drain_request(some_drain(),
                                 &(struct rctx_spec){.values = &(struct rctx_value){no_key, NULL, NULL}, .nvalues = 1}))

ABORTS(with_signal_of_null, "rctx_with_signal", kept = rctx_with_signal(none, SIGTERM, 0))
ABORTS(with_signals_of_null, "rctx_with_signals", kept = rctx_with_signals(none, (int[]){SIGTERM}, 1))
ABORTS(with_signals_of_no_list, "rctx_with_signals", kept = rctx_with_signals(rctx_background(), no_numbers, 1))
ABORTS(signal_of_null, "rctx_signal_of", rctx_signal_of(none))

static char room[256];
static int write_nothing(const char *piece, size_t size, void *arg) { return (void)piece, (void)size, (void)arg, 0; }
static volatile rctx_dump_write no_write;
ABORTS(dump_of_null, "rctx_dump", rctx_dump(none, RCTX_DUMP_TEXT, room, sizeof room, write_nothing, NULL))
ABORTS(dump_to_nobody, "rctx_dump", rctx_dump(rctx_background(), RCTX_DUMP_TEXT, room, sizeof room, no_write, NULL))
ABORTS(dump_fd_of_null, "rctx_dump_fd", rctx_dump_fd(none, RCTX_DUMP_TEXT, room, sizeof room, -1))
ABORTS(prometheus_of_null, "rctx_prometheus", rctx_prometheus(no_manager, room, sizeof room))
ABORTS(prometheus_into_null, "rctx_prometheus", rctx_prometheus(rctx_manager_default(), no_text, 1))
ABORTS(log_format_into_null, "rctx_log_format", rctx_log_format(no_text, 512, rctx_background(), RCTX_LOG_INFO, "m"))
ABORTS(log_format_of_null, "rctx_log_format", rctx_log_format(text, sizeof text, none, RCTX_LOG_INFO, "m"))
ABORTS(log_format_without_format, "rctx_log_format",
       rctx_log_format(text, sizeof text, rctx_background(), RCTX_LOG_INFO, no_format, 1))
ABORTS(log_vformat_into_null, "rctx_log_vformat", vformat(no_text, 512, rctx_background(), "m"))
ABORTS(log_vformat_of_null, "rctx_log_vformat", vformat(text, sizeof text, none, "m"))
ABORTS(log_vformat_without_format, "rctx_log_vformat", vformat(text, sizeof text, rctx_background(), no_format, 1))
ABORTS(log_of_null, "rctx_log", rctx_log(-1, none, RCTX_LOG_INFO, "m"))
ABORTS(log_without_format, "rctx_log", rctx_log(-1, rctx_background(), RCTX_LOG_INFO, no_format, 1))

ABORTS(leaks_each_without_function, "rctx_leaks_each",
       rctx_leaks_each(0, (bool (*)(const struct rctx_leak *, void *))(uintptr_t)nothing, NULL))
ABORTS(test_looks_into_null, "rctx_test_looks", rctx_test_looks(work, NULL, NULL, nothing))

static rctx_test_clock *volatile no_clock;
static struct rctx_test_memory *volatile no_memory;
static int no_body(rctx_manager *manager, void *arg) {
  (void)manager;
  (void)arg;
  return 0;
}

ABORTS(test_clock_create_into_null, "rctx_test_clock_create", (void)!rctx_test_clock_create(0, nothing))
ABORTS(test_clock_create_with_null, "rctx_test_clock_create_with",
       (void)!rctx_test_clock_create_with(no_options, 0, (rctx_test_clock **)&no_clock))
ABORTS(test_clock_destroy_of_null, "rctx_test_clock_destroy", rctx_test_clock_destroy(no_clock))
ABORTS(test_clock_manager_of_null, "rctx_test_clock_manager", rctx_test_clock_manager(no_clock))
ABORTS(test_clock_background_of_null, "rctx_test_clock_background", rctx_test_clock_background(no_clock))
ABORTS(test_clock_now_of_null, "rctx_test_clock_now", rctx_test_clock_now(no_clock))
ABORTS(test_clock_of_null, "rctx_test_clock_of", rctx_test_clock_of(no_manager))
ABORTS(test_clock_set_of_null, "rctx_test_clock_set", rctx_test_clock_set(no_clock, 1))
ABORTS(test_clock_advance_of_null, "rctx_test_clock_advance", rctx_test_clock_advance(no_clock, 1))
ABORTS(test_clock_step_of_null, "rctx_test_clock_step", rctx_test_clock_step(no_clock))
ABORTS(test_clock_run_of_null, "rctx_test_clock_run", rctx_test_clock_run(no_clock, 1))
ABORTS(test_clock_auto_of_null, "rctx_test_clock_auto", rctx_test_clock_auto(no_clock, 1))
ABORTS(test_clock_waiters_of_null, "rctx_test_clock_waiters", rctx_test_clock_waiters(no_clock, 1, 1))
ABORTS(test_allocator_of_null, "rctx_test_allocator", rctx_test_allocator(no_memory))
ABORTS(test_malloc_of_null, "rctx_test_malloc", rctx_test_malloc(no_memory, 1))
ABORTS(test_free_of_null, "rctx_test_free", rctx_test_free(no_memory, text))
ABORTS(test_memory_of_null, "rctx_test_memory_of", rctx_test_memory_of(no_manager))
ABORTS(test_fail_each_into_null, "rctx_test_fail_each", rctx_test_fail_each(no_body, NULL, false, nothing))

/* ---- null elsewhere: executing, groups, waiting, managers --------------------------------------------------------- */

static struct rctx_manager *standard(void) { return rctx_manager_default(); }
static const rctx *top(void) { return rctx_background(); }

ABORTS(execute_of_null, "rctx_execute", rctx_execute(none, task, NULL, NULL, NULL))
ABORTS(executor_of_null, "rctx_manager_executor", rctx_manager_executor(no_manager))
ABORTS(task_run_of_null, "rctx_task_run", rctx_task_run(no_task))
ABORTS(task_run_of_a_task_without_run, "rctx_task_run", rctx_task_run(&(struct rctx_task){0}))

ABORTS(group_init_of_null, "rctx_group_init", rctx_group_init(no_group, top()))
ABORTS(group_init_below_null, "rctx_group_init", rctx_group_init(&group, none))
ABORTS(group_init_on_of_null, "rctx_group_init_on", rctx_group_init_on(no_group, top(), &executor))
ABORTS(group_init_on_below_null, "rctx_group_init_on", rctx_group_init_on(&group, none, &executor))
ABORTS(group_init_on_null, "rctx_group_init_on", rctx_group_init_on(&group, top(), no_executor))
ABORTS(group_ctx_of_null, "rctx_group_ctx", rctx_group_ctx(no_group))
ABORTS(group_limit_of_null, "rctx_group_limit", kept_number = rctx_group_limit(no_group, 1))
ABORTS(group_go_of_null, "rctx_group_go", rctx_group_go(no_group, task, NULL))
ABORTS(group_try_of_null, "rctx_group_try", kept_number = rctx_group_try(no_group, task, NULL))
ABORTS(group_fail_of_null, "rctx_group_fail", rctx_group_fail(no_group, &cause, &quiet))
ABORTS(group_fail_with_null, "rctx_group_fail", rctx_group_fail(&group, no_cause, &quiet))
ABORTS(group_fail_telling_null, "rctx_group_fail", rctx_group_fail(&group, &cause, no_bool))
ABORTS(group_wait_of_null, "rctx_group_wait", rctx_group_wait(no_group))
ABORTS(group_fini_of_null, "rctx_group_fini", rctx_group_fini(no_group))

ABORTS(sleep_of_null, "rctx_sleep", rctx_sleep(none, 0))
ABORTS(poll_of_null, "rctx_poll", kept_number = rctx_poll(none, NULL, 0, 0))
ABORTS(poll_of_null_descriptors, "rctx_poll", kept_number = rctx_poll(top(), no_fds, 1, 0))
ABORTS(cond_wait_of_null, "rctx_cond_wait", kept_number = rctx_cond_wait(none, &cond, &mutex))
ABORTS(cond_wait_of_null_cond, "rctx_cond_wait", kept_number = rctx_cond_wait(top(), no_cond, &mutex))
ABORTS(cond_wait_of_null_mutex, "rctx_cond_wait", kept_number = rctx_cond_wait(top(), &cond, no_mutex))

ABORTS(manager_create_of_null_options, "rctx_manager_create", kept_number = rctx_manager_create(no_options, &made))
ABORTS(manager_create_into_null, "rctx_manager_create",
       kept_number = rctx_manager_create(&(struct rctx_manager_options){0}, no_made))
ABORTS(manager_destroy_of_null, "rctx_manager_destroy", rctx_manager_destroy(no_manager))
ABORTS(manager_background_of_null, "rctx_manager_background", rctx_manager_background(no_manager))
ABORTS(manager_now_of_null, "rctx_manager_now", rctx_manager_now(no_manager))
ABORTS(next_of_null, "rctx_next", rctx_next(no_manager, 0))
ABORTS(advance_of_null, "rctx_advance", rctx_advance(no_manager, 0, 0))
ABORTS(quiesce_of_null, "rctx_quiesce", rctx_quiesce(no_manager, 0))
ABORTS(trim_of_null, "rctx_trim", rctx_trim(no_manager))
ABORTS(stats_of_null, "rctx_stats", rctx_stats(no_manager, &stats))
ABORTS(stats_into_null, "rctx_stats", rctx_stats(standard(), no_stats))
ABORTS(create_cancellable_of_null, "rctx_manager_create_cancellable",
       kept = rctx_manager_create_cancellable(no_manager, top()))
ABORTS(create_cancellable_below_null, "rctx_manager_create_cancellable",
       kept = rctx_manager_create_cancellable(standard(), none))
ABORTS(create_timeout_of_null, "rctx_manager_create_timeout", kept = rctx_manager_create_timeout(no_manager, top(), 1))
ABORTS(create_timeout_below_null, "rctx_manager_create_timeout",
       kept = rctx_manager_create_timeout(standard(), none, 1))
ABORTS(add_value_of_null, "rctx_manager_add_value", kept = rctx_manager_add_value(no_manager, top(), &key, NULL))
ABORTS(add_value_below_null, "rctx_manager_add_value", kept = rctx_manager_add_value(standard(), none, &key, NULL))
ABORTS(add_value_of_null_key, "rctx_manager_add_value", kept = rctx_manager_add_value(standard(), top(), no_key, NULL))
ABORTS(get_value_of_null, "rctx_manager_get_value", rctx_manager_get_value(no_manager, top(), &key, &slot))
ABORTS(get_value_from_null, "rctx_manager_get_value", rctx_manager_get_value(standard(), none, &key, &slot))
ABORTS(get_value_of_null_key, "rctx_manager_get_value", rctx_manager_get_value(standard(), top(), no_key, &slot))
ABORTS(get_value_into_null, "rctx_manager_get_value", rctx_manager_get_value(standard(), top(), &key, no_slot))
ABORTS(manager_execute_of_null, "rctx_manager_execute", rctx_manager_execute(no_manager, top(), task, NULL, NULL, NULL))
ABORTS(manager_execute_with_null, "rctx_manager_execute",
       rctx_manager_execute(standard(), none, task, NULL, NULL, NULL))
ABORTS(wait_for_completion_of_null, "rctx_manager_wait_for_completion",
       rctx_manager_wait_for_completion(no_manager, top(), 1))
ABORTS(wait_for_completion_with_null, "rctx_manager_wait_for_completion",
       rctx_manager_wait_for_completion(standard(), none, 1))

/* ---- several parents, deadlines that move, slices ---------------------------------------------------------------- */

static const rctx *const *volatile no_parents;
static struct rctx_merge_link *volatile no_links;
static struct rctx_sweep *volatile no_sweep;
static struct rctx_merge_link links[2];
static struct rctx_sweep sweep;

static rctx *merge_with_a_null(rctx *(*merge)(const rctx *const *, size_t)) {
  const rctx *parents[] = {top(), none};
  return merge(parents, 2);
}
static rctx *merge_in_with_a_null(rctx *(*merge)(struct rctx_merge_link *, const rctx *const *, size_t)) {
  const rctx *parents[] = {top(), none};
  return merge(links, parents, 2);
}
static const rctx *one_parent[1];
static const rctx *const *one(void) {
  one_parent[0] = top();
  return one_parent;
}

ABORTS(merge_any_of_null, "rctx_merge_any", kept = rctx_merge_any(no_parents, 1))
ABORTS(merge_any_of_none, "rctx_merge_any", kept = rctx_merge_any(one(), 0))
ABORTS(merge_any_with_a_null, "rctx_merge_any", kept = merge_with_a_null(rctx_merge_any))
ABORTS(merge_all_of_null, "rctx_merge_all", kept = rctx_merge_all(no_parents, 1))
ABORTS(merge_all_of_none, "rctx_merge_all", kept = rctx_merge_all(one(), 0))
ABORTS(merge_all_with_a_null, "rctx_merge_all", kept = merge_with_a_null(rctx_merge_all))
ABORTS(merge_any_in_null, "rctx_merge_any_in", kept = rctx_merge_any_in(no_links, one(), 1))
ABORTS(merge_any_in_of_null, "rctx_merge_any_in", kept = rctx_merge_any_in(links, no_parents, 1))
ABORTS(merge_any_in_with_a_null, "rctx_merge_any_in", kept = merge_in_with_a_null(rctx_merge_any_in))
ABORTS(merge_all_in_null, "rctx_merge_all_in", kept = rctx_merge_all_in(no_links, one(), 1))
ABORTS(merge_all_in_of_null, "rctx_merge_all_in", kept = rctx_merge_all_in(links, no_parents, 1))
ABORTS(merge_all_in_with_a_null, "rctx_merge_all_in", kept = merge_in_with_a_null(rctx_merge_all_in))
ABORTS(move_deadline_of_null, "rctx_move_deadline", kept_number = rctx_move_deadline(none, 1))
ABORTS(with_idle_below_null, "rctx_with_idle", kept = rctx_with_idle(none, 1))
ABORTS(touch_of_null, "rctx_touch", rctx_touch(none))
ABORTS(touch_at_of_null, "rctx_touch_at", rctx_touch_at(none, 1))
ABORTS(cancel_begin_of_null, "rctx_cancel_begin", quiet = rctx_cancel_begin(none, NULL, &sweep))
ABORTS(cancel_begin_into_null, "rctx_cancel_begin", quiet = rctx_cancel_begin(rctx_with_cancel(top()), NULL, no_sweep))
ABORTS(cancel_step_of_null, "rctx_cancel_step", quiet = rctx_cancel_step(no_sweep, 1))

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

static int cleaned;
static void clean(void *arg) {
  (void)arg;
  cleaned++;
}

Test(misuse, a_task_that_is_null_is_refused_and_cleaned_up, .fini = nothing_left_by_default) {
  rctx_work_fn volatile no_function = NULL;
  struct rctx_group zeroed = {0};
  enum rctx_outcome outcome = RCTX_FINISHED;
  cr_assert_eq(rctx_execute(top(), no_function, NULL, clean, &outcome), -EINVAL);
  cr_assert(cleaned == 1 && outcome == RCTX_NOT_STARTED);
  outcome = RCTX_FINISHED;
  cr_assert_eq(rctx_manager_execute(standard(), top(), no_function, NULL, clean, &outcome), -EINVAL);
  cr_assert(cleaned == 2 && outcome == RCTX_NOT_STARTED);
  cr_assert_eq(rctx_group_go(&zeroed, no_function, NULL), -EINVAL);
  cr_assert_eq(rctx_group_try(&zeroed, no_function, NULL), -EINVAL);
  cr_assert_eq(rctx_group_fini(&zeroed), 0);
}

Test(misuse, an_executor_without_submit_is_refused) {
  rctx_manager *refused = NULL;
  struct rctx_executor empty = {0};
  cr_assert_eq(rctx_manager_create(&(struct rctx_manager_options){.executor = &empty}, &refused), -EINVAL);
  cr_assert_null(refused);
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

/* ---- budgets and headers (budget.h, propagate.h) ------------------------------------------------------------------ */

static volatile int said_int;
static volatile int64_t said_ns;
static struct rctx_headers *volatile no_headers;
static struct rctx_baggage *volatile no_writer;
static struct rctx_baggage_reader *volatile no_reader;
static struct rctx_traceparent *volatile no_trace;
static uint8_t *volatile no_bytes;
static struct rctx_text broken_text(void) { return (struct rctx_text){nothing, 3}; }
static const struct rctx_text empty_text = {NULL, 0};
static struct rctx_headers empty_list(void) { return rctx_headers_of(NULL, 0); }
static struct rctx_received received;
static struct rctx_baggage_member member;
static struct rctx_baggage writer;
static struct rctx_baggage_reader reader;
static struct rctx_traceparent trace = {{1}, {1}, 0, 0};
static struct rctx_text piece;
static const uint8_t bytes[24] = {1};

ABORTS(budget_of_null, "rctx_budget", said_ns = rctx_budget(none, 0))
ABORTS(budget_at_of_null, "rctx_budget_at", said_ns = rctx_budget_at(none, 0, 0))
ABORTS(budget_try_of_null, "rctx_budget_try", said_ns = rctx_budget_try(none, 1, 0, 0))
ABORTS(budget_try_at_of_null, "rctx_budget_try_at", said_ns = rctx_budget_try_at(none, 0, 1, 0, 0))
ABORTS(budget_share_of_null, "rctx_budget_share", said_ns = rctx_budget_share(none, 1, 1, 0, 0))
ABORTS(budget_share_at_of_null, "rctx_budget_share_at", said_ns = rctx_budget_share_at(none, 0, 1, 1, 0, 0))
ABORTS(budget_require_of_null, "rctx_budget_require", said_int = rctx_budget_require(none, 0))
ABORTS(budget_require_at_of_null, "rctx_budget_require_at", said_int = rctx_budget_require_at(none, 0, 0))

ABORTS(grpc_timeout_from_null, "rctx_grpc_timeout_from", said_int = rctx_grpc_timeout_from(none, 0, text, 8))
ABORTS(grpc_timeout_from_at_null, "rctx_grpc_timeout_from_at",
       said_int = rctx_grpc_timeout_from_at(none, 0, 0, text, 8))
ABORTS(timeout_ms_from_null, "rctx_timeout_ms_from", said_int = rctx_timeout_ms_from(none, 0, text, 8))
ABORTS(timeout_ms_from_at_null, "rctx_timeout_ms_from_at", said_int = rctx_timeout_ms_from_at(none, 0, 0, text, 8))
ABORTS(grpc_timeout_into_null, "rctx_grpc_timeout_encode", said_int = rctx_grpc_timeout_encode(1, nothing, 8))
ABORTS(timeout_ms_into_null, "rctx_timeout_ms_encode", said_int = rctx_timeout_ms_encode(1000000, nothing, 8))
ABORTS(grpc_timeout_of_broken_text, "rctx_grpc_timeout_decode",
       said_int = rctx_grpc_timeout_decode(broken_text(), &number, NULL))
ABORTS(grpc_timeout_to_null, "rctx_grpc_timeout_decode",
       said_int = rctx_grpc_timeout_decode(empty_text, (int64_t *)nothing, NULL))
ABORTS(timeout_ms_of_broken_text, "rctx_timeout_ms_decode",
       said_int = rctx_timeout_ms_decode(broken_text(), &number, NULL))
ABORTS(timeout_ms_to_null, "rctx_timeout_ms_decode",
       said_int = rctx_timeout_ms_decode(empty_text, (int64_t *)nothing, NULL))

ABORTS(headers_of_null, "rctx_headers_of", rctx_headers_of((struct rctx_header *)nothing, 1))
ABORTS(received_below_null, "rctx_budget_from_headers", struct rctx_headers list = empty_list();
       said_int = rctx_budget_from_headers(none, 0, &list, NULL, &received))
ABORTS(received_in_null_headers, "rctx_budget_from_headers",
       said_int = rctx_budget_from_headers(rctx_background(), 0, no_headers, NULL, &received))
ABORTS(received_in_headers_without_next, "rctx_budget_from_headers",
       said_int = rctx_budget_from_headers(rctx_background(), 0, &(struct rctx_headers){0}, NULL, &received))
ABORTS(received_to_null, "rctx_budget_from_headers", struct rctx_headers list = empty_list();
       said_int = rctx_budget_from_headers(rctx_background(), 0, &list, NULL, (struct rctx_received *)nothing))

ABORTS(traceparent_to_null, "rctx_traceparent_parse", said_int = rctx_traceparent_parse(empty_text, no_trace, NULL))
ABORTS(traceparent_of_broken_text, "rctx_traceparent_parse",
       said_int = rctx_traceparent_parse(broken_text(), &trace, NULL))
ABORTS(traceparent_of_null, "rctx_traceparent_format", said_int = rctx_traceparent_format(no_trace, text, 56))
ABORTS(traceparent_into_null, "rctx_traceparent_format", said_int = rctx_traceparent_format(&trace, nothing, 56))
ABORTS(traceparent_next_of_null, "rctx_traceparent_next", said_int = rctx_traceparent_next(no_trace, bytes, &trace))
ABORTS(traceparent_next_without_bytes, "rctx_traceparent_next",
       said_int = rctx_traceparent_next(&trace, no_bytes, &trace))
ABORTS(traceparent_next_to_null, "rctx_traceparent_next", said_int = rctx_traceparent_next(&trace, bytes, no_trace))
ABORTS(traceparent_start_without_bytes, "rctx_traceparent_start",
       said_int = rctx_traceparent_start(no_bytes, true, &trace))
ABORTS(traceparent_start_to_null, "rctx_traceparent_start", said_int = rctx_traceparent_start(bytes, true, no_trace))
ABORTS(trace_in_null_headers, "rctx_trace_from_headers",
       said_int = rctx_trace_from_headers(no_headers, &trace, text, sizeof text, NULL))
ABORTS(trace_to_null, "rctx_trace_from_headers", struct rctx_headers list = empty_list();
       said_int = rctx_trace_from_headers(&list, no_trace, text, sizeof text, NULL))
ABORTS(trace_with_a_null_list, "rctx_trace_from_headers", struct rctx_headers list = empty_list();
       said_int = rctx_trace_from_headers(&list, &trace, nothing, 8, NULL))

ABORTS(tracestate_of_broken_text, "rctx_tracestate_check", said_int = rctx_tracestate_check(broken_text(), NULL))
ABORTS(tracestate_find_of_broken_text, "rctx_tracestate_find",
       said_int = rctx_tracestate_find(empty_text, broken_text(), &piece))
ABORTS(tracestate_find_to_null, "rctx_tracestate_find",
       said_int = rctx_tracestate_find(empty_text, empty_text, (struct rctx_text *)nothing))
ABORTS(tracestate_update_of_broken_text, "rctx_tracestate_update",
       said_int = rctx_tracestate_update(empty_text, broken_text(), empty_text, text, 8, NULL))
ABORTS(tracestate_update_into_null, "rctx_tracestate_update",
       said_int = rctx_tracestate_update(empty_text, empty_text, empty_text, nothing, 8, NULL))

ABORTS(baggage_read_of_null, "rctx_baggage_read", reader = rctx_baggage_read(no_headers))
ABORTS(baggage_read_of_broken_text, "rctx_baggage_read_text", reader = rctx_baggage_read_text(broken_text()))
ABORTS(baggage_next_of_null, "rctx_baggage_next", rctx_baggage_next(no_reader, &member))
ABORTS(baggage_next_to_null, "rctx_baggage_next", rctx_baggage_next(&reader, (struct rctx_baggage_member *)nothing))
ABORTS(baggage_property_of_null, "rctx_baggage_property",
       rctx_baggage_property((struct rctx_text *)nothing, &piece, &piece))
ABORTS(baggage_decode_of_broken_text, "rctx_baggage_decode", said_int = rctx_baggage_decode(broken_text(), text, 8))
ABORTS(baggage_decode_into_null, "rctx_baggage_decode", said_int = rctx_baggage_decode(empty_text, nothing, 8))
ABORTS(baggage_begin_into_null, "rctx_baggage_begin", writer = rctx_baggage_begin(nothing, 8))
ABORTS(baggage_add_to_null, "rctx_baggage_add", rctx_baggage_add(no_writer, empty_text, empty_text, empty_text))
ABORTS(baggage_add_of_broken_text, "rctx_baggage_add", rctx_baggage_add(&writer, broken_text(), empty_text, empty_text))
ABORTS(baggage_copy_to_null, "rctx_baggage_copy", rctx_baggage_copy(no_writer, &member))
ABORTS(baggage_copy_of_null, "rctx_baggage_copy", rctx_baggage_copy(&writer, (struct rctx_baggage_member *)nothing))
ABORTS(baggage_forward_to_null, "rctx_baggage_forward", struct rctx_headers list = empty_list();
       rctx_baggage_forward(no_writer, &list))
ABORTS(baggage_forward_of_null, "rctx_baggage_forward", rctx_baggage_forward(&writer, no_headers))
ABORTS(baggage_values_to_null, "rctx_baggage_add_values", rctx_baggage_add_values(no_writer, rctx_background()))
ABORTS(baggage_values_of_null, "rctx_baggage_add_values", rctx_baggage_add_values(&writer, none))
ABORTS(baggage_from_null, "rctx_baggage_from", said_int = rctx_baggage_from(none, text, sizeof text, NULL))
ABORTS(baggage_from_into_null, "rctx_baggage_from", said_int = rctx_baggage_from(rctx_background(), nothing, 8, NULL))

/* ---- contexts that are gone -------------------------------------------------------------------------------------- */

static rctx *gone(void) {
  rctx *c = rctx_with_cancel(rctx_background());
  rctx_end(c);
  return c;
}

ABORTS(deriving_below_one_that_is_gone, "rctx_with_cancel", kept = rctx_with_cancel(gone()))
ABORTS(cancelling_one_that_is_gone, "rctx_cancel", rctx_cancel(gone()))
ABORTS(beginning_to_cancel_one_that_is_gone, "rctx_cancel_begin", quiet = rctx_cancel_begin(gone(), NULL, &sweep))
ABORTS(moving_the_deadline_of_one_that_is_gone, "rctx_move_deadline", kept_number = rctx_move_deadline(gone(), 1))
ABORTS(touching_one_that_is_gone, "rctx_touch", rctx_touch(gone()))
ABORTS(keeping_one_that_is_gone, "rctx_ref", rctx_ref(gone()))
ABORTS(giving_back_one_that_is_gone, "rctx_unref", rctx_unref(gone()))
ABORTS(dropping_one_that_is_gone, "rctx_drop", rctx_drop(gone()))

ABORTS(with_values_of_no_list, "rctx_with_values", kept = rctx_with_values(rctx_background(), nothing, 1))
ABORTS(derive_with_no_list, "rctx_derive", kept = rctx_derive(rctx_background(), &(struct rctx_spec){.nvalues = 1}))
ABORTS(test_clock_create_with_into_null, "rctx_test_clock_create_with",
       (void)!rctx_test_clock_create_with(&(struct rctx_manager_options){.drive = RCTX_DRIVE_THREAD}, 0, nothing))
