// Random trees: 10,000 random sequences of operations on rctx and on the oracle (tests/oracle/), compared after each.
//
// A sequence's seed is the run's seed plus its number, and is said when it fails: RCTX_SEED=that RCTX_ROUNDS=1 repeats
// it alone. RCTX_ROUNDS changes how many there are.
#include "support/check.h"
#include "support/seed.h"
#include "support/watchdog.h"

#include "oracle/ops.h"

#include <signal.h>
#include <unistd.h>

enum { ROUNDS = 10000, BYTES_MAX = 500, PATIENCE_S = 240 };

#if defined(__SANITIZE_THREAD__)
enum { SLOWER = 10 };
#elif CHECK_LEAKS
enum { SLOWER = 2 };
#else
enum { SLOWER = 1 };
#endif

static char repeat[128]; // how to repeat the sequence that is running

static void say_how_to_repeat(int number) {
  if (write(STDERR_FILENO, repeat, strlen(repeat)) < 0) {
    // nothing left to be said
  }
  signal(number, SIG_DFL);
  raise(number);
}

Test(random_tree, ten_thousand_random_sequences_against_the_oracle, .timeout = 300) {
  const char *asked = getenv("RCTX_ROUNDS");
  unsigned rounds = asked && atoi(asked) > 0 ? (unsigned)atoi(asked) : ROUNDS / SLOWER;
  uint64_t seed = seed_get();
  size_t operations = 0;
  signal(SIGABRT, say_how_to_repeat);
  signal(SIGSEGV, say_how_to_repeat);
  watchdog(PATIENCE_S);
  for (unsigned i = 0; i < rounds; i++) {
    struct rng rng;
    uint8_t bytes[BYTES_MAX];
    rng_init(&rng, seed + i);
    size_t size = 1 + rng_below(&rng, rng_one_in(&rng, 4) ? BYTES_MAX : BYTES_MAX / 4);
    for (size_t b = 0; b < size; b++) bytes[b] = (uint8_t)rng_next(&rng);
    snprintf(repeat, sizeof repeat, "in sequence %u; to repeat it alone: RCTX_SEED=%" PRIu64 " RCTX_ROUNDS=1\n", i,
             seed + i);
    operations += ops_run(bytes, size);
  }
  cr_assert_gt(operations, rounds);
  cr_log_info("%u sequences, %zu operations", rounds, operations);
}

Test(random_tree, the_same_bytes_do_the_same) {
  uint8_t bytes[BYTES_MAX];
  for (size_t b = 0; b < sizeof bytes; b++) bytes[b] = (uint8_t)(b * 37 + b / 7);
  size_t first = ops_run(bytes, sizeof bytes);
  cr_assert_eq(ops_run(bytes, sizeof bytes), first);
  cr_assert_eq(ops_run(bytes, 0), 0);
}
