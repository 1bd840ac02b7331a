"""Ids that nodes bring along, and whom they belong to."""

from dataclasses import replace

import pytest

from cluster.errors import AlreadyExistsError
from cluster.nodes import Registration
from manager.domain.aggregate import ClusterState
from manager.domain.model import Node, NodeState
from manager.domain.policy import Policy


def _register(state: ClusterState, name: str, given_id: str = "") -> Node:
    return state.register(Registration(name=name, ip="10.0.0.1", port=80, given_id=given_id), 0)


def test_an_id_of_a_live_node_is_refused_to_another() -> None:
    """While the node lives, its alias is not given away."""
    state = ClusterState(Policy())
    _register(state, "a", "17")
    with pytest.raises(AlreadyExistsError):
        _register(state, "b", "17")


def test_the_alias_of_a_node_that_is_down_moves_to_a_known_node() -> None:
    """Telemetry under the alias is the new node's, and commands to the old one no longer go there."""
    state = ClusterState(Policy())
    old, new = _register(state, "a", "17"), _register(state, "b")
    state.put_node(replace(old, topic_id="17", state=NodeState.DOWN))
    assert _register(state, "b", "17").id == new.id
    owner = state.node_of_topic("17")
    assert owner is not None
    assert (owner.name, owner.aliases) == ("b", ("17",))
    assert (state.nodes[old.id].aliases, state.nodes[old.id].topic_id) == ((), old.id)


def test_a_node_that_is_down_and_comes_under_another_name_is_the_same_node() -> None:
    """A machine that was renamed keeps its id."""
    state = ClusterState(Policy())
    old = _register(state, "a", "17")
    state.put_node(replace(old, state=NodeState.DOWN))
    assert _register(state, "c", "17").id == old.id
    assert state.find_node("a") is None
