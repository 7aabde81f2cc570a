"""What the leader of a term does: batches, marks, tallies, certificates, and sending again.

    pool -> Append (a batch, ending at a mark) -> acks of a quorum: Certified
                                               -> certificate-acks of a quorum: ratified

Two round trips from the batch to its ratification; the certificate reaches the members half a
round trip later. Rules of this file:
1. Rule 8: a leader saves and acknowledges a mark itself before it sends it, so that after a
   restart in its term it resumes what it signed, and nothing else.
2. Rule 4: a term begins with its opening head, acknowledged again under the new term; the
   leader's own uncertified tail that extends it is proposed again (Raft section 5.4.2 has the
   reason why an old term's entries are not counted in the old term).
3. At most `pipeline` marks have no certificate; a batch follows at once when none is under way.
4. What a member does not answer is sent again, ever more rarely until it speaks.
"""

import math

from protocols.errors import SynapseError
from protocols.gossip.peerscore import Fault
from protocols.ledger.chain import Head
from protocols.ledger.council import Certificate, Kind, Statement
from protocols.raft.core import Core
from protocols.raft.log import MAX_TAIL
from protocols.raft.messages import (
    MAX_BATCH,
    MAX_BATCH_BYTES,
    Append,
    Certified,
    Opened,
    Signed,
    pack,
)
from protocols.raft.peer import Peer

RARELY = 4
"""Doublings of the retry period for a member that keeps silent: one time-out."""
RESENT = 4
"""Batches that are sent again at once, while a member answers."""

PACE = 1 / 6
"""Of the time that a mark takes to be certified, between two batches: six have no certificate
then, whatever a round trip takes or the members' machines, and an entry waits a twelfth of a round
trip. With a fixed gap, slow members are sent ever more and smaller batches, each of which costs
them as much as a large one."""
PACE_WEIGHT = 1 / 4
"""Of the newest mark in that time's moving average."""
MAX_PACE = 1 / 8
"""Of a time-out, at most, between two batches."""
IDLE = 1 / 3
"""Of a time-out without any entry: then a tick also where this clock is behind the ledger's."""
LEAST_WAIT = 0.001
"""Seconds between two looks at the clock: what is due and cannot be done must not spin."""

Tally = dict[int, bytes]
"""Signatures over one statement, by seat."""


