// ops.c - see ops.h. Each operation below does the same to rctx and to the oracle; ops_check() then compares.
//
// Callbacks do operations, too (run_action): from inside a cancel, a drain, a task, an advance. Where rctx may choose an
// order, the callback that begins tells the oracle so, and the oracle says whether it was allowed to (callback()).
#include "oracle/ops.h"

#include "oracle/ops_run.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#define MS INT64_C(1000000)
#define CLOCK_START (INT64_C(5000) * MS + 123457)

struct rctx_key ops_keys[ORACLE_KEYS] = {{.name = "k0"}, {.name = "k1"}, {.name = "k2"},
                                         {.name = "k3"}, {.name = "k4"}, {.name = "k5"}};

static struct ops *current; // the run in progress: for destructors of NULL values, which tell nothing else
static int null_destroyed;  // shared by all values that are NULL: only counted in total

// ---- telling ---------------------------------------------------------------------------------------------------------

void ops_trace(struct ops *s, const char *format, ...) {
  va_list args;
  va_start(args, format);
  size_t room = OPS_TRACE_BYTES - s->trace_length;
  int n = vsnprintf(s->trace + s->trace_length, room, format, args);
  va_end(args);
  if (n < 0 || (size_t)n >= room) return;
  if (s->trace_now) fputs(s->trace + s->trace_length, stderr);
  s->trace_length += (size_t)n;
}

_Noreturn void ops_differ(struct ops *s, const char *what, const char *format, ...) {
  if (!s->trace_now) fprintf(stderr, "%.*s", (int)s->trace_length, s->trace);
  fprintf(stderr, "\nDIFFERENT after %zu operations, nesting %d: %s: ", s->count, s->oracle.depth, what);
  va_list args;
  va_start(args, format);
  vfprintf(stderr, format, args);
  va_end(args);
  fputc('\n', stderr);
  abort();
}

static void begin_op(struct ops *s, const char *name) {
  s->count++;
  ops_trace(s, "\n%*s%3zu %s", 2 * s->oracle.depth, "", s->count, name);
}

// ---- memory ----------------------------------------------------------------------------------------------------------

// A header in front of each piece remembers its size, and how wide the header is.
static void *memory_alloc(void *self, size_t size, size_t align) {
  struct ops_memory *m = self;
  m->calls++;
  if (m->fail_count > 0 && --m->fail_in == 0) {
    m->failed++;
    m->fail_in = --m->fail_count > 0;
    return NULL;
  }
  size_t header = align < 16 ? 16 : align;
  char *piece = aligned_alloc(header, (header + size + header - 1) / header * header);
  if (!piece) return NULL;
  memset(piece + header, 0xA5, size); // fresh memory is not zero
  memcpy(piece + header - sizeof size, &size, sizeof size);
  memcpy(piece + header - 2 * sizeof size, &header, sizeof header);
  m->pieces++;
  return piece + header;
}

static void memory_free(void *self, void *ptr, size_t size) {
  struct ops_memory *m = self;
  struct ops *s = current;
  size_t asked, header;
  memcpy(&asked, (char *)ptr - sizeof asked, sizeof asked);
  memcpy(&header, (char *)ptr - 2 * sizeof asked, sizeof header);
  SAME("freed with the size it was asked for", size, asked);
  m->pieces--;
  memset(ptr, 0x5A, asked); // what is read after its free is garbage
  free((char *)ptr - header);
}

static int64_t clock_now(void *arg) { return ((struct ops *)arg)->clock_ns; }

static void kicked(void *arg) {
  struct ops *s = arg;
  s->kicks++;
  OUGHT("at most one kick until the next rctx_next()", s->kicks <= 1);
}

static void destroy_value(void *value) {
  if (value) {
    ((struct ops_value *)value)->destroyed++;
  } else {
    null_destroyed++;
  }
}

static void destroy_cause(const struct rctx_cause *cause) {
  for (size_t i = 0; i < current->ncauses; i++) current->causes[i].destroyed += &current->causes[i].cause == cause;
}

// ---- operands --------------------------------------------------------------------------------------------------------

static uint8_t take(struct ops *s) { return s->at < s->end ? *s->at++ : 0; }

// One of the contexts that are held; NULL if there is none.
static struct oracle_node *take_held(struct ops *s) {
  int held = 0;
  for (int i = 1; i < s->oracle.nnodes; i++) held += ops_held(&s->oracle.nodes[i]);
  int nth = take(s);
  if (held == 0) return NULL;
  nth = held - 1 - nth % held; // small numbers: the youngest
  for (int i = 1; i < s->oracle.nnodes; i++) {
    if (ops_held(&s->oracle.nodes[i]) && nth-- == 0) return &s->oracle.nodes[i];
  }
  return NULL;
}

// A context, or one time in eight the root.
static struct oracle_node *take_parent(struct ops *s) {
  bool root = take(s) % 8 == 0;
  struct oracle_node *n = root ? NULL : take_held(s);
  return n ? n : &s->oracle.nodes[0];
}

// One of this manager: its clock is ours. What is below a context that found no memory is of the default manager.
static struct oracle_node *take_own_parent(struct ops *s) {
  struct oracle_node *n = take_parent(s);
  return n->no_memory || n->foreign ? &s->oracle.nodes[0] : n;
}

