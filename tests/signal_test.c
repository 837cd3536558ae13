// Contexts that end with a signal: every way in which a signal can come, also into the middle of the library; hosts with
// handlers of their own before and after; what was there before is back afterwards.
//
// Restoring happens after the context has ended, perhaps on the library's thread: restored() waits for it.
#include "support/check.h"
#include "support/children.h"
#include "support/counting.h"
#include "support/leftovers.h"
#include "support/seed.h"
#include "support/tasks.h"
#include "support/threads.h"
#include "support/watchdog.h"

#include "core/platform.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <setjmp.h>
#include <stdatomic.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>

#define MS INT64_C(1000000)
#define SECOND INT64_C(1000000000)

enum { WATCHDOG_S = 60 };

#if defined(__SANITIZE_THREAD__)
enum { SLOWER = 5 };
#elif CHECK_LEAKS
enum { SLOWER = 3 };
#else
enum { SLOWER = 1 };
#endif

#if CHECK_LEAKS
#define NEEDS_A_MALLOC_THAT_FORKS() cr_skip_test("ASan's malloc can not be used after fork")
#else
#define NEEDS_A_MALLOC_THAT_FORKS() ((void)0)
#endif
#ifdef RCTX_TSAN
#define NEEDS_THREADS_IN_THE_CHILD() cr_skip_test("TSan can not start threads after fork")
#define NEEDS_SIGNALS_AT_ONCE() cr_skip_test("TSan delays signals and changes flags")
#else
#define NEEDS_THREADS_IN_THE_CHILD() ((void)0)
#define NEEDS_SIGNALS_AT_ONCE() ((void)0)
#endif

static void signal_open(void) { watchdog(WATCHDOG_S); }

TestSuite(signal, .init = signal_open, .fini = nothing_left_by_default, .timeout = 120);

// ---- helpers ---------------------------------------------------------------------------------------------------------

static void ended_by(const rctx *ctx, int number) {
  struct rctx_why why;
  cr_assert_eq(rctx_wait(ctx, INT64_MAX), -ECANCELED);
  cr_assert_eq(rctx_why(ctx, &why), -ECANCELED);
  cr_assert_eq(why.origin, RCTX_ORIGIN_SIGNAL);
  cr_assert_eq((intptr_t)why.cause->user, number, "%ld", (long)(intptr_t)why.cause->user);
  cr_assert_eq(rctx_signal_of(ctx), number);
}

static struct sigaction now(int number) {
  struct sigaction action;
  cr_assert_eq(sigaction(number, NULL, &action), 0);
  return action;
}

// What can be compared: sa_restorer is the C library's.
static bool same(const struct sigaction *a, const struct sigaction *b) {
  const int flags = SA_SIGINFO | SA_RESTART | SA_NODEFER | SA_ONSTACK | SA_NOCLDSTOP | SA_NOCLDWAIT | (int)SA_RESETHAND;
  bool handlers = (a->sa_flags & SA_SIGINFO) ? (void *)a->sa_sigaction == (void *)b->sa_sigaction
                                             : (void *)a->sa_handler == (void *)b->sa_handler;
  bool called = (a->sa_flags & SA_SIGINFO) || (a->sa_handler != SIG_DFL && a->sa_handler != SIG_IGN);
  for (int i = 1; called && i < 65; i++) { // else the mask is nothing; TSan fills it
    if (i != SIGKILL && i != SIGSTOP && sigismember(&a->sa_mask, i) != sigismember(&b->sa_mask, i)) return false;
  }
  return handlers && (a->sa_flags & flags) == (b->sa_flags & flags);
}

static void restored(int number, const struct sigaction *before) {
  for (struct sigaction current = now(number); !same(before, &current); current = now(number)) sched_yield();
}

static void installed(int number, const struct sigaction *before) {
  struct sigaction current = now(number);
  cr_assert_neq((void *)current.sa_sigaction, (void *)before->sa_sigaction, "nothing is installed for %d", number);
  cr_assert_neq((void *)current.sa_handler, (void *)SIG_DFL);
  cr_assert_neq((void *)current.sa_handler, (void *)SIG_IGN);
}

static atomic_int host_calls, host_number, host_from, host_value;
static atomic_bool host_had_context, host_spoils_errno;
static sigset_t host_mask;
static _Atomic uintptr_t host_stack;

static void host_plain(int number) {
  int here;
  pthread_sigmask(SIG_BLOCK, NULL, &host_mask);
  atomic_store(&host_stack, (uintptr_t)&here);
  atomic_store(&host_number, number);
  atomic_fetch_add(&host_calls, 1);
  if (atomic_load(&host_spoils_errno)) errno = ENOTTY;
}

static void host_info(int number, siginfo_t *info, void *context) {
  atomic_store(&host_from, info->si_pid);
  atomic_store(&host_value, info->si_value.sival_int);
  atomic_store(&host_had_context, context != NULL);
  host_plain(number);
}

static struct sigaction host_installs(int number, int flags, int masked) {
  struct sigaction action = {.sa_flags = flags};
  if (flags & SA_SIGINFO)
    action.sa_sigaction = host_info;
  else
    action.sa_handler = host_plain;
  sigemptyset(&action.sa_mask);
  if (masked) sigaddset(&action.sa_mask, masked);
  cr_assert_eq(sigaction(number, &action, NULL), 0);
  return now(number);
}

static void host_ignores(int number) { cr_assert_neq(signal(number, SIG_IGN), SIG_ERR); }

// ---- a signal ends it ------------------------------------------------------------------------------------------------

Test(signal, raise_ends_it) {
  RCTX_SCOPED rctx *c = rctx_with_signal(rctx_background(), SIGUSR1, 0);
  cr_assert_eq(rctx_err(c), 0);
  cr_assert_eq(rctx_signal_of(c), 0);
  raise(SIGUSR1);
  ended_by(c, SIGUSR1);
  cr_assert_str_eq(rctx_cause(c)->text, "SIGUSR1");
  cr_assert_eq(rctx_cause(c)->code, -ECANCELED);
}

Test(signal, the_text_is_the_signals_name) {
  static const struct {
    int number;
    const char *name;
  } all[] = {{SIGTERM, "SIGTERM"}, {SIGINT, "SIGINT"},   {SIGHUP, "SIGHUP"},     {SIGQUIT, "SIGQUIT"},
             {SIGUSR2, "SIGUSR2"}, {SIGPIPE, "SIGPIPE"}, {SIGWINCH, "SIGWINCH"}, {SIGCHLD, "SIGCHLD"},
             {SIGTSTP, "SIGTSTP"}, {SIGURG, "SIGURG"}};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
    RCTX_SCOPED rctx *c = rctx_with_signal(rctx_background(), all[i].number, 0);
    raise(all[i].number);
    ended_by(c, all[i].number);
    cr_assert_str_eq(rctx_cause(c)->text, all[i].name);
  }
}

