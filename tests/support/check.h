// check.h - the one header a test file includes for Test() and cr_assert*().
//
// It is Criterion, except where Criterion can not run (ThreadSanitizer, MemorySanitizer, valgrind, qemu: RCTX_TEST_SHIM): there the same test bodies
// are run by check.c, which forks a process per test as Criterion does, takes --filter, and prints the same closing line.
// In builds with LeakSanitizer each test ends with a leak check; Criterion alone lets leaks pass with exit code 0.
#ifndef RCTX_TESTS_CHECK_H
#define RCTX_TESTS_CHECK_H

#if defined(__SANITIZE_ADDRESS__)
#define CHECK_LEAKS 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define CHECK_LEAKS 1
#endif
#endif
#ifndef CHECK_LEAKS
#define CHECK_LEAKS 0
#endif
#if defined(__has_feature)
#if __has_feature(memory_sanitizer)
#define CHECK_UNWRITTEN 1
#endif
#endif
#ifndef CHECK_UNWRITTEN
#define CHECK_UNWRITTEN 0
#endif
#define CHECK_UNCACHED (CHECK_LEAKS || CHECK_UNWRITTEN) // every node is an allocation of its own, which they watch

#include <signal.h> // for .signal = SIGABRT

#if CHECK_LEAKS
#include <sanitizer/lsan_interface.h>
#endif

#if defined(RCTX_TSAN) && !defined(RCTX_TEST_SHIM)
#define RCTX_TEST_SHIM 1
#endif

#ifndef RCTX_TEST_SHIM

#include <criterion/criterion.h>
#include <criterion/logging.h>

// Criterion hands a test's description to the test's process at an odd address; UBSan would see that.
#define CHECK_ODD_ADDRESS __attribute__((no_sanitize("undefined")))

CHECK_ODD_ADDRESS static inline const char *check_suite(void) { return criterion_current_test->category; }
CHECK_ODD_ADDRESS static inline const char *check_name(void) { return criterion_current_test->name; }

#if CHECK_LEAKS
// Criterion's own process runs none of our code, and now and then leaks 48 bytes of Criterion's: no check there.
__attribute__((weak)) bool check_ran_a_test;
__attribute__((weak)) int __lsan_is_turned_off(void) { return !check_ran_a_test; }

// The clean-ups run here, not in Criterion's teardown: they must come before the leak check, and after the teardown began
// Criterion counts no failure any more.
CHECK_ODD_ADDRESS static inline void check_clean_up(struct criterion_test_extra_data *data) {
  void (*fini)(void) = data ? data->fini : NULL;
  if (!fini) return;
  data->fini = NULL;
  fini();
}

CHECK_ODD_ADDRESS static inline void check_run(void (*body)(void)) {
  check_ran_a_test = true;
  body();
  check_clean_up(criterion_current_test->data);
  check_clean_up(criterion_current_suite->data);
  cr_assert(!__lsan_do_recoverable_leak_check(), "memory leaked, see the report above");
}

#undef CR_TEST_TRAMPOLINE_
#define CR_TEST_TRAMPOLINE_(Category, Name)                                                                            \
  static void CR_IDENTIFIER_(Category, Name, body)(void) { check_run(CR_IDENTIFIER_(Category, Name, impl)); }          \
  static void CR_IDENTIFIER_(Category, Name, jmp)(void) {                                                              \
    criterion_internal_test_setup();                                                                                   \
    criterion_internal_test_main(CR_IDENTIFIER_(Category, Name, body));                                                \
    criterion_internal_test_teardown();                                                                                \
  }
#endif

#else

#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

struct check_options {
  const char *file;
  unsigned line;
  void (*init)(void);
  void (*fini)(void);
  int signal;    // the test must die of this signal
  int exit_code; // or end the process with this code
  bool disabled;
  const char *description;
  double timeout; // seconds; 0: none. Multiplied by RCTX_TIME_SCALE from the environment
};

struct check_test {
  const char *suite;
  const char *name; // NULL: this entry only holds a suite's options
  void (*body)(void);
  struct check_options options;
};

const char *check_suite(void);
const char *check_name(void);
void check_failed(bool fatal, const char *file, unsigned line, const char *what, const char *format, ...)
    __attribute__((format(printf, 5, 6)));
