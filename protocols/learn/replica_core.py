"""What every role of a replica stands on: its log, its seats, its timers, its effects.

The roles are parts of one machine (replica.py), each in a file: replica_primary.py,
replica_follower.py, replica_candidate.py. A replica is at most one of primary (`_lead`) and
candidate (`_stand`), and follows (`_stage`) where it is neither.
"""

from protocols.effects import Emit, Send
from protocols.learn.replica_lead import Lead
from protocols.learn.replica_log import Log
from protocols.learn.replica_messages import (
    PROTOCOL,
    Message,
    pack,
)
from protocols.learn.replica_ports import (
    MAX_STATE,
    MAX_STATE_BLOBS,
    NO_TERM,
    REPLICAS,
    Committed,
    Declined,
    Effect,
    Entry,
    Established,
    Following,
    GroupId,
    Installed,
    Release,
    ReplicaSettings,
    Saved,
    Seats,
    Snapshot,
    Term,
    Ticked,
)
from protocols.learn.replica_stage import Stage
from protocols.learn.replica_stand import Stand

_EMPTY = Snapshot(0, b"", ())
"""What a log without a snapshot begins from."""


def unbroken(seats: tuple[Seats, ...]) -> tuple[Seats, ...]:
    """The newest ones, down to the first gap."""
    found = seats[:1]
    for each in seats[1:]:
        if each.epoch != found[-1].epoch - 1:
            break
        found += (each,)
    return found