Test(signal, realtime_signals_too) {
  for (int number = SIGRTMIN; number <= SIGRTMAX; number++) {
    RCTX_SCOPED rctx *c = rctx_with_signal(rctx_background(), number, 0);
    cr_assert_eq(rctx_err(c), 0, "%d", number);
    raise(number);
    ended_by(c, number);
    cr_assert_not_null(rctx_cause(c)->text);
  }
}

Test(signal, any_of_the_list_ends_it) {
  static const int list[] = {SIGTERM, SIGINT, SIGUSR1};
  for (int i = 0; i < 3; i++) {
    RCTX_SCOPED rctx *c = rctx_with_signal(rctx_background(), SIGTERM, SIGINT, SIGUSR1, 0);
    RCTX_SCOPED rctx *d = rctx_with_signals(rctx_background(), list, 3);
    raise(list[i]);
    ended_by(c, list[i]);
    ended_by(d, list[i]);
  }
}

Test(signal, a_signal_twice_in_the_list_is_one) {
  struct sigaction before = now(SIGUSR1);
  rctx *c = rctx_with_signal(rctx_background(), SIGUSR1, SIGUSR1, SIGUSR1, 0);
  cr_assert_eq(rctx_err(c), 0);
  raise(SIGUSR1);
  ended_by(c, SIGUSR1);
  rctx_end(c);
  restored(SIGUSR1, &before);
}

Test(signal, all_signals_that_there_are_in_one_list) {
  int list[64];
  size_t n = 0;
  for (int number = 1; number <= SIGRTMAX; number++) {
    bool faults = number == SIGSEGV || number == SIGBUS || number == SIGILL || number == SIGFPE || number == SIGTRAP;
    bool reserved = number == SIGKILL || number == SIGSTOP || (number >= 32 && number < SIGRTMIN);
    if (!faults && !reserved && number != SIGALRM && number != SIGABRT) list[n++] = number;
  }
  RCTX_SCOPED rctx *c = rctx_with_signals(rctx_background(), list, n);
  cr_assert_eq(rctx_err(c), 0);
  raise(SIGTERM);
  ended_by(c, SIGTERM);
}

Test(signal, descendants_know_the_signal) {
  RCTX_SCOPED rctx *c = rctx_with_signal(rctx_background(), SIGTERM, 0);
  RCTX_SCOPED rctx *below = rctx_with_timeout(c, INT64_MAX);
  RCTX_SCOPED rctx *deep = rctx_with_cancel(below);
  RCTX_SCOPED rctx *detached = rctx_without_cancel(deep);
  raise(SIGTERM);
  ended_by(deep, SIGTERM);
  ended_by(below, SIGTERM);
  cr_assert_eq(rctx_cause(deep), rctx_cause(c));
  cr_assert_eq(rctx_signal_of(detached), 0);
  RCTX_SCOPED rctx *later = rctx_with_cancel(c);
  ended_by(later, SIGTERM);
}

Test(signal, signal_of_what_ended_otherwise_is_0) {
  static const struct rctx_cause misleading = {.code = -ECANCELED, .origin = RCTX_ORIGIN_USER, .user = (void *)15};
  RCTX_SCOPED rctx *c = rctx_with_signal(rctx_background(), SIGTERM, 0);
  RCTX_SCOPED rctx *d = rctx_with_signal(rctx_background(), SIGTERM, 0);
  RCTX_SCOPED rctx *timed_out = rctx_with_timeout(rctx_background(), -1);
  rctx_cancel(c);
  cr_assert(rctx_cancel_cause(d, &misleading));
  cr_assert_eq(rctx_signal_of(c), 0);
  cr_assert_eq(rctx_signal_of(d), 0);
  cr_assert_eq(rctx_signal_of(timed_out), 0);
  cr_assert_eq(rctx_signal_of(rctx_background()), 0);
}

static void child_sends(int number) {
  pid_t parent = getpid(), child = fork();
  cr_assert_geq(child, 0);
  if (child == 0) {
    kill(parent, number);
    _exit(0);
  }
  while (waitpid(child, NULL, 0) < 0) {
  }
}

Test(signal, from_another_process) {
  RCTX_SCOPED rctx *c = rctx_with_signal(rctx_background(), SIGHUP, 0);
  child_sends(SIGHUP);
  ended_by(c, SIGHUP);
}

static void *spin_until(void *arg) {
  while (!atomic_load((atomic_bool *)arg)) sched_yield();
  return NULL;
}

Test(signal, to_another_thread) {
  atomic_bool stop = false;
  pthread_t thread;
  cr_assert_eq(pthread_create(&thread, NULL, spin_until, &stop), 0);
  RCTX_SCOPED rctx *c = rctx_with_signal(rctx_background(), SIGUSR2, 0);
  pthread_kill(thread, SIGUSR2);
  ended_by(c, SIGUSR2);
  atomic_store(&stop, true);
  pthread_join(thread, NULL);
}

Test(signal, it_is_a_cancel_context_otherwise) {
  int value;
  void *found;
  static const struct rctx_key key = {.name = "key"};
  RCTX_SCOPED rctx *parent = rctx_with_value(rctx_background(), &key, &value);
  RCTX_SCOPED rctx *c = rctx_with_signal(parent, SIGTERM, 0);
  cr_assert(rctx_get(c, &key, &found) && found == &value);
  cr_assert(rctx_cancel(c));
  cr_assert_eq(rctx_err(c), -ECANCELED);
  RCTX_SCOPED rctx *d = rctx_with_signal(parent, SIGTERM, 0);
  rctx_cancel(parent);
  cr_assert_eq(rctx_err(d), -ECANCELED);
  RCTX_SCOPED rctx *soon = rctx_with_timeout(rctx_background(), 5 * MS);
  RCTX_SCOPED rctx *e = rctx_with_signal(soon, SIGTERM, 0);
  cr_assert_eq(rctx_wait(e, INT64_MAX), -ETIMEDOUT);
}

static void store_signal(const rctx *ctx, void *arg) { *(int *)arg = rctx_signal_of(ctx); }

