"""Whom a follower asks for what: one request at a time to each peer, a few in all.

Rules of this file:
1. A peer is believed to hold what it claims until it fails to give it: then it waits, twice as
   long each time, and somebody else is asked.
2. What is asked for next stands first, so that nothing waits behind a range that nobody answers.
3. Everything is bounded: peers, requests under way, entries asked for ahead.
4. Who follows another genesis is neither asked nor blamed: one of us was given the wrong file, and
   neither can know which. Who showed ours before is blamed for breaking off, so that nobody evades
   a request again and again by that.
"""

import hashlib

import msgspec

from protocols.effects import Blame, Effect, Send
from protocols.follow.messages import (
    MAX_COUNT,
    MAX_RANGE,
    PROTOCOL,
    GetEntries,
    Refused,
    Request,
    Status,
    Why,
    frame,
)
from protocols.gossip.peerscore import Fault

MAX_PEERS = 1024
"""That are known to follow the same ledger: more connections than a daemon has."""
LEAST_WAIT = 0.25
"""Seconds before a peer that failed is asked again, doubled each time; twice a round trip."""
MOST_WAIT = 60.0
MOST_PATIENCE = 5
"""Times more that is waited for a peer that was late as often: half a minute in all."""
BLAMED = 3
"""Late answers that a peer is blamed for: more would ban an honest one behind a bad line or on a
busy machine, and what it is asked grows rarer anyway."""
EXPECTED = 256
"""Bytes of an entry, before any came: a signed note of 100 bytes."""
SPARED = 4 / 5
"""Of MAX_RANGE, what a request is sized for: entries differ, and what does not fit is asked for
once more."""


class Source(msgspec.Struct):
    """A peer that can be asked."""

    claim: int = 0
    """The newest entry that it says it has."""
    says: int = 0
    """... believed or not."""
    base: int = 0
    """The oldest one."""
    same: bool = False
    """It said that its ledger begins as ours does."""
    asked: Request | None = None
    deadline: float = 0.0
    strikes: int = 0
    """Failures since it last gave something that was right."""
    slow: int = 0
    """How often it was late, less how often it was not."""
    again_at: float = 0.0
    proven: bool = False
    """It gave something that was right."""
    late: Request | None = None
    """What it did not answer in time, last: an answer is welcome all the same."""


