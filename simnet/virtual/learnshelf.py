"""A home's blobs, and how it has those of others."""

import hashlib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Protocol

from protocols.learn.messages import Blob

if TYPE_CHECKING:
    from simnet.virtual.learnwan import Wan

PULL_S = 20.0
"""Until a blob that did not come is asked for again."""
BLOB_ASK = 80
"""Bytes of a question for a blob, and of the answer before it."""


class Named(Protocol):
    """A blob's name and size, as learners' messages or logs' entries have them."""

    @property
    def digest(self) -> bytes:
        """Its SHA-256."""

    @property
    def size(self) -> int:
        """In bytes."""


class Shelf:
    """Of one home."""

    def __init__(self, wan: "Wan", number: int) -> None:
        self.here: set[bytes] = set()
        self._wan = wan
        self._number = number
        self._holders: dict[bytes, bytes] = {}
        """Who offered last what we pull."""
        self._pulling: dict[bytes, list[Callable[[], None]]] = {}

    def make(self, size: int, *of: object) -> Blob:
        """What a worker would make of these."""
        blob = Blob(hashlib.sha256(repr(of).encode()).digest(), size)
        self.here.add(blob.digest)
        return blob

    def need(self, blobs: Iterable[Named]) -> None:
        """Whoever computes has what it computes from."""
        assert all(blob.digest in self.here for blob in blobs)

    def fetch(self, peer: bytes, blobs: Iterable[Named], then: Callable[[], None]) -> None:
        """Have these of `peer`, and then go on."""
        lacking = [it for it in blobs if it.digest not in self.here]
        if not lacking:
            then()
            return
        left = len(lacking)

        def one() -> None:
            nonlocal left
            left -= 1
            if left == 0:
                then()

        for blob in lacking:
            waiting = self._pulling.setdefault(blob.digest, [])
            waiting.append(one)
            self._holders[blob.digest] = peer
            if len(waiting) == 1:
                self._pull(blob)

    def _pull(self, blob: Named) -> None:
        links, source = self._wan.links, self._wan.home(self._holders[blob.digest])

        def asked() -> None:
            assert blob.digest in source.shelf.here, "asked for what is not there"
            links.send(source.number, self._number, BLOB_ASK + blob.size, "blobs", arrived)

        def arrived() -> None:
            self.here.add(blob.digest)
            for waiting in self._pulling.pop(blob.digest, ()):
                waiting()

        def again() -> None:
            if blob.digest in self._pulling:
                self._pull(blob)

        links.send(self._number, source.number, BLOB_ASK, "asks", asked)
        self._wan.heap.after(PULL_S, again)
