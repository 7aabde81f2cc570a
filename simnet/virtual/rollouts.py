"""Upgrades of a run: proposed, adopted or undone, by honest reports and by lying ones.

Everybody honest votes for whatever is proposed, also for what is bad: what then keeps it from
settling is the rollout. What a module is worth is drawn with it; honest daemons report that, a
little off, and liars the contrary, in every stage and as loudly as a report allows.

    bad-settled     a module that is worse, traps, or shows it in the last stage only, is settled
    good-undone     a good one is taken back as worse or failing by a third of liars or less
    version-fell    a version's number is not the highest so far, or one more
"""

import hashlib
from typing import Literal, NamedTuple, cast

from protocols.changes import CallLimits, UpgradeChange
from protocols.cid import cid_of
from protocols.council.participant import Submit
from protocols.errors import RefusedError
from protocols.ledger import signing as ledger_signing
from protocols.ledger.entries import MAX_GAIN, Proposal, Report, StageEntry, decode_entry
from protocols.ledger.errors import InvalidEntryError
from protocols.ledger.fold import LedgerState
from protocols.ledger.rollout import FULL, SHADOW, Rollout, is_heard
from protocols.manifest import ProposalManifest, encode_manifest
from simnet.virtual.node import Node
from simnet.virtual.polls import Owned
from simnet.virtual.world import ViolationError, World

SLOTS = ("adapter_ranking", "eviction", "tile_assignment")
"""Those that no human key must approve."""
WORTH = ("good", "worse", "traps", "sleeper")
"""What modules are; a sleeper is good until everybody runs it."""
GOOD, WORSE, NOISE = 80_000, -300_000, 50_000
"""Gains, in millionths."""
WITHIN_S = 2.0
"""Everybody reports so long after a stage began, at most,"""
AGAIN_S = 1.0
"""... or tries it so much later where its daemon is down."""
TRIES = 10
LIFE_MS = 5 * 60 * 1000
EXPIRES_MS = 24 * 3600 * 1000

Status = Literal["ready", "measured", "failed"]


class Stage(NamedTuple):
    """One stage of one rollout."""

    slot: str
    proposal: bytes
    permille: int


