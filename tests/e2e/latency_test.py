"""latency: what is planted is found, and what is measured was there."""

import itertools
import json
import os
import shutil
import subprocess
import tempfile
import threading
import xml.etree.ElementTree

from fake_node import Cut, array, bulk, error, integer, simple
from harness import BUILD, FakeCluster, key_slot, seconds, time, unittest

LATENCY = os.path.join(BUILD, "latency")


def run(*command):
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          timeout=seconds(200), check=False)


class LatencyTestCase(unittest.TestCase):
    def setUp(self):
        self.directory = tempfile.mkdtemp(prefix="rcproxy-latency-")
        self.addCleanup(shutil.rmtree, self.directory)
        self.cluster = self.start_nodes(1)
        self.node = self.cluster.node(0)

    def start_nodes(self, count):
        cluster = FakeCluster(count)
        self.addCleanup(cluster.close)
        return cluster

    def measure(self, *flags, targets=None, exit_code=0):
        """The JSON's targets by name, and what was printed."""
        path = os.path.join(self.directory, "json")
        result = run(LATENCY, *(targets or ["--target", "node=" + self.node.address]),
                     "--clients", "3", "--keys", "60", "--rounds", "2", "--seconds", "0.2",
                     "--warm-up", "0.05", "--json", path, *flags)
        self.assertEqual(result.returncode, exit_code, result.stdout + result.stderr)
        with open(path, encoding="utf-8") as file:
            return {target["name"]: target for target in json.load(file)["targets"]}, result.stdout

    def measure_one(self, *flags, exit_code=0):
        return self.measure(*flags, exit_code=exit_code)[0]["node"]


