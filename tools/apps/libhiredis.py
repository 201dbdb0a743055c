"""The C library, called directly: commands, pipelines, cut replies, subscriptions.

  libhiredis.py HOST PORT
"""

import ctypes
import ctypes.util
import glob
import shutil
import subprocess
import sys

from check import HOST, PORT, ROUNDS, check, check_that, finish

STRING, ARRAY, INTEGER, NIL, STATUS, ERROR = 1, 2, 3, 4, 5, 6


class Reply(ctypes.Structure):
    """redisReply of version 0.14; of 1.x the fields up to `elements` have other places."""


Reply._fields_ = [("type", ctypes.c_int), ("integer", ctypes.c_longlong), ("length", ctypes.c_size_t),
                  ("text", ctypes.POINTER(ctypes.c_char)), ("elements", ctypes.c_size_t),
                  ("element", ctypes.POINTER(ctypes.POINTER(Reply)))]


def load():
    for path in glob.glob("/usr/lib/*/libhiredis.so.0.14"):
        library = ctypes.CDLL(path)
        library.redisConnect.restype = ctypes.c_void_p
        library.redisCommandArgv.restype = ctypes.POINTER(Reply)
        return library
    sys.exit("libhiredis 0.14 is not installed")


library = load()


class Connection:
    def __init__(self):
        self.context = ctypes.c_void_p(library.redisConnect(HOST.encode(), PORT))

    @staticmethod
    def packed(arguments):
        arguments = [argument if isinstance(argument, bytes) else str(argument).encode()
                     for argument in arguments]
        return (len(arguments), (ctypes.c_char_p * len(arguments))(*arguments),
                (ctypes.c_size_t * len(arguments))(*map(len, arguments)))

    def value(self, pointer):
        reply = pointer.contents
        if reply.type == ARRAY:
            return [self.value(reply.element[at]) for at in range(reply.elements)]
        if reply.type == INTEGER:
            return reply.integer
        if reply.type == NIL:
            return None
        text = ctypes.string_at(reply.text, reply.length)
        return RuntimeError(text.decode()) if reply.type == ERROR else text

    def taken(self, pointer):
        check_that(pointer, "a reply")
        value = self.value(pointer)
        library.freeReplyObject(pointer)
        return value

    def call(self, *arguments):
        return self.taken(library.redisCommandArgv(self.context, *self.packed(arguments)))

    def append(self, *arguments):
        check(library.redisAppendCommandArgv(self.context, *self.packed(arguments)), 0, "append")

    def read(self):
        pointer = ctypes.POINTER(Reply)()
        check(library.redisGetReply(self.context, ctypes.byref(pointer)), 0, "redisGetReply")
        return self.taken(pointer)

    def close(self):
        library.redisFree(self.context)


def redis_cli():
    """The command line, which is built on the same library."""
    if not shutil.which("redis-cli"):
        return

    def cli(*arguments, given=b""):
        return subprocess.run(["redis-cli", "-h", HOST, "-p", str(PORT), *arguments], input=given,
                              stdout=subprocess.PIPE, check=True, timeout=60).stdout
    check(cli("SET", "cli", "x"), b"OK\n", "redis-cli")
    check(cli("-3", "HGETALL", "hiredis:none"), b"\n", "RESP3")
    check(cli("-x", "SET", "cli", given=b"\0\r\nbinary"), b"OK\n", "-x")
    check(cli("--raw", "GET", "cli"), b"\0\r\nbinary\n", "--raw")
    check(cli("--eval", "/dev/stdin", "cli", ",", "a", given=b"return {KEYS[1], ARGV[1]}"),
          b"cli\na\n", "--eval")
    check(cli(given=b"MULTI\nSET cli 1\nINCR cli\nEXEC\n"), b"OK\nQUEUED\nQUEUED\nOK\n2\n", "MULTI")
    mass = b"".join(b"*3\r\n$3\r\nSET\r\n$8\r\ncli:%04d\r\n$1\r\nx\r\n" % number
                    for number in range(2000))
    check_that(b"errors: 0, replies: 2000" in cli("--pipe", given=mass), "--pipe")
    keys = cli("--scan", "--pattern", "cli:*").split()
    check(sorted(keys), [b"cli:%04d" % number for number in range(2000)], "--scan")
    check(cli("DEL", *[key.decode() for key in keys]), b"2000\n", "DEL")
    check(cli("-r", "3", "INCR", "cli"), b"3\n4\n5\n", "-r")


def main():
    one, two = Connection(), Connection()
    check(one.call("PING"), b"PONG", "PING")
    check(one.call("SET", "hiredis", b"\0\r\n\xff"), b"OK", "SET")
    check(one.call("GET", "hiredis"), b"\0\r\n\xff", "GET")
    check(one.call("GET", "hiredis:none"), None, "nil")
    check_that("WRONGTYPE" in str(one.call("LPUSH", "hiredis", "x")), "an error")
    check(one.call("EVAL", "return {1, 'a', {2, {'b', false}}}", 0), [1, b"a", [2, [b"b", None]]],
          "nested")
    large = b"0123456789abcdef" * 200000
    check(one.call("SET", "hiredis", large), b"OK", "3 MB")
    check_that(one.call("GET", "hiredis") == large, "3 MB")
    count = 1000 * ROUNDS
    for number in range(count):
        one.append("SET", "hiredis:%d" % (number % 50), number)
        one.append("GET", "hiredis:%d" % (number % 50))
    replies = [one.read() for _ in range(2 * count)]
    check(replies, [it for number in range(count) for it in (b"OK", b"%d" % number)], "pipeline")
    check(one.call("DEL", *["hiredis:%d" % number for number in range(50)]), 50, "DEL")
    check(one.call("SUBSCRIBE", "a", "b"), [b"subscribe", b"a", 1], "SUBSCRIBE")
    check(one.read(), [b"subscribe", b"b", 2], "SUBSCRIBE")
    for number in range(100):
        check(two.call("PUBLISH", "ab"[number % 2], number), 1, "PUBLISH")
    got = [one.read() for _ in range(100)]
    for channel in (b"a", b"b"):
        check([int(text) for _, of, text in got if of == channel],
              list(range(b"ab".index(channel), 100, 2)), "order of a channel")
    one.close()
    two.call("DEL", "hiredis:list")
    two.append("BLPOP", "hiredis:list", 10)
    three = Connection()
    check(three.call("RPUSH", "hiredis:list", "x"), 1, "RPUSH")
    check(two.read(), [b"hiredis:list", b"x"], "BLPOP")
    three.close()
    two.close()
    redis_cli()
    finish()


main()
