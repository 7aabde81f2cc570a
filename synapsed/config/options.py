"""The daemon's configuration: what may be set, and what it is unless set.

The descriptions here are the comments of the file that `synapsed init` writes; `config/load.py`
reads that file and the environment into these structs.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, TypeGuard

import msgspec
from msgspec import Meta

from synapsed.config.addresses import Address, IpText
from synapsed.config.quantities import Rate, Seconds, Size
from synapsed.paths import MAX_SOCKET_PATH

MIN_QUOTA = Size(64 << 20)
"""A quota below one small expert and its tree can hold nothing."""


class NetConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How this daemon meets others."""

    listen: Annotated[
        tuple[Address, ...],
        Meta(
            max_length=16,
            description="Where to listen. Forward this port in the router to be reached from "
            "outside; 0 lets the system choose one.",
        ),
    ] = (Address("/ip4/0.0.0.0/tcp/4817"),)
    announce: Annotated[
        tuple[Address, ...],
        Meta(
            max_length=16,
            description="What to tell others instead of where we listen: for a forwarded port or "
            "a name. Empty: the addresses that we listen on.",
        ),
    ] = ()
    bootstrap: Annotated[
        tuple[Address, ...],
        Meta(
            max_length=64,
            description="Peers to dial first, each with its /p2p/PEER-ID. Without any, mDNS and "
            "the peers remembered from last time must do.",
        ),
    ] = ()
    mdns: Annotated[bool, Meta(description="Find peers on the local network, and be found.")] = True
    dht: Annotated[bool, Meta(description="Find peers through the Kademlia table.")] = True
    target_peers: Annotated[
        int,
        Meta(
            ge=1,
            le=256,
            description="Live peers to keep. Gossip keeps a mesh of 6 (gossipsub's D); two more "
            "give it a choice.",
        ),
    ] = 8
    max_connections: Annotated[
        int,
        Meta(
            ge=1,
            le=4096,
            description="Connections in all. A home router's table and 1 MB of buffers for each "
            "connection are what this spares.",
        ),
    ] = 64
    score_interval: Annotated[
        Seconds,
        Meta(
            description="Between two looks at how useful each peer has been, 0.05 s to 10 min: "
            "who is kept, and whom gossip prefers."
        ),
    ] = Seconds(5)
    dial_from: Annotated[
        IpText,
        Meta(description="Source address of outgoing connections. Empty: the system's choice."),
    ] = IpText("")


class StoreConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept on disk."""

    quota: Annotated[
        Size,
        Meta(
            description="Disk for models. Checked before each write; a warning comes at 90 %. "
            "50 GiB hold a small mixture of experts and leave a home disk alone."
        ),
    ] = Size(50 << 30)


class LimitsConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What others may cost. `synapsectl limits` changes these while the daemon runs."""

    upload: Annotated[
        Rate,
        Meta(
            description="Model bytes sent, all peers together; 0 is unlimited. 20 Mbit/s are half "
            "of a common home uplink, so that calls and games go on."
        ),
    ] = Rate(20_000_000 // 8)
    download: Annotated[
        Rate,
        Meta(
            description="Model bytes asked for, all pulls together; 0 is unlimited, as a home "
            "line's other users get their share of what comes in."
        ),
    ] = Rate(0)
    max_pulls: Annotated[
        int,
        Meta(ge=1, le=64, description="Models pulled at a time; more wait their turn."),
    ] = 2


class LivenessConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Heartbeats."""

    interval: Annotated[
        Seconds,
        Meta(
            description="Between two heartbeats of ours, 0.1 s to 10 min. A peer counts as gone "
            "after four missed ones. Large networks stretch it by themselves."
        ),
    ] = Seconds(5)


class ReplicationConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Keeping models alive together."""

    copies: Annotated[
        int,
        Meta(
            ge=1,
            le=64,
            description="Live, proven holders that each tile should have. Three is the least at "
            "which one may die while another is busy.",
        ),
    ] = 3
    hold: Annotated[
        bool, Meta(description="Hold tiles that others announce too few of, within the quota.")
    ] = True
    repair: Annotated[
        bool, Meta(description="Fetch under-replicated tiles with nobody asking.")
    ] = True
    probe_interval: Annotated[
        Seconds,
        Meta(
            description="Between two random sub-tile probes of one holder, 1 s to 1 day. A probe "
            "costs 256 KiB: at 60 s and 50 holders that is 1.7 Mbit/s."
        ),
    ] = Seconds(60)


class LedgerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The history of what the network decided."""

    keep: Annotated[
        Literal["all", "recent"],
        Meta(
            description="Entries to keep on disk. all: from the first one on, so that everything "
            "can be proven here and served to newcomers. recent: those since the last checkpoint "
            "but one, some thousands; what they decided is kept in either case."
        ),
    ] = "all"


class CouncilConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Taking part in what the network decides. Without a genesis file there is nothing to."""

    willing: Annotated[
        bool,
        Meta(
            description="Stand for the council. A member signs for everybody, so it should be up "
            "and reachable day and night; it costs about as much as following does."
        ),
    ] = True


UpgradeMode = Literal["auto", "ask", "off"]


SlotMode = Literal["", "auto", "ask", "off"]


class SlotModes(msgspec.Struct, frozen=True, kw_only=True):
    """The owner's mode for single slots (slots/closed_list.py). Empty: what `mode` says."""

    peer_scoring: Annotated[
        SlotMode, Meta(description="With whom to keep talking. Empty: what mode says.")
    ] = ""
    tile_assignment: Annotated[
        SlotMode, Meta(description="Which peer is asked for what. Empty: what mode says.")
    ] = ""
    eviction: Annotated[
        SlotMode, Meta(description="What goes when room is needed. Empty: what mode says.")
    ] = ""
    adapter_ranking: Annotated[
        SlotMode, Meta(description="Which adapter comes first. Empty: what mode says.")
    ] = ""


class UpgradesConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Components that the network replaces by its own decision."""

    mode: Annotated[
        UpgradeMode,
        Meta(
            description="What is ratified runs here (auto), or only after "
            "`synapsectl upgrade accept` (ask), or never: then the built-in components do all "
            "(off). `synapsectl upgrade mode` changes this while the daemon runs, and is "
            "remembered."
        ),
    ] = "auto"
    allow_weaker_jail: Annotated[
        bool,
        Meta(
            description="Run upgrades although this kernel lacks a layer of the jail that they "
            "run in; `synapsectl doctor` names it. WebAssembly's own walls stand in any case."
        ),
    ] = False
    slots: SlotModes = SlotModes()


class TrainingConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Learning together. Without a genesis file there is nothing to learn."""

    serve: Annotated[
        bool,
        Meta(
            description="Serve tile groups that the ledger's draw gives this daemon: keep their "
            "deltas, and as primary apply them. Without torch it keeps them and never leads."
        ),
    ] = True
    disk: Annotated[
        Size,
        Meta(
            description="Disk for deltas, results and versions, beside store.quota: three bases "
            "of every group that is served or learned, and some rounds of deltas."
        ),
    ] = Size(20 << 30)
    beat: Annotated[
        Seconds,
        Meta(
            description="Between two heartbeats of a group's primary, 0.05 s to 1 min. A successor "
            "stands after two to three missed ones."
        ),
    ] = Seconds(1)
    clocks: Annotated[
        Seconds,
        Meta(
            description="By which clocks may be wrong, ours and the council's together: so long "
            "after its first start a daemon begins to serve groups."
        ),
    ] = Seconds(30)
    probe: Annotated[
        str,
        Meta(
            max_length=4096,
            description="A text of yours that nobody else has, as an absolute path: while this "
            "daemon has a seat in the council, a checkpoint that is surely worse on it does not "
            "hold here, however it does on the evaluation set. Empty: none.",
        ),
    ] = ""


class ComputeConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The process that computes: training, generating, measuring. It starts when it is needed."""

    threads: Annotated[
        int,
        Meta(
            ge=0,
            le=1024,
            description="Threads to compute with. 0: half of the cores, at least one.",
        ),
    ] = 0
    memory: Annotated[
        Size,
        Meta(
            description="Memory of the card that may be used, or of the machine's own where there "
            "is no card. 0: as much as there is."
        ),
    ] = Size(0)
    device: Annotated[
        str,
        Meta(
            pattern=r"^(cpu|cuda(:[0-9]{1,2})?)?\Z",
            description="Where to compute: cpu, cuda, cuda:1. Empty: the first graphics card if "
            "there is one.",
        ),
    ] = ""
    server: Annotated[
        str,
        Meta(
            max_length=MAX_SOCKET_PATH,
            description="Socket of a compute server that several daemons on this machine share. "
            "Empty: a process of our own.",
        ),
    ] = ""


class ControlConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The control socket."""

    socket: Annotated[
        str,
        Meta(
            max_length=MAX_SOCKET_PATH,
            description="Path of the Unix socket; relative ones start at the home folder. "
            "Empty: the usual place (`synapsectl` finds that by itself).",
        ),
    ] = ""


class LogConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What is written to stderr."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="The least that is logged.")
    ] = "info"
    format: Annotated[
        Literal["auto", "text", "json"],
        Meta(description="auto: text on a terminal, JSON lines elsewhere."),
    ] = "auto"


