// baggage_fuzz.c - baggage: several headers read member by member, decoded, passed on and written, against the rules of
// the specification.
//
// The first byte: how often the headers are repeated; the next two: the size of a buffer to forward into. The rest,
// line by line: the values of baggage headers; and as a whole a value to be encoded, and one to be decoded.
#include "headers.h"

#include "replay.h"

struct pair {
  struct rctx_text key, value; // value.at NULL: none
};

enum { PROPERTIES = 4100, WRITTEN_MAX = RCTX_BAGGAGE_SIZE + 100 };

struct slow_member {
  struct pair pair, properties[PROPERTIES];
  int count;
};

// ---- the rules; each takes what it matches

static struct rctx_text since(const char *begin, const struct scanner *s) {
  return (struct rctx_text){begin, (size_t)(s->at - begin)};
}

static bool token_rule(struct scanner *s, struct rctx_text *token) {
  const char *begin = s->at;
  while (next(s) > 0x20 && next(s) < 0x7f && !in(next(s), "\"(),/:;<=>?@[\\]{}")) take(s, next(s));
  *token = since(begin, s);
  return token->length > 0;
}

// baggage-octet = %x21 / %x23-2B / %x2D-3A / %x3C-5B / %x5D-7E
static bool octet(int c) {
  return c == 0x21 || (c >= 0x23 && c <= 0x2b) || (c >= 0x2d && c <= 0x3a) || (c >= 0x3c && c <= 0x5b) ||
         (c >= 0x5d && c <= 0x7e);
}

static void value_rule(struct scanner *s, struct rctx_text *value) {
  const char *begin = s->at;
  while (octet(next(s))) take(s, next(s));
  *value = since(begin, s);
}

// key OWS [ "=" OWS value ] OWS
static bool pair_rule(struct scanner *s, struct pair *pair) {
  pair->value = (struct rctx_text){NULL, 0};
  if (!token_rule(s, &pair->key)) return false;
  take_ows(s);
  if (take(s, '=')) {
    take_ows(s);
    value_rule(s, &pair->value);
    take_ows(s);
  }
  return true;
}

// list-member = key OWS "=" OWS value *( OWS ";" OWS property ), up to the end of what is scanned
static bool member_rule(struct scanner *s, struct slow_member *member) {
  member->count = 0;
  take_ows(s);
  if (!pair_rule(s, &member->pair) || member->pair.value.at == NULL) return false;
  while (take(s, ';')) {
    take_ows(s);
    if (!pair_rule(s, &member->properties[member->count++])) return false;
  }
  return next(s) == END;
}

static bool blank(struct scanner s) {
  take_ows(&s);
  return next(&s) == END;
}

// ---- reading slowly: where the reader must be after each call

struct slow_reader {
  const struct lines *lines;
  size_t line, at, offset; // in the joined list the line begins at the offset
  unsigned members, refused;
  bool cut;
};

static bool read_slowly(struct slow_reader *r, struct slow_member *member) {
  while (!r->cut && r->line < r->lines->count) {
    struct rctx_text value = r->lines->trimmed[r->line];
    if (r->at >= value.length) { // also behind a comma at the end: an empty member
      r->offset += value.length + 1;
      r->line++;
      r->at = 0;
      continue;
    }
    size_t end = r->at;
    while (end < value.length && value.at[end] != ',') end++;
    struct scanner s = {value.at + r->at, value.at + end};
    if (r->offset + end > RCTX_BAGGAGE_BYTES_MAX || r->offset + r->at >= RCTX_BAGGAGE_BYTES_MAX) {
      r->cut = true;
    } else if (!blank(s) && r->members == RCTX_BAGGAGE_MEMBERS_MAX) {
      r->cut = true;
    } else {
      r->at = end + 1;
      if (blank(s)) continue;
      if (member_rule(&s, member)) {
        r->members++;
        return true;
      }
      r->refused++;
    }
  }
  return false;
}

static bool same(struct rctx_text a, struct rctx_text b) {
  return a.length == b.length && (a.length == 0 || memcmp(a.at, b.at, a.length) == 0);
}

static void same_member(const struct rctx_baggage_member *fast, const struct slow_member *slow) {
  struct rctx_text properties = fast->properties, key, value;
  OUGHT(same(fast->key, slow->pair.key) && same(fast->value, slow->pair.value));
  for (int i = 0; i < slow->count; i++) {
    OUGHT(rctx_baggage_property(&properties, &key, &value));
    OUGHT(same(key, slow->properties[i].key) && same(value, slow->properties[i].value));
    OUGHT((value.at == NULL) == (slow->properties[i].value.at == NULL));
  }
  OUGHT(!rctx_baggage_property(&properties, &key, &value) && properties.length == 0);
}

// ---- decoding slowly: all bytes first, then the longest piece that could begin a character, by trying what could
// follow

static size_t sequence_length(unsigned char first) {
  return first < 0x80 ? 1 : first < 0xc0 ? 0 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : first < 0xf8 ? 4 : 0;
}

static bool is_character(const unsigned char *bytes, size_t n) {
  static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
  if (n == 0 || sequence_length(bytes[0]) != n) return false;
  uint32_t point = n == 1 ? bytes[0] : bytes[0] & (0x7fU >> n);
  for (size_t i = 1; i < n; i++) {
    if ((bytes[i] & 0xc0) != 0x80) return false;
    point = point << 6 | (bytes[i] & 0x3f);
  }
  return point >= least[n] && point <= 0x10ffff && !(point >= 0xd800 && point <= 0xdfff);
}

