"""Pulls between real stores with another implementation of `tile_assignment` in force."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from msgspec.structs import astuple

from protocols.changes import CallLimits
from protocols.errors import SynapseError
from protocols.ledger.rollout import REFERENCE, Version
from protocols.slots.abi import Batch, Run
from protocols.slots.closed_list import SLOTS
from protocols.slots.tile_assignment import EVERYBODY, MAX_PEERS, NAME, SLOT
from protocols.slots.wasm_module import ModuleLimits
from protocols.tensors.blocks import Request
from protocols.tensors.tensorblock import SUBTILE
from synapsed.models import import_model
from synapsed.slots import NATIVE_SLOTS, Slots
from synapsed.transfer.crew import MAX_SESSIONS
from synapsed.transfer.progress import PullReport
from synapsed.upgrades.board import Board, Line, Outcome
from tests.jail_kit import jailed
from tests.slot_kit import OtherSlots, inverted
from tests.store_kit import check_store, model_folder
from tests.transfer_rig import End, Node, World, world

LEAVES = 64


@pytest.fixture
async def swarm(tmp_path: Path) -> AsyncIterator[World]:
    with trio.fail_after(60):
        async with world(tmp_path) as made:
            yield made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return model_folder(tmp_path / "model", {"big.weight": LEAVES * SUBTILE}, shards=1)


class House:
    """Two holders of a model, and a newcomer that knows both."""

    def __init__(self, swarm: World, folder: Path) -> None:
        self.one, self.other, self.newcomer = swarm.node(), swarm.node(), swarm.node()
        self.cid = import_model(self.one.store, folder, "made").cid
        assert import_model(self.other.store, folder, "made").cid == self.cid

    async def pull(self, slots: Slots, *holders: Node) -> PullReport:
        self.newcomer.knows(*(holders or (self.one, self.other)))
        self.newcomer.puller.slots = slots
        report = await self.newcomer.puller.pull(self.cid)
        check_store(self.newcomer.store)
        return report


def asked_of(node: Node) -> list[tuple[int, int]]:
    """The runs of the largest file that a node was asked for, in turn."""
    roots = [request.root for request in node.asked for _ in range(request.lo, request.hi)]
    largest = max(roots, key=roots.count)
    return [(request.lo, request.hi) for request in node.asked if request.root == largest]


async def test_the_order_of_another_version_is_the_order_in_which_chunks_are_asked_for(
    swarm: World, folder: Path
) -> None:
    def from_the_end(batch: Batch) -> None:
        SLOT.reference(batch)
        batch.answered("order", range(batch.rows[1], 0, -1))

    house = House(swarm, folder)
    slots = OtherSlots(NAME, from_the_end)
    await house.pull(slots, house.one)
    asked = asked_of(house.one)
    assert asked[0][1] == LEAVES + 1, "behind the header's sub-tile"
    starts = [lo for lo, _ in asked[:12]]  # until runs are cut smaller, near the end
    assert starts == sorted(starts, reverse=True)
    (operation,) = slots.operations
    assert operation.calls >= 1


async def test_whom_another_version_names_is_asked(swarm: World, folder: Path) -> None:
    """Everything is assigned to whichever peer is in the last row; the other only waits."""

    def all_of_the_last(batch: Batch) -> None:
        count, rows = batch.rows
        last = 1 << (count - 1) if count else 0
        batch.answered("order", range(rows))
        batch.answered("first", [last] * rows)
        batch.answered("second", [0] * rows)
        batch.answered("wait", [8] * rows)

    house = House(swarm, folder)
    await house.pull(OtherSlots(NAME, all_of_the_last))
    shares = sorted((house.one.sent_leaves, house.other.sent_leaves))
    assert sum(shares) >= LEAVES
    # But for what was asked of the first before the second was known.
    assert shares[0] <= LEAVES // 4


async def test_the_reference_asks_both(swarm: World, folder: Path) -> None:
    """What the test above is compared with."""
    house = House(swarm, folder)
    await house.pull(NATIVE_SLOTS)
    assert min(house.one.sent_leaves, house.other.sent_leaves) > LEAVES // 4


def nobody_ever(batch: Batch) -> None:
    for name in ("order", "first", "second"):
        batch.answered(name, [0] * batch.rows[1])
    batch.answered("wait", [1 << 60] * batch.rows[1])


def rubbish(batch: Batch) -> None:
    for name, column in (("order", -1), ("first", -(1 << 63)), ("second", (1 << 63) - 1)):
        batch.answered(name, [column] * batch.rows[1])
    batch.answered("wait", [-5] * batch.rows[1])


@pytest.mark.parametrize(
    "run", [nobody_ever, rubbish, inverted(SLOT, "order", "first", "second", "wait")]
)
async def test_no_answer_however_bad_stops_a_pull(
    swarm: World, folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("protocols.transfer.schedule.PATIENCE", 0.05)
    monkeypatch.setattr("protocols.transfer.schedule.MIN_PATIENCE", 0.005)
    house = House(swarm, folder)
    report = await house.pull(OtherSlots(NAME, run))
    assert report.fetched >= LEAVES * SUBTILE


async def test_an_answer_that_never_comes_is_the_references(
    swarm: World, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("synapsed.transfer.ordering.ANSWER_SECONDS", 0.1)

    async def never(_batch: Batch) -> None:
        await trio.sleep_forever()

    house = House(swarm, folder)
    slots = OtherSlots(NAME, never)
    await house.pull(slots)
    (operation,) = slots.operations
    assert operation.calls <= 2


async def test_a_slow_answer_is_used_when_it_comes(swarm: World, folder: Path) -> None:
    """Peers come, speak and are asked meanwhile; the pull is no different in the end."""

    async def slow(batch: Batch) -> None:
        await trio.sleep(0.05)
        SLOT.reference(batch)

    house = House(swarm, folder)
    slots = OtherSlots(NAME, slow)
    report = await house.pull(slots)
    assert report.copies == 0
    assert slots.operations[0].calls >= 1


async def test_a_pulls_speed_is_what_its_operation_achieved(swarm: World, folder: Path) -> None:
    house = House(swarm, folder)
    slots = OtherSlots(NAME, SLOT.reference)
    report = await house.pull(slots)
    (operation,) = slots.operations
    (achieved,) = operation.all_achieved
    # Of the seconds in which leaves were asked for, which are not all of the pull's.
    assert achieved >= report.fetched / report.seconds
    await house.pull(slots)
    assert slots.operations[1].all_achieved == [], "nothing came: nothing is known"


async def test_a_pull_that_is_given_up_was_slow(swarm: World, folder: Path) -> None:
    house = House(swarm, folder)
    slots = OtherSlots(NAME, SLOT.reference)

    async def dies(node: Node, _end: End, _request: Request) -> bool:
        if len(node.asked) > 4:
            node.cut()
        return False

    house.one.bend = dies
    async with trio.open_nursery() as nursery:
        nursery.start_soon(house.pull, slots, house.one)
        while house.one.reachable:
            await trio.sleep(0.01)
        await trio.sleep(1.0)  # in vain, and it counts
        nursery.cancel_scope.cancel()
    (achieved,) = slots.operations[0].all_achieved
    assert 0 < achieved < LEAVES * SUBTILE


FROM_THE_END = """
(module
  (memory (export "memory") 1 128)
  (func (export "reserve") (param $bytes i32) (result i32)
    (local $lack i32)
    (local.set $lack (i32.sub
      (i32.shr_u (i32.add (local.get $bytes) (i32.const 66559)) (i32.const 16)) (memory.size)))
    (if (i32.gt_s (local.get $lack) (i32.const 0)) (then (drop (memory.grow (local.get $lack)))))
    (i32.const 1024))
  (func (export "run") (param $block i32) (param $bytes i32) (result i32)
    (local $rows i32) (local $order i32) (local $at i32)
    (local.set $rows (i32.wrap_i64 (i64.load offset=32 (local.get $block))))
    (local.set $order (i32.sub (i32.add (local.get $block) (local.get $bytes))
      (i32.mul (local.get $rows) (i32.const 32))))
    (block $done (loop $next
      (br_if $done (i32.ge_u (local.get $at) (local.get $rows)))
      (i64.store (i32.add (local.get $order) (i32.shl (local.get $at) (i32.const 3)))
        (i64.extend_i32_u (i32.sub (local.get $rows) (local.get $at))))
      (i64.store (i32.add (local.get $order) (i32.shl
          (i32.add (local.get $rows) (local.get $at)) (i32.const 3)))
        (i64.const 4611686018427387903))
      (local.set $at (i32.add (local.get $at) (i32.const 1)))
      (br $next)))
    (i32.const 0)))
