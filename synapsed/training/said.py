"""What the owner is told about training: the control socket's words, as plain structs."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from protocols.changes import MAX_MARGIN, MAX_WINDOWS, MIN_WINDOWS
from protocols.plan import (
    MAX_BATCH,
    MAX_CONTEXT,
    MAX_GROUP_BYTES,
    MAX_LEARNERS,
    MAX_PATIENCE_MS,
    MAX_PHASES,
    MAX_ROUNDS,
    MAX_STEPS,
    MAX_ZONE,
    MILLE,
    MILLION,
    MIN_GROUP_BYTES,
    MIN_PATIENCE_MS,
    CodecName,
    DownName,
)

Role = Literal["primary", "replica", "none"]
MAX_TOKENS = 1 << 16
MAX_TEMPERATURE = 10.0
"""Beyond it all tokens are about as likely as each other."""
MAX_EVALUATED = 1 << 20
MAX_SEED = (1 << 62) - 1
Seed = Annotated[int, Meta(ge=0, le=MAX_SEED)]


class _Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an owner asks for: a slip in a field's name is told, not passed over."""


class GroupSaid(msgspec.Struct, frozen=True, kw_only=True):
    """One tile group, as this daemon sees it."""

    number: int
    elements: int
    bytes: int
    """Of its fp32 values."""
    round: int
    """The next round: so many are committed, as far as is known here."""
    head: str
    """The current version's root, in hex; "" where none is known here."""
    role: Role
    primary: str
    """Peer id text; "" where nobody is known to lead."""
    replicas: list[str]
    epoch: int
    term: int
    chain: int
    """Results that lie on this daemon behind the version file, and their bytes."""
    chain_bytes: int


class CheckpointSeen(msgspec.Struct, frozen=True, kw_only=True):
    """A ratified checkpoint, and by how much it is better than the one before: nats a token, as
    the council measured it."""

    model: str
    proposal: str
    index: int
    """Of the ledger's outcome."""
    low: float
    mean: float
    high: float


class ExclusionSaid(msgspec.Struct, frozen=True, kw_only=True):
    """Who serves no tile group and no region, of any training, by the council's verdict."""

    peer: str
    training: str
    """The lineage in which it was caught."""
    epoch: int
    """In which it signed what its inputs do not make."""
    until: int
    """The first epoch in which it may serve again."""
    lost: int
    """Of its reputation."""
    proposal: str
    index: int
    """Of the ledger's outcome."""


class TrainingSaid(msgspec.Struct, frozen=True, kw_only=True):
    """One training on the ledger."""

    lineage: str
    name: str
    """The model's, where its manifest is here; "" elsewhere."""
    plan: str
    """In words."""
    group_bytes: int
    """Of the plan: what another one must have, too."""
    learners: int | None
    """Whose deltas were in the newest round that is known here; None where none is."""
    head: str
    """CID text of the last ratified checkpoint (the lineage itself before the first)."""
    joined: bool
    paused: bool
    state: str
    """What the learner does now: off (this daemon does not learn it), fetching (the model), loading
    (into the worker), training, ahead (training the next round while results of the last are on
    their way), sending, waiting (for results), paused, failed."""
    why: str
    """Why it does not get on; "" where all is well."""
    round: int
    """The lowest round that is next of any group that is known here."""
    steps: int
    """Inner steps done here since the start."""
    loss: float | None
    """Nats a token, of the last round trained here."""
    contributed: int
    """Deltas of ours that are acknowledged, and refused, since the start."""
    refused: int
    bytes_in: int
    bytes_out: int
    """Payload of training's messages and blobs on sockets, since the start."""
    data: str
    """The owner's text; "" where this daemon does not learn."""
    phase: str
    """As "H=15 up=two-bit down=int8"."""
    aggregator: str
    """Peer id text of whoever sums our region's deltas; "" where ours go to the primaries."""
    groups: list[GroupSaid]
    checkpoint_at: int
    """Round at which this daemon proposes the next checkpoint by itself; 0 never."""
    checkpoints: list[CheckpointSeen]
    """The newest 256 that were ratified, the last one last."""
    excluded: list[ExclusionSaid] = []
    """Who has no office, in this training or any other, as long as that lasts."""


class ComputeSaid(msgspec.Struct, frozen=True, kw_only=True):
    """The compute worker."""

    state: str
    """off (starts when needed), starting, running, paused, resting (it died too often of late)."""
    why: str
    """How the last one ended, where none runs since, or that this one does not answer; "" where
    all is well."""
    device: str
    memory: int
    """Bytes resident, or on the card; 0 where it is off."""


class TalkSaid(msgspec.Struct, frozen=True, kw_only=True):
    """A peer that training's messages or blobs went to, or came from, since the start."""

    peer: str
    bytes_in: int
    bytes_out: int


class TrainStatus(msgspec.Struct, frozen=True, kw_only=True):
    """All trainings that the ledger has, the worker that serves them, and with whom they talk."""

    compute: ComputeSaid
    trainings: list[TrainingSaid]
    talks: list[TalkSaid]
    """By falling bytes, of both directions."""


class PhaseSaid(_Request, frozen=True, kw_only=True):
    """One phase of a plan, by names (protocols/plan.py says what they are)."""

    rounds: Annotated[int, Meta(ge=1, lt=MAX_ROUNDS)]
    steps: Annotated[int, Meta(ge=1, le=MAX_STEPS)]
    up: CodecName
    down: DownName
    rate: Annotated[int, Meta(ge=0, le=MILLE)] = MILLE
    zone: Annotated[int, Meta(ge=0, le=MAX_ZONE)] = 0


