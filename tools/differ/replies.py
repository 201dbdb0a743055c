"""What two replies may differ in: what is free on any server, and what a cluster cannot do.

A parsed reply is (kind, body): kind is the reply's first byte, body bytes, or for an aggregate a
list of replies (of a map: keys and values in turn).
"""

import re


class Incomplete(Exception):
    """The bytes end within a reply."""


def parse(data, at):
    """The reply that begins at data[at], and where it ends."""
    end = data.find(b"\r\n", at)
    if end < 0:
        raise Incomplete(data[at:at + 50])
    kind, rest = data[at:at + 1], data[at + 1:end]
    at = end + 2
    if kind in b"$=!":
        size = int(rest)
        if size < 0:
            return (b"$", None), at
        if at + size + 2 > len(data):
            raise Incomplete(data[at:at + 50])
        return (kind, data[at:at + size]), at + size + 2
    if kind in b"*~>%":
        count = int(rest)
        if count < 0:
            return (b"*", None), at
        body = []
        for _ in range(2 * count if kind == b"%" else count):
            value, at = parse(data, at)
            body.append(value)
        return (kind, body), at
    return (kind, rest), at


def count(data):
    """How many whole replies there are."""
    found = at = 0
    while at < len(data):
        try:
            _, at = parse(data, at)
        except (Incomplete, ValueError):
            break
        found += 1
    return found


def show(reply):
    kind, body = reply
    if isinstance(body, list):
        return "%s[%s]" % (kind.decode(), ", ".join(show(value) for value in body))
    return "%s%r" % (kind.decode(), body)


def is_error(reply, text=b""):
    return reply[0] in (b"-", b"!") and reply[1].startswith(text)


# --- free on any server: comparisons (args, left, right) → whether the two agree


def elements(reply):
    """Its elements without their order: pairs of a map."""
    kind, body = reply
    if kind == b"%":
        return sorted(zip(body[::2], body[1::2]), key=repr)
    return sorted(body, key=repr)


def unordered(_, left, right):
    if not isinstance(left[1], list) or not isinstance(right[1], list):
        return left == right
    return left[0] == right[0] and elements(left) == elements(right)


def unordered_pairs(_, left, right):
    """A flat array of pairs (RESP2), or a map."""
    if left[0] != b"*" or right[0] != b"*" or left[1] is None or right[1] is None:
        return unordered(_, left, right)
    return elements((b"%", left[1])) == elements((b"%", right[1]))


def shape_of(reply):
    kind, body = reply
    if isinstance(body, list):
        return (kind, [shape_of(value) for value in body])
    return (kind, body if kind == b"-" or body is None else "")


def same_shape(_, left, right):
    return shape_of(left) == shape_of(right)


def same_kind(_, left, right):
    return left[0] == right[0] and (left[0] != b"-" or left == right)


def members(args, left, right):
    """Random members: how many, where that is told; with duplicates any."""
    return same_shape(args, left, right)


def close_number(tolerance):
    def compare(_, left, right):
        if left[0] != b":" or right[0] != b":":
            return left == right
        a, b = int(left[1]), int(right[1])
        return (a < 0) == (b < 0) and abs(a - b) <= tolerance
    return compare


def iteration(args, left, right):
    """HSCAN and the like: one that is whole has the same elements, else it is cut anywhere."""
    if left[0] != b"*" or right[0] != b"*" or not (len(left[1]) == len(right[1]) == 2):
        return left == right
    whole = args[2] == left[1][0][1] == right[1][0][1] == b"0"
    if whole and b"COUNT" not in upper(args):
        if args[0].upper() == b"SSCAN" or b"NOVALUES" in upper(args):
            return unordered(args, left[1][1], right[1][1])
        return unordered_pairs(args, left[1][1], right[1][1])
    return left[1][1][0] == right[1][1][0]


AUTO_IDS = re.compile(rb"^1[6-9]\d{11}-\d+$")
# Fields of XINFO, and of whatever else tells the time of something.
TIMES = frozenset((b"idle", b"inactive", b"seen-time", b"active-time", b"radix-tree-keys",
                   b"radix-tree-nodes"))


def without_times(reply):
    kind, body = reply
    if not isinstance(body, list):
        if body is not None and AUTO_IDS.match(body):
            return (kind, b"<auto>")
        if kind == b":" and len(body) == 13:
            return (kind, b"<time>")
        return reply
    values = []
    for i, value in enumerate(body):
        name = body[i - 1][1] if i % 2 else None
        timed = isinstance(name, bytes) and name in TIMES
        values.append((b":", b"<time>") if timed else without_times(value))
    return (kind, values)


def stream(args, left, right):
    return without_times(left) == without_times(right)


def pending(_, left, right):
    """XPENDING with a range: the third of each entry is its idle time."""
    def strip(reply):
        reply = without_times(reply)
        if reply[0] == b"*" and reply[1] and all(
                value[0] == b"*" and value[1] and len(value[1]) == 4 for value in reply[1]):
            return (b"*", [(b"*", [v[1][0], v[1][1], v[1][3]]) for v in reply[1]])
        return reply
    return strip(left) == strip(right)


def sorted_or_not(args, left, right):
    """SORT BY a constant does not sort: a set comes in its own order, and LIMIT cuts that."""
    upper = [arg.upper() for arg in args]
    if b"BY" in upper:
        if b"LIMIT" in upper:
            return same_shape(args, left, right)
        return unordered(args, left, right)
    return left == right


def unordered_deep(_, left, right):
    def ordered(reply):
        kind, body = reply
        if not isinstance(body, list):
            return reply
        return (kind, sorted((ordered(value) for value in body), key=repr))
    return ordered(left) == ordered(right)


