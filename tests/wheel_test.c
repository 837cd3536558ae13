// The timing wheel (core/wheel.h) alone: pure arithmetic against a plain array, and the boundaries that broke others'.
//
// Numbers in [brackets] are the scenarios of other projects' bugs that these tests repeat: wrong by one slot at the end
// of a wheel [19], entries added while a slot is emptied [20], past ticks [21], beyond capacity [22], a base close to
// the top of a level with a far timer present [23], removal on the very tick [24], next event not updated [25].
#include "support/check.h"
#include "support/seed.h"
#include "support/watchdog.h"

#include "core/wheel.h"

#include <string.h>

enum { ENTRIES = 600, OPERATIONS = 200000 };

struct model_entry {
  struct rctx__wheel_entry entry; // first
  bool armed;
  bool fired;
};

struct model {
  struct rctx__wheel wheel;
  struct model_entry entries[ENTRIES];
};

static struct model model;

static void model_init(uint64_t now) {
  memset(&model, 0, sizeof model);
  model.wheel.now = now;
}

static void arm(size_t i, uint64_t tick) {
  struct model_entry *e = &model.entries[i];
  e->entry.tick = tick;
  e->armed = true;
  e->fired = false;
  rctx__wheel_add(&model.wheel, &e->entry);
}

static void disarm(size_t i) {
  rctx__wheel_remove(&model.wheel, &model.entries[i].entry);
  model.entries[i].armed = false;
}

static uint64_t first_armed(void) {
  uint64_t first = WHEEL_NEVER;
  for (size_t i = 0; i < ENTRIES; i++) {
    if (model.entries[i].armed && model.entries[i].entry.tick < first) first = model.entries[i].entry.tick;
  }
  return first;
}

static size_t armed_until(uint64_t to) {
  size_t count = 0;
  for (size_t i = 0; i < ENTRIES; i++) count += model.entries[i].armed && model.entries[i].entry.tick <= to;
  return count;
}

// One entry out of the wheel: it must be one of the first that are due.
static struct model_entry *take_one(uint64_t to, size_t *work) {
  uint64_t first = first_armed();
  struct model_entry *e = (struct model_entry *)(void *)rctx__wheel_advance(&model.wheel, to, work);
  if (!e) return NULL;
  cr_assert(e->armed, "fired twice, or never armed");
  cr_assert_eq(e->entry.tick, first, "tick %" PRIu64 " before %" PRIu64, e->entry.tick, first);
  cr_assert_leq(e->entry.tick, to, "early");
  e->armed = false;
  e->fired = true;
  return e;
}

static size_t advance(uint64_t to) {
  size_t count = 0, work = SIZE_MAX;
  while (take_one(to, &work)) count++;
  cr_assert_eq(armed_until(to), 0, "left behind at %" PRIu64, to);
  cr_assert(rctx__wheel_check(&model.wheel));
  return count;
}

static void next_is_not_late(void) {
  uint64_t next = rctx__wheel_next(&model.wheel), first = first_armed();
  cr_assert_leq(next, first, "next %" PRIu64 " is later than the first entry %" PRIu64, next, first);
  if (first == WHEEL_NEVER) cr_assert_eq(next, WHEEL_NEVER);
}

Test(wheel, an_empty_wheel_never_has_work) {
  model_init(0);
  cr_assert_eq(rctx__wheel_next(&model.wheel), WHEEL_NEVER);
  cr_assert_eq(advance(WHEEL_TICK_MAX), 0);
  cr_assert_eq(model.wheel.now, WHEEL_TICK_MAX);
}

// The ends and beginnings of every level, from bases at, before and behind a boundary.  [19] [22]
Test(wheel, each_fires_on_its_very_tick_at_the_boundaries_of_every_level, .timeout = 60) {
  for (int base_level = 0; base_level < WHEEL_LEVELS; base_level++) {
    for (int base_step = -1; base_step <= 1; base_step++) {
      for (int level = 0; level < WHEEL_LEVELS; level++) {
        for (int step = -2; step <= 2; step++) {
          uint64_t base = (UINT64_C(1) << (WHEEL_BITS * base_level)) + (uint64_t)(int64_t)base_step;
          uint64_t delta = (UINT64_C(1) << (WHEEL_BITS * level)) + (uint64_t)(int64_t)step;
          if ((int64_t)delta <= 0 || base + delta > WHEEL_TICK_MAX) continue;
          model_init(base);
          arm(0, base + delta);
          next_is_not_late();
          cr_assert_eq(advance(base + delta - 1), 0, "base %" PRIu64 " delta %" PRIu64 ": early", base, delta);
          next_is_not_late();
          cr_assert_eq(advance(base + delta), 1, "base %" PRIu64 " delta %" PRIu64 ": late", base, delta);
        }
      }
    }
  }
}

