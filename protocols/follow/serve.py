"""What a follower tells others of its ledger: bounded by bytes, for each peer.

Whoever asks for the entry after our newest one waits a moment for it: news is told by gossip,
which is often quicker than the neighbour that passed it on.
"""

from collections.abc import Sequence

from protocols.effects import Effect, Send
from protocols.errors import NotHeldError
from protocols.follow.chain import RatifiedChain
from protocols.follow.messages import (
    MAX_LINK_BYTES,
    MAX_LINKS,
    MAX_PART,
    MAX_RANGE,
    PROTOCOL,
    Answer,
    Entries,
    GetEntries,
    GetLinks,
    GetSnapshot,
    Links,
    Prove,
    Proven,
    Refused,
    Request,
    Snapshot,
    Why,
    frame,
)
from protocols.ledger.proof import prove

WAIT = 2.0
"""Seconds that a request waits for the entry after our newest one: less than its time-out."""
MAX_WAITING = 1024
"""Requests that wait, one of a peer."""
MAX_METERED = 4096
"""Peers whose share is remembered: four times as many as are ever connected."""
RATE = 1 << 20
"""Bytes a second for one peer: twice what a newcomer can verify."""
BURST = 8 << 20
ALL_RATE = 8 << 20
"""Bytes a second for all peers together, at most: 10 % of a core."""
ALL_BURST = 64 << 20
LEAST_COST = 32 << 10
"""Bytes that an answer counts at least: a proof of 100 headers takes half a millisecond."""

Answered = tuple[Answer, Sequence[bytes]]


class Allowance:
    """Bytes that may be sent: at most `burst` saved up, and `rate` more each second.

    It may go below 0 by one answer, as how long that is, is known when it is made. (A
    TokenBucket takes nothing where there is too little.)
    """

    __slots__ = ("_at", "_burst", "_left", "_rate")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._left = burst
        self._at = now

    def left(self, now: float) -> float:
        """Bytes at `now`."""
        self._left = min(self._burst, self._left + max(0.0, now - self._at) * self._rate)
        self._at = now
        return self._left

    def spend(self, size: int) -> None:
        """So many were sent."""
        self._left -= size


