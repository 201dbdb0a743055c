"""SELECT on a cluster with several databases, which Valkey has from 9 on."""

import subprocess

from fake_node import array, bulk, error, simple
from harness import (SERVER, Background, FakeClusterTestCase, FreshClusterTestCase,
                     RealClusterTestCase, key_slot, require_server, seconds, unittest, wait_until)

COUNT = 5
WATCHING = "ERR proxy: SELECT between WATCH and EXEC is not supported"

# One a connection. What one leaves, the next one finds.
CONVERSATIONS = [
    ["SELECT 0", "SELECT 4", "SELECT 5", "SELECT -1", "SELECT x", "SELECT 99999999999", "SELECT",
     "SELECT 1 2", "PING"],
    ["SET a 0", "SELECT 1", "GET a", "SET a 1", "SELECT 2", "MSET a 2 b 2 c 2", "SELECT 0", "GET a",
     "SELECT 1", "MGET a b c", "SELECT 2", "MGET a b c", "DBSIZE"],
    ["GET a", "SELECT 2", "GET a", "RESET", "GET a", "DBSIZE"],
    ["SELECT 2", "DEL a b none", "DBSIZE", "KEYS *", "SELECT 0", "EXISTS a b c"],
    ["SELECT 1", "MULTI", "SET {t}x 1", "INCR {t}x", "EXEC", "WATCH {t}x", "MULTI", "GET {t}x",
     "EXEC", "SELECT 0", "EXISTS {t}x"],
    ["SELECT 3", "RPUSH {t}l a b", "BLPOP {t}l 0", "BLMOVE {t}l {t}m LEFT LEFT 0", "BLPOP {t}l 0.01",
     "LRANGE {t}m 0 -1", "SELECT 0", "BLPOP {t}m 0.01"],
    ["SELECT 3", "MOVE {t}m 4", "MOVE {t}m 4", "MOVE {t}m 3", "EXISTS {t}m", "SELECT 4",
     "LRANGE {t}m 0 -1", "COPY {t}m {t}m DB 2", "COPY {t}m {t}n DB 9", "SELECT 2", "TYPE {t}m",
     "DEL {t}m"],
    ["SELECT 2", "EVAL return(redis.call('incr',KEYS[1])) 1 {t}c", "GET {t}c", "SELECT 0",
     "GET {t}c", "SELECT 2", "FLUSHDB", "DBSIZE", "RANDOMKEY", "SELECT 4", "DBSIZE"],
    ["CONFIG GET databases"],
    ["SELECT 1", "FLUSHALL", "DBSIZE", "SELECT 0", "DBSIZE"],
]


def require_databases():
    require_server()
    version = subprocess.run([SERVER, "--version"], capture_output=True, text=True, check=False,
                             timeout=30).stdout
    if "v=9." not in version:
        raise unittest.SkipTest("%s is not valkey 9" % SERVER)


class DatabasesTest(RealClusterTestCase):
    cluster_options = {"replicas": 0, "databases": COUNT}

    @classmethod
    def setUpClass(cls):
        require_databases()
        super().setUpClass()

    def setUp(self):
        super().setUp()
        for node in self.cluster.primaries():
            node.command("FLUSHALL")

    def connect(self, *flags):
        proxy = self.start_proxy(self.cluster.addresses, *flags)
        return proxy, self.client(proxy)

    def test_replies_are_those_of_a_plain_server(self):
        proxy, _ = self.connect()
        self.assert_answers_as_a_plain_server(proxy, CONVERSATIONS,
                                              "--databases", str(COUNT))

    def test_pipelined_commands_run_in_the_database_selected_before_them(self):
        proxy, client = self.connect()
        for number in range(200):
            client.send("SELECT", number % COUNT)
            client.send("SET", "k%d" % (number % 7), number)
            client.send("GET", "k%d" % (number % 7))
        for number in range(200):
            self.assertEqual([client.read(), client.read(), client.read()],
                             [b"OK", b"OK", b"%d" % number])
        with self.client(proxy) as other:
            for database in range(COUNT):
                other.call("SELECT", database)
                wanted = [b"%d" % max(n for n in range(200)
                                      if n % COUNT == database and n % 7 == key)
                          for key in range(7)]
                self.assertEqual(other.call("MGET", *["k%d" % key for key in range(7)]), wanted)

    def test_a_reset_comes_after_what_was_sent_before_it(self):
        _, client = self.connect()
        client.call("SELECT", "2")
        for _ in range(50):
            client.send("INCR", "{r}n")
        client.send("RESET")
        client.send("GET", "{r}n")
        self.assertEqual([client.read() for _ in range(52)],
                         list(range(1, 51)) + [b"RESET", None])

    def test_a_scan_stays_in_its_database(self):
        _, client = self.connect()
        for database in (0, 3):
            client.call("SELECT", database)
            client.pipeline([("SET", "d%d-%d" % (database, n), "v") for n in range(300)])
        found, cursor = [], b"0"
        while True:
            cursor, keys = client.call("SCAN", cursor, "COUNT", "50")
            found += keys
            if cursor == b"0":
                break
        self.assertEqual(sorted(found), sorted(b"d3-%d" % n for n in range(300)))

    def test_it_is_told_and_shown(self):
        proxy, client = self.connect()
        monitor = self.client(proxy)
        monitor.call("MONITOR")
        client.call("SELECT", "3")
        self.assertIn(b" db=3 ", client.call("CLIENT", "INFO"))
        client.call("SET", "shown", "x")
        while b'"shown"' not in (line := bytes(monitor.read())):
            pass
        self.assertIn(b" [3 ", line)

    def test_what_can_not_be_served_says_so(self):
        _, client = self.connect("--cross-slot", "split")
        client.call("WATCH", "a")
        self.assert_error(client.command("SELECT", "1"), WATCHING)
        client.call("UNWATCH")
        self.assertEqual(client.call("SELECT", "1"), b"OK")
        client.call("MULTI")
        client.call("SELECT", "1")
        client.call("SET", "a", "1")
        self.assertEqual(client.call("EXEC"), [b"OK", b"OK"])
        client.call("MULTI")
        self.assert_error(client.command("SELECT", "2"),
                          "ERR proxy: SELECT of another database is not supported inside MULTI")
        client.call("SET", "a", "2")
        self.assertTrue(str(client.command("EXEC")).startswith("EXECABORT "))
        self.assertEqual(client.call("GET", "a"), b"1")
        client.call("SET", "a", "1")
        self.assertEqual(client.call("COPY", "a", "b", "DB", "1"), 1)
        self.assert_error(client.command("COPY", "a", "c", "DB", "0"),
                          "ERR proxy: COPY over slots into another database is not supported"
                          " (not executed)")
        self.assertEqual(client.call("RENAME", "b", "c"), b"OK")
        self.assertEqual(client.call("GET", "c"), b"1")
        client.call("SELECT", "0")
        self.assertEqual(client.call("EXISTS", "a", "b", "c"), 0)

    def test_large_requests_and_resp3(self):
        _, client = self.connect()
        client.call("HELLO", "3")
        client.call("SELECT", "4")
        value = b"x" * (3 << 20)
        self.assertEqual(client.call("SET", "large", value), b"OK")
        self.assertEqual(client.call("GET", "large"), value)
        client.call("SELECT", "0")
        self.assertIsNone(client.call("GET", "large"))


