// timers_fuzz.c - deadlines near, far and in the past, that move, go idle and are cancelled in callbacks, on a clock that jumps: a
// manager driven by its embedder against a plain array of times.
//
// Each operation takes a byte for what, one for whom, and one or two for when. The model's promise is [CTX-7]: never early;
// and what is due when rctx_advance() without a budget returns has ended.
#include "ought.h"
#include "replay.h"

#include <rctx/rctx.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TIMERS = 24, OPERATIONS_MAX = 200 };
#define MS INT64_C(1000000)

struct timer {
  rctx *ctx; // NULL: none
  int parent;
  bool has_deadline, movable, idle;
  bool ended; // by hand
  int64_t deadline_ns, idle_ns, touched_until_ns;
  struct rctx_after after;
  bool watched;
  int begun;
  uint8_t what, whom; // its callback cancels or moves another
};

static struct state {
  rctx_manager *manager;
  struct timer timers[TIMERS];
  int64_t clock_ns, told_ns; // the clock; and the latest that rctx_advance() was told, or the clock showed
  const uint8_t *at, *end;
  bool advancing;
} s;

static bool trace_on; // RCTX_TIMERS_TRACE is set
#define TELL(...) (trace_on ? (void)fprintf(stderr, __VA_ARGS__) : (void)0)

static int64_t clock_now(void *arg) {
  (void)arg;
  return s.clock_ns;
}

static uint8_t take(void) { return s.at < s.end ? *s.at++ : 0; }

static int64_t sum(int64_t a, int64_t b) {
  int64_t c;
  if (!__builtin_add_overflow(a, b, &c)) return c;
  return b > 0 ? INT64_MAX : INT64_MIN;
}

// Around powers of two of milliseconds, where the wheel's digits carry; finer; and both ends of time.
static int64_t take_span(void) {
  uint8_t b = take();
  if (b < 128) return (INT64_C(1) << (b % 44)) * MS + (b / 44 - 1) * MS;
  if (b < 192) return (b - 160) * MS / 2 + take();
  if (b < 250) return -(INT64_C(1) << (b % 44)) * MS;
  return b & 1 ? INT64_MAX : INT64_MIN;
}

// ---- the model --------------------------------------------------------------------------------------------------------------

static int64_t own_deadline(const struct timer *t) {
  if (!t->has_deadline) return INT64_MAX;
  return t->idle && t->touched_until_ns > t->deadline_ns ? t->touched_until_ns : t->deadline_ns;
}

static int64_t effective(const struct timer *t) {
  int64_t first = own_deadline(t);
  for (int up = t->parent; up >= 0; up = s.timers[up].parent) {
    if (own_deadline(&s.timers[up]) < first) first = own_deadline(&s.timers[up]);
  }
  return first;
}

static bool ended_by_hand(const struct timer *t) {
  for (; !t->ended; t = &s.timers[t->parent]) {
    if (t->parent < 0) return false;
  }
  return true;
}

// Deadlines round up to ticks, the clock rounds down.
static bool is_due(int64_t deadline_ns, int64_t at_ns) {
  if (deadline_ns == INT64_MAX) return false;
  if (deadline_ns <= 0) return true;
  int64_t tick = deadline_ns / MS + (deadline_ns % MS != 0);
  return at_ns > 0 && tick <= at_ns / MS;
}

static void check_one(const struct timer *t) {
  int err = rctx_err(t->ctx);
  int64_t shown = INT64_MAX;
  if (ended_by_hand(t)) OUGHT(err != 0);
  if (err && !ended_by_hand(t)) OUGHT(effective(t) <= s.told_ns); // never early
  if (err) return;
  bool has = rctx_deadline(t->ctx, &shown);
  OUGHT(shown == effective(t) || (has && shown == INT64_MAX));
}

static void check_all(void) {
  for (int i = 0; i < TIMERS; i++) {
    if (s.timers[i].ctx) check_one(&s.timers[i]);
  }
}

