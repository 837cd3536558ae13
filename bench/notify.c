/*
 * The ways to learn of an end: callbacks (after_register_stop, watch_register_stop), event loops (loop_cancel_10000),
 * blocked threads (cancel_to_wake) and descriptors (done_fd_create).
 *
 * The last two are bound by the kernel. They run the bare system calls in turn with the library, in the same block, and
 * report those as kernel_ns: the ratio of the two is the figure, and survives a noisy machine.
 */
#include "cases.h"
#include "count_alloc.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <rctx/rctx.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static void count_call(const rctx *ctx, void *arg) {
  (void)ctx;
  ++*(size_t *)arg;
}

/* ---- registering ------------------------------------------------------------------------------------------------- */

struct registrar {
  rctx *ctx;
  rctx_loop *loop;
  size_t calls;
};

static void *open_registrar(const struct bench_case *self) {
  (void)self;
  struct registrar *r = bench_memory(1, sizeof *r);
  r->ctx = rctx_with_cancel(rctx_background());
  if (rctx_loop_create(&r->loop) != 0) {
    abort();
  }
  return r;
}

static void close_registrar(void *fixture) {
  struct registrar *r = fixture;
  rctx_loop_destroy(r->loop);
  rctx_end(r->ctx);
  free(r);
}

static void after_register_stop(void *fixture, size_t ops) {
  struct registrar *r = fixture;
  struct rctx_after node = {.rctx__ctx = NULL};
  for (size_t i = 0; i < ops; i++) {
    rctx_after(r->ctx, &node, count_call, &r->calls);
    rctx_after_stop(&node);
  }
}

static void watch_register_stop(void *fixture, size_t ops) {
  struct registrar *r = fixture;
  struct rctx_after node = {.rctx__ctx = NULL};
  for (size_t i = 0; i < ops; i++) {
    rctx_watch(r->ctx, &node, r->loop, RCTX_ON_ENDED_QUEUE, count_call, &r->calls);
    rctx_after_stop(&node);
  }
}

/* ---- a burst into an event loop ---------------------------------------------------------------------------------- */

struct burst {
  rctx_loop *loop;
  rctx *server;
  size_t count;
  size_t calls;
  rctx **stream;
  struct rctx_after *watch;
};

static void *open_burst(const struct bench_case *self) {
  struct burst *b = bench_memory(1, sizeof *b);
  b->count = self->batch;
  b->stream = bench_memory(b->count, sizeof(rctx *));
  b->watch = bench_memory(b->count, sizeof *b->watch);
  if (rctx_loop_create(&b->loop) != 0) {
    abort();
  }
  return b;
}

static void watch_streams(void *fixture) {
  struct burst *b = fixture;
  b->server = rctx_with_cancel(rctx_background());
  b->calls = 0;
  for (size_t i = 0; i < b->count; i++) {
    b->stream[i] = rctx_with_cancel(b->server);
    rctx_watch(b->stream[i], &b->watch[i], b->loop, RCTX_ON_ENDED_QUEUE, count_call, &b->calls);
  }
}

static int64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * BENCH_SECOND + t.tv_nsec;
}

/* A connection with 10,000 streams is lost; its loop runs the callbacks in slices of 1,000. */
static void cancel_and_drain(void *fixture, size_t ops, struct bench_sample *sample) {
  struct burst *b = fixture;
  (void)ops;
  struct bench_allocs before, after;
  bench_count_allocs(&before);
  int64_t start = now_ns();
  rctx_cancel(b->server);
  while (rctx_loop_drain(b->loop, 1000) > 0) {
  }
  sample->ns = (double)(now_ns() - start);
  bench_count_allocs(&after);
  sample->extra[0] = (double)(after.descriptors - before.descriptors);
  sample->extra[1] = (double)b->calls;
}

static void end_streams(void *fixture) {
  struct burst *b = fixture;
  for (size_t i = 0; i < b->count; i++) {
    rctx_after_stop(&b->watch[i]);
    rctx_end(b->stream[i]);
  }
  rctx_end(b->server);
}

static void close_burst(void *fixture) {
  struct burst *b = fixture;
  rctx_loop_destroy(b->loop);
  free(b->watch);
  free(b->stream);
  free(b);
}

/* ---- a descriptor ------------------------------------------------------------------------------------------------ */

