/*
 * observe.c - the live tree written out, counts as Prometheus text.
 *
 * A dump has two steps. First rctx__visit_below() copies the tree into the caller's room, under its locks: records grow from
 * the room's start, texts and values from its end, and when they meet the visit stops. Then, with no lock, the records
 * are written, through a small buffer.
 *
 * What may be read under the locks: a child that is linked, with all that goes only after it has been unlinked, that is
 * its name, and the values and the cause that have no destructor. Destructors run before a context is unlinked, in the
 * thread that let go of it, so what they free may be gone. A context can not be pinned instead: one that nobody else
 * holds is let go of without a read-modify-write (rctx__give_up()).
 */
#include "manager.h"
#include "probes.h"
#include "text.h"
#include "tree.h"
#include "value.h"

#include <inttypes.h>
#include <rctx/observe.h>
#include <string.h>
#include <unistd.h>

#define NEED_CTX "top is NULL (expected a context)"

enum { TEXT_MAX = 128, PIECE = 512, INDENT_MAX = 32 };

struct text {
  size_t size;
  char bytes[];
};

enum what { VALUE_NULL, VALUE_TEXT, VALUE_NUMBER, VALUE_OTHER };

struct shown {
  struct shown *next;
  const struct text *key, *text; /* text: VALUE_TEXT */
  enum what what;
  size_t (*number)(const void *value, char *buf, size_t size); /* VALUE_NUMBER: one of the library's own ... */
  void *value;                                                 /* ... which looks at the slot only */
};

struct record {
  size_t parent; /* index; of the first: 0 */
  unsigned depth;
  int err;
  const char *kind;
  const struct text *name, *cause; /* NULL: none */
  struct shown *values;
  size_t children, registrations;
  unsigned references;
  bool more; /* it has children that are not here */
  bool timer, has_deadline, has_left;
  int64_t deadline_ns, left_ns;
};

struct snapshot {
  struct rctx__visitor visitor; /* first */
  struct record *records;
  size_t count;
  char *end;    /* of what is free */
  size_t level; /* index of the record of the context whose children are being visited */
  bool cut;
  const rctx_manager *manager; /* top's */
  int64_t now_ns;              /* on its clock */
};

/* ---- taking the snapshot: the locks are held --------------------------------------------------------------------- */

static struct snapshot *snapshot_of(struct rctx__visitor *self) { return (struct snapshot *)(void *)self; }

static void *carve(struct snapshot *shot, size_t size) {
  char *free_from = (char *)&shot->records[shot->count];
  size_t aligned = (size + sizeof(void *) - 1) & ~(sizeof(void *) - 1);
  if (shot->cut || shot->end < free_from || (size_t)(shot->end - free_from) < aligned) {
    shot->cut = true;
    return NULL;
  }
  shot->end -= aligned;
  return shot->end;
}

static const struct text *copy_text(struct snapshot *shot, const char *from) {
  size_t size = strnlen(from, TEXT_MAX);
  if (size == TEXT_MAX) size = rctx__whole_characters(from, size);
  struct text *copy = carve(shot, sizeof *copy + size);
  if (copy == NULL) return NULL;
  copy->size = size;
  memcpy(copy->bytes, from, size);
  return copy;
}

static bool is_own_number(const struct rctx_key *key) {
  return key->print == rctx__print_bool || key->print == rctx__print_i16 || key->print == rctx__print_i32 ||
         key->print == rctx__print_i64 || key->print == rctx__print_u16 || key->print == rctx__print_u32 ||
         key->print == rctx__print_u64;
}

static enum what what_is(const struct rctx_value *value) {
  if (is_own_number(value->key)) return VALUE_NUMBER;
  if (value->value == NULL) return VALUE_NULL;
  return value->key->print == rctx__print_string && value->destroy == NULL ? VALUE_TEXT : VALUE_OTHER;
}

static struct record *last_record(const struct snapshot *shot) { return &shot->records[shot->count - 1]; }