Test(signal, fds_and_callbacks_tell_of_it) {
  struct rctx_after node = {0};
  rctx_loop *loop;
  cr_assert_eq(rctx_loop_create(&loop), 0);
  rctx *c = rctx_with_signal(rctx_background(), SIGTERM, 0);
  int got = 0;
  cr_assert_eq(rctx_watch(c, &node, loop, RCTX_ON_ENDED_QUEUE, store_signal, &got), RCTX_REGISTERED);
  struct pollfd fds[2] = {{.fd = rctx_fd(c), .events = POLLIN}, {.fd = rctx_loop_fd(loop), .events = POLLIN}};
  raise(SIGTERM);
  while (poll(fds, 2, -1) != 2) {
  }
  cr_assert_eq(rctx_loop_drain(loop, 1), 1);
  cr_assert_eq(got, SIGTERM);
  rctx_end(c);
  rctx_loop_destroy(loop);
}

// ---- the thread ------------------------------------------------------------------------------------------------------

static char thread_name[32];
static sigset_t thread_mask;

static void look_around(const rctx *ctx, void *arg) {
  (void)ctx;
  (void)arg;
  prctl(PR_GET_NAME, thread_name);
  pthread_sigmask(SIG_BLOCK, NULL, &thread_mask);
}

Test(signal, the_thread_is_started_late_named_and_blocks_signals__SIG_1) {
  struct rctx_after node = {0};
  size_t before = tasks_before();
  RCTX_SCOPED rctx *plain = rctx_with_cancel(rctx_background());
  cr_assert(tasks_are(before));
  rctx *c = rctx_with_signal(plain, SIGUSR1, 0);
  cr_assert(tasks_are(before + 1));
  cr_assert_eq(rctx_after_inline(c, &node, RCTX_ON_ENDED_TELL, look_around, NULL), RCTX_REGISTERED);
  raise(SIGUSR1);
  ended_by(c, SIGUSR1);
  cr_assert_eq(rctx_quiesce(rctx_manager_default(), INT64_MAX), 0); // it is marked first and called back second
  cr_assert_not(rctx_after_stop_sync(&node));
  cr_assert_str_eq(thread_name, "rctx-signal");
  for (int number = 1; number <= SIGRTMAX; number++) {
    bool reserved = number == SIGKILL || number == SIGSTOP || (number >= 32 && number < SIGRTMIN);
    if (!reserved) cr_assert(sigismember(&thread_mask, number), "signal %d", number);
  }
  rctx_end(c);
  for (int i = 0; i < 10; i++) rctx_end(rctx_with_signal(plain, SIGUSR1, SIGTERM, 0));
  cr_assert(tasks_are(before + 1), "one for all");
}

Test(signal, the_callers_mask_is_left_alone) {
  sigset_t before, after;
  pthread_sigmask(SIG_BLOCK, NULL, &before);
  RCTX_SCOPED rctx *c = rctx_with_signal(rctx_background(), SIGUSR1, 0);
  pthread_sigmask(SIG_BLOCK, NULL, &after);
  for (int i = 1; i < 65; i++) cr_assert_eq(sigismember(&before, i), sigismember(&after, i), "%d", i);
}

Test(signal, a_blocked_signal_comes_when_it_is_unblocked) {
  sigset_t usr1, before;
  sigemptyset(&usr1);
  sigaddset(&usr1, SIGUSR1);
  pthread_sigmask(SIG_BLOCK, &usr1, &before);
  RCTX_SCOPED rctx *c = rctx_with_signal(rctx_background(), SIGUSR1, 0);
  raise(SIGUSR1);
  cr_assert_eq(rctx_wait(c, rctx_now() + 20 * MS), 0);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  ended_by(c, SIGUSR1);
}

// ---- the host's handlers ---------------------------------------------------------------------------------------------

Test(signal, the_hosts_handler_is_called_with_the_same_arguments__SIG_2) {
  struct sigaction before = host_installs(SIGUSR1, SA_SIGINFO, 0);
  rctx *c = rctx_with_signal(rctx_background(), SIGUSR1, 0);
  installed(SIGUSR1, &before);
  cr_assert_eq(sigqueue(getpid(), SIGUSR1, (union sigval){.sival_int = 4711}), 0);
  ended_by(c, SIGUSR1);
  while (atomic_load(&host_calls) == 0) sched_yield();
  cr_assert_eq(atomic_load(&host_calls), 1);
  cr_assert_eq(atomic_load(&host_number), SIGUSR1);
  cr_assert_eq(atomic_load(&host_from), getpid());
  cr_assert_eq(atomic_load(&host_value), 4711);
  cr_assert(atomic_load(&host_had_context));
  rctx_end(c);
  restored(SIGUSR1, &before);
  raise(SIGUSR1);
  cr_assert_eq(atomic_load(&host_calls), 2);
}

Test(signal, a_plain_handler_is_called_for_each_signal__SIG_2) {
  struct sigaction before = host_installs(SIGUSR1, SA_RESTART, 0);
  for (int i = 0; i < 100; i++) {
    rctx *c = rctx_with_signal(rctx_background(), SIGUSR1, SIGTERM, 0);
    raise(SIGUSR1);
    cr_assert_eq(atomic_load(&host_calls), i + 1, "called before raise returned");
    ended_by(c, SIGUSR1);
    rctx_end(c);
  }
  restored(SIGUSR1, &before);
}

// Each realtime signal is delivered: none may be lost for the host while ours is put in and out of its place.
static atomic_bool keep_sending;
static atomic_int sent;

static void *send_realtime(void *arg) {
  (void)arg;
  while (atomic_load(&keep_sending)) {
    if (sigqueue(getpid(), SIGRTMIN + 3, (union sigval){.sival_int = 1}) == 0) atomic_fetch_add(&sent, 1);
  }
  return NULL;
}

Test(signal, no_signal_is_lost_for_the_host_while_contexts_come_and_go__SIG_2) {
  NEEDS_SIGNALS_AT_ONCE();
  pthread_t sender;
  struct sigaction before = host_installs(SIGRTMIN + 3, SA_SIGINFO | SA_RESTART, 0);
  atomic_store(&keep_sending, true);
  cr_assert_eq(pthread_create(&sender, NULL, send_realtime, NULL), 0);
  for (int i = 0; i < 400 / SLOWER; i++) {
    rctx *c = rctx_with_signal(rctx_background(), SIGRTMIN + 3, 0);
    if (i % 2) ended_by(c, SIGRTMIN + 3);
    rctx_end(c);
  }
  atomic_store(&keep_sending, false);
  pthread_join(sender, NULL);
  restored(SIGRTMIN + 3, &before);
  while (atomic_load(&host_calls) < atomic_load(&sent)) sched_yield();
  cr_assert_eq(atomic_load(&host_calls), atomic_load(&sent));
}

