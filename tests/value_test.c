// Values: semantics section 6; value.h; RCTX_KEY and friends; the arena.
#include "support/check.h"
#include "support/fake_time.h"
#include "support/seed.h"

#include <pthread.h>
#include <stdalign.h>
#include <stdlib.h>
#include <string.h>

TestSuite(value, .init = fake_open, .fini = fake_close, .timeout = 120);

RCTX_KEY(user, const char *)
RCTX_KEY(number, int)
RCTX_KEY(wide, uint64_t)

static void settle(void) { cr_assert_eq(rctx_quiesce(fake.manager, INT64_MAX), 0); }

static void *must_get(const rctx *ctx, const struct rctx_key *key) {
  void *value;
  cr_assert(rctx_get(ctx, key, &value));
  return value;
}

Test(value, the_nearest_binding_is_found__TestValues) {
  const char *who = "untouched";
  int n = 0;
  RCTX_SCOPED rctx *a = user_with(fake_root(), "ann");
  RCTX_SCOPED rctx *b = number_with(a, 7);
  RCTX_SCOPED rctx *c = user_with(b, "bob");
  RCTX_SCOPED rctx *leaf = rctx_with_timeout(c, SECOND);
  cr_assert_not(user_get(fake_root(), &who));
  cr_assert_str_eq(who, "untouched");
  cr_assert_not(number_get(a, &n), "a missing key is absent");
  cr_assert(user_get(b, &who));
  cr_assert_str_eq(who, "ann");
  cr_assert(user_get(leaf, &who));
  cr_assert_str_eq(who, "bob", "a child shadows");
  cr_assert(number_get(leaf, &n));
  cr_assert_eq(n, 7);
  cr_assert(user_get(a, &who));
  cr_assert_str_eq(who, "ann", "the parent's is untouched");
}

Test(value, a_stored_null_shadows__TestValues) {
  const char *who = "untouched";
  void *raw = &who;
  RCTX_SCOPED rctx *a = user_with(fake_root(), "ann");
  RCTX_SCOPED rctx *b = user_with(a, NULL);
  cr_assert(user_get(b, &who), "bound, to NULL: not the same as absent");
  cr_assert_null(who);
  cr_assert(rctx_get(b, &user_key, &raw));
  cr_assert_null(raw);
}

Test(value, a_key_is_its_address_not_its_name__TestValues) {
  static const struct rctx_key one = {.name = "same"}, two = {.name = "same"};
  int x, y;
  RCTX_SCOPED rctx *a = rctx_with_value(fake_root(), &one, &x);
  RCTX_SCOPED rctx *b = rctx_with_value(a, &two, &y);
  void *value;
  cr_assert_not(rctx_get(a, &two, &value));
  cr_assert_eq(must_get(b, &one), &x);
  cr_assert_eq(must_get(b, &two), &y);
}

Test(value, lookups_pass_through_every_kind_of_context__TestValues) {
  const char *who;
  RCTX_SCOPED rctx *top = user_with(fake_root(), "ann");
  RCTX_SCOPED rctx *a = rctx_with_cancel(top);
  RCTX_SCOPED rctx *b = rctx_with_timeout(a, SECOND);
  RCTX_SCOPED rctx *c = number_with(b, 1);
  RCTX_SCOPED rctx *d = rctx_without_cancel(c);
  RCTX_SCOPED rctx *e = rctx_derive(d, &(struct rctx_spec){.name = "e", .timeout_ns = SECOND});
  cr_assert(user_get(e, &who));
  cr_assert_str_eq(who, "ann");
}

Test(value, binding_and_reading_asks_for_no_memory_once_warm__TestAllocs) {
  for (int i = 0; i < 100; i++) {
    RCTX_SCOPED rctx *warm = number_with(fake_root(), i);
    cr_assert_eq(rctx_err(warm), 0);
  }
  size_t bytes = fake_stats().bytes;
  for (int i = 0; i < 10000; i++) {
    RCTX_SCOPED rctx *c = number_with(fake_root(), i);
    int n = -1;
    cr_assert(number_get(c, &n) && n == i);
  }
  cr_assert_eq(fake_stats().bytes, bytes);
}

