// tasks.h - how many threads this process has, as the kernel counts them. Plain C: also for programs without a test framework.
#ifndef RCTX_TESTS_TASKS_H
#define RCTX_TESTS_TASKS_H

#include <dirent.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <unistd.h>

static inline size_t tasks_now(void) {
  size_t count = 0;
  DIR *dir = opendir("/proc/self/task");
  if (!dir) return 0;
  for (struct dirent *entry; (entry = readdir(dir));) count += entry->d_name[0] != '.';
  closedir(dir);
  return count;
}

static inline void *tasks_do_nothing(void *arg) { return arg; }

// A thread that was joined may be listed for a moment longer: waits for that many, for ten seconds.
static inline bool tasks_are(size_t expected) {
  for (int i = 0; i < 10000; i++) {
    if (tasks_now() == expected) return true;
    usleep(1000);
  }
  return false;
}

// The count to compare with, after what the C library or a sanitizer makes with a process's first thread.
static inline size_t tasks_before(void) {
  pthread_t thread;
  size_t at_first = tasks_now(), after;
  if (pthread_create(&thread, NULL, tasks_do_nothing, NULL) == 0) pthread_join(thread, NULL);
  for (int i = 0; i < 100 && tasks_now() != at_first; i++) usleep(1000); // a sanitizer's own thread stays
  after = tasks_now();
  return after;
}

#endif
