"""Commands that ask or change the whole cluster, on real servers."""

import sys

from harness import (FreshClusterTestCase, RealClusterTestCase, SERVER, keys_in_slots, pack,
                     seconds, time, unittest, wait_until)

NOT_REACHABLE = "CLUSTERDOWN proxy: node %s:%d: not reachable (outcome unknown)"


class WholeClusterTest(RealClusterTestCase):
    def setUp(self):
        super().setUp()
        for node in self.cluster.primaries():
            node.command("FLUSHALL")
        self.proxy = self.start_proxy(self.cluster.addresses)
        self.connection = self.client(self.proxy)

    def fill(self, count, prefix="k"):
        keys = keys_in_slots(count, prefix)
        replies = self.connection.pipeline([("SET", key, "v") for key in keys])
        self.assertEqual(replies, [b"OK"] * count)
        return {key.encode() for key in keys}

    def sizes(self):
        return [node.command("DBSIZE") for node in self.cluster.primaries()]

    def test_dbsize_and_keys_tell_of_all_shards(self):
        self.assertEqual(self.connection.command("DBSIZE"), 0)
        self.assertEqual(self.connection.command("KEYS", "*"), [])
        keys = self.fill(500)
        self.assertEqual(self.connection.command("DBSIZE"), 500)
        told = self.connection.command("KEYS", "*")
        self.assertEqual(len(told), 500)
        self.assertEqual(set(told), keys)
        self.assertEqual(set(self.connection.command("KEYS", "k1?")),
                         {key for key in keys if len(key) == 3 and key.startswith(b"k1")})

    def test_keys_in_resp3(self):
        keys = self.fill(50)
        self.connection.command("HELLO", "3")
        self.assertEqual(set(self.connection.command("KEYS", "*")), keys)
        self.assertEqual(self.connection.command("DBSIZE"), 50)

    def test_flushes_reach_all_shards_and_refuse_what_servers_refuse(self):
        for command in (("FLUSHALL",), ("FLUSHDB",), ("FLUSHALL", "ASYNC"), ("FLUSHDB", "SYNC")):
            self.fill(100)
            self.assertEqual(self.connection.command(*command), b"OK", command)
            self.assertEqual(sum(self.sizes()), 0, command)
        self.fill(10)
        for command in ("FLUSHALL", "FLUSHDB"):
            self.assert_error(self.connection.command(command, "BAD"), "ERR syntax error")
            self.assert_error(self.connection.command(command, "SYNC", "ASYNC"),
                              "ERR syntax error")
        self.assertEqual(sum(self.sizes()), 10)

    def test_what_is_pipelined_keeps_its_order(self):
        """Whatever is before FLUSHALL is gone after it, and what comes after it stays."""
        keys = keys_in_slots(40)
        before = [("SET", key, "before") for key in keys]
        after = [("SET", key, "after") for key in keys[:15]]
        for _ in range(20):
            batch = before + [("FLUSHALL",)] + after + [("DBSIZE",), ("GET", keys[0])]
            replies = self.connection.pipeline(batch)
            self.assertEqual(replies, [b"OK"] * (len(before) + 1 + len(after)) + [15, b"after"])

    def test_clients_pipeline_whole_cluster_commands_by_the_hundred(self):
        keys = self.fill(30)
        replies = self.connection.pipeline([("DBSIZE",), ("KEYS", "*")] * 200)
        self.assertEqual(replies[0::2], [30] * 200)
        self.assertTrue(all(set(reply) == keys for reply in replies[1::2]))

    def test_a_client_that_leaves_in_the_middle_harms_nobody(self):
        self.fill(1000)
        for _ in range(20):
            leaver = self.client(self.proxy)
            leaver.send_raw(pack("KEYS", "*") + pack("DBSIZE"))
            leaver.close()
        self.assertEqual(self.connection.command("DBSIZE"), 1000)


class FailingClusterTest(FreshClusterTestCase):
    def test_a_shard_that_is_down_is_named_and_no_part_is_given(self):
        cluster = self.start_cluster(primaries=3, replicas=0)
        proxy = self.start_proxy(cluster.addresses, "--hold-timeout", "500ms")
        client = self.client(proxy)
        self.assertEqual(client.command("DBSIZE"), 0)
        victim = cluster.primaries()[0]
        cluster.kill_node(victim)
        wait_until(lambda: "not reachable" in str(client.command("DBSIZE")), "the loss to be seen")
        for command in (("DBSIZE",), ("KEYS", "*")):
            self.assert_error(client.command(*command),
                              NOT_REACHABLE % (victim.host, victim.port))
        self.assert_error(client.command("FLUSHALL"),
                          "ERR proxy: partly executed, node %s:%d: not reachable (outcome unknown)"
                          % (victim.host, victim.port))

    def test_a_failover_is_waited_out(self):
        cluster = self.start_cluster(primaries=3, replicas=1)
        proxy = self.start_proxy(cluster.addresses)
        client = self.client(proxy)
        keys = keys_in_slots(300)
        client.pipeline([("SET", key, "v") for key in keys])
        for number in range(3):
            replica = cluster.replicas_of(cluster.primaries()[number])[0]
            wait_until(lambda: replica.command("DBSIZE") ==
                       cluster.primaries()[number].command("DBSIZE"), "the replica to follow")
            cluster.failover(replica)
            begin = time.monotonic()
            while True:
                # Until the proxy hears of it, the old primary answers: it has the same keys.
                self.assertEqual(client.command("DBSIZE"), 300)
                self.assertEqual(len(client.command("KEYS", "*")), 300)
                if time.monotonic() - begin > 0.5:
                    break
        self.assertEqual(client.command("FLUSHALL"), b"OK")
        self.assertEqual(sum(node.command("DBSIZE") for node in cluster.primaries()), 0)


if __name__ == "__main__":
    sys.exit(unittest.main())
