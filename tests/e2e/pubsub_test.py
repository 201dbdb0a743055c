"""Publish and subscribe through the proxy, beside a plain server of the same kind."""

import socket
import time

from harness import (FreshClusterTestCase, RealClusterTestCase, ReplyError, SERVER, key_slot,
                     pack, seconds, unittest, wait_until)
from plain_server import PlainServer

try:
    import redis
except ImportError:
    redis = None

def read_bytes(sock, size, timeout):
    """So many bytes, or what has come in that time."""
    data, end = b"", time.monotonic() + timeout
    while len(data) < size:
        left = end - time.monotonic()
        if left <= 0:
            break
        sock.settimeout(left)
        try:
            more = sock.recv(65536)
        except (socket.timeout, TimeoutError):
            break
        if not more:
            return data + b"<closed>"
        data += more
    return data


def read_until(sock, end, timeout):
    """All bytes up to these."""
    data = b""
    sock.settimeout(timeout)
    while not data.endswith(end):
        more = sock.recv(65536)
        if not more:
            raise AssertionError("closed after %r" % data[-300:])
        data += more
    return data


class PubSubTestCase(RealClusterTestCase):
    cluster_options = {"replicas": 1}

    def start(self, *flags):
        return self.start_proxy(self.cluster.addresses, *flags)

    def subscribe(self, client, *args):
        client.send(*args)
        return [client.read() for _ in args[1:]]

    def node_subscribers(self, channel):
        """By node: how many connections are subscribed to the channel there."""
        counts = [node.command("PUBSUB", "NUMSUB", channel)[1]
                  for node in self.cluster.answering()]
        return sorted(counts, reverse=True)


class ProtocolTest(PubSubTestCase):
    """The same bytes as a plain server's."""

    CASES = [
        ("nothing subscribed", 2, [
            "UNSUBSCRIBE", "PUNSUBSCRIBE", "SUNSUBSCRIBE", "UNSUBSCRIBE a b", "PING", "PING x",
            "PUBLISH a b", "SPUBLISH a b"]),
        ("RESP2", 2, [
            "SUBSCRIBE a a b", "PSUBSCRIBE p* q", "SSUBSCRIBE s1 s2", "GET x", "CLIENT ID", "PING",
            "PING hello", "PING a b", "HELLO 3", "nosuch x", "GET", "SUBSCRIBE", "MULTI",
            "UNSUBSCRIBE b", "UNSUBSCRIBE", "GET x", "UNSUBSCRIBE", "PUNSUBSCRIBE p* nope q",
            "PUNSUBSCRIBE", "GET x", "SUNSUBSCRIBE s1", "SUNSUBSCRIBE", "GET x", "PING"]),
        ("RESP3", 3, [
            "UNSUBSCRIBE", "SUBSCRIBE a a", "PSUBSCRIBE a* a*", "SSUBSCRIBE a", "PING", "PING x",
            "GET x", "ECHO y", "SUNSUBSCRIBE x", "SUNSUBSCRIBE", "UNSUBSCRIBE", "PUNSUBSCRIBE",
            "UNSUBSCRIBE", "GET x"]),
        ("RESET", 2, ["SUBSCRIBE a", "SSUBSCRIBE b", "GET x", "RESET", "GET x", "SUBSCRIBE c",
                      "QUIT"]),
        ("shard channels only", 2, ["SSUBSCRIBE a", "UNSUBSCRIBE", "PUNSUBSCRIBE x", "GET x",
                                    "SUNSUBSCRIBE"]),
    ]

    def answers(self, address, protocol, commands):
        host, _, port = address.rpartition(":")
        with socket.create_connection((host, int(port)), seconds(10)) as sock:
            replies = []
            for number, command in enumerate(["HELLO %d" % protocol] + commands):
                sock.sendall(pack(*command.split()))
                if command == "QUIT":
                    replies.append((command, read_bytes(sock, 1 << 20, seconds(20))))
                    break
                # An end to each: what comes before it is the answer.
                mark = b"mark%d" % number
                sock.sendall(pack("PING", mark))
                replies.append((command, read_until(sock, mark + b"\r\n", seconds(20))))
            return replies[1:]

    def test_replies_are_those_of_a_plain_server(self):
        proxy = self.start()
        plain = PlainServer(SERVER)
        self.addCleanup(plain.stop)
        for name, protocol, commands in self.CASES:
            with self.subTest(name):
                expected = self.answers("127.0.0.1:%d" % plain.port, protocol, commands)
                got = self.answers(proxy.addr, protocol, commands)
                for want, have in zip(expected, got):
                    self.assertEqual(have, want)

    def test_pipelined_commands_are_answered_in_order(self):
        proxy = self.start()
        client = self.client(proxy)
        client.send_raw(b"".join(pack(*command.split()) for command in (
            "SET k 1", "GET k", "SUBSCRIBE c1 c2", "PING", "UNSUBSCRIBE", "GET k", "SUBSCRIBE c3",
            "GET k", "RESET", "GET k")))
        self.assertEqual(client.read(), b"OK")
        self.assertEqual(client.read(), b"1")
        self.assertEqual(client.read(), [b"subscribe", b"c1", 1])
        self.assertEqual(client.read(), [b"subscribe", b"c2", 2])
        self.assertEqual(client.read(), [b"pong", b""])
        self.assertEqual(client.read(), [b"unsubscribe", b"c1", 1])
        self.assertEqual(client.read(), [b"unsubscribe", b"c2", 0])
        self.assertEqual(client.read(), b"1")
        self.assertEqual(client.read(), [b"subscribe", b"c3", 1])
        self.assertIsInstance(client.read(), ReplyError)
        self.assertEqual(client.read(), b"RESET")
        self.assertEqual(client.read(), b"1")


