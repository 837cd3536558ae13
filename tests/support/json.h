// json.h - a strict reader of one line of JSON, for tests and fuzzing: what a log line must be, written from RFC 8259
// and RFC 3629.
//
// json_line() takes one flat object and a newline, nothing before, between (no spaces) or behind: strings of valid
// UTF-8 with no control character (C0, DEL, C1) as such and no escaped surrogate, numbers, true, false, null; no name
// twice. Texts are decoded, with their length: they may contain NULs. On failure `wrong` says what, and `at` where.
#ifndef RCTX_TESTS_JSON_H
#define RCTX_TESTS_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { JSON_MEMBERS_MAX = 512, JSON_TEXT_MAX = 1 << 17 };
enum json_kind { JSON_STRING, JSON_NUMBER, JSON_TRUE, JSON_FALSE, JSON_NULL };

struct json_text {
  const char *bytes; // closed by a NUL
  size_t size;
};

struct json_member {
  struct json_text name, text; // a number's text is the number
  enum json_kind kind;
};

struct json {
  struct json_member members[JSON_MEMBERS_MAX];
  size_t count;
  const char *wrong; // NULL: nothing
  size_t at;         // where
  const unsigned char *in;
  size_t size;
  char pool[JSON_TEXT_MAX];
  size_t used;
};

static inline bool json_fail(struct json *j, const char *what) {
  if (!j->wrong) j->wrong = what;
  return false;
}

static inline bool json_expect(struct json *j, char byte, const char *what) {
  if (j->at >= j->size || j->in[j->at] != (unsigned char)byte) return json_fail(j, what);
  j->at++;
  return true;
}

static inline bool json_keep(struct json *j, unsigned byte) {
  if (j->used >= sizeof j->pool - 1) return json_fail(j, "more text than this reader holds");
  j->pool[j->used++] = (char)byte;
  return true;
}

static inline bool json_keep_code(struct json *j, uint32_t code) {
  if (code < 0x80) return json_keep(j, code);
  if (code < 0x800) return json_keep(j, 0xc0 | code >> 6) && json_keep(j, 0x80 | (code & 63));
  return json_keep(j, 0xe0 | code >> 12) && json_keep(j, 0x80 | (code >> 6 & 63)) && json_keep(j, 0x80 | (code & 63));
}

// The table of well-formed byte sequences of RFC 3629, line by line.
static inline size_t json_utf8(const unsigned char *s, size_t size) {
  static const struct {
    unsigned char lead_from, lead_to, second_from, second_to;
    size_t length;
  } rows[] = {{0x00, 0x7f, 0, 0, 1},       {0xc2, 0xdf, 0x80, 0xbf, 2}, {0xe0, 0xe0, 0xa0, 0xbf, 3},
              {0xe1, 0xec, 0x80, 0xbf, 3}, {0xed, 0xed, 0x80, 0x9f, 3}, {0xee, 0xef, 0x80, 0xbf, 3},
              {0xf0, 0xf0, 0x90, 0xbf, 4}, {0xf1, 0xf3, 0x80, 0xbf, 4}, {0xf4, 0xf4, 0x80, 0x8f, 4}};
  for (size_t r = 0; size && r < sizeof rows / sizeof *rows; r++) {
    if (s[0] < rows[r].lead_from || s[0] > rows[r].lead_to || size < rows[r].length) continue;
    if (rows[r].length > 1 && (s[1] < rows[r].second_from || s[1] > rows[r].second_to)) continue;
    bool tail = true;
    for (size_t i = 2; i < rows[r].length; i++) tail = tail && s[i] >= 0x80 && s[i] <= 0xbf;
    if (tail) return rows[r].length;
  }
  return 0;
}

static inline bool json_escape(struct json *j) {
  static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
  if (j->at + 1 >= j->size) return json_fail(j, "an escape is cut off");
  char kind = (char)j->in[j->at + 1];
  const char *found = kind ? strchr(from, kind) : NULL;
  if (found) {
    j->at += 2;
    return json_keep(j, (unsigned char)to[found - from]);
  }
  if (kind != 'u' || j->at + 6 > j->size) return json_fail(j, "an escape that does not exist");
  uint32_t code = 0;
  for (size_t i = 2; i < 6; i++) {
    unsigned char c = j->in[j->at + i];
    unsigned digit = c >= '0' && c <= '9'                 ? c - '0' + 0U
                     : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10U
                                                          : 16;
    if (digit > 15) return json_fail(j, "an escape without four digits");
    code = code * 16 + digit;
  }
  if (code >= 0xd800 && code <= 0xdfff) return json_fail(j, "an escape of a surrogate: the library writes none");
  j->at += 6;
  return json_keep_code(j, code);
}

