"""What the daemons of a world said of upgrades, and what their owners chose."""

from typing import TYPE_CHECKING

import msgspec

from simnet.timeline import Answering, Chosen, StageBegan

if TYPE_CHECKING:
    from simnet.timeline import Timeline
    from synapsed.control.models import EventInfo

UPGRADES = "upgrade."
"""How all their events begin."""
BEGINS = {
    "upgrade.stage": "open",
    "upgrade.settled": "settle",
    "upgrade.rolled-back": "rollback",
    "upgrade.lapsed": "lapse",
}


class Switch(msgspec.Struct, frozen=True):
    """A daemon that says that from an index on another version answers."""

    daemon: int
    at: float  # Unix seconds
    slot: str
    version: int
    permille: int
    index: int
    late: bool


class StageEnd(msgspec.Struct, frozen=True):
    """A stage entry, as a daemon's ledger has it."""

    daemon: int
    at: float
    slot: str
    version: int
    permille: int
    index: int
    event: str
    reason: str
    proposal: str


class UpgradeRecord:
    """Of one world."""

    def __init__(self, timeline: "Timeline") -> None:
        self._timeline = timeline
        self.switches: list[Switch] = []
        self.stages: list[StageEnd] = []
        self.adapters: dict[int, str] = {}  # CIDs by rank
        self.proposed: dict[str, float] = {}  # when (the world's time), by the scenario's name
        self.failed_choices: list[str] = []
        self.missed: list[tuple[int, str]] = []  # daemons whose stream broke, and why
        self.other: list[tuple[int, str]] = []  # daemon and kind of everything else

    def hear(self, daemon: int, event: "EventInfo", now: float) -> None:
        """Take an event; `now` is the world's time."""
        fields = event.fields
        if event.kind in ("upgrade.switched", "upgrade.in-force"):
            self._switched(daemon, event, now)
        elif event.kind in BEGINS:
            stage = StageEnd(
                daemon,
                event.at,
                fields["slot"],
                fields["version"],
                fields["permille"],
                fields["index"],
                BEGINS[event.kind],
                fields["reason"],
                fields["proposal"],
            )
            self.stages.append(stage)
            self._timeline.stages.append(
                StageBegan(now, daemon, stage.slot, stage.version, stage.permille, stage.event)
            )
        else:
            self.other.append((daemon, event.kind))

    def _switched(self, daemon: int, event: "EventInfo", now: float) -> None:
        fields = event.fields
        slot, version, permille = fields["slot"], fields["version"], fields["permille"]
        self._timeline.answering.append(Answering(now, daemon, slot, version, permille))
        if event.kind == "upgrade.switched":
            index, late = fields["index"], fields["late"]
            self.switches.append(Switch(daemon, event.at, slot, version, permille, index, late))

    def chose(self, daemon: int, place: int, now: float) -> None:
        """An owner has chosen the adapter at this place of the list."""
        self._timeline.chosen.append(Chosen(now, daemon, place))
