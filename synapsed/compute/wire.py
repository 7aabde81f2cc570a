"""What the node and the compute worker say to each other: length-prefixed msgpack on a socket.

Tensors never travel here: they lie in files, which both sides name by their paths. Requests carry
a number that their replies repeat; many may be under way at once. The worker is our own code, but
what kills it may garble it first, so its words go through strict types and limits all the same.

A request goes to one of four lanes of the worker, each a thread that takes its requests in order:

    talk      generate, and opening models: everything else stands still while somebody generates
    train     steps of local training, and whatever touches the training copy of a model
    serve     what a group's replicas and aggregators do: they must not wait for a round of steps
    measure   evaluations, which take minutes
"""

import struct
from typing import Annotated

import msgspec

from protocols.learn.claims import MAX_INPUTS, MILLE, Digest, GroupNumber, Number, Size
from protocols.plan import MAX_CONTEXT, MAX_STEPS, Phase, Plan

HEAD = struct.Struct("<I")
"""Before each message: its length."""
MAX_MESSAGE = 32 << 20
"""Bytes of one message: MAX_GROUPS paths of versions take 16 MB."""
MAX_TEXT = 2000
"""Characters of an error's text: names of files and tensors are cut to fit."""
SOCKET_FD = 3
"""The worker's descriptor of the socket."""

MAX_KEY = 64
MAX_PATH = 4096
MAX_FILES = 4096
MAX_PROMPT = 1 << 20
MAX_TOKENS = 1 << 16
"""Of one answer; its pieces may wait in the node's memory until somebody reads them."""
MAX_WINDOWS = 1 << 16
MAX_CHAIN = 1 << 16
"""Results that one catching up applies in a row."""

Word = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
Key = Annotated[bytes, msgspec.Meta(min_length=1, max_length=MAX_KEY)]
"""A model's or a lineage's CID, or any name by which the node speaks of what it has opened."""
Path = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_PATH)]
Text = Annotated[str, msgspec.Meta(max_length=MAX_TEXT)]


