// A program that is linked with librctx.so and nothing else of ours: what a host gets. Prints nothing unless something is
// wrong; guest_test runs it.
//   linked_host malloc    malloc is still the C library's, and jemalloc is nowhere
//   linked_host signals   no signal's disposition or mask is touched by any use
//   linked_host threads   no thread before the first timer
#include "../support/tasks.h"

#include <rctx/rctx.h>

#include <dlfcn.h>
#include <poll.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

RCTX_KEY(user, const char *)

#define REQUIRE(condition)                                                                                             \
  do {                                                                                                                 \
    if (!(condition)) {                                                                                                \
      fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                                                  \
      exit(1);                                                                                                         \
    }                                                                                                                  \
  } while (0)

static void post(const rctx *ctx, void *arg) {
  (void)ctx;
  sem_post(arg);
}

static void use_without_timers(void) {
  rctx_loop *loop;
  sem_t ran;
  struct rctx_after node = {0}, watch = {0};
  const char *who = NULL;
  sem_init(&ran, 0, 0);
  REQUIRE(rctx_loop_create(&loop) == 0);
  RCTX_SCOPED rctx *top = rctx_with_cancel(rctx_background());
  RCTX_SCOPED rctx *value = user_with(top, "ann");
  REQUIRE(user_get(value, &who) && strcmp(who, "ann") == 0);
  REQUIRE(rctx_after_inline(value, &node, RCTX_ON_ENDED_TELL, post, &ran) == RCTX_REGISTERED);
  REQUIRE(rctx_watch(value, &watch, loop, RCTX_ON_ENDED_TELL, post, &ran) == RCTX_REGISTERED);
  REQUIRE(rctx_fd(value) >= 0);
  REQUIRE(rctx_alloc(top, 100) != NULL);
  REQUIRE(rctx_cancel(top));
  REQUIRE(rctx_wait(value, INT64_MAX) == -ECANCELED);
  REQUIRE(poll(&(struct pollfd){rctx_fd(value), POLLIN, 0}, 1, 0) == 1);
  REQUIRE(rctx_loop_drain(loop, 10) == 1);
  rctx_loop_destroy(loop);
}

static void use_timers_and_threads(void) {
  sem_t ran;
  struct rctx_after node = {0};
  sem_init(&ran, 0, 0);
  RCTX_SCOPED rctx *timed = rctx_with_timeout(rctx_background(), 1000000);
  REQUIRE(rctx_after(timed, &node, post, &ran) >= 0);
  REQUIRE(rctx_wait(timed, INT64_MAX) == -ETIMEDOUT);
  while (sem_wait(&ran)) {
  }
  rctx_after_stop_sync(&node);
}

static void use_everything(void) {
  use_without_timers();
  use_timers_and_threads();
  REQUIRE(rctx_quiesce(rctx_manager_default(), INT64_MAX) == 0);
}

static void check_malloc(void) {
  Dl_info info;
  use_everything();
  REQUIRE(dladdr(dlsym(RTLD_DEFAULT, "malloc"), &info) && strstr(info.dli_fname, "libc.so"));
  REQUIRE(dlsym(RTLD_DEFAULT, "mallocx") == NULL);
  char line[1024];
  FILE *maps = fopen("/proc/self/maps", "r");
  while (maps && fgets(line, sizeof line, maps)) REQUIRE(strstr(line, "jemalloc") == NULL);
  REQUIRE(maps != NULL);
  fclose(maps);
}

static void check_signals(void) {
  static struct sigaction before[NSIG], after;
  sigset_t mask_before, mask_after;
  for (int s = 1; s < NSIG; s++) sigaction(s, NULL, &before[s]);
  sigprocmask(SIG_BLOCK, NULL, &mask_before);
  use_everything();
  sigprocmask(SIG_BLOCK, NULL, &mask_after);
  for (int s = 1; s < NSIG; s++) {
    if (sigaction(s, NULL, &after) != 0) continue;
    REQUIRE(after.sa_handler == before[s].sa_handler && after.sa_flags == before[s].sa_flags);
    REQUIRE(sigismember(&mask_before, s) == sigismember(&mask_after, s));
  }
}

static void check_threads(void) {
  size_t before = tasks_before();
  use_without_timers();
  REQUIRE(tasks_are(before));
  use_timers_and_threads();
  REQUIRE(tasks_are(before + 2));
}

int main(int argc, char **argv) {
  const char *what = argc > 1 ? argv[1] : "";
  if (strcmp(what, "malloc") == 0)
    check_malloc();
  else if (strcmp(what, "signals") == 0)
    check_signals();
  else if (strcmp(what, "threads") == 0)
    check_threads();
  else
    return 2;
  return 0;
}
