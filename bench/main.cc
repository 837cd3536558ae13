// rctx-bench: the cases of cases.h under google-benchmark.
//
// Times are taken by the harness (manual time): what is prepared for an operation is not part of it, and of two threads
// each reports what it saw itself. Names are printed as they are in the tables, without google-benchmark's suffixes.
// The program's own options come on top of google-benchmark's: --list, and --resident for itself (memory.c).
#include "cases.h"
#include "harness.h"

#include <benchmark/benchmark.h>

#include <cstdio>
#include <cstring>
#include <regex>
#include <string>
#include <vector>

namespace {

struct Totals {
  double operations = 0;
  double cpu_ns = 0;
  double allocs = 0;
  double bytes = 0;
  double extra[BENCH_EXTRAS] = {};
  double blocks = 0;

  void add(const bench_case &c, const bench_sample &sample) {
    operations += static_cast<double>(sample.ops) * (c.pair ? 2 : 1);
    cpu_ns += sample.cpu_ns * (c.pair ? 2 : 1);
    allocs += static_cast<double>(sample.allocs);
    bytes += static_cast<double>(sample.bytes);
    for (int i = 0; i < BENCH_EXTRAS; i++) {
      extra[i] += sample.extra[i];
    }
    blocks++;
  }

  void report(const bench_case &c, benchmark::State &state) const {
    if (cpu_ns > 0) {
      state.counters["cpu_ns"] = cpu_ns / operations;
    }
    state.counters["allocs"] = allocs / operations;
    state.counters["bytes"] = bytes / operations;
    state.counters["no_allocs"] = c.no_allocs;
    for (int i = 0; i < BENCH_EXTRAS && c.extra[i] != nullptr; i++) {
      state.counters[c.extra[i]] = extra[i] / blocks;
    }
  }
};

// One block of all the operations that google-benchmark wants, or as many batches as it wants.
void run_case(benchmark::State &state, const bench_case *c) {
  bench_use(c);
  Totals totals;
  benchmark::IterationCount operations =
      c->batch > 0 ? static_cast<benchmark::IterationCount>(c->batch) : state.max_iterations;
  while (state.KeepRunningBatch(operations)) {
    bench_sample sample;
    bench_block(static_cast<size_t>(operations), &sample);
    state.SetIterationTime(sample.ns * 1e-9);
    totals.add(*c, sample);
  }
  totals.report(*c, state);
}

// Prints "derive_cancel" where google-benchmark says "derive_cancel/manual_time".
template <class Base> class PlainNames : public Base {
public:
  using Base::Base;

  // The table is as wide as its longest name.
  bool ReportContext(const benchmark::BenchmarkReporter::Context &context) override {
    benchmark::BenchmarkReporter::Context plain = context;
    plain.name_field_width = 30;
    return Base::ReportContext(plain);
  }

  void ReportRuns(const std::vector<benchmark::BenchmarkReporter::Run> &runs) override {
    std::vector<benchmark::BenchmarkReporter::Run> plain = runs;
    for (auto &run : plain) {
      run.run_name.time_type.clear();
      run.run_name.iterations.clear();
    }
    Base::ReportRuns(plain);
  }
};

// Takes --benchmark_filter=REGEX out of the arguments: it is to be matched against plain names.
std::string take_filter(std::vector<char *> &arguments) {
  const std::string option = "--benchmark_filter=";
  std::string filter = ".";
  for (auto argument = arguments.begin(); argument != arguments.end();) {
    if (std::strncmp(*argument, option.c_str(), option.size()) == 0) {
      filter = *argument + option.size();
      argument = arguments.erase(argument);
    } else {
      ++argument;
    }
  }
  return filter;
}

size_t register_matching(const std::string &filter) {
  const std::regex wanted(filter, std::regex::extended);
  size_t count = 0, registered = 0;
  const bench_case *cases = bench_cases(&count);
  for (size_t i = 0; i < count; i++) {
    if (!std::regex_search(cases[i].name, wanted)) {
      continue;
    }
    auto *registration = benchmark::RegisterBenchmark(cases[i].name, run_case, &cases[i]);
    registration->UseManualTime();
    if (cases[i].measure != nullptr && cases[i].uncounted && cases[i].batch > 0) {
      registration->Iterations(static_cast<benchmark::IterationCount>(cases[i].batch));
    }
    registered++;
  }
  return registered;
}

void list() {
  size_t count = 0;
  const bench_case *cases = bench_cases(&count);
  for (size_t i = 0; i < count; i++) {
    std::puts(cases[i].name);
  }
}

bool asked_for_file(const std::vector<char *> &arguments) {
  for (const char *argument : arguments) {
    if (std::strncmp(argument, "--benchmark_out=", 16) == 0) {
      return true;
    }
  }
  return false;
}

} // namespace

int main(int argc, char **argv) try {
  if (argc == 2 && std::strcmp(argv[1], "--list") == 0) {
    list();
    return 0;
  }
  bench_start_idle_thread();
  if (argc == 4 && std::strcmp(argv[1], "--resident") == 0) {
    return bench_resident_main(argv[2], argv[3]);
  }
  std::vector<char *> arguments(argv, argv + argc);
  const std::string filter = take_filter(arguments);
  int left = static_cast<int>(arguments.size());
  arguments.push_back(nullptr);
  const bool to_file = asked_for_file({arguments.begin(), arguments.begin() + left});
  benchmark::Initialize(&left, arguments.data());
  if (benchmark::ReportUnrecognizedArguments(left, arguments.data())) {
    return 2;
  }
  if (register_matching(filter) == 0) {
    std::fprintf(stderr, "rctx-bench: no case matches '%s'; --list names them\n", filter.c_str());
    return 2;
  }
  PlainNames<benchmark::ConsoleReporter> console(benchmark::ConsoleReporter::OO_None);
  PlainNames<benchmark::JSONReporter> json;
  benchmark::RunSpecifiedBenchmarks(&console, to_file ? &json : nullptr);
  bench_close();
  return 0;
} catch (const std::regex_error &error) {
  std::fprintf(stderr, "rctx-bench: bad --benchmark_filter: %s\n", error.what());
  return 2;
}
