"""Redirections and errors of nodes, byte for byte on scripted nodes: rows B10 to B23 of the fault
matrix. Each test is named after its row."""

import socket
import threading

from fake_node import Cut, Hold, bulk, error, integer, simple
from harness import (FakeClusterTestCase, key_slot, pack, seconds, time, unittest,
                     wait_until)

TOO_MANY = "ERR proxy: too many redirections (not executed)"
MALFORMED = "ERR proxy: malformed redirection (outcome unknown)"
UNKNOWN_NODE = "CLUSTERDOWN proxy: redirect to unknown node (not executed)"
NOT_CONFIRMED = "ERR proxy: redirection not confirmed (outcome unknown)"
TRYAGAIN = "TRYAGAIN Multiple keys request during rehashing of slot"
HOPS = 5
SHORT_HOLD = ("--hold-timeout", "600ms")


class MovedTest(FakeClusterTestCase):
    def test_b10_moved_is_followed_and_asks_for_a_refresh(self):
        cluster, proxy = self.start_with_fakes("--slots-reload-interval", "200ms")
        client = self.client(proxy)
        source, target = cluster.owner("k"), cluster.other("k")
        before = cluster.count("CLUSTER", "NODES")
        cluster.give(key_slot("k"), target)
        self.assertEqual(client.command("SET", "k", "v"), b"OK")
        self.assertEqual(target.data.get(b"k"), b"v")
        self.assertNotIn(b"k", source.data)
        cluster.wait_for(lambda: cluster.count("CLUSTER", "NODES") > before,
                         what="a refresh")
        # Soon the slot's commands go to the new owner at once.
        def goes_straight():
            cluster.clear_log()
            client.call("GET", "k")
            return not cluster.logged("GET", source)
        wait_until(goes_straight, "the new topology", seconds(10))
        self.assertGreaterEqual(proxy.metrics()["redirections_moved_total"], 1)

    def test_b10_later_commands_of_the_slot_wait_behind_a_moved_one(self):
        cluster, proxy = self.start_with_fakes()
        client = self.client(proxy)
        source, target = cluster.owner("{s}"), cluster.other("{s}")
        slot = key_slot("{s}")
        # The source moves the slot away in the middle of a pipeline: it refuses every 3rd command.
        seen = []

        def sometimes(_, args):
            seen.append(args)
            if len(seen) % 3 == 1:
                return error("MOVED %d %s" % (slot, target.address))
            return error("MOVED %d %s" % (slot, target.address)) if len(seen) > 30 else None
        source.on("APPEND", sometimes)
        cluster.slots[slot] = target
        source.data, target.data = {}, source.data

        count = 200
        replies = client.pipeline([("APPEND", "{s}list", "%04d" % number)
                                   for number in range(count)])
        self.assertEqual(replies, [4 * (number + 1) for number in range(count)])
        self.assertEqual(target.data[b"{s}list"], b"".join(b"%04d" % number
                                                           for number in range(count)))

    def test_b11_a_loop_of_two_nodes_ends_after_five_hops(self):
        cluster, proxy = self.start_with_fakes()
        client = self.client(proxy)
        a, b = cluster.owner("k"), cluster.other("k")
        a.on("GET", error("MOVED %d %s" % (key_slot("k"), b.address)))
        b.on("GET", error("MOVED %d %s" % (key_slot("k"), a.address)))
        begin = time.monotonic()
        self.assert_error(client.command("GET", "k"), TOO_MANY)
        self.assertLess(time.monotonic() - begin, seconds(2))
        self.assertEqual(len(cluster.logged("GET")), 1 + HOPS)

    def test_b11_a_loop_ends_a_command_that_waits_with_the_hold_timeout(self):
        cluster, proxy = self.start_with_fakes(*SHORT_HOLD)
        client = self.client(proxy)
        a, b = cluster.owner("k"), cluster.other("k")
        a.on("BLPOP", error("MOVED %d %s" % (key_slot("k"), b.address)))
        b.on("BLPOP", error("MOVED %d %s" % (key_slot("k"), a.address)))
        begin = time.monotonic()
        self.assertIn(str(client.command("BLPOP", "k", "0")), (TOO_MANY, UNKNOWN_NODE))
        self.assertLess(time.monotonic() - begin, seconds(4))
        self.assertLess(len(cluster.logged("BLPOP")), 100)
        self.assertEqual(client.call("PING"), b"PONG")

    def test_b11_a_node_that_names_itself_ends_after_five_hops(self):
        cluster, proxy = self.start_with_fakes()
        client = self.client(proxy)
        owner = cluster.owner("k")
        owner.on("GET", error("MOVED %d %s" % (key_slot("k"), owner.address)))
        begin = time.monotonic()
        self.assert_error(client.command("GET", "k"), TOO_MANY)
        self.assertLess(time.monotonic() - begin, seconds(2))
        self.assertLessEqual(len(cluster.logged("GET")), 1 + HOPS)
        owner.off()
        self.assertEqual(client.command("SET", "k", "v"), b"OK")

    def test_b11_a_node_that_names_itself_once_is_asked_again(self):
        cluster, proxy = self.start_with_fakes()
        client = self.client(proxy)
        owner = cluster.owner("k")
        owner.data[b"k"] = b"v"
        owner.on("GET", error("MOVED %d %s" % (key_slot("k"), owner.address)), times=1)
        self.assertEqual(client.command("GET", "k"), b"v")

    def test_b11_a_chain_of_five_is_followed_and_one_of_six_is_not(self):
        cluster, proxy = self.start_with_fakes(primaries=8)
        client = self.client(proxy)
        slot = key_slot("k")
        first = cluster.owner("k")
        chain = [first] + [node for node in cluster.nodes if node is not first]
        for here, following in zip(chain, chain[1:]):
            here.on("SET", error("MOVED %d %s" % (slot, following.address)))
        last = chain[HOPS]
        last.off()
        last.on("SET", simple("OK"))
        self.assertEqual(client.command("SET", "k", "v"), b"OK")
        self.assertEqual(len(cluster.logged("SET")), 1 + HOPS)
        last.off()
        last.on("SET", error("MOVED %d %s" % (slot, chain[HOPS + 1].address)))
        chain[HOPS + 1].on("SET", simple("OK"))
        self.assert_error(client.command("SET", "k", "v"), TOO_MANY)
        self.assertEqual(cluster.logged("SET", chain[HOPS + 1]), [])

    def test_b11_a_looping_slot_does_not_burn_the_cpu(self):
        cluster, proxy = self.start_with_fakes()
        client, other = self.client(proxy), self.client(proxy)
        a, b = cluster.owner("k"), cluster.other("k")
        a.on("GET", error("MOVED %d %s" % (key_slot("k"), b.address)), key="k")
        b.on("GET", error("MOVED %d %s" % (key_slot("k"), a.address)), key="k")
        refreshes = proxy.metrics()["topology_refreshes_total"]
        asked = [cluster.count("CLUSTER", "NODES", node) for node in cluster.nodes]
        begin = time.monotonic()
        for _ in range(20):
            self.assert_error(client.command("GET", "k"), TOO_MANY)
            self.assertIsNone(other.command("GET", "free"))
        elapsed = time.monotonic() - begin
        # No more than 5 a second, however many ask (L12).
        self.assertLessEqual(proxy.metrics()["topology_refreshes_total"] - refreshes,
                             5 * elapsed + 6)
        for node, before in zip(cluster.nodes, asked):
            self.assertLessEqual(cluster.count("CLUSTER", "NODES", node) - before,
                                 5 * elapsed + 6)

    def test_b12_a_redirection_to_an_unknown_node_never_connects_there(self):
        cluster, proxy = self.start_with_fakes(*SHORT_HOLD)
        client = self.client(proxy)
        with socket.socket() as stranger:
            stranger.bind(("127.0.0.1", 0))
            stranger.listen(5)
            stranger.settimeout(0.5)
            owner = cluster.owner("k")
            owner.on("GET", error("MOVED %d 127.0.0.1:%d" % (key_slot("k"),
                                                             stranger.getsockname()[1])))
            asked = cluster.count("CLUSTER", "NODES", owner)
            self.assert_error(client.command("GET", "k"), UNKNOWN_NODE)
            self.assertGreater(cluster.count("CLUSTER", "NODES", owner), asked,
                               "the node that replied was not asked for its view")
            with self.assertRaises(TimeoutError):
                stranger.accept()
        owner.off()
        self.assertIsNone(client.command("GET", "k"))

    def test_b12_a_redirection_to_a_node_that_just_joined_is_followed(self):
        cluster, proxy = self.start_with_fakes()
        client = self.client(proxy)
        newcomer = cluster.add_node()
        cluster.give(key_slot("k"), newcomer)
        self.assertEqual(client.command("SET", "k", "v"), b"OK")
        self.assertEqual(newcomer.data, {b"k": b"v"})

    def test_b12_a_redirection_forged_by_a_script_is_not_followed(self):
        cluster, proxy = self.start_with_fakes(*SHORT_HOLD)
        client = self.client(proxy)
        with socket.socket() as stranger:
            stranger.bind(("127.0.0.1", 0))
            stranger.listen(5)
            stranger.settimeout(0.5)
            owner = cluster.owner("k")
            # To a stranger, and to a node that is known but does not own the slot.
            for address in ("127.0.0.1:%d" % stranger.getsockname()[1], cluster.other("k").address):
                for kind in ("MOVED", "ASK"):
                    script = owner.on("EVAL", error("%s %d %s" % (kind, key_slot("k"), address)))
                    cluster.clear_log()
                    self.assert_error(client.command("EVAL", "return 1", 1, "k"), NOT_CONFIRMED)
                    self.assertEqual(len(cluster.logged("EVAL")), 1)
                    owner.off(script)
            with self.assertRaises(TimeoutError):
                stranger.accept()

    def test_b12_a_scripts_moved_is_followed_once_the_refresh_confirms_it(self):
        cluster, proxy = self.start_with_fakes()
        client = self.client(proxy)
        source, target = cluster.owner("k"), cluster.other("k")
        cluster.give(key_slot("k"), target)
        self.assertEqual(client.command("EVAL", "return 1", 1, "k"), b"ran")
        self.assertEqual([entry.node for entry in cluster.logged("EVAL")], [source, target])

    def test_b13_an_empty_host_means_that_of_the_node_that_replied(self):
        cluster, proxy = self.start_with_fakes()
        client = self.client(proxy)
        source, target = cluster.owner("k"), cluster.other("k")
        target.data[b"k"] = b"there"
        source.on("GET", error("MOVED %d :%d" % (key_slot("k"), target.port)))
        target.on("GET", bulk(b"there"))
        self.assertEqual(client.command("GET", "k"), b"there")

    def test_b13_an_empty_host_in_the_view_means_the_address_it_was_asked_at(self):
        cluster = self.start_fakes(1)
        cluster.node(0).shown_host = ""
        proxy = self.start_proxy(cluster.addresses)
        client = self.client(proxy)
        self.assertEqual(client.command("SET", "k", "v"), b"OK")
        self.assertEqual(cluster.node(0).data, {b"k": b"v"})

    def test_b14_a_question_mark_is_never_resolved(self):
        cluster, proxy = self.start_with_fakes()
        client = self.client(proxy)
        source, target = cluster.owner("k"), cluster.other("k")
        target.data[b"k"] = b"there"
        source.on("GET", error("MOVED %d ?:%d" % (key_slot("k"), target.port)))
        cluster.give(key_slot("k"), target)
        begin = time.monotonic()
        self.assertEqual(client.command("GET", "k"), b"there")
        self.assertLess(time.monotonic() - begin, seconds(3))

    def test_b15_names_are_resolved_and_a_bad_one_holds_up_nobody(self):
        cluster = self.start_fakes()
        proxy = self.start_proxy(
            ["no-such-host.invalid:7001", "localhost:%d" % cluster.node(0).port])
        client = self.client(proxy)
        self.assertEqual(client.command("SET", "k", "v"), b"OK")

    def test_b16_ipv6_addresses_in_views_and_redirections(self):
        if not has_ipv6():
            self.skipTest("no IPv6 on loopback")
        cluster = self.start_fakes(host="::1")
        proxy = self.start_proxy([cluster.node(0).address])
        client = self.client(proxy)
        self.assertEqual(client.command("SET", "k", "v"), b"OK")
        target = cluster.other("k")
        cluster.owner("k").on("GET", error("MOVED %d ::1:%d" % (key_slot("k"), target.port)))
        target.on("GET", bulk(b"there"))
        self.assertEqual(client.command("GET", "k"), b"there")

    def test_b17_malformed_redirections(self):
        cluster, proxy = self.start_with_fakes()
        client = self.client(proxy)
        slot, owner = key_slot("k"), cluster.owner("k")
        port = cluster.other("k").port
        texts = ["%s%s" % (kind, rest) for kind in ("MOVED", "ASK") for rest in (
            " %d 127.0.0.1" % slot, " %d 127.0.0.1:" % slot, " %d 127.0.0.1:0" % slot,
            " %d 127.0.0.1:65536" % slot, " %d 127.0.0.1:-1" % slot, " %d 127.0.0.1:x" % slot,
            " 16384 127.0.0.1:%d" % port, " -1 127.0.0.1:%d" % port, " x 127.0.0.1:%d" % port,
            " %d 127.0.0.1:%d" % ((slot + 1) % 16384, port), " %d" % slot,
            " %d %s:%d" % (slot, "h" * 4096, port), " 99999999999999999999 127.0.0.1:1")]
        for text in texts:
            script = owner.on("SET", error(text))
            before = proxy.metrics()["redirections_malformed_total"]
            with self.subTest(text=text[:60]):
                self.assert_error(client.command("SET", "k", "v"), MALFORMED)
                self.assertEqual(proxy.metrics()["redirections_malformed_total"], before + 1)
            owner.off(script)
        self.assertEqual(client.command("SET", "k", "v"), b"OK")

    def test_b25_a_stale_view_costs_one_hop_a_command(self):
        cluster, proxy = self.start_with_fakes()
        client = self.client(proxy)
        source, target = cluster.owner("k"), cluster.other("k")
        cluster.give(key_slot("k"), target, shown=False)
        for number in range(20):
            self.assertEqual(client.command("SET", "k", number), b"OK")
        self.assertLessEqual(len(cluster.logged("SET", source)), 20)
        self.assertEqual(len(cluster.logged("SET", target)), 20)


