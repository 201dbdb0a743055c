#!/usr/bin/env python3
"""Checks tests/FAULTS.md: each fault and limit has a row, each row names tests, and all exist.

fault_rows_check.py [--self-test]
"""

import os
import re
import sys

TESTS = os.path.dirname(os.path.abspath(__file__))
ROWS = (["C%d" % number for number in (1, 2, 3, 4, 5, 6, 7, 8, 16)] +
        ["B%d" % number for number in range(1, 35) if number != 9] +
        ["L%d" % number for number in range(1, 16)])
ROW = re.compile(r"^\| ([A-Z]\d+) \|(.*)\|$")
NAME = re.compile(r"`([^`]+)`")
GTEST = re.compile(r"^TEST(?:_F|_P)?\(\s*(\w+),\s*(\w+)\s*\)", re.MULTILINE)
PYTHON = re.compile(r"^ +def (test_\w+)\(", re.MULTILINE)


def tests_in_sources():
    """Names of all tests below this folder, as FAULTS.md writes them."""
    names = set()
    for folder, _, files in os.walk(TESTS):
        for name in files:
            if not name.endswith((".cc", ".py")):
                continue
            with open(os.path.join(folder, name), encoding="utf-8") as file:
                text = file.read()
            if name.endswith(".py"):
                names.update(PYTHON.findall(text))
            else:
                names.update("%s.%s" % pair for pair in GTEST.findall(text))
    return names


def errors_of(text, known):
    """One line for each thing that is wrong."""
    errors, seen = [], set()
    for number, line in enumerate(text.splitlines(), 1):
        match = ROW.match(line)
        if not match:
            continue
        row, rest = match.groups()
        if row in seen:
            errors.append("line %d: %s has a row already" % (number, row))
        seen.add(row)
        if row not in ROWS:
            errors.append("line %d: there is no %s" % (number, row))
        tests = NAME.findall(rest.rpartition("|")[2])
        if not tests:
            errors.append("line %d: %s names no test" % (number, row))
        errors += ["line %d: %s names %s, which does not exist" % (number, row, test)
                   for test in tests if test not in known]
    return errors + ["%s has no row" % row for row in ROWS if row not in seen]


def self_test():
    good = "".join("| %s | what | `A.B` |\n" % row for row in ROWS)
    assert errors_of(good, {"A.B"}) == []
    assert errors_of(good, set()) != []
    assert errors_of(good.replace("| B7 | what | `A.B` |\n", ""), {"A.B"}) == ["B7 has no row"]
    assert len(errors_of(good.replace("| B7 | what | `A.B`", "| B7 | what | "), {"A.B"})) == 1
    assert len(errors_of(good + "| B7 | what | `A.B` |\n", {"A.B"})) == 1
    assert len(errors_of(good + "| X1 | what | `A.B` |\n", {"A.B"})) == 1


def main():
    if sys.argv[1:] == ["--self-test"]:
        self_test()
        return 0
    with open(os.path.join(TESTS, "FAULTS.md"), encoding="utf-8") as file:
        errors = errors_of(file.read(), tests_in_sources())
    for error in errors:
        print("FAULTS.md: " + error)
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
