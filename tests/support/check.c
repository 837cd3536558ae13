// check.c - runs the tests that check.h declared where Criterion can not: a process per test, forked from this one.
#include "support/check.h"

#include <fnmatch.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { EXIT_FAILED = 101, EXIT_SKIPPED = 102 }; // what a test's process says; no test expects these codes
enum outcome { PASSED, FAILED, CRASHED, SKIPPED };

extern const struct check_test *const __start_check_tests[] __attribute__((weak));
extern const struct check_test *const __stop_check_tests[] __attribute__((weak));

static const struct check_test *current;
static atomic_bool expectation_failed;

const char *check_suite(void) { return current ? current->suite : "none"; }
const char *check_name(void) { return current ? current->name : "none"; }

void check_failed(bool fatal, const char *file, unsigned line, const char *what, const char *format, ...) {
  char message[512];
  va_list args;
  va_start(args, format);
  vsnprintf(message, sizeof message, format + 1, args);
  va_end(args);
  fprintf(stderr, "[----] %s:%u: Assertion Failed\n[----]   %s\n", file, line, message[0] ? message : what);
  fflush(NULL);
  if (fatal) _exit(EXIT_FAILED); // from whichever thread; the others may be in the middle of anything
  atomic_store(&expectation_failed, true);
}

void check_log(const char *level, const char *format, ...) {
  char message[512];
  va_list args;
  va_start(args, format);
  vsnprintf(message, sizeof message, format, args);
  va_end(args);
  fprintf(stderr, "[----] %s/%s: %s: %s\n", check_suite(), check_name(), level, message);
}

void check_skip(const char *format, ...) {
  char message[512];
  va_list args;
  va_start(args, format);
  vsnprintf(message, sizeof message, format + 1, args);
  va_end(args);
  fprintf(stderr, "[SKIP] %s/%s: %s\n", check_suite(), check_name(), message);
  fflush(NULL);
  _exit(EXIT_SKIPPED);
}

// The options given by TestSuite(), or none.
static const struct check_options *suite_options(const char *suite) {
  static const struct check_options none;
  for (const struct check_test *const *t = __start_check_tests; t < __stop_check_tests; t++)
    if (!(*t)->name && strcmp((*t)->suite, suite) == 0) return &(*t)->options;
  return &none;
}

static void run_body(const struct check_test *test, const struct check_options *suite) {
  if (suite->init) suite->init();
  if (test->options.init) test->options.init();
  test->body();
  if (test->options.fini) test->options.fini();
  if (suite->fini) suite->fini();
#if CHECK_LEAKS
  if (__lsan_do_recoverable_leak_check())
    check_failed(true, test->options.file, test->options.line, "", "xmemory leaked");
#endif
}

// Waits for the child; false: it took longer than seconds (0: for ever) and was killed.
static bool wait_for(pid_t child, double seconds, int *status) {
  sigset_t mask;
  sigemptyset(&mask);
  sigaddset(&mask, SIGCHLD);
  struct timespec limit = {.tv_sec = (time_t)seconds, .tv_nsec = (long)((seconds - (double)(time_t)seconds) * 1e9)};
  bool in_time = seconds <= 0 || sigtimedwait(&mask, NULL, &limit) == SIGCHLD;
  if (!in_time) kill(-child, SIGKILL);
  while (waitpid(child, status, 0) < 0) {
  }
  kill(-child, SIGKILL);         // whatever the test left behind in its process group
  if (in_time && seconds <= 0) { // leave no pending signal to be taken for the next child's
    struct timespec none = {0};
    sigtimedwait(&mask, NULL, &none);
  }
  return in_time;
}

static enum outcome judge(const struct check_test *test, int want_signal, int want_code, int status) {
  const char *name = test->name, *suite = test->suite;
  if (WIFSIGNALED(status)) {
    if (WTERMSIG(status) == want_signal) return PASSED;
    fprintf(stderr, "[FAIL] %s/%s: CRASH! died of signal %d (%s)\n", suite, name, WTERMSIG(status),
            strsignal(WTERMSIG(status)));
    return CRASHED;
  }
  int code = WEXITSTATUS(status);
  if (code == EXIT_SKIPPED) return SKIPPED;
  if (!want_signal && code == want_code) return PASSED;
  if (want_signal)
    fprintf(stderr, "[FAIL] %s/%s: should have died of signal %d, ended with code %d\n", suite, name, want_signal,
            code);
  else
    fprintf(stderr, "[FAIL] %s/%s: ended with code %d, expected %d\n", suite, name, code, want_code);
  return FAILED;
}

