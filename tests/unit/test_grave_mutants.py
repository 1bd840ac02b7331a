"""The list of grave mutants keeps up with the source that it edits; that each is killed is shown in `make mutants`."""

import re
from pathlib import Path

import pytest

from mutants.grave import ROOT, Edit, Mutant, failed, load
from mutants.sampling import AREAS, Outcome, changes_words_only

MUTANTS = load()


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_each_text_to_replace_stands_once_in_its_file(mutant: Mutant) -> None:
    """Whoever changes such a line carries its mutant along, or it would prove nothing."""
    counts = {(edit.file, edit.search): edit.count_in(ROOT) for edit in mutant.edits}
    assert set(counts.values()) == {1}, counts


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_each_killer_is_a_test_that_exists(mutant: Mutant) -> None:
    """A test that was renamed or removed kills nothing any more."""
    assert mutant.tests
    for node_id in mutant.tests:
        path, _, name = node_id.partition("::")
        assert re.search(rf"def {name.partition('[')[0]}\(", (ROOT / path).read_text()), node_id


def test_each_mutant_has_a_name_of_its_own() -> None:
    """A report by name is about one mistake."""
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)


def test_a_text_that_is_gone_is_told(tmp_path: Path) -> None:
    """A mutant that cannot be made any more is no mutant that was killed."""
    (tmp_path / "a.py").write_text("one\n")
    with pytest.raises(ValueError, match="carry the mutant along"):
        Edit(file="a.py", search="two", replace="three").apply(tmp_path)


def test_a_failed_test_is_known_by_its_name_and_with_its_parameters() -> None:
    """What pytest reports otherwise, such as an error in a fixture, is no test that failed."""
    report = "FAILED tests/a.py::test_b[x - y] - assert 1\nFAILED tests/a.py::test_c\nERROR tests/a.py::test_d - boom"
    assert failed(report) == {"tests/a.py::test_b", "tests/a.py::test_b[x - y]", "tests/a.py::test_c"}


@pytest.mark.parametrize("name", AREAS)
def test_each_area_has_files_and_tests(name: str) -> None:
    """A sample of nothing would be killed entirely."""
    area = AREAS[name]
    assert all(list(ROOT.glob(pattern)) for pattern in (*area.mutated, *area.tests, *area.spared, *area.ignored))


def test_only_what_a_test_noticed_is_killed() -> None:
    """What no test touches is as alive as what all tests pass."""
    outcome = Outcome(area="a", total=9, status={"k": "killed", "t": "timeout", "n": "no tests", "s": "survived"})
    assert (outcome.share, outcome.alive) == (0.5, ["n", "s"])


@pytest.mark.parametrize(
    ("line", "is_words"),
    [
        ('    return note(item, "XXlostXX", cause)', True),
        ('    return note(item, f"LOST {cause}", cause)', True),
        ('    return note(item, "lost", None)', False),
        ('    return note(None, "XXlostXX", cause)', False),
    ],
)
def test_a_mutant_of_texts_is_told_from_one_of_behaviour(line: str, is_words: bool) -> None:
    """Who reads what is alive begins with what changes behaviour."""
    diff = f'# a mutant\n--- a.py\n+++ a.py\n@@ -1 +1 @@\n-    return note(item, "lost", cause)\n+{line}'
    assert changes_words_only(diff) is is_words
