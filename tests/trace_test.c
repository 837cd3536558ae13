// Trace context on the wire: traceparent and tracestate (propagate.h). The vectors are those of W3C's own test suite
// (trace-context, test/test.py); where a newer level takes more than that suite's older parts did, the newer one
// counts.
#include "support/check.h"
#include "support/leftovers.h"
#include "support/seed.h"
#include "support/texts.h"

#include <stdio.h>

TestSuite(traceparent, .fini = texts_free, .timeout = 60);
TestSuite(tracestate, .fini = texts_free, .timeout = 60);
TestSuite(trace_headers, .fini = texts_free, .timeout = 60);

#define ID "12345678901234567890123456789012"
#define SPAN "1234567890123456"

static struct rctx_traceparent trace;
static enum rctx_fault fault;

static int parse(const char *value) {
  memset(&trace, 0x55, sizeof trace);
  fault = RCTX_FAULTS;
  return rctx_traceparent_parse(text(value), &trace, &fault);
}

static void good(const char *value, uint8_t version, uint8_t flags) {
  static const uint8_t id[] = {0x12, 0x34, 0x56, 0x78, 0x90, 0x12, 0x34, 0x56,
                               0x78, 0x90, 0x12, 0x34, 0x56, 0x78, 0x90, 0x12};
  cr_assert_eq(parse(value), 0, "%s: %s", value, rctx_fault_text(fault));
  cr_assert_eq(fault, RCTX_FAULT_NONE);
  cr_assert_eq(memcmp(trace.trace_id, id, 16), 0);
  cr_assert_eq(memcmp(trace.parent_id, id, 8), 0);
  cr_assert_eq(trace.version, version);
  cr_assert_eq(trace.flags, flags, "%s: %x", value, trace.flags);
}

static void bad(const char *value, enum rctx_fault why) {
  struct rctx_traceparent untouched;
  memset(&untouched, 0x55, sizeof untouched);
  cr_assert_eq(parse(value), -EINVAL, "%s", value);
  cr_assert_eq(fault, why, "%s: %s", value, rctx_fault_text(fault));
  cr_assert_eq(memcmp(&trace, &untouched, sizeof trace), 0, "written only on success");
}

/* ---- traceparent: reading ---------------------------------------------------------------------------------------- */

Test(traceparent, version_00) {
  good("00-" ID "-" SPAN "-00", 0, 0);
  good("00-" ID "-" SPAN "-01", 0, RCTX_TRACE_SAMPLED);
  good("00-" ID "-" SPAN "-02", 0, RCTX_TRACE_RANDOM);
  good("00-" ID "-" SPAN "-03", 0, RCTX_TRACE_SAMPLED | RCTX_TRACE_RANDOM);
  good("00-" ID "-" SPAN "-09", 0, RCTX_TRACE_SAMPLED);
  good("00-" ID "-" SPAN "-ff", 0, RCTX_TRACE_SAMPLED | RCTX_TRACE_RANDOM);
  good("00-" ID "-" SPAN "-fc", 0, 0);
}

Test(traceparent, test_traceparent_version_0x00) {
  bad("00-" ID "-" SPAN "-01.", RCTX_FAULT_TOO_LONG);
  bad("00-" ID "-" SPAN "-01-what-the-future-will-be-like", RCTX_FAULT_TOO_LONG);
  bad("00-" ID "-" SPAN "-01-", RCTX_FAULT_TOO_LONG);
}

Test(traceparent, test_traceparent_version_0xcc) {
  good("cc-" ID "-" SPAN "-01", 0xcc, RCTX_TRACE_SAMPLED);
  good("cc-" ID "-" SPAN "-01-what-the-future-will-be-like", 0xcc, RCTX_TRACE_SAMPLED);
  good("cc-" ID "-" SPAN "-01-", 0xcc, RCTX_TRACE_SAMPLED);
  good("01-" ID "-" SPAN "-f5-\xff\x01", 1, RCTX_TRACE_SAMPLED);
  good("fe-" ID "-" SPAN "-00", 0xfe, 0);
  bad("cc-" ID "-" SPAN "-01.what-the-future-will-be-like", RCTX_FAULT_SYNTAX);
  bad("cc-" ID "-" SPAN "-0", RCTX_FAULT_SYNTAX);
  bad("cc-" ID "-" SPAN "-012", RCTX_FAULT_SYNTAX);
}

Test(traceparent, test_traceparent_version_0xff) {
  bad("ff-" ID "-" SPAN "-01", RCTX_FAULT_VERSION);
  bad("ff-" ID "-" SPAN "-01-more", RCTX_FAULT_VERSION);
}

Test(traceparent, test_traceparent_version_illegal_characters_too_long_too_short) {
  bad(".0-" ID "-" SPAN "-01", RCTX_FAULT_SYNTAX);
  bad("0.-" ID "-" SPAN "-01", RCTX_FAULT_SYNTAX);
  bad("000-" ID "-" SPAN "-01", RCTX_FAULT_SYNTAX);
  bad("0000-" ID "-" SPAN "-01", RCTX_FAULT_SYNTAX);
  bad("0-" ID "-" SPAN "-01", RCTX_FAULT_SYNTAX);
  bad("-" ID "-" SPAN "-01", RCTX_FAULT_SYNTAX);
}

