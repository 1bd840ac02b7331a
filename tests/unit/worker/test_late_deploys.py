"""Deploys with `stop_after` that arrive late."""

from cluster.jobs import JobSpec, OnDisconnect
from worker.machine import Machine
from worker.records import DeployAsked, Ref, Start

SPEC = JobSpec(name="web", image="a.wasm", technology="wasm", on_disconnect=OnDisconnect.STOP_AFTER, stop_after_s=30.0)


def starts(leased_at: float | None, now: float) -> bool:
    """Whether a deploy that echoes a heartbeat of `leased_at` starts something at `now`."""
    told = Machine(seed=1).handle(DeployAsked(Ref("job", 0, 7), SPEC, leased_at=leased_at), now)
    return any(isinstance(item, Start) for item in told)


def test_deploy_that_echoes_a_fresh_heartbeat_starts() -> None:
    """A command that was on its way for less than stop_after is obeyed."""
    assert starts(leased_at=100.0, now=129.0)


def test_deploy_that_is_older_than_stop_after_starts_nothing() -> None:
    """Its replacement may run elsewhere by now."""
    assert not starts(leased_at=100.0, now=130.0)


def test_late_deploy_shortens_the_life_of_a_copy_that_is_cut_off() -> None:
    """The worker counts from when the echoed heartbeat was sent, not from the arrival."""
    machine = Machine(seed=1)
    machine.handle(DeployAsked(Ref("job", 0, 7), SPEC, leased_at=100.0), 120.0)
    assert machine.next_due() == 130.0
