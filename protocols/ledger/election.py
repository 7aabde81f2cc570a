"""Epochs: who sits in the next council, the beacon that draws them, and who ranks for a tile.

The beacon. Each member of the council commits to a secret (in its candidacy) during the first
three quarters of an epoch and reveals it in the last. The next beacon is a hash of this one and
the secrets revealed, by seat. While one of those is unknown to the others, the beacon is.
What can be biased: whoever reveals last knows the result with its secret and without, and may
choose between the two by keeping silent; k members together, or a leader that keeps k reveals
out of the ledger to the end, choose among 2^k. None can make it what it wants. A network in which
nobody reveals goes on with a beacon that anybody can compute ahead.

The draw. Seats go to the first in a rendezvous ranking by (beacon, reputation): a candidate is
seated with a chance that grows with its reputation, linearly at the top, and whoever has the
ledger can compute it. Taking the highest reputations instead would seat the same few for good.
One identity holds one seat at most; whoever owns several that each earned reputation can hold
several, in the long run no greater a share of the seats than its share of the reputation.
Fewer than a third of the seats change hands at once, so that the old council's honest members are
a majority of the new one's whoever joins. Members who say nothing stay; without candidates the
council stays as it is, so an epoch never waits for anybody.
"""

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence

import msgspec

from protocols.ledger.council import Seat
from protocols.ledger.entries import Member
from protocols.rendezvous import MAX_WEIGHT, rank

MIN_SEATS = 4
"""Below it one liar decides: members may leave without a successor only above it."""
UNKNOWN_LATENCY = 16
"""The class of what fewer than half of the council measured."""
_NEAR, _FAR = 5, 8
"""Classes of round trips below 32 ms are alike, and so are those from 128 ms on: tiles are not to
flock to one town."""
_REVEAL_NUMERATOR, _REVEAL_DENOMINATOR = 3, 4


class Candidate(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The last candidacy of one identity in an epoch."""

    willing: bool
    key: bytes
    commitment: bytes
    count: int
    """How many it has sent for this epoch."""


def reveal_phase(started: int, epoch_ms: int) -> tuple[int, int]:
    """When (by the ledger's time) candidacies end and reveals begin, and when those end."""
    return started + epoch_ms * _REVEAL_NUMERATOR // _REVEAL_DENOMINATOR, started + epoch_ms


def next_beacon(beacon: bytes, epoch: int, secrets: Mapping[int, bytes]) -> bytes:
    """The beacon of `epoch`, from the last one and the secrets that seats revealed."""
    drawn = hashlib.sha256(b"synapse beacon" + beacon + epoch.to_bytes(8, "big"))
    for seat in sorted(secrets):
        drawn.update(seat.to_bytes(2, "big") + secrets[seat])
    return drawn.digest()


def latency_class(milliseconds: int) -> int:
    """A round trip in powers of two of a millisecond."""
    return min(milliseconds.bit_length(), UNKNOWN_LATENCY - 1)


def median_class(measured: Sequence[int], seats: int) -> int:
    """The class of the (lower) median of what `seats` members measured.

    Who measured nothing counts as infinitely far, so fewer than half of the seats, lying either
    way, cannot move it beyond what honest members measured.
    """
    middle = (seats - 1) // 2
    if len(measured) <= middle:
        return UNKNOWN_LATENCY
    return latency_class(sorted(measured)[middle])


def _draw(beacon: bytes, use: bytes, nodes: Mapping[bytes, int]) -> list[bytes]:
    drawn = rank(use + beacon, nodes.items())
    return drawn + sorted(node for node, weight in nodes.items() if weight == 0)


class _Draw:
    """An election while it is being held."""

    def __init__(self, order: Sequence[bytes], sitting: Iterable[bytes], budget: int) -> None:
        self.place = {identity: place for place, identity in enumerate(order)}
        self.council = list(sitting)
        held = set(self.council)
        self.joiners = [identity for identity in order if identity not in held]
        self.joined = self.left = 0
        self.budget = budget

    def join(self) -> None:
        self.council.append(self.joiners.pop(0))
        self.joined += 1

    def leave(self, identity: bytes) -> None:
        self.council.remove(identity)
        self.left += 1

    def may_join(self) -> bool:
        return bool(self.joiners) and self.joined < self.budget

    def may_leave(self) -> bool:
        return self.left < self.budget

    def worst(self) -> bytes:
        """Who would go first: those that do not want to stay, then by rank."""
        return max(self.council, key=lambda who: (self.place.get(who, len(self.place)), who))


def elect(
    beacon: bytes,
    sitting: Sequence[bytes],
    willing: Mapping[bytes, int],
    banned: Collection[bytes],
    size: int,
) -> list[bytes]:
    """The identities of the next council, rising.

    `sitting` holds it now; `willing` are those who would serve, sitting or not, with their
    reputation, and none of them is banned.
    """
    honest = [identity for identity in sitting if identity not in banned]
    order = _draw(beacon, b"seats", willing)
    draw = _Draw(order, honest, budget=max(1, (len(sitting) - 1) // 3))
    draw.left = len(sitting) - len(honest)
    while len(draw.council) < min(size, len(sitting)) and draw.may_join():
        draw.join()
    for identity in honest:
        if identity in willing or not draw.may_leave():
            continue
        if draw.may_join():
            draw.join()
        elif len(draw.council) <= MIN_SEATS:
            continue
        draw.leave(identity)
    while len(draw.council) < size and draw.may_join():
        draw.join()
    while len(draw.council) > size and draw.may_leave():
        draw.leave(draw.worst())
    while draw.may_join() and draw.may_leave():
        worst = draw.worst()
        if draw.place[draw.joiners[0]] >= draw.place.get(worst, len(order)):
            break
        draw.leave(worst)
        draw.join()
    return sorted(draw.council) or sorted(sitting)


def changed_seats(before: Sequence[Seat], after: Sequence[Seat]) -> int:
    """Seats that others hold than before, or that came or went."""
    held, holds = ({seat.identity for seat in seats} for seats in (before, after))
    return max(len(held - holds), len(holds - held))


def score(weight: int, latency: int) -> int:
    """What a member ranks for tiles by: its reputation over its latency, within bounds."""
    near = min(max(latency, _NEAR), _FAR)
    return min(weight << (_FAR - near), MAX_WEIGHT)


def ranking(
    beacon: bytes, group: bytes, members: Iterable[Member], banned: Collection[bytes]
) -> list[bytes]:
    """The members for one tile group, the primary first, then its successors.

    A pure function of the ledger: any daemon computes it. The group has no say in the beacon, and
    the beacon is drawn after the candidates have committed, so nobody can aim at a group.
    """
    nodes = [
        (member.identity, score(member.weight, member.latency))
        for member in members
        if member.identity not in banned
    ]
    return rank(b"group" + beacon + group, nodes)
