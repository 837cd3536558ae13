/*
 * pipe.h - memory that ages before it is used again, and looks at it that tell its age.
 *
 * An allocator for a manager that caches nothing. What is given back to it is not used again at once: it moves one stage on with each
 * grace period that is over, and only behind the last stage it may be handed out. Its contents stay as they were. Stages:
 *
 *   0      in use
 *   1      unlinked from its parent, and waits for a grace period because a walk may be standing on it
 *   2..10  given back, and so many grace periods ago less 2
 *
 * Who touches something beyond stage 1 has held on to memory that the library had given up: that is a fault, of the
 * reader or of whoever gave it up. The same idea as in the kernel's rcutorture, whose "Reader Pipe" this histogram is.
 */
#ifndef RCTX_TESTS_AGEING_PIPE_H
#define RCTX_TESTS_AGEING_PIPE_H

#include "support/seed.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum { STAGE_IN_USE = 0, STAGE_UNLINKED = 1, STAGE_GIVEN_BACK = 2, STAGES_LAST = 10, STAGES };

struct pipe_counts {
  uint64_t seen[STAGES];               /* touches, by the age of what was touched */
  uint64_t handed_out, reused;         /* objects; reused: of those, how many have been through the whole pipe */
  uint64_t unlinked, given_back, aged; /* aged: times that an object moved on */
  uint64_t turns;                      /* grace periods */
};

void pipe_open(void);
/* For struct rctx_allocator. Waits for the pipe when it has nothing to hand out. */
void *pipe_alloc(void *self, size_t size, size_t align);
void pipe_free(void *self, void *ptr, size_t size);

/* An object is unlinked, and waits to be given back. */
void pipe_unlinked(const void *object);
/* This thread is about to touch what lies at this address; anything may be asked. In a walk it lingers now and then. */
void pipe_see(const volatile void *address);

/* One grace period; then everything that had been given back before it moves on. One thread. */
void pipe_turn(void);

/* This thread: from now on its touches are counted, with this seed. It walks / it has left the walk. */
void pipe_join(uint64_t seed);
void pipe_walk_begins(void);
void pipe_walk_ends(void);

/* How often something too old was touched so far. */
uint64_t pipe_faults(void);
void pipe_count(struct pipe_counts *counts);
void pipe_print(const struct pipe_counts *counts, FILE *out);

#endif
