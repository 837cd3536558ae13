// Headers as an attacker would send them: whatever comes in, what is read is bounded, and the work is linear in what came
// in or stops at the limits of propagate.h ([WIRE-1]).
//
// Work is counted, not timed: the codecs are compiled once more for this test (tests/CMakeLists.txt), so that each edge they
// take adds one step, and each byte that memchr() and its like touch another. Texts lie in allocations of exactly their
// size: a sanitizer or valgrind sees one byte read outside.
#include "support/check.h"
#include "support/seed.h"
#include "support/watchdog.h"

#include <rctx/rctx.h>

enum { SMALLEST = 256, LARGEST = 1 << 20, TRACE_LENGTH = RCTX_TRACEPARENT_SIZE - 1 };

// ---- counting ---------------------------------------------------------------------------------------------------------

static uint64_t steps;

void __sanitizer_cov_trace_pc(void);
void __sanitizer_cov_trace_pc(void) { steps++; }

void *__real_memchr(const void *at, int byte, size_t size);
void *__wrap_memchr(const void *at, int byte, size_t size);
void *__wrap_memchr(const void *at, int byte, size_t size) {
  char *found = __real_memchr(at, byte, size);
  steps += found ? (size_t)(found - (const char *)at) : size;
  return found;
}

int __real_memcmp(const void *a, const void *b, size_t size);
int __wrap_memcmp(const void *a, const void *b, size_t size);
int __wrap_memcmp(const void *a, const void *b, size_t size) {
  steps += size;
  return __real_memcmp(a, b, size);
}

void *__real_memcpy(void *to, const void *from, size_t size);
void *__wrap_memcpy(void *to, const void *from, size_t size);
void *__wrap_memcpy(void *to, const void *from, size_t size) {
  steps += size;
  return __real_memcpy(to, from, size);
}

void *__real_memmove(void *to, const void *from, size_t size);
void *__wrap_memmove(void *to, const void *from, size_t size);
void *__wrap_memmove(void *to, const void *from, size_t size) {
  steps += size;
  return __real_memmove(to, from, size);
}

// ---- what comes in ----------------------------------------------------------------------------------------------------

// A pattern again and again; the first bytes may be another text.
struct hostile {
  const char *begin, *pattern;
  size_t length; // of the pattern: it may contain NULs
};

#define PATTERN(begin_, pattern_)                                                                                      \
  { (begin_), (pattern_), sizeof(pattern_) - 1 }
static const struct hostile hostiles[] = {
    PATTERN("", ","),
    PATTERN("", "="),
    PATTERN("", ";"),
    PATTERN("", "%"),
    PATTERN("", " "),
    PATTERN("", "\t,"),
    PATTERN("", "0"),
    PATTERN("", "9"),
    PATTERN("", "-"),
    PATTERN("", "a"),
    PATTERN("", "\0"),
    PATTERN("", "\xff"),
    PATTERN("a=", "a"),
    PATTERN("a=", "%"),
    PATTERN("a=", "%F0"),
    PATTERN("a=", "%f0%9f%98"),
    PATTERN("a=", "\xe2\x80"),
    PATTERN("", "k=v,"),
    PATTERN("", "k=v;p,"),
    PATTERN("a=b", ";p"),
    PATTERN("a=b", ";p=q"),
    PATTERN("a=b", " ;\t"),
    PATTERN("a=b", " "),
    PATTERN("a", " "),
    PATTERN("a=b,", " , \t"),
    PATTERN("", "key=value,,"),
    PATTERN("1", "S"),
    PATTERN("00-", "0"),
    PATTERN("cc-12345678901234567890123456789012-1234567890123456-01-", "x"),
};
enum { HOSTILES = sizeof hostiles / sizeof *hostiles };

static struct rctx_text hostile_text(const struct hostile *h, size_t size) {
  char *at = malloc(size ? size : 1);
  size_t begin = strlen(h->begin);
  cr_assert_not_null(at);
  for (size_t i = 0; i < size && i < begin; i++) at[i] = h->begin[i];
  for (size_t i = begin; i < size; i += h->length)
    memcpy(at + i, h->pattern, size - i < h->length ? size - i : h->length);
  return (struct rctx_text){at, size};
}

static void text_free(struct rctx_text text) { free((void *)(uintptr_t)text.at); }

// ---- the readers: each checks what is promised of its result -----------------------------------------------------------

static char written[RCTX_BAGGAGE_SIZE];

static void read_grpc_timeout(struct rctx_text text) {
  int64_t ns = -1;
  enum rctx_fault fault;
  int err = rctx_grpc_timeout_decode(text, &ns, &fault);
  cr_assert(err ? ns == -1 && fault != RCTX_FAULT_NONE : ns > 0);
  if (text.length > RCTX_GRPC_TIMEOUT_SIZE) cr_assert_eq(err, -EINVAL);
}

