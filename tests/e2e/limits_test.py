"""Limits of clients and of what nodes may say, on the real binary: sockets, processor, memory."""

import json
import os
import resource
import socket
import subprocess

from fake_node import FakeNode
from harness import (BINARY, Background, FULL, FakeClusterTestCase, ROOT, RealClusterTestCase,
                     SANITIZED, SERVER, key_slot, seconds, time, unittest, wait_until)

MIB = 1 << 20


def cpu_seconds(proxy):
    with open("/proc/%d/stat" % proxy.process.pid, encoding="ascii") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class ConnectFloodTest(FakeClusterTestCase):
    """C7: many connects, all of them silent."""

    PLACES = 100
    CONNECTS = 20000 if FULL else 3000

    def test_c7_a_flood_of_silent_clients_is_refused_and_disturbs_nobody(self):
        path = os.path.join(self.directory, "password")
        with open(path, "w", encoding="ascii") as file:
            file.write("secret\n")
        os.chmod(path, 0o600)
        cluster, proxy = self.start_with_fakes("--max-clients", str(self.PLACES),
                                               "--requirepass-file", path, "--auth-timeout", "10s")
        client = self.client(proxy)
        self.assertEqual(client.command("AUTH", "secret"), b"OK")
        host, port = proxy.addr.rsplit(":", 1)
        # Each side holds some descriptors of those that are closing.
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536), hard))
        silent, told = [], 0
        slowest = 0.0
        begin, cpu = time.monotonic(), cpu_seconds(proxy)
        for number in range(self.CONNECTS):
            sock = socket.create_connection((host, int(port)), timeout=seconds(20))
            if len(silent) < self.PLACES - 1:
                silent.append(sock)
                self.addCleanup(sock.close)
                continue
            told += sock.recv(100) == b"-ERR max number of clients reached\r\n"
            sock.close()
            if number % 50 == 0:
                asked = time.monotonic()
                self.assertEqual(client.command("SET", "k%d" % number, "v"), b"OK")
                slowest = max(slowest, time.monotonic() - asked)
        elapsed, cpu = time.monotonic() - begin, cpu_seconds(proxy) - cpu
        print("%d connects in %.1f s, %.2f s of processor, slowest SET %.0f ms" % (
            self.CONNECTS, elapsed, cpu, slowest * 1000))
        self.assertEqual(told, self.CONNECTS - len(silent))
        self.assertLess(cpu, elapsed, "more than one processor")
        self.assertLess(slowest, seconds(0.5))
        lines = [line for line in proxy.log().splitlines() if "max number of clients" in line]
        self.assertLessEqual(len(lines), elapsed + 2)
        self.assertGreaterEqual(len(lines), 1)
        # At the limit and idle, it does not spin.
        begin, cpu = time.monotonic(), cpu_seconds(proxy)
        wait_until(lambda: time.monotonic() > begin + 1, "a quiet second", 10)
        self.assertLess(cpu_seconds(proxy) - cpu, 0.2 * (time.monotonic() - begin))
        # Those that stay silent are closed, and their places free.
        wait_until(lambda: proxy.metrics()["clients"] == 1, "the silent to be closed", seconds(15))
        self.assertEqual(client.command("PING"), b"PONG")
        for sock in silent:
            self.assertEqual(sock.recv(100), b"")


class IdleClientsTest(unittest.TestCase):
    @unittest.skipIf(SANITIZED, "the sanitizer's own memory")
    def test_clients_that_do_nothing_take_little_memory(self):
        result = subprocess.run(
            [os.path.join(ROOT, "tools", "idle_memory"), "--json", "--clients", "1500",
             "--server", SERVER, "--proxy", BINARY],
            capture_output=True, text=True, timeout=seconds(120), check=False)
        self.assertEqual(result.returncode, 0, result.stderr)
        steps = json.loads(result.stdout)["steps"]
        self.assertEqual(len(steps), 4)
        self.assertLess(steps[0]["other_kib"], 16 << 10)
        for step in steps[1:]:
            self.assertGreater(step["bytes_per_client"], 0, steps)
            self.assertLess(step["bytes_per_client"], 1536, steps)


