#!/usr/bin/env python3
"""What the gateway promises, tested from outside: real processes, real sockets, its logs and its exit code.

    ctest -R gateway           or, by hand:
    python3 test_gateway.py --programs build/dev/examples/gateway [-v] [Case.test_name]

No absolute times are asserted: a test waits until something has happened, and looks at orders, counts and causes.
"""
import argparse
import errno
import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import unittest

sys.dont_write_bytecode = True
from play import (LOOPBACK, SERVICES, Client, Crowd, Gateway, Upstream, end_cleanly_on_signals, get, kill_all,  # noqa: E402
                  percentile, wait_until, wait_until_idle)

PROGRAMS = "."


class Case(unittest.TestCase):
    OPTIONS = ()
    CONTEXTS = True

    def setUp(self):
        directory = tempfile.TemporaryDirectory(prefix="rctx-gateway-test-")
        self.addCleanup(directory.cleanup)
        self.addCleanup(kill_all)
        self.directory = directory.name
        self.upstreams = [Upstream(PROGRAMS, name, self.directory, median_ms=3) for name in SERVICES]
        self.profile, self.orders, self.stock = self.upstreams
        self.gateway = self.start_gateway(*self.OPTIONS)

    def start_gateway(self, *options, upstreams=None):
        return Gateway(PROGRAMS, upstreams or self.upstreams, self.directory, contexts=self.CONTEXTS, options=options)

    def get(self, path="/", **headers):
        return get(self.gateway.port, path, {name.replace("_", "-"): value for name, value in headers.items()})

    def access(self, trace_id):
        """The line of a request, which comes when it is over, maybe after its answer."""
        found = []

        def there():
            found[:] = [line for line in self.gateway.access() if line["trace_id"] == trace_id]
            return found
        wait_until(there, f"{trace_id} is in the access log")
        self.assertEqual(len(found), 1)
        return found[0]

    def calls(self, upstream, trace_id):
        wait_until(lambda: upstream.stats()["running"] == 0, "the upstream is idle", timeout=60)
        return [call for call in upstream.calls() if call[0] == trace_id]

    def one_call(self, upstream, trace_id):
        calls = self.calls(upstream, trace_id)
        self.assertEqual(len(calls), 1, upstream.name)
        return calls[0]

    def assert_stopped_early(self, upstream, trace_id, how):
        _, begin, end, planned, ended, _ = self.one_call(upstream, trace_id)
        self.assertEqual(ended, how)
        self.assertLess(end - begin, planned, "it stopped before its work was done")

    def finish(self, gateway=None, number=signal.SIGTERM):
        """SIGTERM; it has to go with exit code 0 and nothing left."""
        gateway = gateway or self.gateway
        gateway.signal(number)
        code, last = gateway.wait()
        self.assertEqual((code, set(json.loads(last)["left"].values())), (0, {0}), last + gateway.messages())


