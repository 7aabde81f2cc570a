"""One run: which family, which seed, and what of it."""

import msgspec

from simnet.virtual.families import Family
from simnet.virtual.plan import numbers_text


class Case(msgspec.Struct, frozen=True):
    """A run that can be made again."""

    family: Family
    seed: int
    members: int = 0
    """0: as the family's sizes come in turn."""
    seconds: float = 0.0
    """Of the safety phase; 0: as the family says."""
    without: tuple[int, ...] = ()
    """Episodes of its plan that do not happen."""

    @property
    def size(self) -> int:
        """Seats of its first council."""
        return self.members or self.family.members[self.seed % len(self.family.members)]

    @property
    def safety_s(self) -> float:
        """Seconds of its safety phase."""
        return self.seconds or self.family.seconds

    @property
    def command(self) -> str:
        """The line that makes the run again."""
        words = [f"python -m simnet virtual {self.family.name} --seed {self.seed}"]
        if self.members:
            words.append(f"--members {self.members}")
        if self.seconds:
            words.append(f"--seconds {self.seconds:g}")
        if self.without:
            words.append(f"--without {numbers_text(self.without)}")
        return " ".join(words)


class Outcome(msgspec.Struct, kw_only=True):
    """How a run went."""

    family: str
    seed: int
    members: int
    check: str = ""
    """The check that found something wrong; "": none did."""
    text: str = ""
    command: str = ""
    at: float = 0.0
    """Virtual seconds that it ran."""
    events: int = 0
    ratified: int = 0
    """The highest index."""
    terms: int = 0
    """The highest term in which something was ratified."""
    epochs: int = 0
    statements: int = 0
    """Signatures of honest seats that were checked."""
    healed: float | None = None
    """Time-outs from healing until everybody had ratified something new; None: too few were left
    to go on (a quorum lost its memory), or a violation came first."""
    tally: dict[str, int] = {}
    """How often each fault happened."""
    episodes: list[int] = []
    """Numbers of the plan's episodes."""

    @property
    def failed(self) -> bool:
        """Whether something that must hold did not."""
        return bool(self.check)
