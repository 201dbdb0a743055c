#!/usr/bin/env python3
"""Generates cluster/command_table_data.inc from what live servers say of their commands.

Starts each installed server on a free loopback port, asks COMMAND and COMMAND DOCS, takes the union
of their commands, applies the reviewed overrides below, and writes the rows. Every difference
between the servers, and every command that the rules cannot place, must be named below with its
reason; otherwise the tool stops.

  tools/gen_command_table.py            writes the table (needs both servers)
  tools/gen_command_table.py --check    compares the table with the installed servers; writes nothing
  tools/gen_command_table.py --write-key-examples
                                        writes tests/cluster/key_examples_data.inc (COMMAND GETKEYS)

Exit codes: 0 right, 1 differences or unreviewed commands, 77 a server is missing (--check: the part
that could be checked is right).
"""

import argparse
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TABLE_PATH = os.path.join(ROOT, "cluster", "command_table_data.inc")
SERVERS = ("redis-server", "valkey-server")
SKIPPED = 77

# ---------------------------------------------------------------------------------------------
# The review: what the servers' metadata cannot say.

# Facts that differ between the servers: (command, fact) → why the union is right. Flags are or-ed,
# of two arities the more permissive one stands (the node checks its own), valkey's tips and key
# specs win.
_NESTED = "valkey dropped noscript: it concerns calls from scripts only, the union is harmless"
_LOADING = "valkey also answers while loading"
_TIPS = "valkey added tips; the command is not served by them"
REVIEWED_DIFFERENCES = {
    ("ACL|DELUSER", "tips"): _TIPS,
    ("ACL|SAVE", "tips"): _TIPS,
    ("ACL|SETUSER", "tips"): _TIPS,
    ("BLMOVE", "flags"): _NESTED,
    ("BLPOP", "flags"): _NESTED,
    ("BRPOP", "flags"): _NESTED,
    ("BRPOPLPUSH", "flags"): _NESTED,
    ("BZPOPMAX", "flags"): _NESTED,
    ("BZPOPMIN", "flags"): _NESTED,
    ("CLIENT|SETNAME", "tips"): _TIPS,
    ("CLUSTER|INFO", "flags"): _LOADING,
    ("CLUSTER|MYID", "flags"): _LOADING,
    ("CLUSTER|NODES", "flags"): _LOADING,
    ("CLUSTER|SHARDS", "flags"): _LOADING,
    ("CLUSTER|SLOTS", "flags"): _LOADING,
    ("COMMAND|GETKEYS", "arity"): "valkey takes a command without arguments",
    ("COMMAND|GETKEYSANDFLAGS", "arity"): "valkey takes a command without arguments",
    ("CONFIG|RESETSTAT", "tips"): _TIPS,
    ("CONFIG|REWRITE", "tips"): _TIPS,
    ("LATENCY|RESET", "tips"): "redis says all_succeeded, but the reply is a number: valkey's sum",
    ("MSETNX", "tips"): "redis says multi_shard, but all or nothing cannot be split: valkey's none",
    ("MULTI", "flags"): "valkey marks it no_multi",
    ("RANDOMKEY", "tips"): "redis has no response policy: valkey's special",
    ("SCAN", "tips"): "redis has no response policy: valkey's special",
    ("SINTERSTORE", "key_specs"): "RW against OW of the same key",
    ("WAIT", "flags"): "redis says noscript, valkey blocking: both",
    ("WATCH", "flags"): "valkey marks it no_multi",
    ("ZRANK", "arity"): "valkey takes WITHSCORE",
    ("ZREVRANK", "arity"): "valkey takes WITHSCORE",
}

