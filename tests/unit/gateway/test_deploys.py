"""How deploys that wait become batches."""

from __future__ import annotations

import asyncio
from collections import deque

import pytest

from cluster.errors import ClusterError, ConflictError, DeadlineError, UnavailableError
from cluster.v1 import instance_pb2, job_pb2
from gateway.deploys import MAX_BATCH, MAX_BATCH_BYTES, Deploy, is_shared, request_of, settle, take_batch


def _deploy(job_id: str, number: int = 0, document: str = "{}") -> Deploy:
    return Deploy(
        request_id=f"r-{job_id}",
        actor="root",
        key=instance_pb2.InstanceKey(job_id=job_id, number=number),
        spec=job_pb2.JobSpec(name=job_id, document_json=document),
        saved=asyncio.get_running_loop().create_future(),
    )


async def test_a_batch_takes_what_waits_in_order() -> None:
    """All that wait go together, each with its own specification."""
    waiting = deque([_deploy("a"), _deploy("b"), _deploy("a", 1)])
    request = request_of(take_batch(waiting))
    assert not waiting
    assert [(d.key.job_id, d.key.number) for d in request.deployments] == [("a", 0), ("b", 0), ("a", 1)]
    assert [request.specs[d.spec_index].name for d in request.deployments] == ["a", "b", "a"]
    assert request.request_id == "r-a,r-b,r-a"


async def test_an_instance_stands_once_in_a_batch() -> None:
    """The second order for it waits for the next call, and so does what came after."""
    waiting = deque([_deploy("a"), _deploy("b"), _deploy("a"), _deploy("c")])
    assert [deploy.key.job_id for deploy in take_batch(waiting)] == ["a", "b"]
    assert [deploy.key.job_id for deploy in take_batch(waiting)] == ["a", "c"]


async def test_batches_are_bounded() -> None:
    """Neither their number nor their bytes grow without bound, and the largest body alone still goes."""
    many = deque([_deploy(str(number)) for number in range(MAX_BATCH + 1)])
    assert (len(take_batch(many)), len(take_batch(many))) == (MAX_BATCH, 1)
    large = deque([_deploy(str(number), document="x" * MAX_BATCH_BYTES) for number in range(2)])
    assert (len(take_batch(large)), len(take_batch(large))) == (1, 1)


async def test_what_nobody_waits_for_is_left_out() -> None:
    """A deploy whose request ran into its deadline is not sent any more."""
    given_up = _deploy("a")
    given_up.saved.cancel()
    assert [deploy.key.job_id for deploy in take_batch(deque([given_up, _deploy("b")]))] == ["b"]
    assert take_batch(deque([given_up])) == []


async def test_many_request_ids_are_cut_short() -> None:
    """The call's id names the first few and counts the others."""
    assert request_of([_deploy(str(number)) for number in range(10)]).request_id.endswith(",r-7,+2")


async def test_settling_skips_who_gave_up() -> None:
    """An answer reaches those who wait and disturbs nobody else."""
    waiting, given_up = _deploy("a"), _deploy("b")
    given_up.saved.cancel()
    settle([given_up, waiting], None, is_saved=False)
    assert waiting.saved.result() is False


@pytest.mark.parametrize(
    ("error", "size", "shared"),
    [
        (ConflictError("x"), 1, True),
        (ConflictError("x"), 2, False),
        (ClusterError("x"), 2, False),
        (UnavailableError("x"), 1, False),
        (UnavailableError("x"), 2, False),
        (DeadlineError("x"), 2, True),
        (ValueError("x"), 2, True),
    ],
)
def test_an_error_is_shared_only_where_each_would_have_had_it(error: Exception, size: int, shared: bool) -> None:
    """One deploy's fault never becomes another's answer."""
    assert is_shared(error, size) is shared