class Core:
    """Of one replica of one group."""

    def __init__(
        self,
        *,
        settings: ReplicaSettings,
        me: bytes,
        group: GroupId,
        seats: tuple[Seats, ...],
        first: int,
        born: int,
        saved: Saved,
        can_lead: bool,
    ) -> None:
        """`seats`: as in Turned, with at least one. `first`: the epoch in which the training was
        opened: there is none to seal before it. `born`: Birth.index (replica_birth.py), until
        which is known nobody is to construct one. `saved`: this group's rows of TABLE."""
        self._settings = settings
        self._me = me
        self._group = group
        self._seats = unbroken(seats)
        self._first = first
        self._born_at = born
        self._can_lead = can_lead
        self._effects: list[Effect] = []
        self._log = Log(group, self._put)
        self._log.load(saved)
        self._held: set[bytes] = set()
        self._applied = 0
        self._ticked: Ticked | None = None
        self._ticked_at = 0
        self._stage: Stage | None = None
        self._stand: Stand | None = None
        self._lead: Lead | None = None
        self._followed: tuple[Term, bytes | None] = (self._log.promised, None)
        self._heard_at = 0
        self._stand_at = 0
        self._beat_at = 0
        self._seen = self._log.promised
        self._refound: Snapshot | None = None
        self._orphaned = -1
        self._retired = False
        self._distrusted: set[bytes] = set()
        """Who lied in this epoch."""
        self._own_from: tuple[Term, int] = (NO_TERM, 0)
        """The term whose log we have, and after which index its primary wrote it itself."""
        self._awaits_tick = False
        """Whether it would stand, if its ledger were not old."""

    @property
    def leading(self) -> Term | None:
        """Its term, while Propose is taken."""
        return self._lead.term if self._lead is not None and self._lead.open else None

    @property
    def primary(self) -> bytes | None:
        """Who leads, as far as this replica knows."""
        return self._followed[1]

    @property
    def committed(self) -> int:
        """The highest index that it knows to be committed."""
        return self._log.committed

    @property
    def length(self) -> int:
        """The highest index that it has on disk."""
        return self._log.length

    @property
    def snapshot(self) -> Snapshot | None:
        """What its log begins from."""
        return self._log.snapshot

    @property
    def accepted(self) -> Term:
        """Of the primary whose log it has."""
        return self._log.accepted

    @property
    def promised(self) -> Term:
        """Below it everything is refused."""
        return self._log.promised

    @property
    def room(self) -> int:
        """Entries that may be proposed now: 0 where it does not lead."""
        if self._lead is None or not self._lead.open:
            return 0
        return self._settings.window - (self._log.length - self._log.committed)

    def blobs(self) -> frozenset[bytes]:
        """Digests that its log refers to, or is about to: what a driver must keep, whether or not
        anything of it is committed."""
        return frozenset(self._log.blobs()) | self._held

    def entry(self, index: int) -> Entry | None:
        """What stands at an index, where it is held."""
        held = self._log.base < index <= self._log.length
        return self._log.entry(index) if held else None

    # -- effects ------------------------------------------------------------------------------

    def _taken(self) -> list[Effect]:
        effects, self._effects = self._effects, []
        return effects

    def _put(self, effect: object) -> None:
        if isinstance(effect, Release):
            # They may be deleted: whoever needs one of them again has to fetch it.
            gone = {blob.digest for blob in effect.blobs}
            self._held -= gone
            if self._stage is not None:
                self._stage.forget(gone)
        self._effects.append(effect)  # type: ignore[arg-type]

    def _emit(self, kind: str, **fields: str | int) -> None:
        self._put(Emit(kind, {"group": self._group.number, **fields}))

    def _send(self, peer: bytes, message: Message, parts: list[bytes] | None = None) -> None:
        self._put(Send(peer, PROTOCOL, pack(self._group, message, parts or [])))

    # -- who is who ---------------------------------------------------------------------------

    @property
    def _newest(self) -> Seats:
        return self._seats[0]

    @property
    def _rank(self) -> int | None:
        """Ours in the newest epoch's group; None: we are of an older one."""
        replicas = self._newest.replicas
        return replicas.index(self._me) if self._me in replicas else None

    @property
    def _born(self) -> int:
        """Since when this disk remembers everything."""
        return max(self._born_at, self._log.since)

    @property
    def _whole(self) -> bool:
        """Rule 4: whether it remembers all that it may have said in the newest epoch."""
        return self._born < self._newest.began

    def _fresh(self, now: int) -> bool:
        """Rule 5: whether the newest tick is younger than the lease. How old it was when it came
        is what this machine's clock says; how old it became since, its monotonic one."""
        if self._ticked is None:
            return False
        age = max(0, self._ticked.unix_ms - self._ticked.tick_ms) + now - self._ticked_at
        return age <= self._settings.lease_ms

    def _candidate_of(self, term: Term) -> bytes | None:
        """Who alone may ask for a term, or be its primary; None: an epoch not known here."""
        for seats in self._seats:
            if seats.epoch == term.epoch and seats.replicas:
                return seats.replicas[term.number % REPLICAS]
        return None

    def _others(self) -> list[bytes]:
        """Of the newest three, who did not lie."""
        left = (peer for peer in self._newest.replicas if peer != self._me)
        return [peer for peer in left if peer not in self._distrusted]

    def _writer_of(self, index: int) -> bytes | None:
        """Who appended an entry: the primary whose log this is; None: one before it."""
        term, start = self._own_from
        if term != self._log.accepted or index <= start:
            return None
        return self._candidate_of(term)

    def _follow(self, term: Term, primary: bytes | None) -> None:
        if (term, primary) != self._followed:
            self._followed = (term, primary)
            self._put(Following(term, primary))

    # -- roles --------------------------------------------------------------------------------

    def _wait(self, now: int, last: Term) -> None:
        """Stand after a silence from here on: the next in rank after the candidate of `last` first,
        the others later, and itself at the end."""
        rank, settings = self._rank, self._settings
        turns = REPLICAS if rank is None else (rank - last.number - 1) % REPLICAS
        self._stand_at = now + settings.patience_ms + turns * settings.stagger_ms

    def _step_down(self, now: int, why: str) -> None:
        """Give up what was led or stood for, and drop what was on its way here."""
        lead, self._lead = self._lead, None
        self._drop_stage()
        self._stand = None
        self._wait(now, self._log.promised)
        if lead is None:
            return
        self._emit("learn.steps-down", epoch=lead.term.epoch, number=lead.term.number, why=why)
        self._follow(self._log.promised, None)
        for tag in lead.tags.values():
            self._put(Declined(tag, why))

    def _drop_stage(self) -> None:
        stage = self._stage if self._stand is None else self._stand.stage
        if stage is not None:
            stage.abandon()
            self._held.clear()  # they may go; whoever sends an entry again has them fetched again
        self._stage = None

    # -- the state machine --------------------------------------------------------------------

    def _reinstall(self) -> None:
        """Give the state machine the log from its beginning."""
        if self._log.base or self._applied:
            self._put(Installed(self._log.snapshot or _EMPTY))
        self._applied = self._log.base
        self._deliver()

    def _commit(self, index: int) -> None:
        if index > self._log.committed:
            self._log.committed = index
            self._deliver()

    def _deliver(self) -> None:
        lead = self._lead
        for index in range(self._applied + 1, self._log.committed + 1):
            entry = self._log.entry(index)
            tag = None if lead is None else lead.tags.pop(index, None)
            writer = self._writer_of(index)
            self._put(Committed(index, entry.body, entry.blobs, tag, writer))
        self._applied = max(self._applied, self._log.committed)

    def _establish(self, epoch: int) -> None:
        if epoch > self._log.established:
            self._log.establish(epoch)
            self._put(Established(epoch))

    def _fold(self, snapshot: Snapshot) -> None:
        if len(snapshot.state) > MAX_STATE or len(snapshot.blobs) > MAX_STATE_BLOBS:
            # Others could not take it: the log stays longer instead.
            self._emit("learn.too-large", bytes=len(snapshot.state), blobs=len(snapshot.blobs))
            return
        if self._log.base < snapshot.index <= self._applied and not self._log.damaged:
            self._log.fold(snapshot)