class FanOutTest(RealClusterTestCase):
    """C16: one command over very many keys in all slots."""

    cluster_options = {"replicas": 0}
    KEYS = 1000000 if FULL else 100000
    VALUE = b"v" * 200

    @staticmethod
    def header(count):
        return b"*%d\r\n" % count

    @staticmethod
    def bulk(data):
        return b"$%d\r\n%s\r\n" % (len(data), data)

    def exchange(self, client, request, wanted):
        """Sends and reads at the same time; the reply's bytes."""
        begin = time.monotonic()
        sender = Background(lambda _: client.send_raw(request))
        received = bytearray()
        while len(received) < wanted:
            data = client.socket.recv(MIB)
            if not data:
                break
            received += data
            if received[:1] == b"-":
                break
        sender.join_or_raise(seconds(60))
        elapsed = time.monotonic() - begin
        print("%.2f s" % elapsed, end=", ")
        # Nothing in it may grow with the square of the number of keys.
        self.assertLess(elapsed, seconds(5) * self.KEYS / 100000)
        return bytes(received)

    @unittest.skipIf(SANITIZED, "a sanitizer's own memory is not what is measured")
    def test_c16_a_fan_out_over_all_slots_stays_within_twice_its_payload(self):
        proxy = self.start_proxy(self.cluster.addresses, "--workers", "1")
        client = self.client(proxy, timeout=seconds(120))
        keys = [b"fan:%d" % number for number in range(self.KEYS)]
        self.assertGreater(len({key_slot(key) for key in keys[:100000]}), 16000)
        base = proxy.memory_kib("VmRSS")
        mset = self.header(1 + 2 * len(keys)) + self.bulk(b"MSET") + b"".join(
            self.bulk(key) + self.bulk(self.VALUE) for key in keys)
        self.assertEqual(self.exchange(client, mset, 5), b"+OK\r\n")
        self.check_peak(proxy, base, len(mset), "MSET")
        mget = self.header(1 + len(keys)) + self.bulk(b"MGET") + b"".join(
            self.bulk(key) for key in keys)
        reply = self.header(len(keys)) + self.bulk(self.VALUE) * len(keys)
        self.assertEqual(self.exchange(client, mget, len(reply)), reply)
        self.check_peak(proxy, base, max(len(mset), len(mget) + len(reply)), "MGET")
        wait_until(lambda: proxy.metrics()["charged_bytes"] == 0, "no byte to be charged",
                   seconds(10))

    def check_peak(self, proxy, base, payload, name):
        grown = (proxy.memory_kib("VmHWM") - base) << 10
        print("%s: %.1f MiB for %.1f MiB of payload" % (name, grown / MIB, payload / MIB))
        # The receive buffers, which are there anyway, take some of it when they are first used.
        self.assertLess(grown, 2 * payload + 64 * MIB)


