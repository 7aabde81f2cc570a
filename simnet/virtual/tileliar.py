"""A tile group in which one daemon lies about rounds: no wrong one becomes a record.

The liar lies in most rounds that it proposes as a primary, signs them or not, makes up deltas and
entries, and sends garbage in place of signatures. Its log keeps to the rules of the log, whose
trouble the other families are. What must hold beside what tilechecks.py looks at:

    wrong-record   a record that is not what its inputs make, or whose inputs nobody sent
    two-records    two different rounds of one number
    two-heads      honest replicas that take different rounds for right
    framed         somebody is accused without its own signature, or somebody honest distrusted
    followed       somebody honest reports to who it found to lie, in the same epoch
    contradicted   an honest replica gives its log up as another than the group's
"""

from typing import cast

import msgspec

from protocols.codec import decode
from protocols.effects import Emit, Save, Send
from protocols.learn import messages
from protocols.learn.claims import (
    NOTHING,
    Claim,
    Endorsement,
    Input,
    Made,
    Record,
    Round,
    check_record,
    claim_message,
    round_message,
)
from protocols.learn.replica_messages import PROTOCOL as TILE
from protocols.learn.replica_messages import Report, unpack
from protocols.learn.round_ports import (
    Advance,
    Aggregate,
    Contradicted,
    Distrust,
    Lied,
    Part,
    State,
)
from protocols.learn.round_ports import Propose as Offer
from protocols.learn.roundlog import Closed, Taken, decode_body, encode_body
from protocols.ledger.council import Instant
from protocols.peerid import peer_id_text, public_key_of
from simnet.virtual.case import Case
from simnet.virtual.node import Node
from simnet.virtual.tilechecks import BEHIND, TileChecks
from simnet.virtual.tiledaemon import BLOBS, OFFER, blob_of
from simnet.virtual.tilerounds import (
    GENESIS,
    PLAN,
    REALM,
    RECORDS,
    Pushed,
    RoundDaemon,
    truth,
)
from simnet.virtual.tiletown import FIRST, MARGIN_MS, TileTown
from simnet.virtual.world import ViolationError

LEARNERS = 4
LIES = ("head", "result", "after", "shares", "leave-out", "invent", "drop", "unsigned", "nonsense")
LIE_SHARE = 0.7
"""Of a liar's proposals of rounds."""
MAKES_UP = 0.2
"""Of its proposals of deltas: it adds one that nobody signed."""
CONTENT = 40
"""Bytes of a delta."""
STALE = 0.1
"""Of what learners send: for a round before."""


class LyingDaemon(RoundDaemon):
    """It knows the truth, and says something else."""

    def _propose(self, offer: Offer, now: Instant) -> None:
        body = decode_body(offer.body)
        if isinstance(body, Closed) and self._rng.random() < LIE_SHARE:
            how = self._rng.choice(LIES)
            self._node.world.tally[f"lie: {how}"] += 1
            offer = self._lie(offer, body, how)
        elif isinstance(body, Taken) and self._rng.random() < MAKES_UP:
            self._node.world.tally["lie: made up"] += 1
            unsigned = msgspec.structs.replace(body.said, signature=bytes(64))
            invented = msgspec.structs.replace(body, said=unsigned)
            super()._propose(Offer(encode_body(invented), offer.blobs, -1), now)
        super()._propose(offer, now)

    def _lie(self, offer: Offer, closed: Closed, how: str) -> Offer:
        if how == "nonsense":
            return msgspec.structs.replace(offer, body=self._rng.randbytes(60))
        decided, blobs, dropped = closed.round, offer.blobs, closed.dropped
        other = self._rng.randbytes(32)
        match how:
            case "head" | "after":
                decided = msgspec.structs.replace(decided, **{how: other})
            case "result":
                self._out.append(Save(BLOBS, blob_of(other).digest, other))
                blobs = (messages.Blob(blob_of(other).digest, len(other)),)
                size = len(other)
                digest = blob_of(other).digest
                decided = msgspec.structs.replace(decided, result=digest, size=size)
            case "shares":
                first = msgspec.structs.replace(decided.inputs[0], share=999)
                inputs = (first, *decided.inputs[1:])
                decided = msgspec.structs.replace(decided, inputs=inputs)
            case "leave-out":
                decided = msgspec.structs.replace(decided, inputs=decided.inputs[1:])
            case "drop":
                dropped = (decided.inputs[0].digest,)
                decided = msgspec.structs.replace(decided, inputs=decided.inputs[1:])
            case "invent":
                extra = Input(decided.inputs[-1].learner, b"\xff" * 32, 250)
                decided = msgspec.structs.replace(decided, inputs=(*decided.inputs, extra))
        by = self._node.key.sign(round_message(REALM, decided))
        if how == "unsigned":
            decided = msgspec.structs.replace(decided, head=other)
            by = bytes(64)
        said = Closed(
            round=decided,
            by=Endorsement(self._node.key.peer, by),
            dropped=dropped,
            spread=closed.spread,
        )
        return msgspec.structs.replace(offer, body=encode_body(said), blobs=blobs)

    def _say(self, peer: bytes, message: messages.Said) -> None:
        if isinstance(message, messages.Endorse) and self._rng.random() < LIE_SHARE:
            self._node.world.tally["lie: garbage"] += 1
            message = msgspec.structs.replace(message, signature=self._rng.randbytes(64))
        super()._say(peer, message)


