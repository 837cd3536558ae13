// received_fuzz.c - the deadline of a request that came in: rctx_budget_from_headers() over hostile headers and any policy,
// against the header's text, step by step.
//
// The first bytes are the policy, the times and the parent's deadline; then line by line: two bytes that make a name, and a
// value.
#include "slow_time.h"

#include "replay.h"

#include <rctx/rctx.h>
#include <strings.h>

enum { HEADERS_MAX = 24 };

static int64_t now_ns;
static rctx_manager *manager;

static int64_t clock_now(void *arg) {
  (void)arg;
  return now_ns;
}

static void make_manager(void) {
  struct rctx_manager_options options = {.drive = RCTX_DRIVE_EMBEDDER, .now = clock_now};
  OUGHT(rctx_manager_create(&options, &manager) == 0);
}

struct input {
  const uint8_t *at, *end;
};

static uint8_t take_byte(struct input *in) { return in->at < in->end ? *in->at++ : 0; }

// Near and far, both signs, the ends of the range.
static int64_t take_time(struct input *in) {
  uint8_t b = take_byte(in), shift = take_byte(in) % 64;
  int64_t ns = (int64_t)(UINT64_C(1) << shift) + b / 4;
  if (shift == 63) ns = b & 4 ? INT64_MAX : b & 8 ? INT64_MIN : 0;
  return b & 2 ? -(ns > INT64_MIN ? ns : 0) : ns;
}

// ---- headers whose names are ours, nearly ours, or others -----------------------------------------------------------------

static struct rctx_text take_name(struct input *in) {
  char name[64] = "host";
  uint8_t which = take_byte(in), how = take_byte(in);
  const char *ours = rctx_header_name((enum rctx_header_id)(which % RCTX_HEADERS));
  if (ours) snprintf(name, sizeof name, "%s", ours);
  size_t length = strlen(name);
  if (how & 1) name[how / 8 % length] ^= 0x20; // another case, or another character
  if (how & 2) name[length - 1] ^= 0x20;
  if ((how & 12) == 12) length -= how & 16 ? 1 : 0;
  return box(name, length);
}

struct message {
  struct rctx_header headers[HEADERS_MAX];
  size_t count;
};

static void take_headers(struct input *in, struct message *message) {
  message->count = 0;
  while (in->at < in->end && message->count < HEADERS_MAX) {
    struct rctx_text name = take_name(in);
    const uint8_t *begin = in->at;
    while (in->at < in->end && *in->at != '\n') in->at++;
    message->headers[message->count++] = (struct rctx_header){name, box(begin, (size_t)(in->at - begin))};
    if (in->at < in->end) in->at++;
  }
}

// ---- the slow way -----------------------------------------------------------------------------------------------------------

struct found {
  int times;
  wide ns; // 0: invalid
};

static struct rctx_text bare(struct rctx_text text) {
  while (text.length > 0 && in(text.at[0], " \t")) text = (struct rctx_text){text.at + 1, text.length - 1};
  while (text.length > 0 && in(text.at[text.length - 1], " \t")) text.length--;
  return text;
}

static struct found find(const struct message *message, enum rctx_header_id id) {
  struct found found = {0, 0};
  const char *name = rctx_header_name(id);
  for (size_t i = 0; i < message->count; i++) {
    const struct rctx_header *h = &message->headers[i];
    if (h->name.length != strlen(name) || strncasecmp(h->name.at, name, h->name.length) != 0) continue;
    wide ns = id == RCTX_HEADER_GRPC_TIMEOUT ? slow_grpc_timeout(bare(h->value)) : slow_timeout_ms(bare(h->value));
    found.ns = found.times++ == 0 ? ns : 0; // twice is invalid
  }
  return found;
}

struct expected {
  int result;
  wide timeout_ns; // more than int64_t: no limit
  enum rctx_header_id source, refused_id;
  bool clamped;
};

