"""The word of a job without a look at all its instances."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from manager.domain.model import InstanceKey
from manager.root.job_words import JobWords
from manager.root.words import RANKED, job_word

KEYS = [InstanceKey(job_id, number) for job_id in "ab" for number in range(4)]


@given(st.lists(st.tuples(st.sampled_from(KEYS), st.sampled_from([*sorted(RANKED), None]))))
def test_word_of_a_job_is_that_of_all_its_instances(changes: list[tuple[InstanceKey, str | None]]) -> None:
    """After any changes it is what a look at every instance finds, and the newest instance with it is known."""
    words, model = JobWords(), dict[InstanceKey, str]()
    for key, word in changes:
        model.pop(key, None)
        if word is None:
            words.drop(key)
        else:
            words.put(key, word)
            model[key] = word
    for job_id in "ab":
        mine = {key: word for key, word in model.items() if key.job_id == job_id}
        assert words.of_job(job_id) == job_word(mine.values())
        fitting = [key for key, word in mine.items() if word == words.of_job(job_id)]
        assert words.newest(job_id) == (fitting[-1] if fitting else None)


def test_correction_makes_nothing_newer_that_did_not_change() -> None:
    """Telling an instance again does not make its detail the job's."""
    words = JobWords()
    for key in KEYS[:2]:
        words.put(key, "RUNNING")
    words.correct(KEYS[0], "RUNNING")
    assert words.newest("a") == KEYS[1]
    words.correct(KEYS[0], "FAILED")
    assert (words.of_job("a"), words.newest("a")) == ("FAILED", KEYS[0])
    words.clear()
    assert (words.of_job("a"), words.newest("a")) == ("UNDEPLOYED", None)
