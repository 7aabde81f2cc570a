"""Accusing whoever was caught: cases are published, and proposed to the council, by themselves.

A daemon accuses one at a time (ledger/exclusion.py allows no more), nobody whom somebody else is
accusing just then, and at most MAX_A_DAY in a day. The evidence stays published until the proposal
has its outcome.
"""

import logging
from collections import deque
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import msgspec
import trio

from protocols.changes import ExclusionChange
from protocols.cid import cid_of, cid_text
from protocols.errors import SynapseError
from protocols.gossip.announcement import DatasetBody
from protocols.learn.case import ABOUT, Case, SumCase, change_of, decided, number_of, pack
from protocols.ledger.entries import Proposal
from protocols.ledger.errors import InvalidEntryError, TooEarlyError
from protocols.ledger.exclusion import check_author, check_proposed
from protocols.manifest import DatasetManifest, FileRef, ProposalManifest, encode_manifest
from protocols.peerid import peer_id_text
from synapsed.models import import_artefacts
from synapsed.store.reasons import PUBLISHED
from synapsed.training.accuser import Accuser, Waiting
from synapsed.training.lineage import Lineage
from synapsed.training.opening import Opening

log = logging.getLogger(__name__)

LOOK_S = 2.0
"""Between two looks at what was caught: a case takes the council minutes."""
MAX_A_DAY = 8
"""Accusations of one daemon: beyond, it is more likely that this machine computes wrongly than that
so many others do."""
DAY_S = 86_400.0


class Proposed(msgspec.Struct, frozen=True):
    """A case that the ledger, or the council's pool, has."""

    proposal: bytes
    change: ExclusionChange
    until_ms: int
    """When it is given up, where the ledger never had it (the ledger's time)."""


SETTLED_MS = 3600 * 1000
"""A submission lives for less (state.MAX_LIFE_MS)."""


class Docket:
    """What this daemon has accused of."""

    def __init__(self) -> None:
        self.at: deque[float] = deque()
        """When, in the last day."""
        self.open: list[Proposed] = []


class Accusing(Opening):
    """The part of a daemon that proposes exclusions."""

    async def accuse_by_itself(self) -> None:
        """Propose what is caught here, when it may be. A task."""
        docket = Docket()
        while True:
            await trio.sleep(LOOK_S)
            if self._parts.ledger is not None and self._parts.ledger.loaded:
                await self.accuse_now(docket)

    async def accuse_now(self, docket: Docket) -> None:
        """Propose the next case, if it is time for one; let go what has its outcome."""
        docket.open = [each for each in docket.open if not await self._is_settled(each)]
        while docket.at and docket.at[0] < trio.current_time() - DAY_S:
            docket.at.popleft()
        service = self._parts.training
        for one in [] if service is None else list(service.lineages.values()):
            for who in list(one.accuser.waiting):
                if docket.open or len(docket.at) >= MAX_A_DAY:
                    return
                made = await self._accuse(one, who)
                if made is not None:
                    docket.at.append(trio.current_time())
                    docket.open.append(made)

    async def _is_settled(self, each: Proposed) -> bool:
        """Whether its proposal has ended; then its evidence need not be held up any more."""
        state = self._ledger.ledger
        waits = state.time < each.until_ms and each.proposal not in state.closed
        if each.proposal in state.open or waits:
            return False
        for cid in (each.change.case, each.change.evidence):
            self._parts.catalog.withdraw("dataset", cid)
            await trio.to_thread.run_sync(self._parts.store.unpin, cid, PUBLISHED)
        return True

    async def _accuse(self, one: Lineage, who: bytes) -> Proposed | None:
        """Propose a case, unless it is not its time, or of no use."""
        waiting = one.accuser.waiting[who]
        if trio.current_time() < waiting.not_before:
            return None
        if any(
            isinstance(it.terms.change, ExclusionChange) and it.terms.change.accused == who
            for it in self._ledger.ledger.open.values()
        ):
            return None  # somebody else did
        if not self._may(one.accuser, who, waiting.case):
            return None
        try:
            change = await self._publish_case(waiting)
            made = await self._propose_exclusion(change, waiting.case)
        except SynapseError as error:
            log.warning("accusing %s: %s", peer_id_text(who), error)
            made = None
        one.accuser.drop(who)
        return made

    def _may(self, accuser: Accuser, who: bytes, case: Case) -> bool:
        """Whether the ledger would take it now. What it never will is dropped."""
        state = self._ledger.ledger
        # Where it will stand does not matter here.
        change = change_of(case, cid_of(b"case"), cid_of(b"evidence"))
        try:
            check_author(state, self._parts.identity.peer_id, change)
            check_proposed(state, change)
        except TooEarlyError:
            return False
        except InvalidEntryError as error:
            log.info("not accusing %s: %s", peer_id_text(who), error)
            accuser.drop(who)
            return False
        return True

    async def _publish_case(self, waiting: Waiting) -> ExclusionChange:
        """Have the two datasets in the store, and announced. Raises what an import does."""

        def write() -> Path:
            path = waiting.folder / ABOUT
            path.write_bytes(pack(waiting.case))
            return path

        statement = await trio.to_thread.run_sync(write)
        every = await trio.to_thread.run_sync(lambda: sorted(waiting.folder.iterdir()))
        evidence = [path for path in every if path != statement]
        return change_of(
            waiting.case,
            await self._publish_files("case", [statement]),
            await self._publish_files("evidence", evidence),
        )

    async def _publish_files(self, name: str, paths: list[Path]) -> bytes:
        def described(files: Sequence[FileRef]) -> DatasetManifest:
            return DatasetManifest(name=name, description="A case", files=tuple(files))

        with self._parts.evictor.room() as room:
            take = partial(
                import_artefacts,
                self._parts.store,
                paths,
                None,  # the base is a version's file: its root is what the round names
                described,
                reason=PUBLISHED,
                make_room=room.make_from_thread,
            )
            cid, manifest = await trio.to_thread.run_sync(take)
        size = sum(ref.size for ref in manifest.files)
        self._parts.catalog.announce(DatasetBody(dataset=cid, name=name, size=size))
        return cid

    async def _propose_exclusion(self, change: ExclusionChange, case: Case) -> Proposed:
        its = decided(case)
        what = "sum" if isinstance(case, SumCase) else "round"
        who = peer_id_text(change.accused)
        manifest = ProposalManifest(
            title=f"Exclude {who[-8:]} for a wrong {what}",
            description=f"It signed a {what} of group {its.group}, for round {number_of(case)}, "
            "that its inputs do not make. Proposed by the daemon that recomputed it.",
            author=self._parts.identity.peer_id,
            depends_on=(),
            change=change,
        )
        data = encode_manifest(manifest)
        proposal = cid_text(cid_of(data))
        await self._say("proposal", Proposal(manifest=data), proposal, False, lambda _: None)
        self._parts.bus.emit(
            "training.accused",
            model=cid_text(change.training),
            accused=who,
            what=what,
            group=its.group,
            number=number_of(case),
            proposal=proposal,
        )
        until = self._ledger.ledger.time + SETTLED_MS
        return Proposed(cid_of(data), change, until)
