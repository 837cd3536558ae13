/*
 * bodies_random.c - three threads do what the seed says on a small tree that they share, checked against what must always hold:
 *
 *   a cancel that has returned, won or lost, has ended all below; what is ended stays so, with the same cause
 *   error and cause are seen together; one cancel at most has ended a context
 *   a callback runs once, or its stop got it, and never after a stop that waits
 *   in the end nothing is left
 */
#include "bodies.h"
#include "body.h"

#include <string.h>

enum { SHARED = 5, THREADS = 3, OPERATIONS = 6, SLOTS = 2 };

/* 0 is above all; 1 and 2 below it, 3 below 1, 4 below 2. */
static const int parent_of[SHARED] = {-1, 0, 0, 1, 2};

static rctx *shared[SHARED];
static const rctx *held[SHARED];
static const struct rctx_cause *seen[SHARED]; /* the cause that somebody has seen */
static unsigned wins[SHARED];
static bool ended[SHARED]; /* a cancel of it, or of what is above, has returned */
static rctx *mailbox;      /* handles change hands here */

struct thread {
  rctx *slots[SLOTS];
  struct watch watch;
  bool registered;
  rctx *owned; /* one of the shared handles is this thread's to give back */
};
static struct thread threads[THREADS];

static bool is_below(int i, int top) {
  for (; i >= 0; i = parent_of[i]) {
    if (i == top) return true;
  }
  return false;
}

static void look_at(int i) {
  bool must = ended[i];
  int err = look_whole(held[i]);
  if (must) CHECK(err != 0);
  if (err == 0) return;
  const struct rctx_cause *cause = rctx_cause(held[i]);
  if (seen[i]) CHECK(seen[i] == cause);
  seen[i] = cause;
}

static void has_ended(int top) {
  for (int i = 0; i < SHARED; i++) {
    if (!is_below(i, top)) continue;
    ended[i] = true;
    look_at(i);
  }
}

static void cancel_one(int i) {
  if (rctx_cancel_cause((rctx *)(uintptr_t)held[i], sim_random(2) ? &cause_a : &cause_b)) {
    CHECK_EQUAL(wins[i], 0);
    wins[i]++;
  }
  has_ended(i);
}

static void sweep_one(int i) {
  struct rctx_sweep sweep;
  if (!rctx_cancel_begin((rctx *)(uintptr_t)held[i], &cause_a, &sweep)) return;
  CHECK_EQUAL(wins[i], 0);
  wins[i]++;
  while (rctx_cancel_step(&sweep, 1 + sim_random(3))) look_at(i);
  has_ended(i);
}

static void derive_into(rctx **slot, int i) {
  bool must = ended[i];
  rctx *before = *slot;
  *slot = NULL;
  if (before) rctx_end(before);
  const rctx *two[] = {held[i], held[sim_random(SHARED)]};
  switch (sim_random(6)) {
  case 0:
    *slot = rctx_with_timeout(held[i], SIM_MS);
    break;
  case 1:
    *slot = rctx_merge_any(two, 2);
    break;
  case 2:
    *slot = rctx_with_idle(held[i], SIM_MS);
    break;
  case 3:
    *slot = rctx_without_cancel(held[i]);
    CHECK_EQUAL(look(*slot), 0);
    return;
  default:
    *slot = rctx_with_cancel(held[i]);
  }
  int err = look_whole(*slot);
  if (must) CHECK(err != 0);
}

static void watch_or_stop(struct thread *me, int i) {
  if (!me->registered) {
    me->watch = (struct watch){.ran = 0};
    int found = sim_random(2) ? rctx_after_inline(held[i], &me->watch.node, RCTX_ON_ENDED_RUN, on_end, &me->watch)
                              : rctx_after(held[i], &me->watch.node, on_end, &me->watch);
    CHECK(found == RCTX_REGISTERED || (found == RCTX_ENDED && rctx_err(held[i])));
    me->registered = true;
    return;
  }
  bool stopped = rctx_after_stop_sync(&me->watch.node);
  me->watch.gone = true;
  CHECK_EQUAL(me->watch.ran + stopped, 1);
  me->registered = false;
}

