// log_case.h - one log line from arbitrary bytes, compared with what the header of log.h says it must be.
//
// The bytes choose a chain of contexts, keys (names, flags, printers that tell the truth or lie), values, an end with a
// cause, the message and the buffer's size. A plain model says which members there are and with which texts. Used by
// log_test.c with random bytes, and by fuzz/log_fuzz.c.
#ifndef RCTX_TESTS_LOG_CASE_H
#define RCTX_TESTS_LOG_CASE_H

#include "support/json.h"

#include <rctx/rctx.h>
#include <stdio.h>

enum { CASE_VALUES_MAX = 20, CASE_TEXT_MAX = 4000, CASE_LINE_MAX = 12000, CASE_GUARD = 32, CASE_VALUE_MAX = 1024 };

#define CASE_OUGHT(condition, ...)                                                                                     \
  do {                                                                                                                 \
    if (!(condition)) {                                                                                                \
      fprintf(stderr, "%s:%d: not so: %s: ", __FILE__, __LINE__, #condition);                                          \
      fprintf(stderr, __VA_ARGS__);                                                                                    \
      fprintf(stderr, "\n");                                                                                           \
      abort();                                                                                                         \
    }                                                                                                                  \
  } while (0)

enum case_printer { PRINTS_ITSELF, PRINTS_LONG, LIES_LONGER, LIES_SHORTER, WRITES_NOTHING, NO_NUL, PRINTERS };

// What a value of the case is: its printer finds it by the address.
struct case_value {
  enum case_printer printer;
  char text[256];
};

struct case_key {
  struct rctx_key key;
  char name[64];
};

struct log_case {
  const uint8_t *at, *end;
  struct case_key keys[CASE_VALUES_MAX];
  struct case_value values[CASE_VALUES_MAX];
  void *bound[CASE_VALUES_MAX]; // what is bound under key i, or NULL
  unsigned key_of[CASE_VALUES_MAX];
  unsigned nvalues;
  rctx *chain[CASE_VALUES_MAX + 1];
  unsigned depth;
  char context[64], cause_text[256], file[64];
  struct rctx_cause cause;
  char msg[CASE_TEXT_MAX];
  size_t size;
  char line[CASE_LINE_MAX + CASE_GUARD];
  struct json json;
};

static inline uint8_t case_take(struct log_case *c) { return c->at < c->end ? *c->at++ : 0; }

// A text of at most room - 1 bytes, never with a NUL inside: what a C string can be.
static inline void case_text(struct log_case *c, char *text, size_t room) {
  size_t n = case_take(c) % room;
  if (room > 256 && n == 255 % room) n = room - 1;
  for (size_t i = 0; i < n; i++) {
    uint8_t byte = case_take(c);
    text[i] = (char)(byte ? byte : 'x');
  }
  text[n] = '\0';
}

static inline size_t case_print(const void *value, char *buf, size_t size) {
  const struct case_value *v = value;
  size_t length = strlen(v->text);
  errno = ENOTTY; // a printer may do as it likes with it
  switch (v->printer) {
  case PRINTS_LONG: // the text over and over, as snprintf would
    for (size_t i = 0; i + 1 < size && length; i++) buf[i] = v->text[i % length];
    buf[size && length && 5000 + length > size ? size - 1 : 0] = '\0';
    return length ? 5000 + length : 0;
  case LIES_LONGER:
    return (size_t)snprintf(buf, size, "%s", v->text) + 7;
  case LIES_SHORTER:
    return (size_t)snprintf(buf, size, "%s", v->text) / 2;
  case WRITES_NOTHING:
    return length;
  case NO_NUL:
    memset(buf, 'n', size);
    return size + 1;
  default:
    return (size_t)snprintf(buf, size, "%s", v->text);
  }
}

static inline void case_keys(struct log_case *c) {
  static const char *const known[] = {"time",   "level", "msg",       "context", "err",  "cause",
                                      "origin", "at",    "truncated", "time_",   "same", "user"};
  c->nvalues = case_take(c) % (CASE_VALUES_MAX + 1);
  for (unsigned i = 0; i < c->nvalues; i++) {
    struct case_key *key = &c->keys[i];
    uint8_t what = case_take(c);
    if (what & 1) {
      snprintf(key->name, sizeof key->name, "%s", known[(what >> 1) % 12]);
    } else {
      case_text(c, key->name, sizeof key->name);
    }
    key->key = (struct rctx_key){.name = what == 254 ? NULL : key->name,
                                 .print = what == 253 ? NULL : case_print,
                                 .flags = case_take(c) % 4 ? RCTX_KEY_LOGGABLE : 0U};
    c->values[i].printer = case_take(c) % 16 < PRINTERS ? (enum case_printer)(case_take(c) % PRINTERS) : PRINTS_ITSELF;
    case_text(c, c->values[i].text, sizeof c->values[i].text);
    if (case_take(c) % 4 == 0 && key->key.print) key->key.flags |= RCTX_KEY_NUMBER;
    c->bound[i] = case_take(c) % 8 == 0 && !(key->key.flags & RCTX_KEY_NUMBER) ? NULL : &c->values[i];
    c->key_of[i] = case_take(c) % 8 == 0 ? case_take(c) % (i + 1) : i; // now and then one that shadows
  }
}

static inline void case_contexts(struct log_case *c, const rctx *root) {
  case_text(c, c->context, sizeof c->context);
  c->chain[0] = rctx_derive(root, &(struct rctx_spec){.name = c->context[0] ? c->context : NULL});
  c->depth = 1;
  for (unsigned i = 0; i < c->nvalues; i++, c->depth++) {
    const struct rctx_key *key = &c->keys[c->key_of[i]].key;
    if (key->flags & RCTX_KEY_NUMBER) c->bound[i] = &c->values[i]; // the printer is called for a NULL, too
    c->chain[c->depth] = rctx_with_value(c->chain[c->depth - 1], key, key->print == NULL ? NULL : c->bound[i]);
  }
}

static inline void case_end(struct log_case *c) {
  uint8_t how = case_take(c);
  if (how % 3 == 0) return;
  case_text(c, c->cause_text, sizeof c->cause_text);
  case_text(c, c->file, sizeof c->file);
  c->cause = (struct rctx_cause){.code = -1 - case_take(c),
                                 .origin = case_take(c) - 8,
                                 .text = how & 64 ? NULL : c->cause_text,
                                 .file = how & 32 ? NULL : c->file,
                                 .line = (int)(case_take(c) << 23)};
  rctx_cancel_cause(c->chain[how % c->depth], &c->cause);
}

// ---- the model -------------------------------------------------------------------------------------------------------

static inline void case_expect_text(const struct json_member *member, const char *raw, bool prefix_will_do) {
  char clean[CASE_TEXT_MAX * 3 + 64];
  size_t size = json_cleaned(raw, strlen(raw), clean, sizeof clean);
  CASE_OUGHT(member->kind == JSON_STRING, "a string");
  if (prefix_will_do && member->text.size < size) size = member->text.size;
  CASE_OUGHT(member->text.size == size && memcmp(member->text.bytes, clean, size) == 0, "\"%s\" is not \"%s\"",
             member->text.bytes, raw);
}

static inline bool case_is_number(const char *text) {
  char line[400];
  static struct json json;
  int n = snprintf(line, sizeof line, "{\"a\":%s}\n", text);
  return n < (int)sizeof line && json_line(&json, line, (size_t)n) && json.count == 1 &&
         (json.members[0].kind == JSON_NUMBER || json.members[0].kind == JSON_TRUE ||
          json.members[0].kind == JSON_FALSE);
}

static inline void case_check_value(const struct log_case *c, unsigned i, const struct json_member *member) {
  const struct rctx_key *key = &c->keys[c->key_of[i]].key;
  const struct case_value *value = c->bound[i];
  if (key->print == NULL || value == NULL) {
    CASE_OUGHT(member->kind == JSON_NULL, "a NULL value is null");
    return;
  }
  char text[256];
  snprintf(text, sizeof text, "%s", value->text);
  switch (value->printer) {
  case LIES_SHORTER:
    text[strlen(text) / 2] = '\0';
    break;
  case WRITES_NOTHING:
    text[0] = '\0';
    break;
  case PRINTS_LONG:
    CASE_OUGHT(member->text.size <= 3 * CASE_VALUE_MAX, "cut");
    return;
  case NO_NUL:
    CASE_OUGHT(member->text.size == CASE_VALUE_MAX, "cut at %zu", member->text.size);
    return;
  default:
    break;
  }
  if ((key->flags & RCTX_KEY_NUMBER) && case_is_number(text)) {
    CASE_OUGHT(member->kind == JSON_NUMBER || member->kind == JSON_TRUE || member->kind == JSON_FALSE, "bare %s", text);
    CASE_OUGHT(strcmp(member->text.bytes, text) == 0, "%s is not %s", member->text.bytes, text);
    return;
  }
  case_expect_text(member, text, false);
}

static inline bool case_visible(const struct log_case *c, unsigned i) {
  for (unsigned nearer = i + 1; nearer < c->nvalues; nearer++) {
    if (c->key_of[nearer] == c->key_of[i]) return false;
  }
  return (c->keys[c->key_of[i]].key.flags & RCTX_KEY_LOGGABLE) != 0;
}

static inline size_t case_name(const struct log_case *c, unsigned i, char *clean, size_t room) {
  static const char *const fixed[] = {"time", "level", "msg", "context", "err", "cause", "origin", "at", "truncated"};
  const char *name = c->keys[c->key_of[i]].key.name;
  char raw[80];
  if (!name) name = "?";
  snprintf(raw, sizeof raw, "%s", name);
  for (size_t f = 0; f < sizeof fixed / sizeof *fixed; f++) {
    if (strcmp(name, fixed[f]) == 0) snprintf(raw, sizeof raw, "%s_", fixed[f]);
  }
  return json_cleaned(raw, strlen(raw), clean, room);
}

// The values' members, from `at` on. Returns where they end: at the line's end, at "truncated", or at "err".
static inline size_t case_check_values(const struct log_case *c, size_t at) {
  for (unsigned i = c->nvalues; i-- > 0;) {
    char name[256], other[256];
    if (!case_visible(c, i)) continue;
    size_t size = case_name(c, i, name, sizeof name);
    bool twice = false;
    for (unsigned nearer = i + 1; nearer < c->nvalues; nearer++) {
      twice |= case_visible(c, nearer) && case_name(c, nearer, other, sizeof other) == size &&
               memcmp(name, other, size) == 0;
    }
    if (twice) continue;
    if (at == c->json.count || json_same(c->json.members[at].name, (struct json_text){"truncated", 9})) return at;
    const struct json_member *member = &c->json.members[at];
    CASE_OUGHT(json_same(member->name, (struct json_text){name, size}), "a member named %s", member->name.bytes);
    case_check_value(c, i, member);
    at++;
  }
  return at;
}

static inline bool case_any_cut_value(const struct log_case *c) {
  for (unsigned i = 0; i < c->nvalues; i++) {
    enum case_printer printer = c->bound[i] ? c->values[i].printer : PRINTS_ITSELF;
    if (case_visible(c, i) && (printer == PRINTS_LONG || printer == NO_NUL)) return true;
  }
  return false;
}

static inline void case_check_end(const struct log_case *c, size_t at, bool truncated) {
  static const char *const names[] = {"err", "cause", "origin", "at"};
  char where[128];
  size_t last = c->json.count - truncated;
  bool ended = c->cause.code != 0;
  bool there[4] = {ended, ended, ended && (c->cause.origin >= 64 || (c->cause.origin > 0 && c->cause.origin <= 10)),
                   ended && c->cause.file};
  for (int i = 0; i < 4; i++) {
    if (!there[i]) continue;
    if (at >= last && truncated) return;
    CASE_OUGHT(at < last, "%s is missing", names[i]);
    const struct json_member *member = &c->json.members[at++];
    CASE_OUGHT(strcmp(member->name.bytes, names[i]) == 0, "%s instead of %s", member->name.bytes, names[i]);
    if (i == 0) CASE_OUGHT(atoi(member->text.bytes) == c->cause.code, "%s", member->text.bytes);
    if (i == 1) case_expect_text(member, c->cause.text ? c->cause.text : rctx_strerror(c->cause.code), false);
    snprintf(where, sizeof where, "%s:%d", c->file, c->cause.line);
    if (i == 3) case_expect_text(member, where, false);
  }
  CASE_OUGHT(at == last, "%s is one too many", c->json.members[at].name.bytes);
}

static inline void case_check(struct log_case *c, size_t length) {
  struct json *json = &c->json;
  CASE_OUGHT(length < c->size && c->line[length] == '\0', "%zu bytes in %zu", length, c->size);
  for (int i = 0; i < CASE_GUARD; i++) CASE_OUGHT(c->line[c->size + (size_t)i] == '#', "written behind the buffer");
  CASE_OUGHT(json_line(json, c->line, length), "%s at %zu of %s", json->wrong, json->at, c->line);
  CASE_OUGHT(json->count >= 3 && strcmp(json->members[2].name.bytes, "msg") == 0, "%s", c->line);
  const struct json_member *mark = &json->members[json->count - 1];
  bool truncated = strcmp(mark->name.bytes, "truncated") == 0;
  if (truncated) CASE_OUGHT(mark->kind == JSON_TRUE, "%s", c->line);
  case_expect_text(&json->members[2], c->msg, truncated);
  size_t at = 3;
  if (c->context[0] && at + truncated < json->count) {
    CASE_OUGHT(strcmp(json->members[3].name.bytes, "context") == 0, "%s", c->line);
    case_expect_text(&json->members[at++], c->context, false);
  }
  at = case_check_values(c, at);
  case_check_end(c, at, truncated);
  if (truncated && c->size == CASE_LINE_MAX)
    CASE_OUGHT(case_any_cut_value(c) || length > 9000, "room enough: %s", c->line);
}

// Runs one case on contexts below `root`.
static inline void log_case_run(const rctx *root, const uint8_t *data, size_t size) {
  static struct log_case c;
  memset(&c, 0, sizeof c);
  c.at = data;
  c.end = data + size;
  c.size = RCTX_LOG_LINE_MIN + (size_t)case_take(&c) * (case_take(&c) % 8 + 1U);
  if (case_take(&c) % 4 == 0) c.size = CASE_LINE_MAX;
  case_keys(&c);
  case_contexts(&c, root);
  case_end(&c);
  case_text(&c, c.msg, sizeof c.msg);
  memset(c.line, '#', sizeof c.line);
  errno = EDOM;
  size_t length = rctx_log_format(c.line, c.size, c.chain[c.depth - 1], RCTX_LOG_INFO, "%s", c.msg);
  CASE_OUGHT(errno == EDOM, "errno is kept");
  case_check(&c, length);
  while (c.depth > 0) rctx_end(c.chain[--c.depth]);
}

#endif
