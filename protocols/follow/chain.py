"""The ratified chain of one follower: what is proven is folded, kept and saved, in bounded steps.

Effects, in order: the entries' records, the end of an epoch, the proof; then `Advanced`. A crash
between two of them leaves entries without a proof, which are asked for again.
"""

from collections.abc import Callable, Sequence

import msgspec

from protocols.codec import encode
from protocols.effects import Effect, Emit, Save
from protocols.envelope import Verify
from protocols.errors import NotHeldError, SynapseError
from protocols.follow.history import EndedEpoch, History
from protocols.follow.load import (
    FORK_KEY,
    HEAD_KEYS,
    POINT_EVERY,
    link_key,
    link_record,
    point_key,
    point_record,
)
from protocols.follow.log import TABLE, EntryLog, entry_key, entry_record
from protocols.follow.snapshot import Checkpoint, is_checkpoint, pack_checkpoint, snapshot_key
from protocols.ledger.chain import Head
from protocols.ledger.council import BadCertificateError, Certificate, Fork, WrongEpochError
from protocols.ledger.errors import InvalidEntryError
from protocols.ledger.fold import LedgerState
from protocols.ledger.proof import (
    ForkError,
    Link,
    Proof,
    ProofError,
    check_ratified,
    forks,
    proven_hash,
)
from protocols.ledger.state import PAST_COUNCILS
from protocols.raft.ports import Accuse
from protocols.records import DamagedRecordError, guarded

CHECKS = 384
"""Signatures checked before the rest waits for the next Alarm: 16 ms, so that heartbeats go on."""
FOLDED = 512
"""Entries folded before the rest waits: about as long, where no signature is checked."""


class Advanced(msgspec.Struct, frozen=True):
    """Effect: these entries are ratified, from index `first` on; `certificate` covers them."""

    first: int
    payloads: list[bytes]
    certificate: Certificate


class Replaced(msgspec.Struct, frozen=True):
    """Effect: the state is another object from here on, that before the checkpoint at `index`."""

    index: int


Fold = Callable[[LedgerState, bytes, Verify], LedgerState]
Effects = list[Effect | Advanced | Replaced | Accuse]


def fold_in_place(ledger: LedgerState, payload: bytes, verify: Verify) -> LedgerState:
    """The ledger with one more entry. Raises InvalidEntryError, and changes nothing then."""
    if verify is _checked_before:
        ledger.apply_again(payload, verify)
    else:
        ledger.apply(payload, verify)
    return ledger


class MismatchedError(ProofError):
    """Entries that are not those which a valid certificate covers."""

    code = "mismatched-entries"


class Batch(msgspec.Struct):
    """A range that is proven, and folded from `at` on."""

    first: int
    payloads: list[bytes]
    proof: Proof
    save_from: int
    """Entries before this index are on our disk."""
    check_from: int
    """Signatures of entries before this index were checked when they came."""
    at: int = 0