static void expect_source(const struct message *message, const struct rctx_budget_policy *policy, struct expected *e) {
  for (int id = RCTX_HEADER_GRPC_TIMEOUT; id <= RCTX_HEADER_ENVOY_TIMEOUT_MS; id++) {
    if (policy->headers != 0 && !(policy->headers & 1U << id)) continue;
    struct found found = find(message, (enum rctx_header_id)id);
    if (found.times > 0 && found.ns == 0 && !e->refused_id) e->refused_id = (enum rctx_header_id)id;
    if (found.ns > 0 && !e->source) {
      e->source = (enum rctx_header_id)id;
      e->timeout_ns = clipped(found.ns);
    }
  }
}

static void expect(const struct message *message, const struct rctx_budget_policy *policy, struct expected *e) {
  *e = (struct expected){.timeout_ns = INT64_MAX};
  expect_source(message, policy, e);
  if (e->source == RCTX_HEADER_NONE) {
    enum rctx_otherwise otherwise = e->refused_id ? policy->invalid : policy->absent;
    if (otherwise == RCTX_OTHERWISE_REJECT) {
      e->result = e->refused_id ? -EINVAL : -ENOENT;
      return;
    }
    if (otherwise == RCTX_OTHERWISE_NONE) return;
    e->timeout_ns = policy->default_ns > 0 ? policy->default_ns : 0;
  }
  if (policy->max_ns > 0 && e->timeout_ns > policy->max_ns) {
    e->timeout_ns = policy->max_ns;
    e->clamped = true;
  }
}

static int64_t expect_deadline(const rctx *parent, int64_t arrival_ns, const struct expected *e) {
  int64_t parents_ns, deadline_ns = INT64_MAX;
  if (e->timeout_ns < INT64_MAX) deadline_ns = clipped((wide)arrival_ns + e->timeout_ns);
  if (rctx_deadline(parent, &parents_ns) && parents_ns < deadline_ns) deadline_ns = parents_ns;
  return deadline_ns == 0 ? -1 : deadline_ns;
}

static void compare(const rctx *parent, int64_t arrival_ns, const struct message *message,
                    const struct rctx_budget_policy *policy) {
  struct rctx_received received;
  struct expected e;
  struct rctx_headers headers = rctx_headers_of(message->headers, message->count);
  expect(message, policy, &e);
  int64_t deadline_ns = expect_deadline(parent, arrival_ns, &e);
  if (e.source != RCTX_HEADER_NONE && policy->min_ns > 0) {
    if (e.timeout_ns < policy->min_ns) e.result = -ETIMEDOUT;
    if (deadline_ns != INT64_MAX && (wide)deadline_ns - now_ns < policy->min_ns) e.result = -ETIMEDOUT;
  }
  OUGHT(rctx_budget_from_headers(parent, arrival_ns, &headers, policy, &received) == e.result);
  OUGHT(received.source == e.source && received.refused_id == e.refused_id && received.clamped == e.clamped);
  OUGHT((received.refused == RCTX_FAULT_NONE) == (e.refused_id == RCTX_HEADER_NONE));
  OUGHT(received.timeout_ns == clipped(e.timeout_ns) && received.deadline_ns == deadline_ns);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  struct message message;
  struct input in = {data, data + size};
  if (!manager) make_manager();
  uint8_t choices = take_byte(&in), how = take_byte(&in);
  struct rctx_budget_policy policy = {.absent = (enum rctx_otherwise)(choices % 3),
                                      .invalid = (enum rctx_otherwise)(choices / 3 % 3),
                                      .headers = choices & 128 ? choices & 14U : 0};
  now_ns = how & 1 ? take_time(&in) : 1000;
  int64_t arrival_ns = how & 2 ? take_time(&in) : now_ns;
  if (how & 4) policy.max_ns = take_time(&in);
  if (how & 8) policy.min_ns = take_time(&in);
  if (how & 16) policy.default_ns = take_time(&in);
  const rctx *root = rctx_manager_background(manager);
  rctx *parent = how & 32 ? rctx_with_deadline(root, take_time(&in)) : rctx_with_cancel(root);
  take_headers(&in, &message);
  compare(parent, arrival_ns, &message, &policy);
  for (size_t i = 0; i < message.count; i++) {
    unbox(message.headers[i].name);
    unbox(message.headers[i].value);
  }
  rctx_end(parent);
  return 0;
}
