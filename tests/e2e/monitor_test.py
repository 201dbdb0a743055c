"""MONITOR: the lines of a plain server for what the proxy's clients send, whatever worker they are
on."""

import re
import tempfile
import time

from harness import (SERVER, Background, RealClusterTestCase, ReplyError, pack, require_server,
                     seconds, unittest, wait_until)
from plain_server import PlainServer

LINE = re.compile(rb"\d{10}\.\d{6} \[0 ([^]]+)\] (.*)", re.DOTALL)
END = b'"ECHO" "the end of it"'

# Each on a connection of its own. Keys with the tag are in one slot.
CONVERSATIONS = [
    ["GET a", "gEt a", "SET a \x01\x02\"\\\t\r\n\x7f", "GET ", "NOSUCH x", "GET", "GET a b",
     "OBJECT NOSUCH"],
    ["AUTH pw", "AUTH default pw", "HELLO", "HELLO 3", "HELLO 2 AUTH default pw SETNAME me",
     "HELLO 2 SETNAME AUTH", "HELLO 3 AUTH default pw"],
    ["PING", "PING x", "ECHO x", "TIME", "COMMAND COUNT", "INFO server", "CLIENT ID",
     "CLIENT SETNAME me", "CLIENT GETNAME", "CLIENT INFO", "SELECT 0", "ROLE", "RESET", "PING"],
    # Administration is not shown.
    ["CLIENT LIST", "CLIENT KILL ID 99999999", "CLIENT UNBLOCK 99999999", "CLIENT PAUSE 1",
     "CLIENT UNPAUSE", "CONFIG GET maxmemory", "ACL WHOAMI", "ACL LIST", "SLOWLOG LEN",
     "LATENCY LATEST", "CLIENT REPLY ON"],
    ["MULTI", "SET {t}a 1", "ping", "NOSUCH", "EXEC", "EXEC", "DISCARD"],
    ["MULTI", "SET {t}a 1", "GET", "DISCARD"],
    ["MULTI", "sEt {t}a 1", "client ID", "PING x", "CLIENT LIST TYPE pubsub", "EVAL return(1) 0",
     "GET {t}a", "CONFIG GET maxmemory", "EXEC"],
    ["MULTI", "EXEC", "MULTI", "PING", "EXEC"],
    ["MULTI", "MULTI", "WATCH {t}a", "EXEC"],
    ["MULTI", "SET {t}a 1", "RESET", "GET {t}a"],
    ["WATCH {t}a", "MULTI", "GET {t}a", "PING", "EXEC", "UNWATCH"],
    ["WATCH {t}a", "SET {t}a 2", "MULTI", "GET {t}a", "PING", "EXEC", "GET {t}a"],
    ["WATCH {t}a", "MULTI", "EXEC", "WATCH {t}a", "SET {t}a 3", "MULTI", "PING", "EXEC"],
    ["WATCH {t}a", "MULTI", "NOSUCH", "EXEC"],
    ["SUBSCRIBE c", "PING", "PING x", "UNSUBSCRIBE", "PUBLISH c m", "PUBSUB NUMSUB c"],
    ["BLPOP {t}none 0.01", "LPUSH {t}l v", "BLPOP {t}l 0", "XREAD BLOCK 1 STREAMS {t}x $"],
    ["MSET a 1 b 2 c 3", "MSET a 1 b", "MGET a none b c", "DEL a b c", "DBSIZE", "KEYS none*", "SCAN 0",
     "SCRIPT EXISTS a", "EVAL return(1) 0", "FCALL none 0", "WAIT 0 0", "QUIT"],
]
# The same for --cross-slot split.
OVER_SLOTS = [
    ["MULTI", "mset a 1 b 2 a 3 c 4", "PING", "MGET c a", "SET d 1", "DEL a b c d", "EXEC"],
    ["WATCH a", "MULTI", "SET b 1", "MSET a 1 c 1", "EXEC"],
    ["WATCH a", "SET a 2", "MULTI", "SET b 1", "MSET a 1 c 1", "EXEC"],
]
# What a client gets that watches itself; its own lines are left out. (A server puts the lines of a
# block into the middle of EXEC's array.)
AS_MONITOR = [
    "GET a", "SET a 1", "MGET a b", "DBSIZE", "EVAL return(1) 0", "PUBLISH c m", "BLPOP l 0",
    "FLUSHALL", "PFCOUNT h", "PING", "ECHO x", "MONITOR", "CLIENT GETNAME", "CLIENT LIST TYPE replica",
    "MULTI", "PING", "EXEC", "MULTI", "GET a", "EXEC", "MULTI", "MONITOR", "EXEC", "WATCH a",
    "UNWATCH", "NOSUCH", "GET", "SUBSCRIBE c", "PING", "GET a", "MONITOR", "UNSUBSCRIBE c", "PING",
    "RESET", "GET none", "PING",
]