class AskTest(FakeClusterTestCase):
    def begin_migration(self, cluster, key):
        source, target = cluster.owner(key), cluster.other(key)
        source.migrating[key_slot(key)] = target
        target.importing[key_slot(key)] = source
        return source, target

    def asking_pairs_are_adjacent(self, cluster, node):
        """Each command that followed an ASK came directly after ASKING on its connection."""
        by_connection = {}
        for entry in cluster.logged(node=node, housekeeping=True):
            by_connection.setdefault(entry.connection, []).append(entry.args[0].upper())
        checked = 0
        for names in by_connection.values():
            for before, name in zip([b""] + names, names):
                if name in (b"SET", b"GET", b"APPEND", b"INCR"):
                    self.assertEqual(before, b"ASKING")
                    checked += 1
        return checked

    def test_b18_asking_goes_directly_before_each_command(self):
        cluster, proxy = self.start_with_fakes()
        client = self.client(proxy)
        source, target = self.begin_migration(cluster, "{s}")
        count = 50
        replies = client.pipeline([("SET", "{s}%d" % number, number) for number in range(count)])
        self.assertEqual(replies, [b"OK"] * count)
        self.assertEqual(self.asking_pairs_are_adjacent(cluster, target), count)
        self.assertEqual(source.data, {})
        # The map is as it was: each new command is tried at the source first.
        self.assertEqual(len(cluster.logged("SET", source)), count)
        replies = client.pipeline([("GET", "{s}%d" % number) for number in range(count)])
        self.assertEqual(replies, [b"%d" % number for number in range(count)])
        self.assertEqual(len(cluster.logged("GET", source)), count)
        self.assertEqual(proxy.metrics()["redirections_ask_total"], 2 * count)

    def test_b18_keys_that_have_not_moved_stay_at_the_source(self):
        cluster, proxy = self.start_with_fakes()
        client = self.client(proxy)
        cluster.owner("{s}").data[b"{s}stays"] = b"here"
        source, target = self.begin_migration(cluster, "{s}")
        target.data[b"{s}gone"] = b"there"
        self.assertEqual(client.pipeline([("GET", "{s}stays"), ("GET", "{s}gone"),
                                          ("GET", "{s}stays")]), [b"here", b"there", b"here"])
        self.assertEqual(len(cluster.logged("GET", target)), 1)
        del source

    def test_b18_the_order_on_one_key_is_kept(self):
        cluster, proxy = self.start_with_fakes()
        clients = [self.client(proxy) for _ in range(5)]
        _, target = self.begin_migration(cluster, "{s}")
        for client in clients:
            client.send_raw(b"".join(pack("INCR", "{s}counter") for _ in range(50)))
        got = [[client.read() for _ in range(50)] for client in clients]
        for replies in got:
            self.assertEqual(replies, sorted(replies))
        self.assertEqual(sorted(sum(got, [])), list(range(1, 251)))
        self.assertEqual(target.data[b"{s}counter"], b"250")

    def test_b18_an_ask_that_leads_to_moved_is_followed(self):
        cluster, proxy = self.start_with_fakes()
        client = self.client(proxy)
        slot = key_slot("k")
        source = cluster.owner("k")
        middle, last = [node for node in cluster.nodes if node is not source]
        source.on("GET", error("ASK %d %s" % (slot, middle.address)))
        middle.on("GET", error("MOVED %d %s" % (slot, last.address)))
        last.on("GET", bulk(b"last"))
        self.assertEqual(client.command("GET", "k"), b"last")

    def test_b18_a_loop_of_asks_ends_after_five_hops(self):
        cluster, proxy = self.start_with_fakes()
        client = self.client(proxy)
        slot = key_slot("k")
        a, b = cluster.owner("k"), cluster.other("k")
        a.on("GET", error("ASK %d %s" % (slot, b.address)))
        b.on("GET", error("ASK %d %s" % (slot, a.address)))
        self.assert_error(client.command("GET", "k"), TOO_MANY)
        self.assertEqual(len(cluster.logged("GET")), 1 + HOPS)

    def test_b18_an_ask_to_an_unknown_node_never_connects_there(self):
        cluster, proxy = self.start_with_fakes(*SHORT_HOLD)
        client = self.client(proxy)
        with socket.socket() as stranger:
            stranger.bind(("127.0.0.1", 0))
            stranger.listen(5)
            stranger.settimeout(0.5)
            cluster.owner("k").on("GET", error("ASK %d 127.0.0.1:%d" % (
                key_slot("k"), stranger.getsockname()[1])))
            self.assert_error(client.command("GET", "k"), UNKNOWN_NODE)
            with self.assertRaises(TimeoutError):
                stranger.accept()

    def test_b18_migrating_slots_ask_for_few_refreshes(self):
        cluster, proxy = self.start_with_fakes()
        client = self.client(proxy)
        self.begin_migration(cluster, "{s}")
        before = cluster.count("CLUSTER", "NODES")
        begin = time.monotonic()
        for turn in range(40):
            client.pipeline([("SET", "{s}%d" % number, turn) for number in range(50)])
        elapsed = time.monotonic() - begin
        self.assertLessEqual(cluster.count("CLUSTER", "NODES") - before, 5 * elapsed + 5)

    def test_b18_a_scripts_ask_is_followed_when_the_view_shows_the_migration(self):
        cluster, proxy = self.start_with_fakes()
        client = self.client(proxy)
        source, target = self.begin_migration(cluster, "k")
        self.assertEqual(client.command("EVAL", "return 1", 1, "k"), b"ran")
        self.assertEqual([entry.node for entry in cluster.logged("EVAL")], [source, target])


