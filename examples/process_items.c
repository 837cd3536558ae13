/*
 * process_items.c - the article's ProcessItems: a list, 40 ms per item; what is done when time is up is kept.
 *
 * In Go:
 *   for _, item := range items {
 *     select {
 *     case <-ctx.Done():                      return results, ctx.Err()
 *     case <-time.After(40*time.Millisecond): results = append(results, "processed_"+item)
 *     }
 *   }
 *   return results, nil
 *
 * Look at: the results and the error are both returned. The caller decides whether half of the list is worth anything.
 */
#include "example.h"
#include <rctx/rctx.h>
#include <string.h>

#define PER_ITEM (40 * MS)

struct result {
  char text[24];
};

/* Processes up to @count items; *done says how many results there are, also when the context ended. */
static int process_items(const rctx *ctx, const char *const *items, size_t count, struct result *results,
                         size_t *done) {
  for (*done = 0; *done < count; (*done)++) {
    int err = rctx_sleep(ctx, PER_ITEM); /* the work */
    if (err != 0) return err;
    (void)snprintf(results[*done].text, sizeof results->text, "processed_%s", items[*done]);
  }
  return 0;
}

static void run(const char *title, const rctx *ctx, int expected) {
  static const char *const items[] = {"ant", "bee", "cat", "dog", "eel", "fox", "gnu", "hen"};
  const size_t count = sizeof items / sizeof *items;
  struct result results[sizeof items / sizeof *items];
  size_t done;

  int err = process_items(ctx, items, count, results, &done);
  printf("%s: %zu of %zu, %s\n", title, done, count, err == 0 ? "all done" : rctx_strerror(err));
  for (size_t i = 0; i < done; i++) {
    expect(strcmp(results[i].text + strlen("processed_"), items[i]) == 0);
    printf("  %s\n", results[i].text);
  }
  expect(err == expected);
  expect(err == 0 ? done == count : done < count);
}

int main(void) {
  RCTX_SCOPED rctx *patient = rctx_with_timeout(rctx_background(), 60 * SECOND);
  run("with 60 s", patient, 0);

  RCTX_SCOPED rctx *hurried = rctx_with_timeout(rctx_background(), 150 * MS);
  run("with 150 ms", hurried, -ETIMEDOUT);

  run("with no time left", hurried, -ETIMEDOUT);
  return expectations_failed();
}
