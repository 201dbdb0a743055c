"""MULTI, EXEC, DISCARD and WATCH: byte for byte as a plain server, and right while slots move."""

import threading

from harness import (SERVER, Background, FreshClusterTestCase, ReplyError, key_slot, pack,
                     require_server, seconds, unittest, wait_until)
from plain_server import PlainServer

EXECABORT = "EXECABORT Transaction discarded because of previous errors."
CROSSSLOT = "CROSSSLOT Keys in request don't hash to the same slot"

# One a connection. Keys with the tag are in one slot.
CONVERSATIONS = [
    ["MULTI", "SET {t}a 1", "GET {t}a", "INCR {t}n", "EXEC", "GET {t}a"],
    ["MULTI", "EXEC"],
    ["EXEC"],
    ["DISCARD"],
    ["MULTI", "SET {t}a 2", "DISCARD", "GET {t}a", "EXEC"],
    ["MULTI", "MULTI", "SET {t}a 1", "EXEC", "EXEC"],
    ["MULTI", "WATCH {t}a", "SET {t}a 1", "EXEC", "DISCARD"],
    ["MULTI", "GET", "SET {t}a 1", "EXEC", "DISCARD"],
    ["MULTI", "NOSUCH x", "EXEC"],
    ["MULTI", "CLIENT NOSUCH", "PING", "EXEC"],
    ["MULTI", "OBJECT", "PING", "EXEC"],
    ["MULTI", "PSYNC ? -1", "PING", "EXEC"],
    ["MULTI", "SAVE", "PING", "EXEC"],
    ["MULTI a", "EXEC a", "DISCARD a", "WATCH", "UNWATCH a"],
    ["MULTI", "EXEC a", "EXEC"],
    ["WATCH {t}a", "SET {t}a 2", "MULTI", "GET {t}a", "EXEC", "MULTI", "GET {t}a", "EXEC"],
    ["WATCH {t}a", "MULTI", "GET {t}a", "EXEC"],
    ["WATCH {t}a {t}b", "WATCH {t}c", "SET {t}c 2", "MULTI", "GET {t}a", "EXEC"],
    ["WATCH {t}a", "SET {t}a 2", "MULTI", "EXEC"],
    ["WATCH {t}a", "MULTI", "EXEC"],
    ["WATCH {t}a", "SET {t}a 2", "UNWATCH", "MULTI", "GET {t}a", "EXEC"],
    ["WATCH {t}a", "SET {t}a 2", "MULTI", "DISCARD", "MULTI", "GET {t}a", "EXEC"],
    ["WATCH {t}a", "MULTI", "GET", "EXEC", "SET {t}a 3", "MULTI", "GET {t}a", "EXEC"],
    ["WATCH {t}a", "RESET", "SET {t}a 3", "MULTI", "GET {t}a", "EXEC"],
    ["WATCH {t}a", "UNWATCH", "EVAL return(1) 0", "EVAL return(2) 0"],
    ["UNWATCH", "MULTI", "RESET", "EXEC"],
    ["MULTI", "UNWATCH", "ECHO x", "CLIENT GETNAME", "EXEC"],
    ["MULTI", "PING", "SET {t}a 1", "ECHO between", "GET {t}a", "CLIENT SETNAME me", "PING last",
     "EXEC", "CLIENT GETNAME"],
    ["MULTI", "QUIT"],
    ["MULTI", "DEL {t}s", "LPUSH {t}s a", "SET {t}s x", "LPUSH {t}s b", "PING", "EXEC"],
    ["MULTI", "HELLO 9", "PING", "GET {t}a", "EXEC"],
    ["MULTI", "MSET {t}a 1 {t}b 2", "MGET {t}a {t}b {t}none", "DEL {t}a {t}b", "EXISTS {t}a",
     "EXEC"],
    ["MULTI", "MSET {t}a 1 {t}b", "EXEC"],
    ["MULTI", "EVAL return{redis.call('incr',KEYS[1]),ARGV[1]} 1 {t}n x", "EXEC"],
    ["MULTI", "EVAL return(1) 0", "EXEC"],
    ["MULTI", "EVALSHA ffffffffffffffffffffffffffffffffffffffff 1 {t}n", "SET {t}a 7", "EXEC"],
    ["MULTI", "HSET {t}h f v", "HGETALL {t}h", "ZADD {t}z 1.5 m", "ZRANGE {t}z 0 -1 WITHSCORES",
     "PING", "DEL {t}h {t}z", "EXEC"],
    # What the proxy answers with the help of other workers, or of a node.
    ["MULTI", "CLIENT LIST ID 99999999", "SET {t}a 1", "CLIENT KILL ID 99999999", "GET {t}a",
     "CLIENT UNBLOCK 99999999", "EXEC"],
    ["MULTI", "CLIENT LIST FOO", "CLIENT KILL ID x", "CLIENT PAUSE -1", "CLIENT REPLY FOO", "PING",
     "EXEC"],
    ["MULTI", "CLIENT PAUSE 1", "CLIENT UNPAUSE", "CLIENT REPLY ON", "EXEC"],
    ["MULTI", "SET {t}a 1", "CLIENT SETNAME x", "CLIENT LIST TYPE pubsub", "CLIENT GETNAME", "EXEC"],
    ["MULTI", "CONFIG GET maxmemory-policy", "GET {t}a", "CONFIG GET nosuch", "LATENCY LATEST",
     "EXEC"],
    ["MULTI", "CLIENT KILL", "CLIENT LIST", "EXEC"],
    ["MULTI", "MONITOR", "PING", "EXEC", "PING"],
    ["WATCH {t}a", "SET {t}a 2", "MULTI", "CLIENT LIST ID 99999999", "EXEC"],
    ["WATCH {t}a", "MULTI", "CLIENT UNBLOCK 99999999", "GET {t}a", "CONFIG GET maxmemory-policy",
     "EXEC"],
    ["MULTI", "XADD {t}x 1-1 f v", "XREAD BLOCK 0 STREAMS {t}x 1-1", "XREAD STREAMS {t}x 0",
     "DEL {t}x", "EXEC"],
]

