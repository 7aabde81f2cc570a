"""What a group's log means: the fold of its committed bodies.

    taken     a learner's signed delta, or a region's signed sum, is on two disks
    closed    a round: what went into it, and the version that it made

Rules of this file:
1. Everybody who folds the same bodies in the same order is in the same state; a body that does
   not fit (a second end of one round, a delta that came too late) changes nothing. What a primary
   made is looked at before it is folded (judging.py): a wrong result changes nothing either, and
   since all who compute it find the same, the first right end of a round is its end for everybody.
2. A delta is for one round. It goes into that one, or, when it was taken after that was closed,
   into the next: carried, not lost. A learner has one for each round.
3. What a closed round did not name stays for the next one, also what was late before: what was
   taken was acknowledged, so it is in a round sooner or later.
4. Two learners may have made the same bytes: of tiles that no token of theirs touched, such as rows
   of an embedding, all make the same. Each counts. The same bytes of one learner count once.
5. What stood when a round closed (`carried`) is in the next one: a primary may leave nobody out.
"""

from collections.abc import Collection, Iterator
from typing import Annotated

import msgspec

from protocols.codec import Message, decode, encode
from protocols.learn.claims import (
    MAX_INPUTS,
    BadClaimError,
    Claim,
    Digest,
    Endorsement,
    GroupNumber,
    Made,
    Number,
    Record,
    Round,
    Sum,
)
from protocols.learn.replica_ports import MAX_BODY, MAX_STATE
from protocols.ledger.council import PeerId

MAX_LEARNERS = 2048
"""Behind one round, with those in sums: so a whole state stays below replica_ports.MAX_STATE."""
MAX_SPREAD_MS = 86_400_000
Key = tuple[bytes, bytes]
"""Who signed a delta, and its digest: in this order inputs are aggregated."""


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
    by: Endorsement
    """Of the primary that computed it: the first of the record's two signatures; or, where it is
    not what its inputs make, the proof of that."""
    dropped: Annotated[tuple[Digest, ...], msgspec.Meta(max_length=MAX_INPUTS)] = ()
    """Inputs that could not be used: they stay for no other round."""
    spread: Spread = Spread()

    def named(self, pending: Collection[Key]) -> set[Key]:
        """Which of what waits it takes out: its inputs, and all that have a dropped digest."""
        inputs = {(entry.learner, entry.digest) for entry in self.round.inputs}
        return {key for key in pending if key in inputs or key[1] in self.dropped}


Body = Taken | Closed


class Pending(msgspec.Struct, frozen=True):
    """A delta or sum that waits for its round to close."""

    said: Claim | Sum
    """What it stands in, signed."""
    source: PeerId
    """Who signed it."""
    made: Made
    learners: tuple[PeerId, ...]
    """Whose work it is; as many as it counts for."""
    is_sum: bool

    @property
    def weight(self) -> int:
        """Learners that it stands for."""
        return len(self.learners)

    @property
    def key(self) -> Key:
        """What it is known by, among what waits (rule 4), and in a round's inputs."""
        return self.source, self.made.digest


class Seen(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A learner's delta of one round, or the sum that it is in."""

    learner: PeerId
    digest: Digest


class Standing(Message, frozen=True, tag_field="body", tag="standing"):
    """The fold's whole state, once the last round has its record: what a log that was cut off in
    front begins with. Whoever takes it over from another need not believe it: version and state
    stand in a record, and what waits is signed."""

    number: Number
    head: Digest
    pending: Annotated[tuple[Claim | Sum, ...], msgspec.Meta(max_length=MAX_INPUTS)]
    """In order of the log."""
    carried: Annotated[int, msgspec.Meta(ge=0, le=MAX_INPUTS)]
    """How many of them, from the first on, stood when the last round closed."""
    seen: Annotated[tuple[Seen, ...], msgspec.Meta(max_length=MAX_LEARNERS)]
    seen_before: Annotated[tuple[Seen, ...], msgspec.Meta(max_length=MAX_LEARNERS)]
    spread: Spread
    last: Record | None
    """Of the round before; None before the first."""


def pending_of(said: Claim | Sum, group: int) -> Pending | None:
    """The delta of `group` in what was signed; None where there is none."""
    if isinstance(said, Sum):
        learners = tuple(entry.learner for entry in said.inputs)
        if said.made.group != group:
            return None
        return Pending(said, said.aggregator, said.made, learners, is_sum=True)
    for made in said.made:
        if made.group == group:
            return Pending(said, said.learner, made, (said.learner,), is_sum=False)
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
        self.pending: dict[Key, Pending] = {}
        """By Pending.key, in order of the log."""
        self.carried: frozenset[Key] = frozenset()
        """Those of them that stood when the last round closed."""
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
        if found.key in self.pending:
            return "duplicate"
        room = len(self.pending) < MAX_INPUTS and len(seen) + found.weight <= MAX_LEARNERS
        return None if room else "full"

    @property
    def digests(self) -> set[bytes]:
        """Of what waits."""
        return {digest for _, digest in self.pending}

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
        if self.why_not(found) is not None:
            return False
        self.pending[found.key] = found
        seen = self.seen_of(found.made.number)
        seen.update(dict.fromkeys(found.learners, found.made.digest))
        return True

    def _close(self, closed: Closed) -> bool:
        made = closed.round
        if not self.ends(made):
            return False
        for key in closed.named(self.pending):
            del self.pending[key]
        self.carried = frozenset(self.pending)
        self.number += 1
        self.before, self.head = self.head, made.head
        self.seen_before, self.seen = self.seen, {}
        self.spread, self.last = closed.spread, made
        return True

    def ends(self, made: Round) -> bool:
        """Whether it is an end of the open round at all."""
        place = (made.number, made.parent, made.group)
        return place == (self.number, self.head, self.group)

    # -- whole states -------------------------------------------------------------------------

    def standing(self, last: Record | None) -> Standing:
        """Everything: a log may begin with it, and forget what stood before. `last` is the record
        of the round before."""
        return Standing(
            number=self.number,
            head=self.head,
            pending=tuple(found.said for found in self.pending.values()),
            carried=len(self.carried & self.pending.keys()),
            seen=_listed(self.seen),
            seen_before=_listed(self.seen_before),
            spread=self.spread,
            last=last,
        )

    def _restore(self, standing: Standing) -> None:
        self.last = None if standing.last is None else standing.last.round
        self.number, self.head = standing.number, standing.head
        self.before = None if self.last is None else self.last.parent
        found = [pending_of(said, self.group) for said in standing.pending]
        self.pending = {one.key: one for one in found if one is not None}
        self.carried = frozenset(list(self.pending)[: standing.carried])
        self.seen = {seen.learner: seen.digest for seen in standing.seen}
        self.seen_before = {seen.learner: seen.digest for seen in standing.seen_before}
        self.spread = standing.spread
        if len(self.pending) != len(standing.pending) or standing.carried > len(self.pending):
            raise BadClaimError("a group's state in which one delta waits twice, or is another's")
        after = (0, self.head) if self.last is None else (self.last.number + 1, self.last.head)
        if (self.number, self.head) != after:
            raise BadClaimError("a group's state that does not follow from its last round")


def _listed(seen: dict[bytes, bytes]) -> tuple[Seen, ...]:
    return tuple(Seen(learner, digest) for learner, digest in sorted(seen.items()))
