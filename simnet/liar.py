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

from protocols.announcement import ShardBody, compose, seal_announcement
from protocols.blocks import PROTOCOL, FetchRequest, ProveRequest, Request
from protocols.cid import parse_cid
from protocols.errors import NotHeldError
from synapsed.keys import Identity
from synapsed.models.imports import import_model
from synapsed.net import MemoryTable, Net, NetSettings, PeerBook, Verdict, open_net
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


class Liar(BlockServer):
    """Answers questions honestly, so that it is believed, and requests for bytes with a lie."""

    def __init__(self, store: Store, how: str) -> None:
        super().__init__(store, Uploads(), NoPulls(), lambda *_: None)
        self._how = how

    async def _find(self, request: Request) -> Any:
        if not isinstance(request, FetchRequest | ProveRequest):
            return await super()._find(request)
        if self._how == "lacking":
            raise NotHeldError("we never had it")
        if self._how == "silent":
            await trio.sleep_forever()
        answer, parts = await super()._find(request)
        wrong = bytearray(parts[-1])
        wrong[len(wrong) // 2] ^= 1
        return answer, [*parts[:-1], memoryview(wrong)]


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
            net.serve(PROTOCOL, Liar(store, task["how"]).handle)
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
