"""Scenario files: the ones we ship are sound, and a mistake is named with its step and key."""

from pathlib import Path

import pytest

from simnet.run import words
from simnet.scenario import Kill, Replicated, Wait
from simnet.scenarioload import ScenarioError, load

ROOT = Path(__file__).parents[1]
SHIPPED = sorted((ROOT / "configs" / "scenarios").glob("*.toml"))
EXAMPLES = [path for path in (ROOT / "examples").glob("*.toml") if "steps" in path.read_text()]

GOOD = """
title = "t"
daemons = 3
[models.m]
made = 1
[[steps]]
do = "start"
who = "0-2"
[[steps]]
do = "pick"
name = "victim"
[[steps]]
do = "kill"
who = ["victim", 1]
[[steps]]
do = "wait"
until = { check = "replicated", model = "m", copies = 2 }
within = 5
[[promises]]
that = { check = "nobody-died" }
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "s.toml"
    path.write_text(text)
    return path


def test_a_file_becomes_steps_and_promises(tmp_path: Path) -> None:
    scenario = load(written(tmp_path, GOOD))
    assert scenario.steps[2] == Kill(who=["victim", 1])
    assert scenario.steps[3] == Wait(until=Replicated(model="m", copies=2), within=5)
    assert [words(step) for step in scenario.steps][1:] == [
        "pick victim",
        "kill victim,1",
        "wait replicated m copies=2",
    ]


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (("daemons = 3", "daemons = 0"), "daemons: Expected `int` >= 1"),
        (("daemons = 3", "demons = 3"), "unknown field `demons`"),
        (('do = "kill"', 'do = "maim"'), "step 3 (maim).do: Invalid value 'maim'"),
        (
            ('who = ["victim", 1]', "whom = 1"),
            "step 3 (kill): Object contains unknown",
        ),
        (('who = ["victim", 1]', "who = 3"), "step 3 (kill): who: 3 is outside the 3 daemons"),
        (('who = ["victim", 1]', 'who = "2-5"'), "'2-5' is outside"),
        (('who = ["victim", 1]', 'who = "thief"'), "step 3 (kill): who: 'thief' names no daemon"),
        (('name = "victim"', 'name = "v"'), "who: 'victim' names no daemon"),
        (('model = "m"', 'model = "n"'), "step 4 (wait): until: model: there is no [models.n]"),
        (("within = 5", "within = -1"), "step 4 (wait).within: Expected `float` > 0"),
        (("made = 1", ""), "models.m: exactly one of package, folder and made"),
        (('check = "nobody-died"', 'check = "x"'), "promise 1.that.check: Invalid value 'x'"),
        (("[[steps]]", "[[steps"), "not TOML"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, change: tuple[str, str], names: str) -> None:
    with pytest.raises(ScenarioError) as error:
        load(written(tmp_path, GOOD.replace(*change, 1)))
    assert names in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=r"none\.toml"):
        load(tmp_path / "none.toml")


@pytest.mark.parametrize("path", SHIPPED + EXAMPLES, ids=lambda path: path.stem)
def test_shipped_scenarios_are_sound(path: Path) -> None:
    scenario = load(path)
    assert all(words(step) for step in scenario.steps)


def test_what_the_issue_asks_for_is_shipped() -> None:
    assert {path.stem for path in SHIPPED} >= {"demo", "churn", "partition", "liars", "hundred"}
