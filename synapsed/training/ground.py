"""What training needs of the ledger, and whom it names for each group in each epoch.

The service reads a Ground whenever the ledger has changed; nothing else of training looks at the
ledger. Which three serve a group follows from the epoch's beacon and members (placement.py), so an
epoch's are remembered: records of rounds are checked against the group of their own epoch.
"""

from collections.abc import Callable, Mapping, Sequence

import msgspec

from protocols.learn.partition import group_key
from protocols.ledger.council import Council
from protocols.ledger.entries import Member
from protocols.ledger.fold import LedgerState
from protocols.ledger.trainings import Training
from protocols.plan import Plan
from protocols.realm import Realm
from synapsed.ports import Table

KEPT_EPOCHS = 64
"""Epochs whose members are remembered: two months of days. A learner that was away for longer
begins with a checkpoint, or a version."""

Replicas = tuple[bytes, ...]
Place = Callable[[Sequence["Drawn"], Sequence[bytes]], Sequence[Replicas]]
"""(an epoch and those before it, newest first; groups' keys) -> the replicas of each group, the
first choice first; () of one that is not served, and nothing at all where too little is known."""


class Drawn(msgspec.Struct, frozen=True, array_like=True):
    """What an epoch's groups are drawn from."""

    epoch: int
    beacon: bytes
    members: tuple[Member, ...]
    began: int = 0
    """Index of the ledger's entry that began the epoch."""
    started_ms: int = 0
    """The ledger's time at that entry."""


class Terms(msgspec.Struct, frozen=True):
    """A training that the ledger has accepted."""

    plan: Plan
    head: bytes
    """CID of the newest ratified checkpoint; the lineage's own before the first."""
    heads: bytes = bytes(32)
    """Digest of where the rounds stood in it."""
    evaluation: bytes = b""
    opened: int = 0
    """Index of the ledger's entry that accepted it."""
    opened_ms: int = 0
    """The ledger's time then."""
    first: int = 0
    """The epoch in which that was: no group before it ever served."""


class Ground(msgspec.Struct, frozen=True):
    """What the ledger says now."""

    realm: Realm
    index: int
    """Of the ledger's newest entry."""
    tick_ms: int
    """The ledger's time."""
    drawn: Drawn
    """Of this epoch,"""
    past: tuple[Drawn, ...]
    """... and of those before that the ledger still knows."""
    trainings: Mapping[bytes, Terms]
    """By lineage."""
    excluded: frozenset[bytes] = frozenset()
    """Who has no office, by the ledger: at once none of a region's, groups from the next epoch."""


def ground_of(state: LedgerState) -> Ground:
    """What a ledger says of learning."""
    return Ground(
        realm=state.realm,
        index=state.head.index,
        tick_ms=state.time,
        drawn=_drawn(state.council, state.members, state.epoch_started),
        past=tuple(
            _drawn(council, state.members_of(council.epoch) or (), 0) for council in state.past
        ),
        trainings={
            lineage: Terms(
                plan=training.plan,
                head=training.head,
                heads=training.heads,
                evaluation=training.evaluation,
                opened=training.opened,
                opened_ms=_opened_ms(state, training),
                first=_epoch_at(state, training.opened),
            )
            for lineage, training in state.trainings.items()
        },
        excluded=frozenset(state.exclusions),
    )


def _drawn(council: Council, members: Sequence[Member], started_ms: int) -> Drawn:
    return Drawn(council.epoch, council.beacon, tuple(members), council.start.index, started_ms)


def _opened_ms(state: LedgerState, training: Training) -> int:
    """When it was accepted; when this epoch began, where the ledger has forgotten that."""
    closed = state.closed.get(training.proposal)
    known = closed is not None and training.index == training.opened
    return closed.closed_at if closed is not None and known else state.epoch_started


def _epoch_at(state: LedgerState, index: int) -> int:
    """The epoch of the entry at `index`; the oldest that is known for older ones."""
    epoch = state.council.epoch
    for council in (state.council, *reversed(state.past)):
        epoch = council.epoch
        if council.start.index < index:
            break
    return epoch


class Places:
    """Who serves which group, of this epoch and of those before."""

    def __init__(self, table: Table, place: Place) -> None:
        self._table = table
        self._place = place
        self._drawn: dict[int, Drawn] = {}
        self._found: dict[tuple[int, bytes, int], tuple[Replicas, ...]] = {}
        for _, value in table.items():
            drawn = msgspec.msgpack.decode(value, type=Drawn)
            self._drawn[drawn.epoch] = drawn

    def note(self, drawn: Drawn) -> bool:
        """An epoch as the ledger has it; whether it is another than was known."""
        known = self._drawn.get(drawn.epoch)
        if known is not None and known.beacon == drawn.beacon:
            return False
        self._table.put(drawn.epoch.to_bytes(4, "big"), msgspec.msgpack.encode(drawn))
        self._drawn[drawn.epoch] = drawn
        self._found.clear()
        for old in [epoch for epoch in self._drawn if epoch <= drawn.epoch - KEPT_EPOCHS]:
            del self._drawn[old]
            self._table.delete(old.to_bytes(4, "big"))
        return True

    def drawn(self, epoch: int) -> Drawn | None:
        """What an epoch's groups are drawn from, where that is known."""
        return self._drawn.get(epoch)

    @property
    def epoch(self) -> int:
        """The newest."""
        return max(self._drawn, default=0)

    @property
    def epochs(self) -> list[int]:
        """Those that are known, the newest first."""
        return sorted(self._drawn, reverse=True)

    def groups(self, lineage: bytes, count: int, epoch: int | None = None) -> tuple[Replicas, ...]:
        """The replicas of all of a lineage's groups; () of an epoch that is not known."""
        epoch = self.epoch if epoch is None else epoch
        drawn = self._drawn.get(epoch)
        if drawn is None or not drawn.members:
            return ()
        key = (epoch, lineage, count)
        if key not in self._found:
            keys = [group_key(lineage, number) for number in range(count)]
            back = [self._drawn[each] for each in self.epochs if each <= epoch]
            self._found[key] = tuple(tuple(three) for three in self._place(back, keys))
        return self._found[key]
