/* value.c - see value.h. */
#include "value.h"

#include "manager.h"

#include <string.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

_Static_assert(sizeof(struct rctx__block) <= BLOCK_BYTES, "a block fits its size class");

const struct rctx_key rctx__name_key = {.name = "rctx.name"};
const struct rctx_key rctx__deadline_cause_key = {.name = "rctx.deadline_cause"};
const struct rctx_key rctx__held_key = {.name = "rctx.held"};
const struct rctx_key rctx__drain_key = {.name = "rctx.drain"};
const struct rctx_key rctx__merge_key = {.name = "rctx.merge"};

static bool hidden(const struct rctx_key *key) {
  return key == &rctx__name_key || key == &rctx__deadline_cause_key || key == &rctx__held_key ||
         key == &rctx__drain_key || key == &rctx__merge_key;
}

static struct rctx__block *block_of(uintptr_t values) {
  return (struct rctx__block *)(values & ~(uintptr_t)BLOCK_COUNT_MASK);
}
static unsigned count_of(uintptr_t values) { return (unsigned)(values & BLOCK_COUNT_MASK); }

static inline uint64_t key_hash(const struct rctx_key *key) { return (uint64_t)(uintptr_t)key * 0x9e3779b97f4a7c15U; }
static inline uint64_t summary_bit(uint64_t hash) { return UINT64_C(1) << (hash >> 58); }
static inline uint8_t tag_of(uint64_t hash) { return (uint8_t)(hash >> 40); }

/* ---- lookup ------------------------------------------------------------------------------------------------------ */

/* Bit i: slot i has this tag. The loads are relaxed: bits of slots not ours are masked by the caller, ours were written before
 * the context was handed to this thread. */
static inline unsigned tag_matches(struct rctx__block *block, uint8_t tag) {
  uint64_t low = load_relaxed(&block->tags.words[0]), high = load_relaxed(&block->tags.words[1]);
#ifdef __SSE2__
  __m128i tags = _mm_set_epi64x((long long)high, (long long)low);
  return (unsigned)_mm_movemask_epi8(_mm_cmpeq_epi8(tags, _mm_set1_epi8((char)tag)));
#else
  unsigned matches = 0;
  for (unsigned i = 0; i < 8; i++) {
    matches |= (unsigned)((uint8_t)(low >> (8 * i)) == tag) << i;
    matches |= (unsigned)((uint8_t)(high >> (8 * i)) == tag) << (i + 8);
  }
  return matches;
#endif
}

static inline bool find(const rctx *ctx, const struct rctx_key *key, void **value) {
  uint64_t hash = key_hash(key);
  if (!(ctx->summary & summary_bit(hash))) return false;
  uint8_t tag = tag_of(hash);
  for (uintptr_t values = ctx->values; values; values = block_of(values)->prev) {
    struct rctx__block *block = block_of(values);
    unsigned matches = tag_matches(block, tag) & ((1U << count_of(values)) - 1);
    while (matches) {
      unsigned newest = 31U - (unsigned)__builtin_clz(matches);
      if (likely(block->entries[newest].key == key)) {
        *value = block->entries[newest].value;
        return true;
      }
      matches &= ~(1U << newest);
    }
  }
  return false;
}

bool rctx_get(const rctx *ctx, const struct rctx_key *key, void **value) {
  if (misused(ctx == NULL, "ctx is NULL (expected a context)") ||
      misused(key == NULL, "key is NULL (expected the address of an rctx_key)") ||
      misused(value == NULL, "value is NULL (expected where to write it)")) {
    return false;
  }
  return find(ctx, key, value);
}

/* A binding is shadowed if a lookup of its key finds another one. */
static bool visible(const rctx *ctx, const struct rctx__block *at_block, unsigned at) {
  const struct rctx_key *key = at_block->entries[at].key;
  for (uintptr_t values = ctx->values; values; values = block_of(values)->prev) {
    const struct rctx__block *block = block_of(values);
    for (unsigned i = count_of(values); i-- > 0;) {
      if (block->entries[i].key == key) return block == at_block && i == at;
    }
  }
  return false;
}

