"""What synapsed runs, as a node's program: the whole protocols/council/participant.py."""

from collections.abc import Sequence

from protocols.council import submitting
from protocols.council.errands import Examine, SeatKey
from protocols.council.participant import (
    Event,
    Participant,
    Received,
    Settings,
    Settled,
    Submit,
)
from protocols.effects import Blame, Emit, Publish, Save, Send
from protocols.errors import NotHeldError, RefusedError
from protocols.follow import follower as follow
from protocols.follow.chain import Advanced, Replaced
from protocols.follow.follower import Alarm, PeerDown, PeerUp, Start
from protocols.ledger.chain import Head
from protocols.ledger.council import Certificate, Instant
from protocols.ledger.entries import Founder, Note
from protocols.ledger.errors import InvalidEntryError
from protocols.ledger.fold import LedgerState
from protocols.ledger.genesis import compose
from protocols.ledger.signing import submit
from protocols.raft.replica import Replica
from protocols.records import DamagedRecordError
from simnet.virtual.case import Case
from simnet.virtual.clock import BEGAN_MS
from simnet.virtual.keys import Key
from simnet.virtual.kits import SeatKeys
from simnet.virtual.lessons import Lessons
from simnet.virtual.node import Node
from simnet.virtual.polls import Polls
from simnet.virtual.roles import Roles
from simnet.virtual.rollouts import Rollouts
from simnet.virtual.world import World

PERFORMED = (Save, Send, Publish, Emit, Blame, Settled)
"""What the world performs; the rest is for the service around a participant."""
FOUNDING = 1000
"""Reputation of each founder."""
LIFE_MS = 5 * 60 * 1000
"""Of a submission: longer than any run."""
PARAMETERS = {"work.bits": 0, "quota.newcomer": 100_000, "quota.trusted": 100_000}
"""Where a virtual network differs from the defaults: whoever submits here needs no leave to."""


class RealKit:
    """Participants on the real ledger."""

    network = "virtual"

    def __init__(self, case: Case, world: World, roles: Roles) -> None:
        self.world = world
        self.keys = SeatKeys(self.network, world, roles)
        self.audit = self.keys.audit
        self.polls = Polls(world, case.family.identities, FOUNDING)
        self.rollouts = Rollouts(world)
        self.lessons = Lessons(world)
        self.genesis = self._genesis(case)
        self._checkpoints = case.family.parameters.get("council.checkpoint_entries")
        self._first = LedgerState.from_genesis(self.network, self.genesis)
        self.time_out = self._first.params["council.time_out_ms"] / 1000
        false = len(roles.liars) + len(roles.forgetful)
        self.audit.council(self._first.council, false)

    def settings(self, node: Node) -> Settings:
        """Where checkpoints come often, newcomers begin at one, and every other daemon forgets
        what is before the last but one."""
        if self._checkpoints is None:
            return Settings(willing=True)
        following = follow.Settings(snapshot_gap=self._checkpoints, prune=node.number % 2 == 1)
        return Settings(willing=True, following=following)

    def _genesis(self, case: Case) -> bytes:
        founders = []
        reputation = self.polls.reputation()
        for number in range(case.size + case.family.newcomers):
            peer = self.world.keys.new(f"identity {number}").peer
            reputation[peer] = FOUNDING
            if number < case.size:
                founders.append(Founder(peer, self.keys.public(number), f"m{number}"))
        parameters = {**PARAMETERS, **case.family.parameters}
        return compose(
            self.network,
            BEGAN_MS,
            founders,
            reputation=reputation,
            humans={},
            parameters=parameters,
        )

    def prepare(self, node: Node) -> None:
        """The first seat key is in the genesis."""
        self.keys.make(node, b"0")

    def start(self, node: Node) -> "RealDaemon":
        """Its daemon."""
        key = self.keys.of(node)
        return RealDaemon(node, self, SeatKey(key.public, key.sign, key.public))

    def first(self) -> "RealDaemon":
        """One that has only the genesis."""
        key = self.world.keys.new("nobody")
        return self.start(Node(self.world, len(self.world.nodes), "", key, self.start))

    def ledger(self) -> LedgerState:
        """After the genesis."""
        return self._first.copy()


