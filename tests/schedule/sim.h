/*
 * sim.h - a deterministic scheduler: threads are fibres of one OS thread, and a seed decides who goes on at each step.
 *
 * The core is compiled once more with redirect.h in front of every file. Its atomics, and what it calls of libc, the kernel
 * and liburcu come here: each such call is a point, at which the scheduler may let another fibre go on. So a schedule takes
 * microseconds, and its seed repeats it exactly. docs/protocols/schedules.md says more.
 *
 *   sim.c     fibres and points, strategies, deadlocks and endless loops, the trace
 *   kernel.c  the clock, futexes, mutexes, condition variables, threads, eventfds, poll, and liburcu
 *   heap.c    memory: what is touched after it was freed, and what is never freed
 */
#ifndef RCTX_TESTS_SCHEDULE_SIM_H
#define RCTX_TESTS_SCHEDULE_SIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SIM_MS INT64_C(1000000)
#define SIM_NEVER INT64_MAX

/* ---- for bodies -------------------------------------------------------------------------------------------------- */

/** Start a thread; it is joined by sim_join_all(). */
void sim_spawn(void (*run)(void *arg), void *arg);
void sim_join_all(void);

/** A number below n that the seed decides. */
unsigned sim_random(unsigned n);

/** The schedule has shown a fault: prints it with the seed and the last switches, and ends the program. */
_Noreturn void sim_fail(const char *file, int line, const char *format, ...) __attribute__((format(printf, 3, 4)));
#define CHECK(condition) ((condition) ? (void)0 : sim_fail(__FILE__, __LINE__, "not true: %s", #condition))
#define CHECK_EQUAL(a, b) sim_check_equal((long long)(a), (long long)(b), #a " == " #b, __FILE__, __LINE__)
static inline void sim_check_equal(long long a, long long b, const char *text, const char *file, int line) {
  if (a != b) sim_fail(file, line, "not true: %s (%lld, %lld)", text, a, b);
}

int64_t sim_now(void);
/** How often an eventfd was written, and whether it is readable. */
unsigned sim_fd_writes(int fd);
bool sim_fd_readable(int fd);

/* ---- a schedule -------------------------------------------------------------------------------------------------- */

struct sim_body {
  const char *name;
  void (*run)(void);
  unsigned share;    /* of the schedules, as a multiple of the others'; 0: 1 */
  bool still_clock;  /* time moves only when all are blocked: lateness can be told */
  bool never_cached; /* every node comes from the heap */
};

/** What the seed has chosen for this schedule, as far as bodies are concerned. */
bool sim_uncached(void);

struct sim_outcome {
  uint64_t trace; /* hash of who went on when */
  uint64_t steps;
  uint64_t switches;
};
void sim_run(const struct sim_body *body, uint64_t seed, struct sim_outcome *outcome);
/** Print every switch as it comes. */
extern bool sim_verbose;
/** How the program wants a failure to be replayed: printed by sim_fail(). */
extern void (*sim_say_replay)(const char *body, uint64_t seed);

/* ---- between sim.c, kernel.c and heap.c -------------------------------------------------------------------------- */

enum { SIM_FIBRES_MAX = 16, SIM_KEYS_MAX = 4 };

enum sim_reason { SIM_ON_FUTEX, SIM_ON_MUTEX, SIM_ON_COND, SIM_ON_THREAD, SIM_ON_FD, SIM_ON_READERS };

/** What kernel.c keeps for each fibre. */
struct sim_thread {
  unsigned read_depth;   /* of read sections */
  uint64_t read_section; /* number of the outermost */
  void *keys[SIM_KEYS_MAX];
};

void sim_point(const volatile void *address, const char *function, int line);
/** The fibre can not go on before another has: it waits for a lock. */
void sim_stuck(const char *function, int line);
/** Block until sim_wake() of the same reason and address, or until the time has come. False: that. May return early. */
bool sim_block(enum sim_reason reason, const volatile void *address, int64_t until_ns);
void sim_wake(enum sim_reason reason, const volatile void *address, unsigned at_most);
/** True once in n times, but only in schedules that have spurious wakeups. */
bool sim_spuriously(unsigned n);
unsigned sim_self(void);
unsigned sim_start(void *(*run)(void *arg), void *arg);
bool sim_ended(unsigned fibre);
bool sim_exists(unsigned fibre);
struct sim_thread *sim_thread_of(unsigned fibre);
void sim_set_now(int64_t now_ns);

void sim_kernel_reset(void);
void sim_kernel_thread_ends(void);
void sim_kernel_check(void);
void sim_heap_reset(bool reuse);
void sim_heap_check(void);
void sim_heap_touch(const volatile void *address);
/** As an offset in the heap, which is the same in every run; other addresses: as they are. */
uintptr_t sim_heap_offset(const volatile void *address);

#endif
