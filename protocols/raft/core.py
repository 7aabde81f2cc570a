"""What all parts of a Replica share: the seat, its log and vows, certificates, and the mouth.

Certificates are learnt here, whoever brings them: the highest whose entries are held is the
`high` certificate, and what a certificate of certificate-acks covers is ratified.
"""

from collections import OrderedDict
from collections.abc import Sequence

from protocols.effects import Blame, Effect, Emit, Send
from protocols.envelope import Sign, Verify
from protocols.gossip.peerscore import Fault
from protocols.ledger.chain import Head
from protocols.ledger.council import (
    BadCertificateError,
    Certificate,
    Council,
    Instant,
    Opening,
    Statement,
    check_certificate,
    signed_bytes,
    start_certificate,
)
from protocols.raft.guilt import Witness
from protocols.raft.log import Log
from protocols.raft.messages import PROTOCOL, Certified, Message, Signed, pack
from protocols.raft.pacemaker import Pacemaker
from protocols.raft.ports import Accuse, Behind, Ledger, PoolLike, Ratify, Settings
from protocols.raft.state import Vows
from protocols.realm import Realm

MAX_KNOWN = 64
"""Certificates that were verified of late, so that a copy costs nothing."""

RaftEffect = Effect | Ratify | Accuse | Behind


