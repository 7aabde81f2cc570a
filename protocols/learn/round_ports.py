"""What a group's rounds (rounds.py) are told, what they ask for, and what they are bounded by."""

from collections.abc import Callable

import msgspec

from protocols.effects import Effect
from protocols.learn.claims import Endorsement, Record, Round
from protocols.learn.messages import Blob, Said
from protocols.learn.replica_ports import Term
from protocols.learn.roundlog import Standing
from protocols.plan import Plan, plan_digest
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
"""Until an endorsement that had no effect is sent again, doubling,"""
AGAIN_LATEST_MS = 30_000
"""... and at last as seldom as this: who is away for long is asked seldom."""
RETRY_MS = 2_000
"""Until a round that could not be aggregated is tried again: a worker restarts in less."""
LACK_WAIT_MS = 120_000
"""For a plan, or an outer state, that a round names and that is not here: two leases, in which a
ledger that is not too old to acknowledge anything has the plan, and whoever has the state gives it.
After that the round counts for nothing: else whoever names what nobody has would stop a group for
good."""
KEEP_ROUNDS = 4
"""Closed rounds whose deltas stay on disk, so that they can be recomputed."""
KEEP_STATES = 2
"""Outer states that stay on disk: the newest, and the one that the newest round began from."""


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


class State(msgspec.Struct, frozen=True):
    """The outer optimiser's after some round: bytes that are named by their sha256."""

    digest: bytes
    size: int


class Aggregate(msgspec.Struct, frozen=True):
    """Effect: make a round's result of these, in this order, and answer Aggregated (with the
    same ticket) when its blob is on disk; else NotAggregated."""

    ticket: int
    number: int
    base: bytes
    parts: tuple[Part, ...]
    plan: Plan
    before: State | None = None
    """The outer state to begin from; None: from nothing."""
    judging: bool = False
    """Whether it is somebody else's round that is looked at: only with that very state. A primary
    that cannot have it begins from nothing instead."""


class Advance(msgspec.Struct, frozen=True):
    """Effect: this round is committed, and right: make the version after it, by its result."""

    round: Round


class Fold(msgspec.Struct, frozen=True):
    """Effect: the entries up to this index of the log add up to `standing`, and may go: the last
    round has its record."""

    index: int
    standing: Standing


class Distrust(msgspec.Struct, frozen=True):
    """Effect: this replica lied, or cannot compute: follow it no more in this epoch."""

    peer: bytes


class Lied(msgspec.Struct, frozen=True):
    """Effect: `by` is the signature of who computed `round` wrongly: from the version, the state
    and the inputs that it names comes something else. They are on our disk."""

    round: Round
    by: Endorsement


class Contradicted(msgspec.Struct, frozen=True):
    """Effect: our log is not the group's: what two replicas signed, or what learners did, is
    otherwise. As good as a damaged disk."""

    why: str


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
    index: int = 0
    writer: bytes | None = None
    """Who appended it, where that was the primary that leads now."""


class Installed(msgspec.Struct, frozen=True):
    """The log begins after `index` with this state (an encoded Standing)."""

    state: bytes
    index: int = 0


class Declined(msgspec.Struct, frozen=True):
    """The log did not take the Propose of this tag."""

    tag: int


class Aggregated(msgspec.Struct, frozen=True):
    """What Aggregate made. `shares` are of its parts, in thousandths, in their order; `bad` are
    the parts that could not be used, by digest. `before` is the state that it began from."""

    ticket: int
    result: Blob
    head: bytes
    shares: tuple[int, ...]
    bad: tuple[bytes, ...] = ()
    before: State | None = None
    after: State | None = None


class NotAggregated(msgspec.Struct, frozen=True):
    """It failed."""

    ticket: int
    why: str
    bad: tuple[bytes, ...] = ()
    lacking: bool = False
    """Whether the outer state is what failed: nobody gave it."""


class Tick(msgspec.Struct, frozen=True):
    """`next_wake` has come, or time passes."""


Event = (
    Heard | Led | Followed | Committed | Installed | Declined | Aggregated | NotAggregated | Tick
)


Effects = list[
    Effect | Say | Propose | Aggregate | Advance | Fold | Distrust | Lied | Contradicted | Release
]


def anybody(_peer: bytes) -> bool:
    """Nobody was caught."""
    return True


class RoundsSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Of one group at one replica."""

    realm: Realm
    model: bytes
    group: int
    plan: Plan
    """What rounds are made by now;"""
    former: tuple[Plan, ...] = ()
    """... plans of the same training before it: a round that one of these made may be undecided."""
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
    check: Callable[[Record], None] | None = None
    """Raises SynapseError unless two replicas of a record's group, of whatever epoch, signed it;
    None: records of this epoch alone are known."""

    def plan_of(self, digest: bytes) -> Plan | None:
        """The plan that a round names, where it is known here."""
        return next((it for it in (self.plan, *self.former) if plan_digest(it) == digest), None)


def record_key(model: bytes, group: int, number: int) -> bytes:
    """Of a record in TABLE."""
    return model + group.to_bytes(4, "big") + number.to_bytes(4, "big")
