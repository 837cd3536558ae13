/*
 * google/nsync's nsync_note: a tree of things that are notified once, with deadlines. A deadline has no timer: a note finds out
 * that its time is over when somebody looks at it or waits for it, so nothing expires by itself (no expire_100k).
 */
#include "cases.h"
#include "wake.h"

#include <nsync.h>
#include <stdlib.h>

#define HOUR (3600 * BENCH_SECOND)

static nsync_note derive(nsync_note parent) { return nsync_note_new(parent, nsync_time_no_deadline); }

/* nsync has no relative deadlines: its users add to its clock. */
static nsync_note derive_timeout(nsync_note parent, int64_t timeout_ns) {
  nsync_time timeout = nsync_time_s_ns((time_t)(timeout_ns / BENCH_SECOND), (unsigned)(timeout_ns % BENCH_SECOND));
  return nsync_note_new(parent, nsync_time_add(nsync_time_now(), timeout));
}

/* ---- trees and chains (a chain is a tree of width 1) --------------------------------------------------------------- */

struct tree {
  size_t roots, nodes, width;
  nsync_note node[]; /* numbered breadth first; the first `roots` are cancelled */
};

static void *open_tree_of(size_t roots, size_t width, size_t below) {
  struct tree *tree = bench_memory(1, sizeof *tree + (roots + below) * sizeof(nsync_note));
  tree->roots = roots;
  tree->nodes = roots + below;
  tree->width = width;
  return tree;
}

static void grow(void *fixture) {
  struct tree *tree = fixture;
  for (size_t i = 0; i < tree->roots; i++) {
    tree->node[i] = derive(NULL);
  }
  for (size_t i = tree->roots; i < tree->nodes; i++) {
    tree->node[i] = derive(tree->node[(i - tree->roots) / tree->width]);
  }
}

static void cancel(void *fixture, size_t ops) {
  struct tree *tree = fixture;
  (void)ops;
  for (size_t i = 0; i < tree->roots; i++) {
    nsync_note_notify(tree->node[i]);
  }
}

static void fell(void *fixture) {
  struct tree *tree = fixture;
  for (size_t i = tree->nodes; i-- > 0;) {
    nsync_note_free(tree->node[i]);
  }
}

static void *open_fanout(const struct bench_case *self) {
  return open_tree_of(self->batch / self->size, self->size, self->batch);
}

static void *open_tree(const struct bench_case *self) { return open_tree_of(1, self->size, self->batch); }

static void *open_chain(const struct bench_case *self) {
  struct tree *chain = open_tree_of(1, 1, self->size - 1);
  grow(chain);
  return chain;
}

static void *open_canceled(const struct bench_case *self) {
  struct tree *chain = open_chain(self);
  cancel(chain, 1);
  return chain;
}

static void close_chain(void *fixture) {
  fell(fixture);
  free(fixture);
}

static void poll_last(void *fixture, size_t ops) {
  const struct tree *chain = fixture;
  nsync_note note = chain->node[chain->nodes - 1];
  for (size_t i = 0; i < ops; i++) {
    bench_keep_int(nsync_note_is_notified(note));
  }
}

/* ---- derive_*, request_lifecycle --------------------------------------------------------------------------------- */

static void *open_server(const struct bench_case *self) {
  struct tree *server = open_tree_of(1, self->size + 1, self->size);
  grow(server);
  return server;
}

static nsync_note server_of(const void *fixture) { return ((const struct tree *)fixture)->node[0]; }

static void derive_cancel(void *fixture, size_t ops) {
  for (size_t i = 0; i < ops; i++) {
    nsync_note note = derive(server_of(fixture));
    nsync_note_notify(note);
    nsync_note_free(note);
  }
}

static void derive_background(void *fixture, size_t ops) {
  (void)fixture;
  for (size_t i = 0; i < ops; i++) {
    nsync_note note = derive(NULL);
    nsync_note_notify(note);
    nsync_note_free(note);
  }
}

static void derive_hour(void *fixture, size_t ops) {
  for (size_t i = 0; i < ops; i++) {
    nsync_note note = derive_timeout(server_of(fixture), HOUR);
    nsync_note_notify(note);
    nsync_note_free(note);
  }
}

/* Without the values, the lookups, and therefore without their contexts. */
static void request_lifecycle(void *fixture, size_t ops) {
  for (size_t i = 0; i < ops; i++) {
    nsync_note request = derive(server_of(fixture));
    nsync_note limited = derive_timeout(request, 30 * BENCH_SECOND);
    nsync_note first = derive(limited);
    nsync_note second = derive(limited);
    bench_keep_int(nsync_note_is_notified(first));
    bench_keep_int(nsync_note_is_notified(second));
    nsync_note_free(second);
    nsync_note_free(first);
    nsync_note_free(limited);
    nsync_note_free(request);
  }
}

/* ---- many deadlines ---------------------------------------------------------------------------------------------- */

struct many {
  nsync_note server;
  size_t count;
  nsync_note *note;
  uint32_t *order;
  uint64_t random;
};

static void *open_many(const struct bench_case *self) {
  struct many *m = bench_memory(1, sizeof *m);
  m->count = self->size;
  m->note = bench_memory(m->count, sizeof(nsync_note));
  m->order = bench_shuffled(m->count);
  m->random = 2463534242U;
  m->server = derive(NULL);
  return m;
}

static void close_many(void *fixture) {
  struct many *m = fixture;
  nsync_note_free(m->server);
  free(m->order);
  free(m->note);
  free(m);
}

static void arm(struct many *m, int64_t from_s) {
  for (size_t i = 0; i < m->count; i++) {
    m->note[i] = derive_timeout(m->server, bench_random_timeout(&m->random, from_s));
  }
}

