/* bodies.h - the list of bodies. What each shows stands above its function. */
#ifndef RCTX_TESTS_SCHEDULE_BODIES_H
#define RCTX_TESTS_SCHEDULE_BODIES_H

/* bodies_tree.c */
void add_cancel(void);
void leave_cancel(void);
void leave_reclaim(void);
void two_cancels(void);
void cancels_at_two_levels(void);
void end_parent_child(void);
void give_up(void);
void stripes_cancel(void);
void stripes_drop(void);
void sweep_derive(void);
/* bodies_notify.c */
void stop_callback(void);
void stop_notify(void);
void register_cancel(void);
void callback_ends_its_context(void);
void wait_cancel(void);
void fd_cancel(void);
void poll_cancel(void);
void cond_wait(void);
void loop_queue(void);
void loop_burst(void);
void loop_destroy(void);
void merge_any(void);
void merge_all(void);
void merge_end(void);
/* bodies_time.c */
void timer_fire_stop(void);
void timer_parent(void);
void timer_first_kick(void);
void timer_kick(void);
void timer_kick_embedder(void);
void timer_move(void);
/* bodies_work.c */
void group_tasks(void);
void group_limit(void);
void execute_cancel(void);
void execute_result(void);
void drain_requests(void);
void drain_raises(void);
/* bodies_look.c */
void look_release(void);
void leaks_release(void);
void thread_exit(void);
void test_clock(void);
void idle_touch(void);
/* bodies_random.c */
void random_operations(void);

#endif
