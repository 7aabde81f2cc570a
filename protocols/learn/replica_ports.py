"""What a group's replica (replica.py) is told, what it asks for, and its words.

    Heard          a frame from another replica                    Stored    blobs are on disk
    Tick           `next_wake` has come                            Propose   append this (primary)
    Turned         the ledger's new epoch, and the group's three   Folded    a snapshot of the state
    Ticked         the ledger's newest tick                        Able      can it compute?
    Lost           the connection with a peer ended                Distrusted  it lied
    Damaged        what it stored cannot be read                   Refound   begin from here

Effects are Save, Send, Emit and Blame of protocols/effects.py and those below. A driver performs
the lists in the order in which `handle` returned them, each in its order, and what was saved is on
disk before anything behind it, or in a later list, leaves the node or reaches the state machine
(`Committed`, `Installed`, `Leading`, `Release`).
Bodies and states are opaque bytes; blobs are files that only their digests stand for here.
"""

from collections.abc import Mapping
from typing import Annotated, NamedTuple

import msgspec

from protocols.effects import Blame, Emit, Save, Send
from protocols.learn.claims import MAX_DELTA, Digest, GroupNumber
from protocols.learn.partition import group_key
from protocols.ledger.council import PeerId
from protocols.manifest import CidBytes

TABLE = "replicas"
"""Where every group's rows are; a group's keys begin with its `GroupId.key`."""
BIRTH = b"birth"
"""The one row that is the daemon's and no group's (replica_birth.py)."""

REPLICAS = 3
QUORUM = 2

MAX_BODY = 128 << 10
"""Bytes of an entry: a round of 512 inputs is 40 KB."""
MAX_STATE = 512 << 10
"""Bytes of a snapshot's state: who learned in two rounds (2,048 of 75 bytes), and the signed claims
of what came late, of some KB each. A larger one is not made: the log stays longer for a round."""
MAX_ENTRY_BLOBS = 16
"""Blobs that come with one entry: a delta, or a result and what belongs to it."""
MAX_STATE_BLOBS = 2048
"""Blobs that a snapshot needs: those of every offer that is not in a round yet."""

Number = Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)]
Epoch = Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)]
Index = Annotated[int, msgspec.Meta(ge=0, lt=1 << 48)]


class Term(msgspec.Struct, frozen=True, order=True, array_like=True, forbid_unknown_fields=True):
    """Who may append: terms are ordered by epoch, then number.

    `number % 3` is the rank of the term's one candidate in its epoch's group, so two candidates
    never share a term, and everybody knows the primary of each.
    """

    epoch: Epoch
    number: Number


NO_TERM = Term(0, 0)
"""Below every term that anybody asks for: numbers begin with 3 + rank."""


class Blob(msgspec.Struct, frozen=True, order=True, array_like=True, forbid_unknown_fields=True):
    """A file that an entry, or a snapshot, is worth nothing without."""

    digest: Digest
    size: Annotated[int, msgspec.Meta(ge=1, le=MAX_DELTA)]


class Entry(msgspec.Struct, frozen=True):
    """What stands at one index of a log."""

    body: bytes
    blobs: tuple[Blob, ...] = ()


class Snapshot(msgspec.Struct, frozen=True):
    """What all entries up to `index` add up to."""

    index: int
    state: bytes
    blobs: tuple[Blob, ...] = ()


class GroupId(msgspec.Struct, frozen=True, order=True):
    """One group of one lineage."""

    model: CidBytes
    number: GroupNumber

    @property
    def key(self) -> bytes:
        """What its rows' keys begin with, and what it is ranked by."""
        return group_key(self.model, self.number)


