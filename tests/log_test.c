// Log lines: what is in them, that they are one line of valid JSON whatever goes in, and how they are cut.
//
// The reader of the lines is support/json.h, written from the RFCs; support/log_case.h compares arbitrary input with a model.
#include "support/check.h"
#include "support/json.h"
#include "support/leftovers.h"
#include "support/log_case.h"
#include "support/seed.h"
#include "support/threads.h"
#include "support/watchdog.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <time.h>
#include <wchar.h>

static void log_open(void) { watchdog(60); }

TestSuite(log, .init = log_open, .fini = nothing_left_by_default, .timeout = 120);

enum { GUARD = 64, LINE_MAX_BYTES = 1 << 16 };

static char line[LINE_MAX_BYTES + GUARD];
static size_t line_length;
static struct json json;

// Formats into the first `size` bytes of `line`, reads the result into `json`; behind them nothing may be written.
__attribute__((format(printf, 4, 5))) static void log_into(size_t size, const rctx *ctx, enum rctx_log_level level,
                                                           const char *format, ...) {
  va_list values;
  memset(line, '#', size + GUARD);
  va_start(values, format);
  line_length = rctx_log_vformat(line, size, ctx, level, format, values);
  va_end(values);
  for (size_t i = 0; i < GUARD; i++) cr_assert_eq(line[size + i], '#', "written behind the buffer");
  cr_assert_lt(line_length, size);
  cr_assert_eq(line[line_length], '\0');
  cr_assert(json_line(&json, line, line_length), "%s at %zu of: %s", json.wrong, json.at, line);
}

#define LOG(ctx, ...) log_into(LINE_MAX_BYTES, (ctx), RCTX_LOG_INFO, __VA_ARGS__)

static void has(const char *name, enum json_kind kind, const char *text) {
  const struct json_member *member = json_find(&json, name);
  cr_assert(member != NULL, "no member %s in: %s", name, line);
  cr_assert_eq(member->kind, kind, "%s is of another kind in: %s", name, line);
  cr_assert_str_eq(member->text.bytes, text, "%s in: %s", name, line);
  cr_assert_eq(member->text.size, strlen(text));
}

static void has_text(const char *name, const char *text) { has(name, JSON_STRING, text); }
static void has_number(const char *name, const char *text) { has(name, JSON_NUMBER, text); }
static void has_not(const char *name) { cr_assert(json_find(&json, name) == NULL, "%s in: %s", name, line); }

// The names of the members, in order, separated by spaces.
static void has_only(const char *names) {
  char found[4096] = "";
  for (size_t i = 0; i < json.count; i++) {
    strncat(found, i ? " " : "", 2);
    strncat(found, json.members[i].name.bytes, 200);
  }
  cr_assert_str_eq(found, names, "%s", line);
}

// ---- keys of the tests: values are C strings, printed as they are ----------------------------------------------------

static size_t print_text(const void *value, char *buf, size_t size) {
  return (size_t)snprintf(buf, size, "%s", (const char *)value);
}

#define TEXT_KEY(name_, flags_)                                                                                        \
  { .name = (name_), .print = print_text, .flags = (flags_) }

static const struct rctx_key user = TEXT_KEY("user", RCTX_KEY_LOGGABLE);
static const struct rctx_key trace = TEXT_KEY("trace_id", RCTX_KEY_LOGGABLE);
static const struct rctx_key password = TEXT_KEY("password", 0);
static const struct rctx_key amount = TEXT_KEY("amount", RCTX_KEY_LOGGABLE | RCTX_KEY_NUMBER);

static char *text(const char *constant) { return (char *)(uintptr_t)constant; }

// One value under one key, logged.
static void log_value(const struct rctx_key *key, const char *value) {
  RCTX_SCOPED rctx *c = rctx_with_value(rctx_background(), key, text(value));
  LOG(c, "m");
}

// ---- the reader itself -----------------------------------------------------------------------------------------------

Test(log, the_reader_of_these_tests_refuses_what_is_no_line) {
  static const char *const wrong[] = {"",
                                      "{}\n",
                                      "{\"a\":1}",
                                      "{\"a\":1}\n\n",
                                      "{\"a\":1}\n{\"b\":1}\n",
                                      " {\"a\":1}\n",
                                      "{\"a\": 1}\n",
                                      "{\"a\":1,}\n",
                                      "{\"a\":1,\"a\":2}\n",
                                      "{\"a\":01}\n",
                                      "{\"a\":1.}\n",
                                      "{\"a\":.1}\n",
                                      "{\"a\":+1}\n",
                                      "{\"a\":1e}\n",
                                      "{\"a\":-}\n",
                                      "{\"a\":nul}\n",
                                      "{\"a\":True}\n",
                                      "{\"a\":NaN}\n",
                                      "{\"a\":}\n",
                                      "{a:1}\n",
                                      "{\"a\":\"\n\"}\n",
                                      "{\"a\":\"\x1f\"}\n",
                                      "{\"a\":\"\x7f\"}\n",
                                      "{\"a\":\"\xc2\x9b\"}\n",
                                      "{\"a\":\"\xff\"}\n",
                                      "{\"a\":\"\xc0\x80\"}\n",
                                      "{\"a\":\"\xed\xa0\x80\"}\n",
                                      "{\"a\":\"\xf4\x90\x80\x80\"}\n",
                                      "{\"a\":\"\xe2\x82\"}\n",
                                      "{\"a\":\"\\x\"}\n",
                                      "{\"a\":\"\\u12g4\"}\n",
                                      "{\"a\":\"\\ud800\"}\n",
                                      "{\"a\":\"\\\"}\n",
                                      "{\"a\":\"b}\n",
                                      "{\"a\":[]}\n",
                                      "{\"a\":{}}\n",
                                      "{\"a\":1 }\n"};
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
    cr_expect_not(json_line(&json, wrong[i], strlen(wrong[i])), "taken for a line: %s", wrong[i]);
  const char *right = "{\"a\":-0.5e+7,\"b\":\"\\u0000\\n\\\"\xe2\x82\xac\",\"c\":null,\"d\":true,\"e\":false,\"\":0}\n";
  cr_assert(json_line(&json, right, strlen(right)), "%s at %zu", json.wrong, json.at);
  cr_assert_eq(json.count, 6);
  cr_assert_eq(json.members[1].text.size, 6);
  cr_assert_eq(memcmp(json.members[1].text.bytes, "\0\n\"\xe2\x82\xac", 6), 0);
}

