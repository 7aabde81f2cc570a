"""What the parts of one lineage share: who we are, where things lie, whom to ask."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec

from protocols.cid import cid_text
from protocols.learn import messages
from protocols.plan import Phase, Plan
from protocols.realm import Realm
from synapsed.compute import wire
from synapsed.ports import Identity
from synapsed.process import supervise
from synapsed.store.db import Database
from synapsed.training.blobs import Blobs
from synapsed.training.exchange import Exchange, Role
from synapsed.training.links import Links

Files = Sequence[tuple[str, Path]]


class Computing(Protocol):
    """What training asks of the compute worker (synapsed/compute/compute.py, whose words these
    are). Every method raises ComputeError."""

    async def make_versions(
        self, files: Files, group_bytes: int, groups: Sequence[int], out: Path
    ) -> tuple[wire.Version, ...]: ...

    async def aggregate(
        self,
        plan: Plan,
        number: int,
        group: int,
        base: Path,
        *,
        inputs: Sequence[tuple[Path, int]],
        out: Path,
        state: Path | None = None,
    ) -> wire.Aggregated: ...

    async def combine(
        self,
        plan: Plan,
        number: int,
        base: Path,
        inputs: Sequence[tuple[Path, int]],
        out: Path,
        *,
        carry: Path | None = None,
    ) -> wire.Combined: ...

    async def check_delta(self, base: Path, delta: Path) -> None: ...

    async def same(self, base: Path, one: Path, other: Path) -> bool: ...

    async def advance(
        self, group: int, base: Path, links: Sequence[tuple[Path, bytes]], out: Path
    ) -> wire.Version: ...

    async def write_model(
        self, files: Files, group_bytes: int, versions: Mapping[int, Path], out: Path
    ) -> None: ...

    async def load_training(
        self,
        key: bytes,
        files: Files,
        versions: Mapping[int, Path],
        data: Path,
        plan: Plan,
        *,
        seed: int,
        step: int = 0,
        state: Path | None = None,
    ) -> wire.Loaded: ...

    async def train(self, key: bytes, steps: int, phase: Phase) -> wire.Trained: ...

    async def encode(
        self, key: bytes, groups: Sequence[int], phase: Phase, folder: Path
    ) -> dict[int, wire.Blob]: ...

    async def take_back(self, key: bytes, groups: Sequence[int]) -> None: ...

    async def apply(self, key: bytes, group: int, result: Path, head: bytes) -> None: ...

    async def replace(self, key: bytes, version: wire.Version) -> None: ...

    async def save_training(self, key: bytes, path: Path) -> None: ...

    async def close_training(self, key: bytes) -> None: ...


class Post(msgspec.Struct, frozen=True, kw_only=True):
    """Shared by a lineage's groups and its learner."""

    lineage: bytes
    realm: Realm
    identity: Identity
    verify: Callable[[bytes, bytes, bytes], bool]
    blobs: Blobs
    records: Database
    links: Links
    exchange: Exchange
    compute: Computing
    emit: supervise.Emit
    blame: Callable[[bytes, str, str], None]
    spawn: Callable[..., None]
    """Starts a task of ours, which lives as long as the service."""
    attend: Callable[..., bool]
    """(peer, work, ...): a task that a peer's message began. False where it is not, beyond a
    limit: what was said is said again."""
    now: Callable[[], int]
    """Milliseconds of a clock that never goes back."""
    deliver: Callable[[bytes, messages.Said], None]
    """(peer, message): what came from a peer, or from ourselves."""
    role: Role = "replica"
    """What its bytes count for."""

    def of(self, role: Role) -> "Post":
        """The same, for a part with another role."""
        return msgspec.structs.replace(self, role=role, exchange=self.exchange.of(role))

    @property
    def me(self) -> bytes:
        """Our peer id."""
        return self.identity.peer_id

    def say(self, peer: bytes, message: messages.Said) -> None:
        """Send a message; to ourselves, too."""
        if peer == self.me:
            self.deliver(peer, message)
        else:
            self.links.say(peer, messages.PROTOCOL, messages.pack(message), self.role)

    def tell(self, kind: str, /, **fields: Any) -> None:
        """An event of this lineage."""
        self.emit(kind, model=cid_text(self.lineage), **fields)
