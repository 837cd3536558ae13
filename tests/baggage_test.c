// Baggage on the wire (propagate.h): reading, percent-encoding, writing, and a context's values. The vectors are those
// of W3C's own test suite (baggage, test/test_baggage.py) and of the specification's examples.
#include "support/check.h"
#include "support/fake_time.h"
#include "support/seed.h"
#include "support/texts.h"

#include <stdio.h>

TestSuite(baggage, .fini = texts_free, .timeout = 60);
static void close_all(void) {
  texts_free();
  fake_close();
}
TestSuite(baggage_values, .init = fake_open, .fini = close_all, .timeout = 60);

/* ---- reading ----------------------------------------------------------------------------------------------------- */

static struct rctx_baggage_reader reader;
static struct rctx_baggage_member member;

// What was read, written plainly: key=value;property;property=value| for each member.
static const char *all_read(void) {
  static char plain[20000];
  int at = 0;
  plain[0] = 0;
#define SAY(t) at += snprintf(plain + at, sizeof plain - (size_t)at, "%.*s", (int)(t).length, (t).at)
  while (rctx_baggage_next(&reader, &member)) {
    struct rctx_text properties = member.properties, key, value;
    SAY(member.key);
    SAY(rctx_text_of("="));
    SAY(member.value);
    while (rctx_baggage_property(&properties, &key, &value)) {
      SAY(rctx_text_of(";"));
      SAY(key);
      if (value.at) SAY(rctx_text_of("="));
      SAY(value);
    }
    cr_assert_eq(properties.length, 0, "all properties of a member that is given out are read");
    SAY(rctx_text_of("|"));
  }
#undef SAY
  return plain;
}

static void reads(const char *value, const char *expected) {
  reader = rctx_baggage_read_text(text(value));
  const char *got = all_read();
  cr_assert_str_eq(got, expected, "'%s' gives '%s'", value, got);
}

static void refuses(const char *value) {
  reads(value, "");
  cr_assert_eq(reader.refused, 1, "'%s'", value);
  cr_assert_eq(reader.fault, RCTX_FAULT_SYNTAX);
  cr_assert_not(reader.cut);
}

Test(baggage, test_parse) {
  reads("", "");
  reads("SomeKey=SomeValue", "SomeKey=SomeValue|");
  reads("SomeKey=SomeValue,SomeKey2=SomeValue2", "SomeKey=SomeValue|SomeKey2=SomeValue2|");
  reads("SomeKey \t = \t SomeValue \t , \t SomeKey2 \t = \t SomeValue2 \t ", "SomeKey=SomeValue|SomeKey2=SomeValue2|");
  reads("SomeKey=SomeValue=equals", "SomeKey=SomeValue=equals|");
  cr_assert_eq(reader.members, 1);
  cr_assert_eq(reader.refused, 0);
  cr_assert_eq(reader.fault, RCTX_FAULT_NONE);
}

Test(baggage, test_parse_properties) {
  reads("SomeKey=SomeValue;SomeProp", "SomeKey=SomeValue;SomeProp|");
  reads("SomeKey=SomeValue;SomeProp;SecondProp=PropValue", "SomeKey=SomeValue;SomeProp;SecondProp=PropValue|");
  reads("SomeKey=SomeValue;SomeProp,SomeKey2=SomeValue2;ValueProp=PropVal",
        "SomeKey=SomeValue;SomeProp|SomeKey2=SomeValue2;ValueProp=PropVal|");
  reads("SomeKey \t = \t SomeValue \t ; \t SomeProp \t , \t SomeKey2 \t = \t SomeValue2 \t ; \t ValueProp \t = \t "
        "PropVal",
        "SomeKey=SomeValue;SomeProp|SomeKey2=SomeValue2;ValueProp=PropVal|");
  reads("SomeKey \t = \t SomeValue \t ; \t SomePropKey=SomePropValue \t , \t SomeKey2 \t = \t SomeValue2 \t ; \t "
        "SomePropKey2 \t = \t SomePropValue2",
        "SomeKey=SomeValue;SomePropKey=SomePropValue|SomeKey2=SomeValue2;SomePropKey2=SomePropValue2|");
  reads("k=v;p=a=b;q=", "k=v;p=a=b;q=|");
}

// The specification's examples.
Test(baggage, published_examples) {
  reads("key1=value1;property1;property2, key2 = value2, key3=value3; propertyKey=propertyValue",
        "key1=value1;property1;property2|key2=value2|key3=value3;propertyKey=propertyValue|");
  cr_assert_eq(reader.bytes, 86);
  reads("userId=alice,serverNode=DF%2028,isProduction=false", "userId=alice|serverNode=DF%2028|isProduction=false|");
  reads("userId =   alice", "userId=alice|");
  reads("serverNode = DF%2028, isProduction = false", "serverNode=DF%2028|isProduction=false|");
}

