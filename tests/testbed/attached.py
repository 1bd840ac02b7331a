"""A whole real cluster below a stand-in root."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from standins.roots.r1 import R1
from standins.roots.root import Root
from testbed.cluster import HOST, Cluster, cluster
from testbed.scripted_node import WorkerNode, nodes
from testbed.waiting import wait_until

NAME = "cluster-1"
QUICK = {
    "CLUSTER_NAME": NAME,
    "USER_NAME": "Admin",
    "CLUSTER_LOCATION": "48.1,11.6,1000",
    "ROOT_REPORT_PERIOD_S": "1",
    "ROOT_RETRY_BASE_S": "0.3",
    "ROOT_RETRY_CAP_S": "1",
    "ROOT_ANSWER_S": "3",
}


@contextlib.contextmanager
def attached(root: Root, **settings: str) -> Iterator[Cluster]:
    """A ready cluster that registered with a started root; its manager reads `.env` in the cluster's folder."""
    if isinstance(root, R1) and "CLUSTER_PAIRING_KEY" not in settings:
        settings["CLUSTER_PAIRING_KEY"] = root.add_cluster(NAME)
    with cluster(**{**QUICK, **root.settings, **settings}) as running:
        running.parts["manager"].cwd = running.folder
        yield running


@contextlib.contextmanager
def started(root: Root) -> Iterator[Root]:
    """A root that serves for the time of the block."""
    root.start()
    try:
        yield root
    finally:
        root.stop()


@contextlib.contextmanager
def attached_with_node(root: Root, **settings: str) -> Iterator[tuple[Cluster, WorkerNode]]:
    """A cluster that has registered, with one worker of plenty."""
    with started(root), attached(root, **settings) as running:
        node = WorkerNode(running, "worker-1")
        with nodes(node):
            try:
                root.wait_until_registered(NAME)
                wait_until(lambda: link(running)["connected_to_root"], what="the cluster says that it is attached")
                yield running, node
            except BaseException as error:
                error.add_note(f"faults: {root.data.faults}\ncalls: {root.calls[-10:]}\n{running.story()}")
                raise


def link(running: Cluster) -> dict[str, Any]:
    """What the gateway tells of the cluster, `root` being the part about the root."""
    status: dict[str, Any] = running.http.get("/api/cluster/status")
    status["root"] = next((part for part in status["parts"] if part["name"] == "root"), {"detail": "stand-alone"})
    return status


def clusterctl(running: Cluster, *arguments: str) -> str:
    """The output of a command of the operator, which must succeed."""
    address = f"{HOST}:{running.ports['manager']}"
    done = subprocess.run(
        [sys.executable, "-P", "-m", "clusterctl", *arguments],
        env={**os.environ, "CLUSTERCTL_MANAGER": address},
        cwd=Path(running.folder),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
