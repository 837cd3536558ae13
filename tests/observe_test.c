// The live tree written out: each format is read back, whatever is in the names and however small the room; contexts that
// are derived and end meanwhile; counts as Prometheus text; the probes.
#include "support/check.h"
#include "support/json.h"
#include "support/leftovers.h"
#include "support/threads.h"
#include "support/watchdog.h"

#include <rctx/observe.h>
#include <rctx/rctx.h>
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

static void observe_open(void) { watchdog(100); }

TestSuite(observe, .init = observe_open, .fini = nothing_left_by_default, .timeout = 120);

RCTX_KEY_LOGGED(trace, const char *, "tests")
RCTX_KEY_LOGGED(user, int, "tests")
RCTX_KEY(password, const char *, "tests")
RCTX_KEY_FULL(owned, char *, free, RCTX_KEY_LOGGABLE, "tests")

enum { OUT_MAX = 1 << 20, ROOM_MAX = 1 << 18, SECOND = 1000000000, CONTEXTS_MAX = 2048 };

static char out[OUT_MAX];
static size_t out_size, pieces;
static _Alignas(16) char room[ROOM_MAX + 64];

static int keep(const char *text, size_t size, void *arg) {
  (void)arg;
  cr_assert_gt(size, 0);
  cr_assert_leq(size, 512);
  cr_assert_lt(out_size + size, sizeof out);
  memcpy(out + out_size, text, size);
  out_size += size;
  out[out_size] = '\0';
  pieces++;
  return 0;
}

static int dump(const rctx *top, enum rctx_dump_format format, size_t room_size) {
  out_size = pieces = 0;
  memset(room + room_size, '#', 64);
  int rc = rctx_dump(top, format, room, room_size, keep, NULL);
  for (size_t i = 0; i < 64; i++) cr_assert_eq(room[room_size + i], '#', "written behind the room");
  return rc;
}

// ---- reading back ----------------------------------------------------------------------------------------------------

struct seen {
  long id, parent, children;
  bool more, ended, has_left;
  char kind[16], name[512], cause[512], trace[512], user[32], owned[16];
};

static struct seen seen[CONTEXTS_MAX];
static size_t seen_count;
static struct json json;

static void copy_member(const char *name, char *to, size_t size) {
  const struct json_member *member = json_find(&json, name);
  to[0] = '\0';
  if (member == NULL) return;
  cr_assert_lt(member->text.size, size);
  memcpy(to, member->text.bytes, member->text.size + 1);
}

static long number_of(const char *name) {
  const struct json_member *member = json_find(&json, name);
  cr_assert(member && member->kind == JSON_NUMBER, "no number %s", name);
  return atol(member->text.bytes);
}

static void take_values(const char *line, size_t size, struct seen *to) {
  static char text[1 << 16];
  cr_assert_lt(size + 2, sizeof text);
  memcpy(text, line, size);
  text[size] = '\n';
  if (size == 2) return; // {}
  cr_assert(json_line(&json, text, size + 1), "values: %s at %zu of %s", json.wrong, json.at, text);
  copy_member("trace", to->trace, sizeof to->trace);
  copy_member("user", to->user, sizeof to->user);
  copy_member("owned", to->owned, sizeof to->owned);
  cr_assert(json_find(&json, "password") == NULL);
}

// One line: a flat object but for "values" at its end. The value of a name can not look like that: its quotes are escaped.
static void take_line(char *line, size_t size) {
  struct seen *to = &seen[seen_count++];
  cr_assert_lt(seen_count, CONTEXTS_MAX);
  *to = (struct seen){0};
  char *values = strstr(line, ",\"values\":{");
  cr_assert(values != NULL && line[size - 1] == '}', "%s", line);
  char *object = values + strlen(",\"values\":");
  take_values(object, size - 1 - (size_t)(object - line), to);
  memcpy(values, "}\n", 2);
  cr_assert(json_line(&json, line, (size_t)(values - line) + 2), "%s at %zu of %s", json.wrong, json.at, line);
  to->id = number_of("id");
  to->parent = to->id == 1 ? 0 : number_of("parent");
  to->children = number_of("children");
  to->more = json_find(&json, "more") != NULL;
  to->has_left = json_find(&json, "left_ns") != NULL;
  copy_member("kind", to->kind, sizeof to->kind);
  copy_member("name", to->name, sizeof to->name);
  copy_member("cause", to->cause, sizeof to->cause);
  char state[16];
  copy_member("state", state, sizeof state);
  to->ended = strcmp(state, "ended") == 0;
  if (to->ended) cr_assert_lt(number_of("err"), 0);
}

