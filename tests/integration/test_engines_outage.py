"""Outages with worker engines, whose clients double their pauses (section 1 of the reliability work)."""

import time

import pytest

from standins.engines.scene import scene

pytestmark = pytest.mark.real("mosquitto")


@pytest.mark.timeout(600)
def test_1_an_outage_of_the_broker_touches_no_container_of_an_engine() -> None:
    """The broker is away for 17 s; engines that tried after 1, 3, 7 and 15 s are back 14 s later: all is as it was."""
    with scene() as stage:
        engines = [stage.add(generation) for generation in ("A", "A", "C", "C")]
        jobs = {engine.host: stage.run(engine) for engine in engines}
        containers = {engine.host: dict(engine.containerd.containers) for engine in engines}
        orders = {engine.host: len(engine.heard) for engine in engines}
        stage.cluster.kill("broker")
        time.sleep(17.0)
        stage.cluster.start_part("broker")
        time.sleep(16.0)
        for engine in engines:
            stage.cluster.wait_until_node_is(engine.host, "READY")
            stage.wait_for(jobs[engine.host], "RUNNING")
        time.sleep(5.0)
        for engine in engines:
            assert stage.instance(jobs[engine.host])["state"] == "RUNNING"
            assert dict(engine.containerd.containers) == containers[engine.host]
            assert [verb for verb, _ in engine.heard[orders[engine.host] :] if verb == "delete"] == []
