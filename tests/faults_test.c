// Every public call with every fault at every place: one row per call (faults/rows_*.c), swept by what the row asks for.
//
// Each run has a thread and a manager of its own. After a failure the same call is made again, and must work; when the manager has
// been destroyed, and the thread has gone, everything that was asked for has been given back.
#include "faults/rows.h"
#include "support/leftovers.h"
#include "support/tasks.h"
#include "support/watchdog.h"

#include <ctype.h>
#include <glob.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>

#ifndef FAULTS_HEADERS
#define FAULTS_HEADERS "include/rctx" // CMake gives the whole path
#endif

static void watch(void) { watchdog(90); }
TestSuite(faults, .init = watch, .fini = nothing_left_by_default, .timeout = 120);

static const struct row *const tables[] = {rows_tree, rows_work, rows_quiet, rows_wire};
enum { TABLES = sizeof tables / sizeof *tables };

/* ---- one run ----------------------------------------------------------------------------------------------------- */

void faulty(struct bench *b) {
  if (b->armed) faults_arm(b->kind, b->nth, b->on, b->error);
}

void sound(struct bench *b) {
  struct faults_seen seen = faults_disarm();
  if (b->armed) b->seen = seen;
  b->armed = false;
}

rctx *spare_taken(struct bench *b) {
  rctx *spare = b->spare;
  b->spare = NULL;
  return spare;
}

struct fault {
  const char *name;
  enum faults_kind kind;
  int error;
  unsigned fails, without, maybe; // which of a row's marks speak of it
  unsigned ways;                  // enum way: what is also tried
  bool some;                      // not every row that says so meets it
};

enum way { FOR_EVER = 1, UNCACHED = 2, WARM = 4, ALL_WAYS = 7 };

// How a run goes, and what came of it.
struct run {
  const struct row *row;
  const struct fault *fault;
  uint64_t nth;
  bool on, uncached, warm; // warm: the thread has used the manager before
  struct bench bench;
  int err;
};

static void *run_row(void *arg) {
  struct run *run = arg;
  if (run->warm) rctx_end(rctx_with_value(run->bench.parent, &(struct rctx_key){.name = "k"}, NULL));
  run->bench.armed = true;
  run->err = run->row->run(&run->bench);
  sound(&run->bench);
  if (run->err != 0) cr_assert_eq(run->row->run(&run->bench), 0, "%s: a second try fails", run->row->name);
  return NULL;
}

static void open_bench(struct run *run) {
  struct bench *b = &run->bench;
  struct rctx_manager_options options = {.uncached = run->uncached};
  *b = (struct bench){.kind = run->fault->kind, .nth = run->nth, .on = run->on, .error = run->fault->error};
  cr_assert_eq(rctx_manager_create(&options, &b->manager), 0);
  b->root = rctx_manager_background(b->manager);
  b->parent = rctx_with_cancel(b->root);
  b->spare = rctx_with_cancel(b->parent);
  b->below = rctx_with_cancel(b->spare);
  cr_assert_eq(rctx_err(b->below), 0);
}

static void close_bench(struct run *run) {
  struct bench *b = &run->bench;
  cr_assert_eq(rctx_err(b->parent), 0, "%s has ended its parent", run->row->name);
  if (b->below) rctx_end(b->below);
  if (b->spare) rctx_end(b->spare);
  rctx_end(b->parent);
  nothing_left(b->manager);
  cr_assert_eq(rctx_manager_destroy(b->manager), 0);
  rctx_trim(rctx_manager_default()); // what hangs below a refused context is its
}

static void run_once(struct run *run) {
  pthread_t thread;
  struct faults_open before = faults_open(), after;
  open_bench(run);
  cr_assert_eq(pthread_create(&thread, NULL, run_row, run), 0);
  pthread_join(thread, NULL);
  close_bench(run);
  if (run->nth == 0 || faults_open_is(before)) return; // 0: what the process keeps for good is made
  after = faults_open();
  cr_assert_fail("%s with %s number %llu failing leaves behind: pieces %lld, maps %lld, eventfds %lld, threads %lld",
                 run->row->name, run->fault->name, (unsigned long long)run->nth,
                 (long long)(after.pieces - before.pieces), (long long)(after.maps - before.maps),
                 (long long)(after.eventfds - before.eventfds), (long long)(after.threads - before.threads));
}