static void copy_value(const struct rctx_value *value, void *arg) {
  struct snapshot *shot = arg;
  struct record *record = last_record(shot);
  const char *name = value->key->name ? value->key->name : "?";
  if (!(value->key->flags & RCTX_KEY_LOGGABLE)) return;
  for (const struct shown *newer = record->values; newer; newer = newer->next) {
    size_t size = strnlen(name, TEXT_MAX);
    if (newer->key->size == size && memcmp(newer->key->bytes, name, size) == 0) return; /* the nearest is shown */
  }
  struct shown *shown = carve(shot, sizeof *shown);
  const struct text *key = shown ? copy_text(shot, name) : NULL;
  if (key == NULL) return;
  *shown = (struct shown){record->values, key, NULL, what_is(value), value->key->print, value->value};
  if (shown->what == VALUE_TEXT) shown->text = copy_text(shot, value->value);
  record->values = shown;
}

/* NULL: it has one that may not be looked at here. */
static const char *text_of_cause(const rctx *ctx, uint32_t state) {
  if ((state & STATE_ORIGIN) == ORIGIN_PARENT) return "with its parent";
  const struct rctx_cause *cause = (state & STATE_ORIGIN) == ORIGIN_LOCAL
                                       ? load_relaxed(&ctx->cause) /* written before the mark */
                                       : rctx__value_own(ctx, &rctx__deadline_cause_key);
  if (cause == NULL) return rctx_strerror(-ETIMEDOUT);
  return cause->destroy ? NULL : cause->text;
}

static const char *kind_name(const rctx *ctx) {
  switch (ctx->kind) {
  case NODE_ROOT:
    return "root";
  case NODE_VALUE:
    return "value";
  case NODE_DETACHED:
    return "detached";
  case NODE_STATIC_ERROR:
    return "error";
  default:
    return ctx->own & OWN_DEADLINE ? "deadline" : "cancel";
  }
}

static void copy_deadline(const struct snapshot *shot, const rctx *ctx, struct record *record) {
  record->has_deadline = rctx_deadline(ctx, &record->deadline_ns);
  if (!record->has_deadline || record->err || !rctx__same_clock(ctx->manager, shot->manager)) return;
  record->has_left = !__builtin_sub_overflow(record->deadline_ns, shot->now_ns, &record->left_ns);
  if (record->left_ns < 0) record->left_ns = 0;
}

/* Add a context that is held, or whose parent's lists are locked. False: it does not fit, and is not there. */
static bool copy_context(struct snapshot *shot, const rctx *ctx, size_t parent, unsigned depth) {
  char *end = shot->end;
  shot->count++; /* from here on texts may not go below */
  if (carve(shot, 0) == NULL) {
    shot->count--;
    return false;
  }
  uint32_t state = load_acquire(&rctx__mutable(ctx)->state); /* partner: mark() */
  struct record *record = last_record(shot);
  *record = (struct record){.parent = parent,
                            .depth = depth,
                            .err = -(int)rctx__done(state),
                            .kind = kind_name(ctx),
                            .references = load_relaxed(&ctx->refs), /* a count of a moment */
                            .timer = load_relaxed(&ctx->timer_state) == TIMER_ARMED};
  copy_deadline(shot, ctx, record);
  const char *name = rctx__value_own(ctx, &rctx__name_key);
  const char *cause = record->err ? text_of_cause(ctx, state) : NULL;
  if (name) record->name = copy_text(shot, name);
  if (cause) record->cause = copy_text(shot, cause);
  rctx__each_own_value(ctx, copy_value, shot);
  if (!shot->cut) return true;
  shot->count--;
  shot->end = end;
  return false;
}

static bool enter_one(rctx *node, uint32_t state, struct rctx__visitor *self) {
  struct snapshot *shot = snapshot_of(self);
  (void)state;
  shot->level = shot->count - 1; /* the one that was copied last */
  last_record(shot)->registrations = rctx__registrations_locked(node);
  return true;
}

static bool copy_child(rctx *child, struct rctx__visitor *self) {
  struct snapshot *shot = snapshot_of(self);
  struct record *parent = &shot->records[shot->level];
  if (child->kind == NODE_DYING) return false; /* its cause, values and merge may be gone */
  if (copy_context(shot, child, shot->level, parent->depth + 1)) {
    parent->children++;
    return true;
  }
  self->enough = true;
  return false;
}

