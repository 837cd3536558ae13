#!/usr/bin/env python3
"""Fuzzes the harnesses of fuzz/, one after the other: a line that tells how it goes, and a table at the end.

    ./dev fuzz                             each harness, 60 s, libFuzzer with ASan and UBSan
    ./dev fuzz ops wheel --time 600        these, longer
    ./dev fuzz ops --engine afl            the same source under AFL++
    ./dev fuzz --fast                      without sanitizers: several times as many executions
    ./dev fuzz --minimise [NAME...]        fuzz, then make fuzz/corpus/NAME anew: the fewest inputs that reach as much
    ./dev fuzz --self-test                 plant bugs in a copy of core/, one at a time: each must be found

The harnesses have been built: ./dev fuzz does. What they find stays in build/fuzz/corpus/NAME and is where the next run
begins, together with fuzz/corpus/NAME. Exit code: 1 when something was found, 2 for wrong arguments.
"""
import argparse
import glob
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import time

import planted

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SEEDS = os.path.join("fuzz", "corpus")
FOUND = os.path.join("build", "fuzz", "corpus")
PLAIN_LINE_SECONDS = 15
LENGTH_MAX = {"grpc_timeout": 24, "traceparent": 80, "race": 300, "timers": 600, "wheel": 1000}  # others: libFuzzer's own
PATIENCE_SECONDS = 60  # for an engine that does not stop when its time is over
STATUS = re.compile(r"^#(\d+)\s+\w+\s+cov: (\d+) ft: \d+ corp: (\d+)/")
QUIET = re.compile(r"^#\d+\s|# Uses: |ecommended dictionary|^INFO: |^stat::|^Done |^\s*$")
AFL_ENVIRONMENT = {"AFL_NO_UI": "1", "AFL_SKIP_CPUFREQ": "1", "AFL_NO_AFFINITY": "1",
                   "AFL_I_DONT_CARE_ABOUT_MISSING_CRASHES": "1"}


class Pulse:
    """The executions that the harness itself counts: fuzz/pulse.c."""

    def __init__(self, path):
        self.path = path
        with open(path, "wb") as file:
            file.write(bytes(8))

    def count(self):
        with open(self.path, "rb") as file:
            return struct.unpack("=Q", file.read(8))[0]


class Run:
    """One harness under one engine. The engine's subclass says how to start it and where its figures are."""

    def __init__(self, preset, name, seconds):
        self.name, self.seconds = name, seconds
        self.program = os.path.join("build", preset, "fuzz", name)
        self.pulse = Pulse(os.path.join("build", preset, name + ".pulse"))
        self.log = os.path.join("build", preset, name + ".log")
        self.executions = self.corpus = self.coverage = self.crashes = 0
        self.elapsed, self.failed = 0.0, False

    def live_line(self):
        rate = self.pulse.count() / self.elapsed if self.elapsed > 0 else 0
        return (f"{self.name:<14}{self.elapsed:6.0f} s  executions {self.pulse.count():>13,}  {rate:>9,.0f}/s  "
                f"corpus {self.corpus:>5}  coverage {self.coverage:>6}  crashes {self.crashes}")

    def show(self, last=False):
        if sys.stdout.isatty():
            print("\r\033[K" + self.live_line(), end="\n" if last else "", flush=True)
        else:
            print(self.live_line(), flush=True)

    def follow(self):
        began = shown = time.monotonic()
        interval = 0.5 if sys.stdout.isatty() else PLAIN_LINE_SECONDS
        environment = dict(os.environ, RCTX_FUZZ_PULSE=os.path.abspath(self.pulse.path), **self.environment())
        with open(self.log, "wb") as log:
            process = subprocess.Popen(self.command(), stdout=log, stderr=subprocess.STDOUT, env=environment)
        try:
            while process.poll() is None:
                time.sleep(0.1)
                now = time.monotonic()
                self.elapsed = now - began
                if now - shown >= interval:
                    self.look()
                    self.show()
                    shown = now
                if self.elapsed > self.seconds + PATIENCE_SECONDS:
                    process.send_signal(signal.SIGINT)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                process.wait()
            self.elapsed = time.monotonic() - began
            self.look()
            self.executions = self.pulse.count()
            self.failed = process.returncode not in (0, -signal.SIGINT) or self.crashes > 0
            self.show(last=True)

    def tell_what_was_found(self):
        for artifact in self.artifacts():
            print(f"\n{self.name}: found {artifact}\n  replay:   {self.program} {artifact}")
            print(f"  shorten:  build/fuzz/fuzz/{self.name} -minimize_crash=1 -max_total_time=60 {artifact}")
            if self.name in ("ops", "race", "timers"):
                print(f"  retold:   RCTX_{self.name.upper()}_TRACE=1 {self.program} {artifact}")
        if not self.artifacts():
            print(f"\n{self.name}: the engine ended with an error and left no reproducer: {self.log}")