// The whole document; returns whether it says that it was cut. Checks the ids, and the numbers of children.
static bool read_json(void) {
  long children[CONTEXTS_MAX + 1] = {0};
  seen_count = 0;
  char *at = out;
  cr_assert_eq(strncmp(at, "{\"contexts\":[\n", 14), 0);
  for (at += 14; *at == '{';) {
    char *end = strchr(at, '\n');
    cr_assert(end != NULL);
    size_t size = (size_t)(end - at);
    bool last = at[size - 1] != ',';
    if (!last) size--;
    at[size] = '\0';
    take_line(at, size);
    at = end + 1;
    if (last) break;
  }
  bool cut = strcmp(at, "],\"truncated\":true}\n") == 0;
  cr_assert(cut || strcmp(at, "],\"truncated\":false}\n") == 0, "ends with: %s", at);
  for (size_t i = 0; i < seen_count; i++) {
    cr_assert_eq(seen[i].id, (long)i + 1);
    cr_assert_lt(seen[i].parent, seen[i].id);
    children[seen[i].parent]++;
  }
  for (size_t i = 0; i < seen_count; i++) cr_assert_eq(seen[i].children, children[seen[i].id]);
  return cut;
}

static const struct seen *named(const char *name) {
  const struct seen *found = NULL;
  for (size_t i = 0; i < seen_count; i++) {
    if (strcmp(seen[i].name, name) != 0) continue;
    cr_assert(found == NULL, "%s twice", name);
    found = &seen[i];
  }
  return found;
}

static void read_tree(const rctx *top) {
  cr_assert_eq(dump(top, RCTX_DUMP_JSON, ROOM_MAX), 0);
  cr_assert_not(read_json());
}

// Lines and the closing count of the text format.
static size_t read_text(bool *cut) {
  size_t lines = 0;
  const char *last = out;
  for (const char *at = out; *at; at++) {
    cr_assert((unsigned char)*at >= ' ' || *at == '\n', "a control character");
    if (*at != '\n') continue;
    lines++;
    if (at[1]) last = at + 1;
  }
  size_t count;
  cr_assert_eq(sscanf(last, "-- contexts: %zu", &count), 1, "%s", last);
  cr_assert_eq(lines, count + 1, "%s", out);
  *cut = strstr(last, ", truncated\n") != NULL;
  return count;
}

// A strict reader of the part of Graphviz's language that is used. Returns the number of contexts.
static size_t read_dot(bool *cut) {
  size_t nodes = 0, edges = 0, id, other;
  *cut = false;
  char *at = strstr(out, "fontsize=10];\n");
  cr_assert(at != NULL && strncmp(out, "digraph rctx {\n", 15) == 0);
  for (at += strlen("fontsize=10];\n"); strcmp(at, "}\n") != 0;) {
    int used = 0;
    if (strncmp(at, "  cut [label=\"truncated\"", 24) == 0) {
      *cut = true;
      at = strchr(at, '\n') + 1;
    } else if (sscanf(at, "  c%zu -> c%zu;%n", &id, &other, &used) == 2 && used > 0) {
      cr_assert(id < other && other == nodes && at[used] == '\n', "%s", at);
      edges++;
      at += used + 1;
    } else {
      cr_assert(sscanf(at, "  c%zu [label=\"%n", &id, &used) == 1 && used > 0, "%s", at);
      cr_assert_eq(id, ++nodes);
      for (at += used; *at != '"'; at++) {
        cr_assert((unsigned char)*at >= ' ', "a control character, or no end");
        if (*at == '&') cr_assert_eq(strncmp(at, "&amp;", 5), 0);
        if (*at != '\\') continue;
        at++;
        cr_assert(*at == '\\' || *at == '"' || *at == 'n', "%s", at - 1);
      }
      char *end = strchr(at, '\n');
      cr_assert(end != NULL && end[-1] == ';' && end[-2] == ']');
      for (at++; at < end; at++) cr_assert(*at != '"' && *at != '\\');
      at = end + 1;
    }
  }
  cr_assert_eq(edges, nodes ? nodes - 1 : 0);
  return nodes;
}

// ---- what is shown ---------------------------------------------------------------------------------------------------

struct server {
  rctx *server, *request, *audit, *call, *late;
};

