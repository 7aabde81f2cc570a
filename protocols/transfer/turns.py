"""Whose turn it is to repair a group of tiles.

Everybody who watches a model ranks the daemons that could repair a group alike: rendezvous over
the living who lack some of it and have room, by room. Where d copies are missing, the first d
begin at once. Behind them the places double with every `step`: one more after the first, two more
after the second, four after the third. So a few who do not begin cost little time and no copies
too many, and a thousand strangers who claim room, and never repair, delay it by ten steps.

Whoever has part of the group and gets on is taken to repair it, and d is one less.
"""

from collections.abc import Mapping

from protocols.gossip.shelf import Holding
from protocols.rendezvous import MAX_WEIGHT, rank
from protocols.transfer.copies import GROUP_TILES, TILE_BYTES, Model, overlap

PATIENCE_STEPS = 10
"""Steps for which others who seem to get on are waited for at most."""
LEAST_STEP = 1 / 3
"""Of `step`, for a group of a few bytes: 10 s, in which those at work have said so
(synapsed/holdings/shards.py, every 5 s)."""


class Turns:
    """One daemon's view of whose turn it is. Times in seconds."""

    def __init__(self, me: bytes, *, copies: int, delay: float, step: float) -> None:
        self._me = me
        self._copies = copies
        self._delay = delay
        self._step = step
        self.room: Mapping[bytes, int] = {}
        """Who is alive, and the bytes that each may still hold for others."""

    def lacking(self, model: Model, group: int) -> list[int]:
        """Tiles of the group with too few copies, none of them ours."""
        mine = model.holdings.get(self._me, Holding(self._me, ()))
        return [
            tile
            for tile in model.group_tiles(group)
            if model.counts[tile] < self._copies and not mine.holds(tile)
        ]

    def is_ours(self, model: Model, group: int, lacking: list[int], now: float) -> bool:
        """Whether we are to fetch these tiles of a group now."""
        begun = model.short_since[group] + self._delay
        ranking = self._ranking(model, group, lacking)
        missing = self._copies - min(model.counts[tile] for tile in lacking)
        if now < begun + PATIENCE_STEPS * self._step:
            busy = self._at_work(model, group, now)
            missing -= len(busy)
            ranking = [peer for peer in ranking if peer not in busy]
        if self._me not in ranking or missing <= 0:
            return False
        behind = max(0, ranking.index(self._me) - missing + 1)
        return now >= begun + behind.bit_length() * self._step_of(model, group)

    def _step_of(self, model: Model, group: int) -> float:
        """A step, less where there is less to fetch."""
        share = model.group_bytes(group) / (GROUP_TILES * TILE_BYTES)
        return self._step * max(LEAST_STEP, share)

    def _ranking(self, model: Model, group: int, lacking: list[int]) -> list[bytes]:
        """Live daemons that could, and would, take the group's tiles, first choice first."""
        needed = model.group_bytes(group)
        if len(model.weights) > 2 * len(self.room) + 64:
            model.weights.clear()  # of those who have gone
        candidates = [
            # Weights stay while the model is short: repairing takes room, and would else move
            # those who repair down the ranking before what they fetched is announced.
            (peer, model.weights.setdefault(peer, _weight(room)))
            for peer, room in self.room.items()
            if room >= needed
            and peer not in model.left
            and not (
                peer in model.holdings and all(model.holdings[peer].holds(tile) for tile in lacking)
            )
        ]
        return rank(model.cid + group.to_bytes(8, "big"), candidates)

    def _at_work(self, model: Model, group: int, now: float) -> set[bytes]:
        """Others who have part of the group and have got further lately: they are repairing it,
        wherever the ranking puts them now that they have less room."""
        tiles = model.group_tiles(group)
        return {
            peer
            for peer, at in model.progress.items()
            if peer != self._me
            and peer in self.room
            and now < at + self._step
            and 0 < overlap(model.holdings[peer], tiles) < len(tiles)
        }


def _weight(room: int) -> int:
    """A power of two, so that a ranking does not change with each megabyte that somebody fills.

    Quotas are round numbers: a quarter more keeps an empty store of 2^k bytes, and one that has
    taken its first headers, on the same side of the step.
    """
    return min(1 << ((room + room // 4).bit_length() - 1), MAX_WEIGHT) if room > 0 else 0
