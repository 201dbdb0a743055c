"""Servers of our own on free loopback ports, and what they say of their commands."""

import socket
import subprocess
import tempfile
import time


class Connection:
    """A RESP2 client with just what is needed here."""

    def __init__(self, port):
        self.file = socket.create_connection(("127.0.0.1", port), timeout=30).makefile("rwb")

    def ask(self, *args):
        request = b"*%d\r\n" % len(args)
        for arg in args:
            data = arg if isinstance(arg, bytes) else arg.encode()
            request += b"$%d\r\n%s\r\n" % (len(data), data)
        self.file.write(request)
        self.file.flush()
        return self.read()

    def read(self):
        line = self.file.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionError("the server closed the connection")
        kind, rest = line[:1], line[1:-2]
        if kind == b"+":
            return rest.decode()
        if kind == b"-":
            return RuntimeError(rest.decode("latin-1"))
        if kind == b":":
            return int(rest)
        if kind == b"$":
            if int(rest) < 0:
                return None
            return self.file.read(int(rest) + 2)[:-2].decode("latin-1")
        if kind == b"*":
            return None if int(rest) < 0 else [self.read() for _ in range(int(rest))]
        raise ConnectionError("not a RESP2 reply: %r" % line)


class Server:
    """A server of our own on a free port; ended by its process id."""

    def __init__(self, binary):
        self.directory = tempfile.TemporaryDirectory(prefix="command-table-")
        self.connection = None
        self.port = None
        for _ in range(5):  # between choosing the port and binding it, somebody else may take it
            with socket.socket() as chosen:
                chosen.bind(("127.0.0.1", 0))
                self.port = chosen.getsockname()[1]
            self.process = subprocess.Popen(
                [binary, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "",
                 "--appendonly", "no", "--dir", self.directory.name],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            if self.connect(self.port):
                return
            self.close_process()
        raise SystemExit("%s does not start" % binary)

    def connect(self, port):
        for _ in range(200):
            if self.process.poll() is not None:
                return False
            try:
                connection = Connection(port)
            except OSError:
                time.sleep(0.05)
                continue
            # Somebody else on that port does not answer so, or does not have our process id.
            try:
                info = connection.ask("INFO", "server")
            except OSError:
                return False
            if isinstance(info, str) and "process_id:%d\r\n" % self.process.pid in info:
                self.connection = connection
                return True
            return False
        return False

    def close_process(self):
        self.process.kill()
        self.process.wait()

    def __enter__(self):
        return self.connection

    def __exit__(self, *unused):
        self.close_process()
        self.directory.cleanup()


def pairs(flat):
    return dict(zip(flat[::2], flat[1::2]))


class Command:
    """What one server says of one command or subcommand."""

    def __init__(self, info, docs):
        self.info, self.docs = info, docs
        self.name = info[0].upper()
        self.arity = info[1]
        self.flags = frozenset(info[2])
        self.tips = frozenset(tip for tip in info[7] if "policy:" in tip)
        self.key_specs = tuple(KeySpec(spec) for spec in info[8])
        self.has_subcommands = bool(info[9])
        self.group = docs.get("group", "")
        self.arguments = docs.get("arguments", [])

    @property
    def container(self):
        return self.name.split("|")[0] if "|" in self.name else ""

    @property
    def own_name(self):
        return self.name.split("|")[-1]


class KeySpec:
    def __init__(self, flat):
        spec = pairs(flat)
        flags = frozenset(spec["flags"])
        self.access = frozenset(flags & {"RO", "RW", "OW", "RM"})
        self.not_key = "not_key" in flags
        self.incomplete = "incomplete" in flags
        self.begin = pairs(spec["begin_search"])
        self.find = pairs(spec["find_keys"])
        self.begin["spec"] = pairs(self.begin["spec"])
        self.find["spec"] = pairs(self.find["spec"])

    def facts(self):
        """What the table has of it, and the access, for the comparison of servers."""
        return (self.text(), self.access)

    def text(self):
        fields = []
        begin, find = self.begin["spec"], self.find["spec"]
        if self.begin["type"] == "index":
            fields += [".begin = BeginSearch::kIndex", ".index = %d" % begin["index"]]
        elif self.begin["type"] == "keyword":
            fields += [".begin = BeginSearch::kKeyword", ".index = %d" % begin["startfrom"],
                       '.keyword = "%s"' % begin["keyword"].upper()]
        if self.find["type"] == "range":
            fields += [".find = FindKeys::kRange"]
            if find["lastkey"] != 0:
                fields += [".last_key = %d" % find["lastkey"]]
            if find["keystep"] != 1:
                fields += [".key_step = %d" % find["keystep"]]
            if find["limit"] != 0:
                fields += [".limit = %d" % find["limit"]]
        elif self.find["type"] == "keynum":
            fields += [".find = FindKeys::kKeyNum"]
            if find["keystep"] != 1:
                fields += [".key_step = %d" % find["keystep"]]
            fields += [".keynum_index = %d" % find["keynumidx"],
                       ".first_key = %d" % find["firstkey"]]
        if self.not_key:
            fields += [".not_key = true"]
        if self.incomplete:
            fields += [".incomplete = true"]
        return "{%s}" % ", ".join(fields)

    def is_single_first(self):
        return self.text() == ("{.begin = BeginSearch::kIndex, .index = 1,"
                               " .find = FindKeys::kRange}")


def documented(flat):
    return {name: pairs(entry) for name, entry in pairs(flat).items()}


def ask_commands(connection):
    """Name → Command; a subcommand's name is CONTAINER|NAME."""
    docs = documented(connection.ask("COMMAND", "DOCS"))
    commands = {}
    for info in connection.ask("COMMAND"):
        own_docs = docs.get(info[0], {})
        sub_docs = documented(own_docs.get("subcommands", []))
        for command in [Command(info, own_docs)] + [
                Command(sub, sub_docs.get(sub[0], own_docs)) for sub in info[9]]:
            commands[command.name] = command
    return commands