Test(signal, the_hosts_mask_holds_in_its_handler__SIG_2) {
  NEEDS_SIGNALS_AT_ONCE();
  for (int flags = 0; flags < 2; flags++) {
    struct sigaction before = host_installs(SIGUSR1, flags ? SA_SIGINFO : 0, SIGUSR2);
    rctx *c = rctx_with_signal(rctx_background(), SIGUSR1, 0);
    raise(SIGUSR1);
    ended_by(c, SIGUSR1);
    cr_assert(sigismember(&host_mask, SIGUSR1), "its own signal is blocked");
    cr_assert(sigismember(&host_mask, SIGUSR2), "and what it asked for");
    cr_assert_not(sigismember(&host_mask, SIGTERM), "and nothing else");
    rctx_end(c);
    restored(SIGUSR1, &before);
  }
}

Test(signal, nodefer_of_the_host_holds__SIG_2) {
  NEEDS_SIGNALS_AT_ONCE();
  struct sigaction before = host_installs(SIGUSR1, SA_NODEFER, 0);
  rctx *c = rctx_with_signal(rctx_background(), SIGUSR1, 0);
  raise(SIGUSR1);
  ended_by(c, SIGUSR1);
  cr_assert_not(sigismember(&host_mask, SIGUSR1));
  rctx_end(c);
  restored(SIGUSR1, &before);
}

Test(signal, the_alternate_stack_of_the_host_is_used__SIG_2) {
  NEEDS_SIGNALS_AT_ONCE();
  static char stack[1 << 17];
  stack_t alternate = {.ss_sp = stack, .ss_size = sizeof stack};
  cr_assert_eq(sigaltstack(&alternate, NULL), 0);
  struct sigaction before = host_installs(SIGUSR1, SA_ONSTACK, 0);
  rctx *c = rctx_with_signal(rctx_background(), SIGUSR1, 0);
  raise(SIGUSR1);
  ended_by(c, SIGUSR1);
#if !CHECK_LEAKS // a fake stack
  uintptr_t at = atomic_load(&host_stack);
  cr_assert(at >= (uintptr_t)stack && at < (uintptr_t)stack + sizeof stack);
#endif
  rctx_end(c);
  restored(SIGUSR1, &before);
  alternate.ss_flags = SS_DISABLE;
  sigaltstack(&alternate, NULL);
}

// read(2) on an empty pipe, interrupted: restarted or not as the host's handler says.
struct reader {
  int fd;
  atomic_int err;
  atomic_int tid;
};

static void *read_once(void *arg) {
  struct reader *r = arg;
  char byte;
  atomic_store(&r->tid, gettid());
  atomic_store(&r->err, read(r->fd, &byte, 1) < 0 ? errno : 0);
  return NULL;
}

static int read_interrupted_with(int flags) {
  int ends[2];
  pthread_t thread;
  struct reader reader = {.err = -1};
  cr_assert_eq(pipe(ends), 0);
  reader.fd = ends[0];
  struct sigaction before = host_installs(SIGUSR1, flags, 0);
  rctx *c = rctx_with_signal(rctx_background(), SIGUSR1, 0);
  cr_assert_eq(pthread_create(&thread, NULL, read_once, &reader), 0);
  while (atomic_load(&reader.tid) == 0 || !task_sleeps(atomic_load(&reader.tid))) sched_yield();
  pthread_kill(thread, SIGUSR1);
  ended_by(c, SIGUSR1);
  if (flags & SA_RESTART) {
    usleep(20000);
    cr_assert_eq(atomic_load(&reader.err), -1, "still reading");
  }
  if (flags & SA_RESTART) cr_assert_eq(write(ends[1], "x", 1), 1);
  pthread_join(thread, NULL);
  close(ends[0]);
  close(ends[1]);
  rctx_end(c);
  restored(SIGUSR1, &before);
  return atomic_load(&reader.err);
}

Test(signal, calls_are_restarted_as_the_host_wants_it__SIG_2) {
  NEEDS_SIGNALS_AT_ONCE();
  cr_assert_eq(read_interrupted_with(SA_RESTART), 0);
  cr_assert_eq(read_interrupted_with(0), EINTR);
}

// A handler for one time is one for one time also below ours; then the default is back, as it would be without us.
Test(signal, a_handler_for_one_time_is_called_once__SIG_2) {
  NEEDS_SIGNALS_AT_ONCE();
  struct sigaction fallback = now(SIGURG); // whose default is to be ignored
  host_installs(SIGURG, (int)SA_RESETHAND, 0);
  rctx *c = rctx_with_signal(rctx_background(), SIGURG, 0);
  rctx *d = rctx_with_signal(rctx_background(), SIGURG, 0);
  raise(SIGURG);
  ended_by(c, SIGURG);
  ended_by(d, SIGURG);
  cr_assert_eq(atomic_load(&host_calls), 1);
  rctx_end(c);
  rctx_end(d);
  raise(SIGURG);
  raise(SIGURG);
  cr_assert_eq(atomic_load(&host_calls), 1, "%d times", atomic_load(&host_calls));
  for (struct sigaction current = now(SIGURG); current.sa_handler != fallback.sa_handler; current = now(SIGURG))
    sched_yield();
}

Test(signal, a_handler_for_one_time_that_was_not_called_is_still_there__SIG_3) {
  struct sigaction before = host_installs(SIGURG, (int)SA_RESETHAND, 0);
  rctx_end(rctx_with_signal(rctx_background(), SIGURG, 0));
  restored(SIGURG, &before);
  raise(SIGURG);
  cr_assert_eq(atomic_load(&host_calls), 1);
}

// Some hosts leave their handlers by siglongjmp(3).
static sigjmp_buf back;

static void jump_back(int number) {
  (void)number;
  atomic_fetch_add(&host_calls, 1);
  siglongjmp(back, 1);
}

