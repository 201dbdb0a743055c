"""The union of the servers' commands, and its rows."""

import copy
import re

from command_table.review import (KEY_GROUPS, MAY_REPLICATE, OVER_SLOTS, REVIEWED_DIFFERENCES,
                                  REVIEWED_POLICIES, REVIEWED_SERVE, REVIEWED_SPLITS, SCRIPTS,
                                  SEARCHED_BY_CODE, SLOW, STATEFUL_FLAGS)


def differences(a, b):
    """The names of the facts in which two servers' commands differ."""
    return [fact for fact, left, right in (
        ("arity", a.arity, b.arity), ("flags", a.flags, b.flags), ("tips", a.tips, b.tips),
        ("key_specs", [s.facts() for s in a.key_specs], [s.facts() for s in b.key_specs]))
        if left != right]


def more_permissive(a, b):
    if a == b:
        return a
    least = min(abs(a), abs(b))
    return -least


def unite(by_server, problems):
    """One command of several servers; the last server's tips and key specs stand."""
    first, last = by_server[0], copy.copy(by_server[-1])
    differing = {(first.name, fact) for fact in differences(first, last)}
    reviewed = {key for key in REVIEWED_DIFFERENCES if key[0] == first.name}
    problems.extend("%s: %s differ between the servers" % key for key in differing - reviewed)
    problems.extend("%s: %s do not differ any more" % key for key in reviewed - differing)
    last.arity = more_permissive(first.arity, last.arity)
    last.flags |= first.flags
    last.has_subcommands |= first.has_subcommands
    return last


def unite_all(servers_commands, problems):
    names = set().union(*servers_commands)
    return {name: unite([commands[name] for commands in servers_commands if name in commands],
                        problems) for name in names}


def reviewed_serves(problems):
    serves = {}
    for kind, reasons in REVIEWED_SERVE.items():
        for names in reasons.values():
            for name in names.split():
                if name in serves:
                    problems.append("%s is placed twice" % name)
                serves[name] = kind
    return serves


def serve_of(command, serves, problems):
    if command.name in serves:
        kind = serves[command.name]
    elif command.flags & STATEFUL_FLAGS:
        kind = "kRefused" if "admin" in command.flags else None
    else:
        kind = "kOneSlot" if command.key_specs else None
    if kind is None:
        problems.append("%s: say in REVIEWED_SERVE how it is served" % command.name)
        return "kRefused"
    if kind == "kOneSlot" and command.group not in KEY_GROUPS and command.name not in serves:
        problems.append("%s: kOneSlot, but of the group '%s'" % (command.name, command.group))
    return kind


def policy_text(prefix, tips, kinds):
    for tip in tips:
        if tip.startswith(prefix):
            word = tip[len(prefix):]
            if word not in kinds:
                raise SystemExit("unknown policy " + tip)
            return "k" + "".join(part.capitalize() for part in word.split("_"))
    return "kNone"


def policies_of(command):
    if command.name in REVIEWED_POLICIES:
        return REVIEWED_POLICIES[command.name][:2]
    return (
        policy_text("request_policy:", command.tips,
                    ("all_nodes", "all_shards", "multi_shard", "special")),
        policy_text("response_policy:", command.tips,
                    ("one_succeeded", "all_succeeded", "agg_logical_and", "agg_logical_or",
                     "agg_min", "agg_max", "agg_sum", "special")))


# The kinds that clients are told of.
SERVED = frozenset(("kOneSlot", "kSplit", "kKeyless", "kLocal", "kBySlot", "kTransaction",
                    "kWholeCluster", "kPublish", "kPubSub", "kPubSubCount", "kClients"))

FLAG_NAMES = {
    "write": "kFlagWrite", "readonly": "kFlagReadOnly", "denyoom": "kFlagDenyOom",
    "admin": "kFlagAdmin", "pubsub": "kFlagPubSub", "noscript": "kFlagNoScript",
    "blocking": "kFlagBlocking", "loading": "kFlagLoading", "stale": "kFlagStale",
    "skip_monitor": "kFlagSkipMonitor", "skip_slowlog": "kFlagSkipSlowlog",
    "asking": "kFlagAsking", "fast": "kFlagFast", "no_auth": "kFlagNoAuth",
    "movablekeys": "kFlagMovableKeys", "no_multi": "kFlagNoMulti", "allow_busy": "kFlagAllowBusy",
    "no_async_loading": "kFlagNoAsyncLoading", "no_mandatory_keys": "kFlagNoMandatoryKeys",
}


def over_slots():
    """Full name → how."""
    return {name: how for how, names in OVER_SLOTS.items() for name in names.split()}


def flags_text(command):
    names = [text for flag, text in FLAG_NAMES.items() if flag in command.flags]
    unknown = command.flags - set(FLAG_NAMES)
    if unknown:
        raise SystemExit("%s: unknown flags %s" % (command.name, ", ".join(sorted(unknown))))
    if command.name in MAY_REPLICATE:
        names.append("kFlagMayReplicate")
    if command.name in SCRIPTS:
        names.append("kFlagScript")
    if command.name in SLOW:
        names.append("kFlagSlow")
    if command.name in over_slots():
        names.append("kFlagOverSlots")
    return " | ".join(names)


def specs_text(command):
    return ",\n".join("    " + spec.text() for spec in command.key_specs)


def specs_name(text, names):
    return names.setdefault(text, "kKeys%d" % len(names))


