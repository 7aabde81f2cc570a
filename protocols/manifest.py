"""Manifests: DAG-CBOR blocks that describe models and what belongs to them, by links.

    ModelManifest    a list of files (paths, sizes, tree roots), and what it was derived from
    ExpertManifest   a named part of a model: some of its tensors; depends on the model
    AdapterManifest  a LoRA: one safetensors file, and the model that it fits
    KernelManifest   one implementation of one operation for one architecture, with its claims
    UpgradeManifest  a slot's module, the source that it was built from, and with what
    DatasetManifest  text to train on or to evaluate by, or other plain files
    ProposalManifest something to decide on, the manifests that it is about, and what it changes

Rules of this file:
1. A manifest's name is the CID of its one encoding, so one changed byte is another manifest.
2. Links are hashes, so a block can only link to blocks that existed before it: cycles are
   impossible between real manifests, and `topological_order` refuses pretended ones by name.
3. A path can only name a file below the folder that it is exported to, never a pickle, and
   nothing in a folder from which other programs run code.
"""

import heapq
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Literal

import msgspec

from protocols.changes import MAX_MODULE, Change, SlotName, touched
from protocols.cid import CID_LENGTH, cid_text, is_cid
from protocols.codec import MAX_BLOCK, Message, decode, encode
from protocols.errors import LimitError, MalformedError, NotCanonicalError, RefusedError
from protocols.peerid import PEER_ID_LENGTH, public_key_of

MAX_FILES = 4096
"""Files of one model: the largest published checkpoints have some hundred shards."""
MAX_FILE_SIZE = 1 << 42
"""Bytes (4 TiB): above every published checkpoint; leaf numbers then fit 32 bits with room."""
MAX_PATH = 512
MAX_PATH_PART = 255  # what Linux file systems allow in one component
MAX_NAME = 128
MAX_DESCRIPTION = 4096
MAX_DEPENDS = 64
"""Direct dependencies of one manifest; a merge of more than a few models is not yet seen."""
MAX_TENSORS = 4096
"""Tensors of one expert; known layouts have three to nine."""
MAX_TARGETS = 256
"""Target modules or experts of an adapter; PEFT configurations name up to about ten."""
MAX_RANK = 1024
"""LoRA ranks in use are 4 to 256; larger ones are full fine-tunes in disguise."""
MAX_ALPHA_MILLI = 1_000_000_000
"""LoRA alpha in thousandths (so up to 1e6): alphas in use are 1 to 512."""
MAX_BENCHMARKS = 64
MAX_SOURCE = 4 << 20
"""Bytes of an upgrade's source: a hundred times a long policy, with room for what it is built
with."""
MAX_TOOLS = 16
MAX_MILLI = 1 << 53
"""Integers that every implementation (JavaScript too) holds exactly."""

PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib")
"""Formats whose usual loaders run code that stands in the file."""

TOOL_FOLDERS = (".git", "__pycache__")
"""Folders in which other programs find code and settings that they run: whoever exports a
stranger's model and then works in that folder must not run what stands there."""

Layout = Literal["safetensors", "flat"]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_NAME)]
Description = Annotated[str, msgspec.Meta(max_length=MAX_DESCRIPTION)]
CidBytes = Annotated[bytes, msgspec.Meta(min_length=CID_LENGTH, max_length=CID_LENGTH)]
Root = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
PeerId = Annotated[bytes, msgspec.Meta(min_length=PEER_ID_LENGTH, max_length=PEER_ID_LENGTH)]
Depends = Annotated[tuple[CidBytes, ...], msgspec.Meta(max_length=MAX_DEPENDS)]
Milli = Annotated[int, msgspec.Meta(ge=-MAX_MILLI, le=MAX_MILLI)]

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_LAYOUT_CHARACTERS = {ord("\n"): None, ord("\t"): None}
_NUMBER = r"(?:0|[1-9][0-9]{0,5})"
_EXPERT_NAME = re.compile(rf"(?:[a-z][a-z0-9_]*\.)?layer{_NUMBER}\.expert{_NUMBER}")