static bool could_begin_one(const unsigned char *bytes, size_t n) {
  static const unsigned char edges[] = {0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf};
  unsigned char tried[4];
  size_t whole = sequence_length(bytes[0]);
  if (whole < n || whole == 0) return false;
  memcpy(tried, bytes, n);
  for (unsigned i = 0; i < 6 * 6 * 6; i++) {
    unsigned char with[3] = {edges[i % 6], edges[i / 6 % 6], edges[i / 36]};
    memcpy(tried + n, with, whole - n);
    if (is_character(tried, whole)) return true;
  }
  return false;
}

static size_t decode_slowly(struct rctx_text text, unsigned char *to) {
  unsigned char *bytes = malloc(text.length + 4);
  size_t n = 0, length = 0;
  OUGHT(bytes != NULL);
  for (size_t i = 0; i < text.length; i++) {
    unsigned byte;
    char hex[3] = {0};
    if (text.at[i] == '%' && i + 2 < text.length) memcpy(hex, text.at + i + 1, 2);
    if (strspn(hex, "0123456789abcdefABCDEF") == 2 && sscanf(hex, "%2x", &byte) == 1) {
      bytes[n++] = (unsigned char)byte;
      i += 2;
    } else {
      bytes[n++] = (unsigned char)text.at[i];
    }
  }
  for (size_t at = 0, piece; at < n; at += piece) {
    piece = 1;
    while (piece < 4 && at + piece < n && could_begin_one(bytes + at, piece + 1)) piece++;
    bool whole = is_character(bytes + at, piece);
    memcpy(to + length, whole ? bytes + at : (const unsigned char *)"\xef\xbf\xbd", whole ? piece : 3);
    length += whole ? piece : 3;
  }
  free(bytes);
  return length;
}

static void decode_both(struct rctx_text text, bool is_of_the_grammar) {
  unsigned char *expected = malloc(3 * text.length + 1);
  size_t length = decode_slowly(text, expected);
  if (is_of_the_grammar) OUGHT(length <= text.length);
  char *buf = malloc(length + 1);
  OUGHT(expected && buf && rctx_baggage_decode(text, buf, length) == -ENOSPC);
  OUGHT(rctx_baggage_decode(text, buf, length + 1) == (int)length);
  OUGHT(memcmp(buf, expected, length) == 0 && buf[length] == 0);
  free(buf);
  free(expected);
}

// ---- writing

static void encode(struct rctx_text text, size_t size) {
  char expected[WRITTEN_MAX] = "k=", *buf = malloc(size ? size : 1);
  size_t n = 2;
  for (size_t i = 0; i < text.length && n + 4 < sizeof expected; i++) {
    int c = (unsigned char)text.at[i];
    n += (size_t)sprintf(expected + n, octet(c) && c != '%' ? "%c" : "%%%02X", c);
  }
  struct rctx_baggage out = rctx_baggage_begin(buf, size);
  int result = rctx_baggage_add(&out, rctx_text_of("k"), text, (struct rctx_text){NULL, 0});
  OUGHT(result == (n < size && n <= RCTX_BAGGAGE_BYTES_MAX ? 0 : -ENOSPC));
  if (result == 0) OUGHT(out.length == n && strcmp(buf, expected) == 0);
  if (result != 0 && size > 0) OUGHT(buf[0] == 0 && out.dropped == 1);
  free(buf);
}

// What was forwarded is what was read, but for what did not fit; and reads again as the same.
static void forward(const struct lines *lines, const struct rctx_headers *headers, size_t size) {
  static struct slow_member slow;
  char *buf = malloc(size);
  struct slow_reader reader = {.lines = lines};
  struct rctx_baggage_member member;
  struct rctx_baggage out = rctx_baggage_begin(buf, size);
  unsigned dropped = rctx_baggage_forward(&out, headers);
  struct rctx_baggage_reader again = rctx_baggage_read_text((struct rctx_text){buf, out.length});
  OUGHT(buf && out.length < size && strlen(buf) == out.length && out.length <= RCTX_BAGGAGE_BYTES_MAX);
  for (unsigned i = 0; i < out.members; i++) {
    OUGHT(rctx_baggage_next(&again, &member));
    do OUGHT(read_slowly(&reader, &slow));
    while (!same(member.key, slow.pair.key) || !same(member.value, slow.pair.value));
  }
  OUGHT(!rctx_baggage_next(&again, &member) && again.refused == 0 && !again.cut);
  while (read_slowly(&reader, &slow)) {
  }
  OUGHT(out.members + dropped == reader.members + reader.cut);
  free(buf);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static struct slow_member slow;
  struct lines lines;
  struct rctx_baggage_member member;
  if (size < 3) return 0;
  size_t room = 1 + (data[1] | (size_t)data[2] << 8) % RCTX_BAGGAGE_SIZE;
  lines_make(&lines, "Baggage", data + 3, size - 3, 1 + data[0] % LINES_MAX);
  struct rctx_headers headers = rctx_headers_of(lines.headers, lines.count);
  struct rctx_baggage_reader reader = rctx_baggage_read(&headers);
  struct slow_reader slowly = {.lines = &lines};
  while (read_slowly(&slowly, &slow)) {
    OUGHT(rctx_baggage_next(&reader, &member));
    same_member(&member, &slow);
    decode_both(member.value, true);
  }
  OUGHT(!rctx_baggage_next(&reader, &member) && !rctx_baggage_next(&reader, &member));
  OUGHT(reader.members == slowly.members && reader.refused == slowly.refused && reader.cut == slowly.cut);
  forward(&lines, &headers, room);
  struct rctx_text text = box(data, size < RCTX_BAGGAGE_BYTES_MAX ? size : RCTX_BAGGAGE_BYTES_MAX);
  decode_both(text, false);
  encode(text, room);
  unbox(text);
  lines_free(&lines);
  return 0;
}
