"""What redis-py offers on one Redis: redis_py.py HOST PORT"""

import threading
import time

import redis

from check import HOST, PORT, ROUNDS, check, check_fails, check_that, finish, until

KEYS = ["redis_py:%d" % number for number in range(60)]  # of as many slots


def connect(**options):
    return redis.Redis(HOST, PORT, socket_timeout=30, **options)


def pipelines(r):
    count = 500 * ROUNDS
    pipe = r.pipeline(transaction=False)
    for number in range(count):
        pipe.set(KEYS[number % 60], number).get(KEYS[number % 60])
    check(pipe.execute(), [it for number in range(count) for it in (True, b"%d" % number)],
          "pipeline")
    with r.pipeline() as pipe:
        check(pipe.set("{t}a", 1).incr("{t}a").get("{t}a").execute(), [True, 2, b"2"], "MULTI")
        pipe.set("{t}a", "x").incr("{t}a").set("{t}b", 1)
        check_fails(redis.ResponseError, pipe.execute, "an error within", "not an integer")
    check(r.get("{t}b"), b"1", "what comes after the error runs")
    r.set("{t}n", 0)
    r.transaction(lambda pipe: (pipe.get("{t}n"), pipe.multi(), pipe.incr("{t}n")), "{t}n")
    check(r.get("{t}n"), b"1", "transaction()")

    def increment():
        own = connect()
        for _ in range(25 * ROUNDS):
            def once(pipe):
                value = int(pipe.get("{t}n"))
                pipe.multi()
                pipe.set("{t}n", value + 1)
            own.transaction(once, "{t}n")
        own.close()
    threads = [threading.Thread(target=increment) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    check(r.get("{t}n"), b"%d" % (1 + 100 * ROUNDS), "WATCH: no increment is lost")
    with r.pipeline() as pipe:
        pipe.watch("{t}n")
        r.set("{t}n", "other")
        pipe.multi()
        pipe.set("{t}n", "mine")
        check_fails(redis.WatchError, pipe.execute, "WatchError")


def locks(r):
    lock = r.lock("lock", timeout=10)
    check_that(lock.acquire(), "acquire")
    other = r.lock("lock", timeout=10)
    check_that(not other.acquire(blocking=False), "held")
    check_that(lock.owned() and not other.owned(), "owned")
    lock.extend(10)
    check_that(r.pttl("lock") > 15000, "extend")
    lock.reacquire()
    check_that(r.pttl("lock") <= 10000, "reacquire")
    lock.release()
    check_fails(redis.exceptions.LockError, lock.release, "released twice")
    inside = []

    def work(number):
        own = connect()
        for _ in range(10 * ROUNDS):
            with own.lock("lock", timeout=10, sleep=0.002, blocking_timeout=30):
                inside.append(number)
                check(len(inside), 1, "alone")
                inside.pop()
        own.close()
    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    r.script_flush()
    with r.lock("lock", timeout=10):  # its release is a script
        pass
    check(r.exists("lock"), 0, "after SCRIPT FLUSH")


def scripts(r):
    add = r.register_script("return redis.call('INCRBY', KEYS[1], ARGV[1])")
    r.delete("script")
    check(add(keys=["script"], args=[5]), 5, "register_script")
    r.script_flush()
    check(add(keys=["script"], args=[5]), 10, "after SCRIPT FLUSH")
    pipe = r.pipeline(transaction=False)
    for key in KEYS[:20]:
        pipe.set(key, 1)
        add(keys=[key], args=[2], client=pipe)
    check(pipe.execute(), [True, 3] * 20, "in a pipeline")
    with r.pipeline() as pipe:
        add(keys=["script"], args=[1], client=pipe)
        check(pipe.execute(), [11], "in MULTI")
    check(r.script_exists(add.sha, "0" * 40), [True, False], "script_exists")


def pub_sub(r):
    got = []
    pubsub = r.pubsub(ignore_subscribe_messages=True)
    pubsub.subscribe(**{"news": lambda message: got.append(message["data"])})
    pubsub.psubscribe(**{"n?ws": lambda message: got.append((message["pattern"],
                                                            message["data"]))})
    thread = pubsub.run_in_thread(sleep_time=0.01)
    until(lambda: r.pubsub_numsub("news")[0][1] == 1 and r.pubsub_numpat() == 1, "subscriptions")
    check(r.publish("news", "one"), 2, "publish")
    until(lambda: len(got) == 2, "both messages")
    check_that(b"one" in got and (b"n?ws", b"one") in got, "messages")
    check(r.pubsub_channels("new*"), [b"news"], "pubsub_channels")
    thread.stop()
    thread.join()
    with r.pubsub() as pubsub:
        pubsub.subscribe(*["channel:%d" % number for number in range(50)])
        for number in range(50):
            check(pubsub.get_message(timeout=10)["type"], "subscribe", "subscribe")
        for number in range(500 * ROUNDS):
            r.publish("channel:%d" % (number % 50), number)
        last = {}
        for _ in range(500 * ROUNDS):
            message = pubsub.get_message(timeout=10)
            channel, number = message["channel"], int(message["data"])
            check_that(number == last.get(channel, number - 50) + 50, "order of a channel")
            last[channel] = number
        check(len(last), 50, "channels")


def blocking_and_streams(r):
    r.delete("b", "x", "z")
    replies = []
    thread = threading.Thread(target=lambda: replies.append(connect().blpop("b", 20)))
    thread.start()
    for number in range(20):
        check(r.echo(str(number)), b"%d" % number, "others are served")
    r.rpush("b", "v")
    thread.join()
    check(replies, [(b"b", b"v")], "blpop")
    begin = time.monotonic()
    check(r.blpop("b", 1), None, "a timeout")
    check_that(0.9 < time.monotonic() - begin < 5, "its time")
    r.xgroup_create("x", "group", mkstream=True)
    identities = [r.xadd("x", {"n": number}) for number in range(10)]
    read = r.xreadgroup("group", "me", {"x": ">"}, count=4, block=1000)
    check([identity for identity, _ in read[0][1]], identities[:4], "xreadgroup")
    check(r.xack("x", "group", *identities[:3]), 3, "xack")
    check(r.xpending("x", "group")["pending"], 1, "xpending")
    check(len(r.xautoclaim("x", "group", "other", 0)[1]), 1, "xautoclaim")
    check(len(r.xread({"x": identities[7]}, block=10)[0][1]), 2, "xread")


def whole(r):
    wanted = {b"scan:%d" % number for number in range(500 * ROUNDS)}
    r.mset({key: 1 for key in wanted})
    check(set(r.scan_iter("scan:*", count=100)), wanted, "scan_iter")
    check(set(r.keys("scan:*")), wanted, "keys")
    check_that(r.dbsize() >= len(wanted), "dbsize")
    check(r.delete(*wanted), len(wanted), "delete")
    check(list(r.scan_iter("scan:*")), [], "scan_iter")
    r.hset("h", mapping={number: number for number in range(1000)})
    check(len(dict(r.hscan_iter("h"))), 1000, "hscan_iter")
    r.sadd("s", *range(1000))
    check(len(set(r.sscan_iter("s"))), 1000, "sscan_iter")
    r.zadd("zs", {str(number): number for number in range(1000)})
    check(len(set(r.zscan_iter("zs"))), 1000, "zscan_iter")
    r.delete("h", "s", "zs")


def main():
    pool = redis.BlockingConnectionPool(host=HOST, port=PORT, max_connections=20, timeout=20,
                                        health_check_interval=1)
    r = redis.Redis(connection_pool=pool)
    check(r.ping(), True, "ping")
    check(r.info()["redis_mode"], "standalone", "info")
    pipelines(r)
    locks(r)
    scripts(r)
    pub_sub(r)
    blocking_and_streams(r)
    whole(r)
    with redis.from_url("redis://%s:%d/0" % (HOST, PORT), decode_responses=True) as single:
        single.set("text", "é")
        check(single.get("text"), "é", "decode_responses")
    finish()


main()