class RealDaemon:
    """A participant as a program."""

    def __init__(self, node: Node, kit: RealKit, key: SeatKey) -> None:
        self.node = node
        self.key = key
        self._kit = kit
        self._submitted = 0
        self._last = b""
        self._identity: Key = node.key
        read = {name: node.disk.table(name) for name in ("ledger", "council")}
        self.participant = Participant(
            kit.network,
            kit.genesis,
            node.key.peer,
            node.key.sign,
            node.world.keys.verify,
            seat_key=key,
            settings=kit.settings(node),
            read=read,
            ledger=kit.ledger(),
        )

    # -- as a program ---------------------------------------------------------------------------

    def handle(self, event: Event, now: Instant) -> list[object]:
        """What the participant answers, as far as the world performs it."""
        return self._own(self.participant.handle(event, now), now)

    def _own(self, effects: Sequence[object], now: Instant) -> list[object]:
        """Without those that only the service around it has to do with."""
        out: list[object] = []
        for effect in effects:
            if isinstance(effect, Examine):
                out += self.handle(self._kit.lessons.found(self.node, effect), now)
            elif isinstance(effect, Advanced):
                if self.node.honest:
                    self._kit.polls.ratified(self.node, effect.first, effect.payloads)
                    self._kit.rollouts.ratified(self.node, effect.first, effect.payloads)
                    self._kit.lessons.ratified(self.node, effect.first, effect.payloads)
            elif isinstance(effect, Replaced):
                self.node.world.tally["snapshot"] += 1
            elif isinstance(effect, PERFORMED):
                out.append(effect)
                if isinstance(effect, Settled) and effect.data == self._last:
                    self._last = b""
        return out

    def start(self, now: Instant) -> list[object]:
        """Begin with what the disk holds."""
        return self.handle(Start(), now)

    def received(self, peer: bytes, protocol: str, data: bytes, now: Instant) -> list[object]:
        """A frame."""
        return self.handle(Received(peer, protocol, data), now)

    def heard(self, peer: bytes, kind: str, data: bytes, now: Instant) -> list[object]:
        """Gossip."""
        _, effects = self.participant.hear(peer, kind, data, now)
        return self._own(effects, now)

    def linked(self, peer: bytes, up: bool, now: Instant) -> list[object]:
        """A connection."""
        return self.handle(PeerUp(peer) if up else PeerDown(peer), now)

    def alarm(self, now: Instant) -> list[object]:
        """Time."""
        return self.handle(Alarm(), now)

    def wake_at(self) -> float | None:
        """When it wants its alarm."""
        return self.participant.wake_at()

    # -- what the checks look at ------------------------------------------------------------------

    @property
    def ledger(self) -> LedgerState:
        """The ratified one."""
        return self.participant.ledger

    @property
    def head(self) -> Head:
        """The newest ratified entry."""
        return self.participant.ledger.head

    @property
    def certificate(self) -> Certificate | None:
        """What proves its head: while a range is being folded, that of the range."""
        batch = self.participant.follower.chain.batch
        return self.participant.certificate if batch is None else batch.proof.certificate

    @property
    def replica(self) -> Replica | None:
        """Of its seat."""
        return self.participant.replica

    def hash_at(self, index: int) -> bytes | None:
        """The chain hash of a ratified entry."""
        try:
            return self.participant.follower.chain.history.log.hash(index)
        except (NotHeldError, DamagedRecordError):
            return None

    @property
    def loaded(self) -> bool:
        """Whether it has read again what its disk holds."""
        return self.participant.follower.whole

    def leading(self) -> bytes | None:
        """Who leads, as a member sees it."""
        return None if self.participant.replica is None else self.participant.leader

    @property
    def able(self) -> bool:
        """Whether it can sign for a seat."""
        return self.participant.replica is not None and not self.participant.replica.lost

    def whisper(self, now: Instant) -> tuple[str, bytes] | None:
        """A note of its own, as it travels to one member."""
        del now
        return (submitting.PROTOCOL, submitting.pack_items([self._note()])[0])

    def _note(self) -> bytes:
        self._submitted += 1
        text = f"{self.node.name}, life {self.node.lives}, note {self._submitted}"
        return submit(
            self.ledger.realm,
            self.node.key.peer,
            Note(text=text),
            expires=self.ledger.time + LIFE_MS,
            sign=self.node.key.sign,
        )

    @property
    def waiting(self) -> bool:
        """Whether the last submission is not ratified yet."""
        return bool(self._last)

    @property
    def banned(self) -> list[bytes]:
        """Whom the ledger has proofs of guilt of."""
        return sorted(self.ledger.banned)

    def submit(self, now: Instant) -> list[object]:
        """A note of its own."""
        data = self._note()
        self._last = data
        try:
            return self.handle(Submit(data), now)
        except (InvalidEntryError, RefusedError) as error:
            self.node.world.tally[f"refused: {error.code}"] += 1
            return []
