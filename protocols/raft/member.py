"""What every member does in a term that has opened: take batches, acknowledge, lock.

Rules of this file:
1. A member acknowledges a mark when all entries up to it are valid, saved, and its ticks near
   the member's own clock. An untimely tick is nobody's fault: the batch waits and is looked at
   again, and what a quorum has certified need not be timely any more.
2. (rule 1) What was acknowledged in this term is never replaced within it.
3. A batch that came before the one in front of it waits; there is room for a pipeline of them.
4. What was signed is sent again until the certificate that it asks for is seen.
"""

from collections.abc import Sequence

from protocols.errors import SynapseError
from protocols.gossip.peerscore import Fault
from protocols.ledger.chain import Head
from protocols.ledger.council import Certificate, Kind, Statement
from protocols.raft.core import Core
from protocols.raft.fetch import Fetching
from protocols.raft.messages import MAX_BATCH_BYTES, Append

MAX_WAITING = 64
"""Batches that wait for the one in front of them, or for a tick's time: two pipelines."""
MAX_WAITING_BYTES = 4 * MAX_BATCH_BYTES


class Batch:
    """Entries of the leader's that follow `prev`."""

    __slots__ = ("parts", "prev", "signature", "size")

    def __init__(self, prev: Head, parts: Sequence[bytes], signature: bytes) -> None:
        self.prev = prev
        self.parts = parts
        self.signature = signature
        self.size = sum(len(part) for part in parts)


