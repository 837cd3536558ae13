"""Programs, clients and logs for tour.py and test_gateway.py: Python's standard library only, loopback only.

Times are microseconds of CLOCK_MONOTONIC, which time.monotonic_ns(), the gateway and the upstream services share.
"""
import atexit
import ctypes
import heapq
import http.client
import json
import os
import selectors
import signal
import socket
import struct
import subprocess
import time

LOOPBACK = "127.0.0.1"
SERVICES = ("profile", "orders", "stock")


def now_us():
    return time.monotonic_ns() // 1000


class PlayError(Exception):
    """Something did not work that has to; the text is for the person at the terminal."""


# ---- programs ----------------------------------------------------------------------------------------------------

_started = []


def _die_with_parent():
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: also when this script is killed the hard way


class Program:
    """A child process in a session of its own, killed with all it started when this script ends, however it ends."""

    def __init__(self, arguments, stderr=None):
        self.arguments = self.command([str(a) for a in arguments])
        self.process = subprocess.Popen(self.arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr,
                                        text=True, start_new_session=True, preexec_fn=_die_with_parent)
        _started.append(self)

    def command(self, arguments):
        """For those that run it under another program."""
        return arguments

    def first_line(self):
        line = self.process.stdout.readline()
        if not line:
            raise PlayError(f"{os.path.basename(self.arguments[0])} ended at once with exit code {self.process.wait()}")
        return line

    def signal(self, number):
        self.process.send_signal(number)

    def wait(self, timeout=60):
        """Exit code and what else was printed to standard output."""
        try:
            rest, _ = self.process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            raise PlayError(f"{os.path.basename(self.arguments[0])} did not end within {timeout} s") from None
        return self.process.returncode, rest

    def kill(self):
        if self.process.poll() is None:
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            self.process.wait()


@atexit.register
def kill_all():
    for program in _started:
        program.kill()


def _exit_on_signal(number, _frame):
    raise SystemExit(128 + number)  # runs atexit, which a signal's default action would not


def end_cleanly_on_signals():
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _exit_on_signal)


class Upstream(Program):
    def __init__(self, programs, name, directory, port=0, **settings):
        self.name = name
        self.log_path = os.path.join(directory, name + ".log")
        options = [text for key, value in settings.items() for text in ("--" + key, value)]
        super().__init__([os.path.join(programs, "upstream"), "--name", name, "--port", port, "--log", self.log_path]
                         + options)
        self.port = int(self.first_line().rsplit(" ", 1)[1])

    def control(self, **settings):
        query = "&".join(f"{key}={value}" for key, value in settings.items())
        answer = get(self.port, "/control?" + query)
        if answer.status != 200:
            raise PlayError(f"upstream {self.name} refused {query}: {answer.body}")

    def stats(self):
        return get(self.port, "/stats").json()

    def calls(self):
        """What it has worked on: (trace id, begin, end, planned, how it ended, budget told in ms or -1), times in us."""
        self.stats()  # makes it write out its log
        with open(self.log_path, encoding="ascii") as file:
            rows = [line.split() for line in file if line.endswith("\n")]
        return [(r[0], int(r[1]), int(r[2]), int(r[3]), r[4], int(r[5])) for r in rows]


class Gateway(Program):
    def __init__(self, programs, upstreams, directory, contexts=True, port=0, log=True, quiet=True, options=()):
        self.contexts = contexts
        name = "gateway" if contexts else "gateway_off"
        self.log_path = os.path.join(directory, name + ".access.log") if log else None
        self.messages_path = os.path.join(directory, name + ".messages.log")
        arguments = [os.path.join(programs, name), "--port", port, *options]
        for upstream in upstreams:
            arguments += ["--upstream", f"{upstream.name}={LOOPBACK}:{upstream.port}"]
        if log:
            arguments += ["--access-log", self.log_path]
        if quiet:
            with open(self.messages_path, "a", encoding="utf-8") as messages:
                super().__init__(arguments, stderr=messages)
        else:
            super().__init__(arguments)
        self.port = int(self.first_line().split(" contexts=")[0].rsplit(":", 1)[1])

    def stats(self):
        return get(self.port, "/stats").json()

    def access(self):
        """The access log so far. While it runs, /stats makes it write it out."""
        if self.process.poll() is None:
            try:
                self.stats()
            except OSError:
                pass
        with open(self.log_path, encoding="utf-8") as file:
            return [json.loads(line) for line in file if line.endswith("\n")]

    def messages(self):
        with open(self.messages_path, encoding="utf-8") as file:
            return file.read()


def wait_until(true, what, timeout=30):
    end = time.monotonic() + timeout
    while not true():
        if time.monotonic() > end:
            raise PlayError(f"waited {timeout} s in vain until {what}")
        time.sleep(0.01)


def wait_until_idle(gateway, upstreams):
    wait_until(lambda: gateway.stats()["in_flight"] == 0, "no request is running")
    for upstream in upstreams:
        wait_until(lambda u=upstream: u.stats()["running"] == 0, f"upstream {upstream.name} is idle")


# ---- clients -----------------------------------------------------------------------------------------------------

class Answer:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    def json(self):
        return json.loads(self.body)


def get(port, path, headers=None, timeout=30):
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=timeout)
    try:
        connection.request("GET", path, headers=headers or {})
        response = connection.getresponse()
        return Answer(response.status, dict((k.lower(), v) for k, v in response.getheaders()),
                      response.read().decode("utf-8", "replace"))
    finally:
        connection.close()