Test(value, all_stay_readable_after_cancel_and_expiry__TestLayersCancel_TestLayersTimeout) {
  const char *who;
  int n;
  rctx *parent = rctx_with_timeout(fake_root(), SECOND);
  RCTX_SCOPED rctx *a = user_with(parent, "ann");
  RCTX_SCOPED rctx *b = number_with(a, 5);
  fake_go(2 * SECOND);
  cr_assert_eq(rctx_err(b), -ETIMEDOUT);
  rctx_end(parent);
  RCTX_SCOPED rctx *late = rctx_with_cancel(b);
  cr_assert(user_get(late, &who) && strcmp(who, "ann") == 0);
  cr_assert(number_get(late, &n) && n == 5);
  RCTX_SCOPED rctx *bound_late = user_with(late, "bob");
  cr_assert(user_get(bound_late, &who) && strcmp(who, "bob") == 0, "bound below an ended parent");
}

// The oldest of many keys, and a key that is missing, from the end of a deep chain on a small stack.
enum { DEEP = 50000 };

static void *look_from_a_small_stack(void *leaf) {
  const char *who = NULL;
  int n;
  cr_assert(user_get(leaf, &who));
  cr_assert_str_eq(who, "oldest");
  cr_assert_not(number_get(leaf, &n));
  return NULL;
}

Test(value, lookup_is_iterative__BenchmarkDeepValue) {
  static rctx *chain[DEEP];
  chain[0] = user_with(fake_root(), "oldest");
  for (int i = 1; i < DEEP; i++)
    chain[i] = i % 2 ? wide_with(chain[i - 1], (uint64_t)i) : rctx_with_cancel(chain[i - 1]);
  pthread_attr_t small;
  pthread_t looker;
  pthread_attr_init(&small);
  pthread_attr_setstacksize(&small, 64 * 1024);
  cr_assert_eq(pthread_create(&looker, &small, look_from_a_small_stack, chain[DEEP - 1]), 0);
  cr_assert_eq(pthread_join(looker, NULL), 0);
  pthread_attr_destroy(&small);
  for (int i = 0; i < DEEP; i++) rctx_end(chain[i]);
}

/* ---- many values ------------------------------------------------------------------------------------------------- */

enum { KEYS = 40 }; // more than two blocks of 16
static struct rctx_key keys[KEYS];
static int things[KEYS];

Test(value, forty_values_in_a_chain) {
  rctx *chain[KEYS];
  const rctx *top = fake_root();
  for (int i = 0; i < KEYS; i++) top = chain[i] = rctx_with_value(top, &keys[i], &things[i]);
  for (int at = 0; at < KEYS; at++)
    for (int i = 0; i < KEYS; i++) {
      void *value = NULL;
      cr_assert_eq(rctx_get(chain[at], &keys[i], &value), i <= at, "key %d at %d", i, at);
      cr_assert_eq(value, i <= at ? &things[i] : NULL);
    }
  for (int i = 0; i < KEYS; i++) rctx_end(chain[i]);
}

Test(value, forty_values_in_one_derive) {
  struct rctx_value values[KEYS];
  for (int i = 0; i < KEYS; i++) values[i] = (struct rctx_value){&keys[i], &things[i], NULL};
  RCTX_SCOPED rctx *c = rctx_with_values(fake_root(), values, KEYS);
  memset(values, 0, sizeof values); // the array was borrowed
  RCTX_SCOPED rctx *child = rctx_with_cancel(c);
  for (int i = 0; i < KEYS; i++) cr_assert_eq(must_get(child, &keys[i]), &things[i]);
}

