"""Set reconciliation: two catalogs become one, in bytes that grow with their difference.

Both sides sort their 32-byte ids. One sends fingerprints of a few ranges; the other skips
those that agree, cuts those that do not into smaller ones, and names the ids of small ranges.
Whoever receives ids knows both differences of that range: it pushes the envelopes that the
other lacks, and asks for those that it lacks itself.
Source: A. Meyer, "Range-Based Set Reconciliation" (SRDS 2023), https://arxiv.org/abs/2212.13567;
the shape of the messages is that of Negentropy, https://github.com/hoytech/negentropy.

A fingerprint is the first 16 bytes of sha256 over the range's ids one after another. Negentropy
adds ids modulo 2^256, which is quicker for sets that change, and which somebody who chooses ids
can make collide; here a catalog of 10,000 is hashed in 0.3 ms.

A conversation on `/synapse/reconcile/1.0.0` is frames in turns, from the one who connected:
each a `Turn` with envelopes behind it (packing.py). It ends when both have nothing to say.

Rules of this file:
1. A turn is bounded (MAX_RANGES, MAX_IDS, MAX_PUSH) and so are the turns (MAX_TURNS): what does
   not fit waits for a later turn, or for a later conversation.
2. Nothing received is believed: ids only decide what is asked for, and envelopes go through
   the catalog's own validation.
3. Each envelope is sent once in a conversation, however often its range is asked about: what a
   stranger can make us upload is one catalog.
"""

import hashlib
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Annotated, Protocol

import msgspec

from protocols.codec import Message
from protocols.errors import LimitError, MalformedError
from protocols.packing import cut, pack, unpack

PROTOCOL = "/synapse/reconcile/1.0.0"

ID_LENGTH = 32
FINGERPRINT_LENGTH = 16
"""Bytes: 128 bits, because ids are chosen by others and a collision would hide a difference."""
SPLIT = 16
"""Ranges that one is cut into. Meyer: any number does; 16 makes 10,000 ids two cuts deep."""
FEW = 24
"""Ids that are named instead of cutting further: about the bytes of 16 more fingerprints."""
MAX_RANGES = 512
MAX_IDS = 1024
"""Ids in one turn, named and asked for together: 36 KB."""
MAX_PUSH = 256 << 10
"""Bytes of envelopes in one turn, or one envelope: 600 of them, 60 ms to verify."""
MAX_TURN_MESSAGE = 64 << 10
MAX_TURN = MAX_TURN_MESSAGE + MAX_PUSH + 4
"""Bytes of the largest frame."""
MAX_TURNS = 128
"""Of one conversation: two full catalogs that have nothing in common take about 90."""
MAX_NAMED = 32_768
"""Ids that one conversation may name to us: two catalogs."""
MAX_PARTS = 4096
"""Envelopes in one turn: MAX_PUSH of the smallest that there are."""

Id = Annotated[bytes, msgspec.Meta(min_length=ID_LENGTH, max_length=ID_LENGTH)]
Upper = Annotated[bytes, msgspec.Meta(max_length=ID_LENGTH)]
"""A range goes up to and without `upper`, which may be a prefix; b"" is the end of all ids."""
Print = Annotated[bytes, msgspec.Meta(min_length=FINGERPRINT_LENGTH, max_length=FINGERPRINT_LENGTH)]


class Skip(Message, frozen=True, array_like=True, tag=0):
    """Nothing more to say about this range."""

    upper: Upper


class Fingerprint(Message, frozen=True, array_like=True, tag=1):
    """What our ids in this range hash to."""

    upper: Upper
    digest: Print


class Ids(Message, frozen=True, array_like=True, tag=2):
    """All our ids in this range, in order."""

    upper: Upper
    ids: Annotated[tuple[Id, ...], msgspec.Meta(max_length=MAX_IDS)]


Range = Skip | Fingerprint | Ids
Ranges = tuple[Range, ...]


