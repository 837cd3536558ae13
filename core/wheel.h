/*
 * wheel.h - a hierarchical timing wheel: pure arithmetic. No lock, no clock, no thread: one owner at a time.
 *
 * Time is a count of ticks. 8 levels of base-64 digits cover 48 bits (with ticks of 0.1 ms or more: all of int64_t nanoseconds), so
 * no delta is beyond capacity and nothing wraps. A level has two halves of 64 slots: a slot of level L stands for 64^L ticks, a half
 * for a round of 64 slots, and the halves for the round that `now` is in and the one after it. An entry lies on the lowest level
 * that reaches its tick. Within a level slots are due in order: those of the current round, then those of the next.
 *
 * A slot above level 0 has to be emptied onto lower levels when `now` reaches its start. It may be emptied as soon as its entries
 * would lie lower, which is one slot's length before. That is what rctx__wheel_prepare() does, a little at a time: emptied all at
 * once, a slot of 64,000 entries made those that were due then 4 ms late (docs/performance.md).
 *
 * Invariants, checked by rctx__wheel_check():
 *   every entry: tick > now, in the slot of its digit, in this round or the next; occupied bit set <=> slot not empty.
 */
#ifndef RCTX_CORE_WHEEL_H
#define RCTX_CORE_WHEEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { WHEEL_BITS = 6, WHEEL_ROUND = 1 << WHEEL_BITS, WHEEL_SLOTS = 2 * WHEEL_ROUND, WHEEL_LEVELS = 8 };
#define WHEEL_TICK_MAX ((UINT64_C(1) << (WHEEL_BITS * WHEEL_LEVELS)) - 1)
#define WHEEL_NEVER UINT64_MAX

/** One timer: embedded by its user. Owned by the wheel from its add until it is removed or given out. */
struct rctx__wheel_entry {
  struct rctx__wheel_entry *next;
  struct rctx__wheel_entry **pprev;
  uint64_t tick;
};

struct rctx__wheel {
  uint64_t now;                       /* every entry due at or before has been taken out */
  uint64_t occupied[WHEEL_LEVELS][2]; /* per half, bit s: its slot s is not empty */
  struct rctx__wheel_entry *slots[WHEEL_LEVELS][WHEEL_SLOTS];
};

/** Put an entry in. entry->tick is set and > wheel->now. */
void rctx__wheel_add(struct rctx__wheel *wheel, struct rctx__wheel_entry *entry);

/** Take an entry out before it is due. */
void rctx__wheel_remove(struct rctx__wheel *wheel, struct rctx__wheel_entry *entry);

/** The tick at which there is work, for rctx__wheel_advance() or rctx__wheel_prepare(): later than now, unless an advance was cut
 *  short, and never later than the first entry's. WHEEL_NEVER if empty. */
uint64_t rctx__wheel_next(const struct rctx__wheel *wheel);

/** The earliest of what `due` says of the entries; never less than their ticks. WHEEL_NEVER if empty. Looks at all entries of
 *  the slots that begin before it: for tests. */
uint64_t rctx__wheel_first(const struct rctx__wheel *wheel,
                           uint64_t (*due)(struct rctx__wheel_entry *entry, const void *arg), const void *arg);

/** Turn back to an earlier tick. */
void rctx__wheel_rewind(struct rctx__wheel *wheel, uint64_t to);

/**
 * Turn to tick `to` (an earlier one than now: nothing) and give back one due entry, taken out; NULL when there is none
 * left. *work is lowered by one for each entry touched (cascaded or returned); at zero it stops early with NULL and the
 * wheel at a consistent tick before `to`, and is called again.
 */
struct rctx__wheel_entry *rctx__wheel_advance(struct rctx__wheel *wheel, uint64_t to, size_t *work);

/**
 * Empty slots before their time, of up to `work` entries. Gives back what is left of work: more than 0 if nothing is left to do at
 * this tick. Called when rctx__wheel_advance() has come to its end.
 */
size_t rctx__wheel_prepare(struct rctx__wheel *wheel, size_t work);

/** True if the invariants hold. Slow: for tests. */
bool rctx__wheel_check(const struct rctx__wheel *wheel);

#endif