Test(value, siblings_do_not_see_each_others) {
  RCTX_SCOPED rctx *parent = rctx_with_value(fake_root(), &keys[0], &things[0]);
  rctx *siblings[20], *below[20];
  for (int i = 0; i < 20; i++) siblings[i] = rctx_with_value(parent, &keys[1], &things[i]);
  for (int i = 0; i < 20; i++) below[i] = rctx_with_value(siblings[i], &keys[2], &things[i + 1]);
  for (int i = 0; i < 20; i++) {
    cr_assert_eq(must_get(siblings[i], &keys[0]), &things[0]);
    cr_assert_eq(must_get(siblings[i], &keys[1]), &things[i]);
    cr_assert_eq(must_get(below[i], &keys[1]), &things[i]);
    cr_assert_eq(must_get(below[i], &keys[2]), &things[i + 1]);
    void *value;
    cr_assert_not(rctx_get(siblings[i], &keys[2], &value));
    cr_assert_not(rctx_get(parent, &keys[1], &value));
  }
  for (int i = 0; i < 20; i++) {
    rctx_end(i % 2 ? siblings[i] : below[i]);
    rctx_end(i % 2 ? below[i] : siblings[i]);
  }
}

Test(value, a_sibling_may_go_while_another_reads) {
  RCTX_SCOPED rctx *parent = rctx_with_value(fake_root(), &keys[0], &things[0]);
  rctx *first = rctx_with_value(parent, &keys[1], &things[1]);
  RCTX_SCOPED rctx *second = rctx_with_value(parent, &keys[2], &things[2]);
  RCTX_SCOPED rctx *below = rctx_with_value(second, &keys[3], &things[3]);
  rctx_end(first);
  settle();
  RCTX_SCOPED rctx *third = rctx_with_value(parent, &keys[4], &things[4]);
  void *value;
  cr_assert_eq(must_get(below, &keys[2]), &things[2]);
  cr_assert_eq(must_get(below, &keys[3]), &things[3]);
  cr_assert_eq(must_get(third, &keys[4]), &things[4]);
  cr_assert_not(rctx_get(third, &keys[1], &value));
  cr_assert_not(rctx_get(below, &keys[4], &value));
}

// Random trees of bindings against a plain model: each node remembers what it must see.
enum { NODES = 400, MODEL_KEYS = 24 };
struct seen {
  void *value[MODEL_KEYS];
  bool bound[MODEL_KEYS];
};

Test(value, random_trees_see_what_a_plain_model_sees) {
  static struct rctx_key random_keys[MODEL_KEYS];
  static struct seen seen[NODES + 1];
  static rctx *nodes[NODES + 1];
  struct rng random;
  rng_init(&random, seed_get());
  for (int round = 0; round < 10; round++) {
    memset(&seen[0], 0, sizeof seen[0]);
    nodes[0] = rctx_with_cancel(fake_root());
    for (int i = 1; i <= NODES; i++) {
      int parent = (int)rng_below(&random, (uint64_t)i);
      size_t count = (size_t)rng_below(&random, 6);
      struct rctx_value values[6];
      seen[i] = seen[parent];
      for (size_t v = 0; v < count; v++) {
        size_t k = (size_t)rng_below(&random, MODEL_KEYS);
        void *value = rng_one_in(&random, 5) ? NULL : &things[rng_below(&random, KEYS)];
        values[v] = (struct rctx_value){&random_keys[k], value, NULL};
        seen[i].value[k] = value;
        seen[i].bound[k] = true;
      }
      nodes[i] = rctx_derive(nodes[parent], &(struct rctx_spec){.values = values, .nvalues = count});
    }
    for (int i = 0; i <= NODES; i++)
      for (int k = 0; k < MODEL_KEYS; k++) {
        void *value = NULL;
        cr_assert_eq(rctx_get(nodes[i], &random_keys[k], &value), seen[i].bound[k], "round %d node %d", round, i);
        cr_assert_eq(value, seen[i].value[k], "round %d node %d", round, i);
      }
    for (int i = 0; i <= NODES; i++) rctx_end(nodes[i]);
    settle();
  }
}

Test(value, the_later_of_two_in_one_derive_shadows) {
  struct rctx_value values[] = {user_value("first"), number_value(1), user_value("second")};
  RCTX_SCOPED rctx *c = rctx_with_values(fake_root(), values, 3);
  const char *who;
  cr_assert(user_get(c, &who));
  cr_assert_str_eq(who, "second");
}

