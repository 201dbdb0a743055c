"""Nodes of a real cluster die, hang, come back, or are not there yet."""

import collections
import re

from harness import (Background, ClusterError, FreshClusterTestCase, LocalCluster, ReplyError,
                     SERVER, StallWatch, key_slot, seconds, time, unittest, wait_until)

# All that a client may see while a node is lost.
ALLOWED = re.compile(
    r"^(CLUSTERDOWN proxy: slot \d+ has no reachable owner \(not executed\)"
    r"|CLUSTERDOWN The cluster is down|CLUSTERDOWN Hash slot not served"
    r"|ERR proxy: backend timeout \(outcome unknown\)"
    r"|ERR proxy: backend connection lost \(outcome unknown\)"
    r"|READONLY You can't write against a read only replica\."
    r"|LOADING .*|MASTERDOWN .*)$")
Sample = collections.namedtuple("Sample", "begin end error")


class Load:
    """One client that writes and reads keys of its own, one request at a time."""

    def __init__(self, proxy, name, keys, reads=True):
        self.proxy = proxy
        self.name = name
        self.keys = keys
        self.reads = reads
        self.samples = []
        self.worker = Background(self.run)

    def run(self, stopping):
        turn = 0
        written = {}  # key → the values that it may have
        with self.proxy.connect(timeout=seconds(30)) as client:
            while not stopping.is_set():
                turn += 1
                key = self.keys[turn % len(self.keys)]
                value = b"%s:%s:%d" % (self.name.encode(), key.encode(), turn)
                written.setdefault(key, {None}).add(value)
                self.ask(client, "SET", key, value)
                if self.reads:
                    reply = self.ask(client, "GET", key)
                    # An acknowledged write may be lost with its primary; a foreign value never
                    # comes.
                    if not isinstance(reply, ReplyError) and reply not in written[key]:
                        raise AssertionError("GET %s gave %r" % (key, reply))
                stopping.wait(0.002)
        return turn

    def ask(self, client, *command):
        begin = time.monotonic()
        reply = client.command(*command)
        error = str(reply) if isinstance(reply, ReplyError) else None
        self.samples.append(Sample(begin, time.monotonic(), error))
        if error is not None and not ALLOWED.match(error):
            raise AssertionError("%s gave %r" % (command[0], error))
        return reply

    def errors_after(self, moment):
        return [sample for sample in self.samples if sample.error and sample.begin > moment]

    def first_success_after(self, moment):
        ends = [sample.end for sample in self.samples if not sample.error and
                sample.begin > moment]
        return min(ends) if ends else None