// Near and far, past and future, on the boundaries of ticks and wheel levels, and at the ends of the number range.
static int64_t take_span(struct ops *s) {
  static const int64_t spans[] = {0,
                                  1,
                                  -1,
                                  MS,
                                  MS - 1,
                                  MS + 1,
                                  63 * MS,
                                  64 * MS,
                                  65 * MS,
                                  4095 * MS,
                                  4096 * MS,
                                  4097 * MS,
                                  -3 * MS,
                                  -MS,
                                  262144 * MS,
                                  INT64_C(1) << 40,
                                  INT64_C(1) << 55,
                                  INT64_MAX / 2,
                                  INT64_MAX - 1,
                                  INT64_MAX,
                                  INT64_MIN,
                                  INT64_MIN / 2};
  uint8_t b = take(s);
  if (b < 2 * sizeof spans / sizeof *spans) return spans[b / 2];
  return (b - 44) * (MS / 8) + (take(s) % 4) * 40000; // up to 26 ms
}

static int64_t add(int64_t a, int64_t b) {
  int64_t sum;
  if (!__builtin_add_overflow(a, b, &sum)) return sum;
  return b > 0 ? INT64_MAX : INT64_MIN;
}

static const struct rctx_cause *take_cause(struct ops *s) {
  static const struct rctx_cause fixed[] = {
      {-ECANCELED, RCTX_ORIGIN_PEER, "reset", "peer", 1, NULL, NULL},
      {-ETIMEDOUT, RCTX_ORIGIN_PEER, "the peer's deadline", NULL, 0, NULL, NULL},
      {-ETIMEDOUT, RCTX_ORIGIN_DEADLINE, "a foreign deadline", NULL, 0, NULL, NULL},
      {-4095, RCTX_ORIGIN_USER + 1, NULL, NULL, 0, NULL, NULL},
      {-4096, RCTX_ORIGIN_SHUTDOWN, "code too low", NULL, 0, NULL, NULL},
      {7, RCTX_ORIGIN_SIGNAL, "code positive", NULL, 0, NULL, NULL},
      {0, RCTX_ORIGIN_SIGNAL, "code zero", NULL, 0, NULL, NULL},
      {-1, RCTX_ORIGIN_USER, "EPERM", NULL, 0, NULL, NULL},
  };
  uint8_t b = take(s);
  if (b % 4 == 0) return NULL;
  if (b % 4 == 1 || s->ncauses == OPS_CAUSES) return &fixed[b / 4 % 8];
  struct ops_cause *made = &s->causes[s->ncauses++];
  made->cause = (struct rctx_cause){
      b % 8 < 4 ? -ETIMEDOUT : -ECONNRESET, RCTX_ORIGIN_PEER, "made at run time", NULL, 0, made, destroy_cause};
  return &made->cause;
}

static void take_bindings(struct ops *s, struct oracle_spec *spec, size_t count) {
  for (size_t i = 0; i < count; i++) {
    uint8_t b = take(s);
    struct oracle_binding *binding = &spec->own[spec->nown];
    *binding = (struct oracle_binding){.key = b % ORACLE_KEYS};
    if (b < 224 && s->nvalues < OPS_VALUES) {
      struct ops_value *value = &s->values[s->nvalues];
      *value = (struct ops_value){.id = (int)s->nvalues++};
      binding->value = value;
      if (b % 4 < 2) binding->destroyed = &value->destroyed;
    }
    spec->nown++;
    ops_trace(s, " k%d=%s%s", binding->key, binding->value ? "v" : "NULL", binding->destroyed ? "(owned)" : "");
  }
}

static size_t values_of(const struct oracle_spec *spec, struct rctx_value *values) {
  for (size_t i = 0; i < spec->nown; i++) {
    const struct oracle_binding *b = &spec->own[i];
    values[i] = (struct rctx_value){&ops_keys[b->key], b->value, b->destroyed || !b->value ? destroy_value : NULL};
  }
  return spec->nown;
}

// ---- deriving --------------------------------------------------------------------------------------------------------

// What the derivation could not keep has been destroyed before it returned; a cause that lost to an earlier deadline, too.
static void check_not_kept(struct ops *s, const struct oracle_spec *spec, const struct oracle_node *n) {
  for (size_t i = 0; i < spec->nown && n->no_memory; i++) {
    if (spec->own[i].destroyed) SAME("a value that found no memory is destroyed", *spec->own[i].destroyed, 1);
  }
  const struct rctx_cause *cause = spec->deadline_cause;
  if (!cause || !cause->destroy) return;
  const struct ops_cause *made = (const struct ops_cause *)(const void *)cause;
  if (n->deadline_cause != cause) SAME("a deadline's cause that is not kept is destroyed", made->destroyed, 1);
}

// A deadline in the past of what the clock showed once, or the manager was advanced to, but not of the clock now: it
// stepped back. Then it may have come on return, or may not.
static bool may_be_due(const struct ops *s, const struct oracle_node *n) {
  return oracle_is_due(&s->oracle, n, s->latest_ns);
}

static void set_clock(struct ops *s, int64_t now_ns, bool clock_too) {
  if (clock_too) s->clock_ns = now_ns;
  if (now_ns > s->latest_ns) s->latest_ns = now_ns;
}

// Armed earlier than rctx_next() said. A tick beyond the end of time never comes: no reason to kick.
static void kick_may_be_due(struct ops *s, const struct oracle_node *n) {
  if (!oracle_armed(n) || s->next_ns <= 0) return;
  uint64_t tick = oracle_deadline_tick(&s->oracle, n->deadline_ns), next = (uint64_t)s->next_ns / (uint64_t)MS;
  if (tick < next || (tick == next && s->next_ns == INT64_MAX)) s->kicks_due = 1;
}