Test(traceparent, test_traceparent_trace_id) {
  bad("00-00000000000000000000000000000000-" SPAN "-01", RCTX_FAULT_ZERO);
  bad("cc-00000000000000000000000000000000-" SPAN "-01-x", RCTX_FAULT_ZERO);
  bad("00-.2345678901234567890123456789012-" SPAN "-01", RCTX_FAULT_SYNTAX);
  bad("00-1234567890123456789012345678901.-" SPAN "-01", RCTX_FAULT_SYNTAX);
  bad("00-123456789012345678901234567890123-" SPAN "-01", RCTX_FAULT_SYNTAX);
  bad("00-1234567890123456789012345678901-" SPAN "-01", RCTX_FAULT_SYNTAX);
}

Test(traceparent, test_traceparent_parent_id) {
  bad("00-" ID "-0000000000000000-01", RCTX_FAULT_ZERO);
  bad("00-" ID "-.234567890123456-01", RCTX_FAULT_SYNTAX);
  bad("00-" ID "-123456789012345.-01", RCTX_FAULT_SYNTAX);
  bad("00-" ID "-12345678901234567-01", RCTX_FAULT_SYNTAX);
  bad("00-" ID "-123456789012345-01", RCTX_FAULT_SYNTAX);
}

Test(traceparent, test_traceparent_trace_flags) {
  bad("00-" ID "-" SPAN "-.0", RCTX_FAULT_SYNTAX);
  bad("00-" ID "-" SPAN "-0.", RCTX_FAULT_SYNTAX);
  bad("00-" ID "-" SPAN "-001", RCTX_FAULT_TOO_LONG);
  bad("00-" ID "-" SPAN "-1", RCTX_FAULT_SYNTAX);
}

Test(traceparent, capitals_are_refused) {
  bad("00-ABCDEF78901234567890123456789012-" SPAN "-01", RCTX_FAULT_SYNTAX);
  bad("00-" ID "-A234567890123456-01", RCTX_FAULT_SYNTAX);
  bad("00-" ID "-" SPAN "-0A", RCTX_FAULT_SYNTAX);
  bad("CC-" ID "-" SPAN "-01", RCTX_FAULT_SYNTAX);
  bad("FF-" ID "-" SPAN "-01", RCTX_FAULT_SYNTAX);
}

Test(traceparent, white_space_is_for_the_header_not_for_the_value) {
  bad(" 00-" ID "-" SPAN "-01", RCTX_FAULT_SYNTAX);
  bad("00-" ID "-" SPAN "-01 ", RCTX_FAULT_TOO_LONG);
  bad("cc-" ID "-" SPAN "-01\t", RCTX_FAULT_SYNTAX);
}

Test(traceparent, every_length__WIRE_1) {
  const char *whole = "cc-" ID "-" SPAN "-01-xyz";
  for (size_t n = 0; n <= strlen(whole); n++) {
    bool valid = n == 55 || n >= 56;
    cr_assert_eq(rctx_traceparent_parse(boxed(whole, n), &trace, NULL), valid ? 0 : -EINVAL, "%zu", n);
  }
  cr_assert_eq(rctx_traceparent_parse((struct rctx_text){NULL, 0}, &trace, &fault), -EINVAL);
  cr_assert_eq(fault, RCTX_FAULT_EMPTY);
}

Test(traceparent, every_byte_at_every_place__WIRE_1) {
  for (size_t at = 0; at < 56; at++) {
    for (int byte = 0; byte < 256; byte++) {
      char value[56];
      memcpy(value, "cc-" ID "-" SPAN "-01-", 56);
      value[at] = (char)byte;
      bool is_dash = at == 2 || at == 35 || at == 52 || at == 55;
      bool valid = is_dash ? byte == '-' : (byte >= '0' && byte <= '9') || (byte >= 'a' && byte <= 'f');
      cr_assert_eq(rctx_traceparent_parse(boxed(value, 56), &trace, NULL), valid ? 0 : -EINVAL, "%d at %zu", byte, at);
    }
  }
}

/* ---- traceparent: writing ---------------------------------------------------------------------------------------- */

Test(traceparent, is_written_as_version_00_with_the_known_flags) {
  char buf[RCTX_TRACEPARENT_SIZE];
  cr_assert_eq(parse("cc-" ID "-" SPAN "-ff-future"), 0);
  cr_assert_eq(rctx_traceparent_format(&trace, buf, sizeof buf), 55);
  cr_assert_str_eq(buf, "00-" ID "-" SPAN "-03");
  trace.flags = 0xfd;
  cr_assert_eq(rctx_traceparent_format(&trace, buf, sizeof buf), 55);
  cr_assert_str_eq(buf, "00-" ID "-" SPAN "-01", "whatever the caller put there");
}