FREE = {
    "the order of a hash table's elements": (unordered, """
        SMEMBERS SINTER SUNION SDIFF HKEYS HVALS KEYS PUBSUB|CHANNELS PUBSUB|SHARDCHANNELS
        ACL|CAT"""),
    "the order of hash tables within hash tables": (unordered_deep, "FUNCTION|LIST"),
    "the order of a hash table's pairs": (unordered_pairs, "HGETALL PUBSUB|NUMSUB CONFIG|GET"),
    "random members": (members, "SRANDMEMBER HRANDFIELD ZRANDMEMBER RANDOMKEY"),
    "a random member, and the order of several": (same_shape, "SPOP"),
    "random bytes": (same_shape, "ACL|GENPASS"),
    "how an iteration is cut": (iteration, "HSCAN SSCAN ZSCAN"),
    "the time, and what was random at a server's start": (same_shape, "TIME LOLWUT LASTSAVE"),
    "the time that is left": (close_number(2000), "PTTL PEXPIRETIME"),
    "the seconds that are left": (close_number(2), "TTL EXPIRETIME"),
    "ids and idle times by the clock": (stream, """
        EXEC XADD XRANGE XREVRANGE XREAD XREADGROUP XCLAIM XAUTOCLAIM XINFO|STREAM XINFO|GROUPS
        XINFO|CONSUMERS"""),
    "idle times": (pending, "XPENDING"),
    "the order of an unsorted set": (sorted_or_not, "SORT SORT_RO"),
    "a hash table is written in its own order": (same_kind, "DUMP"),
    "memory": (same_kind, "MEMORY|USAGE MEMORY|STATS MEMORY|DOCTOR MEMORY|MALLOC-STATS"),
    "what each process saw": (same_kind, """
        SLOWLOG|GET SLOWLOG|LEN LATENCY|LATEST LATENCY|HISTORY LATENCY|DOCTOR LATENCY|GRAPH
        LATENCY|HISTOGRAM FUNCTION|STATS FUNCTION|DUMP"""),
    "what else has looked at the key: also commands that only one side refused": (
        same_kind, "OBJECT|IDLETIME"),
    "replicas: the cluster's nodes have none": (same_kind, "WAIT WAITAOF"),
    "a connection's number": (same_kind, "CLIENT|ID"),
}
COMPARISONS = {name: compare for compare, names in FREE.values() for name in names.split()}


def hello(args, left, right):
    """But the id."""
    def strip(reply):
        if not isinstance(reply[1], list):
            return reply
        return [value for i, value in enumerate(reply[1])
                if not (i and reply[1][i - 1][1] == b"id")]
    return left[0] == right[0] and strip(left) == strip(right)


COMPARISONS["HELLO"] = hello


def agree(name, args, left, right):
    if left == right:
        return True
    compare = COMPARISONS.get(name)
    return compare is not None and compare(args, left, right)


# --- what a cluster, or the proxy, does otherwise: (what, why, whether these replies are that)


def upper(args):
    return [arg.upper() for arg in args]


KNOWN = [
    ("keys in several slots",
     "a command that cannot be split needs all its keys in one slot",
     lambda name, args, left, right: is_error(right, b"CROSSSLOT")),
    ("SORT BY and GET with keys made from a pattern",
     "they may lie in any slot: the nodes refuse them",
     lambda name, args, left, right: name in ("SORT", "SORT_RO") and is_error(right, b"ERR ") and
     b"of SORT denied in" in right[1]),
    ("databases",
     "a cluster has database 0",
     lambda name, args, left, right: name in ("SELECT", "MOVE", "COPY", "SWAPDB") and
     is_error(right) and not is_error(right, b"ERR proxy")),
    ("READONLY and READWRITE",
     "cluster clients send them by habit: the proxy takes them and decides itself where reads go",
     lambda name, args, left, right: name in ("READONLY", "READWRITE") and right[1] == b"OK"),
    ("CLUSTER KEYSLOT, COUNTKEYSINSLOT, GETKEYSINSLOT, MYID",
     "served: a plain server has no slots",
     lambda name, args, left, right: name in (
         "CLUSTER|KEYSLOT", "CLUSTER|COUNTKEYSINSLOT", "CLUSTER|GETKEYSINSLOT", "CLUSTER|MYID") and
     is_error(left, b"ERR This instance has cluster support disabled")),
    ("ACL CAT of a category",
     "it tells of the commands that are served",
     lambda name, args, left, right: name == "ACL|CAT" and left[0] == right[0] == b"*" and
     set(right[1]) < set(left[1])),
    ("names of clients with a zero byte",
     "Valkey looks at them up to there, and takes what follows; they would break a line of output",
     lambda name, args, left, right: name in ("CLIENT|SETINFO", "CLIENT|SETNAME", "HELLO") and
     any(b"\x00" in arg for arg in args) and is_error(right)),
    ("SCRIPT EXISTS and SHOW of what EVAL ran",
     "EVAL leaves a script with the node where it ran; only SCRIPT LOAD takes it to all",
     lambda name, args, left, right: name == "SCRIPT|EXISTS" and
     left[0] == right[0] == b"*" and len(left[1]) == len(right[1]) and
     all(mine[1] <= theirs[1] for theirs, mine in zip(left[1], right[1])) or
     name == "SCRIPT|SHOW" and is_error(right, b"NOSCRIPT ") and left[0] == b"$"),
    ("a script's keys that it does not declare",
     "the nodes refuse keys of other slots",
     lambda name, args, left, right: name in ("EVAL", "EVAL_RO", "FCALL", "FCALL_RO") and
     b"non local key" in (right[1] if is_error(right) else b"")),
]


def known(name, args, left, right):
    """The number of the known difference that this is; None: it is none."""
    for number, (_, _, is_it) in enumerate(KNOWN):
        if is_it(name, args, left, right):
            return number
    return None
