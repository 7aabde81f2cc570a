"""A member's look at a checkpoint: what it is made of, what it scores, what is left unsaid."""

import hashlib
import struct
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
import trio.testing

from protocols.changes import CheckpointChange, Share
from protocols.council.errands import Examine
from protocols.errors import MalformedError
from protocols.learn.claims import Endorsement, Input, Record, Round, round_message
from protocols.learn.evidence import (
    Span,
    Stand,
    heads_digest,
    read_evidence,
    shares,
    write_evidence,
)
from protocols.ledger.entries import NO_INTERVAL, Interval
from protocols.manifest import DatasetManifest, ProposalManifest
from protocols.tensors.safetensors_header import make_safetensors_header
from synapsed import node
from synapsed.authoring.question import CheckFailedError
from synapsed.compute.errors import BadModelError, NotInstalledError
from synapsed.compute.wire import Losses, Version
from synapsed.config.options import Config, TrainingConfig
from synapsed.control.problems import ArtefactUnavailableError
from synapsed.ledger import examiner as examiner_module
from synapsed.ledger.examiner import Examiner
from synapsed.models.imports import import_artefacts, import_model
from synapsed.store import Store
from synapsed.training import proof as module
from synapsed.training.proof import Proof, WrongCheckpointError
from synapsed.training.scoring import CHILD, PARENT, BrokenModelError
from synapsed.transfer.errors import PullFailedError
from tests.ledger_book import MEMBERS, Book, people, verify
from tests.training_book import checkpoint, drawn, ends, find, network, opened, voted

ADA, BEN, CLEO, DAN = MEMBERS
REPLICAS = people("one", "two", "three")
LEARNER, OTHER = people("learner", "another")
THREE = tuple(who.identity for who in REPLICAS)
WINDOWS, TEXT = 64, b"To be, or not to be: that is the question.\n" * 400
CONFIG = b'{"model_type": "toy"}'
ELEMENTS = 16


def tensors(value: float, name: str = "w", dtype: str = "F32") -> bytes:
    """A model of one tensor, whose values say how good it is."""
    header = make_safetensors_header([(name, dtype, [ELEMENTS])], align=8)
    return header + struct.pack(f"<{ELEMENTS}f", *[value] * ELEMENTS)


