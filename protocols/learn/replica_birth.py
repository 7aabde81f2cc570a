"""Since when a disk remembers: how a replica knows that it was wiped (rule 4 of replica.py).

An empty disk may be a newcomer's, or that of a replica whose disk was wiped after it promised
things. So each disk has one row, its *birth*: an index of the ledger, such that whatever this
daemon said before, the ledger had not reached that index yet, and whatever it said since is on this
disk. A replica takes part in an epoch's group only if that group began (`Seats.began`) after the
birth: a newcomer serves from the next epoch on, a wiped replica likewise, and one that was there
before the training was opened serves at once.

The index is not simply where the ledger stands when the row is first written: a wiped disk's ledger
has to be fetched again, and shows old epochs meanwhile. What an earlier life said, it said before
this life began. So the birth is where the ledger stands once it shows a tick of a time after this
life began, by a margin for clocks that are wrong.
The row stands in the replicas' own table, so that both are lost together or not at all.
"""

import contextlib
from collections.abc import Mapping

import msgspec

from protocols.codec import decode, encode
from protocols.effects import Save
from protocols.errors import MalformedError
from protocols.learn.replica_ports import BIRTH, TABLE, Index, Ticked
from protocols.records import guarded, unguarded

MARGIN_MS = 30_000
"""By which clocks may be wrong, this one and those of who acknowledges ticks, together: council
members acknowledge a tick within 10 s of their own (half a lease here, replica_ports.py)."""


class _Born(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    index: Index


class Birth:
    """One daemon's; feed it every tick until `index` is known, then construct replicas with it."""

    def __init__(self, saved: Mapping[bytes, bytes], margin_ms: int = MARGIN_MS) -> None:
        """`saved`: rows of TABLE."""
        self.index: int | None = None
        self._margin_ms = margin_ms
        self._began_ms: int | None = None
        record = saved.get(BIRTH)
        if record is None:
            return
        # A damaged one is as good as none: a new one is later, and so only ever costs an epoch.
        with contextlib.suppress(MalformedError):
            self.index = decode(unguarded(TABLE, BIRTH, record), _Born).index

    def ticked(self, event: Ticked) -> list[Save]:
        """The ledger's newest tick; the row to save, once."""
        if self.index is not None:
            return []
        if self._began_ms is None:
            self._began_ms = event.unix_ms
        if event.tick_ms < self._began_ms + self._margin_ms:
            return []
        self.index = event.index
        return [Save(TABLE, BIRTH, guarded(TABLE, BIRTH, encode(_Born(event.index))))]