class LargeViewTest(FakeClusterTestCase):
    """B27: views of the cluster that are larger than anybody's."""

    def padded(self, cluster, bytes_wanted):
        """What CLUSTER NODES says, and so many bytes of nodes that have left."""
        def view(asked):
            gone = []
            number = size = 0
            while size < bytes_wanted:
                number += 1
                line = "%040x :0@0,%s slave,fail,noaddr %s 1 1 0 disconnected\n" % (
                    0xdead0000 + number, "h" * 200, cluster.node(0).id)
                gone.append(line)
                size += len(line)
            return cluster.view(asked) + "".join(gone)
        return view

    @unittest.skipIf(SANITIZED, "a sanitizer's own memory is not what is measured")
    def test_b27_a_view_of_6_mb_takes_no_more_than_four_times_its_size(self):
        cluster, proxy = self.start_with_fakes()
        client = self.client(proxy)
        self.assertEqual(client.command("SET", "k", "v"), b"OK")
        base = proxy.memory_kib("VmRSS")
        views = {}
        for node in cluster.nodes:
            views[node] = self.padded(cluster, 6 * MIB)(node)
            node.view_text = views[node]
        slowest = 0.0
        size = len(views[cluster.node(0)])
        before = proxy.metrics()["topology_changes_total"]
        deadline = time.monotonic() + seconds(20)
        while proxy.metrics()["cluster_nodes"] < 1000 and time.monotonic() < deadline:
            cluster.node(0).cut_all()  # a reason to ask
            asked = time.monotonic()
            client.command("GET", "k")
            slowest = max(slowest, time.monotonic() - asked)
        self.assertGreater(proxy.metrics()["cluster_nodes"], 10000)
        self.assertEqual(proxy.metrics()["topology_changes_total"], before + 1)
        for _ in range(200):
            asked = time.monotonic()
            self.assertEqual(client.command("SET", "k", "v"), b"OK")
            slowest = max(slowest, time.monotonic() - asked)
        grown = (proxy.memory_kib("VmHWM") - base) << 10
        print("%.1f MiB for a view of %.1f MiB, slowest command %.0f ms" % (
            grown / MIB, size / MIB, slowest * 1000))
        # And what does not depend on the view: the receive buffers of three threads, which are there
        # anyway, when they are first used, and the allocator's arenas.
        self.assertLess(grown, 4 * size + 8 * MIB)
        self.assertLess(slowest, seconds(1))

    def test_b27_a_thousand_nodes_and_a_range_for_every_slot(self):
        cluster = self.start_fakes()
        # Each slot lies beside those of others; most nodes are replicas that nobody reaches.
        for slot in range(16384):
            cluster.slots[slot] = cluster.node(slot % 3)
        for number in range(3):
            node = cluster.node(number)
            lines = ["%040x 127.0.0.9:%d@0 slave %s 0 0 1 connected\n" % (
                0xbeef0000 + other, 1000 + other, cluster.node(other % 3).id)
                     for other in range(997)]
            node.view_text = cluster.view(node) + "".join(lines)
        proxy = self.start_proxy(cluster.addresses, "--workers", "1")
        self.assertEqual(proxy.metrics()["cluster_nodes"], 1000)
        self.assertEqual(proxy.metrics()["cluster_slots_covered"], 16384)
        client = self.client(proxy)
        for number in range(300):
            self.assertEqual(client.command("SET", "key%d" % number, "v"), b"OK")
        self.assertEqual(proxy.metrics()["redirections_moved_total"], 0)

    def test_b27_what_is_no_view_leaves_the_last_good_one(self):
        cluster, proxy = self.start_with_fakes("--slots-reload-interval", "200ms")
        client = self.client(proxy)
        good = cluster.view(cluster.node(0))
        node_id = cluster.node(0).id.encode()
        self.assertIn(" 0-5461", good)
        for text in ("", "\n", "garbage\n", good[:len(good) // 2] + "\x00", good.replace("0-5461", "0-99999"),
                     "%s 127.0.0.1:1@1 myself,master - 0 0 1 connected\n" % node_id.decode()):
            for node in cluster.nodes:
                node.view_text = text
            before = proxy.metrics()["topology_refresh_failures_total"]
            refused = proxy.metrics()["topology_refused_total"]
            cluster.node(0).cut_all()  # a reason to ask
            wait_until(lambda: proxy.metrics()["topology_refresh_failures_total"] +
                       proxy.metrics()["topology_refused_total"] > before + refused,
                       "a refresh that fails", seconds(20))
            self.assertEqual(client.command("SET", "k", "v"), b"OK")
            self.assertEqual(proxy.metrics()["cluster_slots_covered"], 16384, repr(text)[:200])
        self.assertEqual(proxy.metrics()["topology_changes_total"], 1)


class StrangerTest(FakeClusterTestCase):
    """B30: somebody else has a node's address."""

    def test_b30_a_stranger_at_the_address_of_a_node_gets_no_commands(self):
        cluster, proxy = self.start_with_fakes("--hold-timeout", "500ms")
        client = self.client(proxy)
        self.assertEqual(client.command("SET", "k", "v"), b"OK")
        owner = cluster.owner("k")
        stranger = FakeNode(cluster, 9)
        self.addCleanup(stranger.go_down)
        stranger.go_down()
        owner.go_down()
        stranger.port = owner.port
        stranger.come_up()
        for number in range(5):
            reply = client.command("SET", "k", "w%d" % number)
            self.assert_error(reply, "CLUSTERDOWN proxy: slot %d has no reachable owner "
                                     "(not executed)" % key_slot("k"))
        self.assertGreaterEqual(cluster.count("CLUSTER", "MYID", stranger), 1)
        self.assertEqual(cluster.logged(node=stranger), [])
        stranger.go_down()
        owner.come_up()
        wait_until(lambda: client.command("SET", "k", "x") == b"OK", "the node to serve again",
                   seconds(10))


if __name__ == "__main__":
    unittest.main()
