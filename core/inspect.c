/* inspect.c - looking into a live tree: counts and texts. */
#include "manager.h"
#include "tree.h"
#include "value.h"

#include <rctx/inspect.h>

#include <string.h>

static enum rctx_kind kind_of(const rctx *ctx) {
  switch (ctx->kind) {
  case NODE_ROOT:
    return RCTX_KIND_ROOT;
  case NODE_VALUE:
    return RCTX_KIND_VALUE;
  case NODE_DETACHED:
    return RCTX_KIND_DETACHED;
  default:
    return ctx->own & OWN_DEADLINE ? RCTX_KIND_DEADLINE : RCTX_KIND_CANCEL;
  }
}

/* For rctx_inspect(): values are looked through, what has ended and what is detached does not count. */
struct count {
  struct rctx__visitor visitor; /* first */
  struct rctx_info *info;
};

static struct count *count_of(struct rctx__visitor *self) { return (struct count *)(void *)self; }

static bool count_registrations(rctx *node, uint32_t state, struct rctx__visitor *self) {
  if (rctx__done(state)) return false;
  count_of(self)->info->registrations += rctx__registrations_locked(node);
  return true;
}

static bool count_child(rctx *child, struct rctx__visitor *self) {
  if (child->kind == NODE_VALUE) return true;
  if (child->kind != NODE_DETACHED && !rctx__done(load_relaxed(&child->state))) /* a count of a moment */
    count_of(self)->info->children++;
  return false;
}

static void count_below(rctx *top, struct rctx_info *info) {
  struct count count = {{count_registrations, count_child, NULL, false}, info};
  rctx__visit_below(top, &count.visitor);
  info->children += info->registrations;
}

void rctx_inspect(const rctx *ctx, struct rctx_info *info) {
  if (misused(info == NULL, "info is NULL (expected where to write it)")) return;
  *info = (struct rctx_info){0};
  if (misused(ctx == NULL, "ctx is NULL (expected a context)")) return;
  rctx *node = rctx__mutable(ctx);
  struct rctx__ext *ext = load_acquire(&node->ext); /* partner: rctx__ext_get() */
  /* Counts of a moment: nothing is ordered by them, but that stripes come with their number (partner: stripes_make()). */
  *info = (struct rctx_info){.kind = kind_of(ctx),
                             .parent = ctx->parent,
                             .timer_armed = load_relaxed(&node->timer_state) == TIMER_ARMED,
                             .has_fd = (load_relaxed(&node->state) & STATE_FD) != 0,
                             .references = load_relaxed(&node->refs),
                             .stripes = ext && load_acquire(&ext->stripes) ? ext->stripe_count : 1};
  if (!rctx__is_static(ctx)) count_below(node, info);
}

/* ---- rctx_describe ----------------------------------------------------------------------------------------------- */

/* The chain is linked upwards and read downwards: a first pass measures, a second writes it from its end to its start. */
struct description {
  char *buf;
  size_t size;
  size_t at; /* measuring: length so far; writing: where what has been written begins */
  bool writing;
  int64_t now_ns;
};

struct piece {
  const rctx *ctx;                /* a derivation ... */
  const struct rctx_value *value; /* ... or one of its bindings */
};

static size_t print_value(const struct rctx_value *value, char *buf, size_t size) {
  const char *key = value->key->name ? value->key->name : "?";
  int head = snprintf(buf, size, ".WithValue(%s, ", key);
  size_t n = head > 0 ? (size_t)head : 0;
  char *rest = n < size ? buf + n : NULL;
  size_t room = n < size ? size - n : 0;
  int tail = 0;
  if (value->value == NULL && !(value->key->flags & RCTX_KEY_NUMBER)) {
    tail = snprintf(rest, room, "<nil>");
  } else if (value->key->print) {
    n += value->key->print(value->value, rest, room);
  } else {
    tail = snprintf(rest, room, "%p", value->value);
  }
  n += tail > 0 ? (size_t)tail : 0;
  tail = snprintf(n < size ? buf + n : NULL, n < size ? size - n : 0, ")");
  return n + (size_t)tail;
}

static size_t print_derivation(const struct description *to, const rctx *ctx, char *buf, size_t size) {
  int n = 0;
  if (ctx->kind == NODE_ROOT) {
    n = snprintf(buf, size, "%s", ctx == rctx_todo() ? "context.TODO" : "context.Background");
  } else if (ctx->kind == NODE_STATIC_ERROR) {
    n = snprintf(buf, size, "context.Error(%s)", rctx_strerror(rctx_err(ctx)));
  } else if (ctx->kind == NODE_DETACHED) {
    n = snprintf(buf, size, ".WithoutCancel");
  } else if (ctx->own & OWN_DEADLINE) {
    double deadline_ns = (double)load_relaxed(&ctx->deadline_ns), left = deadline_ns - (double)to->now_ns; /* of now */
    n = snprintf(buf, size, ".WithDeadline(%.3fs [%.3fs])", deadline_ns / 1e9, left / 1e9);
  } else if (ctx->kind == NODE_CANCEL) {
    n = snprintf(buf, size, ".WithCancel");
  }
  return n > 0 ? (size_t)n : 0;
}

static size_t print_piece(const struct description *to, const struct piece *piece, char *buf, size_t size) {
  return piece->value ? print_value(piece->value, buf, size) : print_derivation(to, piece->ctx, buf, size);
}

static void put(struct description *to, struct piece piece) {
  size_t length = print_piece(to, &piece, NULL, 0);
  if (!to->writing) {
    to->at += length;
    return;
  }
  size_t end = to->at;
  to->at = length < end ? end - length : 0;
  if (to->at >= to->size) return;
  char first_behind = end < to->size ? to->buf[end] : '\0';
  print_piece(to, &piece, to->buf + to->at, to->size - to->at);
  if (end < to->size) to->buf[end] = first_behind; /* the piece's closing NUL was written there */
}

static void put_value(const struct rctx_value *value, void *arg) { put(arg, (struct piece){NULL, value}); }

static void put_chain(struct description *to, const rctx *ctx) {
  for (; ctx; ctx = ctx->parent) {
    rctx__each_own_value(ctx, put_value, to);
    put(to, (struct piece){ctx, NULL});
  }
}

size_t rctx_describe(const rctx *ctx, char *buf, size_t size) {
  if (misused(ctx == NULL, "ctx is NULL (expected a context)")) {
    if (size) buf[0] = '\0';
    return 0;
  }
  struct description to = {buf, size, 0, false, rctx__now(ctx->manager)};
  put_chain(&to, ctx);
  size_t length = to.at;
  if (size == 0) return length;
  buf[length < size ? length : size - 1] = '\0';
  to.writing = true;
  put_chain(&to, ctx);
  buf[length < size ? length : size - 1] = '\0';
  return length;
}
