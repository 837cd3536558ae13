/*
 * rctx/log.h - structured log lines that carry what travels with the request: formatting only, no I/O, no allocation.
 *
 *   {"time":"2026-11-25T09:14:03.120Z","level":"info","msg":"fetched 3 rows","request":"api","trace_id":"4bf9","user":42}
 *
 * A line has, in this order: time (UTC), level, msg; "context", the name of the nearest named context; the visible
 * values whose keys are marked loggable (value.h: RCTX_KEY_LOGGED), nearest first, under the key's name; and once the
 * context has ended: "err" (the number, as rctx_err()), and "cause" (text), "origin" (cancel, end, deadline,
 * parent-deadline, peer, signal, shutdown, memory, misuse, task, user) and "at" ("file:line") of rctx_why(), as far as
 * the cause has them.
 *
 * No name appears twice: of two values under the same name the nearest is written, and a value under a name of the
 * line's own (those above, truncated) gets an underscore appended. A value is a string; a number, true or false if its
 * key says so (RCTX_KEY_NUMBER) and print() gave one; null for a NULL under any other key. What its print() gives
 * beyond 1024 bytes is cut.
 */
#ifndef RCTX_LOG_H
#define RCTX_LOG_H

#include <rctx/value.h>
#include <stdarg.h>

RCTX_BEGIN_DECLS

/** Written as "debug", "info", "warn", "error"; any other number as the nearest of them. */
enum rctx_log_level { RCTX_LOG_DEBUG, RCTX_LOG_INFO, RCTX_LOG_WARN, RCTX_LOG_ERROR };

/**
 * rctx_log_format - write one line of JSON with its closing newline and NUL into @buf.
 *
 * @ctx: borrowed. @format: as printf. Bytes that are not valid UTF-8 are written as U+FFFD; control characters are
 * escaped: a value can not break the line or forge another one. If printf fails (EILSEQ), msg is @format as it stands.
 * Returns: the bytes written without the NUL: always a complete line of valid JSON. If not everything fits, whole
 * members are left out from the end, then msg is cut at a character, and "truncated":true says so (of a value that was
 * cut, too). 0, and an empty string in @buf: @size is less than RCTX_LOG_LINE_MIN.
 * Threads: any. Cost: no allocation, no lock but what printf and the keys' print() do; the wall clock is read once.
 * The thread's errno is kept (%m in @format works).
 */
RCTX_API size_t rctx_log_format(char *buf, size_t size, const rctx *ctx, enum rctx_log_level level, const char *format,
                                ...) RCTX_NONNULL(1, 3, 5) __attribute__((format(printf, 5, 6)));
RCTX_API size_t rctx_log_vformat(char *buf, size_t size, const rctx *ctx, enum rctx_log_level level, const char *format,
                                 va_list values) RCTX_NONNULL(1, 3, 5) __attribute__((format(printf, 5, 0)));
#define RCTX_LOG_LINE_MIN 128

/** rctx_log - the same into a buffer of 4 KiB on the stack, written to @fd by one write(2), so that lines of several
 *  threads and processes do not mix (in a pipe: up to PIPE_BUF). Returns 0 or -errno; -EIO if only a part was taken (a
 *  full disk). A write that a signal interrupted before anything was taken is done again. SIGPIPE comes as from any
 *  write(2). */
RCTX_API int rctx_log(int fd, const rctx *ctx, enum rctx_log_level level, const char *format, ...) RCTX_NONNULL(2, 4)
    __attribute__((format(printf, 4, 5)));

RCTX_END_DECLS
#endif
