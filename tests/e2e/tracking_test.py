"""CLIENT TRACKING: its replies and its messages are those of a plain server, whichever worker the
clients have; and no client keeps what has changed, also while slots move."""

import random

from harness import (SERVER, Background, RealClusterTestCase, key_slot, keys_in_slots, require_server,
                     seconds, unittest, wait_until)
from plain_server import PlainServer
from resp_client import Push

ON = "CLIENT TRACKING ON"
INFO = "CLIENT TRACKINGINFO"
# One a connection, byte for byte.
CONVERSATIONS = [
    [INFO, "CLIENT GETREDIR", "CLIENT TRACKING", "CLIENT TRACKING foo", ON + " foo", ON + " PREFIX",
     ON + " PREFIX a", ON + " REDIRECT", ON + " REDIRECT x", ON + " REDIRECT 999999999",
     "CLIENT TRACKING foo REDIRECT 999999999", ON + " FOO REDIRECT 999999999",
     ON + " REDIRECT 999999999 FOO", ON + " REDIRECT 0", ON + " REDIRECT -1", ON + " BCAST OPTIN",
     ON + " OPTIN OPTOUT", "CLIENT CACHING YES", "CLIENT CACHING foo", "CLIENT CACHING",
     "CLIENT CACHING YES x", "CLIENT TRACKING OFF FOO", "CLIENT TRACKING OFF PREFIX a",
     "CLIENT TRACKING OFF", INFO],
    [ON, INFO, "CLIENT GETREDIR", "GET tr-none", ON + " BCAST", ON + " OPTIN", INFO, ON + " OPTOUT",
     ON, INFO, ON + " OPTOUT NOLOOP", INFO, "CLIENT CACHING YES", "CLIENT CACHING NO", INFO,
     "CLIENT CACHING FOO", INFO, "PING", INFO, "CLIENT TRACKING OFF", INFO],
    [ON + " BCAST PREFIX foo PREFIX foobar", INFO, ON + " BCAST PREFIX zz PREFIX aa", INFO,
     ON + " BCAST PREFIX a", ON + " BCAST PREFIX zz", ON + " BCAST PREFIX b PREFIX c", ON,
     ON + " BCAST NOLOOP", INFO, ON + " BCAST PREFIX q", "CLIENT CACHING YES", "RESET", INFO],
    [ON + " OPTIN", "CLIENT CACHING YES", "CLIENT FOO", INFO, "CLIENT CACHING YES", "CLIENT", INFO,
     "CLIENT CACHING YES", "CLIENT CACHING", INFO, "CLIENT CACHING YES", "NOSUCH", INFO,
     "CLIENT CACHING YES", "MULTI", "PING", "GET tr-none", "EXEC", INFO, "CLIENT CACHING YES",
     "MULTI", "GET tr-none", "DISCARD", INFO, "CLIENT CACHING YES", "MULTI", "NOSUCH", "EXEC", INFO],
]

