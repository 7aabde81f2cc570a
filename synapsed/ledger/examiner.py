"""Whether what a proposal is about can be had: looked at, not believed.

A manifest must be fetched, be of the kind that the proposal states, and its files must be there:
of a model their headers and a few tiles at random, of anything else every byte. What is fetched
is not pinned, so the next `gc` takes it again.

An upgrade's module is checked, too: whether it does what its slot demands (upgrades/soundness.py);
a checkpoint is evaluated beside its parent (training/proof.py); and what somebody is accused of is
computed again (training/judge.py).

A member of the council says what it found as a verdict; a proposer is told before it submits.
"""

import logging
import random
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import trio

from protocols.changes import (
    AdoptionChange,
    Change,
    CheckpointChange,
    ExclusionChange,
    TrainingChange,
    UpgradeChange,
    touched,
)
from protocols.cid import cid_text
from protocols.council.errands import Examine, Finding
from protocols.errors import MalformedError, SynapseError
from protocols.ledger.entries import NO_INTERVAL
from protocols.manifest import Manifest, ProposalManifest, decode_manifest
from synapsed.authoring.question import CheckFailedError
from synapsed.control.problems import ArtefactUnavailableError
from synapsed.ledger.awaited import Awaited
from synapsed.models import NotAModelManifestError
from synapsed.process import supervise
from synapsed.training.judge import Judge
from synapsed.training.proof import Proof
from synapsed.transfer.limits import Room
from synapsed.transfer.plan import Part
from synapsed.transfer.pull import Puller
from synapsed.upgrades.soundness import Soundness

log = logging.getLogger(__name__)

PATIENCE_S = 1200.0
"""For all that one proposal is about, and all looks at it: an adapter of 100 MB at 1 Mbit/s."""
MAX_SIZE = 1 << 30
"""Bytes that are fetched for one proposal, only to look: a large adapter, or two."""
SAMPLE = 4
"""Tiles of a model that are fetched: whoever lacks half of them is found out 15 times in 16."""
TRIES, AGAIN_S = 3, 120.0
"""Looks at an artefact before a member says that it cannot be had, and seconds between them: its
holders may be asleep, and a verdict is not taken back."""
TRIES_OPEN = 8
"""... where a check came to no end, which says nothing about what it was of: an hour's overload of
this machine is waited for, and after that nothing is said at all."""
TRIES_SOON = 16
"""Looks beside those because somebody offers what is lacking, before the next one is due: a
checkpoint is proposed as soon as it is written, and its holders' announcements are on their way."""
AT_ONCE = 3
"""Proposals that are looked at together: one whose holders are slow holds up one place."""
MAX_WAITING = 512
"""Proposals that wait to be looked at: twice as many as can be open."""


class WrongKindError(MalformedError):
    """A manifest of another kind than is stated."""

    code = "wrong-kind"


class Budget:
    """What may be spent on one proposal: bytes, and seconds of looking."""

    def __init__(self) -> None:
        self.room = Room(MAX_SIZE)
        self.seconds = PATIENCE_S

    @contextmanager
    def spent(self) -> Iterator[None]:
        """Count the block's time. ArtefactUnavailableError where none is left."""
        began = trio.current_time()
        try:
            with trio.fail_after(max(0.0, self.seconds)):
                yield
        except trio.TooSlowError as error:
            raise ArtefactUnavailableError(
                f"it could not be fetched within {PATIENCE_S / 60:.0f} minutes"
            ) from error
        finally:
            self.seconds -= trio.current_time() - began