class MessagesTest(PubSubTestCase):
    def test_channels_patterns_and_shard_channels_in_both_protocols(self):
        proxy = self.start("--workers", "2")
        old = self.client(proxy)
        new = self.client(proxy)
        new.call("HELLO", 3)
        for client in (old, new):
            self.subscribe(client, "SUBSCRIBE", "news")
            self.subscribe(client, "PSUBSCRIBE", "n?ws*")
            self.subscribe(client, "SSUBSCRIBE", "news")
        publisher = self.client(proxy)
        self.assertEqual(publisher.call("PUBLISH", "news", "hello"), 4)
        self.assertEqual(publisher.call("SPUBLISH", "news", "shard"), 2)
        self.assertEqual(publisher.call("PUBLISH", "newspaper", b"\r\n\0"), 2)
        for client in (old, new):
            got = [list(client.read()) for _ in range(4)]
            self.assertCountEqual(got, [
                [b"message", b"news", b"hello"], [b"pmessage", b"n?ws*", b"news", b"hello"],
                [b"smessage", b"news", b"shard"],
                [b"pmessage", b"n?ws*", b"newspaper", b"\r\n\0"]])
        self.assertEqual(publisher.call("PUBLISH", "other", "x"), 0)

    def test_messages_of_any_size_keep_their_order(self):
        proxy = self.start()
        client = self.client(proxy)
        self.subscribe(client, "SUBSCRIBE", "sizes")
        publisher = self.client(proxy)
        sizes = [0, 1, 100, 8000, 8192, 9000, 65536, 70000, 1 << 20, 3 << 20, 5]
        for size in sizes:
            self.assertEqual(publisher.call("PUBLISH", "sizes", b"%d:" % size + b"x" * size), 1)
        for size in sizes:
            self.assertEqual(client.read(), [b"message", b"sizes", b"%d:" % size + b"x" * size])

    def test_resp3_messages_come_between_replies(self):
        proxy = self.start()
        client = self.client(proxy)
        client.call("HELLO", 3)
        value = b"v" * (4 << 20)
        self.assertEqual(client.call("SET", "large", value), b"OK")
        self.subscribe(client, "SUBSCRIBE", "between")
        publisher = self.client(proxy)
        replies = messages = 0
        for _ in range(4):
            client.send("GET", "large")
            for number in range(20):
                publisher.call("PUBLISH", "between", number)
        while replies < 4 or messages < 80:
            got = client.read()
            if isinstance(got, list):
                self.assertEqual(list(got), [b"message", b"between", b"%d" % (messages % 20)])
                messages += 1
            else:
                self.assertEqual(got, value)
                replies += 1

    def test_many_subscribers_share_one_subscription_per_worker(self):
        proxy = self.start("--workers", "2")
        clients = [self.client(proxy) for _ in range(200)]
        for client in clients:
            self.assertEqual(self.subscribe(client, "SUBSCRIBE", "shared"),
                             [[b"subscribe", b"shared", 1]])
        self.assertEqual(self.node_subscribers("shared")[:2], [2, 0])
        publisher = self.client(proxy)
        self.assertEqual(publisher.call("PUBLISH", "shared", "x"), 200)
        for client in clients:
            self.assertEqual(client.read(), [b"message", b"shared", b"x"])
        for client in clients[:150]:
            client.close()
        wait_until(lambda: publisher.call("PUBLISH", "shared", "y") == 50, "their departure",
                   seconds(10))
        for client in clients[150:]:
            client.close()
        wait_until(lambda: self.node_subscribers("shared")[0] == 0, "the subscription's end",
                   seconds(10))
        self.assertEqual(publisher.call("PUBLISH", "shared", "z"), 0)

    def test_publish_waits_for_earlier_requests_of_its_client(self):
        proxy = self.start()
        client = self.client(proxy)
        self.subscribe(client, "SUBSCRIBE", "written")
        other = self.client(proxy)
        for number in range(50):
            other.send_raw(pack("SET", "key%d" % number, number) +
                           pack("PUBLISH", "written", number))
            self.assertEqual(client.read(), [b"message", b"written", b"%d" % number])
            self.assertEqual(self.cluster.answering()[0].command("CLUSTER", "KEYSLOT", "a"),
                             key_slot("a"))
            reader = proxy.connect()
            self.assertEqual(reader.call("GET", "key%d" % number), b"%d" % number)
            reader.close()
            self.assertEqual([other.read(), other.read()], [b"OK", 1])

    def test_subscribers_of_nodes_count_beside_those_of_the_proxy(self):
        proxy = self.start("--workers", "2")
        home = self.cluster.owner(key_slot("mixed"))
        direct = home.connect()
        self.addCleanup(direct.close)
        direct.send("SUBSCRIBE", "mixed")
        direct.read()
        clients = [self.client(proxy) for _ in range(3)]
        for client in clients:
            self.subscribe(client, "SUBSCRIBE", "mixed")
        publisher = self.client(proxy)
        self.assertEqual(publisher.call("PUBLISH", "mixed", "x"), 4)
        for client in clients + [direct]:
            self.assertEqual(client.read(), [b"message", b"mixed", b"x"])

    def test_pubsub_counts_clients_and_not_the_workers_connections(self):
        proxy = self.start("--workers", "2")
        ask = self.client(proxy)
        clients = [self.client(proxy) for _ in range(5)]
        for client in clients:
            self.subscribe(client, "SUBSCRIBE", "counted", "counted:2")
            self.subscribe(client, "PSUBSCRIBE", "count*")
            self.subscribe(client, "SSUBSCRIBE", "counted:s")
        direct = self.cluster.primaries()[0].connect()
        self.addCleanup(direct.close)
        direct.send("SUBSCRIBE", "counted")
        direct.read()
        direct.send("PSUBSCRIBE", "direct*")
        direct.read()
        self.assertEqual(ask.call("PUBSUB", "NUMSUB", "counted", "none", "counted", "counted:2"),
                         [b"counted", 6, b"none", 0, b"counted", 6, b"counted:2", 5])
        self.assertEqual(ask.call("PUBSUB", "NUMSUB"), [])
        self.assertEqual(ask.call("PUBSUB", "NUMPAT"), 2)
        self.assertEqual(ask.call("PUBSUB", "CHANNELS", "count*"), [b"counted", b"counted:2"])
        self.assertEqual(ask.call("PUBSUB", "CHANNELS", "none*"), [])
        self.assertEqual(ask.call("PUBSUB", "CHANNELS"), [b"counted", b"counted:2"])
        self.assertEqual(ask.call("PUBSUB", "SHARDNUMSUB", "counted:s", "counted"),
                         [b"counted:s", 5, b"counted", 0])
        self.assertEqual(ask.call("PUBSUB", "SHARDCHANNELS"), [b"counted:s"])
        self.assert_error(ask.command("PUBSUB", "CHANNELS", "a", "b"),
                          "ERR unknown subcommand or wrong number of arguments for 'CHANNELS'. Try"
                          " PUBSUB HELP.")
        for client in clients:
            client.close()
        wait_until(lambda: ask.call("PUBSUB", "NUMSUB", "counted", "counted:2") ==
                   [b"counted", 1, b"counted:2", 0], "their departure", seconds(10))
        wait_until(lambda: ask.call("PUBSUB", "CHANNELS") == [b"counted"],
                   "the end of the proxy's own subscription", seconds(10))
        self.assertEqual(ask.call("PUBSUB", "NUMPAT"), 1)

    def test_a_slow_subscriber_is_closed_and_others_are_not(self):
        proxy = self.start()
        slow = self.client(proxy, receive_buffer=4096)
        self.subscribe(slow, "SUBSCRIBE", "flood")
        quick = self.client(proxy)
        self.subscribe(quick, "SUBSCRIBE", "flood")
        publisher = self.client(proxy)
        text = b"m" * (1 << 20)
        for number in range(60):
            publisher.send("PUBLISH", "flood", text)
            self.assertEqual(quick.read(), [b"message", b"flood", text])
            publisher.read()
        wait_until(lambda: proxy.metrics()["slow_subscriber_closed_total"] == 1,
                   "the slow one's end", seconds(10))
        self.assertEqual(publisher.call("PUBLISH", "flood", "still"), 1)
        self.assertEqual(quick.read(), [b"message", b"flood", b"still"])

    @unittest.skipIf(redis is None, "python3-redis is not installed")
    def test_the_python_library(self):
        proxy = self.start()
        host, port = proxy.addr.split(":")
        with redis.Redis(host, int(port), socket_timeout=seconds(20)) as client:
            pubsub = client.pubsub()
            pubsub.subscribe("py", "py2")
            pubsub.psubscribe("p[y]*")
            for _ in range(3):
                self.assertIn(pubsub.get_message(timeout=seconds(10))["type"],
                              ("subscribe", "psubscribe"))
            self.assertEqual(client.publish("py", "one"), 2)
            got = [pubsub.get_message(timeout=seconds(10)) for _ in range(2)]
            self.assertCountEqual([(m["type"], m["channel"], m["data"]) for m in got],
                                  [("message", b"py", b"one"), ("pmessage", b"py", b"one")])
            pubsub.ping("there")
            self.assertEqual(pubsub.get_message(timeout=seconds(10))["type"], "pong")
            pubsub.unsubscribe()
            pubsub.punsubscribe()
            for _ in range(3):
                self.assertIn(pubsub.get_message(timeout=seconds(10))["type"],
                              ("unsubscribe", "punsubscribe"))
            pubsub.close()


