// slow_time.h - grpc-timeout and milliseconds by the rules of the protocol's text, in arithmetic that nothing overflows.
#ifndef RCTX_FUZZ_SLOW_TIME_H
#define RCTX_FUZZ_SLOW_TIME_H

#include "headers.h"

__extension__ typedef __int128 wide;

static const struct {
  char name;
  int64_t ns;
} units[] = {{'n', 1}, {'u', 1000}, {'m', 1000000}, {'S', 1000000000}, {'M', 60000000000}, {'H', 3600000000000}};

// TimeoutValue: a positive integer of at most `most` digits. Returns 0 if it is none.
static wide timeout_value(struct scanner *s, int most) {
  wide value = 0;
  int digits = 0;
  while (in(next(s), "0123456789")) {
    value = 10 * value + (next(s) - '0');
    take(s, next(s));
    if (++digits > most) return 0;
  }
  return value;
}

// TimeoutUnit. Returns 0 if it is none.
static wide timeout_unit(struct scanner *s) {
  for (size_t i = 0; i < 6; i++) {
    if (take(s, units[i].name)) return units[i].ns;
  }
  return 0;
}

// The whole text as a time in ns; 0: it is none.
static wide slow_grpc_timeout(struct rctx_text text) {
  struct scanner s = scan(text);
  wide ns = timeout_value(&s, 8);
  ns *= timeout_unit(&s);
  return next(&s) == END ? ns : 0;
}

static wide slow_timeout_ms(struct rctx_text text) {
  struct scanner s = scan(text);
  wide ns = timeout_value(&s, 10) * 1000000;
  return next(&s) == END ? ns : 0;
}

static int64_t clipped(wide ns) { return ns > INT64_MAX ? INT64_MAX : ns < INT64_MIN ? INT64_MIN : (int64_t)ns; }

#endif