static struct server open_server(void) {
  struct server s;
  s.server = rctx_derive(rctx_background(), &(struct rctx_spec){.name = "server"});
  struct rctx_value values[] = {trace_value("4bf9"), user_value(-42), password_value("hunter2")};
  s.request = rctx_derive(
      s.server,
      &(struct rctx_spec){.name = "GET /orders", .timeout_ns = INT64_C(3600) * SECOND, .values = values, .nvalues = 3});
  s.audit = rctx_without_cancel(s.request);
  s.call = rctx_derive(s.request, &(struct rctx_spec){.name = "call"});
  s.late = rctx_derive(s.server, &(struct rctx_spec){.name = "late"});
  rctx_cancel_with(s.late, -ECONNRESET, RCTX_ORIGIN_PEER, "the client hung up");
  return s;
}

static void close_server(struct server *s) {
  rctx_end(s->audit);
  rctx_end(s->call);
  rctx_end(s->late);
  rctx_end(s->request);
  rctx_end(s->server);
}

static void do_nothing(const rctx *ctx, void *arg) { (void)ctx, (void)arg; }

Test(observe, a_tree_is_shown_with_what_it_carries__OBSERVE_2) {
  struct server s = open_server();
  struct rctx_after after = {.rctx__state = 0};
  rctx_after_inline(s.call, &after, RCTX_ON_ENDED_RUN, do_nothing, NULL);
  read_tree(s.server);
  cr_assert_eq(seen_count, 5);
  const struct seen *request = named("GET /orders"), *late = named("late"), *call = named("call");
  cr_assert(named("server")->id == 1 && named("server")->children == 2);
  cr_assert(request->parent == 1 && request->children == 2 && request->has_left && !request->ended);
  cr_assert_str_eq(request->kind, "deadline");
  cr_assert_str_eq(request->trace, "4bf9");
  cr_assert_str_eq(request->user, "-42");
  cr_assert(call->parent == request->id && call->has_left);
  cr_assert_str_eq(call->kind, "cancel");
  cr_assert_str_eq(call->trace, "", "inherited values belong to whoever has them");
  cr_assert(late->ended && !late->has_left);
  cr_assert_str_eq(late->cause, "the client hung up");
  rctx_after_stop(&after);
  close_server(&s);
}

Test(observe, detached_work_is_visible_also_after_its_request_has_ended) {
  struct server s = open_server();
  rctx_end(s.call);
  rctx_end(s.request);
  read_tree(s.server);
  size_t detached = 0;
  for (size_t i = 0; i < seen_count; i++) {
    if (strcmp(seen[i].kind, "detached") != 0) continue;
    detached++;
    cr_assert_not(seen[i].ended);
    cr_assert_eq(seen[i].parent, named("GET /orders")->id);
  }
  cr_assert_eq(detached, 1);
  cr_assert(named("GET /orders")->ended);
  dump(s.server, RCTX_DUMP_TEXT, ROOM_MAX);
  cr_assert(strstr(out, "detached live"), "%s", out);
  rctx_end(s.audit);
  rctx_end(s.late);
  rctx_end(s.server);
}

Test(observe, a_value_that_its_owner_may_free_is_not_looked_at) {
  RCTX_SCOPED rctx *top = rctx_with_cancel(rctx_background());
  RCTX_SCOPED rctx *c = owned_with(top, strdup("secret of the heap"));
  RCTX_SCOPED rctx *d = trace_with(c, NULL);
  read_tree(top);
  cr_assert_eq(seen_count, 3);
  cr_assert_str_eq(seen[1].owned, "?");
  cr_assert_str_eq(seen[2].trace, "null");
  (void)d;
}

Test(observe, roots_and_refused_contexts_are_shown_alone) {
  read_tree(rctx_background());
  cr_assert_eq(seen_count, 1);
  cr_assert_str_eq(seen[0].kind, "root");
  rctx *refused = rctx_with_signals(rctx_background(), NULL, 0);
  cr_assert_eq(rctx_err(refused), -EINVAL);
  read_tree(refused);
  cr_assert_str_eq(seen[0].kind, "error");
  cr_assert(seen[0].ended);
}