// ---- operations -------------------------------------------------------------------------------------------------------------

static void operate(uint8_t what, uint8_t whom);

static void callback(const rctx *ctx, void *arg) {
  struct timer *t = arg;
  OUGHT(ctx == t->ctx && rctx_err(ctx) != 0 && ++t->begun == 1);
  check_one(t);
  operate(t->what, t->whom);
}

static void derive(struct timer *t, uint8_t how, int parent) {
  int64_t span = take_span();
  *t = (struct timer){.parent = parent, .has_deadline = true, .what = take(), .whom = take()};
  const rctx *above = parent >= 0 ? s.timers[parent].ctx : rctx_manager_background(s.manager);
  t->deadline_ns = sum(s.clock_ns, span);
  t->touched_until_ns = INT64_MIN;
  if (how % 4 == 0) {
    t->ctx = rctx_with_deadline(above, t->deadline_ns);
  } else if (how % 4 == 1) {
    t->movable = true;
    if (t->deadline_ns == 0) t->deadline_ns = 1; // 0 is none in a spec
    t->ctx = rctx_derive(above, &(struct rctx_spec){.movable = true, .deadline_ns = t->deadline_ns});
  } else if (how % 4 == 2 && span > 0) {
    t->movable = t->idle = true;
    t->idle_ns = span;
    t->ctx = rctx_with_idle(above, span);
  } else {
    t->ctx = rctx_with_timeout(above, span);
  }
  TELL("derive %d below %d how %d: %lld\n", (int)(t - s.timers), parent, how % 4, (long long)t->deadline_ns);
  bool counts = parent < 0 || effective(&s.timers[parent]) >= t->deadline_ns; // else the parent's, which may be overdue
  if (counts && t->deadline_ns <= s.clock_ns && t->deadline_ns != INT64_MAX) OUGHT(rctx_err(t->ctx) != 0);
  t->watched = rctx_after_inline(t->ctx, &t->after, RCTX_ON_ENDED_TELL, callback, t) == RCTX_REGISTERED;
}

static void end(struct timer *t) {
  int at = (int)(t - s.timers);
  for (int i = 0; i < TIMERS; i++) {
    if (s.timers[i].ctx && s.timers[i].parent == at) end(&s.timers[i]);
  }
  if (!t->ctx) return; // a callback was first
  rctx *ctx = t->ctx;
  bool stopped = t->watched && rctx_after_stop(&t->after);
  if (t->watched) OUGHT(stopped == (t->begun == 0));
  t->ctx = NULL;
  rctx_end(ctx);
}

static void move(struct timer *t) {
  int64_t to_ns = sum(s.clock_ns, take_span());
  int before = rctx_err(t->ctx);
  if (!t->movable) return;
  rctx *ctx = t->ctx;
  int64_t old_ns = own_deadline(t), old_touched_ns = t->touched_until_ns;
  if (!before &&
      to_ns < old_ns) { // callbacks of the call see the new time; of a later one that comes too late, the old
    t->deadline_ns = to_ns;
    t->touched_until_ns = INT64_MIN;
  }
  int err = rctx_move_deadline(ctx, to_ns);
  TELL("move %d to %lld -> %d\n", (int)(t - s.timers), (long long)to_ns, err);
  if (to_ns <= s.clock_ns && to_ns != INT64_MAX) OUGHT(err != 0);
  if (before) OUGHT(err == before);
  if (err && !before && t->ctx == ctx && to_ns > s.told_ns) { // the old one was just coming due: it stays
    t->deadline_ns = old_ns;
    t->touched_until_ns = old_touched_ns;
  }
  if (!err) {
    t->deadline_ns = to_ns;
    t->touched_until_ns = INT64_MIN;
  }
}

