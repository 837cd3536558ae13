// log_fuzz.c - log lines (include/rctx/log.h) from arbitrary bytes, against a strict reader of JSON and a plain model of what
// belongs into the line: tests/support/log_case.h. Nothing may be left of the contexts.
#include "support/log_case.h"

#include "replay.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  struct rctx_stats stats;
  log_case_run(rctx_background(), data, size);
  rctx_stats(rctx_manager_default(), &stats);
  CASE_OUGHT(stats.contexts == 0, "%zu contexts are left", stats.contexts);
  return 0;
}
