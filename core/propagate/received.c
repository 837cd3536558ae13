/*
 * received.c - the deadline of a request that has come in: which of its headers counts, and what policy makes of it.
 * See rctx/propagate.h.
 *
 * One pass over the headers decodes each kind at its first occurrence and notes a second one; then the kinds are gone
 * through in order of precedence, which is that of their numbers.
 */
#include "codec.h"

enum { FIRST = RCTX_HEADER_GRPC_TIMEOUT, LAST = RCTX_HEADER_ENVOY_TIMEOUT_MS };

static const struct rctx_budget_policy no_policy; /* all zero */

struct found {
  bool there;
  enum rctx_fault fault;
  int64_t timeout_ns;
};

static bool counts_for(const struct rctx_budget_policy *policy, int id) {
  return id >= FIRST && id <= LAST && (policy->headers == 0 || (policy->headers & 1U << id) != 0);
}

static void read_one(int id, struct rctx_text value, struct found *found) {
  if (found->there) {
    found->fault = RCTX_FAULT_DUPLICATE;
    return;
  }
  found->there = true;
  int (*decode)(struct rctx_text, int64_t *, enum rctx_fault *) =
      id == RCTX_HEADER_GRPC_TIMEOUT ? rctx_grpc_timeout_decode : rctx_timeout_ms_decode;
  if (decode(value, &found->timeout_ns, &found->fault)) found->timeout_ns = 0;
}

static void read_all(const struct rctx_headers *headers, const struct rctx_budget_policy *policy,
                     struct found found[RCTX_HEADERS]) {
  struct rctx_cursor cursor = {NULL, 0};
  struct rctx_header header;
  while (headers->next(headers, &cursor, &header)) {
    int id = (int)rctx__header_id(header.name);
    if (!counts_for(policy, id)) continue;
    read_one(id, is_broken(header.value) ? (struct rctx_text){NULL, 0} : trimmed(header.value), &found[id]);
  }
}

/* Writes source, timeout, and what was refused. Returns what policy says if there is no source. */
static enum rctx_otherwise choose(const struct found found[RCTX_HEADERS], const struct rctx_budget_policy *policy,
                                  struct rctx_received *received) {
  for (int id = FIRST; id <= LAST; id++) {
    if (!found[id].there) continue;
    rctx__count_fault((enum rctx_header_id)id, found[id].fault);
    if (found[id].fault != RCTX_FAULT_NONE && received->refused == RCTX_FAULT_NONE) {
      received->refused = found[id].fault;
      received->refused_id = (enum rctx_header_id)id;
    } else if (found[id].fault == RCTX_FAULT_NONE && received->source == RCTX_HEADER_NONE) {
      received->source = (enum rctx_header_id)id;
      received->timeout_ns = found[id].timeout_ns;
    }
  }
  return received->refused == RCTX_FAULT_NONE ? policy->absent : policy->invalid;
}

/* The earlier of arrival + timeout and the parent's. */
static int64_t deadline_of(const rctx *parent, int64_t arrival_ns, int64_t timeout_ns) {
  int64_t deadline_ns = timeout_ns == INT64_MAX ? INT64_MAX : rctx__add_ns(arrival_ns, timeout_ns), parents_ns;
  if (rctx_deadline(parent, &parents_ns) && parents_ns < deadline_ns) deadline_ns = parents_ns;
  return deadline_ns ? deadline_ns : -1; /* 0 would mean none in rctx_spec */
}

static int apply(enum rctx_otherwise otherwise, const struct rctx_budget_policy *policy,
                 struct rctx_received *received) {
  bool is_received = received->source != RCTX_HEADER_NONE;
  if (!is_received && otherwise == RCTX_OTHERWISE_REJECT)
    return received->refused == RCTX_FAULT_NONE ? -ENOENT : -EINVAL;
  if (!is_received && otherwise == RCTX_OTHERWISE_DEFAULT) {
    received->timeout_ns = policy->default_ns > 0 ? policy->default_ns : 0;
  }
  if (policy->max_ns > 0 && received->timeout_ns > policy->max_ns &&
      (is_received || otherwise != RCTX_OTHERWISE_NONE)) {
    received->timeout_ns = policy->max_ns;
    received->clamped = true;
  }
  return is_received && received->timeout_ns < policy->min_ns ? -ETIMEDOUT : 0;
}

int rctx_budget_from_headers(const rctx *parent, int64_t arrival_ns, const struct rctx_headers *headers,
                             const struct rctx_budget_policy *policy, struct rctx_received *received) {
  struct found found[RCTX_HEADERS] = {{false, RCTX_FAULT_NONE, 0}};
  if (misused(parent == NULL, "parent is NULL (expected a context)") ||
      misused(headers == NULL || headers->next == NULL, "headers is NULL (expected a list of headers)") ||
      misused(received == NULL, "received is NULL (expected where to write it)")) {
    return -EINVAL;
  }
  if (policy == NULL) policy = &no_policy;
  *received = (struct rctx_received){.timeout_ns = INT64_MAX};
  read_all(headers, policy, found);
  int result = apply(choose(found, policy, received), policy, received);
  received->deadline_ns = deadline_of(parent, arrival_ns, received->timeout_ns);
  if (result == 0 && received->source != RCTX_HEADER_NONE && policy->min_ns > 0 && received->deadline_ns != INT64_MAX) {
    int64_t left_ns; /* queues and the parent have taken their part */
    if (__builtin_sub_overflow(received->deadline_ns, rctx_now_of(parent), &left_ns))
      left_ns = received->deadline_ns < 0 ? INT64_MIN : INT64_MAX;
    if (left_ns < policy->min_ns) result = -ETIMEDOUT;
  }
  return result;
}