class MeasuringTest(LatencyTestCase):
    def test_every_kind_of_request_is_answered_rightly(self):
        for flags in (["--mix", "get:80,set:20"],
                      ["--mix", "mget10:2,mset10:2,get,set", "--pipeline", "20"],
                      ["--mix", "get,del:1,del5:1,mget3,incr,ping"],
                      ["--mix", "get,set", "--value-bytes", "8..5000", "--resp", "3"],
                      ["--mix", "mget3,set", "--value-bytes", "100000", "--distribution", "zipf"],
                      ["--mix", "get", "--distribution", "hot", "--rate", "300"],
                      ["--mix", "get,del", "--prefill", "0", "--resp", "3"]):
            with self.subTest(flags=flags):
                self.node.data.clear()
                target = self.measure_one(*flags, "--rounds", "1")
                self.assertEqual((target["wrong"], target["errors"], target["failure"]),
                                 (0, {}, None))
                self.assertEqual(len(target["rounds"]), 1)
                self.assertGreater(target["recorded"], 20)
                self.assertLessEqual(target["recorded"], target["requests"])

    def test_numbers_fit_each_other(self):
        target = self.measure_one("--mix", "get")
        self.assertEqual(target["misses"], 0)
        self.assertEqual(target["hits"], target["requests"])
        self.assertEqual(len(self.node.data), 60)
        for each in target["rounds"] + [target["median"]]:
            order = [each[name] for name in ("p50_ms", "p90_ms", "p99_ms", "p999_ms", "max_ms")]
            self.assertEqual(order, sorted(order))
            self.assertGreater(order[0], 0)
            self.assertGreater(each["requests_per_second"], 0)
        shares = [share for share, _ in target["distribution"]]
        times = [ms for _, ms in target["distribution"]]
        self.assertEqual((shares, times), (sorted(shares), sorted(times)))
        # Three clients without a pipeline: about three requests are in flight at any time, and that
        # is rate × time (Little's law). What the machine does at a window's ends disturbs it.
        for each in target["rounds"]:
            in_flight = each["mean_ms"] / 1000 * each["requests_per_second"]
            self.assertGreater(in_flight, 0.5)
            self.assertLess(in_flight, 4.5)

    def test_processor_time_is_of_the_process_that_listens(self):
        target = self.measure_one("--mix", "get")
        self.assertEqual(target["pids"], [os.getpid()])
        self.assertGreater(target["median"]["target_cpu_us"], 1)
        self.assertIsNone(target["median"]["servers_cpu_us"])
        named, _ = self.measure(
            "--servers-pids", "node=%d" % os.getpid(),
            targets=["--target", "node=%s@%d" % (self.node.address, os.getppid())])
        self.assertEqual(named["node"]["pids"], [os.getppid()])
        self.assertEqual(named["node"]["servers_pids"], [os.getpid()])
        self.assertGreater(named["node"]["median"]["servers_cpu_us"], 1)

    def test_targets_take_turns_each_after_every_other(self):
        order = []
        targets = []
        for name in "abc":
            node = self.start_nodes(1).node(0)
            node.on("GET", lambda _, args, name=name: order.append(name))
            targets += ["--target", "%s=%s" % (name, node.address)]
        found, text = self.measure("--mix", "get", "--rounds", "12", "--seconds", "0.05",
                                   "--reference", "b", targets=targets)
        turns = "".join(name for name, _ in itertools.groupby(order))
        self.assertEqual({before + after for before, after in itertools.pairwise(turns)},
                         {"ab", "ac", "ba", "bc", "ca", "cb"})
        self.assertEqual([len(found[name]["rounds"]) for name in "abc"], [12] * 3)
        self.assertEqual(found["b"]["ratio_median"]["p50_ms"], 1)
        self.assertIn("to b", text)
        self.assertRegex(text, r"\na +[0-9.]+ +[0-9.]+ ")

    def test_a_client_of_a_cluster_asks_each_node_for_its_keys_only(self):
        cluster = self.start_nodes(3)

        def slots(_, args):
            if args[1].upper() != b"SLOTS":
                return None
            ranges, slot = [], 0
            for node, group in itertools.groupby(cluster.slots):
                count = len(list(group))
                ranges.append(array([integer(slot), integer(slot + count - 1), array(
                    [bulk(b"127.0.0.1"), integer(node.port), bulk(node.id.encode()), array([])])]))
                slot += count
            return array(ranges)
        cluster.node(0).on("CLUSTER", slots)
        for clients in ("1", "5"):
            with self.subTest(clients=clients):
                found, _ = self.measure(
                    "--mix", "get:5,mget5,mset5,del2", "--clients", clients, "--pipeline", "4",
                    targets=["--cluster", "direct=" + cluster.node(0).address])
                self.assertEqual((found["direct"]["wrong"], found["direct"]["errors"]), (0, {}))
        for number in range(3):
            for key in cluster.node(number).data:
                self.assertIs(cluster.slots[key_slot(key)], cluster.node(number))
            self.assertTrue(cluster.node(number).data)

    def test_the_page_has_a_curve_for_each_target_and_loads_nothing(self):
        page = os.path.join(self.directory, "page.html")
        other = self.start_nodes(1).node(0)
        self.measure("--html", page, targets=["--target", "a<b=" + self.node.address,
                                              "--target", "other=" + other.address])
        with open(page, encoding="utf-8") as file:
            text = file.read()
        svg = xml.etree.ElementTree.fromstring(text[text.index("<svg"):text.index("</svg>") + 6])
        self.assertEqual(len(svg.findall("polyline")), 2)
        for polyline in svg.findall("polyline"):
            points = [tuple(map(float, point.split(","))) for point in
                      polyline.get("points").split()]
            self.assertEqual([x for x, _ in points], sorted(x for x, _ in points))
            self.assertEqual([y for _, y in points], sorted((y for _, y in points), reverse=True))
        self.assertIn("a&lt;b", text)
        self.assertNotRegex(text, r"(src|href)=|@import|url\(")


