/*
 * null_context.c - the pitfall "nil context": what a NULL does at compile time, in a checked and in a release build.
 *
 * In Go:
 *   context.WithCancel(nil)     // panics: cannot create context from nil parent
 *   nilContext.Err()            // panics: nil pointer dereference
 *
 * Where the compiler can see it, it says so. `rctx_end(rctx_with_cancel(NULL));` gives with gcc:
 *   warning: argument 1 null where non-null expected [-Wnonnull]
 * The NULL of this program comes in through a volatile, so that it is seen at run time only. Then a checked build
 * (-DRCTX_CHECK=ON) prints which argument of which function and aborts; a release build goes on with -EINVAL: what is
 * derived from NULL is a context that has ended, and the usual look at rctx_err() stops the work.
 *
 * Look at: the program works in both kinds of build, and finds out in a child process which of them it is.
 */
#include "example.h"
#include <rctx/rctx.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static const rctx *volatile no_context; /* a field that nobody filled in */

static void derive_from_null(void) {
  RCTX_SCOPED rctx *ctx = rctx_with_cancel(no_context);
  _exit(rctx_err(ctx) == -EINVAL ? 0 : 1);
}

static void look_at_null(void) { _exit(rctx_err(no_context) == -EINVAL ? 0 : 1); }

/* Runs what may abort in a child process; returns its wait status. */
static int in_a_child(void (*body)(void)) {
  int status = 0;

  (void)fflush(stdout);
  pid_t child = fork();
  if (child == 0) {
    struct rlimit none = {0, 0};
    (void)setrlimit(RLIMIT_CORE, &none);
    (void)dup2(STDOUT_FILENO, STDERR_FILENO); /* the message is part of the story */
    rctx_after_fork_child();
    body();
    _exit(1);
  }
  expect(child > 0 && waitpid(child, &status, 0) == child);
  return status;
}

static bool aborted(int status) { return WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT; }

static void work_goes_no_further(void) {
  RCTX_SCOPED rctx *ctx = rctx_with_timeout(no_context, 60 * SECOND);
  RCTX_SCOPED rctx *below = rctx_with_cancel(ctx);
  struct rctx_why why = {0};
  int items = 0;

  for (; items < 10 && rctx_err(below) == 0; items++) {
  }
  expect(items == 0 && rctx_why(below, &why) == -EINVAL && why.cause->origin == RCTX_ORIGIN_MISUSE);
  printf("a loop below it: %d of 10 items, %s (%s)\n", items, rctx_strerror(why.err),
         why.cause ? why.cause->text : "?");
}

int main(void) {
  printf("rctx_with_cancel(NULL) in a child process:\n");
  int status = in_a_child(derive_from_null);

  if (aborted(status)) {
    printf("This is a checked build: it aborts.\nrctx_err(NULL), too:\n");
    expect(aborted(in_a_child(look_at_null)));
    return expectations_failed();
  }
  expect(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  printf("This is a release build: a context that has ended, %s\n", rctx_strerror(-EINVAL));
  status = in_a_child(look_at_null);
  expect(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  work_goes_no_further();
  return expectations_failed();
}
