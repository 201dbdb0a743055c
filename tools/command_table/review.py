"""The review: what the servers' metadata cannot say of their commands, each with its reason."""

# Facts that differ between the servers: (command, fact) → why the union is right. Flags are
# or-ed, of two arities the more permissive one stands (the node checks its own), valkey's tips and
# key specs win.
_NESTED = "valkey dropped noscript: it concerns calls from scripts only, the union is harmless"
_LOADING = "valkey also answers while loading"
_TIPS = "valkey added tips; the command is not served by them"
REVIEWED_DIFFERENCES = {
    ("ACL|DELUSER", "tips"): _TIPS,
    ("ACL|SAVE", "tips"): _TIPS,
    ("ACL|SETUSER", "tips"): _TIPS,
    ("BLMOVE", "flags"): _NESTED,
    ("BLPOP", "flags"): _NESTED,
    ("BRPOP", "flags"): _NESTED,
    ("BRPOPLPUSH", "flags"): _NESTED,
    ("BZPOPMAX", "flags"): _NESTED,
    ("BZPOPMIN", "flags"): _NESTED,
    ("CLIENT|SETNAME", "tips"): _TIPS,
    ("CLUSTER|INFO", "flags"): _LOADING,
    ("CLUSTER|MYID", "flags"): _LOADING,
    ("CLUSTER|NODES", "flags"): _LOADING,
    ("CLUSTER|SHARDS", "flags"): _LOADING,
    ("CLUSTER|SLOTS", "flags"): _LOADING,
    ("COMMAND|GETKEYS", "arity"): "valkey takes a command without arguments",
    ("COMMAND|GETKEYSANDFLAGS", "arity"): "valkey takes a command without arguments",
    ("CONFIG|RESETSTAT", "tips"): _TIPS,
    ("CONFIG|REWRITE", "tips"): _TIPS,
    ("LATENCY|RESET", "tips"): "redis says all_succeeded, but the reply is a number: valkey's sum",
    ("MSETNX", "tips"): "redis says multi_shard, but all or nothing cannot be split: valkey's none",
    ("MULTI", "flags"): "valkey marks it no_multi",
    ("RANDOMKEY", "tips"): "redis has no response policy: valkey's special",
    ("SCAN", "tips"): "redis has no response policy: valkey's special",
    ("SINTERSTORE", "key_specs"): "RW against OW of the same key",
    ("WAIT", "flags"): "redis says noscript, valkey blocking: both",
    ("WATCH", "flags"): "valkey marks it no_multi",
    ("ZRANK", "arity"): "valkey takes WITHSCORE",
    ("ZREVRANK", "arity"): "valkey takes WITHSCORE",
}

