// rctx_cond_wait of wait.h, sentence by sentence: who ends the context holding which lock on which thread, several waiters
// with different contexts, and the moment between the registration and the wait.
#include "support/check.h"
#include "support/fake_time.h"
#include "support/few_threads.h"
#include "support/gate.h"
#include "support/seed.h"
#include "support/tasks.h"
#include "support/threads.h"
#include "support/watchdog.h"

#include "core/platform.h"

#include <rctx/rctx.h>

enum { WATCHDOG_S = 60, CHAOS_ONE_IN = 3 };

#if defined(__SANITIZE_THREAD__) || CHECK_LEAKS
enum { SLOWER = 4 };
#else
enum { SLOWER = 1 };
#endif

static void open_all(void) {
  watchdog(WATCHDOG_S);
  fake_open();
}

static void close_all(void) {
  threads_allow_all();
  atomic_store(&rctx__chaos_mask, 0);
  fake_close();
}

TestSuite(cond, .init = open_all, .fini = close_all, .timeout = 120);

/* ---- one waiter -------------------------------------------------------------------------------------------------- */

// A thread that waits until ready, as the header shows it.
struct waiter {
  pthread_t thread;
  const rctx *ctx;
  pthread_mutex_t *mutex;
  pthread_cond_t *cond;
  const bool *ready; // mutex
  bool waiting;      // mutex: it has the mutex, and lets go of it only by waiting
  bool holds;        // mutex: it had it again at the end
  int err, wakeups;
};

static pthread_mutex_t mutex = PTHREAD_ERRORCHECK_MUTEX_INITIALIZER_NP;
static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
static bool ready; // mutex

static void *waiter_main(void *arg) {
  struct waiter *waiter = arg;
  pthread_mutex_lock(waiter->mutex);
  waiter->waiting = true;
  waiter->err = 0;
  while (!*waiter->ready && waiter->err == 0) {
    waiter->err = rctx_cond_wait(waiter->ctx, waiter->cond, waiter->mutex);
    waiter->wakeups++;
  }
  waiter->holds = pthread_mutex_unlock(waiter->mutex) == 0; // an error-checking mutex knows its owner
  return NULL;
}

static void waiter_start(struct waiter *waiter, const rctx *ctx) {
  *waiter = (struct waiter){.ctx = ctx, .mutex = &mutex, .cond = &cond, .ready = &ready};
  cr_assert_eq(pthread_create(&waiter->thread, NULL, waiter_main, waiter), 0);
}

// It waits: the mutex could be had after it had it.
static void waiter_waits(struct waiter *waiter) {
  for (bool waiting = false; !waiting; sched_yield()) {
    pthread_mutex_lock(waiter->mutex);
    waiting = waiter->waiting;
    pthread_mutex_unlock(waiter->mutex);
  }
}

static void waiter_ended(struct waiter *waiter, int err) {
  cr_assert_eq(pthread_join(waiter->thread, NULL), 0);
  cr_assert_eq(waiter->err, err, "%d, not %d", waiter->err, err);
  cr_assert(waiter->holds, "it returns with the mutex locked");
}

static void tell_all(void) {
  pthread_mutex_lock(&mutex);
  ready = true;
  pthread_cond_broadcast(&cond);
  pthread_mutex_unlock(&mutex);
}

Test(cond, of_what_has_ended_returns_at_once_with_the_mutex_locked) {
  size_t before = tasks_before();
  RCTX_SCOPED rctx *c = rctx_with_cancel(fake_root());
  RCTX_SCOPED rctx *past = rctx_with_timeout(rctx_background(), -1);
  rctx_cancel_with(c, -EPIPE, RCTX_ORIGIN_PEER, "gone");
  cr_assert_eq(pthread_mutex_lock(&mutex), 0);
  cr_assert_eq(rctx_cond_wait(c, &cond, &mutex), -EPIPE);
  cr_assert_eq(rctx_cond_wait(past, &cond, &mutex), -ETIMEDOUT);
  cr_assert_eq(pthread_mutex_unlock(&mutex), 0);
  cr_assert(tasks_are(before), "and starts nothing");
}

