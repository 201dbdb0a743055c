"""Applications and client libraries that work with one plain Redis, as they are in use, and some
that want a cluster.

Each is a script of its own: SCRIPT HOST PORT [ARGUMENT…]. It asserts what it gets, prints how many
checks passed and exits with 0. None of them knows of the proxy: each also passes on a plain server,
or, if its name has "cluster" in it, on a node of a real cluster.
Where an application's own documentation asks for a key prefix on a cluster, that is set; nothing else.

`tools/applications` runs them for longer, `tests/e2e/applications_test.py` with little work.
"""

import os
import re
import shutil
import subprocess
from collections import namedtuple

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
NODE_DIR = os.environ.get("RCPROXY_NODE_DIR", os.path.join(ROOT, "build", "node"))
PYTHON = "/usr/bin/python3"  # the one that Debian's packages are for
PASSED = re.compile(r"^all (\d+) checks passed$", re.MULTILINE)
NOT_SERVED = re.compile(r"^not served: .*$", re.MULTILINE)

# needs: Python modules, or None for a script of Node.js; flags: of the proxy, beside the usual.
Application = namedtuple("Application", "name script arguments needs flags")
APPLICATIONS = [
    Application("bullmq", "bullmq.js", ["ioredis"], None, []),
    Application("bullmq_node_redis", "bullmq.js", ["node-redis"], None, []),
    Application("socket_io", "socket_io.js", ["adapter", "ioredis"], None, []),
    Application("socket_io_node_redis", "socket_io.js", ["adapter", "node-redis"], None, []),
    Application("socket_io_sharded", "socket_io.js", ["sharded", "node-redis"], None, []),
    Application("express_session", "express_session.js", [], None, []),
    Application("rate_limiter", "rate_limiter.js", [], None, []),
    Application("redlock", "redlock.js", [], None, []),
    Application("ioredis", "ioredis.js", [], None, []),
    Application("node_redis_4", "node_redis.js", ["4"], None, []),
    Application("node_redis_5", "node_redis.js", ["5"], None, []),
    Application("node_redis_5_resp3", "node_redis.js", ["5", "3"], None, []),
    Application("redis_py", "redis_py.py", [], ["redis"], []),
    Application("ioredis_cluster", "ioredis_cluster.js", [], None, ["--cluster-face"]),
    Application("node_redis_4_cluster", "node_redis_cluster.js", ["4"], None, ["--cluster-face"]),
    Application("node_redis_5_cluster", "node_redis_cluster.js", ["5"], None, ["--cluster-face"]),
    Application("node_redis_5_resp3_cluster", "node_redis_cluster.js", ["5", "3"], None,
                ["--cluster-face"]),
    Application("redis_py_cluster", "redis_py_cluster.py", [], ["redis"], ["--cluster-face"]),
    Application("hiredis", "libhiredis.py", [], [], []),
    Application("celery", "celery_run.py", [], ["celery", "redis"], []),
    Application("celery_chords", "celery_run.py", ["chords"], ["celery", "redis"],
                ["--cross-slot", "split"]),
    # Its workers have several keys, of different slots, in one transaction.
    Application("rq", "rq_run.py", [], ["rq", "redis"], ["--cross-slot", "split"]),
]


class ApplicationError(Exception):
    """What it printed, or why it did not end."""


def reason_to_skip(application, binary):
    """Why it can't be run here, or None. `binary`: the proxy; None: it runs already."""
    if application.needs is None:
        if not shutil.which("node") or not os.path.isdir(os.path.join(NODE_DIR, "node_modules")):
            return "its npm packages are not installed; tools/test installs them"
    elif not os.access(PYTHON, os.X_OK):
        return "%s is not there" % PYTHON
    else:
        for module in application.needs:
            found = subprocess.run([PYTHON, "-c", "import %s" % module], check=False,
                                   stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL)
            if found.returncode != 0:
                return "python3-%s is not installed" % module
    if application.flags and binary:
        usage = subprocess.run([binary, "--help"], stdin=subprocess.DEVNULL, check=False,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT).stdout.decode()
        for flag in application.flags:
            if flag.startswith("--") and flag not in usage:
                return "this proxy has no %s" % flag
    return None


def run(application, address, rounds=1, timeout=120.0):
    """(number of checks, lines about what was not served); ApplicationError if it failed."""
    interpreter = "node" if application.needs is None else PYTHON
    host, port = address.rsplit(":", 1)
    process = subprocess.Popen(
        [interpreter, os.path.join(HERE, application.script), host, port, *application.arguments],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env=dict(os.environ, RCPROXY_NODE_DIR=NODE_DIR, RCPROXY_ROUNDS=str(rounds),
                 PYTHONDONTWRITEBYTECODE="1"),
        start_new_session=True)
    try:
        output = process.communicate(timeout=timeout)[0].decode(errors="replace")
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)  # its own session: whatever it has started, too
        output = process.communicate()[0].decode(errors="replace")
        raise ApplicationError("%s: not ended after %g s: %s" % (application.name, timeout,
                                                                 output[-4000:])) from None
    passed = PASSED.search(output)
    if process.returncode != 0 or not passed:
        raise ApplicationError("%s: exit code %d: %s" % (application.name, process.returncode,
                                                         output[-4000:]))
    return int(passed.group(1)), NOT_SERVED.findall(output)