Test(value, no_values_at_all_is_legal) {
  RCTX_SCOPED rctx *c = rctx_with_values(fake_root(), NULL, 0);
  cr_assert_eq(rctx_err(c), 0);
}

/* ---- enumeration ------------------------------------------------------------------------------------------------- */

struct listed {
  const struct rctx_key *key[64];
  void *value[64];
  size_t count, stop_at;
};

static bool list(const struct rctx_key *key, void *value, void *arg) {
  struct listed *l = arg;
  l->key[l->count] = key;
  l->value[l->count] = value;
  return ++l->count != l->stop_at;
}

Test(value, each_visible_binding_nearest_first_shadowed_left_out) {
  RCTX_SCOPED rctx *a = rctx_with_value(fake_root(), &keys[0], &things[0]);
  RCTX_SCOPED rctx *b = rctx_with_value(a, &keys[1], &things[1]);
  RCTX_SCOPED rctx *c = rctx_with_cancel(b);
  RCTX_SCOPED rctx *d = rctx_with_value(c, &keys[0], NULL);
  RCTX_SCOPED rctx *e = rctx_with_value(d, &keys[2], &things[2]);
  struct listed l = {0};
  cr_assert_eq(rctx_each_value(e, list, &l), 3);
  cr_assert_eq(l.count, 3);
  cr_assert(l.key[0] == &keys[2] && l.value[0] == &things[2]);
  cr_assert(l.key[1] == &keys[0] && l.value[1] == NULL, "the shadowing NULL, once");
  cr_assert(l.key[2] == &keys[1] && l.value[2] == &things[1]);
  struct listed none = {0};
  cr_assert_eq(rctx_each_value(fake_root(), list, &none), 0);
}

Test(value, enumeration_stops_when_told) {
  struct rctx_value values[KEYS];
  for (int i = 0; i < KEYS; i++) values[i] = (struct rctx_value){&keys[i], &things[i], NULL};
  RCTX_SCOPED rctx *c = rctx_with_values(fake_root(), values, KEYS);
  struct listed all = {0}, some = {.stop_at = 5};
  cr_assert_eq(rctx_each_value(c, list, &all), KEYS);
  for (int i = 0; i < KEYS; i++)
    for (int j = 0; j < i; j++) cr_assert_neq(all.key[i], all.key[j], "each once");
  cr_assert_eq(rctx_each_value(c, list, &some), 5);
  cr_assert_eq(some.count, 5);
}

/* ---- destructors ------------------------------------------------------------------------------------------------- */

static void count_destroy(void *counter) { ++*(int *)counter; }

static const struct rctx_key plain_key = {.name = "plain"}, owned_key = {.name = "owned", .destroy = count_destroy};

static struct rctx_value owned_value(int *counter) { return (struct rctx_value){&plain_key, counter, count_destroy}; }

Test(value, destroyed_exactly_once_when_its_context_is_gone) {
  int destroyed = 0;
  rctx *parent = rctx_with_cancel(fake_root());
  rctx *c = rctx_with_values(parent, (struct rctx_value[]){owned_value(&destroyed)}, 1);
  rctx *child = rctx_with_cancel(c);
  rctx_cancel(parent);
  settle();
  cr_assert_eq(destroyed, 0, "values outlive the end");
  rctx_end(c);
  rctx_end(parent);
  settle();
  cr_assert_eq(destroyed, 0, "and the handle, as long as a child is there");
  cr_assert_eq(must_get(child, &plain_key), &destroyed);
  rctx_end(child);
  settle();
  cr_assert_eq(destroyed, 1);
}

Test(value, destroyed_exactly_once_each_of_many_also_shadowed_ones) {
  int destroyed[KEYS] = {0};
  rctx *chain[4];
  const rctx *top = fake_root();
  for (int level = 0; level < 4; level++) {
    struct rctx_value values[10];
    for (int i = 0; i < 10; i++)
      values[i] = (struct rctx_value){&keys[i / 2], &destroyed[10 * level + i], count_destroy};
    top = chain[level] = rctx_with_values(top, values, 10);
  }
  for (int level = 0; level < 4; level++) rctx_end(chain[level]);
  settle();
  for (int i = 0; i < KEYS; i++) cr_assert_eq(destroyed[i], 1, "value %d: %d times", i, destroyed[i]);
}