static void derived(struct ops *s, struct oracle_node *parent, const struct oracle_spec *spec, rctx *ctx,
                    size_t failed_before) {
  OUGHT("deriving never returns NULL", ctx != NULL);
  bool failed = s->memory.failed != failed_before;
  bool born_without = failed && rctx_err(ctx) == -ENOMEM && oracle_err(parent) != -ENOMEM;
  struct oracle_node *n =
      born_without ? oracle_derive_no_memory(&s->oracle, spec) : oracle_derive(&s->oracle, parent, spec);
  n->real = ctx;
  ops_trace(s, " = c%d%s", n->id, born_without ? " (no memory)" : "");
  if (may_be_due(s, n) && rctx_err(ctx)) oracle_expire(&s->oracle, n);
  kick_may_be_due(s, n);
  if (s->next_ns != INT64_MIN && s->kicks_due) SAME("kicks", s->kicks, 1);
  check_not_kept(s, spec, n);
  ops_check(s, n);
}

static void trace_spec(struct ops *s, const struct oracle_node *parent, const struct oracle_spec *spec) {
  ops_trace(s, " below c%d", parent->id);
  if (spec->has_deadline) ops_trace(s, " deadline %lld", (long long)spec->deadline_ns);
  if (spec->deadline_cause) ops_trace(s, " cause %d", spec->deadline_cause->code);
  if (spec->values_from) ops_trace(s, " values from c%d", spec->values_from->id);
}

static bool full(const struct ops *s) { return s->oracle.nnodes == ORACLE_NODES; }

static void op_derive_cancel(struct ops *s) {
  struct oracle_node *parent = take_parent(s);
  struct oracle_spec spec = {.kind = RCTX_KIND_CANCEL};
  begin_op(s, "with_cancel");
  trace_spec(s, parent, &spec);
  size_t failed = s->memory.failed;
  derived(s, parent, &spec, rctx_with_cancel(parent->real), failed);
}

static void op_derive_timeout(struct ops *s) {
  struct oracle_node *parent = take_own_parent(s);
  uint8_t how = take(s);
  int64_t span = take_span(s);
  const struct rctx_cause *cause = how & 4 ? take_cause(s) : NULL;
  bool at = how & 1;
  struct oracle_spec spec = {.kind = RCTX_KIND_CANCEL, .has_deadline = true, .now_ns = s->clock_ns};
  spec.deadline_ns = add(s->clock_ns, span);
  spec.deadline_cause = cause;
  begin_op(s, at ? "with_timeout_at" : "with_timeout");
  trace_spec(s, parent, &spec);
  size_t failed = s->memory.failed;
  rctx *ctx = at ? (cause ? rctx_with_timeout_at_cause(parent->real, s->clock_ns, span, cause)
                          : rctx_with_timeout_at(parent->real, s->clock_ns, span))
                 : (cause ? rctx_with_timeout_cause(parent->real, span, cause) : rctx_with_timeout(parent->real, span));
  derived(s, parent, &spec, ctx, failed);
}

static void op_derive_deadline(struct ops *s) {
  struct oracle_node *parent = take_own_parent(s);
  uint8_t how = take(s);
  int64_t deadline_ns, above;
  if (how % 4 == 0 && oracle_deadline(parent, &above)) { // around the parent's
    deadline_ns = add(above, how % 3 - 1);
  } else {
    deadline_ns = add(s->clock_ns, take_span(s));
  }
  struct oracle_spec spec = {
      .kind = RCTX_KIND_CANCEL, .has_deadline = true, .deadline_ns = deadline_ns, .now_ns = s->clock_ns};
  spec.deadline_cause = how & 4 ? take_cause(s) : NULL;
  begin_op(s, "with_deadline");
  trace_spec(s, parent, &spec);
  size_t failed = s->memory.failed;
  rctx *ctx = spec.deadline_cause ? rctx_with_deadline_cause(parent->real, deadline_ns, spec.deadline_cause)
                                  : rctx_with_deadline(parent->real, deadline_ns);
  derived(s, parent, &spec, ctx, failed);
}

static void op_derive_values(struct ops *s) {
  struct oracle_node *parent = take_parent(s);
  struct oracle_spec spec = {.kind = RCTX_KIND_VALUE};
  struct rctx_value values[ORACLE_BINDINGS];
  uint8_t how = take(s);
  begin_op(s, "with_values");
  trace_spec(s, parent, &spec);
  take_bindings(s, &spec, 1 + how % ORACLE_BINDINGS);
  size_t count = values_of(&spec, values), failed = s->memory.failed;
  bool plain = count == 1 && values[0].destroy == NULL;
  rctx *ctx = plain ? rctx_with_value(parent->real, values[0].key, values[0].value)
                    : rctx_with_values(parent->real, values, count);
  derived(s, parent, &spec, ctx, failed);
}

static void op_derive_detached(struct ops *s) {
  struct oracle_node *parent = take_parent(s);
  struct oracle_spec spec = {.kind = RCTX_KIND_DETACHED};
  begin_op(s, "without_cancel");
  trace_spec(s, parent, &spec);
  size_t failed = s->memory.failed;
  derived(s, parent, &spec, rctx_without_cancel(parent->real), failed);
}

// A timeout and a deadline in a spec: the earlier counts; 0 means none.
static void set_spec_time(struct ops *s, uint8_t how, struct rctx_spec *real, struct oracle_spec *spec) {
  if (how & 1) real->timeout_ns = take_span(s);
  if (how & 2) real->deadline_ns = add(s->clock_ns, take_span(s));
  if (how & 4) real->now_ns = s->clock_ns;
  if (how & 8) real->deadline_cause = spec->deadline_cause = take_cause(s);
  spec->now_ns = s->clock_ns;
  spec->deadline_ns = INT64_MAX;
  if (real->timeout_ns) {
    spec->has_deadline = true;
    spec->deadline_ns = add(s->clock_ns, real->timeout_ns);
  }
  if (real->deadline_ns) {
    if (real->deadline_ns < spec->deadline_ns) spec->deadline_ns = real->deadline_ns;
    spec->has_deadline = true;
  }
}

