#!/usr/bin/env python3
"""Counts writes to cache lines that two threads write, by valgrind --tool=lackey: what can not scale shows on two processors.

    bench/shared_writes.py [--check] [--markdown] RCTX_SHARED_WRITES

Two threads work under one parent. Prints, per step and per operation, how often each kind of cache line is written, and whether
the other thread writes the same line in that group of steps (`shared`) or reads it (`read`). --markdown: the same as tables for
docs/scaling.md, what is shared in bold, with the instructions that each step runs. Once with a striped parent, which
a parent becomes whose lock is found taken, and once with a plain one.

--check: exit code 1 unless no line is shared under the striped parent but for those that MAY_SHARE names, and some are under the
plain one: or this could not see them.
"""
import collections
import subprocess
import sys
import tempfile

LINE = 64
CHUNK_HEADER, NODE = 512, 128
# What may be shared under a striped parent, and how many writes per operation at most.
MAY_SHARE = {
    # One thread derives, the other ends: the context itself, and where it is linked and armed. The pool once in a batch.
    "handoff": {"a context, first line": 30, "a context, second line": 12, "a stripe of the parent": 6, "a timer shard": 10,
                "the pools": 0.5},
}


def without_instructions(trace):
    """The accesses, and between them as numbers how many instructions were run."""
    run = 0
    for line in trace:
        if line.startswith("I "):
            run += 1
        elif line.startswith((" S", " M", " L")):
            yield run
            yield line
            run = 0


class Trace:
    """What one run wrote and read between its markers."""

    def __init__(self, binary, mode):
        with tempfile.TemporaryFile("w+") as out:
            process = subprocess.Popen(["valgrind", "--tool=lackey", "--trace-mem=yes", "--quiet", binary, mode], stdout=out,
                                       stderr=subprocess.PIPE, text=True)
            accesses = list(without_instructions(process.stderr))
            if process.wait() != 0:
                sys.exit(f"shared_writes.py: {binary} {mode} fails under valgrind")
            out.seek(0)
            self.read_description(out)
        self.read_accesses(accesses)

    def read_description(self, out):
        self.markers, self.regions, self.stripes, self.count = {}, [], None, 0
        for line in out:
            kind, *fields = line.rstrip("\n").split("\t")
            if kind == "stripes":
                self.stripes = tuple(int(field) for field in fields)
            elif kind == "count":
                self.count = int(fields[0])
            elif kind == "marker":
                self.markers[int(fields[0])] = (int(fields[1]), fields[2], fields[3])
            elif kind == "region":
                self.regions.append((int(fields[1]), int(fields[2]), fields[0]))

    def read_accesses(self, accesses):
        """writes[group, step, thread] and reads[...] count accesses by address."""
        self.writes = collections.defaultdict(collections.Counter)
        self.reads = collections.defaultdict(collections.Counter)
        self.instructions = collections.Counter()
        low, high = min(self.markers), max(self.markers) + 8
        now = None  # before the first marker, and between two
        for line in accesses:
            if isinstance(line, int):
                self.instructions[now] += line
                continue
            kind, (address, size) = line[1], line[3:].split(",")
            address = int(address, 16)
            if low <= address < high:
                thread, group, step = self.markers[address]
                now = (group, step, thread) if thread else None
            elif now:
                for touched in {address, address + int(size) - 1} if address % LINE + int(size) > LINE else (address, ):
                    if kind in "SM":
                        self.writes[now][touched] += 1
                    if kind in "LM":
                        self.reads[now][touched] += 1

    def kind_of(self, address):
        for start, size, name in self.regions:
            if start <= address < start + size:
                if name != "chunk of nodes":
                    return name
                in_node = (address - start - CHUNK_HEADER) % NODE
                return "a context, first line" if in_node < LINE else "a context, second line"
        return "another"

    def groups(self):
        return list(dict.fromkeys(group for _, group, _ in self.markers.values() if group))

    def steps(self, group):
        return list(dict.fromkeys(step for _, its_group, step in self.markers.values() if its_group == group))

    def lines(self, accesses, group, thread):
        return {address // LINE for (its_group, _, its_thread), counts in accesses.items()
                if (its_group, its_thread) == (group, thread) for address in counts}

    def rows(self, group):
        """(step, kind, sharing, writes per operation), of the thread that writes most."""
        written = {thread: self.lines(self.writes, group, thread) for thread in (1, 2)}
        read = {thread: self.lines(self.reads, group, thread) for thread in (1, 2)}
        for step in self.steps(group):
            most = collections.Counter()
            for thread, other in ((1, 2), (2, 1)):
                counts = collections.Counter()
                for address, count in self.writes[group, step, thread].items():
                    line = address // LINE
                    sharing = "shared" if line in written[other] else "read" if line in read[other] else ""
                    counts[self.kind_of(address), sharing] += count
                most |= counts
            for (kind, sharing), count in sorted(most.items(), key=lambda item: (item[0][1] == "", -item[1])):
                yield step, kind, sharing, count / self.count

    def shared(self, group):
        return sum(count for _, _, sharing, count in self.rows(group) if sharing == "shared")

    def instructions_of(self, group, step):
        return max(self.instructions[group, step, thread] for thread in (1, 2)) / self.count


