"""A world that learns: files are read, what is said is kept, checks can fail, it is drawn."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from simnet import learnparts as parts
from simnet.checks import look
from simnet.learnrecord import LearnRecord, Led
from simnet.learnsteps import cut
from simnet.run import words
from simnet.scenarioload import ScenarioError, load
from simnet.timeline import Mark, Text, Timeline
from synapsed.control import ledgermodels
from synapsed.training import said
from synapsed.training.opening import plan_of

SHIPPED = Path(__file__).parents[1] / "configs" / "scenarios"
NAMES = ("learn", "learn-liars", "learn-churn", "learn-regions", "learn-accused")
TOY = "lineage"

GOOD = """
title = "t"
daemons = 4
[council]
members = "all"
[[steps]]
do = "corrupt"
who = 3
how = "flip"
[[steps]]
do = "start"
who = "all"
[[steps]]
do = "make-model"
name = "toy"
who = 1
[[steps]]
do = "train"
name = "train toy"
who = 1
lineage = "toy"
text = "shakespeare.txt"
plan = { learners = 2 }
[[steps]]
do = "vote"
who = "0-3"
proposal = "train toy"
[[steps]]
do = "learn"
who = "0-3"
lineage = "toy"
text = "shakespeare.txt"
[[steps]]
do = "primary"
name = "first"
lineage = "toy"
[[steps]]
do = "kill"
who = "first"
[[steps]]
do = "checkpoint"
name = "better"
who = 1
lineage = "toy"
[[promises]]
that = { check = "took-over", lineage = "toy", after = "first" }
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "s.toml"
    path.write_text(text)
    return path


# -- files ------------------------------------------------------------------------------------


def test_a_file_becomes_steps_and_promises(tmp_path: Path) -> None:
    scenario = load(written(tmp_path, GOOD))
    assert scenario.steps[0] == parts.Corrupt(who=3, how="flip")
    assert scenario.steps[2] == parts.MakeModel(name="toy", who=1)
    assert scenario.promises[0].that == parts.TookOver(lineage="toy", after="first")
    assert words(scenario.steps[6]).startswith("primary first")


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (('[council]\nmembers = "all"\n', ""), "there is no [council]"),
        (('do = "make-model"\nname = "toy"', 'do = "make-model"\nname = "x"'), "has made 'toy'"),
        (('do = "primary"\nname = "first"', 'do = "primary"\nname = "x"'), "'first' names no"),
        (('proposal = "train toy"', 'proposal = "x"'), "no earlier step has named 'x'"),
        (('how = "flip"', 'how = "sulk"'), "sulk"),
        (("who = 3\nhow", "who = 9\nhow"), "9 is outside the 4 daemons"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, change: tuple[str, str], names: str) -> None:
    assert change[0] in GOOD
    with pytest.raises(ScenarioError) as error:
        load(written(tmp_path, GOOD.replace(*change, 1)))
    assert names in str(error.value)


@pytest.mark.parametrize("name", NAMES)
def test_what_the_issue_asks_for_is_shipped(name: str) -> None:
    scenario = load(SHIPPED / f"{name}.toml")
    assert scenario.daemons == 8
    trains = [step for step in scenario.steps if isinstance(step, parts.Train)]
    learns = [step for step in scenario.steps if isinstance(step, parts.Learn)]
    assert {each.lineage for each in learns} == {trains[0].lineage}
    assert all((SHIPPED / text).is_file() for text in {each.text for each in learns})
    assert {each.text for each in trains} == {each.text for each in learns}
    # The plan is one, and a round waits for fewer than learn: so a fault does not stop it.
    plan = plan_of(msgspec.convert(trains[0].plan, said.PlanSaid))
    assert plan.learners < 6
    promised: set[type] = {type(promise.that) for promise in scenario.promises}
    assert promised >= {parts.LossFell, parts.OneVersion}


def test_nobody_learns_from_what_judges() -> None:
    text = "".join(chr(ord("a") + at % 26) for at in range(1000))
    learned, held_out = cut(text, 0.1, 3)
    assert "".join(learned) + held_out == text
    assert len(held_out) == 100
    assert [len(part) for part in learned] == [300, 300, 300]


# -- checks -----------------------------------------------------------------------------------