/* Cut: more may hang below each context of the way back. */
static void leave_one(rctx *node, struct rctx__visitor *self) {
  struct snapshot *shot = snapshot_of(self);
  struct record *left = &shot->records[shot->level];
  (void)node;
  left->more = self->enough;
  shot->level = left->parent;
}

static void take_snapshot(struct snapshot *shot, const rctx *top, void *room, size_t room_size) {
  size_t skip = (size_t)(-(uintptr_t)room % sizeof(void *));
  size_t usable = room && room_size > skip ? (room_size - skip) & ~(sizeof(void *) - 1) : 0;
  *shot = (struct snapshot){.visitor = {enter_one, copy_child, leave_one, false},
                            .records = (struct record *)(void *)((char *)room + (usable ? skip : 0)),
                            .manager = top->manager,
                            .now_ns = rctx__now(top->manager)};
  shot->end = (char *)shot->records + usable;
  shot->cut = usable < sizeof(struct record);
  if (shot->cut || !copy_context(shot, top, 0, 0)) return;
  if (!rctx__is_static(top)) rctx__visit_below(rctx__mutable(top), &shot->visitor);
}

/* ---- writing ------------------------------------------------------------------------------------------------------ */

struct out {
  rctx_dump_write write;
  void *arg;
  int err; /* what it returned */
  bool dot;
  size_t used;
  char buf[PIECE];
};

static void flush(struct out *out) {
  if (out->used && out->err == 0) out->err = out->write(out->buf, out->used, out->arg);
  out->used = 0;
}

static void put(struct out *out, const char *text, size_t size) {
  if (size > PIECE - out->used) flush(out);
  memcpy(out->buf + out->used, text, size); /* nothing is longer than a piece */
  out->used += size;
}

static void put_text(struct out *out, const char *text) { put(out, text, strlen(text)); }

static void put_number(struct out *out, const char *before, int64_t number) {
  char text[64];
  int size = snprintf(text, sizeof text, "%s%" PRId64, before, number);
  put(out, text, (size_t)size);
}

/* In a label of Graphviz, which is quoted itself, and which knows entities. */
static void put_in_label(struct out *out, const char *text, size_t size) {
  for (size_t i = 0; i < size; i++) {
    if (text[i] == '&') {
      put(out, "&amp;", 5);
      continue;
    }
    if (text[i] == '"' || text[i] == '\\') put(out, "\\", 1);
    put(out, &text[i], 1);
  }
}

static void put_quoted(struct out *out, const struct text *text) {
  const unsigned char *bytes = (const unsigned char *)text->bytes;
  char written[6];
  put_text(out, out->dot ? "\\\"" : "\"");
  for (size_t i = 0; i < text->size;) {
    unsigned length = rctx__character(bytes + i, text->size - i);
    unsigned size = rctx__write_character(bytes + i, length, written);
    if (out->dot) {
      put_in_label(out, written, size);
    } else {
      put(out, written, size);
    }
    i += length ? length : 1;
  }
  put_text(out, out->dot ? "\\\"" : "\"");
}

static void put_value(struct out *out, const struct shown *shown) {
  static const struct text other = {1, {"?"}};
  char number[32];
  switch (shown->what) {
  case VALUE_NULL:
    put_text(out, "null");
    break;
  case VALUE_TEXT:
    put_quoted(out, shown->text);
    break;
  case VALUE_NUMBER:
    put(out, number, shown->number(shown->value, number, sizeof number));
    break;
  default:
    put_quoted(out, &other);
  }
}

/* ---- text --------------------------------------------------------------------------------------------------------- */

static void put_seconds(struct out *out, int64_t ns) {
  char text[64];
  int size = snprintf(text, sizeof text, " left=%" PRId64 ".%03" PRId64 "s", ns / 1000000000, ns / 1000000 % 1000);
  put(out, text, (size_t)size);
}

static void put_count(struct out *out, const char *before, size_t count, bool more) {
  if (count == 0 && !more) return;
  put_number(out, before, (int64_t)count);
  if (more) put_text(out, "+");
}

