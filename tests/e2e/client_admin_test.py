"""CLIENT LIST, KILL, UNBLOCK, PAUSE and REPLY: of the clients of all workers, as a plain server."""

import time

from harness import (SERVER, Background, RealClusterTestCase, pack, require_server, seconds,
                     unittest, wait_until)
from plain_server import PlainServer

# One a connection, byte for byte.
CONVERSATIONS = [
    ["CLIENT LIST TYPE", "CLIENT LIST TYPE foo", "CLIENT LIST TYPE master", "CLIENT LIST TYPE primary",
     "CLIENT LIST TYPE replica", "CLIENT LIST TYPE slave", "CLIENT LIST TYPE pubsub",
     "CLIENT LIST ID", "CLIENT LIST ID x", "CLIENT LIST ID 0", "CLIENT LIST ID 1 x",
     "CLIENT LIST ID -1 99999999", "CLIENT LIST foo", "CLIENT LIST TYPE normal ID 1"],
    ["CLIENT KILL", "CLIENT KILL 1.2.3.4:5", "CLIENT KILL ID", "CLIENT KILL ID x", "CLIENT KILL ID 0",
     "CLIENT KILL ID -1", "CLIENT KILL ID 99999999999999999999", "CLIENT KILL ID 99999999",
     "CLIENT KILL ID 99999999 TYPE", "CLIENT KILL ID 1 2 3", "CLIENT KILL TYPE foo",
     "CLIENT KILL TYPE replica", "CLIENT KILL TYPE primary", "CLIENT KILL TYPE pubsub",
     "CLIENT KILL USER nobody", "CLIENT KILL USER default ID 99999999", "CLIENT KILL SKIPME maybe",
     "CLIENT KILL SKIPME yes ID 99999999", "CLIENT KILL FOO bar", "CLIENT KILL ADDR 1:1",
     "CLIENT KILL LADDR 1:1", "CLIENT KILL MAXAGE 1000000", "CLIENT KILL MAXAGE x",
     "CLIENT KILL MAXAGE 0 ID 99999999", "CLIENT KILL MAXAGE -1"],
    ["CLIENT UNBLOCK", "CLIENT UNBLOCK 99999999", "CLIENT UNBLOCK x", "CLIENT UNBLOCK x FOO",
     "CLIENT UNBLOCK 9 FOO", "CLIENT UNBLOCK 99999999 ERROR", "CLIENT UNBLOCK 99999999 timeout",
     "CLIENT UNBLOCK 9 TIMEOUT x", "CLIENT UNBLOCK -1"],
    ["CLIENT PAUSE", "CLIENT PAUSE x", "CLIENT PAUSE -1", "CLIENT PAUSE 0", "CLIENT PAUSE 1 FOO",
     "CLIENT PAUSE x FOO", "CLIENT PAUSE 9223372036854775808", "CLIENT PAUSE 1 WRITE x",
     "CLIENT PAUSE 1 WRITE", "CLIENT UNPAUSE", "CLIENT UNPAUSE x", "CLIENT PAUSE 1", "PING"],
    ["CLIENT REPLY", "CLIENT REPLY FOO", "CLIENT REPLY ON", "CLIENT REPLY ON x"],
]

# Each sent at once; all that comes until the end of the connection is compared.
PIPELINES = [
    ["CLIENT REPLY SKIP", "PING", "ECHO a"],
    ["CLIENT REPLY SKIP", "NOSUCH", "ECHO a"],
    ["CLIENT REPLY SKIP", "GET", "ECHO a"],
    ["SET k v", "CLIENT REPLY SKIP", "GET k", "ECHO a", "GET k"],
    ["CLIENT REPLY SKIP", "CLIENT REPLY SKIP", "PING", "ECHO b"],
    ["CLIENT REPLY SKIP", "CLIENT REPLY ON", "PING"],
    ["CLIENT REPLY SKIP", "CLIENT REPLY OFF", "PING", "CLIENT REPLY ON"],
    ["SET k v", "GET k", "CLIENT REPLY OFF", "GET k", "PING", "CLIENT REPLY SKIP", "GET k",
     "CLIENT REPLY ON", "ECHO x", "GET k"],
    ["CLIENT REPLY OFF", "GET k", "CLIENT REPLY FOO", "NOSUCH", "RESET", "ECHO x"],
    ["CLIENT REPLY SKIP", "RESET", "ECHO x"],
    ["CLIENT REPLY SKIP", "MULTI", "SET {t}a 1", "GET {t}a", "EXEC"],
    ["CLIENT REPLY OFF", "MULTI", "SET {t}a 2", "EXEC", "CLIENT REPLY ON", "GET {t}a"],
    ["CLIENT REPLY OFF", "HELLO 3", "CLIENT REPLY ON", "HGETALL none"],
    ["CLIENT REPLY OFF", "MSET a 1 b 2 c 3", "CLIENT REPLY ON", "GET a", "GET b"],
    ["CLIENT REPLY OFF", "CLIENT LIST", "CLIENT REPLY ON", "ECHO x"],
    ["CLIENT REPLY SKIP", "BLPOP {t}none 0.05", "ECHO x"],
    ["CLIENT REPLY OFF", "SUBSCRIBE c", "UNSUBSCRIBE c", "CLIENT REPLY ON"],
    ["GET k", "CLIENT REPLY OFF", "QUIT"],
    ["GET k", "CLIENT REPLY SKIP", "QUIT"],
    ["CLIENT REPLY OFF"] + ["INCR n"] * 300 + ["CLIENT REPLY ON", "GET n", "DEL n"],
]


