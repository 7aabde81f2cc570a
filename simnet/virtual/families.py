"""Families of runs: what configs/scenarios/virtual/NAME.toml says.

A family is a council's size, what befalls it, who lies, and what must then have happened. A
seed of a family is one run.
"""

import tomllib
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from simnet.virtual.plan import FaultSpec

FOLDER = Path(__file__).parents[2] / "configs" / "scenarios" / "virtual"
MAX_MEMBERS = 64


class FamilyError(Exception):
    """A family's file that says something impossible, or no such family."""


class Family(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Runs that have the same kinds of trouble."""

    name: str = ""
    title: str
    about: str = ""
    ledger: Literal["bare", "real", "tile", "tile-liar"] = "bare"
    """Whether the council's log runs on a ledger of hardly anything (bare.py), fast, or in the
    daemons' whole participant on the real ledger (real.py); or none of them, but a tile group's
    replicas (tiletown.py), also with their rounds and one who lies about them (tileliar.py)."""
    members: list[Annotated[int, Meta(ge=1, le=MAX_MEMBERS)]]
    """Sizes of the council; seeds take them in turn."""
    newcomers: Annotated[int, Meta(ge=0)] = 0
    """Daemons without a seat: they follow, and may be elected."""
    seeds: Annotated[int, Meta(ge=1)] = 100
    """Runs in `make test`; `make soak` takes twenty times as many."""
    seconds: Annotated[float, Meta(gt=0)] = 60.0
    """Of the safety phase, in virtual time."""
    epoch_s: Annotated[float, Meta(ge=0)] = 0.0
    """Of a tile group's world: seconds of an epoch, about; 0: one for ever."""
    submissions: Annotated[float, Meta(ge=0)] = 0.5
    """Entries that people submit, a second."""
    proposals: Annotated[int, Meta(ge=0)] = 0
    """Parameter proposals with their votes, in a run."""
    upgrades: Annotated[int, Meta(ge=0)] = 0
    """Upgrades that are proposed in a run, good ones and bad (rollouts.py)."""
    checkpoints: Annotated[int, Meta(ge=0)] = 0
    """Checkpoints of one training that are proposed in a run, better, equal and worse ones
    (lessons.py)."""
    identities: Annotated[int, Meta(ge=0)] = 0
    """Names of one voter, among whom it split its reputation (polls.py)."""
    liars: list[str] = []
    """Names in `liars.LIARS`; each run has fewer than a third, of kinds drawn from these."""
    most_terms: Annotated[int, Meta(ge=0)] = 0
    """Where only members lie and the network is well: terms of an epoch, at most; 0: any."""
    parameters: dict[str, int] = {}
    """Of the genesis, where it does not have the defaults."""
    weather: dict[str, float] = {}
    """Of the network when nothing is wrong (net.Weather)."""
    faults: list[FaultSpec] = []
    must: list[str] = []
    """What must have happened at least once in any twenty runs, as `World.tally` counts it."""


def names() -> list[str]:
    """Of all families."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load(name: str) -> Family:
    """A family by its name, or by the path of its file. Raises FamilyError."""
    path = Path(name) if name.endswith(".toml") else FOLDER / f"{name}.toml"
    try:
        plain = tomllib.loads(path.read_text())
        family = msgspec.convert(plain, Family)
    except FileNotFoundError as error:
        raise FamilyError(f"there is no family {name!r}; there are {', '.join(names())}") from error
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise FamilyError(f"{path}: {error}") from error
    return msgspec.structs.replace(family, name=path.stem)