// ---- what is in a line -----------------------------------------------------------------------------------------------

static int64_t wall_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static int64_t logged_ms(void) {
  const char *time = json_find(&json, "time")->text.bytes;
  struct tm tm = {0};
  int ms, used = 0;
  int found = sscanf(time, "%4d-%2d-%2dT%2d:%2d:%2d.%3dZ%n", &tm.tm_year, &tm.tm_mon, &tm.tm_mday, &tm.tm_hour,
                     &tm.tm_min, &tm.tm_sec, &ms, &used);
  cr_assert(found == 7 && used == 24 && strlen(time) == 24, "%s", time);
  tm.tm_year -= 1900;
  tm.tm_mon--;
  return (int64_t)timegm(&tm) * 1000 + ms;
}

Test(log, the_least_is_time_level_and_msg) {
  LOG(rctx_background(), "fetched %d rows of %s", 3, "users");
  has_only("time level msg");
  has_text("level", "info");
  has_text("msg", "fetched 3 rows of users");
  cr_assert_eq(line[line_length - 1], '\n');
}

Test(log, the_time_is_utc_in_milliseconds) {
  setenv("TZ", "Asia/Kathmandu", 1);
  tzset();
  for (int i = 0; i < 1000; i++) {
    int64_t before = wall_ms();
    LOG(rctx_background(), "now");
    cr_assert(before <= logged_ms() && logged_ms() <= wall_ms(), "%s", line);
  }
}

Test(log, levels_are_words_and_others_the_nearest_of_them) {
  static const struct {
    int level;
    const char *word;
  } levels[] = {{RCTX_LOG_DEBUG, "debug"},
                {RCTX_LOG_INFO, "info"},
                {RCTX_LOG_WARN, "warn"},
                {RCTX_LOG_ERROR, "error"},
                {4, "error"},
                {INT32_MAX, "error"},
                {-1, "debug"},
                {INT32_MIN, "debug"}};
  for (size_t i = 0; i < sizeof levels / sizeof *levels; i++) {
    log_into(RCTX_LOG_LINE_MIN, rctx_todo(), (enum rctx_log_level)levels[i].level, "m");
    has_text("level", levels[i].word);
  }
}

Test(log, context_is_the_nearest_name) {
  RCTX_SCOPED rctx *unnamed = rctx_with_cancel(rctx_background());
  RCTX_SCOPED rctx *api = rctx_derive(unnamed, &(struct rctx_spec){.name = "api"});
  RCTX_SCOPED rctx *call = rctx_derive(api, &(struct rctx_spec){.name = "call \"x\"\n"});
  RCTX_SCOPED rctx *below = rctx_with_value(call, &user, text("ann"));
  RCTX_SCOPED rctx *detached = rctx_without_cancel(api);
  LOG(unnamed, "m");
  has_only("time level msg");
  LOG(api, "m");
  has_text("context", "api");
  LOG(below, "m");
  has_only("time level msg context user");
  has_text("context", "call \"x\"\n");
  LOG(detached, "m");
  has_text("context", "api");
}

Test(log, context_is_the_parents_also_where_values_come_from_elsewhere) {
  RCTX_SCOPED rctx *api = rctx_derive(rctx_background(), &(struct rctx_spec){.name = "api"});
  RCTX_SCOPED rctx *other = rctx_derive(rctx_background(), &(struct rctx_spec){.name = "other"});
  RCTX_SCOPED rctx *with_user = rctx_with_value(other, &user, text("ann"));
  RCTX_SCOPED rctx *c = rctx_derive(api, &(struct rctx_spec){.values_from = with_user});
  LOG(c, "m");
  has_only("time level msg context user");
  has_text("context", "api");
}

Test(log, visible_loggable_values_nearest_first) {
  RCTX_SCOPED rctx *a = rctx_with_value(rctx_background(), &user, text("ann"));
  RCTX_SCOPED rctx *b = rctx_with_value(a, &trace, text("4bf9"));
  RCTX_SCOPED rctx *c = rctx_with_value(b, &password, text("secret"));
  RCTX_SCOPED rctx *d = rctx_with_value(c, &amount, text("12"));
  LOG(d, "m");
  has_only("time level msg amount trace_id user");
  has_number("amount", "12");
  has_text("user", "ann");
  cr_assert(strstr(line, "secret") == NULL, "%s", line);
  RCTX_SCOPED rctx *e = rctx_with_value(d, &user, text("bob"));
  LOG(e, "m");
  has_only("time level msg user amount trace_id");
  has_text("user", "bob");
  cr_assert(strstr(line, "ann") == NULL, "a shadowed value: %s", line);
}

