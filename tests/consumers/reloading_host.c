// A program that loads rctx, uses all that has threads and descriptors, and lets it go again, a hundred times: it grows by
// nothing. Prints nothing unless something is wrong.
#include "../support/tasks.h"

#include <dlfcn.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <rctx/rctx.h>

#define REQUIRE(condition)                                                                                             \
  do {                                                                                                                 \
    if (!(condition)) {                                                                                                \
      const char *why = dlerror();                                                                                     \
      fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #condition, why ? why : "");                              \
      exit(1);                                                                                                         \
    }                                                                                                                  \
  } while (0)

static void *library;

// The functions of the library that is loaded now, under their own names and types.
#define LOADED(name) ((__typeof__(&(name)))(uintptr_t)symbol(#name))
static void *symbol(const char *name) {
  void *found = dlsym(library, name);
  REQUIRE(found != NULL);
  return found;
}

static int answer(const rctx *ctx, void *arg) {
  (void)ctx;
  (void)arg;
  return 7;
}
static void count(const rctx *ctx, void *arg) {
  (void)ctx;
  ++*(int *)arg;
}

// On a manager of its own: a timer, a loop, a descriptor, a callback thread, the pool.
static void use_a_manager(void) {
  rctx_manager *manager;
  rctx_loop *loop;
  int calls = 0, by_thread = 0;
  struct rctx_after watched = {0}, after = {0};
  struct rctx_manager_options options = {.threads_max = 2};
  REQUIRE(LOADED(rctx_manager_create)(&options, &manager) == 0);
  REQUIRE(LOADED(rctx_loop_create)(&loop) == 0);
  const rctx *root = LOADED(rctx_manager_background)(manager);
  rctx *timed = LOADED(rctx_with_timeout)(root, 1000000);
  REQUIRE(LOADED(rctx_fd)(timed) >= 0);
  REQUIRE(LOADED(rctx_watch)(timed, &watched, loop, RCTX_ON_ENDED_QUEUE, count, &calls) >= 0);
  REQUIRE(LOADED(rctx_after)(timed, &after, count, &by_thread) >= 0);
  REQUIRE(LOADED(rctx_execute)(root, answer, NULL, NULL, NULL) == 7);
  REQUIRE(poll(&(struct pollfd){LOADED(rctx_loop_fd)(loop), POLLIN, 0}, 1, 60000) == 1);
  REQUIRE(LOADED(rctx_loop_drain)(loop, 10) == 1 && calls == 1);
  REQUIRE(LOADED(rctx_quiesce)(manager, INT64_MAX) == 0 && by_thread == 1);
  LOADED(rctx_loop_destroy)(loop);
  LOADED(rctx_end_cause)(timed, NULL);
  REQUIRE(LOADED(rctx_manager_destroy)(manager) == 0);
}

static void *use_in_a_thread(void *arg) {
  use_a_manager();
  return arg;
}

static void use(void) {
  pthread_t thread;
  rctx *timed = LOADED(rctx_with_timeout)(LOADED(rctx_background)(), 1000000);
  REQUIRE(LOADED(rctx_wait)(timed, INT64_MAX) == -ETIMEDOUT);
  LOADED(rctx_end_cause)(timed, NULL);
  use_a_manager();
  REQUIRE(pthread_create(&thread, NULL, use_in_a_thread, NULL) == 0);
  pthread_join(thread, NULL);
}

static size_t descriptors(void) {
  size_t open = 0;
  DIR *dir = opendir("/proc/self/fd");
  REQUIRE(dir != NULL);
  for (struct dirent *entry; (entry = readdir(dir));) open += entry->d_name[0] != '.';
  closedir(dir);
  return open;
}

// Mappings of files: the library, what it needs, nothing twice.
static size_t mapped_files(void) {
  char line[4096];
  size_t maps = 0;
  FILE *file = fopen("/proc/self/maps", "r");
  REQUIRE(file != NULL);
  while (fgets(line, sizeof line, file)) maps += strchr(line, '/') != NULL;
  fclose(file);
  return maps;
}

int main(int argc, char **argv) {
  enum { ROUNDS = 100, WARM = 10 };
  size_t threads = 0, open = 0, maps = 0;
  if (argc != 2) return 2;
  for (int round = 0; round < ROUNDS; round++) {
    library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
    REQUIRE(library != NULL);
    use();
    REQUIRE(dlclose(library) == 0);
    if (round != WARM) continue;
    threads = tasks_before();
    open = descriptors();
    maps = mapped_files();
  }
  REQUIRE(tasks_are(threads));
  REQUIRE(descriptors() == open);
  REQUIRE(mapped_files() == maps);
  return 0;
}
