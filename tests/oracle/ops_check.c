// ops_check.c - the comparison: all that rctx shows of its state against what the oracle says.
#include "oracle/ops_run.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>

bool ops_readable(int fd) {
  struct pollfd ready = {fd, POLLIN, 0};
  int n;
  while ((n = poll(&ready, 1, 0)) < 0 && errno == EINTR) { // fuzzers use an alarm
  }
  return n == 1;
}

static void check_why(struct ops *s, struct oracle_node *n) {
  struct rctx_why got, expected;
  int err = rctx_why(n->real, &got);
  SAME("rctx_why", err, oracle_why(n, &expected));
  const struct rctx_cause *cause = rctx_cause(n->real);
  if (!err) {
    OUGHT("no cause while live", cause == NULL);
    return;
  }
  SAME("why.err", got.err, expected.err);
  SAME("why.origin", got.origin, expected.origin);
  SAME("why.levels_up", got.levels_up, expected.levels_up);
  OUGHT("why.name", got.name == expected.name);
  OUGHT("error and cause are one", cause != NULL && got.cause == cause);
  if (n->start->end.cause == NULL) { // the library's own: a record that says the same, and stays the same
    SAME("own cause's code", cause->code, n->start->end.err);
    SAME("own cause's origin", cause->origin, n->start->end.origin);
    n->start->end.cause = cause;
  }
  OUGHT("the cause that went in comes back", cause == n->start->end.cause);
}

void ops_check_node(struct ops *s, struct oracle_node *n) {
  const rctx *ctx = n->real;
  SAME("rctx_err", rctx_err(ctx), oracle_err(n));
  check_why(s, n);
  int64_t got = 0, expected = 0;
  bool has = rctx_deadline(ctx, &got);
  SAME("rctx_deadline", has, oracle_deadline(n, &expected));
  if (has) SAME("deadline", got, expected);
  SAME("rctx_remaining_at", rctx_remaining_at(ctx, s->clock_ns), oracle_remaining_at(n, s->clock_ns));
}

struct visible {
  struct ops *s;
  struct oracle_binding expected[ORACLE_KEYS];
  size_t count, seen;
};

static bool see_value(const struct rctx_key *key, void *value, void *arg) {
  struct visible *v = arg;
  struct ops *s = v->s;
  OUGHT("rctx_each_value: no more than are visible", v->seen < v->count);
  const struct oracle_binding *expected = &v->expected[v->seen++];
  OUGHT("rctx_each_value: nearest first", key == &ops_keys[expected->key] && value == expected->value);
  return true;
}

static void check_values(struct ops *s, struct oracle_node *n) {
  for (int k = 0; k < ORACLE_KEYS; k++) {
    void *got = NULL, *expected = NULL;
    bool found = rctx_get(n->real, &ops_keys[k], &got);
    SAME("rctx_get", found, oracle_get(n, k, &expected));
    OUGHT("the value bound", got == expected);
  }
  struct visible v = {.s = s};
  v.count = oracle_visible(n, v.expected);
  SAME("rctx_each_value", rctx_each_value(n->real, see_value, &v), v.count);
  SAME("values seen", v.seen, v.count);
}

static void check_info(struct ops *s, const struct oracle_node *n) {
  struct rctx_info info;
  rctx_inspect(n->real, &info);
  OUGHT("info.parent", info.parent == (n->parent ? n->parent->real : NULL));
  SAME("info.kind", info.kind, n->kind);
  SAME("info.children", info.children, oracle_children(&s->oracle, n));
  if (!n->start) SAME("info.registrations", info.registrations, oracle_registrations(&s->oracle, n));
  SAME("info.timer_armed", info.timer_armed, oracle_armed(n));
  SAME("info.has_fd", info.has_fd, n->has_fd);
  SAME("info.references", info.references, oracle_references(&s->oracle, n));
}

