/*
 * log.c - one log line of JSON, written straight into the caller's buffer.
 *
 * Every text is first put raw where it will stand (by printf, by a key's print(), by memcpy), then measured, then
 * expanded in place from its end to its start: no character is written in fewer bytes than it has, so what is written
 * never overtakes what is still to be read. So no second buffer is needed, however long the message.
 *
 * A line that has to be cut: `safe` is where it can be, with room left for the "truncated" member. What was written
 * behind it is taken back once something does not fit any more.
 */
#define _GNU_SOURCE
#include "text.h"
#include "value.h"

#include <rctx/log.h>

#include <limits.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define NEED_BUF "buf is NULL (expected where to write the line)"
#define NEED_CTX "ctx is NULL (expected a context)"
#define NEED_FORMAT "format is NULL (expected a format as for printf)"

static const char line_end[] = "}\n";
static const char cut_end[] = ",\"truncated\":true}\n";

/* With their NULs. VALUE_MAX: bytes of one value, before escaping; what is longer is cut. */
enum { END_BYTES = sizeof line_end, CUT_BYTES = sizeof cut_end, VALUE_MAX = 1024, LOG_LINE_BYTES = 4096 };

struct line {
  char *buf;
  size_t size;
  size_t at;
  size_t safe;    /* a line that is cut here has room for cut_end (and a quote, if open) */
  bool open;      /* safe is inside the message: its quote has to be closed */
  bool cut;       /* something was left out */
  bool full;      /* a member did not fit: those behind it are left out, too */
  uint64_t names; /* a bit for the hash of each name of a value written so far */
};

/* ---- text: UTF-8 in, JSON out ------------------------------------------------------------------------------------ */

/* The same for the one that ends before `end`. Valid characters never overlap, so both directions find the same. */
static unsigned character_before(const unsigned char *text, size_t end) {
  for (unsigned length = 1; length <= 4 && length <= end; length++) {
    if (rctx__character(text + end - length, length) == length) return length;
  }
  return 0;
}

struct measure {
  size_t raw;     /* bytes of the text: whole characters */
  size_t written; /* bytes that these take when written */
};

/* How much of the text can be written in `room` bytes. */
static struct measure measure(const char *raw, size_t size, size_t room) {
  const unsigned char *text = (const unsigned char *)raw;
  struct measure m = {0, 0};
  char out[6];
  while (m.raw < size && m.written < room) {
    if (rctx__is_plain(text[m.raw])) {
      m.raw++;
      m.written++;
      continue;
    }
    unsigned length = rctx__character(text + m.raw, size - m.raw);
    unsigned bytes = rctx__write_character(text + m.raw, length, out);
    if (m.written + bytes > room) break;
    m.raw += length ? length : 1;
    m.written += bytes;
  }
  return m;
}

/* Write the first m.raw bytes of the text in its own place, from the end. */
static void expand(char *raw, struct measure m) {
  unsigned char *text = (unsigned char *)raw;
  size_t from = m.raw, to = m.written;
  char out[6];
  while (from < to) {
    unsigned length = character_before(text, from);
    unsigned size = length ? length : 1;
    unsigned bytes = rctx__write_character(text + from - size, length, out);
    from -= size;
    to -= bytes;
    memcpy(text + to, out, bytes);
  }
}

/* ---- putting things into the line: false when they do not fit --------------------------------------------------- */

static size_t room(const struct line *line) { return line->size - END_BYTES - line->at; }

static bool put(struct line *line, const char *text, size_t size) {
  if (size > room(line)) return false;
  memcpy(line->buf + line->at, text, size);
  line->at += size;
  return true;
}

static bool put_text(struct line *line, const char *text) { return put(line, text, strlen(text)); }

/* Escape what stands raw in the line, from here on. */
static bool put_raw(struct line *line, size_t size) {
  struct measure m = measure(line->buf + line->at, size, room(line));
  if (m.raw < size) return false;
  expand(line->buf + line->at, m);
  line->at += m.written;
  return true;
}

static bool put_escaped(struct line *line, const char *text) {
  size_t size = strnlen(text, line->size);
  if (size > room(line)) return false;
  memcpy(line->buf + line->at, text, size);
  return put_raw(line, size);
}

static bool put_number(struct line *line, int64_t number) {
  char digits[20];
  size_t at = sizeof digits;
  uint64_t left = number < 0 ? -(uint64_t)number : (uint64_t)number;
  do digits[--at] = (char)('0' + left % 10);
  while (left /= 10);
  return (number >= 0 || put(line, "-", 1)) && put(line, digits + at, sizeof digits - at);
}

