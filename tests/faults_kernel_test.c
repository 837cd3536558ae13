// The kernel's own refusals, as far as the sweep of faults_test.c does not reach them: real limits, full counters, calls that a
// kernel does not have, clocks that step and jump, and the first uses of a process.
#include "faults/rows.h"
#include "support/gate.h"
#include "support/leftovers.h"
#include "support/seed.h"
#include "support/tasks.h"
#include "support/threads.h"
#include "support/watchdog.h"

#include <fcntl.h>
#include <limits.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void watch(void) { watchdog(60); }
static void close_all(void) {
  faults_disarm();
  faults_clock(0);
  nothing_left_by_default();
}
TestSuite(faults_kernel, .init = watch, .fini = close_all, .timeout = 100);

#if CHECK_LEAKS || defined(RCTX_TSAN)
#define NEEDS_THE_KERNELS_MMAP() cr_skip_test("a sanitizer dies without mmap")
#else
#define NEEDS_THE_KERNELS_MMAP() ((void)0)
#endif

static bool readable(int fd) { return poll(&(struct pollfd){fd, POLLIN, 0}, 1, 0) == 1; }

static void count_call(const rctx *ctx, void *arg) {
  (void)ctx;
  atomic_fetch_add((atomic_int *)arg, 1);
}

/* ---- the first use of a process ---------------------------------------------------------------------------------- */

static bool handler_is(int signal, void (*handler)(int)) {
  struct sigaction now;
  return sigaction(signal, NULL, &now) == 0 && now.sa_handler == handler;
}

// Then a second try works, and the signal ends it.
static void a_signal_ends_one(void) {
  RCTX_SCOPED rctx *c = rctx_with_signal(rctx_background(), SIGUSR1, 0);
  cr_assert_eq(rctx_err(c), 0);
  raise(SIGUSR1);
  cr_assert_eq(rctx_wait(c, INT64_MAX), -ECANCELED);
  cr_assert_eq(rctx_signal_of(c), SIGUSR1);
}

static void no_signal_thread(enum faults_kind kind, int error) {
  cr_assert(handler_is(SIGUSR1, SIG_DFL));
  for (uint64_t n = 1, refused = 1; refused; n++) {
    faults_arm(kind, n, true, error);
    rctx *c = rctx_with_signal(rctx_background(), SIGUSR1, 0);
    refused = faults_disarm().refused;
    int err = rctx_err(c);
    if (kind == FAULT_THREAD)
      cr_assert_eq(err, refused ? -EAGAIN : 0);
    else
      cr_assert(refused ? err == -EAGAIN || err == -ENOMEM : err == 0);
    if (err) cr_assert(handler_is(SIGUSR1, SIG_DFL), "nothing is installed");
    rctx_end(c);
    cr_assert(handler_is(SIGUSR1, SIG_DFL), "and nothing stays");
  }
  a_signal_ends_one();
}

Test(faults_kernel, a_signal_thread_that_can_not_be_started_is_EAGAIN) { no_signal_thread(FAULT_THREAD, EAGAIN); }
Test(faults_kernel, no_memory_for_the_first_context_with_a_signal) { no_signal_thread(FAULT_MEMORY, ENOMEM); }

Test(faults_kernel, a_process_that_has_no_thread_key_left) {
  static pthread_key_t keys[PTHREAD_KEYS_MAX];
  size_t taken = 0;
  while (taken < PTHREAD_KEYS_MAX && pthread_key_create(&keys[taken], NULL) == 0) taken++;
  RCTX_SCOPED rctx *refused = rctx_with_cancel(rctx_background());
  cr_assert_eq(rctx_err(refused), -ENOMEM, "no way to learn of a thread's exit");
  for (size_t i = 0; i < taken; i++) pthread_key_delete(keys[i]);
  RCTX_SCOPED rctx *worked = rctx_with_cancel(rctx_background());
  cr_assert_eq(rctx_err(worked), 0, "a second try succeeds");
}

Test(faults_kernel, fork_handlers_that_could_not_be_installed_are_installed_later) {
  faults_arm(FAULT_ATFORK, 1, false, ENOMEM);
  rctx *c = rctx_with_cancel(rctx_background());
  cr_assert_eq(faults_disarm().refused, 1);
  cr_assert_eq(rctx_err(c), 0);
  rctx_end(c);
  faults_arm(FAULT_ATFORK, 0, false, 0);
  rctx_manager *manager;
  cr_assert_eq(rctx_manager_create(&(struct rctx_manager_options){0}, &manager), 0);
  rctx_end(rctx_with_cancel(rctx_manager_background(manager)));
  cr_assert_eq(faults_disarm().requests, 1, "the next manager tries again");
  cr_assert_eq(rctx_manager_destroy(manager), 0);
}

