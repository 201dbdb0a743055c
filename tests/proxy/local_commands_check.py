#!/usr/bin/env python3
"""What the proxy answers by itself, against the servers that are installed.

  local_commands_check.py DRIVER     the built local_session_driver

Each conversation goes to a server of our own, not clustered, and to the driver as a proxy before a
cluster of that server; the replies must be the same bytes but for what is named here, with its
reason. Exit codes: 0 right, 1 differences, 77 a server is missing (what could be compared is right).
"""

import os
import re
import shutil
import subprocess
import sys

sys.dont_write_bytecode = True
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tools"))
from command_table import review, servers  # noqa: E402  (after the path is set)
from resp_client import RespClient, pack  # noqa: E402

SERVERS = ("redis-server", "valkey-server")
SKIPPED = 77
PASSWORD = "a secret word"


def words(text):
    return [word.replace("_", " ") for word in text.split(" ")] if text else []


# Conversations, a request a line; "_" is a space within an argument. Each runs in RESP2 and RESP3.
CONVERSATIONS = """
PING
PING hello
ping a b
PING

ECHO
ECHO hello
echo a b
ECHO

HELLO
HELLO 2
HELLO 3
HELLO
HELLO 2
HELLO 1
HELLO 4
HELLO 03
HELLO -3
HELLO x
HELLO 3_
HELLO 99999999999999999999
HELLO 3 SETNAME
HELLO 3 SETNAME conn
CLIENT GETNAME
HELLO 3 SETNAME a_b
HELLO 3 SETNAME
HELLO 2 setname other
CLIENT GETNAME
HELLO 3 FOO
HELLO 3 SETNAME third FOO
CLIENT GETNAME
HELLO 3 AUTH
HELLO 3 AUTH default
HELLO 3 AUTH default any
HELLO 3 AUTH nobody any
HELLO 3 AUTH default any SETNAME fourth
HELLO 2 SETNAME fifth AUTH nobody any
CLIENT GETNAME
HELLO AUTH default any
PING

AUTH
AUTH x
AUTH default x
AUTH nobody x
AUTH a b c
PING

SELECT 0
SELECT
SELECT x
SELECT 00
SELECT -0
SELECT -1
SELECT +1
SELECT 2147483648
SELECT -2147483649
SELECT 99999999999999999999
SELECT 0 0

CLIENT GETNAME
CLIENT SETNAME
CLIENT SETNAME me
CLIENT GETNAME
CLIENT SETNAME a_b
CLIENT SETNAME é
CLIENT GETNAME
CLIENT SETNAME 
CLIENT GETNAME
CLIENT SETNAME x y
CLIENT ID x
CLIENT NOSUCH
CLIENT
client

TIME x
ROLE
ROLE x
RESET x
QUIT_
READONLY x

CLIENT SETNAME me
HELLO 3
RESET
CLIENT GETNAME
PING

PING
QUIT
PING

QUIT now
PING

ACL WHOAMI
ACL WHOAMI x
ACL USERS
ACL LIST
ACL LIST x
ACL GETUSER default
ACL GETUSER DEFAULT
ACL GETUSER nobody
ACL GETUSER
ACL CAT
ACL CAT nosuch
ACL CAT a b
acl Cat a b
ACL GENPASS 0
ACL GENPASS -1
ACL GENPASS 4097
ACL GENPASS x
ACL GENPASS 99999999999999999999
ACL GENPASS 5 6
ACL LOG reset
ACL LOG
ACL LOG 5
ACL LOG -1
ACL LOG x
ACL LOG 1 2
ACL DRYRUN default GET a
ACL DRYRUN default get
ACL DRYRUN default GET a b
ACL DRYRUN default MSET a
ACL DRYRUN default MSET a b c
ACL DRYRUN default NOSUCH a
ACL DRYRUN default client|id
ACL DRYRUN default client id
ACL DRYRUN default client nosuch
ACL DRYRUN nobody GET a
ACL DRYRUN default
ACL NOSUCH

CLIENT NO-EVICT on
CLIENT NO-EVICT OFF
CLIENT NO-EVICT x
CLIENT NO-EVICT
CLIENT NO-TOUCH on
CLIENT no-touch x
CLIENT NO-TOUCH off
CLIENT CAPA redirect
client capa x y
CLIENT GETREDIR
CLIENT GETREDIR x
CLIENT TRACKINGINFO

CLUSTER INFO
CLUSTER NODES
CLUSTER SLOTS
CLUSTER SLOTS x
CLUSTER SHARDS
CLUSTER LINKS
CLUSTER REPLICAS a
CLUSTER REPLICAS
CLUSTER COUNT-FAILURE-REPORTS a
CLUSTER MYSHARDID
CLUSTER NOSUCH
ASKING
ASKING x

COMMAND HELP
COMMAND HELP x
COMMAND NOSUCH
COMMAND COUNT x

COMMAND INFO nosuch get|x client|id|x | client| client|nosuch
COMMAND DOCS nosuch get|x client|
COMMAND LIST FILTERBY ACLCAT nosuch
COMMAND LIST FILTERBY MODULE nosuch
COMMAND LIST FILTERBY x y
COMMAND LIST x
COMMAND LIST FILTERBY ACLCAT
COMMAND LIST FILTERBY ACLCAT a b
COMMAND LIST filterby pattern nosuch*
COMMAND LIST filterby pattern GE[t-t]
COMMAND LIST filterby pattern hget*
COMMAND LIST filterby pattern h[^a-su-zH]e?
COMMAND LIST filterby pattern [g]e\\t
COMMAND LIST filterby aclcat GEO

COMMAND GETKEYS EVAL x abc a
COMMAND GETKEYS EVAL x 0
COMMAND GETKEYS EVAL x 2 a b c
COMMAND GETKEYS PING
COMMAND GETKEYS PING x
COMMAND GETKEYS GET
COMMAND GETKEYS nosuch x
COMMAND GETKEYS client nosuch x
COMMAND GETKEYS client id x
COMMAND GETKEYS SPUBLISH a b
COMMAND GETKEYS MSET a 1 b
COMMAND GETKEYS mset a 1 b 2
COMMAND GETKEYS ZUNION 3 a
COMMAND GETKEYS ZUNION 2 a b
COMMAND GETKEYS XREAD STREAMS a b 0 0
COMMAND GETKEYS OBJECT ENCODING a
COMMAND GETKEYSANDFLAGS SORT a STORE b
COMMAND GETKEYSANDFLAGS SORT_RO a
COMMAND GETKEYSANDFLAGS sort a
COMMAND GETKEYSANDFLAGS SET a b GET
COMMAND GETKEYSANDFLAGS SET a b
COMMAND GETKEYSANDFLAGS BITFIELD a GET u8 0
COMMAND GETKEYSANDFLAGS BITFIELD a SET u8 0 1
COMMAND GETKEYSANDFLAGS BITFIELD a OVERFLOW sat GET u8 0
COMMAND GETKEYSANDFLAGS GEORADIUS a 0 0 1 m STORE b
COMMAND GETKEYSANDFLAGS XREADGROUP GROUP g c STREAMS a b 1 2
COMMAND GETKEYSANDFLAGS COPY a b
COMMAND GETKEYSANDFLAGS ZUNIONSTORE d 2 a b
COMMAND GETKEYSANDFLAGS LMOVE a b LEFT LEFT
COMMAND GETKEYSANDFLAGS BITOP AND d a b
COMMAND GETKEYSANDFLAGS EVAL x 1 a
COMMAND GETKEYSANDFLAGS PFCOUNT a b
"""