static void op_derive_spec(struct ops *s) {
  struct oracle_node *parent = take_own_parent(s);
  uint8_t how = take(s);
  struct rctx_value values[ORACLE_BINDINGS];
  struct rctx_spec real = {0};
  struct oracle_spec spec = {.kind = RCTX_KIND_CANCEL};
  set_spec_time(s, how, &real, &spec);
  if (how & 16) real.name = spec.name = "named";
  if (how & 32) spec.values_from = take_held(s);
  if (how & 64) real.manager = s->manager;
  if (spec.values_from && spec.values_from->no_memory) spec.values_from = NULL;
  if (spec.values_from) real.values_from = spec.values_from->real;
  begin_op(s, "derive");
  trace_spec(s, parent, &spec);
  take_bindings(s, &spec, (how >> 6) % 3);
  real.values = values;
  real.nvalues = values_of(&spec, values);
  size_t failed = s->memory.failed;
  derived(s, parent, &spec, rctx_derive(parent->real, &real), failed);
}

// ---- ending ----------------------------------------------------------------------------------------------------------

// cancel, end, unref and stop neither allocate nor fail; what callbacks allocate meanwhile is not theirs.
static void no_allocation(struct ops *s, size_t calls_before, size_t count_before) {
  if (s->count == count_before) SAME("allocations of what must not fail", s->memory.calls, calls_before);
}

static void forget_notes(struct ops *s) {
  for (int i = 1; i < s->oracle.nnodes; i++) {
    if (!ops_held(&s->oracle.nodes[i])) s->noted[i] = NULL;
  }
}

static void op_cancel(struct ops *s) {
  struct oracle_node *n = take_held(s);
  uint8_t how = take(s);
  if (!n) return;
  const struct rctx_cause *cause = how % 2 ? take_cause(s) : NULL;
  begin_op(s, "cancel");
  ops_trace(s, " c%d cause %d", n->id, cause ? cause->code : 0);
  size_t calls = s->memory.calls, count = s->count;
  n->refs++; // held throughout, also when a callback gives the handle up
  n->pins++;
  rctx_ref(n->real);
  bool expected = oracle_cancel(&s->oracle, n, cause, RCTX_ORIGIN_CANCEL);
  s->oracle.depth++;
  bool got = how % 2 ? rctx_cancel_cause(n->real, cause) : rctx_cancel((rctx *)n->real);
  s->oracle.depth--;
  SAME("rctx_cancel", got, expected);
  no_allocation(s, calls, count);
  if (!got && cause && cause->destroy) {
    SAME("a cancel that lost leaves the cause alone", ((const struct ops_cause *)(const void *)cause)->destroyed, 0);
  }
  ops_check(s, n);
  n->refs--;
  n->pins--;
  forget_notes(s);
  rctx_unref(n->real);
  ops_check(s, n);
}

static void op_end(struct ops *s) {
  static const struct rctx_cause end_cause = {-EPIPE, RCTX_ORIGIN_PEER, "ended with a cause", NULL, 0, NULL, NULL};
  struct oracle_node *n = take_held(s);
  uint8_t how = take(s);
  if (!n || !n->handle) return;
  const struct rctx_cause *cause = how % 4 == 1 ? &end_cause : NULL;
  begin_op(s, "end");
  ops_trace(s, " c%d", n->id);
  size_t calls = s->memory.calls, count = s->count;
  bool cancels = !n->start && oracle_can_end(n);
  rctx *ctx = n->real;
  oracle_end(&s->oracle, n, cause);
  // rctx_end_cause(ctx, NULL): as for a cancel, a static record without source line
  if (cancels && !cause && how % 2) n->end.origin = RCTX_ORIGIN_CANCEL;
  forget_notes(s);
  s->oracle.depth++;
  if (how % 2) {
    rctx_end_cause(ctx, cause);
  } else {
    rctx_end(ctx);
  }
  s->oracle.depth--;
  no_allocation(s, calls, count);
  ops_check(s, n);
}

static void op_unref(struct ops *s) {
  struct oracle_node *n = take_held(s);
  if (!n || (!n->handle && n->refs == n->pins)) return;
  begin_op(s, "unref");
  size_t calls = s->memory.calls;
  rctx *ctx = n->real;
  if (n->refs > n->pins) {
    n->refs--;
  } else {
    n->handle = false;
  }
  ops_trace(s, " c%d%s", n->id, ops_held(n) ? "" : " (the last)");
  forget_notes(s);
  rctx_unref(ctx);
  SAME("allocations of what must not fail", s->memory.calls, calls);
  ops_check(s, n);
}

static void op_ref(struct ops *s) {
  struct oracle_node *n = take_held(s);
  if (!n || n->refs > 3) return;
  begin_op(s, "ref");
  ops_trace(s, " c%d", n->id);
  OUGHT("rctx_ref returns its context", rctx_ref(n->real) == n->real);
  n->refs++;
  ops_check(s, n);
}

// ---- time ------------------------------------------------------------------------------------------------------------

// Which of the due deadlines has rctx handled by now? Only the order of ticks is promised.
static size_t adopt_expired(struct ops *s, int64_t now_ns) {
  struct oracle *o = &s->oracle;
  size_t expired = 0;
  oracle_collect(o);
  for (int i = 1; i < o->nnodes; i++) {
    struct oracle_node *n = &o->nodes[i];
    if (!oracle_is_due(o, n, now_ns) || rctx_err(n->real) == 0) continue;
    int depth = o->depth;
    o->depth = s->advancing;
    oracle_expire(o, n);
    o->depth = depth;
    expired++;
  }
  return expired;
}

