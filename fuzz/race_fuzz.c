// race_fuzz.c - two threads on one small tree, interleaved as the input says (turns.h), against what holds in every
// interleaving: the promises of the headers, [CTX-1] and [AFTER-1] and so on, and nothing left at the end.
//
// The first bytes derive the tree; then comes the schedule, then each thread's operations, two bytes each.
#include "turns.h"

#include <rctx/rctx.h>

#include "ought.h"
#include "replay.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SHARED = 5, CONTEXTS = 24, NODES = 16, CAUSES = 64, VALUES = CONTEXTS, SCHEDULE = 48, OPERATIONS = 40 };
enum { DEPTH_MAX = 2, HEADER = 64 };
#define MS INT64_C(1000000)
#define START (1000 * MS)

// A context and what is known of it, whatever the interleaving.
struct known {
  rctx *ctx;  // NULL: not derived yet, or nobody holds it any more
  int parent; // -1: the root
  bool detached, movable, idle;
  bool handle;      // not ended yet
  int owner;        // who may end it; -1: whoever is first
  bool held[2];     // a reference of each thread
  unsigned pins[2]; // operations of a thread that are using it
  bool cancelled;   // a cancel of it has returned
  int err;          // as first seen; 0: never seen ended
  const struct rctx_cause *cause;
  const struct rctx_cause *won; // of the one cancel that may win
  int wins;
  int64_t earliest_ns; // of all deadlines it ever had; INT64_MAX: none
  int64_t span_ns;     // its timeout; while ctx is NULL the core may be about to read the clock
  int values, destroyed;
};

struct node {
  struct rctx_after after;
  int ctx; // index; -1: free
  bool registered, taken_back, notice_wanted;
  bool known; // registering has returned: others may stop it
  int begun, returned, notices;
  uint8_t action[2];
};

static struct race {
  rctx_manager *manager;
  rctx_loop *loop;
  struct known known[CONTEXTS];
  int count;
  struct node nodes[NODES];
  int nodes_used;
  struct rctx_cause causes[CAUSES];
  bool cause_used[CAUSES];
  int cause_destroyed[CAUSES];
  int causes_used;
  int64_t clock_ns, latest_ns;
  bool advancing;
  unsigned fail_in;
  size_t pieces;
  const uint8_t *at[2], *end[2];
  int depth[2];
} * race;

static bool trace_on;
#define TELL(...) (trace_on ? (void)fprintf(stderr, __VA_ARGS__) : (void)0)

// ---- what the manager is given ------------------------------------------------------------------------------------------

static int64_t clock_now(void *arg) {
  (void)arg;
  return race->clock_ns;
}

static void *memory_alloc(void *self, size_t size, size_t align) {
  (void)self;
  if (race->fail_in > 0 && --race->fail_in == 0) return NULL;
  void *piece = aligned_alloc(align, (size + align - 1) / align * align);
  if (!piece) return NULL;
  memset(piece, 0xa5, size); // fresh memory is not zero
  race->pieces++;
  return piece;
}

static void memory_free(void *self, void *piece, size_t size) {
  (void)self;
  memset(piece, 0x5a, size);
  race->pieces--;
  free(piece);
}

static void destroy_value(void *value) {
  struct known *k = value;
  OUGHT(++k->destroyed <= k->values);
  OUGHT(!k->handle && !k->held[0] && !k->held[1]);
}

static void destroy_cause(const struct rctx_cause *cause) { race->cause_destroyed[cause - race->causes]++; }

// ---- what holds of every context, at any moment ---------------------------------------------------------------------------

static int look(struct known *k) {
  bool ended_before = k->err != 0; // the other thread may see an end while this one looks
  int err = rctx_err(k->ctx);
  if (!err) {
    OUGHT(!ended_before); // [CTX-2]
    return 0;
  }
  const struct rctx_cause *cause = rctx_cause(k->ctx);
  OUGHT(cause != NULL); // [CTX-6]
  if (k->err) OUGHT(k->err == err && k->cause == cause);
  if (err == -ETIMEDOUT) { // [CTX-7]
    struct rctx_why why;
    rctx_why(k->ctx, &why);
    struct known *from = k;
    for (unsigned up = why.levels_up; up > 0 && from->parent >= 0; up--) from = &race->known[from->parent];
    if (why.origin == RCTX_ORIGIN_DEADLINE || why.origin == RCTX_ORIGIN_PARENT_DEADLINE)
      OUGHT(from->earliest_ns <= race->latest_ns);
  }
  k->err = err;
  k->cause = cause;
  return err;
}

