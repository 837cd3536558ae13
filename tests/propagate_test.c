// Deadlines on the wire: propagate.h, the codecs for single values, sending, and receiving. Trace context and baggage:
// trace_test.c, baggage_test.c.
#include "support/check.h"
#include "support/fake_time.h"
#include "support/seed.h"
#include "support/texts.h"
#include "support/threads.h"

#include <stdio.h>

#define US INT64_C(1000)
#define MINUTE (60 * SECOND)
#define HOUR (60 * MINUTE)

TestSuite(grpc_timeout, .fini = texts_free, .timeout = 60);
TestSuite(timeout_ms, .fini = texts_free, .timeout = 60);

static void close_all(void) {
  texts_free();
  fake_close();
}
TestSuite(sent, .init = fake_open, .fini = close_all, .timeout = 60);
TestSuite(received, .init = fake_open, .fini = close_all, .timeout = 60);

typedef int (*decode_fn)(struct rctx_text value, int64_t *timeout_ns, enum rctx_fault *fault);

static void means(decode_fn decode, const char *value, int64_t ns) {
  int64_t got = -1;
  enum rctx_fault fault = RCTX_FAULTS;
  cr_assert_eq(decode(text(value), &got, &fault), 0, "'%s' is refused: %s", value, rctx_fault_text(fault));
  cr_assert_eq(got, ns, "'%s': %" PRId64, value, got);
  cr_assert_eq(fault, RCTX_FAULT_NONE);
}

static void refused_bytes(decode_fn decode, const void *bytes, size_t length, enum rctx_fault why) {
  int64_t got = -17;
  enum rctx_fault fault = RCTX_FAULTS;
  cr_assert_eq(decode(boxed(bytes, length), &got, &fault), -EINVAL, "'%.*s'", (int)length, (const char *)bytes);
  cr_assert_eq(got, -17, "written only on success");
  cr_assert_eq(fault, why, "'%.*s': %s", (int)length, (const char *)bytes, rctx_fault_text(fault));
  cr_assert_eq(decode(boxed(bytes, length), &got, NULL), -EINVAL, "the reason need not be asked for");
}

static void refused(decode_fn decode, const char *value, enum rctx_fault why) {
  refused_bytes(decode, value, strlen(value), why);
}

#define G rctx_grpc_timeout_decode
#define M rctx_timeout_ms_decode

/* ---- grpc-timeout: reading --------------------------------------------------------------------------------------- */

Test(grpc_timeout, every_unit_and_every_number_of_digits) {
  static const struct {
    char name;
    int64_t ns;
  } units[] = {{'n', 1}, {'u', US}, {'m', MS}, {'S', SECOND}, {'M', MINUTE}, {'H', HOUR}};
  for (size_t u = 0; u < 6; u++) {
    int64_t nines = 0;
    for (int digits = 1; digits <= 8; digits++) {
      char value[24];
      nines = nines * 10 + 9;
      snprintf(value, sizeof value, "%" PRId64 "%c", nines, units[u].name);
      int64_t ns;
      if (__builtin_mul_overflow(nines, units[u].ns, &ns)) ns = INT64_MAX;
      means(G, value, ns);
      snprintf(value, sizeof value, "%0*d%c", digits, 1, units[u].name); // leading zeros are digits
      means(G, value, units[u].ns);
    }
    char value[24];
    snprintf(value, sizeof value, "100000000%c", units[u].name);
    refused(G, value, RCTX_FAULT_TOO_LONG);
    snprintf(value, sizeof value, "000000001%c", units[u].name);
    refused(G, value, RCTX_FAULT_TOO_LONG);
  }
}

// gRPC's own: test/core/transport/timeout_encoding_test.cc, DecodingSucceeds, without the forms that the protocol's
// text has not.
Test(grpc_timeout, published_values_that_are_valid) {
  static const int64_t numbers[] = {1,        12,      123,    1234,  12345, 123456, 1234567, 12345678,
                                    98765432, 9876543, 987654, 98765, 9876,  987,    98,      9};
  for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
    char value[24];
    snprintf(value, sizeof value, "%" PRId64 "n", numbers[i]);
    means(G, value, numbers[i]);
    value[strlen(value) - 1] = 'u';
    means(G, value, numbers[i] * US);
    value[strlen(value) - 1] = 'm';
    means(G, value, numbers[i] * MS);
    value[strlen(value) - 1] = 'S';
    means(G, value, numbers[i] * SECOND);
    value[strlen(value) - 1] = 'M';
    means(G, value, numbers[i] * MINUTE);
    value[strlen(value) - 1] = 'H';
    means(G, value, numbers[i] <= INT64_MAX / HOUR ? numbers[i] * HOUR : INT64_MAX);
  }
}

// DecodingFails, and what is accepted there though the protocol's text does not have it.
Test(grpc_timeout, published_values_that_are_not) {
  refused(G, "", RCTX_FAULT_EMPTY);
  refused(G, " ", RCTX_FAULT_UNIT);
  refused(G, "x", RCTX_FAULT_UNIT);
  refused(G, "1", RCTX_FAULT_UNIT);
  refused(G, "1x", RCTX_FAULT_UNIT);
  refused(G, "1ux", RCTX_FAULT_UNIT);
  refused(G, "!", RCTX_FAULT_UNIT);
  refused(G, "n1", RCTX_FAULT_UNIT);
  refused(G, "-1u", RCTX_FAULT_SYNTAX);
  refused(G, "n", RCTX_FAULT_EMPTY);
  refused(G, "   1n", RCTX_FAULT_SYNTAX);
  refused(G, "1 n", RCTX_FAULT_SYNTAX);
  refused(G, "1 n  ", RCTX_FAULT_UNIT);
  refused(G, "1000000000S", RCTX_FAULT_TOO_LONG);
  refused(G, "9999999999S", RCTX_FAULT_TOO_LONG);
  refused(G, "1000000000000000000000u", RCTX_FAULT_TOO_LONG);
}

