// oracle.h - what contexts mean, told as plainly as possible: one thread, no lists, no freeing, no cleverness.
//
// A model of a whole tree in one array, parents before children. Every answer is found by walking parent pointers or the
// whole array; slow, and hard to get wrong. tests/oracle/ops.c runs the same operations on it and on rctx and compares.
//
// It knows: err, cause and where it started; deadlines and ticks; values; handles, references and who keeps whom; which
// callbacks are registered, due, queued, submitted. It does not choose among orders that are not promised: ops.c tells it
// which callback runs next, or which of several due deadlines was handled, and it says whether that was allowed.
#ifndef RCTX_TESTS_ORACLE_H
#define RCTX_TESTS_ORACLE_H

#include <rctx/rctx.h>

enum { ORACLE_NODES = 160, ORACLE_REGS = 48, ORACLE_BINDINGS = 4, ORACLE_KEYS = 6 };

struct oracle_binding {
  int key;
  void *value;
  int *destroyed; // counts the calls of its destructor; NULL: it has none
};

// An end, as the context it started at has it. Those below point to that context.
struct oracle_end {
  int err;
  int origin;
  const struct rctx_cause *cause; // NULL: the library's own record, learned when first seen
  bool by_deadline;
};

struct oracle_node {
  int id;
  enum rctx_kind kind;
  const struct oracle_node *parent;
  const struct oracle_node *values_from; // NULL: the parent
  struct oracle_binding own[ORACLE_BINDINGS];
  size_t nown;
  const char *name;
  bool has_deadline; // its own
  int64_t deadline_ns;
  const struct rctx_cause *deadline_cause; // NULL: the library's own
  bool no_memory;                          // born ended with -ENOMEM: has nothing
  bool foreign;                            // below such a one: of the default manager
  struct oracle_node *start;               // NULL: live; else where the end came from
  struct oracle_end end;                   // if start is this node
  const struct rctx_cause *taken;          // the cause of a cancel that won here
  bool handle;
  unsigned refs;
  unsigned pins; // of the references those that operations under way need for themselves
  bool gone;
  bool has_fd;
  void *real; // the rctx
};

enum oracle_where { ORACLE_INLINE, ORACLE_LOOP, ORACLE_EXECUTOR };

enum oracle_reg_state {
  REG_QUIET,
  REG_REGISTERED,
  REG_NEVER,     // on a context that can never end
  REG_DUE,       // its context has ended; it must begin, be queued or be submitted before the operation returns
  REG_QUEUED,    // in its loop's queue
  REG_DROPPED,   // its loop was destroyed
  REG_SUBMITTED, // the executor has it
  REG_RUNNING,
  REG_NOTICE // the callback has returned, the notice of quiet is still to come
};

struct oracle_reg {
  enum oracle_reg_state state;
  enum oracle_where where;
  struct oracle_node *node;
  int loop;
  unsigned long sequence; // of registering
  int due_depth;          // the nesting of operations in which it came due; -1: that operation has returned
  bool late;              // registered when its context had ended
  bool notice_wanted;
  void *real; // the struct rctx_after
};

struct oracle {
  int64_t tick_ns;
  struct oracle_node nodes[ORACLE_NODES];
  int nnodes; // nodes[0] is the root
  struct oracle_reg regs[ORACLE_REGS];
  bool loop_gone[2];
  unsigned long sequence;
  int depth; // of the operation that is running: callbacks run operations, too
};

void oracle_init(struct oracle *o, int64_t tick_ns);

struct oracle_spec {
  enum rctx_kind kind; // CANCEL, VALUE or DETACHED; a deadline makes it DEADLINE
  bool has_deadline;
  int64_t deadline_ns;
  int64_t now_ns;
  const struct rctx_cause *deadline_cause;
  struct oracle_binding own[ORACLE_BINDINGS];
  size_t nown;
  const char *name;
  const struct oracle_node *values_from;
};

struct oracle_node *oracle_derive(struct oracle *o, struct oracle_node *parent, const struct oracle_spec *spec);
struct oracle_node *oracle_derive_no_memory(struct oracle *o, const struct oracle_spec *spec);

bool oracle_can_end(const struct oracle_node *n); // by itself: not a root, not detached
bool oracle_cancel(struct oracle *o, struct oracle_node *n, const struct rctx_cause *cause, int origin);
void oracle_end(struct oracle *o, struct oracle_node *n, const struct rctx_cause *cause);
void oracle_expire(struct oracle *o, struct oracle_node *n);
bool oracle_is_due(const struct oracle *o, const struct oracle_node *n, int64_t now_ns);
uint64_t oracle_deadline_tick(const struct oracle *o, int64_t deadline_ns);

int oracle_err(const struct oracle_node *n);
int oracle_why(const struct oracle_node *n, struct rctx_why *why); // why->cause NULL: the library's own
bool oracle_deadline(const struct oracle_node *n, int64_t *deadline_ns);
int64_t oracle_remaining_at(const struct oracle_node *n, int64_t now_ns);
bool oracle_get(const struct oracle_node *n, int key, void **value);
size_t oracle_visible(const struct oracle_node *n, struct oracle_binding *out); // nearest first, ORACLE_KEYS at most
size_t oracle_children(const struct oracle *o, const struct oracle_node *n);
size_t oracle_registrations(const struct oracle *o, const struct oracle_node *n);
size_t oracle_depth(const struct oracle_node *n);
bool oracle_armed(const struct oracle_node *n);

// Registering: what rctx answers. The registration becomes REGISTERED, NEVER, DUE or stays QUIET.
int oracle_register(struct oracle *o, struct oracle_reg *r, struct oracle_node *n, enum oracle_where where, int loop,
                    enum rctx_on_ended on_ended);
bool oracle_busy(const struct oracle_reg *r);
bool oracle_stop(struct oracle_reg *r);
bool oracle_may_begin(const struct oracle *o, const struct oracle_reg *r); // by order of registration on its context
void oracle_loop_destroy(struct oracle *o, int loop);
size_t oracle_queued(const struct oracle *o, int loop); // not those that an outer operation may still have to queue
void oracle_settle(struct oracle *o);                   // the operation returns
const struct oracle_reg *oracle_overdue(const struct oracle *o, int depth); // due at this depth or deeper, not begun

// Who is not kept by anybody any more is gone; returns how many contexts are left.
size_t oracle_collect(struct oracle *o);
size_t oracle_references(const struct oracle *o, const struct oracle_node *n);
size_t oracle_timers(const struct oracle *o);

#endif
