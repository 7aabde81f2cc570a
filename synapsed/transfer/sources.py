"""Where a pull finds the peers that it may ask."""

from typing import Protocol

import msgspec


class Source(msgspec.Struct, frozen=True):
    """A peer that announces something of what is pulled, or is connected and may have it.

    `rate` is the throughput in bytes per second that the peer book remembers, 0 if none.
    """

    peer: bytes
    rate: float = 0.0


class Sources(Protocol):
    """Asked again and again while a pull runs: who comes later is used as well."""

    def find(self, subject: bytes) -> list[Source]:
        """Who may have parts of the manifest `subject` or its files, the best first.

        Those count whose announcement lists no tiles yet: they collect it, and will share.
        """


class FixedSources:
    """Sources that are known beforehand: a repair's holders, a benchmark's daemons."""

    def __init__(self, sources: list[Source]) -> None:
        self.sources = sources

    def find(self, subject: bytes) -> list[Source]:
        """All of them, whatever the subject."""
        del subject
        return self.sources