/* ---- the sweep --------------------------------------------------------------------------------------------------- */

// What a row may report when this fault has met it.
static bool err_is_documented(const struct run *run) {
  if (run->err == 0) return true;
  if (!(run->row->says & run->fault->fails)) return false;
  if (run->err == -run->fault->error) return true;
  return run->fault->kind != FAULT_THREAD && (run->row->says & MEMORY_IS_EAGAIN) && run->err == -EAGAIN;
}

// The marks of this run: what the row must have said to be allowed it.
static unsigned judge(const struct run *run) {
  const struct fault *fault = run->fault;
  const char *name = run->row->name;
  unsigned long long nth = run->nth;
  unsigned asked = fault->fails | fault->without | fault->maybe;
  bool refused = run->bench.seen.refused > 0;
  cr_assert(err_is_documented(run), "%s with %s number %llu failing: %d", name, fault->name, nth, run->err);
  cr_assert(refused || run->err == 0, "%s: %d without a fault", name, run->err);
  if (asked && run->bench.seen.requests > 0)
    cr_assert(run->row->says & asked, "%s: asks for %s, its row says it does not", name, fault->name);
  if (!refused) return 0;
  if (run->err != 0) return fault->fails;
  if (!asked) return 0;
  cr_assert(run->row->says & (fault->without | fault->maybe), "%s works without %s number %llu, its row says it fails",
            name, fault->name, nth);
  return run->row->says & fault->without;
}

enum { PLACES_MAX = 200 };

// All places of one row; returns how many runs met the fault.
static unsigned sweep(const struct row *row, const struct fault *fault) {
  unsigned marks = 0, runs = 0;
  for (unsigned way = 0; way <= ALL_WAYS; way++) {
    if (way & ~fault->ways) continue;
    struct run run = {.row = row, .fault = fault, .on = way & FOR_EVER, .uncached = way & UNCACHED, .warm = way & WARM};
    run_once(&run);
    judge(&run);
    if (run.bench.seen.requests == 0) continue;
    for (run.nth = 1; run.nth <= PLACES_MAX; run.nth++) {
      run_once(&run);
      marks |= judge(&run);
      if (run.bench.seen.refused == 0) break;
      runs++;
    }
    if (fault->kind != FAULT_FUTEX)
      cr_assert_leq(run.nth, PLACES_MAX, "%s never gets to a run without a fault", row->name);
  }
  unsigned expected = row->says & (fault->fails | fault->without);
  if (fault->some) return runs;
  cr_assert_eq(marks, expected, "%s and %s: its row says %x, seen was %x", row->name, fault->name, expected, marks);
  return runs;
}

static void sweep_all(const struct fault *fault) {
  unsigned rows = 0, runs = 0;
  rctx_end(rctx_with_signal(rctx_background(), SIGUSR1, 0)); // its thread is the process's
  tasks_rest();
  for (size_t t = 0; t < TABLES; t++)
    for (const struct row *row = tables[t]; row->name; row++, rows++) runs += sweep(row, fault);
  cr_log_info("%s: %u calls, %u runs that met the fault", fault->name, rows, runs);
  cr_assert(runs > 0);
}

