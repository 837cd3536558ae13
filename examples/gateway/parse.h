/*
 * parse.h - strict readers for what strangers send: numbers, trace ids, user names.
 */
#ifndef GATEWAY_PARSE_H
#define GATEWAY_PARSE_H

#include <stdbool.h>
#include <stdint.h>

enum { TRACE_ID_MAX = 64 };

/** parse_whole - a whole number in decimal digits and nothing else: no sign, no space, no unit, not empty. What does not
 *  fit in 63 bits becomes INT64_MAX. Returns false, and leaves *value alone, if it is not one. */
bool parse_whole(const char *text, int64_t *value);

/** parse_traceparent - the trace id out of a W3C traceparent header (version-traceid-parent-flags), 32 hex digits. */
bool parse_traceparent(const char *header, char trace_id[TRACE_ID_MAX + 1]);

/** parse_token - 1 to max_length characters out of letters, digits, '-', '_' and '.'. Copied to token. */
bool parse_token(const char *text, int max_length, char *token);

/** make_trace_id - 32 random hex digits. Any thread. */
void make_trace_id(char trace_id[TRACE_ID_MAX + 1]);

#endif
