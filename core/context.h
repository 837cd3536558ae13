/* context.h - what the other files need of context.c: derivations that end in an error instead of NULL. */
#ifndef RCTX_CORE_CONTEXT_H
#define RCTX_CORE_CONTEXT_H

#include "platform.h"
#include "tree.h"

/** The static context that has ended with this error: -ENOMEM, -EAGAIN or -EINVAL. Ending it is harmless. */
rctx *rctx__error_context(int err);

/** The same, after letting go of values that were transferred. */
rctx *rctx__refuse_values(int err, const struct rctx_value *values, size_t nvalues);

rctx *rctx__derive_values(const rctx *parent, const struct rctx_value *values, size_t nvalues);

#endif