Profile = Literal["home", "server", "lab"]


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that can be set."""

    network: Annotated[
        str,
        Meta(
            pattern=r"^[a-z0-9][a-z0-9.-]{0,62}\Z",
            description="The network's id. Daemons of different networks refuse each other in the "
            "handshake.",
        ),
    ] = "main"
    profile: Annotated[
        Profile,
        Meta(
            description="home: limits that a family does not notice. server: a machine in a rack. "
            "lab: many daemons on one machine."
        ),
    ] = "home"
    net: NetConfig = NetConfig()
    store: StoreConfig = StoreConfig()
    limits: LimitsConfig = LimitsConfig()
    liveness: LivenessConfig = LivenessConfig()
    replication: ReplicationConfig = ReplicationConfig()
    ledger: LedgerConfig = LedgerConfig()
    council: CouncilConfig = CouncilConfig()
    upgrades: UpgradesConfig = UpgradesConfig()
    training: TrainingConfig = TrainingConfig()
    compute: ComputeConfig = ComputeConfig()
    control: ControlConfig = ControlConfig()
    log: LogConfig = LogConfig()


# `home` is the defaults themselves, so that nothing can forget it.
PROFILES: dict[str, dict[str, Any]] = {
    "home": {},
    # A rack has bandwidth and disk to give, and nobody plays games on it.
    "server": {
        "net.target_peers": 16,
        "net.max_connections": 512,
        "net.mdns": False,
        "store.quota": Size(1 << 40),
        "limits.upload": Rate(0),
        "limits.max_pulls": 8,
    },
    # Hundreds on one machine: quiet, quick, small, and only on loopback.
    "lab": {
        "net.listen": (Address("/ip4/127.0.0.1/tcp/0"),),
        "net.mdns": False,
        "net.dht": False,
        "store.quota": Size(4 << 30),
        "limits.upload": Rate(0),
        "limits.max_pulls": 8,
        "replication.probe_interval": Seconds(10),
        # Who stands is part of what a scenario is about.
        "council.willing": False,
        # One machine has one clock.
        "training.clocks": Seconds(0),
    },
}


class Loaded(msgspec.Struct, frozen=True):
    """A checked configuration, and where each key came from.

    `origins` maps every dotted key to `default`, `profile NAME`, `FILE:LINE` or `env NAME`.
    """

    config: Config
    origins: dict[str, str]
    path: Path | None = None

    def rows(self) -> list[tuple[str, Any, str]]:
        """(key, JSON-able value as people write it, origin) of every key."""
        return [(key, plain(value_at(self.config, key)), self.origins[key]) for key, _ in schema()]


def value_at(config: Config, key: str) -> Any:
    """The value of a dotted key."""
    value: Any = config
    for name in key.split("."):
        value = getattr(value, name)
    return value


def plain(value: Any) -> Any:
    """`value` as it would stand in the file: text for quantities, lists for tuples."""
    if isinstance(value, Size | Rate | Seconds):
        return value.text()
    if isinstance(value, tuple):
        return [plain(part) for part in value]
    return str(value) if isinstance(value, str) else value


def schema(kind: type[msgspec.Struct] = Config) -> Iterator[tuple[str, msgspec.structs.FieldInfo]]:
    """Every dotted key with its type, description and default, in the file's order."""
    for field in msgspec.structs.fields(kind):
        if is_table(field.type):
            yield from ((f"{field.name}.{key}", inner) for key, inner in schema(field.type))
        else:
            yield field.name, field


def is_table(kind: Any) -> TypeGuard[type[msgspec.Struct]]:
    """Whether a field's type is that of a table in the file."""
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)
