"""Whether what a proposal is about can be had: fetched, of the stated kind, and told in the end."""

from typing import Any, cast

import msgspec
import pytest
import trio
import trio.testing

from protocols.changes import AdoptionChange
from protocols.cid import cid_of
from protocols.council.errands import Examine
from protocols.manifest import (
    DatasetManifest,
    FileRef,
    ModelManifest,
    ProposalManifest,
    encode_manifest,
)
from synapsed.control.problems import ArtefactUnavailableError
from synapsed.ledger.awaited import SOON_S
from synapsed.ledger.examiner import (
    AGAIN_S,
    AT_ONCE,
    MAX_SIZE,
    PATIENCE_S,
    SAMPLE,
    TRIES,
    TRIES_SOON,
    Examiner,
    WrongKindError,
)
from synapsed.models import NotAModelManifestError
from synapsed.transfer.errors import PullFailedError
from synapsed.transfer.limits import Room
from synapsed.transfer.plan import Part
from tests.ledger_kit import identity
from tests.training_book import training

FILE = FileRef(path="model.safetensors", size=1 << 20, root=b"r" * 32, layout="safetensors")
MODEL = encode_manifest(ModelManifest(name="m", description="", files=(FILE,), depends_on=()))
TEXT = encode_manifest(
    ProposalManifest(title="t", description="", author=identity(9).peer_id, depends_on=())
)


class Holders:
    """A puller whose peers have some blocks, and files of some of them."""

    def __init__(self, *blocks: bytes, tiles: int = 100) -> None:
        self.blocks = {cid_of(block): block for block in blocks}
        self.lacks_files = False
        self.tiles = tiles
        self.pulled: list[tuple[bytes, Part | None]] = []
        self.store = self
        self.slow = 0.0
        self.size = 0

    def get_block(self, cid: bytes) -> bytes:
        return self.blocks[cid]

    async def learn(self, cid: bytes, *, room: Room) -> tuple[int, int]:
        await trio.sleep(self.slow)
        if cid not in self.blocks:
            raise PullFailedError("the manifest cannot be had", {})
        if self.blocks[cid] != MODEL:
            raise NotAModelManifestError("another kind")
        return self.tiles, 1 << 20

    async def pull(self, cid: bytes, part: Part | None = None, *, room: Room | None = None) -> None:
        await trio.lowlevel.checkpoint()
        assert room is not None
        self.pulled.append((cid, part))
        room.take(self.size)
        if self.lacks_files:
            raise PullFailedError("nobody has the tiles", {})


def examiner(holders: Holders) -> tuple[Examiner, list[tuple[bytes, bool]]]:
    found: list[tuple[bytes, bool]] = []
    return Examiner(cast(Any, holders), lambda cid, holds: found.append((cid, holds))), found


def about(block: bytes, what: Any = "model", **more: Any) -> ProposalManifest:
    fields: dict[str, Any] = {
        "title": "t",
        "description": "",
        "author": identity(1).peer_id,
        "depends_on": (),
        "change": AdoptionChange(what=what, manifest=cid_of(block)),
    }
    return ProposalManifest(**(fields | more))


async def test_of_a_model_some_tiles_are_fetched_and_of_anything_else_all() -> None:
    holders = Holders(MODEL, TEXT)
    looks, _ = examiner(holders)
    await looks.look(about(MODEL, depends_on=(cid_of(TEXT),)))
    (model, part), (other, whole) = holders.pulled
    assert (model, other, whole) == (cid_of(MODEL), cid_of(TEXT), None)
    assert part is not None
    assert len(part.tiles) == SAMPLE
    assert all(0 <= start < 100 and count == 1 for start, count in part.tiles)


async def test_what_nobody_has_and_what_is_something_else_are_told_apart() -> None:
    looks, _ = examiner(Holders(MODEL))
    with pytest.raises(ArtefactUnavailableError, match="cannot be fetched"):
        await looks.look(about(TEXT))
    with pytest.raises(WrongKindError, match="adapter"):
        await looks.look(about(MODEL, "adapter"))
    holders = Holders(MODEL)
    holders.lacks_files = True
    looks, _ = examiner(holders)
    with pytest.raises(ArtefactUnavailableError):
        await looks.look(about(MODEL))


async def test_a_member_says_no_only_after_several_looks(
    nursery: Any, autojump_clock: trio.testing.MockClock
) -> None:
    holders = Holders()
    looks, found = examiner(holders)
    nursery.start_soon(looks.run)
    looks.ask(Examine(b"one", about(MODEL)))
    await trio.sleep(AGAIN_S * (TRIES - 1) - 1)
    assert found == []
    await trio.sleep(2)
    assert found == [(b"one", False)]