static uint64_t first_due_tick(struct ops *s, int64_t now_ns, size_t *due) {
  uint64_t first = UINT64_MAX;
  *due = 0;
  for (int i = 1; i < s->oracle.nnodes; i++) {
    const struct oracle_node *n = &s->oracle.nodes[i];
    if (!oracle_is_due(&s->oracle, n, now_ns)) continue;
    uint64_t tick = oracle_deadline_tick(&s->oracle, n->deadline_ns);
    if (tick < first) first = tick;
    ++*due;
  }
  return first;
}

static void advance(struct ops *s, int64_t now_ns, size_t budget) {
  struct oracle *o = &s->oracle;
  size_t due_before, due_after, count = s->count;
  int outer = s->advancing;
  int64_t outer_to_ns = s->advancing_to_ns;
  oracle_collect(o);
  first_due_tick(s, now_ns, &due_before);
  s->advancing = ++o->depth;
  s->advancing_to_ns = now_ns;
  size_t handled = rctx_advance(s->manager, now_ns, budget);
  adopt_expired(s, now_ns);
  s->advancing = outer;
  s->advancing_to_ns = outer_to_ns;
  o->depth--;
  first_due_tick(s, now_ns, &due_after);
  ops_trace(s, " -> %zu of %zu", handled, due_before);
  OUGHT("advance keeps to its budget", budget == 0 || handled <= budget);
  if (budget == 0 || handled < budget) SAME("deadlines due and not handled", due_after, 0);
  bool alone = s->count == count; // no callback changed anything meanwhile
  if (alone) OUGHT("handled no more than were due", handled <= due_before);
  if (alone && due_before > 0) OUGHT("handled some", handled > 0);
}

static void op_advance(struct ops *s) {
  uint8_t how = take(s);
  int64_t span = take_span(s);
  size_t budget = how % 4 == 1 ? 1 : how % 4 == 2 ? 3 : 0;
  int64_t to = add(s->clock_ns, span);
  if (s->advancing >= 0) return; // one at a time
  begin_op(s, "advance");
  ops_trace(s, " to %lld budget %zu", (long long)to, budget);
  if (how >= 200) ops_trace(s, " (not the clock)"); // the caller's time runs ahead of the clock, or behind
  set_clock(s, to, how < 200);
  advance(s, to, budget);
  ops_check(s, NULL);
}

static void op_set_clock(struct ops *s) {
  begin_op(s, "clock");
  set_clock(s, add(s->clock_ns, take_span(s)), true);
  ops_trace(s, " = %lld", (long long)s->clock_ns);
  ops_check(s, NULL);
}

static void op_next(struct ops *s) {
  begin_op(s, "next");
  struct oracle *o = &s->oracle;
  int64_t next_ns = rctx_next(s->manager, s->clock_ns);
  ops_trace(s, " = %lld", (long long)next_ns);
  s->next_ns = next_ns;
  s->kicks = s->kicks_due = 0;
  oracle_collect(o);
  for (int i = 1; i < o->nnodes; i++) {
    if (!oracle_armed(&o->nodes[i])) continue;
    uint64_t tick = oracle_deadline_tick(o, o->nodes[i].deadline_ns);
    OUGHT("next is never later than a deadline", next_ns <= 0 || (uint64_t)next_ns / (uint64_t)MS <= tick);
  }
  if (oracle_timers(o) == 0) SAME("next without timers", next_ns, INT64_MAX);
  ops_check(s, NULL);
}

// ---- registering -----------------------------------------------------------------------------------------------------

static void run_action(struct ops *s, struct ops_reg *reg);

// A callback begins: was it allowed to, now?
static void callback(const rctx *ctx, void *arg) {
  struct ops_reg *reg = arg;
  struct ops *s = reg->ops;
  struct oracle *o = &s->oracle;
  struct oracle_reg *model = reg->model;
  if (s->advancing >= 0) adopt_expired(s, s->advancing_to_ns);
  begin_op(s, "callback");
  ops_trace(s, " r%d of c%d", (int)(model - o->regs), model->node->id);
  bool due = model->state == REG_DUE && model->where == ORACLE_INLINE;
  bool queued = model->state == REG_QUEUED && model->loop == s->draining;
  bool executed = model->state == REG_SUBMITTED && s->executing == model;
  OUGHT("this callback may run now", due || queued || executed);
  OUGHT("callbacks of one context in the order of registration", executed || oracle_may_begin(o, model));
  OUGHT("its context", ctx == model->node->real);
  SAME("err inside the callback", rctx_err(ctx), oracle_err(model->node));
  OUGHT("cause inside the callback", rctx_cause(ctx) != NULL);
  model->state = REG_RUNNING;
  s->drained += queued;
  int draining = s->draining, depth = o->depth;
  size_t drained = s->drained;
  struct oracle_reg *executing = s->executing;
  s->draining = -1;
  s->executing = NULL;
  o->depth++;
  run_action(s, reg);
  o->depth = depth;
  s->draining = draining;
  s->drained = drained;
  s->executing = executing;
  model->state = model->notice_wanted ? REG_NOTICE : REG_QUIET;
}

static void quiet_notice(void *arg) {
  struct oracle_reg *model = ((struct ops_reg *)arg)->model;
  struct ops *s = ((struct ops_reg *)arg)->ops;
  OUGHT("notice of quiet: once, after the callback", model->state == REG_NOTICE);
  model->state = REG_QUIET;
  free(model->real); // the library's last act was before this
  model->real = NULL;
}

