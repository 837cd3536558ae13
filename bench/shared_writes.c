/*
 * rctx-shared-writes striped|plain: what two threads write when they work under one parent, for valgrind --tool=lackey
 * --trace-mem=yes to see. bench/shared_writes.py runs it and counts.
 *
 * The trace does not say which thread wrote. So the threads take turns: while one does COUNT operations of one step, everybody
 * else sleeps, and a store to marker[STEP] before and to marker[0] after says in the trace who works, and at what. At the end
 * the program prints which addresses are what; it looks into the library for that, and for making the parent's lock found taken
 * (striped): a busy server does it by itself, valgrind runs one thread at a time.
 *
 * COUNT is less than a thread's cache holds, and each group is repeated before it is marked: the steady state is what counts.
 */
#include "manager.h"
#include "memory.h"
#include "tree.h"

#include <pthread.h>
#include <rctx/rctx.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { COUNT = 32, WARM_ROUNDS = 2, HANDOFF_ROUNDS = 6, THREADS = 2, STEPS_MAX = 32 };
#define HOUR (INT64_C(3600) * 1000000000)

RCTX_KEY(trace_id, const char *)

struct actor {
  pthread_t thread;
  sem_t go;
  struct actor *other;
  rctx *ctx[COUNT];
  struct rctx_after after[COUNT];
  void *stack;
  size_t stack_bytes;
  struct rctx__heap *heap;
} __attribute__((aligned(CACHE_LINE)));

static volatile uint64_t marker[STEPS_MAX * THREADS + 1] __attribute__((aligned(CACHE_LINE)));
static struct actor actors[THREADS];
static sem_t done;
static rctx *server;

/* ---- steps: each does one thing COUNT times ---------------------------------------------------------------------- */

static void do_derive(struct actor *actor) {
  for (int i = 0; i < COUNT; i++) actor->ctx[i] = rctx_with_cancel(server);
}
static void do_derive_timeout(struct actor *actor) {
  for (int i = 0; i < COUNT; i++) actor->ctx[i] = rctx_with_timeout(server, HOUR);
}
static void do_derive_value(struct actor *actor) {
  for (int i = 0; i < COUNT; i++) actor->ctx[i] = trace_id_with(server, "4bf92f3577b34da6");
}
static void do_cancel(struct actor *actor) {
  for (int i = 0; i < COUNT; i++) rctx_cancel(actor->ctx[i]);
}
static void do_end(struct actor *actor) {
  for (int i = 0; i < COUNT; i++) rctx_end(actor->ctx[i]);
}
static void do_end_of_other(struct actor *actor) { do_end(actor->other); }

static void do_look(struct actor *actor) {
  const char *found;
  for (int i = 0; i < COUNT; i++) {
    if (!trace_id_get(actor->ctx[i], &found) || rctx_err(actor->ctx[i]) != 0) abort();
  }
}

static void never(const rctx *ctx, void *arg) {
  (void)ctx;
  (void)arg;
  abort();
}
static void do_register(struct actor *actor) {
  for (int i = 0; i < COUNT; i++) {
    if (rctx_after(actor->ctx[i], &actor->after[i], never, NULL) != 0) abort();
  }
}
static void do_stop(struct actor *actor) {
  for (int i = 0; i < COUNT; i++) rctx_after_stop(&actor->after[i]);
}

static void do_request(struct actor *actor) {
  (void)actor;
  for (int i = 0; i < COUNT; i++) {
    RCTX_SCOPED rctx *request = rctx_with_cancel(server);
    RCTX_SCOPED rctx *limited = rctx_with_timeout(request, HOUR);
    RCTX_SCOPED rctx *traced = trace_id_with(limited, "4bf92f3577b34da6");
    RCTX_SCOPED rctx *call = rctx_with_cancel(traced);
    const char *found;
    if (!trace_id_get(call, &found)) abort();
    rctx_cancel(request);
  }
}

