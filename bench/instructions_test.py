#!/usr/bin/env python3
"""Tests that bench/instructions.py --check fails when it should: with tables that were tampered with.

    bench/instructions_test.py RCTX_INSTRUCTIONS
"""
import os
import subprocess
import sys
import tempfile
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
BINARY = os.path.abspath(sys.argv.pop()) if len(sys.argv) == 2 else ""
CASE = "value_miss_depth8"


def run(*arguments):
    return subprocess.run([sys.executable, os.path.join(HERE, "instructions.py"), "--binary", BINARY, *arguments],
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)


def check_with(rows, compiler, pattern):
    with tempfile.NamedTemporaryFile("w", suffix=".tsv") as table:
        table.write(f"# {compiler} of a test\n" + "".join(f"{case}\t{count}\n" for case, count in rows))
        table.flush()
        return run("--filter", pattern, "--check", table.name)


class Check(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.compiler = subprocess.run([BINARY, "--compiler"], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
        counted = run("--filter", f"^{CASE}$")
        assert counted.returncode == 0, counted.stderr
        cls.count = float(counted.stdout.split("\t")[1])

    def check(self, factor=None, case=CASE, compiler=None):
        rows = [] if factor is None else [(case, self.count * factor)]
        return check_with(rows, compiler or self.compiler, f"^{CASE}$")

    def test_what_takes_as_many_passes(self):
        done = self.check(1.0)
        self.assertEqual((done.returncode, done.stderr), (0, ""))

    def test_four_percent_more_pass(self):
        self.assertEqual(self.check(1 / 1.04).returncode, 0)

    def test_six_percent_more_fail_and_are_named(self):
        done = self.check(1 / 1.06)
        self.assertEqual(done.returncode, 1)
        for text in (CASE, f"{self.count:.1f} instructions", f"{self.count / 1.06:.1f} before", "(+6."):
            self.assertIn(text, done.stderr)

    def test_a_case_without_a_row_fails_and_says_what_writes_one(self):
        done = self.check()
        self.assertEqual(done.returncode, 1)
        self.assertIn(CASE, done.stderr)
        self.assertIn("./dev instructions --write", done.stderr)

    def test_fewer_pass_and_ask_for_an_update(self):
        done = self.check(1.1)
        self.assertEqual(done.returncode, 0)
        self.assertIn("please update", done.stderr)

    def test_another_compiler_skips_and_says_so(self):
        done = self.check(1.0, compiler="gcc 3.2 for pdp11")
        self.assertEqual(done.returncode, 86)
        self.assertIn("SKIPPED", done.stderr)

    def test_a_table_without_a_compiler_fails(self):
        with tempfile.NamedTemporaryFile("w") as table:
            self.assertEqual(run("--filter", f"^{CASE}$", "--check", table.name).returncode, 1)


if __name__ == "__main__":
    if not BINARY:
        sys.exit(__doc__)
    unittest.main(argv=sys.argv[:1])