Test(signal, a_host_that_jumps_out_of_its_handler_is_called_each_time__SIG_2) {
  NEEDS_SIGNALS_AT_ONCE();
  struct sigaction action = {.sa_handler = jump_back};
  cr_assert_eq(sigaction(SIGUSR1, &action, NULL), 0);
  struct sigaction before = now(SIGUSR1);
  for (volatile int i = 0; i < 20; i++) {
    rctx *volatile c = rctx_with_signal(rctx_background(), SIGUSR1, 0);
    if (sigsetjmp(back, 1) == 0) raise(SIGUSR1);
    cr_assert_eq(atomic_load(&host_calls), i + 1, "%d of %d times", atomic_load(&host_calls), i + 1);
    ended_by(c, SIGUSR1);
    rctx_end(c);
  }
  restored(SIGUSR1, &before);
}

// A host that wants its own signal also while it handles one.
static void raise_once_more(int number) {
  if (atomic_fetch_add(&host_calls, 1) == 0) raise(number);
}

Test(signal, a_signal_inside_the_hosts_handler_reaches_it_again__SIG_2) {
  NEEDS_SIGNALS_AT_ONCE();
  struct sigaction action = {.sa_handler = raise_once_more, .sa_flags = SA_NODEFER};
  cr_assert_eq(sigaction(SIGUSR1, &action, NULL), 0);
  rctx *c = rctx_with_signal(rctx_background(), SIGUSR1, 0);
  raise(SIGUSR1);
  cr_assert_eq(atomic_load(&host_calls), 2, "%d times", atomic_load(&host_calls));
  ended_by(c, SIGUSR1);
  rctx_end(c);
}

Test(signal, ignored_signals_end_it_and_are_ignored_again__SIG_2) {
  host_ignores(SIGTERM);
  struct sigaction before = now(SIGTERM);
  rctx *c = rctx_with_signal(rctx_background(), SIGTERM, 0);
  raise(SIGTERM);
  ended_by(c, SIGTERM);
  restored(SIGTERM, &before);
  raise(SIGTERM);
  rctx_end(c);
}

Test(signal, children_flags_of_the_host_are_kept__SIG_2) {
  struct sigaction before = host_installs(SIGCHLD, SA_NOCLDWAIT | SA_NOCLDSTOP, 0);
  rctx *c = rctx_with_signal(rctx_background(), SIGCHLD, 0);
  pid_t child = fork();
  if (child == 0) _exit(0);
  ended_by(c, SIGCHLD);
  rctx_end(c);
  restored(SIGCHLD, &before);
  cr_assert(waitpid(child, NULL, 0) < 0 && errno == ECHILD, "it left no zombie, as the host asked");
}

// ---- restoring -------------------------------------------------------------------------------------------------------

Test(signal, whatever_ends_it_restores__SIG_3) {
  struct sigaction before = host_installs(SIGUSR1, SA_SIGINFO | SA_RESTART | SA_NODEFER, SIGHUP);
  rctx *parent = rctx_with_cancel(rctx_background());
  rctx *c = rctx_with_signal(parent, SIGUSR1, 0);
  installed(SIGUSR1, &before);
  rctx_end(c);
  restored(SIGUSR1, &before);

  c = rctx_with_signal(parent, SIGUSR1, 0);
  rctx_cancel(c);
  restored(SIGUSR1, &before); // the handle is not given back yet
  rctx_end(c);

  c = rctx_with_signal(parent, SIGUSR1, 0);
  const rctx *kept = rctx_ref(c);
  rctx_end(c);
  restored(SIGUSR1, &before); // a reference keeps it readable, not waiting
  rctx_unref(kept);

  rctx *soon = rctx_with_timeout(parent, 5 * MS);
  c = rctx_with_signal(soon, SIGUSR1, 0);
  restored(SIGUSR1, &before);
  cr_assert_eq(rctx_err(c), -ETIMEDOUT);
  rctx_end(c);
  rctx_end(soon);

  c = rctx_with_signal(parent, SIGUSR1, 0);
  rctx_end(parent);
  restored(SIGUSR1, &before);
  rctx_end(c);
}

// A handle that is dropped ends nothing: the context waits for its signal as long as its parent lives.
Test(signal, a_dropped_one_still_waits_and_restores__SIG_3) {
  struct sigaction before = host_installs(SIGUSR1, 0, 0);
  rctx *parent = rctx_with_cancel(rctx_background());
  rctx_drop(rctx_with_signal(parent, SIGUSR1, 0));
  raise(SIGUSR1);
  restored(SIGUSR1, &before);
  rctx_drop(rctx_with_signal(parent, SIGUSR1, 0));
  rctx_end(parent);
  restored(SIGUSR1, &before);
}

Test(signal, the_last_of_several_restores__SIG_3) {
  struct sigaction before = now(SIGUSR1);
  rctx *a = rctx_with_signal(rctx_background(), SIGUSR1, 0);
  rctx *b = rctx_with_signal(rctx_background(), SIGUSR1, 0);
  rctx *c = rctx_with_signal(rctx_background(), SIGUSR1, 0);
  rctx_end(a);
  rctx_cancel(b);
  installed(SIGUSR1, &before);
  usleep(10000);
  installed(SIGUSR1, &before);
  cr_assert_eq(rctx_signal_of(b), 0);
  raise(SIGUSR1);
  ended_by(c, SIGUSR1);
  restored(SIGUSR1, &before);
  rctx_end(b);
  rctx_end(c);
}

Test(signal, all_of_several_end) {
  enum { MANY = 200 };
  struct sigaction before = now(SIGUSR1);
  rctx *c[MANY];
  for (int i = 0; i < MANY; i++) c[i] = rctx_with_signal(i ? c[i / 2] : rctx_background(), SIGUSR1, 0);
  for (int i = MANY / 2; i < MANY; i += 2) rctx_cancel(c[i]);
  raise(SIGUSR1);
  for (int i = 0; i < MANY; i++) cr_assert_neq(rctx_wait(c[i], INT64_MAX), 0);
  for (int i = 0; i < MANY / 2; i++) cr_assert_eq(rctx_signal_of(c[i]), SIGUSR1);
  for (int i = MANY; i-- > 0;) rctx_end(c[i]);
  restored(SIGUSR1, &before);
}

Test(signal, each_signal_is_restored_on_its_own__SIG_3) {
  struct sigaction term = now(SIGTERM), usr1 = now(SIGUSR1), usr2 = now(SIGUSR2);
  rctx *a = rctx_with_signal(rctx_background(), SIGTERM, SIGUSR1, 0);
  rctx *b = rctx_with_signal(rctx_background(), SIGUSR1, SIGUSR2, 0);
  raise(SIGTERM);
  ended_by(a, SIGTERM);
  restored(SIGTERM, &term);
  installed(SIGUSR1, &usr1);
  installed(SIGUSR2, &usr2);
  cr_assert_eq(rctx_err(b), 0);
  raise(SIGUSR1);
  ended_by(b, SIGUSR1);
  restored(SIGUSR1, &usr1);
  restored(SIGUSR2, &usr2);
  rctx_end(a);
  rctx_end(b);
}

