// rows.h - one row for each public call: how it is called, and which faults it may report or does without.
//
// A row's function makes what the call needs, calls faulty(), the call, sound(), judges the answer, and clears away. It returns
// what the call said: 0 (it did its work) or the error. faults_test.c runs it again and again with a fault at each place.
#ifndef RCTX_TESTS_FAULTS_ROWS_H
#define RCTX_TESTS_FAULTS_ROWS_H

#include "support/check.h"
#include "support/faults.h"

#include <rctx/rctx.h>
#include <rctx/testing.h>
#include <stdatomic.h>

#define MS INT64_C(1000000)
#define SECOND INT64_C(1000000000)
#define HOUR (3600 * SECOND)

// What a row has: a manager of its own, and contexts of it that another thread has made.
struct bench {
  rctx_manager *manager;
  const rctx *root;
  rctx *parent; // live, stays so
  rctx *spare;  // live, with a child; for rows that end something: by spare_taken()
  rctx *below;
  enum faults_kind kind;
  uint64_t nth;
  bool on;
  int error;
  bool armed; // else faulty() does nothing
  struct faults_seen seen;
  atomic_int calls; // of whatever the row counts
};

void faulty(struct bench *b);
void sound(struct bench *b);
rctx *spare_taken(struct bench *b);

// How a call takes the failure of what it asks for. FAILS: reports it, at some place. WITHOUT: works all the same, at some place.
// MAYBE: as WITHOUT, and whether it asks at all is up to other threads. None of a kind: asks for nothing of it.
enum says {
  NOTHING = 0,
  MEMORY_FAILS = 1 << 0,
  MEMORY_WITHOUT = 1 << 1,
  MEMORY_MAYBE = 1 << 2,
  MEMORY_IS_EAGAIN = 1 << 3, // no memory for a thread is no thread
  EVENTFD_FAILS = 1 << 4,
  THREAD_FAILS = 1 << 5,
  THREAD_WITHOUT = 1 << 6,
  THREAD_MAYBE = 1 << 7,
  POLL_FAILS = 1 << 8,  // -EINTR
  WRITE_FAILS = 1 << 9, // -EINTR
  DERIVES = MEMORY_FAILS | MEMORY_WITHOUT * 0,
  ENDS = MEMORY_MAYBE,           // may set up the thread's cache, or do without
  TIMED = DERIVES | THREAD_FAILS // its timer needs the thread
};

struct row {
  const char *name;
  unsigned says; // enum says
  int (*run)(struct bench *b);
};
extern const struct row rows_tree[], rows_work[], rows_quiet[], rows_wire[]; // each ends with a NULL

#define ROW(name, says)                                                                                                \
  { #name, (says), name##_row }

// A call that neither fails nor asks for anything: an expression that is true if it did its work.
#define QUIET(name, ...)                                                                                               \
  static int name##_row(struct bench *b) {                                                                             \
    faulty(b);                                                                                                         \
    bool right = (__VA_ARGS__);                                                                                        \
    sound(b);                                                                                                          \
    cr_assert(right, "%s", #name);                                                                                     \
    return 0;                                                                                                          \
  }

#endif
