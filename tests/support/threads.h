// threads.h - N threads that start together. Each gets its number; threads_join() waits for all.
//
//   static void body(unsigned index, void *arg) { ... }
//   threads_run(4, body, &shared);              // start, wait until all have ended
//
//   struct threads t;
//   threads_start(&t, 4, body, &shared);        // the caller does something meanwhile
//   threads_join(&t);
//
// A barrier holds the threads back until the last is there. threads_meet() is the same barrier for use inside the body,
// to line up the rounds of a race; every thread must call it equally often.
#ifndef RCTX_TESTS_THREADS_H
#define RCTX_TESTS_THREADS_H

#include "support/check.h"

#include <pthread.h>

enum { THREADS_MAX = 64 };

struct threads;

struct threads_one {
  struct threads *all;
  pthread_t id;
  unsigned index;
};

struct threads {
  unsigned count;
  void (*body)(unsigned index, void *arg);
  void *arg;
  pthread_barrier_t barrier;
  struct threads_one one[THREADS_MAX];
};

static inline void threads_meet(struct threads *t) { pthread_barrier_wait(&t->barrier); }

static inline void *threads_main(void *arg) {
  struct threads_one *me = arg;
  threads_meet(me->all);
  me->all->body(me->index, me->all->arg);
  return NULL;
}

static inline void threads_start(struct threads *t, unsigned count, void (*body)(unsigned, void *), void *arg) {
  cr_assert(count > 0 && count <= THREADS_MAX, "threads_start: %u threads, at most %d", count, (int)THREADS_MAX);
  t->count = count;
  t->body = body;
  t->arg = arg;
  cr_assert_eq(pthread_barrier_init(&t->barrier, NULL, count), 0);
  for (unsigned i = 0; i < count; i++) {
    t->one[i] = (struct threads_one){.all = t, .index = i};
    cr_assert_eq(pthread_create(&t->one[i].id, NULL, threads_main, &t->one[i]), 0);
  }
}

static inline void threads_join(struct threads *t) {
  for (unsigned i = 0; i < t->count; i++) cr_assert_eq(pthread_join(t->one[i].id, NULL), 0);
  pthread_barrier_destroy(&t->barrier);
}

static inline void threads_run(unsigned count, void (*body)(unsigned, void *), void *arg) {
  struct threads t;
  threads_start(&t, count, body, arg);
  threads_join(&t);
}

#endif
