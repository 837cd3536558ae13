/*
 * baggage.c - the header baggage of W3C Baggage: reading, writing, and a context's values as members. See
 * rctx/propagate.h.
 *
 *   baggage-string = list-member *( OWS "," OWS list-member )
 *   list-member    = key OWS "=" OWS value *( OWS ";" OWS property )
 *   property       = key OWS [ "=" OWS value OWS ]
 *
 * A comma or semicolon can not be part of anything but what it separates, so a list is cut at its commas first and each
 * piece looked at by itself. Writing checks that a member fits before it touches the buffer. Values are encoded in
 * place, from the right: the text is put, or printed, where it is to stand, and then spread.
 */
#include "codec.h"

enum { MEMBERS_MAX = RCTX_BAGGAGE_MEMBERS_MAX, BYTES_MAX = RCTX_BAGGAGE_BYTES_MAX };

static const struct rctx_text nothing; /* the empty text */

/* ---- grammar ----------------------------------------------------------------------------------------------------- */

/* tchar of RFC 9110. */
static bool is_token_char(char c) {
  static const char others[] = "!#$%&'*+-.^_`|~";
  return is_digit(c) || is_lower(to_lower(c)) || (c != 0 && strchr(others, c) != NULL);
}

/* baggage-octet: printable ASCII without space " , ; \ */
static bool is_value_char(char c) { return c > ' ' && c <= '~' && c != '"' && c != ',' && c != ';' && c != '\\'; }

static bool is_token(struct rctx_text text) {
  for (size_t i = 0; i < text.length; i++) {
    if (!is_token_char(text.at[i])) return false;
  }
  return text.length > 0;
}

static bool is_value(struct rctx_text text) {
  for (size_t i = 0; i < text.length; i++) {
    if (!is_value_char(text.at[i])) return false;
  }
  return true;
}

/* Split at the first '='; value->at is NULL if there is none. */
static void split_pair(struct rctx_text pair, struct rctx_text *key, struct rctx_text *value) {
  const char *equals = find_char(pair, '='), *end = pair.at + pair.length;
  *key = trimmed(text_between(pair.at, equals ? equals : end));
  *value = equals ? trimmed(text_between(equals + 1, end)) : nothing;
}

static bool take_property(struct rctx_text *properties, struct rctx_text *key, struct rctx_text *value) {
  struct rctx_text item;
  if (!take_item(properties, ';', &item)) return false;
  split_pair(item, key, value);
  return is_token(*key) && is_value(*value);
}

static bool are_properties(struct rctx_text properties) {
  struct rctx_text key, value;
  while (properties.at != NULL) {
    if (!take_property(&properties, &key, &value)) return false;
  }
  return true;
}

static enum rctx_fault parse_member(struct rctx_text item, struct rctx_baggage_member *member) {
  const char *semicolon = find_char(item, ';'), *end = item.at + item.length;
  struct rctx_text pair = text_between(item.at, semicolon ? semicolon : end);
  split_pair(pair, &member->key, &member->value);
  member->properties = semicolon ? trimmed(text_between(semicolon + 1, end)) : nothing;
  bool valid = member->value.at != NULL && is_token(member->key) && is_value(member->value) &&
               are_properties(member->properties);
  return valid ? RCTX_FAULT_NONE : RCTX_FAULT_SYNTAX;
}

bool rctx_baggage_property(struct rctx_text *properties, struct rctx_text *key, struct rctx_text *value) {
  struct rctx_text rest, found_key, found_value;
  if (misused(properties == NULL || key == NULL || value == NULL, "properties, key or value is NULL") ||
      misused(is_broken(*properties), NEED_TEXT)) {
    return false;
  }
  rest = *properties;
  if (rest.length == 0 || !take_property(&rest, &found_key, &found_value)) return false;
  *properties = rest;
  *key = found_key;
  *value = found_value;
  return true;
}

/* ---- reading ----------------------------------------------------------------------------------------------------- */

struct rctx_baggage_reader rctx_baggage_read(const struct rctx_headers *headers) {
  if (misused(headers == NULL || headers->next == NULL, "headers is NULL (expected a list of headers)")) headers = NULL;
  return (struct rctx_baggage_reader){.headers = headers};
}

struct rctx_baggage_reader rctx_baggage_read_text(struct rctx_text value) {
  if (misused(is_broken(value), NEED_TEXT)) value = nothing;
  return (struct rctx_baggage_reader){.rest = value};
}

