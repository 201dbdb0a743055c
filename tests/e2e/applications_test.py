"""Real applications do what they do on one plain Redis (`tools/apps`)."""

from harness import BINARY, FULL, RealClusterTestCase, SERVER, seconds, unittest
from apps import APPLICATIONS, ApplicationError, reason_to_skip, run

ROUNDS = 10 if FULL else 1
# For these one family of servers is enough, to keep the whole below 90 s: others use what they use.
ONCE = ("bullmq_node_redis", "socket_io_node_redis", "node_redis_4", "node_redis_4_cluster", "redlock", "celery",
        "celery_chords", "rq")


class ApplicationsTest(RealClusterTestCase):
    cluster_options = {"replicas": 1 if FULL else 0}

    def run_application(self, application):
        if application.name in ONCE and SERVER == "valkey-server" and not FULL:
            self.skipTest("on redis-server only, unless --full")
        reason = reason_to_skip(application, BINARY)
        if reason:
            self.skipTest(reason)
        proxy = self.start_proxy(self.cluster.addresses, *application.flags)
        try:
            checks, notes = run(application, proxy.addr, ROUNDS, seconds(120) * ROUNDS)
        except ApplicationError as error:
            self.fail(str(error))
        self.assertGreater(checks, 0)
        for note in notes:
            print(note)


def add_tests():
    """One test each, so that each is shown, timed and skipped by itself."""
    for application in APPLICATIONS:
        def test(self, application=application):
            self.run_application(application)
        setattr(ApplicationsTest, "test_" + application.name, test)


add_tests()


if __name__ == "__main__":
    unittest.main()
