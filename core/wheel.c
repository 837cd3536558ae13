/* wheel.c - see wheel.h. */
#include "wheel.h"

/* The number of the slot, counted from tick 0, that a tick lies in. */
static uint64_t slot_number(uint64_t tick, unsigned level) { return tick >> (WHEEL_BITS * level); }

static unsigned level_of(uint64_t now, uint64_t tick) {
  uint64_t differ = (now ^ tick) | 1; /* | 1: the digit of level 0 when equal */
  unsigned level = (63U - (unsigned)__builtin_clzll(differ)) / WHEEL_BITS;
  while (level > 0 && slot_number(tick, level) - slot_number(now, level) == 1)
    level--; /* the next round, one level down */
  return level;
}

static unsigned slot_of(uint64_t tick, unsigned level) {
  return (unsigned)slot_number(tick, level) & (WHEEL_SLOTS - 1);
}

/* The tick at which an occupied slot begins: in the current round if it is of its half, else in the next. */
static uint64_t slot_start(uint64_t now, unsigned level, unsigned slot) {
  uint64_t round = slot_number(now, level) / WHEEL_ROUND;
  round += (round ^ (slot / WHEEL_ROUND)) & 1;
  return (round * WHEEL_ROUND + slot % WHEEL_ROUND) << (WHEEL_BITS * level);
}

/* The first occupied slot of a level in the order of time. False: none. */
static bool first_slot(const struct rctx__wheel *wheel, unsigned level, unsigned *slot) {
  const uint64_t *occupied = wheel->occupied[level];
  if ((occupied[0] | occupied[1]) == 0) return false;
  unsigned half = (unsigned)(slot_number(wheel->now, level) / WHEEL_ROUND) & 1;
  if (occupied[half] == 0) half ^= 1;
  *slot = half * WHEEL_ROUND + (unsigned)__builtin_ctzll(occupied[half]);
  return true;
}

void rctx__wheel_add(struct rctx__wheel *wheel, struct rctx__wheel_entry *entry) {
  unsigned level = level_of(wheel->now, entry->tick);
  unsigned slot = slot_of(entry->tick, level);
  struct rctx__wheel_entry **head = &wheel->slots[level][slot];
  entry->next = *head;
  entry->pprev = head;
  if (entry->next) entry->next->pprev = &entry->next;
  *head = entry;
  wheel->occupied[level][slot / WHEEL_ROUND] |= UINT64_C(1) << slot % WHEEL_ROUND;
}

static void unlink_entry(struct rctx__wheel *wheel, struct rctx__wheel_entry *entry) {
  struct rctx__wheel_entry **pprev = entry->pprev;
  *pprev = entry->next;
  if (entry->next) {
    entry->next->pprev = pprev;
    return;
  }
  /* Perhaps the slot's last: it is if pprev is a slot head, and then its place in the array is level and slot. */
  size_t index = (size_t)((uintptr_t)pprev - (uintptr_t)&wheel->slots[0][0]) / sizeof *pprev;
  if (index < (size_t)WHEEL_LEVELS * WHEEL_SLOTS) {
    wheel->occupied[index / WHEEL_SLOTS][index / WHEEL_ROUND % 2] &= ~(UINT64_C(1) << index % WHEEL_ROUND);
  }
}

void rctx__wheel_remove(struct rctx__wheel *wheel, struct rctx__wheel_entry *entry) { unlink_entry(wheel, entry); }

/* The start of the first occupied slot and where it is. All levels are compared, not only the lowest: a slot that has not been
 * emptied yet may come first. */
static uint64_t next_event(const struct rctx__wheel *wheel, unsigned *level, unsigned *slot) {
  uint64_t first = WHEEL_NEVER;
  for (unsigned l = 0; l < WHEEL_LEVELS; l++) {
    unsigned s;
    if (!first_slot(wheel, l, &s)) continue;
    uint64_t event = slot_start(wheel->now, l, s);
    if (event >= first) continue;
    first = event;
    *level = l;
    *slot = s;
  }
  return first;
}

