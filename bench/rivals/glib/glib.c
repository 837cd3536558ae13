/*
 * GLib's GCancellable. It has no tree: a child is linked as GLib's documentation shows it, by g_cancellable_connect() to the
 * parent with a handler that cancels the child, undone by g_cancellable_disconnect(). Event loops watch it by
 * g_cancellable_source_new(), threads wait by its descriptor.
 */
#include "cases.h"
#include "clock.h"
#include "count_alloc.h"
#include "wake.h"

#include <gio/gio.h>
#include <stdlib.h>

struct child {
  GCancellable *parent;
  GCancellable *self;
  gulong link;
};

static void cancel_child(GCancellable *parent, void *child) {
  (void)parent;
  g_cancellable_cancel(child);
}

static struct child derive(GCancellable *parent) {
  struct child child = {.parent = parent, .self = g_cancellable_new()};
  child.link = g_cancellable_connect(parent, G_CALLBACK(cancel_child), child.self, NULL);
  return child;
}

static void end(struct child *child) {
  g_cancellable_disconnect(child->parent, child->link);
  g_object_unref(child->self);
}

/* ---- err_poll_* -------------------------------------------------------------------------------------------------- */

struct chain {
  GCancellable *root;
  size_t count;
  struct child below[16];
};

static GCancellable *last_of(const struct chain *chain) {
  return chain->count > 0 ? chain->below[chain->count - 1].self : chain->root;
}

static void *open_chain(const struct bench_case *self) {
  struct chain *chain = bench_memory(1, sizeof *chain);
  chain->root = g_cancellable_new();
  while (chain->count + 1 < self->size) {
    chain->below[chain->count] = derive(last_of(chain));
    chain->count++;
  }
  return chain;
}

static void *open_canceled(const struct bench_case *self) {
  struct chain *chain = open_chain(self);
  g_cancellable_cancel(chain->root);
  return chain;
}

static void close_chain(void *fixture) {
  struct chain *chain = fixture;
  while (chain->count > 0) {
    end(&chain->below[--chain->count]);
  }
  g_object_unref(chain->root);
  free(chain);
}

static void poll_last(void *fixture, size_t ops) {
  GCancellable *cancellable = last_of(fixture);
  for (size_t i = 0; i < ops; i++) {
    bench_keep_int(g_cancellable_is_cancelled(cancellable));
  }
}

/* ---- derive_* ---------------------------------------------------------------------------------------------------- */

struct server {
  GCancellable *cancellable;
  size_t count;
  struct child sibling[];
};

static void *open_server(const struct bench_case *self) {
  struct server *server = bench_memory(1, sizeof *server + self->size * sizeof(struct child));
  server->cancellable = g_cancellable_new();
  for (server->count = 0; server->count < self->size; server->count++) {
    server->sibling[server->count] = derive(server->cancellable);
  }
  return server;
}

static void close_server(void *fixture) {
  struct server *server = fixture;
  while (server->count > 0) {
    end(&server->sibling[--server->count]);
  }
  g_object_unref(server->cancellable);
  free(server);
}

static void derive_cancel(void *fixture, size_t ops) {
  const struct server *server = fixture;
  for (size_t i = 0; i < ops; i++) {
    struct child child = derive(server->cancellable);
    g_cancellable_cancel(child.self);
    end(&child);
  }
}

static void derive_background(void *fixture, size_t ops) {
  (void)fixture;
  for (size_t i = 0; i < ops; i++) {
    GCancellable *cancellable = g_cancellable_new();
    g_cancellable_cancel(cancellable);
    g_object_unref(cancellable);
  }
}

/* ---- cancel_*: nodes numbered breadth first, the first `roots` are cancelled ------------------------------------- */

struct tree {
  size_t roots, nodes, width;
  struct child node[]; /* roots have no parent */
};

static void *open_tree_of(size_t roots, size_t width, size_t below) {
  struct tree *tree = bench_memory(1, sizeof *tree + (roots + below) * sizeof(struct child));
  tree->roots = roots;
  tree->nodes = roots + below;
  tree->width = width;
  return tree;
}

static void *open_fanout(const struct bench_case *self) {
  return open_tree_of(self->batch / self->size, self->size, self->batch);
}

static void *open_tree(const struct bench_case *self) { return open_tree_of(1, self->size, self->batch); }

