"""tools/compare --quick: every target is measured, and nothing that was started stays."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile

from harness import BINARY, BUILD, ROOT, SERVER, require_server, seconds, unittest

COMPARE = os.path.join(ROOT, "tools", "compare")


def run(*command):
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          timeout=seconds(200), check=False)


class CompareTest(unittest.TestCase):
    def setUp(self):
        require_server()
        self.directory = tempfile.mkdtemp(prefix="rcproxy-compare-")
        self.addCleanup(shutil.rmtree, self.directory)
        self.compare = [sys.executable, COMPARE, "--build", BUILD, "--rcproxy", BINARY, "--server",
                        SERVER, "--quick"]

    def test_quick(self):
        loads = ["mget 10", "fixed rate"]
        result = run(*self.compare, "--output", self.directory, "--rate", "200",
                     *(word for load in loads for word in ("--only", load)),
                     "--spawn", "second=%s --addr 127.0.0.1:{port} --startup-nodes {nodes}" %
                     BINARY)
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
        for load in loads:
            self.assertRegex(result.stdout, r"(?m)^\| %s \| rcproxy \| [0-9]" % load)
        names = ["rcproxy", "second", "redis", "direct"]
        for name in names:
            self.assertEqual(len(re.findall(r"(?m)^\|[^|]*\| %s \|" % name, result.stdout)), 2)
        with open(os.path.join(self.directory, "report.md"), encoding="utf-8") as file:
            self.assertIn(file.read(), result.stdout)
        with open(os.path.join(self.directory, "results.json"), encoding="utf-8") as file:
            results = json.load(file)
        self.assertEqual(list(results), loads)
        for load, measured in results.items():
            self.assertEqual([target["name"] for target in measured["targets"]], names)
            self.assertTrue(os.path.exists(os.path.join(
                self.directory, load.replace(" ", "-") + ".html")))
            proxy, second, _, direct = measured["targets"]
            # The nodes behind the proxies are found by their connections.
            self.assertEqual(len(direct["servers_pids"]), 3)
            for each in (proxy, second):
                self.assertEqual(sorted(each["servers_pids"]), sorted(direct["servers_pids"]))
                self.assertGreater(each["median"]["target_cpu_us"], 0)
                self.assertGreater(each["median"]["servers_cpu_us"], 0)
            for target in measured["targets"]:
                for pid in target["pids"] + target["servers_pids"]:
                    self.assertFalse(os.path.exists("/proc/%d" % pid), target)

    def test_what_cannot_be_started_is_named(self):
        result = run(*self.compare, "--spawn", "x=false")
        self.assertEqual(result.returncode, 2, result.stdout)
        self.assertEqual(result.stderr, "tools/compare: --spawn: x ended: no output\n")

    def test_bad_flags(self):
        for flags in (["--spawn", "x"], ["--peer", "x"], ["--threads", "0"], ["--only", "x"],
                      ["--latency", "/nowhere"], ["x"]):
            with self.subTest(flags=flags):
                result = run(*self.compare, *flags)
                self.assertEqual(result.returncode, 2, result.stdout)
                self.assertIn(flags[0], result.stderr.splitlines()[-1])


if __name__ == "__main__":
    unittest.main()