Test(observe, a_deep_tree_and_a_wide_one_are_whole) {
  enum { DEPTH = 1000, WIDTH = 1000 };
  static rctx *deep[DEPTH], *wide[WIDTH];
  bool cut;
  RCTX_SCOPED rctx *top = rctx_with_cancel(rctx_background());
  for (size_t i = 0; i < DEPTH; i++) deep[i] = rctx_with_cancel(i ? deep[i - 1] : top);
  for (size_t i = 0; i < WIDTH; i++) wide[i] = rctx_with_cancel(top);
  read_tree(top);
  cr_assert_eq(seen_count, 1 + DEPTH + WIDTH);
  cr_assert_eq(seen[0].children, 1 + WIDTH);
  cr_assert_eq(dump(top, RCTX_DUMP_TEXT, ROOM_MAX), 0);
  cr_assert_eq(read_text(&cut), 1 + DEPTH + WIDTH);
  for (size_t i = 0; i < WIDTH; i++) rctx_end(wide[i]);
  for (size_t i = DEPTH; i-- > 0;) rctx_end(deep[i]);
}

// ---- what must not break it ------------------------------------------------------------------------------------------

static const char *const nasty[] = {"",
                                    "\"",
                                    "\\",
                                    "\\\"",
                                    "a\nb\r\tc",
                                    "\\N \\G \\l \\n",
                                    "\"];\n  c9 -> c1; x [label=\"",
                                    "&amp;<b>&#34;</b>",
                                    "\"},{\"id\":7,\"values\":{\"a\":1}}\n",
                                    ",\"values\":{",
                                    "\x01\x1b[2J\x7f",
                                    "\xff\xfe\xc0\x80",
                                    "\xe2\x80\xa8 \xc2\x9b \xf0\x9f\x98\x80",
                                    "\xe2\x82"};
enum { NASTY = sizeof nasty / sizeof *nasty };

static void is_cleaned(const char *found, const char *raw) {
  char clean[512];
  size_t size = json_cleaned(raw, strlen(raw), clean, sizeof clean - 1);
  clean[size] = '\0';
  cr_assert_str_eq(found, clean);
}

Test(observe, names_values_and_causes_break_no_format__OBSERVE_1) {
  for (size_t i = 0; i < NASTY; i++) {
    bool cut;
    struct rctx_cause cause = {-ECANCELED, RCTX_ORIGIN_CANCEL, nasty[i], NULL, 0, NULL, NULL};
    struct rctx_value value = trace_value(nasty[i]);
    struct rctx_spec spec = {.name = nasty[i], .values = &value, .nvalues = 1};
    RCTX_SCOPED rctx *top = rctx_derive(rctx_background(), &spec);
    RCTX_SCOPED rctx *child = rctx_derive(top, &spec);
    rctx_cancel_cause(child, &cause);
    read_tree(top);
    cr_assert_eq(seen_count, 2);
    is_cleaned(seen[0].name, nasty[i]);
    is_cleaned(seen[1].trace, nasty[i]);
    is_cleaned(seen[1].cause, nasty[i]);
    dump(top, RCTX_DUMP_TEXT, ROOM_MAX);
    cr_assert_eq(read_text(&cut), 2);
    dump(top, RCTX_DUMP_DOT, ROOM_MAX);
    cr_assert_eq(read_dot(&cut), 2);
  }
}

Test(observe, names_of_keys_break_no_format_and_none_is_there_twice__OBSERVE_1) {
  for (size_t i = 0; i < NASTY; i++) {
    bool cut;
    struct rctx_key a = trace_key, b = trace_key;
    a.name = b.name = nasty[i];
    struct rctx_value values[] = {{&a, (void *)(uintptr_t) "far", NULL}, {&b, (void *)(uintptr_t) "near", NULL}};
    RCTX_SCOPED rctx *top = rctx_with_values(rctx_background(), values, 2);
    read_tree(top);
    dump(top, RCTX_DUMP_TEXT, ROOM_MAX);
    read_text(&cut);
    cr_assert(strstr(out, "=\"near\"") && !strstr(out, "=\"far\""), "%s", out);
    dump(top, RCTX_DUMP_DOT, ROOM_MAX);
    read_dot(&cut);
  }
}

Test(observe, long_texts_are_cut_at_a_character) {
  char name[400];
  memset(name, 'x', sizeof name);
  memcpy(name + 126, "\xe2\x82\xac", 3);
  name[sizeof name - 1] = '\0';
  RCTX_SCOPED rctx *top = rctx_derive(rctx_background(), &(struct rctx_spec){.name = name});
  read_tree(top);
  cr_assert_eq(strlen(seen[0].name), 126);
}

// ---- limits ----------------------------------------------------------------------------------------------------------