class LibFuzzer(Run):
    def __init__(self, preset, name, seconds):
        super().__init__(preset, name, seconds)
        self.prefix = os.path.join("build", preset, name + "-")
        self.began = time.time()
        self.read = 0

    def environment(self):
        return {}

    def command(self):
        found, seeds = os.path.join(FOUND, self.name), os.path.join(SEEDS, self.name)
        os.makedirs(found, exist_ok=True)
        corpora = [found] + ([seeds] if os.path.isdir(seeds) else [])
        length = [f"-max_len={LENGTH_MAX[self.name]}"] if self.name in LENGTH_MAX else []
        return [self.program, f"-max_total_time={self.seconds}", "-timeout=20", "-print_final_stats=1",
                f"-artifact_prefix={self.prefix}"] + length + corpora

    def artifacts(self):
        found = [path for kind in ("crash", "timeout", "oom", "leak") for path in glob.glob(f"{self.prefix}{kind}-*")]
        return sorted(path for path in found if os.path.getmtime(path) >= self.began - 1)

    def look(self):
        with open(self.log, encoding="utf-8", errors="replace") as log:
            log.seek(self.read)
            text = log.read()
            whole = text.rfind("\n") + 1
            self.read += len(text[:whole].encode("utf-8", errors="replace"))
        for line in text[:whole].splitlines():
            match = STATUS.match(line)
            if match:
                self.coverage, self.corpus = int(match[2]), int(match[3])
        self.crashes = len(self.artifacts())

    def tell_what_was_found(self):
        with open(self.log, encoding="utf-8", errors="replace") as log:
            print("".join(line for line in log if not QUIET.search(line))[-8000:])
        super().tell_what_was_found()


class Afl(Run):
    def __init__(self, preset, name, seconds):
        super().__init__(preset, name, seconds)
        self.out = os.path.join("build", preset, "out", name)
        shutil.rmtree(self.out, ignore_errors=True)
        os.makedirs(self.out)

    def environment(self):
        return AFL_ENVIRONMENT

    def command(self):
        seeds = os.path.join(SEEDS, self.name)
        if not os.path.isdir(seeds) or not os.listdir(seeds):
            seeds = os.path.join("build", "fuzz-afl", "seeds")
            os.makedirs(seeds, exist_ok=True)
            with open(os.path.join(seeds, "seed"), "w", encoding="utf-8") as seed:
                seed.write("seed")
        return ["afl-fuzz", "-i", seeds, "-o", self.out, "-V", str(self.seconds), "-t", "2000+", "--", self.program]

    def artifacts(self):
        return sorted(glob.glob(os.path.join(self.out, "default", "crashes", "id*")) +
                      glob.glob(os.path.join(self.out, "default", "hangs", "id*")))

    def look(self):
        self.crashes = len(self.artifacts())
        self.corpus = len(glob.glob(os.path.join(self.out, "default", "queue", "id*")))
        try:
            with open(os.path.join(self.out, "default", "fuzzer_stats"), encoding="utf-8") as stats:
                self.coverage = int(re.search(r"edges_found\s*: (\d+)", stats.read())[1])
        except (OSError, TypeError):
            pass  # not there yet