# (who, what it says, who is told something then). Byte for byte. All that changes is told to "s": so
# what is told to "a" by the same connection has come, too.
BEGIN = [("s", "HELLO 3", ""), ("s", ON + " BCAST", ""), ("a", "HELLO 3", "")]
STEPS = BEGIN + [
    ("a", ON, ""), ("a", "GET k1", ""), ("w", "SET k1 1", "as"),
    ("w", "SET k1 2", "s"), ("a", "GET k1", ""), ("a", "SET k1 own", "as"),
    ("a", "MGET k1 k2", ""), ("w", "SET k2 1", "as"), ("w", "DEL k1", "as"),
    ("a", "EXISTS {k}1 {k}2", ""), ("w", "SET {k}2 1", "as"), ("w", "SET {k}1 1", "as"),
    ("a", "HGETALL h", ""), ("w", "HSET h f 1", "as"),
    ("a", "MULTI", ""), ("a", "GET k1", ""), ("a", "SET {k1}2 5", ""), ("a", "EXEC", "s"),
    ("w", "SET k1 3", "as"), ("w", "SET {k1}2 5", "s"),
    ("a", "EVAL_RO return(redis.call('get',KEYS[1])) 1 k1", ""), ("w", "SET k1 4", "as"),
    ("a", "XREAD COUNT 1 STREAMS st 0", ""), ("w", "XADD st 1-1 f v", "as"),
    ("a", "GET k1", ""), ("a", "HELLO 2", ""), ("w", "SET k1 5", "s"), ("a", "HELLO 3", ""),
    ("a", "GET k1", ""), ("w", "PEXPIREAT k1 1", "as"),
    ("a", "CLIENT TRACKING OFF", ""), ("a", ON + " OPTIN", ""), ("a", "GET k1", ""),
    ("w", "SET k1 6", "s"), ("a", "CLIENT CACHING YES", ""), ("a", "GET k1", ""),
    ("a", "GET k2", ""), ("w", "SET k2 1", "s"), ("w", "SET k1 7", "as"),
    ("a", "CLIENT CACHING YES", ""), ("a", "MULTI", ""), ("a", "GET k1", ""), ("a", "EXEC", ""),
    ("w", "SET k1 8", "as"),
    ("a", "CLIENT TRACKING OFF", ""), ("a", ON + " OPTOUT", ""), ("a", "CLIENT CACHING NO", ""),
    ("a", "GET k1", ""), ("a", "GET k2", ""), ("w", "SET k1 9", "s"), ("w", "SET k2 9", "as"),
    ("a", "CLIENT TRACKING OFF", ""), ("a", ON + " BCAST PREFIX k PREFIX z", ""),
    ("w", "SET k1 1", "as"), ("w", "SET q 1", "s"), ("a", "SET z 1", "as"),
    ("a", ON + " BCAST", ""), ("w", "SET q 1", "as"), ("w", "SET k1 1", "aas"),
    ("a", "RESET", ""), ("w", "SET k1 1", "s"), ("a", "PING", ""),
]
FLUSH = BEGIN + [("a", ON, ""), ("a", "GET k1", ""), ("w", "FLUSHALL", "as")]
OWN_FLUSH = BEGIN + [("a", ON, ""), ("a", "GET k1", ""), ("a", "FLUSHALL", "as")]


