"""Scripted nodes of a cluster: they log every command and answer what a test wants.

A FakeCluster has nodes with slots, ids and a tiny store; it redirects as a real one does. A test
changes what it must:

    cluster.node(0).on("GET", error("MOVED 1 127.0.0.1:1"))      bytes, or a function of the request
    cluster.node(0).on("SET", Cut(b"+O"))                        sends these bytes, then closes
    cluster.show(slots=…)                                        what CLUSTER NODES says, if not the truth

Each connection has a thread. Standard library only.
"""

import collections
import os
import socket
import struct
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "tools"))
from local_cluster import choose_node_port  # noqa: E402
from resp_client import key_slot  # noqa: E402

SLOTS = 16384


def simple(text):
    return b"+" + text.encode() + b"\r\n"


def error(text):
    return b"-" + text.encode("latin-1") + b"\r\n"


def integer(value):
    return b":%d\r\n" % value


def bulk(data):
    return b"$-1\r\n" if data is None else b"$%d\r\n%s\r\n" % (len(data), data)


def array(items):
    return b"*%d\r\n" % len(items) + b"".join(items)


class Cut:
    """Sends these bytes and closes: politely, or with a reset."""

    def __init__(self, first=b"", reset=False):
        self.first = first
        self.reset = reset


class Silence:
    """No reply at all; the connection stays."""


class Hold:
    """No reply to this and what follows on the connection until `event` is set; then `reply`."""

    def __init__(self, event, reply=None):
        self.event = event
        self.reply = reply


Logged = collections.namedtuple("Logged", "number node connection args")

# Not a client's doing: what the proxy itself asks.
HOUSEKEEPING = {b"AUTH", b"HELLO", b"CLUSTER", b"READONLY", b"CLIENT", b"INFO", b"COMMAND", b"PING",
                b"MULTI", b"DISCARD", b"ASKING", b"ROLE"}


def keys_of(args):
    name = args[0].upper()
    if name in HOUSEKEEPING or name == b"ECHO":
        return []
    if name in (b"MGET", b"DEL", b"EXISTS", b"UNLINK", b"TOUCH", b"SINTER", b"SUNION"):
        return args[1:]
    if name == b"MSET":
        return args[1::2]
    if name in (b"EVAL", b"EVALSHA", b"FCALL"):
        return args[3:3 + int(args[2])]
    return args[1:2]


class FakeConnection:
    def __init__(self, node, sock, number):
        self.node = node
        self.socket = sock
        self.number = number
        self.protocol = 2
        self.authenticated = node.cluster.password is None
        self.asking = False
        self.name = b""

    def null(self):
        return b"_\r\n" if self.protocol == 3 else b"$-1\r\n"

    def run(self):
        try:
            with self.socket.makefile("rb", buffering=1 << 16) as stream:
                while True:
                    args = self.read_request(stream)
                    if args is None:
                        return
                    self.node.cluster.record(self.node, self.number, args)
                    if not self.send(self.node.answer(self, args)):
                        return
        except (OSError, ValueError):
            pass
        finally:
            self.node.forget(self)
            self.socket.close()

    @staticmethod
    def read_request(stream):
        line = stream.readline()
        if not line:
            return None
        if not line.startswith(b"*"):
            raise ValueError("not an array: %r" % line)
        args = []
        for _ in range(int(line[1:])):
            header = stream.readline()
            if not header.startswith(b"$"):
                raise ValueError("not a bulk string: %r" % header)
            data = stream.read(int(header[1:]) + 2)
            if data[-2:] != b"\r\n":
                raise ValueError("no CRLF after an argument")
            args.append(data[:-2])
        return args

    def send(self, reply):
        """False if the connection is to be closed."""
        if isinstance(reply, Hold):
            reply.event.wait(60)
            reply = reply.reply
        if reply is None or reply is Silence or isinstance(reply, Silence):
            return True
        if isinstance(reply, Cut):
            if reply.first:
                self.socket.sendall(reply.first)
            self.cut(reply.reset)
            return False
        self.socket.sendall(reply)
        return True

    def cut(self, reset=False):
        try:
            if reset:
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                                       struct.pack("ii", 1, 0))
                self.socket.close()
            else:
                self.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