class Seats(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The group's three of one epoch, as everybody computes them (placement.py)."""

    epoch: Epoch
    replicas: Annotated[tuple[PeerId, ...], msgspec.Meta(max_length=REPLICAS)]
    """The first choice first: rank 0 asks for the epoch's first term. Three, or none: an epoch in
    which the group was not served."""
    began: Index
    """Index of the ledger's entry from which this group could serve in this epoch: the epoch
    entry's, or the one that opened the training where that is later."""
    started_ms: Annotated[int, msgspec.Meta(ge=0, lt=1 << 53)]
    """The ledger's time at that entry; 0 where it is not known (of an epoch that is over)."""

    def __post_init__(self) -> None:
        if len(self.replicas) not in (0, REPLICAS):
            raise ValueError(f"a group of {len(self.replicas)}")


class ReplicaSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How often, how long, how much."""

    beat_ms: int = 500
    """A primary is heard of as often. Two round trips between continents; a take-over costs about
    three beats."""
    patience_tenths: int = 23
    """Tenths of a beat without a word of the primary until the next in rank asks for a term: one
    lost heartbeat is forgiven, and three lost messages of a take-over fit into four beats."""
    stagger_tenths: int = 12
    """Tenths of a beat that each later rank waits longer: a take-over is four messages, and must
    be over before the next in rank begins another. So long, too, the first waits for the next
    heartbeat of a primary whose connection ended."""
    window: int = 128
    """Entries that are not committed yet, at most. A round of 100 learners, and some late ones."""
    chunk: int = 64
    """Entries of one message at most,"""
    chunk_bytes: int = 256 << 10
    """... and bytes of their bodies: 0.2 s on a home uplink of 10 Mbit/s."""
    lease_ms: int = 60_000
    """A replica whose newest tick is older acknowledges nothing. A minute outlasts what a healthy
    council needs for a tick by far, and stays below what people wait for a stuck group."""
    forced_leases: int = 10
    """Leases, by the ledger's time after an epoch's entry, until a group may begin without the seal
    of two of the epoch before. Two would be safe: one that the last acknowledgement of the old ones
    may take, and one for all that clocks are wrong by. But who is only cut off, or reboots, is
    taken for lost then, and with it what nobody else has: ten minutes outlast most of that."""

    def __post_init__(self) -> None:
        if self.beat_ms < 1 or self.patience_tenths < 11 or self.stagger_tenths < 1:
            raise ValueError("a primary must be waited for longer than one heartbeat")
        if not 1 <= self.chunk <= self.window or self.chunk_bytes < 1:
            raise ValueError("a chunk is at least one entry, and at most the window")
        if self.lease_ms < 1 or self.forced_leases < 2:
            raise ValueError("a lease must be over, with room for wrong clocks, before its force")

    @property
    def patience_ms(self) -> int:
        """Until the first in rank stands."""
        return self.beat_ms * self.patience_tenths // 10

    @property
    def stagger_ms(self) -> int:
        """Between ranks."""
        return self.beat_ms * self.stagger_tenths // 10


# -- events ------------------------------------------------------------------------------------


class Heard(msgspec.Struct, frozen=True):
    """A frame of replica_messages.PROTOCOL came from `peer`, which the stream authenticates."""

    peer: bytes
    data: bytes


class Tick(msgspec.Struct, frozen=True):
    """`next_wake` has come."""


class Turned(msgspec.Struct, frozen=True):
    """The ledger has a new epoch. Newest first, of consecutive epochs, back to where `Established`
    last said (or as far as this daemon knows them): who has to seal is computed from these. What
    stands below a gap is not looked at: whoever does not know an epoch cannot know who seals it."""

    seats: tuple[Seats, ...]


class Ticked(msgspec.Struct, frozen=True):
    """The ledger's newest tick, whenever there is a new one (and once after the start)."""

    index: int
    """Of the ledger's newest entry."""
    tick_ms: int
    unix_ms: int
    """What this machine's clock shows now."""


class Propose(msgspec.Struct, frozen=True):
    """Append an entry, whose blobs are on disk. `tag` comes back in Committed or Declined."""

    body: bytes
    blobs: tuple[Blob, ...] = ()
    tag: int = 0


class Stored(msgspec.Struct, frozen=True):
    """These blobs are on disk, synced and with their hashes checked."""

    digests: tuple[bytes, ...]


class Folded(msgspec.Struct, frozen=True):
    """The state machine's snapshot at a committed index: entries up to it may go."""

    index: int
    state: bytes
    blobs: tuple[Blob, ...] = ()


class Able(msgspec.Struct, frozen=True):
    """Whether this node can compute: without, it stores and acknowledges, and does not lead."""

    can_lead: bool


class Lost(msgspec.Struct, frozen=True):
    """The connection with a peer ended: a hint, by which a killed primary is replaced sooner."""

    peer: bytes


class Distrusted(msgspec.Struct, frozen=True):
    """A replica lied about a round (judging.py): in this epoch nothing more is taken from it, and
    it is neither followed nor counted. Before `start` for what was known of it."""

    peer: bytes


class Damaged(msgspec.Struct, frozen=True):
    """A blob or row that was stored is gone or wrong: nothing more in this epoch (rule 4)."""

    why: str


class Refound(msgspec.Struct, frozen=True):
    """Where an epoch is forced and no log of the ones before is left: begin with this snapshot,
    made of the newest round that anybody has a record of. Its blobs are on disk."""

    snapshot: Snapshot


Event = (
    Heard
    | Tick
    | Turned
    | Ticked
    | Propose
    | Stored
    | Folded
    | Able
    | Lost
    | Distrusted
    | Damaged
    | Refound
)


# -- effects -----------------------------------------------------------------------------------


class Fetch(msgspec.Struct, frozen=True):
    """Get these blobs (the other replicas have them, `peer` for certain); answer with Stored, for
    those that are there already, too. Asked again while they are missing."""

    peer: bytes
    blobs: tuple[Blob, ...]


class Committed(msgspec.Struct, frozen=True):
    """Two of three have this entry: fold it. In order of index, without gaps, each once a life."""

    index: int
    body: bytes
    blobs: tuple[Blob, ...]
    tag: int | None
    """Of the Propose, where this replica made it, in this term."""
    writer: bytes | None = None
    """Who appended it: the primary whose log this is, and not one before it; None for those."""


class Installed(msgspec.Struct, frozen=True):
    """Put this in place of the state machine's state: the next Committed is `index` + 1."""

    snapshot: Snapshot


class Leading(msgspec.Struct, frozen=True):
    """This replica is the primary: its log is committed anew, and all of it was given. Propose."""

    term: Term


class Following(msgspec.Struct, frozen=True):
    """Somebody else is, or (None) nobody as far as we know. Told when it changes."""

    term: Term
    primary: bytes | None


class Declined(msgspec.Struct, frozen=True):
    """A Propose that is not taken, or of which nobody can say yet whether it will be committed:
    whoever made the offer is to make it again, to the primary that then is."""

    tag: int
    why: str


class Established(msgspec.Struct, frozen=True):
    """Something was committed in this epoch: nobody needs the seats of older ones any more."""

    epoch: int


class Release(msgspec.Struct, frozen=True):
    """No entry and no snapshot of this replica refers to these blobs any more."""

    blobs: tuple[Blob, ...]


class Retired(msgspec.Struct, frozen=True):
    """A later epoch's group serves, this replica is not in it, and its rows are gone."""


class Orphaned(msgspec.Struct, frozen=True):
    """The epoch is forced and nobody of the old group answers: answer with Refound, if anything
    newer than the beginning is known."""

    epoch: int


Effect = (
    Save
    | Send
    | Emit
    | Blame
    | Fetch
    | Committed
    | Installed
    | Leading
    | Following
    | Declined
    | Established
    | Release
    | Retired
    | Orphaned
)


class Place(NamedTuple):
    """How far a log goes: what candidates compare (rule 2)."""

    accepted: Term
    """Of the primary whose log it last took over, not of each entry's creation."""
    length: int


Saved = Mapping[bytes, bytes]
"""Rows of TABLE whose keys begin with the group's key."""