class FailoverTest(FreshClusterTestCase):
    def keys_of(self, cluster, node, prefix, count=20):
        slots = cluster.slot_map()
        keys = []
        number = 0
        while len(keys) < count:
            key = "%s%d" % (prefix, number)
            number += 1
            if slots[key_slot(key)] is node:
                keys.append(key)
        return keys

    def load_on(self, cluster, proxy, victim, clients=4):
        """(loads on the victim's slots, loads on the others')."""
        self.was_replica_of = {identity: fields["primary"]
                               for identity, fields in victim.view().items()}
        others = [node for node in cluster.primaries() if node is not victim]
        dead = [Load(proxy, "d%d" % number, self.keys_of(cluster, victim, "d%d:" % number))
                for number in range(clients)]
        alive = [Load(proxy, "a%d" % number,
                      self.keys_of(cluster, others[number % 2], "a%d:" % number))
                 for number in range(clients)]
        return dead, alive

    def working(self, loads):
        wait_until(lambda: all(len(load.samples) > 20 for load in loads), "the load to work",
                   seconds(20))

    def wait_for_failover(self, cluster, victim):
        """When the cluster served the victim's slots again: the moment it could be seen."""
        replica = next(node for node in cluster.nodes if node is not victim and
                       self.was_replica_of[node.id] == victim.id)

        def promoted():
            if not replica.is_primary():
                return False
            return all(int(node.cluster_info()["cluster_slots_ok"]) == 16384 and
                       node.cluster_info()["cluster_state"] == "ok"
                       for node in cluster.answering() if node is not victim)
        wait_until(promoted, "the cluster's own failover", 30)
        return time.monotonic()

    def check_recovery(self, dead, healed):
        """The victim's slots are served within 2 s of the cluster's own failover, without errors
        from then on."""
        limit = healed + seconds(2)
        wait_until(lambda: time.monotonic() > limit + 1.5, "the time after", seconds(10))
        for load in dead:
            back = load.first_success_after(healed)
            self.assertIsNotNone(back, "%s never came back" % load.name)
            self.assertLess(back, limit)
            self.assertEqual(load.errors_after(limit), [])

    def stop(self, loads):
        for load in loads:
            load.worker.stop(seconds(60))

    def test_b1_a_killed_primary_with_other_slots_undisturbed(self):
        cluster = self.start_cluster(config=["cluster-require-full-coverage no"])
        proxy = self.start_proxy(cluster.addresses)
        victim = cluster.primaries()[0]
        watch = StallWatch()
        self.addCleanup(watch.stop)
        dead, alive = self.load_on(cluster, proxy, victim)
        self.working(dead + alive)
        killed = time.monotonic()
        cluster.kill_node(victim)
        healed = self.wait_for_failover(cluster, victim)
        self.check_recovery(dead, healed)
        self.stop(dead + alive)
        for load in alive:
            self.assertEqual(load.errors_after(0), [])
            slowest = max(sample.end - sample.begin - watch.lost(sample.begin, sample.end)
                          for sample in load.samples if sample.begin > killed)
            self.assertLess(slowest, seconds(1))
        # It comes back as a replica; nothing changes for clients.
        cluster.restart_node(victim)
        cluster.wait_until_ready()
        client = self.client(proxy)
        for key in dead[0].keys + alive[0].keys:
            self.assertEqual(client.command("SET", key, "after"), b"OK")

    def test_b1_a_killed_primary_where_the_whole_cluster_stops_meanwhile(self):
        cluster = self.start_cluster()
        proxy = self.start_proxy(cluster.addresses, "--hold-timeout", "20s")
        victim = cluster.primaries()[0]
        dead, alive = self.load_on(cluster, proxy, victim)
        self.working(dead + alive)
        cluster.kill_node(victim)
        healed = self.wait_for_failover(cluster, victim)
        self.check_recovery(dead, healed)
        self.stop(dead + alive)
        # The nodes' own CLUSTERDOWN is waited out.
        for load in alive:
            self.assertEqual(load.errors_after(0), [])

    def test_b2_a_hung_primary_is_given_up_and_its_late_replies_reach_nobody(self):
        cluster = self.start_cluster(config=["cluster-require-full-coverage no"])
        proxy = self.start_proxy(cluster.addresses, "--reply-timeout", "1s")
        victim = cluster.primaries()[0]
        dead, alive = self.load_on(cluster, proxy, victim)
        # A read that was out is sent once more: this one has a write out, whenever it is.
        writer = Load(proxy, "w", self.keys_of(cluster, victim, "w:"), reads=False)
        dead.append(writer)
        self.working(dead + alive)
        paused = time.monotonic()
        cluster.pause_node(victim)
        healed = self.wait_for_failover(cluster, victim)
        cluster.resume_node(victim)
        self.check_recovery(dead, healed)
        self.stop(dead + alive)
        for load in alive:
            self.assertEqual(load.errors_after(0), [])
        for load in dead:
            # Always an answer, and within the stated time: hold timeout + reply deadline.
            slowest = max(sample.end - sample.begin for sample in load.samples
                          if sample.begin > paused - 1)
            self.assertLess(slowest, seconds(5 + 1 + 1))
        self.assertTrue(any("backend timeout" in sample.error
                            for sample in writer.errors_after(0)))

    def test_b2_the_default_deadline_answers_in_time(self):
        cluster = self.start_cluster(primaries=3, replicas=0, node_timeout_ms=15000)
        proxy = self.start_proxy(cluster.addresses)
        victim = cluster.primaries()[0]
        key = self.keys_of(cluster, victim, "k", 1)[0]
        client = self.client(proxy)
        client.call("SET", key, "v")
        cluster.pause_node(victim)
        self.addCleanup(cluster.resume_node, victim)
        begin = time.monotonic()
        self.assert_error(client.command("SET", key, "w"),
                          "ERR proxy: backend timeout (outcome unknown)")
        self.assertLess(time.monotonic() - begin, seconds(7))
        begin = time.monotonic()
        reply = client.command("SET", key, "x")
        self.assertIsInstance(reply, ReplyError)
        self.assertRegex(str(reply), ALLOWED)
        self.assertLess(time.monotonic() - begin, seconds(11))

    def test_b29_manual_failovers_lose_no_reply(self):
        cluster = self.start_cluster()
        proxy = self.start_proxy(cluster.addresses)
        primary = cluster.primaries()[0]
        loads = [Load(proxy, "m%d" % number, self.keys_of(cluster, primary, "m%d:" % number))
                 for number in range(4)]
        self.working(loads)
        for _ in range(3):
            owner = cluster.owner(key_slot(loads[0].keys[0]))
            cluster.failover(cluster.replicas_of(owner)[0])
            cluster.wait_until_ready()
        settled = time.monotonic() + seconds(2)
        wait_until(lambda: time.monotonic() > settled + 1, "the time after", seconds(10))
        self.stop(loads)
        for load in loads:
            self.assertEqual(load.errors_after(settled), [])

    def test_a_lost_replica_disturbs_nobody(self):
        cluster = self.start_cluster()
        for prefer in ("0", "1"):
            proxy = self.start_proxy(cluster.addresses, "--read-prefer", prefer)
            primary = cluster.primaries()[0]
            replica = cluster.replicas_of(primary)[0]
            load = Load(proxy, "r" + prefer, self.keys_of(cluster, primary, "r%s:" % prefer))
            self.working([load])
            cluster.kill_node(replica)
            moment = time.monotonic()
            wait_until(lambda moment=moment: time.monotonic() > moment + 3, "some load", 10)
            load.worker.stop(seconds(60))
            self.assertEqual(load.errors_after(0), [])
            cluster.restart_node(replica)
            cluster.wait_until_ready()

    def test_reads_go_to_the_replicas_in_the_proxys_zone(self):
        cluster = self.start_cluster(primaries=3, replicas=2)
        key = self.keys_of(cluster, cluster.primaries()[0], "z:")[0]
        replicas = cluster.replicas_of(cluster.primaries()[0])
        if SERVER == "valkey-server":
            for node, zone in zip(replicas, ("here", "there")):
                node.command("CONFIG", "SET", "availability-zone", zone)
        proxy = self.start_proxy(cluster.addresses, "--read-prefer", "2", "--zone", "here")
        client = self.client(proxy)

        def reads():
            for node in replicas:
                node.command("CONFIG", "RESETSTAT")
            for _ in range(100):
                client.command("GET", key)
            return ["cmdstat_get:" in node.command("INFO", "commandstats").decode()
                    for node in replicas]

        reads()  # opens the connections
        self.assertEqual(reads(), [True, SERVER != "valkey-server"])