static void submit(struct rctx_executor *self, struct rctx_task *task) {
  struct ops *s = current;
  (void)self;
  if (s->advancing >= 0) adopt_expired(s, s->advancing_to_ns);
  for (int i = 0; i < ORACLE_REGS; i++) {
    struct oracle_reg *model = &s->oracle.regs[i];
    if (model->real != (void *)task) continue;
    OUGHT("submitted when it came due", model->state == REG_DUE && model->where == ORACLE_EXECUTOR);
    model->state = REG_SUBMITTED;
    s->tasks[s->ntasks++] = task;
    return;
  }
  ops_differ(s, "submit", "an unknown task");
}

static void op_register(struct ops *s) {
  struct oracle_node *n = take_parent(s);
  uint8_t where = take(s), which = take(s);
  struct ops_reg *reg = &s->regs[which % ORACLE_REGS];
  struct oracle_reg *model = reg->model;
  enum rctx_on_ended on_ended = (enum rctx_on_ended)(where / 16 % 3);
  int loop = where / 64 % OPS_LOOPS;
  enum oracle_where kind = where % 4 == 3 ? ORACLE_EXECUTOR : where % 4 == 2 ? ORACLE_LOOP : ORACLE_INLINE;
  if (kind == ORACLE_LOOP && s->oracle.loop_gone[loop]) kind = ORACLE_INLINE;
  begin_op(s, kind == ORACLE_LOOP ? "watch" : kind == ORACLE_EXECUTOR ? "after_on" : "after_inline");
  ops_trace(s, " r%d on c%d, if ended %d, loop %d", (int)(model - s->oracle.regs), n->id, (int)on_ended, loop);
  if (model->state == REG_DROPPED && s->oracle.depth > 0) { // its turn may not have come: it is dropped only then
    bool expected = oracle_stop(model);
    SAME("stopped before it is used again", rctx_after_stop(model->real), expected);
  }
  bool busy = oracle_busy(model);
  if (!busy) {
    reg->acts = where & 8;
    for (size_t i = 0; i < sizeof reg->action && reg->acts; i++) reg->action[i] = take(s);
    if (!model->real) model->real = calloc(1, sizeof(struct rctx_after));
  }
  size_t calls = s->memory.calls, count = s->count;
  int expected = oracle_register(&s->oracle, model, n, kind, loop, on_ended);
  struct rctx_after *node = model->real;
  s->oracle.depth++;
  model->due_depth = busy ? model->due_depth : s->oracle.depth;
  int draining = s->draining;
  int got = kind == ORACLE_LOOP       ? rctx_watch(n->real, node, s->loops[loop], on_ended, callback, reg)
            : kind == ORACLE_EXECUTOR ? rctx_after_on(n->real, node, &s->executor, on_ended, callback, reg)
                                      : rctx_after_inline(n->real, node, on_ended, callback, reg);
  s->draining = draining;
  s->oracle.depth--;
  SAME("registering", got, expected);
  no_allocation(s, calls, count);
  ops_check(s, n);
}

static void stop_with_notice(struct ops *s, struct oracle_reg *model) {
  enum oracle_reg_state before = model->state;
  bool busy = before == REG_RUNNING || before == REG_SUBMITTED || before == REG_NOTICE;
  bool expected = oracle_stop(model), quiet = false;
  bool got = rctx_after_stop_notify(model->real, quiet_notice, &s->regs[model - s->oracle.regs], &quiet);
  SAME("rctx_after_stop_notify", got, expected);
  SAME("quiet", quiet, !busy);
  if (busy) model->notice_wanted = true;
}

static void op_stop(struct ops *s) {
  struct oracle_reg *model = &s->oracle.regs[take(s) % ORACLE_REGS];
  uint8_t how = take(s);
  if (!model->real) return;
  begin_op(s, how % 4 == 3 ? "stop_notify" : how % 4 == 2 ? "stop_sync" : "stop");
  ops_trace(s, " r%d (%d)", (int)(model - s->oracle.regs), (int)model->state);
  size_t calls = s->memory.calls;
  if (how % 4 == 3) {
    stop_with_notice(s, model);
  } else if (how % 4 == 2 && model->state != REG_SUBMITTED && model->state != REG_NOTICE) { // that would wait for us
    bool expected = oracle_stop(model);
    SAME("rctx_after_stop_sync", rctx_after_stop_sync(model->real), expected);
  } else {
    bool expected = oracle_stop(model);
    SAME("rctx_after_stop", rctx_after_stop(model->real), expected);
  }
  SAME("allocations of what must not fail", s->memory.calls, calls);
  if (model->state == REG_QUIET && how & 64) { // quiet: it may be freed
    free(model->real);
    model->real = NULL;
  }
  ops_check(s, NULL);
}

static void run_task(struct ops *s, size_t which) {
  struct rctx_task *task = s->tasks[which];
  s->tasks[which] = s->tasks[--s->ntasks];
  struct oracle_reg *outer = s->executing, *model = NULL;
  for (int i = 0; i < ORACLE_REGS; i++) {
    if (s->oracle.regs[i].real == (void *)task) model = &s->oracle.regs[i];
  }
  s->executing = model;
  s->oracle.depth++;
  rctx_task_run(task);
  s->oracle.depth--;
  s->executing = outer;
  OUGHT("the task ran its callback", model->state != REG_SUBMITTED);
}

static void op_run_task(struct ops *s) {
  uint8_t which = take(s);
  if (s->ntasks == 0) return;
  begin_op(s, "task");
  run_task(s, which % s->ntasks);
  ops_check(s, NULL);
}