/* What a member's writer returned: a member that did not fit is taken back, and is the last. */
static bool member(struct line *line, size_t start, bool fits) {
  if (!fits) {
    line->at = start;
    line->cut = line->full = true;
  } else if (line->at + CUT_BYTES <= line->size) {
    line->safe = line->at;
    line->open = false;
  }
  return fits;
}

static bool text_member(struct line *line, const char *head, const char *text) {
  size_t start = line->at;
  return member(line, start, put_text(line, head) && put_escaped(line, text) && put_text(line, "\""));
}

/* ---- time, level, msg -------------------------------------------------------------------------------------------- */

/* Year, month and day of a day counted from 1970-01-01; gmtime_r(3) would take a lock and read files. Years are
 * counted from 1 March, so that the leap day is the last of its year; from 1 March 0000 that day is 719468. */
static void civil(int64_t day, int64_t *year, int64_t *month, int64_t *day_of_month) {
  int64_t left = day + 719468;
  int64_t cycle = left / 146097; /* of 400 years */
  left %= 146097;
  int64_t of_cycle = (left - left / 1460 + left / 36524 - left / 146096) / 365;
  left -= of_cycle * 365 + of_cycle / 4 - of_cycle / 100;
  int64_t from_march = (5 * left + 2) / 153;
  *day_of_month = left - (153 * from_march + 2) / 5 + 1;
  *month = from_march < 10 ? from_march + 3 : from_march - 9;
  *year = cycle * 400 + of_cycle + (*month <= 2);
}

static void decimal(char *to, unsigned count, int64_t number) {
  for (; count > 0; number /= 10) to[--count] = (char)('0' + number % 10);
}

/* A clock that is set beyond the years 1970 to 9999 is shown at their edge. */
static void put_time(struct line *line) {
  char text[] = "{\"time\":\"yyyy-mm-ddThh:mm:ss.mmmZ\",\"level\":\"";
  enum { AT = 9 };
  struct timespec now = {0};
  int64_t year, month, day;
  clock_gettime(CLOCK_REALTIME, &now);
  int64_t s = now.tv_sec < 0 ? 0 : now.tv_sec > 253402300799 ? 253402300799 : now.tv_sec;
  civil(s / 86400, &year, &month, &day);
  decimal(text + AT, 4, year);
  decimal(text + AT + 5, 2, month);
  decimal(text + AT + 8, 2, day);
  decimal(text + AT + 11, 2, s / 3600 % 24);
  decimal(text + AT + 14, 2, s / 60 % 60);
  decimal(text + AT + 17, 2, s % 60);
  decimal(text + AT + 20, 3, now.tv_nsec / 1000000);
  put(line, text, sizeof text - 1);
}

static const char *word_of_level(enum rctx_log_level level) {
  static const char *const words[] = {"debug", "info", "warn", "error"};
  int number = (int)level;
  return words[number < 0 ? 0 : number > RCTX_LOG_ERROR ? RCTX_LOG_ERROR : number];
}

/* printf's text, raw, where the line ends now. Returns how long it is; what did not fit is not there. */
static size_t print_message(struct line *line, const char *format, va_list values) {
  size_t space = line->size - line->at;
  int wanted = vsnprintf(line->buf + line->at, space, format, values);
  if (wanted >= 0) return (size_t)wanted;
  size_t length = strnlen(format, line->size); /* printf could not: the format itself is better than nothing */
  memcpy(line->buf + line->at, format, length < space ? length : space);
  return length;
}

/* Always fits: what does not is cut off. There is room for some of it in the shortest line. */
static void put_message(struct line *line, const char *format, va_list values) {
  size_t wanted = print_message(line, format, values);
  size_t space = line->size - line->at, there = wanted < space ? wanted : space - 1;
  char *text = line->buf + line->at;
  struct measure whole = measure(text, there, space - 1 - END_BYTES);
  struct measure part = measure(text, there, space - 1 - CUT_BYTES);
  line->cut = line->full = whole.raw < wanted;
  if (line->cut) whole = part;
  expand(text, whole);
  line->safe = line->at + part.written;
  line->open = true;
  line->at += whole.written;
  line->buf[line->at++] = '"';
  member(line, line->at, true);
}

/* ---- context and values ------------------------------------------------------------------------------------------ */

static const char *nearest_name(const rctx *ctx) {
  for (; ctx; ctx = ctx->parent) {
    const char *name = rctx__value_own(ctx, &rctx__name_key);
    if (name) return name;
  }
  return NULL;
}

static bool is_fixed(const char *name) {
  static const char *const fixed[] = {"time", "level", "msg", "context", "err", "cause", "origin", "at", "truncated"};
  for (size_t i = 0; i < sizeof fixed / sizeof *fixed; i++) {
    if (strcmp(name, fixed[i]) == 0) return true;
  }
  return false;
}

