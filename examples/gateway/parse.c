/* parse.c - see parse.h. */
#include "parse.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

bool parse_whole(const char *text, int64_t *value) {
  int64_t sum = 0;
  if (!*text) return false;
  for (; *text; text++) {
    if (*text < '0' || *text > '9') return false;
    int digit = *text - '0';
    sum = sum > (INT64_MAX - digit) / 10 ? INT64_MAX : sum * 10 + digit;
  }
  *value = sum;
  return true;
}

static bool hex_run(const char *text, int length, bool *all_zero) {
  *all_zero = true;
  for (int i = 0; i < length; i++) {
    if (!isdigit((unsigned char)text[i]) && !(text[i] >= 'a' && text[i] <= 'f')) return false;
    if (text[i] != '0') *all_zero = false;
  }
  return true;
}

bool parse_traceparent(const char *header, char trace_id[TRACE_ID_MAX + 1]) {
  bool zero;
  if (strlen(header) < 55 || header[2] != '-' || header[35] != '-' || header[52] != '-') return false;
  if (!hex_run(header, 2, &zero) || strncmp(header, "ff", 2) == 0) return false;
  if (strncmp(header, "00", 2) == 0 && header[55]) return false;
  if (!hex_run(header + 36, 16, &zero) || zero || !hex_run(header + 53, 2, &zero)) return false;
  if (!hex_run(header + 3, 32, &zero) || zero) return false;
  memcpy(trace_id, header + 3, 32);
  trace_id[32] = '\0';
  return true;
}

bool parse_token(const char *text, int max_length, char *token) {
  int length = 0;
  for (; text[length]; length++) {
    if (length == max_length || !(isalnum((unsigned char)text[length]) || strchr("-_.", text[length]))) return false;
  }
  if (length == 0) return false;
  memcpy(token, text, (size_t)length + 1);
  return true;
}

/* xoshiro256**, seeded once per thread by the kernel: unique enough for logs, and no system call per request. */
static uint64_t random_bits(void) {
  static _Thread_local uint64_t s[4];
  if (!(s[0] | s[1] | s[2] | s[3]) && getrandom(s, sizeof s, 0) != (ssize_t)sizeof s) s[0] = (uint64_t)time(NULL) | 1;
  uint64_t product = s[1] * 5, result = (product << 7 | product >> 57) * 9, t = s[1] << 17;
  s[2] ^= s[0];
  s[3] ^= s[1];
  s[1] ^= s[2];
  s[0] ^= s[3];
  s[2] ^= t;
  s[3] = s[3] << 45 | s[3] >> 19;
  return result;
}

void make_trace_id(char trace_id[TRACE_ID_MAX + 1]) {
  static const char hex[] = "0123456789abcdef";
  for (int word = 0; word < 2; word++) {
    uint64_t bits = random_bits();
    for (int i = 0; i < 16; i++, bits >>= 4) trace_id[word * 16 + i] = hex[bits & 15];
  }
  trace_id[32] = '\0';
}
