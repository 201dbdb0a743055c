"""A Redis or Valkey Cluster of our own on loopback, formed without redis-cli.

`tools/cluster` is its command line; the end-to-end tests import it:

    with LocalCluster(primaries=3, replicas=1, server="valkey-server") as cluster:
        cluster.kill_node(cluster.owner(key_slot("k")))

Every wait is bounded and raises ClusterError. A process is only ever signalled when it is proved to
be one that was started here (its start time and command line are compared), so a process id that
was given out again is never hit. Standard library only.
"""

import ctypes
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from resp_client import ReplyError, RespClient, key_slot  # noqa: E402

SLOTS = 16384
# A node's bus port is its port + 10000. Both lie below the ports that the kernel gives to outgoing
# connections (from 32768 on), so that no connection takes one between choosing and binding it.
FREE_PORTS = range(11000, 22000)
BUS_PORT_OFFSET = 10000
STATE_FILE = "state.json"


class ClusterError(Exception):
    """One line that says what could not be done."""


def wait_until(condition, what, timeout=30.0, interval=0.02):
    """Polls until condition() is true and returns its value; ClusterError after `timeout` s."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise ClusterError("gave up after %g s waiting for %s" % (timeout, what))
        time.sleep(interval)


def loopback_port_is_free(host, port):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError:
            return False
    return True


def node_port_is_free(host, port):
    return loopback_port_is_free(host, port) and loopback_port_is_free(host,
                                                                       port + BUS_PORT_OFFSET)


def choose_node_port(host, taken=()):
    for _ in range(500):
        port = random.choice(FREE_PORTS)
        if port not in taken and node_port_is_free(host, port):
            return port
    raise ClusterError("no free port in %d-%d" % (FREE_PORTS[0], FREE_PORTS[-1]))


def find_server(name):
    """The path of a server binary; ClusterError if it is not installed."""
    path = shutil.which(name)
    if not path:
        raise ClusterError("%s is not installed" % name)
    return path


def die_with_parent():
    """Between fork and exec: the child gets SIGKILL when the thread that forked it ends."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


# --- processes


def process_fields(pid):
    """/proc/PID/stat from the state on; ["Z"] if there is no such process."""
    try:
        with open("/proc/%d/stat" % pid, encoding="latin-1") as file:
            return file.read().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return ["Z"]


def process_start_time(pid):
    """Clock ticks between the machine's start and the process's; None if there is none."""
    fields = process_fields(pid)
    return None if fields[0] == "Z" else int(fields[19])


def process_command_line(pid):
    try:
        with open("/proc/%d/cmdline" % pid, "rb") as file:
            return file.read().replace(b"\0", b" ").decode("latin-1")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def boot_id():
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


class Process:
    """A process started here, or by an earlier call that recorded it."""

    def __init__(self, pid, start_time, mark, popen=None, boot=None):
        self.pid = pid
        self.start_time = start_time
        self.mark = mark          # what its command line must contain
        self.popen = popen        # set when it is our child
        self.boot = boot or boot_id()

    @classmethod
    def start(cls, arguments, mark, with_parent=False, **options):
        popen = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, start_new_session=True,
                                 preexec_fn=die_with_parent if with_parent else None, **options)
        return cls(popen.pid, process_start_time(popen.pid), mark, popen)

    def is_alive(self):
        if self.popen is not None:
            return self.popen.poll() is None  # nobody has its pid before it is reaped
        return (self.boot == boot_id() and self.start_time is not None and
                process_start_time(self.pid) == self.start_time and
                self.mark in process_command_line(self.pid))

    def is_paused(self):
        return process_fields(self.pid)[0] == "T"

    def send_signal(self, number):
        """True if it was sent."""
        if not self.is_alive():
            return False
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            return False
        return True

    def end(self, timeout=10.0, first_signal=signal.SIGTERM):
        """Ends it: politely, then, after `timeout` s, by SIGKILL."""
        if self.send_signal(first_signal):
            self.send_signal(signal.SIGCONT)  # a stopped process would not see the signal
            try:
                wait_until(lambda: not self.is_alive(), "", timeout)
            except ClusterError:
                self.send_signal(signal.SIGKILL)
                wait_until(lambda: not self.is_alive(), "process %d to end" % self.pid, 10)
        if self.popen is not None:
            self.popen.wait(10)

    def record(self):
        return {"pid": self.pid, "start_time": self.start_time, "mark": self.mark,
                "boot": self.boot}

    @classmethod
    def from_record(cls, record):
        return cls(record["pid"], record["start_time"], record["mark"], None, record["boot"])