class BadPathError(MalformedError):
    """A path in a manifest that could leave its folder, or that file systems cannot hold."""

    code = "bad-path"


class PickleRefusedError(RefusedError):
    """A file in a format whose loaders run code from it."""

    code = "pickle-refused"


class BadManifestError(MalformedError):
    """A manifest whose parts contradict each other."""

    code = "bad-manifest"


class UnknownDependencyError(RefusedError):
    """A manifest depends on one that is not there."""

    code = "unknown-dependency"


class CycleError(MalformedError):
    """Manifests that depend on each other in a circle."""

    code = "dependency-cycle"


class WrongBaseError(RefusedError):
    """An adapter for another model."""

    code = "wrong-base"


def check_text(text: str, what: str, *, lines: bool = False) -> None:
    """Raise BadManifestError where `text` holds control or direction-changing characters.

    People see it on their terminals. With `lines` it may have line ends and tabs.
    """
    if _CONTROL.search(text.translate(_LAYOUT_CHARACTERS) if lines else text):
        raise BadManifestError(f"{what} {text[:80]!r} holds control characters")


def check_path(path: str) -> None:
    """Raise BadPathError or PickleRefusedError unless `path` is a plain relative file path."""

    def refuse(why: str) -> BadPathError:
        return BadPathError(
            f"the path {path[:120]!r} {why}",
            remedy="a path is relative, with / between its parts, and stays below its folder",
        )

    if not path or len(path.encode("utf-8", "surrogatepass")) > MAX_PATH:
        raise refuse(f"is empty or longer than {MAX_PATH} bytes")
    if _CONTROL.search(path) or "\\" in path:
        raise refuse("holds a control character, a lone surrogate or a backslash")
    for part in path.split("/"):
        if part in ("", ".", ".."):
            raise refuse("is absolute, or has an empty, . or .. part")
        if part.casefold() in TOOL_FOLDERS:
            raise refuse(f"goes through {part}, from which other programs run code")
        if len(part.encode()) > MAX_PATH_PART:
            raise refuse(f"has a part longer than {MAX_PATH_PART} bytes")
    if is_pickle_name(path):
        raise PickleRefusedError(
            f"{path!r} is in a format whose loaders run code from the file",
            remedy="convert it to safetensors",
        )


def is_pickle_name(path: str) -> bool:
    """Whether the name's ending is that of a format whose loaders may run code."""
    return path.lower().endswith(PICKLE_SUFFIXES)


def _check_cids(cids: Sequence[bytes], what: str) -> None:
    if not all(is_cid(cid) for cid in cids):
        raise BadManifestError(f"{what} names something that is not a content id")
    if len(set(cids)) != len(cids):
        raise BadManifestError(f"{what} names the same content id twice")


def _check_file_tree(paths: Sequence[str]) -> None:
    if list(paths) != sorted(set(paths)):
        raise BadManifestError("the files are not in order of their paths, or one stands twice")
    names = set(paths)
    for path in paths:
        parts = path.split("/")
        for depth in range(1, len(parts)):
            if "/".join(parts[:depth]) in names:
                raise BadManifestError(f"{path!r} lies below another file")


class FileRef(Message, frozen=True):
    """One file: where it goes, and the size and tree root that name its bytes."""

    path: str
    size: Annotated[int, msgspec.Meta(ge=0, le=MAX_FILE_SIZE)]
    root: Root
    layout: Layout

    def __post_init__(self) -> None:
        check_path(self.path)


class ModelManifest(Message, frozen=True, tag_field="kind", tag="model"):
    """A model: its files in order of their paths, and the models that it was derived from."""

    name: Name
    description: Description
    files: Annotated[tuple[FileRef, ...], msgspec.Meta(min_length=1, max_length=MAX_FILES)]
    depends_on: Depends

    def __post_init__(self) -> None:
        check_text(self.name, "the name")
        check_text(self.description, "the description", lines=True)
        _check_cids(self.depends_on, "depends_on")
        _check_file_tree([ref.path for ref in self.files])


