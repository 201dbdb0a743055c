"""From the command line to the last reply: flags, files, addresses, readiness, drain, exit codes."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading

from fake_node import Hold, simple
from harness import (BINARY, Background, FakeClusterTestCase, HERE, ROOT, ReplyError, SANITIZED, pack,
                     seconds, time, unittest, wait_until)
from local_proxy import choose_port

FORBID = [sys.executable, os.path.join(HERE, "forbid_io_uring.py")]


class FlagsTest(FakeClusterTestCase):
    def run_proxy(self, *arguments, launcher=()):
        """(exit code, output lines, error lines) of a proxy that is to end by itself."""
        result = subprocess.run([*launcher, BINARY, *arguments], stdin=subprocess.DEVNULL,
                                capture_output=True, text=True, timeout=seconds(20), check=False)
        return result.returncode, result.stdout.splitlines(), result.stderr.splitlines()

    def assert_refused(self, *arguments, names, launcher=()):
        """Exit code 2, and one line that has all of `names`."""
        code, output, errors = self.run_proxy(*arguments, launcher=launcher)
        self.assertEqual(code, 2, (output, errors))
        self.assertEqual(len(errors), 1, errors)
        self.assertEqual(output, [])
        for name in names:
            self.assertIn(name, errors[0])

    def test_help_names_every_flag_with_its_default(self):
        code, output, errors = self.run_proxy("--help")
        self.assertEqual((code, errors), (0, []))
        text = "\n".join(output)
        for flag in ("addr", "startup-nodes", "connect-timeout", "reply-timeout",
                     "slow-reply-timeout", "slots-reload-interval", "hold-timeout", "log-level",
                     "log-file", "log-every-n", "backend-idle-connections", "backend-connections",
                     "private-connections", "block-commands", "allow-commands",
                     "read-prefer", "debug-addr", "workers", "backend-username",
                     "backend-password-file", "requirepass-file", "config", "max-clients",
                     "memory-limit", "max-args", "max-bulk-bytes", "max-client-requests",
                     "max-client-output", "tracking-table-max-keys", "drain-timeout", "ring-entries", "zero-copy-send",
                     "zero-copy-min-bytes", "disable-feature", "pin", "busy-poll", "batch-wait", "sqpoll",
                     "help", "version"):
            self.assertIn("--" + flag, text)
        for default in ("0.0.0.0:8088", "127.0.0.1:7001", "250ms", "5s", "30s", "3s", "100"):
            self.assertIn(default, text)

    def test_the_readme_has_every_flag_with_its_default(self):
        with open(os.path.join(ROOT, "README.md"), encoding="utf-8") as file:
            readme = file.read()
        # "  --name VALUE   what (default …)", or the second half on the next line.
        text = "\n".join(self.run_proxy("--help")[1])
        flags = re.findall(r"^  --([a-z-]+)[^\n]*?(?:\n [^-\n]*)?\(default ([^\n]*)\)$", text,
                           re.MULTILINE)
        self.assertGreater(len(flags), 30)
        for flag, default in flags:
            row = re.search(r"^\| `--%s` \| ([^|]*) \|" % flag, readme, re.MULTILINE)
            self.assertTrue(row, "README.md lacks --%s" % flag)
            if flag != "workers":  # one a CPU
                self.assertEqual(row.group(1).strip("`"), default, "--" + flag)

    def test_version(self):
        code, output, errors = self.run_proxy("--version")
        self.assertEqual((code, errors), (0, []))
        self.assertRegex("\n".join(output), r"^rcproxy \d+\.\d+\.\d+")

    def test_bad_values_get_one_line_that_names_the_flag(self):
        for flag, value in (
                ("--addr", "nonsense"), ("--addr", "127.0.0.1:99999"), ("--addr", "unix:"),
                ("--startup-nodes", "host"), ("--startup-nodes", ""), ("--connect-timeout", "soon"),
                ("--connect-timeout", "5"), ("--connect-timeout", "-1s"), ("--workers", "0"),
                ("--workers", "x"), ("--workers", "-1"), ("--read-prefer", "3"),
                ("--log-level", "loud"), ("--log-every-n", "x"), ("--max-clients", "0"),
                ("--memory-limit", "1 potato"), ("--max-bulk-bytes", "x"),
                ("--ring-entries", "1"), ("--requirepass-file", "/nonexistent/file"),
                ("--backend-password-file", "/nonexistent/file"), ("--debug-addr", "x"),
                ("--disable-feature", "nosuch"), ("--hold-timeout", "1x"),
                ("--cluster-face-address", "x"),
                ("--cluster-face-address", "127.0.0.1:1"), ("--cluster-face-nodes", "x:1,"),
                ("--cluster-face-nodes", "x:1"), ("--block-commands", "nosuch"),
                ("--block-commands", "keys,nosuch,get"), ("--allow-commands", "nosuch"),
                ("--allow-commands", "get"), ("--allow-commands", "shutdown"),
                ("--allow-commands", "save,"), ("--block-commands", ""),
                ("--config", "/nonexistent/file"), ("--log-file", "/nonexistent/dir/file")):
            with self.subTest(flag=flag, value=value):
                self.assert_refused(flag, value, "--startup-nodes", "127.0.0.1:1", "--addr",
                                    "127.0.0.1:%d" % choose_port(), names=[flag])

    def test_unknown_flags_and_missing_values(self):
        self.assert_refused("--nosuch", names=["--nosuch"])
        self.assert_refused("nosuch", names=["nosuch"])
        self.assert_refused("--addr", names=["--addr"])

    def test_a_port_in_use_is_refused_at_once(self):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen(1)
            address = "127.0.0.1:%d" % taken.getsockname()[1]
            begin = time.monotonic()
            self.assert_refused("--addr", address, "--startup-nodes", "127.0.0.1:1",
                                names=[address, "in use"])
            self.assert_refused("--addr", "127.0.0.1:%d" % choose_port(), "--debug-addr", address,
                                "--startup-nodes", "127.0.0.1:1", names=[address, "in use"])
            self.assertLess(time.monotonic() - begin, seconds(4))

    def test_an_address_of_another_machine_is_refused(self):
        self.assert_refused("--addr", "192.0.2.1:8088", "--startup-nodes", "127.0.0.1:1",
                            names=["192.0.2.1:8088"])

    def test_a_secret_is_never_in_a_message(self):
        path = os.path.join(self.directory, "config.toml")
        with open(path, "w", encoding="utf-8") as file:
            file.write('requirepass = "the secret"\n')
        code, output, errors = self.run_proxy("--config", path)
        self.assertEqual(code, 2)
        self.assertNotIn("the secret", "\n".join(output + errors))

    @unittest.skipIf(SANITIZED, "the sanitizer's run-time has system calls of its own")
    def test_h8_forbidden_io_uring_is_one_line_with_cause_and_remedy(self):
        for name in ("EPERM", "ENOSYS"):
            with self.subTest(errno=name):
                self.assert_refused("--addr", "127.0.0.1:%d" % choose_port(), "--startup-nodes",
                                    "127.0.0.1:1", launcher=FORBID + [name], names=["io_uring"])


class ConfigFileTest(FakeClusterTestCase):
    def write(self, text):
        path = os.path.join(self.directory, "rcproxy.toml")
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        return path

    def test_the_file_has_the_flags_names_and_flags_win(self):
        cluster = self.start_fakes()
        path = self.write('startup-nodes = ["%s"]\nworkers = 1\nlog-level = "warn"\n'
                          'max-client-requests = 17\nmax-args = 3\n' % cluster.addresses[0])
        # LocalProxy gives --addr, --debug-addr and --startup-nodes as flags.
        proxy = self.start_proxy(cluster.addresses, "--config", path, "--log-level", "info")
        client = self.client(proxy)
        self.assertEqual(client.command("SET", "k", "v"), b"OK")
        self.assertEqual(proxy.http("/loglevel")[1].strip(), "info")
        client.send_raw(b"*4\r\n")
        self.assert_error(client.read(), "ERR Protocol error: invalid multibulk length")

    def test_a_bad_file_is_named_with_the_place(self):
        for text, names in (("workers = 0\n", ["workers"]), ("workers = \"x\"\n", ["workers"]),
                            ("nosuch = 1\n", ["nosuch"]), ("workers = \n", ["rcproxy.toml"]),
                            ("\n\nworkers = -3\n", ["workers", ":3"])):
            path = self.write(text)
            result = subprocess.run([BINARY, "--config", path], stdin=subprocess.DEVNULL,
                                    capture_output=True, text=True, timeout=seconds(20),
                                    check=False)
            with self.subTest(text=text):
                self.assertEqual(result.returncode, 2, result.stderr)
                self.assertEqual(len(result.stderr.splitlines()), 1, result.stderr)
                for name in names + ["rcproxy.toml"]:
                    self.assertIn(name, result.stderr)


class AddressesTest(FakeClusterTestCase):
    def test_several_addresses(self):
        cluster = self.start_fakes()
        path = os.path.join(self.directory, "s.sock")
        first, second = choose_port(), choose_port()
        proxy = self.start_proxy(cluster.addresses, "--addr", "unix:" + path,
                                 addr="127.0.0.1:%d,127.0.0.1:%d" % (first, second))
        for address in ("127.0.0.1:%d" % first, "127.0.0.1:%d" % second, "unix:" + path):
            proxy.addr = address
            self.assertEqual(self.client(proxy).command("SET", "k", "v"), b"OK")

    def test_l1_the_client_over_the_limit_is_told_and_closed(self):
        cluster, proxy = self.start_with_fakes("--max-clients", "3")
        clients = [self.client(proxy) for _ in range(3)]
        for client in clients:
            self.assertEqual(client.command("PING"), b"PONG")
        surplus = self.client(proxy)
        self.assertEqual(surplus.read_to_end(), b"-ERR max number of clients reached\r\n")
        clients.pop().close()

        def place_free():
            with proxy.connect() as client:
                try:
                    return client.command("PING") == b"PONG"
                except ConnectionError:
                    return False
        wait_until(place_free, "the place to be free", seconds(5))
        self.assertGreaterEqual(proxy.metrics()["clients_refused_total"], 1)

    def test_log_file_and_access_lines(self):
        cluster = self.start_fakes()
        path = os.path.join(self.directory, "log")
        proxy = self.start_proxy(cluster.addresses, "--workers", "1", "--log-file", path,
                                 "--log-every-n", "10")
        client = self.client(proxy)
        client.pipeline([("SET", "some-key%d" % number, "hidden-value") for number in range(100)])
        self.assertEqual(proxy.stop(), 0)
        with open(path, encoding="utf-8") as file:
            log = file.read()
        self.assertNotIn("hidden-value", log)
        lines = [line for line in log.splitlines() if "SET" in line or "set" in line]
        self.assertEqual(len(lines), 10, log)


class DebugAddressTest(FakeClusterTestCase):
    def test_health_readiness_metrics_and_log_level(self):
        cluster, proxy = self.start_with_fakes()
        self.assertEqual(proxy.http("/healthz")[0], 200)
        self.assertEqual(proxy.http("/readyz")[0], 200)
        self.assertEqual(proxy.http("/nosuch")[0], 404)
        before = proxy.metrics()
        client = self.client(proxy)
        client.pipeline([("SET", "k", "v")] * 10 + [("PING",)] * 5)
        after = proxy.metrics()
        self.assertEqual(after["requests_total"] - before["requests_total"], 15)
        self.assertEqual(after["local_requests_total"] - before["local_requests_total"], 5)
        self.assertEqual(after["backend_replies_total"] - before["backend_replies_total"], 10)
        self.assertEqual(after["clients"], 1)
        self.assertEqual(after["cluster_nodes"], 3)
        self.assertEqual(after["cluster_slots_covered"], 16384)
        self.assertEqual(proxy.http("/loglevel")[1].strip(), "info")
        self.assertEqual(proxy.http("/loglevel?level=debug", "PUT")[0], 200)
        self.assertEqual(proxy.http("/loglevel")[1].strip(), "debug")
        self.assertEqual(proxy.http("/loglevel?level=nosuch", "PUT")[0], 400)
        text = proxy.http("/metrics")[1]
        for line in text.splitlines():
            if not line.startswith("#"):
                self.assertRegex(line, r"^(rcproxy|process)_[a-z_0-9]+(\{[^}]*\})? [-+0-9.e]+$")

    def test_nothing_is_left_of_clients_that_went(self):
        cluster, proxy = self.start_with_fakes()
        base = proxy.descriptors()
        for _ in range(5):
            clients = [self.client(proxy) for _ in range(50)]
            for client in clients:
                client.send_raw(pack("SET", "k", "v") * 20)
                # Away with requests in flight and replies unread: a reset.
                client.close()
        wait_until(lambda: proxy.metrics()["clients"] == 0, "the clients to be gone", seconds(10))
        wait_until(lambda: proxy.descriptors() <= base + 4, "the descriptors to be closed",
                   seconds(10))
        wait_until(lambda: proxy.metrics()["requests_in_flight"] == 0, "no request in flight",
                   seconds(10))
        wait_until(lambda: proxy.metrics()["charged_bytes"] == 0, "no byte to be charged",
                   seconds(10))


class DrainTest(FakeClusterTestCase):
    def test_h4_sigterm_under_load_loses_nothing(self):
        cluster = self.start_fakes()
        proxy = self.start_proxy(cluster.addresses)

        def work(number):
            def run(_):
                """Pipelines until the proxy closes; every whole request sent before is answered."""
                answered = 0
                client = proxy.connect(timeout=seconds(30))
                try:
                    while True:
                        batch = b"".join(pack("INCR", "{%d}n" % number) for _ in range(20))
                        try:
                            client.send_raw(batch)
                        except OSError:
                            return answered  # closed between two batches
                        for turn in range(20):
                            try:
                                reply = client.read()
                            except (ConnectionError, OSError):
                                # The end: nothing within a reply, nothing after a gap.
                                return answered
                            if isinstance(reply, ReplyError):
                                raise AssertionError("INCR gave %s" % reply)
                            answered += 1
                            if reply != answered:
                                raise AssertionError("%d instead of %d" % (reply, answered))
                finally:
                    client.close()
            return Background(run)

        workers = [work(number) for number in range(8)]
        wait_until(lambda: proxy.metrics()["requests_total"] > 5000, "the load", seconds(20))
        begin = time.monotonic()
        self.assertEqual(proxy.stop(seconds(15)), 0)
        self.assertLess(time.monotonic() - begin, seconds(8))
        for number, worker in enumerate(workers):
            answered = worker.join_or_raise(seconds(30))
            executed = int(cluster.owner("{%d}n" % number).data[b"{%d}n" % number])
            # What ran was answered: no reply is lost.
            self.assertEqual(answered, executed)

    def test_a_request_that_waits_for_its_node_is_answered_before_the_end(self):
        cluster, proxy = self.start_with_fakes()
        release = threading.Event()
        self.addCleanup(release.set)
        cluster.owner("k").on("SET", Hold(release, simple("OK")), times=1)
        client, idle = self.client(proxy), self.client(proxy)
        client.send("SET", "k", "v")
        cluster.wait_for(lambda: cluster.logged("SET"))
        proxy.process.send_signal(signal.SIGTERM)
        # An idle client is closed at once, the listener too.
        self.assertEqual(idle.read_to_end(), b"")

        def refused():
            try:
                proxy.connect(timeout=1).close()
                return False
            except OSError:
                return True
        wait_until(refused, "the listener to be closed", seconds(5))
        self.assertIsNone(proxy.exit_code())
        release.set()
        self.assertEqual(client.read_to_end(), b"+OK\r\n")
        self.assertEqual(proxy.wait(seconds(10)), 0)

    def test_over_the_limit_it_is_forced_and_says_so(self):
        cluster, proxy = self.start_with_fakes("--drain-timeout", "300ms", expect_exit=1)
        release = threading.Event()
        self.addCleanup(release.set)
        cluster.owner("k").on("SET", Hold(release, simple("OK")))
        client = self.client(proxy)
        client.send("SET", "k", "v")
        cluster.wait_for(lambda: cluster.logged("SET"))
        begin = time.monotonic()
        proxy.process.send_signal(signal.SIGTERM)
        self.assertEqual(proxy.wait(seconds(10)), 1)
        self.assertGreaterEqual(time.monotonic() - begin, 0.25)
        self.assertLess(time.monotonic() - begin, seconds(4))

    def test_a_second_signal_ends_it_at_once(self):
        for first, second in ((signal.SIGTERM, signal.SIGTERM), (signal.SIGINT, signal.SIGTERM),
                              (signal.SIGTERM, signal.SIGINT)):
            cluster, proxy = self.start_with_fakes("--drain-timeout", "60s", expect_exit=1)
            release = threading.Event()
            self.addCleanup(release.set)
            cluster.owner("k").on("SET", Hold(release, simple("OK")))
            client = self.client(proxy)
            client.send("SET", "k", "v")
            cluster.wait_for(lambda cluster=cluster: cluster.logged("SET"))
            proxy.process.send_signal(first)
            # The first signal has been taken once the listener is closed.
            wait_until(lambda proxy=proxy: self.is_refused(proxy), "the drain", seconds(5))
            begin = time.monotonic()
            proxy.process.send_signal(second)
            self.assertEqual(proxy.wait(seconds(10)), 1)
            self.assertLess(time.monotonic() - begin, seconds(2))
            release.set()

    @staticmethod
    def is_refused(proxy):
        try:
            proxy.connect(timeout=1).close()
            return False
        except OSError:
            return True

    def test_sigint_ends_an_idle_proxy_well(self):
        _, proxy = self.start_with_fakes()
        proxy.process.send_signal(signal.SIGINT)
        self.assertEqual(proxy.wait(seconds(10)), 0)

    def test_sigterm_before_a_topology_was_found(self):
        proxy = self.start_proxy(["127.0.0.1:1"], wait="alive")
        client = self.client(proxy)
        self.assertEqual(client.command("PING"), b"PONG")
        begin = time.monotonic()
        self.assertEqual(proxy.stop(seconds(15)), 0)
        self.assertLess(time.monotonic() - begin, seconds(3))

    def test_sigpipe_and_sighup_do_not_end_it(self):
        _, proxy = self.start_with_fakes()
        client = self.client(proxy)
        proxy.process.send_signal(signal.SIGPIPE)
        self.assertEqual(client.command("SET", "k", "v"), b"OK")

    def test_a_slow_reader_gets_its_reply_during_a_drain(self):
        cluster, proxy = self.start_with_fakes()
        value = b"0123456789abcdef" * (1 << 18)  # 4 MiB
        client = self.client(proxy, receive_buffer=4096)
        client.call("SET", "k", value)
        client.send("GET", "k")
        cluster.wait_for(lambda: cluster.logged("GET"))
        proxy.process.send_signal(signal.SIGTERM)
        self.assertEqual(client.read(), value)
        self.assertEqual(client.read_to_end(), b"")
        self.assertEqual(proxy.wait(seconds(15)), 0)


class FeaturesTest(FakeClusterTestCase):
    """Row H10: without each feature of io_uring it serves all the same."""

    def features(self):
        """All that the proxy says it can do without."""
        result = subprocess.run([BINARY, "--disable-feature", "nosuch"], stdin=subprocess.DEVNULL,
                                capture_output=True, text=True, timeout=seconds(20), check=False)
        self.assertEqual(result.returncode, 2, result.stderr)
        names = result.stderr.rstrip().partition("'nosuch' is not one of ")[2].split(", ")
        self.assertIn("multishot_recv", names)
        return names

    def serve(self, proxy):
        client, other = self.client(proxy), self.client(proxy)
        value = b"0123456789abcdef" * (1 << 15)
        for turn in range(3):
            replies = client.pipeline([("SET", "k%d" % number, number) for number in range(200)] +
                                      [("SET", "large", value), ("GET", "large")] +
                                      [("GET", "k%d" % number) for number in range(200)])
            self.assertEqual(replies, [b"OK"] * 201 + [value] +
                             [b"%d" % number for number in range(200)])
            self.assertEqual(other.command("MGET", "k1", "k2", "k3"), [b"1", b"2", b"3"])
            del turn

    def test_h10_without_each_feature(self):
        cluster = self.start_fakes()
        for feature in self.features():
            with self.subTest(feature=feature):
                proxy = self.start_proxy(cluster.addresses, "--disable-feature", feature)
                self.serve(proxy)
                self.assertEqual(proxy.stop(seconds(15)), 0)

    def test_h10_without_any(self):
        cluster = self.start_fakes()
        proxy = self.start_proxy(cluster.addresses, "--disable-feature", ",".join(self.features()))
        self.serve(proxy)

    def test_zero_copy_send(self):
        cluster = self.start_fakes()
        proxy = self.start_proxy(cluster.addresses, "--zero-copy-send",
                                 "--zero-copy-min-bytes", "4kb")
        self.serve(proxy)

    def test_many_workers(self):
        cluster = self.start_fakes()
        proxy = self.start_proxy(cluster.addresses, "--workers", "4")
        clients = [self.client(proxy) for _ in range(8)]
        for client in clients:
            self.assertEqual(client.command("SET", "k", "v"), b"OK")
        self.serve(proxy)

    def test_waiting_for_more(self):
        cluster = self.start_fakes()
        proxy = self.start_proxy(cluster.addresses, "--workers", "1", "--batch-wait", "10ms")
        self.serve(proxy)
        clients = [self.client(proxy) for _ in range(24)]
        for turn in range(20):
            for number, client in enumerate(clients):
                client.send("SET", "k%d" % number, turn)
                client.send("GET", "k%d" % number)
            for client in clients:
                self.assertEqual([client.read(), client.read()], [b"OK", b"%d" % turn])

    def test_processors_for_itself(self):
        cluster = self.start_fakes()
        proxy = self.start_proxy(cluster.addresses, "--workers", "2", "--pin",
                                 "--busy-poll", "50us", "--sqpoll")
        self.serve(proxy)
        self.assertIn(" sqpoll=1", proxy.log())
        # The worker's own CPU, of all that the process has.
        tasks = "/proc/%d/task" % proxy.process.pid
        cpus = {}
        for task in os.listdir(tasks):
            with open(os.path.join(tasks, task, "comm"), encoding="ascii") as file:
                name = file.read().strip()
            if re.fullmatch(r"rcproxy-w\d", name):
                cpus[name] = os.sched_getaffinity(int(task))
        self.assertEqual(sorted(cpus), ["rcproxy-w0", "rcproxy-w1"])
        self.assertEqual([len(affinity) for affinity in cpus.values()], [1, 1])
        if len(os.sched_getaffinity(0)) > 1:
            self.assertNotEqual(cpus["rcproxy-w0"], cpus["rcproxy-w1"])

    def test_h9_little_locked_memory(self):
        cluster = self.start_fakes()
        launcher = ["/usr/bin/env", "bash", "-c", 'ulimit -l 64; exec "$@"', "bash"]
        proxy = self.start_proxy(cluster.addresses, "--zero-copy-send", launcher=launcher)
        self.serve(proxy)


if __name__ == "__main__":
    unittest.main()
