"""The ratified ledger at any daemon, verified by itself and from any peer.

    Start, Alarm                    -> what the disk holds, then requests and announcements
    PeerUp, PeerDown                -> Send (what we have)
    Received (PROTOCOL)             -> Send, Save, Advanced, Blame
    Learnt (our own seat ratified)  -> Save, Advanced, Publish
    Told (our seat was shown more)  -> Send (to whoever has it)
    hear (gossip of HEADS)          -> a verdict at once, and any of these

Rules of this file:
1. Entries are believed for their proof alone: a ratification by the council of their epoch,
   which the entries before them named, back to the genesis that our owner gave us. They are
   checked and folded all the same, signature by signature: what a council ratified and is not
   valid stops us, as a fork does.
2. Two ratifications that contradict each other are kept, told loudly, and stop this follower for
   good: nobody but the owners can say which branch is right.
3. What our disk changed is named and fetched again; nothing is cut silently below what was
   ratified (`whole`).
4. One event costs a bounded time: what is left is folded at the next Alarm (`wake_at`).
5. Whose ledger begins with another genesis is neither asked, nor answered, nor blamed: it cannot
   know that ours is another (`strangers`). It is told our status on connecting, no more.
6. Nothing here is unbounded: one range is being folded, a few wait, there is one answer to each
   request, and what a peer may ask for is metered (follow/serve.py).
"""

from collections.abc import Mapping, Sequence

import msgspec

from protocols.effects import Blame, Emit, Save
from protocols.envelope import Verify
from protocols.errors import LimitError, MalformedError, NotHeldError, SynapseError
from protocols.follow import settings as followsettings
from protocols.follow.chain import Advanced, Effects, Fold, RatifiedChain, fold_in_place
from protocols.follow.fetch import Fetcher
from protocols.follow.heads import Heads
from protocols.follow.install import Installable, Installer, installable_on_disk
from protocols.follow.load import FORK_KEY, GENESIS_KEY, Nothing, Reader, Saved
from protocols.follow.log import TABLE, EntryLog, MemoryLog, entry_index, entry_key, entry_record
from protocols.follow.messages import (
    MAX_MESSAGE,
    MAX_STATUS,
    Answer,
    Entries,
    Frame,
    GetEntries,
    GetLinks,
    GetSnapshot,
    Links,
    Prove,
    Proven,
    Refused,
    Request,
    Said,
    Snapshot,
    Status,
)
from protocols.follow.prune import Pruner
from protocols.follow.ranges import Ranges
from protocols.follow.serve import Server
from protocols.gossip.peerscore import Fault
from protocols.gossip.validation import Verdict
from protocols.ledger.chain import Head, chain_hash, payload_hash
from protocols.ledger.council import Certificate, Instant
from protocols.ledger.errors import WrongGenesisError
from protocols.ledger.fold import LedgerState
from protocols.ledger.proof import ForkError, Proof, ProofError, check_ratified, proven_hash
from protocols.packing import unpack
from protocols.records import DamagedRecordError, guarded, unguarded

Settings = followsettings.Settings


PRUNED_FOR = 30.0
"""Seconds for which all peers must have pruned what we lack before we skip it."""
MAX_REPAIRS = 1024
"""Damaged entries that are remembered: the others are found again when they are asked for."""


class Start(msgspec.Struct, frozen=True):
    """Begin with what the disk holds."""


class Alarm(msgspec.Struct, frozen=True):
    """`wake_at` has come."""


class PeerUp(msgspec.Struct, frozen=True):
    """A peer that speaks PROTOCOL is connected."""

    peer: bytes


class PeerDown(msgspec.Struct, frozen=True):
    """It no longer is."""

    peer: bytes


class Received(msgspec.Struct, frozen=True):
    """A frame on PROTOCOL."""

    peer: bytes
    data: bytes


class Learnt(msgspec.Struct, frozen=True):
    """Our own seat ratified these: it has checked every one of them."""

    payloads: Sequence[bytes]
    certificate: Certificate


