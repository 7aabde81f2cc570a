"""A small world of Replicas for the council's tests: a real, if tiny, ledger; disks that keep what
was saved; and a network that delivers, loses, delays and cuts as it is told.

One seed is one run. `World.run` checks the chain of every member against all others' as it goes.
"""

import heapq
import itertools
import random
from collections.abc import Callable, Sequence
from typing import TypeVar

from protocols.effects import Blame, Emit, Save, Send
from protocols.envelope import Verify
from protocols.errors import RefusedError
from protocols.ledger.chain import Head, Header, Spine
from protocols.ledger.council import (
    Certificate,
    Council,
    Instant,
    Kind,
    Seat,
    SignedTimeOut,
    Statement,
    TimeOut,
    check_certificate,
    check_guilt,
    signed_bytes,
)
from protocols.raft.log import ENTRY
from protocols.raft.messages import Signed, TimedOut, unpack
from protocols.raft.ports import (
    Accuse,
    Alarm,
    Behind,
    Event,
    Ratified,
    Ratify,
    Received,
    Settings,
    Start,
    Submitted,
)
from protocols.raft.replica import Replica
from protocols.raft.state import Vows, blank_state
from protocols.realm import Realm
from tests.gossip_kit import MacIdentity, mac_verify

M = TypeVar("M")
E = TypeVar("E")

NETWORK = "test"
GENESIS = b"genesis"
UNIX = 1_800_000_000_000
SKEW = 2_000
"""Milliseconds by which a tick may be off a member's clock."""
SETTINGS = Settings(time_out=1.0, tick=0.25, retry=0.0625, gap=0.002)


class ToyLedger:
    """Notes (`n...`, each once), ticks (`t` and 8 bytes), and the epoch's end (`e...`)."""

    def __init__(self, network: str = NETWORK, genesis: bytes = GENESIS) -> None:
        self._network = network
        self.spine = Spine.begin(network, genesis)
        self.epoch = 1
        self.time = 0
        self.seen: set[bytes] = set()

    @property
    def head(self) -> Head:
        return self.spine.head

    def apply(self, payload: bytes, verify: Verify) -> Header:
        kind = payload[:1]
        if kind == b"t":
            time = int.from_bytes(payload[1:], "big")
            if len(payload) != 9 or time <= self.time:
                raise RefusedError("a tick that does not rise")
            self.time = time
        elif kind not in (b"n", b"e") or payload in self.seen:
            raise RefusedError("no entry, or one that was there before")
        header = self.spine.next_header(self.epoch, payload)
        self.spine = self.spine.extended(self._network, header)
        self.seen.add(payload)
        if kind == b"e":
            self.epoch += 1
        return header

    def timely(self, payload: bytes, unix_ms: int) -> bool:
        if payload[:1] != b"t":
            return True
        return abs(int.from_bytes(payload[1:], "big") - unix_ms) <= SKEW

    def tick(self, unix_ms: int, *, idle: bool = False) -> bytes | None:
        if idle:
            return tick(max(unix_ms, self.time + 1))
        return tick(unix_ms) if unix_ms > self.time else None

    def copy(self) -> "ToyLedger":
        other = ToyLedger.__new__(ToyLedger)
        other.__dict__.update(self.__dict__)
        other.seen = set(self.seen)
        return other


REALM = Realm(NETWORK, ToyLedger().head.hash)


def tick(unix_ms: int) -> bytes:
    return b"t" + unix_ms.to_bytes(8, "big")


class ToyPool:
    """What was submitted here and is not ratified."""

    def __init__(self) -> None:
        self.waiting: dict[bytes, float] = {}
        self.hidden: set[bytes] = set()
        """What a censoring leader's pool does not give."""

    def take(
        self, ledger: ToyLedger, now: Instant, max_entries: int, max_bytes: int
    ) -> list[bytes]:
        found = [p for p in self.waiting if p not in ledger.seen and p not in self.hidden]
        return found[:max_entries]

    def overdue(self, now: Instant, time_out: float) -> bool:
        return any(now.mono - at > time_out for at in self.waiting.values())


def make_council(members: int, epoch: int = 1, beacon: bytes = bytes(32)) -> Council:
    identities = [MacIdentity(f"seat {n}") for n in range(members)]
    seats = tuple(
        Seat(who.peer_id, MacIdentity(f"key {n}").public_key, 1) for n, who in enumerate(identities)
    )
    return Council(epoch, beacon, seats, ToyLedger().head)


def signer(seat: int) -> Callable[[bytes], bytes]:
    return MacIdentity(f"key {seat}").sign


def sign_statement(
    council: Council, seat: int, kind: Kind, term: int, head: Head
) -> tuple[Statement, bytes]:
    said = Statement(kind, council.epoch, term, head.index, head.hash)
    return said, signer(seat)(signed_bytes(REALM, said))