class Answers(Case):
    def test_merges_three_answers_under_the_clients_trace_id(self):
        answer = self.get(x_trace_id="abc-1")
        self.assertEqual((answer.status, answer.headers["x-trace-id"]), (200, "abc-1"))
        self.assertEqual({name: answer.json()[name]["service"] for name in SERVICES}, {n: n for n in SERVICES})
        line = self.access("abc-1")
        self.assertEqual((line["status"], line["outcome"], line["bytes"]), (200, "ok", len(answer.body)))
        self.assertNotIn("why", line)
        for upstream in self.upstreams:
            self.assertEqual(self.one_call(upstream, "abc-1")[4], "done")
        self.finish()

    def test_takes_the_trace_id_of_a_traceparent_first(self):
        trace = "4bf92f3577b34da6a3ce929d0e0e4736"
        answer = self.get(traceparent=f"00-{trace}-00f067aa0ba902b7-01", x_trace_id="other")
        self.assertEqual(answer.headers["x-trace-id"], trace)

    def test_makes_a_trace_id_when_there_is_no_valid_one(self):
        zero, seen = "0" * 32, set()
        for headers in ({}, {"x_trace_id": "not a token!"}, {"x_trace_id": "x" * 65}, {"x_trace_id": ""},
                        {"traceparent": f"00-{zero}-00f067aa0ba902b7-01"}, {"traceparent": "00-12"},
                        {"traceparent": f"00-{'G' * 32}-00f067aa0ba902b7-01"}):
            answer = self.get(**headers)
            self.assertRegex(answer.headers["x-trace-id"], r"^[0-9a-f]{32}$", headers)
            seen.add(answer.headers["x-trace-id"])
        self.assertEqual(len(seen), 7)

    def test_keeps_a_connection_and_answers_pipelined_requests_in_order(self):
        with socket.create_connection((LOOPBACK, self.gateway.port)) as sock:
            sock.settimeout(30)
            for first in ("p1", "p3"):
                for trace_id in (first, "p" + str(int(first[1]) + 1)):
                    sock.sendall(f"GET / HTTP/1.1\r\nHost: x\r\nX-Trace-Id: {trace_id}\r\n\r\n".encode())
                received = b""
                while received.count(b"HTTP/1.1 200") < 2 or not received.endswith(b"}"):
                    received += sock.recv(65536)
                found = re.findall(rb'"trace_id":"(p\d)"', received)
                self.assertEqual(found, [first.encode(), b"p" + str(int(first[1]) + 1).encode()])
        self.assertEqual(self.access("p2")["outcome"], "ok")

    def test_other_paths_and_methods(self):
        self.assertEqual(self.get("/healthz").json(), {"status": "ok"})
        self.assertEqual(self.get("/nowhere").status, 404)
        tree = self.get("/debug/contexts")
        self.assertEqual(tree.status, 200 if self.CONTEXTS else 404)
        if self.CONTEXTS:
            self.assertEqual(tree.json()["contexts"][0]["name"], "server")
            self.assertRegex(self.get("/debug/contexts?format=text").body, r'^cancel "server" live')
            self.assertRegex(self.get("/debug/contexts?format=dot").body, r"^digraph ")
            self.assertEqual(self.get("/debug/contexts?format=xml").status, 404)
            self.assertRegex(self.get("/metrics").body, r"(?m)^rctx_contexts [1-9]")
        self.assertEqual(self.gateway.stats()["with_contexts"], self.CONTEXTS)
        with socket.create_connection((LOOPBACK, self.gateway.port)) as sock:
            sock.settimeout(30)
            sock.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            self.assertRegex(sock.recv(1000), rb"^HTTP/1.1 (405|501)")
        self.assertEqual(self.get().status, 200)

    def test_every_line_of_a_call_carries_trace_id_and_upstream(self):
        gateway = self.start_gateway("--verbose")
        get(gateway.port, "/", {"x-trace-id": "shown"})
        self.finish(gateway)
        for name in SERVICES:
            self.assertRegex(gateway.messages(), rf"call over: ok .*upstream={name}.*trace_id=shown|"
                                                 rf"call over: ok .*trace_id=shown.*upstream={name}")


