"""Commands that wait: BLPOP, XREAD BLOCK and their like, on connections of their own."""

import time

from harness import (Background, FreshClusterTestCase, ReplyError, key_slot, seconds, unittest,
                     wait_until)

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
        begin = time.monotonic()
        waiting = self.pop(proxy, "BLPOP", "{t}l", "0")
        timed = self.pop(proxy, "BLPOP", "{t}l2", "6")
        self.wait_until_blocked(owner, 2)
        replica = cluster.replicas_of(owner)[0]
        cluster.failover(replica)
        self.wait_until_blocked(replica, 2)
        self.assertIsNone(timed.join_or_raise(seconds(20)))
        self.assertGreater(time.monotonic() - begin, 5.5)
        self.assertLess(time.monotonic() - begin, seconds(9))
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
