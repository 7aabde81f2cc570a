"""`upgrade check` on modules of which we know what they are.

100 that answer as the module in force does, and cost no more: rewritten WAT, and modules of every
compiler that is here with harmless things grafted onto them. 50 that cost 10 % more fuel in all,
spread in various ways, and 50 that are wrong on one row in 10,000, by what the rows hold or by how
often they were asked. Each check runs as a council member's does, with a seed that nobody knows.

What each check found is kept until all are done: a bench that was ended goes on where it was.
"""

import hashlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import trio

from protocols.draw import Draw
from protocols.slots.abi import Batch, Slot
from protocols.slots.closed_list import SLOTS
from protocols.slots.wasm_module import ModuleLimits
from synapsed.authoring import build
from synapsed.authoring.languages import LANGUAGES
from synapsed.authoring.layout import places
from synapsed.authoring.question import Checked, Question
from synapsed.authoring.tools import MissingToolError
from synapsed.authoring.verdict import check_apart
from synapsed.jail.jail import Jail
from tests.bench import graft, watforms
from tests.bench.graft import CALL, DONE, LOCALS, burn, cell, each_row, hashed

REACH = {"false_alarms": "<= 3", "misses": "0"}

EXAMPLES = Path("examples/upgrades")
KEPT = Path("bench-out") / "check-judged.json"
CODE = ("protocols", "synapsed/authoring", "synapsed/jail", "synapsed/jailworker", "tests/bench")
"""What a check's outcome depends on: where that has changed, nothing that was kept counts."""
EQUAL, DEAR, WRONG = 100, 50, 50
ONE_IN = 10_000
DEARER = 1.10
"""Times the fuel, in all."""
AS_CHEAP = 1.02
AT_ONCE = 2
SAMPLE_BATCHES = 24
"""Batches that fuel is measured on here, of the sizes that a check has."""


class Base(msgspec.Struct, frozen=True):
    """A module in force."""

    language: str
    slot: Slot
    module: bytes
    text: str


class Planted(msgspec.Struct, frozen=True):
    """A module, and what a check should find of it."""

    name: str
    base: Base
    module: bytes
    expected: frozenset[str]
    """Any of these; none where it is sound."""
    incumbent: bytes


class Judged(msgspec.Struct, frozen=True):
    """What a check said of one of them."""

    codes: frozenset[str]
    seconds: float
    told: str


class Kept(msgspec.Struct):
    """What is judged already, by the module and the one that it was held against."""

    code: str
    judged: dict[str, Judged]


def measure(say: Callable[[str], None]) -> dict[str, Any]:
    """All 200."""
    return trio.run(_measure, say)