/* ---- descriptors ------------------------------------------------------------------------------------------------- */

// From now on no descriptor is to be had. Returns the limit that was.
static struct rlimit no_more_descriptors(void) {
  struct rlimit before;
  cr_assert_eq(getrlimit(RLIMIT_NOFILE, &before), 0);
  int first_free = dup(STDERR_FILENO);
  cr_assert_geq(first_free, 0);
  close(first_free);
  struct rlimit none = {(rlim_t)first_free, before.rlim_max};
  cr_assert_eq(setrlimit(RLIMIT_NOFILE, &none), 0);
  return before;
}

Test(faults_kernel, a_process_at_its_limit_of_descriptors) {
  rctx_loop *loop = NULL;
  struct pollfd none = {.fd = -1};
  RCTX_SCOPED rctx *c = rctx_with_cancel(rctx_background());
  struct rlimit before = no_more_descriptors();
  int fd = rctx_fd(c), made = rctx_loop_create(&loop), polled = rctx_poll(c, &none, 1, INT64_MAX);
  RCTX_SCOPED rctx *timed = rctx_with_timeout(c, MS);
  int waited = rctx_wait(timed, INT64_MAX);
  setrlimit(RLIMIT_NOFILE, &before);
  cr_assert_eq(fd, -EMFILE);
  cr_assert_eq(made, -EMFILE);
  cr_assert_eq(polled, -EMFILE);
  cr_assert_eq(waited, -ETIMEDOUT, "what needs none goes on");
  cr_assert_geq(rctx_fd(c), 0, "and all works again");
  cr_assert_eq(rctx_loop_create(&loop), 0);
  rctx_loop_destroy(loop);
  rctx_cancel(c);
  cr_assert(readable(rctx_fd(c)));
}

static void fill(int fd) {
  uint64_t most = UINT64_MAX - 1, one = 1;
  cr_assert_eq(write(fd, &most, sizeof most), (ssize_t)sizeof most);
  cr_assert(write(fd, &one, sizeof one) < 0 && errno == EAGAIN, "the next write is refused");
}

Test(faults_kernel, a_counter_that_is_full_is_readable_and_holds_nobody_up) {
  atomic_int calls = 0;
  struct rctx_after node = {0};
  rctx_loop *loop;
  RCTX_SCOPED rctx *c = rctx_with_cancel(rctx_background());
  cr_assert_eq(rctx_loop_create(&loop), 0);
  cr_assert_eq(rctx_watch(c, &node, loop, RCTX_ON_ENDED_TELL, count_call, &calls), RCTX_REGISTERED);
  fill(rctx_fd(c));
  fill(rctx_loop_fd(loop));
  errno = 0;
  cr_assert(rctx_cancel(c));
  cr_assert_eq(errno, 0, "the caller's errno is left alone");
  cr_assert(readable(rctx_fd(c)) && readable(rctx_loop_fd(loop)));
  cr_assert_eq(rctx_loop_drain(loop, 10), 1);
  cr_assert_eq(atomic_load(&calls), 1);
  cr_assert_not(readable(rctx_loop_fd(loop)));
  rctx_loop_destroy(loop);
}

/* ---- calls that the kernel does not have ------------------------------------------------------------------------- */

static int refuse_calls(unsigned first, unsigned second, unsigned error) {
  struct sock_filter filter[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, first, 1, 0),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, second, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  struct sock_fprog program = {sizeof filter / sizeof *filter, filter};
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return -errno;
  return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0 ? 0 : -errno;
}

enum { TREES = 300, LEAVES = 8 };

struct trees {
  pthread_barrier_t meet;
  rctx *tops[TREES], *leaves[TREES][LEAVES];
};

// One makes and cancels; three leave while it walks, so that memory has to wait for walks.
static void cancel_or_leave(unsigned index, void *arg) {
  struct trees *t = arg;
  for (int round = 0; round < TREES; round++) {
    if (index == 0) {
      t->tops[round] = rctx_with_cancel(rctx_background());
      for (int i = 0; i < LEAVES; i++) t->leaves[round][i] = rctx_with_cancel(t->tops[round]);
    }
    pthread_barrier_wait(&t->meet);
    if (index == 0) rctx_cancel(t->tops[round]);
    for (unsigned i = index; index > 0 && i <= LEAVES; i += 3) rctx_end(t->leaves[round][i - 1]);
    pthread_barrier_wait(&t->meet);
    if (index == 0) rctx_end(t->tops[round]);
  }
}

