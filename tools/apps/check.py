"""What the scripts in Python share: SCRIPT HOST PORT. Each ends with "all N checks passed"."""

import contextlib
import os
import sys
import tempfile
import time

HOST, PORT = sys.argv[1], int(sys.argv[2])
ROUNDS = int(os.environ.get("RCPROXY_ROUNDS", "1"))  # how many times the usual amount of work
passed = 0


def check(actual, wanted, what):
    global passed
    if actual != wanted:
        sys.exit("%s: %r instead of %r" % (what, actual, wanted))
    passed += 1


def check_that(condition, what):
    check(bool(condition), True, what)


def check_fails(error, call, what, text=""):
    """call() must raise `error` with `text` in it."""
    try:
        reply = call()
    except error as raised:
        check_that(text in str(raised), "%s: %r" % (what, raised))
    else:
        sys.exit("%s: %r instead of an error" % (what, reply))


def until(condition, what, timeout=20.0):
    """Polls until condition() gives something true, and returns that."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            sys.exit("gave up after %g s waiting for %s" % (timeout, what))
        time.sleep(0.01)


@contextlib.contextmanager
def directory_of_logs(prefix):
    """A temporary directory. Where the block fails, the ends of the *.log files in it are printed."""
    with tempfile.TemporaryDirectory(prefix=prefix) as directory:
        try:
            yield directory
        except BaseException:
            for name in os.listdir(directory):
                if name.endswith(".log"):
                    with open(os.path.join(directory, name), encoding="utf-8") as log:
                        print("--- %s ends:\n%s" % (name, log.read()[-2500:]))
            raise


def finish():
    print("all %d checks passed" % passed)