class TryAgainTest(FakeClusterTestCase):
    def half_moved(self, cluster):
        source, target = cluster.owner("{s}"), cluster.other("{s}")
        source.data[b"{s}a"] = b"A"
        target.data[b"{s}b"] = b"B"
        source.migrating[key_slot("{s}")] = target
        target.importing[key_slot("{s}")] = source
        return source, target

    def test_b19_a_command_that_can_be_split_is_split_into_keys(self):
        cluster, proxy = self.start_with_fakes()
        client = self.client(proxy)
        source, target = self.half_moved(cluster)
        self.assertEqual(client.command("MGET", "{s}a", "{s}b", "{s}none", "{s}a"),
                         [b"A", b"B", None, b"A"])
        self.assertEqual(client.command("EXISTS", "{s}a", "{s}b", "{s}none"), 2)
        self.assertEqual(client.command("MSET", "{s}a", "1", "{s}b", "2", "{s}c", "3"), b"OK")
        self.assertEqual(client.command("MGET", "{s}a", "{s}b", "{s}c"), [b"1", b"2", b"3"])
        self.assertEqual(client.command("DEL", "{s}a", "{s}b", "{s}c"), 3)
        self.assertEqual((source.data, target.data), ({}, {}))
        self.assertGreaterEqual(proxy.metrics()["redirections_tryagain_total"], 1)

    def test_b19_a_half_moved_slot_among_others(self):
        cluster, proxy = self.start_with_fakes()
        client = self.client(proxy)
        self.half_moved(cluster)
        client.call("SET", "x", "X")
        client.call("SET", "foo", "F")
        self.assertEqual(client.command("MGET", "x", "{s}a", "foo", "{s}b"),
                         [b"X", b"A", b"F", b"B"])

    def test_b19_others_are_repeated_then_passed_on_verbatim(self):
        cluster, proxy = self.start_with_fakes(*SHORT_HOLD)
        client = self.client(proxy)
        self.half_moved(cluster)
        begin = time.monotonic()
        self.assert_error(client.command("SUNION", "{s}a", "{s}b"), TRYAGAIN)
        self.assertGreaterEqual(time.monotonic() - begin, 0.4)
        self.assertGreater(len(cluster.logged("SUNION")), 2)

    def test_b19_others_succeed_when_the_move_ends_in_time(self):
        cluster, proxy = self.start_with_fakes()
        client = self.client(proxy)
        source, target = self.half_moved(cluster)
        client.send("SUNION", "{s}a", "{s}b")
        cluster.wait_for(lambda: len(cluster.logged("SUNION")) >= 2, seconds(10))
        target.data.update(source.data)
        cluster.give(key_slot("{s}"), target)
        self.assertEqual(client.read(), [b"{s}a", b"{s}b"])

    def test_b19_a_script_is_repeated_where_its_slot_has_arrived_meanwhile(self):
        cluster, proxy = self.start_with_fakes(*SHORT_HOLD)
        source, target = self.half_moved(cluster)
        slot = key_slot("{s}")
        refused = []

        def arrives(_, args):
            if refused:
                return None
            refused.append(args)
            source.migrating, target.importing = {}, {}
            cluster.give(slot, target)
            return error(TRYAGAIN)
        target.on("EVAL", arrives)
        self.assertEqual(self.client(proxy).command("EVAL", "return 1", 1, "{s}c"), b"ran")
        self.assertEqual([entry.node for entry in cluster.logged("EVAL")],
                         [source, target, target])

    def test_b19_a_script_is_not_repeated_when_its_tryagain_is_forged(self):
        cluster, proxy = self.start_with_fakes(*SHORT_HOLD)
        client = self.client(proxy)
        # Nothing migrates; and a text that is not the server's own.
        for text in (TRYAGAIN, "TRYAGAIN x"):
            cluster.clear_log()
            script = cluster.owner("k").on("EVAL", error(text))
            self.assert_error(client.command("EVAL", "return 1", 1, "k"), text)
            self.assertEqual(len(cluster.logged("EVAL")), 1)
            cluster.owner("k").off(script)