Test(observe, a_dump_is_valid_in_a_room_of_any_size__OBSERVE_1) {
  struct server s = open_server();
  size_t before = 0;
  bool cut, whole = false;
  for (size_t size = 0; size < 4096; size++) {
    int rc = dump(s.server, RCTX_DUMP_JSON, size);
    cr_assert_eq(read_json(), rc == -ENOSPC);
    cr_assert(rc == 0 || rc == -ENOSPC);
    cr_assert_geq(seen_count, before, "a larger room holds less");
    before = seen_count;
    whole = rc == 0;
    if (whole) cr_assert_eq(seen_count, 5);
    if (!whole && seen_count) cr_assert(seen[0].more);
    cr_assert_eq(dump(s.server, RCTX_DUMP_TEXT, size), rc);
    cr_assert_eq(read_text(&cut), seen_count);
    cr_assert_eq(cut, rc != 0);
    cr_assert_eq(dump(s.server, RCTX_DUMP_DOT, size), rc);
    cr_assert_eq(read_dot(&cut), seen_count);
    cr_assert_eq(cut, rc != 0);
  }
  cr_assert(whole);
  close_server(&s);
}

Test(observe, a_room_may_begin_anywhere_or_nowhere) {
  struct server s = open_server();
  for (size_t skip = 0; skip < 16; skip++) {
    out_size = 0;
    cr_assert_eq(rctx_dump(s.server, RCTX_DUMP_JSON, room + skip, 4000, keep, NULL), 0);
    cr_assert_not(read_json());
  }
  out_size = 0;
  cr_assert_eq(rctx_dump(s.server, RCTX_DUMP_JSON, NULL, 0, keep, NULL), -ENOSPC);
  cr_assert(read_json() && seen_count == 0);
  cr_assert_eq(rctx_dump(s.server, (enum rctx_dump_format)3, room, ROOM_MAX, keep, NULL), -EINVAL);
  close_server(&s);
}

static int refuse(const char *text, size_t size, void *arg) {
  (void)text, (void)size;
  ++*(int *)arg;
  return -EPIPE;
}

Test(observe, who_writes_may_stop_it) {
  struct server s = open_server();
  int calls = 0, fds[2];
  cr_assert_eq(rctx_dump(s.server, RCTX_DUMP_JSON, room, ROOM_MAX, refuse, &calls), -EPIPE);
  cr_assert_eq(calls, 1);
  cr_assert_eq(rctx_dump_fd(s.server, RCTX_DUMP_TEXT, room, ROOM_MAX, -1), -EBADF);
  cr_assert_eq(pipe(fds), 0);
  cr_assert_eq(rctx_dump_fd(s.server, RCTX_DUMP_TEXT, room, ROOM_MAX, fds[1]), 0);
  close(fds[1]);
  ssize_t got = read(fds[0], out, sizeof out - 1);
  cr_assert_gt(got, 0);
  out[got] = '\0';
  bool cut;
  cr_assert_eq(read_text(&cut), 5);
  close(fds[0]);
  close_server(&s);
}

static int derive_while_writing(const char *text, size_t size, void *arg) {
  struct server *s = arg;
  (void)text, (void)size;
  RCTX_SCOPED rctx *c = rctx_with_cancel(s->request);
  rctx_cancel(c);
  return 0;
}

Test(observe, what_writes_may_use_the_tree_that_is_dumped__OBSERVE_3) {
  struct server s = open_server();
  cr_assert_eq(rctx_dump(s.server, RCTX_DUMP_JSON, room, ROOM_MAX, derive_while_writing, &s), 0);
  close_server(&s);
}

// ---- while others work -----------------------------------------------------------------------------------------------

enum { WORKERS = 3, ROUNDS = 300 };
static rctx *busy_top;
static _Atomic bool dumped_enough;

static void come_and_go(size_t index) {
  while (!atomic_load(&dumped_enough)) {
    struct rctx_value values[] = {trace_value("4bf9"), user_value((int)index), owned_value(strdup("gone"))};
    rctx *request = rctx_derive(
        busy_top, &(struct rctx_spec){.name = "request", .timeout_ns = SECOND, .values = values, .nvalues = 3});
    rctx *call = rctx_with_cancel(request);
    rctx *audit = rctx_without_cancel(call);
    rctx *value = user_with(call, 7);
    rctx_end(value);
    rctx_end(request);
    rctx_end(call);
    rctx_end(audit);
  }
}