Test(value, each_context_destroys_its_own_at_its_own_time) {
  int of_parent = 0, of_left = 0, of_right = 0;
  rctx *parent = rctx_with_values(fake_root(), (struct rctx_value[]){owned_value(&of_parent)}, 1);
  rctx *left = rctx_with_values(parent, (struct rctx_value[]){owned_value(&of_left)}, 1);
  rctx *right = rctx_with_values(parent, (struct rctx_value[]){owned_value(&of_right)}, 1);
  rctx_end(left);
  settle();
  cr_assert(of_left == 1 && of_right == 0 && of_parent == 0);
  rctx_end(parent);
  settle();
  cr_assert(of_left == 1 && of_right == 0 && of_parent == 0);
  rctx_end(right);
  settle();
  cr_assert(of_left == 1 && of_right == 1 && of_parent == 1);
}

Test(value, destroyed_once_when_bound_below_an_ended_parent) {
  int destroyed = 0;
  RCTX_SCOPED rctx *parent = rctx_with_cancel(fake_root());
  rctx_cancel(parent);
  rctx *c = rctx_with_values(parent, (struct rctx_value[]){owned_value(&destroyed)}, 1);
  cr_assert_eq(must_get(c, &plain_key), &destroyed);
  rctx_end(c);
  settle();
  cr_assert_eq(destroyed, 1);
}

Test(value, destroyed_once_when_freed_by_the_parents_walk) {
  enum { ROUNDS = 50 };
  int destroyed = 0;
  for (int i = 0; i < ROUNDS; i++) {
    rctx *parent = rctx_with_cancel(fake_root());
    rctx *c = rctx_with_values(parent, (struct rctx_value[]){owned_value(&destroyed)}, 1);
    rctx_end(parent);
    rctx_end(c);
  }
  settle();
  cr_assert_eq(destroyed, ROUNDS, "also those whose memory is deferred");
}

Test(value, a_raw_binding_does_not_use_the_keys_destructor) {
  int destroyed = 0;
  rctx *raw = rctx_with_value(fake_root(), &owned_key, &destroyed);
  rctx_end(raw);
  settle();
  cr_assert_eq(destroyed, 0, "the key's is the default of typed values only");
}

static int owned_strings_freed;
static void free_string(void *text) {
  owned_strings_freed++;
  free(text);
}
RCTX_KEY_OWNED(owned_string, char *, free_string)

Test(value, an_owned_typed_value_is_destroyed) {
  rctx *c = owned_string_with(fake_root(), strdup("mine"));
  char *text;
  cr_assert(owned_string_get(c, &text));
  cr_assert_str_eq(text, "mine");
  rctx_end(c);
  settle();
  cr_assert_eq(owned_strings_freed, 1);
}

Test(value, destroy_is_called_for_null_too) {
  rctx *c = owned_string_with(fake_root(), NULL);
  rctx_end(c);
  settle();
  cr_assert_eq(owned_strings_freed, 1, "a stored NULL is a value");
}

static void derive_in_destroy(void *slot) { *(rctx **)slot = rctx_with_timeout(fake_root(), SECOND); }

Test(value, destroy_holds_no_lock) {
  rctx *made = NULL;
  struct rctx_value value = {&plain_key, &made, derive_in_destroy};
  rctx_end(rctx_with_values(fake_root(), &value, 1));
  settle();
  cr_assert_not_null(made);
  rctx_end(made);
}

static void *release(void *ctx) {
  rctx_unref(ctx);
  return NULL;
}

static pthread_t destroyed_on;
static void note_thread(void *value) {
  (void)value;
  destroyed_on = pthread_self();
}

