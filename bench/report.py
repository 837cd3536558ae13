"""What bench/run.py measured, as a table, and as report.json, report.md, report.html.

The charts are pygal's (python3-pygal, 64 kB, no dependencies of its own): it draws SVG that can stand in a page as it is, in
the page's own colours. matplotlib would do as well, but brings numpy and 100 MB for the same bars.
"""
import datetime
import html
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

sys.path.append("/usr/lib/python3/dist-packages")  # Debian's pygal serves also a python3 on PATH that is not Debian's
import pygal
from pygal.style import Style

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FAMILIES = [
    ("Looking at a context", "err_poll"), ("Deriving", "derive"), ("Values", "value"),
    ("Cancelling many: per context", "cancel_(fanout|chain|tree)"), ("Requests", "request"),
    ("The gateway: requests per second, more is better", "gateway"),
    ("Being told", "after|watch|loop|done_fd|group"),
    ("Waking a thread: times the kernel's bare futex wake", "cancel_to_wake"), ("Many deadlines", "timer|expire"),
    ("Resident bytes per live context", "bytes_per_live"),
]
COLOURS = ("#2a78d6", "#e8743b", "#19a979", "#8a63d2", "#c43b6b", "#13a4b4", "#9c7a2f", "#6c8893", "#b5a000")


def main_figure(case):
    """What is compared. A wakeup takes 3 us or 20 us, as the kernel happens to place the thread, in the same program: only
    its ratio to the kernel's own in the same block says something."""
    if case == "cancel_to_wake":
        return "kernel_ratio"
    if case.startswith("gateway"):
        return "requests_per_s"
    return "resident_bytes" if case.startswith("bytes_per_live") else "ns"


def number(value):
    """Three significant digits, without exponents."""
    if value is None:
        return "-"
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    if abs(value) >= 1:
        return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"
    if abs(value) >= 0.001:
        return f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.2g}"
    return "<0.001"


def figure_text(name, value):
    """Overheads of a percent show in the fourth digit."""
    return f"{value:.4f}" if "overhead" in name else number(value)


def read_targets():
    """{case: [(figure, at most), ...]} as in targets.tsv."""
    targets = {}
    with open(os.path.join(ROOT, "bench", "targets.tsv"), encoding="utf-8") as file:
        for line in file:
            if line.strip() and not line.startswith("#"):
                case, figure, limit = line.rstrip("\n").split("\t")
                targets.setdefault(case, []).append((figure, float(limit)))
    return targets


def first_line(command):
    try:
        return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                              check=False).stdout.partition("\n")[0]
    except OSError:
        return ""


def read_first_line(path):
    try:
        with open(path, encoding="utf-8") as file:
            return file.readline().strip()
    except OSError:
        return ""


def cpu_model():
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next((line.partition(":")[2].strip() for line in file if line.startswith("model name")), "")
    except OSError:
        return ""


