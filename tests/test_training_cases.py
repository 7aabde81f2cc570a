"""From somebody who was caught to the council's verdict: cases as daemons find, publish and judge
them. The daemons are real but for their worker and ledger (training_kit.py)."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
import trio

from protocols.changes import ExclusionChange
from protocols.cid import cid_of
from protocols.errors import LimitError, MalformedError
from protocols.learn.case import (
    ABOUT,
    BASE,
    BadCaseError,
    Case,
    RoundCase,
    SumCase,
    change_of,
    check_case,
    delta_name,
    needed,
    pack,
    unpack,
)
from protocols.learn.claims import BadClaimError, Endorsement, UnknownGroupError
from protocols.manifest import DatasetManifest, decode_manifest
from synapsed.authoring.question import CheckFailedError
from synapsed.keys import verify
from synapsed.models import NotAModelManifestError, import_artefacts, import_model
from synapsed.store import Store
from synapsed.training.accuser import Waiting
from synapsed.training.judge import Judge
from tests.test_training_regions import region_of
from tests.training_kit import QUOTA, REALM, Daemon, World, world
from tests.training_toy import ToyCompute


class Bench:
    """A member of the council, and a case that was published to it."""

    def __init__(self, swarm: World, folder: Path) -> None:
        self.swarm = swarm
        self.folder = folder
        folder.mkdir()
        self.store = Store.open(folder / "store", QUOTA)
        assert import_model(self.store, swarm.source).cid == swarm.model
        self.compute = ToyCompute()
        training = SimpleNamespace(model=swarm.model, plan=swarm.plan, index=1, opened=1)
        self.state = SimpleNamespace(
            trainings={swarm.model: training},
            exclusions={},
            council_of=lambda _epoch: SimpleNamespace(start=SimpleNamespace(index=0)),
            realm=REALM,
        )
        self.pulled: list[tuple[bytes, bool]] = []

    async def pull(self, cid: bytes, part: Any = None, *, room: Any = None) -> None:
        await trio.lowlevel.checkpoint()
        self.pulled.append((cid, part is None))
        held = decode_manifest(self.store.get_block(cid))
        if part is not None and isinstance(held, DatasetManifest):
            raise NotAModelManifestError("only a model has headers to choose")

    def replicas(self, model: bytes, count: int, epoch: int) -> Sequence[tuple[bytes, ...]]:
        service = self.swarm.daemons[0].service
        assert service is not None
        return service.places.groups(model, count, epoch)

    @property
    def judge(self) -> Judge:
        return Judge(
            self.store,
            cast(Any, self),
            cast(Any, self.compute),
            lambda: cast(Any, self.state),
            replicas=self.replicas,
            verify=verify,
            scratch=self.folder / "scratch",
        )

    def dataset(self, paths: Sequence[Path]) -> bytes:
        def described(files: Sequence[Any]) -> DatasetManifest:
            return DatasetManifest(name="case", description="", files=tuple(files))

        take = import_artefacts(
            self.store,
            sorted(paths, key=lambda path: path.name),
            None,
            described,
            reason="published",
        )
        return take[0]

    def publish(self, case: Case, evidence: Sequence[Path]) -> ExclusionChange:
        about = self.folder / ABOUT
        about.write_bytes(pack(case))
        return change_of(case, self.dataset([about]), self.dataset(evidence))

    async def says(self, found: Waiting) -> bool:
        """The verdict, and that nothing was left behind."""
        change = self.publish(found.case, list(found.folder.iterdir()))
        verdict = await self.judge.judge(change)
        scratch = self.folder / "scratch"
        assert not scratch.exists() or not list(scratch.iterdir())
        return verdict.holds


def case_against(daemons: Sequence[Daemon], accused: Daemon) -> Callable[[], Waiting | None]:
    def look() -> Waiting | None:
        for daemon in daemons:
            if daemon is not accused and accused.id in daemon.lineage.accuser.waiting:
                return daemon.lineage.accuser.waiting[accused.id]
        return None

    return look


async def wrong_sum(swarm: World) -> Waiting:
    """What an aggregator that lies is accused of."""
    for daemon in swarm.daemons:
        daemon.compute.lies = True  # only whoever aggregates is ever asked to
    region = await region_of(swarm, 2)
    await swarm.until(lambda: any(daemon.of("training.summed") for daemon in region))
    liar = next(daemon for daemon in region if daemon.of("training.summed"))
    for daemon in swarm.daemons:
        daemon.compute.lies = daemon is liar
    look = case_against(swarm.daemons, liar)
    await swarm.until(look)
    found = look()
    assert found is not None
    return found


async def wrong_round(swarm: World) -> Waiting:
    """What a primary that lies is accused of by those who recompute its rounds."""
    await swarm.until(lambda: swarm.primary() is not None)
    liar = swarm.primary()
    assert liar is not None
    liar.compute.cheats = True
    for daemon in swarm.daemons:
        daemon.join()
    look = case_against(swarm.daemons, liar)
    await swarm.until(look)
    found = look()
    assert found is not None
    return found


async def test_a_wrong_sum_is_found_wrong_by_whoever_was_not_there(tmp_path: Path) -> None:
    async with world(tmp_path / "world", daemons=7, tensors=1, learners=2, one_in=1) as swarm:
        found = await wrong_sum(swarm)
        assert isinstance(found.case, SumCase)
        assert await Bench(swarm, tmp_path / "member").says(found)


async def test_a_wrong_round_is_found_wrong_by_whoever_was_not_there(tmp_path: Path) -> None:
    async with world(tmp_path / "world", daemons=4, tensors=1, learners=2) as swarm:
        found = await wrong_round(swarm)
        assert isinstance(found.case, RoundCase)
        bench = Bench(swarm, tmp_path / "member")
        assert await bench.says(found)
        await forged(bench, found)


async def forged(bench: Bench, found: Waiting) -> None:
    """What is made of a true case to accuse somebody else, or of something else."""
    case = found.case
    assert isinstance(case, RoundCase)
    files = list(found.folder.iterdir())
    other = next(
        daemon for daemon in bench.swarm.daemons if daemon.hosts() and daemon.id != case.by.replica
    )
    framed = msgspec.structs.replace(case, by=Endorsement(other.id, case.by.signature))
    bench.pulled.clear()
    change = bench.publish(framed, files)
    with pytest.raises(BadClaimError):
        await bench.judge.judge(change)
    assert all(cid != change.evidence for cid, _ in bench.pulled)  # nothing large was fetched

    change = bench.publish(case, files)
    with pytest.raises(BadCaseError):  # no statement where one should be
        await bench.judge.judge(
            msgspec.structs.replace(change, case=change.evidence, evidence=change.case)
        )
    with pytest.raises(BadCaseError):
        await bench.judge.judge(msgspec.structs.replace(change, accused=other.id))
    with pytest.raises(BadCaseError):
        await bench.judge.judge(msgspec.structs.replace(change, epoch=change.epoch + 1))

    bench.pulled.clear()
    change = bench.publish(case, [path for path in files if path.name != BASE])
    with pytest.raises(BadCaseError):
        await bench.judge.judge(change)
    assert (change.evidence, True) not in bench.pulled  # only its names and sizes were

    delta = next(path for path in files if path.name.startswith("delta-"))
    swapped = bench.folder / delta.name
    swapped.write_bytes(delta.read_bytes()[:-1] + b"!")
    change = bench.publish(case, [swapped if path == delta else path for path in files])
    with pytest.raises(BadCaseError):
        await bench.judge.judge(change)


async def test_an_honest_round_is_not_found_wrong(tmp_path: Path) -> None:
    """Here it is the accuser's worker that computes wrongly: the council finds nothing."""
    async with world(tmp_path / "world", daemons=4, tensors=1, learners=2) as swarm:
        await swarm.until(lambda: swarm.primary() is not None)
        primary = swarm.primary()
        assert primary is not None
        for daemon in swarm.daemons:
            daemon.compute.cheats = daemon is not primary
            daemon.join()
        look = case_against(swarm.daemons, primary)
        await swarm.until(look)
        found = look()
        assert found is not None
        bench = Bench(swarm, tmp_path / "member")
        assert not await bench.says(found)
        bench.compute.missing = True  # a member without torch says nothing
        with pytest.raises(CheckFailedError):
            await bench.says(found)
        bench.compute.missing = False
        bench.state.exclusions = {primary.id: object()}
        with pytest.raises(CheckFailedError):
            await bench.says(found)


