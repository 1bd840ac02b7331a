"""A job's limit of attempts, where its worker makes them itself."""

from dataclasses import replace

from cluster.documents import parse_job
from manager.domain.events import Observed, Planned, Seen
from manager.domain.machine import advance, wants_placement
from manager.domain.model import Instance, InstanceKey, InstanceState
from manager.domain.policy import Policy

SPEC = parse_job({"name": "web", "image": "x", "technology": "wasm", "restart_policy": "on-failure"})


def _after(*seen: Seen, max_attempts: int) -> Instance:
    spec = replace(SPEC, max_attempts=max_attempts)
    instance = Instance(key=InstanceKey("web", 0), spec=spec, is_desired=True, state=InstanceState.REQUESTED)
    instance = advance(instance, Planned(node_id="n", generation=1, deadline_ms=None), 0, Policy())
    for item in seen:
        has_given_up = item is Seen.FAILED
        event = Observed(node_id="n", generation=1, seen=item, actor="worker:n", has_given_up=has_given_up)
        instance = advance(instance, event, 0, Policy())
    return instance


def test_a_worker_that_used_all_attempts_has_the_last_word() -> None:
    """The limit is of the job, not of each node: what a worker has given up is not placed again."""
    ended = _after(Seen.RUNNING, Seen.FAILED, max_attempts=3)
    assert (ended.state, ended.attempts, wants_placement(ended)) == (InstanceState.FAILED, 3, False)


def test_what_never_ran_may_run_elsewhere() -> None:
    """A start that fails on one node, such as for a missing image, is tried on another within the limit."""
    assert wants_placement(_after(Seen.STARTING, Seen.FAILED, max_attempts=3))


def test_without_a_limit_a_failure_is_placed_again() -> None:
    """No limit: the manager goes on trying."""
    assert wants_placement(_after(Seen.RUNNING, Seen.FAILED, max_attempts=0))
