"""Trouble in a real cluster under load, by tools/chaos: nothing wrong, nothing lost but by the
cluster, and no error that need not be."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile

from harness import (BINARY, BUG_WORDS, BUILD, FULL, ROOT, RealClusterTestCase, SANITIZED, SERVER,
                     key_slot, require_server, seconds, unittest, wait_until)

LOAD = (["--writers", "20", "--readers", "50", "--rate", "2000"] if SANITIZED else
        ["--rate", "10000"])
CLEAN = dict.fromkeys(("wrong", "lost", "stale", "duplicated", "reordered", "unanswered",
                       "unverified", "reconnects"), 0)


class RandomMigrationTest(RealClusterTestCase):
    cluster_options = {"replicas": 0}

    def start_mover(self, *flags):
        mover = subprocess.Popen(
            [sys.executable, os.path.join(ROOT, "tools", "random_migration"), "--nodes",
             self.cluster.addresses[0], *flags],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.addCleanup(mover.communicate)
        self.addCleanup(mover.kill)
        return mover

    def check_keys(self, tag):
        with self.cluster.owner(key_slot(tag)).connect() as client:
            for number in range(40):
                self.assertEqual(client.call("GET", "%s%d" % (tag, number)), b"%d" % number)

    def test_an_interrupted_move_ends_well(self):
        tag = "{moved}"
        slot = key_slot(tag)
        with self.cluster.owner(slot).connect() as client:
            for number in range(40):
                client.call("SET", "%s%d" % (tag, number), number)
        flags = ("--slots", str(slot), "--hold", "60")
        for end, leaves_open in ((signal.SIGINT, False), (signal.SIGTERM, False),
                                 (signal.SIGKILL, True)):
            mover = self.start_mover(*flags)
            source = self.cluster.owner(slot)
            wait_until(lambda source=source:
                       source.command("CLUSTER", "COUNTKEYSINSLOT", slot) == 20,
                       "half of the keys to move", seconds(20))
            mover.send_signal(end)
            self.assertEqual(mover.wait(seconds(20)), -9 if leaves_open else 0)
            self.assertEqual(self.cluster.open_slots(), [slot] if leaves_open else [])
            if not leaves_open:
                self.assertIsNot(self.cluster.owner(slot), source)
                self.check_keys(tag)
        # The next run repairs it, whatever it is to move itself.
        mover = self.start_mover("--slots", "0-9", "--seconds", "0.5")
        output, _ = mover.communicate(timeout=seconds(30))
        self.assertEqual(mover.returncode, 0, output)
        self.assertIn("slot %d was half-moved: repaired" % slot, output)
        self.assertEqual(self.cluster.open_slots(), [])
        self.check_keys(tag)
        self.cluster.wait_until_ready()


class ChaosTest(unittest.TestCase):
    def setUp(self):
        require_server()

    def chaos(self, trouble, in_ci, in_full):
        directory = tempfile.mkdtemp(prefix="rcproxy-chaos-")
        self.addCleanup(shutil.rmtree, directory)
        path = os.path.join(directory, "result")
        run_for = in_full if FULL else in_ci
        ran = subprocess.run(
            [sys.executable, os.path.join(ROOT, "tools", "chaos"), trouble, "--server", SERVER,
             "--seconds", str(run_for), "--proxy", BINARY, "--loadrunner",
             os.path.join(BUILD, "loadrunner"), "--json", path, "--keep", directory, *LOAD],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            timeout=seconds(run_for + 200), check=False)
        print(ran.stdout)
        with open(os.path.join(directory, trouble, "proxy", "proxy.log"), encoding="utf-8",
                  errors="replace") as file:
            log = file.read()
        self.assertFalse(any(word in log for word in BUG_WORDS), log[-6000:])
        self.assertEqual(ran.returncode, 0, ran.stdout)
        with open(path, encoding="utf-8") as file:
            result = json.load(file)[0]
        self.assertEqual({name: result[name] for name in CLEAN}, CLEAN)
        self.assertGreater(result["requests"], 500 * run_for)
        return result

    def test_slots_move_at_random(self):
        result = self.chaos("migration", 6, 600)
        self.assertEqual(result["errors"], 0)
        self.assertGreater(result["metrics"]["redirections_ask_total"], 0)
        self.assertEqual(result["lost_by_cluster"], 0)

    def test_a_slot_stays_half_moved(self):
        result = self.chaos("half-migrated", 6, 70)
        self.assertEqual(result["errors"], 0)
        self.assertGreater(result["metrics"]["redirections_ask_total"], 0)

    def test_primaries_are_killed(self):
        result = self.chaos("kill", 20, 140)
        self.assertGreaterEqual(len(result["failovers"]), 6 if FULL else 1)
        # tools/chaos fails if there are more errors than there were requests on their way to the
        # node, unless the failover takes longer than requests are held.
        allowed = {"ERR proxy: backend connection lost (outcome unknown)",
                   "CLUSTERDOWN proxy: slot # has no reachable owner (not executed)"}
        if any(failover["outlasts_hold"] for failover in result["failovers"]):
            allowed |= {"CLUSTERDOWN The cluster is down", "CLUSTERDOWN Hash slot not served"}
        self.assertLessEqual(set(result["error_kinds"]), allowed)

    @unittest.skipUnless(FULL, "long")
    def test_what_the_cluster_loses_is_told_apart(self):
        result = self.chaos("lossy-kill", 0, 45)
        self.assertGreater(result["lost_by_cluster"], 0)

    def test_primaries_stop_and_come_back(self):
        result = self.chaos("stop", 19, 100)
        self.assertGreaterEqual(len(result["failovers"]), 3 if FULL else 1)
        # Each client has a pipeline of requests at the node, and no more get there.
        self.assertLessEqual(set(result["error_kinds"]),
                             {"ERR proxy: backend timeout (outcome unknown)",
                              "ERR proxy: backend connection lost (outcome unknown)"})

    def test_replicas_take_over_when_told_to(self):
        result = self.chaos("failover", 8, 60)
        self.assertEqual(result["errors"], 0)
        self.assertGreaterEqual(result["failovers"], 1)


if __name__ == "__main__":
    unittest.main()