# How a command is served, where its flags and key specs do not decide it: kind → reason → commands.
# A command with keys and without a flag of STATEFUL_FLAGS is kOneSlot; one with the flag admin is
# kRefused; of every other one it must be said here.
REVIEWED_SERVE = {
    "kOneSlot": {
        "noscript concerns scripts in scripts; without keys they go to slot 0's owner":
            "EVAL EVAL_RO EVALSHA EVALSHA_RO FCALL FCALL_RO",
        "of the group 'server', but it reads one key": "MEMORY|USAGE",
        "its channel routes, and it does not subscribe": "SPUBLISH",
        "blocks with the option BLOCK only: see Blocks()": "XREAD XREADGROUP",
    },
    "kSplit": {
        "each key stands for itself": "DEL EXISTS MGET MSET TOUCH UNLINK",
    },
    "kKeyless": {
        "tells of the server's code, the same on every node":
            "COMMAND COMMAND|COUNT COMMAND|DOCS COMMAND|GETKEYS COMMAND|GETKEYSANDFLAGS"
            " COMMAND|HELP COMMAND|INFO COMMAND|LIST LOLWUT",
        "a help text":
            "ACL|HELP CONFIG|HELP FUNCTION|HELP LATENCY|HELP MEMORY|HELP MODULE|HELP OBJECT|HELP"
            " PUBSUB|HELP SCRIPT|HELP SLOWLOG|HELP XGROUP|HELP XINFO|HELP",
    },
    "kLocal": {
        "concerns the client's own connection":
            "AUTH CLIENT|GETNAME CLIENT|HELP CLIENT|ID CLIENT|INFO CLIENT|SETINFO CLIENT|SETNAME"
            " ECHO HELLO PING QUIT READONLY READWRITE RESET SELECT",
        "the proxy tells of itself": "INFO ROLE TIME",
        "computed without a node": "CLUSTER|HELP CLUSTER|KEYSLOT",
    },
    "kNotYet": {
        "needs a private connection while it blocks":
            "BLMOVE BLMPOP BLPOP BRPOP BRPOPLPUSH BZMPOP BZPOPMAX BZPOPMIN",
        "transactions": "DISCARD EXEC MULTI UNWATCH WATCH",
        "publish and subscribe":
            "PSUBSCRIBE PUBLISH PUBSUB|CHANNELS PUBSUB|NUMPAT PUBSUB|NUMSUB PUBSUB|SHARDCHANNELS"
            " PUBSUB|SHARDNUMSUB PUNSUBSCRIBE SSUBSCRIBE SUBSCRIBE SUNSUBSCRIBE UNSUBSCRIBE",
        "asks or changes the whole cluster":
            "DBSIZE FLUSHALL FLUSHDB FUNCTION|DELETE FUNCTION|DUMP FUNCTION|FLUSH FUNCTION|KILL"
            " FUNCTION|LIST FUNCTION|LOAD FUNCTION|RESTORE FUNCTION|STATS KEYS LATENCY|DOCTOR"
            " LATENCY|GRAPH LATENCY|HISTOGRAM LATENCY|HISTORY LATENCY|LATEST LATENCY|RESET"
            " MEMORY|DOCTOR MEMORY|MALLOC-STATS MEMORY|PURGE MEMORY|STATS MONITOR RANDOMKEY SCAN"
            " SCRIPT|EXISTS SCRIPT|FLUSH SCRIPT|KILL SCRIPT|LOAD SCRIPT|SHOW SLOWLOG|GET"
            " SLOWLOG|LEN SLOWLOG|RESET",
        "waits for the replicas of what this client wrote": "WAIT WAITAOF",
        "describes or changes the proxy's clients":
            "CLIENT|CACHING CLIENT|CAPA CLIENT|GETREDIR CLIENT|KILL CLIENT|LIST CLIENT|NO-EVICT"
            " CLIENT|NO-TOUCH CLIENT|REPLY CLIENT|TRACKING CLIENT|TRACKINGINFO CLIENT|UNBLOCK",
        "reads the users": "ACL|CAT ACL|DRYRUN ACL|GENPASS ACL|GETUSER ACL|LIST ACL|LOG ACL|USERS"
                           " ACL|WHOAMI",
        "allow-listed parameters will be answered": "CONFIG|GET",
        "answered as by a server without a cluster, or with the proxies as the cluster":
            "CLUSTER|COUNT-FAILURE-REPORTS CLUSTER|COUNTKEYSINSLOT CLUSTER|GETKEYSINSLOT"
            " CLUSTER|INFO CLUSTER|LINKS CLUSTER|MYID CLUSTER|MYSHARDID CLUSTER|NODES"
            " CLUSTER|REPLICAS CLUSTER|SHARDS CLUSTER|SLAVES CLUSTER|SLOT-STATS CLUSTER|SLOTS",
    },
    "kRefused": {
        "a container: only its subcommands are served":
            "ACL CLIENT CLUSTER CONFIG FUNCTION LATENCY MEMORY MODULE OBJECT PUBSUB SCRIPT SLOWLOG"
            " XGROUP XINFO",
        "part of the protocol between cluster nodes": "ASKING RESTORE-ASKING MIGRATE",
        "tells of one server's disk": "LASTSAVE",
        "puts the connection into a debugger": "SCRIPT|DEBUG",
        "there is one database": "SWAPDB",
    },
}

