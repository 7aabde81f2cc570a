"""What daemons say to each other to follow the ledger, on one protocol, in frames both ways.

    Status        whoever connects, and who has newer news (also gossiped)
    GetEntries    -> Entries    a range, and the proof that its last entry is ratified
    GetLinks      -> Links      the ends of epochs, from which councils are known
    GetSnapshot   -> Snapshot   a part of the state at a ratified checkpoint
    Prove         -> Proven     one entry with its proof
    ...           -> Refused    busy, pruned, or not there yet

Payloads and state follow their message raw (packing.py). Requests carry a number of the asker's;
what nobody asked for is refused. A range is of one epoch, and as long as the asker wants, unless
its bytes, its epoch or the server's certificate end before: that is checked, so that nobody
stretches a download by answers of one entry each.
"""

import enum
from collections.abc import Sequence
from typing import Annotated

import libipld
import msgspec

from protocols.codec import Message
from protocols.ledger.chain import Hash, Header, Index
from protocols.ledger.council import Certificate
from protocols.ledger.entries import MAX_ENTRY
from protocols.ledger.proof import Link, Proof

PROTOCOL = "/synapse/ledger/1.0.0"
HEADS = "ledger"
"""The gossip topic on which a newly ratified head is told (a Status)."""

MAX_COUNT = 4096
"""Entries in one range: MAX_RANGE of the smallest that there are."""
MAX_RANGE = 256 << 10
"""Bytes of payloads in one range, or one entry: 600 entries, a third of a second to verify."""
MAX_MESSAGE = 320 << 10
"""Bytes of a message without what follows it: a path of 2,048 headers of 140 bytes, a certificate
of 3 KB and 4,096 lengths of 4 bytes."""
MAX_LINKS = 64
"""Ends of epochs in one answer: with certificates of 43 signatures, 200 KB."""
MAX_LINK_BYTES = 256 << 10
"""Bytes of epoch entries behind them."""
MAX_PART = 256 << 10
"""Bytes of one part of a state."""
MAX_STATE = 64 << 20
"""Bytes of a state: 300,000 identities of 200 bytes. A part proves itself only with the whole, so
this is what a liar can make a newcomer fetch and hold in vain, once."""
MAX_FRAME = MAX_MESSAGE + max(MAX_RANGE, MAX_LINK_BYTES, MAX_PART) + MAX_ENTRY + 4
MAX_STATUS = 8 << 10
"""Bytes of a status: a certificate of 43 signatures is 3 KB."""
MAX_NETWORK = 64

Number = Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)]
Count = Annotated[int, msgspec.Meta(ge=1, le=MAX_COUNT)]
Network = Annotated[str, msgspec.Meta(max_length=MAX_NETWORK)]
Length = Annotated[int, msgspec.Meta(ge=0, le=max(MAX_ENTRY, MAX_PART))]


class Status(Message, frozen=True, array_like=True, tag=0):
    """What the sender has ratified. The certificate shows it to whoever knows its epoch."""

    network: Network
    genesis: Hash
    """The chain hash of the genesis entry. Who has another one is let be, and not blamed."""
    base: Index
    """The lowest entry that can be asked for."""
    certificate: Certificate | None
    """None where nothing beyond the genesis is ratified yet."""

    @property
    def index(self) -> int:
        """The newest entry."""
        return self.certificate.said.index if self.certificate is not None else 0


class GetEntries(Message, frozen=True, array_like=True, tag=1):
    """Entries from `start` on, at most `count`."""

    number: Number
    start: Index
    count: Count


class Entries(Message, frozen=True, array_like=True, tag=2):
    """A range; its payloads behind it, as long as `lengths` say."""

    number: Number
    start: Index
    lengths: Annotated[list[Length], msgspec.Meta(min_length=1, max_length=MAX_COUNT)]
    proof: Proof
    """Of the last one."""


class GetLinks(Message, frozen=True, array_like=True, tag=3):
    """The ends of epochs from `epoch` on."""

    number: Number
    epoch: Index


class Links(Message, frozen=True, array_like=True, tag=4):
    """Ends of epochs, one after another; the epoch entries' payloads behind them."""

    number: Number
    links: Annotated[list[Link], msgspec.Meta(max_length=MAX_LINKS)]
    lengths: Annotated[list[Length], msgspec.Meta(max_length=MAX_LINKS)]


class GetSnapshot(Message, frozen=True, array_like=True, tag=5):
    """A part of the state at the checkpoint entry `index`; of the newest one, where it is 0."""

    number: Number
    index: Index
    offset: Annotated[int, msgspec.Meta(ge=0, le=MAX_STATE)]


class Snapshot(Message, frozen=True, array_like=True, tag=6):
    """A checkpoint entry with its proof; its payload and a part of the state behind it."""

    number: Number
    header: Header
    proof: Proof
    size: Annotated[int, msgspec.Meta(ge=1, le=MAX_STATE)]
    """Bytes of the whole state."""
    offset: Annotated[int, msgspec.Meta(ge=0, le=MAX_STATE)]
    lengths: Annotated[list[Length], msgspec.Meta(min_length=2, max_length=2)]
    """Of the entry and of the part."""


class Prove(Message, frozen=True, array_like=True, tag=7):
    """One entry, with its proof."""

    number: Number
    index: Index


class Proven(Message, frozen=True, array_like=True, tag=8):
    """An entry's header and proof; its payload behind it."""

    number: Number
    header: Header
    proof: Proof
    length: Length


class Why(enum.StrEnum):
    """Why there is no answer."""

    BUSY = "busy"
    """More was asked for than we give: ask again later."""
    PRUNED = "pruned"
    """Below `base`: there is a snapshot."""
    AHEAD = "ahead"
    """Above what we have ratified."""
    NONE = "none"
    """There is no such thing here: no snapshot, no later epoch."""


class Refused(Message, frozen=True, array_like=True, tag=9):
    """No answer, and why; what the sender does have."""

    number: Number
    why: Why
    base: Index
    head: Index


Request = GetEntries | GetLinks | GetSnapshot | Prove
Answer = Entries | Links | Snapshot | Proven | Refused
Said = Status | Request | Answer


class Frame(Message, frozen=True, array_like=True):
    """Anything that is said."""

    said: Said


def frame(said: Said, parts: Sequence[bytes] = ()) -> bytes:
    """The bytes of one frame, as packing.unpack reads it."""
    # Messages hold lists and no tuples, so they need no copying as codec.encode does it.
    plain = msgspec.to_builtins(Frame(said=said), builtin_types=(bytes,))
    encoded = libipld.encode_dag_cbor(plain)
    return b"".join((len(encoded).to_bytes(4, "big"), encoded, *parts))