class FakeNode:
    """One node. `data` is its store; `migrating` and `importing` are slot → other node."""

    def __init__(self, cluster, index, host="127.0.0.1"):
        self.cluster = cluster
        self.index = index
        self.host = host
        self.id = "%040x" % (0xabc0 + index)
        self.data = {}
        self.migrating = {}
        self.importing = {}
        self.primary = None      # set: a replica of that node
        self.epoch = index + 1
        self.view_text = None    # set: what CLUSTER NODES answers here, or a function
        self.info_text = None    # set: what INFO answers
        self.shown_host = host   # in CLUSTER NODES
        self.flags = []          # further flags in CLUSTER NODES
        self.scripts = []
        self.connections = set()
        self.accepted = 0
        self._lock = threading.Lock()
        self._open()

    def _open(self, port=None):
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        for _ in range(20):
            self.port = port or choose_node_port(self.host)
            self.listener = socket.socket(family, socket.SOCK_STREAM)
            self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                self.listener.bind((self.host, self.port))
                break
            except OSError:
                self.listener.close()
                if port:
                    raise
        self.listener.listen(128)
        threading.Thread(target=self._accept, args=(self.listener,), daemon=True).start()

    @property
    def address(self):
        return "[%s]:%d" % (self.host, self.port) if ":" in self.host else "%s:%d" % (self.host,
                                                                                     self.port)

    def _accept(self, listener):
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self.accepted += 1
                connection = FakeConnection(self, sock, self.accepted)
                self.connections.add(connection)
            threading.Thread(target=connection.run, daemon=True).start()

    def forget(self, connection):
        with self._lock:
            self.connections.discard(connection)

    def open_connections(self):
        with self._lock:
            return list(self.connections)

    def cut_all(self, reset=False):
        for connection in self.open_connections():
            connection.cut(reset)

    def go_down(self):
        """Stops listening and cuts every connection."""
        try:
            self.listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.listener.close()
        self.cut_all()

    def come_up(self):
        self._open(self.port)

    # --- scripts

    def on(self, name, reply, times=None, key=None):
        """Answers command `name` (bytes, an action, or a function of (connection, args)).

        times: only so often, then as if nothing had been said. key: only for this first key.
        A function may return None to pass.
        """
        script = {"name": name.upper().encode(), "reply": reply, "left": times,
                  "key": key.encode() if isinstance(key, str) else key}
        with self._lock:
            self.scripts.append(script)
        return script

    def off(self, script=None):
        with self._lock:
            self.scripts = [other for other in self.scripts
                            if script is not None and other is not script]

    def _scripted(self, connection, args):
        with self._lock:
            scripts = list(self.scripts)
        for script in scripts:
            if script["name"] != args[0].upper() or script["left"] == 0:
                continue
            if script["key"] is not None and keys_of(args)[:1] != [script["key"]]:
                continue
            reply = script["reply"]
            if callable(reply) and not isinstance(reply, type):
                reply = reply(connection, args)
                if reply is None:
                    continue
            if script["left"] is not None:
                with self._lock:
                    script["left"] -= 1
            return reply
        return None

    # --- answers

    def answer(self, connection, args):
        asking, connection.asking = connection.asking, False
        scripted = self._scripted(connection, args)
        if scripted is not None:
            return scripted
        name = args[0].upper()
        if not connection.authenticated and name not in (b"AUTH", b"HELLO"):
            return error("NOAUTH Authentication required.")
        own = getattr(self, "do_" + name.decode("latin-1").lower(), None)
        if name in HOUSEKEEPING:
            return own(connection, args) if own else simple("OK")
        redirection = self._redirection(args, asking)
        if redirection:
            return redirection
        if own is None:
            return error("ERR unknown command '%s'" % args[0].decode("latin-1"))
        return own(connection, args)

    def _redirection(self, args, asking):
        keys = keys_of(args)
        if not keys:
            return None
        slot = key_slot(keys[0])
        missing = [key for key in keys if key not in self.data]
        if self.cluster.slots[slot] is self:
            if slot in self.migrating and missing:
                if len(missing) < len(set(keys)):
                    return error("TRYAGAIN Multiple keys request during rehashing of slot")
                return error("ASK %d %s" % (slot, self.migrating[slot].shown_address()))
            return None
        if slot in self.importing and asking:
            if len(keys) > 1 and missing:
                return error("TRYAGAIN Multiple keys request during rehashing of slot")
            return None
        return self.cluster.moved(slot)

    def shown_address(self):
        return "%s:%d" % (self.shown_host, self.port)

    def do_hello(self, connection, args):
        rest = [arg.upper() for arg in args]
        if b"AUTH" in rest:
            at = rest.index(b"AUTH")
            if self.cluster.password is not None and args[at + 2] != self.cluster.password:
                return error("WRONGPASS invalid username-password pair or user is disabled.")
            connection.authenticated = True
        if not connection.authenticated:
            return error("NOAUTH HELLO must be called with the client already authenticated, "
                         "otherwise the HELLO <proto> AUTH <user> <pass> option can be used to "
                         "authenticate the client and select the RESP protocol version at the "
                         "same time")
        if len(args) > 1:
            connection.protocol = int(args[1])
        fields = [bulk(b"server"), bulk(b"redis"), bulk(b"version"), bulk(b"7.0.15"),
                  bulk(b"proto"), integer(connection.protocol), bulk(b"id"),
                  integer(self.client_id(connection.number)), bulk(b"mode"),
                  bulk(b"cluster"), bulk(b"role"), bulk(b"master"), bulk(b"modules"), array([])]
        head = b"%7\r\n" if connection.protocol == 3 else b"*14\r\n"
        return head + b"".join(fields)

    def do_auth(self, connection, args):
        if self.cluster.password is None:
            return error("ERR AUTH <password> called without any password configured for the "
                         "default user. Are you sure your configuration is correct?")
        if args[-1] != self.cluster.password:
            return error("WRONGPASS invalid username-password pair or user is disabled.")
        connection.authenticated = True
        return simple("OK")

    def do_asking(self, connection, args):
        connection.asking = True
        return simple("OK")

    def do_ping(self, connection, args):
        return bulk(args[1]) if len(args) > 1 else simple("PONG")

    def do_echo(self, connection, args):
        return bulk(args[1])

    def do_role(self, connection, args):
        return array([bulk(b"master"), integer(0), array([])])

    def do_command(self, connection, args):
        return array([])

    def do_info(self, connection, args):
        return bulk((self.info_text or "# Server\r\nredis_version:7.0.15\r\n"
                     "redis_mode:cluster\r\nprocess_id:1\r\n").encode())

    def client_id(self, connection_number):
        return 1000 * (self.index + 1) + connection_number

    def do_client(self, connection, args):
        what = args[1].upper()
        others = {self.client_id(other.number): other for other in self.open_connections()}
        if what == b"ID":
            return integer(self.client_id(connection.number))
        if what == b"SETNAME":
            connection.name = args[2]
        if what == b"GETNAME":
            return bulk(connection.name)
        if what == b"KILL":
            victim = others.get(int(args[3]))
            if victim is not None:
                victim.cut()
            return integer(0 if victim is None else 1)
        if what in (b"LIST", b"INFO"):
            if what == b"INFO":
                others = {self.client_id(connection.number): connection}
            elif len(args) > 3 and args[2].upper() == b"ID":
                others = {number: other for number, other in others.items()
                          if b"%d" % number in args[3:]}
            return bulk(b"".join(b"id=%d addr=127.0.0.1:1 name=%s age=0 db=0\n" % (number, other.name)
                                 for number, other in others.items()))
        return simple("OK")

    def do_cluster(self, connection, args):
        what = args[1].upper()
        if what == b"MYID":
            return bulk(self.id.encode())
        if what == b"NODES":
            view = self.view_text
            if callable(view):
                view = view(self)
            if isinstance(view, (Cut, Hold, Silence)) or view is Silence:
                return view
            if isinstance(view, bytes):
                return view
            return bulk((view if view is not None else self.cluster.view(self)).encode())
        if what == b"INFO":
            return bulk(b"cluster_state:ok\r\ncluster_slots_assigned:16384\r\n")
        return error("ERR not scripted")

    def do_get(self, connection, args):
        value = self.data.get(args[1])
        return connection.null() if value is None else bulk(value)

    def do_set(self, connection, args):
        self.data[args[1]] = args[2]
        return simple("OK")

    def do_incr(self, connection, args):
        value = int(self.data.get(args[1], b"0")) + 1
        self.data[args[1]] = b"%d" % value
        return integer(value)

    def do_append(self, connection, args):
        self.data[args[1]] = self.data.get(args[1], b"") + args[2]
        return integer(len(self.data[args[1]]))

    def do_del(self, connection, args):
        return integer(sum(self.data.pop(key, None) is not None for key in args[1:]))

    do_unlink = do_del

    def do_exists(self, connection, args):
        return integer(sum(key in self.data for key in args[1:]))

    do_touch = do_exists

    def do_mget(self, connection, args):
        return array([connection.null() if self.data.get(key) is None else bulk(self.data[key])
                      for key in args[1:]])

    def do_mset(self, connection, args):
        self.data.update(zip(args[1::2], args[2::2]))
        return simple("OK")

    def do_sunion(self, connection, args):
        return array([bulk(key) for key in args[1:] if key in self.data])

    def do_eval(self, connection, args):
        return bulk(b"ran")

    do_evalsha = do_fcall = do_eval


