/*
 * sim.c - fibres, points, and who goes on: see sim.h.
 *
 * Exactly one fibre runs. At a point it asks choose(); if that names another, the two are exchanged: stack by _longjmp(),
 * thread-local variables by copying their section, errno. Fibres and their stacks are kept from schedule to schedule.
 *
 * Strategies, by the seed: a random walk that goes on with another fibre at one in 1, 2, 4, .. 32 points; or priorities, of which
 * the highest runs, and up to four random points at which the one that runs falls to the lowest (Burckhardt et al., "A randomized
 * scheduler with probabilistic guarantees of finding bugs": a bug that needs d orderings is found with a known probability).
 * Points count only where there is a choice, so that the ends of a schedule cost no depth.
 */
#define _GNU_SOURCE
#include "sim.h"

#include <errno.h>
#include <inttypes.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__)
#define SIM_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SIM_ASAN 1
#endif
#endif
#ifdef SIM_ASAN
#include <sanitizer/common_interface_defs.h>
#else
#define __sanitizer_start_switch_fiber(save, bottom, size) ((void)(save), (void)(bottom), (void)(size))
#define __sanitizer_finish_switch_fiber(save, bottom, size) ((void)(save), (void)(bottom), (void)(size))
#endif

enum {
  STACK_BYTES = 256 * 1024,
  GUARD_BYTES = 4096,
  STEPS_MAX = 400000, /* of one schedule: more is an endless loop */
  ALONE_MAX = 200,
  TRACE_MAX = 48,
  CHANGES_MAX = 4,
  CHANGES_WITHIN_LOG2_MIN = 4,
  CHANGES_WITHIN_LOG2_MAX = 10,
  ONE_IN_LOG2_MAX = 5
};
static const uint64_t PRIORITY_MIDDLE = UINT64_C(1) << 32;

enum state { NOT_STARTED = 0, RUNNABLE, BLOCKED, ENDED };

struct place {
  const char *function;
  int line;
  const volatile void *address;
};

struct fibre {
  jmp_buf resume;
  ucontext_t first;
  char *stack;
  char *locals;
  void *fake_stack;
  bool begun;

  enum state state;
  enum sim_reason reason;
  const volatile void *blocked_on;
  int64_t until_ns;
  bool timed_out;
  uint64_t priority;
  int saved_errno;
  void *(*run)(void *arg);
  void *arg;
  struct place at;
  struct sim_thread thread;
};

struct hop {
  uint64_t step;
  unsigned from, to;
  struct place at;
};

static struct {
  const struct sim_body *body;
  uint64_t seed;
  uint64_t random, body_random; /* two streams: what a body draws does not depend on what the scheduler draws */
  bool running;
  bool by_priority, uncached, spurious;
  unsigned one_in_mask, jump_one_in;
  unsigned changes, changes_done;
  uint64_t change_at[CHANGES_MAX];
  uint64_t lowest;
  uint64_t steps, choices, switches, hash;
  unsigned alone;
  int64_t now_ns;
  struct fibre fibres[SIM_FIBRES_MAX];
  unsigned count;
  struct fibre *current;
  uint32_t runnable; /* a bit per fibre */
  uint32_t timed;    /* blocked, with a time */
  struct hop trace[TRACE_MAX];
  jmp_buf root;
  const void *root_stack;
  size_t root_stack_bytes;
} sim;

bool sim_verbose;
void (*sim_say_replay)(const char *body, uint64_t seed);

extern char __start_fibre_local[], __stop_fibre_local[]; /* by the linker: bounds of redirect.h's section */
void sim_core_reset(void);

/* ---- random ------------------------------------------------------------------------------------------------------ */

static uint64_t mixed(uint64_t z) {
  z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
  z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
  return z ^ (z >> 31);
}

static unsigned draw(uint64_t *state, unsigned n) {
  *state ^= *state << 13;
  *state ^= *state >> 7;
  *state ^= *state << 17;
  return (unsigned)(((*state >> 32) * n) >> 32);
}

