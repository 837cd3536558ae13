/* rctx/rctx.h - everything. Start with context.h. */
#ifndef RCTX_RCTX_H
#define RCTX_RCTX_H

#include <rctx/after.h>
#include <rctx/base.h>
#include <rctx/context.h>
#include <rctx/inspect.h>
#include <rctx/manager.h>
#include <rctx/value.h>
#include <rctx/wait.h>

#endif
