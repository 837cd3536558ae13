/*
 * rctx-instructions CASE OPERATIONS: warms a case, then runs so many of its operations once, inside bench_measured(), for
 * valgrind --tool=callgrind --toggle-collect=bench_measured to count. --list names the cases that can be counted, with the
 * number of operations to ask for; --compiler what made this program. Times nothing. bench/instructions.py does the rest.
 */
#include "harness.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>

/* More than this takes callgrind minutes. */
enum { LARGEST_BATCH = 100000, OPERATIONS = 2000 };

static bool countable(const struct bench_case *c) {
  return !c->uncounted && !c->pair && c->run && c->batch <= LARGEST_BATCH;
}

static void list(void) {
  size_t count;
  const struct bench_case *cases = bench_cases(&count);
  for (size_t i = 0; i < count; i++) {
    if (countable(&cases[i])) {
      printf("%s\t%zu\n", cases[i].name, cases[i].batch ? cases[i].batch : (size_t)OPERATIONS);
    }
  }
}

/* Another compiler or processor needs other instructions: a table is only good for its own. */
static void print_compiler(void) {
#if defined(__clang__)
  const char *name = "clang";
  int major = __clang_major__, minor = __clang_minor__;
#else
  const char *name = "gcc";
  int major = __GNUC__, minor = __GNUC_MINOR__;
#endif
  struct utsname system;
  printf("%s %d.%d for %s\n", name, major, minor, uname(&system) == 0 ? system.machine : "an unknown machine");
}

static int usage(void) {
  fputs("usage: rctx-instructions --list | --compiler | CASE OPERATIONS\n", stderr);
  return 2;
}

int main(int argc, char **argv) {
  if (argc == 2 && strcmp(argv[1], "--list") == 0) {
    list();
    return 0;
  }
  if (argc == 2 && strcmp(argv[1], "--compiler") == 0) {
    print_compiler();
    return 0;
  }
  if (argc != 3) {
    return usage();
  }
  const struct bench_case *c = bench_find(argv[1]);
  char *end;
  size_t ops = strtoul(argv[2], &end, 10);
  if (c == NULL || !countable(c) || *end != '\0' || ops == 0) {
    return usage();
  }
  bench_start_idle_thread();
  bench_use(c);
  struct bench_sample sample;
  bench_block(ops, &sample);
  bench_close();
  return 0;
}
