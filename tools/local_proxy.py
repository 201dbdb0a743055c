#!/usr/bin/env python3
"""An rcproxy process of our own on loopback: started, waited for, ended by its process id.

The end-to-end tests use the class. As a program it keeps one in the background for tools/quickstart:

  tools/local_proxy.py start --dir DIR --binary PATH [rcproxy's flags…]
  tools/local_proxy.py status|stop --dir DIR

Every wait is bounded and raises ProxyError. Standard library only.
"""

import argparse
import http.client
import json
import os
import random
import signal
import subprocess
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from local_cluster import (ClusterError, Process, loopback_port_is_free,  # noqa: E402
                           wait_until)
from resp_client import RespClient, parse_address  # noqa: E402

STATE_FILE = "proxy.json"
# Below the ports of outgoing connections, and apart from those of the clusters.
FREE_PORTS = range(22000, 32000)
PORT_IN_USE_EXIT = 2


class ProxyError(Exception):
    """One line that says what could not be done."""


def choose_port():
    for _ in range(500):
        port = random.choice(FREE_PORTS)
        if loopback_port_is_free("127.0.0.1", port):
            return port
    raise ProxyError("no free port in %d-%d" % (FREE_PORTS[0], FREE_PORTS[-1]))


class LocalProxy:
    """One proxy. Its output goes to DIRECTORY/proxy.log; addresses are chosen unless given.

    flags: further flags, as a list. addr: the value of --addr. debug_addr: of --debug-addr.
    launcher: a command that runs the proxy (for limits and filters).
    """

    def __init__(self, binary, directory, startup_nodes, flags=(), addr=None, debug_addr=None,
                 launcher=(), environment=None, keep_running=False):
        self.binary = binary
        self.directory = directory
        self.startup_nodes = list(startup_nodes)
        self.flags = list(flags)
        self.fixed_addr = addr
        self.fixed_debug_addr = debug_addr
        self.launcher = list(launcher)
        self.environment = environment
        self.keep_running = keep_running
        self.log_path = os.path.join(directory, "proxy.log")
        self.process = None
        self.addr = None
        self.debug_addr = None

    def arguments(self):
        return self.launcher + [self.binary, "--addr", self.addr, "--debug-addr", self.debug_addr,
                                "--startup-nodes", ",".join(self.startup_nodes)] + self.flags

    def start(self, wait="ready", timeout=20.0):
        """wait: "ready" (a topology is there), "alive" (it listens) or None."""
        os.makedirs(self.directory, exist_ok=True)
        for attempt in range(5):  # a free port may be taken before it is bound
            self.addr = self.fixed_addr or "127.0.0.1:%d" % choose_port()
            self.debug_addr = self.fixed_debug_addr or "127.0.0.1:%d" % choose_port()
            with open(self.log_path, "wb") as log:
                self.process = Process.start(
                    self.arguments(), mark=os.path.basename(self.binary), stdout=log,
                    stderr=subprocess.STDOUT, with_parent=not self.keep_running,
                    env=dict(os.environ, **self.environment) if self.environment else None)
            if wait is None:
                return self
            try:
                self.wait_for(wait, timeout)
                return self
            except ProxyError:
                taken = (self.process.popen.poll() == PORT_IN_USE_EXIT and "in use" in self.log())
                self.kill()
                if not taken or attempt == 4 or (self.fixed_addr and self.fixed_debug_addr):
                    raise
        return self

    def wait_for(self, state, timeout=20.0):
        path = {"ready": "/readyz", "alive": "/healthz"}[state]

        def reached():
            if not self.process.is_alive():
                raise ProxyError("the proxy ended with exit code %s: %s" %
                                 (self.exit_code(), self.log().strip()[-2000:]))
            try:
                return self.http(path)[0] == 200
            except (OSError, http.client.HTTPException):
                return False
        try:
            wait_until(reached, "", timeout)
        except ClusterError:
            raise ProxyError("the proxy is not %s after %g s: %s" %
                             (state, timeout, self.log().strip()[-2000:])) from None

    # --- asking it

    def http(self, path, method="GET", timeout=10.0):
        """(status, body) of its debug address."""
        host, port = parse_address(self.debug_addr)
        connection = http.client.HTTPConnection(host, port, timeout=timeout)
        try:
            connection.request(method, path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def metrics(self):
        """Metric name without the prefix "rcproxy_" → value."""
        status, text = self.http("/metrics")
        if status != 200:
            raise ProxyError("/metrics: HTTP status %d" % status)
        values = {}
        for line in text.splitlines():
            if line and not line.startswith("#"):
                name, value = line.rsplit(" ", 1)
                values[name.removeprefix("rcproxy_")] = float(value)
        return values

    def connect(self, timeout=10.0, **options):
        return RespClient(parse_address(self.addr), timeout, **options)

    def log(self):
        with open(self.log_path, encoding="utf-8", errors="replace") as file:
            return file.read()

    def memory_kib(self, field):
        """A field of /proc/PID/status: VmRSS, VmHWM…"""
        with open("/proc/%d/status" % self.process.pid, encoding="ascii") as file:
            for line in file:
                if line.startswith(field + ":"):
                    return int(line.split()[1])
        raise ProxyError("no %s" % field)

    def resident_kib(self):
        """(receive, other): what is in memory of the receive buffers, and of all else."""
        receive = other = resident = 0
        with open("/proc/%d/smaps" % self.process.pid, encoding="utf-8") as file:
            for line in file:
                name, _, value = line.partition(":")
                if name == "Rss":
                    resident = int(value.split()[0])
                elif name == "VmFlags":
                    # The proxy keeps its receive buffers, and nothing else, out of core dumps.
                    if "dd" in value.split() and "io" not in value.split():
                        receive += resident
                    else:
                        other += resident
        return receive, other

    def descriptors(self):
        return len(os.listdir("/proc/%d/fd" % self.process.pid))

    # --- ending it

    def exit_code(self):
        return None if self.process.popen is None else self.process.popen.poll()

    def wait(self, timeout=30.0):
        """The exit code, once it has ended by itself."""
        try:
            return self.process.popen.wait(timeout)
        except subprocess.TimeoutExpired:
            raise ProxyError("the proxy still runs after %g s: %s" %
                             (timeout, self.log().strip()[-2000:])) from None

    def stop(self, timeout=30.0):
        """SIGTERM; the exit code (None if it is not our child)."""
        self.process.send_signal(signal.SIGTERM)
        if self.process.popen is not None:
            return self.wait(timeout)
        self.process.end(timeout)
        return None

    def kill(self):
        self.process.end(first_signal=signal.SIGKILL)


# --- in the background


def state_path(directory):
    return os.path.join(directory, STATE_FILE)


def load(directory):
    try:
        with open(state_path(directory), encoding="utf-8") as file:
            state = json.load(file)
    except FileNotFoundError:
        return None
    proxy = LocalProxy(state["binary"], directory, state["startup_nodes"])
    proxy.addr, proxy.debug_addr = state["addr"], state["debug_addr"]
    proxy.process = Process.from_record(state["process"])
    return proxy


def start(options, flags):
    old = load(options.dir)
    if old is not None and old.process.is_alive():
        raise ProxyError("a proxy runs already, process %d" % old.process.pid)
    if options.addr and not options.addr.startswith("unix:"):
        host, port = parse_address(options.addr)
        if not loopback_port_is_free(host, port):
            raise ProxyError("%s is in use by another program; end it, or choose another address" %
                             options.addr)
    proxy = LocalProxy(options.binary, options.dir, options.startup_nodes.split(","), flags,
                       options.addr, options.debug_addr, keep_running=True)
    proxy.start()
    with open(state_path(options.dir), "w", encoding="utf-8") as file:
        json.dump({"binary": proxy.binary, "startup_nodes": proxy.startup_nodes,
                   "addr": proxy.addr, "debug_addr": proxy.debug_addr,
                   "process": proxy.process.record()}, file, indent=1)
    print("rcproxy, process %d, on %s; metrics on http://%s/metrics; log %s" %
          (proxy.process.pid, proxy.addr, proxy.debug_addr, proxy.log_path))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=("start", "status", "stop"))
    parser.add_argument("--dir", required=True)
    parser.add_argument("--binary")
    parser.add_argument("--addr")
    parser.add_argument("--debug-addr")
    parser.add_argument("--startup-nodes", default="127.0.0.1:7001")
    options, flags = parser.parse_known_args()
    options.dir = os.path.abspath(options.dir)
    try:
        if options.action == "start":
            start(options, flags)
            return
        proxy = load(options.dir)
        if proxy is None or not proxy.process.is_alive():
            raise ProxyError("no proxy runs")
        if options.action == "stop":
            proxy.stop()
            os.unlink(state_path(options.dir))
            print("stopped rcproxy")
        else:
            proxy.wait_for("ready", 1.0)
            print("rcproxy, process %d, on %s; metrics on http://%s/metrics" %
                  (proxy.process.pid, proxy.addr, proxy.debug_addr))
    except (ProxyError, ClusterError, OSError) as error:
        sys.exit("%s" % error)


if __name__ == "__main__":
    main()
