// oracle.c - see oracle.h. Plain on purpose: no recursion, no cache, no list; every question is a walk.
#include "oracle/oracle.h"

#include <string.h>

enum { ERRNO_MAX = 4095 };

void oracle_init(struct oracle *o, int64_t tick_ns) {
  memset(o, 0, sizeof *o);
  o->tick_ns = tick_ns;
  o->nodes[0] = (struct oracle_node){.kind = RCTX_KIND_ROOT, .handle = true};
  o->nnodes = 1;
}

static int code_of(const struct rctx_cause *cause, int otherwise) {
  return cause && cause->code < 0 && cause->code >= -ERRNO_MAX ? cause->code : otherwise;
}

bool oracle_can_end(const struct oracle_node *n) { return n->kind != RCTX_KIND_ROOT && n->kind != RCTX_KIND_DETACHED; }

// ---- ending ----------------------------------------------------------------------------------------------------------

static void regs_come_due(struct oracle *o, const struct oracle_node *n) {
  for (int i = 0; i < ORACLE_REGS; i++) {
    struct oracle_reg *r = &o->regs[i];
    if (r->node != n || r->state != REG_REGISTERED) continue;
    r->due_depth = o->depth;
    r->state = r->where == ORACLE_LOOP ? (o->loop_gone[r->loop] ? REG_DROPPED : REG_QUEUED) : REG_DUE;
  }
}

static void start_here(struct oracle_node *n, int err, int origin, const struct rctx_cause *cause, bool by_deadline) {
  n->start = n;
  n->end = (struct oracle_end){err, origin, cause, by_deadline};
}

static void time_out(struct oracle_node *n) {
  const struct rctx_cause *cause = n->deadline_cause;
  start_here(n, code_of(cause, -ETIMEDOUT), cause ? cause->origin : RCTX_ORIGIN_DEADLINE, cause, true);
}

// With its parent; but a deadline of its own is never later than an ancestor's, so when time is what ended the ancestor,
// its own time had come as well, and that is what counts.
static void inherit(struct oracle_node *n) {
  if (n->has_deadline && n->parent->start->end.by_deadline) {
    time_out(n);
  } else {
    n->start = n->parent->start;
  }
}

// Parents stand before their children in the array: one pass reaches everything below.
static void mark_below(struct oracle *o, struct oracle_node *top) {
  regs_come_due(o, top);
  for (int i = top->id + 1; i < o->nnodes; i++) {
    struct oracle_node *n = &o->nodes[i];
    if (n->gone || n->start || !oracle_can_end(n) || !n->parent->start) continue;
    inherit(n);
    regs_come_due(o, n);
  }
}

bool oracle_cancel(struct oracle *o, struct oracle_node *n, const struct rctx_cause *cause, int origin) {
  if (n->start || !oracle_can_end(n)) return false;
  start_here(n, code_of(cause, -ECANCELED), cause ? cause->origin : origin, cause, false);
  n->taken = cause;
  mark_below(o, n);
  return true;
}

void oracle_end(struct oracle *o, struct oracle_node *n, const struct rctx_cause *cause) {
  oracle_cancel(o, n, cause, RCTX_ORIGIN_END);
  n->handle = false;
}

// ---- time ------------------------------------------------------------------------------------------------------------

// Deadlines round up to ticks, the clock rounds down.
uint64_t oracle_deadline_tick(const struct oracle *o, int64_t deadline_ns) {
  if (deadline_ns <= 0) return 0;
  uint64_t ns = (uint64_t)deadline_ns, tick = (uint64_t)o->tick_ns;
  return ns / tick + (ns % tick != 0);
}

bool oracle_is_due(const struct oracle *o, const struct oracle_node *n, int64_t now_ns) {
  uint64_t now = now_ns <= 0 ? 0 : (uint64_t)now_ns / (uint64_t)o->tick_ns;
  bool waits = n->has_deadline && n->deadline_ns != INT64_MAX && !n->start && !n->gone;
  return waits && oracle_deadline_tick(o, n->deadline_ns) <= now;
}

// No timer where the parent ends no later: the parent's, or an ancestor's, does for both.
bool oracle_armed(const struct oracle_node *n) {
  int64_t above;
  if (!n->has_deadline || n->deadline_ns == INT64_MAX || n->start || n->gone) return false;
  return !oracle_deadline(n->parent, &above) || above > n->deadline_ns;
}

void oracle_expire(struct oracle *o, struct oracle_node *n) {
  time_out(n);
  mark_below(o, n);
}

bool oracle_deadline(const struct oracle_node *n, int64_t *deadline_ns) {
  bool found = false;
  for (; n; n = n->parent) {
    if (n->has_deadline && (!found || n->deadline_ns < *deadline_ns)) {
      *deadline_ns = n->deadline_ns;
      found = true;
    }
    if (n->kind == RCTX_KIND_DETACHED) break;
  }
  return found;
}