Test(baggage, an_empty_value_is_a_value) {
  reads("a=", "a=|");
  reads("a= \t ;p", "a=;p|");
  reads("a=,b=", "a=|b=|");
}

Test(baggage, empty_members_are_none) {
  reads(",", "");
  reads(" , ,\t,", "");
  reads(",,a=1,, ,b=2,", "a=1|b=2|");
  cr_assert_eq(reader.refused, 0);
}

Test(baggage, the_same_key_comes_as_often_as_it_is_there_in_order) { reads("a=1,b=2,a=3,a=1", "a=1|b=2|a=3|a=1|"); }

Test(baggage, what_is_not_of_the_grammar_is_refused) {
  refuses("a");
  refuses("=1");
  refuses(" =1");
  refuses("a b=1");
  refuses("a=b c");
  refuses("a=\"b\"");
  refuses("a=b\\c");
  refuses("a=\x7f");
  refuses("a=\xc3\xa9");
  refuses("\xc3\xa9=1");
  refuses("a(b)=1");
  refuses("a=1;");
  refuses("a=1;;p");
  refuses("a=1; ;p");
  refuses("a=1;=p");
  refuses("a=1;p q");
  refuses("a=1;p=q r");
  refuses("a=1;p=\"q\"");
  refuses(";p=1");
  refuses("a;p=1");
}

Test(baggage, one_that_is_refused_takes_no_other_with_it) {
  reads("a=1,b,c=\"x\",d=4;p", "a=1|d=4;p|");
  cr_assert_eq(reader.refused, 2);
  cr_assert_eq(reader.members, 2);
}

Test(baggage, every_byte_in_a_key_a_value_and_a_property__WIRE_1) {
  for (int byte = 0; byte < 256; byte++) {
    bool printable = byte > 0x20 && byte < 0x7f, space = byte == ' ' || byte == '\t';
    bool token = printable && strchr("\"(),/:;<=>?@[\\]{}", byte) == NULL;
    bool octet = printable && strchr("\",;\\", byte) == NULL;
    const struct {
      size_t at;
      bool is_valid;
    } places[] = {
        {1, token}, {5, octet}, {9, token}, {13, octet}}; // = in a key, , and ; elsewhere change what the rest is
    for (int i = 0; i < 4; i++) {
      char value[] = "aXb=cXd;eXf=gXh";
      value[1] = value[5] = value[9] = value[13] = 'x';
      value[places[i].at] = (char)byte;
      reader = rctx_baggage_read_text(boxed(value, sizeof value - 1));
      bool is_read = rctx_baggage_next(&reader, &member);
      bool splits = byte == ',' || (byte == ';' && i != 0) || byte == '=';
      if (splits) continue;
      cr_assert_eq(is_read, places[i].is_valid, "byte %d at %zu", byte, places[i].at);
      cr_assert_not(is_read && space);
    }
  }
}

Test(baggage, reads_no_further_than_told__WIRE_1) {
  const char *value = "key=value;p=q,key2=value2;r";
  for (size_t n = 0; n <= strlen(value); n++) {
    reader = rctx_baggage_read_text(boxed(value, n));
    all_read();
    cr_assert_eq(reader.members + reader.refused, n > 14 ? 2u : n > 0 ? 1u : 0u, "%zu", n);
  }
  reader = rctx_baggage_read_text((struct rctx_text){NULL, 0});
  cr_assert_not(rctx_baggage_next(&reader, &member));
  cr_assert_not(rctx_baggage_next(&reader, &member), "the end stays the end");
}

Test(baggage, properties_alone) {
  struct rctx_text properties = text("a; b=1 ;c"), key, value;
  cr_assert(rctx_baggage_property(&properties, &key, &value));
  cr_assert(text_is(key, "a"));
  cr_assert_null(value.at);
  cr_assert(rctx_baggage_property(&properties, &key, &value));
  cr_assert(text_is(key, "b") && text_is(value, "1"));
  cr_assert(rctx_baggage_property(&properties, &key, &value));
  cr_assert(text_is(key, "c"));
  cr_assert_not(rctx_baggage_property(&properties, &key, &value));
  properties = text("a b;c");
  cr_assert_not(rctx_baggage_property(&properties, &key, &value), "not of the grammar");
  cr_assert(text_is(properties, "a b;c"), "nothing is taken");
  cr_assert(text_is(key, "c"), "nothing is written");
}