Test(traceparent, ids_of_zeros_are_not_written) {
  char buf[RCTX_TRACEPARENT_SIZE] = "#";
  struct rctx_traceparent zero = {{0}, {1}, 0, 0};
  cr_assert_eq(rctx_traceparent_format(&zero, buf, sizeof buf), -EINVAL);
  zero = (struct rctx_traceparent){{1}, {0}, 0, 0};
  cr_assert_eq(rctx_traceparent_format(&zero, buf, sizeof buf), -EINVAL);
  cr_assert_eq(buf[0], '#');
}

Test(traceparent, every_size_of_the_buffer__WIRE_2) {
  cr_assert_eq(parse("00-" ID "-" SPAN "-01"), 0);
  for (size_t size = 0; size <= 60; size++) {
    char *buf = malloc(size + 1);
    memset(buf, '#', size + 1);
    cr_assert_eq(rctx_traceparent_format(&trace, buf, size), size >= 56 ? 55 : -ENOSPC);
    if (size >= 56) cr_assert_str_eq(buf, "00-" ID "-" SPAN "-01");
    for (size_t i = size >= 56 ? 56 : 0; i <= size; i++) cr_assert_eq(buf[i], '#');
    free(buf);
  }
  cr_assert_eq(rctx_traceparent_format(&trace, NULL, 0), -ENOSPC);
}

Test(traceparent, what_is_written_is_read_again__WIRE_2) {
  struct rng rng;
  rng_init(&rng, seed_get());
  for (int round = 0; round < 20000; round++) {
    struct rctx_traceparent back, any = {.version = 0};
    char buf[RCTX_TRACEPARENT_SIZE];
    for (int i = 0; i < 16; i++) any.trace_id[i] = (uint8_t)rng_next(&rng);
    for (int i = 0; i < 8; i++) any.parent_id[i] = (uint8_t)rng_next(&rng);
    any.flags = (uint8_t)rng_below(&rng, 4);
    cr_assert_eq(rctx_traceparent_format(&any, buf, sizeof buf), 55);
    cr_assert_eq(rctx_traceparent_parse((struct rctx_text){buf, 55}, &back, NULL), 0, "%s", buf);
    cr_assert_eq(memcmp(&any, &back, sizeof any), 0, "%s", buf);
  }
}

Test(traceparent, a_hop_keeps_the_trace_and_takes_a_span_of_its_own) {
  static const uint8_t random[8] = {1, 2, 3, 4, 5, 6, 7, 8}, zeros[8] = {0};
  struct rctx_traceparent next;
  cr_assert_eq(parse("cc-" ID "-" SPAN "-03-future"), 0);
  cr_assert_eq(rctx_traceparent_next(&trace, random, &next), 0);
  cr_assert_eq(memcmp(next.trace_id, trace.trace_id, 16), 0);
  cr_assert_eq(memcmp(next.parent_id, random, 8), 0);
  cr_assert_eq(next.flags, RCTX_TRACE_SAMPLED | RCTX_TRACE_RANDOM, "the random flag stays as received");
  cr_assert_eq(next.version, 0);
  cr_assert_eq(rctx_traceparent_next(&trace, zeros, &next), -EINVAL);
  cr_assert_eq(memcmp(next.parent_id, random, 8), 0, "nothing is written");
  cr_assert_eq(rctx_traceparent_next(&trace, random, &trace), 0, "in place");
  cr_assert_eq(memcmp(&trace, &next, sizeof next), 0);
}

Test(traceparent, a_trace_begins_with_24_random_bytes) {
  uint8_t random[24];
  char buf[RCTX_TRACEPARENT_SIZE];
  for (int i = 0; i < 24; i++) random[i] = (uint8_t)(i + 1);
  cr_assert_eq(rctx_traceparent_start(random, true, &trace), 0);
  cr_assert_eq(rctx_traceparent_format(&trace, buf, sizeof buf), 55);
  cr_assert_str_eq(buf, "00-0102030405060708090a0b0c0d0e0f10-1112131415161718-03");
  cr_assert_eq(rctx_traceparent_start(random, false, &trace), 0);
  cr_assert_eq(trace.flags, RCTX_TRACE_RANDOM);
  memset(random, 0, 16);
  cr_assert_eq(rctx_traceparent_start(random, false, &trace), -EINVAL);
  random[0] = 1;
  memset(random + 16, 0, 8);
  cr_assert_eq(rctx_traceparent_start(random, false, &trace), -EINVAL);
}

/* ---- tracestate: grammar ----------------------------------------------------------------------------------------- */

static void valid(const char *state) {
  cr_assert_eq(rctx_tracestate_check(text(state), &fault), 0, "'%s': %s", state, rctx_fault_text(fault));
  cr_assert_eq(fault, RCTX_FAULT_NONE);
}

static void invalid(const char *state, enum rctx_fault why) {
  fault = RCTX_FAULT_NONE;
  cr_assert_eq(rctx_tracestate_check(text(state), &fault), -EINVAL, "'%s'", state);
  cr_assert_eq(fault, why, "'%s': %s", state, rctx_fault_text(fault));
  cr_assert_eq(rctx_tracestate_check(text(state), NULL), -EINVAL);
}

static void finds(const char *state, const char *key, const char *expected) {
  struct rctx_text value;
  int result = rctx_tracestate_find(text(state), text(key), &value);
  cr_assert_eq(result, expected ? 0 : -ENOENT, "'%s' in '%s': %d", key, state, result);
  if (expected) cr_assert(text_is(value, expected), "'%.*s'", (int)value.length, value.at);
}