class WaitedOutTest(FakeClusterTestCase):
    DOWN = ("CLUSTERDOWN Hash slot not served", "CLUSTERDOWN The cluster is down",
            "CLUSTERDOWN The cluster is down and only accepts read commands")
    LOADING = "LOADING Redis is loading the dataset in memory"

    def test_b20_b21_waited_out_within_the_budget(self):
        cluster, proxy = self.start_with_fakes()
        client = self.client(proxy)
        for text in self.DOWN + (self.LOADING,):
            with self.subTest(text=text):
                cluster.clear_log()
                cluster.owner("k").on("SET", error(text), times=3)
                self.assertEqual(client.command("SET", "k", "v"), b"OK")
                self.assertEqual(len(cluster.logged("SET")), 4)

    def test_b20_b21_then_passed_on_verbatim(self):
        cluster, proxy = self.start_with_fakes(*SHORT_HOLD)
        client = self.client(proxy)
        for text in self.DOWN + (self.LOADING,):
            with self.subTest(text=text):
                script = cluster.owner("k").on("SET", error(text))
                begin = time.monotonic()
                self.assert_error(client.command("SET", "k", "v"), text)
                self.assertGreaterEqual(time.monotonic() - begin, 0.4)
                self.assertLess(time.monotonic() - begin, seconds(3))
                cluster.owner("k").off(script)

    def test_b20_clusterdown_asks_for_a_refresh_but_not_for_many(self):
        cluster, proxy = self.start_with_fakes("--hold-timeout", "1s")
        client = self.client(proxy)
        before = cluster.count("CLUSTER", "NODES")
        cluster.owner("k").on("SET", error(self.DOWN[0]))
        begin = time.monotonic()
        client.command("SET", "k", "v")
        elapsed = time.monotonic() - begin
        refreshes = cluster.count("CLUSTER", "NODES") - before
        self.assertGreaterEqual(refreshes, 1)
        self.assertLessEqual(refreshes, 5 * elapsed + 2)

    def test_b20_b21_other_slots_go_on_meanwhile(self):
        cluster, proxy = self.start_with_fakes("--hold-timeout", "3s")
        client, other = self.client(proxy), self.client(proxy)
        cluster.owner("k").on("SET", error(self.LOADING), key="k")
        client.send("SET", "k", "v")
        cluster.wait_for(lambda: cluster.logged("SET"), seconds(10))
        begin = time.monotonic()
        for number in range(50):  # on all nodes
            self.assertEqual(other.command("SET", "o%d" % number, "v"), b"OK")
        self.assertLess(time.monotonic() - begin, seconds(2))
        self.assert_error(client.read(), self.LOADING)

    def test_b20_b21_scripts_get_them_at_once(self):
        cluster, proxy = self.start_with_fakes()
        client = self.client(proxy)
        for text in self.DOWN + (self.LOADING,):
            cluster.clear_log()
            script = cluster.owner("k").on("EVAL", error(text))
            begin = time.monotonic()
            self.assert_error(client.command("EVAL", "return 1", 1, "k"), text)
            self.assertLess(time.monotonic() - begin, seconds(2))
            self.assertEqual(len(cluster.logged("EVAL")), 1)
            cluster.owner("k").off(script)

    def test_b28_a_slot_without_owner_gets_an_error_and_others_work(self):
        cluster = self.start_fakes()
        cluster.slots[key_slot("k")] = None
        proxy = self.start_proxy(cluster.addresses, *SHORT_HOLD)
        client, other = self.client(proxy), self.client(proxy)
        client.send("SET", "k", "v")
        self.assertEqual(other.command("PING"), b"PONG")
        self.assertEqual(other.command("SET", "x", "v"), b"OK")
        self.assert_error(client.read(), "CLUSTERDOWN proxy: slot %d has no reachable owner "
                          "(not executed)" % key_slot("k"))