# Admin commands that are served all the same are named above; these flags (as far as a command has
# one) make every other command unfit for a shared connection.
STATEFUL_FLAGS = frozenset(
    ("admin", "pubsub", "noscript", "blocking", "no_multi", "no_auth", "allow_busy", "asking"))

# Policies that are not what the servers' tips say: command → (request, response, reason).
REVIEWED_POLICIES = {
    "PING": ("kNone", "kNone", "answered by the proxy"),
    "INFO": ("kNone", "kNone", "answered by the proxy"),
    "CLIENT|SETNAME": ("kNone", "kNone", "answered by the proxy"),
    "CLIENT|SETINFO": ("kNone", "kNone", "answered by the proxy"),
    "WAIT": ("kSpecial", "kSpecial", "its offsets belong to a connection, not to a shard"),
    "WAITAOF": ("kSpecial", "kSpecial", "its offsets belong to a connection, not to a shard"),
    "KEYS": ("kAllShards", "kSpecial", "the arrays are joined; the servers leave this unsaid"),
}

# kSplit: how the arguments go with the keys, and how the replies become one.
REVIEWED_SPLITS = {
    "MGET": ("kKeys", "kInKeyOrder"),
    "MSET": ("kKeyValuePairs", "kAllSucceeded"),
    "DEL": ("kKeys", "kSum"),
    "EXISTS": ("kKeys", "kSum"),
    "TOUCH": ("kKeys", "kSum"),
    "UNLINK": ("kKeys", "kSum"),
}

SCRIPTS = frozenset("EVAL EVAL_RO EVALSHA EVALSHA_RO FCALL FCALL_RO".split())

# Unbounded run time in one call: the node gets a longer reply deadline meanwhile.
SLOW = SCRIPTS | frozenset(
    "FLUSHALL FLUSHDB KEYS SORT SORT_RO"
    " SDIFF SDIFFSTORE SINTER SINTERCARD SINTERSTORE SUNION SUNIONSTORE"
    " ZDIFF ZDIFFSTORE ZINTER ZINTERCARD ZINTERSTORE ZUNION ZUNIONSTORE"
    # Quadratic in the lengths of its two strings.
    " LCS"
    " FUNCTION|DELETE FUNCTION|DUMP FUNCTION|FLUSH FUNCTION|KILL FUNCTION|LIST FUNCTION|LOAD"
    " FUNCTION|RESTORE FUNCTION|STATS".split())

# Commands whose keys stand where their specs do not say ("unknown", "incomplete"), or where an
# option's value may look like the keyword: command_table.cc has code for each.
SEARCHED_BY_CODE = frozenset(
    "SORT SORT_RO GEORADIUS GEORADIUSBYMEMBER XREAD XREADGROUP MIGRATE".split())

# The groups of COMMAND DOCS whose commands act on keys: no other may be kOneSlot.
KEY_GROUPS = frozenset(("string list set sorted-set hash stream geo hyperloglog bitmap generic"
                        " scripting").split())

# ---------------------------------------------------------------------------------------------
# The servers.


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
            raise SystemExit("the server closed the connection")
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
        raise SystemExit("not a RESP2 reply: %r" % line)


