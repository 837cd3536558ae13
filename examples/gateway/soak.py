#!/usr/bin/env python3
"""A soak of the example gateway: random traffic and random faults for as long as you like, and a table at the end.

    ./dev soak --minutes N [--seed S] [--asan]      exit code 1: something was left, hung, crashed, wrong, or memory grew

Three upstream services and two gateways run as processes on loopback: `steady` lives from the beginning to the end, `restarted`
gets SIGTERM under load again and again and is started anew. Clients come and go, stay connected, hang up in the middle of a request,
send absurd headers. Upstreams are slow, fail, stand still (SIGSTOP) and die (SIGKILL). The gateways stand still, too, which is a jump
of the clock that counts for them; their CLOCK_REALTIME is stepped; their limit of descriptors is lowered to what they have. Now and
then all that pauses: then nothing may be left. soak_judge.py says what is right.
"""
import argparse
import collections
import faulthandler
import html
import http.client
import json
import os
import random
import resource
import signal
import socket
import struct
import sys
import tempfile
import threading
import time

sys.dont_write_bytecode = True
import soak_judge as judge  # noqa: E402
from play import (LOOPBACK, SERVICES, Client, Crowd, Gateway, PlayError, Upstream, end_cleanly_on_signals, get,  # noqa: E402
                  kill_all, late_work, now_us, percentile, wait_until, wait_until_idle)

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
ORDINARY = dict(median_ms=6, spread_percent=50, slow_percent=2, slow_ms=250, fail_percent=0, fail_ms=5, heed_budget=1)
HANG_S, STALL_S = 40, 120        # an answer that does not come, this program itself
BATCH_S, SEASON_S = 0.25, 60     # clients are started in batches; all is quiet after each season
RATES = {"steady": 80, "restarted": 40}  # clients per second
STAYING = {"steady": 4, "restarted": 2}  # connections that are kept
WARM_UP_CLIENTS = 400
YEARS_NS = 10 * 365 * 86400 * 10**9


# ---- programs --------------------------------------------------------------------------------------------------------

def free_port(rng):
    """One below those that the kernel gives to clients: nobody takes it while its server is away."""
    while True:
        port = rng.randrange(15000, 30000)
        with socket.socket() as sock:
            try:
                sock.bind((LOOPBACK, port))
                return port
            except OSError:
                continue


class Watched(Gateway):
    """A gateway whose CLOCK_REALTIME can be stepped, and which is looked at from outside."""

    def __init__(self, programs, upstreams, directory, asan, **arguments):
        self.clock_path, self.programs, self.asan = os.path.join(directory, "clock"), programs, asan
        self.step_clock(0)
        super().__init__(programs, upstreams, directory, **arguments)
        self.pid = self.process.pid
        self.limit = resource.prlimit(self.pid, resource.RLIMIT_NOFILE)[1]
        self.standing = False
        self.connection = None

    def command(self, arguments):
        sanitizer = ["ASAN_OPTIONS=verify_asan_link_order=0:quarantine_size_mb=16"] if self.asan else []
        preload = os.path.join(self.programs, "step_clock.so")
        return ["env", f"LD_PRELOAD={preload}", f"RCTX_CLOCK_FILE={self.clock_path}", *sanitizer, *arguments]

    def step_clock(self, ns):
        with open(self.clock_path, "r+b" if os.path.exists(self.clock_path) else "w+b") as file:
            file.write(struct.pack("q", ns))

    def stats(self):
        """By a connection that is kept: it works also when no descriptor is left."""
        for last_try in (False, True):
            try:
                if self.connection is None:
                    self.connection = http.client.HTTPConnection(LOOPBACK, self.port, timeout=HANG_S)
                self.connection.request("GET", "/stats")
                return json.loads(self.connection.getresponse().read())
            except (OSError, http.client.HTTPException):
                self.forget_connection()
                if last_try:
                    raise
        return None

    def forget_connection(self):
        if self.connection:
            self.connection.close()
        self.connection = None

    def threads(self):
        with open(f"/proc/{self.pid}/status", encoding="ascii") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("Threads:"))

    def descriptors(self):
        """(number of each) as the process has them."""
        links = {}
        for name in os.listdir(f"/proc/{self.pid}/fd"):
            try:
                links[name] = os.readlink(f"/proc/{self.pid}/fd/{name}")
            except OSError:
                pass  # closed meanwhile
        return links

    def own_fds(self, upstream_ports):
        """Descriptors, without libcurl's kept connections to upstreams, which are a cache of a size of its own."""
        kept = set()
        with open(f"/proc/{self.pid}/net/tcp", encoding="ascii") as file:
            for line in list(file)[1:]:
                fields = line.split()
                if int(fields[2].rsplit(":", 1)[1], 16) in upstream_ports:
                    kept.add(f"socket:[{fields[9]}]")
        return sum(link not in kept for link in self.descriptors().values())

    def starve(self):
        resource.prlimit(self.pid, resource.RLIMIT_NOFILE, (len(self.descriptors()), self.limit))

    def feed(self):
        resource.prlimit(self.pid, resource.RLIMIT_NOFILE, (self.limit, self.limit))


