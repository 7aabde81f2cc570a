"""What a group's rounds (rounds.py) are told, what they ask for, and what they are bounded by."""

from collections.abc import Callable

import msgspec

from protocols.effects import Effect
from protocols.learn.claims import (
    Round,
)
from protocols.learn.messages import (
    Blob,
    Said,
)
from protocols.learn.plan import Plan
from protocols.learn.replica_ports import Term
from protocols.realm import Realm

TABLE = "learn-records"
"""Of the store: key = group_key(model, group) ‖ number (4 bytes, big-endian), value = Record."""
MAX_FAN_IN = 64
"""Learners in one sum: so many votes can one aggregator forge before it is caught."""
MAX_WATCHERS = 512
"""Of one group at one replica: 100 learners without aggregators, and room."""
WATCH_MS = 120_000
"""For which a Watch holds: whoever left without a word costs this long."""
AGAIN_MS = 1_000
"""Until an endorsement that had no effect is sent again."""
RETRY_MS = 2_000
"""Until a round that could not be aggregated is tried again: a worker restarts in less."""
KEEP_ROUNDS = 4
"""Closed rounds whose deltas stay on disk, so that they can be recomputed."""


class Say(msgspec.Struct, frozen=True):
    """Effect: send a message on `/synapse/learn/1.0.0`."""

    peer: bytes
    message: Said


class Propose(msgspec.Struct, frozen=True):
    """Effect: append this body to the group's log; its blobs are on our disk."""

    body: bytes
    blobs: tuple[Blob, ...]
    tag: int
    """The log's Declined brings it back."""


class Part(msgspec.Struct, frozen=True):
    """One input of an aggregate."""

    source: bytes
    blob: Blob
    weight: int
    """Learners that it stands for."""
    is_sum: bool = False


class Aggregate(msgspec.Struct, frozen=True):
    """Effect: make a round's result of these, in this order, and answer Aggregated (with the
    same ticket) when its blob is on disk; else NotAggregated."""

    ticket: int
    number: int
    base: bytes
    parts: tuple[Part, ...]


class Advance(msgspec.Struct, frozen=True):
    """Effect: this round is committed: make the version after it, by its result."""

    round: Round
    state: Blob | None


class Release(msgspec.Struct, frozen=True):
    """Effect: these blobs are needed here no longer."""

    digests: tuple[bytes, ...]


class Heard(msgspec.Struct, frozen=True):
    """A message; its blobs (messages.blobs_of) are on our disk, each checked against its name,
    and each delta parsed (delta.py)."""

    peer: bytes
    message: Said


class Led(msgspec.Struct, frozen=True):
    """We are the primary: our log is committed anew, and takes proposals."""

    term: Term


class Followed(msgspec.Struct, frozen=True):
    """Somebody else is, or nobody."""

    term: Term
    primary: bytes | None


class Committed(msgspec.Struct, frozen=True):
    """The next body of the log; `tag` of its Propose, where that was ours."""

    body: bytes
    tag: int | None = None


class Declined(msgspec.Struct, frozen=True):
    """The log did not take the Propose of this tag."""

    tag: int


class Aggregated(msgspec.Struct, frozen=True):
    """What Aggregate made. `shares` are of its parts, in thousandths, in their order; `bad` are
    the parts that could not be used, by digest."""

    ticket: int
    result: Blob
    head: bytes
    shares: tuple[int, ...]
    bad: tuple[bytes, ...] = ()
    state: Blob | None = None


class NotAggregated(msgspec.Struct, frozen=True):
    """It failed."""

    ticket: int
    why: str
    bad: tuple[bytes, ...] = ()


class Tick(msgspec.Struct, frozen=True):
    """`next_wake` has come, or time passes."""


Event = Heard | Led | Followed | Committed | Declined | Aggregated | NotAggregated | Tick


Effects = list[Effect | Say | Propose | Aggregate | Advance | Release]


def anybody(_peer: bytes) -> bool:
    return True


class RoundsSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Of one group at one replica."""

    realm: Realm
    model: bytes
    group: int
    plan: Plan
    genesis: bytes
    """Root of version 0."""
    me: bytes
    epoch: int
    replicas: tuple[bytes, ...]
    max_delta: int
    """Bytes of a delta of this group, by the plan's most generous codec."""
    may_learn: Callable[[bytes], bool] = anybody
    """Whose deltas are taken: nobody's who was caught."""
    may_aggregate: Callable[[bytes], bool] = anybody
    """Whose sums are taken: candidates (regions.py) who were not caught."""


def record_key(model: bytes, group: int, number: int) -> bytes:
    """Of a record in TABLE."""
    return model + group.to_bytes(4, "big") + number.to_bytes(4, "big")