class ReplicaTest(FakeClusterTestCase):
    MASTERDOWN = "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'."
    READONLY = "READONLY You can't write against a read only replica."

    def start_with_replicas(self, *flags):
        cluster = self.start_fakes()
        for primary in list(cluster.nodes):
            replica = cluster.add_node(primary)
            replica.data = primary.data
        proxy = self.start_proxy(cluster.addresses, "--workers", "1", *flags)
        return cluster, proxy

    def replica_of(self, cluster, key):
        return next(node for node in cluster.nodes if node.primary is cluster.owner(key))

    def test_b22_readonly_is_retried_once_on_the_owner(self):
        cluster, proxy = self.start_with_replicas(*SHORT_HOLD)
        client = self.client(proxy)
        owner = cluster.owner("k")
        before = cluster.count("CLUSTER", "NODES")
        owner.on("SET", error(self.READONLY), times=1)
        self.assertEqual(client.command("SET", "k", "v"), b"OK")
        self.assertGreater(cluster.count("CLUSTER", "NODES"), before)
        cluster.clear_log()
        owner.on("SET", error(self.READONLY))
        self.assert_error(client.command("SET", "k", "v"), self.READONLY)
        self.assertEqual(len(cluster.logged("SET")), 2)

    def test_b22_masterdown_is_retried_on_the_primary(self):
        cluster, proxy = self.start_with_replicas("--read-prefer", "1")
        client = self.client(proxy)
        replica, owner = self.replica_of(cluster, "k"), cluster.owner("k")
        owner.data[b"k"] = b"v"
        # The fakes' replicas serve reads: their slots are shown as their primary's.
        replica.on("GET", error(self.MASTERDOWN))
        owner.on("GET", bulk(b"from the primary"))
        self.assertEqual(client.command("GET", "k"), b"from the primary")
        self.assertEqual([entry.node for entry in cluster.logged("GET")], [replica, owner])

    def test_b21_loading_of_a_replica_goes_to_the_primary(self):
        cluster, proxy = self.start_with_replicas("--read-prefer", "1")
        client = self.client(proxy)
        replica, owner = self.replica_of(cluster, "k"), cluster.owner("k")
        replica.on("GET", error(WaitedOutTest.LOADING))
        owner.on("GET", bulk(b"from the primary"))
        begin = time.monotonic()
        self.assertEqual(client.command("GET", "k"), b"from the primary")
        self.assertLess(time.monotonic() - begin, seconds(2))

    def test_reads_go_to_replicas_only_when_preferred(self):
        cluster, proxy = self.start_with_replicas("--read-prefer", "1")
        client = self.client(proxy)
        replica = self.replica_of(cluster, "k")
        replica.on("GET", bulk(b"from the replica"))
        self.assertEqual(client.command("GET", "k"), b"from the replica")
        self.assertTrue(cluster.count("READONLY", node=replica))
        cluster, proxy = self.start_with_replicas()
        client = self.client(proxy)
        self.assertIsNone(client.command("GET", "k"))
        self.assertEqual([entry.node for entry in cluster.logged("GET")], [cluster.owner("k")])


