"""What redis-py offers on a cluster: redis_py_cluster.py HOST PORT, of one of its nodes"""

import threading

import redis
from redis.cluster import RedisCluster

from check import HOST, PORT, ROUNDS, check, check_fails, check_that, finish, until

KEYS = ["redis_py:c%d" % number for number in range(60)]  # of as many slots


def connect(**options):
    return RedisCluster(host=HOST, port=PORT, socket_timeout=30, **options)


def commands(r):
    for number in range(300 * ROUNDS):
        check(r.set(KEYS[number % 60], number), True, "set")
        check(r.get(KEYS[number % 60]), b"%d" % number, "get")
    check(r.mset_nonatomic({key: number for number, key in enumerate(KEYS)})[0], True,
          "mset_nonatomic")
    check(r.mget_nonatomic(*KEYS, "none"), [b"%d" % number for number in range(60)] + [None],
          "mget_nonatomic")
    check(r.mset({"{c}a": 1, "{c}b": 2}), True, "mset")
    check(r.mget("{c}a", "{c}b"), [b"1", b"2"], "mget")
    check(r.delete("{c}a", *KEYS[:20]), 21, "delete over slots")
    pipe = r.pipeline()
    for number, key in enumerate(KEYS):
        pipe.set(key, number).get(key)
    check(pipe.execute(), [it for number in range(60) for it in (True, b"%d" % number)], "pipeline")
    pipe.set("{c}s", "x").lpush("{c}s", 1)
    check_fails(redis.ResponseError, pipe.execute, "an error within", "WRONGTYPE")
    for number in range(20):
        check(r.eval("return redis.call('INCRBY', KEYS[1], ARGV[1])", 1, "e:%d" % number, 5) % 5, 0,
              "eval")
    check(r.keyslot("a"), r.cluster_keyslot("a"), "keyslot")
    readers = connect(read_from_replicas=True)
    until(lambda: readers.get(KEYS[1]) == b"1", "read_from_replicas")
    readers.close()


def all_nodes(r):
    r.flushall(target_nodes=RedisCluster.PRIMARIES)
    wanted = {b"scan:%d" % number for number in range(300 * ROUNDS)}
    r.mset_nonatomic({key: 1 for key in wanted})
    found = list(r.scan_iter("scan:*", count=100))
    check((len(found), set(found)), (len(wanted), wanted), "scan_iter")
    check(sorted(r.keys("scan:*", target_nodes=RedisCluster.PRIMARIES)), sorted(wanted), "keys")
    check(r.dbsize(target_nodes=RedisCluster.PRIMARIES), len(wanted), "dbsize")
    check_that(all(r.ping(target_nodes=node) for node in r.get_primaries()), "ping")
    check(r.delete(*wanted), len(wanted), "delete")
    check_that(len(r.cluster_nodes()) >= 1, "cluster_nodes")
    check(r.cluster_info(target_nodes=r.get_random_node())["cluster_state"], "ok", "cluster_info")
    check({first for first, _ in r.cluster_slots()} >= {0}, True, "cluster_slots")
    check(r.info(target_nodes=r.get_random_node())["cluster_enabled"], 1, "info")


def pub_sub(r):
    with r.pubsub(ignore_subscribe_messages=True) as pubsub:
        pubsub.subscribe("news")
        until(lambda: r.pubsub_numsub("news", target_nodes=RedisCluster.PRIMARIES)[0][1] == 1,
              "the subscription")
        count = 200 * ROUNDS
        for number in range(count):
            r.publish("news", number)
        got = []
        until(lambda: got.append(pubsub.get_message(timeout=1)) or
              len([it for it in got if it]) == count, "all messages")
        check([int(it["data"]) for it in got if it], list(range(count)), "their order")


def blocking(r):
    for number in range(5):
        key = "b:%d" % number
        r.delete(key)
        replies = []
        own = connect()
        thread = threading.Thread(target=lambda: replies.append(own.blpop(key, 20)))
        thread.start()
        r.rpush(key, "v")
        thread.join()
        own.close()
        check(replies, [(key.encode(), b"v")], "blpop")


def main():
    r = connect()
    check_that(len(r.get_primaries()) > 0, "nodes")
    commands(r)
    all_nodes(r)
    pub_sub(r)
    blocking(r)
    r.close()
    finish()


main()