static void note(struct rctx_baggage_reader *reader, enum rctx_fault fault) {
  reader->fault = fault;
  if (reader->headers) rctx__count_fault(RCTX_HEADER_BAGGAGE, fault);
}

static bool stop(struct rctx_baggage_reader *reader) {
  reader->cut = true;
  note(reader, RCTX_FAULT_LIMIT);
  return false;
}

/* Have a rest to read, from the next header if need be. */
static bool have_rest(struct rctx_baggage_reader *reader) {
  if (reader->rest.at != NULL) return true;
  if (!reader->headers || !rctx__next_named(reader->headers, &reader->cursor, RCTX_HEADER_BAGGAGE, &reader->rest))
    return false;
  if (reader->rest.at == NULL) reader->rest.at = ""; /* an empty header is an empty list */
  if (reader->joined) reader->bytes++;               /* the comma that joins them */
  reader->joined = true;
  return true;
}

/* The next piece between commas that ends within the limit of bytes. */
static bool next_item(struct rctx_baggage_reader *reader, struct rctx_text *item) {
  size_t room = reader->bytes < BYTES_MAX ? BYTES_MAX - reader->bytes : 0, length = reader->rest.length;
  if (room == 0 && length > 0) return false;
  struct rctx_text in_reach = {reader->rest.at, length <= room ? length : room + 1}; /* a comma may come right behind */
  const char *comma = find_char(in_reach, ',');
  if (!comma && length > room) return false;
  take_item(&reader->rest, ',', item);
  reader->bytes += item->length + (comma != NULL);
  return true;
}

bool rctx_baggage_next(struct rctx_baggage_reader *reader, struct rctx_baggage_member *member) {
  struct rctx_text item;
  struct rctx_baggage_member parsed;
  if (misused(reader == NULL, "reader is NULL (expected one made by rctx_baggage_read)") ||
      misused(member == NULL, "member is NULL (expected where to write it)")) {
    return false;
  }
  while (!reader->cut && have_rest(reader)) {
    if (!next_item(reader, &item)) return stop(reader);
    item = trimmed(item);
    if (item.length == 0) continue; /* joined lists have empty members */
    if (reader->members == MEMBERS_MAX) return stop(reader);
    enum rctx_fault fault = parse_member(item, &parsed);
    if (fault == RCTX_FAULT_NONE) {
      reader->members++;
      *member = parsed;
      return true;
    }
    reader->refused++;
    note(reader, fault);
  }
  return false;
}

/* ---- percent-encoding -------------------------------------------------------------------------------------------- */

static bool is_plain(char c) { return is_value_char(c) && c != '%'; }