unsigned sim_random(unsigned n) { return draw(&sim.body_random, n); }
bool sim_spuriously(unsigned n) { return sim.spurious && draw(&sim.random, n) == 0; }
bool sim_uncached(void) { return sim.uncached; }
int64_t sim_now(void) { return sim.now_ns; }

/* ---- failures ---------------------------------------------------------------------------------------------------- */

static void say(const char *format, ...) {
  char text[512];
  va_list arguments;
  va_start(arguments, format);
  int length = vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  if (length > (int)sizeof text - 1) length = (int)sizeof text - 1;
  if (length > 0 && write(STDERR_FILENO, text, (size_t)length) < 0) return;
}

static void say_place(const struct place *at) {
  say("%s:%d", at->function ? at->function : "start", at->line);
  if (at->address) say(" (%#" PRIxPTR ")", sim_heap_offset(at->address));
}

static void say_hop(const struct hop *hop) {
  say("  step %6" PRIu64 "  thread %u -> %u, left at ", hop->step, hop->from, hop->to);
  say_place(&hop->at);
  say("\n");
}

static const char *state_text(const struct fibre *fibre) {
  static const char *const reasons[] = {"sleeps on a futex",  "waits for a mutex",  "waits for a condition",
                                        "waits for a thread", "polls a descriptor", "waits for a grace period"};
  if (fibre->state == BLOCKED) return reasons[fibre->reason];
  return fibre->state == ENDED ? "has ended" : fibre == sim.current ? "runs" : "could run";
}

static void say_all(void) {
  if (!sim.running) return;
  say("the last switches:\n");
  uint64_t first = sim.switches > TRACE_MAX ? sim.switches - TRACE_MAX : 0;
  for (uint64_t i = first; i < sim.switches && !sim_verbose; i++) say_hop(&sim.trace[i % TRACE_MAX]);
  for (unsigned i = 0; i < sim.count; i++) {
    say("thread %u %s, at ", i, state_text(&sim.fibres[i]));
    say_place(&sim.fibres[i].at);
    say("\n");
  }
  if (sim_say_replay) sim_say_replay(sim.body->name, sim.seed);
  sim.running = false;
}

void sim_fail(const char *file, int line, const char *format, ...) {
  char text[400];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  say("\n%s:%d: %s: %s\n", file, line, sim.body ? sim.body->name : "-", text);
  say_all();
  _exit(1);
}

#ifndef SIM_ASAN
static void on_signal(int number) {
  say("\n%s: %s\n", sim.body ? sim.body->name : "-", strsignal(number));
  say_all();
  _exit(1);
}
#endif

/* A crash says its seed, too, also one of a stack that is full. */
static void catch_crashes(void) {
#ifdef SIM_ASAN
  __sanitizer_set_death_callback(say_all);
#else
  static char stack[1 << 16];
  const int numbers[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGALRM};
  stack_t alternative = {.ss_sp = stack, .ss_size = sizeof stack};
  struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_ONSTACK};
  sigaltstack(&alternative, NULL);
  for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) sigaction(numbers[i], &action, NULL);
#endif
}

/* ---- fibres ------------------------------------------------------------------------------------------------------ */

unsigned sim_self(void) { return (unsigned)(sim.current - sim.fibres); }
bool sim_ended(unsigned fibre) { return sim.fibres[fibre].state == ENDED; }
bool sim_exists(unsigned fibre) { return fibre < sim.count; }
struct sim_thread *sim_thread_of(unsigned fibre) {
  return &sim.fibres[fibre].thread;
}

static size_t locals_bytes(void) { return (size_t)(__stop_fibre_local - __start_fibre_local); }
static uint32_t bit(const struct fibre *fibre) { return UINT32_C(1) << (fibre - sim.fibres); }

static void set_state(struct fibre *fibre, enum state state) {
  fibre->state = state;
  sim.runnable = state == RUNNABLE ? sim.runnable | bit(fibre) : sim.runnable & ~bit(fibre);
  bool timed = state == BLOCKED && fibre->until_ns != SIM_NEVER;
  sim.timed = timed ? sim.timed | bit(fibre) : sim.timed & ~bit(fibre);
}