int64_t oracle_remaining_at(const struct oracle_node *n, int64_t now_ns) {
  int64_t deadline_ns, left;
  if (n->start) return 0;
  if (!oracle_deadline(n, &deadline_ns)) return INT64_MAX;
  if (deadline_ns <= now_ns) return 0;
  return __builtin_sub_overflow(deadline_ns, now_ns, &left) ? INT64_MAX : left;
}

// ---- deriving --------------------------------------------------------------------------------------------------------

static struct oracle_node *new_node(struct oracle *o, const struct oracle_spec *spec) {
  struct oracle_node *n = &o->nodes[o->nnodes];
  *n = (struct oracle_node){.id = o->nnodes++, .kind = spec->kind, .handle = true};
  return n;
}

static bool earlier_above(const struct oracle_node *parent, int64_t deadline_ns) {
  int64_t above;
  return oracle_deadline(parent, &above) && above < deadline_ns;
}

struct oracle_node *oracle_derive(struct oracle *o, struct oracle_node *parent, const struct oracle_spec *spec) {
  struct oracle_node *n = new_node(o, spec);
  n->parent = parent;
  n->foreign = parent->no_memory || parent->foreign;
  n->values_from = spec->values_from;
  n->name = spec->name;
  n->nown = spec->nown;
  memcpy(n->own, spec->own, sizeof n->own);
  if (spec->has_deadline && !earlier_above(parent, spec->deadline_ns)) {
    n->kind = RCTX_KIND_DEADLINE;
    n->has_deadline = true;
    n->deadline_ns = spec->deadline_ns;
    n->deadline_cause = spec->deadline_cause;
  }
  if (parent->start && oracle_can_end(n)) {
    n->start = parent->start;
  } else if (n->has_deadline && n->deadline_ns <= spec->now_ns && n->deadline_ns != INT64_MAX) {
    time_out(n);
  }
  return n;
}

struct oracle_node *oracle_derive_no_memory(struct oracle *o, const struct oracle_spec *spec) {
  struct oracle_node *n = new_node(o, spec);
  n->parent = &o->nodes[0];
  n->no_memory = true;
  n->kind = RCTX_KIND_CANCEL;
  start_here(n, -ENOMEM, RCTX_ORIGIN_MEMORY, NULL, false);
  return n;
}

// ---- looking ---------------------------------------------------------------------------------------------------------

int oracle_err(const struct oracle_node *n) { return n->start ? n->start->end.err : 0; }

int oracle_why(const struct oracle_node *n, struct rctx_why *why) {
  memset(why, 0, sizeof *why);
  if (!n->start) return 0;
  const struct oracle_end *end = &n->start->end;
  why->err = end->err;
  why->origin = end->by_deadline && n != n->start ? (int)RCTX_ORIGIN_PARENT_DEADLINE : end->origin;
  why->cause = end->cause;
  why->name = n->start->name;
  for (const struct oracle_node *at = n; at != n->start; at = at->parent) why->levels_up++;
  return why->err;
}

// The nearest binding: of the node's own the last, then up; where values come from elsewhere, over there.
static const struct oracle_node *values_above(const struct oracle_node *n) {
  return n->values_from ? n->values_from : n->parent;
}

bool oracle_get(const struct oracle_node *n, int key, void **value) {
  for (; n; n = values_above(n)) {
    for (size_t i = n->nown; i-- > 0;) {
      if (n->own[i].key != key) continue;
      *value = n->own[i].value;
      return true;
    }
  }
  return false;
}

size_t oracle_visible(const struct oracle_node *n, struct oracle_binding *out) {
  size_t count = 0;
  bool seen[ORACLE_KEYS] = {false};
  for (; n; n = values_above(n)) {
    for (size_t i = n->nown; i-- > 0;) {
      if (seen[n->own[i].key]) continue;
      seen[n->own[i].key] = true;
      out[count++] = n->own[i];
    }
  }
  return count;
}

static bool begun(const struct oracle_reg *r) { return r->state != REG_REGISTERED; }

// Reached from `above` through value contexts only?
static bool seen_from(const struct oracle_node *n, const struct oracle_node *above) {
  while (n != above && n->kind == RCTX_KIND_VALUE && n->parent) n = n->parent;
  return n == above;
}

size_t oracle_registrations(const struct oracle *o, const struct oracle_node *n) {
  size_t count = 0;
  if (n->kind == RCTX_KIND_ROOT) return 0;
  for (int i = 0; i < ORACLE_REGS; i++) count += !begun(&o->regs[i]) && seen_from(o->regs[i].node, n);
  return count;
}

size_t oracle_children(const struct oracle *o, const struct oracle_node *n) {
  if (n->start || n->kind == RCTX_KIND_ROOT) return 0;
  size_t count = oracle_registrations(o, n);
  for (int i = n->id + 1; i < o->nnodes; i++) {
    const struct oracle_node *child = &o->nodes[i];
    if (child->gone || child->start || child->kind == RCTX_KIND_VALUE || !oracle_can_end(child)) continue;
    count += seen_from(child->parent, n);
  }
  return count;
}

size_t oracle_depth(const struct oracle_node *n) {
  size_t depth = 0;
  for (; n->parent; n = n->parent) depth++;
  return depth;
}

