"""Beginning at a checkpoint: the ends of epochs, then a ratified state, from one peer at a time.

    GetLinks ... Links, Refused      the councils, each named by the one before
    GetSnapshot ... Snapshot         a checkpoint entry that the newest of them ratified, and
                                     the state before it in parts, until its digest is right

Nothing of it is believed for who sent it: a peer that fails is blamed, and the next one is asked.
"""

import hashlib

import msgspec

from protocols.effects import Effect
from protocols.envelope import Verify
from protocols.errors import LimitError, MalformedError
from protocols.follow.fetch import Fetcher
from protocols.follow.history import EndedEpoch
from protocols.follow.load import Saved
from protocols.follow.messages import (
    GetLinks,
    GetSnapshot,
    Links,
    Refused,
    Request,
    Snapshot,
    Why,
)
from protocols.follow.snapshot import Checkpoint, Download, is_checkpoint
from protocols.ledger.chain import Head, chain_hash, payload_hash
from protocols.ledger.council import Council
from protocols.ledger.entries import Checkpoint as CheckpointEntry
from protocols.ledger.entries import EpochEntry, decode_entry
from protocols.ledger.fold import LedgerState
from protocols.ledger.proof import (
    Link,
    Proof,
    ProofError,
    check_link,
    check_proof,
    check_ratified,
    proven_hash,
)
from protocols.packing import cut
from protocols.realm import Realm


class Installable(msgspec.Struct, frozen=True):
    """A ratified state, and how we know."""

    ledger: LedgerState
    """Before the checkpoint entry."""
    ended: list[EndedEpoch]
    """All epochs before its own."""
    checkpoint: Checkpoint
    proof: Proof
    """Of the checkpoint entry."""


def following_council(head: Head, payload: bytes) -> Council:
    """The council that an epoch entry names. Raises MalformedError."""
    entry = decode_entry(payload).entry
    if not isinstance(entry, EpochEntry):
        raise ProofError("the end of an epoch that names no council")
    return Council(entry.epoch, entry.beacon, entry.seats, head)


def checkpoint_digest(payload: bytes) -> bytes:
    """What a checkpoint entry states. Raises MalformedError."""
    entry = decode_entry(payload).entry
    if not isinstance(entry, CheckpointEntry):
        raise ProofError("a snapshot of something else than a checkpoint")
    return entry.digest


