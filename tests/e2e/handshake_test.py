"""What client libraries say first, what the proxy answers itself, what it refuses, and what bad
input gets: compared with a plain server where there is one."""

import os
import re
import time

from harness import (FakeClusterTestCase, ROOT, RealClusterTestCase, SERVER, ReplyError, pack,
                     require_server, seconds, unittest)
from plain_server import PlainServer

NOAUTH = "NOAUTH Authentication required."


def read_command_table():
    """Name (CONTAINER|NAME for a subcommand) → (arity, Serve::…), of the generated table."""
    path = os.path.join(ROOT, "cluster", "command_table_data.inc")
    with open(path, encoding="ascii") as file:
        text = file.read()
    commands = {}
    for row in re.findall(r"\{\.name = \"[^\"]+\".*?\},\n", text, re.DOTALL):
        name = re.search(r'\.name = "([^"]+)"', row).group(1)
        container = re.search(r'\.container = "([^"]+)"', row)
        arity = int(re.search(r"\.arity = (-?\d+)", row).group(1))
        serve = re.search(r"\.serve = Serve::k(\w+)", row).group(1)
        subcommands = ".has_subcommands = true" in row
        full = "%s|%s" % (container.group(1), name) if container else name
        commands[full] = (arity, serve, subcommands)
    return commands


