// few_threads.h - a program in which no more threads are to be had when a test says so (pthread_create() says EAGAIN), or in
// which they take their time to come up (threads_hold() until threads_release()).
//
// Include it in one file of a program. RLIMIT_NPROC would be the natural way, but it does not bind root.
#ifndef RCTX_TESTS_FEW_THREADS_H
#define RCTX_TESTS_FEW_THREADS_H

#include "support/real_create.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <unistd.h>

static atomic_int threads_to_be_had = INT_MAX;
static atomic_int threads_refused;

static inline void threads_allow(int count) { atomic_store(&threads_to_be_had, count); }
static inline void threads_allow_all(void) { threads_allow(INT_MAX); }

static atomic_bool threads_held;

static inline void threads_hold(void) { atomic_store(&threads_held, true); }
static inline void threads_release(void) { atomic_store(&threads_held, false); }

struct threads_slow {
  void *(*start)(void *);
  void *arg;
};

static void *threads_come_up(void *arg) {
  struct threads_slow slow = *(struct threads_slow *)arg;
  free(arg);
  while (atomic_load(&threads_held)) usleep(100);
  return slow.start(slow.arg);
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*start)(void *), void *arg) {
  int left = atomic_load(&threads_to_be_had);
  while (left != INT_MAX) {
    if (left <= 0) {
      atomic_fetch_add(&threads_refused, 1);
      return EAGAIN;
    }
    if (atomic_compare_exchange_weak(&threads_to_be_had, &left, left - 1)) break;
  }
  if (!atomic_load(&threads_held)) return real_create(thread, attributes, start, arg);
  struct threads_slow *slow = malloc(sizeof *slow);
  if (!slow) return EAGAIN;
  *slow = (struct threads_slow){start, arg};
  int failed = real_create(thread, attributes, threads_come_up, slow);
  if (failed) free(slow);
  return failed;
}

#endif
