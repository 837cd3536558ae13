/*
 * request.h - one client's request, from its arrival until the last thing done for it has ended.
 *
 *   begin --> calls under way --> all answered --> answer 200 ------------------------------------> over: log, free
 *                 |                                                                                   ^
 *                 +--> its scope stops, and with it the calls (deadline,                              |
 *                      hang-up, failed upstream, shutdown) --> answer 502, 503, 504, or nobody --> last call is over
 *                                                              left to answer
 *
 * Answered and over are two moments: without contexts the calls of an answered request may run on.
 */
#ifndef GATEWAY_REQUEST_H
#define GATEWAY_REQUEST_H

#include "worker.h"

struct evhttp_request;

/** request_begin - take over what evhttp has read. Always answers, if the client stays. */
void request_begin(struct worker *worker, struct evhttp_request *http);

#endif
