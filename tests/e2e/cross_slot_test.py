"""--cross-slot split: commands over slots. Replies are those of a plain server, and no value is lost
while slots move."""

import os
import random
import re
import time

from harness import (FULL, SERVER, Background, FreshClusterTestCase, PlainServer, key_slot,
                     require_server, seconds, unittest, wait_until)

CROSSSLOT = "CROSSSLOT Keys in request don't hash to the same slot"
TOO_LARGE = "ERR proxy: over slots: more than --cross-slot-max-bytes (not executed)"

# One a connection; sets of one member have one order.
CONVERSATIONS = [
    ["SADD a 1", "SADD b 1", "SUNION a b", "SINTER a b none", "SDIFF a b", "SDIFF a none",
     "SUNION none nil", "SINTER a none"],
    ["SINTERCARD 2 a b", "SINTERCARD 2 a b LIMIT 0", "SINTERCARD 2 a none limit 5",
     "SINTERCARD 2 a b LIMIT -1", "SINTERCARD 2 a b LIMIT x", "SINTERCARD 2 a b LIMIT",
     "SINTERCARD 2 a b WEIGHTS 1", "SINTERCARD 0 a b", "SINTERCARD x a b", "SINTERCARD 3 a b",
     "SINTERCARD 2.5 a b", "ZUNION 2.5 a b", "ZUNIONSTORE d 2x a b", "ZINTERCARD 2.5 a b"],
    ["SET s x", "SUNION a s", "SINTER s none", "SDIFF none s", "SINTERCARD 2 a s LIMIT x",
     "ZUNION 2 a s", "ZUNION 2 a s WEIGHTS x y", "ZINTERCARD 2 a s LIMIT x", "PFCOUNT a s",
     "PFCOUNT s a", "PFCOUNT none s", "ZDIFF 2 none s", "SUNIONSTORE d a s", "EXISTS d",
     "ZUNION 2x s a", "ZDIFFSTORE d 1x s", "SINTERCARD 2x s a"],
    ["DEL y z", "ZADD y 1 a 2 b inf c -inf d", "ZADD z 0.1 a 0.2 b -inf c 1e20 e 3 f",
     "ZUNION 2 y z", "ZUNION 2 y z WITHSCORES", "ZUNION 3 y z a WITHSCORES",
     "ZUNION 2 y z WEIGHTS 2 -1.5 WITHSCORES", "ZUNION 2 y z WEIGHTS 0 inf WITHSCORES",
     "ZUNION 2 y z WEIGHTS 1", "ZUNION 2 y z WEIGHTS 1 x", "ZUNION 2 y z WEIGHTS nan 1",
     "ZUNION 2 y z AGGREGATE min WITHSCORES", "ZUNION 2 y z AGGREGATE MAX WITHSCORES",
     "ZUNION 2 y z AGGREGATE none", "ZUNION 2 y z LIMIT 1", "ZINTER 2 y z WITHSCORES withscores",
     "ZINTER 2 y z WEIGHTS 0 1 AGGREGATE MIN WITHSCORES",
     "ZINTER 2 y z WEIGHTS inf 0 WITHSCORES", "ZINTER 2 y y WEIGHTS 1 2 WITHSCORES",
     "ZINTER 3 y z y WEIGHTS 1 2 3 WITHSCORES", "ZINTER 2 y none", "ZDIFF 2 y z WITHSCORES",
     "ZDIFF 2 y z WEIGHTS 1 1", "ZDIFF 3 y z y", "ZINTERCARD 2 y z", "ZINTERCARD 2 y z LIMIT 1",
     "ZINTERCARD 2 y z LIMIT -1", "ZINTERCARD 2 y z WITHSCORES"],
    # Digits that are not the shortest ones, on some servers.
    ["DEL y z", "ZADD y -194e20 a 5e-324 b", "ZADD z 3e23 a 9007199254740993 c",
     "ZUNION 2 y z AGGREGATE MIN WITHSCORES", "ZUNION 2 y z AGGREGATE MAX WITHSCORES",
     "ZDIFF 2 y none WITHSCORES", "ZINTER 2 y z AGGREGATE MIN WITHSCORES"],
    ["DEL y z", "ZADD y 1 a 2 b inf c -inf d", "ZADD z 0.1 a 0.2 b -inf c 1e20 e 3 f",
     "ZUNIONSTORE d 2 y z", "ZRANGE d 0 -1 WITHSCORES", "ZUNIONSTORE d 2 y z WITHSCORES",
     "ZUNIONSTORE d 2 y z WEIGHTS 1 x", "ZUNIONSTORE d 2 y z LIMIT 1", "ZCARD d",
     "ZINTERSTORE d 2 y z WEIGHTS 1 2 AGGREGATE MAX", "ZRANGE d 0 -1 WITHSCORES",
     "ZDIFFSTORE d 2 y z", "ZRANGE d 0 -1 WITHSCORES", "ZDIFFSTORE d 2 none y", "EXISTS d",
     "SUNIONSTORE d a b", "SMEMBERS d", "SINTERSTORE d none a", "EXISTS d", "SET d text",
     "SDIFFSTORE d a none", "SMEMBERS d", "SUNIONSTORE a a b none", "SMEMBERS a", "TYPE a"],
    ["DEL n m", "RENAME n m", "RENAMENX n m", "COPY n m", "SET n 1", "SET m 2", "RENAMENX n m",
     "COPY n m", "COPY n m DB 0", "COPY n m REPLACE", "GET m", "SET n 3", "COPY n m REPLACE DB 0",
     "GET m", "COPY n m DB x", "COPY n m NX", "COPY n m REPLACE x", "RENAME n m", "EXISTS n",
     "GET m", "RENAMENX m n", "EXISTS m", "GET n", "RENAME n m x", "COPY n"],
    ["DEL n m", "RPUSH n a b c", "PEXPIREAT n 4102444800123", "RENAME n m", "PEXPIRETIME m",
     "LRANGE m 0 -1", "COPY m n", "PEXPIRETIME n", "SET m x", "RENAME n m", "TYPE m",
     "PEXPIRETIME m", "PERSIST m", "RENAMENX m n", "TTL n"],
    ["DEL n m", "XADD n 1-1 a b", "XGROUP CREATE n g 0", "RENAME n m", "XINFO GROUPS m",
     "XRANGE m - +", "DEL m", "HSET n f v", "RENAME n m", "HGETALL m", "ZADD n 1.5 x", "RENAME n m",
     "ZRANGE m 0 -1 WITHSCORES", "PFADD n a b c", "COPY n m REPLACE", "PFCOUNT m n none"],
    ["PFADD p a b c", "PFADD q c d e f g", "PFCOUNT p q", "PFCOUNT p q p none", "PFCOUNT none nil"],
]
REFUSED = ["MSETNX a 1 b 2", "SMOVE a b x", "LMOVE a b LEFT LEFT", "RPOPLPUSH a b",
           "BLMOVE a b LEFT LEFT 1", "ZRANGESTORE a b 0 -1", "PFMERGE a b", "BITOP AND a b c",
           "WATCH a b", "GEOSEARCHSTORE a b FROMLONLAT 0 0 BYRADIUS 1 m", "LCS a b",
           "EVAL return(1) 2 a b", "SORT a STORE b"]


