"""The same random requests to one plain server and, through the proxy, to a cluster: the same
replies, by tools/differential."""

import os
import random
import re
import subprocess
import sys

from harness import BINARY, FULL, ROOT, SANITIZED, SERVER, require_server, seconds, unittest
from command_table import servers
from command_table.table import over_slots
from differ.requests import Generator


def command(name, *arguments):
    """What a server might say of it."""
    return servers.Command([name.lower(), -1, [], 0, 0, 0, [], [], [], []],
                           {"group": "server", "arguments": list(arguments)})


class GeneratorTest(unittest.TestCase):
    def words_of(self, name, *arguments):
        """All arguments of many requests."""
        generator = Generator(random.Random(1), {name: command(name, *arguments)}, frozenset(),
                              lambda number: 2)
        return [word for _ in range(5000) for word in generator.by_tree(name).args]

    def test_what_a_server_writes_into_an_error_as_it_is_ends_no_line(self):
        text = ["name", "library-name-pattern", "type", "string"]
        words = self.words_of("FUNCTION|LIST", text + ["token", "LIBRARYNAME"],
                              ["name", "withcode", "type", "pure-token", "token", "WITHCODE"])
        self.assertIn(b"hello", words)
        self.assertFalse([word for word in words if b"\r" in word or b"\n" in word])
        # Of others such bytes are wanted.
        self.assertIn(b"\r\n", self.words_of("ECHO", text))


class DifferentialTest(unittest.TestCase):
    def setUp(self):
        require_server()

    def differential(self, *flags):
        ran = subprocess.run(
            [sys.executable, os.path.join(ROOT, "tools", "differential"), "--server", SERVER,
             "--proxy", BINARY, *flags],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            timeout=seconds(800), check=False)
        return ran.returncode, ran.stdout

    def test_the_proxy_answers_as_one_server_does(self):
        count = 1000000 if FULL else 10000 if SANITIZED else 40000
        code, output = self.differential("--commands", str(count))
        print(output)
        self.assertEqual(code, 0, output)
        self.assertIn("\ndifferences: 0\n", output)
        self.assertNotIn("never asked", output)

    def test_monitor_shows_what_one_server_does(self):
        code, output = self.differential("--commands", "5000", "--monitor", "--seed", "3")
        self.assertEqual(code, 0, output)
        self.assertIn("\ndifferences: 0\n", output)

    def test_all_data_is_the_same_on_the_way(self):
        code, output = self.differential("--commands", "4000", "--data-every", "400", "--seed", "4")
        self.assertEqual(code, 0, output)
        self.assertIn("\ndifferences: 0\n", output)

    def test_over_slots_the_proxy_answers_as_one_server_does(self):
        names = sorted(over_slots()) + (
            "DEL GET SET SADD SREM SCARD SMEMBERS ZADD ZCARD ZSCORE ZRANGE PFADD EXISTS TYPE"
            " PEXPIRE PEXPIRETIME PERSIST XADD XRANGE HSET HGETALL LRANGE RPUSH").split()
        count = 300000 if FULL else 8000 if SANITIZED else 30000
        code, output = self.differential("--cross-slot", "--commands", str(count), "--only",
                                         ",".join(names))
        print(output)
        self.assertEqual(code, 0, output)
        self.assertIn("\ndifferences: 0\n", output)
        self.assertNotIn("keys in several slots", output)

    def test_a_difference_is_found_shown_and_brought_again(self):
        # A proxy that takes no more than 9 arguments.
        flags = ("--proxy-flag=--max-args=9", "--seed", "5")
        code, output = self.differential(*flags, "--commands", "5000")
        self.assertEqual(code, 1, output)
        first = re.search(r"(--- difference 1, seed 5, .*?  again: )(.*?)\n", output, re.S)
        self.assertIsNotNone(first, output)
        again = first.group(2).split()[1:]
        code, repeated = self.differential(*flags, *again)
        self.assertEqual(code, 1, repeated)
        at = first.group(1).index("\n  > ")
        self.assertIn(first.group(1)[at:].split("\n")[1], repeated)


if __name__ == "__main__":
    unittest.main()
