"""Scripts on real servers whose nodes come and go."""

import hashlib
import sys

from harness import (FreshClusterTestCase, RealClusterTestCase, key_slot, keys_in_slots, pack,
                     seconds, unittest, wait_until)


def name_of(script):
    return hashlib.sha1(script.encode()).hexdigest()


class ScriptsTest(RealClusterTestCase):
    def setUp(self):
        super().setUp()
        for node in self.cluster.nodes:
            node.command("SCRIPT", "FLUSH")
        self.proxy = self.start_proxy(self.cluster.addresses)
        self.connection = self.client(self.proxy)
        self.connection.command("FLUSHALL")
        self.keys = keys_in_slots(60)

    def test_what_eval_brought_is_known_on_all_nodes(self):
        script = "return redis.call('INCR', KEYS[1])"
        self.assertEqual(self.connection.command("EVAL", script, 1, "{n}0"), 1)
        for key in self.keys:
            self.assertEqual(self.connection.command("EVALSHA", name_of(script), 1, key), 1)
        replies = self.connection.pipeline(
            [("EVALSHA", name_of(script).upper(), 1, key) for key in self.keys * 3])
        self.assertEqual(sorted(replies), sorted([2] * 60 + [3] * 60 + [4] * 60))

    def test_pipelines_on_nodes_without_the_script_keep_their_order(self):
        script = "return redis.call('RPUSH', KEYS[1], ARGV[1])"
        self.connection.command("SCRIPT", "LOAD", script)
        for turn in range(5):
            for node in self.cluster.nodes:
                node.command("SCRIPT", "FLUSH")
            calls = [("EVALSHA", name_of(script), 1, key, "%d.%d" % (turn, i))
                     for i in range(10) for key in self.keys]
            self.assertEqual(self.connection.pipeline(calls),
                             [turn * 10 + i + 1 for i in range(10) for _ in self.keys])
        wanted = [b"%d.%d" % (turn, i) for turn in range(5) for i in range(10)]
        for key in self.keys:
            self.assertEqual(self.connection.command("LRANGE", key, 0, -1), wanted)

    def test_read_only_scripts_and_transactions(self):
        script = "return redis.call('GET', KEYS[1])"
        self.connection.command("EVAL_RO", script, 1, "{n}0")
        for key in self.keys:
            self.connection.command("SET", key, key)
            self.assertEqual(self.connection.command("EVALSHA_RO", name_of(script), 1, key),
                             key.encode())
        other = "return redis.call('GET', KEYS[1]) .. ARGV[1]"
        self.connection.command("EVAL", other, 1, self.keys[0], "x")
        for key in self.keys:
            for watch in ([], [("WATCH", key)]):
                replies = self.connection.pipeline(
                    watch + [("MULTI",), ("EVALSHA", name_of(other), 1, key, "y"), ("EXEC",)])
                self.assertEqual(replies[-1], [key.encode() + b"y"])

    def test_read_only_ones_go_to_replicas_when_reads_do(self):
        proxy = self.start_proxy(self.cluster.addresses, "--read-prefer", "1")
        client = self.client(proxy)
        script, library = "return redis.call('get', KEYS[1])", (
            "#!lua name=ro\nredis.register_function{function_name='ro_get', callback=function(k)"
            " return redis.call('get', k[1]) end, flags={'no-writes'}}")
        client.call("FUNCTION", "LOAD", library)
        self.addCleanup(self.connection.call, "FUNCTION", "DELETE", "ro")
        sha = client.call("SCRIPT", "LOAD", script)
        client.call("SET", "{ro}k", "v")
        self.assertEqual(client.call("WAIT", "1", "0"), 1)
        owner = self.cluster.owner(key_slot("{ro}k"))
        replica = self.cluster.replicas_of(owner)[0]
        wait_until(lambda: "ro_get" in str(replica.command("FUNCTION", "LIST")),
                   "the library to be with the replica", seconds(20))
        calls = [("EVAL_RO", script), ("EVALSHA_RO", sha), ("FCALL_RO", "ro_get")]

        def ran(node):
            stats = node.command("INFO", "commandstats").decode()
            return {name for name, _ in calls if "cmdstat_%s:" % name.lower() in stats}
        # A connection's own write keeps its reads at the primary for a second.
        reader = self.client(proxy)
        for node in (owner, replica):
            node.command("CONFIG", "RESETSTAT")
        for name, what in calls:
            for _ in range(5):
                self.assertEqual(reader.call(name, what, "1", "{ro}k"), b"v")
        self.assertEqual(ran(replica), {name for name, _ in calls})
        self.assertEqual(ran(owner), set())
        # Those that may write stay where they can.
        self.assertEqual(reader.call("EVAL", script, "1", "{ro}k"), b"v")
        self.assertNotIn("cmdstat_eval:", replica.command("INFO", "commandstats").decode())

    def test_unknown_ones_and_flushed_ones_are_refused_as_ever(self):
        self.assert_answers_as_a_plain_server(self.proxy, [[
            "EVALSHA %s 1 k" % ("0" * 40), "EVALSHA nonsense 1 k", "SCRIPT LOAD return(1)",
            "EVALSHA %s 1 k" % name_of("return(1)"), "SCRIPT FLUSH",
            "EVALSHA %s 1 k" % name_of("return(1)"), "EVAL return(1) 0",
            "EVALSHA %s 1 k" % name_of("return(1)"), "EVALSHA %s 0" % name_of("return(1)"),
        ]])

    def test_a_script_that_says_noscript_itself_runs_once(self):
        script = ("redis.call('INCR', KEYS[1]) "
                  "return redis.error_reply('NOSCRIPT No matching script.')")
        key = self.keys[0]
        self.assertIn("NOSCRIPT", str(self.connection.command("EVAL", script, 1, key)))
        self.assert_error(self.connection.command("EVALSHA", name_of(script), 1, key),
                          "NOSCRIPT No matching script.")
        self.assertEqual(self.connection.command("GET", key), b"2")

    def test_what_a_script_says_of_its_failure_is_nobody_elses(self):
        # Valkey 8.0.1 sends the line ends in it as they are, and both send those in quotes in the
        # line of a shebang: what follows looks like another reply.
        others = [self.client(self.proxy) for _ in range(10)]
        for number, other in enumerate(others):
            other.command("SET", "{n}%d" % number, number)
        liar = self.client(self.proxy)

        def check(frames, replies):
            liar.send_raw(frames)
            for number, other in enumerate(others):
                other.send("GET", "{n}%d" % number)
            for number, other in enumerate(others):
                self.assertEqual(other.read(), b"%d" % number, frames)
            return [liar.read() for _ in range(replies)]

        for text in ("+OK", ":1", "$3\\r\\nabc", "*2", "$5000", "$16\\r\\n0123456789abcdef",
                     "no reply"):
            for script in ("error('q\\r\\n%s')", "error({err='ERR q\\r\\n%s'})",
                           "return _G['q\\r\\n%s']", '#!lua "flags=q\\r\\n%s"\nreturn 1',
                           '#!"q\\r\\n%s"\nreturn 1'):
                command = pack("EVAL", script % text, 1, "{n}0")
                for turn in range(5):
                    for reply in check(command * 3, 3):
                        self.assertIn("q", str(reply), text)
        # As a part of another reply.
        block = pack("MULTI") + pack("EVAL", "error('q\\r\\n+OK')", 1, "{n}0") + pack("EXEC")
        for turn in range(20):
            replies = check(block * 3, 9)
            self.assertEqual(replies[0:2], [b"OK", b"QUEUED"])
            for reply in replies[2::3]:
                self.assertIn("q", str(reply[0]))
        for turn in range(20):
            for command in (("FUNCTION", "LIST", "q\r\n+OK"),
                            ("FUNCTION", "LOAD", '#!lua "q\\r\\n+OK"\n'),
                            ("SCRIPT", "LOAD", '#!lua "flags=q\\r\\n+OK"\nreturn 1')):
                self.assertIn("q", str(check(pack(*command), 1)[0]))
            self.assertEqual(others[0].command("FUNCTION", "LIST"), [])
            self.assertEqual(others[0].command("SCRIPT", "LOAD", "return 1"),
                             name_of("return 1").encode())


class ScriptsOfNewNodesTest(FreshClusterTestCase):
    def test_a_promoted_replica_and_a_restarted_node_have_the_scripts(self):
        cluster = self.start_cluster(primaries=3, replicas=1)
        proxy = self.start_proxy(cluster.addresses)
        client = self.client(proxy)
        script = "return redis.call('INCR', KEYS[1])"
        client.command("SCRIPT", "LOAD", script)
        key = "{n}0"
        for turn in range(4):
            owner = cluster.owner(key_slot(key))
            replica = next(node for node in cluster.nodes if not node.is_primary() and
                           node.view()[node.id]["primary"] == owner.id)
            replica.command("SCRIPT", "FLUSH")
            cluster.failover(replica)
            cluster.wait_until_ready()
            self.assertEqual(client.command("EVALSHA", name_of(script), 1, key), turn + 1)
            replies = client.pipeline([("MULTI",), ("EVALSHA", name_of(script), 1, "{n}1"),
                                       ("EXEC",)])
            self.assertEqual(replies[-1], [turn + 1])


if __name__ == "__main__":
    sys.exit(unittest.main())
