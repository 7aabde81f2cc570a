"""What a scenario file says of upgrades: what is measured, proposed, and must become of it."""

from typing import Annotated, Literal

from msgspec import Meta

from simnet.parts import Check, Count, Step, Time, Who

RANKING = "adapter_ranking"
"""The slot whose goal a world can measure as often as it likes: an owner's choice takes no time."""


class Adapters(Step, kw_only=True, tag="adapters"):
    """One daemon publishes an adapter of each of these ranks for a model that it has imported."""

    who: int
    model: str
    ranks: Annotated[list[Count], Meta(min_length=2)]


class Choose(Step, kw_only=True, tag="choose"):
    """Owners list the adapters and pull the one of a rank, again and again, to the end.

    Where it stood in the list is the goal of the slot that ranks them.
    """

    who: Who
    rank: Count
    every: Time  # seconds between two choices of one daemon


class Upgrade(Step, kw_only=True, tag="upgrade"):
    """One daemon builds a module and proposes it; later steps call the proposal `name`."""

    name: str
    who: int
    answers: dict[str, str]  # of each of the slot's answers: an expression (simnet/policies.py)
    slot: str = RANKING
    before: str = ""  # what each call begins with
    changed_ppm: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None  # None: claims none
    expires_in: Count | None = None  # seconds


# -- checks -----------------------------------------------------------------------------------


class Stage(Check, kw_only=True, tag="stage"):
    """Everyone's ledger has the upgrade in this stage, or has had it."""

    upgrade: str
    permille: Annotated[int, Meta(ge=0, le=1000)]
    who: Who = "running"


class Became(Check, kw_only=True, tag="became"):
    """On everyone's ledger the upgrade's rollout has ended so, and `version` answers there."""

    upgrade: str
    event: Literal["settle", "rollback", "lapse"]
    version: Annotated[int, Meta(ge=0)]  # of the slot, on every daemon
    slot: str = RANKING
    who: Who = "running"


class SwitchedAlike(Check, kw_only=True, tag="switched-alike"):
    """Whenever daemons switched to the same version and stage, it was at one ledger index."""

    count: Count  # switches that there were at least
    slot: str = RANKING
