// The cases of C++'s stop sources: std's and those made after the same pattern (folly's). A rival says what Source, Token and
// Callback are.
//
// None has a tree. A child is linked to its parent as their documentation shows it: a source of its own, and a callback on
// the parent's token that stops it.
#ifndef RCTX_BENCH_RIVALS_STOP_SOURCE_H
#define RCTX_BENCH_RIVALS_STOP_SOURCE_H

#include "cases.h"
#include "wake.h"

#include <cstdlib>
#include <memory>
#include <new>
#include <utility>
#include <vector>

#define BENCH_TEXT_(x) #x
#define BENCH_TEXT(x) BENCH_TEXT_(x)

namespace rival {

template <class Stop> struct StopSource {
  using Source = typename Stop::Source;
  using Token = typename Stop::Token;

  struct Forward {
    Source *source;
    void operator()() noexcept { Stop::stop(*source); }
  };
  using Link = typename Stop::template Callback<Forward>;

  struct Child {
    explicit Child(const Token &parent) : link(parent, Forward{&source}) {}
    Source source;
    Link link; // undone first
  };

  // ---- err_poll_*

  struct Chain {
    Source root;
    std::vector<std::unique_ptr<Child>> below;
    Token last() const { return below.empty() ? Stop::token(root) : Stop::token(below.back()->source); }
  };

  static void *open_chain(const bench_case *self) {
    auto *chain = new Chain;
    while (chain->below.size() + 1 < self->size) {
      chain->below.push_back(std::make_unique<Child>(chain->last()));
    }
    return chain;
  }
  static void *open_canceled(const bench_case *self) {
    void *chain = open_chain(self);
    Stop::stop(static_cast<Chain *>(chain)->root);
    return chain;
  }
  static void close_chain(void *fixture) { delete static_cast<Chain *>(fixture); }
  static void poll_last(void *fixture, size_t ops) {
    const Token token = static_cast<Chain *>(fixture)->last();
    for (size_t i = 0; i < ops; i++) {
      bench_keep_int(Stop::stopped(token));
    }
  }

  // ---- derive_*

  struct Server {
    Source source;
    Token token = Stop::token(source);
    std::vector<std::unique_ptr<Child>> siblings;
  };

  static void *open_server(const bench_case *self) {
    auto *server = new Server;
    for (size_t i = 0; i < self->size; i++) {
      server->siblings.push_back(std::make_unique<Child>(server->token));
    }
    return server;
  }
  static void close_server(void *fixture) { delete static_cast<Server *>(fixture); }
  static void derive_cancel(void *fixture, size_t ops) {
    const auto *server = static_cast<Server *>(fixture);
    for (size_t i = 0; i < ops; i++) {
      Child child(server->token);
      bench_keep(&child);
      Stop::stop(child.source);
    }
  }
  static void derive_background(void *, size_t ops) {
    for (size_t i = 0; i < ops; i++) {
      Source source;
      const Token token = Stop::token(source);
      bench_keep(&token);
      Stop::stop(source);
    }
  }

  // ---- cancel_*: nodes are numbered breadth first, the first `roots` of them are cancelled

  struct Tree {
    size_t roots, nodes, width;
    std::vector<std::unique_ptr<Source>> root;
    std::vector<std::unique_ptr<Child>> below;
    Token token(size_t i) const { return i < roots ? Stop::token(*root[i]) : Stop::token(below[i - roots]->source); }
  };

  static void *open_fanout(const bench_case *self) {
    const size_t roots = self->batch / self->size;
    return new Tree{roots, roots + self->batch, self->size, {}, {}};
  }
  static void *open_tree(const bench_case *self) { return new Tree{1, 1 + self->batch, self->size, {}, {}}; }
  static void grow(void *fixture) {
    auto *tree = static_cast<Tree *>(fixture);
    for (size_t i = 0; i < tree->roots; i++) {
      tree->root.push_back(std::make_unique<Source>());
    }
    for (size_t i = 0; i + tree->roots < tree->nodes; i++) {
      tree->below.push_back(std::make_unique<Child>(tree->token(i / tree->width)));
    }
  }
  static void cancel(void *fixture, size_t) {
    for (auto &root : static_cast<Tree *>(fixture)->root) {
      Stop::stop(*root);
    }
  }
  static void fell(void *fixture) {
    auto *tree = static_cast<Tree *>(fixture);
    while (!tree->below.empty()) {
      tree->below.pop_back();
    }
    tree->root.clear();
  }
  static void close_tree(void *fixture) { delete static_cast<Tree *>(fixture); }

  // ---- callbacks

  static void after_register_stop(void *fixture, size_t ops) {
    const auto *server = static_cast<Server *>(fixture);
    size_t calls = 0;
    auto count = [&calls]() noexcept { calls++; };
    for (size_t i = 0; i < ops; i++) {
      typename Stop::template Callback<decltype(count)> callback(server->token, count);
      bench_keep(&callback);
    }
  }

  // ---- a blocked thread

  static void *make_wake() { return new Source; }
  static void wait_wake(void *source) { Stop::wait(Stop::token(*static_cast<Source *>(source))); }
  static void cancel_wake(void *source) { Stop::stop(*static_cast<Source *>(source)); }
  static void end_wake(void *source) { delete static_cast<Source *>(source); }
  static void *open_sleeper(const bench_case *) {
    static const bench_wake wake = {make_wake, wait_wake, cancel_wake, end_wake};
    return bench_wake_open(&wake);
  }

  // ---- a million alive

  static inline Source *resident_server;
  static void open_resident(bool) { resident_server = new Source; }
  static void *make_resident(bool, size_t) { return new Child(Stop::token(*resident_server)); }
  static void end_resident(void *child) { delete static_cast<Child *>(child); }
  static constexpr bench_resident resident = {open_resident, make_resident, end_resident};

  // ---- the tables; {} fields are as a table in C leaves them

  using Open = void *(*)(const bench_case *);
  using Close = void (*)(void *);

  static constexpr bench_case loop(const char *name, Open open, void (*run)(void *, size_t), Close close, size_t size,
                                   bool pair) {
    bench_case c = {};
    c.name = name, c.open = open, c.run = run, c.close = close, c.size = size, c.pair = pair;
    return c;
  }
  static constexpr bench_case tree(const char *name, Open open, size_t size, size_t batch) {
    bench_case c = loop(name, open, cancel, close_tree, size, false);
    c.prepare = grow, c.cleanup = fell, c.batch = batch;
    return c;
  }
  static constexpr bench_case sleeper() {
    bench_case c = {};
    c.name = "cancel_to_wake", c.open = open_sleeper, c.measure = bench_wake_measure, c.close = bench_wake_close;
    c.batch = BENCH_WAKES, c.extra[0] = "kernel_ns";
    return c;
  }

  static constexpr bench_case cases[] = {
      loop("err_poll_live", open_chain, poll_last, close_chain, 1, false),
      loop("err_poll_depth16", open_chain, poll_last, close_chain, 16, false),
      loop("err_poll_canceled", open_canceled, poll_last, close_chain, 1, false),
      loop("err_poll_live_2threads", open_chain, poll_last, close_chain, 1, true),
      loop("err_poll_depth16_2threads", open_chain, poll_last, close_chain, 16, true),
      loop("err_poll_canceled_2threads", open_canceled, poll_last, close_chain, 1, true),
      loop("derive_cancel", open_server, derive_cancel, close_server, 0, false),
      loop("derive_cancel_100k_siblings", open_server, derive_cancel, close_server, 100000, false),
      loop("derive_cancel_2threads", open_server, derive_cancel, close_server, 0, true),
      loop("derive_background", open_server, derive_background, close_server, 0, false),
      tree("cancel_fanout_10", open_fanout, 10, 1000),
      tree("cancel_fanout_1000", open_fanout, 1000, 1000),
      tree("cancel_fanout_100000", open_fanout, 100000, 100000),
      tree("cancel_chain_1000", open_tree, 1, 1000),
      tree("cancel_tree_10x10x10x10", open_tree, 10, 11110),
      loop("after_register_stop", open_server, after_register_stop, close_server, 0, false),
      sleeper(),
      {},
  };
  static constexpr const bench_case *tables[] = {cases, bench_resident_cancel_cases, nullptr};
};

} // namespace rival

#endif