class TensorRef(Message, frozen=True):
    """One tensor of a model: `file` counts the manifest's files from 0, `section` is the
    tensor's number in order of data offsets, from 1 (0 is the header)."""

    file: Annotated[int, msgspec.Meta(ge=0, lt=MAX_FILES)]
    section: Annotated[int, msgspec.Meta(ge=1, lt=1 << 24)]


class ExpertManifest(Message, frozen=True, tag_field="kind", tag="expert"):
    """A named part of a model (`layer4.expert7`, `decoder.layer1.expert0`)."""

    model: CidBytes
    name: Name
    tensors: Annotated[tuple[TensorRef, ...], msgspec.Meta(min_length=1, max_length=MAX_TENSORS)]
    depends_on: Depends

    def __post_init__(self) -> None:
        _check_cids((self.model, *self.depends_on), "the expert")
        if not _EXPERT_NAME.fullmatch(self.name):
            raise BadManifestError(f"{self.name[:80]!r} is not an expert's name (layer4.expert7)")
        places = [(ref.file, ref.section) for ref in self.tensors]
        if places != sorted(set(places)):
            raise BadManifestError("an expert's tensors are not in order, or one stands twice")


class AdapterManifest(Message, frozen=True, tag_field="kind", tag="adapter"):
    """A LoRA adapter (Hu et al. 2021): one safetensors file of A and B factors.

    `target_modules` are exact module name endings as in PEFT, never patterns. `author` is a
    claim until the announcement that names this manifest verifies with the author's key;
    `approved_by_human` is the author's word, and nothing is decided by it.
    """

    name: Name
    description: Description
    base: CidBytes
    target_modules: Annotated[tuple[Name, ...], msgspec.Meta(min_length=1, max_length=MAX_TARGETS)]
    target_experts: Annotated[tuple[Name, ...], msgspec.Meta(max_length=MAX_TARGETS)]
    rank: Annotated[int, msgspec.Meta(ge=1, le=MAX_RANK)]
    alpha_milli: Annotated[int, msgspec.Meta(ge=1, le=MAX_ALPHA_MILLI)]
    file: FileRef
    author: PeerId
    approved_by_human: bool
    depends_on: Depends

    def __post_init__(self) -> None:
        check_text(self.name, "the name")
        check_text(self.description, "the description", lines=True)
        _check_cids((self.base, *self.depends_on), "the adapter")
        public_key_of(self.author)
        if self.file.layout != "safetensors":
            raise BadManifestError("an adapter's file is safetensors")
        for targets in (self.target_modules, self.target_experts):
            if list(targets) != sorted(set(targets)):
                raise BadManifestError("an adapter's targets are not sorted, or one stands twice")
        for module in self.target_modules:
            if not re.fullmatch(r"[A-Za-z0-9_]+(?:\.[A-Za-z0-9_]+)*", module):
                raise BadManifestError(f"{module[:80]!r} is a pattern, not a module's name")
        for expert in self.target_experts:
            if not _EXPERT_NAME.fullmatch(expert):
                raise BadManifestError(f"{expert[:80]!r} is not an expert's name")


class Benchmark(Message, frozen=True):
    """One claim, to be reproduced by whoever receives it: thousandths of `unit`."""

    metric: Name
    unit: Name
    workload: Name
    value: Milli
    baseline: Milli

    def __post_init__(self) -> None:
        for text in (self.metric, self.unit, self.workload):
            check_text(text, "a benchmark's text")


def _check_word(word: str) -> None:
    if not re.fullmatch(r"[a-z0-9][a-z0-9._+-]*", word):
        raise BadManifestError(f"{word[:80]!r} is not a lower-case word")


Benchmarks = Annotated[tuple[Benchmark, ...], msgspec.Meta(min_length=1, max_length=MAX_BENCHMARKS)]


