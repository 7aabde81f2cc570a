"""A candidacy: who promised what, whether that is enough, and whose log is taken.

Rules of this file, with their numbers in the group's rules (docs/learning.md; CONSENSUS.md, 2):
1. Only promises count, and whoever gives one has it on disk (rule 1).
2. The log that was accepted in the highest term, of those the longest, is taken (rule 2). What
   counts is the term in which a log was last *accepted*: a log may be longer, or made of entries
   created later, and yet have been given up.
3. Two of the epoch's own three must promise, and, as long as none of those has accepted anything
   in that epoch, two of the three of the epoch before, which are sealed by it (rule 5); and so on
   back to an epoch in which somebody accepted something, or to the group's first.
4. A replica counts for the epochs that began after the oldest thing that its disk remembers
   (rule 4).
5. Where an epoch is forced, one of the old three is enough, or a snapshot from outside.
"""

from collections.abc import Sequence

from protocols.learn.replica_messages import Promise
from protocols.learn.replica_ports import NO_TERM, QUORUM, Place, Seats, Term
from protocols.learn.replica_stage import Stage


class Stand:
    """One candidacy for one term."""

    def __init__(self, term: Term, now: int) -> None:
        self.term = term
        self.began = now
        self.promises: dict[bytes, Promise] = {}
        self.chosen: bytes | None = None
        """Whose log is taken."""
        self.forced = 0
        """What that log's `forced` is from now on."""
        self.stage: Stage | None = None
        """That log on its way here, where it is another's."""
        self.heard_at = now
        """When anything last came of it."""
        self.ask_at = now

    def asked(self, seats: Sequence[Seats], first: int) -> list[bytes]:
        """Whom to ask: the epochs that may have to promise, each peer once, by epoch and rank."""
        found: dict[bytes, None] = {}
        for each in seats:
            found.update(dict.fromkeys(each.replicas))
            if self._served(each) or each.epoch <= first:
                break
        return list(found)

    def decides(self, seats: Sequence[Seats], first: int, forced: Sequence[int]) -> bool:
        """Whether enough promised. `seats`: newest first. `forced`: epochs of which one is
        enough."""
        for each in seats:
            if not each.replicas and each.epoch > first:
                continue
            granted = self._granted(each)
            needed = 1 if each.epoch in forced else QUORUM
            if len(granted) < needed:
                return False
            if self._served(each) or each.epoch <= first:
                return True
        return False  # who was before these is not known here

    def lost(self, seats: Sequence[Seats], forced: Sequence[int]) -> bool:
        """Whether nobody who has a log can be had: the newest three promised, and all who came
        next before them are silent, forced as they are."""
        if len(self._granted(seats[0])) < QUORUM or self._served(seats[0]):
            return False
        for each in seats[1:]:
            if each.epoch not in forced or self._served(each):
                return False
            if each.replicas and not self._granted(each):
                return True
        return False

    def forces(self, seats: Sequence[Seats], forced: Sequence[int]) -> list[int]:
        """Of the epochs that had to seal, those that were forced: fewer than two of them did."""
        found = []
        for each in seats:
            if each.replicas and each.epoch in forced and len(self._granted(each)) < QUORUM:
                found.append(each.epoch)
            if self._served(each):
                break
        return found

    def best(self, me: bytes) -> tuple[bytes, Place]:
        """Whose log is taken; our own where it is as good as any."""
        own = self.promises[me]
        found = (me, Place(own.accepted, own.length))
        for peer in sorted(self.promises):
            promise = self.promises[peer]
            if Place(promise.accepted, promise.length) > found[1]:
                found = (peer, Place(promise.accepted, promise.length))
        return found

    def _granted(self, seats: Seats) -> list[Promise]:
        """Promises that speak for an epoch's three."""
        promises = (self.promises.get(peer) for peer in seats.replicas)
        return [each for each in promises if each is not None and each.born < seats.began]

    def _served(self, seats: Seats) -> bool:
        """Whether anybody who speaks for it has accepted something in that epoch."""
        return any(
            promise.accepted != NO_TERM and promise.accepted.epoch == seats.epoch
            for promise in self._granted(seats)
        )
