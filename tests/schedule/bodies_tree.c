/* bodies_tree.c - derive, cancel, end and drop of a tree, at once. */
#include "bodies.h"
#include "body.h"

#include "core/tree.h"

static rctx *top, *left, *right, *below;
static const rctx *held;
static bool won[3];

/* ---- add and cancel ---------------------------------------------------------------------------------------------- */

static void add_and_keep(void *arg) {
  *(rctx **)arg = rctx_with_cancel(top);
  look_whole(*(rctx **)arg);
}

static void add_and_end(void *arg) {
  (void)arg;
  for (int i = 0; i < 2; i++) {
    rctx *child = rctx_with_cancel(top);
    if (look_whole(child)) CHECK(rctx_err(top) != 0);
    rctx_end(child);
  }
}

/* A child is reached by the cancel or born ended; memory that is reused at once changes nothing. */
void add_cancel(void) {
  open_manager((struct rctx_manager_options){0});
  top = rctx_with_cancel(root());
  sim_spawn(cancel_with_a, top);
  sim_spawn(add_and_keep, &left);
  sim_spawn(add_and_end, NULL);
  sim_join_all();
  CHECK_EQUAL(rctx_err(left), -EPIPE);
  CHECK(rctx_cause(left) == &cause_a);
  rctx_end(left);
  rctx_end(top);
  close_manager();
}

/* ---- leave and cancel -------------------------------------------------------------------------------------------- */

static void cancel_and_look(void *arg) {
  rctx_cancel_cause(arg, &cause_a);
  CHECK_EQUAL(look(right), -EPIPE);
  CHECK_EQUAL(look(below), -EPIPE);
}

/* Children go while a walk is among them; what stays is ended. */
void leave_cancel(void) {
  open_manager((struct rctx_manager_options){0});
  top = rctx_with_cancel(root());
  left = rctx_with_cancel(top);
  rctx *middle = rctx_with_cancel(top);
  right = rctx_with_cancel(top);
  below = rctx_with_cancel(middle);
  sim_spawn(cancel_and_look, top);
  sim_spawn(end_it, left);
  sim_spawn(drop_it, middle);
  sim_join_all();
  CHECK_EQUAL(rctx_err(right), -EPIPE);
  CHECK(rctx_cause(below) == &cause_a);
  rctx_end(right);
  rctx_end(below);
  rctx_end(top);
  close_manager();
}

static void trim(void *arg) {
  (void)arg;
  rctx_trim(manager);
}

/* What left under a walk is given back by a third: after a grace period, also of a walk that liburcu could not register. */
void leave_reclaim(void) {
  open_manager((struct rctx_manager_options){0});
  top = rctx_with_cancel(root());
  left = rctx_with_cancel(top);
  right = rctx_with_cancel(top);
  sim_spawn(cancel_with_a, top);
  sim_spawn(end_it, left);
  sim_spawn(trim, NULL);
  sim_join_all();
  CHECK_EQUAL(rctx_err(right), -EPIPE);
  rctx_end(right);
  rctx_end(top);
  close_manager();
}

/* ---- two cancels ------------------------------------------------------------------------------------------------- */

static void cancel_a(void *arg) {
  won[0] = rctx_cancel_cause(arg, &cause_a);
  CHECK(look(left) != 0 && look(below) != 0);
}
static void cancel_b(void *arg) {
  won[1] = rctx_cancel_cause(arg, &cause_b);
  CHECK(look(left) != 0 && look(below) != 0);
}
static void look_twice(void *arg) {
  int first = look_whole(arg);
  int second = look_whole(arg);
  if (first) CHECK_EQUAL(second, first);
}

/* One of them ended it, with its cause; whoever returns finds all below ended, also the one that lost. */
void two_cancels(void) {
  open_manager((struct rctx_manager_options){0});
  top = rctx_with_cancel(root());
  left = rctx_with_cancel(top);
  below = rctx_with_cancel(left);
  sim_spawn(cancel_a, top);
  sim_spawn(cancel_b, top);
  sim_spawn(look_twice, sim_random(2) ? top : below);
  sim_join_all();
  CHECK(won[0] != won[1]);
  CHECK(rctx_cause(top) == (won[0] ? &cause_a : &cause_b));
  CHECK(rctx_cause(below) == rctx_cause(top));
  rctx_end(below);
  rctx_end(left);
  rctx_end(top);
  close_manager();
}

static void cancel_lower(void *arg) {
  won[1] = rctx_cancel_cause(arg, &cause_b);
  CHECK(look(arg) != 0 && look(below) != 0);
}
static void cancel_upper(void *arg) {
  won[0] = rctx_cancel_cause(arg, &cause_a);
  CHECK(look(left) != 0 && look(below) != 0 && look(right) != 0);
}

/* Walks that cross: from above and from the middle, with a third that derives there. */
void cancels_at_two_levels(void) {
  open_manager((struct rctx_manager_options){0});
  top = rctx_with_cancel(root());
  left = rctx_with_cancel(top);
  right = rctx_with_cancel(top);
  below = rctx_with_cancel(left);
  sim_spawn(cancel_upper, top);
  sim_spawn(cancel_lower, left);
  sim_spawn(add_and_end, NULL);
  sim_join_all();
  CHECK(won[0]);
  CHECK(rctx_cause(left) == (won[1] ? &cause_b : &cause_a));
  if (!won[1]) CHECK(rctx_cause(below) == &cause_a);
  CHECK(rctx_cause(right) == &cause_a);
  rctx_end(below);
  rctx_end(right);
  rctx_end(left);
  rctx_end(top);
  close_manager();
}

/* ---- ends ---------------------------------------------------------------------------------------------------------- */