# ---- traffic ---------------------------------------------------------------------------------------------------------

HOSTILE = [  # headers, what they may be answered with, and whether the answer is about another trace id, or not the gateway's
    *(({"x-request-timeout-ms": text}, dict(statuses=(400,))) for text in
      ("-5", "soon", "0x10", "1e3", "5;5", "\xb2\xb3", "9" * 400 + "x", "1 2", "+7", "5.0")),
    ({"x-request-timeout-ms": "9" * 4000}, dict(timeout_ms=60000)),
    ({"x-request-timeout-ms": "18446744073709551617"}, dict(timeout_ms=60000)),
    ({"x-request-timeout-ms": "0"}, dict(statuses=(200,), timeout_ms=1)),
    *(({"traceparent": text}, {}) for text in
      ("00-" + "0" * 32 + "-00f067aa0ba902b7-01", "ff-" + "a" * 32 + "-00f067aa0ba902b7-01", "00-" + "-" * 7000, "-" * 55,
       "00-" + "G" * 32 + "-00f067aa0ba902b7-01", "\xff" * 55)),
    ({"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}, dict(any_trace=True)),
    *(({"baggage": text}, {}) for text in
      ("k=v," * 3000, "=" * 5000, "a=%ZZ%00%,,;;;=,\xff", "k=" + "v" * 9000, ",".join(f"k{i}=1;p;q=2" for i in range(700)))),
    ({"x-trace-id": "x" * 5000, "tracestate": "a=b," * 2000}, dict(any_trace=False)),
    ({"x-filler": "f" * 20000}, dict(statuses=(0, 400, 413, 431), any_body=True)),
]
JUNK = (b"GET / HTTP/9.9\r\n\r\n", b"\x00\xff\xfe\r\n\r\n", b"GET " + b"/" * 9000 + b" HTTP/1.1\r\n\r\n", b"PUT / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", b"GET http://[::1/ HTTP/1.1\r\n\r\n", b"\r\n\r\n\r\n\r\n")


class Draw:
    """Draws clients. All of the traffic comes from one seed."""

    def __init__(self, seed):
        self.rng, self.number = random.Random(seed), 0

    def client(self, gateway):
        self.number += 1
        rng, trace_id, chance = self.rng, f"{gateway}-{self.number}", self.rng.random()
        if chance < 0.42:
            return Client(trace_id), judge.Ask()
        if chance < 0.60:
            timeout_ms = rng.randrange(1, 400)
            return Client(trace_id, headers={"X-Request-Timeout-Ms": timeout_ms}), judge.Ask(timeout_ms=timeout_ms)
        if chance < 0.66:
            takes = rng.randrange(50, 700)
            return (Client(trace_id, f"/?user=takes-{takes}", {"X-Request-Timeout-Ms": 300}),
                    judge.Ask(timeout_ms=300))
        if chance < 0.84:
            leave_ms, reset = rng.uniform(1, 150), rng.random() < 0.4
            return Client(trace_id, leave_ms=leave_ms, reset=reset), judge.Ask()
        if chance < 0.89:  # hangs up in the middle of sending it
            client = Client(trace_id, leave_ms=rng.uniform(0, 60), reset=rng.random() < 0.5)
            client.request = client.request[:rng.randrange(1, len(client.request) - 3)]
            return client, judge.Ask()
        if chance < 0.92:
            client = Client(trace_id, leave_ms=300)
            client.request = rng.choice(JUNK)
            return client, judge.Ask(statuses=(0, 400, 404, 405, 413, 414, 501, 505), any_body=True)
        headers, ask = rng.choice(HOSTILE)
        return self.hostile(trace_id, headers), judge.Ask(**ask)

    @staticmethod
    def hostile(trace_id, headers):
        client = Client(trace_id, headers={})
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode("latin-1")
        client.request = client.request[:-2] + lines + b"\r\n"
        return client


Seen = collections.namedtuple("Seen", "left_us timeout_ms")  # what late_work() wants to know of a client


class Tally:
    """What came of the requests. Filled by many threads."""

    def __init__(self, windows):
        self.windows, self.lock = windows, threading.Lock()
        self.asked = 0
        self.statuses, self.wrong, self.seen = collections.Counter(), [], {}

    def add(self, gateway, client, ask):
        fault = judge.answer_fault(client, ask, gateway, self.windows, SERVICES, now_us())
        with self.lock:
            self.asked += 1
            self.statuses["left" if client.left_us else client.status or "none"] += 1
            self.seen[client.trace_id] = Seen(client.left_us, client.timeout_ms)
            if fault:
                self.wrong.append(f"{gateway}, {client.trace_id} {client.request[:70]!r}: {fault}")

    def hang(self, text):
        with self.lock:
            self.wrong.append("hang: " + text)


class Batch(threading.Thread):
    """Some clients, started over a quarter of a second, until the last has its answer or has left."""

    def __init__(self, tally, gateway, port, drawn, per_second):
        super().__init__(daemon=True)
        self.tally, self.gateway, self.drawn, self.port, self.per_second = tally, gateway, drawn, port, per_second

    def run(self):
        try:
            Crowd(self.port, [client for client, _ in self.drawn], self.per_second).run(timeout=HANG_S)
        except PlayError as error:
            self.tally.hang(str(error))
            return
        for client, ask in self.drawn:
            self.tally.add(self.gateway, client, ask)


class Staying(threading.Thread):
    """A client that keeps its connection as long as the gateway does."""

    def __init__(self, soak, gateway, number):
        super().__init__(daemon=True)
        self.soak, self.gateway, self.name_, self.count = soak, gateway, f"stay{number}-{gateway}", 0
        self.connection, self.idle = None, threading.Event()

    def run(self):
        while not self.soak.over:
            if self.soak.quiet:
                self.close()
                self.idle.set()
                time.sleep(0.02)
                continue
            self.idle.clear()
            self.ask()
            time.sleep(0.01)
        self.close()

    def close(self):
        if self.connection:
            self.connection.close()
        self.connection = None

    def ask(self):
        self.count += 1
        client = Client(f"{self.name_}-{self.count}")
        client.sent_us = now_us()
        try:
            if self.connection is None:
                self.connection = http.client.HTTPConnection(LOOPBACK, self.soak.ports[self.gateway], timeout=HANG_S)
            self.connection.request("GET", "/", headers={"X-Trace-Id": client.trace_id})
            response = self.connection.getresponse()
            client.received = b"\r\n\r\n" + response.read()
            client.status, client.answered_us = response.status, now_us()
        except (OSError, http.client.HTTPException) as error:
            client.error = repr(error)
            self.close()
        if client.status != 200:  # fast failures are not most of the traffic
            time.sleep(0.1)
        self.soak.tally.add(self.gateway, client, judge.Ask())


# ---- faults ----------------------------------------------------------------------------------------------------------

class Lane(threading.Thread):
    """One fault after the other. Processes die with the thread that started them, so it stays until the very end."""

    def __init__(self, soak, seed, faults):
        super().__init__(daemon=True)
        self.soak, self.rng, self.faults = soak, random.Random(seed), faults
        self.idle, self.now, self.error = threading.Event(), "", None

    def run(self):
        while not self.soak.over:
            if self.soak.quiet or self.error:
                self.idle.set()
                time.sleep(0.02)
                continue
            self.idle.clear()
            self.strike()
            self.now = ""
            time.sleep(self.rng.uniform(0.1, 0.8))
        self.idle.set()
        self.soak.closed.wait()

    def strike(self):
        kind = self.rng.choice(self.faults)
        whom = self.rng.choice(list(self.soak.gateways)) if kind in GATEWAY_FAULTS else None
        if kind == "restart":
            whom = "restarted"
        self.now = kind
        window = self.soak.windows.begin(kind, whom, now_us())
        try:
            STRIKES[kind](self.soak, self.rng, whom)
        except (PlayError, OSError, http.client.HTTPException) as error:
            self.error = f"{kind} {whom or ''}: {error!r}"
        self.soak.windows.end(window, now_us())


def pause(rng, least=0.2, most=1.2):
    time.sleep(rng.uniform(least, most))


def slow(soak, rng, _):
    upstream = rng.choice(soak.upstreams)
    upstream.control(**{**ORDINARY, "median_ms": rng.randrange(50, 900), "heed_budget": int(rng.random() < 0.7)})
    pause(rng, 0.3, 2)
    upstream.control(**ORDINARY)


def failing(soak, rng, _):
    upstream = rng.choice(soak.upstreams)
    upstream.control(**{**ORDINARY, "fail_percent": rng.randrange(20, 101)})
    pause(rng)
    upstream.control(**ORDINARY)


def kill_upstream(soak, rng, _):
    number = rng.randrange(len(soak.upstreams))
    upstream = soak.upstreams[number]
    upstream.stats()  # writes its log out, which a SIGKILL would not
    upstream.kill()
    pause(rng, 0.05, 0.8)
    soak.upstreams[number] = soak.start_upstream(upstream.name, upstream.port)


def stop_upstream(soak, rng, _):
    stand_still(rng.choice(soak.upstreams), rng)


def stop_gateway(soak, rng, whom):
    gateway = soak.gateways[whom]
    gateway.standing = True
    stand_still(gateway, rng)
    gateway.standing = False


def stand_still(program, rng):
    program.signal(signal.SIGSTOP)
    pause(rng, 0.05, 1.0)
    program.signal(signal.SIGCONT)


def step_clock(soak, rng, whom):
    for _ in range(rng.randrange(1, 5)):
        soak.gateways[whom].step_clock(rng.choice((0, rng.randrange(-10**9, 10**9), rng.randrange(-YEARS_NS, YEARS_NS))))
        pause(rng, 0.05, 0.4)


def out_of_fds(soak, rng, whom):
    gateway = soak.gateways[whom]
    gateway.starve()
    pause(rng, 0.3, 1.5)
    gateway.feed()


def restart(soak, rng, whom):
    gateway = soak.gateways[whom]
    pause(rng, 0.0, 0.3)
    gateway.signal(signal.SIGTERM)
    soak.take_leave(whom, gateway)
    soak.gateways[whom] = soak.start_gateway(whom)


STRIKES = {"slow upstream": slow, "failing": failing, "kill upstream": kill_upstream, "stop upstream": stop_upstream,
           "stop gateway": stop_gateway, "step CLOCK_REALTIME": step_clock, "out of fds": out_of_fds, "restart": restart}
GATEWAY_FAULTS = {"stop gateway", "step CLOCK_REALTIME", "out of fds", "restart"}
LANES = (("slow upstream", "failing", "kill upstream", "stop upstream"), tuple(sorted(GATEWAY_FAULTS)))


# ---- the soak --------------------------------------------------------------------------------------------------------

class Soak:
    def __init__(self, arguments, directory):
        self.arguments, self.directory = arguments, directory
        self.rng = random.Random(arguments.seed)
        self.windows = judge.Windows()
        self.tally = Tally(self.windows)
        self.draw = Draw(arguments.seed + 1)
        self.quiet, self.over, self.closed = True, False, threading.Event()
        self.faults = []            # what went wrong, but for wrong answers
        self.left = collections.Counter()
        self.totals = collections.Counter()  # of gateways that have ended
        self.lulls, self.samples, self.batches = [], [], []
        self.ports = {name: free_port(self.rng) for name in (*RATES, *SERVICES)}
        self.upstreams = [self.start_upstream(name, self.ports[name]) for name in SERVICES]
        self.gateways = {name: self.start_gateway(name) for name in RATES}
        self.began = time.monotonic()

    # Each gateway has a directory of its own; one that is restarted goes on with its logs.
    def start_gateway(self, name):
        directory = os.path.join(self.directory, name)
        os.makedirs(directory, exist_ok=True)
        drain_ms = 800 if name == "restarted" else 5000
        return Watched(self.arguments.programs, self.upstreams, directory, self.arguments.asan, port=self.ports[name],
                       options=["--drain-ms", drain_ms])

    def start_upstream(self, name, port):
        return Upstream(self.arguments.programs, name, self.directory, port=port, seed=self.rng.randrange(1 << 30), **ORDINARY)

    def fault(self, text):
        self.faults.append(text)

    def take_leave(self, name, gateway):
        """A gateway was sent SIGTERM. It has to go with nothing left."""
        gateway.forget_connection()
        code, last = gateway.wait(timeout=HANG_S)
        try:
            left = json.loads(last.strip().splitlines()[-1])["left"]
        except (ValueError, IndexError, KeyError):
            left = {}
            self.fault(f"{name} ended without its last line: exit code {code}, {last[-200:]!r}")
        self.left.update({"at exit: " + key: value for key, value in left.items()})
        if code != 0:
            self.fault(f"{name} ended with exit code {code}: {left} {gateway.messages()[-600:]}")

    def crashed(self):
        away = {lane.now for lane in self.lanes}
        expected = [self.gateways["steady"], *([] if "restart" in away else [self.gateways["restarted"]]),
                    *([] if "kill upstream" in away else self.upstreams)]
        for program in expected:
            code = program.process.poll()
            if code is not None:
                said = program.messages()[-2000:] if isinstance(program, Gateway) else ""
                return f"{program.log_path} is gone, exit code {code} {said}"
        return next((lane.error for lane in self.lanes if lane.error), None)

    # ---- seasons

    def play(self):
        self.lanes = [Lane(self, self.arguments.seed + 10 + n, faults) for n, faults in enumerate(LANES)]
        self.staying = [Staying(self, name, n) for name, count in STAYING.items() for n in range(count)]
        for thread in (*self.lanes, *self.staying):
            thread.start()
        self.baseline = self.idle_look()
        self.warm_up()
        seconds = self.arguments.seconds
        season = min(SEASON_S, seconds / 3)
        self.season(min(season, seconds / 4))
        self.lull()
        while not self.faults:
            rest = seconds - (time.monotonic() - self.began)
            if rest < season / 10:
                break
            self.season(rest / max(1, round(rest / season)))
            self.lull()
        self.finish()

    def warm_up(self):
        """Pools and caches get their size: as many at a time as will ever be."""
        for upstream in self.upstreams:
            upstream.control(**{**ORDINARY, "median_ms": 300})
        for name in self.gateways:
            drawn = [(Client(f"warm-{name}-{n}"), judge.Ask()) for n in range(WARM_UP_CLIENTS)]
            self.batch(name, drawn, 2000)
        self.settle()
        for upstream in self.upstreams:
            upstream.control(**ORDINARY)

    def batch(self, name, drawn, per_second):
        self.batches.append(Batch(self.tally, name, self.ports[name], drawn, per_second))
        self.batches[-1].start()

    def season(self, seconds):
        end, next_batch, next_look = time.monotonic() + seconds, time.monotonic(), time.monotonic()
        self.quiet = False
        while time.monotonic() < end:
            if time.monotonic() >= next_batch:
                next_batch += BATCH_S
                for name, rate in RATES.items():
                    self.batch(name, [self.draw.client(name) for _ in range(int(rate * BATCH_S))], rate)
            if time.monotonic() >= next_look:
                next_look = time.monotonic() + 1
                self.look()
            problem = self.crashed()
            if problem:
                self.fault(problem)
                break
            time.sleep(0.02)
        self.quiet = True

    def look(self):
        faulthandler.dump_traceback_later(STALL_S, exit=True)  # the watchdog: this program itself stands still
        self.batches = [batch for batch in self.batches if batch.is_alive()]
        steady = self.gateways["steady"]
        if steady.standing:
            return
        try:
            stats = steady.stats()
        except (OSError, http.client.HTTPException) as error:
            self.fault(f"steady does not answer: {error!r}")
            return
        at = time.monotonic() - self.began
        self.samples.append(dict(at=at, heap=stats["heap_bytes"], rctx=stats["rctx"]["bytes"], resident=stats["rss_kb"] * 1024,
                                 contexts=stats["rctx"]["contexts"], fds=stats["fds"], threads=steady.threads()))
        self.show(at, stats)

    def show(self, at, stats):
        statuses = " ".join(f"{status}:{count}" for status, count in sorted(self.tally.statuses.items(), key=str))
        now = ", ".join(lane.now for lane in self.lanes if lane.now) or "no fault"
        line = (f"{at:4.0f}/{self.arguments.seconds:.0f} s {self.tally.asked} asked {statuses} | {stats['in_flight']} run, "
                f"{stats['rctx']['contexts']} contexts, {stats['fds']} fds, {stats['rss_kb'] / 1024:.1f} MiB | "
                f"{len(self.tally.wrong)} wrong | {now}")
        if sys.stdout.isatty():
            print(f"\r{line[:170]:<170}", end="", flush=True)
        elif self.arguments.seconds <= 60 or int(at) % 10 == 0:
            print(line, flush=True)

    # ---- in between

    def settle(self):
        """Nobody asks and nothing is broken."""
        for thread in (*self.lanes, *self.staying):
            if not thread.idle.wait(2 * HANG_S):
                raise PlayError(f"a {type(thread).__name__} does not come to rest")
        for batch in self.batches:
            batch.join(2 * HANG_S)
        self.batches.clear()
        problem = self.crashed()
        if problem or self.faults:
            self.faults += [problem] if problem and not self.faults else []
            return
        for gateway in self.gateways.values():
            wait_until_idle(gateway, self.upstreams)

    def idle_look(self):
        """The steady gateway, idle, as it says itself and as the kernel says."""
        gateway, ports = self.gateways["steady"], {self.ports[name] for name in SERVICES}
        metrics = dict(line.split() for line in get(gateway.port, "/metrics").body.splitlines() if line[:1] != "#")
        shown = len(get(gateway.port, "/debug/contexts?format=json").json()["contexts"])
        stats = gateway.stats()
        return dict(contexts=int(metrics["rctx_contexts"]), timers=int(metrics["rctx_timers"]),
                    callbacks=int(metrics["rctx_callbacks"]), shown=shown, fds=gateway.own_fds(ports), threads=gateway.threads(),
                    heap=stats["heap_bytes"], rctx=stats["rctx"]["bytes"], resident=stats["rss_kb"] * 1024)

    def lull(self):
        self.settle()
        if self.faults:
            return
        look = {}

        def clean():
            look.update(self.idle_look())
            return not any(judge.leftovers(look, self.baseline).values())

        if not self.lulls:  # threads that came with the first deadline
            self.baseline["threads"] = self.gateways["steady"].threads()
        try:
            wait_until(clean, "nothing is left")
        except PlayError:
            left = judge.leftovers(look, self.baseline)
            self.left.update({"idle: " + name: count for name, count in left.items()})
            self.fault(f"left when idle: { {name: count for name, count in left.items() if count} }")
        self.lulls.append(look)

    def finish(self):
        self.over = True
        steady = self.gateways["steady"]
        if not self.faults:
            self.totals.update({key: value for key, value in steady.stats().items() if isinstance(value, int)})
        for name, gateway in self.gateways.items():
            if gateway.process.poll() is None:
                gateway.signal(signal.SIGTERM)
                self.take_leave(name, gateway)
        if not self.arguments.asan:  # its quarantine is memory that grows on purpose
            self.faults += list(judge.memory_faults(self.lulls))


# ---- what was seen ---------------------------------------------------------------------------------------------------

STANDING = {"stop upstream", "stop gateway", "kill upstream"}
ACCESS_KEYS = ("trace_id", "outcome", "arrived_us", "answered_us", "over_us", "budget_ms")


def read_access(path, fault):
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                record = json.loads(line)
                yield {key: record[key] for key in ACCESS_KEYS}
            except (ValueError, KeyError):  # the last one of a gateway that crashed, or worse
                fault(f"{os.path.basename(os.path.dirname(path))}: a line of its access log is no record: {line[-120:]!r}")


class Findings:
    def __init__(self, soak):
        self.soak, tally = soak, soak.tally
        access = [r for name in soak.gateways for r in read_access(soak.gateways[name].log_path, soak.fault)]
        calls = [call for upstream in soak.upstreams for call in upstream.calls()]
        self.outcomes = collections.Counter(record["outcome"] for record in access)
        lateness = [(r["over_us"] - r["arrived_us"] - r["budget_ms"] * 1000) / 1000 for r in access if r["outcome"] == "deadline"]
        gateway_stood, anybody_stood = soak.windows.times({"stop gateway"}), soak.windows.times(STANDING)
        standing = [gateway_stood.overlap(r["arrived_us"], r["over_us"]) for r in access if r["outcome"] == "deadline"]
        self.lateness = [max(0.0, ms) for ms in lateness]
        self.lateness_running = [ms for ms, stood in zip(self.lateness, standing) if not stood]
        self.stopped = sum(call[4] == "caller-gone" for call in calls)
        self.work, self.late = late_work(calls, access, tally.seen)
        undisturbed = [call for call in calls if not anybody_stood.overlap(call[1], call[2])]
        _, self.late_undisturbed = late_work(undisturbed, access, tally.seen)

    def faults(self):
        tally = self.soak.tally
        yield from self.soak.faults
        for text in tally.wrong[:20]:
            yield "wrong answer: " + text
        if len(tally.wrong) > 20:
            yield f"and {len(tally.wrong) - 20} more wrong answers"

    def rows(self):
        soak, tally = self.soak, self.soak.tally

        def spread(values):
            return (f"{percentile(values, 50):.1f} / {percentile(values, 99):.1f} / {max(values, default=0):.1f} ms "
                    f"({len(values):,})")

        def megabytes(key):
            return " -> ".join(f"{lull[key] / judge.MIB:.2f}" for lull in (soak.lulls[0], soak.lulls[-1])) if soak.lulls else "?"

        stopped = self.outcomes
        yield "requests", f"{tally.asked:,}"
        for status, count in sorted(tally.statuses.items(), key=str):
            yield {"left": "  hung up", "none": "  no answer (explained by a fault)"}.get(status, f"  answered {status}"), f"{count:,}"
        yield "ended early (access log)", ", ".join(f"{count:,} {name}" for name, count in stopped.most_common() if name != "ok")
        yield "calls upstream, of these stopped", (f"{soak.totals['upstream_calls']:,}, {soak.totals['upstream_calls_stopped']:,} "
                                                   "(steady)")
        yield "past the deadline p50 / p99 / max", spread(self.lateness)
        yield "  while the gateway did not stand still", spread(self.lateness_running)
        yield "work upstream", f"{self.work / 1000:,.0f} ms"
        yield "  for nobody", f"{self.late / 1000:,.0f} ms ({100 * self.late / max(1, self.work):.1f} %)"
        yield "  of that while no process stood still", (f"{self.late_undisturbed / 1000:,.0f} ms (a stopped call: up to a step of "
                                                         f"2 ms; {self.stopped:,} stopped)")
        yield "faults injected", ", ".join(f"{count} {kind}" for kind, count in soak.windows.counts().items())
        yield "left over (idle and at exit)", ", ".join(f"{count} {name}" for name, count in soak.left.items() if count) or "0"
        yield "idle looks", f"{len(soak.lulls)}"
        yield "memory when idle, MiB: malloc", megabytes("heap")
        yield "  rctx", megabytes("rctx")
        yield "  resident", megabytes("resident")
        yield "wrong answers, hangs", f"{len(tally.wrong)}"


def draw_memory(samples, path):
    """Resident memory, what malloc has handed out, what rctx holds; seconds on the x axis."""
    sys.path[:0] = [os.path.join(ROOT, "bench")]
    import churn  # its pygal and its way to leave scripts out of a picture
    style = churn.Style(background="#ffffff", plot_background="#ffffff", colors=("#1f6feb", "#d1242f", "#8c959f"),
                        font_family="sans-serif", label_font_size=13, legend_font_size=14, title_font_size=16)
    chart = churn.pygal.XY(style=style, js=[], show_dots=False, width=1000, height=460, legend_at_bottom=True, truncate_legend=-1,
                           include_x_axis=True, show_x_guides=False, title="Memory of the steady gateway, MiB", x_title="seconds",
                           no_prefix=True)
    for key, title in (("resident", "resident"), ("heap", "handed out by malloc"), ("rctx", "held by rctx")):
        chart.add(title, [(round(s["at"], 1), round(s[key] / judge.MIB, 3)) for s in samples])
    with open(path, "w", encoding="utf-8") as file:
        file.write(churn.without_scripts(chart.render(is_unicode=True)) + "\n")


def report(findings, directory, seed):
    os.makedirs(directory, exist_ok=True)
    rows, faults, soak = list(findings.rows()), list(findings.faults()), findings.soak
    base = os.path.join(directory, "report")
    with open(base + ".json", "w", encoding="utf-8") as file:
        json.dump(dict(seed=seed, seconds=soak.arguments.seconds, table=dict((name.strip(), value) for name, value in rows),
                       faults=faults, lulls=soak.lulls, samples=soak.samples, injected=soak.windows.counts()), file, indent=1)
    with open(base + ".md", "w", encoding="utf-8") as file:
        file.write(f"# Soak of {soak.arguments.seconds:.0f} s, seed {seed}\n\n| | |\n|---|---|\n")
        file.writelines(f"| {name} | {value} |\n" for name, value in rows)
        file.write("\n![memory](report.svg)\n\n" + "".join(f"- {fault}\n" for fault in faults))
    draw_memory(soak.samples, base + ".svg")
    with open(base + ".html", "w", encoding="utf-8") as file, open(base + ".svg", encoding="utf-8") as picture:
        file.write("<!doctype html><meta charset='utf-8'><title>Soak</title><style>body{font-family:sans-serif;margin:2em}"
                   "td{padding:.2em 1em .2em 0;white-space:pre-wrap}</style>"
                   f"<h1>Soak of {soak.arguments.seconds:.0f} s, seed {seed}: {len(faults)} faults found</h1><table>")
        file.writelines(f"<tr><td>{html.escape(name)}</td><td>{html.escape(value)}</td></tr>" for name, value in rows)
        file.write("</table><ul>" + "".join(f"<li>{html.escape(fault)}</li>" for fault in faults) + "</ul>" + picture.read())
    print("\n" + "\n".join(f"{name:<44}{value}" for name, value in rows))
    for fault in faults:
        print(f"FOUND: {fault}")
    print(f"\nseed {seed}: {'nothing found' if not faults else f'{len(faults)} faults found'}; {base}.{{json,md,svg,html}}")
    return 1 if faults else 0


def read_arguments():
    parser = argparse.ArgumentParser(prog="./dev soak", allow_abbrev=False, description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float)
    length.add_argument("--seconds", type=float, help="20 and more")
    parser.add_argument("--seed", type=int, help="the same traffic and faults again, up to when they meet")
    parser.add_argument("--asan", action="store_true", help="the gateway with AddressSanitizer; its memory is not judged")
    parser.add_argument("--programs", default=os.path.join(ROOT, "build", "release", "examples", "gateway"), help=argparse.SUPPRESS)
    parser.add_argument("--out", default=os.path.join(ROOT, "build", "soak"), help="where the report goes")
    arguments = parser.parse_args()
    if arguments.seconds is None:
        arguments.seconds = 60 * (10 if arguments.minutes is None else arguments.minutes)
    if not 15 <= arguments.seconds <= 7 * 86400:
        parser.error("between 15 seconds and a week")
    if arguments.seed is None:
        arguments.seed = random.SystemRandom().randrange(1 << 32)
    return arguments


def main():
    arguments = read_arguments()
    end_cleanly_on_signals()
    faulthandler.dump_traceback_later(STALL_S, exit=True)
    print(f"seed {arguments.seed} (--seed {arguments.seed} draws the same again)", flush=True)
    with tempfile.TemporaryDirectory(prefix="rctx-soak-") as directory:
        soak = None
        try:
            soak = Soak(arguments, directory)
            soak.play()
            faulthandler.dump_traceback_later(STALL_S, exit=True)
            code = report(Findings(soak), arguments.out, arguments.seed)
            soak.closed.set()
            return code
        except (PlayError, OSError, http.client.HTTPException) as error:
            print(f"\nseed {arguments.seed}: the soak could not go on: {error!r}; {soak.faults if soak else ''}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("\nInterrupted.", file=sys.stderr)
            return 130
        finally:
            kill_all()


if __name__ == "__main__":
    sys.exit(main())
