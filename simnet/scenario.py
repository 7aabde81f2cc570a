"""What a scenario file says: daemons, steps in order, and promises at the end.

A file is TOML. `who` chooses daemons: a number, "0-4", "all", "running", a name that an
earlier `pick` gave, or a list of these. Times are seconds, rates bytes a second.
"""

from typing import Annotated, Any, Literal

from msgspec import Meta, field

from simnet.councilparts import (
    Above,
    DoubleSign,
    Founding,
    Guilty,
    Height,
    Leader,
    LedgersAgree,
    Load,
    NotesRatified,
    OneHistory,
    Parameter,
    Propose,
    RoleIs,
    Seated,
    Vote,
    Wipe,
)
from simnet.learnparts import (
    Checkpoint,
    Corrupt,
    Excluded,
    Gave,
    Generate,
    Improved,
    Learn,
    Leave,
    LossFell,
    MakeModel,
    NoBans,
    OneVersion,
    Primary,
    TookOver,
    Train,
    Trained,
    TrainingOpen,
    Uncredited,
)
from simnet.learnregionparts import (
    Audited,
    Caught,
    CrossedLess,
    FanIn,
    Gathered,
    LieInSums,
    Meter,
    Office,
    Routed,
)
from simnet.parts import Check, Choice, Count, Part, Step, Time, Who
from simnet.upgradeparts import Adapters, Became, Choose, Stage, SwitchedAlike, Upgrade
from simnet.weather import Cut, Shape

MAX_DAEMONS = 1000
"""Four times what loopback with 2 cores has carried; addresses allow 60,000."""


# -- models -----------------------------------------------------------------------------------


class ModelSource(Part):
    """Where a model's files come from: exactly one of the three."""

    package: str = ""  # the folder `model` of an installed Python package
    folder: str = ""  # a folder, from the scenario's own
    made: Annotated[float, Meta(ge=0)] = 0  # MiB of seeded random tensors


# -- checks -----------------------------------------------------------------------------------


class Met(Check, kw_only=True, tag="met"):
    """Everyone is connected to at least `peers` others that run."""

    peers: Count
    who: Who = "running"


class LiveListsEqual(Check, kw_only=True, tag="live-lists-equal"):
    """Everyone's list of live daemons is exactly those that run."""

    who: Who = "running"


class CatalogsEqual(Check, kw_only=True, tag="catalogs-equal"):
    """Everyone has the same announcements, and at least `count`."""

    who: Who = "running"
    count: int = 1


class Replicated(Check, kw_only=True, tag="replicated"):
    """Every tile of the model is announced by `copies` running daemons, whole catalogs agree."""

    model: str
    copies: Count
    who: Who = "running"


class Holds(Check, kw_only=True, tag="holds"):
    """They hold the whole model."""

    who: Who
    model: str


class Lacks(Check, kw_only=True, tag="lacks"):
    """They hold next to nothing of the model: headers and small files come with its news."""

    who: Who
    model: str
    at_most: Annotated[float, Meta(ge=0, le=1)] = 0.05  # share of its bytes


class Pulled(Check, kw_only=True, tag="pulled"):
    """Every pull in the background ended well."""


class ExportsEqual(Check, kw_only=True, tag="exports-equal"):
    """Every export was compared with the model's files, byte by byte; at least `count` were."""

    count: Count = 1


class NobodyDied(Check, kw_only=True, tag="nobody-died"):
    """No daemon ended that the scenario did not end."""


class Blamed(Check, kw_only=True, tag="blamed"):
    """Each of `liars` has faults on the ledger of at least `by_at_least` daemons."""

    liars: Who
    by: Who = "running"
    by_at_least: Count = 1


class SentAtMost(Check, kw_only=True, tag="sent-at-most"):
    """`who` sent at most `times` the model's size through its links in all."""

    who: Who
    model: str
    times: Time


class Happened(Check, kw_only=True, tag="happened"):
    """The fault did happen: the proxy or simnet counted it at least `count` times."""

    fault: str
    count: Count = 1


class Delivered(Check, kw_only=True, tag="delivered"):
    """The share of (announcement, daemon) pairs that arrived."""

    share: Annotated[float, Meta(ge=0, le=1)] = 1.0
    p99: Annotated[float, Meta(ge=0)] = 0  # seconds; 0: not bounded
    who: Who = "running"


Checks = (
    Met
    | LiveListsEqual
    | CatalogsEqual
    | Replicated
    | Holds
    | Lacks
    | Pulled
    | ExportsEqual
    | NobodyDied
    | Blamed
    | SentAtMost
    | Happened
    | Delivered
    | Above
    | Guilty
    | LedgersAgree
    | NotesRatified
    | OneHistory
    | Parameter
    | RoleIs
    | Seated
    | Became
    | Stage
    | SwitchedAlike
    | Excluded
    | Gave
    | Improved
    | LossFell
    | NoBans
    | OneVersion
    | TookOver
    | Trained
    | TrainingOpen
    | Uncredited
    | Audited
    | Caught
    | CrossedLess
    | FanIn
    | Gathered
    | Routed
)


