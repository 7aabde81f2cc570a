"""What the control socket says and is told: one struct a JSON shape, stable for scripts.

Ids are text here (CIDs base32, peer ids base58), sizes are bytes, times are Unix seconds.
The schemas of the OpenAPI document are made from these structs, so they are the contract.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from synapsed.control.fields import (
    MAX_PULLS_LIMIT,
    Bytes,
    Cids,
    CidText,
    ExpertName,
    ModuleName,
    Name,
    Parts,
    PathText,
    PeerText,
    Quota,
    Text,
    Word,
)
from synapsed.control.ledgermodels import LedgerCounters, LedgerGlance
from synapsed.doctor.report import Check
from synapsed.process.metrics import ProcessReading
from synapsed.training.said import TrainingCounters

Kind = Literal["shard", "adapter", "kernel", "upgrade", "dataset", "proposal"]
Which = Literal["connected", "live", "all"]

KEEP_ALIVE_S = 15.0
"""Between two comments on a quiet stream: clients may count on one."""


class Struct(msgspec.Struct):
    """A reply. Construct it with keywords: the order of the fields is only how people read it."""


class Request(msgspec.Struct, forbid_unknown_fields=True):
    """A request's body: a field that we do not know is an error, not a wish ignored."""


# -- errors ---------------------------------------------------------------------------------


class Problem(Struct):
    """Every error, from every path: `error` is a stable code, `remedy` says what to do."""

    error: str
    message: str
    remedy: str = ""
    status: int = 500
    """The HTTP status, again: an error that ends a stream comes after the headers."""


# -- status ---------------------------------------------------------------------------------


class StoreUse(Struct):
    """Disk that the store takes, against its quota."""

    used: int
    quota: int


JobKind = Literal[
    "import",
    "pull",
    "export",
    "scrub",
    "submit",
    "fetch",
    "replay",
    "join",
    "checkpoint",
    "new",
    "evaluate",
    "audit",
]


class JobInfo(Struct):
    """Long work under way for some client."""

    id: int
    kind: JobKind
    subject: str
    detached: bool
    started: float
    progress: "Progress | None" = None


class Status(Struct):
    """One daemon at a glance."""

    peer_id: str
    network: str
    version: str
    pid: int
    home: str
    state: Literal["running", "paused"]
    started: float
    uptime: float
    addrs: list[str]
    connected: int
    target_peers: int
    live: int
    """Daemons whose signed heartbeat is in force, this one included."""
    announcements: int
    models: int
    store: StoreUse
    messages_per_second: float
    ledger: LedgerGlance | None = None
    """None where the daemon was given no genesis."""
    warnings: list[str] = []
    """What the owner should know now: "bootstrap 10.0.0.2 refused; tried again in 20 s"."""
    process: ProcessReading | None = None
    jobs: list[JobInfo] = []
    """The control socket fills in `process` and `jobs`."""


# -- peers ----------------------------------------------------------------------------------


class PeerInfo(Struct):
    """One peer: connected to us, alive by its heartbeat, or banned."""

    peer_id: str
    connected: bool
    live: bool
    addrs: list[str]
    direction: Literal["in", "out"] | None = None
    local: bool = False
    """On this machine or the local network."""
    agent: str = ""
    since: float | None = None
    rtt_ms: float | None = None
    score: float = 0.0
    throughput: float | None = None
    """Bytes per second, moving average of what it sent us."""
    faults: int = 0
    expires: float | None = None
    """When its heartbeat runs out."""
    banned_until: float | None = None
    """It is neither dialled nor let in until then, for its faults."""


class Peers(Struct):
    peers: list[PeerInfo]


class PeerRequest(Request):
    peer_id: PeerText


class ConnectRequest(Request):
    addr: Annotated[str, Meta(min_length=1, max_length=500)]
    """A multiaddr that ends in /p2p/PEER."""


class Pong(Struct):
    peer_id: str
    rtt_ms: float


# -- announcements --------------------------------------------------------------------------


class AnnouncementInfo(Struct):
    """A live announcement of the catalog."""

    id: str
    kind: Kind
    issuer: str
    subject: str
    seq: int
    issued: float
    expires: float
    own: bool
    body: dict[str, Any]
    score: int | None = None
    """Of an adapter, where adapters alone are listed: how well it suits this machine."""


class Announcements(Struct):
    announcements: list[AnnouncementInfo]


class AdapterDraft(Request, kw_only=True, tag_field="kind", tag="adapter"):
    """A LoRA adapter to publish (Hu et al. 2021); the daemon adds the author."""

    name: Name
    description: Text = ""
    base: CidText
    rank: Annotated[int, Meta(ge=1, le=1024)]
    alpha: Annotated[float, Meta(gt=0, le=1e6)]
    target_modules: Annotated[list[ModuleName], Meta(min_length=1, max_length=256)]
    target_experts: Annotated[list[ExpertName], Meta(max_length=256)] = []
    file: PathText
    """Its safetensors file, on the daemon's machine."""
    depends_on: Cids = []
    approved_by_human: bool = False


class BenchmarkDraft(Request, kw_only=True):
    """One claim about a kernel, in `unit`: its own value and the reference's."""

    metric: Name
    unit: Name
    workload: Name
    value: Annotated[float, Meta(ge=-1e12, le=1e12)]
    baseline: Annotated[float, Meta(ge=-1e12, le=1e12)]


