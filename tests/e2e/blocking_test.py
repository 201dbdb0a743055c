"""Commands that wait: BLPOP, XREAD BLOCK and their like, on connections of their own."""

import time

from harness import (SERVER, Background, FreshClusterTestCase, ReplyError, key_slot, keys_in_slots,
                     seconds, unittest, wait_until)

# One a connection. What is there is taken at once; what is not is waited for in vain.
CONVERSATIONS = [
    ["RPUSH {t}l a b c", "BLPOP {t}l 0", "BRPOP {t}none {t}l 0", "BLPOP {t}l 1", "BLPOP {t}l 0.01"],
    ["RPUSH {t}l a b", "BLMOVE {t}l {t}m LEFT RIGHT 0", "BRPOPLPUSH {t}l {t}m 0",
     "BLMOVE {t}l {t}m LEFT RIGHT 0.01", "BRPOPLPUSH {t}l {t}m 0.01", "DEL {t}m"],
    ["RPUSH {t}l a b c", "BLMPOP 0 2 {t}none {t}l LEFT COUNT 2", "BLMPOP 0.01 1 {t}none LEFT",
     "DEL {t}l"],
    ["ZADD {t}z 1 a 2.5 b 3 c", "BZPOPMIN {t}z 0", "BZPOPMAX {t}z 0", "BZMPOP 0 1 {t}z MIN",
     "BZPOPMIN {t}z 0.01", "BZPOPMAX {t}z 0.01", "BZMPOP 0.01 1 {t}z MAX"],
    ["XADD {t}x 1-1 f v", "XREAD BLOCK 0 STREAMS {t}x 0", "XREAD BLOCK 10 STREAMS {t}x $",
     "XGROUP CREATE {t}x g 0", "XREADGROUP GROUP g c BLOCK 0 STREAMS {t}x >",
     "XREADGROUP GROUP g c BLOCK 10 STREAMS {t}x >", "DEL {t}x"],
    ["BLPOP {t}l x", "BLPOP {t}l -1", "BLPOP {t}l", "BLPOP", "BLMPOP x 1 {t}l LEFT",
     "BLMPOP 0 0 {t}l LEFT", "BLMOVE {t}a {t}b UP LEFT 0", "XREAD BLOCK", "XREAD BLOCK x STREAMS {t}x 0",
     "XREAD BLOCK -1 STREAMS {t}x 0", "XREADGROUP GROUP g c BLOCK 0 STREAMS {t}none >"],
    ["SET {t}s x", "BLPOP {t}s 0", "BZPOPMIN {t}s 0", "XREAD BLOCK 0 STREAMS {t}s 0", "DEL {t}s"],
    ["MULTI", "BLPOP {t}none 0", "RPUSH {t}l a", "BLPOP {t}l 0", "EXEC"],
]

