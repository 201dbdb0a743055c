#!/usr/bin/env python3
"""Each planted bug is found by the simulation within 1,000 seeds, and is what fails there.

  canary_check.py SIMULATE PLANT [NAME…]     the built `simulate` with the bugs; plant.py

Exit codes: 0 all were found, 1 else.
"""

import os
import subprocess
import sys
import time

SEEDS_MAX = 1000
COMMANDS = "2000"
BATCH = 25


def run(simulate, canary, first, last):
    environment = dict(os.environ)
    environment.pop("SIM_CANARY", None)
    if canary:
        environment["SIM_CANARY"] = canary
    return subprocess.run(
        [simulate, "--seeds", "%d..%d" % (first, last), "--commands", COMMANDS,
         "--stop-at-failure", "--verbose"],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        errors="replace", check=False)


def first_failure(simulate, canary):
    """(seed, what it was) or None."""
    for first in range(1, SEEDS_MAX + 1, BATCH):
        done = run(simulate, canary, first, min(first + BATCH - 1, SEEDS_MAX))
        if done.returncode == 0:
            continue
        lines = done.stdout.splitlines()
        for line in lines:
            if line.startswith("SIM_SEED="):
                return int(line.split()[0].partition("=")[2]), line
        # It has not lived to tell: the last seed that was begun.
        begun = [line.split()[1] for line in lines if line.startswith("seed ")]
        return int(begun[-1].rstrip(":")), "%s (exit code %d)" % (lines[-1], done.returncode)
    return None


def main():
    simulate, plant = sys.argv[1:3]
    names = sys.argv[3:] or subprocess.run(
        [sys.executable, plant, "--names"], stdout=subprocess.PIPE, text=True,
        check=True).stdout.split()
    failed = False
    for name in names:
        begin = time.monotonic()
        found = first_failure(simulate, name)
        if found is None:
            print("%-28s NOT found in %d seeds" % (name, SEEDS_MAX))
            failed = True
        elif run(simulate, None, found[0], found[0]).returncode != 0:
            print("%-28s seed %d fails without it, too" % (name, found[0]))
            failed = True
        else:
            print("%-28s seed %4d, %5.1f s: %s" % (
                name, found[0], time.monotonic() - begin, found[1][:160]), flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
