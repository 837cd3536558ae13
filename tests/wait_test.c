// Blocking waits and descriptors: wait.h, sentence by sentence; [CTX-4]. Condition variables: cond_test.c.
#include "support/check.h"
#include "support/fake_time.h"
#include "support/seed.h"
#include "support/threads.h"
#include "support/watchdog.h"

#include "core/platform.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
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

/* ---- rctx_sleep -------------------------------------------------------------------------------------------------- */

Test(wait, sleeping_for_nothing_just_looks) {
  const int64_t nothing[] = {0, -1, INT64_MIN};
  RCTX_SCOPED rctx *live = rctx_with_cancel(fake_root()); // whose clock stands still: any sleep would be for ever
  RCTX_SCOPED rctx *ended = rctx_with_cancel(fake_root());
  watchdog(60);
  rctx_cancel_with(ended, -EPIPE, RCTX_ORIGIN_PEER, "gone");
  for (int i = 0; i < 3; i++) {
    cr_assert_eq(rctx_sleep(live, nothing[i]), 0);
    cr_assert_eq(rctx_sleep(fake_root(), nothing[i]), 0);
    cr_assert_eq(rctx_sleep(ended, nothing[i]), -EPIPE, "both are true: the error");
  }
  cr_assert_eq(rctx_sleep(ended, SECOND), -EPIPE);
  cr_assert_eq(rctx_sleep(ended, INT64_MAX), -EPIPE);
}

Test(wait, a_sleep_is_never_shorter_than_asked_for) {
  RCTX_SCOPED rctx *c = rctx_with_cancel(rctx_background());
  RCTX_SCOPED rctx *detached = rctx_without_cancel(c);
  const rctx *all[] = {c, detached, rctx_background(), rctx_todo()};
  for (int64_t ns = 1; ns < 20 * MS; ns = ns * 7 + 3) {
    for (int i = 0; i < 4; i++) {
      int64_t until = rctx_now() + ns;
      cr_assert_eq(rctx_sleep(all[i], ns), 0);
      cr_assert_geq(rctx_now(), until);
    }
  }
}

Test(wait, a_sleep_ends_with_its_context) {
  RCTX_SCOPED rctx *c = rctx_with_timeout(rctx_background(), 5 * MS);
  RCTX_SCOPED rctx *value = tag_with(c, 1);
  cr_assert_eq(rctx_sleep(value, 3600 * SECOND), -ETIMEDOUT);
  RCTX_SCOPED rctx *again = rctx_with_timeout(rctx_background(), 5 * MS);
  cr_assert_eq(rctx_sleep(again, INT64_MAX), -ETIMEDOUT, "the sum saturates");
}

static void sleep_or_cancel(unsigned index, void *arg) {
  if (index == 0)
    rctx_cancel_with(arg, -EPIPE, RCTX_ORIGIN_PEER, "gone");
  else
    cr_assert_eq(rctx_sleep(arg, index == 1 ? INT64_MAX : 3600 * SECOND), -EPIPE);
}

Test(wait, any_number_of_sleepers_wake) {
  watchdog(60);
  for (int round = 0; round < 100; round++) {
    RCTX_SCOPED rctx *c = rctx_with_cancel(round % 2 ? fake_root() : rctx_background());
    threads_run(4, sleep_or_cancel, c);
  }
}

struct fake_sleep {
  rctx *ctx;
  atomic_bool over;
};

static void sleep_on_the_fake_clock(unsigned index, void *arg) {
  struct fake_sleep *shared = arg;
  if (index == 0) {
    cr_assert_eq(rctx_sleep(shared->ctx, SECOND), 0);
    cr_assert_geq(fake_now(), FAKE_START + SECOND);
    atomic_store(&shared->over, true);
  }
  // Until it is over, however late it began.
  for (int64_t i = 1; index == 1 && !atomic_load(&shared->over); i++) {
    usleep(300);
    fake_set(FAKE_START + i * SECOND / 5);
  }
}

Test(wait, a_sleep_is_by_the_clock_of_the_contexts_manager) {
  struct fake_sleep shared = {.ctx = rctx_with_cancel(fake_root())};
  watchdog(60);
  threads_run(2, sleep_on_the_fake_clock, &shared);
  rctx_end(shared.ctx);
}