static void read_timeout_ms(struct rctx_text text) {
  int64_t ns = -1;
  int err = rctx_timeout_ms_decode(text, &ns, NULL);
  cr_assert(err ? ns == -1 : ns > 0);
  if (text.length > RCTX_TIMEOUT_MS_SIZE) cr_assert_eq(err, -EINVAL);
}

static void read_traceparent(struct rctx_text text) {
  struct rctx_traceparent trace = {.version = 77};
  enum rctx_fault fault;
  int err = rctx_traceparent_parse(text, &trace, &fault);
  cr_assert(err ? trace.version == 77 && fault != RCTX_FAULT_NONE : trace.version != 0xff);
}

static void read_tracestate(struct rctx_text text) {
  struct rctx_text value;
  enum rctx_fault fault;
  int err = rctx_tracestate_check(text, &fault);
  if (text.length > RCTX_TRACESTATE_BYTES_MAX) cr_assert_eq(fault, RCTX_FAULT_LIMIT);
  cr_assert_eq(rctx_tracestate_find(text, rctx_text_of("nobody"), &value), err ? err : -ENOENT);
  int length = rctx_tracestate_update(text, rctx_text_of("us"), rctx_text_of("1"), written, RCTX_TRACESTATE_SIZE, NULL);
  cr_assert(length >= 4 && length < RCTX_TRACESTATE_SIZE && strncmp(written, "us=1", 4) == 0);
  cr_assert_eq(rctx_tracestate_check((struct rctx_text){written, (size_t)length}, NULL), 0);
}

static void read_baggage(struct rctx_text text) {
  struct rctx_baggage_reader reader = rctx_baggage_read_text(text);
  struct rctx_baggage_member member;
  size_t members = 0;
  while (rctx_baggage_next(&reader, &member)) {
    struct rctx_text properties = member.properties, key, value;
    members++;
    cr_assert(member.value.at + member.value.length <= text.at + RCTX_BAGGAGE_BYTES_MAX);
    while (rctx_baggage_property(&properties, &key, &value)) continue;
    cr_assert(rctx_baggage_decode(member.value, written, sizeof written) >= 0);
  }
  cr_assert(members == reader.members && members <= RCTX_BAGGAGE_MEMBERS_MAX);
  cr_assert(reader.bytes <= RCTX_BAGGAGE_BYTES_MAX + 1, "with the comma behind the last member");
  if (text.length > 2 * RCTX_BAGGAGE_BYTES_MAX) cr_assert(reader.cut, "the limit was not noticed");
}

static void decode_baggage(struct rctx_text text) {
  static char decoded[3 * RCTX_BAGGAGE_BYTES_MAX + 1];
  int length = rctx_baggage_decode(text, decoded, sizeof decoded);
  cr_assert(text.length > RCTX_BAGGAGE_BYTES_MAX ? length == -EINVAL : length >= 0);
}

static void write_baggage(struct rctx_text text) {
  struct rctx_baggage out = rctx_baggage_begin(written, sizeof written);
  int err = rctx_baggage_add(&out, rctx_text_of("k"), text, (struct rctx_text){NULL, 0});
  cr_assert(err == 0 ? out.length <= RCTX_BAGGAGE_BYTES_MAX : err == -ENOSPC && out.length == 0);
  err = rctx_baggage_add(&out, text, rctx_text_of("v"), text);
  cr_assert(err == 0 || err == -EINVAL || err == -ENOSPC);
  cr_assert(out.length <= RCTX_BAGGAGE_BYTES_MAX && strlen(written) == out.length);
}

// All six headers with this value, each of them twice: what a gateway hands over unseen.
static void read_headers(struct rctx_text text) {
  struct rctx_header array[2 * RCTX_HEADERS];
  struct rctx_received received;
  struct rctx_traceparent trace;
  for (int i = 0; i < 2 * (RCTX_HEADERS - 1); i++) {
    array[i] = (struct rctx_header){rctx_text_of(rctx_header_name((enum rctx_header_id)(i / 2 + 1))), text};
  }
  struct rctx_headers headers = rctx_headers_of(array, 2 * (RCTX_HEADERS - 1));
  cr_assert_eq(rctx_budget_from_headers(rctx_background(), 1, &headers, NULL, &received), 0);
  cr_assert(received.source == RCTX_HEADER_NONE && received.refused == RCTX_FAULT_DUPLICATE);
  cr_assert_eq(rctx_trace_from_headers(&headers, &trace, written, RCTX_TRACESTATE_SIZE, NULL), -EINVAL);
  struct rctx_baggage out = rctx_baggage_begin(written, sizeof written);
  rctx_baggage_forward(&out, &headers);
  cr_assert(out.length <= RCTX_BAGGAGE_BYTES_MAX && out.members <= RCTX_BAGGAGE_MEMBERS_MAX);
}

