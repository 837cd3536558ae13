// planted_leak.c - tests that leak, in builds that look for leaks: each must fail, and ctest's planted_leak checks that it does.
#include "support/check.h"

#include <rctx/rctx.h>
#include <stdlib.h>

static void *volatile forgotten;

// The leak checkers look for pointers on the stack, too: what is forgotten must not be there any more.
static __attribute__((noinline)) void forget(void *(*make)(void)) {
  forgotten = make();
  forgotten = NULL;
}
static __attribute__((noinline)) void overwrite_the_stack(void) {
  volatile char stack[8192];
  for (size_t i = 0; i < sizeof stack; i++) stack[i] = 0;
}

static void *make_memory(void) { return malloc(33); }
Test(planted_leak, memory) {
  forget(make_memory);
  overwrite_the_stack();
}

#if CHECK_UNCACHED // else it is a part of a larger block, which the manager still has
static void *make_context(void) { return rctx_with_cancel(rctx_background()); }

Test(planted_leak, a_context_that_is_never_ended) {
  forget(make_context);
  overwrite_the_stack();
}
#endif