size_t rctx_each_value(const rctx *ctx, bool (*fn)(const struct rctx_key *key, void *value, void *arg), void *arg) {
  if (misused(ctx == NULL, "ctx is NULL (expected a context)") || misused(fn == NULL, "fn is NULL")) return 0;
  size_t calls = 0;
  for (uintptr_t values = ctx->values; values; values = block_of(values)->prev) {
    const struct rctx__block *block = block_of(values);
    for (unsigned i = count_of(values); i-- > 0;) {
      if (hidden(block->entries[i].key) || !visible(ctx, block, i)) continue;
      calls++;
      if (!fn(block->entries[i].key, block->entries[i].value, arg)) return calls;
    }
  }
  return calls;
}

/* ---- adding ------------------------------------------------------------------------------------------------------ */

static void fill_slots(struct rctx__block *block, unsigned at, const struct rctx_value *values, unsigned n,
                       rctx *node) {
  for (unsigned i = 0; i < n; i++) {
    uint64_t hash = key_hash(values[i].key);
    store_relaxed(&block->tags.bytes[at + i], tag_of(hash)); /* published with the context, like the entry */
    /* Member by member: copying wider than the caller has just stored stalls (9 ns of request_lifecycle). */
    struct rctx_value *entry = &block->entries[at + i];
    const volatile struct rctx_value *from = &values[i];
    entry->key = from->key;
    entry->value = from->value;
    entry->destroy = from->destroy;
    node->summary |= summary_bit(hash);
    if (values[i].destroy) node->own |= OWN_DESTROYERS;
  }
  node->own |= OWN_VALUES;
}

/* Claim n slots behind those the node sees; false if they are taken or too few. */
static bool claim(uintptr_t values, unsigned n) {
  struct rctx__block *block = block_of(values);
  uint32_t seen = count_of(values);
  if (block == NULL || seen + n > BLOCK_ENTRIES) return false;
  if (load_relaxed(&block->fill) != seen) return false; /* a hint that saves the line: the CAS decides */
  return cas_relaxed(&block->fill, &seen, seen + n); /* only disputes slots; entries are published with the context */
}

static struct rctx__block *block_new(rctx *node) {
  struct rctx__block *block = rctx__object_alloc(node->manager, CLASS_BLOCK);
  if (block == NULL) return NULL;
  block->prev = node->values;
  block->begins = !(node->own & OWN_BLOCK);
  /* Not published yet. */
  atomic_store_explicit(&block->fill, 0, memory_order_relaxed);
  atomic_store_explicit(&block->tags.words[0], 0, memory_order_relaxed);
  atomic_store_explicit(&block->tags.words[1], 0, memory_order_relaxed);
  return block;
}

/* Free the node's own blocks down to where `values` began. */
static void undo_blocks(rctx *node, uintptr_t values) {
  while (block_of(node->values) != block_of(values)) {
    struct rctx__block *block = block_of(node->values);
    node->values = block->prev;
    rctx__object_free(node->manager, CLASS_BLOCK, block);
  }
  node->values = values;
}

static unsigned at_most(size_t n, unsigned limit) { return n < limit ? (unsigned)n : limit; }

int rctx__values_add(rctx *node, const struct rctx_value *values, size_t n, bool share) {
  const uintptr_t values_before = node->values;
  const uint64_t summary_before = node->summary;
  const uint8_t own_before = node->own;
  bool mine = (node->own & OWN_BLOCK) != 0;
  while (n > 0) {
    unsigned seen = count_of(node->values);
    unsigned now = at_most(n, BLOCK_ENTRIES - (mine ? seen : 0));
    if (mine && seen < BLOCK_ENTRIES) {
      now = at_most(n, BLOCK_ENTRIES - seen);
      store_relaxed(&block_of(node->values)->fill, seen + now); /* nobody else has it yet */
    } else if (!(share && !mine && now == n && claim(node->values, now))) {
      now = at_most(n, BLOCK_ENTRIES);
      struct rctx__block *block = block_new(node);
      if (block == NULL) goto no_memory;
      store_relaxed(&block->fill, now); /* as above */
      node->values = (uintptr_t)block;
      node->own |= OWN_BLOCK;
      mine = true;
      seen = 0;
    }
    fill_slots(block_of(node->values), seen, values, now, node);
    node->values += now;
    values += now;
    n -= now;
    share = false;
  }
  return 0;

no_memory:
  undo_blocks(node, values_before);
  node->summary = summary_before;
  node->own = own_before;
  return -ENOMEM;
}

