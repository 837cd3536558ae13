// std::stop_token (C++20). Cases: ../stop_source.h.
#include "../stop_source.h"

#include <condition_variable>
#include <mutex>
#include <stop_token>

namespace {

struct Std {
  using Source = std::stop_source;
  using Token = std::stop_token;
  template <class F> using Callback = std::stop_callback<F>;
  static Token token(const Source &source) { return source.get_token(); }
  static bool stopped(const Token &token) { return token.stop_requested(); }
  static void stop(Source &source) { source.request_stop(); }

  // As its documentation shows: condition_variable_any knows stop tokens.
  static void wait(const Token &token) {
    std::mutex mutex;
    std::condition_variable_any never;
    std::unique_lock<std::mutex> lock(mutex);
    never.wait(lock, token, [] { return false; });
  }
};

const char *version() { return "libstdc++ " BENCH_TEXT(_GLIBCXX_RELEASE) ", C++20"; }

} // namespace

extern const struct bench_program bench_program = {
    .name = "stop_token",
    .version = version,
    .blind =
        "no tree (linked by callbacks here; a chain of 10^6 would overflow the stack), no deadlines, values, reasons",
    .tables = rival::StopSource<Std>::tables,
    .resident = &rival::StopSource<Std>::resident,
    .settle = nullptr,
};
