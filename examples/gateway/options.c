/* options.c - see options.h. */
#include "options.h"

#include "parse.h"

#include <getopt.h>
#include <stdio.h>
#include <string.h>

static const char usage[] =
    "usage: gateway --upstream NAME=HOST:PORT [--upstream ...] [options]\n"
    "  --upstream NAME=HOST:PORT  a service whose answer goes into the merged one; 1 to 8 of them\n"
    "  --host ADDRESS             where to listen (127.0.0.1)\n"
    "  --port N                   0: any free one (8080)\n"
    "  --workers N                event-loop threads (1)\n"
    "  --timeout-ms N             deadline of requests without x-request-timeout-ms (1000)\n"
    "  --reserve-ms N             kept back from the time told to upstreams (5)\n"
    "  --drain-ms N               time that running requests get after SIGTERM (5000)\n"
    "  --call-timeout-ms N        built without contexts only: limit of each call upstream (1000)\n"
    "  --tell-call-timeout        built without contexts only: send that limit upstream, as x-request-timeout-ms\n"
    "  --access-log FILE          JSON lines; standard error if not given\n"
    "  --verbose                  also a line per upstream call\n"
    "  --help\n";

static bool add_upstream(struct options *options, const char *text) {
  const char *equals = strchr(text, '='), *colon = strrchr(text, ':');
  int64_t port;
  if (options->nupstreams == UPSTREAMS_MAX || !equals || !colon || colon < equals + 2 || equals == text) return false;
  struct upstream *upstream = &options->upstreams[options->nupstreams];
  size_t name_length = (size_t)(equals - text);
  if (name_length >= sizeof upstream->name || strlen(equals + 1) >= sizeof upstream->address) return false;
  if (!parse_whole(colon + 1, &port) || port < 1 || port > 65535) return false;
  char name[sizeof upstream->name];
  memcpy(name, text, name_length);
  name[name_length] = '\0';
  if (!parse_token(name, (int)sizeof upstream->name - 1, upstream->name)) return false;
  memcpy(upstream->address, equals + 1, strlen(equals + 1) + 1);
  options->nupstreams++;
  return true;
}

enum {
  OPTION_HELP = 'h',
  OPTION_VERBOSE = 'v',
  OPTION_UPSTREAM = 'u',
  OPTION_HOST = 'H',
  OPTION_LOG = 'l',
  OPTION_TELL = 't',
  NUMBERS = 256
};

static const struct option names[] = {{"upstream", required_argument, NULL, OPTION_UPSTREAM},
                                      {"host", required_argument, NULL, OPTION_HOST},
                                      {"access-log", required_argument, NULL, OPTION_LOG},
                                      {"verbose", no_argument, NULL, OPTION_VERBOSE},
                                      {"tell-call-timeout", no_argument, NULL, OPTION_TELL},
                                      {"help", no_argument, NULL, OPTION_HELP},
                                      {"port", required_argument, NULL, NUMBERS + 0},
                                      {"workers", required_argument, NULL, NUMBERS + 1},
                                      {"timeout-ms", required_argument, NULL, NUMBERS + 2},
                                      {"reserve-ms", required_argument, NULL, NUMBERS + 3},
                                      {"drain-ms", required_argument, NULL, NUMBERS + 4},
                                      {"call-timeout-ms", required_argument, NULL, NUMBERS + 5},
                                      {NULL, 0, NULL, 0}};

static bool set_number(struct options *options, int which, const char *name, const char *text) {
  const struct {
    int64_t *to, min, max;
  } numbers[] = {{&options->port, 0, 65535},
                 {&options->workers, 1, WORKERS_MAX},
                 {&options->timeout_ms, TIMEOUT_MS_MIN, TIMEOUT_MS_MAX},
                 {&options->reserve_ms, 0, 1000},
                 {&options->drain_ms, 0, 600000},
                 {&options->call_timeout_ms, 1, 600000}};
  int64_t value;
  if (!parse_whole(text, &value) || value < numbers[which].min || value > numbers[which].max) {
    fprintf(stderr, "gateway: --%s %s: expected a whole number from %lld to %lld\n", name, text,
            (long long)numbers[which].min, (long long)numbers[which].max);
    return false;
  }
  *numbers[which].to = value;
  return true;
}

static bool set_option(struct options *options, int option, int index) {
  switch (option) {
  case OPTION_UPSTREAM:
    if (add_upstream(options, optarg)) return true;
    fprintf(stderr, "gateway: --upstream %s: expected NAME=HOST:PORT, at most %d times\n", optarg, UPSTREAMS_MAX);
    return false;
  case OPTION_HOST:
    options->host = optarg;
    return true;
  case OPTION_LOG:
    options->access_log = optarg;
    return true;
  case OPTION_TELL:
    options->tell_call_timeout = true;
    return true;
  case OPTION_VERBOSE:
    options->verbose = true;
    return true;
  default:
    return option >= NUMBERS && set_number(options, option - NUMBERS, names[index].name, optarg);
  }
}

int options_parse(int argc, char **argv, struct options *options, bool *done) {
  int option, index = 0;
  *done = true;
  *options = (struct options){.host = "127.0.0.1",
                              .port = 8080,
                              .workers = 1,
                              .timeout_ms = 1000,
                              .call_timeout_ms = 1000,
                              .reserve_ms = 5,
                              .drain_ms = 5000};
  while ((option = getopt_long(argc, argv, "", names, &index)) != -1) {
    if (option == OPTION_HELP) {
      fputs(usage, stdout);
      return 0;
    }
    if (!set_option(options, option, index)) {
      fputs("gateway: try --help\n", stderr);
      return 2;
    }
  }
  if (optind < argc)
    fprintf(stderr, "gateway: %s: not an option\n%s", argv[optind], usage);
  else if (options->nupstreams == 0)
    fprintf(stderr, "gateway: no --upstream given\n%s", usage);
  else
    *done = false;
  return *done ? 2 : 0;
}
