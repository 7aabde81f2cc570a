"""A daemon of a tile group whose rounds are computed, by all three.

Above the log (tiledaemon.py) run the daemons' own rounds (protocols/learn/rounds.py). A worker's
result is a hash of what it was given, so that everybody can say what is true; it takes its time,
and now and then it fails.
"""

import hashlib
from collections.abc import Sequence

import msgspec

from protocols.codec import decode
from protocols.effects import Blame, Emit, Save, Send
from protocols.learn import messages, replica_ports
from protocols.learn.claims import Record, check_record
from protocols.learn.replica_ports import Blob as LogBlob
from protocols.learn.replica_ports import (
    Committed,
    Damaged,
    Declined,
    Distrusted,
    Event,
    Folded,
    Following,
    Leading,
    Propose,
    Retired,
    Seats,
    Snapshot,
    Turned,
)
from protocols.learn.round_ports import (
    Advance,
    Aggregate,
    Aggregated,
    Contradicted,
    Distrust,
    Fold,
    Followed,
    Heard,
    Installed,
    Led,
    Lied,
    NotAggregated,
    RoundsSettings,
    Say,
    State,
    Tick,
    record_key,
)
from protocols.learn.round_ports import Committed as Entry
from protocols.learn.round_ports import Declined as NotTaken
from protocols.learn.round_ports import Propose as Offer
from protocols.learn.roundlog import encode_body
from protocols.learn.rounds import Rounds
from protocols.ledger.council import Instant
from protocols.plan import Phase, Plan
from protocols.realm import Realm
from simnet.virtual.dice import dice
from simnet.virtual.node import Node
from simnet.virtual.tiledaemon import (
    ACK,
    ASK_BLOB,
    BLOB,
    BLOBS,
    START,
    FoldState,
    TileDaemon,
    blob_of,
    chained,
)

LEARN = messages.PROTOCOL
RECORDS, STATES, DISTRUST = "learn-records", "states", "distrust"
REALM = Realm("virtual", bytes(32))
GENESIS = hashlib.sha256(b"version 0").digest()
PLAN = Plan(
    phases=(Phase(1 << 20, 15, "ternary", "ternary"),),
    group_bytes=1 << 20,
    batch=8,
    context=64,
    rate=1000,
    decay=0,
    outer_rate=700,
    outer_momentum=500,
    learners=3,
    patience_ms=400,
)
WORK_S = (0.01, 0.3)
"""A worker's time for a round, from, to."""
FAILS = 0.1
"""How often it fails instead."""
LAST = 64
"""States of the fold that a snapshot may still be made of."""


class Kept(msgspec.Struct, frozen=True, array_like=True):
    """A snapshot: what tilechecks.py looks at, and the rounds' own state."""

    fold: FoldState
    standing: bytes


class Pushed(msgspec.Struct, frozen=True, array_like=True):
    """What a learner sends: its message and the delta's bytes."""

    frame: bytes
    content: bytes


def truth(asked: Aggregate) -> tuple[bytes, bytes, bytes]:
    """The contents of result and state after it, and the head, of what a worker is given."""
    said = repr((asked.number, asked.base, asked.parts, asked.before)).encode()
    head = hashlib.sha256(b"head" + said).digest()
    return b"result " + hashlib.sha256(said).digest(), b"state " + head, head


