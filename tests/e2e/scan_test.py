"""SCAN over the whole cluster, on real servers: every key that is there all the time is told."""

import itertools
import random
import sys

from harness import (Background, EmptyClusterTestCase, FreshClusterTestCase, ReplyError, SERVER,
                     SANITIZED, key_slot, keys_in_slots, time, unittest)

VALKEY = SERVER.startswith("valkey")


def scan(client, *options, cursor=b"0", at_most=20000):
    """Every reply's keys, from the cursor to the end."""
    batches = []
    while True:
        reply = client.command("SCAN", cursor, *options)
        if isinstance(reply, ReplyError):
            raise reply
        cursor, keys = reply
        batches.append(keys)
        if cursor == b"0":
            return batches
        if int(cursor) >= 1 << 53:
            raise AssertionError("cursor %r is no double" % cursor)
        if len(batches) > at_most:
            raise AssertionError("no end after %d calls" % len(batches))


def flat(batches):
    return [key for batch in batches for key in batch]


class ScanTest(EmptyClusterTestCase):
    cluster_options = {"config": ["enable-debug-command yes"]}

    def test_an_empty_cluster_ends_after_a_few_calls(self):
        batches = scan(self.connection)
        self.assertEqual(flat(batches), [])
        self.assertLessEqual(len(batches), 5)

    def test_each_key_once_while_nothing_moves(self):
        keys = self.fill("key:%d" % number for number in range(3000))
        for count in (None, 1, 10, 100, 5000, 2 ** 62):
            batches = scan(self.connection, *(("COUNT", count) if count else ()))
            told = flat(batches)
            self.assertEqual(len(told), 3000, "COUNT %s" % count)
            self.assertEqual(set(told), keys)
            if count == 100:
                # A slot has few of these keys: batches are about as large as wanted.
                self.assertLess(max(map(len, batches)), 130)
                self.assertLess(len(batches), 40)

    def test_few_keys_take_few_calls(self):
        keys = self.fill(keys_in_slots(5, "few"))
        batches = scan(self.connection)
        self.assertEqual(set(flat(batches)), keys)
        self.assertLess(len(batches), 12)

    def test_match_and_type(self):
        self.fill("s:%d" % number for number in range(300))
        for number in range(300):
            self.connection.command("RPUSH", "l:%d" % number, "v")
        for number in range(20):
            self.connection.command("ZADD", "z:%d" % number, 1, "v")
        lists = {b"l:%d" % number for number in range(300)}
        self.assertEqual(set(flat(scan(self.connection, "TYPE", "list"))), lists)
        self.assertEqual(set(flat(scan(self.connection, "type", "LIST", "COUNT", 100))), lists)
        self.assertEqual(set(flat(scan(self.connection, "MATCH", "l:*", "COUNT", 100))), lists)
        self.assertEqual(set(flat(scan(self.connection, "MATCH", "?:1[0-4]", "TYPE", "zset"))),
                         {b"z:%d" % number for number in range(10, 15)})
        self.assertEqual(flat(scan(self.connection, "MATCH", "no such key", "COUNT", 1000)), [])

    def test_binary_keys_and_resp3(self):
        keys = self.fill([b"", b"\r\n", b"a b", b"\x00\xff", b"{}", b"$5\r\nhello\r\n"])
        self.assertEqual(set(flat(scan(self.connection))), keys)
        self.connection.command("HELLO", "3")
        self.assertEqual(set(flat(scan(self.connection))), keys)

    def test_a_cursor_is_good_at_every_proxy(self):
        keys = self.fill("key:%d" % number for number in range(500))
        others = [self.connection, self.client(self.start_proxy(self.cluster.addresses))]
        cursor, told, calls = b"0", [], 0
        while calls == 0 or cursor != b"0":
            cursor, batch = others[calls % 2].command("SCAN", cursor)
            told += batch
            calls += 1
        self.assertEqual(set(told), keys)

    def test_arguments_are_refused_as_by_the_servers(self):
        cases = [("x",), ("0x10",), ("1x",), ("18446744073709551616",), ("0", "COUNT"),
                 ("0", "COUNT", "0"), ("0", "COUNT", "-1"), ("0", "COUNT", "x"),
                 ("0", "COUNT", "99999999999999999999"), ("0", "FOO", "BAR"), ("0", "MATCH"),
                 ("0", "TYPE"), ("0", "NOVALUES"), ("0", "MATCH", "a", "COUNT", "0")]
        if VALKEY:
            cases += [("-1",), ("",), ("0", "TYPE", "foo")]
        node = self.cluster.primaries()[0]
        with node.connect() as plain:
            for case in cases:
                wanted = plain.raw("SCAN", *case)
                self.assertTrue(wanted.startswith(b"-"), case)
                self.assertEqual(self.connection.raw("SCAN", *case), wanted, case)

    def test_scans_are_pipelined_with_other_commands(self):
        keys = self.fill(keys_in_slots(20))
        replies = self.connection.pipeline(
            [("SET", "x", "1"), ("SCAN", "0", "COUNT", "100"), ("GET", "x")] * 20)
        self.assertEqual(replies[0::3] + replies[2::3], [b"OK"] * 20 + [b"1"] * 20)
        self.assertTrue(all(set(batch) <= keys | {b"x"} for _, batch in replies[1::3]))

    def test_a_slot_that_stays_half_moved_is_told_whole(self):
        slot = key_slot("{tag}")
        keys = self.fill("{tag}%d" % number for number in range(200))
        source = self.cluster.owner(slot)
        target = [node for node in self.cluster.primaries() if node is not source][0]
        self.cluster.begin_move(slot, target)
        for part in (0, 70, 70, 60):
            self.cluster.move_keys(slot, source, target, at_most=part)
            told = flat(scan(self.connection))
            self.assertEqual(len(told), 200)
            self.assertEqual(set(told), keys)
        self.cluster.finish_move(slot, source, target)
        self.assertEqual(set(flat(scan(self.connection))), keys)

    def test_a_slot_with_many_keys_is_told_in_pages(self):
        slot = key_slot("{tag}")
        keys = self.fill(keys_in_slots(3000))
        node = self.cluster.owner(slot)
        node.command("DEBUG", "POPULATE", 130000, "{tag}")
        keys |= {b"{tag}:%d" % number for number in range(130000)}
        for count in (10, 1000, 1000000):
            batches = scan(self.connection, "COUNT", count)
            told = flat(batches)
            self.assertEqual(set(told), keys)
            self.assertLess(len(told), 1.2 * len(keys))
            self.assertLess(max(map(len, batches)), max(count, 10000) + 66000)
        self.assertEqual(sorted(flat(scan(self.connection, "MATCH", "*:1299??", "COUNT", 5000))),
                         sorted(b"{tag}:1299%02d" % number for number in range(100)))
        self.connection.command("HSET", "{tag}:hash", "f", "v")
        self.assertEqual(flat(scan(self.connection, "TYPE", "hash", "COUNT", 5000)),
                         [b"{tag}:hash"])
        # The same position at another proxy, and what is none at all.
        cursor, told = b"0", set()
        other = self.client(self.start_proxy(self.cluster.addresses))
        for turn in itertools.count():
            cursor, batch = (self.connection, other)[turn % 2].call("SCAN", cursor, "COUNT", 3000)
            self.assertLess(int(cursor), 1 << 53)
            told.update(batch)
            if cursor == b"0":
                break
        self.assertEqual(told, keys | {b"{tag}:hash"})
        cursor, batch = other.call("SCAN", slot | 12345 << 14 | 99 << 42, "COUNT", 1000)
        told = set(batch) | set(flat(scan(other, "COUNT", 5000, cursor=cursor)))
        self.assertTrue({key for key in keys if key_slot(key.decode()) >= slot} <= told)


