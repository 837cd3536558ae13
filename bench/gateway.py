#!/usr/bin/env python3
"""What contexts cost the example gateway: requests/s, processor time and instructions per request, with and without them.

    bench/gateway.py [--rounds N] [--connections N] [--counted N] [--seed N] [--functions] [--build DIR]

examples/gateway is built twice from the same sources. Three sides are compared:

  gateway_rps              with contexts
  gateway_rps_off          without
  gateway_rps_off_telling  without, but it sends its fixed timeout upstream: the same bytes go over the wire as with contexts,
                           whose header (the time that is left) is HTTP's cost, not theirs

Requests/s: one round gives each side a quarter of a second of wrk, in one order and then the other (A B C, C B A, ...), so
that whatever else the machine does meets all of them alike. Connections stay open from turn to turn. With two processors or
more the gateway has one for itself, wrk and the upstreams have the others: so the gateway is what limits.
Overheads are medians over the rounds of (with / without in the same round), with a 95 % interval by bootstrap.

Instructions per request: callgrind, user space, one request at a time, upstreams answering one after the other. Their ratio repeats
to 0.2 %, that of those inside the calls of scope.h to 0.01 %, which seconds on a shared machine do not: of the three figures
this is the one to trust, but it sees no kernel and no cache misses.

Builds nothing: ./dev bench does. Exit code: 0, whatever the figures; 1 when something fails; 2 for wrong arguments.
"""
import argparse
import http.client
import os
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

import programs

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.dont_write_bytecode = True
sys.path.insert(1, os.path.join(ROOT, "examples", "gateway"))
import play  # noqa: E402

PATIENT = ("--timeout-ms", "30000", "--call-timeout-ms", "30000")  # nothing is late, however slow the machine
CASES = {  # what it takes to start each side
    "gateway_rps": {"contexts": True, "options": PATIENT},
    "gateway_rps_off": {"contexts": False, "options": PATIENT},
    "gateway_rps_off_telling": {"contexts": False, "options": (*PATIENT, "--tell-call-timeout")},
}
WITH, *WITHOUT = CASES
SHORT = {"gateway_rps_off": "", "gateway_rps_off_telling": "telling_"}  # before the names of overheads
ROUNDS, COUNTED = 80, 200
QUICK_ROUNDS, QUICK_COUNTED = 8, 50
CONNECTIONS = 128  # fewer, and the gateway waits for its upstreams: it is to be what limits
TURN_SECONDS, WARM_SECONDS = 0.25, 0.7
SETTLE_SECONDS, SETTLE_SECONDS_MAX = 0.02, 30  # an upstream takes 7.5 ms at most
ORDINARY = {"median_ms": 5, "spread_percent": 50}
RESAMPLES = 2000
BUSY_ENOUGH = 0.85


def needed(build):
    """(where the programs are, why it can not be run or None)"""
    directory = os.path.join(build, "examples", "gateway")
    for name in ("gateway", "gateway_off", "upstream"):
        if not os.access(os.path.join(directory, name), os.X_OK):
            return directory, f"{name} is not built, it needs libevent, libcurl and jansson: ./dev bench installs them"
    if not shutil.which("wrk"):
        return directory, "wrk is not installed: ./dev bench installs it"
    return directory, None


def discard_logs(directory):
    """Lines are made, as in service, but go nowhere: a disk is not what is compared."""
    for name in ("gateway.access.log", "gateway_off.access.log", *(service + ".log" for service in play.SERVICES)):
        os.symlink(os.devnull, os.path.join(directory, name))


# ---- arithmetic ------------------------------------------------------------------------------------------------------

def bootstrap(ratios, order):
    """(median, low, high) of the median, by 95 % percentile bootstrap."""
    medians = sorted(statistics.median(order.choices(ratios, k=len(ratios))) for _ in range(RESAMPLES))
    return statistics.median(ratios), medians[int(0.025 * RESAMPLES)], medians[int(0.975 * RESAMPLES)]