class VerbatimTest(FakeClusterTestCase):
    def test_b23_other_errors_pass_verbatim_and_are_never_repeated(self):
        cluster, proxy = self.start_with_fakes()
        client = self.client(proxy)
        owner = cluster.owner("k")
        self.assertEqual(client.command("SET", "k", "v"), b"OK")
        connects = owner.accepted
        for text in (
                "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN "
                "NOSAVE.",
                "OOM command not allowed when used memory > 'maxmemory'.",
                "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to "
                "persist on disk.",
                "NOREPLICAS Not enough good replicas to write.",
                "NOPERM this user has no permissions to run the 'set' command",
                "WRONGTYPE Operation against a key holding the wrong kind of value",
                "EXECABORT Transaction discarded because of previous errors.",
                "ERR some error", "ERR", "-10001", "", " x", "MOVEDX 1 2", "ASKING 1 a:1",
                "moved 1 127.0.0.1:1", "CUSTOM\ttab", "NOAUTH Authentication required."):
            for name, command in (("SET", ("SET", "k", "v")), ("EVAL", ("EVAL", "x", 1, "k"))):
                with self.subTest(text=text, name=name):
                    cluster.clear_log()
                    script = owner.on(name, error(text))
                    self.assertEqual(client.raw(*command), error(text))
                    self.assertEqual(len(cluster.logged(name)), 1)
                    owner.off(script)
        self.assertEqual(owner.accepted, connects, "an error reply cost a connection")


