#!/usr/bin/env python3
"""The style of rctx as a test: prints every violation as file:line: text, exit code 1 if there is any.

    tests/tidy/tidy.py          all rules
    tests/tidy/tidy.py --docs   only the links in Markdown files
"""
import os
import re
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

# The layers of core/, lowest first. A file includes its own header and files of lower layers, nothing beside or above it.
# "tree" is tree.c and tree.h; a header that stands lower than its .c, since it only holds types, is listed by full name.
LAYERS = [
    ["platform", "probes"],
    ["wheel", "rcu", "queue", "text"],
    ["tree.h"],
    ["memory.h", "timer.h"],
    ["executor.h"],
    ["manager.h"],
    ["memory"],
    ["timer"],
    ["value", "arena"],
    ["tree"],
    ["context", "after"],
    ["wait", "loop", "executor", "merge"],
    ["group"],
    ["manager", "signal"],
    ["inspect", "drain", "leaks", "testing", "testkit", "testclock", "log"],
    ["inspect", "drain", "leaks", "testing", "log", "observe"],
    ["budget", "codec"],
    ["grpc_timeout", "timeout_ms", "tracestate", "baggage"],
    ["traceparent", "received"],
]
WITHOUT_LAYER = {"version"}
LAYER_OF = {name: level for level, names in enumerate(LAYERS) for name in names}

FUNCTION_LINES_MAX = 70
FILE_LINES_MAX = 1200
SKIPPED_DIRECTORIES = {"build", ".git", "__pycache__", "corpus"}
TEXT_SUFFIXES = (".c", ".h", ".cc", ".cpp", ".cmake", ".txt", ".json", ".py", ".sh", ".md", ".in", ".map", ".pml")
TEXT_NAMES = {"dev", "run", ".clang-format", ".clang-tidy", ".editorconfig", ".gitignore", "LICENSE"}
C_SUFFIXES = (".c", ".h", ".cc", ".cpp")

MACHINE_PATH = re.compile(r"(^|[^A-Za-z0-9_.])/(work|farm|root)" + "/")
ORDERED_ATOMIC = re.compile(r"memory_order_(acquire|release|acq_rel|seq_cst|consume)"
                            r"|__ATOMIC_(ACQUIRE|RELEASE|ACQ_REL|SEQ_CST|CONSUME)")
COMMENT = re.compile(r"//|/\*")
COMMENT_LINE = re.compile(r"\s*(//|/\*|\*)")
STATEMENT_END = re.compile(r"[;{}]\s*(//.*|/\*.*)?$|^\s*(//|/\*|\*|#)|\*/\s*$")
INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]')
NOT_A_FUNCTION = re.compile(r"^(struct|enum|union|typedef|namespace|extern \"C\")\b[^()]*\{|.*=\s*\{|#")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


SUPPRESSIONS_MAX = 1


def text_files():
    for directory, names, files in os.walk(ROOT):
        names[:] = sorted(n for n in names if n not in SKIPPED_DIRECTORIES)
        for name in sorted(files):
            if name.endswith(TEXT_SUFFIXES) or name in TEXT_NAMES:
                yield os.path.relpath(os.path.join(directory, name), ROOT)


def text_rules(path, lines):
    if len(lines) > FILE_LINES_MAX:
        yield 1, f"{len(lines)} lines, at most {FILE_LINES_MAX}"
    for number, line in enumerate(lines, 1):
        if "\t" in line and not path.endswith(".pml"):  # spin users indent by tabs
            yield number, "tab"
        if line != line.rstrip():
            yield number, "trailing space"
        if MACHINE_PATH.search(line):
            yield number, "absolute path of one machine"


def c_rules(path, lines):
    for number, line in enumerate(lines, 1):
        if not line.isascii():
            yield number, "non-ASCII character"


def function_rules(path, lines):
    start = 0
    for number, line in enumerate(lines, 1):
        if line.startswith("{"):
            start = number
        elif line[:1] not in ("", " ", "}", "/", "*") and line.rstrip().endswith("{") and not NOT_A_FUNCTION.match(line):
            start = number
        elif line.startswith("    ") and line.rstrip().endswith(") {") and not start:
            start = number  # the last line of parameters broken over several lines
        elif line.startswith("}"):
            length = number - start + 1
            if start and length > FUNCTION_LINES_MAX:
                yield start, f"function of {length} lines, at most {FUNCTION_LINES_MAX}"
            start = 0


