"""RQ: workers of their own processes, dependencies, retries, schedules, registries.

  rq_run.py HOST PORT
"""

import os
import subprocess
import sys
import time
from datetime import timedelta

from check import HOST, PORT, ROUNDS, check, check_that, directory_of_logs, finish, until

HERE = os.path.dirname(os.path.abspath(__file__))
URL = "redis://%s:%d/0" % (HOST, PORT)
os.environ["RCPROXY_REDIS"] = URL
from redis import Redis  # noqa: E402
from rq import Queue, Retry, Worker, cancel_job  # noqa: E402
from rq.command import send_stop_job_command  # noqa: E402
from rq.job import Job  # noqa: E402
from rq.registry import FailedJobRegistry, FinishedJobRegistry  # noqa: E402
import rq_tasks  # noqa: E402

r = Redis.from_url(URL)


def start(directory, name, *queues):
    log = open(os.path.join(directory, name + ".log"), "wb")
    return subprocess.Popen(
        [sys.executable, "-B", "-c", "from rq.cli import main; main()", "worker", "--url", URL,
         "--name", name, "--with-scheduler", "--verbose", *queues], cwd=directory,
        env=dict(os.environ, PYTHONPATH=HERE, LC_ALL="C.UTF-8"), stdin=subprocess.DEVNULL,
        stdout=log, stderr=subprocess.STDOUT)


def ended(job, status="finished"):
    """Waits for it, and gives its result."""
    until(lambda: job.get_status(refresh=True) in ("finished", "failed", "stopped", "canceled"),
          "the end of %s" % job.func_name, 60.0)
    check(job.get_status(refresh=True), status, job.func_name)
    if status in ("finished", "failed"):
        # In another slot than the status: part of the transaction that is done by itself.
        until(lambda: job.latest_result() is not None, "the result of %s" % job.func_name)
    job.refresh()
    return job.result


def jobs(queue, low):
    many = [queue.enqueue(rq_tasks.add, number, 1) for number in range(10 * ROUNDS)]
    check([ended(job) for job in many], [number + 1 for number in range(10 * ROUNDS)], "results")
    until(lambda: many[0].id in FinishedJobRegistry(queue=queue), "FinishedJobRegistry")
    check(Job.fetch_many([many[0].id, "none"], connection=r)[1], None, "fetch_many")
    failed = queue.enqueue(rq_tasks.fail, on_failure=rq_tasks.on_failure)
    ended(failed, "failed")
    check_that("no luck" in failed.exc_info, "exc_info")
    check(r.get("rq_run:failure"), b"no luck", "on_failure")
    registry = FailedJobRegistry(queue=queue)
    until(lambda: failed.id in registry, "FailedJobRegistry")
    registry.requeue(failed)
    ended(failed, "failed")
    check(ended(queue.enqueue(rq_tasks.flaky, "rq_run:flaky", retry=Retry(max=3))), "at last",
          "retry")
    job = queue.enqueue(rq_tasks.add, 20, 22, on_success=rq_tasks.on_success)
    check(ended(job), 42, "on_success")
    until(lambda: r.get("rq_run:success") == b"42", "on_success")
    # Without depends_on, which watches keys of several slots.
    job = low.enqueue(rq_tasks.with_meta)
    ended(job)
    check(job.get_meta(refresh=True), {"step": "done"}, "meta")
    batch = queue.enqueue_many([Queue.prepare_data(rq_tasks.add, (number, number))
                                for number in range(10)])
    check([ended(job) for job in batch], [2 * number for number in range(10)], "enqueue_many")


def schedules(queue):
    begin = time.time()
    # RQ keeps whole seconds of the time.
    later = queue.enqueue_in(timedelta(seconds=2), rq_tasks.add, 3, 4)
    check(later.get_status(), "scheduled", "scheduled")
    check(queue.scheduled_job_registry.count, 1, "scheduled_job_registry")
    check(ended(later), 7, "enqueue_in")
    check_that(time.time() - begin >= 1, "its time")
    cancelled = queue.enqueue_in(timedelta(hours=1), rq_tasks.add, 3, 4)
    cancel_job(cancelled.id, connection=r)
    check(cancelled.get_status(refresh=True), "canceled", "cancel")
    running = queue.enqueue(rq_tasks.slow, 60)
    until(lambda: running.get_status(refresh=True) == "started", "a started job")
    until(lambda: [worker for worker in Worker.all(connection=r)
                   if worker.get_current_job_id() == running.id], "its worker")
    send_stop_job_command(r, running.id)  # by pub/sub
    ended(running, "stopped")


def main():
    for key in r.scan_iter("rq*"):
        r.delete(key)
    queue, low = Queue("default", connection=r), Queue("low", connection=r)
    with directory_of_logs("rq-") as directory:
        workers = [start(directory, name, "default", "low") for name in ("one", "two")]
        try:
            until(lambda: Worker.count(connection=r) == 2, "both workers", 40.0)
            check(sorted(worker.name for worker in Worker.all(queue=queue)), ["one", "two"],
                  "workers")
            jobs(queue, low)
            schedules(queue)
            check(queue.count + low.count, 0, "nothing waits")
            for worker in workers:
                worker.terminate()
            for worker in workers:
                check(worker.wait(30), 0, "the end of a worker")
            check(Worker.count(connection=r), 0, "the workers have gone")
        finally:
            for worker in workers:
                if worker.poll() is None:
                    worker.kill()
                    worker.wait()
    finish()


main()