/* ---- limits ------------------------------------------------------------------------------------------------------ */

static const char *counted_members(int n) {
  static char value[9000];
  int at = 0;
  value[0] = 0;
  for (int i = 0; i < n; i++) at += snprintf(value + at, sizeof value - (size_t)at, "%skey%d=value", i ? "," : "", i);
  return value;
}

Test(baggage, test_serialize_at_least_64_and_not_more) {
  reader = rctx_baggage_read_text(text(counted_members(64)));
  all_read();
  cr_assert_eq(reader.members, 64);
  cr_assert_not(reader.cut);
  reader = rctx_baggage_read_text(text(counted_members(65)));
  all_read();
  cr_assert_eq(reader.members, 64);
  cr_assert(reader.cut);
  cr_assert_eq(reader.fault, RCTX_FAULT_LIMIT);
  cr_assert_not(rctx_baggage_next(&reader, &member));
  char with_empty[9000];
  snprintf(with_empty, sizeof with_empty, "%s, ,,", counted_members(64));
  reader = rctx_baggage_read_text(text(with_empty));
  all_read();
  cr_assert_not(reader.cut, "empty members are none");
}

static bool reads_whole(const char *value, size_t length) {
  reader = rctx_baggage_read_text(boxed(value, length));
  while (rctx_baggage_next(&reader, &member)) {
  }
  return !reader.cut;
}

Test(baggage, test_serialize_long_entry) {
  char value[RCTX_BAGGAGE_BYTES_MAX + 10];
  memset(value, '0', sizeof value);
  memcpy(value, "a=", 2);
  cr_assert(reads_whole(value, RCTX_BAGGAGE_BYTES_MAX));
  cr_assert_eq(reader.members, 1);
  cr_assert_not(reads_whole(value, RCTX_BAGGAGE_BYTES_MAX + 1));
  cr_assert_eq(reader.members, 0, "never partial");
  memcpy(value + 8000, ",b=", 3);
  cr_assert(reads_whole(value, RCTX_BAGGAGE_BYTES_MAX));
  cr_assert_eq(reader.members, 2);
  cr_assert_not(reads_whole(value, RCTX_BAGGAGE_BYTES_MAX + 1));
  cr_assert_eq(reader.members, 1, "those before are whole");
  value[RCTX_BAGGAGE_BYTES_MAX] = ',';
  cr_assert(reads_whole(value, RCTX_BAGGAGE_BYTES_MAX + 1), "nothing is behind this comma");
  cr_assert_eq(reader.members, 2);
  value[RCTX_BAGGAGE_BYTES_MAX + 1] = 'c';
  cr_assert_not(reads_whole(value, RCTX_BAGGAGE_BYTES_MAX + 2));
  cr_assert_eq(reader.members, 2);
}

Test(baggage, a_huge_length_is_not_walked__WIRE_1) {
  static char value[RCTX_BAGGAGE_BYTES_MAX + 2];
  memset(value, ',', sizeof value);
  reader = rctx_baggage_read_text((struct rctx_text){value, SIZE_MAX / 2}); // nothing there behind the first 8193
  cr_assert_not(rctx_baggage_next(&reader, &member));
  cr_assert(reader.cut);
  cr_assert_eq(reader.bytes, RCTX_BAGGAGE_BYTES_MAX);
  memset(value, 'a', sizeof value);
  reader = rctx_baggage_read_text((struct rctx_text){value, SIZE_MAX / 2});
  cr_assert_not(rctx_baggage_next(&reader, &member));
  cr_assert(reader.cut);
}

Test(baggage, limits_are_for_all_headers_together) {
  header("baggage", counted_members(40));
  header("Baggage", counted_members(24));
  reader = rctx_baggage_read(headers());
  all_read();
  cr_assert_eq(reader.members, 64);
  cr_assert_not(reader.cut);
  header("BAGGAGE", "one=more");
  reader = rctx_baggage_read(headers());
  all_read();
  cr_assert_eq(reader.members, 64);
  cr_assert(reader.cut);
  message_clear();
  header("baggage", many(',', 4096));
  header("baggage", many(',', 4091));
  header("baggage", "a=1"); // with two commas between: 8192
  reader = rctx_baggage_read(headers());
  cr_assert_str_eq(all_read(), "a=1|");
  cr_assert_eq(reader.bytes, RCTX_BAGGAGE_BYTES_MAX);
  message.array[1].value = text(many(',', 4092));
  reader = rctx_baggage_read(headers());
  cr_assert_str_eq(all_read(), "");
  cr_assert(reader.cut);
}