Test(wait, a_sleep_leaves_errno_alone_and_needs_no_descriptor) {
  RCTX_SCOPED rctx *c = rctx_with_timeout(rctx_background(), 5 * MS);
  struct rctx_info info;
  errno = 4242;
  cr_assert_eq(rctx_sleep(rctx_background(), MS), 0);
  cr_assert_eq(rctx_sleep(c, INT64_MAX), -ETIMEDOUT);
  cr_assert_eq(errno, 4242);
  rctx_inspect(c, &info);
  cr_assert_not(info.has_fd);
}

/* ---- rctx_poll --------------------------------------------------------------------------------------------------- */

struct wire { // a pipe
  int in, out;
};

static struct wire wire_open(void) {
  int fds[2];
  cr_assert_eq(pipe(fds), 0);
  return (struct wire){fds[0], fds[1]};
}

static void wire_close(struct wire wire) {
  close(wire.in);
  close(wire.out);
}

static void wire_write(struct wire wire) { cr_assert_eq(write(wire.out, "x", 1), 1); }

static void wire_read(struct wire wire) {
  char c;
  cr_assert_eq(read(wire.in, &c, 1), 1);
}

enum { GARBAGE = 0x5a5a };

Test(wait, poll_reports_what_is_ready_as_poll_does) {
  struct wire quiet = wire_open(), ready = wire_open();
  RCTX_SCOPED rctx *c = rctx_with_cancel(rctx_background());
  RCTX_SCOPED rctx *detached = rctx_without_cancel(c);
  const rctx *all[] = {c, detached, rctx_background(), fake_root()};
  const int64_t times[] = {INT64_MIN, 0, INT64_MAX};
  wire_write(ready);
  for (int i = 0; i < 4; i++) {
    for (int t = 0; t < 3; t++) {
      struct pollfd fds[] = {{quiet.in, POLLIN, GARBAGE},
                             {ready.in, POLLIN, GARBAGE},
                             {-1, POLLIN, GARBAGE},
                             {quiet.out, POLLOUT, GARBAGE},
                             {1000000, POLLIN, GARBAGE}};
      cr_assert_eq(rctx_poll(all[i], fds, 5, times[t]), 3);
      cr_assert(fds[0].revents == 0 && fds[1].revents == POLLIN && fds[2].revents == 0);
      cr_assert(fds[3].revents == POLLOUT && fds[4].revents == POLLNVAL);
      cr_assert(fds[0].fd == quiet.in && fds[0].events == POLLIN, "the rest is the caller's");
    }
  }
  wire_close(quiet);
  wire_close(ready);
}

Test(wait, poll_until_now_or_earlier_just_looks) {
  struct wire quiet = wire_open();
  RCTX_SCOPED rctx *c = rctx_with_cancel(rctx_background());
  watchdog(60);
  int64_t times[] = {INT64_MIN, -1, 0, 1, rctx_now()};
  for (int i = 0; i < 5; i++) {
    struct pollfd one = {quiet.in, POLLIN, GARBAGE};
    cr_assert_eq(rctx_poll(c, &one, 1, times[i]), 0);
    cr_assert_eq(one.revents, 0);
    cr_assert_eq(rctx_poll(c, NULL, 0, times[i]), 0);
    cr_assert_eq(rctx_poll(rctx_background(), NULL, 0, times[i]), 0);
  }
  wire_close(quiet);
}

Test(wait, poll_gives_up_when_its_time_is_up_never_earlier) {
  struct wire quiet = wire_open();
  RCTX_SCOPED rctx *c = rctx_with_cancel(rctx_background());
  for (int64_t ns = 1; ns < 20 * MS; ns = ns * 7 + 3) {
    struct pollfd one = {quiet.in, POLLIN, GARBAGE};
    int64_t until = rctx_now() + ns;
    cr_assert_eq(rctx_poll(c, &one, 1, until), 0);
    cr_assert_geq(rctx_now(), until);
    cr_assert_eq(one.revents, 0);
    until = rctx_now() + ns;
    cr_assert_eq(rctx_poll(rctx_background(), NULL, 0, until), 0, "0 descriptors: a wait");
    cr_assert_geq(rctx_now(), until);
  }
  wire_close(quiet);
}