Test(tracestate, test_tracestate_included) {
  finds("foo=1,bar=2", "foo", "1");
  finds("foo=1,bar=2", "bar", "2");
  finds("foo=1,bar=2", "ba", NULL);
  finds("foo=1,bar=2", "barr", NULL);
  finds("foo=1,bar=2", "", NULL);
  finds("", "foo", NULL);
}

Test(tracestate, test_tracestate_all_allowed_characters) {
  char value[128], state[300];
  size_t n = 0;
  for (char c = 0x20; c < 0x7f; c++) {
    if (c != ',' && c != '=') value[n++] = c;
  }
  value[n] = 0;
  const char *key = "abcdefghijklmnopqrstuvwxyz0123456789_-*/", *with_vendor = "abcxyz0123456789_-*/@a-z0-9_-*/";
  snprintf(state, sizeof state, "%s=%s", key, value);
  finds(state, key, value);
  snprintf(state, sizeof state, "%s=%s", with_vendor, value);
  finds(state, with_vendor, value);
}

Test(tracestate, test_tracestate_ows_handling) {
  const char *states[] = {"foo=1 \t , \t bar=2, \t baz=3", "foo=1\t \t,\t \tbar=2,\t \tbaz=3",
                          "\t foo=1,bar=2,baz=3 \t"};
  for (int i = 0; i < 3; i++) {
    finds(states[i], "foo", "1");
    finds(states[i], "bar", "2");
    finds(states[i], "baz", "3");
  }
  finds(" foo=1", "foo", "1");
  finds("\tfoo=1", "foo", "1");
  finds("foo=1 ", "foo", "1");
  finds("foo=1\t", "foo", "1");
  finds("foo= \x20"
        "1,bar=2",
        "foo", "  1"); // spaces before a value are part of it, spaces behind it are not
}

Test(tracestate, empty_members_are_none) {
  valid("");
  valid(",");
  valid(" , \t,,");
  valid(many(',', 8000));
  finds(",,foo=1,, ,bar=2,", "bar", "2");
}

Test(tracestate, test_tracestate_key_illegal_characters) {
  invalid("foo =1", RCTX_FAULT_SYNTAX);
  invalid("FOO=1", RCTX_FAULT_SYNTAX);
  invalid("foo.bar=1", RCTX_FAULT_SYNTAX);
  invalid("=1", RCTX_FAULT_SYNTAX);
  invalid("_foo=1", RCTX_FAULT_SYNTAX);
  invalid("@foo=1,bar=2", RCTX_FAULT_SYNTAX);
  invalid("foo\t=1", RCTX_FAULT_SYNTAX);
  valid("1foo=1");
}

// Level 2 took these in; the older suite refuses them.
Test(tracestate, test_setitem_keys_with_at_signs) {
  valid("foo@=1,bar=2");
  valid("foo@@bar=1,bar=2");
  valid("foo@bar@baz=1,bar=2");
  valid("t@vvvvvvvvvvvvvvv=1");
}

Test(tracestate, test_tracestate_value_illegal_characters) {
  invalid("foo=bar=baz", RCTX_FAULT_SYNTAX);
  invalid("foo=,bar=3", RCTX_FAULT_SYNTAX);
  invalid("foo= ,bar=3", RCTX_FAULT_SYNTAX);
  invalid("foobarbaz", RCTX_FAULT_SYNTAX);
  invalid("foo=a\tb", RCTX_FAULT_SYNTAX);
  invalid("foo=\x7f", RCTX_FAULT_SYNTAX);
  invalid("foo=\xc3\xa9", RCTX_FAULT_SYNTAX);
  valid("foo=1;bar"); // a semicolon is a character like others
}

Test(tracestate, every_byte_in_a_key_and_in_a_value__WIRE_1) {
  for (int byte = 0; byte < 256; byte++) {
    char state[] = "aXc=xYz,d=1";
    bool lower = (byte >= 'a' && byte <= 'z') || (byte >= '0' && byte <= '9');
    state[1] = (char)byte;
    state[5] = 'y';
    bool in_key = lower || (byte && strchr("_-*/@", byte));
    cr_assert_eq(rctx_tracestate_check(boxed(state, sizeof state - 1), NULL), in_key ? 0 : -EINVAL, "key, byte %d",
                 byte);
    state[1] = 'b';
    state[5] = (char)byte;
    bool in_value = byte >= 0x20 && byte < 0x7f && byte != ',' && byte != '=';
    cr_assert_eq(rctx_tracestate_check(boxed(state, sizeof state - 1), NULL), in_value ? 0 : -EINVAL, "value, byte %d",
                 byte);
  }
}

Test(tracestate, test_tracestate_duplicated_keys) {
  invalid("foo=1,foo=1", RCTX_FAULT_DUPLICATE);
  invalid("foo=1,foo=2", RCTX_FAULT_DUPLICATE);
  invalid("foo=1,bar=1,foo=2", RCTX_FAULT_DUPLICATE);
  valid("foo=1,foo1=1,fo=1");
}

