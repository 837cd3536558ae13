/*
 * text.h - text that came from outside, written as JSON does: log.c in place, observe.c into its output.
 *
 * UTF-8 in; what is not, U+FFFD out, one for each byte. What comes out has no control character and no lone quote or
 * backslash.
 */
#ifndef RCTX_CORE_TEXT_H
#define RCTX_CORE_TEXT_H

#include "platform.h"

#include <string.h>

/* The bytes of the valid UTF-8 character that begins here; 0: none does. */
static inline unsigned rctx__character(const unsigned char *text, size_t size) {
  static const uint32_t smallest[] = {0, 0, 0x80, 0x800, 0x10000};
  unsigned char lead = text[0];
  if (lead < 0x80) return 1;
  unsigned length = lead < 0xc0 ? 0 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : lead < 0xf8 ? 4 : 0;
  if (length == 0 || length > size) return 0;
  uint32_t code = lead & (0x7fU >> length);
  for (unsigned i = 1; i < length; i++) {
    if ((text[i] & 0xc0) != 0x80) return 0;
    code = code << 6 | (text[i] & 0x3fU);
  }
  bool surrogate = code >= 0xd800 && code <= 0xdfff;
  return code < smallest[length] || surrogate || code > 0x10ffff ? 0 : length;
}

static inline bool rctx__is_plain(unsigned char byte) {
  return byte >= ' ' && byte < 0x7f && byte != '"' && byte != '\\';
}

static inline unsigned rctx__escape_code(uint32_t code, char out[6]) {
  static const char digits[] = "0123456789abcdef";
  memcpy(out, "\\u", 2);
  for (unsigned i = 0; i < 4; i++) out[2 + i] = digits[code >> (12 - 4 * i) & 15];
  return 6;
}

/* How a character is written (length 0: a byte that is part of none). Beyond what JSON asks for: nothing that a
 * terminal takes for a command (DEL, C1), and nothing that JavaScript takes for the end of a line (U+2028, U+2029). */
static inline unsigned rctx__write_character(const unsigned char *text, unsigned length, char out[6]) {
  static const char short_forms[] = "\bb\ff\nn\rr\tt\"\"\\\\";
  if (length == 0) {
    memcpy(out, "\xef\xbf\xbd", 3);
    return 3;
  }
  if (length == 1 && !rctx__is_plain(text[0])) {
    for (const char *form = short_forms; *form; form += 2) {
      if ((unsigned char)*form != text[0]) continue;
      out[0] = '\\';
      out[1] = form[1];
      return 2;
    }
    return rctx__escape_code(text[0], out);
  }
  if (length == 2 && text[0] == 0xc2 && text[1] < 0xa0) return rctx__escape_code(text[1], out);
  if (length == 3 && text[0] == 0xe2 && text[1] == 0x80 && (text[2] | 1) == 0xa9)
    return rctx__escape_code(0x2000U | (text[2] & 0x3fU), out);
  memcpy(out, text, length);
  return length;
}

/* The length of a text that was cut at `size` bytes, without the beginning of a character at its end. */
static inline size_t rctx__whole_characters(const char *raw, size_t size) {
  for (size_t i = 1; i <= 3 && i <= size; i++) {
    unsigned char byte = (unsigned char)raw[size - i];
    if ((byte & 0xc0) == 0x80) continue;
    size_t length = byte < 0xc0 ? 1 : byte < 0xe0 ? 2 : byte < 0xf0 ? 3 : 4;
    return length > i ? size - i : size;
  }
  return size;
}

#endif
