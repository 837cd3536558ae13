/*
 * upstream_call.h - one call to one upstream service on behalf of one request.
 *
 *   new --start--> running --answer, error, timeout--> over (ok, failed, late)
 *     |               +----- its scope was told to stop --> over (stopped)
 *     +-- nothing left of the deadline --> over (not made)
 *
 * It reports exactly once, by calling `over`, and then only waits to be cleared. It belongs to its loop's thread.
 */
#ifndef GATEWAY_UPSTREAM_CALL_H
#define GATEWAY_UPSTREAM_CALL_H

#include "scope.h"
#include "transfers.h"

#include <jansson.h>

enum call_result { CALL_RUNNING, CALL_OK, CALL_FAILED, CALL_LATE, CALL_STOPPED, CALL_NOT_MADE };

struct upstream_call {
  const struct upstream *to;
  struct transfers *transfers;
  void (*over)(struct upstream_call *call);
  void *owner;
  struct scope *scope; /* until it is over */
  struct transfer transfer;
  struct curl_slist *headers;
  char *body;
  size_t length, capacity;
  int64_t started_ns, ended_ns;
  enum call_result result;
  json_t *answer; /* when ok */
  char why[160];  /* when failed or late */
};

/** call_start - below the scope of the request. `over` may be called before this returns. user: for the query, or "". */
void call_start(struct upstream_call *call, struct scope *request, const char *trace_id, const char *user);

/** call_clear - free what an ended call holds. */
void call_clear(struct upstream_call *call);

const char *call_result_name(enum call_result result);

#endif