def fields_of(line):
    return dict(field.split("=", 1) for field in line.split())


class ClientAdminTest(RealClusterTestCase):
    cluster_options = {"replicas": 0}

    def start(self, *flags):
        return self.start_proxy(self.cluster.addresses, "--workers", "3", *flags)

    def list(self, client, *args):
        text = client.call("CLIENT", "LIST", *args).decode()
        return {int(line["id"]): line for line in map(fields_of, text.splitlines())}

    def test_replies_are_those_of_a_plain_server(self):
        self.assert_answers_as_a_plain_server(self.start(), CONVERSATIONS)

    def test_replies_that_are_not_wanted_do_not_come(self):
        require_server()
        plain = PlainServer(SERVER)
        self.addCleanup(plain.stop)
        proxy = self.start()

        def received(connect, pipeline):
            with connect() as client:
                client.send_raw(b"".join(pack(*line.split(" ")) for line in pipeline) + pack("QUIT"))
                return client.read_to_end()

        for pipeline in PIPELINES:
            with self.subTest(pipeline=pipeline):
                expected = received(plain.connect, pipeline)
                self.assertEqual(received(lambda: proxy.connect(seconds(20)), pipeline), expected)

    def test_published_messages_come_also_without_replies(self):
        proxy = self.start()
        client, other = self.client(proxy), self.client(proxy)
        client.call("SUBSCRIBE", "admin-c")
        client.call("PING")
        silent = self.client(proxy)
        silent.send("CLIENT", "REPLY", "OFF")
        silent.send("SUBSCRIBE", "admin-c")
        self.assertEqual(silent.read(), [b"subscribe", b"admin-c", 1])
        other.call("PUBLISH", "admin-c", "m")
        self.assertEqual(silent.read(), [b"message", b"admin-c", b"m"])

    def test_the_list_has_the_clients_of_all_workers(self):
        proxy = self.start()
        clients = [self.client(proxy) for _ in range(7)]
        ids = {client.call("CLIENT", "ID") for client in clients}
        self.assertEqual(len(ids), len(clients))
        self.assertEqual({number % 3 for number in ids}, {0, 1, 2})
        for client in clients:
            listed = self.list(client)
            self.assertEqual(set(listed), ids)
        some = sorted(ids)[:2]
        self.assertEqual(sorted(self.list(clients[0], "ID", *some, 12345678)), some)

    def test_fields_tell_what_a_client_does(self):
        proxy = self.start()
        admin = self.client(proxy)
        queueing, blocked, subscribed, named = (self.client(proxy) for _ in range(4))
        ids = [client.call("CLIENT", "ID") for client in (queueing, blocked, subscribed, named)]
        queueing.call("WATCH", "{t}w", "{t}v")
        queueing.call("MULTI")
        queueing.call("SET", "{t}a", "1")
        queueing.call("PING")
        blocked.send("BLPOP", "{t}nothing-comes", "0")
        subscribed.call("HELLO", "3")
        subscribed.call("SUBSCRIBE", "admin-a")
        subscribed.send("PSUBSCRIBE", "admin-b*")
        subscribed.read()
        named.call("CLIENT", "SETNAME", "the-name")
        named.call("CLIENT", "SETINFO", "LIB-NAME", "lib")
        named.call("CLIENT", "SETINFO", "LIB-VER", "1.2")
        named.call("CLIENT", "NO-EVICT", "ON")
        named.call("OBJECT", "HELP")
        wait_until(lambda: self.list(admin)[ids[1]]["flags"] == "b", "a blocked client", seconds(20))
        listed = self.list(admin)
        wanted = [
            dict(flags="x", multi="2", cmd="ping", resp="2"),
            dict(flags="b", multi="-1", cmd="blpop"),
            dict(flags="P", sub="1", psub="1", ssub="0", resp="3", cmd="psubscribe"),
            dict(flags="e", name="the-name", cmd="object|help", user="default", redir="-1", db="0"),
        ]
        wanted[3].update({"lib-name": "lib", "lib-ver": "1.2"})
        for number, fields in zip(ids, wanted):
            self.assertEqual({key: listed[number][key] for key in fields}, fields)
        if "watch" in listed[ids[0]]:
            self.assertEqual(listed[ids[0]]["watch"], "2")
        self.assertEqual(set(self.list(admin, "TYPE", "pubsub")), {ids[2]})
        self.assertNotIn(ids[2], self.list(admin, "TYPE", "normal"))
        info = fields_of(named.call("CLIENT", "INFO").decode())
        self.assertEqual(info["cmd"], "client|info")
        self.assertEqual(info["laddr"], listed[ids[3]]["laddr"])
        self.assertEqual(info["addr"], "%s:%d" % named.socket.getsockname())
        self.assertIn("blocked_clients:1\r\n", admin.call("INFO", "clients").decode())
        wait_until(lambda: admin.call("CLIENT", "UNBLOCK", ids[1]) == 1, "UNBLOCK", seconds(20))
        self.assertIsNone(blocked.read())
        self.assertIn("blocked_clients:0\r\n", admin.call("INFO", "clients").decode())

    def test_clients_that_wait_watch_and_subscribe_are_counted(self):
        proxy = self.start()
        admin = self.client(proxy)
        watching, subscribed, for_ever, for_a_while, over_slots = (
            self.client(proxy) for _ in range(5))
        for _ in range(2):
            watching.call("WATCH", "{t}w", "{t}v")
            subscribed.call("SUBSCRIBE", "admin-a")
        subscribed.call("PSUBSCRIBE", "admin-b")
        for_ever.send("BLPOP", "{t}nothing-comes", "0")
        for_a_while.send("BLPOP", "{t}nothing-comes", "1000")
        over_slots.send("BRPOP", "{t}nothing-comes", "nothing-comes", "1000")
        names = {"blocked_clients": 3, "clients_in_timeout_table": 2}
        if SERVER.startswith("valkey"):
            names.update(pubsub_clients=1, watching_clients=1)

        def counts():
            info = admin.call("INFO", "clients").decode()
            fields = dict(line.split(":") for line in info.splitlines() if ":" in line)
            return {name: int(fields[name]) for name in names}
        wait_until(lambda: counts() == names, "the clients to be counted", seconds(20))
        metrics = proxy.metrics()
        self.assertEqual((metrics["pubsub_clients"], metrics["watching_clients"]), (1, 1))
        subscribed.call("UNSUBSCRIBE", "admin-a")
        self.assertEqual(proxy.metrics()["pubsub_clients"], 1)
        subscribed.call("RESET")
        self.assertEqual(watching.pipeline([("MULTI",), ("GET", "{t}w"), ("EXEC",)])[-1], [None])
        admin.call("RPUSH", "nothing-comes", "x")
        self.assertEqual(over_slots.read(), [b"nothing-comes", b"x"])
        for_ever.close()
        for_a_while.close()
        wait_until(lambda: set(counts().values()) == {0}, "nobody to be counted", seconds(20))
        metrics = proxy.metrics()
        self.assertEqual((metrics["pubsub_clients"], metrics["watching_clients"]), (0, 0))

    def test_fields_have_the_servers_order(self):
        require_server()
        plain = PlainServer(SERVER)
        self.addCleanup(plain.stop)
        with plain.connect() as direct:
            names = [field.split("=")[0] for field in direct.call("CLIENT", "LIST").decode().split()]
        ours = [field.split("=")[0]
                for field in self.client(self.start()).call("CLIENT", "LIST").decode().split()]
        for name in ("lib-name", "lib-ver"):  # Redis has them since 7.2
            if name not in names:
                ours.remove(name)
        # A proxy does not count them for each client.
        self.assertEqual(ours, [name for name in names if not name.startswith("tot-net")
                                and name != "tot-cmds"])

    def assert_ended(self, client):
        self.assertEqual(client.read_to_end(), b"")

    def test_clients_of_all_workers_are_killed(self):
        proxy = self.start()
        admin = self.client(proxy)
        clients = [self.client(proxy) for _ in range(6)]
        ids = [client.call("CLIENT", "ID") for client in clients]
        self.assertEqual(admin.call("CLIENT", "KILL", "ID", ids[0]), 1)
        self.assert_ended(clients[0])
        self.assertEqual(admin.call("CLIENT", "KILL", "%s:%d" % clients[1].socket.getsockname()),
                         b"OK")
        self.assert_ended(clients[1])
        address = "%s:%d" % clients[2].socket.getsockname()
        self.assertEqual(admin.call("CLIENT", "KILL", "ADDR", address, "USER", "default"), 1)
        self.assert_ended(clients[2])
        clients[3].call("SUBSCRIBE", "admin-k")
        self.assertEqual(admin.call("CLIENT", "KILL", "TYPE", "pubsub"), 1)
        self.assert_ended(clients[3])
        self.assertEqual(admin.call("CLIENT", "KILL", "TYPE", "normal"), 2)
        self.assert_ended(clients[4])
        self.assert_ended(clients[5])
        self.assertEqual(len(self.list(admin)), 1)

    def test_a_client_may_kill_itself_and_hears_of_it(self):
        proxy = self.start()
        for command, reply in ((["CLIENT", "KILL", "SKIPME", "no"], b":1\r\n"),
                               (["CLIENT", "KILL", None], b"+OK\r\n")):
            client = self.client(proxy)
            own = "%s:%d" % client.socket.getsockname()
            client.send_raw(pack("SET", "k", "v") + pack("GET", "k") +
                            pack(*[word or own for word in command]) + pack("SET", "k", "later"))
            self.assertEqual(client.read_to_end(), b"+OK\r\n$1\r\nv\r\n" + reply)
        self.assertEqual(self.client(proxy).call("GET", "k"), b"v")

    def test_what_waits_is_unblocked_with_an_error(self):
        proxy = self.start()
        admin = self.client(proxy)
        waiting = [self.client(proxy) for _ in range(4)]
        ids = [client.call("CLIENT", "ID") for client in waiting]
        for client in waiting:
            client.send("BLPOP", "{t}nothing-comes", "0")
        for number, client in zip(ids, waiting):
            wait_until(lambda: admin.call("CLIENT", "UNBLOCK", number, "ERROR") == 1,
                       "client %d unblocked" % number, seconds(20))
            self.assertEqual(str(client.read()),
                             "UNBLOCKED client unblocked via CLIENT UNBLOCK")
        self.assertEqual(admin.call("CLIENT", "UNBLOCK", ids[0]), 0)

    def test_a_pause_of_writes_holds_what_may_write(self):
        proxy = self.start()
        admin = self.client(proxy)
        clients = [self.client(proxy) for _ in range(6)]
        queueing = self.client(proxy)
        queueing.call("MULTI")
        queueing.call("SET", "{t}p", "1")
        admin.call("SET", "p", "before")
        self.assertEqual(admin.call("CLIENT", "PAUSE", "600000", "WRITE"), b"OK")
        for client in clients:
            self.assertEqual(client.call("GET", "p"), b"before")
            self.assertEqual(client.call("PING"), b"PONG")
        queueing.send("EXEC")
        writes = [("SET", "p", "after"), ("PUBLISH", "c", "m"), ("PFCOUNT", "h"),
                  ("EVAL", "return 1", "0"), ("MSET", "a", "1", "b", "2"), ("BLPOP", "l", "0.01")]
        for client, command in zip(clients, writes):
            client.send_raw(pack(*command) + pack("GET", "p"))
        self.assertEqual(self.list(admin)[admin.call("CLIENT", "ID")]["cmd"], "client|list")
        begin = time.monotonic()
        self.assertEqual(admin.call("GET", "p"), b"before")
        self.assertEqual(admin.call("CLIENT", "UNPAUSE"), b"OK")
        expected = [b"OK", 0, 0, 1, b"OK", None]
        for client, reply in zip(clients, expected):
            self.assertEqual(client.read(), reply)
            client.read()
        self.assertEqual(queueing.read(), [b"OK"])
        self.assertLess(time.monotonic() - begin, 60)
        self.assertEqual(admin.call("GET", "p"), b"after")

    def test_a_pause_of_all_ends_by_itself(self):
        proxy = self.start()
        clients = [self.client(proxy) for _ in range(6)]
        begin = time.monotonic()
        self.assertEqual(clients[0].call("CLIENT", "PAUSE", "300"), b"OK")
        for client in clients:
            client.send_raw(pack("PING") + pack("CLIENT", "UNPAUSE") + pack("GET", "nothing"))
        for client in clients:
            self.assertEqual(client.read(), b"PONG")
            self.assertGreaterEqual(time.monotonic() - begin, 0.29)
            self.assertEqual(client.read(), b"OK")
            self.assertIsNone(client.read())

    def test_administration_while_clients_come_and_go(self):
        proxy = self.start()

        def churn(stop):
            while not stop.is_set():
                with proxy.connect(seconds(20)) as client:
                    client.call("CLIENT", "LIST")

        workers = [Background(churn) for _ in range(3)]
        admin = self.client(proxy)
        own = admin.call("CLIENT", "ID")
        for _ in range(200):
            self.assertIn(own, self.list(admin))
        for worker in workers:
            worker.stop()


if __name__ == "__main__":
    unittest.main()