class Fetcher:
    """The bookkeeping: it sends requests, and knows which answers were asked for."""

    __slots__ = (
        "_expected",
        "_in_flight",
        "_me",
        "_now",
        "_number",
        "_timeout",
        "foreign",
        "highest",
        "sources",
    )

    def __init__(self, me: bytes, timeout: float, in_flight: int) -> None:
        self._me = me
        self._timeout = timeout
        self._in_flight = in_flight
        self._number = 0
        self._expected = EXPECTED
        self._now = 0.0
        self.sources: dict[bytes, Source] = {}
        self.foreign: dict[bytes, bytes] = {}
        """The genesis of each connected peer that follows another one than we do."""
        self.highest = 0
        """The newest entry that anybody claims to have."""

    # -- who there is --------------------------------------------------------------------------

    def up(self, peer: bytes) -> None:
        """A peer that speaks the protocol is connected."""
        if len(self.sources) < MAX_PEERS and peer not in self.foreign:
            self.sources.setdefault(peer, Source())

    def down(self, peer: bytes) -> None:
        """It no longer is."""
        self.foreign.pop(peer, None)
        self._drop(peer)

    def _drop(self, peer: bytes) -> Source | None:
        source = self.sources.pop(peer, None)
        if source is not None:
            self._lower(source, 0)
        return source

    def says(self, peer: bytes, status: Status) -> None:
        """What a peer says of itself, believed or not: it follows the ledger that we do."""
        self.foreign.pop(peer, None)
        self.up(peer)
        if (source := self.sources.get(peer)) is not None:
            source.base, source.says, source.same = status.base, status.index, True

    def says_other(self, peer: bytes, genesis: bytes) -> list[Effect]:
        """A peer says that it follows another genesis: it is no source until it says otherwise."""
        source = self._drop(peer)
        if peer in self.foreign or len(self.foreign) < MAX_PEERS:
            self.foreign[peer] = genesis
        if source is None or not source.same:
            return []
        return [Blame(peer, Fault.CLOSED, "it follows another genesis than it said before")]

    def claim(self, peer: bytes, index: int) -> None:
        """A peer says, or shows, that it has entries up to `index`."""
        self.up(peer)
        if (source := self.sources.get(peer)) is not None:
            source.claim = max(source.claim, index)
            self.highest = max(self.highest, index)

    def _lower(self, source: Source, claim: int) -> None:
        source.claim = min(source.claim, claim)
        self.highest = max((one.claim for one in self.sources.values()), default=0)

    def pruned(self, start: int) -> bool:
        """Whether somebody has newer entries than `start`, and nobody that one any longer."""
        ahead = [source for source in self.sources.values() if source.claim >= start]
        return bool(ahead) and all(source.base > start for source in ahead)

    @property
    def same(self) -> int:
        """How many peers said that their ledger begins as ours does."""
        return sum(source.same for source in self.sources.values())

    @property
    def boasted(self) -> int:
        """The newest entry that anybody says to have, believed or not."""
        return max((source.says for source in self.sources.values()), default=0)

    # -- asking --------------------------------------------------------------------------------

    def fill(self, start: int, stop: int, held: list[tuple[int, int]], now: float) -> list[Effect]:
        """Ask for what is lacking of [start, stop), where `held` ranges wait already."""
        effects: list[Effect] = []
        self._now = now
        taken = held + [
            (asked.start, asked.start + asked.count)
            for source in self.sources.values()
            if isinstance(asked := source.asked, GetEntries)
        ]
        while len(taken) < self._in_flight:
            first, count = self._gap(start, stop, sorted(taken))
            if count <= 0 or (peer := self._choose(first, now)) is None:
                break
            last = self.sources[peer].claim + 1
            count = min(count, last - first)
            self._number += 1
            effects.append(
                self._ask(
                    peer, GetEntries(number=self._number % (1 << 32), start=first, count=count), now
                )
            )
            taken.append((first, first + count))
        return effects

    def _gap(self, start: int, stop: int, taken: list[tuple[int, int]]) -> tuple[int, int]:
        """The first range that nobody was asked for, at most as long as one answer."""
        size = max(1, min(MAX_COUNT, int(MAX_RANGE * SPARED / self._expected)))
        for begin, end in taken:
            if start < begin:
                return start, min(size, stop - start, begin - start)
            start = max(start, end)
        return start, min(size, stop - start)

    def _choose(self, index: int, now: float) -> bytes | None:
        """A free peer that claims to have an entry: of the most faithful, one drawn by index."""
        free = [
            (source.strikes, not source.proven, peer)
            for peer, source in self.sources.items()
            if source.asked is None
            and source.base <= index <= source.claim
            and source.again_at <= now
        ]
        if not free:
            return None
        least = min(rank[:2] for rank in free)
        best = sorted(rank[2] for rank in free if rank[:2] == least)
        drawn = hashlib.sha256(self._me + index.to_bytes(8, "big")).digest()
        return best[int.from_bytes(drawn[:8], "big") % len(best)]

    def ask(
        self, peer: bytes, request: Request, now: float, *, anyway: bool = False
    ) -> list[Effect]:
        """Ask `peer` something else, if it is free, or else leave what it was asked (`anyway`)."""
        source = self.sources.get(peer)
        if source is None or (source.asked is not None and not anyway):
            return []
        source.late = source.asked
        self._number += 1
        numbered = msgspec.structs.replace(request, number=self._number % (1 << 32))
        return [self._ask(peer, numbered, now)]

    def free(self, index: int, now: float) -> bytes | None:
        """A peer that could be asked about an entry."""
        return self._choose(index, now)

    def _ask(self, peer: bytes, request: Request, now: float) -> Effect:
        source = self.sources[peer]
        source.asked = request
        # Whoever is slow (a busy machine, a thin line) is given more time, so that it can answer.
        source.deadline = now + self._timeout * (1 + source.slow)
        return Send(peer, PROTOCOL, frame(request))

    # -- answers -------------------------------------------------------------------------------

    def answered(self, peer: bytes, number: int) -> Request | None:
        """What a peer answers, if it was asked, in time or not; each answer counts once."""
        source = self.sources.get(peer)
        if source is None:
            return None
        if source.asked is not None and source.asked.number == number:
            asked, source.asked = source.asked, None
            source.slow = max(0, source.slow - 1)
            return asked
        if source.late is not None and source.late.number == number:
            late, source.late = source.late, None
            return late
        return None

    def served(self, peer: bytes, entries: int, size: int) -> None:
        """A peer gave what was asked for, and it was right."""
        if (source := self.sources.get(peer)) is not None:
            source.strikes, source.proven = 0, True
        self._expected = max(1, (3 * self._expected + size // max(1, entries)) // 4)

    def refused(self, peer: bytes, refusal: Refused, now: float) -> None:
        """A peer did not give what it claimed to have."""
        source = self.sources.get(peer)
        if source is not None:
            source.base = max(source.base, refusal.base)
            if refusal.why is Why.AHEAD:
                self._lower(source, refusal.head)
            self._strike(source, now)

    def failed(self, peer: bytes, now: float) -> None:
        """A peer gave what is wrong: others are asked first from here on."""
        if (source := self.sources.get(peer)) is not None:
            self._strike(source, now)

    def _strike(self, source: Source, now: float) -> None:
        source.strikes = min(source.strikes + 1, 16)
        source.again_at = now + min(MOST_WAIT, LEAST_WAIT * 2**source.strikes)

    def expire(self, now: float) -> list[Effect]:
        """Who did not answer in time is blamed, and others are asked."""
        self._now = now
        effects: list[Effect] = []
        for peer, source in self.sources.items():
            if source.asked is not None and source.deadline <= now:
                what = type(source.asked).__name__
                source.late, source.asked = source.asked, None
                self._strike(source, now)
                source.slow = min(source.slow + 1, MOST_PATIENCE)
                if source.slow > BLAMED:
                    self._lower(source, 0)  # it may say again what it has
                else:
                    why = f"did not answer {what} of the ledger"
                    effects.append(Blame(peer, Fault.TIMEOUT, why))
        return effects

    def wake_at(self, start: int) -> float | None:
        """When a request runs out, or a peer that has entry `start` may be asked again."""
        times = []
        for source in self.sources.values():
            if source.asked is not None:
                times.append(source.deadline)
            elif source.claim >= start and source.again_at > self._now:
                times.append(source.again_at)
        return min(times, default=None)
