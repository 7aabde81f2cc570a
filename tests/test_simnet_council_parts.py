"""Scenario files with a council: what is wrong in them is named; the shipped ones are sound."""

from pathlib import Path

import pytest

from simnet.councilparts import Above, DoubleSign, Leader
from simnet.run import words
from simnet.scenarioload import ScenarioError, load

ROOT = Path(__file__).parents[1]
SHIPPED = sorted((ROOT / "configs" / "scenarios").glob("council-*.toml"))

GOOD = """
title = "t"
daemons = 5
[council]
members = "0-3"
[council.params]
"council.tick_ms" = 500
[[steps]]
do = "start"
who = "all"
[[steps]]
do = "leader"
name = "boss"
[[steps]]
do = "height"
name = "before"
[[steps]]
do = "kill"
who = "boss"
[[steps]]
do = "double-sign"
who = "boss"
[[steps]]
do = "propose"
name = "upload"
who = 4
set = { "limits.upload" = 5 }
[[steps]]
do = "vote"
who = "boss"
proposal = "upload"
[[promises]]
that = { check = "above", height = "before", more = 2 }
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "s.toml"
    path.write_text(text)
    return path


def test_a_file_becomes_steps_and_promises(tmp_path: Path) -> None:
    scenario = load(written(tmp_path, GOOD))
    assert scenario.council is not None
    assert scenario.council.params == {"council.tick_ms": 500}
    assert scenario.steps[1] == Leader(name="boss")
    assert scenario.steps[4] == DoubleSign(who="boss")
    assert scenario.promises[0].that == Above(height="before", more=2)
    assert [words(step) for step in scenario.steps][1:3] == ["leader boss", "height before"]


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (('members = "0-3"', ""), "council: Object missing required field `members`"),
        (('members = "0-3"', 'members = "0-7"'), "council: members: '0-7' is outside"),
        (('members = "0-3"', "members = 0\nweight = 2"), "council: Object contains unknown field"),
        (('name = "boss"', 'name = "chief"'), "step 4 (kill): who: 'boss' names no daemon"),
        (('proposal = "upload"', 'proposal = "x"'), "no earlier step has named 'x'"),
        (('height = "before"', 'height = "after"'), "no earlier step has named 'after'"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, change: tuple[str, str], names: str) -> None:
    with pytest.raises(ScenarioError) as error:
        load(written(tmp_path, GOOD.replace(*change, 1)))
    assert names in str(error.value)


def test_steps_of_a_council_need_one(tmp_path: Path) -> None:
    text = GOOD.replace('[council]\nmembers = "0-3"\n[council.params]\n"council.tick_ms" = 500', "")
    with pytest.raises(ScenarioError, match=r"step 2 \(leader\): there is no \[council\]"):
        load(written(tmp_path, text))


def test_what_the_issue_asks_for_is_shipped() -> None:
    names = {path.stem.removeprefix("council-") for path in SHIPPED}
    assert names >= {"leader", "crash", "wipe", "change", "liar", "demo"}
    sizes = {str(load(path).council.members) for path in SHIPPED}  # type: ignore[union-attr]
    assert sizes == {"0-3", "0-6"}  # four members, and seven
    assert all(load(path).daemons >= 24 for path in SHIPPED)
