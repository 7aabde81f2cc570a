"""A learner's deltas that nobody has acknowledged yet: to whom they went, and when to send again.

A delta goes to the region's aggregator, or to its group's primary. An aggregator that keeps silent
is passed over; one that has said that it holds the delta is given the time to sum. When a primary
keeps silent, the group's replicas are asked who leads. Each try waits twice as long as the one
before. A delta whose round lies more than one back cannot be taken by anybody: it is given back to
the learner's error feedback.
"""

from collections.abc import Iterator

from protocols.learn.claims import Claim, Made

MAX_WAIT_MS = 30_000
"""Between two tries."""


class Sent:
    """One delta on its way."""

    __slots__ = ("at", "claim", "held", "made", "to", "tries", "wait_ms")

    def __init__(self, claim: Claim, made: Made, to: bytes | None, now_ms: int, wait_ms: int):
        self.claim = claim
        self.made = made
        self.to = to
        self.at = now_ms
        self.tries = 0
        self.wait_ms = wait_ms
        self.held = False
        """An aggregator has it."""

    @property
    def due(self) -> int:
        """When it is sent again."""
        return self.at + min(self.wait_ms << min(self.tries, 8), max(self.wait_ms, MAX_WAIT_MS))

    def again(self, to: bytes | None, now_ms: int, wait_ms: int) -> None:
        """Sent once more."""
        self.tries = self.tries + 1 if to == self.to else 0
        self.to, self.at, self.wait_ms, self.held = to, now_ms, wait_ms, False


class Outbox:
    """All of them: at most two of a group, the newest and a late one."""

    def __init__(self) -> None:
        self._sent: dict[tuple[int, bytes], Sent] = {}

    def __iter__(self) -> Iterator[Sent]:
        return iter(list(self._sent.values()))

    def add(self, sent: Sent) -> None:
        """One more."""
        self._sent[sent.made.group, sent.made.digest] = sent

    def find(self, group: int, digest: bytes) -> Sent | None:
        """One of them."""
        return self._sent.get((group, digest))

    def done(self, group: int, digest: bytes) -> Sent | None:
        """It needs no more care."""
        return self._sent.pop((group, digest), None)

    def of(self, group: int) -> list[Sent]:
        """Those of a group."""
        return [sent for (number, _), sent in self._sent.items() if number == group]

    def clear(self) -> list[Sent]:
        """Forget all; what they were."""
        gone = list(self._sent.values())
        self._sent.clear()
        return gone

    @property
    def due(self) -> int | None:
        """When the first is sent again."""
        return min((sent.due for sent in self._sent.values()), default=None)
