"""What is refused before anything changes."""

from dataclasses import replace

import pytest

from cluster.errors import InvalidInputError
from cluster.jobs import JobSpec, OnDisconnect, Probe
from manager.rpc.checks import checked_spec

SPEC = JobSpec(name="web", image="a.wasm", technology="wasm")
NO_PROGRAM = Probe(command=("",))


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        (replace(SPEC, on_disconnect=OnDisconnect.STOP_AFTER, stop_after_s=0.0), "spec.stop_after"),
        (replace(SPEC, on_disconnect=OnDisconnect.STOP_AFTER, stop_after_s=2.9), "spec.stop_after"),
        (replace(SPEC, liveness=NO_PROGRAM), "spec.liveness.exec"),
        (replace(SPEC, readiness=NO_PROGRAM), "spec.readiness.exec"),
    ],
)
def test_what_could_never_run_is_refused(spec: JobSpec, field: str) -> None:
    """A copy that its worker would never start, a probe without a program."""
    with pytest.raises(InvalidInputError) as caught:
        checked_spec(spec, "spec")
    assert caught.value.field == field


def test_stop_after_counts_only_where_it_is_the_policy() -> None:
    """What is replaced or kept may say anything."""
    assert checked_spec(replace(SPEC, stop_after_s=0.0), "spec").stop_after_s == 0.0