uint64_t rctx__wheel_next(const struct rctx__wheel *wheel) {
  uint64_t first = WHEEL_NEVER;
  for (unsigned l = 0; l < WHEEL_LEVELS; l++) {
    unsigned s;
    if (!first_slot(wheel, l, &s)) continue;
    uint64_t event = slot_start(wheel->now, l, s);
    if (l > 0 && event > wheel->now) { /* to be prepared from one slot's length before, or further at the next tick */
      uint64_t length = UINT64_C(1) << (WHEEL_BITS * l);
      event = event - wheel->now > length ? event - length : wheel->now + 1;
    }
    if (event < first) first = event;
  }
  return first;
}

uint64_t rctx__wheel_first(const struct rctx__wheel *wheel,
                           uint64_t (*due)(struct rctx__wheel_entry *entry, const void *arg), const void *arg) {
  uint64_t first = WHEEL_NEVER;
  for (unsigned l = 0; l < WHEEL_LEVELS; l++) {
    for (unsigned s = 0; s < WHEEL_SLOTS; s++) {
      struct rctx__wheel_entry *entry = wheel->slots[l][s];
      if (entry == NULL || slot_start(wheel->now, l, s) >= first) continue;
      for (; entry; entry = entry->next) {
        uint64_t tick = due(entry, arg);
        if (tick < first) first = tick;
      }
    }
  }
  return first;
}

void rctx__wheel_rewind(struct rctx__wheel *wheel, uint64_t to) {
  struct rctx__wheel_entry *all = NULL;
  if (to >= wheel->now) return;
  for (unsigned l = 0; l < WHEEL_LEVELS; l++) {
    for (unsigned s = 0; s < WHEEL_SLOTS; s++) {
      for (struct rctx__wheel_entry *entry; (entry = wheel->slots[l][s]) != NULL;) {
        unlink_entry(wheel, entry);
        entry->next = all;
        all = entry;
      }
    }
  }
  wheel->now = to;
  for (struct rctx__wheel_entry *entry; (entry = all) != NULL;) {
    all = entry->next;
    rctx__wheel_add(wheel, entry);
  }
}

struct rctx__wheel_entry *rctx__wheel_advance(struct rctx__wheel *wheel, uint64_t to, size_t *work) {
  while (*work > 0) {
    unsigned level = 0, slot = 0;
    uint64_t event = next_event(wheel, &level, &slot);
    if (event > to) {
      if (to > wheel->now) wheel->now = to;
      return NULL;
    }
    if (event > wheel->now) wheel->now = event;
    struct rctx__wheel_entry *entry = wheel->slots[level][slot];
    unlink_entry(wheel, entry);
    --*work;
    if (entry->tick <= wheel->now) return entry;
    rctx__wheel_add(wheel, entry);
  }
  return NULL;
}

size_t rctx__wheel_prepare(struct rctx__wheel *wheel, size_t work) {
  for (unsigned l = 1; l < WHEEL_LEVELS; l++) { /* the most urgent first */
    uint64_t next = slot_number(wheel->now, l) + 1;
    struct rctx__wheel_entry **head = &wheel->slots[l][next & (WHEEL_SLOTS - 1)];
    for (struct rctx__wheel_entry *entry; (entry = *head) != NULL; work--) {
      if (work == 0) return 0;
      unlink_entry(wheel, entry);
      rctx__wheel_add(wheel, entry);
    }
  }
  return work;
}

bool rctx__wheel_check(const struct rctx__wheel *wheel) {
  for (unsigned l = 0; l < WHEEL_LEVELS; l++) {
    for (unsigned s = 0; s < WHEEL_SLOTS; s++) {
      const struct rctx__wheel_entry *entry = wheel->slots[l][s];
      if (((wheel->occupied[l][s / WHEEL_ROUND] >> s % WHEEL_ROUND) & 1) != (entry != NULL)) return false;
      for (; entry; entry = entry->next) {
        if (*entry->pprev != entry || slot_of(entry->tick, l) != s) return false;
        uint64_t now = slot_number(wheel->now, l), at = slot_number(entry->tick, l);
        if (at == now && entry->tick <= wheel->now) continue; /* its slot is being emptied: work ran out */
        if (entry->tick <= wheel->now || at / WHEEL_ROUND - now / WHEEL_ROUND > 1) return false;
        if (level_of(wheel->now, entry->tick) != l && at != now && at != now + 1)
          return false; /* else it may wait here */
      }
    }
  }
  return true;
}