/* What text and labels say behind the kind; newline: how a label breaks. */
static void put_facts(struct out *out, const struct record *record, const char *newline) {
  put_text(out, record->kind);
  if (record->name) {
    put_text(out, " ");
    put_quoted(out, record->name);
  }
  put_text(out, newline);
  put_text(out, record->err ? "ended" : "live");
  if (record->err) put_number(out, " err=", record->err);
  if (record->cause) {
    put_text(out, " ");
    put_quoted(out, record->cause);
  }
  if (record->has_left) put_seconds(out, record->left_ns);
  if (record->timer) put_text(out, " timer");
  put_count(out, " children=", record->children, record->more);
  put_count(out, " registrations=", record->registrations, false);
  put_count(out, " references=", record->references, false);
  for (const struct shown *shown = record->values; shown; shown = shown->next) {
    put_text(out, shown == record->values ? newline : " ");
    put_quoted(out, shown->key);
    put_text(out, "=");
    put_value(out, shown);
  }
}

static void write_text(struct out *out, const struct snapshot *shot) {
  for (size_t i = 0; i < shot->count; i++) {
    const struct record *record = &shot->records[i];
    for (unsigned d = 0; d < record->depth && d < INDENT_MAX; d++) put_text(out, "  ");
    if (record->depth > INDENT_MAX) {
      put_number(out, "level ", record->depth);
      put_text(out, ": ");
    }
    put_facts(out, record, " ");
    put_text(out, "\n");
  }
  put_number(out, "-- contexts: ", (int64_t)shot->count);
  put_text(out, shot->cut ? ", truncated\n" : "\n");
}

/* ---- JSON --------------------------------------------------------------------------------------------------------- */

static void put_bool(struct out *out, const char *name, bool truth) {
  put_text(out, name);
  put_text(out, truth ? "true" : "false");
}

static void put_string(struct out *out, const char *name, const struct text *text) {
  if (text == NULL) return;
  put_text(out, name);
  put_quoted(out, text);
}

static void put_values(struct out *out, const struct record *record) {
  put_text(out, ",\"values\":{");
  for (const struct shown *shown = record->values; shown; shown = shown->next) {
    if (shown != record->values) put_text(out, ",");
    put_quoted(out, shown->key);
    put_text(out, ":");
    put_value(out, shown);
  }
  put_text(out, "}");
}

static void put_object(struct out *out, const struct record *record, size_t index) {
  put_number(out, "{\"id\":", (int64_t)index + 1);
  if (index) put_number(out, ",\"parent\":", (int64_t)record->parent + 1);
  if (!index) put_text(out, ",\"parent\":null");
  put_text(out, ",\"kind\":\"");
  put_text(out, record->kind);
  put_text(out, "\"");
  put_string(out, ",\"name\":", record->name);
  put_text(out, record->err ? ",\"state\":\"ended\"" : ",\"state\":\"live\"");
  if (record->err) put_number(out, ",\"err\":", record->err);
  put_string(out, ",\"cause\":", record->cause);
  if (record->has_deadline) put_number(out, ",\"deadline_ns\":", record->deadline_ns);
  if (record->has_left) put_number(out, ",\"left_ns\":", record->left_ns);
  put_bool(out, ",\"timer\":", record->timer);
  put_number(out, ",\"children\":", (int64_t)record->children);
  if (record->more) put_bool(out, ",\"more\":", true);
  put_number(out, ",\"registrations\":", (int64_t)record->registrations);
  put_number(out, ",\"references\":", record->references);
  put_values(out, record);
  put_text(out, "}");
}

static void write_json(struct out *out, const struct snapshot *shot) {
  put_text(out, "{\"contexts\":[");
  for (size_t i = 0; i < shot->count; i++) {
    put_text(out, i ? ",\n" : "\n");
    put_object(out, &shot->records[i], i);
  }
  put_bool(out, "\n],\"truncated\":", shot->cut);
  put_text(out, "}\n");
}

/* ---- Graphviz ----------------------------------------------------------------------------------------------------- */

