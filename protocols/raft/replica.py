"""The council's log at one seat, for one epoch: Raft's shape, with Byzantine quorums.

From Raft (Ongaro, Ousterhout, USENIX ATC 2014): terms, one stable leader, AppendEntries, one
contiguous log, saving before sending, snapshots. From HotStuff-2 (Malkhi, Nayak 2023), Jolteon
(Gelashvili and others, arXiv 2106.10362) and PBFT (Castro, Liskov, OSDI 1999): acknowledgements
are signatures, a quorum of them is a certificate, an entry is ratified when a quorum holds its
certificate, and a new leader proves where its term begins. The rules, and what happens without
each, are in docs/council.md; each is named where the code keeps it:

    1 one chain a term    raftstate.Vows.ack, raftmember
    2 floor               raftstate.Vows.ack
    3 leader and opening  raftterms, pacemaker, raftstate.Vows.sign_time_out
    4 opening head        raftleader._resume, raftmember.settle, raftstate.Vows.certificate_ack
    5 timer               pacemaker, raftcore.Core.advance, raftleader._take
    6 epoch               raftlog.Log.append
    7 lost state          raftstate.Vows.load, raftstart, raftcore.Core.remember_myself
    8 truncation          raftlog, raftleader

One Replica lives for one epoch; the next council's starts from this one's last ratification.
The events and effects are in raft/ports.py, the messages in raft/messages.py. Everything from
other seats is checked and bounded; `handle` raises for no input of theirs.
"""

from collections.abc import Mapping

from protocols.envelope import Sign, Verify
from protocols.errors import LimitError, MalformedError
from protocols.gossip.peerscore import Fault
from protocols.ledger.chain import Head
from protocols.ledger.council import (
    Certificate,
    Council,
    Instant,
)
from protocols.raft.core import Core, RaftEffect
from protocols.raft.fetch import Fetching
from protocols.raft.leader import Leader
from protocols.raft.member import Member
from protocols.raft.messages import (
    Append,
    Certified,
    Fetch,
    Fetched,
    Message,
    Opened,
    Signed,
    Suspicion,
    TimedOut,
    TimedOuts,
    epoch_of,
    unpack,
)
from protocols.raft.ports import (
    Alarm,
    Behind,
    Event,
    Installed,
    Ledger,
    PoolLike,
    Ratified,
    Received,
    Settings,
    Start,
    Submitted,
)
from protocols.raft.start import restore, stand
from protocols.raft.terms import Terms
from protocols.realm import Realm

POLLS = 4
"""Looks at the pool's overdue submissions in one time-out."""


