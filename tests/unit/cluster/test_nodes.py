"""Registrations of every dialect, and the topics of a node."""

import pytest

from cluster.errors import InvalidInputError
from cluster.nodes import Dialect, parse_registration
from cluster.topics import Channel, parse, subscription, topic

SEED = {"id": "", "name": "edge-1", "ip": "10.0.0.1", "port": "3000"}


def test_the_documented_four_keys_are_enough() -> None:
    """A node of the documented dialect can run docker and unikernel jobs, and its capacity is unknown."""
    node = parse_registration(SEED)
    assert (node.dialect, node.technologies, node.port) == (Dialect.SEED, ("docker", "unikernel"), 3000)
    assert node.capacity.cpu_millicores is None


@pytest.mark.parametrize("changes", [{"id": 17}, {"id": None}, {"port": 3000}, {"name": 5}, {"ip": "::1"}])
def test_strings_and_integers_are_accepted(changes: dict[str, object]) -> None:
    """All four keys come as strings or integers; the id may be absent."""
    assert parse_registration({**SEED, **changes}).name


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("ip", value) for value in ("edge", None)),
        *(("port", value) for value in (0, "65536", "٣", True)),
        *(("name", value) for value in ("a b", "")),
        *(("id", value) for value in ("a/b", [1])),
        *(("vcpus", -1), ("technology", "docker"), ("csi_drivers", [3])),
    ],
)
def test_what_is_wrong_is_named(field: str, value: object) -> None:
    """The error names the field."""
    with pytest.raises(InvalidInputError) as caught:
        parse_registration({**SEED, field: value})
    assert caught.value.field == field


def test_the_body_says_which_dialect_a_node_speaks() -> None:
    """`name` is the documented form, `host` an engine's, newer engines have `vcpus`, ours says so."""
    engine = {"host": "e", "ip": "10.0.0.1", "port": 1}
    assert parse_registration({**SEED, "dialect": "worker"}).dialect is Dialect.WORKER
    assert parse_registration(engine).dialect is Dialect.ENGINE_A
    assert parse_registration({**engine, "vcpus": 4}).dialect is Dialect.ENGINE_C


def test_engine_without_an_address_is_taken() -> None:
    """On a machine with nothing but loopback it sends "", and would end for good if that were refused."""
    assert parse_registration({"host": "e", "ip": "", "port": "3000"}).ip == ""
    with pytest.raises(InvalidInputError):
        parse_registration({"host": "e", "ip": "edge", "port": "3000"})
    with pytest.raises(InvalidInputError):
        parse_registration({**SEED, "ip": ""})


def test_a_topic_is_read_as_it_is_written() -> None:
    """Every channel of every id goes both ways."""
    for channel in Channel:
        assert parse(topic("5f.e-1_x", channel)) == ("5f.e-1_x", channel)
        assert subscription(channel) == topic("plus", channel).replace("plus", "+")


@pytest.mark.parametrize("name", ["", "nodes", "nodes//job", "nodes/a/b", "x/a/job", "nodes/a/net/job", "nodes/-/job"])
def test_foreign_topics_are_left_alone(name: str) -> None:
    """A topic that is not ours is no error."""
    assert parse(name) is None


@pytest.mark.parametrize("node_id", ["", "a/b", "+", "#", "a" * 254, "ä"])
def test_an_id_that_no_topic_can_hold_is_refused(node_id: str) -> None:
    """Wildcards and separators never get into a topic."""
    with pytest.raises(ValueError, match="topic"):
        topic(node_id, Channel.STATE)
