"""The tools that the tests stand on: the local cluster, process identity, the backports source."""

import os
import signal
import subprocess
import sys
import tempfile

from harness import (ClusterError, LocalCluster, ROOT, SERVER, key_slot, require_server, unittest,
                     wait_until)
from local_cluster import Process, process_start_time

CLUSTER = os.path.join(ROOT, "tools", "cluster")


class LocalClusterTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        require_server()
        cls.cluster = LocalCluster(server=SERVER).start()

    @classmethod
    def tearDownClass(cls):
        cls.cluster.stop()

    def test_1_every_slot_is_served_and_replicas_are_in_sync(self):
        self.cluster.wait_until_ready()
        self.assertEqual(len(set(self.cluster.slot_map())), 3)
        self.assertNotIn(None, self.cluster.slot_map())
        for primary in self.cluster.primaries():
            self.assertEqual(len(self.cluster.replicas_of(primary)), 1)

    def test_2_a_slot_moves_with_its_keys(self):
        slot = key_slot("{m}")
        source = self.cluster.owner(slot)
        target = next(node for node in self.cluster.primaries() if node is not source)
        with source.connect() as client:
            for number in range(50):
                client.call("SET", "{m}%d" % number, number)
        self.assertIs(self.cluster.begin_move(slot, target), source)
        self.assertEqual(self.cluster.move_keys(slot, source, target, at_most=20), 20)
        with source.connect() as client:
            replies = [client.command("GET", "{m}%d" % number) for number in range(50)]
        self.assertEqual(sum(str(reply).startswith("ASK ") for reply in replies), 20)
        self.cluster.finish_move(slot, source, target)
        self.assertIs(self.cluster.owner(slot), target)
        with target.connect() as client:
            self.assertEqual([client.call("GET", "{m}%d" % number) for number in range(50)],
                             [b"%d" % number for number in range(50)])
        self.cluster.move_slot(slot, source)
        self.cluster.wait_until_ready()

    def test_3_a_killed_primary_is_replaced_and_comes_back_as_replica(self):
        victim = self.cluster.primaries()[0]
        replica = self.cluster.replicas_of(victim)[0]
        self.cluster.kill_node(victim)
        self.assertNotIn(victim, self.cluster.running())
        wait_until(replica.is_primary, "the failover", 20)
        self.cluster.restart_node(victim)
        self.cluster.wait_until_ready()
        self.assertFalse(victim.is_primary())

    def test_4_a_paused_node_answers_again_when_resumed(self):
        node = self.cluster.replicas_of(self.cluster.primaries()[0])[0]
        self.cluster.pause_node(node)
        with self.assertRaises(OSError):
            node.command("PING", timeout=0.3)
        self.cluster.resume_node(node)
        self.assertEqual(node.command("PING"), b"PONG")
        self.cluster.wait_until_ready()

    def test_5_nodes_join_and_leave(self):
        node = self.cluster.add_node()
        self.cluster.wait_until_ready()
        slot = 100
        old = self.cluster.move_slot(slot, node)
        self.assertIs(self.cluster.owner(slot), node)
        self.cluster.move_slot(slot, old)
        with self.assertRaises(ClusterError):
            self.cluster.remove_node(old)
        self.cluster.remove_node(node)
        self.cluster.wait_until_ready()


class CommandLineTest(unittest.TestCase):
    def run_cluster(self, *arguments):
        return subprocess.run([sys.executable, CLUSTER, *arguments], stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=120, check=False)

    def test_start_status_stop(self):
        require_server()
        with tempfile.TemporaryDirectory() as directory:
            state = os.path.join(directory, "cluster")
            started = self.run_cluster("start", "--dir", state, "--server", SERVER, "--primaries",
                                       "1", "--replicas", "1", "--password", "it's a \"secret\"",
                                       "--config", "maxmemory 100mb")
            self.assertEqual(started.returncode, 0, started.stderr)
            cluster = LocalCluster.load(state)
            try:
                self.assertEqual(cluster.nodes[0].command("CONFIG", "GET", "maxmemory")[1],
                                 b"104857600")
                self.assertIn("ready", self.run_cluster("status", "--dir", state).stdout)
                again = self.run_cluster("start", "--dir", state)
                self.assertEqual(again.returncode, 1)
                self.assertEqual(len(again.stderr.splitlines()), 1)
                self.assertNotIn("secret", started.stdout + again.stderr)
                command_lines = [open("/proc/%d/cmdline" % node.process.pid, "rb").read()
                                 for node in cluster.nodes]
                self.assertFalse([line for line in command_lines if b"secret" in line])
            finally:
                stopped = self.run_cluster("stop", "--dir", state)
            self.assertEqual(stopped.stdout, "stopped 2 servers\n")
            self.assertEqual(os.listdir(directory), [])
            self.assertEqual(self.run_cluster("stop", "--dir", state).returncode, 1)

    def test_a_server_that_is_missing_is_named(self):
        with tempfile.TemporaryDirectory() as directory:
            result = self.run_cluster("start", "--dir", directory, "--server", "no-such-server")
        self.assertEqual(result.returncode, 1)
        self.assertEqual(result.stderr, "tools/cluster: no-such-server is not installed\n")