class KernelDraft(Request, kw_only=True, tag_field="kind", tag="kernel"):
    """One implementation of one operation for one architecture, to publish."""

    name: Name
    description: Text = ""
    operation: Word
    architecture: Word
    language: Word
    file: PathText
    benchmarks: Annotated[list[BenchmarkDraft], Meta(min_length=1, max_length=64)]
    """The first is the one that the announcement carries."""
    depends_on: Cids = []


class ProposalDraft(Request, kw_only=True, tag_field="kind", tag="proposal"):
    """Something to be voted on, to publish."""

    title: Name
    text: Text = ""


Draft = AdapterDraft | KernelDraft | ProposalDraft
"""What `announce` publishes: told apart by `kind`."""


# -- models ---------------------------------------------------------------------------------


class ModelInfo(Struct):
    """A model whose manifest this daemon has. `held` counts verified bytes on this disk.

    `reasons` says why it is pinned: imported, pulled, user (`model pin`), replica (held for
    others, who had too few copies), ...
    """

    cid: str
    name: str
    size: int
    held: int
    complete: bool
    pinned: bool
    files: int
    experts: int
    reasons: list[str] = []


class Models(Struct):
    models: list[ModelInfo]


class FileInfo(Struct):
    path: str
    size: int
    root: str
    layout: Literal["safetensors", "flat"]
    held: int
    complete: bool


class ExpertInfo(Struct):
    cid: str
    name: str
    tensors: int
    size: int


class HolderInfo(Struct):
    """Somebody who announces tiles of the model."""

    peer_id: str
    tiles: int
    proven: bool
    """It answered a random sub-tile probe lately, so it counts towards R."""
    own: bool


class ModelDetail(Struct):
    model: ModelInfo
    file_list: list[FileInfo]
    expert_list: list[ExpertInfo]
    holders: list[HolderInfo]
    tiles: int
    under_replicated: int
    """Tiles with fewer than R proven holders."""


class ImportRequest(Request):
    path: PathText
    name: Name | None = None


class PullRequest(Request):
    experts: Parts = []
    tensors: Parts = []
    """Both empty: the whole model."""


class ExportRequest(Request):
    path: PathText


class Progress(Struct):
    """How far long work has come: `done` and `total` are bytes; tiles where there are any."""

    stage: str
    done: int
    total: int
    tiles_done: int = 0
    tiles_total: int = 0
    peers: int = 0
    sent: str = ""
    """Of a submission that waits for the council: the CID of its proposal, or else its id."""


class ImportResult(Struct):
    cid: str
    name: str
    size: int
    files: int
    experts: int


class SourceReport(Struct):
    """What one peer gave to a pull."""

    peer_id: str
    bytes: int
    subtiles: int
    faults: list[str] = []


class PullResult(Struct):
    cid: str
    name: str
    size: int
    """Bytes that were asked for."""
    fetched: int
    """Of those, bytes that were not here before."""
    seconds: float
    sources: list[SourceReport]


class ExportResult(Struct):
    cid: str
    path: str
    files: int
    size: int


class JobStarted(Struct):
    """A detached pull goes on in the daemon."""

    job: int


class Jobs(Struct):
    jobs: list[JobInfo]


class Removed(Struct):
    """`freed` is 0 until `gc` where other manifests still reach the bytes."""

    cid: str
    freed: int


# -- the store ------------------------------------------------------------------------------


class GcResult(Struct):
    blocks: int
    files: int
    freed: int


class ScrubResult(Struct):
    subtiles: int
    bad: int
    """Forgotten, so that repair fetches them again."""
    bytes: int
    seconds: float


# -- limits, pause, doctor, config ----------------------------------------------------------


class Limits(Struct):
    """What this daemon may take. `upload` and `download` are bytes per second, 0 for unlimited;
    `quota` bytes."""

    upload: int
    download: int
    quota: int
    max_pulls: int
    max_connections: int
    origins: dict[str, str] = {}
    """Of those that the network has a say in: `ledger INDEX`, or the owner's own setting."""


class LimitsRequest(Request):
    """Left out: unchanged. In force until the restart; what is to stay goes into the config."""

    upload: Bytes | UnsetType = UNSET
    download: Bytes | UnsetType = UNSET
    quota: Quota | UnsetType = UNSET
    max_pulls: Annotated[int, Meta(ge=1, le=MAX_PULLS_LIMIT)] | UnsetType = UNSET


class Paused(Struct):
    paused: bool


class DoctorReport(Struct):
    """The production checklist."""

    checks: list[Check]


class ConfigEntry(Struct):
    key: str
    value: Any
    origin: str
    """"default", "profile home", "/path/config.toml:12", "env SYNAPSED_NET__LISTEN", "limits"."""


class ConfigReport(Struct):
    path: str | None
    entries: list[ConfigEntry]


# -- events ---------------------------------------------------------------------------------


class EventInfo(Struct):
    """One thing that happened: `kind` is dotted (`peer.connected`), `fields` are JSON values."""

    at: float
    kind: str
    fields: dict[str, Any]


class Events(Struct):
    """The newest events, oldest of them first."""

    events: list[EventInfo]


# -- counters, for Prometheus ---------------------------------------------------------------


class Counters(Struct):
    """Totals since the start, and gauges, as the node counts them."""

    connected_in: int
    connected_out: int
    live: int
    bytes_received: int
    bytes_sent: int
    catalog: dict[str, int]
    """Live announcements by kind."""
    store: StoreUse
    pulls_active: int
    pulls_done: int
    pulls_failed: int
    faults: dict[str, int]
    """Faults of peers by name."""
    ledger: LedgerCounters | None = None
    training: TrainingCounters | None = None
    loop_lag_ms: dict[str, float] = {}
    """p50, p99 and max of the event loop's passes."""