class FakeCluster:
    """Primaries that share the slots evenly; as a context manager it closes all of them."""

    def __init__(self, primaries=3, password=None, host="127.0.0.1"):
        self.password = password.encode() if password else None
        self.log = []
        self._changed = threading.Condition()
        self.slots = [None] * SLOTS
        self.nodes = [FakeNode(self, index, host) for index in range(primaries)]
        for slot in range(SLOTS):
            self.slots[slot] = self.nodes[slot * primaries // SLOTS]
        self.shown_slots = None  # set: what CLUSTER NODES says of the slots, if not the truth

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.close()

    def close(self):
        for node in self.nodes:
            node.go_down()

    def node(self, index):
        return self.nodes[index]

    def add_node(self, primary=None):
        """A further node: a replica of `primary`, or a primary without slots."""
        node = FakeNode(self, len(self.nodes), self.nodes[0].host)
        node.primary = primary
        self.nodes.append(node)
        return node

    @property
    def addresses(self):
        return [node.address for node in self.nodes]

    def owner(self, key):
        return self.slots[key_slot(key)]

    def other(self, key):
        """Some primary that does not own the key."""
        return next(node for node in self.nodes
                    if node is not self.owner(key) and node.primary is None)

    def moved(self, slot):
        return error("MOVED %d %s" % (slot, self.slots[slot].shown_address()))

    def view(self, asked):
        """CLUSTER NODES as `asked` says it."""
        slots = self.shown_slots or self.slots
        lines = []
        for node in self.nodes:
            flags = (["myself"] if node is asked else []) + \
                ["slave" if node.primary else "master"] + node.flags
            fields = [node.id, "%s:%d@%d" % (node.shown_host, node.port, node.port + 10000),
                      ",".join(flags), node.primary.id if node.primary else "-", "0", "0",
                      "%d" % node.epoch, "connected"]
            first = None
            for slot in range(SLOTS + 1):
                owned = slot < SLOTS and slots[slot] is node
                if owned and first is None:
                    first = slot
                if not owned and first is not None:
                    fields.append("%d-%d" % (first, slot - 1) if slot - 1 > first else
                                  "%d" % first)
                    first = None
            if node is asked:
                fields += ["[%d->-%s]" % (slot, to.id) for slot, to in node.migrating.items()]
                fields += ["[%d-<-%s]" % (slot, of.id) for slot, of in node.importing.items()]
            lines.append(" ".join(fields))
        return "\n".join(lines) + "\n"

    def give(self, slot, node, shown=True):
        """The slot moves to `node`. shown: the view says so too, else it keeps the old owner."""
        if not shown and self.shown_slots is None:
            self.shown_slots = list(self.slots)
        self.slots[slot] = node
        if shown and self.shown_slots is not None:
            self.shown_slots[slot] = node
        node.epoch = 1 + max(other.epoch for other in self.nodes)

    # --- the log

    def record(self, node, connection, args):
        with self._changed:
            self.log.append(Logged(len(self.log), node, connection, args))
            self._changed.notify_all()

    def logged(self, name=None, node=None, housekeeping=False):
        """What arrived, oldest first: client commands, or those called `name`."""
        wanted = None if name is None else name.upper().encode()
        with self._changed:
            entries = list(self.log)
        return [entry for entry in entries
                if (node is None or entry.node is node) and
                (entry.args[0].upper() == wanted if wanted is not None else
                 housekeeping or entry.args[0].upper() not in HOUSEKEEPING)]

    def count(self, name, subcommand=None, node=None):
        return sum(1 for entry in self.logged(name, node)
                   if subcommand is None or entry.args[1].upper() == subcommand.upper().encode())

    def wait_for(self, condition, timeout=20.0, what="the fake nodes to see it"):
        """Waits until condition() is true; looked at after each command that arrives."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while not condition():
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError("gave up after %g s waiting for %s" % (timeout, what))
                self._changed.wait(min(left, 0.1))

    def clear_log(self):
        with self._changed:
            self.log = []