Test(cond, a_signal_wakes_it_as_ever) {
  struct waiter waiter;
  RCTX_SCOPED rctx *c = rctx_with_cancel(fake_root());
  waiter_start(&waiter, c);
  waiter_waits(&waiter);
  pthread_mutex_lock(&mutex);
  ready = true;
  pthread_mutex_unlock(&mutex);
  pthread_cond_signal(&cond);
  waiter_ended(&waiter, 0);
  struct rctx_info info;
  rctx_inspect(c, &info);
  cr_assert_eq(info.registrations, 0, "nothing is left behind");
}

Test(cond, what_can_never_end_waits_as_ever_and_starts_no_thread) {
  RCTX_SCOPED rctx *detached = rctx_without_cancel(fake_root());
  const rctx *endless[] = {rctx_background(), fake_root(), detached};
  struct rctx_stats of_default;
  for (int i = 0; i < 3; i++) {
    struct waiter waiter;
    ready = false;
    threads_allow(1); // the waiter's own
    waiter_start(&waiter, endless[i]);
    waiter_waits(&waiter);
    tell_all();
    waiter_ended(&waiter, 0);
  }
  rctx_stats(rctx_manager_default(), &of_default);
  cr_assert(of_default.threads == 0 && fake_stats().threads == 0);
}

Test(cond, the_end_wakes_it) {
  for (int round = 0; round < 200 / SLOWER; round++) {
    struct waiter waiter;
    RCTX_SCOPED rctx *c = rctx_with_cancel(round % 2 ? fake_root() : rctx_background());
    RCTX_SCOPED rctx *below = rctx_with_timeout(c, 3600 * SECOND);
    waiter_start(&waiter, round % 4 < 2 ? c : below);
    waiter_waits(&waiter);
    rctx_cancel_with(c, -EPIPE, RCTX_ORIGIN_PEER, "gone");
    waiter_ended(&waiter, -EPIPE);
  }
}

Test(cond, the_end_of_the_handle_wakes_it) {
  struct waiter waiter;
  rctx *c = rctx_with_cancel(fake_root());
  const rctx *kept = rctx_ref(c);
  waiter_start(&waiter, kept);
  waiter_waits(&waiter);
  rctx_end(c);
  waiter_ended(&waiter, -ECANCELED);
  rctx_unref(kept);
}

Test(cond, a_canceller_that_holds_the_mutex_does_not_wait_for_it) {
  for (int round = 0; round < 200 / SLOWER; round++) {
    struct waiter waiter;
    RCTX_SCOPED rctx *c = rctx_with_cancel(fake_root());
    waiter_start(&waiter, c);
    waiter_waits(&waiter);
    pthread_mutex_lock(&mutex);
    rctx_cancel(c);
    for (int i = round % 5; i > 0; i--) sched_yield();
    pthread_mutex_unlock(&mutex);
    waiter_ended(&waiter, -ECANCELED);
  }
}

Test(cond, a_canceller_that_holds_a_recursive_mutex_does_not_wait_for_it) {
  pthread_mutex_t recursive = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;
  for (int round = 0; round < 100; round++) {
    struct waiter waiter = {.mutex = &recursive, .cond = &cond, .ready = &ready};
    RCTX_SCOPED rctx *c = rctx_with_cancel(fake_root());
    waiter.ctx = c;
    cr_assert_eq(pthread_create(&waiter.thread, NULL, waiter_main, &waiter), 0);
    waiter_waits(&waiter);
    pthread_mutex_lock(&recursive);
    pthread_mutex_lock(&recursive);
    rctx_cancel(c);
    pthread_mutex_unlock(&recursive);
    pthread_mutex_unlock(&recursive);
    waiter_ended(&waiter, -ECANCELED);
  }
}

Test(cond, a_deadline_on_the_timer_thread_wakes_it) {
  for (int round = 0; round < 50 / SLOWER + 1; round++) {
    struct waiter waiter;
    RCTX_SCOPED rctx *c = rctx_with_timeout(rctx_background(), (round % 3) * MS + 1);
    waiter_start(&waiter, c);
    waiter_ended(&waiter, -ETIMEDOUT);
  }
}

