/*
 * example.h - what the examples share: units of time, and expect(), by which each checks the story it tells.
 *
 * expect(condition) says nothing when it holds, and names the line when it does not; main() ends with `return
 * expectations_failed();`, so a program exits 0 only if all it claimed came out. require(condition) is for what has
 * nothing to do with the story (memory, threads): without it the program ends at once. Any thread may use both.
 */
#ifndef EXAMPLE_H
#define EXAMPLE_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define MS INT64_C(1000000) /* a millisecond in rctx's nanoseconds */
#define SECOND (1000 * MS)

static int example__failed;

static inline void example__not_so(const char *condition, const char *file, int line) {
  (void)fflush(stdout);
  (void)fprintf(stderr, "%s:%d: not so: %s\n", file, line, condition);
  __atomic_store_n(&example__failed, 1, __ATOMIC_RELAXED);
}
#define expect(condition) ((condition) ? (void)0 : example__not_so(#condition, __FILE__, __LINE__))
#define require(condition) ((condition) ? (void)0 : (example__not_so(#condition, __FILE__, __LINE__), exit(1)))

static inline int expectations_failed(void) { return __atomic_load_n(&example__failed, __ATOMIC_RELAXED); }

#endif
