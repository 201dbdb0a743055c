"""Random requests: each command by the argument tree that the server itself gives (COMMAND DOCS),
values by the arguments' names, and by hand where a tree does not say enough.

All draws come from one generator of random numbers: a seed decides the whole stream of requests.
"""

import hashlib

# Keys of one tag are in one slot; the tags are of several nodes.
TAGS = (b"{a}", b"{b}", b"{c}", b"{user:1000}", b"{\xff\x00}")
# Each type has some keys of its own under each tag.
TYPES = ("string", "integer", "bits", "list", "hash", "set", "numbers", "zset", "geo", "stream",
         "hll")
KEYS_OF_TYPE = 4
GROUP_TYPES = {
    "string": ("string", "integer"), "bitmap": ("bits",), "list": ("list",), "hash": ("hash",),
    "set": ("set", "numbers"), "sorted-set": ("zset",), "geo": ("geo",), "stream": ("stream",),
    "hyperloglog": ("hll",), "generic": TYPES, "server": TYPES, "scripting": ("string", "integer"),
}
# A set may stand where a sorted set is asked for.
ALSO_SETS = frozenset("ZUNION ZUNIONSTORE ZINTER ZINTERSTORE ZINTERCARD ZDIFF ZDIFFSTORE".split())
DAMAGED_SHARE = 0.12
INLINE_SHARE = 0.01

WORDS = [b"", b"a", b"b", b"c", b"d", b"hello", b"10", b"-5", b"0", b"3.5", b"\r\n", b"a b", b"\x00",
         b"\xff\xfe\x00", b"x" * 70, b"9223372036854775807", b"inf", b"nan", b"*", b"{a}", b"foo*",
         "é".encode()]
MEMBERS = [b"m%d" % i for i in range(12)] + WORDS
# None that makes a server allocate or return without end: as an offset, -count or COUNT.
NUMBERS = [b"0", b"1", b"-1", b"2", b"007", b"+1", b"-0", b" 1", b"1 ", b"1.5", b"1e3", b"", b"abc",
           b"9223372036854775807", b"-9223372036854775808", b"99999999999999999999", b"0x10",
           b"\x001"]
DOUBLES = [b"0", b"1.5", b"-2.25", b"3", b"1e3", b"inf", b"-inf", b"+inf", b"nan", b"abc", b"",
           b"1e400", b"0x1p3", b" 1", b"-0"]
