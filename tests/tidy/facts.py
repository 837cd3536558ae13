#!/usr/bin/env python3
"""Keeps docs/semantics.md and docs/thirteen-questions.md in step with the tests.

Fails if a test that they name (`suite/name` in backquotes) does not exist, if a row of their tables names none, or if a test
that is named after a fact of Go's tests (`..__TestCause`, `..__probe`, `..__source`) or a promise (`..__CTX_1..`) is in
neither. Run by ctest as "facts".
"""
import os
import re
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
DOCUMENTS = ["docs/semantics.md", "docs/thirteen-questions.md"]
TEST = re.compile(r"^\s*Test\(\s*(\w+),\s*(\w+)", re.MULTILINE)
ABORTS = re.compile(r"^\s*ABORTS\(\s*(\w+),", re.MULTILINE)  # a macro of misuse_test.c that makes misuse/NAME_aborts
NAMED = re.compile(r"`(\w+)/(\w+)`")
SEPARATOR = re.compile(r"^\|[\s:|-]+\|$")
NAMED_FOR_THEIR_RACE = {"race", "scale"}  # repeat facts that have a row, with more threads or more contexts
OWES_A_ROW = re.compile(r"__((X?Test|Benchmark|Example)[A-Z]\w*|probe|source|CTX_\d|AFTER_\d|EXEC_\d|GROUP_\d|DRAIN_\d|SIG_\d|CLOCK_\d)")


def tests():
    found = {}
    for directory, names, files in os.walk(os.path.join(ROOT, "tests")):
        names[:] = [n for n in names if n != "__pycache__"]
        for name in (n for n in files if n.endswith(".c")):
            with open(os.path.join(directory, name), encoding="utf-8") as file:
                text = file.read()
            path = os.path.relpath(os.path.join(directory, name), ROOT)
            found.update({(m[1], m[2]): path for m in TEST.finditer(text)})
            found.update({("misuse", m[1] + "_aborts"): path for m in ABORTS.finditer(text)})
    found.pop(("misuse", "name"), None)
    return found


def problems():
    existing, named = tests(), set()
    for document in DOCUMENTS:
        with open(os.path.join(ROOT, document), encoding="utf-8") as file:
            lines = file.read().splitlines()
        for number, line in enumerate(lines, 1):
            here = [(m[1], m[2]) for m in NAMED.finditer(line)]
            named.update(here)
            for suite, name in here:
                if (suite, name) not in existing:
                    yield f"{document}:{number}: there is no Test({suite}, {name})"
            is_header = number < len(lines) and SEPARATOR.match(lines[number])
            if line.startswith("|") and not SEPARATOR.match(line) and not is_header and not here:
                yield f"{document}:{number}: no test is named"
    for (suite, name), path in sorted(existing.items()):
        if OWES_A_ROW.search(name) and (suite, name) not in named and suite not in NAMED_FOR_THEIR_RACE:
            yield f"{path}: {suite}/{name} is in none of {', '.join(DOCUMENTS)}"


def main():
    found = list(problems())
    for problem in found:
        print(problem)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
