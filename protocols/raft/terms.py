"""How terms end and begin: suspicion, time-outs, openings (rule 3 of the council).

    timer fires -> Suspicion to all (and goes on signing)
    a quorum suspects -> TimedOut to all: signed, saved, names the highest certificate held
    a quorum timed out -> the next leader: Opened, with the time-outs and a certificate as high
    Opened -> members acknowledge the opening head, even against a higher lock of their own

The rotation of leaders is HotStuff's, without candidacy; the proof of a term is PBFT's new-view,
with Jolteon's time-out certificates (arXiv 2106.10362, section 3.3). Whoever is behind is sent
the term's proof; what is not answered is sent again.
"""

from protocols.gossip.peerscore import Fault
from protocols.ledger.council import (
    BadCertificateError,
    Certificate,
    Opening,
    SignedTimeOut,
    check_opening,
    signed_bytes,
)
from protocols.raft.core import Core
from protocols.raft.fetch import Fetching
from protocols.raft.messages import Opened, Suspicion, TimedOut, TimedOuts
from protocols.raft.state import opening_record


class Terms:
    """The part that changes the term."""

    def __init__(self, core: Core, fetching: Fetching) -> None:
        self._core = core
        self._fetching = fetching
        self._said_at = -1e9
        self._proved: dict[int, float] = {}
        """When each seat was sent the term's proof."""
        self._shown: dict[int, float] = {}
        """When each seat that suspects was shown what is ratified."""
        self._may_choose_at = 0.0
        """When the leader takes a lower certificate, if the highest's entries did not come."""

    # -- suspicion -----------------------------------------------------------------------------

    def look(self) -> None:
        """Time has passed: is the leader's up?"""
        core = self._core
        now = core.now.mono
        late = now >= core.pace.deadline
        if not late and core.pace.may_be_overdue(now):
            late = core.pool.overdue(core.now, core.settings.time_out)
        if core.vows.lost:
            return
        if late and not core.pace.suspecting:
            core.emit("council.suspects", term=core.term, leader=core.leader)
            self._said_at = -1e9
            core.pace.suspect()
        core.pace.suspecting = late
        self.say()

    def say(self) -> None:
        """Say, or say again, what is not answered."""
        core = self._core
        now = core.now.mono
        if now < self._said_at + core.settings.retry:
            return
        if core.pace.suspecting:
            self._said_at = now
            core.broadcast(Suspicion(core.council.epoch, core.term, core.ratified.index))
        mine = core.vows.time_out
        if mine is not None and mine.said.term == core.term and core.opening is None:
            self._said_at = now
            told = core.pace.time_outs.get(core.seat)
            if told is not None:
                core.broadcast(told)

    def suspicion(self, seat: int, message: Suspicion) -> None:
        """Another member's timer has fired."""
        core = self._core
        core.pace.heard_suspicion(seat, message.term, core.now.mono)
        shown = self._shown.get(seat, -1e9)
        if message.ratified < core.ratified.index and core.now.mono >= self._pause(shown):
            self._shown[seat] = core.now.mono
            core.show_ratified(seat)
        if message.term < core.term:
            self.prove(seat)

    # -- time-outs -----------------------------------------------------------------------------

    def timed_out(self, seat: int, message: TimedOut) -> None:
        """A member has signed a time-out, and shows the certificate that it names."""
        core = self._core
        signed, said = message.signed, message.signed.said
        known = core.pace.time_outs.get(signed.seat)
        if signed.seat != seat or said.epoch != core.council.epoch:
            core.blame(seat, Fault.LIED, "sent a time-out that is not its own")
            return
        if known is not None and known.signed.said.term >= said.term:
            self._stale(seat, said.term)
            return
        named = message.certificate.said
        if (named.term, named.index, named.hash) != (said.high_term, said.index, said.hash):
            core.blame(seat, Fault.LIED, "sent a time-out without the certificate that it names")
            return
        if not self._is_signed(signed, seat):
            return
        certificate = core.checked(message.certificate, seat)
        if certificate is None:
            return
        core.pace.heard_time_out(TimedOut(signed, certificate))
        core.witness.timed_out(signed)
        core.learn(certificate, seat)
        self._stale(seat, said.term)

    def timed_outs(self, seat: int, message: TimedOuts) -> None:
        """The proof that a term has begun which nobody has opened for us yet."""
        core = self._core
        term = message.time_outs[0].said.term
        seats = sorted({signed.seat for signed in message.time_outs})
        if term <= core.term:
            return
        if len(seats) < core.council.quorum or len(seats) != len(message.time_outs):
            core.blame(seat, Fault.LIED, "sent too few time-outs, or one twice")
            return
        for signed in message.time_outs:
            if signed.said.term != term or signed.said.epoch != core.council.epoch:
                core.blame(seat, Fault.LIED, "sent time-outs of several terms")
                return
            if not self._is_signed(signed, seat):
                return
        self._heard_of(message.time_outs)
        self.sign(term)

    def _heard_of(self, time_outs: list[SignedTimeOut]) -> None:
        """Verified time-outs, also our own: one that is forgotten here tells of a lost state."""
        core = self._core
        for signed in time_outs:
            if signed.seat != core.seat:
                core.witness.timed_out(signed)
            elif signed.said.term > core.vows.term:
                core.lose("a time-out of this seat is forgotten here")

    def _is_signed(self, signed: SignedTimeOut, seat: int) -> bool:
        core = self._core
        if signed.seat < len(core.council.seats):
            key = core.council.seats[signed.seat].key
            message = signed_bytes(core.realm, signed.said)
            if core.verify(key, message, signed.signature):
                return True
        core.blame(seat, Fault.LIED, "sent a time-out with a false signature")
        return False

    def _stale(self, seat: int, term: int) -> None:
        """Who announces a term that is not above ours may lack its proof."""
        core = self._core
        if term < core.term or (term == core.term and core.opening is not None):
            self.prove(seat)

    def prove(self, seat: int) -> None:
        """Send a member the proof of our term, at most once a retry."""
        core = self._core
        if core.now.mono < self._pause(self._proved.get(seat, -1e9)):
            return
        self._proved[seat] = core.now.mono
        if core.opening is not None:
            if core.term > 1:
                core.send(seat, Opened(core.opening))
            return
        told = core.pace.of_term(core.term)
        if len(told) >= core.council.quorum:
            core.send(seat, TimedOuts([message.signed for message in told]))
        elif core.seat in core.pace.time_outs:
            core.send(seat, core.pace.time_outs[core.seat])

    def _pause(self, before: float) -> float:
        """When the same may be sent to the same member again: it asks no more often."""
        return before + self._core.settings.retry / 2

    def advance(self) -> bool:
        """Sign a time-out if the council has given up; whether the term changed."""
        core = self._core
        if not core.pace.changed:
            return False
        wanted = core.pace.wanted_term(core.now.mono)
        if wanted is None:
            return False
        if not self.sign(wanted):  # what must be held first is being fetched
            core.pace.changed = True
            return False
        return True

    def sign(self, term: int) -> bool:
        """Rule 3: sign a time-out for `term`, and enter it."""
        core = self._core
        if term <= core.term or not core.whole():
            return False
        self._enter(term)
        signed = core.vows.sign_time_out(term)
        if signed is not None:
            core.emit("council.timeout", term=term, leader=core.leader)
            self._show(signed, core.vows.high)
        return True

    def _show(self, signed: SignedTimeOut, certificate: Certificate) -> None:
        core = self._core
        told = TimedOut(signed, certificate)
        core.pace.heard_time_out(told)
        self._said_at = core.now.mono
        core.broadcast(told)

    def _enter(self, term: int) -> None:
        core = self._core
        core.pace.enter(term, core.now.mono)
        core.opening = None
        self._said_at = -1e9
        self._proved.clear()
        self._may_choose_at = core.now.mono + 2 * core.settings.retry

    # -- openings ------------------------------------------------------------------------------

    def try_open(self) -> bool:
        """As leader: open the term, if a quorum of time-outs and their entries are held."""
        core = self._core
        if core.opening is not None or core.leader != core.seat or core.vows.lost:
            return False
        told = core.pace.of_term(core.term)
        if len(told) < core.council.quorum or not core.whole():
            return False
        # Rule 3: any quorum whose entries could be fetched. Of the highest certificate, all of
        # them; if its entries do not come, whoever names it is left out.
        told.sort(key=lambda message: message.signed.said.rank)
        high = core.vows.high
        if high.said.term >= core.term:
            return False  # it was opened before, and its opening is lost: time will tell
        if told[-1].signed.said.rank > high.rank:
            self._fetching.ask(told[-1].signed.seat)
            if core.now.mono < self._may_choose_at:
                return False
        chosen = [message for message in told if message.signed.said.rank <= high.rank]
        if len(chosen) < core.council.quorum:
            return False
        chosen.sort(key=lambda message: message.signed.seat)
        time_outs = [message.signed for message in chosen[: core.council.quorum]]
        opening = Opening(core.council.epoch, core.term, high, time_outs)
        self._begin(opening)
        return True

    def opened(self, seat: int, message: Opened) -> bool:
        """The proof of how a term opened; whether this member has entered it by it."""
        core, opening = self._core, message.opening
        if opening.epoch != core.council.epoch or opening.term < core.term:
            return False
        if opening.term == core.term and core.opening is not None:
            return False
        certificate = core.checked(opening.certificate, seat)
        if certificate is None:
            return False
        opening = Opening(opening.epoch, opening.term, certificate, opening.time_outs)
        try:
            check_opening(core.realm, core.council, opening, core.verify)
        except BadCertificateError as error:
            core.blame(seat, Fault.LIED, f"sent an opening that proves nothing: {error}")
            return False
        self._heard_of(opening.time_outs)
        if opening.term > core.term:
            self._enter(opening.term)
        self._begin(opening)
        core.learn(certificate, seat)
        return True

    def _begin(self, opening: Opening) -> None:
        core = self._core
        core.effect(opening_record(opening))
        core.opening = opening
        core.floor = opening.certificate.said.head
        core.tip = min(core.floor.index, core.log.end.index)
        core.tip = max(core.tip, min(core.ratified.index, core.log.end.index))
        core.emit(
            "council.leader", term=core.term, leader=core.leader, own=core.leader == core.seat
        )

    # -- restart -------------------------------------------------------------------------------

    def resume(self, opening: Opening | None) -> None:
        """After a restart: the term that was signed in, and its opening if that was saved."""
        core = self._core
        term = max(1, core.vows.term, 0 if opening is None else opening.term)
        core.pace.enter(term, core.now.mono)
        core.pace.progress(core.now.mono)
        core.opening = opening if opening is not None and opening.term == term else None
        if core.opening is not None:
            core.floor = core.opening.certificate.said.head
        mine = core.vows.time_out
        if mine is not None and mine.said.term == term and core.opening is None:
            said = mine.said
            high = core.vows.high
            if (said.high_term, said.index, said.hash) == (*high.rank, high.said.hash):
                core.pace.heard_time_out(TimedOut(mine, high))