/* The inputs on which real parsers differ, one test for each row. */

Test(grpc_timeout, differs_more_than_8_digits) {
  refused(G, "123456789n", RCTX_FAULT_TOO_LONG);
  refused(G, "123456789012n", RCTX_FAULT_TOO_LONG);
  refused(G, many('9', 8000), RCTX_FAULT_TOO_LONG);
}
Test(grpc_timeout, differs_zero) {
  refused(G, "0m", RCTX_FAULT_ZERO);
  refused(G, "00000000H", RCTX_FAULT_ZERO);
}
Test(grpc_timeout, differs_signs) {
  refused(G, "-5S", RCTX_FAULT_SYNTAX);
  refused(G, "+5S", RCTX_FAULT_SYNTAX);
  refused(G, "-0S", RCTX_FAULT_SYNTAX);
  refused(G, "5-S", RCTX_FAULT_SYNTAX);
}
Test(grpc_timeout, differs_spaces) {
  refused(G, " 5S", RCTX_FAULT_SYNTAX);
  refused(G, "5S ", RCTX_FAULT_UNIT);
  refused(G, "5 S", RCTX_FAULT_SYNTAX);
  refused(G, "\t5S", RCTX_FAULT_SYNTAX);
  refused(G, "5S\t", RCTX_FAULT_UNIT);
  refused(G, "5S\r\n", RCTX_FAULT_UNIT);
}
Test(grpc_timeout, differs_unknown_unit) {
  refused(G, "5s", RCTX_FAULT_UNIT);
  refused(G, "5h", RCTX_FAULT_UNIT);
  refused(G, "5U", RCTX_FAULT_UNIT);
  refused(G, "5N", RCTX_FAULT_UNIT);
  refused(G, "5ms", RCTX_FAULT_UNIT);
  refused(G, "5d", RCTX_FAULT_UNIT);
}

Test(grpc_timeout, fractions_exponents_hex_and_lists_are_refused) {
  refused(G, "1.5S", RCTX_FAULT_SYNTAX);
  refused(G, "1,5S", RCTX_FAULT_SYNTAX);
  refused(G, "1e3S", RCTX_FAULT_SYNTAX);
  refused(G, "0x1S", RCTX_FAULT_SYNTAX);
  refused(G, "1_0S", RCTX_FAULT_SYNTAX);
  refused(G, "1S,2S", RCTX_FAULT_SYNTAX);
  refused(G, "1S2S", RCTX_FAULT_SYNTAX);
  refused(G, "infinityS", RCTX_FAULT_SYNTAX);
  refused_bytes(G, "1\0S", 3, RCTX_FAULT_SYNTAX);
  refused_bytes(G, "1S\0", 3, RCTX_FAULT_UNIT);
  refused_bytes(G, "\0", 1, RCTX_FAULT_UNIT);
  refused(G, "\xd9\xa1S", RCTX_FAULT_SYNTAX); // an Arabic digit
}

// Each of 256 bytes at each place of a value: valid with a digit there or a unit at the end, and in no other case.
Test(grpc_timeout, every_byte_at_every_place__WIRE_1) {
  for (size_t at = 0; at < 9; at++) {
    for (int byte = 0; byte < 256; byte++) {
      char value[9] = {'1', '2', '3', '4', '5', '6', '7', '8', 'u'};
      int64_t ns;
      value[at] = (char)byte;
      bool valid = at < 8 ? byte >= '0' && byte <= '9' : byte != 0 && strchr("HMSmun", byte) != NULL;
      cr_assert_eq(G(boxed(value, 9), &ns, NULL), valid ? 0 : -EINVAL, "byte %d at %zu", byte, at);
    }
  }
}

Test(grpc_timeout, does_not_overflow__WIRE_1) {
  means(G, "2562047H", 2562047 * HOUR);
  means(G, "2562048H", INT64_MAX);
  means(G, "99999999H", INT64_MAX);
  means(G, "99999999M", 99999999 * MINUTE);
  means(G, "99999999S", 99999999 * SECOND);
}

Test(grpc_timeout, reads_no_further_than_told__WIRE_1) {
  int64_t ns;
  const char value[] = "12345678Sxyz";
  for (size_t n = 0; n <= sizeof value; n++) {
    bool valid = n == 9;
    cr_assert_eq(G((struct rctx_text){value, n}, &ns, NULL), valid ? 0 : -EINVAL, "%zu", n);
  }
  cr_assert_eq(G((struct rctx_text){NULL, 0}, &ns, NULL), -EINVAL, "an empty text may be NULL");
}

/* ---- grpc-timeout: writing --------------------------------------------------------------------------------------- */

static void writes(int64_t ns, const char *expected) {
  char buf[RCTX_GRPC_TIMEOUT_SIZE];
  memset(buf, '#', sizeof buf);
  cr_assert_eq(rctx_grpc_timeout_encode(ns, buf, sizeof buf), (int)strlen(expected), "%" PRId64, ns);
  cr_assert_str_eq(buf, expected);
}

Test(grpc_timeout, is_written_in_the_finest_unit_of_8_digits) {
  writes(1, "1n");
  writes(99999999, "99999999n");
  writes(100000000, "100000u");
  writes(100000000 + 999, "100000u");
  writes(99999999 * US, "99999999u");
  writes(99999999 * US + 999, "99999999u");
  writes(100000000 * US, "100000m");
  writes(99999999 * MS, "99999999m");
  writes(99999999 * MS + MS - 1, "99999999m");
  writes(100000000 * MS, "100000S");
  writes(99999999 * SECOND, "99999999S");
  writes(100000000 * SECOND, "1666666M");
  writes(99999999 * MINUTE, "99999999M");
  writes(99999999 * MINUTE + MINUTE - 1, "99999999M");
  writes(100000000 * MINUTE, "1666666H");
  writes(INT64_MAX - 1, "2562047H");
}