def needs_code(command):
    return any(spec.begin["type"] == "unknown" or spec.find["type"] == "unknown" or spec.incomplete
               for spec in command.key_specs)


def serves_of(commands, problems):
    """Full name → kind."""
    reviewed = reviewed_serves(problems)
    return {name: serve_of(command, reviewed, problems) for name, command in commands.items()}


def render(commands, problems):
    """The table, and what clients see of it: (id, command) of the served ones and containers."""
    serves = reviewed_serves(problems)
    for table in (serves, REVIEWED_POLICIES, REVIEWED_SPLITS,
                  {name: 0 for name in SLOW | MAY_REPLICATE | SEARCHED_BY_CODE}, over_slots()):
        for name in table:
            if name not in commands:
                problems.append("%s: reviewed, but no server has it" % name)
    names = {}
    rows = []
    served = set()
    ordered = sorted(commands.values(), key=lambda c: (c.container, c.own_name))
    for number, command in enumerate(ordered):
        serve = serve_of(command, serves, problems)
        if serve in SERVED:
            served.add(command.name)
        if command.name in over_slots() and serve != "kOneSlot":
            problems.append("%s: OVER_SLOTS concerns what is kOneSlot" % command.name)
        request, response = policies_of(command)
        if needs_code(command) and command.name not in SEARCHED_BY_CODE:
            problems.append("%s: its key specs are not complete" % command.name)
        if (serve == "kSplit") != (command.name in REVIEWED_SPLITS):
            problems.append("%s: kSplit without REVIEWED_SPLITS or the reverse" % command.name)
        fields = ['.name = "%s"' % command.own_name]
        if command.container:
            fields.append('.container = "%s"' % command.container)
        fields.append(".arity = %d" % command.arity)
        fields.append(".id = %d" % number)
        flags = flags_text(command)
        if flags:
            fields.append(".flags = " + flags)
        if command.key_specs:
            fields.append(".key_specs = " + specs_name(specs_text(command), names))
        if request != "kNone":
            fields.append(".request_policy = RequestPolicy::" + request)
        if response != "kNone":
            fields.append(".response_policy = ResponsePolicy::" + response)
        fields.append(".serve = Serve::" + serve)
        if command.name in REVIEWED_SPLITS:
            split, merge = REVIEWED_SPLITS[command.name]
            fields += [".split = Split::" + split, ".merge = Merge::" + merge]
        if command.has_subcommands:
            fields.append(".has_subcommands = true")
        if (len(command.key_specs) == 1 and command.key_specs[0].is_single_first()
                and not command.container and "movablekeys" not in command.flags):
            fields.append(".single_first_key = true")
        rows.append(fields)
    lines = ["// Generated by tools/gen_command_table.py from redis-server 7.0, valkey-server 8.0.",
             "// clang-format off", ""]
    for text, name in names.items():
        lines += ["constexpr KeySpec %s[] = {" % name, text + "};"]
    lines += ["", "constexpr CommandSpec kCommands[] = {"]
    for fields in rows:
        lines += wrap_row(fields)
    lines += ["};", "// clang-format on", ""]
    served |= {command.container for command in ordered if command.name in served}
    visible = [(number, command) for number, command in enumerate(ordered)
               if command.name in served]
    return "\n".join(lines), visible


def wrap_row(fields):
    lines, line = [], "    {"
    for i, field in enumerate(fields):
        piece = field + (", " if i + 1 < len(fields) else "},")
        if len(line) + len(piece.rstrip()) > 100:
            lines.append(line.rstrip())
            line = "     "
        while len(line) + len(piece.rstrip()) > 100:  # long flags
            cut = piece.rindex(" | ", 0, 100 - len(line)) + 2
            lines.append(line + piece[:cut])
            line, piece = "         ", piece[cut + 1:]
        line += piece
    return lines + [line.rstrip()]


# ---------------------------------------------------------------------------------------------
# The committed table against one server, when the other is not there to make the union.


def read_rows(text):
    """Full name → the row's facts, as their text."""
    specs = dict(re.findall(r"KeySpec (\w+)\[\] = \{\n(.*?)\};\n", text, re.S))
    rows = {}
    body = text[text.index("kCommands[] = {"):]
    for row in re.findall(r"^    \{(\.name = .*?)\},$", body, re.S | re.M):
        row = re.sub(r"\s*\n\s*", " ", row)
        facts = dict(re.findall(r"\.(\w+) = ((?:[^,]|, (?!\.))+)", row))
        name = "|".join(facts[key].strip('"') for key in ("container", "name") if key in facts)
        facts["key_specs"] = specs.get(facts.get("key_specs"), "")
        rows[name] = facts
    return rows


def compare_with_one(commands, text, problems):
    """Whether the table holds all that one server says, but for the reviewed differences."""
    rows = read_rows(text)
    for name in sorted(commands):
        command = commands[name]
        if name not in rows:
            problems.append("%s: not in the table" % name)
            continue
        facts = rows[name]
        pairs = {
            "arity": (str(command.arity), facts["arity"]),
            "flags": (flags_text(command), facts.get("flags", "")),
            "key_specs": (specs_text(command), facts["key_specs"]),
        }
        for fact, (server, table) in pairs.items():
            if server != table and (name, fact) not in REVIEWED_DIFFERENCES:
                problems.append("%s: %s is %s, in the table %s" % (name, fact, server, table))