static void name_header(struct rctx_text text) {
  struct rctx_header array[1] = {{text, rctx_text_of("1S")}};
  struct rctx_headers headers = rctx_headers_of(array, 1);
  struct rctx_received received;
  cr_assert_eq(rctx_budget_from_headers(rctx_background(), 1, &headers, NULL, &received), 0);
  cr_assert_eq(received.source, RCTX_HEADER_NONE);
}

struct reader {
  const char *name;
  void (*read)(struct rctx_text text);
  size_t
      looks_at_most; // more bytes make no more work; 0: linear, as white space around a header's value is to be dropped
};

static const struct reader readers[] = {
    {"grpc-timeout", read_grpc_timeout, RCTX_GRPC_TIMEOUT_SIZE},
    {"timeout-ms", read_timeout_ms, RCTX_TIMEOUT_MS_SIZE},
    {"traceparent", read_traceparent, TRACE_LENGTH + 1},
    {"tracestate", read_tracestate, RCTX_TRACESTATE_BYTES_MAX},
    {"baggage", read_baggage, RCTX_BAGGAGE_BYTES_MAX},
    {"baggage, decoded", decode_baggage, RCTX_BAGGAGE_BYTES_MAX},
    {"baggage, written", write_baggage, 0},
    {"all headers", read_headers, 0},
    {"a header's name", name_header, RCTX_BAGGAGE_BYTES_MAX},
};
enum { READERS = sizeof readers / sizeof *readers };

static uint64_t steps_of(const struct reader *reader, const struct hostile *h, size_t size) {
  struct rctx_text text = hostile_text(h, size);
  steps = 0;
  reader->read(text);
  text_free(text);
  return steps;
}

// ---- the tests --------------------------------------------------------------------------------------------------------

// Half a minute of work where nothing is optimised and every branch is counted.
static void watch(void) { watchdog(180); }
TestSuite(hostile_headers, .init = watch);

Test(hostile_headers, steps_are_counted) {
  static const struct hostile commas = PATTERN("", ",");
  uint64_t few = steps_of(&readers[4], &commas, 1000), many = steps_of(&readers[4], &commas, 2000);
  cr_assert(few > 1000 && many > few + 1000, "%llu steps for 1,000 commas, %llu for 2,000", (unsigned long long)few,
            (unsigned long long)many);
}

// Twice the bytes are at most twice the steps. Something quadratic would take four times as many.
Test(hostile_headers, work_is_linear_in_what_came_in) {
  for (int r = 0; r < READERS; r++) {
    for (int h = 0; h < HOSTILES; h++) {
      uint64_t before = steps_of(&readers[r], &hostiles[h], SMALLEST);
      for (size_t size = 2 * SMALLEST; size <= LARGEST; size *= 2) {
        uint64_t now = steps_of(&readers[r], &hostiles[h], size);
        cr_assert(now <= before * 5 / 2 + 2000, "%s of %zu bytes '%s%s...': %llu steps, of half as many %llu",
                  readers[r].name, size, hostiles[h].begin, hostiles[h].pattern, (unsigned long long)now,
                  (unsigned long long)before);
        before = now;
      }
    }
  }
}

// 64 KiB and a megabyte cost no more than what reaches the limit.
Test(hostile_headers, work_stops_at_the_limits) {
  for (int r = 0; r < READERS; r++) {
    size_t limit = readers[r].looks_at_most;
    for (int h = 0; h < HOSTILES && limit; h++) {
      uint64_t enough = 0;
      for (size_t size = limit / 2; size <= limit + 2; size += 1 + limit / 16) {
        uint64_t some = steps_of(&readers[r], &hostiles[h], size);
        if (some > enough) enough = some;
      }
      for (size_t size = 65536; size <= LARGEST; size *= 4) {
        uint64_t now = steps_of(&readers[r], &hostiles[h], size);
        cr_assert(now <= enough * 5 / 4 + 200, "%s of %zu bytes '%s%s...': %llu steps, up to the limit of %zu %llu",
                  readers[r].name, size, hostiles[h].begin, hostiles[h].pattern, (unsigned long long)now, limit,
                  (unsigned long long)enough);
      }
    }
  }
}