static bool usable(const struct known *k, int me) { return k->ctx != NULL && me >= 0 && k->held[me]; }

// A cancel of `top` has returned, or a callback of it runs: all below that anybody holds has ended. [CTX-1] [AFTER-3]
static void all_below_ended(int top) {
  for (int i = 0; i < race->count; i++) {
    struct known *k = &race->known[i];
    if (!k->ctx || !(k->held[0] || k->held[1])) continue;
    int at = i;
    while (at >= 0 && at != top && !race->known[at].detached) at = race->known[at].parent;
    if (at != top || race->known[at].detached) continue;
    OUGHT(rctx_err(k->ctx) != 0); // no yield in here: what only the other thread holds may be gone after one
    if (usable(k, turns_me())) look(k);
  }
}

static void forget_if_gone(struct known *k) {
  if (!k->handle && !k->held[0] && !k->held[1]) k->ctx = NULL;
}

// ---- operations -------------------------------------------------------------------------------------------------------------

static uint8_t take(int me) { return race->at[me] < race->end[me] ? *race->at[me]++ : 0; }

static int choose(int me, uint8_t b) {
  for (int i = 0; i < race->count; i++) {
    int at = (b + i) % race->count;
    if (usable(&race->known[at], me)) return at;
  }
  return -1;
}

static void operate(int me, uint8_t what, uint8_t whom);

static const struct rctx_cause *new_cause(int code) {
  if (race->causes_used == CAUSES) return NULL;
  struct rctx_cause *cause = &race->causes[race->causes_used++];
  *cause = (struct rctx_cause){code, RCTX_ORIGIN_PEER, "of a fuzzer", NULL, 0, NULL, destroy_cause};
  return cause;
}

static void do_cancel(int me, int i) {
  struct known *k = &race->known[i];
  const struct rctx_cause *cause = new_cause(-ECONNRESET);
  if (!cause) return;
  TELL("%d: cancel %d\n", me, i);
  k->pins[me]++;
  bool won = rctx_cancel_cause(k->ctx, cause);
  TELL("%d: cancel %d -> %d\n", me, i, won);
  race->cause_used[cause - race->causes] = won;
  if (won) {
    OUGHT(!k->detached && ++k->wins == 1);
    k->won = cause;
    OUGHT(rctx_err(k->ctx) == -ECONNRESET && rctx_cause(k->ctx) == cause);
  } else {
    OUGHT(k->detached || k->wins == 1 || look(k) != 0);
  }
  if (!k->detached) all_below_ended(i);
  k->pins[me]--;
}

static void do_end(int me, int i) {
  struct known *k = &race->known[i];
  if (!k->handle || (k->owner >= 0 && k->owner != me)) return;
  k->handle = false;
  TELL("%d: end %d\n", me, i);
  k->pins[me]++;
  rctx_end(k->ctx); // our reference keeps it readable
  if (!k->detached) all_below_ended(i);
  k->pins[me]--;
}

static void do_unref(int me, int i) {
  struct known *k = &race->known[i];
  if (k->pins[me] > 0) return;
  rctx *ctx = k->ctx;
  TELL("%d: unref %d\n", me, i);
  k->held[me] = false;
  forget_if_gone(k);
  rctx_unref(ctx);
}

static void do_share(int me, int i) {
  struct known *k = &race->known[i];
  if (k->held[1 - me]) return;
  rctx_ref(k->ctx);
  k->held[1 - me] = true;
}

static struct rctx_key value_key = {.name = "race"};

