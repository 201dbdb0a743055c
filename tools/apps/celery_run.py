"""Celery: a worker and a beat of their own processes, results, workflows, remote control.

  celery_run.py HOST PORT [chords]

Chords are a run of their own: before its version 5.3 Celery has no key prefix for results, so that a
chord's counters lie in different slots and change in one transaction.
"""

import os
import subprocess
import sys
import threading
import time

from check import (HOST, PORT, ROUNDS, check, check_fails, check_that, directory_of_logs, finish,
                   until)

HERE = os.path.dirname(os.path.abspath(__file__))
os.environ["RCPROXY_BROKER"] = "redis://%s:%d/0" % (HOST, PORT)
from celery import chain, chord, group  # noqa: E402
from celery.exceptions import TaskRevokedError  # noqa: E402
from celery_tasks import add, app, fail, flaky, slow, special, total, when  # noqa: E402

WAIT = 30.0
# A process of the worker's pool waits up to 30 s for its results to be read, which nobody does when
# the worker ends at that moment (billiard's GUARANTEE_MESSAGE_CONSUMPTION_RETRY_LIMIT).
END_WAIT = WAIT + 30.0


def start(directory, name, *arguments):
    log = open(os.path.join(directory, name + ".log"), "wb")
    # No broker heartbeats, no gossip with workers that there are not; all else as it comes.
    return subprocess.Popen(
        [sys.executable, "-B", "-m", "celery", "-A", "celery_tasks", *arguments], cwd=directory,
        env=dict(os.environ, PYTHONPATH=HERE), stdin=subprocess.DEVNULL, stdout=log,
        stderr=subprocess.STDOUT)


def results():
    count = 100 * ROUNDS
    sent = [add.delay(number, 1) for number in range(count)]
    check([result.get(WAIT) for result in sent], [number + 1 for number in range(count)],
          "results")
    check(sent[0].state, "SUCCESS", "state")
    check_that(sent[0].successful() and sent[0].ready(), "ready")
    failed = fail.delay()
    check_fails(ValueError, lambda: failed.get(WAIT), "a failure", "no luck")
    check(failed.state, "FAILURE", "state")
    check_that("ValueError" in failed.traceback, "traceback")
    check(flaky.delay().get(WAIT), 2, "retry")
    check(special.delay().get(WAIT), "special", "a queue of its own")
    begin = time.time()
    check_that(when.apply_async(countdown=0.5).get(WAIT) - begin >= 0.5, "countdown")
    check(add.apply_async((1, 2), priority=9).get(WAIT), 3, "priority")


def workflows():
    check(group(add.s(number, number) for number in range(20)).apply_async().get(timeout=WAIT),
          [2 * number for number in range(20)], "group, read by MGET")
    check(chain(add.s(1, 2), add.s(3), add.s(4)).apply_async().get(timeout=WAIT), 10, "chain")
    check(add.chunks(zip(range(20), range(20)), 5).apply_async().get(timeout=WAIT),
          [[2 * number for number in range(first, first + 5)] for first in range(0, 20, 5)],
          "chunks")
    saved = group(add.s(1, number) for number in range(3)).apply_async()
    check(saved.get(timeout=WAIT), [1, 2, 3], "a group")
    saved.save()
    check(app.GroupResult.restore(saved.id).results, saved.results, "a saved group")


def chords():
    many = [chord((add.s(number, one) for one in range(8)), total.s()).apply_async()
            for number in range(5 * ROUNDS)]
    check([result.get(timeout=WAIT) for result in many],
          [8 * number + 28 for number in range(5 * ROUNDS)], "chord")
    nested = chain(add.s(1, 1), group(add.s(10), add.s(20)), total.s(), add.s(100))
    check(nested.apply_async().get(timeout=WAIT), 2 + 10 + 2 + 20 + 100, "chord within a chain")
    broken = chord([add.s(1, 1), fail.s()], total.s()).apply_async()
    check_fails(Exception, lambda: broken.get(timeout=WAIT), "a chord of which a part fails",
                "no luck")