SCORES = [b"0", b"1", b"1.5", b"2", b"-3", b"100", b"1e10", b"inf", b"-inf"]
SCORE_ENDS = SCORES + [b"(1", b"(2", b"(-inf", b"-inf", b"+inf", b"x", b"("]
LEX_ENDS = [b"-", b"+", b"[m1", b"(m3", b"[m9", b"[", b"(", b"m1", b""]
STREAM_IDS = [b"%d-%d" % (i // 3, i % 3) for i in range(1, 12)] + [b"5", b"7-*", b"0", b"0-0"]
STREAM_ENDS = STREAM_IDS + [b"-", b"+", b"(2-1", b"(3", b"x", b""]
GROUPS = [b"g1", b"g2", b"nogroup"]
CONSUMERS = [b"alice", b"bob", b"\xffz"]
PATTERNS = [b"*", b"m*", b"*1", b"?", b"[a-c]", b"nothing", b"h[ae]llo", b"\\*"]
FAR_SECONDS, PAST_SECONDS = 4102444800, 1000
SCRIPTS = [
    b"return ARGV[1]", b"return {KEYS[1],KEYS[2],ARGV[1],ARGV[2]}", b"return redis.call('get',KEYS[1])",
    b"return redis.call('set',KEYS[1],ARGV[1])", b"return redis.error_reply('MY error')",
    b"return redis.status_reply('fine')", b"return {1,2.7,'x',false,true,{3}}", b"return nil",
    b"return redis.call('lpush',KEYS[1],ARGV[1])", b"return redis.pcall('incr',KEYS[1])",
    b"return redis.call('incr',KEYS[1])", b"return #KEYS..','..#ARGV", b"this is no script",
    b"redis.setresp(3); return redis.call('hgetall',KEYS[1])", b"return redis.sha1hex(ARGV[1])",
    b"error('oops')", b"return cjson.encode({1,2,3})", b"return redis.call('nosuch')",
]
LIBRARY = (b"#!lua name=differential\n"
           b"redis.register_function('echo_args', function(keys, args) return args end)\n"
           b"redis.register_function('set_first', function(keys, args)"
           b" return redis.call('set', keys[1], args[1]) end)\n"
           b"redis.register_function{function_name='get_first', callback=function(keys, args)"
           b" return redis.call('get', keys[1]) end, flags={'no-writes'}}")
FUNCTIONS = [b"echo_args", b"set_first", b"get_first", b"nosuch"]


class Item:
    """One request and how many replies it brings."""

    __slots__ = ("name", "args", "replies", "inline", "first")

    def __init__(self, name, args, replies=1):
        self.name, self.args, self.replies = name, args, replies
        self.inline = False
        self.first = False  # of its pipeline

    def bytes(self):
        if self.inline:
            return b" ".join(self.args) + b"\r\n"
        parts = [b"*%d\r\n" % len(self.args)]
        for arg in self.args:
            parts.append(b"$%d\r\n%b\r\n" % (len(arg), arg))
        return b"".join(parts)


class Argument:
    """A node of a command's argument tree."""

    __slots__ = ("name", "kind", "token", "optional", "multiple", "multiple_token", "inner")

    def __init__(self, flat):
        facts = dict(zip(flat[::2], flat[1::2]))
        flags = facts.get("flags", [])
        self.name, self.kind = facts["name"].replace("_", "-"), facts["type"]
        token = facts.get("token")
        self.token = None if token is None else token.encode("latin-1")
        self.optional, self.multiple = "optional" in flags, "multiple" in flags
        self.multiple_token = "multiple_token" in flags
        self.inner = [Argument(inner) for inner in facts.get("arguments", [])]


class Generator:
    """commands: full name → what the plain server says of it (command_table.servers.Command), of
    the commands that the proxy serves."""

    def __init__(self, random, commands, split, protocol_of):
        self.random = random
        self.commands = commands
        self.split = split  # names of those whose keys may lie in several slots
        self.protocol_of = protocol_of  # connection → 2 or 3
        self.trees = {name: [Argument(flat) for flat in command.arguments]
                      for name, command in commands.items()}
        self.payloads = [b"", b"\x00", b"no payload"]
        self.known_shas = [hashlib.sha1(script).hexdigest().encode() for script in SCRIPTS[:2]]
        names = sorted(name for name in commands
                       if name not in EXCLUDED and not commands[name].has_subcommands)
        weights = [WEIGHTS.get(name, 1.0 if commands[name].key_specs else 0.25) for name in names]
        self.names, self.total = names, []
        total = 0.0
        for weight in weights:
            total += weight
            self.total.append(total)
        self.unasked = [name for name in names if WEIGHTS.get(name, 1.0) > 0]
        random.shuffle(self.unasked)
        # Of the request being made:
        self.types, self.tag, self.words, self.numkeys_at, self.keys = (), b"", [], None, 0
        self.current = ""

    # --- values

    def pick(self, values):
        return values[int(self.random.random() * len(values))]

    def chance(self, share):
        return self.random.random() < share

    def int(self, least, most):
        return least + int(self.random.random() * (most - least + 1))

    def key(self, types=None):
        if self.chance(0.02):
            return self.tag + self.pick(WORDS)
        kind = self.pick(types or self.types) if not self.chance(0.08) else self.pick(TYPES)
        tag = self.pick(TAGS) if self.current in self.split else self.tag
        return b"%b%b%d" % (tag, kind.encode(), self.int(0, KEYS_OF_TYPE))

    def text(self):
        if self.chance(0.003):
            return self.pick((b"A", b"\xf0\x9f\x98\x80", b"\r\n$5")) * self.int(500, 6000)
        return self.pick(MEMBERS)

    def value_of(self, argument):
        """A value by the argument's name and type."""
        name, kind = argument.name, argument.kind
        maker = VALUES.get((self.current, name)) or VALUES.get(name) or VALUES.get("<%s>" % kind)
        return maker(self) if maker else self.text()

    # --- a request by its tree

    def take_all(self, arguments):
        for argument in arguments:
            if argument.optional and not self.chance(0.3):
                continue
            repeat = 1
            if argument.multiple:
                repeat = 1 if self.chance(0.5) else self.int(1, 4)
                if argument.name == "weight" and self.numkeys_at is not None:
                    repeat = self.keys if self.chance(0.9) else repeat
            for i in range(repeat):
                if argument.token is not None and (i == 0 or argument.multiple_token):
                    self.words.append(self.any_case(argument.token or b'""'))
                kind = argument.kind
                if kind == "pure-token":
                    pass
                elif kind == "oneof":
                    self.take_all([self.pick(argument.inner)])
                elif kind == "block":
                    self.take_all(argument.inner)
                elif argument.name == "numkeys":
                    self.numkeys_at = len(self.words)
                    self.words.append(b"0")
                else:
                    if kind == "key":
                        self.keys += 1
                        self.words.append(self.key())
                        if self.numkeys_at is not None:
                            self.words[self.numkeys_at] = b"%d" % self.keys
                    else:
                        self.words.append(self.value_of(argument))

    def any_case(self, word):
        draw = self.random.random()
        if draw < 0.7:
            return word
        return word.lower() if draw < 0.9 else word.swapcase()

    def by_tree(self, name):
        command = self.commands[name]
        self.begin(name)
        self.words = [self.any_case(part.encode()) for part in name.split("|")]
        self.take_all(self.trees[name])
        if name not in UNDAMAGED and "blocking" not in command.flags:
            if self.chance(DAMAGED_SHARE):
                self.damage()
        if name in ONE_LINE:
            self.words = [word.translate(None, b"\r\n") for word in self.words]
        return Item(name, self.words)

    def begin(self, name):
        self.current = name
        self.types = GROUP_TYPES.get(self.commands[name].group, TYPES)
        if name in ALSO_SETS and self.chance(0.3):
            self.types = ("zset", "set")
        self.tag = self.pick(TAGS)
        self.numkeys_at, self.keys = None, 0

    def damage(self):
        """Wrong arity, wrong numbers, options at wrong places. The command's name stays."""
        words = self.words
        begin = 2 if "|" in self.current else 1
        draw = self.random.random()
        if self.current in EXPIRING:
            draw *= 0.4  # some milliseconds by accident would be a race
        if draw < 0.25 and len(words) > begin:
            words.pop()
        elif draw < 0.4:
            words.append(self.pick((b"", b"x", b"10", b"GET", b"LIMIT", b"COUNT")))
        elif draw < 0.55 and len(words) > begin:
            words.insert(self.int(begin, len(words)), words[self.int(begin, len(words) - 1)])
        elif draw < 0.65 and len(words) > begin + 1:
            i, j = self.int(begin, len(words) - 1), self.int(begin, len(words) - 1)
            words[i], words[j] = words[j], words[i]
        elif draw < 0.7:
            del words[begin:]
        elif len(words) > begin:
            words[self.int(begin, len(words) - 1)] = self.pick(NUMBERS + DOUBLES + WORDS)

    # --- requests

    def items(self, connection):
        """The next request, or some that belong together."""
        draw = self.random.random() * self.total[-1]
        low, high = 0, len(self.total) - 1
        while low < high:
            middle = (low + high) // 2
            if self.total[middle] > draw:
                high = middle
            else:
                low = middle + 1
        name = self.names[low]
        # However seldom: each at least once.
        if self.unasked and self.chance(0.05):
            name = self.unasked.pop()
        by_hand = BY_HAND.get(name)
        if by_hand is not None:
            self.begin(name)
            made = by_hand(self, connection)
            return [made] if isinstance(made, Item) else made
        return [self.by_tree(name)]

    def pipeline(self, connection, count):
        items = []
        while len(items) < count:
            draw = self.random.random()
            if draw < 0.02:
                items += self.populate()
            elif draw < 0.023:
                items.append(self.unknown())
            else:
                made = self.items(connection)
                made += self.after_expired(made)
                if not made[0].first:
                    items += made
                elif not (items and items[0].first):
                    items = made + items
        if self.random.random() < INLINE_SHARE * count:
            item = self.pick(items)
            item.inline = len(item.args) < 50 and all(
                arg and len(arg) < 200 and arg.isalnum() for arg in item.args)
        return items

    def after_expired(self, items):
        """Redis 7.0 takes a SET with a time that has passed, and then DBSIZE counts the key until
        somebody looks at it, or the server does, in its own time."""
        return [self.simple("EXISTS", item.args[1]) for item in items if item.name == "SET" and
                not {b"EXAT", b"PXAT"}.isdisjoint(word.upper() for word in item.args[3:])]

    def unknown(self):
        words = [self.pick((b"nosuch", b"GETX", b"", b"get ", b"CLIENT", b"object", b"g\r\net"))]
        words += [self.pick(MEMBERS) for _ in range(self.int(0, 4))]
        return Item("?", words)

    def simple(self, name, *words):
        return Item(name, name.encode().split(b"|") + list(words))

    def populate(self):
        """A key of some type anew, by the commands that are served."""
        kind, self.tag = self.pick(TYPES), self.pick(TAGS)
        self.current = ""
        key = b"%b%b%d" % (self.tag, kind.encode(), self.int(0, KEYS_OF_TYPE))
        several = range(self.int(1, 150 if self.chance(0.02) else 12))
        items = [self.simple("DEL", key)]
        if kind == "string":
            items.append(self.simple("SET", key, self.text()))
        elif kind == "integer":
            items.append(self.simple("SET", key, b"%d" % self.int(-1000, 1000)))
        elif kind == "bits":
            items += [self.simple("SETBIT", key, b"%d" % self.int(0, 300), b"1") for _ in several]
        elif kind == "list":
            items.append(self.simple("RPUSH", key, *[self.text() for _ in several]))
        elif kind == "hash":
            pairs = [word for i in several for word in (b"m%d" % i, self.text())]
            items.append(self.simple("HSET", key, *pairs))
        elif kind == "set":
            items.append(self.simple("SADD", key, *[b"m%d" % i for i in several]))
        elif kind == "numbers":
            items.append(self.simple("SADD", key, *[b"%d" % (3 * i) for i in several]))
        elif kind == "zset":
            pairs = [word for i in several for word in (self.pick(SCORES), b"m%d" % i)]
            items.append(self.simple("ZADD", key, *pairs))
        elif kind == "geo":
            words = [word for i in several for word in
                     (b"%.4f" % self.random.uniform(-179, 179),
                      b"%.4f" % self.random.uniform(-80, 80), b"m%d" % i)]
            items.append(self.simple("GEOADD", key, *words))
        elif kind == "stream":
            items += [self.simple("XADD", key, b"%d-%d" % (i // 3 + 1, i % 3), self.pick(MEMBERS),
                                  self.text()) for i in several]
            items.append(self.simple("XGROUP|CREATE", key, b"g1", b"0"))
        else:
            items.append(self.simple("PFADD", key, *[self.text() for _ in several]))
        return items


# --- values by name: a command's own first, then the name, then the type

def number(least, most):
    def make(generator):
        if generator.chance(0.04):
            return generator.pick(NUMBERS)
        return b"%d" % generator.int(least, most)
    return make


def one_of(values):
    return lambda generator: generator.pick(values)


def real(least, most):
    def make(generator):
        if generator.chance(0.04):
            return generator.pick(DOUBLES)
        return b"%.4f" % generator.random.uniform(least, most)
    return make


def ttl(factor):
    # Nothing may expire while the two sides are at it: far away, or gone at once.
    def make(generator):
        draw = generator.random.random()
        if draw < 0.85:
            return b"%d" % (generator.int(1000, 100000) * factor)
        return generator.pick((b"0", b"-1", b"x", b"9223372036854775807", b"1.5", b"-99999999999"))
    return make


def unix_time(factor):
    def make(generator):
        draw = generator.random.random()
        if draw < 0.85:
            return b"%d" % ((FAR_SECONDS + generator.int(0, 1000)) * factor)
        return b"%d" % (PAST_SECONDS * factor) if draw < 0.95 else generator.pick(NUMBERS)
    return make


def offset(generator):
    if generator.chance(0.05):
        return generator.pick((b"-1", b"4294967296", b"x", b"99999999999999999999"))
    return b"%d" % generator.int(0, 400)


VALUES = {
    "<integer>": number(-3, 12), "<double>": real(-10, 10), "<pattern>": one_of(PATTERNS),
    "<unix-time>": unix_time(1), "score": one_of(SCORES + [b"1.25", b"nan", b"x"]),
    "increment": number(-10, 10), "decrement": number(-10, 10),
    ("INCRBYFLOAT", "increment"): one_of([b"0.5", b"-1.25", b"3", b"1e2", b"inf", b"x"]),
    ("HINCRBYFLOAT", "increment"): one_of([b"0.5", b"-1.25", b"3", b"1e2", b"inf", b"x"]),
    ("ZINCRBY", "increment"): one_of([b"0.5", b"-1.25", b"3", b"inf", b"-inf", b"x"]),
    "longitude": real(-179, 179), "latitude": real(-84, 84), "radius": real(0, 9e6),
    "width": real(0, 9e6), "height": real(0, 9e6), "weight": one_of(SCORES + [b"0.5", b"x"]),
    "min": one_of(SCORE_ENDS), "max": one_of(SCORE_ENDS), "timeout": one_of([b"0.01"]),
    "bit": number(0, 1), "count": number(-1, 8), "limit": number(0, 5), "cursor": one_of([b"0"]),
    "seconds": ttl(1), "milliseconds": ttl(1000), "unix-time-seconds": unix_time(1),
    "unix-time-milliseconds": unix_time(1000), "offset": offset, "rank": number(-3, 3),
    ("SETBIT", "value"): one_of([b"0", b"1", b"1", b"2", b"x"]), ("GETBIT", "offset"): offset,
    ("EXPIRE", "seconds"): ttl(1), ("PEXPIRE", "milliseconds"): ttl(1000),
    "encoding": one_of([b"u8", b"i16", b"u1", b"i64", b"u63", b"u64", b"i0", b"x8"]),
    "operation": one_of([b"AND", b"or", b"XOR", b"NOT", b"nand"]),
    "slot": number(0, 16383), "db": one_of([b"0", b"0", b"1", b"99", b"x"]),
    "destination-db": one_of([b"0", b"0", b"1", b"99", b"x"]),
    "id": one_of(STREAM_IDS), "start": number(-5, 10), "stop": number(-5, 12), "end": number(-5, 12),
    "group": one_of(GROUPS), "groupname": one_of(GROUPS), "consumer": one_of(CONSUMERS),
    "consumername": one_of(CONSUMERS), "min-idle-time": one_of([b"0", b"0", b"99999999", b"x"]),
    "ms": one_of([b"0"]), "last-id": one_of(STREAM_IDS), "lastid": one_of(STREAM_IDS),
    "max-deleted-id": one_of(STREAM_IDS), "max-deleted-entry-id": one_of(STREAM_IDS),
    ("XADD", "threshold"): one_of([b"5", b"100", b"3-0", b"x"]),
    ("XTRIM", "threshold"): one_of([b"5", b"100", b"3-0", b"x"]),
    "channel": one_of([b"ch1", b"ch2", b"{a}ch"]), "shardchannel": one_of([b"sch1", b"{a}sch"]),
    "sha1": one_of([hashlib.sha1(SCRIPTS[0]).hexdigest().encode(), b"ff" * 20, b"x"]),
    "username": one_of([b"default", b"nobody", b""]), "password": one_of([b"x", b""]),
    "category": one_of([b"string", b"keyspace", b"nosuch"]),
    "categoryname": one_of([b"string", b"keyspace", b"READ", b"nosuch"]),
    "bits": one_of([b"1", b"5", b"256", b"4096", b"4097", b"0", b"x"]),
    "ttl": one_of([b"0", b"0", b"100000000", b"-1", b"x"]),
    "connection-name": one_of([b"me", b"", b"a b", b"\xff"]), "type": one_of([b"string", b"hash"]),
    "len": number(0, 20), "num-matches": number(-1, 4), "min-match-len": number(-1, 3),
    "index": number(-6, 12), "numreplicas": one_of([b"0"]), "numlocal": one_of([b"0"]),
    "version": one_of([b"5", b"6", b"x"]), "frequency": number(0, 255),
    "entries-added": number(0, 50), "entriesread": number(-2, 20), "entries-read": number(-2, 20),
}
for _name in ("XRANGE", "XREVRANGE", "XPENDING", "XAUTOCLAIM"):
    VALUES[(_name, "start")] = VALUES[(_name, "end")] = one_of(STREAM_ENDS)
for _name in ("ZRANGEBYLEX", "ZREVRANGEBYLEX", "ZREMRANGEBYLEX", "ZLEXCOUNT"):
    VALUES[(_name, "min")] = VALUES[(_name, "max")] = one_of(LEX_ENDS)
for _name in ("ZRANGE", "ZRANGESTORE"):
    for _end in ("start", "stop", "min", "max"):
        VALUES[(_name, _end)] = one_of([b"0", b"-1", b"3"] + SCORE_ENDS + LEX_ENDS)


# --- requests by hand

def make_eval(generator, _):
    name = generator.current
    numkeys = generator.int(0, 3)
    function = generator.pick(SCRIPTS)
    if name.startswith("EVALSHA"):
        # Which node has which script in its cache is not told to anybody: ones that none has.
        function = generator.pick((b"ff" * 20, b"x", b""))
    elif name.startswith("FCALL"):
        function = generator.pick(FUNCTIONS)
    keys = [generator.key() for _ in range(numkeys)]
    if generator.chance(0.05):
        numkeys = generator.pick((-1, 4, 99))
    count = b"%d" % numkeys
    if generator.chance(0.03):
        count = generator.pick((b" 1", b"1x", b"+1", b"4294967297", b"x", b""))
    args = [generator.text() for _ in range(generator.int(0, 3))]
    return generator.simple(name, function, count, *keys, *args)


def make_sort(generator, _):
    words = [generator.key(("list", "set", "zset", "numbers"))]
    if generator.chance(0.2):
        words += [generator.any_case(b"BY"), generator.pick((b"nosort", b"nosort", b"w_*"))]
    if generator.chance(0.3):
        words += [b"LIMIT", b"%d" % generator.int(-1, 3), b"%d" % generator.int(-1, 5)]
    if generator.chance(0.1):
        words += [b"GET", generator.pick((b"#", b"#", b"o_*"))]
    if generator.chance(0.5):
        words.append(generator.pick((b"ASC", b"desc")))
    if generator.chance(0.6):
        words.append(generator.any_case(b"ALPHA"))
    if generator.current == "SORT" and generator.chance(0.2):
        words += [b"STORE", generator.key(("list",))]
    return generator.simple(generator.current, *words)


def make_xread(generator, _):
    words = []
    if generator.current == "XREADGROUP":
        words += [b"GROUP", generator.pick(GROUPS), generator.pick(CONSUMERS)]
    if generator.chance(0.4):
        words += [b"COUNT", generator.pick((b"1", b"3", b"0", b"-1", b"x"))]
    if generator.current == "XREADGROUP" and generator.chance(0.2):
        words.append(b"NOACK")
    count = generator.int(1, 3)
    words.append(generator.any_case(b"STREAMS"))
    words += [generator.key() for _ in range(count)]
    special = (b">", b">", b"$") if generator.current == "XREADGROUP" else (b"$", b"+", b"0")
    words += [generator.pick(special) if generator.chance(0.5) else generator.pick(STREAM_IDS)
              for _ in range(count if generator.chance(0.95) else generator.int(0, 2))]
    return generator.simple(generator.current, *words)


def make_xadd(generator, _):
    words = [generator.key()]
    if generator.chance(0.1):
        words.append(b"NOMKSTREAM")
    if generator.chance(0.2):
        words += [b"MAXLEN", generator.pick((b"=", b"~")), generator.pick((b"5", b"50", b"-1"))]
    if generator.chance(0.05):
        words.append(b"*")
    else:
        words.append(generator.pick(STREAM_IDS + [b"%d-*" % generator.int(3, 60), b"x-1"]))
    words += [generator.text() for _ in range(2 * generator.int(1, 2) + generator.chance(0.05))]
    return generator.simple("XADD", *words)


def make_spop(generator, _):
    # Which member goes is random: afterwards nobody may look at the rest.
    key = generator.key()
    words = [key] + ([b"%d" % generator.int(-1, 4)] if generator.chance(0.5) else [])
    return [generator.simple("SPOP", *words), generator.simple("DEL", key)]


def make_restore(generator, _):
    words = [generator.key(), generator.pick((b"0", b"0", b"100000000", b"-1", b"x")),
             generator.pick(generator.payloads)]
    for option in (b"REPLACE", b"replace", b"ABSTTL"):
        if generator.chance(0.3):
            words.append(option)
    return generator.simple("RESTORE", *words)


def make_hello(generator, connection):
    words = [generator.pick((b"2", b"3", b"1", b"x", b"4"))] if generator.chance(0.8) else []
    if words and generator.chance(0.4):
        words += [b"SETNAME", generator.pick((b"me", b"a b", b""))]
    if words and generator.chance(0.3):
        words += [b"AUTH", generator.pick((b"default", b"nobody")), b"x"]
    return at_first([generator.simple("HELLO", *words)] + as_before(generator, connection))


def at_first(items):
    """Valkey 8.0 does not answer a failed AUTH while an earlier reply is on its way."""
    items[0].first = True
    return items


def as_before(generator, connection):
    """The connection's protocol again; and a right password, so that the wrong ones do not add up."""
    return [generator.simple("HELLO", b"%d" % generator.protocol_of(connection), b"AUTH",
                             b"default", b"x")]


def then_as_before(generator, connection):
    return at_first([generator.by_tree(generator.current)] + as_before(generator, connection))


def make_client_reply(generator, _):
    if generator.chance(0.5):
        return [Item("CLIENT|REPLY", [b"CLIENT", b"REPLY", b"SKIP"], replies=0),
                Item("GET", [b"GET", generator.key()], replies=0)]
    silent = []
    for _ in range(generator.int(0, 3)):
        item = generator.simple("GET", generator.key())
        item.replies = 0
        silent.append(item)
    return ([Item("CLIENT|REPLY", [b"CLIENT", b"REPLY", b"OFF"], replies=0)] + silent +
            [Item("CLIENT|REPLY", [b"CLIENT", b"REPLY", b"ON"])])


def make_multi(generator, connection):
    """A whole transaction on keys of one slot."""
    items, tag = [], generator.tag
    if "WATCH" in generator.commands and generator.chance(0.3):
        items.append(generator.simple("WATCH", generator.key(), generator.key()))
    items.append(generator.simple("MULTI"))
    for _ in range(generator.int(0, 5)):
        if generator.chance(0.1):
            name, args = generator.pick(ANSWERED_IN_TRANSACTIONS)
            if name in generator.commands:
                items.append(generator.simple(name, *args))
                continue
        if generator.chance(0.1):
            name = generator.pick(("MULTI", "WATCH", "PING", "ECHO"))
            name = name if name in generator.commands else "PING"
            items.append(generator.simple(name, *([b"x"] if name == "ECHO" else
                                                  [tag + b"k"] if name == "WATCH" else [])))
            continue
        name = generator.pick(IN_TRANSACTIONS)
        generator.begin(name)
        generator.tag = tag
        if generator.current not in generator.split:
            generator.words = [generator.any_case(name.encode())]
            generator.take_all(generator.trees[name])
            if generator.chance(0.04):
                generator.damage()
            items.append(Item(name, generator.words))
    items.append(generator.simple("DISCARD" if generator.chance(0.15) and
                                  "DISCARD" in generator.commands else "EXEC"))
    if "UNWATCH" in generator.commands and generator.chance(0.1):
        items.append(generator.simple("UNWATCH"))
    return items


def make_subscribe(generator, connection):
    """Some channels, what goes in between, and none of them again."""
    kind = generator.current
    end = {"SUBSCRIBE": "UNSUBSCRIBE", "PSUBSCRIBE": "PUNSUBSCRIBE",
           "SSUBSCRIBE": "SUNSUBSCRIBE"}[kind]
    tag = generator.tag
    channels = [b"%bch%d" % (tag, i) for i in range(generator.int(1, 3))]
    items = [generator.simple(kind, *channels)]
    items[0].replies = len(channels)
    if generator.chance(0.5):
        items.append(generator.simple("PING"))
    if generator.protocol_of(connection) == 2 and generator.chance(0.5):
        items.append(generator.simple("GET", generator.key(("string",))))
    items.append(generator.simple(end, *channels))
    items[-1].replies = len(channels)
    return items


IN_TRANSACTIONS = ("SET", "GET", "INCR", "LPUSH", "LRANGE", "HSET", "HGET", "ZADD", "ZSCORE",
                   "SADD", "SCARD", "APPEND", "TYPE", "STRLEN", "EXPIRE", "XADD", "XLEN")


# What the proxy answers itself, in its place among the nodes' replies.
NOBODY = b"99999999"
ANSWERED_IN_TRANSACTIONS = (
    ("CLIENT|GETNAME", ()), ("CLIENT|SETNAME", (b"me",)), ("CLIENT|SETNAME", (b"a b",)),
    ("CLIENT|LIST", (b"ID", NOBODY)), ("CLIENT|LIST", (b"TYPE", b"x")),
    ("CLIENT|KILL", (b"ID", NOBODY)), ("CLIENT|KILL", (b"ID", b"x")), ("CLIENT|KILL", (b"1:1",)),
    ("CLIENT|UNBLOCK", (NOBODY,)), ("CLIENT|UNBLOCK", (b"x",)), ("CLIENT|REPLY", (b"ON",)),
    ("CLIENT|REPLY", (b"x",)), ("CONFIG|GET", (b"maxmemory-policy",)),
    ("CONFIG|GET", (b"maxmemory-polic?",)), ("CONFIG|GET", (b"nosuch",)), ("MONITOR", ()),
)


def make_client_query(generator, _):
    """Of clients that are not there, or of none at all."""
    filters = {
        "CLIENT|LIST": ((b"ID", NOBODY), (b"ID", NOBODY, b"-1"), (b"ID", b"x"), (b"ID",),
                        (b"TYPE", b"replica"), (b"TYPE", b"MASTER"), (b"TYPE", b"x"), (b"x",)),
        "CLIENT|KILL": ((b"ID", NOBODY), (b"ID", b"0"), (b"ID", b"x"), (b"ID",), (b"1.2.3.4:5",),
                        (b"ADDR", b"1:1"), (b"LADDR", b"1:1", b"SKIPME", b"no"), (b"USER", b"x"),
                        (b"TYPE", b"replica", b"ID", NOBODY), (b"TYPE", b"x"), (b"x", b"y")),
        "CLIENT|UNBLOCK": ((NOBODY,), (NOBODY, b"ERROR"), (NOBODY, b"timeout"), (NOBODY, b"x"),
                           (b"x",), (b"-1",), (NOBODY, b"ERROR", b"x")),
    }[generator.current]
    return generator.simple(generator.current, *generator.pick(filters))


def make_blocking(generator, _):
    """What does not block for long: data that is there, or a timeout of 0.01 s."""
    name = generator.current
    generator.words = [generator.any_case(name.encode())]
    generator.take_all(generator.trees[name])
    if generator.chance(0.05) and name not in ("BLMPOP", "BZMPOP"):
        generator.words[-1] = generator.pick((b"-1", b"x", b"", b"1e400"))
    return Item(name, generator.words)


BY_HAND = {
    "EVAL": make_eval, "EVAL_RO": make_eval, "EVALSHA": make_eval, "EVALSHA_RO": make_eval,
    "FCALL": make_eval, "FCALL_RO": make_eval, "SORT": make_sort, "SORT_RO": make_sort,
    "XREAD": make_xread, "XREADGROUP": make_xread, "XADD": make_xadd, "SPOP": make_spop,
    "RESTORE": make_restore, "HELLO": make_hello, "AUTH": then_as_before, "RESET": then_as_before,
    "CLIENT|REPLY": make_client_reply, "CLIENT|LIST": make_client_query,
    "CLIENT|KILL": make_client_query, "CLIENT|UNBLOCK": make_client_query, "MULTI": make_multi,
    "SUBSCRIBE": make_subscribe, "PSUBSCRIBE": make_subscribe, "SSUBSCRIBE": make_subscribe,
    "BLPOP": make_blocking, "BRPOP": make_blocking, "BLMOVE": make_blocking,
    "BRPOPLPUSH": make_blocking, "BLMPOP": make_blocking, "BZPOPMIN": make_blocking,
    "BZPOPMAX": make_blocking, "BZMPOP": make_blocking,
}
# Never damaged: a wrong argument would make the two sides wait, or differ by right.
UNDAMAGED = frozenset("WAIT WAITAOF SRANDMEMBER HRANDFIELD ZRANDMEMBER".split())
# Valkey 8.0 writes a wrong argument of these into the error as it is. A line's end in it would end
# the error, and what follows is no reply: from there on, the two streams cannot be compared.
ONE_LINE = frozenset(("FUNCTION|LIST",))
EXPIRING = frozenset("SET GETEX SETEX PSETEX EXPIRE PEXPIRE EXPIREAT PEXPIREAT RESTORE".split())
# Seldom: they empty all, or wait.
WEIGHTS = {
    "FLUSHALL": 0.02, "FLUSHDB": 0.02, "KEYS": 0.02, "RANDOMKEY": 0.05, "DEL": 0.6,
    "BLPOP": 0.02, "BRPOP": 0.02, "BLMOVE": 0.02, "BRPOPLPUSH": 0.02, "BLMPOP": 0.02,
    "BZPOPMIN": 0.02, "BZPOPMAX": 0.02, "BZMPOP": 0.02, "WAIT": 0.02, "WAITAOF": 0.02,
    "SCRIPT|FLUSH": 0.02, "FUNCTION|FLUSH": 0.0, "MULTI": 2.0, "LOLWUT": 0.02, "RENAME": 0.5,
    "UNLINK": 0.5, "HELLO": 0.1, "AUTH": 0.1, "RESET": 0.1,
}
# Not asked at random, with the reason.
EXCLUDED = {
    "QUIT": "ends the connection",
    "EXEC": "within MULTI", "DISCARD": "within MULTI", "WATCH": "within MULTI",
    "UNWATCH": "within MULTI",
    "UNSUBSCRIBE": "after SUBSCRIBE", "PUNSUBSCRIBE": "after PSUBSCRIBE",
    "SUNSUBSCRIBE": "after SSUBSCRIBE",
    "MONITOR": "what it shows is not a reply",
    "CLIENT|PAUSE": "stops both sides", "CLIENT|UNPAUSE": "stops both sides",
    "CLIENT|TRACKING": "its messages are no replies",
    "CLIENT|INFO": "tests/proxy/local_commands_check asks it",
    "COMMAND": "tells of the served ones: tests/proxy/local_commands_check",
    "COMMAND|COUNT": "see COMMAND", "COMMAND|DOCS": "see COMMAND", "COMMAND|INFO": "see COMMAND",
    "COMMAND|LIST": "see COMMAND", "COMMAND|HELP": "see COMMAND", "CLIENT|HELP": "see COMMAND",
    "COMMAND|GETKEYS": "see COMMAND", "COMMAND|GETKEYSANDFLAGS": "see COMMAND",
    "CLUSTER|HELP": "see COMMAND", "INFO": "tests/proxy/local_commands_check asks it",
    "SCAN": "iterated as a whole: its cursors are its own",
    "CONFIG|GET": "tests/e2e asks it", "CONFIG|SET": "tests/e2e asks it",
    "FUNCTION|FLUSH": "the library is needed", "FUNCTION|DELETE": "the library is needed",
    "FUNCTION|RESTORE": "the library is needed", "FUNCTION|KILL": "nothing runs",
    "SCRIPT|KILL": "nothing runs",
    "PFDEBUG": "changes the encoding", "PFSELFTEST": "takes seconds",
    "ACL|LOG": "tells of addresses",
}
