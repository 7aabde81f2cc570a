"""The table of benches: what counts as reached, what is kept, and what a failure looks like."""

import importlib
import json
from pathlib import Path

import pytest

from tests.bench import __main__ as bench

RESULT = {
    "name": "transfer",
    "fields": {"ratio_raw": 0.91, "deaths": 0, "p99_s": 2.5, "extra": 12345},
    "reach": {"ratio_raw": ">= 0.8", "deaths": "0", "p99_s": "<= 2", "missing": ">= 1"},
}


def test_reached() -> None:
    assert bench.reached(RESULT) == {
        "ratio_raw": True,
        "deaths": True,
        "p99_s": False,
        "missing": False,
    }


def test_the_table_shows_values_failures_and_extras() -> None:
    lines = bench.table([RESULT, {"name": "crash"}]).splitlines()
    cells = [line.split() for line in lines[2:]]
    assert cells[0] == ["transfer", "ratio_raw", "0.91", ">=", "0.8", "yes"]
    assert cells[1] == ["transfer", "deaths", "0", "0", "yes"]
    assert cells[2][-1] == "NO"
    assert cells[3] == ["transfer", "missing", "missing", ">=", "1", "NO"]
    assert cells[4] == ["transfer", "extra", "12,345"]
    assert cells[5] == ["crash", "(it", "failed)", "NO"]


def test_kept_results_are_not_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in bench.NAMES:
        kept = {"name": name, "fields": {"a": 1}, "reach": {"a": ">= 1"}}
        (tmp_path / "bench-out").mkdir(exist_ok=True)
        (tmp_path / "bench-out" / f"{name}.json").write_text(json.dumps(kept))
    assert bench.main(["--resume"]) == 0
    assert capsys.readouterr().out.count("yes") == len(bench.NAMES)
    bad = {"name": "crash", "fields": {"a": 0}, "reach": {"a": ">= 1"}}
    (tmp_path / "bench-out" / "crash.json").write_text(json.dumps(bad))
    assert bench.main(["--resume"]) == 1


def test_usage() -> None:
    with pytest.raises(SystemExit, match="2"):
        bench.main(["nosuch"])


@pytest.mark.parametrize("name", bench.NAMES)
def test_every_bench_states_what_it_must_reach(name: str) -> None:
    module = importlib.import_module(f"tests.bench.{name.replace('-', '_')}")
    assert callable(module.measure)
    bench.reached({"fields": dict.fromkeys(module.REACH, 0), "reach": module.REACH})
