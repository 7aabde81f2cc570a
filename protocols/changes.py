"""What a proposal would change, as its manifest says it.

    parameter    sets parameters of the network, all or none
    human-key    lets a person's key approve what is risky, or no longer
    adoption     has daemons adopt a manifest: an adapter, a model, ...
    upgrade      replaces a component of the daemon (a slot) by a WebAssembly module
    training     begins to train a model, or goes on by another plan
    checkpoint   makes what a training has come to the model that newcomers pull
    exclusion    takes the offices of a training from who was caught computing wrongly

Only the form is checked here. Whether a change is possible, and how risky it is, the ledger
says (ledger/possible.py).
"""

import re
from typing import Annotated, Literal

import msgspec

from protocols.cid import CID_LENGTH, is_cid
from protocols.codec import Message
from protocols.errors import MalformedError
from protocols.peerid import PEER_ID_LENGTH, PUBLIC_KEY_LENGTH
from protocols.plan import Plan

MAX_SETTINGS = 16
"""Parameters that one proposal sets: a class of risk has eight."""
MAX_TEXT = 2048
"""Characters of an upgrade's risks or benefits."""
MAX_MODULE = 1 << 20
"""Bytes of a module: policies take some kilobytes, and one of 1 MiB compiles for 1.3 s."""
MAX_FUEL = 1 << 34
"""Of one call, about as many instructions: some ten seconds, far above every deadline."""
MAX_FUEL_PER_ROW = 1 << 24
MAX_PAGES = 1024
"""Of 64 KiB that a module's memory may have: eight times the largest block of a call."""
MIN_WINDOWS, MAX_WINDOWS = 32, 4096
"""Of an evaluation's sample: with fewer than 32 the interval is wider than what a checkpoint gains
(docs/learning.md), and 4,096 of a large model take a CPU an hour."""
MAX_MARGIN = 10_000_000
"""Millionths of a nat: 10 nats are more than a model of random weights has to lose."""
MAX_SHARES = 256
"""Contributors to one checkpoint: as many mints as one entry has."""
MILLE = 1000
NATIVE = bytes(32)
"""Stands for a module's hash where the daemon's own reference is in force: no bytes hash to it."""

Value = Annotated[int, msgspec.Meta(ge=0, lt=1 << 53)]
_WORD = r"[a-z][a-z0-9_]*"
ParameterName = Annotated[str, msgspec.Meta(max_length=64, pattern=rf"^{_WORD}(\.{_WORD})+\Z")]
ShortName = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
Text = Annotated[str, msgspec.Meta(max_length=MAX_TEXT)]
Cid = Annotated[bytes, msgspec.Meta(min_length=CID_LENGTH, max_length=CID_LENGTH)]
Hash = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
SlotName = Annotated[str, msgspec.Meta(max_length=64, pattern=r"^[a-z][a-z0-9._-]*\Z")]
VersionNumber = Annotated[int, msgspec.Meta(ge=1, lt=1 << 31)]
Key = Annotated[bytes, msgspec.Meta(min_length=PUBLIC_KEY_LENGTH, max_length=PUBLIC_KEY_LENGTH)]
Identity = Annotated[bytes, msgspec.Meta(min_length=PEER_ID_LENGTH, max_length=PEER_ID_LENGTH)]

_LINES = {ord("\n"): None, ord("\t"): None}
_PRINTABLE = re.compile(r"[^\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]*")


class BadChangeError(MalformedError):
    """A change whose parts contradict each other."""

    code = "bad-change"


