"""--cluster-face: the proxies look like the nodes of a cluster, in the words of the cluster behind
them. What real libraries make of it, tests/e2e/applications_test.py tells."""

import re
import shutil
import subprocess

from harness import RealClusterTestCase, key_slot, keys_in_slots, seconds, unittest
from local_cluster import loopback_port_is_free
from local_proxy import choose_port
from resp_client import RespClient

SLOTS = 16384


def numbered_ids(data):
    """Ids are numbered in the order in which they come."""
    seen = {}
    return re.sub(rb"\b[0-9a-f]{40}\b", lambda it: b"ID%d" % seen.setdefault(it[0], len(seen)), data)


def by_slots(shards):
    """The servers list shards in the order of a hash table."""
    return sorted(shards, key=lambda shard: dict(zip(shard[0::2], shard[1::2]))[b"slots"]
                  if isinstance(shard, list) else shard[b"slots"])


class ClusterFaceTest(RealClusterTestCase):
    cluster_options = {"replicas": 0}

    def start_faces(self, count):
        """Proxies that are one cluster, in the order of their slots."""
        addresses = []
        while len(addresses) < count:
            address = "127.0.0.1:%d" % choose_port()
            if address not in addresses:
                addresses.append(address)
        return [self.start_proxy(self.cluster.addresses, "--cluster-face", "--cluster-face-nodes",
                                 ",".join(addresses), addr=address) for address in addresses]

    # --- beside a node

    def test_its_lists_have_the_shape_of_a_nodes(self):
        """It is told to look like these very nodes: then nothing differs but ids and times."""
        nodes = list(dict.fromkeys(self.cluster.slot_map()))
        proxy = self.start_proxy(
            self.cluster.addresses, "--cluster-face",
            "--cluster-face-address", nodes[0].address,
            "--cluster-face-nodes", ",".join(node.address for node in nodes))
        client = self.client(proxy)
        with nodes[0].connect() as node:
            for protocol in ("2", "3"):
                for connection in (node, client):
                    connection.call("HELLO", protocol)
                self.assertEqual(numbered_ids(client.raw("CLUSTER", "SLOTS")),
                                 numbered_ids(node.raw("CLUSTER", "SLOTS")))
                self.assert_same_shards(client, node)
                self.assertEqual(self.node_lines(client), self.node_lines(node))
                self.assertEqual(self.info_lines(client), self.info_lines(node))
                self.assertEqual(client.raw("CLUSTER", "INFO")[:1], node.raw("CLUSTER", "INFO")[:1])
                self.assertEqual(client.raw("CLUSTER", "NODES")[:1],
                                 node.raw("CLUSTER", "NODES")[:1])
                self.assert_same_replies(client, node, protocol)

    def assert_same_shards(self, client, node):
        shards = [by_slots(connection.call("CLUSTER", "SHARDS")) for connection in (client, node)]
        # The servers' offsets tell of their replicas.
        texts = [numbered_ids(re.sub(r"(replication-offset', )\d+", r"\g<1>0",
                                     repr(it).replace(": ", ", ")).encode()) for it in shards]
        self.assertEqual(texts[0], texts[1])

    def node_lines(self, connection):
        """By address: ids and times are of no account."""
        text = connection.call("CLUSTER", "NODES").removeprefix(b"txt:")
        lines = [line.split(b" ") for line in text.splitlines()]
        for fields in lines:
            self.assertRegex(fields[0], rb"^[0-9a-f]{40}$")
            for place in (4, 5):
                self.assertRegex(fields[place], rb"^\d+$")
            fields[0] = fields[4] = fields[5] = b""
        return sorted(lines)

    def info_lines(self, connection):
        """But for the counters of each kind of message, which appear with the first of them."""
        text = connection.call("CLUSTER", "INFO").removeprefix(b"txt:").decode()
        self.assertTrue(text.endswith("\r\n"))
        lines = [re.sub(r"(messages_(sent|received)|exceeded):\d+$", r"\1", line)
                 for line in text.split("\r\n")]
        return [line for line in lines
                if not re.match("cluster_stats_messages_[a-z-]+_(sent|received)", line)]

    def assert_same_replies(self, client, node, protocol):
        for line in ("CLUSTER REPLICAS x", "CLUSTER SLAVES x", "CLUSTER COUNT-FAILURE-REPORTS x",
                     "CLUSTER REPLICAS " + "a" * 40, "CLUSTER SLOTS x", "CLUSTER INFO x",
                     "CLUSTER NODES x", "CLUSTER MYID x", "CLUSTER REPLICAS", "CLUSTER NOSUCH",
                     "CLUSTER KEYSLOT a{b}c", "CLUSTER COUNTKEYSINSLOT 0", "READONLY",
                     "READWRITE", "ASKING", "ASKING x", "SELECT 0", "SELECT 1", "SELECT 99",
                     "SELECT -1", "SELECT x", "INFO cluster", "ROLE",
                     "CONFIG GET cluster-enabled"):
            self.assertEqual(client.raw(*line.split(" ")), node.raw(*line.split(" ")), line)
        for name in ("REPLICAS", "SLAVES", "COUNT-FAILURE-REPORTS"):
            replies = [connection.raw("CLUSTER", name, connection.call("CLUSTER", "MYID"))
                       for connection in (client, node)]
            self.assertEqual(replies[0], replies[1], name)
        for name in ("MYID", "MYSHARDID"):
            self.assertEqual(*[numbered_ids(connection.raw("CLUSTER", name))
                               for connection in (client, node)])
        hello = [re.sub(rb"\$2\r\nid\r\n:\d+", b"", connection.raw("HELLO", protocol))
                 for connection in (client, node)]
        self.assertEqual(hello[0], hello[1])
        modes = [sorted(re.findall(rb"\w+_mode:\w+", connection.call("INFO", "server")))
                 for connection in (client, node)]
        self.assertLessEqual(set(modes[1]), set(modes[0]))
        self.assertIn(b"redis_mode:cluster", modes[0])
        known = set(node.call("CLUSTER", "HELP"))
        self.assertEqual([line for line in client.call("CLUSTER", "HELP") if line not in known], [])
        # There are no links between proxies.
        self.assertEqual(client.call("CLUSTER", "LINKS"), [])

    def test_the_lists_also_come_within_a_transaction(self):
        client = self.client(self.start_proxy(self.cluster.addresses, "--cluster-face"))
        slots = client.call("CLUSTER", "SLOTS")
        client.call("MULTI")
        for command in (("CLUSTER", "SLOTS"), ("SET", "k", "v"), ("ASKING",)):
            self.assertEqual(client.command(*command), b"QUEUED")
        self.assertEqual(client.call("EXEC"), [slots, b"OK", b"OK"])

    def test_without_it_there_is_no_cluster_to_be_seen(self):
        client = self.client(self.start_proxy(self.cluster.addresses))
        for line in ("CLUSTER SLOTS", "CLUSTER SHARDS", "CLUSTER NODES", "CLUSTER INFO",
                     "CLUSTER LINKS", "CLUSTER REPLICAS x", "ASKING"):
            self.assert_error(client.command(*line.split(" ")),
                              "ERR This instance has cluster support disabled")
        self.assertIn(b"standalone", client.call("HELLO"))
        self.assertIn(b"redis_mode:standalone", client.call("INFO"))
        self.assertIn(b"cluster_enabled:0", client.call("INFO"))

    def test_without_a_cluster_behind_it_its_state_says_so(self):
        proxy = self.start_proxy(["127.0.0.1:1"], "--cluster-face", wait="alive")
        self.assertIn(b"cluster_state:fail", self.client(proxy).call("CLUSTER", "INFO"))

    # --- alone

    def assert_alone_at(self, client, host, port):
        slots = client.call("CLUSTER", "SLOTS")
        self.assertEqual([(first, last, node[:2]) for first, last, node in slots],
                         [(0, SLOTS - 1, [host.encode(), port])])
        identity = client.call("CLUSTER", "MYID")
        self.assertEqual(identity, slots[0][2][2])
        self.assertTrue(client.call("CLUSTER", "NODES").startswith(
            b"%s %s:%d@%d myself,master - 0 0 1 connected 0-16383\n" %
            (identity, host.encode(), port, port + 10000)))
        return identity

    def test_its_address_is_the_one_that_a_client_connected_to(self):
        port = choose_port()
        path = self.directory + "/socket"
        wildcard = "0.0.0.0:%d,unix:%s" % (port, path)
        has_ipv6 = loopback_port_is_free("::1", port)
        if has_ipv6:
            wildcard += ",[::]:%d" % port
        self.start_proxy(self.cluster.addresses, "--cluster-face", "--workers", "2", addr=wildcard)
        ids = set()
        for address, host in ((("127.0.0.1", port), "127.0.0.1"), (("127.0.0.2", port), "127.0.0.2"),
                              (path, "127.0.0.1"), (("127.0.0.1", port), "127.0.0.1"),
                              (("::1", port), "::1")):
            if host == "::1" and not has_ipv6:
                continue
            with RespClient(address, seconds(20)) as client:
                ids.add(self.assert_alone_at(client, host, port))
        self.assertEqual(len(ids), 3 if has_ipv6 else 2)

    def test_its_address_may_be_configured(self):
        proxy = self.start_proxy(self.cluster.addresses, "--cluster-face", "--cluster-face-address",
                                 "proxy-a.example:6379")
        self.assert_alone_at(self.client(proxy), "proxy-a.example", 6379)

    # --- several

    def test_all_proxies_of_a_list_tell_the_same(self):
        proxies = self.start_faces(3)
        clients = [self.client(proxy) for proxy in proxies]
        for words in (("SLOTS",), ("SHARDS",)):
            self.assertEqual(len({client.raw("CLUSTER", *words) for client in clients}), 1)
        ports = [node[1] for _, _, node in clients[0].call("CLUSTER", "SLOTS")]
        self.assertEqual(["127.0.0.1:%d" % port for port in ports],
                         [proxy.addr for proxy in proxies])
        for proxy, client in zip(proxies, clients):
            lines = client.call("CLUSTER", "NODES").decode().splitlines()
            myself = [line.split(" ") for line in lines if "myself" in line]
            self.assertEqual(len(lines), 3)
            self.assertEqual([fields[1].split("@")[0] for fields in myself], [proxy.addr])
            self.assertEqual(client.call("CLUSTER", "MYID").decode(), myself[0][0])
            self.assertEqual(client.call("CLUSTER", "REPLICAS", myself[0][0]), [])

    def test_each_serves_every_slot(self):
        clients = [self.client(proxy) for proxy in self.start_faces(2)]
        keys = keys_in_slots(60, "face-")
        for number, key in enumerate(keys):
            for client in clients:
                self.assertEqual(client.call("SET", key, number), b"OK")
                self.assertEqual(client.call("CLUSTER", "COUNTKEYSINSLOT", key_slot(key)), 1)
        for client in clients:
            self.assertEqual(client.call("MGET", *keys), [b"%d" % i for i in range(60)])
        self.assertEqual([client.call("DEL", *keys) for client in clients], [60, 0])

    def test_what_all_nodes_are_asked_for_is_told_once(self):
        """A cluster's client asks each node, and puts the answers together."""
        proxies = self.start_faces(3)
        clients = [self.client(proxy) for proxy in proxies]
        clients[0].call("FLUSHALL")
        keys = sorted(key.encode() for key in keys_in_slots(500, "once-"))
        clients[0].call("MSET", *[word for key in keys for word in (key, "x")])
        for protocol in ("2", "3"):
            for client in clients:
                client.call("HELLO", protocol)
            parts = [client.call("KEYS", "once-*") for client in clients]
            self.assertEqual(sorted(key for part in parts for key in part), keys)
            scans = [self.scan(client, "MATCH", "once-*", "COUNT", "50") for client in clients]
            self.assertEqual([sorted(part) for part in scans], [sorted(part) for part in parts])
            self.assertEqual([sorted(self.scan(client, "TYPE", "string")) for client in clients],
                             [sorted(part) for part in parts])
            for part, (first, last, _) in zip(parts, clients[0].call("CLUSTER", "SLOTS")):
                self.assertTrue(part)
                self.assertTrue(all(first <= key_slot(key) <= last for key in part))
            self.assertEqual(sum(client.call("DBSIZE") for client in clients), len(keys))
        # A cursor of another proxy is not an endless loop.
        self.assertEqual(clients[0].call("SCAN", SLOTS - 1), [b"0", []])
        self.assertEqual(clients[2].call("FLUSHALL"), b"OK")
        self.assertEqual([client.call("DBSIZE") for client in clients], [0, 0, 0])

    def scan(self, client, *options):
        cursor, keys = b"0", []
        while True:
            cursor, some = client.call("SCAN", cursor, *options)
            keys += some
            if cursor == b"0":
                return keys

    def test_subscribers_are_told_of_once(self):
        proxies = self.start_faces(2)
        clients = [self.client(proxy) for proxy in proxies]
        channels = keys_in_slots(40, "channel-")
        names = sorted(channel.encode() for channel in channels)
        for subscribe, numsub, listed in (("SUBSCRIBE", "NUMSUB", "CHANNELS"),
                                          ("SSUBSCRIBE", "SHARDNUMSUB", "SHARDCHANNELS")):
            for proxy in proxies:
                subscriber = self.client(proxy)
                # Shard channels of different slots come in commands of their own.
                for channel in channels:
                    subscriber.call(subscribe, channel)
            counts = [client.call("PUBSUB", numsub, *channels)[1::2] for client in clients]
            self.assertEqual([sum(parts) for parts in zip(*counts)], [2] * len(channels))
            told = [client.call("PUBSUB", listed) for client in clients]
            self.assertEqual(sorted(name for part in told for name in part), names)
            self.assertTrue(all(told))
        self.client(proxies[1]).call("PSUBSCRIBE", "channel-*")
        self.assertEqual(sum(client.call("PUBSUB", "NUMPAT") for client in clients), 1)

    def test_a_shard_channel_reaches_subscribers_of_all_proxies(self):
        proxies = self.start_faces(2)
        subscribers = [self.client(proxy) for proxy in proxies]
        for channel in keys_in_slots(10, "shard-"):
            for subscriber in subscribers:
                self.assertEqual(subscriber.call("SSUBSCRIBE", channel)[:2],
                                 [b"ssubscribe", channel.encode()])
            for number, proxy in enumerate(proxies):
                self.client(proxy).call("SPUBLISH", channel, number)
                for subscriber in subscribers:
                    self.assertEqual(subscriber.read(),
                                     [b"smessage", channel.encode(), b"%d" % number])

    # --- with the servers' own tools

    def run_tool(self, *command):
        done = subprocess.run(command, check=False, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=seconds(60))
        output = done.stdout.decode(errors="replace")
        self.assertEqual(done.returncode, 0, "%s: %s" % (command, output))
        return output

    @unittest.skipUnless(shutil.which("redis-cli") and shutil.which("redis-benchmark"),
                         "redis-tools are not installed")
    def test_the_servers_tools_find_a_cluster(self):
        for proxies in ([self.start_proxy(self.cluster.addresses, "--cluster-face")],
                        self.start_faces(3)):
            for proxy in proxies:
                output = self.run_tool("redis-cli", "--cluster", "check", proxy.addr)
                self.assertIn("[OK] All nodes agree about slots configuration.", output)
                self.assertIn("[OK] All 16384 slots covered.", output)
                self.assertIn("in %d masters" % len(proxies),
                              self.run_tool("redis-cli", "--cluster", "info", proxy.addr))
                output = self.run_tool("redis-cli", "--cluster", "call", proxy.addr, "PING")
                self.assertEqual(output.count("PONG"), len(proxies))
            connect = [["-h", *proxy.addr.rsplit(":", 1)] for proxy in proxies]
            for words in connect:
                words.insert(2, "-p")
            for key in keys_in_slots(20, "cli-"):
                self.assertEqual(
                    self.run_tool("redis-cli", "-c", *connect[0], "SET", key, "v").strip(), "OK")
                self.assertEqual(
                    self.run_tool("redis-cli", "-c", *connect[-1], "GET", key).strip(), "v")
            if len(proxies) == 1:
                continue  # redis-benchmark takes no cluster of one node
            output = self.run_tool("redis-benchmark", "--cluster", *connect[0], "-t", "set,get",
                                   "-n", "5000", "-r", "1000", "-q")
            self.assertIn("Cluster has %d master nodes" % len(proxies), output)
            self.assertNotIn("rror", output)


if __name__ == "__main__":
    unittest.main()
