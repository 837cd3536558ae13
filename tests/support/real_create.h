// real_create.h - the pthread_create() behind one that a test program defines itself: a sanitizer's, or the C library's.
#ifndef RCTX_TESTS_REAL_CREATE_H
#define RCTX_TESTS_REAL_CREATE_H

#include "support/check.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>

#if CHECK_UNWRITTEN
// MemorySanitizer's is in the program itself, where RTLD_NEXT does not look.
int __interceptor_pthread_create(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
static inline int real_create(pthread_t *thread, const pthread_attr_t *attr, void *(*start)(void *), void *arg) {
  return __interceptor_pthread_create(thread, attr, start, arg);
}
#else
static inline int real_create(pthread_t *thread, const pthread_attr_t *attr, void *(*start)(void *), void *arg) {
  typedef int (*create_fn)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
  static create_fn create;
  create_fn now = __atomic_load_n(&create, __ATOMIC_ACQUIRE);
  if (!now) {
    now = (create_fn)(uintptr_t)dlsym(RTLD_NEXT, "pthread_create");
    __atomic_store_n(&create, now, __ATOMIC_RELEASE);
  }
  return now(thread, attr, start, arg);
}
#endif

#endif
