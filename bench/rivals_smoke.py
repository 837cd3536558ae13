#!/usr/bin/env python3
"""The smoke test of the comparison: every case there, every rival running, reports well-formed.

    bench/rivals_smoke.py BUILD_DIRECTORY

Looks at names and shapes only, never at a time. A rival that is not installed is not tested: run.py says which.
"""
import json
import os
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree

import gateway
import programs

HERE = os.path.dirname(os.path.abspath(__file__))
SVG = "{http://www.w3.org/2000/svg}"
SOME = ["err_poll_live", "derive_cancel", "derive_timeout_at", "cancel_fanout_10"]
WRONG = {  # arguments, and the one that the complaint must name
    ("--filter", "no_case_is_called_so"): "--filter",
    ("--filter", "("): "--filter",
    ("--only", "derive_cancel,nonsense"): "nonsense",
    ("--rivals", "nonsense"): "nonsense",
    ("--program", "nonsense"): "--program",
    ("--nonsense",): "--nonsense",
}


def expected_cases():
    with open(os.path.join(HERE, "cases.txt"), encoding="utf-8") as file:
        return [line.strip() for line in file if line.strip() and not line.startswith("#")]


def target_faults(cases):
    with open(os.path.join(HERE, "targets.tsv"), encoding="utf-8") as file:
        for line in file:
            if not line.startswith("#") and line.split("\t")[0] not in cases:
                yield f"targets.tsv: no case {line.split()[0]}"


def rival_faults(rival, cases):
    if not rival.version:
        yield f"{rival.name} does not say its version"
    if not rival.cases:
        yield f"{rival.name} has no case"
    for case in rival.cases:
        if case not in cases:
            yield f"{rival.name}: {case} is no case of rctx-bench"
            continue
        try:
            line = programs.run([rival.file, "--case", case, "--min-time", "0.001"])
            name, said, figures = programs.parse_line(line)
        except (programs.Broken, ValueError) as error:
            yield str(error)
            continue
        if (name, said) != (rival.name, case) or line.count("\n") != 1:
            yield f"{rival.name} {case}: {line!r}"
        if not figures["ns"] > 0 or figures["allocs"] < 0 or figures["bytes"] < 0:
            yield f"{rival.name} {case}: {figures}"
        if case.startswith("bytes_per_live") and not figures.get("resident_bytes", 0) > 0:
            yield f"{rival.name} {case}: no resident_bytes"
    if subprocess.run([rival.file, "--case", "no_such_case"], stderr=subprocess.DEVNULL, check=False).returncode != 2:
        yield f"{rival.name} takes an unknown case for a known one"


def run_bench(build, *arguments):
    return subprocess.run([sys.executable, os.path.join(HERE, "run.py"), "--build", build, *arguments],
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)


def argument_faults(build):
    for arguments, named in WRONG.items():
        done = run_bench(build, *arguments)
        if done.returncode != 2 or named not in done.stderr:
            yield f"run.py {' '.join(arguments)}: exit code {done.returncode}, {done.stderr[-200:]!r}"


def json_faults(path, rivals):
    with open(path, encoding="utf-8") as file:
        report = json.load(file)
    if [record["case"] for record in report["cases"]] != SOME:
        yield f"{path}: not the cases that were asked for"
    for key in ("processor", "cores", "kernel", "C compiler", "governor", "date"):
        if not report["machine"].get(key):
            yield f"{path}: the machine's {key} is missing"
    for record in report["cases"]:
        expected = {rival.name for rival in rivals if record["case"] in rival.cases}
        if set(record["rivals"]) != expected:
            yield f"{path}: {record['case']} has {sorted(record['rivals'])}, should have {sorted(expected)}"
        if expected and not record["ratio"] > 0:
            yield f"{path}: {record['case']} has no ratio"
        if len(record["rctx"]["rounds"]) < 3:
            yield f"{path}: {record['case']} has fewer than 3 rounds"


def page_faults(path):
    with open(path, encoding="utf-8") as file:
        text = file.read()
    root = ElementTree.fromstring(text)
    if not list(root.iter(SVG + "svg")) or not list(root.iter(SVG + "rect")):
        yield f"{path} has no chart"
    if any(element.tag.endswith("script") for element in root.iter() if isinstance(element.tag, str)):
        yield f"{path} has a script"
    if re.search(r"(src|href)\s*=\s*[\"'](https?:)?//|@import|url\(\s*[\"']?https?:", text):
        yield f"{path} loads something from elsewhere"


def report_faults(build, rivals):
    with tempfile.TemporaryDirectory() as out:
        copy = os.path.join(out, "copy.json")
        done = run_bench(build, "--quick", "--only", ",".join(SOME), "--out", out, "--json", copy, "--seed", "1")
        if done.returncode != 0:
            yield f"run.py: {done.stderr[-400:]}"
            return
        for case in SOME:
            if not re.search(rf"^{case} +\d", done.stdout, re.MULTILINE):
                yield f"the table has no {case}"
        for path in (os.path.join(out, "report.json"), copy):
            yield from json_faults(path, rivals)
        yield from page_faults(os.path.join(out, "report.html"))
        with open(os.path.join(out, "report.md"), encoding="utf-8") as file:
            widths = {line.count("|") for line in file.read().split("\n\n")[1].splitlines()}
        if len(widths) != 1:
            yield "the table of report.md is crooked"


def main():
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    build = sys.argv[1]
    cases = expected_cases()
    listed = programs.run([os.path.join(build, "bench", "rctx-bench"), "--list"]).split() + list(gateway.CASES)
    faults = [] if listed == cases else [f"the programs and cases.txt differ in {sorted(set(listed) ^ set(cases)) or 'order'}"]
    faults += target_faults(cases)
    rivals, skipped = programs.find_rivals(os.path.join(build, "bench", "rivals"))
    for rival in rivals:
        faults += rival_faults(rival, cases)
    faults += argument_faults(build)
    faults += report_faults(build, rivals)
    for fault in faults:
        print(f"rivals_smoke: {fault}", file=sys.stderr)
    print(f"rivals_smoke: {len(cases)} cases, rivals {', '.join(rival.name for rival in rivals)}; "
          f"skipped {', '.join(skipped) or 'none'}; {len(faults)} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
