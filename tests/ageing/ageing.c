/*
 * ageing.c - is memory of contexts ever used again while somebody may still be looking at it?
 *
 *     ageing [--seconds N] [--seed N] [--readers N] [--updaters N] [--plant NAME] [--expect-fault]
 *
 * Families: a parent and what hangs below it, some with several child lists, some with a deadline that soon comes. Updaters derive
 * below them and end what they have made. Readers walk: they cancel, sweep, help, dump, visit, merge. A parent that has ended is
 * replaced. All memory goes through the pipe of pipe.h, and core/tree.c looks at the age of all that it touches
 * (seen_tree.c). One touch of something beyond stage 1 is a failure: exit code 1, with the histogram of ages.
 * Nothing seen in stage 1, or nothing that has come through the pipe, is one, too: then nothing was tested.
 *
 * --plant makes the library wrong (seen_tree.h); --expect-fault turns the exit code round: 0 if a fault was found.
 */
#include "ageing/pipe.h"
#include "ageing/seen_tree.h"

#include "core/rcu.h"
#include "core/tree.h"

#include <getopt.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

enum { FAMILIES = 8, CHILDREN = 192, DUMP_BYTES = 1 << 16, READERS_MAX = 24, WATCHDOG_SPARE_S = 120 };
enum { MS = 1000000, LIFE_MS_MAX = 8, TRIM_US = 300 };

static struct {
  long seconds, readers, updaters;
  bool expect_fault;
} options = {10, 2, 3, false};

static rctx_manager *manager;
static uint64_t seed;
static atomic_bool over;
static _Atomic uint64_t walks, derived;

static bool going_on(void) { return !atomic_load_explicit(&over, memory_order_relaxed); }

/* ---- families ---------------------------------------------------------------------------------------------------- */

/* A handle that several use: whoever uses it last ends it. */
struct parent {
  rctx *ctx;
  unsigned users; /* the family's lock; the family itself is one, as long as it is the family's */
};

static struct family {
  pthread_mutex_t lock;
  struct parent *parent;
  bool striped;
} families[FAMILIES];

static struct family *family_of(struct rng *rng) { return &families[rng_below(rng, FAMILIES)]; }

static struct parent *parent_get(struct family *family) {
  pthread_mutex_lock(&family->lock);
  struct parent *parent = family->parent;
  parent->users++;
  pthread_mutex_unlock(&family->lock);
  return parent;
}

static void parent_put(struct family *family, struct parent *parent) {
  pthread_mutex_lock(&family->lock);
  bool last = --parent->users == 0;
  pthread_mutex_unlock(&family->lock);
  if (!last) return;
  rctx_end(parent->ctx);
  free(parent);
}

static void nothing(const rctx *ctx, void *arg) {
  (void)ctx;
  (void)arg;
}

static struct parent *parent_new(const struct family *family, struct rng *rng) {
  struct parent *parent = malloc(sizeof *parent);
  const rctx *root = rctx_manager_background(manager);
  bool timed = rng_one_in(rng, 3);
  *parent = (struct parent){
      timed ? rctx_with_timeout(root, rng_between(rng, 1, LIFE_MS_MAX) * MS) : rctx_with_cancel(root), 1};
  if (family->striped) seen_make_stripes(parent->ctx);
  return parent;
}

/* The caller uses the parent. It has ended: the next one takes its place, if it has not yet. */
static void parent_replace(struct family *family, const struct parent *ended, struct rng *rng) {
  struct parent *fresh = parent_new(family, rng), *old = fresh;
  pthread_mutex_lock(&family->lock);
  if (family->parent == ended) {
    old = family->parent;
    family->parent = fresh;
  }
  pthread_mutex_unlock(&family->lock);
  parent_put(family, old);
}

/* ---- updaters ---------------------------------------------------------------------------------------------------- */

/* What an updater has made: a child, one below it or beside it perhaps, and a registration. */
struct made {
  rctx *child, *other;
  struct rctx_after after;
};

static void unmake(struct made *made, struct rng *rng) {
  if (made->child == NULL) return;
  rctx_after_stop_sync(&made->after);
  rctx *first = made->child, *second = made->other;
  if (second && rng_one_in(rng, 2)) {
    first = made->other;
    second = made->child;
  }
  if (rng_one_in(rng, 3)) {
    rctx_drop(first);
  } else {
    rctx_end(first);
  }
  if (second) rctx_end(second);
  *made = (struct made){0};
}

static rctx *merge_with_another(const rctx *parent, struct rng *rng) {
  struct family *family = family_of(rng);
  struct parent *another = parent_get(family);
  rctx *merge = rctx_merge_any((const rctx *[]){parent, another->ctx}, 2);
  parent_put(family, another);
  return merge;
}

