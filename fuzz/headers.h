// headers.h - what the harnesses of header codecs share: a check, texts in allocations of their own, and a scanner for
// slow parsers.
//
// Each harness holds the codec against a parser that is written from the ABNF of the standard, one function for each
// rule, that takes one character after the other and never looks back: nothing of it is the library's.
#ifndef RCTX_FUZZ_HEADERS_H
#define RCTX_FUZZ_HEADERS_H

#include "ought.h"

#include <rctx/propagate.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// An allocation of exactly the bytes: ASan sees one read too many. To be freed by unbox().
static inline struct rctx_text box(const void *bytes, size_t length) {
  char *at = malloc(length ? length : 1);
  OUGHT(at != NULL);
  if (length) memcpy(at, bytes, length);
  return (struct rctx_text){at, length};
}

__attribute__((unused)) static void unbox(struct rctx_text text) { free((void *)(uintptr_t)text.at); }

// ---- the scanner: at the end next() gives END, which no rule takes

enum { END = -1 };

struct scanner {
  const char *at, *end;
};

static inline struct scanner scan(struct rctx_text text) { return (struct scanner){text.at, text.at + text.length}; }
static inline int next(const struct scanner *s) { return s->at < s->end ? (unsigned char)*s->at : END; }
static inline bool in(int c, const char *set) { return c > 0 && strchr(set, c) != NULL; }
static inline bool take(struct scanner *s, int c) {
  if (next(s) != c) return false;
  s->at++;
  return true;
}
__attribute__((unused)) static void take_ows(struct scanner *s) {
  while (take(s, ' ') || take(s, '\t')) {
  }
}

// ---- lines of the input as headers

enum { LINES_MAX = 64 };

struct lines {
  struct rctx_header headers[LINES_MAX];
  struct rctx_text trimmed[LINES_MAX]; // values without white space around them
  size_t count;
};

__attribute__((unused)) static void lines_make(struct lines *lines, const char *name, const uint8_t *data, size_t size,
                                               unsigned times) {
  lines->count = 0;
  while (times-- > 0) {
    for (size_t from = 0, to; from <= size && lines->count < LINES_MAX; from = to + 1) {
      for (to = from; to < size && data[to] != '\n'; to++) {
      }
      struct rctx_text value = box(data + from, to - from), bare = value;
      while (bare.length && in(bare.at[0], " \t")) bare = (struct rctx_text){bare.at + 1, bare.length - 1};
      while (bare.length && in(bare.at[bare.length - 1], " \t")) bare.length--;
      lines->trimmed[lines->count] = bare;
      lines->headers[lines->count++] = (struct rctx_header){rctx_text_of(name), value};
    }
  }
}

__attribute__((unused)) static void lines_free(struct lines *lines) {
  for (size_t i = 0; i < lines->count; i++) unbox(lines->headers[i].value);
}

#endif