class RefusingNodeTest(FakeClusterTestCase):
    def test_a_node_that_refuses_a_database_is_well_for_all_others(self):
        cluster = self.start_fakes()
        refusing = cluster.owner("k")
        for node in cluster.nodes:
            node.info_text = "# Server\r\nredis_version:7.2.4\r\nvalkey_version:9.0.0\r\n"
            node.on("CONFIG", array([bulk(b"cluster-databases"), bulk(b"16")]))
            node.on("SELECT", simple("OK") if node is not refusing else
                    error("ERR DB index is out of range"))
        proxy = self.start_proxy(cluster.addresses, "--workers", "1")
        client, other = self.client(proxy), self.client(proxy)
        elsewhere = next(key for key in "abcdefgh" if cluster.owner(key) is not refusing)
        self.assertEqual(client.call("SELECT", "5"), b"OK")
        for _ in range(3):
            for command in (("GET", "k"), ("SET", "k", "v"), ("MGET", "k", elsewhere)):
                self.assertIn("SELECT 5: ERR DB index is out of range",
                              str(client.command(*command)))
            self.assertEqual(client.call("SET", elsewhere, "v"), b"OK")
            self.assertEqual(other.call("SET", "k", "v"), b"OK")
            other.call("SET", "k", b"v" * (2 << 20))  # on a connection of its own
            other.call("SET", "k", "v")
        self.assertEqual(client.call("SELECT", "0"), b"OK")
        self.assertEqual(client.call("GET", "k"), b"v")


class MovingDatabasesTest(FreshClusterTestCase):
    def setUp(self):
        require_databases()
        super().setUp()

    def test_slots_move_with_all_their_databases(self):
        cluster = self.start_cluster(replicas=0, databases=COUNT)
        proxy = self.start_proxy(cluster.addresses)
        slot = key_slot("{m}")
        turns = [0] * COUNT

        def counts(database):
            def work(stopping):
                with proxy.connect(seconds(30)) as client:
                    client.call("SELECT", database)
                    while not stopping.is_set():
                        self.assertEqual(client.call("INCR", "{m}n"), turns[database] + 1)
                        turns[database] += 1
            return Background(work)
        workers = [counts(database) for database in range(COUNT)]
        for _ in range(4):
            enough = [turn + 2 for turn in turns]
            wait_until(lambda enough=enough: all(map(int.__ge__, turns, enough)) or
                       not all(worker.is_alive() for worker in workers),
                       "all databases to be counted in", seconds(60))
            source = cluster.owner(slot)
            target = next(node for node in cluster.primaries() if node.address != source.address)
            cluster.move_slot(slot, target)
        client = self.client(proxy)
        for database, worker in enumerate(workers):
            worker.stop(seconds(60))
            client.call("SELECT", database)
            self.assertEqual(client.call("GET", "{m}n"), b"%d" % turns[database])


if __name__ == "__main__":
    unittest.main()
