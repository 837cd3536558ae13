// Roots and names: semantics section 1, and the roots part of context.h.
#include "support/check.h"
#include "support/fake_time.h"
#include "support/seed.h"

#include <string.h>

TestSuite(roots, .init = fake_open, .fini = fake_close, .timeout = 60);

static const char *described(const rctx *ctx) {
  static char text[2][8192];
  static int turn;
  char *buf = text[turn ^= 1];
  size_t length = rctx_describe(ctx, buf, sizeof text[0]);
  cr_assert_eq(length, strlen(buf));
  return buf;
}

static bool starts_with(const char *text, const char *prefix) { return strncmp(text, prefix, strlen(prefix)) == 0; }

static void never_called(const rctx *ctx, void *arg) {
  (void)ctx;
  (void)arg;
  cr_assert_fail("a callback on what can never end has run");
}

static void is_a_root(const rctx *root) {
  struct rctx_why why;
  int64_t deadline = 17;
  cr_assert_not_null(root);
  cr_assert_eq(rctx_err(root), 0);
  cr_assert_null(rctx_cause(root));
  cr_assert_eq(rctx_why(root, &why), 0);
  cr_assert_eq(why.origin, RCTX_ORIGIN_NONE);
  cr_assert_null(why.cause);
  cr_assert_not(rctx_deadline(root, &deadline));
  cr_assert_eq(deadline, 17, "out-parameters are written on success only");
  cr_assert_eq(rctx_remaining(root), INT64_MAX);
  cr_assert_eq(rctx_wait(root, 0), 0);
}

Test(roots, background_is_never_done__TestBackground) {
  is_a_root(rctx_background());
  cr_assert_eq(rctx_background(), rctx_background());
  cr_assert_str_eq(described(rctx_background()), "context.Background");
}

Test(roots, todo_is_never_done__TestTODO) {
  is_a_root(rctx_todo());
  cr_assert_neq(rctx_todo(), rctx_background());
  cr_assert_str_eq(described(rctx_todo()), "context.TODO");
}

Test(roots, each_manager_has_its_own_root) {
  is_a_root(fake_root());
  cr_assert_neq(fake_root(), rctx_background());
  cr_assert_eq(rctx_manager_of(fake_root()), fake.manager);
  cr_assert_eq(rctx_manager_of(rctx_background()), rctx_manager_default());
  cr_assert_eq(rctx_manager_of(rctx_todo()), rctx_manager_default());
  cr_assert_eq(rctx_manager_background(rctx_manager_default()), rctx_background());
}

int mallctl(const char *name, void *old, size_t *old_length, void *value, size_t length) __attribute__((weak));

static uint64_t bytes_asked_of_malloc(void) {
  uint64_t bytes = 0;
  size_t length = sizeof bytes;
  if (mallctl) mallctl("thread.allocated", &bytes, &length, NULL, 0);
  return bytes;
}

Test(roots, getting_the_root_allocates_nothing__TestAllocs) {
  struct rctx_stats stats;
  uint64_t before = bytes_asked_of_malloc();
  for (int i = 0; i < 1000; i++) {
    cr_assert_not_null(rctx_background());
    cr_assert_not_null(rctx_todo());
  }
  cr_assert_eq(bytes_asked_of_malloc(), before);
  rctx_stats(rctx_manager_default(), &stats);
  cr_assert_eq(stats.bytes, 0);
  cr_assert_eq(stats.contexts, 0);
  cr_assert_eq(stats.threads, 0);
}

Test(roots, no_handle_no_values_and_no_callback__probe) {
  static const struct rctx_key key = {.name = "key"};
  void *value = &fake;
  cr_assert_eq(rctx_fd(rctx_background()), -ENOTSUP);
  cr_assert_not(rctx_get(rctx_background(), &key, &value));
  cr_assert_eq(value, (void *)&fake);
  struct rctx_after node = {0};
  cr_assert_eq(rctx_after(rctx_background(), &node, never_called, NULL), RCTX_NEVER);
  cr_assert(rctx_after_stop(&node), "the first stop is true");
  cr_assert_not(rctx_after_stop(&node), "the second is false");
  struct rctx_info info;
  rctx_inspect(rctx_background(), &info);
  cr_assert_eq(info.kind, RCTX_KIND_ROOT);
  cr_assert_null(info.parent);
  cr_assert_not(info.has_fd);
}

