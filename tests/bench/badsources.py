"""Hostile holders: models whose headers, layouts and answers are lies, offered to a puller.

The trees are made properly over what is hostile, so that hashes alone do not refuse it. Each
lure is announced, and the daemon is asked to pull it; what it must answer is a typed error.
"""

import itertools
import json
import struct
import time
from collections.abc import Callable
from contextlib import suppress

import msgspec
import trio

from protocols.cid import cid_of, cid_text
from protocols.codec import encode
from protocols.errors import SynapseError
from protocols.gossip.announcement import ShardBody, compose, seal_announcement
from protocols.manifest import FileRef, ModelManifest, encode_manifest
from protocols.tensors.blocks import (
    MAX_REQUEST,
    PROTOCOL,
    BlockRequest,
    Bytes,
    HaveRequest,
    Holding,
    Holdings,
    LayoutRequest,
    Shape,
    decode_request,
)
from protocols.tensors.tensorblock import Layout, file_root, hash_run, section_node
from synapsed.control.client import DaemonError
from synapsed.control.models import PullRequest, PullResult
from synapsed.hashing import HASHER
from synapsed.keys import SEED_LENGTH, Identity
from synapsed.net import (
    MemoryTable,
    Net,
    NetError,
    NetSettings,
    PeerBook,
    Stream,
    Verdict,
    open_net,
)
from tests.bench.attacks import NETWORK, Draw, Target, many

TOPIC = f"/synapse/{NETWORK}/shard/1"
LURES = 100
LURES_EACH = 4
"""By one identity: what it offers costs it its score, and then nobody asks it any more."""

AT_ONCE = 6
"""Hostile holders at a time; the daemon pulls eight models at once."""

ANNOUNCE_PATIENCE_S = 5.0
PULL_PATIENCE_S = 2.0
"""A puller whose only source lied waits for others for a minute; we do not."""

SIZE = 1 << 20


class Lure(msgspec.Struct):
    """One model on offer."""

    cid: bytes
    manifest: bytes
    root: bytes
    header: bytes
    nodes: bytes
    lie: str  # in the header, or one of WIRE_LIES


_hosts = itertools.count()

WIRE_LIES = ("flipped-node", "endless", "cut", "garbage", "wrong-answer", "too-many")


def _tensors(draw: Draw, **fields: object) -> bytes:
    good = {"dtype": "F32", "shape": [1000], "data_offsets": [0, 4000]}
    return json.dumps({"a": good | fields, "b": good | {"data_offsets": [4000, 8000]}}).encode()


HEADERS: tuple[Callable[[Draw], bytes], ...] = (
    lambda draw: draw.randbytes(300),
    lambda _: b"[" * 20_000,
    lambda _: b'{"a":' * 5_000,
    lambda _: b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}' * 2,
    lambda _: b'{"a": 1, "a": 2}',
    lambda draw: _tensors(draw, data_offsets=[2000, 6000]),
    lambda draw: _tensors(draw, data_offsets=[0, 1 << 62]),
    lambda draw: _tensors(draw, data_offsets=[-4, 4000]),
    lambda draw: _tensors(draw, data_offsets=[4000, 0]),
    lambda draw: _tensors(draw, shape=[1 << 62, 1 << 62]),
    lambda draw: _tensors(draw, shape=[-1]),
    lambda draw: _tensors(draw, shape=[1.5]),
    lambda draw: _tensors(draw, shape=[1] * 5000),
    lambda draw: _tensors(draw, dtype="PICKLE"),
    lambda draw: _tensors(draw, dtype=7, extra="x" * 10_000),
    lambda _: json.dumps({"__metadata__": {"a": [1, 2]}}).encode(),
    lambda _: json.dumps({f"t{i}": {} for i in range(20_000)}).encode(),
    lambda _: b"\xef\xbb\xbf{}",
    lambda _: b'{"\xff": 1}',
    lambda _: b"1e999999999",
    lambda _: b'{"a": ' + b"9" * 20_000 + b"}",
    lambda _: b"",
)


def make_lure(draw: Draw) -> Lure:
    """A model with one file, whose tree is sound and whose header is not."""
    text = draw.choice(HEADERS)(draw)
    length = draw.choice((len(text), len(text), len(text), 0, 1 << 63, (1 << 64) - 1))
    header = struct.pack("<Q", length) + text
    layout = Layout.flat(len(header))
    hashes = hash_run(HASHER, layout, 0, layout.leaf_count, header)
    nodes = [section_node(HASHER, layout.sections[0], hashes), *(draw.randbytes(32) for _ in "ab")]
    root = file_root(HASHER, SIZE, nodes)
    size = draw.choice((SIZE, SIZE, SIZE, 0, 1 << 42))
    ref = FileRef(path="model.safetensors", size=size, root=root, layout="safetensors")
    name = f"lure {draw.randrange(1 << 60)}"
    manifest = encode_manifest(
        ModelManifest(name=name, description="", files=(ref,), depends_on=())
    )
    lie = draw.choice(("header", "header", *WIRE_LIES))
    return Lure(cid_of(manifest), manifest, root, header, b"".join(nodes), lie)