# --- the cluster


class Node:
    """One server of the cluster. directory and process: of one that was started here."""

    def __init__(self, cluster, host, port, directory=None, identity=None):
        self.cluster = cluster
        self.host = host
        self.port = port
        self.directory = directory
        self.id = identity
        self.process = None

    def __repr__(self):
        return "Node(%d)" % self.port

    @property
    def address(self):
        return "[%s]:%d" % (self.host, self.port) if ":" in self.host else "%s:%d" % (self.host,
                                                                                     self.port)

    def connect(self, timeout=10.0):
        client = RespClient((self.host, self.port), timeout)
        try:
            if self.cluster.password:
                client.call("AUTH", self.cluster.password)
        except BaseException:
            client.close()
            raise
        return client

    def command(self, *args, timeout=10.0):
        """One command on a connection of its own; an error reply is raised."""
        with self.connect(timeout) as client:
            return client.call(*args)

    def info(self, section):
        text = self.command("INFO", section).decode("latin-1")
        return dict(line.split(":", 1) for line in text.split("\r\n") if ":" in line)

    def cluster_info(self):
        text = self.command("CLUSTER", "INFO").decode("latin-1")
        return dict(line.split(":", 1) for line in text.split("\r\n") if ":" in line)

    def view(self):
        """What this node says of all: id → fields of CLUSTER NODES."""
        nodes = {}
        for line in self.command("CLUSTER", "NODES").decode("latin-1").splitlines():
            fields = line.split(" ")
            nodes[fields[0]] = {
                "address": fields[1], "flags": fields[2].split(","), "primary": fields[3],
                "epoch": int(fields[6]), "link": fields[7],
                "slots": sorted(field for field in fields[8:] if not field.startswith("[")),
                "moving": [field for field in fields[8:] if field.startswith("[")]}
        return nodes

    def is_primary(self):
        return self.command("ROLE")[0] == b"master"


def slot_ranges(fields):
    """The slots of a node of a view, as ranges."""
    for entry in fields["slots"]:
        first, _, last = entry.partition("-")
        yield range(int(first), int(last or first) + 1)