class Home:
    """A daemon that says what a test wants it to."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.identity = SimpleNamespace(text=f"peer-{index}")
        self.client = self
        self.status: said.TrainStatus = status()
        self.credits: dict[str, int] = {}
        self.banned: list[str] = []

    async def peers(self, which: str) -> list[Any]:
        assert which == "all"
        alive = SimpleNamespace(peer_id="peer-1", banned_until=None)
        return [alive, *(SimpleNamespace(peer_id=one, banned_until=9.0) for one in self.banned)]

    async def call(self, method: str, path: str, kind: type) -> Any:
        assert method == "GET"
        if kind is said.TrainStatus:
            assert path == "/v1/training"
            return self.status
        assert kind is ledgermodels.Reputations
        rows = [SimpleNamespace(peer_id=peer, credits=has) for peer, has in self.credits.items()]
        return SimpleNamespace(reputations=rows)


class Town:
    """What checks look at of a world."""

    def __init__(self, count: int = 3) -> None:
        self.daemons = [Home(index) for index in range(count)]
        self.timeline = Timeline(title="t", seed=1, daemons=count)
        self.learn = LearnRecord(self.timeline)
        self.learn.lineages["toy"] = TOY

    def running(self) -> list[Home]:
        return self.daemons

    def choose(self, who: Any) -> list[Home]:
        if isinstance(who, list):
            return [self.daemons[number] for number in who]
        return self.daemons if who == "running" else [self.daemons[who]]

    async def holds(self, check: Any) -> bool:
        finding = await look(check, self)  # type: ignore[arg-type]  # as much of one as it needs
        assert finding.text
        return finding.holds


def status(
    *,
    lineage: str = TOY,
    round_: int = 0,
    head: str = "",
    root: str = "",
    primary: str = "",
    term: int = 0,
    loss: float | None = None,
    bytes_in: int = 0,
    contributed: int = 0,
    trains: bool = True,
    excluded: list[said.ExclusionSaid] | None = None,
) -> said.TrainStatus:
    group = said.GroupSaid(
        number=0,
        elements=10,
        bytes=40,
        round=round_,
        head=root,
        role="replica",
        primary=primary,
        replicas=[],
        epoch=1,
        term=term,
        chain=0,
        chain_bytes=0,
    )
    one = said.TrainingSaid(
        lineage=lineage,
        name="toy",
        plan="",
        group_bytes=1,
        learners=None,
        head=head or lineage,
        joined=loss is not None,
        paused=False,
        state="training",
        excluded=excluded or [],
        why="",
        round=round_,
        steps=0,
        loss=loss,
        contributed=contributed,
        refused=0,
        bytes_in=bytes_in,
        bytes_out=0,
        data="",
        phase="",
        aggregator="",
        groups=[group],
        checkpoint_at=0,
        checkpoints=[],
    )
    compute = said.ComputeSaid(state="running", why="", device="cpu", memory=1)
    return said.TrainStatus(compute=compute, trainings=[one] if trains else [], talks=[])


async def test_a_training_is_open_when_every_ledger_has_it() -> None:
    town, check = Town(), parts.TrainingOpen(lineage="toy")
    assert await town.holds(check)
    town.daemons[1].status = status(trains=False)
    assert not await town.holds(check)
    town.daemons[1].status = status(lineage="another")
    assert not await town.holds(check)


async def test_trained_means_all_of_them_so_far() -> None:
    town, check = Town(), parts.Trained(lineage="toy", rounds=5)
    for home in town.daemons:
        home.status = status(round_=5)
    assert await town.holds(check)
    town.daemons[2].status = status(round_=4)
    assert not await town.holds(check)
    town.daemons[2].status = status(trains=False)
    assert not await town.holds(check)


async def test_a_loss_fell_by_what_learners_said_first_and_last() -> None:
    town, check = Town(), parts.LossFell(lineage="toy", nats=1.0)
    assert not await town.holds(check)  # nobody has learned anything
    for at, (first, second) in enumerate(((4.0, 4.4), (3.5, 3.5), (2.9, 3.3))):
        town.learn.take(0, status(loss=first), at)
        town.learn.take(1, status(loss=second), at)
        town.learn.take(2, status(), at)  # it serves, and learns nothing
        assert await town.holds(check) == (at == 2)
    town.learn.take(0, status(loss=3.4), 9)
    assert not await town.holds(check)


async def test_what_was_given_is_counted_for_each() -> None:
    town, check = Town(), parts.Gave(lineage="toy", who="running", deltas=3)
    for home in town.daemons:
        home.status = status(contributed=3)
    assert await town.holds(check)
    town.daemons[1].status = status(contributed=2)
    assert not await town.holds(check)
    town.daemons[1].status = status(trains=False)
    assert not await town.holds(check)


async def test_one_version_of_each_round_wherever_it_is() -> None:
    town, check = Town(), parts.OneVersion(lineage="toy", count=2)
    for number in range(3):
        town.learn.take(0, status(round_=number, root=f"root {number}"), 0)
    assert not await town.holds(check)  # each was seen on one daemon only
    for number in range(2):
        town.learn.take(1, status(round_=number, root=f"root {number}"), 1)
    assert await town.holds(check)
    town.learn.take(2, status(lineage="another", round_=2, root="other"), 2)
    assert await town.holds(check)
    town.learn.take(2, status(round_=2, root="other"), 2)
    assert not await town.holds(check)
    assert await town.holds(msgspec.structs.replace(check, liars=2))


async def test_by_every_ledger_the_liars_are_excluded_and_nobody_else() -> None:
    town, check = Town(), parts.Excluded(lineage="toy", who=1)
    assert not await town.holds(check)

    def out(*daemons: int) -> list[said.ExclusionSaid]:
        plain = {"training": "t", "epoch": 1, "until": 10, "lost": 5, "proposal": "p", "index": 9}
        return [said.ExclusionSaid(peer=f"peer-{number}", **plain) for number in daemons]

    for home in town.daemons:
        home.status = status(excluded=out(1))
    assert await town.holds(check)
    town.daemons[0].status = status()
    assert not await town.holds(check)  # one ledger does not
    town.daemons[0].status = status(excluded=out(1, 2))
    assert not await town.holds(check)  # and of an honest one


async def test_a_take_over_is_another_primary_in_a_higher_term() -> None:
    town, check = Town(), parts.TookOver(lineage="toy", after="first")
    assert not await town.holds(check)  # nobody was named
    town.learn.led["first"] = Led(daemon=0, group=0, epoch=1, term=3)
    for home in town.daemons:
        home.status = status(primary="peer-0", term=3)
    assert not await town.holds(check)
    town.daemons[1].status = status(primary="peer-2", term=2)
    assert not await town.holds(check)  # it was so before
    town.daemons[2].status = status(primary="peer-0", term=6)
    assert not await town.holds(check)  # it leads again
    town.daemons[2].status = status(primary="peer-1", term=7)
    assert await town.holds(check)
    town.daemons[1].status = status(primary="peer-0", term=9)
    assert await town.holds(check)  # it was taken over from, whoever leads since


async def test_an_improvement_is_one_head_on_every_ledger() -> None:
    town, check = Town(), parts.Improved(lineage="toy")
    assert not await town.holds(check)
    for home in town.daemons:
        home.status = status(head="better")
    assert await town.holds(check)
    town.daemons[1].status = status(head="even better")
    assert not await town.holds(check)
    town.daemons[1].status = status()
    assert not await town.holds(check)


async def test_a_liar_without_credits_counts_only_where_others_have_some() -> None:
    town, check = Town(), parts.Uncredited(who=2)
    assert not await town.holds(check)  # nothing was paid at all
    town.daemons[0].credits = {"peer-0": 60, "peer-2": 0}
    assert await town.holds(check)
    town.daemons[0].credits = {"peer-0": 60, "peer-2": 1}
    assert not await town.holds(check)


async def test_who_bans_an_honest_one_is_named() -> None:
    town, check = Town(), parts.NoBans()
    assert await town.holds(check)
    town.daemons[0].banned = ["a stranger"]
    assert await town.holds(check)
    town.daemons[2].banned = ["peer-1"]
    assert not await town.holds(check)
    town.daemons.pop(1)
    assert await town.holds(check)  # of a daemon that is not meant nothing is promised


# -- the liar ---------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["flip", "scale", "random", "stale"])
def test_a_liar_says_something_else_that_can_be_read(tmp_path: Path, how: str) -> None:
    torch = pytest.importorskip("torch", reason="the extra `compute` trains")
    from protocols.plan import Phase
    from simnet import lyingcompute
    from synapsed.compute import wire
    from synapsed.computeworker import codecs, office, train

    assert vars(office)["Training"] is train.Training  # by this name the office makes it
    lyingcompute._first.clear()
    asked = wire.Encode(
        number=1, key=b"", groups=(0,), phase=Phase(1, 5, "int8", "int8"), folder=str(tmp_path)
    )
    group = SimpleNamespace(tiles=[SimpleNamespace(count=400)])
    training = SimpleNamespace(_group=lambda _number: group)

    def said_of(values: Any) -> Any:
        data = codecs.encode("int8", [values])
        path = tmp_path / "honest"
        path.write_bytes(data)
        honest = wire.Blob(path=str(path), digest=bytes(32), size=len(data))
        lie = lyingcompute._lie(how, training, 0, asked, honest)
        told = Path(lie.path).read_bytes()
        assert len(told) == lie.size
        assert Path(lie.path).name == lie.digest.hex()
        return codecs.decode(told, [400])[0]

    first, second = torch.linspace(-1, 1, 400), torch.linspace(1, -0.5, 400)
    before, after = said_of(first), said_of(second)
    if how == "flip":
        assert torch.allclose(after, -second, atol=0.02)
    elif how == "scale":
        assert torch.allclose(after, 1000 * second, atol=20)
    elif how == "random":
        assert abs(float(torch.corrcoef(torch.stack([after, second]))[0, 1])) < 0.3
        assert 0.5 < float(after.square().mean() / second.square().mean()) < 2
    else:
        assert torch.equal(before, after)
        assert torch.allclose(after, first, atol=0.02)


# -- the picture ------------------------------------------------------------------------------


def run() -> Timeline:
    """Daemons 0 and 1 learn from second 4 on; 1 is killed at 10 and is back at 12, its counters
    anew."""
    timeline = Timeline(title="t", seed=1, daemons=3, has_ledger=True, seconds=20)
    record = LearnRecord(timeline)
    timeline.marks = [Mark(0, number, "start") for number in range(3)]
    timeline.marks += [Mark(10, 1, "kill"), Mark(12, 1, "restart"), Mark(3, 0, "generate")]
    timeline.texts = [
        Text(3, 0, "a", "ROMEO:", "\x1b[31m$x$"),
        Text(19, 0, "b", "ROMEO:", " What\nlight"),
    ]
    for at in range(4, 20):
        for number in (0, 1):
            if number == 1 and 10 <= at < 12:
                continue
            since = 12 if number == 1 and at >= 12 else 4
            loss = 4 - 0.1 * (at // 2) + 0.2 * number
            record.take(number, status(loss=loss, round_=at, bytes_in=1000 * (at - since)), at)
        record.take(2, status(round_=at), at)
    return timeline


def test_what_was_learned_at_what_cost(tmp_path: Path) -> None:
    picture = pytest.importorskip("simnet.learnpicture", reason="the extra `demo` draws")
    timeline = run()
    assert [round(each.loss, 1) for each in picture.losses(timeline, 0)][:3] == [3.8, 3.7, 3.6]
    assert picture.losses(timeline, 2) == []
    means = picture.mean_loss(timeline)
    assert means[0] == (4, pytest.approx(3.9))  # of both: one alone is no mean
    assert means[1] == (6, pytest.approx(3.85))
    # 15 kB of daemon 0, and of daemon 1 what it had received before it was killed, and since.
    assert picture.traffic(timeline)[-1] == (19, 15_000 + 5_000 + 7_000)
    path = tmp_path / "picture.png"
    picture.draw(timeline, path)
    assert path.stat().st_size > 20_000
    again = msgspec.json.decode(msgspec.json.encode(timeline), type=Timeline)
    assert again == timeline


def test_a_run_in_which_nothing_was_learned_is_drawn_all_the_same(tmp_path: Path) -> None:
    picture = pytest.importorskip("simnet.learnpicture", reason="the extra `demo` draws")
    timeline = Timeline(title="t", seed=1, daemons=2, has_ledger=True, seconds=5)
    LearnRecord(timeline).take(0, status(), 1)
    picture.draw(timeline, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 5_000
