#!/usr/bin/env python3
"""A tour of the example gateway: the same scenes with request contexts and without, and a table at the end.

    ./dev gateway             play the tour (about two minutes); exit code 0: every promise was kept, 1: one was broken
    ./dev gateway --quick     the same with shorter scenes
    ./dev gateway --serve     start three upstream services and the gateway, and leave them to you and curl

Three upstream services and the gateways run as processes on loopback. The clients are curl, wrk, and raw sockets for those
that hang up. What counts as work that nobody waited for is one definition for both gateways: see play.gone_us().
"""
import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

sys.dont_write_bytecode = True
from play import (LOOPBACK, SERVICES, Client, Crowd, Gateway, PlayError, Upstream, end_cleanly_on_signals, get,  # noqa: E402
                  kill_all, late_work, percentile, wait_until_idle)

HERE = os.path.dirname(os.path.abspath(__file__))
PROGRAMS = os.path.join(os.path.dirname(os.path.dirname(HERE)), "build", "release", "examples", "gateway")
GRACE_MS = 50  # a request this much past its deadline has outlived it; less is the noise of a shared machine
STOP_LIMIT_MS = 10
ORDINARY = dict(median_ms=5, spread_percent=50, slow_percent=0, fail_percent=0, heed_budget=1)


class Scale:
    def __init__(self, quick):
        self.slices, self.slice_s = (2, 2) if quick else (3, 4)
        self.deadline_clients = 200 if quick else 500
        self.hang_up_clients = 2000 if quick else 2500
        self.hang_ups_per_s = 400 if quick else 250
        self.failing_clients = 200 if quick else 500
        self.drain_ms = 2000 if quick else 5000
        self.long_clients, self.middling_clients = 30, 20
        self.middling_ms = 1500 if quick else 3000  # more than 1 s, less than the time to drain


class Side:
    """One of the two gateways and what was seen of it."""

    def __init__(self, name, gateway):
        self.name, self.gateway = name, gateway
        self.key = "on" if gateway.contexts else "off"  # in trace ids: <scene>-<key>-<number>
        self.clients = {}  # by trace id
        self.slices = []    # of wrk
        self.noise_ms = []  # how late this machine woke the clients themselves
        self.before = self.after = None
        self.exit_code, self.left, self.drain_s = None, {}, 0.0

    def send(self, clients, per_second, progress=None):
        self.clients.update((client.trace_id, client) for client in clients)
        crowd = Crowd(self.gateway.port, clients, per_second, progress)
        crowd.run()
        self.noise_ms += crowd.late_ms


# ---- showing it ------------------------------------------------------------------------------------------------------