def floor_of(build):
    """What the machine takes for the steps that no library gets around: {what: ns}."""
    lines = []
    try:
        program = os.path.join(build, "bench", "rctx-floor")
        lines = subprocess.run([program], stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        pass
    return {name: f"{ns} ns: {what}" for name, ns, what in (line.split("\t") for line in lines)}


def describe_machine(build):
    """What the figures were measured on; what can not be read is left out."""
    cache = {}
    if os.path.exists(os.path.join(build, "CMakeCache.txt")):
        with open(os.path.join(build, "CMakeCache.txt"), encoding="utf-8") as file:
            cache = dict(re.findall(r"^(\w+):\w+=(.*)$", file.read(), re.MULTILINE))
    machine = {
        "processor": cpu_model() or platform.processor(),
        "cores": os.cpu_count(),
        "governor": read_first_line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor") or "not readable",
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "system": platform.freedesktop_os_release().get("PRETTY_NAME") if os.path.exists("/etc/os-release") else "",
        "C compiler": first_line([cache.get("CMAKE_C_COMPILER", "cc"), "--version"]),
        "C++ compiler": first_line([cache.get("CMAKE_CXX_COMPILER", "c++"), "--version"]),
        "C flags": cache.get("CMAKE_C_FLAGS", ""),
        "load at the start": " ".join(f"{load:.2f}" for load in os.getloadavg()),
        "commit": first_line(["git", "-C", ROOT, "describe", "--always", "--dirty"]),
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
    }
    return {key: value for key, value in {**machine, **floor_of(build)}.items() if value}


def summarize(rounds, figure):
    """Of one program and one case."""
    for run in rounds:
        if run.get("kernel_ns"):
            run["kernel_ratio"] = run["ns"] / run["kernel_ns"]
    medians = {key: statistics.median(run[key] for run in rounds) for key in rounds[0]}
    values = [run[figure] for run in rounds]
    middle = statistics.median(values)
    return {
        "median": middle,
        "min": min(values),
        "spread": (max(values) - min(values)) / middle if middle else 0.0,
        "rounds": values,
        "ns": medians.pop("ns"),
        "allocs": medians.pop("allocs", None),
        "bytes": medians.pop("bytes", None),
        "further": medians,
    }


def judge(limit, value):
    if value is None:
        return "?"
    return "ok" if value <= limit else f"x{value / limit:.2f}" if limit else "MISSED"


class Report:
    def __init__(self, build, ours, rivals, skipped, run):
        self.machine = describe_machine(build)
        self.linked = ours.version
        self.rivals = rivals
        self.skipped = skipped
        self.run = run
        self.targets = read_targets()
        self.cases = []

    def add(self, case, measured, further=None):
        """Takes the rounds of one case, and what is known of all its rounds; returns them in a few words."""
        figure = main_figure(case)
        programs = {name: summarize(rounds, figure) for name, rounds in measured.items()}
        ours = programs.pop("rctx")
        ours["further"].update(further or {})
        record = {"case": case, "figure": figure, "rctx": ours, "rivals": programs}
        if "overhead" in ours["further"]:
            record.update(best_rival="compiled out", ratio=ours["further"]["overhead"])
        if programs:
            best = min(programs, key=lambda name: programs[name]["median"])
            pairs = zip(ours["rounds"], programs[best]["rounds"])
            record["best_rival"] = best
            record["ratio"] = statistics.median(our / their if their else 0.0 for our, their in pairs)
        known = {"ns": ours["ns"], "allocs": ours["allocs"], "bytes": ours["bytes"], "ratio": record.get("ratio"),
                 **ours["further"]}
        record["targets"] = [{"figure": name, "at_most": limit, "value": known.get(name),
                              "verdict": judge(limit, known.get(name))} for name, limit in self.targets.get(case, [])]
        self.cases.append(record)
        words = [f"rctx {number(ours['median'])}"]
        words += [f"{name} {number(programs[name]['median'])}" for name in sorted(programs)]
        words += [f"{name} {figure_text(name, value)}" for name, value in ours["further"].items()
                  if name.endswith("overhead")]
        return ", ".join(words)

    # ---- as rows ----

    def programs(self):
        return ["rctx", *sorted({rival.name for rival in self.rivals})]

    def columns(self):
        return ["case", "rctx", "spread", "allocs", "target", "ratio", "best rival", *self.programs()[1:]]

    def row(self, record):
        ours = record["rctx"]
        verdicts = ", ".join(f"{'' if t['figure'] == record['figure'] else t['figure'] + ' '}{t['at_most']:g} {t['verdict']}"
                             for t in record["targets"])
        rivals = [record["rivals"].get(name, {}).get("median") for name in self.programs()[1:]]
        return [record["case"], number(ours["median"]), f"{100 * ours['spread']:.0f}%", number(ours["allocs"]),
                verdicts or "-", figure_text("overhead" if "overhead" in ours["further"] else "", record.get("ratio")), record.get("best_rival", "-"), *map(number, rivals)]

    def table(self):
        rows = [self.columns(), *map(self.row, self.cases)]
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        left = {0, 4, 6}
        lines = ["  ".join(text.ljust(width) if i in left else text.rjust(width)
                           for i, (text, width) in enumerate(zip(row, widths))).rstrip() for row in rows]
        return "\n".join([*lines, "", *self.legend()])

    def legend(self):
        yield ("ns per operation (bytes_per_live_*: resident bytes per context; cancel_to_wake: ratio to the kernel's futex "
               f"wake). Medians of {self.run['rounds']} rounds; spread: (max - min) / median.")
        turns = [len(record["rctx"]["rounds"]) for record in self.cases if record["case"].startswith("gateway")]
        if turns:
            yield (f"gateway_*: requests per second, medians of {turns[0]} turns. ratio: time of a request with contexts / compiled "
                   "out; instructions are counted, repeatable where times are not; *_overhead: see bench/gateway.py --help.")
        yield "ratio: rctx / best rival, the median over the rounds; below 1, rctx is ahead. target: at most; x1.40: missed by 40 %."
        yield f"rctx: {self.linked} library"
        for rival in self.rivals:
            yield f"{rival.name} {rival.version}: {rival.blind or 'blind to nothing'}"
        for name, why in self.skipped.items():
            yield f"{name}: skipped, {why}"

    def detail_rows(self):
        yield ["case", "program", "median", "min", "spread", "allocs", "bytes", "further figures"]
        for record in self.cases:
            for name, one in [("rctx", record["rctx"]), *sorted(record["rivals"].items())]:
                further = ", ".join(f"{key} {figure_text(key, value)}" for key, value in one["further"].items())
                yield [record["case"], name, number(one["median"]), number(one["min"]), f"{100 * one['spread']:.0f}%",
                       number(one["allocs"]), number(one["bytes"]), further or "-"]

    # ---- as files ----

    def write(self, directory, json_file=None):
        os.makedirs(directory, exist_ok=True)
        texts = {"report.json": self.as_json(), "report.md": self.as_markdown(), "report.html": self.as_html()}
        for name, text in texts.items():
            write_file(os.path.join(directory, name), text)
        if json_file:
            write_file(json_file, texts["report.json"])

    def as_json(self):
        return json.dumps({
            "machine": self.machine,
            "run": self.run,
            "rctx": self.linked,
            "rivals": [{"name": r.name, "version": r.version, "blind": r.blind} for r in self.rivals],
            "skipped": self.skipped,
            "cases": self.cases,
        }, indent=1) + "\n"

    def as_markdown(self):
        machine = [f"- {key}: {value}" for key, value in self.machine.items()]
        return "\n".join([
            "# rctx against its rivals", "", *markdown_table([self.columns(), *map(self.row, self.cases)]), "",
            *(f"- {line}" for line in self.legend()), "", "## Machine", "", *machine, "", "## All figures", "",
            *markdown_table(self.detail_rows())
        ]) + "\n"

    def as_html(self):
        charts = "\n".join(f"<h3>{html.escape(title)}</h3>\n{self.chart(matching)}" for title, matching in self.families())
        machine = html_table([["", ""], *([key, str(value)] for key, value in self.machine.items())])
        legend = "".join(f"<li>{html.escape(line)}</li>" for line in self.legend())
        return PAGE.format(
            table=html_table([self.columns(), *map(self.row, self.cases)]), legend=legend, charts=charts, machine=machine,
            details=html_table(list(self.detail_rows())))

    def families(self):
        for title, pattern in FAMILIES:
            matching = [record for record in self.cases if re.match(pattern, record["case"])]
            if matching:
                yield title, matching

    def chart(self, records):
        """Bars on a logarithmic scale, for one operation may take 0.3 ns and another 300 us."""
        names = [name for name in self.programs() if name == "rctx" or any(name in record["rivals"] for record in records)]
        all_medians = [one["median"] for record in records for one in (record["rctx"], *record["rivals"].values())]
        least = min((median for median in all_medians if median > 0), default=1)
        style = Style(background="transparent", plot_background="transparent", foreground="currentColor",
                      foreground_strong="currentColor", foreground_subtle="currentColor",
                      colors=tuple(COLOURS[self.programs().index(name) % len(COLOURS)] for name in names),
                      font_family="sans-serif", opacity=".9", value_colors=("currentColor",) * len(names), value_font_size=11,
                      label_font_size=12, legend_font_size=13)
        bars = pygal.HorizontalBar(
            style=style, js=[], logarithmic=True, print_values=True, truncate_legend=-1, truncate_label=-1,
            legend_at_bottom=True, range=(least / 2, max(all_medians)), value_formatter=lambda value: "\u00a0" * 8 + number(value), width=1100, zero=least / 2,
            show_x_guides=False, show_y_guides=False, show_x_labels=False, print_values_position="top",
            height=110 + 22 * len(records) + 16 * sum(1 + len(record["rivals"]) for record in records))
        ordered = list(reversed(records))  # pygal draws from the bottom
        bars.x_labels = [record["case"] for record in ordered]
        for name in names:
            bars.add(name, [(record["rctx"] if name == "rctx" else record["rivals"].get(name, {})).get("median") or None
                            for record in ordered])
        return without_scripts(bars.render(is_unicode=True, disable_xml_declaration=True))


def without_scripts(svg):
    """pygal adds a script for tooltips; the page must stand alone and needs none: values are printed on the bars."""
    ElementTree.register_namespace("", "http://www.w3.org/2000/svg")
    ElementTree.register_namespace("xlink", "http://www.w3.org/1999/xlink")
    root = ElementTree.fromstring(svg)
    for parent in list(root.iter()):
        for child in [c for c in parent if isinstance(c.tag, str) and c.tag.endswith("}script")]:
            parent.remove(child)
    return ElementTree.tostring(root, encoding="unicode")


def markdown_table(rows):
    for index, row in enumerate(rows):
        yield "| " + " | ".join(text.replace("|", "\\|") for text in row) + " |"
        if index == 0:
            yield "|" + "---|" * len(row)


def html_table(rows):
    def cells(row, tag):
        return "<tr>" + "".join(f"<{tag}>{html.escape(text)}</{tag}>" for text in row) + "</tr>"

    head = "<thead>" + cells(rows[0], "th") + "</thead>" if any(rows[0]) else ""
    return "<table>" + head + "<tbody>" + "\n".join(cells(row, "td") for row in rows[1:]) + "</tbody></table>"


def write_file(path, text):
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


# Well-formed XML as well as HTML, so that a test can parse it.
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8"/>
<meta name="viewport" content="width=device-width"/>
<meta name="color-scheme" content="light dark"/>
<title>rctx against its rivals</title>
<style>
:root {{ color-scheme: light dark; --text: #1b1f24; --page: #ffffff; --line: #d0d7de; --band: #f3f5f8; }}
@media (prefers-color-scheme: dark) {{ :root {{ --text: #e6e8eb; --page: #14171a; --line: #3a4149; --band: #1d2126; }} }}
body {{ font: 15px/1.5 sans-serif; color: var(--text); background: var(--page); margin: 2em auto; max-width: 1200px; padding: 0 1em; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 13px; }}
th, td {{ border: 1px solid var(--line); padding: 2px 8px; text-align: left; white-space: nowrap; }}
tbody tr:nth-child(even) {{ background: var(--band); }}
.wide {{ overflow-x: auto; }}
svg {{ width: 100%; height: auto; color: var(--text); }}
</style>
</head>
<body>
<h1>rctx against its rivals</h1>
<div class="wide">{table}</div>
<ul>{legend}</ul>
<h2>Charts</h2>
<p>Medians, ns per operation unless it says otherwise; logarithmic. Shorter is better, unless it says otherwise.</p>
{charts}
<h2>Machine</h2>
{machine}
<h2>All figures</h2>
<div class="wide">{details}</div>
</body>
</html>
"""