class Rollouts:
    """Has people propose upgrades and daemons report on them; watches how they end."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._chance = world.chance["rollouts"]
        self._seen = 0
        self._worth: dict[bytes, str] = {}
        self._highest: dict[str, int] = {}
        self._reached: dict[bytes, int] = {}
        self._outnumbered: set[Stage] = set()
        """Stages in which more than a third of those heard lie."""

    # -- what people do ---------------------------------------------------------------------------

    def propose(self, node: Node, number: int) -> None:
        """Have a node's owner propose the run's `number`th upgrade."""
        ledger = cast(Owned, node.program).ledger
        slot = ledger.slot(SLOTS[number % len(SLOTS)])
        worth = self._chance.choice(WORTH)
        text = f"{worth} module {number}"
        change = UpgradeChange(
            slot=slot.slot,
            version=slot.highest + 1,
            abi=1,
            module=_hash(text),
            size=1000,
            limits=CallLimits(1_000_000, 1_000, 16),
            source=_hash(f"source of {text}"),
            previous=slot.current.module,
            expires=ledger.time + EXPIRES_MS,
            manifest=cid_of(text.encode()),
            risks="",
            benefits=text,
        )
        manifest = encode_manifest(
            ProposalManifest(
                title=text, description="", author=node.key.peer, depends_on=(), change=change
            )
        )
        self._worth[cid_of(manifest)] = worth
        self._world.tell("people", f"proposes a {text} for {slot.slot}", node)
        self._submit(node, node, Proposal(manifest=manifest))

    # -- what stands on the ledger ----------------------------------------------------------------

    def ratified(self, node: Node, first: int, payloads: list[bytes]) -> None:
        """Entries that an honest daemon ratified; each is looked at once in a run."""
        for index, payload in enumerate(payloads, first):
            if index > self._seen:
                self._seen = index
                entry = decode_entry(payload).entry
                if isinstance(entry, StageEntry):
                    self._stage(node, entry)

    def _stage(self, node: Node, entry: StageEntry) -> None:
        worth = self._worth[entry.proposal]
        self._world.tally[f"rollout: {entry.event}, {entry.reason}"] += 1
        self._world.tell("rollout", f"a {worth} module: {entry.event}, {entry.reason}")
        if entry.event == "open":
            self._reached[entry.proposal] = entry.permille
        else:
            reached = self._reached[entry.proposal]
            self._world.tally[f"{worth}: {entry.event} at {reached}"] += 1
        self._numbers(entry)
        if entry.event == "settle" and worth != "good":
            raise ViolationError("bad-settled", f"a {worth} module of {entry.slot} is settled")
        if entry.event == "rollback" and worth == "good" and entry.reason != "undecided":
            self._undone(entry)
        if entry.event == "open":
            rollout = cast(Owned, node.program).ledger.slot(entry.slot).rollout
            if rollout is not None and rollout.permille == entry.permille:
                self._everybody_reports(entry, rollout)

    def _numbers(self, entry: StageEntry) -> None:
        before = self._highest.get(entry.slot, 0)
        if entry.version not in (before, before + 1):
            raise ViolationError("version-fell", f"version {entry.version} after {before}")
        self._highest[entry.slot] = entry.version

    def _undone(self, entry: StageEntry) -> None:
        stages = [stage for stage in self._outnumbered if stage.proposal == entry.proposal]
        if not stages:
            raise ViolationError("good-undone", f"a good module is taken back as {entry.reason}")
        self._world.tally["outnumbered"] += 1

    # -- what daemons say -------------------------------------------------------------------------

    def _everybody_reports(self, entry: StageEntry, rollout: Rollout) -> None:
        stage = Stage(entry.slot, entry.proposal, entry.permille)
        running = {
            voter.key.peer: voter
            for voter in reversed(self._world.nodes)
            if is_heard(rollout, voter.key.peer)
        }
        liars = sum(not voter.honest for voter in running.values())
        if 3 * liars > rollout.expected:
            self._outnumbered.add(stage)
        for voter in running.values():
            delay = self._chance.uniform(0, WITHIN_S)
            self._world.heap.after(delay, self._report, voter.number, stage, TRIES)

    def _report(self, number: int, stage: Stage, tries: int) -> None:
        """One daemon's report; a liar's by way of whoever is up, as a lie needs no daemon."""
        voter = self._world.nodes[number]
        places = [voter] if voter.honest else [each for each in self._world.nodes if each.honest]
        up = [each for each in places if each.program is not None]
        if not up:
            if tries:
                self._world.heap.after(AGAIN_S, self._report, number, stage, tries - 1)
            return
        bad = self._worth[stage.proposal] in ("worse", "traps") or (
            self._worth[stage.proposal] == "sleeper" and stage.permille == FULL
        )
        traps = self._worth[stage.proposal] == "traps"
        if voter.honest:
            said = self._truth(stage, bad, traps)
        else:
            self._world.tally["lying report"] += 1
            said = _lie(stage, bad)
        self._submit(self._chance.choice(up), voter, said)

    def _truth(self, stage: Stage, bad: bool, traps: bool) -> Report:
        gain = (WORSE if bad else GOOD) + self._chance.randint(-NOISE, NOISE)
        if stage.permille == SHADOW:
            return _said(stage, "ready", 0, 0)
        return _said(stage, "measured", gain, 3 if traps else 0)

    def _submit(self, place: Node, author: Node, body: Proposal | Report) -> None:
        ledger: LedgerState = cast(Owned, place.program).ledger
        expires = ledger.time + LIFE_MS
        data = ledger_signing.submit(
            ledger.realm, author.key.peer, body, expires=expires, sign=author.key.sign
        )
        try:
            instant = place.clock.instant(self._world.now)
            effects = cast(Owned, place.program).handle(Submit(data), instant)
        except (InvalidEntryError, RefusedError) as error:
            self._world.tally[f"refused: {error.code}"] += 1
            return
        place.do(effects)


def _lie(stage: Stage, bad: bool) -> Report:
    """Of a bad module that it is wonderful, of a good one that it fails or costs everything."""
    if stage.permille == SHADOW:
        return _said(stage, "ready" if bad else "failed", 0, 0)
    return _said(stage, "measured", MAX_GAIN if bad else -MAX_GAIN, 0 if bad else 9)


def _said(stage: Stage, status: Status, gain: int, traps: int) -> Report:
    return Report(
        proposal=stage.proposal,
        stage=stage.permille,
        status=status,
        pairs=100,
        gain=gain,
        calls=100,
        traps=traps,
        disagreements=0,
        fuel=1000,
    )


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
