"""What all liars are made of: an honest daemon, and what becomes of its words.

A liar has its own keys and no others', hears what anybody sends it, and is fewer than a third.
"""

import random
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

from protocols.effects import Send
from protocols.errors import SynapseError
from protocols.ledger.chain import Head, Header, chain_hash, payload_hash, skip_index
from protocols.ledger.council import Instant, Statement, TimeOut, signed_bytes
from protocols.raft.log import Log
from protocols.raft.messages import PROTOCOL, Message, pack, unpack
from simnet.virtual.kits import Kit
from simnet.virtual.node import Node

REMEMBERED = 256
"""Frames, certificates or branches that a liar keeps."""


class Heard(NamedTuple):
    """A frame from a member."""

    peer: bytes
    data: bytes


def read(frame: bytes) -> tuple[Message | None, list[bytes]]:
    """What a member said; None where it is no message: other liars send such things."""
    try:
        return unpack(frame)
    except SynapseError:
        return None, []


class Liar:
    """A daemon, and what becomes of its words."""

    def __init__(self, node: Node, kit: Kit) -> None:
        self.node = node
        self.daemon: Any = kit.start(node)
        """Honest, with `ledger`, `replica` and the seat's `key`."""
        self.network = kit.network
        self.now = Instant(0.0, 0)
        self.rng: random.Random = node.world.chance[f"liar {node.number}"]

    # -- as a program ---------------------------------------------------------------------------

    def start(self, now: Instant) -> Sequence[object]:
        """As it begins."""
        return self._said(now, self.daemon.start(now))

    def received(self, peer: bytes, protocol: str, data: bytes, now: Instant) -> Sequence[object]:
        """What it answers, and what it adds."""
        added: list[object] = []
        self.now = now
        if protocol == PROTOCOL and self.daemon.replica is not None:
            added = self.hears(Heard(peer, data))
        if not self.takes(protocol):
            return added
        return added + self._said(now, self.daemon.received(peer, protocol, data, now))

    def heard(self, peer: bytes, kind: str, data: bytes, now: Instant) -> Sequence[object]:
        """Gossip."""
        if not self.takes(kind):
            return []
        return self._said(now, self.daemon.heard(peer, kind, data, now))

    def linked(self, peer: bytes, up: bool, now: Instant) -> Sequence[object]:
        """A connection."""
        return self._said(now, self.daemon.linked(peer, up, now))

    def alarm(self, now: Instant) -> Sequence[object]:
        """Time."""
        return self._said(now, self.daemon.alarm(now))

    def wake_at(self) -> float | None:
        """The daemon's."""
        wake: float | None = self.daemon.wake_at()
        return wake

    def _said(self, now: Instant, effects: Sequence[object]) -> list[object]:
        self.now = now
        replica = self.daemon.replica
        if replica is not None:
            # An honest seat that sees a signature of its own that it forgot signs no more.
            replica._core.vows.lost = ""
        out: list[object] = []
        for effect in effects:
            if isinstance(effect, Send) and effect.protocol == PROTOCOL:
                out += self.twist(effect)
            else:
                out.append(effect)
        return out

    # -- lies -----------------------------------------------------------------------------------

    def twist(self, send: Send) -> list[object]:
        """What goes out instead of a frame to a member."""
        return [send]

    def hears(self, heard: Heard) -> list[object]:
        """What it sends when it hears a frame, beside what its daemon answers."""
        del heard
        return []

    def takes(self, protocol: str) -> bool:
        """Whether its daemon hears of a message at all."""
        del protocol
        return True

    # -- means ----------------------------------------------------------------------------------

    def count(self, what: str) -> None:
        """That a lie was told."""
        self.node.world.tally[what] += 1

    @property
    def log(self) -> Log:
        """Its daemon's."""
        return cast(Log, self.daemon.replica._core.log)

    @property
    def leads(self) -> bool:
        """Whether it leads, as it sees it."""
        return bool(self.daemon.leading() == self.node.key.peer)

    @property
    def members(self) -> list[bytes]:
        """The other members of the council."""
        seats = self.daemon.ledger.council.seats
        return [seat.identity for seat in seats if seat.identity != self.node.key.peer]

    def sign(self, said: Statement | TimeOut) -> bytes:
        """With its seat's key."""
        signature: bytes = self.daemon.key.sign(signed_bytes(self.daemon.ledger.realm, said))
        return signature

    def says(self, peer: bytes, message: Message, parts: Sequence[bytes] = ()) -> Send:
        """A message to a member."""
        return Send(peer, PROTOCOL, pack(message, parts))


def branch(
    network: str,
    epoch: int,
    prev: Head,
    payloads: Sequence[bytes],
    hash_at: Callable[[int], bytes | None],
) -> Head | None:
    """Where a chain is after `payloads`; `hash_at` knows it up to `prev`, or nearly."""
    hashes = {prev.index: prev.hash}
    index, before = prev.index, prev.hash
    for payload in payloads:
        index += 1
        short = skip_index(index)
        skip = hashes.get(short) or hash_at(short)
        if skip is None:
            return None
        header = Header(epoch, index, before, skip, payload_hash(payload))
        before = hashes[index] = chain_hash(network, header)
    return Head(index, before)
