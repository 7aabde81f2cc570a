"""What the tests of announcements, catalogs, heartbeats and replication share."""

import hashlib
from typing import Any

from protocols.cid import cid_of
from protocols.envelope import Sign, Verify
from protocols.gossip.announcement import (
    AdapterBody,
    Announcement,
    BenchmarkClaim,
    Body,
    DatasetBody,
    KernelBody,
    ProposalBody,
    ShardBody,
    UpgradeBody,
    compose,
    seal_announcement,
)
from protocols.gossip.catalog import Catalog, CatalogLimits
from protocols.peerid import peer_id_of
from synapsed.keys import Identity, verify

NETWORK = "test"
NOW = 1_800_000_000.0
NOW_MS = int(NOW * 1000)
HOUR = 3600 * 1000


def cid(name: str) -> bytes:
    """Some content id."""
    return cid_of(name.encode())


class MacIdentity:
    """An identity whose signatures are MACs, which only this test process can make: 20 times
    quicker than Ed25519, for simulations of many daemons."""

    def __init__(self, name: str) -> None:
        self.public_key = hashlib.sha256(name.encode()).digest()
        self.peer_id = peer_id_of(self.public_key)

    def sign(self, message: bytes) -> bytes:
        return mac(self.public_key, message)


def mac(key: bytes, message: bytes) -> bytes:
    return hashlib.sha512(b"the simulator's secret" + key + message).digest()


def mac_verify(key: bytes, message: bytes, signature: bytes) -> bool:
    return mac(key, message) == signature


def identity(number: int) -> Identity:
    return Identity(bytes([number]) * 32)


def shard(model: str = "model", tiles: tuple[tuple[int, int], ...] = ((0, 4),)) -> ShardBody:
    return ShardBody(model=cid(model), tiles=tiles)


def bodies() -> list[Body]:
    """One of each kind."""
    claim = BenchmarkClaim(metric="time", unit="us", value=1500, baseline=2750)
    return [
        shard(),
        AdapterBody(adapter=cid("lora"), base=cid("model"), name="fr", rank=8, size=1 << 20),
        KernelBody(
            kernel=cid("k"), operation="swiglu", architecture="x86-64-v3", benchmark=claim, size=9
        ),
        UpgradeBody(upgrade=cid("u"), slot="eviction", size=20_000),
        DatasetBody(dataset=cid("d"), name="Some text", size=1_000_000),
        ProposalBody(proposal=cid("p"), title="Raise R to 4"),
    ]


def announce(who: Identity | MacIdentity, body: Body | None = None, **changes: Any) -> Announcement:
    """A valid announcement by `who`, with some fields changed."""
    fields: dict[str, Any] = {
        "issuer": who.peer_id,
        "seq": NOW_MS,
        "issued": NOW_MS,
        "expires": NOW_MS + HOUR,
        "withdrawn": False,
    }
    return compose(body or shard(), **(fields | changes))


def sealed(
    who: Identity | MacIdentity, body: Body | None = None, network: str = NETWORK, **changes: Any
) -> bytes:
    """The envelope of `announce(...)`."""
    said = announce(who, body, **changes)
    return seal_announcement(said, network, who.public_key, who.sign)


def catalog(
    who: Identity | MacIdentity, limits: CatalogLimits | None = None, check: Verify | None = None
) -> Catalog:
    """An empty catalog of `who`."""
    sign: Sign = who.sign
    checked = mac_verify if isinstance(who, MacIdentity) else verify
    return Catalog(NETWORK, who.public_key, sign, check or checked, limits)
