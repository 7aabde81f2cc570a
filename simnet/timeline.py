"""What a world looked like over time: samples and marks, for pictures and for reading again."""

from typing import Literal

import msgspec

Runs = list[tuple[int, int]]
"""Tiles as (first, count), ascending."""

Role = Literal["origin", "swarm", "newcomer"]


class Sample(msgspec.Struct):
    """One daemon at one moment; what it says of itself through its control socket."""

    at: float
    daemon: int
    connected: int
    live: int
    announcements: int
    tiles: Runs  # as it announces them: a few seconds behind
    held: float = 0.0  # share of the model's bytes on its disk, as of now
    index: int = 0  # of its ratified ledger's head
    role: str = ""  # to the council: leader, member, or another of ledgermodels.Role


class Mark(msgspec.Struct):
    """Something that was done, and to whom; None: to the world."""

    at: float
    daemon: int | None
    kind: str
    note: str = ""


class Learning(msgspec.Struct):
    """What a daemon says of one training, at one moment."""

    at: float
    daemon: int
    lineage: str
    round: int
    loss: float | None
    joined: bool
    bytes_in: int
    bytes_out: int
    contributed: int
    refused: int


class Summed(msgspec.Struct):
    """A daemon made one sum of its region's deltas."""

    at: float
    daemon: int


class Routed(msgspec.Struct):
    """A learner sends another way: through an aggregator, or (None) straight to the primaries."""

    at: float
    daemon: int
    through: int | None
    rtt_ms: float | None
    primary_ms: float | None


class Crossing(msgspec.Struct):
    """What training moved between two daemons, both ways, while it was metered."""

    meter: str
    one: int
    other: int
    bytes: int


class Text(msgspec.Struct):
    """What a model wrote."""

    at: float
    daemon: int
    model: str
    prompt: str
    text: str


class Answering(msgspec.Struct):
    """A daemon has another version of a slot answer, on so much of the network."""

    at: float
    daemon: int
    slot: str
    version: int
    permille: int


class StageBegan(msgspec.Struct):
    """A daemon's ledger has an upgrade in another stage."""

    at: float
    daemon: int
    slot: str
    version: int
    permille: int
    event: str


class Chosen(msgspec.Struct):
    """An owner has chosen an adapter, which stood at this place of the list."""

    at: float
    daemon: int
    place: int


class Timeline(msgspec.Struct):
    """One run."""

    title: str
    seed: int
    daemons: int
    model: str = ""  # name and size as people read it; "": no model in this world
    tiles: int = 0
    sizes: list[int] = []  # bytes of each tile; [] where they are not known
    copies: int = 0
    has_ledger: bool = False
    seconds: float = 0.0
    passed: bool = False
    samples: list[Sample] = []
    marks: list[Mark] = []
    answering: list[Answering] = []
    stages: list[StageBegan] = []
    chosen: list[Chosen] = []
    learning: list[Learning] = []
    texts: list[Text] = []
    sums: list[Summed] = []
    routes: list[Routed] = []
    crossings: list[Crossing] = []

    def of(self, daemon: int) -> list[Sample]:
        """One daemon's samples in order of time."""
        return [sample for sample in self.samples if sample.daemon == daemon]

    def role(self, daemon: int) -> Role:
        """How the daemon came by what it holds."""
        done = {mark.kind for mark in self.marks if mark.daemon == daemon}
        if "import" in done:
            return "origin"
        return "newcomer" if "pull" in done else "swarm"

    def ups(self, daemon: int) -> list[tuple[float, float]]:
        """When the daemon ran, as (from, to)."""
        ups: list[tuple[float, float]] = []
        since: float | None = None
        for mark in self.marks:
            if mark.daemon != daemon:
                continue
            if mark.kind in ("start", "restart") and since is None:
                since = mark.at
            elif mark.kind in ("kill", "stop", "died") and since is not None:
                ups.append((since, mark.at))
                since = None
        if since is not None:
            ups.append((since, self.seconds))
        return ups


def covers(runs: Runs, tiles: int) -> bool:
    """Whether `runs` are all of `tiles`."""
    return count(runs) >= tiles > 0


def count(runs: Runs) -> int:
    """How many tiles `runs` have."""
    return sum(length for _, length in runs)


def copies(holdings: list[Runs], tiles: int) -> list[int]:
    """How many of `holdings` have each tile."""
    change = [0] * (tiles + 1)
    for runs in holdings:
        for start, length in runs:
            change[min(start, tiles)] += 1
            change[min(start + length, tiles)] -= 1
    total, each = 0, []
    for step in change[:tiles]:
        total += step
        each.append(total)
    return each
