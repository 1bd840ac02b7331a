"""The list of grave mutants keeps up with the source that it edits; that each is killed is shown in `make mutants`."""

import re
from pathlib import Path

import pytest

from mutants.grave import ROOT, Edit, Mutant, load

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