Test(log, of_two_keys_with_one_name_the_nearest_counts) {
  static const struct rctx_key other_user = TEXT_KEY("user", RCTX_KEY_LOGGABLE);
  static const struct rctx_key bad = TEXT_KEY("bad\xff", RCTX_KEY_LOGGABLE),
                               bad_too = TEXT_KEY("bad\xfe", RCTX_KEY_LOGGABLE);
  RCTX_SCOPED rctx *a = rctx_with_value(rctx_background(), &user, text("far"));
  RCTX_SCOPED rctx *b = rctx_with_value(a, &bad, text("far"));
  RCTX_SCOPED rctx *c = rctx_with_value(b, &other_user, text("near"));
  RCTX_SCOPED rctx *d = rctx_with_value(c, &bad_too, text("near"));
  LOG(d, "m");
  has_only("time level msg bad\xef\xbf\xbd user");
  has_text("user", "near");
  has_text("bad\xef\xbf\xbd", "near");
}

static const char *const fixed_names[] = {"time",  "level",  "msg", "context",  "err",
                                          "cause", "origin", "at",  "truncated"};
enum { FIXED = sizeof fixed_names / sizeof *fixed_names };

Test(log, a_value_can_not_take_the_name_of_a_fixed_member) {
  static struct rctx_key keys[FIXED];
  struct rctx_value values[FIXED];
  char name[32];
  for (int i = 0; i < FIXED; i++) {
    keys[i] = (struct rctx_key)TEXT_KEY(fixed_names[i], RCTX_KEY_LOGGABLE);
    values[i] = (struct rctx_value){&keys[i], text("forged"), NULL};
  }
  RCTX_SCOPED rctx *c = rctx_with_values(rctx_background(), values, FIXED);
  RCTX_SCOPED rctx *d = rctx_derive(c, &(struct rctx_spec){.name = "n"});
  rctx_cancel(d);
  LOG(d, "m");
  cr_assert_eq(json.count, 3 + 1 + FIXED + 4, "%s", line);
  for (int i = 0; i < FIXED; i++) {
    snprintf(name, sizeof name, "%s_", fixed_names[i]);
    has_text(name, "forged");
  }
  has_text("msg", "m");
  has_not("truncated");
}

Test(log, a_name_with_an_underscore_appended_may_be_taken_too) {
  static const struct rctx_key key_time = TEXT_KEY("time", RCTX_KEY_LOGGABLE),
                               key_time_ = TEXT_KEY("time_", RCTX_KEY_LOGGABLE);
  RCTX_SCOPED rctx *a = rctx_with_value(rctx_background(), &key_time_, text("1"));
  RCTX_SCOPED rctx *b = rctx_with_value(a, &key_time, text("2"));
  RCTX_SCOPED rctx *c = rctx_with_value(a, &key_time, text("3"));
  RCTX_SCOPED rctx *d = rctx_with_value(c, &key_time_, text("4"));
  LOG(b, "m");
  has_only("time level msg time_");
  has_text("time_", "2");
  LOG(d, "m");
  has_only("time level msg time_");
  has_text("time_", "4");
}

Test(log, names_of_keys_are_escaped) {
  static const struct rctx_key odd = TEXT_KEY("a\":1,\"b\n\xc0", RCTX_KEY_LOGGABLE),
                               nameless = TEXT_KEY(NULL, RCTX_KEY_LOGGABLE), empty = TEXT_KEY("", RCTX_KEY_LOGGABLE);
  RCTX_SCOPED rctx *a = rctx_with_value(rctx_background(), &odd, text("1"));
  RCTX_SCOPED rctx *b = rctx_with_value(a, &nameless, text("2"));
  RCTX_SCOPED rctx *c = rctx_with_value(b, &empty, text("3"));
  LOG(c, "m");
  has_only("time level msg  ? a\":1,\"b\n\xef\xbf\xbd");
}

// ---- values ----------------------------------------------------------------------------------------------------------

Test(log, a_value_can_not_break_the_line_or_forge_another) {
  log_value(&user, "\"}\n{\"time\":\"2000-01-01T00:00:00.000Z\",\"level\":\"error\",\"msg\":\"forged\"}\n");
  has_only("time level msg user");
  cr_assert_eq(strchr(line, '\n'), line + line_length - 1, "one newline: the last byte");
  log_value(&user, "\x1b]0;title\x07\x9b\xc2\x9b"
                   "31m\xe2\x80\xa8\x7f");
  has_text("user", "\x1b]0;title\x07\xef\xbf\xbd\xc2\x9b"
                   "31m\xe2\x80\xa8\x7f");
  cr_assert(strstr(line, "\\u009b") && strstr(line, "\\u001b") && strstr(line, "\\u007f") && strstr(line, "\\u2028"),
            "nothing for a terminal to obey: %s", line);
}

Test(log, a_number_is_written_bare_if_it_is_one) {
  static const char *const good[] = {"0",     "-0",  "7",    "-12",      "1.5",
                                     "-0.25", "1e9", "1E-9", "2.50e+00", "9007199254740993000"};
  static const char *const bad[] = {"",     "-",   "+1",   "01",  "-01", "1.",    ".5",        "1.e5",    "1e",  "1e+",
                                    "0x1",  "NaN", "inf",  "1 ",  " 1",  "1,2",   "1,\"x\":2", "--1",     "tru", "1\n",
                                    "null", "\"",  "True", "1_0", "{}",  "1}\n{", "true1",     "\xd9\xa1"};
  for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
    log_value(&amount, good[i]);
    has_number("amount", good[i]);
    log_value(&user, good[i]);
    has_text("user", good[i]);
  }
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    log_value(&amount, bad[i]);
    has_text("amount", bad[i]);
  }
  log_value(&amount, "true");
  has("amount", JSON_TRUE, "true");
  log_value(&amount, "false");
  has("amount", JSON_FALSE, "false");
}

static size_t print_pointer(const void *value, char *buf, size_t size) {
  return (size_t)snprintf(buf, size, "%ld", (long)(intptr_t)value);
}

