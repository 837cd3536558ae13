// ought.h - what must hold in a harness: said, and aborted at, which is how both fuzzers know a finding.
#ifndef RCTX_FUZZ_OUGHT_H
#define RCTX_FUZZ_OUGHT_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define OUGHT(condition)                                                                                               \
  do {                                                                                                                 \
    if (!(condition)) {                                                                                                \
      fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);                                          \
      abort();                                                                                                         \
    }                                                                                                                  \
  } while (0)

#endif