static void grow(void *fixture) {
  struct tree *tree = fixture;
  for (size_t i = 0; i < tree->roots; i++) {
    tree->node[i].self = g_cancellable_new();
  }
  for (size_t i = tree->roots; i < tree->nodes; i++) {
    tree->node[i] = derive(tree->node[(i - tree->roots) / tree->width].self);
  }
}

static void cancel(void *fixture, size_t ops) {
  struct tree *tree = fixture;
  (void)ops;
  for (size_t i = 0; i < tree->roots; i++) {
    g_cancellable_cancel(tree->node[i].self);
  }
}

static void fell(void *fixture) {
  struct tree *tree = fixture;
  for (size_t i = tree->nodes; i-- > tree->roots;) {
    end(&tree->node[i]);
  }
  for (size_t i = 0; i < tree->roots; i++) {
    g_object_unref(tree->node[i].self);
  }
}

/* ---- callbacks, descriptors, event loops ------------------------------------------------------------------------- */

static void count_call(GCancellable *cancellable, void *calls) {
  (void)cancellable;
  ++*(size_t *)calls;
}

static void after_register_stop(void *fixture, size_t ops) {
  const struct server *server = fixture;
  size_t calls = 0;
  for (size_t i = 0; i < ops; i++) {
    gulong id = g_cancellable_connect(server->cancellable, G_CALLBACK(count_call), &calls, NULL);
    g_cancellable_disconnect(server->cancellable, id);
  }
}

static void done_fd_create(void *fixture, size_t ops) {
  const struct server *server = fixture;
  for (size_t i = 0; i < ops; i++) {
    struct child child = derive(server->cancellable);
    bench_keep_int(g_cancellable_get_fd(child.self));
    g_cancellable_release_fd(child.self);
    end(&child);
  }
}

static gboolean count_event(GCancellable *cancellable, void *calls) {
  count_call(cancellable, calls);
  return G_SOURCE_REMOVE;
}

static GSource *watch(GCancellable *cancellable, GMainContext *loop, size_t *calls) {
  GSource *source = g_cancellable_source_new(cancellable);
  g_source_set_callback(source, G_SOURCE_FUNC(count_event), calls, NULL);
  g_source_attach(source, loop);
  return source;
}

static void unwatch(GSource *source) {
  g_source_destroy(source);
  g_source_unref(source);
}

static void watch_register_stop(void *fixture, size_t ops) {
  const struct server *server = fixture;
  size_t calls = 0;
  GMainContext *loop = g_main_context_new();
  for (size_t i = 0; i < ops; i++) {
    unwatch(watch(server->cancellable, loop, &calls));
  }
  g_main_context_unref(loop);
}

struct burst {
  GMainContext *loop;
  GCancellable *server;
  size_t count, calls;
  struct child *stream;
  GSource **source;
};

static void *open_burst(const struct bench_case *self) {
  struct burst *b = bench_memory(1, sizeof *b);
  b->count = self->batch;
  b->stream = bench_memory(b->count, sizeof *b->stream);
  b->source = bench_memory(b->count, sizeof(GSource *));
  b->loop = g_main_context_new();
  return b;
}

static void watch_streams(void *fixture) {
  struct burst *b = fixture;
  b->server = g_cancellable_new();
  b->calls = 0;
  for (size_t i = 0; i < b->count; i++) {
    b->stream[i] = derive(b->server);
    b->source[i] = watch(b->stream[i].self, b->loop, &b->calls);
  }
}

/* GLib wakes its loop by an eventfd, out of sight of count_alloc.c: only the callbacks are reported. */
static void cancel_and_drain(void *fixture, size_t ops, struct bench_sample *sample) {
  struct burst *b = fixture;
  (void)ops;
  int64_t start = bench_clock(CLOCK_MONOTONIC);
  g_cancellable_cancel(b->server);
  while (b->calls < b->count) {
    g_main_context_iteration(b->loop, TRUE);
  }
  sample->ns = (double)(bench_clock(CLOCK_MONOTONIC) - start);
  sample->extra[0] = (double)b->calls;
}

static void end_streams(void *fixture) {
  struct burst *b = fixture;
  for (size_t i = 0; i < b->count; i++) {
    unwatch(b->source[i]);
    end(&b->stream[i]);
  }
  g_object_unref(b->server);
}

static void close_burst(void *fixture) {
  struct burst *b = fixture;
  g_main_context_unref(b->loop);
  free(b->source);
  free(b->stream);
  free(b);
}