class LiarChecks(TileChecks):
    """With what one daemon may lie about."""

    def __init__(self, town: "LiarTown") -> None:
        super().__init__(town)
        self._liars = town
        self.records: dict[int, Round] = {}
        self.right: dict[int, Round] = {}
        """What honest replicas computed, or were shown to be right."""
        self._found: dict[int, tuple[int, float]] = {}
        """By node: the epoch in which it found the liar out, and when; since it started."""
        self._world.on_save.append(self._saved)
        self._world.on_crash.append(self._crashed)

    def everywhere(self) -> bool:
        """Of the honest ones: a liar is told nothing any more."""
        newest, last = self._town.seats[0], max(self.acked, default=0)
        for node in self._town.daemons:
            if node.key.peer in newest.replicas and node.honest:
                replica = self._town.daemon(node).replica
                if replica is None or replica.committed < last - BEHIND:
                    return False
        return True

    def sent(self, node: Node, effect: Send) -> None:
        """Also: to whom one reports."""
        super().sent(node, effect)
        epoch, since = self._found.get(node.number, (0, 0.0))
        if effect.peer != self._liars.liar.key.peer or effect.protocol != TILE or not epoch:
            return
        message = unpack(effect.data)[1]
        # What was said in the moment in which it found out was decided before.
        if isinstance(message, Report) and message.term.epoch == epoch and self._world.now > since:
            raise ViolationError("followed", f"{node.name} follows who lied to it")

    def _emitted(self, node: Node, emit: Emit) -> None:
        whose = emit.fields.get("primary") if emit.kind == "learn.wrong-result" else None
        if node.honest and whose == peer_id_text(self._liars.liar.key.peer):
            epoch = cast(RoundDaemon, node.program).epoch
            if self._found.get(node.number, (0, 0.0))[0] != epoch:
                self._found[node.number] = (epoch, self._world.now)
        super()._emitted(node, emit)

    def _crashed(self, node: Node) -> None:
        self._found.pop(node.number, None)

    def _saved(self, node: Node, save: Save) -> None:
        if save.table != RECORDS:
            return  # what is proven at the liar's is proven to everybody
        assert save.value is not None
        record = decode(save.value, Record)
        decided = record.round
        replicas = self._liars.replicas_of(decided.epoch)
        check_record(REALM, record, replicas, self._world.keys.verify)
        self._is_true(node, decided)
        known = self.records.setdefault(decided.number, decided)
        if _essence(known) != _essence(decided):
            raise ViolationError("two-records", f"{node.name}: of round {decided.number}")
        self._world.tally["record"] += 1

    def _is_true(self, node: Node, decided: Round) -> None:
        parts = tuple(
            Part(it.learner, messages.Blob(it.digest, CONTENT), 1) for it in decided.inputs
        )
        before = None
        if decided.before != NOTHING:
            last = self.records.get(decided.number - 1)
            if last is None or last.after != decided.before:
                raise ViolationError("wrong-record", f"{node.name}: of another state before")
            before = State(last.after, last.after_size)
        asked = Aggregate(0, decided.number, decided.parent, parts, PLAN, before)
        result, after, head = truth(asked)
        made = (blob_of(result).digest, head, blob_of(after).digest)
        shares = {it.share for it in decided.inputs}
        parent = self.records.get(decided.number - 1)
        expected = GENESIS if parent is None else parent.head
        sent = all(it.digest in self._liars.sent for it in decided.inputs)
        if (
            (decided.result, decided.head, decided.after) != made
            or shares != {1000 // len(parts)}
            or decided.parent != expected
            or not sent
        ):
            raise ViolationError(
                "wrong-record", f"{node.name} has a wrong round {decided.number} proven"
            )

    def _other(self, node: Node, effect: object) -> None:
        if node.honest:
            self._of_honest(node, effect)
        super()._other(node, effect)

    def _of_honest(self, node: Node, effect: object) -> None:
        match effect:
            case Advance(decided):
                known = self.right.setdefault(decided.number, decided)
                if _essence(known) != _essence(decided):
                    raise ViolationError("two-heads", f"{node.name}: round {decided.number}")
            case Lied(decided, by):
                message = round_message(REALM, decided)
                signed = self._world.keys.verify(public_key_of(by.replica), message, by.signature)
                if by.replica != self._liars.liar.key.peer or not signed:
                    raise ViolationError("framed", f"{node.name} accuses without a proof")
            case Distrust(peer) if peer != self._liars.liar.key.peer:
                raise ViolationError("framed", f"{node.name} distrusts the honest")
            case Contradicted(why):
                raise ViolationError("contradicted", f"{node.name}: {why}")


def _essence(decided: Round) -> tuple[object, ...]:
    return (decided.parent, decided.head, decided.result, decided.inputs, decided.after)


class LiarTown(TileTown):
    """One run."""

    checks: LiarChecks

    def __init__(self, case: Case, *, telling: bool = False, recording: bool = False) -> None:
        self.sent: set[bytes] = set()
        """Deltas of learners."""
        self._count = 0
        super().__init__(case, telling=telling, recording=recording)
        self.learners = [self.world.keys.new(f"learner {each}") for each in range(LEARNERS)]

    def _populate(self) -> None:
        super()._populate()
        self.liar = self._chance.choice(self.world.nodes[: self.case.size])
        self.liar.honest = False

    def _watch(self) -> LiarChecks:
        return LiarChecks(self)

    def _boot(self, node: Node) -> RoundDaemon:
        kind = RoundDaemon if node.honest else LyingDaemon
        made = kind(
            node,
            self.case.seed,
            group=self.group,
            first=FIRST,
            ledger=self.ledger.key.peer,
            settings=self.settings,
            margin_ms=MARGIN_MS,
            refounds=False,
        )
        made.seats_of = self.replicas_of  # type: ignore[method-assign]
        return made

    def replicas_of(self, epoch: int) -> tuple[bytes, ...]:
        """The three of an epoch."""
        return next((it.replicas for it in self.seats if it.epoch == epoch), ())

    def _offer(self) -> None:
        """A learner sends a delta from the newest version that is proven, to whoever leads."""
        self._count += 1
        proven = self.checks.records
        number = max(proven, default=-1) + 1
        if proven and self._chance.random() < STALE:
            number -= 1
        base = proven[number - 1].head if number else GENESIS
        content = (b"delta %d " % self._count).ljust(CONTENT, b".")
        digest = blob_of(content).digest
        self.sent.add(digest)
        key = self._chance.choice(self.learners)
        made = Made(self.group.number, number, base, digest, CONTENT)
        claim = Claim(
            model=self.group.model, learner=key.peer, steps=1, made=(made,), signature=bytes(64)
        )
        signature = key.sign(claim_message(REALM, claim))
        claim = msgspec.structs.replace(claim, signature=signature)
        push = messages.Push(said=claim, groups=(self.group.number,))
        data = msgspec.msgpack.encode(Pushed(messages.pack(push), content))
        for node in self.daemons:
            if node.program is not None:
                replica = self.daemon(node).replica
                if replica is not None and replica.leading is not None:
                    node.receive(self.ledger.key.peer, ("stream", OFFER, data))
        self.world.heap.after(self._chance.expovariate(self._rate), self._offer)

    def _goal(self) -> int:
        return len(self.checks.records)

    def _beyond(self, goal: int) -> bool:
        """Whether there are new records, too, that both honest ones have taken for right."""
        newest = self.seats[0].replicas
        numbers = [
            cast(RoundDaemon, node.program).rounds
            for node in self.daemons
            if node.honest and node.key.peer in newest and node.program is not None
        ]
        return all(it is not None and it.log.number > goal for it in numbers)


assert PLAN.learners <= LEARNERS
