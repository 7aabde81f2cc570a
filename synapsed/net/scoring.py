"""Rounds of scoring: every few seconds the slot `peer_scoring` is asked about everybody we know.

A round is one operation of the slot: its answers stand in the peer book until the next round, and
what the peers do for us meanwhile says how good they were. So a version that ranks badly shows
within seconds, on the daemon's own traffic.
"""

from collections.abc import Mapping

import trio

from protocols.slots.peer_scoring import MAX_PEERS, NAME, PEERS
from synapsed.net.peers import Score, Service
from synapsed.net.switch import Switch
from synapsed.slots import Operation, Slots

FADE_SECONDS = 600.0
"""In which counts of messages halve: what a mesh neighbour was like in the last half hour."""
MESSAGE_BYTES = 1024
"""That a message is worth which a peer was the first to bring, beside bytes of content: what an
announcement has."""
MILLION = 1_000_000


class Scorer:
    """Has the peers of a switch scored."""

    def __init__(self, switch: Switch, slots: Slots) -> None:
        self._switch = switch
        self._slots = slots
        self._operation: Operation | None = None
        """Of the last round."""
        self._ranked: list[bytes] = []
        """Who was connected in it, the best first."""
        self._before: dict[bytes, int] = {}
        """What each had done for us by then."""
        self._faded = trio.current_time()

    async def run(self) -> None:
        """For ever."""
        while True:
            await trio.sleep(self._switch.settings.score_seconds)
            await self.score()

    async def score(self) -> None:
        """One round."""
        self._tell_achieved()
        self._fade()
        book = self._switch.book
        rows = dict(list(book.rows().items())[:MAX_PEERS])
        dialled = {conn.peer: conn.dialled for conn in self._switch.all_connections()}
        operation = self._slots.operation(NAME)
        context = {"connections": len(dialled), "most": self._switch.settings.max_connections}
        batch = operation.batch(context, (len(rows),))
        columns = {
            **{name: [getattr(row, name) for row in rows.values()] for name in _OF_RECORD},
            "connected": [int(peer in dialled) for peer in rows],
            "dialled": [int(dialled.get(peer, False)) for peer in rows],
            "first": [int(book.service.get(peer, _NOTHING).first) for peer in rows],
            "duplicates": [int(book.service.get(peer, _NOTHING).duplicates) for peer in rows],
        }
        for name, values in columns.items():
            batch.fill(PEERS, name, values)
        await operation.call(batch)
        answers = zip(rows, batch.answer("keep"), batch.answer("gossip"), strict=True)
        scores = {peer: Score(keep / 1000, gossip / 1000) for peer, keep, gossip in answers}
        book.scored(scores)
        self._operation = operation
        self._ranked = sorted(
            (peer for peer in dialled if peer in scores),
            key=lambda peer: (-scores[peer].keep, peer),
        )
        self._before = self._done()

    def _fade(self) -> None:
        now = trio.current_time()
        self._switch.book.fade(0.5 ** ((now - self._faded) / FADE_SECONDS))
        self._faded = now

    def _done(self) -> dict[bytes, int]:
        """What each of the ranked has done for us since the start, in bytes."""
        service = self._switch.book.service
        return {peer: _bytes(service.get(peer, _NOTHING)) for peer in self._ranked}

    def _tell_achieved(self) -> None:
        """The slot's goal for the last round, where anything can be said."""
        operation, self._operation = self._operation, None
        now = self._done()
        share = useful_share(self._ranked, {peer: now[peer] - self._before[peer] for peer in now})
        if operation is not None and share is not None:
            operation.achieved(share)


def useful_share(ranked: list[bytes], done: Mapping[bytes, int]) -> int | None:
    """The better half's share of what was done, in ppm; None of nothing, or of a single peer."""
    total = sum(done.values())
    if len(ranked) < 2 or total <= 0:
        return None
    # Of an odd number, the one in the middle counts half, so that no ranking is better for it.
    twice = 2 * sum(done[peer] for peer in ranked[: len(ranked) // 2])
    if len(ranked) % 2:
        twice += done[ranked[len(ranked) // 2]]
    return twice * MILLION // (2 * total)


def _bytes(its: Service) -> int:
    return its.sent + MESSAGE_BYTES * its.delivered


_OF_RECORD = ("useful", "rate", "rtt", "known", "faults", "failed_dials")
_NOTHING = Service()