static void drain(struct ops *s, int loop, size_t max) {
  int outer = s->draining;
  size_t outer_drained = s->drained, count = s->count;
  s->draining = loop;
  s->drained = 0;
  s->oracle.depth++;
  size_t got = rctx_loop_drain(s->loops[loop], max);
  s->oracle.depth--;
  SAME("rctx_loop_drain", got, s->drained);
  OUGHT("no more than asked for", got <= max);
  ops_trace(s, " -> %zu", got);
  if (got < max) SAME("left in the queue after a whole drain", oracle_queued(&s->oracle, loop), 0);
  if (got < max && s->count == count) {
    SAME("fd of an empty loop", ops_readable(rctx_loop_fd(s->loops[loop])), 0);
  }
  s->draining = outer;
  s->drained = outer_drained;
}

static void op_drain(struct ops *s) {
  uint8_t how = take(s);
  int loop = how % OPS_LOOPS;
  if (s->oracle.loop_gone[loop]) return;
  begin_op(s, "drain");
  size_t max = how & 2 ? 100 : how / 4 % 4;
  ops_trace(s, " loop %d, at most %zu", loop, max);
  drain(s, loop, max);
  ops_check(s, NULL);
}

// What is still registered on the loop is dropped, and with it perhaps its context, at a moment that nothing tells us: hold
// those, so that adopt_expired() can look at them.
static void hold_registered(struct ops *s, int loop) {
  for (int i = 0; i < ORACLE_REGS; i++) {
    struct oracle_reg *r = &s->oracle.regs[i];
    if (r->state != REG_REGISTERED || r->where != ORACLE_LOOP || r->loop != loop) continue;
    rctx_ref(r->node->real);
    r->node->refs++;
    r->node->pins++;
  }
}

static void op_destroy_loop(struct ops *s) {
  int loop = take(s) % OPS_LOOPS;
  if (s->oracle.loop_gone[loop] || s->oracle.depth > 0) return;
  begin_op(s, "loop_destroy");
  ops_trace(s, " %d", loop);
  hold_registered(s, loop);
  oracle_loop_destroy(&s->oracle, loop);
  rctx_loop_destroy(s->loops[loop]);
  s->loops[loop] = NULL;
  ops_check(s, NULL);
}

// ---- the rest --------------------------------------------------------------------------------------------------------

// rctx_fd() where this process may open nothing.
static int fd_at_the_limit(const rctx *ctx) {
  struct rlimit usual, none;
  if (getrlimit(RLIMIT_NOFILE, &usual) != 0) abort();
  none = usual;
  none.rlim_cur = 0;
  if (setrlimit(RLIMIT_NOFILE, &none) != 0) abort();
  int fd = rctx_fd(ctx);
  if (setrlimit(RLIMIT_NOFILE, &usual) != 0) abort();
  return fd;
}

static void op_fd(struct ops *s) {
  struct oracle_node *n = take_held(s);
  if (!n || n->no_memory) return;
  begin_op(s, "fd");
  ops_trace(s, " c%d", n->id);
  size_t failed = s->memory.failed;
  bool no_descriptor = s->no_descriptor && !n->has_fd;
  int fd = s->no_descriptor ? fd_at_the_limit(n->real) : rctx_fd(n->real);
  s->no_descriptor = false;
  if (!oracle_can_end(n)) {
    SAME("rctx_fd of what never ends", fd, -ENOTSUP);
  } else if (s->memory.failed != failed && fd == -ENOMEM) {
    ops_trace(s, " (no memory)");
  } else if (no_descriptor) {
    SAME("rctx_fd without descriptors", fd, -EMFILE);
  } else {
    OUGHT("a descriptor", fd >= 0);
    n->has_fd = true;
    SAME("the same one", rctx_fd(n->real), fd);
    SAME("readable once ended", ops_readable(fd), n->start != NULL);
  }
  ops_check(s, n);
}

static void op_note(struct ops *s) {
  struct oracle_node *n = take_held(s);
  size_t size = 8 + (size_t)take(s) * 5;
  if (!n || n->no_memory || s->noted[n->id]) return;
  begin_op(s, "alloc");
  ops_trace(s, " %zu in c%d", size, n->id);
  size_t failed = s->memory.failed;
  unsigned char *note = rctx_alloc(n->real, size);
  OUGHT("rctx_alloc gives memory", note != NULL || s->memory.failed != failed);
  OUGHT("aligned", ((uintptr_t)note & (_Alignof(max_align_t) - 1)) == 0);
  if (note) memset(note, n->id & 0xff, size);
  s->noted[n->id] = note;
  ops_check(s, n);
}

static void op_fail(struct ops *s) {
  uint8_t how = take(s);
  begin_op(s, "fail");
  if (how >= 192) {
    s->no_descriptor = true;
    ops_trace(s, " descriptors");
    return;
  }
  s->memory.fail_in = 1 + how % 3;
  s->memory.fail_count = 1 + how / 4 % 3;
  ops_trace(s, " %u allocations from the %u. on", s->memory.fail_count, s->memory.fail_in);
}

static void op_quiesce(struct ops *s) {
  if (s->oracle.depth > 0) return;
  begin_op(s, "quiesce");
  SAME("rctx_quiesce", rctx_quiesce(s->manager, INT64_MAX), 0);
  struct rctx_stats stats;
  rctx_stats(s->manager, &stats);
  SAME("deferred after quiesce", stats.deferred, 0);
  ops_check(s, NULL);
}

static void op_trim(struct ops *s) {
  begin_op(s, "trim");
  rctx_trim(s->manager);
  ops_check(s, NULL);
}

// ---- running ---------------------------------------------------------------------------------------------------------

