"""Proposals and votes of a run: everybody honest votes yes, and one voter with a thousand names no.

The thousand share one founder's reputation, a point each, and a few have none at all. Weight is
linear, so what they say together counts as what one founder says.

    sybil-weight    an outcome counts more against than the one founder's reputation
    one-outcome     an outcome does not add up
"""

from typing import NamedTuple, Protocol, cast

from protocols.changes import ParameterChange, Setting
from protocols.cid import cid_of
from protocols.council.participant import Event, Submit
from protocols.errors import RefusedError
from protocols.ledger import signing as ledger_signing
from protocols.ledger.council import Instant
from protocols.ledger.entries import (
    NO,
    YES,
    GuiltProof,
    Outcome,
    Proposal,
    Submission,
    decode_entry,
    encode_entry,
)
from protocols.ledger.errors import InvalidEntryError
from protocols.ledger.fold import LedgerState
from protocols.manifest import ProposalManifest, encode_manifest
from protocols.realm import Realm
from simnet.virtual.keys import Key
from simnet.virtual.node import Node
from simnet.virtual.world import ViolationError, World

WITHIN_S = 6.0
"""Everybody votes so long after the proposal was opened, at most."""
NAMELESS = 20
"""Of the names, how many have no reputation."""
LIFE_MS = 5 * 60 * 1000


class Owned(Protocol):
    """A daemon that its owner speaks to."""

    @property
    def ledger(self) -> LedgerState: ...

    def handle(self, event: Event, now: Instant) -> list[object]:
        """What its machine answers."""


class Question(NamedTuple):
    """What is voted on, and where."""

    realm: Realm
    proposal: bytes
    epoch: int


class Polls:
    """Watches the ledger for proposals, and has people vote on them."""

    def __init__(self, world: World, names: int, founding: int) -> None:
        self._world = world
        self._founding = founding
        self._chance = world.chance["polls"]
        self._seen = 0
        self.names: list[Key] = [world.keys.new(f"name {n}") for n in range(names)]

    def reputation(self) -> dict[bytes, int]:
        """What the genesis grants the names: one founder's, split among all but the last."""
        split = self.names[: max(0, len(self.names) - NAMELESS)]
        return {key.peer: self._founding // len(split) for key in split}

    # -- what stands on the ledger ----------------------------------------------------------------

    def ratified(self, node: Node, first: int, payloads: list[bytes]) -> None:
        """Entries that an honest daemon ratified; each is looked at once in a run."""
        for index, payload in enumerate(payloads, first):
            if index > self._seen:
                self._seen = index
                self._look(node, payload)

    def _look(self, node: Node, payload: bytes) -> None:
        entry = decode_entry(payload).entry
        self._world.tally[f"entry: {entry.__struct_config__.tag}"] += 1
        if isinstance(entry, Outcome):
            self._outcome(entry)
        elif isinstance(entry, Submission):
            if isinstance(entry.body, Proposal):
                self._everybody_votes(node, cid_of(entry.body.manifest))
            elif isinstance(entry.body, GuiltProof):
                self._world.tally["guilt"] += 1

    def _outcome(self, outcome: Outcome) -> None:
        self._world.tally[f"outcome: {outcome.reason}"] += 1
        self._world.tell("outcome", f"a proposal ends: {outcome.reason}")
        if outcome.no > self._founding:
            raise ViolationError(
                "sybil-weight",
                f"{len(self.names)} names with {self._founding} points count {outcome.no}",
            )
        if outcome.yes + outcome.no + outcome.abstain > outcome.weight:
            raise ViolationError("one-outcome", f"more weight voted than there is: {outcome!r}")

    # -- what people do ---------------------------------------------------------------------------

    def propose(self, node: Node, value: int) -> None:
        """Have a node's owner propose another upload limit."""
        change = ParameterChange(settings=(Setting("limits.upload", value),))
        manifest = ProposalManifest(
            title=f"{value} bytes a second",
            description="",
            author=node.key.peer,
            depends_on=(),
            change=change,
        )
        ledger = cast(Owned, node.program).ledger
        body = Proposal(manifest=encode_manifest(manifest))
        expires = ledger.time + LIFE_MS
        data = ledger_signing.submit(
            ledger.realm, node.key.peer, body, expires=expires, sign=node.key.sign
        )
        self._world.tell("people", f"proposes {value} bytes a second", node)
        self._submit(node, data)

    def _everybody_votes(self, node: Node, proposal: bytes) -> None:
        ledger = cast(Owned, node.program).ledger
        asked = Question(ledger.realm, proposal, ledger.epoch)
        after, draw = self._world.heap.after, self._chance.uniform
        for voter in self._world.nodes:
            if voter.honest:
                after(draw(0, WITHIN_S), self._vote, voter.number, voter.key, asked, YES)
        for key in self.names:
            place = self._chance.randrange(len(self._world.nodes))
            after(draw(0, WITHIN_S), self._vote, place, key, asked, NO)

    def _vote(self, place: int, key: Key, asked: Question, choice: int) -> None:
        vote = ledger_signing.cast(
            asked.realm,
            key.peer,
            asked.proposal,
            choice=choice,
            epoch=asked.epoch,
            number=1,
            sign=key.sign,
        )
        self._submit(self._world.nodes[place], encode_entry(vote))

    def _submit(self, node: Node, data: bytes) -> None:
        if node.program is None or not node.honest:
            return
        try:
            instant = node.clock.instant(self._world.now)
            effects = cast(Owned, node.program).handle(Submit(data), instant)
        except (InvalidEntryError, RefusedError) as error:
            self._world.tally[f"refused: {error.code}"] += 1
            return
        node.do(effects)
