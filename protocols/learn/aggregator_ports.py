"""What an aggregator (aggregator.py) is told, what it asks for, and what it is bounded by."""

from collections.abc import Callable, Mapping, Sequence

import msgspec

from protocols.codec import decode
from protocols.effects import Effect
from protocols.errors import MalformedError
from protocols.learn.messages import (
    Blob,
    Proof,
)
from protocols.learn.partition import group_key
from protocols.learn.round_ports import MAX_FAN_IN, Heard, Part, Release, Say, Tick
from protocols.plan import CodecName, Plan
from protocols.realm import Realm

TABLE = "learn-sums"
"""Of the store: key = sum_key(model, group, number, digest), value = Kept."""
KEEP_MS = 10 * 60 * 1000
"""For which what a sum is made of can be asked for: an auditor draws its rounds when their records
come, seconds later; ten minutes outlast a restart of either."""
MAX_KEPT = 256
"""Sums of which that is kept: 64 deltas of half a megabyte each are 32 MB a round of four groups,
so the driver's limit of disk may be reached before, and then it says Release to the oldest."""
MAX_LATE = 4
"""Sums of one group and round: one, and those of whoever came late."""
MAX_PARKED = 64
"""Batches at a time, of all groups: beyond, learners are refused."""
SUM_ACK_MS = 3_000
"""Until a sum is sent again."""
MAX_TRIES = 6
"""Then its learners are refused, and go their own ways."""


class Kept(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A sum as it lies on our disk."""

    until_ms: int
    proof: Proof


class Combined(msgspec.Struct, frozen=True):
    """The sum of this ticket is on our disk."""

    ticket: int
    blob: Blob
    bad: tuple[bytes, ...] = ()
    """Learners whose deltas could not be used."""
    left: Blob | None = None
    """What the sum's encoding left out, encoded by int8."""


class NotCombined(msgspec.Struct, frozen=True):
    """It failed."""

    ticket: int
    bad: tuple[bytes, ...] = ()


class Restored(msgspec.Struct, frozen=True):
    """A row of TABLE."""

    kept: Kept


Event = Heard | Combined | NotCombined | Restored | Tick


class Combine(msgspec.Struct, frozen=True):
    """Effect: make the sum of these deltas, and say Combined."""

    ticket: int
    group: int
    number: int
    base: bytes
    parts: tuple[Part, ...]
    codec: CodecName
    carry: Blob | None = None
    """To be added to their mean before it is encoded."""


Effects = list[Effect | Say | Combine | Release]


class AggregatorSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Of one aggregator."""

    realm: Realm
    model: bytes
    plan: Plan
    me: bytes
    groups: tuple[int, ...]
    max_delta: int
    """Bytes of a delta."""
    fan_in: int = 32
    """Learners that we serve: with 100 in 5 regions, 20 each, and room for a neighbour's."""
    able: Callable[[], bool] = lambda: True
    """Whether the worker computes: without it nobody is served."""
    may_learn: Callable[[bytes], bool] = lambda _peer: True
    nearest: Callable[[Sequence[bytes]], bytes | None] = lambda _peers: None
    """Of a group's replicas, the one in our region (regions.nearest): it sends us rounds, and has
    our sums for the log from us, so that each crosses to our region, or from it, once."""

    def __post_init__(self) -> None:
        if not 1 <= self.fan_in <= MAX_FAN_IN:
            raise ValueError(f"an aggregator serves 1 to {MAX_FAN_IN} learners")


def sum_key(model: bytes, group: int, number: int, digest: bytes) -> bytes:
    """Of a row in TABLE."""
    return group_key(model, group) + number.to_bytes(4, "big") + digest


def restored(rows: Mapping[bytes, bytes]) -> list[Restored]:
    """Events of what the store has; rows that cannot be read are left out."""
    found: list[Restored] = []
    for value in rows.values():
        try:
            found.append(Restored(decode_kept(value)))
        except MalformedError:
            continue
    return sorted(found, key=lambda it: it.kept.until_ms)


def decode_kept(value: bytes) -> Kept:
    """Raises MalformedError."""
    return decode(value, Kept)
