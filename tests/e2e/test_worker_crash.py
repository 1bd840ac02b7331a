"""`kill -9` of a real worker in the middle of 200 deploys: its workloads go on, and nothing runs twice.

200 real workloads would need some 8 GB here, so four scripted nodes take most of the orders; the real worker, which has
the same capacity as each of them, gets its share as wasm processes.
"""

import contextlib
from collections import Counter
from pathlib import Path

from e2e.orders import NODES, Orders, held, settle

from testbed.cluster import Cluster, cluster
from testbed.scripted_node import Key, WorkerNode, nodes
from testbed.waiting import wait_until

VICTIM = "edge-real"


def processes_of(made: Cluster) -> list[tuple[Key, str]]:
    """Each wasm process that really runs on the machine: its instance, and the folder of its generation."""
    found = []
    for pid in made.processes_below(made.folder / VICTIM / "wasm"):
        with contextlib.suppress(OSError):
            argv = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            folder = Path(f"/proc/{pid}/cwd").readlink().name
            if argv[1:3] == [b"-m", b"worker.runtime.wasm_runner"]:
                job_id, number, _generation = folder.rsplit(".", 2)
                found.append(((job_id, int(number)), folder))
    return sorted(found)


def test_acknowledged_orders_survive_a_crash_of_the_worker() -> None:
    """A killed worker finds its processes again, takes the orders that came meanwhile, and starts nothing twice."""
    with cluster() as made:
        made.add_worker(VICTIM, WORKER_TECHNOLOGIES="wasm")
        capacity = made.wait_until_node_is(VICTIM, "READY")["capacity"]
        facts = {"vcpus": capacity["cpu_millicores"] / 1000, "memory_in_MB": capacity["memory_bytes"] // 2**20}
        scripted = [WorkerNode(made, f"edge-{number}", **facts) for number in range(NODES - 1)]
        orders = Orders(made, image="builtin:hello")

        def crash() -> None:
            wait_until(lambda: processes_of(made), what="the real worker runs something")
            made.kill(VICTIM)
            made.start_part(VICTIM)

        def running() -> list[Key]:
            return sorted([*held(scripted), *(key for key, _ in processes_of(made))])

        with nodes(*scripted):
            orders.run(on_half=crash)
            settle(made, orders, running)
            real = processes_of(made)
            assert len(real) > 10
            starts = sum((node.starts for node in scripted), start=Counter({key: 1 for key, _ in real}))
            assert {key: count for key, count in starts.items() if count > 1} == {}