class Cluster:
    """What can be asked of, and done to, any cluster of which we know the nodes."""

    password = None
    nodes = ()
    databases = 1

    def answering(self):
        """The nodes that may be asked."""
        raise NotImplementedError

    # --- looking at it

    def node_by_id(self, identity):
        for node in self.nodes:
            if node.id == identity:
                return node
        raise ClusterError("an unknown node: %s" % identity)

    def slot_map(self, seen_by=None):
        """slot → Node (None where no node serves it), as `seen_by` or the first answering node says."""
        owners = [None] * SLOTS
        for identity, fields in (seen_by or self.answering()[0]).view().items():
            if "fail" in fields["flags"]:
                continue
            for slots in slot_ranges(fields):
                owners[slots.start:slots.stop] = [self.node_by_id(identity)] * len(slots)
        return owners

    def owner(self, slot):
        return self.slot_map()[slot]

    def primaries(self):
        return [node for node in self.answering() if node.is_primary()]

    def replicas_of(self, primary):
        view = self.answering()[0].view()
        return [node for node in self.nodes if view[node.id]["primary"] == primary.id]

    # --- moving slots

    def begin_move(self, slot, target):
        """Marks the slot: importing at `target`, migrating at its owner; returns the owner."""
        source = self.owner(slot)
        if source is target:
            raise ClusterError("slot %d is at %r already" % (slot, target))
        target.command("CLUSTER", "SETSLOT", slot, "IMPORTING", source.id)
        source.command("CLUSTER", "SETSLOT", slot, "MIGRATING", target.id)
        return source

    def move_keys(self, slot, source, target, at_most=None, batch=16, options=()):
        """Moves the slot's keys, or `at_most` of them, by MIGRATE; returns how many."""
        return sum(self._move_keys_of(database, slot, source, target, at_most, batch, options)
                   for database in range(self.databases))

    def _move_keys_of(self, database, slot, source, target, at_most, batch, options):
        moved = 0
        with source.connect(30) as client:
            if database != 0:
                client.call("SELECT", database)
            while at_most is None or moved < at_most:
                count = batch if at_most is None else min(batch, at_most - moved)
                keys = client.call("CLUSTER", "GETKEYSINSLOT", slot, count)
                if not keys:
                    break
                auth = ("AUTH", self.password) if self.password else ()
                client.call("MIGRATE", target.host, target.port, "", database, 20000, *options, *auth,
                            "KEYS", *keys)
                moved += len(keys)
        return moved

    def finish_move(self, slot, source, target, *options):
        """Moves what is left and gives the slot to `target`; returns, when every node has heard of
        it, how many keys that were. options: of MIGRATE."""
        moved = self.move_keys(slot, source, target, options=options)
        # The target first: else, for a moment, nobody would own the slot.
        others = [node for node in self.primaries() if node not in (source, target)]
        for node in [target, source] + others:
            try:
                node.command("CLUSTER", "SETSLOT", slot, "NODE", target.id)
            except ReplyError as error:
                # A source that lost its last slot may have become a replica of the target already.
                if node is target or "only with masters" not in str(error):
                    raise
        self._wait_until_heard(slot, target)
        return moved

    def _wait_until_heard(self, slot, owner):
        """A move that begins before all know this one's epoch may get the same epoch; when the
        nodes settle that, one that was told the owner, but not its epoch, may go back for good."""
        unheard = {"epoch": None, "slots": ()}

        def heard():
            views = [node.view().get(owner.id, unheard) for node in self.answering()]
            return (len({view["epoch"] for view in views}) == 1 and
                    all(any(slot in slots for slots in slot_ranges(view)) for view in views))
        wait_until(heard, "all to hear that slot %d is at %r" % (slot, owner))

    def move_slot(self, slot, target):
        source = self.begin_move(slot, target)
        self.finish_move(slot, source, target)
        return source

    def cancel_move(self, slot, source, target):
        """Takes the marks back; keys that were moved stay where they are."""
        for node in (source, target):
            node.command("CLUSTER", "SETSLOT", slot, "STABLE")

    def failover(self, replica):
        """A manual failover: `replica` becomes the primary of its shard."""
        for attempt in range(4):
            replica.command("CLUSTER", "FAILOVER")
            try:
                # The servers give a manual failover up after 5 s, as when the replica lags.
                return wait_until(replica.is_primary, "%r to be promoted" % replica, 7)
            except ClusterError:
                if attempt == 3:
                    raise

    # --- moves that were interrupted

    def open_slots(self):
        """The slots that some primary marks as migrating or importing."""
        slots = set()
        for node in self.primaries():
            slots.update(int(mark[1:mark.index("-")]) for mark in node.view()[node.id]["moving"])
        return sorted(slots)

    def repair_move(self, slot):
        """Ends a move of which nobody knows how far it came, and whose nodes may have changed."""
        source = self.owner(slot)
        if source is None:
            raise ClusterError("nobody serves slot %d" % slot)
        primaries = self.primaries()
        marked = [node for node in primaries
                  if any(mark.startswith("[%d-" % slot) for mark in node.view()[node.id]["moving"])]
        # Forward if there may be something to go on with, since keys at the target are seen by
        # nobody once the marks are gone.
        targets = [node for node in primaries if node is not source and
                   (node in marked or node.command("CLUSTER", "COUNTKEYSINSLOT", slot))]
        if targets:
            targets[0].command("CLUSTER", "SETSLOT", slot, "IMPORTING", source.id)
            source.command("CLUSTER", "SETSLOT", slot, "MIGRATING", targets[0].id)
            # The source's is the newer one of a key that both have: it is served until it is gone.
            self.finish_move(slot, source, targets[0], "REPLACE")
        for node in marked:
            try:
                node.command("CLUSTER", "SETSLOT", slot, "STABLE")
            except ReplyError as error:
                if "only with masters" not in str(error):
                    raise