class Replica:
    """The machine."""

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
        saved: Mapping[bytes, bytes],
    ) -> None:
        """`ratified` is the certificate of the ledger's head, if there is one; `saved` the table
        `council` as it was loaded."""
        self._core = Core(
            realm,
            council,
            seat,
            sign,
            verify,
            ledger=ledger,
            ratified=ratified,
            pool=pool,
            settings=settings,
        )
        self._saved = saved
        self._fetching = Fetching(self._core)
        self._member = Member(self._core, self._fetching)
        self._terms = Terms(self._core, self._fetching)
        self._leader: Leader | None = None
        self._retried_at = 0.0
        self._waiting = False
        """Whether something has no answer yet."""
        self._polled_at = 0.0
        self._told_at: dict[int, float] = {}
        """When a member of another epoch was last told so."""

    # -- what others ask -----------------------------------------------------------------------

    @property
    def term(self) -> int:
        """The current term."""
        return self._core.term

    @property
    def leader(self) -> int:
        """The seat that leads it."""
        return self._core.leader

    @property
    def leading(self) -> bool:
        """Whether that is this seat, and the term has opened."""
        return self._leader is not None

    @property
    def lost(self) -> str:
        """Rule 7: why this seat signs nothing, if so."""
        return self._core.vows.lost

    @property
    def ledger(self) -> Ledger:
        """The ratified ledger, which its owner advances."""
        return self._core.log.ledger

    @ledger.setter
    def ledger(self, ledger: Ledger) -> None:
        """Another object of the same, advanced by what was ratified."""
        self._core.log.ledger = ledger

    @property
    def ratified(self) -> Head:
        """The ratified head, as far as this member knows."""
        return self._core.ratified

    @property
    def high(self) -> Certificate:
        """The highest certificate whose entries are held."""
        return self._core.vows.high

    @property
    def end(self) -> Head:
        """The end of the log."""
        return self._core.log.end

    @property
    def over(self) -> bool:
        """Whether the epoch's last entry is ratified: the next council's turn."""
        return self._core.over

    # -- the machine ---------------------------------------------------------------------------

    def handle(self, event: Event, now: Instant) -> list[RaftEffect]:
        """What follows from `event`."""
        core = self._core
        core.now = now
        match event:
            case Received(seat, data):
                self._receive(seat, data)
            case Alarm():
                self._alarm()
            case Submitted():
                if self._leader is not None:
                    self._leader.wants()
            case Start():
                self._start()
            case Ratified(payloads, certificate):
                self._followed(list(payloads), certificate)
            case Installed(ledger, certificate):
                if ledger.head.index > core.ratified.index:
                    core.log.follow(ledger, core.vows.term)
                    self._followed([], certificate)
        self._move_on()
        self._waiting = not core.over and self._unanswered()
        if not self._waiting:
            self._retried_at = now.mono  # what is sent next has a whole period to be answered
        return core.take_effects()

    def _move_on(self) -> None:
        """What any event may have made possible."""
        core = self._core
        if core.over:
            self._leader = None
            return
        self._terms.advance()
        if self._leader is not None and self._leader.term != core.term:
            self._leader = None
        if self._terms.try_open():
            self._begin()
        elif self._leader is not None:
            self._leader.propose()

    def wake_at(self) -> float | None:
        """When (monotonic seconds) an `Alarm` is wanted."""
        core = self._core
        if core.over:
            return None
        wake = self._polled_at + core.settings.time_out / POLLS
        if not core.pace.suspecting and not core.vows.lost:
            wake = min(wake, core.pace.deadline)
        if self._leader is not None:
            wake = min(wake, self._leader.wake_at())
        if self._waiting:
            wake = min(wake, self._retried_at + core.settings.retry)
        return wake

    def _unanswered(self) -> bool:
        core = self._core
        return (
            core.pace.suspecting
            or core.opening is None
            or core.behind is not None
            or core.wanted is not None
            or self._fetching.pending
            or self._member.owes()
        )

    def _alarm(self) -> None:
        core = self._core
        now = core.now.mono
        self._polled_at = now
        if core.over:
            return
        self._terms.look()
        if now >= self._retried_at + core.settings.retry:
            self._retried_at = now
            self._member.resend()
            self._fetching.ask_again()
        if self._leader is not None:
            self._leader.resend()

    # -- start and terms -----------------------------------------------------------------------

    def _start(self) -> None:
        core = self._core
        self._polled_at = self._retried_at = core.now.mono
        opening = restore(core, self._saved)
        self._saved = {}
        self._terms.resume(opening)
        stand(core)
        self._fetching.ask()
        self._begin()
        self._member.greet()

    def _begin(self) -> None:
        """The term has opened, as far as we know: take our part in it."""
        core = self._core
        self._leader = None
        self._member.begin()
        if core.opening is not None and core.leader == core.seat and not core.vows.lost:
            self._leader = Leader(self._core)
            self._leader.begin()

    # -- following -----------------------------------------------------------------------------

    def _followed(self, payloads: list[bytes], certificate: Certificate) -> None:
        """The ratified ledger was advanced or replaced: stand on it."""
        core = self._core
        head = core.log.ledger.head
        if head.index <= core.ratified.index:
            return
        acked = core.vows.acked_in(core.term)
        if acked is not None and acked.index <= head.index and self._is_among(acked, payloads):
            core.rooted = acked
        core.log.follow(core.log.ledger, core.vows.term)
        core.tip = min(core.tip, core.log.end.index)
        core.advance(certificate, head)
        if certificate.said.epoch == core.council.epoch:
            core.remember(certificate)
            core.remember_myself(certificate)
            core.hold(certificate)
        if acked is not None and acked.index > head.index and core.align(acked):
            core.tip = acked.index
        core.recheck()
        self._member.settle()

    def _is_among(self, acked: Head, payloads: list[bytes]) -> bool:
        """Whether what we acknowledged is what was ratified meanwhile (rule 1 goes on from it)."""
        log = self._core.log
        above = self._core.ratified.index
        skipped = above - (log.ledger.head.index - len(payloads))
        if not log.has(acked) or skipped < 0:
            return False
        ours = log.payloads(above, acked.index)
        return ours == payloads[skipped : skipped + len(ours)]

    # -- messages ------------------------------------------------------------------------------

    def _receive(self, seat: int, data: bytes) -> None:
        core = self._core
        if seat == core.seat or not 0 <= seat < len(core.council.seats):
            return
        try:
            message, parts = unpack(data)
        except LimitError as error:
            core.blame(seat, Fault.FLOOD, str(error))
            return
        except MalformedError as error:
            core.blame(seat, Fault.MALFORMED, str(error))
            return
        epoch = epoch_of(message)
        if epoch != core.council.epoch:
            self._other_epoch(seat, epoch, message)
        elif core.over:
            self._after_the_end(seat, message)
        else:
            if self._leader is not None:
                self._leader.heard(seat)
            self._take(seat, message, parts)

    def _take(self, seat: int, message: Message, parts: list[bytes]) -> None:
        match message:
            case Append() | Signed():
                self._of_a_term(seat, message, parts)
            case Certified():
                self._certified(seat, message.certificate)
            case Fetch():
                self._fetching.answer(seat, message)
            case Fetched():
                if self._fetching.fetched(seat, message, parts):
                    self._core.recheck()
                    self._member.settle()
                    self._member.look_again()
            case _:
                self._of_terms(seat, message)

    def _of_a_term(self, seat: int, message: Append | Signed, parts: list[bytes]) -> None:
        term = message.term if isinstance(message, Append) else message.said.term
        if term < self._core.term:
            self._terms.prove(seat)
        elif term == self._core.term:
            if isinstance(message, Append):
                self._member.append(seat, message, parts)
            elif self._leader is not None:
                self._leader.signed(seat, message)

    def _of_terms(self, seat: int, message: Suspicion | TimedOut | TimedOuts | Opened) -> None:
        match message:
            case Suspicion():
                self._terms.suspicion(seat, message)
            case TimedOut():
                self._terms.timed_out(seat, message)
            case TimedOuts():
                self._terms.timed_outs(seat, message)
            case Opened():
                if self._terms.opened(seat, message):
                    self._begin()

    def _certified(self, seat: int, stated: Certificate) -> None:
        core = self._core
        said = stated.said
        if (
            said.term < core.term
            and stated.rank <= core.vows.high.rank
            and not (stated.ratifies and said.index > core.ratified.index)
        ):
            return  # nothing new, and nothing to acknowledge: not worth its signatures
        certificate = core.checked(stated, seat)
        if certificate is None:
            return
        core.learn(certificate, seat)
        self._member.certified(certificate)
        self._member.look_again()
        if core.wanted is not None:
            self._fetching.ask(seat)

    # -- other epochs --------------------------------------------------------------------------

    def _other_epoch(self, seat: int, epoch: int, message: Message) -> None:
        """A member that is behind is shown how its epoch ended; from one ahead we follow."""
        core = self._core
        now = core.now.mono
        if now < self._told_at.get(seat, -1e9) + core.settings.retry:
            return
        self._told_at[seat] = now
        if epoch > core.council.epoch:
            peer = core.council.seats[seat].identity
            core.effect(Behind(peer, core.ratified.index + 1))
        elif not isinstance(message, Certified):
            core.show_ratified(seat)

    def _after_the_end(self, seat: int, message: Message) -> None:
        """Rule 6: nothing more is decided here; whoever does not know is told."""
        if isinstance(message, Fetch):
            self._fetching.answer(seat, message)
        elif not isinstance(message, Certified):
            self._other_epoch(seat, 0, message)
