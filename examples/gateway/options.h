/*
 * options.h - what can be chosen on the gateway's command line.
 */
#ifndef GATEWAY_OPTIONS_H
#define GATEWAY_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

enum { UPSTREAMS_MAX = 8, WORKERS_MAX = 64, TIMEOUT_MS_MIN = 1, TIMEOUT_MS_MAX = 60000 };

struct upstream {
  char name[32];
  char address[96]; /* host:port */
};

struct options {
  const char *host;
  int64_t port; /* 0: any free one */
  int64_t workers;
  int64_t timeout_ms;      /* of a request that does not say */
  int64_t call_timeout_ms; /* without contexts: the fixed limit of each call upstream */
  bool tell_call_timeout;  /* without contexts: whether upstreams are told that limit */
  int64_t reserve_ms;      /* with contexts: kept back from what is told to an upstream, for the way home */
  int64_t drain_ms;        /* after SIGTERM */
  const char *access_log;  /* NULL: standard error */
  bool verbose;
  struct upstream upstreams[UPSTREAMS_MAX];
  int nupstreams;
};

/** options_parse - fill options. Returns 0; or the exit code after a message: 0 after --help (done set), 2 when wrong. */
int options_parse(int argc, char **argv, struct options *options, bool *done);

#endif
