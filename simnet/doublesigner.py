"""A member of the council that lies, as a process of its own: `python -m simnet.doublesigner TASK`.

It stands on synapsed's own ledger and net. Whatever it acknowledges, it acknowledges something
else at the same index too; when it leads, it follows each batch with another one that ends
differently. Daemons have no switch that makes them lie.
"""

import hashlib
import json
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any

import trio

from protocols.ledger.chain import Head
from protocols.ledger.council import Kind, Statement, signed_bytes
from protocols.ledger.entries import Tick, encode_entry
from protocols.peerid import parse_peer_id
from protocols.raft.messages import PROTOCOL, Append, Signed, pack, unpack
from protocols.realm import Realm
from simnet.virtual.liar import branch
from synapsed.keys import Identity
from synapsed.ledger import genesis
from synapsed.ledger.service import Founded, LedgerService
from synapsed.ledger.store import LedgerStore, open_ledger_store
from synapsed.net import (
    MemoryTable,
    Net,
    NetSettings,
    PeerBook,
    PeerUnreachableError,
    Stream,
    open_net,
)
from synapsed.reach import Reach

REDIAL_S = 2.0
"""Between two rounds of dialling whoever is not connected."""


class Liar:
    """What it says beside the truth."""

    def __init__(self, realm: Realm, store: LedgerStore) -> None:
        self.realm = realm
        self._store = store
        self.service: LedgerService | None = None

    def with_lies(self, frame: bytes) -> list[bytes]:
        """A frame to another member, and the one that contradicts it."""
        message, payloads = unpack(frame)
        lie: bytes | None = None
        if isinstance(message, Signed) and message.said.kind is Kind.ACK:
            lie = self._another_ack(message.said)
        elif isinstance(message, Append):
            lie = self._another_batch(message, payloads)
        return [frame] if lie is None else [frame, lie]

    def _sign(self, said: Statement) -> bytes:
        return self._store.key.sign(signed_bytes(self.realm, said))

    def _another_ack(self, said: Statement) -> bytes:
        name = hashlib.sha256(said.hash).digest()
        lie = Statement(said.kind, said.epoch, said.term, said.index, name)
        return pack(Signed(lie, self._sign(lie)))

    def _another_batch(self, append: Append, payloads: list[bytes]) -> bytes | None:
        assert self.service is not None
        replica = self.service.machine.replica
        if replica is None:
            return None
        instead = [*payloads[:-1], encode_entry(Tick(time=int(time.time() * 1000) + 1))]
        hash_at = replica._core.log.hash_at
        end: Head | None = branch(self.realm.network, append.epoch, append.prev, instead, hash_at)
        if end is None:
            return None
        said = Statement(Kind.ACK, append.epoch, append.term, end.index, end.hash)
        lengths = [len(payload) for payload in instead]
        lie = Append(append.epoch, append.term, append.prev, self._sign(said), lengths)
        return pack(lie, instead)


class LyingStream:
    """A stream to another member: the truth, and a lie behind it."""

    def __init__(self, stream: Stream, liar: Liar) -> None:
        self._stream = stream
        self._liar = liar

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    async def write_frames(
        self,
        frames: Sequence[bytes],
        *,
        timeout: float | None = None,
    ) -> None:
        """Send frames, and what contradicts them."""
        said = [part for frame in frames for part in self._liar.with_lies(frame)]
        await self._stream.write_frames(said, timeout=timeout)


class LyingNet:
    """synapsed's net, with lies on the streams between members."""

    def __init__(self, net: Net, liar: Liar) -> None:
        self._net = net
        self._liar = liar

    def __getattr__(self, name: str) -> Any:
        return getattr(self._net, name)

    @asynccontextmanager
    async def open_stream(self, peer: bytes, protocol: str) -> AsyncIterator[Any]:
        """A stream to `peer`."""
        async with self._net.open_stream(peer, protocol) as stream:
            yield LyingStream(stream, self._liar) if protocol == PROTOCOL else stream


async def lie(task: dict[str, Any]) -> None:
    """Lie until killed."""
    identity = Identity(bytes.fromhex(task["seed"]))
    settings = NetSettings(
        listen=(task["listen"],), announce=(task["announce"],), dial_from=task["dial_from"]
    )
    payload = genesis.load(Path(task["genesis"]))
    book = PeerBook(MemoryTable())
    peers = {parse_peer_id(text): address for text, address in task["peers"].items()}
    with closing(open_ledger_store(Path(task["ledger"]), _tell)) as store:
        async with open_net(settings, identity, task["network"], book, _silent) as net:
            reach = Reach(net)
            for peer, address in peers.items():
                net.learned(peer, [address])
            liar = Liar(genesis.realm_of(payload), store)
            lying: Any = LyingNet(net, liar)
            founded = Founded(payload, store)
            liar.service = LedgerService(lying, reach.connect, identity, founded, _tell)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(liar.service.run)
                nursery.start_soon(_dial, net, reach, list(peers))
                print("lying", flush=True)


async def _dial(net: Net, reach: Reach, peers: Sequence[bytes]) -> None:
    """Be connected to everybody."""

    async def one(peer: bytes) -> None:
        with suppress(PeerUnreachableError):  # it is down, or it dials us
            await reach.connect(peer)

    while True:
        async with trio.open_nursery() as nursery:
            for peer in peers:
                if net.peer(peer) is None:
                    nursery.start_soon(one, peer)
        await trio.sleep(REDIAL_S)


def _tell(kind: str, /, **fields: Any) -> None:
    """What happens to it, for its log."""
    print(kind, fields, file=sys.stderr, flush=True)


def _silent(*_: Any, **__: Any) -> None:
    """The net's own events are of no interest."""


if __name__ == "__main__":
    trio.run(lie, json.loads(sys.argv[1]))
