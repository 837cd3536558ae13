#!/usr/bin/env python3
"""Counts instructions per operation with callgrind: repeatable to a fraction of a percent where times are noise.

    bench/instructions.py [--filter REGEX] [--check FILE] [--functions] [--binary FILE]

Prints case<TAB>instructions per operation, user space only (valgrind has no vDSO, so the clock is a system call and
costs nothing here). Builds nothing.
"""
import argparse
import os
import re
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TOLERANCE = 1.05
SHOWN_FUNCTIONS = 12


def fail(text):
    print(f"instructions.py: {text}", file=sys.stderr)
    sys.exit(1)


def list_cases(binary, pattern):
    lines = subprocess.run([binary, "--list"], stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()
    cases = [(name, int(operations)) for name, operations in (line.split("\t") for line in lines)]
    return [case for case in cases if re.search(pattern, case[0])]


def run_callgrind(binary, case, operations, directory):
    out = os.path.join(directory, case)
    command = ["valgrind", "--tool=callgrind", "--toggle-collect=bench_measured", "--callgrind-out-file=" + out,
               "--quiet", binary, case, str(operations)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode != 0:
        fail(f"{case}: {done.stdout}")
    return out


def total_of(out):
    with open(out, encoding="utf-8", errors="replace") as file:
        for line in file:
            if line.startswith(("summary:", "totals:")):
                return int(line.split()[1])
    return fail(f"{out} has no total")


def functions_of(out, operations):
    text = subprocess.run(["callgrind_annotate", "--threshold=99", out], stdout=subprocess.PIPE, text=True,
                          check=True).stdout
    for line in text.splitlines():
        found = re.match(r"\s*([\d,]+) \(\s*[\d.]+%\)\s+\S*?([^:/\s]+:[^\[\s]+)", line)
        if found:
            yield int(found.group(1).replace(",", "")) / operations, found.group(2)


def read_table(path):
    with open(path, encoding="utf-8") as file:
        rows = [line.rstrip("\n").split("\t") for line in file if line.strip() and not line.startswith("#")]
    return {case: float(count) for case, count in rows}


def complaints(counts, known):
    for case, count in counts.items():
        if case not in known:
            yield f"{case} is not in the table"
        elif count > known[case] * TOLERANCE:
            yield f"{case} takes {count:.1f} instructions, {known[case]:.1f} before ({count / known[case] - 1:+.1%})"


def main():
    parser = argparse.ArgumentParser(description=__doc__.replace("%", "%%"), allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--filter", metavar="REGEX", default=".", help="only the cases whose name matches")
    parser.add_argument("--check", metavar="FILE", help="compare with such a table; exit code 1 if a case takes over "
                        "5 %% more, or is missing from it")
    parser.add_argument("--functions", action="store_true",
                        help="also print, indented, the functions in which the instructions are spent")
    parser.add_argument("--binary", metavar="FILE",
                        default=os.path.join(ROOT, "build", "bench", "bench", "rctx-instructions"),
                        help="another rctx-instructions (default: build/bench/bench/rctx-instructions)")
    arguments = parser.parse_args()
    if not os.access(arguments.binary, os.X_OK):
        fail(f"{arguments.binary} is not built: cmake --preset bench && cmake --build --preset bench")
    known = read_table(arguments.check) if arguments.check else {}
    counts = {}
    with tempfile.TemporaryDirectory() as directory:
        for case, operations in list_cases(arguments.binary, arguments.filter):
            out = run_callgrind(arguments.binary, case, operations, directory)
            counts[case] = total_of(out) / operations
            print(f"{case}\t{counts[case]:.1f}", flush=True)
            if arguments.functions:
                for count, function in list(functions_of(out, operations))[:SHOWN_FUNCTIONS]:
                    print(f"  {count:8.1f}  {function}")
    if not counts:
        print(f"instructions.py: no case matches '{arguments.filter}'", file=sys.stderr)
        return 2
    found = list(complaints(counts, known)) if arguments.check else []
    for text in found:
        print(f"instructions.py: {text}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
