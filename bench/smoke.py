#!/usr/bin/env python3
"""The smoke test of the benchmarks: every case runs, and what must not allocate does not.

    bench/smoke.py RCTX_BENCH RCTX_INSTRUCTIONS

Looks at counts only, never at a time: allocations once warm, eventfd writes per burst, callbacks per burst, deadlines that
came early. Counts must be exact: each case says itself (no_allocs) whether it may allocate. Two threads may, a few times
in all: the first time they get in each other's way, their parent's child list is striped.
"""
import json
import os
import subprocess
import sys
import tempfile

COUNTS = {
    "loop_cancel_10000": {"eventfd_writes": 1, "callbacks": 10000},
    "expire_100k": {"early": 0},
    "thread_churn": {"rctx_bytes_grown": 0},
}
PAIR_CALLS_MAX = 8


def run_all(bench):
    with tempfile.TemporaryDirectory() as directory:
        out = os.path.join(directory, "out.json")
        subprocess.run([bench, "--benchmark_min_time=0.01", "--benchmark_out=" + out, "--benchmark_out_format=json"],
                       check=True)
        with open(out, encoding="utf-8") as file:
            return {run["run_name"]: run for run in json.load(file)["benchmarks"]}


def faults_of(name, run):
    if run is None:
        yield f"{name} did not run"
        return
    if run.get("error_occurred"):
        yield f"{name}: {run.get('error_message')}"
    if not run["real_time"] > 0:
        yield f"{name} took no time"
    pair = name.endswith("_2threads")
    calls = run["allocs"] * run["iterations"] * (2 if pair else 1)
    if run["no_allocs"] and round(calls) > (PAIR_CALLS_MAX if pair else 0):
        yield f"{name} allocates: {run['allocs']:g} calls and {run['bytes']:g} bytes per operation once warm"
    for counter, wanted in COUNTS.get(name, {}).items():
        if run[counter] != wanted:
            yield f"{name}: {counter} is {run[counter]:g}, must be {wanted}"


def instruction_faults(program):
    """Without valgrind: that the program which is handed to it runs every case it offers."""
    for line in subprocess.run([program, "--list"], stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines():
        case, operations = line.split("\t")
        if subprocess.run([program, case, operations], check=False).returncode != 0:
            yield f"{program} {case} {operations} fails"
    if subprocess.run([program, "no_such_case", "1"], stderr=subprocess.DEVNULL, check=False).returncode != 2:
        yield f"{program} takes an unknown case for a known one"


def main():
    if len(sys.argv) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    bench, instructions = sys.argv[1:]
    names = subprocess.run([bench, "--list"], stdout=subprocess.PIPE, text=True, check=True).stdout.split()
    runs = run_all(bench)
    faults = [fault for name in names for fault in faults_of(name, runs.get(name))]
    faults += instruction_faults(instructions)
    for fault in faults:
        print(f"bench_smoke: {fault}", file=sys.stderr)
    print(f"bench_smoke: {len(names)} cases, {len(faults)} faults")
    return 1 if faults or not names else 0


if __name__ == "__main__":
    sys.exit(main())
