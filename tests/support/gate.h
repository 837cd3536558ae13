// gate.h - a gate that is opened once and that any number of threads pass from then on; waits for a condition to come true.
#ifndef RCTX_TESTS_GATE_H
#define RCTX_TESTS_GATE_H

#include <sched.h>
#include <semaphore.h>
#include <stdbool.h>
#include <unistd.h>

struct gate {
  sem_t sem;
};

static inline void gate_init(struct gate *gate) { sem_init(&gate->sem, 0, 0); }

static inline void gate_open(struct gate *gate) { sem_post(&gate->sem); }

static inline void gate_pass(struct gate *gate) {
  while (sem_wait(&gate->sem)) {
  }
  sem_post(&gate->sem); // for the next
}

// Until the condition holds; a test's watchdog ends it if it never does.
#define WAIT_UNTIL(condition)                                                                                          \
  do {                                                                                                                 \
    while (!(condition)) usleep(100);                                                                                  \
  } while (0)

#endif
