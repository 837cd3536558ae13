// Blocking waits and descriptors: wait.h, sentence by sentence; [CTX-4].
#include "support/check.h"
#include "support/fake_time.h"
#include "support/threads.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

TestSuite(wait, .init = fake_open, .fini = fake_close, .timeout = 120);

RCTX_KEY(tag, int)

static bool readable(int fd) {
  struct pollfd one = {fd, POLLIN, 0};
  return poll(&one, 1, 0) == 1 && (one.revents & POLLIN);
}

static bool is_open(int fd) { return fcntl(fd, F_GETFD) != -1; }

/* ---- rctx_wait --------------------------------------------------------------------------------------------------- */

Test(wait, of_what_has_ended_returns_at_once) {
  RCTX_SCOPED rctx *c = rctx_with_cancel(fake_root());
  rctx_cancel_with(c, -EPIPE, RCTX_ORIGIN_PEER, "gone");
  cr_assert_eq(rctx_wait(c, INT64_MAX), -EPIPE);
  cr_assert_eq(rctx_wait(c, INT64_MIN), -EPIPE);
  cr_assert_eq(rctx_wait(c, 0), -EPIPE);
}

Test(wait, until_now_or_earlier_just_looks) {
  RCTX_SCOPED rctx *c = rctx_with_cancel(rctx_background());
  int64_t times[] = {INT64_MIN, -1, 0, 1, rctx_now()};
  for (int i = 0; i < 5; i++) cr_assert_eq(rctx_wait(c, times[i]), 0);
}

Test(wait, gives_up_when_the_callers_time_is_up_never_earlier) {
  RCTX_SCOPED rctx *c = rctx_with_cancel(rctx_background());
  for (int64_t ns = 1; ns < 30 * MS; ns = ns * 7 + 3) {
    int64_t until = rctx_now() + ns;
    cr_assert_eq(rctx_wait(c, until), 0);
    cr_assert_geq(rctx_now(), until);
  }
  cr_assert_eq(rctx_wait(rctx_background(), rctx_now() + MS), 0, "a root, too");
}

Test(wait, the_contexts_own_deadline_comes_first) {
  RCTX_SCOPED rctx *c = rctx_with_timeout(rctx_background(), 5 * MS);
  cr_assert_eq(rctx_wait(c, rctx_now() + 3600 * SECOND), -ETIMEDOUT);
}

static void wait_or_cancel(unsigned index, void *arg) {
  rctx **family = arg;
  if (index == 0)
    rctx_cancel_with(family[0], -EPIPE, RCTX_ORIGIN_PEER, "gone");
  else
    cr_assert_eq(rctx_wait(family[index % 3], INT64_MAX), -EPIPE);
}

Test(wait, any_number_of_waiters_on_any_level_wake) {
  for (int round = 0; round < 100; round++) {
    RCTX_SCOPED rctx *parent = rctx_with_cancel(fake_root());
    RCTX_SCOPED rctx *value = tag_with(parent, 1);
    RCTX_SCOPED rctx *leaf = rctx_with_timeout(value, SECOND);
    threads_run(7, wait_or_cancel, (rctx *[]){parent, value, leaf});
  }
}

// On a manager with a clock of its own the caller's time is by that clock, looked at once a millisecond.
static void wait_until_fake_time(unsigned index, void *arg) {
  if (index == 0) {
    cr_assert_eq(rctx_wait(arg, FAKE_START + SECOND), 0);
    cr_assert_geq(fake_now(), FAKE_START + SECOND);
  } else {
    fake_set(FAKE_START + SECOND);
  }
}

Test(wait, the_callers_time_is_by_the_contexts_clock) {
  RCTX_SCOPED rctx *c = rctx_with_cancel(fake_root());
  threads_run(2, wait_until_fake_time, c);
}

static atomic_int interruptions;
static void interrupted(int signal) {
  (void)signal;
  atomic_fetch_add(&interruptions, 1);
}

struct disturbed {
  rctx *ctx;
  _Atomic pthread_t waiter;
  atomic_bool ready;
};

static void wait_or_signal(unsigned index, void *arg) {
  struct disturbed *shared = arg;
  if (index == 0) {
    atomic_store(&shared->waiter, pthread_self());
    atomic_store(&shared->ready, true);
    cr_assert_eq(rctx_wait(shared->ctx, INT64_MAX), -ECANCELED, "signals do not end the wait");
    return;
  }
  while (!atomic_load(&shared->ready)) sched_yield();
  for (int sent = 0; sent < 50; sent++) {
    int before = atomic_load(&interruptions);
    pthread_kill(atomic_load(&shared->waiter), SIGUSR1);
#ifdef RCTX_TSAN // which holds handlers back during system calls that it does not know
    (void)before;
#else
    while (atomic_load(&interruptions) == before) sched_yield();
#endif
  }
  rctx_cancel(shared->ctx);
}

Test(wait, signals_do_not_end_it) {
  struct disturbed shared = {.ctx = rctx_with_cancel(rctx_background())};
  sigaction(SIGUSR1, &(struct sigaction){.sa_handler = interrupted}, NULL); // without SA_RESTART
  threads_run(2, wait_or_signal, &shared);
  rctx_end(shared.ctx);
}

Test(wait, needs_no_descriptor_and_leaves_errno_alone) {
  RCTX_SCOPED rctx *live = rctx_with_cancel(rctx_background());
  RCTX_SCOPED rctx *c = rctx_with_timeout(rctx_background(), 5 * MS);
  struct rctx_info info;
  errno = 4242;
  cr_assert_eq(rctx_wait(live, rctx_now() + MS), 0);
  cr_assert_eq(rctx_wait(c, INT64_MAX), -ETIMEDOUT);
  cr_assert_eq(errno, 4242);
  rctx_inspect(c, &info);
  cr_assert_not(info.has_fd);
}