async def test_holders_who_come_back_are_found(
    nursery: Any, autojump_clock: trio.testing.MockClock
) -> None:
    holders = Holders()
    looks, found = examiner(holders)
    nursery.start_soon(looks.run)
    looks.ask(Examine(b"one", about(MODEL)))
    looks.ask(Examine(b"two", about(MODEL, "kernel")))
    await trio.sleep(1)
    holders.blocks[cid_of(MODEL)] = MODEL
    with trio.fail_after(3 * AGAIN_S):
        while len(found) < 2:
            await trio.sleep(1)
    assert sorted(found) == [(b"one", True), (b"two", False)]


async def test_what_somebody_offers_is_looked_at_soon_and_not_when_its_turn_comes(
    autojump_clock: trio.testing.MockClock,
) -> None:
    holders = Holders()
    looking, found = examiner(holders)
    question = Examine(b"p" * 36, about(MODEL))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(looking.run)
        looking.ask(question)
        await trio.sleep(10)
        looking.offered(cid_of(TEXT))  # of something else
        for _ in range(5):
            looking.offered(cid_of(MODEL))  # which cannot be had yet
            await trio.sleep(2 * SOON_S)
        assert found == []  # so many looks in vain are no verdict
        holders.blocks[cid_of(MODEL)] = MODEL
        looking.offered(cid_of(MODEL))
        began = trio.current_time()
        while not found:
            await trio.sleep(0.1)
        assert trio.current_time() - began < 2 * SOON_S
        nursery.cancel_scope.cancel()
    assert found == [(b"p" * 36, True)]


async def test_offers_in_vain_do_not_put_a_verdict_off_for_ever(
    autojump_clock: trio.testing.MockClock,
) -> None:
    looking, found = examiner(Holders())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(looking.run)
        looking.ask(Examine(b"p" * 36, about(MODEL)))
        with trio.fail_after(TRIES_SOON * (SOON_S + 1) + TRIES * AGAIN_S):
            while not found:
                looking.offered(cid_of(MODEL))
                await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert found == [(b"p" * 36, False)]


async def test_one_proposal_costs_no_more_than_its_budget_however_much_it_links(
    nursery: Any, autojump_clock: trio.testing.MockClock
) -> None:
    texts = [_text(str(number)) for number in range(60)]
    holders = Holders(*texts)
    holders.slow, holders.size = 100.0, MAX_SIZE // 50
    looks, found = examiner(holders)
    nursery.start_soon(looks.run)
    looks.ask(Examine(b"greedy", about(TEXT, depends_on=tuple(map(cid_of, texts)))))
    began = trio.current_time()
    with trio.fail_after(10 * PATIENCE_S):
        while not found:
            await trio.sleep(1)
    assert found == [(b"greedy", False)]
    assert trio.current_time() - began < PATIENCE_S + TRIES * (AGAIN_S + 1) + holders.slow
    assert len(holders.pulled) * holders.size <= MAX_SIZE


async def test_slow_holders_hold_up_one_place_only(
    nursery: Any, autojump_clock: trio.testing.MockClock
) -> None:
    slow, quick = Holders(MODEL), Holders(MODEL)
    slow.slow = 10 * PATIENCE_S
    looks, found = examiner(slow)
    nursery.start_soon(looks.run)
    for number in range(AT_ONCE - 1):
        looks.ask(Examine(b"slow %d" % number, about(MODEL)))
    await trio.sleep(1)
    looks._puller = cast(Any, quick)
    looks.ask(Examine(b"quick", about(MODEL)))
    with trio.fail_after(PATIENCE_S):
        while not found:
            await trio.sleep(1)
    assert found == [(b"quick", True)]


def _text(title: str) -> bytes:
    return encode_manifest(
        ProposalManifest(title=title, description="", author=identity(9).peer_id, depends_on=())
    )


async def test_a_training_is_of_a_model_by_a_dataset() -> None:
    data = encode_manifest(
        DatasetManifest(name="d", description="", files=(msgspec.structs.replace(FILE, path="t"),))
    )
    looks, _ = examiner(Holders(MODEL, data))
    good = training(model=cid_of(MODEL), evaluation=cid_of(data))
    await looks.look(about(MODEL, change=good))
    for wrong in (
        training(model=cid_of(data), evaluation=cid_of(MODEL)),
        training(model=cid_of(MODEL), evaluation=cid_of(TEXT)),
    ):
        looks, _ = examiner(Holders(MODEL, data, TEXT))
        with pytest.raises(WrongKindError):
            await looks.look(about(MODEL, change=wrong))
