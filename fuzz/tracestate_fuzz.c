// tracestate_fuzz.c - tracestate: lists in several headers, read, joined, shortened, with a member of our own, against
// the rules of the specification.
//
// The first two bytes: the size of the buffer; the third: how often the headers are repeated, and which key our own
// member has. The rest, line by line: the values of tracestate headers.
#include "headers.h"

#include "replay.h"

enum { BUFFER_MAX = 1500, MEMBERS = 32 };

struct list {
  struct rctx_text keys[MEMBERS + 1], members[MEMBERS + 1];
  int count;
  bool valid;
};

// ---- list = list-member 0*31( OWS "," OWS list-member ); list-member = key "=" value / OWS

static bool lcalpha_digit(int c) { return in(c, "abcdefghijklmnopqrstuvwxyz0123456789"); }

static bool key_rule(struct scanner *s) {
  int n = 0;
  if (!lcalpha_digit(next(s))) return false;
  for (; lcalpha_digit(next(s)) || in(next(s), "_-*/@"); n++) take(s, next(s));
  return n <= 256;
}

// value = 0*255(chr) nblk-chr: takes all chr there are, then gives back the blanks behind the last nblk-chr.
static bool value_rule(struct scanner *s) {
  const char *begin = s->at;
  while (next(s) >= 0x20 && next(s) <= 0x7e && !in(next(s), ",=")) take(s, next(s));
  while (s->at > begin && s->at[-1] == ' ') s->at--;
  return s->at > begin && s->at - begin <= 256;
}

static void member_rule(struct scanner *s, struct list *list) {
  const char *begin = s->at;
  struct rctx_text key;
  if (!key_rule(s)) list->valid = false;
  key = (struct rctx_text){begin, (size_t)(s->at - begin)};
  if (!take(s, '=') || !value_rule(s)) list->valid = false;
  for (int i = 0; i < list->count; i++) {
    if (list->keys[i].length == key.length && memcmp(list->keys[i].at, key.at, key.length) == 0) list->valid = false;
  }
  if (list->count == MEMBERS) list->valid = false;
  if (!list->valid) return;
  list->keys[list->count] = key;
  list->members[list->count++] = (struct rctx_text){begin, (size_t)(s->at - begin)};
}

static void list_rule(struct scanner *s, struct list *list) {
  do {
    take_ows(s);
    if (next(s) != ',' && next(s) != END) member_rule(s, list);
    take_ows(s);
  } while (list->valid && take(s, ','));
  if (next(s) != END) list->valid = false;
}

static void read_slowly(const struct lines *lines, size_t count, struct list *list) {
  size_t bytes = count ? count - 1 : 0;
  list->count = 0;
  list->valid = true;
  for (size_t i = 0; i < count; i++) bytes += lines->trimmed[i].length;
  if (bytes > RCTX_TRACESTATE_BYTES_MAX) list->valid = false;
  for (size_t i = 0; i < count && list->valid; i++) {
    struct scanner s = scan(lines->trimmed[i]);
    list_rule(&s, list);
  }
  if (!list->valid) list->count = 0;
}

// ---- shortening, one member at a time

static size_t length_of(const struct list *list) {
  size_t sum = 0;
  for (int i = 0; i < list->count; i++) sum += list->members[i].length + (i > 0);
  return sum;
}

static void remove_at(struct list *list, int at) {
  for (int i = at; i + 1 < list->count; i++) {
    list->members[i] = list->members[i + 1];
    list->keys[i] = list->keys[i + 1];
  }
  list->count--;
}

// Returns whether anything had to go.
static bool shorten(struct list *list, size_t size, int kept) {
  bool shortened = false;
  while (list->count > kept && length_of(list) >= size) {
    int at = list->count - 1;
    while (at >= kept && list->members[at].length <= 128) at--;
    remove_at(list, at >= kept ? at : list->count - 1);
    shortened = true;
  }
  return shortened;
}

static void same_as(const struct list *list, const char *buf) {
  for (int i = 0; i < list->count; i++) {
    if (i) OUGHT(*buf++ == ',');
    OUGHT(strncmp(buf, list->members[i].at, list->members[i].length) == 0);
    buf += list->members[i].length;
  }
  OUGHT(*buf == 0);
}

// ---- the harness

static void join(const struct lines *lines, struct list list, size_t size) {
  static const struct rctx_text parent = {"00-12345678901234567890123456789012-1234567890123456-01", 55};
  struct rctx_header all[LINES_MAX + 1];
  struct rctx_traceparent trace;
  enum rctx_fault fault;
  memcpy(all, lines->headers, lines->count * sizeof all[0]);
  all[lines->count] = (struct rctx_header){rctx_text_of("Traceparent"), parent};
  struct rctx_headers headers = rctx_headers_of(all, lines->count + 1);
  char *buf = malloc(size);
  bool was_valid = list.valid, shortened = shorten(&list, size, 0);
  OUGHT(buf && rctx_trace_from_headers(&headers, &trace, buf, size, &fault) == (int)length_of(&list));
  OUGHT((fault == RCTX_FAULT_NONE) == (was_valid && !shortened));
  same_as(&list, buf);
  free(buf);
}

static void update(struct rctx_text state, struct list list, size_t size, struct rctx_text key) {
  char own[32];
  enum rctx_fault fault;
  char *buf = malloc(size ? size : 1);
  snprintf(own, sizeof own, "%.*s=1", (int)key.length, key.at);
  bool was_valid = list.valid, shortened = false;
  for (int i = 0; i < list.count; i++) {
    if (list.keys[i].length == key.length && memcmp(list.keys[i].at, key.at, key.length) == 0) remove_at(&list, i--);
  }
  if (list.count == MEMBERS) {
    list.count--;
    shortened = true;
  }
  for (int i = list.count++; i > 0; i--) list.members[i] = list.members[i - 1];
  list.members[0] = rctx_text_of(own);
  shortened |= shorten(&list, size, 1);
  int length = rctx_tracestate_update(state, key, rctx_text_of("1"), buf, size, &fault);
  OUGHT(buf && length == (length_of(&list) < size ? (int)length_of(&list) : -ENOSPC));
  if (length >= 0) {
    OUGHT((fault == RCTX_FAULT_NONE) == (was_valid && !shortened));
    same_as(&list, buf);
    OUGHT(rctx_tracestate_check((struct rctx_text){buf, (size_t)length}, NULL) == 0);
  }
  free(buf);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static const char *const keys[] = {"a", "foo", "rojo", "t@s"};
  struct lines lines;
  struct list list;
  if (size < 3) return 0;
  size_t room = (data[0] | (size_t)data[1] << 8) % BUFFER_MAX;
  lines_make(&lines, "TraceState", data + 3, size - 3, 1 + (data[2] & 7));
  read_slowly(&lines, lines.count, &list);
  join(&lines, list, room + 1);
  read_slowly(&lines, 1, &list);
  OUGHT(rctx_tracestate_check(lines.trimmed[0], NULL) == (list.valid ? 0 : -EINVAL));
  update(lines.trimmed[0], list, room, rctx_text_of(keys[data[2] >> 6]));
  for (int i = 0; i < list.count; i++) {
    struct rctx_text value;
    OUGHT(rctx_tracestate_find(lines.trimmed[0], list.keys[i], &value) == 0);
    OUGHT(value.at == list.keys[i].at + list.keys[i].length + 1);
    OUGHT(value.length == list.members[i].length - list.keys[i].length - 1);
  }
  lines_free(&lines);
  return 0;
}