Test(log, null_is_null_except_where_it_is_a_number) {
  static const struct rctx_key number = {
      .name = "n", .print = print_pointer, .flags = RCTX_KEY_LOGGABLE | RCTX_KEY_NUMBER};
  static const struct rctx_key no_printer = {.name = "p", .flags = RCTX_KEY_LOGGABLE};
  RCTX_SCOPED rctx *a = rctx_with_value(rctx_background(), &number, NULL);
  RCTX_SCOPED rctx *b = rctx_with_value(a, &no_printer, NULL);
  RCTX_SCOPED rctx *c = rctx_with_value(b, &user, NULL);
  LOG(c, "m");
  has_only("time level msg user p n");
  has("user", JSON_NULL, "null");
  has("p", JSON_NULL, "null");
  has_number("n", "0");
}

Test(log, without_a_printer_the_address_is_shown) {
  static const struct rctx_key key = {.name = "p", .flags = RCTX_KEY_LOGGABLE};
  char address[32];
  RCTX_SCOPED rctx *c = rctx_with_value(rctx_background(), &key, line);
  snprintf(address, sizeof address, "%p", (void *)line);
  LOG(c, "m");
  has_text("p", address);
}

RCTX_KEY_LOGGED(tenant, const char *, "whose data: for logs")
RCTX_KEY_LOGGED(attempt, int, "which try: for logs")
RCTX_KEY_LOGGED(offset, int64_t, "where: for logs")
RCTX_KEY_LOGGED(bits, uint64_t, "which: for logs")
RCTX_KEY_LOGGED(small, short, "which: for logs")
RCTX_KEY_LOGGED(cached, bool, "from where: for logs")
RCTX_KEY(not_logged, int, "for nobody")

Test(log, typed_keys_marked_loggable) {
  RCTX_SCOPED rctx *a = tenant_with(rctx_background(), "acme \"1\"");
  RCTX_SCOPED rctx *b = attempt_with(a, -3);
  RCTX_SCOPED rctx *c = offset_with(b, INT64_MIN);
  RCTX_SCOPED rctx *d = bits_with(c, UINT64_MAX);
  RCTX_SCOPED rctx *e = small_with(d, 0);
  RCTX_SCOPED rctx *f = cached_with(e, false);
  RCTX_SCOPED rctx *g = not_logged_with(f, 1);
  LOG(g, "m");
  has_only("time level msg cached small bits offset attempt tenant");
  has("cached", JSON_FALSE, "false");
  has_number("small", "0");
  has_number("bits", "18446744073709551615");
  has_number("offset", "-9223372036854775808");
  has_number("attempt", "-3");
  has_text("tenant", "acme \"1\"");
  RCTX_SCOPED rctx *h = cached_with(g, true);
  LOG(h, "m");
  has("cached", JSON_TRUE, "true");
}

enum { VALUE_BYTES = 1024 };

Test(log, a_long_value_is_cut_at_a_character_and_the_line_says_so) {
  static char value[3000];
  static const char *const characters[] = {"x", "\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x98\x80"};
  for (size_t width = 1; width <= 4; width++) {
    for (size_t shift = 0; shift < width; shift++) {
      memset(value, 'a', shift);
      value[shift] = '\0';
      while (strlen(value) < 2000) strcat(value, characters[width - 1]);
      log_value(&user, value);
      const struct json_member *member = json_find(&json, "user");
      size_t whole = shift + (VALUE_BYTES - shift) / width * width;
      cr_assert_eq(member->text.size, whole, "%zu of characters of %zu", member->text.size, width);
      cr_assert_eq(memcmp(member->text.bytes, value, whole), 0);
      has("truncated", JSON_TRUE, "true");
    }
  }
  memset(value, 'b', VALUE_BYTES);
  value[VALUE_BYTES] = '\0';
  log_value(&user, value);
  has_text("user", value);
  has_not("truncated");
  memset(value, '\x01', 2000); // six bytes each
  value[2000] = '\0';
  log_value(&user, value);
  cr_assert_eq(json_find(&json, "user")->text.size, VALUE_BYTES);
}

static size_t lie;

static size_t print_lie(const void *value, char *buf, size_t size) {
  if (value && size > strlen(value)) strcpy(buf, value);
  return lie;
}

static size_t print_without_nul(const void *value, char *buf, size_t size) {
  (void)value;
  memset(buf, '7', size);
  return size;
}

Test(log, printers_that_lie_do_no_harm) {
  static const struct rctx_key liar = {.name = "l", .print = print_lie, .flags = RCTX_KEY_LOGGABLE};
  static const struct rctx_key full = {
      .name = "f", .print = print_without_nul, .flags = RCTX_KEY_LOGGABLE | RCTX_KEY_NUMBER};
  static const size_t lies[] = {0, 1, 4, 5, 6, 100, 1023, 1024, 1025, 1 << 20, SIZE_MAX / 2, SIZE_MAX};
  static const char value[] = "abcde";
  RCTX_SCOPED rctx *c = rctx_with_value(rctx_background(), &liar, text(value));
  RCTX_SCOPED rctx *d = rctx_with_value(c, &full, text(value));
  for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
    char expected[8];
    lie = lies[i];
    snprintf(expected, sizeof expected, "%.*s", lie < 5 ? (int)lie : 5, value);
    LOG(c, "m");
    has_text("l", expected);
    for (size_t size = RCTX_LOG_LINE_MIN; size < RCTX_LOG_LINE_MIN + 100; size++) log_into(size, d, RCTX_LOG_INFO, "m");
  }
  LOG(d, "m");
  cr_assert_eq(json_find(&json, "f")->kind, JSON_STRING, "a cut number is no number");
}

