"""The Celery application that celery_run.py starts workers of. From the environment: RCPROXY_BROKER,
the URL of the one Redis that is broker and result backend."""

import os
import time

from celery import Celery

BROKER = os.environ["RCPROXY_BROKER"]
app = Celery("tasks", broker=BROKER, backend=BROKER)
app.conf.update(
    # What Celery's and kombu's documentation say for a cluster: one hash tag before all their keys.
    # kombu before 5.3 forgets the prefix at WATCH, and at nothing else: hence the tag in this name.
    broker_transport_options={"global_keyprefix": "{celery}:", "visibility_timeout": 60,
                              "unacked_key": "{celery}unacked"},
    result_expires=600,
    task_send_sent_event=True,
    worker_send_task_events=True,
    worker_prefetch_multiplier=4,
    broker_connection_retry=False,
    beat_schedule={"tick": {"task": "tasks.tick", "schedule": 0.2, "args": ["tick"]}},
)
app.conf.task_routes = {"tasks.special": {"queue": "special"}}
app.conf.task_track_started = True


@app.task(name="tasks.add")
def add(one, two):
    return one + two


@app.task(name="tasks.total")
def total(numbers):
    return sum(numbers)


@app.task(name="tasks.fail")
def fail():
    raise ValueError("no luck")


@app.task(name="tasks.flaky", bind=True, max_retries=3)
def flaky(self):
    if self.request.retries < 2:
        raise self.retry(countdown=0.1)
    return self.request.retries


@app.task(name="tasks.slow")
def slow(seconds):
    time.sleep(seconds)
    return "slept"


@app.task(name="tasks.special")
def special():
    return "special"


@app.task(name="tasks.when")
def when():
    return time.time()


@app.task(name="tasks.tick")
def tick(name):
    app.backend.client.incr("celery_run:" + name)