class KeyEventsTest(PubSubTestCase):
    def test_key_events_of_all_primaries_and_other_messages_once(self):
        for node in self.cluster.answering():
            node.command("CONFIG", "SET", "notify-keyspace-events", "KEA")
        proxy = self.start()
        client = self.client(proxy)
        self.subscribe(client, "PSUBSCRIBE", "__key*__:*")
        everything = self.client(proxy)
        self.subscribe(everything, "PSUBSCRIBE", "*")
        exact = self.client(proxy)
        self.subscribe(exact, "SUBSCRIBE", "__keyevent@0__:set")
        writer = self.client(proxy)
        keys = ["k%d" % number for number in range(12)]
        owners = {self.cluster.owner(key_slot(key)).address for key in keys}
        self.assertEqual(len(owners), 3)
        for key in keys:
            writer.call("SET", key, 1)
        events = sorted(client.read()[2:] for _ in range(24))
        self.assertEqual(events, sorted(
            [[b"__keyspace@0__:" + key.encode(), b"set"] for key in keys] +
            [[b"__keyevent@0__:set", key.encode()] for key in keys]))
        self.assertEqual(sorted(everything.read()[2:] for _ in range(24)), events)
        self.assertEqual(sorted(exact.read()[2] for _ in range(12)),
                         sorted(key.encode() for key in keys))
        for number in range(10):
            self.assertEqual(writer.call("PUBLISH", "plain%d" % number, "x"), 1)
        self.assertEqual(sorted(everything.read()[2] for _ in range(10)),
                         [b"plain%d" % number for number in range(10)])
        writer.call("PUBLISH", "end", "x")
        self.assertEqual(everything.read()[2], b"end")