class OpenLoopTest(LatencyTestCase):
    def stall_once(self):
        """One reply, 0.4 s after the first, takes 0.6 s longer."""
        begin = []

        def answer(_, args):
            if not begin:
                begin.append(time.monotonic())
            elif len(begin) == 1 and time.monotonic() > begin[0] + 0.4:
                begin.append(None)
                time.sleep(0.6)
        self.node.on("GET", answer)

    def flags(self, *more):
        return ["--mix", "get", "--clients", "1", "--rounds", "1", "--seconds", "1.5", *more]

    def test_what_a_slow_reply_delays_counts_too(self):
        for pipeline in ("1", "1000"):
            with self.subTest(pipeline=pipeline):
                self.setUp()
                self.stall_once()
                target = self.measure_one(*self.flags("--rate", "200", "--pipeline", pipeline))
                # 0.6 s of 1.5 s: the requests due in that time waited for the rest of it.
                self.assertGreater(target["median"]["p90_ms"], 300)
                self.assertGreater(target["median"]["max_ms"], 550)
                self.assertAlmostEqual(target["recorded"], 300, delta=3)

    def test_a_closed_loop_sees_one_slow_reply(self):
        self.stall_once()
        target = self.measure_one(*self.flags())
        self.assertLess(target["median"]["p90_ms"], 300)
        self.assertGreater(target["median"]["max_ms"], 550)

    def test_a_target_that_cannot_keep_up_is_named(self):
        self.node.on("GET", lambda _, args: time.sleep(0.005))
        found, text = self.measure(*self.flags("--rate", "500", "--seconds", "0.8"))
        target = found["node"]
        self.assertIs(target["kept_up"], False)
        self.assertLess(target["median"]["answered_share"], 0.5)
        self.assertIn("node: did not keep up", text)
        target = self.measure_one(
            *self.flags("--rate", "500", "--seconds", "0.8", "--pipeline", "1"))
        self.assertGreater(target["unanswered"], 0)
        # Also those that were never sent.
        self.assertAlmostEqual(target["recorded"], 400, delta=5)

    def test_a_target_that_keeps_up_is_not(self):
        found, text = self.measure(*self.flags("--rate", "100", "--seconds", "1"))
        self.assertIs(found["node"]["kept_up"], True)
        self.assertNotIn("keep up", text)


class FindingTest(LatencyTestCase):
    def plant(self, name, wrongly, every=20):
        """Every 20th command of this name is answered by wrongly(args)."""
        count = itertools.count(1)
        self.node.on(name, lambda _, args: None if next(count) % every else wrongly(args))

    def check_found(self, *flags):
        found, text = self.measure(*flags, exit_code=1)
        self.assertGreater(found["node"]["wrong"], 0)
        self.assertIn("WRONG", text)
        return found["node"]

    def test_a_value_of_another_key(self):
        def other(args):
            return bulk(next(value for key, value in list(self.node.data.items())
                             if key != args[-1]))
        self.plant("GET", other)
        self.check_found("--mix", "get", "--pipeline", "5")

    def test_elements_in_another_order(self):
        self.plant("MGET", lambda args: array([bulk(self.node.data[key])
                                               for key in reversed(args[1:])]))
        self.check_found("--mix", "mget7")

    def test_one_bad_byte_at_the_end_of_a_large_value(self):
        self.plant("GET", lambda args: bulk(self.node.data[args[1]][:-1] + b"?"))
        self.check_found("--mix", "get", "--value-bytes", "50000")

    def test_a_value_that_is_missing(self):
        self.plant("GET", lambda args: b"$-1\r\n")
        target = self.check_found("--mix", "get")
        self.assertGreater(target["misses"], 0)

    def test_a_reply_of_another_kind(self):
        self.plant("SET", lambda args: simple("QUEUED"), every=100)
        self.check_found("--mix", "set")

    def test_a_reply_too_many_ends_the_measurement_of_that_target_only(self):
        other = self.start_nodes(1).node(0)
        self.plant("GET", lambda args: bulk(self.node.data[args[1]]) * 2, every=50)
        found, text = self.measure("--mix", "get", exit_code=1, targets=[
            "--target", "node=" + self.node.address, "--target", "other=" + other.address])
        self.assertGreater(found["node"]["wrong"], 0)
        self.assertIn("node: given up: ", text)
        self.assertEqual((found["other"]["failure"], len(found["other"]["rounds"])), (None, 2))

    def test_error_replies_are_counted_by_kind(self):
        number = itertools.count(1)
        self.plant("GET", lambda args: error("CLUSTERDOWN slot %d is away" % next(number)))
        found, text = self.measure("--mix", "get", exit_code=1)
        self.assertEqual(found["node"]["wrong"], 0)
        self.assertEqual(list(found["node"]["errors"]), ["CLUSTERDOWN slot # is away"])
        self.assertIn("× CLUSTERDOWN slot # is away", text)

    def test_a_connection_that_is_closed(self):
        self.plant("GET", lambda args: Cut(b"$5\r\n12"), every=50)
        found, text = self.measure("--mix", "get", exit_code=1)
        self.assertIn("closed a connection", found["node"]["failure"])
        self.assertIn("node: given up: ", text)

    def test_a_target_that_falls_silent(self):
        gate = threading.Event()
        self.addCleanup(gate.set)
        self.plant("GET", lambda args: (gate.wait(seconds(60)), None)[1], every=50)
        found, _ = self.measure("--mix", "get", "--rounds", "1", "--timeout", "1", exit_code=1)
        self.assertIn("no reply for 1 s", found["node"]["failure"])