// ---- the end ---------------------------------------------------------------------------------------------------------

Test(log, a_live_context_has_no_error) {
  RCTX_SCOPED rctx *c = rctx_with_timeout(rctx_background(), INT64_MAX);
  LOG(c, "m");
  has_only("time level msg");
}

Test(log, an_ended_one_says_why_and_where) {
  char where[600], number[16];
  RCTX_SCOPED rctx *c = rctx_with_cancel(rctx_background());
  RCTX_SCOPED rctx *below = rctx_with_value(c, &user, text("ann"));
  snprintf(where, sizeof where, "%s:%d", __FILE__, __LINE__ + 1);
  rctx_cancel(c);
  snprintf(number, sizeof number, "%d", -ECANCELED);
  const rctx *both[] = {c, below};
  for (int i = 0; i < 2; i++) {
    LOG(both[i], "m");
    has_only(i ? "time level msg user err cause origin at" : "time level msg err cause origin at");
    has_number("err", number);
    has_text("cause", "context canceled");
    has_text("origin", "cancel");
    has_text("at", where);
  }
}

Test(log, a_deadline_of_ones_own_and_of_a_parent) {
  char number[16];
  snprintf(number, sizeof number, "%d", -ETIMEDOUT);
  RCTX_SCOPED rctx *c = rctx_with_timeout(rctx_background(), -1);
  RCTX_SCOPED rctx *below = rctx_with_cancel(c);
  LOG(c, "m");
  has_only("time level msg err cause origin");
  has_number("err", number);
  has_text("origin", "deadline");
  has_text("cause", "context deadline exceeded");
  LOG(below, "m");
  has_text("origin", "parent-deadline");
}

Test(log, origins_are_words) {
  static const char *const words[] = {NULL,       "cancel", "end",    "deadline", "parent-deadline", "peer", "signal",
                                      "shutdown", "memory", "misuse", "task"};
  for (int origin = -2; origin < 70; origin++) {
    struct rctx_cause cause = {.code = -EPIPE, .origin = origin, .text = "t"};
    RCTX_SCOPED rctx *c = rctx_with_cancel(rctx_background());
    cr_assert(rctx_cancel_cause(c, &cause));
    LOG(c, "m");
    const char *word = origin >= RCTX_ORIGIN_USER ? "user" : origin > 0 && origin < 11 ? words[origin] : NULL;
    if (word)
      has_text("origin", word);
    else
      has_not("origin");
  }
}

Test(log, a_cause_without_text_or_file) {
  struct rctx_cause cause = {.code = -EPIPE, .origin = RCTX_ORIGIN_PEER};
  RCTX_SCOPED rctx *c = rctx_with_cancel(rctx_background());
  cr_assert(rctx_cancel_cause(c, &cause));
  LOG(c, "m");
  has_only("time level msg err cause origin");
  has_text("cause", strerror(EPIPE));
}

Test(log, a_causes_text_and_file_can_not_forge_either) {
  struct rctx_cause cause = {
      .code = -1, .origin = RCTX_ORIGIN_USER, .text = "\"}\n\xff", .file = "a\"\n\xc3", .line = INT32_MIN};
  RCTX_SCOPED rctx *c = rctx_with_cancel(rctx_background());
  cr_assert(rctx_cancel_cause(c, &cause));
  LOG(c, "m");
  has_text("cause", "\"}\n\xef\xbf\xbd");
  has_text("at", "a\"\n\xef\xbf\xbd:-2147483648");
  has_number("err", "-1");
}

Test(log, a_context_that_was_born_ended) {
  RCTX_SCOPED rctx *ended = rctx_with_timeout(rctx_background(), 0);
  RCTX_SCOPED rctx *c = rctx_with_value(ended, &user, text("ann"));
  LOG(c, "m");
  has_only("time level msg user err cause origin");
}

// ---- errno -----------------------------------------------------------------------------------------------------------

static size_t print_and_fail(const void *value, char *buf, size_t size) {
  errno = ENOTTY;
  return print_text(value, buf, size);
}

Test(log, errno_is_kept_and_can_be_printed) {
  static const struct rctx_key key = {.name = "k", .print = print_and_fail, .flags = RCTX_KEY_LOGGABLE};
  RCTX_SCOPED rctx *c = rctx_with_value(rctx_background(), &key, text("v"));
  rctx_cancel(c);
  errno = ENOENT;
  LOG(c, "%m");
  cr_assert_eq(errno, ENOENT);
  has_text("msg", strerror(ENOENT));
  char small[16];
  errno = ENOENT;
  cr_assert_eq(rctx_log_format(small, sizeof small, c, RCTX_LOG_INFO, "m"), 0);
  cr_assert_eq(errno, ENOENT);
  int before = errno = ENOENT, rc = rctx_log(-1, c, RCTX_LOG_INFO, "%m");
  cr_assert_eq(errno, before);
  cr_assert_eq(rc, -EBADF);
}

// ---- text ------------------------------------------------------------------------------------------------------------

static void message_comes_out_clean(const char *raw, size_t size) {
  static char clean[3 * LINE_MAX_BYTES];
  LOG(rctx_background(), "%.*s", (int)size, raw);
  const struct json_member *msg = json_find(&json, "msg");
  size_t expected = json_cleaned(raw, size, clean, sizeof clean);
  cr_assert_eq(msg->text.size, expected, "%s", line);
  cr_assert_eq(memcmp(msg->text.bytes, clean, expected), 0, "%s", line);
}