def overheads(rounds, instructions, order):
    """{figure: value}: what the side with contexts takes, as a multiple of each side without."""
    found = {}
    for side in WITHOUT:
        for figure, name in (("ns", "overhead"), ("cpu_ns", "cpu_overhead")):
            ratios = [ours[figure] / theirs[figure] for ours, theirs in zip(rounds[WITH], rounds[side])]
            key = SHORT[side] + name
            found[key], found[key + "_low"], found[key + "_high"] = bootstrap(ratios, order)
        if instructions:
            found[SHORT[side] + "instructions_overhead"] = instructions[WITH]["all"] / instructions[side]["all"]
    if instructions:  # the library and the file that uses it, alone
        most = instructions["gateway_rps_off_telling"]
        found["scope_instructions_overhead"] = 1 + (instructions[WITH]["scope"] - most["scope"]) / most["all"]
    return found


# ---- requests/s ------------------------------------------------------------------------------------------------------

def processor_seconds(pid):
    """User and system time of all threads, ended ones too, in nanoseconds' resolution where /proc/PID/stat has 10 ms:
    what clock_getcpuclockid() makes."""
    return time.clock_gettime((~pid << 3) | 2)


class Split:
    """One processor for the gateway, the others for wrk and the upstreams."""

    def __init__(self):
        self.all = os.sched_getaffinity(0)
        *others, last = sorted(self.all)
        self.gateway, self.others = ({last}, set(others)) if others else (self.all, self.all)

    @staticmethod
    def use(processors):
        os.sched_setaffinity(0, processors)  # children inherit it


class Load:
    """A wrk of its own for one gateway, stopped and continued by signals: so turns can be short, and nothing of them is
    connecting or hanging up. What it has asked for when it is stopped is still answered; it reads that when continued."""

    def __init__(self, gateway, connections):
        self.gateway = gateway
        self.wrk = play.Program(["wrk", "-t1", f"-c{connections}", "-d24h",
                                 f"http://{play.LOOPBACK}:{gateway.port}/"], stderr=subprocess.STDOUT)
        time.sleep(WARM_SECONDS)
        self.wrk.signal(signal.SIGSTOP)
        self.settle()

    def settle(self):
        """When the gateway is idle: (what its processor clock said then, answered well, all answers)"""
        end = time.monotonic() + SETTLE_SECONDS_MAX
        while True:
            time.sleep(SETTLE_SECONDS)
            seconds = processor_seconds(self.gateway.process.pid)
            stats = self.gateway.stats()
            if stats["in_flight"] == 0:
                return seconds, stats["outcomes"]["ok"], sum(stats["outcomes"].values())
            if time.monotonic() > end:
                raise programs.Broken(f"{self.gateway.arguments[0]} does not come to rest")

    def turn(self):
        """The figures of one turn."""
        pid, (_, answered, every) = self.gateway.process.pid, self.settle()
        busy, began = processor_seconds(pid), time.monotonic()
        self.wrk.signal(signal.SIGCONT)
        time.sleep(TURN_SECONDS)
        self.wrk.signal(signal.SIGSTOP)
        seconds = time.monotonic() - began
        busy_then, answered_then, every_then = self.settle()
        requests, busy = answered_then - answered, busy_then - busy
        if self.wrk.process.poll() is not None or requests < 1:
            raise programs.Broken(f"wrk got no answers from {self.gateway.arguments[0]}")
        if every_then - every > requests:
            raise programs.Broken(f"{self.gateway.arguments[0]}: {every_then - every - requests} requests were not answered well")
        return {"requests_per_s": requests / seconds, "ns": seconds * 1e9 / requests, "cpu_ns": busy * 1e9 / requests,
                "busy": busy / seconds}


def start_sides(directory, scratch, split, connections):
    split.use(split.others)
    upstreams = [play.Upstream(directory, name, scratch, seed=number + 1, **ORDINARY)
                 for number, name in enumerate(play.SERVICES)]
    split.use(split.gateway)
    sides = {case: play.Gateway(directory, upstreams, scratch, **how) for case, how in CASES.items()}
    split.use(split.others)
    return {case: Load(gateway, connections) for case, gateway in sides.items()}


