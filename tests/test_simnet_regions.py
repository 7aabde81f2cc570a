"""Scenarios with regions: what daemons say is counted rightly, and each promise can fail."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from protocols.plan import Phase
from simnet import learnregionchecks, lyingcompute
from simnet import learnregionparts as parts
from simnet.checks import look
from simnet.learnrecord import LearnRecord
from simnet.learnregions import TENSORS, metered, seen
from simnet.scenarioload import load
from simnet.timeline import Timeline
from synapsed.control.models import EventInfo
from synapsed.training import said

SHIPPED = Path(__file__).parents[1] / "configs" / "scenarios"
TOY = "lineage"
assert learnregionchecks.ask_routed, "importing it registers what the checks do"
REGIONS: list[Any] = [[0, 1], [2, 3]]
NAMES = ["peer-0", "peer-1", "peer-2", "peer-3"]


def status(
    *,
    primary: str = "peer-0",
    aggregator: str = "",
    joined: bool = True,
    round_: int = 5,
    **out: int,
) -> said.TrainStatus:
    """One daemon's word; `out`: bytes sent, as to_2=100."""
    group = said.GroupSaid(
        number=0,
        elements=1,
        bytes=4,
        round=round_,
        head="",
        role="none",
        primary=primary,
        replicas=["peer-0", "peer-1", "peer-2"],
        epoch=1,
        term=0,
        chain=0,
        chain_bytes=0,
    )
    one = said.TrainingSaid(
        lineage=TOY,
        head=TOY,
        name="toy",
        plan="",
        group_bytes=1,
        learners=1,
        joined=joined,
        paused=False,
        state="training",
        why="",
        round=round_,
        steps=0,
        loss=None,
        contributed=0,
        refused=0,
        bytes_in=0,
        bytes_out=0,
        data="",
        phase="",
        aggregator=aggregator,
        groups=[group],
        checkpoint_at=0,
        checkpoints=[],
    )
    talks = [
        said.TalkSaid(peer=f"peer-{to.removeprefix('to_')}", bytes_in=0, bytes_out=count)
        for to, count in out.items()
    ]
    compute = said.ComputeSaid(state="running", why="", device="cpu", memory=1)
    return said.TrainStatus(compute=compute, trainings=[one], talks=talks)


