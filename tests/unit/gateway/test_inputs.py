"""Numbers and words of paths, queries and bodies."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import InvalidInputError
from gateway.inputs import parse_count, parse_flag, parse_instance_number, parse_integer, parse_node, parse_words

KNOWN = {"READY": 2, "DOWN": 4}


@pytest.mark.parametrize("text", ["", "-", "+1", "1.0", "1e3", " 1", "1_0", "0x1", "١", "11", "-1", "9" * 400])
def test_only_decimal_integers_within_bounds_pass(text: str) -> None:
    """Everything else is refused by name, without a conversion that could be slow."""
    with pytest.raises(InvalidInputError) as caught:
        parse_integer(text, "n", 0, 10)
    assert caught.value.field == "n"
    assert "0 to 10" in caught.value.detail


@given(st.integers(0, 2**31 - 1))
def test_every_instance_number_passes(number: int) -> None:
    """Numbers up to 2^31 - 1 come back as they are."""
    assert parse_instance_number(str(number)) == number


def test_minus_one_passes_only_where_it_means_all() -> None:
    """-1 is a number for deletes alone."""
    assert parse_instance_number("-1", minimum=-1) == -1
    with pytest.raises(InvalidInputError):
        parse_instance_number("-1")


def test_words_may_be_repeated_joined_and_in_any_case() -> None:
    """`?state=ready&state=DOWN` and `?state=ready,down` are the same."""
    assert parse_words(["ready", "DOWN"], KNOWN, "state") == parse_words(["ready, down"], KNOWN, "state") == [2, 4]
    assert parse_words(["", ","], KNOWN, "state") == []


def test_an_unknown_word_is_named_with_the_known_ones() -> None:
    """The answer says what could have been asked."""
    with pytest.raises(InvalidInputError, match="unknown state 'RUN'; known: READY, DOWN"):
        parse_words(["ready,run"], KNOWN, "state")


@pytest.mark.parametrize(("text", "flag"), [("true", True), ("1", True), ("False", False), ("no", False)])
def test_flags(text: str, flag: bool) -> None:
    """The usual words for yes and no."""
    assert parse_flag(text, "follow") is flag


@pytest.mark.parametrize("value", [None, True, "1", 1.0, -1, 11, [1]])
def test_counts_are_integers_only(value: object) -> None:
    """Neither booleans nor texts count."""
    with pytest.raises(InvalidInputError):
        parse_count(value, "int_replicas", 10)


def test_nodes_are_named_by_text_or_integer() -> None:
    """The seed's ids are integers; they are read as their digits."""
    assert (parse_node(7, "node_from"), parse_node("edge-1", "node_from")) == ("7", "edge-1")


@pytest.mark.parametrize("value", [None, "", True, -1, 1.5, [], "x" * 254])
def test_nothing_else_names_a_node(value: object) -> None:
    """Empty, overlong and other types are refused."""
    with pytest.raises(InvalidInputError):
        parse_node(value, "node_from")