def sign_time_out(council: Council, seat: int, term: int, high: Certificate) -> SignedTimeOut:
    named = high.said
    said = TimeOut(council.epoch, term, named.term, named.index, named.hash)
    return SignedTimeOut(seat, said, signer(seat)(signed_bytes(REALM, said)))


def certify(
    council: Council, kind: Kind, term: int, head: Head, seats: Sequence[int]
) -> Certificate:
    signed = [sign_statement(council, seat, kind, term, head) for seat in seats]
    return Certificate(signed[0][0], sorted(seats), [signature for _, signature in signed])


class Node:
    """One member: its Replica, its disk, its ratified ledger, its pool."""

    def __init__(self, world: "World", seat: int) -> None:
        self.world = world
        self.seat = seat
        save = blank_state(world.council.seats[seat].key)
        self.disk: dict[bytes, bytes] = {save.key: save.value or b""}
        self.history: list[bytes] = []
        """The ratified payloads, which a Participant would have on its disk, too."""
        self.certificate: Certificate | None = None
        self.pool = ToyPool()
        self.up = False
        self.skew_ms = 0
        self.life = 0
        self.start()

    def start(self) -> None:
        self.up = True
        self.life += 1
        self.ledger = ToyLedger()
        for payload in self.history:
            self.ledger.apply(payload, mac_verify)
        self.replica = Replica(
            REALM,
            self.world.council,
            self.seat,
            signer(self.seat),
            mac_verify,
            ledger=self.ledger,
            ratified=self.certificate,
            pool=self.pool,
            settings=self.world.settings,
            saved=dict(self.disk),
        )
        self.handle(Start())

    def stop(self) -> None:
        self.up = False
        self.life += 1

    def handle(self, event: Event) -> None:
        if not self.up:
            return
        now = Instant(self.world.now, UNIX + int(self.world.now * 1000) + self.skew_ms)
        self.world.handled += 1
        for effect in self.replica.handle(event, now):
            if self.world.crash_before(self, effect):
                self.stop()
                return
            self.perform(effect)
        self.schedule()

    def schedule(self) -> None:
        wake = self.replica.wake_at()
        if wake is None:
            return
        life = self.life
        self.wake = wake

        def ring() -> None:
            if self.life == life and self.up and self.wake == wake:
                self.handle(Alarm())

        self.world.later(max(0.0, wake - self.world.now), ring)

    def perform(self, effect: object) -> None:
        world = self.world
        match effect:
            case Save(_, key, None):
                self.disk.pop(key, None)
            case Save(_, key, value):
                assert value is not None
                self.disk[key] = value
            case Send(peer, _, data):
                self.check_saved(data)
                world.send(self.seat, world.council.seat_of(peer), data)
            case Ratify(payloads, certificate, fold):
                self.extend(payloads, certificate)
                assert fold is None or vars(fold).keys() == vars(self.ledger).keys()
                assert fold is None or fold.head == self.ledger.head
                assert fold is None or fold.seen == self.ledger.seen
            case Behind(peer, _):
                life = self.life
                other = world.nodes[world.council.seat_of(peer) or 0]
                world.later(
                    world.round_trip(),
                    lambda: self.follow(other) if self.life == life else None,
                )
            case Accuse(guilt):
                check_guilt(REALM, world.council, guilt, mac_verify)
                world.accused.append((self.seat, guilt.seat))
            case Blame(peer, fault, why):
                world.blamed.append((self.seat, world.council.seat_of(peer), fault, why))
            case Emit(kind, fields):
                world.told.append((world.now, self.seat, kind, fields))
            case _:
                raise AssertionError(effect)

    def check_saved(self, data: bytes) -> None:
        """What a member says is on its disk already: a crash after this changes nothing."""
        message = unpack(data)[0]
        if isinstance(message, Signed) or (
            isinstance(message, TimedOut) and message.signed.seat == self.seat
        ):
            vows = Vows(REALM, self.world.council, self.seat, signer(self.seat), lambda _: None)
            vows.load(self.disk)
            assert not vows.lost
        if isinstance(message, Signed):
            said = message.said
            names = {key[-32:] for key in self.disk if key.startswith(ENTRY)}
            assert said.index <= self.ledger.head.index or said.hash in names
            if said.kind is Kind.ACK:
                assert vows.acked is not None
                assert (vows.acked.term, vows.acked.index) >= (said.term, said.index)
            else:
                assert vows.high.rank >= (said.term, said.index)
        elif isinstance(message, TimedOut) and message.signed.seat == self.seat:
            assert vows.time_out is not None
            assert vows.time_out.said.term >= message.signed.said.term

    def extend(self, payloads: Sequence[bytes], certificate: Certificate) -> None:
        check_certificate(REALM, self.world.council, certificate, mac_verify)
        for payload in payloads:
            self.ledger.apply(payload, mac_verify)
            self.history.append(payload)
            self.pool.waiting.pop(payload, None)
            self.world.on_ratified(self, payload)
        assert self.ledger.head == certificate.said.head
        self.certificate = certificate
        self.world.ratified(self, certificate)

    def follow(self, other: "Node") -> None:
        """What the Follower does: fetch what is ratified there, and tell the Replica."""
        if not (self.up and other.up) or self.world.cut(other.seat, self.seat):
            return
        news = other.history[len(self.history) :]
        if news and other.certificate is not None:
            self.extend(news, other.certificate)
            self.handle(Ratified(news, other.certificate))

    def submit(self, payload: bytes) -> None:
        self.pool.waiting.setdefault(payload, self.world.now)
        self.handle(Submitted())


