/*
 * log.h - messages for the operator on standard error, and the access log.
 *
 * Both take the scope they speak about and write down every value that travels with it: that is how each line carries the
 * trace id without anybody passing it along. Any thread.
 */
#ifndef GATEWAY_LOG_H
#define GATEWAY_LOG_H

#include "scope.h"

#include <stdbool.h>
#include <stddef.h>

/** log_open - path NULL: the access log goes to standard error as well, each line at once. */
bool log_open(const char *path, bool verbose);
void log_close(void);
void log_flush(void);

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR };

/** log_message - scope may be NULL. LOG_DEBUG is shown with --verbose only. */
void log_message(const struct scope *scope, enum log_level level, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/** A JSON object being written; too long a line is cut, never overrun. */
struct log_line {
  char text[2048];
  size_t length;
};
void log_begin(struct log_line *line, const struct scope *scope);
void log_number(struct log_line *line, const char *name, long long value);
void log_ms(struct log_line *line, const char *name, double ms);
void log_text(struct log_line *line, const char *name, const char *value);
/** log_end - write it to the access log. */
void log_end(struct log_line *line);

#endif