# The same, of keys in many slots, for --cross-slot split.
CONVERSATIONS_OVER_SLOTS = [
    ["MULTI", "SET a 1", "GET b", "INCR n", "GET a", "PING", "INCR n", "EXEC", "GET a"],
    ["MULTI", "MSET a 1 b 2 c 3", "MGET c none a b a", "DEL a none b", "EXISTS a c c", "TOUCH c d",
     "UNLINK c", "EXEC"],
    ["MULTI", "MSET a 1 a 2 b 3", "GET a", "EXEC"],
    ["MULTI", "DEL s t", "LPUSH s a", "SET t x", "LPUSH t b", "PING", "INCR s", "EXEC"],
    ["MULTI", "SET a 1", "GET", "SET b 1", "EXEC", "GET b"],
    ["MULTI", "SET a 1", "SET b 1", "DISCARD", "EXEC"],
    ["WATCH a", "MULTI", "SET b 1", "SET c 1", "EXEC"],
    ["WATCH a", "SET a 1", "MULTI", "SET b 7", "SET a 7", "EXEC", "GET b", "GET a"],
    ["WATCH a", "MULTI", "SET b 2", "PING", "SET a 2", "EXEC", "GET b", "GET a"],
    ["WATCH a", "SET a 5", "UNWATCH", "MULTI", "SET b 3", "SET c 3", "EXEC"],
    ["MULTI", "HSET h f v", "ZADD z 1.5 m", "HGETALL h", "ZRANGE z 0 -1 WITHSCORES", "DEL h z",
     "EXEC"],
    ["MULTI", "PUBLISH ch x", "SET a 1", "PUBLISH ch y", "SET b 1", "EVAL return(1) 0", "EXEC"],
    ["MULTI", "SET a 1", "CLIENT LIST ID 99999999", "SET b 1", "CONFIG GET maxmemory-policy",
     "CLIENT UNBLOCK 99999999", "EXEC"],
    ["MULTI", "CLIENT SETNAME me", "SET a 1", "CLIENT GETNAME", "SET b 1", "ECHO last", "EXEC"],
]


