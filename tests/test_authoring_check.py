"""`upgrade check`: what it finds, what it lets pass, and that it says the same to everybody."""

import msgspec
import pytest

from protocols.draw import Draw
from protocols.manifest import Benchmark
from protocols.slots.abi import Batch
from protocols.slots.closed_list import SLOTS
from synapsed.authoring import check as checking
from synapsed.authoring import pairs, recorded, sample, verdict
from synapsed.authoring.check import NoSlotError, check
from synapsed.authoring.question import Checked, CheckFailedError, Finding, Timing, stricter
from synapsed.authoring.recorded import NoRecordingsError
from synapsed.authoring.verdict import check_apart
from synapsed.jail.errors import JailDiedError, JailRestingError, ModuleTrapError
from synapsed.jail.jail import Jail
from tests.authoring_kit import WAT, a_jail, question
from tests.bench import graft, watforms
from tests.bench.check import DEAR_WAYS, EQUAL_WAYS, WRONG_WAYS
from tests.bench.graft import CALL, DONE, LOCALS, burn, cell, each_row

SLOT = SLOTS["peer_scoring"]
KEEP = sample.answered(SLOT) and graft.places(SLOT)[1][0]


@pytest.fixture
async def jail(tmp_path):
    async with a_jail(tmp_path / "jail") as jail:
        yield jail


async def base(jail: Jail, slot: str = "peer_scoring") -> bytes:
    """The example in WAT."""
    return await jail.wat((WAT.parent / f"{slot}.wat").read_bytes())


async def grafted(jail: Jail, body: str, slot: str = "peer_scoring") -> bytes:
    """The example with something around its `run`."""
    return await graft.graft(await base(jail, slot), f"{LOCALS} {body}", jail)


def codes(checked: Checked) -> set[str]:
    """What was found."""
    return {finding.code for finding in checked.findings}


# -- what passes -----------------------------------------------------------------------------


async def test_a_module_that_equals_the_reference_passes(jail):
    found = await check(question(await base(jail)), jail)
    assert found.passed
    assert found.sound
    assert found.rows >= 5_000
    assert found.disagreements == 0
    assert found.fuel[-1].module > 100 * found.rows


@pytest.mark.parametrize("number", range(4))
async def test_the_same_in_other_words_passes_beside_it(jail, number):
    incumbent = await base(jail)
    module = await jail.wat(watforms.another(WAT.read_text(), Draw(bytes([number]))).encode())
    assert module != incumbent
    found = await check(question(module, incumbent=incumbent), jail)
    assert found.findings == ()
    assert 0.9 < found.fuel[-1].ratio <= 1.05


@pytest.mark.parametrize(("name", "way"), EQUAL_WAYS)
async def test_harmless_habits_pass(jail, name, way):
    module = await grafted(jail, way(SLOT, Draw(name.encode())))
    found = await check(question(module, incumbent=await base(jail)), jail)
    assert found.findings == ()


# -- what does not ---------------------------------------------------------------------------


@pytest.mark.parametrize(("slot", "way"), list(zip(SLOTS, WRONG_WAYS, strict=True)))
async def test_wrong_on_one_row_in_ten_thousand_is_found(jail, slot, way):
    """Wherever it is, with the rows that a verdict takes and a seed that nobody chose."""
    name, body = way
    wrong = f"{CALL} {body(SLOTS[slot], Draw(name.encode()))} {DONE}"
    module = await grafted(jail, wrong, slot)
    found = await check(question(module, slot, rows=200_000, seed="", hasty=True), jail)
    assert codes(found) & {"wrong", "remembers"}
    assert not found.sound
    assert "batch" in found.findings[0].text


@pytest.mark.parametrize(("name", "way"), DEAR_WAYS)
async def test_a_tenth_more_fuel_is_found(jail, name, way):
    low = {"every row": 1, "some rows": 8, "every call": 2_000, "first calls": 5}
    module = await grafted(jail, way(SLOT, low.get(name, 5)))
    found = await check(question(module, incumbent=await base(jail)), jail)
    assert codes(found) == {"dearer"}
    assert "times the fuel" in found.findings[0].text


async def test_a_tenth_more_for_few_rows_alone_is_found(jail):
    """Where it vanishes in the sum over batches of all sizes."""
    body = f"{CALL} (if (i32.lt_u (local.get $bytes) (i32.const 1000)) (then {burn(60)})) {DONE}"
    found = await check(question(await grafted(jail, body), incumbent=await base(jail)), jail)
    assert codes(found) == {"dearer"}
    assert found.fuel[-1].ratio < 1.01
    assert "batches of 0 to 15 rows" in found.findings[0].text