class ChangingClusterTest(PubSubTestCase):
    def test_subscriptions_survive_a_slot_move_without_loss(self):
        proxy = self.start()
        client = self.client(proxy)
        self.subscribe(client, "SUBSCRIBE", "mover")
        shard = self.client(proxy)
        self.subscribe(shard, "SSUBSCRIBE", "mover")
        publisher = self.client(proxy)
        slot = key_slot("mover")
        source = self.cluster.owner(slot)
        target = next(node for node in self.cluster.primaries() if node.address != source.address)
        sent = 0
        for _ in range(50):
            self.assertGreaterEqual(publisher.call("PUBLISH", "mover", sent), 1)
            sent += 1
        self.cluster.move_slot(slot, target)
        end = time.monotonic() + seconds(3)
        while time.monotonic() < end:
            publisher.call("PUBLISH", "mover", sent)
            sent += 1
            time.sleep(0.002)
        wait_until(lambda: target.command("PUBSUB", "NUMSUB", "mover")[1] == 1,
                   "the subscription at the new home", seconds(10))
        wait_until(lambda: source.command("PUBSUB", "NUMSUB", "mover")[1] == 0,
                   "the end of the old one", seconds(10))
        publisher.call("PUBLISH", "mover", "end")
        got = []
        while True:
            kind, channel, text = client.read()
            self.assertEqual((kind, channel), (b"message", b"mover"))
            if text == b"end":
                break
            got.append(int(text))
        self.assertEqual(got, list(range(sent)))
        wait_until(lambda: publisher.call("SPUBLISH", "mover", "x") == 1, "the shard channel",
                   seconds(10))
        self.assertEqual(shard.read(), [b"smessage", b"mover", b"x"])

    def test_subscriptions_survive_a_failover(self):
        proxy = self.start()
        client = self.client(proxy)
        channels = ["c%d" % number for number in range(30)]
        self.subscribe(client, "SUBSCRIBE", *channels)
        shard = self.client(proxy)
        self.subscribe(shard, "SSUBSCRIBE", *channels)
        publisher = self.client(proxy)
        primary = self.cluster.owner(key_slot("c0"))
        replica = self.cluster.replicas_of(primary)[0]
        self.cluster.failover(replica)
        wait_until(lambda: replica.command("PUBSUB", "NUMSUB", "c0")[1] == 1,
                   "the subscription at the new primary", seconds(20))
        wait_until(lambda: all(publisher.call("SPUBLISH", channel, "s") == 1
                               for channel in channels), "the shard channels", seconds(20))
        for channel in channels:
            self.assertEqual(publisher.call("PUBLISH", channel, "x"), 1)
        for channel in channels:
            got = client.read()
            self.assertEqual(got[0], b"message")
        self.assertEqual(shard.read()[0], b"smessage")


