/* tracestate.h - what traceparent.c needs of tracestate.c. */
#ifndef RCTX_CORE_PROPAGATE_TRACESTATE_H
#define RCTX_CORE_PROPAGATE_TRACESTATE_H

#include "codec.h"

/** Join the tracestate headers into one list and write it by the rules of rctx_tracestate_update(). Counts and reports
 *  what is refused or shortened. Returns the length. size > 0. */
int rctx__tracestate_join(const struct rctx_headers *headers, char *buf, size_t size, enum rctx_fault *fault);

#endif