class ScanAmongChangesTest(FreshClusterTestCase):
    KEYS = 3000

    def start(self, **options):
        cluster = self.start_cluster(**options)
        proxy = self.start_proxy(cluster.addresses)
        client = self.client(proxy)
        keys = ["k%d" % number for number in range(self.KEYS)] + [
            "{tag}%d" % number for number in range(200)]
        client.pipeline([("SET", key, "v") for key in keys])
        return cluster, proxy, {key.encode() for key in keys}

    def scans(self, proxy, keys, *options):
        """Scans until it is told to stop; returns how often."""
        def work(stopping):
            client = self.client(proxy)
            number = 0
            while not stopping.is_set() or number < 2:
                missing = keys - set(flat(scan(client, *options)))
                if missing:
                    raise AssertionError("scan %d missed %d keys, like %r in slot %d" % (
                        number, len(missing), min(missing), key_slot(min(missing))))
                number += 1
            return number
        return Background(work)

    def test_no_key_is_missed_while_slots_move(self):
        cluster, proxy, keys = self.start(primaries=3, replicas=0)
        workers = [self.scans(proxy, keys, "COUNT", count) for count in (5, 50, 500)]
        generator = random.Random(7)
        slots = sorted({key_slot(key) for key in keys})
        until = time.monotonic() + (20 if SANITIZED else 10)
        moves = 0
        while ((time.monotonic() < until or moves <= 20) and
               all(worker.is_alive() for worker in workers)):
            # The largest slot again and again, and any other.
            slot = key_slot("{tag}") if moves % 2 else generator.choice(slots)
            source = cluster.owner(slot)
            target = generator.choice(
                [node for node in cluster.primaries() if node is not source])
            cluster.move_slot(slot, target)
            moves += 1
        counts = [worker.stop() for worker in workers]
        self.assertGreater(moves, 20)
        self.assertGreater(min(counts), 1)

    def test_no_key_of_a_slot_in_pages_is_missed_while_it_moves(self):
        cluster = self.start_cluster(primaries=3, replicas=1)
        proxy = self.start_proxy(cluster.addresses)
        slot = key_slot("{tag}")
        wanted = {b"{tag}:%d" % number for number in range(101500)}
        client = self.client(proxy)
        keys = sorted(wanted)
        client.pipeline([("MSET", *itertools.chain(*((key, "v") for key in keys[i:i + 500])))
                         for i in range(0, len(keys), 500)])

        def source_and_target():
            source = cluster.owner(slot)
            return source, next(node for node in cluster.primaries()
                                if node.address != source.address)

        def fail_over():
            cluster.wait_until_ready()
            cluster.failover(cluster.replicas_of(cluster.owner(slot))[0])

        def begin():
            source, target = source_and_target()
            cluster.begin_move(slot, target)
            cluster.move_keys(slot, source, target, at_most=600)
            moving[:] = [source, target]

        def go_on():
            cluster.move_keys(slot, *moving, at_most=300)

        def give_up():
            source, target = moving
            source.command("CLUSTER", "SETSLOT", slot, "STABLE")  # else it would not take them
            cluster.move_keys(slot, target, source)
            target.command("CLUSTER", "SETSLOT", slot, "STABLE")

        def finish():
            cluster.move_keys(slot, *moving, batch=2000)
            cluster.finish_move(slot, *moving)

        moving = []
        # What happens after so many calls.
        for plan in ({}, {5: begin, 9: go_on, 20: go_on}, {3: go_on, 12: give_up},
                     {0: fail_over}, {4: fail_over, 15: fail_over},
                     {2: begin, 8: go_on, 14: give_up}, {2: begin, 7: finish}):
            told, cursor, calls = set(), b"0", 0
            while calls == 0 or cursor != b"0":
                plan.get(calls, lambda: None)()
                cursor, batch = client.call("SCAN", cursor, "COUNT", 4000)
                told.update(batch)
                calls += 1
            self.assertEqual(sorted(wanted - told)[:5], [], plan)
            self.assertEqual(sorted(told - wanted)[:5], [], plan)
            self.assertGreater(calls, max(plan, default=0))

    def test_no_key_is_missed_through_failovers(self):
        cluster, proxy, keys = self.start(primaries=3, replicas=1)
        workers = [self.scans(proxy, keys, "COUNT", count) for count in (20, 200)]
        generator = random.Random(11)
        for _ in range(5):
            cluster.wait_until_ready()
            cluster.failover(generator.choice(
                [node for node in cluster.nodes if not node.is_primary()]))
        for worker in workers:
            worker.stop()


if __name__ == "__main__":
    sys.exit(unittest.main())
