#!/usr/bin/env python3
"""Generates what the project knows of the servers' commands from live servers.

Starts each installed server on a free loopback port, asks it, and ends it. Writes

  cluster/command_table_data.inc      the union of the servers' commands (COMMAND, COMMAND DOCS)
                                      with the reviewed overrides (tools/command_table/review.py)
  cluster/COMMANDS.md                 how each of them is served, for users
  proxy/command_docs_data.inc         what COMMAND and COMMAND DOCS tell of the served ones
  tests/cluster/key_examples_data.inc where the keys of example requests are (COMMAND GETKEYS)
  tests/cluster/error_texts_data.inc  their texts for unknown commands and wrong arity

Every difference between the servers, and every command that the rules cannot place, must be named
in the review with its reason; otherwise nothing is written.

  tools/gen_command_table.py            writes; needs both servers
  tools/gen_command_table.py --check    compares with the installed servers; writes nothing

Exit codes: 0 right, 1 differences or unreviewed commands, 77 a server is missing (what could be
checked is right).
"""

import argparse
import contextlib
import difflib
import os
import shutil
import sys

sys.dont_write_bytecode = True
from command_table import docs, examples, page, servers, table  # noqa: E402  (after dont_write_bytecode)

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TABLE = "cluster/command_table_data.inc"
PAGE = "cluster/COMMANDS.md"
DOCS = "proxy/command_docs_data.inc"
KEY_EXAMPLES = "tests/cluster/key_examples_data.inc"
ERROR_TEXTS = "tests/cluster/error_texts_data.inc"
SERVERS = ("redis-server", "valkey-server")
SKIPPED = 77


def read(path):
    try:
        with open(os.path.join(ROOT, path), encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        return ""


def write_all(files):
    for path, text in files.items():
        with open(os.path.join(ROOT, path), "w", encoding="utf-8") as file:
            file.write(text)


def check_whole(files, problems):
    """With all servers the files must be what would be written now."""
    for path, text in files.items():
        diff = difflib.unified_diff(read(path).splitlines(), text.splitlines(), path, "the servers",
                                    lineterm="", n=0)
        problems.extend(diff)


def check_part(asked, files, problems):
    """With one server, what it says must be among what is written."""
    for _, commands in asked:
        table.compare_with_one(commands, files[TABLE], problems)
    for path in (KEY_EXAMPLES, ERROR_TEXTS):
        known = set(read(path).splitlines())
        problems.extend("%s lacks: %s" % (path, line)
                        for line in files[path].splitlines() if line not in known)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    options = parser.parse_args()
    found = [binary for binary in map(shutil.which, SERVERS) if binary]
    missing = [name for name in SERVERS if not shutil.which(name)]
    if missing and not options.check:
        parser.error("not installed: " + ", ".join(missing))

    if not found:
        print("SKIPPED: no server is installed: " + ", ".join(missing))
        return SKIPPED
    problems = []
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(servers.Server(binary)) for binary in found]
        asked = [(connection, servers.ask_commands(connection)) for connection in connections]
        files = {KEY_EXAMPLES: examples.render_key_examples(asked, problems),
                 ERROR_TEXTS: examples.render_error_texts(asked, problems)}
        if missing:
            files[TABLE] = read(TABLE)
            check_part(asked, files, problems)
        else:
            commands = table.unite_all([commands for _, commands in asked], problems)
            files[TABLE], visible = table.render(commands, problems)
            files[DOCS] = docs.render(visible)
            # What is wrong with the review was said with the table.
            files[PAGE] = page.render(commands, table.serves_of(commands, []))
            if options.check:
                check_whole(files, problems)
    if problems:
        print("\n".join(problems))
        return 1
    if not options.check:
        write_all(files)
    if missing:
        print("SKIPPED: not installed, so only a part was checked: " + ", ".join(missing))
        return SKIPPED
    return 0


if __name__ == "__main__":
    sys.exit(main())
