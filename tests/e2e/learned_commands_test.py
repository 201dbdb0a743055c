"""Commands that the table lacks, as scripted nodes tell of them."""

import sys

from fake_node import array, bulk, error, integer, simple
from harness import FakeClusterTestCase, ReplyError, unittest, wait_until


def told(name, arity, flags, key_specs=(), tips=(), subcommands=()):
    """One command as COMMAND tells of it."""
    words = lambda values: array([simple(value) for value in values])
    return array([bulk(name.encode()), integer(arity), words(flags), integer(0), integer(0),
                  integer(0), words(["@module"]), array([bulk(tip.encode()) for tip in tips]),
                  array(list(key_specs)), array(list(subcommands))])


def texts(*pairs):
    return array([bulk(item.encode()) if isinstance(item, str) else item for item in pairs])


def key_spec(begin, find):
    return texts("flags", array([simple("RW"), simple("access")]), "begin_search", begin,
                 "find_keys", find)


def index(number):
    return texts("type", "index", "spec", texts("index", integer(number)))


def keyword(word, start):
    return texts("type", "keyword", "spec", texts("keyword", word, "startfrom", integer(start)))


def key_range(last, step=1):
    return texts("type", "range", "spec", texts("lastkey", integer(last), "keystep", integer(step),
                                                "limit", integer(0)))


FIRST_KEY = key_spec(index(1), key_range(0))
COMMANDS = array([
    told("mod.set", 3, ["write", "module"], [FIRST_KEY]),
    told("mod.get", 2, ["readonly", "module"], [FIRST_KEY]),
    told("mod.join", -3, ["readonly", "movablekeys"],
         [key_spec(keyword("KEYS", 1), key_range(-1))]),
    told("mod.wait", -2, ["readonly", "blocking"], [FIRST_KEY]),
    told("mod.drop", -1, ["write"]),
    told("mod.count", 1, ["readonly"],
         tips=["request_policy:all_shards", "response_policy:agg_sum"]),
    told("mod.about", 1, ["readonly"]),
    told("mod.info", -2, [], subcommands=[told("mod.info|of", 3, ["readonly"],
                                               [key_spec(index(2), key_range(0))])]),
    told("xinfo", -2, [], subcommands=[told("xinfo|more", 3, ["readonly"],
                                            [key_spec(index(2), key_range(0))])]),
    told("get", 2, ["readonly", "fast"], [FIRST_KEY]),
])


