#!/usr/bin/env python3
"""Tests of bench/gateway.py: its arithmetic, its reading of callgrind, its complaints, and a tiny run of all of it.

    bench/gateway_test.py BUILD_DIRECTORY

Looks at shapes and counts, never at a time.
"""
import json
import os
import random
import subprocess
import sys
import tempfile
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
BUILD = os.path.abspath(sys.argv.pop()) if len(sys.argv) == 2 else ""
sys.path.insert(0, HERE)
import gateway

CALLGRIND = """version: 1
events: Ir

fl=(1) worker.c
fn=(1) request_begin
10 100
cfi=(2) scope_rctx.c
cfn=(2) scope_request
calls=5 20
+2 700

fl=(2)
fn=(2)
20 200
cfn=(3) scope_end
calls=1 30
* 40
cfn=(4) rctx_derive
calls=5 40
-3 460

fn=(3)
30 40

fl=(1)
fn=(1)
cfn=(3)
calls=2 30
-1 60
12 7

totals: 1307
"""


def run(script, *arguments):
    return subprocess.run([sys.executable, os.path.join(HERE, script), *arguments], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, check=False)


def rounds_of(ns_of_each_side, rounds=9):
    return {case: [{"ns": ns * weather, "cpu_ns": ns * weather / 2} for weather in range(1, rounds + 1)]
            for case, ns in zip(gateway.CASES, ns_of_each_side)}


class Arithmetic(unittest.TestCase):
    def test_weather_that_meets_all_sides_of_a_round_is_no_overhead(self):
        found = gateway.overheads(rounds_of((103, 100, 101)), {}, random.Random(1))
        for name in ("overhead", "overhead_low", "overhead_high", "cpu_overhead"):
            self.assertAlmostEqual(found[name], 1.03)
            self.assertAlmostEqual(found["telling_" + name], 103 / 101)
        self.assertNotIn("instructions_overhead", found)

    def test_an_interval_holds_the_median_and_widens_with_the_spread(self):
        order = random.Random(1)
        widths = []
        for spread in (0.01, 0.2):
            middle, low, high = gateway.bootstrap([1 + spread * order.uniform(-1, 1) for _ in range(30)], order)
            self.assertTrue(low <= middle <= high)
            widths.append(high - low)
        self.assertLess(widths[0], widths[1])

    def test_instructions(self):
        counts = {case: {"all": every, "scope": scope} for case, every, scope
                  in zip(gateway.CASES, (1060, 1000, 1040), (25, 5, 5))}
        found = gateway.overheads(rounds_of((1, 1, 1)), counts, random.Random(1))
        self.assertAlmostEqual(found["instructions_overhead"], 1.06)
        self.assertAlmostEqual(found["telling_instructions_overhead"], 1060 / 1040)
        self.assertAlmostEqual(found["scope_instructions_overhead"], 1 + 20 / 1040)

    def test_callgrind_file(self):
        total, inside = gateway.read_calls(CALLGRIND.splitlines(keepends=True))
        self.assertEqual(total, 1307)
        self.assertEqual(inside, {"scope_request": 700, "scope_end": 60}, "calls between them count once")


class Complaints(unittest.TestCase):
    def test_wrong_arguments(self):
        for arguments, named in ((("--rounds", "0"), "--rounds"), (("--connections", "many"), "--connections"),
                                 (("--counted", "-5"), "--counted"), (("--nonsense",), "--nonsense"), (("x",), "x")):
            done = run("gateway.py", *arguments)
            self.assertEqual(done.returncode, 2, done.stderr)
            self.assertIn(named, done.stderr)

    def test_not_built(self):
        with tempfile.TemporaryDirectory() as nowhere:
            done = run("gateway.py", "--build", nowhere)
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assertRegex(done.stderr, "gateway is not built.*dev bench")


class Runs(unittest.TestCase):
    def setUp(self):
        if gateway.needed(BUILD)[1]:
            self.skipTest(gateway.needed(BUILD)[1])

    def test_by_itself(self):
        done = run("gateway.py", "--build", BUILD, "--rounds", "2", "--connections", "8", "--counted", "10", "--functions")
        self.assertEqual(done.returncode, 0, done.stderr)
        for case in gateway.CASES:
            self.assertRegex(done.stdout, rf"(?m)^{case} +[\d,]+ ")
        self.assertRegex(done.stdout, r"against gateway_rps_off +requests/s +\d\.\d{4}  \(95 %: \d")

    def test_in_the_table(self):
        asked = ["gateway_rps", "gateway_rps_off"]
        with tempfile.TemporaryDirectory() as out:
            done = run("run.py", "--build", BUILD, "--quick", "--only", ",".join(asked), "--rivals", "none", "--out", out)
            self.assertEqual(done.returncode, 0, done.stderr)
            with open(os.path.join(out, "report.json"), encoding="utf-8") as file:
                records = json.load(file)["cases"]
            with open(os.path.join(out, "report.html"), encoding="utf-8") as file:
                self.assertIn("The gateway", file.read())
        self.assertEqual([record["case"] for record in records], asked)
        for record in records:
            self.assertRegex(done.stdout, rf"(?m)^{record['case']} +[\d,]+ ")
            self.assertEqual(record["figure"], "requests_per_s")
            self.assertEqual(len(record["rctx"]["rounds"]), gateway.QUICK_ROUNDS)
        self.assertEqual({target["figure"] for target in records[0]["targets"]},
                         {"ratio", "cpu_overhead", "instructions_overhead"})
        self.assertGreater(records[0]["ratio"], 0)
        self.assertTrue(records[0]["targets"][0]["verdict"])


if __name__ == "__main__":
    unittest.main()