def read_scores(reply):
    """As the numbers that they are: for some, Valkey does not write the shortest digits that mean
    them."""
    if SERVER == "redis-server":
        return reply
    return re.sub(rb"(?:\$\d+\r\n|,)(-?\d[0-9.e+-]*)\r\n",
                  lambda found: b"<%r>" % float(found.group(1)), reply)


class CrossSlotTest(FreshClusterTestCase):
    def start(self, *flags, **options):
        options.setdefault("replicas", 0)
        cluster = self.start_cluster(**options)
        return cluster, self.start_proxy(cluster.addresses, "--cross-slot", "split", *flags)

    def test_replies_are_those_of_a_plain_server(self):
        _, proxy = self.start()
        self.assert_answers_as_a_plain_server(proxy, CONVERSATIONS)
        metrics = proxy.metrics()
        self.assertGreater(metrics["cross_slot_requests_total"], 100)
        self.assertEqual(metrics["cross_slot_partly_executed_total"], 0)

    def test_the_rest_is_refused(self):
        cluster, proxy = self.start()
        client = self.client(proxy)
        for line in REFUSED:
            self.assert_error(client.command(*line.split(" ")), CROSSSLOT)
        for line in ("SUNION a b", "RENAME a b"):
            client.call("MULTI")
            self.assert_error(client.command(*line.split(" ")), CROSSSLOT)
            client.call("DISCARD")
        without = self.start_proxy(cluster.addresses)
        client = self.client(without)
        for line in ("SUNION a b", "ZUNION 2 a b", "SUNIONSTORE a b c", "PFCOUNT a b", "RENAME a b",
                     "RENAMENX a b", "COPY a b"):
            self.assert_error(client.command(*line.split(" ")), CROSSSLOT)

    def pair(self, proxy):
        """A plain server's client, and the proxy's."""
        require_server()
        plain = PlainServer(SERVER)
        self.addCleanup(plain.stop)
        direct = plain.connect(seconds(20))
        self.addCleanup(direct.close)
        return direct, self.client(proxy)

    def test_counts_of_many_elements_are_exact(self):
        _, proxy = self.start()
        direct, client = self.pair(proxy)
        generator = random.Random(1)
        # From sparse values to full ones.
        for number, size in enumerate((1, 10, 200, 2000, 20000, 100000)):
            key = "log%d" % number
            for _ in range(max(1, size // 5000)):
                words = [b"%d" % generator.getrandbits(48) for _ in range(min(size, 5000))]
                direct.call("PFADD", key, *words)
            client.call("RESTORE", key, "0", direct.call("DUMP", key))
        for _ in range(200 if FULL else 60):
            keys = ["log%d" % generator.randrange(7) for _ in range(generator.randrange(2, 6))]
            self.assertEqual(client.command("PFCOUNT", *keys), direct.command("PFCOUNT", *keys),
                             keys)

    def test_a_damaged_log_is_told_as_a_server_does(self):
        _, proxy = self.start()
        direct, client = self.pair(proxy)
        header = b"HYLL\x01" + b"\0" * 11
        for value in (header, header + b"\x7f\xff\x00", header + b"\x7f", header + b"\x80",
                      b"HYLL\x00" + b"\0" * 11, b"HYLL\x02" + b"\0" * 11, b"HYLL", b"",
                      b"HYLL\x00" + b"\0" * 12299, b"HYLL\x00" + b"\xff" * 12299):
            for side in (direct, client):
                side.call("PFADD", "good", "x")
                side.call("SET", "bad", value)
            self.assertEqual(client.command("PFCOUNT", "good", "bad"),
                             direct.command("PFCOUNT", "good", "bad"), value[:30])

    def test_scores_of_all_sizes_are_written_as_by_a_server(self):
        _, proxy = self.start()
        direct, client = self.pair(proxy)
        generator = random.Random(2)
        for protocol in ("2", "3"):
            for side in (direct, client):
                side.call("HELLO", protocol)
            for _ in range(100 if FULL else 25):
                keys = ["z%d" % i for i in range(generator.randrange(2, 5))]
                for key in keys:
                    words = []
                    for _ in range(generator.choice((1, 20, 300))):
                        score = "%s%de%d" % (generator.choice(("", "-")), generator.randrange(1000),
                                             generator.randrange(-12, 25))
                        words += [generator.choice((score, score, "inf", "-inf", "0.5", "-0")),
                                  "m%d" % generator.randrange(100)]
                    for side in (direct, client):
                        side.call("DEL", key)
                        side.call("ZADD", key, *words)
                weights = [generator.choice(("1", "2", "0.5", "-4", "0", "inf", "1e3"))
                           for _ in keys]
                for name, options in (
                        ("ZUNION", ["WEIGHTS", *weights]), ("ZINTER", ["WEIGHTS", *weights]),
                        ("ZUNION", ["AGGREGATE", generator.choice(("SUM", "MIN", "MAX"))]),
                        ("ZDIFF", [])):
                    words = [name, str(len(keys)), *keys, *options, "WITHSCORES"]
                    self.assertEqual(read_scores(client.raw(*words)),
                                     read_scores(direct.raw(*words)), words)

    def test_contents_are_bounded(self):
        _, proxy = self.start("--cross-slot-max-bytes", "1mb")
        client = self.client(proxy)
        # Few long members, and many short ones.
        for number in range(8):
            client.call("SADD", "long", "%d" % number + "x" * 200000)
        for begin in range(0, 20000, 1000):
            client.call("SADD", "many", *range(begin, begin + 1000))
        client.call("SADD", "other", "1")
        client.call("SET", "text", os.urandom(2 << 20))  # which DUMP can't compress
        for line in ("SUNION long other", "SUNION many other", "SUNIONSTORE d many other",
                     "COPY text d", "RENAME text d", "SINTER many long"):
            self.assert_error(client.command(*line.split(" ")), TOO_LARGE)
        self.assertEqual(client.call("STRLEN", "text"), 2 << 20)
        self.assertEqual(client.call("EXISTS", "d"), 0)
        self.assertEqual(client.call("SINTER", "many", "none"), [])
        self.assertTrue(str(client.command("PFCOUNT", "text", "other")).startswith("WRONGTYPE Key"))

    def test_large_contents_cross_whole(self):
        _, proxy = self.start()
        client = self.client(proxy)
        for begin in range(0, 60000, 1000):
            client.call("SADD", "a", *range(begin, begin + 1000))
            client.call("SADD", "b", *range(begin + 30000, begin + 31000))
        self.assertEqual(len(set(client.call("SUNION", "a", "b"))), 90000)
        self.assertEqual(len(set(client.call("SINTER", "a", "b"))), 30000)
        self.assertEqual(client.call("SDIFFSTORE", "d", "a", "b"), 30000)
        self.assertEqual(client.call("SCARD", "d"), 30000)
        self.assertEqual(client.call("ZUNIONSTORE", "d", "2", "a", "b"), 90000)
        self.assertEqual(client.call("ZCARD", "d"), 90000)
        self.assertEqual(client.call("SINTERCARD", "2", "a", "b"), 30000)
        value = b"x" * (8 << 20)
        client.call("SET", "text", value)
        self.assertEqual(client.call("RENAME", "text", "moved"), b"OK")
        self.assertEqual(client.call("GET", "moved"), value)
        self.assertEqual(client.call("EXISTS", "text"), 0)

    def test_many_keys(self):
        _, proxy = self.start()
        client = self.client(proxy)
        keys = ["key%d" % i for i in range(1500)]
        client.pipeline([("SADD", key, key, "all") for key in keys])
        self.assertEqual(set(client.call("SUNION", *keys)),
                         {b"all"} | {key.encode() for key in keys})
        self.assertEqual(client.call("SINTER", *keys), [b"all"])
        self.assertEqual(client.call("ZINTERCARD", len(keys), *keys), 1)
        self.assertEqual(client.call("ZINTER", len(keys), *keys, "WITHSCORES"), [b"all", b"1500"])

    def test_nothing_counted_is_lost_by_renames_while_slots_move(self):
        cluster, proxy = self.start()

        def counts(stopping):
            counted = 0
            with proxy.connect(seconds(30)) as client:
                while not stopping.is_set():
                    client.call("INCR", "count")
                    counted += 1
                    time.sleep(0.003)
            return counted

        names = []

        def renames(stopping):
            with proxy.connect(seconds(30)) as client:
                while not stopping.is_set():
                    name = "count-%d" % len(names)
                    command = ("RENAMENX", "RENAME")[len(names) % 2]
                    reply = client.command(command, "count", name)
                    if reply in (1, b"OK"):
                        names.append(name)
                    elif "new key written, old key kept, it changes all the time" in str(reply):
                        client.call("DEL", name)  # the old one has it all
                    elif str(reply) != "ERR no such key":
                        raise AssertionError("%s gave %r" % (command, reply))

        def let_rename(renamer):
            """Returns after one that was begun after the call."""
            enough = len(names) + 2
            wait_until(lambda: len(names) >= enough or not renamer.is_alive(),
                       "renames of a counter that is counted on", seconds(60))

        client = self.client(proxy)
        counter, renamer = Background(counts), Background(renames)
        slot = key_slot("count")
        for _ in range(20 if FULL else 6):
            source = cluster.owner(slot)
            target = next(node for node in cluster.primaries() if node.address != source.address)
            cluster.move_slot(slot, target)
            let_rename(renamer)
        renamer.stop(seconds(60))
        counted = counter.stop(seconds(60))
        values = [int(value or 0) for value in client.call("MGET", "count", *names)]
        self.assertEqual(sum(values), counted)


if __name__ == "__main__":
    unittest.main()
