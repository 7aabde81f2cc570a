"""A world's upgrades: policies become modules, files are read, what is said is kept, and drawn."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from protocols.draw import Draw
from protocols.slots.closed_list import SLOTS
from protocols.slots.wasm_module import ModuleLimits
from simnet.policies import build_policy, policy
from simnet.scenarioload import ScenarioError, load
from simnet.timeline import Answering, Chosen, Mark, StageBegan, Timeline
from simnet.upgradeparts import RANKING, Became, Upgrade
from simnet.upgraderecord import UpgradeRecord
from synapsed.authoring import build
from synapsed.jail.jail import Jail

SLOT = SLOTS[RANKING]
GOOD = """
title = "t"
daemons = 4
[models.base]
made = 1
[council]
members = "all"
[[steps]]
do = "start"
who = "all"
[[steps]]
do = "import"
who = 1
model = "base"
[[steps]]
do = "adapters"
who = 1
model = "base"
ranks = [2, 4]
[[steps]]
do = "choose"
who = "all"
rank = 4
every = 0.5
[[steps]]
do = "upgrade"
name = "lighter"
who = 2
answers = { score = "{rank}" }
[[steps]]
do = "vote"
who = "0-3"
proposal = "lighter"
[[promises]]
that = { check = "became", upgrade = "lighter", event = "settle", version = 1 }
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "s.toml"
    path.write_text(text)
    return path


def test_a_file_becomes_steps_and_promises(tmp_path: Path) -> None:
    scenario = load(written(tmp_path, GOOD))
    assert scenario.steps[4] == Upgrade(name="lighter", who=2, answers={"score": "{rank}"})
    assert scenario.promises[0].that == Became(upgrade="lighter", event="settle", version=1)


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (('upgrade = "lighter"', 'upgrade = "darker"'), "no earlier step has named 'darker'"),
        (('proposal = "lighter"', 'proposal = "x"'), "no earlier step has named 'x'"),
        (('[council]\nmembers = "all"\n', ""), "there is no [council]"),
        (("ranks = [2, 4]", "ranks = [2]"), "step 3 (adapters)"),
        (('model = "base"\nranks', 'model = "b"\nranks'), "there is no [models.b]"),
        (("who = 2\nanswers", "who = 9\nanswers"), "9 is outside the 4 daemons"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, change: tuple[str, str], names: str) -> None:
    with pytest.raises(ScenarioError) as error:
        load(written(tmp_path, GOOD.replace(*change, 1)))
    assert names in str(error.value)


async def test_a_policy_is_a_module_that_answers_by_its_expression(tmp_path: Path) -> None:
    jail = Jail(tmp_path / "jail", lambda *_, **__: None, allow_weaker=True)
    text = policy(SLOT, {"score": "(i64.add (i64.mul (i64.const 3) {rank}) {wanted})"})
    built = await build_policy(text, SLOT, jail, tmp_path / "built")
    _, module, source = build.load(tmp_path / "built")
    assert (built.slot, built.size, source) == (RANKING, len(module), text.encode())
    name = await jail.compile(module, ModuleLimits())
    for rows in (0, 1, 50, 5000):
        batch = SLOT.generate(Draw(b"%d" % rows), rows)
        await jail.call(name, batch, SLOT.limits)
        ranks = batch.column("adapters", "rank").tolist()
        assert batch.answer("score") == [3 * rank + batch.context["wanted"] for rank in ranks]
    jail.close()


def test_what_daemons_say_is_kept_by_what_it_means() -> None:
    timeline = Timeline(title="t", seed=1, daemons=2)
    record = UpgradeRecord(timeline)

    def say(kind: str, daemon: int = 0, **fields: Any) -> None:
        event: Any = SimpleNamespace(kind=kind, at=1.0, fields={"slot": RANKING, **fields})
        record.hear(daemon, event, 5.0)

    say("upgrade.switched", version=1, permille=100, index=7, late=True)
    say("upgrade.in-force", 1, version=1, permille=1000, index=9)
    say("upgrade.rolled-back", version=2, permille=1000, index=9, reason="worse", proposal="cid")
    say("upgrade.reported")
    (switch,) = record.switches
    assert (switch.daemon, switch.version, switch.index, switch.late) == (0, 1, 7, True)
    (stage,) = record.stages
    assert (stage.event, stage.reason, stage.proposal) == ("rollback", "worse", "cid")
    assert record.other == [(0, "upgrade.reported")]
    assert [each.daemon for each in timeline.answering] == [0, 1]
    assert timeline.stages == [StageBegan(5.0, 0, RANKING, 2, 1000, "rollback")]


# -- the picture ------------------------------------------------------------------------------


def run() -> Timeline:
    """Daemon 0 tries version 1 from second 5 on; it is in force from second 10 on."""
    timeline = Timeline(title="t", seed=1, daemons=2, has_ledger=True, seconds=20)
    timeline.marks = [Mark(0, number, "start") for number in range(2)]
    timeline.marks.append(Mark(15, 1, "kill"))
    for at, permille, event in ((3, 0, "open"), (5, 100, "open"), (10, 1000, "settle")):
        timeline.stages += [
            StageBegan(at + 0.1 * daemon, daemon, RANKING, 1, permille, event)
            for daemon in range(2)
        ]
    timeline.answering = [
        Answering(5, 0, RANKING, 1, 100),
        Answering(10, 0, RANKING, 1, 1000),
        Answering(10, 1, RANKING, 1, 1000),
    ]
    timeline.chosen = [Chosen(at / 2, at % 2, 5 if at < 20 else 2) for at in range(40)]
    return timeline


def test_what_answers_over_time_is_drawn(tmp_path: Path) -> None:
    picture = pytest.importorskip("simnet.upgradepicture", reason="the extra `demo` draws")
    versions, whole = picture.answering(run(), 0)

    def at(second: float) -> tuple[float, bool]:
        column = round(second / 20 * (picture.COLUMNS - 1))
        return float(versions[column]), bool(whole[column])

    assert (at(2), at(7), at(12)) == ((0, True), (1, False), (1, True))
    other, _ = picture.answering(run(), 1)
    assert other[-1] != other[-1]  # it was killed
    assert [each.event for each in picture.ruled(run())] == ["open", "open", "settle"]
    path = tmp_path / "picture.png"
    picture.draw(run(), path)
    assert path.stat().st_size > 5000