class TrackingTest(RealClusterTestCase):
    cluster_options = {"replicas": 0}

    def start(self, *flags):
        return self.start_proxy(self.cluster.addresses, "--workers", "3", *flags)

    def start_plain(self):
        require_server()
        plain = PlainServer(SERVER)
        self.addCleanup(plain.stop)
        return plain

    def test_replies_are_those_of_a_plain_server(self):
        self.assert_answers_as_a_plain_server(self.start(), CONVERSATIONS)

    def run_steps(self, steps, connect):
        clients, heard = {}, []
        for who, line, told in steps:
            if who not in clients:
                clients[who] = connect()
                self.addCleanup(clients[who].close)
            heard.append((line, clients[who].raw(*line.split(" "))))
            for each in told:
                heard.append((line + ": told", clients[each].read_raw()))
        return [(line, reply if not line.startswith("HELLO") else b"") for line, reply in heard]

    def test_messages_are_those_of_a_plain_server(self):
        plain = self.start_plain()
        for steps in (STEPS, FLUSH, OWN_FLUSH):
            for _ in range(3):
                # Another one would be told of this FLUSHALL by each node, when that gets to it.
                proxy = self.start_proxy(self.cluster.addresses, "--workers", "1")
                plain.connect().call("FLUSHALL")
                self.client(proxy).call("FLUSHALL")
                expected = self.run_steps(steps, plain.connect)
                self.assertEqual(self.run_steps(steps, lambda: proxy.connect(seconds(20))), expected)

    def test_a_client_of_any_worker_is_told_instead(self):
        plain, proxy = self.start_plain(), self.start()

        def converse(connect):
            heard = []
            targets = [connect() for _ in range(3)]
            third = connect()
            third.call("HELLO", "3")
            client, writer = connect(), connect()
            for client_or_target in targets + [third, client, writer]:
                self.addCleanup(client_or_target.close)
            for number, target in enumerate(targets + [third]):
                ident = target.call("CLIENT", "ID")
                if target is not third:
                    heard.append(target.raw("SUBSCRIBE", ("__redis__:invalidate", "tr-other")[number % 2]))
                heard.append(client.raw("CLIENT", "TRACKING", "ON", "REDIRECT", ident))
                self.assertEqual(client.call("CLIENT", "GETREDIR"), ident)
                client.call("GET", "k1")
                writer.call("SET", "k1", number)
                heard.append(target.read_raw())
                self.assertIn(b"flags=t ", client.call("CLIENT", "INFO"))
                self.assertIn(b" redir=%d " % ident, client.call("CLIENT", "INFO"))
            third.close()
            wait_until(lambda: client.call("CLIENT", "LIST", "ID", ident) in (b"", b"\n"), "its end")
            client.call("GET", "k1")
            writer.call("SET", "k1", "x")
            wait_until(lambda: b"flags=tR " in client.call("CLIENT", "INFO"), "the broken redirect")
            client.call("HELLO", "3")
            client.call("GET", "k1")
            writer.call("SET", "k1", "y")
            heard.append(client.read_raw().replace(b"%d" % ident, b"ID"))
            info = client.raw("CLIENT", "TRACKINGINFO")
            heard.append(info.replace(b"%d" % ident, b"ID"))
            client.call("GET", "k1")
            return heard

        self.assertEqual(converse(lambda: proxy.connect(seconds(20))), converse(plain.connect))

    def test_lists_and_info_tell_of_those_who_track(self):
        proxy = self.start()
        clients = [self.client(proxy) for _ in range(7)]
        for client in clients[:5]:
            client.call("CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", "tr-x")
        clients[5].call("CLIENT", "TRACKING", "ON")
        clients[5].call("MGET", "a", "b")
        lines = clients[6].call("CLIENT", "LIST").decode().splitlines()
        self.assertEqual(sum(" flags=tB " in line for line in lines), 5)
        self.assertEqual(sum(" flags=t " in line for line in lines), 1)
        self.assertEqual(sum(" redir=0 " in line for line in lines), 6)
        info = (clients[6].call("INFO", "clients") + clients[6].call("INFO", "stats")).decode()
        for text in ("tracking_clients:6", "tracking_total_keys:2", "tracking_total_items:2"):
            self.assertIn(text + "\r\n", info)
        # Not more of them than primaries, for each worker.
        for node in self.cluster.nodes:
            wait_until(lambda: node.command("CLIENT", "LIST").decode().count(" flags=tB ") == 3,
                       "one connection of each worker at %r" % node)
        for client in clients[:6]:
            client.call("RESET")
        self.assertIn("tracking_clients:0\r\n", clients[6].call("INFO", "clients").decode())

    def test_nobody_keeps_what_has_changed_while_slots_move(self):
        proxy = self.start()
        keys = keys_in_slots(20, "tr-")
        dice = random.Random(7)
        readers = [self.client(proxy) for _ in range(4)]
        caches = [{} for _ in readers]
        writes = [0]
        for number, reader in enumerate(readers):
            reader.call("HELLO", "3")
            reader.call("CLIENT", "TRACKING", "ON", *(["BCAST"] if number == 3 else []))

        def write(stop):
            with proxy.connect(seconds(20)) as writer:
                while not stop.is_set():
                    writer.call("SET", dice.choice(keys), writes[0])
                    writes[0] += 1

        def take(number, value):
            if not isinstance(value, Push):
                return False
            if value[1] is None:
                caches[number].clear()
            for key in value[1] or ():
                caches[number].pop(key.decode(), None)
            return True

        def read(number, count):
            wanted = [keys[(7 * number + i) % len(keys)] for i in range(count)]
            for key in wanted:
                readers[number].send("GET", key)
            for key in wanted:
                value = readers[number].read()
                while take(number, value):
                    value = readers[number].read()
                caches[number][key] = value

        writing = Background(write)
        nodes = self.cluster.primaries()
        for turn in range(30):
            for number in range(len(readers)):
                read(number, dice.randrange(len(keys)))
            if turn % 3 == 0:
                slot = key_slot(dice.choice(keys))
                source = self.cluster.owner(slot)
                target = dice.choice([node for node in nodes if node.id != source.id])
                self.cluster.move_slot(slot, target)
        wait_until(lambda: writes[0] > 100 or not writing.is_alive(), "a hundred writes",
                   seconds(60))
        writing.stop()
        checker = self.client(proxy)

        # All that was to be told has been told at some time.
        def right():
            for number, reader in enumerate(readers):
                reader.send("ECHO", "end")
                while take(number, reader.read()):
                    pass
            now = {key: checker.call("GET", key) for key in keys}
            return all(now[key] == value for cache in caches for key, value in cache.items())
        wait_until(right, "the last messages", seconds(10))


if __name__ == "__main__":
    unittest.main()