Test(signal, a_handler_that_the_host_put_in_ours_place_is_left_alone__SIG_3) {
  rctx *c = rctx_with_signal(rctx_background(), SIGUSR1, 0);
  struct sigaction its_own = host_installs(SIGUSR1, SA_RESTART, SIGHUP);
  raise(SIGUSR1);
  cr_assert_eq(atomic_load(&host_calls), 1);
  cr_assert_eq(rctx_wait(c, rctx_now() + 10 * MS), 0, "ours is not there any more");
  rctx_end(c);
  usleep(10000);
  struct sigaction current = now(SIGUSR1);
  cr_assert(same(&its_own, &current));
  c = rctx_with_signal(rctx_background(), SIGUSR1, 0);
  raise(SIGUSR1);
  ended_by(c, SIGUSR1);
  cr_assert_eq(atomic_load(&host_calls), 2);
  rctx_end(c);
  restored(SIGUSR1, &its_own);
}

Test(signal, a_default_that_the_host_put_in_ours_place_is_left_alone__SIG_3) {
  rctx *c = rctx_with_signal(rctx_background(), SIGUSR1, 0);
  host_ignores(SIGUSR1);
  struct sigaction its_own = now(SIGUSR1);
  raise(SIGUSR1);
  rctx_end(c);
  usleep(10000);
  struct sigaction current = now(SIGUSR1);
  cr_assert(same(&its_own, &current));
}

Test(signal, restored_again_and_again__SIG_3) {
  struct sigaction before = host_installs(SIGUSR1, SA_SIGINFO, SIGHUP);
  for (int i = 0; i < 500 / SLOWER; i++) {
    rctx *c = rctx_with_signal(rctx_background(), SIGUSR1, 0);
    installed(SIGUSR1, &before);
    if (i % 3) raise(SIGUSR1);
    if (i % 3 == 1) ended_by(c, SIGUSR1);
    rctx_end(c);
    restored(SIGUSR1, &before);
  }
}

// A handler of the host that calls what it found in its place, as well-behaved ones do: ours.
static struct sigaction found_by_chaining;

static void chaining(int number, siginfo_t *info, void *context) {
  atomic_fetch_add(&host_calls, 1);
  if (found_by_chaining.sa_flags & SA_SIGINFO)
    found_by_chaining.sa_sigaction(number, info, context);
  else if (found_by_chaining.sa_handler != SIG_DFL && found_by_chaining.sa_handler != SIG_IGN)
    found_by_chaining.sa_handler(number);
}

static void chain(int number) {
  struct sigaction action = {.sa_sigaction = chaining, .sa_flags = SA_SIGINFO};
  cr_assert_eq(sigaction(number, &action, &found_by_chaining), 0);
}

Test(signal, a_host_that_calls_ours_from_its_own_handler) {
  rctx *c = rctx_with_signal(rctx_background(), SIGUSR1, 0);
  chain(SIGUSR1);
  raise(SIGUSR1);
  cr_assert_eq(atomic_load(&host_calls), 1);
  ended_by(c, SIGUSR1); // through it
  rctx_end(c);
  usleep(5000);
  raise(SIGUSR1); // nobody waits any more: ours is still called and does nothing
  cr_assert_eq(atomic_load(&host_calls), 2);
}

// .. and then ours once more on top: each must be called once, not in circles.
Test(signal, ours_over_a_host_that_calls_ours) {
  rctx *c = rctx_with_signal(rctx_background(), SIGUSR1, 0);
  chain(SIGUSR1);
  rctx_end(c);
  usleep(5000);
  rctx *d = rctx_with_signal(rctx_background(), SIGUSR1, 0);
  raise(SIGUSR1);
  ended_by(d, SIGUSR1);
  cr_assert_eq(atomic_load(&host_calls), 1, "%d times", atomic_load(&host_calls));
  rctx_end(d);
}

// ---- what the process does without it --------------------------------------------------------------------------------

static int dies_of(void (*body)(void)) {
  int status = 0;
  fflush(NULL);
  pid_t child = fork();
  cr_assert_geq(child, 0);
  if (child == 0) {
    setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
    alarm(30);
    body();
    _exit(0);
  }
  cr_assert_eq(waitpid(child, &status, 0), child);
  return WIFSIGNALED(status) ? WTERMSIG(status) : -WEXITSTATUS(status);
}

static void two_ctrl_c(void) {
  struct sigaction before = now(SIGINT);
  rctx *c = rctx_with_signal(rctx_background(), SIGINT, SIGTERM, 0);
  raise(SIGINT);
  ended_by(c, SIGINT);
  restored(SIGINT, &before);
  raise(SIGINT);
}

static void one_ctrl_c(void) {
  rctx *c = rctx_with_signal(rctx_background(), SIGINT, SIGTERM, 0);
  raise(SIGINT);
  ended_by(c, SIGINT);
}

// Whoever was told of the first may be asked to die by the second at once.
static void two_ctrl_c_in_a_row(void) {
  rctx *c = rctx_with_signal(rctx_background(), SIGINT, 0);
  raise(SIGINT);
  ended_by(c, SIGINT);
  for (;;) raise(SIGINT);
}

Test(signal, a_second_ctrl_c_kills__SIG_3) {
  NEEDS_THREADS_IN_THE_CHILD();
  cr_assert_eq(dies_of(one_ctrl_c), 0);
  cr_assert_eq(dies_of(two_ctrl_c), SIGINT);
  cr_assert_eq(dies_of(two_ctrl_c_in_a_row), SIGINT);
}

// ---- bad numbers -----------------------------------------------------------------------------------------------------

static void refused(rctx *c) {
  struct rctx_why why;
  cr_assert_eq(rctx_why(c, &why), -EINVAL, "%d", rctx_err(c));
  cr_assert_eq(why.origin, RCTX_ORIGIN_MISUSE);
  rctx_end(c);
}

