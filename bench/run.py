#!/usr/bin/env python3
"""Runs rctx-bench and its rivals against each other: one table, and build/bench/report.{json,md,html}.

Case by case, in rounds: each round runs every program that has the case once, in a new random order, so that whatever else
the machine does meets all of them alike. Printed are medians over the rounds; the spread, (max - min) / median; and the
ratio, the median over the rounds of rctx / best rival of the same round: below 1, rctx is ahead. The gateway's cases are
measured together, by bench/gateway.py; there it is the time of a request with contexts / with them compiled out.

Builds nothing: ./dev bench does, and takes the same options. Compare figures of one run with each other, never seconds of
two runs. Exit code: 0, also when a target is missed; 1 when a program fails; 2 for wrong arguments.
"""
import argparse
import os
import random
import re
import sys
import time

import gateway
import programs

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BUILD = os.path.join(ROOT, "build", "bench")
ROUNDS, SECONDS = 5, 0.1
QUICK_ROUNDS, QUICK_SECONDS = 3, 0.02


def parse_arguments():
    parser = argparse.ArgumentParser(prog="bench", description=__doc__.replace("%", "%%"), allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--filter", metavar="REGEX", help="only the cases whose name matches")
    add("--only", metavar="NAME,...", help="only these cases, by their exact names")
    add("--rivals", metavar="LIST", help="only these rivals, separated by commas; none: rctx alone")
    add("--json", metavar="FILE", help="write the JSON report there, too")
    add("--quick", action="store_true", help="3 short rounds instead of 5: for a look, not for figures")
    add("--shared", action="store_true", help="rctx as a shared library, as distributions install it (allocations by "
        "the library's own calls of jemalloc are not seen then)")
    add("--list", action="store_true", help="print the cases, and who has them; run nothing")
    add("--seed", type=int, metavar="N", help="the seed of the order, to run one again")
    add("--program", metavar="NAME=FILE", action="append", default=[],
        help="one more program that speaks the protocol of bench/rivals/main.c; as rctx: its cases are ours")
    add("--build", metavar="DIR", default=BUILD, help="another build directory (default: build/bench)")
    add("--out", metavar="DIR", help="where the reports go (default: the build directory)")
    return parser, parser.parse_args()


def names_in(parser, option, text, known, what):
    names = [name for name in text.split(",") if name]
    for name in names:
        if name not in known:
            parser.error(f"{option}: no {what} '{name}'; there are: {', '.join(known)}")
    if not names:
        parser.error(f"{option}: no {what} given")
    return names


def chosen_cases(parser, arguments, known):
    cases = known
    if arguments.only is not None:
        wanted = names_in(parser, "--only", arguments.only, known, "case")
        cases = [case for case in known if case in wanted]
    if arguments.filter is not None:
        try:
            matching = re.compile(arguments.filter)
        except re.error as error:
            parser.error(f"--filter: '{arguments.filter}' is no regular expression: {error}")
        cases = [case for case in cases if matching.search(case)]
        if not cases:
            parser.error(f"--filter: no case matches '{arguments.filter}'; --list names them")
    return cases


def chosen_rivals(parser, arguments, rivals, skipped):
    if arguments.rivals is None:
        return rivals
    if arguments.rivals == "none":
        return []
    for name in arguments.rivals.split(","):
        if name in skipped:
            parser.error(f"--rivals: {name} was not built: {skipped[name]} (./dev bench --install-rivals)")
    wanted = names_in(parser, "--rivals", arguments.rivals, sorted({rival.name for rival in rivals}), "rival")
    return [rival for rival in rivals if rival.name in wanted]


def extra_programs(parser, texts):
    for text in texts:
        name, equals, file = text.partition("=")
        if not (name and equals and os.access(file, os.X_OK)):
            parser.error(f"--program: '{text}' is not NAME=FILE with a program as FILE")
        yield programs.Rival(os.path.abspath(file), name)


class Progress:
    """A line per case; on a terminal also what runs at the moment."""

    def __init__(self, total):
        self.total, self.done, self.began, self.terminal = total, 0, time.monotonic(), sys.stderr.isatty()

    def show(self, case, what):
        if self.terminal:
            sys.stderr.write(f"\r\033[K[{self.done + 1:>2}/{self.total}] {case}: {what}")
            sys.stderr.flush()

    def finish(self, case, text):
        self.done += 1
        seconds = int(time.monotonic() - self.began)
        clear = "\r\033[K" if self.terminal else ""
        print(f"{clear}[{self.done:>2}/{self.total}] {seconds // 60:02}:{seconds % 60:02} {case}: {text}",
              file=sys.stderr, flush=True)


def measure_case(case, participants, rounds, seconds, order, progress):
    """{name: [figures of each round]}"""
    having = [program for program in participants if case in program.cases]
    measured = {program.name: [] for program in having}
    for number in range(rounds):
        order.shuffle(having)
        for program in having:
            progress.show(case, f"round {number + 1} of {rounds}, {program.name}")
            measured[program.name].append(program.measure(case, seconds))
    return measured


def list_cases(cases, participants):
    for case in cases:
        print(f"{case:<30} {' '.join(sorted(p.name for p in participants if case in p.cases and p.name != 'rctx'))}")


def all_programs(parser, arguments):
    file = os.path.join(arguments.build, "bench", "rctx-bench-shared" if arguments.shared else "rctx-bench")
    if not os.access(file, os.X_OK):
        raise programs.Broken(f"{file} is not built: ./dev bench builds it")
    rivals, skipped = programs.find_rivals(os.path.join(arguments.build, "bench", "rivals"))
    extra = list(extra_programs(parser, arguments.program))
    ours = [programs.RctxBench(file, "shared" if arguments.shared else "static")]
    ours += [program for program in extra if program.name == "rctx"]
    rivals += [program for program in extra if program.name != "rctx"]
    return ours, chosen_rivals(parser, arguments, rivals, skipped), skipped


class GatewayCases:
    """Those of bench/gateway.py, when it can be run here."""

    def __init__(self, build):
        self.directory, self.skipped = gateway.needed(build)
        self.cases = [] if self.skipped else list(gateway.CASES)
        self.measured = None

    def measure(self, case, quick, seed, progress):
        """(the rounds of a case, what else is known of it). All are measured when the first is asked for."""
        if self.measured is None:
            rounds, counted = ((gateway.QUICK_ROUNDS, gateway.QUICK_COUNTED) if quick else (gateway.ROUNDS, gateway.COUNTED))
            self.measured = gateway.Measured(self.directory, rounds, counted, seed,
                                             progress=lambda what: progress.show(case, what))
        return {"rctx": self.measured.rounds[case]}, self.measured.further(case)


def main():
    parser, arguments = parse_arguments()
    ours, rivals, skipped = all_programs(parser, arguments)
    of_gateway = GatewayCases(arguments.build)
    known = [case for program in [*ours, of_gateway] for case in program.cases]
    if of_gateway.skipped:
        if arguments.only and set(arguments.only.split(",")) & set(gateway.CASES):
            raise programs.Broken(of_gateway.skipped)
        print(f"bench: the gateway skipped: {of_gateway.skipped}", file=sys.stderr)
    cases = chosen_cases(parser, arguments, known)
    if arguments.list:
        list_cases(cases, ours + rivals)
        return 0
    try:
        import report  # needs pygal; a list does not
    except ModuleNotFoundError as error:
        raise programs.Broken(f"{error}: ./dev bench installs python3-pygal") from error

    rounds, seconds = (QUICK_ROUNDS, QUICK_SECONDS) if arguments.quick else (ROUNDS, SECONDS)
    seed = arguments.seed if arguments.seed is not None else random.SystemRandom().randrange(1 << 32)
    print(f"bench: {len(cases)} cases, {rounds} rounds of {seconds:g} s or more each, order by --seed {seed}; "
          f"rivals: {', '.join(rival.name for rival in rivals) or 'none'}", file=sys.stderr)
    for name, why in skipped.items():
        print(f"bench: {name} skipped: {why}", file=sys.stderr)
    made = report.Report(arguments.build, ours[0], rivals, skipped,
                         {"seed": seed, "rounds": rounds, "seconds": seconds, "quick": arguments.quick})
    order, progress = random.Random(seed), Progress(len(cases))
    for case in cases:
        if case in of_gateway.cases:
            measured, further = of_gateway.measure(case, arguments.quick, seed, progress)
        else:
            measured, further = measure_case(case, ours + rivals, rounds, seconds, order, progress), {}
        progress.finish(case, made.add(case, measured, further))
    print(made.table())
    made.write(arguments.out or arguments.build, arguments.json)
    return 0


if __name__ == "__main__":
    gateway.play.end_cleanly_on_signals()
    try:
        sys.exit(main())
    except programs.Broken as broken:
        print(f"bench: {broken}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("\nbench: interrupted, no report written", file=sys.stderr)
        sys.exit(130)
