"""Each sabotage of `make mutants` still fits the source. (Whether the suite notices it, `make mutants` says.)"""

import ast
from pathlib import Path

import pytest

from tools.mutants import MUTANTS, ROOT, Mutant


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.name)
def test_it_changes_one_place_and_names_tests_that_are_there(mutant: Mutant) -> None:
    before = (ROOT / mutant.file).read_text()
    after = mutant.applied(before)
    assert after != before
    if not mutant.rust:
        ast.parse(after)
    for test in mutant.tests:
        path, _, name = test.partition("::")
        assert (ROOT / path).exists()
        assert not name or f"def {name}(" in Path(ROOT / path).read_text()


def test_there_are_enough_and_none_twice() -> None:
    assert len({m.name for m in MUTANTS}) == len({(m.file, m.old, m.new) for m in MUTANTS}) == len(MUTANTS) >= 10


@pytest.mark.parametrize("text", ["nothing of the kind", "grace"])
def test_a_text_that_is_not_there_once_is_noticed(text: str) -> None:
    mutant = Mutant("m", "", "rust/core/src/window.rs", text, "", ())
    with pytest.raises(ValueError, match=r"m: its text occurs \d+ times in rust/core/src/window.rs, and must once"):
        mutant.applied((ROOT / mutant.file).read_text())
