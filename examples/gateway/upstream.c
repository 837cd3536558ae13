/*
 * upstream.c - a small upstream service with artificial latency and failures: what the gateway calls in the tour and tests.
 *
 * A call is work of a certain length, drawn from a seeded distribution, done in small steps. Nothing is computed: the service
 * is busy for that call during that time, as it would be with a database. Between two steps it looks whether it may stop:
 * its caller has closed the connection, or the time that came with x-request-timeout-ms is over (unless told to be deaf to
 * that header). Since nothing is computed, one timer at the step in question does the same as a timer for each step.
 *
 * For each call one line is written to --log: trace id, begin, end (microseconds of CLOCK_MONOTONIC), work that was planned
 * (microseconds), how it ended, the budget it was told (ms, -1: none). Whether somebody still waited for that work is for the
 * reader to say: only the client's side knows when it left.
 *
 *   GET /NAME[?user=NAME]  the service          GET /control?median_ms=..&fail_percent=..   change any setting (see settings[])
 *   GET /stats             what it has done
 */
#include "clock.h"
#include "hangup.h"
#include "parse.h"

#include <event2/buffer.h>
#include <event2/event.h>
#include <event2/event_struct.h>
#include <event2/http.h>
#include <event2/keyvalq_struct.h>
#include <getopt.h>
#include <netdb.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum end { END_DONE, END_FAILED, END_CALLER_GONE, END_BUDGET, ENDS };
static const char *const end_names[ENDS] = {"done", "failed", "caller-gone", "out-of-budget"};

/* What can be set by option and by /control. */
enum { MEDIAN_MS, SPREAD_PERCENT, SLOW_PERCENT, SLOW_MS, FAIL_PERCENT, FAIL_MS, STEP_MS, HEED_BUDGET, SEED, NSETTINGS };
static struct {
  const char *name;
  int64_t value, max;
} settings[NSETTINGS] = {
    [MEDIAN_MS] = {"median_ms", 5, 60000},          /* of an ordinary call */
    [SPREAD_PERCENT] = {"spread_percent", 50, 100}, /* uniformly so much below and above it */
    [SLOW_PERCENT] = {"slow_percent", 0, 100},      /* so many calls ... */
    [SLOW_MS] = {"slow_ms", 500, 60000},            /* ... take so long instead */
    [FAIL_PERCENT] = {"fail_percent", 0, 100},      /* so many calls answer 500 ... */
    [FAIL_MS] = {"fail_ms", 5, 60000},              /* ... after so long */
    [STEP_MS] = {"step_ms", 2, 1000},
    [HEED_BUDGET] = {"heed_budget", 1, 1},
    [SEED] = {"seed", 1, INT64_MAX},
};

static struct {
  const char *name;
  struct event_base *base;
  struct hangup_loop *hangups;
  FILE *log;
  uint64_t random;
  uint64_t ends[ENDS];
  int64_t running;
  uint64_t work_us, after_gone_us; /* after_gone: from noticing that the caller has gone to the end of the step */
} service;

struct call {
  struct evhttp_request *http;
  struct hangup_watch hangup;
  struct event timer;
  int64_t started_ns, planned_ns, budget_end_ns, gone_ns; /* 0: none */
  int64_t budget_ms;
  bool fails;
  char trace_id[TRACE_ID_MAX + 1];
};

/* ---- the distribution -------------------------------------------------------------------------------------------- */

static int64_t draw(int64_t below) { /* splitmix64 */
  uint64_t z = service.random += UINT64_C(0x9e3779b97f4a7c15);
  z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
  z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
  return (int64_t)((z ^ (z >> 31)) % (uint64_t)below);
}

static int64_t draw_work_ns(int64_t user_ms, bool *fails) {
  int64_t median_us = settings[MEDIAN_MS].value * 1000, spread_us = median_us * settings[SPREAD_PERCENT].value / 100;
  *fails = draw(100) < settings[FAIL_PERCENT].value;
  if (*fails) return settings[FAIL_MS].value * NS_PER_MS;
  if (user_ms) return user_ms * NS_PER_MS;
  if (draw(100) < settings[SLOW_PERCENT].value) return settings[SLOW_MS].value * NS_PER_MS;
  return (median_us - spread_us + draw(2 * spread_us + 1)) * NS_PER_US;
}

/* ---- one call ---------------------------------------------------------------------------------------------------- */