Test(value, destroyed_on_the_thread_that_released_it) {
  struct rctx_value value = {&plain_key, NULL, note_thread};
  rctx *c = rctx_with_values(fake_root(), &value, 1);
  pthread_t other;
  cr_assert_eq(pthread_create(&other, NULL, release, c), 0);
  pthread_join(other, NULL);
  cr_assert(pthread_equal(destroyed_on, other));
}

/* ---- typed keys -------------------------------------------------------------------------------------------------- */

typedef struct {
  int16_t a;
  int8_t b;
} small_struct;
RCTX_KEY(small, small_struct)
RCTX_KEY(truth, bool)
RCTX_KEY(real, double)
RCTX_KEY_DECLARE(shared, const char *)
RCTX_KEY_DEFINE(shared, const char *)

Test(value, typed_values_come_back_as_they_went_in) {
  uint64_t w = 0;
  small_struct s = {0};
  bool t = false;
  double r = 0;
  int n = 0;
  const char *text = NULL;
  struct rctx_value values[] = {wide_value(UINT64_MAX),  small_value((small_struct){-2, 3}),
                                truth_value(true),       real_value(-0.5),
                                number_value(INT32_MIN), shared_value("text")};
  RCTX_SCOPED rctx *c = rctx_with_values(fake_root(), values, 6);
  cr_assert(wide_get(c, &w) && w == UINT64_MAX);
  cr_assert(small_get(c, &s) && s.a == -2 && s.b == 3);
  cr_assert(truth_get(c, &t) && t);
  cr_assert(real_get(c, &r) && r == -0.5);
  cr_assert(number_get(c, &n) && n == INT32_MIN);
  cr_assert(shared_get(c, &text));
  cr_assert_str_eq(text, "text");
  cr_assert_str_eq(number_key.name, "number");
}

/* ---- the arena --------------------------------------------------------------------------------------------------- */

Test(value, arena_memory_lives_as_long_as_its_context) {
  rctx *c = rctx_with_cancel(fake_root());
  char *pieces[200];
  for (size_t i = 0; i < 200; i++) {
    size_t size = i * i % 700;
    pieces[i] = rctx_alloc(c, size);
    cr_assert_not_null(pieces[i]);
    cr_assert_eq((uintptr_t)pieces[i] % alignof(max_align_t), 0);
    memset(pieces[i], (int)i, size);
  }
  char *large = rctx_alloc(c, 1 << 20);
  cr_assert_not_null(large);
  memset(large, 0xEE, 1 << 20);
  const rctx *kept = rctx_ref(c);
  rctx_end(c);
  settle();
  for (size_t i = 0; i < 200; i++)
    for (size_t at = 0; at < i * i % 700; at++)
      cr_assert_eq((unsigned char)pieces[i][at], i, "piece %zu was overwritten", i);
  rctx_unref(kept);
}

Test(value, arena_of_a_root_gives_null) { cr_assert_null(rctx_alloc((rctx *)(uintptr_t)fake_root(), 8)); }

Test(value, arena_of_an_absurd_size_gives_null) {
  RCTX_SCOPED rctx *c = rctx_with_cancel(fake_root());
  volatile size_t absurd = SIZE_MAX;
  cr_assert_null(rctx_alloc(c, absurd));
  cr_assert_null(rctx_alloc(c, absurd - 15));
  cr_assert_null(rctx_alloc(c, absurd / 2));
  cr_assert_not_null(rctx_alloc(c, 8), "and it still works");
}

Test(value, arena_works_on_every_derived_kind_and_after_the_end) {
  RCTX_SCOPED rctx *value = number_with(fake_root(), 1);
  RCTX_SCOPED rctx *timed = rctx_with_timeout(value, SECOND);
  RCTX_SCOPED rctx *detached = rctx_without_cancel(timed);
  rctx *all[] = {value, timed, detached};
  for (int turn = 0; turn < 2; turn++) {
    for (int i = 0; i < 3; i++) {
      char *piece = rctx_alloc(all[i], 100);
      cr_assert_not_null(piece);
      memset(piece, 1, 100);
    }
    rctx_cancel(value);
  }
}
