#!/usr/bin/env python3
"""Reads every #include and fails on one that the architecture forbids.

  io → system, Abseil · resp → Abseil · cluster → resp · proxy → io, resp, cluster
  tools → io, resp, cluster · tests, microbench → anything
  nothing includes tests, except microbench its sim/
  only io/uring_setup.h includes <liburing.h>, which only the ring and its probe know

tools/check_layering.py [ROOT]       checks the tree; exit code 1 and one line an offence
tools/check_layering.py --self-test  proves that each kind of offence is found
"""

import os
import re
import sys
import tempfile

LAYERS = ("io", "resp", "cluster", "proxy", "tests", "microbench", "tools")
MAY_INCLUDE = {
    "io": {"io"},
    "resp": {"resp"},
    "cluster": {"cluster", "resp"},
    "proxy": {"proxy", "io", "resp", "cluster"},
    "tests": set(LAYERS),
    "microbench": {"microbench", "io", "resp", "cluster", "proxy"},
    "tools": {"tools", "io", "resp", "cluster"},
}
# Headers of the system that a pure layer must not touch: bytes in, values out.
SYSTEM = re.compile(r"^(sys|netinet|arpa|net|linux|asm)/|"
                    r"^(unistd|fcntl|poll|pthread|netdb|signal|dlfcn)\.h$|^(csignal|thread|mutex)$")
SYSTEM_ALLOWED = {"io", "proxy", "tests", "microbench", "tools"}
# Other libraries, by the first part of the path; "absl" and the standard library are for all.
LIBRARIES = {
    "spdlog": {"proxy", "tests"},
    "prometheus": {"proxy", "tests"},
    "toml++": {"proxy", "tests"},
    "httplib.h": {"proxy", "tests"},
    "gtest": {"tests", "microbench"},
    "gmock": {"tests", "microbench"},
    "benchmark": {"microbench"},
}
# Who may know what is inside the ring.
INTERNAL = {
    "liburing.h": {"io/uring_setup.h"},
    "io/uring_setup.h": {"io/uring_setup.cc", "io/uring_probe.h", "io/uring_ring.cc"},
    "io/uring_probe.h": {"io/uring_probe.cc", "io/uring_ring.cc"},
}
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')
SOURCES = (".cc", ".h", ".inc", ".cpp", ".hpp", ".c")


def offence(path, quote, target):
    """Why the file `path` (relative to the root) may not include `target`; None if it may."""
    layer = path.split("/")[0]
    if target in INTERNAL and path not in INTERNAL[target]:
        return "only %s may include it" % ", ".join(sorted(INTERNAL[target]))
    head = target.split("/")[0]
    if "/" in target and head in LAYERS:
        if quote == "<":
            return 'includes of the project are written "…"'
        if head == "tests" and layer == "microbench" and target.startswith("tests/sim/"):
            return None
        if head not in MAY_INCLUDE[layer]:
            return "%s may not know %s" % (layer, head)
        return None
    if head in LIBRARIES and layer not in LIBRARIES[head]:
        return "%s may not use this library" % layer
    if SYSTEM.search(target) and layer not in SYSTEM_ALLOWED:
        return "%s knows nothing of the system" % layer
    if quote == '"' and head != "absl" and head not in LIBRARIES:
        # The compiler would take it from the file's own folder; the path must show the layer.
        return "write the path from the root of the project"
    return None


def check(root):
    offences = []
    for layer in LAYERS:
        for directory, subdirectories, files in os.walk(os.path.join(root, layer)):
            subdirectories[:] = [name for name in subdirectories
                                 if name not in ("node_modules", "__pycache__")]
            for name in sorted(files):
                if not name.endswith(SOURCES):
                    continue
                full = os.path.join(directory, name)
                path = os.path.relpath(full, root)
                with open(full, encoding="utf-8") as file:
                    for number, line in enumerate(file, 1):
                        match = INCLUDE.match(line)
                        if not match:
                            continue
                        reason = offence(path, *match.groups())
                        if reason:
                            offences.append("%s:%d: %s: %s" % (path, number, match.group(2),
                                                               reason))
    return offences


FORBIDDEN = (
    ("io/a.cc", '#include "resp/scanner.h"'),
    ("io/a.cc", "#include <liburing.h>"),
    ("io/uring_ring.cc", "#include <liburing.h>"),
    ("io/uring_ring.h", '#include "io/uring_setup.h"'),
    ("proxy/a.cc", '#include "io/uring_probe.h"'),
    ("resp/a.cc", '#include "io/slice.h"'),
    ("resp/a.h", '#include "cluster/slot.h"'),
    ("resp/a.cc", "#include <sys/socket.h>"),
    ("cluster/a.cc", '#include "io/slice.h"'),
    ("cluster/a.cc", '#include "proxy/config.h"'),
    ("cluster/a.cc", "#include <unistd.h>"),
    ("cluster/a.cc", "#include <spdlog/spdlog.h>"),
    ("proxy/a.cc", '#include "tests/sim/world.h"'),
    ("proxy/a.cc", "#include <gtest/gtest.h>"),
    ("proxy/a.cc", '#  include "microbench/a.h"'),
    ("proxy/a.cc", '#include "config.h"'),
    ("proxy/a.cc", "#include <resp/scanner.h>"),
    ("microbench/a.cc", '#include "tests/resp/corpus.h"'),
    ("tools/a.cc", '#include "proxy/config.h"'),
    ("tests/e2e/a.c", "#include <liburing.h>"),
)
ALLOWED = (
    ("io/uring_setup.h", "#include <liburing.h>"),
    ("io/uring_ring.cc", '#include "io/uring_setup.h"'),
    ("io/a.cc", "#include <sys/socket.h>"),
    ("io/a.cc", '#include "absl/time/time.h"'),
    ("resp/a.cc", "#include <cstdint>"),
    ("resp/a.cc", '// #include "io/slice.h"'),
    ("cluster/a.cc", '#include "resp/views.h"'),
    ("proxy/a.cc", '#include "cluster/slot.h"'),
    ("proxy/a.cc", "#include <spdlog/spdlog.h>"),
    ("tests/a.cc", '#include "proxy/worker.h"'),
    ("microbench/a.cc", '#include "tests/sim/world.h"'),
)


def self_test():
    failures = 0
    for cases, wanted in ((FORBIDDEN, 1), (ALLOWED, 0)):
        for path, line in cases:
            with tempfile.TemporaryDirectory(prefix="layering-") as root:
                full = os.path.join(root, path)
                os.makedirs(os.path.dirname(full))
                with open(full, "w", encoding="utf-8") as file:
                    file.write("#pragma once\n%s\n" % line)
                found = check(root)
            if len(found) != wanted or (found and not found[0].startswith(path + ":2: ")):
                print("self-test: %s with %s gave %r" % (path, line, found))
                failures += 1
    print("self-test: %d cases, %d failed" % (len(FORBIDDEN) + len(ALLOWED), failures))
    return 1 if failures else 0


def main():
    arguments = sys.argv[1:]
    if arguments == ["--self-test"]:
        return self_test()
    root = arguments[0] if arguments else os.path.dirname(
        os.path.dirname(os.path.abspath(__file__)))
    offences = check(root)
    for line in offences:
        print(line)
    print("layering: %s" % ("%d forbidden includes" % len(offences) if offences else "clean"))
    return 1 if offences else 0


if __name__ == "__main__":
    sys.exit(main())
