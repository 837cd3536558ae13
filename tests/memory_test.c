// Memory: running out of it at every single request, no malloc in the steady state, size of a node, nothing kept.
#include "support/check.h"
#include "support/counting.h"
#include "support/threads.h"

#include <stdlib.h>

#define SECOND INT64_C(1000000000)

TestSuite(memory, .timeout = 120);

static const struct rctx_key key = {.name = "key"}, other_key = {.name = "other"};

static void never_called(const rctx *ctx, void *arg) {
  (void)ctx;
  (void)arg;
  abort();
}

static void count_value(void *counter) { ++*(int *)counter; }
static void count_cause(const struct rctx_cause *self) { ++*(int *)self->user; }

/* ---- failing at the nth request ---------------------------------------------------------------------------------- */

enum { VALUES = 40 };

struct owned { // what is handed to one derivation, and how often each was destroyed
  struct rctx_cause cause;
  struct rctx_value values[VALUES];
  int destroyed[VALUES], cause_destroyed;
};

static void prepare(struct owned *owned) {
  memset(owned, 0, sizeof *owned);
  owned->cause =
      (struct rctx_cause){-ETIMEDOUT, RCTX_ORIGIN_USER, "slow", NULL, 0, &owned->cause_destroyed, count_cause};
  for (int i = 0; i < VALUES; i++)
    owned->values[i] = (struct rctx_value){i ? &key : &other_key, &owned->destroyed[i], count_value};
}

typedef rctx *(*derivation)(const rctx *parent, struct owned *owned);

static rctx *d_cancel(const rctx *parent, struct owned *owned) {
  (void)owned;
  return rctx_with_cancel(parent);
}
static rctx *d_timeout(const rctx *parent, struct owned *owned) {
  (void)owned;
  return rctx_with_timeout(parent, 3600 * SECOND);
}
static rctx *d_deadline(const rctx *parent, struct owned *owned) {
  (void)owned;
  return rctx_with_deadline(parent, INT64_MAX);
}
static rctx *d_past(const rctx *parent, struct owned *owned) {
  return rctx_with_timeout_cause(parent, -1, &owned->cause);
}
static rctx *d_cause(const rctx *parent, struct owned *owned) {
  return rctx_with_timeout_cause(parent, 3600 * SECOND, &owned->cause);
}
static rctx *d_value(const rctx *parent, struct owned *owned) { return rctx_with_value(parent, &key, owned); }
static rctx *d_values(const rctx *parent, struct owned *owned) {
  return rctx_with_values(parent, owned->values, VALUES);
}
static rctx *d_detached(const rctx *parent, struct owned *owned) {
  (void)owned;
  return rctx_without_cancel(parent);
}
static rctx *d_whole(const rctx *parent, struct owned *owned) {
  return rctx_derive(parent, &(struct rctx_spec){.timeout_ns = 3600 * SECOND,
                                                 .deadline_cause = &owned->cause,
                                                 .values = owned->values,
                                                 .nvalues = VALUES,
                                                 .name = "whole"});
}

// What a derivation that got no memory looks like: ended, named as such, and harmless in every way.
static void is_born_without_memory(rctx *c) {
  struct rctx_why why;
  struct rctx_after node = {0};
  void *value;
  int64_t deadline;
  cr_assert_eq(rctx_err(c), -ENOMEM);
  cr_assert_eq(rctx_why(c, &why), -ENOMEM);
  cr_assert_eq(why.origin, RCTX_ORIGIN_MEMORY);
  cr_assert_not_null(rctx_cause(c));
  cr_assert_eq(rctx_wait(c, INT64_MAX), -ENOMEM);
  cr_assert_not(rctx_deadline(c, &deadline), "without deadline");
  cr_assert_not(rctx_get(c, &key, &value), "without values");
  cr_assert_not(rctx_cancel(c));
  cr_assert_eq(rctx_after_inline(c, &node, RCTX_ON_ENDED_TELL, never_called, NULL), RCTX_ENDED);
  rctx_unref(rctx_ref(c));
  RCTX_SCOPED rctx *below = rctx_with_cancel(c);
  cr_assert_eq(rctx_err(below), -ENOMEM, "the failure travels down");
}

