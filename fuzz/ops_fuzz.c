// ops_fuzz.c - sequences of operations on rctx against the oracle: tests/oracle/ops.h says what the bytes mean.
//
// One entry for libFuzzer and AFL++ alike. With -DFUZZ_MAIN it is a plain program that runs the files it is given.
#include "oracle/ops.h"

#include "replay.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  ops_run(data, size);
  return 0;
}