/* A group is done by both threads, step by step; what they share is looked for within it. `only`: 1 + the thread that does it. */
static const struct step {
  const char *group, *name;
  void (*run)(struct actor *actor);
  unsigned only;
} steps[] = {
    {"cancel", "derive", do_derive, 0},     {"cancel", "cancel", do_cancel, 0},
    {"cancel", "end", do_end, 0},           {"timeout", "derive_timeout", do_derive_timeout, 0},
    {"timeout", "end", do_end, 0},          {"value", "derive_value", do_derive_value, 0},
    {"value", "lookup, err", do_look, 0},   {"value", "end", do_end, 0},
    {"after", "derive", do_derive, 0},      {"after", "register", do_register, 0},
    {"after", "stop", do_stop, 0},          {"after", "end", do_end, 0},
    {"request", "request", do_request, 0},  {"handoff", "derive_timeout", do_derive_timeout, 1},
    {"handoff", "end", do_end_of_other, 2},
};
#define STEPS (sizeof steps / sizeof *steps)
_Static_assert(STEPS < STEPS_MAX, "a marker for each");

/* ---- turns ------------------------------------------------------------------------------------------------------- */

static unsigned mark_of(unsigned step, unsigned thread) { return 1 + step * THREADS + thread; }

static void sleep_on(sem_t *semaphore) {
  while (sem_wait(semaphore) != 0) {
  }
}

/* The same in both threads, but for whose turn it is. */
static const struct step *now_step;
static unsigned now_mark;

static void *act(void *self) {
  struct actor *actor = self;
  pthread_attr_t attributes;
  if (pthread_getattr_np(pthread_self(), &attributes) != 0) abort();
  pthread_attr_getstack(&attributes, &actor->stack, &actor->stack_bytes);
  pthread_attr_destroy(&attributes);
  for (;;) {
    sleep_on(&actor->go);
    if (now_step == NULL) return NULL;
    if (now_mark) marker[now_mark] = 1;
    now_step->run(actor);
    marker[0] = 1;
    actor->heap = rctx__heap_here;
    sem_post(&done);
  }
}

static void give_turn(unsigned step, unsigned thread, bool marked) {
  now_step = &steps[step];
  now_mark = marked ? mark_of(step, thread) : 0;
  sem_post(&actors[thread].go);
  sleep_on(&done);
}

static void run_group(unsigned from, unsigned to, bool marked) {
  for (unsigned step = from; step < to; step++) {
    for (unsigned thread = 0; thread < THREADS; thread++) {
      if (steps[step].only == 0 || steps[step].only == thread + 1) give_turn(step, thread, marked);
    }
  }
}

static void run_all(void) {
  for (unsigned from = 0, to; from < STEPS; from = to) {
    for (to = from; to < STEPS && strcmp(steps[to].group, steps[from].group) == 0;) to++;
    int rounds = steps[from].only ? HANDOFF_ROUNDS : WARM_ROUNDS; /* until what the one has cached before is used up */
    for (int round = 0; round < rounds; round++) run_group(from, to, false);
    run_group(from, to, true);
  }
}

/* ---- a parent that is found locked ------------------------------------------------------------------------------- */

static struct rctx__stripe *stripes(unsigned *count) {
  struct rctx__ext *ext = load_acquire(&server->ext);                    /* partner: rctx__ext_get() */
  struct rctx__stripe *first = ext ? load_acquire(&ext->stripes) : NULL; /* partner: stripes_make() */
  *count = first ? ext->stripe_count : 0;
  return first;
}

static sem_t try_now, tried;

/* One derivation at a time, so that the trace stays short. */
static void *derive_when_asked(void *unused) {
  unsigned count;
  while (sleep_on(&try_now), stripes(&count) == NULL) {
    rctx_end(rctx_with_cancel(server));
    sem_post(&tried);
  }
  return unused;
}

static void make_striped(void) {
  const struct timespec moment = {.tv_nsec = 1000000};
  unsigned count;
  pthread_t thread;
  sem_init(&try_now, 0, 0);
  sem_init(&tried, 0, 0);
  if (pthread_create(&thread, NULL, derive_when_asked, NULL) != 0) abort();
  while (stripes(&count) == NULL) {
    uint32_t state = rctx__state_lock(server);
    sem_post(&try_now);
    nanosleep(&moment, NULL);
    rctx__state_unlock(server, state);
    sleep_on(&tried);
  }
  sem_post(&try_now);
  pthread_join(thread, NULL);
}