class Worker:
    """Evaluates as its models say: a model's loss is 3 nats less its value, window by window."""

    def __init__(self) -> None:
        self.open: dict[bytes, float] = {}
        self.asked: list[tuple[bytes, str, tuple[int, ...]]] = []
        self.error: Exception | None = None
        self.bad: bytes | None = None
        self.forgets: dict[str, float] = {}
        """What a model that is better elsewhere loses on a text, by its path."""

    async def open_model(self, key: bytes, files: Sequence[tuple[str, Path]]) -> Any:
        await trio.lowlevel.checkpoint()
        if self.error is not None:
            raise self.error
        if key == self.bad:
            raise BadModelError("its tensors make nothing")
        if key in self.open:
            return  # as the worker does
        (path,) = [path for name, path in files if name.endswith(".safetensors")]
        (self.open[key],) = struct.unpack("<f", path.read_bytes()[-4:])

    async def close_model(self, key: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self.open.pop(key, None)

    async def evaluate(
        self, key: bytes, data: Path, context: int, windows: Sequence[int]
    ) -> Losses:
        await trio.lowlevel.checkpoint()
        text = data.read_bytes()
        count = len(text) // context
        self.asked.append((key, str(data), tuple(windows)))
        worse = self.forgets.get(str(data), 0.0) if key == CHILD else 0.0
        losses = tuple(3.0 - self.open[key] + worse + window / count for window in windows)
        return Losses(1, losses, count)

    async def make_versions(
        self, files: Sequence[tuple[str, Path]], group_bytes: int, groups: Sequence[int], out: Path
    ) -> tuple[Version, ...]:
        await trio.lowlevel.checkpoint()
        (path,) = [path for name, path in files if name.endswith(".safetensors")]
        head = version_root(path.read_bytes())
        made = out / head.hex()
        made.write_bytes(b"values")
        return tuple(Version(group, str(made), head) for group in groups)


def version_root(model: bytes) -> bytes:
    """Stands for the root of the one group's version."""
    return hashlib.sha256(model[-4 * ELEMENTS :]).digest()


class Holders:
    """All is here already; what is to be missing is not."""

    def __init__(self) -> None:
        self.lacks: bytes | None = None
        self.rooms: dict[bytes, int] = {}

    async def pull(self, cid: bytes, part: Any = None, *, room: Any) -> None:
        await trio.lowlevel.checkpoint()
        self.rooms[cid] = room.left
        if cid == self.lacks:
            raise PullFailedError("nobody has it", {})


class Case:
    """A training whose checkpoint is proposed, and a member that looks at it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = Store.open(folder / "store", 1 << 30)
        self.worker, self.holders = Worker(), Holders()
        self.parent = self.model("parent", tensors(0.5))
        text = folder / "evaluation.txt"
        text.write_bytes(TEXT)
        self.evaluation = self.dataset("evaluation", text)
        self.book: Book = network()
        opened(self.book, model=self.parent, evaluation=self.evaluation, windows=WINDOWS)
        (folder / "scratch").mkdir()
        self.probe: Path | None = None

    def model(self, name: str, data: bytes, config: bytes = CONFIG, **files: bytes) -> bytes:
        where = self.folder / name
        where.mkdir()
        named = {"config.json": config, "model.safetensors": data} | files
        for path, content in named.items():
            (where / path).write_bytes(content)
        return import_model(self.store, where, name).cid

    def dataset(self, name: str, *paths: Path) -> bytes:
        def describe(refs: Sequence[Any]) -> DatasetManifest:
            return DatasetManifest(name=name, description="", files=tuple(refs))

        cid, _ = import_artefacts(self.store, paths, "flat", describe, reason="published")
        return cid

    def evidence(
        self, child: bytes, by: Sequence[Any] = REPLICAS[:2], epoch: int | None = None
    ) -> tuple[bytes, bytes]:
        """Of one round from the parent's values to these; (its CID, the file's bytes)."""
        begin, end = version_root(tensors(0.5)), version_root(child)
        made = Round(
            model=self.parent, group=0, number=0, parent=begin,
            epoch=self.book.state.epoch if epoch is None else epoch,
            head=end, result=bytes(32), size=1,
            inputs=tuple(
                Input(who.identity, hashlib.sha256(who.name.encode()).digest(), share)
                for who, share in sorted(
                    ((LEARNER, 700), (OTHER, 300)), key=lambda each: each[0].identity
                )
            ),
        )  # fmt: skip
        message = round_message(self.book.state.realm, made)
        record = Record(round=made, by=tuple(Endorsement(w.identity, w.sign(message)) for w in by))
        span = Span(model=self.parent, begins=(Stand(0, begin),), ends=(Stand(1, end),))
        data = write_evidence(span, [record], [])
        path = self.folder / hashlib.sha256(data).hexdigest()
        path.write_bytes(data)
        return self.dataset("rounds", path), data

    def propose(self, child: bytes, data: bytes, **fields: Any) -> tuple[bytes, CheckpointChange]:
        """Its proposal, voted for and drawn."""
        evidence, file = self.evidence(data)
        read = read_evidence(file)
        plain: dict[str, Any] = {
            "training": self.parent,
            "parent": self.parent,
            "manifest": child,
            "evidence": evidence,
            "heads": heads_digest(self.parent, read.span.ends),
            "shares": shares(read, [ELEMENTS]),
        }
        change = checkpoint(self.book, "child", **plain | fields)
        cid = voted(self.book, change)
        drawn(self.book, cid)
        return cid, change

    def child(self, value: float = 0.6, **fields: Any) -> tuple[bytes, CheckpointChange]:
        data = tensors(value)
        return self.propose(self.model("child", data), data, **fields)

    @property
    def proof(self) -> Proof:
        return Proof(
            self.store,
            cast(Any, self.holders),
            cast(Any, self.worker),
            lambda: self.book.state,
            replicas=lambda lineage, count, epoch: [THREE] * count if epoch else [],
            verify=verify,
            scratch=self.folder / "scratch",
            probe=self.probe,
        )


@pytest.fixture
def case(tmp_path: Path) -> Any:
    made = Case(tmp_path)
    yield made
    made.store.close()


async def test_a_better_child_is_measured_and_its_members_make_it_the_head(case: Case) -> None:
    cid, change = case.child()
    found = await case.proof.judge(cid, change)
    assert found.holds
    assert found.interval.low == pytest.approx(100_000, abs=2)
    (first, _, windows), *rest = [each for each in case.worker.asked if each[2]]
    assert (first, len(windows)) == (PARENT, WINDOWS)
    assert [each[2] for each in rest] == [windows]  # the same ones for both
    assert not case.worker.open
    assert not list((case.folder / "scratch").iterdir())
    find(case.book, cid, dict.fromkeys(MEMBERS, found.interval))
    (outcome,) = ends(case.book)
    assert outcome.accepted
    assert case.book.state.head_of(case.parent) == change.manifest


@pytest.mark.parametrize("value", [0.5, 0.4, float("nan"), float("-inf")])
async def test_an_equal_worse_or_broken_child_does_not_hold(case: Case, value: float) -> None:
    found = await case.proof.judge(*case.child(value))
    assert not found.holds
    assert (found.interval == NO_INTERVAL) is (value == 0.5)


async def test_every_checkpoint_has_a_sample_of_its_own(case: Case) -> None:
    one = case.child()
    await case.proof.judge(*one)
    again = voted(case.book, one[1], "the same, proposed again")
    drawn(case.book, again)
    await case.proof.judge(again, one[1])
    samples = {each[2] for each in case.worker.asked if each[2]}
    assert len(samples) == 2


WRONG: dict[str, Any] = {
    "other shares": {"shares": (Share(LEARNER.identity, 1000),)},
    "no shares": {"shares": ()},
    "another end": {"heads": bytes(range(32))},
}


@pytest.mark.parametrize("why", WRONG)
async def test_what_is_said_otherwise_than_the_evidence_does_not_hold(case: Case, why: str) -> None:
    cid, change = case.child(**WRONG[why])
    with pytest.raises(MalformedError):
        await case.proof.judge(cid, change)
    assert not [each for each in case.worker.asked if each[2]]


async def test_rounds_that_the_replicas_did_not_endorse_are_none(case: Case) -> None:
    data = tensors(0.6)
    strangers, _ = case.evidence(data, by=[ADA, BEN])
    cid, change = case.propose(case.model("child", data), data, evidence=strangers)
    with pytest.raises(MalformedError, match="endorse"):
        await case.proof.judge(cid, change)


@pytest.mark.parametrize("epoch", [0, 1000])
async def test_rounds_of_an_epoch_that_is_not_known_here_say_nothing(
    case: Case, epoch: int
) -> None:
    """... unless it has not begun."""
    data = tensors(0.6)
    other, _ = case.evidence(data, epoch=epoch)
    cid, change = case.propose(case.model("child", data), data, evidence=other)
    with pytest.raises(WrongCheckpointError if epoch else CheckFailedError):
        await case.proof.judge(cid, change)


async def test_a_child_that_its_rounds_did_not_make_does_not_hold(case: Case) -> None:
    """Somebody trained it at home, and shows the evidence of others' work."""
    cid, change = case.propose(case.model("child", tensors(0.9)), tensors(0.6))
    with pytest.raises(WrongCheckpointError, match="not what rounds made"):
        await case.proof.judge(cid, change)