/* ---- a node's own bindings --------------------------------------------------------------------------------------- */

/* Call fn for each, newest first. They are either all in blocks that the node began, or, behind what its parent sees, in its
 * parent's. The parent is alive: the node is still linked. */
static void each_own(const rctx *node, void (*fn)(const struct rctx_value *value, void *arg), void *arg) {
  uintptr_t values = node->values;
  if (!(node->own & OWN_VALUES)) return;
  if (!(node->own & OWN_BLOCK)) {
    for (unsigned i = count_of(values); i-- > count_of(node->parent->values);) fn(&block_of(values)->entries[i], arg);
    return;
  }
  for (bool last = false; !last; values = block_of(values)->prev) {
    last = block_of(values)->begins;
    for (unsigned i = count_of(values); i-- > 0;) fn(&block_of(values)->entries[i], arg);
  }
}

static void bury_one(const struct rctx_value *value, void *arg) {
  rctx **held = arg;
  if (value->key == &rctx__merge_key) {
    rctx__merge_bury(value->value, held);
  } else if (value->key == &rctx__held_key) {
    rctx *other = value->value;
    if (!rctx__give_up(other)) return;
    other->link = *held;
    *held = other;
  } else if (value->destroy) {
    value->destroy(value->value);
  }
}

void rctx__values_bury_slow(rctx *node, rctx **held) { each_own(node, bury_one, held); }

struct search {
  const struct rctx_key *key;
  void *found;
};

static void match_one(const struct rctx_value *value, void *arg) {
  struct search *search = arg;
  if (value->key == search->key && search->found == NULL) search->found = value->value;
}

void *rctx__value_own(const rctx *node, const struct rctx_key *key) {
  struct search search = {key, NULL};
  each_own(node, match_one, &search);
  return search.found;
}

struct shown {
  void (*fn)(const struct rctx_value *value, void *arg);
  void *arg;
};

static void show_one(const struct rctx_value *value, void *arg) {
  const struct shown *shown = arg;
  if (!hidden(value->key)) shown->fn(value, shown->arg);
}

void rctx__each_own_value(const rctx *node, void (*fn)(const struct rctx_value *value, void *arg), void *arg) {
  struct shown shown = {fn, arg};
  each_own(node, show_one, &shown);
}

void rctx__values_free_slow(rctx *node) {
  uintptr_t values = node->values;
  for (bool last = false; !last;) {
    struct rctx__block *block = block_of(values);
    last = block->begins;
    values = block->prev;
    rctx__object_free(node->manager, CLASS_BLOCK, block);
  }
}

size_t rctx__print_string(const void *value, char *buf, size_t size) {
  const char *text = value ? value : "(null)";
  size_t length = strlen(text);
  if (size == 0) return length;
  size_t there = length < size ? length : size - 1;
  memcpy(buf, text, there);
  buf[there] = '\0';
  return length;
}

/* The value lies in the first bytes of the slot, as name_value() has put it there. */
#define PRINT_NUMBER(name, type, format, as)                                                                           \
  size_t rctx__print_##name(const void *value, char *buf, size_t size) {                                               \
    type number;                                                                                                       \
    memcpy(&number, &value, sizeof number);                                                                            \
    return (size_t)snprintf(buf, size, format, (as)number);                                                            \
  }
PRINT_NUMBER(i16, int16_t, "%d", int)
PRINT_NUMBER(i32, int32_t, "%d", int)
PRINT_NUMBER(i64, int64_t, "%lld", long long)
PRINT_NUMBER(u16, uint16_t, "%u", unsigned)
PRINT_NUMBER(u32, uint32_t, "%u", unsigned)
PRINT_NUMBER(u64, uint64_t, "%llu", unsigned long long)

size_t rctx__print_bool(const void *value, char *buf, size_t size) {
  bool truth;
  memcpy(&truth, &value, sizeof truth);
  return (size_t)snprintf(buf, size, "%s", truth ? "true" : "false");
}