static const char *members(int from, int to) {
  static char state[1000];
  int at = 0;
  state[0] = 0;
  for (int i = from; i <= to; i++) {
    at += snprintf(state + at, sizeof state - (size_t)at, "%sbar%02d=%02d", i > from ? "," : "", i, i);
  }
  return state;
}

Test(tracestate, test_tracestate_member_count_limit) {
  valid(members(1, 32));
  invalid(members(1, 33), RCTX_FAULT_LIMIT);
  char with_empty[1100];
  snprintf(with_empty, sizeof with_empty, ",, ,%s, ,,", members(1, 32));
  valid(with_empty);
}

Test(tracestate, test_tracestate_key_and_value_length_limit) {
  char state[1100];
  snprintf(state, sizeof state, "foo=1,%s=1", many('z', 256));
  valid(state);
  snprintf(state, sizeof state, "foo=1,%s=1", many('z', 257));
  invalid(state, RCTX_FAULT_TOO_LONG);
  snprintf(state, sizeof state, "foo=1,%s@%s=1", many('t', 241), many('v', 14));
  valid(state);
  snprintf(state, sizeof state, "foo=%s", many('x', 256));
  valid(state);
  snprintf(state, sizeof state, "foo=%s  ,bar=1", many('x', 256));
  valid(state);
  snprintf(state, sizeof state, "foo=%s", many('x', 257));
  invalid(state, RCTX_FAULT_TOO_LONG);
}

Test(tracestate, a_list_of_more_than_8192_bytes_is_refused__WIRE_1) {
  char state[RCTX_TRACESTATE_BYTES_MAX + 2];
  memset(state, ' ', sizeof state);
  memcpy(state, "foo=1", 5);
  cr_assert_eq(rctx_tracestate_check(boxed(state, RCTX_TRACESTATE_BYTES_MAX), &fault), 0);
  cr_assert_eq(rctx_tracestate_check(boxed(state, RCTX_TRACESTATE_BYTES_MAX + 1), &fault), -EINVAL);
  cr_assert_eq(fault, RCTX_FAULT_LIMIT);
  struct rctx_text huge = {state, SIZE_MAX / 2}; // not looked at
  cr_assert_eq(rctx_tracestate_check(huge, &fault), -EINVAL);
  cr_assert_eq(fault, RCTX_FAULT_LIMIT);
}

/* ---- tracestate: our own member ---------------------------------------------------------------------------------- */

static char out[9000];

static int update_sized(const char *state, const char *key, const char *value, size_t size) {
  memset(out, '#', sizeof out);
  fault = RCTX_FAULTS;
  return rctx_tracestate_update(text(state), text(key), text(value), out, size, &fault);
}

static void becomes(const char *state, const char *key, const char *value, const char *expected) {
  int length = update_sized(state, key, value, RCTX_TRACESTATE_SIZE);
  cr_assert_eq(length, (int)strlen(expected), "%d", length);
  cr_assert_str_eq(out, expected);
}

// The example of the specification: Congo, then Rojo, then Congo again.
Test(tracestate, our_member_goes_to_the_left_and_replaces_an_older_one) {
  becomes("", "congo", "t61rcWkgMzE", "congo=t61rcWkgMzE");
  becomes("congo=t61rcWkgMzE", "rojo", "00f067aa0ba902b7", "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE");
  becomes("rojo=00f067aa0ba902b7,congo=t61rcWkgMzE", "congo", "ucfJifl5GOE", "congo=ucfJifl5GOE,rojo=00f067aa0ba902b7");
  becomes("a=1,b=2,c=3", "a", "9", "a=9,b=2,c=3");
  becomes("a=1,b=2,c=3", "c", "9", "c=9,a=1,b=2");
  becomes("a=1,b=2,c=3", "b", "9", "b=9,a=1,c=3");
  cr_assert_eq(fault, RCTX_FAULT_NONE);
}

Test(tracestate, space_and_empty_members_are_left_out) {
  becomes(" a=1 ,, \tb= 2 ,", "c", "3", "c=3,a=1,b= 2");
  becomes(" a=1 ,, \tb= 2 ,", "", "", "a=1,b= 2");
  becomes(",,", "", "", "");
}

Test(tracestate, an_invalid_list_is_dropped_and_ours_remains) {
  becomes("a=1,A=2", "c", "3", "c=3");
  cr_assert_eq(fault, RCTX_FAULT_SYNTAX);
  becomes("a=1,a=2", "", "", "");
  cr_assert_eq(fault, RCTX_FAULT_DUPLICATE);
}