@pytest.mark.parametrize(
    ("config", "data", "more"),
    [
        (b'{"model_type": "other"}', tensors(0.6), {}),
        (CONFIG, tensors(0.6, name="v"), {}),
        (CONFIG, tensors(0.6) + b"", {"tokenizer.json": b"{}"}),
        (CONFIG, make_safetensors_header([("w", "F32", [2, 8])], align=8) + bytes(64), {}),
        (CONFIG, make_safetensors_header([("w", "I32", [16])], align=8) + bytes(64), {}),
    ],
    ids=["config", "name", "tokenizer", "shape", "type"],
)
async def test_only_the_values_of_tensors_may_be_other(
    case: Case, config: bytes, data: bytes, more: dict[str, bytes]
) -> None:
    cid, change = case.propose(case.model("child", data, config, **more), data)
    with pytest.raises(WrongCheckpointError):
        await case.proof.judge(cid, change)


async def test_what_is_no_model_is_no_child(case: Case) -> None:
    cid, change = case.propose(case.evaluation, tensors(0.6))
    with pytest.raises(WrongCheckpointError):
        await case.proof.judge(cid, change)


async def test_a_child_may_take_as_much_room_as_its_parent(case: Case) -> None:
    cid, change = case.child()
    await case.proof.judge(cid, change)
    size = sum(path.stat().st_size for path in (case.folder / "parent").iterdir())
    assert case.holders.rooms[change.manifest] == size + module.SMALL
    assert case.holders.rooms[change.evidence] == module.SMALL


async def test_a_child_that_makes_no_model_does_not_hold(case: Case) -> None:
    case.worker.bad = CHILD
    with pytest.raises(BrokenModelError):
        await case.proof.judge(*case.child())


@pytest.mark.parametrize("error", [NotInstalledError("no torch"), BadModelError("not here")])
async def test_whoever_cannot_evaluate_says_nothing(case: Case, error: Exception) -> None:
    cid, change = case.child()
    case.worker.error = error
    with pytest.raises(CheckFailedError):
        await case.proof.judge(cid, change)


