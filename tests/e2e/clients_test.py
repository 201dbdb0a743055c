"""Client libraries connect as to one plain Redis: python3-redis, ioredis and node-redis."""

import hashlib
import os
import shutil
import subprocess

from harness import (Background, HERE, NODE_DIR, RealClusterTestCase, ReplyError, SERVER, key_slot,
                     keys_in_slots, pack, seconds, unittest)
from plain_server import PlainServer

try:
    import redis
except ImportError:
    redis = None

SIZES = [0, 1, 2, 100, 1022, 1023, 1024, 1025, 4095, 4096, 4097, 16383, 16384, 16385, 65535, 65536,
         65537, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 5 << 20, 64 << 20]


def value_of(size, seed=0):
    """Bytes that differ at every 8 bytes, so that a shifted or mixed piece shows."""
    block = b"".join(b"%07x\n" % ((seed * 7919 + number) & 0xfffffff) for number in range(8192))
    return (block * (size // len(block) + 1))[:size]


class PythonRedisTest(RealClusterTestCase):
    cluster_options = {"replicas": 0}

    def setUp(self):
        super().setUp()
        if redis is None:
            self.skipTest("python3-redis is not installed")
        self.proxy = self.start_proxy(self.cluster.addresses)
        host, port = self.proxy.addr.split(":")
        self.redis = redis.Redis(host, int(port), socket_timeout=seconds(60))
        self.addCleanup(self.redis.close)

    def key(self, name):
        """A key of this test alone: the tests share a cluster."""
        return "%s:%s" % (self.id().rsplit(".", 1)[1], name)

    def test_handshake_says_a_standalone_primary(self):
        self.assertTrue(self.redis.ping())
        info = self.redis.info()
        self.assertEqual(info["redis_mode"], "standalone")
        self.assertEqual(info["role"], "master")
        self.assertIn("redis_version", info)
        self.assertTrue(self.redis.client_setname("python"))
        self.assertEqual(self.redis.client_getname(), "python")
        self.assertIsInstance(self.redis.client_id(), int)
        self.assertEqual(len(self.redis.time()), 2)
        self.assertEqual(self.redis.echo("x"), b"x")

    def test_named_client_and_database_zero(self):
        host, port = self.proxy.addr.split(":")
        with redis.Redis(host, int(port), db=0, client_name="named") as named:
            self.assertEqual(named.client_getname(), "named")

    def test_strings(self):
        r, k = self.redis, self.key("s")
        self.assertIsNone(r.get(k))
        self.assertTrue(r.set(k, "one"))
        self.assertEqual(r.get(k), b"one")
        self.assertIsNone(r.set(k, "two", nx=True))
        self.assertEqual(r.getset(k, "three"), b"one")
        self.assertEqual(r.append(k, "!"), 6)
        self.assertEqual(r.strlen(k), 6)
        self.assertEqual(r.getrange(k, 0, 2), b"thr")
        self.assertTrue(r.expire(k, 100))
        self.assertIn(r.ttl(k), (99, 100))
        self.assertTrue(r.set(k, "10"))
        self.assertEqual([r.incr(k), r.incrby(k, 5), r.decr(k)], [11, 16, 15])
        self.assertEqual(r.incrbyfloat(k, "0.5"), 15.5)
        self.assertEqual(r.type(k), b"string")
        self.assertEqual(r.delete(k), 1)

    def test_hashes(self):
        r, k = self.redis, self.key("h")
        self.assertEqual(r.hset(k, mapping={"a": 1, "b": 2}), 2)
        self.assertEqual(r.hgetall(k), {b"a": b"1", b"b": b"2"})
        self.assertEqual(r.hmget(k, ["a", "none", "b"]), [b"1", None, b"2"])
        self.assertEqual(r.hincrby(k, "a", 41), 42)
        self.assertEqual(sorted(r.hkeys(k)), [b"a", b"b"])
        self.assertEqual(r.hdel(k, "a", "b", "c"), 2)
        self.assertEqual(list(r.hscan_iter(k)), [])

    def test_lists(self):
        r, k = self.redis, self.key("l")
        self.assertEqual(r.rpush(k, "a", "b", "c"), 3)
        self.assertEqual(r.lpush(k, "z"), 4)
        self.assertEqual(r.lrange(k, 0, -1), [b"z", b"a", b"b", b"c"])
        self.assertEqual([r.lpop(k), r.rpop(k), r.llen(k)], [b"z", b"c", 2])
        self.assertEqual(r.lindex(k, 1), b"b")

    def test_sets_sorted_sets_streams_and_scripts(self):
        r = self.redis
        self.assertEqual(r.sadd(self.key("set"), "a", "b"), 2)
        self.assertEqual(r.smembers(self.key("set")), {b"a", b"b"})
        self.assertEqual(r.zadd(self.key("z"), {"one": 1, "two": 2}), 2)
        self.assertEqual(r.zrange(self.key("z"), 0, -1, withscores=True),
                         [(b"one", 1.0), (b"two", 2.0)])
        identity = r.xadd(self.key("x"), {"f": "v"})
        self.assertEqual(r.xrange(self.key("x")), [(identity, {b"f": b"v"})])
        self.assertEqual(r.eval("return {KEYS[1], ARGV[1]}", 1, self.key("e"), "a"),
                         [self.key("e").encode(), b"a"])

    def test_commands_over_slots(self):
        r = self.redis
        keys = [self.key(key) for key in keys_in_slots(50)]
        self.assertGreater(len({key_slot(key) for key in keys}), 40)
        values = {key: "value of " + key for key in keys}
        self.assertTrue(r.mset(values))
        self.assertEqual(r.mget(keys), [values[key].encode() for key in keys])
        mixed = [keys[3], "none", keys[3], keys[0]]
        self.assertEqual(r.mget(mixed), [values[keys[3]].encode(), None, values[keys[3]].encode(),
                                         values[keys[0]].encode()])
        self.assertEqual(r.exists(*keys, keys[0]), 51)
        self.assertEqual(r.touch(*keys), 50)
        self.assertEqual(r.delete(*keys[:20]), 20)
        self.assertEqual(r.unlink(*keys[20:40]), 20)
        self.assertEqual(r.exists(*keys), 10)
        self.assertEqual(r.mget([keys[49]]), [values[keys[49]].encode()])

    def test_pipelines_keep_their_order(self):
        keys = [self.key(key) for key in keys_in_slots(97)]
        for _ in range(5):
            pipe = self.redis.pipeline(transaction=False)
            wanted = []
            for number in range(3000):
                key = keys[number % len(keys)]
                if number % 3 == 0:
                    pipe.set(key, number)
                    wanted.append(True)
                elif number % 3 == 1:
                    pipe.echo(str(number))  # answered by the proxy itself, in its place
                    wanted.append(b"%d" % number)
                else:
                    pipe.mget(keys[(number - 2) % len(keys)], "none%d" % number)
                    wanted.append([b"%d" % (number - 2), None])
            self.assertEqual(pipe.execute(), wanted)

    def test_an_error_in_a_pipeline_stays_in_its_place(self):
        pipe = self.redis.pipeline(transaction=False)
        pipe.set(self.key("list"), "no list").lpush(self.key("list"), 1).get(self.key("list"))
        first, second, third = pipe.execute(raise_on_error=False)
        self.assertEqual((first, third), (True, b"no list"))
        self.assertIsInstance(second, redis.ResponseError)
        self.assertIn("WRONGTYPE", str(second) + repr(second))

    def test_values_from_nothing_to_64_mib(self):
        for size in SIZES:
            with self.subTest(size=size):
                value = value_of(size, size)
                key = self.key(size)
                self.assertTrue(self.redis.set(key, value))
                self.assertEqual(self.redis.strlen(key), size)
                got = self.redis.get(key)
                self.assertEqual(len(got), size)
                self.assertEqual(hashlib.sha1(got).digest(), hashlib.sha1(value).digest())
                self.redis.delete(key)

    def test_large_values_among_small_ones_in_one_pipeline(self):
        pipe = self.redis.pipeline(transaction=False)
        keys = [self.key(key) for key in keys_in_slots(12)]
        sizes = [10, 1 << 20, 0, 3 << 20, 1000, 70000, 5, 2 << 20, 16384, 1, 1 << 19, 4096]
        for key, size in zip(keys, sizes):
            pipe.set(key, value_of(size, size))
        for key in keys:
            pipe.get(key)
        replies = pipe.execute()
        self.assertEqual(replies[:12], [True] * 12)
        for size, got in zip(sizes, replies[12:]):
            self.assertEqual(hashlib.sha1(got).digest(),
                             hashlib.sha1(value_of(size, size)).digest())
        pipe = self.redis.pipeline(transaction=False)
        pipe.mset({key: value_of(size, size) for key, size in zip(keys, sizes)}).mget(keys)
        _, got = pipe.execute()
        self.assertEqual([len(value) for value in got], sizes)
        self.assertEqual(self.redis.delete(*keys), 12)

    def test_binary_keys_and_values(self):
        everything = bytes(range(256))
        keys = [everything, b"", b"\r\n", b"$3\r\nfoo\r\n", b"{}", b"{a}b", b"a{}b", b"\x00", b"\xff" * 300,
                b"*1\r\n", b" ", "schlüssel".encode()]
        for number, key in enumerate(keys):
            self.assertTrue(self.redis.set(key, everything + b"%d" % number))
        self.assertEqual(self.redis.mget(keys), [everything + b"%d" % number
                                                 for number in range(len(keys))])
        self.assertEqual(self.redis.delete(*keys), len(keys))

    def test_every_client_gets_its_own_replies(self):
        def work(client_number):
            def run(_):
                host, port = self.proxy.addr.split(":")
                mine = "client %d " % client_number
                with redis.Redis(host, int(port)) as r:
                    for turn in range(20):
                        pipe = r.pipeline(transaction=False)
                        for number in range(50):
                            key = self.key("%d:%d" % (client_number, number))
                            pipe.set(key, mine + str(turn * 100 + number)).get(key)
                            pipe.echo(mine + str(number))
                        replies = pipe.execute()
                        for number in range(50):
                            wanted = [True, (mine + str(turn * 100 + number)).encode(),
                                      (mine + str(number)).encode()]
                            if replies[3 * number:3 * number + 3] != wanted:
                                raise AssertionError("%r instead of %r" % (
                                    replies[3 * number:3 * number + 3], wanted))
            return run
        for worker in [Background(work(number)) for number in range(20)]:
            worker.join_or_raise(seconds(60))


class RawClientTest(RealClusterTestCase):
    """What no library does: every cut of a request, RESP3 types, half-closed sockets."""

    cluster_options = {"replicas": 0}

    def test_a_request_cut_at_every_byte_gets_the_same_replies(self):
        proxy = self.start_proxy(self.cluster.addresses)
        client = self.client(proxy)
        requests = (pack("SET", "cut", "a\r\nb") + pack("GET", "cut") + pack("MGET", "cut", "other") +
                    pack("SET", "empty", "") + b"GET cut\r\n" + b"\r\n*0\r\n" + pack("GET", "empty"))
        wanted = (b"+OK\r\n$4\r\na\r\nb\r\n*2\r\n$4\r\na\r\nb\r\n$-1\r\n+OK\r\n$4\r\na\r\nb\r\n"
                  b"$0\r\n\r\n")
        for at in range(1, len(requests)):
            client.send_raw(requests[:at])
            # A reply to a whole request shows that the first part was read by itself.
            client.send_raw(requests[at:])
            got = b"".join(client.read_raw() for _ in range(6))
            self.assertEqual(got, wanted, "cut at %d" % at)
        for byte in requests:
            client.send_raw(bytes([byte]))
        self.assertEqual(b"".join(client.read_raw() for _ in range(6)), wanted)

    def test_resp3_clients_get_resp3_types(self):
        proxy = self.start_proxy(self.cluster.addresses)
        new, old = self.client(proxy), self.client(proxy)
        self.assertEqual(new.call("HELLO", 3)[b"proto"], 3)
        for client, nothing, mapping, double, members in (
                (new, b"_\r\n", b"%1\r\n$1\r\nf\r\n$1\r\nv\r\n", b",1.5\r\n", b"~1\r\n$1\r\nm\r\n"),
                (old, b"$-1\r\n", b"*2\r\n$1\r\nf\r\n$1\r\nv\r\n", b"$3\r\n1.5\r\n",
                 b"*1\r\n$1\r\nm\r\n")):
            client.call("HSET", "r3h", "f", "v")
            client.call("ZADD", "r3z", "1.5", "m")
            client.call("SADD", "r3s", "m")
            self.assertEqual(client.raw("GET", "r3none"), nothing)
            self.assertEqual(client.raw("HGETALL", "r3h"), mapping)
            self.assertEqual(client.raw("ZSCORE", "r3z", "m"), double)
            self.assertEqual(client.raw("SMEMBERS", "r3s"), members)
            self.assertEqual(client.raw("MGET", "r3none", "r3other"), b"*2\r\n" + nothing * 2)
        # Back to RESP2 on the same connection.
        new.call("HELLO", 2)
        self.assertEqual(new.raw("GET", "r3none"), b"$-1\r\n")

    def test_a_client_that_ends_its_input_gets_all_replies(self):
        proxy = self.start_proxy(self.cluster.addresses)
        client = self.client(proxy)
        count = 2000
        client.send_raw(b"".join(pack("ECHO", "%d" % number) if number % 2 else
                                 pack("SET", "half%d" % number, "x") for number in range(count)))
        client.socket.shutdown(1)
        wanted = b"".join(b"$%d\r\n%d\r\n" % (len(str(number)), number) if number % 2 else
                          b"+OK\r\n" for number in range(count))
        self.assertEqual(client.read_to_end(), wanted)

    def test_keys_in_different_slots_are_refused_where_they_cannot_be_split(self):
        proxy = self.start_proxy(self.cluster.addresses)
        client = self.client(proxy)
        text = "CROSSSLOT Keys in request don't hash to the same slot"
        for command in (("SUNION", "a", "b"), ("RENAME", "a", "b"), ("MSETNX", "a", 1, "b", 2),
                        ("EVAL", "return 1", 2, "a", "b"), ("PFCOUNT", "a", "b")):
            self.assert_error(client.command(*command), text)
        self.assertEqual(client.call("SUNION", "{t}a", "{t}b"), [])

    def test_texts_of_unknown_commands_and_wrong_arity_are_the_servers(self):
        proxy = self.start_proxy(self.cluster.addresses)
        client = self.client(proxy)
        plain = PlainServer(SERVER)  # a node of a cluster looks at the slots first
        self.addCleanup(plain.stop)
        with plain.connect() as server:
            for command in (("NOSUCH",), ("NOSUCH", "a", "b c"), ("GET",), ("GET", "a", "b"),
                            ("SET", "a"), ("CLIENT", "NOSUCH"), ("OBJECT", "NOSUCH"), ("ECHO",),
                            ("nosuch" * 50, "arg" * 100), ("MSET", "a"), ("MSET", "a", 1, "b")):
                self.assertEqual(client.raw(*command), server.raw(*command), command)

    def test_a_unix_socket_serves_as_tcp_does(self):
        path = os.path.join(self.directory, "proxy.sock")
        proxy = self.start_proxy(self.cluster.addresses, addr="unix:" + path)
        client = self.client(proxy)
        self.assertEqual(client.pipeline([("SET", "u", "1"), ("GET", "u")]), [b"OK", b"1"])
        self.assertEqual(proxy.stop(), 0)
        self.assertFalse(os.path.exists(path), "the socket file is left behind")

    def test_an_error_reply_never_names_a_redirection(self):
        proxy = self.start_proxy(self.cluster.addresses)
        client = self.client(proxy)
        for key in keys_in_slots(200):
            reply = client.command("GET", key)
            self.assertNotIsInstance(reply, ReplyError)


class NodeClientsTest(RealClusterTestCase):
    cluster_options = {"replicas": 0}

    def run_script(self, script, resp="2"):
        if not shutil.which("node") or not os.path.isdir(os.path.join(NODE_DIR, "node_modules")):
            self.skipTest("ioredis and node-redis are not installed; tools/test installs them")
        proxy = self.start_proxy(self.cluster.addresses)
        result = subprocess.run(
            ["node", os.path.join(HERE, "node", script), *proxy.addr.split(":")],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env=dict(os.environ, RCPROXY_NODE_DIR=NODE_DIR, RCPROXY_RESP=resp),
            timeout=seconds(120), check=False)
        output = result.stdout.decode(errors="replace")
        self.assertEqual(result.returncode, 0, output[-4000:])
        self.assertRegex(output, r"all \d+ checks passed")

    def test_ioredis(self):
        self.run_script("ioredis_test.js")

    def test_node_redis(self):
        self.run_script("node_redis_test.js")

    def test_node_redis_with_resp3(self):
        self.run_script("node_redis_test.js", resp="3")


if __name__ == "__main__":
    unittest.main()
