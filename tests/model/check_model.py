#!/usr/bin/env python3
"""Checks the model of the redirect, order and ownership machine (machine.pml) in full with spin.

  check_model.py                 every configuration holds, every mutation breaks what it should
  check_model.py --full          larger configurations, too (minutes, up to 8 GiB)
  check_model.py --only NAME …   those only; what breaks is shown step by step

One line a configuration: its states, the seconds it took, what it holds or breaks. Exit code 1 if
one of them surprises, 77 if spin or a C compiler is missing. The searches visit every state; none
is an approximation.
"""

import argparse
import concurrent.futures
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time

MODEL = os.path.join(os.path.dirname(os.path.abspath(__file__)), "machine.pml")
PROPERTIES = {
    1: "P1 isolation",
    2: "P2 order",
    3: "P3 at most once",
    4: "P4 always an answer",
    5: "P5 bounded hops",
    6: "P6 freed once",
}
DEPTH_MAX = 100000
SECONDS_MAX = 1500


def picks(first, second):
    """Which commands the two clients send: machine.pml, Pick. Nothing stands for no command."""
    choices = {"A": 1, "B": 2, "C": 4, "AB": 8, "read": 16, "only-read": 32}
    flags = []
    for client, commands in enumerate((first, second)):
        commands = commands.split()
        for i in range(3):
            value = 65
            if i < len(commands):
                value = sum(choices[choice] for choice in commands[i].split("/"))
            flags.append("-DPICK%d=%d" % (3 * client + i, value))
    return flags


class Configuration:
    """One search.

    breaks: the property that must fail, None if all must hold. finite: it is also checked that
    every run ends, since "always an answer" is only looked for at the end. full: for --full.
    """

    def __init__(self, name, what, commands, breaks=None, finite=False, full=False, **macros):
        self.name = name
        self.what = what
        self.breaks = breaks
        self.finite = finite
        self.full = full
        self.flags = picks(*commands)
        self.flags += ["-D%s=%d" % macro for macro in sorted(macros.items())]

    def expected(self):
        return {self.breaks} if self.breaks else set()


def holds(name, what, commands, **macros):
    return Configuration(name, what, commands, **macros)


def mutation(guard, breaks, what, commands, **macros):
    return Configuration(guard, what, commands, breaks=breaks, **{guard: 1}, **macros)


def limit(name, breaks, what, commands, **macros):
    return Configuration(name, what, commands, breaks=breaks, **macros)