// The format is for people; what can be said of it: snprintf's rules, the root first, a step for each level.
static void check_description(struct ops *s, const struct oracle_node *n) {
  char text[8192], cut[8192];
  size_t length = rctx_describe(n->real, text, sizeof text);
  OUGHT("rctx_describe fits", length < sizeof text && strlen(text) == length);
  size_t size = length / 2 + 1;
  memset(cut, 'X', sizeof cut);
  SAME("rctx_describe, cut", rctx_describe(n->real, cut, size), length);
  OUGHT("cut at the size given", strlen(cut) == size - 1 && memcmp(cut, text, size - 1) == 0 && cut[size] == 'X');
  const char *root = n->foreign ? "context.Error" : "context.Background";
  OUGHT("the root first", strncmp(text, root, strlen(root)) == 0);
}

void ops_check_node_deeply(struct ops *s, struct oracle_node *n) {
  ops_check_node(s, n);
  check_values(s, n);
  SAME("rctx_wait, just looking", rctx_wait(n->real, INT64_MIN), oracle_err(n));
  OUGHT("rctx_name", rctx_name(n->real) == n->name);
  if (n->no_memory) return;
  check_info(s, n);
  check_description(s, n);
  const unsigned char *noted = s->noted[n->id];
  if (noted) OUGHT("memory of rctx_alloc() is left alone", noted[0] == (n->id & 0xff) && noted[7] == (n->id & 0xff));
}

// Destructors: never before the oracle says so; and all that it says, unless something still waits for a grace period.
static void check_destroyed(struct ops *s, bool all) {
  for (int i = 1; i < s->oracle.nnodes; i++) {
    const struct oracle_node *n = &s->oracle.nodes[i];
    for (size_t b = 0; b < n->nown; b++) {
      const int *destroyed = n->own[b].destroyed;
      if (!destroyed) continue;
      if (!n->gone) SAME("a value's destructor, too early", *destroyed, 0);
      if (n->gone && (all || *destroyed > 1)) SAME("a value's destructor, once", *destroyed, 1);
    }
    const struct rctx_cause *causes[] = {n->taken, n->deadline_cause};
    for (int c = 0; c < 2; c++) {
      if (!causes[c] || !causes[c]->destroy) continue;
      const struct ops_cause *cause = (const struct ops_cause *)(const void *)causes[c];
      if (!n->gone) SAME("a cause's destructor, too early", cause->destroyed, 0);
      if (n->gone && (all || cause->destroyed > 1)) SAME("a cause's destructor, once", cause->destroyed, 1);
    }
  }
}

static void check_loops(struct ops *s) {
  for (int i = 0; i < OPS_LOOPS; i++) {
    if (s->oracle.loop_gone[i] || oracle_queued(&s->oracle, i) == 0) continue;
    OUGHT("a loop's fd is readable while callbacks are queued", ops_readable(rctx_loop_fd(s->loops[i])));
  }
}

void ops_check(struct ops *s, struct oracle_node *touched) {
  struct oracle *o = &s->oracle;
  const struct oracle_reg *overdue = oracle_overdue(o, o->depth);
  if (overdue) ops_differ(s, "a callback should have begun or been handed over", "r%d", (int)(overdue - o->regs));
  oracle_settle(o);
  if (o->depth > 0) return; // inside a callback: the operation outside has not finished
  struct rctx_stats stats;
  rctx_stats(s->manager, &stats);
  size_t contexts = oracle_collect(o);
  check_destroyed(s, stats.deferred == 0);
  if (stats.deferred == 0) SAME("stats.contexts", stats.contexts, contexts);
  SAME("stats.timers", stats.timers, oracle_timers(o));
  SAME("stats.threads", stats.threads, 0);
  for (int i = 1; i < o->nnodes; i++) {
    if (ops_held(&o->nodes[i])) ops_check_node(s, &o->nodes[i]);
  }
  if (touched && ops_held(touched)) ops_check_node_deeply(s, touched);
  struct oracle_node *turn = &o->nodes[s->count % (size_t)o->nnodes];
  if (ops_held(turn)) ops_check_node_deeply(s, turn);
  check_loops(s);
}