class RemoteCluster(Cluster):
    """A cluster that runs somewhere. addresses: (host, port) of some of its nodes."""

    def __init__(self, addresses, password=None):
        self.password = password
        self.nodes = [Node(self, host, port) for host, port in addresses]
        self.refresh()

    def refresh(self):
        """Learns the nodes anew; ClusterError if none of those known so far answers."""
        for node in self.nodes:
            try:
                view = node.view()
                break
            except (OSError, ReplyError):
                continue
        else:
            raise ClusterError("no node of the cluster answers")
        known = {other.id: other for other in self.nodes if other.id}
        nodes = []
        for identity, fields in view.items():
            if {"noaddr", "handshake"} & set(fields["flags"]):
                continue
            host, _, port = fields["address"].split("@")[0].rpartition(":")
            other = known.get(identity) or Node(self, host, int(port), identity=identity)
            other.host, other.port = host.strip("[]") or node.host, int(port)
            nodes.append(other)
        self.nodes = nodes

    def answering(self):
        def answers(node):
            try:
                return node.command("PING", timeout=1.0) == b"PONG"
            except (OSError, ReplyError):
                return False
        answering = [node for node in self.nodes if answers(node)]
        if not answering:
            raise ClusterError("no node of the cluster answers")
        return answering


class LocalCluster(Cluster):
    """P primaries and P × R replicas; as a context manager it starts and stops them.

    ports: None for free ones, or the first of consecutive ports. config: extra lines for each
    server's configuration. directory: None for a temporary one that stop() removes.
    keep_running: the servers outlive this process (the command line), else they end with it.
    """

    def __init__(self, primaries=3, replicas=1, server="redis-server", ports=None, bind="127.0.0.1",
                 node_timeout_ms=2000, password=None, config=(), directory=None,
                 keep_running=False, databases=1):
        if primaries < 1 or replicas < 0:
            raise ClusterError("a cluster has at least 1 primary and 0 replicas")
        if bind not in ("127.0.0.1", "::1"):
            raise ClusterError("loopback only: bind to 127.0.0.1 or ::1, not %s" % bind)
        self.primaries_wanted = primaries
        self.replicas_wanted = replicas
        self.server = find_server(server)
        self.first_port = ports
        self.bind = bind
        self.node_timeout_ms = node_timeout_ms
        self.databases = databases
        self.password = password
        self.config = list(config)
        self.keep_running = keep_running
        self.own_directory = directory is None
        self.directory = directory
        self.nodes = []

    def __enter__(self):
        return self.start()

    def __exit__(self, *unused):
        self.stop()

    # --- start and stop

    def start(self):
        if self.directory is None:
            self.directory = tempfile.mkdtemp(prefix="rcproxy-cluster-")
        os.makedirs(self.directory, mode=0o700, exist_ok=True)
        try:
            count = self.primaries_wanted * (1 + self.replicas_wanted)
            for index in range(count):
                self._add_server(None if self.first_port is None else self.first_port + index)
            for node in self.nodes:
                node.id = node.command("CLUSTER", "MYID").decode()
            self._write_state()  # before what may take long, so that `stop` always finds them
            self._form()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self):
        for node in self.nodes:
            if node.process is not None and node.process.send_signal(signal.SIGTERM):
                node.process.send_signal(signal.SIGCONT)
        for node in self.nodes:
            if node.process is not None:
                node.process.end()
            shutil.rmtree(node.directory, ignore_errors=True)
        self.nodes = []
        if self.directory:
            state = os.path.join(self.directory, STATE_FILE)
            if os.path.exists(state):
                os.unlink(state)
            if self.own_directory:
                shutil.rmtree(self.directory, ignore_errors=True)

    def _configuration(self, node):
        lines = ["port %d" % node.port, "bind %s" % self.bind, "dir %s" % quoted(node.directory),
                 "logfile log", "daemonize no", 'save ""', "appendonly no", "protected-mode no",
                 "cluster-enabled yes", "cluster-config-file nodes.conf",
                 "cluster-node-timeout %d" % self.node_timeout_ms, "repl-diskless-sync yes",
                 "repl-diskless-sync-delay 0", "tcp-backlog 511"]
        if self.password:
            lines += ["requirepass %s" % quoted(self.password),
                      "masterauth %s" % quoted(self.password)]
        if self.databases > 1:
            lines.append("cluster-databases %d" % self.databases)
        return "\n".join(lines + self.config) + "\n"

    def _add_server(self, port=None):
        """Starts one server that knows no other yet."""
        tries = 1 if port is not None else 5  # a free port may be taken before it is bound
        for attempt in range(tries):
            chosen = port if port is not None else choose_node_port(
                self.bind, [node.port for node in self.nodes])
            if not node_port_is_free(self.bind, chosen):
                raise ClusterError("port %d or its bus port %d is in use" %
                                   (chosen, chosen + BUS_PORT_OFFSET))
            node = Node(self, self.bind, chosen, os.path.join(self.directory, "node-%d" % chosen))
            shutil.rmtree(node.directory, ignore_errors=True)
            os.makedirs(node.directory, mode=0o700)
            try:
                self._run(node)
            except ClusterError:
                if attempt == tries - 1:
                    raise
                continue
            self.nodes.append(node)
            return node

    def _run(self, node):
        """Starts the node's process and waits until it answers."""
        path = os.path.join(node.directory, "server.conf")
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w",
                  encoding="utf-8") as file:
            file.write(self._configuration(node))
        with open(os.path.join(node.directory, "output"), "ab") as output:
            node.process = Process.start([self.server, path], mark="", stdout=output,
                                         stderr=subprocess.STDOUT,
                                         with_parent=not self.keep_running)

        def answers():
            if not node.process.is_alive():
                raise ClusterError("%s on port %d ended at start: %s" %
                                   (self.server, node.port, last_line(node.directory)))
            try:
                info = node.info("server")
            except (OSError, ReplyError, ConnectionError):
                return False
            if int(info["process_id"]) != node.process.pid:
                raise ClusterError("another server answers on port %d" % node.port)
            return True

        try:
            wait_until(answers, "%s on port %d to answer" % (self.server, node.port), 30)
        except BaseException:
            node.process.end()
            raise
        # The servers rewrite their command line: "redis-server 127.0.0.1:7001 [cluster]".
        node.process.mark = ":%d" % node.port

    def _form(self):
        primaries = self.nodes[:self.primaries_wanted]
        replicas = self.nodes[self.primaries_wanted:]
        for epoch, node in enumerate(self.nodes, 1):
            node.command("CLUSTER", "SET-CONFIG-EPOCH", epoch)
        for index, node in enumerate(primaries):
            node.command("CLUSTER", "ADDSLOTSRANGE", SLOTS * index // len(primaries),
                         SLOTS * (index + 1) // len(primaries) - 1)
        self._introduce(self.nodes)
        for index, node in enumerate(replicas):
            self._replicate(node, primaries[index % len(primaries)])
        self.wait_until_ready()

    def _introduce(self, newcomers):
        """Every pair meets: quicker than gossip."""
        for newcomer in newcomers:
            for node in self.nodes:
                if node is not newcomer:
                    newcomer.command("CLUSTER", "MEET", self.bind, node.port)
        ids = {node.id for node in self.nodes}
        wait_until(lambda: all(ids <= set(node.view()) and not any(
            "handshake" in other["flags"] for other in node.view().values())
            for node in self.answering()), "all nodes to meet", 60)

    def _replicate(self, node, primary):
        def accepted():
            try:
                return node.command("CLUSTER", "REPLICATE", primary.id) == b"OK"
            except ReplyError as error:
                if "Unknown node" in str(error):  # its gossip has not come yet
                    return False
                raise
        wait_until(accepted, "%r to replicate %r" % (node, primary), 20)

    def wait_until_ready(self, timeout=60.0):
        """Every answering node says: state ok, all slots served, one same map; replicas in sync."""
        def ready():
            try:
                return self.why_not_ready() is None
            except (OSError, ReplyError):
                return False
        try:
            wait_until(ready, "", timeout, 0.05)
        except ClusterError:
            try:
                reason = self.why_not_ready()
            except (OSError, ReplyError) as error:
                reason = str(error)
            raise ClusterError("the cluster is not ready after %g s: %s" %
                               (timeout, reason)) from None

    def why_not_ready(self):
        """None when the answering nodes form one whole cluster, else the first reason."""
        maps = set()
        for node in self.answering():
            info = node.cluster_info()
            if info["cluster_state"] != "ok":
                return "%r says cluster_state:%s" % (node, info["cluster_state"])
            if int(info["cluster_slots_ok"]) != SLOTS:
                return "%r sees %s slots served" % (node, info["cluster_slots_ok"])
            view = node.view()
            maps.add(tuple(sorted((identity, tuple(fields["slots"]), fields["primary"])
                                  for identity, fields in view.items()
                                  if not {"fail", "handshake", "noaddr"} & set(fields["flags"]))))
            replication = node.info("replication")
            if replication["role"] == "slave" and replication["master_link_status"] != "up":
                return "the replica %r is not in sync" % node
            if replication["role"] == "master":
                for name, state in replication.items():
                    if name.startswith("slave") and name[5:].isdigit() and \
                            "state=online" not in state:
                        return "a replica of %r is not online" % node
        return None if len(maps) == 1 else "the nodes disagree on the slots"

    # --- the state file

    def _state_path(self):
        return os.path.join(self.directory, STATE_FILE)

    def _write_state(self):
        state = {
            "server": self.server, "bind": self.bind, "password": self.password,
            "node_timeout_ms": self.node_timeout_ms, "config": self.config,
            "nodes": [dict(port=node.port, id=node.id, directory=node.directory,
                           process=node.process.record()) for node in self.nodes]}
        temporary = self._state_path() + ".new"
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w",
                  encoding="utf-8") as file:
            json.dump(state, file, indent=1)
            file.write("\n")
        os.replace(temporary, self._state_path())

    @classmethod
    def load(cls, directory):
        """The cluster that an earlier start() left in `directory`."""
        try:
            with open(os.path.join(directory, STATE_FILE), encoding="utf-8") as file:
                state = json.load(file)
        except FileNotFoundError:
            raise ClusterError("no cluster was started in %s" % directory) from None
        cluster = cls.__new__(cls)
        cluster.server = state["server"]
        cluster.bind = state["bind"]
        cluster.password = state["password"]
        cluster.node_timeout_ms = state["node_timeout_ms"]
        cluster.config = state["config"]
        cluster.keep_running = True
        cluster.directory = directory
        cluster.own_directory = False
        cluster.first_port = None
        cluster.nodes = []
        for entry in state["nodes"]:
            node = Node(cluster, cluster.bind, entry["port"], entry["directory"], entry["id"])
            node.process = Process.from_record(entry["process"])
            cluster.nodes.append(node)
        return cluster

    # --- looking at it

    def running(self):
        return [node for node in self.nodes if node.process is not None and
                node.process.is_alive()]

    def answering(self):
        return [node for node in self.running() if not node.process.is_paused()]

    @property
    def addresses(self):
        return [node.address for node in self.nodes]

    def version(self):
        """("redis" or "valkey", version)."""
        info = self.answering()[0].info("server")
        if "valkey_version" in info:
            return "valkey", info["valkey_version"]
        return "redis", info["redis_version"]

    # --- faults and changes

    def kill_node(self, node):
        """SIGKILL; returns when the process has gone."""
        node.process.end(first_signal=signal.SIGKILL)

    def pause_node(self, node):
        """SIGSTOP: it keeps its connections and answers nothing."""
        if not node.process.send_signal(signal.SIGSTOP):
            raise ClusterError("%r does not run" % node)

    def resume_node(self, node):
        node.process.send_signal(signal.SIGCONT)

    def restart_node(self, node):
        """Starts a killed node again, with its old identity and empty memory."""
        if node.process.is_alive():
            raise ClusterError("%r still runs" % node)
        self._run(node)
        self._write_state()

    def add_node(self, primary=None):
        """A new node: a replica of `primary`, or a primary without slots."""
        node = self._add_server()
        node.id = node.command("CLUSTER", "MYID").decode()
        self._introduce([node])
        if primary is not None:
            self._replicate(node, primary)
        wait_until(lambda: node.cluster_info()["cluster_state"] == "ok", "%r to take part" % node)
        self._write_state()
        return node

    def remove_node(self, node):
        """Ends a node that serves no slots; the others forget it."""
        if any(owner is node for owner in self.slot_map(node)):
            raise ClusterError("%r still serves slots" % node)
        node.process.end()
        self.nodes.remove(node)
        for other in self.answering():
            other.command("CLUSTER", "FORGET", node.id)
        shutil.rmtree(node.directory, ignore_errors=True)
        self._write_state()


def quoted(value):
    """A value for a server's configuration file."""
    return '"%s"' % value.replace("\\", "\\\\").replace('"', '\\"')


def last_line(directory):
    for name in ("log", "output"):
        try:
            with open(os.path.join(directory, name), encoding="utf-8", errors="replace") as file:
                lines = file.read().strip().splitlines()
        except FileNotFoundError:
            continue
        if lines:
            return lines[-1]
    return "it left no log"


__all__ = ["ClusterError", "LocalCluster", "Node", "Process", "RemoteCluster", "SLOTS", "die_with_parent",
           "find_server", "key_slot", "loopback_port_is_free", "wait_until"]