// The durations of gRPC's own test of its encoder: it rounds up by as much as 1%, this never says more than there is.
Test(grpc_timeout, published_durations_are_never_exceeded__WIRE_3) {
  static const int64_t durations[] = {MS,        10 * MS,         100 * MS,    890 * MS,     900 * MS,    901 * MS,
                                      SECOND,    2 * SECOND,      2500 * MS,   59900 * MS,   50 * SECOND, 59 * SECOND,
                                      MINUTE,    80 * SECOND,     90 * SECOND, 2 * MINUTE,   20 * MINUTE, HOUR,
                                      10 * HOUR, HOUR - 100 * MS, 100 * HOUR,  100000 * HOUR};
  for (size_t i = 0; i < sizeof durations / sizeof durations[0]; i++) {
    char buf[RCTX_GRPC_TIMEOUT_SIZE];
    int64_t ns = 0;
    int length = rctx_grpc_timeout_encode(durations[i], buf, sizeof buf);
    cr_assert_gt(length, 0);
    cr_assert_eq(G((struct rctx_text){buf, (size_t)length}, &ns, NULL), 0);
    cr_assert_eq(ns, durations[i], "%s: these fit exactly", buf);
  }
}

Test(grpc_timeout, nothing_left_is_not_sent) {
  char buf[RCTX_GRPC_TIMEOUT_SIZE] = "#";
  int64_t spent[] = {0, -1, -MS, INT64_MIN};
  for (int i = 0; i < 4; i++) {
    cr_assert_eq(rctx_grpc_timeout_encode(spent[i], buf, sizeof buf), -ETIMEDOUT);
    cr_assert_eq(rctx_grpc_timeout_encode(spent[i], NULL, 0), -ETIMEDOUT, "the buffer does not matter");
    cr_assert_eq(rctx_timeout_ms_encode(spent[i], buf, sizeof buf), -ETIMEDOUT);
  }
  cr_assert_eq(buf[0], '#', "and nothing is written");
}

Test(grpc_timeout, no_limit_is_no_header) {
  char buf[RCTX_GRPC_TIMEOUT_SIZE] = "#";
  cr_assert_eq(rctx_grpc_timeout_encode(INT64_MAX, buf, sizeof buf), 0);
  cr_assert_eq(rctx_grpc_timeout_encode(INT64_MAX, NULL, 0), 0);
  cr_assert_eq(rctx_timeout_ms_encode(INT64_MAX, buf, sizeof buf), 0);
  cr_assert_eq(buf[0], '#', "nothing is written");
}

// Into a block of exactly `size` bytes: all and a NUL, or nothing.
static void every_size(int (*encode)(int64_t, char *, size_t), int64_t ns, const char *expected) {
  size_t length = strlen(expected);
  for (size_t size = 0; size <= length + 3; size++) {
    char *buf = malloc(size + 1);
    memset(buf, '#', size + 1);
    int result = encode(ns, buf, size);
    cr_assert_eq(result, size > length ? (int)length : -ENOSPC, "size %zu", size);
    if (result > 0) cr_assert_str_eq(buf, expected);
    for (size_t i = result > 0 ? length + 1 : 0; i <= size; i++) cr_assert_eq(buf[i], '#', "size %zu", size);
    free(buf);
  }
  cr_assert_eq(encode(ns, NULL, 0), -ENOSPC);
}

Test(grpc_timeout, every_size_of_the_buffer__WIRE_2) {
  every_size(rctx_grpc_timeout_encode, 1, "1n");
  every_size(rctx_grpc_timeout_encode, 12345678, "12345678n");
  every_size(rctx_grpc_timeout_encode, INT64_MAX - 1, "2562047H");
  every_size(rctx_timeout_ms_encode, 7 * MS, "7");
  every_size(rctx_timeout_ms_encode, INT64_MAX - 1, "9999999999");
}

Test(grpc_timeout, what_is_written_is_read_again__WIRE_2) {
  struct rng rng;
  rng_init(&rng, seed_get());
  for (int round = 0; round < 50000; round++) {
    int64_t ns = (int64_t)(rng_next(&rng) >> (1 + rng_below(&rng, 63))), back = -1;
    char buf[RCTX_GRPC_TIMEOUT_SIZE], again[RCTX_GRPC_TIMEOUT_SIZE];
    if (ns == 0 || ns == INT64_MAX) continue;
    int length = rctx_grpc_timeout_encode(ns, buf, sizeof buf);
    cr_assert(length >= 2 && length <= 9);
    cr_assert_eq(G((struct rctx_text){buf, (size_t)length}, &back, NULL), 0, "%s", buf);
    cr_assert(back <= ns && back > 0, "%s never gains time", buf);
    // Of a number of 8 digits the last is at most 1 in 10^6 of the unit below; from S to M and M to H it is a sixtieth.
    cr_assert(ns < 100000000 ? back == ns : ns - back <= ns / 100000 + MINUTE, "%s for %" PRId64, buf, ns);
    cr_assert_eq(rctx_grpc_timeout_encode(back, again, sizeof again), length);
    cr_assert_str_eq(again, buf, "and written again the same");
  }
}

/* ---- milliseconds ------------------------------------------------------------------------------------------------ */

Test(timeout_ms, every_number_of_digits) {
  int64_t nines = 0;
  for (int digits = 1; digits <= 10; digits++) {
    char value[24];
    nines = nines * 10 + 9;
    snprintf(value, sizeof value, "%" PRId64, nines);
    means(M, value, nines * MS);
    snprintf(value, sizeof value, "%0*d", digits, 7);
    means(M, value, 7 * MS);
  }
  refused(M, "10000000000", RCTX_FAULT_TOO_LONG);
  refused(M, "00000000001", RCTX_FAULT_TOO_LONG);
  refused(M, many('9', 8000), RCTX_FAULT_TOO_LONG);
}

