"""Who serves which tile group: a pure function of the ledger, the same on every daemon.

Every group has a ranking of the epoch's members, by weighted rendezvous (rendezvous.py; the weight
is reputation over latency, election.score). The first three that have room are its replicas, and
the first of them is its primary.

Rules of this file:
1. *Nobody can aim.* What a group is ranked by is a beacon that was drawn after the members of its
   epoch were known. Were it each epoch's newest, all groups would move with every epoch; so each
   keeps the one that it was last drawn by, for REDRAW epochs, and a few are drawn anew in each.
   Whoever makes up identities for a beacon that it knows gains a place until the group's next draw
   at most, and only with reputation.
2. *Nobody carries more than its limit.* Members and groups are matched as students and schools are
   (D. Gale, L. Shapley, 1962): a group asks down its ranking, a member keeps the groups that it
   ranks for best, `limit` of them, and the others ask on. The result does not depend on the order,
   and one member that comes or goes moves little more than what it has. (Consistent hashing with
   bounded loads, Mirrokni et al. 2018, bounds alike; there the order of arrival decides.)
3. *Too little room*: with n members there are `n * limit // 3` groups served at most, and those
   with the lowest places in the list are. Whoever has fewer than three gets none.
4. What decides is all in integers.
"""

import hashlib
import heapq
from collections.abc import Iterable, Mapping, Sequence
from math import log2
from typing import NamedTuple

from protocols.learn.replica_ports import REPLICAS
from protocols.ledger.council import Council
from protocols.ledger.election import score
from protocols.ledger.entries import Member
from protocols.rendezvous import HASH_BITS, cost

REDRAW = 8
"""Epochs that a group keeps its beacon: so an eighth of the groups are drawn anew in each, and the
ledger's last 16 councils (ledger_state.PAST_COUNCILS) are enough to recompute the last 9 epochs."""
LEAST_LIMIT = 4
"""Groups that every member takes, if asked: what a card of 8 to 12 GB holds beside the model."""
SLACK_NUMERATOR, SLACK_DENOMINATOR = 5, 4
"""A limit is so much above an even share: with less, groups are pushed far down their rankings;
with more, the first in many rankings carry too much."""

_FIRST = 12
"""Places of a ranking that are computed at once: with limits as above, none of 1,024 groups on 100
members asked for more than five."""
_DOUBT = 1e-8
"""In -log2(u): floats are wrong by 1e-13, and exact costs are cut to 2^-32."""

Three = tuple[bytes, bytes, bytes]
Placement = list[Three | None]


class Moved(NamedTuple):
    """What changes from one placement to the next."""

    groups: int
    """That have any other replica than before,"""
    seats: int
    """... how many replicas have to take over a group's log and version,"""
    primaries: int
    """... and how many groups have another primary."""


def draw_of(key: bytes, epoch: int) -> int:
    """The epoch by whose beacon a group is ranked in `epoch`; the ledger may have begun later."""
    slot = hashlib.sha256(b"synapse draw" + key).digest()[0] % REDRAW
    return epoch - (epoch + slot) % REDRAW


def beacons_at(councils: Iterable[Council], first: int, epoch: int) -> list[bytes] | None:
    """The beacons of `epoch` and those before that matter, newest first; None where they are not
    among `councils`. `first`: the ledger's first epoch (entries.FIRST_EPOCH)."""
    known: Mapping[int, bytes] = {council.epoch: council.beacon for council in councils}
    wanted = range(epoch, max(first, epoch - REDRAW + 1) - 1, -1)
    if any(each not in known for each in wanted):
        return None
    return [known[each] for each in wanted]