Test(baggage, several_headers_are_one_list) {
  header("baggage", "userId=alice");
  header("other", "x=1");
  header("baggage", "");
  header("baggage", " serverNode=DF%2028,isProduction=false ");
  reader = rctx_baggage_read(headers());
  cr_assert_str_eq(all_read(), "userId=alice|serverNode=DF%2028|isProduction=false|");
}

Test(baggage, refused_members_of_headers_are_counted) {
  uint64_t syntax = rctx_fault_count(RCTX_HEADER_BAGGAGE, RCTX_FAULT_SYNTAX);
  uint64_t limit = rctx_fault_count(RCTX_HEADER_BAGGAGE, RCTX_FAULT_LIMIT);
  header("baggage", "a=1,b,c,d=4");
  header("baggage", counted_members(63));
  reader = rctx_baggage_read(headers());
  all_read();
  cr_assert_eq(reader.refused, 2);
  cr_assert_eq(rctx_fault_count(RCTX_HEADER_BAGGAGE, RCTX_FAULT_SYNTAX), syntax + 2);
  cr_assert_eq(rctx_fault_count(RCTX_HEADER_BAGGAGE, RCTX_FAULT_LIMIT), limit + 1);
  refuses("b");
  cr_assert_eq(rctx_fault_count(RCTX_HEADER_BAGGAGE, RCTX_FAULT_SYNTAX), syntax + 2, "a single text counts nothing");
}

/* ---- percent-encoding -------------------------------------------------------------------------------------------- */

static char out[RCTX_BAGGAGE_SIZE + 16];

static void decodes(const char *value, const char *expected) {
  memset(out, '#', sizeof out);
  int length = rctx_baggage_decode(text(value), out, strlen(value) + 1);
  cr_assert_eq(length, (int)strlen(expected), "'%s': %d", value, length);
  cr_assert_str_eq(out, expected);
}

#define BAD "\xef\xbf\xbd" // U+FFFD

Test(baggage, decodes_utf_8) {
  decodes("", "");
  decodes("alice", "alice");
  decodes("DF%2028", "DF 28");
  decodes("%09%20%22%27%3B%3Dasdf%21%40%23%24%25%5E%26%2A%28%29", "\t \"';=asdf!@#$%^&*()");
  decodes("%c3%A9%E2%82%ac%F0%9F%98%80", "\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80");
  decodes("a+b", "a+b"); // this is not a form
}

Test(baggage, a_percent_sign_without_two_digits_stays) {
  decodes("%", "%");
  decodes("%4", "%4");
  decodes("100%", "100%");
  decodes("%zz%4g%g4", "%zz%4g%g4");
  decodes("%%41", "%A");
  decodes("%4%41", "%4A");
}

// Unicode's own examples (table 3-8 and those before it): one U+FFFD for each longest piece that could begin a
// character.
Test(baggage, what_is_no_utf_8_becomes_u_fffd) {
  decodes("%80", BAD);
  decodes("%C0%AF%E0%80%BF%F0%81%82%41", BAD BAD BAD BAD BAD BAD BAD BAD "A");
  decodes("%ED%A0%80%ED%BF%BF%ED%AF%41", BAD BAD BAD BAD BAD BAD BAD BAD "A");
  decodes("%F4%91%92%93%FF%41%80%BF%42", BAD BAD BAD BAD BAD "A" BAD BAD "B");
  decodes("%E1%80%E2%F0%91%92%F1%BF%41", BAD BAD BAD BAD "A");
  decodes("%61%F1%80%80%E1%80%C2%62%80%63%80%BF%64", "a" BAD BAD BAD "b" BAD "c" BAD BAD "d");
  decodes("%E2%82", BAD);
  decodes("%C1%BF%C2%80", BAD BAD "\xc2\x80");
  decodes("%E2x", BAD "x");
  decodes("%F4%8F%BF%BF", "\xf4\x8f\xbf\xbf");
  decodes("%F4%90%80%80", BAD BAD BAD BAD);
  decodes("%EE%80%80%EF%BF%BF", "\xee\x80\x80\xef\xbf\xbf");
}

Test(baggage, a_nul_is_a_byte_like_others) {
  cr_assert_eq(rctx_baggage_decode(text("a%00b"), out, 4), 3);
  cr_assert_eq(memcmp(out, "a\0b", 4), 0);
}