/* Behind a string that begins with the quote at `at`. */
static size_t skip_string(const struct line *line, size_t at) {
  for (at++; line->buf[at] != '"'; at++) at += line->buf[at] == '\\';
  return at + 1;
}

/* Is the string just written, name[0 .. size) with both quotes, the name of an earlier member? As written: two keys
 * may have different names that look the same once invalid bytes are replaced. */
static bool named_before(struct line *line, size_t start, size_t size) {
  const char *name = line->buf + start;
  uint64_t hash = 0, before = line->names;
  for (size_t i = 0; i < size; i++) hash = (hash + (unsigned char)name[i]) * UINT64_C(0x9e3779b97f4a7c15);
  line->names |= UINT64_C(1) << (hash >> 58);
  if (line->names != before) return false;
  for (size_t at = 1; at < start;) {
    size_t end = skip_string(line, at);
    if (end - at == size && memcmp(line->buf + at, name, size) == 0) return true;
    at = end + 1;
    at = line->buf[at] == '"' ? skip_string(line, at) : at + strcspn(line->buf + at, ",");
    at++;
  }
  return false;
}

static size_t skip_digits(const char *text, size_t at) { return at + strspn(text + at, "0123456789"); }

/* Is it what JSON calls a number, or true or false? Such text needs no quotes. */
static bool is_bare(const char *text) {
  if (strcmp(text, "true") == 0 || strcmp(text, "false") == 0) return true;
  size_t at = text[0] == '-', begin = at;
  at = skip_digits(text, at);
  if (at == begin || (text[begin] == '0' && at > begin + 1)) return false;
  if (text[at] == '.') {
    begin = at + 1;
    if ((at = skip_digits(text, begin)) == begin) return false;
  }
  if (text[at] == 'e' || text[at] == 'E') {
    begin = at + 1 + (text[at + 1] == '+' || text[at + 1] == '-');
    if ((at = skip_digits(text, begin)) == begin) return false;
  }
  return text[at] == '\0';
}

/* A value's text, raw, in the line: where it goes with a quote before it. */
struct printed {
  char *text;
  size_t length;
  bool cut; /* there was more of it */
};

static struct printed print_value(struct line *line, const struct rctx_key *key, void *value) {
  char *text = line->buf + line->at + 1;
  size_t space = line->size - line->at - 1, wanted = 0; /* room for the line's end: never too little for a NUL */
  if (space > VALUE_MAX + 1) space = VALUE_MAX + 1;
  text[0] = '\0';
  if (key->print) {
    wanted = key->print(value, text, space);
  } else {
    int length = snprintf(text, space, "%p", value);
    if (length > 0) wanted = (size_t)length;
  }
  text[space - 1] = '\0'; /* whatever print() did */
  size_t length = strlen(text);
  return (struct printed){text, length < wanted ? length : wanted, length == space - 1 && wanted > length};
}

static bool put_value(struct line *line, const struct rctx_key *key, void *value) {
  bool number = (key->flags & RCTX_KEY_NUMBER) != 0;
  if (value == NULL && !number) return put_text(line, "null");
  struct printed printed = print_value(line, key, value);
  printed.text[printed.length] = '\0';
  if (number && !printed.cut && is_bare(printed.text)) {
    if (printed.length > room(line)) return false;
    memmove(printed.text - 1, printed.text, printed.length);
    line->at += printed.length;
    return true;
  }
  if (printed.cut && printed.length < VALUE_MAX) return false; /* by the end of the line */
  if (printed.cut) printed.length = rctx__whole_characters(printed.text, printed.length);
  bool fits = put(line, "\"", 1) && put_raw(line, printed.length) && put(line, "\"", 1);
  line->cut |= printed.cut;
  return fits;
}

static bool value_member(const struct rctx_key *key, void *value, void *arg) {
  struct line *line = arg;
  if (!(key->flags & RCTX_KEY_LOGGABLE)) return true;
  const char *name = key->name ? key->name : "?";
  size_t start = line->at;
  bool fits = put_text(line, ",\"") && put_escaped(line, name) && put_text(line, is_fixed(name) ? "_\"" : "\"");
  if (fits && named_before(line, start + 1, line->at - start - 1)) {
    line->at = start; /* the nearer one counts */
    return true;
  }
  return member(line, start, fits && put(line, ":", 1) && put_value(line, key, value));
}

/* ---- why it ended ------------------------------------------------------------------------------------------------ */

