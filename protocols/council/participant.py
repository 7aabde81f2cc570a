"""One daemon's part in the ledger: it follows, submits, and serves in the council when elected.

    Start, Alarm                 begin, go on
    Received, PeerUp, PeerDown   what the network brings, of PROTOCOLS
    Submit                       something of our owner's        -> Send; Settled in the end
    Measured, Examined           round trips, and what a proposal names, as the service found it
    hear                         gossip of TOPICS: a verdict at once, and effects

    -> Save, Send, Publish, Emit, Blame (effects.py), Advanced, Settled, Examine

This is the machine that synapsed drives and simnet simulates: a Follower always, a Pool, and a
Replica while this daemon has a seat of the present epoch under its own seat key.

Rules of this file:
1. One ratified ledger, the follower's. What our seat ratifies is folded into it, and what we
   learn by following is told our seat, before either hears of anything else.
2. A seat signs only while the ledger is whole as the disk once proved it (follow/follower.py), and
   a new epoch has a new Replica, which starts from the epoch entry (rule 6 of the council).
3. Nothing that others send raises out of `handle`; only `Submit`, our owner's word, does.
"""

from collections.abc import Mapping, Sequence

import msgspec

from protocols.council import submitting
from protocols.council.errands import Errands, Examine, Finding, SeatKey
from protocols.council.pool import Pool
from protocols.council.poolitems import Gone, Item, Limits, Verified, is_lie
from protocols.council.submitting import Outbox
from protocols.effects import Blame, Effect
from protocols.envelope import Sign, Verify
from protocols.errors import LimitError, MalformedError, RefusedError, SynapseError
from protocols.follow import follower as follow
from protocols.follow import messages as followmessages
from protocols.follow import settings as followsettings
from protocols.follow.chain import Advanced, Fold, Replaced, fold_in_place
from protocols.follow.chain import Effects as FollowEffects
from protocols.follow.follower import Alarm, PeerDown, PeerUp, Start, earliest
from protocols.follow.load import Reader
from protocols.follow.log import TABLE as LEDGER_TABLE
from protocols.follow.log import EntryLog
from protocols.gossip.peerscore import Fault
from protocols.gossip.validation import Verdict
from protocols.ledger.council import Certificate, Guilt, Instant
from protocols.ledger.entries import NO_INTERVAL, Body, GuiltProof, Interval
from protocols.ledger.errors import InvalidEntryError
from protocols.ledger.fold import LedgerState
from protocols.ledger.signing import submit
from protocols.raft import messages as raftmessages
from protocols.raft import ports as raftports
from protocols.raft.core import RaftEffect
from protocols.raft.ports import TABLE as COUNCIL_TABLE
from protocols.raft.replica import Replica

PROTOCOLS: Mapping[str, int] = {
    followmessages.PROTOCOL: followmessages.MAX_FRAME,
    raftmessages.PROTOCOL: raftmessages.MAX_FRAME,
    submitting.PROTOCOL: submitting.MAX_FRAME,
}
"""What we speak, with the bytes of the largest frame."""
TOPICS = (followmessages.HEADS, submitting.SUBMISSIONS)
"""What is gossiped."""

LIFE_MS = 10 * 60 * 1000
"""Of what we submit by ourselves: longer than any stall that heals."""
ERRANDS_EVERY = 5.0
"""Seconds between two looks at what we owe the council."""
ERRANDS_AN_EPOCH = 20
"""... at least: five of them in its last quarter, when secrets are revealed."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How a participant behaves."""

    willing: bool = False
    """Whether it stands for the council."""
    following: followsettings.Settings = followsettings.Settings()
    council: raftports.Settings = raftports.Settings()
    """Its time-out is the ledger's; tick and retry shrink with it."""
    pool: Limits = Limits()


class Received(msgspec.Struct, frozen=True):
    """A frame of one of PROTOCOLS."""

    peer: bytes
    protocol: str
    data: bytes


