// wheel_fuzz.c - the timing wheel (core/wheel.h) against a plain array.
//
// The first byte chooses the wheel's epoch, then each operation takes a byte for what and whom, and one or two for when.
// After each operation: invariants, next event not later than the first entry; each entry given out was armed, is due,
// and none that is left is due before it.
#include "core/wheel.h"

#include "ought.h"
#include "replay.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ENTRIES = 32, OPERATIONS_MAX = 400 };

struct state {
  struct rctx__wheel wheel;
  struct rctx__wheel_entry entries[ENTRIES];
  bool armed[ENTRIES];
  const uint8_t *at, *end;
  unsigned count;
};

static uint8_t take(struct state *s) { return s->at < s->end ? *s->at++ : 0; }

// A power of two, give or take a little: where digits carry. Or any number of up to 12 bits.
static uint64_t take_delta(struct state *s) {
  uint8_t b = take(s);
  if (b < 192) return (UINT64_C(1) << (b % 48)) + (uint64_t)(b / 48);
  return 1 + (((uint64_t)(b & 15) << 8) | take(s));
}

static uint64_t first_armed(const struct state *s) {
  uint64_t first = WHEEL_NEVER;
  for (int i = 0; i < ENTRIES; i++) {
    if (s->armed[i] && s->entries[i].tick < first) first = s->entries[i].tick;
  }
  return first;
}

static void advance(struct state *s, uint64_t to, size_t work) {
  bool limited = work != SIZE_MAX;
  for (struct rctx__wheel_entry *entry; (entry = rctx__wheel_advance(&s->wheel, to, &work));) {
    size_t i = (size_t)(entry - s->entries);
    OUGHT(i < ENTRIES && s->armed[i]);
    OUGHT(entry->tick <= to);
    OUGHT(entry->tick == first_armed(s));
    s->armed[i] = false;
  }
  if (!limited || work > 0) OUGHT(first_armed(s) > to && s->wheel.now >= to);
}

static void operate(struct state *s) {
  uint8_t what = take(s);
  size_t i = what % ENTRIES;
  if (what == 255) { // the clock is set back
    uint64_t delta = take_delta(s);
    rctx__wheel_rewind(&s->wheel, s->wheel.now > delta ? s->wheel.now - delta : 0);
    OUGHT(rctx__wheel_check(&s->wheel));
    return;
  }
  if (what >= 248) {
    rctx__wheel_prepare(&s->wheel, what & 7);
  } else if (what >= 192) {
    uint64_t delta = take_delta(s), to = s->wheel.now + delta;
    advance(s, to < WHEEL_TICK_MAX ? to : WHEEL_TICK_MAX, what & 32 ? SIZE_MAX : 1 + (size_t)what % 8);
  } else if (s->armed[i]) {
    rctx__wheel_remove(&s->wheel, &s->entries[i]);
    s->armed[i] = false;
  } else {
    s->entries[i].tick = s->wheel.now + take_delta(s);
    if (s->entries[i].tick > WHEEL_TICK_MAX) return;
    rctx__wheel_add(&s->wheel, &s->entries[i]);
    s->armed[i] = true;
  }
  if (s->count++ % 8 == 0) OUGHT(rctx__wheel_check(&s->wheel)); // looks at every slot
  OUGHT(rctx__wheel_next(&s->wheel) <= first_armed(s));
  if (first_armed(s) == WHEEL_NEVER) OUGHT(rctx__wheel_next(&s->wheel) == WHEEL_NEVER);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static struct state s;
  memset(&s, 0, sizeof s);
  s.at = data;
  s.end = data + size;
  uint8_t epoch = take(&s);
  if (epoch) s.wheel.now = (UINT64_C(1) << (2 + epoch % 45)) - (epoch / 45 % 3);
  for (int n = 0; n < OPERATIONS_MAX && s.at < s.end; n++) operate(&s);
  OUGHT(rctx__wheel_check(&s.wheel));
  advance(&s, WHEEL_TICK_MAX, SIZE_MAX);
  OUGHT(rctx__wheel_next(&s.wheel) == WHEEL_NEVER);
  return 0;
}