static void reply(struct evhttp_request *http, int status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static void reply(struct evhttp_request *http, int status, const char *format, ...) {
  struct evbuffer *body = evbuffer_new();
  va_list values;
  va_start(values, format);
  if (body) evbuffer_add_vprintf(body, format, values);
  va_end(values);
  evhttp_add_header(evhttp_request_get_output_headers(http), "Content-Type", "application/json");
  evhttp_send_reply(http, status, NULL, body);
  if (body) evbuffer_free(body);
}

static void leave(struct call *call, enum end end) {
  switch (end) {
  case END_DONE:
    reply(call->http, 200, "{\"service\":\"%s\",\"worked_ms\":%.1f,\"budget_ms\":%lld}", service.name,
          ns_to_ms(call->planned_ns), (long long)call->budget_ms);
    break;
  case END_FAILED:
    reply(call->http, 500, "{\"error\":\"artificial failure\"}");
    break;
  case END_BUDGET:
    reply(call->http, 504, "{\"error\":\"no time left\"}");
    break;
  default:
    evhttp_connection_free(evhttp_request_get_connection(call->http));
  }
}

static void end_call(struct call *call, enum end end) {
  int64_t now = clock_ns();
  service.ends[end]++;
  service.work_us += (uint64_t)((now - call->started_ns) / NS_PER_US);
  if (call->gone_ns) service.after_gone_us += (uint64_t)((now - call->gone_ns) / NS_PER_US);
  if (service.log)
    fprintf(service.log, "%s %lld %lld %lld %s %lld\n", call->trace_id, (long long)(call->started_ns / NS_PER_US),
            (long long)(now / NS_PER_US), (long long)(call->planned_ns / NS_PER_US), end_names[end],
            (long long)call->budget_ms);
  service.running--;
  hangup_watch_stop(service.hangups, &call->hangup);
  event_del(&call->timer);
  leave(call, end);
  free(call);
}

static void step_over(evutil_socket_t fd, short what, void *arg) {
  struct call *call = arg;
  (void)fd;
  (void)what;
  if (call->gone_ns)
    end_call(call, END_CALLER_GONE);
  else if (call->budget_end_ns && clock_ns() >= call->budget_end_ns)
    end_call(call, END_BUDGET);
  else
    end_call(call, call->fails ? END_FAILED : END_DONE);
}

static void wake_at(struct call *call, int64_t at_ns) {
  int64_t left_us = (at_ns - clock_ns() + NS_PER_US - 1) / NS_PER_US;
  struct timeval after = {.tv_sec = left_us / 1000000, .tv_usec = left_us % 1000000};
  if (left_us < 0) after = (struct timeval){0};
  event_add(&call->timer, &after);
}

/* The end of the step that is under way at that moment; not later than the end of the work. */
static int64_t step_end(const struct call *call, int64_t at_ns) {
  int64_t step_ns = settings[STEP_MS].value * NS_PER_MS;
  int64_t end = call->started_ns + ((at_ns - call->started_ns) / step_ns + 1) * step_ns;
  return end < call->started_ns + call->planned_ns ? end : call->started_ns + call->planned_ns;
}

static void caller_gone(void *arg) {
  struct call *call = arg;
  call->gone_ns = clock_ns();
  wake_at(call, step_end(call, call->gone_ns));
}

static void read_headers(struct call *call) {
  const struct evkeyvalq *headers = evhttp_request_get_input_headers(call->http);
  const char *trace_id = evhttp_find_header(headers, "x-trace-id");
  const char *budget = evhttp_find_header(headers, "x-request-timeout-ms");
  if (!trace_id || !parse_token(trace_id, TRACE_ID_MAX, call->trace_id)) memcpy(call->trace_id, "-", 2);
  call->budget_ms = -1;
  if (budget && !parse_whole(budget, &call->budget_ms)) call->budget_ms = -1;
  if (call->budget_ms >= 0 && call->budget_ms < 3600000 && settings[HEED_BUDGET].value)
    call->budget_end_ns = call->started_ns + call->budget_ms * NS_PER_MS;
}

/* The user takes-1500 has an account of a size that takes 1,500 ms. 0: an ordinary user. */
static int64_t work_of_user_ms(struct evhttp_request *http) {
  static const char prefix[] = "user=takes-";
  const char *query = evhttp_uri_get_query(evhttp_request_get_evhttp_uri(http));
  int64_t ms = 0;
  if (!query || strncmp(query, prefix, sizeof prefix - 1) != 0 || !parse_whole(query + sizeof prefix - 1, &ms) ||
      ms > 60000)
    return 0;
  return ms;
}

static void serve(struct evhttp_request *http, void *arg) {
  struct call *call = calloc(1, sizeof *call);
  (void)arg;
  if (!call) {
    reply(http, 503, "{}");
    return;
  }
  call->http = http;
  call->started_ns = clock_ns();
  call->planned_ns = draw_work_ns(work_of_user_ms(http), &call->fails);
  call->hangup = (struct hangup_watch){.fd = -1, .on_hangup = caller_gone, .arg = call};
  read_headers(call);
  service.running++;
  event_assign(&call->timer, service.base, -1, 0, step_over, call);
  hangup_watch_start(service.hangups, &call->hangup, http);
  int64_t end = call->started_ns + call->planned_ns;
  if (call->budget_end_ns && call->budget_end_ns < end) end = step_end(call, call->budget_end_ns);
  wake_at(call, end);
}

/* ---- /control and /stats ----------------------------------------------------------------------------------------- */

static bool set(const char *name, const char *text) {
  int64_t value;
  for (int i = 0; i < NSETTINGS; i++) {
    if (strcmp(name, settings[i].name) != 0) continue;
    if (!parse_whole(text, &value) || value > settings[i].max || (i == STEP_MS && value == 0)) return false;
    settings[i].value = value;
    if (i == SEED) service.random = (uint64_t)value;
    return true;
  }
  return false;
}

static void control(struct evhttp_request *http, void *arg) {
  const char *query = evhttp_uri_get_query(evhttp_request_get_evhttp_uri(http));
  struct evkeyvalq parameters;
  bool fine = true;
  (void)arg;
  if (!query || evhttp_parse_query_str(query, &parameters)) {
    reply(http, 400, "{\"error\":\"name=value&... expected\"}");
    return;
  }
  for (const struct evkeyval *pair = parameters.tqh_first; pair; pair = pair->next.tqe_next)
    fine = set(pair->key, pair->value) && fine;
  evhttp_clear_headers(&parameters);
  reply(http, fine ? 200 : 400, fine ? "{}" : "{\"error\":\"no such setting, or not a value for it\"}");
}

static void stats(struct evhttp_request *http, void *arg) {
  (void)arg;
  if (service.log) fflush(service.log);
  reply(
      http, 200,
      "{\"service\":\"%s\",\"running\":%lld,\"done\":%llu,\"failed\":%llu,\"caller_gone\":%llu,\"out_of_budget\":%llu,"
      "\"work_us\":%llu,\"after_gone_us\":%llu}",
      service.name, (long long)service.running, (unsigned long long)service.ends[END_DONE],
      (unsigned long long)service.ends[END_FAILED], (unsigned long long)service.ends[END_CALLER_GONE],
      (unsigned long long)service.ends[END_BUDGET], (unsigned long long)service.work_us,
      (unsigned long long)service.after_gone_us);
}

/* ---- main -------------------------------------------------------------------------------------------------------- */

struct arguments {
  int64_t port;
  const char *log;
};

static void complain(const char *name, const char *text) {
  fprintf(stderr, "upstream: --%s %s: no such option or not a value for it; there are --name, --port, --log and", name,
          text);
  for (int i = 0; i < NSETTINGS; i++) fprintf(stderr, " --%s", settings[i].name);
  fputs("\n", stderr);
}

static bool read_arguments(int argc, char **argv, struct arguments *arguments) {
  struct option names[NSETTINGS + 4] = {{"name", required_argument, NULL, 1000},
                                        {"port", required_argument, NULL, 1001},
                                        {"log", required_argument, NULL, 1002}};
  int index = 0, option;
  for (int i = 0; i < NSETTINGS; i++) names[3 + i] = (struct option){settings[i].name, required_argument, NULL, i};
  while ((option = getopt_long(argc, argv, "", names, &index)) != -1) {
    if (option == 1000)
      service.name = optarg;
    else if (option == 1002)
      arguments->log = optarg;
    else if (option == '?' || (option == 1001 ? !parse_whole(optarg, &arguments->port) || arguments->port > 65535
                                              : !set(names[index].name, optarg))) {
      complain(option == '?' ? "?" : names[index].name, option == '?' ? "" : optarg);
      return false;
    }
  }
  return true;
}

static void told_to_end(evutil_socket_t fd, short what, void *arg) {
  (void)fd;
  (void)what;
  (void)arg;
  event_base_loopbreak(service.base);
}

static int port_of(struct evhttp_bound_socket *bound) {
  struct sockaddr_storage name;
  char text[16] = "";
  socklen_t length = sizeof name;
  if (getsockname(evhttp_bound_socket_get_fd(bound), (struct sockaddr *)&name, &length) == 0)
    getnameinfo((struct sockaddr *)&name, length, NULL, 0, text, sizeof text, NI_NUMERICSERV);
  return atoi(text);
}

int main(int argc, char **argv) {
  struct arguments arguments = {0, NULL};
  service.name = "upstream";
  service.random = 1;
  if (!read_arguments(argc, argv, &arguments)) return 2;
  signal(SIGPIPE, SIG_IGN);
  if (arguments.log && !(service.log = fopen(arguments.log, "ae"))) {
    perror(arguments.log);
    return 1;
  }
  service.base = event_base_new();
  struct evhttp *http = evhttp_new(service.base);
  service.hangups = hangup_loop_open(service.base);
  struct evhttp_bound_socket *bound = evhttp_bind_socket_with_handle(http, "127.0.0.1", (ev_uint16_t)arguments.port);
  if (!bound) {
    fprintf(stderr, "upstream: can not listen on port %d\n", (int)arguments.port);
    return 3;
  }
  evhttp_set_cb(http, "/control", control, NULL);
  evhttp_set_cb(http, "/stats", stats, NULL);
  evhttp_set_gencb(http, serve, NULL);
  struct event *term = evsignal_new(service.base, SIGTERM, told_to_end, NULL);
  struct event *interrupt = evsignal_new(service.base, SIGINT, told_to_end, NULL);
  event_add(term, NULL);
  event_add(interrupt, NULL);
  printf("upstream: %s listening on port %d\n", service.name, port_of(bound));
  fflush(stdout);
  event_base_dispatch(service.base);
  if (service.log) fclose(service.log);
  event_free(term);
  event_free(interrupt);
  evhttp_free(http);
  hangup_loop_close(service.hangups);
  event_base_free(service.base);
  return 0;
}