class BrokenBackendTest(FakeClusterTestCase):
    LOST = "ERR proxy: backend connection lost (outcome unknown)"
    TIMEOUT = "ERR proxy: backend timeout (outcome unknown)"
    PROTOCOL = "ERR proxy: backend protocol error (outcome unknown)"

    def test_b2_a_hung_node_times_out_and_its_late_reply_reaches_nobody(self):
        cluster, proxy = self.start_with_fakes("--reply-timeout", "300ms", *SHORT_HOLD)
        client, other = self.client(proxy), self.client(proxy)
        owner = cluster.owner("k")
        release = threading.Event()
        self.addCleanup(release.set)
        owner.on("SET", Hold(release, bulk(b"late")), times=1)
        begin = time.monotonic()
        client.send_raw(pack("SET", "k", "1") + pack("SET", "k", "2"))
        self.assert_error(client.read(), self.TIMEOUT)
        self.assertGreaterEqual(time.monotonic() - begin, 0.25)
        self.assert_error(client.read(), self.TIMEOUT)
        release.set()
        self.assertEqual(other.command("SET", "k", "3"), b"OK")
        self.assertEqual(client.command("GET", "k"), b"3")

    def test_b5_a_reply_cut_at_every_byte(self):
        cluster, proxy = self.start_with_fakes()
        client = self.client(proxy)
        owner = cluster.owner("k")
        for reset in (False, True):
            for whole in (b"+OK\r\n", b":12\r\n", b"$5\r\nhello\r\n", b"*2\r\n$1\r\na\r\n:1\r\n"):
                for at in range(len(whole)):
                    cluster.clear_log()
                    script = owner.on("SET", Cut(whole[:at], reset), times=1)
                    with self.subTest(reply=whole, at=at, reset=reset):
                        self.assert_error(client.command("SET", "k", "v"), self.LOST)
                        self.assertEqual(len(cluster.logged("SET")), 1)
                    owner.off(script)
                    self.assertEqual(client.command("SET", "k", "v"), b"OK")

    def test_b5_a_lost_read_runs_once_more(self):
        cluster, proxy = self.start_with_fakes()
        client = self.client(proxy)
        owner = cluster.owner("k")
        owner.data[b"k"] = b"v"
        owner.on("GET", Cut(b"$1\r\n"), times=1)
        self.assertEqual(client.command("GET", "k"), b"v")
        owner.on("GET", Cut(b"$1\r\n"))
        cluster.clear_log()
        self.assert_error(client.command("GET", "k"), self.LOST)
        self.assertEqual(len(cluster.logged("GET")), 2)

    def test_b5_what_was_sent_behind_it_is_not_repeated(self):
        cluster, proxy = self.start_with_fakes()
        client = self.client(proxy)
        owner = cluster.owner("{s}")
        owner.on("INCR", Cut(b":"), times=1)
        replies = client.pipeline([("INCR", "{s}n")] * 10)
        executed = int(owner.data.get(b"{s}n", b"0"))
        succeeded = [reply for reply in replies if isinstance(reply, int)]
        self.assert_error(replies[0], self.LOST)
        self.assertEqual(succeeded, sorted(succeeded))
        self.assertEqual(len(succeeded), executed)
        for reply in replies:
            if not isinstance(reply, int):
                self.assert_error(reply, self.LOST)

    def test_b6_an_idle_connection_that_the_node_closed_is_replaced(self):
        cluster, proxy = self.start_with_fakes()
        client = self.client(proxy)
        owner = cluster.owner("k")
        self.assertEqual(client.command("SET", "k", "v"), b"OK")
        accepted = owner.accepted
        owner.cut_all()
        wait_until(lambda: owner.accepted > accepted or not owner.open_connections(),
                   "the end of the connections")
        replies = []

        def works():
            replies.append(client.command("SET", "k", "v"))
            return replies[-1] == b"OK"
        wait_until(works, "the new connection", seconds(5))
        for reply in replies[:-1]:
            self.assert_error(reply, self.LOST)

    def test_b7_garbled_replies(self):
        cluster, proxy = self.start_with_fakes()
        client, other = self.client(proxy), self.client(proxy)
        owner = cluster.owner("k")
        for garbage in (b"?OK\r\n", b"+OK\rX", b"$-2\r\n", b"$9223372036854775808\r\n",
                        b"*9223372036854775807\r\n", b"$3\r\nabcXY", b"$x\r\n", b":\r\n", b":1x\r\n",
                        b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\r\n", b"\x00\x00\x00\x00",
                        b"$5368709120\r\n"):
            with self.subTest(garbage=garbage):
                script = owner.on("SET", lambda c, a, garbage=garbage: garbage, times=1)
                connections = owner.accepted
                self.assert_error(client.command("SET", "k", "v"), self.PROTOCOL)
                owner.off(script)
                self.assertEqual(other.command("SET", "k", "v"), b"OK")
                self.assertGreater(owner.accepted, connections, "the connection was kept")

    def test_b8_a_surplus_reply_kills_the_connection_and_shifts_nothing(self):
        cluster, proxy = self.start_with_fakes()
        clients = [self.client(proxy) for _ in range(4)]
        owner = cluster.owner("k")
        owner.on("SET", b"+OK\r\n+SURPLUS\r\n", times=1)
        self.assertEqual(clients[0].command("SET", "k", "0"), b"OK")
        for number, client in enumerate(clients):
            for turn in range(20):
                reply = client.command("SET", "k%d" % number, "%d" % turn)
                if isinstance(reply, bytes):
                    self.assertEqual(reply, b"OK")
                else:
                    self.assert_error(reply, self.LOST)
        for number, client in enumerate(clients):
            self.assertIn(client.command("GET", "k%d" % number),
                          (b"19", owner.data.get(b"k%d" % number),
                           cluster.owner("k%d" % number).data.get(b"k%d" % number)))
        self.assertGreaterEqual(proxy.metrics()["backend_protocol_errors_total"], 1)

    def test_b8_a_push_on_a_shared_connection_kills_it(self):
        cluster, proxy = self.start_with_fakes()
        client = self.client(proxy)
        owner = cluster.owner("k")
        client.call("HELLO", 3)
        owner.on("SET", b">2\r\n$7\r\nmessage\r\n$1\r\nx\r\n+OK\r\n", times=1)
        self.assert_error(client.command("SET", "k", "v"), self.PROTOCOL)
        self.assertEqual(client.command("SET", "k", "v"), b"OK")

    def test_b8_a_reply_before_its_request_was_sent(self):
        cluster = self.start_fakes(1)
        first = threading.Event()

        def unasked(connection, args):
            if not first.is_set() and args[0].upper() == b"GET":
                first.set()
                connection.socket.sendall(bulk(b"own") + bulk(b"of nobody"))
                return simple("OF NOBODY")
            return None
        cluster.node(0).on("GET", unasked)
        proxy = self.start_proxy(cluster.addresses, "--workers", "1")
        a, b = self.client(proxy), self.client(proxy)
        self.assertEqual(a.command("GET", "k"), b"own")
        for _ in range(50):
            reply = b.command("SET", "k", "v")
            if reply != b"OK":
                self.assert_error(reply, self.LOST)
            self.assertIn(a.command("GET", "k"), (b"v", None))

    def test_b9_nesting_and_counts_pass_through(self):
        cluster, proxy = self.start_with_fakes()
        client = self.client(proxy)
        owner = cluster.owner("k")
        for reply in (b"*1\r\n" * 5000 + b":1\r\n", b"*0\r\n", b"*3\r\n*0\r\n*-1\r\n$-1\r\n",
                      b"*10000\r\n" + b":1\r\n" * 10000):
            script = owner.on("GET", lambda c, a, reply=reply: reply, times=1)
            client.send("GET", "k")
            got = b""
            while len(got) < len(reply):
                got += client.socket.recv(1 << 20)
            self.assertEqual(got, reply)
            owner.off(script)
        self.assertEqual(client.command("PING"), b"PONG")

    def test_b24_a_node_that_refuses_the_password_is_unusable_and_its_text_stays_inside(self):
        cluster = self.start_fakes(password="right")
        path = self.directory + "/password"
        with open(path, "w", encoding="ascii") as file:
            file.write("wrong\n")
        proxy = self.start_proxy(cluster.addresses, "--backend-password-file", path, *SHORT_HOLD,
                                 wait="alive")
        client = self.client(proxy)
        reply = client.command("SET", "k", "v")
        self.assertIn("CLUSTERDOWN", str(reply))
        self.assertIn("(not executed)", str(reply))
        self.assertNotIn("WRONGPASS", str(reply))
        self.assertEqual(proxy.http("/readyz")[0], 503)
        self.assertEqual(cluster.logged(), [], "a client's command went to a node")
        self.assertNotIn("wrong", proxy.log().replace("WRONGPASS", ""))

    def test_b24_the_right_password(self):
        cluster = self.start_fakes(password="right")
        path = self.directory + "/password"
        with open(path, "w", encoding="ascii") as file:
            file.write("right\n")
        proxy = self.start_proxy(cluster.addresses, "--backend-password-file", path)
        client = self.client(proxy)
        self.assertEqual(client.command("SET", "k", "v"), b"OK")
        self.assertNotIn("right", proxy.log())

    def test_b34_no_command_goes_out_before_the_handshake_is_answered(self):
        cluster = self.start_fakes()
        release = threading.Event()
        self.addCleanup(release.set)
        owner = cluster.owner("k")
        held = []

        def hold_first_client_id(connection, args):
            if args[1].upper() == b"ID" and not release.is_set():
                held.append(connection.number)
                return Hold(release, integer(7))
            return None
        proxy = self.start_proxy(cluster.addresses, "--workers", "1")
        owner.on("CLIENT", hold_first_client_id)
        owner.cut_all()
        client = self.client(proxy)
        client.send("SET", "k", "v")
        cluster.wait_for(lambda: held, seconds(10), "a handshake")
        self.assertEqual([entry for entry in cluster.logged("SET")
                          if entry.connection in held], [])
        release.set()
        reply = client.read()
        if reply != b"OK":  # it met the connection that was cut
            self.assert_error(reply, self.LOST)
        self.assertEqual(client.command("SET", "k", "v"), b"OK")

    def test_the_fence_ends_the_old_connection_before_the_new_one_serves(self):
        cluster, proxy = self.start_with_fakes("--reply-timeout", "300ms")
        client = self.client(proxy)
        owner = cluster.owner("k")
        self.assertEqual(client.command("SET", "k", "1"), b"OK")
        old = cluster.logged("SET")[-1].connection
        release = threading.Event()
        self.addCleanup(release.set)
        owner.on("SET", Hold(release, simple("OK")), times=1)
        self.assert_error(client.command("SET", "k", "2"), self.TIMEOUT)
        reply = client.command("SET", "k", "3")
        self.assertEqual(reply, b"OK")
        last = cluster.logged("SET")[-1]
        self.assertNotEqual(last.connection, old)
        old_id = b"%d" % owner.client_id(old)
        kills = [entry for entry in cluster.logged("CLIENT", owner)
                 if entry.args[1:] == [b"KILL", b"ID", old_id] and
                 entry.connection == last.connection]
        self.assertTrue(kills, "no CLIENT KILL ID %s" % old_id)
        self.assertLess(kills[0].number, last.number)


def has_ipv6():
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
        return True
    except OSError:
        return False


if __name__ == "__main__":
    unittest.main()
