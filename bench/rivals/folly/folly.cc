// folly's CancellationToken. Cases: ../stop_source.h.
#include "../stop_source.h"

#include <folly/CancellationToken.h>
#include <folly/synchronization/Baton.h>

namespace {

struct Folly {
  using Source = folly::CancellationSource;
  using Token = folly::CancellationToken;
  template <class F> using Callback = folly::CancellationCallback;
  static Token token(const Source &source) { return source.getToken(); }
  static bool stopped(const Token &token) { return token.isCancellationRequested(); }
  static void stop(Source &source) { source.requestCancellation(); }

  static void wait(const Token &token) {
    folly::Baton<> baton;
    folly::CancellationCallback post(token, [&baton] { baton.post(); });
    baton.wait();
  }
};

const char *version() { return FOLLY_FOUND_VERSION; }

} // namespace

extern const struct bench_program bench_program = {
    .name = "folly",
    .version = version,
    .blind =
        "no tree (linked by callbacks here; a chain of 10^6 would overflow the stack), no deadlines, values, reasons",
    .tables = rival::StopSource<Folly>::tables,
    .resident = &rival::StopSource<Folly>::resident,
    .settle = nullptr,
};
