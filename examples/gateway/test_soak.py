#!/usr/bin/env python3
"""Tests that soak_judge.py, which says what a soak finds, does find it: wrong answers, early ones, growth, what is left."""
import json
import os
import socket
import sys
import unittest

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import soak_judge as judge
from play import SERVICES, Client, Crowd, now_us

MS = 1000


class Answers(unittest.TestCase):
    def setUp(self):
        self.windows = judge.Windows()

    def fault(self, status, body=None, took_ms=10, ask=judge.Ask(), gateway="steady", left=False):
        client = Client("t-1")
        client.sent_us, client.status = 10**6, status
        client.answered_us = client.sent_us + took_ms * MS if status else 0
        client.left_us = 10**6 + 5 * MS if left else 0
        client.received = b"HTTP/1.1\r\n\r\n" + json.dumps(body or {"trace_id": "t-1", "error": "e"}).encode()
        return judge.answer_fault(client, ask, gateway, self.windows, SERVICES, 10**6 + 20 * MS)

    def good(self, **changed):
        return {"trace_id": "t-1", **{name: {"service": name} for name in SERVICES}, **changed}

    def test_a_merged_answer(self):
        self.assertIsNone(self.fault(200, self.good()))
        self.assertIn("services", self.fault(200, self.good(stock={"service": "orders"})))
        self.assertIn("another's trace id", self.fault(200, self.good(trace_id="t-2")))
        self.assertIn("services", self.fault(200, {"trace_id": "t-1"}))
        self.assertIsNone(self.fault(200, self.good(trace_id="a" * 32), ask=judge.Ask(any_trace=True)))

    def test_a_deadline_is_never_early(self):
        self.assertIsNone(self.fault(504, took_ms=1000))
        self.assertIsNone(self.fault(504, took_ms=994))
        self.assertIn("504 after 900", self.fault(504, took_ms=900))

    def test_failures_need_a_fault_that_explains_them(self):
        for status, kind, whom in ((502, "failing", None), (502, "out of fds", "steady"), (503, "restart", "steady"),
                                   (0, "restart", "steady")):
            self.windows = judge.Windows()
            self.assertIn("without a fault", self.fault(status))
            window = self.windows.begin(kind, whom, 10**6 - judge.AFTER_MS * MS - 1)
            self.assertIsNone(self.fault(status))
            self.windows.end(window, 10**6 - judge.AFTER_MS * MS - 1)
            self.assertIn("without a fault", self.fault(status), "it was over long before")
        self.windows = judge.Windows()
        self.windows.begin("restart", "restarted", 0)
        self.assertIn("without a fault", self.fault(503), "of another gateway")
        self.windows.begin("slow upstream", None, 0)
        self.assertIn("without a fault", self.fault(502), "explains no failure")

    def test_a_refused_client_knows_when_it_was(self):
        with socket.socket() as unused:  # bound, and nobody listens
            unused.bind(("127.0.0.1", 0))
            client, begin_us = Client("t-1"), now_us()
            Crowd(unused.getsockname()[1], [client], 1000).run()
        self.assertTrue(client.error)
        self.assertTrue(begin_us <= client.sent_us <= now_us())

    def test_refusals(self):
        self.assertIn("without a fault", self.fault(400))
        self.assertIsNone(self.fault(400, ask=judge.Ask(statuses=(400,))))
        self.assertIn("without a fault", self.fault(200, self.good(), ask=judge.Ask(statuses=(400,))))
        self.assertIn("without a fault", self.fault(500, ask=judge.Ask(statuses=(0, 400), any_body=True)))
        self.assertIsNone(self.fault(0, ask=judge.Ask(statuses=(0, 400), any_body=True)))

    def test_who_has_left_wants_no_answer(self):
        self.assertIsNone(self.fault(0, left=True))


class Times(unittest.TestCase):
    def test_as_asking_each_span(self):
        spans = [(5, 9), (1, 2), (20, 30), (8, 12), (22, 23), (40, 40)]
        times = judge.Times(spans)
        for begin in range(50):
            for end in range(begin, 50):
                expected = any(b <= end and e >= begin for b, e in spans)
                self.assertEqual(times.overlap(begin, end), expected, (begin, end))


class Idle(unittest.TestCase):
    def test_memory(self):
        first = dict(heap=5 * judge.MIB, rctx=judge.MIB, resident=20 * judge.MIB)
        self.assertEqual(list(judge.memory_faults([first, first])), [])
        for key, grown in (("heap", 6.1), ("rctx", 2.1), ("resident", 33.1)):
            found = list(judge.memory_faults([first, {**first, key: int(grown * judge.MIB)}]))
            self.assertEqual(len(found), 1, key)
        self.assertEqual(len(list(judge.memory_faults([first]))), 1)

    def test_leftovers(self):
        baseline = dict(fds=20, threads=3)
        clean = dict(contexts=1, shown=1, timers=0, callbacks=0, fds=20, threads=3)
        self.assertFalse(any(judge.leftovers(clean, baseline).values()))
        for key in clean:
            self.assertEqual(sum(map(bool, judge.leftovers({**clean, key: clean[key] + 1}, baseline).values())), 1, key)


if __name__ == "__main__":
    unittest.main()
