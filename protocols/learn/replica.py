"""One replica of a tile group's log: three hold it, two of them decide, one of them leads.

Viewstamped replication in small (B. Liskov, J. Cowling, 2012), with promises as in Paxos (L.
Lamport, 2001), for machines that crash and do not lie. Rules of the group (CONSENSUS.md, section 2;
each was dropped in the simulator, docs/simulation.md says what then broke):

1. A grant is first a promise on disk: from then on lower terms are refused; *then* it reports.
2. A candidate takes the log with the highest (last accepted term, length), re-stamps it with its
   own term and commits it anew on two disks before anything else.
3. A primary writes to its own disk first, then sends; after a restart it asks for a new term.
4. A wiped replica neither grants nor acknowledges until the next epoch: `born` and `Seats.began`
   tell it and others that it is one (replica_birth.py).
5. Before a new epoch's group serves, two of the old three have sealed theirs: they have promised a
   term of the new epoch. Where two are lost, the epoch is forced: it begins after a lease counted
   by the ledger's ticks, and replicas whose newest tick is older than the lease, or whose ledger
   shows the new epoch, acknowledge nothing.

Every epoch of the ledger is a new group, also with the same three: so each begins with a seal and
with the log of the one before, and nothing depends on who is new.
"""

from protocols.effects import Blame
from protocols.errors import LimitError, MalformedError
from protocols.gossip.peerscore import Fault
from protocols.learn.replica_candidate import Candidate
from protocols.learn.replica_core import unbroken
from protocols.learn.replica_messages import (
    Append,
    Ask,
    Install,
    Leave,
    Promise,
    Pull,
    Report,
    Resign,
    Retire,
    Stale,
    unpack,
)
from protocols.learn.replica_ports import (
    REPLICAS,
    Able,
    Damaged,
    Distrusted,
    Effect,
    Event,
    Folded,
    Heard,
    Lost,
    Propose,
    Refound,
    Retired,
    Seats,
    Snapshot,
    Stored,
    Term,
    Tick,
    Ticked,
    Turned,
)


