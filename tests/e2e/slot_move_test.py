"""Slots of a real cluster move while clients work on them: no error, no raw redirection, no wrong
value."""

import threading

from harness import (Background, FULL, FreshClusterTestCase, ReplyError, key_slot, pack, seconds,
                     unittest, wait_until)

ROUNDS = 30 if FULL else 6


class SlotMoveTest(FreshClusterTestCase):
    def start(self, **options):
        options.setdefault("replicas", 0)
        cluster = self.start_cluster(**options)
        proxy = self.start_proxy(cluster.addresses)
        return cluster, proxy

    def check(self, client, commands, wanted):
        client.send_raw(b"".join(pack(*command) for command in commands))
        for command, expected in zip(commands, wanted):
            reply = client.read()
            if reply != expected:
                raise AssertionError("%r gave %r, not %r" % (command, reply, expected))

    def pipelining(self, proxy, tag, number):
        """A client that works on keys of its own in one slot until it is stopped.

        Its `turns` counts the rounds done.
        """
        def work(stopping):
            turns = 0
            keys = ["%s%d:%d" % (tag, number, index) for index in range(16)]
            with proxy.connect(timeout=seconds(20)) as client:
                while not stopping.is_set():
                    turns += 1
                    commands, wanted = [], []
                    for key in keys:
                        value = b"%s=%d" % (key.encode(), turns)
                        commands += [("SET", key, value), ("GET", key)]
                        wanted += [b"OK", value]
                    commands.append(("INCR", keys[0] + "n"))
                    wanted.append(turns)
                    self.check(client, commands, wanted)
                    # On their own, since pipelined commands on other keys may run before them.
                    self.check(client, [["MGET"] + keys],
                               [[b"%s=%d" % (key.encode(), turns) for key in keys]])
                    pairs = [part for key in keys for part in (key, "m%d" % turns)]
                    self.check(client, [["MSET"] + pairs], [b"OK"])
                    self.check(client, [["MGET"] + keys + ["%snone" % tag]],
                               [[b"m%d" % turns] * len(keys) + [None]])
                    self.check(client, [["EXISTS"] + keys], [len(keys)])
                    self.check(client, [["DEL"] + keys[8:]], [8])
                    worker.turns = turns
            return turns
        worker = Background(work, begin=False)
        worker.turns = 0
        worker.start()
        return worker

    def let_work(self, workers):
        """Returns when each has done a whole round begun after the call: none sees two changes."""
        done = [worker.turns for worker in workers]
        wait_until(lambda: all(worker.turns >= before + 2 or not worker.is_alive()
                               for worker, before in zip(workers, done)),
                   "the clients to work", seconds(30))

    def move_in_stages(self, cluster, workers, slot, target):
        source = cluster.begin_move(slot, target)
        self.let_work(workers)
        while cluster.move_keys(slot, source, target, at_most=8, batch=2):
            self.let_work(workers)
        cluster.finish_move(slot, source, target)
        self.let_work(workers)

    def test_clients_pipeline_on_a_slot_while_it_moves(self):
        cluster, proxy = self.start()
        tag = "{moving}"
        slot = key_slot(tag)
        workers = [self.pipelining(proxy, tag, number) for number in range(8)]
        other = [self.pipelining(proxy, "{at rest}", number) for number in range(2)]
        for turn in range(ROUNDS):
            target = [node for node in cluster.primaries()
                      if node is not cluster.owner(slot)][turn % 2]
            self.move_in_stages(cluster, workers, slot, target)
        for worker in workers + other:
            self.assertGreater(worker.stop(seconds(60)), 2)
        metrics = proxy.metrics()
        # MOVED comes only to what meets the change before the new topology does.
        self.assertGreaterEqual(metrics["topology_changes_total"], ROUNDS)
        self.assertGreater(metrics["redirections_ask_total"], 0)
        self.assertEqual(metrics["proxy_errors_total"], 0)

    def test_a_slot_that_stays_half_moved_is_served_whole(self):
        cluster, proxy = self.start()
        tag = "{half}"
        slot = key_slot(tag)
        client = self.client(proxy)
        keys = ["%s%d" % (tag, number) for number in range(60)]
        for key in keys:
            client.call("SET", key, "v" + key)
        target = next(node for node in cluster.primaries() if node is not cluster.owner(slot))
        source = cluster.begin_move(slot, target)
        self.assertEqual(cluster.move_keys(slot, source, target, at_most=30), 30)
        values = [b"v" + key.encode() for key in keys]

        self.check(client, [("GET", key) for key in keys], values)
        self.check(client, [["MGET"] + keys], [values])
        self.check(client, [["EXISTS"] + keys + [tag + "none"]], [60])
        self.check(client, [["TOUCH"] + keys], [60])
        self.check(client, [["MSET"] + [part for key in keys for part in (key, "w" + key)]], [b"OK"])
        values = [b"w" + key.encode() for key in keys]
        self.check(client, [["MGET"] + keys], [values])
        # New keys are made at the target.
        self.check(client, [("SET", tag + "new", "n"), ("GET", tag + "new")], [b"OK", b"n"])
        self.check(client, [("INCR", tag + "count")] * 100, list(range(1, 101)))
        # Over this slot and others at once.
        self.check(client, [["MSET", "elsewhere", "e", keys[0], "x"],
                            ["MGET", "elsewhere"] + keys[:2]], [b"OK", [b"e", b"x", values[1]]])
        # A command that can't be split gets the server's own words, and not before the budget ends.
        reply = client.command("SUNION", *keys)
        self.assertIsInstance(reply, ReplyError)
        self.assertTrue(str(reply).startswith(("TRYAGAIN ", "WRONGTYPE ")), reply)
        self.check(client, [["DEL"] + keys[:20] + [tag + "none"]], [20])
        self.check(client, [["UNLINK"] + keys[20:40]], [20])

        cluster.finish_move(slot, source, target)
        self.check(client, [["MGET"] + keys], [[None] * 40 + values[40:]])

    def test_a_move_that_is_cancelled_half_way_and_begun_again(self):
        cluster, proxy = self.start()
        tag = "{back}"
        slot = key_slot(tag)
        client = self.client(proxy)
        keys = ["%s%d" % (tag, number) for number in range(20)]
        for key in keys:
            client.call("SET", key, key)
        target = next(node for node in cluster.primaries() if node is not cluster.owner(slot))
        source = cluster.begin_move(slot, target)
        cluster.move_keys(slot, source, target, at_most=16)
        self.check(client, [["MGET"] + keys], [[key.encode() for key in keys]])
        # The keys that moved go back the same way. The source's mark goes first, else it would send
        # them away again; the target's last, else it would not look at them.
        source.command("CLUSTER", "SETSLOT", slot, "STABLE")
        with target.connect() as direct:
            moved = direct.call("CLUSTER", "GETKEYSINSLOT", slot, 100)
            self.assertEqual(len(moved), 16)
            direct.call("MIGRATE", source.host, source.port, "", 0, 5000, "REPLACE", "KEYS", *moved)
        target.command("CLUSTER", "SETSLOT", slot, "STABLE")
        self.check(client, [["MGET"] + keys], [[key.encode() for key in keys]])
        cluster.move_slot(slot, target)
        self.check(client, [("GET", key) for key in keys], [key.encode() for key in keys])

    def test_many_slots_move_at_once_under_load(self):
        cluster, proxy = self.start()
        tags = ["{t%d}" % number for number in range(6)]
        workers = [self.pipelining(proxy, tag, 0) for tag in tags]

        # The servers can't give two slots away at once: their epochs would collide. And two that
        # MIGRATE to each other wait for each other, deaf to all else, until that gives up. So many
        # slots are half moved at once, but one of them moves on at a time.
        one_by_one = threading.Lock()

        def move(tag, worker):
            def run(_):
                slot = key_slot(tag)
                for turn in range(max(2, ROUNDS // 4)):
                    with one_by_one:
                        target = [node for node in cluster.primaries()
                                  if node is not cluster.owner(slot)][turn % 2]
                        source = cluster.begin_move(slot, target)
                    self.let_work([worker])
                    with one_by_one:
                        cluster.move_keys(slot, source, target)
                    self.let_work([worker])
                    with one_by_one:
                        cluster.finish_move(slot, source, target)
                    self.let_work([worker])
            return Background(run)
        for mover in [move(tag, worker) for tag, worker in zip(tags, workers)]:
            mover.join_or_raise(seconds(120))
        for worker in workers:
            self.assertGreater(worker.stop(seconds(60)), 1)

    def test_a_node_joins_takes_slots_and_leaves_under_load(self):
        cluster, proxy = self.start()
        tag = "{guest}"
        slot = key_slot(tag)
        workers = [self.pipelining(proxy, tag, number) for number in range(4)]
        node = cluster.add_node()
        home = cluster.owner(slot)
        self.move_in_stages(cluster, workers, slot, node)
        cluster.wait_until_ready()
        self.move_in_stages(cluster, workers, slot, home)

        # What is on its way to the old owner when it ends may or may not have run.
        def goes_straight():
            before = proxy.metrics()["redirections_moved_total"]
            self.let_work(workers)
            return proxy.metrics()["redirections_moved_total"] == before
        wait_until(goes_straight, "the new topology", seconds(10))
        cluster.remove_node(node)
        for worker in workers:
            self.assertGreater(worker.stop(seconds(60)), 1)

    def test_large_values_move_too(self):
        cluster, proxy = self.start()
        tag = "{large}"
        slot = key_slot(tag)
        value = b"x" * (2 << 20)

        def work(stopping):
            with proxy.connect(timeout=seconds(30)) as client:
                while not stopping.is_set():
                    worker.turns += 1
                    mark = b"%d:" % worker.turns
                    self.check(client, [("SET", tag, mark + value), ("STRLEN", tag), ("GET", tag)],
                               [b"OK", len(mark + value), mark + value])
        worker = Background(work, begin=False)
        worker.turns = 0
        worker.start()
        self.let_work([worker])
        for turn in range(4):
            cluster.move_slot(slot, [node for node in cluster.primaries()
                                     if node is not cluster.owner(slot)][turn % 2])
            self.let_work([worker])
        worker.stop(seconds(60))


if __name__ == "__main__":
    unittest.main()