static void arm_all(void *fixture, size_t ops) {
  (void)ops;
  arm(fixture, 1);
}

static void prepare_all(void *fixture) { arm_all(fixture, 0); }

static void end_all(void *fixture, size_t ops) {
  struct many *m = fixture;
  (void)ops;
  for (size_t i = 0; i < m->count; i++) {
    nsync_note_free(m->note[m->order[i]]);
  }
}

static void cleanup_all(void *fixture) { end_all(fixture, 0); }

static void *open_churn(const struct bench_case *self) {
  struct many *m = open_many(self);
  arm(m, 60);
  return m;
}

static void churn(void *fixture, size_t ops) {
  struct many *m = fixture;
  for (size_t i = 0; i < ops; i++) {
    nsync_note *any = &m->note[(bench_random(&m->random) >> 20) % m->count];
    nsync_note_free(*any);
    *any = derive_timeout(m->server, bench_random_timeout(&m->random, 60));
  }
}

static void close_churn(void *fixture) {
  cleanup_all(fixture);
  close_many(fixture);
}

/* ---- a blocked thread, a million alive --------------------------------------------------------------------------- */

static void *make_wake(void) { return derive(NULL); }
static void wait_wake(void *note) { nsync_note_wait(note, nsync_time_no_deadline); }
static void cancel_wake(void *note) { nsync_note_notify(note); }
static void end_wake(void *note) { nsync_note_free(note); }

static void *open_sleeper(const struct bench_case *self) {
  (void)self;
  static const struct bench_wake wake = {make_wake, wait_wake, cancel_wake, end_wake};
  return bench_wake_open(&wake);
}

static nsync_note resident_server;

static void open_resident(bool timeout) {
  (void)timeout;
  resident_server = derive(NULL);
}

static void *make_resident(bool timeout, size_t i) {
  return timeout ? derive_timeout(resident_server, (60 + (int64_t)i % 3600) * BENCH_SECOND) : derive(resident_server);
}

static void end_resident(void *note) { nsync_note_free(note); }

static const struct bench_resident resident = {open_resident, make_resident, end_resident};

/* ---- tables ------------------------------------------------------------------------------------------------------ */

#define POLL(name_, open_, size_, pair_)                                                                               \
  { .name = name_, .open = open_, .run = poll_last, .close = close_chain, .size = size_, .pair = pair_ }
#define SERVER(name_, run_, ...)                                                                                       \
  { .name = name_, .open = open_server, .run = run_, .close = close_chain, __VA_ARGS__ }
#define TREE(name_, open_, size_, batch_)                                                                              \
  {                                                                                                                    \
    .name = name_, .open = open_, .prepare = grow, .run = cancel, .cleanup = fell, .close = free, .size = size_,       \
    .batch = batch_                                                                                                    \
  }
#define CHURN(name_, size_)                                                                                            \
  { .name = name_, .open = open_churn, .run = churn, .close = close_churn, .size = size_ }

static const struct bench_case cases[] = {
    POLL("err_poll_live", open_chain, 1, false),
    POLL("err_poll_depth16", open_chain, 16, false),
    POLL("err_poll_canceled", open_canceled, 1, false),
    POLL("err_poll_live_2threads", open_chain, 1, true),
    POLL("err_poll_depth16_2threads", open_chain, 16, true),
    POLL("err_poll_canceled_2threads", open_canceled, 1, true),
    SERVER("derive_cancel", derive_cancel, .size = 0),
    SERVER("derive_cancel_100k_siblings", derive_cancel, .size = 100000),
    SERVER("derive_cancel_2threads", derive_cancel, .pair = true),
    SERVER("derive_background", derive_background, .size = 0),
    SERVER("derive_timeout", derive_hour, .size = 0),
    SERVER("derive_timeout_2threads", derive_hour, .pair = true),
    TREE("cancel_fanout_10", open_fanout, 10, 1000),
    TREE("cancel_fanout_1000", open_fanout, 1000, 1000),
    TREE("cancel_fanout_100000", open_fanout, 100000, 100000),
    TREE("cancel_chain_1000", open_tree, 1, 1000),
    TREE("cancel_tree_10x10x10x10", open_tree, 10, 11110),
    {.name = "cancel_to_wake",
     .open = open_sleeper,
     .measure = bench_wake_measure,
     .close = bench_wake_close,
     .batch = BENCH_WAKES,
     .extra = {"kernel_ns"}},
    {.name = "timers_1m_arm",
     .open = open_many,
     .run = arm_all,
     .cleanup = cleanup_all,
     .close = close_many,
     .size = 1000000,
     .batch = 1000000},
    {.name = "timers_1m_cancel",
     .open = open_many,
     .prepare = prepare_all,
     .run = end_all,
     .close = close_many,
     .size = 1000000,
     .batch = 1000000},
    CHURN("timer_churn_1k", 1000),
    CHURN("timer_churn_100k", 100000),
    CHURN("timer_churn_1m", 1000000),
    SERVER("request_lifecycle", request_lifecycle, .size = 0),
    SERVER("request_lifecycle_2threads", request_lifecycle, .pair = true),
    {.name = NULL},
};

/* The library can not be asked: CMakeLists.txt asks Debian's package list. */
static const char *version(void) { return NSYNC_VERSION; }

static const struct bench_case *const tables[] = {cases, bench_resident_cancel_cases, bench_resident_timeout_cases,
                                                  NULL};

const struct bench_program bench_program = {
    .name = "nsync",
    .version = version,
    .blind = "no values, callbacks, reasons; nothing expires by itself; request_lifecycle is without values",
    .tables = tables,
    .resident = &resident,
};