class _Message(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """An array without names."""


class _Request(_Message, frozen=True):
    number: Word


class ModelFile(_Message, frozen=True):
    """A file of a model, in the manifest's order: its number is its place in the list."""

    name: Path
    """In the manifest: `config.json`, `model-00001-of-00002.safetensors`."""
    path: Path
    """Where its bytes are."""


Files = Annotated[tuple[ModelFile, ...], msgspec.Meta(min_length=1, max_length=MAX_FILES)]


class Blob(_Message, frozen=True):
    """A file that the worker made, whole. `digest` is sha256 of its bytes. It is not synced to
    the disk: the node does that with what it keeps."""

    path: Path
    digest: Digest
    size: Size


class Version(_Message, frozen=True):
    """A group's values as a file (protocols/learn/partition.py); `head` is its TensorBlock root."""

    group: GroupNumber
    path: Path
    head: Digest


# -- requests: any lane ------------------------------------------------------------------------


class Settings(_Request, frozen=True, tag=1):
    """First of all, once: how much of the machine may be used. 0 and empty: decide for yourself."""

    threads: Annotated[int, msgspec.Meta(ge=0, le=1024)]
    memory: Word
    """Bytes: of the card where there is one; elsewhere of private memory, beside torch's own."""
    device: Annotated[str, msgspec.Meta(max_length=32)]
    """`cpu`, `cuda`, `cuda:1`; empty: the first card if there is one."""


class Cancel(_Request, frozen=True, tag=2):
    """Nobody waits any more for the request of this number."""


class Stop(_Request, frozen=True, tag=3):
    """End."""


class Look(_Request, frozen=True, tag=4):
    """How are you: answered with Seen, at once, whatever is under way."""


class Beat(_Request, frozen=True, tag=5):
    """Do you live: answered with Alive, at once, by the thread that does nothing else."""


# -- requests: talk ----------------------------------------------------------------------------


class NewModel(_Request, frozen=True, tag=10):
    """Write a fresh model of a kind that we know into `folder`, which is made."""

    kind: Annotated[str, msgspec.Meta(max_length=32)]
    folder: Path
    seed: Word


class OpenModel(_Request, frozen=True, tag=11):
    """Map a model: answered with Opened."""

    key: Key
    files: Files


class CloseModel(_Request, frozen=True, tag=12):
    """Forget a model."""

    key: Key


class Generate(_Request, frozen=True, tag=13):
    """Answered with a Piece for each piece of text, then Done."""

    key: Key
    prompt: Annotated[str, msgspec.Meta(max_length=MAX_PROMPT)]
    tokens: Annotated[int, msgspec.Meta(ge=1, le=MAX_TOKENS)]
    temperature: Annotated[float, msgspec.Meta(ge=0, le=100)]
    """0: always the likeliest token."""
    seed: Word


# -- requests: measure -------------------------------------------------------------------------


class Evaluate(_Request, frozen=True, tag=20):
    """Mean nats per token of each window of a text: window i begins at token i * context.
    Answered with Losses. `key` is that of an open model, or of a training, whose base is meant."""

    key: Key
    data: Path
    context: Annotated[int, msgspec.Meta(ge=2, le=MAX_CONTEXT)]
    windows: Annotated[tuple[Word, ...], msgspec.Meta(max_length=MAX_WINDOWS)]
    """Empty: none, the answer tells only how many there are."""


# -- requests: train ---------------------------------------------------------------------------


class LoadTraining(_Request, frozen=True, tag=30):
    """Make the fp32 copy that is trained: from a model's files, and the versions that are newer."""

    key: Key
    files: Files
    versions: dict[GroupNumber, Path]
    data: Path
    """A text file, or a folder of them."""
    plan: Plan
    seed: Word
    """The learner's own: it decides the order of its data."""
    step: Word
    """Of this learner's steps so far: where in that order it goes on."""
    state: Annotated[str, msgspec.Meta(max_length=MAX_PATH)]
    """A file of SaveTraining's; empty: none."""


class Train(_Request, frozen=True, tag=31):
    """So many AdamW steps from where the copy is, as `phase` has them. Answered with Trained.

    In a phase of one step a round, AdamW runs at the primary: there it is one gradient, which is
    encoded as it is, and the copy does not move."""

    key: Key
    steps: Annotated[int, msgspec.Meta(ge=1, le=MAX_STEPS)]
    phase: Phase


class Encode(_Request, frozen=True, tag=32):
    """What training changed since each group's base, as deltas. Answered with Encoded. The copy
    takes it as sent: the next delta has what comes after."""

    key: Key
    groups: tuple[GroupNumber, ...]
    phase: Phase
    folder: Path


class TakeBack(_Request, frozen=True, tag=33):
    """Nobody took these groups' last deltas: what they said goes into the next ones."""

    key: Key
    groups: tuple[GroupNumber, ...]


class Apply(_Request, frozen=True, tag=34):
    """Move a group's base by a round's result. Answered with Done, or Failed "compute-head" where
    the version would not be `head`; nothing has moved then."""

    key: Key
    group: GroupNumber
    result: Path
    head: Digest


class Replace(_Request, frozen=True, tag=35):
    """Move a group's base to a version, from wherever it is. Answered like Apply."""

    key: Key
    version: Version


class SaveTraining(_Request, frozen=True, tag=36):
    """Write what a learner would lose (moments, residuals) to a file, for LoadTraining."""

    key: Key
    path: Path


class CloseTraining(_Request, frozen=True, tag=37):
    """Forget a training."""

    key: Key


# -- requests: serve ---------------------------------------------------------------------------


class Cut(_Request, frozen=True, tag=40):
    """The versions that a model's files are, of the groups named. Answered with Versions."""

    files: Files
    group_bytes: Word
    groups: tuple[GroupNumber, ...]
    folder: Path


class Given(_Message, frozen=True):
    """A delta, or a region's sum, that goes into a round: `weight` learners stand behind it."""

    path: Path
    weight: Annotated[int, msgspec.Meta(ge=1, le=MAX_INPUTS)]


class Aggregate(_Request, frozen=True, tag=41):
    """One round at the primary: answered with Aggregated. A function of the files alone, the same
    everywhere, so that anybody can recompute it."""

    plan: Plan
    round: Number
    group: GroupNumber
    base: Path
    """The version before."""
    state: Annotated[str, msgspec.Meta(max_length=MAX_PATH)]
    """The outer optimiser's after the round before; empty: it begins."""
    inputs: Annotated[tuple[Given, ...], msgspec.Meta(min_length=1, max_length=MAX_INPUTS)]
    """In the record's order."""
    folder: Path


class Combine(_Request, frozen=True, tag=42):
    """A region's deltas of one group as one. Answered with Combined."""

    plan: Plan
    round: Number
    base: Path
    """Any version of the group: it says what tiles there are."""
    inputs: Annotated[tuple[Given, ...], msgspec.Meta(min_length=1, max_length=MAX_INPUTS)]
    carry: Annotated[str, msgspec.Meta(max_length=MAX_PATH)]
    """What the sum before left out, as an int8 delta; empty: nothing."""
    folder: Path


class Link(_Message, frozen=True):
    """One round's result, and the version after it."""

    result: Path
    head: Digest


class Advance(_Request, frozen=True, tag=43):
    """Apply results, one after another, to a version on disk; the last one is written. Answered
    with Versions, or Failed "compute-head" at the first that disagrees."""

    group: GroupNumber
    base: Path
    links: Annotated[tuple[Link, ...], msgspec.Meta(min_length=1, max_length=MAX_CHAIN)]
    folder: Path


class CheckDelta(_Request, frozen=True, tag=45):
    """Whether a delta can be decoded: answered with Done, or Failed "compute-delta"."""

    base: Path
    """Any version of the group."""
    delta: Path


class Compare(_Request, frozen=True, tag=46):
    """Whether two deltas of a group say the same to the bit, however each is packed. Answered with
    Compared; one that cannot be decoded is like no other."""

    base: Path
    """Any version of the group."""
    one: Path
    other: Path


class WriteModel(_Request, frozen=True, tag=44):
    """A model like `files`, with the versions' values in its tensors' own types: a checkpoint."""

    files: Files
    group_bytes: Word
    versions: dict[GroupNumber, Path]
    folder: Path


# -- replies -----------------------------------------------------------------------------------


class Ready(_Message, frozen=True, tag=100):
    """It listens. `pid` is its own, which the node cannot know where a fork server started it."""

    pid: Word


class Done(_Message, frozen=True, tag=101):
    """What was asked for is done."""

    number: Word


class Failed(_Message, frozen=True, tag=102):
    """It cannot be done, and the worker goes on. `code` is that of a class in errors.py."""

    number: Word
    code: Annotated[str, msgspec.Meta(max_length=64)]
    message: Text
    remedy: Text


class Piece(_Message, frozen=True, tag=103):
    """A piece of the text that is being generated."""

    number: Word
    text: Annotated[str, msgspec.Meta(max_length=MAX_TEXT)]


class Opened(_Message, frozen=True, tag=104):
    """A model that is open."""

    number: Word
    kind: Annotated[str, msgspec.Meta(max_length=64)]
    """`olmoe`, `mixtral`."""
    parameters: Word
    bytes: Word
    """Of its tensors, mapped."""
    copied: Word
    """Of them, those that could not be mapped as they are."""
    context: Word
    """Tokens that it was made for."""
    vocabulary: Word
    device: Annotated[str, msgspec.Meta(max_length=32)]


class Losses(_Message, frozen=True, tag=105):
    """One for each window asked for; `windows` is how many the text has."""

    number: Word
    losses: Annotated[tuple[float, ...], msgspec.Meta(max_length=MAX_WINDOWS)]
    windows: Word


class Loaded(_Message, frozen=True, tag=106):
    """A training is ready: its groups' heads, in order, and where in its data it goes on."""

    number: Word
    heads: tuple[Digest, ...]
    step: Word
    parameters: Word


class Trained(_Message, frozen=True, tag=107):
    """What steps came to."""

    number: Word
    losses: Annotated[tuple[float, ...], msgspec.Meta(max_length=MAX_STEPS)]
    """Of each step, in nats per token, before it."""
    tokens: Word
    seconds: float
    """In torch, without waiting for those who generate."""
    step: Word


class Encoded(_Message, frozen=True, tag=108):
    """A delta for each group asked for."""

    number: Word
    deltas: dict[GroupNumber, Blob]


class Versions(_Message, frozen=True, tag=109):
    """Versions that were written."""

    number: Word
    versions: tuple[Version, ...]


class Aggregated(_Message, frozen=True, tag=110):
    """A round's result, the version that it makes and the outer optimiser's state after it."""

    number: Word
    result: Blob
    state: Blob | None
    """None: there is none to keep."""
    version: Version
    shares: tuple[Annotated[int, msgspec.Meta(ge=0, le=MILLE)], ...]
    """Of the inputs, in order, in thousandths."""
    bad: tuple[Word, ...] = ()
    """Inputs that are no deltas of this group: as if they were not there."""


class Combined(_Message, frozen=True, tag=111):
    """A region's sum."""

    number: Word
    delta: Blob
    left: Blob
    """What its encoding left out: the next sum's `carry`."""
    bad: tuple[Word, ...] = ()
    """As in Aggregated."""


class Compared(_Message, frozen=True, tag=113):
    """The answer to Compare."""

    number: Word
    same: bool


class Seen(_Message, frozen=True, tag=112):
    """What the worker is doing, for people and for measurements."""

    number: Word
    device: Annotated[str, msgspec.Meta(max_length=128)]
    threads: Word
    resident: Word
    """Bytes of its memory that are resident, mapped files included."""
    card: Word
    """Bytes that it holds on the card."""
    busy_s: float
    """Seconds that it spent in steps of training, in all."""
    yields: Word
    """Times that something stood still because somebody generated."""
    yield_ms: float
    """The longest from somebody's wish to generate until training stood still."""
    stretch_ms: float
    """The longest piece of work between two points where it can stand still."""


class Alive(_Message, frozen=True, tag=114):
    """The answer to Beat."""

    number: Word
    still_s: Annotated[float, msgspec.Meta(ge=0)]
    """Since that of the requests under way which is silent longest last passed the gate."""


Request = (
    Settings
    | Cancel
    | Stop
    | Look
    | Beat
    | NewModel
    | OpenModel
    | CloseModel
    | Generate
    | Evaluate
    | LoadTraining
    | Train
    | Encode
    | TakeBack
    | Apply
    | Replace
    | SaveTraining
    | CloseTraining
    | Cut
    | Aggregate
    | Combine
    | Advance
    | CheckDelta
    | Compare
    | WriteModel
)
Reply = (
    Ready
    | Done
    | Failed
    | Piece
    | Opened
    | Losses
    | Loaded
    | Trained
    | Encoded
    | Versions
    | Aggregated
    | Combined
    | Compared
    | Seen
    | Alive
)

_encoder = msgspec.msgpack.Encoder()
requests: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request)
replies: msgspec.msgpack.Decoder[Reply] = msgspec.msgpack.Decoder(Reply)


def frame(message: Request | Reply) -> bytes:
    """A message as it travels."""
    body = _encoder.encode(message)
    return HEAD.pack(len(body)) + body
