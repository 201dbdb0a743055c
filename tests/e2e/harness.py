"""What the end-to-end tests share: which binary, which servers, and the ends of what they start.

From the environment (set by ctest, see CMakeLists.txt):
  RCPROXY_BUILD_DIR     the build whose proxy is tested; RCPROXY_BINARY, if set, wins
  RCPROXY_TIME_FACTOR   how much slower that build is (sanitizers)
  RCPROXY_E2E_SERVER    redis-server or valkey-server, for tests on a real cluster
  RCPROXY_TEST_FULL     set: the large budgets
  RCPROXY_NODE_DIR      where npm put the packages of tools/apps
"""

import os
import shutil
import sys
import tempfile
import threading
import time
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, os.path.join(ROOT, "tools"))
sys.path.insert(0, HERE)
from local_cluster import ClusterError, LocalCluster, key_slot, wait_until  # noqa: E402
from local_proxy import LocalProxy, ProxyError  # noqa: E402
from plain_server import PlainServer  # noqa: E402
from resp_client import ReplyError, RespClient, pack  # noqa: E402
from fake_node import FakeCluster  # noqa: E402

BUILD = os.environ.get("RCPROXY_BUILD_DIR", os.path.join(ROOT, "build", "release"))
BINARY = os.environ.get("RCPROXY_BINARY", os.path.join(BUILD, "rcproxy"))
SERVER = os.environ.get("RCPROXY_E2E_SERVER", "redis-server")
FULL = bool(os.environ.get("RCPROXY_TEST_FULL"))
# Another binary than the build's own is a release.
TIME_FACTOR = (1.0 if "RCPROXY_BINARY" in os.environ else
               float(os.environ.get("RCPROXY_TIME_FACTOR", "1")))
NODE_DIR = os.environ.get("RCPROXY_NODE_DIR", os.path.join(ROOT, "build", "node"))
SANITIZED = TIME_FACTOR > 1
# Words of a sanitizer's report, or of a failed assertion, in the proxy's output.
BUG_WORDS = ("ERROR: AddressSanitizer", "ERROR: LeakSanitizer", "WARNING: ThreadSanitizer",
             "runtime error:", "Assertion", "terminate called")


def seconds(value):
    """A time that an unhindered proxy keeps; longer for a slower build."""
    return value * TIME_FACTOR


def require_server():
    if not shutil.which(SERVER):
        raise unittest.SkipTest("%s is not installed" % SERVER)


def keys_in_slots(count, prefix="k"):
    """`count` keys, each in a slot of its own."""
    keys, slots, number = [], set(), 0
    while len(keys) < count:
        key = "%s%d" % (prefix, number)
        number += 1
        if key_slot(key) not in slots:
            slots.add(key_slot(key))
            keys.append(key)
    return keys


class ProxyTestCase(unittest.TestCase):
    """Starts proxies; after the test each must have ended well and reported no bug."""

    maxDiff = 2000

    def setUp(self):
        if not os.access(BINARY, os.X_OK):
            self.fail("no proxy at %s; build it or set RCPROXY_BINARY" % BINARY)
        self.directory = tempfile.mkdtemp(prefix="rcproxy-e2e-")
        self.addCleanup(shutil.rmtree, self.directory, True)
        self.proxies = 0

    def start_proxy(self, startup_nodes, *flags, wait="ready", expect_exit=0, **options):
        """A proxy that the end of the test stops by SIGTERM and expects to exit with 0."""
        self.proxies += 1
        proxy = LocalProxy(BINARY, os.path.join(self.directory, "proxy-%d" % self.proxies),
                           startup_nodes, flags, **options)
        try:
            proxy.start(wait, seconds(20))
        except ProxyError as error:
            self.fail(str(error))
        self.addCleanup(self.end_proxy, proxy, expect_exit)
        return proxy

    def end_proxy(self, proxy, expect_exit=0):
        """Ends it, unless it has ended, and looks for traces of bugs."""
        try:
            code = proxy.exit_code()
            if code is None:
                code = proxy.stop(seconds(30))
        except ProxyError as error:
            proxy.kill()
            self.fail(str(error))
        log = proxy.log()
        outcome = self._outcome.result
        if any(test is self for test, _ in outcome.failures + outcome.errors):
            lines = [line for line in log.splitlines() if " access " not in line]
            print("\nthe proxy's log ends:\n%s" % "\n".join(lines[-30:]))
        if any(word in log for word in BUG_WORDS):
            self.fail("the proxy reported a bug: %s" % log[-6000:])
        self.assertEqual(code, expect_exit, "exit code; its log ends: %s" % log[-2000:])

    def client(self, proxy, **options):
        options.setdefault("timeout", seconds(20))
        client = proxy.connect(**options)
        self.addCleanup(client.close)
        return client

    def assert_answers_as_a_plain_server(self, proxy, conversations, *arguments):
        """Byte for byte, in RESP2 and RESP3. A conversation: lines, each a command, on one
        connection. arguments: of the server."""
        require_server()
        plain = PlainServer(SERVER, *arguments)
        self.addCleanup(plain.stop)
        for protocol in ([], ["HELLO 3"]):
            for conversation in conversations:
                with plain.connect() as direct, proxy.connect(seconds(20)) as client:
                    for line in protocol:
                        direct.call(*line.split(" "))
                        client.call(*line.split(" "))
                    for line in conversation:
                        self.assertEqual(client.raw(*line.split(" ")), direct.raw(*line.split(" ")),
                                         "%r of %r" % (line, protocol + conversation))

    def assert_error(self, reply, text):
        self.assertIsInstance(reply, ReplyError, "reply %r" % (reply,))
        self.assertEqual(str(reply), text)


