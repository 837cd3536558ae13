// watchdog.h - a test that hangs says so itself: watchdog(10) aborts with the test's name after 10 seconds.
//
// By alarm() and SIGALRM: no thread and no fd, which some tests count. A further call starts the time anew, watchdog(0)
// ends it. RCTX_TIME_SCALE multiplies the seconds where everything is slower (sanitizers, valgrind).
#ifndef RCTX_TESTS_WATCHDOG_H
#define RCTX_TESTS_WATCHDOG_H

#include "support/check.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char watchdog_text[256]; // written before the alarm is set, read by its handler

static inline void watchdog_bite(int signal) {
  (void)signal;
  if (write(STDERR_FILENO, watchdog_text, strlen(watchdog_text)) < 0) {
    // nothing left to be said
  }
  abort();
}

static inline void watchdog(unsigned seconds) {
  const char *scale = getenv("RCTX_TIME_SCALE");
  if (scale && atoi(scale) > 0) seconds *= (unsigned)atoi(scale);
  snprintf(watchdog_text, sizeof watchdog_text, "watchdog: %s/%s still runs after %u s\n", check_suite(), check_name(),
           seconds);
  struct sigaction action = {.sa_handler = watchdog_bite};
  sigaction(SIGALRM, &action, NULL);
  alarm(seconds);
}

#endif