class Told(msgspec.Struct, frozen=True):
    """Our own seat was shown that `peer` has ratified entries up to `index`."""

    peer: bytes
    index: int


Event = Start | Alarm | PeerUp | PeerDown | Received | Learnt | Told


def earliest(one: float | None, other: float | None) -> float | None:
    """The first of two times, either of which may be never."""
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)


class Follower:
    """The machine."""

    __slots__ = (
        "_behind",
        "_damaged",
        "_fetcher",
        "_genesis",
        "_heads",
        "_installer",
        "_no_snapshot",
        "_patient_until",
        "_pruned_since",
        "_pruner",
        "_ranges",
        "_read",
        "_realm",
        "_server",
        "_verify",
        "chain",
        "seated",
        "settings",
    )

    def __init__(
        self,
        network: str,
        genesis: bytes,
        me: bytes,
        verify: Verify,
        *,
        settings: Settings | None = None,
        read: Reader | None = None,
        log: EntryLog | None = None,
        ledger: LedgerState | None = None,
        fold: Fold = fold_in_place,
    ) -> None:
        """`ledger`, if given, is the state after `genesis`; `read` reads what was saved.

        Raises GenesisError, and WrongGenesisError where the disk holds another ledger.
        """
        self.settings = settings or Settings()
        self.seated = False
        """Whether our own seat ratifies, too: then we wait for it a moment (`patience`)."""
        self._verify = verify
        self._read = read or Nothing()
        state = ledger if ledger is not None else LedgerState.from_genesis(network, genesis)
        self._genesis = state.head.hash
        self._realm = state.realm
        log = log if log is not None else MemoryLog(None if read is None else read.get)
        log.begin(state.spine)
        self.chain = RatifiedChain(state, log, verify, fold)
        self.chain.keep_snapshots = self.settings.keep_snapshots
        self._server = Server(self.chain)
        self._fetcher = Fetcher(me, self.settings.timeout, self.settings.in_flight)
        self._ranges = Ranges(self.chain, self._fetcher)
        self._pruner = Pruner(log, self._read)
        self._heads = Heads(network, me, self.chain, self._fetcher, self.settings)
        self._installer: Installer | None = None
        self._no_snapshot = False
        self._behind = False
        self._patient_until: float | None = None
        self._pruned_since: float | None = None
        self._damaged: set[int] = set()
        self._check_disk()

    def _check_disk(self) -> None:
        if self._disk_genesis() not in (None, self._genesis):
            raise WrongGenesisError(
                "the ledger on disk begins with another genesis entry",
                remedy="give the genesis file of this ledger, or move the ledger away",
            )
        if self._read.get(FORK_KEY) is not None:
            self.chain.halted = ForkError(
                "this ledger was seen to fork",
                remedy="this daemon acts on nothing new; the owners must agree on one branch",
            )

    def _disk_genesis(self) -> bytes | None:
        """The chain hash of the genesis that the disk has entries of; None where it cannot say.

        It is written anew then: our owner gave us the genesis, and the proofs on disk show
        whether they are of the same ledger.
        """
        record = self._read.get(GENESIS_KEY)
        try:
            return None if record is None else unguarded(TABLE, GENESIS_KEY, record)
        except DamagedRecordError:
            return None

    # -- queries -------------------------------------------------------------------------------

    @property
    def ledger(self) -> LedgerState:
        """The state that all ratified entries leave, as far as they are folded."""
        return self.chain.ledger

    @property
    def certificate(self) -> Certificate | None:
        """The newest ratification at or below the head; None before the first."""
        return self.chain.history.certificate

    @property
    def halted(self) -> SynapseError | None:
        """Why nothing is followed any longer."""
        return self.chain.halted

    @property
    def whole(self) -> bool:
        """Whether all that the disk once proved is there again: before that, sign nothing."""
        return not self._ranges.restoring and self.chain.halted is None

    @property
    def behind(self) -> int:
        """Entries that are known to be ratified, and not yet here."""
        ahead = 0 if self._heads.ahead is None else self._heads.ahead.said.index
        return max(0, ahead - self.chain.ledger.head.index)

    @property
    def strangers(self) -> Mapping[bytes, bytes]:
        """The chain hash of the genesis of each connected peer that follows another than ours."""
        return self._fetcher.foreign

    def shares(self, peer: bytes) -> bool:
        """Whether a connected peer has said that its ledger begins as ours does."""
        source = self._fetcher.sources.get(peer)
        return source is not None and source.same

    @property
    def companions(self) -> int:
        """How many connected peers said that they follow our genesis."""
        return self._fetcher.same

    def wake_at(self) -> float | None:
        """When an Alarm is wanted (mono seconds)."""
        chain = self.chain
        if chain.halted is not None:
            return None
        if chain.batch is not None or not self._ranges.idle or self._pruner.busy:
            return 0.0
        wake = earliest(self._heads.wake_at(), self._server.wake_at())
        if self._wanted() or self._damaged:
            wake = earliest(wake, self._fetcher.wake_at(chain.next))
            wake = earliest(wake, self._patient_until if self.seated else None)
        return wake

    # -- events --------------------------------------------------------------------------------

    def handle(self, event: Event, now: Instant) -> Effects:
        """What follows from an event. Never raises on what others sent."""
        if self.chain.halted is not None:
            return []
        return self._on(event, now.mono) + self._go_on(now.mono)

    def hear(self, peer: bytes, data: bytes, now: Instant) -> tuple[Verdict, Effects]:
        """A head that was gossiped: the verdict for gossip, and what follows from it."""
        if self.chain.halted is not None:
            return Verdict.IGNORE, []
        if len(data) > MAX_STATUS:
            return Verdict.REJECT, []
        try:
            said, _ = unpack(data, Frame, MAX_STATUS)
            if not isinstance(said.said, Status):
                raise MalformedError("something else than a status was gossiped")
            news, effects = self._heads.hear(peer, said.said, now.mono, passed_on=True)
        except (MalformedError, LimitError):
            return Verdict.REJECT, []
        verdict = Verdict.ACCEPT if news else Verdict.IGNORE
        return verdict, effects + self._go_on(now.mono)

    def _on(self, event: Event, now: float) -> Effects:
        effects: Effects = []
        match event:
            case Received(peer, data):
                effects = self._receive(peer, data, now)
            case Alarm():
                effects = self._alarm(now)
            case Learnt(payloads, certificate):
                effects = self._learn(payloads, certificate)
            case Told(peer, index):
                self._fetcher.claim(peer, index)
            case PeerUp(peer):
                self._fetcher.up(peer)
                effects = [self._heads.tell(peer)]
            case PeerDown(peer):
                self._fetcher.down(peer)
                self._server.down(peer)
                self._heads.down(peer)
            case Start():
                effects = self._start(now)
        return effects

    def _start(self, now: float) -> Effects:
        effects: Effects = []
        self._heads.poll_at = now + self.settings.poll_every
        if self._disk_genesis() is None:
            if self._read.get(GENESIS_KEY) is not None:
                effects.append(Emit("ledger.damaged", {"what": "the genesis entry's hash"}))
            effects.append(Save(TABLE, GENESIS_KEY, guarded(TABLE, GENESIS_KEY, self._genesis)))
        saved = Saved(self._read)
        self.chain.points = saved.kept
        found = installable_on_disk(saved, self.chain.ledger, self._verify)
        if found is not None:  # only what came since is folded again
            first = found.checkpoint.header.index
            base = 1 if self._pruner.base == 1 and self._read.get(entry_key(1)) else first
            effects += self.chain.install(found.ledger, found.ended, found.checkpoint, base)
        self._ranges.restore(saved)
        return effects

    def _alarm(self, now: float) -> Effects:
        effects: Effects = [*self._fetcher.expire(now), *self._server.expire(now)]
        return effects + self._heads.alarm(now) + self._pruner.step()

    def _learn(self, payloads: Sequence[bytes], certificate: Certificate) -> Effects:
        effects: Effects = []
        while self.chain.batch is not None:
            effects += self.chain.fold()
        first = certificate.said.index - len(payloads) + 1
        known = self.chain.next - first
        if known < 0:
            self._heads.ahead = certificate
        elif known < len(payloads) and self.chain.halted is None:
            after = certificate.said.index + 1
            self.chain.begin(
                list(payloads[known:]), Proof(certificate, []), save_from=first, check_from=after
            )
        return effects

    # -- going on ------------------------------------------------------------------------------

    def _go_on(self, now: float) -> Effects:
        """One step of folding, and whatever then lacks is asked for."""
        effects: Effects = []
        if self.chain.batch is None and self.chain.halted is None:
            effects += self._ranges.from_disk()
            if self.chain.batch is None:
                effects += self._ranges.from_peers(now)
        effects += self.chain.fold()
        if any(isinstance(effect, Advanced) for effect in effects):
            effects += self._advanced(now)
        if self.chain.halted is None and self.chain.batch is None and self._ranges.idle:
            effects += self._ask(now)
        return effects

    def _advanced(self, now: float) -> Effects:
        self._behind, self._patient_until = False, None
        certificate, head = self.certificate, self.chain.ledger.head.index
        if certificate is None or certificate.said.index != head:
            return []
        self._heads.ratified(head, now)
        return [*self._server.advanced(now), *self._prune()]

    def _prune(self) -> Effects:
        if not self.settings.prune or self.chain.previous_checkpoint is None:
            return []
        return self._pruner.to(self.chain.previous_checkpoint)

    def _wanted(self) -> int:
        """The index after the last entry that is worth asking for; 0 for none."""
        if self._ranges.gap is not None:
            return self._ranges.gap[1]
        ahead = 0 if self._heads.ahead is None else self._heads.ahead.said.index
        stop = max(ahead, self._fetcher.highest) + 1
        return stop if stop > self.chain.next else 0

    def _ask(self, now: float) -> Effects:
        stop = self._wanted()
        if not stop:
            self._behind = False
            return self._repair(now)
        if not self.seated or self._ranges.gap is not None:
            self._patient_until = None
        elif self._is_patient(now):
            return []
        if self._wants_snapshot(now):
            asked = self._ask_snapshot(now)
            if asked is not None:
                return asked
        return list(self._fetcher.fill(self._ranges.start, stop, self._ranges.held, now))

    def _is_patient(self, now: float) -> bool:
        """Whether our own seat may still bring what lacks."""
        if not self._behind:
            self._behind, self._patient_until = True, now + self.settings.patience
        if self._patient_until is not None and now >= self._patient_until:
            self._patient_until = None
        return self._patient_until is not None

    # -- snapshots -----------------------------------------------------------------------------

    def _wants_snapshot(self, now: float) -> bool:
        if self._fetcher.pruned(self._ranges.start):
            if self._pruned_since is None:
                self._pruned_since = now
            # Who has a history gives nothing of it up for what one peer says in passing.
            patience = PRUNED_FOR if self.chain.ledger.head.index > 0 else 0.0
            return now >= self._pruned_since + patience
        self._pruned_since = None
        gap = self.settings.snapshot_gap
        newcomer = self.chain.ledger.head.index == 0 and not self._no_snapshot
        if newcomer and 0 < gap < self._fetcher.boasted:
            return True
        self._installer = None
        return False

    def _ask_snapshot(self, now: float) -> Effects | None:
        history = self.chain.history
        if self._installer is None:
            self._installer = Installer(self._realm, self._verify, history.ended, history.council)
        asked = self._installer.ask(self._fetcher, self._ranges.start, now)
        if asked is None:
            self._installer, self._no_snapshot = None, True
            return None
        return list(asked)

    def _install(self, found: Installable) -> Effects:
        self._installer = None
        index, had = found.checkpoint.header.index, self.chain.ledger.head.index
        if index <= had:
            return []  # ranges brought more meanwhile: the ledger never goes back
        self._heads.ahead = None
        self._ranges.forget()
        effects = self.chain.install(found.ledger, found.ended, found.checkpoint)
        if had == 0 or self.settings.prune:
            effects += self._pruner.to(index)
        else:  # what we had stays on disk, and what lies between is looked for at the next start
            effects.append(Emit("ledger.skipped", {"from": had + 1, "to": index - 1}))
        self.chain.begin([found.checkpoint.payload], found.proof, save_from=index, check_from=index)
        return effects

    # -- frames --------------------------------------------------------------------------------

    def _receive(self, peer: bytes, data: bytes, now: float) -> Effects:
        self._fetcher.up(peer)
        try:
            message, raw = unpack(data, Frame, MAX_MESSAGE)
            return self._said(peer, message.said, raw, now)
        except DamagedRecordError as error:
            return self._repair_later(error)
        except NotHeldError:  # it speaks of what we cannot tell
            self._fetcher.failed(peer, now)
            return []
        except (MalformedError, LimitError, WrongGenesisError) as error:
            self._fetcher.failed(peer, now)
            fault = Fault.MISMATCH if isinstance(error, ProofError) else Fault.MALFORMED
            return [Blame(peer, fault, f"about the ledger: {error}")]

    def _said(self, peer: bytes, said: Said, raw: bytes, now: float) -> Effects:
        if isinstance(said, Status):
            _, effects = self._heads.hear(peer, said, now)
            return effects + self._heads.answer(peer, said, now)
        if peer in self._fetcher.foreign:
            return []
        if isinstance(said, Request):
            return list(self._server.serve(peer, said, now))
        asked = self._fetcher.answered(peer, said.number)
        if asked is None:
            raise LimitError("an answer that nobody asked for")
        return self._answer(peer, asked, said, raw, now)

    def _answer(self, peer: bytes, asked: Request, said: Answer, raw: bytes, now: float) -> Effects:
        match asked, said:
            case GetEntries(), Entries():
                self._ranges.keep(peer, asked, said, raw)
            case Prove(), Proven():
                return self._hear_proof(asked, said, raw)
            case GetLinks(), Links() if self._installer is not None:
                self._installer.links(peer, said, raw)
            case GetSnapshot(), Snapshot() if self._installer is not None:
                found = self._installer.part(peer, said, raw)
                return [] if found is None else self._install(found)
            case _, Refused():
                if self._installer is not None and isinstance(asked, GetLinks | GetSnapshot):
                    self._installer.refused(peer, asked, said)
                else:
                    self._fetcher.refused(peer, said, now)
            case ((GetLinks() | GetSnapshot()), (Links() | Snapshot())):
                pass  # we found a state elsewhere meanwhile
            case _:
                raise MalformedError("an answer to something else than was asked")
        return []

    def _hear_proof(self, asked: Prove, said: Proven, raw: bytes) -> Effects:
        digest = chain_hash(self._realm.network, said.header)
        if said.header.index != asked.index or said.header.payload != payload_hash(raw):
            raise MalformedError("a proof of another entry than was asked for")
        if proven_hash(self._realm.network, said.proof, asked.index) != digest:
            raise ProofError("a proof that does not lead to its entry")
        if asked.index not in self._damaged:
            return self.chain.contradicted(said.proof, Head(asked.index, digest))
        council = self.chain.history.council_of(said.proof.certificate.said.epoch)
        if council is None or said.header.epoch != council.epoch:
            raise ProofError("a proof of an epoch that is not the entry's")
        check_ratified(self._realm, council, said.proof.certificate, self._verify)
        self._damaged.discard(asked.index)
        return [Save(TABLE, entry_key(asked.index), entry_record(asked.index, digest, raw))]

    def _repair_later(self, error: DamagedRecordError) -> Effects:
        """Our disk changed an entry that somebody asked for: fetch it anew."""
        index = entry_index(error.key)
        if index is None or index in self._damaged or len(self._damaged) >= MAX_REPAIRS:
            return []
        self._damaged.add(index)
        return [Emit("ledger.damaged", {"what": f"entry {index}"})]

    def _repair(self, now: float) -> Effects:
        for index in sorted(self._damaged):
            peer = self._fetcher.free(index, now)
            if peer is not None:
                return list(self._fetcher.ask(peer, Prove(number=0, index=index), now))
        return []