class RoundDaemon(TileDaemon):
    """One life of it."""

    def __init__(self, node: Node, seed: int, **more: object) -> None:
        self._rng = dice(seed, f"rounds {node.name} {node.lives}")
        self._working: list[tuple[float, Rounds, Aggregate]] = []
        self._folds: dict[int, FoldState] = {}
        self.epoch = 0
        self.rounds: Rounds | None = None
        super().__init__(node, **more)  # type: ignore[arg-type]

    # -- the node's program -------------------------------------------------------------------

    def received(self, peer: bytes, protocol: str, data: bytes, now: Instant) -> Sequence[object]:
        """Also what replicas and learners say of rounds."""
        if protocol == LEARN and self.rounds is not None:
            self._tell(Heard(peer, messages.unpack(data)), now)
        return super().received(peer, protocol, data, now)

    def alarm(self, now: Instant) -> Sequence[object]:
        """Somebody's Tick, or a worker that is done."""
        for each in [it for it in self._working if it[0] <= now.mono]:
            self._working.remove(each)
            _, rounds, asked = each
            if rounds is self.rounds:
                self._tell(self._worked(asked), now)
        if self.rounds is not None:
            wake = self.rounds.next_wake
            if wake is not None and wake <= now.mono * 1000:
                self._tell(Tick(), now)
        return super().alarm(now)

    def wake_at(self) -> float | None:
        """Whichever comes first."""
        times = [it[0] for it in self._working]
        if (log := super().wake_at()) is not None:
            times.append(log)
        if self.rounds is not None and self.rounds.next_wake is not None:
            times.append(self.rounds.next_wake / 1000)
        return min(times, default=None)

    def offer(self, body: bytes, now: Instant) -> None:
        """A learner pushes a delta."""
        pushed = msgspec.msgpack.decode(body, type=Pushed)
        if self.rounds is None or self.replica is None or self.replica.leading is None:
            return
        message = messages.unpack(pushed.frame)
        assert isinstance(message, messages.Push)
        digest = blob_of(pushed.content).digest
        self._out.append(Save(BLOBS, digest, pushed.content))
        self._tell(Heard(b"a learner", message), now)

    # -- rounds --------------------------------------------------------------------------------

    def _settings_of(self, seats: Seats) -> RoundsSettings:
        return RoundsSettings(
            realm=REALM,
            model=self._group.model,
            group=self._group.number,
            plan=PLAN,
            genesis=GENESIS,
            me=self._node.key.peer,
            epoch=seats.epoch,
            replicas=seats.replicas,
            max_delta=1 << 20,
            check=self._check,
        )

    def _check(self, record: Record) -> None:
        """Every daemon knows the seats of every epoch here."""
        replicas = self.seats_of(record.round.epoch)
        check_record(REALM, record, replicas, self._node.world.keys.verify)

    def seats_of(self, epoch: int) -> tuple[bytes, ...]:
        """As the ledger has them."""
        raise NotImplementedError

    def _new_rounds(self, now_ms: int) -> Rounds:
        node = self._node
        self.epoch = self._seats[0].epoch
        return Rounds(
            self._settings_of(self._seats[0]),
            node.key.sign,
            node.world.keys.verify,
            self._recall,
            now_ms,
        )

    def _recall(self, number: int) -> Record | None:
        key = record_key(self._group.model, self._group.number, number)
        row = self._node.disk.table(RECORDS).get(key)
        return None if row is None else decode(row, Record)

    def _construct(self, now: Instant) -> None:
        self._working.clear()
        self._folds = {0: START}
        if self._seats:
            self.rounds = self._new_rounds(int(now.mono * 1000))
        super()._construct(now)
        if self.replica is None:
            self.rounds = None
            return
        for key, _ in self._node.disk.table(DISTRUST).items():
            epoch, peer = int.from_bytes(key[:4], "big"), key[4:]
            if epoch == self._seats[0].epoch:
                self._event(Distrusted(peer), now)

    def _tell(self, event: object, now: Instant) -> None:
        if self.rounds is not None:
            now_ms = int(now.mono * 1000)
            for effect in self.rounds.handle(event, now_ms):  # type: ignore[arg-type]
                self._rounds_want(effect, now)

    def _rounds_want(self, effect: object, now: Instant) -> None:
        match effect:
            case Save() | Blame() | Advance() | Lied() | Emit():
                self._out.append(effect)
            case Say(peer, message):
                self._say(peer, message)
            case Offer():
                self._propose(effect, now)
            case Aggregate():
                wait = self._rng.uniform(*WORK_S)
                assert self.rounds is not None
                self._working.append((now.mono + wait, self.rounds, effect))
            case Fold(index, standing):
                self._cut_off(index, encode_body(standing), now)
            case Distrust(peer):
                epoch = self._seats[0].epoch
                self._out += [Save(DISTRUST, epoch.to_bytes(4, "big") + peer, b""), effect]
                self._event(Distrusted(peer), now)
            case Contradicted(why):
                self._out.append(effect)
                self._event(Damaged(why), now)

    def _say(self, peer: bytes, message: messages.Said) -> None:
        if not isinstance(message, messages.Acked | messages.Refused):
            self._out.append(Send(peer, LEARN, messages.pack(message)))

    def _propose(self, offer: Offer, now: Instant) -> None:
        blobs = tuple(LogBlob(it.digest, it.size) for it in offer.blobs)
        self._event(Propose(offer.body, blobs, offer.tag), now)

    def _worked(self, asked: Aggregate) -> Aggregated | NotAggregated:
        if self._rng.random() < FAILS:
            return NotAggregated(asked.ticket, "it died")
        if asked.before is not None and not self._has_state(asked.before):
            if asked.judging:
                self._ask_state(asked.before)
                return NotAggregated(asked.ticket, "the state is not here yet")
            asked = msgspec.structs.replace(asked, before=None)
        result, state, head = truth(asked)
        self._out.append(Save(BLOBS, blob_of(result).digest, result))
        self._out.append(Save(STATES, blob_of(state).digest, state))
        after = State(blob_of(state).digest, len(state))
        shares = tuple(1000 // len(asked.parts) for _ in asked.parts)
        blob = messages.Blob(blob_of(result).digest, len(result))
        return Aggregated(asked.ticket, blob, head, shares, (), asked.before, after)

    def _has_state(self, state: State) -> bool:
        return self._node.disk.table(STATES).get(state.digest) is not None

    def _ask_state(self, state: State) -> None:
        for seats in self._seats:
            for peer in seats.replicas:
                if peer != self._node.key.peer:
                    self._out.append(Send(peer, ASK_BLOB, state.digest))

    def _give(self, peer: bytes, digest: bytes) -> None:
        content = self._node.disk.table(STATES).get(digest)
        if content is not None:
            self._out.append(Send(peer, BLOB, content))
        else:
            super()._give(peer, digest)

    def _got(self, content: bytes, now: Instant) -> None:
        if content.startswith(b"state "):
            self._out.append(Save(STATES, blob_of(content).digest, content))
        else:
            super()._got(content, now)

    # -- the log -------------------------------------------------------------------------------

    def _perform(self, effects: Sequence[object], now: Instant) -> None:
        for effect in effects:
            match effect:
                case replica_ports.Installed(snapshot):
                    self._out.append(effect)
                    self._take_over(snapshot, now)
                case Retired():
                    self.rounds = None
                    super()._perform([effect], now)
                case _:
                    super()._perform([effect], now)
                    self._hand_on(effect, now)

    def _hand_on(self, effect: object, now: Instant) -> None:
        match effect:
            case Leading(term):
                self._tell(Led(term), now)
            case Following(term, primary):
                self._tell(Followed(term, primary), now)
            case Declined(tag):
                self._tell(NotTaken(tag), now)

    def _event(self, event: Event, now: Instant) -> None:
        if isinstance(event, Turned) and self.rounds is not None:
            seats = event.seats[0]
            if seats.epoch > self.epoch and self._node.key.peer in seats.replicas:
                self.epoch = seats.epoch
                self.rounds.turn(self._settings_of(seats), int(now.mono * 1000))
        super()._event(event, now)

    def _fold(self, entry: Committed, now: Instant) -> None:
        self._out.append(entry)
        state = self.fold
        assert entry.index == state.index + 1, f"{entry.index} after {state.index}"
        self.fold = FoldState(entry.index, chained(state.chain, entry.body), ())
        self._folds[entry.index] = self.fold
        if len(self._folds) > LAST:
            del self._folds[next(iter(self._folds))]
        if entry.tag is not None:
            index = entry.index.to_bytes(8, "big")
            self._out.append(Send(self._ledger, ACK, index + entry.body))
        self._tell(Entry(entry.body, entry.tag, entry.index, entry.writer), now)

    def _cut_off(self, index: int, standing: bytes, now: Instant) -> None:
        fold = self._folds.get(index)
        if fold is None or self.rounds is None:
            return
        pending = self.rounds.log.pending.values()
        needed = sorted({LogBlob(it.made.digest, it.made.size) for it in pending})
        state = msgspec.msgpack.encode(Kept(fold, standing))
        self._event(Folded(index, state, tuple(needed)), now)

    def _take_over(self, snapshot: Snapshot, now: Instant) -> None:
        self.rounds = self._new_rounds(int(now.mono * 1000))
        self._working.clear()
        self.fold = START
        if snapshot.index:
            kept = msgspec.msgpack.decode(snapshot.state, type=Kept)
            self.fold = kept.fold
        self._folds = {self.fold.index: self.fold}
        if snapshot.index:
            self._tell(Installed(kept.standing, snapshot.index), now)
        replica = self.replica
        if replica is not None and replica.leading is not None:
            self._tell(Led(replica.leading), now)
        elif replica is not None and replica.primary is not None:
            self._tell(Followed(replica.promised, replica.primary), now)
