"""Reputation and credits: a pure function of what the ledger proves.

Reputation is what the genesis granted, plus `reputation.per_credit` for each credit earned, and
nothing any more for whoever was proven guilty. A vote weighs exactly that: weight is linear, so
that k identities with the parts weigh what one with the whole does, and a new identity weighs
nothing. There is no cap for one identity either, for k identities would have k caps.

Credits are the documents' five amounts. They are minted by the ledger itself, once for each piece
of evidence, and nothing transfers or buys them:

    migration    200   to whose proposal was executed, if it passes without the author's own vote
    validation    25   to a member whose verdict was what the verdicts on an accepted proposal
                       decided, if that passes without the member's and the author's votes; an
                       author's verdict on its own proposal earns nothing
    detection     75   to who reported a proof of guilt, if the guilty lost at least as much by it:
                       reporting a puppet of one's own gains nothing
    training     100   shared among those whose deltas made a checkpoint that the council found
                       better than its parent (ledger/training.py, learn/evidence.py): to each for
                       whom it passes without its own vote and verdict
    dataset       50   to whose proposal a dataset is adopted by, once for each dataset, if it
                       passes without the author's own vote

What this cannot see is that two identities, each with reputation that it was granted or earned,
have one owner: they carry each other's proposals where together they outweigh everybody else. Who
holds so much decides every vote already.
"""

from collections.abc import Iterable, Mapping

CREDITS: Mapping[str, int] = {
    "training": 100,
    "dataset": 50,
    "migration": 200,
    "validation": 25,
    "detection": 75,
}
MILLE = 1000


class Weights:
    """Everybody's reputation as from one entry on. Never changed, so that open proposals can go
    on counting by the one that they were opened with."""

    __slots__ = ("index", "points", "total")

    def __init__(self, points: Mapping[bytes, int], index: int) -> None:
        """`index` is the entry's that made it so."""
        self.points = {identity: amount for identity, amount in points.items() if amount > 0}
        self.total = sum(self.points.values())
        self.index = index

    def changed(self, values: Iterable[tuple[bytes, int]], index: int) -> "Weights":
        """With some identities' new values."""
        twin = Weights({}, index)
        twin.points = points = self.points.copy()
        twin.total = self.total
        for identity, amount in values:
            twin.total += amount - points.get(identity, 0)
            if amount:
                points[identity] = amount
            else:
                points.pop(identity, None)
        return twin


def earned(credits: int, per_credit: int) -> int:
    """Reputation for credits, at `per_credit` thousandths."""
    return credits * per_credit // MILLE