class StartTest(FreshClusterTestCase):
    def test_some_startup_nodes_down(self):
        cluster = self.start_cluster(primaries=3, replicas=0)
        proxy = self.start_proxy(["127.0.0.1:1", "no-such-host.invalid:7001",
                                  cluster.addresses[0]])
        client = self.client(proxy)
        for number in range(30):
            self.assertEqual(client.command("SET", "k%d" % number, "v"), b"OK")

    def test_all_startup_nodes_down_at_first(self):
        cluster = self.start_cluster(primaries=3, replicas=0)
        addresses = cluster.addresses
        for node in cluster.nodes:
            cluster.kill_node(node)
        proxy = self.start_proxy(addresses, "--hold-timeout", "300ms", wait="alive")
        self.assertEqual(proxy.http("/readyz")[0], 503)
        self.assertEqual(proxy.http("/healthz")[0], 200)
        client = self.client(proxy)
        self.assertEqual(client.command("PING"), b"PONG")
        reply = client.command("SET", "k", "v")
        self.assertIsInstance(reply, ReplyError)
        self.assertIn("(not executed)", str(reply))
        self.assertRegex(proxy.log(), "(?i)startup|topology|node")
        for node in cluster.nodes:
            cluster.restart_node(node)
        cluster.wait_until_ready()
        begin = time.monotonic()
        proxy.wait_for("ready", seconds(10))
        self.assertLess(time.monotonic() - begin, seconds(5))
        self.assertEqual(client.command("SET", "k", "v"), b"OK")

    def test_b31_a_cluster_that_comes_back_at_new_addresses(self):
        """One startup node keeps its address; all others move to new ports."""
        first = self.start_cluster(primaries=3, replicas=0)
        seed = first.nodes[0].port
        proxy = self.start_proxy(first.addresses[:1], "--hold-timeout", "300ms")
        client = self.client(proxy)
        self.assertEqual(client.command("SET", "k", "v"), b"OK")
        first.stop()
        second = None
        deadline = time.monotonic() + 20
        while second is None:
            try:
                # The seed's port is the first of this cluster's consecutive ports.
                second = LocalCluster(server=SERVER, primaries=3, replicas=0, ports=seed).start()
            except ClusterError:
                if time.monotonic() > deadline:
                    self.skipTest("the ports beside %d are in use" % seed)
        self.addCleanup(second.stop)
        begin = time.monotonic()

        def works():
            return all(client.command("SET", "k%d" % number, "v") == b"OK"
                       for number in range(20))
        wait_until(works, "the proxy to find the cluster", seconds(15))
        self.assertLess(time.monotonic() - begin, seconds(5))


if __name__ == "__main__":
    unittest.main()
