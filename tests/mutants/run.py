#!/usr/bin/env python3
"""Plants bugs into the core, one at a time, and shows that the scenario tests find each: ./dev mutants [NAME...]

A planted bug is a file tests/mutants/NN-name.patch. Its head says what it is and which tests must catch it:

    Bug: a pin takes a reference though none is left: the dead is revived and dies twice.
    Test: S01_*

A third line, "Build: tsan", is for what only ThreadSanitizer can see: an order that is missing, on processors that have it anyway.

The library for tests and the scenario tests are built once, and must pass. For each patch only the files that it changes are
compiled, from a copy, and linked in front of the library; then the named tests are run. A bug counts as caught when one of them fails,
crashes or hangs. Exit code 1 if one survives, or a patch does not apply any more.

    run.py [--jobs N] [--repeat N] [--list] [NAME...]     NAME: a file's name or its beginning, such as 05
"""
import argparse
import concurrent.futures
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
OUT = os.path.join(ROOT, "build", "mutants")
PROGRAMS = ["scenarios_test", "scenarios_timer_test", "scenarios_environment_test"]
# The shim runs a test in a few milliseconds less than Criterion; no optimisation that hides a recursion.
OPTIONS = ["-DCMAKE_C_FLAGS=-O1 -g", "-DRCTX_TEST_SHIM=ON", "-DRCTX_JEMALLOC=OFF", "-DRCTX_EXAMPLES=OFF", "-DRCTX_GATEWAY=OFF",
           "-DRCTX_ADAPTERS=OFF", "-DRCTX_INSTALL=OFF", "-DRCTX_PROBES=OFF", "-DCMAKE_EXPORT_COMPILE_COMMANDS=ON"]
SANITIZERS = {"plain": [], "tsan": ["-DRCTX_SANITIZE=thread"]}
HANG_SECONDS = 8


def base_of(build):
    return os.path.join(OUT, f"base-{build}")


class Mutant:
    def __init__(self, path):
        self.path = path
        self.name = os.path.basename(path)[:-len(".patch")]
        with open(path, encoding="utf-8") as file:
            text = file.read()
        self.bug = re.search(r"^Bug: (.*)$", text, re.M).group(1)
        self.test = re.search(r"^Test: (.*)$", text, re.M).group(1)
        build = re.search(r"^Build: (.*)$", text, re.M)
        self.build = build.group(1) if build else "plain"
        self.files = re.findall(r"^\+\+\+ b/(\S+)", text, re.M)


class Broken(Exception):
    """The mutant could not be tried."""


def run(command, **options):
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", **options)


def must(command, what, **options):
    done = run(command, **options)
    if done.returncode != 0:
        raise Broken(f"{what}:\n{done.stdout}")
    return done.stdout


def program_of(test):
    """The program that has the scenario of a pattern such as S05_*."""
    for name in PROGRAMS:
        with open(os.path.join(ROOT, "tests", name + ".c"), encoding="utf-8") as file:
            if f"Test(scenarios, {test[:4]}" in file.read():
                return name
    raise Broken(f"no scenario test is called {test}")


def build_base(build, jobs):
    base = base_of(build)
    must(["cmake", "-G", "Ninja", "-S", ROOT, "-B", base, *OPTIONS, *SANITIZERS[build]], "configuring failed")
    must(["cmake", "--build", base, "-j", str(jobs), "--target", *PROGRAMS], "the build without a bug failed")


class Toolbox:
    """How the base build compiles a file of the core and links a test."""

    def __init__(self, build):
        self.base = base_of(build)
        with open(os.path.join(self.base, "compile_commands.json"), encoding="utf-8") as file:
            self.compile_lines = {os.path.relpath(entry["file"], ROOT): shlex.split(entry["command"])
                                  for entry in json.load(file) if "rctx_testing.dir" in entry["command"]}
        self.link_lines = {name: self.link_line(name) for name in PROGRAMS}

    def link_line(self, name):
        last = must(["ninja", "-C", self.base, "-t", "commands", f"tests/{name}"], "ninja does not tell how it links").splitlines()[-1]
        return [word for word in shlex.split(last) if word not in (":", "&&")]

    def compile(self, source, directory, target):
        """source: of the core, relative to ROOT; directory: the copy that has it."""
        words, kept = iter(self.compile_lines[source]), []
        for word in words:
            if word in ("-MF", "-MT", "-o", "-c"):
                next(words)
            elif word != "-MD":
                kept.append(word)
        first_include = next(i for i, word in enumerate(kept) if word.startswith("-I"))
        kept[first_include:first_include] = [f"-I{directory}", f"-I{directory}/core"]
        must([*kept, "-w", "-o", target, "-c", os.path.join(directory, source)], f"{source} with the bug does not compile", cwd=self.base)

    def link(self, name, objects, target):
        words = list(self.link_lines[name])
        words[words.index("-o") + 1] = target
        library = next(i for i, word in enumerate(words) if word.endswith(".a"))
        words[library:library] = objects
        must(words, f"{name} does not link with the bug", cwd=self.base)


def how_it_failed(said, returned):
    """What a run of a test program says; None: it passed."""
    race = re.search(r"SUMMARY: ThreadSanitizer: (.*?) \S*/(\S+:\d+)", said)
    if race:
        return f"ThreadSanitizer: {race.group(1)} at {race.group(2)}"
    if returned is None or "watchdog: " in said:
        return "hang"
    if returned == 0 and "Failing: 0 | Crashing: 0" in said and "Tested: 0" not in said:
        return None
    crash = re.search(r"died of signal \d+ \((.*?)\)", said)
    text = re.search(r"Assertion Failed\n\[----\] +(.*)", said) or re.search(r"^\[----\] \S+: (in the child: .*)", said, re.M)
    if text:
        return f"assertion: {text.group(1)}"
    if "fence: " in said:
        return re.search(r"(fence: .*)", said).group(1)
    if "left over:" in said:
        return "leftovers: " + re.search(r"left over: (.*)", said).group(1)
    return f"crash: {crash.group(1)}" if crash else f"ended with {returned}"