class Submit(msgspec.Struct, frozen=True):
    """A submission, vote or approval of our owner's."""

    data: bytes


class Measured(msgspec.Struct, frozen=True):
    """Round trips in milliseconds, by peer."""

    round_trips: Mapping[bytes, int]


class Examined(msgspec.Struct, frozen=True):
    """What a proposal names could be fetched, is sound, or is improved; or not."""

    proposal: bytes
    holds: bool
    interval: Interval = NO_INTERVAL


Event = Start | Alarm | PeerUp | PeerDown | Received | Submit | Measured | Examined


class Settled(msgspec.Struct, frozen=True):
    """Effect: what our owner submitted is ratified in the entry at `index`, or never will be."""

    data: bytes
    index: int
    """0 where it will not."""
    error: InvalidEntryError | None


Effects = list[Effect | Advanced | Replaced | Settled | Examine]


class Participant:
    """The machine."""

    def __init__(
        self,
        network: str,
        genesis: bytes,
        me: bytes,
        sign: Sign,
        verify: Verify,
        *,
        seat_key: SeatKey,
        settings: Settings | None = None,
        read: Mapping[str, Reader] | None = None,
        log: EntryLog | None = None,
        ledger: LedgerState | None = None,
        fold: Fold = fold_in_place,
    ) -> None:
        """`me` is our peer id and `sign` signs as it. Raises GenesisError, WrongGenesisError."""
        self.settings = settings or Settings()
        self._me = me
        self._sign = sign
        self._key = seat_key
        self._verify = Verified(verify)
        self._read = dict(read or {})
        self.follower = follow.Follower(
            network,
            genesis,
            me,
            self._verify,
            settings=self.settings.following,
            read=self._read.get(LEDGER_TABLE),
            log=log,
            ledger=ledger,
            fold=fold,
        )
        self.pool = Pool(self.follower.ledger, self._verify, self.settings.pool)
        self.replica: Replica | None = None
        """Our seat's, while we have one."""
        self._outbox = Outbox(me)
        self._errands = Errands(me, seat_key, willing=self.settings.willing)
        self._errands_at = 0.0
        self._started = False
        self._seat_waits = False
        self._seated_in = 0
        self._replaced = False

    # -- queries -------------------------------------------------------------------------------

    @property
    def ledger(self) -> LedgerState:
        """The state that all ratified entries leave."""
        return self.follower.ledger

    @property
    def certificate(self) -> Certificate | None:
        """The newest ratification at or below the head."""
        return self.follower.certificate

    @property
    def seat(self) -> int | None:
        """The seat that we hold under our key in the present epoch."""
        number = self.ledger.council.seat_of(self._me)
        if number is None or self.ledger.council.seats[number].key != self._key.public_key:
            return None
        return number

    @property
    def leader(self) -> bytes | None:
        """Whom we take for the leader: our seat's, or that of the newest certificate's term."""
        council = self.ledger.council
        if self.replica is not None:
            return council.seats[self.replica.leader].identity
        newest = self.certificate
        term = newest.said.term if newest is not None and newest.said.epoch == council.epoch else 1
        return council.seats[council.leader(term)].identity

    @property
    def _time_out(self) -> float:
        return self.ledger.params["council.time_out_ms"] / 1000

    def wake_at(self) -> float | None:
        """When an Alarm is wanted (mono seconds)."""
        if self._seat_waits:
            return 0.0
        wake = earliest(self.follower.wake_at(), self._outbox.wake_at())
        if self._started:
            wake = earliest(wake, self._errands_at)
        if self.replica is not None:
            wake = earliest(wake, self.replica.wake_at())
            if self.replica.leading:
                wake = earliest(wake, self.pool.wake_at())
            wake = earliest(wake, self.pool.tell_at(self._time_out / 2))
        return wake

    # -- events --------------------------------------------------------------------------------

    def handle(self, event: Event, now: Instant) -> Effects:
        """What follows from an event. Raises only for Submit: InvalidEntryError, PoolFullError."""
        match event:
            case Received(peer, protocol, data):
                effects = self._receive(peer, protocol, data, now)
            case Submit(data):
                effects = self._submit(data, now)
            case Alarm():
                effects = self._alarm(now)
            case Start():
                self._started = True
                effects = self._follow(event, now)
            case PeerUp() | PeerDown():
                effects = self._follow(event, now)
            case Measured(round_trips):
                self._errands.round_trips = round_trips
                effects = []
            case Examined(proposal, holds, interval):
                self._errands.findings[proposal] = Finding(holds, interval)
                self._errands_at = now.mono
                effects = []
        return effects + self._to_leader(now)

    def hear(self, peer: bytes, kind: str, data: bytes, now: Instant) -> tuple[Verdict, Effects]:
        """What was gossiped on a topic of TOPICS."""
        if kind == followmessages.HEADS:
            verdict, effects = self.follower.hear(peer, data, now)
            return verdict, self._with_ledger(effects + self._fold_on(now), now)
        if kind == submitting.SUBMISSIONS:
            return self._hear_submission(peer, data, now)
        return Verdict.IGNORE, []

    def _receive(self, peer: bytes, protocol: str, data: bytes, now: Instant) -> Effects:
        if protocol == followmessages.PROTOCOL:
            return self._follow(follow.Received(peer, data), now)
        if peer in self.follower.strangers:
            return []  # another council's, or of a seat that it has in both
        if protocol == submitting.PROTOCOL:
            return self._take_items(peer, data, now)
        if self.replica is not None and protocol == raftmessages.PROTOCOL:
            seat = self.ledger.council.seat_of(peer)
            if seat is not None:
                effects = self._seat(raftports.Received(seat, data), now)
                return effects if self.follower.shares(peer) else _not_lies(effects, peer)
        return []

    def _alarm(self, now: Instant) -> Effects:
        effects: Effects = []
        if self._seat_waits:
            self._seat_waits = False
            if self.replica is not None:
                effects += self._seat(raftports.Submitted(), now)
        if _due(self.follower.wake_at(), now):
            effects += self._follow(Alarm(), now)
        if self.replica is not None and _due(self.replica.wake_at(), now):
            effects += self._seat(raftports.Alarm(), now)
        if self.replica is not None and self.replica.leading and _due(self.pool.wake_at(), now):
            self.pool.woken()
            effects += self._seat(raftports.Submitted(), now)
        if self._started and now.mono >= self._errands_at:
            epoch = self.ledger.params["council.epoch_ms"] / 1000
            self._errands_at = now.mono + min(ERRANDS_EVERY, epoch / ERRANDS_AN_EPOCH)
            effects += self._run_errands(now)
        return effects + self._send_again(now)

    # -- the ledger and our seat ---------------------------------------------------------------

    def _follow(self, event: follow.Event, now: Instant) -> Effects:
        effects = self.follower.handle(event, now)
        return self._with_ledger(effects + self._fold_on(now), now)

    def _fold_on(self, now: Instant) -> FollowEffects:
        """All of the range that is being folded, where our seat reads the same ledger: it must
        not see it half way. At most MAX_RANGE bytes: a tenth of a second of votes."""
        effects: FollowEffects = []
        while self.replica is not None and self.follower.chain.batch is not None:
            effects += self.follower.handle(Alarm(), now)
        return effects

    def _with_ledger(
        self, effects: FollowEffects, now: Instant, *, from_seat: bool = False
    ) -> Effects:
        """The follower's effects, and what follows for the pool and our seat."""
        out: Effects = []
        for effect in effects:
            if isinstance(effect, raftports.Accuse):
                out += self._accuse(effect.guilt, now)
                continue
            out.append(effect)
            if isinstance(effect, Replaced):
                self._replaced = True
                self.pool.ledger = self.ledger
                out += self._settle(self.pool.replaced())
            if isinstance(effect, Advanced):
                self.pool.ledger = self.ledger
                out += self._settle(self.pool.ratified(effect.first, effect.payloads))
                out += [] if from_seat else self._tell_ratified(effect, now)
                out += self._errands.questions(self.ledger)
        return out if from_seat else out + self._take_seat(now)

    def _tell_ratified(self, advanced: Advanced, now: Instant) -> Effects:
        """Our seat learns what we ratified by following."""
        if self.replica is None or self.ledger.epoch != self._seated_in:
            return []
        certificate = advanced.certificate
        told: raftports.Event = raftports.Ratified(advanced.payloads, certificate)
        if self._replaced:
            told, self._replaced = raftports.Installed(self.ledger, certificate), False
        return self._from_seat(self.replica.handle(told, now), now)

    def _take_seat(self, now: Instant) -> Effects:
        """A new Replica for a new epoch, if we have a seat in it."""
        epoch = self.ledger.epoch
        going_on = self.replica is not None and self._seated_in == epoch
        if going_on and self.follower.halted is None:
            return []
        self.replica = None
        self.follower.seated = False
        seat = self.seat
        if seat is None or not self._started or not self.follower.whole:
            return []
        council = self.ledger.council
        self.follower.seated = True
        self._seated_in = epoch
        saved = self._read.get(COUNCIL_TABLE)
        self.replica = Replica(
            self.ledger.realm,
            council,
            seat,
            self._key.sign,
            self._verify,
            ledger=self.ledger,
            ratified=self.certificate,
            pool=self.pool,
            settings=self._council_settings(),
            saved=dict(saved.items(b"")) if saved is not None else {},
        )
        return self._seat(raftports.Start(), now)

    def _council_settings(self) -> raftports.Settings:
        base, time_out = self.settings.council, self._time_out
        return msgspec.structs.replace(
            base,
            time_out=time_out,
            tick=min(base.tick, time_out / 4),
            retry=min(base.retry, time_out / 8),
        )

    def _seat(self, event: raftports.Event, now: Instant) -> Effects:
        assert self.replica is not None
        return self._from_seat(self.replica.handle(event, now), now) + self._take_seat(now)

    def _from_seat(self, effects: Sequence[RaftEffect], now: Instant) -> Effects:
        out: Effects = []
        for effect in effects:
            match effect:
                case raftports.Ratify(payloads, certificate):
                    out += self._learn(follow.Learnt(payloads, certificate), now)
                case raftports.Accuse(guilt):
                    out += self._accuse(guilt, now)
                case raftports.Behind(peer, index):
                    out += self._follow(follow.Told(peer, index), now)
                case _:
                    out.append(effect)
        return out

    def _learn(self, learnt: follow.Learnt, now: Instant) -> Effects:
        """Fold what our seat ratified, all of it: our seat reads the same ledger."""
        effects = self.follower.handle(learnt, now)
        return self._with_ledger(effects + self._fold_on(now), now, from_seat=True)

    # -- submissions ---------------------------------------------------------------------------

    def _submit(self, data: bytes, now: Instant) -> Effects:
        item = self.pool.add(data, now, mine=True)
        return [] if item is None else self._pass_on(item, now)

    def _pass_on(self, item: Item, now: Instant) -> Effects:
        self._tell_leader(item, now)
        self._outbox.keep(item.name, now.mono, self._time_out)
        return self._tell_seat(now)

    def _tell_leader(self, item: Item, now: Instant) -> None:
        """With the next frame to it; nothing where we lead ourselves."""
        self._outbox.put(item.data)
        self.pool.told(item, now.mono)

    def _to_leader(self, now: Instant) -> Effects:
        """What is due to whom we take for the leader by now."""
        leader = self.leader
        if self.replica is not None:
            self.pool.led_by(None if leader == self._me else leader, now.mono)
            for item in self.pool.to_tell(now.mono, self._time_out / 2):
                self._outbox.put(item.data)
        return list(self._outbox.flush(leader, now.mono))

    def _tell_seat(self, now: Instant) -> Effects:
        """Our seat looks at the pool when all that came with this is in it: one batch takes all."""
        del now
        self._seat_waits = self.replica is not None and self.replica.leading
        return []

    def _take_items(self, peer: bytes, data: bytes, now: Instant) -> Effects:
        try:
            items = submitting.unpack_items(data)
        except (MalformedError, LimitError) as error:
            return [Blame(peer, Fault.MALFORMED, f"submissions: {error}")]
        if self.replica is None:
            return []
        fresh = False
        for item in items:
            try:
                added = self.pool.add(item, now)
            except (InvalidEntryError, RefusedError) as error:
                if self._is_lie(peer, item, error):
                    return [Blame(peer, Fault.REJECTED, f"a submission: {error}")]
                continue
            if added is not None:
                fresh = True
                self._tell_leader(added, now)
        return self._tell_seat(now) if fresh else []

    def _hear_submission(self, peer: bytes, data: bytes, now: Instant) -> tuple[Verdict, Effects]:
        try:
            if self.replica is None:
                self.ledger.check_waiting(data, self._verify)
                return Verdict.ACCEPT, []
            added = self.pool.add(data, now)
        except (InvalidEntryError, RefusedError) as error:
            return Verdict.REJECT if self._is_lie(peer, data, error) else Verdict.IGNORE, []
        if added is None:
            return Verdict.ACCEPT, []
        self._tell_leader(added, now)
        return Verdict.ACCEPT, [*self._tell_seat(now), *self._to_leader(now)]

    def _is_lie(self, peer: bytes, data: bytes, error: SynapseError) -> bool:
        """Whether the ledger's refusal is also the fault of `peer`, who passed it on: what is
        signed for another ledger of our network's name is true to whoever follows that one."""
        wrong = isinstance(error, MalformedError | LimitError)
        realm = self.ledger.realm if self.follower.shares(peer) else None
        return wrong and is_lie(data, realm, self._verify)

    def _settle(self, gone: list[Gone]) -> Effects:
        effects: Effects = []
        for one in gone:
            if one.item.mine:
                self._outbox.settled(one.item.name)
                effects.append(Settled(one.item.data, one.index, one.error))
        return effects

    def _send_again(self, now: Instant) -> Effects:
        names = self._outbox.due(now.mono, self._time_out)
        items = []
        for name in names:
            item = self.pool.get(name)
            if item is None:
                self._outbox.settled(name)
            else:
                items.append(item.data)
        if not items:
            return []
        members = [seat.identity for seat in self.ledger.council.seats]
        return list(self._outbox.spread(items, members, gossip=self.replica is None))

    def _accuse(self, guilt: Guilt, now: Instant) -> Effects:
        return self._say(GuiltProof(proof=guilt), now)

    def _run_errands(self, now: Instant) -> Effects:
        effects: Effects = []
        for body in self._errands.bodies(self.ledger, now.mono):
            effects += self._say(body, now)
        return effects

    def _say(self, body: Body, now: Instant) -> Effects:
        """Submit something of our own; what the ledger does not want (any longer) is let be."""
        expires = self.ledger.time + LIFE_MS
        data = submit(self.ledger.realm, self._me, body, expires=expires, sign=self._sign)
        try:
            item = self.pool.add(data, now, mine=True)
        except (InvalidEntryError, RefusedError):
            return []
        return [] if item is None else self._pass_on(item, now)


def _due(at: float | None, now: Instant) -> bool:
    return at is not None and at <= now.mono


def _not_lies(effects: Effects, peer: bytes) -> Effects:
    """Without the blame for lying: a seat that has not shown its genesis yet may be honest about
    another ledger, in whose council it sits under the same key."""
    return [
        effect
        for effect in effects
        if not (isinstance(effect, Blame) and effect.peer == peer and effect.fault == Fault.LIED)
    ]