static void make(struct made *made, struct rng *rng) {
  struct family *family = family_of(rng);
  struct parent *parent = parent_get(family);
  bool watched = false;
  switch (rng_below(rng, 8)) {
  case 0:
    made->child = rctx_with_timeout(parent->ctx, rng_between(rng, 1, 3 * LIFE_MS_MAX) * MS);
    break;
  case 1:
    made->child = merge_with_another(parent->ctx, rng);
    break;
  case 2:
    made->child = rctx_without_cancel(parent->ctx);
    made->other = rctx_with_cancel(made->child);
    break;
  case 3:
  case 4:
    made->child = rctx_with_cancel(parent->ctx);
    made->other = rctx_with_cancel(made->child);
    break;
  case 5:
    watched = true; /* fall through */
  default:
    made->child = rctx_with_cancel(parent->ctx);
  }
  if (watched) rctx_after_inline(made->child, &made->after, RCTX_ON_ENDED_TELL, nothing, NULL);
  if (rctx_err(parent->ctx)) parent_replace(family, parent, rng);
  parent_put(family, parent);
}

static void update(struct rng *rng) {
  struct made made[CHILDREN] = {0};
  uint64_t n = 0;
  for (; going_on(); n++) {
    struct made *one = &made[rng_below(rng, CHILDREN)];
    unmake(one, rng);
    make(one, rng);
  }
  for (int i = 0; i < CHILDREN; i++) unmake(&made[i], rng);
  atomic_fetch_add(&derived, n);
}

/* ---- readers ----------------------------------------------------------------------------------------------------- */

static int into_nothing(const char *text, size_t size, void *arg) {
  (void)text;
  (void)size;
  (void)arg;
  return 0;
}

static void sweep(rctx *ctx, struct rng *rng) {
  struct rctx_sweep sweep;
  if (!rctx_cancel_begin(ctx, NULL, &sweep)) return;
  while (rctx_cancel_step(&sweep, 1 + rng_below(rng, 8))) {
    if (rng_one_in(rng, 4)) sched_yield();
  }
}

static bool count_it(rctx *child, struct rctx__visitor *visitor) {
  (void)child;
  (void)visitor;
  return true;
}
static bool enter_it(rctx *node, uint32_t state, struct rctx__visitor *visitor) {
  (void)node;
  (void)state;
  (void)visitor;
  return true;
}

static void walk_once(struct rng *rng, char *room) {
  struct family *family = family_of(rng);
  struct parent *parent = parent_get(family);
  struct rctx__visitor counting = {enter_it, count_it, NULL, false};
  switch (rng_below(rng, 8)) {
  case 0:
    rctx_dump(parent->ctx, (enum rctx_dump_format)rng_below(rng, 3), room, DUMP_BYTES, into_nothing, NULL);
    break;
  case 1:
    rctx__visit_below(parent->ctx, &counting);
    break;
  case 2:
  case 3:
    sweep(parent->ctx, rng);
    rctx_cancel(parent->ctx);
    break;
  default:
    rctx_cancel(parent->ctx); /* or helps another who does */
  }
  if (rctx_err(parent->ctx)) parent_replace(family, parent, rng);
  parent_put(family, parent);
}

static void walk(struct rng *rng) {
  char *room = malloc(DUMP_BYTES);
  uint64_t n = 0;
  for (; going_on(); n++) {
    walk_once(rng, room);
    struct timespec nap = {0, (long)rng_below(rng, 300) * 1000}; /* families grow meanwhile */
    nanosleep(&nap, NULL);
  }
  atomic_fetch_add(&walks, n);
  free(room);
}

/* Deadlines are walks, too; and what waits for a grace period is let go. */
static void expire(struct rng *rng) {
  (void)rng;
  while (going_on()) {
    rctx_advance(manager, rctx_now(), 0);
    rctx_trim(manager);
    struct timespec nap = {0, TRIM_US * 1000};
    nanosleep(&nap, NULL);
  }
}

/* ---- the run ----------------------------------------------------------------------------------------------------- */

struct worker {
  pthread_t id;
  void (*body)(struct rng *rng);
  uint64_t seed;
};

/* A thread's first read section may be one that liburcu does not know (rcu.h); pipe_turn() would not wait for it. */
static void become_a_reader(void) {
  bool registered = false;
  while (!registered) {
    registered = rctx__rcu_enter();
    rctx__rcu_leave(registered);
  }
}

static void *work(void *arg) {
  const struct worker *worker = arg;
  struct rng rng;
  rng_init(&rng, worker->seed);
  become_a_reader();
  pipe_join(worker->seed + 1000);
  worker->body(&rng);
  return NULL;
}

static void open_all(void) {
  struct rctx_manager_options manager_options = {
      .drive = RCTX_DRIVE_EMBEDDER, .uncached = true, .allocator = {pipe_alloc, pipe_free, NULL}};
  struct rng rng;
  pipe_open();
  if (rctx_manager_create(&manager_options, &manager) != 0) abort();
  rng_init(&rng, seed);
  for (int i = 0; i < FAMILIES; i++) {
    families[i] = (struct family){.striped = i % 2};
    pthread_mutex_init(&families[i].lock, NULL);
    families[i].parent = parent_new(&families[i], &rng);
  }
}