class FakeClusterTestCase(ProxyTestCase):
    """Tests on scripted nodes."""

    def start_fakes(self, primaries=3, **options):
        cluster = FakeCluster(primaries, **options)
        self.addCleanup(cluster.close)
        return cluster

    def start_with_fakes(self, *flags, primaries=3, password=None, **options):
        """(cluster, proxy), with one worker so that a log has one order."""
        cluster = self.start_fakes(primaries, password=password)
        proxy = self.start_proxy(cluster.addresses, "--workers", "1", *flags, **options)
        return cluster, proxy


class RealClusterTestCase(ProxyTestCase):
    """Tests on one cluster of real servers, started once for the class."""

    cluster_options = {}

    @classmethod
    def setUpClass(cls):
        require_server()
        cls.cluster = LocalCluster(server=SERVER, **cls.cluster_options).start()

    @classmethod
    def tearDownClass(cls):
        cls.cluster.stop()


class EmptyClusterTestCase(RealClusterTestCase):
    """The cluster has no keys when a test begins, and there are a proxy and a connection to it."""

    def setUp(self):
        super().setUp()
        for node in self.cluster.primaries():
            node.command("FLUSHALL")
        self.proxy = self.start_proxy(self.cluster.addresses)
        self.connection = self.client(self.proxy)

    def fill(self, keys):
        """Strings under these keys; gives the keys as bytes."""
        keys = list(keys)
        replies = self.connection.pipeline([("SET", key, "v") for key in keys])
        self.assertEqual(replies, [b"OK"] * len(keys))
        return {key.encode() if isinstance(key, str) else key for key in keys}


class FreshClusterTestCase(ProxyTestCase):
    """Tests that damage their cluster: each starts its own."""

    def start_cluster(self, **options):
        require_server()
        cluster = LocalCluster(server=SERVER, **options).start()
        self.addCleanup(cluster.stop)
        return cluster


class StallWatch:
    """Tells how long the machine, or this process, did not get on: a thread that sleeps all the
    time notes when it wakes late."""

    TICK = 0.01

    def __init__(self):
        self.stalls = []  # (begin, end)
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        before = time.monotonic()
        while not self.stopping.wait(self.TICK):
            now = time.monotonic()
            if now - before > 5 * self.TICK:
                self.stalls.append((before, now))
            before = now

    def stop(self):
        self.stopping.set()
        self.thread.join()

    def lost(self, begin, end):
        """Seconds within this time."""
        return sum(max(0.0, min(end, late) - max(begin, early)) for early, late in self.stalls)


class Background(threading.Thread):
    """Runs work(stop_event) beside the test; join_or_raise() gives its result or its error."""

    def __init__(self, work, begin=True):
        super().__init__(daemon=True)
        self.work = work
        self.stopping = threading.Event()
        self.result = None
        self.error = None
        if begin:
            self.start()

    def run(self):
        try:
            self.result = self.work(self.stopping)
        except BaseException as error:  # pylint: disable=broad-except
            self.error = error

    def stop(self, timeout=60.0):
        self.stopping.set()
        return self.join_or_raise(timeout)

    def join_or_raise(self, timeout=60.0):
        self.join(timeout)
        if self.is_alive():
            raise TimeoutError("still working after %g s" % timeout)
        if self.error is not None:
            raise self.error
        return self.result


__all__ = ["BINARY", "Background", "ClusterError", "EmptyClusterTestCase", "FULL", "FakeCluster",
           "FakeClusterTestCase", "FreshClusterTestCase", "HERE", "LocalCluster", "LocalProxy", "NODE_DIR", "ProxyError", "ProxyTestCase", "ROOT",
           "RealClusterTestCase", "ReplyError", "RespClient", "SANITIZED", "SERVER", "StallWatch", "TIME_FACTOR",
           "key_slot", "keys_in_slots", "pack", "require_server", "seconds", "time", "unittest",
           "wait_until"]
