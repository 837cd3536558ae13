/* urcu/urcu-bp.h - what core/rcu.c uses of liburcu-bp, by the fibres' scheduler. */
#ifndef RCTX_TESTS_SCHEDULE_URCU_BP_H
#define RCTX_TESTS_SCHEDULE_URCU_BP_H

#include "../../kernel.h"

#define urcu_bp_read_lock sim_read_lock
#define urcu_bp_read_unlock sim_read_unlock
#define urcu_bp_read_ongoing sim_read_ongoing
#define urcu_bp_synchronize_rcu sim_grace_period
static inline void urcu_bp_before_fork(void) {} /* no schedule forks */
static inline void urcu_bp_after_fork_child(void) {}

#endif