static int hex_value(char c) {
  c = to_lower(c);
  if (is_digit(c)) return c - '0';
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static size_t encoded_length(struct rctx_text text) {
  size_t length = text.length;
  for (size_t i = 0; i < text.length; i++) length += is_plain(text.at[i]) ? 0 : 2;
  return length;
}

/* Encode the length bytes at `at`, which become `encoded` bytes, from the right: nothing is overwritten before it is
 * read. */
static void encode_in_place(char *at, size_t length, size_t encoded) {
  static const char digits[] = "0123456789ABCDEF";
  while (encoded > length) {
    char c = at[--length];
    if (is_plain(c)) {
      at[--encoded] = c;
    } else {
      at[--encoded] = digits[(unsigned char)c & 15];
      at[--encoded] = digits[(unsigned char)c >> 4];
      at[--encoded] = '%';
    }
  }
}

/* Take one byte, decoded, off the rest, which is not empty. */
static unsigned char take_byte(struct rctx_text *rest) {
  int high = -1, low = -1;
  char c = *rest->at;
  if (c == '%' && rest->length >= 3) {
    high = hex_value(rest->at[1]);
    low = hex_value(rest->at[2]);
  }
  size_t used = high >= 0 && low >= 0 ? 3 : 1;
  rest->at += used;
  rest->length -= used;
  return used == 3 ? (unsigned char)(high * 16 + low) : (unsigned char)c;
}

/* The bytes that may follow a first byte of UTF-8 (Unicode, table 3-7): how many, and the range of the first of them,
 * which excludes overlong forms, surrogates, and what is beyond U+10FFFF. */
struct follow {
  unsigned count;
  unsigned char low, high;
};

static struct follow following(unsigned char first) {
  if (first >= 0xc2 && first <= 0xdf) return (struct follow){1, 0x80, 0xbf};
  if (first == 0xe0) return (struct follow){2, 0xa0, 0xbf};
  if (first == 0xed) return (struct follow){2, 0x80, 0x9f};
  if (first >= 0xe1 && first <= 0xef) return (struct follow){2, 0x80, 0xbf};
  if (first == 0xf0) return (struct follow){3, 0x90, 0xbf};
  if (first >= 0xf1 && first <= 0xf3) return (struct follow){3, 0x80, 0xbf};
  if (first == 0xf4) return (struct follow){3, 0x80, 0x8f};
  return (struct follow){0, 0, 0};
}

/* Take one character off the rest, or the longest piece that could begin one: then it is U+FFFD. Returns how many bytes
 * of UTF-8. */
static size_t take_character(struct rctx_text *rest, unsigned char character[4]) {
  size_t length = 1;
  character[0] = take_byte(rest);
  if (character[0] < 0x80) return length;
  struct follow follow = following(character[0]);
  bool whole = follow.count > 0;
  for (unsigned i = 0; i < follow.count; i++) {
    struct rctx_text behind = *rest;
    whole = behind.length > 0;
    if (!whole) break;
    unsigned char c = take_byte(&behind);
    whole = c >= (i == 0 ? follow.low : 0x80) && c <= (i == 0 ? follow.high : 0xbf);
    if (!whole) break;
    character[length++] = c;
    *rest = behind;
  }
  if (whole) return length;
  memcpy(character, "\xef\xbf\xbd", 3);
  return 3;
}

int rctx_baggage_decode(struct rctx_text value, char *buf, size_t size) {
  unsigned char character[4];
  size_t length = 0;
  if (misused(is_broken(value), NEED_TEXT) || misused(buf == NULL && size > 0, "buf is NULL")) return -EINVAL;
  if (value.length > BYTES_MAX) return -EINVAL;
  for (struct rctx_text rest = value; rest.length > 0;) length += take_character(&rest, character);
  if (length >= size) return -ENOSPC;
  char *at = buf;
  for (struct rctx_text rest = value; rest.length > 0;) {
    size_t n = take_character(&rest, character);
    memcpy(at, character, n);
    at += n;
  }
  *at = 0;
  return (int)length;
}

/* ---- writing ----------------------------------------------------------------------------------------------------- */

struct rctx_baggage rctx_baggage_begin(char *buf, size_t size) {
  if (misused(buf == NULL && size > 0, "buf is NULL")) size = 0;
  if (size > 0) *buf = 0;
  return (struct rctx_baggage){.buf = buf, .size = size};
}

/* How many bytes a further member may have, with the comma before it. */
static size_t room_in(const struct rctx_baggage *out) {
  if (out->buf == NULL) return 0;
  size_t limit = out->size <= BYTES_MAX ? out->size : BYTES_MAX + 1;
  return out->members < MEMBERS_MAX && limit > out->length + 1 ? limit - 1 - out->length : 0;
}

static int drop(struct rctx_baggage *out, int err) {
  out->dropped++;
  return err;
}

static char *put(char *at, struct rctx_text text) {
  if (text.length > 0) memmove(at, text.at, text.length);
  return at + text.length;
}

/* The comma, the key and '='. */
static char *put_key(const struct rctx_baggage *out, struct rctx_text key) {
  char *at = out->buf + out->length;
  if (out->members > 0) *at++ = ',';
  at = put(at, key);
  *at++ = '=';
  return at;
}

static void finish(struct rctx_baggage *out, const char *end) {
  out->length = (size_t)(end - out->buf);
  out->buf[out->length] = 0;
  out->members++;
}

/* A sum of lengths that may be of any size. */
static bool fits(size_t room, size_t a, size_t b, size_t c) { return a <= room && b <= room - a && c <= room - a - b; }

/* Append what is known to be of the grammar; a raw value is encoded. */
static int append(struct rctx_baggage *out, const struct rctx_baggage_member *member, bool is_raw) {
  struct rctx_text value = member->value, properties = member->properties;
  size_t encoded = value.length, marks = 1 + (size_t)(out->members > 0) + (size_t)(properties.length > 0);
  size_t room = room_in(out);
  if (marks > room || !fits(room - marks, member->key.length, value.length, properties.length))
    return drop(out, -ENOSPC);
  if (is_raw) encoded = encoded_length(value);
  if (!fits(room - marks, member->key.length, encoded, properties.length)) return drop(out, -ENOSPC);
  char *at = put_key(out, member->key);
  put(at, value);
  encode_in_place(at, value.length, encoded);
  at += encoded;
  if (properties.length > 0) {
    *at++ = ';';
    at = put(at, properties);
  }
  finish(out, at);
  return 0;
}

static int add(struct rctx_baggage *out, const struct rctx_baggage_member *member, bool is_raw) {
  struct rctx_text properties = member->properties;
  if (!is_token(member->key) || (properties.length > 0 && !are_properties(properties)) ||
      (!is_raw && !is_value(member->value))) {
    return drop(out, -EINVAL);
  }
  return append(out, member, is_raw);
}

int rctx_baggage_add(struct rctx_baggage *out, struct rctx_text key, struct rctx_text value,
                     struct rctx_text properties) {
  if (misused(out == NULL, "out is NULL (expected one made by rctx_baggage_begin)") ||
      misused(is_broken(key) || is_broken(value) || is_broken(properties), NEED_TEXT)) {
    return -EINVAL;
  }
  return add(out, &(struct rctx_baggage_member){key, value, properties}, true);
}

int rctx_baggage_copy(struct rctx_baggage *out, const struct rctx_baggage_member *member) {
  if (misused(out == NULL, "out is NULL (expected one made by rctx_baggage_begin)") ||
      misused(member == NULL, "member is NULL (expected one that was read)") ||
      misused(is_broken(member->key) || is_broken(member->value) || is_broken(member->properties), NEED_TEXT)) {
    return -EINVAL;
  }
  return add(out, member, false);
}

static bool has_key(struct rctx_text list, struct rctx_text key) {
  struct rctx_baggage_reader reader = rctx_baggage_read_text(list);
  struct rctx_baggage_member member;
  while (rctx_baggage_next(&reader, &member)) {
    if (same_text(member.key, key)) return true;
  }
  return false;
}

unsigned rctx_baggage_forward(struct rctx_baggage *out, const struct rctx_headers *headers) {
  struct rctx_baggage_member member;
  if (misused(out == NULL, "out is NULL (expected one made by rctx_baggage_begin)") ||
      misused(headers == NULL || headers->next == NULL, "headers is NULL (expected a list of headers)")) {
    return 0;
  }
  struct rctx_text ours = {out->buf, out->length};
  struct rctx_baggage_reader reader = rctx_baggage_read(headers);
  unsigned before = out->dropped;
  while (rctx_baggage_next(&reader, &member)) {
    if (ours.length == 0 || !has_key(ours, member.key)) append(out, &member, false);
  }
  if (reader.cut) out->dropped++; /* what is behind the limits is not read, hence not counted */
  return out->dropped - before;
}

/* ---- a context's values ------------------------------------------------------------------------------------------ */

/* Print the value where it is to stand, see how long it is, encode it there. */
static void add_value(struct rctx_baggage *out, const struct rctx_key *key, void *value) {
  struct rctx_text name = rctx_text_of(key->name);
  size_t room = room_in(out), marks = 1 + (size_t)(out->members > 0);
  if (!is_token(name) || !key->print || marks > room || name.length > room - marks) {
    out->dropped++;
    return;
  }
  room -= marks + name.length;
  char *at = put_key(out, name);
  size_t length = key->print(value, at, room + 1), encoded = 0;
  if (length <= room) encoded = encoded_length((struct rctx_text){at, length});
  if (length > room || encoded > room) {
    out->buf[out->length] = 0;
    out->dropped++;
    return;
  }
  encode_in_place(at, length, encoded);
  finish(out, at + encoded);
}

static bool add_if_propagated(const struct rctx_key *key, void *value, void *arg) {
  bool is_said = value != NULL || (key->flags & RCTX_KEY_NUMBER) != 0;
  if ((key->flags & RCTX_KEY_PROPAGATED) != 0 && is_said) add_value(arg, key, value);
  return true;
}

unsigned rctx_baggage_add_values(struct rctx_baggage *out, const rctx *ctx) {
  if (misused(out == NULL, "out is NULL (expected one made by rctx_baggage_begin)") || misused(ctx == NULL, NEED_CTX)) {
    return 0;
  }
  unsigned before = out->dropped;
  rctx_each_value(ctx, add_if_propagated, out);
  return out->dropped - before;
}

int rctx_baggage_from(const rctx *ctx, char *buf, size_t size, unsigned *dropped) {
  if (misused(ctx == NULL, NEED_CTX) || misused(buf == NULL && size > 0, "buf is NULL")) return -EINVAL;
  if (size == 0) return -ENOSPC;
  struct rctx_baggage out = rctx_baggage_begin(buf, size);
  unsigned left_out = rctx_baggage_add_values(&out, ctx);
  if (dropped) *dropped = left_out;
  return (int)out.length;
}