class Server:
    """Answers requests from the history."""

    __slots__ = ("_all", "_allowed", "_chain", "_history", "_waiting")

    def __init__(self, chain: RatifiedChain) -> None:
        self._chain = chain
        self._history = chain.history
        self._allowed: dict[bytes, Allowance] = {}
        self._all = Allowance(ALL_RATE, ALL_BURST, 0.0)
        self._waiting: dict[bytes, tuple[GetEntries, float]] = {}

    def down(self, peer: bytes) -> None:
        """A peer is gone."""
        self._allowed.pop(peer, None)
        self._waiting.pop(peer, None)

    def serve(self, peer: bytes, request: Request, now: float) -> list[Effect]:
        """The answer to a request; none yet where it waits for news.

        Raises DamagedRecordError where our own disk changed what was asked for.
        """
        if isinstance(request, GetEntries) and self._is_next(request):
            if len(self._waiting) < MAX_WAITING or peer in self._waiting:
                self._waiting[peer] = (request, now + WAIT)
                return []
            return self._refuse(peer, request, Why.AHEAD)
        allowance = self._allowed.get(peer) or Allowance(RATE, BURST, now)
        if allowance.left(now) <= 0 or self._all.left(now) <= 0:
            return self._refuse(peer, request, Why.BUSY)
        answer, parts = self._answer(request)
        data = frame(answer, parts)
        cost = max(LEAST_COST, len(data))
        if len(self._allowed) >= MAX_METERED and peer not in self._allowed:
            del self._allowed[next(iter(self._allowed))]
        self._allowed[peer] = allowance
        allowance.spend(cost)
        self._all.spend(cost)
        return [Send(peer, PROTOCOL, data)]

    def _newest(self) -> int:
        certificate = self._history.certificate
        return 0 if certificate is None else certificate.said.index

    def _is_next(self, request: GetEntries) -> bool:
        return request.start == self._newest() + 1

    def advanced(self, now: float) -> list[Effect]:
        """There is a newer certificate: answer those who waited for it."""
        effects: list[Effect] = []
        for peer, (request, _) in list(self._waiting.items()):
            if not self._is_next(request):
                del self._waiting[peer]
                effects += self.serve(peer, request, now)
        return effects

    def expire(self, now: float) -> list[Effect]:
        """Those who waited long enough are told that there is nothing."""
        effects: list[Effect] = []
        for peer, (request, until) in list(self._waiting.items()):
            if until <= now:
                del self._waiting[peer]
                effects += self._refuse(peer, request, Why.AHEAD)
        return effects

    def wake_at(self) -> float | None:
        """When the first of those who wait has waited long enough."""
        if not self._waiting:
            return None
        return min((until for _, until in self._waiting.values()), default=None)

    def _answer(self, request: Request) -> Answered:
        try:
            match request:
                case GetEntries():
                    return self._entries(request)
                case GetLinks():
                    return self._links(request)
                case GetSnapshot():
                    return self._snapshot(request)
                case Prove():
                    return self._proven(request)
        except NotHeldError:
            return self._refusal(request, Why.NONE), ()

    def _refusal(self, request: Request, why: Why) -> Refused:
        base = self._history.log.base
        return Refused(number=request.number, why=why, base=base, head=self._newest())

    def _refuse(self, peer: bytes, request: Request, why: Why) -> list[Effect]:
        return [Send(peer, PROTOCOL, frame(self._refusal(request, why)))]

    def _entries(self, request: GetEntries) -> Answered:
        history, start = self._history, request.start
        if start < max(1, history.log.base):
            return self._refusal(request, Why.PRUNED), ()
        if start > self._newest():
            return self._refusal(request, Why.AHEAD), ()
        certificate = history.cover(start)
        stop = min(start + request.count, certificate.said.index + 1)
        payloads: list[bytes] = []
        room = MAX_RANGE
        for index in range(start, stop):
            payload = history.log.payload(index)
            room -= len(payload)
            if payloads and room < 0:
                break
            payloads.append(payload)
        proof = prove(history.header_at, certificate, start + len(payloads) - 1)
        lengths = [len(payload) for payload in payloads]
        return Entries(number=request.number, start=start, lengths=lengths, proof=proof), payloads

    def _links(self, request: GetLinks) -> Answered:
        ended = self._history.ended[max(0, request.epoch - 1) :][:MAX_LINKS]
        if not ended:
            return self._refusal(request, Why.NONE), ()
        room, count = MAX_LINK_BYTES, 0
        for epoch in ended:
            room -= len(epoch.payload)
            if count and room < 0:
                break
            count += 1
        payloads = [epoch.payload for epoch in ended[:count]]
        links = [epoch.link for epoch in ended[:count]]
        lengths = [len(payload) for payload in payloads]
        return Links(number=request.number, links=links, lengths=lengths), payloads

    def _snapshot(self, request: GetSnapshot) -> Answered:
        found = self._chain.checkpoint
        if found is None or request.index not in (0, found.header.index):
            return self._refusal(request, Why.NONE), ()
        part = found.state[request.offset : request.offset + MAX_PART]
        if not part:
            return self._refusal(request, Why.NONE), ()
        answer = Snapshot(
            number=request.number,
            header=found.header,
            proof=self._history.prove(found.header.index),
            size=len(found.state),
            offset=request.offset,
            lengths=[len(found.payload), len(part)],
        )
        return answer, (found.payload, part)

    def _proven(self, request: Prove) -> Answered:
        history, index = self._history, request.index
        if index < max(1, history.log.base):
            return self._refusal(request, Why.PRUNED), ()
        payload = history.log.payload(index)
        answer = Proven(
            number=request.number,
            header=history.header_at(index),
            proof=history.prove(index),
            length=len(payload),
        )
        return answer, (payload,)