class Screen:
    """One line per scene. On a terminal it is updated in place, elsewhere it grows by a dot for each tenth."""

    def __init__(self):
        self.live = sys.stdout.isatty()
        self.line, self.shown = "", -1

    def scene(self, text):
        print(f"\n{text}")

    def begin(self, text):
        self.line, self.shown = f"  {text:<14}", 0
        print(self.line, end="", flush=True)

    def progress(self, fraction):
        step = int(fraction * (100 if self.live else 10))
        if step <= self.shown:
            return
        if self.live:
            bar = "#" * (step // 5)
            print(f"\r{self.line}[{bar:<20}] {step:3d} %", end="", flush=True)
        else:
            print("." * (step - self.shown), end="", flush=True)
        self.shown = step

    def end(self, text=""):
        self.progress(1.0)
        print("  " + text, flush=True)

    @staticmethod
    def note(text):
        print(f"  {text}", flush=True)


def run_wrk(screen, port, seconds, connections=32, share=(0.0, 1.0)):
    """Requests/s, p50 and p99 in ms, requests, failures."""
    wrk = subprocess.Popen(["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", f"http://{LOOPBACK}:{port}/"],
                           stdout=subprocess.PIPE, text=True)
    begin = time.monotonic()
    while wrk.poll() is None and time.monotonic() < begin + seconds + 15:
        screen.progress(share[0] + (share[1] - share[0]) * min(1.0, (time.monotonic() - begin) / seconds))
        time.sleep(0.1)
    if wrk.poll() is None:
        wrk.kill()
        raise PlayError("wrk did not end")
    return parse_wrk(wrk.stdout.read())


def parse_wrk(text):
    def number(pattern, default=0.0):
        found = re.search(pattern, text)
        return float(found.group(1)) * {"us": 0.001, "ms": 1, "s": 1000, "m": 60000}.get(
            found.group(2) if found.lastindex > 1 else "", 1) if found else default
    failures = number(r"Non-2xx or 3xx responses: (\d+)")
    found = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
    failures += sum(int(n) for n in found.groups()) if found else 0
    if "Requests/sec" not in text:
        raise PlayError("wrk said:\n" + text)
    return dict(per_s=number(r"Requests/sec:\s+([\d.]+)"), p50=number(r"50%\s+([\d.]+)(us|ms|s|m)"),
                p99=number(r"99%\s+([\d.]+)(us|ms|s|m)"), requests=number(r"(\d+) requests in"), failures=failures)


def curl(port, *options, path="/"):
    """What a person sees: status and body."""
    done = subprocess.run(["curl", "-s", "--noproxy", "*", "-w", "\n%{http_code}", *options,
                           f"http://{LOOPBACK}:{port}{path}"], capture_output=True, text=True, timeout=60, check=False)
    body, _, status = done.stdout.rpartition("\n")
    return status, body.strip()


# ---- the scenes ------------------------------------------------------------------------------------------------------

class Tour:
    def __init__(self, scale, directory, screen):
        self.scale, self.directory, self.screen = scale, directory, screen
        self.random = random.Random(1)
        self.upstreams = [Upstream(PROGRAMS, name, directory, seed=number + 1) for number, name in enumerate(SERVICES)]
        options = ["--drain-ms", str(scale.drain_ms)]
        self.sides = [Side("contexts off", Gateway(PROGRAMS, self.upstreams, directory, contexts=False, options=options)),
                      Side("contexts on", Gateway(PROGRAMS, self.upstreams, directory, contexts=True, options=options))]

    @property
    def on(self):
        return self.sides[1]

    def set_upstreams(self, all_of_them=None, **by_name):
        for upstream in self.upstreams:
            upstream.control(**{**ORDINARY, **(all_of_them or {}), **by_name.get(upstream.name, {})})

    def settle(self, side):
        wait_until_idle(side.gateway, self.upstreams)

    def show_curl(self, what, *options):
        status, body = curl(self.on.gateway.port, *options)
        self.screen.note(f"curl, {what}: {status} {body}")

    def warm_up(self):
        """Pools and caches get their size: answers, and hang-ups as many at a time as later."""
        self.screen.scene("Warming up")
        for side in self.sides:
            self.screen.begin(side.name)
            self.set_upstreams(all_of_them=dict(median_ms=300))
            side.send([Client(f"warm-{side.key}-{n}", leave_ms=100) for n in range(300)], self.scale.hang_ups_per_s)
            self.set_upstreams()
            run_wrk(self.screen, side.gateway.port, 1, connections=64)
            self.settle(side)
            side.before = side.gateway.stats()
            self.screen.end()
        self.show_curl("an ordinary request")

    def ordinary_load(self):
        self.screen.scene(f"1/5 Ordinary load: wrk, 32 connections, {self.scale.slices} turns of {self.scale.slice_s} s each")
        self.set_upstreams()
        for turn in range(self.scale.slices):  # in turns, so that a noisy minute hits both
            for side in self.sides:
                self.screen.begin(side.name)
                side.slices.append(run_wrk(self.screen, side.gateway.port, self.scale.slice_s))
                self.settle(side)
                self.screen.end(f"turn {turn + 1}: {side.slices[-1]['per_s']:.0f} requests/s")

    def slow_upstream(self):
        count, timeout_ms = self.scale.deadline_clients, 150
        self.screen.scene(f"2/5 A slow upstream: orders takes 400 ms, {count} clients give {timeout_ms} ms")
        self.screen.note("(for the second half of them it also ignores the time it is told, as a service of others may)")
        headers = {"X-Request-Timeout-Ms": timeout_ms}
        for side in self.sides:
            self.screen.begin(side.name)
            for half, heed in enumerate((1, 0)):
                self.set_upstreams(orders=dict(median_ms=400, spread_percent=10, heed_budget=heed))
                side.send([Client(f"slow-{side.key}-{half}-{n}", headers=headers) for n in range(count // 2)], 150,
                          lambda done, half=half: self.screen.progress((half + done) / 2))
                self.settle(side)
            self.screen.end()
        self.show_curl(f"giving {timeout_ms} ms", "-H", f"x-request-timeout-ms: {timeout_ms}")

    def hang_ups(self):
        count = self.scale.hang_up_clients
        self.screen.scene(f"3/5 Hang-ups: {count} clients leave 5 to 200 ms after asking, before their answer")
        self.set_upstreams(all_of_them=dict(median_ms=300, spread_percent=20))
        moments = [(self.random.uniform(5, 200), self.random.random() < 0.3) for _ in range(count)]
        for side in self.sides:
            self.screen.begin(side.name)
            side.send([Client(f"hang-{side.key}-{n}", leave_ms=ms, reset=reset) for n, (ms, reset) in enumerate(moments)],
                      self.scale.hang_ups_per_s, self.screen.progress)
            self.settle(side)
            self.screen.end()

    def failing_upstream(self):
        count = self.scale.failing_clients
        self.screen.scene(f"4/5 A failing upstream: stock fails after 5 ms, the others take 200 ms, {count} clients")
        self.set_upstreams(all_of_them=dict(median_ms=200, spread_percent=20), stock=dict(fail_percent=100, fail_ms=5))
        for side in self.sides:
            self.screen.begin(side.name)
            side.send([Client(f"fail-{side.key}-{n}") for n in range(count)], 150, self.screen.progress)
            self.settle(side)
            self.screen.end()
        self.show_curl("stock is failing")

    def sigterm(self):
        scale = self.scale
        self.screen.scene(f"5/5 SIGTERM under load: wrk, {scale.middling_clients} clients whose answer takes "
                          f"{scale.middling_ms / 1000:g} s, {scale.long_clients} whose answer takes 15 s (all would wait 20 s); "
                          f"{scale.drain_ms / 1000:g} s to drain")
        self.set_upstreams()
        for side in self.sides:
            self.screen.begin(side.name)
            side.after = side.gateway.stats()
            wrk = subprocess.Popen(["wrk", "-t1", "-c16", "-d2s", f"http://{LOOPBACK}:{side.gateway.port}/"],
                                   stdout=subprocess.DEVNULL)
            time.sleep(1.2)
            headers = {"X-Request-Timeout-Ms": 20000}
            clients = [Client(f"{kind}-{side.key}-{n}", f"/?user=takes-{ms}", headers) for kind, count, ms in
                       (("middling", scale.middling_clients, scale.middling_ms), ("long", scale.long_clients, 15000))
                       for n in range(count)]
            side.clients.update((client.trace_id, client) for client in clients)
            term_at, told = time.monotonic() + 0.4, []

            def tick(done, side=side, term_at=term_at, told=told):
                if not told and time.monotonic() > term_at:
                    told.append(time.monotonic())
                    side.gateway.signal(signal.SIGTERM)
                self.screen.progress(done)

            Crowd(side.gateway.port, clients, 1000, tick=tick).run(timeout=60)
            if not told:
                raise PlayError("all clients were answered before SIGTERM was sent: the upstreams are too fast")
            side.exit_code, last = side.gateway.wait(timeout=60)
            side.drain_s = time.monotonic() - told[0]
            side.left = json.loads(last)["left"] if last.startswith("{") else {}
            wrk.wait()
            self.screen.end(f"gone {side.drain_s:.1f} s after SIGTERM, exit code {side.exit_code}")

    def play(self):
        for scene in (self.warm_up, self.ordinary_load, self.slow_upstream, self.hang_ups, self.failing_upstream,
                      self.sigterm):
            scene()


# ---- what was seen ---------------------------------------------------------------------------------------------------

def median(values):
    return percentile(values, 50)


class Findings:
    """Figures of one side, all from logs and clients after the scenes."""

    def __init__(self, tour, side, calls):
        access = side.gateway.access()
        scenes = {}
        for record in access:
            scenes.setdefault(record["trace_id"].partition("-")[0], []).append(record)
        self.side, self.clients = side, side.clients
        self.per_s, self.p50, self.p99 = (median([s[key] for s in side.slices]) for key in ("per_s", "p50", "p99"))
        self.requests = int(sum(s["requests"] for s in side.slices))
        self.failures = int(sum(s["failures"] for s in side.slices))
        self.work = {scene: late_work(calls, scenes.get(scene, []), side.clients) for scene in ("slow", "hang", "fail")}
        self.late = sum(late for _, late in self.work.values())
        self.total = sum(total for total, _ in self.work.values())
        self.look_at_deadlines(scenes.get("slow", []))
        self.look_at_hang_ups(scenes.get("hang", []))
        self.look_at_failures(tour)
        self.look_at_drain(access, scenes.get("long", []))
        self.heap_kb = (side.after["heap_bytes"] - side.before["heap_bytes"]) / 1024
        self.rss_kb = side.after["rss_kb"] - side.before["rss_kb"]
        self.fds_grown = side.after["fds"] - side.before["fds"]
        self.contexts_idle = side.after["rctx"]["contexts"]

    def look_at_deadlines(self, records):
        self.overruns = [(r["over_us"] - r["arrived_us"]) / 1000 - r["budget_ms"] for r in records]
        self.outlived = sum(ms > GRACE_MS for ms in self.overruns)
        self.overrun_p99 = max(0.0, percentile(self.overruns, 99))
        self.overrun_max = max([0.0] + self.overruns)
        self.deadline_requests = len(records)

    def look_at_hang_ups(self, records):
        left = [r for r in records if self.clients[r["trace_id"]].left_us]
        self.hang_ups = len(left)
        self.noticed = sum("hung_up_us" in r for r in left)
        self.stop_ms = [(r["over_us"] - self.clients[r["trace_id"]].left_us) / 1000 for r in left]
        self.notice_to_stop_ms = [(r["over_us"] - r["hung_up_us"]) / 1000 for r in left if "hung_up_us" in r]
        self.over_limit = sum(ms > STOP_LIMIT_MS for ms in self.stop_ms)

    def look_at_failures(self, tour):
        failing = [c for c in self.clients.values() if c.trace_id.startswith("fail-")]
        self.failing = len(failing)
        self.named = sum(c.status == 502 and "upstream stock" in c.body() for c in failing)
        self.failing_p50 = median([c.ms() for c in failing])

    def look_at_drain(self, access, records):
        long, middling = ([c for c in self.clients.values() if c.trace_id.startswith(kind)] for kind in ("long", "middling"))
        self.middling, self.middling_ok = len(middling), sum(c.status == 200 for c in middling)
        self.long, self.long_status = len(long), "/".join(map(str, sorted({c.status for c in long})))
        self.long_told = sum(c.status == 503 and '"why":"shutdown"' in c.body() for c in long)
        self.long_s = median([c.ms() for c in long]) / 1000
        self.cut = sum(r.get("origin") == "shutdown" for r in access)
        self.cut_well = sum((r.get("origin"), r.get("why"), r.get("who")) == ("shutdown", "shutdown", "server")
                            for r in records)


def table(off, on):
    def ms(value):
        return f"{value:.1f} ms" if value < 100 else f"{value:.0f} ms"

    def work(f, late, total):
        return f"{late / 1000:,.0f} ms ({100 * late / total if total else 0:.1f} %)"

    def left(f):
        return ", ".join(f"{f.side.left.get(key, '?')} {key}"
                         for key in (("contexts", "timers", "fds") if f.side.gateway.contexts else ("fds",)))

    return [
        ("Ordinary load", None),
        ("  requests/s (median turn)", lambda f: f"{f.per_s:,.0f}"),
        ("  time to answer p50 / p99", lambda f: f"{ms(f.p50)} / {ms(f.p99)}"),
        ("Upstream work done after nobody waited for it", lambda f: work(f, f.late, f.total)),
        ("  slow upstream, clients with a deadline", lambda f: work(f, *reversed(f.work["slow"]))),
        ("  clients that hung up", lambda f: work(f, *reversed(f.work["hang"]))),
        ("  failing upstream", lambda f: work(f, *reversed(f.work["fail"]))),
        ("Requests that outlived their deadline", lambda f: f"{f.outlived} of {f.deadline_requests}"),
        ("  by how much p99 / longest", lambda f: f"{ms(f.overrun_p99)} / {ms(f.overrun_max)}"),
        ("Hang-ups noticed while the request ran", lambda f: f"{f.noticed} of {f.hang_ups}"),
        ("  client gone -> all stopped p50 / p99", lambda f: f"{ms(median(f.stop_ms))} / {ms(percentile(f.stop_ms, 99))}"),
        ("  noticed -> all stopped p50 / p99", lambda f: f"{ms(median(f.notice_to_stop_ms))} / "
         f"{ms(percentile(f.notice_to_stop_ms, 99))}" if f.notice_to_stop_ms else "never noticed"),
        ("Failing upstream: answered 502 after (p50)", lambda f: ms(f.failing_p50)),
        ("SIGTERM: gone after, exit code", lambda f: f"{f.side.drain_s:.1f} s, {f.side.exit_code}"),
        ("  running, needed less than the drain time", lambda f: f"{f.middling_ok} of {f.middling} answered well"),
        ("  running, needed more", lambda f: f"cut after {f.long_s:.1f} s, {f.long_status}"
         + (', "shutdown"' if f.long_told else "")),
        ("Left over at the end", left),
        ("  memory: more in use than before the scenes", lambda f: f"{max(0, f.heap_kb):,.0f} KiB (heap {f.heap_kb:+,.0f}, "
         f"RSS {f.rss_kb:+,})"),
    ]


def print_table(off, on):
    rows = table(off, on)
    widths = 46, 37
    line = "-" * (widths[0] + 2 * widths[1])
    print(f"\n{line}\n{'':<{widths[0]}}{'contexts on':>{widths[1]}}{'contexts off':>{widths[1]}}\n{line}")
    for text, value in rows:
        print(f"{text:<{widths[0]}}" + ("" if value is None else f"{value(on):>{widths[1]}}{value(off):>{widths[1]}}"))
    print(f"{line}\nWork upstream stops between steps of 2 ms, so a call that is cancelled still costs up to that much.\n")


def promises(scale, off, on):
    """(kept, text) for each promise of the gateway with contexts."""
    heap_limit_kb = 1024  # tens of thousands of requests came and went between the two looks: 50 bytes each would show
    left_now = {key: value for key, value in on.side.left.items() if value}
    noise_ms = percentile(on.side.noise_ms, 99)  # a machine that is late for everybody is late for the gateway, too
    stop_limit_ms = STOP_LIMIT_MS + noise_ms
    yield on.failures * 1000 <= on.requests, \
        f"ordinary load: {on.requests:,} requests were answered, {on.failures} of them not well (limit 0.1 %)"
    yield on.outlived * 100 <= on.deadline_requests, \
        (f"no request outlives its deadline: {on.outlived} of {on.deadline_requests} ended more than {GRACE_MS} ms late "
         f"(limit 1 %), longest {on.overrun_max:.1f} ms")
    yield on.noticed == on.hang_ups >= 0.95 * scale.hang_up_clients, \
        f"every hang-up is noticed: {on.noticed} of {on.hang_ups} that arrived ({scale.hang_up_clients} clients)"
    yield percentile(on.notice_to_stop_ms, 99) <= stop_limit_ms, \
        (f"noticed hang-up -> all stopped: p99 {percentile(on.notice_to_stop_ms, 99):.2f} ms, longest "
         f"{max(on.notice_to_stop_ms, default=0):.1f} ms (limit {STOP_LIMIT_MS} ms, and {noise_ms:.1f} ms by which this machine "
         "was late itself)")
    yield percentile(on.stop_ms, 95) <= stop_limit_ms, \
        (f"client gone -> all stopped: p95 {percentile(on.stop_ms, 95):.2f} ms (same limit); {on.over_limit} of {on.hang_ups} "
         f"took more than {STOP_LIMIT_MS} ms")
    yield on.named == on.failing, f"a failing upstream is named: {on.named} of {on.failing} answers were 502 naming stock"
    yield on.late <= off.late / 10, (f"work for nobody: {on.late / 1000:,.0f} ms, at most a tenth of the "
                                     f"{off.late / 1000:,.0f} ms without contexts")
    yield on.side.exit_code == 0 and on.side.drain_s <= scale.drain_ms / 1000 + 2, \
        f"SIGTERM: gone after {on.side.drain_s:.1f} s (limit {scale.drain_ms / 1000:g} s and 2 s), exit code {on.side.exit_code}"
    yield on.middling_ok == on.middling, \
        f"SIGTERM: {on.middling_ok} of the {on.middling} requests that needed less than the drain time were answered well"
    yield on.cut == on.cut_well == on.long_told == on.long, \
        f"SIGTERM: the {on.long} still running then, and no others ({on.cut}), were cancelled and answered: \"shutdown\""
    yield bool(on.side.left) and not left_now, f"nothing is left at the end: {left_now or 'contexts 0, timers 0, fds 0'}"
    yield on.contexts_idle == 1, f"idle after the scenes, one context is alive, the server's: {on.contexts_idle}"
    yield on.heap_kb <= heap_limit_kb, f"memory in use grew by {max(0, on.heap_kb):,.0f} KiB (limit {heap_limit_kb})"


def judge(tour):
    calls = [call for upstream in tour.upstreams for call in upstream.calls()]
    off, on = (Findings(tour, side, calls) for side in tour.sides)
    print_table(off, on)
    kept = True
    print("The promises of the gateway with contexts:")
    for fine, text in promises(tour.scale, off, on):
        print(f"  {'kept  ' if fine else 'BROKEN'}  {text}")
        kept = kept and fine
    return kept


# ---- main ------------------------------------------------------------------------------------------------------------

def serve(port, directory):
    """Leave it to a person. The access log goes to the terminal."""
    upstreams = [Upstream(PROGRAMS, name, directory, seed=number + 1, median_ms=40, slow_percent=5, slow_ms=800)
                 for number, name in enumerate(SERVICES)]
    try:
        gateway = Gateway(PROGRAMS, upstreams, directory, port=port, log=False, quiet=False)
    except PlayError as error:
        print(f"{error}", file=sys.stderr)
        return 3
    url = f"http://{LOOPBACK}:{gateway.port}"
    stock = f"http://{LOOPBACK}:{upstreams[2].port}"
    print(f"""
The gateway listens on {url}, its upstreams profile, orders and stock on ports {', '.join(str(u.port) for u in upstreams)}.
The access log comes below. Try in another terminal:

  curl {url}/                                        the merged answer
  curl -H 'x-request-timeout-ms: 20' {url}/          too short: 504, and why
  curl --max-time 0.02 {url}/                        hang up: see who and why in the log
  curl '{stock}/control?fail_percent=50'             make stock fail now and then: 502
  curl '{stock}/control?fail_percent=0&median_ms=300'    make it slow instead
  curl -H 'x-request-timeout-ms: soon' {url}/        absurd: 400, and the service goes on
  curl {url}/stats                                   counters, contexts, memory
  curl '{url}/debug/contexts?format=text'               the live tree; json, dot (for Graphviz)
  kill -TERM {gateway.process.pid}                                  drain and end

Ctrl-C ends it all.
""", flush=True)
    signal.signal(signal.SIGINT, lambda *_: gateway.signal(signal.SIGTERM))
    signal.signal(signal.SIGTERM, lambda *_: gateway.signal(signal.SIGTERM))
    code, last = gateway.wait(timeout=None)
    print(last, end="")
    return code


def read_arguments():
    parser = argparse.ArgumentParser(prog="./dev gateway", allow_abbrev=False,
                                     description="Play a tour of the example gateway, with and without request contexts.")
    parser.add_argument("--quick", action="store_true", help="shorter scenes")
    parser.add_argument("--serve", action="store_true", help="no tour: start everything and leave it up for curl")
    parser.add_argument("--port", type=int, help="with --serve: where the gateway listens (8080)")
    arguments = parser.parse_args()
    if arguments.port is not None and not arguments.serve:
        parser.error("--port goes with --serve; the tour takes free ports")
    if arguments.port is not None and not 0 <= arguments.port <= 65535:
        parser.error(f"--port {arguments.port}: expected 0 to 65535")
    if arguments.quick and arguments.serve:
        parser.error("--quick and --serve do not go together")
    return arguments


def missing():
    for name in ("gateway", "gateway_off", "upstream"):
        if not os.access(os.path.join(PROGRAMS, name), os.X_OK):
            return f"{name} is not built: run ./dev gateway, which builds it, or build the preset release"
    for name in ("curl", "wrk"):
        if not shutil.which(name):
            return f"{name} is not installed: run ./dev gateway, which installs it"
    return None


def main():
    arguments = read_arguments()
    if missing():
        print(missing(), file=sys.stderr)
        return 1
    end_cleanly_on_signals()
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="rctx-gateway-") as directory:
        try:
            if arguments.serve:
                return serve(8080 if arguments.port is None else arguments.port, directory)
            tour = Tour(Scale(arguments.quick), directory, Screen())
            tour.play()
            kept = judge(tour)
            print(f"\n{'Every promise was kept' if kept else 'A PROMISE WAS BROKEN'} ({time.monotonic() - begin:.0f} s).")
            return 0 if kept else 1
        except (PlayError, OSError) as error:
            print(f"\nThe tour could not go on: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("\nInterrupted.", file=sys.stderr)
            return 130
        finally:
            kill_all()


if __name__ == "__main__":
    sys.exit(main())