async def _measure(say: Callable[[str], None]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        jail = Jail(Path(folder), lambda *_, **__: None, allow_weaker=True)
        try:
            bases = await _bases(jail)
            say(f"built {', '.join(f'{each.slot.name} in {each.language}' for each in bases)}")
            draw = Draw(b"bench check")
            planted = await _plant(bases, jail, draw)
        finally:
            jail.close()
    say(f"made {len(planted)} modules")
    return await _judged(planted, say) | {
        "languages": len({each.language for each in bases}),
        "slots": len({each.slot.name for each in bases}),
    }


async def _bases(jail: Jail) -> list[Base]:
    """The examples of each language that has its compiler here; WAT needs none."""
    found = []
    for language in LANGUAGES.values():
        for source in sorted(EXAMPLES.glob(f"*/*{language.suffix}")):
            slot = SLOTS[source.stem]
            try:
                built, module, text = await build.build(source, slot, jail)
            except MissingToolError:
                continue
            found.append(Base(built.language, slot, module, text.decode()))
    return found


async def _judged(planted: list[Planted], say: Callable[[str], None]) -> dict[str, Any]:
    false_alarms = misses = 0
    seconds: list[float] = []
    kept = _kept()
    places_ = trio.CapacityLimiter(AT_ONCE)

    async def judge(each: Planted) -> None:
        nonlocal false_alarms, misses
        name = hashlib.sha256(each.module + each.incumbent).hexdigest()
        async with places_:
            found = kept.judged.get(name)
            if found is None:
                found = kept.judged[name] = await _judge(each)
                KEPT.parent.mkdir(exist_ok=True)
                KEPT.write_bytes(msgspec.json.encode(kept))
        if not each.expected:
            seconds.append(found.seconds)
            if found.codes:
                false_alarms += 1
                say(f"false alarm: {each.name}: {found.told}")
        elif not found.codes & each.expected:
            misses += 1
            say(f"missed: {each.name}: {found.told}")

    async with trio.open_nursery() as nursery:
        for each in planted:
            nursery.start_soon(judge, each)
    KEPT.unlink(missing_ok=True)
    return {
        "false_alarms": false_alarms,
        "misses": misses,
        "equal": sum(not each.expected for each in planted),
        "planted": sum(bool(each.expected) for each in planted),
        "median_s": round(sorted(seconds)[len(seconds) // 2], 2),
    }


async def _judge(each: Planted) -> Judged:
    question = Question(
        slot=each.base.slot.name,
        module=each.module,
        limits=each.base.slot.limits,
        incumbent=each.incumbent,
        timing=False,
        hasty=True,
    )
    checked = await check_apart(question, allow_weaker=True)
    codes = frozenset(finding.code for finding in checked.findings if finding.decides)
    return Judged(codes, checked.seconds, _told(checked))


def _kept() -> Kept:
    files = sorted(path for folder in CODE for path in Path(folder).rglob("*.py"))
    code = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
    if KEPT.exists():
        found = msgspec.json.decode(KEPT.read_bytes(), type=Kept)
        if found.code == code:
            return found
    return Kept(code, {})


def _told(checked: Checked) -> str:
    said = "; ".join(finding.text for finding in checked.findings) or "nothing found"
    return f"{said} (seed {checked.seed})"


# -- modules ---------------------------------------------------------------------------------


async def _plant(bases: list[Base], jail: Jail, draw: Draw) -> list[Planted]:
    found = []
    for number in range(EQUAL):
        base = bases[number % len(bases)]
        found.append(await _equal(base, jail, draw, number, {each.module for each in found}))
    for number in range(DEAR):
        base = bases[number % len(bases)]
        name, way = DEAR_WAYS[number // len(bases) % len(DEAR_WAYS)]
        module = await _dearer(base, jail, way, {each.module for each in found})
        title = f"{number}: {base.slot.name} in {base.language}, {name}"
        found.append(Planted(title, base, module, frozenset({"dearer"}), base.module))
    for number in range(WRONG):
        base = bases[number % len(bases)]
        name, way = WRONG_WAYS[number // len(bases) % len(WRONG_WAYS)]
        body = way(base.slot, draw)
        module = await graft.graft(base.module, f"{LOCALS} {CALL} {body} {DONE}", jail)
        title = f"{number}: {base.slot.name} in {base.language}, {name}"
        incumbent = base.module if draw.chance(1, 2) else b""
        expected = frozenset({"wrong", "remembers"})
        found.append(Planted(title, base, module, expected, incumbent))
    return found


async def _equal(base: Base, jail: Jail, draw: Draw, number: int, known: set[bytes]) -> Planted:
    """One of other bytes than all that are known, which costs at most AS_CHEAP."""
    while True:
        if base.language == "wat":
            name = "rewritten"
            module = await jail.wat(watforms.another(base.text, draw).encode())
        else:
            name, way = EQUAL_WAYS[draw.integer(0, len(EQUAL_WAYS) - 1)]
            body = way(base.slot, draw)
            module = await graft.graft(base.module, f"{LOCALS} {body}", jail)
        if module not in known | {base.module} and await _ratio(base, module, jail) <= AS_CHEAP:
            title = f"{number}: {base.slot.name} in {base.language}, {name}"
            return Planted(title, base, module, frozenset(), base.module)


async def _dearer(
    base: Base, jail: Jail, way: Callable[[Slot, int], str], known: set[bytes]
) -> bytes:
    """With the least in vain that costs DEARER times the fuel, and is not among the known."""

    async def made(amount: int) -> tuple[bytes, bool]:
        body = f"{LOCALS} {way(base.slot, amount)}"
        module = await graft.graft(base.module, body, jail)
        return module, await _ratio(base, module, jail) >= DEARER

    low, high = 0, 1
    while not (await made(high))[1]:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if (await made(middle))[1] else (middle, high)
    while (module := (await made(high))[0]) in known:
        high += 1
    return module


async def _ratio(base: Base, module: bytes, jail: Jail) -> float:
    """Fuel of a module over the base's, on batches of its own."""
    if base.module not in _taken:
        _taken[base.module] = await _fuel(base.slot, base.module, jail)
    return await _fuel(base.slot, module, jail) / _taken[base.module]


async def _fuel(slot: Slot, module: bytes, jail: Jail) -> int:
    name = await jail.compile(module, ModuleLimits())
    if slot.name not in _batches:
        draw = Draw(b"fuel")
        sizes = [draw.integer(0, (8, 64, 512, 4096)[at % 4]) for at in range(SAMPLE_BATCHES)]
        _batches[slot.name] = [slot.generate(draw, size) for size in sizes]
    total = 0
    for batch in _batches[slot.name]:
        placed = _placed(batch, jail)
        for fresh in (False, True):
            total += (await jail.call(name, placed, slot.limits, fresh=fresh)).fuel
    return total


_taken: dict[bytes, int] = {}
_batches: dict[str, list[Batch]] = {}


def _placed(batch: Batch, jail: Jail) -> Batch:
    room = jail.room(batch.block.nbytes)
    room[:] = batch.block.cast("B")
    return Batch(batch.slot, room)


# -- ways to be the same ---------------------------------------------------------------------


def _passes_on(slot: Slot, draw: Draw) -> str:
    del slot, draw
    return "(call $old (local.get $block) (local.get $bytes))"


def _counts(slot: Slot, draw: Draw) -> str:
    """It remembers how often it was asked, and makes nothing of it."""
    del slot
    step = draw.integer(1, 1000)
    return f"(global.set $state (i32.add (global.get $state) (i32.const {step}))) {CALL} {DONE}"


def _never(slot: Slot, draw: Draw) -> str:
    """It would do something else with a block that no batch has."""
    del slot
    size = draw.integer(1 << 28, 1 << 30) | 1
    return (
        f"(if (i32.eq (local.get $bytes) (i32.const {size})) (then (return (i32.const 5))))"
        f" {CALL} {DONE}"
    )


def _saturates(slot: Slot, draw: Draw) -> str:
    """Of the first row, it answers beyond the bounds where the bound is meant."""
    del draw
    place, column = places(slot)[1][0], slot.outputs[0]
    return f"""
    {CALL} {graft.rows(slot)}
    (if (local.get $rows)
      (then
        (local.set $cell {cell(slot, place)})
        (if (i64.eq (i64.load (local.get $cell)) (i64.const {column.most}))
          (then (i64.store (local.get $cell) (i64.const {(1 << 63) - 1}))))))
    {DONE}"""


EQUAL_WAYS: tuple[tuple[str, Callable[[Slot, Draw], str]], ...] = (
    ("passes on", _passes_on),
    ("counts", _counts),
    ("never happens", _never),
    ("saturates", _saturates),
)

# -- ways to be dear -------------------------------------------------------------------------


def _every_row(slot: Slot, amount: int) -> str:
    return f"{CALL} {each_row(slot, burn(amount))} {DONE}"


def _some_rows(slot: Slot, amount: int) -> str:
    """Those with the right bits in their first column."""
    place = next(each for each in places(slot)[0] if each.name.startswith(f"{slot.answers}_"))
    odd = f"(i64.eqz (i64.and (i64.load {cell(slot, place)}) (i64.const 7)))"
    return f"{CALL} {each_row(slot, f'(if {odd} (then {burn(amount)}))')} {DONE}"


def _every_call(slot: Slot, amount: int) -> str:
    del slot
    return f"{CALL} {burn(amount)} {DONE}"


def _first_call(slot: Slot, amount: int) -> str:
    """Only in an instance that was never asked before."""
    return f"""
    {CALL}
    (if (i32.eqz (global.get $state))
      (then (global.set $state (i32.const 1)) {each_row(slot, burn(amount))}))
    {DONE}"""


def _later_calls(slot: Slot, amount: int) -> str:
    """Only in one that was."""
    return f"""
    {CALL}
    (if (global.get $state) (then {each_row(slot, burn(amount))}))
    (global.set $state (i32.const 1))
    {DONE}"""


DEAR_WAYS: tuple[tuple[str, Callable[[Slot, int], str]], ...] = (
    ("every row", _every_row),
    ("some rows", _some_rows),
    ("every call", _every_call),
    ("first calls", _first_call),
    ("later calls", _later_calls),
)

# -- ways to be wrong ------------------------------------------------------------------------


def _rare(slot: Slot, draw: Draw, then: str) -> str:
    """For one row in ONE_IN, by all that it holds."""
    which = draw.integer(0, ONE_IN - 1)
    hit = f"(i64.eq (i64.rem_u (local.get $hash) (i64.const {ONE_IN})) (i64.const {which}))"
    return each_row(slot, f"{hashed(slot)} (if {hit} (then {then}))")


def _output(slot: Slot, draw: Draw) -> str:
    found = places(slot)[1]
    return cell(slot, found[draw.integer(0, len(found) - 1)])


def _one_more(slot: Slot, draw: Draw) -> str:
    at = _output(slot, draw)
    return _rare(slot, draw, f"(i64.store {at} (i64.xor (i64.load {at}) (i64.const 1)))")


def _another_sign(slot: Slot, draw: Draw) -> str:
    at = _output(slot, draw)
    return _rare(slot, draw, f"(i64.store {at} (i64.xor (i64.load {at}) (i64.const -1)))")


def _by_place(slot: Slot, draw: Draw) -> str:
    """By the row's number and how many there are, whatever it holds."""
    at = _output(slot, draw)
    which = draw.integer(0, ONE_IN - 1)
    mixed = (
        "(i32.rem_u (i32.mul (i32.add (i32.mul (local.get $rows) (i32.const 40503))"
        f" (local.get $at)) (i32.const 0x9E3779B1)) (i32.const {ONE_IN}))"
    )
    wrong = f"(i64.store {at} (i64.xor (i64.load {at}) (i64.const 1)))"
    return each_row(slot, f"(if (i32.eq {mixed} (i32.const {which})) (then {wrong}))")


def _by_count(slot: Slot, draw: Draw) -> str:
    """Every ONE_INth row that an instance answers."""
    at = _output(slot, draw)
    wrong = f"(i64.store {at} (i64.xor (i64.load {at}) (i64.const 1)))"
    return each_row(
        slot,
        "(global.set $state (i32.add (global.get $state) (i32.const 1)))"
        f"(if (i32.eqz (i32.rem_u (global.get $state) (i32.const {ONE_IN}))) (then {wrong}))",
    )


WRONG_WAYS: tuple[tuple[str, Callable[[Slot, Draw], str]], ...] = (
    ("a bit by its values", _one_more),
    ("all bits by its values", _another_sign),
    ("by its place", _by_place),
    ("by the count of rows", _by_count),
)