WITH_PASSWORD = """
PING
GET a
CLIENT ID
COMMAND
INFO
HELLO
HELLO 3
HELLO 3 SETNAME me
HELLO 3 FOO
HELLO 3 AUTH default wrong
HELLO 3 AUTH nobody {right}
AUTH wrong
AUTH default wrong
AUTH nobody {right}
AUTH {longer}
AUTH {prefix}
AUTH a b c
RESET
AUTH {right}
PING
AUTH wrong
PING
RESET
PING
HELLO 3 AUTH default {right} SETNAME me
CLIENT GETNAME
RESET
HELLO 3 AUTH default {right} FOO
PING
AUTH default {right}
CLIENT GETNAME
PING

HELLO 2 AUTH default {right}
HELLO 3 AUTH default wrong
HELLO
QUIT

QUIT
PING
"""


def conversations(text):
    """Empty lines part them. An empty argument is written as a space at the end of the line."""
    for block in text.strip("\n").split("\n\n"):
        yield [words(line) for line in block.split("\n")]


# --- replies


class Reply:
    """One value with its type; sets and maps without order."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def line(self):
        end = self.data.index(b"\r\n", self.at)
        line, self.at = self.data[self.at:end], end + 2
        return line[:1].decode(), line[1:].decode("latin-1")

    def read(self):
        kind, rest = self.line()
        if kind in "$=" and rest != "-1":
            size = int(rest)
            body = self.data[self.at:self.at + size].decode("latin-1")
            self.at += size + 2
            return (kind, body)
        if kind in "*~>" and rest != "-1":
            return (kind, [self.read() for _ in range(int(rest))])
        if kind == "%":
            return (kind, [(self.read(), self.read()) for _ in range(int(rest))])
        return (kind, rest)

    def read_all(self):
        values = []
        while self.at < len(self.data):
            values.append(self.read())
        return values


def sort_sets(value):
    """So that order does not matter where the servers keep none."""
    kind, body = value
    if isinstance(body, list) and kind == "%":
        return (kind, sorted((sort_sets(k), sort_sets(v)) for k, v in body))
    if isinstance(body, list):
        inner = [sort_sets(item) for item in body]
        return (kind, sorted(inner) if kind == "~" else inner)
    return value


# --- the two sides


def ask_server(port, requests):
    """One at a time: valkey 8.0 does not answer a failed AUTH while an earlier reply is pending."""
    with RespClient(("127.0.0.1", port)) as client:
        replies = b""
        for request in requests:
            try:
                replies += client.raw(*request)
            except ConnectionError:  # after QUIT
                break
        return replies


def ask_driver(driver, family, version, password, requests):
    return subprocess.run([driver, family, version] + ([password] if password else []),
                          input=b"".join(pack(*request) for request in requests), check=True,
                          stdout=subprocess.PIPE).stdout


# Listed whatever the cluster is; of these, only CLIENT SETINFO is also served whatever it is.
NEWER = ("client|setinfo", "client|capa", "client|no-touch", "cluster|myshardid",
         "cluster|slot-stats", "script|show", "waitaof")
IDS = re.compile(rb"(\$2\r\nid\r\n):\d+")


def without_ids(raw):
    return IDS.sub(rb"\1:0", raw)


class Checker:
    def __init__(self, driver, family, version, port):
        self.driver, self.family, self.version, self.port = driver, family, version, port
        self.problems = []

    def both(self, requests, password=""):
        return (ask_server(self.port, requests),
                ask_driver(self.driver, self.family, self.version, password, requests))

    def differ(self, what, server, proxy):
        self.problems.append("%s %s\n  server: %.600r\n  proxy:  %.600r" %
                             (self.family, what, server, proxy))

    def check_conversation(self, requests, password=""):
        server, proxy = map(without_ids, self.both(requests, password))
        if server == proxy:
            return
        replies, ours = Reply(server).read_all(), Reply(proxy).read_all()
        for request, left, right in zip(requests, replies, ours):
            if request[:2] == ["COMMAND", "LIST"] and left[0] == right[0] == "*":
                left, right = ("~", left[1]), ("~", right[1])  # the servers keep no order
            if sort_sets(left) != sort_sets(right):
                self.differ(" ".join(request), left, right)
        if len(replies) != len(ours):
            self.differ("replies to %s" % requests, len(replies), len(ours))

    def check_all(self):
        for hello in ([], [["HELLO", "3"]]):
            for requests in conversations(CONVERSATIONS):
                self.check_conversation(hello + requests)
            self.check_help(hello, "CLIENT")
            self.check_info(hello)
            self.check_client_info(hello)
            self.check_commands(hello)
            self.check_docs(hello)
        self.check_shapes()

    def check_with_password(self):
        texts = {"right": PASSWORD, "longer": PASSWORD + "s", "prefix": PASSWORD[:-1]}
        texts = {name: text.replace(" ", "_") for name, text in texts.items()}
        for requests in conversations(WITH_PASSWORD.format(**texts)):
            self.check_conversation(requests, PASSWORD)

    # --- replies that cannot be the same bytes

    def check_help(self, hello, container):
        """The server's lines, of the subcommands that are served, in the server's order."""
        server, proxy = (Reply(raw).read_all()[-1] for raw in self.both(hello +
                                                                        [[container, "HELP"]]))
        if [proxy[1][0], proxy[1][-2:]] != [server[1][0], server[1][-2:]]:
            self.differ(container + " HELP", server, proxy)
        known = set(line for _, line in server[1])
        for kind, line in proxy[1]:
            # Redis 7.0 has no CLIENT SETINFO.
            of_setinfo = line.startswith("SETINFO") or "client lib" in line or "meta attr" in line
            if kind != "+" or (line not in known and not
                               (of_setinfo and self.version.startswith("7.0"))):
                self.differ(container + " HELP", "no such line", (kind, line))

    def check_info(self, hello):
        for arguments in ([], ["server"], ["SERVER", "cpu"], ["all"], ["everything"], ["default"],
                          ["nosuch"], ["keyspace"], ["modules"], ["module_list"], ["replication"],
                          ["cluster", "nosuch"], ["commandstats"], ["cpu", "cluster", "cpu"]):
            server, proxy = (Reply(raw).read_all()[-1]
                             for raw in self.both(hello + [["INFO"] + arguments]))
            self.compare_info(["INFO"] + arguments, server, proxy)

    def compare_info(self, request, server, proxy):
        titles = [[line for line in body.split("\r\n") if line.startswith("# ")]
                  for _, body in (server, proxy)]
        if "# Proxy" in titles[1]:
            titles[1].remove("# Proxy")
        if server[0] != proxy[0] or titles[0] != titles[1]:
            self.differ(" ".join(request), (server[0], titles[0]), (proxy[0], titles[1]))
        values = [dict(line.split(":", 1) for line in body.split("\r\n") if ":" in line)
                  for _, body in (server, proxy)]
        for name in ("redis_version", "server_name", "valkey_version", "redis_mode", "server_mode",
                     "os", "arch_bits", "role", "connected_slaves", "cluster_enabled", "loading",
                     "maxmemory_policy", "master_replid2", "aof_enabled", "second_repl_offset"):
            if name == "redis_mode" and self.family == "valkey":
                continue  # libraries look for it, whatever the family
            if values[0].get(name) != values[1].get(name):
                self.differ("%s: %s" % (" ".join(request), name), values[0].get(name),
                            values[1].get(name))
        sections = proxy[1].split("# Proxy")[0]
        unknown = [line.split(":")[0] for line in sections.split("\r\n")
                   if ":" in line and line.split(":")[0] not in values[0]]
        if [name for name in unknown if name != "redis_mode"]:
            self.differ(" ".join(request), "no such fields", unknown)

    def check_client_info(self, hello):
        requests = hello + [["CLIENT", "SETNAME", "me"], ["CLIENT", "INFO"]]
        server, proxy = (Reply(raw).read_all()[-1] for raw in self.both(requests))
        fields = [dict(pair.split("=", 1) for pair in body.rstrip("\n").split(" "))
                  for _, body in (server, proxy)]
        # Fields of a newer server at the end: what SETINFO sets is shown wherever it is served.
        names = [[name for name in part if not name.startswith(("lib-", "tot-net", "tot-cmds"))]
                 for part in fields]
        same = [[part[name] for name in ("name", "db", "sub", "multi", "cmd", "user", "redir",
                                         "resp", "flags", "events")] for part in fields]
        if (server[0], names[0], same[0]) != (proxy[0], names[1], same[1]):
            self.differ("CLIENT INFO", (server[0], names[0], same[0]), (proxy[0], names[1], same[1]))
        if not proxy[1].endswith("\n"):
            self.differ("CLIENT INFO", server[1], proxy[1])

    # --- COMMAND

    def check_commands(self, hello):
        server, proxy = (Reply(raw).read_all()[-1] for raw in self.both(hello + [["COMMAND"]]))
        known = {entry[1][0][1]: entry for entry in server[1]}
        listed = [entry[1][0][1] for entry in proxy[1]]
        for entry in proxy[1]:
            self.compare_command(known.get(entry[1][0][1]), entry)
        requests = hello + [["COMMAND", "COUNT"], ["COMMAND", "LIST"], ["COMMAND", "INFO"],
                            ["COMMAND", "INFO", "GET", "client|ID"]]
        count, names, infos, some = Reply(self.both(requests)[1]).read_all()[len(hello):]
        if count != (":", str(len(listed))) or infos != proxy:
            self.differ("COMMAND COUNT, COMMAND INFO", len(listed), count)
        if [name for _, name in names[1] if "|" not in name] != listed:
            self.differ("COMMAND LIST", listed, names)
        if [entry[1][0][1] for entry in some[1]] != ["get", "client|id"]:
            self.differ("COMMAND INFO GET client|ID", "both", some)

    def compare_command(self, server, proxy):
        name = proxy[1][0][1]
        if server is None:
            if name not in NEWER:
                self.differ("COMMAND INFO " + name, "no such command", proxy)
            return
        reviewed = {fact for command, fact in review.REVIEWED_DIFFERENCES
                    if command.lower() == name}
        facts = ("name", "arity", "flags", "first", "last", "step", "categories", "tips",
                 "key_specs")
        for i, fact in enumerate(facts):
            # Categories follow the flags.
            if fact in reviewed or (fact == "categories" and "flags" in reviewed):
                continue
            left, right = (self.unordered(entry[1][i]) for entry in (server, proxy))
            if left != right:
                self.differ("COMMAND INFO %s: %s" % (name, fact), left, right)
        known = {entry[1][0][1]: entry for entry in server[1][9][1]}
        for entry in proxy[1][9][1]:
            self.compare_command(known.get(entry[1][0][1]), entry)
        if server[1][9][0] != proxy[1][9][0]:
            self.differ("COMMAND INFO %s: subcommands" % name, server[1][9][0], proxy[1][9][0])

    @staticmethod
    def unordered(value):
        kind, body = sort_sets(value)
        return (kind, sorted(body, key=repr) if isinstance(body, list) else body)

    def check_docs(self, hello):
        """The texts are valkey's; their shape is that of any server."""
        server, proxy = (Reply(raw).read_all()[-1]
                         for raw in self.both(hello + [["COMMAND", "DOCS"]]))
        known, ours = dict(pairs_of(server)), dict(pairs_of(proxy))
        for name, docs in ours.items():
            if name in known or name not in NEWER:
                self.compare_docs(name, known[name], docs)

    def compare_docs(self, name, server, proxy):
        left, right = dict(pairs_of(server)), dict(pairs_of(proxy))
        for key, value in right.items():
            if key == "subcommands":
                known = dict(pairs_of(left[key]))
                for sub, docs in pairs_of(value):
                    if sub in known or sub not in NEWER:
                        self.compare_docs(sub, known[sub], docs)
            elif self.family == "valkey" and left.get(key) != value:
                self.differ("COMMAND DOCS %s: %s" % (name, key), left.get(key), value)
            elif key in left and left[key][0] != value[0]:
                self.differ("COMMAND DOCS %s: type of %s" % (name, key), left[key], value)
        lacking = set(left) - set(right)
        if name == "cluster|slots":  # Valkey took its deprecation back
            lacking -= {"deprecated_since", "doc_flags", "replaced_by"}
        if lacking - {"complexity", "arguments", "history", "subcommands"}:
            self.differ("COMMAND DOCS " + name, sorted(lacking), sorted(right))

    # --- without a counterpart

    def check_shapes(self):
        requests = [["TIME"], ["READONLY"], ["READWRITE"], ["CLUSTER", "KEYSLOT", "{user}.x"],
                    ["SELECT", "1"], ["CLIENT", "SETINFO", "LIB-NAME", "a b"],
                    ["CLIENT", "SETINFO", "lib-ver", "1.0"], ["CLIENT", "SETINFO", "nosuch", "x"],
                    ["CLIENT", "INFO"], ["RESET"], ["CLIENT", "INFO"], ["CLUSTER", "HELP"],
                    ["CLIENT", "ID"]]
        raw = ask_driver(self.driver, self.family, self.version, "", requests)
        time, *simple, info, reset, again, helped, client = Reply(raw).read_all()
        if not (time[0] == "*" and all(part[1].isdigit() for part in time[1])):
            self.differ("TIME", "two numbers", time)
        expected = [
            ("+", "OK"), ("+", "OK"), (":", "5474"),
            ("-", "ERR SELECT is not allowed in cluster mode"),
            ("-", "ERR LIB-NAME cannot contain spaces, newlines or special characters."),
            ("+", "OK"), ("-", "ERR Unrecognized option 'nosuch'")]
        if simple != expected:
            self.differ("local replies", expected, simple)
        for line in (info[1], again[1]):
            if "lib-name= lib-ver=1.0" not in line:
                self.differ("CLIENT INFO", "the library's version, also after RESET", line)
        if (reset, client) != (("+", "RESET"), (":", "7")) or len(helped[1]) != 11:
            self.differ("RESET, CLIENT ID, CLUSTER HELP", "", (reset, client, helped))


def pairs_of(value):
    kind, body = value
    if kind == "%":
        return [(key[1], inner) for key, inner in body]
    return [(body[i][1], body[i + 1]) for i in range(0, len(body), 2)]


def check_server(driver, binary):
    server = servers.Server(binary)
    with server as connection:
        info = connection.ask("INFO", "server")
        family = "valkey" if "valkey_version" in info else "redis"
        version = re.search(family + r"_version:(\S+)", info).group(1)
        checker = Checker(driver, family, version, server.port)
        checker.check_all()
        connection.ask("CONFIG", "SET", "requirepass", PASSWORD)
        checker.check_with_password()
        return checker.problems


def main():
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    found = [binary for binary in map(shutil.which, SERVERS) if binary]
    missing = [name for name in SERVERS if not shutil.which(name)]
    problems = [problem for binary in found for problem in check_server(sys.argv[1], binary)]
    if problems:
        print("\n".join(problems))
        return 1
    if missing:
        print("SKIPPED: not installed: " + ", ".join(missing))
        return SKIPPED
    return 0


if __name__ == "__main__":
    sys.exit(main())
