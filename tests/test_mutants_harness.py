"""The harness of the mutants: it tells caught from surviving, and never fools itself."""

from pathlib import Path

import pytest

from tests.mutants.catchers import Family, NamedTests, Verdict
from tests.mutants.mutant import Change, Mutant, MutantError, apply, mutated
from tests.mutants.run import Result, open_runner

SOURCE = "def larger(a, b):\n    return a if a > b else b\n"

TESTS = """
from protocols.sums import larger

def test_larger():
    assert larger(1, 2) == 2

def test_that_fails_always():
    assert larger(1, 2) == 1

def test_weak():
    assert larger(2, 2) == 2
"""

SIMULATOR = """
import json, sys
from protocols.sums import larger

assert sys.argv[1] == "safety", sys.argv
first, last = map(int, sys.argv[sys.argv.index("--seeds") + 1].split("-"))
wrong = [n for n in range(first, last + 1) if n % 7 == 0 and larger(n, 0) != n]
print("a line before")
found = [{"seed": n, "check": "larger", "text": ""} for n in wrong[:1]]
print(json.dumps({"family": "safety", "seeds": last, "violations": found}))
sys.exit(bool(found))
"""

WRONG = (Change("protocols/sums.py", "a > b", "a < b"),)
HARMLESS = (Change("protocols/sums.py", "a > b", "a >= b"),)
BROKEN = (Change("protocols/sums.py", "a > b", "a > c"),)
HANGS = (Change("protocols/sums.py", "    return", "    while True: pass\n    return"),)


def a_test(name: str) -> NamedTests:
    return NamedTests((f"tests/test_sums.py::{name}",))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    for name, text in {
        "protocols/__init__.py": "",
        "protocols/sums.py": SOURCE,
        "simnet/__init__.py": "",
        "simnet/virtual.py": SIMULATOR,
        "tests/test_sums.py": TESTS,
        "pyproject.toml": "",
    }.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def run(root: Path, *mutants: Mutant, resume: bool = False) -> tuple[list[Result], list[str]]:
    said: list[str] = []
    with open_runner(root, root.parent / "kept", said.append) as runner:
        return runner.run(mutants, resume=resume), said


def test_a_bug_that_a_test_sees_is_caught(root: Path) -> None:
    mutant = Mutant("wrong", "", WRONG, (a_test("test_weak"), a_test("test_larger")))
    (result,), _ = run(root, mutant)
    assert (result.caught, result.by) == (True, "tests/test_sums.py::test_larger")
    assert result.notes == ["tests/test_sums.py::test_weak missed it"]
    assert (root / "protocols/sums.py").read_text() == SOURCE


def test_a_bug_that_the_simulator_sees_is_caught_with_its_seed(root: Path) -> None:
    (result,), said = run(root, Mutant("wrong", "", WRONG, (Family("safety", 20),)))
    assert (result.caught, result.seed) == (True, 7)
    assert result.by == "simnet.virtual safety: larger"
    # The unmutated source is run over the seeds that it took, and no more.
    assert said[-1] == "without any mutant: simnet.virtual safety over 7 seeds passes"


def test_a_bug_beyond_the_budget_survives(root: Path) -> None:
    (result,), _ = run(root, Mutant("wrong", "", WRONG, (Family("safety", 6),)))
    assert not result.caught


def test_a_harmless_change_survives(root: Path) -> None:
    catchers = (a_test("test_larger"), Family("safety", 20))
    (result,), _ = run(root, Mutant("harmless", "", HARMLESS, catchers))
    assert not result.caught
    assert len(result.notes) == 2


def test_a_test_that_fails_without_the_mutant_has_caught_nothing(root: Path) -> None:
    (result,), _ = run(root, Mutant("harmless", "", HARMLESS, (a_test("test_that_fails_always"),)))
    assert not result.caught
    assert "without any mutant" in result.notes[-1]


@pytest.mark.parametrize("catcher", [a_test("test_nosuch"), Family("nosuch", 5)])
def test_a_catcher_that_breaks_has_caught_nothing(root: Path, catcher: NamedTests | Family) -> None:
    (result,), _ = run(root, Mutant("wrong", "", WRONG, (catcher,)))
    assert not result.caught
    assert "broke" in result.notes[0]


def test_a_mutant_that_was_written_wrongly_is_not_caught(root: Path) -> None:
    (result,), _ = run(root, Mutant("broken", "", BROKEN, (a_test("test_larger"),)))
    assert not result.caught
    assert "NameError" in result.notes[0]
    crash = '{"violations": [{"seed": 1, "check": "crash", "text": "NameError: c"}]}'
    assert Family("safety").read(1, crash).caught is None
    assert Family("safety").read(1, crash.replace("NameError", "IndexError")).caught


def test_a_catcher_that_does_not_end_has_caught_nothing(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Family, "limit_s", 2.0)
    (result,), _ = run(root, Mutant("hangs", "", HANGS, (Family("safety", 20),)))
    assert not result.caught
    assert "did not end within 2 s" in result.notes[0]


def test_results_are_kept_while_source_and_mutant_are_the_same(root: Path) -> None:
    mutant = Mutant("wrong", "", WRONG, (a_test("test_larger"),))
    run(root, mutant)
    assert "wrong: kept" in run(root, mutant, resume=True)[1][0]
    assert "kept" not in run(root, mutant)[1][0]
    other = Mutant("wrong", "", WRONG, (Family("safety", 20),))
    assert "kept" not in run(root, other, resume=True)[1][0]
    run(root, mutant)
    (root / "protocols/sums.py").write_text(SOURCE + "# another source\n")
    assert "kept" not in run(root, mutant, resume=True)[1][0]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (Change("protocols/none.py", "a", "b"), "there is no protocols/none.py"),
        (Change("protocols/sums.py", "a >= b", "b"), "stands 0 times"),
        (Change("protocols/sums.py", "a", "c"), "times in protocols/sums.py, not once"),
        (Change("protocols/sums.py", "a > b", "a >"), "does not compile"),
        (Change("protocols/sums.py", "a > b", "a > b"), "changes nothing"),
    ],
)
def test_a_mutant_that_does_not_fit_is_an_error(root: Path, change: Change, says: str) -> None:
    with pytest.raises(MutantError, match=says):
        apply(Mutant("bad", "", (change,), ()), root)
    assert (root / "protocols/sums.py").read_text() == SOURCE


def test_two_changes_of_one_file_are_both_made(root: Path) -> None:
    changes = (WRONG[0], Change("protocols/sums.py", "else b", "else a"))
    (text,) = mutated(Mutant("two", "", changes, ()), root).values()
    assert "a if a < b else a" in text


def test_the_copy_is_what_a_child_imports(root: Path, tmp_path: Path) -> None:
    (root / "simnet/__init__.py").unlink()
    (root / "simnet/virtual.py").unlink()
    (root / "simnet").rmdir()
    with (
        pytest.raises(MutantError, match="not what lies there"),
        open_runner(root, tmp_path, print),
    ):
        pass


@pytest.mark.parametrize(
    ("status", "output"),
    [
        (1, "Traceback"),
        (0, "Traceback"),
        (1, '{"violations": []}'),
        (0, '{"violations": [{"seed": 1, "check": "c"}]}'),
        (-9, '{"violations": []}'),
    ],
)
def test_an_end_that_contradicts_itself_is_a_broken_catcher(status: int, output: str) -> None:
    assert Family("safety").read(status, output) == Verdict(None, output)
