"""The network plug-in between the order of a root and the deploy of a node."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from standins.roots.r3 import R3
from testbed.attached import attached_with_node
from testbed.cluster import HOST


@pytest.mark.parametrize("is_down", [False, True], ids=["up", "down"])
def test_plugin_hears_of_a_job_before_the_node_does(is_down: bool) -> None:
    """The announcement arrives first; without a plug-in that answers the deploy goes out all the same."""
    heard: list[tuple[float, Any]] = []

    class Plugin(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.append((time.monotonic(), json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
            self.send_response(500 if is_down else 200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            del format, args

    server = ThreadingHTTPServer((HOST, 0), Plugin)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    root = R3()
    settings = {
        "CLUSTER_SERVICE_MANAGER_ADDR": HOST,
        "CLUSTER_SERVICE_MANAGER_PORT": str(server.server_port),
    }
    try:
        with attached_with_node(root, **settings) as (running, node):
            service = root.data.add_service("web", "local/busybox:1")
            root.deploy(service)
            node.wait_for("deploy", service.id)
            seen = time.monotonic()
            assert heard[0][0] < seen
            assert heard[0][1] == {"job_name": service.document["job_name"]}
            root.wait_for_status(service, "RUNNING")
            failures = running.http.get("/api/cluster/status")["counters"].get("network_plugin_failures", 0)
            assert bool(failures) == is_down
            assert root.registrations[0].network_component_port == server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
