#!/usr/bin/env python3
"""Tests that bench/churn.py finds memory that grows and memory that stays, and that a short run of rctx-churn has neither.

    bench/churn_test.py RCTX_CHURN
"""
import os
import subprocess
import sys
import tempfile
import unittest
from xml.etree import ElementTree

HERE = os.path.dirname(os.path.abspath(__file__))
BINARY = os.path.abspath(sys.argv.pop()) if len(sys.argv) == 2 else ""
SHORT = 1_000_000
sys.path.insert(0, HERE)
import churn

COLUMNS = ("phase", "requests", "seconds", "resident_bytes", "rctx_bytes", "contexts", "timers")


def judged(full, idle, column, low=10):
    """The faults of a run that held full[i] MB of one kind under full load, low MB after it, and idle MB at the end."""
    rows = [("start", 1), *(("full", megabytes) for megabytes in full), ("low", low), ("idle", idle)]
    steady = {"start": 1, "full": 30, "low": 10, "idle": 1}
    with tempfile.NamedTemporaryFile("w", suffix=".tsv") as file:
        file.write("\t".join(COLUMNS) + "\n")
        for phase, megabytes in rows:
            both = dict.fromkeys(("resident_bytes", "rctx_bytes"), steady[phase] * 1e6)
            both[column] = megabytes * 1e6
            file.write(f"{phase}\t{churn.LONG}\t0\t{both['resident_bytes']:.0f}\t{both['rctx_bytes']:.0f}\t0\t0\n")
        file.flush()
        return list(churn.Run(file.name).faults())


class Judgement(unittest.TestCase):
    def test_flat_passes(self):
        for column in churn.MEASURES:
            self.assertEqual(judged([30] * 30, 1, column), [])

    def test_what_swings_passes(self):
        for column in churn.MEASURES:
            self.assertEqual(judged([30, 31] * 15, 1, column), [])

    def test_what_grows_is_found(self):
        for column, title in churn.MEASURES.items():
            faults = judged([30 + 0.1 * i for i in range(30)], 1, column)
            self.assertTrue(any("growth" in fault and title in fault for fault in faults), faults)

    def test_what_stays_is_found(self):
        for column, title in churn.MEASURES.items():
            faults = judged([30] * 30, 6, column)
            self.assertTrue(any("not all comes back" in fault and title in fault for fault in faults), faults)

    def test_what_stays_at_a_low_load_is_found(self):
        faults = judged([30] * 30, 1, "rctx_bytes", low=25)
        self.assertTrue(any("at a low load" in fault for fault in faults), faults)

    def test_too_few_samples_are_a_fault(self):
        self.assertEqual(len(judged([30], 1, "rctx_bytes")), 1)


class ShortRun(unittest.TestCase):
    def test_memory_is_flat_and_comes_back(self):
        with tempfile.TemporaryDirectory() as out:
            command = [sys.executable, os.path.join(HERE, "churn.py"), "--binary", BINARY, "--out", out,
                       "--requests", str(SHORT)]
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
            self.assertEqual(done.returncode, 0, done.stdout)
            run = churn.Run(os.path.join(out, "churn.tsv"))
            self.assertEqual(run.phases(), ["start", "warm-up", "full", "low", "idle"])
            self.assertEqual(run.values("idle", "contexts")[-1], 0)
            self.assertEqual(run.values("idle", "timers")[-1], 0)
            self.assertTrue(ElementTree.parse(os.path.join(out, "churn.svg")).getroot().tag.endswith("svg"))


if __name__ == "__main__":
    if not BINARY:
        sys.exit(__doc__)
    unittest.main(argv=sys.argv[:1])