Test(timeout_ms, what_is_no_positive_number_is_refused) {
  refused(M, "", RCTX_FAULT_EMPTY);
  refused(M, "0", RCTX_FAULT_ZERO);
  refused(M, "0000000000", RCTX_FAULT_ZERO);
  refused(M, "-5", RCTX_FAULT_SYNTAX);
  refused(M, "+5", RCTX_FAULT_SYNTAX);
  refused(M, " 5", RCTX_FAULT_SYNTAX);
  refused(M, "5 ", RCTX_FAULT_SYNTAX);
  refused(M, "5ms", RCTX_FAULT_SYNTAX);
  refused(M, "5m", RCTX_FAULT_SYNTAX);
  refused(M, "1.5", RCTX_FAULT_SYNTAX);
  refused(M, "1e3", RCTX_FAULT_SYNTAX);
  refused(M, "0x10", RCTX_FAULT_SYNTAX);
  refused(M, "5,6", RCTX_FAULT_SYNTAX);
  refused(M, "infinity", RCTX_FAULT_SYNTAX);
  refused_bytes(M, "5\0", 2, RCTX_FAULT_SYNTAX);
}

Test(timeout_ms, every_byte_at_every_place__WIRE_1) {
  for (size_t at = 0; at < 10; at++) {
    for (int byte = 0; byte < 256; byte++) {
      char value[10] = {'1', '2', '3', '4', '5', '6', '7', '8', '9', '0'};
      int64_t ns;
      value[at] = (char)byte;
      cr_assert_eq(M(boxed(value, 10), &ns, NULL), byte >= '0' && byte <= '9' ? 0 : -EINVAL, "byte %d at %zu", byte,
                   at);
    }
  }
}

Test(timeout_ms, is_written_in_whole_milliseconds_rounded_down__WIRE_3) {
  char buf[RCTX_TIMEOUT_MS_SIZE] = "#";
  cr_assert_eq(rctx_timeout_ms_encode(MS - 1, buf, sizeof buf), -ETIMEDOUT, "less than 1 is nothing");
  cr_assert_eq(buf[0], '#');
  cr_assert_eq(rctx_timeout_ms_encode(MS, buf, sizeof buf), 1);
  cr_assert_str_eq(buf, "1");
  cr_assert_eq(rctx_timeout_ms_encode(1500 * MS + MS - 1, buf, sizeof buf), 4);
  cr_assert_str_eq(buf, "1500");
  cr_assert_eq(rctx_timeout_ms_encode(9999999999 * MS + 17 * MS, buf, sizeof buf), 10);
  cr_assert_str_eq(buf, "9999999999");
}

Test(timeout_ms, what_is_written_is_read_again__WIRE_2) {
  struct rng rng;
  rng_init(&rng, seed_get());
  for (int round = 0; round < 20000; round++) {
    int64_t ns = MS + rng_between(&rng, 0, INT64_MAX >> (9 + rng_below(&rng, 40))), back = -1;
    char buf[RCTX_TIMEOUT_MS_SIZE];
    int length = rctx_timeout_ms_encode(ns, buf, sizeof buf);
    cr_assert_gt(length, 0);
    cr_assert_eq(M((struct rctx_text){buf, (size_t)length}, &back, NULL), 0, "%s", buf);
    cr_assert_eq(back, (ns / MS < 9999999999 ? ns / MS : 9999999999) * MS);
  }
}

/* ---- sending ----------------------------------------------------------------------------------------------------- */

Test(sent, is_what_is_left_at_that_moment_without_the_reserve) {
  char buf[RCTX_GRPC_TIMEOUT_SIZE], ms[RCTX_TIMEOUT_MS_SIZE];
  RCTX_SCOPED rctx *c = rctx_with_deadline(fake_root(), fake_now() + 300 * MS);
  cr_assert_eq(rctx_grpc_timeout_from(c, 50 * MS, buf, sizeof buf), 7);
  cr_assert_str_eq(buf, "250000u");
  cr_assert_eq(rctx_timeout_ms_from(c, 50 * MS, ms, sizeof ms), 3);
  cr_assert_str_eq(ms, "250");
  fake_set(fake_now() + 100 * MS + 1);
  cr_assert_eq(rctx_grpc_timeout_from(c, 50 * MS, buf, sizeof buf), 7, "a retry sends what is left");
  cr_assert_str_eq(buf, "149999u");
  cr_assert_eq(rctx_timeout_ms_from(c, 50 * MS, ms, sizeof ms), 3);
  cr_assert_str_eq(ms, "149");
  cr_assert_eq(rctx_grpc_timeout_from_at(c, fake_now() + 149 * MS, 50 * MS, buf, sizeof buf), 7);
  cr_assert_str_eq(buf, "999999n");
  cr_assert_eq(rctx_timeout_ms_from_at(c, fake_now() + 148 * MS, 50 * MS, ms, sizeof ms), 1);
  cr_assert_str_eq(ms, "1");
}

Test(sent, nothing_when_nothing_is_left) {
  char buf[16] = "#";
  RCTX_SCOPED rctx *c = rctx_with_deadline(fake_root(), fake_now() + 10 * MS);
  cr_assert_eq(rctx_grpc_timeout_from(c, 10 * MS, buf, sizeof buf), -ETIMEDOUT, "the reserve takes all");
  cr_assert_eq(rctx_grpc_timeout_from(c, INT64_MAX, buf, sizeof buf), -ETIMEDOUT);
  cr_assert_eq(rctx_timeout_ms_from(c, 9 * MS + 1, buf, sizeof buf), -ETIMEDOUT, "less than 1 ms");
  cr_assert_eq(rctx_grpc_timeout_from_at(c, fake_now() + 10 * MS, 0, buf, sizeof buf), -ETIMEDOUT);
  cr_assert_eq(rctx_timeout_ms_from_at(c, INT64_MAX, 0, buf, sizeof buf), -ETIMEDOUT);
  cr_assert_eq(buf[0], '#');
}

