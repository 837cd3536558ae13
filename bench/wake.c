/*
 * cancel_to_wake: from the cancel until a thread that is blocked on it runs. Bound by the kernel: the bare futex runs in turn
 * with the library, in the same block, and is reported as kernel_ns.
 */
#include "wake.h"
#include "clock.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

struct sleeper {
  pthread_t thread;
  pid_t tid;
  int stat_fd;
  uint32_t turn;  /* futex: odd while the sleeper has something to wait for */
  uint32_t ready; /* the sleeper is about to block */
  uint32_t word;  /* the bare futex */
  bool quit;
  const struct bench_wake *wake;
  void *ctx; /* NULL: wait on the bare futex */
  int64_t woke_ns;
  int64_t ours[BENCH_WAKES];
  int64_t kernel[BENCH_WAKES];
};

static void futex(uint32_t *word, int op, uint32_t value) {
  syscall(SYS_futex, word, op | FUTEX_PRIVATE_FLAG, value, NULL, NULL, 0);
}

static void wait_while(uint32_t *word, uint32_t value) {
  while (__atomic_load_n(word, __ATOMIC_ACQUIRE) == value) {
    futex(word, FUTEX_WAIT, value);
  }
}

static void set(uint32_t *word, uint32_t value) {
  __atomic_store_n(word, value, __ATOMIC_RELEASE);
  futex(word, FUTEX_WAKE, 1);
}

static void *sleeper_thread(void *arg) {
  struct sleeper *s = arg;
  __atomic_store_n(&s->tid, gettid(), __ATOMIC_RELEASE);
  for (;;) {
    wait_while(&s->turn, 0);
    if (s->quit) {
      return NULL;
    }
    __atomic_store_n(&s->ready, 1, __ATOMIC_RELEASE);
    if (s->ctx) {
      s->wake->wait(s->ctx);
    } else {
      wait_while(&s->word, 0);
    }
    s->woke_ns = bench_clock(CLOCK_MONOTONIC);
    set(&s->turn, 0);
  }
}

/* In /proc/.../stat, after "(name) ", stands S when the thread sleeps. */
static bool sleeps(const struct sleeper *s) {
  char line[256];
  ssize_t length = pread(s->stat_fd, line, sizeof line - 1, 0);
  if (length <= 0) {
    abort();
  }
  line[length] = '\0';
  const char *after_name = strrchr(line, ')');
  return after_name && after_name[1] == ' ' && after_name[2] == 'S';
}

/* From just before the wake until the sleeper runs. */
static int64_t one_wake(struct sleeper *s, void *ctx) {
  s->ctx = ctx;
  __atomic_store_n(&s->word, 0, __ATOMIC_RELAXED);
  __atomic_store_n(&s->ready, 0, __ATOMIC_RELAXED);
  set(&s->turn, 1);
  while (!__atomic_load_n(&s->ready, __ATOMIC_ACQUIRE) || !sleeps(s)) {
  }
  int64_t start = bench_clock(CLOCK_MONOTONIC);
  if (ctx) {
    s->wake->cancel(ctx);
  } else {
    set(&s->word, 1);
  }
  wait_while(&s->turn, 1);
  return s->woke_ns - start;
}

static int by_size(const void *a, const void *b) {
  int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
  return (x > y) - (x < y);
}

/* Medians: the mean of wakeups is ruled by the few that met another program. */
void bench_wake_measure(void *fixture, size_t ops, struct bench_sample *sample) {
  struct sleeper *s = fixture;
  (void)ops;
  for (size_t i = 0; i < BENCH_WAKES; i++) {
    void *ctx = s->wake->make();
    s->ours[i] = one_wake(s, ctx);
    s->wake->end(ctx);
    s->kernel[i] = one_wake(s, NULL);
  }
  qsort(s->ours, BENCH_WAKES, sizeof *s->ours, by_size);
  qsort(s->kernel, BENCH_WAKES, sizeof *s->kernel, by_size);
  sample->ns = (double)s->ours[BENCH_WAKES / 2] * BENCH_WAKES;
  sample->extra[0] = (double)s->kernel[BENCH_WAKES / 2];
}

void *bench_wake_open(const struct bench_wake *wake) {
  struct sleeper *s = bench_memory(1, sizeof *s);
  s->wake = wake;
  if (pthread_create(&s->thread, NULL, sleeper_thread, s) != 0) {
    abort();
  }
  while (__atomic_load_n(&s->tid, __ATOMIC_ACQUIRE) == 0) {
  }
  char path[64];
  snprintf(path, sizeof path, "/proc/self/task/%d/stat", (int)s->tid);
  s->stat_fd = open(path, O_RDONLY | O_CLOEXEC);
  return s;
}

void bench_wake_close(void *fixture) {
  struct sleeper *s = fixture;
  s->quit = true;
  set(&s->turn, 1);
  pthread_join(s->thread, NULL);
  close(s->stat_fd);
  free(s);
}