def failing_test(said, pattern):
    """Tests run one after the other; the first that failed."""
    failed = re.search(r"\[FAIL\] scenarios/(\w+)", said)
    named = failed or re.search(r"watchdog: scenarios/(\w+)", said)
    return named.group(1) if named else pattern


def try_tests(program, pattern):
    """Returns (test, how): how is None if all passed."""
    with subprocess.Popen([program, "--filter", f"scenarios/{pattern}"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, errors="replace") as process:
        try:
            said = process.communicate(timeout=HANG_SECONDS)[0]
            returned = process.returncode
        except subprocess.TimeoutExpired:
            process.kill()  # the test's own process dies with it
            said = process.communicate()[0]
            returned = None
    if "Tested: 0" in said:
        raise Broken(f"no test is called {pattern}")
    return failing_test(said, pattern), how_it_failed(said, returned)


def plant(mutant, toolbox):
    """Returns the test program that has the bug."""
    directory = os.path.join(OUT, mutant.name)
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(os.path.join(ROOT, "core"), os.path.join(directory, "core"))
    must(["patch", "-p1", "-s", "--fuzz=2", "--no-backup-if-mismatch", "-i", mutant.path], "the patch does not apply any more",
         cwd=directory)
    sources = [file for file in mutant.files if file.endswith(".c")]
    if len(sources) < len(mutant.files):
        sources = list(toolbox.compile_lines)  # a header: who includes it is not known
    objects = []
    for source in sources:
        objects.append(os.path.join(directory, source.replace("/", "_") + ".o"))
        toolbox.compile(source, directory, objects[-1])
    name = program_of(mutant.test)
    program = os.path.join(directory, name)
    toolbox.link(name, objects, program)
    return program


def try_mutant(mutant, toolboxes, repeat):
    """Returns (verdict, test, how, seconds); verdict: caught, SURVIVED or BROKEN."""
    began = time.monotonic()
    try:
        program = plant(mutant, toolboxes[mutant.build])
        results = [try_tests(program, mutant.test) for _ in range(repeat)]
    except Broken as broken:
        return "BROKEN", mutant.test, str(broken), time.monotonic() - began
    caught = [result for result in results if result[1]]
    test, how = caught[0] if caught else results[0]
    if repeat > 1:
        how = f"{len(caught)} of {repeat}: {how}"
    shutil.rmtree(os.path.dirname(program), ignore_errors=True)
    return "caught" if len(caught) * 20 >= repeat * 19 else "SURVIVED", test, how, time.monotonic() - began


def chosen(names):
    mutants = [Mutant(os.path.join(HERE, name)) for name in sorted(os.listdir(HERE)) if name.endswith(".patch")]
    for name in names:
        if not any(mutant.name.startswith(name) for mutant in mutants):
            sys.exit(f"mutants: there is no {name}; --list tells which there are")
    return [mutant for mutant in mutants if not names or any(mutant.name.startswith(name) for name in names)]


def check_base(mutants):
    """The tests must pass without a bug: else everything would count as caught."""
    for build, pattern in sorted({(mutant.build, mutant.test) for mutant in mutants}):
        test, how = try_tests(os.path.join(base_of(build), "tests", program_of(pattern)), pattern)
        if how:
            raise Broken(f"without a bug {test} fails already: {how}")


def main():
    os.environ["TSAN_OPTIONS"] = "halt_on_error=1"
    parser = argparse.ArgumentParser(description="Plant bugs into the core; the scenario tests must catch each.")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="how many at a time")
    parser.add_argument("--repeat", type=int, default=1, help="run the tests of each so often; 19 of 20 runs must catch it")
    parser.add_argument("--list", action="store_true", help="only name them")
    parser.add_argument("names", nargs="*", metavar="NAME")
    arguments = parser.parse_args()
    mutants = chosen(arguments.names)
    if arguments.list:
        for mutant in mutants:
            print(f"{mutant.name:32} {mutant.bug}")
        return 0
    try:
        toolboxes = {}
        for build in sorted({mutant.build for mutant in mutants}):
            build_base(build, arguments.jobs)
            toolboxes[build] = Toolbox(build)
        check_base(mutants)
    except Broken as broken:
        sys.exit(f"mutants: {broken}")
    print(f"without a bug all pass; planting {len(mutants)} bugs", flush=True)
    began, missed = time.monotonic(), []
    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        tried = {pool.submit(try_mutant, mutant, toolboxes, arguments.repeat): mutant for mutant in mutants}
        for future in concurrent.futures.as_completed(tried):
            mutant, (verdict, test, how, seconds) = tried[future], future.result()
            print(f"{verdict:8} {seconds:5.1f} s  {mutant.name}: {mutant.bug}\n{'':18}{test}: {how or 'passed'}", flush=True)
            if verdict != "caught":
                missed.append(mutant.name)
    print(f"\n{len(mutants)} planted bugs, {len(mutants) - len(missed)} caught, {len(missed)} not"
          f"{': ' if missed else ''}{', '.join(missed)}; {time.monotonic() - began:.0f} s")
    if os.environ.get("RCTX_COUNTS"):
        with open(os.environ["RCTX_COUNTS"], "a", encoding="utf-8") as counts:
            counts.write(f"{len(mutants) - len(missed)} {len(missed)}\n")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