Test(sent, an_ended_context_says_why) {
  char buf[16] = "#";
  RCTX_SCOPED rctx *timed = rctx_with_deadline(fake_root(), fake_now() + 10 * MS);
  RCTX_SCOPED rctx *cancelled = rctx_with_cancel(fake_root());
  rctx_cancel_with(cancelled, -ECONNRESET, RCTX_ORIGIN_PEER, "reset");
  fake_go(12 * MS);
  cr_assert_eq(rctx_grpc_timeout_from(timed, 0, buf, sizeof buf), -ETIMEDOUT);
  cr_assert_eq(rctx_grpc_timeout_from(cancelled, 0, buf, sizeof buf), -ECONNRESET);
  cr_assert_eq(rctx_timeout_ms_from(cancelled, 0, buf, sizeof buf), -ECONNRESET);
  cr_assert_eq(rctx_grpc_timeout_from_at(cancelled, 0, 0, buf, sizeof buf), -ECONNRESET);
  cr_assert_eq(rctx_timeout_ms_from_at(cancelled, 0, 0, buf, sizeof buf), -ECONNRESET);
  cr_assert_eq(buf[0], '#');
}

Test(sent, no_header_without_a_deadline) {
  char buf[16] = "#";
  RCTX_SCOPED rctx *never = rctx_with_timeout(fake_root(), INT64_MAX);
  cr_assert_eq(rctx_grpc_timeout_from(fake_root(), 5 * MS, buf, sizeof buf), 0);
  cr_assert_eq(rctx_timeout_ms_from(fake_root(), 5 * MS, buf, sizeof buf), 0);
  cr_assert_eq(rctx_grpc_timeout_from(never, 5 * MS, buf, sizeof buf), 0);
  cr_assert_eq(buf[0], '#');
}

Test(sent, a_small_buffer_is_refused__WIRE_2) {
  char buf[16] = "#";
  RCTX_SCOPED rctx *c = rctx_with_deadline(fake_root(), fake_now() + 300 * MS);
  cr_assert_eq(rctx_grpc_timeout_from(c, 0, buf, 7), -ENOSPC);
  cr_assert_eq(rctx_timeout_ms_from(c, 0, buf, 3), -ENOSPC);
  cr_assert_eq(rctx_grpc_timeout_from(c, 0, NULL, 0), -ENOSPC);
  cr_assert_eq(buf[0], '#');
}

/* ---- receiving --------------------------------------------------------------------------------------------------- */

static struct rctx_received got;

static int receive(const struct rctx_budget_policy *policy) {
  memset(&got, '#', sizeof got);
  return rctx_budget_from_headers(fake_root(), fake_now(), headers(), policy, &got);
}

static void gives(int64_t timeout_ns, enum rctx_header_id source) {
  cr_assert_eq(receive(NULL), 0);
  cr_assert_eq(got.timeout_ns, timeout_ns, "%" PRId64, got.timeout_ns);
  cr_assert_eq(got.source, source);
  cr_assert_eq(got.deadline_ns, timeout_ns == INT64_MAX ? INT64_MAX : fake_now() + timeout_ns);
  cr_assert_not(got.clamped);
}

Test(received, each_of_the_three) {
  header("host", "example.org");
  header("grpc-timeout", "250m");
  gives(250 * MS, RCTX_HEADER_GRPC_TIMEOUT);
  message_clear();
  header("x-request-timeout-ms", "1500");
  header("accept", "*/*");
  gives(1500 * MS, RCTX_HEADER_REQUEST_TIMEOUT_MS);
  message_clear();
  header("x-envoy-expected-rq-timeout-ms", "15000");
  gives(15 * SECOND, RCTX_HEADER_ENVOY_TIMEOUT_MS);
  cr_assert_eq(got.refused, RCTX_FAULT_NONE);
  cr_assert_eq(got.refused_id, RCTX_HEADER_NONE);
}

Test(received, precedence_does_not_depend_on_the_order) {
  header("x-envoy-expected-rq-timeout-ms", "3");
  header("x-request-timeout-ms", "2");
  header("grpc-timeout", "1m");
  gives(MS, RCTX_HEADER_GRPC_TIMEOUT);
  message.count = 2;
  gives(2 * MS, RCTX_HEADER_REQUEST_TIMEOUT_MS);
}

Test(received, names_are_compared_without_case_and_as_a_whole) {
  header("GRPC-Timeout", "1m");
  gives(MS, RCTX_HEADER_GRPC_TIMEOUT);
  message_clear();
  header("X-Request-Timeout-Ms", "2");
  gives(2 * MS, RCTX_HEADER_REQUEST_TIMEOUT_MS);
  message_clear();
  const char *others[] = {
      "grpc-timeou",   "grpc-timeouts",   "grpc_timeout",   "grpc.timeout", "x-request-timeout", "-grpc-timeout", "",
      "grpc\rtimeout", "grpc-\xd4imeout", "GRPC\x0dTIMEOUT"};
  for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
    message_clear();
    header(others[i], "1m");
    gives(INT64_MAX, RCTX_HEADER_NONE);
    cr_assert_eq(got.refused, RCTX_FAULT_NONE, "%s", others[i]);
  }
  message_clear();
  message.array[message.count++] = (struct rctx_header){{NULL, 0}, {NULL, 0}};
  message.array[message.count++] = (struct rctx_header){boxed("grpc-timeout\0", 13), text("1m")};
  gives(INT64_MAX, RCTX_HEADER_NONE);
}

