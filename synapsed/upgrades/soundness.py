"""A council member's look at a proposed upgrade: do its parts belong together, and is it sound?

The bytes are those that the proposal names, whoever supplied them: manifest, module and source each
bear the hash that is voted on. Then the module is checked (synapsed.authoring) against the version
that it would replace, with inputs that nobody can foresee.
"""

from collections.abc import Awaitable, Callable

import trio

from protocols.changes import NATIVE, UpgradeChange
from protocols.errors import MalformedError
from protocols.ledger.fold import LedgerState
from protocols.ledger.rollout import Version, version_of
from protocols.slots.abi import Limits
from synapsed.authoring.check import claims_change, slot_of
from synapsed.authoring.question import Checked, Question
from synapsed.store import Store
from synapsed.transfer.limits import Room
from synapsed.transfer.pull import Puller
from synapsed.upgrades.modules import (
    MixedUpError,
    Wanted,
    checked,
    read_file,
    read_module,
    upgrade_manifest,
)

Check = Callable[[Question], Awaitable[Checked]]
"""Raises CheckFailedError where it came to no end, which says nothing about the module."""

MOST_TIMES = {"fuel": 8, "fuel_per_row": 8, "memory_pages": 2}
"""Times the slot's own limits that a record may let a call take: one worker runs the modules of all
slots, so what one of them spends there the others wait for, and what it holds they cannot have."""


class UnsoundError(MalformedError):
    """A module that does not do what its slot demands."""

    code = "upgrade-unsound"


class Soundness:
    """Looks at upgrades, for the examiner."""

    def __init__(
        self, store: Store, puller: Puller, ledger: Callable[[], LedgerState], check: Check
    ) -> None:
        self._store = store
        self._puller = puller
        self._ledger = ledger
        self._check = check

    async def fits(self, change: UpgradeChange, room: Room) -> None:
        """Fetch an upgrade, and see that its parts are those that are voted on. MixedUpError,
        UnsoundError where it asks for too much, and what pulling raises."""
        if not change.native:
            _modest(change)
            await self._bytes(change.slot, version_of(change, b"", 0), room)
            source = upgrade_manifest(self._store, change.manifest)
            if source.source_hash != change.source:
                raise MixedUpError("the manifest names another source than the proposal")
            data = await trio.to_thread.run_sync(read_file, self._store, source.source)
            checked(data, change.source, "the source")

    async def look(self, change: UpgradeChange, room: Room) -> None:
        """... and check it. UnsoundError naming what is wrong, CheckFailedError where nobody can
        tell."""
        await self.fits(change, room)
        if change.native:
            return
        current = self._ledger().slot(change.slot).current
        if current.module != change.previous:
            raise UnsoundError("it is made for another version than is in force")
        module = await self._bytes(change.slot, version_of(change, b"", 0), room)
        incumbent = b""
        if current.module != NATIVE:
            incumbent = await self._bytes(change.slot, current, room)
        found = await self._check(
            Question(
                slot=change.slot,
                module=module,
                limits=Limits(
                    change.limits.fuel, change.limits.fuel_per_row, change.limits.memory_pages
                ),
                incumbent=incumbent,
                changed=claims_change(upgrade_manifest(self._store, change.manifest)),
                timing=False,
                hasty=True,
            )
        )
        if not found.sound:
            raise UnsoundError("; ".join(each.text for each in found.findings if each.decides))

    async def _bytes(self, slot: str, version: Version, room: Room) -> bytes:
        await self._puller.pull(version.manifest, room=room)
        wanted = Wanted(
            slot=slot,
            abi=version.abi,
            version=version.number,
            module=version.module,
            size=version.size,
            manifest=version.manifest,
        )
        return await trio.to_thread.run_sync(read_module, self._store, wanted)


def _modest(change: UpgradeChange) -> None:
    own, asked = slot_of(change.slot).limits, change.limits
    for name, times in MOST_TIMES.items():
        most = times * getattr(own, name)
        if getattr(asked, name) > most:
            raise UnsoundError(
                f"its limits.{name} is {getattr(asked, name)}, and {most} is the most in"
                f" {change.slot}"
            )