// Uptimes of 12 days, 2 years and 2^47 ticks with one very far entry present: near ones still come first.  [23]
Test(wheel, a_far_entry_does_not_starve_near_ones_whatever_the_uptime) {
  static const uint64_t epochs[] = {0, UINT64_C(1) << 30, UINT64_C(1) << 36, UINT64_C(1) << 47};
  for (size_t e = 0; e < sizeof epochs / sizeof *epochs; e++) {
    for (uint64_t before = 0; before <= 70; before++) {
      uint64_t base = epochs[e] > before ? epochs[e] - before : before;
      model_init(base);
      arm(0, WHEEL_TICK_MAX);
      for (size_t i = 1; i <= 100; i++) {
        arm(i, base + i);
        cr_assert(rctx__wheel_check(&model.wheel));
        next_is_not_late();
      }
      for (uint64_t tick = base + 1; tick <= base + 100; tick++) cr_assert_eq(advance(tick), 1);
      disarm(0);
      cr_assert_eq(rctx__wheel_next(&model.wheel), WHEEL_NEVER);
    }
  }
}

Test(wheel, the_farthest_tick_is_reached_in_one_step) {
  model_init(1);
  arm(0, WHEEL_TICK_MAX);
  arm(1, WHEEL_TICK_MAX - 1);
  arm(2, 2);
  cr_assert_eq(advance(WHEEL_TICK_MAX), 3);
}

// An entry is armed again, for the next tick, from inside the emptying of its slot.  [20]
Test(wheel, armed_again_while_its_slot_is_emptied_it_fires_once_per_tick) {
  model_init(60);
  for (size_t i = 0; i < 10; i++) arm(i, 62);
  size_t fired = 0;
  for (uint64_t to = 61; to <= 200; to++) {
    size_t work = SIZE_MAX, here = 0;
    for (struct model_entry *e; (e = take_one(to, &work)); here++) {
      cr_assert_eq(model.wheel.now, to, "an entry is given out when the wheel stands at its tick");
      arm((size_t)(e - model.entries), to + 1);
    }
    cr_assert_eq(here, to < 62 ? 0 : 10);
    fired += here;
  }
  cr_assert_eq(fired, 139 * 10);
}

// Those not yet given out of a slot that is being emptied can still be taken out.  [20] [24]
Test(wheel, removed_on_the_very_tick_it_does_not_fire) {
  model_init(0);
  for (size_t i = 0; i < 10; i++) arm(i, 100);
  size_t work = SIZE_MAX, left = 9;
  cr_assert_not_null(take_one(100, &work));
  for (size_t i = 0; i < 10; i++) {
    if (!model.entries[i].armed || i % 2) continue;
    disarm(i);
    left--;
  }
  cr_assert_eq(advance(100), left);
  cr_assert_eq(rctx__wheel_next(&model.wheel), WHEEL_NEVER);
}

Test(wheel, an_earlier_tick_than_now_does_nothing) {
  model_init(1000);
  arm(0, 1001);
  cr_assert_eq(advance(500), 0);
  cr_assert_eq(model.wheel.now, 1000);
  cr_assert_eq(advance(1001), 1);
}

// Work is counted and stops the wheel at a consistent tick; again and again it gets everything done.
Test(wheel, little_work_at_a_time_still_fires_all_in_order) {
  model_init(4000);
  for (size_t i = 0; i < ENTRIES; i++) arm(i, 4001 + i * 37 % 5000);
  size_t fired = 0, calls = 0;
  while (fired < ENTRIES) {
    size_t work = 1 + calls++ % 3;
    while (take_one(10000, &work)) fired++;
    cr_assert(rctx__wheel_check(&model.wheel));
    next_is_not_late();
    cr_assert_lt(calls, 100 * ENTRIES, "no progress");
  }
  size_t work = 1;
  cr_assert_null(take_one(10000, &work));
  cr_assert_eq(model.wheel.now, 10000);
}

// A slot's entries are moved down during the ticks before it begins: then the tick at which it does touches only what is due.  [19]
Test(wheel, a_crowded_slot_is_emptied_before_its_time) {
  static const uint64_t slots[] = {128, 4096, 8192, 262144};
  for (size_t s = 0; s < sizeof slots / sizeof *slots; s++) {
    for (int prepare = 0; prepare <= 1; prepare++) {
      model_init(0);
      for (size_t i = 0; i < ENTRIES; i++) arm(i, slots[s] + i % 64);
      for (uint64_t next; (next = rctx__wheel_next(&model.wheel)) < slots[s];) { // as the driver goes to sleep
        cr_assert_gt(next, model.wheel.now);
        cr_assert_eq(advance(next), 0);
        if (prepare) rctx__wheel_prepare(&model.wheel, 100);
        cr_assert(rctx__wheel_check(&model.wheel));
        next_is_not_late();
        if (!prepare && next >= slots[s] - 1) break; // always something left to prepare
      }
      size_t work = SIZE_MAX, due = 0;
      while (take_one(slots[s], &work)) due++;
      cr_assert_eq(due, (ENTRIES + 63) / 64);
      if (prepare) {
        cr_assert_eq(SIZE_MAX - work, due, "%zu touched", SIZE_MAX - work);
      } else {
        cr_assert_geq(SIZE_MAX - work, (size_t)ENTRIES, "the test's premise: unprepared, all are touched at once");
      }
      advance(slots[s] + 64);
    }
  }
}

