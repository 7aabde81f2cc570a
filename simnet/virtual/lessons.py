"""A training of a run and its checkpoints: proposed, evaluated by members, some of whom lie.

Everybody honest votes for whatever is proposed, also for what is worse: what then keeps it from
becoming the head is what members measure. What a checkpoint is worth is drawn with it; an honest
member measures that, a little off, and a liar says the contrary, as loudly as a verdict allows.

    worse-head      one that is worse, or equal, becomes the head
    better-refused  a better one is refused because members found it not to be
    false-gain      what the ledger remembers of a gain is beyond what honest members measured
"""

import hashlib
from typing import cast

from protocols.changes import CheckpointChange, TrainingChange
from protocols.cid import cid_of
from protocols.council.errands import Examine
from protocols.council.participant import Examined, Submit
from protocols.errors import RefusedError
from protocols.ledger import signing as ledger_signing
from protocols.ledger.entries import (
    MAX_GAIN,
    EpochEntry,
    Interval,
    Outcome,
    Proposal,
    Verdict,
    decode_entry,
)
from protocols.ledger.errors import InvalidEntryError
from protocols.ledger.fold import LedgerState
from protocols.ledger.training import is_judge
from protocols.ledger.voting import OpenProposal
from protocols.manifest import ProposalManifest, encode_manifest
from protocols.plan import Phase, Plan
from simnet.virtual.node import Node
from simnet.virtual.polls import Owned
from simnet.virtual.world import ViolationError, World

MODEL = cid_of(b"the model that everybody trains")
EVALUATION = cid_of(b"the text that it is judged by")
PLAN = Plan(
    phases=(Phase(1, 15, "int8", "int8"),),
    group_bytes=1 << 20,
    batch=8,
    context=64,
    rate=3000,
    decay=0,
    outer_rate=700,
    outer_momentum=500,
    learners=4,
    patience_ms=5000,
)
MARGIN = 10_000
"""Millionths of a nat."""
WORTH = {"better": 50_000, "equal": 0, "worse": -50_000}
NOISE, WIDTH = 5_000, 15_000
"""By which members' means differ, and half an interval."""
LIE = 400_000_000
"""A gain that a liar invents; of the contrary, too."""
WITHIN_S = 2.0
"""A liar says so within this of the epoch in which it may."""
LIFE_MS = 5 * 60 * 1000

assert LIE < MAX_GAIN
Body = Proposal | Verdict


class Lessons:
    """Has people propose checkpoints, and members evaluate them; watches how they end."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._chance = world.chance["lessons"]
        self._seen = 0
        self._worth: dict[bytes, str] = {}

    # -- what people do ---------------------------------------------------------------------------

    def propose(self, node: Node, number: int) -> None:
        """Have a node's owner propose the run's `number`th checkpoint; before there is a training,
        that."""
        ledger = cast(Owned, node.program).ledger
        if MODEL not in ledger.trainings:
            change = TrainingChange(
                model=MODEL, plan=PLAN, evaluation=EVALUATION, windows=64, margin=MARGIN
            )
            self._open(node, f"training {number}", change)
            return
        worth = self._chance.choice(tuple(WORTH))
        text = f"{worth} checkpoint {number}"
        child = CheckpointChange(
            training=MODEL,
            parent=ledger.head_of(MODEL),
            manifest=cid_of(text.encode()),
            evidence=cid_of(f"rounds of {text}".encode()),
            heads=hashlib.sha256(text.encode()).digest(),
            shares=(),
        )
        self._worth[self._open(node, text, child)] = worth

    def _open(self, node: Node, title: str, change: TrainingChange | CheckpointChange) -> bytes:
        manifest = encode_manifest(
            ProposalManifest(
                title=title, description="", author=node.key.peer, depends_on=(), change=change
            )
        )
        self._world.tell("people", f"proposes a {title}", node)
        self._submit(node, node, Proposal(manifest=manifest))
        return cid_of(manifest)

    # -- what members find ------------------------------------------------------------------------

    def found(self, node: Node, asked: Examine) -> Examined:
        """What a daemon finds out about what a proposal names."""
        worth = self._worth.get(asked.proposal)
        if worth is None:  # no checkpoint
            return Examined(asked.proposal, True)
        said = self._verdict(asked.proposal, worth, honest=node.honest)
        return Examined(asked.proposal, said.holds, said.interval)

    def _verdict(self, proposal: bytes, worth: str, *, honest: bool) -> Verdict:
        if honest:
            mean = WORTH[worth] + self._chance.randint(-NOISE, NOISE)
            interval = Interval(mean - WIDTH, mean, mean + WIDTH)
        else:
            mean = -LIE if worth == "better" else LIE
            interval = Interval(mean, mean, mean)
        holds = interval.low >= MARGIN
        return Verdict(proposal=proposal, claim="improved", holds=holds, interval=interval)

    # -- what stands on the ledger ----------------------------------------------------------------

    def ratified(self, node: Node, first: int, payloads: list[bytes]) -> None:
        """Entries that an honest daemon ratified; each is looked at once in a run."""
        for index, payload in enumerate(payloads, first):
            if index > self._seen:
                self._seen = index
                entry = decode_entry(payload).entry
                if isinstance(entry, EpochEntry):
                    self._liars_say(cast(Owned, node.program).ledger)
                elif isinstance(entry, Outcome) and entry.proposal in self._worth:
                    self._ended(entry)

    def _liars_say(self, ledger: LedgerState) -> None:
        for proposal, being in sorted(ledger.open.items()):
            if proposal in self._worth:
                for liar in self._lying(ledger, being):
                    delay = self._chance.uniform(0, WITHIN_S)
                    self._world.heap.after(delay, self._lie, liar.number, proposal)

    def _lying(self, ledger: LedgerState, being: OpenProposal) -> list[Node]:
        return [
            node
            for node in self._world.nodes
            if not node.honest and is_judge(ledger, being.terms, node.key.peer)
        ]

    def _lie(self, number: int, proposal: bytes) -> None:
        """By way of whoever is up: a lie needs no daemon."""
        up = [each for each in self._world.nodes if each.honest and each.program is not None]
        if up:
            self._world.tally["lying verdict"] += 1
            said = self._verdict(proposal, self._worth[proposal], honest=False)
            self._submit(self._chance.choice(up), self._world.nodes[number], said)

    def _ended(self, outcome: Outcome) -> None:
        worth = self._worth[outcome.proposal]
        self._world.tally[f"{worth}: {outcome.reason}"] += 1
        self._world.tell("checkpoint", f"a {worth} one ends: {outcome.reason}")
        holds, fails = outcome.fetchable
        if outcome.accepted and worth != "better":
            raise ViolationError("worse-head", f"a checkpoint that is {worth} becomes the head")
        if worth == "better" and outcome.reason == "not-improved" and fails > holds:
            raise ViolationError("better-refused", f"a better one is refused, {holds} to {fails}")
        if outcome.accepted and abs(outcome.interval.mean - WORTH[worth]) > NOISE:
            raise ViolationError("false-gain", f"a better one's gain is {outcome.interval}")

    def _submit(self, place: Node, author: Node, body: Body) -> None:
        ledger = cast(Owned, place.program).ledger
        data = ledger_signing.submit(
            ledger.realm,
            author.key.peer,
            body,
            expires=ledger.time + LIFE_MS,
            sign=author.key.sign,
        )
        try:
            instant = place.clock.instant(self._world.now)
            effects = cast(Owned, place.program).handle(Submit(data), instant)
        except (InvalidEntryError, RefusedError) as error:
            self._world.tally[f"refused: {error.code}"] += 1
            return
        place.do(effects)