# -- steps ------------------------------------------------------------------------------------


class Start(Step, kw_only=True, tag="start"):
    """Start daemons, `at_once` at a time."""

    who: Who
    at_once: Count = 8


class Pick(Step, kw_only=True, tag="pick"):
    """Draw `count` daemons by the seed and call them `name`."""

    name: str
    count: Count = 1
    out_of: Who = "running"
    but: Who = field(default_factory=list)
    holding: str = ""  # only those that hold a good part of this model


class Import(Step, kw_only=True, tag="import"):
    """One daemon imports a model's files."""

    who: Who
    model: str


class Pull(Step, kw_only=True, tag="pull"):
    """Daemons pull a model, all at once; `background` does not wait for the end."""

    who: Who
    model: str
    experts: list[str] = field(default_factory=list)
    background: bool = False


class Export(Step, kw_only=True, tag="export"):
    """Daemons export a model; the files are compared with the originals."""

    who: Who
    model: str


class Kill(Step, kw_only=True, tag="kill"):
    """kill -9."""

    who: Who


class Stop(Step, kw_only=True, tag="stop"):
    """SIGTERM, and wait for the end."""

    who: Who


class Pause(Step, kw_only=True, tag="pause"):
    """SIGSTOP: silent, and its connections stay."""

    who: Who


class Resume(Step, kw_only=True, tag="resume"):
    """SIGCONT."""

    who: Who


class Restart(Step, kw_only=True, tag="restart"):
    """Start those again that were killed or stopped, on the same home."""

    who: Who


class Partition(Step, kw_only=True, tag="partition"):
    """Nothing passes between the groups."""

    groups: Annotated[list[Who], Meta(min_length=1)]
    cut: Cut = Cut.STALL


class Heal(Step, kw_only=True, tag="heal"):
    """End the partition."""


class Links(Step, kw_only=True, tag="links"):
    """Weather on the links from `senders` to `receivers`, and back where `both`."""

    senders: Who = "all"
    receivers: Who = "all"
    both: bool = True
    shape: Shape = Shape()


class Rates(Step, kw_only=True, tag="rates"):
    """Bytes a second that each of `who` sends and receives in all; 0 lifts it."""

    who: Who
    up: Annotated[float, Meta(ge=0)] = 0
    down: Annotated[float, Meta(ge=0)] = 0


class Reset(Step, kw_only=True, tag="reset"):
    """Reset all connections of `who` now."""

    who: Who


class Announce(Step, kw_only=True, tag="announce"):
    """`who` publish `count` proposals, one every `every` seconds in all, in turn."""

    who: Who
    count: Count
    every: Annotated[float, Meta(ge=0)] = 1.0


class Lie(Step, kw_only=True, tag="lie"):
    """Start liars that announce the whole model; named `name` for later steps.

    wrong-bytes: they serve sub-tiles with a flipped bit. lacking: they have nothing to serve.
    silent: they take requests and never answer.
    """

    name: str
    model: str
    how: Literal["wrong-bytes", "lacking", "silent"]
    count: Count = 1


class Wait(Step, kw_only=True, tag="wait"):
    """Go on once the check holds; the scenario fails if it does not `within` seconds."""

    until: Checks
    within: Time


class Let(Step, kw_only=True, tag="let"):
    """Let time pass: for what has no end to wait for."""

    seconds: Time


Steps = (
    Start
    | Pick
    | Import
    | Pull
    | Export
    | Kill
    | Stop
    | Pause
    | Resume
    | Restart
    | Partition
    | Heal
    | Links
    | Rates
    | Reset
    | Announce
    | Lie
    | Wait
    | Let
    | DoubleSign
    | Height
    | Leader
    | Load
    | Propose
    | Vote
    | Wipe
    | Adapters
    | Choose
    | Upgrade
    | Checkpoint
    | Corrupt
    | Generate
    | Learn
    | Leave
    | MakeModel
    | Primary
    | Train
    | LieInSums
    | Meter
    | Office
)


class Promise(Part, kw_only=True):
    """A check that must hold at the end, `within` seconds."""

    that: Checks
    within: Time = 30.0


class Scenario(Part, kw_only=True):
    """One file."""

    title: str
    daemons: Annotated[int, Meta(ge=1, le=MAX_DAEMONS)]
    steps: Annotated[list[Steps], Meta(min_length=1)]
    promises: Annotated[list[Promise], Meta(min_length=1)]
    about: str = ""
    network: str = "simnet"
    within: Time = 600.0  # seconds for everything
    bootstrap: Annotated[int, Meta(ge=0, le=64)] = 2  # earlier daemons that each is told of
    proxied: bool = True  # false: no proxies, for worlds too busy to carry every byte twice
    watch: Annotated[float, Meta(ge=0)] = 1.0  # seconds between samples of the picture; 0: none
    models: dict[str, ModelSource] = field(default_factory=dict)
    council: Founding | None = None  # none: the daemons have no ledger
    config: dict[str, dict[str, Any]] = field(
        default_factory=dict
    )  # over what simnet sets, in every daemon's file


__all__ = ["Check", "Choice", "Part", "Step", "Who"]
