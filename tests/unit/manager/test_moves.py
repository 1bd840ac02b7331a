"""Which instance a move means."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from cluster.errors import ConflictError
from cluster.nodes import Dialect, Registration
from manager.domain.aggregate import ClusterState
from manager.domain.model import InstanceKey
from manager.domain.policy import Policy
from manager.moves import Mover
from simulation.lives import spec


def test_a_move_from_the_wrong_node_says_where_the_instances_are() -> None:
    """The operator need not look it up."""
    state = ClusterState(Policy())
    state.register(Registration(name="n1", ip="127.0.0.1", port=1, dialect=Dialect.WORKER), 0)
    state.deploy([(InstanceKey("j", 0), spec())], "root", 0)
    mover = Mover(cast("Any", SimpleNamespace(state=state)), cast("Any", None))
    with pytest.raises(ConflictError, match=r"no instance of job j is on node 'n1': j/0 is REQUESTED") as caught:
        mover.find("j", None, "n1")
    assert caught.value.field == "node_from"
