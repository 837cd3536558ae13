/* wheel.c - see wheel.h. */
#include "wheel.h"

static unsigned level_of(uint64_t now, uint64_t tick) {
  uint64_t differ = (now ^ tick) | 1; /* | 1: the digit of level 0 when equal */
  return (63U - (unsigned)__builtin_clzll(differ)) / WHEEL_BITS;
}

static unsigned slot_of(uint64_t tick, unsigned level) {
  return (unsigned)(tick >> (WHEEL_BITS * level)) & (WHEEL_SLOTS - 1);
}

void rctx__wheel_add(struct rctx__wheel *wheel, struct rctx__wheel_entry *entry) {
  unsigned level = level_of(wheel->now, entry->tick);
  unsigned slot = slot_of(entry->tick, level);
  struct rctx__wheel_entry **head = &wheel->slots[level][slot];
  entry->next = *head;
  entry->pprev = head;
  if (entry->next) entry->next->pprev = &entry->next;
  *head = entry;
  wheel->occupied[level] |= UINT64_C(1) << slot;
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
    wheel->occupied[index / WHEEL_SLOTS] &= ~(UINT64_C(1) << (index % WHEEL_SLOTS));
  }
}

void rctx__wheel_remove(struct rctx__wheel *wheel, struct rctx__wheel_entry *entry) { unlink_entry(wheel, entry); }

/* The start of the first occupied slot and where it is. All levels are compared, not only the lowest: a slot whose cascade
 * was cut short by `work` still holds entries and comes first. */
static uint64_t next_event(const struct rctx__wheel *wheel, unsigned *level, unsigned *slot) {
  uint64_t first = WHEEL_NEVER;
  for (unsigned l = 0; l < WHEEL_LEVELS; l++) {
    if (wheel->occupied[l] == 0) continue;
    unsigned s = (unsigned)__builtin_ctzll(wheel->occupied[l]);
    unsigned shift = WHEEL_BITS * l;
    uint64_t event = (wheel->now >> (shift + WHEEL_BITS) << (shift + WHEEL_BITS)) | ((uint64_t)s << shift);
    if (event >= first) continue;
    first = event;
    *level = l;
    *slot = s;
  }
  return first;
}

uint64_t rctx__wheel_next(const struct rctx__wheel *wheel) {
  unsigned level, slot;
  return next_event(wheel, &level, &slot);
}

uint64_t rctx__wheel_first(const struct rctx__wheel *wheel,
                           uint64_t (*due)(struct rctx__wheel_entry *entry, const void *arg), const void *arg) {
  uint64_t first = WHEEL_NEVER;
  for (unsigned l = 0; l < WHEEL_LEVELS; l++) {
    for (unsigned s = 0; wheel->occupied[l] >> s; s++) {
      unsigned shift = WHEEL_BITS * l;
      uint64_t begin = (wheel->now >> (shift + WHEEL_BITS) << (shift + WHEEL_BITS)) | ((uint64_t)s << shift);
      if (begin >= first) break;
      for (struct rctx__wheel_entry *entry = wheel->slots[l][s]; entry; entry = entry->next) {
        uint64_t tick = due(entry, arg);
        if (tick < first) first = tick;
      }
      if (s == WHEEL_SLOTS - 1) break;
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

bool rctx__wheel_check(const struct rctx__wheel *wheel) {
  for (unsigned l = 0; l < WHEEL_LEVELS; l++) {
    for (unsigned s = 0; s < WHEEL_SLOTS; s++) {
      const struct rctx__wheel_entry *entry = wheel->slots[l][s];
      if (((wheel->occupied[l] >> s) & 1) != (entry != NULL)) return false;
      for (; entry; entry = entry->next) {
        if (*entry->pprev != entry || slot_of(entry->tick, l) != s) return false;
        /* A slot whose start has been reached but not yet emptied (work ran out) keeps the level it had. */
        bool being_emptied = entry->tick >> (WHEEL_BITS * l) == wheel->now >> (WHEEL_BITS * l);
        if (!being_emptied && (entry->tick <= wheel->now || level_of(wheel->now, entry->tick) != l)) return false;
      }
    }
  }
  return true;
}