"""
"""Chunks in the opposite of their order, of anybody at once."""


async def test_a_module_in_the_jail_orders_a_real_pull(swarm: World, folder: Path) -> None:
    house = House(swarm, folder)
    with jailed(swarm.folder / "jail") as (jail, told_of_jail):
        module = await jail.compile(await jail.wat(FROM_THE_END.encode()), ModuleLimits())
        board = Board(SLOTS, told_of_jail)
        board.jail = jail
        limits = CallLimits(*astuple(SLOT.limits))
        version = Version(1, module, 0, SLOT.abi, limits, b"", b"", 1)
        board.lines[NAME] = Line(SLOT, (version, REFERENCE))
        told = Told()
        board.watcher = told
        await house.pull(board, house.one)
    starts = [lo for lo, _ in asked_of(house.one)[:12]]
    assert starts == sorted(starts, reverse=True)
    assert told
    assert {outcome.answered for outcome in told} == {version}


class Told(list[Outcome]):
    """A board's watcher."""

    def failed(self, line: Line, version: Version, error: SynapseError) -> None:
        raise AssertionError(error)

    def called(self, outcome: Outcome) -> None:
        self.append(outcome)

    def achieved(self, line: Line, *, candidate: bool, value: int) -> None:
        raise AssertionError("nothing is tried")


def test_masks_have_a_bit_for_all_that_a_pull_asks() -> None:
    assert MAX_SESSIONS <= MAX_PEERS
    assert EVERYBODY.bit_length() == MAX_PEERS