CONFIGURATIONS = [
    # --- the machine as it is
    holds("pipelines", "a slot moves key by key under six commands",
          ("A A/B/C A", "A C A"), MOVES=1),
    holds("order", "commands of several keys, TRYAGAIN, the topology follows",
          ("A/AB A B", "A"), MOVES=1, REFRESHES=1, finite=True),
    holds("back", "a slot moves on, or back, and views are old",
          ("A A A", "A"), MOVES=2, MOVE_AT_ONCE=1, REFRESHES=1, OLD_VIEWS=1),
    holds("stale", "an ASK that is too old when it can be sent",
          ("A A A", "B"), MOVES=1, AGES=1, finite=True),
    holds("losses", "two connections end, in any state, with any part handed over",
          ("A/read A/read A", "A"), LOSSES=2, finite=True),
    holds("moving loss", "one ends while a slot moves, and time runs out at any moment",
          ("A/AB A", "A"), MOVES=1, LOSSES=1, EARLY_DEADLINES=1),
    holds("fence", "the fence, step by step", ("A A", "A"), LOSSES=1, FENCE_STEPS=1),
    holds("fence taken", "another connection fences at the same time, and is slow", ("A A", "A A"),
          LOSSES=2, LINES=2),
    holds("fence private", "another connection is open already, with requests or without",
          ("A A", "A A"), LOSSES=2, LINES=2, LINE_BY_COMMAND=1),
    holds("fence forgotten", "a handshake ends between CLIENT KILL and its reply", ("A A", "A A"),
          LOSSES=2, FENCE_STEPS=1),
    holds("fence retired", "a retired connection is lost after its successor was opened",
          ("A A", "A"), LOSSES=2, RETIRES=1),
    holds("slot back", "a slot returns to a node that nobody has needed to connect to",
          ("A A", ""), LOSSES=1, MOVES=2, MOVE_AT_ONCE=1, REFRESHES=1),
    holds("lies", "nodes say MOVED to anywhere, also to strangers",
          ("A A", "A"), LIES=2, NODE2_KNOWN=0, OLD_VIEWS=1, REFRESHES=1, finite=True),
    holds("hops", "five hops", ("A", ""), LIES=7, HOPS_MAX=5, OLD_VIEWS=1, finite=True),
    holds("hang", "a node stops for good while its slot is moved away",
          ("A A/read", "A"), HANGS=1, MOVES=1, MOVE_AT_ONCE=1, REFRESHES=1, finite=True),
    holds("gone", "clients leave; replies come too much and too late",
          ("A A", "A"), GONE=2, LOSSES=1, STRAYS=1, LATE=1, MOVES=1, MOVE_AT_ONCE=1),
    holds("all", "some of everything", ("A A", ""), MOVES=1, MOVE_AT_ONCE=1, LOSSES=1, GONE=1,
          REFRESHES=1, LIES=1, HANGS=1),
    holds("pipelines full", "six commands, and the topology follows", ("A A/B/C A", "A C A"),
          MOVES=1, REFRESHES=1, full=True),
    holds("order full", "more of them, for two clients", ("A/AB A A/B/C", "A C"), MOVES=1,
          REFRESHES=1, full=True),
    holds("losses full", "two connections end while a slot moves", ("A/read A/read", "A"),
          LOSSES=2, MOVES=1, MOVE_AT_ONCE=1, REFRESHES=1, full=True),
    holds("gone full", "clients leave, with more under way", ("A A", "A C"), GONE=2, LOSSES=1,
          STRAYS=1, LATE=1, MOVES=1, MOVE_AT_ONCE=1, full=True),
    # --- where it can't hold: machine.pml says why, under LEFTOVERS_OUTLAST_MOVES
    limit("limit: slot back", 2, "a slot leaves a node and returns before that can be fenced",
          ("A A", ""), LOSSES=1, MOVES=2, MOVE_AT_ONCE=1, REFRESHES=1, LEFTOVERS_OUTLAST_MOVES=1),
    # --- and without one of its guards
    mutation("NO_SLOT_GATE", 2, "GateOpen", ("A A", "A"), MOVES=1, MOVE_AT_ONCE=1, REFRESHES=1),
    mutation("NO_REFUSED_GATE", 2, "Wake: refused, and a later one is out",
             ("AB A", "A"), MOVES=1, REFRESHES=1),
    mutation("NO_OVERTAKEN_CHECK", 2, "NoteMayHaveRun", ("AB A", ""), MOVES=1, REFRESHES=1),
    mutation("NO_ASKING_ADJACENCY", 5, "Backend::Flush", ("A", "C"), MOVES=1),
    mutation("NO_GENERATION_CHECK", 1, "Worker::Handle", ("A A", "A"), LOSSES=1, LATE=1),
    mutation("NO_CLOSE_ON_STRAY", 1, "Backend::TakeReplies", ("A A", "A"), STRAYS=1),
    mutation("RETRY_AFTER_SEND", 3, "MayRepeat of a write", ("A A", "A"), LOSSES=1),
    mutation("RETRY_READ_AFTER_WRITE", 2, "MayRepeat with a later write", ("A/only-read A", "A"),
             LOSSES=1),
    mutation("NO_FENCE", 2, "FenceOff and the handshake", ("A A", "A"), LOSSES=1),
    mutation("NO_RETIRE_ON_FENCE", 2, "BackendPool::Fence", ("A A", ""), LOSSES=1, LINES=2,
             LINE_BY_COMMAND=1),
    mutation("NO_HOP_LIMIT", 5, "OnRedirection", ("A", ""), LIES=4),
    mutation("NO_ORPHANS", 6, "Client::DropRequest", ("A A", "A"), GONE=1),
    mutation("NO_WAKE_ON_UNKNOWN", 4, "AnswerUnknown", ("A A", "A"), LOSSES=1),
]


class Result:
    states = 0
    seconds = 0.0
    violated = frozenset()
    text = ""  # why there is no result
    steps = ""  # how it breaks


