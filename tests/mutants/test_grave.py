"""Each grave mutant is killed, by each of the tests that are named for it."""

from pathlib import Path

import pytest

from mutants.grave import TESTS_FAILED, Mutant, copy_tree, failed, load, run

pytestmark = pytest.mark.nightly
MUTANTS = load()


def test_without_a_mutant_the_killers_pass(tmp_path: Path) -> None:
    """What fails anyway kills nothing."""
    killers = tuple(sorted({test for mutant in MUTANTS for test in mutant.tests}))
    result = run(killers, copy_tree(tmp_path))
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-1000:]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_grave_mutant_is_killed(mutant: Mutant, tmp_path: Path) -> None:
    """Its tests run, and all of them fail."""
    root = copy_tree(tmp_path)
    mutant.apply(root)
    result = run(mutant.tests, root, "--timeout=60")
    assert result.returncode == TESTS_FAILED, f"{mutant.harm}: {result.stdout[-4000:]}{result.stderr[-1000:]}"
    alive = set(mutant.tests) - failed(result.stdout)
    assert not alive, f"{mutant.harm}, and these pass: {sorted(alive)}"