class Setting(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One parameter's new value, in the registry's unit."""

    name: ParameterName
    value: Value


class ParameterChange(Message, frozen=True, tag_field="kind", tag="parameter"):
    """Parameters of the network and their new values, by rising name."""

    settings: Annotated[tuple[Setting, ...], msgspec.Meta(min_length=1, max_length=MAX_SETTINGS)]

    def __post_init__(self) -> None:
        names = [setting.name for setting in self.settings]
        if names != sorted(set(names)):
            raise BadChangeError("the parameters are not in order of their names, or one is twice")


class HumanKeyChange(Message, frozen=True, tag_field="kind", tag="human-key"):
    """A person's Ed25519 key."""

    action: Literal["add", "remove"]
    name: ShortName
    key: Key

    def __post_init__(self) -> None:
        if not _PRINTABLE.fullmatch(self.name):
            raise BadChangeError("a human key's name holds control characters")


class AdoptionChange(Message, frozen=True, tag_field="kind", tag="adoption"):
    """A manifest to adopt, which must be of the kind that is stated."""

    what: Literal["adapter", "dataset", "expert", "kernel", "model"]
    manifest: Cid

    def __post_init__(self) -> None:
        if not is_cid(self.manifest):
            raise BadChangeError("an adoption names something that is not a content id")


class CallLimits(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What one call of a module may take: `fuel` + `fuel_per_row` for each row of all tables."""

    fuel: Annotated[int, msgspec.Meta(ge=0, le=MAX_FUEL)]
    fuel_per_row: Annotated[int, msgspec.Meta(ge=0, le=MAX_FUEL_PER_ROW)]
    memory_pages: Annotated[int, msgspec.Meta(ge=0, le=MAX_PAGES)]
    """Of 64 KiB."""

    def fuel_of(self, rows: int) -> int:
        """For a batch of so many rows in all."""
        return self.fuel + self.fuel_per_row * rows


NO_LIMITS = CallLimits(0, 0, 0)
"""Of the native reference, which is not called through a jail."""


class UpgradeChange(Message, frozen=True, tag_field="kind", tag="upgrade"):
    """A slot's next version: which bytes it is, after which, until when, and what its author
    expects. Everything that a daemon must know before it runs them is here, under the vote: what
    the manifest adds is where to find the bytes and their source.

    `module`, `source` and `previous` are sha256 of plain bytes. Where `module` is NATIVE the slot
    goes back to the daemon's own reference: there are no bytes, no source and no manifest then.
    """

    slot: SlotName
    version: VersionNumber
    """The highest number that the slot ever had, and one more."""
    abi: Annotated[int, msgspec.Meta(ge=1, lt=1 << 31)]
    module: Hash
    size: Annotated[int, msgspec.Meta(ge=0, le=MAX_MODULE)]
    limits: CallLimits
    source: Hash
    previous: Hash
    """The module that is in force before."""
    expires: Annotated[int, msgspec.Meta(ge=0, lt=1 << 53)]
    """The ledger's time (ms) from which its rollout can no longer begin."""
    manifest: Annotated[bytes, msgspec.Meta(max_length=CID_LENGTH)]
    risks: Text
    benefits: Text

    def __post_init__(self) -> None:
        for text in (self.risks.translate(_LINES), self.benefits.translate(_LINES)):
            if not _PRINTABLE.fullmatch(text):
                raise BadChangeError("an upgrade's risks or benefits hold control characters")
        if self.module == self.previous:
            raise BadChangeError("an upgrade to the module that it replaces")
        if self.native:
            if self.size or self.manifest or self.source != NATIVE or self.limits != NO_LIMITS:
                raise BadChangeError(
                    "the native reference has no bytes, source, manifest or limits"
                )
            return
        if not self.size or not self.limits.fuel or not self.limits.memory_pages:
            raise BadChangeError("an upgrade without bytes, fuel or memory")
        if self.source == NATIVE or not is_cid(self.manifest):
            raise BadChangeError("an upgrade without a source or a manifest's content id")

    @property
    def native(self) -> bool:
        """Whether it is the way back to the daemon's own reference."""
        return self.module == NATIVE


class TrainingChange(Message, frozen=True, tag_field="kind", tag="training"):
    """A model to train, how, and how its checkpoints are judged.

    The evaluation set stands here, before there is any checkpoint; which of its windows one is
    judged by is drawn when it has been proposed (ledger/training.py).
    """

    model: Cid
    """The lineage: what the training begins from, and goes by for ever."""
    plan: Plan
    evaluation: Cid
    """A DatasetManifest's."""
    windows: Annotated[int, msgspec.Meta(ge=MIN_WINDOWS, le=MAX_WINDOWS)]
    """Of the evaluation set that are drawn for one checkpoint."""
    margin: Annotated[int, msgspec.Meta(ge=1, le=MAX_MARGIN)]
    """Millionths of a nat by which a checkpoint must be better at least: an equal one is not."""

    def __post_init__(self) -> None:
        if not is_cid(self.model) or not is_cid(self.evaluation):
            raise BadChangeError("a training names something that is not a content id")
        if self.model == self.evaluation:
            raise BadChangeError("a training whose model is its evaluation set")


class Share(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """How much of a checkpoint is one identity's doing, in thousandths."""

    identity: Identity
    permille: Annotated[int, msgspec.Meta(ge=1, le=MILLE)]


class CheckpointChange(Message, frozen=True, tag_field="kind", tag="checkpoint"):
    """A model to take the place of a training's head.

    What is said here of rounds and contributors is nobody's word: members recompute it from the
    evidence (protocols/learn/evidence.py), and their verdicts are about that, too.
    """

    training: Cid
    """The lineage."""
    parent: Cid
    """The head that it was made from."""
    manifest: Cid
    """The ModelManifest of the child."""
    evidence: Cid
    """A DatasetManifest's, of one file: the committed rounds between the two."""
    heads: Hash
    """Of where all groups' rounds stand in the child (evidence.heads_digest): the next one goes
    on from there, so that no round counts twice."""
    shares: Annotated[tuple[Share, ...], msgspec.Meta(max_length=MAX_SHARES)]
    """By rising identity. What they lack of 1,000 is nobody's."""

    def __post_init__(self) -> None:
        if not all(map(is_cid, (self.training, self.parent, self.manifest, self.evidence))):
            raise BadChangeError("a checkpoint names something that is not a content id")
        if self.manifest in (self.training, self.parent):
            raise BadChangeError("a checkpoint that is its own parent")
        who = [share.identity for share in self.shares]
        if who != sorted(set(who)):
            raise BadChangeError("a checkpoint's shares are out of order, or one stands twice")
        if sum(share.permille for share in self.shares) > MILLE:
            raise BadChangeError("a checkpoint's shares are more than the whole")


class ExclusionChange(Message, frozen=True, tag_field="kind", tag="exclusion"):
    """Who is to have no office in trainings for a while, for what it signed.

    Nobody votes on it: members recompute the case (protocols/learn/case.py), and their verdicts
    decide (ledger/exclusion.py).
    """

    training: Cid
    """The lineage."""
    accused: Identity
    epoch: Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)]
    """In which the sum, or the round, was made."""
    case: Cid
    """A DatasetManifest's, of one small file: what the accused signed,"""
    evidence: Cid
    """... and another's: all that it was made from."""

    def __post_init__(self) -> None:
        if not all(map(is_cid, (self.training, self.case, self.evidence))):
            raise BadChangeError("an exclusion names something that is not a content id")
        if self.case == self.evidence:
            raise BadChangeError("an exclusion whose case is its own evidence")


Change = (
    ParameterChange
    | HumanKeyChange
    | AdoptionChange
    | UpgradeChange
    | TrainingChange
    | CheckpointChange
    | ExclusionChange
)


def touched(change: Change | None) -> tuple[bytes, ...]:
    """The manifests that a change acts on, beside those that the proposal links to."""
    if isinstance(change, TrainingChange):
        return (change.model, change.evaluation)
    if isinstance(change, CheckpointChange):
        return (change.manifest, change.evidence)
    if isinstance(change, ExclusionChange):
        return (change.case, change.evidence)
    named = change.manifest if isinstance(change, AdoptionChange | UpgradeChange) else b""
    return (named,) if named else ()