Test(cond, a_deadline_in_a_thread_that_holds_the_mutex_wakes_it) {
  struct waiter waiter;
  RCTX_SCOPED rctx *c = rctx_with_timeout(fake_root(), SECOND);
  waiter_start(&waiter, c);
  waiter_waits(&waiter);
  pthread_mutex_lock(&mutex);
  cr_assert_eq(fake_go(2 * SECOND), 1);
  pthread_mutex_unlock(&mutex);
  waiter_ended(&waiter, -ETIMEDOUT);
}

static void cancel_there(const rctx *ctx, void *arg) {
  (void)ctx;
  rctx_cancel(arg);
}

// The callback thread that would pass the wakeup on is the canceller itself.
Test(cond, a_canceller_on_the_callback_thread_wakes_it) {
  for (int held = 0; held < 2; held++) {
    struct waiter waiter;
    struct rctx_after node = {0};
    RCTX_SCOPED rctx *c = rctx_with_cancel(fake_root());
    RCTX_SCOPED rctx *trigger = rctx_with_cancel(fake_root());
    cr_assert_eq(rctx_after(trigger, &node, cancel_there, c), RCTX_REGISTERED);
    waiter_start(&waiter, c);
    waiter_waits(&waiter);
    if (held) pthread_mutex_lock(&mutex);
    rctx_cancel(trigger);
    if (held) {
      cr_assert_eq(rctx_wait(c, INT64_MAX), -ECANCELED);
      pthread_mutex_unlock(&mutex);
    }
    waiter_ended(&waiter, -ECANCELED);
    rctx_after_stop_sync(&node);
  }
}

static void take_the_mutex(const rctx *ctx, void *arg) {
  (void)ctx;
  (void)arg;
  pthread_mutex_lock(&mutex);
  ready = true;
  pthread_mutex_unlock(&mutex);
}

// Another callback of the same context wants the mutex, in the canceller, before and after the wait's own.
Test(cond, callbacks_of_the_same_context_may_take_the_mutex) {
  for (int round = 0; round < 200 / SLOWER; round++) {
    struct waiter waiter;
    struct rctx_after before = {0}, after = {0};
    RCTX_SCOPED rctx *c = rctx_with_cancel(fake_root());
    ready = false;
    cr_assert_eq(rctx_after_inline(c, &before, RCTX_ON_ENDED_TELL, take_the_mutex, NULL), RCTX_REGISTERED);
    waiter_start(&waiter, c);
    waiter_waits(&waiter);
    cr_assert_eq(rctx_after_inline(c, &after, RCTX_ON_ENDED_TELL, take_the_mutex, NULL), RCTX_REGISTERED);
    rctx_cancel(c);
    cr_assert_eq(pthread_join(waiter.thread, NULL), 0);
    cr_assert(waiter.err == 0 || waiter.err == -ECANCELED);
    cr_assert(waiter.holds);
  }
}

Test(cond, when_the_callback_thread_can_not_be_started_it_says_so_and_has_not_waited) {
  RCTX_SCOPED rctx *c = rctx_with_cancel(fake_root());
  struct waiter waiter;
  struct rctx_info info;
  pthread_mutex_lock(&mutex);
  threads_allow(0);
  for (int i = 0; i < 3; i++) cr_assert_eq(rctx_cond_wait(c, &cond, &mutex), -EAGAIN); // else the watchdog
  threads_allow_all();
  cr_assert_eq(pthread_mutex_unlock(&mutex), 0, "still locked");
  rctx_inspect(c, &info);
  cr_assert_eq(info.registrations, 0);
  waiter_start(&waiter, c);
  waiter_waits(&waiter);
  rctx_cancel(c);
  waiter_ended(&waiter, -ECANCELED);
}