async def test_a_number_that_stands_in_the_code_is_tried(jail):
    """A back door: one value of one column, which no generator would hit."""
    column = next(each for each in graft.places(SLOT)[0] if each.name == "peers_useful")
    door = f"(i64.eq (i64.load {cell(SLOT, column)}) (i64.const 873264872364))"
    wrong = f"(i64.store {cell(SLOT, KEEP)} (i64.const 1000000000))"
    body = f"{CALL} {each_row(SLOT, f'(if {door} (then {wrong}))')} {DONE}"
    found = await check(question(await grafted(jail, body)), jail)
    assert codes(found) == {"wrong"}
    assert "planted batch" in found.findings[0].text


async def test_a_row_that_is_left_as_it_was_is_found(jail):
    body = "(i32.const 0)"
    found = await check(question(await grafted(jail, body)), jail)
    assert "wrong" in codes(found)


async def test_a_module_that_tires_is_found(jail):
    """Right in three hundred calls, and wrong in the next."""
    wrong = f"(if (local.get $rows) (then (i64.store {cell(SLOT, KEEP)} (i64.const 5))))"
    body = f"""
    (global.set $state (i32.add (global.get $state) (i32.const 1)))
    {CALL} {graft.rows(SLOT)}
    (if (i32.gt_u (global.get $state) (i32.const 300)) (then {wrong}))
    {DONE}"""
    found = await check(question(await grafted(jail, body), rows=20_000), jail)
    assert "remembers" in codes(found)


async def test_a_module_that_grows_slow_is_found(jail):
    """Each call costs a little more than the one before."""
    body = f"""
    (global.set $state (i32.add (global.get $state) (i32.const 1)))
    (local.set $left (global.get $state))
    (block $out
      (loop $burning
        (br_if $out (i32.eqz (local.get $left)))
        (local.set $left (i32.sub (local.get $left) (i32.const 1)))
        (br $burning)))
    {CALL} {DONE}"""
    found = await check(question(await grafted(jail, body), rows=20_000), jail)
    assert codes(found) == {"tires"}


@pytest.mark.parametrize(
    ("body", "code", "text"),
    [
        ("(unreachable)", "fails", "trap"),
        ("(i32.const 7)", "fails", "answer"),
        (burn(1 << 30) + "(i32.const 0)", "fails", "fuel"),
    ],
)
async def test_a_module_that_fails_is_found(jail, body, code, text):
    found = await check(question(await grafted(jail, body)), jail)
    assert codes(found) == {code}
    assert text in found.findings[0].text
    assert "more like it" in found.findings[0].text


async def test_limits_are_stricter_than_where_it_runs(jail):
    """What takes nine tenths of its fuel would run there, and is not let in here."""
    module = await grafted(jail, f"{CALL} {burn(24_000)} {DONE}")
    name = await jail.compile(module, checking.SHAPE)
    batch = SLOT.generate(Draw(b"x"), 1)
    called = await jail.call(name, batch, SLOT.limits)
    assert called.fuel > stricter(SLOT.limits).fuel_of(1)
    found = await check(question(module), jail)
    assert codes(found) == {"fails"}


async def test_what_may_not_run_at_all_is_refused(jail):
    module = await jail.wat(b'(module (import "env" "f" (func)))')
    found = await check(question(module), jail)
    assert codes(found) == {"refused"}
    assert "imports" in found.findings[0].text
    assert not found.sound


# -- another behaviour -----------------------------------------------------------------------


def _more(amount: int, sign: str = "add") -> str:
    """Every peer's `keep` is another."""
    at = cell(SLOT, KEEP)
    return f"(i64.store {at} (i64.{sign} (i64.load {at}) (i64.const {amount})))"


async def test_a_declared_change_is_held_to_the_invariants_alone(jail):
    module = await grafted(jail, f"{CALL} {each_row(SLOT, _more(1))} {DONE}")
    found = await check(question(module, incumbent=await base(jail), changed=True), jail)
    assert found.findings == ()
    assert found.disagreement_ppm > 900_000
    undeclared = await check(question(module, incumbent=await base(jail)), jail)
    assert {"wrong", "dearer"} <= codes(undeclared)