class World:
    """Members, and messages on their way."""

    def __init__(
        self,
        members: int = 4,
        seed: int = 0,
        *,
        delay: tuple[float, float] = (0.005, 0.01),
        settings: Settings = SETTINGS,
    ) -> None:
        self.rng = random.Random(seed)
        self.now = 0.0
        self.settings = settings
        self.council = make_council(members)
        self.delay = delay
        self.loss = 0.0
        self.duplicate = 0.0
        self.cuts: set[tuple[int, int]] = set()
        self.filters: list[Callable[[int, int, bytes], bool]] = []
        """Each may drop a frame by answering False, or act on it."""
        self.order = itertools.count()
        self.queue: list[tuple[float, int, Callable[[], None]]] = []
        self.hashes: dict[int, bytes] = {}
        self.ratifications: list[tuple[float, int, Certificate]] = []
        self.accused: list[tuple[int, int]] = []
        self.blamed: list[tuple[int, int | None, str, str]] = []
        self.told: list[tuple[float, int, str, object]] = []
        self.crashing: dict[int, int] = {}
        self.handled = 0
        self.on_ratified: Callable[[Node, bytes], None] = lambda node, payload: None
        self.nodes: list[Node] = []
        for seat in range(members):
            self.nodes.append(Node(self, seat))

    # -- time and the network ------------------------------------------------------------------

    def later(self, seconds: float, what: Callable[[], None]) -> None:
        heapq.heappush(self.queue, (self.now + seconds, next(self.order), what))

    def run(self, seconds: float, until: Callable[[], bool] | None = None) -> bool:
        end = self.now + seconds
        while self.queue and self.queue[0][0] <= end:
            self.now, _, what = heapq.heappop(self.queue)
            what()
            if until is not None and until():
                return True
        self.now = end
        return False

    def round_trip(self) -> float:
        return sum(self.rng.uniform(*self.delay) for _ in range(2))

    def cut(self, sender: int, receiver: int) -> bool:
        return (sender, receiver) in self.cuts

    def isolate(self, seat: int) -> None:
        for other in range(len(self.nodes)):
            self.cuts |= {(seat, other), (other, seat)}

    def heal(self) -> None:
        self.cuts.clear()
        self.filters.clear()
        self.loss = self.duplicate = 0.0

    def send(self, sender: int, receiver: int | None, data: bytes) -> None:
        assert receiver is not None
        if self.cut(sender, receiver) or self.rng.random() < self.loss:
            return
        if not all(keep(sender, receiver, data) for keep in self.filters):
            return
        copies = 2 if self.rng.random() < self.duplicate else 1
        for _ in range(copies):
            self.later(
                self.rng.uniform(*self.delay),
                lambda: self.nodes[receiver].handle(Received(sender, data)),
            )

    def crash_before(self, node: Node, effect: object) -> bool:
        """Whether the node crashes now: `crashing` counts the effects until it does."""
        if node.seat not in self.crashing:
            return False
        self.crashing[node.seat] -= 1
        if self.crashing[node.seat] >= 0:
            return False
        del self.crashing[node.seat]
        return True

    # -- checks --------------------------------------------------------------------------------

    def ratified(self, node: Node, certificate: Certificate) -> None:
        """One ratified hash for each index, whoever says so."""
        said = certificate.said
        assert node.ledger.head == said.head
        assert self.hashes.setdefault(said.index, said.hash) == said.hash, (
            f"two ratified hashes at index {said.index}"
        )
        self.ratifications.append((self.now, node.seat, certificate))

    def agree(self) -> None:
        """No two histories contradict each other."""
        longest = max((node.history for node in self.nodes), key=len)
        for node in self.nodes:
            assert longest[: len(node.history)] == node.history, f"seat {node.seat} has forked"

    @property
    def leader(self) -> Node:
        return self.nodes[self.council.leader(max(node.replica.term for node in self.nodes))]

    def highest(self) -> int:
        return max(len(node.history) for node in self.nodes)

    def lowest(self) -> int:
        return min(len(node.history) for node in self.nodes if node.up)

    def submit(self, *payloads: bytes) -> None:
        for payload in payloads:
            for node in self.nodes:
                node.submit(payload)

    def everywhere(self, *payloads: bytes) -> Callable[[], bool]:
        return lambda: all(set(payloads) <= set(node.history) for node in self.nodes if node.up)
