"""Every state in the words of every generation of roots."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest

from manager.domain.model import Instance, InstanceState, Placement, Refusal
from manager.domain.roots import Era
from manager.root.words import R1_WORDS, R3_WORDS, RANKED, WORDS, job_word, status_word
from testbed.records import instance, spec

ENUMS = {Era.R1: R1_WORDS, Era.R2: R3_WORDS, Era.R3: R3_WORDS}
S = InstanceState


def _in(state: InstanceState, *, has_run: bool = True) -> Instance:
    placement = Placement(node_id="n", generation=1, spec=spec(), state=state, since_ms=0, has_run=has_run)
    return replace(instance(), state=state, current=placement)


@pytest.mark.parametrize(("state", "era"), list(product(InstanceState, ENUMS)))
def test_every_state_has_a_word_of_the_enum(state: InstanceState, era: Era) -> None:
    """No state becomes a word that a root answers with 500."""
    assert status_word(_in(state), era) in ENUMS[era]
    assert status_word(replace(_in(state), current=None), era) in ENUMS[era]


@pytest.mark.parametrize(
    ("state", "r1", "r3"),
    [
        (S.SCHEDULED, "NODE_SCHEDULED", "NODE_SCHEDULED"),
        (S.STARTING, "ACTIVE", "CREATED"),
        (S.RUNNING, "RUNNING", "RUNNING"),
        (S.UNKNOWN, "RUNNING", "RUNNING"),
        (S.PENDING, "NO_WORKER_CAPACITY", "NO_WORKER_CAPACITY"),
        (S.STOPPED, "UNDEPLOYED", "UNDEPLOYED"),
        (S.COMPLETED, "COMPLETED", "COMPLETED"),
        (S.FAILED, "FAILED", "FAILED"),
        (S.LOST, "DEAD", "DEAD"),
    ],
)
def test_words_of_the_generations(state: InstanceState, r1: str, r3: str) -> None:
    """The dialects differ where the contract says so."""
    assert (status_word(_in(state), Era.R1), status_word(_in(state), Era.R3)) == (r1, r3)


@pytest.mark.parametrize(
    ("reasons", "word"),
    [
        (("memory", "technology"), "NO_WORKER_CAPACITY"),
        (("technology", "architecture"), "NO_QUALIFIED_WORKER_FOUND"),
        ((), "NO_WORKER_CAPACITY"),
        (("ready",), "NO_WORKER_CAPACITY"),
        (("technology", "taken"), "NO_WORKER_CAPACITY"),
        (("older_copy",), "NO_WORKER_CAPACITY"),
        (("container_name",), "NO_QUALIFIED_WORKER_FOUND"),
    ],
)
def test_why_there_is_no_node(reasons: tuple[str, ...], word: str) -> None:
    """Where no node is of the right kind, R3 hears so; where one could be free, that capacity is missing."""
    refusals = tuple(Refusal(reason=reason, node_count=1) for reason in reasons)
    pending = replace(instance(), state=S.PENDING, refusals=refusals)
    assert status_word(pending, Era.R3) == word
    assert status_word(pending, Era.R1) == "NO_WORKER_CAPACITY"


@pytest.mark.parametrize(
    ("words", "word"),
    [
        (("RUNNING", "RUNNING"), "RUNNING"),
        (("RUNNING", "NODE_SCHEDULED"), "NODE_SCHEDULED"),
        (("RUNNING", "FAILED"), "FAILED"),
        (("RUNNING", "UNDEPLOYED"), "RUNNING"),
        (("UNDEPLOYED", "COMPLETED"), "COMPLETED"),
        (("UNDEPLOYED",), "UNDEPLOYED"),
        ((), "UNDEPLOYED"),
    ],
)
def test_job_runs_only_where_all_that_has_not_ended_runs(words: tuple[str, ...], word: str) -> None:
    """The job's word is that of the instance furthest from RUNNING."""
    assert job_word(words) == word


def test_every_state_has_a_word_for_each_era() -> None:
    """A state that was added to the life cycle and not to the words would stop every report that tells of it."""
    assert set(WORDS) == set(InstanceState)
    for state, words in WORDS.items():
        for era in Era:
            assert words.of(era) in ENUMS.get(era, R3_WORDS), (state, era)
            assert words.of(era) in RANKED, f"{words.of(era)} has no place among the words of a job"