# How a command is served, where its flags and key specs do not decide it: kind → reason →
# commands.
# A command with keys and without a flag of STATEFUL_FLAGS is kOneSlot; one with the flag admin is
# kRefused; of every other one it must be said here.
REVIEWED_SERVE = {
    "kOneSlot": {
        "noscript concerns scripts in scripts; without keys they go to slot 0's owner":
            "EVAL EVAL_RO EVALSHA EVALSHA_RO FCALL FCALL_RO",
        "of the group 'server', but it reads one key": "MEMORY|USAGE",
        "may wait, and has a connection of its own while it does":
            "BLMOVE BRPOPLPUSH XREAD XREADGROUP",
        "may wait, and has a connection of its own while it does; over several slots the proxy looks"
        " for what comes, again and again":
            "BLMPOP BLPOP BRPOP BZMPOP BZPOPMAX BZPOPMIN",
    },
    "kSplit": {
        "each key stands for itself": "DEL EXISTS MGET MSET TOUCH UNLINK",
    },
    "kKeyless": {
        "tells of the server's code, the same on every node": "LOLWUT",
        "a help text":
            "ACL|HELP CONFIG|HELP FUNCTION|HELP LATENCY|HELP MEMORY|HELP MODULE|HELP OBJECT|HELP"
            " PUBSUB|HELP SCRIPT|HELP SLOWLOG|HELP XGROUP|HELP XINFO|HELP",
    },
    "kPublish": {
        "goes to its channel's home, and the proxy knows whom it reaches": "PUBLISH SPUBLISH",
    },
    "kPubSubCount": {
        "each node counts its own subscribers, and the workers' connections for one":
            "PUBSUB|CHANNELS PUBSUB|NUMPAT PUBSUB|NUMSUB PUBSUB|SHARDCHANNELS PUBSUB|SHARDNUMSUB",
    },
    "kPubSub": {
        "the proxy's own subscription stands for those of its clients":
            "PSUBSCRIBE PUNSUBSCRIBE SSUBSCRIBE SUBSCRIBE SUNSUBSCRIBE UNSUBSCRIBE",
    },
    "kBySlot": {
        "asks the slot's owner": "CLUSTER|COUNTKEYSINSLOT CLUSTER|GETKEYSINSLOT",
    },
    "kLocal": {
        "concerns the client's own connection":
            "AUTH CLIENT|CAPA CLIENT|GETNAME CLIENT|GETREDIR CLIENT|HELP CLIENT|ID CLIENT|INFO"
            " CLIENT|NO-EVICT CLIENT|NO-TOUCH CLIENT|SETINFO CLIENT|SETNAME CLIENT|TRACKINGINFO ECHO HELLO PING QUIT READONLY READWRITE RESET UNWATCH",
        "database 0, or one of those that a cluster of Valkey 9 has": "SELECT",
        "the proxy tells of itself":
            "COMMAND COMMAND|COUNT COMMAND|DOCS COMMAND|GETKEYS COMMAND|GETKEYSANDFLAGS"
            " COMMAND|HELP COMMAND|INFO COMMAND|LIST INFO ROLE TIME",
        "computed without a node": "CLUSTER|HELP CLUSTER|KEYSLOT",
        "there is one user, 'default', with the proxy's password":
            "ACL|CAT ACL|DRYRUN ACL|GENPASS ACL|GETUSER ACL|LIST ACL|LOG ACL|USERS ACL|WHOAMI",
        "of the proxies as a cluster (`--cluster-face`); else as by a server without one: `ERR This"
        " instance has cluster support disabled`":
            "ASKING CLUSTER|COUNT-FAILURE-REPORTS CLUSTER|INFO CLUSTER|LINKS CLUSTER|MYSHARDID"
            " CLUSTER|NODES CLUSTER|REPLICAS CLUSTER|SHARDS CLUSTER|SLAVES CLUSTER|SLOTS",
        "as by a server without a cluster; with `--cluster-face` it is refused: each node counts for"
        " its operator": "CLUSTER|SLOT-STATS",
        "the proxy's own id: another for each process, or with `--cluster-face` its address's":
            "CLUSTER|MYID",
    },
    "kTransaction": {
        "what is queued goes to the slot's node with EXEC; WATCH has a connection of its own":
            "DISCARD EXEC MULTI WATCH",
    },
    "kWholeCluster": {
        "each primary has its part": "DBSIZE FLUSHALL FLUSHDB KEYS",
        "goes from slot to slot": "SCAN",
        "a shard chosen by its size": "RANDOMKEY",
        "one primary tells, of the parameters that concern the data": "CONFIG|GET",
        "`notify-keyspace-events` only: OK, and nothing is done, where all nodes have it so":
            "CONFIG|SET",
        "asks each primary that the client wrote to how far its replicas have come": "WAIT",
        "on a connection of its own to each of them, behind a write that leaves nothing": "WAITAOF",
        "scripts and functions are on all nodes":
            "FUNCTION|DELETE FUNCTION|DUMP FUNCTION|FLUSH FUNCTION|KILL FUNCTION|LIST FUNCTION|LOAD"
            " FUNCTION|RESTORE FUNCTION|STATS SCRIPT|EXISTS SCRIPT|FLUSH SCRIPT|KILL SCRIPT|LOAD"
            " SCRIPT|SHOW",
        "each node tells of itself":
            "LATENCY|DOCTOR LATENCY|GRAPH LATENCY|HISTOGRAM LATENCY|HISTORY LATENCY|LATEST"
            " LATENCY|RESET MEMORY|DOCTOR MEMORY|MALLOC-STATS MEMORY|PURGE MEMORY|STATS SLOWLOG|GET"
            " SLOWLOG|LEN SLOWLOG|RESET",
    },
    "kClients": {
        "concerns the proxy's clients": "CLIENT|KILL CLIENT|LIST CLIENT|UNBLOCK",
        "lets the proxy's clients wait: others are the nodes' matter": "CLIENT|PAUSE CLIENT|UNPAUSE",
        "the proxy drops the replies": "CLIENT|REPLY",
        "each worker is told by all primaries what changes, and tells its clients":
            "CLIENT|CACHING CLIENT|TRACKING",
        "shows what the proxy's clients send": "MONITOR",
    },
    "kRefused": {
        "a container: only its subcommands are served":
            "ACL CLIENT CLUSTER CONFIG FUNCTION LATENCY MEMORY MODULE OBJECT PUBSUB SCRIPT SLOWLOG"
            " XGROUP XINFO",
        "part of the protocol between cluster nodes": "RESTORE-ASKING MIGRATE",
        "tells of one server's disk": "LASTSAVE",
        "puts the connection into a debugger": "SCRIPT|DEBUG",
        "there is one database": "SWAPDB",
    },
}

# Admin commands that are served all the same are named above; these flags (as far as a command has
# one) make every other command unfit for a shared connection.
STATEFUL_FLAGS = frozenset(
    ("admin", "pubsub", "noscript", "blocking", "no_multi", "no_auth", "allow_busy", "asking"))