class LearnedCommandsTest(FakeClusterTestCase):
    def start(self, nodes=None):
        cluster = self.start_fakes()
        for number, node in enumerate(cluster.nodes):
            if nodes is None or number in nodes:
                node.on("COMMAND", COMMANDS)
            name = b"node %d" % number
            for command in ("MOD.SET", "MOD.GET", "MOD.JOIN", "MOD.ABOUT", "MOD.INFO", "XINFO"):
                node.on(command, bulk(name))
            node.on("MOD.COUNT", integer(number + 1))
        proxy = self.start_proxy(cluster.addresses, "--workers", "1", "--slots-reload-interval",
                                 "200ms")
        return cluster, proxy, self.client(proxy)

    def node_of(self, cluster, key):
        return b"node %d" % cluster.nodes.index(cluster.owner(key))

    def test_learned_commands_go_where_their_keys_are(self):
        cluster, proxy, client = self.start()
        for key in ("a", "b", "c", "foo", "bar"):
            name = self.node_of(cluster, key)
            self.assertEqual(client.command("MOD.SET", key, "v"), name)
            self.assertEqual(client.command("mod.Get", key), name)
            self.assertEqual(client.command("MOD.JOIN", "x", "keys", key, key), name)
            self.assertEqual(client.command("MOD.INFO", "OF", key), name)
            self.assertEqual(client.command("XINFO", "MORE", key), name)
            replies = client.pipeline([("MULTI",), ("MOD.SET", key, "v"), ("EXEC",)])
            self.assertEqual(replies[1], b"QUEUED")
        self.assert_error(client.command("MOD.JOIN", "x", "KEYS", "a", "b"),
                          "CROSSSLOT Keys in request don't hash to the same slot")
        self.assertEqual(client.command("MOD.COUNT"), 6)
        self.assertEqual(client.command("MOD.ABOUT"), self.node_of(cluster, "{3560}"))

    def test_flags_decide_what_is_refused(self):
        cluster, proxy, client = self.start()
        cluster.clear_log()
        for words in (("MOD.WAIT", "k"), ("MOD.DROP",), ("MOD.DROP", "x")):
            self.assert_error(client.command(*words), "ERR proxy: command '%s' is not supported"
                              % words[0].lower())
        self.assert_error(client.command("MOD.SET", "k"),
                          "ERR wrong number of arguments for 'mod.set' command")
        self.assert_error(client.command("MOD.INFO", "none"),
                          "ERR unknown subcommand 'none'. Try MOD.INFO HELP.")
        self.assert_error(client.command("XINFO", "none"),
                          "ERR unknown subcommand 'none'. Try XINFO HELP.")
        self.assert_error(client.command("MOD.NONE", "a"), "ERR unknown command 'MOD.NONE', with "
                          "args beginning with: 'a' ")
        self.assertEqual(cluster.logged(), [])

    def test_redirections_are_followed(self):
        cluster, proxy, client = self.start()
        owner, other = cluster.owner("k"), cluster.other("k")
        owner.on("MOD.SET", error("MOVED 7629 %s" % other.address), times=1)
        owner.scripts.insert(0, owner.scripts.pop())
        self.assertEqual(client.command("MOD.SET", "k", "v"),
                         b"node %d" % cluster.nodes.index(other))

    def test_command_tells_of_them(self):
        _, _, client = self.start()
        names = ("mod.set", "mod.get", "mod.join", "mod.count", "mod.about", "mod.info|of",
                 "xinfo|more")
        count = client.command("COMMAND", "COUNT")
        told_of = client.command("COMMAND")
        self.assertEqual(len(told_of), count)
        self.assertEqual(len({entry[0] for entry in told_of}), count)
        listed = client.command("COMMAND", "LIST")
        for name in names:
            self.assertIn(name.encode(), listed)
        for name in (b"mod.wait", b"mod.drop"):
            self.assertNotIn(name, listed)
            self.assertNotIn(name, [entry[0] for entry in told_of])
            self.assertEqual(client.command("COMMAND", "INFO", name), [None])
        entry = client.command("COMMAND", "INFO", "MOD.SET")[0]
        self.assertEqual(entry[:3], [b"mod.set", 3, [b"write"]])
        self.assertEqual(entry[8][0][3], [b"type", b"index", b"spec", [b"index", 1]])
        self.assertIn(entry, told_of)
        self.assertEqual(client.command("COMMAND", "GETKEYS", "mod.join", "x", "KEYS", "a", "b"),
                         [b"a", b"b"])
        docs = client.command("COMMAND", "DOCS", "mod.info")
        self.assertEqual(docs[0], b"mod.info")
        self.assertIn(b"subcommands", docs[1])
        client.command("HELLO", "3")
        self.assertEqual(len(client.command("COMMAND", "DOCS")), count)
        self.assertEqual(client.command("COMMAND", "INFO", "mod.set")[0][2], [b"write"])

    def test_a_node_that_joins_with_other_commands_is_asked(self):
        cluster, proxy, client = self.start(nodes=())
        self.assertIsInstance(client.command("MOD.SET", "k", "v"), ReplyError)
        node = cluster.add_node()
        node.on("COMMAND", COMMANDS)
        wait_until(lambda: not isinstance(client.command("MOD.SET", "k", "v"), ReplyError),
                   "the new node to be asked", 60)
        self.assertEqual(client.command("MOD.SET", "k", "v"), self.node_of(cluster, "k"))

    def test_who_may_not_ask_serves_what_the_table_has(self):
        cluster = self.start_fakes()
        for node in cluster.nodes:
            node.on("COMMAND", error("NOPERM this user has no permissions"))
        client = self.client(self.start_proxy(cluster.addresses))
        self.assertEqual(client.command("SET", "k", "v"), b"OK")
        self.assertIsInstance(client.command("MOD.SET", "k", "v"), ReplyError)


if __name__ == "__main__":
    sys.exit(unittest.main())