class Installer:
    """One attempt after another, until a state is there or nobody has one."""

    def __init__(
        self,
        realm: Realm,
        verify: Verify,
        ended: list[EndedEpoch],
        council: Council,
    ) -> None:
        """Go on from the epochs that are known: `council` is the newest."""
        self._realm = realm
        self._verify = verify
        self._ended = list(ended)
        self._council = council
        self._without: set[bytes] = set()
        self._peer: bytes | None = None
        self._linked = False
        self._download: Download | None = None
        self._checkpoint: tuple[bytes, Proof] | None = None

    def ask(self, fetcher: Fetcher, start: int, now: float) -> list[Effect] | None:
        """The next request, if a peer is free for it; None where all have nothing for us."""
        source = None if self._peer is None else fetcher.sources.get(self._peer)
        if source is not None and source.asked is not None:
            return []
        if source is None or source.again_at > now:
            self._begin_with(None)
            ready = [
                (one.strikes, peer)
                for peer, one in fetcher.sources.items()
                if one.claim >= start and peer not in self._without
            ]
            if not ready:
                return None
            free = [peer for _, peer in sorted(ready) if self._free(fetcher, peer, now)]
            if not free:
                return []
            self._begin_with(free[0])
        assert self._peer is not None
        return fetcher.ask(self._peer, self._request(), now)

    def _free(self, fetcher: Fetcher, peer: bytes, now: float) -> bool:
        source = fetcher.sources[peer]
        return source.asked is None and source.again_at <= now

    def _begin_with(self, peer: bytes | None) -> None:
        self._peer, self._linked = peer, False
        self._download = self._checkpoint = None

    def _request(self) -> Request:
        if not self._linked:
            return GetLinks(number=0, epoch=self._council.epoch)
        if self._download is None:
            return GetSnapshot(number=0, index=0, offset=0)
        offset = self._download.missing or 0
        return GetSnapshot(number=0, index=self._download.header.index, offset=offset)

    def refused(self, peer: bytes, asked: Request, said: Refused) -> None:
        """The peer has no (more) of these."""
        if peer != self._peer:
            return
        if isinstance(asked, GetLinks) and said.why is Why.NONE:
            self._linked = True
        elif said.why is not Why.BUSY:
            self._without.add(peer)
            self._begin_with(None)

    def links(self, peer: bytes, said: Links, raw: bytes) -> None:
        """Ends of epochs. Raises MalformedError for what is not proven."""
        if peer != self._peer or self._linked:
            return  # a late answer: another peer is being asked
        payloads = cut(raw, said.lengths)
        if len(payloads) != len(said.links) or not payloads:
            raise MalformedError("ends of epochs without their entries")
        for link, payload in zip(said.links, payloads, strict=True):
            self.link(link, payload)

    def link(self, link: Link, payload: bytes) -> None:
        """The end of the newest epoch that is known. Raises MalformedError."""
        head = check_link(self._realm, self._council, link, payload, self._verify)
        following = following_council(head, payload)
        if following.epoch != self._council.epoch + 1:
            raise ProofError("the end of an epoch that leaves one out")
        self._ended.append(EndedEpoch(self._council, link, payload))
        self._council = following

    def part(self, peer: bytes, said: Snapshot, raw: bytes) -> Installable | None:
        """A part of a state, and the state where it was the last. Raises MalformedError, and
        then nothing is kept of what that peer gave."""
        if peer != self._peer or not self._linked:
            return None  # a late answer: another peer is being asked
        try:
            return self._part(said, raw)
        except (MalformedError, LimitError):
            self._begin_with(None)
            raise

    def _part(self, said: Snapshot, raw: bytes) -> Installable | None:
        payload, data = cut(raw, said.lengths)
        if self._download is None:
            self._check_checkpoint(said, payload)
            self._download = Download(said)
        self._download.add(said, data)
        if self._download.missing is not None or self._checkpoint is None:
            return None
        entry, proof = self._checkpoint
        return self._installable(Checkpoint(said.header, entry, self._download.state()), proof)

    def _installable(self, found: Checkpoint, proof: Proof) -> Installable:
        if hashlib.sha256(found.state).digest() != checkpoint_digest(found.payload):
            raise ProofError("a state that is not what the checkpoint says")
        ledger = LedgerState.decode(found.state, self._realm.genesis)
        return Installable(ledger, self._ended[: found.header.epoch - 1], found, proof)

    def proven(self, found: Checkpoint, saved: Saved) -> Installable:
        """A state on disk with the entries behind it, up to a proof. Raises MalformedError."""
        index, epoch = found.header.index, found.header.epoch
        point = saved.next_point(index)
        council = self._council_of(epoch)
        if point is None or point.proof.certificate.said.epoch != epoch or council is None:
            raise ProofError("there is no proof of it here")
        check_ratified(self._realm, council, point.proof.certificate, self._verify)
        state = self._installable(found, point.proof)
        spine = state.ledger.spine
        for payload in saved.run(index, point.index + 1):
            spine = spine.extended(self._realm.network, spine.next_header(epoch, payload))
        shown = proven_hash(self._realm.network, point.proof, point.index)
        if spine.head != Head(point.index, shown):
            raise ProofError("it does not lead to what was ratified")
        return state

    def _council_of(self, epoch: int) -> Council | None:
        if 1 <= epoch <= len(self._ended):
            return self._ended[epoch - 1].council
        return self._council if epoch == self._council.epoch else None

    def _check_checkpoint(self, said: Snapshot, payload: bytes) -> None:
        header = said.header
        council = self._council_of(header.epoch)
        if council is None:
            raise ProofError(f"a checkpoint of epoch {header.epoch}, whose council nothing named")
        if header.payload != payload_hash(payload) or not is_checkpoint(payload):
            raise ProofError("a checkpoint that is not the entry beside it")
        head = Head(header.index, chain_hash(self._realm.network, header))
        check_proof(self._realm, council, said.proof, head, self._verify)
        self._checkpoint = (payload, said.proof)


def installable_on_disk(saved: Saved, ledger: LedgerState, verify: Verify) -> Installable | None:
    """The newest state that the disk holds and can prove; `ledger` is that of the genesis.

    What is damaged on the way is told (`saved.damaged`).
    """
    found = saved.checkpoint()
    if found is None:
        return None
    installer = Installer(ledger.realm, verify, [], ledger.council)
    try:
        for link, payload in saved.links():
            installer.link(link, payload)
        return installer.proven(found, saved)
    except MalformedError as error:
        saved.damaged.append(f"the state at checkpoint {found.header.index}: {error}")
        return None
