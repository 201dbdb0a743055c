"""Commands that ask or change the whole cluster, on real servers."""

import hashlib
import sys

from fake_node import integer
from harness import (EmptyClusterTestCase, FakeClusterTestCase, FreshClusterTestCase, SERVER,
                     key_slot, keys_in_slots, pack, time, unittest, wait_until)

NOT_REACHABLE = "CLUSTERDOWN proxy: node %s:%d: not reachable (outcome unknown)"


class WholeClusterTest(EmptyClusterTestCase):
    cluster_options = {"config": ["enable-debug-command yes", "lua-time-limit 100"]}

    def sizes(self):
        return [node.command("DBSIZE") for node in self.cluster.primaries()]

    def test_dbsize_and_keys_tell_of_all_shards(self):
        self.assertEqual(self.connection.command("DBSIZE"), 0)
        self.assertEqual(self.connection.command("KEYS", "*"), [])
        keys = self.fill(keys_in_slots(500))
        self.assertEqual(self.connection.command("DBSIZE"), 500)
        told = self.connection.command("KEYS", "*")
        self.assertEqual(len(told), 500)
        self.assertEqual(set(told), keys)
        self.assertEqual(set(self.connection.command("KEYS", "k1?")),
                         {key for key in keys if len(key) == 3 and key.startswith(b"k1")})

    def test_info_of_the_nodes_is_their_sum(self):
        self.fill(keys_in_slots(100))
        self.connection.call("EXPIRE", "k0", "1000")
        text = self.connection.call("INFO", "keyspace").decode()
        self.assertRegex(text, r"(?s)^# Keyspace\r\ndb0:keys=100,expires=1,avg_ttl=\d+")
        for node in self.cluster.primaries():
            node.command("CONFIG", "RESETSTAT")
        for key in keys_in_slots(60):
            self.connection.call("GET", key)
        self.connection.command("INCR", "k1")  # which is no number
        text = self.connection.call("INFO", "everything").decode()
        self.assertIn("\r\ncmdstat_get:calls=60,", text)
        self.assertIn("\r\nerrorstat_ERR:count=1", text)
        self.assertIn("\r\nredis_mode:standalone\r\n", text)
        self.connection.call("HELLO", "3")
        self.assertIn(b"db0:keys=100,", self.connection.call("INFO", "KEYSPACE"))
        # What clients send when they connect asks no node.
        self.assertNotIn("db0:", self.connection.call("INFO").decode())

    def test_keys_in_resp3(self):
        keys = self.fill(keys_in_slots(50))
        self.connection.command("HELLO", "3")
        self.assertEqual(set(self.connection.command("KEYS", "*")), keys)
        self.assertEqual(self.connection.command("DBSIZE"), 50)

    def test_flushes_reach_all_shards_and_refuse_what_servers_refuse(self):
        for command in (("FLUSHALL",), ("FLUSHDB",), ("FLUSHALL", "ASYNC"), ("FLUSHDB", "SYNC")):
            self.fill(keys_in_slots(100))
            self.assertEqual(self.connection.command(*command), b"OK", command)
            self.assertEqual(sum(self.sizes()), 0, command)
        self.fill(keys_in_slots(10))
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
        keys = self.fill(keys_in_slots(30))
        replies = self.connection.pipeline([("DBSIZE",), ("KEYS", "*")] * 200)
        self.assertEqual(replies[0::2], [30] * 200)
        self.assertTrue(all(set(reply) == keys for reply in replies[1::2]))

    def test_a_client_that_leaves_in_the_middle_harms_nobody(self):
        self.fill(keys_in_slots(1000))
        for _ in range(20):
            leaver = self.client(self.proxy)
            leaver.send_raw(pack("KEYS", "*") + pack("DBSIZE"))
            leaver.close()
        self.assertEqual(self.connection.command("DBSIZE"), 1000)


    def test_randomkey_finds_every_key_and_is_null_only_if_there_is_none(self):
        self.assertIsNone(self.connection.command("RANDOMKEY"))
        keys = self.fill(keys_in_slots(6))
        told = {self.connection.command("RANDOMKEY") for _ in range(400)}
        self.assertEqual(told, keys)
        self.connection.command("FLUSHALL")
        self.fill(keys_in_slots(1))
        self.assertEqual({self.connection.command("RANDOMKEY") for _ in range(20)}, {b"k0"})

    def test_scripts_are_on_all_nodes(self):
        self.connection.command("SCRIPT", "FLUSH")
        script = "return 'mine'"
        name = hashlib.sha1(script.encode()).hexdigest()
        self.assertEqual(self.connection.command("SCRIPT", "LOAD", script), name.encode())
        for node in self.cluster.nodes:
            self.assertEqual(node.command("SCRIPT", "EXISTS", name), [1], node)
        for key in keys_in_slots(30):
            self.assertEqual(self.connection.command("EVALSHA", name, 1, key), b"mine")
        self.assertEqual(self.connection.command("SCRIPT", "EXISTS", name, "0" * 40), [1, 0])
        self.cluster.primaries()[1].command("SCRIPT", "FLUSH")
        self.assertEqual(self.connection.command("SCRIPT", "EXISTS", name, "0" * 40), [0, 0])
        if SERVER.startswith("valkey"):
            self.assert_error(self.connection.command("SCRIPT", "SHOW", "0" * 40),
                              "NOSCRIPT No matching script.")
        self.assertEqual(self.connection.command("SCRIPT", "FLUSH", "SYNC"), b"OK")
        for node in self.cluster.nodes:
            self.assertEqual(node.command("SCRIPT", "EXISTS", name), [0], node)
        self.assert_error(self.connection.command("SCRIPT", "FLUSH", "BAD"),
                          "ERR SCRIPT FLUSH only support SYNC|ASYNC option")
        self.assertIn("Error compiling script", str(self.connection.command("SCRIPT", "LOAD", "(")))
        self.assert_error(self.connection.command("SCRIPT", "KILL"),
                          "NOTBUSY No scripts in execution right now.")

    def test_a_script_that_runs_on_is_killed(self):
        runner = self.client(self.proxy)
        runner.send("EVAL", "while true do end", 1, "k")
        node = self.cluster.owner(key_slot("k"))
        with node.connect() as plain:
            wait_until(lambda: "BUSY" in str(plain.command("DBSIZE")), "the script to run on", 20)
        self.assertEqual(self.connection.command("SCRIPT", "KILL"), b"OK")
        self.assertIn("killed", str(runner.read()).lower())
        self.assertEqual(self.connection.command("DBSIZE"), 0)

    def test_a_library_is_on_every_primary_or_on_none(self):
        self.connection.command("FUNCTION", "FLUSH")
        code = "#!lua name=lib\nredis.register_function('f', function() return 'mine' end)"
        other = code.replace("mine", "other")
        command = self.connection.command
        primaries = self.cluster.primaries()
        self.assertEqual(command("FUNCTION", "LOAD", code), b"lib")
        for key in keys_in_slots(30):
            self.assertEqual(command("FCALL", "f", 1, key), b"mine")
        exists = "ERR Library 'lib' already exists"
        self.assert_error(command("FUNCTION", "LOAD", code), exists)
        self.assertEqual(command("FUNCTION", "LOAD", "REPLACE", other), b"lib")
        self.assertEqual(command("FCALL", "f", 1, "k"), b"other")
        # A part has it with the same code: an earlier load was interrupted.
        primaries[0].command("FUNCTION", "DELETE", "lib")
        self.assertEqual(command("FUNCTION", "LOAD", other), b"lib")
        # With another code: what is new is taken back.
        primaries[0].command("FUNCTION", "DELETE", "lib")
        first = min(primaries[1:], key=lambda node: node.id)
        self.assert_error(command("FUNCTION", "LOAD", code), "ERR proxy: node %s:%d: Library 'lib' "
                          "already exists" % (first.host, first.port))
        self.assertEqual(primaries[0].command("FUNCTION", "LIST"), [])
        # Gone from some already is gone.
        self.assertEqual(command("FUNCTION", "DELETE", "lib"), b"OK")
        self.assert_error(command("FUNCTION", "DELETE", "lib"), "ERR Library not found")
        self.assertEqual(command("FUNCTION", "LIST"), [])
        command("FUNCTION", "LOAD", code)
        dump = command("FUNCTION", "DUMP")
        self.assertEqual(command("FUNCTION", "FLUSH"), b"OK")
        self.assertEqual(command("FUNCTION", "RESTORE", dump), b"OK")
        for node in primaries:
            self.assertEqual(len(node.command("FUNCTION", "LIST")), 1)
        self.assertEqual(len(command("FUNCTION", "LIST")), 1)
        stats = command("FUNCTION", "STATS")
        self.assertEqual(stats, primaries[0].command("FUNCTION", "STATS"))
        self.assertIn("Missing library metadata", str(command("FUNCTION", "LOAD", "x")))
        command("FUNCTION", "FLUSH")

    def test_the_nodes_reports_become_one(self):
        command = self.connection.command
        for node in self.cluster.primaries():
            node.command("CONFIG", "SET", "slowlog-log-slower-than", "0")
        self.fill(keys_in_slots(50))
        self.assertGreater(command("SLOWLOG", "LEN"), 50)
        entries = command("SLOWLOG", "GET", 40)
        self.assertEqual(len(entries), 40)
        times = [entry[1] for entry in entries]
        self.assertEqual(times, sorted(times, reverse=True))
        self.assertEqual(len(command("SLOWLOG", "GET")), 10)
        self.assertGreater(len(command("SLOWLOG", "GET", -1)), 50)
        self.assertIn("count should be", str(command("SLOWLOG", "GET", "x")))
        for node in self.cluster.primaries():
            node.command("CONFIG", "SET", "slowlog-log-slower-than", "-1")
        self.assertEqual(command("SLOWLOG", "RESET"), b"OK")
        self.assertEqual(command("SLOWLOG", "LEN"), 0)

        for node in self.cluster.primaries():
            node.command("CONFIG", "SET", "latency-monitor-threshold", "1")
            node.command("DEBUG", "SLEEP", "0.01")
        latest = command("LATENCY", "LATEST")
        self.assertEqual([entry[0] for entry in latest], [b"command"])
        self.assertGreaterEqual(latest[0][3], 10)
        self.assertEqual(len(command("LATENCY", "HISTORY", "command")), 3)
        self.assertIn(b"command", command("LATENCY", "GRAPH", "command"))
        self.assert_error(command("LATENCY", "GRAPH", "none"),
                          "ERR No samples available for event 'none'")
        self.assertIn(b"Worst all time event", command("LATENCY", "DOCTOR"))
        self.assertEqual(command("LATENCY", "RESET"), 3)
        for node in self.cluster.primaries():
            node.command("CONFIG", "SET", "latency-monitor-threshold", "0")

        for protocol in (2, 3):
            command("HELLO", protocol)
            stats = command("MEMORY", "STATS")
            if protocol == 2:
                stats = dict(zip(stats[0::2], stats[1::2]))
            self.assertEqual(stats[b"keys.count"], 50)
            histogram = command("LATENCY", "HISTOGRAM", "set")
            if protocol == 2:
                histogram = dict(zip(histogram[0::2], histogram[1::2]))
                calls = dict(zip(histogram[b"set"][0::2], histogram[b"set"][1::2]))
            else:
                calls = histogram[b"set"]
            self.assertGreaterEqual(calls[b"calls"], 50)
            for words in (("DOCTOR",), ("MALLOC-STATS",)):
                self.assertIsInstance(command("MEMORY", *words), bytes)
        self.assertEqual(command("MEMORY", "PURGE"), b"OK")


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
        for _ in range(3):
            cluster.wait_until_ready()
            replicas = [node for node in cluster.nodes if not node.is_primary()]
            wait_until(lambda: sum(node.command("DBSIZE") for node in replicas) == 300,
                       "the replicas to follow")
            cluster.failover(replicas[0])
            begin = time.monotonic()
            while True:
                # Until the proxy hears of it, the old primary answers: it has the same keys.
                self.assertEqual(client.command("DBSIZE"), 300)
                self.assertEqual(len(client.command("KEYS", "*")), 300)
                if time.monotonic() - begin > 0.5:
                    break
        self.assertEqual(client.command("FLUSHALL"), b"OK")
        self.assertEqual(sum(node.command("DBSIZE") for node in cluster.primaries()), 0)