static size_t encode(uint32_t code, char out[4]) {
  if (code < 0x80) return out[0] = (char)code, 1;
  if (code < 0x800) return out[0] = (char)(0xc0 | code >> 6), out[1] = (char)(0x80 | (code & 63)), 2;
  size_t length = code < 0x10000 ? 3 : 4;
  out[0] = (char)(length == 3 ? 0xe0 | code >> 12 : 0xf0 | code >> 18);
  for (size_t i = 1; i < length; i++) out[i] = (char)(0x80 | (code >> 6 * (length - 1 - i) & 63));
  return length;
}

Test(log, every_code_point_comes_out_as_it_went_in) {
  static char raw[8192];
  size_t size = 0;
  for (uint32_t code = 1; code < 0x140000; code += code < 0x3000 ? 1 : 7) {
    size += encode(code, raw + size); // surrogates and beyond U+10FFFF, too: not valid
    if (size < 4000) continue;
    message_comes_out_clean(raw, size);
    size = 0;
  }
  message_comes_out_clean(raw, size);
}

Test(log, every_pair_of_bytes_and_every_triple_around_the_edges) {
  static const unsigned char edges[] = {0x01, '"',  '\\', 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0,
                                        0xbf, 0xc0, 0xc1, 0xc2, 0xdf, 0xe0, 0xe1, 0xec, 0xed,
                                        0xee, 0xef, 0xf0, 0xf1, 0xf3, 0xf4, 0xf5, 0xf8, 0xff};
  enum { EDGES = sizeof edges };
  static char raw[LINE_MAX_BYTES];
  for (unsigned a = 1; a < 256; a++) {
    size_t size = 0;
    for (unsigned b = 1; b < 256; b++) {
      raw[size++] = (char)a;
      raw[size++] = (char)b;
      raw[size++] = 'x';
    }
    message_comes_out_clean(raw, size);
  }
  for (unsigned a = 0; a < EDGES; a++) {
    size_t size = 0;
    for (unsigned n = 0; n < EDGES * EDGES * EDGES / 8; n++) {
      raw[size++] = (char)edges[a];
      raw[size++] = (char)edges[n % EDGES];
      raw[size++] = (char)edges[n / EDGES % EDGES];
      raw[size++] = (char)edges[n * 7 / EDGES / EDGES % EDGES];
      if (n % 3) raw[size++] = 'x';
    }
    message_comes_out_clean(raw, size / 2);
  }
}

Test(log, nuls_of_the_message_are_kept) {
  LOG(rctx_background(), "a%cb%c", 0, 0);
  const struct json_member *msg = json_find(&json, "msg");
  cr_assert_eq(msg->text.size, 4);
  cr_assert_eq(memcmp(msg->text.bytes, "a\0b\0", 4), 0);
}

Test(log, a_format_that_printf_refuses_is_logged_itself) {
  static const wchar_t no_character[] = {0xd800, 0};
  LOG(rctx_background(), "so \"%ls\"", no_character);
  has_text("msg", "so \"%ls\"");
  log_into(RCTX_LOG_LINE_MIN, rctx_background(), RCTX_LOG_INFO,
           "a format that is longer than there is room for in so short a line: \"%ls\"", no_character);
  has("truncated", JSON_TRUE, "true");
}

// ---- cutting ---------------------------------------------------------------------------------------------------------

static rctx *rich[8];

static const rctx *rich_open(void) {
  static char odd[] = "q\"\\\n\x01\xff\xe2\x82\xac\xf0\x9f\x98\x80";
  static struct rctx_cause cause = {
      .code = -EPIPE, .origin = RCTX_ORIGIN_PEER, .text = "the \"peer\" left\n", .file = "peer.c", .line = 7};
  rich[0] = rctx_derive(rctx_background(), &(struct rctx_spec){.name = "re\nquest"});
  rich[1] = rctx_with_value(rich[0], &user, odd);
  rich[2] = rctx_with_value(rich[1], &amount, text("-1.25e3"));
  rich[3] = rctx_with_value(rich[2], &trace, text("4bf92f3577b34da6a3ce929d0e0e4736"));
  rctx_cancel_cause(rich[0], &cause);
  return rich[3];
}

static void rich_close(void) {
  for (int i = 3; i >= 0; i--) rctx_end(rich[i]);
}

static bool has_prefix(const struct json_text *whole, const struct json_text *prefix) {
  return prefix->size <= whole->size && memcmp(prefix->bytes, whole->bytes, prefix->size) == 0;
}

static const char long_message[] = "a message of many kinds of characters: \"quoted\", \\, \n\t\x01\x02\x03\x1f\x7f, "
                                   "\xc3\xa9\xc3\xa9, \xe2\x82\xac\xe2\x82\xac, "
                                   "\xf0\x9f\x98\x80\xf0\x9f\x98\x80, \xff\xfe\xc0\xaf \xed\xa0\x80 \xe2\x82";

// Each size gives a line whose members are the first ones of the whole line, msg perhaps cut, and nothing wasted.
static void cut_at_every_length(const rctx *ctx, const char *format, const char *message) {
  static struct json whole;
  static char whole_line[LINE_MAX_BYTES];
  LOG(ctx, format, message);
  memcpy(&whole, &json, sizeof whole);
  for (size_t i = 0; i < whole.count; i++) { // what pointed into one now points into the other
    whole.members[i].name.bytes += whole.pool - json.pool;
    if (whole.members[i].kind == JSON_STRING || whole.members[i].kind == JSON_NUMBER)
      whole.members[i].text.bytes += whole.pool - json.pool;
  }
  size_t full = line_length, before = 0;
  memcpy(whole_line, line, full);
  for (size_t size = RCTX_LOG_LINE_MIN; size < full + 10; size++) {
    log_into(size, ctx, RCTX_LOG_INFO, format, message);
    bool cut = size < full + 1;
    size_t members = json.count - cut;
    cr_assert_eq(json_find(&json, "truncated") != NULL, cut, "%zu of %zu: %s", size, full, line);
    cr_assert(cut || json.count == whole.count, "%zu: %s", size, line);
    for (size_t i = 1; i < members; i++) { // the time differs
      cr_assert(json_same(json.members[i].name, whole.members[i].name), "%zu: %s", size, line);
      bool last_msg = i == 2 && members == 3;
      cr_assert(json_same(json.members[i].text, whole.members[i].text) ||
                    (last_msg && has_prefix(&whole.members[i].text, &json.members[i].text)),
                "%zu: %s", size, line);
    }
    cr_assert(members >= before || before == whole.count, "more room, and less in it: %zu: %s", size, line);
    if (cut && json.members[2].text.size < whole.members[2].text.size)
      cr_assert_geq(line_length + 6, size - 1, "room for another character: %zu: %s", size, line);
    before = members;
  }
}

