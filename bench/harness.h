/* Runs one case at a time; see cases.h. Not thread-safe: one thread drives it. */
#ifndef RCTX_BENCH_HARNESS_H
#define RCTX_BENCH_HARNESS_H

#include "cases.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Starts the thread that sleeps for ever: a process with one thread is cheaper than any real one (libraries and the C
 * library skip their atomics), and nobody has one. */
void bench_start_idle_thread(void);

/* Makes c the current case: closes the former one, opens and warms this one. The same case again: nothing. */
void bench_use(const struct bench_case *c);

/* Runs ops operations of the current case (its batch, if it has one) on each of its threads. */
void bench_block(size_t ops, struct bench_sample *sample);

/* Closes the current case. */
void bench_close(void);

/* What is timed, alone: rctx-instructions lets callgrind count inside this function only. */
void bench_measured(const struct bench_case *c, void *fixture, size_t ops);

#ifdef __cplusplus
}
#endif
#endif
