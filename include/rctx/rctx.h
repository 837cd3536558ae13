/* rctx/rctx.h - everything but the test kit (testing.h) and the adapters. Start with context.h. */
#ifndef RCTX_RCTX_H
#define RCTX_RCTX_H

#include <rctx/after.h>
#include <rctx/base.h>
#include <rctx/budget.h>
#include <rctx/context.h>
#include <rctx/drain.h>
#include <rctx/executor.h>
#include <rctx/group.h>
#include <rctx/inspect.h>
#include <rctx/leaks.h>
#include <rctx/log.h>
#include <rctx/manager.h>
#include <rctx/merge.h>
#include <rctx/observe.h>
#include <rctx/propagate.h>
#include <rctx/signal.h>
#include <rctx/value.h>
#include <rctx/wait.h>

#endif
