#!/usr/bin/env python3
"""What of core/ the tests run: merges, checks against justified.txt, and writes the report.

usage: coverage.py BUILD [--floor-lines PERCENT] [--floor-branches PERCENT]

BUILD is the build directory of preset coverage after its tests. Two builds of core/ are merged line by line: the one with every
check on, in which a misuse aborts, and the one without, in which it gives an error. Branches of exceptions do not count: a
C++ callback may throw through any call. Writes BUILD/html/index.html, prints the totals and what is missing, and fails if a
line or branch was not run and is not justified (or, with a floor, if less than that was), or if a justification is stale: its
lines were run or, where it is one of a race, are not there.
"""
import argparse
import collections
import json
import os
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
JUSTIFIED = os.path.join(ROOT, "tests", "coverage", "justified.txt")
OBJECTS = ("CMakeFiles/rctx_testing.dir", "tests/consumers/CMakeFiles/rctx_unchecked.dir")

Justification = collections.namedtuple("Justification", "number race kind file function text why")


def read_justified():
    """Lines "[race] KIND FILE[@FUNCTION] :: SOURCE TEXT :: why"; KIND is line or branch, the text all or part of one source
    line. What is marked race may have been run this time."""
    entries = []
    with open(JUSTIFIED, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            line = line.rstrip("\n")
            if not line or line.startswith("#"):
                continue
            parts = line.split(" :: ")
            head = parts[0].split()
            race = head[:1] == ["race"]
            head = head[race:]
            if len(parts) != 3 or len(head) != 2 or head[0] not in ("line", "branch") or not parts[2].strip():
                sys.exit(f"{JUSTIFIED}:{number}: not '[race] line|branch FILE[@FUNCTION] :: SOURCE TEXT :: why'")
            path, _, function = head[1].partition("@")
            entries.append(Justification(number, race, head[0], path, function, parts[1].strip(), parts[2].strip()))
    return entries


def gcovr(build, *arguments):
    command = ["gcovr", "--root", ROOT, "--filter", os.path.join(ROOT, "core") + "/", "--exclude-throw-branches"]
    subprocess.run(command + list(arguments), check=True, cwd=build, stderr=subprocess.DEVNULL)


def merge_branches(into, branches):
    """The same branches in both builds: taken in either. Other branches (a check is one branch more): those that were run."""
    if len(into) == len(branches):
        for mine, other in zip(into, branches):
            mine["count"] += other["count"]
        return into
    return max(into, branches, key=lambda all: (sum(b["count"] > 0 for b in all) / len(all) if all else 0, len(all)))


def merged(build):
    """gcovr's JSON of all builds of core/, as one."""
    files = {}
    for objects in OBJECTS:
        path = os.path.join(build, "coverage.json")
        gcovr(build, "--json", path, os.path.join(build, objects))
        with open(path, encoding="utf-8") as file:
            report = json.load(file)
        for file in report["files"]:
            for line in file["lines"]:
                line["branches"] = [b for b in line["branches"] if not b["throw"]]
            if file["file"] not in files:
                files[file["file"]] = file
                continue
            lines = {line["line_number"]: line for line in files[file["file"]]["lines"]}
            for line in file["lines"]:
                mine = lines.get(line["line_number"])
                if mine is None or mine["gcovr/noncode"]:
                    if mine is not None:
                        files[file["file"]]["lines"].remove(mine)
                    files[file["file"]]["lines"].append(line)
                elif not line["gcovr/noncode"]:
                    mine["count"] += line["count"]
                    mine["branches"] = merge_branches(mine["branches"], line["branches"])
    for file in files.values():
        file["lines"].sort(key=lambda line: line["line_number"])
    report["files"] = sorted(files.values(), key=lambda file: file["file"])
    return report


def render(build, report):
    """gcovr's HTML of the merged report. Returns the page."""
    page = os.path.join(build, "html", "index.html")
    path = os.path.join(build, "coverage.json")
    os.makedirs(os.path.dirname(page), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        json.dump(report, file)
    gcovr(build, "--add-tracefile", path, "--html-details", page, "--html-title", "rctx: core/ under its tests")
    return page


class Count:
    """What there is, what was run, what is justified."""

    def __init__(self, what):
        self.what, self.all, self.run, self.justified = what, 0, 0, 0

    def percent(self):
        return 100.0 * (self.run + self.justified) / self.all if self.all else 100.0

    def __str__(self):
        return (f"{self.what}: {self.percent():.2f} % ({self.run} run and {self.justified} justified of {self.all})")


def function_at(file, number):
    """The name of the function that line is in."""
    above = [f for f in file["functions"] if f["lineno"] <= number]
    return max(above, key=lambda f: f["lineno"])["name"] if above else ""


def is_justified(entries, used, kind, file, function, text):
    """KIND: what of this line was not run, None where all was. A line that is not run takes its branches with it."""
    found = False
    for entry in entries:
        if entry.file == file and entry.function in ("", function) and entry.text in text:
            matches = kind is not None and entry.kind in (kind, "line")
            if matches or entry.race:
                used.add(entry)
            found = found or matches
    return found


def measure(report, entries):
    """Returns the counts of lines and branches, what is missing as printable lines, and the justifications in use."""
    lines, branches, missing, used = Count("lines"), Count("branches"), [], set()
    for file in report["files"]:
        with open(os.path.join(ROOT, file["file"]), encoding="utf-8") as source:
            texts = source.read().split("\n")
        for line in file["lines"]:
            if line["gcovr/noncode"]:
                continue
            text = texts[line["line_number"] - 1].strip()
            not_taken = [at for at, branch in enumerate(line["branches"]) if branch["count"] == 0]
            lines.all += 1
            lines.run += line["count"] > 0
            branches.all += len(line["branches"])
            branches.run += len(line["branches"]) - len(not_taken)
            function = function_at(file, line["line_number"])
            kind = ("branch" if not_taken else None) if line["count"] else "line"
            justified = is_justified(entries, used, kind, file["file"], function, text)
            if kind is None:
                continue
            if justified:
                lines.justified += line["count"] == 0
                branches.justified += len(not_taken)
            else:
                what = "not run" if kind == "line" else f"branch {not_taken} of {len(line['branches'])}"
                missing.append(f"{file['file']}:{line['line_number']}: {what}: {text}")
    return lines, branches, missing, used


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("build")
    parser.add_argument("--floor-lines", type=float, default=100.0)
    parser.add_argument("--floor-branches", type=float, default=100.0)
    options = parser.parse_args()
    build = os.path.abspath(options.build)
    entries = read_justified()
    report = merged(build)
    lines, branches, missing, used = measure(report, entries)
    page = render(build, report)
    failed = False
    for text in missing:
        print(text)
    for entry in entries:
        if entry not in used:
            print(f"tests/coverage/justified.txt:{entry.number}: stale: nothing that is not run matches '{entry.text}'")
            failed = True
    for count, floor in ((lines, options.floor_lines), (branches, options.floor_branches)):
        print(count)
        if round(count.percent(), 2) < floor:
            print(f"coverage: less than {floor:g} % of the {count.what}")
            failed = True
    print(f"report: {page}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