class PlanSaid(_Request, frozen=True, kw_only=True):
    """How a model is to be trained; what is left out is as in the default plan."""

    phases: Annotated[list[PhaseSaid], Meta(min_length=1, max_length=MAX_PHASES)] | None = None
    group_bytes: Annotated[int, Meta(ge=MIN_GROUP_BYTES, le=MAX_GROUP_BYTES)] | None = None
    batch: Annotated[int, Meta(ge=1, le=MAX_BATCH)] | None = None
    context: Annotated[int, Meta(ge=2, le=MAX_CONTEXT)] | None = None
    rate: Annotated[int, Meta(ge=0, le=MILLION)] | None = None
    decay: Annotated[int, Meta(ge=0, le=MILLE)] | None = None
    outer_rate: Annotated[int, Meta(ge=0, le=10 * MILLE)] | None = None
    outer_momentum: Annotated[int, Meta(ge=0, lt=MILLE)] | None = None
    learners: Annotated[int, Meta(ge=1, le=MAX_LEARNERS)] | None = None
    patience_ms: Annotated[int, Meta(ge=MIN_PATIENCE_MS, le=MAX_PATIENCE_MS)] | None = None


class TrainingRequest(_Request, frozen=True, kw_only=True):
    """Propose that a model be trained."""

    evaluation: str
    """Path of the text, on the daemon's machine, that checkpoints are judged by."""
    windows: Annotated[int, Meta(ge=MIN_WINDOWS, le=MAX_WINDOWS)] = 128
    """Of it that are drawn for one checkpoint."""
    margin: Annotated[int, Meta(ge=1, le=MAX_MARGIN)] = 2000
    """Millionths of a nat a token by which a checkpoint must be better at least."""
    plan: PlanSaid | None = None
    title: str = ""
    text: str = ""


class JoinRequest(_Request, frozen=True, kw_only=True):
    """Learn with others: a model (its lineage, or any checkpoint of it), and text of the owner."""

    model: str
    data: str
    """Path of a file or folder on the daemon's machine."""
    checkpoint_every: Annotated[int, Meta(ge=0, lt=1 << 31)] = 0
    """Propose a checkpoint whenever so many more rounds are committed; 0 never by itself."""


class NewModelRequest(_Request, frozen=True, kw_only=True):
    """A model with fresh weights, imported and announced."""

    kind: str
    """tiny-moe, ..."""
    seed: Seed
    name: str = ""


class GenerateRequest(_Request, frozen=True, kw_only=True):
    """Text from a model that is here."""

    prompt: str
    max_tokens: Annotated[int, Meta(ge=1, le=MAX_TOKENS)] = 200
    temperature: Annotated[float, Meta(ge=0, le=MAX_TEMPERATURE)] = 0.8
    seed: Seed = 0


class Piece(msgspec.Struct, frozen=True, kw_only=True):
    """Text as it comes."""

    text: str


class Generated(msgspec.Struct, frozen=True, kw_only=True):
    """All of it, once it has come."""

    model: str
    """CID text of the model that wrote it: the lineage's newest ratified checkpoint."""
    text: str
    seconds: float


class EvaluateRequest(_Request, frozen=True, kw_only=True):
    """A model's loss on a text."""

    data: str
    """Path of a file on the daemon's machine."""
    windows: Annotated[int, Meta(ge=0, le=MAX_EVALUATED)] = 64
    """So many of it, evenly spread; 0 is all."""


class Evaluated(msgspec.Struct, frozen=True, kw_only=True):
    """What a model lost, in nats a token: over all windows, and how sure that is."""

    model: str
    windows: int
    tokens: int
    loss: float
    low: float
    high: float
    """A 95 % interval of the mean."""
    seconds: float


class CheckpointRequest(_Request, frozen=True, kw_only=True):
    """Propose the current values as the lineage's next checkpoint."""

    description: str = ""


class CheckpointSaid(msgspec.Struct, frozen=True, kw_only=True):
    """A checkpoint that was made and published."""

    model: str
    """Its manifest's CID."""
    parent: str
    round: int
    """Lowest round of its groups."""
    proposal: str
    """CID of the proposal, "" where there is no ledger to propose it to."""


class TrainingCounters(msgspec.Struct, frozen=True, kw_only=True):
    """Of training, for Prometheus: totals since the start (tally.py), and how it is now."""

    trainings: int
    """On the ledger."""
    joined: int
    """Of them, learned here."""
    groups: dict[str, int]
    """Tile groups that are served here, by what we are of them: primary, replica."""
    round: dict[str, int]
    """By model: the lowest round of any group that is next, as far as is known here."""
    loss: dict[str, float]
    rounds: dict[str, int]
    deltas: dict[str, int]
    refused: dict[str, int]
    ours: dict[str, int]
    done: dict[str, int]
    audits: dict[str, int]
    caught: int
    checkpoints: dict[str, int]
    steps: int
    torch_s: float
    torch_share: float
    bytes_in: dict[str, int]
    """Payload of messages and blobs, by what we were: learner, replica, aggregator."""
    bytes_out: dict[str, int]
    workers: dict[str, int]
    """Compute workers: started, died, hung."""
    worker_running: bool


class AuditRequest(_Request, frozen=True, kw_only=True):
    """Recompute a committed round of one group."""

    group: Annotated[int, Meta(ge=0, lt=1 << 16)]
    round: Annotated[int, Meta(ge=0, lt=1 << 31)]


class AuditSaid(msgspec.Struct, frozen=True, kw_only=True):
    """What a round is, recomputed here."""

    lineage: str
    group: int
    round: int
    answer: Literal["right", "wrong", "gone"]
    """gone: what it was made from is kept by nobody any more, or the round is not known."""
    why: str
    """Of a wrong one, what differs; of one that is gone, what is not there."""
    epoch: int
    """In which it was committed, and by whom it is signed."""
    signers: list[str]
    seconds: float