class Server:
    """A server of our own on a free port; ended by its process id."""

    def __init__(self, binary):
        self.directory = tempfile.TemporaryDirectory(prefix="command-table-")
        self.connection = None
        for _ in range(5):  # between choosing the port and binding it, somebody else may take it
            with socket.socket() as chosen:
                chosen.bind(("127.0.0.1", 0))
                port = chosen.getsockname()[1]
            self.process = subprocess.Popen(
                [binary, "--port", str(port), "--bind", "127.0.0.1", "--save", "",
                 "--appendonly", "no", "--dir", self.directory.name],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            if self.connect(port):
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
            info = connection.ask("INFO", "server")
            # Somebody else's server on that port does not have our process id.
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
        self.name = info[0].upper()
        self.arity = info[1]
        self.flags = frozenset(info[2])
        self.tips = frozenset(tip for tip in info[7] if "policy:" in tip)
        self.key_specs = tuple(KeySpec(spec) for spec in info[8])
        self.has_subcommands = bool(info[9])
        self.group = docs.get("group", "")

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
            fields += [".keynum_index = %d" % find["keynumidx"], ".first_key = %d" % find["firstkey"]]
        if self.not_key:
            fields += [".not_key = true"]
        if self.incomplete:
            fields += [".incomplete = true"]
        return "{%s}" % ", ".join(fields)

    def is_single_first(self):
        return self.text() == ("{.begin = BeginSearch::kIndex, .index = 1,"
                               " .find = FindKeys::kRange}")


def ask_commands(binary):
    with Server(binary) as connection:
        infos = connection.ask("COMMAND")
        docs = {name: pairs(entry) for name, entry in pairs(connection.ask("COMMAND", "DOCS")).items()}
    commands = {}
    for info in infos:
        own_docs = docs.get(info[0], {})
        sub_docs = {name: pairs(entry) for name, entry in pairs(own_docs.get("subcommands", [])).items()}
        command = Command(info, own_docs)
        commands[command.name] = command
        for sub in info[9]:
            subcommand = Command(sub, sub_docs.get(sub[0], own_docs))
            commands[subcommand.name] = subcommand
    return commands


# ---------------------------------------------------------------------------------------------
# The union and its rows.


def differences(name, a, b):
    """The names of the facts in which two servers' commands differ."""
    return [fact for fact, left, right in (
        ("arity", a.arity, b.arity), ("flags", a.flags, b.flags), ("tips", a.tips, b.tips),
        ("key_specs", [s.facts() for s in a.key_specs], [s.facts() for s in b.key_specs]))
        if left != right]


def more_permissive(a, b):
    if a == b:
        return a
    least = min(abs(a), abs(b))
    return -least


def unite(by_server, problems):
    """One command of several servers; the last server's tips and key specs stand."""
    first, last = by_server[0], by_server[-1]
    for fact in differences(first.name, first, last):
        if (first.name, fact) not in REVIEWED_DIFFERENCES:
            problems.append("%s: %s differ between the servers" % (first.name, fact))
    if first is not last:
        last.arity = more_permissive(first.arity, last.arity)
        last.flags |= first.flags
        last.has_subcommands |= first.has_subcommands
    return last


def reviewed_serves(problems):
    serves = {}
    for kind, reasons in REVIEWED_SERVE.items():
        for names in reasons.values():
            for name in names.split():
                if name in serves:
                    problems.append("%s is placed twice" % name)
                serves[name] = kind
    return serves


def serve_of(command, serves, problems):
    if command.name in serves:
        kind = serves[command.name]
    elif command.flags & STATEFUL_FLAGS:
        kind = "kRefused" if "admin" in command.flags else None
    else:
        kind = "kOneSlot" if command.key_specs else None
    if kind is None:
        problems.append("%s: say in REVIEWED_SERVE how it is served" % command.name)
        return "kRefused"
    if kind == "kOneSlot" and command.group not in KEY_GROUPS and command.name not in serves:
        problems.append("%s: kOneSlot, but of the group '%s'" % (command.name, command.group))
    return kind


def policy_text(prefix, tips, kinds):
    for tip in tips:
        if tip.startswith(prefix):
            word = tip[len(prefix):]
            if word not in kinds:
                raise SystemExit("unknown policy " + tip)
            return "k" + "".join(part.capitalize() for part in word.split("_"))
    return "kNone"


def policies_of(command):
    if command.name in REVIEWED_POLICIES:
        return REVIEWED_POLICIES[command.name][:2]
    return (
        policy_text("request_policy:", command.tips,
                    ("all_nodes", "all_shards", "multi_shard", "special")),
        policy_text("response_policy:", command.tips,
                    ("one_succeeded", "all_succeeded", "agg_logical_and", "agg_logical_or",
                     "agg_min", "agg_max", "agg_sum", "special")))


FLAG_NAMES = {
    "write": "kFlagWrite", "readonly": "kFlagReadOnly", "denyoom": "kFlagDenyOom",
    "admin": "kFlagAdmin", "pubsub": "kFlagPubSub", "noscript": "kFlagNoScript",
    "blocking": "kFlagBlocking", "loading": "kFlagLoading", "stale": "kFlagStale",
    "skip_monitor": "kFlagSkipMonitor", "skip_slowlog": "kFlagSkipSlowlog",
    "asking": "kFlagAsking", "fast": "kFlagFast", "no_auth": "kFlagNoAuth",
    "may_replicate": "kFlagMayReplicate", "movablekeys": "kFlagMovableKeys",
    "no_multi": "kFlagNoMulti", "allow_busy": "kFlagAllowBusy",
    "no_async_loading": "kFlagNoAsyncLoading", "no_mandatory_keys": "kFlagNoMandatoryKeys",
}


def flags_text(command):
    names = [text for flag, text in FLAG_NAMES.items() if flag in command.flags]
    unknown = command.flags - set(FLAG_NAMES)
    if unknown:
        raise SystemExit("%s: unknown flags %s" % (command.name, ", ".join(sorted(unknown))))
    if command.name in SCRIPTS:
        names.append("kFlagScript")
    if command.name in SLOW:
        names.append("kFlagSlow")
    return " | ".join(names)


def specs_name(text, names):
    return names.setdefault(text, "kKeys%d" % len(names))


def needs_code(command):
    return any(spec.begin["type"] == "unknown" or spec.find["type"] == "unknown" or spec.incomplete
               for spec in command.key_specs)


def render(commands, problems):
    serves = reviewed_serves(problems)
    for table in (serves, REVIEWED_POLICIES, REVIEWED_SPLITS, {name: 0 for name in SLOW},
                  {name: 0 for name in SEARCHED_BY_CODE}):
        for name in table:
            if name not in commands:
                problems.append("%s: reviewed, but no server has it" % name)
    names = {}
    rows = []
    ordered = sorted(commands.values(), key=lambda c: (c.container, c.own_name))
    for number, command in enumerate(ordered):
        serve = serve_of(command, serves, problems)
        request, response = policies_of(command)
        if needs_code(command) and command.name not in SEARCHED_BY_CODE:
            problems.append("%s: its key specs are not complete" % command.name)
        if (serve == "kSplit") != (command.name in REVIEWED_SPLITS):
            problems.append("%s: kSplit without REVIEWED_SPLITS or the reverse" % command.name)
        fields = ['.name = "%s"' % command.own_name]
        if command.container:
            fields.append('.container = "%s"' % command.container)
        fields.append(".arity = %d" % command.arity)
        flags = flags_text(command)
        if flags:
            fields.append(".flags = " + flags)
        if command.key_specs:
            text = ",\n".join("    " + spec.text() for spec in command.key_specs)
            fields.append(".key_specs = " + specs_name(text, names))
        if request != "kNone":
            fields.append(".request_policy = RequestPolicy::" + request)
        if response != "kNone":
            fields.append(".response_policy = ResponsePolicy::" + response)
        fields.append(".serve = Serve::" + serve)
        if command.name in REVIEWED_SPLITS:
            split, merge = REVIEWED_SPLITS[command.name]
            fields += [".split = Split::" + split, ".merge = Merge::" + merge]
        if command.has_subcommands:
            fields.append(".has_subcommands = true")
        if (len(command.key_specs) == 1 and command.key_specs[0].is_single_first()
                and not command.container and "movablekeys" not in command.flags):
            fields.append(".single_first_key = true")
        fields.append(".id = %d" % number)
        rows.append(fields)
    lines = ["// Generated by tools/gen_command_table.py from redis-server 7.0 and valkey-server 8.0.",
             "// clang-format off", ""]
    for text, name in names.items():
        lines += ["constexpr KeySpec %s[] = {" % name, text + "};"]
    lines += ["", "constexpr CommandSpec kCommands[] = {"]
    for fields in rows:
        lines += wrap_row(fields)
    lines += ["};", "// clang-format on", ""]
    return "\n".join(lines)


def wrap_row(fields):
    lines, line = [], "    {"
    for i, field in enumerate(fields):
        piece = field + (", " if i + 1 < len(fields) else "},")
        if len(line) + len(piece.rstrip()) > 100:
            lines.append(line.rstrip())
            line = "     "
        while len(line) + len(piece.rstrip()) > 100:  # long flags
            cut = piece.rindex(" | ", 0, 100 - len(line)) + 2
            lines.append(line + piece[:cut])
            line, piece = "         ", piece[cut + 1:]
        line += piece
    return lines + [line.rstrip()]


def collect(binaries, problems):
    asked = [ask_commands(binary) for binary in binaries]
    names = set().union(*asked)
    return {name: unite([commands[name] for commands in asked if name in commands], problems)
            for name in names}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    binaries = [shutil.which(name) for name in SERVERS]
    problems = []
    text = render(collect([b for b in binaries if b], problems), problems)
    if problems:
        print("\n".join(problems))
        return 1
    with open(TABLE_PATH, "w") as table:
        table.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