// Also run by the next test, in a process whose kernel has no membarrier(2).
Test(faults_kernel, trees_are_cancelled_and_left_at_the_same_time) {
  static struct trees t;
  if (getenv("RCTX_TEST_NO_MEMBARRIER")) cr_assert(syscall(SYS_membarrier, 0, 0, 0) < 0 && errno == ENOSYS);
  pthread_barrier_init(&t.meet, NULL, 4);
  threads_run(4, cancel_or_leave, &t);
  cr_assert_eq(rctx_quiesce(rctx_manager_default(), INT64_MAX), 0);
  pthread_barrier_destroy(&t.meet);
}

Test(faults_kernel, a_kernel_without_membarrier__ENOSYS) {
  int status = -1;
  pid_t child = fork();
  cr_assert_geq(child, 0);
  if (child == 0) { // liburcu asks when it is loaded: so a program of its own
    int quiet = open("/dev/null", O_WRONLY);
    dup2(quiet, STDOUT_FILENO);
    dup2(quiet, STDERR_FILENO);
    unsetenv("BXFI_MAP"); // by which Criterion knows a process of one test
    setenv("RCTX_TEST_NO_MEMBARRIER", "1", 1);
    if (refuse_calls(SYS_membarrier, SYS_membarrier, ENOSYS) != 0) _exit(77);
    execl("/proc/self/exe", "faults_kernel_test", "--filter",
          "faults_kernel/trees_are_cancelled_and_left_at_the_same_time", (char *)NULL);
    _exit(127);
  }
  cr_assert_eq(waitpid(child, &status, 0), child);
  if (WIFEXITED(status) && WEXITSTATUS(status) == 77) cr_skip_test("no seccomp here");
  cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0, "status %x", status);
}

struct starved {
  rctx *top, *leaves[LEAVES];
  rctx *parent;
  int born, probed;
};

// A thread whose process gets no address space any more uses the library for the first time.
static void *first_walk_without_mmap(void *arg) {
  struct starved *s = arg;
  void *volatile first = malloc(64);
  free(first); // jemalloc crashes in a thread's first call if it gets no memory for an arena
  s->probed = refuse_calls(SYS_mmap, SYS_mremap, ENOMEM);
  if (s->probed != 0) return NULL;
  rctx_cancel(s->top);
  for (int i = 0; i < LEAVES; i++) rctx_end(s->leaves[i]);
  rctx_end(s->top);
  rctx *c = rctx_with_cancel(s->parent);
  s->born = rctx_err(c);
  rctx_end(c);
  return NULL;
}

Test(faults_kernel, a_thread_that_gets_no_address_space) {
  NEEDS_THE_KERNELS_MMAP();
  struct starved s = {.parent = rctx_with_cancel(rctx_background())};
  pthread_t thread;
  s.top = rctx_with_cancel(rctx_background());
  for (int i = 0; i < LEAVES; i++) s.leaves[i] = rctx_with_cancel(s.top);
  cr_assert_eq(pthread_create(&thread, NULL, first_walk_without_mmap, &s), 0);
  pthread_join(thread, NULL);
  if (s.probed != 0) {
    first_walk_without_mmap(&s);
    cr_skip_test("no seccomp here");
  }
  cr_assert(s.born == 0 || s.born == -ENOMEM, "%d", s.born);
  rctx_end(s.parent);
}

/* ---- threads ----------------------------------------------------------------------------------------------------- */

static int count_task(const rctx *ctx, void *arg) {
  (void)ctx;
  atomic_fetch_add((atomic_int *)arg, 1);
  usleep(10);
  return 0;
}

static const struct rctx_key borrowed = {.name = "borrowed"};

// A thread that has no heap of the manager's, and gets none.
static void *end_without_memory(void *ctx) {
  faults_arm(FAULT_MEMORY, 1, true, ENOMEM);
  rctx_end(ctx);
  bool refused = faults_disarm().refused > 0;
  return refused ? ctx : NULL;
}

