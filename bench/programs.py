"""The programs that bench/run.py runs: rctx-bench (google-benchmark) and all that speak the protocol of rivals/main.c."""
import json
import os
import re
import subprocess
import tempfile

RUN_SECONDS_MAX = 300


class Broken(Exception):
    """A program did not do what it must; the text says which and how."""


def run(command):
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False,
                              timeout=RUN_SECONDS_MAX)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Broken(f"{' '.join(command)}: {error}") from error
    if done.returncode != 0:
        raise Broken(f"{' '.join(command)} failed ({done.returncode}): {done.stderr.strip()[-300:]}")
    return done.stdout


def parse_line(line):
    """(rival, case, {figure: value}) of a line of the protocol."""
    fields = line.rstrip("\n").split("\t")
    if len(fields) < 5:
        raise ValueError(f"not rival<TAB>case<TAB>ns<TAB>allocs<TAB>bytes: {line!r}")
    figures = dict(zip(("ns", "allocs", "bytes"), map(float, fields[2:5])))
    for field in fields[5:]:
        name, _, value = field.partition("=")
        figures[name] = float(value)
    return fields[0], fields[1], figures


class Rival:
    """A program that speaks the protocol."""

    def __init__(self, file, name=None):
        self.file = file
        about = run([file, "--about"]).rstrip("\n").split("\t")
        if len(about) != 3:
            raise Broken(f"{file} --about does not print name<TAB>version<TAB>what it is blind to")
        self.name, self.version, self.blind = name or about[0], about[1], about[2]
        self.cases = run([file, "--list"]).split()

    def measure(self, case, seconds):
        line = run([self.file, "--case", case, "--min-time", str(seconds)])
        try:
            _, said, figures = parse_line(line)
        except ValueError as error:
            raise Broken(f"{self.file} --case {case}: {error}") from error
        if said != case:
            raise Broken(f"{self.file} --case {case} ran {said}")
        return figures


class RctxBench:
    """Ours."""

    name, blind = "rctx", ""

    def __init__(self, file, version):
        self.file = file
        self.version = version
        self.cases = run([file, "--list"]).split()

    def measure(self, case, seconds):
        with tempfile.TemporaryDirectory() as directory:
            out = os.path.join(directory, "out.json")
            run([self.file, f"--benchmark_filter=^{re.escape(case)}$", f"--benchmark_min_time={seconds}",
                 "--benchmark_out=" + out, "--benchmark_out_format=json"])
            with open(out, encoding="utf-8") as file:
                measured = json.load(file)["benchmarks"][0]
        if measured.get("error_occurred"):
            raise Broken(f"{case}: {measured.get('error_message')}")
        figures = {"ns": measured["real_time"], "allocs": measured["allocs"], "bytes": measured["bytes"]}
        known = {"allocs", "bytes", "no_allocs", "iterations", "real_time", "cpu_time", "threads", "repetitions",
                 "repetition_index", "family_index", "per_family_instance_index"}
        figures.update({key: value for key, value in measured.items()
                        if isinstance(value, (int, float)) and not isinstance(value, bool) and key not in known})
        return figures


def find_rivals(directory):
    """([Rival, ...], {name: why it was skipped})"""
    built = os.path.join(directory, "bin")
    files = sorted(os.listdir(built)) if os.path.isdir(built) else []
    rivals = [Rival(os.path.join(built, file)) for file in files if os.access(os.path.join(built, file), os.X_OK)]
    skipped = {}
    list_of_skipped = os.path.join(directory, "skipped.tsv")
    if os.path.exists(list_of_skipped):
        with open(list_of_skipped, encoding="utf-8") as file:
            skipped = dict(line.rstrip("\n").split("\t", 1) for line in file if line.strip())
    return rivals, skipped
