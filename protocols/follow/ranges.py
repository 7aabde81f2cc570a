"""Ranges of entries on their way into the chain: from our own disk, and from peers.

The disk is a source like any other, and the nearest one: what is whole there is not asked for.
Where it has a gap (a record torn, flipped, misplaced or edited), the gap is named, a peer brings
it with a proof, and the disk goes on behind it.
"""

import msgspec

from protocols.effects import Blame, Emit
from protocols.errors import LimitError, MalformedError
from protocols.follow.chain import Effects, MismatchedError, RatifiedChain
from protocols.follow.fetch import Fetcher
from protocols.follow.load import Saved
from protocols.follow.messages import MAX_RANGE, Entries, GetEntries, Prove
from protocols.gossip.peerscore import Fault
from protocols.ledger.council import BadCertificateError
from protocols.ledger.entries import MAX_ENTRY
from protocols.ledger.proof import Proof
from protocols.packing import cut


class _Range(msgspec.Struct, frozen=True):
    """What a peer gave, and that is not proven yet."""

    peer: bytes
    start: int
    payloads: list[bytes]
    proof: Proof

    @property
    def stop(self) -> int:
        return self.start + len(self.payloads)


class Ranges:
    """What waits to be proven and folded."""

    __slots__ = ("_chain", "_fetcher", "_prefix", "_ranges", "_saved", "gap")

    def __init__(self, chain: RatifiedChain, fetcher: Fetcher) -> None:
        self._chain = chain
        self._fetcher = fetcher
        self._ranges: dict[int, _Range] = {}
        self._saved: Saved | None = None
        self._prefix: list[bytes] = []
        self.gap: tuple[int, int] | None = None
        """[start, stop) of what the disk lacks, while it lacks it."""

    # -- the disk ------------------------------------------------------------------------------

    def restore(self, saved: Saved) -> None:
        """Begin with what the disk holds."""
        self._saved = saved

    @property
    def restoring(self) -> bool:
        """Whether the disk proved more than what is folded yet."""
        return self._saved is not None

    @property
    def idle(self) -> bool:
        """Whether there is nothing to fold before a peer answers."""
        return self._saved is None or self.gap is not None

    def from_disk(self) -> Effects:
        """Begin to fold what the disk holds next, or find out what it lacks."""
        saved, start = self._saved, self._chain.next
        if saved is None or self.gap is not None:
            return []
        effects = _told(saved)
        point = saved.next_point(start)
        if point is None and start <= saved.upto:
            self._prefix, self.gap = [], (start, saved.gap_end(start))
            return effects
        if point is None:
            self._saved = None
            head, epoch = self._chain.ledger.head, self._chain.ledger.epoch
            fields = {"index": head.index, "hash": head.hash.hex(), "epoch": epoch}
            return [*effects, Emit("ledger.loaded", fields)]  # type: ignore[arg-type]
        payloads = saved.run(start, point.index + 1)
        gap = start + len(payloads)
        if gap <= point.index:
            self._prefix, self.gap = payloads, (gap, saved.gap_end(gap))
            saved.damaged.append(f"entries {gap} to {self.gap[1] - 1}")
            return effects + _told(saved)
        try:
            self._chain.prove(payloads, point.proof)
        except MalformedError as error:
            saved.refuse(point, start, false=isinstance(error, BadCertificateError))
            return effects + _told(saved)
        after = point.index + 1
        self._chain.begin(payloads, point.proof, save_from=after, check_from=after)
        return effects

    # -- peers ---------------------------------------------------------------------------------

    @property
    def start(self) -> int:
        """The first entry that a peer is to bring."""
        return self._chain.next if self.gap is None else self.gap[0]

    @property
    def held(self) -> list[tuple[int, int]]:
        """What was brought already: [start, stop) of each range."""
        return [(one.start, one.stop) for one in self._ranges.values()]

    def keep(self, peer: bytes, asked: GetEntries, said: Entries, raw: bytes) -> None:
        """A peer's answer. Raises MalformedError, LimitError where it is not what was asked."""
        payloads = cut(raw, said.lengths)
        count, last = len(payloads), said.start + len(payloads) - 1
        if said.start != asked.start or count > asked.count:
            raise MalformedError("a range that was not asked for")
        if len(raw) > MAX_RANGE and count > 1:
            raise LimitError(f"a range of more than {MAX_RANGE} bytes")
        room = len(raw) + MAX_ENTRY <= MAX_RANGE
        if room and count < asked.count and last < said.proof.certificate.said.index:
            raise MalformedError("a range that ends for no reason")
        self._ranges[said.start] = _Range(peer, said.start, payloads, said.proof)

    def from_peers(self, now: float) -> Effects:
        """Begin to fold the range that comes next, if a peer gave it."""
        effects: Effects = []
        start = self.start
        for found in sorted(self._ranges.values(), key=lambda one: one.start):
            if found.start > start or self._chain.batch is not None:
                break
            del self._ranges[found.start]
            if found.stop > start:
                effects += self._take(found, start, now)
        return effects

    def _take(self, found: _Range, start: int, now: float) -> Effects:
        payloads = self._prefix + found.payloads[start - found.start :]
        try:
            self._chain.prove(payloads, found.proof)
        except MalformedError as error:
            return self._refuse(found, error, now)
        size = sum(map(len, found.payloads))
        self._fetcher.served(found.peer, len(found.payloads), size)
        self._chain.begin(payloads, found.proof, save_from=start, check_from=start)
        self._prefix, self.gap = [], None
        return []

    def _refuse(self, found: _Range, error: MalformedError, now: float) -> Effects:
        if self._prefix and self._saved is not None:
            # Either the disk or the peer lies: everything since the last proof is fetched.
            start = self._chain.next
            self._saved.suspect(start, start + len(self._prefix))
            self._prefix, self.gap = [], None
            return _told(self._saved)
        self._fetcher.failed(found.peer, now)
        effects: Effects = [Blame(found.peer, Fault.MISMATCH, f"a range of the ledger: {error}")]
        if isinstance(error, MismatchedError):
            # The certificate is good: is there another branch below it?
            prove = Prove(number=0, index=self._chain.ledger.head.index)
            effects += self._fetcher.ask(found.peer, prove, now, anyway=True)
        return effects

    def forget(self) -> None:
        """The chain goes on somewhere else; what the disk has from there on is still good."""
        self._ranges.clear()
        self._prefix, self.gap = [], None


def _told(saved: Saved) -> Effects:
    told, saved.damaged = saved.damaged, []
    return [Emit("ledger.damaged", {"what": what}) for what in told]