// Read: the wider grammar. Written: what level 1 takes, too.
Test(tracestate, our_key_is_of_the_narrow_grammar) {
  char key[400];
  const char *good_keys[] = {"a", "a1_-*/", "fw529a3039@dt", "1tenant@sys", "a@s"};
  const char *bad_keys[] = {"1", "1a", "A", "a.b", "@a", "a@", "a@@b", "a@b@c", "a@1b", "_a", "a b", "a=b", "a,b"};
  for (size_t i = 0; i < sizeof good_keys / sizeof good_keys[0]; i++) {
    cr_assert_gt(update_sized("", good_keys[i], "1", RCTX_TRACESTATE_SIZE), 0, "%s", good_keys[i]);
    valid(out);
  }
  for (size_t i = 0; i < sizeof bad_keys / sizeof bad_keys[0]; i++) {
    cr_assert_eq(update_sized("", bad_keys[i], "1", RCTX_TRACESTATE_SIZE), -EINVAL, "%s", bad_keys[i]);
    cr_assert_eq(out[0], '#', "nothing is written");
  }
  cr_assert_gt(update_sized("", many('k', 256), "1", 600), 0);
  cr_assert_eq(update_sized("", many('k', 257), "1", 600), -EINVAL);
  snprintf(key, sizeof key, "%s@%s", many('t', 241), many('v', 14));
  cr_assert_gt(update_sized("", key, "1", 600), 0);
  snprintf(key, sizeof key, "%s@v", many('t', 242));
  cr_assert_eq(update_sized("", key, "1", 600), -EINVAL);
  snprintf(key, sizeof key, "t@%s", many('v', 15));
  cr_assert_eq(update_sized("", key, "1", 600), -EINVAL);
  const char *bad_values[] = {"", " ", "a ", "a,b", "a=b", "a\tb", "\x7f", "\xc3\xa9"};
  for (size_t i = 0; i < sizeof bad_values / sizeof bad_values[0]; i++) {
    cr_assert_eq(update_sized("", "a", bad_values[i], RCTX_TRACESTATE_SIZE), -EINVAL, "%s", bad_values[i]);
  }
  cr_assert_gt(update_sized("", "a", many('x', 256), RCTX_TRACESTATE_SIZE), 0);
  cr_assert_eq(update_sized("", "a", many('x', 257), RCTX_TRACESTATE_SIZE), -EINVAL);
}

Test(tracestate, of_33_members_the_last_one_goes) {
  char expected[1000];
  cr_assert_gt(update_sized(members(1, 32), "own", "x", sizeof out), 0);
  snprintf(expected, sizeof expected, "own=x,%s", members(1, 31));
  cr_assert_str_eq(out, expected);
  cr_assert_eq(fault, RCTX_FAULT_LIMIT);
  cr_assert_gt(update_sized(members(1, 32), "bar32", "x", sizeof out), 0);
  snprintf(expected, sizeof expected, "bar32=x,%s", members(1, 31));
  cr_assert_str_eq(out, expected, "an older one of ours makes room itself");
  cr_assert_eq(fault, RCTX_FAULT_NONE);
  cr_assert_gt(update_sized(members(1, 31), "own", "x", sizeof out), 0);
  valid(out);
  cr_assert_eq(fault, RCTX_FAULT_NONE);
}

// Long members first, then from the right; whole ones.
Test(tracestate, what_does_not_fit_goes_by_the_rule) {
  char state[1200], expected[1200];
  snprintf(state, sizeof state, "long1=%s,a=1,long2=%s,b=2", many('x', 123), many('y', 123)); // 129 characters each
  int whole = (int)strlen(state);
  cr_assert_eq(update_sized(state, "", "", (size_t)whole + 1), whole, "all of it fits exactly");
  cr_assert_eq(fault, RCTX_FAULT_NONE);
  cr_assert_gt(update_sized(state, "", "", (size_t)whole), 0);
  snprintf(expected, sizeof expected, "long1=%s,a=1,b=2", many('x', 123));
  cr_assert_str_eq(out, expected, "the rightmost long one goes first");
  cr_assert_eq(fault, RCTX_FAULT_LIMIT);
  cr_assert_eq(update_sized(state, "", "", strlen(expected)), 7);
  cr_assert_str_eq(out, "a=1,b=2", "then the other");
  cr_assert_eq(update_sized(state, "", "", 7), 3);
  cr_assert_str_eq(out, "a=1", "then from the right");
  cr_assert_eq(update_sized(state, "", "", 3), 0);
  cr_assert_str_eq(out, "");
  snprintf(state, sizeof state, "l=%s,a=1", many('x', 126)); // 128 characters: not longer than 128
  cr_assert_eq(update_sized(state, "", "", strlen(state)), 128);
  cr_assert_eq(out[0], 'l');
}

Test(tracestate, ours_stays_however_long_it_is) {
  cr_assert_eq(update_sized("a=1,b=2", "own", many('x', 200), 205), 204);
  cr_assert_eq(strncmp(out, "own=xx", 6), 0);
  cr_assert_eq(fault, RCTX_FAULT_LIMIT);
  cr_assert_eq(update_sized("a=1,b=2", "own", many('x', 200), 204), -ENOSPC);
  cr_assert_eq(out[0], '#', "nothing is written");
}