static void all_destroyed(const struct owned *owned, bool values, bool cause) {
  for (int i = 0; i < VALUES; i++)
    cr_assert_eq(owned->destroyed[i], values, "value %d: %d times", i, owned->destroyed[i]);
  cr_assert_eq(owned->cause_destroyed, cause, "cause: %d times", owned->cause_destroyed);
}

// Fails request n = 1, 2, 3 ... of one derivation until it needs no more; returns how many were refused.
static int sweep(derivation derive, bool values, bool cause, bool uncached, bool below) {
  int64_t n = 1;
  for (bool refused = true; refused; n++) {
    struct owned owned;
    counting_open(uncached);
    rctx *parent = rctx_with_cancel(counting_root());
    cr_assert_eq(rctx_err(parent), 0);
    prepare(&owned);
    counting_fail_at(n);
    rctx *c = derive(below ? parent : counting_root(), &owned);
    refused = counting_fail_at(0);
    cr_assert_not_null(c, "never NULL");
    if (rctx_err(c) == -ENOMEM) {
      cr_assert(refused);
      all_destroyed(&owned, values, cause); // before return: it could not keep them
      is_born_without_memory(c);
    } else {
      cr_assert_not(refused, "request %lld was refused, and yet: %d", (long long)n, rctx_err(c));
    }
    rctx_end(c);
    rctx_end(parent);
    counting_close(); // nothing leaked
    all_destroyed(&owned, values, cause);
  }
  return (int)(n - 2);
}

Test(memory, running_out_of_it_in_every_derivation__ENOMEM) {
  static const struct {
    derivation derive;
    const char *name;
    bool values, cause;
  } all[] = {{d_cancel, "cancel", 0, 0}, {d_timeout, "timeout", 0, 0},   {d_deadline, "deadline", 0, 0},
             {d_past, "past", 0, 1},     {d_cause, "cause", 0, 1},       {d_value, "value", 0, 0},
             {d_values, "values", 1, 0}, {d_detached, "detached", 0, 0}, {d_whole, "whole", 1, 1}};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++)
    for (int variant = 0; variant < 4; variant++) {
      bool uncached = variant & 1, below = variant & 2;
      int refused = sweep(all[i].derive, all[i].values, all[i].cause, uncached, below);
      if (uncached) cr_assert_geq(refused, 1, "%s: every node is a request here", all[i].name);
    }
}

Test(memory, after_running_out_it_works_again) {
  counting_open(true);
  RCTX_SCOPED rctx *parent = rctx_with_cancel(counting_root());
  for (int i = 0; i < 100; i++) {
    counting_fail_at(1);
    RCTX_SCOPED rctx *failed = rctx_with_cancel(parent);
    cr_assert(counting_fail_at(0));
    cr_assert_eq(rctx_err(failed), -ENOMEM);
    RCTX_SCOPED rctx *worked = rctx_with_cancel(parent);
    cr_assert_eq(rctx_err(worked), 0);
  }
  cr_assert_eq(rctx_err(parent), 0);
  rctx_end(parent);
  parent = NULL;
  counting_close();
}

Test(memory, an_arena_without_memory_gives_null__ENOMEM) {
  for (int64_t n = 1, refused = 1; refused; n++) {
    counting_open(true);
    rctx *c = rctx_with_cancel(counting_root());
    counting_fail_at(n);
    bool any_null = false;
    for (int i = 0; i < 20; i++) any_null |= !rctx_alloc(c, (size_t)i * 300);
    refused = counting_fail_at(0);
    cr_assert_eq(any_null, refused != 0);
    cr_assert_eq(rctx_err(c), 0, "and the context is unharmed");
    cr_assert_not_null(rctx_alloc(c, 64));
    rctx_end(c);
    counting_close();
  }
}