class Home:
    """A daemon that says what a test wants it to."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.identity = SimpleNamespace(text=NAMES[index])
        self.client = self
        self.status = status()

    async def call(self, _method: str, path: str, _kind: type) -> Any:
        assert path == "/v1/training"
        return self.status


class Town:
    """What checks look at of a world."""

    def __init__(self) -> None:
        self.daemons = [Home(index) for index in range(4)]
        self.timeline = Timeline(title="t", seed=1, daemons=4)
        self.learn = LearnRecord(self.timeline)
        self.learn.lineages["toy"] = TOY

    def running(self) -> list[Home]:
        return self.daemons

    def choose(self, who: Any) -> list[Home]:
        return [self.daemons[number] for number in (who if isinstance(who, list) else [who])]

    async def holds(self, check: Any) -> bool:
        finding = await look(check, self)  # type: ignore[arg-type]  # as much of one as it needs
        assert finding.text
        return finding.holds

    def hear(self, daemon: int, kind: str, **fields: Any) -> None:
        index_of = {name: number for number, name in enumerate(NAMES)}
        event = EventInfo(at=1.0, kind=kind, fields=fields)
        self.learn.regions.hear(daemon, event, 7.0, index_of)


def word(**daemons: said.TrainStatus) -> dict[str, said.TrainStatus]:
    return {name.replace("_", "-"): each for name, each in daemons.items()}


def test_the_shipped_scenario_has_two_regions_a_liar_and_a_cut() -> None:
    scenario = load(SHIPPED / "learn-regions.toml")
    kinds = [type(step) for step in scenario.steps]
    assert kinds.count(parts.Meter) == 3
    assert kinds.index(parts.Office) < kinds.index(parts.LieInSums)
    promised = {type(promise.that) for promise in scenario.promises}
    assert promised >= {parts.Gathered, parts.CrossedLess, parts.FanIn, parts.Audited, parts.Caught}


def test_a_metering_counts_what_crosses_and_who_moves_tensors() -> None:
    before = seen(
        word(
            peer_0=status(to_1=10, to_2=100),
            peer_1=status(aggregator="peer-1"),
            peer_2=status(joined=False),
            peer_3=status(aggregator="peer-2", to_2=5),
        ),
        TOY,
    )
    after = seen(
        word(
            peer_0=status(round_=9, to_1=50_010, to_2=20_100),
            peer_1=status(round_=9, aggregator="peer-1"),
            peer_2=status(joined=False, round_=2, to_3=3_000),
            peer_3=status(round_=9, aggregator="peer-2", to_2=9_005),
        ),
        TOY,
    )
    region_of = {"peer-0": 0, "peer-1": 0, "peer-2": 1, "peer-3": 1}
    found = metered(before, after, region_of)
    assert found.rounds == 4, "daemons that do not learn are not waited for"
    assert found.wide == 20_000
    assert found.each == 5_000
    assert found.moved[b"peer-2", b"peer-3"] == 12_000, "both ways together"
    # Three replicas; a learner and its aggregator; an aggregator and the primary.
    assert found.predicted == 4
    assert (b"peer-2", b"peer-3") in found.allowed
    assert (b"peer-1", b"peer-3") not in found.allowed


async def test_routed_through_its_own_region_or_straight() -> None:
    town, through = Town(), parts.Routed(lineage="toy", regions=REGIONS)
    straight = parts.Routed(lineage="toy", regions=REGIONS, through=False)
    near = {0: "peer-1", 1: "peer-1", 2: "peer-3", 3: "peer-3"}
    assert await town.holds(straight)
    assert not await town.holds(through), "the second region has no aggregator, nor the primary"
    for index, aggregator in near.items():
        town.daemons[index].status = status(aggregator=aggregator)
    assert await town.holds(through)
    assert not await town.holds(straight)
    for index in (0, 1):
        town.daemons[index].status = status()
    assert await town.holds(through), "all primaries are in the first region"
    town.daemons[3].status = status(aggregator="peer-1")
    assert not await town.holds(through), "an aggregator far away"
    for index, aggregator in {**near, 3: "peer-2"}.items():
        town.daemons[index].status = status(aggregator=aggregator)
    assert not await town.holds(through), "two in one region"


async def test_sums_are_counted_once_for_each_round_that_has_them() -> None:
    town = Town()
    check = parts.Gathered(lineage="toy", regions=REGIONS, sums=2)
    for daemon in (0, 1, 2):
        for number in (3, 4):
            town.hear(
                daemon,
                "training.round",
                model=TOY,
                group=0,
                number=number,
                sums=["peer-3"] if number == 3 else ["peer-3", "peer-1"],
            )
    assert town.learn.regions.sums_of(TOY) == {"peer-3": 2, "peer-1": 1}
    assert await town.holds(check), "the first region has the primary: it needs no aggregator"
    for home in town.daemons:
        home.status = status(primary="peer-2")
    assert not await town.holds(check)
    assert await town.holds(parts.Gathered(lineage="toy", regions=REGIONS, sums=1))


async def test_what_crossed_and_who_talked() -> None:
    town = Town()
    less = parts.CrossedLess(before="near", after="far", times=1.5)
    assert not await town.holds(less), "nothing was metered"
    meters = town.learn.regions.meters
    quiet = seen(word(peer_0=status(round_=0), peer_3=status(round_=0)), TOY)
    region_of = {"peer-0": 0, "peer-3": 1}

    def loud(count: int) -> Any:
        after = seen(word(peer_0=status(round_=2, to_3=count), peer_3=status(round_=2)), TOY)
        return metered(quiet, after, region_of)

    meters["near"], meters["far"] = loud(16 * TENSORS), loud(8 * TENSORS)
    assert await town.holds(less)
    assert await town.holds(parts.FanIn(meter="far")), "0 leads, and 3 sends straight to it"
    meters["far"] = loud(12 * TENSORS)
    assert not await town.holds(less)
    through = seen(
        word(
            peer_0=status(round_=2, to_3=8 * TENSORS),
            peer_3=status(round_=2, aggregator="peer-2"),
        ),
        TOY,
    )
    again = seen(word(peer_3=status(round_=0, aggregator="peer-2")), TOY)
    meters["far"] = metered(again, through, region_of)
    assert not await town.holds(parts.FanIn(meter="far")), "3 has an aggregator, and 0 sent it much"


async def test_a_liar_is_caught_by_honest_ones_and_nobody_else_is() -> None:
    town = Town()
    check = parts.Caught(who=2, lineage="toy")
    town.learn.regions.liars.add(2)
    assert not await town.holds(check)
    town.hear(2, "training.caught", aggregator="peer-1")
    assert not await town.holds(check), "a liar's word"
    town.hear(3, "training.caught", aggregator="peer-2")
    town.hear(3, "training.caught", proven=True, why="the machine's own word names nobody")
    assert await town.holds(check)
    assert [(mark.daemon, mark.kind) for mark in town.timeline.marks][-1] == (2, "caught")
    town.daemons[3].status = status(aggregator="peer-2")
    assert not await town.holds(check), "somebody still sends through it"
    town.daemons[3].status = status()
    town.hear(0, "training.caught", aggregator="peer-3")
    assert not await town.holds(check), "an honest one was caught"


async def test_the_picture_has_a_stroke_for_each_sum(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from simnet.learnpicture import draw

    town = Town()
    town.timeline.seconds = 9.0
    draw(town.timeline, tmp_path / "without.svg")
    town.hear(1, "training.summed", group=0, number=1, inputs=2)
    assert [each.daemon for each in town.timeline.sums] == [1]
    draw(town.timeline, tmp_path / "with.svg")
    words = "sums its region"
    assert words in _words(tmp_path / "with.svg")
    assert words not in _words(tmp_path / "without.svg")


def _words(path: Path) -> str:
    return path.read_text()


async def test_audits_of_liars_do_not_count() -> None:
    town, check = Town(), parts.Audited(lineage="toy", count=2)
    town.learn.regions.liars.add(2)
    for daemon in (1, 2):
        town.hear(daemon, "training.audited", group=0, number=1, same=True)
    assert not await town.holds(check)
    town.hear(3, "training.audited", group=0, number=1, same=False)
    assert not await town.holds(check)
    town.hear(3, "training.audited", group=0, number=2, same=True)
    assert await town.holds(check)


def test_who_is_named_sums_to_the_opposite_and_others_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch")
    from synapsed.compute import wire
    from synapsed.computeworker import codecs, rounds
    from synapsed.computeworker.files import write_blob
    from tests.bench.converge import WARM

    values = [torch.tensor([1.0, -2.0, 3.0])]

    def honest(asked: wire.Combine, _passage: Any) -> wire.Combined:
        blob = write_blob(asked.folder, [codecs.encode("fp32", values)])
        return wire.Combined(asked.number, blob, blob, ())

    monkeypatch.setattr(rounds, "combine", honest)
    version = SimpleNamespace(count=3)
    monkeypatch.setattr(
        "synapsed.computeworker.groups.read_version", lambda _path: ([version], values)
    )
    liars = tmp_path / "x.liars"
    lyingcompute._sum_to_the_opposite(liars)
    plan = msgspec.structs.replace(WARM, phases=(Phase(1, 2, "fp32", "fp32"),))

    def summed(home: str) -> list[float]:
        folder = tmp_path / home / "tmp"
        folder.mkdir(parents=True, exist_ok=True)
        asked = wire.Combine(1, plan, 0, "base", (), "", str(folder))
        made = rounds.combine(asked, lambda: None)
        found: list[float] = codecs.decode(Path(made.delta.path).read_bytes(), [3])[0].tolist()
        return found

    assert summed("7") == [1.0, -2.0, 3.0]
    liars.write_text(f"{tmp_path / '7'}\n")
    assert summed("7") == [-1.0, 2.0, -3.0]
    assert summed("6") == [1.0, -2.0, 3.0]