/* ---- what is where ----------------------------------------------------------------------------------------------- */

static void region(const char *name, const void *start, size_t bytes) {
  printf("region\t%s\t%zu\t%zu\n", name, (size_t)(uintptr_t)start, bytes);
}

/* The first that fits counts: the parts before the whole. */
static void print_regions(void) {
  struct rctx_manager *manager = server->manager;
  unsigned count;
  const struct rctx__stripe *stripe = stripes(&count);
  printf("stripes\t%u\t%u\n", count, rctx__cpu_count());
  region("marker", (const void *)(uintptr_t)marker, sizeof marker);
  region("parent, first line", server, CACHE_LINE);
  region("parent, second line", (char *)server + CACHE_LINE, CACHE_LINE);
  for (unsigned i = 0; i < count; i++) region("a stripe of the parent", &stripe[i], sizeof *stripe);
  struct rctx__shard *shards = load_acquire(&manager->timers.shards); /* partner: shards_make() */
  region("a timer shard", shards, manager->timers.shard_count * sizeof *shards);
  region("the pools", &manager->memory.pools, sizeof manager->memory.pools);
  region("the manager", manager, sizeof *manager);
  for (unsigned t = 0; t < THREADS; t++) {
    region("a thread's cache of free nodes", actors[t].heap, sizeof *actors[t].heap);
    region("the caller's own", &actors[t], sizeof actors[t]);
    region("a thread's stack and thread-locals", actors[t].stack, actors[t].stack_bytes);
  }
  static const char *const names[CLASSES] = {"chunk of nodes", "chunk of value blocks", "chunk of tasks"};
  for (int c = 0; c < CLASSES; c++) {
    for (struct rctx__chunk *chunk = manager->memory.pools[c].chunks; chunk; chunk = chunk->next) {
      region(names[c], chunk, CHUNK_BYTES);
    }
  }
}

static void print_steps(void) {
  printf("count\t%d\n", COUNT);
  printf("marker\t%zu\t0\t\t\n", (size_t)(uintptr_t)&marker[0]);
  for (unsigned step = 0; step < STEPS; step++) {
    for (unsigned thread = 0; thread < THREADS; thread++) {
      printf("marker\t%zu\t%u\t%s\t%s\n", (size_t)(uintptr_t)&marker[mark_of(step, thread)], thread + 1,
             steps[step].group, steps[step].name);
    }
  }
}

int main(int argc, char **argv) {
  if (argc != 2 || (strcmp(argv[1], "striped") != 0 && strcmp(argv[1], "plain") != 0)) {
    fputs("usage: rctx-shared-writes striped|plain\n", stderr);
    return 2;
  }
  /* No timer thread, which could wake up in somebody's turn. Its place in the protocol is taken as if it slept. */
  rctx_manager *manager;
  if (rctx_manager_create(&(struct rctx_manager_options){.drive = RCTX_DRIVE_EMBEDDER}, &manager) != 0) abort();
  server = rctx_with_cancel(rctx_manager_background(manager));
  rctx *first_due = rctx_with_timeout(rctx_manager_background(manager), HOUR / 2);
  rctx_next(manager, rctx_now());
  if (strcmp(argv[1], "striped") == 0) make_striped();
  sem_init(&done, 0, 0);
  for (unsigned t = 0; t < THREADS; t++) {
    actors[t].other = &actors[1 - t];
    sem_init(&actors[t].go, 0, 0);
    if (pthread_create(&actors[t].thread, NULL, act, &actors[t]) != 0) abort();
  }
  run_all();
  print_steps();
  print_regions();
  now_step = NULL;
  for (unsigned t = 0; t < THREADS; t++) {
    sem_post(&actors[t].go);
    pthread_join(actors[t].thread, NULL);
  }
  rctx_end(first_due);
  rctx_end(server);
  return rctx_manager_destroy(manager) == 0 ? 0 : 1;
}
