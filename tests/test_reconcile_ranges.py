"""Set reconciliation: what it finds, what it costs, and what a hostile peer can make of it."""

import hashlib
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.codec import encode
from protocols.errors import LimitError, MalformedError
from protocols.gossip.reconcile import (
    MAX_IDS,
    MAX_NAMED,
    MAX_PUSH,
    MAX_RANGES,
    MAX_TURN,
    MAX_TURN_MESSAGE,
    MAX_TURNS,
    Conversation,
    Fingerprint,
    Ids,
    Reconciler,
    Skip,
    Turn,
)
from protocols.packing import pack

ENVELOPE = 400
"""Bytes of a usual shard announcement."""


def ids(count: int, seed: int = 0) -> list[bytes]:
    return sorted(hashlib.sha256(f"{seed} {n}".encode()).digest() for n in range(count))


class FakeShelf:
    """A set of ids with made-up envelopes."""

    def __init__(self, held: list[bytes], size: int = ENVELOPE) -> None:
        self.held = set(held)
        self.size = size
        self.refused: set[bytes] = set()

    def ids(self) -> list[bytes]:
        return sorted(self.held)

    def envelope(self, digest: bytes) -> bytes | None:
        return digest.ljust(self.size, b".") if digest in self.held else None

    def wants(self, digest: bytes) -> bool:
        return digest not in self.held and digest not in self.refused

    def take(self, envelopes: list[bytes]) -> None:
        self.held |= {envelope[:32] for envelope in envelopes}


def converse(one: FakeShelf, other: FakeShelf) -> tuple[int, int, int]:
    """A whole conversation: (bytes without envelopes, envelopes moved, turns)."""
    sides = [(Conversation(one), one), (Conversation(other), other)]
    frame: bytes | None = sides[0][0].begin()
    overhead = moved = turns = 0
    while frame is not None:
        turns += 1
        assert len(frame) <= MAX_TURN
        side, shelf = sides[turns % 2]
        envelopes = side.receive(frame)
        overhead += len(frame) - sum(map(len, envelopes))
        moved += len(envelopes)
        shelf.take(envelopes)
        frame = side.reply()
    assert moved == sum(side.pushed for side, _ in sides)
    return overhead, moved, turns


@pytest.mark.parametrize("size", [1000, 10_000])
@pytest.mark.parametrize("difference", [0, 1, 10, 100])
def test_bytes_grow_with_the_difference_and_not_with_the_catalog(
    size: int, difference: int
) -> None:
    everything = ids(size)
    rng = random.Random(size + difference)
    lacking = rng.sample(everything, difference)
    one = FakeShelf([one for one in everything if one not in lacking[::2]])
    other = FakeShelf([one for one in everything if one not in lacking[1::2]])
    overhead, moved, turns = converse(one, other)
    assert one.held == other.held == set(everything)
    assert moved == difference
    # One level of fingerprints is 400 bytes; each difference takes two or three, and some names.
    assert overhead <= 600 + 1_300 * difference
    assert overhead < 40 * size
    assert turns <= 12
    if difference == 0:
        assert turns == 2


@pytest.mark.parametrize("newcomer_begins", [True, False])
def test_a_newcomer_gets_everything_in_few_turns(newcomer_begins: bool) -> None:
    newcomer, old = FakeShelf([]), FakeShelf(ids(1000))
    pair = (newcomer, old) if newcomer_begins else (old, newcomer)
    overhead, moved, turns = converse(*pair)
    assert newcomer.held == old.held
    assert moved == 1000
    assert overhead < 5_000
    assert turns <= 8


def test_two_full_catalogs_with_nothing_in_common_become_one() -> None:
    one, other = FakeShelf(ids(4000, 1), 100), FakeShelf(ids(4000, 2), 100)
    overhead, moved, turns = converse(one, other)
    assert len(one.held) == len(other.held) == 8000
    assert moved == 8000
    assert turns < MAX_TURNS
    assert overhead < 8000 * 80


small_ids = st.binary(min_size=32, max_size=32)
# Ids that share long prefixes are what bounds get wrong.
near_ids = st.integers(0, 40).map(lambda n: b"\x07" * 31 + bytes((n,)))
id_sets = st.sets(st.one_of(small_ids, near_ids), max_size=120)


@given(id_sets, id_sets, id_sets)
def test_any_two_sets_become_their_union(both: set[bytes], a: set[bytes], b: set[bytes]) -> None:
    one, other = FakeShelf(list(both | a)), FakeShelf(list(both | b))
    _, moved, turns = converse(one, other)
    assert one.held == other.held == both | a | b
    assert moved == len(a ^ b) - len((a ^ b) & both)
    assert turns < MAX_TURNS


def test_what_is_not_wanted_is_not_asked_for() -> None:
    one, other = FakeShelf(ids(50)), FakeShelf(ids(60))
    extra = set(ids(60)) - set(ids(50))
    one.refused = set(sorted(extra)[:4])
    other.refused = set()
    sides = Conversation(other)
    asking = Conversation(one)
    envelopes = asking.receive(sides.begin())
    assert envelopes == []
    converse(one, other)
    assert one.held | one.refused == other.held


def test_what_expired_meanwhile_is_not_sent() -> None:
    old = FakeShelf(ids(100))
    serving, asking = Conversation(old), Conversation(FakeShelf([]))
    frame = asking.begin()
    old.held = set()
    assert serving.receive(frame) == []
    frame = serving.reply()
    assert frame is not None
    assert asking.receive(frame) == []
    assert asking.reply() is None