async def test_a_case_is_what_was_signed_and_nothing_else(tmp_path: Path) -> None:
    async with world(tmp_path / "world", daemons=4, tensors=1, learners=2) as swarm:
        found = await wrong_round(swarm)
        case = found.case
        assert isinstance(case, RoundCase)
        data = pack(case)
        assert unpack(data) == case
        for bad in (data[:-1], data + b"\0", b"", bytes(2 << 20)):
            with pytest.raises((MalformedError, LimitError)):
                unpack(bad)
        names = {each.name: each for each in needed(case)}
        assert names[BASE].digest == case.round.parent
        for each in case.round.inputs:
            path = found.folder / delta_name(each.digest)
            assert hashlib.sha256(path.read_bytes()).digest() == each.digest
        change = change_of(case, cid_of(b"case"), cid_of(b"evidence"))

        def served(*three: bytes) -> Callable[[int, int], tuple[bytes, ...]]:
            return lambda _epoch, _group: three

        check = {"realm": REALM, "verify": verify}
        check_case(case, change, replicas=served(case.by.replica), **check)  # type: ignore[arg-type]
        with pytest.raises(BadCaseError):  # it had no office
            check_case(case, change, replicas=served(b"another"), **check)  # type: ignore[arg-type]
        with pytest.raises(UnknownGroupError):
            check_case(case, change, replicas=served(), **check)  # type: ignore[arg-type]
        tampered = msgspec.structs.replace(
            case, round=msgspec.structs.replace(case.round, head=bytes(32))
        )
        with pytest.raises(BadClaimError):
            check_case(
                tampered,
                change,
                replicas=served(case.by.replica),
                **check,  # type: ignore[arg-type]
            )