Test(memory, a_descriptor_without_memory_says_so__ENOMEM) {
  for (int64_t n = 1, refused = 1; refused; n++) {
    counting_open(true);
    rctx *c = rctx_with_cancel(counting_root());
    counting_fail_at(n);
    int fd = rctx_fd(c);
    refused = counting_fail_at(0);
    if (refused)
      cr_assert_eq(fd, -ENOMEM);
    else
      cr_assert_geq(fd, 0);
    cr_assert_geq(rctx_fd(c), 0, "may be tried again");
    rctx_end(c);
    counting_close();
  }
}

Test(memory, a_manager_without_memory_is_refused__ENOMEM) {
  for (int64_t n = 1, refused = 1; refused; n++) {
    struct rctx_manager_options options = {
        .drive = RCTX_DRIVE_EMBEDDER, .allocator = counting_table(), .uncached = true};
    rctx_manager *made = NULL;
    counting_fail_at(n);
    int err = rctx_manager_create(&options, &made);
    refused = counting_fail_at(0);
    cr_assert_eq(err, refused ? -ENOMEM : 0);
    if (err == 0) cr_assert_eq(rctx_manager_destroy(made), 0);
    cr_assert_eq(atomic_load(&counting.live), 0);
  }
}

static void count_call(const rctx *ctx, void *arg) {
  (void)ctx;
  ++*(int *)arg;
}

// cancel, end, unref, stop, registering: all they need was reserved before.
Test(memory, what_must_not_fail_asks_for_nothing) {
  enum { CHILDREN = 100 };
  rctx *children[CHILDREN];
  struct rctx_after node[CHILDREN] = {0};
  rctx_loop *loop;
  int calls = 0;
  counting_open(true);
  cr_assert_eq(rctx_loop_create(&loop), 0);
  rctx *parent = rctx_with_timeout(counting_root(), 3600 * SECOND);
  for (int i = 0; i < CHILDREN; i++)
    children[i] = i % 3 ? rctx_with_cancel(parent) : rctx_with_timeout(parent, 60 * SECOND);
  cr_assert_geq(rctx_fd(children[0]), 0);
  size_t before = atomic_load(&counting.calls);
  for (int i = 0; i < CHILDREN; i++)
    if (i % 2)
      cr_assert_eq(rctx_after_inline(children[i], &node[i], RCTX_ON_ENDED_TELL, count_call, &calls), RCTX_REGISTERED);
    else
      cr_assert_eq(rctx_watch(children[i], &node[i], loop, RCTX_ON_ENDED_TELL, never_called, NULL), RCTX_REGISTERED);
  for (int i = 0; i < CHILDREN; i += 2) cr_assert(rctx_after_stop(&node[i]));
  rctx_ref(children[1]);
  rctx_cancel(children[2]);
  rctx_cancel(parent);
  rctx_unref(children[1]);
  for (int i = 0; i < CHILDREN; i++) rctx_end(children[i]);
  rctx_end(parent);
  cr_assert_eq(atomic_load(&counting.calls), before);
  cr_assert_eq(calls, CHILDREN / 2);
  rctx_loop_destroy(loop);
  counting_close();
}

/* ---- the steady state -------------------------------------------------------------------------------------------- */

int mallctl(const char *name, void *old, size_t *old_length, void *value, size_t length) __attribute__((weak));

// All that this thread has ever asked of malloc, exact where jemalloc is malloc.
static uint64_t bytes_asked_of_malloc(void) {
  uint64_t bytes = 0;
  size_t length = sizeof bytes;
  if (mallctl) mallctl("thread.allocated", &bytes, &length, NULL, 0);
  return bytes;
}