def own_address(client):
    return b"%s:%d" % (client.socket.getsockname()[0].encode(), client.socket.getsockname()[1])


class MonitorTest(RealClusterTestCase):
    cluster_options = {"replicas": 0}

    def start(self, *flags, workers=3):
        return self.start_proxy(self.cluster.addresses, "--workers", str(workers), *flags)

    def plain(self):
        require_server()
        plain = PlainServer(SERVER)
        self.addCleanup(plain.stop)
        return plain

    def watch(self, server, protocol="2"):
        watcher = self.client(server) if not isinstance(server, PlainServer) else server.connect()
        self.addCleanup(watcher.close)
        watcher.call("HELLO", protocol)
        self.assertEqual(watcher.call("MONITOR"), b"OK")
        return watcher

    def line(self, watcher):
        """(address, command) of the next line."""
        match = LINE.fullmatch(watcher.read())
        return match[1], match[2]

    def lines(self, watcher, of=None):
        """Up to the end; of the commands of scripts none, which only servers see."""
        lines = []
        while True:
            address, command = self.line(watcher)
            if command == END:
                return lines
            if address != b"lua":
                self.assertIn(of, (None, address))
                lines.append(command)

    def assert_shows_what_a_plain_server_shows(self, proxy, conversations):
        plain = self.plain()
        watchers = self.watch(plain), self.watch(proxy, "3")
        for conversation in conversations:
            with self.subTest(conversation=conversation):
                shown = []
                for server, watcher in zip((plain, proxy), watchers):
                    with server.connect() as client:
                        own = own_address(client)
                        for line in conversation:
                            client.raw(*line.split(" "))
                    with server.connect() as client:
                        client.call("ECHO", "the end of it")
                    shown.append(self.lines(watcher, own))
                self.assertEqual(shown[1], shown[0])

    def test_lines_are_those_of_a_plain_server(self):
        self.assert_shows_what_a_plain_server_shows(self.start(workers=1), CONVERSATIONS)

    def test_lines_of_transactions_over_slots(self):
        proxy = self.start("--cross-slot", "split", workers=1)
        self.assert_shows_what_a_plain_server_shows(proxy, OVER_SLOTS)

    def test_a_monitor_may_do_what_it_may_on_a_plain_server(self):
        plain, proxy = self.plain(), self.start()

        def is_line(raw):
            return LINE.fullmatch(raw[1:-2]) is not None

        for protocol in ("2", "3"):
            replies = []
            for server in (plain, proxy):
                with server.connect() as client:
                    client.call("HELLO", protocol)
                    client.call("MONITOR")
                    data = b"".join(pack(*line.split(" ")) for line in AS_MONITOR)
                    client.send_raw(data + pack("QUIT"))
                    raw = []
                    try:
                        while True:
                            raw.append(client.read_raw())
                    except ConnectionError:
                        pass
                    replies.append([one for one in raw if not is_line(one)])
            self.assertEqual(replies[1], replies[0])

    def test_lines_carry_the_time(self):
        proxy = self.start()
        watcher, client = self.watch(proxy), self.client(proxy)
        before = time.time()
        client.call("PING")
        at = float(watcher.read().split(b" ")[0])
        self.assertLess(abs(at - before), 60)

    def test_clients_of_all_workers_are_shown_to_all_monitors(self):
        proxy = self.start()
        watchers = [self.watch(proxy) for _ in range(4)]
        clients = [self.client(proxy) for _ in range(7)]
        for number, client in enumerate(clients):
            client.send_raw(b"".join(pack("SET", "k%d" % number, i) for i in range(200)))
        for client in clients:
            for _ in range(200):
                client.read()
        for watcher in watchers:
            seen = {}
            while sum(map(len, seen.values())) < 7 * 200:
                address, command = self.line(watcher)
                if command.startswith(b'"SET"'):
                    seen.setdefault(address, []).append(command)
            for number, client in enumerate(clients):
                self.assertEqual(seen[own_address(client)],
                                 [b'"SET" "k%d" "%d"' % (number, i) for i in range(200)])
        self.assertEqual(proxy.metrics()["monitors"], 4)

    def test_when_nobody_watches_nothing_is_made(self):
        proxy = self.start()
        watchers = [self.watch(proxy) for _ in range(5)]
        clients = [self.client(proxy) for _ in range(6)]
        watchers[0].send("RESET")
        watchers[1].send("QUIT")
        for watcher, reply in zip(watchers, (b"RESET", b"OK")):
            while watcher.read() != reply:
                pass
        for watcher in watchers[2:]:
            watcher.close()
        wait_until(lambda: proxy.metrics()["monitors"] == 0, "the monitors to go", seconds(20))

        def made():
            before = proxy.metrics()["monitor_lines_total"]
            for client in clients:
                client.call("PING")
            return proxy.metrics()["monitor_lines_total"] - before
        wait_until(lambda: made() == 0, "an end of the lines", seconds(20))
        self.assertEqual(watchers[0].call("SET", "a", "1"), b"OK")

    def test_a_monitor_in_the_list_of_clients(self):
        proxy = self.start()
        watcher, client = self.client(proxy), self.client(proxy)
        number = watcher.call("CLIENT", "ID")
        watcher.call("MONITOR")
        line = client.call("CLIENT", "LIST", "ID", number).decode()
        self.assertRegex(line, r" flags=O .* cmd=monitor ")
        self.assertEqual(client.call("CLIENT", "KILL", "TYPE", "replica"), 0)
        self.assertEqual(client.call("CLIENT", "KILL", "ID", number), 1)
        self.assertEqual(watcher.read_to_end(), b"")

    def test_without_replies_there_are_no_lines(self):
        proxy = self.start()
        watcher, client = self.client(proxy), self.client(proxy)
        watcher.send("CLIENT", "REPLY", "OFF")
        watcher.send("MONITOR")
        wait_until(lambda: proxy.metrics()["monitors"] == 1, "a monitor", seconds(20))
        client.call("ECHO", "unseen")
        watcher.send("CLIENT", "REPLY", "ON")
        self.assertEqual(watcher.read(), b"OK")
        self.assertEqual(self.line(watcher)[1], b'"CLIENT" "REPLY" "ON"')
        client.call("ECHO", "seen")
        self.assertEqual(self.line(watcher)[1], b'"ECHO" "seen"')

    def test_a_command_that_waits_for_earlier_replies_is_shown_once(self):
        # CLIENT REPLY goes back to the input until all replies are out.
        proxy = self.start()
        watcher, client = self.watch(proxy), self.client(proxy)
        client.send_raw(pack("GET", "k") + pack("CLIENT", "REPLY", "SKIP") + pack("GET", "k") +
                        pack("CLIENT", "REPLY", "ON") + pack("ECHO", "the end of it"))
        self.assertEqual(self.lines(watcher), [
            b'"GET" "k"', b'"CLIENT" "REPLY" "SKIP"', b'"GET" "k"', b'"CLIENT" "REPLY" "ON"'])

    def test_commands_before_authentication_are_not_shown(self):
        with tempfile.NamedTemporaryFile("w") as file:
            file.write("the-password")
            file.flush()
            proxy = self.start("--requirepass-file", file.name)
        watcher = proxy.connect(seconds(20))
        self.addCleanup(watcher.close)
        self.assertIsInstance(watcher.command("MONITOR"), ReplyError)
        watcher.call("AUTH", "the-password")
        watcher.call("MONITOR")
        with proxy.connect(seconds(20)) as client:
            client.command("GET", "a")
            client.command("AUTH", "a guess")
            client.command("HELLO", "3", "AUTH", "default", "the-password")
            client.command("ECHO", "the end of it")
        self.assertEqual(self.lines(watcher), [
            b'"AUTH" "(redacted)"', b'"HELLO" "3" "AUTH" "(redacted)" "(redacted)"'])

    def test_a_stream_of_lines_beside_traffic(self):
        proxy = self.start()

        def traffic(stopping):
            done = 0
            with proxy.connect(seconds(30)) as client:
                while not stopping.is_set():
                    client.pipeline([("INCR", "n")] * 50)
                    done += 50
            return done

        watcher = self.watch(proxy)
        workers = [Background(traffic) for _ in range(4)]
        seen = 0
        while seen < 20000:
            self.assertEqual(self.line(watcher)[1], b'"INCR" "n"')
            seen += 1
        done = 0
        for worker in workers:
            done += worker.stop(seconds(60))
        while seen < done:
            self.assertEqual(self.line(watcher)[1], b'"INCR" "n"')
            seen += 1
        with proxy.connect() as client:
            client.call("ECHO", "the end of it")
        self.assertEqual(self.lines(watcher), [])


if __name__ == "__main__":
    unittest.main()
