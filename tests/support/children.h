// children.h - what the child of a fork has to do, and how it says that it could not.
#ifndef RCTX_TESTS_CHILDREN_H
#define RCTX_TESTS_CHILDREN_H

#include "check.h"

#include <rctx/rctx.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

// In a child, where cr_assert() would speak to nobody.
#define REQUIRE(condition)                                                                                             \
  do {                                                                                                                 \
    if (!(condition)) {                                                                                                \
      fprintf(stderr, "[----] %s:%d: in the child: %s\n", __FILE__, __LINE__, #condition);                             \
      _exit(1);                                                                                                        \
    }                                                                                                                  \
  } while (0)

// Runs the body in a child of this process, which has to end well within a minute.
static inline void in_a_child(void (*body)(void *), void *arg) {
  int status = -1;
  fflush(NULL);
  pid_t child = fork();
  cr_assert_geq(child, 0);
  if (child == 0) {
    alarm(60);
    rctx_after_fork_child();
    body(arg);
    _exit(0);
  }
  cr_assert_eq(waitpid(child, &status, 0), child);
  cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the child ended with status %x", status);
}

#endif
