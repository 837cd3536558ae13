#!/usr/bin/env python3
"""Memory under churn: runs rctx-churn, judges what it sampled and draws it.

    bench/churn.py [--requests N] [--live N] [--out DIRECTORY] [--binary FILE]

An hour's traffic and more, compressed: N requests (100 million by default, a few minutes) made and ended by two threads, with
random lifetimes, timeouts that fire, subtrees cancelled, some ended by the other thread; at the end the load falls to a 32nd,
then to nothing (bench/churn.c). Writes churn.tsv and churn.svg into DIRECTORY. Exit code 1 if

  - the memory grows once warm: the most in the last third of the full load is over 3 % and 1 MB more than in the first third;
  - it does not come back at a low load: rctx never holds less than 60 % of what the full load took (with 3 million requests or
    more: fewer are over too soon. Resident memory follows later, as jemalloc gives pages back);
  - or without any: with nothing left alive more than a tenth of what the load took is still there (1 MB is forgiven).

The others both for the bytes that rctx has from its allocator, and for the resident memory of the process.
"""
import argparse
import os
import subprocess
import sys
from xml.etree import ElementTree

sys.path.append("/usr/lib/python3/dist-packages")  # Debian's pygal serves also a python3 on PATH that is not Debian's
import pygal
from pygal.style import Style

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
MB = 1e6
FORGIVEN = 1 * MB
GROWTH_MAX = 1.03
KEPT_MAX = 0.1
KEPT_LOW_MAX = 0.6
LONG = 3_000_000
MEASURES = {"rctx_bytes": "bytes that rctx holds", "resident_bytes": "resident memory"}


class Run:
    def __init__(self, path):
        self.samples, self.summary = [], ""
        with open(path, encoding="utf-8") as file:
            names = file.readline().rstrip("\n").split("\t")
            for line in file:
                if line.startswith("#"):
                    self.summary = line[2:].strip()
                    continue
                fields = dict(zip(names, line.rstrip("\n").split("\t")))
                phase = fields.pop("phase")
                self.samples.append((phase, {name: float(value) for name, value in fields.items()}))

    def phases(self):
        return list(dict.fromkeys(phase for phase, _ in self.samples))

    def values(self, phase, name):
        return [sample[name] for its_phase, sample in self.samples if its_phase == phase]

    def faults(self):
        for name, title in MEASURES.items():
            full, start, idle = self.values("full", name), self.values("start", name), self.values("idle", name)
            third = len(full) // 3
            if third == 0 or not idle or not start:
                yield f"too few samples to judge: {len(full)} under full load"
                return
            early, late = max(full[:third]), max(full[-third:])
            if late > early * GROWTH_MAX + FORGIVEN:
                yield f"{title}: growth under an even load, {early / MB:.1f} MB, then {late / MB:.1f} MB"
            low = self.values("low", name) if name == "rctx_bytes" and self.values("idle", "requests")[-1] >= LONG else []
            if low and min(low) - start[0] > (late - start[0]) * KEPT_LOW_MAX:
                yield f"{title}: little comes back at a low load: at least {min(low) / MB:.1f} MB of {late / MB:.1f} MB"
            kept = idle[-1] - start[0]
            if kept > (late - start[0]) * KEPT_MAX + FORGIVEN:
                yield f"{title}: not all comes back: {kept / MB:.1f} MB are left of {(late - start[0]) / MB:.1f} MB"

    def table(self):
        yield "| load | samples | requests so far | contexts alive | rctx holds, MB | resident, MB |"
        yield "|---|---|---|---|---|---|"
        for phase in self.phases():
            def span(name, unit, places, phase=phase):
                values = [value / unit for value in self.values(phase, name)]
                low, high = f"{min(values):,.{places}f}", f"{max(values):,.{places}f}"
                return low if low == high else f"{low} to {high}"

            yield (f"| {phase} | {len(self.values(phase, 'requests'))} | {max(self.values(phase, 'requests')):,.0f} "
                   f"| {span('contexts', 1, 0)} | {span('rctx_bytes', MB, 2)} | {span('resident_bytes', MB, 1)} |")


def without_scripts(svg):
    """pygal adds a script for tooltips, which a picture in a page can not run."""
    ElementTree.register_namespace("", "http://www.w3.org/2000/svg")
    ElementTree.register_namespace("xlink", "http://www.w3.org/1999/xlink")
    root = ElementTree.fromstring(svg)
    for parent in list(root.iter()):
        for child in [c for c in parent if isinstance(c.tag, str) and c.tag.endswith("}script")]:
            parent.remove(child)
    return ElementTree.tostring(root, encoding="unicode")


def draw(run, path):
    style = Style(background="#ffffff", plot_background="#ffffff", colors=("#1f6feb", "#d1242f", "#8c959f"),
                  font_family="sans-serif", label_font_size=13, legend_font_size=14, title_font_size=16)
    chart = pygal.XY(style=style, js=[], show_dots=False, width=1000, height=460, legend_at_bottom=True, truncate_legend=-1,
                     include_x_axis=True, show_x_guides=False, title="Memory over time (seconds), MB",
                     x_title="seconds; the last 30 % of the requests at a 32nd of the load, then none", no_prefix=True)
    drawn = [sample for i, (_, sample) in enumerate(run.samples) if i < 20 or i % 3 == 0]  # the rise, then enough
    for name, title in (("resident_bytes", "resident"), ("rctx_bytes", "held by rctx")):
        chart.add(title, [(sample["seconds"], round(sample[name] / MB, 3)) for sample in drawn])
    chart.add("contexts alive x 128 bytes",
              [(sample["seconds"], round(sample["contexts"] * 128 / MB, 3)) for sample in drawn])
    with open(path, "w", encoding="utf-8") as file:
        file.write(without_scripts(chart.render(is_unicode=True)) + "\n")


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.replace("%", "%%"), allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, metavar="N", default=100_000_000)
    parser.add_argument("--live", type=int, metavar="N",
                        help="requests alive at a time in each thread (default: 16384, or a 200th of a small N)")
    parser.add_argument("--out", metavar="DIRECTORY", default=os.path.join(ROOT, "build", "bench"))
    parser.add_argument("--binary", metavar="FILE", default=os.path.join(ROOT, "build", "bench", "bench", "rctx-churn"))
    arguments = parser.parse_args()
    if arguments.requests < 100_000:
        parser.error("--requests: at least 100000, or there is nothing to see")
    if arguments.live is None:
        arguments.live = min(16384, arguments.requests // 200)
    return arguments


def main():
    arguments = parse_arguments()
    path = os.path.join(arguments.out, "churn.tsv")
    subprocess.run([arguments.binary, str(arguments.requests), str(arguments.live), path], check=True)
    run = Run(path)
    print("\n".join(run.table()))
    print(f"\n{arguments.requests:,} requests, {arguments.live:,} alive in each of 2 threads: {run.summary}")
    draw(run, os.path.join(arguments.out, "churn.svg"))
    faults = list(run.faults())
    for fault in faults:
        print(f"churn.py: {fault}", file=sys.stderr)
    print(f"{path} and churn.svg: {len(faults)} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