class Replica(Candidate):
    """One of the three of one group, or one that was until a later epoch is established.

    Construct (replica_core.Core), `start`, then `handle` every event; `next_wake` says when a Tick
    is due.
    """

    def start(self, now: int) -> list[Effect]:
        """Once, after construction: what the disk has, and what follows from it."""
        if self._log.damaged:
            self._emit("learn.replica-damaged", why=self._log.damaged)
        else:
            self._reinstall()
            self._begin_epoch(now)
        return self._taken()

    def handle(self, event: Event, now: int) -> list[Effect]:
        """`now` is any clock in ms that never goes back."""
        match event:
            case Heard(peer, data):
                self._heard(peer, data, now)
            case Tick():
                self._tick(now)
            case Turned(seats):
                self._turned(seats, now)
            case Ticked():
                self._ledger(event, now)
            case Propose():
                self._propose(event, now)
            case Stored(digests):
                self._held.update(digests)
                self._pump(now)
            case Folded(index, state, blobs):
                self._fold(Snapshot(index, state, blobs))
            case Able(can_lead):
                self._able(can_lead, now)
            case Lost(peer):
                self._lost(peer, now)
            case Distrusted(peer):
                self._distrust(peer, now)
            case Damaged(why):
                self._damage(why, now)
            case Refound(snapshot):
                self._refound = snapshot
                self._choose(now)
        return self._taken()

    @property
    def next_wake(self) -> int | None:
        """When it wants its Tick."""
        if self._retired or self._log.damaged:
            return None
        if self._lead is not None:
            return self._beat_at
        if self._stand is not None:
            return self._stand.ask_at
        if self._rank is None:
            return self._beat_at
        waits = self._awaits_tick or not self._can_lead or not self._whole
        return None if waits else self._stand_at

    # -- the ledger ---------------------------------------------------------------------------

    def _turned(self, seats: tuple[Seats, ...], now: int) -> None:
        newer = seats[0].epoch > self._newest.epoch
        if seats[0].epoch < self._newest.epoch:
            return
        self._seats = unbroken(seats)
        if newer:
            self._distrusted.clear()
        if newer and not self._log.damaged:
            self._begin_epoch(now)

    def _begin_epoch(self, now: int) -> None:
        """Rule 5: whoever knows of an epoch acknowledges nothing of the ones before."""
        epoch = self._newest.epoch
        if self._log.promised.epoch < epoch:
            self._step_down(now, "the epoch is over")
            self._log.promise(Term(epoch, 0))
            self._follow(self._log.promised, None)
        rank, settings = self._rank, self._settings
        self._heard_at = now
        self._beat_at = now + settings.beat_ms
        if rank is not None:
            # A primary that restarts asks at once (rule 3); so does who is to begin the epoch.
            mine = self._log.promised.number % REPLICAS == rank
            self._stand_at = (
                now if mine else now + settings.patience_ms + rank * settings.stagger_ms
            )
            self._maybe_stand(now)

    def _ledger(self, event: Ticked, now: int) -> None:
        self._ticked, self._ticked_at = event, now
        if self._log.damaged:
            self._log.begin_anew(event.index)
            self._reinstall()
            self._begin_epoch(now)
        elif self._lead is None and self._stand is None:
            self._maybe_stand(now)

    def _damage(self, why: str, now: int) -> None:
        self._emit("learn.replica-damaged", why=why)
        self._step_down(now, "its disk is damaged")
        self._log.damaged = why
        if self._ticked is not None:
            self._ledger(self._ticked, now)

    def _able(self, can_lead: bool, now: int) -> None:
        self._can_lead = can_lead
        if can_lead:
            self._stand_at = max(self._stand_at, now)
            self._maybe_stand(now)
        elif self._lead is not None:
            term = self._lead.term
            self._step_down(now, "it cannot compute")
            for peer in self._others():
                self._send(peer, Resign(term))
        elif self._stand is not None:
            self._step_down(now, "it cannot compute")

    # -- time, and leaving --------------------------------------------------------------------

    def _tick(self, now: int) -> None:
        if self._retired or self._log.damaged:
            return
        if self._lead is not None:
            if now >= self._beat_at:
                self._beat(now)
        elif self._stand is not None:
            if now >= self._stand.ask_at:
                self._ask(now)
        elif self._rank is None:
            if now >= self._beat_at:
                self._leave(now)
        else:
            self._maybe_stand(now)

    def _leave(self, now: int) -> None:
        """Ask the newest group whether it serves, so that ours may be forgotten."""
        self._beat_at = now + 2 * self._settings.beat_ms
        for peer in self._newest.replicas:
            self._send(peer, Leave(self._newest.epoch))

    def _may_leave(self, peer: bytes, message: Leave) -> None:
        if self._log.established >= message.epoch:
            self._send(peer, Retire(self._log.established))

    def _retire(self, peer: bytes, message: Retire) -> None:
        later = [seats for seats in self._seats if seats.epoch >= message.epoch]
        if self._rank is not None or not any(peer in seats.replicas for seats in self._seats):
            return
        if self._retired or not later or any(self._me in seats.replicas for seats in later):
            return
        self._drop_stage()
        self._log.erase()
        self._retired = True
        self._put(Retired())

    # -- messages -----------------------------------------------------------------------------

    def _heard(self, peer: bytes, data: bytes, now: int) -> None:
        if self._retired or self._log.damaged:
            return
        try:
            group, message, parts = unpack(data)
        except (MalformedError, LimitError) as error:
            self._put(Blame(peer, Fault.MALFORMED, error.message))
            return
        if group != self._group:
            return
        match message:
            case Append() | Install():
                if not self._gathered(peer, message, parts, now):
                    self._brought(peer, message, parts, now)
            case Report():
                self._reported(peer, message, now)
            case Leave():
                self._may_leave(peer, message)
            case Retire():
                self._retire(peer, message)
            case Ask() | Promise() | Stale() | Pull() | Resign():
                self._of_terms(peer, message, now)