static void *come_and_go_thread(void *arg) {
  come_and_go((size_t)(uintptr_t)arg);
  return NULL;
}

Test(observe, contexts_that_come_and_go_meanwhile_do_no_harm__OBSERVE_2) {
  pthread_t threads[WORKERS];
  busy_top = rctx_derive(rctx_background(), &(struct rctx_spec){.name = "top"});
  rctx *stays = rctx_derive(busy_top, &(struct rctx_spec){.name = "stays"});
  for (size_t i = 0; i < WORKERS; i++)
    cr_assert_eq(pthread_create(&threads[i], NULL, come_and_go_thread, (void *)(uintptr_t)i), 0);
  for (size_t round = 0; round < ROUNDS; round++) {
    int rc = dump(busy_top, RCTX_DUMP_JSON, round % 4 ? ROOM_MAX : 500);
    cr_assert_eq(read_json(), rc != 0);
    if (rc == 0) cr_assert(named("stays") != NULL && named("stays")->parent == 1);
  }
  atomic_store(&dumped_enough, true);
  for (size_t i = 0; i < WORKERS; i++) pthread_join(threads[i], NULL);
  rctx_end(stays);
  rctx_end(busy_top);
}

// ---- counts and probes -----------------------------------------------------------------------------------------------

static size_t gauge(const char *text, const char *name) {
  char line[64];
  size_t value;
  snprintf(line, sizeof line, "\nrctx_%s ", name);
  const char *at = strstr(text, line);
  cr_assert(at != NULL, "no %s in: %s", name, text);
  cr_assert_eq(sscanf(at + strlen(line), "%zu", &value), 1);
  return value;
}

Test(observe, counts_are_those_of_stats) {
  char text[2048];
  struct rctx_stats stats;
  struct server s = open_server();
  rctx_stats(rctx_manager_default(), &stats);
  cr_assert_lt(rctx_prometheus(rctx_manager_default(), text, sizeof text), sizeof text);
  cr_assert_eq(gauge(text, "contexts"), stats.contexts);
  cr_assert_eq(gauge(text, "timers"), 1);
  cr_assert_eq(gauge(text, "threads"), stats.threads);
  cr_assert_eq(gauge(text, "bytes"), stats.bytes);
  cr_assert_eq(gauge(text, "tasks") + gauge(text, "orphans") + gauge(text, "callbacks") + gauge(text, "deferred"), 0);
  close_server(&s);
}

Test(observe, counts_that_do_not_fit_are_left_out_whole) {
  char whole[2048], part[2049];
  size_t length = rctx_prometheus(rctx_manager_default(), whole, sizeof whole);
  cr_assert_eq(length, strlen(whole));
  for (size_t size = 0; size <= length + 1; size++) {
    memset(part, '#', sizeof part);
    cr_assert_eq(rctx_prometheus(rctx_manager_default(), size ? part : NULL, size), length);
    cr_assert_eq(part[size], '#');
    if (size == 0) continue;
    size_t there = strlen(part);
    cr_assert_lt(there, size);
    cr_assert_eq(memcmp(part, whole, there), 0);
    cr_assert(there == 0 || part[there - 1] == '\n');
    cr_assert(there == length || strncmp(whole + there, "# HELP ", 7) == 0);
  }
}

// A note in an ELF file: the owner, then provider, name and arguments, each closed by a NUL.
Test(observe, the_probes_are_in_the_program) {
  static const char *const probes[] = {"cancel", "deadline", "task_begin", "task_end",
                                       "orphan", "signal",   "drain_level"};
  if (!rctx_probes()) return;
  rctx_drain_destroy(NULL); // drain.o has to be in this program
  static char notes[1 << 16];
  char command[4200];
  snprintf(command, sizeof command, "readelf -nW '%s' 2>&1", program_invocation_name); // valgrind has an exe of its own
  FILE *readelf = popen(command, "re");
  cr_assert(readelf != NULL);
  size_t size = fread(notes, 1, sizeof notes - 1, readelf);
  notes[size] = '\0';
  int status = pclose(readelf);
  if (status != 0) return; // no binutils here
  for (size_t i = 0; i < sizeof probes / sizeof *probes; i++) {
    char line[64];
    snprintf(line, sizeof line, "Name: %s\n", probes[i]);
    cr_assert(strstr(notes, "Provider: rctx\n") && strstr(notes, line), "no probe %s in: %s", probes[i], notes);
  }
}