# The same on keys of three slots: a, b and c are in three shards. What follows an error of the
# timeout is not looked at.
OVER_SLOTS = [
    ["RPUSH b x y z", "BLPOP a b c 0", "BRPOP a b c 0", "BRPOP a b c 0.5", "BLPOP a b c 0.01",
     "BRPOP a b c 0.01", "BLPOP a a b b 0.01"],
    ["RPUSH a 1", "RPUSH c 2", "BLPOP b c a 0", "BLPOP b c a 0", "EXISTS a b c"],
    ["RPUSH c x y z", "BLMPOP 0 3 a b c RIGHT COUNT 2", "BLMPOP 0 3 a b c LEFT",
     "BLMPOP 0.01 3 a b c LEFT", "BLMPOP 0.01 3 a b c LEFT COUNT 7"],
    ["ZADD b 1 a 2.5 b 3 c inf d -1e300 e", "BZPOPMIN a b c 0", "BZPOPMAX a b c 0",
     "BZMPOP 0 3 a b c MIN", "BZMPOP 0 3 a b c MAX COUNT 9", "BZPOPMIN a b 0.01",
     "BZPOPMAX a b 0.01", "BZMPOP 0.01 2 a b MAX"],
    ["SET b x", "BLPOP a b c 0", "BLMPOP 0 3 a b c LEFT", "BZPOPMIN a b c 0", "BZMPOP 0 2 a b MIN",
     "RPUSH a 1", "BLPOP a b c 0", "RPUSH c 1", "BLPOP a b c 0", "BLPOP b a c 0", "BLPOP c b 0",
     "BZPOPMAX c b 0.01", "DEL b"],
    ["BLPOP a b x", "BLPOP a b -1", "BLPOP a b 1e30", "BLPOP a b inf", "BLPOP a b -inf",
     "BLPOP a b nan", "BLPOP a b 1e5000", "BLPOP a b 0x.01", "BLPOP a b 1x", "BZPOPMAX a b -.1",
     "BLMPOP x 2 a b LEFT", "BLMPOP 1 2 a b MIDDLE", "BLMPOP 1 2 a b LEFT COUNT",
     "BLMPOP 1 2 a b LEFT COUNT 0", "BLMPOP 1 2 a b LEFT COUNT x", "BLMPOP 1 3 a b LEFT",
     "BLMPOP 1 0 a b LEFT", "BZMPOP 1 2 a b LEFT", "BZMPOP 1 2 a b MIN COUNT 1 COUNT 2",
     "BLPOP a b", "BLPOP a b \x00"],
    ["XADD {t}x 1-1 f v", "XREAD BLOCK 10 STREAMS {t}x $", "XREAD BLOCK 10 COUNT 1 STREAMS {t}x {t}y $ $",
     "XREAD BLOCK 10 STREAMS {t}x {t}y 0 $", "XREAD BLOCK x STREAMS {t}x $", "SET {t}s v",
     "XREAD BLOCK 10 STREAMS {t}s $", "XREAD BLOCK 10 STREAMS {t}none $", "DEL {t}x {t}s"],
    ["WAIT 0 0", "WAIT -1 10", "WAIT 0 10", "WAIT 1 10", "SET a v", "SET b v", "WAIT 1 10",
     "WAIT 0 0", "WAIT x 0", "WAIT 1 x", "WAIT 1 -1", "WAIT 1.5 0", "WAIT x x", "WAIT 1", "WAIT",
     "WAIT 1 9223372036854775808", "MULTI", "SET a w", "WAIT 1 0", "EXEC", "MULTI", "WAIT 0 0",
     "WAIT x 0", "EXEC", "DEL a b"],
]

WAITAOF = ["WAITAOF 0 0 0", "WAITAOF 0 1 10", "SET a v", "SET b v", "WAITAOF 0 0 0", "WAITAOF 0 1 10",
     "WAITAOF 1 0 0", "WAITAOF 1 1 10", "WAITAOF 2 0 0", "WAITAOF -1 0 0", "WAITAOF x 0 0",
     "WAITAOF 0 -1 0", "WAITAOF 0 x 0", "WAITAOF 0 0 x", "WAITAOF 0 0 -1", "WAITAOF 1 1 x",
     "WAITAOF 0 0", "WAITAOF", "WAITAOF 0 9223372036854775808 0", "MULTI", "SET a w",
     "WAITAOF 0 0 0", "WAITAOF 0 7 0", "EXEC", "DEL a b"]
if SERVER == "redis-server":
    WAITAOF = ["WAITAOF 0 0 0"]  # 7.0 does not know it