PRIVATE = ("a thread's stack and thread-locals", "the caller's own")


def print_text(title, trace):
    print(f"{title}: {trace.stripes[0]} stripes, {trace.stripes[1]} processors")
    for group in trace.groups():
        for step, kind, sharing, count in trace.rows(group):
            if kind not in PRIVATE or sharing:
                print(f"  {group:8} {step:15} {count:7.2f}  {kind:36} {sharing}")
        print(f"  {group:8} = {trace.shared(group):.2f} shared writes per operation")


def cell(entry):
    shared, own = entry
    texts = [f"**{shared:.3g}**"] * (shared > 0) + [f"{own:.3g}"] * (own > 0)
    return " + ".join(texts)


def print_markdown(title, trace):
    """Lines by steps; what is shared is bold. Steps that only prepare for others are left out."""
    columns = [(group, step) for group in trace.groups() for step in trace.steps(group)
               if group != "after" or step in ("register", "stop")]
    table = collections.defaultdict(lambda: [0, 0])
    for group in trace.groups():
        for step, kind, sharing, count in trace.rows(group):
            table[kind, group, step][sharing != "shared"] += count
    kinds = dict.fromkeys(kind for kind, group, step in table if kind not in PRIVATE and (group, step) in columns)
    print(f"| {title} | " + " | ".join(f"{group}: {step}" for group, step in columns) + " |")
    print("|---|" + "---|" * len(columns))
    for kind in kinds:
        print(f"| {kind} | " + " | ".join(cell(table[kind, group, step]) for group, step in columns) + " |")
    print("| *instructions* | " + " | ".join(f"{trace.instructions_of(group, step):.0f}" for group, step in columns) + " |\n")


def faults(plain, striped):
    for group in striped.groups():
        found = collections.Counter()
        for _, kind, sharing, count in striped.rows(group):
            if sharing == "shared":
                found[kind] += count
        for kind, count in found.items():
            allowed = MAY_SHARE.get(group, {}).get(kind, 0)
            if count > allowed:
                yield f"{group}: {count:.2f} writes per operation to {kind} are shared under a striped parent, {allowed} may be"
        if plain.shared(group) == 0:
            yield f"{group}: no shared write is seen under a plain parent, where there must be some"
    stripes, processors = striped.stripes
    if stripes < processors:
        yield f"{stripes} stripes for {processors} processors"
    if plain.stripes[0] != 0:
        yield "the plain parent is striped"


def main():
    options, binary = set(sys.argv[1:-1]), sys.argv[-1]
    if len(sys.argv) < 2 or not options <= {"--check", "--markdown"} or binary.startswith("--"):
        print(__doc__, file=sys.stderr)
        return 2
    plain, striped = Trace(binary, "plain"), Trace(binary, "striped")
    if "--markdown" in options:
        print_markdown("striped parent", striped)
        print_markdown("plain parent", plain)
    else:
        print_text("plain parent", plain)
        print_text("striped parent", striped)
    found = list(faults(plain, striped)) if "--check" in options else []
    for fault in found:
        print(f"shared_writes.py: {fault}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