class Core:
    """One seat in one epoch."""

    def __init__(
        self,
        realm: Realm,
        council: Council,
        seat: int,
        sign: Sign,
        verify: Verify,
        *,
        ledger: Ledger,
        ratified: Certificate | None,
        pool: PoolLike,
        settings: Settings,
    ) -> None:
        self.realm = realm
        self.council = council
        self.seat = seat
        self.verify = verify
        self.pool = pool
        self.settings = settings
        self.effects: list[RaftEffect] = []
        self.now = Instant(0.0, 0)
        self.log = Log(realm.network, council.epoch, ledger, verify, self.effect)
        self.vows = Vows(realm, council, seat, sign, self.effect)
        self.pace = Pacemaker(council, seat, settings.time_out)
        self.witness = Witness(realm, council, self.log, verify, self.effect)
        self.opening: Opening | None = None
        """How the current term opened; None while that is not known."""
        self.floor = Head(council.start.index, council.start.hash)
        """Where it opened (rule 2)."""
        self.tip = ledger.head.index
        """How far the chain is this term's: up to here it may be acknowledged."""
        self.ratified = ledger.head
        self.proof = ratified
        """The certificate that covers `ratified`; of the epoch before, at an epoch's start."""
        self.behind: Certificate | None = None
        """The highest that ratifies what we do not hold."""
        self.wanted: Certificate | None = None
        """The highest certificate whose entries are still to be fetched."""
        self.rooted: Head | None = None
        """The last ack of ours that was seen to be on the ratified chain."""
        self._known: OrderedDict[Statement, Certificate] = OrderedDict()
        self._behind_at = -1e9

    # -- speaking ------------------------------------------------------------------------------

    def effect(self, effect: RaftEffect) -> None:
        """One more effect, after those before."""
        self.effects.append(effect)

    def take_effects(self) -> list[RaftEffect]:
        """All since the last call."""
        # `effect` is bound where the parts were made, so the list is emptied and not replaced.
        taken = self.effects[:]
        self.effects.clear()
        return taken

    def send(self, seat: int, message: Message, parts: Sequence[bytes] = ()) -> None:
        """To one member."""
        self.send_frame(seat, pack(message, parts))

    def send_frame(self, seat: int, frame: bytes) -> None:
        """To one member, what is packed already."""
        if seat != self.seat:
            self.effects.append(Send(self.council.seats[seat].identity, PROTOCOL, frame))

    def broadcast(self, message: Message, parts: Sequence[bytes] = ()) -> None:
        """To all other members."""
        frame = pack(message, parts)
        for seat in range(len(self.council.seats)):
            self.send_frame(seat, frame)

    def emit(self, kind: str, **fields: str | int | float | bool | None) -> None:
        """Tell the local user."""
        self.effects.append(Emit(kind, {"epoch": self.council.epoch, **fields}))

    def blame(self, seat: int, fault: Fault, why: str) -> None:
        """Count a fault against a member."""
        self.effects.append(Blame(self.council.seats[seat].identity, fault, why))

    # -- where we are --------------------------------------------------------------------------

    @property
    def term(self) -> int:
        """The current term."""
        return self.pace.term

    @property
    def leader(self) -> int:
        """The seat that leads it."""
        return self.pace.leader

    @property
    def over(self) -> bool:
        """Rule 6: whether the epoch's last entry is ratified."""
        return self.log.ended and self.ratified == self.log.end

    def ready(self) -> bool:
        """Whether this term's chain may grow here: what was signed in it is held, and on it."""
        vows = self.vows
        if self.opening is None or vows.lost or self.term < vows.term or not self.whole():
            return False
        acked = vows.acked_in(self.term)
        return acked is None or self.extends(acked)

    def whole(self) -> bool:
        """Whether what the highest certificate covers is held: nothing is signed before."""
        head = self.vows.high.said.head
        return head.index <= self.ratified.index or not isinstance(self.log.path(head), Head)

    def signed_by(self, seat: int, said: Statement, signature: bytes) -> bool:
        """Whether a seat signed a statement."""
        key = self.council.seats[seat].key
        return self.verify(key, signed_bytes(self.realm, said), signature)

    def extends(self, head: Head) -> bool:
        """Whether the chain contains a place."""
        return self.log.has(head) or (head == self.rooted and head.index <= self.ratified.index)

    def align(self, head: Head) -> bool:
        """Make the chain contain `head`, if its entries are held and rule 1 allows it."""
        if self.log.has(head):
            return True
        path = self.log.path(head)
        acked = self.vows.acked_in(self.term)
        if not isinstance(path, list):
            return False
        if acked is not None and acked.index > head.index - len(path):
            place = acked.index - (head.index - len(path)) - 1
            if place >= len(path) or path[place].hash != acked.hash:
                return False
        return self.switch(head)

    def switch(self, head: Head) -> bool:
        """Make the chain contain `head`, whatever was acknowledged."""
        path = self.log.path(head)
        if not isinstance(path, list):
            return False
        done = self.log.switch(head, self.term - 1)
        self.tip = min(self.tip, head.index - len(path), self.log.end.index)
        return done

    # -- signing -------------------------------------------------------------------------------

    def ack(self, index: int) -> tuple[Statement, bytes] | None:
        """Acknowledge the chain up to `index` (all of it is saved first), as far as we may."""
        head = self.log.place(index)
        if head is None or self.opening is None:
            return None
        self.log.save(index)
        signed = self.vows.ack(self.term, head, self.floor, self._on_chain)
        if signed is not None and head == self.log.end:
            self.log.mark()
        return signed

    def _on_chain(self, head: Head) -> bool:
        # Below what this council ratified in the term, the term's opening is part of the chain.
        return self.extends(head) or (head == self.floor and head.index < self.ratified.index)

    # -- certificates --------------------------------------------------------------------------

    def checked(self, certificate: Certificate, seat: int) -> Certificate | None:
        """A certificate of the same statement that holds, this one or one that we have; None
        where it does not hold, and whoever brought it is blamed."""
        said = certificate.said
        if said == self.vows.high.said:
            return self.vows.high
        known = self._known.get(said)
        if known is not None:
            return known
        try:
            check_certificate(self.realm, self.council, certificate, self.verify)
        except BadCertificateError as error:
            self.blame(seat, Fault.LIED, f"sent a certificate that proves nothing: {error}")
            return None
        self.remember(certificate)
        if said.term > 0:
            self.witness.certificate(certificate)
            self.remember_myself(certificate)
        return certificate

    def remember(self, certificate: Certificate) -> None:
        """A certificate that holds."""
        self._known[certificate.said] = certificate
        if len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)

    def remember_myself(self, certificate: Certificate) -> None:
        """Rule 7: a certificate with a signature of ours that we do not remember is how a disk
        that lost what it had acknowledged comes to light."""
        if self.seat not in certificate.seats:
            return
        said, acked = certificate.said, self.vows.acked
        if certificate.ratifies:
            known = self.vows.high.rank
        else:
            known = (0, 0) if acked is None else (acked.term, acked.index)
        if certificate.rank > known:
            self.lose(f"a certificate of term {said.term} carries a signature that is forgotten")

    def lose(self, why: str) -> None:
        """Rule 7: sign nothing more in this epoch."""
        if not self.vows.lost:
            self.vows.lose(why)
            self.emit("council.lost-state", why=why)

    def learn(self, certificate: Certificate, seat: int) -> None:
        """A verified certificate of this epoch, brought by `seat`."""
        if certificate.ratifies and certificate.said.index > self.ratified.index:
            self.ratify(certificate, seat)
        self.hold(certificate)

    def hold(self, certificate: Certificate) -> None:
        """Adopt a certificate if it is the highest and its entries are held; else fetch them."""
        if certificate.rank <= self.vows.high.rank:
            return
        said = certificate.said
        if said.index > self.ratified.index:
            path = self.log.path(said.head)
            if path is None:
                return
            if isinstance(path, Head):
                if self.wanted is None or self.wanted.rank < certificate.rank:
                    self.wanted = certificate
                return
            if path:
                self.log.hold(path, said.term)
            else:
                self.log.save(said.index)
        self.vows.adopt(certificate)
        if self.wanted is not None and self.wanted.rank <= certificate.rank:
            self.wanted = None
        self.log.forget(said.term)

    def ratify(self, certificate: Certificate, seat: int) -> None:
        """What a verified certificate of certificate-acks covers is ratified."""
        head = certificate.said.head
        if head.index <= self.ratified.index:
            return
        if not self.log.has(head) and not self.switch(head):
            if self.behind is None or self.behind.said.index < head.index:
                self.behind = certificate
                self.fall_behind(seat)
            return
        above = self.ratified.index
        self.advance(certificate, head)
        fold = self.log.fold_at(head)
        self.effect(Ratify(self.log.payloads(above, head.index), certificate, fold))
        self.log.ratified(head.index)

    def advance(self, certificate: Certificate, head: Head) -> None:
        """The ratified head moved on to `head`, which `certificate` covers."""
        self.ratified = head
        self.proof = certificate
        self.tip = max(self.tip, min(self.ratified.index, self.log.end.index))
        acked = self.vows.acked
        if acked is not None and acked.index <= self.ratified.index and self.log.has(acked.head):
            self.rooted = acked.head
        if self.behind is not None and self.behind.said.index <= self.ratified.index:
            self.behind = None
        self.pace.progress(self.now.mono)  # rule 5: the only thing that resets the timer

    def recheck(self) -> None:
        """The chain has grown: perhaps it holds what was missing."""
        if self.behind is not None:
            self.ratify(self.behind, self.seat)
        if self.wanted is not None:
            self.hold(self.wanted)

    def fall_behind(self, seat: int) -> None:
        """Have the ratified entries that we lack fetched by following, once a retry."""
        due = self.now.mono >= self._behind_at + self.settings.retry
        if self.behind is not None and seat != self.seat and due:
            self._behind_at = self.now.mono
            self.effect(Behind(self.council.seats[seat].identity, self.behind.said.index))

    # -- showing ------------------------------------------------------------------------------

    def show_ratified(self, seat: int) -> None:
        """Send the proof of the ratified head to a member that lacks it."""
        if self.proof is not None:
            self.send(seat, Certified(self.proof))

    def send_signed(self, seat: int, signed: tuple[Statement, bytes]) -> None:
        """Send an ack or certificate-ack of ours."""
        self.send(seat, Signed(*signed))


def start_of(council: Council) -> Opening:
    """Rule 3: term 1 opens without time-outs, where the epoch begins."""
    return Opening(council.epoch, 1, start_certificate(council), [])
