"""A replica's rows (a crash between any two writes is harmless) and its messages (strict)."""

import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.cid import CID_LENGTH
from protocols.codec import encode
from protocols.effects import Save
from protocols.errors import LimitError, MalformedError, NotCanonicalError
from protocols.learn import replica_messages as messages
from protocols.learn.replica_birth import Birth
from protocols.learn.replica_log import Log
from protocols.learn.replica_ports import (
    BIRTH,
    NO_TERM,
    Blob,
    Entry,
    GroupId,
    Place,
    Release,
    ReplicaSettings,
    Snapshot,
    Term,
    Ticked,
)

GROUP = GroupId(b"\x01\x55\x12\x20" + bytes(CID_LENGTH - 4), 9)


class Disk:
    """A log with the writes that it makes."""

    def __init__(self, rows: dict[bytes, bytes] | None = None) -> None:
        self.rows = dict(rows or {})
        self.writes: list[Save] = []
        self.released: list[Blob] = []
        self.log = Log(GROUP, self._emit)
        self.log.load(self.rows)
        self.flush()

    def _emit(self, effect: object) -> None:
        if isinstance(effect, Save):
            self.writes.append(effect)
        elif isinstance(effect, Release):
            self.released += effect.blobs

    def flush(self) -> None:
        """All is written."""
        self.rows = after(self.rows, self.writes)
        self.writes = []

    def crashed(self) -> list["Disk"]:
        """The disk as it is after each first part of the writes since `flush`."""
        return [
            Disk(after(self.rows, self.writes[:count])) for count in range(len(self.writes) + 1)
        ]

    @property
    def said(self) -> tuple[Place, list[bytes], int]:
        """What counts."""
        return self.log.place, [entry.body for entry in self.log.entries], self.log.base


def after(rows: dict[bytes, bytes], writes: list[Save]) -> dict[bytes, bytes]:
    """Rows with some writes made."""
    found = dict(rows)
    for write in writes:
        if write.value is None:
            found.pop(write.key, None)
        else:
            found[write.key] = write.value
    return found


def entry(text: str) -> Entry:
    """An entry with a blob of its own."""
    return Entry(text.encode(), (Blob(text.encode().ljust(32, b"."), 10),))


def filled(count: int = 6) -> Disk:
    """A log of some entries, written in two terms."""
    disk = Disk()
    disk.log.promise(Term(1, 3))
    disk.log.take_over(Term(1, 3), 0, None, [])
    for number in range(count):
        if number == count // 2:
            disk.log.take_over(Term(1, 7), disk.log.length, None, [])
        disk.log.append(entry(f"old {number}"))
    disk.flush()
    return disk


def test_what_was_written_is_read_again() -> None:
    disk = filled()
    again = Disk(disk.rows)
    assert again.said == disk.said == (Place(Term(1, 7), 6), [b"old %d" % n for n in range(6)], 0)
    assert again.log.entries == disk.log.entries
    assert again.log.promised == Term(1, 7)


@pytest.mark.parametrize("keep", [0, 2, 3, 5, 6])
def test_a_crash_while_another_log_is_taken_over_leaves_the_old_one_or_the_new(keep: int) -> None:
    disk = filled()
    before = disk.said
    staged = [entry("new 0"), entry("new 1")]
    disk.log.promise(Term(2, 4))
    for at, each in enumerate(staged):
        disk.log.stage(keep + 1 + at, Term(2, 4), each)
    disk.log.take_over(Term(2, 4), keep, None, staged)
    new = disk.said
    assert new[1] == [*before[1][:keep], b"new 0", b"new 1"]
    seen = [each.said for each in disk.crashed()]
    assert [each.log.damaged for each in disk.crashed()] == [""] * len(seen)
    assert set(map(repr, seen)) == {repr(before), repr(new)}
    assert seen == sorted(seen, key=lambda each: each == new)  # old, and then new, and no way back


def test_a_crash_while_a_snapshot_comes_leaves_the_old_log_or_the_new() -> None:
    disk = filled()
    before = disk.said
    snapshot = Snapshot(9, b"nine", (Blob(b"n" * 32, 5),))
    disk.log.stage_snapshot(Term(2, 4), snapshot)
    disk.log.stage(10, Term(2, 4), entry("ten"))
    disk.log.take_over(Term(2, 4), 0, snapshot, [entry("ten")])
    seen = {repr(each.said) for each in disk.crashed()}
    assert seen == {repr(before), repr(disk.said)}
    disk.flush()
    assert disk.said == (Place(Term(2, 4), 10), [b"ten"], 9)
    assert len(disk.rows) == 3
    assert len(disk.released) == 6


