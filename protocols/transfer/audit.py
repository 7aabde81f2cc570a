"""Whom to believe that he holds what he announces: random probes, and what they showed.

A probe asks for one random sub-tile of what somebody announces, with its proof. Who answers
is *proven* for a while; who answers wrongly is *refuted* until he proves himself again; who has
only just announced is *provisional* for a grace, so that a model is not repaired ten times
while its new holders are being asked.

A refutation is no lie yet: somebody who has just removed a model, or found a bad disk, says so,
and that takes seconds to get here. So the refuted are asked again soon, and only who fails then
too, having announced nothing else meanwhile, has lied.

A holder that stores a share s of what it announces passes k probes with probability s^k: with
one a minute, half a lie lasts two minutes and a tenth of one about ten.
"""

import math
from collections.abc import Sequence

import msgspec

from protocols.gossip.shelf import Holding
from protocols.rendezvous import rank

MAX_AUDITS = 64
"""Holders of one model that one daemon asks: at a probe a minute 270 KB/s, and more than any
number of copies that is worth having."""
RECHECK = 10.0
"""Seconds until the refuted are asked again: what they announce has got around by then."""
SPARE = 2
"""Holders audited beyond those needed: when one dies, the next is proven already."""


class Record(msgspec.Struct):
    """What we know of one holder of one model. Times in Unix seconds."""

    since: float
    proven: float | None = None
    refuted: bool = False
    failures: int = 0
    """In a row, since what it announces last changed."""
    asked: float | None = None
    waiting: bool = False


class Audit:
    """Probes of the holders of one model: every `interval` s each, `grace` s for newcomers."""

    def __init__(self, interval: float, grace: float) -> None:
        self._records: dict[bytes, Record] = {}
        self._chosen: list[bytes] = []
        self.pace(interval, grace)

    def __len__(self) -> int:
        """How many holders are audited."""
        return len(self._chosen)

    def pace(self, interval: float, grace: float) -> None:
        """Probe so often from now on. What it takes to be proven goes with it."""
        self._interval = interval
        self._grace = grace
        self._fresh = 3 * interval  # two probes in a row may be lost on the way
        self._timeout = max(60.0, interval)

    def choose(
        self,
        key: bytes,
        holdings: Sequence[Holding],
        *,
        tiles: int,
        width: int,
        need: int,
        now: float,
    ) -> None:
        """Audit enough of these (live) holders: `need` + SPARE for each group of `width` tiles.
        Whom, is drawn by `key`, so that not everybody asks the same ones."""
        by_peer = {holding.peer: holding for holding in holdings}
        covered = [0] * -(-tiles // width)
        self._chosen = []
        for peer in rank(key, [(peer, 1) for peer in by_peer]):
            whole, partial = _groups_of(by_peer[peer], tiles, width)
            if partial or any(covered[group] < need + SPARE for group in whole):
                self._chosen.append(peer)
                for group in whole:
                    covered[group] += 1
                self._records.setdefault(peer, Record(since=now))
            if len(self._chosen) == MAX_AUDITS:
                break
        for peer, record in list(self._records.items()):
            # Not forgotten at once: who was away for a moment stays proven, or refuted.
            if peer not in by_peer and now - (record.asked or record.since) > self._fresh:
                del self._records[peer]

    def due(self, now: float) -> list[bytes]:
        """Whom to probe now; `asked` then starts the wait for the result."""
        return [peer for peer in self._chosen if now >= self._due_at(self._records[peer])]

    def _due_at(self, record: Record) -> float:
        if record.asked is None:
            return record.since
        if record.waiting:
            return record.asked + self._timeout
        doubted = record.refuted and record.failures < 2
        return record.asked + (RECHECK if doubted else self._interval)

    def asked(self, peer: bytes, now: float) -> None:
        """A probe of `peer` has been started."""
        record = self._records[peer]
        record.asked = now
        record.waiting = True

    def answered(self, peer: bytes, proven: bool | None, now: float) -> bool:
        """A probe's result: held (True), not held (False), or no answer (None). Whether it lied."""
        record = self._records.get(peer)
        if record is None:
            return False
        record.waiting = False
        if proven is None:
            return False
        record.refuted = not proven
        record.failures = 0 if proven else record.failures + 1
        record.proven = now if proven else None
        return record.failures > 1

    def announced_anew(self, peer: bytes) -> None:
        """What `peer` announces is not what it was: it counts as before, and has not lied yet."""
        record = self._records.get(peer)
        if record is not None:
            record.failures = 0

    def trusted(self, now: float) -> frozenset[bytes]:
        """The audited holders that count at `now`."""
        return frozenset(peer for peer in self._chosen if now < self._trusted_until(peer))

    def _trusted_until(self, peer: bytes) -> float:
        record = self._records[peer]
        if record.refuted:
            return 0.0
        if record.proven is not None:
            return record.proven + self._fresh
        return record.since + self._grace

    def next_change(self, now: float) -> float:
        """When somebody stops being trusted by time alone."""
        times = [self._trusted_until(peer) for peer in self._chosen]
        return min((at for at in times if at > now), default=math.inf)


def _groups_of(holding: Holding, tiles: int, width: int) -> tuple[list[int], bool]:
    """The groups that a holder has whole, and whether it has only part of any."""
    whole: list[int] = []
    partial = False
    for start, count in holding.tiles:
        stop = min(start + count, tiles)
        first = -(-start // width)
        last = -(-stop // width) if stop == tiles else stop // width
        whole += range(first, last)
        partial = partial or start % width != 0 or (stop < tiles and stop % width != 0)
    return whole, partial