// ---- registrations ---------------------------------------------------------------------------------------------------

// What nothing will ever run may be used again without a stop.
bool oracle_busy(const struct oracle_reg *r) {
  return r->state != REG_QUIET && r->state != REG_NEVER && r->state != REG_DROPPED;
}

int oracle_register(struct oracle *o, struct oracle_reg *r, struct oracle_node *n, enum oracle_where where, int loop,
                    enum rctx_on_ended on_ended) {
  if (oracle_busy(r)) return -EBUSY;
  r->state = REG_QUIET;
  r->node = n;
  r->where = where;
  r->loop = loop;
  r->sequence = ++o->sequence;
  r->late = n->start != NULL;
  r->notice_wanted = false;
  r->due_depth = o->depth;
  if (!oracle_can_end(n)) {
    r->state = REG_NEVER;
    return RCTX_NEVER;
  }
  if (!n->start) {
    r->state = REG_REGISTERED;
    return RCTX_REGISTERED;
  }
  if (on_ended == RCTX_ON_ENDED_TELL) return RCTX_ENDED;
  if (on_ended == RCTX_ON_ENDED_RUN) r->where = ORACLE_INLINE;
  r->state = r->where == ORACLE_LOOP ? REG_QUEUED : REG_DUE;
  return RCTX_ENDED;
}

bool oracle_stop(struct oracle_reg *r) {
  switch (r->state) {
  case REG_REGISTERED:
  case REG_NEVER:
  case REG_DUE:
  case REG_QUEUED:
  case REG_DROPPED:
    r->state = REG_QUIET;
    return true;
  default:
    return false;
  }
}

bool oracle_may_begin(const struct oracle *o, const struct oracle_reg *r) {
  if (r->late) return true; // its turn was when it was registered
  for (int i = 0; i < ORACLE_REGS; i++) {
    const struct oracle_reg *other = &o->regs[i];
    bool same = other->node == r->node && other->where == r->where && other->state == r->state;
    if (same && !other->late && other->loop == r->loop && other->sequence < r->sequence) return false;
  }
  return true;
}

void oracle_loop_destroy(struct oracle *o, int loop) {
  o->loop_gone[loop] = true;
  for (int i = 0; i < ORACLE_REGS; i++) {
    if (o->regs[i].state == REG_QUEUED && o->regs[i].loop == loop) o->regs[i].state = REG_DROPPED;
  }
}

size_t oracle_queued(const struct oracle *o, int loop) {
  size_t count = 0;
  for (int i = 0; i < ORACLE_REGS; i++) {
    const struct oracle_reg *r = &o->regs[i];
    bool surely = r->due_depth < 0 || r->due_depth >= o->depth;
    count += r->state == REG_QUEUED && r->loop == loop && surely;
  }
  return count;
}

void oracle_settle(struct oracle *o) {
  for (int i = 0; i < ORACLE_REGS; i++) {
    if (o->regs[i].due_depth >= o->depth) o->regs[i].due_depth = -1;
  }
}

const struct oracle_reg *oracle_overdue(const struct oracle *o, int depth) {
  for (int i = 0; i < ORACLE_REGS; i++) {
    if (o->regs[i].state == REG_DUE && o->regs[i].due_depth >= depth) return &o->regs[i];
    if (o->regs[i].state == REG_NOTICE) return &o->regs[i];
  }
  return NULL;
}

// ---- who keeps whom --------------------------------------------------------------------------------------------------

static size_t kept_by_regs(const struct oracle *o, const struct oracle_node *n) {
  size_t count = 0;
  for (int i = 0; i < ORACLE_REGS; i++) {
    count += o->regs[i].node == n && oracle_busy(&o->regs[i]);
  }
  return count;
}

// The handle, references, registrations, and those that took their values from here.
size_t oracle_references(const struct oracle *o, const struct oracle_node *n) {
  size_t count = (n->handle ? 1 : 0) + n->refs + kept_by_regs(o, n);
  for (int i = n->id + 1; i < o->nnodes; i++) count += !o->nodes[i].gone && o->nodes[i].values_from == n;
  return count;
}

static bool has_child(const struct oracle *o, const struct oracle_node *n) {
  for (int i = n->id + 1; i < o->nnodes; i++) {
    if (!o->nodes[i].gone && o->nodes[i].parent == n) return true;
  }
  return false;
}

// Children stand behind their parents: from the end, one pass.
size_t oracle_collect(struct oracle *o) {
  size_t left = 0;
  for (int i = o->nnodes - 1; i > 0; i--) {
    struct oracle_node *n = &o->nodes[i];
    if (n->gone) continue;
    n->gone = oracle_references(o, n) == 0 && !has_child(o, n);
    left += !n->gone && !n->no_memory && !n->foreign;
  }
  return left;
}

size_t oracle_timers(const struct oracle *o) {
  size_t armed = 0;
  for (int i = 1; i < o->nnodes; i++) armed += oracle_armed(&o->nodes[i]);
  return armed;
}