Test(faults_kernel, a_thread_without_memory_gives_back_what_another_made) {
  rctx_manager *manager;
  pthread_t thread;
  void *refused = NULL;
  int number = 0;
  cr_assert_eq(rctx_manager_create(&(struct rctx_manager_options){.threads_max = 1}, &manager), 0);
  rctx *c = rctx_with_value(rctx_manager_background(manager), &borrowed, &number);
  cr_assert_eq(pthread_create(&thread, NULL, end_without_memory, c), 0);
  cr_assert_eq(pthread_join(thread, &refused), 0);
  cr_assert_not_null(refused);
  nothing_left(manager);
  cr_assert_eq(rctx_manager_destroy(manager), 0);
}

// The pool has one thread when the others can not be had: it does all the work, also what blocks in other work.
Test(faults_kernel, a_pool_that_gets_no_second_thread) {
  enum { TASKS = 200 };
  atomic_int ran = 0;
  rctx_manager *manager;
  struct rctx_group group;
  cr_assert_eq(rctx_manager_create(&(struct rctx_manager_options){.threads_max = 8}, &manager), 0);
  const rctx *root = rctx_manager_background(manager);
  faults_arm(FAULT_THREAD, 2, true, EAGAIN);
  for (int i = 0; i < 20; i++) cr_assert_eq(rctx_execute(root, count_task, &ran, NULL, NULL), 0);
  rctx_group_init(&group, root);
  for (int i = 0; i < TASKS; i++) cr_assert_eq(rctx_group_go(&group, count_task, &ran), 0);
  cr_assert_eq(rctx_group_fini(&group), 0);
  cr_assert_gt(faults_disarm().refused, 0, "others were wanted");
  cr_assert_eq(atomic_load(&ran), TASKS + 20);
  cr_assert_eq(rctx_execute(root, count_task, &ran, NULL, NULL), 0);
  nothing_left(manager);
  cr_assert_eq(rctx_manager_destroy(manager), 0);
}

static int nest(const rctx *ctx, void *arg) {
  int *depth = arg, deeper = *depth - 1;
  return deeper == 0 ? 0 : rctx_execute(ctx, nest, &deeper, NULL, NULL);
}

Test(faults_kernel, work_that_waits_for_work_and_gets_no_thread_says_so) {
  rctx_manager *manager;
  cr_assert_eq(rctx_manager_create(&(struct rctx_manager_options){.threads_max = 4}, &manager), 0);
  const rctx *root = rctx_manager_background(manager);
  for (uint64_t threads = 1; threads <= 6; threads++) {
    int depth = 6;
    struct rctx_stats stats;
    rctx_stats(manager, &stats);
    faults_arm(FAULT_THREAD, 2, true, EAGAIN); // one more each time
    int rc = rctx_execute(root, nest, &depth, NULL, NULL);
    bool refused = faults_disarm().refused > 0;
    cr_assert_eq(rc, refused ? -EAGAIN : 0, "with %zu threads: %d", stats.threads, rc);
  }
  nothing_left(manager);
  cr_assert_eq(rctx_manager_destroy(manager), 0);
}

/* ---- clocks ------------------------------------------------------------------------------------------------------ */

static _Atomic int64_t clock_ns;
static int64_t read_clock(void *arg) {
  (void)arg;
  return atomic_load(&clock_ns);
}

enum { CONTEXTS = 64, TICK_NS = 1000000, STEPS = 200 };

struct timed {
  rctx *ctx;
  int64_t deadline_ns;
  bool over; // seen to have ended
};

static int64_t saturating_add(int64_t a, int64_t b) {
  int64_t sum;
  if (!__builtin_add_overflow(a, b, &sum)) return sum;
  return b > 0 ? INT64_MAX : INT64_MIN;
}

// Of all sizes, also the largest.
static int64_t random_span(struct rng *rng) {
  int64_t span = (int64_t)(rng_next(rng) >> rng_between(rng, 1, 63));
  return rng_one_in(rng, 8) ? INT64_MAX - span : span;
}

static int64_t next_time(struct rng *rng, int64_t now) {
  switch (rng_below(rng, 8)) {
  case 0:
    return saturating_add(now, -random_span(rng)); // a step back, also before 0
  case 1:
    return saturating_add(now, random_span(rng));
  case 2:
    return rng_one_in(rng, 8) ? INT64_MAX - rng_between(rng, 0, 10 * TICK_NS) : rng_between(rng, 0, 10 * TICK_NS);
  default:
    return saturating_add(now, rng_between(rng, 0, 5 * TICK_NS));
  }
}