/* Until the time is over, or something was found. */
static void run(void) {
  struct worker workers[2 * READERS_MAX + 1];
  unsigned n = 0;
  for (long i = 0; i < options.readers; i++) workers[n++].body = walk;
  for (long i = 0; i < options.updaters; i++) workers[n++].body = update;
  workers[n++].body = expire;
  for (unsigned i = 0; i < n; i++) {
    workers[i].seed = seed + i;
    if (pthread_create(&workers[i].id, NULL, work, &workers[i]) != 0) abort();
  }
  int64_t end_ns = rctx_now() + options.seconds * 1000 * MS;
  while (rctx_now() < end_ns && pipe_faults() == 0) {
    pipe_turn();
    sched_yield();
  }
  atomic_store(&over, true);
  if (pipe_faults() > 0) return;  /* what is broken need not come to a clean end */
  for (bool left = true; left;) { /* who waits for memory waits for us */
    pipe_turn();
    left = false;
    for (unsigned i = 0; i < n; i++) {
      if (workers[i].id == 0) continue;
      if (pthread_tryjoin_np(workers[i].id, NULL) == 0) workers[i].id = 0;
      left = true;
    }
  }
}

/* 0: all memory came back. */
static int close_all(void) {
  struct rctx_stats left;
  for (int i = 0; i < FAMILIES; i++) parent_put(&families[i], families[i].parent);
  int rc = rctx_quiesce(manager, INT64_MAX);
  rctx_stats(manager, &left);
  if (rc == 0) rc = rctx_manager_destroy(manager);
  if (rc != 0 || left.contexts != 0 || left.deferred != 0) {
    fprintf(stderr, "ageing: left over: %d, %zu contexts, %zu deferred\n", rc, left.contexts, left.deferred);
    return 1;
  }
  return 0;
}

static int judge(void) {
  struct pipe_counts counts;
  bool found = pipe_faults() > 0;
  int left = found ? 0 : close_all();
  pipe_count(&counts);
  pipe_print(&counts, stdout);
  printf("%" PRIu64 " walks and visits, %" PRIu64 " derivations of updaters\n", atomic_load(&walks),
         atomic_load(&derived));
  if (options.expect_fault) {
    printf("planted %s: %s\n", plant_names[planted], found ? "found" : "NOT FOUND");
    return !found;
  }
  if (found) printf("FAILED: something was touched that had been given back (beyond stage 1)\n");
  bool tested = counts.seen[STAGE_UNLINKED] > 0 && counts.reused > 0;
  if (!found && !tested)
    printf("FAILED: nothing was seen in stage 1, or nothing came through the pipe: nothing was tested\n");
  if (!found && counts.handed_out != counts.given_back) {
    printf("FAILED: not everything was given back\n");
    left = 1;
  }
  return found || !tested || left;
}

/* ---- options ----------------------------------------------------------------------------------------------------- */

static void bite(int number) {
  static const char text[] = "ageing: watchdog: it hangs\n";
  (void)number;
  if (write(STDERR_FILENO, text, sizeof text - 1) < 0) abort();
  abort();
}

static bool number(const char *text, long least, long most, long *value) {
  char *end;
  *value = strtol(text, &end, 0);
  return *text && !*end && *value >= least && *value <= most;
}

static bool plant(const char *name) {
  for (unsigned i = 0; i < PLANTS; i++) {
    if (strcmp(name, plant_names[i]) != 0) continue;
    planted = (enum plant)i;
    return true;
  }
  return false;
}

static bool parse(int argc, char **argv) {
  static const struct option known[] = {
      {"seconds", required_argument, NULL, 's'},
      {"seed", required_argument, NULL, 'r'},
      {"readers", required_argument, NULL, 'R'},
      {"updaters", required_argument, NULL, 'U'},
      {"plant", required_argument, NULL, 'p'},
      {"expect-fault", no_argument, NULL, 'e'},
      {NULL, 0, NULL, 0},
  };
  bool good = true;
  for (int option; good && (option = getopt_long(argc, argv, "", known, NULL)) != -1;) {
    if (option == 's') good = number(optarg, 1, 1000000, &options.seconds);
    if (option == 'r') good = setenv("RCTX_SEED", optarg, 1) == 0;
    if (option == 'R') good = number(optarg, 1, READERS_MAX, &options.readers);
    if (option == 'U') good = number(optarg, 1, READERS_MAX, &options.updaters);
    if (option == 'p') good = plant(optarg);
    if (option == 'e') options.expect_fault = true;
    if (option == '?') good = false;
  }
  return good && optind == argc;
}

int main(int argc, char **argv) {
  if (!parse(argc, argv)) {
    fprintf(stderr,
            "usage: ageing [--seconds N] [--seed N] [--readers 1..%d] [--updaters 1..%d] [--expect-fault]\n"
            "              [--plant none|no-grace-period|not-deferred|no-read-section]\n",
            READERS_MAX, READERS_MAX);
    return 2;
  }
  seed = seed_get();
  signal(SIGALRM, bite);
  alarm((unsigned)options.seconds + WATCHDOG_SPARE_S);
  open_all();
  run();
  int failed = judge();
  fflush(stdout);
  _exit(failed); /* threads may still run where something was found */
}
