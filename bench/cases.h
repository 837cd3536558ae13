/*
 * The benchmark cases: plain C, public API only, written the way a user writes it.
 *
 * A case is a row of a table. harness.c runs it, whatever program asks: rctx-bench (google-benchmark, main.cc) to time it
 * and to count its allocations, rctx-instructions to have valgrind count its instructions, the rivals in C and C++
 * (rivals/main.c) to do the same work with another library. Two kinds:
 *
 *   run       does any number of operations on a fixture; timed as one block. With .batch it does exactly that many, and
 *             prepare() and cleanup() around each block are not timed: what has to exist before a cancel is not its cost.
 *   measure   takes its own time, for what no stopwatch around a call can see (lateness, wakeups, resident memory).
 *
 * A fixture is opened once per case, warmed up, and used for all repetitions.
 */
#ifndef RCTX_BENCH_CASES_H
#define RCTX_BENCH_CASES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define BENCH_EXTRAS 4
#define BENCH_SECOND INT64_C(1000000000)

/* What one block of operations cost, in total. */
struct bench_sample {
  double ns;                  /* mean of what each thread saw, when there are two */
  double cpu_ns;              /* processor time of the same; 0 from measure() */
  size_t ops;                 /* of each thread */
  uint64_t allocs;            /* calls of malloc and friends, by any thread of the process */
  uint64_t bytes;             /* asked for by those calls */
  double extra[BENCH_EXTRAS]; /* not per operation: see bench_case.extra */
};

struct bench_case {
  const char *name;
  bool pair;      /* run() on two threads at once, both on the same fixture */
  bool no_allocs; /* the smoke test fails on a single allocation once warm */
  bool uncounted; /* not for rctx-instructions: several threads, or mostly waiting */
  size_t batch;   /* operations of one block; 0: any number */
  size_t warm;    /* operations run once after open(); 0: 4096 or one batch */
  size_t size;    /* for open(): how many, how deep */
  void *(*open)(const struct bench_case *self);
  void (*prepare)(void *fixture);
  void (*run)(void *fixture, size_t ops);
  void (*measure)(void *fixture, size_t ops, struct bench_sample *sample); /* fills ns and extra */
  void (*cleanup)(void *fixture);
  void (*close)(void *fixture);
  const char *extra[BENCH_EXTRAS]; /* names of further figures, NULL: none */
};

/* How to fill a process with contexts, for bytes_per_live_ctx_* (resident.c). */
struct bench_resident {
  void (*open)(bool timeout); /* all that is not the contexts': a parent, threads, tables */
  void *(*make)(bool timeout, size_t i);
  void (*end)(void *handle);
};

/* What is measured: each program defines one bench_program. */
struct bench_program {
  const char *name;                       /* "rctx", or a rival's */
  const char *(*version)(void);           /* of the library */
  const char *blind;                      /* what it can not express, in a few words; NULL: nothing */
  const struct bench_case *const *tables; /* each ending with a NULL name; the list with a NULL */
  const struct bench_resident *resident;
  void (*settle)(void); /* NULL or: leave the library as it was at the start, for the next case */
};
extern const struct bench_program bench_program;

/* All cases of the program, in the order of its tables; ends with a NULL name. */
const struct bench_case *bench_cases(size_t *count);
const struct bench_case *bench_find(const char *name);

/* rctx's own tables. */
extern const struct bench_case bench_err_cases[];
extern const struct bench_case bench_derive_cases[];
extern const struct bench_case bench_value_cases[];
extern const struct bench_case bench_cancel_cases[];
extern const struct bench_case bench_notify_cases[];
extern const struct bench_case bench_timer_cases[];
extern const struct bench_case bench_request_cases[];
extern const struct bench_case bench_group_cases[];
extern const struct bench_case bench_handoff_cases[];

/* resident.c: bytes_per_live_ctx_cancel and _timeout, of whatever bench_program.resident makes. */
extern const struct bench_case bench_resident_cancel_cases[];
extern const struct bench_case bench_resident_timeout_cases[];

/* Keeps the compiler from leaving out what computes value. */
static inline void bench_keep(const void *value) { __asm__ volatile("" : : "g"(value) : "memory"); }
static inline void bench_keep_int(int value) { __asm__ volatile("" : : "g"(value)); }

static inline uint64_t bench_random(uint64_t *state) {
  uint64_t x = *state;
  x ^= x << 13;
  x ^= x >> 7;
  x ^= x << 17;
  return *state = x;
}

/* Uniform over [from, from + 60) seconds, to the microsecond. */
static inline int64_t bench_random_timeout(uint64_t *state, int64_t from_s) {
  return from_s * BENCH_SECOND + (int64_t)(bench_random(state) % 60000000U) * 1000;
}

/* A random order of 0 .. count-1 and malloc() that does not fail: a benchmark without memory has nothing to say. */
uint32_t *bench_shuffled(size_t count);
void *bench_memory(size_t count, size_t size);

/* resident.c: the program run again as `PROGRAM --resident KIND COUNT`; prints what the case reads. */
int bench_resident_main(const char *kind, const char *count);

#ifdef __cplusplus
}
#endif
#endif