// What has ended was due at the latest time the manager knew of. What is live was not, but for less than a tick; the end of time
// never comes.
static void judge_timed(struct timed *t, int64_t latest_ns) {
  int err = rctx_err(t->ctx);
  if (t->over) return;
  t->over = err != 0;
  long long deadline = (long long)t->deadline_ns, latest = (long long)latest_ns;
  if (err)
    cr_assert(err == -ETIMEDOUT && deadline <= latest && deadline != INT64_MAX, "%lld at %lld", deadline, latest);
  if (!err && deadline <= INT64_MAX - TICK_NS) cr_assert_lt(latest, deadline + TICK_NS, "late: %lld", deadline);
}

static void arm_one(rctx_manager *manager, struct timed *t, struct rng *rng, int64_t latest_ns) {
  int64_t span = random_span(rng), now = atomic_load(&clock_ns);
  if (t->ctx) rctx_end(t->ctx);
  *t = (struct timed){rctx_with_timeout(rctx_manager_background(manager), span), saturating_add(now, span), false};
  bool due = t->deadline_ns <= now || t->deadline_ns <= latest_ns;
  if (rctx_err(t->ctx)) cr_assert(due && t->deadline_ns != INT64_MAX);
  if (!due) cr_assert_eq(rctx_err(t->ctx), 0, "early");
  cr_assert_geq(rctx_remaining(t->ctx), 0);
}

// Until the end of time has come. Returns how many steps it took.
static int clock_goes_anywhere(rctx_manager *manager, struct rng *rng) {
  struct timed timed[CONTEXTS] = {{NULL, 0, false}};
  int64_t latest_ns = atomic_load(&clock_ns);
  if (latest_ns < 0) latest_ns = 0; // a time before 0 counts as 0
  int step = 0;
  arm_one(manager, &timed[0], rng, latest_ns); // the manager looks at its clock first here
  for (; step < STEPS && latest_ns < INT64_MAX / 2; step++) {
    for (int i = 0; i < 8; i++) arm_one(manager, &timed[rng_below(rng, CONTEXTS)], rng, latest_ns);
    int64_t now = next_time(rng, atomic_load(&clock_ns));
    atomic_store(&clock_ns, now);
    cr_assert_geq(rctx_next(manager, now), 0);
    rctx_advance(manager, now, 0);
    if (now > latest_ns) latest_ns = now;
    for (int i = 0; i < CONTEXTS; i++)
      if (timed[i].ctx) judge_timed(&timed[i], latest_ns);
  }
  for (int i = 0; i < CONTEXTS; i++)
    if (timed[i].ctx) rctx_end(timed[i].ctx);
  return step;
}

Test(faults_kernel, a_clock_that_goes_anywhere_ends_nothing_early_and_loses_nothing) {
  static const int64_t starts[] = {0, -SECOND, 1000 * SECOND + 123457, INT64_C(1) << 61, INT64_MAX - SECOND};
  struct rng rng;
  unsigned steps = 0;
  rng_init(&rng, seed_get());
  for (int round = 0; round < 200; round++) {
    struct rctx_manager_options options = {.drive = RCTX_DRIVE_EMBEDDER, .now = read_clock};
    rctx_manager *manager;
    atomic_store(&clock_ns, starts[round % 5]);
    cr_assert_eq(rctx_manager_create(&options, &manager), 0);
    steps += (unsigned)clock_goes_anywhere(manager, &rng);
    nothing_left(manager);
    cr_assert_eq(rctx_manager_destroy(manager), 0);
  }
  cr_assert_gt(steps, 200, "the clock went nowhere");
}

// The library's own thread when CLOCK_MONOTONIC does what it must not: it goes on, and what is due ends when the clock is right.
Test(faults_kernel, the_timer_thread_lives_through_a_clock_that_steps_and_jumps) {
  RCTX_SCOPED rctx *far = rctx_with_timeout(rctx_background(), 300 * SECOND);
  for (int i = 0; i < 20; i++) {
    faults_clock(i % 2 ? -5 * SECOND : 5 * SECOND);
    rctx_end(rctx_with_timeout(rctx_background(), MS));
  }
  faults_clock(0);
  cr_assert_eq(rctx_err(far), 0, "not early");
  RCTX_SCOPED rctx *soon = rctx_with_timeout(rctx_background(), MS);
  cr_assert_eq(rctx_wait(soon, INT64_MAX), -ETIMEDOUT);
  faults_clock(3600 * SECOND); // as after an hour that nobody saw
  RCTX_SCOPED rctx *next = rctx_with_timeout(rctx_background(), MS);
  while (rctx_err(next) == 0) rctx_advance(rctx_manager_default(), rctx_now(), 0);
  cr_assert_eq(rctx_err(far), -ETIMEDOUT);
}