static _Noreturn void enter(struct fibre *fibre) {
  memcpy(__start_fibre_local, fibre->locals, locals_bytes());
  errno = fibre->saved_errno;
  if (fibre->begun) _longjmp(fibre->resume, 1);
  fibre->begun = true;
  setcontext(&fibre->first);
  abort();
}

static void note_hop(struct fibre *from, const struct fibre *to) {
  struct hop *hop = &sim.trace[sim.switches % TRACE_MAX];
  *hop = (struct hop){sim.steps, sim_self(), (unsigned)(to - sim.fibres), from->at};
  sim.switches++;
  sim.hash = mixed(sim.hash ^ (sim.choices << 8) ^ hop->to);
  if (sim_verbose) say_hop(hop);
}

static void switch_to(struct fibre *to) {
  struct fibre *from = sim.current;
  if (to == from) return;
  note_hop(from, to);
  sim.alone = 0;
  from->saved_errno = errno;
  memcpy(from->locals, __start_fibre_local, locals_bytes());
  sim.current = to;
  if (_setjmp(from->resume) == 0) {
    __sanitizer_start_switch_fiber(&from->fake_stack, to->stack + GUARD_BYTES, STACK_BYTES);
    enter(to);
  }
  __sanitizer_finish_switch_fiber(sim.current->fake_stack, NULL, NULL);
}

static void go_on_with_another(void);

static void leave_schedule(void) {
  struct fibre *from = sim.current;
  if (_setjmp(from->resume) == 0) {
    __sanitizer_start_switch_fiber(&from->fake_stack, sim.root_stack, sim.root_stack_bytes);
    _longjmp(sim.root, 1);
  }
  __sanitizer_finish_switch_fiber(sim.current->fake_stack, NULL, NULL);
}

static void fibre_main(void) {
  const void *before;
  size_t before_bytes;
  __sanitizer_finish_switch_fiber(NULL, &before, &before_bytes);
#ifdef SIM_ASAN
  if (sim.root_stack == NULL) { /* the very first one comes from there */
    sim.root_stack = before;
    sim.root_stack_bytes = before_bytes;
  }
#endif
  for (;;) { /* once for each schedule that uses this fibre */
    sim.current->run(sim.current->arg);
    sim_kernel_thread_ends();
    set_state(sim.current, ENDED);
    sim_wake(SIM_ON_THREAD, &sim.current->thread, UINT32_MAX);
    if (sim_self() == 0) {
      leave_schedule();
    } else {
      go_on_with_another();
    }
  }
}