class BlockingTest(FreshClusterTestCase):
    def start(self, *flags, **options):
        options.setdefault("replicas", 0)
        cluster = self.start_cluster(**options)
        return cluster, self.start_proxy(cluster.addresses, *flags)

    def blocked(self, owner):
        return int(owner.info("clients")["blocked_clients"])

    def wait_until_blocked(self, owner, count):
        wait_until(lambda: self.blocked(owner) == count, "%d blocked clients" % count, seconds(20))

    def pop(self, proxy, *command):
        return Background(lambda _: self.ask(proxy, command))

    @staticmethod
    def ask(proxy, command):
        with proxy.connect(seconds(60)) as client:
            return client.call(*command)

    def test_replies_are_those_of_a_plain_server(self):
        _, proxy = self.start()
        self.assert_answers_as_a_plain_server(proxy, CONVERSATIONS)

    def test_over_slots_replies_are_those_of_a_plain_server(self):
        _, proxy = self.start()
        self.assert_answers_as_a_plain_server(proxy, OVER_SLOTS + [WAITAOF])

    def test_each_element_goes_to_one_of_those_that_wait_over_slots(self):
        cluster, proxy = self.start()
        keys = keys_in_slots(6)
        slots = [key_slot(key) for key in keys]

        def worker(stop):
            taken = []
            with proxy.connect(seconds(60)) as client:
                while not stop.is_set():
                    reply = client.call("BRPOP", *keys, "0.3")
                    if reply is not None:
                        taken.append(int(reply[1]))
            return taken

        workers = [Background(worker) for _ in range(8)]
        client = self.client(proxy)
        for number in range(600):
            client.call("LPUSH", keys[number % len(keys)], number)
            if number % 50 == 20:
                slot = slots[number % len(keys)]
                source = cluster.owner(slot)
                cluster.move_slot(slot, next(node for node in cluster.primaries()
                                             if node is not source))
        wait_until(lambda: client.call("EXISTS", *keys) == 0, "all taken", seconds(30))
        taken = [number for each in workers for number in each.stop(seconds(30))]
        self.assertEqual(sorted(taken), list(range(600)))

    def test_over_slots_they_wait_through_a_failover_and_take_no_connection(self):
        cluster, proxy = self.start("--private-connections", "1", replicas=1)
        waiting = [self.pop(proxy, "BLPOP", "a", "b", "c", "0") for _ in range(5)]
        timed = self.pop(proxy, "BZPOPMIN", "a", "b", "3")
        owner = cluster.owner(key_slot("b"))
        cluster.failover(cluster.replicas_of(owner)[0])
        self.assertIsNone(timed.join_or_raise(seconds(20)))
        client = self.client(proxy)
        for number in range(5):
            client.call("RPUSH", "abc"[number % 3], number)
        values = sorted(int(each.join_or_raise(seconds(20))[1]) for each in waiting)
        self.assertEqual(values, list(range(5)))

    def test_what_comes_while_its_stream_moves_is_behind_its_last_id(self):
        cluster, proxy = self.start()
        slot = key_slot("{t}x")
        client = self.client(proxy)
        client.call("XADD", "{t}x", "1-1", "f", "old")
        source = cluster.owner(slot)
        target = next(node for node in cluster.primaries() if node is not source)
        waiting = self.pop(proxy, "XREAD", "BLOCK", "0", "STREAMS", "{t}x", "$")
        self.wait_until_blocked(source, 1)
        # Moved, and written to, before the one that waits can go where it is.
        proxy.process.send_signal(19)  # SIGSTOP
        try:
            cluster.move_slot(slot, target)
            target.command("XADD", "{t}x", "1-2", "f", "new")
        finally:
            proxy.process.send_signal(18)
        self.assertEqual(waiting.join_or_raise(seconds(20)),
                         [[b"{t}x", [[b"1-2", [b"f", b"new"]]]]])

    def test_wait_counts_the_replicas_that_have_the_writes(self):
        cluster, proxy = self.start(replicas=1)
        client, other = self.client(proxy), self.client(proxy)
        for key in "abc":
            client.call("SET", key, "v")
        begin = time.monotonic()
        for number in range(10):
            client.call("SET", "a", number)
            self.assertEqual(client.call("WAIT", "1", "0"), 1)
        # Replicas say how far they are once a second, unless they are asked.
        self.assertLess(time.monotonic() - begin, seconds(5))
        replica = cluster.replicas_of(cluster.owner(key_slot("b")))[0]
        replica.process.send_signal(19)  # SIGSTOP
        self.addCleanup(replica.process.send_signal, 18)
        client.call("SET", "b", "w")
        begin = time.monotonic()
        self.assertEqual(client.call("WAIT", "1", "300"), 0)
        self.assertGreaterEqual(time.monotonic() - begin, 0.3)
        self.assertEqual(other.call("WAIT", "1", "0"), 1)
        client.send("WAIT", "1", "0")
        self.assertEqual(other.call("SET", "b", "x"), b"OK")
        replica.process.send_signal(18)
        self.assertEqual(client.read(), 1)

    def test_wait_is_for_the_shards_that_were_written_to(self):
        cluster, proxy = self.start(replicas=1)
        client = self.client(proxy)
        replica = cluster.replicas_of(cluster.owner(key_slot("b")))[0]
        replica.process.send_signal(19)  # SIGSTOP
        self.addCleanup(replica.process.send_signal, 18)
        self.assertNotEqual(cluster.owner(key_slot("a")), cluster.owner(key_slot("b")))
        client.call("SET", "a", "v")
        self.assertEqual(client.call("GET", "b"), None)
        self.assertEqual(client.call("WAIT", "1", "0"), 1)
        for write in (("SET", "b", "v"), ("MSET", "a", "1", "b", "2")):
            other = self.client(proxy)
            other.call(*write)
            self.assertEqual(other.call("WAIT", "1", "100"), 0)

    def test_waitaof_tells_whose_disks_have_the_writes(self):
        if SERVER == "redis-server":
            self.skipTest("redis 7.0 has no WAITAOF")
        cluster, proxy = self.start("--workers", "1", "--private-connections", "3", replicas=1,
                                    config=["appendonly yes", "appendfsync everysec"])
        client, other = self.client(proxy), self.client(proxy)
        for key in "abc":
            client.call("SET", key, "v")
        self.assertEqual(client.call("WAITAOF", "1", "1", "0"), [1, 1])
        replica = cluster.replicas_of(cluster.owner(key_slot("b")))[0]
        replica.process.send_signal(19)  # SIGSTOP
        self.addCleanup(replica.process.send_signal, 18)
        client.call("SET", "b", "w")
        self.assertEqual(client.call("WAITAOF", "1", "0", "0"), [1, 0])
        begin = time.monotonic()
        self.assertEqual(client.call("WAITAOF", "1", "1", "500"), [1, 0])
        self.assertGreaterEqual(time.monotonic() - begin, 0.5)
        # It waits for all the time that it takes, and others' writes do not keep it waiting.
        client.send("WAITAOF", "1", "1", "0")
        self.assertEqual(other.call("SET", "b", "x"), b"OK")
        self.assertEqual(other.call("SET", "c", "x"), b"OK")
        replica.process.send_signal(18)
        self.assertEqual(client.read(), [1, 1])
        # Nothing is left of it, neither a key nor a connection that is taken.
        self.assertEqual(client.call("DBSIZE"), 3)
        connections = proxy.metrics()["backend_connections"]
        for _ in range(5):
            self.assertEqual(client.call("WAITAOF", "1", "1", "0"), [1, 1])
        self.assertEqual(proxy.metrics()["backend_connections"], connections)

    def test_waitaof_can_be_ended(self):
        if SERVER == "redis-server":
            self.skipTest("redis 7.0 has no WAITAOF")
        _, proxy = self.start("--workers", "1", "--private-connections", "1")
        client, other = self.client(proxy), self.client(proxy)
        number = client.call("CLIENT", "ID")
        client.call("SET", "a", "v")
        unblocks = lambda kind: lambda: other.call("CLIENT", "UNBLOCK", number, kind) == 1
        for kind, wanted in (("TIMEOUT", [0, 0]), ("ERROR", None)):
            client.send("WAITAOF", "0", "1", "0")
            wait_until(unblocks(kind), "WAITAOF to wait", seconds(20))
            reply = client.read()
            if wanted is None:
                self.assert_error(reply, "UNBLOCKED client unblocked via CLIENT UNBLOCK")
            else:
                self.assertEqual(reply, wanted)
        client.send("WAITAOF", "0", "1", "0")
        client.close()
        other.call("SET", "a", "w")
        wait_until(lambda: other.command("WAITAOF", "0", "0", "0") == [0, 0],
                   "its connection to be free", seconds(20))

    def test_it_waits_for_what_comes_and_others_do_not_wait(self):
        cluster, proxy = self.start("--workers", "1")
        owner = cluster.owner(key_slot("{t}l"))
        waiting = [self.pop(proxy, "BLPOP", "{t}l", "0") for _ in range(20)]
        self.wait_until_blocked(owner, 20)
        client = self.client(proxy)
        begin = time.monotonic()
        for number in range(100):
            client.call("SET", "{t}k", number)
        self.assertLess(time.monotonic() - begin, seconds(2))
        self.assertEqual(client.call("RPUSH", "{t}l", *range(20)), 20)
        values = sorted(int(each.join_or_raise(seconds(20))[1]) for each in waiting)
        self.assertEqual(values, list(range(20)))

    def test_its_own_later_commands_wait(self):
        _, proxy = self.start()
        first, second = self.client(proxy), self.client(proxy)
        first.send("BLPOP", "{t}l", "0")
        first.send("SET", "other", "x")
        first.send("PING")
        for _ in range(20):
            self.assertIsNone(second.call("GET", "other"))
        second.call("RPUSH", "{t}l", "a")
        self.assertEqual([first.read() for _ in range(3)], [[b"{t}l", b"a"], b"OK", b"PONG"])

    def test_a_client_that_leaves_takes_nothing(self):
        cluster, proxy = self.start("--workers", "1")
        owner = cluster.owner(key_slot("{t}l"))
        client = self.client(proxy)
        client.call("SET", "{t}k", "x")
        connects = proxy.metrics()["backend_connects_total"]
        clients = [proxy.connect(seconds(20)) for _ in range(5)]
        for each in clients:
            each.send("BLPOP", "{t}l", "0")
        self.wait_until_blocked(owner, 5)
        for each in clients:
            each.close()
        self.wait_until_blocked(owner, 0)
        self.assertEqual(client.call("RPUSH", "{t}l", "a"), 1)
        self.assertEqual(client.call("LLEN", "{t}l"), 1)
        # The shared connection was left alone.
        self.assertEqual(proxy.metrics()["backend_connects_total"], connects + 5)

    def test_no_more_wait_than_are_allowed(self):
        cluster, proxy = self.start("--workers", "1", "--private-connections", "3")
        owner = cluster.owner(key_slot("{t}l"))
        waiting = [self.pop(proxy, "BLPOP", "{t}l", "0") for _ in range(3)]
        self.wait_until_blocked(owner, 3)
        client = self.client(proxy)
        self.assert_error(client.command("BLPOP", "{t}l", "0"),
                          "ERR proxy: too many clients need a connection of their own"
                          " (not executed)")
        client.call("RPUSH", "{t}l", "a", "b", "c")
        for each in waiting:
            each.join_or_raise(seconds(20))
        client.call("RPUSH", "{t}l", "d")
        self.assertEqual(client.call("BLPOP", "{t}l", "0"), [b"{t}l", b"d"])

    def test_they_follow_their_slot_when_it_moves(self):
        cluster, proxy = self.start()
        slot = key_slot("{t}")
        client = self.client(proxy)
        client.call("XGROUP", "CREATE", "{t}x", "g", "$", "MKSTREAM")
        for turn in range(4):
            source = cluster.owner(slot)
            waiting = [self.pop(proxy, "BLPOP", "{t}l", "0"),
                       self.pop(proxy, "BLMOVE", "{t}m", "{t}n", "LEFT", "RIGHT", "30"),
                       self.pop(proxy, "BZPOPMIN", "{t}z", "30"),
                       self.pop(proxy, "XREADGROUP", "GROUP", "g", "c", "BLOCK", "0",
                                "STREAMS", "{t}x", ">")]
            self.wait_until_blocked(source, len(waiting))
            target = [node for node in cluster.primaries() if node is not source][turn % 2]
            cluster.move_slot(slot, target)
            self.wait_until_blocked(source, 0)
            self.wait_until_blocked(target, len(waiting))
            for command in (("RPUSH", "{t}l", "a"), ("RPUSH", "{t}m", "a"), ("ZADD", "{t}z", 1, "a"),
                            ("XADD", "{t}x", "*", "f", "v")):
                client.call(*command)
            for each in waiting:
                self.assertIsNotNone(each.join_or_raise(seconds(30)))

    def test_they_follow_a_slot_that_moves_again_and_again(self):
        # Each move sends them on: no loop of redirections, however often it comes.
        cluster, proxy = self.start()
        slot = key_slot("{t}")
        waiting = [self.pop(proxy, "BLPOP", "{t}l", "0"),
                   self.pop(proxy, "XREAD", "BLOCK", "0", "STREAMS", "{t}x", "0")]
        self.wait_until_blocked(cluster.owner(slot), 2)
        for _ in range(60):
            source = cluster.owner(slot)
            cluster.move_slot(slot, next(node for node in cluster.primaries()
                                         if node is not source))
        client = self.client(proxy)
        client.call("RPUSH", "{t}l", "a")
        client.call("XADD", "{t}x", "1-1", "f", "v")
        self.assertEqual(waiting[0].join_or_raise(seconds(20)), [b"{t}l", b"a"])
        self.assertEqual(waiting[1].join_or_raise(seconds(20)),
                         [[b"{t}x", [[b"1-1", [b"f", b"v"]]]]])

    def test_what_is_pushed_while_the_slot_is_half_moved_is_found(self):
        cluster, proxy = self.start("--workers", "1")
        slot = key_slot("{t}")
        source = cluster.owner(slot)
        target = next(node for node in cluster.primaries() if node is not source)
        waiting = self.pop(proxy, "BLPOP", "{t}l", "0")
        self.wait_until_blocked(source, 1)
        cluster.begin_move(slot, target)
        # The key is not there: it is made at the target.
        self.assertEqual(self.client(proxy).call("RPUSH", "{t}l", "a"), 1)
        self.assertEqual(waiting.join_or_raise(seconds(20)), [b"{t}l", b"a"])
        cluster.finish_move(slot, source, target)

    def test_they_follow_a_failover_with_the_time_that_is_left(self):
        cluster, proxy = self.start(replicas=1)
        slot = key_slot("{t}l")
        owner = cluster.owner(slot)
        waiting = self.pop(proxy, "BLPOP", "{t}l", "0")
        begin = time.monotonic()
        timed = self.pop(proxy, "BLPOP", "{t}l2", "10")
        self.wait_until_blocked(owner, 2)
        replica = cluster.replicas_of(owner)[0]
        cluster.failover(replica)
        self.wait_until_blocked(replica, 2)
        self.assertIsNone(timed.join_or_raise(seconds(20)))
        self.assertGreater(time.monotonic() - begin, 9.5)
        self.assertLess(time.monotonic() - begin, seconds(13))
        self.client(proxy).call("RPUSH", "{t}l", "a")
        self.assertEqual(waiting.join_or_raise(seconds(20)), [b"{t}l", b"a"])

    def test_a_primary_that_hangs_is_left_when_it_is_replaced(self):
        cluster, proxy = self.start(replicas=1, node_timeout_ms=2000)
        owner = cluster.owner(key_slot("{t}l"))
        replica = cluster.replicas_of(owner)[0]
        waiting = self.pop(proxy, "BLPOP", "{t}l", "0")
        self.wait_until_blocked(owner, 1)
        owner.process.send_signal(19)  # SIGSTOP
        self.addCleanup(owner.process.send_signal, 18)
        wait_until(lambda: replica.is_primary(), "the failover", seconds(30))
        self.wait_until_blocked(replica, 1)
        self.client(proxy).call("RPUSH", "{t}l", "a")
        self.assertEqual(waiting.join_or_raise(seconds(20)), [b"{t}l", b"a"])
        owner.process.send_signal(18)

    def test_a_drain_does_not_wait_for_them(self):
        cluster, proxy = self.start("--workers", "1")
        waiting = self.pop(proxy, "BLPOP", "{t}l", "0")
        self.wait_until_blocked(cluster.owner(key_slot("{t}l")), 1)
        begin = time.monotonic()
        self.assertEqual(proxy.stop(seconds(20)), 0)
        self.assertLess(time.monotonic() - begin, seconds(3))
        with self.assertRaises((ConnectionError, EOFError, OSError, ReplyError)):
            waiting.join_or_raise(seconds(10))


if __name__ == "__main__":
    unittest.main()