class Leader:
    """The leader's part; made when the term has opened."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.term = core.term
        now = core.now.mono
        held = core.floor.index if core.term == 1 else None
        self._peers = [Peer(held, now) for _ in core.council.seats]
        self._acks: dict[Head, Tally] = {}
        """Of the marks without a certificate, rising. Should following replace the chain under a
        leader whose term is over, then its marks are of the old chain still."""
        self._certificate_acks: dict[Head, Tally] = {}
        self.certified: Certificate | None = None
        """The highest of this term."""
        self._marked_at = -1e9
        self._marks_at: dict[Head, float] = {}
        self._certify_time = 0.0
        self._proposed_at = now
        self._tick_at = now + core.settings.tick
        self._polled_at = -1e9
        self._next_at = math.inf
        """When the gap behind the last batch is over, if nothing else is in the way."""
        self._wants = True
        """Whether the pool may have something."""
        self._resumed = False

    # -- beginning -----------------------------------------------------------------------------

    def begin(self) -> None:
        """The term has opened, or this leader is back in it."""
        core = self._core
        if core.opening is not None and core.term > 1:
            core.broadcast(Opened(core.opening))
        self.propose()

    def _resume(self) -> bool:
        """Rules 1 and 2: stand on what was acknowledged in this term, or on its opening head."""
        core = self._core
        acked = core.vows.acked_in(core.term)
        start = acked if acked is not None else core.floor
        if start.index > core.ratified.index:
            if not core.align(start):
                return False
            core.tip = start.index
        if start.index > core.ratified.index or (core.term > 1 and acked is None):
            self._mark(start.index)
        self._resumed = core.ready()
        return self._resumed

    def _mark(self, index: int) -> bytes | None:
        """Rule 1: save, acknowledge, and only then let it be sent."""
        core = self._core
        signed = core.ack(index)
        if signed is None:
            return None
        core.tip = max(core.tip, index)
        head = signed[0].head
        self._acks[head] = {core.seat: signed[1]}
        self._marked_at = self._marks_at[head] = core.now.mono
        if core.council.quorum == 1:
            self._certify(head)
        return signed[1]

    # -- proposing -----------------------------------------------------------------------------

    def wants(self) -> None:
        """The pool has something new."""
        self._wants = True

    def _free(self) -> bool:
        """Whether another batch may be sent now (rule 3)."""
        core = self._core
        self._next_at = math.inf
        if len(self._acks) >= core.settings.pipeline or core.log.full() or not core.ready():
            return False
        settings = core.settings
        pace = min(self._certify_time * PACE, settings.time_out * MAX_PACE)
        gap = max(settings.gap, pace)
        if not self._acks or core.now.mono >= self._marked_at + gap:
            return True
        self._next_at = self._marked_at + gap
        return False

    def propose(self) -> None:
        """Send the next batches, as far as there are any."""
        core = self._core
        if not self._resumed and not self._resume():
            return
        while self._free():
            prev = core.log.place(core.tip)
            if prev is None:
                return
            index = self._repropose() if core.log.end.index > core.tip else self._take()
            if index == prev.index:
                return
            signature = self._mark(index)
            if signature is None:
                return
            self._send_batch(prev, index, signature)

    def _repropose(self) -> int:
        """Rule 2: the next part of our own tail, as long as its ticks are still timely."""
        core = self._core
        index, size = core.tip, 0
        certified = core.vows.high.said.index
        while index < core.log.end.index and index - core.tip < core.settings.max_batch:
            payload = core.log.at(index + 1).payload
            size += len(payload)
            if size > MAX_BATCH_BYTES and index > core.tip:
                return index
            # What stands in the log is an entry, so that its time can be read.
            if index >= certified and not core.log.ledger.timely(payload, core.now.unix_ms):
                core.log.truncate(index, core.term - 1)
                break
            index += 1
        return index if index > core.tip else self._take()

    def _take(self) -> int:
        """Append what the pool has, or a tick if nothing else moved for so long."""
        core = self._core
        log, settings = core.log, core.settings
        if log.ended:
            return core.tip
        payloads: list[bytes] = []
        if self._wants or core.now.mono >= self._polled_at + settings.tick:
            self._polled_at = core.now.mono
            most = min(settings.max_batch, MAX_BATCH, MAX_TAIL)
            payloads = core.pool.take(log.head, core.now, most, MAX_BATCH_BYTES)
        size = 0
        for payload in payloads:
            size += len(payload)
            if size > MAX_BATCH_BYTES or log.ended:
                break
            try:
                log.append(payload)
            except SynapseError:
                continue  # what the pool took for valid is not, behind what came before it
        self._wants = self._wants and log.end.index > core.tip
        if log.end.index == core.tip and self._idle():
            # Rule 5: without a tick now and then, an idle leader could not be told from a dead.
            late = core.now.mono >= self._proposed_at + IDLE * settings.time_out
            tick = log.head.tick(core.now.unix_ms, idle=late)
            if tick is None:  # it is not due yet by this clock
                self._tick_at = core.now.mono + settings.tick / 4
            else:
                log.append(tick)
        if log.end.index > core.tip:
            self._proposed_at = core.now.mono
            self._tick_at = core.now.mono + settings.tick
        return log.end.index

    def _idle(self) -> bool:
        core = self._core
        return core.ratified.index == core.tip and core.now.mono >= self._tick_at

    def _send_batch(self, prev: Head, index: int, signature: bytes) -> None:
        frame = self._frame(prev, index, signature)
        for seat, peer in enumerate(self._peers):
            if seat != self._core.seat and peer.silent <= RARELY:
                self._core.send_frame(seat, frame)
            if peer.held is not None and peer.held >= prev.index:
                peer.sent = self._core.now.mono  # it owes nothing but the answer to this

    def _frame(self, prev: Head, index: int, signature: bytes) -> bytes:
        core = self._core
        parts = core.log.payloads(prev.index, index)
        lengths = [len(part) for part in parts]
        message = Append(core.council.epoch, core.term, prev, signature, lengths)
        return pack(message, parts)

    # -- tallies -------------------------------------------------------------------------------

    def signed(self, seat: int, message: Signed) -> None:
        """An ack or certificate-ack of this term."""
        core, said = self._core, message.said
        if said.kind not in (Kind.ACK, Kind.CERTIFICATE_ACK):
            core.blame(seat, Fault.LIED, "sent a statement that is no acknowledgement")
            return
        here = core.log.hash_at(said.index)
        if here is not None and here != said.hash:
            if core.signed_by(seat, said, message.signature):
                core.witness.saw(seat, said, message.signature)
            return
        if here is None and said.index > core.ratified.index:
            return
        peer = self._peers[seat]
        if peer.held is None or peer.held < said.index:
            peer.held = said.index
            peer.sent = core.now.mono
        if said.kind is Kind.ACK:
            tally = self._acks.get(said.head)
            if tally is not None and self._counts(seat, message, tally):
                self._certify(said.head)
        else:
            peer.certified = max(peer.certified, said.index)
            tally = self._certificate_acks.get(said.head)
            if tally is not None and self._counts(seat, message, tally):
                self._ratify(said.head)
        self._answer(seat, peer, said)

    def _counts(self, seat: int, message: Signed, tally: Tally) -> bool:
        """Count a signature; whether a quorum is reached with it."""
        core = self._core
        if seat in tally:
            return False
        if not core.signed_by(seat, message.said, message.signature):
            core.blame(seat, Fault.LIED, "sent an acknowledgement that it did not sign")
            return False
        tally[seat] = message.signature
        core.witness.saw(seat, message.said, message.signature)
        return len(tally) >= core.council.quorum

    def _answer(self, seat: int, peer: Peer, said: Statement) -> None:
        """A member that says again what is settled has missed the certificate."""
        core = self._core
        if core.now.mono < peer.last + core.settings.retry:
            return
        if said.kind is Kind.CERTIFICATE_ACK and said.index <= core.ratified.index:
            peer.last = core.now.mono
            core.show_ratified(seat)
        elif (
            said.kind is Kind.ACK
            and self.certified is not None
            and peer.certified < said.index <= self.certified.said.index
        ):
            peer.last = core.now.mono
            core.send(seat, Certified(self.certified))

    def _certificate(self, kind: Kind, head: Head, tally: Tally) -> Certificate:
        core = self._core
        said = Statement(kind, core.council.epoch, core.term, head.index, head.hash)
        seats = sorted(tally)
        certificate = Certificate(said, seats, [tally[seat] for seat in seats])
        core.remember(certificate)
        return certificate

    def _certify(self, head: Head) -> None:
        """A quorum acknowledged a mark, and all before it."""
        core = self._core
        certificate = self._certificate(Kind.ACK, head, self._acks[head])
        taken = core.now.mono - self._marks_at[head]
        self._certify_time += PACE_WEIGHT * (taken - self._certify_time)
        for mark in [mark for mark in self._acks if mark.index <= head.index]:
            del self._acks[mark], self._marks_at[mark]
        self.certified = certificate
        core.hold(certificate)
        signed = core.vows.certificate_ack(certificate, core.term)
        core.broadcast(Certified(certificate))
        for peer in self._peers:
            peer.last = peer.sent = core.now.mono
        if signed is not None:
            self._certificate_acks[head] = {core.seat: signed[1]}
            if core.council.quorum == 1:
                self._ratify(head)

    def _ratify(self, head: Head) -> None:
        """A quorum holds the certificate: nothing can undo it."""
        core = self._core
        tally = self._certificate_acks[head]
        certificate = self._certificate(Kind.CERTIFICATE_ACK, head, tally)
        settled = [mark for mark in self._certificate_acks if mark.index <= head.index]
        for mark in settled:
            del self._certificate_acks[mark]
        core.broadcast(Certified(certificate))
        for peer in self._peers:
            peer.last = core.now.mono
        core.learn(certificate, core.seat)

    # -- sending again -------------------------------------------------------------------------

    def heard(self, seat: int) -> None:
        """A member speaks: it is worth being told."""
        self._peers[seat].silent = 0

    def _period(self, peer: Peer) -> float:
        return self._core.settings.retry * float(1 << min(peer.silent, RARELY))

    def _owes(self, peer: Peer) -> bool:
        """Whether the member has something to answer."""
        core = self._core
        if peer.held is None or peer.held < core.tip:
            return True
        return self.certified is not None and peer.certified < self.certified.said.index

    def wake_at(self) -> float:
        """When there is something to do without anybody asking."""
        core = self._core
        wake = self._polled_at + core.settings.tick
        if core.ratified.index == core.tip:
            wake = min(wake, self._tick_at)
        if self._wants:
            wake = min(wake, self._next_at)
        for seat, peer in enumerate(self._peers):
            if seat != core.seat and self._owes(peer):
                wake = min(wake, peer.sent + self._period(peer))
        return max(wake, core.now.mono + LEAST_WAIT)

    def resend(self) -> None:
        """Rule 4: what was not answered in time."""
        core = self._core
        now = core.now.mono
        for seat, peer in enumerate(self._peers):
            if seat == core.seat or not self._owes(peer) or now < peer.sent + self._period(peer):
                continue
            peer.silent += 1
            peer.sent = peer.last = now
            if peer.held is None and core.opening is not None and core.term > 1:
                core.send(seat, Opened(core.opening))
            if core.ratified.index > (peer.held or 0) and core.proof is not None:
                core.show_ratified(seat)
            elif self.certified is not None and peer.certified < self.certified.said.index:
                core.send(seat, Certified(self.certified))
            self._resend_batches(seat, peer)

    def _resend_batches(self, seat: int, peer: Peer) -> None:
        """From where the member stands, or where it must stand to go on."""
        core = self._core
        above = peer.held if peer.held is not None else core.floor.index
        above = max(above, core.log.base.index)
        marks = [mark for mark in self._acks if mark.index > above and core.log.has(mark)]
        if not marks and core.tip > above:
            marks = [Head(core.tip, core.log.hash_at(core.tip) or b"")]
        for mark in marks[: 1 if peer.silent > 1 else RESENT]:
            prev = core.log.place(above)
            above = mark.index
            if prev is None or not core.ready():
                return
            for before, index in self._cut(prev, mark.index):
                self._resend_batch(seat, before, index)

    def _resend_batch(self, seat: int, prev: Head, index: int) -> None:
        core = self._core
        mark = Head(index, core.log.at(index).hash)
        tally = self._acks.get(mark)
        # Where a batch ends elsewhere than before, it ends below what this leader acknowledged.
        signature = core.vows.repeat(core.term, mark) if tally is None else tally[core.seat]
        if signature is not None:
            core.send_frame(seat, self._frame(prev, index, signature))

    def _cut(self, prev: Head, mark: int) -> list[tuple[Head, int]]:
        """The way from `prev` to a mark, in batches that fit into frames; the first RESENT."""
        log = self._core.log
        cuts: list[tuple[Head, int]] = []
        index, size = prev.index, 0
        while index < mark and len(cuts) < RESENT:
            size += len(log.at(index + 1).payload)
            if index > prev.index and (size > MAX_BATCH_BYTES or index - prev.index >= MAX_BATCH):
                cuts.append((prev, index))
                prev, size = Head(index, log.at(index).hash), 0
                continue
            index += 1
        if index > prev.index and len(cuts) < RESENT:
            cuts.append((prev, index))
        return cuts
