"""One replica of one group in a wide world (learnwan.py): its log, its rounds, and their driver."""

import hashlib
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING

from protocols.effects import Blame, Emit, Save, Send
from protocols.learn.claims import MAX_DELTA
from protocols.learn.replica import Replica
from protocols.learn.replica_ports import Blob as LogBlob
from protocols.learn.replica_ports import (
    Committed,
    Declined,
    Fetch,
    Following,
    GroupId,
    Heard,
    Installed,
    Leading,
    Propose,
    ReplicaSettings,
    Seats,
    Stored,
    Ticked,
)
from protocols.learn.replica_ports import Tick as ReplicaTick
from protocols.learn.round_ports import (
    Advance,
    Aggregate,
    Aggregated,
    Contradicted,
    Distrust,
    Fold,
    Followed,
    Led,
    Lied,
    Release,
    RoundsSettings,
    Say,
    State,
    Tick,
)
from protocols.learn.round_ports import Committed as Folded
from protocols.learn.round_ports import Declined as NotTaken
from protocols.learn.round_ports import Propose as Offer
from protocols.learn.rounds import Rounds
from simnet.virtual.learncase import BEGAN_MS, EPOCH, WORK_S

if TYPE_CHECKING:
    from simnet.virtual.learnhome import Home


class Seat:
    """Of one home."""

    def __init__(self, home: "Home", group: int) -> None:
        self._home = home
        self._wan = home.wan
        self._group = group
        wan, replicas = home.wan, home.wan.seats(group, EPOCH)
        seats = Seats(EPOCH, (replicas[0], replicas[1], replicas[2]), 1, BEGAN_MS)
        self.replica = Replica(
            settings=ReplicaSettings(),
            me=home.me,
            group=GroupId(wan.model, group),
            seats=(seats,),
            first=EPOCH,
            born=0,
            saved={},
            can_lead=True,
        )
        settings = RoundsSettings(
            realm=wan.realm,
            model=wan.model,
            group=group,
            plan=wan.case.plan,
            genesis=wan.genesis(group),
            me=home.me,
            epoch=EPOCH,
            replicas=replicas,
            max_delta=MAX_DELTA,
        )
        self.rounds = Rounds(settings, home.key.sign, wan.verify, lambda _: None, home.now)

    def start(self) -> None:
        """Everything begins."""
        self._log_did(self.replica.start(self._home.now))

    def tick(self) -> None:
        """The ledger's."""
        unix = BEGAN_MS + self._home.now
        event = Ticked(2 + self._home.now // 1000, unix, unix)
        self._log_did(self.replica.handle(event, self._home.now))

    def tell(self, event: object) -> None:
        """An event of a group's machine."""
        for effect in self.rounds.handle(event, self._home.now):  # type: ignore[arg-type]
            self._rounds_do(effect)
        self._home.wake(f"rounds {self._group}", self.rounds.next_wake, lambda: self.tell(Tick()))

    def _log_did(self, effects: Iterable[object]) -> None:
        """What a replica's log wants."""
        for effect in effects:
            match effect:
                case Send(peer, _, data):
                    self._send_log(peer, data)
                case Fetch(peer, blobs):
                    self._home.shelf.fetch(peer, blobs, partial(self._stored, blobs))
                case Committed(index, body, _, tag, writer):
                    self.tell(Folded(body, tag, index, writer))
                case Declined(tag, _):
                    self.tell(NotTaken(tag))
                case Leading(term):
                    self.tell(Led(term))
                case Following(term, primary):
                    self.tell(Followed(term, primary))
                case Installed():
                    self._wan.wrong.append("a snapshot where nothing was lost")
                case Blame():
                    self._wan.wrong.append(f"blamed: {effect.why}")
                case _:
                    pass
        self._home.wake(
            f"log {self._group}",
            self.replica.next_wake,
            lambda: self._log_did(self.replica.handle(ReplicaTick(), self._home.now)),
        )

    def hear_log(self, peer: bytes, data: bytes) -> None:
        """Of another replica."""
        self._log_did(self.replica.handle(Heard(peer, data), self._home.now))

    def _stored(self, blobs: tuple[LogBlob, ...]) -> None:
        digests = tuple(blob.digest for blob in blobs)
        self._log_did(self.replica.handle(Stored(digests), self._home.now))

    def _send_log(self, peer: bytes, data: bytes) -> None:
        target = self._wan.home(peer)
        kind = "heartbeats" if len(data) < 160 else "log"

        def arrived() -> None:
            target.places[self._group].hear_log(self._home.me, data)

        self._wan.links.send(self._home.number, target.number, len(data), kind, arrived)

    def _rounds_do(self, effect: object) -> None:
        match effect:
            case Say(peer, message):
                self._home.say(peer, message)
            case Offer(body, blobs, tag):
                event = Propose(body, tuple(LogBlob(blob.digest, blob.size) for blob in blobs), tag)
                self._log_did(self.replica.handle(event, self._home.now))
            case Aggregate():
                self._aggregate(effect)
            case Advance(decided):
                self._wan.decided(self._group, decided)
            case Emit() | Save() | Release() | Fold():
                pass
            case Lied() | Distrust() | Contradicted():
                self._wan.wrong.append(f"an honest replica is distrusted: {effect!r:.200}")
            case Blame():
                self._wan.wrong.append(f"blamed: {effect.why}")

    def _aggregate(self, asked: Aggregate) -> None:
        shelf = self._home.shelf
        shelf.need(part.blob for part in asked.parts)
        blob = shelf.make(
            self._wan.sizes.result(self._group, asked.number), "result", asked.base, asked.parts
        )
        head = hashlib.sha256(asked.base + blob.digest).digest()
        shares = tuple(1000 // len(asked.parts) for _ in asked.parts)
        after = State(hashlib.sha256(b"state" + blob.digest).digest(), blob.size)
        event = Aggregated(asked.ticket, blob, head, shares, (), asked.before, after)
        self._wan.heap.after(WORK_S, self.tell, event)