Test(wait, poll_says_the_error_also_if_descriptors_are_ready) {
  struct wire ready = wire_open(), quiet = wire_open();
  RCTX_SCOPED rctx *parent = rctx_with_cancel(fake_root());
  RCTX_SCOPED rctx *c = tag_with(parent, 1);
  wire_write(ready);
  for (int ended = 0; ended < 2; ended++) {
    struct pollfd fds[] = {{ready.in, POLLIN, GARBAGE}, {quiet.in, POLLIN, GARBAGE}};
    cr_assert_eq(rctx_poll(c, fds, 2, INT64_MAX), ended ? -EPIPE : 1);
    cr_assert(fds[0].revents == POLLIN && fds[1].revents == 0, "revents are written");
    if (!ended) rctx_cancel_with(parent, -EPIPE, RCTX_ORIGIN_PEER, "gone");
  }
  cr_assert_eq(rctx_poll(c, NULL, 0, INT64_MAX), -EPIPE);
  cr_assert_eq(rctx_poll(c, NULL, 0, INT64_MIN), -EPIPE);
  wire_close(ready);
  wire_close(quiet);
}

Test(wait, poll_ends_at_the_contexts_deadline) {
  struct wire quiet = wire_open();
  RCTX_SCOPED rctx *c = rctx_with_timeout(rctx_background(), 5 * MS);
  struct pollfd one = {quiet.in, POLLIN, GARBAGE};
  cr_assert_eq(rctx_poll(c, &one, 1, INT64_MAX), -ETIMEDOUT);
  cr_assert_eq(one.revents, 0);
  RCTX_SCOPED rctx *other = rctx_with_timeout(rctx_background(), 5 * MS);
  cr_assert_eq(rctx_poll(other, NULL, 0, rctx_now() + 3600 * SECOND), -ETIMEDOUT);
  wire_close(quiet);
}

// The last of n, and around 64 none too many and none too few.
Test(wait, poll_takes_any_number_of_descriptors) {
  enum { MOST = 900 };
  static struct pollfd fds[MOST];
  const nfds_t counts[] = {1, 2, 62, 63, 64, 65, 66, 127, 128, MOST};
  struct wire quiet = wire_open(), ready = wire_open();
  RCTX_SCOPED rctx *c = rctx_with_cancel(fake_root());
  wire_write(ready);
  for (int i = 0; i < 10; i++) {
    nfds_t n = counts[i];
    for (nfds_t k = 0; k < n; k++) fds[k] = (struct pollfd){k == n - 1 ? ready.in : quiet.in, POLLIN, GARBAGE};
    cr_assert_eq(rctx_poll(c, fds, n, INT64_MAX), 1, "of %d", (int)n);
    for (nfds_t k = 0; k < n; k++) cr_assert_eq(fds[k].revents, k == n - 1 ? POLLIN : 0, "%d of %d", (int)k, (int)n);
    fds[n - 1].fd = quiet.in;
    cr_assert_eq(rctx_poll(c, fds, n, 0), 0);
    for (nfds_t k = 0; k < n; k++) cr_assert_eq(fds[k].revents, 0);
  }
  rctx_cancel(c);
  for (int i = 0; i < 10; i++) {
    for (nfds_t k = 0; k < counts[i]; k++) fds[k].revents = GARBAGE;
    cr_assert_eq(rctx_poll(c, fds, counts[i], INT64_MAX), -ECANCELED);
    for (nfds_t k = 0; k < counts[i]; k++) cr_assert_eq(fds[k].revents, 0);
  }
  wire_close(quiet);
  wire_close(ready);
}

Test(wait, poll_refuses_more_descriptors_than_a_process_may_have) {
#ifdef RCTX_TEST_SHIM
  cr_skip_test("valgrind keeps limits of its own");
#endif
  static struct pollfd fds[200];
  RCTX_SCOPED rctx *c = rctx_with_cancel(fake_root());
  struct rlimit before, few;
  for (int i = 0; i < 200; i++) fds[i].fd = -1;
  getrlimit(RLIMIT_NOFILE, &before);
  few = before;
  few.rlim_cur = 100;
  cr_assert_eq(rctx_poll(c, fds, 200, 0), 0);
  cr_assert_eq(setrlimit(RLIMIT_NOFILE, &few), 0);
  int too_many = rctx_poll(c, fds, 200, 0), fit = rctx_poll(c, fds, 99, 0);
  setrlimit(RLIMIT_NOFILE, &before);
  cr_assert_eq(too_many, -EINVAL);
  cr_assert_eq(fit, 0);
}