def measure_speed(directory, rounds, connections, progress):
    """{case: [figures of each round]}"""
    measured, split = {case: [] for case in CASES}, Split()
    with tempfile.TemporaryDirectory(prefix="rctx-gateway-") as scratch:
        discard_logs(scratch)
        try:
            progress("starting")
            loads = start_sides(directory, scratch, split, connections)
            for number in range(rounds):
                progress(f"round {number + 1} of {rounds}")
                for case in list(CASES) if number % 2 else list(reversed(CASES)):
                    measured[case].append(loads[case].turn())
        finally:
            split.use(split.all)
            play.kill_all()
    return measured


# ---- instructions ----------------------------------------------------------------------------------------------------

def read_calls(lines):
    """(all instructions, {function: those of it and what it calls, if it is one of scope.h's}) of a callgrind file."""
    names, total, inside, caller, callee = {}, 0, {}, "", None
    for line in lines:
        named = re.match(r"(c?fn)=(\(\d+\))(?: (.*))?$", line)
        if named:
            kind, number, name = named.groups()
            if name:
                names[number] = name.rstrip("\n")
            if kind == "fn":
                caller = names[number]
            else:
                callee = names[number]
        elif line.startswith("calls="):
            continue  # the line below says what the call took
        elif line.startswith(("summary:", "totals:")):
            total = int(line.split()[1])
        elif callee is not None and line[:1] in "+-*0123456789":
            if is_scope(callee) and not is_scope(caller):
                inside[callee] = inside.get(callee, 0) + int(line.split()[-1])
            callee = None
    return total, inside


def is_scope(name):
    return name.startswith(("scope_", "drain"))  # drain: the loop's, which calls the watches


def send(port, requests):
    connection = http.client.HTTPConnection(play.LOOPBACK, port, timeout=60)
    for _ in range(requests):
        connection.request("GET", "/", headers={"x-trace-id": "bench"})
        response = connection.getresponse()
        response.read()
        if response.status != 200:
            raise programs.Broken(f"the gateway answered {response.status} under callgrind")
    connection.close()


class CountedGateway(play.Gateway):
    """Runs under callgrind."""

    def __init__(self, directory, upstreams, scratch, out, **how):
        self.out = out
        super().__init__(directory, upstreams, scratch, **how)

    def command(self, arguments):
        return ["valgrind", "--tool=callgrind", "--quiet", f"--callgrind-out-file={self.out}", *arguments]


def count_run(directory, upstreams, scratch, case, requests):
    out = os.path.join(scratch, f"callgrind.{case}.{requests}")
    gateway = CountedGateway(directory, upstreams, scratch, out, **CASES[case])
    send(gateway.port, requests)
    gateway.signal(signal.SIGTERM)
    code, said = gateway.wait()
    if code != 0:
        raise programs.Broken(f"{case} under callgrind ended with {code}: {said}")
    with open(out, encoding="utf-8", errors="replace") as file:
        return read_calls(file)