Test(signal, numbers_that_can_not_be_caught_are_refused_and_nothing_is_installed) {
  struct sigaction before = now(SIGUSR1);
  static const int bad[] = {SIGKILL, SIGSTOP, -1, 65, 1000, INT32_MAX, INT32_MIN, 32, 33};
  size_t tasks = tasks_before();
  refused(rctx_with_signal(rctx_background(), 0));
  refused(rctx_with_signals(rctx_background(), bad, 0));
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    if (bad[i] == 32 || bad[i] == 33) { // the C library's own, where it has them
      if (bad[i] >= SIGRTMIN) continue;
    }
    refused(rctx_with_signal(rctx_background(), bad[i], 0));
    refused(rctx_with_signal(rctx_background(), SIGUSR1, bad[i], 0));
    refused(rctx_with_signals(rctx_background(), (int[]){SIGUSR1, SIGUSR2, bad[i]}, 3));
  }
  refused(rctx_with_signals(rctx_background(), (int[]){SIGUSR1, 0}, 2));
  struct sigaction current = now(SIGUSR1);
  cr_assert(same(&before, &current), "nothing is installed then");
  cr_assert(tasks_are(tasks), "and no thread is needed");
}

Test(signal, below_an_ended_parent_it_is_born_ended_and_nothing_stays_installed) {
  struct sigaction before = now(SIGUSR1);
  RCTX_SCOPED rctx *parent = rctx_with_timeout(rctx_background(), -1);
  rctx *c = rctx_with_signal(parent, SIGUSR1, 0);
  cr_assert_eq(rctx_err(c), -ETIMEDOUT);
  cr_assert_eq(rctx_signal_of(c), 0);
  restored(SIGUSR1, &before);
  rctx_end(c);
}

Test(signal, without_memory_nothing_is_installed) {
  struct sigaction before = now(SIGUSR1);
  for (int64_t n = 1;; n++) {
    counting_open(true);
    counting_fail_at(n);
    rctx *c = rctx_with_signal(counting_root(), SIGUSR1, SIGUSR2, 0);
    bool failed = counting_fail_at(0);
    struct sigaction current = now(SIGUSR1);
    if (failed) {
      cr_assert_eq(rctx_err(c), -ENOMEM);
      cr_assert(same(&before, &current), "nothing is installed then");
    }
    rctx_end(c);
    restored(SIGUSR1, &before);
    counting_close();
    if (!failed) break;
  }
}

// ---- errno -----------------------------------------------------------------------------------------------------------

Test(signal, errno_is_kept__SIG_1) {
  rctx *c = rctx_with_signal(rctx_background(), SIGUSR1, 0);
  errno = EDOM;
  raise(SIGUSR1);
  cr_assert_eq(errno, EDOM);
  ended_by(c, SIGUSR1);
  rctx_end(c);
#ifdef RCTX_TSAN
  return; // which reports handlers that do not keep it
#endif
  host_installs(SIGUSR1, SA_SIGINFO, 0);
  atomic_store(&host_spoils_errno, true);
  errno = EDOM;
  c = rctx_with_signal(rctx_background(), SIGUSR1, 0);
  cr_assert_eq(errno, EDOM);
  raise(SIGUSR1);
  int after_ours = errno;
  cr_assert(after_ours == EDOM || after_ours == ENOTTY, "%d: the host's doing at most", after_ours);
  rctx_end(c);
}

// ---- storms ----------------------------------------------------------------------------------------------------------

// Signals come by the thousand into threads that are inside the library all the time.
struct storm {
  struct threads threads;
  atomic_bool stop;
  atomic_int interrupted;
};

static struct storm storm;

static void count_interrupt(int number) {
  (void)number;
  atomic_fetch_add(&storm.interrupted, 1);
}

static void in_the_storm(unsigned index, void *arg) {
  struct rng rng;
  struct rctx_after node = {0};
  rng_init(&rng, *(uint64_t *)arg + index);
  while (!atomic_load(&storm.stop)) {
    rctx *a =
        index % 2 ? rctx_with_signal(rctx_background(), SIGUSR1, SIGUSR2, 0) : rctx_with_cancel(rctx_background());
    rctx *b = rctx_with_timeout(a, (int64_t)rng_below(&rng, 2) * 3600 * SECOND);
    rctx *c = rctx_with_signal(b, SIGUSR2, 0);
    int registered = rctx_after(c, &node, look_around, NULL);
    cr_assert_geq(registered, 0);
    if (rng_one_in(&rng, 2)) rctx_cancel(a);
    if (rng_one_in(&rng, 8) && index == 1) cr_assert_neq(rctx_wait(a, INT64_MAX), 0);
    rctx_after_stop_sync(&node);
    rctx_end(c);
    rctx_end(b);
    rctx_end(a);
  }
}

Test(signal, signals_into_the_middle_of_the_library_do_no_harm__SIG_1) {
  uint64_t seed = seed_get();
  struct sigaction action = {.sa_handler = count_interrupt, .sa_flags = SA_RESTART};
  sigaction(SIGUSR1, &action, NULL);
  sigaction(SIGUSR2, &action, NULL);
  struct sigaction before[2] = {now(SIGUSR1), now(SIGUSR2)};
  atomic_store(&rctx__chaos_seed, seed);
  atomic_store(&rctx__chaos_mask, 8);
  threads_start(&storm.threads, 4, in_the_storm, &seed);
  int64_t until = rctx_now() + 2 * SECOND;
  for (unsigned i = 0; rctx_now() < until || atomic_load(&storm.interrupted) < 1000; i++) {
    pthread_kill(storm.threads.one[i % 4].id, i % 3 ? SIGUSR1 : SIGUSR2);
    if (i % 64 == 0) kill(getpid(), SIGUSR1);
    if (i % 16 == 0) sched_yield();
  }
  atomic_store(&storm.stop, true);
  for (int joined = 0; joined < 4; joined++) { // one may wait for a signal
    while (pthread_tryjoin_np(storm.threads.one[joined].id, NULL) != 0) {
      kill(getpid(), SIGUSR1);
      sched_yield();
    }
  }
  atomic_store(&rctx__chaos_mask, 0);
  cr_log_info("%d signals", atomic_load(&storm.interrupted));
  restored(SIGUSR1, &before[0]);
  restored(SIGUSR2, &before[1]);
}

// Of many threads that wait, each is told, and always by the signal.
static void wait_for_it(unsigned index, void *arg) {
  rctx *c = rctx_with_signal(rctx_background(), SIGUSR1, 0);
  threads_meet(&storm.threads); // all have derived
  if (index == 0) kill(getpid(), SIGUSR1);
  ended_by(c, SIGUSR1);
  threads_meet(&storm.threads);
  rctx_end(c);
  (void)arg;
}

