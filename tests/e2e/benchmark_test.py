"""redis-benchmark against a 3×1 cluster: no error, and afterwards the data are what was written."""

import re
import shutil
import subprocess

from harness import (FULL, RealClusterTestCase, SANITIZED, seconds, unittest)

ALL = "set,get,incr,lpush,rpush,lpop,rpop,sadd,hset,spop,zadd,zpopmin,mset"
LARGE = "set,get,lpush,lpop,mset"
COUNT = 1000000 if FULL else 4000 if SANITIZED else 20000
LARGE_COUNT = 20000 if FULL else 400 if SANITIZED else 2000


class BenchmarkTest(RealClusterTestCase):
    cluster_options = {"primaries": 3, "replicas": 1, "node_timeout_ms": 15000}

    def setUp(self):
        super().setUp()
        if not shutil.which("redis-benchmark"):
            self.skipTest("redis-benchmark is not installed")
        for node in self.cluster.primaries():
            node.command("FLUSHALL", timeout=60)
            node.command("CONFIG", "RESETSTAT")
        self.proxy = self.start_proxy(self.cluster.addresses)

    def benchmark(self, tests, count, *options):
        command = ["redis-benchmark", "-h", "127.0.0.1", "-p", self.proxy.addr.split(":")[1], "-t",
                   tests, "-n", str(count), "--csv", *options]
        result = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, timeout=seconds(800), check=False)
        output = result.stdout.decode(errors="replace")
        self.assertEqual(result.returncode, 0, output[-2000:])
        self.assertNotRegex(output, "(?i)error", output[-2000:])
        return re.findall(r'^"([A-Z]+)[^"]*","[0-9.]+"', output, re.MULTILINE)

    def executed(self):
        """Command → how often the primaries ran it, and how often it failed."""
        calls, failed = {}, {}
        for node in self.cluster.primaries():
            text = node.command("INFO", "commandstats").decode()
            for name, number, bad in re.findall(
                    r"cmdstat_([^:]+):calls=(\d+),.*?failed_calls=(\d+)", text):
                calls[name] = calls.get(name, 0) + int(number)
                failed[name] = failed.get(name, 0) + int(bad)
        return calls, failed

    def check_small(self, *options):
        names = self.benchmark(ALL, COUNT, "-r", "100000", *options)
        for name in ALL.upper().split(","):
            self.assertIn(name, names)
        calls, failed = self.executed()
        for name in ALL.split(","):
            if name == "mset":
                continue  # split over slots
            # redis-benchmark runs LPUSH once more for what its other tests pop.
            self.assertIn(calls[name], range(COUNT, 3 * COUNT), name)
            self.assertEqual(failed[name], 0, name)
        total = 0
        for node in self.cluster.primaries():
            with node.connect(60) as client:
                cursor = b"0"
                while True:
                    cursor, keys = client.call("SCAN", cursor, "MATCH", "counter:*", "COUNT", 10000)
                    # One by one: the node itself refuses keys of several slots.
                    total += sum(int(value) for value in
                                 client.pipeline([("GET", key) for key in keys]))
                    if cursor == b"0":
                        break
        self.assertEqual(total, COUNT)
        metrics = self.proxy.metrics()
        self.assertEqual(metrics["proxy_errors_total"], metrics["refused_requests_total"])
        self.assertEqual(metrics["backend_lost_total"], 0)
        self.assertEqual(metrics["unknown_outcomes_total"], 0)

    def test_50_clients(self):
        self.check_small("-c", "50", "-P", "16")

    def test_500_clients(self):
        self.check_small("-c", "500", "-P", "16")

    def test_resp3(self):
        self.check_small("-c", "50", "-P", "16", "-3")

    def test_without_pipelining(self):
        self.check_small("-c", "50")

    def test_values_of_64_kib(self):
        for test in LARGE.split(","):
            with self.subTest(test=test):
                for node in self.cluster.primaries():
                    node.command("FLUSHALL", timeout=60)
                self.benchmark(test, LARGE_COUNT, "-r", "1000", "-d", "65536", "-c", "50", "-P", "16")
                if test == "set":
                    sizes = set()
                    for node in self.cluster.primaries():
                        with node.connect(60) as client:
                            for key in client.call("KEYS", "key:*"):
                                sizes.add(client.call("STRLEN", key))
                    self.assertEqual(sizes, {65536})
        _, failed = self.executed()
        self.assertEqual({name: failed[name] for name in LARGE.split(",") if failed.get(name)}, {})
        self.assertEqual(self.proxy.metrics()["backend_lost_total"], 0)


if __name__ == "__main__":
    unittest.main()