static const char *style_of(const struct record *record) {
  if (record->err) return "\",color=red,fontcolor=red];\n";
  if (strcmp(record->kind, "detached") == 0) return "\",style=dashed,color=blue];\n";
  return strcmp(record->kind, "value") == 0 ? "\",color=gray];\n" : "\"];\n";
}

static void write_dot(struct out *out, const struct snapshot *shot) {
  put_text(out, "digraph rctx {\n  rankdir=LR;\n  node [shape=box,fontname=\"sans-serif\",fontsize=10];\n");
  out->dot = true;
  for (size_t i = 0; i < shot->count; i++) {
    put_number(out, "  c", (int64_t)i + 1);
    put_text(out, " [label=\"");
    put_facts(out, &shot->records[i], "\\n");
    put_text(out, style_of(&shot->records[i]));
    if (i == 0) continue;
    put_number(out, "  c", (int64_t)shot->records[i].parent + 1);
    put_number(out, " -> c", (int64_t)i + 1);
    put_text(out, ";\n");
  }
  if (shot->cut) put_text(out, "  cut [label=\"truncated\",shape=plaintext];\n");
  put_text(out, "}\n");
}

int rctx_dump(const rctx *top, enum rctx_dump_format format, void *room, size_t room_size, rctx_dump_write write,
              void *arg) {
  if (misused(top == NULL, NEED_CTX) || misused(write == NULL, "write is NULL")) return -EINVAL;
  static void (*const writers[])(struct out *, const struct snapshot *) = {write_text, write_json, write_dot};
  if ((unsigned)format >= sizeof writers / sizeof *writers) return -EINVAL;
  struct snapshot shot;
  struct out out = {.write = write, .arg = arg};
  take_snapshot(&shot, top, room, room_size);
  writers[format](&out, &shot);
  flush(&out);
  return out.err ? out.err : shot.cut ? -ENOSPC : 0;
}

static int write_fd(const char *text, size_t size, void *arg) {
  int fd = *(const int *)arg;
  while (size > 0) {
    ssize_t written = write(fd, text, size);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return -errno;
    text += written;
    size -= (size_t)written;
  }
  return 0;
}

int rctx_dump_fd(const rctx *top, enum rctx_dump_format format, void *room, size_t room_size, int fd) {
  if (misused(top == NULL, NEED_CTX)) return -EINVAL;
  int errno_before = errno;
  int rc = rctx_dump(top, format, room, room_size, write_fd, &fd);
  errno = errno_before;
  return rc;
}

/* ---- counts ------------------------------------------------------------------------------------------------------- */

size_t rctx_prometheus(const rctx_manager *manager, char *buf, size_t size) {
  struct rctx_stats stats = {0};
  if (misused(buf == NULL && size, "buf is NULL (expected where to write the text)")) return 0;
  if (size) buf[0] = '\0';
  if (misused(manager == NULL, "manager is NULL")) return 0;
  rctx_stats(manager, &stats);
  const struct {
    const char *name, *help;
    size_t value;
  } gauges[] = {{"contexts", "Contexts derived and not gone yet.", stats.contexts},
                {"timers", "Deadlines armed.", stats.timers},
                {"deferred", "Contexts that wait for a grace period.", stats.deferred},
                {"callbacks", "Callbacks running or queued.", stats.callbacks},
                {"tasks", "Tasks running or queued.", stats.tasks},
                {"orphans", "Tasks running though their callers have returned.", stats.orphans},
                {"threads", "Threads of the manager.", stats.threads},
                {"bytes", "Bytes taken from the allocator.", stats.bytes}};
  size_t length = 0, there = 0;
  for (size_t i = 0; i < sizeof gauges / sizeof *gauges; i++) {
    char text[256];
    const char *name = gauges[i].name;
    size_t n = (size_t)snprintf(text, sizeof text, "# HELP rctx_%s %s\n# TYPE rctx_%s gauge\nrctx_%s %zu\n", name,
                                gauges[i].help, name, name, gauges[i].value);
    if (there == length && n < size - there) { /* there < size, or both 0 */
      memcpy(buf + there, text, n + 1);
      there += n;
    }
    length += n;
  }
  return length;
}

bool rctx_probes(void) { return RCTX_PROBES; }