Test(baggage, decoding_every_size_of_the_buffer__WIRE_2) {
  for (size_t size = 0; size <= 12; size++) {
    memset(out, '#', sizeof out);
    int length = rctx_baggage_decode(text("a%FFb%20c"), out, size); // 7 bytes
    cr_assert_eq(length, size > 7 ? 7 : -ENOSPC);
    if (length > 0) cr_assert_str_eq(out, "a" BAD "b c");
    for (size_t i = length > 0 ? 8 : 0; i < 16; i++) cr_assert_eq(out[i], '#');
  }
  cr_assert_eq(rctx_baggage_decode(text("a"), NULL, 0), -ENOSPC);
  static const char raw[] = "\xff\xff"; // not of the grammar: grows
  cr_assert_eq(rctx_baggage_decode((struct rctx_text){raw, 2}, out, 6), -ENOSPC);
  cr_assert_eq(rctx_baggage_decode((struct rctx_text){raw, 2}, out, 7), 6);
}

Test(baggage, more_than_8192_characters_are_not_decoded__WIRE_1) {
  char value[RCTX_BAGGAGE_BYTES_MAX + 1];
  memset(value, 'x', sizeof value);
  cr_assert_eq(rctx_baggage_decode(boxed(value, RCTX_BAGGAGE_BYTES_MAX), out, sizeof out), RCTX_BAGGAGE_BYTES_MAX);
  cr_assert_eq(rctx_baggage_decode(boxed(value, RCTX_BAGGAGE_BYTES_MAX + 1), out, sizeof out), -EINVAL);
}

/* ---- writing ----------------------------------------------------------------------------------------------------- */

static struct rctx_baggage writer;

static int add(const char *key, const char *value, const char *properties) {
  return rctx_baggage_add(&writer, text(key), text(value), text(properties));
}

Test(baggage, members_are_appended_and_values_encoded) {
  writer = rctx_baggage_begin(out, sizeof out);
  cr_assert_str_eq(out, "", "nothing to send");
  cr_assert_eq(add("userId", "alice", ""), 0);
  cr_assert_str_eq(out, "userId=alice");
  cr_assert_eq(add("serverNode", "DF 28", "p;q=1"), 0);
  cr_assert_eq(add("empty", "", ""), 0);
  cr_assert_str_eq(out, "userId=alice,serverNode=DF%2028;p;q=1,empty=");
  cr_assert_eq(writer.length, strlen(out));
  cr_assert_eq(writer.members, 3);
  cr_assert_eq(writer.dropped, 0);
  cr_assert_eq(add("k", "\t \"',;=\\%\xc3\xa9\x7f", ""), 0);
  cr_assert_str_eq(strrchr(out, ',') + 1, "k=%09%20%22'%2C%3B=%5C%25%C3%A9%7F");
}

Test(baggage, the_same_key_may_be_written_twice) {
  writer = rctx_baggage_begin(out, sizeof out);
  cr_assert_eq(add("a", "1", ""), 0);
  cr_assert_eq(add("a", "1", ""), 0);
  cr_assert_str_eq(out, "a=1,a=1");
}

Test(baggage, what_is_not_of_the_grammar_is_not_written) {
  writer = rctx_baggage_begin(out, sizeof out);
  cr_assert_eq(add("a", "1", ""), 0);
  cr_assert_eq(add("", "1", ""), -EINVAL);
  cr_assert_eq(add("a b", "1", ""), -EINVAL);
  cr_assert_eq(add("a=", "1", ""), -EINVAL);
  cr_assert_eq(add("a,b", "1", ""), -EINVAL);
  cr_assert_eq(add("\xc3\xa9", "1", ""), -EINVAL);
  cr_assert_eq(add("a", "1", ";p"), -EINVAL);
  cr_assert_eq(add("a", "1", "p,b=2"), -EINVAL);
  cr_assert_eq(add("a", "1", "p;"), -EINVAL);
  cr_assert_eq(add("a", "1", "p=q r"), -EINVAL);
  struct rctx_baggage_member forged = {text("a"), text("1,b=2"), text("")};
  cr_assert_eq(rctx_baggage_copy(&writer, &forged), -EINVAL, "what is copied is looked at, too");
  cr_assert_str_eq(out, "a=1");
  cr_assert_eq(writer.dropped, 10);
}