/* ---- a blocked thread: g_cancellable_make_pollfd(), as for one that also waits for input ------------------------- */

static void *make_wake(void) { return g_cancellable_new(); }

static void wait_wake(void *cancellable) {
  GPollFD fd;
  if (g_cancellable_make_pollfd(cancellable, &fd)) {
    g_poll(&fd, 1, -1);
    g_cancellable_release_fd(cancellable);
  }
}

static void cancel_wake(void *cancellable) { g_cancellable_cancel(cancellable); }
static void end_wake(void *cancellable) { g_object_unref(cancellable); }

static void *open_sleeper(const struct bench_case *self) {
  (void)self;
  static const struct bench_wake wake = {make_wake, wait_wake, cancel_wake, end_wake};
  return bench_wake_open(&wake);
}

/* ---- a million alive --------------------------------------------------------------------------------------------- */

static GCancellable *resident_server;

static void open_resident(bool timeout) {
  (void)timeout;
  resident_server = g_cancellable_new();
}

/* The handle is the object; the id of its link is in it, as a program would keep it. */
static void *make_resident(bool timeout, size_t i) {
  (void)timeout;
  (void)i;
  struct child *child = g_new(struct child, 1);
  *child = derive(resident_server);
  return child;
}

static void end_resident(void *handle) {
  end(handle);
  g_free(handle);
}

static const struct bench_resident resident = {open_resident, make_resident, end_resident};

/* ---- tables ------------------------------------------------------------------------------------------------------ */

#define POLL(name_, open_, size_, pair_)                                                                               \
  { .name = name_, .open = open_, .run = poll_last, .close = close_chain, .size = size_, .pair = pair_ }
#define SERVER(name_, run_, ...)                                                                                       \
  { .name = name_, .open = open_server, .run = run_, .close = close_server, __VA_ARGS__ }
#define TREE(name_, open_, size_, batch_)                                                                              \
  {                                                                                                                    \
    .name = name_, .open = open_, .prepare = grow, .run = cancel, .cleanup = fell, .close = free, .size = size_,       \
    .batch = batch_                                                                                                    \
  }

static const struct bench_case cases[] = {
    POLL("err_poll_live", open_chain, 1, false),
    POLL("err_poll_depth16", open_chain, 16, false),
    POLL("err_poll_canceled", open_canceled, 1, false),
    POLL("err_poll_live_2threads", open_chain, 1, true),
    POLL("err_poll_depth16_2threads", open_chain, 16, true),
    POLL("err_poll_canceled_2threads", open_canceled, 1, true),
    SERVER("derive_cancel", derive_cancel, .size = 0),
    SERVER("derive_cancel_100k_siblings", derive_cancel, .size = 100000),
    SERVER("derive_cancel_2threads", derive_cancel, .pair = true),
    SERVER("derive_background", derive_background, .size = 0),
    TREE("cancel_fanout_10", open_fanout, 10, 1000),
    TREE("cancel_fanout_1000", open_fanout, 1000, 1000),
    TREE("cancel_fanout_100000", open_fanout, 100000, 100000),
    TREE("cancel_chain_1000", open_tree, 1, 1000),
    TREE("cancel_tree_10x10x10x10", open_tree, 10, 11110),
    SERVER("after_register_stop", after_register_stop, .size = 0),
    SERVER("watch_register_stop", watch_register_stop, .size = 0),
    SERVER("done_fd_create", done_fd_create, .size = 0),
    {.name = "loop_cancel_10000",
     .open = open_burst,
     .prepare = watch_streams,
     .measure = cancel_and_drain,
     .cleanup = end_streams,
     .close = close_burst,
     .batch = 10000,
     .extra = {"callbacks"}},
    {.name = "cancel_to_wake",
     .open = open_sleeper,
     .measure = bench_wake_measure,
     .close = bench_wake_close,
     .batch = BENCH_WAKES,
     .extra = {"kernel_ns"}},
    {.name = NULL},
};

static const char *version(void) {
  static char text[32];
  g_snprintf(text, sizeof text, "%u.%u.%u", glib_major_version, glib_minor_version, glib_micro_version);
  return text;
}

static const struct bench_case *const tables[] = {cases, bench_resident_cancel_cases, NULL};

const struct bench_program bench_program = {
    .name = "glib",
    .version = version,
    .blind = "no tree (linked by signal handlers here; a chain of 10^6 would overflow the stack), no deadlines, values",
    .tables = tables,
    .resident = &resident,
};