class PrimaryWithoutSlotsTest(FakeClusterTestCase):
    def test_it_counts_only_while_it_imports_its_first(self):
        cluster = self.start_fakes()
        spare = cluster.add_node()  # as one that was replaced and has not heard of it
        for node in cluster.nodes:
            node.on("DBSIZE", integer(100))
        client = self.client(self.start_proxy(cluster.addresses, "--workers", "1"))
        self.assertEqual(client.call("DBSIZE"), 300)
        spare.importing[7] = cluster.nodes[0]
        self.assertEqual(client.call("DBSIZE"), 400)


class CommandSwitchesTest(FreshClusterTestCase):
    """--block-commands and --allow-commands."""

    def test_blocked_commands_are_refused_and_others_served(self):
        cluster = self.start_cluster(replicas=0)
        proxy = self.start_proxy(cluster.addresses, "--block-commands", "keys,FLUSHALL,incr",
                                 "--block-commands", "config|get,object,nosuch.command")
        client = self.client(proxy)
        self.assertEqual(client.call("SET", "{b}k", "1"), b"OK")
        for command in (("KEYS", "*"), ("flushall",), ("INCR", "{b}k"), ("CONFIG", "GET", "*"),
                        ("OBJECT", "ENCODING", "{b}k"), ("OBJECT", "HELP")):
            name = command[0].lower()
            if name in ("config", "object"):
                name += "|" + command[1].lower()
            self.assert_error(client.command(*command),
                              "ERR proxy: command '%s' is blocked" % name)
        # Also when many come together, and where they would only be queued.
        replies = client.pipeline([("INCR", "{b}k"), ("GET", "{b}k")] * 50)
        self.assertEqual(replies[1::2], [b"1"] * 50)
        self.assertEqual({str(reply) for reply in replies[0::2]},
                         {"ERR proxy: command 'incr' is blocked"})
        client.call("MULTI")
        self.assert_error(client.command("INCR", "{b}k"), "ERR proxy: command 'incr' is blocked")
        self.assertEqual(client.call("GET", "{b}k"), b"QUEUED")
        self.assertTrue(str(client.command("EXEC")).startswith("EXECABORT "))
        self.assertEqual(client.call("INCRBY", "{b}k", "1"), 2)
        self.assertEqual(client.call("FLUSHDB"), b"OK")
        self.assertEqual(client.call("CONFIG", "SET", "notify-keyspace-events", ""), b"OK")

    def test_what_is_blocked_of_one_key_or_several_is_so_at_once(self):
        cluster = self.start_cluster(replicas=0)
        for name in ("del", "unlink", "mget"):
            proxy = self.start_proxy(cluster.addresses, "--block-commands", name)
            client = self.client(proxy)
            client.call("SET", "k", "v")
            for keys in (("k",), ("k", "l")):
                replies = client.pipeline([("GET", "k"), (name, *keys)] * 20)
                self.assertEqual(replies[0::2], [b"v"] * 20)
                self.assertEqual({str(reply) for reply in replies[1::2]},
                                 {"ERR proxy: command '%s' is blocked" % name})

    def test_allowed_administration_reaches_all_nodes(self):
        cluster = self.start_cluster(replicas=1)
        proxy = self.start_proxy(cluster.addresses, "--allow-commands",
                                 "config set,bgsave,config|resetstat,acl|setuser")
        client = self.client(proxy)
        self.assertEqual(client.call("CONFIG", "SET", "maxmemory-samples", "7"), b"OK")
        for node in cluster.nodes:
            self.assertEqual(node.command("CONFIG", "GET", "maxmemory-samples")[1], b"7")
        self.assertIn("maxmemory-samples", str(client.command("CONFIG", "SET", "maxmemory-samples",
                                                              "x")))
        self.assertEqual(client.call("ACL", "SETUSER", "someone", "on"), b"OK")
        for node in cluster.nodes:
            self.assertIn(b"someone", node.command("ACL", "USERS"))
        before = [int(node.command("LASTSAVE")) for node in cluster.nodes]
        self.assertIn(b"ackground saving", client.call("BGSAVE"))
        wait_until(lambda: all(b"rdb_bgsave_in_progress:0" in node.command("INFO", "persistence")
                               and int(node.command("LASTSAVE")) >= least
                               for node, least in zip(cluster.nodes, before)),
                   "all nodes to have saved", 30)
        self.assert_error(client.command("ACL", "DELUSER", "someone"),
                          "ERR proxy: command 'acl|deluser' is not supported")
        self.assert_error(client.command("SAVE"), "ERR proxy: command 'save' is not supported")


if __name__ == "__main__":
    sys.exit(unittest.main())
