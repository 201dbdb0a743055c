"""What the workers of rq_run.py run."""

import os
import time

from rq import get_current_job

from redis import Redis

r = Redis.from_url(os.environ["RCPROXY_REDIS"])


def add(one, two):
    return one + two


def fail():
    raise ValueError("no luck")


def flaky(key):
    if r.incr(key) < 3:
        raise ValueError("try again")
    return "at last"


def with_meta():
    job = get_current_job()
    job.meta["step"] = "done"
    job.save_meta()


def note(key, name):
    r.rpush(key, name)


def slow(seconds):
    time.sleep(seconds)


def on_success(job, connection, result):
    connection.set("rq_run:success", result)


def on_failure(job, connection, kind, value, trace):
    connection.set("rq_run:failure", str(value))