class TransactionTest(FreshClusterTestCase):
    def start(self, *flags, **options):
        options.setdefault("replicas", 0)
        cluster = self.start_cluster(**options)
        return cluster, self.start_proxy(cluster.addresses, *flags)

    def test_replies_are_those_of_a_plain_server(self):
        _, proxy = self.start()
        self.assert_answers_as_a_plain_server(proxy, CONVERSATIONS)

    def test_whole_blocks_in_one_write(self):
        require_server()
        plain = PlainServer(SERVER)
        self.addCleanup(plain.stop)
        _, proxy = self.start()
        lines = [line for conversation in CONVERSATIONS for line in conversation + ["DISCARD"]
                 if not line.startswith(("QUIT", "DISCARD"))] * 3
        data = b"".join(pack(*line.split(" ")) for line in lines)
        with plain.connect() as direct, proxy.connect(seconds(20)) as client:
            direct.send_raw(data)
            client.send_raw(data)
            for number, line in enumerate(lines):
                self.assertEqual(client.read_raw(), direct.read_raw(),
                                 "%r after %r" % (line, lines[max(0, number - 12):number]))

    def test_a_client_may_kill_itself_within_a_block(self):
        require_server()
        plain = PlainServer(SERVER)
        self.addCleanup(plain.stop)
        _, proxy = self.start("--workers", "3")
        block = [("MULTI",), ("SET", "{t}k", "1"), ("ECHO", "x"), ("CLIENT", "KILL", "SKIPME", "no"),
                 ("ECHO", "y"), ("SET", "{t}k", "2"), ("EXEC",), ("SET", "{t}k", "3")]
        received = []
        for server in (plain, proxy):
            with server.connect() as client:
                client.send_raw(b"".join(pack(*command) for command in block))
                received.append(client.read_to_end())
            with server.connect() as client:
                self.assertEqual(client.call("GET", "{t}k"), b"2")
        self.assertEqual(received[1], received[0])

    def test_what_would_take_replies_out_of_a_block_is_refused(self):
        _, proxy = self.start()
        client = self.client(proxy)
        for command in (("CLIENT", "REPLY", "OFF"), ("CLIENT", "REPLY", "SKIP"),
                        ("SUBSCRIBE", "c"), ("DBSIZE",), ("KEYS", "*"), ("FLUSHALL",),
                        ("SCRIPT", "LOAD", "return 1")):
            client.call("MULTI")
            self.assertIn("is not supported", str(client.command(*command)))
            self.assert_error(client.command("EXEC"), EXECABORT)

    def test_keys_of_several_slots_are_refused_when_queued(self):
        _, proxy = self.start()
        client = self.client(proxy)
        for second in (("SET", "{u}b", "1"), ("MGET", "{u}a", "{v}b")):
            client.call("MULTI")
            self.assertEqual(client.call("SET", "{t}a", "1"), b"QUEUED")
            self.assert_error(client.command(*second), CROSSSLOT)
            self.assert_error(client.command("EXEC"), EXECABORT)
        client.call("WATCH", "{t}a")
        self.assert_error(client.command("WATCH", "{u}a"), CROSSSLOT)
        client.call("MULTI")
        self.assert_error(client.command("GET", "{u}a"), CROSSSLOT)
        self.assertEqual(client.call("DISCARD"), b"OK")

    def test_over_slots_replies_are_those_of_a_plain_server(self):
        _, proxy = self.start("--cross-slot", "split")
        self.assert_answers_as_a_plain_server(proxy, CONVERSATIONS + CONVERSATIONS_OVER_SLOTS)
        metrics = proxy.metrics()
        self.assertGreater(metrics["cross_slot_transactions_total"], 5)
        self.assertEqual(metrics["cross_slot_partly_executed_total"], 0)

    def test_what_cannot_be_split_is_refused_when_queued(self):
        _, proxy = self.start("--cross-slot", "split")
        client = self.client(proxy)
        for command in (("RENAME", "a", "b"), ("SUNION", "a", "b"), ("MSETNX", "a", "1", "b", "2")):
            client.call("MULTI")
            self.assertEqual(client.call("SET", "a", "1"), b"QUEUED")
            self.assert_error(client.command(*command), CROSSSLOT)
            self.assert_error(client.command("EXEC"), EXECABORT)
        client.call("WATCH", "a")
        self.assert_error(client.command("WATCH", "b"), CROSSSLOT)

    def test_a_large_block_over_many_slots(self):
        _, proxy = self.start("--cross-slot", "split")
        client = self.client(proxy)
        count, value = 500, "v" * 5000
        commands = [("SET", "key%d" % i, "%d%s" % (i, value)) for i in range(count)]
        replies = client.pipeline([("MULTI",), *commands, ("EXEC",)])
        self.assertEqual(replies[-1], [b"OK"] * count)
        replies = client.pipeline([("MULTI",), *[("GET", "key%d" % i) for i in range(count)],
                                   ("EXEC",)])
        self.assertEqual(replies[-1], [b"%d%s" % (i, value.encode()) for i in range(count)])

    def test_a_watch_loop_over_slots(self):
        # kombu: WATCH of one key, then MULTI over it and others.
        _, proxy = self.start("--cross-slot", "split")

        def loops(stopping):
            done = 0
            with proxy.connect(seconds(30)) as client:
                while not stopping.is_set():
                    client.call("WATCH", "unacked")
                    value = int(client.call("GET", "unacked") or 0)
                    replies = client.pipeline([
                        ("MULTI",), ("INCR", "index"), ("SET", "unacked", value + 1),
                        ("RPUSH", "queue", value), ("EXEC",)])
                    if replies[-1] is not None:
                        # The others' parts may run between these.
                        if isinstance(replies[-1], ReplyError) or replies[-1][1] != b"OK":
                            raise AssertionError("EXEC gave %r" % replies)
                        done += 1
            return done
        workers = [Background(loops) for _ in range(4)]
        client = self.client(proxy)
        wait_until(lambda: int(client.call("LLEN", "queue")) > 100, "the loops", seconds(60))
        done = sum(worker.stop(seconds(60)) for worker in workers)
        self.assertEqual(int(client.call("GET", "unacked")), done)
        self.assertEqual(int(client.call("GET", "index")), done)
        self.assertEqual(int(client.call("LLEN", "queue")), done)

    def test_a_block_without_watch_needs_no_connection_of_its_own(self):
        _, proxy = self.start()
        client = self.client(proxy)
        client.call("GET", "{t}a")
        before = proxy.metrics()["backend_connects_total"]
        for number in range(200):
            replies = client.pipeline([("MULTI",), ("INCR", "{t}n"), ("EXEC",)])
            self.assertEqual(replies, [b"OK", b"QUEUED", [number + 1]])
        self.assertEqual(proxy.metrics()["backend_connects_total"], before)

    def test_connections_of_watchers_are_given_back(self):
        cluster, proxy = self.start("--private-connections", "4", "--workers", "1")
        owner = cluster.owner(key_slot("{t}"))

        def connections():
            return int(owner.info("clients")["connected_clients"])
        self.client(proxy).call("GET", "{t}a")
        clients = [self.client(proxy) for _ in range(4)]
        for client in clients:
            self.assertEqual(client.call("WATCH", "{t}a"), b"OK")
        late = self.client(proxy)
        self.assert_error(late.command("WATCH", "{t}a"),
                          "ERR proxy: too many clients need a connection of their own"
                          " (not executed)")
        self.assertEqual(clients[0].pipeline([("MULTI",), ("SET", "{t}a", "0"), ("EXEC",)])[-1],
                         [b"OK"])
        self.assertEqual(clients[1].call("UNWATCH"), b"OK")
        clients[2].close()
        self.assertIsNone(clients[3].pipeline([("MULTI",), ("GET", "{t}a"), ("EXEC",)])[-1])
        wait_until(lambda: late.command("WATCH", "{t}a") == b"OK", "room for one more", seconds(10))
        late.close()
        # Those that are kept for others: at most two, and the shared one of each worker.
        wait_until(lambda: connections() <= 2 + 2 + 2, "the connections to close", seconds(10))

    def test_the_watched_connection_breaks(self):
        cluster, proxy = self.start()
        owner = cluster.owner(key_slot("{t}"))
        client = self.client(proxy)
        client.call("SET", "{t}a", "1")
        client.call("WATCH", "{t}a")
        owner.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        self.assertEqual(client.call("WATCH", "{t}b"), b"OK")
        self.assertEqual(client.call("MULTI"), b"OK")
        self.assertEqual(client.call("SET", "{t}a", "2"), b"QUEUED")
        self.assertIsNone(client.call("EXEC"))
        self.assertEqual(client.call("GET", "{t}a"), b"1")
        # The next one is as if nothing had been.
        client.call("WATCH", "{t}a")
        self.assertEqual(client.pipeline([("MULTI",), ("SET", "{t}a", "3"), ("EXEC",)])[-1],
                         [b"OK"])

    def test_blocks_and_watch_loops_while_their_slot_moves(self):
        cluster, proxy = self.start()
        tag = "{moving}"
        slot = key_slot(tag)

        def blocks(number):
            def work(stopping):
                done = 0
                with proxy.connect(seconds(30)) as client:
                    while not stopping.is_set():
                        done += 1
                        own, common = "%sb%d" % (tag, number), tag + "sum"
                        replies = client.pipeline([
                            ("MULTI",), ("INCR", own), ("PING",), ("INCR", common),
                            ("RPUSH", own + "l", done), ("EXEC",), ("GET", own)])
                        result = replies[-2]
                        if (isinstance(result, ReplyError) or result[0] != done or
                                result[1] != b"PONG" or result[3] != done or
                                replies[-1] != b"%d" % done):
                            raise AssertionError("block %d gave %r" % (done, replies))
                return done
            return Background(work)

        def loops():
            def work(stopping):
                done = tries = 0
                with proxy.connect(seconds(30)) as client:
                    while not stopping.is_set():
                        tries += 1
                        client.call("WATCH", tag + "w")
                        value = int(client.call("GET", tag + "w") or 0)
                        replies = client.pipeline([("MULTI",), ("SET", tag + "w", value + 1),
                                                   ("EXEC",)])
                        if replies[-1] not in (None, [b"OK"]):
                            raise AssertionError("EXEC gave %r" % replies)
                        done += replies[-1] is not None
                return done, tries
            return Background(work)

        block_workers = [blocks(number) for number in range(4)]
        loop_workers = [loops() for _ in range(4)]
        client = self.client(proxy)
        for number in range(40):
            client.call("SET", "%sother%d" % (tag, number), "x")
        for turn in range(6):
            target = [node for node in cluster.primaries()
                      if node is not cluster.owner(slot)][turn % 2]
            source = cluster.begin_move(slot, target)
            # A block waits (TRYAGAIN) while some of its keys have moved and some have not.
            while cluster.move_keys(slot, source, target, at_most=8, batch=2):
                pass
            cluster.finish_move(slot, source, target)
            before = int(client.call("GET", tag + "sum"))
            wait_until(lambda: int(client.call("GET", tag + "sum")) > before + 8,
                       "the blocks to go on", seconds(30))
        wait_until(lambda: int(client.call("GET", tag + "w") or 0) > 20, "the loops to go on",
                   seconds(60))
        blocks_done = sum(worker.stop(seconds(60)) for worker in block_workers)
        loops_done = [worker.stop(seconds(60)) for worker in loop_workers]
        self.assertEqual(int(client.call("GET", tag + "sum")), blocks_done)
        self.assertEqual(int(client.call("GET", tag + "w")), sum(done for done, _ in loops_done))
        self.assertEqual(proxy.metrics()["proxy_errors_total"], 0)

    def test_keys_on_both_sides_of_a_move(self):
        cluster, proxy = self.start("--hold-timeout", "500ms")
        slot = key_slot("{half}")
        client = self.client(proxy)
        for number in range(20):
            client.call("SET", "{half}%d" % number, "0")
        target = next(node for node in cluster.primaries() if node is not cluster.owner(slot))
        source = cluster.begin_move(slot, target)
        cluster.move_keys(slot, source, target, at_most=10)
        at_source, at_target = [
            node.command("CLUSTER", "GETKEYSINSLOT", slot, 100)[0] for node in (source, target)]

        def block(*commands):
            return client.pipeline([("MULTI",), *commands, ("EXEC",)])[-1]
        for keys in ((at_source, at_target), (at_target, at_source)):
            self.assert_error(block(*[("SET", key, "1") for key in keys]),
                              "TRYAGAIN Multiple keys request during rehashing of slot")
        self.assertNotIn("cmdstat_exec", target.info("commandstats"))
        self.assertEqual(block(("INCR", at_source)), [1])
        self.assertEqual(block(("INCR", at_target)), [1])
        # The target would take it.
        client.call("WATCH", at_target)
        self.assertIsNone(block(("INCR", at_source)))
        self.assertEqual(client.call("GET", at_source), b"1")
        client.call("WATCH", at_target)
        self.assertEqual(block(("INCR", at_target)), [2])
        while cluster.move_keys(slot, source, target, at_most=8):
            pass
        cluster.finish_move(slot, source, target)
        self.assertEqual(block(("INCR", at_source), ("INCR", at_target)), [2, 3])

    def test_a_client_that_leaves_in_the_middle(self):
        _, proxy = self.start()
        barrier = threading.Barrier(8)

        def leave(number):
            def work(_):
                with proxy.connect(seconds(20)) as client:
                    client.send_raw(pack("WATCH", "{t}a") + pack("MULTI") + pack("INCR", "{t}a"))
                    barrier.wait(20)
                    if number % 2:
                        client.send_raw(pack("EXEC"))
            return Background(work)
        for worker in [leave(number) for number in range(8)]:
            worker.join_or_raise(seconds(30))
        client = self.client(proxy)
        result = client.pipeline([("MULTI",), ("INCR", "{t}a"), ("EXEC",)])[-1]
        self.assertIn(result, [[value] for value in range(1, 6)])


if __name__ == "__main__":
    unittest.main()