static void note_span(struct known *k, int64_t span) {
  k->span_ns = span;
  if (race->clock_ns + span < k->earliest_ns) k->earliest_ns = race->clock_ns + span;
}

static rctx *derive(const rctx *parent, struct known *k, uint8_t how) {
  static const int64_t spans[] = {MS, 3 * MS, 64 * MS, 5000 * MS};
  int64_t span = spans[how / 8 % 4];
  struct rctx_value value = {&value_key, k, destroy_value};
  struct rctx_spec spec = {.timeout_ns = span, .movable = true, .values = &value, .nvalues = 1};
  switch (how % 8) {
  case 1:
    note_span(k, span);
    return rctx_with_timeout(parent, span);
  case 2:
    k->values = 1;
    return rctx_with_values(parent, &value, 1);
  case 3:
    k->detached = true;
    return rctx_without_cancel(parent);
  case 4:
    k->values = 1;
    k->movable = true;
    note_span(k, span);
    return rctx_derive(parent, &spec);
  case 5:
    k->idle = true;
    note_span(k, span);
    return rctx_with_idle(parent, span);
  default:
    return rctx_with_cancel(parent);
  }
}

// Before the race: me is -1, and both threads get a reference.
static void do_derive(int me, int parent, uint8_t how) {
  if (race->count == CONTEXTS) return;
  int i = race->count++; // the place is ours: the other thread may derive meanwhile
  struct known *k = &race->known[i];
  *k = (struct known){.parent = parent, .earliest_ns = INT64_MAX, .owner = me};
  struct known *above = parent >= 0 ? &race->known[parent] : NULL;
  bool ended_before = above && rctx_err(above->ctx) != 0;
  if (above && me >= 0) above->pins[me]++;
  rctx *ctx = derive(above ? above->ctx : rctx_manager_background(race->manager), k, how);
  if (above && me >= 0) above->pins[me]--;
  TELL("%d: derive %d below %d how %d\n", me, i, parent, how % 8);
  if (rctx_err(ctx) == -ENOMEM) { // of no tree: nothing can be said of it
    OUGHT(k->destroyed == k->values);
    rctx_end(ctx);
    return;
  }
  k->handle = true;
  for (int t = 0; t < 2; t++) {
    k->held[t] = me < 0 || t == me;
    if (k->held[t]) rctx_ref(ctx);
  }
  k->ctx = ctx;
  if (ended_before && !k->detached) OUGHT(look(k) != 0); // [CTX-5]
  if (k->detached) OUGHT(look(k) == 0);
}

static void callback(const rctx *ctx, void *arg) {
  struct node *n = arg;
  struct known *k = &race->known[n->ctx];
  int me = turns_me();
  TELL("%d: callback of %d\n", me, n->ctx);
  OUGHT(n->registered && !n->taken_back && ++n->begun == 1); // [AFTER-1]
  OUGHT(rctx_err(ctx) != 0 && rctx_cause(ctx) != NULL);
  if (k->ctx == ctx) all_below_ended(n->ctx);
  if (me >= 0 && race->depth[me] < DEPTH_MAX) {
    race->depth[me]++;
    operate(me, n->action[0], n->action[1]);
    race->depth[me]--;
  }
  turns_yield();
  n->returned = 1;
}

static void do_register(int me, int i, uint8_t how) {
  if (race->nodes_used == NODES) return;
  struct node *n = &race->nodes[race->nodes_used++];
  struct known *k = &race->known[i];
  enum rctx_on_ended on_ended = (enum rctx_on_ended)(how % 3);
  *n = (struct node){.ctx = i, .registered = true, .action = {take(me), take(me)}};
  TELL("%d: register on %d\n", me, i);
  k->pins[me]++;
  race->depth[me]++; // it may run at once
  int got = how & 8 ? rctx_watch(k->ctx, &n->after, race->loop, on_ended, callback, n)
                    : rctx_after_inline(k->ctx, &n->after, on_ended, callback, n);
  race->depth[me]--;
  k->pins[me]--;
  n->known = true;
  OUGHT(got >= 0);
  if (k->detached || got == RCTX_NEVER) OUGHT(got == RCTX_NEVER && n->begun == 0);
  if (got == RCTX_ENDED) OUGHT(look(k) != 0);
  if (got == RCTX_ENDED && on_ended == RCTX_ON_ENDED_TELL) n->registered = false;
  if (got == RCTX_ENDED && on_ended == RCTX_ON_ENDED_RUN) OUGHT(n->returned);
}