def run(command, directory, seconds=SECONDS_MAX):
    return subprocess.run(command, cwd=directory, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, timeout=seconds, check=False, text=True,
                          errors="replace")


def check(configuration, compiler, show_trace):
    """Generates, compiles and runs one search."""
    result = Result()
    begin = time.monotonic()
    flags = list(configuration.flags)
    # A mutation's search goes on after the first violation: all that it breaks count.
    if configuration.breaks and not show_trace:
        flags.append("-DCOUNT")
    with tempfile.TemporaryDirectory(prefix="model-") as directory:
        generated = run(["spin", "-a"] + flags + [MODEL], directory)
        if generated.returncode != 0 or not os.path.exists(os.path.join(directory, "pan.c")):
            result.text = generated.stdout
            return result
        # Compiling takes longer than most searches.
        optimize = "-O0" if configuration.breaks else "-O1"
        search = "-DNP" if configuration.finite else "-DSAFETY"
        compiled = run([compiler, optimize, "-w", search, "-DNOREDUCE", "-DNOBOUNDCHECK",
                        "-o", "pan", "pan.c"], directory)
        if compiled.returncode != 0:
            result.text = compiled.stdout
            return result
        search = ["./pan", "-m%d" % DEPTH_MAX, "-w22"] + (["-l"] if configuration.finite else [])
        output = run(search, directory).stdout
        states = re.search(r"^\s*(\d+) states, stored", output, re.M)
        finished = states and "Search not completed" not in output
        violated = {int(p) for p in re.findall(r"^violated: P(\d)", output, re.M)}
        stop = re.search(r"assertion violated .*P(\d)_\w+", output)
        if stop:
            violated.add(int(stop.group(1)))
        elif re.search(r"^pan:\d+: (invalid end state|non-progress cycle)", output, re.M):
            violated.add(4)
        elif not finished or "max search depth too small" in output:
            result.text = output
        if states:
            result.states = int(states.group(1))
        result.violated = frozenset(violated)
        if show_trace and stop:
            steps = run(["spin", "-k", "machine.pml.trail", "-t"] + flags + [MODEL], directory)
            result.steps = steps.stdout.split("#processes")[0]
    result.seconds = time.monotonic() - begin
    return result


def names(properties):
    return ", ".join(PROPERTIES[p] for p in sorted(properties))


def report(configuration, result):
    """Prints the line of one configuration. True: as expected."""
    good = not result.text and result.violated == configuration.expected()
    if result.violated:
        outcome = "breaks " + names(result.violated)
    elif result.states:
        outcome = "holds P1 to P6"
    else:
        outcome = "no result"
    if not good:
        expected = configuration.expected()
        outcome += ", expected: " + ("breaks " + names(expected) if expected else "holds")
    print("%-4s %-22s %9d states %6.1f s  %-22s %s" %
          ("ok" if good else "FAIL", configuration.name, result.states, result.seconds, outcome,
           configuration.what), flush=True)
    if result.text and not good:
        print(result.text)
    if result.steps:
        print(result.steps)
    return good


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--only", nargs="+", metavar="NAME")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1),
                        help="searches at a time; each may need 500 MiB, with --full 4 GiB")
    arguments = parser.parse_args()

    compiler = next((c for c in ("cc", "gcc", "clang") if shutil.which(c)), None)
    if compiler is None or not shutil.which("spin"):
        print("SKIP: %s is not installed" % ("spin" if compiler else "a C compiler"))
        return 77
    full = arguments.full or os.environ.get("RCPROXY_TEST_FULL") == "1"
    chosen = [c for c in CONFIGURATIONS
              if (c.name in arguments.only if arguments.only else full or not c.full)]
    if not chosen:
        parser.error("known: " + ", ".join(c.name for c in CONFIGURATIONS))
    begin = time.monotonic()
    good = True
    states = 0
    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        results = [pool.submit(check, c, compiler, bool(arguments.only)) for c in chosen]
        for configuration, future in zip(chosen, results):
            result = future.result()
            good &= report(configuration, result)
            states += result.states
    print("%d configurations, %d states, %.0f s" %
          (len(chosen), states, time.monotonic() - begin))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