def control(name):
    # With a destination it does not wait for workers that may be there, too.
    only = {"destination": [name], "timeout": 10.0}
    inspect = app.control.inspect(**only)
    check(app.control.ping(**only), [{name: {"ok": "pong"}}], "ping")
    check_that("tasks.add" in inspect.registered()[name], "registered")
    check(inspect.stats()[name]["broker"]["transport"], "redis", "stats")
    check(sorted(queue["name"] for queue in inspect.active_queues()[name]), ["celery", "special"],
          "active_queues")
    # What is revoked before it begins never runs; what runs is ended.
    later = add.apply_async((1, 1), countdown=60)
    until(lambda: inspect.scheduled()[name], "a scheduled task")
    later.revoke()
    until(lambda: later.id in inspect.revoked()[name], "revoke")
    running = slow.delay(60)
    until(lambda: running.state == "STARTED", "a started task")
    check([task["id"] for task in inspect.active()[name]], [running.id], "active")
    running.revoke(terminate=True)
    check_fails(TaskRevokedError, lambda: running.get(WAIT), "terminated")
    check(app.control.rate_limit("tasks.add", "1000/s", reply=True, **only)[0][name]["ok"],
          "new rate limit set successfully", "rate_limit")
    app.control.add_consumer("another", reply=True, **only)
    check(add.apply_async((2, 2), queue="another").get(WAIT), 4, "a queue added while it runs")
    app.control.cancel_consumer("another", reply=True, **only)
    for _ in range(3):
        add.apply_async((2, 2), queue="of nobody")
    with app.connection() as connection:
        check(connection.default_channel.queue_purge("of nobody"), 3, "purge")


class Events:
    """What the worker tells about its tasks, in a thread."""

    def __init__(self):
        self.seen = set()
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self.receive, daemon=True)
        self.thread.start()

    def receive(self):
        with app.connection_for_read() as connection:
            receiver = app.events.Receiver(
                connection, handlers={"*": lambda event: self.seen.add(event["type"])})
            while not self.stopping.is_set():
                try:
                    receiver.capture(limit=None, timeout=0.5, wakeup=False)
                except OSError:  # nothing came for that time
                    pass

    def stop(self):
        self.stopping.set()
        self.thread.join()


def main():
    client = app.backend.client
    client.delete("celery_run:tick")
    # Celery unsubscribes from a result twice, which Valkey 8.0 calls an error (NOSUB) when it was the
    # only one: this one, which never comes, stays.
    app.backend.result_consumer.consume_from("none")
    with directory_of_logs("celery-") as directory:
        worker = start(directory, "worker", "worker", "--pool", "prefork", "--concurrency", "4",
                       "--loglevel", "info", "-n", "one@here", "-Q", "celery,special", "--purge")
        beat = None
        try:
            until(lambda: app.control.ping(timeout=0.5) or worker.poll() is not None,
                  "the worker", 40.0)
            if sys.argv[3:] == ["chords"]:
                chords()
                worker.terminate()
                check(worker.wait(END_WAIT), 0, "the end of the worker")
                return
            events = Events()
            results()
            workflows()
            control("one@here")
            until(lambda: {"task-sent", "task-received", "task-started", "task-succeeded",
                           "task-failed"} <= events.seen, "events")
            events.stop()
            beat = start(directory, "beat", "beat", "--loglevel", "info",
                         "--schedule", os.path.join(directory, "schedule"))
            until(lambda: int(client.get("celery_run:tick") or 0) >= 3, "ticks of beat")
            beat.terminate()
            check(beat.wait(WAIT), 0, "the end of beat")
            # A warm shutdown ends what runs; what waits stays in the queue for the next worker.
            worker.terminate()
            check(worker.wait(END_WAIT), 0, "the end of the worker")
            left = add.delay(20, 22)
            worker = start(directory, "second", "worker", "--pool", "solo", "-n", "two@here",
                           "--loglevel", "info")
            check(left.get(WAIT), 42, "a task sent while there was no worker")
            left.forget()
            check(app.AsyncResult(left.id).state, "PENDING", "forgotten")
            worker.terminate()
            check(worker.wait(END_WAIT), 0, "the end of the second worker")
        finally:
            for process in (worker, beat):
                if process is not None and process.poll() is None:
                    process.kill()
                    process.wait()


main()
finish()
sys.stdout.flush()
os._exit(0)  # else the results that are left say at the end that there is no interpreter any more