static void make_fibre(struct fibre *fibre) {
  fibre->stack = mmap(NULL, GUARD_BYTES + STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  fibre->locals = malloc(locals_bytes() + 1);
  if (fibre->stack == MAP_FAILED || fibre->locals == NULL) abort();
  mprotect(fibre->stack, GUARD_BYTES, PROT_NONE);
  getcontext(&fibre->first);
  fibre->first.uc_stack = (stack_t){.ss_sp = fibre->stack + GUARD_BYTES, .ss_size = STACK_BYTES};
  makecontext(&fibre->first, fibre_main, 0);
}

unsigned sim_start(void *(*run)(void *arg), void *arg) {
  if (sim.count == SIM_FIBRES_MAX) sim_fail(__FILE__, __LINE__, "more than %d threads", (int)SIM_FIBRES_MAX);
  struct fibre *fibre = &sim.fibres[sim.count++];
  if (fibre->stack == NULL) make_fibre(fibre);
  memset(fibre->locals, 0, locals_bytes());
  fibre->run = run;
  fibre->arg = arg;
  fibre->saved_errno = 0;
  fibre->at = (struct place){0};
  fibre->thread = (struct sim_thread){0};
  fibre->priority = PRIORITY_MIDDLE + draw(&sim.random, 1U << 20);
  set_state(fibre, RUNNABLE);
  return (unsigned)(fibre - sim.fibres);
}

/* ---- who goes on ------------------------------------------------------------------------------------------------- */

static struct fibre *any_of(uint32_t set) {
  unsigned n = draw(&sim.random, (unsigned)__builtin_popcount(set));
  while (n-- > 0) set &= set - 1;
  return &sim.fibres[__builtin_ctz(set)];
}

static struct fibre *highest(void) {
  struct fibre *best = NULL;
  for (uint32_t set = sim.runnable; set; set &= set - 1) {
    struct fibre *fibre = &sim.fibres[__builtin_ctz(set)];
    if (best == NULL || fibre->priority > best->priority) best = fibre;
  }
  return best;
}

static struct fibre *choose(void) {
  sim.choices++;
  if (!sim.by_priority) {
    if (sim.current->state == RUNNABLE && (draw(&sim.random, UINT32_MAX) & sim.one_in_mask) != 0) return sim.current;
    return any_of(sim.runnable);
  }
  while (sim.changes_done < sim.changes && sim.choices >= sim.change_at[sim.changes_done]) {
    sim.changes_done++;
    sim.current->priority = sim.lowest--;
  }
  return highest();
}

void sim_set_now(int64_t now_ns) {
  sim.now_ns = now_ns;
  for (uint32_t set = sim.timed; set; set &= set - 1) {
    struct fibre *fibre = &sim.fibres[__builtin_ctz(set)];
    if (fibre->until_ns > now_ns) continue;
    fibre->timed_out = true;
    set_state(fibre, RUNNABLE);
  }
}

/* The next time that somebody waits for; false: nobody does. */
static bool first_time(int64_t *first_ns) {
  *first_ns = SIM_NEVER;
  for (uint32_t set = sim.timed; set; set &= set - 1) {
    const struct fibre *fibre = &sim.fibres[__builtin_ctz(set)];
    if (fibre->until_ns < *first_ns) *first_ns = fibre->until_ns;
  }
  return sim.timed != 0;
}

/* Another fibre than the current one, which can not go on; time moves if need be. */
static void go_on_with_another(void) {
  int64_t first_ns;
  if (sim.runnable == 0 && first_time(&first_ns)) sim_set_now(first_ns > sim.now_ns ? first_ns : sim.now_ns);
  if (sim.runnable == 0) sim_fail(__FILE__, __LINE__, "deadlock: all threads are blocked, and nobody waits for a time");
  struct fibre *next = sim.runnable & (sim.runnable - 1) ? choose() : &sim.fibres[__builtin_ctz(sim.runnable)];
  switch_to(next);
}

/* What happens to threads by itself: time passes while they are somewhere, a sleeper wakes for nothing. */
static void disturb(void) {
  if (sim.jump_one_in && draw(&sim.random, sim.jump_one_in) == 0) {
    int64_t to_ns;
    if (!first_time(&to_ns) || to_ns <= sim.now_ns) to_ns = sim.now_ns + SIM_MS / 2;
    sim_set_now(to_ns + (draw(&sim.random, 4) == 0 ? SIM_MS : 0));
  }
  if (sim.spurious && draw(&sim.random, 256) == 0) {
    struct fibre *fibre = &sim.fibres[draw(&sim.random, sim.count)];
    if (fibre->state == BLOCKED && (fibre->reason == SIM_ON_FUTEX || fibre->reason == SIM_ON_COND))
      set_state(fibre, RUNNABLE);
  }
}

static void step(const volatile void *address, const char *function, int line) {
  sim.current->at = (struct place){function, line, address};
  if (++sim.steps > STEPS_MAX)
    sim_fail(__FILE__, __LINE__, "no end after %" PRIu64 " steps: an endless loop", sim.steps);
}

void sim_point(const volatile void *address, const char *function, int line) {
  if (!sim.running) return;
  step(address, function, line);
  disturb();
  if (sim.runnable & (sim.runnable - 1)) switch_to(choose());
  if (address) sim_heap_touch(address);
}

void sim_stuck(const char *function, int line) {
  if (!sim.running) return;
  step(NULL, function, line);
  sim.current->priority = sim.lowest--;
  uint32_t others = sim.runnable & ~bit(sim.current);
  if (others == 0 && ++sim.alone > ALONE_MAX) {
    int64_t first_ns;
    if (!first_time(&first_ns)) sim_fail(__FILE__, __LINE__, "livelock: a thread waits for a lock, and nobody runs");
    sim.alone = 0;
    sim_set_now(first_ns);
  }
  if (others == 0) return;
  sim.choices++;
  switch_to(sim.by_priority ? highest() : any_of(others));
}

bool sim_block(enum sim_reason reason, const volatile void *address, int64_t until_ns) {
  struct fibre *me = sim.current;
  if (until_ns <= sim.now_ns) return false;
  me->reason = reason;
  me->blocked_on = address;
  me->until_ns = until_ns;
  me->timed_out = false;
  set_state(me, BLOCKED);
  go_on_with_another();
  return !me->timed_out;
}

void sim_wake(enum sim_reason reason, const volatile void *address, unsigned at_most) {
  unsigned first = draw(&sim.random, sim.count); /* whoever waits longest has no right to be first */
  for (unsigned i = 0; i < sim.count && at_most > 0; i++) {
    struct fibre *fibre = &sim.fibres[(first + i) % sim.count];
    if (fibre->state != BLOCKED || fibre->reason != reason || fibre->blocked_on != address) continue;
    set_state(fibre, RUNNABLE);
    at_most--;
  }
}

/* ---- a schedule -------------------------------------------------------------------------------------------------- */

static void choose_strategy(void) {
  const struct sim_body *body = sim.body;
  sim.by_priority = draw(&sim.random, 2);
  sim.one_in_mask = (1U << draw(&sim.random, ONE_IN_LOG2_MAX + 1)) - 1;
  sim.spurious = draw(&sim.random, 4) == 0;
  sim.uncached = body->never_cached || draw(&sim.random, 2);
  static const unsigned jumps[] = {0, 0, 64, 512};
  sim.jump_one_in = jumps[draw(&sim.random, 4)];
  if (body->still_clock) sim.jump_one_in = 0;
  unsigned within = CHANGES_WITHIN_LOG2_MIN + draw(&sim.random, CHANGES_WITHIN_LOG2_MAX - CHANGES_WITHIN_LOG2_MIN + 1);
  sim.changes = draw(&sim.random, CHANGES_MAX + 1);
  sim.changes_done = 0;
  for (unsigned i = 0; i < sim.changes; i++) { /* sorted, as they come */
    uint64_t at = draw(&sim.random, 1U << within);
    unsigned place = i;
    for (; place > 0 && sim.change_at[place - 1] > at; place--) sim.change_at[place] = sim.change_at[place - 1];
    sim.change_at[place] = at;
  }
}

static void *run_body(void *arg) {
  (void)arg;
  sim.body->run();
  return NULL;
}

void sim_run(const struct sim_body *body, uint64_t seed, struct sim_outcome *outcome) {
  static bool ready;
  if (!ready) catch_crashes();
  ready = true;
  sim.body = body;
  sim.seed = seed;
  sim.random = mixed(seed + UINT64_C(0x9e3779b97f4a7c15)) | 1;
  sim.body_random = mixed(seed ^ UINT64_C(0xd1342543de82ef95)) | 1;
  sim.steps = sim.choices = sim.switches = sim.hash = sim.alone = 0;
  sim.now_ns = 1000 * SIM_MS;
  sim.lowest = PRIORITY_MIDDLE - 1;
  sim.count = sim.runnable = sim.timed = 0;
  choose_strategy();
  sim_core_reset();
  sim_kernel_reset();
  sim_heap_reset(draw(&sim.random, 2));
  sim.current = &sim.fibres[sim_start(run_body, NULL)];
  sim.running = true;
  void *fake_stack;
  if (_setjmp(sim.root) == 0) {
    __sanitizer_start_switch_fiber(&fake_stack, sim.current->stack + GUARD_BYTES, STACK_BYTES);
    enter(sim.current);
  }
  __sanitizer_finish_switch_fiber(fake_stack, NULL, NULL);
  for (unsigned i = 0; i < sim.count; i++) {
    if (!sim_ended(i)) sim_fail(__FILE__, __LINE__, "thread %u was not joined", i);
  }
  sim_kernel_check();
  sim_heap_check();
  sim.running = false;
  *outcome = (struct sim_outcome){.trace = sim.hash, .steps = sim.steps, .switches = sim.switches};
}