class Deadlines(Case):
    def test_a_passed_deadline_is_answered_504_and_stops_the_calls(self):
        self.orders.control(median_ms=20000, heed_budget=0)
        answer = self.get(x_request_timeout_ms="60", x_trace_id="late")
        self.assertEqual((answer.status, answer.json()["error"]), (504, "deadline exceeded"))
        line = self.access("late")
        self.assertEqual((line["outcome"], line["who"], line["origin"], line["levels_up"]),
                         ("deadline", "request", "deadline", 0))
        self.assertIn("scope_rctx.c", line["file"])
        self.assertGreater(line["line"], 0)
        self.assertGreaterEqual(line["ms"], 60, "a deadline is never early")
        self.assert_stopped_early(self.orders, "late", "caller-gone")
        self.finish()

    def test_upstreams_are_told_less_than_was_given(self):
        for given, trace_id in (("300", "t-300"), (None, "t-default"), ("99999999999999999999999999", "t-huge")):
            headers = {"x_request_timeout_ms": given} if given else {}
            self.assertEqual(self.get(x_trace_id=trace_id, **headers).status, 200)
            limit = min(int(given or 1000), 60000)
            for upstream in self.upstreams:
                told = self.one_call(upstream, trace_id)[5]
                self.assertTrue(0 < told <= limit - 5, f"{told} of {limit}")
        self.assertIn("out of range, taken as 60000", self.gateway.messages())

    def test_an_upstream_that_is_out_of_time_says_so_first(self):
        self.orders.control(median_ms=20000)
        gateway = self.gateway = self.start_gateway("--reserve-ms", "900")
        answer = self.get(x_request_timeout_ms="1000", x_trace_id="told")
        self.assertEqual(answer.status, 504)
        line = self.access("told")
        self.assertEqual((line["outcome"], line["origin"]), ("upstream-late", "peer"))
        self.assertIn("orders", line["why"])
        self.assert_stopped_early(self.orders, "told", "out-of-budget")
        self.finish(gateway)

    def test_no_call_is_made_when_nothing_is_left(self):
        answer = self.get(x_request_timeout_ms="0", x_trace_id="none")
        self.assertEqual(answer.status, 504)
        self.assertEqual(self.access("none")["calls"].count("not-made"), 3)
        for upstream in self.upstreams:
            self.assertEqual(self.calls(upstream, "none"), [])
        self.finish()

    def test_absurd_values_are_refused_and_the_service_goes_on(self):
        for number, value in enumerate(("", "-5", "+5", "abc", "1e3", "1.5", "0x10", "12ms", "9" * 3000, "\u00b2")):
            answer = get(self.gateway.port, "/", {"x-request-timeout-ms": value.encode("utf-8"), "x-trace-id": f"a{number}"})
            if value.startswith("9"):
                self.assertEqual(answer.status, 200, "too big is only too big")
                continue
            self.assertEqual(answer.status, 400, value)
            self.assertIn("x-request-timeout-ms", answer.json()["error"])
            self.assertEqual(self.access(f"a{number}")["outcome"], "bad-request")
        self.assertIn("refused: x-request-timeout-ms: 'abc' is not a whole number", self.gateway.messages())
        self.assertEqual(get(self.gateway.port, "/", {"x-request-timeout-ms": b"\x9b2J\xff"}).status, 400)
        self.assertIn("'\\u009b2J\\u00ff'", self.gateway.messages(), "what is logged of it is plain text")
        self.assertEqual(self.get("/?user=%00%ff").status, 400)
        self.assertEqual(self.get("/?user=ann&x=1").status, 200)
        self.finish()

    def test_garbage_on_the_socket(self):
        for garbage in (b"\x00\xff\xfe garbage\r\n\r\n", b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 5000 + b"\r\n",
                        b"GET  HTTP/9.9\r\n\r\n", b"GET / HTTP/1.1\r\nno colon here\r\n\r\n", b"\r\n" * 10):
            with socket.create_connection((LOOPBACK, self.gateway.port)) as sock:
                sock.settimeout(30)
                try:
                    sock.sendall(garbage)
                    sock.shutdown(socket.SHUT_WR)
                    while sock.recv(65536):
                        pass
                except ConnectionError:
                    pass  # it hung up on us, as it may
                except OSError as error:
                    self.assertEqual(error.errno, errno.ENOTCONN)
            self.assertEqual(self.get().status, 200)
        self.finish()