#define SWEEP(what, ...)                                                                                               \
  Test(faults, what) { sweep_all(&(struct fault){.name = #what, __VA_ARGS__}); }

#define MEMORY_MARKS .fails = MEMORY_FAILS, .without = MEMORY_WITHOUT, .maybe = MEMORY_MAYBE
#define THREAD_MARKS .fails = THREAD_FAILS, .without = THREAD_WITHOUT, .maybe = THREAD_MAYBE
SWEEP(no_memory, .kind = FAULT_MEMORY, .error = ENOMEM, MEMORY_MARKS, .ways = ALL_WAYS)
SWEEP(no_memory_for_what_a_thread_keeps, .kind = FAULT_SPECIFIC, .error = ENOMEM, MEMORY_MARKS, .some = true,
      .ways = FOR_EVER)
SWEEP(eventfd_EMFILE, .kind = FAULT_EVENTFD, .error = EMFILE, .fails = EVENTFD_FAILS, .ways = FOR_EVER)
SWEEP(eventfd_ENFILE, .kind = FAULT_EVENTFD, .error = ENFILE, .fails = EVENTFD_FAILS, .ways = FOR_EVER)
SWEEP(eventfd_ENOMEM, .kind = FAULT_EVENTFD, .error = ENOMEM, .fails = EVENTFD_FAILS, .ways = FOR_EVER)
SWEEP(thread_EAGAIN, .kind = FAULT_THREAD, .error = EAGAIN, THREAD_MARKS, .ways = FOR_EVER | WARM)
SWEEP(mmap_ENOMEM, .kind = FAULT_MAP, .error = ENOMEM, .ways = FOR_EVER)
SWEEP(write_EINTR, .kind = FAULT_WRITE, .error = EINTR)
SWEEP(read_EINTR, .kind = FAULT_READ, .error = EINTR)
SWEEP(poll_EINTR, .kind = FAULT_POLL, .error = EINTR, .fails = POLL_FAILS, .ways = FOR_EVER)

// A sleep that ends for no reason, once and again and again.
SWEEP(futex_EINTR, .kind = FAULT_FUTEX, .error = EINTR, .ways = FOR_EVER)
SWEEP(futex_EAGAIN, .kind = FAULT_FUTEX, .error = EAGAIN, .ways = FOR_EVER)
SWEEP(futex_spurious, .kind = FAULT_FUTEX, .error = FAULTS_SPURIOUS, .ways = FOR_EVER)

/* ---- the table is complete --------------------------------------------------------------------------------------- */

static const struct row *row_of(const char *name) {
  for (size_t t = 0; t < TABLES; t++)
    for (const struct row *row = tables[t]; row->name; row++)
      if (strcmp(row->name, name) == 0) return row;
  return NULL;
}

// Called in the child of a fork only, under faults in faults_exit_test.c.
static bool elsewhere(const char *name) { return strcmp(name, "rctx_after_fork_child") == 0; }

// The name declared by `RCTX_API type name(`; advances *at behind it. False: there is no further one.
static bool next_declared(const char **at, char name[128]) {
  for (;;) {
    const char *api = strstr(*at, "RCTX_API ");
    if (!api) return false;
    const char *open = api + strcspn(api, "(;");
    *at = open;
    if (*open != '(' || strncmp(api, "RCTX_API __attribute__", 22) == 0) continue; // a variable; the macro itself
    const char *begin = open;
    while (begin > api && (isalnum((unsigned char)begin[-1]) || begin[-1] == '_')) begin--;
    snprintf(name, 128, "%.*s", (int)(open - begin), begin);
    return true;
  }
}

// How many have none; say: and name them.
static size_t declared_without_row(const char *text, size_t *declared, bool say) {
  size_t missing = 0;
  for (char name[128]; next_declared(&text, name);) {
    ++*declared;
    if (strncmp(name, "rctx__", 6) == 0 || elsewhere(name) || row_of(name)) continue;
    if (say) cr_log_error("%s() has no row in tests/faults/rows_*.c", name);
    missing++;
  }
  return missing;
}

static void read_file(const char *path, char *text, size_t size) {
  FILE *file = fopen(path, "r");
  cr_assert_not_null(file, "%s", path);
  size_t length = fread(text, 1, size - 1, file);
  cr_assert(feof(file) || length < size - 1, "%s is too long", path);
  fclose(file);
  text[length] = 0;
}

Test(faults, every_public_call_has_a_row) {
  static char text[1 << 17];
  size_t declared = 0, missing = 0, rows = 0;
  glob_t headers;
  cr_assert_eq(glob(FAULTS_HEADERS "/*.h", 0, NULL, &headers), 0);
  for (size_t i = 0; i < headers.gl_pathc; i++) {
    read_file(headers.gl_pathv[i], text, sizeof text);
    missing += declared_without_row(text, &declared, true);
  }
  globfree(&headers);
  for (size_t t = 0; t < TABLES; t++)
    for (const struct row *row = tables[t]; row->name; row++) rows++;
  cr_log_info("%zu declarations, %zu rows", declared, rows);
  cr_assert_gt(declared, 150, "the headers were read");
  cr_assert_eq(missing, 0);
}

Test(faults, a_call_without_a_row_would_be_seen) {
  size_t declared = 0;
  cr_assert_eq(declared_without_row("RCTX_API int rctx_wait(const rctx *c);\nRCTX_API rctx *\nrctx_new_thing(void);",
                                    &declared, false),
               1);
  cr_assert_eq(declared, 2);
}