class SameAsPlainServerTest(RealClusterTestCase):
    """Byte for byte what a plain server of the same version answers."""

    cluster_options = {"primaries": 1, "replicas": 0}

    @classmethod
    def setUpClass(cls):
        require_server()
        cls.plain = PlainServer(SERVER)
        super().setUpClass()

    @classmethod
    def tearDownClass(cls):
        super().tearDownClass()
        cls.plain.stop()

    def setUp(self):
        super().setUp()
        self.proxy = self.start_proxy(self.cluster.addresses)

    def both(self):
        proxy = self.client(self.proxy)
        plain = self.plain.connect()
        self.addCleanup(plain.close)
        return proxy, plain

    def test_local_commands(self):
        for protocol in (2, 3):
            proxy, plain = self.both()
            for client in (proxy, plain):
                client.call("HELLO", protocol)
            for command in (
                    ("PING",), ("ping", "x"), ("PING", "a", "b"), ("ECHO", "x"), ("ECHO",),
                    ("ECHO", "\r\n"), ("SELECT", "0"), ("SELECT", "x"), ("CLIENT", "GETNAME"),
                    ("CLIENT", "SETNAME", "me"), ("CLIENT", "GETNAME"),
                    ("CLIENT", "SETNAME", "a b"), ("CLIENT", "SETNAME", ""),
                    ("CLIENT", "GETNAME"), ("CLIENT", "SETNAME"), ("CLIENT",),
                    ("HELLO", "4"), ("HELLO", "x"), ("HELLO", "2", "AUTH", "a"),
                    ("HELLO", "2", "NOSUCH"), ("HELLO", str(protocol), "SETNAME"),
                    ("AUTH", "x"), ("AUTH", "nobody", "x"), ("AUTH", "default", "x"),
                    ("AUTH",), ("AUTH", "a", "b", "c"), ("ROLE",), ("TIME", "x"),
                    ("COMMAND", "INFO", "GET"), ("COMMAND", "INFO", "get", "nosuch", "MSET"),
                    ("COMMAND", "NOSUCH"), ("COMMAND", "GETKEYS", "MSET", "a", "1", "b", "2"),
                    ("RESET",)):
                wanted = plain.raw(*command)
                got = proxy.raw(*command)
                with self.subTest(command=command, protocol=protocol):
                    self.assertEqual(got, wanted)

    def test_hello(self):
        proxy, plain = self.both()
        for arguments in ((), ("2",), ("3",), ("3", "SETNAME", "lib"), ("3", "AUTH", "default", "x"),
                          ("2", "AUTH", "default", "x", "SETNAME", "other")):
            got, wanted = proxy.command("HELLO", *arguments), plain.command("HELLO", *arguments)
            with self.subTest(arguments=arguments):
                if isinstance(got, list):
                    got, wanted = (dict(zip(reply[::2], reply[1::2])) for reply in (got, wanted))
                self.assertEqual(sorted(got), sorted(wanted))
                for field in (b"server", b"version", b"proto", b"mode", b"role", b"modules"):
                    self.assertEqual(got[field], wanted[field], field)
                self.assertIsInstance(got[b"id"], int)
            self.assertEqual(proxy.command("CLIENT", "GETNAME"), plain.command("CLIENT", "GETNAME"))

    def test_command_lists_what_is_served_of_what_the_server_has(self):
        proxy, plain = self.both()
        self.assertIsInstance(proxy.call("COMMAND", "COUNT"), int)
        ours = {name.lower().decode() for name in proxy.call("COMMAND", "LIST")}
        known = {name.lower().decode() for name in plain.call("COMMAND", "LIST")}
        served = {name.lower() for name, (_, serve, _) in read_command_table().items()
                  if serve != "Refused"}
        self.assertEqual(served & known - ours, set())
        self.assertGreaterEqual(len(ours), 200)
        docs = proxy.call("COMMAND", "DOCS", "get", "hset")
        self.assertEqual([name.lower() for name in docs[::2]], [b"get", b"hset"])
        self.assertEqual(len(proxy.call("COMMAND")), proxy.call("COMMAND", "COUNT"))

    def test_info_has_what_libraries_look_for(self):
        proxy, plain = self.both()
        info = fields(proxy.call("INFO"))
        wanted = fields(plain.call("INFO"))
        for name in ("redis_mode", "role", "connected_slaves", "cluster_enabled",
                     "maxmemory_policy", "redis_version", "arch_bits", "tcp_port"):
            self.assertIn(name, info)
        for name in ("redis_mode", "role", "connected_slaves", "cluster_enabled", "redis_version",
                     "maxmemory_policy"):
            # Valkey calls some of them by new names; libraries look for the old ones.
            self.assertEqual(info[name], wanted.get(name, info[name]), name)
        self.assertEqual(info["redis_mode"], "standalone")
        self.assertIn("redis_version", fields(proxy.call("INFO", "server")))
        self.assertNotIn("role", fields(proxy.call("INFO", "server")))
        self.assertIn("io_uring", proxy.call("INFO").decode().lower())

    def test_client_and_time(self):
        proxy, _ = self.both()
        proxy.call("CLIENT", "SETNAME", "me")
        self.assertEqual(proxy.command("CLIENT", "SETINFO", "LIB-NAME", "lib"), b"OK")
        self.assertEqual(proxy.command("CLIENT", "SETINFO", "LIB-VER", "1.2"), b"OK")
        info = dict(field.split("=", 1)
                    for field in proxy.call("CLIENT", "INFO").decode().split())
        self.assertEqual((info["name"], info["db"], info["resp"]), ("me", "0", "2"))
        self.assertEqual(int(info["id"]), proxy.call("CLIENT", "ID"))
        address = "%s:%d" % proxy.socket.getsockname()
        self.assertEqual(info["addr"], address)
        second, microsecond = proxy.call("TIME")
        self.assertLess(abs(int(second) - time.time()), 5)
        self.assertLess(int(microsecond), 1000000)
        self.assertNotEqual(self.client(self.proxy).call("CLIENT", "ID"), int(info["id"]))

    def test_select_of_another_database(self):
        proxy, _ = self.both()
        for database in ("1", "15"):
            self.assert_error(proxy.command("SELECT", database),
                              "ERR SELECT is not allowed in cluster mode")
        self.assert_error(proxy.command("SELECT", "-1"), "ERR DB index is out of range")

    def test_quit_answers_what_came_before_it_and_nothing_after(self):
        proxy, plain = self.both()
        for client in (proxy, plain):
            client.send_raw(pack("SET", "q", "v") + pack("GET", "q") + pack("QUIT") + pack("PING"))
            self.assertEqual(client.read_to_end(), b"+OK\r\n$1\r\nv\r\n+OK\r\n")

    def test_reset_takes_everything_back(self):
        proxy, plain = self.both()
        for client in (proxy, plain):
            client.call("HELLO", 3, "SETNAME", "n")
            self.assertEqual(client.raw("RESET"), b"+RESET\r\n")
            self.assertEqual(client.raw("CLIENT", "GETNAME"), b"$-1\r\n")

    def test_readonly_and_readwrite(self):
        proxy, _ = self.both()
        self.assertEqual([proxy.raw(name) for name in ("READONLY", "READWRITE")],
                         [b"+OK\r\n", b"+OK\r\n"])


def fields(info):
    return dict(line.split(":", 1) for line in info.decode().split("\r\n") if ":" in line)