class KeyEventsAmongChangesTest(FreshClusterTestCase):
    def test_key_events_follow_failovers_and_slots_that_move(self):
        cluster = self.start_cluster(primaries=3, replicas=1, config=["notify-keyspace-events KEA"])
        proxy = self.start_proxy(cluster.addresses, "--workers", "1")
        patterns, exact = self.client(proxy), self.client(proxy)
        patterns.call("PSUBSCRIBE", "__keyevent@0__:s?t")
        exact.call("SUBSCRIBE", "__keyevent@0__:set")
        for client in (patterns, exact):
            client.call("SUBSCRIBE", "end")
        writer = self.client(proxy)
        keys = ["k%d" % number for number in range(30)]
        self.assertEqual(len({cluster.owner(key_slot(key)).address for key in keys}), 3)

        def subscribed(node):
            return (node.command("PUBSUB", "NUMPAT") == 1 and
                    node.command("PUBSUB", "NUMSUB", "__keyevent@0__:set")[1] == 1)

        def check():
            # A demoted primary tells of what is replicated to it, too.
            wait_until(lambda: all(subscribed(node) == node.is_primary() for node in cluster.answering()),
                       "the subscriptions to be at the primaries", seconds(20))
            for key in keys:
                writer.call("SET", key, "v")
            writer.call("PUBLISH", "end", "x")
            for client in (patterns, exact):
                told = []
                while (message := client.read())[-1] != b"x":
                    self.assertEqual(message[-2], b"__keyevent@0__:set")
                    told.append(message[-1])
                # Once from each primary; the end may overtake those of others.
                late = len(keys) - len(told)
                told += [client.read()[-1] for _ in range(late)]
                self.assertEqual(sorted(told), sorted(key.encode() for key in keys))

        check()
        for _ in range(2):
            cluster.wait_until_ready()
            cluster.failover(cluster.replicas_of(cluster.owner(key_slot("k0")))[0])
            check()
        source = cluster.owner(key_slot("k1"))
        for key in keys:
            if cluster.owner(key_slot(key)) is source:
                target = next(node for node in cluster.primaries() if node is not source)
                cluster.move_slot(key_slot(key), target)
        check()
        victim = cluster.owner(key_slot("k2"))
        successor = cluster.replicas_of(victim)[0]
        cluster.kill_node(victim)
        wait_until(lambda: successor.is_primary() and all(
            node.cluster_info()["cluster_state"] == "ok" for node in cluster.answering()),
                   "the cluster's own failover", 30)
        check()


if __name__ == "__main__":
    unittest.main()