class Examiner:
    """Looks at artefacts, those of some proposals at a time, and tells `found` (proposal, holds).

    What a proposal may cost us is bounded whoever made it: strangers' proposals come here, too.
    """

    def __init__(
        self,
        puller: Puller,
        found: Callable[..., None],
        soundness: Soundness | None = None,
        tell: supervise.Emit | None = None,
        proof: Proof | None = None,
        *,
        judge: Judge | None = None,
    ) -> None:
        """`soundness` looks at upgrades; without it they are only fetched. `proof` evaluates
        checkpoints, and `judge` recomputes cases; without them nothing is said of these. `tell` is
        told of every verdict, and why it is one. `found` is given a proposal, whether it holds, and
        a checkpoint's interval."""
        self._puller = puller
        self._soundness = soundness
        self._proof = proof
        self._cases = judge
        self._tell = tell
        self._found = found
        self._places = trio.CapacityLimiter(AT_ONCE)
        self._asked: deque[Examine] = deque()
        self._under_way = 0
        self._wake = trio.Event()
        self._awaited = Awaited()

    def offered(self, cid: bytes) -> None:
        """Somebody announces it: what lacked it is looked at again soon."""
        self._awaited.offered(cid)

    def ask(self, question: Examine) -> None:
        """Look at it when its turn comes."""
        if len(self._asked) + self._under_way < MAX_WAITING:
            self._asked.append(question)
            self._wake.set()

    async def run(self) -> None:
        """Look at what was asked about until cancelled."""
        self._under_way = 0
        async with trio.open_nursery() as nursery:
            while True:
                while self._asked:
                    self._under_way += 1
                    nursery.start_soon(self._examine, self._asked.popleft())
                self._wake = trio.Event()
                await self._wake.wait()

    async def _examine(self, question: Examine) -> None:
        budget, tries, soon = Budget(), 0, TRIES_SOON
        wanted = _wanted(question.manifest)
        while True:
            async with self._places:
                finding, error = await self._finding(question, budget)
            tries += 1
            is_open = isinstance(error, CheckFailedError)
            if is_open:
                budget = Budget()  # all was there: the time went into looking at it
            elif error is None or isinstance(error, MalformedError):
                break
            if tries >= (TRIES_OPEN if is_open else TRIES):
                break
            wait = AGAIN_S * tries if is_open else AGAIN_S
            if await self._awaited.any_of(wanted if soon else (), wait):
                tries, soon = tries - 1, soon - 1  # one more than else
        self._under_way -= 1
        if is_open:
            log.warning("%s: no verdict: %s", cid_text(question.proposal), error)
            return
        if self._tell is not None:
            name, why = cid_text(question.proposal), "" if error is None else error.message
            self._tell("proposal.examined", proposal=name, holds=finding.holds, why=why)
        if finding.interval == NO_INTERVAL:
            self._found(question.proposal, finding.holds)
        else:
            self._found(question.proposal, finding.holds, finding.interval)

    async def _finding(
        self, question: Examine, budget: Budget
    ) -> tuple[Finding, SynapseError | None]:
        """What it is found to be, and why it does not hold; another look might find otherwise, but
        for a MalformedError."""
        change = question.manifest.change
        try:
            if isinstance(change, CheckpointChange):
                return await self._judge(question.proposal, change), None
            if isinstance(change, ExclusionChange):
                return await self._recompute(change), None
            await self.look(question.manifest, budget, thorough=True)
        except SynapseError as error:
            log.info("what a proposal is about does not hold: %s", error)
            return Finding(False), error
        return Finding(True), None

    async def _judge(self, proposal: bytes, change: CheckpointChange) -> Finding:
        if self._proof is None:
            raise CheckFailedError("this daemon evaluates no checkpoints")
        return await self._proof.judge(proposal, change)

    async def _recompute(self, change: ExclusionChange) -> Finding:
        if self._cases is None:
            raise CheckFailedError("this daemon recomputes no cases")
        return await self._cases.judge(change)

    async def look(
        self, proposal: ProposalManifest, budget: Budget | None = None, *, thorough: bool = False
    ) -> None:
        """Fetch what a proposal is about. ArtefactUnavailableError, or MalformedError where it is
        there and is something else, or, of an upgrade that is looked at `thorough`ly, is unsound.
        """
        budget = budget or Budget()
        change = proposal.change
        stated = _stated(change)
        with budget.spent():
            for cid in dict.fromkeys((*touched(change), *proposal.depends_on)):
                manifest = await self._fetch(cid, budget.room)
                kind = str(manifest.__struct_config__.tag)
                if stated.get(cid, kind) != kind:
                    raise WrongKindError(
                        f"{cid_text(cid)} is the manifest of a {kind}, no {stated[cid]}"
                    )
            if isinstance(change, UpgradeChange) and self._soundness is not None:
                look = self._soundness.look if thorough else self._soundness.fits
                await look(change, budget.room)

    async def _fetch(self, cid: bytes, room: Room) -> Manifest:
        puller = self._puller
        try:
            try:
                tiles, _ = await puller.learn(cid, room=room)
            except NotAModelManifestError:
                await puller.pull(cid, room=room)
            else:
                if tiles:
                    await puller.pull(cid, Part(tiles=_sample(tiles)), room=room)
            block = await trio.to_thread.run_sync(puller.store.get_block, cid)
        except MalformedError:
            raise
        except SynapseError as error:
            raise ArtefactUnavailableError(
                f"{cid_text(cid)} cannot be fetched: {error.message}",
                remedy="announce it, and keep a daemon that holds it up while it is voted on",
            ) from error
        return decode_manifest(block)


def _wanted(proposal: ProposalManifest) -> tuple[bytes, ...]:
    """What must be here to look at it."""
    change = proposal.change
    parent = (change.parent,) if isinstance(change, CheckpointChange) else ()
    return tuple(dict.fromkeys((*touched(change), *parent, *proposal.depends_on)))


def _stated(change: Change | None) -> dict[bytes, str]:
    """The kinds of the manifests that a change acts on, as it states them."""
    if isinstance(change, AdoptionChange):
        return {change.manifest: change.what}
    if isinstance(change, TrainingChange):
        return {change.model: "model", change.evaluation: "dataset"}
    if isinstance(change, CheckpointChange):
        return {change.manifest: "model", change.evidence: "dataset"}
    if isinstance(change, ExclusionChange):
        return {change.case: "dataset", change.evidence: "dataset"}
    return {}


def _sample(tiles: int) -> tuple[tuple[int, int], ...]:
    """Some tiles of so many; which ones, nobody can foresee."""
    chosen = random.SystemRandom().sample(range(tiles), min(SAMPLE, tiles))
    return tuple((tile, 1) for tile in sorted(chosen))