class PasswordTest(FakeClusterTestCase):
    def setUp(self):
        super().setUp()
        self.path = os.path.join(self.directory, "password")
        with open(self.path, "w", encoding="ascii") as file:
            file.write("a secret\n")
        os.chmod(self.path, 0o600)
        self.cluster, self.proxy = self.start_with_fakes("--requirepass-file", self.path)

    def test_nothing_works_before_auth(self):
        client = self.client(self.proxy)
        for command in (("GET", "k"), ("PING",), ("INFO",), ("COMMAND",),
                        ("CLIENT", "ID"), ("SELECT", "0"), ("MULTI",)):
            self.assert_error(client.command(*command), NOAUTH)
        self.assertIn("NOAUTH HELLO must be called", str(client.command("HELLO", "3")))
        self.assertEqual(self.cluster.logged(), [])
        self.assertEqual(client.command("QUIT"), b"OK")

    def test_auth(self):
        client = self.client(self.proxy)
        wrong = "WRONGPASS invalid username-password pair or user is disabled."
        self.assert_error(client.command("AUTH", "a wrong one"), wrong)
        self.assert_error(client.command("AUTH", "nobody", "a secret"), wrong)
        self.assert_error(client.command("PING"), NOAUTH)
        self.assertEqual(client.command("AUTH", "a secret"), b"OK")
        self.assertEqual(client.command("SET", "k", "v"), b"OK")
        # A later failure takes nothing away.
        self.assert_error(client.command("AUTH", "a wrong one"), wrong)
        self.assertEqual(client.command("PING"), b"PONG")
        self.assertEqual(client.command("RESET"), b"RESET")
        self.assert_error(client.command("PING"), NOAUTH)
        self.assertEqual(client.command("AUTH", "default", "a secret"), b"OK")

    def test_hello_with_auth(self):
        client = self.client(self.proxy)
        self.assertIn("WRONGPASS", str(client.command("HELLO", 3, "AUTH", "default", "x")))
        # The protocol is as it was.
        self.assertEqual(client.raw("PING"), b"-%s\r\n" % NOAUTH.encode())
        reply = client.command("HELLO", 3, "AUTH", "default", "a secret", "SETNAME", "n")
        self.assertEqual(reply[b"proto"], 3)
        self.assertEqual(client.command("CLIENT", "GETNAME"), b"n")
        self.assertEqual(client.raw("GET", "none"), b"_\r\n")

    def test_limits_before_auth(self):
        for data, text in ((b"*11\r\n", "ERR Protocol error: unauthenticated multibulk length"),
                           (b"*2\r\n$16385\r\n", "ERR Protocol error: unauthenticated bulk length")):
            client = self.client(self.proxy)
            client.send_raw(data)
            self.assert_error(client.read(), text)
            self.assertEqual(client.read_to_end(), b"")
        client = self.client(self.proxy)
        client.send_raw(b"x" * (100 << 10))
        self.assertIn(client.read_to_end()[:20], (b"", b"-ERR Protocol error:"))

    def test_ten_failures_close_the_connection(self):
        client = self.client(self.proxy)
        with self.assertRaises(ConnectionError):
            for _ in range(11):
                client.command("AUTH", "guess")
        self.assertGreaterEqual(self.proxy.metrics()["client_auth_failures_total"], 10)

    def test_the_password_stands_nowhere(self):
        client = self.client(self.proxy)
        client.call("AUTH", "a secret")
        self.assertNotIn("a secret", client.call("INFO").decode())
        self.assertNotIn("a secret", self.proxy.http("/metrics")[1])
        self.assertNotIn("a secret", self.proxy.log())

    def test_a_silent_client_is_closed(self):
        proxy = self.start_proxy(self.cluster.addresses, "--requirepass-file", self.path,
                                 "--auth-timeout", "300ms")
        client = self.client(proxy)
        self.assertEqual(client.read_to_end(), b"")


