/* kernel.h - what redirect.h puts in the place of libc, the kernel and liburcu. Each has the contract of what it stands for. */
#ifndef RCTX_TESTS_SCHEDULE_KERNEL_H
#define RCTX_TESTS_SCHEDULE_KERNEL_H

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>
#include <time.h>

void *sim_malloc(size_t size);
void *sim_calloc(size_t count, size_t size);
void sim_free(void *memory);
int sim_posix_memalign(void **memory, size_t align, size_t size);
void *sim_mmap(void *at, size_t size, int protection, int flags, int fd, off_t offset);
int sim_munmap(void *memory, size_t size);

long sim_syscall(long number, ...); /* futexes: wait until a time, wake all */
int sim_sched_yield(void);
long sim_sysconf(int name);
int sim_clock_gettime(clockid_t clock, struct timespec *now);

int sim_eventfd(unsigned count, int flags);
ssize_t sim_read(int fd, void *buffer, size_t size);
ssize_t sim_write(int fd, const void *buffer, size_t size);
int sim_close(int fd);
int sim_dup3(int from, int to, int flags);
int sim_poll(struct pollfd *fds, nfds_t count, int timeout_ms);
int sim_ppoll(struct pollfd *fds, nfds_t count, const struct timespec *timeout, const sigset_t *mask);

int sim_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *arg), void *arg);
int sim_pthread_join(pthread_t thread, void **result);
pthread_t sim_pthread_self(void);
int sim_pthread_setname_np(pthread_t thread, const char *name);
int sim_pthread_sigmask(int how, const sigset_t *set, sigset_t *before);
int sim_pthread_atfork(void (*prepare)(void), void (*parent)(void), void (*child)(void));
int sim_pthread_once(pthread_once_t *once, void (*run)(void));
int sim_pthread_key_create(pthread_key_t *key, void (*destroy)(void *value));
int sim_pthread_setspecific(pthread_key_t key, const void *value);

int sim_mutex_init(pthread_mutex_t *mutex, const pthread_mutexattr_t *attributes);
int sim_mutex_destroy(pthread_mutex_t *mutex);
int sim_mutex_lock(pthread_mutex_t *mutex);
int sim_mutex_trylock(pthread_mutex_t *mutex);
int sim_mutex_unlock(pthread_mutex_t *mutex);
int sim_cond_init(pthread_cond_t *cond, const pthread_condattr_t *attributes);
int sim_cond_destroy(pthread_cond_t *cond);
int sim_cond_wait(pthread_cond_t *cond, pthread_mutex_t *mutex);
int sim_cond_clockwait(pthread_cond_t *cond, pthread_mutex_t *mutex, clockid_t clock, const struct timespec *until);
int sim_cond_broadcast(pthread_cond_t *cond);
int sim_cond_signal(pthread_cond_t *cond);

void sim_read_lock(void);
void sim_read_unlock(void);
int sim_read_ongoing(void);
void sim_grace_period(void);

#endif
