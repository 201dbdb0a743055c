#!/usr/bin/env python3
"""Prints an apt source of another suite of Debian, derived from the machine's own source.

tools/debian_source.py [--suite SUITE] [APT_DIRECTORY [CODENAME]]
                             default: the backports of the running release, and /etc/apt

The machine's entry for its release (deb822 or one-line) gives the address, the key and the
options; only the suite is replaced. So it works with whatever mirror the machine uses. Exit code 1,
and one line that says why, where the machine has no such entry.
"""

import argparse
import glob
import os
import re
import sys


def codename():
    with open("/etc/os-release", encoding="utf-8") as file:
        for line in file:
            name, _, value = line.strip().partition("=")
            if name == "VERSION_CODENAME":
                return value.strip('"')
    return ""


def paragraphs(text):
    """deb822 paragraphs as lists of (name, value); a value keeps its continuation lines."""
    for block in re.split(r"\n\s*\n", text):
        fields = []
        for line in block.splitlines():
            if line.startswith("#") or not line.strip():
                continue
            if line[0] in " \t" and fields:
                fields[-1][1] += "\n" + line
            elif ":" in line:
                name, _, value = line.partition(":")
                fields.append([name.strip(), value.strip()])
        if fields:
            yield fields


def from_deb822(text, release, suite):
    for fields in paragraphs(text):
        lower = {name.lower(): value for name, value in fields}
        if (release not in lower.get("suites", "").split() or
                "deb" not in lower.get("types", "").split() or
                "main" not in lower.get("components", "").split() or
                lower.get("enabled", "yes").lower() == "no"):
            continue
        replaced = {"types": "deb", "suites": suite, "components": "main"}
        return "".join("%s: %s\n" % (name, replaced.get(name.lower(), value))
                       for name, value in fields)
    return None


def from_one_line(text, release, suite):
    for line in text.splitlines():
        match = re.match(r"^\s*deb\s+(?:(\[[^]]*\])\s+)?(\S+)\s+(\S+)\s+(.*)$", line)
        if match and match.group(3) == release and "main" in match.group(4).split():
            options = match.group(1) + " " if match.group(1) else ""
            # Said as deb822, so that the caller always has one kind of file.
            fields = ["Types: deb", "URIs: " + match.group(2), "Suites: " + suite,
                      "Components: main"]
            for option in options.strip("[] ").split():
                name, _, value = option.partition("=")
                known = {"signed-by": "Signed-By", "arch": "Architectures", "trusted": "Trusted"}
                fields.append("%s: %s" % (known.get(name, name), value.replace(",", " ")))
            return "\n".join(fields) + "\n"
    return None


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("--suite")
    parser.add_argument("directory", nargs="?", default="/etc/apt")
    parser.add_argument("release", nargs="?", default=codename())
    arguments = parser.parse_args()
    directory, release = arguments.directory, arguments.release
    suite = arguments.suite or release + "-backports"
    candidates = [os.path.join(directory, "sources.list")]
    for ending in ("sources", "list"):
        candidates += sorted(glob.glob(os.path.join(directory, "sources.list.d", "*." + ending)))
    for path in candidates:
        if not os.path.exists(path):
            continue
        with open(path, encoding="utf-8") as file:
            text = file.read()
        find = from_deb822 if path.endswith(".sources") else from_one_line
        source = find(text, release, suite)
        if source:
            sys.stdout.write(source)
            return 0
    sys.stderr.write("no source of Debian %s in %s\n" % (release or "(unknown)", directory))
    return 1


if __name__ == "__main__":
    sys.exit(main())