static void give_back(rctx **slot) {
  rctx *before = *slot;
  *slot = NULL;
  if (before == NULL) return;
  if (sim_random(2)) {
    rctx_end(before);
  } else {
    rctx_drop(before);
  }
}

/* Without a point in between: a handle has one owner at a time. */
static void exchange(rctx **slot) {
  rctx *got = mailbox;
  mailbox = *slot;
  *slot = got;
}

static void cancel_own(rctx *ctx) {
  struct rctx_info info;
  if (ctx == NULL) return;
  rctx_inspect(ctx, &info);
  bool won_or_lost = info.kind != RCTX_KIND_DETACHED;
  rctx_cancel_cause(ctx, &cause_b);
  CHECK_EQUAL(look_whole(ctx) != 0, won_or_lost);
}

static void move_last(void) {
  int i = SHARED - 1;
  bool must = ended[i];
  int rc = rctx_move_deadline((rctx *)(uintptr_t)held[i], rctx_manager_now(manager) + SIM_MS / 2);
  if (must) CHECK(rc != 0);
  if (rc != 0) CHECK_EQUAL(look(held[i]), rc);
}

static void operate(struct thread *me) {
  int i = (int)sim_random(SHARED);
  rctx **slot = &me->slots[sim_random(SLOTS)];
  switch (sim_random(13)) {
  case 0:
  case 1:
  case 2:
    derive_into(slot, i);
    break;
  case 3:
    cancel_one(i);
    break;
  case 4:
    sweep_one(i);
    break;
  case 5:
  case 6:
    give_back(slot);
    break;
  case 7:
  case 8:
    watch_or_stop(me, i);
    break;
  case 9:
    if (rctx_wait(held[i], rctx_manager_now(manager) + SIM_MS / 4)) look_at(i);
    break;
  case 10:
    exchange(slot);
    cancel_own(*slot);
    break;
  case 11:
    move_last();
    break;
  default:
    look_at(i);
    if (sim_random(4) == 0) rctx_trim(manager);
    if (sim_random(4) == 0) CHECK(rctx_fd(held[i]) >= 0);
    give_back(&me->owned);
  }
}

static void work(void *arg) {
  struct thread *me = arg;
  for (int n = 0; n < OPERATIONS; n++) operate(me);
  if (me->registered) watch_or_stop(me, 0);
  for (int n = 0; n < SLOTS; n++) give_back(&me->slots[n]);
  give_back(&me->owned);
}

static void make_tree(void) {
  for (int i = 0; i < SHARED; i++) {
    const rctx *parent = parent_of[i] < 0 ? root() : shared[parent_of[i]];
    struct rctx_spec timed = {.timeout_ns = SIM_MS, .movable = true};
    shared[i] = i == SHARED - 1 ? rctx_derive(parent, &timed) : rctx_with_cancel(parent);
    held[i] = rctx_ref(shared[i]);
  }
}

void random_operations(void) {
  memset(threads, 0, sizeof threads);
  memset(seen, 0, sizeof seen);
  memset(wins, 0, sizeof wins);
  memset(ended, 0, sizeof ended);
  mailbox = NULL;
  open_manager((struct rctx_manager_options){0});
  make_tree();
  for (int t = 0; t < THREADS; t++) {
    threads[t].owned = shared[t + 1];
    sim_spawn(work, &threads[t]);
  }
  sim_join_all();
  give_back(&mailbox);
  cancel_one(0);
  for (int i = 0; i < SHARED; i++) rctx_unref(held[i]);
  rctx_end(shared[0]);
  rctx_end(shared[SHARED - 1]);
  close_manager();
}