class Failures(Case):
    def test_the_first_failure_is_named_and_stops_the_siblings(self):
        self.stock.control(fail_percent=100, fail_ms=1)
        self.profile.control(median_ms=20000)
        self.orders.control(median_ms=20000)
        answer = self.get(x_trace_id="fail", x_request_timeout_ms="30000")
        self.assertEqual((answer.status, answer.json()["why"]), (502, "upstream stock answered 500"))
        line = self.access("fail")
        self.assertEqual((line["outcome"], line["origin"], line["who"], line["why"]),
                         ("upstream-failed", "upstream", "request", "upstream stock answered 500"))
        self.assertIn("request.c", line["file"])
        self.assert_stopped_early(self.profile, "fail", "caller-gone")
        self.assert_stopped_early(self.orders, "fail", "caller-gone")
        self.assertEqual(self.gateway.stats()["rctx"]["contexts"], 1)
        self.finish()

    def test_an_upstream_that_is_down_and_comes_back(self):
        self.assertEqual(self.get().status, 200)
        self.stock.kill()
        for _ in range(3):
            answer = self.get()
            self.assertEqual(answer.status, 502)
            self.assertIn("upstream stock", answer.json()["why"])
        self.upstreams[2] = Upstream(PROGRAMS, "stock", self.directory, port=self.stock.port, median_ms=3)
        self.assertEqual(self.get().status, 200)
        self.finish()

    def test_upstreams_that_answer_nonsense(self):
        answers = iter([b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nnot {js", b"", b"nonsense\r\n\r\n",
                        b"HTTP/1.1 200 OK\r\nContent-Length: 4000000\r\n\r\n" + b"[" * 3000000,
                        b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n"])
        count = 5
        with socket.create_server((LOOPBACK, 0)) as server:
            def serve():
                for reply in answers:
                    connection, _ = server.accept()
                    with connection:
                        connection.recv(65536)
                        try:
                            connection.sendall(reply)
                        except OSError:
                            pass
            thread = threading.Thread(target=serve, daemon=True)
            thread.start()
            odd = type("Odd", (), {"name": "odd", "port": server.getsockname()[1]})
            self.gateway = self.start_gateway(upstreams=[self.profile, odd])
            for _ in range(count):
                answer = self.get(x_request_timeout_ms="20000")
                self.assertEqual(answer.status, 502)
                self.assertIn("upstream odd", answer.json()["why"])
            thread.join(30)
        self.finish()


class HangUps(Case):
    def setUp(self):
        super().setUp()
        for upstream in self.upstreams:
            upstream.control(median_ms=20000, heed_budget=0)

    def leave(self, trace_id, how, extra=b""):
        """Ask, wait until all upstreams work on it, leave."""
        headers = {"X-Request-Timeout-Ms": 30000}
        client = Client(trace_id, headers=headers, extra=extra)
        running = self.gateway.stats()["in_flight"]
        sock = socket.create_connection((LOOPBACK, self.gateway.port))
        sock.sendall(client.request)
        wait_until(lambda: self.gateway.stats()["in_flight"] == running + 1, "the request has arrived")
        for upstream in self.upstreams:
            wait_until(lambda u=upstream: u.stats()["running"] >= 1, "it is being worked on")
        how(sock)
        return sock

    def assert_hung_up(self, trace_id):
        line = self.access(trace_id)
        self.assertEqual((line["status"], line["outcome"], line["origin"], line["who"], line["why"]),
                         (499, "hung-up", "peer", "request", "the client hung up"))
        self.assertEqual(line["calls"].count("stopped"), 3)
        for upstream in self.upstreams:
            self.assert_stopped_early(upstream, trace_id, "caller-gone")

    def test_a_closed_connection_stops_all_work(self):
        self.leave("fin", lambda sock: sock.close())
        self.assert_hung_up("fin")
        self.finish()

    def test_a_reset_connection_stops_all_work(self):
        def reset(sock):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            sock.close()
        self.leave("rst", reset)
        self.assert_hung_up("rst")
        self.finish()

    def test_closing_only_the_sending_side_counts_as_leaving(self):
        sock = self.leave("half", lambda sock: sock.shutdown(socket.SHUT_WR))
        self.assert_hung_up("half")
        sock.close()

    def test_leaving_with_a_second_request_in_the_pipe(self):
        self.leave("pipe", lambda sock: sock.close(), extra=b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        self.assert_hung_up("pipe")
        self.finish()

    def test_bytes_that_arrive_meanwhile_are_no_hang_up(self):
        for upstream in self.upstreams:
            upstream.control(median_ms=200)
        client = Client("bytes", extra=b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        Crowd(self.gateway.port, [client], 1).run()
        self.assertEqual(client.status, 200)
        self.assertEqual(self.access("bytes")["outcome"], "ok")

    def test_hundreds_at_random_moments_leave_nothing_behind(self):
        for upstream in self.upstreams:
            upstream.control(median_ms=400, spread_percent=10)
        clients = [Client(f"many-{n}", leave_ms=n * 37 % 150, reset=n % 3 == 0) for n in range(400)]
        Crowd(self.gateway.port, clients, 400).run()
        wait_until_idle(self.gateway, self.upstreams)
        stats = self.gateway.stats()
        self.assertEqual((stats["rctx"]["contexts"], stats["rctx"]["timers"]), (1, 0), stats)
        lines = [line for line in self.gateway.access() if line["trace_id"].startswith("many-")]
        self.assertGreater(len(lines), 300)
        self.assertEqual({line["outcome"] for line in lines}, {"hung-up"})
        print(f"  {len(lines)} hang-ups, noticed -> all stopped p99 "
              f"{percentile([l['over_us'] - l['hung_up_us'] for l in lines], 99)} us")
        self.finish()


class Shutdown(Case):
    OPTIONS = ("--drain-ms", "400")

    def test_a_running_request_is_finished_and_no_new_one_is_taken(self):
        gateway = self.gateway = self.start_gateway("--drain-ms", "60000")
        self.orders.control(median_ms=300)
        idle = socket.create_connection((LOOPBACK, gateway.port))  # kept alive, to be closed
        client = Client("running")
        answered = threading.Thread(target=Crowd(gateway.port, [client], 1).run)
        answered.start()
        wait_until(lambda: gateway.stats()["in_flight"] == 1, "it runs")
        self.finish(gateway)
        answered.join(30)
        self.assertEqual(client.status, 200)
        self.assertIn(b"connection: close", client.received.lower())
        with self.assertRaises(OSError):
            get(gateway.port, "/")
        idle.settimeout(30)
        self.assertEqual(idle.recv(10), b"")
        idle.close()
        self.assertEqual(self.access("running")["outcome"], "ok")

    def test_what_takes_longer_is_cancelled_with_cause_shutdown(self):
        for upstream in self.upstreams:
            upstream.control(median_ms=20000, heed_budget=0)
        clients = [Client(f"long-{n}", headers={"X-Request-Timeout-Ms": 50000}) for n in range(20)]
        crowd = threading.Thread(target=Crowd(self.gateway.port, clients, 1000).run)
        crowd.start()
        wait_until(lambda: self.gateway.stats()["in_flight"] == 20, "all run")
        self.finish()
        crowd.join(30)
        for client in clients:
            self.assertEqual(client.status, 503)
            self.assertEqual(json.loads(client.body())["why"], "shutdown")
            line = self.access(client.trace_id)
            self.assertEqual((line["outcome"], line["origin"], line["who"], line["levels_up"], line["why"]),
                             ("shutdown", "shutdown", "server", 1, "shutdown"))
            self.assert_stopped_early(self.orders, client.trace_id, "caller-gone")

    def test_a_second_signal_does_not_wait(self):
        gateway = self.gateway = self.start_gateway("--drain-ms", "600000")
        self.orders.control(median_ms=50000, heed_budget=0)
        client = Client("impatient", headers={"X-Request-Timeout-Ms": 60000})
        crowd = threading.Thread(target=Crowd(gateway.port, [client], 1).run)
        crowd.start()
        wait_until(lambda: gateway.stats()["in_flight"] == 1, "it runs")
        gateway.signal(signal.SIGINT)
        wait_until(lambda: "shutting down" in gateway.messages(), "the first signal has been taken")
        self.finish(gateway)
        crowd.join(30)
        self.assertEqual(client.status, 503)

    def test_out_of_descriptors_it_waits_and_goes_on(self):
        pid, limits = self.gateway.process.pid, resource.prlimit(self.gateway.process.pid, resource.RLIMIT_NOFILE)
        self.assertEqual(self.get().status, 200)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (len(os.listdir(f"/proc/{pid}/fd")), limits[1]))
        waiting = [socket.create_connection((LOOPBACK, self.gateway.port)) for _ in range(20)]
        wait_until(lambda: "can not be accepted" in self.gateway.messages(), "it says so")
        wait_until(lambda: self.gateway.messages().count("can not be accepted") > 5, "it tries again")
        self.assertLess(len(self.gateway.messages().splitlines()), 1000, "it does nothing but fail")
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
        for sock in waiting:
            sock.settimeout(30)
            sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            self.assertIn(b" 200 ", sock.recv(100))
            sock.close()
        self.finish()

    def test_several_workers_under_one_server_context(self):
        gateway = self.gateway = self.start_gateway("--workers", "3", "--drain-ms", "200")
        clients = [Client(f"w-{n}", leave_ms=n % 7 if n % 2 else None) for n in range(300)]
        Crowd(gateway.port, clients, 1000).run()
        wait_until_idle(gateway, self.upstreams)
        self.assertEqual({c.status for c in clients if c.leave_ms is None}, {200})
        self.orders.control(median_ms=20000, heed_budget=0)
        clients = [Client(f"cut-{n}", headers={"X-Request-Timeout-Ms": 50000}) for n in range(30)]
        crowd = threading.Thread(target=Crowd(gateway.port, clients, 1000).run)
        crowd.start()
        wait_until(lambda: gateway.stats()["in_flight"] == 30, "all run")
        self.finish(gateway)
        crowd.join(30)
        self.assertEqual({client.status for client in clients}, {503})


class CommandLine(Case):
    def run_gateway(self, *options):
        return subprocess.run([os.path.join(PROGRAMS, "gateway"), *options], capture_output=True, text=True, timeout=60,
                              check=False)

    def test_a_port_that_is_taken(self):
        upstream = f"a={LOOPBACK}:1"
        done = self.run_gateway("--upstream", upstream, "--port", str(self.gateway.port))
        self.assertEqual(done.returncode, 3)
        self.assertIn(f"port {self.gateway.port}", done.stderr)
        self.assertIn("another program has this port", done.stderr)
        self.assertEqual(self.get().status, 200)

    def test_wrong_options(self):
        for options in (["--nonsense"], ["stray"], [], ["--upstream", "x"], ["--upstream", "a=b:0"],
                        ["--upstream", "a=b:1", "--port", "abc"], ["--upstream", "a=b:1", "--workers", "0"],
                        ["--upstream", "a=b:1", "--timeout-ms", "-1"], ["--upstream", "a b=c:1"],
                        ["--upstream", "a=b:1", "--drain-ms", "99999999999999999999"]):
            done = self.run_gateway(*options)
            self.assertEqual(done.returncode, 2, options)
            self.assertTrue(done.stderr, options)
        self.assertEqual(self.run_gateway("--help").returncode, 0)


    def test_the_tour_refuses_options_it_does_not_have(self):
        tour = os.path.join(os.path.dirname(os.path.abspath(__file__)), "tour.py")
        for options in (["--nonsense"], ["--port", "80"], ["--serve", "--port", "abc"], ["--serve", "--port", "70000"],
                        ["stray"], ["--serve", "--quick"]):
            done = subprocess.run([sys.executable, "-B", tour, *options], capture_output=True, text=True, timeout=60,
                                  check=False)
            self.assertEqual(done.returncode, 2, options)
            self.assertIn("error", done.stderr)


class WithoutContexts(Case):
    """The other gateway works, too; what it does not do is what contexts are for."""
    CONTEXTS = False

    def test_answers(self):
        self.assertEqual(self.get().status, 200)
        self.assertEqual(self.one_call(self.stock, self.get().headers["x-trace-id"])[5], -1, "told nothing")
        self.stock.control(fail_percent=100)
        self.orders.control(median_ms=100)
        answer = self.get(x_trace_id="fail")
        self.assertEqual((answer.status, answer.json()["why"]), (502, "upstream stock answered 500"))
        self.assertEqual(self.one_call(self.orders, "fail")[4], "done", "nobody stopped it")
        self.assertEqual(self.access("fail")["outcome"], "upstream-failed")
        self.finish()

    def test_tells_the_fixed_timeout_if_told_to(self):
        self.gateway = self.start_gateway("--tell-call-timeout", "--call-timeout-ms", "700")
        self.assertEqual(self.one_call(self.stock, self.get().headers["x-trace-id"])[5], 700)
        self.finish(self.gateway)

    def test_a_fixed_timeout_per_call(self):
        gateway = self.gateway = self.start_gateway("--call-timeout-ms", "50")
        self.orders.control(median_ms=20000)
        answer = self.get(x_trace_id="slow", x_request_timeout_ms="30000")
        self.assertEqual(answer.status, 504)
        self.assertEqual(self.access("slow")["outcome"], "upstream-late")
        self.finish(gateway)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--programs", default=PROGRAMS)
    known, rest = parser.parse_known_args()
    PROGRAMS = known.programs
    end_cleanly_on_signals()
    unittest.main(argv=[sys.argv[0], *rest])