def layer_of(name):
    return LAYER_OF.get(name, LAYER_OF.get(os.path.splitext(name)[0]))


def include_rules(path, lines):
    own = os.path.basename(path)
    stem = os.path.splitext(own)[0]
    if stem in WITHOUT_LAYER:
        return
    if layer_of(own) is None:
        yield 1, f"{own} has no layer: add it to LAYERS in tests/tidy/tidy.py"
        return
    for number, line in enumerate(lines, 1):
        found = INCLUDE.match(line)
        if not found or "<" in line or found.group(1).startswith("rctx/"):
            continue
        other = os.path.basename(found.group(1))
        if other != stem + ".h" and layer_of(other) is not None and layer_of(other) >= layer_of(own):
            yield number, f"{own} includes {other}, which is not in a lower layer"


def atomic_rules(path, lines):
    if os.path.basename(path) == "platform.h":
        return  # the helpers live there, and say in their names what they order
    for index, line in enumerate(lines):
        if not ORDERED_ATOMIC.search(line):
            continue
        start = index  # of the statement
        while start > 0 and lines[start - 1].strip() and not STATEMENT_END.search(lines[start - 1]):
            start -= 1
        if not any(COMMENT.search(text) for text in lines[start:index + 1]) and not (
                start > 0 and COMMENT_LINE.match(lines[start - 1])):
            yield index + 1, "ordered atomic access without a comment in its statement or on the line before"


def adapter_rules(path, lines):
    for number, line in enumerate(lines, 1):
        found = INCLUDE.match(line)
        if found and (found.group(1).startswith("core/") or "\"" in line and layer_of(found.group(1)) is not None):
            yield number, f"an adapter includes {found.group(1)}: it knows the public headers only"


def public_header_rules(path, lines):
    for number, line in enumerate(lines, 1):
        found = INCLUDE.match(line)
        if found and re.match(r"urcu|jemalloc", found.group(1)):
            yield number, "liburcu and jemalloc are not for public headers"


def link_rules(path, lines):
    in_code = False
    for number, line in enumerate(lines, 1):
        if line.lstrip().startswith("```"):
            in_code = not in_code
        if in_code:
            continue
        for target in LINK.findall(re.sub(r"`[^`]*`", "", line)):
            if re.match(r"[a-z]+:|#", target):
                continue
            where = os.path.join(ROOT, os.path.dirname(path), target.split("#")[0])
            if not os.path.exists(where):
                yield number, f"link to {target}, which is not there"


def rules_for(path, docs_only):
    if path.endswith(".md"):
        yield link_rules
    if docs_only:
        return
    yield text_rules
    if path.endswith(C_SUFFIXES):
        yield c_rules
        if path.startswith(("core/", "adapters/", "examples/")):
            yield function_rules
        if path.startswith("core/"):
            yield include_rules
            yield atomic_rules
        if path.startswith("adapters/") and not path.endswith("_test.c"):
            yield adapter_rules
        if path.startswith(("include/", "adapters/include/")):
            yield public_header_rules


def suppressions():
    """The lines of all suppression files, as PATH:NUMBER."""
    found = []
    for directory, below, names in os.walk(ROOT):
        below[:] = [name for name in below if name not in ("build", ".git")]
        for name in sorted(names):
            if not name.endswith(".supp"):
                continue
            with open(os.path.join(directory, name), encoding="utf-8") as file:
                found += [f"{os.path.relpath(file.name, ROOT)}:{number}" for number, line in enumerate(file, 1)
                          if line.strip() and not line.startswith("#")]
    return found


def main():
    arguments = sys.argv[1:]
    if arguments not in ([], ["--docs"]):
        print(__doc__, file=sys.stderr)
        return 2
    files = violations = 0
    for path in text_files():
        rules = list(rules_for(path, bool(arguments)))
        if not rules:
            continue
        files += 1
        with open(os.path.join(ROOT, path), encoding="utf-8", errors="surrogateescape") as file:
            lines = file.read().split("\n")
        if lines and lines[-1] == "":
            lines.pop()
        for rule in rules:
            for number, text in rule(path, lines):
                print(f"{path}:{number}: {text}")
                violations += 1
    for line in suppressions()[SUPPRESSIONS_MAX:]:
        print(f"{line}: one suppression more than the {SUPPRESSIONS_MAX} that sanitizers and valgrind may have")
        violations += 1
    print(f"tidy: {files} files, {violations} violations")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
