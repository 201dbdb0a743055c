"""The load runner finds what is planted: each test has a node that answers wrongly in one way."""

import json
import os
import shutil
import subprocess
import tempfile

from fake_node import Cut, array, bulk, error, integer, simple
from harness import BUILD, FakeCluster, seconds, unittest

LOADRUNNER = os.path.join(BUILD, "loadrunner")
FINDINGS = ("wrong", "lost", "stale", "duplicated", "reordered")


class LoadRunnerTest(unittest.TestCase):
    def setUp(self):
        self.directory = tempfile.mkdtemp(prefix="rcproxy-load-")
        self.addCleanup(shutil.rmtree, self.directory)
        cluster = FakeCluster(1)
        self.addCleanup(cluster.close)
        self.node = cluster.node(0)
        self.node.on("RPUSH", self.push)
        self.node.on("LRANGE", lambda _, args: array(
            [bulk(element) for element in self.node.data.get(args[1], ())]))

    def push(self, _, args):
        elements = self.node.data.setdefault(args[1], [])
        elements.append(args[2])
        return integer(len(elements))

    def plant(self, name, wrongly, every=20):
        """Every 20th command of this name is answered by wrongly(args, rightly); rightly() runs it
        as it should be, and gives the right reply."""
        count = 0
        run = self.push if name == "RPUSH" else getattr(self.node, "do_" + name.lower())

        def answer(connection, args):
            nonlocal count
            count += 1
            if count % every:
                return None
            return wrongly(args, lambda: run(connection, args))
        script = self.node.on(name, answer)
        # Before the scripts that are there already.
        self.node.scripts.insert(0, self.node.scripts.pop(self.node.scripts.index(script)))

    def load(self, *flags, exit_code):
        json_path = os.path.join(self.directory, "report")
        result = subprocess.run(
            [LOADRUNNER, "--addr", self.node.address, "--writers", "3", "--readers", "5",
             "--pipeline", "4", "--keys", "27", "--tags", "4", "--rate", "2000", "--duration", "2s",
             "--json", json_path, *flags],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds(120),
            check=False)
        self.assertEqual(result.returncode, exit_code, result.stdout + result.stderr)
        with open(json_path, encoding="utf-8") as file:
            report = json.load(file)
        self.assertGreater(report["writes"], 100)
        self.assertGreater(report["reads"], 100)
        return report

    def check_found(self, *findings):
        """These, and no others, are found."""
        report = self.load("--errors-allowed", "1000000", exit_code=1)
        self.assertEqual({name for name in FINDINGS if report[name]} - set(findings), set())
        self.assertTrue(any(report[name] for name in findings), report)
        return report

    def test_nothing_is_found_where_nothing_is_wrong(self):
        for flags in ((), ("--resp3",), ("--value-size", "10-20000")):
            with self.subTest(flags=flags):
                report = self.load(*flags, exit_code=0)
                self.assertEqual([report[name] for name in FINDINGS], [0] * 5)
                self.assertEqual((report["errors"], report["reconnects"]), (0, 0))
                self.assertEqual(self.node.data, {})

    def test_a_write_that_is_acknowledged_and_not_done(self):
        self.plant("SET", lambda args, rightly: simple("OK"))
        self.check_found("stale", "lost")

    def test_an_increment_that_is_acknowledged_and_not_done(self):
        self.plant("INCR", lambda args, rightly: integer(
            int(self.node.data.get(args[1], b"0")) + 1))
        self.check_found("stale", "lost")

    def test_a_push_that_is_acknowledged_and_not_done(self):
        self.plant("RPUSH", lambda args, rightly: integer(1))
        self.assertGreater(self.check_found("lost")["lost"], 0)

    def test_what_runs_twice(self):
        self.plant("INCR", lambda args, rightly: (rightly(), rightly())[1])
        self.check_found("duplicated")

    def test_a_push_that_runs_twice(self):
        self.plant("RPUSH", lambda args, rightly: (rightly(), rightly())[1])
        self.check_found("duplicated")

    def test_pushes_in_another_order(self):
        def swap(args, rightly):
            reply = rightly()
            elements = self.node.data[args[1]]
            elements[-2:] = reversed(elements[-2:])
            return reply
        self.plant("RPUSH", swap)
        self.check_found("reordered")

    def test_a_value_of_another_key(self):
        # A counter's value does not say whose it is.
        def other(args, rightly):
            return next((bulk(value) for key, value in list(self.node.data.items())
                         if key != args[1] and isinstance(value, bytes) and not value.isdigit()),
                        None)
        self.plant("GET", other)
        self.check_found("wrong")

    def test_a_value_with_one_bad_byte(self):
        self.plant("GET", lambda args, rightly: rightly()[:-3] + b"?\r\n", every=50)
        self.check_found("wrong")

    def test_an_older_value(self):
        old = {}

        def outdated(args, rightly):
            if not args[1].startswith(b"r:"):
                return None
            reply, old[args[1]] = old.get(args[1]), rightly()
            return reply
        self.plant("GET", outdated, every=1)
        self.check_found("stale", "lost")

    def test_a_write_that_is_refused_and_done(self):
        refusal = error("CLUSTERDOWN proxy: slot 1 has no reachable owner (not executed)")
        for name, findings in (("SET", ("wrong",)), ("RPUSH", ("wrong",)),
                               ("INCR", ("duplicated",))):
            with self.subTest(name):
                self.setUp()
                self.plant(name, lambda args, rightly: (rightly(), refusal)[1])
                report = self.check_found(*findings)
                self.assertEqual(list(report["error_kinds"]), [
                    "CLUSTERDOWN proxy: slot # has no reachable owner (not executed)"])

    def test_an_unknown_outcome_may_be_either(self):
        unknown = error("ERR proxy: backend connection lost (outcome unknown)")
        done = False

        def either(args, rightly):
            nonlocal done
            done = not done
            if done:
                rightly()
            return unknown
        for name in ("SET", "INCR", "RPUSH"):
            self.plant(name, either)
        report = self.load("--errors-allowed", "1000000", exit_code=0)
        self.assertEqual(report["errors"], report["unknown_outcomes"])
        self.assertGreater(report["errors"], 0)
        self.load(exit_code=1)

    def test_an_unknown_outcome_must_not_run_later(self):
        unknown = error("ERR proxy: backend connection lost (outcome unknown)")
        late = []

        def delay(args, rightly):
            late.append(args)
            return unknown

        def catch_up(args, rightly):
            reply = rightly()
            while late and late[0][1] == args[1]:
                self.push(None, late.pop(0))
            return reply
        self.plant("RPUSH", catch_up, every=1)
        self.plant("RPUSH", delay, every=10)
        self.check_found("reordered")

    def test_a_raw_redirection(self):
        self.plant("GET", lambda args, rightly: error("MOVED 1 127.0.0.1:1"))
        self.check_found("wrong")

    def test_a_closed_connection_is_made_anew(self):
        self.plant("SET", lambda args, rightly: (rightly(), Cut())[1], every=50)
        report = self.load(exit_code=0)
        self.assertGreater(report["reconnects"], 0)
        self.assertGreater(report["unknown_outcomes"], 0)

    def test_nobody_there(self):
        self.node.go_down()
        result = subprocess.run([LOADRUNNER, "--addr", self.node.address],
                                stdin=subprocess.DEVNULL, capture_output=True, text=True,
                                timeout=seconds(60), check=False)
        self.assertEqual((result.returncode, result.stdout), (2, ""))
        self.assertEqual(result.stderr, "loadrunner: cannot connect to %s\n" % self.node.address)

    def test_bad_flags(self):
        for flags in (["--wriers", "1"], ["--writers"], ["--writers", "x"], ["--writers", "0"],
                      ["--value-size", "9-2"], ["--addr", "nowhere"], ["x"]):
            with self.subTest(flags=flags):
                result = subprocess.run([LOADRUNNER, *flags], stdin=subprocess.DEVNULL,
                                        capture_output=True, text=True, timeout=60, check=False)
                self.assertEqual(result.returncode, 2)
                self.assertEqual(len(result.stderr.splitlines()), 1, result.stderr)


if __name__ == "__main__":
    unittest.main()