def test_a_crash_while_it_is_pruned_loses_nothing() -> None:
    disk = filled()
    disk.log.committed = 5
    disk.log.fold(Snapshot(4, b"four"))
    for each in disk.crashed():
        assert not each.log.damaged
        assert each.log.length == 6
        assert each.log.entries[-2:] == disk.log.entries[-2:]
    disk.flush()
    assert len(disk.rows) == 4
    assert Disk(disk.rows).said == disk.said


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1 << 30))
def test_any_life_of_a_log_is_read_again_after_a_crash_anywhere(seed: int) -> None:
    rng = random.Random(seed)
    disk, term = Disk(), 3
    disk.log.promise(Term(1, 0))  # every replica's first write
    disk.flush()
    for _ in range(rng.randint(1, 14)):
        before = disk.said
        match rng.randrange(5):
            case 0 | 1:
                disk.log.take_over(Term(1, term), disk.log.length, None, [])
                disk.log.append(entry(f"{term} {disk.log.length}"))
            case 2:
                keep = rng.randint(disk.log.committed, disk.log.length)
                staged = [entry(f"{term} staged {n}") for n in range(rng.randint(0, 4))]
                for at, each in enumerate(staged):
                    disk.log.stage(keep + 1 + at, Term(1, term), each)
                disk.log.take_over(Term(1, term), keep, None, staged)
            case 3:
                if disk.log.length > disk.log.base:
                    index = rng.randint(disk.log.base + 1, disk.log.length)
                    disk.log.committed = max(disk.log.committed, index)
                    disk.log.fold(Snapshot(index, b"state %d" % index))
            case _:
                disk.log.promise(Term(1, term))
        term += 1
        for each in disk.crashed():
            assert not each.log.damaged
            assert each.log.length >= min(before[0].length, disk.log.length)
        disk.flush()
        assert Disk(disk.rows).said == disk.said
    assert len(disk.rows) <= 2 + len(disk.log.entries)


@pytest.mark.parametrize("kind", [b"s", b"e", b"n"])
@pytest.mark.parametrize("how", ["flipped", "torn", "gone", "moved"])
def test_a_row_that_is_not_what_was_written_is_damage(kind: bytes, how: str) -> None:
    disk = filled()
    disk.log.committed = 6
    disk.log.fold(Snapshot(3, b"three"))
    disk.flush()
    place = len(GROUP.key)
    keys = sorted(key for key in disk.rows if key[place : place + 1] == kind)
    row = disk.rows[keys[0]]
    rows = dict(disk.rows)
    match how:
        case "flipped":
            rows[keys[0]] = row[:-1] + bytes([row[-1] ^ 1])
        case "torn":
            rows[keys[0]] = row[: len(row) // 2]
        case "gone":
            del rows[keys[0]]
        case "moved":
            rows[keys[0]] = disk.rows[next(key for key in sorted(rows) if key != keys[0])]
    assert Disk(rows).log.damaged


def test_a_last_row_that_was_never_synced_is_no_damage() -> None:
    disk = filled()
    last = max(key for key in disk.rows if key[len(GROUP.key) :].startswith(b"e"))
    del disk.rows[last]
    assert Disk(disk.rows).said == (Place(Term(1, 7), 5), [b"old %d" % n for n in range(5)], 0)


# -- births ----------------------------------------------------------------------------------------


def test_a_birth_is_where_the_ledger_stands_after_this_life_began() -> None:
    birth = Birth({}, margin_ms=1_000)
    # A wiped ledger shows old epochs first, however fresh this life is.
    assert birth.ticked(Ticked(10, 1_000, 500_000)) == []
    assert birth.ticked(Ticked(400, 500_500, 501_000)) == []
    assert birth.index is None
    (save,) = birth.ticked(Ticked(402, 501_100, 502_000))
    assert birth.index == 402
    assert birth.ticked(Ticked(403, 502_000, 503_000)) == []
    assert save.key == BIRTH
    again = Birth({BIRTH: save.value})
    assert again.index == 402
    assert Birth({BIRTH: save.value[:-1] + b"?"}).index is None


# -- messages --------------------------------------------------------------------------------------

TERMS = st.builds(Term, st.integers(0, (1 << 31) - 1), st.integers(0, (1 << 32) - 1))
INDEXES = st.integers(0, (1 << 48) - 1)
BLOBS = st.lists(
    st.builds(Blob, st.binary(min_size=32, max_size=32), st.integers(1, 1 << 20)), max_size=4
).map(tuple)
ENTRIES = st.lists(st.builds(Entry, st.binary(max_size=80), BLOBS), max_size=5)
PLAIN = st.one_of(
    st.builds(messages.Ask, TERMS),
    st.builds(messages.Promise, TERMS, TERMS, INDEXES, st.integers(0, 9), INDEXES),
    st.builds(messages.Stale, TERMS),
    st.builds(messages.Pull, TERMS, INDEXES),
    st.builds(messages.Report, TERMS, st.booleans(), INDEXES, INDEXES),
    st.builds(messages.Resign, TERMS),
    st.builds(messages.Leave, st.integers(0, (1 << 31) - 1)),
    st.builds(messages.Retire, st.integers(0, (1 << 31) - 1)),
)


@given(PLAIN)
def test_messages_come_out_as_they_went_in(message: messages.Message) -> None:
    assert messages.unpack(messages.pack(GROUP, message)) == (GROUP, message, [])


@given(TERMS, INDEXES, ENTRIES)
def test_entries_come_out_as_they_went_in(term: Term, index: int, entries: list[Entry]) -> None:
    said = messages.Append(term, NO_TERM, index, 2, index, index, messages.described(entries))
    group, message, parts = messages.unpack(
        messages.pack(GROUP, said, [each.body for each in entries])
    )
    assert group == GROUP
    assert isinstance(message, messages.Append)
    assert messages.entries_of(message, parts) == entries


@given(TERMS, INDEXES, st.binary(max_size=300), BLOBS)
def test_snapshots_come_out_as_they_went_in(
    term: Term, index: int, state: bytes, blobs: tuple[Blob, ...]
) -> None:
    said = messages.Install(term, NO_TERM, index, 2, index, len(state), blobs)
    _, message, parts = messages.unpack(messages.pack(GROUP, said, [state]))
    assert isinstance(message, messages.Install)
    assert messages.snapshot_of(message, parts) == Snapshot(index, state, blobs)


@given(st.binary(max_size=200))
def test_noise_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedError):
        messages.unpack(data)


