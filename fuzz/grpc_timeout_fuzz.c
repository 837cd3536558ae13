// grpc_timeout_fuzz.c - grpc-timeout and milliseconds, both ways, against the rules of the protocol's text and wide
// arithmetic.
//
// The bytes are a header's value for both decoders, and their first eight are a duration for both encoders.
#include "slow_time.h"

#include "replay.h"

static void read_both(struct rctx_text text) {
  int64_t ns = -1;
  enum rctx_fault fault = RCTX_FAULTS;
  wide expected = slow_grpc_timeout(text);
  OUGHT(rctx_grpc_timeout_decode(text, &ns, &fault) == (expected ? 0 : -EINVAL));
  OUGHT((fault == RCTX_FAULT_NONE) == (expected != 0) && fault < RCTX_FAULTS);
  OUGHT(ns == (expected ? clipped(expected) : -1));

  ns = -1;
  expected = slow_timeout_ms(text);
  OUGHT(rctx_timeout_ms_decode(text, &ns, &fault) == (expected ? 0 : -EINVAL));
  OUGHT((fault == RCTX_FAULT_NONE) == (expected != 0));
  OUGHT(ns == (expected ? clipped(expected) : -1));
}

static void write_grpc(int64_t ns, size_t size) {
  char expected[32], *buf = malloc(size ? size : 1);
  int length = -1;
  for (size_t i = 0; i < 6 && length < 0; i++) {
    if (ns / units[i].ns < 100000000) {
      length = snprintf(expected, sizeof expected, "%lld%c", (long long)(ns / units[i].ns), units[i].name);
    }
  }
  OUGHT(buf != NULL && length > 0);
  int result = rctx_grpc_timeout_encode(ns, buf, size);
  OUGHT(result == ((size_t)length < size ? length : -ENOSPC));
  if (result > 0) OUGHT(strcmp(buf, expected) == 0);
  free(buf);
}

static void write_ms(int64_t ns, size_t size) {
  char expected[32], *buf = malloc(size ? size : 1);
  long long ms = ns / 1000000;
  int length = snprintf(expected, sizeof expected, "%lld", ms > 9999999999 ? 9999999999 : ms);
  int result = rctx_timeout_ms_encode(ns, buf, size);
  OUGHT(buf != NULL && result == (ms == 0 ? -ETIMEDOUT : (size_t)length < size ? length : -ENOSPC));
  if (result > 0) OUGHT(strcmp(buf, expected) == 0);
  free(buf);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  int64_t ns;
  struct rctx_text text = box(data, size);
  read_both(text);
  unbox(text);
  if (size < sizeof ns) return 0;
  memcpy(&ns, data, sizeof ns);
  if (ns <= 0 || ns == INT64_MAX) {
    OUGHT(rctx_grpc_timeout_encode(ns, NULL, 0) == (ns <= 0 ? -ETIMEDOUT : 0));
    return 0;
  }
  write_grpc(ns, size - sizeof ns);
  write_ms(ns, size - sizeof ns);
  return 0;
}