class ProcessTest(unittest.TestCase):
    def setUp(self):
        self.child = subprocess.Popen(["sleep", "60"])
        self.addCleanup(self.child.wait)
        self.addCleanup(self.child.kill)
        # Between fork and exec the command line is still ours.
        wait_until(lambda: b"sleep" in open("/proc/%d/cmdline" % self.child.pid, "rb").read(),
                   "sleep to start")

    def test_a_process_id_given_out_again_is_never_signalled(self):
        started = process_start_time(self.child.pid)
        for process in (Process(self.child.pid, started + 1, "sleep"),
                        Process(self.child.pid, started, "redis-server"),
                        Process(self.child.pid, started, "sleep", boot="another")):
            self.assertFalse(process.is_alive())
            process.end()
            self.assertIsNone(self.child.poll())

    def test_the_right_one_is_ended(self):
        process = Process(self.child.pid, process_start_time(self.child.pid), "sleep")
        self.assertTrue(process.is_alive())
        process.send_signal(signal.SIGSTOP)
        process.end()
        self.assertEqual(self.child.wait(10), -signal.SIGTERM)


class BackportsSourceTest(unittest.TestCase):
    DEB822 = """Types: deb
# a comment
URIs: https://one.test/debian
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/one.gpg

Types: deb
URIs: https://one.test/security
Suites: bookworm-security
Components: main
"""
    KEY_INSIDE = """Types: deb deb-src
URIs: https://two.test/debian
Suites: bookworm
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abc
 -----END PGP PUBLIC KEY BLOCK-----
"""

    def derive(self, files, *options):
        with tempfile.TemporaryDirectory() as directory:
            os.makedirs(os.path.join(directory, "sources.list.d"))
            for name, text in files.items():
                with open(os.path.join(directory, name), "w", encoding="utf-8") as file:
                    file.write(text)
            return subprocess.run(
                [sys.executable, os.path.join(ROOT, "tools", "debian_source.py"), directory,
                 "bookworm", *options], capture_output=True, text=True, timeout=30, check=False)

    def test_deb822(self):
        self.assertEqual(
            self.derive({"sources.list.d/debian.sources": self.DEB822}).stdout,
            "Types: deb\nURIs: https://one.test/debian\nSuites: bookworm-backports\n"
            "Components: main\nSigned-By: /usr/share/keyrings/one.gpg\n")

    def test_deb822_with_the_key_inside(self):
        self.assertEqual(
            self.derive({"sources.list.d/a.sources": self.KEY_INSIDE}).stdout,
            self.KEY_INSIDE.replace("deb deb-src", "deb").replace(
                "Suites: bookworm", "Suites: bookworm-backports").replace(
                    "Signed-By:\n", "Signed-By: \n"))

    def test_one_line(self):
        self.assertEqual(
            self.derive({"sources.list": "# x\ndeb-src https://s.test/debian bookworm main\n"
                         "deb [arch=amd64 signed-by=/k.gpg] https://s.test/debian bookworm main\n"
                         }).stdout,
            "Types: deb\nURIs: https://s.test/debian\nSuites: bookworm-backports\n"
            "Components: main\nArchitectures: amd64\nSigned-By: /k.gpg\n")

    def test_another_suite(self):
        self.assertEqual(
            self.derive({"sources.list.d/debian.sources": self.DEB822}, "--suite", "sid").stdout,
            "Types: deb\nURIs: https://one.test/debian\nSuites: sid\n"
            "Components: main\nSigned-By: /usr/share/keyrings/one.gpg\n")
        self.assertIn("Suites: sid\n", self.derive(
            {"sources.list": "deb https://s.test/debian bookworm main\n"}, "--suite", "sid").stdout)

    def test_no_source_of_the_release(self):
        for files in ({}, {"sources.list.d/a.sources": self.DEB822.replace("bookworm", "trixie")},
                      {"sources.list.d/a.sources": "Enabled: no\n" + self.DEB822},
                      {"sources.list": "deb https://s.test/debian trixie main\n"}):
            result = self.derive(files)
            self.assertEqual((result.returncode, result.stdout), (1, ""))
            self.assertEqual(len(result.stderr.splitlines()), 1)


if __name__ == "__main__":
    unittest.main()