Test(wait, poll_says_when_descriptors_run_out_and_may_be_tried_again) {
  struct wire ready = wire_open();
  RCTX_SCOPED rctx *c = rctx_with_cancel(fake_root());
  RCTX_SCOPED rctx *had_one = rctx_with_cancel(fake_root());
  struct rlimit before, none;
  cr_assert_geq(rctx_fd(had_one), 0);
  wire_write(ready);
  getrlimit(RLIMIT_NOFILE, &before);
  none = before;
  none.rlim_cur = (rlim_t)rctx_fd(had_one) + 1; // no further one; poll(2) itself still takes a few
  int gaps[64], filled = 0;
  cr_assert_eq(setrlimit(RLIMIT_NOFILE, &none), 0);
  while (filled < 64 && (gaps[filled] = dup(0)) >= 0) filled++;
  struct pollfd one = {ready.in, POLLIN, 0}, other = one, rooted = one;
  int refused = rctx_poll(c, &one, 1, INT64_MAX), polled = rctx_poll(had_one, &other, 1, INT64_MAX);
  int of_root = rctx_poll(fake_root(), &rooted, 1, INT64_MAX);
  setrlimit(RLIMIT_NOFILE, &before);
  while (filled > 0) close(gaps[--filled]);
  cr_assert_eq(refused, -EMFILE);
  cr_assert_eq(polled, 1, "it has its own already");
  cr_assert_eq(of_root, 1, "a root needs none");
  cr_assert_eq(rctx_poll(c, &one, 1, INT64_MAX), 1);
  cr_assert_eq(one.revents, POLLIN);
  wire_close(ready);
}

static struct disturbed poller;
static atomic_int poll_result;

static void poll_or_signal(unsigned index, void *arg) {
  struct pollfd *one = arg;
  if (index == 0) {
    atomic_store(&poller.waiter, pthread_self());
    atomic_store(&poller.ready, true);
    atomic_store(&poll_result, rctx_poll(poller.ctx, one, 1, INT64_MAX));
    return;
  }
  while (!atomic_load(&poller.ready)) sched_yield();
  while (atomic_load(&poll_result) == 1) { // until one comes while it polls
    pthread_kill(atomic_load(&poller.waiter), SIGUSR1);
    usleep(200);
  }
}

Test(wait, poll_is_interrupted_as_poll_is) {
  struct wire quiet = wire_open();
  poller.ctx = rctx_with_cancel(fake_root());
  watchdog(60);
  sigaction(SIGUSR1, &(struct sigaction){.sa_handler = interrupted, .sa_flags = SA_RESTART}, NULL); // no difference
  atomic_store(&poll_result, 1);
  threads_run(2, poll_or_signal, &(struct pollfd){quiet.in, POLLIN, 0});
  cr_assert_eq(atomic_load(&poll_result), -EINTR);
  cr_assert_eq(rctx_err(poller.ctx), 0);
  rctx_end(poller.ctx);
  wire_close(quiet);
}

static void poll_until_fake_time(unsigned index, void *arg) {
  struct pollfd skipped = {-1, POLLIN, 0};
  if (index == 0) {
    cr_assert_eq(rctx_poll(arg, &skipped, 1, FAKE_START + SECOND), 0);
    cr_assert_geq(fake_now(), FAKE_START + SECOND);
  } else {
    fake_set(FAKE_START + SECOND);
  }
}

Test(wait, polls_time_is_by_the_contexts_clock) {
  RCTX_SCOPED rctx *c = rctx_with_cancel(fake_root());
  watchdog(60);
  threads_run(2, poll_until_fake_time, c);
  threads_run(1, poll_until_fake_time, (void *)(uintptr_t)fake_root());
}

Test(wait, poll_leaves_errno_alone_and_uses_the_contexts_one_descriptor) {
  RCTX_SCOPED rctx *c = rctx_with_cancel(fake_root());
  struct rctx_info info;
  struct pollfd wrong = {1000000, POLLIN, 0};
  errno = 4242;
  cr_assert_eq(rctx_poll(c, NULL, 0, 0), 0);
  cr_assert_eq(rctx_poll(c, &wrong, 1, 0), 1);
  rctx_inspect(c, &info);
  cr_assert(info.has_fd);
  int next = dup(0);
  for (int i = 0; i < 10; i++) cr_assert_eq(rctx_poll(c, NULL, 0, 0), 0);
  rctx_cancel(c);
  cr_assert_eq(rctx_poll(c, &wrong, 1, 0), -ECANCELED);
  cr_assert_eq(errno, 4242);
  int after = dup(0);
  cr_assert_eq(after, next + 1, "no descriptor is made or left by a poll");
  close(next);
  close(after);
}

