"""What a group's log means: the fold of its committed bodies.

    taken     a learner's signed delta, or a region's signed sum, is on two disks
    closed    a round: what went into it, and the version that it made

Rules of this file:
1. Everybody who folds the same bodies in the same order is in the same state; a body that does
   not fit (a second end of one round, a delta that came too late) changes nothing.
2. A delta is for one round. It goes into that one, or, when it was taken after that was closed,
   into the next: carried, not lost. A learner has one for each round.
3. What a closed round did not name stays for the next one, also what was late before: what was
   taken was acknowledged, so it is in a round sooner or later.
"""

from collections.abc import Iterable, Iterator
from typing import Annotated

import msgspec

from protocols.codec import Message, decode, encode
from protocols.learn.claims import (
    MAX_INPUTS,
    BadClaimError,
    Claim,
    Digest,
    GroupNumber,
    Made,
    Number,
    Round,
    Sum,
)
from protocols.learn.messages import Blob
from protocols.learn.replica_ports import MAX_BODY, MAX_STATE
from protocols.ledger.council import PeerId

MAX_LEARNERS = 2048
"""Behind one round, with those in sums: so a whole state stays below replica_ports.MAX_STATE."""
MAX_SPREAD_MS = 86_400_000


class Spread(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """How far apart deltas came in former rounds (grace.py), so that a successor knows it."""

    mean_ms: Annotated[int, msgspec.Meta(ge=0, le=MAX_SPREAD_MS)] = 0
    deviation_ms: Annotated[int, msgspec.Meta(ge=0, le=MAX_SPREAD_MS)] = 0
    samples: Annotated[int, msgspec.Meta(ge=0, le=1 << 31)] = 0


class Taken(Message, frozen=True, tag_field="body", tag="taken"):
    """One delta, or sum, of what was signed: that of `group`."""

    group: GroupNumber
    said: Claim | Sum


class Closed(Message, frozen=True, tag_field="body", tag="closed"):
    """A round, whose result is a blob of the entry."""

    round: Round
    dropped: Annotated[tuple[Digest, ...], msgspec.Meta(max_length=MAX_INPUTS)] = ()
    """Inputs that could not be used: they stay for no other round."""
    spread: Spread = Spread()
    state: Blob | None = None
    """Of the outer optimiser, where it keeps one that results do not tell."""


Body = Taken | Closed


class Pending(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A delta or sum that waits for its round to close."""

    source: PeerId
    """Who signed it."""
    made: Made
    learners: Annotated[tuple[PeerId, ...], msgspec.Meta(min_length=1, max_length=MAX_INPUTS)]
    """Whose work it is; as many as it counts for."""
    is_sum: bool

    @property
    def weight(self) -> int:
        """Learners that it stands for."""
        return len(self.learners)


class Seen(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A learner's delta of one round, or the sum that it is in."""

    learner: PeerId
    digest: Digest


class Standing(Message, frozen=True, tag_field="body", tag="standing"):
    """The fold's whole state: what a log that was cut off in front begins with."""

    number: Number
    head: Digest
    before: Digest | None
    pending: Annotated[tuple[Pending, ...], msgspec.Meta(max_length=MAX_INPUTS)]
    seen: Annotated[tuple[Seen, ...], msgspec.Meta(max_length=MAX_LEARNERS)]
    seen_before: Annotated[tuple[Seen, ...], msgspec.Meta(max_length=MAX_LEARNERS)]
    spread: Spread
    last: Round | None


def pending_of(said: Claim | Sum, group: int) -> Pending | None:
    """The delta of `group` in what was signed; None where there is none."""
    if isinstance(said, Sum):
        learners = tuple(entry.learner for entry in said.inputs)
        if said.made.group != group:
            return None
        return Pending(said.aggregator, said.made, learners, is_sum=True)
    for made in said.made:
        if made.group == group:
            return Pending(said.learner, made, (said.learner,), is_sum=False)
    return None


def encode_body(body: Body | Standing) -> bytes:
    """Of an entry of the log."""
    return encode(body)


def decode_body(data: bytes) -> Body | Standing:
    """Raises MalformedError, LimitError."""
    limit = max(MAX_BODY, MAX_STATE)
    body: Body | Standing = decode(data, Body | Standing, limit)  # type: ignore[arg-type]
    return body


class RoundLog:
    """The fold."""

    def __init__(self, group: int, head: bytes) -> None:
        self.group = group
        self.number = 0
        """Of the open round."""
        self.head = head
        """Its base."""
        self.before: bytes | None = None
        """The base of the round before."""
        self.pending: dict[bytes, Pending] = {}
        """By digest, in order of the log."""
        self.seen: dict[bytes, bytes] = {}
        """Learners of the open round, and their deltas' digests (or their sums')."""
        self.seen_before: dict[bytes, bytes] = {}
        """Those of the round before, with whoever came late."""
        self.spread = Spread()
        self.last: Round | None = None

    def apply(self, body: Body | Standing) -> bool:
        """Whether it changed anything."""
        match body:
            case Taken(group, said):
                found = pending_of(said, group) if group == self.group else None
                return found is not None and self._take(found)
            case Closed():
                return self._close(body)
            case Standing():
                self._restore(body)
                return True

    def why_not(self, found: Pending) -> str | None:
        """Why this is not taken: a Reason of messages.py; None where it fits."""
        made = found.made
        if made.number not in (self.number, self.number - 1):
            return "stale" if made.number < self.number else "base"
        late = made.number != self.number
        if made.base != (self.before if late else self.head):
            return "base"
        seen = self.seen_before if late else self.seen
        twice = [learner for learner in found.learners if learner in seen]
        if twice:
            return "duplicate" if found.weight == 1 else "overlap"
        room = len(self.pending) < MAX_INPUTS and len(seen) + found.weight <= MAX_LEARNERS
        return None if room else "full"

    def has(self, found: Pending) -> bool:
        """Whether exactly this was taken, for the open round or the one before."""
        seen = self.seen if found.made.number == self.number else self.seen_before
        return all(seen.get(learner) == found.made.digest for learner in found.learners)

    def seen_of(self, number: int) -> dict[bytes, bytes]:
        """Learners of that round; empty for one that is not open and was not the last."""
        if number == self.number:
            return self.seen
        return self.seen_before if number == self.number - 1 else {}

    @property
    def fresh(self) -> Iterator[Pending]:
        """What waits and is for the open round: the rest was carried."""
        return (found for found in self.pending.values() if found.made.number == self.number)

    def _take(self, found: Pending) -> bool:
        if self.why_not(found) is not None or found.made.digest in self.pending:
            return False
        self.pending[found.made.digest] = found
        seen = self.seen_of(found.made.number)
        seen.update(dict.fromkeys(found.learners, found.made.digest))
        return True

    def _close(self, closed: Closed) -> bool:
        made = closed.round
        if made.number != self.number or made.parent != self.head or made.group != self.group:
            return False
        for digest in (*(entry.digest for entry in made.inputs), *closed.dropped):
            self.pending.pop(digest, None)
        self.number += 1
        self.before, self.head = self.head, made.head
        self.seen_before, self.seen = self.seen, {}
        self.spread, self.last = closed.spread, made
        return True

    # -- whole states -------------------------------------------------------------------------

    def standing(self) -> Standing:
        """Everything: a log may begin with it, and forget what stood before."""
        return Standing(
            number=self.number,
            head=self.head,
            before=self.before,
            pending=tuple(self.pending.values()),
            seen=_listed(self.seen),
            seen_before=_listed(self.seen_before),
            spread=self.spread,
            last=self.last,
        )

    def _restore(self, standing: Standing) -> None:
        self.number, self.head, self.before = standing.number, standing.head, standing.before
        self.pending = {found.made.digest: found for found in standing.pending}
        self.seen = {seen.learner: seen.digest for seen in standing.seen}
        self.seen_before = {seen.learner: seen.digest for seen in standing.seen_before}
        self.spread, self.last = standing.spread, standing.last
        if len(self.pending) != len(standing.pending):
            raise BadClaimError("a group's state in which one delta waits twice")


def _listed(seen: dict[bytes, bytes]) -> tuple[Seen, ...]:
    return tuple(Seen(learner, digest) for learner, digest in sorted(seen.items()))


def folded(group: int, head: bytes, bodies: Iterable[bytes]) -> RoundLog:
    """The state after these bodies, from version 0's root."""
    log = RoundLog(group, head)
    for body in bodies:
        log.apply(decode_body(body))
    return log