class KernelManifest(Message, frozen=True, tag_field="kind", tag="kernel"):
    """One implementation of one operation (`swiglu`) for one architecture (`x86-64-v3`)."""

    name: Name
    description: Description
    operation: Name
    architecture: Name
    language: Name
    file: FileRef
    benchmarks: Benchmarks
    author: PeerId
    depends_on: Depends

    def __post_init__(self) -> None:
        for word in (self.operation, self.architecture, self.language):
            _check_word(word)
        check_text(self.name, "the name")
        check_text(self.description, "the description", lines=True)
        public_key_of(self.author)
        _check_cids(self.depends_on, "the kernel")
        if self.file.size == 0:
            raise BadManifestError("a kernel's file is empty")
        claims = [(claim.metric, claim.workload) for claim in self.benchmarks]
        if claims != sorted(set(claims)):
            raise BadManifestError("a kernel's benchmarks are not sorted, or one stands twice")


class Tool(Message, frozen=True):
    """What a module was built with, as the tool itself names its version."""

    name: Name
    version: Name

    def __post_init__(self) -> None:
        check_text(self.name, "a tool's name")
        check_text(self.version, "a tool's version")


class UpgradeManifest(Message, frozen=True, tag_field="kind", tag="upgrade"):
    """A WebAssembly module for one slot, and its source: the same source, language and tools give
    the same bytes, so that anybody can build it anew.

    The hashes are sha256 of the plain bytes. They stand in the proposal, too, and what was voted
    on there is what runs: a manifest that says otherwise is another upgrade's.
    """

    slot: SlotName
    abi: Annotated[int, msgspec.Meta(ge=1, lt=1 << 31)]
    description: Description
    module: FileRef
    module_hash: Root
    source: FileRef
    source_hash: Root
    language: Name
    tools: Annotated[tuple[Tool, ...], msgspec.Meta(max_length=MAX_TOOLS)]
    evidence: Annotated[tuple[Benchmark, ...], msgspec.Meta(max_length=MAX_BENCHMARKS)]
    author: PeerId
    depends_on: Depends

    def __post_init__(self) -> None:
        check_text(self.description, "the description", lines=True)
        public_key_of(self.author)
        _check_cids(self.depends_on, "the upgrade")
        _check_word(self.language)
        if not 0 < self.module.size <= MAX_MODULE or not 0 < self.source.size <= MAX_SOURCE:
            raise BadManifestError(
                f"a module has at most {MAX_MODULE} bytes and its source {MAX_SOURCE}, and neither "
                "is empty"
            )
        if self.module.layout != "flat" or self.source.layout != "flat":
            raise BadManifestError("an upgrade's files are flat")
        if self.module.path == self.source.path:
            raise BadManifestError("an upgrade's module and source have one name")
        names = [tool.name for tool in self.tools]
        if names != sorted(set(names)):
            raise BadManifestError("an upgrade's tools are not sorted, or one stands twice")
        claims = [(claim.metric, claim.workload) for claim in self.evidence]
        if claims != sorted(set(claims)):
            raise BadManifestError("an upgrade's evidence is not sorted, or one claim stands twice")


class DatasetManifest(Message, frozen=True, tag_field="kind", tag="dataset"):
    """Data: its files in order of their paths. Nothing in them is ever run."""

    name: Name
    description: Description
    files: Annotated[tuple[FileRef, ...], msgspec.Meta(min_length=1, max_length=MAX_FILES)]

    def __post_init__(self) -> None:
        check_text(self.name, "the name")
        check_text(self.description, "the description", lines=True)
        _check_file_tree([ref.path for ref in self.files])


class ProposalManifest(Message, frozen=True, tag_field="kind", tag="proposal", omit_defaults=True):
    """Something to decide on: as text, and as the change that it makes, if it makes one.

    `depends_on` are the manifests that it is about.
    """

    title: Name
    description: Description
    author: PeerId
    depends_on: Depends
    change: Change | None = None

    def __post_init__(self) -> None:
        check_text(self.title, "the title")
        check_text(self.description, "the description", lines=True)
        public_key_of(self.author)
        _check_cids(self.depends_on, "the proposal")


Manifest = (
    ModelManifest
    | ExpertManifest
    | AdapterManifest
    | KernelManifest
    | UpgradeManifest
    | DatasetManifest
    | ProposalManifest
)


