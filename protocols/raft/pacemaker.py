"""When a member of the council gives up on a leader, and when the council does.

Rules of this file:
1. (rule 5, timer) Only a newly ratified entry resets the timer, or a new term: never a message
   that a leader could send without getting anything done. An idle leader ratifies ticks.
2. A submission that could have been ratified and has waited for a time-out is suspicion, too:
   so a leader cannot keep one author's entries out and ratify the others'.
3. (rule 3) A member that suspects says so to all and goes on signing. When a quorum suspects, it
   signs a time-out. Nobody stands for election: a liar could stand first in every term.
4. Who has signed a time-out for t suspects every term below t. When more than a third of the
   seats have signed one, at least one honest member has seen a quorum suspect, so that whoever
   missed it may join (Bracha's amplification, as in DiemBFT v4's pacemaker).
5. Suspicion fades unless it is said again: what was mended is forgotten.
6. Of the terms in a row that brought nothing, the first PATIENCE last one time-out each; then
   each lasts a quarter longer, up to twice as long: where the network is slower than the
   time-out, the council finds a pace at which it works, and after healing it soon is back.
"""

from collections.abc import Iterable

import msgspec

from protocols.ledger.council import Council
from protocols.raft.messages import TimedOut

PATIENCE = 4
"""Terms without a ratified entry before they get longer: two lying leaders of seven in a row,
and two terms that the weather spoiled."""
LONGER = 0.25
MOST_LONGER = 4
"""Steps of LONGER."""
FRESH = 0.5
"""Part of a time-out for which a suspicion counts: it is said eight times meanwhile."""


class Heard(msgspec.Struct, frozen=True):
    """A suspicion: of which term, and when it was heard."""

    term: int
    at: float


class Pacemaker:
    """The timer of one member, and what the others said of theirs."""

    def __init__(self, council: Council, seat: int, time_out: float) -> None:
        self._council = council
        self._seat = seat
        self._time_out = time_out
        self.term = 1
        self.leader = council.leader(1)
        """The seat that leads the term."""
        self.deadline = 0.0
        """When this member suspects the leader."""
        self.entered = 0.0
        """When this member entered the term."""
        self.suspecting = False
        """Whether this member has given up on the leader."""
        self._fruitless = 0
        self.changed = True
        """Whether somebody gave up since `wanted_term` was asked."""
        self._suspicions: dict[int, Heard] = {}
        self.time_outs: dict[int, TimedOut] = {}
        """Of each seat the one for the highest term."""

    def enter(self, term: int, now: float) -> None:
        """A term begins for this member."""
        if term > self.term:
            self._fruitless += 1
        self.term = term
        self.leader = self._council.leader(term)
        self.entered = now
        self.deadline = now + self.length
        self.suspecting = False
        self.changed = True

    def progress(self, now: float) -> None:
        """Rule 1: an entry is newly ratified."""
        self._fruitless = 0
        self.deadline = now + self.length
        self.suspecting = False

    @property
    def length(self) -> float:
        """Seconds that the leader of this term has (rule 6)."""
        longer = min(max(0, self._fruitless - PATIENCE), MOST_LONGER)
        return self._time_out * (1 + LONGER * longer)

    def may_be_overdue(self, now: float) -> bool:
        """Rule 2: whether this leader has had time for what waits."""
        return now >= self.entered + self.length

    # -- the others ----------------------------------------------------------------------------

    def heard_suspicion(self, seat: int, term: int, now: float) -> None:
        """`seat` suspects the leader of `term`."""
        self._suspicions[seat] = Heard(term, now)
        self.changed = True

    def heard_time_out(self, message: TimedOut) -> bool:
        """A verified time-out; whether it is news."""
        seat = message.signed.seat
        known = self.time_outs.get(seat)
        if known is not None and known.signed.said.term >= message.signed.said.term:
            return False
        self.time_outs[seat] = message
        self.changed = True
        return True

    def of_term(self, term: int) -> list[TimedOut]:
        """The time-outs for this term, by seat."""
        return [
            self.time_outs[seat]
            for seat in sorted(self.time_outs)
            if self.time_outs[seat].signed.said.term == term
        ]

    def suspect(self) -> None:
        """This member gives up on the leader."""
        self.suspecting = self.changed = True

    def wanted_term(self, now: float) -> int | None:
        """The term that this member is to sign a time-out for, if the council has given up."""
        self.changed = False
        signed = {seat: told.signed.said.term for seat, told in self.time_outs.items()}
        suspected = {seat: term - 1 for seat, term in signed.items()}
        for seat, heard in self._suspicions.items():
            if now <= heard.at + FRESH * self._time_out:
                suspected[seat] = max(heard.term, suspected.get(seat, 0))
        if self.suspecting:
            suspected[self._seat] = max(self.term, suspected.get(self._seat, 0))
        by_quorum = _nth(suspected.values(), self._council.quorum) + 1
        by_joining = _nth(signed.values(), self._council.tolerated + 1)
        wanted = max(by_quorum, by_joining)
        return wanted if wanted > self.term else None


def _nth(values: Iterable[int], n: int) -> int:
    """What at least n of the values reach; 0 where there are not as many."""
    ordered = sorted(values, reverse=True)
    return ordered[n - 1] if len(ordered) >= n else 0