// HTTP does not count white space around a value as part of it (RFC 9110, 5.5); within one it does.
Test(received, white_space_around_a_value_is_dropped) {
  header("grpc-timeout", " \t 250m \t");
  gives(250 * MS, RCTX_HEADER_GRPC_TIMEOUT);
  message_clear();
  header("grpc-timeout", "250 m");
  gives(INT64_MAX, RCTX_HEADER_NONE);
  cr_assert_eq(got.refused, RCTX_FAULT_SYNTAX);
  message_clear();
  header("x-request-timeout-ms", " \t ");
  gives(INT64_MAX, RCTX_HEADER_NONE);
  cr_assert_eq(got.refused, RCTX_FAULT_EMPTY);
}

Test(received, an_invalid_one_counts_as_absent) {
  header("grpc-timeout", "5s");
  header("x-request-timeout-ms", "-1");
  header("x-envoy-expected-rq-timeout-ms", "15");
  gives(15 * MS, RCTX_HEADER_ENVOY_TIMEOUT_MS);
  cr_assert_eq(got.refused_id, RCTX_HEADER_GRPC_TIMEOUT, "the first in precedence");
  cr_assert_eq(got.refused, RCTX_FAULT_UNIT);
  message.count = 2;
  gives(INT64_MAX, RCTX_HEADER_NONE);
}

Test(received, one_that_comes_twice_counts_as_absent) {
  header("grpc-timeout", "1S");
  header("x-request-timeout-ms", "5");
  header("Grpc-Timeout", "1S");
  gives(5 * MS, RCTX_HEADER_REQUEST_TIMEOUT_MS);
  cr_assert_eq(got.refused, RCTX_FAULT_DUPLICATE, "the same or not");
  message_clear();
  for (int i = 0; i < 200; i++) header("grpc-timeout", i ? "1S" : "rubbish");
  gives(INT64_MAX, RCTX_HEADER_NONE);
  cr_assert_eq(got.refused, RCTX_FAULT_DUPLICATE);
}

Test(received, policy_says_what_an_absent_one_means) {
  struct rctx_budget_policy policy = {.default_ns = 7 * MS, .absent = RCTX_OTHERWISE_NONE};
  cr_assert_eq(receive(&policy), 0);
  cr_assert_eq(got.timeout_ns, INT64_MAX);
  policy.absent = RCTX_OTHERWISE_DEFAULT;
  cr_assert_eq(receive(&policy), 0);
  cr_assert_eq(got.timeout_ns, 7 * MS);
  cr_assert_eq(got.deadline_ns, fake_now() + 7 * MS);
  cr_assert_eq(got.source, RCTX_HEADER_NONE);
  policy.max_ns = 5 * MS;
  cr_assert_eq(receive(&policy), 0);
  cr_assert_eq(got.timeout_ns, 5 * MS, "the maximum holds for the default, too");
  cr_assert(got.clamped);
  policy.default_ns = -3;
  cr_assert_eq(receive(&policy), 0);
  cr_assert_eq(got.deadline_ns, fake_now(), "ended at once");
  policy.absent = RCTX_OTHERWISE_REJECT;
  cr_assert_eq(receive(&policy), -ENOENT);
  header("grpc-timeout", "1m");
  cr_assert_eq(receive(&policy), 0);
  cr_assert_eq(got.timeout_ns, MS);
}

Test(received, policy_says_what_an_invalid_one_means) {
  struct rctx_budget_policy policy = {.default_ns = 7 * MS, .absent = RCTX_OTHERWISE_REJECT};
  header("grpc-timeout", "0m");
  cr_assert_eq(receive(&policy), 0, "not the policy for an absent one");
  cr_assert_eq(got.timeout_ns, INT64_MAX);
  policy.invalid = RCTX_OTHERWISE_DEFAULT;
  cr_assert_eq(receive(&policy), 0);
  cr_assert_eq(got.timeout_ns, 7 * MS);
  policy.invalid = RCTX_OTHERWISE_REJECT;
  cr_assert_eq(receive(&policy), -EINVAL);
  cr_assert_eq(got.refused, RCTX_FAULT_ZERO, "the reason is there all the same");
  cr_assert_eq(got.refused_id, RCTX_HEADER_GRPC_TIMEOUT);
  header("x-request-timeout-ms", "9");
  cr_assert_eq(receive(&policy), 0, "another one is valid");
  cr_assert_eq(got.timeout_ns, 9 * MS);
}

Test(received, is_cut_to_the_maximum__WIRE_3) {
  struct rctx_budget_policy policy = {.max_ns = 10 * SECOND};
  header("grpc-timeout", "99999999H");
  cr_assert_eq(receive(&policy), 0);
  cr_assert_eq(got.timeout_ns, 10 * SECOND);
  cr_assert(got.clamped);
  cr_assert_eq(got.deadline_ns, fake_now() + 10 * SECOND);
  message_clear();
  header("grpc-timeout", "10S");
  cr_assert_eq(receive(&policy), 0);
  cr_assert_not(got.clamped, "exactly the maximum");
  message_clear();
  cr_assert_eq(receive(&policy), 0);
  cr_assert_eq(got.timeout_ns, INT64_MAX, "there is none: there is nothing to be cut");
  cr_assert_not(got.clamped);
}

Test(received, too_short_is_not_worth_beginning) {
  struct rctx_budget_policy policy = {.min_ns = 10 * MS};
  header("grpc-timeout", "9999u");
  cr_assert_eq(receive(&policy), -ETIMEDOUT);
  cr_assert_eq(got.timeout_ns, 9999 * US, "and not made longer");
  message_clear();
  header("grpc-timeout", "10m");
  cr_assert_eq(receive(&policy), 0);
  message_clear();
  cr_assert_eq(receive(&policy), 0);
}

