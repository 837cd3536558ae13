// texts.h - texts for codecs: boxed() copies bytes into an allocation of exactly their length, so that ASan and
// valgrind see each byte read outside; no NUL follows. texts_free() gives them back; it is a suite's .fini.
#ifndef RCTX_TESTS_TEXTS_H
#define RCTX_TESTS_TEXTS_H

#include "support/check.h"

#include <rctx/propagate.h>
#include <stdlib.h>
#include <string.h>

enum { TEXTS_MAX = 4096 };

static struct {
  void *blocks[TEXTS_MAX];
  size_t next;
} texts;

// Of the last TEXTS_MAX ones at most; the older ones are gone.
static inline struct rctx_text boxed(const void *bytes, size_t length) {
  size_t at = texts.next++ % TEXTS_MAX;
  free(texts.blocks[at]);
  texts.blocks[at] = malloc(length ? length : 1);
  if (texts.blocks[at] == NULL) abort();
  if (length) memcpy(texts.blocks[at], bytes, length);
  return (struct rctx_text){length ? texts.blocks[at] : (char *)texts.blocks[at] + 1, length};
}

static inline struct rctx_text text(const char *string) { return boxed(string, strlen(string)); }

__attribute__((unused)) static void texts_free(void) {
  for (size_t i = 0; i < TEXTS_MAX; i++) free(texts.blocks[i]);
  memset(&texts, 0, sizeof texts);
}

static inline bool text_is(struct rctx_text t, const char *string) {
  return t.length == strlen(string) && (t.length == 0 || memcmp(t.at, string, t.length) == 0);
}

// n times c, as a C string. Of the last four calls at most.
__attribute__((unused)) static const char *many(char c, size_t n) {
  static char rows[4][9000];
  static int at;
  char *row = rows[at++ % 4];
  if (n >= sizeof rows[0]) abort();
  memset(row, c, n);
  row[n] = 0;
  return row;
}

// The headers of a message: header("name", "value") once for each, then headers().
static struct {
  struct rctx_header array[256];
  size_t count;
} message;

static inline void header(const char *name, const char *value) {
  message.array[message.count++] = (struct rctx_header){text(name), text(value)};
}

static inline const struct rctx_headers *headers(void) {
  static struct rctx_headers all;
  all = rctx_headers_of(message.array, message.count);
  return &all;
}

static inline void message_clear(void) { message.count = 0; }

#endif