Test(signal, one_signal_ends_all_that_were_there) {
  host_ignores(SIGUSR1);
  for (int round = 0; round < 200 / SLOWER; round++) {
    threads_start(&storm.threads, 6, wait_for_it, NULL);
    threads_join(&storm.threads);
  }
}

// A signal that ended earlier contexts ends none that is made after the ends have been seen and things restored.
Test(signal, a_signal_does_not_end_what_comes_later) {
  struct sigaction before = host_installs(SIGUSR1, 0, 0);
  for (int round = 0; round < 200 / SLOWER; round++) {
    rctx *first = rctx_with_signal(rctx_background(), SIGUSR1, 0);
    raise(SIGUSR1);
    ended_by(first, SIGUSR1);
    rctx_end(first);
    restored(SIGUSR1, &before);
    rctx *second = rctx_with_signal(rctx_background(), SIGUSR1, 0);
    cr_assert_eq(rctx_wait(second, rctx_now() + MS), 0, "a stale signal in round %d", round);
    rctx_end(second);
  }
}

// The same when something else is still waiting for that signal all the time: then nothing is restored in between.
Test(signal, a_signal_does_not_end_what_was_made_after_it) {
  for (int round = 0; round < 200 / SLOWER; round++) {
    rctx *first = rctx_with_signal(rctx_background(), SIGUSR1, SIGUSR2, 0);
    rctx *other = rctx_with_signal(rctx_background(), SIGUSR2, 0);
    raise(SIGUSR1);
    ended_by(first, SIGUSR1);
    rctx *second = rctx_with_signal(rctx_background(), SIGUSR1, SIGUSR2, 0);
    cr_assert_eq(rctx_err(other), 0);
    cr_assert_eq(rctx_wait(second, rctx_now() + MS / 4), 0, "a stale signal in round %d", round);
    raise(SIGUSR2);
    ended_by(second, SIGUSR2);
    ended_by(other, SIGUSR2);
    rctx_end(second);
    rctx_end(other);
    rctx_end(first);
  }
}

// Contexts are ended by hand from several threads while the signal comes.
static rctx *shared[4];

static void end_against_signal(unsigned index, void *arg) {
  (void)arg;
  for (int round = 0; round < 500 / SLOWER; round++) {
    if (index == 0) {
      for (int i = 0; i < 4; i++) shared[i] = rctx_with_signal(i ? shared[0] : rctx_background(), SIGUSR1, 0);
    }
    threads_meet(&storm.threads);
    if (index == 0) kill(getpid(), SIGUSR1);
    if (index == 1) rctx_cancel(shared[1]);
    if (index == 2) rctx_end(shared[2]);
    if (index == 3) rctx_cancel(shared[3]);
    threads_meet(&storm.threads);
    if (index == 0) {
      ended_by(shared[0], SIGUSR1);
      cr_assert_neq(rctx_err(shared[1]), 0);
      rctx_end(shared[1]);
      rctx_end(shared[3]);
      rctx_end(shared[0]);
    }
  }
}

Test(signal, signal_and_end_by_hand_at_once) {
  host_ignores(SIGUSR1);
  struct sigaction before = now(SIGUSR1);
  atomic_store(&rctx__chaos_seed, seed_get());
  atomic_store(&rctx__chaos_mask, 3);
  threads_start(&storm.threads, 4, end_against_signal, NULL);
  threads_join(&storm.threads);
  atomic_store(&rctx__chaos_mask, 0);
  restored(SIGUSR1, &before);
}

// ---- fork ------------------------------------------------------------------------------------------------------------

static int status_of_a_child(void (*body)(void *arg), void *arg) {
  int status = -1;
  fflush(NULL);
  tasks_rest();
  pid_t child = fork();
  cr_assert_geq(child, 0);
  if (child == 0) {
    alarm(30);
    body(arg);
    _exit(0);
  }
  cr_assert_eq(waitpid(child, &status, 0), child);
  return status;
}

static void only_raise(void *arg) {
  (void)arg;
  for (int i = 0; i < 100; i++) raise(SIGUSR1); // the handler is there; the thread is not
}

static void raise_and_wait(void *arg) {
  rctx_after_fork_child();
  rctx *inherited = arg;
  REQUIRE(rctx_err(inherited) == 0);
  raise(SIGUSR1);
  REQUIRE(rctx_wait(inherited, INT64_MAX) == -ECANCELED);
  REQUIRE(rctx_signal_of(inherited) == SIGUSR1);
  rctx *fresh = rctx_with_signal(rctx_background(), SIGUSR2, 0);
  raise(SIGUSR2);
  REQUIRE(rctx_wait(fresh, INT64_MAX) == -ECANCELED);
  REQUIRE(rctx_signal_of(fresh) == SIGUSR2);
  rctx_end(fresh);
  rctx_end(inherited);
}

// A first one in the child, when the parent had a thread that ended no context.
static void first_in_the_child(void *arg) {
  (void)arg;
  rctx_after_fork_child();
  struct sigaction before = now(SIGUSR1);
  rctx *c = rctx_with_signal(rctx_background(), SIGUSR1, 0);
  raise(SIGUSR1);
  REQUIRE(rctx_wait(c, INT64_MAX) == -ECANCELED);
  rctx_end(c);
  restored(SIGUSR1, &before);
}

Test(signal, signals_of_the_child_are_not_the_parents) {
  rctx *c = rctx_with_signal(rctx_background(), SIGUSR1, 0);
  cr_assert_eq(status_of_a_child(only_raise, NULL), 0);
  cr_assert_eq(rctx_wait(c, rctx_now() + 20 * MS), 0, "the child's signals");
  raise(SIGUSR1);
  ended_by(c, SIGUSR1);
  rctx_end(c);
}

Test(signal, in_the_child_of_a_fork_signals_end_contexts_too) {
  NEEDS_A_MALLOC_THAT_FORKS();
  NEEDS_THREADS_IN_THE_CHILD();
  rctx *c = rctx_with_signal(rctx_background(), SIGUSR1, 0);
  for (int i = 0; i < 20; i++) {
    cr_assert_eq(status_of_a_child(raise_and_wait, c), 0);
    cr_assert_eq(rctx_err(c), 0, "the child's signals");
  }
  raise(SIGUSR1);
  ended_by(c, SIGUSR1);
  rctx_end(c);
  cr_assert_eq(status_of_a_child(first_in_the_child, NULL), 0);
}
