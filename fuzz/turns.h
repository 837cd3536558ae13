// turns.h - two threads that take turns: one runs, the other stands still, and the input says when they change.
//
// The harness is linked so that each place where the core may yield (rctx__chaos(): every atomic), wait for another thread, or
// take a mutex comes here (turns.c). So the same bytes give the same interleaving, and both threads are never in the core
// at once: a schedule of sequentially consistent steps, replayable, at the cost of a wake-up for each change. If neither
// thread can go on, that is a deadlock, and the run aborts; so it does when one spins without rctx__back_off().
#ifndef RCTX_FUZZ_TURNS_H
#define RCTX_FUZZ_TURNS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/** Run body(0, arg) here and body(1, arg) on a second thread. Each byte of the schedule: after how many yields the turn passes to
 *  the other; when it is used up, only when one waits or has ended. */
void turns_run(void (*body)(int me, void *arg), void *arg, const uint8_t *schedule, size_t size);

/** Which of the two this thread is; -1 outside of turns_run(). */
int turns_me(void);

/** A place where the turn may pass: between two operations. */
void turns_yield(void);

/** The next rctx_fd() finds no descriptor. */
extern bool turns_no_descriptors;

#endif