class BadSource:
    """Serves lures over the blocks protocol, with whatever lie each has."""

    def __init__(self, lures: list[Lure], draw: Draw) -> None:
        self.lures = lures
        self.asked = 0  # layouts that were asked for and lied about
        self._by_cid = {lure.cid: lure for lure in lures}
        self._by_root = {lure.root: lure for lure in lures}
        self._draw = draw

    async def handle(self, stream: Stream) -> None:
        """Answer requests until the other side has had enough."""
        try:
            while True:
                request = decode_request(await stream.read_frame(MAX_REQUEST))
                if isinstance(request, HaveRequest):
                    whole = Holding(held=(), complete=True, pulling=False, wants=())
                    files = tuple(whole for _ in request.roots)
                    await stream.write_frame(encode(Holdings(files=files)))
                elif isinstance(request, BlockRequest):
                    data = self._by_cid[request.cid].manifest
                    await stream.write_frame(encode(Bytes(length=len(data))))
                    await stream.write(data)
                elif isinstance(request, LayoutRequest):
                    await self._layout(stream, self._by_root[request.root])
                else:
                    await stream.write(self._draw.randbytes(1000))
        except (NetError, SynapseError, KeyError):
            return

    async def _layout(self, stream: Stream, lure: Lure) -> None:
        self.asked += 1
        nodes = lure.nodes
        if lure.lie == "garbage":
            await stream.write(self._draw.randbytes(5000))
            return
        if lure.lie == "wrong-answer":
            await stream.write_frame(encode(Bytes(length=8)))
            await stream.write(bytes(8))
            return
        if lure.lie == "flipped-node":
            nodes = nodes[:-1] + bytes((nodes[-1] ^ 1,))
        if lure.lie == "too-many":
            nodes *= 1000
        header = len(lure.header)
        length = header + len(nodes) + (32 << 15 if lure.lie == "endless" else 0)
        shape = Shape(length=length, header=header, size=SIZE, layout="safetensors")
        await stream.write_frame(encode(shape))
        body = lure.header + nodes
        await stream.write(body[: len(body) // 2] if lure.lie == "cut" else body)


async def hostile_sources(target: Target, draw: Draw, share: float) -> int:
    """Pulls of models whose only holder lies about their shape; counts those it was asked for."""

    async def one(number: int) -> int:
        source = BadSource([make_lure(draw) for _ in range(LURES_EACH)], draw)
        identity = Identity(draw.randbytes(SEED_LENGTH))
        settings = NetSettings(
            listen=("/ip4/127.0.0.1/tcp/0",), dial_from=f"127.80.{next(_hosts)}.{number + 1}"
        )
        book = PeerBook(MemoryTable())
        async with open_net(settings, identity, NETWORK, book, lambda *_, **__: None) as net:
            net.serve(PROTOCOL, source.handle)
            net.subscribe(TOPIC, lambda *_: Verdict.ACCEPT, _forget)
            for lure in source.lures:
                await _lure(target, net, identity, lure)
        return source.asked

    return await many(LURES // LURES_EACH, share, AT_ONCE, one)


async def _lure(target: Target, net: Net, identity: Identity, lure: Lure) -> None:
    cid = cid_text(lure.cid)
    with suppress(NetError, DaemonError):
        await net.connect(target.daemon.address)
        with trio.move_on_after(ANNOUNCE_PATIENCE_S):
            await net.publish(TOPIC, _announcement(identity, lure))
            while not await target.daemon.announcements(subject=cid):
                await trio.sleep(0.1)
        with trio.move_on_after(PULL_PATIENCE_S):
            await target.daemon.client.work(
                f"/v1/models/{cid}/pull", PullResult, PullRequest(), lambda _: None
            )
            raise AssertionError(f"a lie of the kind {lure.lie} was pulled")


async def _forget(_peer: bytes, _data: bytes) -> None:
    """Hostile holders do not listen."""


def _announcement(identity: Identity, lure: Lure) -> bytes:
    now = int(time.time() * 1000)
    body = ShardBody(model=lure.cid, tiles=((0, 1),))
    said = compose(body, issuer=identity.peer_id, seq=now, issued=now, expires=now + 60_000)
    return seal_announcement(said, NETWORK, identity.public_key, identity.sign)
