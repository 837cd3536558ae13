// dump_fuzz.c - rctx_dump() of a small tree with hostile names, values and causes, in a room of any size: text, JSON and DOT, each
// read back by a strict reader. [OBSERVE-1]
//
// The bytes: how many contexts, the room's size, then for each context how it is derived and its texts, closed by a 0.
#include "support/json.h"

#include "replay.h"

#include <rctx/rctx.h>

#include <stdio.h>

enum { CONTEXTS = 12, ROOM = 4096, OUT = 1 << 16, TEXT = 160 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define OUGHT(condition)                                                                                               \
  do {                                                                                                                 \
    if (!(condition)) {                                                                                                \
      fprintf(stderr, "%s:%d: not so: %s\n%.*s\n", __FILE__, __LINE__, #condition, (int)out.size, out.text);           \
      abort();                                                                                                         \
    }                                                                                                                  \
  } while (0)

static struct {
  char text[OUT];
  size_t size;
} out;

static struct {
  const uint8_t *at, *end;
  rctx *contexts[CONTEXTS];
  char names[CONTEXTS][TEXT], keys[CONTEXTS][TEXT], values[CONTEXTS][TEXT], causes[CONTEXTS][TEXT];
  struct rctx_key key[CONTEXTS];
  struct rctx_cause cause[CONTEXTS];
  int count;
} tree;

static uint8_t take(void) { return tree.at < tree.end ? *tree.at++ : 0; }

static const char *take_text(char *text) {
  size_t n = 0;
  for (uint8_t byte; n + 1 < TEXT && (byte = take()) != 0;) text[n++] = (char)byte;
  text[n] = '\0';
  return text;
}

static int keep(const char *text, size_t size, void *arg) {
  (void)arg;
  OUGHT(size > 0 && size <= 512 && out.size + size < OUT);
  memcpy(out.text + out.size, text, size);
  out.size += size;
  return 0;
}

static void derive(int i) {
  uint8_t how = take();
  const rctx *parent = i > 0 ? tree.contexts[how / 16 % i] : rctx_background();
  tree.key[i] = (struct rctx_key){
      .name = take_text(tree.keys[i]), .print = rctx__print_string, .flags = how & 1 ? RCTX_KEY_LOGGABLE : 0U};
  struct rctx_value value = {&tree.key[i], (void *)(uintptr_t)take_text(tree.values[i]), NULL};
  struct rctx_spec spec = {.name = take_text(tree.names[i]), .values = &value, .nvalues = 1};
  tree.contexts[i] = how & 2 ? rctx_without_cancel(parent) : rctx_derive(parent, &spec);
  if (!(how & 4)) return;
  tree.cause[i] = (struct rctx_cause){-1 - how, RCTX_ORIGIN_PEER, take_text(tree.causes[i]), NULL, 0, NULL, NULL};
  rctx_cancel_cause(tree.contexts[i], &tree.cause[i]);
}

// ---- the readers --------------------------------------------------------------------------------------------------------------

static struct json json; // its strings and numbers; what nests is read here

static bool peek(char c) { return json.at < json.size && json.in[json.at] == (unsigned char)c; }

static bool read_value(void) {
  struct json_member flat;
  if (!peek('{') && !peek('[')) return json_value(&json, &flat);
  bool object = peek('{');
  char end = object ? '}' : ']';
  json.at++;
  if (peek('\n')) json.at++;
  while (!peek(end)) {
    struct json_text name;
    if (object && (!json_string(&json, &name) || !json_expect(&json, ':', "a colon is missing"))) return false;
    if (!read_value()) return false;
    if (peek(',')) json.at++;
    if (peek('\n')) json.at++;
  }
  json.at++;
  return true;
}

static void read_json(int rc) {
  json = (struct json){.in = (const unsigned char *)out.text, .size = out.size};
  OUGHT(read_value() && peek('\n') && json.at + 1 == json.size && json.wrong == NULL);
  const char *ending = rc ? "],\"truncated\":true}\n" : "],\"truncated\":false}\n";
  size_t length = strlen(ending);
  OUGHT(out.size > length && memcmp(out.text + out.size - length, ending, length) == 0);
}

// Lines: printable, and as many as there are contexts; inside of quotes nothing that ends them.
static int lines_of(bool dot) {
  int lines = 0;
  bool quoted = false;
  for (size_t i = 0; i < out.size; i++) {
    unsigned char c = (unsigned char)out.text[i];
    OUGHT(c == '\n' || (c >= ' ' && c != 0x7f));
    if (c == '\\') {
      OUGHT(++i < out.size && out.text[i] != '\n');
      continue;
    }
    if (c == '"') quoted = !quoted;
    if (c == '&' && dot) OUGHT(out.size - i > 5 && memcmp(out.text + i, "&amp;", 5) == 0);
    if (c == '\n') {
      OUGHT(!quoted);
      lines++;
    }
  }
  OUGHT(!quoted && out.size > 0 && out.text[out.size - 1] == '\n');
  return lines;
}

static int dump(enum rctx_dump_format format, char *room, size_t size) {
  out.size = 0;
  int rc = rctx_dump(tree.contexts[0], format, room, size, keep, NULL);
  OUGHT(rc == 0 || rc == -ENOSPC);
  return rc;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  tree.at = data;
  tree.end = data + size;
  tree.count = 1 + take() % CONTEXTS;
  size_t room_size = (size_t)take() * 16 + take();
  for (int i = 0; i < tree.count; i++) derive(i);
  char *room = malloc(room_size ? room_size : 1); // of exactly that size: ASan sees what is written behind it
  int rc = dump(RCTX_DUMP_JSON, room, room_size);
  read_json(rc);
  OUGHT(dump(RCTX_DUMP_TEXT, room, room_size) == rc);
  int shown = lines_of(false) - 1;
  OUGHT(rc ? shown <= tree.count : shown >= 1 && shown <= tree.count);
  OUGHT(dump(RCTX_DUMP_DOT, room, room_size) == rc);
  OUGHT(lines_of(true) == (shown ? 2 * shown - 1 : 0) + 4 + (rc != 0));
  free(room);
  for (int i = tree.count; i-- > 0;) rctx_end(tree.contexts[i]);
  return 0;
}
