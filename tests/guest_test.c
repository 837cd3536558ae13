// A library that is a good guest: what a host finds that is linked with librctx.so alone, or loads it. The hosts are in
// consumers/; here they are run, must say nothing and end with 0. And what the library's file itself promises.
#include "support/check.h"

#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

TestSuite(guest, .timeout = 120);

// Runs a command; what it said on stdout and stderr is in `said`. Returns its exit code, or -1.
static char said[65536];

static int run(const char *command) {
  char line[4096];
  snprintf(line, sizeof line, "%s 2>&1", command);
  FILE *out = popen(line, "r");
  cr_assert_not_null(out);
  size_t length = fread(said, 1, sizeof said - 1, out);
  said[length] = 0;
  int status = pclose(out);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void runs_in_silence(const char *command) {
  int code = run(command);
  cr_assert_eq(code, 0, "%s: ended with %d, said: %s", command, code, said);
  cr_assert_str_eq(said, "", "%s: nothing may be printed", command);
}

Test(guest, malloc_is_still_the_hosts) {
#ifndef LIBRARY_AS_SHIPPED
  cr_skip_test("a sanitizer's malloc is in place");
#endif
  runs_in_silence(LINKED_HOST " malloc");
}

Test(guest, signals_are_not_touched) { runs_in_silence(LINKED_HOST " signals"); }

Test(guest, no_thread_before_the_first_timer) { runs_in_silence(LINKED_HOST " threads"); }

Test(guest, dlopen_and_dlclose_again_and_again) { runs_in_silence(LOADING_HOST " " LIBRARY); }

// Internal names that macros and inline functions of the public headers refer to.
static bool used_by_headers(const char *name) {
  static const char *const names[] = {"rctx__null_context", "rctx__null_seen",   "rctx__end_scope",
                                      "rctx__look",         "rctx__leaks_every", "rctx__leak_made"};
  if (strncmp(name, "rctx__print_", strlen("rctx__print_")) == 0) return true;
  for (size_t i = 0; i < sizeof names / sizeof *names; i++)
    if (strcmp(name, names[i]) == 0) return true;
  return false;
}

Test(guest, all_it_exports_is_its_own) {
#ifndef LIBRARY_AS_SHIPPED
  cr_skip_test("instrumented");
#endif
  int symbols = 0;
  if (run("command -v nm") != 0) cr_skip_test("no nm");
  cr_assert_eq(run("nm -D --defined-only " LIBRARY), 0, "%s", said);
  for (char *line = strtok(said, "\n"); line; line = strtok(NULL, "\n")) {
    char *name = strrchr(line, ' ');
    cr_assert_not_null(name);
    name[strcspn(name, "@")] = 0;                                              // without the version
    if (strcmp(name + 1, "RCTX_0.1") == 0 || strstr(name, " RCTX_")) continue; // the version's own symbol
    cr_assert_eq(strncmp(name + 1, "rctx_", 5), 0, "exports %s", name + 1);
    if (strncmp(name + 1, "rctx__", 6) == 0) cr_assert(used_by_headers(name + 1), "exports %s", name + 1);
    symbols++;
  }
  cr_assert_gt(symbols, 50, "only %d symbols", symbols);
}

// The one entry is the compiler's frame_dummy; on arm64 there is libgcc's look at which atomics the CPU has, too.
#if defined(__aarch64__)
enum { CONSTRUCTORS_OF_THE_COMPILER = 2 };
#else
enum { CONSTRUCTORS_OF_THE_COMPILER = 1 };
#endif

Test(guest, it_has_no_constructor) {
#ifndef LIBRARY_AS_SHIPPED
  cr_skip_test("instrumented");
#endif
  if (run("command -v readelf") != 0) cr_skip_test("no readelf");
  cr_assert_eq(run("readelf -W -d " LIBRARY), 0, "%s", said);
  cr_assert_null(strstr(said, "(PREINIT_ARRAY)"));
  const char *size = strstr(said, "(INIT_ARRAYSZ)");
  unsigned bytes = 0;
  if (size) cr_assert_eq(sscanf(size, "(INIT_ARRAYSZ) %u", &bytes), 1);
  cr_assert_leq(bytes, CONSTRUCTORS_OF_THE_COMPILER * sizeof(void *), "%u bytes of constructors", bytes);
}

// Stays mapped after dlclose: a thread of ours that exits later runs code that is there.
Test(guest, it_is_linked_nodelete) {
  if (run("command -v readelf") != 0) cr_skip_test("no readelf");
  cr_assert_eq(run("readelf -W -d " LIBRARY), 0, "%s", said);
  cr_assert_not_null(strstr(said, "NODELETE"), "%s", said);
}

Test(guest, it_needs_no_allocator_of_others) {
  if (run("command -v readelf") != 0) cr_skip_test("no readelf");
  cr_assert_eq(run("readelf -W -d " LIBRARY), 0, "%s", said);
  cr_assert_null(strstr(said, "jemalloc"), "%s", said);
}