def _checked_before(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """A `verify` for entries whose signatures were checked when they came."""
    del public_key, message, signature
    return True


class RatifiedChain:
    """The ledger's state, its history, and the range that is being folded."""

    def __init__(self, ledger: LedgerState, log: EntryLog, verify: Verify, fold: Fold) -> None:
        self.ledger = ledger
        self.history = History(log, ledger.council, ledger.genesis)
        self.halted: SynapseError | None = None
        """Why nothing is followed any longer."""
        self.batch: Batch | None = None
        self.keep_snapshots = True
        self.checkpoint: Checkpoint | None = None
        """The newest state that others may ask for."""
        self.previous_checkpoint: int | None = None
        """The index of the checkpoint before the newest."""
        self._realm = ledger.realm
        self._log = log
        self._verify = verify
        self._fold = fold
        self._checks = 0
        self._known: Certificate | None = None
        self._point_at = ledger.head.index
        self._heads = 0
        self.points: list[int] = []
        """Of the proofs that are kept on disk, beside the ends of epochs."""
        self._stolen: set[int] = set()

    @property
    def next(self) -> int:
        """The index of the entry that comes next, behind what is being folded."""
        if self.batch is not None:
            return self.batch.first + len(self.batch.payloads)
        return self.ledger.head.index + 1

    # -- proving -------------------------------------------------------------------------------

    def check(self, certificate: Certificate) -> None:
        """Raise BadCertificateError unless our epoch's council ratified what it says."""
        if certificate != self._known:
            check_ratified(self._realm, self.history.council, certificate, self._verify)
            self._known = certificate

    def prove(self, payloads: Sequence[bytes], proof: Proof) -> None:
        """Raise unless `payloads` follow our head and `proof` ratifies the last of them.

        BadCertificateError, BrokenPathError, or, behind a valid certificate, MismatchedError.
        """
        epoch, spine = self.ledger.epoch, self.ledger.spine
        if proof.certificate.said.epoch != epoch:
            raise WrongEpochError(
                f"a certificate of epoch {proof.certificate.said.epoch} for entries of {epoch}"
            )
        self.check(proof.certificate)
        for payload in payloads:
            spine = spine.extended(self._realm.network, spine.next_header(epoch, payload))
        if proven_hash(self._realm.network, proof, spine.head.index) != spine.head.hash:
            raise MismatchedError(f"entries up to {spine.head.index} are not the ratified ones")

    # -- folding -------------------------------------------------------------------------------

    def begin(
        self, payloads: list[bytes], proof: Proof, *, save_from: int, check_from: int
    ) -> None:
        """Fold what `prove` accepted, or our own seat ratified, in as many steps as it takes."""
        first = self.ledger.head.index + 1
        self.batch = Batch(first, payloads, proof, save_from, check_from)

    def fold(self) -> Effects:
        """One step; `batch` is None when all of it is done."""
        batch = self.batch
        if batch is None or self.halted is not None:
            return []
        effects: Effects = []
        self._checks = 0
        for _ in range(FOLDED):
            if batch.at == len(batch.payloads):
                self.batch = None
                return effects + self._finish(batch)
            if self._checks >= CHECKS:
                break
            try:
                effects += self._fold_next(batch)
            except InvalidEntryError as error:
                return effects + self.stop(error)
        return effects

    def _counted(self, public_key: bytes, message: bytes, signature: bytes) -> bool:
        self._checks += 1
        return self._verify(public_key, message, signature)

    def _fold_next(self, batch: Batch) -> Effects:
        effects: Effects = []
        payload = batch.payloads[batch.at]
        index = batch.first + batch.at
        verify = self._counted if index >= batch.check_from else _checked_before
        state = self.ledger.encode() if self.keep_snapshots and is_checkpoint(payload) else None
        self.ledger = self._fold(self.ledger, payload, verify)
        self._log.append(self.ledger.head.hash, payload)
        batch.at += 1
        if index >= batch.save_from:
            record = entry_record(index, self.ledger.head.hash, payload)
            effects.append(Save(TABLE, entry_key(index), record))
        if state is not None:
            effects += self._keep_snapshot(index, payload, state)
        return effects

    def _finish(self, batch: Batch) -> Effects:
        head, certificate = self.ledger.head, batch.proof.certificate
        effects: Effects = []
        if certificate.said.index == head.index and certificate.said.hash != head.hash:
            return self.stop(MismatchedError(f"our seat ratified another entry at {head.index}"))
        if self.ledger.epoch != self.history.council.epoch:
            if certificate.said.index != head.index:  # rule 6: nobody may sign past an epoch
                return self.stop(BadCertificateError("a certificate from beyond its epoch's end"))
            link = Link(self.history.header_at(head.index), certificate)
            self.history.end_epoch(link, batch.payloads[-1], self.ledger.council)
            epoch = link.header.epoch
            effects.append(Save(TABLE, link_key(epoch), link_record(link, batch.payloads[-1])))
        if certificate.said.index == head.index:
            self.history.certificate = certificate
        if head.index >= batch.save_from:
            effects += self._save_proof(head.index, batch.proof)
        effects.append(Advanced(batch.first, batch.payloads, certificate))
        return effects

    def _save_proof(self, index: int, proof: Proof) -> Effects:
        self._heads += 1
        keys = [HEAD_KEYS[self._heads % len(HEAD_KEYS)]]
        if index >= self._point_at + POINT_EVERY:
            self._point_at = index
            self.points.append(index)
            keys.append(point_key(index))
        return [Save(TABLE, key, point_record(key, index, proof)) for key in keys]

    def _keep_snapshot(self, index: int, payload: bytes, state: bytes) -> Effects:
        old, header = self.checkpoint, self.history.header_at(index)
        self.checkpoint = Checkpoint(header, payload, state)
        key = snapshot_key(index)
        effects: Effects = [Save(TABLE, key, guarded(TABLE, key, pack_checkpoint(self.checkpoint)))]
        if old is not None and old.header.index != index:
            self.previous_checkpoint = old.header.index
            effects.append(Save(TABLE, snapshot_key(old.header.index), None))
            # Restarts begin here; should the state be damaged, the ends of epochs are proof enough.
            effects += [Save(TABLE, point_key(point), None) for point in self.points]
            self.points = []
        return effects

    def install(
        self,
        ledger: LedgerState,
        ended: list[EndedEpoch],
        found: Checkpoint,
        base: int | None = None,
    ) -> Effects:
        """Go on from the state before a checkpoint entry, which comes next; from `base` on the
        disk has the entries before it."""
        index = found.header.index
        self.ledger, self.batch, self.checkpoint = ledger, None, found
        self._log.begin(ledger.spine, base)
        self.history.begin(ended, ledger.council)
        self._known, self._point_at = None, index
        if base is not None:  # all of it came from our disk
            return [Replaced(index)]
        effects: Effects = [
            Save(TABLE, link_key(number), link_record(one.link, one.payload))
            for number, one in enumerate(ended, 1)
        ]
        key = snapshot_key(index)
        effects.append(Save(TABLE, key, guarded(TABLE, key, pack_checkpoint(found))))
        return [*effects, Replaced(index)]

    # -- forks ---------------------------------------------------------------------------------

    def stop(self, error: SynapseError) -> Effects:
        """Follow nothing any longer."""
        self.halted, self.batch = error, None
        where = {"index": self.ledger.head.index, "epoch": self.ledger.epoch}
        return [Emit("ledger.stopped", {"code": error.code, "message": str(error), **where})]

    def contradicted(self, proof: Proof, place: Head) -> Effects:
        """What a proof means that shows `place`, at or below our head: nothing, where it is ours;
        otherwise we stop (`halted`), unless its council is too long gone to be accused.

        Raises BadCertificateError where it proves nothing, NotHeldError where we cannot tell.
        """
        if self._log.hash(place.index) == place.hash:
            return []
        theirs = proof.certificate
        council = self.history.council_of(theirs.said.epoch)
        if council is None:
            raise NotHeldError(f"epoch {theirs.said.epoch} is not known here")
        check_ratified(self._realm, council, theirs, self._verify)
        if theirs.said.epoch + PAST_COUNCILS < self.ledger.epoch:
            return self._old_keys(theirs.said.epoch, place)
        return self._fork(proof, place)

    def _old_keys(self, epoch: int, place: Head) -> Effects:
        """Keys of a council that is long gone contradict what we passed with it: they may have
        been stolen since. That is told once, and stops nobody who holds the chain from there on.
        """
        if epoch in self._stolen:
            return []
        self._stolen.add(epoch)
        where = {"index": str(place.index), "theirs": place.hash.hex()}
        return [Emit("ledger.old-fork", {"epoch": epoch, **where})]

    def _fork(self, proof: Proof, place: Head) -> Effects:
        theirs = proof.certificate
        effects: Effects = []
        try:
            ours = self.history.prove(place.index)
        except (NotHeldError, DamagedRecordError):  # its certificate is above our head, perhaps
            ours = None
        if ours is not None:
            record = encode([ours, proof])
            effects.append(Save(TABLE, FORK_KEY, guarded(TABLE, FORK_KEY, record)))
            for guilt in self._guilty(ours, proof, place.index):
                effects.append(Accuse(guilt))
        error = ForkError(
            f"two entries are ratified at index {place.index}: a third of a council or more lied",
            remedy="this daemon acts on nothing new; the owners must agree on one branch",
        )
        fields: dict[str, str | int | float | bool | list[str] | None] = {
            "index": place.index,
            "ours": self._log.hash(place.index).hex(),
            "theirs": place.hash.hex(),
            "epoch": theirs.said.epoch,
        }
        return [*effects, Emit("ledger.fork", fields), *self.stop(error)]

    def _guilty(self, ours: Proof, theirs: Proof, index: int) -> list[Fork]:
        """Who signed both, where one certificate is at `index` and headers lead to it."""
        if ours.certificate.said.index == index:
            return forks(ours.certificate, theirs.certificate, theirs.headers)
        if theirs.certificate.said.index == index:
            return forks(ours.certificate, theirs.certificate, ours.headers)
        return []