Test(baggage, every_size_of_the_buffer__WIRE_2) {
  const char *whole = "a=1;p,b=%20,c="; // 5, 11, 14
  for (size_t size = 0; size <= 18; size++) {
    char *buf = malloc(size + 1);
    memset(buf, '#', size + 1);
    writer = rctx_baggage_begin(size ? buf : NULL, size);
    int first = add("a", "1", "p"), second = add("b", " ", ""), third = add("c", "", "");
    cr_assert_eq(first, size > 5 ? 0 : -ENOSPC);
    size_t after_first = first ? 0 : 5, of_second = first ? 5 : 6;
    cr_assert_eq(second, size > after_first + of_second ? 0 : -ENOSPC, "size %zu", size);
    if (size > 14) cr_assert_str_eq(buf, whole);
    cr_assert_eq(writer.members + writer.dropped, 3);
    cr_assert_eq((int)writer.dropped, (first != 0) + (second != 0) + (third != 0));
    if (size) cr_assert_eq(strlen(buf), writer.length);
    for (size_t i = size; i <= size; i++) cr_assert_eq(buf[i], '#', "nothing beyond");
    free(buf);
  }
}

Test(baggage, a_member_that_does_not_fit_leaves_room_for_a_smaller_one) {
  writer = rctx_baggage_begin(out, 12);
  cr_assert_eq(add("a", "1", ""), 0);
  cr_assert_eq(add("longer", "value", ""), -ENOSPC);
  cr_assert_eq(add("b", "  ", ""), -ENOSPC, "it would fit before it is encoded");
  cr_assert_eq(add("b", "22", ""), 0);
  cr_assert_str_eq(out, "a=1,b=22");
}

Test(baggage, at_most_64_members_and_8192_bytes_are_written) {
  char big[20000];
  writer = rctx_baggage_begin(big, sizeof big);
  for (int i = 0; i < 64; i++) cr_assert_eq(add("k", "v", ""), 0);
  cr_assert_eq(add("k", "v", ""), -ENOSPC);
  cr_assert_eq(writer.dropped, 1);
  writer = rctx_baggage_begin(big, sizeof big);
  cr_assert_eq(add("a", many('0', 8190), ""), 0, "8192 in all");
  cr_assert_eq(writer.length, 8192);
  writer = rctx_baggage_begin(big, sizeof big);
  cr_assert_eq(add("a", many('0', 8191), ""), -ENOSPC);
  cr_assert_eq(add("a", many('0', 8185), ""), 0);
  cr_assert_eq(add("b", "12", ""), 0);
  cr_assert_eq(writer.length, 8192);
  cr_assert_eq(add("c", "", ""), -ENOSPC);
  struct rctx_text huge = {big, SIZE_MAX - 1};
  cr_assert_eq(rctx_baggage_add(&writer, text("k"), huge, text("")), -ENOSPC, "no sum of lengths overflows");
}

Test(baggage, what_is_written_is_read_again__WIRE_2) {
  struct rng rng;
  rng_init(&rng, seed_get());
  for (int round = 0; round < 2000; round++) {
    char values[8][40], decoded[40];
    size_t lengths[8];
    int n = (int)rng_below(&rng, 9);
    writer = rctx_baggage_begin(out, sizeof out);
    for (int i = 0; i < n; i++) {
      char key[16];
      snprintf(key, sizeof key, "k%d", i);
      lengths[i] = rng_below(&rng, 30);
      for (size_t b = 0; b < lengths[i]; b++) values[i][b] = (char)rng_below(&rng, 128);
      cr_assert_eq(rctx_baggage_add(&writer, text(key), boxed(values[i], lengths[i]), text("")), 0);
    }
    reader = rctx_baggage_read_text((struct rctx_text){out, writer.length});
    for (int i = 0; i < n; i++) {
      cr_assert(rctx_baggage_next(&reader, &member), "%s", out);
      cr_assert_eq(rctx_baggage_decode(member.value, decoded, sizeof decoded), (int)lengths[i]);
      cr_assert_eq(memcmp(decoded, values[i], lengths[i]), 0);
    }
    cr_assert_not(rctx_baggage_next(&reader, &member));
  }
}

/* ---- passing on -------------------------------------------------------------------------------------------------- */

Test(baggage, forwarding_keeps_order_and_duplicates) {
  header("baggage", " a = 1 ; p ,b,c=%41");
  header("baggage", "a=2,a=1");
  writer = rctx_baggage_begin(out, sizeof out);
  cr_assert_eq(rctx_baggage_forward(&writer, headers()), 0);
  cr_assert_str_eq(out, "a=1;p,c=%41,a=2,a=1", "as it was on the wire, but for space and what was refused");
}

Test(baggage, what_we_say_replaces_what_was_received) {
  header("baggage", "a=1,b=2,a=3,aa=4,A=5");
  writer = rctx_baggage_begin(out, sizeof out);
  cr_assert_eq(add("a", "ours", ""), 0);
  cr_assert_eq(add("z", "ours", ""), 0);
  cr_assert_eq(rctx_baggage_forward(&writer, headers()), 0);
  cr_assert_str_eq(out, "a=ours,z=ours,b=2,aa=4,A=5", "keys have a case");
}