/* ---- rctx_fd ----------------------------------------------------------------------------------------------------- */

Test(wait, the_descriptor_is_readable_from_the_end_on) {
  RCTX_SCOPED rctx *parent = rctx_with_cancel(fake_root());
  RCTX_SCOPED rctx *child = rctx_with_timeout(parent, SECOND);
  int of_parent = rctx_fd(parent), of_child = rctx_fd(child);
  cr_assert(of_parent >= 0 && of_child >= 0 && of_parent != of_child);
  cr_assert(!readable(of_parent) && !readable(of_child));
  fake_go(2 * SECOND);
  cr_assert(!readable(of_parent) && readable(of_child));
  rctx_cancel(parent);
  cr_assert(readable(of_parent) && readable(of_child));
  cr_assert(rctx_fd(parent) == of_parent && rctx_fd(child) == of_child, "the same at every call");
}

Test(wait, a_descendants_descriptor_is_readable_when_the_cancel_returns) {
  RCTX_SCOPED rctx *parent = rctx_with_cancel(fake_root());
  RCTX_SCOPED rctx *middle = rctx_with_cancel(parent);
  RCTX_SCOPED rctx *leaf = rctx_with_cancel(middle);
  int fd = rctx_fd(leaf);
  rctx_cancel(parent);
  cr_assert(readable(fd));
}

Test(wait, a_descriptor_made_after_the_end_is_readable) {
  RCTX_SCOPED rctx *c = rctx_with_cancel(fake_root());
  RCTX_SCOPED rctx *child = rctx_with_cancel(c);
  rctx_cancel(c);
  RCTX_SCOPED rctx *born_ended = rctx_with_cancel(c);
  RCTX_SCOPED rctx *past = rctx_with_timeout(fake_root(), -1);
  rctx *all[] = {c, child, born_ended, past};
  for (int i = 0; i < 4; i++) {
    cr_assert_geq(rctx_fd(all[i]), 0, "number %d", i);
    cr_assert(readable(rctx_fd(all[i])), "number %d", i);
  }
}

Test(wait, the_descriptor_is_closed_with_its_context_and_not_before) {
  rctx *c = rctx_with_cancel(fake_root());
  int fd = rctx_fd(c);
  cr_assert(fcntl(fd, F_GETFD) & FD_CLOEXEC, "not inherited by programs that the host starts");
  const rctx *kept = rctx_ref(c);
  rctx_end(c);
  cr_assert(is_open(fd) && readable(fd));
  rctx_unref(kept);
  cr_assert_eq(rctx_quiesce(fake.manager, INT64_MAX), 0);
  cr_assert_not(is_open(fd));
}

Test(wait, what_can_never_end_has_none) {
  RCTX_SCOPED rctx *detached = rctx_without_cancel(fake_root());
  cr_assert_eq(rctx_fd(rctx_background()), -ENOTSUP);
  cr_assert_eq(rctx_fd(rctx_todo()), -ENOTSUP);
  cr_assert_eq(rctx_fd(fake_root()), -ENOTSUP);
  cr_assert_eq(rctx_fd(detached), -ENOTSUP);
  struct pollfd none = {rctx_fd(detached), POLLIN, 0};
  cr_assert_eq(poll(&none, 1, 0), 0, "poll(2) skips negative descriptors");
}

Test(wait, when_descriptors_run_out_it_says_so_and_may_be_tried_again) {
  RCTX_SCOPED rctx *c = rctx_with_cancel(fake_root());
  struct rlimit before, none;
  getrlimit(RLIMIT_NOFILE, &before);
  none = before;
  none.rlim_cur = 0;
  cr_assert_eq(setrlimit(RLIMIT_NOFILE, &none), 0);
  int first = rctx_fd(c), second = rctx_fd(c);
  setrlimit(RLIMIT_NOFILE, &before);
  cr_assert_eq(first, -EMFILE);
  cr_assert_eq(second, -EMFILE);
  cr_assert_eq(rctx_err(c), 0, "a failed call changes nothing");
  int fd = rctx_fd(c);
  cr_assert_geq(fd, 0);
  cr_assert_not(readable(fd));
  rctx_cancel(c);
  cr_assert(readable(fd));
}

Test(wait, the_end_needs_no_descriptor) {
  RCTX_SCOPED rctx *c = rctx_with_cancel(fake_root());
  int fd = rctx_fd(c);
  struct rlimit before, none;
  getrlimit(RLIMIT_NOFILE, &before);
  none = before;
  none.rlim_cur = 0;
  setrlimit(RLIMIT_NOFILE, &none);
  bool first = rctx_cancel(c);
  setrlimit(RLIMIT_NOFILE, &before);
  cr_assert(first);
  cr_assert(readable(fd));
}

struct asked {
  rctx *ctx;
  int fds[4];
};

static void ask_for_the_descriptor(unsigned index, void *arg) {
  struct asked *shared = arg;
  shared->fds[index] = rctx_fd(shared->ctx);
}

Test(wait, all_threads_get_the_same_descriptor) {
  for (int round = 0; round < 200; round++) {
    struct asked shared = {.ctx = rctx_with_cancel(fake_root())};
    threads_run(4, ask_for_the_descriptor, &shared);
    for (int i = 0; i < 4; i++) cr_assert(shared.fds[i] >= 0 && shared.fds[i] == shared.fds[0]);
    rctx_end(shared.ctx);
  }
  cr_assert_eq(rctx_quiesce(fake.manager, INT64_MAX), 0);
  int next = dup(0);
  cr_assert_lt(next, 64, "no descriptor was leaked by those who came second");
  close(next);
}