def encode_manifest(manifest: Manifest) -> bytes:
    """The one encoding of a manifest. Raises LimitError where it does not fit a block."""
    data = encode(manifest)
    if len(data) > MAX_BLOCK:
        raise LimitError(
            f"the manifest takes {len(data)} bytes where a block has {MAX_BLOCK}",
            remedy="merge small files, or import parts of the model as models of their own",
        )
    return data


def decode_manifest(data: bytes) -> Manifest:
    """The manifest in a block. Raises MalformedError (by name), LimitError, RefusedError."""
    manifest: Manifest = decode(data, Manifest)  # type: ignore[arg-type]  # a union is a type form
    if encode(manifest) != data:
        raise NotCanonicalError("a manifest that leaves out or reorders fields")
    return manifest


def links(manifest: Manifest) -> tuple[bytes, ...]:
    """The CIDs of the manifests that this one depends on."""
    if isinstance(manifest, ExpertManifest):
        return (manifest.model, *manifest.depends_on)
    if isinstance(manifest, AdapterManifest):
        return (manifest.base, *manifest.depends_on)
    if isinstance(manifest, ProposalManifest):
        about = set(manifest.depends_on)
        acted_on = (cid for cid in touched(manifest.change) if cid not in about)
        return (*acted_on, *manifest.depends_on)
    return () if isinstance(manifest, DatasetManifest) else manifest.depends_on


def files(manifest: Manifest) -> tuple[FileRef, ...]:
    """The files whose bytes belong to this manifest itself (an expert's are its model's)."""
    if isinstance(manifest, ModelManifest | DatasetManifest):
        return manifest.files
    if isinstance(manifest, AdapterManifest | KernelManifest):
        return (manifest.file,)
    if isinstance(manifest, UpgradeManifest):
        return (manifest.module, manifest.source)
    return ()


def check_base(adapter: AdapterManifest, model: bytes) -> None:
    """Raise WrongBaseError unless the adapter was made for the model with this CID."""
    if adapter.base != model:
        raise WrongBaseError(
            f"adapter {adapter.name!r} fits {cid_text(adapter.base)}, not {cid_text(model)}",
            remedy="pull the model that it names, or choose another adapter",
        )


def topological_order(
    depends: Mapping[bytes, Sequence[bytes]], known: Iterable[bytes] = ()
) -> list[bytes]:
    """The keys of `depends` with parents (what is depended on) before children.

    The order is the same on every machine: of those that may come next, the least CID does
    (Kahn 1962 with a heap). `known` are CIDs that are already there. Raises
    UnknownDependencyError, or CycleError naming one circle.
    """
    there = set(known)
    waiting: dict[bytes, int] = {}
    children: dict[bytes, list[bytes]] = {}
    for child in sorted(depends):
        parents = sorted(set(depends[child]) - there)
        for parent in parents:
            if parent not in depends:
                raise UnknownDependencyError(
                    f"{_name(child)} depends on {_name(parent)}, which is not there",
                    remedy="fetch it first",
                )
            children.setdefault(parent, []).append(child)
        waiting[child] = len(parents)
    ready = [cid for cid, count in waiting.items() if count == 0]
    heapq.heapify(ready)
    order: list[bytes] = []
    while ready:
        cid = heapq.heappop(ready)
        order.append(cid)
        for child in children.get(cid, ()):
            waiting[child] -= 1
            if waiting[child] == 0:
                heapq.heappush(ready, child)
    if len(order) < len(depends):
        raise _cycle_error(depends, {cid for cid, count in waiting.items() if count})
    return order


def _cycle_error(depends: Mapping[bytes, Sequence[bytes]], stuck: set[bytes]) -> CycleError:
    # Each stuck node waits for a stuck parent, so walking to the least of them must repeat.
    path = [min(stuck)]
    while True:
        parent = min(cid for cid in depends[path[-1]] if cid in stuck)
        if parent in path:
            circle = [*path[path.index(parent) :], parent]
            return CycleError("a circle of dependencies: " + " -> ".join(map(_name, circle)))
        path.append(parent)


def _name(cid: bytes) -> str:
    return cid_text(cid) if is_cid(cid) else cid.hex()