class Member:
    """The part that follows the term's leader, and acknowledges certificates."""

    def __init__(self, core: Core, fetching: Fetching) -> None:
        self._core = core
        self._fetching = fetching
        self._waiting: dict[Head, Batch] = {}
        self._waiting_bytes = 0
        self._locked: tuple[Statement, bytes] | None = None
        """The last certificate-ack."""
        self._certificate: Certificate | None = None
        """The highest certificate of this term, to be acknowledged when its entries are here."""
        self._said_at = self._locked_at = -1e9

    def begin(self) -> None:
        """A term has opened: acknowledge the opening head again (rule 4)."""
        self._waiting.clear()
        self._waiting_bytes = 0
        self._locked = self._certificate = None
        self.settle()

    def settle(self) -> None:
        """Stand on this term's chain as soon as its entries are held."""
        core = self._core
        if core.opening is None or core.leader == core.seat:
            return
        acked = core.vows.acked_in(core.term)
        start = acked if acked is not None else core.floor
        if start.index > core.ratified.index or core.log.has(start):
            if not core.align(start):
                self._fetching.ask(core.leader)
                return
            core.tip = max(core.tip, start.index, core.ratified.index)
        first = acked is None and core.term > 1
        passed = acked is not None and acked.index < core.ratified.index
        if (first or passed) and core.ready():
            # Whoever followed further acknowledges that: the leader learns of it, and a restart
            # need not find out whether the ratified chain contains the ack before it.
            self._say(core.ack(max(core.floor.index, core.ratified.index)))

    # -- batches -------------------------------------------------------------------------------

    def append(self, seat: int, message: Append, parts: list[bytes]) -> None:
        """A batch from the leader of the current term."""
        core = self._core
        if seat != core.leader:
            core.blame(seat, Fault.LIED, "sent a batch in a term that it does not lead")
            return
        if core.opening is None or core.over:
            return
        if core.vows.acked_in(core.term) is None:
            self.settle()
        self._take(Batch(message.prev, parts, message.signature))
        self.look_again()

    def _take(self, batch: Batch) -> None:
        core = self._core
        if batch.prev.index > core.tip:
            self._wait(batch)
            return
        if not core.ready():
            self._wait(batch)
            return
        batch = self._above_base(batch)
        here = core.log.hash_at(batch.prev.index)
        if here is None:
            self._say_again()
            return
        if here != batch.prev.hash:
            return
        reached = self._follow(batch)
        if reached is None:
            return
        core.tip = max(core.tip, reached)
        if reached == batch.prev.index + len(batch.parts):
            self._acknowledge(reached, batch)

    def _above_base(self, batch: Batch) -> Batch:
        """Without the entries that are ratified for so long that they are not kept."""
        base = self._core.log.base
        known = base.index - batch.prev.index
        if not 0 < known < len(batch.parts):
            return batch
        return Batch(base, batch.parts[known:], batch.signature)

    def _acknowledge(self, mark: int, batch: Batch) -> None:
        """Rule 1, if the leader has acknowledged the mark itself: so it can be held to it."""
        core = self._core
        acked = core.vows.acked_in(core.term)
        if acked is not None and mark <= acked.index:
            self._say_again()
            return
        said = Statement(Kind.ACK, core.council.epoch, core.term, mark, core.log.at(mark).hash)
        if not core.signed_by(core.leader, said, batch.signature):
            core.blame(core.leader, Fault.LIED, "sent a batch that it did not acknowledge itself")
            return
        core.witness.saw(core.leader, said, batch.signature)
        self._say(core.ack(mark))

    def _follow(self, batch: Batch) -> int | None:
        """Append the batch's entries; the index that was reached, None where they are refused."""
        core, log = self._core, self._core.log
        index = batch.prev.index
        fixed = max(core.floor.index, core.ratified.index)
        acked = core.vows.acked_in(core.term)
        if acked is not None:
            fixed = max(fixed, acked.index)
        for place, payload in enumerate(batch.parts):
            index += 1
            if index <= log.end.index:
                if index <= log.base.index or log.at(index).payload == payload:
                    if index > core.tip and not self._timely(index, payload):
                        return self._later(batch, place, index)
                    continue
                if index <= fixed:
                    self._equivocated(batch)
                    return None
                log.truncate(index - 1, core.term - 1)
            if not self._timely(index, payload):
                return self._later(batch, place, index)
            if log.full():
                return None
            try:
                log.append(payload)
            except SynapseError as error:
                core.blame(core.leader, Fault.LIED, f"proposed an entry that is invalid: {error}")
                return None
        return index

    def _timely(self, index: int, payload: bytes) -> bool:
        core = self._core
        if index <= core.vows.high.said.index:
            return True
        if self._certificate is not None and index <= self._certificate.said.index:
            return True
        try:
            return core.log.ledger.timely(payload, core.now.unix_ms)
        except SynapseError:
            return True  # no entry at all: appending it will say so

    def _later(self, batch: Batch, place: int, index: int) -> int:
        """Rule 1: keep the rest until its tick is timely, or certified."""
        prev = self._core.log.place(index - 1)
        if prev is not None:
            self._wait(Batch(prev, batch.parts[place:], batch.signature))
        return index - 1

    def _wait(self, batch: Batch) -> None:
        """Rule 3."""
        before = self._waiting.pop(batch.prev, None)
        if before is not None:
            self._waiting_bytes -= before.size
        room = self._waiting_bytes + batch.size <= MAX_WAITING_BYTES
        if len(self._waiting) < MAX_WAITING and room:
            self._waiting[batch.prev] = batch
            self._waiting_bytes += batch.size

    def look_again(self) -> None:
        """Take the batches that wait for what has come, or whose time has come."""
        core = self._core
        while self._waiting and core.opening is not None:
            place = core.log.place(core.tip)
            batch = None if place is None else self._waiting.pop(place, None)
            if batch is None:
                break
            self._waiting_bytes -= batch.size
            self._take(batch)
            if core.tip == batch.prev.index:
                break
        for prev in [prev for prev in self._waiting if prev.index < core.tip]:
            self._waiting_bytes -= self._waiting.pop(prev).size
        core.recheck()
        self._lock()

    def _equivocated(self, batch: Batch) -> None:
        """The leader acknowledged two branches of one term: keep what proves it (rule 1)."""
        core = self._core
        if core.leader in core.witness.guilty:
            return
        branch = core.log.branch(batch.prev, batch.parts)
        if not branch:
            return
        end = branch[-1]
        said = Statement(Kind.ACK, core.council.epoch, core.term, end.header.index, end.hash)
        if core.signed_by(core.leader, said, batch.signature):
            core.log.keep(branch, core.vows.term)
            core.witness.saw(core.leader, said, batch.signature)

    # -- certificates --------------------------------------------------------------------------

    def certified(self, certificate: Certificate) -> None:
        """Rule 4 of the council: acknowledge a verified certificate of the current term."""
        core, said = self._core, certificate.said
        if said.term != core.term or certificate.ratifies or core.leader == core.seat:
            return
        if self._certificate is None or self._certificate.said.index < said.index:
            self._certificate = certificate
        if self._locked is not None and self._locked[0].index >= said.index:
            if core.now.mono >= self._locked_at + core.settings.retry / 2:
                self._lock_again()  # the leader has not heard it
            return
        self._lock()

    def _lock(self) -> None:
        """Acknowledge the term's highest certificate, as soon as its entries are held."""
        core, certificate = self._core, self._certificate
        if certificate is None:
            return
        said = certificate.said
        if self._locked is not None and self._locked[0].index >= said.index:
            return
        if core.vows.high.rank < certificate.rank or not core.ready():
            return
        if said.index > core.ratified.index:
            if not core.align(said.head):
                return
            core.tip = max(core.tip, said.index)
        signed = core.vows.certificate_ack(certificate, core.term)
        if signed is not None:
            self._locked = signed
            self._lock_again()

    def _lock_again(self) -> None:
        core = self._core
        if self._locked is not None:
            self._locked_at = core.now.mono
            core.send_signed(core.leader, self._locked)

    # -- saying it again -----------------------------------------------------------------------

    def _say(self, signed: tuple[Statement, bytes] | None) -> None:
        core = self._core
        if signed is not None and core.leader != core.seat:
            self._said_at = core.now.mono
            core.send_signed(core.leader, signed)

    def _say_again(self) -> None:
        """The leader sends what we have: it has not heard where we are."""
        core = self._core
        if core.now.mono >= self._said_at + core.settings.retry / 2:
            again = core.vows.last_ack(core.term)
            if again is None and core.ready() and core.ratified.index >= core.floor.index:
                again = core.ack(core.ratified.index)
            self._say(again)

    def greet(self) -> None:
        """After a restart: tell the leader where we are."""
        if self._core.opening is not None:
            self._say(self._core.vows.last_ack(self._core.term))

    def owes(self) -> bool:
        """Whether something that was signed has no answer."""
        core = self._core
        if core.opening is None or core.leader == core.seat:
            return False
        if self._locked is not None and self._locked[0].index > core.ratified.index:
            return True
        acked = core.vows.acked_in(core.term)
        if self._waiting or (acked is None and core.term > 1):
            return True
        certified = -1 if self._certificate is None else self._certificate.said.index
        return acked is not None and acked.index > max(certified, core.ratified.index)

    def resend(self) -> None:
        """Rule 4, on the retry timer."""
        core = self._core
        if core.opening is None or core.leader == core.seat:
            return
        self.settle()
        self.look_again()
        before = core.now.mono - core.settings.retry / 2
        locked = self._locked is not None and self._locked[0].index > core.ratified.index
        if locked and self._locked_at <= before:
            self._lock_again()
        acked = core.vows.acked_in(core.term)
        certified = -1 if self._certificate is None else self._certificate.said.index
        owed = acked is not None and acked.index > max(certified, core.ratified.index)
        if owed and self._said_at <= before:
            self._say(core.vows.last_ack(core.term))