def print_table(runs, engine):
    print(f"\n{'harness':<16}{'engine':<11}{'result':<8}{'executions':>15}{'per second':>12}{'corpus':>8}{'coverage':>10}"
          f"{'seconds':>9}")
    for run in runs:
        rate = run.executions / run.elapsed if run.elapsed else 0
        print(f"{run.name:<16}{engine:<11}{'FAILED' if run.failed else 'ok':<8}{run.executions:>15,}{rate:>12,.0f}"
              f"{run.corpus:>8}{run.coverage:>10}{run.elapsed:>9.0f}")
    print(f"{'all':<35}{sum(run.executions for run in runs):>15,}{'':>30}{sum(run.elapsed for run in runs):>9.0f}")


def minimise(name):
    """Keeps of what has been found and what is kept the fewest and shortest inputs that reach every edge."""
    kept, found = os.path.join(SEEDS, name), os.path.join(FOUND, name)
    fresh = found + ".fresh"
    shutil.rmtree(fresh, ignore_errors=True)
    for directory in (fresh, kept):
        os.makedirs(directory, exist_ok=True)
    sources = [directory for directory in (kept, found) if os.path.isdir(directory)]
    with open(os.path.join("build", "fuzz", name + "-merge.log"), "wb") as log:
        merged = subprocess.run([os.path.join("build", "fuzz", "fuzz", name), "-merge=1", "-use_counters=0", "-timeout=20",
                                 "-max_len=1100", f"-artifact_prefix=build/fuzz/{name}-", fresh] + sources,
                                stdout=log, stderr=subprocess.STDOUT, check=False)
    if merged.returncode != 0 or not os.listdir(fresh):
        print(f"{name}: the merge failed, {kept} stays as it is: build/fuzz/{name}-merge.log")
        return False
    for old in os.listdir(kept):
        os.remove(os.path.join(kept, old))
    for new in os.listdir(fresh):
        shutil.copy(os.path.join(fresh, new), kept)
    sizes = [os.path.getsize(os.path.join(kept, new)) for new in os.listdir(kept)]
    print(f"{kept}: {len(sizes)} inputs, {sum(sizes):,} bytes")
    return True


def parse_arguments():
    parser = argparse.ArgumentParser(prog="./dev fuzz", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("names", metavar="NAME", nargs="*", help="only these harnesses")
    add("--time", type=int, default=60, metavar="SECONDS", help="for each harness (60)")
    add("--engine", choices=("libfuzzer", "afl"), default="libfuzzer")
    add("--fast", action="store_true", help="libFuzzer without sanitizers")
    add("--minimise", action="store_true", help="then write the smallest corpora back to fuzz/corpus")
    add("--self-test", action="store_true", help="find planted bugs")
    arguments = parser.parse_args()
    if arguments.time < 1:
        parser.error("--time wants a number of seconds")
    if arguments.fast and arguments.engine == "afl":
        parser.error("--fast is for libFuzzer")
    arguments.preset = "fuzz-afl" if arguments.engine == "afl" else "fuzz-fast" if arguments.fast else "fuzz"
    known = sorted(os.path.basename(path) for path in glob.glob(f"build/{arguments.preset}/fuzz/*")
                   if os.path.isfile(path) and os.access(path, os.X_OK))
    if not known:
        parser.error(f"no harness was built in build/{arguments.preset}/fuzz")
    for name in arguments.names:
        if name not in known:
            parser.error(f"no harness '{name}'; there are: {', '.join(known)}")
    arguments.names = arguments.names or known
    return arguments


def main():
    os.chdir(ROOT)
    arguments = parse_arguments()
    if arguments.self_test:
        return planted.find_all(arguments.time)
    runs = []
    try:
        for name in arguments.names:
            run = (Afl if arguments.engine == "afl" else LibFuzzer)(arguments.preset, name, arguments.time)
            runs.append(run)
            run.follow()
            if run.failed:
                run.tell_what_was_found()
    except KeyboardInterrupt:
        print("\nstopped")
    print_table(runs, "fast" if arguments.fast else arguments.engine)
    failed = any(run.failed for run in runs)
    if arguments.minimise and not failed:
        failed = not all([minimise(run.name) for run in runs])
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