// Each size around each limit, and bytes that nobody chose.
Test(hostile_headers, any_bytes_of_any_size_are_read_within_their_bounds) {
  static const size_t around[] = {0,  1,   2,   8,   9,   10,  11,  12,   54,   55,  56,
                                  57, 128, 255, 256, 257, 512, 513, 8191, 8192, 8193};
  static const char likely[] = ",,;==%%  \t09afSmunMH-ak=v\"\\";
  struct rng rng;
  rng_init(&rng, seed_get());
  for (int round = 0; round < 400; round++) {
    size_t size = around[rng_below(&rng, sizeof around / sizeof *around)];
    char *at = malloc(size ? size : 1);
    cr_assert_not_null(at);
    for (size_t i = 0; i < size; i++) {
      at[i] = (char)(rng_one_in(&rng, 16) ? (int)rng_below(&rng, 256) : likely[rng_below(&rng, sizeof likely - 1)]);
    }
    for (int r = 0; r < READERS; r++) readers[r].read((struct rctx_text){at, size});
    free(at);
  }
}

// ---- very many headers ------------------------------------------------------------------------------------------------

struct endless {
  size_t count, calls;
  struct rctx_header each;
};

static bool next_counted(const struct rctx_headers *self, struct rctx_cursor *cursor, struct rctx_header *header) {
  struct endless *all = (struct endless *)(uintptr_t)self->list;
  all->calls++;
  if (cursor->index >= all->count) return false;
  cursor->index++;
  *header = all->each;
  return true;
}

static void read_endless(const char *name, const char *value, size_t count) {
  struct endless all = {count, 0, {rctx_text_of(name), rctx_text_of(value)}};
  struct rctx_headers headers = {next_counted, &all, 0};
  struct rctx_received received;
  struct rctx_traceparent trace;
  cr_assert_eq(rctx_budget_from_headers(rctx_background(), 1, &headers, NULL, &received), 0);
  cr_assert(all.calls <= count + 1, "a deadline is found in one pass");
  all.calls = 0;
  cr_assert(rctx_trace_from_headers(&headers, &trace, written, RCTX_TRACESTATE_SIZE, NULL) < 0);
  cr_assert(all.calls <= 2 * (count + 1), "traceparent and tracestate are found in two passes");
  all.calls = 0;
  struct rctx_baggage out = rctx_baggage_begin(written, sizeof written);
  rctx_baggage_forward(&out, &headers);
  cr_assert(all.calls <= count + 1, "baggage is forwarded in one pass");
  cr_assert(out.members <= RCTX_BAGGAGE_MEMBERS_MAX && out.length <= RCTX_BAGGAGE_BYTES_MAX);
}

Test(hostile_headers, a_million_headers_are_gone_through_once) {
  static const char *const values[] = {"", " ", "k=v", "bad", "1S", "1"};
  for (int id = RCTX_HEADER_NONE + 1; id < RCTX_HEADERS; id++) {
    const char *name = rctx_header_name((enum rctx_header_id)id);
    for (size_t v = 0; v < sizeof values / sizeof *values; v++) {
      uint64_t before = 0;
      for (size_t count = 1000; count <= 1000000; count *= 10) {
        steps = 0;
        read_endless(name, values[v], count);
        if (before) cr_assert(steps <= before * 11, "%zu headers %s: %s", count, name, values[v]);
        before = steps;
      }
    }
  }
}

// Replacing what was received costs our members times theirs, and the limits bound both.
Test(hostile_headers, forwarding_below_our_own_members_is_bounded) {
  static char ours[RCTX_BAGGAGE_SIZE];
  static const struct hostile many = PATTERN("", "k=v,");
  struct rctx_baggage out = rctx_baggage_begin(ours, sizeof ours);
  for (int i = 0; i < RCTX_BAGGAGE_MEMBERS_MAX; i++) {
    char key[140];
    snprintf(key, sizeof key, "%0120d", i);
    cr_assert_eq(rctx_baggage_add(&out, rctx_text_of(key), rctx_text_of("v"), (struct rctx_text){NULL, 0}), 0);
  }
  steps = 0;
  read_baggage((struct rctx_text){ours, out.length});
  uint64_t reading_ours = steps;
  struct rctx_text theirs = hostile_text(&many, LARGEST);
  struct rctx_header array[] = {{rctx_text_of("baggage"), theirs}};
  struct rctx_headers headers = rctx_headers_of(array, 1);
  steps = 0;
  read_baggage(theirs);
  uint64_t reading_theirs = steps;
  steps = 0;
  rctx_baggage_forward(&out, &headers);
  cr_assert(steps <= RCTX_BAGGAGE_MEMBERS_MAX * reading_ours + 2 * reading_theirs + 1000, "%llu steps",
            (unsigned long long)steps);
  text_free(theirs);
}
