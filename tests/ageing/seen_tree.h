/* seen_tree.h - core/tree.c once more, telling pipe.h of everything that it touches by an atomic access; and with faults planted. */
#ifndef RCTX_TESTS_AGEING_SEEN_TREE_H
#define RCTX_TESTS_AGEING_SEEN_TREE_H

#include <rctx/rctx.h>

enum plant {
  PLANT_NONE,
  PLANT_NO_GRACE_PERIOD, /* what waits for a grace period is given back without one */
  PLANT_NOT_DEFERRED,    /* what a walk may stand on is given back at once */
  PLANT_NO_READ_SECTION, /* walks tell nobody that they walk */
  PLANTS
};
extern enum plant planted; /* const once threads run */
extern const char *const plant_names[PLANTS];

/* Gives a live context several child lists, which otherwise only contention does. */
void seen_make_stripes(rctx *node);

#endif
