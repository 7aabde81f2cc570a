"""What waits in a pool: its names, its limits, and what the ledger has of it already."""

import hashlib

import msgspec

from protocols.envelope import Verify
from protocols.errors import LimitError, MalformedError, RefusedError
from protocols.follow.snapshot import is_checkpoint
from protocols.ledger.entries import (
    Approval,
    Body,
    Candidacy,
    EpochEntry,
    GuiltProof,
    Latency,
    Note,
    Proposal,
    Report,
    Reveal,
    Submission,
    Verdict,
    Vote,
    Waiting,
    decode_entry,
    decode_waiting,
)
from protocols.ledger.errors import InvalidEntryError
from protocols.ledger.fold import LedgerState
from protocols.ledger.quota import left
from protocols.ledger.rollout import MAX_REPORTS
from protocols.ledger.signing import approval_message, check_submission, vote_message
from protocols.ledger.state import WINDOW_MS
from protocols.ledger.submissions import MAX_CANDIDACIES
from protocols.peerid import public_key_of
from protocols.realm import Realm

REMEMBERED = 65_536
"""Signatures that are not verified again: 8 MB, and more than two full pools."""


class PoolFullError(RefusedError):
    """No room for what could otherwise be ratified."""

    code = "pool-full"


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """How much waits at one daemon."""

    items: int = 16_384
    """Eight seconds at 2,000 entries a second."""
    size: int = 16 << 20
    """Bytes."""
    per_author: int = 1024
    """Items of one author: its quota of a day is 200, but a daemon's bench writes more."""
    gather: float = 0.05
    """Seconds that votes wait for others, so that a rush of them becomes few entries."""


def is_lie(data: bytes, realm: Realm | None, verify: Verify) -> bool:
    """Whether whoever passed this on must have known that it is none: it cannot be decoded, or is
    not signed by whom it names in the ledger that they follow, where that is known. All else may
    depend on how much of the ledger somebody has."""
    try:
        decoded = decode_waiting(data)
        said = decoded.entry
        if realm is None:
            return False
        if isinstance(said, Submission):
            check_submission(realm, said, decoded.signed, verify)
        elif isinstance(said, Vote):
            message = vote_message(realm, said.proposal, said.choice, said.epoch, said.number)
            return not verify(public_key_of(said.voter), message, said.signature)
        elif isinstance(said, Approval):
            return not verify(said.key, approval_message(realm, said.proposal), said.signature)
    except (MalformedError, LimitError):
        return True
    return False


Share = tuple[bytes, str, bytes]
"""An author, a kind, and what it is about."""


class Item(msgspec.Struct):
    """Something that waits."""

    name: bytes
    id: bytes
    """A submission's id on the ledger."""
    data: bytes
    said: Waiting
    author: bytes
    since: float
    ahead: int
    """How many waited when it came, with those ratified before: its turn is after those."""
    mine: bool
    """It was submitted here."""
    told: float | None
    """When the present leader was sent it; None before."""
    share: Share
    """Of what its author may have waiting."""


class Gone(msgspec.Struct, frozen=True):
    """An item that waits no longer: ratified in the entry at `index`, or never (`error`)."""

    item: Item
    index: int
    error: InvalidEntryError | None


class Verified:
    """`verify` that remembers what it found good."""

    def __init__(self, verify: Verify, limit: int = REMEMBERED) -> None:
        self._verify = verify
        self._limit = limit
        self._good: dict[bytes, None] = {}

    def __call__(self, public_key: bytes, message: bytes, signature: bytes) -> bool:
        """Whether the signature is good."""
        name = hashlib.sha256(public_key + signature + message).digest()
        if name in self._good:
            return True
        if not self._verify(public_key, message, signature):
            return False
        if len(self._good) >= self._limit:
            del self._good[next(iter(self._good))]
        self._good[name] = None
        return True


def share_of(said: Waiting) -> Share:
    """What bounds how many like it one author may have waiting."""
    if isinstance(said, Vote):
        return said.voter, "vote", said.proposal
    if isinstance(said, Approval):
        return said.key, "approval", said.proposal
    return said.author, *_kind_and_subject(said.body)


def _kind_and_subject(body: Body) -> tuple[str, bytes]:
    match body:
        case Note() | Proposal():
            return "quota", b""
        case Verdict(proposal=proposal):
            return "verdict", proposal
        case Report(proposal=proposal):
            return "report", proposal
        case GuiltProof(proof=proof):
            return "guilt", b"%d %d" % (proof.epoch, proof.seat)
        case Candidacy(epoch=epoch) | Reveal(epoch=epoch) | Latency(epoch=epoch):
            return type(body).__name__, b"%d" % epoch


def most_of(share: Share, ledger: LedgerState) -> int:
    """How many of a share the ledger would still take: more of them would wait for nothing."""
    author, kind, _ = share
    if kind == "quota":
        return left(ledger.standing(author), ledger.day, ledger.params)
    if kind == "report":
        return MAX_REPORTS
    return MAX_CANDIDACIES if kind == Candidacy.__name__ else 1


def same_debt(owed: bytes | None, time: int) -> tuple[bytes, int] | None:
    """What is owed, so that it stays the same while it is withheld: a tick while time stands, and
    a checkpoint whatever else is appended."""
    if owed is None:
        return None
    if is_checkpoint(owed):
        return b"checkpoint", 0
    return owed, time if owed == b"tick" else 0


VOTES = b"\xa2\x64kind\x65votes"
_EPOCH = b"\x64kind\x65epoch"


def ends_epoch(payload: bytes) -> bool:
    return _EPOCH in payload[:32] and isinstance(decode_entry(payload).entry, EpochEntry)


def vote_name(proposal: bytes, voter: bytes) -> bytes:
    return hashlib.sha256(b"vote" + proposal + voter).digest()


def name_of(said: Waiting, data: bytes) -> tuple[bytes, bytes]:
    """What it waits under, and whose it is."""
    if isinstance(said, Vote):
        return vote_name(said.proposal, said.voter), said.voter
    name = hashlib.sha256(data).digest()
    return name, said.key if isinstance(said, Approval) else said.author


def supersedes(said: object, known: object) -> bool:
    """Whether a voter has changed its mind since."""
    return isinstance(said, Vote) and isinstance(known, Vote) and said.number > known.number


def contains(ledger: LedgerState, item: Item) -> bool:
    """Whether a ledger has an item, or one that makes it void."""
    said = item.said
    if isinstance(said, Submission):
        known = ledger.recent.get(said.expires // WINDOW_MS)
        return known is not None and item.id in known
    found = ledger.open.get(said.proposal)
    if found is None:
        return True
    if isinstance(said, Vote):
        return found.number_of(said.voter) >= said.number
    return said.key in found.approvals