Test(received, policy_says_which_count) {
  struct rctx_budget_policy policy = {.headers = 1U << RCTX_HEADER_REQUEST_TIMEOUT_MS};
  header("grpc-timeout", "1m");
  header("x-envoy-expected-rq-timeout-ms", "rubbish");
  header("x-request-timeout-ms", "5");
  uint64_t before = rctx_fault_count(RCTX_HEADER_ENVOY_TIMEOUT_MS, RCTX_FAULT_NONE);
  cr_assert_eq(receive(&policy), 0);
  cr_assert_eq(got.timeout_ns, 5 * MS);
  cr_assert_eq(got.refused, RCTX_FAULT_NONE, "what does not count is not looked at");
  cr_assert_eq(rctx_fault_count(RCTX_HEADER_ENVOY_TIMEOUT_MS, RCTX_FAULT_NONE), before);
  policy.headers = 1U << RCTX_HEADER_TRACEPARENT | 1U << 31;
  cr_assert_eq(receive(&policy), 0);
  cr_assert_eq(got.source, RCTX_HEADER_NONE);
}

// A deadline is min(parent's, arrival + value).
Test(received, never_extends_the_parents_deadline__WIRE_3) {
  RCTX_SCOPED rctx *server = rctx_with_deadline(fake_root(), fake_now() + 100 * MS);
  header("grpc-timeout", "5S");
  cr_assert_eq(rctx_budget_from_headers(server, fake_now(), headers(), NULL, &got), 0);
  cr_assert_eq(got.deadline_ns, fake_now() + 100 * MS);
  cr_assert_eq(got.timeout_ns, 5 * SECOND, "what was received stays to be seen");
  cr_assert_eq(rctx_budget_from_headers(server, fake_now() - 4950 * MS, headers(), NULL, &got), 0);
  cr_assert_eq(got.deadline_ns, fake_now() + 50 * MS, "time in our queues counts");
  message_clear();
  cr_assert_eq(rctx_budget_from_headers(server, fake_now(), headers(), NULL, &got), 0);
  cr_assert_eq(got.deadline_ns, fake_now() + 100 * MS);
  RCTX_SCOPED rctx *request = rctx_derive(server, &(struct rctx_spec){.deadline_ns = got.deadline_ns});
  cr_assert_eq(rctx_remaining(request), 100 * MS);
}

Test(received, deadlines_do_not_overflow_and_are_never_0__WIRE_1) {
  header("grpc-timeout", "99999999M");
  int64_t arrivals[] = {INT64_MIN, -99999999 * MINUTE, -1, 0, 1, INT64_MAX - 1, INT64_MAX};
  for (int i = 0; i < 7; i++) {
    cr_assert_eq(rctx_budget_from_headers(fake_root(), arrivals[i], headers(), NULL, &got), 0);
    int64_t sum = 0;
    if (__builtin_add_overflow(arrivals[i], 99999999 * MINUTE, &sum)) sum = INT64_MAX;
    cr_assert_eq(got.deadline_ns, sum ? sum : -1, "0 would mean none in rctx_spec");
  }
}

Test(received, a_deadline_as_long_past_as_can_be_is_not_enough_time) {
  RCTX_SCOPED rctx *server = rctx_with_deadline(fake_root(), INT64_MIN);
  header("grpc-timeout", "5S");
  struct rctx_budget_policy policy = {.min_ns = 1};
  cr_assert_eq(rctx_budget_from_headers(server, fake_now(), headers(), &policy, &got), -ETIMEDOUT);
  cr_assert_eq(got.deadline_ns, INT64_MIN);
}

Test(received, an_unlimited_one_is_no_deadline) {
  header("grpc-timeout", "99999999H");
  gives(INT64_MAX, RCTX_HEADER_GRPC_TIMEOUT);
  RCTX_SCOPED rctx *request = rctx_derive(fake_root(), &(struct rctx_spec){.deadline_ns = got.deadline_ns});
  char buf[RCTX_GRPC_TIMEOUT_SIZE];
  cr_assert_eq(rctx_err(request), 0);
  cr_assert_eq(rctx_grpc_timeout_from(request, 0, buf, sizeof buf), 0, "and none is sent on");
}

/* Somebody's list: linked, and with two things to remember about a place. */
struct part {
  struct rctx_header pair[2];
  const struct part *next;
};

static bool next_of_parts(const struct rctx_headers *self, struct rctx_cursor *cursor, struct rctx_header *h) {
  const struct part *part = cursor->at ? cursor->at : self->list;
  if (cursor->index == 2) {
    part = part->next;
    cursor->index = 0;
  }
  if (part == NULL) return false;
  *h = part->pair[cursor->index++];
  cursor->at = part;
  return true;
}

Test(received, any_list_of_headers_will_do) {
  struct part third = {{{text("x-request-timeout-ms"), text("7")}, {text("b"), text("2")}}, NULL};
  struct part second = {{{text("grpc-timeout"), text("rubbish")}, {text("a"), text("1")}}, &third};
  struct part first = {{{text("host"), text("x")}, {text("accept"), text("y")}}, &second};
  struct rctx_headers list = {next_of_parts, &first, 0};
  cr_assert_eq(rctx_budget_from_headers(fake_root(), fake_now(), &list, NULL, &got), 0);
  cr_assert_eq(got.timeout_ns, 7 * MS);
  cr_assert_eq(got.refused_id, RCTX_HEADER_GRPC_TIMEOUT);
}

Test(received, no_headers_at_all) {
  struct rctx_headers none = rctx_headers_of(NULL, 0);
  cr_assert_eq(rctx_budget_from_headers(fake_root(), fake_now(), &none, NULL, &got), 0);
  cr_assert_eq(got.source, RCTX_HEADER_NONE);
  cr_assert_eq(got.deadline_ns, INT64_MAX);
}

