"""What regions did in one world: events of sums, audits and routes, and what crossed."""

from collections import Counter
from itertools import combinations
from typing import TYPE_CHECKING

import msgspec

from protocols.learn.fanin import Pair, pairs_of
from simnet.timeline import Mark, Routed, Summed
from synapsed.training import said

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from simnet.timeline import Timeline
    from synapsed.control.models import EventInfo

TRAINING = "training."
"""How all their events begin."""
TENSORS = 4096
"""Bytes that a pair moves at least when it moves tensors: a tile group's delta has ten times as
many, and some minutes of heartbeats between replicas, or of questions, are more than messages."""


class Seen(msgspec.Struct, frozen=True):
    """One moment of everybody's word, for a metering."""

    round: int
    """The lowest that a learner is at."""
    moved: dict[tuple[str, str], int]
    """Bytes by (sender, receiver), as senders count them."""
    pairs: frozenset[Pair]
    """Who talks with whom by the rule, as things stand."""
    served: frozenset[Pair]
    """Aggregators and all replicas: from any of them rounds may come."""
    seats: dict[int, frozenset[bytes]]
    """Who serves each group: with an epoch they hand it over."""


class Metered(msgspec.Struct, frozen=True):
    """What a metering found."""

    rounds: int
    wide: int
    """Bytes between regions."""
    moved: dict[Pair, int]
    """Bytes of each pair."""
    allowed: frozenset[Pair]
    predicted: int
    """Pairs by the rule: the most of its moments."""

    @property
    def each(self) -> float:
        """Bytes between regions, a round."""
        return self.wide / self.rounds


def seen(statuses: "Mapping[str, said.TrainStatus]", lineage: str) -> Seen:
    """What daemons, by their ids, say now."""
    found = {
        peer: next((each for each in status.trainings if each.lineage == lineage), None)
        for peer, status in statuses.items()
    }
    known = {peer: each for peer, each in found.items() if each is not None}
    groups = newest_groups(list(known.values()))
    placement = [_three(group) for group in groups.values()]
    routes = {
        peer.encode(): each.aggregator.encode() or None
        for peer, each in known.items()
        if each.joined
    }
    through = {each for each in routes.values() if each is not None}
    replicas = {peer for three in placement for peer in three or ()}
    return Seen(
        min((each.round for each in known.values() if each.joined), default=0),
        {
            (peer, talk.peer): talk.bytes_out
            for peer, status in statuses.items()
            for talk in status.talks
        },
        frozenset(pairs_of(placement, routes)),
        frozenset(_pair(one, other) for one in through for other in replicas if one != other),
        {number: frozenset(_three(group) or ()) for number, group in groups.items()},
    )


def newest_groups(known: "Sequence[said.TrainingSaid]") -> dict[int, said.GroupSaid]:
    """Each group that somebody leads, by the newest word of it."""
    groups: dict[int, said.GroupSaid] = {}
    for each in known:
        for group in each.groups:
            before = groups.get(group.number)
            better = before is None or (group.epoch, group.term) > (before.epoch, before.term)
            if group.primary and better:
                groups[group.number] = group
    return groups


def _three(group: said.GroupSaid) -> tuple[bytes, bytes, bytes] | None:
    """Its replicas, whoever leads first."""
    one, *others = dict.fromkeys([group.primary, *group.replicas])
    if len(others) != 2:
        return None
    return one.encode(), others[0].encode(), others[1].encode()


def _pair(one: bytes, other: bytes) -> Pair:
    return (min(one, other), max(one, other))


def metered(before: Seen, after: Seen, region_of: "Mapping[str, int]") -> Metered:
    """What happened between two moments."""
    wide, moved = 0, Counter[Pair]()
    for (sender, receiver), count in after.moved.items():
        more = count - before.moved.get((sender, receiver), 0)
        moved[_pair(sender.encode(), receiver.encode())] += more
        if region_of.get(sender) != region_of.get(receiver):
            wide += more
    handed = {
        _pair(one, other)
        for number, old in before.seats.items()
        for one, other in combinations(old | after.seats.get(number, frozenset()), 2)
    }
    return Metered(
        after.round - before.round,
        wide,
        dict(moved),
        before.pairs | after.pairs | before.served | after.served | handed,
        max(len(before.pairs), len(after.pairs)),
    )


class RegionRecord:
    """Of one world."""

    def __init__(self, timeline: "Timeline") -> None:
        self._timeline = timeline
        self.sums: dict[tuple[str, int, int], tuple[str, ...]] = {}
        """Aggregators whose sums are in a committed round, by (lineage, group, round)."""
        self.audits: list[tuple[int, bool | None]] = []
        """By whom, and whether the sum was right."""
        self.caught: set[tuple[int, str]] = set()
        """(by whom, whom)."""
        self.meters: dict[str, Metered] = {}
        self.liars: set[int] = set()

    def hear(self, daemon: int, event: "EventInfo", now: float, index_of: dict[str, int]) -> None:
        """Take an event of a training; `now` is the world's time."""
        fields = event.fields
        match event.kind:
            case "training.round" if "sums" in fields:
                key = (fields["model"], fields["group"], fields["number"])
                self.sums.setdefault(key, tuple(fields["sums"]))
            case "training.routed":
                through = index_of.get(fields["aggregator"])
                rtt, far = fields["rtt_ms"], fields["primary_ms"]
                self._timeline.routes.append(Routed(now, daemon, through, rtt, far))
            case "training.summed":
                self._timeline.sums.append(Summed(now, daemon))
            case "training.audited":
                self.audits.append((daemon, fields["same"]))
            case "training.caught" if "aggregator" in fields:
                if not any(whom == fields["aggregator"] for _, whom in self.caught):
                    whom = index_of.get(fields["aggregator"])
                    self._timeline.marks.append(Mark(now, whom, "caught"))
                self.caught.add((daemon, fields["aggregator"]))
            case _:
                pass

    def sums_of(self, lineage: str) -> Counter[str]:
        """Sums in committed rounds, by aggregator."""
        return Counter(
            each for key, through in self.sums.items() if key[0] == lineage for each in through
        )