@given(PLAIN, st.data())
def test_a_changed_byte_is_refused_or_another_message(
    message: messages.Message, data: st.DataObject
) -> None:
    frame = bytearray(messages.pack(GROUP, message))
    at = data.draw(st.integers(0, len(frame) - 1))
    frame[at] ^= data.draw(st.integers(1, 255))
    try:
        group, other, _ = messages.unpack(bytes(frame))
    except MalformedError:
        return
    assert (group, other) != (GROUP, message)
    assert messages.pack(group, other) == bytes(frame)


def test_what_is_too_much_is_refused() -> None:
    plain = messages.pack(GROUP, messages.Ask(Term(1, 3)))
    with pytest.raises(LimitError):
        messages.unpack(plain + bytes(messages.MAX_FRAME))
    many = tuple(messages.Described(0, ()) for _ in range(messages.MAX_ENTRIES + 1))
    for said in (
        messages.Append(Term(1, 3), NO_TERM, 0, 0, 0, 0, many),
        messages.Append(Term(1, 1 << 32), NO_TERM, 0, 0, 0, 0, ()),
        messages.Append(Term(-1, 3), NO_TERM, 0, 0, 0, 0, ()),
        messages.Pull(Term(1, 3), 1 << 48),
    ):
        with pytest.raises(MalformedError):
            messages.unpack(messages.pack(GROUP, said))
    with pytest.raises(MalformedError):
        messages.unpack(plain + b"more")


def test_what_is_not_canonical_or_has_more_fields_is_refused() -> None:
    said = [GROUP.model, GROUP.number, [1, [1, 3], "more"]]
    data = encode(said)
    with pytest.raises(MalformedError):
        messages.unpack(len(data).to_bytes(4, "big") + data)
    plain = messages.pack(GROUP, messages.Ask(Term(1, 3)))
    # The last item, 3, written in two bytes where one is the only encoding.
    longer = plain[4:-1] + b"\x18\x03"
    with pytest.raises(NotCanonicalError):
        messages.unpack(len(longer).to_bytes(4, "big") + longer)


def test_settings_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="heartbeat"):
        ReplicaSettings(patience_tenths=10)
    with pytest.raises(ValueError, match="chunk"):
        ReplicaSettings(chunk=200, window=100)
    with pytest.raises(ValueError, match="lease"):
        ReplicaSettings(forced_leases=1)
    assert msgspec.structs.replace(ReplicaSettings(), beat_ms=20).patience_ms == 46