def limit_for(groups: int, members: int) -> int:
    """Groups that one member carries at most: an even share with some room, and never too few."""
    if members < REPLICAS:
        return 0
    share = -(-SLACK_NUMERATOR * REPLICAS * groups // (SLACK_DENOMINATOR * members))
    return max(LEAST_LIMIT, share)


def place(
    beacons: Sequence[bytes],
    epoch: int,
    members: Iterable[Member],
    keys: Sequence[bytes],
    limit: int,
) -> Placement:
    """The three of each group (partition.group_key), the primary first; None: not served.

    `beacons`: as from `beacons_at`. Members without weight are not ranked.
    """
    nodes = sorted(
        (member.identity, score(member.weight, member.latency))
        for member in members
        if member.weight > 0
    )
    served = min(len(keys), len(nodes) * limit // REPLICAS) if len(nodes) >= REPLICAS else 0
    ranked = [_ranked(beacons, epoch, key, nodes) for key in keys[:served]]
    while True:
        seats = _matched(ranked[:served], limit)
        whole = sum(len(each) == REPLICAS for each in seats)
        if whole == served:
            break
        # Room is left only with members that a group has already: serve fewer.
        served -= max(1, (served - whole) // REPLICAS)
    threes: Placement = [(each[0], each[1], each[2]) for each in seats]
    return threes + [None] * (len(keys) - served)


class Ranking:
    """A group's members, the cheapest first; their costs are computed as far as they are asked for.

    Exact costs take 10 us each, and a group rarely asks beyond its first few. Which those can be is
    found with floats, whose errors are far below `_DOUBT`; their order is that of exact costs.
    """

    def __init__(self, salted: bytes, nodes: Sequence[tuple[bytes, int]]) -> None:
        self._salted = salted
        self._nodes = nodes
        self._first = self._costs(_near(salted, nodes))[:_FIRST]
        self._all: list[tuple[int, bytes]] | None = None

    def __len__(self) -> int:
        return len(self._nodes)

    def __getitem__(self, place: int) -> tuple[int, bytes]:
        """(cost, member) at that place."""
        if place < len(self._first):
            return self._first[place]
        if self._all is None:
            self._all = self._costs(self._nodes)
        return self._all[place]

    def _costs(self, nodes: Iterable[tuple[bytes, int]]) -> list[tuple[int, bytes]]:
        return sorted((cost(self._salted, node, weight), node) for node, weight in nodes)


def _near(salted: bytes, nodes: Sequence[tuple[bytes, int]]) -> list[tuple[bytes, int]]:
    """Some nodes, among which are the _FIRST cheapest."""
    if len(nodes) <= 2 * _FIRST:
        return list(nodes)
    prefix = hashlib.sha256(len(salted).to_bytes(8, "big") + salted)
    about = []
    for node, weight in nodes:
        drawn = prefix.copy()
        drawn.update(node)
        u = int.from_bytes(drawn.digest()[: HASH_BITS // 8], "big") + 1
        about.append((HASH_BITS - log2(u), weight))
    most = sorted((minus_log + _DOUBT) / weight for minus_log, weight in about)[_FIRST - 1]
    return [
        node
        for node, (minus_log, weight) in zip(nodes, about, strict=True)
        if (minus_log - _DOUBT) / weight <= most
    ]


def _ranked(
    beacons: Sequence[bytes], epoch: int, key: bytes, nodes: Sequence[tuple[bytes, int]]
) -> Ranking:
    drawn = beacons[min(epoch - draw_of(key, epoch), len(beacons) - 1)]
    return Ranking(b"group" + drawn + key, nodes)


def _matched(ranked: Sequence[Ranking], limit: int) -> list[list[bytes]]:
    """The seats of each group by its ranking; fewer than three where there is no room.

    Deferred acceptance: who is full keeps those that it costs least, and the one that has to go
    asks its next choice. What one asked and lost it never gets back, so each asks each member once.
    """
    kept: dict[bytes, list[tuple[int, int]]] = {}  # member: heap of (-cost, -group)
    held: list[set[bytes]] = [set() for _ in ranked]
    asked = [0] * len(ranked)
    waiting = [group for group in range(len(ranked)) for _ in range(REPLICAS)]
    while waiting:
        group = waiting.pop()
        if asked[group] == len(ranked[group]):
            continue
        price, node = ranked[group][asked[group]]
        asked[group] += 1
        heap = kept.setdefault(node, [])
        heapq.heappush(heap, (-price, -group))
        held[group].add(node)
        if len(heap) > limit:
            loser = -heapq.heappop(heap)[1]
            held[loser].discard(node)
            waiting.append(loser)
    return [
        [node for _, node in map(order.__getitem__, range(count)) if node in mine]
        for order, mine, count in zip(ranked, held, asked, strict=True)
    ]


def moved(before: Placement, after: Placement) -> Moved:
    """What changes for groups that are in both."""
    groups = seats = primaries = 0
    for old, new in zip(before, after, strict=False):
        if new is None or old is None:
            continue
        fresh = len(set(new) - set(old))
        groups += fresh > 0
        seats += fresh
        primaries += new[0] != old[0]
    return Moved(groups, seats, primaries)


def loads(placement: Placement) -> dict[bytes, int]:
    """Groups by member, of those that have any."""
    found: dict[bytes, int] = {}
    for three in placement:
        for member in three or ():
            found[member] = found.get(member, 0) + 1
    return found