Test(tracestate, every_size_of_the_buffer__WIRE_2) {
  const char *lists[] = {"own=x,a=1,b=2", "own=x,a=1", "own=x", NULL};
  for (size_t size = 0; size <= 20; size++) {
    int length = update_sized("a=1,b=2", "own", "x", size);
    int which = size > 13 ? 0 : size > 9 ? 1 : size > 5 ? 2 : 3;
    cr_assert_eq(length, lists[which] ? (int)strlen(lists[which]) : -ENOSPC, "size %zu", size);
    if (lists[which]) cr_assert_str_eq(out, lists[which]);
    for (size_t i = lists[which] ? (size_t)length + 1 : 0; i < 30; i++) cr_assert_eq(out[i], '#');
  }
  cr_assert_eq(rctx_tracestate_update(text(""), text(""), text(""), NULL, 0, NULL), -ENOSPC);
  cr_assert_eq(update_sized("", "", "", 1), 0);
}

Test(tracestate, at_least_512_characters_are_passed_on) {
  char state[600];
  snprintf(state, sizeof state, "a=%s,b=%s", many('x', 253), many('y', 254));
  cr_assert_eq(strlen(state), 512);
  becomes(state, "", "", state);
  cr_assert_eq(fault, RCTX_FAULT_NONE);
}

// Random lists against a plain check of what must hold of the result.
Test(tracestate, random_lists_stay_valid_and_in_order__WIRE_2) {
  struct rng rng;
  rng_init(&rng, seed_get());
  for (int round = 0; round < 3000; round++) {
    char state[8000];
    int at = 0, n = (int)rng_below(&rng, 33);
    state[0] = 0;
    for (int i = 0; i < n; i++) {
      at += snprintf(state + at, sizeof state - (size_t)at, "%s%ck%02d=%s%s", i ? "," : "",
                     'a' + (char)rng_below(&rng, 26), i, many('v', 1 + rng_below(&rng, rng_below(&rng, 4) ? 8 : 200)),
                     rng_below(&rng, 5) ? "" : " \t");
    }
    size_t size = 1 + rng_below(&rng, 700);
    int length = update_sized(state, "own", "x", size);
    if (size <= 5) {
      cr_assert_eq(length, -ENOSPC);
      continue;
    }
    cr_assert(length >= 5 && (size_t)length < size);
    valid(out);
    cr_assert_eq(strncmp(out, "own=x", 5), 0);
    int last = -1; // the members' numbers go up
    for (const char *p = out; (p = strchr(p, ',')) != NULL;) {
      int number = atoi(++p + 2);
      cr_assert_gt(number, last, "%s", out);
      last = number;
    }
  }
}

/* ---- from headers ------------------------------------------------------------------------------------------------ */

static int receive(size_t size) {
  memset(out, '#', sizeof out);
  memset(&trace, 0x55, sizeof trace);
  fault = RCTX_FAULTS;
  return rctx_trace_from_headers(headers(), &trace, size ? out : NULL, size, &fault);
}

Test(trace_headers, both) {
  header("traceparent", "00-" ID "-" SPAN "-00");
  header("tracestate", "foo=1,bar=2");
  cr_assert_eq(receive(RCTX_TRACESTATE_SIZE), 11);
  cr_assert_str_eq(out, "foo=1,bar=2");
  cr_assert_eq(trace.parent_id[7], 0x56);
  cr_assert_eq(fault, RCTX_FAULT_NONE);
  cr_assert_eq(receive(0), 0, "the list is not wanted");
}

Test(trace_headers, both_missing) {
  header("host", "example.org");
  cr_assert_eq(receive(RCTX_TRACESTATE_SIZE), -ENOENT);
  cr_assert_str_eq(out, "");
  cr_assert_eq(trace.flags, 0x55, "not written");
  cr_assert_eq(fault, RCTX_FAULT_NONE);
}

Test(trace_headers, test_traceparent_duplicated) {
  header("traceparent", "00-12345678901234567890123456789011-" SPAN "-01");
  header("traceparent", "00-12345678901234567890123456789012-" SPAN "-01");
  cr_assert_eq(receive(RCTX_TRACESTATE_SIZE), -EINVAL);
  cr_assert_eq(fault, RCTX_FAULT_DUPLICATE);
}

Test(trace_headers, test_traceparent_header_name) {
  const char *right[] = {"TraceParent", "TrAcEpArEnT", "TRACEPARENT"}, *wrong[] = {"trace-parent", "trace.parent"};
  for (int i = 0; i < 3; i++) {
    message_clear();
    header(right[i], "00-" ID "-" SPAN "-01");
    cr_assert_eq(receive(1), 0);
  }
  for (int i = 0; i < 2; i++) {
    message_clear();
    header(wrong[i], "00-" ID "-" SPAN "-01");
    cr_assert_eq(receive(1), -ENOENT);
  }
}

Test(trace_headers, test_traceparent_ows_handling) {
  const char *values[] = {" 00-" ID "-" SPAN "-01", "\t00-" ID "-" SPAN "-01", "00-" ID "-" SPAN "-01 ",
                          "00-" ID "-" SPAN "-01\t", "\t 00-" ID "-" SPAN "-01 \t"};
  for (int i = 0; i < 5; i++) {
    message_clear();
    header("traceparent", values[i]);
    cr_assert_eq(receive(1), 0);
  }
}