static int wait_in_a_task(const rctx *ctx, void *arg) {
  (void)arg;
  pthread_mutex_lock(&mutex);
  int err = rctx_cond_wait(ctx, &cond, &mutex);
  return pthread_mutex_unlock(&mutex) == 0 ? err : -EPERM;
}

Test(cond, inside_a_task_of_the_manager_it_comes_back_to_be_asked_again) {
  RCTX_SCOPED rctx *c = rctx_with_cancel(fake_root());
  for (int i = 0; i < 20; i++) cr_assert_eq(rctx_execute(c, wait_in_a_task, NULL, NULL, NULL), 0);
}

static void wait_in_a_callback(const rctx *ctx, void *arg) {
  int *errs = arg;
  RCTX_SCOPED rctx *live = rctx_with_cancel(fake_root());
  pthread_mutex_lock(&mutex);
  errs[0] = rctx_cond_wait(live, &cond, &mutex);
  errs[1] = rctx_cond_wait(ctx, &cond, &mutex);
  errs[2] = pthread_mutex_unlock(&mutex);
}

Test(cond, inside_a_callback_of_the_manager_too) {
  int errs[3] = {-1, -1, -1};
  struct rctx_after node = {0};
  RCTX_SCOPED rctx *c = rctx_with_cancel(fake_root());
  cr_assert_eq(rctx_after(c, &node, wait_in_a_callback, errs), RCTX_REGISTERED);
  rctx_cancel(c);
  cr_assert_eq(rctx_quiesce(fake.manager, INT64_MAX), 0);
  rctx_after_stop_sync(&node);
  cr_assert(errs[0] == 0 && errs[1] == -ECANCELED && errs[2] == 0, "%d, %d, %d", errs[0], errs[1], errs[2]);
}

Test(cond, errno_is_left_alone) {
  struct waiter waiter;
  RCTX_SCOPED rctx *c = rctx_with_timeout(rctx_background(), MS);
  waiter_start(&waiter, c); // the callback thread has been started
  waiter_ended(&waiter, -ETIMEDOUT);
  RCTX_SCOPED rctx *again = rctx_with_timeout(rctx_background(), MS);
  pthread_mutex_lock(&mutex);
  errno = 4242;
  while (rctx_cond_wait(again, &cond, &mutex) == 0) {
  }
  cr_assert_eq(errno, 4242);
  pthread_mutex_unlock(&mutex);
}

/* ---- several waiters --------------------------------------------------------------------------------------------- */

Test(cond, the_end_of_one_is_a_spurious_wakeup_for_others) {
  for (int round = 0; round < 50 / SLOWER + 1; round++) {
    struct waiter waiters[4];
    rctx *all[4];
    ready = false;
    for (int i = 0; i < 4; i++) {
      all[i] = rctx_with_cancel(i % 2 ? fake_root() : rctx_background());
      waiter_start(&waiters[i], all[i]);
    }
    for (int i = 0; i < 4; i++) waiter_waits(&waiters[i]);
    rctx_cancel(all[1]);
    waiter_ended(&waiters[1], -ECANCELED);
    pthread_mutex_lock(&mutex);
    rctx_cancel(all[2]);
    pthread_mutex_unlock(&mutex);
    waiter_ended(&waiters[2], -ECANCELED);
    tell_all();
    waiter_ended(&waiters[0], 0);
    waiter_ended(&waiters[3], 0);
    for (int i = 0; i < 4; i++) rctx_end(all[i]);
  }
}

Test(cond, several_waiters_with_one_context_all_wake) {
  for (int round = 0; round < 50 / SLOWER + 1; round++) {
    struct waiter waiters[4];
    RCTX_SCOPED rctx *c = rctx_with_cancel(fake_root());
    for (int i = 0; i < 4; i++) waiter_start(&waiters[i], c);
    for (int i = 0; i < 4; i++) waiter_waits(&waiters[i]);
    if (round % 2) pthread_mutex_lock(&mutex);
    rctx_cancel(c);
    if (round % 2) pthread_mutex_unlock(&mutex);
    for (int i = 0; i < 4; i++) waiter_ended(&waiters[i], -ECANCELED);
  }
}

