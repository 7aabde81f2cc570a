"""How many connections training needs, and of whom: what the documents call fan-in.

Without regions each of N learners talks to the primary of each of M groups: N x M. With them a
learner talks to its region's aggregator alone, and R aggregators to P primaries: N + R x P. The
three replicas of each group talk among each other in either case (the two that follow need not,
but while they look for another primary). Groups share daemons, and two
groups between the same two daemons share one connection, so M groups on n daemons have at most n
primaries, whatever M is. (An aggregator that lost a primary asks the group's others, too.)
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from protocols.learn.placement import Placement

Pair = tuple[bytes, bytes]
"""Two daemons, the lower id first."""


class FanIn(NamedTuple):
    """What a training's messages need."""

    total: int
    """Pairs of daemons that talk."""
    most: int
    """Peers of whoever has most."""
    learner: int
    """Peers of the learner that is nothing else and has most; 0 where there is none."""


def pairs_of(placement: Placement, routes: Mapping[bytes, bytes | None]) -> set[Pair]:
    """Who talks with whom. `routes`: by learner its region's aggregator, or None for those that
    send to the primaries themselves."""
    primaries = [three[0] for three in placement if three is not None]
    found: set[Pair] = set()
    for three in placement:
        if three is not None:
            found |= _pairs((three[0], three[1]), (three[0], three[2]), (three[1], three[2]))
    for learner, aggregator in routes.items():
        if aggregator is None:
            found |= _pairs(*((learner, primary) for primary in primaries))
        else:
            found |= _pairs((learner, aggregator))
    for aggregator in {each for each in routes.values() if each is not None}:
        found |= _pairs(*((aggregator, primary) for primary in primaries))
    return found


def followers(placement: Placement) -> set[Pair]:
    """Pairs that talk only while there is no primary."""
    found: set[Pair] = set()
    for three in placement:
        found |= set() if three is None else _pairs((three[1], three[2]))
    return found


def _pairs(*ends: Pair) -> set[Pair]:
    return {(min(pair), max(pair)) for pair in ends if pair[0] != pair[1]}


def fan_in(pairs: Iterable[Pair], busy: Iterable[bytes]) -> FanIn:
    """Counts; `busy`: replicas and aggregators."""
    pairs, busy = set(pairs), set(busy)
    each = Counter(end for pair in pairs for end in pair)
    idle = [count for peer, count in each.items() if peer not in busy]
    return FanIn(len(pairs), max(each.values(), default=0), max(idle, default=0))