static void (*const operations[])(struct ops *s) = {op_derive_cancel,
                                                    op_derive_timeout,
                                                    op_derive_deadline,
                                                    op_derive_values,
                                                    op_derive_spec,
                                                    op_derive_detached,
                                                    op_cancel,
                                                    op_end,
                                                    op_register,
                                                    op_advance,
                                                    op_stop,
                                                    op_drain,
                                                    op_unref,
                                                    op_ref,
                                                    op_run_task,
                                                    op_fd,
                                                    op_next,
                                                    op_set_clock,
                                                    op_register,
                                                    op_cancel,
                                                    op_derive_cancel,
                                                    op_register,
                                                    op_end,
                                                    op_advance,
                                                    op_note,
                                                    op_fail,
                                                    op_quiesce,
                                                    op_trim,
                                                    op_destroy_loop};

// What callbacks do: any of the operations above that is legal there, on operands chosen at registration.
static void (*const actions[])(struct ops *s) = {op_cancel, op_end,      op_stop,  op_register,       op_derive_cancel,
                                                 op_unref,  op_ref,      op_drain, op_derive_timeout, op_cancel,
                                                 op_stop,   op_run_task, op_end,   op_derive_values};

static void run_action(struct ops *s, struct ops_reg *reg) {
  if (!reg->acts || s->oracle.depth > OPS_NESTING || full(s)) return;
  const uint8_t *at = s->at, *end = s->end;
  uint8_t operands[sizeof reg->action];
  memcpy(operands, reg->action, sizeof operands);
  s->at = operands + 1;
  s->end = operands + sizeof operands;
  actions[operands[0] % (sizeof actions / sizeof *actions)](s);
  s->at = at;
  s->end = end;
}

static struct ops *open_run(const uint8_t *bytes, size_t size) {
  struct ops *s = calloc(1, sizeof *s);
  s->trace = malloc(OPS_TRACE_BYTES);
  *s->trace = 0;
  s->trace_now = getenv("RCTX_OPS_TRACE") && *getenv("RCTX_OPS_TRACE") == '1';
  s->at = bytes;
  s->end = bytes + size;
  s->clock_ns = s->latest_ns = CLOCK_START;
  s->next_ns = INT64_MIN;
  s->advancing = s->draining = -1;
  s->executor.submit = submit;
  current = s;
  oracle_init(&s->oracle, MS);
  for (int i = 0; i < ORACLE_REGS; i++) s->regs[i] = (struct ops_reg){.model = &s->oracle.regs[i], .ops = s};
  struct rctx_manager_options options = {.drive = RCTX_DRIVE_EMBEDDER,
                                         .now = clock_now,
                                         .now_arg = s,
                                         .kick = kicked,
                                         .kick_arg = s,
                                         .allocator = {memory_alloc, memory_free, &s->memory},
                                         .uncached = true};
  SAME("rctx_manager_create", rctx_manager_create(&options, &s->manager), 0);
  for (int i = 0; i < OPS_LOOPS; i++) SAME("rctx_loop_create", rctx_loop_create(&s->loops[i]), 0);
  union {
    const rctx *in;
    void *out;
  } root = {rctx_manager_background(s->manager)};
  s->oracle.nodes[0].real = root.out;
  return s;
}

// Take back, run and end all there is, in some order that differs from run to run.
static void finish_everything(struct ops *s) {
  struct oracle *o = &s->oracle;
  s->memory.fail_in = s->memory.fail_count = 0;
  for (int i = 0; i < ORACLE_REGS; i++) s->regs[i].acts = false;
  bool upwards = s->count % 2;
  for (int i = 1; i < o->nnodes; i++) {
    struct oracle_node *n = &o->nodes[upwards ? i : o->nnodes - i];
    forget_notes(s);
    for (; n->refs > 0; n->refs--) rctx_unref(n->real);
    if (!n->handle) continue;
    rctx *ctx = n->real;
    oracle_end(o, n, NULL);
    s->oracle.depth++;
    rctx_end(ctx);
    s->oracle.depth--;
    const struct oracle_reg *overdue = oracle_overdue(o, 0);
    OUGHT("callbacks of the last ends have begun", overdue == NULL);
  }
  while (s->ntasks > 0) run_task(s, 0);
  for (int i = 0; i < OPS_LOOPS; i++) {
    if (!o->loop_gone[i] && s->count % 3) drain(s, i, SIZE_MAX);
    if (!o->loop_gone[i]) rctx_loop_destroy(s->loops[i]);
    oracle_loop_destroy(o, i);
  }
  for (int i = 0; i < ORACLE_REGS; i++) {
    struct oracle_reg *r = &o->regs[i];
    if (!r->real) continue;
    bool expected = oracle_stop(r);
    SAME("the last stop", rctx_after_stop(r->real), expected);
    free(r->real);
    r->real = NULL;
  }
}

static void close_run(struct ops *s) {
  begin_op(s, "finish everything");
  finish_everything(s);
  SAME("rctx_quiesce", rctx_quiesce(s->manager, INT64_MAX), 0);
  SAME("contexts the oracle has left", oracle_collect(&s->oracle), 0);
  ops_check(s, NULL);
  struct rctx_stats stats;
  rctx_stats(s->manager, &stats);
  SAME("contexts left", stats.contexts, 0);
  SAME("timers left", stats.timers, 0);
  SAME("deferred left", stats.deferred, 0);
  SAME("callbacks left", stats.callbacks, 0);
  SAME("rctx_manager_destroy", rctx_manager_destroy(s->manager), 0);
  SAME("pieces of memory left", s->memory.pieces, 0);
  ops_trace(s, "\n");
  free(s->trace);
  free(s);
}

size_t ops_run(const uint8_t *bytes, size_t size) {
  struct ops *s = open_run(bytes, size < OPS_BYTES_MAX ? size : OPS_BYTES_MAX);
  while (s->at < s->end && !full(s)) operations[take(s) % (sizeof operations / sizeof *operations)](s);
  size_t count = s->count;
  close_run(s);
  return count;
}
