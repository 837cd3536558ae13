// seed.h - random numbers that can be had again: RCTX_SEED=N in the environment repeats a run; the seed is always printed.
#ifndef RCTX_TESTS_SEED_H
#define RCTX_TESTS_SEED_H

#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

struct rng {
  uint64_t s[4]; // xoshiro256**
};

static inline uint64_t splitmix64(uint64_t *state) {
  uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15));
  z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
  z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
  return z ^ (z >> 31);
}

static inline void rng_init(struct rng *r, uint64_t seed) {
  for (int i = 0; i < 4; i++) r->s[i] = splitmix64(&seed);
}

static inline uint64_t rng_next(struct rng *r) {
  uint64_t *s = r->s, product = s[1] * 5, result = ((product << 7) | (product >> 57)) * 9, t = s[1] << 17;
  s[2] ^= s[0];
  s[3] ^= s[1];
  s[1] ^= s[2];
  s[0] ^= s[3];
  s[2] ^= t;
  s[3] = (s[3] << 45) | (s[3] >> 19);
  return result;
}

// A number below n, n > 0; the bias is below 2^-32 for n < 2^32.
static inline uint64_t rng_below(struct rng *r, uint64_t n) { return rng_next(r) % n; }

// A number from low to high, both included.
static inline int64_t rng_between(struct rng *r, int64_t low, int64_t high) {
  uint64_t width = (uint64_t)high - (uint64_t)low + 1;
  return (int64_t)((uint64_t)low + (width ? rng_below(r, width) : rng_next(r)));
}

// True once in n times.
static inline int rng_one_in(struct rng *r, uint64_t n) { return rng_below(r, n) == 0; }

// The seed of this run, printed on stderr. Call once per test; give each thread its own rng, from seed + thread number.
static inline uint64_t seed_get(void) {
  const char *text = getenv("RCTX_SEED");
  uint64_t seed;
  if (text && *text) {
    seed = strtoull(text, NULL, 0);
  } else {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    seed = ((uint64_t)now.tv_sec << 30) ^ (uint64_t)now.tv_nsec;
  }
  fprintf(stderr, "seed %" PRIu64 " (RCTX_SEED=%" PRIu64 " repeats this run)\n", seed, seed);
  return seed;
}

#endif
