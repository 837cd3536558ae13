// ops.h - a byte string as a sequence of operations, run on rctx and on the oracle (oracle.h) and compared after each.
//
// Any bytes are a valid sequence: a byte chooses the operation, the next ones its operands; where bytes run out the
// sequence ends. At the end everything is ended, and nothing may be left: no context, timer, registration or byte.
// The same bytes do the same each time: own clock, own allocator, one thread.
//
// The first difference prints the operations so far in readable form and aborts. RCTX_OPS_TRACE=1 in the environment
// prints them always.
#ifndef RCTX_TESTS_OPS_H
#define RCTX_TESTS_OPS_H

#include <stddef.h>
#include <stdint.h>

enum { OPS_BYTES_MAX = 1024 };

/** Run a sequence. Returns how many operations it had. Aborts on the first difference. */
size_t ops_run(const uint8_t *bytes, size_t size);

#endif