Test(baggage, forwarding_drops_whole_members) {
  header("baggage", "a=1,bb=22,c=3");
  writer = rctx_baggage_begin(out, 9);
  cr_assert_eq(rctx_baggage_forward(&writer, headers()), 1);
  cr_assert_str_eq(out, "a=1,c=3");
  cr_assert_eq(writer.dropped, 1);
}

Test(baggage, a_member_that_was_read_can_be_chosen_and_copied) {
  writer = rctx_baggage_begin(out, sizeof out);
  reader = rctx_baggage_read_text(text("secret=1,open= %20 ; p = 1 ; q,x=1"));
  while (rctx_baggage_next(&reader, &member)) {
    if (text_is(member.key, "open")) cr_assert_eq(rctx_baggage_copy(&writer, &member), 0);
  }
  cr_assert_str_eq(out, "open=%20;p = 1 ; q", "properties are kept as they came");
  reader = rctx_baggage_read_text((struct rctx_text){out, writer.length});
  cr_assert_str_eq(all_read(), "open=%20;p=1;q|");
}

/* ---- a context's values ------------------------------------------------------------------------------------------ */

RCTX_KEY_FULL(user, const char *, NULL, RCTX_KEY_PROPAGATED, "who asks: for access checks everywhere")
RCTX_KEY_FULL(tenant, long, NULL, RCTX_KEY_PROPAGATED | RCTX_KEY_LOGGABLE, "whose data")
RCTX_KEY_FULL(trial, bool, NULL, RCTX_KEY_PROPAGATED, "whether this is a trial run")
RCTX_KEY_FULL(object, struct rctx_baggage *, NULL, RCTX_KEY_PROPAGATED, "has no print")
RCTX_KEY(session, const char *, "a secret")
RCTX_KEY_LOGGED(logged, const char *, "for logs only")

static unsigned dropped;

static const char *from(const rctx *ctx, size_t size) {
  memset(out, '#', sizeof out);
  dropped = 1000;
  int length = rctx_baggage_from(ctx, out, size, &dropped);
  cr_assert_eq(length, (int)strlen(out), "%d", length);
  cr_assert_lt(strlen(out), size);
  return out;
}

Test(baggage_values, only_those_marked_leave_the_process__WIRE_4) {
  RCTX_SCOPED rctx *a = user_with(fake_root(), "ann lee");
  RCTX_SCOPED rctx *b = session_with(a, "hunter2");
  RCTX_SCOPED rctx *c = logged_with(b, "x");
  RCTX_SCOPED rctx *d = tenant_with(c, -42);
  RCTX_SCOPED rctx *e = trial_with(d, true);
  cr_assert_str_eq(from(e, sizeof out), "trial=true,tenant=-42,user=ann%20lee", "nearest first");
  cr_assert_eq(dropped, 0);
  cr_assert_str_eq(from(c, sizeof out), "user=ann%20lee");
  cr_assert_str_eq(from(fake_root(), sizeof out), "", "nothing to send");
}

Test(baggage_values, only_visible_ones_leave) {
  RCTX_SCOPED rctx *a = user_with(fake_root(), "ann");
  RCTX_SCOPED rctx *b = tenant_with(a, 1);
  RCTX_SCOPED rctx *c = user_with(b, "bob");
  RCTX_SCOPED rctx *d = user_with(c, NULL);
  cr_assert_str_eq(from(c, sizeof out), "user=bob,tenant=1");
  cr_assert_str_eq(from(d, sizeof out), "tenant=1", "a NULL shadows, and says nothing");
  cr_assert_eq(dropped, 0);
  RCTX_SCOPED rctx *e = tenant_with(d, 0);
  cr_assert_str_eq(from(e, sizeof out), "tenant=0", "a number of 0 is no NULL");
  rctx_cancel(e);
  cr_assert_str_eq(from(e, sizeof out), "tenant=0", "values outlast the end");
}

static size_t print_odd(const void *value, char *buf, size_t size) {
  return (size_t)snprintf(buf, size, "<%s>", (const char *)value);
}

Test(baggage_values, what_has_no_print_or_no_name_is_dropped) {
  static const struct rctx_key nameless = {.print = print_odd, .flags = RCTX_KEY_PROPAGATED};
  static const struct rctx_key spaced = {.name = "two words", .print = print_odd, .flags = RCTX_KEY_PROPAGATED};
  static const struct rctx_key odd = {.name = "odd", .print = print_odd, .flags = RCTX_KEY_PROPAGATED};
  char value[] = "v\xff";
  RCTX_SCOPED rctx *a = object_with(fake_root(), &writer);
  RCTX_SCOPED rctx *b = rctx_with_value(a, &nameless, value);
  RCTX_SCOPED rctx *c = rctx_with_value(b, &spaced, value);
  RCTX_SCOPED rctx *d = rctx_with_value(c, &odd, value);
  cr_assert_str_eq(from(d, sizeof out), "odd=<v%FF>");
  cr_assert_eq(dropped, 3);
}