// A tracestate without a valid traceparent is not even looked at.
Test(trace_headers, test_tracestate_included_traceparent_missing_or_invalid) {
  uint64_t before = rctx_fault_count(RCTX_HEADER_TRACESTATE, RCTX_FAULT_NONE);
  header("tracestate", "foo=1,BAR=2");
  cr_assert_eq(receive(RCTX_TRACESTATE_SIZE), -ENOENT);
  cr_assert_str_eq(out, "");
  header("traceparent", "ff-" ID "-" SPAN "-00");
  cr_assert_eq(receive(RCTX_TRACESTATE_SIZE), -EINVAL);
  cr_assert_eq(fault, RCTX_FAULT_VERSION);
  cr_assert_str_eq(out, "");
  cr_assert_eq(rctx_fault_count(RCTX_HEADER_TRACESTATE, RCTX_FAULT_NONE), before);
}

// And an invalid tracestate does not hurt traceparent.
Test(trace_headers, an_invalid_tracestate_is_dropped_and_counted) {
  uint64_t before = rctx_fault_count(RCTX_HEADER_TRACESTATE, RCTX_FAULT_DUPLICATE);
  header("traceparent", "00-" ID "-" SPAN "-01");
  header("tracestate", "foo=1");
  header("tracestate", "foo=1");
  cr_assert_eq(receive(RCTX_TRACESTATE_SIZE), 0);
  cr_assert_str_eq(out, "");
  cr_assert_eq(fault, RCTX_FAULT_DUPLICATE);
  cr_assert_eq(trace.flags, RCTX_TRACE_SAMPLED);
  cr_assert_eq(rctx_fault_count(RCTX_HEADER_TRACESTATE, RCTX_FAULT_DUPLICATE), before + 1);
}

Test(trace_headers, test_tracestate_empty_header) {
  header("traceparent", "00-" ID "-" SPAN "-00");
  header("tracestate", "");
  cr_assert_eq(receive(RCTX_TRACESTATE_SIZE), 0);
  header("tracestate", "foo=1");
  cr_assert_eq(receive(RCTX_TRACESTATE_SIZE), 5);
  header("TraceState", "");
  cr_assert_eq(receive(RCTX_TRACESTATE_SIZE), 5);
  cr_assert_str_eq(out, "foo=1");
}

Test(trace_headers, test_tracestate_multiple_headers_different_keys) {
  header("traceparent", "00-" ID "-" SPAN "-00");
  header("tracestate", "foo=1,bar=2");
  header("other", "x=1");
  header("TRACESTATE", "rojo=1,congo=2");
  header("tracestate", "baz=3");
  cr_assert_gt(receive(RCTX_TRACESTATE_SIZE), 0);
  cr_assert_str_eq(out, "foo=1,bar=2,rojo=1,congo=2,baz=3");
}

Test(trace_headers, test_tracestate_member_count_limit) {
  header("traceparent", "00-" ID "-" SPAN "-00");
  header("tracestate", members(1, 10));
  header("tracestate", members(11, 20));
  header("tracestate", members(21, 30));
  header("tracestate", members(31, 32));
  cr_assert_eq(receive(RCTX_TRACESTATE_SIZE), (int)strlen(members(1, 32)));
  cr_assert_str_eq(out, members(1, 32));
  header("tracestate", members(33, 33));
  cr_assert_eq(receive(RCTX_TRACESTATE_SIZE), 0);
  cr_assert_eq(fault, RCTX_FAULT_LIMIT);
}

Test(trace_headers, the_limit_of_bytes_is_for_all_headers_together) {
  header("traceparent", "00-" ID "-" SPAN "-00");
  header("tracestate", many(',', 4096));
  header("tracestate", many(',', 4095));
  cr_assert_eq(receive(RCTX_TRACESTATE_SIZE), 0);
  cr_assert_eq(fault, RCTX_FAULT_NONE, "8192 with the comma between them");
  message.count--;
  header("tracestate", many(',', 4096));
  cr_assert_eq(receive(RCTX_TRACESTATE_SIZE), 0);
  cr_assert_eq(fault, RCTX_FAULT_LIMIT);
}

Test(trace_headers, a_list_that_does_not_fit_is_shortened) {
  uint64_t before = rctx_fault_count(RCTX_HEADER_TRACESTATE, RCTX_FAULT_LIMIT);
  header("traceparent", "00-" ID "-" SPAN "-00");
  header("tracestate", "foo=1,bar=2");
  cr_assert_eq(receive(11), 5);
  cr_assert_str_eq(out, "foo=1");
  cr_assert_eq(fault, RCTX_FAULT_LIMIT);
  cr_assert_eq(receive(1), 0);
  cr_assert_str_eq(out, "");
  cr_assert_eq(rctx_fault_count(RCTX_HEADER_TRACESTATE, RCTX_FAULT_LIMIT), before + 2);
}

Test(trace_headers, an_invalid_traceparent_is_counted) {
  uint64_t before = rctx_fault_count(RCTX_HEADER_TRACEPARENT, RCTX_FAULT_ZERO);
  header("traceparent", "00-00000000000000000000000000000000-" SPAN "-01");
  for (int i = 0; i < 3; i++) cr_assert_eq(receive(1), -EINVAL);
  cr_assert_eq(rctx_fault_count(RCTX_HEADER_TRACEPARENT, RCTX_FAULT_ZERO), before + 3);
}