// Rounds in which the end, or a byte, or both come at any moment of a poll or sleep.
static struct {
  struct threads threads;
  struct wire wire;
  rctx *ctx;
  uint64_t seed;
} moment;

enum { MOMENTS = 2000 };

static void poll_at_any_moment(struct rng *rng) {
  struct pollfd one = {moment.wire.in, POLLIN, GARBAGE};
  int result = rctx_poll(moment.ctx, &one, 1, rng_one_in(rng, 2) ? INT64_MAX : rctx_now() + rng_between(rng, 0, MS));
  if (result == 0) {
    cr_assert_eq(one.revents, 0);
    result = rctx_poll(moment.ctx, &one, 1, INT64_MAX);
  }
  cr_assert(result == 1 || result == -ECANCELED, "%d", result);
  cr_assert(one.revents == POLLIN || (one.revents == 0 && result != 1));
  while ((result = rctx_poll(moment.ctx, NULL, 0, INT64_MAX)) == 0) {
  }
  cr_assert_eq(result, -ECANCELED);
  cr_assert_eq(rctx_poll(moment.ctx, &one, 1, INT64_MAX), -ECANCELED);
}

static void poll_write_cancel(unsigned index, void *arg) {
  struct rng rng;
  (void)arg;
  rng_init(&rng, moment.seed + index);
  for (int round = 0; round < MOMENTS; round++) {
    if (index == 0) moment.ctx = rctx_with_cancel(rctx_background());
    threads_meet(&moment.threads);
    for (uint64_t n = index ? rng_below(&rng, 8) : 0; n > 0; n--) sched_yield();
    if (index == 0) poll_at_any_moment(&rng);
    if (index == 1) wire_write(moment.wire);
    if (index == 2) rctx_cancel(moment.ctx);
    threads_meet(&moment.threads);
    if (index > 0) continue;
    wire_read(moment.wire);
    rctx_end(moment.ctx);
  }
}

Test(wait, a_poll_misses_neither_the_end_nor_its_descriptors_at_any_moment) {
  watchdog(60);
  moment.seed = seed_get();
  moment.wire = wire_open();
  atomic_store(&rctx__chaos_seed, moment.seed);
  atomic_store(&rctx__chaos_mask, 3);
  threads_start(&moment.threads, 3, poll_write_cancel, NULL);
  threads_join(&moment.threads);
  atomic_store(&rctx__chaos_mask, 0);
  wire_close(moment.wire);
}

static void sleep_and_cancel(unsigned index, void *arg) {
  struct rng rng;
  (void)arg;
  rng_init(&rng, moment.seed + index);
  for (int round = 0; round < MOMENTS; round++) {
    if (index == 0) moment.ctx = rctx_with_cancel(rctx_background());
    threads_meet(&moment.threads);
    for (uint64_t n = rng_below(&rng, 8); n > 0; n--) sched_yield();
    if (index == 0) {
      int64_t ns = rng_between(&rng, 0, MS / 5), until = rctx_now() + ns;
      int result = rctx_sleep(moment.ctx, ns);
      cr_assert(result == -ECANCELED || (result == 0 && rctx_now() >= until), "%d", result);
      cr_assert_eq(rctx_sleep(moment.ctx, INT64_MAX), -ECANCELED);
    } else {
      rctx_cancel(moment.ctx);
    }
    threads_meet(&moment.threads);
    if (index == 0) rctx_end(moment.ctx);
  }
}

Test(wait, a_sleep_misses_no_end_at_any_moment) {
  watchdog(60);
  moment.seed = seed_get();
  atomic_store(&rctx__chaos_seed, moment.seed);
  atomic_store(&rctx__chaos_mask, 3);
  threads_start(&moment.threads, 2, sleep_and_cancel, NULL);
  threads_join(&moment.threads);
  atomic_store(&rctx__chaos_mask, 0);
}