static void touch(struct timer *t) {
  if (is_due(own_deadline(t), s.told_ns)) return; // too late or just in time: nothing is promised
  if (t->idle && rctx_err(t->ctx) == 0) {
    int64_t until_ns = sum(s.clock_ns, t->idle_ns);
    if (until_ns > t->touched_until_ns) t->touched_until_ns = until_ns;
  }
  TELL("touch %d\n", (int)(t - s.timers));
  rctx_touch(t->ctx);
}

static void advance(uint8_t how) {
  int64_t to_ns = sum(s.clock_ns, take_span());
  if (s.advancing) return;
  if (how % 8 == 7) to_ns = INT64_MAX - how;
  s.advancing = true;
  s.clock_ns = to_ns;
  if (to_ns > s.told_ns) s.told_ns = to_ns;
  size_t budget = how % 4 == 3 ? 1 + how / 64 : 0;
  TELL("advance to %lld, budget %zu\n", (long long)to_ns, budget);
  size_t done = rctx_advance(s.manager, to_ns, budget);
  s.advancing = false;
  for (int i = 0; i < TIMERS && (budget == 0 || done < budget); i++) {
    struct timer *t = &s.timers[i];
    if (t->ctx && is_due(effective(t), to_ns) && to_ns == s.told_ns) OUGHT(rctx_err(t->ctx) != 0);
  }
}

static void next(void) {
  int64_t next_ns = rctx_next(s.manager, s.clock_ns);
  TELL("next -> %lld\n", (long long)next_ns);
  for (int i = 0; i < TIMERS && !s.advancing; i++) { // else: some are just being ended
    const struct timer *t = &s.timers[i];
    if (!t->ctx || rctx_err(t->ctx) || effective(t) == INT64_MAX) continue;
    OUGHT(next_ns <= 0 || next_ns / MS <= effective(t) / MS + 1);
  }
}

static void operate(uint8_t what, uint8_t whom) {
  struct timer *t = &s.timers[whom % TIMERS];
  if (what % 8 == 0) {
    advance(what / 8 + whom);
  } else if (what % 8 == 1) {
    next();
  } else if (!t->ctx) {
    int parent = whom / TIMERS - 1; // an older one, or the root
    bool below = parent >= 0 && parent < (int)(t - s.timers) && s.timers[parent].ctx;
    if (!t->watched || t->begun > 0 || !s.advancing) derive(t, what / 8, below ? parent : -1);
  } else if (what % 8 < 4) {
    move(t);
  } else if (what % 8 == 4) {
    touch(t);
  } else if (what % 8 == 5) {
    t->ended = true;
    TELL("cancel %d\n", (int)(t - s.timers));
    rctx_cancel(t->ctx);
  } else if (what % 8 == 6 && !s.advancing) {
    end(t);
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  struct rctx_stats stats;
  trace_on = getenv("RCTX_TIMERS_TRACE") != NULL;
  memset(&s, 0, sizeof s);
  s.at = data;
  s.end = data + size;
  uint8_t epoch = take();
  s.clock_ns = s.told_ns = (INT64_C(1) << (epoch % 63)) - epoch / 64;
  struct rctx_manager_options options = {.drive = RCTX_DRIVE_EMBEDDER, .now = clock_now, .uncached = true};
  OUGHT(rctx_manager_create(&options, &s.manager) == 0);
  for (int n = 0; n < OPERATIONS_MAX && s.at < s.end; n++) {
    uint8_t what = take();
    operate(what, take());
    check_all();
  }
  s.advancing = true; // no more operations of callbacks but cancels and moves
  for (int i = 0; i < TIMERS; i++) {
    if (s.timers[i].ctx) end(&s.timers[i]);
  }
  OUGHT(rctx_quiesce(s.manager, INT64_MAX) == 0);
  rctx_stats(s.manager, &stats);
  OUGHT(stats.contexts == 0 && stats.timers == 0);
  OUGHT(rctx_manager_destroy(s.manager) == 0);
  return 0;
}
