/*
 * codec.h - what the header codecs share: texts, characters, lists, numbers, refusing, headers by name. See
 * rctx/propagate.h.
 *
 * All of it is pure but rctx__count_fault(). A text is only looked at from at to at + length; nothing is ever taken for
 * a C string except keys' names and what is our own.
 */
#ifndef RCTX_CORE_PROPAGATE_CODEC_H
#define RCTX_CORE_PROPAGATE_CODEC_H

#include "platform.h"

#include <rctx/propagate.h>

#include <string.h>

/* Results are int; the limits of propagate.h keep every length far below. */
_Static_assert(RCTX_TRACESTATE_BYTES_MAX < 1 << 20 && RCTX_BAGGAGE_BYTES_MAX < 1 << 20, "lengths fit an int");

#define NEED_CTX "ctx is NULL (expected a context)"
#define NEED_TEXT "a text is NULL but not empty"

/** A text that says it has bytes and has none. */
static inline bool is_broken(struct rctx_text text) { return text.at == NULL && text.length > 0; }

/** Say why, and that it is refused. */
static inline int refuse(enum rctx_fault *fault, enum rctx_fault why) {
  if (fault) *fault = why;
  return why == RCTX_FAULT_NONE ? 0 : -EINVAL;
}

/* ---- characters -------------------------------------------------------------------------------------------------- */

static inline bool is_digit(char c) { return c >= '0' && c <= '9'; }
static inline bool is_lower(char c) { return c >= 'a' && c <= 'z'; }
static inline bool is_space(char c) { return c == ' ' || c == '\t'; }
static inline char to_lower(char c) { return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c; }

/* ---- texts ------------------------------------------------------------------------------------------------------- */

static inline struct rctx_text text_between(const char *at, const char *end) {
  return (struct rctx_text){at, (size_t)(end - at)};
}

static inline struct rctx_text trimmed(struct rctx_text text) {
  while (text.length > 0 && is_space(text.at[text.length - 1])) text.length--;
  while (text.length > 0 && is_space(*text.at)) {
    text.at++;
    text.length--;
  }
  return text;
}

static inline bool same_text(struct rctx_text a, struct rctx_text b) {
  return a.length == b.length && (a.length == 0 || memcmp(a.at, b.at, a.length) == 0);
}

/** The place of the first c, or NULL. */
static inline const char *find_char(struct rctx_text text, char c) {
  return text.length > 0 ? memchr(text.at, c, text.length) : NULL;
}

/** Take what stands before the first separator, or all, off the rest, which then begins behind it. False once the rest
 *  is used up: its at is NULL then, so that "a," has two items and "" has one. */
static inline bool take_item(struct rctx_text *rest, char separator, struct rctx_text *item) {
  if (rest->at == NULL) return false;
  const char *end = rest->at + rest->length, *at = find_char(*rest, separator);
  *item = text_between(rest->at, at ? at : end);
  *rest = at ? text_between(at + 1, end) : (struct rctx_text){NULL, 0};
  return true;
}

/* ---- decimal numbers --------------------------------------------------------------------------------------------- */

/** Read a positive number of 1 to digits_max (at most 18) digits that is the whole text. */
enum rctx_fault rctx__read_number(struct rctx_text text, unsigned digits_max, int64_t *number);

/** Write number and, if not 0, a unit and the closing NUL. Returns the length or -ENOSPC. */
int rctx__write_number(int64_t number, char unit, char *buf, size_t size);

/* ---- time -------------------------------------------------------------------------------------------------------- */

/** What to say of a context whose budget is 0: the error it has ended with, or that time has run out. */
static inline int rctx__why_nothing_is_left(const rctx *ctx) {
  int err = rctx_err(ctx);
  return err ? err : -ETIMEDOUT;
}

/* ---- headers ----------------------------------------------------------------------------------------------------- */

/** Which of ours a header is. */
enum rctx_header_id rctx__header_id(struct rctx_text name);

/** The next header with this name, its value without white space around it. */
bool rctx__next_named(const struct rctx_headers *headers, struct rctx_cursor *cursor, enum rctx_header_id id,
                      struct rctx_text *value);

/** One more refused; RCTX_FAULT_NONE counts nothing. */
void rctx__count_fault(enum rctx_header_id header, enum rctx_fault fault);

#endif
