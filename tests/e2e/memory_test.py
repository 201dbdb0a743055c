"""Large values are not copied on their way, and memory stays within its configured bound."""

import hashlib

from harness import (Background, FULL, RealClusterTestCase, ReplyError, SANITIZED, key_slot, seconds,
                     time, unittest, wait_until)

MIB = 1 << 20
SLOW_CLIENTS = 100
VALUE_MIB = 64 if FULL else 16
LIMIT_MIB = 512 if FULL else 192


class PayloadTest(RealClusterTestCase):
    cluster_options = {"replicas": 0}

    def share_copied(self, proxy, work):
        before = proxy.metrics()
        work()
        after = proxy.metrics()
        forwarded = after["payload_bytes_forwarded"] - before["payload_bytes_forwarded"]
        copied = after["payload_bytes_copied"] - before["payload_bytes_copied"]
        return copied / forwarded, forwarded

    def test_at_most_one_hundredth_of_large_payloads_is_copied(self):
        proxy = self.start_proxy(self.cluster.addresses)
        client = self.client(proxy, timeout=seconds(60))
        for size in (4 << 10, 5000, 16 << 10, 64 << 10, 65 << 10, 300 << 10, MIB, 8 * MIB):
            value = hashlib.sha256(b"%d" % size).digest() * (size // 32) + b"x" * (size % 32)
            count = max(4, min(200, 32 * MIB // size))
            pipelined = max(1, min(16, MIB // size))

            def write():
                for number in range(0, count, pipelined):
                    replies = client.pipeline([("SET", "c%d:%d" % (size, number + index), value)
                                               for index in range(pipelined)])
                    self.assertEqual(replies, [b"OK"] * pipelined)

            def read():
                for number in range(0, count, pipelined):
                    replies = client.pipeline([("GET", "c%d:%d" % (size, number + index))
                                               for index in range(pipelined)])
                    self.assertEqual([len(reply) for reply in replies], [size] * pipelined)

            for name, work in (("SET", write), ("GET", read)):
                with self.subTest(command=name, size=size):
                    share, forwarded = self.share_copied(proxy, work)
                    self.assertGreaterEqual(forwarded, size * count)
                    self.assertLess(forwarded, 2 * size * count + 4096 * count)
                    self.assertLessEqual(share, 0.01)
            client.pipeline([("DEL", "c%d:%d" % (size, number)) for number in range(count)])


class SlowReadersTest(RealClusterTestCase):
    cluster_options = {"replicas": 0}

    def put(self, key, size):
        block = b"".join(b"%015x\n" % number for number in range(4096))
        value = block * (size // len(block))
        with self.cluster.owner(key_slot(key)).connect(60) as direct:
            direct.call("SET", key, value)
        return value

    @unittest.skipIf(SANITIZED, "a sanitizer's own memory is not what is measured")
    def test_100_clients_that_read_large_values_slowly(self):
        proxy = self.start_proxy(self.cluster.addresses, "--memory-limit", "%dmb" % LIMIT_MIB)
        keys = ["slow%d" % number for number in range(6)]
        value = None
        for key in keys:
            value = self.put(key, VALUE_MIB * MIB)
        expected = b"$%d\r\n" % len(value) + value + b"\r\n"
        base = proxy.memory_kib("VmRSS")
        clients = []
        for number in range(SLOW_CLIENTS):
            client = self.client(proxy, receive_buffer=64 << 10, timeout=seconds(60))
            client.send("GET", keys[number % len(keys)])
            clients.append(client)

        # Each takes 64 KiB a turn; the others' commands go on meanwhile.
        received = [0] * SLOW_CLIENTS
        ended = [False] * SLOW_CLIENTS
        brisk = self.client(proxy, timeout=seconds(20))
        deadline = time.monotonic() + (60 if FULL else 15)
        while time.monotonic() < deadline:
            for number, client in enumerate(clients):
                if ended[number]:
                    continue
                client.socket.settimeout(0.01)
                try:
                    data = client.socket.recv(64 << 10)
                except TimeoutError:
                    continue
                except ConnectionError:
                    data = b""
                if not data:
                    ended[number] = True
                    continue
                self.check_piece(expected, received[number], data)
                received[number] += len(data)
            begin = time.monotonic()
            self.assertEqual(brisk.command("PING"), b"PONG")
            reply = brisk.command("SET", "brisk", "v")
            if isinstance(reply, ReplyError):
                self.assertEqual(str(reply), "OOM proxy memory limit (not executed)")
            self.assertLess(time.monotonic() - begin, seconds(6))
            self.assert_bounded(proxy, base)

        def drain(number):
            def run(_):
                client = clients[number]
                client.socket.settimeout(seconds(60))
                while received[number] < len(expected) and not ended[number]:
                    try:
                        data = client.socket.recv(MIB)
                    except ConnectionError:
                        data = b""
                    if not data:
                        ended[number] = True
                        return
                    self.check_piece(expected, received[number], data)
                    received[number] += len(data)
            return run
        for worker in [Background(drain(number)) for number in range(SLOW_CLIENTS)]:
            worker.join_or_raise(seconds(120))
        self.assert_bounded(proxy, base)
        whole = sum(1 for count in received if count == len(expected))
        print("%d of %d got all, peak %d MiB over %d MiB, limit %d MiB" % (
            whole, SLOW_CLIENTS, (proxy.memory_kib("VmHWM") - base) >> 10, base >> 10, LIMIT_MIB))
        self.assertGreater(whole, 0)
        for client in clients:
            client.close()
        # All is given back, and it serves as before.
        wait_until(lambda: proxy.metrics()["charged_bytes"] < MIB, "no bytes to be charged",
                   seconds(20))
        self.assertEqual(self.client(proxy).command("SET", "brisk", "v"), b"OK")

    def check_piece(self, expected, at, data):
        if memoryview(expected)[at:at + len(data)] != data:
            self.fail("wrong bytes at %d: %r" % (at, data[:60]))

    def assert_bounded(self, proxy, base):
        peak = (proxy.memory_kib("VmHWM") - base) >> 10
        self.assertLess(peak, 1.25 * LIMIT_MIB + 64, "resident memory grew by %d MiB" % peak)
        charged = proxy.metrics()["charged_bytes"]
        self.assertLessEqual(charged, 1.05 * LIMIT_MIB * MIB)

    @unittest.skipIf(SANITIZED, "a sanitizer's own memory is not what is measured")
    def test_idle_clients_cost_little(self):
        count = 2000
        proxy = self.start_proxy(self.cluster.addresses)
        base = proxy.memory_kib("VmRSS")
        clients = []
        for _ in range(count):
            client = self.client(proxy)
            clients.append(client)
        for client in clients:
            client.send("PING")
        for client in clients:
            self.assertEqual(client.read(), b"PONG")
        grown = proxy.memory_kib("VmRSS") - base
        print("%d KiB for %d idle clients" % (grown, count))
        self.assertLess(grown, count * 20)  # 200 MiB for 10,000
        for client in clients:
            client.close()


if __name__ == "__main__":
    unittest.main()
