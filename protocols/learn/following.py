"""A group's versions as somebody sees them who is no replica of it: a learner, an aggregator.

Rules of this file:
1. A round counts by its record alone: two signatures of the group that the ledger names for its
   epoch. What a message says beside its records is a hint.
2. Rounds are applied in order, each to the version that it names as its parent.
3. Whoever is behind the oldest round that is still kept takes a whole version instead: one that a
   record names as its head.
"""

from collections.abc import Callable

from protocols.envelope import Verify
from protocols.errors import SynapseError
from protocols.learn.claims import BadClaimError, Record, Round, check_record
from protocols.learn.messages import Records
from protocols.realm import Realm

MAX_AHEAD = 64
"""Records kept beyond a gap: as many as one message brings."""

Seating = Callable[[int, int], tuple[bytes, ...]]
"""(group, epoch) -> its three replicas; () where we do not know them."""


class BadRoundError(SynapseError):
    """A record that two replicas signed, and whose result does not make the head that it names."""

    code = "bad-round"


class Following:
    """Of one group."""

    def __init__(self, model: bytes, group: int, realm: Realm, seats: Seating, verify: Verify):
        self.model = model
        self.group = group
        self._realm = realm
        self._seats = seats
        self._verify = verify
        self.number = 0
        """The round that comes next."""
        self.head = b""
        self.known = 0
        """The round that is open, as far as anybody told us."""
        self.skipping: Record | None = None
        """The version after this is being fetched whole."""
        self.applying: Round | None = None
        self._waiting: dict[int, Record] = {}

    def reset(self, number: int, head: bytes) -> None:
        """We are at this version."""
        self.number, self.head = number, head
        self.known = max(self.known, number)
        self.skipping = self.applying = None
        self._waiting = {at: record for at, record in self._waiting.items() if at >= number}

    @property
    def behind(self) -> bool:
        """Whether there are rounds that we lack."""
        return self.known > self.number

    def hear(self, message: Records) -> list[Record]:
        """Take records in; those that are new. Raises BadClaimError."""
        self.known = max(self.known, message.number)
        new = [
            record
            for record in message.records
            if record.round.number >= self.number and record.round.number not in self._waiting
        ]
        taken: list[Record] = []
        for record in new:
            decided = record.round
            if decided.model != self.model or decided.group != self.group:
                raise BadClaimError("a record of another group than its message is about")
            replicas = self._seats(self.group, decided.epoch)
            if not replicas:
                break  # an epoch that the ledger has not brought here yet: it is asked for again
            check_record(self._realm, record, replicas, self._verify)
            self.known = max(self.known, decided.number + 1)
            if decided.number < self.number + MAX_AHEAD or message.oldest > self.number:
                self._waiting[decided.number] = record
            taken.append(record)
        while len(self._waiting) > MAX_AHEAD:
            del self._waiting[min(self._waiting)]
        if message.oldest > self.number and self._waiting and self.applying is None:
            newest = self._waiting[max(self._waiting)]
            if newest.round.number >= message.oldest:
                self.skipping = newest
        return taken

    def next_round(self) -> Round | None:
        """What is to be applied now, if anything."""
        if self.applying is not None or self.skipping is not None:
            return None
        record = self._waiting.get(self.number)
        if record is None:
            return None
        if record.round.parent != self.head:
            raise BadRoundError(
                f"round {self.number} of group {self.group} begins from another version than ours",
                remedy="fetch the group's newest version again",
            )
        self.applying = record.round
        return record.round

    def applied(self, number: int, head: bytes) -> None:
        """The round's result was applied, and made `head`. Raises BadRoundError."""
        decided = self.applying
        if decided is None or decided.number != number:
            return
        self.applying = None
        if head != decided.head:
            raise BadRoundError(
                f"the result of round {number} of group {self.group} does not make its head",
                remedy="two replicas of the group signed it: they are wrong, or this machine is",
            )
        self._waiting.pop(number, None)
        self.reset(number + 1, head)

    @property
    def newest(self) -> Record | None:
        """The newest that waits, or is being applied."""
        return self._waiting[max(self._waiting)] if self._waiting else None

    def not_applied(self) -> None:
        """It failed here (the worker died): it is tried again."""
        self.applying = None