def measure_instructions(directory, counted, progress):
    """{case: {"all": per request, "scope": ..., "functions": {name: per request}}}; the start and the end cancel out: it is
    what so many requests more take."""
    if not shutil.which("valgrind"):
        return {}
    found, few = {}, max(10, counted // 5)
    with tempfile.TemporaryDirectory(prefix="rctx-gateway-") as scratch:
        discard_logs(scratch)
        try:
            upstreams = [play.Upstream(directory, name, scratch, median_ms=3 * (number + 1), spread_percent=0)
                         for number, name in enumerate(play.SERVICES)]
            for case in CASES:
                progress(f"instructions, {case}")
                (first, inside), (then, inside_then) = (count_run(directory, upstreams, scratch, case, requests)
                                                        for requests in (few, few + counted))
                functions = {name: (inside_then[name] - inside.get(name, 0)) / counted for name in inside_then}
                found[case] = {"all": (then - first) / counted, "scope": sum(functions.values()), "functions": functions}
        finally:
            play.kill_all()
    return found


# ---- for run.py ------------------------------------------------------------------------------------------------------

class Measured:
    """All sides, measured together whichever cases are asked for."""

    def __init__(self, directory, rounds, counted, seed, connections=CONNECTIONS, progress=lambda what: None):
        try:
            self.rounds = measure_speed(directory, rounds, connections, progress)
            self.instructions = measure_instructions(directory, counted, progress)
        except (play.PlayError, OSError) as error:
            raise programs.Broken(f"the gateway could not be measured: {error}") from error
        self.overheads = overheads(self.rounds, self.instructions, random.Random(seed))

    def further(self, case):
        """What is known of a case beside its rounds."""
        count = self.instructions.get(case)
        known = {"instructions": count["all"], "scope_instructions": count["scope"]} if count else {}
        return {**known, **(self.overheads if case == WITH else {})}


# ---- by itself -------------------------------------------------------------------------------------------------------

def show_progress(what):
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\033[K{what}")


def print_measured(measured, functions):
    if sys.stderr.isatty():
        sys.stderr.write("\r\033[K")
    print(f"{'':<26}{'requests/s':>12}{'spread':>8}{'cpu us':>9}{'spread':>8}{'busy':>7}{'instructions':>14}{'of scope.h':>12}")
    for case, rounds in measured.rounds.items():
        columns = []
        for figure in ("requests_per_s", "cpu_ns"):
            values = [figures[figure] for figures in rounds]
            middle = statistics.median(values)
            columns += [middle, f"{100 * (max(values) - min(values)) / middle:.0f}%"]
        busy = statistics.median(figures["busy"] for figures in rounds)
        count = measured.instructions.get(case, {})
        print(f"{case:<26}{columns[0]:>12,.0f}{columns[1]:>8}{columns[2] / 1000:>9.1f}{columns[3]:>8}{100 * busy:>6.0f}%"
              f"{count.get('all', 0):>14,.0f}{count.get('scope', 0):>12,.0f}")
    gateways_share = statistics.median(figures["busy"] for rounds in measured.rounds.values() for figures in rounds)
    if gateways_share < BUSY_ENOUGH:
        print(f"\nThe gateway had {100 * gateways_share:.0f} % of a processor: others used the machine. Requests/s say little then, "
              "processor time not much more; believe the instructions.")
    print("\nOverhead of contexts (with / without; target 1.01):")
    found = measured.overheads
    for side in WITHOUT:
        for name, text in (("overhead", "requests/s"), ("cpu_overhead", "processor time"),
                           ("instructions_overhead", "instructions")):
            key = SHORT[side] + name
            if key in found:
                between = f"  (95 %: {found[key + '_low']:.4f} to {found[key + '_high']:.4f})" if key + "_low" in found else ""
                print(f"  against {side:<24} {text:<16} {found[key]:.4f}{between}")
    if measured.instructions:
        print(f"  of the calls of scope.h alone: instructions    {found['scope_instructions_overhead']:.4f}")
    else:
        print("  valgrind is not installed: no instructions counted")
    for case in measured.instructions if functions else ():
        print(f"\n{case}: instructions per request inside")
        for name, count in sorted(measured.instructions[case]["functions"].items(), key=lambda one: -one[1]):
            print(f"  {name:<24}{count:>10,.1f}")


def whole(least):
    def convert(text):
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"'{text}' is no whole number of {least} or more")
        return int(text)
    return convert


def parse_arguments():
    parser = argparse.ArgumentParser(prog="gateway.py", description=__doc__.replace("%", "%%"), allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--rounds", type=whole(1), default=ROUNDS, metavar="N", help=f"turns of each side ({ROUNDS})")
    add("--connections", type=whole(1), default=CONNECTIONS, metavar="N", help=f"of wrk ({CONNECTIONS})")
    add("--counted", type=whole(1), default=COUNTED, metavar="N", help=f"requests counted by callgrind ({COUNTED})")
    add("--seed", type=whole(0), default=1, metavar="N", help="of the bootstrap")
    add("--functions", action="store_true", help="also instructions by function of scope.h")
    add("--build", default=os.path.join(ROOT, "build", "bench"), metavar="DIR", help="another build directory (build/bench)")
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    directory, why = needed(arguments.build)
    if why:
        raise programs.Broken(why)
    measured = Measured(directory, arguments.rounds, arguments.counted, arguments.seed, arguments.connections,
                        show_progress)
    print_measured(measured, arguments.functions)
    return 0


if __name__ == "__main__":
    play.end_cleanly_on_signals()
    try:
        sys.exit(main())
    except programs.Broken as broken:
        print(f"gateway.py: {broken}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("\ngateway.py: interrupted", file=sys.stderr)
        sys.exit(130)
