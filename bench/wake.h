/* cancel_to_wake for whatever can be waited for; see wake.c. */
#ifndef RCTX_BENCH_WAKE_H
#define RCTX_BENCH_WAKE_H

#include "cases.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { BENCH_WAKES = 64 }; /* the batch of the case */

struct bench_wake {
  void *(*make)(void);
  void (*wait)(void *ctx); /* blocks until it is cancelled */
  void (*cancel)(void *ctx);
  void (*end)(void *ctx);
};

void *bench_wake_open(const struct bench_wake *wake);
void bench_wake_measure(void *fixture, size_t ops, struct bench_sample *sample);
void bench_wake_close(void *fixture);

#ifdef __cplusplus
}
#endif
#endif