Test(baggage_values, every_size_of_the_buffer__WIRE_2) {
  RCTX_SCOPED rctx *a = user_with(fake_root(), "a b"); // user=a%20b: 10
  RCTX_SCOPED rctx *b = tenant_with(a, 7);             // tenant=7: 8
  cr_assert_eq(rctx_baggage_from(b, NULL, 0, NULL), -ENOSPC);
  for (size_t size = 1; size <= 24; size++) {
    char *buf = malloc(size);
    int length = rctx_baggage_from(b, buf, size, &dropped);
    const char *expected = size > 19 ? "tenant=7,user=a%20b" : size > 8 ? "tenant=7" : "";
    cr_assert_eq(length, (int)strlen(expected), "size %zu", size);
    cr_assert_str_eq(buf, expected);
    cr_assert_eq(dropped, size > 19 ? 0u : size > 8 ? 1u : 2u);
    free(buf);
  }
}

Test(baggage_values, a_value_may_be_as_long_as_the_limit) {
  RCTX_SCOPED rctx *fits = user_with(fake_root(), many('u', 8187));
  RCTX_SCOPED rctx *spread = user_with(fake_root(), many(' ', 2729));
  RCTX_SCOPED rctx *too_long = user_with(fake_root(), many('u', 8188));
  RCTX_SCOPED rctx *spread_too_far = user_with(fake_root(), many(' ', 2730));
  cr_assert_eq(strlen(from(fits, sizeof out)), 8192);
  cr_assert_eq(strlen(from(spread, sizeof out)), 8192);
  cr_assert_eq(memcmp(out, "user=%20%20", 11), 0);
  cr_assert_str_eq(from(too_long, sizeof out), "");
  cr_assert_str_eq(from(spread_too_far, sizeof out), "");
  cr_assert_eq(dropped, 1);
}

Test(baggage_values, values_before_what_was_received) {
  header("baggage", "user=mallory,color=blue");
  RCTX_SCOPED rctx *c = user_with(fake_root(), "ann");
  writer = rctx_baggage_begin(out, sizeof out);
  cr_assert_eq(rctx_baggage_add_values(&writer, c), 0);
  cr_assert_eq(rctx_baggage_forward(&writer, headers()), 0);
  cr_assert_str_eq(out, "user=ann,color=blue");
}

Test(baggage_values, of_more_than_64_the_nearest_leave) {
  static struct rctx_key keys[70];
  static char names[70][16];
  rctx *c = rctx_with_cancel(fake_root()), *chain[70];
  for (int i = 0; i < 70; i++) {
    snprintf(names[i], sizeof names[i], "k%d", i);
    keys[i] = (struct rctx_key){.name = names[i], .print = user_key.print, .flags = RCTX_KEY_PROPAGATED};
    chain[i] = c;
    c = rctx_with_value(c, &keys[i], names[i]);
  }
  from(c, sizeof out);
  cr_assert_eq(strncmp(out, "k69=k69,k68=k68,", 16), 0);
  cr_assert_str_eq(strrchr(out, ',') + 1, "k6=k6");
  cr_assert_eq(dropped, 6);
  rctx_end(c);
  for (int i = 70; i-- > 0;) rctx_end(chain[i]);
}

// From one process to the next: out of one context, over the wire, into another.
Test(baggage_values, a_value_crosses_to_another_process) {
  RCTX_SCOPED rctx *here = user_with(fake_root(), "J\xc3\xbcrgen; admin=1");
  RCTX_SCOPED rctx *there = rctx_with_cancel(fake_root());
  char name[64];
  header("baggage", from(here, sizeof out));
  reader = rctx_baggage_read(headers());
  cr_assert(rctx_baggage_next(&reader, &member));
  cr_assert(text_is(member.key, user_key.name));
  cr_assert_gt(rctx_baggage_decode(member.value, name, sizeof name), 0);
  RCTX_SCOPED rctx *request = user_with(there, name);
  const char *who;
  cr_assert(user_get(request, &who));
  cr_assert_str_eq(who, "J\xc3\xbcrgen; admin=1");
  cr_assert_not(rctx_baggage_next(&reader, &member), "a value can not forge another member");
}