async def test_what_cannot_be_had_is_asked_for_again(case: Case) -> None:
    cid, change = case.child()
    case.holders.lacks = change.manifest
    with pytest.raises(ArtefactUnavailableError):
        await case.proof.judge(cid, change)


async def test_when_the_head_has_moved_there_is_nothing_to_judge(case: Case) -> None:
    cid, change = case.child()
    data = tensors(0.7)
    other, second = case.propose(case.model("another", data), data, shares=())
    find(case.book, other, dict.fromkeys(MEMBERS, Interval(9000, 9000, 9000)))
    ends(case.book)
    assert case.book.state.head_of(case.parent) == second.manifest
    with pytest.raises(CheckFailedError, match="gone on"):
        await case.proof.judge(cid, change)


async def test_a_private_text_finds_out_what_was_learned_by_heart(case: Case) -> None:
    case.probe = case.folder / "mine.txt"
    case.probe.write_bytes(TEXT)
    cid, change = case.child()
    assert (await case.proof.judge(cid, change)).holds
    case.worker.forgets[str(case.probe)] = 0.2
    found = await case.proof.judge(cid, change)
    assert not found.holds
    assert found.interval.low > 0


def test_the_private_text_is_the_one_that_the_config_names(case: Case) -> None:
    for named, expected in (("", None), ("/home/me/mine.txt", Path("/home/me/mine.txt"))):
        made = node._proof(
            Config(training=TrainingConfig(probe=named)),
            cast(Any, SimpleNamespace(training=case.folder)),
            case.store,
            cast(Any, case.holders),
            cast(Any, case.worker),
            ledger=cast(Any, SimpleNamespace(ledger=case.book.state)),
            training=cast(Any, SimpleNamespace(places=SimpleNamespace(groups=None))),
        )
        assert made is not None
        assert made._probe == expected


async def test_two_checkpoints_are_judged_one_after_the_other(case: Case) -> None:
    data = tensors(0.7)
    pairs = [case.child(0.6), case.propose(case.model("another", data), data)]
    proof = case.proof
    found: dict[bytes, Any] = {}

    async def judge(cid: bytes, change: CheckpointChange) -> None:
        found[cid] = await proof.judge(cid, change)

    async with trio.open_nursery() as nursery:
        for pair in pairs:
            nursery.start_soon(judge, *pair)
    means = [found[cid].interval.mean for cid, _ in pairs]
    assert means == [pytest.approx(100_000, abs=2), pytest.approx(200_000, abs=2)]


async def test_what_a_judgement_before_left_open_is_not_taken_for_the_child(case: Case) -> None:
    case.worker.open[CHILD] = 9.0
    case.worker.open[PARENT] = 9.0
    found = await case.proof.judge(*case.child(0.4))
    assert found.interval.mean == pytest.approx(-100_000, abs=2)


async def test_an_evaluation_set_of_several_files_is_not_the_childs_fault(tmp_path: Path) -> None:
    case = Case(tmp_path)
    paths = [tmp_path / name for name in ("a.txt", "b.txt")]
    for path in paths:
        path.write_bytes(TEXT)
    opened(case.book, "two files", model=case.parent, evaluation=case.dataset("two", *paths))
    with pytest.raises(CheckFailedError, match="evaluation set"):
        await case.proof.judge(*case.child())
    case.store.close()


# -- as the examiner has it ----------------------------------------------------------------------


async def examined(
    case: Case, proof: Proof | None, cid: bytes, change: CheckpointChange
) -> list[Any]:
    found: list[Any] = []
    looks = Examiner(cast(Any, case.holders), lambda *said: found.append(said), proof=proof)
    manifest = ProposalManifest(
        title="t", description="", author=ADA.identity, depends_on=(), change=change
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(looks.run)
        looks.ask(Examine(cid, manifest))
        await trio.testing.wait_all_tasks_blocked(0.5)
        nursery.cancel_scope.cancel()
    return found


async def test_the_examiner_passes_the_interval_on(case: Case) -> None:
    cid, change = case.child()
    ((proposal, holds, interval),) = await examined(case, case.proof, cid, change)
    assert (proposal, holds) == (cid, True)
    assert interval.low > 0


async def test_a_child_that_is_not_what_it_says_gets_a_verdict_at_once(case: Case) -> None:
    cid, change = case.child(shares=())
    assert await examined(case, case.proof, cid, change) == [(cid, False)]


async def test_a_member_without_a_worker_says_nothing(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examiner_module, "TRIES_OPEN", 1)
    cid, change = case.child()
    assert await examined(case, None, cid, change) == []
    case.worker.error = NotInstalledError("no torch")
    assert await examined(case, case.proof, cid, change) == []