# Policies that are not what the servers' tips say: command → (request, response, reason).
REVIEWED_POLICIES = {
    "PING": ("kNone", "kNone", "answered by the proxy"),
    "INFO": ("kNone", "kNone", "answered by the proxy"),
    "CLIENT|SETNAME": ("kNone", "kNone", "answered by the proxy"),
    "CLIENT|SETINFO": ("kNone", "kNone", "answered by the proxy"),
    "WAIT": ("kSpecial", "kSpecial", "its offsets belong to a connection, not to a shard"),
    "WAITAOF": ("kSpecial", "kSpecial", "its offsets belong to a connection, not to a shard"),
    "KEYS": ("kAllShards", "kSpecial", "the arrays are joined; the servers leave this unsaid"),
}

# kSplit: how the arguments go with the keys, and how the replies become one.
REVIEWED_SPLITS = {
    "MGET": ("kKeys", "kInKeyOrder"),
    "MSET": ("kKeyValuePairs", "kAllSucceeded"),
    "DEL": ("kKeys", "kSum"),
    "EXISTS": ("kKeys", "kSum"),
    "TOUCH": ("kKeys", "kSum"),
    "UNLINK": ("kKeys", "kSum"),
}

SCRIPTS = frozenset("EVAL EVAL_RO EVALSHA EVALSHA_RO FCALL FCALL_RO".split())

# They may change what others see though they are no writes: CLIENT PAUSE WRITE holds them, and a
# client of MONITOR may not say them. The servers hide this flag of theirs from COMMAND.
MAY_REPLICATE = frozenset("EVAL EVALSHA FCALL PFCOUNT PUBLISH SPUBLISH".split())

# Unbounded run time in one call: the node gets a longer reply deadline meanwhile.
SLOW = SCRIPTS | frozenset(
    "FLUSHALL FLUSHDB KEYS SORT SORT_RO"
    " SDIFF SDIFFSTORE SINTER SINTERCARD SINTERSTORE SUNION SUNIONSTORE"
    " ZDIFF ZDIFFSTORE ZINTER ZINTERCARD ZINTERSTORE ZUNION ZUNIONSTORE"
    # Quadratic in the lengths of its two strings.
    " LCS"
    " FUNCTION|DELETE FUNCTION|DUMP FUNCTION|FLUSH FUNCTION|KILL FUNCTION|LIST FUNCTION|LOAD"
    " FUNCTION|RESTORE FUNCTION|STATS".split())

# kOneSlot commands that the proxy serves over slots, too, with --cross-slot split.
OVER_SLOTS = {
    "computed by the proxy of the keys' contents":
        "PFCOUNT SDIFF SINTER SINTERCARD SUNION ZDIFF ZINTER ZINTERCARD ZUNION",
    "computed by the proxy, and then written": "SDIFFSTORE SINTERSTORE SUNIONSTORE"
                                               " ZDIFFSTORE ZINTERSTORE ZUNIONSTORE",
    "by `DUMP` and `RESTORE`": "COPY",
    "by `DUMP`, `RESTORE` and then `UNLINK`": "RENAME RENAMENX",
}

# Commands whose keys stand where their specs do not say ("unknown", "incomplete"), or where an
# option's value may look like the keyword: command_table.cc has code for each.
SEARCHED_BY_CODE = frozenset(
    "SORT SORT_RO GEORADIUS GEORADIUSBYMEMBER XREAD XREADGROUP MIGRATE".split())

# The groups of COMMAND DOCS whose commands act on keys: no other may be kOneSlot.
KEY_GROUPS = frozenset(("string list set sorted-set hash stream geo hyperloglog bitmap generic"
                        " scripting").split())

# Requests of which COMMAND GETKEYS says other keys than the servers route by in a cluster (checked
# there with keys of two slots): it goes by the specifications, the routing by code of its own. The
# table's code does what the routing does; key_search_test has these requests by hand.
GETKEYS_DIFFERS = frozenset((
    # Only the last STORE or STOREDIST counts.
    "GEORADIUS a 0 0 1 m COUNT 3 STORE b STORE b",
    "GEORADIUS key1 arg2 arg3 arg4 M WITHCOORD WITHDIST WITHHASH COUNT arg10 ANY ASC STORE key14"
    " STOREDIST key16",
    "georadius key1 arg2 arg3 arg4 mi withcoord withdist withhash count arg10 any desc store key14"
    " storedist key16",
    "GEORADIUSBYMEMBER key1 arg2 arg3 M WITHCOORD WITHDIST WITHHASH COUNT arg9 ANY ASC STORE key13"
    " STOREDIST key15",
    "georadiusbymember key1 arg2 arg3 mi withcoord withdist withhash count arg9 any desc store key13"
    " storedist key15",
    # The first STREAMS is the option, whatever follows.
    "XREAD STREAMS STREAMS 0",
))