void check_log(const char *level, const char *format, ...) __attribute__((format(printf, 2, 3)));
void check_skip(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

#define CHECK_ENTRY_(id, suite_, name_, body_, ...)                                                                    \
  static const struct check_test id##_entry = {                                                                        \
      suite_, name_, body_, {.file = __FILE__, .line = __LINE__, ##__VA_ARGS__}};                                      \
  __attribute__((used, section("check_tests"))) static const struct check_test *const id##_pointer = &id##_entry

#define Test(suite_, name_, ...)                                                                                       \
  static void suite_##_##name_##_body(void);                                                                           \
  CHECK_ENTRY_(suite_##_##name_, #suite_, #name_, suite_##_##name_##_body, ##__VA_ARGS__);                             \
  static void suite_##_##name_##_body(void)
#define TestSuite(suite_, ...) CHECK_ENTRY_(suite_##_suite, #suite_, NULL, NULL, ##__VA_ARGS__)

// The leading x lets a call without message through -Wformat-zero-length; check_failed() skips it.
#define CHECK_(fatal, condition, text, ...)                                                                            \
  do {                                                                                                                 \
    if (!(condition)) check_failed(fatal, __FILE__, __LINE__, text, "x" __VA_ARGS__);                                  \
  } while (0)
#define CHECK_OP_(fatal, op, a, b, ...) CHECK_(fatal, (a)op(b), "(" #a ") " #op " (" #b ")", ##__VA_ARGS__)
#define CHECK_STR_(fatal, op, a, b, ...)                                                                               \
  do {                                                                                                                 \
    const char *check_a_ = (a), *check_b_ = (b);                                                                       \
    CHECK_(fatal, check_a_ &&check_b_ &&strcmp(check_a_, check_b_) op 0, "(" #a ") " #op " (" #b ")", ##__VA_ARGS__);  \
  } while (0)
#define CHECK_MEM_(fatal, op, a, b, size, ...)                                                                         \
  CHECK_(fatal, memcmp(a, b, size) op 0, "(" #a ") " #op " (" #b ") as bytes", ##__VA_ARGS__)

#define cr_assert(c, ...) CHECK_(true, c, #c, ##__VA_ARGS__)
#define cr_assert_not(c, ...) CHECK_(true, !(c), "!(" #c ")", ##__VA_ARGS__)
#define cr_assert_eq(a, b, ...) CHECK_OP_(true, ==, a, b, ##__VA_ARGS__)
#define cr_assert_neq(a, b, ...) CHECK_OP_(true, !=, a, b, ##__VA_ARGS__)
#define cr_assert_lt(a, b, ...) CHECK_OP_(true, <, a, b, ##__VA_ARGS__)
#define cr_assert_leq(a, b, ...) CHECK_OP_(true, <=, a, b, ##__VA_ARGS__)
#define cr_assert_gt(a, b, ...) CHECK_OP_(true, >, a, b, ##__VA_ARGS__)
#define cr_assert_geq(a, b, ...) CHECK_OP_(true, >=, a, b, ##__VA_ARGS__)
#define cr_assert_null(p, ...) CHECK_OP_(true, ==, p, NULL, ##__VA_ARGS__)
#define cr_assert_not_null(p, ...) CHECK_OP_(true, !=, p, NULL, ##__VA_ARGS__)
#define cr_assert_str_eq(a, b, ...) CHECK_STR_(true, ==, a, b, ##__VA_ARGS__)
#define cr_assert_str_neq(a, b, ...) CHECK_STR_(true, !=, a, b, ##__VA_ARGS__)
#define cr_assert_arr_eq(a, b, n, ...) CHECK_MEM_(true, ==, a, b, n, ##__VA_ARGS__)
#define cr_assert_fail(...) CHECK_(true, false, "the test failed", ##__VA_ARGS__)
#define cr_fatal(...) cr_assert_fail(__VA_ARGS__)

#define cr_expect(c, ...) CHECK_(false, c, #c, ##__VA_ARGS__)
#define cr_expect_not(c, ...) CHECK_(false, !(c), "!(" #c ")", ##__VA_ARGS__)
#define cr_expect_eq(a, b, ...) CHECK_OP_(false, ==, a, b, ##__VA_ARGS__)
#define cr_expect_neq(a, b, ...) CHECK_OP_(false, !=, a, b, ##__VA_ARGS__)
#define cr_expect_lt(a, b, ...) CHECK_OP_(false, <, a, b, ##__VA_ARGS__)
#define cr_expect_leq(a, b, ...) CHECK_OP_(false, <=, a, b, ##__VA_ARGS__)
#define cr_expect_gt(a, b, ...) CHECK_OP_(false, >, a, b, ##__VA_ARGS__)
#define cr_expect_geq(a, b, ...) CHECK_OP_(false, >=, a, b, ##__VA_ARGS__)
#define cr_expect_null(p, ...) CHECK_OP_(false, ==, p, NULL, ##__VA_ARGS__)
#define cr_expect_not_null(p, ...) CHECK_OP_(false, !=, p, NULL, ##__VA_ARGS__)
#define cr_expect_str_eq(a, b, ...) CHECK_STR_(false, ==, a, b, ##__VA_ARGS__)
#define cr_expect_str_neq(a, b, ...) CHECK_STR_(false, !=, a, b, ##__VA_ARGS__)
#define cr_expect_arr_eq(a, b, n, ...) CHECK_MEM_(false, ==, a, b, n, ##__VA_ARGS__)
#define cr_expect_fail(...) CHECK_(false, false, "the test failed", ##__VA_ARGS__)

#define cr_skip_test(...) check_skip("x" __VA_ARGS__)
#define cr_log_info(...) check_log("info", __VA_ARGS__)
#define cr_log_warn(...) check_log("warn", __VA_ARGS__)
#define cr_log_error(...) check_log("error", __VA_ARGS__)

#endif
#endif