# -- hostile peers --------------------------------------------------------------------------------


def turn(*ranges: Skip | Fingerprint | Ids, want: tuple[bytes, ...] = ()) -> bytes:
    return pack(Turn(ranges=ranges, want=want, lengths=()), [])


HOSTILE = {
    "ranges that do not end": turn(Skip(upper=b"a")),
    "an end before the end": turn(Skip(upper=b""), Skip(upper=b"b")),
    "falling ranges": turn(Skip(upper=b"b"), Skip(upper=b"a"), Skip(upper=b"")),
    "the same bound twice": turn(Skip(upper=b"b"), Skip(upper=b"b"), Skip(upper=b"")),
    "ids below": turn(Skip(upper=b"b"), Ids(upper=b"", ids=(b"a" * 32,))),
    "ids above": turn(Ids(upper=b"a", ids=(b"b" * 32,)), Skip(upper=b"")),
    "an id twice": turn(Ids(upper=b"", ids=(b"a" * 32, b"a" * 32))),
    "falling ids": turn(Ids(upper=b"", ids=(b"b" * 32, b"a" * 32))),
    "too many ids": turn(
        Ids(upper=b"\x80", ids=tuple(one for one in ids(2 * MAX_IDS) if one < b"\x80")[:MAX_IDS]),
        Ids(upper=b"", ids=tuple(one for one in ids(2 * MAX_IDS) if one >= b"\x80")[:MAX_IDS]),
    ),
    "too many wants": turn(want=tuple(ids(MAX_IDS + 1))),
    "short ids": turn(Ids(upper=b"", ids=(b"a",))),
    "too many ranges": turn(*(Skip(upper=n.to_bytes(2, "big")) for n in range(1, MAX_RANGES + 2))),
    "parts that are not there": pack(Turn(ranges=(), want=(), lengths=(5,)), []),
    "parts that nobody counted": pack(Turn(ranges=(), want=(), lengths=()), [b"abc"]),
    "a part too large": pack(
        Turn(ranges=(), want=(), lengths=(MAX_PUSH + 1,)), [b"." * (MAX_PUSH + 1)]
    ),
    "no message": b"",
    "a message cut off": turn(Skip(upper=b""))[:-1],
    "a length out of this world": b"\xff\xff\xff\xff" + bytes(100),
    "a message too large": (MAX_TURN_MESSAGE + 1).to_bytes(4, "big") + bytes(MAX_TURN_MESSAGE + 1),
    "not a turn": len(encode([1])).to_bytes(4, "big") + encode([1]),
}


@pytest.mark.parametrize("frame", HOSTILE.values(), ids=HOSTILE.keys())
def test_what_breaks_the_protocol_is_refused(frame: bytes) -> None:
    with pytest.raises((MalformedError, LimitError)):
        Conversation(FakeShelf(ids(100))).receive(frame)


def test_a_conversation_that_never_ends_is_ended() -> None:
    side = Conversation(FakeShelf(ids(100)))
    lie = turn(Fingerprint(upper=b"", digest=bytes(16)))
    for _ in range(MAX_TURNS):
        side.receive(lie)
        assert len(side.reply() or b"") < 2000
    with pytest.raises(LimitError):
        side.receive(lie)


def test_nothing_is_sent_twice_in_one_conversation() -> None:
    """Naming nothing of a range, again and again, asks for all of it each time."""
    shelf = FakeShelf(ids(300), 1000)
    side = Conversation(shelf)
    nothing = turn(Ids(upper=b"", ids=()), want=tuple(ids(300)[:50]))
    sent = 0
    for _ in range(20):
        side.receive(nothing)
        sent += len(side.reply() or b"")
    assert side.pushed == 300
    assert sent < 2 * 300 * 1000


def test_ids_named_in_one_conversation_are_bounded() -> None:
    side = Conversation(FakeShelf([]))
    invented = turn(want=tuple(ids(MAX_IDS)))
    for _ in range(MAX_NAMED // MAX_IDS):
        side.receive(invented)
        side.reply()
    with pytest.raises(LimitError):
        side.receive(invented)


@pytest.mark.parametrize("ranges", [1, 40, MAX_RANGES])
def test_an_answer_is_never_larger_than_a_turn_may_be(ranges: int) -> None:
    """Whatever is asked: wrong fingerprints everywhere make the most work."""
    bounds = [n.to_bytes(2, "big") for n in range(1, 65536, 65536 // ranges)][: ranges - 1]
    lies = tuple(Fingerprint(upper=bound, digest=bytes(16)) for bound in (*bounds, b""))
    reconciler = Reconciler(ids(16_384))
    answer = reconciler.answer(lies)
    assert len(answer.ranges) <= MAX_RANGES
    assert sum(len(said.ids) for said in answer.ranges if isinstance(said, Ids)) <= MAX_IDS
    whole = Turn(ranges=answer.ranges, want=(), lengths=())
    assert len(encode(whole)) <= MAX_TURN_MESSAGE


@given(st.binary(max_size=300))
def test_junk_raises_nothing_unexpected(junk: bytes) -> None:
    for frame in (junk, len(junk).to_bytes(4, "big") + junk):
        with pytest.raises((MalformedError, LimitError)):
            Conversation(FakeShelf(ids(10))).receive(frame)