static void noticed(void *arg) {
  struct node *n = arg;
  OUGHT(n->notice_wanted && n->returned && ++n->notices == 1);
}

static void do_stop(int me, uint8_t how) {
  if (race->nodes_used == 0) return;
  struct node *n = &race->nodes[how / 4 % race->nodes_used];
  bool stopped, quiet = false;
  if (!n->known) return;
  TELL("%d: stop (%d)\n", me, how % 4);
  if (how % 4 == 3 && !n->notice_wanted) {
    n->notice_wanted = true;
    stopped = rctx_after_stop_notify(&n->after, noticed, n, &quiet);
    if (quiet) n->notice_wanted = false; // none will come
    if (stopped) OUGHT(quiet);
  } else if (how % 4 == 2 && race->depth[me] == 0) {
    stopped = rctx_after_stop_sync(&n->after);
    OUGHT(n->begun == n->returned);
  } else {
    stopped = rctx_after_stop(&n->after);
  }
  if (!stopped) return;
  OUGHT(!n->taken_back && n->begun == 0);
  n->taken_back = true;
}

static void do_advance(int me, uint8_t how) {
  static const int64_t spans[] = {0, MS, 2 * MS, 10 * MS, 100 * MS, 10000 * MS, -5 * MS, INT64_C(1) << 50};
  if (race->advancing) return; // one at a time
  race->advancing = true;
  race->clock_ns += spans[how % 8];
  if (race->clock_ns > race->latest_ns) race->latest_ns = race->clock_ns;
  for (int i = 0; i < race->count; i++) {
    struct known *k = &race->known[i];
    if (k->ctx == NULL && k->span_ns > 0) note_span(k, k->span_ns);
  }
  TELL("%d: advance to %lld\n", me, (long long)race->clock_ns);
  race->depth[me]++;
  rctx_advance(race->manager, race->clock_ns, how & 8 ? 1 : 0);
  race->depth[me]--;
  race->advancing = false;
}

static void do_move(int i, uint8_t how) {
  static const int64_t spans[] = {1, 2 * MS, 50 * MS, INT64_MAX / 4};
  struct known *k = &race->known[i];
  if (!k->movable) {
    rctx_touch(k->ctx);
    return;
  }
  int64_t to = race->clock_ns + spans[how % 4];
  if (to < k->earliest_ns) k->earliest_ns = to;
  int err = rctx_move_deadline(k->ctx, to);
  if (err) OUGHT(look(k) == err);
}

static void do_fd(int i, uint8_t how) {
  struct known *k = &race->known[i];
  turns_no_descriptors = how & 1;
  int fd = rctx_fd(k->ctx);
  turns_no_descriptors = false;
  if (k->detached) OUGHT(fd == -ENOTSUP);
  if (fd < 0) {
    OUGHT(fd == -ENOTSUP || fd == -EMFILE || fd == -ENOMEM);
    return;
  }
  struct pollfd ready = {fd, POLLIN, 0};
  int n = poll(&ready, 1, 0);
  if (n == 1) OUGHT(look(k) != 0); // [CTX-4]
}

static void operate(int me, uint8_t what, uint8_t whom) {
  int i = choose(me, whom / 8);
  if (i < 0) return;
  switch (what % 16) {
  case 0:
  case 1:
    do_cancel(me, i);
    break;
  case 2:
  case 3:
    do_end(me, i);
    break;
  case 4:
    do_unref(me, i);
    break;
  case 5:
  case 6:
    do_derive(me, i, take(me));
    break;
  case 7:
  case 8:
    if (race->depth[me] == 0) do_register(me, i, what / 16);
    break;
  case 9:
  case 10:
    do_stop(me, whom);
    break;
  case 11:
    if (me == 0) rctx_loop_drain(race->loop, whom % 4 ? 100 : 1);
    break;
  case 12:
    if (race->depth[me] == 0) do_advance(me, whom);
    break;
  case 13:
    do_move(i, whom);
    break;
  case 14:
    do_fd(i, whom);
    break;
  default:
    if (whom % 4 == 0) race->fail_in = 1 + whom / 4 % 4;
    if (whom % 4 == 1) do_share(me, i);
    look(&race->known[i]);
  }
}