static void contexts_with_fd(const rctx *parent, size_t count) {
  for (size_t i = 0; i < count; i++) {
    RCTX_SCOPED rctx *ctx = rctx_with_cancel(parent);
    bench_keep_int(rctx_fd(ctx));
  }
}

static void eventfds(size_t count) {
  for (size_t i = 0; i < count; i++) {
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    bench_keep_int(fd);
    close(fd);
  }
}

static void done_fd_create(void *fixture, size_t ops, struct bench_sample *sample) {
  const struct registrar *r = fixture;
  enum { SLICE = 128 };
  int64_t ours = 0, kernel = 0;
  for (size_t done = 0; done < ops; done += SLICE) {
    size_t slice = ops - done < SLICE ? ops - done : SLICE;
    int64_t start = now_ns();
    contexts_with_fd(r->ctx, slice);
    int64_t middle = now_ns();
    eventfds(slice);
    ours += middle - start;
    kernel += now_ns() - middle;
  }
  sample->ns = (double)ours;
  sample->extra[0] = (double)kernel / (double)ops;
}

/* ---- a blocked thread -------------------------------------------------------------------------------------------- */

enum { WAKES = 64 };

struct sleeper {
  pthread_t thread;
  pid_t tid;
  int stat_fd;
  uint32_t turn;  /* futex: odd while the sleeper has something to wait for */
  uint32_t ready; /* the sleeper is about to block */
  uint32_t word;  /* the bare futex */
  bool quit;
  const rctx *ctx; /* NULL: wait on the bare futex */
  int64_t woke_ns;
  int64_t ours[WAKES];
  int64_t kernel[WAKES];
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
      rctx_wait(s->ctx, INT64_MAX);
    } else {
      wait_while(&s->word, 0);
    }
    s->woke_ns = now_ns();
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
static int64_t one_wake(struct sleeper *s, rctx *ctx) {
  s->ctx = ctx;
  __atomic_store_n(&s->word, 0, __ATOMIC_RELAXED);
  __atomic_store_n(&s->ready, 0, __ATOMIC_RELAXED);
  set(&s->turn, 1);
  while (!__atomic_load_n(&s->ready, __ATOMIC_ACQUIRE) || !sleeps(s)) {
  }
  int64_t start = now_ns();
  if (ctx) {
    rctx_cancel(ctx);
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
static void cancel_to_wake(void *fixture, size_t ops, struct bench_sample *sample) {
  struct sleeper *s = fixture;
  (void)ops;
  for (size_t i = 0; i < WAKES; i++) {
    RCTX_SCOPED rctx *ctx = rctx_with_cancel(rctx_background());
    s->ours[i] = one_wake(s, ctx);
    s->kernel[i] = one_wake(s, NULL);
  }
  qsort(s->ours, WAKES, sizeof *s->ours, by_size);
  qsort(s->kernel, WAKES, sizeof *s->kernel, by_size);
  sample->ns = (double)s->ours[WAKES / 2] * WAKES;
  sample->extra[0] = (double)s->kernel[WAKES / 2];
}

static void *open_sleeper(const struct bench_case *self) {
  (void)self;
  struct sleeper *s = bench_memory(1, sizeof *s);
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

static void close_sleeper(void *fixture) {
  struct sleeper *s = fixture;
  s->quit = true;
  set(&s->turn, 1);
  pthread_join(s->thread, NULL);
  close(s->stat_fd);
  free(s);
}

const struct bench_case bench_notify_cases[] = {
    {.name = "after_register_stop",
     .open = open_registrar,
     .run = after_register_stop,
     .close = close_registrar,
     .no_allocs = true},
    {.name = "watch_register_stop",
     .open = open_registrar,
     .run = watch_register_stop,
     .close = close_registrar,
     .no_allocs = true},
    {.name = "loop_cancel_10000",
     .open = open_burst,
     .prepare = watch_streams,
     .measure = cancel_and_drain,
     .cleanup = end_streams,
     .close = close_burst,
     .batch = 10000,
     .no_allocs = true,
     .extra = {"eventfd_writes", "callbacks"}},
    {.name = "done_fd_create",
     .open = open_registrar,
     .measure = done_fd_create,
     .close = close_registrar,
     .uncounted = true,
     .extra = {"kernel_ns"}},
    {.name = "cancel_to_wake",
     .open = open_sleeper,
     .measure = cancel_to_wake,
     .close = close_sleeper,
     .batch = WAKES,
     .uncounted = true,
     .extra = {"kernel_ns"}},
    {.name = NULL},
};
