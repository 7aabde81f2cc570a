"""What was submitted to a world's ledger, and what its daemons ever called ratified."""

from collections import defaultdict

import msgspec

from synapsed.control.models import EventInfo


class Note(msgspec.Struct):
    """One note that a step had submitted, and what became of it."""

    daemon: int
    text: str
    index: int | None = None  # None: under way, or never ratified as far as its daemon knew
    seconds: float = 0.0
    error: str = ""


class Heard(msgspec.Struct):
    """One time that a daemon said it has a new ratified head."""

    daemon: int
    at: float  # Unix seconds
    index: int
    hash: str
    epoch: int
    term: int


class CouncilRecord:
    """What was submitted, and what was ever called ratified."""

    def __init__(self) -> None:
        self.notes: list[Note] = []
        self.heights: dict[str, int] = {}
        self.proposals: dict[str, str] = {}  # by the scenario's name for it: its CID
        self.heard: list[Heard] = []
        self.hashes: defaultdict[int, set[str]] = defaultdict(set)  # by index

    def hear(self, daemon: int, event: EventInfo) -> None:
        """Take a `ledger.ratified` event."""
        fields = event.fields
        self.heard.append(
            Heard(
                daemon,
                event.at,
                fields["index"],
                fields["hash"],
                fields["epoch"],
                fields["term"],
            )
        )
        self.hashes[fields["index"]].add(fields["hash"])

    def forked(self) -> list[int]:
        """Indices at which daemons ever called different entries ratified."""
        return sorted(index for index, hashes in self.hashes.items() if len(hashes) > 1)
