"""A liar, as a process of its own: `python -m simnet.liar TASK`, TASK as simnet/liars.py writes it.

It stands on synapsed's own net and blocks protocol, says that it holds a whole model, and then
serves wrong bytes, or nothing, or never answers. Daemons have no switch that makes them lie.
"""

import json
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import trio

from protocols.cid import parse_cid
from protocols.codec import encode
from protocols.gossip.announcement import ShardBody, compose, seal_announcement
from protocols.tensors.blocks import PROTOCOL, FetchRequest, ProveRequest, Refusal, decode_request
from synapsed.keys import Identity
from synapsed.models.imports import import_model
from synapsed.net import MemoryTable, Net, NetSettings, PeerBook, Stream, Verdict, open_net
from synapsed.store import Store
from synapsed.transfer.limits import Uploads
from synapsed.transfer.serve import BlockServer

QUOTA = 4 << 30
REPEAT_S = 5.0
"""Between two announcements of the same lie: whoever connects later hears it too."""

LIFETIME_MS = 600_000


class NoPulls:
    """A liar pulls nothing."""

    def wants(self, _root: bytes) -> None:
        """None: not being pulled."""

    def asked(self, _peer: bytes, _roots: Sequence[bytes]) -> None:
        """Of no interest."""


class LyingStream:
    """A stream on which an honest server's answers to requests for bytes become lies.

    Questions are answered as they are, so that the liar is believed.
    """

    def __init__(self, stream: Stream, how: str) -> None:
        self._stream = stream
        self._how = how
        self._lying = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    async def read_frame(self, limit: int, *, timeout: float | None = None) -> bytes:
        """The next request that the server is to answer."""
        while True:
            frame = await self._stream.read_frame(limit, timeout=timeout)
            self._lying = isinstance(decode_request(frame), FetchRequest | ProveRequest)
            if not self._lying or self._how == "wrong-bytes":
                return frame
            if self._how == "silent":
                await trio.sleep_forever()
            await self._stream.write_frame(encode(Refusal(code="not-held")))

    async def write(self, data: memoryview, *, timeout: float | None = None) -> None:
        """What follows an answer: with one bit flipped, if it is bytes that were asked for."""
        said = bytearray(data)
        if self._lying:
            said[len(said) // 2] ^= 1
        await self._stream.write(memoryview(said), timeout=timeout)


async def lie(task: dict[str, Any]) -> None:
    """Lie until killed."""
    identity = Identity(bytes.fromhex(task["seed"]))
    network = task["network"]
    work = Path(task["work"])
    work.mkdir()
    with closing(Store.open(work / "store", QUOTA)) as store:
        await trio.to_thread.run_sync(import_model, store, Path(task["model"]), task["name"])
        settings = NetSettings(
            listen=(task["listen"],), announce=(task["announce"],), dial_from=task["dial_from"]
        )
        book = PeerBook(MemoryTable())
        async with open_net(settings, identity, network, book, lambda *_, **__: None) as net:
            server: Any = BlockServer(store, Uploads(), NoPulls(), lambda *_: None)
            net.serve(PROTOCOL, lambda stream: server.handle(LyingStream(stream, task["how"])))
            topic = f"/synapse/{network}/shard/1"
            net.subscribe(topic, lambda *_: Verdict.ACCEPT, _forget)
            for address in task["bootstrap"]:
                await net.connect(address)
            await _announce(net, identity, topic, task)


async def _forget(_peer: bytes, _data: bytes) -> None:
    """Liars do not listen."""


async def _announce(net: Net, identity: Identity, topic: str, task: dict[str, Any]) -> None:
    body = ShardBody(model=parse_cid(task["cid"]), tiles=((0, task["tiles"]),))
    said = False
    while True:
        now = int(time.time() * 1000)
        announcement = compose(
            body, issuer=identity.peer_id, seq=now, issued=now, expires=now + LIFETIME_MS
        )
        envelope = seal_announcement(
            announcement, task["network"], identity.public_key, identity.sign
        )
        await net.publish(topic, envelope)
        if not said:
            print("lying", flush=True)
            said = True
        await trio.sleep(REPEAT_S)


if __name__ == "__main__":
    trio.run(lie, json.loads(sys.argv[1]))