async def test_a_declared_change_that_breaks_an_invariant_is_not_sound(jail):
    """It rewards faults: what a saboteur would have ratified."""
    module = await grafted(jail, f"{CALL} {each_row(SLOT, _more(-1, 'mul'))} {DONE}")
    found = await check(question(module, changed=True), jail)
    assert "breaks faults" in codes(found)
    assert "More faults never raise a score." in found.findings[0].text


def test_a_change_is_declared_by_the_evidence():
    class Manifest(msgspec.Struct):
        evidence: tuple[Benchmark, ...]

    claim = Benchmark(metric=checking.CHANGED, unit="ppm", workload="x", value=1, baseline=0)
    other = msgspec.structs.replace(claim, metric="speed")
    assert checking.claims_change(Manifest((other, claim)))  # type: ignore[arg-type]
    assert not checking.claims_change(Manifest((other,)))  # type: ignore[arg-type]


# -- seeds, sizes and recordings -------------------------------------------------------------


async def test_the_same_seed_finds_the_same_and_another_one_is_drawn_each_time(jail, tmp_path):
    body = f"{CALL} {WRONG_WAYS[0][1](SLOT, Draw(b'1'))} {DONE}"
    asked = question(await grafted(jail, body), rows=20_000)
    found = []
    for name in ("one", "two"):
        async with a_jail(tmp_path / name) as other:
            found.append(_timeless(await check(asked, other)))
    assert found[0].findings
    assert found[0] == found[1]
    hidden = msgspec.structs.replace(asked, seed="", rows=100)
    seeds = {(await check(hidden, jail)).seed for _ in range(3)}
    assert len(seeds) == 3


def _timeless(checked: Checked) -> Checked:
    return msgspec.structs.replace(checked, seconds=0.0)


@pytest.mark.parametrize("name", SLOTS)
def test_batches_come_in_all_sizes(name):
    slot = SLOTS[name]
    place = slot.tables.index(sample.answered(slot))
    sizes = [batch.rows[place] for _, batch in sample.generated(slot, "s", 20_000)]
    assert sum(sizes) >= 20_000
    assert set(range(sample.EVERY_SIZE + 1)) <= set(sizes)
    assert max(sizes) == min(20_000, slot.tables[place].most_rows)


@pytest.mark.parametrize("name", SLOTS)
def test_constants_of_the_code_come_to_every_column(name):
    slot = SLOTS[name]
    table = sample.answered(slot)
    found = {
        column.name
        for _, batch in sample.planted(slot, "s", [1, 5])
        for column in table.columns
        if 5 in batch.column(table.name, column.name).tolist()
    }
    wide = {column.name for column in table.columns if column.least <= 5 <= column.most}
    assert found >= wide


def test_constants_are_found_in_code():
    code = bytes.fromhex("42 e8 07 0b 41 7b 42 80 80 80 80 80 20")
    found = sample.constants(code)
    assert {999, 1000, 1001, -5, 1 << 40} <= set(found)
    assert sample.constants(b"\x42" + b"\x80" * 20) == []


async def test_recorded_batches_are_replayed(jail, tmp_path):
    recorder = recorded.Recorder(tmp_path / "traffic", lambda *_, **__: None)
    batch = SLOT.generate(Draw(b"r"), 3)
    recorder.keep(SLOT.name, bytes(batch.block.cast("B")))
    asked = question(await base(jail), recorded=str(tmp_path / "traffic"))
    found = await check(asked, jail)
    assert found.recorded == 1 + len(list(recorded.shipped(SLOT)))
    with pytest.raises(NoRecordingsError, match="no recorded batches"):
        await check(msgspec.structs.replace(asked, recorded=str(tmp_path)), jail)


@pytest.mark.parametrize("name", SLOTS)
def test_what_is_shipped_is_of_this_version(name):
    """Where a slot changes: run daemons that use it, and make the files anew as recorded.py says.
    For one slot there is none: a daemon that needs room is rare."""
    slot, seen = SLOTS[name], 0
    for where, batch in recorded.shipped(slot):
        for table in slot.tables:
            for column in table.columns:
                values = batch.column(table.name, column.name).tolist()
                assert values == [column.clamp(value) for value in values], where
        seen += 1
    assert seen >= 30 or name == "eviction"