/* Three handles of one path are given back at once. */
void end_parent_child(void) {
  open_manager((struct rctx_manager_options){0});
  top = rctx_with_cancel(root());
  left = rctx_with_cancel(top);
  below = rctx_with_cancel(left);
  void (*how[2])(void *) = {end_it, drop_it};
  sim_spawn(how[sim_random(2)], top);
  sim_spawn(how[sim_random(2)], left);
  sim_spawn(how[sim_random(2)], below);
  sim_join_all();
  close_manager();
}

static void derive_and_let_go(void *arg) {
  (void)arg;
  rctx *child = rctx_with_cancel(held);
  rctx_unref(held);
  look_whole(child);
  rctx_end(child);
}

/* The handle goes while another holds a reference, derives by it, and lets go of it: which of the three was last? */
void give_up(void) {
  open_manager((struct rctx_manager_options){0});
  top = rctx_with_cancel(root());
  held = rctx_ref(top);
  left = rctx_with_cancel(top);
  sim_spawn(sim_random(2) ? drop_it : end_it, top);
  sim_spawn(derive_and_let_go, NULL);
  sim_spawn(end_it, left);
  sim_join_all();
  close_manager();
}

/* ---- several lists ----------------------------------------------------------------------------------------------- */

static void make_contended(rctx *ctx) {
  enum { NEXT_TIME = 7 }; /* tree.c: CONTENDED_ENOUGH - 1 */
  atomic_init(&ctx->contended, NEXT_TIME);
}

static void derive_a_few(void *arg) {
  rctx *children[3];
  for (int i = 0; i < 3; i++) children[i] = rctx_with_cancel(arg);
  for (int i = 0; i < 3; i++) {
    look_whole(children[i]);
    rctx_end(children[i]);
  }
}

/* As the schedule has it: it takes two that meet. */
static void have_stripes(void) {
  sim_spawn(derive_a_few, top);
  sim_spawn(derive_a_few, top);
  sim_join_all();
}

static void derive_two_and_keep_one(void *arg) {
  rctx *first = rctx_with_cancel(top);
  add_and_keep(arg);
  look_whole(first);
  rctx_end(first);
}

/* The parent gets its stripes in the middle of it. No splice escapes the walk. */
void stripes_cancel(void) {
  rctx *kept[2];
  open_manager((struct rctx_manager_options){0});
  top = rctx_with_cancel(root());
  left = rctx_with_cancel(top);
  below = rctx_with_cancel(left);
  make_contended(top);
  if (sim_random(2)) have_stripes();
  for (int i = 0; i < 2; i++) sim_spawn(derive_two_and_keep_one, &kept[i]);
  sim_spawn(cancel_a, top);
  sim_join_all();
  CHECK(won[0]);
  for (int i = 0; i < 2; i++) {
    CHECK_EQUAL(rctx_err(kept[i]), -EPIPE);
    rctx_end(kept[i]);
  }
  rctx_end(below);
  rctx_end(left);
  rctx_end(top);
  close_manager();
}

/* Who finds itself the last child of a context whose handle is gone, on two lists at once? */
void stripes_drop(void) {
  open_manager((struct rctx_manager_options){0});
  top = rctx_with_cancel(root());
  held = rctx_ref(top);
  make_contended(top);
  have_stripes();
  left = rctx_with_cancel(top);
  right = rctx_with_cancel(top);
  sim_spawn(drop_it, top);
  sim_spawn(derive_and_let_go, NULL);
  sim_spawn(end_it, left);
  sim_spawn(end_it, right);
  sim_join_all();
  close_manager();
}

/* ---- a cancel in slices ------------------------------------------------------------------------------------------ */

static void sweep(void *arg) {
  struct rctx_sweep sweep;
  if (!rctx_cancel_begin(arg, &cause_a, &sweep)) return;
  while (rctx_cancel_step(&sweep, 1)) sim_point(NULL, __func__, __LINE__);
  CHECK(look(left) != 0 && look(below) != 0);
}

static void watch_and_cancel(void *arg) {
  struct watch watch = {.ran = 0};
  int found = rctx_after_inline(below, &watch.node, RCTX_ON_ENDED_TELL, on_end, &watch);
  if (sim_random(2)) rctx_cancel_cause(arg, &cause_b);
  bool stopped = rctx_after_stop_sync(&watch.node);
  watch.gone = true;
  if (found == RCTX_ENDED) CHECK_EQUAL(watch.ran, 0);
  if (found == RCTX_REGISTERED) CHECK_EQUAL(watch.ran, stopped ? 0 : 1);
}

/* Slices, a derive, a watch and another cancel. What the sweep stands on is a watched child. */
void sweep_derive(void) {
  struct watch watched[2] = {{.ran = 0}, {.ran = 0}};
  open_manager((struct rctx_manager_options){0});
  top = rctx_with_cancel(root());
  left = rctx_with_cancel(top);
  right = rctx_with_cancel(top);
  below = rctx_with_cancel(left);
  rctx_after_inline(left, &watched[0].node, RCTX_ON_ENDED_RUN, on_end, &watched[0]);
  rctx_after_inline(right, &watched[1].node, RCTX_ON_ENDED_RUN, on_end, &watched[1]);
  bool end_right = sim_random(2);
  sim_spawn(sweep, top);
  sim_spawn(end_right ? end_it : add_and_end, right);
  sim_spawn(watch_and_cancel, sim_random(2) ? top : left);
  sim_join_all();
  CHECK(rctx_err(left) != 0 && rctx_err(below) != 0);
  CHECK(watched[0].ran == 1 && watched[1].ran == 1);
  if (!end_right) rctx_end(right);
  rctx_end(below);
  rctx_end(left);
  rctx_end(top);
  close_manager();
}
