"""What the owner should know now, kept from the events of the daemon's life.

Not a log: the present state of things that were told once (a bootstrap that does not answer) and
totals that the metrics show (faults of peers by name).
"""

from synapsed.process.events import Event, EventBus

MAX_NAMES = 256
"""Kinds of failure kept apart; they name places in our own code, so there are a handful."""


class Tally:
    """Observes the bus from the start on."""

    def __init__(self, bus: EventBus) -> None:
        self.bootstrap: dict[str, str] = {}
        """Address -> why it could not be reached; empty where it was."""
        self.faults: dict[str, int] = {}
        """Faults of peers by name."""
        self.failed_tasks: dict[str, int] = {}
        """Our own failures by the task's name."""
        self.inbound = 0
        """Connections that others opened to us."""
        self.damaged = 0
        """Sub-tiles that our own disk has spoiled since the start."""
        self.mdns_error = ""
        self.scrub: tuple[float, int] | None = None
        """When the last scrub ended, and how much was bad."""
        self._warnings: dict[str, str] = {}
        bus.observe(self._on_event)

    def warnings(self) -> list[str]:
        """One line each; empty where all is well."""
        lines = list(self._warnings.values())
        lines += [
            f"{name} failed {times} time{'s' if times > 1 else ''}: see the log"
            for name, times in self.failed_tasks.items()
        ]
        if self.damaged:
            lines.append(
                f"{self.damaged} sub-tiles were damaged on disk and are forgotten: check the disk,"
                " and run `synapsectl scrub`"
            )
        return lines

    def _on_event(self, event: Event) -> None:
        fields = event.fields
        match event.kind:
            case "bootstrap.unreachable":
                self.bootstrap[fields["addr"]] = fields["why"]
                self._warnings[fields["addr"]] = (
                    f"bootstrap {fields['addr']}: {fields['why']}; "
                    f"tried again in {fields['again_in']:.0f} s"
                )
            case "bootstrap.reached":
                self.bootstrap[fields["addr"]] = ""
                self._warnings.pop(fields["addr"], None)
            case "peer.blamed":
                _count(self.faults, fields["fault"])
            case "task.failed" | "handler.failed":
                _count(self.failed_tasks, fields["name"])
            case "peer.connected":
                self.inbound += fields["direction"] == "inbound"
                self._reached_peer(fields["peer"])
            case "store.damaged":
                self.damaged += fields["leaves"]
            case "mdns.failed":
                self.mdns_error = fields["why"]
            case "store.database-lost":
                self._warnings["database"] = (
                    f"the state database was damaged and begun anew ({fields['kept']} is the "
                    "old one): peers are met anew, and all models that are here are pinned"
                )
            case "ledger.lost":
                self._warnings["ledger"] = (
                    f"the ledger's database was damaged and begun anew ({fields['kept']} is the "
                    "old one): entries come from peers, and a seat held before signs nothing "
                    "until the council gives it to our new key"
                )
            case "ledger.fork":
                self._warnings["fork"] = (
                    "two certificates contradict each other: a third of a council lied. Nothing "
                    "new is followed; owners must agree on one branch (docs/council.md)"
                )
            case "store.scrubbed":
                self.scrub = (event.at, fields["bad"])

    def _reached_peer(self, peer: str) -> None:
        """A bootstrap that dialled us, or was found another way, is reached."""
        for addr in self.bootstrap:
            if addr.endswith(f"/p2p/{peer}"):
                self.bootstrap[addr] = ""
                self._warnings.pop(addr, None)


def _count(counts: dict[str, int], name: str) -> None:
    if name in counts or len(counts) < MAX_NAMES:
        counts[name] = counts.get(name, 0) + 1
