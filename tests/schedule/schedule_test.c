/*
 * schedule_test.c - runs the bodies under many schedules: `schedule_test --help`.
 *
 * Each body is run by --jobs processes at once, which share a table of the interleavings seen. The schedule number n has a
 * seed made of --seed, the body's name and n; what fails prints it.
 */
#define _GNU_SOURCE
#include "bodies.h"
#include "sim.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { SEEN_LOG2 = 23, JOBS_MAX = 64, SCHEDULES_DEFAULT = 20000, WATCHDOG_S = 60, WATCHDOG_EVERY = 4096, LINE_S = 5 };

#define BODY(function, ...)                                                                                            \
  { .name = #function, .run = function, __VA_ARGS__ }
static const struct sim_body bodies[] = {
    BODY(add_cancel),
    BODY(leave_cancel),
    BODY(leave_reclaim),
    BODY(two_cancels),
    BODY(cancels_at_two_levels),
    BODY(end_parent_child),
    BODY(give_up),
    BODY(stripes_cancel),
    BODY(stripes_drop),
    BODY(sweep_derive),
    BODY(stop_callback),
    BODY(stop_notify),
    BODY(register_cancel),
    BODY(callback_ends_its_context),
    BODY(wait_cancel),
    BODY(fd_cancel),
    BODY(poll_cancel),
    BODY(cond_wait),
    BODY(loop_queue),
    BODY(loop_burst),
    BODY(loop_destroy),
    BODY(merge_any),
    BODY(merge_all),
    BODY(merge_end),
    BODY(timer_fire_stop),
    BODY(timer_parent),
    BODY(timer_first_kick, .still_clock = true),
    BODY(timer_kick, .still_clock = true),
    BODY(timer_kick_embedder, .still_clock = true),
    BODY(timer_move),
    BODY(group_tasks),
    BODY(group_limit),
    BODY(execute_cancel),
    BODY(execute_result),
    BODY(drain_requests),
    BODY(drain_raises),
    BODY(look_release),
    BODY(leaks_release),
    BODY(thread_exit),
    BODY(test_clock),
    BODY(idle_touch),
    BODY(random_operations, .share = 6),
};
enum { BODIES = sizeof bodies / sizeof *bodies };

/* What the processes of one body share. */
static struct {
  _Atomic uint64_t schedules, distinct, steps, switches;
  _Atomic uint64_t seen[1U << SEEN_LOG2];
} * shared;

static struct {
  uint64_t seed, schedules, replay;
  const char *only;
  unsigned jobs;
  bool has_seed, has_replay;
} options = {.schedules = SCHEDULES_DEFAULT, .jobs = 1};
static const char *program;

static uint64_t mixed(uint64_t z) {
  z += UINT64_C(0x9e3779b97f4a7c15);
  z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
  z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
  return z ^ (z >> 31);
}

static uint64_t seed_of(const struct sim_body *body, uint64_t number) {
  uint64_t hash = options.seed;
  for (const char *c = body->name; *c; c++) hash = mixed(hash ^ (uint64_t)(unsigned char)*c);
  return mixed(hash + number);
}

static double seconds_now(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void say_replay(const char *body, uint64_t seed) {
  uint64_t number = atomic_fetch_add(&shared->schedules, 1) + 1;
  fprintf(stderr, "%s failed after %" PRIu64 " schedules\n", body, number);
  fprintf(stderr, "replay with: %s --only %s --replay %#" PRIx64 "\n", program, body, seed);
}

/* ---- running ----------------------------------------------------------------------------------------------------- */

/* True if nobody has seen this trace before. A full table counts too few. */
static bool is_new(uint64_t trace) {
  enum { PROBES_MAX = 64 };
  if (trace == 0) trace = 1;
  for (uint64_t i = 0; i < PROBES_MAX; i++) {
    _Atomic uint64_t *slot = &shared->seen[(trace + i) & ((1U << SEEN_LOG2) - 1)];
    uint64_t found = 0;
    if (atomic_compare_exchange_strong(slot, &found, trace)) return true;
    if (found == trace) return false;
  }
  return false;
}

static void run_share(const struct sim_body *body, uint64_t schedules, unsigned job) {
  for (uint64_t n = job, done = 0; n < schedules; n += options.jobs, done++) {
    struct sim_outcome outcome;
    if (done % WATCHDOG_EVERY == 0) alarm(WATCHDOG_S); /* a loop without a point */
    sim_run(body, seed_of(body, n), &outcome);
    atomic_fetch_add(&shared->schedules, 1);
    atomic_fetch_add(&shared->steps, outcome.steps);
    atomic_fetch_add(&shared->switches, outcome.switches);
    if (is_new(outcome.trace)) atomic_fetch_add(&shared->distinct, 1);
  }
}

static bool wait_for_jobs(const struct sim_body *body, const pid_t *jobs, uint64_t schedules) {
  bool well = true;
  double next_line = seconds_now() + LINE_S;
  for (unsigned left = options.jobs; left > 0;) {
    int status;
    pid_t pid = waitpid(-1, &status, WNOHANG);
    if (pid > 0) {
      left--;
      if (status == 0 || !well) continue;
      well = false;
      for (unsigned i = 0; i < options.jobs; i++) {
        if (jobs[i] != pid) kill(jobs[i], SIGKILL);
      }
      continue;
    }
    nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
    if (seconds_now() < next_line) continue;
    next_line += LINE_S;
    printf("%-28s %10" PRIu64 " of %" PRIu64 " ...\n", body->name, atomic_load(&shared->schedules), schedules);
    fflush(stdout);
  }
  return well;
}

static bool run_body(const struct sim_body *body, uint64_t schedules) {
  pid_t jobs[JOBS_MAX];
  double began = seconds_now();
  memset((void *)shared, 0, sizeof *shared);
  fflush(stdout);
  for (unsigned job = 0; job < options.jobs; job++) {
    jobs[job] = fork();
    if (jobs[job] < 0) abort();
    if (jobs[job] > 0) continue;
    run_share(body, schedules, job);
    _exit(0);
  }
  bool well = wait_for_jobs(body, jobs, schedules);
  printf("%-28s %10" PRIu64 " %10" PRIu64 " %12" PRIu64 " %11" PRIu64 " %8.1f%s\n", body->name,
         atomic_load(&shared->schedules), atomic_load(&shared->distinct), atomic_load(&shared->steps),
         atomic_load(&shared->switches), seconds_now() - began, well ? "" : "  FAILED");
  fflush(stdout);
  return well;
}

static bool selected(const struct sim_body *body) {
  return options.only == NULL || strcmp(options.only, body->name) == 0;
}

static int run_all(void) {
  unsigned shares = 0;
  uint64_t total = 0;
  double began = seconds_now();
  for (unsigned i = 0; i < BODIES; i++) {
    if (selected(&bodies[i])) shares += bodies[i].share ? bodies[i].share : 1;
  }
  printf("seed %" PRIu64 " (--seed %" PRIu64 " repeats this run)\n", options.seed, options.seed);
  printf("%-28s %10s %10s %12s %11s %8s\n", "body", "schedules", "distinct", "steps", "switches", "seconds");
  for (unsigned i = 0; i < BODIES; i++) {
    uint64_t share = bodies[i].share ? bodies[i].share : 1;
    if (!selected(&bodies[i])) continue;
    if (!run_body(&bodies[i], (options.schedules * share + shares - 1) / shares)) return 1;
    total += atomic_load(&shared->schedules);
  }
  printf("%" PRIu64 " schedules in %.1f s\n", total, seconds_now() - began);
  return 0;
}

static int replay(void) {
  struct sim_outcome outcome;
  for (unsigned i = 0; i < BODIES; i++) {
    if (!selected(&bodies[i])) continue;
    sim_verbose = true;
    sim_run(&bodies[i], options.replay, &outcome);
    printf("no failure: %" PRIu64 " steps, trace %#" PRIx64 "\n", outcome.steps, outcome.trace);
  }
  return 0;
}

/* ---- options ----------------------------------------------------------------------------------------------------- */

static const char usage[] =
    "usage: schedule_test [--schedules N] [--seed S] [--only BODY] [--jobs N] [--list]\n"
    "       schedule_test --only BODY --replay SEED\n"
    "Runs each body under many schedules, N in all. --replay repeats one of them and prints its switches.\n";

static _Noreturn void misuse(const char *what) {
  fprintf(stderr, "schedule_test: %s\n%s", what, usage);
  exit(2);
}

static uint64_t number(const char *text) {
  char *end;
  uint64_t n = strtoull(text, &end, 0);
  if (*text == '\0' || *end != '\0') misuse("not a number");
  return n;
}

static void list(void) {
  for (unsigned i = 0; i < BODIES; i++) puts(bodies[i].name);
  exit(0);
}

static void parse(int argc, char **argv) {
  for (int i = 1; i < argc; i += 2) {
    if (strcmp(argv[i], "--list") == 0) list();
    if (strcmp(argv[i], "--help") == 0) exit(fputs(usage, stdout) < 0);
    if (i + 1 == argc) misuse("an option without its value, or an unknown one");
    const char *value = argv[i + 1];
    if (strcmp(argv[i], "--schedules") == 0) {
      options.schedules = number(value);
    } else if (strcmp(argv[i], "--seed") == 0) {
      options.seed = number(value);
      options.has_seed = true;
    } else if (strcmp(argv[i], "--replay") == 0) {
      options.replay = number(value);
      options.has_replay = true;
    } else if (strcmp(argv[i], "--only") == 0) {
      options.only = value;
    } else if (strcmp(argv[i], "--jobs") == 0) {
      options.jobs = (unsigned)number(value);
    } else {
      misuse("unknown option");
    }
  }
}

int main(int argc, char **argv) {
  struct timespec now;
  program = argv[0];
  clock_gettime(CLOCK_REALTIME, &now);
  options.seed = ((uint64_t)now.tv_sec << 20) ^ (uint64_t)now.tv_nsec;
  parse(argc, argv);
  if (options.jobs == 0 || options.jobs > JOBS_MAX || options.schedules == 0)
    misuse("--jobs and --schedules want more");
  unsigned found = 0;
  for (unsigned i = 0; i < BODIES; i++) found += selected(&bodies[i]);
  if (found == 0) misuse("no such body; --list names them");
  if (options.has_replay && found != 1) misuse("--replay wants --only");
  shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (shared == MAP_FAILED) abort();
  sim_say_replay = say_replay;
  return options.has_replay ? replay() : run_all();
}
