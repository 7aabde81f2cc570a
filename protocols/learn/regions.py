"""Regions, from measured round trips: who aggregates for whom.

    candidates    CANDIDATES of the ledger's members, drawn by rendezvous from the epoch's beacon
    near          those whose round trip is clearly shorter than that to the primaries
    ours          of the near ones that are about as near as the nearest, the first of the ranking

Nobody says where it is. Each learner measures the round trip to the candidates and to the groups'
primaries. Everybody of one region sees the same candidates near by, and takes the first of them in
the ranking, so a region gathers at one; where nobody is clearly nearer than the primary, there is
no region, and the learner goes straight to it. The choice is held while it is not clearly worse: a
route that jumps makes two half sums of one.

Round trips are measured again and again, since links change: what counts is the shortest of the
last few, because a busy machine or a full line makes them longer and nothing makes them shorter.

An aggregator that keeps silent or refuses ("full") is left out for a while, and the next one is
taken. Whoever was proven to have summed wrongly (audit.py) is left out altogether.
"""

from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence

import msgspec

from protocols.rendezvous import rank

CANDIDATES = 32
"""With 5 regions alike, one of them has none of 32 once in 250 epochs, and none of 16 once in 7."""
NEARER = 2
"""Times nearer than the primary an aggregator must be: a detour that saves less costs a hop and
saves no wide link."""
WORTH_US = 15_000
"""Round trip to the primary below which no region is worth a hop: it is in the same city."""
ALIKE, ALIKE_US = 2, 5_000
"""Twice as far as the nearest and 5 ms (the jitter of one city's links) is about as near."""
HOLD = 2
"""Times worse than a new choice ours must be before we change: half an average's worth of noise."""
SETTLE_MS = 20_000
"""For which another must have been the choice before we change to it, where ours is not clearly
worse: a moment's noise moves nobody, and a region whose learners began apart still ends at one."""
LEAVE_OUT_MS = 60_000
"""For which a silent one is left out: it comes back, or its daemon is noticed to be dead."""
MAX_LEFT_OUT = 256
RECENT = 4
"""Measurements of which the shortest counts: a link that has become longer is one after so many."""
MAX_MEASURED = 1024


class Route(msgspec.Struct, frozen=True):
    """Whom our deltas go to, and why."""

    aggregator: bytes | None
    rtt_us: int | None
    primary_us: int | None


def candidates(
    beacon: bytes, model: bytes, members: Iterable[bytes], banned: Collection[bytes] = ()
) -> list[bytes]:
    """Who may aggregate a model's deltas in an epoch, the first choice first. Everybody computes
    the same: weights are equal, because a fast link does not show in the ledger."""
    key = b"aggregator" + beacon + model
    return rank(key, [(peer, 1) for peer in members if peer not in banned])[:CANDIDATES]


class Regions:
    """One daemon's view. Times are µs for round trips, ms for the clock."""

    def __init__(self, me: bytes) -> None:
        self._me = me
        self._rtt: dict[bytes, deque[int]] = {}
        """The last few; whoever was not measured for longest first."""
        self._left_out: dict[bytes, int] = {}
        self._ours: bytes | None = None
        self._other_since: int | None = None
        """Since when another than ours would be chosen, in ms."""

    def measured(self, peer: bytes, rtt_us: int) -> None:
        """One round trip."""
        recent = self._rtt.pop(peer, None) or deque(maxlen=RECENT)
        if len(self._rtt) >= MAX_MEASURED:
            del self._rtt[next(iter(self._rtt))]
        recent.append(max(1, rtt_us))
        self._rtt[peer] = recent

    def missed(self, peer: bytes) -> None:
        """It was not measured this time: others come first."""
        recent = self._rtt.pop(peer, None)
        if recent is not None:
            self._rtt[peer] = recent

    def leave_out(self, peer: bytes, now_ms: int) -> None:
        """It was silent, or full."""
        self._left_out.pop(peer, None)
        if len(self._left_out) >= MAX_LEFT_OUT:
            del self._left_out[next(iter(self._left_out))]
        self._left_out[peer] = now_ms + LEAVE_OUT_MS

    def to_measure(self, ranked: Iterable[bytes], primaries: Iterable[bytes]) -> list[bytes]:
        """Whose round trip is wanted and not known; then all others, the oldest word first."""
        wanted = dict.fromkeys([*ranked, *primaries])
        fresh = [peer for peer in wanted if peer != self._me and peer not in self._rtt]
        return [*fresh, *(peer for peer in self._rtt if peer in wanted)]

    def is_known(self, peer: bytes) -> bool:
        """Whether a round trip to it was ever measured."""
        return peer in self._rtt

    def route(
        self,
        ranked: list[bytes],
        primaries: Mapping[int, bytes],
        now_ms: int,
        caught: Collection[bytes] = (),
    ) -> Route:
        """Whom to send to, of the candidates in their ranking; `primaries` by group."""
        able = [
            peer
            for peer in ranked
            if self._left_out.get(peer, 0) <= now_ms and peer not in caught and self._known(peer)
        ]
        far = self._to_primaries(primaries)
        chosen = self._choose(able, far)
        ours = self._ours
        if ours in able and chosen is not None and ours != chosen and far is not None:
            chosen = ours if self._holds(ours, chosen, far, now_ms) else chosen
        else:
            self._other_since = None
        self._ours = chosen
        return Route(chosen, None if chosen is None else self._us(chosen), far)

    def _holds(self, ours: bytes, chosen: bytes, far: int, now_ms: int) -> bool:
        """Whether to stay with ours, although another would be chosen now."""
        mine = self._us(ours)
        worse = mine * NEARER > far * HOLD or mine > self._us(chosen) * HOLD + ALIKE_US
        if self._other_since is None:
            self._other_since = now_ms
        settled = now_ms >= self._other_since + SETTLE_MS
        # Our own memory is always the nearest, and whoever aggregates for himself saves nothing.
        if worse or settled or ours == self._me:
            self._other_since = None
            return False
        return True

    def _choose(self, able: list[bytes], far: int | None) -> bytes | None:
        if far is None or far < WORTH_US:
            return None
        near = [peer for peer in able if self._us(peer) * NEARER <= far]
        if not near:
            return None
        # Ourselves left out: everybody else is far, beside our own memory.
        nearest = min((self._us(peer) for peer in near if peer != self._me), default=0)
        return next(it for it in near if self._us(it) <= nearest * ALIKE + ALIKE_US)

    def _to_primaries(self, primaries: Mapping[int, bytes]) -> int | None:
        """The farthest: what goes to it is what an aggregator saves, and a near one's groups lose
        only a hop."""
        return max(
            (self._us(peer) for peer in primaries.values() if self._known(peer)), default=None
        )

    def nearest(self, peers: Sequence[bytes]) -> bytes | None:
        """The one of these that is clearly nearer than another; None where none is."""
        known = sorted((self._us(peer), peer) for peer in peers if self._known(peer))
        if not known or known[0][0] * NEARER > known[-1][0] or known[-1][0] < WORTH_US:
            return None
        return known[0][1]

    def _known(self, peer: bytes) -> bool:
        return peer == self._me or peer in self._rtt

    def _us(self, peer: bytes) -> int:
        return 1 if peer == self._me else min(self._rtt[peer])