Test(log, cut_at_every_length) {
  const rctx *ctx = rich_open();
  cut_at_every_length(ctx, "%s", "short");
  cut_at_every_length(ctx, "%s", long_message);
  cut_at_every_length(rctx_background(), "%s", long_message);
  cut_at_every_length(rctx_background(), "%s", "");
  cut_at_every_length(ctx, "%s", "exactly one more than fits with the mark");
  rich_close();
}

Test(log, a_message_of_any_length_in_a_buffer_of_any_size) {
  static char message[3000];
  static const char *const fills[] = {"x", "\n", "\x01", "\xff", "\xe2\x82\xac", "\"a"};
  for (size_t f = 0; f < sizeof fills / sizeof *fills; f++) {
    message[0] = '\0';
    for (size_t length = 0; length < 700; length += 13) {
      while (strlen(message) < length) strcat(message, fills[f]);
      for (size_t size = RCTX_LOG_LINE_MIN; size < 1000; size += 37) {
        log_into(size, rctx_background(), RCTX_LOG_ERROR, "%s", message);
        if (size > 100 + 6 * strlen(message)) has_not("truncated");
      }
    }
  }
  static char huge[1 << 18];
  memset(huge, '\n', sizeof huge - 1);
  LOG(rctx_background(), "%s", huge);
  has("truncated", JSON_TRUE, "true");
  cr_assert_geq(line_length, LINE_MAX_BYTES - 3);
}

Test(log, a_buffer_that_is_too_small_gets_nothing) {
  char small[RCTX_LOG_LINE_MIN];
  for (size_t size = 0; size < RCTX_LOG_LINE_MIN; size++) {
    memset(small, '#', sizeof small);
    cr_assert_eq(rctx_log_format(small, size, rctx_background(), RCTX_LOG_INFO, "m"), 0);
    cr_assert_eq(small[0], size ? '\0' : '#');
    for (size_t i = 1; i < sizeof small; i++) cr_assert_eq(small[i], '#', "byte %zu of %zu", i, size);
  }
  cr_assert_gt(rctx_log_format(small, sizeof small, rctx_background(), RCTX_LOG_INFO, "m"), 0);
}

// ---- random bytes ----------------------------------------------------------------------------------------------------

Test(log, random_bytes_for_a_second) {
  struct rng rng;
  static uint8_t bytes[6000];
  struct timespec begin, now;
  rng_init(&rng, seed_get());
  clock_gettime(CLOCK_MONOTONIC, &begin);
  unsigned cases = 0;
  do {
    size_t size = rng_below(&rng, rng_one_in(&rng, 4) ? sizeof bytes : 600);
    bool texts = rng_one_in(&rng, 2); // half of the time mostly ASCII
    for (size_t i = 0; i < size; i++)
      bytes[i] = (uint8_t)(texts && !rng_one_in(&rng, 6) ? 32 + rng_below(&rng, 95) : rng_next(&rng));
    log_case_run(rctx_background(), bytes, size);
    cases++;
    clock_gettime(CLOCK_MONOTONIC, &now);
  } while (now.tv_sec * 1000 + now.tv_nsec / 1000000 < begin.tv_sec * 1000 + begin.tv_nsec / 1000000 + 1000);
  cr_log_info("%u lines", cases);
  cr_assert_gt(cases, 10);
}

// ---- cost ------------------------------------------------------------------------------------------------------------

int mallctl(const char *name, void *old, size_t *old_length, void *value, size_t length) __attribute__((weak));

// All that this thread has ever asked of malloc, exact where jemalloc is malloc.
static uint64_t bytes_asked_of_malloc(void) {
  uint64_t bytes = 0;
  size_t length = sizeof bytes;
  if (mallctl) mallctl("thread.allocated", &bytes, &length, NULL, 0);
  return bytes;
}

Test(log, nothing_is_allocated) {
  const rctx *ctx = rich_open();
  static char buf[4096];
  struct rctx_stats before, after;
  int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
  rctx_stats(rctx_manager_default(), &before);
  uint64_t asked = bytes_asked_of_malloc();
  for (int i = 0; i < 1000; i++) {
    rctx_log_format(buf, RCTX_LOG_LINE_MIN + (size_t)i, ctx, RCTX_LOG_WARN, "%d %s", i, long_message);
    rctx_log(null, ctx, RCTX_LOG_WARN, "%d %s", i, long_message);
  }
  cr_assert_eq(bytes_asked_of_malloc(), asked);
  rctx_stats(rctx_manager_default(), &after);
  cr_assert_eq(after.bytes, before.bytes);
  close(null);
  rich_close();
}

// ---- rctx_log --------------------------------------------------------------------------------------------------------

enum { WRITERS = 4, LINES = 500 };

struct writers {
  int fd;
  const rctx *ctx;
};

