// A program that knows nothing of rctx and loads it at run time, as NGINX or Python do: dlopen, use, dlclose, again and
// again. Prints nothing unless something is wrong; guest_test runs it with the library's path.
#include "../support/tasks.h"

#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define REQUIRE(condition)                                                                                             \
  do {                                                                                                                 \
    if (!(condition)) {                                                                                                \
      const char *why = dlerror();                                                                                     \
      fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #condition, why ? why : "");                              \
      exit(1);                                                                                                         \
    }                                                                                                                  \
  } while (0)

typedef const void *(*background_fn)(void);
typedef void *(*with_timeout_fn)(const void *parent, int64_t ns);
typedef int (*wait_fn)(const void *ctx, int64_t until_ns);
typedef void (*unref_fn)(const void *ctx);

static void use(void *library) {
  background_fn background = (background_fn)(uintptr_t)dlsym(library, "rctx_background");
  with_timeout_fn with_timeout = (with_timeout_fn)(uintptr_t)dlsym(library, "rctx_with_timeout");
  wait_fn wait = (wait_fn)(uintptr_t)dlsym(library, "rctx_wait");
  unref_fn unref = (unref_fn)(uintptr_t)dlsym(library, "rctx_unref");
  REQUIRE(background && with_timeout && wait && unref);
  void *timed = with_timeout(background(), 1000000);
  REQUIRE(wait(timed, INT64_MAX) < 0);
  unref(timed);
}

int main(int argc, char **argv) {
  if (argc != 2) return 2;
  size_t before = tasks_before();
  for (int i = 0; i < 50; i++) {
    void *library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
    REQUIRE(library != NULL);
    REQUIRE(dlclose(library) == 0);
  }
  REQUIRE(tasks_are(before));    // loading alone starts nothing
  for (int i = 0; i < 20; i++) { // its timer thread lives on through dlclose
    void *library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
    REQUIRE(library != NULL);
    use(library);
    REQUIRE(dlclose(library) == 0);
  }
  REQUIRE(tasks_are(before + 1)); // and there is one, not twenty
  return 0;
}
