"""What the council's log (raft/replica.py) is told, what it asks for, and what it stands on.

    Start          begin, or begin again after a restart          -> anything below
    Received       a frame from the member at another seat         -> Send, Save, Ratify, Blame, ...
    Alarm          `wake_at` has come                              -> the same
    Submitted      the pool has something new                      -> Save, Send (at the leader)
    Ratified       following taught us ratified entries            -> Save, Send
    Installed      following replaced the ratified ledger          -> Save, Send

The ratified ledger is shared: whoever owns the Replica folds the payloads of each `Ratify` into
it, and what it learnt by following, before it passes on the next event. The Replica reads it and
folds on a copy.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from protocols.envelope import Verify
from protocols.ledger.chain import Head, Header
from protocols.ledger.council import Certificate, Guilt, Instant

TABLE = "council"
"""Where a Replica saves what it must not forget."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Durations in seconds, and how much is under way at once."""

    time_out: float = 4.0
    """Without a newly ratified entry for so long, a member suspects the leader: sixteen round
    trips between continents. The ledger's parameter council.time_out_ms replaces it."""
    tick: float = 1.0
    """An idle leader ratifies a tick as often: four in a time-out, so that three may be lost."""
    retry: float = 0.25
    """What is not answered is sent again as often. A sixteenth of a time-out, so that eight
    messages one after another, each lost twice, still fit into one."""
    gap: float = 0.01
    """While a batch is under way the next ones follow at least so long after each other, so that
    batches fill up; longer where a round trip takes longer (raftleader.PACE)."""
    pipeline: int = 32
    """Batches without a certificate, at most: 0.3 s of them at `gap`."""
    max_batch: int = 256
    """Entries of one batch; no more than raftmessages.MAX_BATCH."""

    def __post_init__(self) -> None:
        if not 0 < self.retry <= self.time_out or not 0 < self.tick < self.time_out:
            raise ValueError("a council's ticks and retries must come within a time-out")
        if self.pipeline < 1 or self.max_batch < 1 or self.gap < 0:
            raise ValueError("a council needs room for at least one batch of one entry")


class Ledger(Protocol):
    """The fold of a chain's entries, as far as the log looks into it."""

    @property
    def head(self) -> Head: ...

    @property
    def epoch(self) -> int:
        """Of the entry that comes next."""

    def apply(self, payload: bytes, verify: Verify) -> Header:
        """Append an entry. Raises SynapseError, and changes nothing, where it is not valid."""

    def timely(self, payload: bytes, unix_ms: int) -> bool:
        """Whether an entry that states a time states one near this clock."""

    def tick(self, unix_ms: int, *, idle: bool = False) -> bytes | None:
        """A tick entry, if one is due by this clock; with `idle` also where the clock of a leader
        before was ahead of it."""

    def copy(self) -> "Ledger": ...


class PoolLike(Protocol):
    """What waits to be ratified."""

    def take(self, ledger: Any, now: Instant, max_entries: int, max_bytes: int) -> list[bytes]:
        """Entries to append to `ledger` next: it is of the kind that the Replica was given.

        They stay in the pool until they are ratified.
        """

    def overdue(self, now: Instant, time_out: float) -> bool:
        """Whether something that could have been ratified has waited for a time-out."""


# -- events ------------------------------------------------------------------------------------


class Start(msgspec.Struct, frozen=True):
    """Begin."""


class Received(msgspec.Struct, frozen=True):
    """A frame from the member at `seat`, whose identity the connection has proven."""

    seat: int
    data: bytes


class Alarm(msgspec.Struct, frozen=True):
    """Time passes."""


class Submitted(msgspec.Struct, frozen=True):
    """The pool has something new."""


class Ratified(msgspec.Struct, frozen=True):
    """The ratified ledger was advanced by `payloads`, up to what `certificate` covers."""

    payloads: Sequence[bytes]
    certificate: Certificate


class Installed(msgspec.Struct, frozen=True):
    """The ratified ledger was replaced by this one, from a snapshot that `certificate` covers.

    Whether that chain contains what this seat acknowledged in the current term cannot be told
    without the entries between: if it did so below the snapshot, it acknowledges again from the
    next term on (rule 1), and takes part in time-outs meanwhile.
    """

    ledger: Ledger
    certificate: Certificate


Event = Start | Received | Alarm | Submitted | Ratified | Installed

# -- effects, beside those of effects.py -------------------------------------------------------


class Ratify(msgspec.Struct, frozen=True):
    """Append `payloads` to the ratified ledger: the last one stands where `certificate` says.

    `ledger` is the fold up to there, if it was kept: nobody else holds it, and whoever takes it
    over need not fold the payloads once more.
    """

    payloads: Sequence[bytes]
    certificate: Certificate
    ledger: Any = None


class Accuse(msgspec.Struct, frozen=True):
    """Submit this proof, and gossip it."""

    guilt: Guilt


class Behind(msgspec.Struct, frozen=True):
    """`peer` has ratified entries up to `index` at least, which we lack: follow it."""

    peer: bytes
    index: int
