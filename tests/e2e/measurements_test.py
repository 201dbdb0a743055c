"""The programs that measure work: small runs of tools/beside and tools/scan_migration."""

import json
import os
import subprocess
import sys

from harness import BINARY, BUILD, FULL, ProxyTestCase, ROOT, SERVER, require_server, seconds, unittest

LATENCY = os.path.join(BUILD, "latency")


class MeasurementsTest(ProxyTestCase):
    def setUp(self):
        super().setUp()
        require_server()

    def run_tool(self, name, *arguments, limit=60):
        process = subprocess.Popen(
            [sys.executable, "-B", os.path.join(ROOT, "tools", name), "--binary", BINARY,
             "--server", SERVER, *arguments],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        try:
            output = process.communicate(timeout=seconds(limit))[0].decode()
        except subprocess.TimeoutExpired:
            process.kill()
            output = process.communicate()[0].decode()
            self.fail("%s has not ended after %g s: %s" % (name, seconds(limit), output[-3000:]))
        self.assertEqual(process.returncode, 0, output[-3000:])
        return output

    def test_scan_misses_no_key_while_slots_move(self):
        size = [] if FULL else ["--keys", "20000", "--passes", "2", "--seconds", "3"]
        output = self.run_tool("scan_migration", *size, limit=1200 if FULL else 60)
        self.assertRegex(output, r"random_migration: [1-9]\d* slots with [1-9]\d* keys moved")
        self.assertIn("missed: 0", output)

    def test_company_costs_a_bounded_number_of_connections(self):
        if not os.access(LATENCY, os.X_OK):
            self.skipTest("no latency in %s" % BUILD)
        path = os.path.join(self.directory, "beside.json")
        self.run_tool("beside", "--latency", LATENCY, "--rounds", "2", "--seconds", "0.5", "--json",
                      path, "--keys", "1000")
        with open(path, encoding="utf-8") as file:
            results = json.load(file)
        self.assertEqual(len(results["rounds"]), 2)
        for row in results["rounds"]:
            # Each of the 50 that wait has a connection; 1,000 subscribers have none of their own.
            company = row["beside"]["company"]
            self.assertGreaterEqual(company["connections"], 50)
            self.assertLessEqual(company["connections"], results["limit"])
            self.assertLessEqual(company["after"], results["base"] + 32)
            for kind in ("apart", "beside"):
                self.assertGreater(row[kind]["company"]["transactions"], 0)
                self.assertGreater(row[kind]["company"]["messages"], 0)


if __name__ == "__main__":
    unittest.main()
