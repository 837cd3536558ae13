// tasks.h - the threads of this process, as the kernel sees them. Plain C: also for programs without a test framework.
#ifndef RCTX_TESTS_TASKS_H
#define RCTX_TESTS_TASKS_H

#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
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

static inline bool task_sleeps(int tid) {
  char path[64], line[256] = "";
  snprintf(path, sizeof path, "/proc/self/task/%d/stat", tid);
  int fd = open(path, O_RDONLY);
  if (fd < 0) return true; // gone
  ssize_t size = read(fd, line, sizeof line - 1);
  close(fd);
  const char *state = size > 0 ? strrchr(line, ')') : NULL;
  return state == NULL || state[2] == 'S';
}

static inline bool tasks_others_sleep(void) {
  bool all = true;
  DIR *dir = opendir("/proc/self/task");
  if (!dir) return false;
  for (struct dirent *entry; (entry = readdir(dir));) {
    int tid = atoi(entry->d_name);
    if (tid != 0 && tid != gettid()) all = all && task_sleeps(tid);
  }
  closedir(dir);
  return all;
}

// Waits until all other threads sleep, and have for some time; for ten seconds. Before a fork: AddressSanitizer's malloc stays locked
// in the child if another thread, one that is just starting say, was in it.
static inline void tasks_rest(void) {
  for (int i = 0, in_a_row = 0; i < 10000 && in_a_row < 10; i++) {
    in_a_row = tasks_others_sleep() ? in_a_row + 1 : 0;
    usleep(1000);
  }
}

#endif
