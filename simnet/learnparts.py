"""What a scenario file says of learning: who makes, trains, measures and uses a model."""

from typing import Annotated, Any, Literal

from msgspec import Meta, field

from simnet.parts import Check, Count, Step, Who

Share = Annotated[float, Meta(ge=0, le=0.5)]


class MakeModel(Step, kw_only=True, tag="make-model"):
    """One daemon makes a model with fresh weights; later steps call it `name`."""

    name: str
    who: int
    kind: str = "tiny-moe"
    seed: int = 1


class Train(Step, kw_only=True, tag="train"):
    """One daemon proposes that a model be trained; `name` is the proposal's, for votes."""

    name: str
    who: int
    lineage: str
    text: str  # a file, from the scenario's folder
    held_out: Share = 0.1  # of the text, at its end: the evaluation set
    windows: Count = 64
    margin: Count = 2000
    plan: dict[str, Any] = field(default_factory=dict)  # docs/learning.md; else the default


class Learn(Step, kw_only=True, tag="learn"):
    """Daemons learn, each from a part of the text of its own, and none from what is held out."""

    who: Who
    lineage: str
    text: str
    held_out: Share = 0.1
    checkpoint_every: int = 0


class Corrupt(Step, kw_only=True, tag="corrupt"):
    """Daemons that are not started yet will lie when they learn (lyingcompute.py)."""

    who: Who
    how: Literal["flip", "scale", "random", "stale", "rounds"]


class Leave(Step, kw_only=True, tag="leave"):
    """Daemons learn no more."""

    who: Who
    lineage: str


class Generate(Step, kw_only=True, tag="generate"):
    """One daemon writes text; the report and the picture have it."""

    who: int
    lineage: str
    prompt: str
    tokens: Count = 120
    temperature: float = 0.8


class Primary(Step, kw_only=True, tag="primary"):
    """Name the daemon that leads a tile group now, for later steps."""

    name: str
    lineage: str
    group: int = 0


class Checkpoint(Step, kw_only=True, tag="checkpoint"):
    """One daemon proposes what was learned as the next checkpoint; `name` is the proposal's."""

    name: str
    who: int
    lineage: str


# -- checks -----------------------------------------------------------------------------------


class TrainingOpen(Check, kw_only=True, tag="training-open"):
    """Everyone's ledger has the model's training."""

    lineage: str
    who: Who = "running"


class Trained(Check, kw_only=True, tag="trained"):
    """Everyone knows so many rounds of every tile group."""

    lineage: str
    rounds: Count
    who: Who = "running"


class LossFell(Check, kw_only=True, tag="loss-fell"):
    """The learners' mean loss is lower by so many nats than when they began."""

    lineage: str
    nats: float


class Gave(Check, kw_only=True, tag="gave"):
    """So many deltas of each of these were acknowledged since it was last started."""

    lineage: str
    who: Who
    deltas: Count = 1


class OneVersion(Check, kw_only=True, tag="one-version"):
    """Whoever had a version of a tile group had the same bytes, but for those who lie about what
    they have; `count` were seen on several."""

    lineage: str
    count: Count = 1
    liars: Who = field(default_factory=list)


class TookOver(Check, kw_only=True, tag="took-over"):
    """A group that the named daemon led is led by another one, in a higher term; or was when this
    was asked before: back again, the daemon may be drawn to lead a later epoch."""

    lineage: str
    after: str
    group: int = 0


class Improved(Check, kw_only=True, tag="improved"):
    """Everyone's ledger has a checkpoint of the model that was measured to be better."""

    lineage: str
    who: Who = "running"


class NoBans(Check, kw_only=True, tag="no-bans"):
    """None of these daemons bans another one of them: honest ones have no reason to."""

    who: Who = "running"


class Uncredited(Check, kw_only=True, tag="uncredited"):
    """A ratified checkpoint has paid others for what they taught the model, and these nothing."""

    who: Who


class Excluded(Check, kw_only=True, tag="excluded"):
    """By everyone's ledger these, and nobody else, have no office: the council's members recomputed
    what they signed."""

    lineage: str
    who: Who