def test_what_is_packed_is_bounded_and_comes_back():
    batches = [SLOT.generate(Draw(bytes([at])), at) for at in (3, 0, 7)]
    found = [Batch(SLOT, memoryview(bytearray(block))) for block in _packed(batches * 2)]
    assert [batch.rows[0] for batch in found] == [0, 3, 7]
    many = [SLOT.generate(Draw(bytes([at])), 10 + at) for at in range(64)]
    sizes = [len(block) for block in _packed(many)]
    assert sum(sizes) < recorded.MAX_PACKED < sum(batch.block.nbytes for batch in many)
    assert sizes[-1] == max(batch.block.nbytes for batch in many)


def _packed(batches: list[Batch]) -> list[bytes]:
    return list(recorded.unpack(recorded.pack(batches)))


# -- time ------------------------------------------------------------------------------------


async def test_time_is_measured_in_pairs(jail):
    incumbent = await base(jail)
    found = await check(question(incumbent, incumbent=incumbent, timing=True), jail)
    assert found.timing is not None
    assert found.timing.pairs == pairs.PAIRS
    assert 0 < found.timing.low <= found.timing.ratio <= found.timing.high
    assert found.timing.microseconds > 1


async def test_time_is_told_and_decides_nothing(jail, monkeypatch):
    """Even where the whole interval says that it is slower."""
    module = await base(jail)
    measured = Timing(41, ratio=1.5, low=1.3, high=1.7, microseconds=30.0, rows=1000)
    monkeypatch.setattr(checking, "timing", lambda *_: measured)
    found = await check(question(module, incumbent=module, timing=True), jail)
    assert codes(found) == {"slower"}
    assert "1.30 to 1.70 times" in found.findings[0].text
    assert found.sound
    assert not found.passed
    noisy = msgspec.structs.replace(measured, low=1.2)
    monkeypatch.setattr(checking, "timing", lambda *_: noisy)
    assert (await check(question(module, incumbent=module, timing=True), jail)).passed


def test_the_interval_is_that_of_the_order_statistics():
    """For 41 values the 13th and the 29th hold the median between them 98.8 times in 100, so that
    99 takes the 12th and the 30th."""
    values = [float(at) for at in range(1, 42)]
    assert pairs.interval(values, 0.99) == (12.0, 30.0)
    assert pairs.interval(values, 0.95) == (14.0, 28.0)
    assert pairs.interval([3.0, 1.0, 2.0], 0.99) == (1.0, 3.0)


# -- a council member's ----------------------------------------------------------------------


async def test_a_verdict_is_reached_in_a_process_of_its_own(jail):
    """And is what it is in any other."""
    asked = question(await base(jail), incumbent=await base(jail))
    found = await check_apart(asked, allow_weaker=True)
    assert found.sound
    assert _timeless(found) == _timeless(await check(asked, jail))


async def test_what_cannot_be_checked_is_no_verdict(jail, monkeypatch):
    with pytest.raises(NoSlotError, match="there are"):
        await check(question(b"", "router", limits=SLOT.limits), jail)
    with pytest.raises(CheckFailedError, match="router"):
        await check_apart(question(b"", "router", limits=SLOT.limits), allow_weaker=True)
    module = await base(jail)

    async def rests(*_: object, **__: object) -> None:
        raise JailRestingError("it died too often")

    monkeypatch.setattr(jail, "call", rests)
    with pytest.raises(CheckFailedError, match="does not run"):
        await check(question(module), jail)

    async def slow(name: bytes, *_: object, **__: object) -> None:
        raise ModuleTrapError("deadline", name, "20 s")

    monkeypatch.setattr(jail, "call", slow)
    with pytest.raises(CheckFailedError, match="too long on this machine"):
        await check(question(module), jail)

    async def dies(name: bytes, *_: object, **__: object) -> None:
        raise JailDiedError(name, "signal 11")

    monkeypatch.setattr(jail, "call", dies)
    assert codes(await check(question(module), jail)) == {"kills"}


async def test_a_worker_that_was_killed_from_without_is_no_verdict(monkeypatch):
    """One death may be the machine's; the second look tells."""
    clean = Checked("peer_scoring", "", "", changed=False, seed="s", findings=())
    died = msgspec.structs.replace(clean, findings=(Finding("kills", "signal 9"),))
    replies = [died, clean, died, died]

    async def once(_: object) -> Checked:
        return replies.pop(0)

    monkeypatch.setattr(verdict, "_once", once)
    assert (await check_apart(question(b""))).sound
    assert not (await check_apart(question(b""))).sound
    assert not replies
