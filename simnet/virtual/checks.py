"""What must hold after every event: one history, the same everywhere, and never less of it.

one-hash-per-index  no two daemons have ratified different entries at one index
proven              what a daemon holds as ratified is covered by a quorum's certificate
durable             a daemon whose disk was spared comes back with what it had ratified
one-state           equal ledgers have equal states
"""

from collections.abc import Sequence
from typing import Protocol

from protocols.envelope import Verify
from protocols.ledger.chain import Head
from protocols.ledger.council import (
    BadCertificateError,
    Certificate,
    Council,
    Instant,
    check_certificate,
)
from protocols.realm import Realm
from simnet.virtual.node import Node, Program
from simnet.virtual.world import ViolationError


class Folded(Protocol):
    """The ratified ledger of a daemon, as the checks see it."""

    @property
    def epoch(self) -> int: ...

    @property
    def council(self) -> Council: ...

    def digest(self) -> bytes: ...


class Daemon(Program, Protocol):
    """A program with a ratified ledger, which may have a seat."""

    @property
    def ledger(self) -> Folded: ...

    @property
    def head(self) -> Head: ...

    @property
    def certificate(self) -> Certificate | None: ...

    def hash_at(self, index: int) -> bytes | None:
        """The chain hash of a ratified entry, where it is held."""

    @property
    def loaded(self) -> bool:
        """Whether it has read again what its disk holds."""

    def leading(self) -> bytes | None:
        """Who leads the council (its peer id), as a member with a seat sees it."""

    @property
    def able(self) -> bool:
        """Whether it has a seat that it can sign for."""

    def submit(self, now: Instant) -> Sequence[object]:
        """Have somebody submit something new here."""

    @property
    def waiting(self) -> bool:
        """Whether the last of that is not ratified yet."""

    @property
    def banned(self) -> Sequence[bytes]:
        """Whom the ledger has proofs of guilt of."""


class History:
    """The one history, as honest daemons ratify it."""

    def __init__(self, network: str, verify: Verify, first: Daemon) -> None:
        """`first` has nothing but the genesis."""
        head, ledger = first.head, first.ledger
        self.realm = Realm(network, head.hash)
        self.verify = verify
        self.hashes: list[bytes | None] = [None] * head.index + [head.hash]
        """By index; None where nobody has shown it yet."""
        self.councils: dict[int, Council] = {ledger.epoch: ledger.council}
        self.heads: dict[int, int] = {}
        """By node: the highest index that it has ratified."""
        self.spoiled: set[int] = set()
        """Nodes whose disk took harm since they were last up: they may come back with less."""
        self.digests: dict[int, bytes] = {}
        self.sample = 8
        """States are compared at indices that this divides, and at the ends of epochs."""
        self.newest = head.index
        self.proofs = 0
        self._proven: set[tuple[int, int, int, bytes]] = set()

    def spare(self, node: Node) -> None:
        """From here on it may come back with less than it had."""
        self.spoiled.add(node.number)

    def look(self, node: Node, daemon: Daemon) -> int:
        """Check what a daemon has newly ratified; how many entries that are."""
        head = daemon.head
        before = self.heads.get(node.number)
        if before == head.index:
            return 0
        if before is not None and head.index < before:
            if not daemon.loaded:
                return 0
            self._came_back(node, before, head)
        self.spoiled.discard(node.number)
        self.heads[node.number] = head.index
        start = 1 if before is None or before > head.index else before + 1
        for index in range(start, head.index + 1):
            self._see(node, index, daemon.hash_at(index))
        self._see(node, head.index, head.hash)
        self._state(node, daemon, head)
        self._proof(node, daemon)
        gained = max(0, head.index - self.newest)
        self.newest += gained
        return gained

    def _came_back(self, node: Node, before: int, head: Head) -> None:
        if node.number not in self.spoiled:
            raise ViolationError(
                "durable", f"{node.name} had ratified up to {before} and is back at {head.index}"
            )

    def _see(self, node: Node, index: int, found: bytes | None) -> None:
        if found is None:
            return
        if index >= len(self.hashes):
            self.hashes.extend([None] * (index + 1 - len(self.hashes)))
        known = self.hashes[index]
        if known is None:
            self.hashes[index] = found
        elif known != found:
            raise ViolationError(
                "one-hash-per-index",
                f"{node.name} has ratified {found[:4].hex()} at {index}, where others have "
                f"{known[:4].hex()}",
            )

    def _state(self, node: Node, daemon: Daemon, head: Head) -> None:
        ledger = daemon.ledger
        new_epoch = ledger.epoch not in self.councils
        if new_epoch:
            self.councils[ledger.epoch] = ledger.council
        elif self.councils[ledger.epoch] != ledger.council:
            raise ViolationError("one-state", f"{node.name} has another council of {ledger.epoch}")
        if head.index % self.sample and not new_epoch and head.index not in self.digests:
            return
        digest = ledger.digest()
        if self.digests.setdefault(head.index, digest) != digest:
            raise ViolationError("one-state", f"{node.name} has another state at {head.index}")

    def _proof(self, node: Node, daemon: Daemon) -> None:
        certificate = daemon.certificate
        if daemon.head.index == 0:
            return  # the genesis is our owner's word
        if certificate is None or certificate.said.index < daemon.head.index:
            return  # a follower was shown headers from a certificate above it: nothing to check
        said = certificate.said
        name = (said.epoch, said.term, said.index, said.hash)
        if name in self._proven:
            return
        council = self.councils.get(said.epoch)
        try:
            if council is None or (said.term and not certificate.ratifies):
                raise BadCertificateError("of no council, or not of certificate-acks")
            check_certificate(self.realm, council, certificate, self.verify)
        except BadCertificateError as error:
            raise ViolationError("proven", f"{node.name}: {error}") from error
        self._see(node, said.index, said.hash)
        self.proofs += 1
        self._proven.add(name)