class CommandLineTest(LatencyTestCase):
    def test_bad_flags_are_named_in_one_line(self):
        target = ["--target", "a=" + self.node.address]
        for flags in (["--targte", "a=127.0.0.1:1"], ["--target"], ["--target", "127.0.0.1:1"],
                      ["--target", "a=nowhere"], ["--target", "a=127.0.0.1:1@x"],
                      ["--target", "a=127.0.0.1:1@999999999"], target + target,
                      target + ["--reference", "b"], target + ["--servers-pids", "b=1"],
                      target + ["--servers-pids", "a=x"], target + ["--clients", "0"],
                      target + ["--pipeline", "x"], target + ["--rate", "-1"],
                      target + ["--mix", "gett"], target + ["--keys", "0"],
                      target + ["--distribution", "normal"], target + ["--value-bytes", "7"],
                      target + ["--value-bytes", "9..8"], target + ["--resp", "4"],
                      target + ["--rounds", "0"], target + ["--seconds", "0"],
                      target + ["--prefill", "yes"], target + ["--timeout", "0"],
                      target + ["x"], []):
            with self.subTest(flags=flags):
                result = run(LATENCY, *flags)
                self.assertEqual((result.returncode, result.stdout), (2, ""))
                self.assertRegex(result.stderr, r"\Alatency: .*\n\Z")
                if len(flags) > 2:
                    self.assertIn(flags[-2] if flags[-1] != "x" or "--" in flags[-2] else "x",
                                  result.stderr)

    def test_help(self):
        result = run(LATENCY, "--help")
        self.assertEqual((result.returncode, result.stderr), (0, ""))
        for flag in ("--target", "--cluster", "--rate", "--mix", "--json", "--html"):
            self.assertIn(flag, result.stdout)

    def test_nobody_there(self):
        self.node.go_down()
        result = run(LATENCY, "--target", "node=" + self.node.address)
        self.assertEqual((result.returncode, result.stdout), (2, ""))
        self.assertEqual(result.stderr, "latency: node (%s): cannot connect: Connection refused\n"
                         % self.node.address)

    def test_a_node_without_a_cluster(self):
        result = run(LATENCY, "--cluster", "node=" + self.node.address)
        self.assertEqual((result.returncode, result.stdout), (2, ""))
        self.assertIn("does not tell its slots", result.stderr)

    def test_a_file_that_cannot_be_written(self):
        result = run(LATENCY, "--target", "node=" + self.node.address, "--keys", "10", "--rounds",
                     "1", "--seconds", "0.1", "--json", self.directory)
        self.assertEqual(result.returncode, 2)
        self.assertIn("Is a directory", result.stderr)


if __name__ == "__main__":
    unittest.main()