// As many as there are, little by little: each call does as much as it may, and says when nothing is left for this tick.
Test(wheel, prepare_does_no_more_than_it_is_allowed) {
  model_init(0);
  for (size_t i = 0; i < ENTRIES; i++) arm(i, 128 + i % 64);
  cr_assert_eq(rctx__wheel_prepare(&model.wheel, 10), 10, "too early: nothing to do");
  advance(64);
  cr_assert_eq(rctx__wheel_next(&model.wheel), 65, "something to prepare at the next tick");
  for (size_t left = ENTRIES; left >= 100; left -= 100) cr_assert_eq(rctx__wheel_prepare(&model.wheel, 100), 0);
  cr_assert_eq(rctx__wheel_prepare(&model.wheel, 100), 100);
  cr_assert_eq(rctx__wheel_next(&model.wheel), 128, "nothing but what is due");
  cr_assert_eq(advance(191), ENTRIES);
}

static uint64_t random_delta(struct rng *rng) {
  unsigned bits = (unsigned)rng_below(rng, 46);
  uint64_t delta = 1 + (rng_next(rng) & ((UINT64_C(1) << bits) - 1));
  return rng_one_in(rng, 4) ? (UINT64_C(1) << bits) + rng_below(rng, 3) : delta;
}

Test(wheel, two_hundred_thousand_random_operations_against_a_plain_array, .timeout = 240) {
  struct rng rng;
  rng_init(&rng, seed_get());
  watchdog(200);
  model_init(rng_one_in(&rng, 2) ? 0 : rng_next(&rng) >> 20);
  size_t fired = 0;
  for (int op = 0; op < OPERATIONS; op++) {
    size_t i = rng_below(&rng, ENTRIES);
    uint64_t choice = rng_below(&rng, 16);
    if (!model.entries[i].armed && choice < 14) {
      uint64_t tick = model.wheel.now + random_delta(&rng);
      if (tick <= WHEEL_TICK_MAX) arm(i, tick);
    } else if (choice < 4) {
      if (model.entries[i].armed) disarm(i);
    } else if (choice >= 14) {
      uint64_t to = model.wheel.now + random_delta(&rng) % (UINT64_C(1) << rng_below(&rng, 40));
      size_t work = rng_one_in(&rng, 2) ? SIZE_MAX : 1 + rng_below(&rng, 20), before = model.wheel.now;
      while (take_one(to < WHEEL_TICK_MAX ? to : WHEEL_TICK_MAX, &work)) fired++;
      cr_assert_geq(model.wheel.now, before);
    }
    if (rng_one_in(&rng, 8)) rctx__wheel_prepare(&model.wheel, rng_below(&rng, 100));
    if (op % 64 == 0) cr_assert(rctx__wheel_check(&model.wheel));
    if (model.wheel.now > WHEEL_TICK_MAX - (UINT64_C(1) << 40)) { // worn out: start anew
      advance(WHEEL_TICK_MAX);
      model_init(rng_next(&rng) >> 30);
    }
    next_is_not_late();
  }
  cr_assert_gt(fired, OPERATIONS / 100);
}

// The check that the other tests rely on finds what it is there for.
Test(wheel, the_check_finds_a_wheel_that_is_broken) {
  enum { NOW = 1000 };
  for (int mistake = 0; mistake < 6; mistake++) {
    model_init(NOW);
    arm(0, NOW + 7);
    struct rctx__wheel_entry *entry = &model.entries[0].entry, **pprev = entry->pprev, *elsewhere = NULL;
    unsigned level = 0, slot = (NOW + 7) % WHEEL_SLOTS;
    cr_assert_eq(model.wheel.slots[level][slot], entry);
    cr_assert(rctx__wheel_check(&model.wheel));
    switch (mistake) {
    case 0:
      model.wheel.occupied[level][slot / WHEEL_ROUND] = 0;
      break;
    case 1:
      model.wheel.occupied[WHEEL_LEVELS - 1][0] = 1;
      break;
    case 2:
      entry->pprev = &elsewhere;
      break;
    case 3:
      entry->tick += 1;
      break;
    case 4:
      model.wheel.now = NOW + 8;
      break;
    default:
      entry->tick += (uint64_t)WHEEL_SLOTS << WHEEL_BITS;
      break;
    }
    cr_assert_not(rctx__wheel_check(&model.wheel), "mistake %d", mistake);
    entry->pprev = pprev;
  }
}
