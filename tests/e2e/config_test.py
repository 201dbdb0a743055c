"""CONFIG, on real servers: what a client may see, and that nothing is set."""

import sys

from harness import FreshClusterTestCase, RealClusterTestCase, ReplyError, unittest

EVENTS = "notify-keyspace-events"


class ConfigTest(RealClusterTestCase):
    cluster_options = {"config": ["maxmemory 100mb", "maxmemory-policy allkeys-lru"]}

    def setUp(self):
        super().setUp()
        self.proxy = self.start_proxy(self.cluster.addresses, "--max-clients", "77")
        self.connection = self.client(self.proxy)

    def get(self, *patterns):
        reply = self.connection.command("CONFIG", "GET", *patterns)
        return dict(zip(reply[0::2], reply[1::2])) if isinstance(reply, list) else reply

    def test_parameters_of_the_data_are_told_as_a_node_tells_them(self):
        self.assertEqual(self.get("maxmemory"), {b"maxmemory": b"104857600"})
        self.assertEqual(self.get("maxmemory-pol*", "MAXMEMORY", "nothing", "appendonly"),
                         {b"maxmemory-policy": b"allkeys-lru", b"MAXMEMORY": b"104857600",
                          b"appendonly": b"no"})
        self.assertEqual(self.get("nothing"), {})
        self.assertEqual(self.get(""), {})
        self.assertIn(b"maxmemory", self.get("max*"))
        self.connection.command("HELLO", "3")
        self.assertEqual(self.connection.command("CONFIG", "GET", "maxmemory"),
                         {b"maxmemory": b"104857600"})
        self.assertEqual(self.connection.command("CONFIG", "GET", "nothing"), {})

    def test_what_is_the_proxys_is_told_of_the_proxy(self):
        self.assertEqual(self.get("databases", "maxclients", "timeout", "cluster-enabled"),
                         {b"databases": b"1", b"maxclients": b"77", b"timeout": b"0",
                          b"cluster-enabled": b"no"})
        self.assertEqual(self.get("DataBases"), {b"DataBases": b"1"})

    def test_what_concerns_one_server_is_not_told(self):
        shown = self.get("*")
        for name in (b"requirepass", b"masterauth", b"dir", b"port", b"bind", b"logfile",
                     b"unixsocket", b"replicaof", b"tls-key-file-pass", b"aclfile",
                     b"cluster-config-file"):
            self.assertNotIn(name, shown)
            self.assertEqual(self.get(name), {})
        self.assertEqual(shown[b"databases"], b"1")
        self.assertGreater(len(shown), 30)

    def test_errors_are_the_servers(self):
        self.assert_answers_as_a_plain_server(self.proxy, [[
            "CONFIG", "CONFIG GET", "CONFIG SET", "CONFIG SET maxmemory", "CONFIG NONE x",
            "CONFIG SET a b c", "CONFIG SET notify-keyspace-events xyz",
            "CONFIG SET NOTIFY-keyspace-events ?",
            "CONFIG SET notify-keyspace-events K NOTIFY-KEYSPACE-EVENTS K",
            "CONFIG HELP", "CONFIG HELP x", "CONFIG GET appendonly", "CONFIG GET save",
        ]])

    def test_nothing_else_is_set(self):
        for words in (("maxmemory", "1"), ("maxmemory", "1", EVENTS, "K"),
                      (EVENTS, "K", "requirepass", "secret")):
            reply = self.connection.command("CONFIG", "SET", *words)
            self.assertIsInstance(reply, ReplyError)
            self.assertRegex(str(reply), r"^ERR proxy: CONFIG SET of '(maxmemory|requirepass)' is "
                             r"not supported \(not executed\)$")
        for words in (("RESETSTAT",), ("REWRITE",)):
            self.assert_error(self.connection.command("CONFIG", *words), "ERR proxy: command "
                              "'config|%s' is not supported" % words[0].lower())
        for node in self.cluster.nodes:
            self.assertEqual(node.command("CONFIG", "GET", "maxmemory")[1], b"104857600")
            self.assertEqual(node.command("CONFIG", "GET", "requirepass")[1], b"")


class KeyspaceEventsTest(FreshClusterTestCase):
    def test_events_are_set_where_all_nodes_have_them(self):
        cluster = self.start_cluster(primaries=3, replicas=1)
        client = self.client(self.start_proxy(cluster.addresses))

        def set_events(value):
            return client.command("CONFIG", "SET", EVENTS, value)

        def missing(node, has, wanted):
            return ("ERR proxy: CONFIG SET notify-keyspace-events is not supported, and not all "
                    "nodes have it so: node %s:%d has '%s', wanted is '%s' (not executed)"
                    % (node.host, node.port, has, wanted))

        self.assertEqual(set_events(""), b"OK")
        self.assertRegex(str(set_events("Ex")), r"not all nodes have it so: node \S+ has '', "
                         r"wanted is 'Ex' \(not executed\)$")
        for node in cluster.nodes:
            node.command("CONFIG", "SET", EVENTS, "KEA")
        for value in ("Ex", "KEA", "AKE", "E$", "Kg$lshzxetd", ""):
            self.assertEqual(set_events(value), b"OK", value)
        self.assertEqual(client.command("CONFIG", "GET", EVENTS), [EVENTS.encode(), b"AKE"])
        self.assertIn("wanted is 'KEAm'", str(set_events("KEAm")))
        replica = next(node for node in cluster.nodes if not node.is_primary())
        replica.command("CONFIG", "SET", EVENTS, "E$")
        self.assertEqual(set_events("E$"), b"OK")
        self.assert_error(set_events("Ex"), missing(replica, "$E", "Ex"))
        # One that is away says nothing against it.
        cluster.kill_node(replica)
        self.assertEqual(set_events("Ex"), b"OK")


if __name__ == "__main__":
    sys.exit(unittest.main())