// No assertion inside: Criterion's own take memory, also when they hold.
static bool one_request(const rctx *server, bool arena) {
  struct rctx_value values[] = {{&key, &values, NULL}, {&other_key, NULL, NULL}};
  RCTX_SCOPED rctx *request =
      rctx_derive(server, &(struct rctx_spec){.timeout_ns = 30 * SECOND, .values = values, .nvalues = 2});
  RCTX_SCOPED rctx *traced = rctx_with_value(request, &key, request);
  RCTX_SCOPED rctx *a = rctx_with_cancel(traced);
  RCTX_SCOPED rctx *b = rctx_with_timeout(traced, SECOND);
  void *value;
  struct rctx_after node = {0};
  int calls = 0;
  bool right = rctx_get(a, &key, &value) && value == request;
  right &= !arena || rctx_alloc(request, 200) != NULL;
  rctx_after_inline(b, &node, RCTX_ON_ENDED_TELL, count_call, &calls);
  right &= rctx_cancel(request);
  return right && calls == 1 && rctx_err(a) == -ECANCELED;
}

// Under AddressSanitizer nothing is cached, so that it sees every use after free.
#if CHECK_UNCACHED
#define NEEDS_CACHES() cr_skip_test("this build caches nothing")
#else
#define NEEDS_CACHES() ((void)0)
#endif

static void steady(bool arena) {
  NEEDS_CACHES();
  bool right = true;
  counting_open(false);
  rctx *server = rctx_with_cancel(counting_root());
  for (int i = 0; i < 20000; i++) right &= one_request(server, arena);
  size_t calls = atomic_load(&counting.calls);
  uint64_t asked = bytes_asked_of_malloc();
  for (int i = 0; i < 100000; i++) right &= one_request(server, arena);
  uint64_t asked_now = bytes_asked_of_malloc();
  cr_assert(right);
  cr_assert_eq(atomic_load(&counting.calls) - calls, 0, "requests of the allocator");
  cr_assert_eq(asked_now, asked, "past the allocator's table");
  rctx_end(server);
  counting_close();
}

Test(memory, no_malloc_in_the_steady_state) { steady(false); }
Test(memory, no_malloc_in_the_steady_state_with_an_arena) { steady(true); }

static size_t bytes_now(void) {
  struct rctx_stats stats;
  rctx_stats(counting.manager, &stats);
  cr_assert_eq(stats.bytes, atomic_load(&counting.bytes), "taken from the allocator");
  return stats.bytes;
}

Test(memory, a_node_is_at_most_128_bytes) {
  enum { FIRST = 100000, ALL = 400000 };
  static rctx *nodes[ALL];
  size_t at_first = 0;
  counting_open(false);
  for (int i = 0; i < ALL; i++) {
    const rctx *parent = i ? nodes[(i - 1) / 10] : counting_root();
    nodes[i] = i % 2 ? rctx_with_cancel(parent) : rctx_with_timeout(parent, 3600 * SECOND - i);
    if (i == FIRST - 1) at_first = bytes_now();
  }
  double each = (double)(bytes_now() - at_first) / (ALL - FIRST);
  cr_assert_leq(each, 136.0, "%.1f bytes each: a node of 128 and 6 %% for the slabs' own use", each);
  rctx_cancel(nodes[0]);
  for (int i = 0; i < ALL; i++) rctx_end(nodes[i]);
  counting_close();
}

/* ---- made here, ended there -------------------------------------------------------------------------------------- */

enum { HANDED = 500, ROUNDS = 200, WARM = 40 };

struct handover {
  pthread_barrier_t meet;
  rctx *slots[HANDED];
  size_t warm, end;
};

static void make_or_end(unsigned index, void *arg) {
  struct handover *h = arg;
  for (int round = 0; round < ROUNDS; round++) {
    if (index == 0)
      for (int i = 0; i < HANDED; i++) h->slots[i] = rctx_with_value(counting_root(), &key, h);
    if (index == 0 && round == WARM) h->warm = bytes_now();
    pthread_barrier_wait(&h->meet);
    if (index == 1)
      for (int i = 0; i < HANDED; i++) rctx_end(h->slots[i]);
    pthread_barrier_wait(&h->meet);
  }
}