static enum outcome run_test(const struct check_test *test, bool in_process, double scale) {
  const struct check_options *own = &test->options, *suite = suite_options(test->suite);
  if (own->disabled || suite->disabled) return SKIPPED;
  current = test;
  if (in_process) {
    run_body(test, suite);
    return atomic_load(&expectation_failed) ? FAILED : PASSED;
  }
  double timeout = (own->timeout > 0 ? own->timeout : suite->timeout) * scale;
  sigset_t mask, before;
  sigemptyset(&mask);
  sigaddset(&mask, SIGCHLD);
  sigprocmask(SIG_BLOCK, &mask, &before);
  fflush(NULL);
  pid_t child = fork();
  if (child < 0) {
    perror("fork");
    exit(1);
  }
  if (child == 0) {
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    sigprocmask(SIG_SETMASK, &before, NULL);
    run_body(test, suite);
    exit(atomic_load(&expectation_failed) ? EXIT_FAILED : 0);
  }
  setpgid(child, child);
  int status = 0;
  bool in_time = wait_for(child, timeout, &status);
  sigprocmask(SIG_SETMASK, &before, NULL);
  if (!in_time) {
    fprintf(stderr, "[FAIL] %s/%s: Timed out after %.1f s\n", test->suite, test->name, timeout);
    return FAILED;
  }
  return judge(test, own->signal ? own->signal : suite->signal, own->exit_code ? own->exit_code : suite->exit_code,
               status);
}

enum { EXCLUDED_MAX = 32 };
static const char *excluded[EXCLUDED_MAX];
static int nexcluded;

static void exclude(const char *full) {
  for (const struct check_test *const *t = __start_check_tests; t < __stop_check_tests; t++) {
    size_t length = strlen((*t)->suite);
    if (!(*t)->name || strncmp((*t)->suite, full, length) != 0 || full[length] != '/') continue;
    if (strcmp((*t)->name, full + length + 1) != 0 || nexcluded == EXCLUDED_MAX) continue;
    excluded[nexcluded++] = full;
    return;
  }
  fprintf(stderr, "[FAIL] --exclude %s: there is no such test\n", full);
  exit(2);
}

static bool is_excluded(const char *full) {
  for (int i = 0; i < nexcluded; i++)
    if (strcmp(excluded[i], full) == 0) return true;
  return false;
}

static int usage(const char *program, int code) {
  fprintf(code ? stderr : stdout,
          "usage: %s [--filter 'suite/name*'] [--exclude suite/name]... [--list] [--no-fork]\n"
          "  --no-fork  run in this process, for a debugger; best with a --filter that picks one test\n",
          program);
  return code;
}

int main(int argc, char **argv) {
  const char *filter = "*", *scale_text = getenv("RCTX_TIME_SCALE");
  double scale = scale_text && atof(scale_text) > 0 ? atof(scale_text) : 1;
  bool list = false, in_process = false;
  for (int i = 1; i < argc; i++) {
    if (strncmp(argv[i], "--filter=", 9) == 0)
      filter = argv[i] + 9;
    else if (strcmp(argv[i], "--filter") == 0 && i + 1 < argc)
      filter = argv[++i];
    else if (strcmp(argv[i], "--exclude") == 0 && i + 1 < argc)
      exclude(argv[++i]);
    else if (strcmp(argv[i], "--list") == 0)
      list = true;
    else if (strcmp(argv[i], "--no-fork") == 0)
      in_process = true;
    else
      return usage(argv[0], strcmp(argv[i], "--help") == 0 ? 0 : 2);
  }
  unsigned counts[4] = {0};
  for (const struct check_test *const *t = __start_check_tests; t < __stop_check_tests; t++) {
    char full[256];
    snprintf(full, sizeof full, "%s/%s", (*t)->suite, (*t)->name ? (*t)->name : "");
    if (!(*t)->name || fnmatch(filter, full, FNM_EXTMATCH) != 0 || is_excluded(full)) continue;
    if (list)
      puts(full);
    else
      counts[run_test(*t, in_process, scale)]++;
  }
  if (list) return 0;
  unsigned failing = counts[FAILED] + counts[CRASHED];
  fprintf(stderr, "[====] Synthesis: Tested: %u | Passing: %u | Failing: %u | Crashing: %u \n",
          counts[PASSED] + failing, counts[PASSED], failing, counts[CRASHED]);
  return failing != 0;
}
