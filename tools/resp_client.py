"""A blocking RESP2 and RESP3 client, with the exact bytes of each reply at hand.

For our tools and end-to-end tests. Standard library only.
"""

import binascii
import socket


class ReplyError(Exception):
    """An error reply; str() is its text without the leading '-'."""

    def __eq__(self, other):
        return isinstance(other, ReplyError) and str(self) == str(other)

    def __hash__(self):
        return hash(str(self))


class Push(list):
    """A RESP3 push."""


class Status(bytes):
    """A simple string, as opposed to a bulk string."""


def pack(*args):
    """One request as bytes. Arguments are bytes, str or int."""
    parts = [b"*%d\r\n" % len(args)]
    for arg in args:
        if isinstance(arg, str):
            arg = arg.encode()
        elif isinstance(arg, int):
            arg = b"%d" % arg
        parts += (b"$%d\r\n" % len(arg), arg, b"\r\n")
    return b"".join(parts)


def parse_address(text):
    """"host:port", "[::1]:port" or "unix:/path" → (host, port) or a path."""
    if text.startswith("unix:"):
        return text[len("unix:"):]
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


class RespClient:
    """address: (host, port), or the path of a unix socket."""

    def __init__(self, address, timeout=10.0, receive_buffer=None):
        family = socket.AF_UNIX
        if not isinstance(address, str):
            family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_STREAM)
        try:
            self.socket.settimeout(timeout)
            if receive_buffer:
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            if family != socket.AF_UNIX:
                self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.socket.connect(address)
        except OSError:
            self.socket.close()
            raise
        self._bytes = bytearray()
        self._taken = 0  # of _bytes

    def close(self):
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.close()

    # --- sending

    def send_raw(self, data):
        self.socket.sendall(data)

    def send(self, *args):
        self.socket.sendall(pack(*args))

    # --- receiving

    def _fill(self, wanted=1 << 16):
        if self._taken:
            del self._bytes[:self._taken]
            self._taken = 0
        data = self.socket.recv(min(max(wanted, 1 << 16), 1 << 22))
        if not data:
            raise ConnectionError("closed by the peer" +
                                  (" within a reply: %r" % bytes(self._bytes[:100])
                                   if self._bytes else ""))
        self._bytes += data

    def _line(self):
        searched = 0
        while True:
            end = self._bytes.find(b"\r\n", self._taken + searched)
            if end >= 0:
                line = bytes(self._bytes[self._taken:end])
                self._taken = end + 2
                return line
            searched = max(0, len(self._bytes) - self._taken - 1)
            self._fill()

    def _exactly(self, size):
        while len(self._bytes) - self._taken < size:
            self._fill(size - (len(self._bytes) - self._taken))
        data = bytes(memoryview(self._bytes)[self._taken:self._taken + size])
        self._taken += size
        return data

    def _read_into(self, raw):
        """Reads one value; appends its bytes to `raw` unless that is None."""
        line = self._line()
        if raw is not None:
            raw.append(line + b"\r\n")
        kind, rest = line[:1], line[1:]
        if kind == b"+":
            return Status(rest)
        if kind == b"-":
            return ReplyError(rest.decode("latin-1"))
        if kind in (b":", b"("):
            return int(rest)
        if kind == b"_":
            return None
        if kind == b",":
            return float(rest)
        if kind == b"#":
            return rest == b"t"
        if kind in (b"$", b"=", b"!"):
            if int(rest) < 0:
                return None
            data = self._exactly(int(rest) + 2)
            if raw is not None:
                raw.append(data)
            if data[-2:] != b"\r\n":
                raise ConnectionError("no CRLF after a bulk string")
            return ReplyError(data[:-2].decode("latin-1")) if kind == b"!" else data[:-2]
        if kind in (b"*", b"~", b">"):
            if int(rest) < 0:
                return None
            values = [self._read_into(raw) for _ in range(int(rest))]
            return Push(values) if kind == b">" else values
        if kind == b"%":
            pairs = [(self._read_into(raw), self._read_into(raw)) for _ in range(int(rest))]
            try:
                return dict(pairs)
            except TypeError:  # a key that is an array
                return pairs
        if kind == b"|":
            for _ in range(2 * int(rest)):
                self._read_into(raw)
            return self._read_into(raw)
        raise ConnectionError("not a reply: %r" % line[:100])

    def read(self):
        """One reply; an error reply is returned, not raised."""
        return self._read_into(None)

    def read_raw(self):
        """The exact bytes of one reply."""
        raw = []
        self._read_into(raw)
        return b"".join(raw)

    def read_to_end(self):
        """All bytes up to the end of input. A reset counts as the end."""
        data = bytes(self._bytes[self._taken:])
        self._bytes, self._taken = bytearray(), 0
        while True:
            try:
                chunk = self.socket.recv(1 << 20)
            except ConnectionResetError:
                return data
            if not chunk:
                return data
            data += chunk

    # --- both

    def command(self, *args):
        """One request and its reply; an error reply is returned, not raised."""
        self.send(*args)
        return self.read()

    def call(self, *args):
        """As command(), but raises an error reply."""
        reply = self.command(*args)
        if isinstance(reply, ReplyError):
            raise ReplyError("%s: %s" % (args[0], reply))
        return reply

    def raw(self, *args):
        """One request and the bytes of its reply."""
        self.send(*args)
        return self.read_raw()

    def pipeline(self, commands):
        self.socket.sendall(b"".join(pack(*command) for command in commands))
        return [self.read() for _ in commands]


def key_slot(key):
    """The slot of a key (Redis Cluster specification, "Hash tags")."""
    if isinstance(key, str):
        key = key.encode()
    begin = key.find(b"{")
    if begin >= 0:
        end = key.find(b"}", begin + 1)
        if end > begin + 1:
            key = key[begin + 1:end]
    return binascii.crc_hqx(key, 0) % 16384
