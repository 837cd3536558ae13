#!/usr/bin/env python3
"""Counts instructions per operation with callgrind: repeatable to a fraction of a percent where times are noise.

    bench/instructions.py [--filter REGEX] [--check FILE | --write FILE] [--functions] [--binary FILE]

Prints case<TAB>instructions per operation, user space only (valgrind has no vDSO, so the clock is a system call and
costs nothing here). Builds nothing.

--write makes a table of it, whose first line names the compiler. --check compares with such a table: exit code 1 if a case
takes over 5 % more than its row or has none, 86 (skipped) if the table is another compiler's.
"""
import argparse
import os
import re
import subprocess
import sys
import tempfile

SKIPPED = 86  # as ./dev knows it
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TOLERANCE = 1.05
SHOWN_FUNCTIONS = 12
WRITE = "./dev instructions --write"


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


def compiler_of(binary):
    return subprocess.run([binary, "--compiler"], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


def system_name():
    try:
        with open("/etc/os-release", encoding="utf-8") as file:
            fields = dict(line.rstrip("\n").split("=", 1) for line in file if "=" in line)
        return fields.get("PRETTY_NAME", "an unknown system").strip('"')
    except OSError:
        return "an unknown system"


def read_table(path):
    """The compiler its first line names, and its rows."""
    with open(path, encoding="utf-8") as file:
        lines = file.read().splitlines()
    named = re.match(r"# (.+?) of ", lines[0] if lines else "")
    if named is None:
        fail(f"{path}: the first line does not name a compiler: write it anew with {WRITE}")
    rows = [line.split("\t") for line in lines if line.strip() and not line.startswith("#")]
    return named.group(1), {case: float(count) for case, count in rows}


def write_table(path, compiler, counts):
    with open(path, "w", encoding="utf-8") as file:
        file.write(f"# {compiler} of {system_name()}: instructions per operation; written by {WRITE}\n")
        file.writelines(f"{case}\t{count:.1f}\n" for case, count in counts.items())
    print(f"wrote {len(counts)} rows to {path}")


def complaints(counts, known, complete):
    """What is wrong. complete: all cases were run, so that a row without one is stale."""
    for case, count in counts.items():
        if case not in known:
            yield f"{case} has no row ({count:.1f} now): write one with {WRITE}"
        elif count > known[case] * TOLERANCE:
            yield f"{case} takes {count:.1f} instructions, {known[case]:.1f} before ({count / known[case] - 1:+.1%})"
    for case in known if complete else ():
        if case not in counts:
            yield f"{case} has a row, but is no case any more: {WRITE}"


def improvements(counts, known):
    for case, count in counts.items():
        if case in known and count * TOLERANCE < known[case]:
            yield (f"{case} takes {count:.1f} instructions, {known[case]:.1f} before ({count / known[case] - 1:+.1%}): "
                   f"please update the table: {WRITE}")


def check(path, compiler, counts, complete):
    _, known = read_table(path)
    found = list(complaints(counts, known, complete))
    for text in found + list(improvements(counts, known)):
        print(f"instructions.py: {text}", file=sys.stderr)
    print(f"{len(counts)} cases compared with {path} ({compiler}): {len(found)} complaints")
    return 1 if found else 0


def skips(path, compiler):
    recorded, _ = read_table(path)
    if recorded == compiler:
        return False
    print(f"instructions.py: SKIPPED, nothing compared: {path} was counted with {recorded}, this is {compiler}",
          file=sys.stderr)
    return True


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.replace("%", "%%"), allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--filter", metavar="REGEX", default=".", help="only the cases whose name matches")
    table = parser.add_mutually_exclusive_group()
    table.add_argument("--check", metavar="FILE", help="compare with this table")
    table.add_argument("--write", metavar="FILE", help="write this table; not with --filter")
    parser.add_argument("--functions", action="store_true",
                        help="also print, indented, the functions in which the instructions are spent")
    parser.add_argument("--binary", metavar="FILE",
                        default=os.path.join(ROOT, "build", "bench", "bench", "rctx-instructions"),
                        help="another rctx-instructions (default: build/bench/bench/rctx-instructions)")
    arguments = parser.parse_args()
    if arguments.write and arguments.filter != ".":
        parser.error("--write wants all cases: not with --filter")
    if not os.access(arguments.binary, os.X_OK):
        fail(f"{arguments.binary} is not built: cmake --preset bench && cmake --build --preset bench")
    return arguments


def count_all(arguments):
    counts = {}
    with tempfile.TemporaryDirectory() as directory:
        for case, operations in list_cases(arguments.binary, arguments.filter):
            out = run_callgrind(arguments.binary, case, operations, directory)
            counts[case] = total_of(out) / operations
            print(f"{case}\t{counts[case]:.1f}", flush=True)
            if arguments.functions:
                for count, function in list(functions_of(out, operations))[:SHOWN_FUNCTIONS]:
                    print(f"  {count:8.1f}  {function}")
    return counts


def main():
    arguments = parse_arguments()
    compiler = compiler_of(arguments.binary)
    if arguments.check and skips(arguments.check, compiler):
        return SKIPPED
    counts = count_all(arguments)
    if not counts:
        print(f"instructions.py: no case matches '{arguments.filter}'", file=sys.stderr)
        return 2
    if arguments.write:
        write_table(arguments.write, compiler, counts)
    if arguments.check:
        return check(arguments.check, compiler, counts, arguments.filter == ".")
    return 0


if __name__ == "__main__":
    sys.exit(main())
