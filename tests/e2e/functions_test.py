"""Function libraries on real servers whose nodes come."""

import sys

from harness import FreshClusterTestCase, seconds, unittest, wait_until


class FunctionsOfNewNodesTest(FreshClusterTestCase):
    def test_a_primary_that_joins_is_given_the_function_libraries(self):
        cluster = self.start_cluster(primaries=3, replicas=0)
        proxy = self.start_proxy(cluster.addresses, "--slots-reload-interval", "200ms")
        client = self.client(proxy)
        for name in ("one", "two"):
            client.call("FUNCTION", "LOAD", "#!lua name=%s\nredis.register_function('%s', "
                        "function() return '%s' end)" % (name, name, name))
        node = cluster.add_node()
        wait_until(lambda: len(node.command("FUNCTION", "LIST")) == 2, "the libraries", 60)
        listed = [{library[1] for library in asked.command("FUNCTION", "LIST")}
                  for asked in (node, client)]
        self.assertEqual(listed, [{b"one", b"two"}] * 2)
        self.assertIn("has joined without the function libraries one, two", proxy.log())
        # The node has them before it says so.
        wait_until(lambda: proxy.metrics()["functions_given_total"] == 1, "its reply", seconds(20))
        self.assertEqual(client.command("FUNCTION", "DELETE", "one"), b"OK")
        self.assertEqual(len(node.command("FUNCTION", "LIST")), 1)


if __name__ == "__main__":
    sys.exit(unittest.main())