static const char *word_of_origin(int origin) {
  static const char *const words[] = {
      [RCTX_ORIGIN_CANCEL] = "cancel",     [RCTX_ORIGIN_END] = "end",
      [RCTX_ORIGIN_DEADLINE] = "deadline", [RCTX_ORIGIN_PARENT_DEADLINE] = "parent-deadline",
      [RCTX_ORIGIN_PEER] = "peer",         [RCTX_ORIGIN_SIGNAL] = "signal",
      [RCTX_ORIGIN_SHUTDOWN] = "shutdown", [RCTX_ORIGIN_MEMORY] = "memory",
      [RCTX_ORIGIN_MISUSE] = "misuse",     [RCTX_ORIGIN_TASK] = "task"};
  if (origin >= RCTX_ORIGIN_USER) return "user";
  return origin >= 0 && (size_t)origin < sizeof words / sizeof *words ? words[origin] : NULL;
}

static bool err_member(struct line *line, int err) {
  size_t start = line->at;
  return member(line, start, put_text(line, ",\"err\":") && put_number(line, err));
}

static bool at_member(struct line *line, const struct rctx_cause *cause) {
  size_t start = line->at;
  return member(line, start,
                put_text(line, ",\"at\":\"") && put_escaped(line, cause->file) && put(line, ":", 1) &&
                    put_number(line, cause->line) && put(line, "\"", 1));
}

static void put_why(struct line *line, const rctx *ctx) {
  struct rctx_why why;
  if (!rctx__why(ctx, &why)) return; /* a line tells no code of the end: not a look (testing.h) */
  const char *origin = word_of_origin(why.origin);
  const char *text = why.cause->text ? why.cause->text : rctx_strerror(why.err);
  if (!err_member(line, why.err)) return;
  if (!text_member(line, ",\"cause\":\"", text)) return;
  if (origin && !text_member(line, ",\"origin\":\"", origin)) return;
  if (why.cause->file) at_member(line, why.cause);
}

/* ---- the line ---------------------------------------------------------------------------------------------------- */

static size_t finish(struct line *line) {
  if (line->cut && line->at + CUT_BYTES > line->size) {
    line->at = line->safe;
    if (line->open) line->buf[line->at++] = '"';
  }
  const char *end = line->cut ? cut_end : line_end;
  size_t bytes = line->cut ? CUT_BYTES : END_BYTES;
  memcpy(line->buf + line->at, end, bytes);
  return line->at + bytes - 1;
}

/* err: errno as the caller of the log had it. */
static size_t write_line(char *buf, size_t size, const rctx *ctx, enum rctx_log_level level, int err,
                         const char *format, va_list values) {
  struct line line = {.buf = buf, .size = size < INT_MAX ? size : INT_MAX};
  put_time(&line);
  put_text(&line, word_of_level(level));
  put_text(&line, "\",\"msg\":\"");
  errno = err;
  put_message(&line, format, values);
  const char *name = line.full ? NULL : nearest_name(ctx);
  if (name) text_member(&line, ",\"context\":\"", name);
  if (!line.full) rctx_each_value(ctx, value_member, &line);
  if (!line.full) put_why(&line, ctx);
  return finish(&line);
}

size_t rctx_log_vformat(char *buf, size_t size, const rctx *ctx, enum rctx_log_level level, const char *format,
                        va_list values) {
  if (misused(buf == NULL, NEED_BUF)) return 0;
  if (size > 0) buf[0] = '\0';
  if (misused(ctx == NULL, NEED_CTX) || misused(format == NULL, NEED_FORMAT)) return 0;
  if (size < RCTX_LOG_LINE_MIN) return 0;
  int err = errno;
  size_t length = write_line(buf, size, ctx, level, err, format, values);
  errno = err;
  return length;
}

size_t rctx_log_format(char *buf, size_t size, const rctx *ctx, enum rctx_log_level level, const char *format, ...) {
  if (misused(buf == NULL, NEED_BUF)) return 0;
  if (size > 0) buf[0] = '\0';
  if (misused(ctx == NULL, NEED_CTX) || misused(format == NULL, NEED_FORMAT)) return 0;
  va_list values;
  va_start(values, format);
  size_t length = rctx_log_vformat(buf, size, ctx, level, format, values);
  va_end(values);
  return length;
}

int rctx_log(int fd, const rctx *ctx, enum rctx_log_level level, const char *format, ...) {
  if (misused(ctx == NULL, NEED_CTX) || misused(format == NULL, NEED_FORMAT)) return -EINVAL;
  char buf[LOG_LINE_BYTES];
  int err = errno;
  va_list values;
  va_start(values, format);
  size_t length = write_line(buf, sizeof buf, ctx, level, err, format, values);
  va_end(values);
  ssize_t written;
  do written = write(fd, buf, length);
  while (written < 0 && errno == EINTR); /* nothing has been written then */
  int rc = written < 0 ? -errno : (size_t)written < length ? -EIO : 0;
  errno = err;
  return rc;
}
