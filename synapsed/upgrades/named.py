"""What the ledger's state names of upgrades, as this daemon needs it."""

from collections.abc import Callable, Mapping

import msgspec

from protocols.changes import UpgradeChange
from protocols.ledger.fold import LedgerState
from protocols.ledger.rollout import FULL, SlotState, Version, version_of
from protocols.slots.abi import Slot
from synapsed.upgrades.modules import Key, Wanted


class Running(msgspec.Struct, frozen=True):
    """What answers in a slot: a version, on how much of the network, since which entry."""

    version: int
    permille: int
    index: int

    @property
    def fields(self) -> dict[str, int]:
        """As events have it."""
        return msgspec.structs.asdict(self)


def running(state: SlotState, of_eight: int) -> tuple[Running, Version]:
    """What the ledger would have answer on a daemon that gives the candidate so many operations
    of eight."""
    rollout = state.rollout
    if rollout is not None and of_eight:
        candidate = rollout.candidate
        return Running(candidate.number, rollout.permille, rollout.index), candidate
    return Running(state.current.number, FULL, state.current.index), state.current


def wanted(
    state: LedgerState, slots: Mapping[str, Slot], left_out: Callable[[str], bool]
) -> dict[Key, Wanted]:
    """The modules that the ledger names: in force, tried, before, and about to be tried."""
    found: dict[Key, Wanted] = {}
    for name, version in _versions(state):
        slot = slots.get(name)
        # An ABI that this daemon does not have is another daemon's slot.
        if slot is None or left_out(name) or version.native or version.abi != slot.abi:
            continue
        found[name, version.module] = Wanted(
            slot=name,
            abi=version.abi,
            version=version.number,
            module=version.module,
            size=version.size,
            manifest=version.manifest,
        )
    return found


def _versions(state: LedgerState) -> list[tuple[str, Version]]:
    """By slot; what is in force behind what was."""
    found = []
    for name, slot in sorted(state.slots.items()):
        found += [(name, each) for each in (*slot.former, slot.current)]
        if slot.rollout is not None:
            found.append((name, slot.rollout.candidate))
    for execution in state.executions:
        change = execution.change
        if isinstance(change, UpgradeChange):
            found.append((change.slot, version_of(change, execution.proposal, 0)))
    return found
