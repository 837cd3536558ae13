// ops_run.h - the state of one run, shared by ops.c (the operations) and ops_check.c (the comparison).
#ifndef RCTX_TESTS_OPS_RUN_H
#define RCTX_TESTS_OPS_RUN_H

#include "oracle/oracle.h"

#include <stdarg.h>

enum { OPS_LOOPS = 2, OPS_VALUES = ORACLE_NODES * ORACLE_BINDINGS, OPS_CAUSES = 64, OPS_TASKS = ORACLE_REGS };
enum { OPS_TRACE_BYTES = 1 << 18, OPS_NESTING = 3 };

// The allocator: counts, remembers sizes, fails on request.
struct ops_memory {
  size_t pieces;
  size_t calls;
  unsigned fail_in;    // the request that finds 1 here fails ...
  unsigned fail_count; // ... and as many as this, altogether
  size_t failed;
};

struct ops_value {
  int id;
  int destroyed;
};

struct ops_cause {
  struct rctx_cause cause; // first: destroy(self) finds the rest
  int destroyed;
  bool used;
};

// What a callback does besides being counted.
struct ops_reg {
  struct oracle_reg *model;
  struct ops *ops;
  uint8_t action[4]; // an operation and its operands
  bool acts;
};

struct ops {
  struct oracle oracle;
  rctx_manager *manager;
  int64_t clock_ns;
  int64_t latest_ns; // that rctx has been told, by the clock or by an advance
  int64_t next_ns;   // what rctx_next() said last
  unsigned kicks;
  unsigned kicks_due; // since then: at least this many (0 or 1)
  struct ops_memory memory;
  bool no_descriptor; // the next rctx_fd() finds none
  rctx_loop *loops[OPS_LOOPS];
  size_t drained; // by the innermost drain
  int draining;   // its loop, or -1
  struct rctx_executor executor;
  struct rctx_task *tasks[OPS_TASKS];
  size_t ntasks;
  struct oracle_reg *executing;
  struct ops_reg regs[ORACLE_REGS];
  struct ops_value values[OPS_VALUES];
  size_t nvalues;
  struct ops_cause causes[OPS_CAUSES];
  size_t ncauses;
  void *noted[ORACLE_NODES]; // memory from rctx_alloc(), filled with the node's id
  int advancing;             // the nesting of the rctx_advance() that is running, or -1
  int64_t advancing_to_ns;
  const uint8_t *at;
  const uint8_t *end;
  size_t count;
  char *trace;
  size_t trace_length;
  bool trace_now;
};

extern struct rctx_key ops_keys[ORACLE_KEYS];

void ops_trace(struct ops *s, const char *format, ...) __attribute__((format(printf, 2, 3)));
_Noreturn void ops_differ(struct ops *s, const char *what, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

// SAME(what, got, expected): whole numbers; OUGHT(what, condition).
#define SAME(what, got, expected)                                                                                      \
  do {                                                                                                                 \
    int64_t got_ = (int64_t)(got), expected_ = (int64_t)(expected);                                                    \
    if (got_ != expected_) ops_differ(s, (what), "rctx %lld, oracle %lld", (long long)got_, (long long)expected_);     \
  } while (0)
#define OUGHT(what, condition)                                                                                         \
  do {                                                                                                                 \
    if (!(condition)) ops_differ(s, (what), "%s", #condition);                                                         \
  } while (0)

static inline bool ops_held(const struct oracle_node *n) { return n->handle || n->refs > 0; }

/** Whether fd polls readable. */
bool ops_readable(int fd);
/** Compare one held context in all that can be seen of it without asking everybody. */
void ops_check_node(struct ops *s, struct oracle_node *n);
/** Its values, its children, its description. */
void ops_check_node_deeply(struct ops *s, struct oracle_node *n);
/** Everything, after an operation. `touched` is looked at deeply. */
void ops_check(struct ops *s, struct oracle_node *touched);

#endif
