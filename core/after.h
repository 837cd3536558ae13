/* after.h - the states of a registration, shared by after.c (which owns them) and loop.c (which queues and runs). */
#ifndef RCTX_CORE_AFTER_H
#define RCTX_CORE_AFTER_H

#include "platform.h"

#include <rctx/after.h>

enum rctx__after_state {
  AFTER_IDLE = 0, /* quiet: never registered */
  AFTER_ARMED,    /* in its context's list */
  AFTER_NEVER,    /* registered on a context that can not end: in no list */
  AFTER_MOVING,   /* claimed by the thread that fires it, on its way to a queue or to running: for a few instructions */
  AFTER_QUEUED,   /* in a queue */
  AFTER_SUBMITTED, /* an executor has it */
  AFTER_RUNNING,
  AFTER_STOPPING, /* claimed by a stop, still in the list it was in: for a few instructions */
  AFTER_RAN,      /* quiet */
  AFTER_STOPPED,  /* quiet */
  AFTER_DROPPED,  /* quiet: its loop was destroyed; the first stop still returns true */
  AFTER_STATE = 0xff,
  AFTER_WAITED = 0x100,  /* beside SUBMITTED or RUNNING: somebody sleeps on the word */
  AFTER_CLAIMED = 0x200, /* beside them: a stop_notify is about to leave its notice, or has */
  AFTER_NOTICE = 0x400   /* beside them: the quiet callback is set */
};

static inline _Atomic uint32_t *rctx__after_state(struct rctx_after *after) {
  return (_Atomic uint32_t *)(void *)&after->rctx__state;
}

/** Before a callback is run: name the calling thread its runner, and count it. The state becomes RUNNING after this. */
void rctx__after_begin(struct rctx_after *after);
/** Run a callback that has begun. The registration is quiet afterwards. */
void rctx__after_run(struct rctx_after *after);

/* The callbacks and tasks that the library is running on this thread, innermost first. */
struct rctx__frame {
  const struct rctx_manager *manager;
  struct rctx__frame *outer;
};
void rctx__callback_enter(struct rctx__frame *frame, const struct rctx_manager *manager);
void rctx__callback_leave(struct rctx__frame *frame);
/** From here to the end of the block, also when an exception or pthread_exit() unwinds it. */
#define RCTX__IN_CALLBACK_OF(manager)                                                                                  \
  __attribute__((cleanup(rctx__callback_leave))) struct rctx__frame rctx__frame_here;                                  \
  rctx__callback_enter(&rctx__frame_here, (manager))
/** In the child of a fork: what this thread was in is not counted any more. */
void rctx__callbacks_after_fork(void);
/** True inside one of a manager's. */
bool rctx__in_callback_of(const struct rctx_manager *manager);

#endif