/* ---- any moment -------------------------------------------------------------------------------------------------- */

enum { ROUNDS = 3000 / SLOWER };

static struct {
  struct threads threads;
  uint64_t seed;
  rctx *ctx, *live;
  int tokens; // mutex
  unsigned errors, woken;
} moment;

static void chaos(void) {
  moment.seed = seed_get();
  atomic_store(&rctx__chaos_seed, moment.seed);
  atomic_store(&rctx__chaos_mask, CHAOS_ONE_IN);
}

static void wait_once(void) {
  int err = 0;
  pthread_mutex_lock(&mutex);
  while (err == 0) err = rctx_cond_wait(moment.ctx, &cond, &mutex);
  cr_assert_eq(err, -ECANCELED);
  cr_assert_eq(pthread_mutex_unlock(&mutex), 0);
}

// The end comes before the wait, between its registration and its sleep, or later; the canceller sometimes has the mutex.
static void wait_and_cancel(unsigned index, void *arg) {
  struct rng rng;
  (void)arg;
  rng_init(&rng, moment.seed + index);
  for (int round = 0; round < ROUNDS; round++) {
    if (index == 0) moment.ctx = rctx_with_cancel(fake_root());
    threads_meet(&moment.threads);
    if (index == 0) {
      wait_once();
    } else {
      bool hold = rng_one_in(&rng, 2);
      for (uint64_t n = rng_below(&rng, 12); n > 0; n--) sched_yield();
      if (hold) pthread_mutex_lock(&mutex);
      rctx_cancel(moment.ctx);
      if (hold) pthread_mutex_unlock(&mutex);
    }
    threads_meet(&moment.threads);
    if (index == 0) rctx_end(moment.ctx);
  }
}

Test(cond, no_end_is_missed_at_any_moment) {
  chaos();
  threads_start(&moment.threads, 2, wait_and_cancel, NULL);
  threads_join(&moment.threads);
}

// Takes a token: true; false: the context ended.
static bool take_a_token(const rctx *ctx) {
  int err = 0;
  pthread_mutex_lock(&mutex);
  while (moment.tokens == 0 && err == 0) err = rctx_cond_wait(ctx, &cond, &mutex);
  bool taken = err == 0; // an error leaves the token to others
  if (taken) moment.tokens--;
  pthread_mutex_unlock(&mutex);
  return taken;
}

// One token and one signal for two waiters, of which one is ended at the same time: the other must get it, or the first has.
static void one_token_for_two(unsigned index, void *arg) {
  struct rng rng;
  (void)arg;
  rng_init(&rng, moment.seed + index);
  for (int round = 0; round < ROUNDS; round++) {
    if (index == 0) {
      moment.ctx = rctx_with_cancel(fake_root());
      moment.live = rctx_with_cancel(fake_root());
    }
    threads_meet(&moment.threads);
    for (uint64_t n = rng_below(&rng, 10); n > 0; n--) sched_yield();
    if (index == 0 && !take_a_token(moment.ctx)) moment.errors++;
    if (index == 1) cr_assert(take_a_token(moment.live));
    if (index == 2) rctx_cancel(moment.ctx);
    if (index == 3) {
      pthread_mutex_lock(&mutex);
      moment.tokens++;
      pthread_cond_signal(&cond);
      pthread_mutex_unlock(&mutex);
    }
    if (index == 0) { // if it took the one token, there is another for the live one
      pthread_mutex_lock(&mutex);
      bool took = moment.errors + moment.woken != (unsigned)round + 1;
      moment.woken += took;
      moment.tokens += took;
      if (took) pthread_cond_signal(&cond);
      pthread_mutex_unlock(&mutex);
    }
    threads_meet(&moment.threads);
    if (index > 0) continue;
    cr_assert_eq(moment.tokens, 0);
    rctx_end(moment.ctx);
    rctx_end(moment.live);
  }
}

Test(cond, a_signal_and_an_end_at_once_lose_neither) {
  chaos();
  threads_start(&moment.threads, 4, one_token_for_two, NULL);
  threads_join(&moment.threads);
}