class Turn(Message, frozen=True):
    """What one side says at a time; `lengths` are those of the envelopes behind it."""

    ranges: Annotated[Ranges, msgspec.Meta(max_length=MAX_RANGES)]
    want: Annotated[tuple[Id, ...], msgspec.Meta(max_length=MAX_IDS)]
    lengths: Annotated[
        tuple[Annotated[int, msgspec.Meta(ge=1, le=MAX_PUSH)], ...],
        msgspec.Meta(max_length=MAX_PARTS),
    ]


class Answer(msgspec.Struct, frozen=True):
    """What follows from ranges: ours to send back, ids that they lack, ids that we lack."""

    ranges: Ranges
    have: list[bytes]
    need: list[bytes]


class Reconciler:
    """One side's part in comparing two sets of ids. `ids` must be sorted, each once."""

    def __init__(self, ids: Sequence[bytes]) -> None:
        self._ids = ids
        self._joined = memoryview(b"".join(ids))
        self._out: list[Range] = []
        self._named = 0

    def first(self) -> Ranges:
        """What the side that begins sends."""
        self._begin()
        self._describe(0, len(self._ids), b"", cut_left=True)
        return self._finish()

    def answer(self, ranges: Ranges) -> Answer:
        """What follows from the other side's ranges; no ranges where all is settled.

        Raises MalformedError for ranges that are out of order.
        """
        self._begin()
        have: list[bytes] = []
        need: list[bytes] = []
        _check_order(ranges)
        lo, lower = 0, b""
        for at, theirs in enumerate(ranges):
            hi = bisect_left(self._ids, theirs.upper, lo) if theirs.upper else len(self._ids)
            match theirs:
                case Ids(upper, ids):
                    _check_ids(ids, lower, upper)
                    mine = self._ids[lo:hi]
                    have += _without(mine, ids)
                    need += _without(ids, mine)
                    self._say(Skip(upper=upper))
                case Fingerprint(upper, digest) if digest != self._fingerprint(lo, hi):
                    # Each range still to come may need one place in the answer.
                    room = MAX_RANGES - len(self._out) - (len(ranges) - at)
                    self._describe(lo, hi, upper, cut_left=room >= SPLIT)
                case _:
                    self._say(Skip(upper=theirs.upper))
            lo, lower = hi, theirs.upper
        return Answer(self._finish(), have, need)

    def _begin(self) -> None:
        self._out = []
        self._named = 0

    def _finish(self) -> Ranges:
        return () if all(isinstance(said, Skip) for said in self._out) else tuple(self._out)

    def _say(self, said: Range) -> None:
        # Neighbouring ranges with nothing to say are one.
        if isinstance(said, Skip) and self._out and isinstance(self._out[-1], Skip):
            self._out.pop()
        self._out.append(said)

    def _fingerprint(self, lo: int, hi: int) -> bytes:
        ids = self._joined[lo * ID_LENGTH : hi * ID_LENGTH]
        return hashlib.sha256(ids).digest()[:FINGERPRINT_LENGTH]

    def _describe(self, lo: int, hi: int, upper: bytes, *, cut_left: bool) -> None:
        """Say what we have in [lo, hi): by name, by smaller ranges, or (no room) whole again."""
        count = hi - lo
        if count <= FEW and self._named + count <= MAX_IDS:
            self._named += count
            self._say(Ids(upper=upper, ids=tuple(self._ids[lo:hi])))
        elif count <= FEW or not cut_left:
            self._say(Fingerprint(upper=upper, digest=self._fingerprint(lo, hi)))
        else:
            edges = [lo + count * part // SPLIT for part in range(SPLIT + 1)]
            for start, stop in pairwise(edges):
                bound = upper if stop == hi else _between(self._ids[stop - 1], self._ids[stop])
                self._say(Fingerprint(upper=bound, digest=self._fingerprint(start, stop)))


def _between(below: bytes, above: bytes) -> bytes:
    """The shortest bound that is greater than `below` and not greater than `above`."""
    same = 0
    while below[same] == above[same]:
        same += 1
    return above[: same + 1]


def _without(ids: Sequence[bytes], others: Sequence[bytes]) -> list[bytes]:
    known = frozenset(others)
    return [one for one in ids if one not in known]


def _check_order(ranges: Ranges) -> None:
    lower = b""
    for at, said in enumerate(ranges):
        last = at == len(ranges) - 1
        if last != (said.upper == b"") or (not last and said.upper <= lower):
            raise MalformedError("ranges that do not rise, or do not end at the end")
        lower = said.upper


def _check_ids(ids: Sequence[bytes], lower: bytes, upper: bytes) -> None:
    for at, one in enumerate(ids):
        if one < lower or (upper and one >= upper) or (at and one <= ids[at - 1]):
            raise MalformedError("ids out of order, or out of their range")


# -- the conversation ---------------------------------------------------------------------------


class Shelf(Protocol):
    """What a conversation asks of the catalog."""

    def ids(self) -> list[bytes]:
        """All ids, in order."""

    def envelope(self, digest: bytes) -> bytes | None:
        """The envelope with this id, if it is still here."""

    def wants(self, digest: bytes) -> bool:
        """Whether the envelope with this id would be kept."""


class Conversation:
    """One side of one conversation, frame by frame.

    The one who connected sends `begin()` and reads; the other reads. For each frame: `receive`
    it, hear the envelopes that it brought, and send what `reply` says; None ends it.
    """

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._reconciler = Reconciler(shelf.ids())
        self._ranges: Ranges = ()
        self._push: deque[bytes] = deque()
        self._told: set[bytes] = set()
        self._want: deque[bytes] = deque()
        self._named = 0
        self._turns = 0
        self._heard_something = True
        self.pushed = 0
        """Envelopes sent so far."""

    def begin(self) -> bytes:
        """The first frame."""
        self._ranges = self._reconciler.first()
        return self._frame()

    def receive(self, frame: bytes) -> list[bytes]:
        """The envelopes in a frame of the other side; `reply` then answers the rest.

        Raises MalformedError or LimitError: then the other side does not keep to the protocol.
        """
        self._turns += 1
        if self._turns > MAX_TURNS:
            raise LimitError(f"a reconciliation of more than {MAX_TURNS} turns")
        turn, raw = unpack(frame, Turn, MAX_TURN_MESSAGE)
        named = sum(len(said.ids) for said in turn.ranges if isinstance(said, Ids))
        if named + len(turn.want) > MAX_IDS:
            raise LimitError(f"more than {MAX_IDS} ids in one turn")
        self._named += named + len(turn.want)
        if self._named > MAX_NAMED:
            raise LimitError(f"a reconciliation that names more than {MAX_NAMED} ids")
        envelopes = cut(raw, turn.lengths)
        answer = self._reconciler.answer(turn.ranges)
        self._ranges = answer.ranges
        self._push.extend(self._untold((*answer.have, *turn.want)))
        self._want.extend(answer.need)
        self._heard_something = bool(turn.ranges or turn.want or turn.lengths)
        return envelopes

    def _untold(self, digests: Iterable[bytes]) -> Iterator[bytes]:
        for digest in digests:
            if digest not in self._told:
                self._told.add(digest)
                yield digest

    def reply(self) -> bytes | None:
        """Our next frame; None where neither side has anything left to say."""
        if not (self._heard_something or self._ranges or self._push or self._want):
            return None
        return self._frame()

    def _frame(self) -> bytes:
        ranges, self._ranges = self._ranges, ()
        room = MAX_IDS - sum(len(said.ids) for said in ranges if isinstance(said, Ids))
        want: list[bytes] = []
        while self._want and len(want) < room:
            digest = self._want.popleft()
            if self._shelf.wants(digest):
                want.append(digest)
        parts = self._next_envelopes()
        self.pushed += len(parts)
        lengths = tuple(len(part) for part in parts)
        return pack(Turn(ranges=ranges, want=tuple(want), lengths=lengths), parts)

    def _next_envelopes(self) -> list[bytes]:
        parts: list[bytes] = []
        room = MAX_PUSH
        while self._push and len(parts) < MAX_PARTS:
            envelope = self._shelf.envelope(self._push[0])
            if envelope is not None:
                if len(envelope) > room:
                    break
                room -= len(envelope)
                parts.append(envelope)
            self._push.popleft()
        return parts