Test(roots, ref_unref_end_and_cancel_of_a_root_do_nothing) {
  const rctx *roots[] = {rctx_background(), rctx_todo(), fake_root()};
  for (int i = 0; i < 3; i++) {
    rctx *as_owner = (rctx *)(uintptr_t)roots[i];
    cr_assert_eq(rctx_ref(roots[i]), roots[i]);
    for (int n = 0; n < 5; n++) rctx_unref(roots[i]);
    cr_assert_not(rctx_cancel(as_owner));
    rctx_end(as_owner);
    rctx_end(as_owner);
    is_a_root(roots[i]);
    RCTX_SCOPED rctx *child = rctx_with_cancel(roots[i]);
    cr_assert_eq(rctx_err(child), 0);
  }
}

Test(roots, name_of_a_cancel_child__TestWithCancel) {
  RCTX_SCOPED rctx *c = rctx_with_cancel(rctx_background());
  cr_assert_str_eq(described(c), "context.Background.WithCancel");
  RCTX_SCOPED rctx *below = rctx_with_cancel(c);
  cr_assert_str_eq(described(below), "context.Background.WithCancel.WithCancel");
  RCTX_SCOPED rctx *todo = rctx_with_cancel(rctx_todo());
  cr_assert_str_eq(described(todo), "context.TODO.WithCancel");
}

Test(roots, name_of_a_deadline_child__TestDeadline) {
  RCTX_SCOPED rctx *by_time = rctx_with_deadline(fake_root(), fake_now() + SECOND);
  RCTX_SCOPED rctx *by_length = rctx_with_timeout(fake_root(), SECOND);
  const char *prefix = "context.Background.WithDeadline(";
  cr_assert(starts_with(described(by_time), prefix), "%s", described(by_time));
  cr_assert(starts_with(described(by_length), prefix), "%s", described(by_length));
}

// ".WithDeadline(<time> [<time left>])"; the time left may be negative.
static double seconds_left(const rctx *ctx) {
  double at, left;
  char tail = 0;
  const char *text = described(ctx);
  cr_assert_eq(sscanf(text, "context.Background.WithDeadline(%lfs [%lfs]%c", &at, &left, &tail), 3, "%s", text);
  cr_assert_eq(tail, ')');
  cr_assert_eq(text[strlen(text) - 1], ')');
  return left;
}

Test(roots, full_name_of_a_deadline_child__probe) {
  RCTX_SCOPED rctx *c = rctx_with_timeout(fake_root(), 3 * SECOND);
  double left = seconds_left(c);
  cr_assert(left > 2.9 && left < 3.1, "%s", described(c));
  fake_go(5 * SECOND);
  left = seconds_left(c);
  cr_assert(left > -2.1 && left < -1.9, "%s", described(c));
}

static const struct rctx_key silent_key = {.name = "silent"};
RCTX_KEY(user, const char *)

static size_t print_number(const void *value, char *buf, size_t size) {
  int written = snprintf(buf, size, "number %d", *(const int *)value);
  return (size_t)written;
}

Test(roots, name_of_a_value_child__TestValues) {
  static const struct rctx_key number_key = {.name = "n", .print = print_number};
  int forty_two = 42;
  RCTX_SCOPED rctx *ann = user_with(rctx_background(), "ann");
  cr_assert_str_eq(described(ann), "context.Background.WithValue(user, ann)", "%s", described(ann));
  RCTX_SCOPED rctx *nobody = user_with(ann, NULL);
  cr_assert_str_eq(described(nobody), "context.Background.WithValue(user, ann).WithValue(user, <nil>)");
  RCTX_SCOPED rctx *number = rctx_with_value(nobody, &number_key, &forty_two);
  RCTX_SCOPED rctx *leaf = rctx_with_cancel(number);
  cr_assert_str_eq(described(leaf),
                   "context.Background.WithValue(user, ann).WithValue(user, <nil>).WithValue(n, number 42).WithCancel");
}

Test(roots, several_values_of_one_derive_are_all_named) {
  struct rctx_value values[] = {user_value("ann"), {&silent_key, NULL, NULL}};
  RCTX_SCOPED rctx *c = rctx_with_values(rctx_background(), values, 2);
  const char *text = described(c);
  cr_assert(starts_with(text, "context.Background."), "%s", text);
  cr_assert_not_null(strstr(text, "user, ann"), "%s", text);
  cr_assert_not_null(strstr(text, "silent, <nil>"), "%s", text);
}

