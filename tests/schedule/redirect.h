/*
 * redirect.h - put in front of every file of the core (-include), so that all it does goes through the scheduler: sim.h.
 *
 * Headers come first, so that only what the core itself writes is renamed. A name is an object-like macro, for members of
 * structures have the same names here and there.
 */
#ifndef RCTX_TESTS_SCHEDULE_REDIRECT_H
#define RCTX_TESTS_SCHEDULE_REDIRECT_H

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "sim.h"

/* ---- thread-local variables: one block, exchanged at each switch ------------------------------------------------- */

#define __thread
#define tls_model(model) section("fibre_local")

/* ---- atomics ----------------------------------------------------------------------------------------------------- */

#undef atomic_load_explicit
#undef atomic_store_explicit
#undef atomic_fetch_add_explicit
#undef atomic_fetch_sub_explicit
#undef atomic_exchange_explicit
#undef atomic_compare_exchange_strong_explicit

#ifdef __clang__
#define SIM_BUILTIN(gcc, clang) __c11_atomic_##clang
#else
#define SIM_BUILTIN(gcc, clang) __atomic_##gcc
#endif

/* The point comes before the access, and the pointer is evaluated before the point. */
#define SIM_AT(pointer)                                                                                                \
  __extension__({                                                                                                      \
    __auto_type sim_at = (pointer);                                                                                    \
    sim_point(sim_at, __func__, __LINE__);                                                                             \
    sim_at;                                                                                                            \
  })
#define atomic_load_explicit(p, order) SIM_BUILTIN(load_n, load)(SIM_AT(p), order)
#define atomic_store_explicit(p, value, order) SIM_BUILTIN(store_n, store)(SIM_AT(p), value, order)
#define atomic_fetch_add_explicit(p, value, order) SIM_BUILTIN(fetch_add, fetch_add)(SIM_AT(p), value, order)
#define atomic_fetch_sub_explicit(p, value, order) SIM_BUILTIN(fetch_sub, fetch_sub)(SIM_AT(p), value, order)
#define atomic_exchange_explicit(p, value, order) SIM_BUILTIN(exchange_n, exchange)(SIM_AT(p), value, order)
#ifdef __clang__
#define atomic_compare_exchange_strong_explicit(p, expected, value, order, order_failed)                               \
  __c11_atomic_compare_exchange_strong(SIM_AT(p), expected, value, order, order_failed)
#else
#define atomic_compare_exchange_strong_explicit(p, expected, value, order, order_failed)                               \
  __atomic_compare_exchange_n(SIM_AT(p), expected, value, 0, order, order_failed)
#endif

/* ---- libc and the kernel ----------------------------------------------------------------------------------------- */

#define malloc sim_malloc
#define calloc sim_calloc
#define free sim_free
#define posix_memalign sim_posix_memalign
#define mmap sim_mmap
#define munmap sim_munmap

#define syscall sim_syscall
#define sched_yield sim_sched_yield
#define sysconf sim_sysconf
#define clock_gettime sim_clock_gettime

#define eventfd sim_eventfd
#define read sim_read
#define write sim_write
#define close sim_close
#define dup3 sim_dup3
#define poll sim_poll
#define ppoll sim_ppoll

#define pthread_create sim_pthread_create
#define pthread_join sim_pthread_join
#define pthread_self sim_pthread_self
#define pthread_setname_np sim_pthread_setname_np
#define pthread_sigmask sim_pthread_sigmask
#define pthread_atfork sim_pthread_atfork
#define pthread_once sim_pthread_once
#define pthread_key_create sim_pthread_key_create
#define pthread_setspecific sim_pthread_setspecific
#define pthread_mutex_init sim_mutex_init
#define pthread_mutex_destroy sim_mutex_destroy
#define pthread_mutex_lock sim_mutex_lock
#define pthread_mutex_trylock sim_mutex_trylock
#define pthread_mutex_unlock sim_mutex_unlock
#define pthread_cond_init sim_cond_init
#define pthread_cond_destroy sim_cond_destroy
#define pthread_cond_wait sim_cond_wait
#define pthread_cond_clockwait sim_cond_clockwait
#define pthread_cond_broadcast sim_cond_broadcast
#define pthread_cond_signal sim_cond_signal

#include "kernel.h"

#endif