// A hop: what one process sends, the next one receives, and no time is gained on the way.
Test(received, a_chain_of_hops_only_loses_time__WIRE_3) {
  struct rng rng;
  rng_init(&rng, seed_get());
  for (int chain = 0; chain < 2000; chain++) {
    int64_t end = fake_now() + rng_between(&rng, 1, SECOND << rng_below(&rng, 20)), now = fake_now(), deadline = end;
    for (int hop = 0; hop < 6; hop++) {
      char buf[RCTX_GRPC_TIMEOUT_SIZE];
      RCTX_SCOPED rctx *c = rctx_with_deadline(fake_root(), deadline);
      now += rng_between(&rng, 0, 5 * MS);
      int length = rng_below(&rng, 2) ? rctx_grpc_timeout_from_at(c, now, rng_between(&rng, -5, MS), buf, sizeof buf)
                                      : rctx_grpc_timeout_encode(rctx_budget_at(c, now, 0), buf, sizeof buf);
      if (length == -ETIMEDOUT || rctx_err(c)) break;
      cr_assert_gt(length, 0);
      message_clear();
      header("grpc-timeout", buf);
      cr_assert_eq(rctx_budget_from_headers(fake_root(), now, headers(), NULL, &got), 0);
      cr_assert_leq(got.deadline_ns, deadline);
      deadline = got.deadline_ns;
    }
  }
}

/* ---- counters and names ------------------------------------------------------------------------------------------ */

Test(received, what_is_refused_is_counted) {
  uint64_t unit = rctx_fault_count(RCTX_HEADER_GRPC_TIMEOUT, RCTX_FAULT_UNIT);
  uint64_t all = rctx_fault_count(RCTX_HEADER_GRPC_TIMEOUT, RCTX_FAULT_NONE);
  uint64_t zero = rctx_fault_count(RCTX_HEADER_REQUEST_TIMEOUT_MS, RCTX_FAULT_ZERO);
  header("grpc-timeout", "5s");
  header("x-request-timeout-ms", "0");
  header("x-envoy-expected-rq-timeout-ms", "5");
  for (int i = 0; i < 3; i++) cr_assert_eq(receive(NULL), 0);
  cr_assert_eq(rctx_fault_count(RCTX_HEADER_GRPC_TIMEOUT, RCTX_FAULT_UNIT), unit + 3);
  cr_assert_eq(rctx_fault_count(RCTX_HEADER_GRPC_TIMEOUT, RCTX_FAULT_NONE), all + 3, "the sum");
  cr_assert_eq(rctx_fault_count(RCTX_HEADER_REQUEST_TIMEOUT_MS, RCTX_FAULT_ZERO), zero + 3, "though another counted");
  header("grpc-timeout", "5s");
  cr_assert_eq(receive(NULL), 0);
  cr_assert_eq(rctx_fault_count(RCTX_HEADER_GRPC_TIMEOUT, RCTX_FAULT_DUPLICATE), 1, "once, not once for each");
  refused(G, "5s", RCTX_FAULT_UNIT);
  cr_assert_eq(rctx_fault_count(RCTX_HEADER_GRPC_TIMEOUT, RCTX_FAULT_UNIT), unit + 3, "the codec alone counts nothing");
}

enum { COUNTING_ROUNDS = 2000 };
static void refuse_many(unsigned index, void *arg) {
  struct rctx_received mine;
  const struct rctx_headers *list = arg;
  (void)index;
  for (int i = 0; i < COUNTING_ROUNDS; i++) {
    if (rctx_budget_from_headers(fake_root(), 1, list, NULL, &mine)) abort();
  }
}

Test(received, threads_count_together) {
  uint64_t before = rctx_fault_count(RCTX_HEADER_GRPC_TIMEOUT, RCTX_FAULT_UNIT);
  header("grpc-timeout", "5s");
  struct rctx_headers list = *headers();
  threads_run(4, refuse_many, &list);
  cr_assert_eq(rctx_fault_count(RCTX_HEADER_GRPC_TIMEOUT, RCTX_FAULT_UNIT), before + 4 * COUNTING_ROUNDS);
}

Test(received, names_and_texts) {
  cr_assert_str_eq(rctx_header_name(RCTX_HEADER_GRPC_TIMEOUT), "grpc-timeout");
  cr_assert_str_eq(rctx_header_name(RCTX_HEADER_REQUEST_TIMEOUT_MS), "x-request-timeout-ms");
  cr_assert_str_eq(rctx_header_name(RCTX_HEADER_ENVOY_TIMEOUT_MS), "x-envoy-expected-rq-timeout-ms");
  cr_assert_str_eq(rctx_header_name(RCTX_HEADER_TRACEPARENT), "traceparent");
  cr_assert_str_eq(rctx_header_name(RCTX_HEADER_TRACESTATE), "tracestate");
  cr_assert_str_eq(rctx_header_name(RCTX_HEADER_BAGGAGE), "baggage");
  int odd[] = {-1, 0, RCTX_HEADERS, 1000, INT32_MAX, INT32_MIN};
  for (int i = 0; i < 6; i++) {
    cr_assert_null(rctx_header_name((enum rctx_header_id)odd[i]));
    cr_assert_eq(rctx_fault_count((enum rctx_header_id)odd[i], RCTX_FAULT_SYNTAX), 0);
    if (odd[i]) cr_assert_eq(rctx_fault_count(RCTX_HEADER_BAGGAGE, (enum rctx_fault)odd[i]), 0);
    cr_assert_not_null(rctx_fault_text((enum rctx_fault)odd[i]));
  }
  for (int i = 0; i < RCTX_FAULTS; i++) {
    for (int k = 0; k < i; k++)
      cr_assert_str_neq(rctx_fault_text((enum rctx_fault)i), rctx_fault_text((enum rctx_fault)k));
  }
  cr_assert_eq(rctx_text_of(NULL).length, 0);
  cr_assert(text_is(rctx_text_of("abc"), "abc"));
}
