"""The mutants fit the source as it is, and what is to catch them exists."""

from collections import Counter
from pathlib import Path

import pytest

from tests.mutants.__main__ import main
from tests.mutants.catalogue import MUTANTS
from tests.mutants.catchers import NamedTests
from tests.mutants.mutant import Mutant, mutated

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_fits_the_source(mutant: Mutant) -> None:
    assert mutated(mutant, ROOT)
    assert mutant.drops
    assert mutant.caught_by


def test_names_are_unique_and_there_are_enough() -> None:
    assert [name for name, count in Counter(m.name for m in MUTANTS).items() if count > 1] == []
    assert len(MUTANTS) >= 24


def test_the_tests_that_are_to_catch_them_exist() -> None:
    for mutant in MUTANTS:
        for catcher in mutant.caught_by:
            if not isinstance(catcher, NamedTests):
                continue
            for node in catcher.nodes:
                path, _, name = node.partition("::")
                text = (ROOT / path).read_text(encoding="utf-8")
                assert not name or f"def {name.partition('[')[0]}(" in text, node


def test_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(MUTANTS)
    with pytest.raises(SystemExit, match="2"):
        main(["--only", "no such"])
