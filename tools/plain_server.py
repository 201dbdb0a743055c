"""One plain server, not of a cluster: what the proxy's answers are compared with."""

import os
import shutil
import subprocess
import tempfile

from local_cluster import Process, choose_node_port, find_server, wait_until
from resp_client import RespClient


class PlainServer:
    def __init__(self, server, *arguments):
        self.directory = tempfile.mkdtemp(prefix="rcproxy-plain-")
        self.port = choose_node_port("127.0.0.1")
        with open(os.path.join(self.directory, "output"), "wb") as output:
            self.process = Process.start(
                [find_server(server), "--port", str(self.port), "--bind", "127.0.0.1", "--save", "",
                 "--dir", self.directory, *arguments],
                mark=":%d" % self.port, with_parent=True, stdout=output, stderr=subprocess.STDOUT)
        wait_until(self._answers, "%s to answer" % server)

    def _answers(self):
        try:
            with self.connect() as client:
                return b"process_id:%d\r\n" % self.process.pid in client.call("INFO", "server")
        except OSError:
            return False

    def connect(self, timeout=10.0):
        return RespClient(("127.0.0.1", self.port), timeout)

    def stop(self):
        self.process.end()
        shutil.rmtree(self.directory, ignore_errors=True)