class RefusedTest(FakeClusterTestCase):
    """Rows C11 and C12: what is not served can never reach a connection to a node."""

    def test_c12_what_the_table_refuses_is_refused_and_reaches_no_node(self):
        cluster, proxy = self.start_with_fakes()
        client = self.client(proxy)
        client.call("SET", "k", "v")
        cluster.clear_log()
        refused = 0
        for name, (arity, serve, subcommands) in read_command_table().items():
            if serve != "Refused" or subcommands:
                continue
            words = name.split("|")
            command = words + ["1"] * (abs(arity) - len(words))
            reply = client.command(*command)
            refused += 1
            with self.subTest(command=name):
                self.assertIsInstance(reply, ReplyError)
                # Its own check may come first; nothing else may.
                self.assertRegex(str(reply), r"^ERR proxy: command '%s' is not supported$|"
                                 r"^CROSSSLOT |^ERR syntax|^ERR unknown (sub)?command" %
                                 re.escape(name.lower()))
        self.assertGreater(refused, 40)
        self.assertEqual(cluster.logged(), [])
        self.assert_only_the_proxys_own(cluster)
        self.assertEqual(client.command("GET", "k"), b"v")

    def test_the_readme_names_what_is_not_served(self):
        with open(os.path.join(ROOT, "README.md"), encoding="utf-8") as file:
            readme = file.read()
        served, refused = readme.split("**Refused by default**")
        refused = refused.split("**Known differences**")[0]
        for name, (_, serve, _) in read_command_table().items():
            if serve != "Refused" or name.startswith(("PFDEBUG", "PFSELFTEST", "REPLCONF",
                                                      "RESTORE-")):
                continue  # of the servers among themselves
            container = name.split("|")[0]
            if container in ("CLIENT", "FUNCTION", "LATENCY", "MEMORY", "OBJECT", "PUBSUB", "SLOWLOG",
                             "XGROUP", "XINFO"):
                continue
            self.assertRegex(refused, r"`%s\b" % container, name)
        for name in ("MGET", "MSET", "DEL", "UNLINK", "EXISTS", "TOUCH", "HELLO", "PING"):
            self.assertIn("`%s`" % name, served)

    def test_c12_commands_that_change_a_connection(self):
        cluster, proxy = self.start_with_fakes()
        other = self.client(proxy)
        other.call("SET", "k", "v")
        cluster.clear_log()
        for command in (("SYNC",),
                        ("PSYNC", "?", "-1"), ("SHUTDOWN",), ("DEBUG", "SLEEP", "0"),
                        ("CLUSTER", "RESET"), ("CLUSTER", "SETSLOT", "1", "STABLE"),
                        ("REPLICAOF", "NO", "ONE"), ("SLAVEOF", "NO", "ONE"), ("FAILOVER",),
                        ("MIGRATE", "h", "1", "k", "0", "1"),
                        ("CONFIG", "SET", "maxmemory", "1"), ("ACL", "SETUSER", "x"),
                        ("SCRIPT", "DEBUG", "YES"), ("SWAPDB", "0", "1"),
                        ("MODULE", "LOAD", "x"), ("SAVE",), ("REPLCONF", "ack", "1")):
            client = self.client(proxy)
            reply = client.command(*command)
            with self.subTest(command=command):
                self.assertIsInstance(reply, ReplyError)
                self.assertIn("is not supported", str(reply))
                self.assertEqual(client.command("PING"), b"PONG")
        self.assertEqual(cluster.logged(), [])
        self.assert_only_the_proxys_own(cluster)
        self.assertEqual(other.command("GET", "k"), b"v")

    def assert_only_the_proxys_own(self, cluster):
        for entry in cluster.logged(housekeeping=True):
            words = [arg.upper() for arg in entry.args[:2]]
            self.assertIn(words[0], (b"CLUSTER", b"CLIENT", b"HELLO", b"AUTH", b"INFO", b"COMMAND",
                                     b"PING", b"READONLY", b"MULTI", b"DISCARD"))
            if words[0] == b"CLUSTER":
                self.assertIn(words[1], (b"NODES", b"MYID"))
            if words[0] == b"CLIENT":
                self.assertIn(words[1], (b"ID", b"KILL", b"SETNAME", b"LIST", b"INFO",
                                         b"SETINFO"))

    def test_c12_unknown_commands_are_not_forwarded(self):
        cluster, proxy = self.start_with_fakes()
        client = self.client(proxy)
        cluster.clear_log()
        self.assert_error(client.command("NOSUCH", "a"),
                          "ERR unknown command 'NOSUCH', with args beginning with: 'a' ")
        self.assertEqual(cluster.logged(), [])

    def test_c11_http_words_close_the_client_without_a_reply(self):
        cluster, proxy = self.start_with_fakes()
        other = self.client(proxy)
        other.call("SET", "k", "v")
        accepted = [node.accepted for node in cluster.nodes]
        for data in (b"POST / HTTP/1.1\r\n", b"Host: example\r\n", pack("POST", "/"),
                     pack("host:", "x"), b"post x\r\n"):
            client = self.client(proxy)
            client.send_raw(data)
            self.assertEqual(client.read_to_end(), b"", data)
            self.assertEqual(other.command("GET", "k"), b"v")
        client = self.client(proxy)
        client.send_raw(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        # Both servers throw the reply to GET away with the connection.
        self.assertEqual(client.read_to_end(), b"")
        self.assertEqual([node.accepted for node in cluster.nodes], accepted)


class BadInputTest(FakeClusterTestCase):
    """Row C10: the server's own text, then the end."""

    CASES = (
        (b"*2147483648\r\n", "invalid multibulk length"),
        (b"*1048577\r\n", "invalid multibulk length"),
        (b"*x\r\n", "invalid multibulk length"),
        (b"*\0\r\n", "invalid multibulk length"),
        (b"*99999999999999999999\r\n", "invalid multibulk length"),
        (b"*1\r\n$-2\r\n", "invalid bulk length"),
        (b"*1\r\n$-1\r\n", "invalid bulk length"),
        (b"*1\r\n$x\r\n", "invalid bulk length"),
        (b"*1\r\n$536870913\r\n", "invalid bulk length"),
        (b"*1\r\n!3\r\n", "expected '$', got '!'"),
        (b"*2\r\n$4\r\nECHO\r\n:1\r\n", "expected '$', got ':'"),
        (b"*1\r\n\x00\r\n", "expected '$', got '\0'"),
        (b"SET \"a\r\n", "unbalanced quotes in request"),
        (b"SET 'a'b\r\n", "unbalanced quotes in request"),
        (b"x" * (70 << 10), "too big inline request"),
        (b"*" + b"1" * (70 << 10), "too big mbulk count string"),
        (b"*1\r\n$" + b"1" * (70 << 10), "too big bulk count string"),
    )

    def test_c10_bad_frames_get_the_servers_text_and_the_end(self):
        cluster, proxy = self.start_with_fakes()
        for data, text in self.CASES:
            client = self.client(proxy)
            # What came before it is answered first.
            client.send_raw(pack("SET", "k", "v") + pack("PING") + data)
            with self.subTest(data=data[:40]):
                begin = time.monotonic()
                reply = client.read_to_end()
                self.assertLess(time.monotonic() - begin, seconds(2))
                wanted = b"+OK\r\n+PONG\r\n-ERR Protocol error: " + text.encode() + b"\r\n"
                # Old and new servers differ in what they do with a NUL within the text.
                self.assertEqual(reply.replace(b"got '\0'", b"got ' '"),
                                 wanted.replace(b"got '\0'", b"got ' '"))
        self.assertGreaterEqual(proxy.metrics()["client_protocol_errors_total"],
                                len(self.CASES))
        self.assertEqual({entry.args[0] for entry in cluster.logged()}, {b"SET"})

    def test_c10_a_bulk_string_without_crlf_is_refused(self):
        cluster, proxy = self.start_with_fakes()
        for data in (b"*1\r\n$4\r\nPINGxx", b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\r",
                     b"*1\r\n$4\r\nPING\n\r*1\r\n$4\r\nPING\r\n"):
            client = self.client(proxy)
            client.send_raw(data)
            self.assertRegex(client.read_to_end(), b"^-ERR Protocol error: [^\r\n]+\r\n$")
        self.assertEqual(cluster.logged(), [])

    def test_c10_nothing_is_a_request(self):
        _, proxy = self.start_with_fakes()
        client = self.client(proxy)
        client.send_raw(b"*0\r\n*-1\r\n\r\n\r\n\n*0\r\n" + pack("PING") + b"PING\n" + b"   PING  \r\n")
        self.assertEqual([client.read_raw() for _ in range(3)], [b"+PONG\r\n"] * 3)

    def test_c10_binary_noise_kills_only_its_own_client(self):
        cluster, proxy = self.start_with_fakes()
        other = self.client(proxy)
        for data in (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n", b"\x00\r\n",
                     bytes(range(256)) * 300 + b"\r\n", b"\xff\xfe\r\n"):
            client = self.client(proxy)
            client.send_raw(data)
            client.socket.shutdown(1)
            client.read_to_end()
            self.assertEqual(other.command("SET", "k", "v"), b"OK")
        self.assertEqual({entry.args[0] for entry in cluster.logged()}, {b"SET"})

    def test_c9_a_million_arguments_and_half_a_gigabyte_announced(self):
        cluster, proxy = self.start_with_fakes()
        before = proxy.memory_kib("VmRSS")
        clients = [self.client(proxy) for _ in range(20)]
        for client in clients:
            client.send_raw(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$536870912\r\n0123456789")
        other = self.client(proxy)
        self.assertEqual(other.command("SET", "k", "v"), b"OK")
        # Announced bytes reserve nothing.
        self.assertLess(proxy.memory_kib("VmRSS") - before, 64 << 10)
        for client in clients:
            client.close()
        count = 200000
        keys = ["{t}%d" % number for number in range(count)]
        big = self.client(proxy, timeout=seconds(60))
        self.assertEqual(big.command("EXISTS", *keys), 0)
        self.assertEqual(len(cluster.logged("EXISTS")[0].args), count + 1)


if __name__ == "__main__":
    unittest.main()
