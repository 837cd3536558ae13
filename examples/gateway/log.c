/* log.c - see log.h. */
#include "log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

static FILE *access_log;
static bool show_debug;

bool log_open(const char *path, bool verbose) {
  show_debug = verbose;
  access_log = path ? fopen(path, "ae") : stderr;
  if (!access_log) fprintf(stderr, "gateway: can not write the access log %s: %s\n", path, strerror(errno));
  return access_log != NULL;
}

void log_flush(void) { fflush(access_log); }

void log_close(void) {
  if (access_log != stderr) fclose(access_log);
  access_log = stderr;
}

/* ---- one line ---------------------------------------------------------------------------------------------------- */

static void append(struct log_line *line, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void append(struct log_line *line, const char *format, ...) {
  size_t room = sizeof line->text - line->length - 3; /* for the closing brace, newline, NUL */
  va_list values;
  va_start(values, format);
  int wanted = vsnprintf(line->text + line->length, room, format, values); /* NOLINT(clang-analyzer-valist*) */
  va_end(values);
  if (wanted > 0)
    line->length += (size_t)wanted < room ? (size_t)wanted : 0; /* a field that does not fit is left out whole */
  line->text[line->length] = '\0';
}

static void escape(const char *value, char *out, size_t size) {
  size_t used = 0;
  for (; *value && used + 7 < size; value++) {
    unsigned char byte = (unsigned char)*value;
    if (byte < 0x20 || byte == '"' || byte == '\\' || byte >= 0x7f)
      used += (size_t)snprintf(out + used, size - used, "\\u%04x", byte);
    else
      out[used++] = *value;
  }
  out[used] = '\0';
}

void log_text(struct log_line *line, const char *name, const char *value) {
  char clean[512];
  escape(value, clean, sizeof clean);
  append(line, ",\"%s\":\"%s\"", name, clean);
}

void log_number(struct log_line *line, const char *name, long long value) { append(line, ",\"%s\":%lld", name, value); }
void log_ms(struct log_line *line, const char *name, double ms) { append(line, ",\"%s\":%.3f", name, ms); }

static void add_value(const char *name, const char *text, void *arg) { log_text(arg, name, text); }

void log_begin(struct log_line *line, const struct scope *scope) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  line->length = 0;
  append(line, "{\"time\":%lld.%06ld", (long long)now.tv_sec, now.tv_nsec / 1000);
  if (scope) scope_each_value(scope, add_value, line);
}

void log_end(struct log_line *line) {
  memcpy(line->text + line->length, "}\n", 3);
  fputs(line->text, access_log);
}

/* ---- messages ---------------------------------------------------------------------------------------------------- */

struct tail {
  char text[512];
  size_t length;
};

static void add_pair(const char *name, const char *text, void *arg) {
  struct tail *tail = arg;
  int wanted = snprintf(tail->text + tail->length, sizeof tail->text - tail->length, " %s=%s", name, text);
  if (wanted > 0 && (size_t)wanted < sizeof tail->text - tail->length) tail->length += (size_t)wanted;
}

void log_message(const struct scope *scope, enum log_level level, const char *format, ...) {
  static const char *const names[] = {"debug", "info", "warn", "error"};
  char message[512], clean[600], stamp[32];
  struct tail tail = {.length = 0, .text = ""};
  struct timespec now;
  struct tm utc;
  va_list values;
  if (level == LOG_DEBUG && !show_debug) return;
  va_start(values, format);
  vsnprintf(message, sizeof message, format, values); /* NOLINT(clang-analyzer-valist*): it was started */
  va_end(values);
  escape(message, clean, sizeof clean);
  if (scope) scope_each_value(scope, add_pair, &tail);
  tail.text[tail.length] = '\0';
  clock_gettime(CLOCK_REALTIME, &now);
  strftime(stamp, sizeof stamp, "%H:%M:%S", gmtime_r(&now.tv_sec, &utc));
  fprintf(stderr, "%s.%03ld %s: %s%s\n", stamp, now.tv_nsec / 1000000, names[level], clean, tail.text);
}
