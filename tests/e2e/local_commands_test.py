"""What the proxy tells of slots, of its users and of itself, on a real cluster. The texts that can be
the same bytes as a plain server's are compared in tests/proxy/local_commands_check.py."""

import os
import re

from harness import RealClusterTestCase, key_slot, keys_in_slots, unittest

SECRET = "a-secret-word"


class LocalCommandsTest(RealClusterTestCase):
    cluster_options = {"replicas": 0}

    def test_a_slot_is_asked_at_its_owner(self):
        client = self.client(self.start_proxy(self.cluster.addresses))
        owners = set()
        for key in keys_in_slots(12, "slot-of-"):
            slot = key_slot(key)
            owners.add(self.cluster.owner(slot).port)
            for i in range(3):
                client.call("SET", "{%s}%d" % (key, i), "x")
            self.assertEqual(client.call("CLUSTER", "COUNTKEYSINSLOT", slot), 3)
            names = client.call("CLUSTER", "GETKEYSINSLOT", slot, 10)
            self.assertEqual(sorted(names), [b"{%s}%d" % (key.encode(), i) for i in range(3)])
            self.assertEqual(len(client.call("cluster", "getkeysinslot", slot, 2)), 2)
        self.assertEqual(len(owners), 3)

    def test_what_is_no_slot_is_told_as_a_node_tells_it(self):
        client = self.client(self.start_proxy(self.cluster.addresses))
        with self.cluster.nodes[0].connect() as node:
            for words in (("COUNTKEYSINSLOT", "-1"), ("COUNTKEYSINSLOT", "16384"),
                          ("COUNTKEYSINSLOT", "x"), ("GETKEYSINSLOT", "16384", "1"),
                          ("GETKEYSINSLOT", "", "1"), ("GETKEYSINSLOT", "0", "x")):
                self.assertEqual(client.raw("CLUSTER", *words), node.raw("CLUSTER", *words), words)

    def test_the_proxy_has_one_id(self):
        proxy = self.start_proxy(self.cluster.addresses, "--workers", "2")
        ids = {self.client(proxy).call("CLUSTER", "MYID") for _ in range(4)}
        self.assertEqual(len(ids), 1)
        self.assertRegex(ids.pop().decode(), "^[0-9a-f]{40}$")

    def test_passwords_that_are_made_are_new_and_as_long_as_wanted(self):
        client = self.client(self.start_proxy(self.cluster.addresses))
        for bits, digits in ((None, 64), (1, 1), (4, 1), (5, 2), (4096, 1024)):
            made = [client.call("ACL", "GENPASS", *([] if bits is None else [bits]))
                    for _ in range(2)]
            for password in made:
                self.assertRegex(password.decode(), "^[0-9a-f]{%d}$" % digits)
            if digits >= 64:
                self.assertNotEqual(*made)

    def test_a_category_has_the_commands_that_are_served(self):
        client = self.client(self.start_proxy(self.cluster.addresses))
        listed = client.call("ACL", "CAT", "Hash")
        self.assertIn(b"hset", listed)
        with self.cluster.nodes[0].connect() as node:
            self.assertEqual(set(client.call("ACL", "CAT")), set(node.call("ACL", "CAT")))
            self.assertLessEqual(set(listed), set(node.call("ACL", "CAT", "hash")))

    def test_the_hash_of_the_password_is_not_told(self):
        path = os.path.join(self.directory, "secret")
        with open(path, "w", encoding="ascii") as file:
            file.write(SECRET)
        proxy = self.start_proxy(self.cluster.addresses, "--requirepass-file", path)
        client = self.client(proxy)
        self.assert_error(client.command("ACL", "LIST"), "NOAUTH Authentication required.")
        client.call("AUTH", SECRET)
        user = client.call("ACL", "LIST")[0].decode()
        self.assertTrue(re.fullmatch(r"user default on (sanitize-payload )?#0{64} ~\* &\* \+@all",
                                     user), user)
        self.assertIn([b"0" * 64], client.call("ACL", "GETUSER", "default"))


if __name__ == "__main__":
    unittest.main()
