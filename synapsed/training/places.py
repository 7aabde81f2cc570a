"""Who serves a group, as everybody computes it from the ledger (protocols/learn/placement.py)."""

from collections.abc import Sequence

from protocols.learn.placement import REDRAW, limit_for, place
from synapsed.training.ground import Drawn, Replicas

FIRST_EPOCH = 1
"""The genesis' own."""


def place_by_ledger(back: Sequence[Drawn], keys: Sequence[bytes]) -> Sequence[Replicas]:
    """The three of each group of `back`'s first epoch. The limit is of each lineage by itself."""
    now = back[0]
    wanted = range(now.epoch, max(FIRST_EPOCH, now.epoch - REDRAW + 1) - 1, -1)
    known = {each.epoch: each.beacon for each in back}
    if any(epoch not in known for epoch in wanted):
        return ()
    limit = limit_for(len(keys), len(now.members))
    beacons = [known[epoch] for epoch in wanted]
    return [three or () for three in place(beacons, now.epoch, now.members, keys, limit)]
