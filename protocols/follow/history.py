"""A ratified chain as one daemon holds it: entries, the ends of epochs, and what proves them."""

from bisect import bisect_left

import msgspec

from protocols.errors import NotHeldError
from protocols.follow.log import EntryLog, header_at
from protocols.ledger.chain import Head, Header
from protocols.ledger.council import Certificate, Council
from protocols.ledger.proof import Link, Proof, prove


class EndedEpoch(msgspec.Struct, frozen=True):
    """An epoch that is over."""

    council: Council
    link: Link
    payload: bytes
    """Of its last entry, which names the next council."""

    @property
    def last(self) -> int:
        """The index of its last entry."""
        return self.link.header.index


class History:
    """Entries with their epochs. Epoch 1 begins at index 1; the genesis is epoch 0."""

    __slots__ = ("certificate", "council", "ended", "genesis", "log")

    def __init__(self, log: EntryLog, council: Council, genesis: bytes = b"") -> None:
        """`genesis` is the chain hash of the first entry."""
        self.log = log
        self.genesis = genesis or council.start.hash
        self.ended: list[EndedEpoch] = []
        """Epoch 1 first."""
        self.council = council
        self.certificate: Certificate | None = None
        """The newest ratification at or below the newest entry, of this epoch or one before."""

    def begin(self, ended: list[EndedEpoch], council: Council) -> None:
        """Begin in the epoch of `council`, after those that `ended`."""
        self.ended = list(ended)
        self.council = council
        self.certificate = None

    @property
    def head(self) -> Head:
        """The newest entry."""
        index = self.log.size - 1
        return Head(index, self.log.hash(index))

    def end_epoch(self, link: Link, payload: bytes, following: Council) -> None:
        """The newest entry ended an epoch."""
        self.ended.append(EndedEpoch(self.council, link, payload))
        self.council = following

    def epoch_at(self, index: int) -> int:
        """The epoch of the entry at an index."""
        if index == 0:
            return 0
        return 1 + bisect_left(self.ended, index, key=lambda epoch: epoch.last)

    def council_of(self, epoch: int) -> Council | None:
        """The council of an epoch that has begun."""
        if 1 <= epoch <= len(self.ended):
            return self.ended[epoch - 1].council
        return self.council if epoch == self.council.epoch else None

    def cover(self, index: int) -> Certificate:
        """The certificate of the entry's epoch that covers it. Raises NotHeldError."""
        epoch = self.epoch_at(index)
        if 1 <= epoch <= len(self.ended):
            return self.ended[epoch - 1].link.certificate
        found = self.certificate
        if found is None or found.said.epoch != epoch or found.said.index < index:
            raise NotHeldError(f"no certificate here covers entry {index}")
        return found

    def header_at(self, index: int) -> Header:
        """The header of an entry. Raises NotHeldError, DamagedRecordError."""
        return header_at(self.log, index, self.epoch_at(index))

    def prove(self, index: int) -> Proof:
        """That an entry is ratified. Raises NotHeldError, DamagedRecordError."""
        return prove(self.header_at, self.cover(index), index)
