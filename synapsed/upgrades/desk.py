"""What the owner has to say of upgrades: how they come into force here, and which of them."""

from typing import Literal

import trio

from protocols.changes import UpgradeChange
from protocols.cid import cid_text
from protocols.errors import RefusedError
from protocols.ledger.fold import LedgerState
from protocols.ledger.rollout import Version, version_of
from protocols.slots.abi import Slot
from synapsed.config.options import UpgradeMode
from synapsed.store import Store
from synapsed.transfer.limits import Room
from synapsed.transfer.pull import Puller
from synapsed.upgrades.memory import UnknownSlotError
from synapsed.upgrades.modules import FETCH_SECONDS, MAX_FETCH, LateError
from synapsed.upgrades.replay import Replayed, replay
from synapsed.upgrades.service import UpgradeService


class UnknownUpgradeError(RefusedError):
    """No upgrade of that name is proposed, tried or in force."""

    code = "unknown-upgrade"


class UpgradeDesk:
    """One daemon's. Raises UnknownSlotError, UnknownUpgradeError, StoreError."""

    def __init__(self, service: UpgradeService, store: Store, puller: Puller) -> None:
        self._service = service
        self._store = store
        self._puller = puller

    @property
    def _state(self) -> LedgerState:
        return self._service.ledger.ledger

    def set_mode(self, mode: UpgradeMode | None, slot: str | None = None) -> None:
        """In force at once, and kept: of one slot, or of all, whatever was said of single ones
        before. None is what the config says."""
        if slot is not None:
            self._slot(slot)
        self._service.set_mode(mode, slot)

    def accept(self, proposal: bytes) -> Version:
        """Let it run here, as far as the ledger has it run; ends a quarantine, too."""
        return self._say(proposal, "accept")

    def refuse(self, proposal: bytes) -> Version:
        """Run it never; said to everybody in a signed report in each stage that it is tried in."""
        return self._say(proposal, "refuse")

    def _say(self, proposal: bytes, said: Literal["accept", "refuse"]) -> Version:
        for slot, version in self._known():
            if version.proposal == proposal:
                self._service.say(slot, version, said)
                return version
        raise UnknownUpgradeError(
            f"{cid_text(proposal)} is no upgrade that is proposed, tried or in force",
            remedy="`synapsectl upgrade ls` lists them",
        )

    async def replay(self, slot: str, version: Version) -> Replayed:
        """Run the recorded batches of a slot through a version, and compare. Raises
        DamagedRecordingError, what pulling raises, and the jail's errors where the module cannot
        run at all."""
        found = self._slot(slot)
        if not version.native:
            await self._fetch(version)
        return await replay(self._service, found, version)

    def _slot(self, name: str) -> Slot:
        slot = self._service.slots.get(name)
        if slot is None:
            raise UnknownSlotError(
                f"there is no slot {name[:64]!r}",
                remedy="the slots are " + ", ".join(self._service.slots),
            )
        return slot

    def _known(self) -> list[tuple[str, Version]]:
        """Versions that the ledger's state names, with their slots; what is in force first."""
        state = self._state
        found = []
        for name, here in state.slots.items():
            found += [(name, each) for each in (here.current, *reversed(here.former))]
            if here.rollout is not None:
                found.append((name, here.rollout.candidate))
        accepted = ((each.proposal, each.change) for each in state.executions)
        proposed = ((cid, being.terms.change) for cid, being in state.open.items())
        for cid, change in (*accepted, *proposed):
            if isinstance(change, UpgradeChange) and change.slot in self._service.slots:
                found.append((change.slot, version_of(change, cid, 0)))
        return found

    async def _fetch(self, version: Version) -> None:
        try:
            with trio.fail_after(FETCH_SECONDS):
                await self._puller.pull(version.manifest, room=Room(MAX_FETCH))
        except trio.TooSlowError:
            raise LateError(
                "the module did not arrive", remedy="try again when peers are up"
            ) from None