Test(roots, printing_does_not_read_a_value_without_printer__source) {
  RCTX_SCOPED rctx *c = rctx_with_value(rctx_background(), &silent_key, (void *)0x1001); // not readable
  const char *text = described(c);
  cr_assert(starts_with(text, "context.Background.WithValue(silent, "), "%s", text);
  cr_assert_not_null(strstr(text, "1001"), "shown as its address: %s", text);
}

// A stack of layers made at random; the leaf is last. All are ended by end_layers().
enum { LAYERS = 36 };

static void random_layers(struct rng *random, rctx *layers[LAYERS]) {
  const rctx *top = fake_root();
  for (int i = 0; i < LAYERS; i++) {
    switch (rng_below(random, 3)) {
    case 0:
      layers[i] = rctx_with_cancel(top);
      break;
    case 1:
      layers[i] = rctx_with_value(top, &silent_key, NULL);
      break;
    default:
      layers[i] = rctx_with_timeout(top, rng_between(random, 1, 100) * SECOND);
    }
    top = layers[i];
  }
}

static void end_layers(rctx *layers[LAYERS]) {
  for (int i = LAYERS; i-- > 0;) rctx_end(layers[i]);
}

Test(roots, any_stack_of_layers_prints_from_its_root__TestLayersCancel) {
  struct rng random;
  rng_init(&random, seed_get());
  for (int round = 0; round < 50; round++) {
    rctx *layers[LAYERS];
    random_layers(&random, layers);
    const char *text = described(layers[LAYERS - 1]);
    cr_assert(starts_with(text, "context.Background."), "round %d: %s", round, text);
    size_t dots = 0;
    for (const char *at = text; (at = strstr(at, ".With")); at++) dots++;
    cr_assert_eq(dots, LAYERS, "round %d: %s", round, text);
    end_layers(layers);
  }
}

Test(roots, a_later_deadline_than_the_parents_is_a_cancel_child__probe) {
  int64_t deadline = fake_now() + SECOND;
  RCTX_SCOPED rctx *parent = rctx_with_deadline(fake_root(), deadline);
  RCTX_SCOPED rctx *later = rctx_with_deadline(parent, deadline + 1);
  RCTX_SCOPED rctx *equal = rctx_with_deadline(parent, deadline);
  const char *text = described(later);
  cr_assert_str_eq(strrchr(text, '.'), ".WithCancel", "%s", text);
  text = described(equal);
  const char *own = strstr(text, ").WithDeadline(");
  cr_assert_not_null(own, "%s", text);
}

Test(roots, name_of_a_detached_child__source) {
  RCTX_SCOPED rctx *c = rctx_with_cancel(rctx_background());
  RCTX_SCOPED rctx *detached = rctx_without_cancel(c);
  cr_assert_str_eq(described(detached), "context.Background.WithCancel.WithoutCancel");
}

Test(roots, describe_returns_the_whole_length_and_writes_what_fits) {
  RCTX_SCOPED rctx *c = rctx_with_cancel(rctx_background());
  const char *whole = "context.Background.WithCancel";
  size_t length = strlen(whole);
  cr_assert_eq(rctx_describe(c, NULL, 0), length);
  for (size_t size = 1; size <= length + 1; size++) {
    char buf[64];
    memset(buf, '#', sizeof buf);
    cr_assert_eq(rctx_describe(c, buf, size), length);
    cr_assert_eq(buf[size - 1], 0);
    cr_assert_eq(strncmp(buf, whole, size - 1), 0);
    cr_assert_eq(buf[size], '#', "wrote beyond %zu bytes", size);
  }
}

Test(roots, the_name_of_a_spec_is_its_own_and_not_inherited) {
  static const char name[] = "GET /";
  RCTX_SCOPED rctx *named = rctx_derive(rctx_background(), &(struct rctx_spec){.name = name});
  RCTX_SCOPED rctx *child = rctx_with_cancel(named);
  cr_assert_eq(rctx_name(named), name, "the pointer that went in");
  cr_assert_null(rctx_name(child));
  cr_assert_null(rctx_name(rctx_background()));
}