class Client:
    """One connection with one request. leave_ms: hang up so long after sending it; None: stay for the answer."""

    def __init__(self, trace_id, path="/", headers=None, leave_ms=None, reset=False, extra=b""):
        self.trace_id, self.leave_ms, self.reset = trace_id, leave_ms, reset
        lines = [f"GET {path} HTTP/1.1", f"Host: {LOOPBACK}", f"X-Trace-Id: {trace_id}"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        self.request = "\r\n".join(lines).encode() + b"\r\n\r\n" + extra  # extra: pipelined after it
        self.timeout_ms = int((headers or {}).get("X-Request-Timeout-Ms", 0))
        self.sent_us = self.left_us = self.answered_us = 0
        self.status = 0
        self.received = b""
        self.error = ""

    def answered(self):
        return self.status != 0

    def ms(self):
        return (self.answered_us - self.sent_us) / 1000

    def body(self):
        return self.received.partition(b"\r\n\r\n")[2].decode("utf-8", "replace")

    def take(self, data):
        """True when the answer is complete (or the other side is gone)."""
        self.received += data
        head, separator, body = self.received.partition(b"\r\n\r\n")
        if not data or (separator and len(body) >= self._length(head)):
            if separator:
                self.status = int(head.split(b" ", 2)[1])
                self.answered_us = now_us()
            else:
                self.error = "closed without an answer"
            return True
        return False

    @staticmethod
    def _length(head):
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                return int(line.split(b":")[1])
        return 0


class Crowd:
    """Runs many Clients on one thread, per_second of them started each second."""

    def __init__(self, port, clients, per_second, progress=None, tick=None):
        self.port, self.waiting, self.gap = port, list(reversed(clients)), 1.0 / per_second
        self.total, self.over, self.progress, self.tick = len(clients), 0, progress, tick
        self.selector = selectors.DefaultSelector()
        self.leaving = []  # heap of (when, number, client, socket)
        self.late_ms = []  # how late this process itself was to leave: the noise of the machine
        self.number = 0

    def run(self, timeout=120):
        next_start = time.monotonic()
        end = next_start + timeout
        while self.over < self.total:
            now = time.monotonic()
            if now > end:
                raise PlayError(f"{self.total - self.over} of {self.total} clients were still waiting after {timeout} s")
            while self.waiting and next_start <= now:
                self._start(self.waiting.pop())
                next_start += self.gap
            while self.leaving and self.leaving[0][0] <= time.monotonic():
                when, _, client, sock = heapq.heappop(self.leaving)
                self._leave(when, client, sock)
            self._serve(self._sleep(next_start))
            if self.tick:
                self.tick(self.over / self.total)
        self.selector.close()

    def _sleep(self, next_start):
        moments = [time.monotonic() + 0.1]
        if self.waiting:
            moments.append(next_start)
        if self.leaving:
            moments.append(self.leaving[0][0])
        return max(0.0, min(moments) - time.monotonic())

    def _start(self, client):
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            sock.connect((LOOPBACK, self.port))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client.sent_us = now_us()
            sock.sendall(client.request)
        except OSError as error:
            client.error = str(error)
            client.sent_us = client.sent_us or now_us()  # refused: at this moment, whenever it is judged
            sock.close()
            self._count()
            return
        sock.setblocking(False)
        self.selector.register(sock, selectors.EVENT_READ, client)
        if client.leave_ms is not None:
            self.number += 1
            heapq.heappush(self.leaving, (time.monotonic() + client.leave_ms / 1000, self.number, client, sock))

    def _leave(self, when, client, sock):
        if sock.fileno() < 0:
            return
        self.late_ms.append((time.monotonic() - when) * 1000)
        if client.reset:  # RST instead of FIN
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.selector.unregister(sock)
        client.left_us = now_us()
        sock.close()
        self._count()

    def _serve(self, sleep):
        for key, _ in self.selector.select(sleep):
            client, sock = key.data, key.fileobj
            try:
                data = sock.recv(65536)
            except OSError as error:
                client.error, data = str(error), b""
            if client.take(data):
                self.selector.unregister(sock)
                sock.close()
                self._count()

    def _count(self):
        self.over += 1
        if self.progress:
            self.progress(self.over / self.total)


# ---- arithmetic --------------------------------------------------------------------------------------------------

def percentile(values, percent):
    """Nearest rank; 0 for nothing."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))] if ordered else 0


def gone_us(record, client):
    """When nobody waited any more for a request: its client hung up, the time that the client gave was over, or it had
    its answer, whichever came first. record: of the gateway's access log. client: or None. The same for all gateways."""
    moments = [record["answered_us"]] if record["answered_us"] else []
    if client and client.left_us:
        moments.append(client.left_us)
    if client and client.timeout_ms:
        moments.append(record["arrived_us"] + client.timeout_ms * 1000)
    return min(moments) if moments else record["over_us"]


def late_work(calls, access, clients):
    """Work upstream, in us: (all of it, what was done after nobody waited for it) for the requests in access."""
    gone = {record["trace_id"]: gone_us(record, clients.get(record["trace_id"])) for record in access}
    total = late = 0
    for trace_id, begin, end, _planned, _how, _budget in calls:
        if trace_id in gone:
            total += end - begin
            late += max(0, end - max(begin, gone[trace_id]))
    return total, late