Test(memory, a_consumer_gives_back_what_a_producer_takes) {
  static struct handover h;
  counting_open(false);
  pthread_barrier_init(&h.meet, NULL, 2);
  threads_run(2, make_or_end, &h);
  h.end = bytes_now();
  cr_assert_leq(h.end, h.warm + h.warm / 4, "grew from %zu to %zu bytes", h.warm, h.end);
  counting_close();
}

static void use_and_leave(unsigned index, void *arg) {
  (void)index;
  (void)arg;
  for (int i = 0; i < 1000; i++) {
    RCTX_SCOPED rctx *c = rctx_with_value(counting_root(), &key, NULL);
    cr_assert_eq(rctx_err(c), 0);
  }
}

Test(memory, threads_that_have_gone_leave_nothing_behind) {
  counting_open(false);
  for (int i = 0; i < 20; i++) threads_run(4, use_and_leave, NULL);
  size_t warm = bytes_now();
  for (int i = 0; i < 200; i++) threads_run(4, use_and_leave, NULL);
  cr_assert_leq(bytes_now(), warm + warm / 4);
  counting_close();
}

/* ---- giving back ------------------------------------------------------------------------------------------------- */

Test(memory, trim_gives_back_what_no_context_uses) {
  enum { MANY = 20000 };
  static rctx *nodes[MANY];
  NEEDS_CACHES();
  counting_open(false);
  for (int i = 0; i < MANY; i++) nodes[i] = rctx_with_value(counting_root(), &key, nodes);
  size_t full = bytes_now();
  for (int i = 0; i < MANY; i++) rctx_end(nodes[i]);
  cr_assert_eq(rctx_quiesce(counting.manager, INT64_MAX), 0);
  size_t cached = bytes_now(), given = rctx_trim(counting.manager);
  cr_assert_gt(given, 0);
  cr_assert_eq(bytes_now(), cached - given, "it tells how much");
  cr_assert_lt(bytes_now(), full / 4);
  rctx *again = rctx_with_cancel(counting_root());
  cr_assert_eq(rctx_err(again), 0);
  rctx_end(again);
  counting_close();
}

Test(memory, trim_leaves_live_contexts_alone) {
  counting_open(false);
  rctx *c = rctx_with_value(counting_root(), &key, &counting);
  char *text = rctx_alloc(c, 1000);
  memset(text, 'x', 1000);
  for (int i = 0; i < 1000; i++) rctx_end(rctx_with_cancel(c));
  rctx_trim(counting.manager);
  void *value;
  cr_assert(rctx_get(c, &key, &value) && value == &counting);
  for (int i = 0; i < 1000; i++) cr_assert_eq(text[i], 'x');
  rctx_end(c);
  counting_close();
}

Test(memory, uncached_gives_each_node_back_at_once) {
  counting_open(true);
  rctx *keep = rctx_with_cancel(counting_root());
  size_t live = atomic_load(&counting.live);
  for (int i = 0; i < 100; i++) {
    rctx *c = rctx_with_value(keep, &key, NULL);
    cr_assert_gt(atomic_load(&counting.live), live);
    rctx_end(c);
    cr_assert_eq(atomic_load(&counting.live), live);
  }
  rctx_end(keep);
  counting_close();
}

Test(memory, deferred_frees_are_done_by_quiesce) {
  counting_open(true);
  rctx_end(rctx_with_timeout(counting_root(), SECOND)); // what is made at the first use stays
  size_t live = atomic_load(&counting.live);
  for (int i = 0; i < 100; i++) { // a child that leaves after its parent's walk
    rctx *parent = rctx_with_cancel(counting_root());
    rctx *child = rctx_with_timeout(parent, SECOND);
    rctx_cancel(parent);
    rctx_end(child);
    rctx_end(parent);
  }
  cr_assert_eq(rctx_quiesce(counting.manager, INT64_MAX), 0);
  cr_assert_eq(atomic_load(&counting.live), live);
  counting_close();
}