static void body(int me, void *arg) {
  (void)arg;
  for (int n = 0; n < OPERATIONS && race->at[me] < race->end[me]; n++) {
    uint8_t what = take(me);
    operate(me, what, take(me));
    turns_yield();
  }
}

// ---- a run --------------------------------------------------------------------------------------------------------------------

static void open_run(struct race *r) {
  memset(r, 0, sizeof *r);
  race = r;
  r->clock_ns = r->latest_ns = START;
  struct rctx_manager_options options = {
      .drive = RCTX_DRIVE_EMBEDDER, .now = clock_now, .allocator = {memory_alloc, memory_free, NULL}, .uncached = true};
  OUGHT(rctx_manager_create(&options, &r->manager) == 0);
  OUGHT(rctx_loop_create(&r->loop) == 0);
}

static void end_everything(struct race *r) {
  r->fail_in = 0;
  for (int i = 0; i < r->count; i++) {
    struct known *k = &r->known[i];
    if (!k->ctx) continue;
    look(k);
    rctx *ctx = k->ctx;
    bool handle = k->handle;
    unsigned held = (unsigned)k->held[0] + k->held[1];
    k->handle = k->held[0] = k->held[1] = false;
    if (held > 0 && handle) rctx_end(ctx);
    if (held == 0 && handle) rctx_end(ctx);
    for (; held > 0; held--) rctx_unref(ctx);
  }
  rctx_loop_drain(r->loop, SIZE_MAX);
  rctx_loop_destroy(r->loop);
}

static void close_run(struct race *r) {
  struct rctx_stats stats;
  end_everything(r);
  for (int i = 0; i < r->nodes_used; i++) {
    struct node *n = &r->nodes[i];
    if (rctx_after_stop(&n->after)) {
      OUGHT(n->begun == 0 && !n->taken_back);
      n->taken_back = true;
    }
    if (n->registered) OUGHT(n->begun + n->taken_back == 1 && n->begun == n->returned); // [AFTER-1]
    OUGHT(n->notices == (n->notice_wanted && n->begun));
  }
  OUGHT(rctx_quiesce(r->manager, INT64_MAX) == 0);
  rctx_stats(r->manager, &stats);
  OUGHT(stats.contexts == 0 && stats.timers == 0 && stats.deferred == 0 && stats.callbacks == 0);
  for (int i = 0; i < r->count; i++) OUGHT(r->known[i].destroyed == r->known[i].values);
  for (int i = 0; i < r->causes_used; i++) OUGHT(r->cause_destroyed[i] == r->cause_used[i]);
  OUGHT(rctx_manager_destroy(r->manager) == 0);
  OUGHT(r->pieces == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static struct race state;
  if (size < 8) return 0;
  trace_on = getenv("RCTX_RACE_TRACE") != NULL;
  open_run(&state);
  int shared = 1 + data[0] % SHARED;
  for (int i = 0; i < shared; i++) do_derive(-1, i == 0 ? -1 : (data[0] >> 4) % i, data[1 + i]);
  const uint8_t *rest = data + 1 + SHARED;
  size_t left = size - 1 - SHARED, schedule = rest[0] % SCHEDULE;
  if (schedule > left - 1) schedule = left - 1;
  size_t operations = left - 1 - schedule;
  state.at[0] = rest + 1 + schedule;
  state.end[0] = state.at[1] = state.at[0] + operations / 4 * 2;
  state.end[1] = state.at[0] + operations;
  turns_run(body, NULL, rest + 1, schedule);
  close_run(&state);
  return 0;
}