static inline bool json_string(struct json *j, struct json_text *text) {
  size_t begin = j->used;
  if (!json_expect(j, '"', "a string should begin here")) return false;
  for (;;) {
    if (j->at >= j->size) return json_fail(j, "a string without end");
    unsigned char c = j->in[j->at];
    if (c == '"') break;
    if (c == '\\') {
      if (!json_escape(j)) return false;
      continue;
    }
    size_t length = json_utf8(j->in + j->at, j->size - j->at);
    if (length == 0) return json_fail(j, "not UTF-8");
    if (c < 0x20 || c == 0x7f || (c == 0xc2 && j->in[j->at + 1] < 0xa0)) return json_fail(j, "a control character");
    for (; length; length--) {
      if (!json_keep(j, j->in[j->at++])) return false;
    }
  }
  j->at++;
  *text = (struct json_text){j->pool + begin, j->used - begin};
  return json_keep(j, 0);
}

static inline size_t json_digits(struct json *j) {
  size_t begin = j->at;
  while (j->at < j->size && j->in[j->at] >= '0' && j->in[j->at] <= '9') j->at++;
  return j->at - begin;
}

static inline bool json_number(struct json *j, struct json_text *text) {
  size_t begin = j->at, kept = j->used;
  if (j->at < j->size && j->in[j->at] == '-') j->at++;
  bool zero = j->at < j->size && j->in[j->at] == '0';
  size_t count = json_digits(j);
  if (count == 0 || (zero && count > 1)) return json_fail(j, "not a number");
  if (j->at < j->size && j->in[j->at] == '.') {
    j->at++;
    if (json_digits(j) == 0) return json_fail(j, "no digit behind the point");
  }
  if (j->at < j->size && (j->in[j->at] | 32) == 'e') {
    j->at++;
    if (j->at < j->size && (j->in[j->at] == '+' || j->in[j->at] == '-')) j->at++;
    if (json_digits(j) == 0) return json_fail(j, "no digit in the exponent");
  }
  for (size_t i = begin; i < j->at; i++) {
    if (!json_keep(j, j->in[i])) return false;
  }
  *text = (struct json_text){j->pool + kept, j->used - kept};
  return json_keep(j, 0);
}

static inline bool json_value(struct json *j, struct json_member *member) {
  static const struct {
    const char *word;
    enum json_kind kind;
  } words[] = {{"true", JSON_TRUE}, {"false", JSON_FALSE}, {"null", JSON_NULL}};
  if (j->at < j->size && j->in[j->at] == '"') {
    member->kind = JSON_STRING;
    return json_string(j, &member->text);
  }
  for (size_t i = 0; i < 3; i++) {
    size_t length = strlen(words[i].word);
    if (j->size - j->at < length || memcmp(j->in + j->at, words[i].word, length) != 0) continue;
    j->at += length;
    member->kind = words[i].kind;
    member->text = (struct json_text){words[i].word, length};
    return true;
  }
  member->kind = JSON_NUMBER;
  return json_number(j, &member->text);
}

static inline const struct json_member *json_find(const struct json *j, const char *name) {
  for (size_t i = 0; i < j->count; i++) {
    const struct json_text *text = &j->members[i].name;
    if (text->size == strlen(name) && memcmp(text->bytes, name, text->size) == 0) return &j->members[i];
  }
  return NULL;
}

static inline bool json_same(struct json_text a, struct json_text b) {
  return a.size == b.size && memcmp(a.bytes, b.bytes, a.size) == 0;
}

static inline bool json_member_read(struct json *j) {
  if (j->count == JSON_MEMBERS_MAX) return json_fail(j, "more members than this reader holds");
  struct json_member *member = &j->members[j->count];
  if (!json_string(j, &member->name) || !json_expect(j, ':', "a colon is missing") || !json_value(j, member))
    return false;
  for (size_t i = 0; i < j->count; i++) {
    if (json_same(j->members[i].name, member->name)) return json_fail(j, "a name twice");
  }
  j->count++;
  return true;
}

// Reads exactly text[0 .. size). True: it is one line as described above.
static inline bool json_line(struct json *j, const char *text, size_t size) {
  j->count = j->at = j->used = 0;
  j->wrong = NULL;
  j->in = (const unsigned char *)text;
  j->size = size;
  if (!json_expect(j, '{', "an object should begin here")) return false;
  do {
    if (!json_member_read(j)) return false;
  } while (j->at < j->size && j->in[j->at] == ',' && j->at++);
  if (!json_expect(j, '}', "the object should end here") || !json_expect(j, '\n', "the line should end here"))
    return false;
  return j->at == j->size || json_fail(j, "something behind the line");
}

// The text as it should come out of a line: each byte that belongs to no valid character as U+FFFD. Returns the size.
static inline size_t json_cleaned(const char *raw, size_t size, char *out, size_t room) {
  size_t used = 0;
  for (size_t at = 0; at < size;) {
    size_t length = json_utf8((const unsigned char *)raw + at, size - at);
    size_t bytes = length ? length : 3;
    if (used + bytes > room) abort();
    memcpy(out + used, length ? raw + at : "\xef\xbf\xbd", bytes);
    used += bytes;
    at += length ? length : 1;
  }
  return used;
}

#endif