static void write_lines(unsigned index, void *arg) {
  const struct writers *w = arg;
  char fill[3000];
  for (int i = 0; i < LINES; i++) {
    size_t length = (size_t)(i * 37) % sizeof fill;
    memset(fill, 'a' + (int)index, sizeof fill);
    fill[length ? length - 1 : 0] = '\0';
    int rc = rctx_log(w->fd, w->ctx, RCTX_LOG_INFO, "%u %d %s", index, i, fill);
    cr_assert_eq(rc, 0, "%d", rc);
  }
}

// One more than the lines that came in: each is whole, and those of one thread are in order.
static void check_line(const char *begin, size_t size, int next[WRITERS]) {
  unsigned index;
  int number, used;
  cr_assert(json_line(&json, begin, size), "%s at %zu of %.*s", json.wrong, json.at, (int)size, begin);
  const char *msg = json_find(&json, "msg")->text.bytes;
  cr_assert_eq(sscanf(msg, "%u %d %n", &index, &number, &used), 2);
  cr_assert(index < WRITERS && number == next[index], "%s", msg);
  next[index]++;
  for (const char *c = msg + used; *c; c++) cr_assert_eq(*c, 'a' + (int)index, "lines are mixed: %s", msg);
}

Test(log, lines_of_threads_on_one_pipe_never_mix) {
  static char got[1 << 16];
  int ends[2], next[WRITERS] = {0};
  size_t have = 0;
  struct threads threads;
  cr_assert_eq(pipe(ends), 0);
  struct writers writers = {ends[1], rich_open()};
  threads_start(&threads, WRITERS, write_lines, &writers);
  for (int lines = 0; lines < WRITERS * LINES;) {
    ssize_t n = read(ends[0], got + have, sizeof got - have);
    cr_assert_gt(n, 0);
    have += (size_t)n;
    for (char *end; (end = memchr(got, '\n', have)) != NULL; lines++) {
      size_t size = (size_t)(end - got) + 1;
      cr_assert_leq(size, 4096);
      check_line(got, size, next);
      have -= size;
      memmove(got, end + 1, have);
    }
  }
  threads_join(&threads);
  rich_close();
  close(ends[0]);
  close(ends[1]);
}

Test(log, a_line_is_one_write) {
  char got[8192], fill[6000];
  int ends[2];
  memset(fill, 'f', sizeof fill - 1);
  fill[sizeof fill - 1] = '\0';
  cr_assert_eq(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends), 0); // keeps the borders of writes
  for (int i = 0; i < 6000; i += 500) {
    cr_assert_eq(rctx_log(ends[1], rctx_background(), RCTX_LOG_INFO, "%.*s", i, fill), 0);
    ssize_t n = recv(ends[0], got, sizeof got, 0);
    cr_assert(n > 0 && n < 4096, "%zd", n);
    cr_assert(json_line(&json, got, (size_t)n), "%s", json.wrong);
    cr_assert_eq(json_find(&json, "truncated") != NULL, i > 4000, "%d", i);
  }
  close(ends[0]);
  close(ends[1]);
}

Test(log, errors_of_the_descriptor_are_reported) {
  int ends[2], full = open("/dev/full", O_WRONLY | O_CLOEXEC), rc;
  signal(SIGPIPE, SIG_IGN);
  cr_assert_eq(rctx_log(-1, rctx_background(), RCTX_LOG_INFO, "m"), -EBADF);
  if (full >= 0) cr_assert_eq(rctx_log(full, rctx_background(), RCTX_LOG_INFO, "m"), -ENOSPC);
  cr_assert_eq(pipe2(ends, O_NONBLOCK), 0);
  while ((rc = rctx_log(ends[1], rctx_background(), RCTX_LOG_INFO, "m")) == 0) {
  }
  cr_assert_eq(rc, -EAGAIN);
  close(ends[0]);
  cr_assert_eq(rctx_log(ends[1], rctx_background(), RCTX_LOG_INFO, "m"), -EPIPE);
  close(ends[1]);
  if (full >= 0) close(full);
}

static void ignore_signal(int number) { (void)number; }

struct interrupted {
  int fd;
  atomic_bool done;
  int rc;
};

static void *log_into_a_full_pipe(void *arg) {
  struct interrupted *i = arg;
  i->rc = rctx_log(i->fd, rctx_background(), RCTX_LOG_INFO, "the one");
  atomic_store(&i->done, true);
  return NULL;
}

Test(log, a_write_that_a_signal_interrupts_is_done_again) {
  static char page[4096];
  struct sigaction action = {.sa_handler = ignore_signal}; // without SA_RESTART
  struct interrupted i = {0};
  int ends[2];
  pthread_t thread;
  sigaction(SIGUSR1, &action, NULL);
  cr_assert_eq(pipe(ends), 0);
  fcntl(ends[1], F_SETFL, O_NONBLOCK);
  while (write(ends[1], page, sizeof page) > 0) {
  }
  fcntl(ends[1], F_SETFL, 0);
  i.fd = ends[1];
  cr_assert_eq(pthread_create(&thread, NULL, log_into_a_full_pipe, &i), 0);
  for (int n = 0; n < 200; n++) {
    pthread_kill(thread, SIGUSR1);
    usleep(500);
  }
  cr_assert_not(atomic_load(&i.done), "the pipe is full");
  fcntl(ends[0], F_SETFL, O_NONBLOCK);
  while (!atomic_load(&i.done) || read(ends[0], page, sizeof page) > 0) {
    if (read(ends[0], page, sizeof page) <= 0) sched_yield();
  }
  pthread_join(thread, NULL);
  cr_assert_eq(i.rc, 0);
  close(ends[0]);
  close(ends[1]);
}
