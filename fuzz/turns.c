// turns.c - see turns.h.
#include "turns.h"

#include "core/platform.h"

#include <linux/futex.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <urcu/urcu-bp.h>

enum { NOBODY = 2, SPINS = 200, BLOCKED_MAX = 100000, LONELY_MAX = 1000, YIELDS_MAX = 1000000 };

static struct {
  _Atomic uint32_t turn; // whose: 0, 1, or NOBODY
  void (*body)(int me, void *arg);
  void *arg;
  const uint8_t *at, *end;
  unsigned yields_left;
  bool started, running, scheduled;
  bool over[2];
  unsigned reading[2]; // read sections of liburcu-bp
  unsigned blocked;    // calls of turns_blocked() since a thread last got on
  unsigned yields;     // since the turn last passed
  unsigned lonely;     // calls of turns_blocked() when the other thread was over
  pthread_t second;
} turns = {.turn = NOBODY};

static __thread int me = -1;
bool turns_no_descriptors;

int turns_me(void) { return turns.running ? me : -1; }

// ---- whose turn it is ---------------------------------------------------------------------------------------------------

static void await_turn(uint32_t mine) {
  for (unsigned spins = 0;; spins++) {
    uint32_t turn = atomic_load_explicit(&turns.turn, memory_order_acquire); // partner: pass_to()
    if (turn == mine) return;
    if (spins < SPINS) {
      rctx__pause();
    } else {
      syscall(SYS_futex, &turns.turn, FUTEX_WAIT_PRIVATE, turn, NULL, NULL, 0);
    }
  }
}

static void pass_to(uint32_t other) {
  atomic_store_explicit(&turns.turn, other, memory_order_release); // partner: await_turn()
  syscall(SYS_futex, &turns.turn, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
}

static void take_gap(void) {
  turns.scheduled = turns.at < turns.end;
  if (turns.scheduled) turns.yields_left = *turns.at++;
}

static void change(void) {
  int other = 1 - me;
  turns.yields = 0;
  if (turns.over[other]) return;
  pass_to((uint32_t)other);
  await_turn((uint32_t)me);
}

void turns_yield(void) {
  if (turns_me() < 0) return;
  turns.blocked = 0;
  if (++turns.yields > YIELDS_MAX) {
    fprintf(stderr, "SPINS: a thread waits for the other without rctx__back_off()\n");
    abort();
  }
  if (!turns.scheduled || turns.yields_left-- > 0) return;
  take_gap();
  change();
}

// This thread waits for the other one.
static void turns_blocked(void) {
  if (turns.over[1 - me]) turns.lonely++;
  if (++turns.blocked > BLOCKED_MAX || turns.lonely > LONELY_MAX) {
    fprintf(stderr, "DEADLOCK: neither thread gets on\n");
    abort();
  }
  change();
}

static void *second_main(void *arg) {
  (void)arg;
  me = 1;
  for (;;) {
    await_turn(1);
    turns.body(1, turns.arg);
    turns.over[1] = true;
    pass_to(0);
  }
  return NULL;
}

void turns_run(void (*body)(int me_, void *arg), void *arg, const uint8_t *schedule, size_t size) {
  turns.body = body;
  turns.arg = arg;
  turns.at = schedule;
  turns.end = schedule + size;
  turns.over[0] = turns.over[1] = false;
  turns.blocked = turns.yields = turns.lonely = 0;
  take_gap();
  me = 0;
  atomic_store(&turns.turn, 0);
  atomic_store(&rctx__chaos_mask, 1); // every atomic calls rctx__chaos_yield()
  if (!turns.started && pthread_create(&turns.second, NULL, second_main, NULL) != 0) abort();
  turns.started = true;
  turns.running = true;
  body(0, arg);
  turns.over[0] = true;
  if (!turns.over[1]) {
    pass_to(1);
    await_turn(0);
  }
  turns.running = false;
  atomic_store(&rctx__chaos_mask, 0);
}

// ---- what the linker puts in the place of the core's own ----------------------------------------------------------------

void __wrap_rctx__chaos_yield(void);
void __wrap_rctx__chaos_yield(void) { turns_yield(); }

void __real_rctx__back_off(_Atomic uint32_t *word, uint32_t seen, unsigned *tries);
void __wrap_rctx__back_off(_Atomic uint32_t *word, uint32_t seen, unsigned *tries);
void __wrap_rctx__back_off(_Atomic uint32_t *word, uint32_t seen, unsigned *tries) {
  if (turns_me() < 0) {
    __real_rctx__back_off(word, seen, tries);
    return;
  }
  turns_blocked();
}

void __wrap_rctx__lock_slow(rctx__lock *lock);
void __wrap_rctx__lock_slow(rctx__lock *lock) {
  uint32_t expected = 0;
  while (!atomic_compare_exchange_strong(lock, &expected, 1U)) {
    expected = 0;
    turns_blocked();
  }
}

void __real_rctx__futex_wait(_Atomic uint32_t *word, uint32_t seen, int64_t until_ns);
void __wrap_rctx__futex_wait(_Atomic uint32_t *word, uint32_t seen, int64_t until_ns);
void __wrap_rctx__futex_wait(_Atomic uint32_t *word, uint32_t seen, int64_t until_ns) {
  if (turns_me() < 0) {
    __real_rctx__futex_wait(word, seen, until_ns);
  } else if (atomic_load(word) == seen) {
    turns_blocked();
  }
}

int __real_rctx__eventfd(bool signalled);
int __wrap_rctx__eventfd(bool signalled);
int __wrap_rctx__eventfd(bool signalled) {
  if (!turns_no_descriptors) return __real_rctx__eventfd(signalled);
  turns_no_descriptors = false;
  return -EMFILE;
}

int __real_pthread_mutex_lock(pthread_mutex_t *mutex);
int __wrap_pthread_mutex_lock(pthread_mutex_t *mutex);
int __wrap_pthread_mutex_lock(pthread_mutex_t *mutex) {
  if (turns_me() < 0) return __real_pthread_mutex_lock(mutex);
  int rc;
  while ((rc = pthread_mutex_trylock(mutex)) == EBUSY) turns_blocked();
  return rc;
}

void __real_urcu_bp_read_lock(void);
void __wrap_urcu_bp_read_lock(void);
void __wrap_urcu_bp_read_lock(void) {
  if (turns_me() >= 0) turns.reading[me]++;
  __real_urcu_bp_read_lock();
}

void __real_urcu_bp_read_unlock(void);
void __wrap_urcu_bp_read_unlock(void);
void __wrap_urcu_bp_read_unlock(void) {
  __real_urcu_bp_read_unlock();
  if (turns_me() >= 0) turns.reading[me]--;
}

// A grace period: the other thread stands still, so it is let on until it has left its read section.
void __real_urcu_bp_synchronize_rcu(void);
void __wrap_urcu_bp_synchronize_rcu(void);
void __wrap_urcu_bp_synchronize_rcu(void) {
  while (turns_me() >= 0 && turns.reading[1 - me] > 0) turns_blocked();
  __real_urcu_bp_synchronize_rcu();
}
