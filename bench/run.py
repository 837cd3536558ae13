#!/usr/bin/env python3
"""Runs rctx-bench several times over and prints one table: times, spread, allocations, target.

    bench/run.py [--filter REGEX] [--json FILE] [--quick]

Builds nothing: cmake --preset bench && cmake --build --preset bench. Spread is (max - min) / median over the
repetitions; cpu ns is the least processor time, which other programs disturb less. Compare figures of one run with each
other, never seconds of two runs. Exit code: 0, 1 when the program fails, 2 for options it does not know. A missed target
does not change the exit code.
"""
import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BUILD = os.path.join(ROOT, "build", "bench")
OWN_COUNTERS = {"allocs", "bytes", "no_allocs", "cpu_ns"}
NOT_COUNTERS = {
    "name", "family_index", "per_family_instance_index", "run_name", "run_type", "repetitions", "repetition_index",
    "threads", "iterations", "real_time", "cpu_time", "time_unit", "aggregate_name", "aggregate_unit", "label",
    "error_occurred", "error_message"
}


def read_targets():
    """{case: [(figure, at most), ...]} as in targets.tsv."""
    targets = {}
    with open(os.path.join(ROOT, "bench", "targets.tsv"), encoding="utf-8") as file:
        for line in file:
            if line.strip() and not line.startswith("#"):
                case, figure, limit = line.rstrip("\n").split("\t")
                targets.setdefault(case, []).append((figure, float(limit)))
    return targets


def run_program(binary, options):
    """google-benchmark's report; its own console output goes to stderr as it comes, so that a person sees progress."""
    with tempfile.TemporaryDirectory() as directory:
        out = os.path.join(directory, "out.json")
        command = [binary, "--benchmark_out=" + out, "--benchmark_out_format=json", *options]
        code = subprocess.run(command, stdout=sys.stderr, check=False).returncode
        if code != 0:
            print(f"run.py: {binary} failed ({code})", file=sys.stderr)
            sys.exit(2 if code == 2 else 1)
        with open(out, encoding="utf-8") as file:
            return json.load(file)


def summarize(report):
    """One record per case, from its repetitions, in the order they ran."""
    runs = {}
    for run in report["benchmarks"]:
        if run.get("run_type", "iteration") == "iteration":
            runs.setdefault(run["run_name"], []).append(run)
    return [summarize_case(name, repetitions) for name, repetitions in runs.items()]


def summarize_case(name, repetitions):
    times = [run["real_time"] for run in repetitions]
    counters = [key for key in repetitions[0] if key not in NOT_COUNTERS]
    median = statistics.median(times)
    case = {
        "case": name,
        "ns": median,
        "spread": (max(times) - min(times)) / median if median else 0.0,
        "min_ns": min(times),
        "repetitions": times,
        "extra": {},
    }
    for counter in counters:
        value = statistics.median(run[counter] for run in repetitions)
        (case if counter in OWN_COUNTERS else case["extra"])[counter] = value
    if "cpu_ns" in case:
        case["cpu_ns"] = min(run["cpu_ns"] for run in repetitions)
    if case["extra"].get("kernel_ns"):
        case["extra"]["kernel_ratio"] = statistics.median(run["real_time"] / run["kernel_ns"] for run in repetitions)
    return case


def figure_of(case, figure):
    return case[figure] if figure in case else case["extra"].get(figure)


def number(value):
    """Three significant digits, without exponents."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"


def target_text(case, targets):
    texts = []
    for figure, limit in targets.get(case["case"], []):
        value = figure_of(case, figure)
        met = "?" if value is None else "ok" if value <= limit else f"x{value / limit:.2f}" if limit else "MISSED"
        texts.append(f"{'' if figure == 'ns' else figure + ' '}{limit:g} {met}")
    return ", ".join(texts) or "-"


def print_table(cases, targets):
    width = max(len(case["case"]) for case in cases)
    print(f"{'case':<{width}} {'median ns':>10} {'min ns':>10} {'cpu ns':>8} {'spread':>7} {'allocs':>8} {'bytes':>8}  "
          "target, met or missed by; further figures")
    for case in cases:
        extra = "; ".join(f"{name} {number(value)}" for name, value in case["extra"].items())
        print(f"{case['case']:<{width}} {number(case['ns']):>10} {number(case['min_ns']):>10} "
              f"{number(case['cpu_ns']) if 'cpu_ns' in case else '-':>8} "
              f"{100 * case['spread']:>6.0f}% {number(case['allocs']):>8} {number(case['bytes']):>8}  "
              f"{target_text(case, targets)}{'; ' + extra if extra else ''}")


def write_report(path, context, cases, targets):
    for case in cases:
        case["targets"] = dict(targets.get(case["case"], []))
    report = {"machine": {"cpus": context.get("num_cpus"), "mhz": context.get("mhz_per_cpu"),
                          "kernel": platform.release(), "load": context.get("load_avg")},
              "date": context.get("date"), "cases": cases}
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        json.dump(report, file, indent=1)
        file.write("\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.replace("%", "%%"), allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--filter", metavar="REGEX", default=".", help="only the cases whose name matches")
    parser.add_argument("--json", metavar="FILE", default=os.path.join(BUILD, "report.json"),
                        help="where the report goes besides the table (default: build/bench/report.json)")
    parser.add_argument("--quick", action="store_true",
                        help="3 short repetitions instead of 7: for a look, not for figures")
    parser.add_argument("--binary", metavar="FILE", default=os.path.join(BUILD, "bench", "rctx-bench"),
                        help="another rctx-bench (default: build/bench/bench/rctx-bench)")
    arguments = parser.parse_args()
    if not os.access(arguments.binary, os.X_OK):
        print(f"run.py: {arguments.binary} is not built: cmake --preset bench && cmake --build --preset bench",
              file=sys.stderr)
        return 1
    repetitions, seconds = (3, 0.02) if arguments.quick else (7, 0.2)
    report = run_program(arguments.binary, [
        "--benchmark_filter=" + arguments.filter, f"--benchmark_repetitions={repetitions}",
        f"--benchmark_min_time={seconds}", "--benchmark_report_aggregates_only=false"
    ])
    cases, targets = summarize(report), read_targets()
    print_table(cases, targets)
    write_report(arguments.json, report["context"], cases, targets)
    return 0


if __name__ == "__main__":
    sys.exit(main())
